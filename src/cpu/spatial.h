// The runs of places that a window's taps visit.
#pragma once
#include "cpu/cpu.h"
#include "sched/spatial.h"

// Output places o in [*lo, *hi) of dim d whose tap k lies inside the input; the tap of o is at o * stride + *shift.
static inline void spatial_range(const zg_spatial *s, int d, int64_t k, int64_t *lo, int64_t *hi, int64_t *shift) {
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
