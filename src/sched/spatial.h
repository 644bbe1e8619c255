// Geometry of convolution and pooling windows for devices: any rank of one to three brought to three dims, leading ones added in front.
#pragma once
#include <stdbool.h>
#include <stdint.h>

// in, out, ker: places of input, output and kernel, n_*: their products; a tap of output place o and kernel place k lies on input place
// o * stride + k * dil - pad of each dim.
typedef struct { int64_t in[3], out[3], ker[3], stride[3], pad[3], pad_end[3], dil[3], n_in, n_out, n_ker; } zg_spatial;

// All arrays have n (1 to 3) entries.
static inline zg_spatial zg_spatial_make(int64_t n, const int64_t *in, const int64_t *out, const int64_t *ker, const int64_t *stride,
                                       const int64_t *pad, const int64_t *pad_end, const int64_t *dil) {
  zg_spatial s = {.n_in = 1, .n_out = 1, .n_ker = 1};
  for (int64_t i = 0; i < 3; i++) {
    const int64_t j = i - (3 - n);
    const bool real = j >= 0;
    s.in[i] = real ? in[j] : 1, s.out[i] = real ? out[j] : 1, s.ker[i] = real ? ker[j] : 1;
    s.stride[i] = real ? stride[j] : 1, s.dil[i] = real ? dil[j] : 1;
    s.pad[i] = real ? pad[j] : 0, s.pad_end[i] = real ? pad_end[j] : 0;
    s.n_in *= s.in[i], s.n_out *= s.out[i], s.n_ker *= s.ker[i];
  }
  return s;
}
