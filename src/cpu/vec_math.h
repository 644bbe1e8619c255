// Single-precision functions in plain C without branches, so that the compiler makes vector code of loops over them at any
// instruction-set level, without -ffast-math. Infinities, NaNs, zeros and denormals follow libm. Error bounds, in units in the last
// place, over all inputs (tests/cpu/math_test.c): exp 1.5, log 1.5, log1p 2.5, tanh 2, erf 3, sigmoid 3, silu 3.5, softplus 4;
// gelu and gelu_tanh 10 ulp of max(|result|, |x| 2^-6); derivatives 2e-6. Sigmoid and silu give 0 where the result is denormal.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t m_bits(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  return u;
}
static inline float m_float(uint32_t u) {
  float x;
  memcpy(&x, &u, 4);
  return x;
}
static inline float m_select(int cond, float x, float y) { return cond ? x : y; }

// e^x. x = n ln 2 + r, |r| <= ln 2 / 2; e^r by a polynomial; 2^n in two factors, so that denormal and overflowing results come out.
// n is rounded by adding 1.5 * 2^23, whose low mantissa bits then hold it.
static inline float m_exp(float x) {
  x = x > 89.0f ? 89.0f : x;
  x = x < -104.5f ? -104.5f : x;
  const float big = 12582912.0f, t = x * 1.44269504f + big, n = t - big;
  float r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 1.98412698e-4f;
  p = p * r + 1.39304355e-3f;
  p = p * r + 8.33335668e-3f;
  p = p * r + 4.16664853e-2f;
  p = p * r + 1.66666665e-1f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  const int32_t i = (int32_t)(m_bits(t) - 0x4B400000u), half = i >> 1;
  return p * m_float((uint32_t)(half + 127) << 23) * m_float((uint32_t)(i - half + 127) << 23);
}

// log x = e ln 2 + log m, m in [sqrt 1/2, sqrt 2): log(1 + f) = f - f^2/2 + f^3 P(f).
static inline float m_log(float x) {
  const int tiny = x < 1.17549435e-38f;
  const float y = x * (tiny ? 8388608.0f : 1.0f);
  const uint32_t u = m_bits(y) - 0x3F3504F3u;               // mantissa relative to sqrt 1/2
  const float e = (float)((int32_t)u >> 23) - (tiny ? 23.0f : 0.0f);
  const float f = m_float((u & 0x7FFFFFu) + 0x3F3504F3u) - 1.0f, z = f * f;
  float p = 7.0376836292e-2f;
  p = p * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  float r = f * z * p + e * -2.12194440e-4f - 0.5f * z + f + e * 0.693359375f;
  r = x == INFINITY ? x : r;
  r = x == 0.0f ? -INFINITY : r;
  return !(x >= 0.0f) ? NAN : r;
}

// log(1 + x): u = 1 + x rounded; log u plus what the rounding lost over u.
static inline float m_log1p(float x) {
  const float u = 1.0f + x, lost = x - (u - 1.0f), l = m_log(u);
  const float r = l + lost / u;
  const float s = (u == INFINITY) | (u == 0.0f) ? l : r;
  return x == 0.0f ? x : s;
}

static inline float m_tanh(float x) {
  const float a = fabsf(x), z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const float small = p * z * x + x, big = 1.0f - 2.0f / (m_exp(2.0f * a) + 1.0f);
  const float r = a < 0.625f ? small : copysignf(big, x);
  return x != x ? x : r;
}

static inline float m_sigmoid(float x) { return 1.0f / (1.0f + m_exp(-x)); }

// e^(t^2) erfc(t), t >= 0: z P(z), z = 1 / (1 + 0.4 t); relative error 1.3e-8 before rounding (own minimax fit).
static inline float m_erfcx(float t) {
  const float z = 1.0f / (1.0f + 0.4f * t);
  float p = -0.0260267378f;
  p = p * z + 0.178828849f;
  p = p * z - 0.454206364f;
  p = p * z + 0.488714252f;
  p = p * z - 0.236245478f;
  p = p * z + 0.246671311f;
  p = p * z + 0.138289415f;
  p = p * z + 0.213114684f;
  p = p * z + 0.225163759f;
  p = p * z + 0.225696323f;
  return p * z;
}

static inline float m_erf(float x) {
  const float a = fabsf(x), z = x * x;
  float p = 7.88911953e-5f;
  p = p * z - 8.02084128e-4f;
  p = p * z + 5.18953534e-3f;
  p = p * z - 2.68544446e-2f;
  p = p * z + 1.12836002e-1f;
  p = p * z - 3.76126271e-1f;
  p = p * z + 1.28379167e-1f;                                // 2/sqrt(pi) - 1, so that the leading x is exact
  const float small = p * x + x, t = a > 6.0f ? 6.0f : a;    // erf(6) is 1 in float
  const float r = a < 0.9f ? small : copysignf(1.0f - m_exp(-t * t) * m_erfcx(t), x);
  return x != x ? x : r;
}

// The normal distribution: Phi(x), and phi(x) = e^(-x^2/2) / sqrt(2 pi), from one exponential.
static inline float m_normal(float x, float *density) {
  float t = fabsf(x) * 0.707106781f;
  t = t > 13.0f ? 13.0f : t;
  const float e = m_exp(-t * t), tail = 0.5f * e * m_erfcx(t);
  *density = 0.398942280f * e;
  return x < 0.0f ? tail : 1.0f - tail;
}

static inline float m_gelu(float x) {
  float d;
  return x * m_normal(x, &d);
}
static inline float m_gelu_d(float x) {
  float d, c = m_normal(x, &d);
  const float xd = fabsf(x) > 1e4f ? 0.0f : x * d;           // infinity times zero
  return c + xd;
}
static inline float m_gelu_tanh(float x) {
  return x * m_sigmoid(1.59576912f * (x + 0.044715f * x * x * x));
}
static inline float m_gelu_tanh_d(float x) {
  float y = x > 15.0f ? 15.0f : x;
  y = y < -15.0f ? -15.0f : y;                               // beyond, the value is 0 or 1 in float
  const float s = m_sigmoid(1.59576912f * (y + 0.044715f * y * y * y));
  return s + y * s * (1.0f - s) * 1.59576912f * (1.0f + 0.134145f * y * y);
}
static inline float m_silu(float x) { return x / (1.0f + m_exp(-x)); }
static inline float m_silu_d(float x) {
  const float s = m_sigmoid(x);
  return s * (1.0f + x * (1.0f - s));
}
static inline float m_softplus(float x) { return m_select(x > 0.0f, x, 0.0f) + m_log1p(m_exp(-fabsf(x))); }
