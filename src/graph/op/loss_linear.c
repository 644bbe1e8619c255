// Op family: cross entropy over a linear layer, by chunks of rows.
//
//   h [N,K] ── chunk of rows ──> logits [rows,V] ──> loss of each row
//                                     │ in place
//                                     v
//                                 d logits ──> dh, rows of it      dh [N,K]
//                                     └──────> dw += h' d logits   dw [K,V]
//
// The logits of a large vocabulary are the largest tensor of a language model's step: 8192 tokens x 50257 classes are 1.6 GB, more
// than the model. But a row's loss and gradient need that row alone, so both are computed as soon as its logits are there, and the
// next chunk uses their memory again. The price: the gradient of w exists from here on (it would come at the end of the
// backward's first step anyhow) and is read and written once a chunk. No product is computed twice.
//   - the gradients are results of the op itself, so that the graph says what is computed where; autodiff multiplies them by what
//     reaches the loss, which is `scale` as a rule: a factor of 1
//   - rows lie in order: the loss is summed over all of them at once, as it is without chunks
// Compare Hsu et al. 2024, "Liger Kernel", section 3.2 (FusedLinearCrossEntropy).
#include "graph/op/op_priv.h"

enum { H, W, LABELS, BIAS, CLASS_WEIGHT };  // operands
enum { LOSS, DH, DW, DBIAS, TOP, N_OUT };   // results

static const zg_type *operand(const zg_infer *x, uint32_t i) { return i < x->n_in ? x->in[i] : NULL; }

static bool is_vector(const zg_type *t, int64_t n) { return !t || (t->rank == 1 && t->dim[0] == n && zg_dtype_is_float(t->dtype)); }

static zg_status linear_cross_entropy_infer(zg_infer *x) {
  const zg_linear_cross_entropy_attr *a = x->attr;
  if (x->n_in < 3 || x->n_in > 5 || !x->in[H] || !x->in[W] || !x->in[LABELS])
    return zg_error(ZG_INVALID, "wants rows, a matrix and labels [, bias [, class weights]]");
  const zg_type *h = x->in[H], *w = x->in[W], *l = x->in[LABELS], *bias = operand(x, BIAS), *cw = operand(x, CLASS_WEIGHT);
  const int64_t v = w->rank == 2 ? w->dim[a->tb ? 0 : 1] : 0;
  const bool ok = h->rank == 2 && w->rank == 2 && h->dtype == w->dtype && zg_dtype_is_float(h->dtype) && l->rank == 1 &&
                  zg_dtype_is_int(l->dtype) && l->dim[0] == h->dim[0] && w->dim[a->tb ? 1 : 0] == h->dim[1];
  if (!ok || !is_vector(bias, v) || !is_vector(cw, v))
    return zg_error(ZG_INVALID, "rows %s, matrix %s%s and labels %s do not fit", zg_type_text(h), zg_type_text(w),
                    a->tb ? " transposed" : "", zg_type_text(l));
  if (a->rows < 1 || a->scale == 0 || a->reduction < ZG__CE_MEAN || a->reduction > ZG__CE_SUM || (cw && a->smoothing != 0))
    return zg_error(ZG_INVALID, "wants at least 1 row a chunk, a scale that is not 0, the mean or the sum, class weights or smoothing");
  const zg_dtype wide = zg__wide_dtype(h->dtype);
  x->out[LOSS] = zg_type_scalar(wide);
  x->out[DH] = zg_type_make(wide, 2, h->dim);
  x->out[DW] = zg_type_make(wide, 2, w->dim);
  x->out[DBIAS] = zg_type_make(wide, 1, &v);
  x->out[TOP] = zg_type_make(ZG_I64, 1, l->dim);
  return NULL;
}

// ---- lowering -----------------------------------------------------------------------------------------------------

typedef struct {
  zg_builder *b;
  const zg_linear_cross_entropy_attr *a;
  zg_cross_entropy_attr ce;       // of a chunk: class on axis 1, a loss for each row
  zg_val h, w, labels, bias, class_weight;
  zg_val factor;                  // f[N]: scale times what each row's loss counts in the result
  zg_val dw, dbias;               // sums so far
} chunks;

static zg_val optional(const zg_lower *x, uint32_t i) { return i < x->n_in ? x->in[i] : (zg_val){0}; }

static zg_val logits_of(const chunks *c, zg_val h) {
  zg_builder *b = c->b;
  const zg_val x = zg_b_matmul(b, h, c->w, false, c->a->tb);
  return zg__wide(b, zg_is(c->bias) ? zg_add(b, x, zg__cast_like(b, c->bias, x)) : x);
}

static void add_dw(chunks *c, zg_val h, zg_val d) {
  const zg_matmul_attr a = {.ta = 1, .wide = zg__is_half(zg_b_type(c->b, h)->dtype)};
  const zg_val x = c->a->tb ? d : h, y = c->a->tb ? h : d;
  if (zg_is(c->dw)) c->dw = zg_emit1(c->b, &zg_op_matmul_add, &a, (zg_val[]){c->dw, x, y}, 3);
  else c->dw = zg_emit1(c->b, &zg_op_matmul, &a, (zg_val[]){x, y}, 2);
}

// Rows of loss, dh and top class of one chunk; adds its part of dw and dbias.
static void emit_chunk(chunks *c, int64_t from, int64_t rows, zg_val *loss, zg_val *dh, zg_val *top) {
  zg_builder *b = c->b;
  const zg_val h = zg_b_slice1(b, c->h, 0, from, rows), labels = zg_b_slice1(b, c->labels, 0, from, rows);
  const zg_val x = logits_of(c, h);
  const zg_val in[3] = {x, labels, c->class_weight};
  const zg_arg_reduce_attr arg = {.axis = 1};
  *top = zg_b_squeeze(b, zg_emit1(b, &zg_op_arg_reduce, &arg, &x, 1), 1);
  *loss = zg_emit1(b, &zg_op_cross_entropy, &c->ce, in, zg_is(c->class_weight) ? 3 : 2);
  const zg_val wide = zg__ce_dlogits(b, &c->ce, x, labels, zg_b_slice1(b, c->factor, 0, from, rows)), d = zg__cast_like(b, wide, h);
  const zg_matmul_attr a = {.tb = !c->a->tb, .wide = zg__is_half(zg_b_type(b, h)->dtype)};
  *dh = zg_emit1(b, &zg_op_matmul, &a, (zg_val[]){d, c->w}, 2);
  add_dw(c, h, d);
  const int64_t axis = 0;
  const zg_val db = zg_b_reduce(b, ZG_RED_SUM, wide, &axis, 1, false);
  c->dbias = zg_is(c->dbias) ? zg_add(b, c->dbias, db) : db;
}

static void no_rows(zg_lower *x) {   // the mean of nothing is 0 / 0, as it is without chunks
  const zg_linear_cross_entropy_attr *a = x->attr;
  zg_type h = *zg_b_type(x->b, x->in[H]), w = *zg_b_type(x->b, x->in[W]);
  h.dtype = w.dtype = zg__wide_dtype(h.dtype);
  const zg_type bias = zg_type_make(h.dtype, 1, &w.dim[a->tb ? 0 : 1]), top = zg_type_make(ZG_I64, 1, h.dim);
  x->out[DH] = zg_b_fill(x->b, &h, 0);
  x->out[DW] = zg_b_fill(x->b, &w, 0);
  x->out[DBIAS] = zg_b_fill(x->b, &bias, 0);
  x->out[TOP] = zg_b_fill(x->b, &top, 0);
}

static zg_status linear_cross_entropy_lower(zg_lower *x) {
  const zg_linear_cross_entropy_attr *a = x->attr;
  zg_builder *b = x->b;
  chunks c = {.b = b, .a = a, .h = x->in[H], .w = x->in[W], .labels = zg_b_cast(b, x->in[LABELS], ZG_I64),
              .bias = optional(x, BIAS), .class_weight = optional(x, CLASS_WEIGHT),
              .ce = {.axis = 1, .ignore = a->ignore, .smoothing = a->smoothing, .reduction = ZG__CE_NONE}};
  const int64_t n = zg_b_type(b, c.h)->dim[0], n_chunks = zg__ceil_div(n, a->rows);
  const zg_dtype wide = zg__wide_dtype(zg_b_type(b, c.h)->dtype);
  const zg_val share = zg__ce_share(b, &c.ce, c.labels, c.class_weight, wide);
  const zg_val count = zg_b_reduce_all(b, ZG_RED_SUM, share);
  c.factor = zg_mul_k(b, share, a->scale);
  if (a->reduction == ZG__CE_MEAN) c.factor = zg_div(b, c.factor, count);
  zg_arena scratch = {0};
  zg_val *loss = ZG_NEW_N(&scratch, zg_val, n_chunks + 1), *dh = ZG_NEW_N(&scratch, zg_val, n_chunks + 1);
  zg_val *top = ZG_NEW_N(&scratch, zg_val, n_chunks + 1), all = share;
  for (int64_t i = 0; i < n_chunks; i++)
    emit_chunk(&c, i * a->rows, ZG_MIN(a->rows, n - i * a->rows), &loss[i], &dh[i], &top[i]);
  if (n_chunks) {
    all = zg_b_concat(b, loss, (uint32_t)n_chunks, 0);
    x->out[DH] = zg_b_concat(b, dh, (uint32_t)n_chunks, 0);
    x->out[DW] = c.dw;
    x->out[DBIAS] = c.dbias;
    x->out[TOP] = zg_b_concat(b, top, (uint32_t)n_chunks, 0);
  } else {
    no_rows(x);
  }
  zg_arena_fini(&scratch);
  const zg_val sum = zg_b_reduce_all(b, ZG_RED_SUM, all);
  x->out[LOSS] = a->reduction == ZG__CE_MEAN ? zg_div(b, sum, count) : sum;
  return NULL;
}

static zg_status linear_cross_entropy_grad(zg_grad *g) {
  static const uint32_t operand_of[] = {[DH] = H, [DW] = W, [DBIAS] = BIAS};
  const zg_linear_cross_entropy_attr *a = g->attr;
  zg_builder *b = g->b;
  for (uint32_t k = DH; k <= DBIAS; k++)
    if (zg_is(g->dout[k])) return zg_error(ZG_UNSUPPORTED, "no second derivative of linear_cross_entropy");
  if (!zg_is(g->dout[LOSS])) return NULL;
  if (g->n_in > CLASS_WEIGHT && g->need[CLASS_WEIGHT])
    return zg_error(ZG_UNSUPPORTED, "linear_cross_entropy has no gradient by its class weights");
  const zg_val factor = zg_mul_k(b, g->dout[LOSS], 1 / a->scale);
  for (uint32_t k = DH; k <= DBIAS; k++) {
    const uint32_t i = operand_of[k];
    if (i >= g->n_in || !g->need[i]) continue;
    double one;
    const zg_val d = g->out[k];
    g->din[i] = zg__cast_like(b, zg_b_const_scalar(b, factor, &one) && one == 1 ? d : zg_mul(b, d, factor), g->in[i]);
  }
  return NULL;
}

static const zg_attr_field linear_cross_entropy_fields[] = {
    ZG_FIELD(INT, zg_linear_cross_entropy_attr, tb, 0),          ZG_FIELD(INT, zg_linear_cross_entropy_attr, rows, 256),
    ZG_FIELD(INT, zg_linear_cross_entropy_attr, ignore, -100),   ZG_FIELD(INT, zg_linear_cross_entropy_attr, reduction, 0),
    ZG_FIELD(FLOAT, zg_linear_cross_entropy_attr, smoothing, 0), ZG_FIELD(FLOAT, zg_linear_cross_entropy_attr, scale, 1),
};
#define HWL(h, w, l) "%1 = input name=\"h\" type=f64" h "\n%2 = input name=\"w\" type=f64" w "\n%3 = input name=\"l\" type=i64" l "\n"
#define OUT4 "\noutput value \"y\" %4"
static const zg_op_case linear_cross_entropy_cases[] = {
    {.name = "chunks of different size",
     .text = HWL("[5,3]", "[3,4]", "[5]") "%4, %5, %6, %7, %10 = linear_cross_entropy %1, %2, %3 rows=2" OUT4,
     .hi = 3},
    {.name = "one chunk, matrix transposed",
     .text = HWL("[4,3]", "[5,3]", "[4]") "%4, %5, %6, %7, %10 = linear_cross_entropy %1, %2, %3 tb=1 rows=9223372036854775807" OUT4,
     .hi = 4},
    {.name = "row by row, ignored label, sum",
     .text = HWL("[4,3]", "[3,4]", "[4]") "%4, %5, %6, %7, %10 = linear_cross_entropy %1, %2, %3 rows=1 reduction=1" OUT4,
     .data = "l: 2 -100 0 3"},
    {.name = "bias, smoothing, other scale",
     .text = HWL("[5,3]", "[4,3]", "[5]") "%8 = input name=\"b\" type=f64[4]\n%4, %5, %6, %7, %10 = linear_cross_entropy %1, %2, %3, %8 "
             "tb=1 rows=2 smoothing=0.1 scale=0.25\n%9 = mul %4, %4\noutput value \"y\" %9",
     .data = "l: 0 3 -100 1 1"},
    {.name = "top classes",
     .text = HWL("[5,3]", "[3,4]", "[5]") "%4, %5, %6, %7, %10 = linear_cross_entropy %1, %2, %3 rows=2\noutput value \"top\" %10",
     .hi = 3},
    {.name = "no rows",
     .text = HWL("[0,3]", "[3,4]", "[0]") "%4, %5, %6, %7, %10 = linear_cross_entropy %1, %2, %3 reduction=1" OUT4},
    {.name = "class weights",
     .text = HWL("[5,3]", "[3,4]", "[5]") "%8 = const type=f64[4] data=[1,2,0.5,3]\n"
             "%4, %5, %6, %7, %10 = linear_cross_entropy %1, %2, %3, _, %8 rows=3 ignore=2" OUT4,
     .hi = 3},
};
const zg_op zg_op_linear_cross_entropy = {.name = "linear_cross_entropy",
                                          ZG_ATTRS(zg_linear_cross_entropy_attr, linear_cross_entropy_fields),
                                          .n_out = N_OUT,
                                          .infer = linear_cross_entropy_infer,
                                          .grad = linear_cross_entropy_grad,
                                          .lower = linear_cross_entropy_lower,
                                          ZG_CASES(linear_cross_entropy_cases)};
static const zg_op *const ops[] = {&zg_op_linear_cross_entropy};
const zg_family zg_family_loss_linear = {.name = "loss_linear", .ops = ops, .n_ops = ZG_COUNT(ops)};
