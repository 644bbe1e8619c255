// opt_merge_products: a sum of matrix products over few elements each becomes one product over all of them.
//
//   A1' B1 + A2' B2 + ... + An' Bn  =  [A1; A2; ..; An]' [B1; B2; ..; Bn]
//
// An unrolled recurrence (LSTM, GRU, RNN) gives each step's share of the weights' gradient so: n products
// with K = batch, each of which reads and writes the whole gradient. One product reads the stacked operands
// once. Operands are stacked along their rows, so a producer that strides can serve writes straight into its
// part of the stack.
//
// - Sums are trees of additions whose inner results nobody else reads; their terms are taken in order.
// - Taken are products of rank 2 with the left side transposed, K <= 256 and nobody else reading; three at
// least.
// - The order of summation changes, within what a longer K does anyhow.
// Cost: linear in the graph; memory for the stacks, K (M + N) elements in all.
#include "graph/graph_priv.h"
#include "graph/pass.h"

enum { MAX_K = 256, MIN_TERMS = 3, MAX_TERMS = 4096 };

typedef struct {
  const zg_graph *g;
  zg_builder *b;
  const uint32_t *uses;
  zg_val *map;
  ZG_VEC(zg_val) terms;
} rewrite;

static bool is_sum(const zg_graph *g, zg_val v) { return zg_is_op(g, v, zg_map_op(ZG_S_ADD)); }
static bool same_type(const zg_graph *g, zg_val x, zg_val y) {
  return zg_type_equal(zg_type_of(g, x), zg_type_of(g, y));
}

static void collect(rewrite *r, zg_val v, zg_val root, uint32_t depth) {
  const zg_graph *g = r->g;
  const bool inner = zg_same(v, root) || (r->uses[v.id] == 1 && same_type(g, v, root));
  if (is_sum(g, v) && inner && depth < MAX_TERMS) {
    collect(r, zg_in(g, zg_node_of(g, v), 0), root, depth + 1);
    collect(r, zg_in(g, zg_node_of(g, v), 1), root, depth + 1);
  } else {
    zg_vec_push(&r->terms, v);
  }
}

static bool stackable(const rewrite *r, zg_val v, zg_val root) {
  const zg_graph *g = r->g;
  if (!zg_is_op(g, v, &zg_op_matmul) || r->uses[v.id] != 1 || !same_type(g, v, root)) return false;
  const zg_node *n = zg_node_of(g, v);
  const zg_matmul_attr *a = n->attr;
  const zg_type *x = zg_type_of(g, zg_in(g, n, 0));
  return a->ta && !a->tb && !a->wide && x->rank == 2 && x->dim[0] <= MAX_K &&
         zg_type_of(g, zg_in(g, n, 1))->rank == 2;
}

// The sum of the terms of `root`, its products as one; false (and nothing made) where too few are stackable.
static bool emit_merged(rewrite *r, zg_val root) {
  r->terms.n = 0;
  collect(r, root, root, 0);
  uint32_t n = 0;
  for (size_t i = 0; i < r->terms.n; i++) n += stackable(r, r->terms.at[i], root);
  if (n < MIN_TERMS) return false;
  zg_arena scratch = {0};
  zg_val *x = ZG_NEW_N(&scratch, zg_val, n), *y = ZG_NEW_N(&scratch, zg_val, n), rest = {0};
  zg_builder_origin(r->b, zg_node_of(r->g, r->terms.at[0])->origin);
  uint32_t at = 0;
  for (size_t i = 0; i < r->terms.n; i++) {
    const zg_val t = r->terms.at[i];
    if (stackable(r, t, root)) {
      x[at] = r->map[zg_in(r->g, zg_node_of(r->g, t), 0).id];
      y[at++] = r->map[zg_in(r->g, zg_node_of(r->g, t), 1).id];
    } else {
      rest = zg_is(rest) ? zg_add(r->b, rest, r->map[t.id]) : r->map[t.id];
    }
  }
  const zg_val sum = zg_b_matmul(r->b, zg_b_concat(r->b, x, n, 0), zg_b_concat(r->b, y, n, 0), true, false);
  r->map[root.id] = zg_is(rest) ? zg_add(r->b, sum, rest) : sum;
  zg_builder_origin(r->b, (zg_origin){0});
  zg_arena_fini(&scratch);
  return !zg_builder_failed(r->b);
}

// inner[v]: v is part of a bigger sum and is not looked at by itself.
static bool *find_inner(const zg_graph *g, const uint32_t *uses, zg_arena *a) {
  bool *inner = ZG_NEW_N(a, bool, g->values.n);
  for (size_t i = 0; i < g->nodes.n; i++) {
    const zg_node *n = &g->nodes.at[i];
    if (n->op != zg_map_op(ZG_S_ADD)) continue;
    for (uint32_t k = 0; k < 2; k++) {
      const zg_val v = zg_in(g, n, k);
      inner[v.id] |= is_sum(g, v) && uses[v.id] == 1 && same_type(g, v, zg_out(n, 0));
    }
  }
  return inner;
}

zg_status zg_pass_opt_merge_products(const zg_graph *g, zg_graph **out) {
  zg_arena scratch = {0};
  const bool *live = zg_find_live(g, &scratch);
  rewrite r = {.g = g,
               .b = zg_builder_new(),
               .uses = zg_find_uses(g, &scratch),
               .map = ZG_NEW_N(&scratch, zg_val, g->values.n)};
  const bool *inner = find_inner(g, r.uses, &scratch);
  for (size_t i = 0; i < g->nodes.n && !zg_builder_failed(r.b); i++) {
    const zg_node *n = &g->nodes.at[i];
    if (!zg__node_live(n, live) && !zg__leaf_name(n->op, n->attr)) continue;
    const bool root = n->op == zg_map_op(ZG_S_ADD) && !inner[n->out];
    if (!root || !emit_merged(&r, zg_out(n, 0))) zg_emit_copy(r.b, g, n, r.map);
  }
  zg__copy_outputs(r.b, g, r.map, ~0u);
  zg_builder_props(r.b, g->props);
  zg_vec_fini(&r.terms);
  zg_arena_fini(&scratch);
  return zg_builder_finish(r.b, out);
}
