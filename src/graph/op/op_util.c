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

// ---- inference ---------------------------------------------------------------------------------
zg_status zg__check_rank(const zg_infer *x, const char *what, int64_t n, int64_t want) {
  if (n > ZG_MAX_RANK)
    return zg_error(ZG_UNSUPPORTED, "rank %lld is above the limit of %d", (long long)n, ZG_MAX_RANK);
  if (want >= 0 && n != want)
    return zg_error(ZG_INVALID, "%s has %lld entries for %s", what, (long long)n, zg_type_text(x->in[0]));
  return NULL;
}

zg_status zg__check_axis(const zg_infer *x, int64_t axis) {
  if (axis < 0 || axis >= x->in[0]->rank)
    return zg_error(ZG_INVALID, "axis %lld is outside %s", (long long)axis, zg_type_text(x->in[0]));
  return NULL;
}

zg_status zg__check_axes(const zg_ints *axes, const zg_type *t) {
  for (int64_t i = 0; i < axes->n; i++)
    if (axes->at[i] < 0 || axes->at[i] >= t->rank || (i && axes->at[i] <= axes->at[i - 1]))
      return zg_error(ZG_INVALID, "axes must be sorted and inside %s; axis %lld is not", zg_type_text(t),
                      (long long)axes->at[i]);
  return NULL;
}

zg_type zg__reduced_type(const zg_type *t, const zg_ints *axes, bool keep) {
  zg_type r = zg_type_scalar(t->dtype);
  int64_t k = 0;
  for (uint32_t d = 0; d < t->rank; d++) {
    if (k < axes->n && axes->at[k] == d) {
      k++;
      if (keep) r.dim[r.rank++] = 1;
    } else {
      r.dim[r.rank++] = t->dim[d];
    }
  }
  return r;
}

zg_status zg__axes_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  const zg_axes_attr *a = x->attr;
  ZG_TRY(zg__check_axes(&a->axes, x->in[0]));
  if (!zg_dtype_is_float(x->in[0]->dtype))
    return zg_error(ZG_INVALID, "wants a float tensor, not %s", zg_type_text(x->in[0]));
  x->out[0] = zg__reduced_type(x->in[0], &a->axes, a->keep);
  return NULL;
}

bool zg__inside(int64_t start, int64_t step, int64_t size, int64_t dim) {
  // Beyond the dim a step only appears with fewer than two elements, where 1 does as well; so strides cannot
  // overflow.
  const int64_t most = ZG_MAX(dim, 1);
  if (size < 0 || step < -most || step > most) return false;
  if (size == 0) return start >= 0 && start <= dim;
  int64_t reach;
  if (__builtin_mul_overflow(size - 1, step, &reach) || __builtin_add_overflow(reach, start, &reach))
    return false;
  return start >= 0 && start < dim && reach >= 0 && reach < dim && (size == 1 || step != 0);
}

// ---- evaluation --------------------------------------------------------------------------------
void zg__strided_copy(const zg_type *t, void *dense, void *strided, const int64_t *stride, int64_t offset,
                      bool to_strided) {
  const uint32_t size = zg_dtype_bytes(t->dtype);
  int64_t idx[ZG_MAX_RANK] = {0};
  char *d = dense, *s = strided;
  for (int64_t i = 0, n = zg_elems(t); i < n; i++) {
    if (to_strided) memcpy(s + offset * size, d + i * size, size);
    else memcpy(d + i * size, s + offset * size, size);
    zg__step(t, idx, stride, &offset);
  }
}

int64_t zg__slice_strides(const zg_type *t, const zg_ints *start, const zg_ints *step, int64_t *stride) {
  int64_t s[ZG_MAX_RANK], offset = 0;
  zg_type_strides(t, s);
  for (uint32_t d = 0; d < t->rank; d++) stride[d] = s[d] * step->at[d], offset += s[d] * start->at[d];
  return offset;
}
