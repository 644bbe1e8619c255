// lower_to_core: replaces every op that the schedule does not know by the core ops it lowers to.
//
// - Live nodes are copied; an op without the trait ZG_CORE writes its lowering into the new graph instead.
// - A lowering may use other lowerable ops (LayerNorm uses mean), so this repeats until only core ops are left. A lowering
//   that leads back to itself would never end: the number of rounds is bounded.
// - Outputs keep their order and names. Cost: one copy of the graph a round, two or three rounds in practice.
#include "graph/graph_priv.h"
#include "graph/pass.h"

enum { MAX_ROUNDS = 16 };

static bool all_core(const zg_graph *g) {
  for (size_t i = 0; i < g->nodes.n; i++)
    if (!(g->nodes.at[i].op->traits & ZG_CORE)) return false;
  return true;
}

static zg_status lower_round(const zg_graph *g, zg_graph **out) {
  zg_arena scratch = {0};
  const bool *live = zg_find_live(g, &scratch);
  zg_val *map = ZG_NEW_N(&scratch, zg_val, g->values.n);
  zg_builder *b = zg_builder_new();
  for (size_t i = 0; i < g->nodes.n; i++) {
    const zg_node *n = &g->nodes.at[i];
    if (!zg__node_live(n, live)) continue;
    if (n->op->traits & ZG_CORE) {
      zg_emit_copy(b, g, n, map);
    } else {
      zg__emit_lowered(b, g, n, map);
    }
  }
  zg__copy_outputs(b, g, map, ~0u);
  zg_builder_props(b, g->props);
  zg_arena_fini(&scratch);
  return zg_builder_finish(b, out);
}

zg_status zg_pass_lower_to_core(const zg_graph *g, zg_graph **out) {
  zg_graph *now = NULL;
  *out = NULL;
  ZG_TRY(lower_round(g, &now));
  for (int round = 0; !all_core(now); round++) {
    zg_graph *next = NULL;
    zg_status s = round < MAX_ROUNDS ? lower_round(now, &next)
                                     : zg_error(ZG_INTERNAL, "the lowering of an op leads back to the op itself");
    zg_graph_free(now);
    if (s) return s;
    now = next;
  }
  now->props |= ZG_PROP_CORE;
  *out = now;
  return NULL;
}
