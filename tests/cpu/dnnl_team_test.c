// oneDNN's threads run a program that has kernels in the library, whatever other programs the device has; the pool's own run the others.
#include "cpu/dnnl_priv.h"
#include "cpu_test.h"

static zg_team real;
static int runs;
static void run_counted(void (*fn)(void *arg), void *arg, unsigned n, unsigned flags) {
  runs++;
  real.run(fn, arg, n, flags);
}

enum { SIDE = 256, LOOP = 1 << 18 };
static const zg_matmul_desc product = {.m = SIDE, .n = SIDE, .k = SIDE, .alpha = 1};

// Kernel 0: a loop that several threads share; kernel 1, if asked for: a product that is too large for one.
static zg_sched *make(zg_arena *a, bool with_product) {
  zg_sched *s = zg_sched_new();
  void *desc = NULL;
  char text[120];
  snprintf(text, sizeof text, "space %d outer 0 mid 0 { 0 = load 1; 1 = neg 0; store 1 -> 0 }", LOOP);
  must(zg_loop_parse(text, a, &desc));
  const int64_t n = LOOP, side[2] = {SIDE, SIDE};
  zg_view args[3] = {view_of(add_buf(s, ZG_F32, n), ZG_F32, 1, &n), view_of(add_buf(s, ZG_F32, n), ZG_F32, 1, &n)};
  zg_kernel k = {.kind = ZG_K_LOOP, .desc = desc, .args = args, .n_args = 2, .n_out = 1, .label = "loop"};
  zg_sched_add_kernel(s, &k, sizeof(zg_loop_desc));
  if (with_product) {
    for (int i = 0; i < 3; i++) args[i] = view_of(add_buf(s, ZG_F32, SIDE * SIDE), ZG_F32, 2, side);
    k = (zg_kernel){.kind = ZG_K_MATMUL, .desc = &product, .args = args, .n_args = 3, .n_out = 1, .label = "product",
                    .flops = 2.0 * SIDE * SIDE * SIDE};
    zg_sched_add_kernel(s, &k, sizeof product);
  }
  return s;
}

static zg_program *prepare(zg_device *d, zg_sched *s) {
  zg_program *p = NULL;
  must(zg_exec_add_workspaces(d, s));
  place(s);
  must(zg_device_cpu.prepare(d, s, &p));
  return p;
}

static int runs_of(zg_program *p) {
  runs = 0;
  must(zg_device_cpu.run_kernel(p, 0, (zg_rand_state){0}));
  return runs;
}

START_TEST(each_program_on_its_threads) {
  zg_arena a = {0};
  zg_device *d = NULL;
  zg_sched *s[2] = {make(&a, true), make(&a, false)};
  must(zg_device_cpu.open(2, &d));
  real = zg__dnnl.team;
  zg__dnnl.team.run = run_counted;
  zg_program *with = prepare(d, s[0]), *without = prepare(d, s[1]);
  for (int i = 0; i < 2; i++) {
    ck_assert_int_eq(runs_of(with), 1);
    ck_assert_int_eq(runs_of(without), 0);
  }
  zg_device_cpu.program_free(with);
  ck_assert_int_eq(runs_of(without), 0);
  zg_device_cpu.program_free(without);
  zg_device_cpu.close(d);
  for (int i = 0; i < 2; i++) zg_sched_free(s[i]);
  zg_arena_fini(&a);
}
END_TEST

static void all(TCase *tc) { tcase_add_test(tc, each_program_on_its_threads); }

int main(void) {
  zg_team team;
  zg_status s = zg_dnnl_load();
  if (s || !zg_dnnl_team(&team) || zg_pool_cores() < 2) return zg_status_free(s), puts("no oneDNN on OpenMP, or one core: nothing to test"), 77;
  return run_suite("dnnl_team", (void (*const[])(TCase *)){all}, 1);
}
