// Lowering, third part: the order of execution.
//   - a topological order of the groups that keeps to the graph's own order (forward, backward, update)
//   - an update whose value a loop computes element by element is written straight into its leaf, if every other reader of
//     the old value can come first; where that closes a cycle, that update goes through a copy at the end
//   - the order is then bent to lower the peak (order_memory.c)
#include "sched/order_priv.h"

// ---- dependences --------------------------------------------------------------------------------------------------

typedef struct { uint32_t from, to; } edge;
typedef struct { zg_low *l; ZG_VEC(edge) at; } edges;

static void add_edge(edges *e, uint32_t from, uint32_t to) {
  if (from && from != to) zg_vec_push(&e->at, (edge){from, to});
}

static void node_edges(edges *e, uint32_t group, uint32_t node) {
  const zg_low *l = e->l;
  const zg_node *n = &l->g->nodes.at[node];
  for (uint32_t k = 0; k < n->n_in; k++) {
    zg_val v = zg_in(l->g, n, k);
    if (!zg_is(v) || l->val[v.id].at != ZG_AT_STORED || zg__low_in_register(l, group, v)) continue;
    add_edge(e, zg__low_root(l, v)->group, group);
  }
}

// Compressed rows of the edges, by source or by target.
static void make_rows(const edges *e, zg_arena *mem, size_t n, bool by_target, uint32_t **start, uint32_t **list) {
  *start = ZG_NEW_N(mem, uint32_t, n + 2);
  *list = ZG_NEW_N(mem, uint32_t, e->at.n + 1);
  for (size_t i = 0; i < e->at.n; i++) (*start)[(by_target ? e->at.at[i].to : e->at.at[i].from) + 1]++;
  for (size_t i = 0; i < n; i++) (*start)[i + 1] += (*start)[i];
  uint32_t *fill = zg_arena_copy(mem, *start, sizeof **start * (n + 1));
  for (size_t i = 0; i < e->at.n; i++) {
    edge x = e->at.at[i];
    (*list)[fill[by_target ? x.to : x.from]++] = by_target ? x.from : x.to;
  }
}

// Element code after a reduction: it may compute again what was computed before, from leaves that are then overwritten.
static bool elem_after_reduce(const zg_low *l, const zg_group *q) {
  for (size_t i = 0; i < q->nodes.n && q->has_red; i++)
    if (l->after_red[q->nodes.at[i]] && l->elem[q->nodes.at[i]]) return true;
  return false;
}

// The loop group that can write update `o` in place, or 0.
static uint32_t update_group(const zg_low *l, const zg_output *o) {
  const zg_graph *g = l->g;
  if (o->kind != ZG_OUT_UPDATE || l->val[o->val.id].at != ZG_AT_STORED || l->val[o->val.id].root != o->val.id) return 0;
  const zg_low_val *x = &l->val[o->val.id];
  if (x->cls != ZG_LOW_LOOP || elem_after_reduce(l, &l->groups.at[x->group])) return 0;
  if (l->groups.at[x->group].has_red && !l->elem[g->values.at[o->val.id].node]) return 0;
  if (l->stores.at[x->view.buf].leaf || l->stores.at[x->view.buf].value != o->val.id) return 0;
  if (!zg_type_equal(zg_type_of(g, o->val), zg_type_of(g, o->target))) return 0;
  const zg_group *q = &l->groups.at[x->group];
  for (size_t i = 0; i < q->nodes.n; i++) {   // reads of the leaf inside the group must be at the same index
    const zg_node *n = &g->nodes.at[q->nodes.at[i]];
    for (uint32_t k = 0; k < n->n_in; k++) {
      zg_val v = zg_in(g, n, k);
      if (zg_is(v) && l->val[v.id].root == o->target.id && !zg_same(v, o->target)) return 0;
    }
  }
  return x->group;
}

// Leaves' readers are found by scanning all groups; with many updates that is quadratic, so index them once.
typedef struct { uint32_t *start, *group; } leaf_readers;

static leaf_readers find_leaf_readers(zg_low *l) {
  leaf_readers r = {.start = ZG_NEW_N(&l->mem, uint32_t, l->g->values.n + 2)};
  uint32_t *fill = NULL;
  for (int pass = 0; pass < 2; pass++) {
    for (uint32_t q = 1; q < l->groups.n; q++) {
      const zg_group *p = &l->groups.at[q];
      for (size_t i = 0; !p->dead && i < p->nodes.n + p->clones.n; i++) {
        const zg_node *n = &l->g->nodes.at[i < p->nodes.n ? p->nodes.at[i] : p->clones.at[i - p->nodes.n]];
        for (uint32_t k = 0; k < n->n_in; k++) {
          zg_val v = zg_in(l->g, n, k);
          if (!zg_is(v) || l->val[v.id].at != ZG_AT_STORED || zg__low_root(l, v)->cls != ZG_LOW_LEAF) continue;
          uint32_t leaf = l->val[v.id].root;
          if (pass == 0) r.start[leaf + 1]++;
          else r.group[fill[leaf]++] = q;
        }
      }
    }
    if (pass) break;
    for (size_t v = 0; v <= l->g->values.n; v++) r.start[v + 1] += r.start[v];
    r.group = ZG_NEW_N(&l->mem, uint32_t, r.start[l->g->values.n + 1] + 1);
    fill = zg_arena_copy(&l->mem, r.start, sizeof(uint32_t) * (l->g->values.n + 1));
  }
  return r;
}

// ---- topological order --------------------------------------------------------------------------------------------

typedef ZG_VEC(uint32_t) ids;

static void heap_push(ids *h, const zg_group *groups, uint32_t q) {
  zg_vec_push(h, q);
  for (size_t i = h->n - 1; i > 0; i = (i - 1) / 2) {
    uint32_t *a = &h->at[i], *b = &h->at[(i - 1) / 2];
    if (groups[*b].order <= groups[*a].order) break;
    uint32_t t = *a;
    *a = *b;
    *b = t;
  }
}

static uint32_t heap_pop(ids *h, const zg_group *groups) {
  uint32_t top = h->at[0];
  h->at[0] = h->at[--h->n];
  for (size_t i = 0;;) {
    size_t c = 2 * i + 1;
    if (c >= h->n) break;
    if (c + 1 < h->n && groups[h->at[c + 1]].order < groups[h->at[c]].order) c++;
    if (groups[h->at[i]].order <= groups[h->at[c]].order) break;
    uint32_t t = h->at[i];
    h->at[i] = h->at[c];
    h->at[c] = t;
    i = c;
  }
  return top;
}

// `refused`: outputs that must not be written in place.
static void update_edges(zg_low *l, edges *e, const leaf_readers *readers, const bool *refused) {
  bool *taken = ZG_NEW_N(&l->mem, bool, l->g->values.n);   // a value can be written to one leaf only
  for (size_t i = 0; i < l->g->outputs.n; i++) {
    const zg_output *o = &l->g->outputs.at[i];
    uint32_t group = taken[o->val.id] || refused[i] ? 0 : update_group(l, o);
    l->update_done[i] = group != 0;
    taken[o->val.id] = taken[o->val.id] || group;
    for (uint32_t k = readers->start[o->target.id]; group && k < readers->start[o->target.id + 1]; k++)
      add_edge(e, readers->group[k], group);
  }
}

// After a failed try n_before tells the groups on cycles and behind them: their updates are refused.
static void refuse(const zg_low *l, const leaf_readers *readers, const uint32_t *n_before, bool *refused) {
  for (size_t i = 0; i < l->g->outputs.n; i++) {
    const zg_output *o = &l->g->outputs.at[i];
    if (!l->update_done[i] || !n_before[l->val[o->val.id].group]) continue;
    for (uint32_t k = readers->start[o->target.id]; k < readers->start[o->target.id + 1] && !refused[i]; k++)
      refused[i] = n_before[readers->group[k]] != 0 && readers->group[k] != l->val[o->val.id].group;
  }
}

static bool try_order(zg_low *l, const leaf_readers *readers, bool *refused, zg_low_dag *dag) {
  edges e = {.l = l};
  uint32_t alive = 0;
  for (uint32_t q = 1; q < l->groups.n; q++) {
    zg_group *p = &l->groups.at[q];
    if (p->dead) continue;
    alive++;
    p->order = p->nodes.at[p->nodes.n - 1];
    for (size_t i = 0; i < p->nodes.n; i++) node_edges(&e, q, p->nodes.at[i]);
    for (size_t i = 0; i < p->clones.n; i++) node_edges(&e, q, p->clones.at[i]);
  }
  update_edges(l, &e, readers, refused);
  make_rows(&e, &l->mem, l->groups.n, false, &dag->next_start, &dag->next);
  make_rows(&e, &l->mem, l->groups.n, true, &dag->prev_start, &dag->prev);
  zg_vec_fini(&e.at);
  uint32_t *n_before = ZG_NEW_N(&l->mem, uint32_t, l->groups.n);
  ids ready = {0};
  l->order.n = 0;
  for (uint32_t q = 1; q < l->groups.n; q++) {
    n_before[q] = dag->prev_start[q + 1] - dag->prev_start[q];
    if (!l->groups.at[q].dead && !n_before[q]) heap_push(&ready, l->groups.at, q);
  }
  while (ready.n) {
    uint32_t q = heap_pop(&ready, l->groups.at);
    zg_vec_push(&l->order, q);
    for (uint32_t i = dag->next_start[q]; i < dag->next_start[q + 1]; i++)
      if (--n_before[dag->next[i]] == 0) heap_push(&ready, l->groups.at, dag->next[i]);
  }
  zg_vec_fini(&ready);
  if (l->order.n != alive) refuse(l, readers, n_before, refused);
  return l->order.n == alive;
}

zg_status zg__low_order(zg_low *l) {
  l->update_done = ZG_NEW_N(&l->mem, bool, l->g->outputs.n + 1);
  leaf_readers r = find_leaf_readers(l);
  zg_low_dag dag;
  bool *refused = ZG_NEW_N(&l->mem, bool, l->g->outputs.n + 1);
  for (size_t tries = 0; !try_order(l, &r, refused, &dag); tries++) ZG_ASSERT(tries <= l->g->outputs.n);
  zg__low_order_memory(l, &dag);
  for (size_t i = 0; i < l->g->outputs.n; i++) {
    const zg_output *o = &l->g->outputs.at[i];
    if (l->update_done[i]) l->val[o->val.id].view = l->val[o->target.id].view;
  }
  return NULL;
}
