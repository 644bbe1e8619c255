// Op family: attention as one step, with the gradient that recomputes the weights.
//   flash_attention       (q: [B,H,T,D], k: [B,K,S,D], v: [B,K,S,E][, mask]) -> y: [B,H,T,E], lse: [B,H,T]
//   flash_attention_grad  (q, k, v, y, lse, dy[, mask]) -> dq, dk, dv
// The sums are those of `attention` (attention.c) without softcap. lse = log sum exp of a row's scores; +inf
// for a row that may attend to nothing, whose y is 0. Weights are exp(score - lse): neither they nor the
// scores are ever a tensor (FlashAttention, Dao et al. 2022, algorithms 1 and 4).
#include <math.h>

#include "graph/op/op_priv.h"

// ---- evaluation
// -----------------------------------------------------------------------------------------------------------
typedef struct {
  const zg_flash_attr *a;
  const zg_tensor *q, *k, *v, *mask;  // mask: NULL without
  int64_t b, h, kh, t, s, d, e;
  int64_t mask_stride[4];
} problem;

static problem problem_of(const zg_eval *x, uint32_t mask) {
  problem p = {.a = x->attr, .q = &x->in[0], .k = &x->in[1], .v = &x->in[2]};
  if (x->n_in > mask && x->in[mask].data) p.mask = &x->in[mask];
  const int64_t *q = p.q->type.dim, *k = p.k->type.dim;
  p.b = q[0], p.h = q[1], p.t = q[2], p.d = q[3], p.kh = k[1], p.s = k[2], p.e = p.v->type.dim[3];
  if (!p.mask) return p;
  int64_t stride[ZG_MAX_RANK];
  const zg_type *m = &p.mask->type;
  zg_type_strides(m, stride);
  for (uint32_t i = 0; i < m->rank; i++) p.mask_stride[4 - m->rank + i] = m->dim[i] == 1 ? 0 : stride[i];
  return p;
}

static double at(const zg_tensor *t, int64_t i) { return zg_get_f64(t->type.dtype, t->data, i); }
static int64_t key_row(const problem *p, int64_t bh, int64_t j) {
  return (bh / p->h * p->kh + bh % p->h / (p->h / p->kh)) * p->s + j;
}

static double score(const problem *p, int64_t bh, int64_t i, int64_t j) {
  if (p->a->causal && j > i + p->a->offset) return -INFINITY;
  double x = 0;
  for (int64_t d = 0; d < p->d; d++)
    x += at(p->q, (bh * p->t + i) * p->d + d) * at(p->k, key_row(p, bh, j) * p->d + d);
  x *= p->a->scale;
  if (!p->mask) return x;
  const int64_t *st = p->mask_stride, m = bh / p->h * st[0] + bh % p->h * st[1] + i * st[2] + j * st[3];
  if (p->mask->type.dtype == ZG_BOOL) return zg_get_i64(ZG_BOOL, p->mask->data, m) ? x : -INFINITY;
  return x + at(p->mask, m);
}

static zg_status flash_eval(zg_eval *x) {
  const problem p = problem_of(x, 3);
  double *row = zg_alloc(sizeof(double) * (size_t)(p.s + p.e + 1)), *y = row + p.s;
  for (int64_t n = 0; n < p.b * p.h * p.t; n++) {
    double max = -INFINITY, sum = 0;
    for (int64_t j = 0; j < p.s; j++) row[j] = score(&p, n / p.t, n % p.t, j), max = fmax(max, row[j]);
    memset(y, 0, sizeof(double) * (size_t)p.e);
    for (int64_t j = 0; j < p.s && max > -INFINITY; j++) {
      const double w = exp(row[j] - max);
      sum += w;
      for (int64_t e = 0; e < p.e; e++) y[e] += w * at(p.v, key_row(&p, n / p.t, j) * p.e + e);
    }
    for (int64_t e = 0; e < p.e; e++)
      zg_set_f64(x->out[0].type.dtype, x->out[0].data, n * p.e + e, sum > 0 ? y[e] / sum : 0);
    zg_set_f64(x->out[1].type.dtype, x->out[1].data, n, sum > 0 ? max + log(sum) : INFINITY);
  }
  zg_free(row);
  return NULL;
}

// One row of scores: dk and dv gain, dq is made.
static void row_grad(const problem *p, const zg_eval *x, int64_t n, double *dq, double *dk, double *dv) {
  const zg_tensor *y = &x->in[3], *lse = &x->in[4], *dy = &x->in[5];
  double delta = 0;
  for (int64_t e = 0; e < p->e; e++) delta += at(dy, n * p->e + e) * at(y, n * p->e + e);
  for (int64_t j = 0; j < p->s; j++) {
    const double w = exp(score(p, n / p->t, n % p->t, j) - at(lse, n));
    const int64_t key = key_row(p, n / p->t, j);
    double dp = -delta;
    if (!(w > 0)) continue;
    for (int64_t e = 0; e < p->e; e++) {
      dp += at(dy, n * p->e + e) * at(p->v, key * p->e + e);
      dv[key * p->e + e] += w * at(dy, n * p->e + e);
    }
    for (int64_t d = 0; d < p->d; d++) {
      dq[n * p->d + d] += w * dp * p->a->scale * at(p->k, key * p->d + d);
      dk[key * p->d + d] += w * dp * p->a->scale * at(p->q, n * p->d + d);
    }
  }
}

static zg_status flash_grad_eval(zg_eval *x) {
  const problem p = problem_of(x, 6);
  const int64_t size[3] = {zg_elems(&x->out[0].type), zg_elems(&x->out[1].type), zg_elems(&x->out[2].type)};
  double *all = zg_alloc(sizeof(double) * (size_t)(size[0] + size[1] + size[2] + 1));
  double *to[3] = {all, all + size[0], all + size[0] + size[1]};
  for (int64_t n = 0; n < p.b * p.h * p.t; n++) row_grad(&p, x, n, to[0], to[1], to[2]);
  for (int i = 0; i < 3; i++) zg_convert(x->out[i].type.dtype, x->out[i].data, ZG_F64, to[i], size[i]);
  zg_free(all);
  return NULL;
}

// ---- inference and gradient
// -----------------------------------------------------------------------------------------------
static zg_status flash_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 3, 4));
  ZG_TRY(zg__attention_result(x->in[0], x->in[1], x->in[2], x->n_in > 3 ? x->in[3] : NULL, &x->out[0]));
  x->out[1] = zg_type_make(zg__wide_dtype(x->out[0].dtype), 3, x->out[0].dim);
  return NULL;
}

static zg_status flash_grad_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 6, 7));
  zg_type y;
  ZG_TRY(zg__attention_result(x->in[0], x->in[1], x->in[2], x->n_in > 6 ? x->in[6] : NULL, &y));
  if (!zg_same_shape(&y, x->in[3]) || !zg_same_shape(&y, x->in[5]))
    return zg_error(ZG_INVALID, "y %s or dy %s is not the result's shape %s", zg_type_text(x->in[3]),
                    zg_type_text(x->in[5]), zg_type_text(&y));
  for (int i = 0; i < 3; i++) x->out[i] = *x->in[i];
  return NULL;
}

// Gradient of a mask that is a tensor of the model (relative positions): the scores' gradient summed to its
// shape. This one does make the scores.
static zg_val mask_grad(zg_grad *g, zg_val delta) {
  zg_builder *b = g->b;
  const zg_flash_attr *a = g->attr;
  const zg_type q = *zg_b_type(b, g->in[0]), k = *zg_b_type(b, g->in[1]), v = *zg_b_type(b, g->in[2]),
                m = *zg_b_type(b, g->in[3]);
  const int64_t rows = q.dim[1] / k.dim[1] * q.dim[2], full[4] = {q.dim[0], q.dim[1], q.dim[2], k.dim[2]};
  const int64_t grouped[4] = {q.dim[0], k.dim[1], rows, q.dim[3]},
                grouped_dy[4] = {q.dim[0], k.dim[1], rows, v.dim[3]};
  zg_val s =
      zg_b_reshape(b, zg_b_matmul(b, zg_b_reshape(b, g->in[0], grouped, 4), g->in[1], false, true), full, 4);
  const zg_val dp = zg_b_reshape(
      b, zg_b_matmul(b, zg_b_reshape(b, g->dout[0], grouped_dy, 4), g->in[2], false, true), full, 4);
  s = zg_add(b, zg_mul_k(b, zg__wide(b, s), a->scale), zg__cast_like(b, g->in[3], g->out[1]));
  if (a->causal) {
    const zg_type t = *zg_b_type(b, s);
    const zg_val i = zg__index_along(b, &t, 2, (double)a->offset), j = zg__index_along(b, &t, 3, 0);
    s = zg_b_where(b, zg_b_map2(b, ZG_S_LE, j, i), s, zg_b_like(b, s, -INFINITY));
  }
  const zg_val w = zg_b_map1(b, ZG_S_EXP, zg_sub(b, s, zg_b_unsqueeze(b, g->out[1], 3)));
  const zg_val ds = zg_mul(b, w, zg_sub(b, zg__wide(b, dp), delta));
  return zg__cast_like(b, zg_b_sum_to(b, ds, &m), g->in[3]);
}

static zg_status flash_grad(zg_grad *g) {
  zg_builder *b = g->b;
  if (zg_is(g->dout[1])) return zg_error(ZG_UNSUPPORTED, "the gradient of the log-sum-exp is not defined");
  if (!zg_is(g->dout[0])) return NULL;
  const zg_val mask = g->n_in > 3 ? g->in[3] : (zg_val){0};
  const zg_val in[7] = {g->in[0], g->in[1], g->in[2], g->out[0], g->out[1], g->dout[0], mask};
  zg_val d[3];
  if (zg_emit(b, &zg_op_flash_attention_grad, g->attr, in, zg_is(mask) ? 7 : 6, d, 3))
    for (int i = 0; i < 3; i++) g->din[i] = g->need[i] ? d[i] : (zg_val){0};
  if (g->n_in < 4 || !g->need[3] || zg_builder_failed(b)) return NULL;
  const int64_t axis = -1;
  g->din[3] = mask_grad(
      g,
      zg_b_reduce(b, ZG_RED_SUM, zg_mul(b, zg__wide(b, g->dout[0]), zg__wide(b, g->out[0])), &axis, 1, true));
  return NULL;
}

// ---- tables
// ---------------------------------------------------------------------------------------------------------------
static const zg_attr_field flash_fields[] = {ZG_FIELD(INT, zg_flash_attr, causal, 0),
                                             ZG_FIELD(INT, zg_flash_attr, offset, 0),
                                             ZG_FIELD(FLOAT, zg_flash_attr, scale, 1)};
#define QKV(q, k, v)                                                      \
  "%1 = input name=\"q\" type=f64" q "\n%2 = input name=\"k\" type=f64" k \
  "\n%3 = input name=\"v\" type=f64" v "\n"
#define MASK(m) "%4 = input name=\"m\" type=" m "\n"
#define PLAIN(attrs) "%4, %5 = flash_attention %1, %2, %3 " attrs "\noutput value \"y\" %4"
#define MASKED(attrs) "%5, %6 = flash_attention %1, %2, %3, %4 " attrs "\noutput value \"y\" %5"
static const zg_op_case flash_cases[] = {
    {.name = "plain", .text = QKV("[2,2,3,4]", "[2,2,5,4]", "[2,2,5,3]") PLAIN("scale=0.5")},
    {.name = "causal", .text = QKV("[1,2,3,2]", "[1,2,3,2]", "[1,2,3,2]") PLAIN("causal=1")},
    {.name = "causal, after a cache",
     .text = QKV("[1,1,2,2]", "[1,1,5,2]", "[1,1,5,2]") PLAIN("causal=1 offset=3")},
    {.name = "causal, rows without keys",
     .text = QKV("[1,1,4,2]", "[1,1,3,2]", "[1,1,3,2]") PLAIN("causal=1 offset=-2")},
    {.name = "grouped heads", .text = QKV("[2,4,3,2]", "[2,2,3,2]", "[2,2,3,5]") PLAIN("causal=1")},
    {.name = "float mask",
     .text = QKV("[2,2,3,2]", "[2,2,4,2]", "[2,2,4,2]") MASK("f64[3,4]") MASKED("scale=0.7")},
    {.name = "grouped, causal, float mask by head",
     .text = QKV("[1,4,2,2]", "[1,2,3,2]", "[1,2,3,2]") MASK("f64[1,4,1,3]") MASKED("causal=1 offset=1")},
    {.name = "bool mask",
     .text = QKV("[1,4,2,2]", "[1,2,3,2]", "[1,2,3,2]") MASK("bool[2,3]") MASKED(""),
     .data = "m: 1 0 1 0 0 0"},
    {.name = "no rows", .text = QKV("[2,0,3,2]", "[2,1,3,2]", "[2,1,3,2]") PLAIN("")},
};
const zg_op zg_op_flash_attention = {.name = "flash_attention",
                                     .traits = ZG_CORE,
                                     ZG_ATTRS(zg_flash_attr, flash_fields),
                                     .n_out = 2,
                                     .infer = flash_infer,
                                     .eval = flash_eval,
                                     .grad = flash_grad,
                                     ZG_CASES(flash_cases)};

static const zg_op_case flash_grad_cases[] = {
    {.name = "causal",
     .no_grad = true,
     .text = QKV("[1,2,3,2]", "[1,1,3,2]",
                 "[1,1,3,2]") "%4 = input name=\"dy\" type=f64[1,2,3,2]\n"
                              "%5, %6 = flash_attention %1, %2, %3 causal=1\n%7, %8, %9 = "
                              "flash_attention_grad %1, %2, %3, %5, %6, %4 causal=1\n"
                              "output value \"dq\" %7\noutput value \"dk\" %8\noutput value \"dv\" %9"},
};
const zg_op zg_op_flash_attention_grad = {.name = "flash_attention_grad",
                                          .traits = ZG_CORE | ZG_NO_GRAD,
                                          ZG_ATTRS(zg_flash_attr, flash_fields),
                                          .n_out = 3,
                                          .infer = flash_grad_infer,
                                          .eval = flash_grad_eval,
                                          ZG_CASES(flash_grad_cases)};

static const zg_op *const ops[] = {&zg_op_flash_attention, &zg_op_flash_attention_grad};
const zg_family zg_family_flash = {.name = "flash", .ops = ops, .n_ops = ZG_COUNT(ops)};
