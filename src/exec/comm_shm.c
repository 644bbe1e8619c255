// Ranks as processes of one machine, through a file in memory (memfd: nameless, so nothing is left behind whoever dies).
//
//   | meeting points | rank 0: slot 0, slot 1 | rank 1: slot 0, slot 1 | ..          a slot: 512 KiB
//
// Data pass through the slots in pieces. Per piece: copy in, meet, work on the others' slots. Slots take turns, so a slot is written
// again only after a meeting that everybody who read it has come to. Own parts are not copied in: they are read where they are.
//   reduce_scatter   slot = piece of every other rank's part; then each sums its part over the slots, in rank order
//   all_reduce       the same with slices of the piece; sums go back through the owner's slot: a second meeting
//   all_gather       slot = piece of the shard
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "exec/comm_procs.h"

enum { SLOT = 1 << 19, SLOTS = 2, LOOK_MS = 50 };

typedef struct { _Alignas(64) uint64_t magic, cookie; uint32_t world; } header;
typedef struct {
  zg__procs p;
  header *head;
  zg__meet *meets;
  uint8_t *slots;
  uint32_t met, turn, group;  // group: of the last collective
  int spin;
} shm_comm;

static const uint64_t MAGIC = 0x7a672d73686d3031u;

uint64_t zg__shm_bytes(uint32_t world) {
  return zg_round_up(sizeof(header) + sizeof(zg__meet) * world, 4096) + (uint64_t)SLOT * SLOTS * world;
}

static zg_status map_file(int fd, uint32_t world, void **out) {
  void *m = mmap(NULL, zg__shm_bytes(world), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (m == MAP_FAILED) return zg_error(ZG_OUT_OF_MEMORY, "shared memory of %u ranks: %s", world, strerror(errno));
  *out = m;
  return NULL;
}

zg_status zg__shm_create(uint32_t world, uint64_t cookie, int *out_fd, void **out_map) {
  zg_status s = NULL;
  const int fd = memfd_create("zgraph", MFD_CLOEXEC);
  if (fd < 0) return zg_error(ZG_IO, "shared memory: %s", strerror(errno));
  if (ftruncate(fd, (off_t)zg__shm_bytes(world))) s = zg_error(ZG_OUT_OF_MEMORY, "shared memory of %u ranks: %s", world, strerror(errno));
  if (!s) s = map_file(fd, world, out_map);
  if (s) {
    close(fd);
    return s;
  }
  *(header *)*out_map = (header){MAGIC, cookie, world};
  *out_fd = fd;
  return NULL;
}

zg_status zg__shm_attach(uint32_t pid, int fd, uint32_t world, uint64_t cookie, void **out_map) {
  char path[64];
  struct stat st;
  snprintf(path, sizeof path, "/proc/%u/fd/%d", pid, fd);
  const int own = open(path, O_RDWR | O_CLOEXEC);
  if (own < 0) return zg_error(ZG_IO, "shared memory of process %u: %s", pid, strerror(errno));
  const bool fits = fstat(own, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == zg__shm_bytes(world);
  zg_status s = fits ? map_file(own, world, out_map) : zg_error(ZG_IO, "shared memory of process %u is another's", pid);
  close(own);
  if (s) return s;
  const header *h = *out_map;
  if (h->magic == MAGIC && h->cookie == cookie && h->world == world) return NULL;
  munmap(*out_map, zg__shm_bytes(world));
  return zg_error(ZG_IO, "shared memory of process %u is another's", pid);
}

static uint8_t *slot_of(const shm_comm *c, uint32_t rank) { return c->slots + ((uint64_t)rank * SLOTS + c->turn) * SLOT; }

static zg_status meet(shm_comm *c, const zg_comm_group *g) {
  const uint32_t me = c->p.base.rank;
  c->met++;
  zg__meet_arrive(&c->meets[me], true);
  for (uint32_t i = 0; i < g->size; i++) {
    const uint32_t peer = g->base + i * g->stride;
    if (peer == me || zg__meet_wait(&c->meets[peer], c->met, c->spin, true, LOOK_MS)) continue;
    const double since = zg_time_s();
    do ZG_TRY(zg__procs_check(&c->p, peer, since));
    while (!zg__meet_wait(&c->meets[peer], c->met, 0, true, LOOK_MS));
  }
  return NULL;
}

// Pieces of every other member's part into my slot; sub is the room of one.
static void put_parts(shm_comm *c, const zg_comm_op *op, const zg_comm_group *g, const uint8_t *data, uint64_t part, uint64_t whole, uint64_t at,
                      uint64_t n, uint64_t sub) {
  const uint64_t size = zg_dtype_bytes(op->dtype);
  uint8_t *slot = slot_of(c, c->p.base.rank);
  for (uint32_t i = 0; i < g->size; i++) {
    const uint64_t have = zg__part(part, whole, i), m = at < have ? ZG_MIN(n, have - at) : 0;
    if (i != g->index && m) memcpy(slot + i * sub * size, data + (i * part + at) * size, m * size);
  }
}

// dst <- sum of everybody's piece of my part: mine lies at `own`, the others' in their slots.
static void sum_part(shm_comm *c, const zg_comm_op *op, const zg_comm_group *g, void *dst, const void *own, uint64_t n, uint64_t sub) {
  const uint64_t size = zg_dtype_bytes(op->dtype);
  const void *src[ZG_MAX_WORLD];
  for (uint32_t i = 0; i < g->size; i++)
    src[i] = i == g->index ? own : slot_of(c, g->base + i * g->stride) + g->index * sub * size;
  zg__comm_sum(op->dtype, dst, src, g->size, n);
}

static void next_turn(shm_comm *c) { c->turn = (c->turn + 1) % SLOTS; }

static uint64_t sub_room(const zg_comm_op *op, const zg_comm_group *g) { return SLOT / g->size / zg_dtype_bytes(op->dtype) / 64 * 64; }

static zg_status reduce_scatter(shm_comm *c, const zg_comm_op *op, const zg_comm_group *g) {
  const uint64_t size = zg_dtype_bytes(op->dtype), sub = sub_room(op, g), mine = zg__part(op->n, op->n_full, g->index);
  for (uint64_t at = 0; at < op->n; at += sub) {
    const uint64_t n = ZG_MIN(sub, op->n - at), m = at < mine ? ZG_MIN(n, mine - at) : 0;
    put_parts(c, op, g, op->data, op->n, op->n_full, at, n, sub);
    ZG_TRY(meet(c, g));
    if (m) sum_part(c, op, g, (uint8_t *)op->shard + at * size, (uint8_t *)op->data + (g->index * op->n + at) * size, m, sub);
    next_turn(c);
  }
  memset((uint8_t *)op->shard + mine * size, 0, (op->n - mine) * size);
  return NULL;
}

static zg_status all_reduce(shm_comm *c, const zg_comm_op *op, const zg_comm_group *g) {
  const uint64_t size = zg_dtype_bytes(op->dtype), sub = sub_room(op, g);
  for (uint64_t at = 0; at < op->n; at += sub * g->size) {
    const uint64_t n = ZG_MIN(sub * g->size, op->n - at), slice = ZG_MIN(sub, zg__slice(n, g->size)), m = zg__part(slice, n, g->index);
    uint8_t *data = (uint8_t *)op->data + at * size, *own = data + g->index * slice * size;
    put_parts(c, op, g, data, slice, n, 0, slice, sub);
    ZG_TRY(meet(c, g));
    if (m) {
      sum_part(c, op, g, own, own, m, sub);
      memcpy(slot_of(c, c->p.base.rank) + g->index * sub * size, own, m * size);
    }
    ZG_TRY(meet(c, g));
    for (uint32_t i = 0; i < g->size; i++) {
      const uint64_t k = zg__part(slice, n, i);
      if (i != g->index && k) memcpy(data + i * slice * size, slot_of(c, g->base + i * g->stride) + i * sub * size, k * size);
    }
    next_turn(c);
  }
  return NULL;
}

static zg_status all_gather(shm_comm *c, const zg_comm_op *op, const zg_comm_group *g) {
  const uint64_t size = zg_dtype_bytes(op->dtype), room = SLOT / size;
  for (uint64_t at = 0; at < op->n; at += room) {
    for (uint32_t i = 0; i <= g->size; i++) {
      const bool put = i == 0;                          // first mine in, then the others' out
      const uint32_t from = put ? g->index : i - 1;
      const uint64_t have = zg__part(op->n, op->n_full, from), m = at < have ? ZG_MIN(room, have - at) : 0;
      uint8_t *to = (uint8_t *)op->data + (from * op->n + at) * size;
      const uint8_t *shard = (const uint8_t *)op->shard + at * size;
      if (put && m) memcpy(slot_of(c, c->p.base.rank), shard, m * size);
      if (put) ZG_TRY(meet(c, g));
      else if (from != g->index && m) memcpy(to, slot_of(c, g->base + from * g->stride), m * size);
      else if (m && to != shard) memcpy(to, shard, m * size);
    }
    next_turn(c);
  }
  return NULL;
}

static zg_status broadcast(shm_comm *c, const zg_comm_op *op, const zg_comm_group *g) {
  const uint64_t bytes = op->n * zg_dtype_bytes(op->dtype);
  for (uint64_t at = 0; at < bytes; at += SLOT) {
    const uint64_t m = ZG_MIN((uint64_t)SLOT, bytes - at);
    if (g->index == op->root) memcpy(slot_of(c, c->p.base.rank), (uint8_t *)op->data + at, m);
    ZG_TRY(meet(c, g));
    if (g->index != op->root) memcpy((uint8_t *)op->data + at, slot_of(c, g->base + op->root * g->stride), m);
    next_turn(c);
  }
  return NULL;
}

// Meetings of one group say nothing of readers in another: where the group changes, everybody meets.
static zg_status change_group(shm_comm *c, uint32_t group) {
  const zg_comm_group all = {c->p.base.world, 1, c->p.base.rank, 0};
  if (c->group == group) return NULL;
  c->group = group;
  return meet(c, &all);
}

static zg_status run(shm_comm *c, const zg_comm_op *op) {
  zg_comm_group g;
  ZG_TRY(zg_comm_group_of(&c->p.base, op->group, &g));
  ZG_TRY(zg__watch_status(c->p.watch));
  ZG_TRY(change_group(c, op->group));
  switch (op->kind) {
    case ZG_COMM_ALL_REDUCE: return all_reduce(c, op, &g);
    case ZG_COMM_REDUCE_SCATTER: return reduce_scatter(c, op, &g);
    case ZG_COMM_ALL_GATHER: return all_gather(c, op, &g);
    case ZG_COMM_BROADCAST: return broadcast(c, op, &g);
    case ZG_COMM_BARRIER: return meet(c, &g);
    case ZG_N_COMM_KINDS: break;
  }
  return NULL;
}

static zg_status shm_run(zg_comm *base, const zg_comm_op *op) {
  shm_comm *c = (shm_comm *)base;
  zg__watch_doing(c->p.watch, ++c->p.n_collectives, op->kind);
  zg_status s = run(c, op);
  zg__watch_doing(c->p.watch, c->p.n_collectives, ZG_N_COMM_KINDS);
  return s;
}

static void shm_abort(zg_comm *base, const char *why) { zg__watch_abort(((shm_comm *)base)->p.watch, why); }

static zg_status shm_check(zg_comm *base) { return zg__watch_status(((shm_comm *)base)->p.watch); }

static void shm_free(zg_comm *base) {
  shm_comm *c = (shm_comm *)base;
  zg__watch_free(c->p.watch);
  munmap(c->head, zg__shm_bytes(base->world));
  zg_free(c);
}

zg_comm *zg__shm_new(const zg__procs *p, void *map) {
  static const zg_comm_vtable vtable = {.name = "shm", .run = shm_run, .abort = shm_abort, .check = shm_check, .free = shm_free};
  shm_comm *c = zg_alloc(sizeof *c);
  c->p = *p;
  c->p.base.vt = &vtable;
  c->head = map;
  c->meets = (zg__meet *)((uint8_t *)map + sizeof(header));
  c->slots = (uint8_t *)map + zg_round_up(sizeof(header) + sizeof(zg__meet) * p->base.world, 4096);
  c->spin = zg__meet_spin(p->base.world);
  return &c->p.base;
}
