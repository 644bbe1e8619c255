// Bends the order of execution to lower the peak of live bytes.
//   - a group that makes more than it ends sinks to just before its first reader; one that ends more than it makes rises to
//     just after what it needs. So an optimizer's update comes right after its gradient is complete and the gradient dies
//     there; tables and masks are made where they are used
//   - a move is judged by the change of bytes x steps, or of the bytes at the present peak alone; both are tried
//   - the peak of each resulting order is measured; the best is kept, and is the start of the next round
// Moves keep the order topological by construction: a sunk group takes the place of its earliest successor, a risen one that
// of its latest predecessor, and ties stay in the old order.
// Why not list scheduling by the change of live bytes at each step: it sees no further than one step, so it runs every cheap
// reader of a large tensor first and leaves the backward's long chains open (tried on the zoo: 0-40 % above the graph's order).
// Minimising the peak exactly is NP-hard (Sethi 1975, "Complete register allocation problems").
// Cost: O(edges) a round, at most 3 climbs of MAX_ROUNDS x 6 rounds; deterministic, so that all ranks find the same order.
#include <stdlib.h>

#include "sched/order_priv.h"

enum { MAX_ROUNDS = 5 };

// A store's touches in the present order: by its first and its last group, and without those (for a group that moves).
typedef struct { uint64_t bytes; uint32_t first, first2, last, last2; bool to_end; } life;
typedef struct { uint32_t *start, *store; } touches;   // rows by group

typedef struct {
  zg_low *l;
  const zg_low_dag *dag;
  touches t;
  life *lives;               // per store
  uint32_t *key, *pos;       // per group
  int64_t *delta;            // per position, scratch
  uint32_t n, peak_at;
} mover;

// ---- what groups touch --------------------------------------------------------------------------------------------

typedef struct { mover *m; uint32_t *mark, group; bool count; uint32_t *fill; } collector;

static void add_touch(collector *c, uint32_t store) {
  if (!store || c->m->l->stores.at[store].leaf || c->mark[store] == c->group) return;
  c->mark[store] = c->group;
  if (c->count) c->m->t.start[c->group + 1]++;
  else c->m->t.store[c->fill[c->group]++] = store;
}

static bool update_in_place(const zg_low *l, const bool *placed, uint32_t v) { return l->update_done && placed[v]; }

static void touch_node(collector *c, const bool *placed, uint32_t node, bool own) {
  const zg_low *l = c->m->l;
  const zg_node *n = &l->g->nodes.at[node];
  for (uint32_t k = 0; k < n->n_in; k++) {
    zg_val v = zg_in(l->g, n, k);
    if (zg_is(v) && l->val[v.id].at == ZG_AT_STORED && !zg__low_in_register(l, c->group, v)) add_touch(c, l->val[v.id].view.buf);
  }
  for (uint32_t k = 0; own && k < n->n_out; k++) {
    uint32_t v = n->out + k;
    if (l->live[v] && l->val[v].at == ZG_AT_STORED && l->val[v].kept && !update_in_place(l, placed, v)) add_touch(c, l->val[v].view.buf);
  }
}

static void collect(mover *m) {
  zg_low *l = m->l;
  bool *placed = ZG_NEW_N(&l->mem, bool, l->g->values.n);
  for (size_t i = 0; i < l->g->outputs.n; i++)
    if (l->update_done[i]) placed[l->g->outputs.at[i].val.id] = true;
  m->t.start = ZG_NEW_N(&l->mem, uint32_t, l->groups.n + 2);
  collector c = {.m = m};
  for (int pass = 0; pass < 2; pass++) {
    c.count = pass == 0;
    c.mark = ZG_NEW_N(&l->mem, uint32_t, l->stores.n);
    for (uint32_t q = 1; q < l->groups.n; q++) {
      const zg_group *p = &l->groups.at[q];
      c.group = q;
      for (size_t i = 0; !p->dead && i < p->nodes.n; i++) touch_node(&c, placed, p->nodes.at[i], true);
      for (size_t i = 0; !p->dead && i < p->clones.n; i++) touch_node(&c, placed, p->clones.at[i], false);
    }
    if (pass) break;
    for (size_t q = 0; q < l->groups.n; q++) m->t.start[q + 1] += m->t.start[q];
    m->t.store = ZG_NEW_N(&l->mem, uint32_t, m->t.start[l->groups.n] + 1);
    c.fill = zg_arena_copy(&l->mem, m->t.start, sizeof(uint32_t) * (l->groups.n + 1));
  }
}

// ---- measuring ----------------------------------------------------------------------------------------------------

static void find_lives(mover *m, const uint32_t *order) {
  zg_low *l = m->l;
  for (uint32_t s = 0; s < l->stores.n; s++) {
    life *x = &m->lives[s];
    *x = (life){.bytes = zg_round_up(zg_type_bytes(&l->stores.at[s].type), ZG_BUF_ALIGN), .first = UINT32_MAX, .first2 = UINT32_MAX, .to_end = x->to_end};
  }
  for (uint32_t i = 0; i < m->n; i++) {
    m->pos[order[i]] = i + 1;   // positions count from 1; 0: none
    for (uint32_t k = m->t.start[order[i]]; k < m->t.start[order[i] + 1]; k++) {
      life *x = &m->lives[m->t.store[k]];
      if (x->first == UINT32_MAX) x->first = i + 1;
      else if (x->first2 == UINT32_MAX) x->first2 = i + 1;
      x->last2 = x->last;
      x->last = i + 1;
    }
  }
  for (uint32_t s = 0; s < l->stores.n; s++)
    if (m->lives[s].to_end && m->lives[s].last) m->lives[s].last2 = m->lives[s].last = m->n + 1;
}

// A loop's result takes the place of an operand of the same size that ends there: what is then not added at position i.
static uint64_t reused_bytes(const mover *m, uint32_t group, uint32_t i) {
  if (!m->l->groups.at[group].loop) return 0;
  uint64_t reused = 0;
  uint32_t used[8], n_used = 0;
  for (uint32_t k = m->t.start[group]; k < m->t.start[group + 1]; k++) {
    const life *x = &m->lives[m->t.store[k]];
    if (x->first != i) continue;
    for (uint32_t j = m->t.start[group]; j < m->t.start[group + 1]; j++) {
      const life *y = &m->lives[m->t.store[j]];
      bool free = y->last == i && y->first < i && y->bytes == x->bytes;
      for (uint32_t u = 0; u < n_used; u++) free = free && used[u] != j;
      if (!free || n_used == ZG_COUNT(used)) continue;
      used[n_used++] = j;
      reused += x->bytes;
      break;
    }
  }
  return reused;
}

typedef struct { uint64_t peak; double area; } cost;

static cost measure(mover *m, const uint32_t *order) {
  find_lives(m, order);
  memset(m->delta, 0, sizeof *m->delta * (m->n + 3));
  cost c = {0};
  for (uint32_t s = 1; s < m->l->stores.n; s++) {
    const life *x = &m->lives[s];
    if (!x->last) continue;
    m->delta[x->first] += (int64_t)x->bytes;
    m->delta[x->last + 1] -= (int64_t)x->bytes;
    c.area += (double)x->bytes * (x->last - x->first + 1);
  }
  int64_t live = 0;
  for (uint32_t i = 1; i <= m->n + 1; i++) {
    live += m->delta[i];
    uint64_t now = (uint64_t)live - (i <= m->n ? reused_bytes(m, order[i - 1], i) : 0);
    if (now > c.peak) c.peak = now, m->peak_at = i;
  }
  return c;
}

// ---- moving -------------------------------------------------------------------------------------------------------

// Change of (bytes x steps, or bytes at the peak) when group g goes from its position to q.
static double gain_of(const mover *m, uint32_t g, uint32_t q, bool at_peak) {
  uint32_t p = m->pos[g];
  double change = 0;
  for (uint32_t k = m->t.start[g]; k < m->t.start[g + 1]; k++) {
    const life *x = &m->lives[m->t.store[k]];
    uint32_t others_first = x->first == p ? x->first2 : x->first, others_last = x->last == p ? x->last2 : x->last;
    uint32_t first = ZG_MIN(others_first, q), last = ZG_MAX(others_last, q);
    if (at_peak) {
      bool now = x->first <= m->peak_at && m->peak_at <= x->last, then = first <= m->peak_at && m->peak_at <= last;
      change += (double)x->bytes * ((int)now - (int)then);
    } else {
      change += (double)x->bytes * ((double)(x->last - x->first) - (double)(last - first));
    }
  }
  return change;
}

static void sink(mover *m, const uint32_t *order, bool at_peak) {
  for (uint32_t i = m->n; i-- > 0;) {
    uint32_t g = order[i], q = UINT32_MAX;
    for (uint32_t k = m->dag->next_start[g]; k < m->dag->next_start[g + 1]; k++) q = ZG_MIN(q, m->key[m->dag->next[k]]);
    if (q != UINT32_MAX && q > m->pos[g] && gain_of(m, g, q, at_peak) > 0) m->key[g] = q;
  }
}

// Scalars of the optimizer cost nothing, and hold up all that read them.
static bool makes_little(const mover *m, uint32_t g) {
  for (uint32_t k = m->t.start[g]; k < m->t.start[g + 1]; k++)
    if (m->lives[m->t.store[k]].first == m->pos[g] && m->lives[m->t.store[k]].bytes > 4096) return false;
  return true;
}

static void rise_from(mover *m, const uint32_t *order, bool at_peak, uint8_t phase) {
  for (uint32_t i = 0; i < m->n; i++) {
    uint32_t g = order[i], q = 0;
    if (m->l->groups.at[g].phase < phase) continue;
    for (uint32_t k = m->dag->prev_start[g]; k < m->dag->prev_start[g + 1]; k++) q = ZG_MAX(q, m->key[m->dag->prev[k]]);
    if (q < m->pos[g] && (gain_of(m, g, q, at_peak) > 0 || (phase == ZG_PHASE_UPDATE && makes_little(m, g)))) m->key[g] = q;
  }
}

static void rise(mover *m, const uint32_t *order, bool at_peak) { rise_from(m, order, at_peak, ZG_PHASE_LOAD); }
static void rise_updates(mover *m, const uint32_t *order, bool at_peak) { rise_from(m, order, at_peak, ZG_PHASE_UPDATE); }

static int by_key(const void *a, const void *b, void *context) {
  const mover *m = context;
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  if (m->key[x] != m->key[y]) return m->key[x] < m->key[y] ? -1 : 1;
  return m->pos[x] < m->pos[y] ? -1 : m->pos[x] > m->pos[y];
}

typedef void move(mover *m, const uint32_t *order, bool at_peak);

static void apply(mover *m, const uint32_t *from, uint32_t *to, move *f, bool at_peak) {
  for (uint32_t i = 0; i < m->n; i++) m->key[from[i]] = m->pos[from[i]];
  f(m, from, at_peak);
  memcpy(to, from, sizeof *to * m->n);
  qsort_r(to, m->n, sizeof *to, by_key, m);
}

static bool better(cost a, cost b) { return a.peak != b.peak ? a.peak < b.peak : a.area < b.area; }

// Climbs from `order` to a better one in place, trying the moves in turn from `first_move` on. Returns its cost.
static cost climb(mover *m, uint32_t *order, uint32_t *trial, uint32_t first_move) {
  static move *const moves[] = {rise_updates, rise, sink};
  const uint32_t n_moves = ZG_COUNT(moves);
  cost low = measure(m, order);
  for (int round = 0; round < MAX_ROUNDS; round++) {
    bool found = false;
    for (uint32_t k = 0; k < 2 * n_moves; k++) {
      measure(m, order);
      apply(m, order, trial, moves[(first_move + k) % n_moves], k >= n_moves);
      cost c = measure(m, trial);
      if (!better(c, low)) continue;
      memcpy(order, trial, sizeof *order * m->n);
      low = c;
      found = true;
    }
    if (!found) break;
  }
  return low;
}

void zg__low_order_memory(zg_low *l, const zg_low_dag *dag) {
  mover m = {.l = l, .dag = dag, .n = (uint32_t)l->order.n};
  if (m.n < 2) return;
  m.lives = ZG_NEW_N(&l->mem, life, l->stores.n);
  m.key = ZG_NEW_N(&l->mem, uint32_t, l->groups.n);
  m.pos = ZG_NEW_N(&l->mem, uint32_t, l->groups.n);
  m.delta = ZG_NEW_N(&l->mem, int64_t, m.n + 3);
  for (size_t i = 0; i < l->g->outputs.n; i++) {
    const zg_low_val *x = &l->val[l->g->outputs.at[i].val.id];
    if (x->at == ZG_AT_STORED && !l->update_done[i]) m.lives[x->view.buf].to_end = true;
  }
  collect(&m);
  uint32_t *from = zg_arena_copy(&l->mem, l->order.at, sizeof *from * m.n), *order = ZG_NEW_N(&l->mem, uint32_t, m.n);
  uint32_t *trial = ZG_NEW_N(&l->mem, uint32_t, m.n);
  cost start = measure(&m, from), best = start;
  for (uint32_t first = 0; first < 3; first++) {   // the first move taken decides which valley the climb ends in
    memcpy(order, from, sizeof *order * m.n);
    cost c = climb(&m, order, trial, first);
    if (!better(c, best)) continue;
    best = c;
    memcpy(l->order.at, order, sizeof *order * m.n);
  }
  zg_log(2, "order of \"%s\": peak of live bytes %.2f MiB, in the graph's order %.2f MiB", l->segment, (double)best.peak / 0x1p20,
         (double)start.peak / 0x1p20);
}
