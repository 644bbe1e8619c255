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

zg_status zg_pass_opt_rms_norm(const zg_graph *g, zg_graph **out) {
  zg_arena scratch = {0};
  zg_builder *b = zg_builder_new();
  zg_val *map = ZG_NEW_N(&scratch, zg_val, g->values.n), y[2];
  const bool *live = zg_find_live(g, &scratch);
  const uint32_t *uses = zg_find_uses(g, &scratch);
  for (size_t i = 0; i < g->nodes.n && !zg_builder_failed(b); i++) {
    const zg_node *n = &g->nodes.at[i];
    zg__norm m;
    if (!zg__node_live(n, live) && !zg__leaf_name(n->op, n->attr)) continue;
    if (n->n_out != 1 || !zg__match_norm(g, uses, zg_out(n, 0), is_rms, &m)) {
      zg_emit_copy(b, g, n, map);
      continue;
    }
    const zg_norm_attr a = {.axis = m.axis, .eps = m.eps};
    const zg_val in[2] = {map[m.x.id], map[m.scale.id]};
    zg_builder_origin(b, n->origin);
    if (zg_emit(b, &zg_op_rms_norm, &a, in, zg_is(m.scale) ? 2 : 1, y, 2)) map[n->out] = y[0];
    zg_builder_name(b, map[n->out], g->values.at[n->out].name);
    zg_builder_origin(b, (zg_origin){0});
  }
  zg__copy_outputs(b, g, map, ~0u);
  zg_builder_props(b, g->props);
  zg_arena_fini(&scratch);
  return zg_builder_finish(b, out);
}
