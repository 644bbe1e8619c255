// opt_rotary: a spelled-out rotary embedding x * c + [-x2, x1] * s becomes the op rotary, whose gradient is a rotation too. The
// derivative of what is written pads the halves to the whole and adds them up.
//
//   [-x2, x1]: concat(neg(slice(x, D/2..)), slice(x, ..D/2)) along the last dim. Factors and summands in any order; x * c may have
//   been read through a view that changes nothing.
// Also used by the import, which knows tables of cosines and sines by it. Cost: linear. Source: Su et al. 2021, RoFormer.
#include "graph/graph_priv.h"
#include "graph/pass.h"

// v = x[.., from : from + D/2]
static bool is_half(const zg_graph *g, zg_val v, int64_t from, zg_val *x) {
  if (!zg_is_op(g, v, &zg_op_slice)) return false;
  const zg_slice_attr *a = zg_node_of(g, v)->attr;
  *x = zg__operand(g, v, 0);
  const zg_type *t = zg_type_of(g, *x);
  for (uint32_t d = 0; d < t->rank; d++) {
    const bool last = d + 1 == t->rank;
    if (a->step.at[d] != 1 || a->start.at[d] != (last ? from : 0) || a->size.at[d] != (last ? t->dim[d] / 2 : t->dim[d])) return false;
  }
  return true;
}

// v = [-x2, x1]
static bool is_turned(const zg_graph *g, zg_val v, zg_val *x) {
  zg_val x1;
  if (!zg_is_op(g, v, &zg_op_concat) || zg_node_of(g, v)->n_in != 2) return false;
  const zg_type *t = zg_type_of(g, v);
  const int64_t axis = ((const zg_axis_attr *)zg_node_of(g, v)->attr)->axis, width = t->dim[t->rank - 1];
  const zg_val minus = zg__operand(g, v, 0);
  return (axis == -1 || axis == (int64_t)t->rank - 1) && width % 2 == 0 && zg__is_map(g, minus, ZG_S_NEG) &&
         is_half(g, zg__operand(g, minus, 0), width / 2, x) && is_half(g, zg__operand(g, v, 1), 0, &x1) && zg_same(*x, x1);
}

bool zg__match_rotary(const zg_graph *g, zg_val v, zg__rotation *out) {
  if (zg_is_op(g, v, &zg_op_rotary)) {
    *out = (zg__rotation){zg__operand(g, v, 0), zg__operand(g, v, 1), zg__operand(g, v, 2)};
    return true;
  }
  if (!zg__is_map(g, v, ZG_S_ADD)) return false;
  for (uint32_t k = 0; k < 8; k++) {   // which summand is turned, and which factors are the tables
    const zg_val turned = zg__operand(g, v, k & 1), plain = zg__operand(g, v, !(k & 1));
    if (!zg__is_map(g, turned, ZG_S_MUL) || !zg__is_map(g, plain, ZG_S_MUL) || !is_turned(g, zg__operand(g, turned, k >> 1 & 1), &out->x)) continue;
    if (!zg_same(zg__operand(g, plain, k >> 2 & 1), out->x)) continue;
    out->s = zg__operand(g, turned, !(k >> 1 & 1)), out->c = zg__operand(g, plain, !(k >> 2 & 1));
    const zg_type *t = zg_type_of(g, out->x);
    if (zg_type_equal(t, zg_type_of(g, v)) && zg_type_fits(zg_type_of(g, out->c), t) && zg_type_fits(zg_type_of(g, out->s), t)) return true;
  }
  return false;
}

static bool rewrite(zg_builder *b, const zg_graph *g, const zg_node *n, zg_val *map, void *user) {
  zg__rotation m;
  (void)user;
  if (n->n_out != 1 || n->op == &zg_op_rotary || !zg__match_rotary(g, zg_out(n, 0), &m)) return false;
  const zg_val in[3] = {map[m.x.id], map[m.c.id], map[m.s.id]};
  map[n->out] = zg_emit1(b, &zg_op_rotary, NULL, in, 3);
  return true;
}

zg_status zg_pass_opt_rotary(const zg_graph *g, zg_graph **out) { return zg__rebuild(g, rewrite, NULL, out); }
