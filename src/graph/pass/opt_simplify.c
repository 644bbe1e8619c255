// opt_simplify: drops dead nodes and the algebra that exporters leave behind.
//
// - Every live node is emitted again through the builder's vocabulary (build.h), which already knows the identities: x*1,
//   x+0, casts to the same type, reshape of reshape, transpose of transpose, transposed matmul operands, expands that feed
//   maps, slices of everything; constants fold.
// - Spelled-out activations become one opcode again (simplify_activation.c). Constant factors move from matmul's operands to
//   its result, where the scale is free (it fuses with what follows) and no longer hides a transpose; not in f16, whose
//   range the factors protect.
// - What else is particular to the pass: division by a power of two, a choice by a constant condition.
// - A rewrite that changes a value's type would be a fault; it is checked and the node copied as it was instead.
//
// Results equal those without the pass up to rounding. Cost: two copies of the graph.
#include <math.h>

#include "graph/graph_priv.h"
#include "graph/pass.h"

typedef struct { zg_builder *b; const zg_graph *g; const zg_node *n; zg_val in[3]; } rewrite;

static bool power_of_two(double k) {
  int e;
  return isfinite(k) && k != 0 && fabs(frexp(k, &e)) == 0.5 && e > -100 && e < 100;
}

// a + scatter_add(zeros, idx, u) = scatter_add(a, idx, u): the gradient of an embedding that is also the head is summed where
// the head's gradient is, without a second tensor of the table's size.
static zg_val add_of_scatter(rewrite *r) {
  for (int k = 0; k < 2; k++) {
    const zg_graph *g = zg_builder_graph(r->b);
    const zg_val base = r->in[1 - k];
    if (!zg_is_op(g, r->in[k], &zg_op_scatter) || !zg_type_equal(zg_type_of(g, base), zg_type_of(g, r->in[k]))) continue;
    const zg_node *n = zg_node_of(g, r->in[k]);
    const zg_scatter_attr a = *(const zg_scatter_attr *)n->attr;
    double zero;
    if (a.red != ZG_SCATTER_ADD || !zg_b_const_scalar(r->b, zg_in(g, n, 0), &zero) || zero != 0) continue;
    const zg_val in[3] = {base, zg_in(g, n, 1), zg_in(g, n, 2)};
    return zg_emit1(r->b, &zg_op_scatter, &a, in, 3);
  }
  return (zg_val){0};
}

static zg_val simple_map(rewrite *r) {
  const zg_scalar s = r->n->op->scalar;
  const int arity = zg_scalar_arity(s);
  double k;
  if (arity == 1) return zg_b_map1(r->b, s, r->in[0]);
  if (s == ZG_S_DIV && zg_b_const_scalar(r->b, r->in[1], &k) && power_of_two(k) && zg_dtype_is_float(zg_b_type(r->b, r->in[1])->dtype) &&
      zg_b_type(r->b, r->in[1])->rank == 0)
    return zg_mul_k(r->b, r->in[0], 1 / k);
  return arity == 2 ? zg_b_map2(r->b, s, r->in[0], r->in[1]) : (zg_val){0};
}

static zg_val simple_where(rewrite *r) {
  double k;
  if (!zg_b_const_scalar(r->b, r->in[0], &k)) return zg_b_where(r->b, r->in[0], r->in[1], r->in[2]);
  const zg_type *t = zg_type_of(r->g, zg_out(r->n, 0));
  return zg_b_expand(r->b, r->in[k != 0 ? 1 : 2], t->dim, t->rank);
}

static zg_val simple_reduce(rewrite *r) {
  const zg_reduce_attr *a = r->n->attr;
  return zg_b_reduce(r->b, (zg_red)a->kind, r->in[0], a->axes.at, a->axes.n, a->keep);
}

static zg_val simple_view(rewrite *r) {
  const zg_op *op = r->n->op;
  if (op == &zg_op_reshape) {
    const zg_shape_attr *a = r->n->attr;
    return zg_b_reshape(r->b, r->in[0], a->dim.at, a->dim.n);
  }
  if (op == &zg_op_expand) {
    const zg_type *t = zg_type_of(r->g, zg_out(r->n, 0));
    return zg_b_expand(r->b, r->in[0], t->dim, t->rank);
  }
  if (op == &zg_op_transpose) return zg_b_transpose(r->b, r->in[0], ((const zg_transpose_attr *)r->n->attr)->perm.at);
  if (op == &zg_op_slice) {
    const zg_slice_attr *a = r->n->attr;
    return zg_b_slice(r->b, r->in[0], a->start.at, a->step.at, a->size.at);
  }
  return (zg_val){0};
}

static zg_val simple_matmul(rewrite *r) {
  const zg_matmul_attr *a = r->n->attr;
  const zg_graph *g = zg_builder_graph(r->b);
  double k = 1;
  zg_val x = r->in[0], y = r->in[1];
  if (zg_type_of(g, x)->dtype != ZG_F16) x = zg__strip_scale(g, x, &k), y = zg__strip_scale(g, y, &k);
  return zg_mul_k(r->b, zg_b_matmul(r->b, x, y, a->ta, a->tb), k);
}

static zg_val simple(rewrite *r) {
  const zg_op *op = r->n->op;
  if (op->scalar == ZG_S_MUL) return zg__match_activation(r->b, simple_map(r));
  if (op->scalar == ZG_S_ADD) {
    const zg_val v = add_of_scatter(r);
    if (zg_is(v)) return v;
  }
  if (op->scalar != ZG_S_NONE) return simple_map(r);
  if (op == &zg_op_where) return simple_where(r);
  if (op == &zg_op_cast) return zg_b_cast(r->b, r->in[0], (zg_dtype)((const zg_cast_attr *)r->n->attr)->to);
  if (op == &zg_op_reduce) return simple_reduce(r);
  if (op == &zg_op_matmul) return simple_matmul(r);
  return op->traits & ZG_VIEW ? simple_view(r) : (zg_val){0};
}

static void emit_simple(zg_builder *b, const zg_graph *g, const zg_node *n, zg_val *map) {
  rewrite r = {.b = b, .g = g, .n = n};
  zg_val v = {0};
  if (n->n_in >= 1 && n->n_in <= 3 && n->n_out == 1 && !(n->op->traits & (ZG_IMPURE | ZG_LEAF))) {
    bool all = true;
    for (uint32_t k = 0; k < n->n_in; k++) {
      r.in[k] = map[g->operands.at[n->in + k].id];
      all &= zg_is(r.in[k]);
    }
    zg_builder_origin(b, n->origin);
    if (all) v = simple(&r);
  }
  if (zg_is(v) && zg_type_equal(zg_b_type(b, v), zg_type_of(g, zg_out(n, 0)))) {
    map[n->out] = v;
    // A value that is now a leaf keeps the leaf's own name.
    if (!(zg_node_of(zg_builder_graph(b), v)->op->traits & ZG_LEAF)) zg_builder_name(b, v, g->values.at[n->out].name);
  } else {
    zg_emit_copy(b, g, n, map);
  }
}

// Rewriting leaves operands behind that nobody reads any more: a last round copies what is live.
static zg_status drop_dead(const zg_graph *g, zg_graph **out) {
  zg_arena scratch = {0};
  const bool *live = zg_find_live(g, &scratch);
  zg_val *map = ZG_NEW_N(&scratch, zg_val, g->values.n);
  zg_builder *b = zg_builder_new();
  for (size_t i = 0; i < g->nodes.n; i++) {
    const zg_node *n = &g->nodes.at[i];
    if (zg__node_live(n, live) || zg__leaf_name(n->op, n->attr)) zg_emit_copy(b, g, n, map);
  }
  zg__copy_outputs(b, g, map, ~0u);
  zg_builder_props(b, g->props);
  zg_arena_fini(&scratch);
  return zg_builder_finish(b, out);
}

zg_status zg_pass_opt_simplify(const zg_graph *g, zg_graph **out) {
  zg_arena scratch = {0};
  const bool *live = zg_find_live(g, &scratch);
  zg_val *map = ZG_NEW_N(&scratch, zg_val, g->values.n);
  zg_builder *b = zg_builder_new();
  zg_graph *rewritten = NULL;
  *out = NULL;
  for (size_t i = 0; i < g->nodes.n && !zg_builder_failed(b); i++) {
    const zg_node *n = &g->nodes.at[i];
    if (!zg__node_live(n, live) && !zg__leaf_name(n->op, n->attr)) continue;   // inputs and params stay part of the signature
    emit_simple(b, g, n, map);
  }
  zg__copy_outputs(b, g, map, ~0u);
  zg_builder_props(b, g->props);
  zg_arena_fini(&scratch);
  ZG_TRY(zg_builder_finish(b, &rewritten));
  zg_status s = drop_dead(rewritten, out);
  zg_graph_free(rewritten);
  return s;
}
