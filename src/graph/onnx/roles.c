// What only the imported graph tells of a tensor: float tables that look like weights and are none. The rule of params.c takes
// every float initializer that is no scalar; here, once shapes are known and arithmetic is folded, it is corrected:
//
//   no path      reaches no output through differentiable ops (a shape's source, an operand of a comparison)
//   frequencies  reaches outputs through sines and cosines of its products with positions alone (inv_freq of rotary and
//                sinusoidal embeddings). Positions: what depends on no float input and no parameter
//   rotation     cosines or sines of a rotary embedding x * c + [-x2, x1] * s, read as they are or gathered by position
//   mask         added to attention scores, for all heads alike: a learned bias of scores differs from head to head
//
// Tensors that the configuration names are left as it says. Where something changes, the import runs again with the new
// decisions, so that constants fold as constants. Cost: a few walks over the graph.
#include "graph/graph_priv.h"
#include "graph/onnx/onnx_priv.h"

enum { MAX_HOPS = 24 };
typedef struct {
  zg__import *im;
  const zg_graph *g;
  const bool *live;
  bool *reaches, *waves, *positional;   // by value: see above
  bool changed;
} roles;

static void freeze(roles *r, zg_val v, const char *reason) {
  const zg_param_attr *a = zg_node_of(r->g, v)->attr;
  zg__decision *d = &r->im->decisions[a->source];
  const zg__tensor *t = &r->im->m->tensors.at[a->source];
  if (!d->by_rule) return;
  *d = (zg__decision){.role = ZG_ROLE_FROZEN, .is_const = t->home != ZG__IN_GRAPH && zg_elems(&t->info.type) <= ZG__SMALL,
                      .reason = zg_arena_printf(&r->im->mem, "%s; name it in trainable to train it", reason)};
  r->changed = true;
}

// ---- no path, frequencies -----------------------------------------------------------------------------------------

// Ops behind which a frequency is still one: views and maps of it, products with positions.
static bool keeps_frequency(const roles *r, const zg_node *n, zg_val of) {
  const bool linear = n->op->traits & (ZG_VIEW | ZG_ELEMENTWISE) || n->op == &zg_op_cast || n->op == &zg_op_concat ||
                      n->op == &zg_op_matmul || n->op == &zg_op_gather;
  for (uint32_t i = 0; linear && i < n->n_in; i++) {
    const zg_val x = zg_in(r->g, n, i);
    if (zg_is(x) && !zg_same(x, of) && !r->positional[x.id] && n->op != &zg_op_concat) return false;
  }
  return linear;
}

// Backwards: a value reaches if one reader hands it on, is a frequency if all of them do.
static void find_paths(roles *r, zg_arena *mem) {
  const zg_graph *g = r->g;
  bool *breaks = ZG_NEW_N(mem, bool, g->values.n), *read = ZG_NEW_N(mem, bool, g->values.n);
  for (size_t i = 0; i < g->outputs.n; i++) r->reaches[g->outputs.at[i].val.id] = breaks[g->outputs.at[i].val.id] = true;
  for (size_t i = g->nodes.n; i-- > 0;) {
    const zg_node *n = &g->nodes.at[i];
    if (!zg__node_live(n, r->live)) continue;
    bool reaches = false, wave = n->n_out == 1 && (zg__is_map(g, zg_out(n, 0), ZG_S_SIN) || zg__is_map(g, zg_out(n, 0), ZG_S_COS));
    for (uint32_t k = 0; k < n->n_out; k++) reaches |= r->reaches[n->out + k] && zg_dtype_is_float(g->values.at[n->out + k].type.dtype);
    const bool waves = n->n_out == 1 && read[n->out] && !breaks[n->out];
    for (uint32_t k = 0; k < n->n_in; k++) {
      const zg_val x = zg_in(g, n, k);
      if (!zg_is(x)) continue;
      r->reaches[x.id] |= reaches && !(n->op->traits & ZG_NO_GRAD);
      read[x.id] = true;
      if (!wave && !(waves && keeps_frequency(r, n, x))) breaks[x.id] = true;
    }
  }
  for (size_t v = 0; v < g->values.n; v++) r->waves[v] = read[v] && !breaks[v];
}

static void find_positional(roles *r) {
  const zg_graph *g = r->g;
  for (size_t i = 0; i < g->nodes.n; i++) {
    const zg_node *n = &g->nodes.at[i];
    bool yes = n->op != &zg_op_param && n->op != &zg_op_random;
    if (n->op == &zg_op_input) yes = !zg_dtype_is_float(g->values.at[n->out].type.dtype);
    for (uint32_t k = 0; k < n->n_in; k++) yes = yes && (!zg_is(zg_in(g, n, k)) || r->positional[zg_in(g, n, k).id]);
    for (uint32_t k = 0; k < n->n_out; k++) r->positional[n->out + k] = yes;
  }
}

// ---- tables -------------------------------------------------------------------------------------------------------

// The param whose elements v holds: looks through views, casts, gathers by position, factors that are constants.
static zg_val table_of(const roles *r, zg_val v) {
  const zg_graph *g = r->g;
  for (int hops = 0; zg_is(v) && hops < MAX_HOPS; hops++) {
    const zg_node *n = zg_node_of(g, v);
    double k;
    if (n->op == &zg_op_param) return v;
    if (n->op->traits & ZG_VIEW || n->op == &zg_op_cast || n->op == &zg_op_concat || n->op == &zg_op_gather) v = zg_in(g, n, 0);
    else if (zg__is_map(g, v, ZG_S_MUL) && zg__is_splat(g, zg_in(g, n, 1), &k)) v = zg_in(g, n, 0);
    else if (zg__is_map(g, v, ZG_S_MUL) && zg__is_splat(g, zg_in(g, n, 0), &k)) v = zg_in(g, n, 1);
    else break;
  }
  return (zg_val){0};
}

static void look_at_rotation(roles *r, zg_val v) {
  zg__rotation m;
  if (!zg__match_rotary(r->g, v, &m)) return;
  const zg_val c = table_of(r, m.c), s = table_of(r, m.s);
  if (zg_is(c)) freeze(r, c, "cosines of rotary positions");
  if (zg_is(s)) freeze(r, s, "sines of rotary positions");
}

// Does v come from a product of two activations: attention scores, perhaps scaled, masked, regrouped?
static bool is_scores(const roles *r, zg_val v) {
  const zg_graph *g = r->g;
  for (int hops = 0; zg_is(v) && hops < MAX_HOPS; hops++) {
    const zg_node *n = zg_node_of(g, v);
    if (n->op == &zg_op_matmul) return !zg_is(table_of(r, zg_in(g, n, 0))) && !zg_is(table_of(r, zg_in(g, n, 1)));
    if (n->op->traits & ZG_VIEW || n->op == &zg_op_cast || zg__is_map(g, v, ZG_S_MUL) || zg__is_map(g, v, ZG_S_DIV)) v = zg_in(g, n, 0);
    else if (zg__is_map(g, v, ZG_S_ADD)) v = zg_is(table_of(r, zg_in(g, n, 0))) ? zg_in(g, n, 1) : zg_in(g, n, 0);
    else if (n->op == &zg_op_where) v = zg_in(g, n, 1);
    else break;
  }
  return false;
}

static bool one_for_all_heads(const zg_type *m, const zg_type *scores) {
  const uint32_t rank = scores->rank;
  if (rank < 3 || scores->dim[rank - 3] == 1 || m->rank < 2) return false;
  return m->rank < 3 || m->dim[m->rank - 3] == 1;
}

static void look_at_mask(roles *r, zg_val mask, const zg_type *scores) {
  const zg_val t = table_of(r, mask);
  if (zg_is(t) && one_for_all_heads(zg_type_of(r->g, mask), scores)) freeze(r, t, "mask: added to attention scores, for all heads alike");
}

static void look_at_scores(roles *r, zg_val softmax) {
  const zg_graph *g = r->g;
  zg_val v = zg__operand(g, softmax, 0);
  for (int hops = 0; zg_is(v) && hops < MAX_HOPS; hops++) {
    const zg_node *n = zg_node_of(g, v);
    if (zg__is_map(g, v, ZG_S_ADD)) {
      const uint32_t m = zg_is(table_of(r, zg_in(g, n, 1))) ? 1 : 0;
      if (is_scores(r, zg_in(g, n, 1 - m))) look_at_mask(r, zg_in(g, n, m), zg_type_of(g, v));
      v = zg_in(g, n, 1 - m);
    } else if (n->op->traits & ZG_VIEW || n->op == &zg_op_cast) {
      v = zg_in(g, n, 0);
    } else {
      break;
    }
  }
}

static void look_at(roles *r, const zg_node *n) {
  const zg_val v = zg_out(n, 0);
  if (n->op == &zg_op_rotary || zg__is_map(r->g, v, ZG_S_ADD)) look_at_rotation(r, v);
  if (n->op == &zg_op_softmax) look_at_scores(r, v);
  if (n->op == &zg_op_attention && n->n_in > 3 && zg_is(zg_in(r->g, n, 3))) {
    zg_type scores = *zg_type_of(r->g, zg_in(r->g, n, 0));
    look_at_mask(r, zg_in(r->g, n, 3), &scores);
  }
  if (n->op != &zg_op_param) return;
  if (!r->reaches[v.id]) freeze(r, v, "reaches no output through differentiable ops");
  else if (r->waves[v.id]) freeze(r, v, "frequencies: only sines and cosines of its products with positions are read");
}

bool zg__refine_roles(zg__import *im, const zg_graph *g) {
  zg_arena mem = {0};
  roles r = {.im = im, .g = g, .live = zg_find_live(g, &mem), .reaches = ZG_NEW_N(&mem, bool, g->values.n),
             .waves = ZG_NEW_N(&mem, bool, g->values.n), .positional = ZG_NEW_N(&mem, bool, g->values.n)};
  find_positional(&r);
  find_paths(&r, &mem);
  for (size_t i = 0; i < g->nodes.n; i++)
    if (g->nodes.at[i].op == &zg_op_param || zg__node_live(&g->nodes.at[i], r.live)) look_at(&r, &g->nodes.at[i]);
  zg_arena_fini(&mem);
  return r.changed;
}
