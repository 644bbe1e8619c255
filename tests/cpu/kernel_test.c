// Every kernel kind on the CPU device against its plain executor, with oneDNN (where it is there) and without, for several thread
// counts. Integer results must be equal; floats within what their summation may lose.
#include "cpu_test.h"

typedef struct { zg_sched *s; zg_kernel k; zg_view args[4]; rng r; } fixture;

static void begin(fixture *f, zg_kernel_kind kind, const void *desc) {
  *f = (fixture){.s = zg_sched_new(), .r = {11}};
  f->k = (zg_kernel){.kind = kind, .desc = desc, .label = "Node_7", .n_out = 1, .args = f->args};
}

static zg_view *arg(fixture *f, zg_dtype t, uint32_t rank, const int64_t *dim) {
  int64_t n = 1;
  for (uint32_t k = 0; k < rank; k++) n *= dim[k];
  zg_view *v = &f->args[f->k.n_args++];
  *v = view_of(add_buf(f->s, t, n + 3), t, rank, dim);
  v->offset = 3;   // views need not start where their buffer does
  return v;
}
#define DIMS(...) (sizeof((int64_t[]){__VA_ARGS__}) / 8), (int64_t[]){__VA_ARGS__}

static void compare(const fixture *f, const zg_buf *b, const void *got, const void *want, double tol, const char *what) {
  for (int64_t i = 0; i < (int64_t)(b->bytes / zg_dtype_bytes(b->dtype)); i++) {
    const double g = zg_get_f64(b->dtype, got, i), w = zg_get_f64(b->dtype, want, i);
    if (g == w || (isnan(g) && isnan(w))) continue;
    ck_assert_msg(zg_dtype_is_float(b->dtype) && fabs(g - w) <= tol * (1 + fabs(w)), "%s: kernel kind %d, %s[%lld] = %.9g, want %.9g", what,
                  (int)f->k.kind, zg_dtype_name(b->dtype), (long long)i, g, w);
  }
}

// Runs the kernel everywhere and ends the fixture. `in`: contents, filled by the caller (freed here).
static void check(fixture *f, contents in, double tol) {
  contents want = contents_copy(f->s, in);
  must(zg_kernel_reference(&f->k, want.at, (zg_rand_state){0}));
  zg_sched_add_kernel(f->s, &f->k, 256);
  for (int off = 0; off < 2; off++) {
    setenv("ZG_DNNL", off ? "off" : "on", 1);
    contents first = {0};
    for (int threads = 1; threads <= 3; threads++) {
      contents c = contents_copy(f->s, in);
      must(run_on_cpu(f->s, threads, c, (zg_rand_state){0}));
      for (size_t i = 1; i < in.n; i++) compare(f, &f->s->bufs.at[i], c.at[i], want.at[i], tol, off ? "plain" : "oneDNN");
      for (size_t i = 1; i < in.n && off && threads > 1; i++)
        ck_assert_msg(!memcmp(c.at[i], first.at[i], f->s->bufs.at[i].bytes), "kind %d: %d threads differ", (int)f->k.kind, threads);
      if (threads == 1) first = c;
      else contents_free(c);
    }
    contents_free(first);
  }
  contents_free(want);
  contents_free(in);
  zg_sched_free(f->s);
}

static contents fill(fixture *f, double lo, double hi) {
  contents c = contents_new(f->s);
  for (size_t i = 1; i < c.n; i++) fill_random(&f->r, &f->s->bufs.at[i], c.at[i], lo, hi);
  return c;
}

// ---- matmul -------------------------------------------------------------------------------------------------------
static void swap_last(zg_view *v) {
  const uint32_t a = v->rank - 2, b = v->rank - 1;
  const int64_t st = v->stride[a], d = v->dim[a];
  v->stride[a] = v->stride[b], v->stride[b] = st, v->dim[a] = v->dim[b], v->dim[b] = d;
}

static void one_matmul(zg_dtype t, zg_dtype out, int64_t batch, int64_t m, int64_t n, int64_t k, int flags, int64_t epi) {
  zg_matmul_desc *d = zg_alloc(256);   // the schedule copies as many bytes
  *d = (zg_matmul_desc){.m = m, .n = n, .k = k, .alpha = flags & 4 ? 0.5 : 1, .beta = flags & 8 ? 2 : flags & 32 ? 1 : 0, .epilogue = epi};
  fixture f;
  begin(&f, ZG_K_MATMUL, d);
  arg(&f, out, DIMS(batch, m, n));
  zg_view *a = flags & 1 ? arg(&f, t, DIMS(batch, k, m)) : arg(&f, t, DIMS(batch, m, k));
  if (flags & 1) swap_last(a);
  zg_view *b = flags & 2 ? arg(&f, t, DIMS(batch, n, k)) : arg(&f, t, DIMS(batch, k, n));
  if (flags & 2) swap_last(b);
  if (flags & 16) b->stride[0] = 0;   // one B for all batches
  if (epi != ZG_EPI_NONE) arg(&f, ZG_F32, DIMS(n));
  const bool ints = !zg_dtype_is_float(t);
  const double f32 = 3e-5 * ZG_MAX(1, sqrt((double)k / 300));   // rounding grows with the root of the number of terms
  check(&f, fill(&f, ints ? -5 : -1, ints ? 5 : 1), out == ZG_BF16 || out == ZG_F16 ? 0.01 : out == ZG_F64 ? 1e-11 : f32);
  zg_free(d);
}

START_TEST(matmul) {
  one_matmul(ZG_F32, ZG_F32, 1, 1, 1, 1, 0, ZG_EPI_NONE);
  one_matmul(ZG_F32, ZG_F32, 1, 97, 65, 33, 0, ZG_EPI_NONE);
  for (int flags = 0; flags < 16; flags++) one_matmul(ZG_F32, ZG_F32, 2, 13, 35, 300, flags, ZG_EPI_NONE);
  for (int64_t e = ZG_EPI_BIAS; e <= ZG_EPI_BIAS_RELU; e++) one_matmul(ZG_F32, ZG_F32, 1, 20, 40, 17, 0, e);
  one_matmul(ZG_F32, ZG_F32, 3, 5, 7, 9, 16, ZG_EPI_NONE);
  one_matmul(ZG_BF16, ZG_F32, 1, 33, 50, 64, 0, ZG_EPI_NONE);
  one_matmul(ZG_BF16, ZG_BF16, 2, 33, 50, 64, 3, ZG_EPI_NONE);
  one_matmul(ZG_F16, ZG_F16, 1, 9, 10, 11, 1, ZG_EPI_NONE);
  for (int flags = 0; flags < 16; flags++) one_matmul(ZG_F64, ZG_F64, 2, 9, 300, 12, flags, ZG_EPI_NONE);
  one_matmul(ZG_F64, ZG_F64, 1, 9, 30, 12, 0, ZG_EPI_BIAS_GELU);
  one_matmul(ZG_I64, ZG_I64, 2, 9, 30, 12, 3, ZG_EPI_NONE);
  one_matmul(ZG_I32, ZG_I32, 1, 4, 4, 4, 0, ZG_EPI_NONE);
}
END_TEST

// Larger products: odd sizes, wide and tall, long sums, sums added to C, results of either dtype.
START_TEST(large_matmul) {
  static const int64_t shapes[][3] = {{12, 32, 192}, {61, 33, 97}, {33, 61, 97}, {150, 200, 21}, {1700, 17, 9}, {16, 1650, 8}, {20, 44, 2101},
                                      {44, 20, 4203}, {25, 300, 40}, {97, 2100, 3}};
  for (size_t i = 0; i < ZG_COUNT(shapes); i++) {
    const int64_t m = shapes[i][0], n = shapes[i][1], k = shapes[i][2];
    for (int flags = (int)i % 2; flags < 4; flags += 2) {
      one_matmul(ZG_F32, ZG_F32, 1, m, n, k, flags, ZG_EPI_NONE);
      one_matmul(ZG_BF16, ZG_BF16, 1, m, n, k, flags ^ 1, ZG_EPI_NONE);
    }
    one_matmul(ZG_BF16, ZG_F32, 1, m, n, k, (int)i / 2 % 4, ZG_EPI_NONE);
    one_matmul(ZG_F32, ZG_F32, 1, m, n, k, 32, ZG_EPI_NONE);
    one_matmul(ZG_BF16, ZG_BF16, 1, m, n, k, 32, ZG_EPI_NONE);
    one_matmul(ZG_F32, ZG_F32, 1, m, n, k, 12, ZG_EPI_NONE);
    one_matmul(ZG_F32, ZG_BF16, 1, m, n, k, 1, ZG_EPI_NONE);
    one_matmul(ZG_F32, ZG_F32, 1, m, n, k, 13, (int64_t)(ZG_EPI_BIAS + i % 4));
    one_matmul(ZG_BF16, ZG_BF16, 1, m, n, k, 2, (int64_t)(ZG_EPI_BIAS + i % 4));
  }
  one_matmul(ZG_F32, ZG_F32, 3, 40, 50, 33, 16, ZG_EPI_NONE);
  one_matmul(ZG_BF16, ZG_BF16, 3, 40, 50, 33, 16, ZG_EPI_BIAS_GELU);
}
END_TEST

// ---- conv ---------------------------------------------------------------------------------------------------------
static int64_t out_size(int64_t in, int64_t k, int64_t s, int64_t pb, int64_t pe, int64_t dil) { return (in + pb + pe - (k - 1) * dil - 1) / s + 1; }

typedef struct { zg_dtype t; int64_t rank, n, c, o, group, in[3], ker[3], stride[3], pb[3], pe[3], dil[3]; bool bias; } conv_case;
static const conv_case convs[] = {
    {ZG_F32, 2, 2, 3, 4, 1, {9, 8}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, true},
    {ZG_F32, 2, 1, 4, 6, 2, {11, 7}, {3, 2}, {2, 3}, {0, 1}, {2, 0}, {1, 1}, false},
    {ZG_F32, 2, 2, 6, 6, 6, {10, 10}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, true},
    {ZG_F32, 1, 3, 2, 5, 1, {20}, {5}, {2}, {3}, {1}, {2}, true},
    {ZG_F32, 3, 1, 2, 3, 1, {5, 6, 7}, {2, 3, 2}, {1, 2, 1}, {0, 1, 1}, {1, 0, 0}, {1, 1, 2}, false},
    {ZG_F64, 2, 2, 4, 6, 2, {9, 8}, {3, 3}, {2, 1}, {1, 0}, {1, 2}, {1, 2}, true},
    {ZG_BF16, 2, 1, 3, 4, 1, {9, 8}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, false},
};

static void one_conv(const conv_case *c, zg_kernel_kind kind) {
  zg_conv_desc *d = zg_alloc(256);
  d->spatial = c->rank, d->group = c->group;
  int64_t x[5] = {c->n, c->c}, y[5] = {c->n, c->o}, w[5] = {c->o, c->c / c->group};
  for (int64_t i = 0; i < c->rank; i++) {
    d->stride[i] = c->stride[i], d->pad_begin[i] = c->pb[i], d->pad_end[i] = c->pe[i], d->dilation[i] = c->dil[i];
    x[i + 2] = c->in[i], w[i + 2] = c->ker[i];
    y[i + 2] = out_size(c->in[i], c->ker[i], c->stride[i], c->pb[i], c->pe[i], c->dil[i]);
  }
  const uint32_t r = (uint32_t)c->rank + 2;
  fixture f;
  begin(&f, kind, d);
  const int64_t *order[3][3] = {{y, x, w}, {x, y, w}, {w, x, y}};
  for (int i = 0; i < 3; i++) arg(&f, c->t, r, order[kind - ZG_K_CONV][i]);
  if (kind == ZG_K_CONV && c->bias) arg(&f, c->t, 1, &c->o);
  check(&f, fill(&f, -1, 1), c->t == ZG_F64 ? 1e-11 : c->t == ZG_BF16 ? 0.02 : 2e-5);
  zg_free(d);
}

START_TEST(conv) {
  for (size_t i = 0; i < ZG_COUNT(convs); i++)
    for (zg_kernel_kind k = ZG_K_CONV; k <= ZG_K_CONV_GRAD_W; k++) one_conv(&convs[i], k);
}
END_TEST

// ---- pool ---------------------------------------------------------------------------------------------------------
START_TEST(pool) {
  const conv_case cases[] = {
      {ZG_F32, 2, 2, 3, 0, 0, {9, 8}, {3, 2}, {2, 2}, {1, 0}, {1, 1}, {1, 1}, false},
      {ZG_F32, 2, 1, 2, 0, 0, {7, 7}, {2, 2}, {1, 1}, {0, 0}, {0, 0}, {1, 1}, false},
      {ZG_F32, 1, 1, 2, 0, 0, {17}, {3}, {2}, {1}, {1}, {2}, false},
      {ZG_F64, 3, 1, 2, 0, 0, {5, 6, 4}, {2, 2, 3}, {1, 2, 1}, {1, 0, 1}, {0, 1, 1}, {1, 1, 1}, false},
      {ZG_BF16, 2, 1, 2, 0, 0, {8, 8}, {3, 3}, {2, 2}, {1, 1}, {1, 1}, {1, 1}, false},
  };
  for (size_t i = 0; i < ZG_COUNT(cases); i++)
    for (int64_t kind = ZG_POOL_MAX; kind <= ZG_POOL_AVG_PAD; kind++)
      for (int grad = 0; grad < 2; grad++)
        for (int ties = 0; ties < 2; ties++) {
          const conv_case *c = &cases[i];
          zg_pool_desc *d = zg_alloc(256);
          d->spatial = c->rank, d->kind = kind;
          int64_t x[5] = {c->n, c->c}, y[5] = {c->n, c->c};
          for (int64_t k = 0; k < c->rank; k++) {
            d->kernel[k] = c->ker[k], d->stride[k] = c->stride[k], d->pad_begin[k] = c->pb[k], d->pad_end[k] = c->pe[k], d->dilation[k] = c->dil[k];
            x[k + 2] = c->in[k];
            y[k + 2] = out_size(c->in[k], c->ker[k], c->stride[k], c->pb[k], c->pe[k], c->dil[k]);
          }
          const uint32_t r = (uint32_t)c->rank + 2;
          fixture f;
          begin(&f, grad ? ZG_K_POOL_GRAD : ZG_K_POOL, d);
          arg(&f, c->t, r, grad ? x : y);
          arg(&f, c->t, r, x);
          if (grad) arg(&f, c->t, r, y);
          contents in = fill(&f, -1, 1);
          const zg_buf *b = &f.s->bufs.at[2];
          for (int64_t e = 0; ties && e < (int64_t)(b->bytes / zg_dtype_bytes(b->dtype)); e++)
            zg_set_f64(b->dtype, in.at[2], e, rint(2 * zg_get_f64(b->dtype, in.at[2], e)));
          check(&f, in, c->t == ZG_F64 ? 1e-12 : c->t == ZG_BF16 ? 0.02 : 2e-6);
          zg_free(d);
        }
}
END_TEST

// ---- gather, scatter --------------------------------------------------------------------------------------------------
static void fill_indices(fixture *f, contents c, uint32_t a, int64_t limit) {
  const zg_view *v = &f->args[a];
  for (int64_t i = 0; i < zg_view_elems(v); i++) zg_set_i64(v->dtype, c.at[v->buf], v->offset + i, rnd_in(&f->r, -limit, limit - 1));
}

typedef struct { int64_t mode, axis, batch; uint32_t rd; int64_t data[4]; uint32_t ri; int64_t idx[4]; uint32_t ro; int64_t out[5]; int64_t limit; } gather_case;
static const gather_case gathers[] = {
    {ZG_IDX_TAKE, 0, 0, 2, {50, 48}, 2, {4, 200}, 3, {4, 200, 48}, 50},
    {ZG_IDX_TAKE, 1, 0, 3, {3, 7, 5}, 1, {6}, 3, {3, 6, 5}, 7},
    {ZG_IDX_TAKE, 0, 0, 1, {9}, 0, {0}, 0, {0}, 9},
    {ZG_IDX_ELEMENTS, 0, 0, 2, {9, 6}, 2, {4, 6}, 2, {4, 6}, 9},
    {ZG_IDX_ELEMENTS, 1, 0, 3, {4, 5, 6}, 3, {3, 9, 6}, 3, {3, 9, 6}, 5},
    {ZG_IDX_ND, 0, 0, 3, {4, 5, 6}, 2, {7, 2}, 2, {7, 6}, 4},
    {ZG_IDX_ND, 0, 1, 3, {4, 5, 6}, 3, {4, 3, 1}, 3, {4, 3, 6}, 5},
    {ZG_IDX_ND, 0, 0, 2, {4, 5}, 2, {8, 2}, 1, {8}, 4},
};

static void one_gather(const gather_case *g, bool scatter, int64_t red, zg_dtype t, zg_dtype ti) {
  zg_gather_desc *d = zg_alloc(256);
  *d = (zg_gather_desc){g->mode, g->axis, g->batch, red};
  fixture f;
  begin(&f, scatter ? ZG_K_SCATTER : ZG_K_GATHER, d);
  if (scatter) {
    arg(&f, t, g->rd, g->data);
    arg(&f, ti, g->ri, g->idx);
    arg(&f, t, g->ro, g->out);
  } else {
    arg(&f, t, g->ro, g->out);
    arg(&f, t, g->rd, g->data);
    arg(&f, ti, g->ri, g->idx);
  }
  contents in = fill(&f, -2, 2);
  fill_indices(&f, in, scatter ? 1 : 2, g->limit);
  check(&f, in, t == ZG_F64 ? 1e-12 : t == ZG_BF16 ? 0.05 : 3e-5);
  zg_free(d);
}

START_TEST(gather_scatter) {
  for (size_t i = 0; i < ZG_COUNT(gathers); i++) {
    one_gather(&gathers[i], false, 0, ZG_F32, ZG_I64);
    one_gather(&gathers[i], false, 0, ZG_I32, ZG_I32);
    for (int64_t red = ZG_SCATTER_SET; red <= ZG_SCATTER_MIN; red++) {
      one_gather(&gathers[i], true, red, ZG_F32, ZG_I64);
      one_gather(&gathers[i], true, red, ZG_F64, ZG_I32);
      one_gather(&gathers[i], true, red, ZG_I64, ZG_I64);
      one_gather(&gathers[i], true, red, ZG_I8, ZG_I64);
    }
  }
  one_gather(&gathers[0], false, 0, ZG_BF16, ZG_I64);
}
END_TEST

START_TEST(bad_index) {
  for (int scatter = 0; scatter < 2; scatter++)
    for (size_t i = 0; i < ZG_COUNT(gathers); i++) {
      const gather_case *g = &gathers[i];
      zg_gather_desc *d = zg_alloc(256);
      *d = (zg_gather_desc){g->mode, g->axis, g->batch, 0};
      fixture f;
      begin(&f, scatter ? ZG_K_SCATTER : ZG_K_GATHER, d);
      arg(&f, ZG_F32, scatter ? g->rd : g->ro, scatter ? g->data : g->out);
      if (scatter) arg(&f, ZG_I64, g->ri, g->idx);
      arg(&f, ZG_F32, scatter ? g->ro : g->rd, scatter ? g->out : g->data);
      if (!scatter) arg(&f, ZG_I64, g->ri, g->idx);
      contents in = fill(&f, -2, 2);
      const uint32_t a = scatter ? 1 : 2;
      fill_indices(&f, in, a, 1);
      const zg_view *v = &f.args[a];
      zg_set_i64(ZG_I64, in.at[v->buf], v->offset + zg_view_elems(v) - 1, 1234);
      zg_sched_add_kernel(f.s, &f.k, 256);
      for (int threads = 1; threads <= 2; threads++) {
        zg_status s = run_on_cpu(f.s, threads, in, (zg_rand_state){0});
        ck_assert_msg(s && zg_status_code(s) == ZG_INVALID, "case %zu: accepted", i);
        ck_assert_ptr_nonnull(strstr(zg_status_message(s), "Node_7"));
        ck_assert_ptr_nonnull(strstr(zg_status_message(s), "1234"));
        zg_status_free(s);
      }
      contents_free(in);
      zg_sched_free(f.s);
      zg_free(d);
    }
}
END_TEST

// ---- scan, sort ---------------------------------------------------------------------------------------------------
START_TEST(scan) {
  const zg_dtype types[] = {ZG_F32, ZG_F64, ZG_I32, ZG_I64, ZG_BF16};
  for (size_t t = 0; t < ZG_COUNT(types); t++)
    for (int64_t axis = 0; axis < 3; axis++)
      for (int flags = 0; flags < 4; flags++) {
        zg_scan_desc *d = zg_alloc(256);
        *d = (zg_scan_desc){axis, flags & 1, flags >> 1};
        fixture f;
        begin(&f, ZG_K_SCAN, d);
        arg(&f, types[t], DIMS(3, 40, 5));
        arg(&f, types[t], DIMS(3, 40, 5));
        check(&f, fill(&f, -3, 3), 1e-5);
        zg_free(d);
      }
}
END_TEST

static void one_sort(zg_dtype t, int64_t axis, int64_t k, int flags, uint32_t skip) {
  zg_sort_desc *d = zg_alloc(256);
  *d = (zg_sort_desc){axis, k, flags & 1, flags >> 1 & 1, flags >> 2 & 1};
  int64_t dim[3] = {3, 20, 5};
  fixture f;
  begin(&f, ZG_K_SORT, d);
  const int64_t n = dim[axis];
  dim[axis] = flags & 2 ? 1 : k;
  arg(&f, t, 3, dim);
  arg(&f, ZG_I64, 3, dim);
  dim[axis] = n;
  arg(&f, t, 3, dim);
  if (skip) f.args[skip - 1].buf = 0;
  f.k.n_out = 2;
  contents in = fill(&f, -4, 4);
  const zg_buf *b = &f.s->bufs.at[3];
  for (int64_t i = 0; i < 100; i++)   // ties, and a NaN
    if (zg_dtype_is_float(t)) zg_set_f64(t, in.at[3], i, i == 50 ? NAN : rint(zg_get_f64(t, in.at[3], i)));
  (void)b;
  check(&f, in, 0);
  zg_free(d);
}

START_TEST(sort) {
  const zg_dtype types[] = {ZG_F32, ZG_I64, ZG_F64, ZG_I8};
  const int64_t sizes[] = {3, 20, 5};
  for (size_t t = 0; t < ZG_COUNT(types); t++)
    for (int64_t axis = 0; axis < 3; axis++)
      for (int flags = 0; flags < 8; flags++) {
        one_sort(types[t], axis, 1, flags, 0);
        one_sort(types[t], axis, (sizes[axis] + 1) / 2, flags & 5, 0);
        one_sort(types[t], axis, sizes[axis], flags & 5, 0);
        one_sort(types[t], axis, 2, flags & 5, 1);
        one_sort(types[t], axis, 2, flags & 5, 2);
      }
}
END_TEST

static void all(TCase *tc) {
  tcase_add_test(tc, matmul);
  tcase_add_test(tc, large_matmul);
  tcase_add_test(tc, conv);
  tcase_add_test(tc, pool);
  tcase_add_test(tc, gather_scatter);
  tcase_add_test(tc, bad_index);
  tcase_add_test(tc, scan);
  tcase_add_test(tc, sort);
}

int main(void) {
  void (*const tests[])(TCase *) = {all};
  return run_suite("kernel", tests, 1);
}
