// Op: barrier.
// The same elements under another name: nodes on it are not interned with the nodes on its operand, so that a
// value can be computed a second time (opt_recompute). Barriers of one `group` on one value are one.
#include "graph/op/op_priv.h"

static zg_status barrier_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  return zg_infer_same(x);
}

static zg_status barrier_eval(zg_eval *x) {
  memcpy(x->out[0].data, x->in[0].data, zg_type_bytes(&x->in[0].type));
  return NULL;
}

static zg_status barrier_grad(zg_grad *g) {
  g->din[0] = g->dout[0];
  return NULL;
}

static const zg_attr_field barrier_fields[] = {ZG_FIELD(INT, zg_barrier_attr, group, 0)};
static const zg_op_case barrier_cases[] = {
    {.name = "matrix", .text = IN("[2,5]") "%2 = barrier %1 group=3" OUT2},
    {.name = "scalar", .text = IN("[]") "%2 = barrier %1" OUT2},
    {.name = "empty", .text = IN("[0,3]") "%2 = barrier %1" OUT2},
    {.name = "second computation",
     .text = IN("[3,4]") "%2 = exp %1\n%3 = barrier %1\n%4 = exp %3\n%5 = mul %2, %4\noutput value \"y\" %5\n"},
};
const zg_op zg_op_barrier = {.name = "barrier",
                             .traits = ZG_CORE | ZG_VIEW,
                             ZG_ATTRS(zg_barrier_attr, barrier_fields),
                             .n_out = 1,
                             .infer = barrier_infer,
                             .eval = barrier_eval,
                             .grad = barrier_grad,
                             ZG_CASES(barrier_cases)};

static const zg_op *const ops[] = {&zg_op_barrier};
const zg_family zg_family_barrier = {.name = "barrier", .ops = ops, .n_ops = ZG_COUNT(ops)};
