// Ranks on several machines: a socket between every two, everybody exchanges with everybody at once. A rank sends each other rank what
// that one needs and nothing else, so it sends (g-1)/g of the data, as the best ring does, in one round; sums run in rank order.
//   reduce_scatter   in pieces: exchange pieces of the parts, sum mine
//   all_gather       one exchange
//   all_reduce       reduce_scatter over slices, then all_gather of them, in place
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include "exec/comm_procs.h"
#include "exec/wire.h"

enum { PIECE = 1 << 20, LOOK_MS = 50 };

typedef struct { const uint8_t *out; uint8_t *in; uint64_t n_out, n_in; } lane;   // what is still to be sent to and received from a rank
typedef struct {
  zg__procs p;
  int *fds;                   // per rank
  lane *lanes;                // per rank
  struct pollfd *polls;       // per rank
  uint8_t *pieces;            // PIECE bytes per rank
} tcp_comm;

static zg_status broken(tcp_comm *c, uint32_t rank, int error) {
  for (int i = 0; i < 40; i++) {                  // the watch knows more, a moment later
    ZG_TRY(zg__procs_check(&c->p, rank, zg_time_s()));
    usleep(25000);
  }
  return zg_error(ZG_CANCELLED, "the connection to rank %u is broken: %s", rank, error ? strerror(error) : "closed");
}

// Sends and receives what goes at once. *moved: something did.
static zg_status push(tcp_comm *c, uint32_t rank, bool *moved) {
  lane *l = &c->lanes[rank];
  while (l->n_out) {
    const ssize_t k = send(c->fds[rank], l->out, l->n_out, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (k < 0 && errno == EINTR) continue;
    if (k < 0 && errno == EAGAIN) break;
    if (k < 0) return broken(c, rank, errno);
    l->out += k;
    l->n_out -= (uint64_t)k;
    *moved = true;
  }
  while (l->n_in) {
    const ssize_t k = recv(c->fds[rank], l->in, l->n_in, MSG_DONTWAIT);
    if (k < 0 && errno == EINTR) continue;
    if (k < 0 && errno == EAGAIN) break;
    if (k <= 0) return broken(c, rank, k ? errno : 0);
    l->in += k;
    l->n_in -= (uint64_t)k;
    *moved = true;
  }
  return NULL;
}

// Runs the lanes of all members to their end.
static zg_status exchange(tcp_comm *c, const zg_comm_group *g) {
  double since = zg_time_s();
  for (;;) {
    bool moved = false;
    nfds_t n = 0;
    uint32_t waiting = 0;
    for (uint32_t i = 0; i < g->size; i++) {
      const uint32_t rank = g->base + i * g->stride;
      if (rank == c->p.base.rank) continue;
      ZG_TRY(push(c, rank, &moved));
      const lane *l = &c->lanes[rank];
      if (!l->n_in && !l->n_out) continue;
      c->polls[n++] = (struct pollfd){c->fds[rank], (short)((l->n_in ? POLLIN : 0) | (l->n_out ? POLLOUT : 0)), 0};
      waiting = rank;
    }
    if (n == 0) return NULL;
    if (moved) since = zg_time_s();
    else if (poll(c->polls, n, LOOK_MS) == 0) ZG_TRY(zg__procs_check(&c->p, waiting, since));
  }
}

static lane *lane_of(tcp_comm *c, const zg_comm_group *g, uint32_t i) { return &c->lanes[g->base + i * g->stride]; }

// dst[mine] <- sum of my part over all; part i of data begins at i part and is cut off at `whole`.
static zg_status reduce(tcp_comm *c, const zg_comm_op *op, const zg_comm_group *g, uint8_t *dst, uint64_t part, uint64_t whole) {
  const uint64_t size = zg_dtype_bytes(op->dtype), room = PIECE / size, mine = zg__part(part, whole, g->index);
  uint8_t *data = op->data;
  const void *src[ZG_MAX_WORLD];
  for (uint64_t at = 0; at < part; at += room) {
    const uint64_t m = at < mine ? ZG_MIN(room, mine - at) : 0;
    for (uint32_t i = 0; i < g->size; i++) {
      const uint64_t have = zg__part(part, whole, i), k = at < have ? ZG_MIN(room, have - at) : 0;
      uint8_t *piece = c->pieces + (uint64_t)(g->base + i * g->stride) * PIECE;
      if (i != g->index) *lane_of(c, g, i) = (lane){data + (i * part + at) * size, piece, k * size, m * size};
      src[i] = i == g->index ? data + (i * part + at) * size : piece;
    }
    ZG_TRY(exchange(c, g));
    if (m) zg__comm_sum(op->dtype, dst + at * size, src, g->size, m);
  }
  return NULL;
}

static zg_status gather(tcp_comm *c, const zg_comm_op *op, const zg_comm_group *g, const uint8_t *shard, uint64_t part, uint64_t whole) {
  const uint64_t size = zg_dtype_bytes(op->dtype), mine = zg__part(part, whole, g->index);
  uint8_t *data = op->data;
  for (uint32_t i = 0; i < g->size; i++)
    if (i != g->index) *lane_of(c, g, i) = (lane){shard, data + i * part * size, mine * size, zg__part(part, whole, i) * size};
  if (mine && shard != data + g->index * part * size) memcpy(data + g->index * part * size, shard, mine * size);
  return exchange(c, g);
}

static zg_status all_reduce(tcp_comm *c, const zg_comm_op *op, const zg_comm_group *g) {
  const uint64_t slice = (op->n + g->size - 1) / g->size;
  uint8_t *own = (uint8_t *)op->data + g->index * slice * zg_dtype_bytes(op->dtype);
  ZG_TRY(reduce(c, op, g, own, slice, op->n));
  return gather(c, op, g, own, slice, op->n);
}

static zg_status broadcast(tcp_comm *c, const zg_comm_op *op, const zg_comm_group *g) {
  const uint64_t bytes = op->n * zg_dtype_bytes(op->dtype);
  for (uint32_t i = 0; i < g->size; i++) *lane_of(c, g, i) = (lane){op->data, op->data, 0, 0};
  if (g->index != op->root) lane_of(c, g, op->root)->n_in = bytes;
  for (uint32_t i = 0; g->index == op->root && i < g->size; i++)
    if (i != g->index) lane_of(c, g, i)->n_out = bytes;
  return exchange(c, g);
}

static zg_status barrier(tcp_comm *c, const zg_comm_group *g) {
  uint8_t in[ZG_MAX_WORLD], out = 1;
  for (uint32_t i = 0; i < g->size; i++) *lane_of(c, g, i) = (lane){&out, &in[i], 1, 1};
  return exchange(c, g);
}

static zg_status run(tcp_comm *c, const zg_comm_op *op) {
  zg_comm_group g;
  ZG_TRY(zg_comm_group_of(&c->p.base, op->group, &g));
  ZG_TRY(zg__watch_status(c->p.watch));
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

static zg_status tcp_run(zg_comm *base, const zg_comm_op *op) {
  tcp_comm *c = (tcp_comm *)base;
  zg__watch_doing(c->p.watch, ++c->p.n_collectives, op->kind);
  zg_status s = run(c, op);
  zg__watch_doing(c->p.watch, c->p.n_collectives, ZG_N_COMM_KINDS);
  return s;
}

static void tcp_abort(zg_comm *base, const char *why) { zg__watch_abort(((tcp_comm *)base)->p.watch, why); }

static void tcp_free(zg_comm *base) {
  tcp_comm *c = (tcp_comm *)base;
  zg__watch_free(c->p.watch);
  for (uint32_t r = 0; r < base->world; r++) zg__wire_close(c->fds[r]);
  zg_free_big(c->pieces, (uint64_t)PIECE * base->world);
  zg_free(c->fds);
  zg_free(c->lanes);
  zg_free(c->polls);
  zg_free(c);
}

zg_status zg__tcp_new(const zg__procs *p, int *fds, zg_comm **out) {
  static const zg_comm_vtable vtable = {.name = "tcp", .run = tcp_run, .abort = tcp_abort, .free = tcp_free};
  uint8_t *pieces;
  ZG_TRY(zg_alloc_big((uint64_t)PIECE * p->base.world, (void **)&pieces));
  tcp_comm *c = zg_alloc(sizeof *c);
  c->p = *p;
  c->p.base.vt = &vtable;
  c->fds = fds;
  c->pieces = pieces;
  c->lanes = zg_alloc(sizeof *c->lanes * p->base.world);
  c->polls = zg_alloc(sizeof *c->polls * p->base.world);
  for (uint32_t r = 0; r < p->base.world; r++)
    if (fds[r] >= 0) zg__wire_fast(fds[r]);
  *out = &c->p.base;
  return NULL;
}
