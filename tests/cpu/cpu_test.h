// Shared by the tests of the CPU device: schedules of one kernel on buffers that the test fills.
#pragma once
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "exec/exec.h"
#include "graph/core.h"
#include "sched/reference.h"

typedef struct { uint64_t s; } rng;
static inline uint64_t rnd(rng *r) {
  r->s = r->s * 6364136223846793005u + 1442695040888963407u;
  uint64_t x = r->s;
  x ^= x >> 33, x *= 0xff51afd7ed558ccdu, x ^= x >> 33;
  return x;
}
static inline int64_t rnd_in(rng *r, int64_t lo, int64_t hi) { return lo + (int64_t)(rnd(r) % (uint64_t)(hi - lo + 1)); }
static inline double rnd_unit(rng *r) { return (double)(rnd(r) >> 11) * 0x1p-53; }

#define must(expr)                                                        \
  do {                                                                    \
    zg_status must_ = (expr);                                             \
    ck_assert_msg(!must_, "%s: %s", #expr, zg_status_message(must_));     \
  } while (0)

static inline uint32_t add_buf(zg_sched *s, zg_dtype t, int64_t elems) {
  const int64_t dim[1] = {elems};
  const zg_buf b = {.name = "b", .bytes = (uint64_t)elems * zg_dtype_bytes(t), .dtype = t, .type = zg_type_make(t, 1, dim),
                    .persistent = true, .role = ZG_BUF_ACTIVATION};
  return zg_sched_add_buf(s, &b);
}

static inline zg_view view_of(uint32_t buf, zg_dtype t, uint32_t rank, const int64_t *dim) {
  zg_view v = {.buf = buf, .dtype = t, .rank = rank};
  int64_t st = 1;
  for (uint32_t k = rank; k-- > 0;) v.dim[k] = dim[k], v.stride[k] = st, st *= dim[k];
  return v;
}

// Buffers one after the other.
static inline void place(zg_sched *s) {
  uint64_t at = 0;
  for (size_t i = 1; i < s->bufs.n; i++) {
    s->bufs.at[i].offset = at;
    at += zg_round_up(s->bufs.at[i].bytes, ZG_BUF_ALIGN);
  }
  s->arena_bytes[ZG_SPACE_DEVICE] = ZG_MAX(at, ZG_BUF_ALIGN);
}

// Content of all buffers, by number.
typedef struct { void **at; size_t n; } contents;
static inline contents contents_new(const zg_sched *s) {
  contents c = {.at = zg_alloc(sizeof(void *) * (s->bufs.n + 1)), .n = s->bufs.n};
  for (size_t i = 1; i < c.n; i++) c.at[i] = zg_alloc(s->bufs.at[i].bytes + 64);
  return c;
}
static inline contents contents_copy(const zg_sched *s, contents from) {
  contents c = {.at = zg_alloc(sizeof(void *) * (from.n + 1)), .n = from.n};   // workspaces added since are left out
  for (size_t i = 1; i < c.n; i++) {
    c.at[i] = zg_alloc(s->bufs.at[i].bytes + 64);
    memcpy(c.at[i], from.at[i], s->bufs.at[i].bytes);
  }
  return c;
}
static inline void contents_free(contents c) {
  for (size_t i = 1; i < c.n; i++) zg_free(c.at[i]);
  zg_free(c.at);
}

static inline void fill_random(rng *r, const zg_buf *b, void *p, double lo, double hi) {
  const int64_t n = (int64_t)(b->bytes / zg_dtype_bytes(b->dtype));
  for (int64_t i = 0; i < n; i++) {
    const double x = lo + (hi - lo) * rnd_unit(r);
    if (zg_dtype_is_float(b->dtype)) zg_set_f64(b->dtype, p, i, x);
    else zg_set_i64(b->dtype, p, i, (int64_t)floor(x));
  }
}

// Runs kernel 0 of a schedule whose kernels have no workspace yet; `c` is read and written.
static inline zg_status run_on_cpu(zg_sched *s, int threads, contents c, zg_rand_state r) {
  zg_device *d = NULL;
  zg_program *p = NULL;
  zg_status status = NULL;
  ZG_TRY_OUT(zg_device_cpu.open(threads, &d));
  s->kernels.at[0].workspace = 0;
  s->arena_bytes[0] = 0;
  for (size_t i = 1; i < s->bufs.n; i++) s->bufs.at[i].offset = 0;
  ZG_TRY_OUT(zg_exec_add_workspaces(d, s));
  place(s);
  ZG_TRY_OUT(zg_device_cpu.prepare(d, s, &p));
  ck_assert_uint_eq(zg_device_cpu.allocated(p), s->arena_bytes[0]);
  for (uint32_t i = 1; i < c.n; i++) ZG_TRY_OUT(zg_device_cpu.write(p, i, 0, c.at[i], s->bufs.at[i].bytes));
  ZG_TRY_OUT(zg_device_cpu.run_kernel(p, 0, r));
  for (uint32_t i = 1; i < c.n; i++) ZG_TRY_OUT(zg_device_cpu.read(p, i, 0, c.at[i], s->bufs.at[i].bytes));
out:
  if (p) zg_device_cpu.program_free(p);
  if (d) zg_device_cpu.close(d);
  return status;
}

// The same from `in` on one, two and three threads, which must give the same bits; returns what they give.
static inline contents run_same_on_threads(zg_sched *s, contents in, zg_rand_state r) {
  contents one = contents_copy(s, in);
  must(run_on_cpu(s, 1, one, r));
  for (int threads = 2; threads <= 3; threads++) {
    contents more = contents_copy(s, in);
    must(run_on_cpu(s, threads, more, r));
    for (size_t i = 1; i < in.n; i++)
      ck_assert_msg(!memcmp(more.at[i], one.at[i], s->bufs.at[i].bytes), "%d threads differ from one", threads);
    contents_free(more);
  }
  return one;
}

static inline int run_suite(const char *name, void (*const *tests)(TCase *), size_t n) {
  Suite *s = suite_create(name);
  TCase *tc = tcase_create(name);
  tcase_set_timeout(tc, 120);
  suite_add_tcase(s, tc);
  for (size_t i = 0; i < n; i++) tests[i](tc);
  SRunner *sr = srunner_create(s);
  srunner_run_all(sr, CK_NORMAL);
  const int failed = srunner_ntests_failed(sr);
  srunner_free(sr);
  return failed != 0;
}
