// Ranks as threads of one process: for tests of the planner without processes, and for simulations. Every rank publishes its
// pointers, meets the others, works on its own part of everybody's memory, and meets them again:
//   all_reduce       rank i sums slice i of all and writes it to all
//   reduce_scatter   rank i sums part i of all into its shard
//   all_gather       rank i copies all shards
// Nobody else touches the part a rank works on, so two meetings per collective are enough.
#include <pthread.h>
#include <stdio.h>
#include "exec/comm_priv.h"

typedef struct { zg__meet meet; void *data, *shard; } slot;
typedef struct {
  uint32_t world, live;                // live: ranks not freed yet; guarded by lock
  pthread_mutex_t lock;
  _Atomic bool aborted;
  char why[512];                       // written once, under lock, before aborted
  int spin;
  slot *slots;
} shared;
typedef struct {
  zg_comm base;
  shared *sh;
  uint32_t met;                        // meetings of this rank so far
} local_comm;

enum { LOOK_MS = 20, SUM_BLOCK = 4096 };

static zg_status failure(shared *sh) { return zg_error(ZG_CANCELLED, "%s", sh->why); }

static zg_status meet(local_comm *c, const zg_comm_group *g) {
  shared *sh = c->sh;
  c->met++;
  zg__meet_arrive(&sh->slots[c->base.rank].meet, false);
  for (uint32_t i = 0; i < g->size; i++) {
    zg__meet *peer = &sh->slots[g->base + i * g->stride].meet;
    while (!zg__meet_wait(peer, c->met, sh->spin, false, LOOK_MS))
      if (atomic_load(&sh->aborted)) return failure(sh);
  }
  return NULL;
}

static slot *member(local_comm *c, const zg_comm_group *g, uint32_t i) { return &c->sh->slots[g->base + i * g->stride]; }

static void reduce_slice(local_comm *c, const zg_comm_op *op, const zg_comm_group *g) {
  const uint64_t size = zg_dtype_bytes(op->dtype), slice = zg__slice(op->n, g->size), first = g->index * slice;
  const uint64_t end = first + zg__part(slice, op->n, g->index);
  _Alignas(64) uint8_t block[SUM_BLOCK];
  const void *src[ZG_MAX_WORLD];
  for (uint64_t at = first; at < end; at += SUM_BLOCK / size) {
    const uint64_t n = ZG_MIN(SUM_BLOCK / size, end - at);
    for (uint32_t i = 0; i < g->size; i++) src[i] = (uint8_t *)member(c, g, i)->data + at * size;
    zg__comm_sum(op->dtype, block, src, g->size, n);
    for (uint32_t i = 0; i < g->size; i++) memcpy((uint8_t *)member(c, g, i)->data + at * size, block, n * size);
  }
}

static void reduce_part(local_comm *c, const zg_comm_op *op, const zg_comm_group *g) {
  const uint64_t size = zg_dtype_bytes(op->dtype), n = zg__part(op->n, op->n_full, g->index);
  const void *src[ZG_MAX_WORLD];
  for (uint32_t i = 0; i < g->size; i++) src[i] = (uint8_t *)member(c, g, i)->data + g->index * op->n * size;
  if (n) zg__comm_sum(op->dtype, op->shard, src, g->size, n);
  memset((uint8_t *)op->shard + n * size, 0, (op->n - n) * size);
}

static void gather_parts(local_comm *c, const zg_comm_op *op, const zg_comm_group *g) {
  const uint64_t size = zg_dtype_bytes(op->dtype);
  for (uint32_t i = 0; i < g->size; i++) {
    uint8_t *to = (uint8_t *)op->data + i * op->n * size;
    const uint64_t n = zg__part(op->n, op->n_full, i);
    const void *from = member(c, g, i)->shard;
    if (n && from != to) memcpy(to, from, n * size);
  }
}

static zg_status local_run(zg_comm *base, const zg_comm_op *op) {
  local_comm *c = (local_comm *)base;
  zg_comm_group g;
  ZG_TRY(zg_comm_group_of(base, op->group, &g));
  if (atomic_load(&c->sh->aborted)) return failure(c->sh);
  c->sh->slots[base->rank].data = op->data;
  c->sh->slots[base->rank].shard = op->shard;
  ZG_TRY(meet(c, &g));
  switch (op->kind) {
    case ZG_COMM_ALL_REDUCE: reduce_slice(c, op, &g); break;
    case ZG_COMM_REDUCE_SCATTER: reduce_part(c, op, &g); break;
    case ZG_COMM_ALL_GATHER: gather_parts(c, op, &g); break;
    case ZG_COMM_BROADCAST:
      if (g.index != op->root) memcpy(op->data, member(c, &g, op->root)->data, op->n * zg_dtype_bytes(op->dtype));
      break;
    case ZG_COMM_BARRIER: return NULL;
    case ZG_N_COMM_KINDS: break;
  }
  return meet(c, &g);
}

static void local_abort(zg_comm *base, const char *why) {
  shared *sh = ((local_comm *)base)->sh;
  pthread_mutex_lock(&sh->lock);
  if (!atomic_load(&sh->aborted)) {
    snprintf(sh->why, sizeof sh->why, "rank %u failed: %.440s", base->rank, why);
    atomic_store(&sh->aborted, true);
  }
  pthread_mutex_unlock(&sh->lock);
}

static zg_status local_check(zg_comm *base) {
  shared *sh = ((local_comm *)base)->sh;
  return atomic_load(&sh->aborted) ? failure(sh) : NULL;
}

static void local_free(zg_comm *base) {
  shared *sh = ((local_comm *)base)->sh;
  zg_free(base);
  pthread_mutex_lock(&sh->lock);
  const bool last = --sh->live == 0;
  pthread_mutex_unlock(&sh->lock);
  if (!last) return;
  pthread_mutex_destroy(&sh->lock);
  zg_free_big(sh->slots, sizeof(slot) * sh->world);
  zg_free(sh);
}

static const zg_comm_vtable local_vtable = {.name = "local", .run = local_run, .abort = local_abort, .check = local_check, .free = local_free};

zg_status zg_comm_local_new(uint32_t n, zg_comm **out) {
  if (n < 1 || n > ZG_MAX_WORLD) return zg_error(ZG_INVALID, "%u ranks in one process: 1 to %d", n, ZG_MAX_WORLD);
  shared *sh = zg_alloc(sizeof *sh);
  zg_status s = zg_alloc_big(sizeof(slot) * n, (void **)&sh->slots);
  if (s) {
    zg_free(sh);
    return s;
  }
  sh->world = sh->live = n;
  sh->spin = zg__meet_spin(n);
  pthread_mutex_init(&sh->lock, NULL);
  for (uint32_t r = 0; r < n; r++) {
    local_comm *c = zg_alloc(sizeof *c);
    c->base = (zg_comm){.vt = &local_vtable, .rank = r, .world = n, .local_rank = r, .local_world = n};
    c->sh = sh;
    out[r] = &c->base;
  }
  return NULL;
}
