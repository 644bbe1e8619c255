// Lowering, third part: the order of execution.
//   - a topological order of the groups that keeps to the graph's own order (forward, backward, update)
//   - an update whose value a loop computes element by element is written straight into its leaf, if every other reader of
//     the old value can come first; where that closes a cycle, updates go through a copy at the end
#include "sched/lower_priv.h"

typedef ZG_VEC(uint32_t) ids;
typedef struct { zg_low *l; ids *next; uint32_t *n_before; } edges;

static void add_edge(edges *e, uint32_t from, uint32_t to) {
  if (!from || from == to) return;
  zg_vec_push(&e->next[from], to);
  e->n_before[to]++;
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

// The loop group that can write update `o` in place, or 0.
static uint32_t update_group(const zg_low *l, const zg_output *o) {
  const zg_graph *g = l->g;
  if (o->kind != ZG_OUT_UPDATE || l->val[o->val.id].at != ZG_AT_STORED || l->val[o->val.id].root != o->val.id) return 0;
  const zg_low_val *x = &l->val[o->val.id];
  if (x->cls != ZG_LOW_LOOP || l->groups.at[x->group].has_red) return 0;
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

static bool try_order(zg_low *l, const leaf_readers *readers, bool in_place) {
  edges e = {.l = l, .next = zg_alloc(sizeof(ids) * l->groups.n), .n_before = ZG_NEW_N(&l->mem, uint32_t, l->groups.n)};
  uint32_t alive = 0;
  for (uint32_t q = 1; q < l->groups.n; q++) {
    zg_group *p = &l->groups.at[q];
    if (p->dead) continue;
    alive++;
    p->order = p->nodes.at[p->nodes.n - 1];
    for (size_t i = 0; i < p->nodes.n; i++) node_edges(&e, q, p->nodes.at[i]);
    for (size_t i = 0; i < p->clones.n; i++) node_edges(&e, q, p->clones.at[i]);
  }
  bool *taken = ZG_NEW_N(&l->mem, bool, l->g->values.n);   // a value can be written to one leaf only
  for (size_t i = 0; i < l->g->outputs.n && in_place; i++) {
    const zg_output *o = &l->g->outputs.at[i];
    uint32_t group = taken[o->val.id] ? 0 : update_group(l, o);
    l->update_done[i] = group != 0;
    taken[o->val.id] = taken[o->val.id] || group;
    for (uint32_t k = readers->start[o->target.id]; group && k < readers->start[o->target.id + 1]; k++)
      add_edge(&e, readers->group[k], group);
  }
  ids ready = {0};
  l->order.n = 0;
  for (uint32_t q = 1; q < l->groups.n; q++)
    if (!l->groups.at[q].dead && !e.n_before[q]) heap_push(&ready, l->groups.at, q);
  while (ready.n) {
    uint32_t q = heap_pop(&ready, l->groups.at);
    zg_vec_push(&l->order, q);
    for (size_t i = 0; i < e.next[q].n; i++)
      if (--e.n_before[e.next[q].at[i]] == 0) heap_push(&ready, l->groups.at, e.next[q].at[i]);
  }
  for (uint32_t q = 0; q < l->groups.n; q++) zg_vec_fini(&e.next[q]);
  zg_free(e.next);
  zg_vec_fini(&ready);
  return l->order.n == alive;
}

zg_status zg__low_order(zg_low *l) {
  l->update_done = ZG_NEW_N(&l->mem, bool, l->g->outputs.n + 1);
  leaf_readers r = find_leaf_readers(l);
  if (!try_order(l, &r, true)) {
    memset(l->update_done, 0, l->g->outputs.n);
    ZG_ASSERT(try_order(l, &r, false));
  }
  for (size_t i = 0; i < l->g->outputs.n; i++) {
    const zg_output *o = &l->g->outputs.at[i];
    if (l->update_done[i]) l->val[o->val.id].view = l->val[o->target.id].view;
  }
  return NULL;
}
