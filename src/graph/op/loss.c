// Op family: losses of class scores.
// cross_entropy and its gradient compare a counted class index with the label instead of gathering and
// scattering, so that log-softmax, the pick of the label and the gradient (softmax - one-hot) fuse into one
// loop over the classes.
#include "graph/op/op_priv.h"

enum { MEAN = ZG__CE_MEAN, SUM = ZG__CE_SUM, NONE = ZG__CE_NONE };

static zg_status cross_entropy_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 2, 3));
  const zg_cross_entropy_attr *a = x->attr;
  const zg_type *t = x->in[0], *l = x->in[1], *w = x->n_in > 2 ? x->in[2] : NULL;
  const int64_t axis = a->axis < 0 ? a->axis + t->rank : a->axis;
  bool ok = axis >= 0 && axis < t->rank && zg_dtype_is_float(t->dtype) && zg_dtype_is_int(l->dtype) &&
            l->rank + 1 == t->rank;
  for (uint32_t i = 0; ok && i < l->rank; i++) ok = l->dim[i] == t->dim[i + (i >= axis)];
  if (!ok)
    return zg_error(ZG_INVALID, "labels %s do not fit logits %s with the classes on axis %lld",
                    zg_type_text(l), zg_type_text(t), (long long)a->axis);
  if (a->reduction < MEAN || a->reduction > NONE)
    return zg_error(ZG_INVALID, "no reduction %lld", (long long)a->reduction);
  if (w && (w->rank != 1 || w->dim[0] != t->dim[axis] || !zg_dtype_is_float(w->dtype) || a->smoothing != 0))
    return zg_error(ZG_INVALID, "class weights %s: want %lld floats, and no label smoothing", zg_type_text(w),
                    (long long)t->dim[axis]);
  const zg_dtype wide = zg__wide_dtype(t->dtype);
  x->out[0] = a->reduction == NONE ? zg_type_make(wide, l->rank, l->dim) : zg_type_scalar(wide);
  return NULL;
}

typedef struct {
  int64_t axis;
  zg_type type;  // of the logits
  zg_val hit;    // bool, like the logits: is this the label's class
} target;

static target find_target(zg_builder *b, const zg_cross_entropy_attr *a, zg_val x, zg_val labels) {
  target t = {.type = *zg_b_type(b, x)};
  t.axis = a->axis < 0 ? a->axis + t.type.rank : a->axis;
  const zg_val l = zg_b_cast(b, labels, ZG_I64);
  t.hit = zg_b_map2(b, ZG_S_EQ, zg__index_along(b, &t.type, t.axis, 0), zg_b_unsqueeze(b, l, t.axis));
  return t;
}

zg_val zg__ce_valid(zg_builder *b, const zg_cross_entropy_attr *a, zg_val labels) {
  const zg_type scalar = zg_type_scalar(ZG_I64);
  return zg_b_map2(b, ZG_S_NE, zg_b_cast(b, labels, ZG_I64), zg_b_const_data(b, &scalar, &a->ignore));
}

zg_val zg__ce_share(zg_builder *b, const zg_cross_entropy_attr *a, zg_val labels, zg_val weight, zg_dtype t) {
  const zg_val valid = zg__ce_valid(b, a, labels);
  if (!zg_is(weight)) return zg_b_cast(b, valid, t);
  const zg_val l = zg_b_cast(b, labels, ZG_I64), zero = zg_b_like(b, l, 0);
  const zg_val mine = zg_b_gather(b, zg_b_cast(b, weight, t), zg_b_where(b, valid, l, zero), 0);
  return zg_b_where(b, valid, mine, zg_b_like(b, mine, 0));
}

// What each label's logits lose, before smoothing and weights; labels like the losses. lp: log-probabilities.
static zg_val loss_of_each(zg_builder *b, const target *t, zg_val lp) {
  const zg_val zero = zg_b_like(b, lp, 0);
  return zg_neg(b, zg_b_reduce(b, ZG_RED_SUM, zg_b_where(b, t->hit, lp, zero), &t->axis, 1, false));
}

static zg_val log_probs_of(zg_builder *b, const zg_cross_entropy_attr *a, const target *t, zg_val logits) {
  const zg_val x = zg__wide(b, logits);
  return a->log_probs ? x : zg_emit1(b, &zg_op_log_softmax, &(zg_axis_attr){t->axis}, &x, 1);
}

static zg_status cross_entropy_lower(zg_lower *x) {
  const zg_cross_entropy_attr *a = x->attr;
  zg_builder *b = x->b;
  const target t = find_target(b, a, x->in[0], x->in[1]);
  const zg_val weight = x->n_in > 2 ? x->in[2] : (zg_val){0};
  const zg_val lp = log_probs_of(b, a, &t, x->in[0]), zero = zg_b_like(b, lp, 0);
  zg_val each = loss_of_each(b, &t, lp);
  if (a->smoothing != 0) {
    const zg_val all = zg_b_reduce(b, ZG_RED_SUM, lp, &t.axis, 1, false);
    each = zg_sub(b, zg_mul_k(b, each, 1 - a->smoothing),
                  zg_mul_k(b, all, a->smoothing / (double)t.type.dim[t.axis]));
  }
  each = zg_b_where(b, zg__ce_valid(b, a, x->in[1]), each, zero);
  const zg_val share = zg__ce_share(b, a, x->in[1], weight, zg_b_type(b, lp)->dtype);
  if (zg_is(weight)) each = zg_mul(b, each, share);
  if (a->reduction != NONE) each = zg_b_reduce_all(b, ZG_RED_SUM, each);
  x->out[0] = a->reduction == MEAN ? zg_div(b, each, zg_b_reduce_all(b, ZG_RED_SUM, share)) : each;
  return NULL;
}

zg_val zg__ce_dlogits(zg_builder *b, const zg_cross_entropy_attr *a, zg_val logits, zg_val labels, zg_val rows) {
  const target t = find_target(b, a, logits, labels);
  const zg_val x = zg__wide(b, logits), zero = zg_b_like(b, x, 0), w = zg_b_unsqueeze(b, rows, t.axis);
  const double rest = a->smoothing / (double)t.type.dim[t.axis];
  zg_val p = zg_b_where(b, t.hit, zg_b_like(b, x, 1 - a->smoothing + rest), zg_b_like(b, x, rest));
  const zg_val q = a->log_probs ? zero : zg_emit1(b, &zg_op_softmax, &(zg_axis_attr){t.axis}, &x, 1);
  return zg__cast_like(b, zg_mul(b, w, zg_sub(b, q, p)), logits);
}

// Of the class weights: what the labels of each class lose, less the loss itself where the weights divide it (the mean).
static zg_val grad_of_weight(zg_grad *g, zg_val dy) {
  const zg_cross_entropy_attr *a = g->attr;
  zg_builder *b = g->b;
  const target t = find_target(b, a, g->in[0], g->in[1]);
  zg_val each = loss_of_each(b, &t, log_probs_of(b, a, &t, g->in[0]));
  if (a->reduction == MEAN) each = zg_sub(b, each, g->out[0]);
  const zg_val zero = zg_b_like(b, each, 0);
  each = zg_b_where(b, zg__ce_valid(b, a, g->in[1]), zg_mul(b, each, dy), zero);
  int64_t axes[ZG_MAX_RANK], n = 0;   // all but the class's
  for (int64_t d = 0; d < (int64_t)t.type.rank; d++)
    if (d != t.axis) axes[n++] = d;
  const zg_val of_class = zg_b_where(b, t.hit, zg_b_unsqueeze(b, each, t.axis), zero);
  return zg__cast_like(b, n ? zg_b_reduce(b, ZG_RED_SUM, of_class, axes, n, false) : of_class, g->in[2]);
}

static zg_status cross_entropy_grad(zg_grad *g) {
  const zg_cross_entropy_attr *a = g->attr;
  zg_builder *b = g->b;
  if (!zg_is(g->dout[0])) return NULL;
  const zg_val weight = g->n_in > 2 ? g->in[2] : (zg_val){0}, zero = zg_b_like(b, zg__wide(b, g->in[0]), 0);
  const zg_val share = zg__ce_share(b, a, g->in[1], weight, zg_b_type(b, zero)->dtype);
  zg_val w = g->dout[0];
  if (a->reduction == MEAN) w = zg_div(b, w, zg_b_reduce_all(b, ZG_RED_SUM, share));
  if (zg_is(weight) && g->need[2]) g->din[2] = grad_of_weight(g, w);
  if (!g->need[0]) return NULL;
  w = zg_is(weight) ? zg_mul(b, w, share) : zg_b_where(b, zg__ce_valid(b, a, g->in[1]), w, zero);
  g->din[0] = zg__ce_dlogits(b, a, g->in[0], g->in[1], w);
  return NULL;
}

static const zg_attr_field cross_entropy_fields[] = {
    ZG_FIELD(INT, zg_cross_entropy_attr, axis, -1),     ZG_FIELD(INT, zg_cross_entropy_attr, ignore, -100),
    ZG_FIELD(INT, zg_cross_entropy_attr, log_probs, 0), ZG_FIELD(FLOAT, zg_cross_entropy_attr, smoothing, 0),
    ZG_FIELD(INT, zg_cross_entropy_attr, reduction, 0),
};
#define XL(x, l) "%1 = input name=\"x\" type=f64" x "\n%2 = input name=\"l\" type=i64" l "\n"
#define OUT3 "\noutput value \"y\" %3"
static const zg_op_case cross_entropy_cases[] = {
    {.name = "rows", .text = XL("[4,5]", "[4]") "%3 = cross_entropy %1, %2" OUT3, .hi = 4},
    {.name = "sequence", .text = XL("[2,3,7]", "[2,3]") "%3 = cross_entropy %1, %2 ignore=2" OUT3, .hi = 6},
    {.name = "classes on axis 1",
     .text = XL("[2,5,3]", "[2,3]") "%3 = cross_entropy %1, %2 axis=1" OUT3,
     .hi = 4},
    {.name = "smoothing", .text = XL("[4,5]", "[4]") "%3 = cross_entropy %1, %2 smoothing=0.1" OUT3, .hi = 4},
    {.name = "smoothing, ignored label",
     .text = XL("[4,3]", "[4]") "%3 = cross_entropy %1, %2 smoothing=0.2" OUT3,
     .data = "l: 0 -100 2 1",
     .hi = 2},
    {.name = "sum",
     .text = XL("[4,5]", "[4]") "%3 = cross_entropy %1, %2 reduction=1 ignore=1" OUT3,
     .hi = 4},
    {.name = "each", .text = XL("[4,5]", "[4]") "%3 = cross_entropy %1, %2 reduction=2" OUT3, .hi = 4},
    {.name = "one label", .text = XL("[5]", "[]") "%3 = cross_entropy %1, %2" OUT3, .hi = 4},
    {.name = "class weights, sum",
     .text = XL("[4,5]", "[4]") "%3 = const type=f64[5] data=[1,2,0.5,0,3]\n"
             "%4 = cross_entropy %1, %2, %3 reduction=1\noutput value \"y\" %4",
     .data = "l: 1 4 0 2"},
    {.name = "class weights, mean, ignored label",
     .text = XL("[2,3,5]", "[2,5]") "%3 = const type=f64[3] data=[1,2,0.5]\n"
             "%4 = cross_entropy %1, %2, %3 axis=1 ignore=1\noutput value \"y\" %4",
     .hi = 2},
    {.name = "class weights' own gradient, mean, ignored label",
     .text = XL("[4,3]", "[4]") "%3 = input name=\"w\" type=f64[3]\n%4 = cross_entropy %1, %2, %3 ignore=1\noutput value \"y\" %4",
     .data = "l: 0 2 1 2",
     .lo = 0.5,
     .hi = 2},
    {.name = "class weights' own gradient, each, axis 1",
     .text = XL("[2,3,2]", "[2,2]") "%3 = input name=\"w\" type=f64[3]\n"
             "%4 = cross_entropy %1, %2, %3 axis=1 reduction=2\noutput value \"y\" %4",
     .data = "l: 0 2 1 2",
     .lo = 0.5,
     .hi = 2},
    {.name = "log-probabilities",
     .text = XL("[4,5]", "[4]") "%3 = cross_entropy %1, %2 log_probs=1 smoothing=0.3" OUT3,
     .hi = 4},
};
const zg_op zg_op_cross_entropy = {.name = "cross_entropy",
                                   ZG_ATTRS(zg_cross_entropy_attr, cross_entropy_fields),
                                   .n_out = 1,
                                   .infer = cross_entropy_infer,
                                   .grad = cross_entropy_grad,
                                   .lower = cross_entropy_lower,
                                   ZG_CASES(cross_entropy_cases)};

// ---- ONNX ---------------------------------------------------------------------------------------
static zg_status reduction(const zg_onnx_node *n, int64_t *out) {
  const char *s = zg_onnx_str(n, "reduction", "mean");
  if (strcmp(s, "mean") == 0) *out = MEAN;
  else if (strcmp(s, "sum") == 0) *out = SUM;
  else if (strcmp(s, "none") == 0) *out = NONE;
  else return zg_onnx_error(n, ZG_INVALID, "reduction \"%s\" is none of mean, sum, none", s);
  return NULL;
}

static zg_status import_loss(zg_onnx_node *n, bool log_probs) {
  ZG_TRY(zg__need(n, 2));
  zg_builder *b = n->b;
  const zg_val x = n->in[0], weight = zg_onnx_in(n, 2);
  zg_cross_entropy_attr a = {
      .axis = 1, .ignore = zg_onnx_int(n, "ignore_index", -100), .log_probs = log_probs};
  ZG_TRY(reduction(n, &a.reduction));
  if (!log_probs && n->n_out > 1 && n->out_used[1])
    n->out[1] = zg_emit1(b, &zg_op_log_softmax, &(zg_axis_attr){1}, &x, 1);
  const zg_val in[3] = {x, n->in[1], weight};
  const zg_val y = zg_emit1(b, &zg_op_cross_entropy, &a, in, zg_is(weight) ? 3 : 2);
  n->out[0] = zg__cast_like(b, y, x);
  return NULL;
}
static zg_status import_softmax_cross_entropy(zg_onnx_node *n) { return import_loss(n, false); }
static zg_status import_nll(zg_onnx_node *n) { return import_loss(n, true); }

static const zg_onnx_row rows[] = {
    {"SoftmaxCrossEntropyLoss", "", 12, 0, import_softmax_cross_entropy},
    {"NegativeLogLikelihoodLoss", "", 12, 0, import_nll},
};
static const zg_op *const ops[] = {&zg_op_cross_entropy};
const zg_family zg_family_loss = {
    .name = "loss", .ops = ops, .n_ops = ZG_COUNT(ops), .onnx = rows, .n_onnx = ZG_COUNT(rows)};
