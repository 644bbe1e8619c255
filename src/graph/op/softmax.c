// Op family: softmax and log-softmax.
// Both lower to max, subtract, exp, sum with the same nodes, so that a softmax beside a log-softmax of the
// same operand (cross entropy and its gradient) shares them; fusion makes one loop of each. Half-precision
// operands compute in f32.
#include "graph/op/op_priv.h"

static zg_status softmax_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  const int64_t axis = ((const zg_axis_attr *)x->attr)->axis, rank = x->in[0]->rank;
  if (axis < -rank || axis >= rank || !zg_dtype_is_float(x->in[0]->dtype))
    return zg_error(ZG_INVALID, "wants a float tensor with axis %lld, got %s", (long long)axis,
                    zg_type_text(x->in[0]));
  return zg_infer_same(x);
}

typedef struct {
  zg_val shifted, exp, sum;
} parts;

static parts exp_parts(zg_builder *b, zg_val x, const int64_t *axis) {
  parts p;
  const zg_val v = zg__wide(b, x);
  p.shifted = zg_sub(b, v, zg_b_reduce(b, ZG_RED_MAX, v, axis, 1, true));
  p.exp = zg_b_map1(b, ZG_S_EXP, p.shifted);
  p.sum = zg_b_reduce(b, ZG_RED_SUM, p.exp, axis, 1, true);
  return p;
}

static zg_status softmax_lower(zg_lower *x) {
  const zg_axis_attr *a = x->attr;
  const parts p = exp_parts(x->b, x->in[0], &a->axis);
  x->out[0] = zg__cast_like(x->b, zg_div(x->b, p.exp, p.sum), x->in[0]);
  return NULL;
}

// dx = y (dy - sum(dy y))
static zg_status softmax_grad(zg_grad *g) {
  const zg_axis_attr *a = g->attr;
  zg_builder *b = g->b;
  if (!zg_is(g->dout[0]) || !g->need[0]) return NULL;
  const zg_val y = zg__wide(b, g->out[0]), dy = zg__wide(b, g->dout[0]);
  const zg_val dot = zg_b_reduce(b, ZG_RED_SUM, zg_mul(b, dy, y), &a->axis, 1, true);
  g->din[0] = zg__cast_like(b, zg_mul(b, y, zg_sub(b, dy, dot)), g->in[0]);
  return NULL;
}

static zg_status log_softmax_lower(zg_lower *x) {
  const zg_axis_attr *a = x->attr;
  const parts p = exp_parts(x->b, x->in[0], &a->axis);
  x->out[0] = zg__cast_like(x->b, zg_sub(x->b, p.shifted, zg_b_map1(x->b, ZG_S_LOG, p.sum)), x->in[0]);
  return NULL;
}

// dx = dy - exp(y) sum(dy)
static zg_status log_softmax_grad(zg_grad *g) {
  const zg_axis_attr *a = g->attr;
  zg_builder *b = g->b;
  if (!zg_is(g->dout[0]) || !g->need[0]) return NULL;
  const zg_val y = zg__wide(b, g->out[0]), dy = zg__wide(b, g->dout[0]);
  const zg_val total = zg_b_reduce(b, ZG_RED_SUM, dy, &a->axis, 1, true);
  g->din[0] = zg__cast_like(b, zg_sub(b, dy, zg_mul(b, zg_b_map1(b, ZG_S_EXP, y), total)), g->in[0]);
  return NULL;
}

static const zg_attr_field axis_fields[] = {ZG_FIELD(INT, zg_axis_attr, axis, -1)};
static const zg_op_case softmax_cases[] = {
    {.name = "last axis", .text = IN("[3,5]") "%2 = softmax %1" OUT2},
    {.name = "middle axis", .text = IN("[2,3,4]") "%2 = softmax %1 axis=1" OUT2},
    {.name = "one element", .text = IN("[3,1]") "%2 = softmax %1 axis=-1" OUT2},
    {.name = "large values", .text = IN("[2,7]") "%2 = softmax %1" OUT2, .lo = 700, .hi = 710},
    {.name = "no rows", .text = IN("[0,3]") "%2 = softmax %1" OUT2},
};
const zg_op zg_op_softmax = {.name = "softmax",
                             ZG_ATTRS(zg_axis_attr, axis_fields),
                             .n_out = 1,
                             .infer = softmax_infer,
                             .grad = softmax_grad,
                             .lower = softmax_lower,
                             ZG_CASES(softmax_cases)};
static const zg_op_case log_softmax_cases[] = {
    {.name = "last axis", .text = IN("[3,5]") "%2 = log_softmax %1" OUT2},
    {.name = "first axis", .text = IN("[4,3]") "%2 = log_softmax %1 axis=0" OUT2},
    {.name = "large values", .text = IN("[2,7]") "%2 = log_softmax %1" OUT2, .lo = -710, .hi = -700},
    {.name = "no rows", .text = IN("[0,3]") "%2 = log_softmax %1" OUT2},
};
const zg_op zg_op_log_softmax = {.name = "log_softmax",
                                 ZG_ATTRS(zg_axis_attr, axis_fields),
                                 .n_out = 1,
                                 .infer = softmax_infer,
                                 .grad = log_softmax_grad,
                                 .lower = log_softmax_lower,
                                 ZG_CASES(log_softmax_cases)};

// ---- ONNX ---------------------------------------------------------------------------------------
typedef zg_val (*row_fn)(zg_builder *b, zg_val x, int64_t axis);

static zg_val softmax(zg_builder *b, zg_val x, int64_t axis) {
  return zg_emit1(b, &zg_op_softmax, &(zg_axis_attr){axis}, &x, 1);
}
static zg_val log_softmax(zg_builder *b, zg_val x, int64_t axis) {
  return zg_emit1(b, &zg_op_log_softmax, &(zg_axis_attr){axis}, &x, 1);
}

static zg_val hardmax(zg_builder *b, zg_val x, int64_t axis) {
  const zg_type t = *zg_b_type(b, x);
  const zg_val best = zg_emit1(b, &zg_op_arg_reduce, &(zg_arg_reduce_attr){.axis = axis}, &x, 1);
  return zg_b_cast(b, zg_b_map2(b, ZG_S_EQ, best, zg__index_along(b, &t, axis, 0)), t.dtype);
}

// Before opset 13 the operand counts as a matrix split at `axis`, and each row is one distribution.
static zg_status import_rows(zg_onnx_node *n, row_fn fn) {
  ZG_TRY(zg__need(n, 1));
  zg_builder *b = n->b;
  const zg_type t = *zg_b_type(b, n->in[0]);
  const bool coerce = n->opset < 13;
  int64_t axis = zg_onnx_int(n, "axis", coerce ? 1 : -1);
  ZG_TRY(zg__axis(n, axis, t.rank, &axis));
  if (t.rank == 0) {
    const zg_val y = fn(b, zg_b_reshape(b, n->in[0], (int64_t[]){1}, 1), 0);
    n->out[0] = zg_b_reshape(b, y, NULL, 0);
  } else if (coerce && axis + 1 != t.rank) {
    n->out[0] = zg_b_reshape_like(b, fn(b, zg__coerce_2d(b, n->in[0], axis), 1), &t);
  } else {
    n->out[0] = fn(b, n->in[0], axis);
  }
  return NULL;
}
static zg_status import_softmax(zg_onnx_node *n) { return import_rows(n, softmax); }
static zg_status import_log_softmax(zg_onnx_node *n) { return import_rows(n, log_softmax); }
static zg_status import_hardmax(zg_onnx_node *n) { return import_rows(n, hardmax); }

static const zg_onnx_row rows[] = {
    {"Softmax", "", 1, 0, import_softmax},
    {"LogSoftmax", "", 1, 0, import_log_softmax},
    {"Hardmax", "", 1, 0, import_hardmax},
};
static const zg_op *const ops[] = {&zg_op_softmax, &zg_op_log_softmax};
const zg_family zg_family_softmax = {
    .name = "softmax", .ops = ops, .n_ops = ZG_COUNT(ops), .onnx = rows, .n_onnx = ZG_COUNT(rows)};
