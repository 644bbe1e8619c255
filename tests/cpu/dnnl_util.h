// What the oneDNN tests share: small random numbers, views, running one prepared kernel.
#pragma once
#include "cpu/dnnl.h"
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t rng = 88172645463325252u;
static inline int64_t rnd(int64_t n) {  // xorshift64; in [0, n)
  rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
  return (int64_t)((rng >> 11) % (uint64_t)n);
}
static inline double rnd_value(void) {
  return (double)(rnd(17) - 8) / 4;
}  // exact in bf16, products exact in f32

static inline void fill(zg_dtype t, void *p, int64_t n) {
  for (int64_t i = 0; i < n; i++) zg_set_f64(t, p, i, rnd_value());
}

static inline zg_view dense(zg_dtype t, uint32_t rank, const int64_t *dim) {
  zg_type type = zg_type_make(t, rank, dim);
  zg_view v = {.dtype = t, .rank = rank};
  memcpy(v.dim, type.dim, sizeof v.dim);
  zg_type_strides(&type, v.stride);
  return v;
}

static inline void must(zg_status s) { ck_assert_msg(!s, "%s", zg_status_message(s)); }

// Prepares, runs twice with two scratch places full of NaN (what is not written must not be read), returns
// false if the library does not take the kernel. `reset`, of reset_bytes, restores args[0] in between.
static inline bool run_kernel(const zg_kernel *k, int threads, void *const *args, const void *reset,
                              size_t reset_bytes) {
  zg_dnnl_op *op;
  zg_status s = zg_dnnl_prepare(k, threads, &op);
  if (s && zg_status_code(s) == ZG_UNSUPPORTED) {
    if (getenv("ZG_LOG")) fprintf(stderr, "%s\n", zg_status_message(s));
    zg_status_free(s);
    return false;
  }
  must(s);
  uint64_t n = zg_dnnl_scratch_bytes(op);
  for (int i = 0; i < 2; i++) {
    char *scratch = aligned_alloc(64, zg_round_up(n + 1, 64) + 64);
    memset(scratch, 0xff, n + 64);
    if (i) memcpy(args[0], reset, reset_bytes);
    must(zg_dnnl_run(op, args, scratch));
    for (uint64_t b = n; b < n + 64; b++) ck_assert_int_eq(scratch[b], -1);  // kept to its bytes
    free(scratch);
  }
  zg_dnnl_free(op);
  return true;
}

static inline bool close_to(double got, double want, double tolerance) {
  return fabs(got - want) <= tolerance * (1 + fabs(want));
}

static inline int run_suite(Suite *s) {
  zg_status load = zg_dnnl_load();
  if (load) {
    bool absent = zg_status_code(load) == ZG_NOT_FOUND;
    fprintf(stderr, "%s\n", zg_status_message(load));
    zg_status_free(load);
    return absent ? 77 : 1;  // meson: skipped
  }
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
