// Op: cumsum.
#include "graph/op/op_priv.h"

static zg_status cumsum_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  ZG_TRY(zg__check_axis(x, ((const zg_cumsum_attr *)x->attr)->axis));
  x->out[0] = *x->in[0];
  return NULL;
}

static zg_status cumsum_eval(zg_eval *x) {
  const zg_cumsum_attr *a = x->attr;
  const zg_type *t = &x->in[0].type;
  const int64_t outer = zg__prod(t, 0, a->axis), n = t->dim[a->axis],
                inner = zg__prod(t, a->axis + 1, t->rank);
  const bool real = zg_dtype_is_float(t->dtype);
  for (int64_t o = 0; o < outer; o++)
    for (int64_t i = 0; i < inner; i++) {
      double f = 0;
      int64_t s = 0;
      for (int64_t j = 0; j < n; j++) {
        const int64_t at = (o * n + (a->reverse ? n - 1 - j : j)) * inner + i;
        const double f1 = real ? f + zg_get_f64(t->dtype, x->in[0].data, at) : 0;
        const int64_t s1 =
            real ? 0 : (int64_t)((uint64_t)s + (uint64_t)zg_get_i64(t->dtype, x->in[0].data, at));
        if (real) zg_set_f64(t->dtype, x->out[0].data, at, a->exclusive ? f : f1);
        else zg_set_i64(t->dtype, x->out[0].data, at, a->exclusive ? s : s1);
        f = f1, s = s1;
      }
    }
  return NULL;
}

static zg_status cumsum_grad(zg_grad *g) {
  zg_cumsum_attr a = *(const zg_cumsum_attr *)g->attr;
  a.reverse = !a.reverse;
  if (zg_is(g->dout[0]) && g->need[0]) g->din[0] = zg_emit1(g->b, &zg_op_cumsum, &a, g->dout, 1);
  return NULL;
}

static const zg_attr_field cumsum_fields[] = {
    ZG_FIELD(INT, zg_cumsum_attr, axis, 0),
    ZG_FIELD(INT, zg_cumsum_attr, exclusive, 0),
    ZG_FIELD(INT, zg_cumsum_attr, reverse, 0),
};
static const zg_op_case cumsum_cases[] = {
    {.name = "last axis", .text = IN("[3,5]") "%2 = cumsum %1 axis=1" OUT2},
    {.name = "first axis, exclusive", .text = IN("[4,3]") "%2 = cumsum %1 axis=0 exclusive=1" OUT2},
    {.name = "reverse", .text = IN("[2,3,2]") "%2 = cumsum %1 axis=1 reverse=1" OUT2},
    {.name = "reverse, exclusive", .text = IN("[7]") "%2 = cumsum %1 axis=0 exclusive=1 reverse=1" OUT2},
    {.name = "empty", .text = IN("[3,0]") "%2 = cumsum %1 axis=1" OUT2},
};
const zg_op zg_op_cumsum = {.name = "cumsum",
                            .traits = ZG_CORE,
                            ZG_ATTRS(zg_cumsum_attr, cumsum_fields),
                            .n_out = 1,
                            .infer = cumsum_infer,
                            .eval = cumsum_eval,
                            .grad = cumsum_grad,
                            ZG_CASES(cumsum_cases)};

// ---- ONNX ----------------------------------------------------------------------------------------
static zg_status import_cumsum(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 2));
  double axis;
  ZG_TRY(zg__const_scalar(n, 1, &axis));
  zg_cumsum_attr a = {.exclusive = zg_onnx_int(n, "exclusive", 0), .reverse = zg_onnx_int(n, "reverse", 0)};
  ZG_TRY(zg__axis(n, (int64_t)axis, zg_b_type(n->b, n->in[0])->rank, &a.axis));
  n->out[0] = zg_emit1(n->b, &zg_op_cumsum, &a, n->in, 1);
  return NULL;
}

static const zg_onnx_row rows[] = {
    {"CumSum", "", 11, 0, import_cumsum},
};
static const zg_op *const ops[] = {&zg_op_cumsum};
const zg_family zg_family_cumsum = {
    .name = "cumsum", .ops = ops, .n_ops = ZG_COUNT(ops), .onnx = rows, .n_onnx = ZG_COUNT(rows)};
