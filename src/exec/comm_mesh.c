// Collectives over an exchange between every two ranks, whatever carries it (sockets, MPI). A rank sends each other rank what that one
// needs and nothing else, so it sends (g-1)/g of the data, as the best ring does, in one round; sums run in rank order.
//   reduce_scatter   in pieces: exchange pieces of the parts, sum mine
//   all_gather       one exchange
//   all_reduce       reduce_scatter over slices, then all_gather of them, in place
#include "exec/comm_mesh.h"

enum { PIECE = 1 << 20 };

static zg__lane *lane_of(zg__mesh *c, const zg_comm_group *g, uint32_t i) { return &c->lanes[g->base + i * g->stride]; }

// dst[mine] <- sum of my part over all; part i of data begins at i part and is cut off at `whole`.
static zg_status reduce(zg__mesh *c, const zg_comm_op *op, const zg_comm_group *g, uint8_t *dst, uint64_t part, uint64_t whole) {
  const uint64_t size = zg_dtype_bytes(op->dtype), room = PIECE / size, mine = zg__part(part, whole, g->index);
  uint8_t *data = op->data;
  const void *src[ZG_MAX_WORLD];
  for (uint64_t at = 0; at < part; at += room) {
    const uint64_t m = at < mine ? ZG_MIN(room, mine - at) : 0;
    for (uint32_t i = 0; i < g->size; i++) {
      const uint64_t have = zg__part(part, whole, i), k = at < have ? ZG_MIN(room, have - at) : 0;
      uint8_t *piece = c->pieces + (uint64_t)(g->base + i * g->stride) * PIECE;
      if (i != g->index) *lane_of(c, g, i) = (zg__lane){data + (i * part + at) * size, piece, k * size, m * size};
      src[i] = i == g->index ? data + (i * part + at) * size : piece;
    }
    ZG_TRY(c->exchange(c, g));
    if (m) zg__comm_sum(op->dtype, dst + at * size, src, g->size, m);
  }
  return NULL;
}

static zg_status gather(zg__mesh *c, const zg_comm_op *op, const zg_comm_group *g, const uint8_t *shard, uint64_t part, uint64_t whole) {
  const uint64_t size = zg_dtype_bytes(op->dtype), mine = zg__part(part, whole, g->index);
  uint8_t *data = op->data;
  for (uint32_t i = 0; i < g->size; i++)
    if (i != g->index) *lane_of(c, g, i) = (zg__lane){shard, data + i * part * size, mine * size, zg__part(part, whole, i) * size};
  if (mine && shard != data + g->index * part * size) memcpy(data + g->index * part * size, shard, mine * size);
  return c->exchange(c, g);
}

static zg_status all_reduce(zg__mesh *c, const zg_comm_op *op, const zg_comm_group *g) {
  const uint64_t slice = (op->n + g->size - 1) / g->size;
  uint8_t *own = (uint8_t *)op->data + g->index * slice * zg_dtype_bytes(op->dtype);
  ZG_TRY(reduce(c, op, g, own, slice, op->n));
  return gather(c, op, g, own, slice, op->n);
}

static zg_status broadcast(zg__mesh *c, const zg_comm_op *op, const zg_comm_group *g) {
  const uint64_t bytes = op->n * zg_dtype_bytes(op->dtype);
  for (uint32_t i = 0; i < g->size; i++) *lane_of(c, g, i) = (zg__lane){op->data, op->data, 0, 0};
  if (g->index != op->root) lane_of(c, g, op->root)->n_in = bytes;
  for (uint32_t i = 0; g->index == op->root && i < g->size; i++)
    if (i != g->index) lane_of(c, g, i)->n_out = bytes;
  return c->exchange(c, g);
}

static zg_status barrier(zg__mesh *c, const zg_comm_group *g) {
  uint8_t in[ZG_MAX_WORLD], out = 1;
  for (uint32_t i = 0; i < g->size; i++) *lane_of(c, g, i) = (zg__lane){&out, &in[i], 1, 1};
  return c->exchange(c, g);
}

static zg_status run(zg__mesh *c, const zg_comm_op *op) {
  zg_comm_group g;
  ZG_TRY(zg_comm_group_of(&c->p.base, op->group, &g));
  if (c->p.watch) ZG_TRY(zg__watch_status(c->p.watch));
  switch (op->kind) {
    case ZG_COMM_ALL_REDUCE: return all_reduce(c, op, &g);
    case ZG_COMM_REDUCE_SCATTER: {
      const uint64_t mine = zg__part(op->n, op->n_full, g.index), size = zg_dtype_bytes(op->dtype);
      ZG_TRY(reduce(c, op, &g, op->shard, op->n, op->n_full));
      memset((uint8_t *)op->shard + mine * size, 0, (op->n - mine) * size);
      return NULL;
    }
    case ZG_COMM_ALL_GATHER: return gather(c, op, &g, op->shard, op->n, op->n_full);
    case ZG_COMM_BROADCAST: return broadcast(c, op, &g);
    case ZG_COMM_BARRIER: return barrier(c, &g);
    case ZG_N_COMM_KINDS: break;
  }
  return NULL;
}

zg_status zg__mesh_run(zg_comm *base, const zg_comm_op *op) {
  zg__mesh *c = (zg__mesh *)base;
  c->p.n_collectives++;
  if (c->p.watch) zg__watch_doing(c->p.watch, c->p.n_collectives, op->kind);
  zg_status s = run(c, op);
  if (c->p.watch) zg__watch_doing(c->p.watch, c->p.n_collectives, ZG_N_COMM_KINDS);
  return s;
}

zg_status zg__mesh_init(zg__mesh *c, const zg__procs *p) {
  c->p = *p;
  ZG_TRY(zg_alloc_big((uint64_t)PIECE * p->base.world, (void **)&c->pieces));
  c->lanes = zg_alloc(sizeof *c->lanes * p->base.world);
  return NULL;
}

void zg__mesh_fini(zg__mesh *c) {
  zg_free_big(c->pieces, (uint64_t)PIECE * c->p.base.world);
  zg_free(c->lanes);
}
