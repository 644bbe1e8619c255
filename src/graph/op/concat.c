// Op: concat.
#include "graph/op/op_priv.h"

static zg_status concat_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, UINT32_MAX));
  const int64_t axis = ((const zg_axis_attr *)x->attr)->axis;
  const zg_type *t = x->in[0];
  if (axis < 0 || axis >= t->rank)
    return zg_error(ZG_INVALID, "axis %lld is outside %s", (long long)axis, zg_type_text(t));
  x->out[0] = *t;
  for (uint32_t i = 1; i < x->n_in; i++) {
    zg_type same = *x->in[i];
    if (same.rank == t->rank) same.dim[axis] = t->dim[axis];
    if (!zg_type_equal(&same, t))
      return zg_error(ZG_INVALID, "operand %u is %s, which does not fit %s along axis %lld", i,
                      zg_type_text(x->in[i]), zg_type_text(t), (long long)axis);
    x->out[0].dim[axis] += x->in[i]->dim[axis];
  }
  return NULL;
}

static zg_status concat_eval(zg_eval *x) {
  const int64_t axis = ((const zg_axis_attr *)x->attr)->axis;
  const zg_type *o = &x->out[0].type;
  const int64_t outer = zg__prod(o, 0, axis), row = zg__prod(o, axis, o->rank) * zg_dtype_bytes(o->dtype);
  int64_t at = 0;
  for (uint32_t i = 0; i < x->n_in; i++) {
    const int64_t part = zg__prod(&x->in[i].type, axis, o->rank) * zg_dtype_bytes(o->dtype);
    for (int64_t k = 0; k < outer && part; k++)
      memcpy((char *)x->out[0].data + k * row + at, (const char *)x->in[i].data + k * part, (size_t)part);
    at += part;
  }
  return NULL;
}

static zg_status concat_grad(zg_grad *g) {
  const int64_t axis = ((const zg_axis_attr *)g->attr)->axis;
  if (!zg_is(g->dout[0])) return NULL;
  int64_t at = 0;
  for (uint32_t i = 0; i < g->n_in; i++) {
    const int64_t size = zg_b_type(g->b, g->in[i])->dim[axis];
    if (g->need[i]) g->din[i] = zg_b_slice1(g->b, g->dout[0], axis, at, size);
    at += size;
  }
  return NULL;
}

static const zg_attr_field axis_fields[] = {ZG_FIELD(INT, zg_axis_attr, axis, 0)};
#define XY(s, t) "%1 = input name=\"x\" type=f64" s "\n%2 = input name=\"y\" type=f64" t "\n"
#define OUT3 "\noutput value \"z\" %3"
static const zg_op_case concat_cases[] = {
    {.name = "first axis", .text = XY("[2,3]", "[4,3]") "%3 = concat %1, %2 axis=0" OUT3},
    {.name = "last axis", .text = XY("[2,3]", "[2,1]") "%3 = concat %1, %2 axis=1" OUT3},
    {.name = "an operand twice", .text = XY("[2,3,2]", "[2,1,2]") "%3 = concat %1, %2, %1 axis=1" OUT3},
    {.name = "with nothing", .text = XY("[2,3]", "[0,3]") "%3 = concat %1, %2 axis=0" OUT3},
    {.name = "one", .text = IN("[2,3]") "%2 = concat %1 axis=0" OUT2},
};
const zg_op zg_op_concat = {.name = "concat",
                            .traits = ZG_CORE,
                            ZG_ATTRS(zg_axis_attr, axis_fields),
                            .n_out = 1,
                            .infer = concat_infer,
                            .eval = concat_eval,
                            .grad = concat_grad,
                            ZG_CASES(concat_cases)};

// ---- ONNX ----------------------------------------------------------------------------------------
static zg_status import_concat(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, n->n_in ? n->n_in : 1));
  int64_t axis;
  ZG_TRY(zg__axis(n, zg_onnx_int(n, "axis", 1), zg_b_type(n->b, n->in[0])->rank, &axis));
  n->out[0] = n->n_in == 1 ? n->in[0] : zg_b_concat(n->b, n->in, n->n_in, axis);
  return NULL;
}

static const zg_onnx_row rows[] = {
    {"Concat", "", 1, 0, import_concat},
};
static const zg_op *const ops[] = {&zg_op_concat};
const zg_family zg_family_concat = {
    .name = "concat", .ops = ops, .n_ops = ZG_COUNT(ops), .onnx = rows, .n_onnx = ZG_COUNT(rows)};
