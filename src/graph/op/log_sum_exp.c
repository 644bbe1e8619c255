// Op: log_sum_exp over axes; lowers to reduce. Its gradient is exp(x - y) dy.
#include "graph/op/op_priv.h"

static zg_status log_sum_exp_lower(zg_lower *x) {
  const zg_axes_attr *a = x->attr;
  zg_builder *b = x->b;
  const zg_dtype t = zg_b_type(b, x->in[0])->dtype;
  const zg_val v = zg__wide(b, x->in[0]);
  zg_val m = zg__reduce(b, ZG_RED_MAX, v, &a->axes, true);
  m = zg_b_where(b, zg_b_map1(b, ZG_S_IS_INF, m), zg_b_like(b, m, 0), m);  // all -inf: -inf, not NaN
  const zg_val s = zg__reduce(b, ZG_RED_SUM, zg_b_map1(b, ZG_S_EXP, zg_sub(b, v, m)), &a->axes, true);
  const zg_val y = zg_b_cast(b, zg_add(b, zg_b_map1(b, ZG_S_LOG, s), m), t);
  const zg_type in = *zg_b_type(b, x->in[0]), out = zg__reduced_type(&in, &a->axes, a->keep);
  x->out[0] = zg_b_reshape_like(b, y, &out);
  return NULL;
}

static zg_status log_sum_exp_grad(zg_grad *g) {
  const zg_axes_attr *a = g->attr;
  zg_builder *b = g->b;
  if (!zg_is(g->dout[0]) || !g->need[0]) return NULL;
  const zg_type t = *zg_b_type(b, g->in[0]);
  const zg_val y = zg__unreduce(b, g->out[0], &t, &a->axes), dy = zg__unreduce(b, g->dout[0], &t, &a->axes);
  g->din[0] = zg_mul(b, dy, zg_b_map1(b, ZG_S_EXP, zg_sub(b, g->in[0], y)));
  return NULL;
}

static const zg_attr_field axes_fields[] = {ZG_FIELD(INT, zg_axes_attr, keep, 0),
                                            ZG_FIELD(INTS, zg_axes_attr, axes, 0)};
static const zg_op_case log_sum_exp_cases[] = {
    {.name = "last axis", .text = IN("[3,5]") "%2 = log_sum_exp %1 axes=[1]" OUT2},
    {.name = "all, kept", .text = IN("[2,3]") "%2 = log_sum_exp %1 keep=1 axes=[0,1]" OUT2},
    {.name = "no axes", .text = IN("[3]") "%2 = log_sum_exp %1 axes=[]" OUT2},
    {.name = "large values", .text = IN("[2,3]") "%2 = log_sum_exp %1 axes=[0]" OUT2, .lo = 700, .hi = 710},
};
const zg_op zg_op_log_sum_exp = {.name = "log_sum_exp",
                                 ZG_ATTRS(zg_axes_attr, axes_fields),
                                 .n_out = 1,
                                 .infer = zg__axes_infer,
                                 .grad = log_sum_exp_grad,
                                 .lower = log_sum_exp_lower,
                                 ZG_CASES(log_sum_exp_cases)};

static const zg_op *const ops[] = {&zg_op_log_sum_exp};
const zg_family zg_family_log_sum_exp = {.name = "log_sum_exp", .ops = ops, .n_ops = ZG_COUNT(ops)};
