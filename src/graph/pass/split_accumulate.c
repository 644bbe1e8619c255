// split_accumulate: one step over k micro-batches becomes two graphs: `micro`, run k times, adds its gradients to f32
// accumulators; `update`, run once, takes the accumulators as gradients.
//
// - The accumulator is a state "PARAM.grad". In the first micro-step it is overwritten, not added to: no pass over memory is
//   spent on zeroing it, and what it held before (NaN after a bad step) cannot survive.
// - The mean over micro-batches comes from autodiff's seed 1/k, not from here.
// - Other updates (running statistics) belong to every micro-step and stay in `micro`.
#include "graph/graph_priv.h"
#include "graph/pass.h"

static zg_val accumulator(zg_builder *b, const char *param, const zg_type *t) {
  const zg_state_attr a = {.name = zg_arena_printf(zg_builder_arena(b), "%s.grad", param),
                           .type = zg_type_make(ZG_F32, t->rank, t->dim), .role = ZG_STATE_GRAD};
  return zg_b_state(b, &a);
}

static zg_status make_micro(const zg_graph *g, zg_graph **out) {
  zg_arena scratch = {0};
  zg_builder *b = zg_builder_new();
  zg_val *map = ZG_NEW_N(&scratch, zg_val, g->values.n);
  for (size_t i = 0; i < g->nodes.n; i++) zg_emit_copy(b, g, &g->nodes.at[i], map);
  zg__copy_outputs(b, g, map, ~(1u << ZG_OUT_GRAD));
  const zg_type scalar = zg_type_scalar(ZG_F32);
  const zg_val zero = zg_b_scalar(b, ZG_F32, 0);
  const zg_val first = zg_b_map2(b, ZG_S_LT, zero, zg_b_input(b, "@first_micro", &scalar));
  for (size_t i = 0; i < g->outputs.n && !zg_builder_failed(b); i++) {
    const zg_output *o = &g->outputs.at[i];
    if (o->kind != ZG_OUT_GRAD) continue;
    zg_builder_origin(b, (zg_origin){o->name, "accumulate"});
    const zg_val d = zg_b_cast(b, map[o->val.id], ZG_F32), acc = accumulator(b, o->name, zg_type_of(g, o->val));
    const zg_val sum = zg_add(b, zg_b_where(b, first, zero, acc), d);
    zg_builder_output(b, ZG_OUT_UPDATE, zg_arena_printf(&scratch, "%s.grad", o->name), sum, acc);
  }
  zg_builder_props(b, g->props & ~(uint32_t)ZG_PROP_GRADS);
  zg_arena_fini(&scratch);
  return zg_builder_finish(b, out);
}

static zg_status make_update(const zg_graph *g, zg_graph **out) {
  zg_arena scratch = {0};
  zg_builder *b = zg_builder_new();
  zg_val *map = ZG_NEW_N(&scratch, zg_val, g->values.n);
  for (size_t i = 0; i < g->outputs.n && !zg_builder_failed(b); i++) {
    const zg_output *o = &g->outputs.at[i];
    if (o->kind != ZG_OUT_GRAD) continue;
    zg_emit_copy(b, g, zg_node_of(g, o->target), map);
    zg_builder_output(b, ZG_OUT_GRAD, o->name, accumulator(b, o->name, zg_type_of(g, o->val)), map[o->target.id]);
  }
  zg_builder_props(b, ZG_PROP_CORE | ZG_PROP_GRADS);
  zg_arena_fini(&scratch);
  return zg_builder_finish(b, out);
}

zg_status zg_pass_split_accumulate(const zg_graph *g, zg_graph **micro, zg_graph **update) {
  *micro = *update = NULL;
  if (!zg_find_output(g, ZG_OUT_GRAD, NULL)) return zg_error(ZG_INVALID, "accumulation: the graph has no gradients to accumulate");
  ZG_TRY(make_micro(g, micro));
  zg_status s = make_update(g, update);
  if (s) {
    zg_graph_free(*micro);
    *micro = NULL;
  }
  return s;
}
