// plan_memory: assigns every buffer its place before anything runs.
//   - persistent buffers stand first, one after the other; each segment's others are packed above them, so that segments share
//     that region (they never run at once)
//   - a loop's result takes the place of an operand that dies there, where the loop allows it (zg_loop_may_alias)
//   - packing: largest first at the lowest free offset, in several orders; the best is kept. Why not first-fit in time order, as
//     a run-time allocator does: it fragments (measured 5-20 % above the bound on exported models). Offline packing is
//     NP-hard (dynamic storage allocation, Garey & Johnson SR2); greedy by size is within 1 % of the bound in practice
//     (Pisarchyk & Lee 2020, "Efficient Memory Management for Deep Neural Net Inference", section 4)
//   - lower bound: the largest sum of bytes alive at one step
// Cost: quadratic in the buffers of a segment in the worst case.
#include <stdlib.h>

#include "sched/loop.h"
#include "sched/sched.h"

// ---- lifetimes ----------------------------------------------------------------------------------------------------

static void touch(zg_live_range *r, uint32_t buf, uint32_t at) {
  if (!buf) return;
  if (r[buf].first == UINT32_MAX) r[buf].first = at;
  if (r[buf].first > at) r[buf].first = at;
  if (r[buf].last < at) r[buf].last = at;
}

zg_live_range *zg_find_live_ranges(const zg_sched *s, zg_arena *a) {
  zg_live_range *r = ZG_NEW_N(a, zg_live_range, s->bufs.n);
  for (size_t b = 0; b < s->bufs.n; b++) r[b] = (zg_live_range){UINT32_MAX, 0};
  for (uint32_t i = 0; i < s->steps.n; i++) {
    const zg_step *st = &s->steps.at[i];
    if (st->kind == ZG_STEP_KERNEL) {
      const zg_kernel *k = &s->kernels.at[st->kernel];
      for (uint32_t j = 0; j < k->n_args; j++) touch(r, k->args[j].buf, i);
      touch(r, k->workspace, i);
    } else if (st->kind != ZG_STEP_RELEASE && st->kind != ZG_STEP_RECORD && st->kind != ZG_STEP_WAIT) {
      touch(r, st->a, i);
      touch(r, st->b, i);
    }
  }
  for (size_t i = 0; i < s->outputs.n; i++) {   // results are read when their segment has ended: one past its last step
    const zg_segment *seg = zg_sched_find_segment(s, s->outputs.at[i].segment);
    if (seg) touch(r, s->outputs.at[i].view.buf, seg->first + seg->n);
  }
  for (size_t b = 0; b < s->bufs.n; b++)
    if (s->bufs.at[b].persistent) r[b] = (zg_live_range){0, (uint32_t)s->steps.n};
  return r;
}

// ---- in place -----------------------------------------------------------------------------------------------------

static bool same_window(const zg_view *a, const zg_view *b) {
  if (a->rank != b->rank || a->offset != b->offset || zg_dtype_bytes(a->dtype) != zg_dtype_bytes(b->dtype)) return false;
  for (uint32_t d = 0; d < a->rank; d++)
    if (a->stride[d] != b->stride[d]) return false;
  return true;
}

bool zg_loop_may_alias(const zg_kernel *k, uint32_t out, uint32_t in) {
  const zg_loop_desc *d = k->desc;
  if (!same_window(&k->args[out], &k->args[in])) return false;
  for (uint32_t i = 0; i < k->n_args; i++)
    if (i != in && i != out && (k->args[i].buf == k->args[in].buf || k->args[i].buf == k->args[out].buf)) return false;
  uint32_t phase[1024];
  if (d->n_inst > ZG_COUNT(phase)) return false;
  uint32_t n_phases = zg_loop_phases(d, phase);
  for (uint32_t i = 0; i < d->n_inst; i++) {
    const zg_inst *x = &d->inst[i];
    if (x->kind != ZG_I_STORE) continue;
    if (d->inst[x->a].kind == ZG_I_LOAD && d->inst[x->a].a == in) return false;   // another store would read it too late
    if (x->b == out && d->n_mid == 0 && phase[i] + 1 != n_phases) return false;
  }
  return true;
}

// ---- packing ------------------------------------------------------------------------------------------------------

typedef struct { uint64_t bytes, offset; uint32_t first, last, same_as; } slot;   // same_as: slot it shares a place with, or 0
typedef struct { zg_sched *s; slot *slots; uint32_t *order, n; } packer;

static uint32_t find(slot *s, uint32_t b) {
  while (s[b].same_as) b = s[b].same_as;
  return b;
}

static void share_places(zg_sched *s, slot *slots) {
  for (uint32_t i = 0; i < s->steps.n; i++) {
    if (s->steps.at[i].kind != ZG_STEP_KERNEL) continue;
    const zg_kernel *k = &s->kernels.at[s->steps.at[i].kernel];
    if (k->kind != ZG_K_LOOP) continue;
    for (uint32_t o = 0; o < k->n_out; o++) {
      uint32_t b = k->args[o].buf;
      if (s->bufs.at[b].persistent || slots[b].first != i || slots[b].same_as) continue;
      for (uint32_t a = k->n_out; a < k->n_args; a++) {
        uint32_t x = k->args[a].buf, root = find(slots, x);
        if (s->bufs.at[x].persistent || x == b || root == b || slots[root].last != i || slots[root].bytes != slots[b].bytes) continue;
        if (!zg_loop_may_alias(k, o, a)) continue;
        slots[b].same_as = root;
        slots[root].last = slots[b].last;
        break;
      }
    }
  }
}

typedef struct { uint64_t at, end; } gap_span;
static int by_offset(const void *a, const void *b) {
  const gap_span *x = a, *y = b;
  return x->at < y->at ? -1 : x->at > y->at;
}

static uint64_t pack(packer *p, uint64_t base, uint64_t stop_at) {
  gap_span *busy = zg_alloc(sizeof *busy * (p->n + 1));
  uint64_t top = base;
  for (uint32_t i = 0; i < p->n && top < stop_at; i++) {
    slot *x = &p->slots[p->order[i]];
    uint32_t n_busy = 0;
    for (uint32_t j = 0; j < i; j++) {
      const slot *y = &p->slots[p->order[j]];
      if (y->first <= x->last && x->first <= y->last) busy[n_busy++] = (gap_span){y->offset, y->offset + y->bytes};
    }
    qsort(busy, n_busy, sizeof *busy, by_offset);
    uint64_t at = base;
    for (uint32_t j = 0; j < n_busy && busy[j].at < at + x->bytes; j++)
      if (busy[j].end > at) at = busy[j].end;
    x->offset = at;
    top = ZG_MAX(top, at + x->bytes);
  }
  zg_free(busy);
  return top;
}

typedef enum { BY_BYTES, BY_LIFE, BY_AREA, N_SORTS } sort_key;
typedef struct { const slot *slots; sort_key key; } sort_by;

static uint64_t key_of(const slot *x, sort_key k) {
  uint64_t life = x->last - x->first + 1;
  return k == BY_BYTES ? x->bytes : k == BY_LIFE ? life : x->bytes * life;
}

static int compare(const void *a, const void *b, void *context) {
  const sort_by *by = context;
  const slot *x = &by->slots[*(const uint32_t *)a], *y = &by->slots[*(const uint32_t *)b];
  uint64_t kx = key_of(x, by->key), ky = key_of(y, by->key);
  if (kx != ky) return kx > ky ? -1 : 1;
  if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
  return x->first < y->first ? -1 : x->first > y->first ? 1 : (x > y) - (x < y);
}

static uint64_t lower_bound(const packer *p, size_t n_steps) {
  int64_t *delta = zg_alloc(sizeof *delta * (n_steps + 2));
  for (uint32_t i = 0; i < p->n; i++) {
    const slot *x = &p->slots[p->order[i]];
    delta[x->first] += (int64_t)x->bytes;
    delta[x->last + 1] -= (int64_t)x->bytes;
  }
  int64_t live = 0, most = 0;
  for (size_t i = 0; i <= n_steps; i++) {
    live += delta[i];
    most = ZG_MAX(most, live);
  }
  zg_free(delta);
  return (uint64_t)most;
}

// Packs in several orders and writes the offsets of the best to the buffers.
static uint64_t best_packing(packer *p, uint64_t base, uint64_t bound) {
  uint64_t best = UINT64_MAX;
  for (sort_key k = BY_BYTES; k < N_SORTS && best > base + bound; k++) {
    sort_by by = {p->slots, k};
    qsort_r(p->order, p->n, sizeof *p->order, compare, &by);
    uint64_t top = pack(p, base, best);
    if (top >= best) continue;
    best = top;
    for (uint32_t i = 0; i < p->n; i++) p->s->bufs.at[p->order[i]].offset = p->slots[p->order[i]].offset;
  }
  return p->n ? best : base;
}

static void plan_space(zg_sched *s, uint8_t space, slot *slots, zg_arena *mem) {
  uint64_t base = 0;
  packer p = {.s = s, .slots = slots, .order = ZG_NEW_N(mem, uint32_t, s->bufs.n)};
  for (uint32_t b = 1; b < s->bufs.n; b++) {
    zg_buf *x = &s->bufs.at[b];
    if (x->space != space) continue;
    if (x->persistent) {
      x->offset = base;
      base += slots[b].bytes;
    } else if (slots[b].first != UINT32_MAX && !slots[b].same_as) {
      p.order[p.n++] = b;
    }
  }
  uint64_t bound = lower_bound(&p, s->steps.n);
  s->lower_bound[space] = base + bound;
  s->arena_bytes[space] = best_packing(&p, base, bound);
}

zg_status zg_pass_plan_memory(zg_sched *s) {
  zg_arena mem = {0};
  zg_live_range *r = zg_find_live_ranges(s, &mem);
  slot *slots = ZG_NEW_N(&mem, slot, s->bufs.n);
  for (uint32_t b = 1; b < s->bufs.n; b++)
    slots[b] = (slot){.bytes = zg_round_up(s->bufs.at[b].bytes, ZG_BUF_ALIGN), .first = r[b].first, .last = r[b].last};
  share_places(s, slots);
  uint32_t *shared = ZG_NEW_N(&mem, uint32_t, s->bufs.n);
  for (uint32_t b = 1; b < s->bufs.n; b++) shared[b] = slots[b].same_as ? find(slots, b) : 0;
  for (uint8_t space = 0; space < ZG_N_SPACES; space++) plan_space(s, space, slots, &mem);
  for (uint32_t b = 1; b < s->bufs.n; b++)
    if (shared[b]) s->bufs.at[b].offset = s->bufs.at[shared[b]].offset;
  zg_arena_fini(&mem);
  return NULL;
}
