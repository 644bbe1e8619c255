// Philox4x32-10 (base/philox.c says the rest), written out so that loops over counters vectorise; and the
// uniform numbers of zg_loop_random (sched/loop.h), four to a counter.
#pragma once
#include <stdint.h>
#include <string.h>

typedef struct {
  uint32_t k0, k1, step, stream;
} r_key;

#define R_ROUND                                                                      \
  {                                                                                  \
    const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2; \
    c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;        \
    c1 = (uint32_t)p1, c3 = (uint32_t)p0;                                            \
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;                                            \
  }
// The upper 24 bits of all four words of a counter.
static inline void r_words(uint64_t n, r_key k, int32_t *w0, int32_t *w1, int32_t *w2, int32_t *w3) {
  uint32_t c0 = (uint32_t)n, c1 = (uint32_t)(n >> 32), c2 = k.step, c3 = k.stream, k0 = k.k0, k1 = k.k1;
  R_ROUND R_ROUND R_ROUND R_ROUND R_ROUND R_ROUND R_ROUND R_ROUND R_ROUND R_ROUND *w0 = (int32_t)(c0 >> 8);
  *w1 = (int32_t)(c1 >> 8);
  *w2 = (int32_t)(c2 >> 8);
  *w3 = (int32_t)(c3 >> 8);
}
#undef R_ROUND

static inline float r_uniform(uint64_t element, r_key k) {
  int32_t w0, w1, w2, w3;
  r_words(element / 4, k, &w0, &w1, &w2, &w3);
  const int32_t lo = element & 1 ? w1 : w0, hi = element & 1 ? w3 : w2;
  return (float)(element & 2 ? hi : lo) * 0x1p-24f;
}

// The 64 numbers of 16 counters. (Element numbers wrap at 2^64, counters then at 2^62.)
static inline void r_sixteen(uint64_t n, r_key k, float *out) {
  for (int g = 0; g < 16; g++) {
    int32_t w0, w1, w2, w3;
    r_words((n + (uint64_t)g) & UINT64_MAX >> 2, k, &w0, &w1, &w2, &w3);
    out[4 * g] = (float)w0 * 0x1p-24f, out[4 * g + 1] = (float)w1 * 0x1p-24f;
    out[4 * g + 2] = (float)w2 * 0x1p-24f, out[4 * g + 3] = (float)w3 * 0x1p-24f;
  }
}

// The numbers of n elements, from `first` on.
static inline void r_uniform_run(int64_t n, float *dst, uint64_t first, r_key k) {
  float some[64];
  for (int64_t at = 0; at < n;) {
    const int64_t skip = (int64_t)((first + (uint64_t)at) & 3), m = n - at < 64 - skip ? n - at : 64 - skip;
    r_sixteen((first + (uint64_t)at) / 4, k, some);
    memcpy(dst + at, some + skip, (size_t)m * sizeof *dst);
    at += m;
  }
}
