// Op family: shape arithmetic: ONNX ops whose results are constants (or fill and iota) once dims are bound.
#include <math.h>

#include "graph/op/op_priv.h"

enum { MAX_CONST = 4096 };  // integers up to here become bytes in the graph, so that shape arithmetic folds

static zg_status import_shape(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  const zg_type t = *zg_b_type(n->b, n->in[0]);
  const int64_t r = t.rank;
  int64_t start = zg_onnx_int(n, "start", 0), end = zg_onnx_int(n, "end", r);
  start = ZG_MIN(r, ZG_MAX(0, start < 0 ? start + r : start));
  end = ZG_MIN(r, ZG_MAX(0, end < 0 ? end + r : end));
  n->out[0] = zg_b_int_vec(n->b, t.dim + start, ZG_MAX(0, end - start));
  return NULL;
}

static zg_status import_size(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  const int64_t size = zg_elems(zg_b_type(n->b, n->in[0]));
  const zg_type t = zg_type_scalar(ZG_I64);
  n->out[0] = zg_b_const_data(n->b, &t, &size);
  return NULL;
}

static zg_status import_constant_of_shape(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  zg_builder *b = n->b;
  zg_ints dim;
  ZG_TRY(zg_onnx_const_ints(n, 0, &dim));
  if (dim.n > ZG_MAX_RANK)
    return zg_onnx_error(n, ZG_UNSUPPORTED, "rank %lld is above the limit of %d", (long long)dim.n,
                         ZG_MAX_RANK);
  zg_type t = zg_type_make(ZG_F32, (uint32_t)dim.n, dim.at);
  for (int64_t i = 0; i < dim.n; i++)
    if (dim.at[i] < 0)
      return zg_onnx_error(n, ZG_INVALID, "shape has the negative entry %lld", (long long)dim.at[i]);
  const zg_val value = zg_onnx_tensor(n, "value");
  double v = 0;
  if (zg_is(value)) {
    if (!zg_b_const_scalar(b, value, &v))
      return zg_onnx_error(n, ZG_INVALID, "attribute value is not one number");
    t.dtype = zg_b_type(b, value)->dtype;
  }
  const int64_t count = zg_elems(&t);
  if (zg_dtype_is_float(t.dtype) || count > MAX_CONST) {
    n->out[0] = zg_b_fill(b, &t, v);
    return NULL;
  }
  void *at = zg_arena_alloc(zg_builder_arena(b), zg_type_bytes(&t) + 8);
  for (int64_t i = 0; i < count; i++) zg_set_f64(t.dtype, at, i, v);
  n->out[0] = zg_b_const_data(b, &t, at);
  return NULL;
}

static zg_status import_range(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 3));
  zg_builder *b = n->b;
  double start, limit, step;
  ZG_TRY(zg__const_scalar(n, 0, &start));
  ZG_TRY(zg__const_scalar(n, 1, &limit));
  ZG_TRY(zg__const_scalar(n, 2, &step));
  if (zg_builder_failed(b)) return NULL;
  if (step == 0) return zg_onnx_error(n, ZG_INVALID, "delta is 0");
  const double steps = ceil((limit - start) / step);
  if (!(steps < 1e12))
    return zg_onnx_error(n, ZG_INVALID, "range from %g to %g in steps of %g is too long", start, limit, step);
  const int64_t count = steps > 0 ? (int64_t)steps : 0;
  const zg_type t = zg_type_make(zg_b_type(b, n->in[0])->dtype, 1, &count);
  if (zg_dtype_is_float(t.dtype) || count > MAX_CONST) {
    const zg_iota_attr a = {.type = t, .axis = 0, .start = start, .step = step};
    n->out[0] = zg_emit1(b, &zg_op_iota, &a, NULL, 0);
    return NULL;
  }
  void *at = zg_arena_alloc(zg_builder_arena(b), zg_type_bytes(&t) + 8);
  for (int64_t i = 0; i < count; i++) zg_set_i64(t.dtype, at, i, (int64_t)start + i * (int64_t)step);
  n->out[0] = zg_b_const_data(b, &t, at);
  return NULL;
}

static const zg_onnx_row rows[] = {
    {"Shape", "", 1, 0, import_shape, .no_gradient = true},
    {"Size", "", 1, 0, import_size, .no_gradient = true},
    {"ConstantOfShape", "", 9, 0, import_constant_of_shape, .no_gradient = true},
    {"Range", "", 11, 0, import_range, .no_gradient = true},
};
const zg_family zg_family_shape = {.name = "shape", .onnx = rows, .n_onnx = ZG_COUNT(rows)};
