// The builder's vocabulary: one function an op, with the simplifications that never hurt. Each keeps type and value of what
// was asked for; those that change the order of floating-point operations are not made here.
#include <stdlib.h>

#include "graph/graph_priv.h"

// A call that got an omitted value after an earlier error does nothing; an omitted value without one is a caller's slip.
static bool missing(zg_builder *b, zg_val v) {
  if (zg_builder_failed(b)) return true;
  if (zg_is(v)) return false;
  zg_builder_fail(b, zg_error(ZG_INTERNAL, "an operand is missing while a graph is built"));
  return true;
}

static zg_status normal_axis(const zg_type *t, int64_t *axis) {
  const int64_t a = *axis < 0 ? *axis + t->rank : *axis;
  if (a < 0 || a >= t->rank)
    return zg_error(ZG_INVALID, "axis %lld is out of range for %s", (long long)*axis, zg_type_text(t));
  *axis = a;
  return NULL;
}

static bool bad_axis(zg_builder *b, zg_val x, int64_t *axis) {
  if (missing(b, x)) return true;
  zg_builder_fail(b, normal_axis(zg_b_type(b, x), axis));
  return zg_builder_failed(b);
}

// ---- leaves and constants -----------------------------------------------------------------------------------------------
zg_val zg_b_input(zg_builder *b, const char *name, const zg_type *t) {
  const zg_input_attr a = {name, *t};
  const zg_val v = zg_emit1(b, &zg_op_input, &a, NULL, 0);
  zg_builder_name(b, v, name);
  return v;
}

zg_val zg_b_param(zg_builder *b, const zg_param_attr *a) {
  const zg_val v = zg_emit1(b, &zg_op_param, a, NULL, 0);
  zg_builder_name(b, v, a->name);
  return v;
}

zg_val zg_b_state(zg_builder *b, const zg_state_attr *a) {
  const zg_val v = zg_emit1(b, &zg_op_state, a, NULL, 0);
  zg_builder_name(b, v, a->name);
  return v;
}

zg_val zg_b_scalar(zg_builder *b, zg_dtype t, double v) {
  uint64_t bytes = 0;
  zg_set_f64(t, &bytes, 0, v);
  const zg_const_attr a = {zg_type_scalar(t), &bytes};
  return zg_emit1(b, &zg_op_const, &a, NULL, 0);
}

zg_val zg_b_like(zg_builder *b, zg_val v, double x) {
  if (missing(b, v)) return (zg_val){0};
  return zg_b_scalar(b, zg_b_type(b, v)->dtype, x);
}

zg_val zg_b_fill(zg_builder *b, const zg_type *t, double v) {
  if (t->rank == 0) return zg_b_scalar(b, t->dtype, v);
  const zg_fill_attr a = {*t, v};
  return zg_emit1(b, &zg_op_fill, &a, NULL, 0);
}

zg_val zg_b_iota(zg_builder *b, const zg_type *t, uint32_t axis) {
  const zg_iota_attr a = {*t, axis, 0, 1};
  return zg_emit1(b, &zg_op_iota, &a, NULL, 0);
}

zg_val zg_b_int_vec(zg_builder *b, const int64_t *at, int64_t n) {
  const zg_type t = zg_type_make(ZG_I64, 1, &n);
  return zg_b_const_data(b, &t, at);
}

// ---- scalar maps --------------------------------------------------------------------------------------------------------
// Would the map's result keep its shape if operand i were of type `with`?
static bool keeps_shape(zg_builder *b, const zg_val *v, uint32_t n, uint32_t i, const zg_type *with) {
  zg_type before = *zg_b_type(b, v[0]), after = i == 0 ? *with : before;
  for (uint32_t k = 0; k < n; k++) {
    zg_status s = zg_type_broadcast(&before, zg_b_type(b, v[k]), &before);
    if (!s) s = zg_type_broadcast(&after, k == i ? with : zg_b_type(b, v[k]), &after);
    if (s) {
      zg_status_free(s);
      return false;
    }
  }
  return zg_same_shape(&before, &after);
}

// Maps broadcast by themselves: an expanded operand is read unexpanded, a splat as a scalar, if the others give the shape.
static void unexpand(zg_builder *b, zg_val *v, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) {
    const zg_graph *g = zg_builder_graph(b);
    double splat;
    if (zg_is_op(g, v[i], &zg_op_expand)) {
      const zg_val src = zg_in(g, zg_node_of(g, v[i]), 0);
      if (keeps_shape(b, v, n, i, zg_type_of(g, src))) v[i] = src;
    } else if (zg_is_op(g, v[i], &zg_op_fill) && zg_type_of(g, v[i])->rank && zg_b_const_scalar(b, v[i], &splat)) {
      const zg_type scalar = zg_type_scalar(zg_type_of(g, v[i])->dtype);
      if (keeps_shape(b, v, n, i, &scalar)) v[i] = zg_b_scalar(b, scalar.dtype, splat);
    }
  }
}

zg_val zg_b_map1(zg_builder *b, zg_scalar s, zg_val x) {
  if (missing(b, x)) return (zg_val){0};
  const zg_graph *g = zg_builder_graph(b);
  if (s == ZG_S_NEG && zg_is_op(g, x, zg_map_op(ZG_S_NEG))) return zg_in(g, zg_node_of(g, x), 0);
  return zg_emit1(b, zg_map_op(s), NULL, &x, 1);
}

// x op y where y is the constant k everywhere: x itself, for the neutral k of the op.
static bool neutral_right(zg_scalar s, double k) {
  return ((s == ZG_S_ADD || s == ZG_S_SUB) && k == 0) || ((s == ZG_S_MUL || s == ZG_S_DIV) && k == 1);
}

// The only axis along which two zero-padded blocks of one shape lie differently, if they touch there: y right behind x.
static bool follows(const zg_graph *g, zg_val x, zg_val y, int64_t *out) {
  const zg_unslice_attr *p = zg_node_of(g, x)->attr, *q = zg_node_of(g, y)->attr;
  const zg_type *tx = zg_type_of(g, zg_in(g, zg_node_of(g, x), 0)), *ty = zg_type_of(g, zg_in(g, zg_node_of(g, y), 0));
  int64_t axis = -1;
  if (p->fill != 0 || q->fill != 0 || !zg_type_equal(zg_type_of(g, x), zg_type_of(g, y))) return false;
  for (int64_t d = 0; d < p->dim.n; d++) {
    if (p->step.at[d] != q->step.at[d]) return false;
    if (p->start.at[d] == q->start.at[d] && tx->dim[d] == ty->dim[d]) continue;
    if (axis >= 0 || p->step.at[d] != 1 || p->start.at[d] + tx->dim[d] != q->start.at[d]) return false;
    axis = d;
  }
  *out = axis;
  return axis >= 0;
}

// The block under an unslice, or the blocks, if it is a concat along the axis already.
static uint32_t blocks_of(const zg_graph *g, zg_val v, int64_t axis, zg_val *out) {
  const zg_val x = zg_in(g, zg_node_of(g, v), 0);
  const zg_node *n = zg_node_of(g, x);
  const bool joined = n->op == &zg_op_concat && ((const zg_axis_attr *)n->attr)->axis == axis && n->n_in <= 16;
  for (uint32_t i = 0; joined && i < n->n_in; i++) out[i] = zg_in(g, n, i);
  out[0] = joined ? out[0] : x;
  return joined ? n->n_in : 1;
}

// Sum of adjacent zero-padded blocks: one padded concat. What the gradients of a split tensor add up to.
static bool join_blocks(zg_builder *b, zg_val x, zg_val y, zg_val *out) {
  const zg_graph *g = zg_builder_graph(b);
  int64_t axis;
  if (!zg_is_op(g, x, &zg_op_unslice) || !zg_is_op(g, y, &zg_op_unslice)) return false;
  if (!follows(g, x, y, &axis)) {
    if (!follows(g, y, x, &axis)) return false;
    const zg_val first = y;
    y = x, x = first;
  }
  zg_val blocks[32];
  uint32_t n = blocks_of(g, x, axis, blocks);
  n += blocks_of(g, y, axis, blocks + n);
  const zg_unslice_attr a = *(const zg_unslice_attr *)zg_node_of(g, x)->attr;
  *out = zg_b_unslice(b, zg_b_concat(b, blocks, n, axis), a.dim.at, a.start.at, a.step.at, 0);
  return true;
}

zg_val zg_b_map2(zg_builder *b, zg_scalar s, zg_val x, zg_val y) {
  if (missing(b, x) || missing(b, y)) return (zg_val){0};
  zg_val v[2] = {x, y};
  unexpand(b, v, 2);
  const zg_type *tx = zg_b_type(b, v[0]), *ty = zg_b_type(b, v[1]);
  double k;
  if (tx->dtype == ty->dtype) {
    if (zg_b_const_scalar(b, v[1], &k) && neutral_right(s, k) && keeps_shape(b, v, 2, 1, tx)) return v[0];
    if ((s == ZG_S_ADD || s == ZG_S_MUL) && zg_b_const_scalar(b, v[0], &k) && neutral_right(s, k) &&
        keeps_shape(b, v, 2, 0, ty))
      return v[1];
    if (s == ZG_S_MUL && zg_b_const_scalar(b, v[1], &k) && k == -1 && keeps_shape(b, v, 2, 1, tx))
      return zg_b_map1(b, ZG_S_NEG, v[0]);
    zg_val joined;
    if (s == ZG_S_ADD && join_blocks(b, v[0], v[1], &joined)) return joined;
  }
  return zg_emit1(b, zg_map_op(s), NULL, v, 2);
}

zg_val zg_b_where(zg_builder *b, zg_val cond, zg_val x, zg_val y) {
  if (missing(b, cond) || missing(b, x) || missing(b, y)) return (zg_val){0};
  zg_val v[3] = {cond, x, y};
  unexpand(b, v, 3);
  return zg_emit1(b, &zg_op_where, NULL, v, 3);
}

// Every value of `from` is a value of `to`.
static bool widens(zg_dtype from, zg_dtype to) {
  if (from == to || to == ZG_F64) return zg_dtype_is_float(from);
  return to == ZG_F32 && (from == ZG_BF16 || from == ZG_F16);
}

zg_val zg_b_cast(zg_builder *b, zg_val x, zg_dtype to) {
  if (missing(b, x)) return (zg_val){0};
  const zg_graph *g = zg_builder_graph(b);
  const zg_dtype from = zg_type_of(g, x)->dtype;
  if (from == to) return x;
  if (zg_is_op(g, x, &zg_op_cast)) {   // through a wider type and on: straight there
    const zg_val src = zg_in(g, zg_node_of(g, x), 0);
    if (widens(zg_type_of(g, src)->dtype, from)) return zg_b_cast(b, src, to);
  }
  const zg_cast_attr a = {to};
  return zg_emit1(b, &zg_op_cast, &a, &x, 1);
}

// ---- reductions ---------------------------------------------------------------------------------------------------------
static zg_val reduce_dims(zg_builder *b, zg_red kind, zg_val x, const bool *over, bool keep) {
  const zg_type t = *zg_b_type(b, x);
  int64_t axes[ZG_MAX_RANK], dim[ZG_MAX_RANK];
  uint32_t n = 0, rank = 0;
  bool work = false;
  for (uint32_t d = 0; d < t.rank; d++) {
    if (over[d]) axes[n++] = d, work |= t.dim[d] != 1;
    if (!over[d] || keep) dim[rank++] = over[d] ? 1 : t.dim[d];
  }
  if (!work) return zg_b_reshape(b, x, dim, rank);   // reducing one element is a reshape
  const zg_reduce_attr a = {kind, keep, {n, axes}};
  return zg_emit1(b, &zg_op_reduce, &a, &x, 1);
}

zg_val zg_b_reduce(zg_builder *b, zg_red kind, zg_val x, const int64_t *axes, int64_t n_axes, bool keep) {
  bool over[ZG_MAX_RANK] = {0};
  if (missing(b, x)) return (zg_val){0};
  for (int64_t i = 0; i < n_axes; i++) {
    int64_t axis = axes[i];
    if (bad_axis(b, x, &axis)) return (zg_val){0};
    over[axis] = true;
  }
  return reduce_dims(b, kind, x, over, keep);
}

zg_val zg_b_reduce_all(zg_builder *b, zg_red kind, zg_val x) {
  if (missing(b, x)) return (zg_val){0};
  const bool over[ZG_MAX_RANK] = {1, 1, 1, 1, 1, 1, 1, 1};
  return reduce_dims(b, kind, x, over, false);
}

zg_val zg_b_mean(zg_builder *b, zg_val x, const int64_t *axes, int64_t n_axes, bool keep) {
  const zg_val sum = zg_b_reduce(b, ZG_RED_SUM, x, axes, n_axes, keep);
  if (missing(b, sum)) return (zg_val){0};
  const double all = (double)zg_elems(zg_b_type(b, x)), left = (double)zg_elems(zg_b_type(b, sum));
  return zg_div(b, sum, zg_b_like(b, sum, left > 0 ? all / left : 1));
}

zg_val zg_b_sum_to(zg_builder *b, zg_val dy, const zg_type *shape) {
  if (missing(b, dy)) return (zg_val){0};
  const zg_type want = *shape, t = *zg_b_type(b, dy);   // copies: the argument may point into the growing graph
  if (zg_same_shape(&t, &want)) return dy;
  bool over[ZG_MAX_RANK] = {0}, fits = t.rank >= want.rank;
  const uint32_t lead = fits ? t.rank - want.rank : 0;
  for (uint32_t d = 0; fits && d < t.rank; d++) {
    over[d] = d < lead || (want.dim[d - lead] == 1 && t.dim[d] != 1);
    fits = over[d] || t.dim[d] == want.dim[d - lead];
  }
  if (!fits) {
    zg_builder_fail(b, zg_error(ZG_INTERNAL, "a gradient of shape %s does not sum to %s", zg_type_text(&t), zg_type_text(&want)));
    return (zg_val){0};
  }
  double k;
  const int64_t left = zg_elems(&want);
  if (zg_dtype_is_float(t.dtype) && left > 0 && zg_b_const_scalar(b, dy, &k)) {
    const zg_type sum = zg_type_make(t.dtype, want.rank, want.dim);
    return zg_b_fill(b, &sum, k * (double)(zg_elems(&t) / left));
  }
  bool only_lead = true;
  for (uint32_t d = lead; d < t.rank; d++) only_lead &= !over[d];
  return zg_b_reshape_like(b, reduce_dims(b, ZG_RED_SUM, dy, over, !only_lead), &want);
}

// ---- matmul -------------------------------------------------------------------------------------------------------------
static bool swaps_last(const zg_graph *g, zg_val v) {
  if (!zg_is_op(g, v, &zg_op_transpose)) return false;
  const zg_transpose_attr *a = zg_node_of(g, v)->attr;
  const int64_t n = a->perm.n;
  for (int64_t i = 0; i < n - 2; i++)
    if (a->perm.at[i] != i) return false;
  return n >= 2 && a->perm.at[n - 2] == n - 1 && a->perm.at[n - 1] == n - 2;
}

zg_val zg_b_matmul(zg_builder *b, zg_val x, zg_val y, bool ta, bool tb) {
  if (missing(b, x) || missing(b, y)) return (zg_val){0};
  const zg_graph *g = zg_builder_graph(b);
  while (swaps_last(g, x)) x = zg_in(g, zg_node_of(g, x), 0), ta = !ta;
  while (swaps_last(g, y)) y = zg_in(g, zg_node_of(g, y), 0), tb = !tb;
  const zg_matmul_attr a = {ta, tb};
  const zg_val in[2] = {x, y};
  return zg_emit1(b, &zg_op_matmul, &a, in, 2);
}

// ---- views --------------------------------------------------------------------------------------------------------------
static bool same_dims(const zg_type *t, const int64_t *dim, int64_t rank) {
  return t->rank == rank && (rank == 0 || memcmp(t->dim, dim, sizeof(int64_t) * (size_t)rank) == 0);
}

static bool bad_rank(zg_builder *b, int64_t rank) {
  if (rank >= 0 && rank <= ZG_MAX_RANK) return false;
  zg_builder_fail(b, zg_error(ZG_UNSUPPORTED, "a shape of %lld dimensions; at most %d are possible", (long long)rank, ZG_MAX_RANK));
  return true;
}

static bool swaps_last(const zg_graph *g, zg_val v);

// Leading dims merged, the last two swapped, the leading dims split again (how exporters transpose a batch of matrices):
// the value whose last two dims are to be swapped, or none.
static zg_val unmerged(const zg_graph *g, zg_val x, const int64_t *dim, int64_t rank) {
  const zg_val none = {0};
  if (!swaps_last(g, x)) return none;
  const zg_val inner = zg_in(g, zg_node_of(g, x), 0);
  if (!zg_is_op(g, inner, &zg_op_reshape)) return none;
  const zg_val src = zg_in(g, zg_node_of(g, inner), 0);
  const zg_type *t = zg_type_of(g, src), *m = zg_type_of(g, inner);
  if (t->rank != rank || rank < 2) return none;
  for (int64_t i = 0; i < rank - 2; i++)
    if (t->dim[i] != dim[i]) return none;
  const bool kept = t->dim[rank - 2] == m->dim[m->rank - 2] && t->dim[rank - 1] == m->dim[m->rank - 1];
  return kept && dim[rank - 2] == t->dim[rank - 1] && dim[rank - 1] == t->dim[rank - 2] ? src : none;
}

zg_val zg_b_reshape(zg_builder *b, zg_val x, const int64_t *dim, int64_t rank) {
  if (missing(b, x) || bad_rank(b, rank)) return (zg_val){0};
  const zg_graph *g = zg_builder_graph(b);
  int64_t d[ZG_MAX_RANK] = {0}, known = 1, open = -1;
  for (int64_t i = 0; i < rank; i++) {
    d[i] = dim[i];
    if (d[i] == -1 && open < 0) {
      open = i;
    } else if (d[i] < 0 || !zg_mul_i64(known, d[i], &known)) {
      zg_builder_fail(b, zg_error(ZG_INVALID, "reshape of %s to a shape with dimension %lld", zg_type_text(zg_b_type(b, x)), (long long)d[i]));
      return (zg_val){0};
    }
  }
  if (open >= 0) d[open] = known > 0 ? zg_elems(zg_b_type(b, x)) / known : 0;
  if (same_dims(zg_b_type(b, x), d, rank)) return x;
  if (zg_is_op(g, x, &zg_op_reshape)) return zg_b_reshape(b, zg_in(g, zg_node_of(g, x), 0), d, rank);
  const zg_val matrices = unmerged(g, x, d, rank);
  if (zg_is(matrices)) return zg_b_swap_last(b, matrices);
  const zg_shape_attr a = {{rank, d}};
  return zg_emit1(b, &zg_op_reshape, &a, &x, 1);
}

zg_val zg_b_reshape_like(zg_builder *b, zg_val x, const zg_type *shape) {
  const zg_type t = *shape;
  return zg_b_reshape(b, x, t.dim, t.rank);
}

zg_val zg_b_transpose(zg_builder *b, zg_val x, const int64_t *perm) {
  if (missing(b, x)) return (zg_val){0};
  const zg_graph *g = zg_builder_graph(b);
  const zg_type *t = zg_b_type(b, x);
  int64_t p[ZG_MAX_RANK], last = -1, dim[ZG_MAX_RANK];
  bool moves = false, in_range = true;
  for (uint32_t i = 0; i < t->rank; i++) {
    p[i] = perm[i] < 0 ? perm[i] + t->rank : perm[i];
    in_range &= p[i] >= 0 && p[i] < t->rank;
    if (!in_range) break;
    dim[i] = t->dim[p[i]];
    if (dim[i] == 1) continue;
    moves |= p[i] < last;
    last = p[i];
  }
  // Only dims of size 1 change place: no element moves.
  if (in_range && !moves) return zg_b_reshape(b, x, dim, t->rank);
  if (in_range && zg_is_op(g, x, &zg_op_transpose)) {
    const zg_transpose_attr *inner = zg_node_of(g, x)->attr;
    for (uint32_t i = 0; i < t->rank; i++) p[i] = inner->perm.at[p[i]];
    return zg_b_transpose(b, zg_in(g, zg_node_of(g, x), 0), p);
  }
  const zg_transpose_attr a = {{t->rank, p}};
  return zg_emit1(b, &zg_op_transpose, &a, &x, 1);
}

zg_val zg_b_swap_last(zg_builder *b, zg_val x) {
  if (missing(b, x)) return (zg_val){0};
  const int64_t rank = zg_b_type(b, x)->rank;
  if (rank < 2) {
    zg_builder_fail(b, zg_error(ZG_INVALID, "%s has no last two dimensions to swap", zg_type_text(zg_b_type(b, x))));
    return (zg_val){0};
  }
  int64_t perm[ZG_MAX_RANK];
  for (int64_t i = 0; i < rank; i++) perm[i] = i;
  perm[rank - 2] = rank - 1, perm[rank - 1] = rank - 2;
  return zg_b_transpose(b, x, perm);
}

zg_val zg_b_expand(zg_builder *b, zg_val x, const int64_t *dim, int64_t rank) {
  if (missing(b, x) || bad_rank(b, rank)) return (zg_val){0};
  const zg_graph *g = zg_builder_graph(b);
  if (same_dims(zg_b_type(b, x), dim, rank)) return x;
  if (zg_is_op(g, x, &zg_op_expand)) {
    const zg_val src = zg_in(g, zg_node_of(g, x), 0);
    if (zg_type_of(g, x)->rank <= rank) return zg_b_expand(b, src, dim, rank);
  }
  const zg_shape_attr a = {{rank, dim}};
  return zg_emit1(b, &zg_op_expand, &a, &x, 1);
}

zg_val zg_b_unsqueeze(zg_builder *b, zg_val x, int64_t axis) {
  if (missing(b, x)) return (zg_val){0};
  const zg_type t = *zg_b_type(b, x);
  const int64_t at = axis < 0 ? axis + t.rank + 1 : axis;
  if (at < 0 || at > t.rank || t.rank == ZG_MAX_RANK) {
    zg_builder_fail(b, zg_error(ZG_INVALID, "no new axis %lld in %s", (long long)axis, zg_type_text(&t)));
    return (zg_val){0};
  }
  int64_t dim[ZG_MAX_RANK];
  for (uint32_t i = 0; i <= t.rank; i++) dim[i] = i < at ? t.dim[i] : i == at ? 1 : t.dim[i - 1];
  return zg_b_reshape(b, x, dim, t.rank + 1);
}

zg_val zg_b_squeeze(zg_builder *b, zg_val x, int64_t axis) {
  if (bad_axis(b, x, &axis)) return (zg_val){0};
  const zg_type t = *zg_b_type(b, x);
  if (t.dim[axis] != 1) {
    zg_builder_fail(b, zg_error(ZG_INVALID, "axis %lld of %s is not 1, so it cannot be dropped", (long long)axis, zg_type_text(&t)));
    return (zg_val){0};
  }
  int64_t dim[ZG_MAX_RANK];
  for (uint32_t i = 0; i + 1 < t.rank; i++) dim[i] = t.dim[i < axis ? i : i + 1];
  return zg_b_reshape(b, x, dim, t.rank - 1);
}

zg_val zg_b_slice(zg_builder *b, zg_val x, const int64_t *start, const int64_t *step, const int64_t *size) {
  if (missing(b, x)) return (zg_val){0};
  const zg_type t = *zg_b_type(b, x);
  bool all = true;
  for (uint32_t i = 0; i < t.rank; i++) all &= start[i] == 0 && size[i] == t.dim[i] && (step[i] == 1 || size[i] <= 1);
  if (all) return x;
  const zg_slice_attr a = {{t.rank, start}, {t.rank, step}, {t.rank, size}};
  return zg_emit1(b, &zg_op_slice, &a, &x, 1);
}

zg_val zg_b_slice1(zg_builder *b, zg_val x, int64_t axis, int64_t start, int64_t size) {
  if (bad_axis(b, x, &axis)) return (zg_val){0};
  const zg_type t = *zg_b_type(b, x);
  int64_t from[ZG_MAX_RANK] = {0}, step[ZG_MAX_RANK], n[ZG_MAX_RANK];
  for (uint32_t i = 0; i < t.rank; i++) step[i] = 1, n[i] = t.dim[i];
  from[axis] = start, n[axis] = size;
  return zg_b_slice(b, x, from, step, n);
}

zg_val zg_b_unslice(zg_builder *b, zg_val x, const int64_t *dim, const int64_t *start, const int64_t *step, double fill) {
  if (missing(b, x)) return (zg_val){0};
  const zg_type t = *zg_b_type(b, x);
  bool all = true;
  for (uint32_t i = 0; i < t.rank; i++) all &= start[i] == 0 && dim[i] == t.dim[i] && (step[i] == 1 || dim[i] <= 1);
  if (all) return x;
  const zg_unslice_attr a = {{t.rank, dim}, {t.rank, start}, {t.rank, step}, fill};
  return zg_emit1(b, &zg_op_unslice, &a, &x, 1);
}

zg_val zg_b_concat(zg_builder *b, const zg_val *x, uint32_t n, int64_t axis) {
  if (n == 0) zg_builder_fail(b, zg_error(ZG_INVALID, "concat of nothing"));
  for (uint32_t i = 0; i < n; i++)
    if (bad_axis(b, x[i], &axis)) return (zg_val){0};
  if (n == 1) return x[0];
  const zg_axis_attr a = {axis};
  return zg_emit1(b, &zg_op_concat, &a, x, n);
}

zg_val zg_b_gather(zg_builder *b, zg_val x, zg_val idx, int64_t axis) {
  if (missing(b, idx) || bad_axis(b, x, &axis)) return (zg_val){0};
  const zg_gather_attr a = {ZG_IDX_TAKE, axis, 0};
  const zg_val in[2] = {x, idx};
  return zg_emit1(b, &zg_op_gather, &a, in, 2);
}
