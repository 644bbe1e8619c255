// plan_memory: assigns every buffer its place before anything runs.
//   - persistent buffers stand first, one after the other; each segment's others are packed above them, so that segments share
//     that region (they never run at once)
//   - a loop's result takes the place of an operand that dies there, where the loop allows it (zg_loop_may_alias)
//   - packing: pack.c; lower bound: the largest sum of bytes alive at one step
#include "sched/loop.h"
#include "sched/pack.h"
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
  bool *beside = ZG_NEW_N(a, bool, s->bufs.n);   // another stream uses it: its place is free when it is released, not before
  for (uint32_t i = 0; i < s->steps.n; i++) {
    const zg_step *st = &s->steps.at[i];
    if (st->kind == ZG_STEP_KERNEL) {
      const zg_kernel *k = &s->kernels.at[st->kernel];
      for (uint32_t j = 0; j < k->n_args; j++) touch(r, k->args[j].buf, i);
      touch(r, k->workspace, i);
    } else if (st->kind == ZG_STEP_RELEASE) {
      if (beside[st->a]) touch(r, st->a, i);
    } else if (st->kind != ZG_STEP_RECORD && st->kind != ZG_STEP_WAIT) {
      touch(r, st->a, i);
      touch(r, st->b, i);
      if (st->stream != ZG_STREAM_COMPUTE) beside[st->a] = beside[st->b] = true;
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

enum { MAX_INST = 1024 };

static bool same_window(const zg_view *a, const zg_view *b) {
  if (a->rank != b->rank || a->offset != b->offset || zg_dtype_bytes(a->dtype) != zg_dtype_bytes(b->dtype)) return false;
  for (uint32_t d = 0; d < a->rank; d++)
    if (a->stride[d] != b->stride[d]) return false;
  return true;
}

// Does a phase after `last` go over the elements of argument `in` again? Phases run for their reductions and stores of elements,
// and may compute anew whatever those need.
static bool reads_after(const zg_loop_desc *d, const uint32_t *phase, uint32_t in, uint32_t last) {
  bool from[MAX_INST];
  for (uint32_t i = 0; i < d->n_inst; i++) {
    const zg_inst *x = &d->inst[i];
    uint32_t ops[3];
    const uint32_t n = zg_inst_operands(x, ops);
    from[i] = x->kind == ZG_I_LOAD && x->a == in;
    for (uint32_t k = 0; k < n; k++) from[i] = from[i] || (from[ops[k]] && d->inst[ops[k]].kind != ZG_I_REDUCE);
    if ((x->kind == ZG_I_REDUCE || x->kind == ZG_I_STORE) && from[i] && phase[i] > last) return true;
  }
  return false;
}

bool zg_loop_may_alias(const zg_kernel *k, uint32_t out, uint32_t in) {
  const zg_loop_desc *d = k->desc;
  if (!same_window(&k->args[out], &k->args[in])) return false;
  for (uint32_t i = 0; i < k->n_args; i++)
    if (i != in && i != out && (k->args[i].buf == k->args[in].buf || k->args[i].buf == k->args[out].buf)) return false;
  uint32_t phase[MAX_INST];
  if (d->n_inst > MAX_INST) return false;
  zg_loop_phases(d, phase);
  for (uint32_t i = 0; i < d->n_inst; i++) {
    const zg_inst *x = &d->inst[i];
    if (x->kind != ZG_I_STORE) continue;
    if (d->inst[x->a].kind == ZG_I_LOAD && d->inst[x->a].a == in) return false;   // another store would read it too late
    if (x->b == out && d->n_mid == 0 && reads_after(d, phase, in, phase[i])) return false;
  }
  return true;
}

// ---- places -------------------------------------------------------------------------------------------------------

typedef struct { uint64_t bytes; uint32_t first, last, same_as; } slot;   // same_as: slot it shares a place with, or 0

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

// Those of one space: persistent ones get their places, the others are listed. Returns the bytes of the former.
typedef struct { uint32_t *ids, n; zg_pack_item *items; } item_list;

static uint64_t list_items(zg_sched *s, uint8_t space, const slot *slots, item_list *l) {
  uint64_t base = 0;
  l->n = 0;
  for (uint32_t b = 1; b < s->bufs.n; b++) {
    zg_buf *x = &s->bufs.at[b];
    if (x->space != space) continue;
    if (x->persistent) {
      x->offset = base;
      base += slots[b].bytes;
    } else if (slots[b].first != UINT32_MAX && !slots[b].same_as) {
      l->items[l->n] = (zg_pack_item){.bytes = slots[b].bytes, .first = slots[b].first, .last = slots[b].last};
      l->ids[l->n++] = b;
    }
  }
  return base;
}

static void plan_space(zg_sched *s, uint8_t space, const slot *slots, item_list *l, bool place) {
  const uint64_t base = list_items(s, space, slots, l);
  s->lower_bound[space] = base + zg_pack_bound(l->items, l->n);
  if (!place) return;
  s->arena_bytes[space] = base + zg_pack(l->items, l->n);
  for (uint32_t i = 0; i < l->n; i++) s->bufs.at[l->ids[i]].offset = base + l->items[i].offset;
}

static slot *find_slots(zg_sched *s, zg_arena *mem, item_list *l) {
  zg_live_range *r = zg_find_live_ranges(s, mem);
  slot *slots = ZG_NEW_N(mem, slot, s->bufs.n);
  for (uint32_t b = 1; b < s->bufs.n; b++)
    slots[b] = (slot){.bytes = zg_round_up(s->bufs.at[b].bytes, ZG_BUF_ALIGN), .first = r[b].first, .last = r[b].last};
  share_places(s, slots);
  *l = (item_list){.ids = ZG_NEW_N(mem, uint32_t, s->bufs.n), .items = ZG_NEW_N(mem, zg_pack_item, s->bufs.n)};
  return slots;
}

void zg_sched_bound_memory(zg_sched *s) {
  zg_arena mem = {0};
  item_list list;
  const slot *slots = find_slots(s, &mem, &list);
  for (uint8_t space = 0; space < ZG_N_SPACES; space++) plan_space(s, space, slots, &list, false);
  zg_arena_fini(&mem);
}

zg_status zg_pass_plan_memory(zg_sched *s) {
  zg_arena mem = {0};
  item_list list;
  slot *slots = find_slots(s, &mem, &list);
  uint32_t *shared = ZG_NEW_N(&mem, uint32_t, s->bufs.n);
  for (uint32_t b = 1; b < s->bufs.n; b++) shared[b] = slots[b].same_as ? find(slots, b) : 0;
  for (uint8_t space = 0; space < ZG_N_SPACES; space++) plan_space(s, space, slots, &list, true);
  for (uint32_t b = 1; b < s->bufs.n; b++)
    if (shared[b]) s->bufs.at[b].offset = s->bufs.at[shared[b]].offset;
  zg_arena_fini(&mem);
  return NULL;
}
