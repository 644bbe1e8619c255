// opt_rms_norm: a spelled-out x / sqrt(mean(x^2) + eps) * gain becomes the op rms_norm, whose gradient is the short formula over
// the normalised x; that of the formula as written goes through mean, root and quotient and keeps more tensors. Also makes an
// export of opset 17 and one of opset 23, which has RMSNormalization, the same graph. The forms: norm_match.c.
// Source: Zhang and Sennrich 2019, Root mean square layer normalization.
#include "graph/graph_priv.h"
#include "graph/pass.h"
#include "graph/pass/norm_match.h"

static bool is_rms(const zg_graph *g, zg_val factor, zg_val variance, zg_val *x, int64_t *axis) {
  zg_val squares, of;
  *x = factor;
  return zg__is_mean(g, variance, &squares, axis) && zg__is_square(g, squares, &of) && zg_same(of, factor);
}

static bool rewrite(zg_builder *b, const zg_graph *g, const zg_node *n, zg_val *map, void *uses) {
  zg__norm m;
  zg_val y[2];
  if (n->n_out != 1 || !zg__match_norm(g, uses, zg_out(n, 0), is_rms, &m)) return false;
  const zg_norm_attr a = {.axis = m.axis, .eps = m.eps};
  const zg_val in[2] = {map[m.x.id], map[m.scale.id]};
  if (zg_emit(b, &zg_op_rms_norm, &a, in, zg_is(m.scale) ? 2 : 1, y, 2)) map[n->out] = y[0];
  return true;
}

zg_status zg_pass_opt_rms_norm(const zg_graph *g, zg_graph **out) {
  zg_arena scratch = {0};
  zg_status s = zg__rebuild(g, rewrite, zg_find_uses(g, &scratch), out);
  zg_arena_fini(&scratch);
  return s;
}
