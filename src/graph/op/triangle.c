// ONNX ops on the diagonals of matrices.
#include "graph/op/op_priv.h"

static zg_status import_trilu(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  zg_builder *b = n->b;
  const zg_type t = *zg_b_type(b, n->in[0]);
  if (t.rank < 2) return zg_onnx_error(n, ZG_INVALID, "operand is %s, want rank 2 or more", zg_type_text(&t));
  double k = 0;
  if (zg_is(zg_onnx_in(n, 1))) ZG_TRY(zg__const_scalar(n, 1, &k));
  const zg_val row = zg__index_along(b, &t, (int64_t)t.rank - 2, k),
               col = zg__index_along(b, &t, (int64_t)t.rank - 1, 0);
  const bool upper = zg_onnx_int(n, "upper", 1) != 0;
  const zg_val keep = upper ? zg_b_map2(b, ZG_S_LE, row, col) : zg_b_map2(b, ZG_S_LE, col, row);
  n->out[0] = t.dtype == ZG_BOOL ? zg_b_map2(b, ZG_S_AND, keep, n->in[0])
                                 : zg_b_where(b, keep, n->in[0], zg_b_like(b, n->in[0], 0));
  return NULL;
}

static zg_status import_eye_like(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  zg_builder *b = n->b;
  zg_type t = *zg_b_type(b, n->in[0]);
  if (t.rank != 2) return zg_onnx_error(n, ZG_INVALID, "operand is %s, want a matrix", zg_type_text(&t));
  if (zg_onnx_has(n, "dtype")) ZG_TRY(zg_onnx_dtype(zg_onnx_int(n, "dtype", 1), &t.dtype));
  const zg_val row = zg__index_along(b, &t, 0, (double)zg_onnx_int(n, "k", 0)),
               col = zg__index_along(b, &t, 1, 0);
  n->out[0] = zg_b_cast(b, zg_b_map2(b, ZG_S_EQ, row, col), t.dtype);
  return NULL;
}

static const zg_onnx_row rows[] = {
    {"Trilu", "", 14, 0, import_trilu},
    {"Trilu", "com.microsoft", 1, 0, import_trilu},
    {"EyeLike", "", 9, 0, import_eye_like, .no_gradient = true},
};
const zg_family zg_family_triangle = {.name = "triangle", .onnx = rows, .n_onnx = ZG_COUNT(rows)};
