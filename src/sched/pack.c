// Packing: where in the arena each buffer lives.
//   - greedy: items in some order, each at the lowest free place. Several orders are tried (bytes, life, bytes x life)
//   - repair: while the height is above the bound, an item that reaches the top, or one alive with it, goes to another place in
//     the order and all is packed again; kept if not higher. A fixed amount of work, so that the result depends on nothing but the input
//     Where that ends more than 1 % above, the same from the order by bytes, after all moves among its first places
//   - beyond CORE items: the CORE of largest bytes x life is packed like that; of the others, the long-lived (small) ones are
//     stacked on it by a segment tree over time, the short-lived go into the gaps, window of time by window of time
// Why not first-fit in time order, as a run-time allocator does: it fragments (measured 5-20 % above the bound on exported
// models). The problem is NP-hard (Garey & Johnson SR2); greedy by size is within a few % of the bound in practice
// (Pisarchyk & Lee 2020, "Efficient Memory Management for Deep Neural Net Inference", section 4), repair takes off most of
// the rest (compare Moffitt 2024, "MiniMalloc", section 3, which searches exactly but without a bound on time).
#include "sched/pack.h"

#include <stdlib.h>

enum { CORE = 2048, MAX_TRIES = 400000, WORK = 120 * 1000 * 1000, PER_WINDOW = 64, LARGEST = 12 };

uint64_t zg_pack_bound(const zg_pack_item *items, uint32_t n) {
  uint32_t end = 0;
  for (uint32_t i = 0; i < n; i++) end = ZG_MAX(end, items[i].last);
  int64_t *delta = zg_alloc(sizeof *delta * ((size_t)end + 2));
  for (uint32_t i = 0; i < n; i++) {
    delta[items[i].first] += (int64_t)items[i].bytes;
    delta[items[i].last + 1] -= (int64_t)items[i].bytes;
  }
  int64_t live = 0, most = 0;
  for (uint32_t t = 0; t <= end; t++) {
    live += delta[t];
    most = ZG_MAX(most, live);
  }
  zg_free(delta);
  return (uint64_t)most;
}

// ---- greedy -------------------------------------------------------------------------------------------------------

// Items placed so far, by offset.
typedef struct { uint64_t at, end; uint32_t first, last; } placed;
typedef struct { size_t n, cap; placed *at; } placed_list;

static int by_offset(const void *a, const void *b) {
  const placed *x = a, *y = b;
  return x->at != y->at ? (x->at < y->at ? -1 : 1) : (int)(x->first > y->first) - (int)(x->first < y->first);
}

static uint64_t lowest_gap(const placed_list *l, const zg_pack_item *x, uint64_t from, uint64_t *work) {
  uint64_t at = from;
  size_t i = 0;
  for (; i < l->n; i++) {
    const placed *p = &l->at[i];
    if (p->at >= at + x->bytes) break;
    if (p->end > at && p->first <= x->last && x->first <= p->last) at = p->end;
  }
  *work += i + 1;
  return at;
}

static void insert(placed_list *l, const zg_pack_item *x) {
  size_t lo = 0, hi = l->n;
  while (lo < hi) {
    size_t mid = (lo + hi) / 2;
    if (l->at[mid].at < x->offset) lo = mid + 1;
    else hi = mid;
  }
  zg_vec_push(l, (placed){0});
  memmove(&l->at[lo + 1], &l->at[lo], (l->n - 1 - lo) * sizeof *l->at);
  l->at[lo] = (placed){x->offset, x->offset + x->bytes, x->first, x->last};
}

static uint64_t greedy(zg_pack_item *items, const uint32_t *order, uint32_t n, uint64_t stop_at, placed_list *l, uint64_t *work) {
  uint64_t top = 0;
  l->n = 0;
  for (uint32_t i = 0; i < n; i++) {
    zg_pack_item *x = &items[order[i]];
    x->offset = lowest_gap(l, x, 0, work);
    top = ZG_MAX(top, x->offset + x->bytes);
    if (top > stop_at) return top;
    insert(l, x);
  }
  return top;
}

typedef enum { BY_BYTES, BY_LIFE, BY_AREA, N_SORTS } sort_key;
typedef struct { const zg_pack_item *items; sort_key key; } sort_by;

static uint64_t key_of(const zg_pack_item *x, sort_key k) {
  uint64_t life = (uint64_t)x->last - x->first + 1;
  return k == BY_BYTES ? x->bytes : k == BY_LIFE ? life : x->bytes * life;
}

static int compare(const void *a, const void *b, void *context) {
  const sort_by *by = context;
  uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
  const zg_pack_item *x = &by->items[i], *y = &by->items[j];
  uint64_t kx = key_of(x, by->key), ky = key_of(y, by->key);
  if (kx != ky) return kx > ky ? -1 : 1;
  if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
  if (x->first != y->first) return x->first < y->first ? -1 : 1;
  return (i > j) - (i < j);
}

// ---- repair -------------------------------------------------------------------------------------------------------

typedef struct {
  zg_pack_item *items;
  uint32_t n, *order, *best_order;
  uint64_t best, bound, work, *best_offset;
  placed_list list;
} search;

static void keep(search *s, uint64_t top) {
  s->best = top;
  memcpy(s->best_order, s->order, sizeof *s->order * s->n);
  for (uint32_t i = 0; i < s->n; i++) s->best_offset[i] = s->items[i].offset;
}

// The place in the best order of an item that reaches the top; of several, chosen by the try's number.
static uint32_t offender(const search *s, uint64_t draw) {
  uint32_t found[16], n = 0;
  for (uint32_t i = 0; i < s->n && n < ZG_COUNT(found); i++) {
    uint32_t x = s->best_order[i];
    if (s->best_offset[x] + s->items[x].bytes == s->best) found[n++] = i;
  }
  return found[draw % n];
}

// An item alive together with the one at place i.
static uint32_t neighbour(const search *s, uint32_t i, uint32_t draw) {
  const zg_pack_item *x = &s->items[s->best_order[i]];
  for (uint32_t k = 0; k < s->n; k++) {
    uint32_t j = (draw + k) % s->n;
    const zg_pack_item *y = &s->items[s->best_order[j]];
    if (j != i && y->first <= x->last && x->first <= y->last) return j;
  }
  return i;
}

// Moves the item at place `from` of the best order to place `to` and packs; kept if not higher.
static void try_move(search *s, uint32_t from, uint32_t to) {
  memcpy(s->order, s->best_order, sizeof *s->order * s->n);
  uint32_t x = s->order[from];
  if (to < from) memmove(&s->order[to + 1], &s->order[to], (from - to) * sizeof *s->order);
  else memmove(&s->order[from], &s->order[from + 1], (to - from) * sizeof *s->order);
  s->order[to] = x;
  uint64_t top = greedy(s->items, s->order, s->n, s->best, &s->list, &s->work);
  if (top <= s->best) keep(s, top);
}

static uint64_t worth_more(const search *s) { return s->bound + s->bound / 100; }

// A few large items that follow each other decide about the rest, and chance would hardly move just them: all moves among the first.
static void repair_largest(search *s) {
  const uint32_t first = ZG_MIN(s->n, (uint32_t)LARGEST);
  const uint64_t worth = worth_more(s), limit = s->work + WORK / 2;
  for (uint32_t from = 0; from < first; from++)
    for (uint32_t to = 0; to < first && s->work < limit && s->best > worth; to++)
      if (from != to) try_move(s, from, to);
}

static void repair(search *s, uint64_t work) {
  const uint64_t limit = s->work + work;
  uint64_t draw = 88172645463325252u;
  for (int i = 0; i < MAX_TRIES && s->work < limit && s->best > s->bound; i++) {
    draw ^= draw << 13, draw ^= draw >> 7, draw ^= draw << 17;
    uint32_t from = offender(s, draw >> 40), to;
    if (draw >> 39 & 1) from = neighbour(s, from, (uint32_t)(draw >> 20));
    to = (uint32_t)((draw & 0xfffff) % s->n);
    try_move(s, from, to);
  }
}

static search search_new(zg_pack_item *items, uint32_t n, uint64_t bound, zg_arena *mem) {
  search s = {.items = items, .n = n, .best = UINT64_MAX, .bound = bound};
  s.order = ZG_NEW_N(mem, uint32_t, n + 1);
  s.best_order = ZG_NEW_N(mem, uint32_t, n + 1);
  s.best_offset = ZG_NEW_N(mem, uint64_t, n + 1);
  for (uint32_t i = 0; i < n; i++) s.order[i] = i;
  return s;
}

static void try_sorted(search *s, sort_key k) {
  sort_by by = {s->items, k};
  qsort_r(s->order, s->n, sizeof *s->order, compare, &by);
  uint64_t top = greedy(s->items, s->order, s->n, s->best, &s->list, &s->work);
  if (top < s->best) keep(s, top);
}

static uint64_t pack_core(zg_pack_item *items, uint32_t n, const uint32_t *ids, uint64_t bound, zg_arena *mem) {
  zg_pack_item *copy = ZG_NEW_N(mem, zg_pack_item, n + 1);
  for (uint32_t i = 0; i < n; i++) copy[i] = items[ids[i]];
  search s = search_new(copy, n, bound, mem);
  for (sort_key k = BY_BYTES; k < N_SORTS && s.best > s.bound; k++) try_sorted(&s, k);
  if (n > 1) repair(&s, WORK);
  if (n > 1 && s.best > worth_more(&s)) {
    search again = search_new(copy, n, bound, mem);
    try_sorted(&again, BY_BYTES);
    repair_largest(&again);
    repair(&again, WORK / 2);
    zg_vec_fini(again.best < s.best ? &s.list : &again.list);
    if (again.best < s.best) s = again;
  }
  for (uint32_t i = 0; i < n; i++) items[ids[i]].offset = s.best_offset[i];
  zg_vec_fini(&s.list);
  return s.best;
}

// ---- skyline: the top of what is placed, over time ----------------------------------------------------------------

// A segment tree: top[k] is a height that all of node k's span has at least by itself, most[k] the largest height below it.
typedef struct { uint32_t n; uint64_t *top, *most; } skyline;

static uint64_t highest(const skyline *s, uint32_t k, uint32_t lo, uint32_t hi, uint32_t a, uint32_t b) {
  if (b < lo || hi < a) return 0;
  if (a <= lo && hi <= b) return s->most[k];
  uint32_t mid = lo + (hi - lo) / 2;
  uint64_t x = highest(s, 2 * k, lo, mid, a, b), y = highest(s, 2 * k + 1, mid + 1, hi, a, b);
  return ZG_MAX(s->top[k], ZG_MAX(x, y));
}

static void raise_to(skyline *s, uint32_t k, uint32_t lo, uint32_t hi, uint32_t a, uint32_t b, uint64_t h) {
  if (b < lo || hi < a) return;
  s->most[k] = ZG_MAX(s->most[k], h);
  if (a <= lo && hi <= b) {
    s->top[k] = ZG_MAX(s->top[k], h);
    return;
  }
  uint32_t mid = lo + (hi - lo) / 2;
  raise_to(s, 2 * k, lo, mid, a, b, h);
  raise_to(s, 2 * k + 1, mid + 1, hi, a, b, h);
}

// ---- the others ---------------------------------------------------------------------------------------------------

typedef struct {
  zg_pack_item *items;
  const uint32_t *order;     // by bytes x life, the core first
  uint32_t n, n_core, end, window;
  zg_arena *mem;
  uint64_t work;
} rest;

static uint64_t stack_long(rest *r) {
  skyline s = {r->end + 1, ZG_NEW_N(r->mem, uint64_t, 4 * ((size_t)r->end + 1)), ZG_NEW_N(r->mem, uint64_t, 4 * ((size_t)r->end + 1))};
  uint64_t top = 0;
  for (uint32_t i = 0; i < r->n; i++) {
    zg_pack_item *x = &r->items[r->order[i]];
    if (i >= r->n_core) {
      if (x->last - x->first < r->window) continue;
      x->offset = highest(&s, 1, 0, r->end, x->first, x->last);
    }
    raise_to(&s, 1, 0, r->end, x->first, x->last, x->offset + x->bytes);
    top = ZG_MAX(top, x->offset + x->bytes);
  }
  return top;
}

// Short-lived items begin in one window and end in it or the next. Those of window w meet: the long-lived of both, the
// short-lived of w and those of w - 1 that reach into w; items of w + 1 come later.
static uint64_t fill_gaps(rest *r) {
  uint32_t n_windows = r->end / r->window + 1;
  uint32_t *head = ZG_NEW_N(r->mem, uint32_t, n_windows), *next = ZG_NEW_N(r->mem, uint32_t, r->n + 1);
  for (uint32_t i = r->n; i-- > r->n_core;) {   // the largest ends up first
    const zg_pack_item *x = &r->items[r->order[i]];
    if (x->last - x->first >= r->window) continue;
    next[i + 1] = head[x->first / r->window];
    head[x->first / r->window] = i + 1;
  }
  uint64_t top = 0;
  placed_list all = {0}, long_lived = {0}, near = {0};
  for (uint32_t i = 0; i < r->n; i++) {
    const zg_pack_item *x = &r->items[r->order[i]];
    if (i < r->n_core || x->last - x->first >= r->window) zg_vec_push(&long_lived, ((placed){x->offset, x->offset + x->bytes, x->first, x->last}));
  }
  qsort(long_lived.at, long_lived.n, sizeof *long_lived.at, by_offset);
  for (uint32_t w = 0; w < n_windows; w++) {
    uint32_t first = w * r->window, last = first + 2 * r->window;
    all.n = 0;
    for (size_t i = 0; i < long_lived.n; i++)
      if (long_lived.at[i].first <= last && long_lived.at[i].last >= first) zg_vec_push(&all, long_lived.at[i]);
    for (size_t i = 0; i < near.n; i++) {
      zg_pack_item x = {near.at[i].end - near.at[i].at, near.at[i].first, near.at[i].last, near.at[i].at};
      if (x.last >= first) insert(&all, &x);
    }
    near.n = 0;
    for (uint32_t i = head[w]; i; i = next[i]) {
      zg_pack_item *x = &r->items[r->order[i - 1]];
      x->offset = lowest_gap(&all, x, 0, &r->work);
      insert(&all, x);
      zg_vec_push(&near, ((placed){x->offset, x->offset + x->bytes, x->first, x->last}));
      top = ZG_MAX(top, x->offset + x->bytes);
    }
  }
  zg_vec_fini(&all);
  zg_vec_fini(&long_lived);
  zg_vec_fini(&near);
  return top;
}

uint64_t zg_pack(zg_pack_item *items, uint32_t n) {
  if (!n) return 0;
  zg_arena mem = {0};
  uint32_t *order = ZG_NEW_N(&mem, uint32_t, n), n_core = ZG_MIN(n, CORE);
  rest r = {.items = items, .order = order, .n = n, .n_core = n_core, .mem = &mem};
  for (uint32_t i = 0; i < n; i++) {
    order[i] = i;
    r.end = ZG_MAX(r.end, items[i].last);
  }
  sort_by by = {items, BY_AREA};
  qsort_r(order, n, sizeof *order, compare, &by);
  uint64_t top = pack_core(items, n_core, order, zg_pack_bound(items, n), &mem);
  if (n > n_core) {
    r.window = ZG_MAX(1, (uint32_t)((uint64_t)(r.end + 1) * PER_WINDOW / n));
    uint64_t a = stack_long(&r), b = fill_gaps(&r);
    top = ZG_MAX(top, ZG_MAX(a, b));
  }
  zg_arena_fini(&mem);
  return top;
}
