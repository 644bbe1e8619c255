// Attention and its gradient on the CPU device against the plain executor: shapes around the tile's 64,
// grouped heads, heads interleaved in memory, masks, causal lines, half precision; every vector level;
// bit-equal for any number of threads.
#include "cpu/vec.h"
#include "cpu_test.h"

enum { MASK_NONE, MASK_FLOAT, MASK_BOOL };
typedef struct {
  int64_t b, h, kh, t, s, d, e, causal, offset;
  int mask;
  zg_dtype dtype;
} shape;

static const shape shapes[] = {
    {1, 1, 1, 1, 1, 1, 1, 0, 0, MASK_NONE, ZG_F32},
    {2, 3, 3, 64, 64, 64, 64, 1, 0, MASK_NONE, ZG_F32},
    {1, 2, 2, 130, 200, 16, 48, 0, 0, MASK_NONE, ZG_F32},
    {1, 4, 2, 65, 129, 24, 20, 1, 64, MASK_NONE, ZG_F32},
    {2, 6, 2, 33, 70, 80, 12, 0, 0, MASK_FLOAT, ZG_F32},
    {1, 2, 1, 70, 66, 32, 32, 0, 0, MASK_BOOL, ZG_F32},
    {1, 2, 2, 70, 40, 8, 8, 1, -20, MASK_NONE, ZG_F32},
    {2, 4, 4, 40, 90, 32, 64, 1, 3, MASK_FLOAT, ZG_BF16},
    {1, 2, 2, 20, 20, 5, 7, 1, 0, MASK_NONE, ZG_F64},
    {1, 2, 1, 8, 0, 4, 4, 0, 0, MASK_NONE, ZG_F32},
    {1, 3, 1, 17, 17, 12, 12, 0, 0, MASK_NONE, ZG_F16},
    {1, 2, 2, 130, 130, 64, 64, 1, 0, MASK_NONE, ZG_BF16},
    {1, 4, 2, 67, 129, 21, 20, 1, 61, MASK_NONE, ZG_BF16},
    {2, 2, 1, 33, 71, 5, 80, 0, 0, MASK_BOOL, ZG_BF16},
};

// A tensor [B,H,T,D] stored as [B,T,H,D], as projections leave it.
static zg_view heads(zg_sched *s, zg_dtype dtype, int64_t b, int64_t h, int64_t t, int64_t d) {
  const int64_t stored[4] = {b, t, h, d};
  zg_view v = view_of(add_buf(s, dtype, b * h * t * d + 5), dtype, 4, stored);
  v.offset = 5;
  const int64_t dim[4] = {b, h, t, d}, stride[4] = {v.stride[0], v.stride[2], v.stride[1], v.stride[3]};
  memcpy(v.dim, dim, sizeof dim), memcpy(v.stride, stride, sizeof stride);
  return v;
}

static zg_view row_major(zg_sched *s, zg_dtype dtype, uint32_t rank, const int64_t *dim) {
  int64_t n = 1;
  for (uint32_t i = 0; i < rank; i++) n *= dim[i];
  return view_of(add_buf(s, dtype, n), dtype, rank, dim);
}

static zg_view mask_view(zg_sched *s, const shape *x) {  // one mask for all heads
  const int64_t dim[4] = {x->b, 1, x->t, x->s};
  zg_view v = row_major(s, x->mask == MASK_BOOL ? ZG_BOOL : ZG_F32, 4, dim);
  v.dim[1] = x->h, v.stride[1] = 0;
  return v;
}

static zg_kernel make_kernel(zg_sched *s, const shape *x, bool grad, const zg_attention_desc *d,
                             zg_view *args) {
  uint32_t n = 0;
  const zg_dtype t = x->dtype;
  const int64_t lse[3] = {x->b, x->h, x->t};
  const zg_dtype wide = t == ZG_F64 ? ZG_F64 : ZG_F32;
  if (grad) {
    args[n++] = heads(s, t, x->b, x->h, x->t, x->d);
    args[n++] = heads(s, t, x->b, x->kh, x->s, x->d);
    args[n++] = heads(s, t, x->b, x->kh, x->s, x->e);
  } else {
    args[n++] = heads(s, t, x->b, x->h, x->t, x->e);
    args[n++] = row_major(s, wide, 3, lse);
  }
  const uint32_t n_out = n;
  args[n++] = heads(s, t, x->b, x->h, x->t, x->d);
  args[n++] = heads(s, t, x->b, x->kh, x->s, x->d);
  args[n++] = heads(s, t, x->b, x->kh, x->s, x->e);
  if (grad) {
    args[n++] = heads(s, t, x->b, x->h, x->t, x->e);
    args[n++] = row_major(s, wide, 3, lse);
    args[n++] = heads(s, t, x->b, x->h, x->t, x->e);
  }
  if (x->mask != MASK_NONE) args[n++] = mask_view(s, x);
  return (zg_kernel){.kind = grad ? ZG_K_ATTENTION_GRAD : ZG_K_ATTENTION,
                     .desc = d,
                     .args = args,
                     .n_args = n,
                     .n_out = n_out,
                     .label = "Attention_1"};
}

static void compare(const zg_sched *s, const zg_kernel *k, contents got, contents want, double tol,
                    const char *what) {
  for (uint32_t a = 0; a < k->n_out; a++) {
    const zg_buf *b = &s->bufs.at[k->args[a].buf];
    for (int64_t i = 0; i < (int64_t)(b->bytes / zg_dtype_bytes(b->dtype)); i++) {
      const double g = zg_get_f64(b->dtype, got.at[k->args[a].buf], i),
                   w = zg_get_f64(b->dtype, want.at[k->args[a].buf], i);
      ck_assert_msg(g == w || fabs(g - w) <= tol * (1 + fabs(w)), "%s: result %u[%lld] = %.9g, want %.9g",
                    what, a, (long long)i, g, w);
    }
  }
}

static void check_shape(const shape *x, bool grad) {
  rng r = {3};
  zg_view args[10];
  const zg_attention_desc d = {x->causal, x->offset, 1 / sqrt((double)x->d)};
  zg_sched *s = zg_sched_new();
  zg_kernel k = make_kernel(s, x, grad, &d, args);
  must(zg_kernel_info_of(k.kind)->verify(&k));
  zg_sched_add_kernel(s, &k, sizeof d);
  contents in = contents_new(s);
  for (size_t i = 1; i < in.n; i++) {  // the gradient takes any lse; closed rows stay out of it
    const bool lse = grad && i == args[k.n_out + 4].buf,
               mask = x->mask == MASK_BOOL && i == args[k.n_args - 1].buf;
    fill_random(&r, &s->bufs.at[i], in.at[i], lse ? 5 : mask ? 0 : -2, lse ? 6 : 2);
  }
  contents want = contents_copy(s, in);
  must(zg_kernel_reference(&k, want.at, (zg_rand_state){0}));
  const double tol = x->dtype == ZG_BF16 ? 2e-2 : x->dtype == ZG_F16 ? 3e-3 : 3e-5;
  contents got = run_same_on_threads(s, in, (zg_rand_state){0});
  compare(s, &k, got, want, tol, grad ? "gradient" : "attention");
  contents_free(got);
  contents_free(want);
  contents_free(in);
  zg_sched_free(s);
}

static const char *const levels[] = {"generic", "v2", "v3", "v4"};

START_TEST(equals_reference) {
  if (!zg_vec_named(levels[_i])) return;
  setenv("ZG_ISA", levels[_i], 1);
  for (size_t i = 0; i < ZG_COUNT(shapes); i++)
    for (int grad = 0; grad < 2; grad++) check_shape(&shapes[i], grad);
}
END_TEST

START_TEST(refuses_shapes_that_do_not_fit) {
  zg_view args[10];
  const zg_attention_desc d = {0, 0, 1};
  const shape x = {1, 2, 1, 4, 5, 3, 6, 0, 0, MASK_FLOAT, ZG_F32};
  for (int grad = 0; grad < 2; grad++)
    for (uint32_t bad = 0; bad < 6u; bad++) {
      zg_sched *s = zg_sched_new();
      zg_kernel k = make_kernel(s, &x, grad, &d, args);
      args[bad].dim[1]++;
      zg_status e = zg_kernel_info_of(k.kind)->verify(&k);
      ck_assert_msg(e, "argument %u", bad);
      zg_status_free(e);
      zg_sched_free(s);
    }
}
END_TEST

static void tests(TCase *tc) {
  tcase_add_loop_test(tc, equals_reference, 0, (int)ZG_COUNT(levels));
  tcase_add_test(tc, refuses_shapes_that_do_not_fit);
}

int main(void) { return run_suite("attention", (void (*const[])(TCase *)){tests}, 1); }
