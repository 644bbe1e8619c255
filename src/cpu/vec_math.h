// Single-precision functions in plain C without branches, so that the compiler makes vector code of loops over them at any
// instruction-set level, without -ffast-math. Infinities, NaNs, zeros and denormals follow libm. Error bounds, in units in the last
// place, over all inputs (tests/cpu/math_test.c): exp 1, log 1, log1p 1.5, tanh 1.5, erf 1.75, sigmoid 1.75, softplus 2. Of compositions:
// silu 3 and gelu 7 (a product with sigmoid and with the normal distribution; where those are denormal, |x| times the smallest denormal
// more); gelu_tanh 6 of max(|result|, |x| 2^-6), since rounding the argument w of its sigmoid costs |w| ulp; derivatives 4e-7 absolute.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

// Always: a loop with a call in it stays scalar, and the compiler's own measure refuses m_tanh where a body has five of them.
#define M_INLINE static inline __attribute__((always_inline))

M_INLINE uint32_t m_bits(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  return u;
}
M_INLINE float m_float(uint32_t u) {
  float x;
  memcpy(&x, &u, 4);
  return x;
}
M_INLINE float m_select(int cond, float x, float y) { return cond ? x : y; }

// Where the machine has it, one rounding; else two. Every a * b + c below is written with it (or has b a power of two, where it
// makes no difference), and a product that is added to something elsewhere is meant to be rounded first and never stands alone in
// such a sum: so a compiler that may contract and one that may not give the same bits.
M_INLINE float m_fma(float a, float b, float c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
M_INLINE double m_fma64(double a, double b, double c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

// x * x = result + *low, exactly but for what is lost below the denormals.
M_INLINE float m_square(float x, float *low) {
  const float h = x * x;
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  *low = __builtin_fmaf(x, x, -h);
#else
  const float a = m_float(m_bits(x) & 0xFFFFF000u), b = x - a;   // 12 bits each
  *low = a * a - h + 2.0f * a * b + b * b;
#endif
  return h;
}

// e^x = 2^n e^r, n an integer, |r| <= ln 2 / 2. n is rounded by adding 1.5 * 2^23, after which the low bits of the sum are those of n:
// shifted left by 23 they are n in an exponent's place.
M_INLINE float m_exp_split(float x, uint32_t *n_bits, float *n) {
  const float t = m_fma(x, 1.44269504f, 12582912.0f);
  *n_bits = m_bits(t);
  *n = t - 12582912.0f;
  return m_fma(*n, -0.693359375f, x);                        // n ln 2 in two parts; the second is left to the caller
}
// (e^r - 1 - r) / r^2 with an error below 3.1e-9 / r^2 (own minimax fit).
M_INLINE float m_exp_rest(float r) {
  float p = 1.38144672e-3f;
  p = m_fma(p, r, 8.36878084e-3f);
  p = m_fma(p, r, 4.16683927e-2f);
  p = m_fma(p, r, 1.66665196e-1f);
  return m_fma(p, r, 4.99999940e-1f);
}

// 2^n in two factors, so that denormal and overflowing results come out.
M_INLINE float m_exp(float x) {
  uint32_t bits;
  float n;
  x = x > 89.0f ? 89.0f : x;
  x = x < -104.5f ? -104.5f : x;
  const float first = m_exp_split(x, &bits, &n), r = m_fma(n, 2.12194440e-4f, first);
  const float p = m_fma(m_exp_rest(r) * r, r, r) + 1.0f;
  const uint32_t half = bits >> 1 << 23;
  return p * m_float((bits << 23) - half + 0x3F800000u) * m_float(half + 0x3F800000u);
}

// e^(x + low) for x <= 0, |low| far below |x|: the rounding of r is made up for, and of the two factors of 2^n one is always 2^-64.
M_INLINE float m_exp_neg(float x, float low) {
  uint32_t bits;
  float n;
  x = x < -104.5f ? -104.5f : x;
  const float first = m_exp_split(x, &bits, &n), second = m_fma(n, 2.12194440e-4f, low), r = first + second;
  const float p = m_fma(m_exp_rest(r) * r, r, second - (r - first)) + r + 1.0f;
  return p * m_float((bits << 23) + 0x5F800000u) * 0x1p-64f;
}

// e ln 2 + log(1 + f), f in [sqrt 1/2 - 1, sqrt 2 - 1]: log(1 + f) = f - f^2/2 + f^3 P(f).
M_INLINE float m_log_of(float f, float e) {
  const float z = f * f;
  float p = 7.0376836292e-2f;
  p = m_fma(p, f, -1.1514610310e-1f);
  p = m_fma(p, f, 1.1676998740e-1f);
  p = m_fma(p, f, -1.2420140846e-1f);
  p = m_fma(p, f, 1.4249322787e-1f);
  p = m_fma(p, f, -1.6668057665e-1f);
  p = m_fma(p, f, 2.0000714765e-1f);
  p = m_fma(p, f, -2.4999993993e-1f);
  p = m_fma(p, f, 3.3333331174e-1f);
  return m_fma(e, 0.693359375f, m_fma(z, -0.5f, m_fma(f * z, p, e * -2.12194440e-4f)) + f);
}

// log x = e ln 2 + log m, m in [sqrt 1/2, sqrt 2).
M_INLINE float m_log(float x) {
  const int tiny = x < 1.17549435e-38f;
  const float y = x * (tiny ? 8388608.0f : 1.0f);
  const uint32_t u = m_bits(y) - 0x3F3504F3u;               // mantissa relative to sqrt 1/2
  const float e = (float)((int32_t)u >> 23) - (tiny ? 23.0f : 0.0f);
  float r = m_log_of(m_float((u & 0x7FFFFFu) + 0x3F3504F3u) - 1.0f, e);
  r = x == INFINITY ? x : r;
  r = x == 0.0f ? -INFINITY : r;
  return !(x >= 0.0f) ? NAN : r;
}

// log(1 + x) = e ln 2 + log(1 + f) with e from the rounded sum, but f = 2^-e (1 + x) - 1 from x itself, rounded once.
M_INLINE float m_log1p(float x) {
  const uint32_t u = m_bits(1.0f + x) - 0x3F3504F3u;
  const int32_t e = (int32_t)u >> 23;
  const float s = m_float((uint32_t)(127 - (e >> 1)) << 23), t = m_float((uint32_t)(127 - (e - (e >> 1))) << 23);   // 2^-e in two factors
  float r = m_log_of(x * s * t + (s * t - 1.0f), (float)e);
  r = x == INFINITY ? x : r;
  r = x == -1.0f ? -INFINITY : r;
  r = fabsf(x) < 1.17549435e-38f ? x : r;
  return !(x >= -1.0f) ? NAN : r;
}

M_INLINE float m_tanh(float x) {
  const float a = fabsf(x), z = x * x;
  float p = -5.70498872745e-3f;
  p = m_fma(p, z, 2.06390887954e-2f);
  p = m_fma(p, z, -5.37397155531e-2f);
  p = m_fma(p, z, 1.33314422036e-1f);
  p = m_fma(p, z, -3.33332819422e-1f);
  const float small = m_fma(p * z, x, x), big = 1.0f - 2.0f / (m_exp(2.0f * a) + 1.0f);
  const float r = a < 0.625f ? small : copysignf(big, x);
  return x != x ? x : r;
}

// By e = e^-|x|, which does not overflow, and q = e / (1 + e), whose relative error weighs little in 1 - q and e - e q.
M_INLINE float m_sigmoid(float x) {
  const float e = m_exp_neg(-fabsf(x), 0.0f), q = e / (1.0f + e);
  return x < 0.0f ? m_fma(-e, q, e) : 1.0f - q;
}

// e^(t^2) erfc(t), t >= 0: z P(z), z = 1 / (1 + 0.4 t); relative error 1.3e-8 before rounding (own minimax fit).
M_INLINE float m_erfcx(float t) {
  const float z = 1.0f / m_fma(0.4f, t, 1.0f);
  float p = -0.0260267378f;
  p = m_fma(p, z, 0.178828849f);
  p = m_fma(p, z, -0.454206364f);
  p = m_fma(p, z, 0.488714252f);
  p = m_fma(p, z, -0.236245478f);
  p = m_fma(p, z, 0.246671311f);
  p = m_fma(p, z, 0.138289415f);
  p = m_fma(p, z, 0.213114684f);
  p = m_fma(p, z, 0.225163759f);
  p = m_fma(p, z, 0.225696323f);
  return p * z;
}

M_INLINE float m_erf(float x) {
  const float a = fabsf(x), z = x * x;
  float p = 7.88911953e-5f;
  p = m_fma(p, z, -8.02084128e-4f);
  p = m_fma(p, z, 5.18953534e-3f);
  p = m_fma(p, z, -2.68544446e-2f);
  p = m_fma(p, z, 1.12836002e-1f);
  p = m_fma(p, z, -3.76126271e-1f);
  p = m_fma(p, z, 1.28379167e-1f);                           // 2/sqrt(pi) - 1, so that the leading x is exact
  const float small = m_fma(p, x, x), t = a > 6.0f ? 6.0f : a;   // erf(6) is 1 in float
  const float r = a < 0.9f ? small : copysignf(m_fma(-m_exp_neg(-t * t, 0.0f), m_erfcx(t), 1.0f), x);
  return x != x ? x : r;
}

// The normal distribution: Phi(x), and phi(x) = e^(-x^2/2) / sqrt(2 pi), from one exponential. The square is taken in two parts:
// rounding it would cost |x|^2 / 2 ulp in the tail.
M_INLINE float m_normal(float x, float *density) {
  float a = fabsf(x), low;
  a = a > 14.5f ? 14.5f : a;
  const float square = m_square(a, &low);
  const float e = m_exp_neg(-0.5f * square, -0.5f * low), tail = 0.5f * m_erfcx(a * 0.707106781f);
  *density = 0.398942280f * e;
  return x < 0.0f ? e * tail : m_fma(-e, tail, 1.0f);
}

M_INLINE float m_gelu(float x) {
  float d;
  return x * m_normal(x, &d);
}
M_INLINE float m_gelu_d(float x) {
  float d;
  const float c = m_normal(x, &d), y = x > 1e4f ? 1e4f : x;   // infinity times zero
  return m_fma(y < -1e4f ? -1e4f : y, d, c);
}
M_INLINE float m_gelu_tanh(float x) {
  return x * m_sigmoid(x * m_fma(0.0713548163f, x * x, 1.59576912f));
}

// sigmoid(x), and its derivative s (1 - s) = e / (1 + e)^2, which does not cancel.
M_INLINE float m_sigmoid_d(float x, float *d) {
  const float e = m_exp_neg(-fabsf(x), 0.0f), r = 1.0f / (1.0f + e), q = e * r;
  *d = q * r;
  return x < 0.0f ? q : r;
}
M_INLINE float m_gelu_tanh_d(float x) {
  float y = x > 15.0f ? 15.0f : x, d;
  y = y < -15.0f ? -15.0f : y;                               // beyond, the value is 0 or 1 in float
  const float z = y * y, s = m_sigmoid_d(y * m_fma(0.0713548163f, z, 1.59576912f), &d);
  return m_fma(y * d, m_fma(0.2140644488f, z, 1.59576912f), s);
}
M_INLINE float m_silu(float x) { return x * m_sigmoid(x); }
M_INLINE float m_silu_d(float x) {
  float d, y = x > 200.0f ? 200.0f : x;                      // infinity times zero
  const float s = m_sigmoid_d(x, &d);
  return m_fma(y < -200.0f ? -200.0f : y, d, s);
}
M_INLINE float m_softplus(float x) { return m_select(x > 0.0f, x, 0.0f) + m_log1p(m_exp_neg(-fabsf(x), 0.0f)); }
