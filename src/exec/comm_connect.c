// Connecting ranks in processes of their own: rendezvous, then shared memory if all are on one machine (and can reach it), else TCP.
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
#include "exec/comm_procs.h"
#include "exec/wire.h"

static const double STEP_S = 20;

zg_status zg__procs_check(zg__procs *p, uint32_t rank, double since) {
  if (p->watch) ZG_TRY(zg__watch_status(p->watch));
  if (p->watch && zg__watch_left(p->watch, rank)) return zg_error(ZG_CANCELLED, "rank %u has ended its run already", rank);
  const double waited = zg_time_s() - since;
  if (waited < p->patience_s) return NULL;
  return zg_error(ZG_CANCELLED, "rank %u has not come for %.0f s: it hangs, or needs longer than all others", rank, waited);
}

static uint64_t machine_key(const char *machine) {
  char text[320] = "";
  if (!machine && gethostname(text, sizeof text - 1)) text[0] = 0;
  zg_str boot = {0};
  zg_status_free(zg_file_read("/proc/sys/kernel/random/boot_id", &boot));
  if (machine) snprintf(text, sizeof text, "%s", machine);
  const uint64_t key = zg_hash(text, strlen(text), boot.n ? zg_hash(boot.at, boot.n, 1) : 1);
  zg_str_fini(&boot);
  return key;
}

// Are all ranks well? Asked over the sockets of the rendezvous, before the watch has them.
static zg_status agree(zg__roster *r, bool mine, bool *out) {
  uint8_t all = mine, one;
  for (uint32_t i = 1; r->rank == 0 && i < r->world; i++) {
    ZG_TRY(zg_status_prefix(zg__wire_recv(r->fds[i], &one, 1, STEP_S), "rank %u, while connecting: ", i));
    all &= one;
  }
  if (r->rank) {
    one = mine;
    ZG_TRY(zg_status_prefix(zg__wire_send(r->fds[0], &one, 1, STEP_S), "rank 0, while connecting: "));
    ZG_TRY(zg_status_prefix(zg__wire_recv(r->fds[0], &all, 1, STEP_S), "rank 0, while connecting: "));
  }
  for (uint32_t i = 1; r->rank == 0 && i < r->world; i++) ZG_TRY(zg_status_prefix(zg__wire_send(r->fds[i], &all, 1, STEP_S), "rank %u, while connecting: ", i));
  *out = all;
  return NULL;
}

// ---- a socket between every two -----------------------------------------------------------------------------------

typedef struct { uint64_t cookie; uint32_t rank; } mesh_greeting;

static zg_status mesh_out(const zg__roster *r, uint64_t cookie, uint32_t to, int *out_fd) {
  const zg__peer *p = &r->peers[to];
  const mesh_greeting g = {cookie, r->rank};
  ZG_TRY(zg__wire_connect(p->addr, (uint16_t)p->data_port, STEP_S, out_fd));
  return zg__wire_send(*out_fd, &g, sizeof g, STEP_S);
}

static zg_status mesh_in(const zg__roster *r, uint64_t cookie, int listening, int *fds) {
  mesh_greeting g;
  int fd;
  ZG_TRY(zg__wire_accept(listening, STEP_S, &fd));
  zg_status s = zg__wire_recv(fd, &g, sizeof g, STEP_S);
  if (!s && g.cookie == cookie && g.rank > r->rank && g.rank < r->world && fds[g.rank] < 0) {
    fds[g.rank] = fd;
    return NULL;
  }
  zg__wire_close(fd);
  return s;
}

static zg_status mesh(const zg__roster *r, uint64_t cookie, int listening, int *fds) {
  for (uint32_t i = 0; i < r->rank; i++)
    ZG_TRY(zg_status_prefix(mesh_out(r, cookie, i, &fds[i]), "rank %u cannot reach rank %u: ", r->rank, i));
  const double end = zg_time_s() + STEP_S;
  for (;;) {
    uint32_t missing = 0;
    for (uint32_t i = r->rank + 1; i < r->world; i++)
      if (fds[i] < 0) missing = i;
    if (!missing) return NULL;
    if (zg_time_s() > end) return zg_error(ZG_NOT_FOUND, "rank %u has not connected to rank %u for %.0f s", missing, r->rank, STEP_S);
    ZG_TRY(zg_status_prefix(mesh_in(r, cookie, listening, fds), "rank %u waits for rank %u: ", r->rank, missing));
  }
}

// ---- connecting ---------------------------------------------------------------------------------------------------

typedef struct {
  const zg_comm_options *o;
  zg__roster roster;
  zg__procs procs;
  void *map;              // shared memory, until a communicator has it
  int shm_fd, listening;  // listening: for the mesh
  int *fds;               // mesh, until a communicator has it
} connecting;

static zg_status meet_all(connecting *c) {
  const zg_comm_options *o = c->o;
  uint16_t data_port = 0;
  ZG_TRY(zg__wire_listen("0.0.0.0", 0, &c->listening, &data_port));
  const zg__rendezvous_options ro = {.rank = o->rank, .world = o->world, .addr = o->addr, .port = o->port, .n_ports = o->n_ports,
                                     .cookie = o->cookie, .machine = machine_key(o->machine), .listen_fd = o->listen_fd, .shm_fd = c->shm_fd,
                                     .data_port = data_port, .timeout_s = o->start_s > 0 ? o->start_s : 300};
  return zg__rendezvous(&ro, &c->roster);
}

static zg_status try_shm(connecting *c, bool *out) {
  const zg__peer *first = &c->roster.peers[0];
  bool ok = first->shm_fd >= 0;
  for (uint32_t i = 1; i < c->roster.world; i++) ok &= c->roster.peers[i].machine == first->machine;
  *out = false;
  if (!ok) return NULL;      // every rank sees the same list
  if (c->o->rank > 0) {
    zg_status s = zg__shm_attach(first->pid, first->shm_fd, c->o->world, c->o->cookie, &c->map);
    if (s) zg_log(1, "rank %u: %s: TCP instead", c->o->rank, zg_status_message(s));
    ok = !s;
    zg_status_free(s);
  }
  return agree(&c->roster, ok, out);
}

static zg_status build(connecting *c, zg_comm **out) {
  bool shm = false, all = false;
  const uint32_t world = c->o->world;
  ZG_TRY(try_shm(c, &shm));
  if (!shm) {
    c->fds = zg_alloc(sizeof *c->fds * world);
    for (uint32_t i = 0; i < world; i++) c->fds[i] = -1;
    zg_status s = mesh(&c->roster, c->o->cookie, c->listening, c->fds), t = agree(&c->roster, !s, &all);
    if (s) {
      zg_status_free(t);
      return s;
    }
    ZG_TRY(t);
    if (!all) return zg_error(ZG_CANCELLED, "another rank could not connect");
  }
  const zg__peer *me = &c->roster.peers[c->o->rank];
  c->procs = (zg__procs){.base = {.rank = c->o->rank, .world = world, .local_rank = me->local_rank, .local_world = me->local_world},
                         .patience_s = c->o->collective_s > 0 ? c->o->collective_s : 1800};
  ZG_TRY(zg__watch_new(&c->roster, c->o->exit_after_s, &c->procs.watch));
  if (shm) {
    *out = zg__shm_new(&c->procs, c->map);
    c->map = NULL;
    return NULL;
  }
  zg_status s = zg__tcp_new(&c->procs, c->fds, out);
  if (s) zg__watch_free(c->procs.watch);
  else c->fds = NULL;
  return s;
}

zg_status zg_comm_connect(const zg_comm_options *o, zg_comm **out) {
  if (o->world < 1 || o->world > ZG_MAX_WORLD || o->rank >= o->world)
    return zg_error(ZG_INVALID, "rank %u of %u ranks: ranks go from 0 to world - 1, at most %d of them", o->rank, o->world, ZG_MAX_WORLD);
  connecting c = {.o = o, .shm_fd = -1, .listening = -1};
  zg_status status = NULL;
  if (o->rank == 0 && !o->no_shm) ZG_TRY_OUT(zg__shm_create(o->world, o->cookie, &c.shm_fd, &c.map));
  ZG_TRY_OUT(meet_all(&c));
  ZG_TRY_OUT(build(&c, out));
  zg_log(1, "rank %u of %u: connected through %s", o->rank, o->world, (*out)->vt->name);
out:
  for (uint32_t i = 0; c.fds && i < o->world; i++) zg__wire_close(c.fds[i]);
  zg_free(c.fds);
  if (c.map) munmap(c.map, zg__shm_bytes(o->world));
  zg__wire_close(c.shm_fd);
  zg__wire_close(c.listening);
  zg__roster_fini(&c.roster);
  return status;
}

void zg_comm_protest(const zg_comm_options *o) {
  const zg__rendezvous_options ro = {.rank = o->rank, .world = o->world, .addr = o->addr, .port = o->port, .cookie = o->cookie};
  zg__rendezvous_protest(&ro);
}
