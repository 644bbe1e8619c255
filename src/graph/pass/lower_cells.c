// lower_cells: recurrent layers step by step, for devices without a kernel for whole ones.
//
// - Each node of the op `recurrent` is replaced by its lowering, one product and maps for each time step;
//   everything else is copied.
// - It runs before autodiff: the gradient is then that of the steps, and no recurrent_grad comes to be.
//
// Cost: one copy of the graph; its size grows with the sequence length.
#include "graph/graph_priv.h"
#include "graph/pass.h"

zg_status zg_pass_lower_cells(const zg_graph *g, zg_graph **out) {
  zg_arena scratch = {0};
  zg_val *map = ZG_NEW_N(&scratch, zg_val, g->values.n);
  zg_builder *b = zg_builder_new();
  for (size_t i = 0; i < g->nodes.n; i++) {
    const zg_node *n = &g->nodes.at[i];
    if (n->op == &zg_op_recurrent) zg__emit_lowered(b, g, n, map);
    else zg_emit_copy(b, g, n, map);
  }
  zg__copy_outputs(b, g, map, ~0u);
  zg_builder_props(b, g->props);
  zg_arena_fini(&scratch);
  return zg_builder_finish(b, out);
}
