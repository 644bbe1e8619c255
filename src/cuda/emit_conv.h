// Convolutions as the emitters see them.
#pragma once
#include "cuda/spatial.h"

typedef enum { ZG__CONV, ZG__CONV_GRAD_X, ZG__CONV_GRAD_W } zg__conv_way;
typedef struct {
  const zg_kernel *k;
  zg__conv_way way;
  uint32_t ix, iw, iy;             // numbers of the arguments that are images, weights, results of the forward way
  zg_spatial s;
  int64_t n, c, o, group, cg, og;  // images, channels; groups, channels of a group
  int64_t size;                    // bytes of an operand's element
  zg__image x, y;
} zg__conv;
zg__conv zg__conv_of(const zg_kernel *k);

// In f32, bf16 and f16: tiles (emit_conv.c), and convolutions of few channels a group, an element at a time (emit_conv_direct.c).
bool zg__conv_takes(const zg_kernel *k);
zg_status zg__emit_conv_tiles(const zg_kernel *k, const zg__target *t, zg__code *out);
bool zg__conv_is_direct(const zg_kernel *k);
zg_status zg__emit_conv_direct(const zg_kernel *k, const zg__target *t, zg__code *out);
