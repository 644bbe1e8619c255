// Lowering of a core graph to a segment: the order of its parts.
#include "sched/lower.h"

#include "sched/lower_priv.h"

// Forward: what the model's results and the loss need, and what the import made. Update: what the optimizer made.
uint8_t *zg__find_phases(const zg_graph *g, zg_arena *mem) {
  uint8_t *phase = ZG_NEW_N(mem, uint8_t, g->nodes.n + 1);
  bool *fwd = ZG_NEW_N(mem, bool, g->nodes.n + 1);
  for (size_t i = 0; i < g->outputs.n; i++) {
    const zg_output *o = &g->outputs.at[i];
    bool of_model = o->kind == ZG_OUT_LOSS || (o->kind == ZG_OUT_VALUE && o->name && o->name[0] != '@');
    if (of_model) fwd[g->values.at[o->val.id].node] = true;
  }
  for (size_t i = g->nodes.n; i-- > 0;) {
    const zg_node *n = &g->nodes.at[i];
    bool update = n->origin.pass && !strcmp(n->origin.pass, "update");
    if (!fwd[i] && n->origin.pass) {
      phase[i] = update ? ZG_PHASE_UPDATE : ZG_PHASE_BACKWARD;
      continue;
    }
    phase[i] = ZG_PHASE_FORWARD;
    for (uint32_t k = 0; fwd[i] && k < n->n_in; k++)
      if (zg_is(zg_in(g, n, k))) fwd[g->values.at[zg_in(g, n, k).id].node] = true;
  }
  return phase;
}

zg_status zg_lower_graph(zg_sched *s, const zg_graph *g, const char *segment) {
  zg_low l = {.s = s, .g = g, .segment = zg_arena_str(&s->mem, segment)};
  zg_status status = NULL;
  l.live = zg_find_live(g, &l.mem);
  l.uses = zg_find_uses(g, &l.mem);
  l.node_live = ZG_NEW_N(&l.mem, bool, g->nodes.n + 1);
  for (size_t i = 0; i < g->nodes.n; i++)
    for (uint32_t k = 0; k < g->nodes.at[i].n_out; k++)
      if (l.live[g->nodes.at[i].out + k]) l.node_live[i] = true;
  l.phase = zg__find_phases(g, &l.mem);
  ZG_TRY_OUT(zg__low_analyse(&l));
  zg__low_fuse(&l);
  ZG_TRY_OUT(zg__low_order(&l));
  ZG_TRY_OUT(zg__low_emit(&l));
out:
  for (size_t i = 0; i < l.groups.n; i++) {
    zg_vec_fini(&l.groups.at[i].nodes);
    zg_vec_fini(&l.groups.at[i].clones);
  }
  zg_vec_fini(&l.groups);
  zg_vec_fini(&l.stores);
  zg_vec_fini(&l.order);
  zg_arena_fini(&l.mem);
  return status;
}
