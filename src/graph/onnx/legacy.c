// Operators as they were in opset 6, which PyTorch and Caffe2 wrote for long. They differ from opset 7 in broadcasting: the second
// operand of an arithmetic op spreads only with attribute `broadcast`, from dimension `axis` of the first operand on; the slopes of
// PRelu belong to the channels.
#include "graph/onnx/onnx_priv.h"

static bool broadcasts_by_attribute(const char *op_type) {
  static const char *const ops[] = {"Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less"};
  for (size_t i = 0; i < ZG_COUNT(ops); i++)
    if (!strcmp(op_type, ops[i])) return true;
  return false;
}

// Where the second operand of a node of opset 6 belongs in the first; -1: it stays as it is.
static int64_t axis_of(const zg_onnx_node *v, const zg_type *t, const zg_type *u) {
  if (!strcmp(v->op_type, "PRelu")) return t->rank > 1 && u->rank == 1 && u->dim[0] > 1 ? 1 : -1;
  if (!broadcasts_by_attribute(v->op_type) || !zg_onnx_int(v, "broadcast", 0) || !zg_onnx_has(v, "axis")) return -1;
  const int64_t axis = zg_onnx_int(v, "axis", 0);
  return axis < 0 ? axis + t->rank : axis;
}

// Dims of 1 behind the second operand's own, so that numpy's rule puts it where `axis` says.
static zg_status place(zg_onnx_node *v, zg_val x, zg_val *y) {
  const zg_type t = *zg_b_type(v->b, x), u = *zg_b_type(v->b, *y);
  const int64_t axis = axis_of(v, &t, &u), rank = (int64_t)t.rank - axis;
  int64_t dim[ZG_MAX_RANK];
  if (axis < 0) return NULL;
  if (rank < u.rank)
    return zg_onnx_error(v, ZG_INVALID, "axis %lld does not place %s in %s", (long long)axis, zg_type_text(&u), zg_type_text(&t));
  for (int64_t i = 0; i < rank; i++) dim[i] = i < u.rank ? u.dim[i] : 1;
  *y = zg_b_reshape(v->b, *y, dim, rank);
  return NULL;
}

zg_status zg__modernise(zg_onnx_node *v) {
  if (*v->domain || v->opset >= 7) return NULL;
  v->opset = 7;
  if (v->n_in != 2 || !zg_is(v->in[0]) || !zg_is(v->in[1])) return NULL;   // the import of the op says so
  zg_val *in = ZG_NEW_N(zg_builder_arena(v->b), zg_val, 2);
  in[0] = v->in[0];
  in[1] = v->in[1];
  ZG_TRY(place(v, in[0], &in[1]));
  v->in = in;
  return NULL;
}
