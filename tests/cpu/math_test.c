// Accuracy of the vector functions against libm in double, over all exponents and both signs, at every level this machine runs.
#include "cpu/vec.h"
#include "cpu_test.h"

enum { PER_EXPONENT = 400, N = 4096 };

static double ulp_of(double want) {
  const double a = fabs(want);
  if (a < 0x1p-126) return 0x1p-149;
  int e;
  frexp(a, &e);
  return ldexp(1.0, e - 24);
}

typedef struct { zg_scalar s; double ulps, floor; } row;   // floor: error allowed is ulps * ulp(max(|want|, floor * |x|))
static const row rows[] = {
    {ZG_S_EXP, 1, 0},            {ZG_S_LOG, 1, 0},        {ZG_S_LOG1P, 1.5, 0},      {ZG_S_TANH, 1.5, 0},
    {ZG_S_ERF, 1.75, 0},         {ZG_S_SIGMOID, 1.75, 0}, {ZG_S_SOFTPLUS, 2, 0},     {ZG_S_SILU, 3, 0},
    {ZG_S_GELU, 7, 0},           {ZG_S_SQRT, 0.5, 0},     {ZG_S_RSQRT, 1.5, 0},      {ZG_S_GELU_TANH, 6, 0x1p-6},
};

// gelu by erfc: 1 + erf has no digits left in the tail.
static double want_of(zg_scalar s, double x) {
  return s == ZG_S_GELU && x < 0 ? 0.5 * x * erfc(-x * 0.70710678118654752440) : zg_scalar_f64(s, x, 0, 0);
}

static void check(const zg_vec *v, const row *w, const float *x, int n) {
  float y[N];
  v->map[ZG_CLS_F32][w->s][0](n, y, x, NULL, NULL, w->s);
  for (int i = 0; i < n; i++) {
    const double want = want_of(w->s, x[i]), got = y[i];
    if (isnan(want) && isnan(got)) continue;
    if ((float)want == y[i]) continue;
    const double tol = w->ulps * ulp_of(ZG_MAX(fabs(want), w->floor * fabs(x[i])));
    const bool denormal = fabs(want) < 0x1p-126 * (1 + fabs(x[i])) && fabs(got - want) <= 0x1p-149 * (1 + fabs(x[i]));   // x times a denormal
    const bool edge = denormal || (isinf(got) && fabs(want) > 3.4028234e38);
    ck_assert_msg(edge || fabs(got - want) <= tol, "%s %s(%.9g = 0x%08x) = %.9g, want %.9g: %.2f ulp", v->name, zg_scalar_name(w->s), (double)x[i],
                  *(const unsigned *)&x[i], got, want, fabs(got - want) / ulp_of(want));
  }
}

static const char *const levels[] = {"generic", "v2", "v3", "v4"};

START_TEST(all_exponents) {
  const zg_vec *v = zg_vec_named(levels[_i]);
  if (!v) return;
  rng r = {9};
  float x[N];
  for (int e = 0; e < 255; e++) {
    int n = 0;
    for (; n < PER_EXPONENT; n++) {
      const uint32_t u = (uint32_t)e << 23 | (uint32_t)(rnd(&r) & 0x7FFFFF) | (n & 1 ? 0x80000000u : 0);
      memcpy(&x[n], &u, 4);
    }
    for (size_t i = 0; i < ZG_COUNT(rows); i++) check(v, &rows[i], x, n);
  }
  for (int range = 0; range < 20; range++) {   // where the functions bend
    for (int n = 0; n < N; n++) x[n] = (float)((rnd_unit(&r) - 0.5) * (range < 10 ? 12 : 210));
    for (size_t i = 0; i < ZG_COUNT(rows); i++) check(v, &rows[i], x, N);
  }
}
END_TEST

START_TEST(special_values) {
  const zg_vec *v = zg_vec_named(levels[_i]);
  if (!v) return;
  const uint32_t odd = 0x7FC12345u;
  float odd_nan;
  memcpy(&odd_nan, &odd, 4);
  const float x[] = {0.0f, -0.0f, INFINITY, -INFINITY, odd_nan, 1.0f, -1.0f, 88.7f, 88.8f, -87.4f, -103.0f, -104.0f, 1e-45f, -1e-45f, 3e38f, -3e38f};
  const zg_scalar s[] = {ZG_S_EXP, ZG_S_LOG, ZG_S_LOG1P, ZG_S_TANH, ZG_S_ERF, ZG_S_SIGMOID, ZG_S_SOFTPLUS, ZG_S_RELU};
  for (size_t k = 0; k < ZG_COUNT(s); k++) {
    float y[16];
    v->map[ZG_CLS_F32][s[k]][0](16, y, x, NULL, NULL, s[k]);
    for (int i = 0; i < 16; i++) {
      const double want = zg_scalar_f64(s[k], x[i], 0, 0);
      const bool same = (isnan(want) && isnan(y[i])) || fabs(y[i] - want) <= 4 * ulp_of(want) || (float)want == y[i];
      ck_assert_msg(same, "%s %s(%g) = %g, want %g", v->name, zg_scalar_name(s[k]), (double)x[i], (double)y[i], want);
    }
  }
}
END_TEST

START_TEST(derivatives) {
  const zg_vec *v = zg_vec_named(levels[_i]);
  if (!v) return;
  rng r = {9};
  float x[N], y[N];
  const zg_scalar s[] = {ZG_S_GELU_D, ZG_S_GELU_TANH_D, ZG_S_SILU_D};
  for (int n = 0; n < N; n++) x[n] = (float)((rnd_unit(&r) - 0.5) * 40);
  for (size_t k = 0; k < ZG_COUNT(s); k++) {
    v->map[ZG_CLS_F32][s[k]][0](N, y, x, NULL, NULL, s[k]);
    for (int i = 0; i < N; i++)
      ck_assert_msg(fabs(y[i] - zg_scalar_f64(s[k], x[i], 0, 0)) < 4e-7, "%s %s(%g) = %g, want %g", v->name, zg_scalar_name(s[k]),
                    (double)x[i], (double)y[i], zg_scalar_f64(s[k], x[i], 0, 0));
  }
}
END_TEST

START_TEST(sixteen_bit_floats) {   // every value one way, many roundings the other
  const zg_vec *v = zg_vec_named(levels[_i]);
  if (!v) return;
  for (int k = 0; k < 2; k++) {
    const zg_dtype t = k ? ZG_F16 : ZG_BF16;
    for (uint32_t u = 0; u < 65536; u += 256) {
      uint16_t h[256], back[256];
      float x[256];
      for (uint32_t i = 0; i < 256; i++) h[i] = (uint16_t)(u + i);
      v->load[t](256, x, h, 1);
      v->store[t](256, back, x, 1);
      for (int i = 0; i < 256; i++) {
        const float want = k ? zg_f16_to_f32(h[i]) : zg_bf16_to_f32(h[i]);
        ck_assert_msg(x[i] == want || (isnan(x[i]) && isnan(want)), "%s %04x", zg_dtype_name(t), h[i]);
        ck_assert_msg(back[i] == h[i] || isnan(want), "%s %04x back to %04x", zg_dtype_name(t), h[i], back[i]);
      }
    }
    rng r = {3};
    for (int round = 0; round < 400; round++) {
      float x[256];
      uint16_t h[256];
      for (int i = 0; i < 256; i++) {
        const uint32_t u = (uint32_t)rnd(&r) & (round & 1 ? 0xFFFFF000u : 0xFFFFFFFFu);   // many ties
        memcpy(&x[i], &u, 4);
        if (round % 4 > 1) x[i] = ldexpf(x[i] / (fabsf(x[i]) > 0 ? fabsf(x[i]) : 1) * (1 + (float)(u & 0xFFFF) / 65536), (int)(u >> 26) - 30);
      }
      v->store[t](256, h, x, 1);
      for (int i = 0; i < 256; i++) {
        const uint16_t want = k ? zg_f16_from_f32(x[i]) : zg_bf16_from_f32(x[i]);
        ck_assert_msg(h[i] == want || isnan(x[i]), "%s(%.9g) = %04x, want %04x", zg_dtype_name(t), (double)x[i], h[i], want);
      }
    }
  }
}
END_TEST

static void all(TCase *tc) {
  tcase_add_loop_test(tc, all_exponents, 0, ZG_COUNT(levels));
  tcase_add_loop_test(tc, special_values, 0, ZG_COUNT(levels));
  tcase_add_loop_test(tc, derivatives, 0, ZG_COUNT(levels));
  tcase_add_loop_test(tc, sixteen_bit_floats, 0, ZG_COUNT(levels));
}

int main(void) {
  void (*const tests[])(TCase *) = {all};
  return run_suite("math", tests, 1);
}
