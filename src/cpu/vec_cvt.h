// Element conversions in branch-free C that vectorises. bf16 and f16 round to nearest even and keep NaNs NaN.
#pragma once
#include "cpu/vec_math.h"

static inline float c_from_bf16(uint16_t x) { return m_float((uint32_t)x << 16); }
static inline uint16_t c_to_bf16(float x) {
  const uint32_t u = m_bits(x), r = (u + 0x7FFFu + (u >> 16 & 1)) >> 16;
  return (uint16_t)(x != x ? u >> 16 | 0x40u : r);
}

// f16 to f32: shift the fields into place; multiplying by 2^112 rebiases the exponent, of denormals too.
static inline float c_from_f16(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7FFF) << 13;
  const float scaled = m_float(rest) * 0x1p112f;
  const uint32_t special = rest | 0x7F800000u;               // infinity and NaN
  return m_float(sign | (rest >= 0x0F800000u ? special : m_bits(scaled)));
}

// f32 to f16: normal results by integer rounding; denormal ones by an addition that leaves the right bits at the bottom.
static inline uint16_t c_to_f16(float x) {
  const uint32_t u = m_bits(x), sign = u >> 16 & 0x8000u, a = u & 0x7FFFFFFFu;
  const uint32_t normal = (a + 0xC8000FFFu + (a >> 13 & 1)) >> 13;           // rebias by -112, round to even
  const uint32_t denormal = m_bits(m_float(a) + 0.5f) - 0x3F000000u;
  uint32_t r = a < 0x38800000u ? denormal : normal;
  r = a >= 0x477FF000u ? 0x7C00u : r;                        // 65520 and beyond
  r = a > 0x7F800000u ? 0x7E00u : r;
  return (uint16_t)(sign | r);
}

// Truncation; out of range gives the nearest end, NaN gives 0.
static inline int64_t c_to_i64(double x) {
  if (!(x > -9223372036854775808.0)) return x != x ? 0 : INT64_MIN;
  return x >= 9223372036854775808.0 ? INT64_MAX : (int64_t)x;
}
