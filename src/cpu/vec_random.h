// Philox4x32-10 (base/philox.c says the rest), written out so that loops over elements vectorise.
#pragma once
#include <stdint.h>

#define R_ROUND                                                                      \
  {                                                                                  \
    const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2; \
    c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;        \
    c1 = (uint32_t)p1, c3 = (uint32_t)p0;                                            \
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;                                            \
  }

// The upper 24 bits of words 0 and 1 of counter {element, step, stream} under the key {k0, k1}.
static inline void r_words(uint64_t element, uint32_t k0, uint32_t k1, uint32_t step, uint32_t stream,
                           int32_t *w0, int32_t *w1) {
  uint32_t c0 = (uint32_t)element, c1 = (uint32_t)(element >> 32), c2 = step, c3 = stream;
  R_ROUND R_ROUND R_ROUND R_ROUND R_ROUND R_ROUND R_ROUND R_ROUND R_ROUND R_ROUND *w0 = (int32_t)(c0 >> 8);
  *w1 = (int32_t)(c1 >> 8);
}
#undef R_ROUND
