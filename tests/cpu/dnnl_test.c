// oneDNN: loading, and matrix products against plain loops over random layouts.
#include "cpu/dnnl_priv.h"
#include "dnnl_util.h"

START_TEST(refuses_other_libraries) {
  zg_dnnl_api api;
  zg_status s = zg__dnnl_open(getenv("ZG_TEST_DNNL_FAKE"), &api);
  ck_assert_ptr_nonnull(s);
  ck_assert_int_eq(zg_status_code(s), ZG_UNSUPPORTED);
  ck_assert_ptr_nonnull(strstr(zg_status_message(s), "is oneDNN 3.1.4; zgraph needs version 2.x"));
  zg_status_free(s);
  s = zg__dnnl_open("libzgraph-no-such.so", &api);
  ck_assert_ptr_nonnull(s);
  ck_assert_int_eq(zg_status_code(s), ZG_NOT_FOUND);
  zg_status_free(s);
  s = zg__dnnl_open("libm.so.6", &api);
  ck_assert_ptr_nonnull(s);
  ck_assert_ptr_nonnull(strstr(zg_status_message(s), "not oneDNN"));
  zg_status_free(s);
  ck_assert_int_eq(strncmp(zg_dnnl_text(), "oneDNN 2.", 9), 0);
}
END_TEST

START_TEST(statuses_name_the_call) {
  zg_status s = zg__dnnl_status(dnnl_unimplemented, "dnnl_primitive_desc_create");
  ck_assert_int_eq(zg_status_code(s), ZG_UNSUPPORTED);
  ck_assert_str_eq(zg_status_message(s), "oneDNN: dnnl_primitive_desc_create failed: not implemented (3)");
  zg_status_free(s);
  ck_assert_ptr_null(zg__dnnl_status(dnnl_success, "x"));
}
END_TEST

// ---- matmul ---------------------------------------------------------------------------------------------

typedef struct {
  zg_view v;
  int64_t n;
  void *bytes;
  char *start;
} operand;  // n elements; start: element 0 of the view

enum {
  LAYOUT_DENSE,
  LAYOUT_PERMUTED,
  LAYOUT_WILD
};  // wild: also gaps, zero and (inputs only) negative strides

// A view of the given dims over fresh random memory: dims stored in a random order, perhaps with gaps.
static operand make_operand(zg_dtype t, uint32_t rank, const int64_t *dim, int layout, bool is_output) {
  operand o = {.v = dense(t, rank, dim)};
  uint32_t order[ZG_MAX_RANK];
  for (uint32_t i = 0; i < rank; i++) order[i] = i;
  if (layout != LAYOUT_DENSE)
    for (uint32_t i = rank; i > 1; i--) {
      uint32_t j = (uint32_t)rnd(i), was = order[i - 1];
      order[i - 1] = order[j], order[j] = was;
    }
  int64_t n = 1, start = 0;
  for (uint32_t i = rank; i-- > 0;) {
    uint32_t d = order[i];
    bool zero = layout == LAYOUT_WILD && !is_output && rnd(6) == 0;
    bool negative = layout == LAYOUT_WILD && !is_output && !zero && rnd(6) == 0;
    o.v.stride[d] = zero ? 0 : negative ? -n : n;
    if (negative) start += n * (dim[d] - 1);
    if (!zero) n *= ZG_MAX(dim[d], 1) + (layout == LAYOUT_WILD ? rnd(3) : 0);
  }
  o.n = n;
  o.bytes = zg_alloc((size_t)n * zg_dtype_bytes(t));
  fill(t, o.bytes, n);
  o.start = (char *)o.bytes + start * zg_dtype_bytes(t);
  return o;
}

static double at(const operand *o, const int64_t *batch, int64_t i, int64_t j) {
  int64_t e = 0;
  uint32_t r = o->v.rank;
  for (uint32_t d = 0; d + 2 < r; d++) e += o->v.dim[d] == 1 ? 0 : batch[d] * o->v.stride[d];
  return zg_get_f64(o->v.dtype, o->start, e + i * o->v.stride[r - 2] + j * o->v.stride[r - 1]);
}

static double activate(int64_t epilogue, double x) {
  switch (epilogue) {
    case ZG_EPI_BIAS_RELU: return x > 0 ? x : 0;
    case ZG_EPI_BIAS_GELU: return 0.5 * x * (1 + erf(x / sqrt(2)));
    case ZG_EPI_BIAS_GELU_TANH:
      return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    default: return x;
  }
}

// Runs one product and compares every element of C's memory, the gaps too.
static void check_matmul(const zg_matmul_desc *d, operand *c, operand *a, operand *b, operand *bias,
                         int threads) {
  zg_dtype t = c->v.dtype;
  size_t n_bytes = (size_t)c->n * zg_dtype_bytes(t);
  double *want = zg_alloc(sizeof *want * (size_t)c->n);
  for (int64_t i = 0; i < c->n; i++) want[i] = zg_get_f64(t, c->bytes, i);
  bool *written = zg_alloc((size_t)c->n);
  int64_t n_batch = 1, batch[ZG_MAX_RANK] = {0};
  uint32_t nb = c->v.rank - 2;
  for (uint32_t i = 0; i < nb; i++) n_batch *= c->v.dim[i];
  for (int64_t q = 0; q < n_batch; q++) {
    int64_t rest = q, base = 0;
    for (uint32_t i = nb; i-- > 0; rest /= c->v.dim[i])
      batch[i] = rest % c->v.dim[i], base += batch[i] * c->v.stride[i];
    for (int64_t i = 0; i < d->m; i++)
      for (int64_t j = 0; j < d->n; j++) {
        double sum = 0;
        for (int64_t k = 0; k < d->k; k++) sum += at(a, batch, i, k) * at(b, batch, k, j);
        int64_t e = base + i * c->v.stride[nb] + j * c->v.stride[nb + 1];
        double x = d->alpha * sum + d->beta * want[e];
        if (d->epilogue != ZG_EPI_NONE) x += zg_get_f64(ZG_F32, bias->start, j * bias->v.stride[0]);
        want[e] = activate(d->epilogue, x);
        written[e] = true;
      }
  }
  void *reset = zg_alloc(n_bytes);
  memcpy(reset, c->bytes, n_bytes);
  zg_view args[] = {c->v, a->v, b->v, bias->v};
  zg_kernel k = {
      .kind = ZG_K_MATMUL, .desc = d, .args = args, .n_args = d->epilogue != ZG_EPI_NONE ? 4 : 3, .n_out = 1};
  bool ran = run_kernel(&k, threads, (void *[]){c->start, a->start, b->start, bias->start}, reset, n_bytes);
  ck_assert(ran || t == ZG_BF16 || a->v.dtype == ZG_BF16);  // bf16 only where the machine has it
  for (int64_t i = 0; ran && i < c->n; i++) {
    double got = zg_get_f64(t, c->bytes, i), tolerance = !written[i] ? 0 : t == ZG_BF16 ? 8e-3 : 2e-5;
    ck_assert_msg(
        close_to(got, want[i], tolerance),
        "m %ld n %ld k %ld alpha %g beta %g epilogue %ld rank %u %s: element %ld (%s) is %g, want %g",
        (long)d->m, (long)d->n, (long)d->k, d->alpha, d->beta, (long)d->epilogue, c->v.rank, zg_dtype_name(t),
        (long)i, written[i] ? "written" : "gap", got, want[i]);
  }
  zg_free(reset), zg_free(want), zg_free(written);
}

static void one_case(zg_dtype in, zg_dtype out, int layout, int i) {
  static const int64_t sizes[] = {1, 2, 3, 5, 8, 17, 33, 64};
  uint32_t nb = (uint32_t)rnd(4);
  int64_t m = sizes[rnd(8)], n = sizes[rnd(8)], k = i % 29 == 0 ? 0 : sizes[rnd(8)], dc[ZG_MAX_RANK],
          da[ZG_MAX_RANK], db[ZG_MAX_RANK];
  for (uint32_t d = 0; d < nb; d++) {
    dc[d] = i % 31 == 0 ? 0 : 1 + rnd(3);
    da[d] = rnd(4) ? dc[d] : 1;
    db[d] = rnd(3) ? dc[d] : 1;
  }
  dc[nb] = m, dc[nb + 1] = n, da[nb] = m, da[nb + 1] = k, db[nb] = k, db[nb + 1] = n;
  zg_matmul_desc d = {m, n, k, rnd(3) ? 1 : 0.5, rnd(2) ? 0 : rnd(2) ? 1 : -0.25, rnd(5)};
  operand c = make_operand(out, nb + 2, dc, layout, true), a = make_operand(in, nb + 2, da, layout, false);
  operand b = make_operand(in, nb + 2, db, layout, false),
          bias = make_operand(ZG_F32, 1, &n, LAYOUT_WILD, false);
  check_matmul(&d, &c, &a, &b, &bias, 1 + i % 2);
  zg_free(c.bytes), zg_free(a.bytes), zg_free(b.bytes), zg_free(bias.bytes);
}

static void many(zg_dtype in, zg_dtype out) {
  for (int layout = LAYOUT_DENSE; layout <= LAYOUT_WILD; layout++)
    for (int i = 1; i <= 60; i++) one_case(in, out, layout, i);
}
START_TEST(matmul_f32) { many(ZG_F32, ZG_F32); }
END_TEST
START_TEST(matmul_bf16) {
  many(ZG_BF16, ZG_F32);
  many(ZG_BF16, ZG_BF16);
}
END_TEST

START_TEST(matmul_refuses) {
  int64_t dim[] = {2, 2};
  zg_view f = dense(ZG_F32, 2, dim), h = dense(ZG_BF16, 2, dim), g = dense(ZG_F64, 2, dim);
  zg_matmul_desc d = {2, 2, 2, 1, 0, ZG_EPI_NONE};
  zg_view sets[][3] = {{f, f, h}, {h, f, f}, {g, g, g}};
  for (size_t i = 0; i < ZG_COUNT(sets); i++) {
    zg_kernel k = {.kind = ZG_K_MATMUL, .desc = &d, .args = sets[i], .n_args = 3, .n_out = 1};
    zg_dnnl_op *op;
    zg_status s = zg_dnnl_prepare(&k, 1, &op);
    ck_assert_ptr_nonnull(s);
    ck_assert_int_eq(zg_status_code(s), ZG_UNSUPPORTED);
    ck_assert_ptr_null(op);
    zg_status_free(s);
  }
  zg_kernel k = {.kind = ZG_K_SORT};
  zg_dnnl_op *op;
  zg_status s = zg_dnnl_prepare(&k, 1, &op);
  ck_assert_ptr_nonnull(s);
  zg_status_free(s);
  zg_dnnl_free(NULL);
}
END_TEST

// A product that the library alone would do in its reference loop must not take that path: 2 * 256^3
// operations in 60 ms are 0.6 GFLOP/s, twice what the loop reaches; normal is 0.5 ms.
START_TEST(matmul_packs_slow_layouts) {
  int64_t dim[] = {256, 256};
  zg_view c = dense(ZG_F32, 2, dim), a = c, b = c;
  c.stride[0] = 1, c.stride[1] = 256;  // column-major result
  b.stride[0] = 512, b.stride[1] = 2;  // every other element
  a.stride[0] = 0;                     // one row, expanded
  float *p = zg_alloc(4 * 256 * 256 * 4), bias[256] = {0};
  zg_view args[] = {c, a, b, dense(ZG_F32, 1, dim)};
  zg_matmul_desc d = {256, 256, 256, 1, 0, ZG_EPI_BIAS};
  zg_kernel k = {.kind = ZG_K_MATMUL, .desc = &d, .args = args, .n_args = 4, .n_out = 1};
  zg_dnnl_op *op;
  must(zg_dnnl_prepare(&k, 1, &op));
  void *scratch;
  must(zg_alloc_big(zg_dnnl_scratch_bytes(op), &scratch));
  double best = 1;
  for (int i = 0; i < 5; i++) {
    double t = zg_time_s();
    must(zg_dnnl_run(op, (void *[]){p, p + 65536, p + 2 * 65536, bias}, scratch));
    best = ZG_MIN(best, zg_time_s() - t);
  }
  ck_assert_double_lt(best, 0.06);
  zg_free_big(scratch, zg_dnnl_scratch_bytes(op));
  zg_dnnl_free(op);
  zg_free(p);
}
END_TEST

int main(void) {
  Suite *s = suite_create("dnnl");
  TCase *t = tcase_create("dnnl");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, refuses_other_libraries);
  tcase_add_test(t, statuses_name_the_call);
  tcase_add_test(t, matmul_f32);
  tcase_add_test(t, matmul_bf16);
  tcase_add_test(t, matmul_refuses);
  tcase_add_test(t, matmul_packs_slow_layouts);
  suite_add_tcase(s, t);
  return run_suite(s);
}
