// Op: slice, a strided part of a tensor; its gradient is unslice.
#include "graph/op/op_priv.h"

static zg_status slice_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  const zg_slice_attr *a = x->attr;
  const zg_type *t = x->in[0];
  ZG_TRY(zg__check_rank(x, "start", a->start.n, t->rank));
  ZG_TRY(zg__check_rank(x, "step", a->step.n, t->rank));
  ZG_TRY(zg__check_rank(x, "size", a->size.n, t->rank));
  x->out[0] = zg_type_make(t->dtype, t->rank, a->size.at);
  for (uint32_t d = 0; d < t->rank; d++)
    if (!zg__inside(a->start.at[d], a->step.at[d], a->size.at[d], t->dim[d]))
      return zg_error(ZG_INVALID, "start %lld, step %lld, size %lld leave dim %u of %s",
                      (long long)a->start.at[d], (long long)a->step.at[d], (long long)a->size.at[d], d,
                      zg_type_text(t));
  return NULL;
}

static zg_status slice_eval(zg_eval *x) {
  const zg_slice_attr *a = x->attr;
  int64_t stride[ZG_MAX_RANK];
  const int64_t offset = zg__slice_strides(&x->in[0].type, &a->start, &a->step, stride);
  zg__strided_copy(&x->out[0].type, x->out[0].data, x->in[0].data, stride, offset, false);
  return NULL;
}

static zg_status slice_grad(zg_grad *g) {
  const zg_slice_attr *a = g->attr;
  const zg_type t = *zg_b_type(g->b, g->in[0]);
  if (zg_is(g->dout[0])) g->din[0] = zg_b_unslice(g->b, g->dout[0], t.dim, a->start.at, a->step.at, 0);
  return NULL;
}

static const zg_attr_field slice_fields[] = {
    ZG_FIELD(INTS, zg_slice_attr, start, 0),
    ZG_FIELD(INTS, zg_slice_attr, step, 0),
    ZG_FIELD(INTS, zg_slice_attr, size, 0),
};
static const zg_op_case slice_cases[] = {
    {.name = "part", .text = IN("[4,5]") "%2 = slice %1 start=[1,0] step=[1,1] size=[2,5]" OUT2},
    {.name = "steps", .text = IN("[7,5]") "%2 = slice %1 start=[1,0] step=[2,3] size=[3,2]" OUT2},
    {.name = "backwards", .text = IN("[5]") "%2 = slice %1 start=[4] step=[-2] size=[3]" OUT2},
    {.name = "nothing", .text = IN("[3,2]") "%2 = slice %1 start=[3,0] step=[1,1] size=[0,2]" OUT2},
    {.name = "scalar", .text = IN("[]") "%2 = slice %1 start=[] step=[] size=[]" OUT2},
};
const zg_op zg_op_slice = {.name = "slice",
                           .traits = ZG_CORE | ZG_VIEW,
                           ZG_ATTRS(zg_slice_attr, slice_fields),
                           .n_out = 1,
                           .infer = slice_infer,
                           .eval = slice_eval,
                           .grad = slice_grad,
                           ZG_CASES(slice_cases)};

// ---- ONNX ----------------------------------------------------------------------------------------
static zg_status import_slice(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  const zg_type t = *zg_b_type(n->b, n->in[0]);
  zg_ints starts, ends, axes, steps;
  bool has_axes, has_steps;
  ZG_TRY(zg__ints(n, "starts", 1, &starts, NULL));
  ZG_TRY(zg__ints(n, "ends", 2, &ends, NULL));
  ZG_TRY(zg__ints(n, "axes", 3, &axes, &has_axes));
  ZG_TRY(zg__ints(n, NULL, 4, &steps, &has_steps));
  if (starts.n != ends.n || (has_axes && axes.n != starts.n) || (has_steps && steps.n != starts.n) ||
      (!has_axes && starts.n > t.rank))
    return zg_onnx_error(n, ZG_INVALID,
                         "starts, ends, axes and steps differ in length, or exceed the rank of %s",
                         zg_type_text(&t));
  int64_t start[ZG_MAX_RANK] = {0}, step[ZG_MAX_RANK], size[ZG_MAX_RANK];
  for (uint32_t d = 0; d < t.rank; d++) step[d] = 1, size[d] = t.dim[d];
  for (int64_t i = 0; i < starts.n; i++) {
    int64_t a;
    ZG_TRY(zg__axis(n, has_axes ? axes.at[i] : i, t.rank, &a));
    int64_t s = starts.at[i], e = ends.at[i], k = has_steps ? steps.at[i] : 1;
    const int64_t d = t.dim[a];
    if (k == 0) return zg_onnx_error(n, ZG_INVALID, "step 0 along axis %lld", (long long)a);
    k = zg__clamp(k, -d - 1, d + 1);  // the same elements, without overflow
    s = zg__clamp(s < 0 ? s + d : s, k < 0 ? -1 : 0, k < 0 ? d - 1 : d);
    e = zg__clamp(e < 0 ? e + d : e, k < 0 ? -1 : 0, k < 0 ? d - 1 : d);
    size[a] = ZG_MAX(0, zg__ceil_div(e - s, k));
    start[a] = size[a] ? s : 0;
    step[a] = size[a] > 1 ? k : 1;
  }
  n->out[0] = zg_b_slice(n->b, n->in[0], start, step, size);
  return NULL;
}

static zg_status import_split(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  const zg_type t = *zg_b_type(n->b, n->in[0]);
  int64_t axis;
  ZG_TRY(zg__axis(n, zg_onnx_int(n, "axis", 0), t.rank, &axis));
  zg_ints split;
  bool given;
  ZG_TRY(zg__ints(n, "split", 1, &split, &given));
  if (given && split.n != n->n_out)
    return zg_onnx_error(n, ZG_INVALID, "split has %lld sizes for %u outputs", (long long)split.n, n->n_out);
  const int64_t parts = zg_onnx_int(n, "num_outputs", n->n_out);
  if (parts < n->n_out)
    return zg_onnx_error(n, ZG_INVALID, "num_outputs is %lld, but the node has %u outputs", (long long)parts,
                         n->n_out);
  const int64_t chunk = zg__ceil_div(t.dim[axis], ZG_MAX(parts, 1));
  int64_t at = 0;
  for (uint32_t i = 0; i < n->n_out; i++) {
    const int64_t size = given ? split.at[i] : zg__clamp(t.dim[axis] - at, 0, chunk);
    n->out[i] = zg_b_slice1(n->b, n->in[0], axis, at, size);
    at += size;
  }
  if (given && at != t.dim[axis])
    return zg_onnx_error(n, ZG_INVALID, "sizes of split add up to %lld, but axis %lld of %s differs",
                         (long long)at, (long long)axis, zg_type_text(&t));
  return NULL;
}

static const zg_onnx_row rows[] = {
    {"Slice", "", 1, 0, import_slice},
    {"Split", "", 2, 0, import_split},
};
static const zg_op *const ops[] = {&zg_op_slice};
const zg_family zg_family_slice = {
    .name = "slice", .ops = ops, .n_ops = ZG_COUNT(ops), .onnx = rows, .n_onnx = ZG_COUNT(rows)};
