// opt_layer_norm: a spelled-out (x - mean(x)) / sqrt(var + eps) * gain + bias becomes the op layer_norm.
//
// - var is mean((x - mean)^2), or mean(x^2) - mean^2, which Flax writes, with or without max(.., 0). That second form loses the
//   digits in which x is larger than its deviation; layer_norm computes the first.
// - The product and the sum with the bias are two steps: the sum is looked at when the product has been recognised.
// Why: as in opt_rms_norm. The forms: norm_match.c. Source: Ba et al. 2016, Layer normalization.
#include "graph/graph_priv.h"
#include "graph/pass.h"
#include "graph/pass/norm_match.h"

// v = x - mean(x) over dims axis ..
static bool is_centred(const zg_graph *g, zg_val v, zg_val *x, zg_val *mean, int64_t *axis) {
  zg_val of;
  if (!zg__is_map(g, v, ZG_S_SUB)) return false;
  *x = zg__operand(g, v, 0), *mean = zg__operand(g, v, 1);
  return zg__is_mean(g, *mean, &of, axis) && zg_same(of, *x);
}

static zg_val strip_max(const zg_graph *g, zg_val v) {
  double k;
  for (uint32_t i = 0; i < 2 && zg__is_map(g, v, ZG_S_MAX); i++)
    if (zg__is_splat(g, zg__operand(g, v, i), &k) && k == 0) return zg__operand(g, v, 1 - i);
  return zg__is_map(g, v, ZG_S_RELU) ? zg__operand(g, v, 0) : v;
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
  return zg__is_map(g, v, ZG_S_SUB) && zg__is_mean(g, zg__operand(g, v, 0), &squares, &again) && again == *axis &&
         zg__is_square(g, squares, &of) && zg_same(of, *x) && zg__is_square(g, zg__operand(g, v, 1), &of) && zg_same(of, mean);
}

typedef struct { const uint32_t *uses; zg__norm *norms; bool *is_norm; } found;   // norms, is_norm: by value

static void emit(zg_builder *b, const zg_node *n, const zg__norm *m, zg_val bias, zg_val *map) {
  const zg_norm_attr a = {.axis = m->axis, .eps = m->eps};
  const zg_val in[3] = {map[m->x.id], map[m->scale.id], map[bias.id]};
  zg_val y[3];
  if (zg_emit(b, &zg_op_layer_norm, &a, in, zg_is(bias) ? 3 : zg_is(m->scale) ? 2 : 1, y, 3)) map[n->out] = y[0];
}

static bool rewrite(zg_builder *b, const zg_graph *g, const zg_node *n, zg_val *map, void *user) {
  found *f = user;
  const zg_val v = zg_out(n, 0);
  zg_val norm, bias;
  if (n->n_out != 1) return false;
  if (zg__match_norm(g, f->uses, v, is_layer, &f->norms[v.id])) {
    f->is_norm[v.id] = true;
    emit(b, n, &f->norms[v.id], (zg_val){0}, map);
    return true;
  }
  if (!zg__match_bias(g, f->uses, v, f->is_norm, &norm, &bias)) return false;
  emit(b, n, &f->norms[norm.id], bias, map);
  return true;
}

zg_status zg_pass_opt_layer_norm(const zg_graph *g, zg_graph **out) {
  zg_arena scratch = {0};
  found f = {.uses = zg_find_uses(g, &scratch), .norms = ZG_NEW_N(&scratch, zg__norm, g->values.n),
             .is_norm = ZG_NEW_N(&scratch, bool, g->values.n)};
  zg_status s = zg__rebuild(g, rewrite, &f, out);
  zg_arena_fini(&scratch);
  return s;
}
