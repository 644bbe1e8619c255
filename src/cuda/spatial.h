// Geometry of convolution and pooling windows as text; any rank brought to three dims (leading ones added in
// front).
#pragma once
#include "cuda/emit.h"

typedef struct {
  int64_t in[3], out[3], ker[3], stride[3], pad[3], pad_end[3], dil[3], n_in, n_out, n_ker;
} zg__spatial;

zg__spatial zg__spatial_make(int64_t n, const int64_t *in, const int64_t *out, const int64_t *ker,
                             const int64_t *stride, const int64_t *pad, const int64_t *pad_end,
                             const int64_t *dil);
// Declares `tap`, the flat input place under output place p and kernel place q (names of variables), and
// `inside`: it is no padding.
void zg__spatial_put_tap(const zg__spatial *s, zg_str *out, const char *p, const char *q);
// Declares `win`, the flat output place whose kernel place q lies on input place t, and `inside`: there is
// one.
void zg__spatial_put_window(const zg__spatial *s, zg_str *out, const char *t, const char *q);
