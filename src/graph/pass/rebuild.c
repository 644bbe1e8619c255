// What passes that rebuild a graph share: the walk, copying outputs, and lowering one node in place.
#include "graph/graph_priv.h"

void zg__copy_outputs(zg_builder *b, const zg_graph *g, const zg_val *map, uint32_t kinds) {
  for (size_t i = 0; i < g->outputs.n; i++) {
    const zg_output *o = &g->outputs.at[i];
    if (kinds >> o->kind & 1) zg_builder_output(b, o->kind, o->name, map[o->val.id], map[o->target.id]);
  }
}

static zg_status check_lowered(zg_builder *b, const zg_graph *g, const zg_node *n, const zg_val *out) {
  for (uint32_t i = 0; i < n->n_out; i++) {
    if (!zg_is(out[i])) return zg_error(ZG_INTERNAL, "its lowering leaves result %u out", i);
    const zg_type *want = &g->values.at[n->out + i].type, *got = zg_b_type(b, out[i]);
    if (!zg_type_equal(want, got))
      return zg_error(ZG_INTERNAL, "its lowering gives %s for result %u, which is %s", zg_type_text(got), i, zg_type_text(want));
  }
  return NULL;
}

void zg__emit_lowered(zg_builder *b, const zg_graph *g, const zg_node *n, zg_val *map) {
  if (zg_builder_failed(b)) return;
  zg_arena scratch = {0};
  // A few spare places: lowerings may look at optional operands beyond the last given one.
  zg_val *in = ZG_NEW_N(&scratch, zg_val, n->n_in + 16), *out = ZG_NEW_N(&scratch, zg_val, n->n_out + 16);
  for (uint32_t i = 0; i < n->n_in; i++) in[i] = map[g->operands.at[n->in + i].id];
  zg_builder_origin(b, n->origin);
  zg_lower x = {.b = b, .attr = n->attr, .in = in, .n_in = n->n_in, .n_out = n->n_out, .out = out};
  zg_status s = n->op->lower ? n->op->lower(&x) : zg_error(ZG_UNSUPPORTED, "is no core op and has no lowering");
  if (!s && !zg_builder_failed(b)) s = check_lowered(b, g, n, out);
  if (s) zg_builder_fail(b, zg_status_prefix(s, "node \"%s\" (%s): ", n->origin.node ? n->origin.node : "", n->op->name));
  for (uint32_t i = 0; i < n->n_out; i++) {
    map[n->out + i] = out[i];
    zg_builder_name(b, out[i], g->values.at[n->out + i].name);
  }
  zg_builder_origin(b, (zg_origin){0});
  zg_arena_fini(&scratch);
}

zg_status zg__rebuild(const zg_graph *g, zg__rewrite_fn *fn, void *user, zg_graph **out) {
  zg_arena scratch = {0};
  zg_builder *b = zg_builder_new();
  zg_val *map = ZG_NEW_N(&scratch, zg_val, g->values.n);
  const bool *live = zg_find_live(g, &scratch);
  for (size_t i = 0; i < g->nodes.n && !zg_builder_failed(b); i++) {
    const zg_node *n = &g->nodes.at[i];
    if (!zg__node_live(n, live) && !zg__leaf_name(n->op, n->attr)) continue;
    zg_builder_origin(b, n->origin);
    if (!fn(b, g, n, map, user)) zg_emit_copy(b, g, n, map);
    else
      for (uint32_t k = 0; k < n->n_out; k++) zg_builder_name(b, map[n->out + k], g->values.at[n->out + k].name);
  }
  zg__copy_outputs(b, g, map, ~0u);
  zg_builder_props(b, g->props);
  zg_arena_fini(&scratch);
  return zg_builder_finish(b, out);
}
