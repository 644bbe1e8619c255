// Lowering, second part: fusion. Scalar maps and reductions are gathered into groups; a group becomes one loop kernel.
//   - nodes are taken in topological order; a node joins the group of an operand when the group's space fits it: it has the
//     full shape (level ELEM), or the shape left by the group's reductions (level ROW), or it reduces the full shape over
//     the group's axes. Other operands' groups of the same space are then merged in.
//   - never across phases (forward, backward, update): a backward value joined to a forward group would be stored for long
//   - a join must not close a cycle: no path from the group to the node through other groups
//   - then cheap maps that other groups read are computed again there instead of being stored (clones): the normalised
//     input of a norm in its backward, a dropout mask, a bias before a gelu
// Why greedy: optimal fusion is NP-hard (Kennedy & McKinley 1993, "Maximizing loop parallelism and improving data locality via
// loop fusion and distribution", section 4); on exported models the greedy result has the kernels one would write by hand.
#include "sched/lower_priv.h"

enum { MAX_MEMBERS = 56, MAX_SEARCH = 400, MAX_CLONE = 10 };

static uint32_t root_group(const zg_low *l, zg_val v) { return zg_is(v) ? zg__low_root(l, v)->group : 0; }

static const zg_node *node_at(const zg_low *l, uint32_t n) { return &l->g->nodes.at[n]; }

static uint32_t node_of_root(const zg_low *l, zg_val v) { return l->g->values.at[l->val[v.id].root].node; }

static uint32_t first_node(const zg_group *q) { return q->nodes.at[0]; }

// ---- cycles -------------------------------------------------------------------------------------------------------

typedef struct { zg_low *l; uint32_t target, *seen, stamp, left; } search;

// Is there a path from group `target` to group `at`? Gives up with "yes" after MAX_SEARCH groups. Groups whose nodes all
// precede the target's first node cannot depend on it.
static bool reaches(search *s, uint32_t at) {
  if (at == s->target) return true;
  if (!at || s->seen[at] == s->stamp) return false;
  s->seen[at] = s->stamp;
  if (s->left-- == 0) return true;
  const zg_group *q = &s->l->groups.at[at];
  if (q->nodes.at[q->nodes.n - 1] < first_node(&s->l->groups.at[s->target])) return false;
  for (size_t i = 0; i < q->nodes.n; i++) {
    const zg_node *n = node_at(s->l, q->nodes.at[i]);
    for (uint32_t k = 0; k < n->n_in; k++) {
      uint32_t from = root_group(s->l, zg_in(s->l->g, n, k));
      if (from != at && reaches(s, from)) return true;
    }
  }
  return false;
}

typedef struct { uint32_t *seen; uint32_t stamp; } cycle_check;

// A path target -> other group -> at (at itself excepted: a direct edge is what fusion removes).
static bool outside_path(zg_low *l, cycle_check *c, uint32_t target, uint32_t at) {
  search s = {l, target, c->seen, ++c->stamp, MAX_SEARCH};
  const zg_group *q = &l->groups.at[at];
  for (size_t i = 0; i < q->nodes.n; i++) {
    const zg_node *n = node_at(l, q->nodes.at[i]);
    for (uint32_t k = 0; k < n->n_in; k++) {
      uint32_t from = root_group(l, zg_in(l->g, n, k));
      if (from != at && from != target && reaches(&s, from)) return true;
    }
  }
  return false;
}

static bool operand_path(zg_low *l, cycle_check *c, uint32_t target, const zg_node *n) {
  search s = {l, target, c->seen, ++c->stamp, MAX_SEARCH};
  for (uint32_t k = 0; k < n->n_in; k++) {
    uint32_t from = root_group(l, zg_in(l->g, n, k));
    if (from && from != target && reaches(&s, from)) return true;
  }
  return false;
}

// ---- joining ------------------------------------------------------------------------------------------------------

// How a node would sit in a group.
typedef struct { bool elem, reduce; uint32_t red_mask; int8_t map[ZG_MAX_RANK]; } seat;

static bool same_dims(uint32_t rank, const int64_t *a, const int64_t *b) {
  for (uint32_t d = 0; d < rank; d++)
    if (a[d] != b[d]) return false;
  return true;
}

static bool is_reduce(const zg_node *n) { return n->op == &zg_op_reduce; }

static uint32_t axes_mask(const zg_node *n) {
  const zg_reduce_attr *a = n->attr;
  uint32_t m = 0;
  for (int64_t i = 0; i < a->axes.n; i++) m |= 1u << a->axes.at[i];
  return m;
}

static void reduced_map(const zg_node *n, uint32_t rank, int8_t *map) {
  const zg_reduce_attr *a = n->attr;
  uint32_t mask = axes_mask(n), j = 0;
  for (uint32_t d = 0; d < rank; d++) {
    if (a->keep) map[d] = (int8_t)d;
    else if (!(mask >> d & 1)) map[j++] = (int8_t)d;
  }
}

// Column form: the last dim of more than one element is kept.
static bool is_column(uint32_t rank, const int64_t *dim, uint32_t mask) {
  for (uint32_t d = rank; d-- > 0;)
    if (dim[d] != 1) return !(mask >> d & 1);
  return false;
}

static bool row_seat(const zg_group *q, const zg_type *t, int8_t *map) {
  if (!q->has_red) return false;
  if (t->rank == q->rank) {
    bool keep = true;
    for (uint32_t d = 0; d < q->rank; d++) keep = keep && t->dim[d] == (q->red_mask >> d & 1 ? 1 : q->dim[d]);
    for (uint32_t d = 0; d < q->rank; d++) map[d] = (int8_t)d;
    if (keep) return true;
  }
  uint32_t j = 0;
  for (uint32_t d = 0; d < q->rank; d++) {
    if (q->red_mask >> d & 1) continue;
    if (j >= t->rank || t->dim[j] != q->dim[d]) return false;
    map[j++] = (int8_t)d;
  }
  return j == t->rank;
}

// Operand v of a node seated in group q: its dims must fall on the same dims of the space as in the register.
static bool operand_fits(const zg_low *l, const seat *st, const zg_node *n, zg_val v) {
  const zg_low_val *x = &l->val[v.id];
  uint32_t rn = node_of_root(l, v);
  if (!x->direct) return false;
  if (st->reduce) {
    if (!l->elem[rn]) return false;
  } else if (!st->elem && l->elem[rn]) {
    return false;
  }
  const zg_type *vt = zg_type_of(l->g, v), *nt = &l->g->values.at[n->out].type;
  uint32_t lead = st->reduce ? 0 : nt->rank - vt->rank;
  for (uint32_t d = 0; d < vt->rank; d++) {
    if (vt->dim[d] == 1) continue;
    int own = x->dmap[d] < 0 ? -1 : l->mmap[rn][x->dmap[d]];
    int want = st->reduce ? (int)d : st->map[d + lead];
    if (own != want) return false;
  }
  return true;
}

static bool find_seat(const zg_low *l, const zg_group *q, const zg_node *n, seat *st) {
  const zg_type *t = &l->g->values.at[n->out].type;
  memset(st, 0, sizeof *st);
  if (is_reduce(n)) {
    const zg_type *xt = zg_type_of(l->g, zg_in(l->g, n, 0));
    st->reduce = true;
    st->red_mask = axes_mask(n);
    if (xt->rank != q->rank || !same_dims(q->rank, xt->dim, q->dim)) return false;
    if (q->has_red && q->red_mask != st->red_mask) return false;
    reduced_map(n, q->rank, st->map);
    return true;
  }
  for (uint32_t d = 0; d < t->rank; d++) st->map[d] = (int8_t)d;
  if (t->rank == q->rank && same_dims(q->rank, t->dim, q->dim)) {
    st->elem = true;
    return true;
  }
  return row_seat(q, t, st->map);
}

static bool member_after_red(const zg_low *l, uint32_t group, const zg_node *n) {
  for (uint32_t k = 0; k < n->n_in; k++) {
    zg_val v = zg_in(l->g, n, k);
    if (root_group(l, v) != group) continue;
    uint32_t rn = node_of_root(l, v);
    if (is_reduce(node_at(l, rn)) || l->after_red[rn]) return true;
  }
  return false;
}

static void sit(zg_low *l, uint32_t group, uint32_t node, const seat *st) {
  zg_group *q = &l->groups.at[group];
  const zg_node *n = node_at(l, node);
  memcpy(l->mmap[node], st->map, ZG_MAX_RANK);
  l->elem[node] = st->elem;
  if (st->reduce) {
    q->has_red = true;
    q->red_mask = st->red_mask;
    q->column = is_column(q->rank, q->dim, q->red_mask);
  }
  l->after_red[node] = member_after_red(l, group, n);
  zg_vec_push(&q->nodes, node);
  l->val[n->out].group = group;
}

static bool join(zg_low *l, cycle_check *c, uint32_t group, uint32_t node) {
  zg_group *q = &l->groups.at[group];
  const zg_node *n = node_at(l, node);
  seat st;
  if (!q->loop || q->phase != l->phase[node] || q->nodes.n >= MAX_MEMBERS || !find_seat(l, q, n, &st)) return false;
  for (uint32_t k = 0; k < n->n_in; k++) {
    zg_val v = zg_in(l->g, n, k);
    if (zg_is(v) && root_group(l, v) == group && !operand_fits(l, &st, n, v)) return false;
  }
  bool column = st.reduce ? is_column(q->rank, q->dim, st.red_mask) : q->column;
  if (column && (st.elem || st.reduce) && member_after_red(l, group, n)) return false;
  if (operand_path(l, c, group, n)) return false;
  sit(l, group, node, &st);
  return true;
}

// Merges group b into a: same space, same axes if both reduce, no path between them but direct ones.
static bool merge(zg_low *l, cycle_check *c, uint32_t a, uint32_t b) {
  zg_group *p = &l->groups.at[a], *q = &l->groups.at[b];
  if (a == b || !q->loop || q->dead || p->phase != q->phase || p->nodes.n + q->nodes.n > MAX_MEMBERS) return false;
  if (p->rank != q->rank || !same_dims(p->rank, p->dim, q->dim)) return false;
  if (p->has_red && q->has_red && p->red_mask != q->red_mask) return false;
  if (p->column || q->column) return false;
  if (outside_path(l, c, a, b) || outside_path(l, c, b, a)) return false;
  // Registers that cross between the two must line up as if the reader had joined.
  for (int side = 0; side < 2; side++) {
    zg_group *r = side ? q : p;
    uint32_t other = side ? a : b;
    for (size_t i = 0; i < r->nodes.n; i++) {
      const zg_node *n = node_at(l, r->nodes.at[i]);
      seat st = {.elem = l->elem[r->nodes.at[i]], .reduce = is_reduce(n)};
      memcpy(st.map, l->mmap[r->nodes.at[i]], ZG_MAX_RANK);
      for (uint32_t k = 0; k < n->n_in; k++) {
        zg_val v = zg_in(l->g, n, k);
        if (zg_is(v) && root_group(l, v) == other && !operand_fits(l, &st, n, v)) return false;
      }
    }
  }
  for (size_t i = 0; i < q->nodes.n; i++) {
    uint32_t node = q->nodes.at[i];
    l->val[node_at(l, node)->out].group = a;
    zg_vec_push(&p->nodes, node);
  }
  if (q->has_red) p->has_red = true, p->red_mask = q->red_mask;
  for (size_t i = 1; i < p->nodes.n; i++)   // back into topological order
    for (size_t j = i; j > 0 && p->nodes.at[j - 1] > p->nodes.at[j]; j--) {
      uint32_t t = p->nodes.at[j];
      p->nodes.at[j] = p->nodes.at[j - 1];
      p->nodes.at[j - 1] = t;
    }
  for (size_t i = 0; i < p->nodes.n; i++) l->after_red[p->nodes.at[i]] = member_after_red(l, a, node_at(l, p->nodes.at[i]));
  q->dead = true;
  zg_vec_fini(&q->nodes);
  return true;
}

static uint32_t new_group(zg_low *l, uint32_t node, bool loop) {
  zg_group q = {.loop = loop, .phase = l->phase[node]};
  uint32_t id = (uint32_t)l->groups.n;
  zg_vec_push(&l->groups, q);
  const zg_node *n = node_at(l, node);
  if (!loop) {
    zg_vec_push(&l->groups.at[id].nodes, node);
    for (uint32_t k = 0; k < n->n_out; k++) l->val[n->out + k].group = id;
    return id;
  }
  const zg_type *t = is_reduce(n) ? zg_type_of(l->g, zg_in(l->g, n, 0)) : &l->g->values.at[n->out].type;
  zg_group *g = &l->groups.at[id];
  g->rank = t->rank;
  memcpy(g->dim, t->dim, sizeof g->dim);
  seat st = {.elem = !is_reduce(n), .reduce = is_reduce(n)};
  if (st.reduce) {
    st.red_mask = axes_mask(n);
    reduced_map(n, t->rank, st.map);
  } else {
    for (uint32_t d = 0; d < t->rank; d++) st.map[d] = (int8_t)d;
  }
  sit(l, id, node, &st);
  return id;
}

static void group_loop_node(zg_low *l, cycle_check *c, uint32_t node) {
  const zg_node *n = node_at(l, node);
  uint32_t cand[16], n_cand = 0, joined = 0;
  for (uint32_t k = 0; k < n->n_in && n_cand < ZG_COUNT(cand); k++) {
    zg_val v = zg_in(l->g, n, k);
    uint32_t q = zg_is(v) ? root_group(l, v) : 0;
    if (!q || !l->groups.at[q].loop || !l->val[v.id].direct) continue;
    uint32_t at = n_cand++;
    for (; at > 0 && cand[at - 1] < q; at--) cand[at] = cand[at - 1];   // newest first
    cand[at] = q;
  }
  for (uint32_t i = 0; i < n_cand && !joined; i++)
    if (join(l, c, cand[i], node)) joined = cand[i];
  if (!joined) {
    new_group(l, node, true);
    return;
  }
  for (uint32_t i = 0; i < n_cand; i++)
    if (!l->groups.at[cand[i]].dead) merge(l, c, joined, cand[i]);
}

// ---- clones -------------------------------------------------------------------------------------------------------

static bool cheap(const zg_node *n) { return (n->op->traits & ZG_ELEMENTWISE) || n->op == &zg_op_iota || n->op == &zg_op_random; }

static uint32_t weight(const zg_node *n) {
  switch (n->op->scalar) {
    case ZG_S_NONE: return n->op == &zg_op_random ? 2 : 1;
    case ZG_S_ADD: case ZG_S_SUB: case ZG_S_MUL: case ZG_S_NEG: case ZG_S_MAX: case ZG_S_MIN: case ZG_S_EQ: case ZG_S_NE:
    case ZG_S_LT: case ZG_S_LE: case ZG_S_AND: case ZG_S_OR: case ZG_S_NOT: case ZG_S_RELU: case ZG_S_ABS: case ZG_S_WHERE:
      return 1;
    case ZG_S_DIV: case ZG_S_SQRT: case ZG_S_RSQRT: case ZG_S_RECIP: return 2;
    default: return 6;
  }
}

typedef struct { uint32_t reader_node; uint32_t value; } cross_use;   // a loop node of another group reads value's root

// What computing a loop value again costs: full-size loads and scalar work. 255: cannot be.
typedef struct { uint8_t loads, work; } clone_cost;

typedef struct {
  zg_low *l;
  clone_cost *cost;          // per value
  uint32_t *head, *next;     // cross uses by root value
  ZG_VEC(cross_use) uses;
} cloning;

static int64_t elems_of(const zg_low *l, zg_val v) { return zg_elems(zg_type_of(l->g, v)); }

static clone_cost cost_of(const cloning *c, uint32_t v) {
  const zg_low *l = c->l;
  const zg_node *n = zg_node_of(l->g, (zg_val){v});
  clone_cost r = {0, (uint8_t)weight(n)};
  for (uint32_t k = 0; k < n->n_in; k++) {
    zg_val x = zg_in(l->g, n, k);
    const zg_low_val *xl = &l->val[x.id], *root = zg__low_root(l, x);
    if (xl->at == ZG_AT_INLINE || elems_of(l, x) * 8 <= elems_of(l, (zg_val){v})) continue;
    if (root->cls == ZG_LOW_LOOP && !root->kept) {
      clone_cost u = c->cost[xl->root];
      if (xl->root != x.id || u.loads == 255 || !zg_same_shape(zg_type_of(l->g, x), &l->g->values.at[v].type))
        return (clone_cost){255, 255};
      r.loads = (uint8_t)ZG_MIN(254, r.loads + u.loads);
      r.work = (uint8_t)ZG_MIN(254, r.work + u.work);
    } else {
      r.loads++;
    }
  }
  return r;
}

static void add_clone(zg_low *l, uint32_t group, uint32_t v) {
  zg_group *q = &l->groups.at[group];
  const zg_node *n = zg_node_of(l->g, (zg_val){v});
  uint32_t node = l->g->values.at[v].node;
  for (size_t i = 0; i < q->clones.n; i++)
    if (q->clones.at[i] == node) return;
  for (uint32_t k = 0; k < n->n_in; k++) {
    zg_val x = zg_in(l->g, n, k);
    const zg_low_val *root = zg__low_root(l, x);
    if (l->val[x.id].at == ZG_AT_INLINE || root->cls != ZG_LOW_LOOP || root->kept || root->group == group) continue;
    if (elems_of(l, x) * 8 <= elems_of(l, (zg_val){v})) zg__low_root(l, x)->kept = true;
    else add_clone(l, group, l->val[x.id].root);
  }
  zg_vec_push(&q->clones, node);
}

// May reader compute root value v in its own group? It must read v itself, at the full shape of its space, and its group must
// not already give something that v's operands need (they precede v, so a path back cannot exist).
static bool can_clone_for(const zg_low *l, const cross_use *u, uint32_t v) {
  const zg_group *q = &l->groups.at[l->val[l->g->nodes.at[u->reader_node].out].group];
  const zg_type *t = &l->g->values.at[v].type;
  return u->value == v && q->nodes.n + q->clones.n + MAX_CLONE < MAX_MEMBERS + 8 && t->rank == q->rank &&
         same_dims(q->rank, t->dim, q->dim) &&
         (l->elem[u->reader_node] || is_reduce(&l->g->nodes.at[u->reader_node]));
}

static void decide_clone(cloning *c, uint32_t v) {
  zg_low *l = c->l;
  zg_low_val *x = &l->val[v];
  const zg_node *n = zg_node_of(l->g, (zg_val){v});
  uint32_t node = l->g->values.at[v].node;
  c->cost[v] = cheap(n) && l->elem[node] ? cost_of(c, v) : (clone_cost){255, 255};
  if (x->kept || !c->head[v]) return;
  clone_cost k = c->cost[v];
  bool ok = k.loads <= 2 && k.work <= MAX_CLONE;
  for (uint32_t i = c->head[v]; i && ok; i = c->next[i]) {
    const cross_use *u = &c->uses.at[i];
    bool far = l->phase[u->reader_node] != l->phase[node];
    ok = can_clone_for(l, u, v) && k.loads <= (far ? 1 : 2);
  }
  if (!ok) {
    x->kept = true;
    return;
  }
  for (uint32_t i = c->head[v]; i; i = c->next[i]) {
    uint32_t group = l->val[l->g->nodes.at[c->uses.at[i].reader_node].out].group;
    add_clone(l, group, v);
  }
}

static void add_cross_use(cloning *c, uint32_t root, uint32_t reader, uint32_t value) {
  zg_vec_push(&c->uses, (cross_use){reader, value});
  uint32_t i = (uint32_t)c->uses.n - 1;
  c->next[i] = c->head[root];
  c->head[root] = i;
}

static void clone_cheap_maps(zg_low *l) {
  const zg_graph *g = l->g;
  cloning c = {.l = l, .cost = ZG_NEW_N(&l->mem, clone_cost, g->values.n), .head = ZG_NEW_N(&l->mem, uint32_t, g->values.n),
               .next = ZG_NEW_N(&l->mem, uint32_t, g->operands.n + 2)};
  zg_vec_push(&c.uses, (cross_use){0});
  for (size_t i = 0; i < g->nodes.n; i++) {
    const zg_node *n = &g->nodes.at[i];
    if (!l->node_live[i] || l->val[n->out].cls == ZG_LOW_VIEW || l->val[n->out].cls == ZG_LOW_LEAF) continue;
    for (uint32_t k = 0; k < n->n_in; k++) {
      zg_val v = zg_in(g, n, k);
      if (!zg_is(v) || l->val[v.id].at != ZG_AT_STORED) continue;
      zg_low_val *root = zg__low_root(l, v);
      if (root->cls != ZG_LOW_LOOP) continue;
      if (l->val[n->out].cls != ZG_LOW_LOOP) root->kept = true;
      else if (root->group != l->val[n->out].group) add_cross_use(&c, l->val[v.id].root, (uint32_t)i, v.id);
    }
  }
  for (size_t i = 0; i < g->outputs.n; i++) {
    zg_low_val *x = &l->val[g->outputs.at[i].val.id];
    if (x->at == ZG_AT_STORED) l->val[x->root].kept = true;
  }
  for (uint32_t v = 1; v < g->values.n; v++)
    if (l->val[v].at == ZG_AT_STORED && l->val[v].cls == ZG_LOW_LOOP && l->val[v].root == v) decide_clone(&c, v);
  zg_vec_fini(&c.uses);
}

bool zg__low_in_register(const zg_low *l, uint32_t group, zg_val v) {
  const zg_low_val *root = zg__low_root(l, v);
  if (root->cls != ZG_LOW_LOOP) return false;
  if (root->group == group) return true;
  const zg_group *q = &l->groups.at[group];
  uint32_t node = l->g->values.at[l->val[v.id].root].node;
  for (size_t i = 0; i < q->clones.n; i++)
    if (q->clones.at[i] == node) return true;
  return false;
}

void zg__low_fuse(zg_low *l) {
  const zg_graph *g = l->g;
  l->mmap = zg_arena_alloc(&l->mem, sizeof *l->mmap * (g->nodes.n + 1));
  l->after_red = ZG_NEW_N(&l->mem, bool, g->nodes.n + 1);
  l->elem = ZG_NEW_N(&l->mem, bool, g->nodes.n + 1);
  zg_vec_push(&l->groups, (zg_group){.dead = true});
  cycle_check c = {.seen = ZG_NEW_N(&l->mem, uint32_t, g->nodes.n + 2)};
  for (size_t i = 0; i < g->nodes.n; i++) {
    const zg_node *n = &g->nodes.at[i];
    if (!l->node_live[i]) continue;
    const zg_low_val *x = &l->val[n->out];
    if (x->at == ZG_AT_INLINE || x->cls == ZG_LOW_LEAF || x->cls == ZG_LOW_VIEW) continue;
    if (x->cls == ZG_LOW_LOOP) group_loop_node(l, &c, (uint32_t)i);
    else new_group(l, (uint32_t)i, false);
  }
  clone_cheap_maps(l);
}
