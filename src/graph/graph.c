// Graph objects: end of life, look-ups and the analyses that several passes need.
#include "graph/graph_priv.h"

void zg_graph_free(zg_graph *g) {
  if (!g) return;
  zg_vec_fini(&g->nodes);
  zg_vec_fini(&g->values);
  zg_vec_fini(&g->operands);
  zg_vec_fini(&g->outputs);
  zg_arena_fini(&g->mem);
  zg_free(g);
}

zg_val zg_find_leaf(const zg_graph *g, const char *name) {
  for (size_t i = 0; i < g->nodes.n; i++) {
    const zg_node *n = &g->nodes.at[i];
    const char *leaf = zg__leaf_name(n->op, n->attr);
    if (leaf && strcmp(leaf, name) == 0) return zg_out(n, 0);
  }
  return (zg_val){0};
}

const zg_output *zg_find_output(const zg_graph *g, zg_out_kind kind, const char *name) {
  for (size_t i = 0; i < g->outputs.n; i++) {
    const zg_output *o = &g->outputs.at[i];
    if (o->kind == kind && (!name || (o->name && strcmp(o->name, name) == 0))) return o;
  }
  return NULL;
}

bool zg__node_live(const zg_node *n, const bool *live) {
  for (uint32_t k = 0; k < n->n_out; k++)
    if (live[n->out + k]) return true;
  return false;
}

bool *zg_find_live(const zg_graph *g, zg_arena *a) {
  bool *live = ZG_NEW_N(a, bool, g->values.n);
  for (size_t i = 0; i < g->outputs.n; i++) {
    live[g->outputs.at[i].val.id] = true;
    live[g->outputs.at[i].target.id] = true;
  }
  for (size_t i = g->nodes.n; i-- > 0;) {
    const zg_node *n = &g->nodes.at[i];
    if (!zg__node_live(n, live)) continue;
    for (uint32_t k = 0; k < n->n_in; k++) live[g->operands.at[n->in + k].id] = true;
  }
  live[0] = false;
  return live;
}

uint32_t *zg_find_uses(const zg_graph *g, zg_arena *a) {
  const bool *live = zg_find_live(g, a);
  uint32_t *uses = ZG_NEW_N(a, uint32_t, g->values.n);
  for (size_t i = 0; i < g->nodes.n; i++) {
    const zg_node *n = &g->nodes.at[i];
    if (!zg__node_live(n, live)) continue;
    for (uint32_t k = 0; k < n->n_in; k++) uses[g->operands.at[n->in + k].id]++;
  }
  for (size_t i = 0; i < g->outputs.n; i++) uses[g->outputs.at[i].val.id]++;
  uses[0] = 0;
  return uses;
}
