// opt_layer_norm: a spelled-out (x - mean(x)) / sqrt(var + eps) * gain + bias becomes the op layer_norm.
//
// - var is mean((x - mean)^2), or mean(x^2) - mean^2, which Flax writes, with or without max(.., 0). That second form loses the
//   digits in which x is larger than its deviation; layer_norm computes the first.
// - The product and the sum with the bias are two steps: the sum is looked at when the product has been recognised.
// Why: as in opt_rms_norm. The forms: norm_match.c. Source: Ba et al. 2016, Layer normalization.
#include "graph/graph_priv.h"
#include "graph/pass.h"
#include "graph/pass/norm_match.h"

static bool is_map(const zg_graph *g, zg_val v, zg_scalar s) { return zg_is_op(g, v, zg_map_op(s)); }
static zg_val operand(const zg_graph *g, zg_val v, uint32_t i) { return zg_in(g, zg_node_of(g, v), i); }

// v = x - mean(x) over dims axis ..
static bool is_centred(const zg_graph *g, zg_val v, zg_val *x, zg_val *mean, int64_t *axis) {
  zg_val of;
  if (!is_map(g, v, ZG_S_SUB)) return false;
  *x = operand(g, v, 0), *mean = operand(g, v, 1);
  return zg__is_mean(g, *mean, &of, axis) && zg_same(of, *x);
}

static zg_val strip_max(const zg_graph *g, zg_val v) {
  double k;
  for (uint32_t i = 0; i < 2 && is_map(g, v, ZG_S_MAX); i++)
    if (zg__is_splat(g, operand(g, v, i), &k) && k == 0) return operand(g, v, 1 - i);
  return is_map(g, v, ZG_S_RELU) ? operand(g, v, 0) : v;
}

static bool is_layer(const zg_graph *g, zg_val factor, zg_val variance, zg_val *x, int64_t *axis) {
  zg_val mean, squares, of;
  int64_t again;
  if (!is_centred(g, factor, x, &mean, axis)) return false;
  if (zg__is_mean(g, variance, &squares, &again) && again == *axis && zg__is_square(g, squares, &of)) {
    zg_val x2, mean2;
    return zg_same(of, factor) || (is_centred(g, of, &x2, &mean2, &again) && zg_same(x2, *x) && again == *axis);
  }
  const zg_val v = strip_max(g, variance);
  return is_map(g, v, ZG_S_SUB) && zg__is_mean(g, operand(g, v, 0), &squares, &again) && again == *axis &&
         zg__is_square(g, squares, &of) && zg_same(of, *x) && zg__is_square(g, operand(g, v, 1), &of) && zg_same(of, mean);
}

typedef struct { zg_builder *b; const zg_graph *g; zg_val *map; const uint32_t *uses; zg__norm *norms; bool *is_norm; } rewrite;

static void emit(rewrite *r, const zg_node *n, const zg__norm *m, zg_val bias) {
  const zg_norm_attr a = {.axis = m->axis, .eps = m->eps};
  const zg_val in[3] = {r->map[m->x.id], r->map[m->scale.id], r->map[bias.id]};
  zg_val y[3];
  zg_builder_origin(r->b, n->origin);
  if (zg_emit(r->b, &zg_op_layer_norm, &a, in, zg_is(bias) ? 3 : zg_is(m->scale) ? 2 : 1, y, 3)) r->map[n->out] = y[0];
  zg_builder_name(r->b, r->map[n->out], r->g->values.at[n->out].name);
  zg_builder_origin(r->b, (zg_origin){0});
}

static void rewrite_node(rewrite *r, const zg_node *n) {
  const zg_val v = zg_out(n, 0);
  zg_val norm, bias;
  if (n->n_out == 1 && zg__match_norm(r->g, r->uses, v, is_layer, &r->norms[v.id])) {
    r->is_norm[v.id] = true;
    emit(r, n, &r->norms[v.id], (zg_val){0});
  } else if (n->n_out == 1 && zg__match_bias(r->g, r->uses, v, r->is_norm, &norm, &bias)) {
    emit(r, n, &r->norms[norm.id], bias);
  } else {
    zg_emit_copy(r->b, r->g, n, r->map);
  }
}

zg_status zg_pass_opt_layer_norm(const zg_graph *g, zg_graph **out) {
  zg_arena scratch = {0};
  const bool *live = zg_find_live(g, &scratch);
  rewrite r = {.b = zg_builder_new(), .g = g, .map = ZG_NEW_N(&scratch, zg_val, g->values.n), .uses = zg_find_uses(g, &scratch),
               .norms = ZG_NEW_N(&scratch, zg__norm, g->values.n), .is_norm = ZG_NEW_N(&scratch, bool, g->values.n)};
  for (size_t i = 0; i < g->nodes.n && !zg_builder_failed(r.b); i++) {
    const zg_node *n = &g->nodes.at[i];
    if (zg__node_live(n, live) || zg__leaf_name(n->op, n->attr)) rewrite_node(&r, n);
  }
  zg__copy_outputs(r.b, g, r.map, ~0u);
  zg_builder_props(r.b, g->props);
  zg_arena_fini(&scratch);
  return zg_builder_finish(r.b, out);
}
