// Op: expand (broadcast), and the ONNX ops made of it.
#include "graph/op/op_priv.h"

static zg_status expand_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  const zg_shape_attr *a = x->attr;
  const zg_type *t = x->in[0];
  ZG_TRY(zg__check_rank(x, "dim", a->dim.n, -1));
  x->out[0] = zg_type_make(t->dtype, (uint32_t)a->dim.n, a->dim.at);
  bool ok = a->dim.n >= t->rank;
  for (uint32_t i = 0; ok && i < t->rank; i++) {
    const int64_t to = a->dim.at[a->dim.n - t->rank + i];
    ok = t->dim[i] == to || (t->dim[i] == 1 && to >= 0);
  }
  if (!ok)
    return zg_error(ZG_INVALID, "%s does not broadcast to %s", zg_type_text(t), zg_type_text(&x->out[0]));
  return NULL;
}

static zg_status expand_eval(zg_eval *x) {
  const zg_type *t = &x->in[0].type, *o = &x->out[0].type;
  int64_t s[ZG_MAX_RANK], stride[ZG_MAX_RANK] = {0};
  zg_type_strides(t, s);
  for (uint32_t i = 0; i < t->rank; i++) stride[o->rank - t->rank + i] = t->dim[i] == 1 ? 0 : s[i];
  zg__strided_copy(o, x->out[0].data, x->in[0].data, stride, 0, false);
  return NULL;
}

static zg_status expand_grad(zg_grad *g) {
  const zg_type t = *zg_b_type(g->b, g->in[0]);
  if (zg_is(g->dout[0])) g->din[0] = zg_b_sum_to(g->b, g->dout[0], &t);
  return NULL;
}

static const zg_attr_field shape_fields[] = {ZG_FIELD(INTS, zg_shape_attr, dim, 0)};
static const zg_op_case expand_cases[] = {
    {.name = "new leading dims", .text = IN("[3]") "%2 = expand %1 dim=[2,4,3]" OUT2},
    {.name = "middle", .text = IN("[2,1,3]") "%2 = expand %1 dim=[2,5,3]" OUT2},
    {.name = "scalar", .text = IN("[]") "%2 = expand %1 dim=[2,3]" OUT2},
    {.name = "to nothing", .text = IN("[1,3]") "%2 = expand %1 dim=[0,3]" OUT2},
};
const zg_op zg_op_expand = {.name = "expand",
                            .traits = ZG_CORE | ZG_VIEW,
                            ZG_ATTRS(zg_shape_attr, shape_fields),
                            .n_out = 1,
                            .infer = expand_infer,
                            .eval = expand_eval,
                            .grad = expand_grad,
                            ZG_CASES(expand_cases)};

// ---- ONNX ----------------------------------------------------------------------------------------
// Both sides broadcast: a 1 in the shape keeps the operand's dim.
static zg_status import_expand(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 2));
  const zg_type t = *zg_b_type(n->b, n->in[0]);
  zg_ints want;
  ZG_TRY(zg__ints(n, NULL, 1, &want, NULL));
  if (want.n > ZG_MAX_RANK)
    return zg_onnx_error(n, ZG_UNSUPPORTED, "rank %lld is above the limit of %d", (long long)want.n,
                         ZG_MAX_RANK);
  const zg_type shape = zg_type_make(t.dtype, (uint32_t)want.n, want.at);
  zg_type out;
  ZG_TRY(zg_type_broadcast(&t, &shape, &out));
  n->out[0] = zg_b_expand(n->b, n->in[0], out.dim, out.rank);
  return NULL;
}

static zg_status import_tile(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 2));
  zg_builder *b = n->b;
  const zg_type t = *zg_b_type(b, n->in[0]);
  zg_ints r;
  ZG_TRY(zg__ints(n, NULL, 1, &r, NULL));
  if (r.n != t.rank)
    return zg_onnx_error(n, ZG_INVALID, "repeats has %lld entries for %s", (long long)r.n, zg_type_text(&t));
  zg_type now = t;
  zg_val x = n->in[0];
  for (uint32_t d = t.rank; d-- > 0;) {  // [outer, 1, rest] -> [outer, repeats, rest]
    if (r.at[d] < 0) return zg_onnx_error(n, ZG_INVALID, "repeats entry %u is negative", d);
    if (r.at[d] == 1) continue;
    const int64_t outer = zg__prod(&now, 0, d), rest = zg__prod(&now, d, t.rank);
    x = zg_b_reshape(b, x, (int64_t[]){outer, 1, rest}, 3);
    x = zg_b_expand(b, x, (int64_t[]){outer, r.at[d], rest}, 3);
    now.dim[d] *= r.at[d];
    x = zg_b_reshape(b, x, now.dim, now.rank);
  }
  n->out[0] = x;
  return NULL;
}

static const zg_onnx_row rows[] = {
    {"Expand", "", 8, 0, import_expand},
    {"Tile", "", 6, 0, import_tile},
};
static const zg_op *const ops[] = {&zg_op_expand};
const zg_family zg_family_expand = {
    .name = "expand", .ops = ops, .n_ops = ZG_COUNT(ops), .onnx = rows, .n_onnx = ZG_COUNT(rows)};
