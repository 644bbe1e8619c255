// Op: reshape, and the ONNX ops that only regroup dims.
#include "graph/op/op_priv.h"

static zg_status reshape_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  const zg_shape_attr *a = x->attr;
  ZG_TRY(zg__check_rank(x, "dim", a->dim.n, -1));
  x->out[0] = zg_type_make(x->in[0]->dtype, (uint32_t)a->dim.n, a->dim.at);
  bool negative = false;
  for (int64_t i = 0; i < a->dim.n; i++) negative |= a->dim.at[i] < 0;
  if (negative || zg_elems(&x->out[0]) != zg_elems(x->in[0]))
    return zg_error(ZG_INVALID, "%s does not have the elements of %s", zg_type_text(x->in[0]),
                    zg_type_text(&x->out[0]));
  return NULL;
}

static zg_status reshape_eval(zg_eval *x) {
  memcpy(x->out[0].data, x->in[0].data, zg_type_bytes(&x->in[0].type));
  return NULL;
}

static zg_status reshape_grad(zg_grad *g) {
  const zg_type t = *zg_b_type(g->b, g->in[0]);
  if (zg_is(g->dout[0])) g->din[0] = zg_b_reshape_like(g->b, g->dout[0], &t);
  return NULL;
}

static const zg_attr_field shape_fields[] = {ZG_FIELD(INTS, zg_shape_attr, dim, 0)};
static const zg_op_case reshape_cases[] = {
    {.name = "flatten", .text = IN("[2,3,4]") "%2 = reshape %1 dim=[6,4]" OUT2},
    {.name = "scalar", .text = IN("[1,1]") "%2 = reshape %1 dim=[]" OUT2},
    {.name = "empty", .text = IN("[0,3]") "%2 = reshape %1 dim=[5,0]" OUT2},
};
const zg_op zg_op_reshape = {.name = "reshape",
                             .traits = ZG_CORE | ZG_VIEW,
                             ZG_ATTRS(zg_shape_attr, shape_fields),
                             .n_out = 1,
                             .infer = reshape_infer,
                             .eval = reshape_eval,
                             .grad = reshape_grad,
                             ZG_CASES(reshape_cases)};

// ---- ONNX ----------------------------------------------------------------------------------------
static zg_status import_reshape(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  const zg_type t = *zg_b_type(n->b, n->in[0]);
  zg_ints want;
  ZG_TRY(zg__ints(n, "shape", 1, &want, NULL));
  if (want.n > ZG_MAX_RANK)
    return zg_onnx_error(n, ZG_UNSUPPORTED, "rank %lld is above the limit of %d", (long long)want.n,
                         ZG_MAX_RANK);
  const bool allow_zero = zg_onnx_int(n, "allowzero", 0) != 0;
  int64_t dim[ZG_MAX_RANK], known = 1, infer = -1;
  for (int64_t i = 0; i < want.n; i++) {
    dim[i] = want.at[i];
    if (dim[i] == 0 && !allow_zero) {
      if (i >= t.rank)
        return zg_onnx_error(n, ZG_INVALID, "shape entry %lld is 0 (copy), but the operand is %s",
                             (long long)i, zg_type_text(&t));
      dim[i] = t.dim[i];
    }
    if (dim[i] < -1 || (dim[i] == -1 && infer >= 0))
      return zg_onnx_error(n, ZG_INVALID, "shape has more than one unknown entry");
    if (dim[i] == -1) infer = i;
    else known *= dim[i];
  }
  if (infer >= 0) {
    if (known == 0 || zg_elems(&t) % known)
      return zg_onnx_error(n, ZG_INVALID, "%s cannot be reshaped: its elements do not divide by %lld",
                           zg_type_text(&t), (long long)known);
    dim[infer] = zg_elems(&t) / known;
  }
  n->out[0] = zg_b_reshape(n->b, n->in[0], dim, want.n);
  return NULL;
}

static zg_status import_squeeze(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  const zg_type t = *zg_b_type(n->b, n->in[0]);
  zg_ints axes;
  bool given;
  ZG_TRY(zg__axes(n, "axes", 1, t.rank, &axes, &given));
  int64_t dim[ZG_MAX_RANK], rank = 0, k = 0;
  for (uint32_t d = 0; d < t.rank; d++) {
    const bool gone = given ? k < axes.n && axes.at[k] == d : t.dim[d] == 1;
    if (gone && given) k++;
    if (gone && t.dim[d] != 1)
      return zg_onnx_error(n, ZG_INVALID, "axis %u of %s is not 1", d, zg_type_text(&t));
    if (!gone) dim[rank++] = t.dim[d];
  }
  n->out[0] = zg_b_reshape(n->b, n->in[0], dim, rank);
  return NULL;
}

static zg_status import_unsqueeze(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  const zg_type t = *zg_b_type(n->b, n->in[0]);
  zg_ints raw, axes;
  ZG_TRY(zg__ints(n, "axes", 1, &raw, NULL));
  const int64_t rank = t.rank + raw.n;
  if (rank > ZG_MAX_RANK)
    return zg_onnx_error(n, ZG_UNSUPPORTED, "rank %lld is above the limit of %d", (long long)rank,
                         ZG_MAX_RANK);
  ZG_TRY(zg__axes(n, "axes", 1, rank, &axes, NULL));
  int64_t dim[ZG_MAX_RANK], k = 0, d = 0;
  for (int64_t i = 0; i < rank; i++) dim[i] = k < axes.n && axes.at[k] == i ? (k++, 1) : t.dim[d++];
  n->out[0] = zg_b_reshape(n->b, n->in[0], dim, rank);
  return NULL;
}

static zg_status import_flatten(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  const int64_t rank = zg_b_type(n->b, n->in[0])->rank;
  int64_t axis = zg_onnx_int(n, "axis", 1);
  if (axis < 0) axis += rank;
  if (axis < 0 || axis > rank)
    return zg_onnx_error(n, ZG_INVALID, "axis is outside a tensor of rank %lld", (long long)rank);
  n->out[0] = zg__coerce_2d(n->b, n->in[0], axis);
  return NULL;
}

static const zg_onnx_row rows[] = {
    {"Reshape", "", 1, 0, import_reshape},
    {"Squeeze", "", 1, 0, import_squeeze},
    {"Unsqueeze", "", 1, 0, import_unsqueeze},
    {"Flatten", "", 1, 0, import_flatten},
};
static const zg_op *const ops[] = {&zg_op_reshape};
const zg_family zg_family_reshape = {
    .name = "reshape", .ops = ops, .n_ops = ZG_COUNT(ops), .onnx = rows, .n_onnx = ZG_COUNT(rows)};
