// Op: norm2, the root of the sum of squares over axes; lowers to reduce. Its gradient is x / y dy, 0 where y is 0.
#include "graph/op/op_priv.h"

static zg_status norm2_lower(zg_lower *x) {
  const zg_axes_attr *a = x->attr;
  zg_builder *b = x->b;
  const zg_dtype t = zg_b_type(b, x->in[0])->dtype;
  const zg_val v = zg__wide(b, x->in[0]);
  const zg_val s = zg__reduce(b, ZG_RED_SUM, zg_mul(b, v, v), &a->axes, a->keep);
  x->out[0] = zg_b_cast(b, zg_b_map1(b, ZG_S_SQRT, s), t);
  return NULL;
}

// x / y, and 0 where the norm is 0.
static zg_status norm2_grad(zg_grad *g) {
  const zg_axes_attr *a = g->attr;
  zg_builder *b = g->b;
  if (!zg_is(g->dout[0]) || !g->need[0]) return NULL;
  const zg_type t = *zg_b_type(b, g->in[0]);
  const zg_val y = g->out[0], zero = zg_b_like(b, y, 0);
  const zg_val k = zg_b_where(b, zg_b_map2(b, ZG_S_EQ, y, zero), zero, zg_div(b, g->dout[0], y));
  g->din[0] = zg_mul(b, g->in[0], zg__unreduce(b, k, &t, &a->axes));
  return NULL;
}

static const zg_attr_field axes_fields[] = {ZG_FIELD(INT, zg_axes_attr, keep, 0),
                                            ZG_FIELD(INTS, zg_axes_attr, axes, 0)};
static const zg_op_case norm2_cases[] = {
    {.name = "last axis", .text = IN("[3,5]") "%2 = norm2 %1 axes=[1]" OUT2},
    {.name = "all", .text = IN("[2,3]") "%2 = norm2 %1 axes=[0,1]" OUT2},
    {.name = "zero",
     .text = IN("[2,2]") "%2 = norm2 %1 keep=1 axes=[1]" OUT2,
     .no_grad = true,
     .data = "x: 0 0 3 4",
     .expect = "x: 0 0 0.6 0.8"},
};
const zg_op zg_op_norm2 = {.name = "norm2",
                           ZG_ATTRS(zg_axes_attr, axes_fields),
                           .n_out = 1,
                           .infer = zg__axes_infer,
                           .grad = norm2_grad,
                           .lower = norm2_lower,
                           ZG_CASES(norm2_cases)};

static const zg_op *const ops[] = {&zg_op_norm2};
const zg_family zg_family_norm2 = {.name = "norm2", .ops = ops, .n_ops = ZG_COUNT(ops)};
