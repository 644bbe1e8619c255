// Op family: rotary embedding of whole heads, in the form that exporters spell out.
//   rotary (x: [.., D], c, s) -> x * c + turn(x) * s      turn([x1, x2]) = [-x2, x1] on the halves of the last dim
// c and s broadcast to x: the cosines and sines of all D angles, each half the same. The op lowers to just that formula. What it
// is for is the gradient: turn is orthogonal and its own inverse up to the sign, so dx = dy * c - turn(dy * s), another rotation,
// where the derivative of slices and concat would be padded tensors and their sums. Source: Su et al. 2021, RoFormer.
#include "graph/op/op_priv.h"

static zg_status rotary_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 3, 3));
  const zg_type *t = x->in[0];
  if (!zg_dtype_is_float(t->dtype) || t->rank == 0 || t->dim[t->rank - 1] % 2)
    return zg_error(ZG_INVALID, "wants floats with an even last dim, got %s", zg_type_text(t));
  for (uint32_t i = 1; i < 3; i++) {
    const zg_type *a = x->in[i];
    if (a->dtype != t->dtype || !zg_type_fits(a, t))
      return zg_error(ZG_INVALID, "%s %s does not broadcast to %s", i == 1 ? "cosines" : "sines", zg_type_text(a), zg_type_text(t));
  }
  x->out[0] = *t;
  return NULL;
}

static zg_val turn(zg_builder *b, zg_val x) {
  const zg_type t = *zg_b_type(b, x);
  if (!t.rank) return x;   // after an error
  const int64_t half = t.dim[t.rank - 1] / 2, last = (int64_t)t.rank - 1;
  const zg_val parts[2] = {zg_neg(b, zg_b_slice1(b, x, last, half, half)), zg_b_slice1(b, x, last, 0, half)};
  return zg_b_concat(b, parts, 2, last);
}

static zg_status rotary_lower(zg_lower *x) {
  zg_builder *b = x->b;
  x->out[0] = zg_add(b, zg_mul(b, x->in[0], x->in[1]), zg_mul(b, turn(b, x->in[0]), x->in[2]));
  return NULL;
}

static zg_status rotary_grad(zg_grad *g) {
  zg_builder *b = g->b;
  const zg_val dy = g->dout[0], x = g->in[0];
  if (!zg_is(dy)) return NULL;
  if (g->need[0]) g->din[0] = zg_sub(b, zg_mul(b, dy, g->in[1]), turn(b, zg_mul(b, dy, g->in[2])));
  for (uint32_t i = 1; i < 3; i++) {
    if (!g->need[i]) continue;
    const zg_type t = *zg_b_type(b, g->in[i]);
    g->din[i] = zg_b_sum_to(b, zg_mul(b, dy, i == 1 ? x : turn(b, x)), &t);
  }
  return NULL;
}

#define CASE(x, c) "%1 = input name=\"x\" type=f64" x "\n%2 = input name=\"c\" type=f64" c "\n%3 = input name=\"s\" type=f64" c "\n" \
                   "%4 = rotary %1, %2, %3\noutput value \"y\" %4"
static const zg_op_case cases[] = {
    {.name = "heads", .text = CASE("[2,3,4,6]", "[1,1,4,6]")},
    {.name = "one pair", .text = CASE("[2,2]", "[2]")},
    {.name = "a batch of tables", .text = CASE("[2,3,2,4]", "[2,1,2,4]")},
    {.name = "one angle", .text = CASE("[3,4]", "[]")},
    {.name = "no rows", .text = CASE("[0,4]", "[4]")},
};
const zg_op zg_op_rotary = {.name = "rotary", .n_out = 1, .infer = rotary_infer, .grad = rotary_grad, .lower = rotary_lower, ZG_CASES(cases)};
static const zg_op *const ops[] = {&zg_op_rotary};
const zg_family zg_family_rotary = {.name = "rotary", .ops = ops, .n_ops = ZG_COUNT(ops)};
