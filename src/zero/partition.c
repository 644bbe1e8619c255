// zero_partition: gives every tensor its size at rest, and moves the update's views to this rank's place.
//   - lowering made one buffer a leaf name: "W" has the whole size, for the forward pass uses it whole, and the update's kernels
//     address its first `shard` elements. Where the whole stays (stage 1, 2, kept tensors) those views move to element
//     rank * shard; where only the shard stays the buffer shrinks to it, and zero_gather gives the forward pass another one.
//   - "W.grad" likewise: whole and padded in stage 0 and 1, the shard in stage 2 and 3.
//   - random numbers: the element number in a Philox counter is that of the global batch, whose rank r-th part this rank has, so
//     that any number of ranks draws the same numbers for the same samples.
#include "sched/loop.h"
#include "zero/zero_priv.h"

static void resize(zg_sched *s, uint32_t buf, const zg_type *t, int64_t n) {
  zg_buf *b = &s->bufs.at[buf];
  b->bytes = (uint64_t)n * zg_dtype_bytes(b->dtype);
  b->type = *t;
}

static void shift_views(zg_sched *s, const zg_segment *g, uint32_t buf, int64_t by) {
  for (uint32_t i = g->first; by && i < g->first + g->n; i++) {
    if (s->steps.at[i].kind != ZG_STEP_KERNEL) continue;
    zg_kernel *k = &s->kernels.at[s->steps.at[i].kernel];
    for (uint32_t a = 0; a < k->n_args; a++)
      if (k->args[a].buf == buf) k->args[a].offset += by;
  }
}

// Views of the whole gradient (the optimizer's, stage 0) have its shape; those of the norm are f32[shard].
static void shift_norm_views(zg_sched *s, const zg_segment *g, const zg_zero_part *p, int64_t by) {
  const uint32_t mine = zg_sched_find_buf(s, ZG_ZERO_MINE);
  uint32_t end = g->first;
  for (uint32_t i = g->first; i < g->first + g->n; i++) {
    if (s->steps.at[i].kind != ZG_STEP_KERNEL) continue;
    const zg_kernel *k = &s->kernels.at[s->steps.at[i].kernel];
    for (uint32_t a = 0; a < k->n_out; a++)
      if (k->args[a].buf == mine) end = i + 1;
  }
  const zg_segment norm = {g->name, g->first, end - g->first};
  shift_views(s, &norm, p->grad, by);
}

static void place_part(zg_zero *z, zg_sched *s, const zg_segment *update, zg_zero_part *p) {
  p->buf = zg_sched_find_buf(s, p->name);
  if (!p->buf) return;
  const zg_type shard = zg_type_make(p->type.dtype, 1, &p->shard),
                padded = zg_type_make(p->type.dtype, 1, &(int64_t){zg__padded(z, p)});
  const bool trained = p->role == ZG_ROLE_TRAINABLE;
  if (p->sharded) {
    resize(s, p->buf, &shard, p->shard);
  } else if (trained && zg__updates_shard(z)) {
    resize(s, p->buf, &padded, zg__padded(z, p));
    shift_views(s, update, p->buf, zg__zero_lo(z, p));
  }
  if (!trained) return;
  zg_str name = {0};
  zg_str_add(&name, "%s.grad", p->name);
  p->grad = zg_sched_find_buf(s, name.at);
  zg_str_fini(&name);
  if (!p->grad || zg__shards_grads(z)) return;
  zg_type t = padded;
  t.dtype = ZG_F32;
  resize(s, p->grad, &t, zg__padded(z, p));
  if (zg__updates_shard(z)) shift_views(s, update, p->grad, zg__zero_lo(z, p));
  else shift_norm_views(s, update, p, zg__zero_lo(z, p));
}

// ---- random numbers -------------------------------------------------------------------------------------------------------

// One more than the largest element number that INDEX row `coef` gives.
static int64_t count_elements(const zg_loop_desc *d, const int64_t *coef) {
  int64_t n = 1;
  for (uint32_t k = 0; k < d->rank; k++) n += coef[k] * (d->dim[k] - 1);
  return n;
}

// An INDEX of its own for each RANDOM, so that other users of the index keep theirs.
static void shift_random(zg_zero *z, zg_sched *s, zg_kernel *k) {
  const zg_loop_desc *d = k->desc;
  uint32_t n_random = 0, n = 0;
  for (uint32_t i = 0; i < d->n_inst; i++) n_random += d->inst[i].kind == ZG_I_RANDOM;
  if (!n_random) return;
  zg_inst *out = ZG_NEW_N(&s->mem, zg_inst, d->n_inst + n_random);
  uint32_t *moved = ZG_NEW_N(&s->mem, uint32_t, d->n_inst + 1);
  for (uint32_t i = 0; i < d->n_inst; i++) {
    zg_inst x = d->inst[i];
    if (x.kind == ZG_I_RANDOM) {
      zg_inst index = d->inst[x.a];
      index.imm += (double)((int64_t)z->o.rank * count_elements(d, d->index[index.a]));
      out[n] = index;
      x.a = n++;
    } else if (x.kind == ZG_I_MAP || x.kind == ZG_I_CAST || x.kind == ZG_I_REDUCE || x.kind == ZG_I_STORE) {
      x.a = moved[x.a];
      if (x.kind == ZG_I_MAP && zg_scalar_arity((zg_scalar)x.scalar) > 1) x.b = moved[x.b];
      if (x.kind == ZG_I_MAP && zg_scalar_arity((zg_scalar)x.scalar) > 2) x.c = moved[x.c];
    }
    moved[i] = n;
    out[n++] = x;
  }
  zg_loop_desc *made = zg_arena_copy(&s->mem, d, sizeof *d);
  made->inst = out;
  made->n_inst = n;
  k->desc = made;
}

zg_status zg__zero_partition(void *self, zg_sched *s) {
  zg_zero *z = self;
  s->rank = z->o.rank;
  s->world = z->o.world;
  s->title = zg_arena_printf(&s->mem, "zero%u rank %u/%u", z->o.stage, z->o.rank, z->o.world);
  const zg_segment *update = zg_sched_find_segment(s, "update");
  ZG_ASSERT(update);
  static const char *const scalars[] = {ZG_ZERO_MINE, ZG_ZERO_ALL, ZG_ZERO_LOSS};
  for (size_t i = 0; i < ZG_COUNT(scalars); i++)
    s->bufs.at[zg_sched_find_buf(s, scalars[i])].role = ZG_BUF_COMM;
  for (size_t i = 0; i < z->parts.n; i++) place_part(z, s, update, &z->parts.at[i]);
  for (size_t i = 0; z->o.rank && i < s->kernels.n; i++)
    if (s->kernels.at[i].kind == ZG_K_LOOP) shift_random(z, s, &s->kernels.at[i]);
  return NULL;
}
