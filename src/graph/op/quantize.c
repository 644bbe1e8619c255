// Op family: 8- and 16-bit integer quantisation, in float arithmetic. Quantised models run, so that they can be compared with the
// float model they come from; they do not train: integers have no gradient. Sums of products are exact: they are taken in double.
#include "graph/op/import_priv.h"
#include "graph/op/op_priv.h"

static bool range_of(zg_dtype t, double *lo, double *hi) {
  static const struct { zg_dtype type; double lo, hi; } ranges[] = {
      {ZG_U8, 0, 255}, {ZG_I8, -128, 127}, {ZG_U16, 0, 65535}, {ZG_I16, -32768, 32767}};
  for (size_t i = 0; i < ZG_COUNT(ranges); i++)
    if (ranges[i].type == t) {
      *lo = ranges[i].lo;
      *hi = ranges[i].hi;
      return true;
    }
  return false;
}

// Rounds half to even, saturates, narrows.
static zg_val saturate(zg_builder *b, zg_val x, zg_dtype to) {
  double lo = 0, hi = 0;
  range_of(to, &lo, &hi);
  return zg_b_cast(b, zg_emit1(b, zg_map_op(ZG_S_CLIP), NULL, (zg_val[]){x, zg_b_like(b, x, lo), zg_b_like(b, x, hi)}, 3), to);
}

// A scale or zero point so shaped that it broadcasts over x: one number, one an index of `axis`, or one a block along `axis`.
static zg_status spread(zg_onnx_node *n, zg_val v, const zg_type *x, zg_val *out) {
  zg_builder *b = n->b;
  const zg_type t = *zg_b_type(b, v);
  const int64_t block = zg_onnx_int(n, "block_size", 0);
  int64_t axis, dim[ZG_MAX_RANK];
  *out = v;
  if (t.rank == 0) return NULL;
  if (t.rank == 1 && t.dim[0] == 1) {
    *out = zg_b_reshape(b, v, NULL, 0);
    return NULL;
  }
  ZG_TRY(zg__axis(n, zg_onnx_int(n, "axis", 1), x->rank, &axis));
  if (t.rank == 1) {
    for (uint32_t d = 0; d < x->rank; d++) dim[d] = d == axis ? t.dim[0] : 1;
    *out = zg_b_reshape(b, v, dim, x->rank);
    return NULL;
  }
  if (block < 1 || t.rank != x->rank || t.dim[axis] != (x->dim[axis] + block - 1) / block)
    return zg_onnx_error(n, ZG_INVALID, "scale %s and block_size %lld do not fit %s", zg_type_text(&t), (long long)block, zg_type_text(x));
  int64_t *at = ZG_NEW_N(zg_builder_arena(b), int64_t, x->dim[axis] + 1);
  for (int64_t i = 0; i < x->dim[axis]; i++) at[i] = i / block;
  *out = zg_b_gather(b, v, zg_b_int_vec(b, at, x->dim[axis]), axis);
  return NULL;
}

static zg_status spread_in(zg_onnx_node *n, uint32_t i, const zg_type *x, zg_dtype to, zg_val *out) {
  *out = (zg_val){0};
  if (!zg_is(zg_onnx_in(n, i))) return NULL;
  ZG_TRY(spread(n, zg_onnx_in(n, i), x, out));
  *out = zg_b_cast(n->b, *out, to);
  return NULL;
}

static zg_status import_quantize(zg_onnx_node *n) {
  zg_builder *b = n->b;
  ZG_TRY(zg__need(n, 2));
  const zg_type x = *zg_b_type(b, zg_onnx_in(n, 0));
  zg_dtype to = ZG_U8, wide = x.dtype == ZG_F64 ? ZG_F64 : ZG_F32;
  zg_val scale, zero;
  double lo, hi;
  if (zg_onnx_int(n, "output_dtype", 0)) ZG_TRY(zg_onnx_dtype(zg_onnx_int(n, "output_dtype", 0), &to));
  if (zg_is(zg_onnx_in(n, 2))) to = zg_b_type(b, n->in[2])->dtype;
  if (!range_of(to, &lo, &hi)) return zg_onnx_error(n, ZG_UNSUPPORTED, "quantisation to %s", zg_dtype_name(to));
  ZG_TRY(spread_in(n, 1, &x, wide, &scale));
  ZG_TRY(spread_in(n, 2, &x, wide, &zero));
  zg_val y = zg_b_map1(b, ZG_S_ROUND, zg_div(b, zg_b_cast(b, n->in[0], wide), scale));
  n->out[0] = saturate(b, zg_is(zero) ? zg_add(b, y, zero) : y, to);
  return NULL;
}

static zg_status import_dequantize(zg_onnx_node *n) {
  zg_builder *b = n->b;
  ZG_TRY(zg__need(n, 2));
  const zg_type x = *zg_b_type(b, zg_onnx_in(n, 0));
  zg_dtype to = zg_b_type(b, n->in[1])->dtype;
  zg_val scale, zero;
  if (zg_onnx_int(n, "output_dtype", 0)) ZG_TRY(zg_onnx_dtype(zg_onnx_int(n, "output_dtype", 0), &to));
  const zg_dtype wide = zg__wide_dtype(to);
  ZG_TRY(spread_in(n, 1, &x, wide, &scale));
  ZG_TRY(spread_in(n, 2, &x, wide, &zero));
  zg_val y = zg_b_cast(b, n->in[0], wide);
  if (zg_is(zero)) y = zg_sub(b, y, zero);
  n->out[0] = zg_b_cast(b, zg_mul(b, y, scale), to);
  return NULL;
}

// To u8 with the range of the data, zero included: y, scale, zero point.
static zg_status import_dynamic_quantize(zg_onnx_node *n) {
  zg_builder *b = n->b;
  ZG_TRY(zg__need(n, 1));
  const zg_val x = n->in[0], nil = zg_b_like(b, x, 0);
  const zg_val high = zg_b_map2(b, ZG_S_MAX, zg_b_reduce_all(b, ZG_RED_MAX, x), nil);
  const zg_val low = zg_b_map2(b, ZG_S_MIN, zg_b_reduce_all(b, ZG_RED_MIN, x), nil);
  const zg_val range = zg_sub(b, high, low), flat = zg_b_map2(b, ZG_S_EQ, range, nil);
  const zg_val scale = zg_div(b, zg_b_where(b, flat, zg_b_like(b, x, 1), range), zg_b_like(b, x, 255));
  const zg_val zero = zg_b_map1(b, ZG_S_ROUND, zg_div(b, zg_neg(b, low), scale));
  const zg_val zero_u8 = saturate(b, zero, ZG_U8);
  const zg_val y = zg_add(b, zg_b_map1(b, ZG_S_ROUND, zg_div(b, x, scale)), zg_b_cast(b, zero_u8, zg_b_type(b, x)->dtype));
  const zg_val out[] = {saturate(b, y, ZG_U8), scale, zero_u8};
  for (uint32_t i = 0; i < n->n_out && i < 3; i++) n->out[i] = out[i];
  return NULL;
}

// Operand i less zero point z in double; the zero point may have one number an index of `axis`.
static zg_status centred(zg_onnx_node *n, uint32_t i, uint32_t z, int64_t axis, zg_val *out) {
  zg_builder *b = n->b;
  zg_val zero = zg_onnx_in(n, z);
  const zg_type t = *zg_b_type(b, zg_onnx_in(n, i));
  *out = zg_b_cast(b, zg_onnx_in(n, i), ZG_F64);
  if (!zg_is(zero)) return NULL;
  if (zg_elems(zg_b_type(b, zero)) == 1) {
    zero = zg_b_reshape(b, zero, NULL, 0);
  } else if (zg_b_type(b, zero)->rank == 1) {
    int64_t dim[ZG_MAX_RANK];
    if (axis < 0) axis += t.rank;
    for (uint32_t d = 0; d < t.rank; d++) dim[d] = d == axis ? zg_b_type(b, zero)->dim[0] : 1;
    zero = zg_b_reshape(b, zero, dim, t.rank);
  }
  *out = zg_sub(b, *out, zg_b_cast(b, zero, ZG_F64));
  return NULL;
}

static zg_status import_matmul_integer(zg_onnx_node *n) {
  zg_val x, y;
  ZG_TRY(zg__need(n, 2));
  ZG_TRY(centred(n, 0, 2, -2, &x));
  ZG_TRY(centred(n, 1, 3, -1, &y));
  n->out[0] = zg_b_cast(n->b, zg__matmul(n->b, x, y, false, false), ZG_I32);
  return NULL;
}

// The convolution that the node's attributes describe, of other operands.
static zg_status convolve(zg_onnx_node *n, zg_val x, zg_val w, zg_val bias, zg_val *out) {
  const zg_onnx_row *row = zg_onnx_find("Conv", "", n->opset);
  const zg_val in[] = {x, w, bias};
  zg_onnx_node conv = *n;
  *out = (zg_val){0};
  conv.in = in;
  conv.n_in = zg_is(bias) ? 3 : 2;
  conv.out = out;
  conv.n_out = 1;
  return row->import(&conv);
}

static zg_status import_conv_integer(zg_onnx_node *n) {
  zg_val x, w, y;
  ZG_TRY(zg__need(n, 2));
  ZG_TRY(centred(n, 0, 2, 1, &x));
  ZG_TRY(centred(n, 1, 3, 0, &w));
  ZG_TRY(convolve(n, x, w, (zg_val){0}, &y));
  n->out[0] = zg_b_cast(n->b, y, ZG_I32);
  return NULL;
}

static zg_val scalar_f64(zg_builder *b, zg_val v) {
  if (zg_elems(zg_b_type(b, v)) == 1) v = zg_b_reshape(b, v, NULL, 0);
  return zg_b_cast(b, v, ZG_F64);
}

// round(y * x_scale * w_scale / y_scale) + zero point; w_scale already spread over y.
static zg_status requantize(zg_onnx_node *n, zg_val y, zg_val x_scale, zg_val w_scale, uint32_t y_scale) {
  zg_builder *b = n->b;
  const zg_val zero = zg_onnx_in(n, y_scale + 1);
  const zg_dtype to = zg_b_type(b, zg_is(zero) ? zero : n->in[0])->dtype;
  double lo, hi;
  if (!range_of(to, &lo, &hi)) return zg_onnx_error(n, ZG_UNSUPPORTED, "quantisation to %s", zg_dtype_name(to));
  y = zg_mul(b, y, zg_div(b, zg_mul(b, x_scale, w_scale), scalar_f64(b, n->in[y_scale])));
  if (zg_is(zero)) y = zg_add(b, y, scalar_f64(b, zero));
  n->out[0] = saturate(b, zg_b_map1(b, ZG_S_ROUND, y), to);
  return NULL;
}

static zg_status import_qlinear_matmul(zg_onnx_node *n) {
  zg_val x, y;
  ZG_TRY(zg__need(n, 8));
  ZG_TRY(centred(n, 0, 2, -2, &x));
  ZG_TRY(centred(n, 3, 5, -1, &y));
  return requantize(n, zg__matmul(n->b, x, y, false, false), scalar_f64(n->b, n->in[1]), scalar_f64(n->b, n->in[4]), 6);
}

static zg_status import_qlinear_conv(zg_onnx_node *n) {
  zg_builder *b = n->b;
  zg_val x, w, y, bias = zg_onnx_in(n, 8);
  ZG_TRY(zg__need(n, 8));
  ZG_TRY(centred(n, 0, 2, 1, &x));
  ZG_TRY(centred(n, 3, 5, 0, &w));
  if (zg_is(bias)) bias = zg_b_cast(b, bias, ZG_F64);
  ZG_TRY(convolve(n, x, w, bias, &y));
  zg_val scale = scalar_f64(b, n->in[4]);
  const zg_type t = *zg_b_type(b, scale), ty = *zg_b_type(b, y);
  if (t.rank == 1) {
    int64_t dim[ZG_MAX_RANK];
    for (uint32_t d = 0; d < ty.rank; d++) dim[d] = d == 1 ? t.dim[0] : 1;
    scale = zg_b_reshape(b, scale, dim, ty.rank);
  }
  return requantize(n, y, scalar_f64(b, n->in[1]), scale, 6);
}

static const zg_onnx_row rows[] = {
    {"QuantizeLinear", "", 10, 0, import_quantize, NULL, 0, .no_gradient = true},
    {"DequantizeLinear", "", 10, 0, import_dequantize, NULL, 0},
    {"DynamicQuantizeLinear", "", 11, 0, import_dynamic_quantize, NULL, 0, .no_gradient = true},
    {"MatMulInteger", "", 10, 0, import_matmul_integer, NULL, 0, .no_gradient = true},
    {"ConvInteger", "", 10, 0, import_conv_integer, NULL, 0, .no_gradient = true},
    {"QLinearMatMul", "", 10, 0, import_qlinear_matmul, NULL, 0, .no_gradient = true},
    {"QLinearConv", "", 10, 0, import_qlinear_conv, NULL, 0, .no_gradient = true},
};
const zg_family zg_family_quantize = {.name = "quantize", .onnx = rows, .n_onnx = ZG_COUNT(rows)};
