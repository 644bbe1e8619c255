// Random loop programs on random spaces and views, against the plain executor; and bit-equal for 1, 2 and 3 threads.
#include "loop_random.h"

static void report(const prog *p, uint64_t seed, uint32_t out, int64_t i, double got, double want) {
  zg_str s = {0};
  zg_loop_print(&p->d, &s);
  for (uint32_t a = 0; a < p->n_args; a++) {
    zg_str_add(&s, "\n  arg %u %s buf %u at %lld strides", a, zg_dtype_name(p->args[a].dtype), p->args[a].buf, (long long)p->args[a].offset);
    for (uint32_t k = 0; k < p->d.rank; k++) zg_str_add(&s, " %lld", (long long)p->args[a].stride[k]);
  }
  ck_abort_msg("seed %llu: output %u element %lld: %.9g, want %.9g\n%s", (unsigned long long)seed, out, (long long)i, got, want, s.at);
}

static bool close_enough(const prog *p, uint32_t out, double got, double want) {
  if (isnan(got) && isnan(want)) return true;
  if (got == want) return true;
  const uint32_t v = p->inst[p->d.n_inst - p->n_out + out].a;
  if (p->inst[v].cls == ZG_CLS_INT) return false;
  const double tol = p->coarse ? 0.02 : p->inst[v].cls == ZG_CLS_F64 ? 2e-5 : 1e-4;
  return fabs(got - want) <= tol * (1 + p->bound[v] + fabs(want));
}

// Integers computed from floats (casts) may differ by rounding; the generator makes none.
static void one_program(uint64_t seed) {
  prog p = {.r = {seed * 77 + 1}, .s = zg_sched_new()};
  p.d.inst = p.inst;
  p.d.index = p.index;
  random_program(&p);
  const zg_kernel k = {.kind = ZG_K_LOOP, .desc = &p.d, .args = p.args, .n_args = p.n_args, .n_out = p.n_out, .label = "loop"};
  must(zg_loop_verify(&k));
  zg_sched_add_kernel(p.s, &k, sizeof p.d);
  const size_t n_bufs = p.s->bufs.n;
  contents in = contents_new(p.s);
  for (size_t i = 1; i < n_bufs; i++) {
    const bool f = zg_dtype_is_float(p.s->bufs.at[i].dtype);
    fill_random(&p.r, &p.s->bufs.at[i], in.at[i], f ? -2 : 0, f ? 2 : 9);
  }
  const zg_rand_state r = {{3, 4}, 5};
  contents want = contents_copy(p.s, in), one = contents_copy(p.s, in);
  zg_loop_reference(&k, want.at, r);
  must(run_on_cpu(p.s, 1, one, r));
  for (uint32_t o = 0; o < p.n_out; o++) {
    const zg_buf *b = &p.s->bufs.at[p.args[o].buf];
    for (int64_t i = 0; i < (int64_t)(b->bytes / zg_dtype_bytes(b->dtype)); i++) {
      const double g = zg_get_f64(b->dtype, one.at[p.args[o].buf], i), w = zg_get_f64(b->dtype, want.at[p.args[o].buf], i);
      if (!close_enough(&p, o, g, w)) report(&p, seed, o, i, g, w);
    }
  }
  for (int threads = 2; threads <= 3; threads++) {
    contents more = contents_copy(p.s, in);
    must(run_on_cpu(p.s, threads, more, r));
    for (size_t i = 1; i < n_bufs; i++)
      ck_assert_msg(!memcmp(more.at[i], one.at[i], p.s->bufs.at[i].bytes), "seed %llu: %d threads differ", (unsigned long long)seed, threads);
    contents_free(more);
  }
  contents_free(in);
  contents_free(want);
  contents_free(one);
  zg_sched_free(p.s);
}

START_TEST(random_programs) {
  const char *at = getenv("ZG_SEED"), *n = getenv("ZG_PROGRAMS");
  if (at) one_program(strtoull(at, NULL, 10));
  else
    for (uint64_t seed = 0; seed < (n ? strtoull(n, NULL, 10) : 1200); seed++) one_program(seed);
}
END_TEST

// ---- named programs ---------------------------------------------------------------------------------------------------

static float given[512];   // the first elements that the last run_text gave

// Runs a program given as text; every argument is a dense f32 tensor over the space, or over its last dim (bit of `vectors`), or
// over the kept dims (bit of `rows`).
static void run_text(const char *text, uint32_t n_args, uint32_t vectors, uint32_t rows, double lo, double hi, double tol) {
  zg_sched *s = zg_sched_new();
  zg_arena a = {0};
  void *desc = NULL;
  must(zg_loop_parse(text, &a, &desc));
  const zg_loop_desc *d = desc;
  zg_str again = {0};
  zg_loop_print(d, &again);
  ck_assert_str_eq(again.at, text);
  zg_view args[8];
  for (uint32_t i = 0; i < n_args; i++) {
    zg_view v = {.dtype = ZG_F32, .rank = d->rank};
    int64_t st = 1;
    for (uint32_t k = d->rank; k-- > 0;) {
      v.dim[k] = d->dim[k];
      if ((vectors >> i & 1 && k + 1 < d->rank) || (rows >> i & 1 && !row_dim(d, k))) continue;
      v.stride[k] = st;
      st *= d->dim[k];
    }
    v.buf = add_buf(s, ZG_F32, st);
    args[i] = v;
  }
  const zg_kernel k = {.kind = ZG_K_LOOP, .desc = d, .args = args, .n_args = n_args, .n_out = 1, .label = "named"};
  zg_sched_add_kernel(s, &k, sizeof *d);
  rng r = {5};
  contents c = contents_new(s);
  for (size_t i = 1; i < c.n; i++) fill_random(&r, &s->bufs.at[i], c.at[i], lo, hi);
  contents want = contents_copy(s, c);
  zg_loop_reference(&k, want.at, (zg_rand_state){0});
  must(run_on_cpu(s, 2, c, (zg_rand_state){0}));
  for (int64_t i = 0; i < (int64_t)s->bufs.at[1].bytes / 4; i++) {
    const double g = zg_get_f64(ZG_F32, c.at[1], i), w = zg_get_f64(ZG_F32, want.at[1], i);
    ck_assert_msg(g == w || (isnan(g) && isnan(w)) || fabs(g - w) <= tol * (1 + fabs(w)), "%s: element %lld: %.9g, want %.9g", text,
                  (long long)i, g, w);
  }
  memcpy(given, c.at[1], ZG_MIN(sizeof given, s->bufs.at[1].bytes));
  contents_free(c);
  contents_free(want);
  zg_str_fini(&again);
  zg_arena_fini(&a);
  zg_sched_free(s);
}

START_TEST(softmax) {
  const int64_t widths[] = {1, 3, 10, 64, 255, 256, 257, 1000, 5000, 70000};
  for (size_t i = 0; i < ZG_COUNT(widths); i++) {
    char text[400];
    snprintf(text, sizeof text,
             "space %lld,%lld outer 1 mid 0 { 0 = load 1; 1.row = reduce max 0; 2 = sub 0 1; 3 = exp 2; 4.row = reduce sum 3; "
             "5.row = recip 4; 6 = mul 3 5; store 6 -> 0 }", widths[i] > 5000 ? 1LL : 37LL, (long long)widths[i]);
    run_text(text, 2, 0, 0, -20, 20, 1e-5);
  }
}
END_TEST

START_TEST(sums_are_accurate) {   // 2 million equal terms: a running f32 sum would be off by per mille
  run_text("space 1,2000000 outer 1 mid 0 { 0 = load 1; 1.row = reduce sum 0; store.row 1 -> 0 }", 2, 0, 1, 0.7, 0.7001, 3e-7);
  run_text("space 200000,10 outer 0 mid 1 { 0 = load 1; 1.row = reduce sum 0; store.row 1 -> 0 }", 2, 0, 1, 0.7, 0.7001, 3e-7);
  run_text("space 20000,300 outer 0 mid 1 { 0 = load 1; 1.row = reduce sum 0; store.row 1 -> 0 }", 2, 0, 1, 0.7, 0.7001, 3e-7);
}
END_TEST

// A value that is computed again in another kernel, beside other work, must sum to the same bits.
START_TEST(column_sums_follow_from_the_shape) {
  static const char *const spaces[] = {"3000,300 outer 0 mid 1", "100000,9 outer 0 mid 1", "2,900,256 outer 1 mid 1", "33,500 outer 0 mid 1",
                                       "70,3000 outer 0 mid 1"};
  static const char *const rest = "2 = load 1; 3 = exp 2; 4 = mul 3 2; 5 = tanh 4; 6 = sub 5 3; 7 = mul 6 4; 8 = neg 7; 9 = abs 8; 10 = add 9 5; "
                                  "11 = mul 10 6; 12 = add 11 7; 13 = sub 12 8; 14.row = reduce sum 13; ";
  for (size_t i = 0; i < ZG_COUNT(spaces); i++) {
    float alone[ZG_COUNT(given)];
    for (int beside = 0; beside < 2; beside++) {
      char text[600];
      snprintf(text, sizeof text, "space %s { 0 = load 1; 1.row = reduce sum 0; %sstore.row 1 -> 0 }", spaces[i], beside ? rest : "");
      memset(given, 0, sizeof given);
      run_text(text, 2, 0, 1, -1, 1, 1e-4);
      if (!beside) memcpy(alone, given, sizeof given);
    }
    ck_assert_msg(!memcmp(alone, given, sizeof given), "space %s", spaces[i]);
  }
}
END_TEST

START_TEST(empty_reductions_give_identities) {
  run_text("space 3,0 outer 1 mid 0 { 0 = load 1; 1.row = reduce max 0; store.row 1 -> 0 }", 2, 0, 1, -1, 1, 0);
  run_text("space 3,0 outer 1 mid 0 { 0 = load 1; 1.row = reduce prod 0; store.row 1 -> 0 }", 2, 0, 1, -1, 1, 0);
  run_text("space 0,3 outer 0 mid 1 { 0 = load 1; 1.row = reduce sum 0; store.row 1 -> 0 }", 2, 0, 1, -1, 1, 0);
  run_text("space 0,3 outer 1 mid 0 { 0 = load 1; 1.row = reduce sum 0; store.row 1 -> 0 }", 2, 0, 1, -1, 1, 0);
  run_text("space 4,3,0 outer 1 mid 1 { 0 = load 1; 1.row = reduce sum 0; store.row 1 -> 0 }", 2, 0, 1, -1, 1, 0);
  run_text("space 3,0 outer 0 mid 1 { 0 = load 1; 1.row = reduce max 0; store.row 1 -> 0 }", 2, 0, 1, -1, 1, 0);
  run_text("space 0,3,5 outer 1 mid 1 { 0 = load 1; 1.row = reduce sum 0; store.row 1 -> 0 }", 2, 0, 1, -1, 1, 0);
}
END_TEST

static void all(TCase *tc) {
  tcase_add_test(tc, softmax);
  tcase_add_test(tc, sums_are_accurate);
  tcase_add_test(tc, column_sums_follow_from_the_shape);
  tcase_add_test(tc, empty_reductions_give_identities);
  tcase_add_test(tc, random_programs);
}

int main(void) {
  void (*const tests[])(TCase *) = {all};
  return run_suite("loop", tests, 1);
}
