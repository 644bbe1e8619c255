// Plain matmul. Floats of at most 32 bits: blocks of C, each by one thread: panels of A and B are packed as f32 (which also converts
// dtypes and straightens strides) and fed to the vector table's micro-kernel. Other dtypes: dot products row by row.
#include "cpu/cpu.h"
#include "graph/scalar.h"

enum { MC = 96, NC = 256, KC = 256, PLAIN_N = 256 };

typedef struct {
  const cpu_call *c;
  const zg_matmul_desc *d;
  int64_t tiles_m, tiles_n;
} job;

uint64_t cpu_matmul_scratch(const zg_kernel *k) {
  (void)k;
  return sizeof(float) * (MC * KC + KC * NC + MC * NC + KC + NC) + 256;
}

static int64_t batch_at(const zg_view *v, const int64_t *dim, int64_t b) {
  int64_t at = v->offset;
  for (uint32_t k = v->rank - 2; k-- > 0;) {
    at += b % dim[k] * v->stride[k];
    b /= dim[k];
  }
  return at;
}

static void load(const job *j, uint32_t arg, float *dst, int64_t at, int64_t n, int64_t stride) {
  j->c->vec->load[j->c->k->args[arg].dtype](n, dst, cpu_at(j->c, arg, at), stride);
}

// Packs lines 0..n of a matrix, `line` apart, each kc long with elements `step` apart, in panels of `wide` lines:
// out[panel][k][line in panel], missing lines zero.
static void pack(const job *j, uint32_t arg, float *out, float *one, int64_t at, int64_t n, int64_t kc, int64_t line, int64_t step, int wide) {
  for (int64_t p = 0; p < n; p += wide, out += kc * wide) {
    const int64_t w = ZG_MIN(n - p, (int64_t)wide);
    if (w < wide) memset(out, 0, sizeof(float) * (size_t)(kc * wide));
    if (line == 1 && step != 1) {
      for (int64_t k = 0; k < kc; k++) load(j, arg, out + k * wide, at + p + k * step, w, 1);
      continue;
    }
    for (int64_t i = 0; i < w; i++) {
      load(j, arg, one, at + (p + i) * line, kc, step);
      for (int64_t k = 0; k < kc; k++) out[k * wide + i] = one[k];
    }
  }
}

static void finish(const job *j, int64_t row_at, int64_t n0, int64_t n, float *acc, float *old) {
  const zg_matmul_desc *d = j->d;
  const zg_kernel *k = j->c->k;
  const int64_t cs = k->args[0].stride[k->args[0].rank - 1];
  const float alpha = (float)d->alpha, beta = (float)d->beta;
  if (alpha != 1)
    for (int64_t i = 0; i < n; i++) acc[i] *= alpha;
  if (beta != 0) {
    load(j, 0, old, row_at, n, cs);
    for (int64_t i = 0; i < n; i++) acc[i] += beta * old[i];
  }
  if (k->n_args > 3) {
    const zg_view *b = &k->args[3];
    load(j, 3, old, b->offset + n0 * b->stride[b->rank - 1], n, b->stride[b->rank - 1]);
    for (int64_t i = 0; i < n; i++) acc[i] += old[i];
  }
  const zg_scalar by[] = {ZG_S_NONE, ZG_S_NONE, ZG_S_GELU, ZG_S_GELU_TANH, ZG_S_RELU};
  const zg_scalar s = by[d->epilogue];
  if (s != ZG_S_NONE) j->c->vec->map[ZG_CLS_F32][s][0](n, acc, acc, NULL, NULL, s);
  j->c->vec->store[k->args[0].dtype](n, cpu_at(j->c, 0, row_at), acc, cs);
}

static void block(void *arg, int64_t chunk, int thread) {
  const job *j = arg;
  const zg_matmul_desc *d = j->d;
  const zg_view *C = &j->c->k->args[0], *A = &j->c->k->args[1], *B = &j->c->k->args[2];
  const uint32_t r = C->rank - 2;
  const int64_t b = chunk / (j->tiles_m * j->tiles_n), t = chunk % (j->tiles_m * j->tiles_n);
  const int64_t m0 = t / j->tiles_n * MC, n0 = t % j->tiles_n * NC, m = ZG_MIN(MC, d->m - m0), n = ZG_MIN(NC, d->n - n0);
  const int64_t a_at = batch_at(A, C->dim, b) + m0 * A->stride[r], b_at = batch_at(B, C->dim, b) + n0 * B->stride[r + 1];
  float *pa = (float *)j->c->scratch[thread], *pb = pa + MC * KC, *acc = pb + KC * NC, *one = acc + MC * NC;
  memset(acc, 0, sizeof(float) * MC * NC);
  for (int64_t k0 = 0; k0 < d->k; k0 += KC) {
    const int64_t kc = ZG_MIN(KC, d->k - k0);
    pack(j, 1, pa, one, a_at + k0 * A->stride[r + 1], m, kc, A->stride[r], A->stride[r + 1], ZG_GEMM_MR);
    pack(j, 2, pb, one, b_at + k0 * B->stride[r], n, kc, B->stride[r + 1], B->stride[r], ZG_GEMM_NR);
    for (int64_t jn = 0; jn < n; jn += ZG_GEMM_NR)
      for (int64_t im = 0; im < m; im += ZG_GEMM_MR)
        j->c->vec->gemm(kc, pa + im * kc, pb + jn * kc, acc + im * NC + jn, NC, ZG_MIN(ZG_GEMM_MR, m - im), ZG_MIN(ZG_GEMM_NR, n - jn));
  }
  const int64_t c_at = batch_at(C, C->dim, b) + m0 * C->stride[r] + n0 * C->stride[r + 1];
  for (int64_t i = 0; i < m; i++) finish(j, c_at + i * C->stride[r], n0, n, acc + i * NC, one);
}

// ---- f64 and integers -------------------------------------------------------------------------------------------------
static double epilogue(int64_t e, double x) {
  switch ((zg_epilogue)e) {
    case ZG_EPI_NONE:
    case ZG_EPI_BIAS: return x;
    case ZG_EPI_BIAS_GELU: return zg_scalar_f64(ZG_S_GELU, x, 0, 0);
    case ZG_EPI_BIAS_GELU_TANH: return zg_scalar_f64(ZG_S_GELU_TANH, x, 0, 0);
    case ZG_EPI_BIAS_RELU: return zg_scalar_f64(ZG_S_RELU, x, 0, 0);
  }
  return x;
}

// PLAIN_N columns of one row of C, in the class of C. Products are summed in order of k.
static void row(void *arg, int64_t chunk, int thread) {
  (void)thread;
  const job *j = arg;
  const zg_matmul_desc *d = j->d;
  const cpu_call *c = j->c;
  const zg_view *C = &c->k->args[0], *A = &c->k->args[1], *B = &c->k->args[2];
  const uint32_t r = C->rank - 2;
  const int64_t b = chunk / (d->m * j->tiles_n), i = chunk / j->tiles_n % d->m, n0 = chunk % j->tiles_n * PLAIN_N;
  const int64_t n = ZG_MIN(PLAIN_N, d->n - n0);
  const int64_t a_at = batch_at(A, C->dim, b) + i * A->stride[r], b_at = batch_at(B, C->dim, b) + n0 * B->stride[r + 1];
  const int64_t c_at = batch_at(C, C->dim, b) + i * C->stride[r] + n0 * C->stride[r + 1];
  const bool ints = !zg_dtype_is_float(C->dtype);
  union { double f[PLAIN_N]; uint64_t i[PLAIN_N]; } acc = {{0}};
  for (int64_t k = 0; k < d->k; k++) {
    const int64_t at = a_at + k * A->stride[r + 1], bt = b_at + k * B->stride[r];
    if (ints) {
      const uint64_t x = (uint64_t)zg_get_i64(A->dtype, cpu_at(c, 1, at), 0);
      for (int64_t q = 0; q < n; q++) acc.i[q] += x * (uint64_t)zg_get_i64(B->dtype, cpu_at(c, 2, bt + q * B->stride[r + 1]), 0);
    } else if (A->dtype == ZG_F64 && B->dtype == ZG_F64) {
      const double x = *(const double *)cpu_at(c, 1, at), *y = (const double *)cpu_at(c, 2, bt);
      for (int64_t q = 0; q < n; q++) acc.f[q] += x * y[q * B->stride[r + 1]];
    } else {
      const double x = zg_get_f64(A->dtype, cpu_at(c, 1, at), 0);
      for (int64_t q = 0; q < n; q++) acc.f[q] += x * zg_get_f64(B->dtype, cpu_at(c, 2, bt + q * B->stride[r + 1]), 0);
    }
  }
  for (int64_t q = 0; q < n; q++) {
    uint8_t *to = cpu_at(c, 0, c_at + q * C->stride[r + 1]);
    if (ints) {
      zg_set_i64(C->dtype, to, 0, (int64_t)acc.i[q]);
      continue;
    }
    double x = d->alpha * acc.f[q];
    if (d->beta != 0) x += d->beta * zg_get_f64(C->dtype, to, 0);
    if (c->k->n_args > 3) {
      const zg_view *v = &c->k->args[3];
      x += zg_get_f64(v->dtype, cpu_at(c, 3, v->offset + (n0 + q) * v->stride[v->rank - 1]), 0);
    }
    zg_set_f64(C->dtype, to, 0, epilogue(d->epilogue, x));
  }
}

void cpu_matmul(const cpu_call *c) {
  const zg_kernel *k = c->k;
  job j = {.c = c, .d = k->desc};
  const int64_t batch = cpu_product(k->args[0].dim, 0, k->args[0].rank - 2);
  bool narrow = true;
  for (uint32_t a = 0; a < k->n_args; a++) narrow &= zg_cls_of(k->args[a].dtype) == ZG_CLS_F32;
  if (narrow) {
    j.tiles_m = (j.d->m + MC - 1) / MC;
    j.tiles_n = (j.d->n + NC - 1) / NC;
    zg_pool_run(c->pool, batch * j.tiles_m * j.tiles_n, block, &j);
  } else {
    j.tiles_n = (j.d->n + PLAIN_N - 1) / PLAIN_N;
    zg_pool_run(c->pool, batch * j.d->m * j.tiles_n, row, &j);
  }
}
