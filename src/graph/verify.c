// Checks every invariant of a graph, and what its property bits promise. A failure is a fault of the pass that built it (or
// of a text that was parsed), so messages name the node by id, op and origin.
#include "graph/graph_priv.h"

static zg_status at_node(zg_status s, const zg_node *n) {
  return zg_status_prefix(s, "node %%%u (%s%s%s): ", n->out, n->op->name, n->origin.node ? ", from " : "",
                          n->origin.node ? n->origin.node : "");
}

static zg_status check_spans(const zg_graph *g, const zg_node *n, uint32_t number) {
  if ((uint64_t)n->in + n->n_in > g->operands.n) return zg_error(ZG_INTERNAL, "operand span outside the graph");
  if (n->n_out == 0 || n->out == 0 || (uint64_t)n->out + n->n_out > g->values.n)
    return zg_error(ZG_INTERNAL, "result span outside the graph");
  for (uint32_t i = 0; i < n->n_in; i++)
    if (g->operands.at[n->in + i].id >= n->out) return zg_error(ZG_INTERNAL, "operand %u comes after the node", i);
  for (uint32_t i = 0; i < n->n_out; i++)
    if (g->values.at[n->out + i].node != number) return zg_error(ZG_INTERNAL, "result %u names another node", i);
  return NULL;
}

static zg_status check_types(const zg_graph *g, const zg_node *n) {
  zg_type small[8], *types = n->n_out <= 8 ? small : zg_alloc(sizeof *types * n->n_out);
  const zg_val *in = n->n_in ? &g->operands.at[n->in] : NULL;
  zg_status s = zg__infer_node(g, n->op, n->attr, in, n->n_in, n->n_out, n->origin, types);
  for (uint32_t i = 0; !s && i < n->n_out; i++)
    if (!zg_type_equal(&types[i], &g->values.at[n->out + i].type))
      s = zg_error(ZG_INTERNAL, "result %u has type %s, its operands give %s", i, zg_type_text(&g->values.at[n->out + i].type),
                   zg_type_text(&types[i]));
  if (types != small) zg_free(types);
  return s;
}

static zg_status check_node(const zg_graph *g, uint32_t number, zg_map *leaves) {
  const zg_node *n = &g->nodes.at[number];
  ZG_TRY(check_spans(g, n, number));
  ZG_TRY(check_types(g, n));
  const char *name = zg__leaf_name(n->op, n->attr);
  if (name && !zg_map_put(leaves, name, n->out)) return zg_error(ZG_INTERNAL, "a second leaf is named \"%s\"", name);
  if ((g->props & ZG_PROP_CORE) && !(n->op->traits & ZG_CORE))
    return zg_error(ZG_INTERNAL, "the graph says it holds core ops only, and this is none");
  return NULL;
}

static zg_status check_target(const zg_graph *g, const zg_output *o, bool *updated) {
  if (!zg_is(o->target) || o->target.id >= g->values.n) return zg_error(ZG_INTERNAL, "has no target");
  const zg_type *t = zg_type_of(g, o->target), *v = zg_type_of(g, o->val);
  const zg_op *op = zg_node_of(g, o->target)->op;
  if (o->kind == ZG_OUT_GRAD) {   // accumulated gradients are f32 whatever the parameter is
    if (!zg__leaf_name(op, zg_node_of(g, o->target)->attr)) return zg_error(ZG_INTERNAL, "its target is no leaf");
    if (!zg_same_shape(t, v) || !zg_dtype_is_float(v->dtype))
      return zg_error(ZG_INTERNAL, "is %s, its target %s", zg_type_text(v), zg_type_text(t));
    return NULL;
  }
  if (op != &zg_op_param && op != &zg_op_state) return zg_error(ZG_INTERNAL, "its target is neither param nor state");
  if (!zg_type_equal(t, v)) return zg_error(ZG_INTERNAL, "is %s, its target %s", zg_type_text(v), zg_type_text(t));
  if (updated[o->target.id]) return zg_error(ZG_INTERNAL, "its target is updated twice");
  updated[o->target.id] = true;
  return NULL;
}

static zg_status check_output(const zg_graph *g, const zg_output *o, bool *updated) {
  if (!o->name) return zg_error(ZG_INTERNAL, "has no name");
  if (!zg_is(o->val) || o->val.id >= g->values.n) return zg_error(ZG_INTERNAL, "has no value");
  const zg_type *t = zg_type_of(g, o->val);
  switch (o->kind) {
    case ZG_OUT_VALUE: return zg_is(o->target) ? zg_error(ZG_INTERNAL, "a value has no target") : NULL;
    case ZG_OUT_LOSS:
      if (zg_elems(t) != 1 || !zg_dtype_is_float(t->dtype))
        return zg_error(ZG_INTERNAL, "a loss is one float, not %s", zg_type_text(t));
      return NULL;
    case ZG_OUT_GRAD:
    case ZG_OUT_UPDATE: return check_target(g, o, updated);
  }
  return NULL;
}

static zg_status check_props(const zg_graph *g) {
  if ((g->props & ZG_PROP_LOSS) && !zg_find_output(g, ZG_OUT_LOSS, NULL))
    return zg_error(ZG_INTERNAL, "the graph says it has a loss, and has none");
  if ((g->props & ZG_PROP_STEP) && zg_find_output(g, ZG_OUT_GRAD, NULL))
    return zg_error(ZG_INTERNAL, "the graph holds the optimizer's update, and a gradient output as well");
  return NULL;
}

zg_status zg_graph_verify(const zg_graph *g) {
  zg_map leaves = {0};
  zg_arena scratch = {0};
  zg_status status = NULL;
  if (g->values.n == 0) return zg_error(ZG_INTERNAL, "a graph without its reserved value");
  for (uint32_t i = 0; !status && i < g->nodes.n; i++) status = at_node(check_node(g, i, &leaves), &g->nodes.at[i]);
  bool *updated = ZG_NEW_N(&scratch, bool, g->values.n);
  for (size_t i = 0; !status && i < g->outputs.n; i++)
    status = zg_status_prefix(check_output(g, &g->outputs.at[i], updated), "output \"%s\": ",
                              g->outputs.at[i].name ? g->outputs.at[i].name : "");
  if (!status) status = check_props(g);
  zg_arena_fini(&scratch);
  zg_map_fini(&leaves);
  return status;
}
