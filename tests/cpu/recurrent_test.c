// Recurrent layers and their gradient on the CPU device against the plain executor: every cell, both directions, sizes
// around the panels' width and the row blocks, results left out; every vector level; bit-equal for any number of threads.
#include "cpu/vec.h"
#include "cpu_test.h"

typedef struct { int64_t cell, reverse, T, B, H; zg_dtype dtype; } layer;
static const layer layers[] = {
    {ZG_CELL_TANH, 1, 5, 3, 17, ZG_F32}, {ZG_CELL_RELU, 0, 3, 9, 32, ZG_F32},   {ZG_CELL_LSTM, 0, 3, 16, 64, ZG_F32},
    {ZG_CELL_LSTM, 1, 4, 5, 20, ZG_F32}, {ZG_CELL_LSTM, 0, 2, 67, 130, ZG_F32}, {ZG_CELL_LSTM, 1, 1, 1, 1, ZG_F32},
    {ZG_CELL_GRU, 0, 3, 13, 48, ZG_F32}, {ZG_CELL_GRU, 1, 2, 66, 131, ZG_F32},  {ZG_CELL_LSTM, 0, 2, 3, 5, ZG_F64},
    {ZG_CELL_LSTM, 0, 0, 2, 4, ZG_F32},  {ZG_CELL_GRU, 1, 0, 3, 33, ZG_F32},   {ZG_CELL_TANH, 0, 0, 1, 16, ZG_F32},
    {ZG_CELL_LSTM, 1, 2, 0, 4, ZG_F32},  {ZG_CELL_GRU, 0, 2, 3, 0, ZG_F32},    {ZG_CELL_GRU, 0, 1, 1, 33, ZG_F32},
    {ZG_CELL_RELU, 1, 1, 1, 15, ZG_F32},
};

static zg_view row_major(zg_sched *s, zg_dtype dtype, uint32_t rank, int64_t a, int64_t b, int64_t c) {
  const int64_t dim[3] = {a, b, c};
  int64_t n = 1;
  for (uint32_t i = 0; i < rank; i++) n *= dim[i];
  zg_view v = view_of(add_buf(s, dtype, n + 3), dtype, rank, dim);
  v.offset = 3;
  return v;
}

// `whole`: with every result that there is, and the gradient of the cell states.
static zg_kernel make_kernel(zg_sched *s, const layer *l, bool grad, bool whole, const zg_recurrent_desc *d, zg_view *args) {
  const int64_t T = l->T, B = l->B, H = l->H, G = zg_cell_gates(l->cell) * H, S = zg_cell_saved(l->cell) * H;
  const bool lstm = l->cell == ZG_CELL_LSTM;
  const int64_t C = lstm ? H : 0;
  const zg_dtype t = l->dtype;
  const zg_view none = {0};
  uint32_t n = 0;
  if (grad) {
    args[n++] = row_major(s, t, 3, T, B, G);
    args[n++] = whole ? row_major(s, t, 2, B, H, 0) : none;
    args[n++] = whole ? row_major(s, t, 2, B, C, 0) : none;
    args[n++] = row_major(s, t, 3, T, B, S);
    args[n++] = row_major(s, t, 3, T + 1, B, H);
    args[n++] = row_major(s, t, 3, T + 1, B, C);
    args[n++] = row_major(s, t, 2, G, H, 0);
    args[n++] = row_major(s, t, 3, T + 1, B, H);
    if (whole && lstm) args[n++] = row_major(s, t, 3, T + 1, B, C);
  } else {
    args[n++] = row_major(s, t, 3, T + 1, B, H);
    args[n++] = whole ? row_major(s, t, 3, T, B, S) : none;
    args[n++] = whole || lstm ? row_major(s, t, 3, T + 1, B, C) : none;
    args[n++] = row_major(s, t, 3, T, B, G);
    args[n++] = row_major(s, t, 2, G, H, 0);
    args[n++] = row_major(s, t, 2, B, H, 0);
    if (lstm) args[n++] = row_major(s, t, 2, B, H, 0);
    if (l->cell == ZG_CELL_GRU) args[n++] = row_major(s, t, 1, H, 0, 0);
  }
  return (zg_kernel){.kind = grad ? ZG_K_RECURRENT_GRAD : ZG_K_RECURRENT, .desc = d, .args = args, .n_args = n, .n_out = 3, .label = "LSTM_1"};
}

static void compare(const zg_sched *s, const zg_kernel *k, contents got, contents want, double tol, const layer *l) {
  for (uint32_t a = 0; a < k->n_out; a++) {
    const zg_buf *b = &s->bufs.at[k->args[a].buf];
    for (int64_t i = 0; k->args[a].buf && i < (int64_t)(b->bytes / zg_dtype_bytes(b->dtype)); i++) {
      const double g = zg_get_f64(b->dtype, got.at[k->args[a].buf], i), w = zg_get_f64(b->dtype, want.at[k->args[a].buf], i);
      ck_assert_msg(g == w || fabs(g - w) <= tol * (1 + fabs(w)), "cell %d, H %d, %s: result %u[%lld] = %.9g, want %.9g", (int)l->cell,
                    (int)l->H, k->kind == ZG_K_RECURRENT ? "forward" : "gradient", a, (long long)i, g, w);
    }
  }
}

static void check_layer(const layer *l, bool grad, bool whole) {
  rng r = {7};
  zg_view args[9];
  const zg_recurrent_desc d = {l->cell, l->reverse};
  zg_sched *s = zg_sched_new();
  zg_kernel k = make_kernel(s, l, grad, whole, &d, args);
  must(zg_kernel_info_of(k.kind)->verify(&k));
  zg_sched_add_kernel(s, &k, sizeof d);
  contents in = contents_new(s);
  const double most = 1.5 / sqrt((double)l->H);   // weights as an initialiser makes them: sums stay of order one
  for (size_t i = 1; i < in.n; i++) {
    const bool weight = i == args[grad ? 6 : 4].buf;
    fill_random(&r, &s->bufs.at[i], in.at[i], weight ? -most : -0.9, weight ? most : 0.9);
  }
  contents want = contents_copy(s, in);
  must(zg_kernel_reference(&k, want.at, (zg_rand_state){0}));
  contents got = run_same_on_threads(s, in, (zg_rand_state){0});
  compare(s, &k, got, want, 2e-5, l);
  contents_free(got);
  contents_free(want);
  contents_free(in);
  zg_sched_free(s);
}

static const char *const levels[] = {"generic", "v2", "v3", "v4"};

START_TEST(equals_reference) {
  if (!zg_vec_named(levels[_i])) return;
  setenv("ZG_ISA", levels[_i], 1);
  for (size_t i = 0; i < ZG_COUNT(layers); i++)
    for (int k = 0; k < 4; k++) check_layer(&layers[i], k & 1, k & 2);
}
END_TEST

START_TEST(refuses_what_does_not_fit) {
  const layer x = {ZG_CELL_LSTM, 0, 3, 2, 4, ZG_F32};
  for (int grad = 0; grad < 2; grad++)
    for (uint32_t bad = 0; bad < 9; bad++) {
      zg_view args[9];
      zg_recurrent_desc d = {ZG_CELL_LSTM, 0};
      zg_sched *s = zg_sched_new();
      zg_kernel k = make_kernel(s, &x, grad, true, &d, args);
      if (bad < k.n_args) args[bad].dim[args[bad].rank - 1]++;
      else if (bad == 8) d.cell = 9;
      else args[0].buf = 0;   // bad is 7, of the forward
      zg_status e = zg_kernel_info_of(k.kind)->verify(&k);
      ck_assert_msg(e, "argument %u, gradient %d", bad, grad);
      zg_status_free(e);
      zg_sched_free(s);
    }
}
END_TEST

static void tests(TCase *tc) {
  tcase_add_loop_test(tc, equals_reference, 0, (int)ZG_COUNT(levels));
  tcase_add_test(tc, refuses_what_does_not_fit);
}

int main(void) { return run_suite("recurrent", (void (*const[])(TCase *)){tests}, 1); }
