// Ranks on several machines: a socket between every two, everybody exchanges with everybody at once.
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include "exec/comm_mesh.h"
#include "exec/wire.h"

enum { LOOK_MS = 50 };

typedef struct {
  zg__mesh m;
  int *fds;                   // per rank
  struct pollfd *polls;       // per rank
} tcp_comm;

static zg_status broken(tcp_comm *c, uint32_t rank, int error) {
  for (int i = 0; i < 40; i++) {                  // the watch knows more, a moment later
    ZG_TRY(zg__procs_check(&c->m.p, rank, zg_time_s()));
    usleep(25000);
  }
  return zg_error(ZG_CANCELLED, "the connection to rank %u is broken: %s", rank, error ? strerror(error) : "closed");
}

// Sends and receives what goes at once. *moved: something did.
static zg_status push(tcp_comm *c, uint32_t rank, bool *moved) {
  zg__lane *l = &c->m.lanes[rank];
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
static zg_status exchange(zg__mesh *m, const zg_comm_group *g) {
  tcp_comm *c = (tcp_comm *)m;
  double since = zg_time_s();
  for (;;) {
    bool moved = false;
    nfds_t n = 0;
    uint32_t waiting = 0;
    for (uint32_t i = 0; i < g->size; i++) {
      const uint32_t rank = g->base + i * g->stride;
      if (rank == c->m.p.base.rank) continue;
      ZG_TRY(push(c, rank, &moved));
      const zg__lane *l = &c->m.lanes[rank];
      if (!l->n_in && !l->n_out) continue;
      c->polls[n++] = (struct pollfd){c->fds[rank], (short)((l->n_in ? POLLIN : 0) | (l->n_out ? POLLOUT : 0)), 0};
      waiting = rank;
    }
    if (n == 0) return NULL;
    if (moved) since = zg_time_s();
    else if (poll(c->polls, n, LOOK_MS) == 0) ZG_TRY(zg__procs_check(&c->m.p, waiting, since));
  }
}

static void tcp_abort(zg_comm *base, const char *why) { zg__watch_abort(((tcp_comm *)base)->m.p.watch, why); }

static zg_status tcp_check(zg_comm *base) { return zg__watch_status(((tcp_comm *)base)->m.p.watch); }

static void tcp_free(zg_comm *base) {
  tcp_comm *c = (tcp_comm *)base;
  zg__watch_free(c->m.p.watch);
  for (uint32_t r = 0; r < base->world; r++) zg__wire_close(c->fds[r]);
  zg__mesh_fini(&c->m);
  zg_free(c->fds);
  zg_free(c->polls);
  zg_free(c);
}

zg_status zg__tcp_new(const zg__procs *p, int *fds, zg_comm **out) {
  static const zg_comm_vtable vtable = {.name = "tcp", .run = zg__mesh_run, .abort = tcp_abort, .check = tcp_check, .free = tcp_free};
  tcp_comm *c = zg_alloc(sizeof *c);
  zg_status s = zg__mesh_init(&c->m, p);
  if (s) {
    zg_free(c);
    return s;
  }
  c->m.p.base.vt = &vtable;
  c->m.exchange = exchange;
  c->fds = fds;
  c->polls = zg_alloc(sizeof *c->polls * p->base.world);
  for (uint32_t r = 0; r < p->base.world; r++)
    if (fds[r] >= 0) zg__wire_fast(fds[r]);
  *out = &c->m.p.base;
  return NULL;
}
