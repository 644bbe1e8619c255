// Geometry of convolution and pooling windows, any rank brought to three dims (leading ones added in front).
#pragma once
#include "cpu/cpu.h"

typedef struct { int64_t in[3], out[3], ker[3], stride[3], pad[3], pad_end[3], dil[3], n_in, n_out, n_ker; } spatial;

static inline spatial spatial_make(int64_t n, const int64_t *in, const int64_t *out, const int64_t *ker, const int64_t *stride,
                                   const int64_t *pad, const int64_t *pad_end, const int64_t *dil) {
  spatial s = {.n_in = 1, .n_out = 1, .n_ker = 1};
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

// Output places o in [*lo, *hi) of dim d whose tap k lies inside the input; the tap of o is at o * stride + *shift.
static inline void spatial_range(const spatial *s, int d, int64_t k, int64_t *lo, int64_t *hi, int64_t *shift) {
  const int64_t st = s->stride[d], off = k * s->dil[d] - s->pad[d];
  *shift = off;
  *lo = off >= 0 ? 0 : (-off + st - 1) / st;
  const int64_t room = s->in[d] - 1 - off;
  *hi = room < 0 ? 0 : ZG_MIN(room / st + 1, s->out[d]);
  *lo = ZG_MIN(*lo, *hi);
}

// Visits, for kernel place k, all runs along the last dim of (output place, input place) pairs: the body sees o, x (flat places of the
// first pair), n (pairs), sx (input step; the output step is 1).
#define SPATIAL_RUNS(s, k, ...)                                                              \
  do {                                                                                       \
    int64_t lo0, hi0, f0, lo1, hi1, f1, lo2, hi2, f2;                                        \
    const int64_t k2 = (k) % (s)->ker[2], k1 = (k) / (s)->ker[2] % (s)->ker[1], k0 = (k) / (s)->ker[2] / (s)->ker[1]; \
    spatial_range(s, 0, k0, &lo0, &hi0, &f0);                                                \
    spatial_range(s, 1, k1, &lo1, &hi1, &f1);                                                \
    spatial_range(s, 2, k2, &lo2, &hi2, &f2);                                                \
    for (int64_t o0 = lo0; o0 < hi0; o0++)                                                   \
      for (int64_t o1 = lo1; o1 < hi1; o1++) {                                               \
        const int64_t o = (o0 * (s)->out[1] + o1) * (s)->out[2] + lo2, n = hi2 - lo2, sx = (s)->stride[2]; \
        const int64_t x = ((o0 * (s)->stride[0] + f0) * (s)->in[1] + o1 * (s)->stride[1] + f1) * (s)->in[2] + lo2 * sx + f2; \
        __VA_ARGS__                                                                              \
      }                                                                                      \
  } while (0)
