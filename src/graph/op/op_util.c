// Helpers of op_priv.h.
#include "graph/op/op_priv.h"

zg_status zg__need(const zg_onnx_node *n, uint32_t count) {
  for (uint32_t i = 0; i < count; i++)
    if (!zg_is(zg_onnx_in(n, i)) && !zg_builder_failed(n->b))
      return zg_onnx_error(n, ZG_INVALID, "operand %u is missing", i);
  return NULL;
}

zg_status zg__axis(const zg_onnx_node *n, int64_t axis, int64_t rank, int64_t *out) {
  const int64_t r = rank > 0 ? rank : 1;
  if (axis < -r || axis >= r)
    return zg_onnx_error(n, ZG_INVALID, "axis %lld is outside a tensor of rank %lld", (long long)axis,
                         (long long)rank);
  *out = axis < 0 ? axis + r : axis;
  return NULL;
}

zg_status zg__ints(const zg_onnx_node *n, const char *attr, uint32_t input, zg_ints *out, bool *given) {
  *out = (zg_ints){0};
  bool there = attr && zg_onnx_ints(n, attr, out);
  if (!there && input > 0 && zg_is(zg_onnx_in(n, input))) {
    ZG_TRY(zg_onnx_const_ints(n, input, out));
    there = true;
  }
  if (given) *given = there;
  else if (!there)
    return zg_onnx_error(n, ZG_INVALID, "\"%s\" is given neither as attribute nor as operand",
                         attr ? attr : "operand");
  return NULL;
}

zg_status zg__axes(const zg_onnx_node *n, const char *attr, uint32_t input, int64_t rank, zg_ints *out,
                   bool *given) {
  zg_ints raw;
  ZG_TRY(zg__ints(n, attr, input, &raw, given));
  bool hit[ZG_MAX_RANK] = {false};
  for (int64_t i = 0; i < raw.n; i++) {
    int64_t axis;
    ZG_TRY(zg__axis(n, raw.at[i], rank, &axis));
    if (hit[axis]) return zg_onnx_error(n, ZG_INVALID, "axis %lld is listed twice", (long long)axis);
    hit[axis] = true;
  }
  int64_t *at = ZG_NEW_N(zg_builder_arena(n->b), int64_t, raw.n + 1), k = 0;
  for (int64_t i = 0; i < ZG_MAX_RANK; i++)
    if (hit[i] && i < rank) at[k++] = i;
  *out = (zg_ints){k, at};
  return NULL;
}

zg_status zg__const_scalar(const zg_onnx_node *n, uint32_t input, double *out) {
  if (zg_b_const_scalar(n->b, zg_onnx_in(n, input), out)) return NULL;
  *out = 0;
  if (zg_builder_failed(n->b)) return NULL;
  return zg_onnx_error(n, ZG_UNSUPPORTED,
                       "operand %u must be a constant number, but it is absent or depends on data", input);
}

zg_val zg__reduce(zg_builder *b, zg_red kind, zg_val x, const zg_ints *axes, bool keep) {
  return axes->n ? zg_b_reduce(b, kind, x, axes->at, axes->n, keep) : x;
}

zg_val zg__unreduce(zg_builder *b, zg_val v, const zg_type *full, const zg_ints *axes) {
  zg_type keep = *full;
  for (int64_t i = 0; i < axes->n; i++) keep.dim[axes->at[i]] = 1;
  return zg_b_expand(b, zg_b_reshape(b, v, keep.dim, keep.rank), full->dim, full->rank);
}

zg_val zg__coerce_2d(zg_builder *b, zg_val x, int64_t axis) {
  const zg_type t = *zg_b_type(b, x);
  const int64_t dim[2] = {zg__prod(&t, 0, axis), zg__prod(&t, axis, t.rank)};
  return zg_b_reshape(b, x, dim, 2);
}

zg_val zg__index_along(zg_builder *b, const zg_type *t, int64_t axis, double start) {
  zg_iota_attr a = {.axis = axis, .start = start, .step = 1};
  a.type = zg_type_make(ZG_I64, t->rank, (int64_t[ZG_MAX_RANK]){1, 1, 1, 1, 1, 1, 1, 1});
  a.type.dim[axis] = t->dim[axis];
  return zg_emit1(b, &zg_op_iota, &a, NULL, 0);
}
