// Reference evaluation of a graph on the host: node after node with the ops' own .eval; what is no core op is lowered first.
// Exact rather than fast. Values are freed after their last use, so the peak is that of the widest moment.
#include "graph/graph_priv.h"
#include "graph/pass.h"

typedef struct {
  const zg_graph *g;
  zg_tensor *vals;       // by value id; data NULL: not computed, or no longer held
  uint32_t *uses;
} evaluation;

static zg_status get_tensor(zg_tensor *t) { return zg_alloc_big(zg_type_bytes(&t->type) + 8, &t->data); }

static void drop(evaluation *e, zg_val v) {
  zg_tensor *t = &e->vals[v.id];
  if (zg_is(v) && t->data) zg_free_big(t->data, zg_type_bytes(&t->type) + 8), t->data = NULL;
}

static zg_status run_leaf(evaluation *e, const zg_node *n, zg_tensor (*leaf)(void *, const zg_node *), void *user) {
  zg_tensor *t = &e->vals[n->out];
  const zg_tensor given = leaf(user, n);
  if (!given.data && zg_elems(&t->type) > 0)
    return zg_error(ZG_INVALID, "no data for the leaf \"%s\"", zg__leaf_name(n->op, n->attr));
  if (given.data && !zg_type_equal(&given.type, &t->type))
    return zg_error(ZG_INVALID, "data of \"%s\" are %s, the graph wants %s", zg__leaf_name(n->op, n->attr),
                    zg_type_text(&given.type), zg_type_text(&t->type));
  if (given.data) memcpy(t->data, given.data, zg_type_bytes(&t->type));
  return NULL;
}

static zg_status run_op(evaluation *e, const zg_node *n) {
  static const uint32_t seed[2] = {0, 0};
  if (!n->op->eval) return zg_error(ZG_UNSUPPORTED, "%s cannot be evaluated on the host", n->op->name);
  zg_tensor small[16], *in = n->n_in <= 16 ? small : zg_alloc(sizeof *in * n->n_in);
  for (uint32_t i = 0; i < n->n_in; i++) {
    const zg_val v = zg_in(e->g, n, i);
    in[i] = zg_is(v) ? e->vals[v.id] : (zg_tensor){0};
  }
  zg_eval x = {.attr = n->attr, .in = in, .n_in = n->n_in, .n_out = n->n_out, .out = &e->vals[n->out], .seed = seed};
  zg_status s = n->op->eval(&x);
  if (in != small) zg_free(in);
  return zg_status_prefix(s, "node \"%s\" (%s): ", n->origin.node ? n->origin.node : "", n->op->name);
}

static bool wanted(const evaluation *e, const zg_node *n) {
  for (uint32_t k = 0; k < n->n_out; k++)
    if (e->uses[n->out + k]) return true;
  return false;
}

static zg_status run_node(evaluation *e, const zg_node *n, zg_tensor (*leaf)(void *, const zg_node *), void *user) {
  for (uint32_t k = 0; k < n->n_out; k++) ZG_TRY(get_tensor(&e->vals[n->out + k]));
  if (zg__leaf_name(n->op, n->attr)) {
    ZG_TRY(run_leaf(e, n, leaf, user));
  } else {
    ZG_TRY(run_op(e, n));
  }
  for (uint32_t i = 0; i < n->n_in; i++) {
    const zg_val v = zg_in(e->g, n, i);
    if (zg_is(v) && --e->uses[v.id] == 0) drop(e, v);
  }
  for (uint32_t k = 0; k < n->n_out; k++)
    if (!e->uses[n->out + k]) drop(e, zg_out(n, k));
  return NULL;
}

static zg_status eval_core(const zg_graph *g, zg_tensor (*leaf)(void *, const zg_node *), void *user, zg_tensor **out) {
  zg_arena scratch = {0};
  zg_status status = NULL;
  evaluation e = {g, ZG_NEW_N(&scratch, zg_tensor, g->values.n), zg_find_uses(g, &scratch)};
  zg_tensor *res = zg_alloc(sizeof *res * (g->outputs.n + 1));
  for (size_t i = 0; i < g->values.n; i++) e.vals[i].type = g->values.at[i].type;
  for (size_t i = 0; i < g->nodes.n; i++)
    if (wanted(&e, &g->nodes.at[i])) ZG_TRY_OUT(run_node(&e, &g->nodes.at[i], leaf, user));
  for (size_t i = 0; i < g->outputs.n; i++) {
    const zg_tensor *v = &e.vals[g->outputs.at[i].val.id];
    res[i].type = v->type;
    ZG_TRY_OUT(get_tensor(&res[i]));
    memcpy(res[i].data, v->data, zg_type_bytes(&v->type));
  }
out:
  for (uint32_t i = 1; i < g->values.n; i++) drop(&e, (zg_val){i});
  if (status) {
    zg_eval_free(g, res);
    res = NULL;
  }
  *out = res;
  zg_arena_fini(&scratch);
  return status;
}

// Callers find data by the leaf nodes of their graph, not of the lowered copy.
typedef struct {
  const zg_graph *g;
  zg_tensor (*leaf)(void *user, const zg_node *n);
  void *user;
} translated;

static zg_tensor leaf_of_original(void *user, const zg_node *n) {
  const translated *t = user;
  const zg_val v = zg_find_leaf(t->g, zg__leaf_name(n->op, n->attr));
  return zg_is(v) ? t->leaf(t->user, zg_node_of(t->g, v)) : (zg_tensor){0};
}

zg_status zg_graph_eval(const zg_graph *g, zg_tensor (*leaf)(void *user, const zg_node *n), void *user,
                        zg_tensor **out_values) {
  *out_values = NULL;
  bool core = true;
  for (size_t i = 0; i < g->nodes.n; i++) core &= (g->nodes.at[i].op->traits & ZG_CORE) != 0;
  if (core) return eval_core(g, leaf, user, out_values);
  zg_graph *lowered;
  ZG_TRY(zg_pass_lower_to_core(g, &lowered));
  translated t = {g, leaf, user};
  zg_status s = eval_core(lowered, leaf_of_original, &t, out_values);   // its outputs are g's, in order
  zg_graph_free(lowered);
  return s;
}

void zg_eval_free(const zg_graph *g, zg_tensor *values) {
  if (!values) return;
  for (size_t i = 0; i < g->outputs.n; i++)
    if (values[i].data) zg_free_big(values[i].data, zg_type_bytes(&values[i].type) + 8);
  zg_free(values);
}
