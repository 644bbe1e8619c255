// lower_autodiff: reverse-mode differentiation, source to source.
//
// - Forward: the live nodes are copied. A node that lies on a path from a wanted leaf to the loss, and whose op has no
//   gradient rule of its own, is replaced by its lowering first (repeatedly), so that only ops with rules are left on paths.
// - Backward: nodes are visited from the last to the first. grad[v] is the sum of what v's readers gave back so far, and is
//   complete when v's maker is visited, for all readers come later. The op's rule turns d(results) into d(operands).
// - Only what is needed is built: an op is asked for the gradients of operands that depend on a wanted leaf (`need`), and is
//   visited only if a gradient reached one of its results. Integers and ops with ZG_NO_GRAD end paths.
// - Ties: a leaf read by several nodes sums their gradients; nothing special is done.
//
// Cost: O(nodes) time, and a gradient graph of about twice the forward's size.
// Source: Griewank and Walther, Evaluating Derivatives, 2nd ed., section 3.2.
#include "graph/graph_priv.h"
#include "graph/pass.h"

static bool is_wanted(const zg_graph *g, const zg_node *n, const zg_autodiff_options *o) {
  if (!zg_dtype_is_float(zg_type_of(g, zg_out(n, 0))->dtype)) return false;
  if (n->op == &zg_op_param) return o->params && ((const zg_param_attr *)n->attr)->role == ZG_ROLE_TRAINABLE;
  const char *name = zg__leaf_name(n->op, n->attr);
  for (uint32_t i = 0; name && i < o->n_wrt; i++)
    if (strcmp(o->wrt[i], name) == 0) return true;
  return false;
}

// need[v]: v is a float that depends on a wanted leaf through differentiable ops.
static bool *find_need(const zg_graph *g, const zg_autodiff_options *o, zg_arena *a) {
  bool *need = ZG_NEW_N(a, bool, g->values.n);
  for (size_t i = 0; i < g->nodes.n; i++) {
    const zg_node *n = &g->nodes.at[i];
    bool any = is_wanted(g, n, o);
    for (uint32_t k = 0; k < n->n_in && !any; k++) any = need[g->operands.at[n->in + k].id];
    if (!any || (n->op->traits & ZG_NO_GRAD)) continue;
    for (uint32_t k = 0; k < n->n_out; k++) need[n->out + k] = zg_dtype_is_float(g->values.at[n->out + k].type.dtype);
  }
  return need;
}

// reached[v]: v is the loss, or some path of differentiable ops leads from it there.
static bool *find_reached(const zg_graph *g, const bool *need, zg_val loss, zg_arena *a) {
  bool *reached = ZG_NEW_N(a, bool, g->values.n);
  reached[loss.id] = true;
  for (size_t i = g->nodes.n; i-- > 0;) {
    const zg_node *n = &g->nodes.at[i];
    if (!zg__node_live(n, reached) || (n->op->traits & ZG_NO_GRAD)) continue;
    for (uint32_t k = 0; k < n->n_in; k++) {
      const zg_val v = g->operands.at[n->in + k];
      if (need[v.id]) reached[v.id] = true;
    }
  }
  return reached;
}

static bool on_path(const zg_graph *g, const zg_node *n, const bool *need, const bool *reached) {
  if ((n->op->traits & ZG_NO_GRAD) || !zg__node_live(n, reached)) return false;
  for (uint32_t k = 0; k < n->n_in; k++)
    if (need[g->operands.at[n->in + k].id]) return true;
  return false;
}

// ---- forward ------------------------------------------------------------------------------------------------------------
// One round: copies live nodes, and lowers those on a path that lack a rule. *lowered counts them.
static zg_status open_round(const zg_graph *g, const zg_autodiff_options *o, zg_graph **out, uint32_t *lowered) {
  const zg_output *loss = zg_find_output(g, ZG_OUT_LOSS, NULL);
  zg_arena scratch = {0};
  const bool *live = zg_find_live(g, &scratch), *need = find_need(g, o, &scratch);
  const bool *reached = find_reached(g, need, loss->val, &scratch);
  zg_val *map = ZG_NEW_N(&scratch, zg_val, g->values.n);
  zg_builder *b = zg_builder_new();
  *lowered = 0;
  for (size_t i = 0; i < g->nodes.n; i++) {
    const zg_node *n = &g->nodes.at[i];
    const bool wanted = (n->op->traits & ZG_LEAF) && is_wanted(g, n, o);   // kept even if nothing reads it
    if (!zg__node_live(n, live) && !wanted) continue;
    if (!n->op->grad && n->op->lower && on_path(g, n, need, reached)) {
      zg__emit_lowered(b, g, n, map);
      ++*lowered;
    } else {
      zg_emit_copy(b, g, n, map);
    }
  }
  zg__copy_outputs(b, g, map, ~0u);
  zg_builder_props(b, g->props);
  zg_arena_fini(&scratch);
  return zg_builder_finish(b, out);
}

static zg_status open_paths(const zg_graph *g, const zg_autodiff_options *o, zg_graph **out) {
  zg_graph *now = NULL;
  uint32_t lowered = 0;
  ZG_TRY(open_round(g, o, &now, &lowered));
  for (int round = 0; lowered; round++) {
    zg_graph *next = NULL;
    zg_status s = round < 16 ? open_round(now, o, &next, &lowered)
                             : zg_error(ZG_INTERNAL, "the lowering of an op leads back to the op itself");
    zg_graph_free(now);
    if (s) return s;
    now = next;
  }
  *out = now;
  return NULL;
}

// ---- backward -----------------------------------------------------------------------------------------------------------
typedef struct {
  zg_builder *b;
  const zg_graph *g;
  const bool *need;
  zg_val *map, *grad;   // by value of g: its copy, and the gradient so far
  zg_arena *scratch;
} reverse;

static void add_grad(reverse *r, zg_val v, zg_val d, const zg_node *n) {
  const zg_type *want = zg_type_of(r->g, v), *got = zg_b_type(r->b, d);
  if (!zg_type_equal(want, got)) {
    zg_builder_fail(r->b, zg_error(ZG_INTERNAL, "node \"%s\" (%s): its gradient rule gives %s for an operand that is %s",
                                   n->origin.node ? n->origin.node : "", n->op->name, zg_type_text(got), zg_type_text(want)));
    return;
  }
  r->grad[v.id] = zg_is(r->grad[v.id]) ? zg_add(r->b, r->grad[v.id], d) : d;
}

static void back_node(reverse *r, const zg_node *n) {
  bool reached = false;
  for (uint32_t k = 0; k < n->n_out; k++) reached |= zg_is(r->grad[n->out + k]);
  if (!reached || (n->op->traits & (ZG_NO_GRAD | ZG_LEAF)) || n->n_in == 0) return;
  const uint32_t n_in = n->n_in + 16, n_out = n->n_out + 16;   // spare places for rules that look at optional operands
  zg_val *in = ZG_NEW_N(r->scratch, zg_val, n_in), *din = ZG_NEW_N(r->scratch, zg_val, n_in);
  zg_val *out = ZG_NEW_N(r->scratch, zg_val, n_out), *dout = ZG_NEW_N(r->scratch, zg_val, n_out);
  bool *need = ZG_NEW_N(r->scratch, bool, n_in), any = false;
  for (uint32_t k = 0; k < n->n_in; k++) {
    const zg_val v = zg_in(r->g, n, k);
    in[k] = r->map[v.id];
    any |= need[k] = r->need[v.id];
  }
  if (!any) return;
  for (uint32_t k = 0; k < n->n_out; k++) out[k] = r->map[n->out + k], dout[k] = r->grad[n->out + k];
  zg_builder_origin(r->b, (zg_origin){n->origin.node, "grad"});
  zg_grad x = {.b = r->b, .attr = n->attr, .in = in, .out = out, .n_in = n->n_in, .n_out = n->n_out, .dout = dout,
               .need = need, .din = din};
  zg_status s = n->op->grad ? n->op->grad(&x) : zg_error(ZG_UNSUPPORTED, "has neither a gradient nor a lowering");
  if (s) {
    zg_builder_fail(r->b, zg_status_prefix(s, "node \"%s\" (%s): ", n->origin.node ? n->origin.node : "", n->op->name));
    return;
  }
  for (uint32_t k = 0; k < n->n_in && !zg_builder_failed(r->b); k++)
    if (need[k] && zg_is(din[k])) add_grad(r, zg_in(r->g, n, k), din[k], n);
}

static void emit_grad_output(reverse *r, const zg_node *n) {
  const zg_val v = zg_out(n, 0);
  const char *name = zg__leaf_name(n->op, n->attr);
  if (!zg_is(r->grad[v.id]) && !zg_builder_failed(r->b)) {
    zg_warn("the loss does not depend on \"%s\": its gradient is zero", name);
    r->grad[v.id] = zg_b_fill(r->b, zg_type_of(r->g, v), 0);
  }
  zg_builder_output(r->b, ZG_OUT_GRAD, name, r->grad[v.id], r->map[v.id]);
}

static zg_status check_wrt(const zg_graph *g, const zg_autodiff_options *o) {
  for (uint32_t i = 0; i < o->n_wrt; i++) {
    const zg_val v = zg_find_leaf(g, o->wrt[i]);
    if (!zg_is(v)) return zg_error(ZG_NOT_FOUND, "no input is named \"%s\": no gradient for it", o->wrt[i]);
    if (!zg_dtype_is_float(zg_type_of(g, v)->dtype))
      return zg_error(ZG_INVALID, "\"%s\" is %s: only floats have gradients", o->wrt[i], zg_type_text(zg_type_of(g, v)));
  }
  return NULL;
}

static zg_val seed(reverse *r, const zg_type *t, const zg_autodiff_options *o) {
  const zg_val one = zg_b_fill(r->b, t, o->seed);
  if (!o->scaled) return one;
  const zg_type scalar = zg_type_scalar(ZG_F32);
  return zg_mul(r->b, one, zg_b_cast(r->b, zg_b_input(r->b, "@loss_scale", &scalar), t->dtype));
}

static zg_status differentiate(const zg_graph *g, const zg_autodiff_options *o, zg_graph **out) {
  const zg_output *loss = zg_find_output(g, ZG_OUT_LOSS, NULL);
  zg_arena scratch = {0};
  reverse r = {.b = zg_builder_new(), .g = g, .scratch = &scratch, .need = find_need(g, o, &scratch)};
  r.map = ZG_NEW_N(&scratch, zg_val, g->values.n);
  r.grad = ZG_NEW_N(&scratch, zg_val, g->values.n);
  for (size_t i = 0; i < g->nodes.n; i++) zg_emit_copy(r.b, g, &g->nodes.at[i], r.map);
  zg_builder_origin(r.b, (zg_origin){NULL, "grad"});
  if (r.need[loss->val.id]) r.grad[loss->val.id] = seed(&r, zg_type_of(g, loss->val), o);
  for (size_t i = g->nodes.n; i-- > 0 && !zg_builder_failed(r.b);) back_node(&r, &g->nodes.at[i]);
  zg__copy_outputs(r.b, g, r.map, ~(1u << ZG_OUT_GRAD));
  for (size_t i = 0; i < g->nodes.n; i++)
    if (is_wanted(g, &g->nodes.at[i], o)) emit_grad_output(&r, &g->nodes.at[i]);
  bool core = (g->props & ZG_PROP_CORE) != 0;   // a rule may use ops that are to be lowered
  const zg_graph *made = zg_builder_graph(r.b);
  for (size_t i = 0; i < made->nodes.n; i++) core &= (made->nodes.at[i].op->traits & ZG_CORE) != 0;
  zg_builder_props(r.b, (g->props & ~(uint32_t)ZG_PROP_CORE) | ZG_PROP_GRADS | (core ? ZG_PROP_CORE : 0));
  zg_arena_fini(&scratch);
  return zg_builder_finish(r.b, out);
}

zg_status zg_pass_lower_autodiff(const zg_graph *g, const zg_autodiff_options *o, zg_graph **out) {
  *out = NULL;
  const zg_output *loss = zg_find_output(g, ZG_OUT_LOSS, NULL);
  if (!loss) return zg_error(ZG_INVALID, "the graph has no loss to differentiate; attach one first");
  const zg_type *t = zg_type_of(g, loss->val);
  if (zg_elems(t) != 1 || !zg_dtype_is_float(t->dtype))
    return zg_error(ZG_INVALID, "the loss \"%s\" is %s, want one float", loss->name, zg_type_text(t));
  ZG_TRY(check_wrt(g, o));
  zg_graph *opened;
  ZG_TRY(open_paths(g, o, &opened));
  zg_status s = differentiate(opened, o, out);
  zg_graph_free(opened);
  return s;
}
