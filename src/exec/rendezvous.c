// Rendezvous.  rank r -> rank 0: greeting.   rank 0 -> rank r: answer (text empty: welcome), then the list of all ranks.
#include "exec/rendezvous.h"
#include <stdio.h>
#include <unistd.h>
#include "exec/wire.h"

enum { MAGIC = 0x7a67a11e, VERSION = 1 };
typedef struct { uint32_t magic, version; uint64_t cookie; uint32_t rank, world; zg__peer peer; } greeting;
typedef struct { uint32_t magic, ok; uint64_t cookie; char text[400]; } answer;

static const double STEP_S = 10;     // for one message once somebody talks
static const double LATE_S = 1.5;

static void refuse(int fd, uint64_t cookie, const char *text) {
  answer a = {.magic = MAGIC, .cookie = cookie};
  snprintf(a.text, sizeof a.text, "%s", text);
  zg_status_free(zg__wire_send(fd, &a, sizeof a, STEP_S));
}

// ---- rank 0 -------------------------------------------------------------------------------------------------------

// NULL: fits. A rank that does not fit ends the start for all, because its place stays empty.
static zg_status check_greeting(const zg__rendezvous_options *o, const greeting *g, const zg__roster *r) {
  if (g->version != VERSION) return zg_error(ZG_INVALID, "a rank from %s runs another version of zgraph", g->peer.addr);
  if (g->world != o->world)
    return zg_error(ZG_INVALID, "rank %u (%s) was started for %u ranks, rank 0 for %u: num_processes differs", g->rank, g->peer.addr, g->world, o->world);
  if (g->rank >= o->world) return zg_error(ZG_INVALID, "rank %u (%s) does not exist among %u ranks", g->rank, g->peer.addr, o->world);
  if (g->rank == 0 || r->fds[g->rank] >= 0)
    return zg_error(ZG_INVALID, "rank %u was started twice (%s and %s): give each machine its own machine_rank", g->rank,
                    g->rank ? r->peers[g->rank].addr : o->addr, g->peer.addr);
  return NULL;
}

static zg_status missing(const zg__rendezvous_options *o, const zg__roster *r) {
  zg_str names = {0};
  for (uint32_t i = 1; i < o->world; i++)
    if (r->fds[i] < 0) zg_str_add(&names, "%s%u", names.n ? ", " : "", i);
  zg_status s = zg_error(ZG_NOT_FOUND, "after %.0f s these of %u ranks have not come to %s:%u: %s", o->timeout_s, o->world, o->addr, o->port, names.at);
  zg_str_fini(&names);
  return s;
}

// Takes one connection. What is no rank of this job is sent away and changes nothing.
static zg_status take(const zg__rendezvous_options *o, int fd, zg__roster *r, uint32_t *have) {
  greeting g;
  zg_status s = zg__wire_recv(fd, &g, sizeof g, STEP_S);
  if (s || g.magic != MAGIC || g.cookie != o->cookie) {
    zg_status_free(s);
    refuse(fd, 0, "not this job");
    close(fd);
    return NULL;
  }
  zg__wire_peer(fd, g.peer.addr, sizeof g.peer.addr);
  s = check_greeting(o, &g, r);
  if (s) {
    refuse(fd, o->cookie, zg_status_message(s));
    close(fd);
    return s;
  }
  r->fds[g.rank] = fd;
  r->peers[g.rank] = g.peer;
  ++*have;
  return NULL;
}

static void number_locals(zg__roster *r) {
  for (uint32_t i = 0; i < r->world; i++) {
    zg__peer *p = &r->peers[i];
    p->rank = i;
    p->local_rank = p->local_world = 0;
    for (uint32_t j = 0; j < r->world; j++) {
      const bool same = r->peers[j].machine == p->machine;
      p->local_world += same;
      p->local_rank += same && j < i;
    }
  }
}

static zg_status collect(const zg__rendezvous_options *o, int listening, zg__roster *r) {
  const double end = zg_time_s() + o->timeout_s;
  uint32_t have = 1;
  while (have < o->world) {
    int fd;
    const double left = end - zg_time_s();
    zg_status s = left > 0 ? zg__wire_accept(listening, left, &fd) : missing(o, r);
    if (s && zg_status_code(s) == ZG_NOT_FOUND && left > 0) {
      zg_status_free(s);
      continue;
    }
    if (!s) s = take(o, fd, r, &have);
    ZG_TRY(s);
  }
  number_locals(r);
  for (uint32_t i = 1; i < o->world; i++) {
    const answer a = {.magic = MAGIC, .ok = 1, .cookie = o->cookie};
    ZG_TRY(zg_status_prefix(zg__wire_send(r->fds[i], &a, sizeof a, STEP_S), "rank %u: ", i));
    ZG_TRY(zg_status_prefix(zg__wire_send(r->fds[i], r->peers, sizeof *r->peers * r->world, STEP_S), "rank %u: ", i));
  }
  return NULL;
}

static zg_status open_listener(const zg__rendezvous_options *o, int *out) {
  zg_status s = NULL;
  for (uint32_t i = 0; i < ZG_MAX(1, o->n_ports); i++) {
    uint16_t port;
    zg_status_free(s);
    s = zg__wire_listen(o->addr, (uint16_t)(o->port + i), out, &port);
    if (!s) return NULL;
  }
  return s;
}

// The start has failed: those who are still on their way are told too, for a moment, or they would wait for a rank 0 that is gone.
static void refuse_all(const zg__rendezvous_options *o, int listening, const zg__roster *r, const char *text) {
  greeting g;
  int fd;
  const double end = zg_time_s() + LATE_S;
  for (uint32_t i = 1; i < o->world; i++)
    if (r->fds[i] >= 0) refuse(r->fds[i], o->cookie, text);
  for (double left; (left = end - zg_time_s()) > 0;) {
    zg_status s = zg__wire_accept(listening, left, &fd);
    if (s) {
      zg_status_free(s);
      continue;
    }
    s = zg__wire_recv(fd, &g, sizeof g, LATE_S);
    if (!s && g.magic == MAGIC && g.cookie == o->cookie) refuse(fd, o->cookie, text);
    zg_status_free(s);
    close(fd);
  }
}

static zg_status serve(const zg__rendezvous_options *o, zg__roster *r, const zg__peer *mine) {
  int listening = o->listen_fd;
  if (listening < 0) ZG_TRY(open_listener(o, &listening));
  r->peers[0] = *mine;
  snprintf(r->peers[0].addr, sizeof r->peers[0].addr, "%s", o->addr);
  zg_status s = collect(o, listening, r);
  if (s) refuse_all(o, listening, r, zg_status_message(s));
  close(listening);
  return s;
}

// ---- the others ---------------------------------------------------------------------------------------------------

// One attempt at one port. *again: nobody there, or not ours.
static zg_status greet(const zg__rendezvous_options *o, uint16_t port, const greeting *g, double timeout_s, int *out_fd, bool *again) {
  answer a;
  int fd = -1;
  *again = false;
  zg_status s = zg__wire_connect(o->addr, port, ZG_MIN(timeout_s, 5.0), &fd);
  if (s) {
    *again = zg_status_code(s) == ZG_NOT_FOUND;
    return s;
  }
  s = zg__wire_send(fd, g, sizeof *g, STEP_S);
  if (!s) s = zg__wire_recv(fd, &a, sizeof a, timeout_s);
  if (s || a.magic != MAGIC || a.cookie != o->cookie) {
    *again = true;
    close(fd);
    return s ? s : zg_error(ZG_NOT_FOUND, "somebody else listens there");
  }
  if (!a.ok) {
    close(fd);
    return zg_error(ZG_INVALID, "rank 0 at %s:%u refuses: %s", o->addr, port, a.text);
  }
  *out_fd = fd;
  return NULL;
}

static zg_status come(const zg__rendezvous_options *o, zg__roster *r, const zg__peer *mine) {
  const greeting g = {MAGIC, VERSION, o->cookie, o->rank, o->world, *mine};
  const double begin = zg_time_s(), end = begin + o->timeout_s;
  double told = begin;
  for (uint32_t i = 0;; i++) {
    bool again;
    const uint16_t port = (uint16_t)(o->port + i % ZG_MAX(1, o->n_ports));
    zg_status s = greet(o, port, &g, ZG_MAX(0.1, end - zg_time_s()), &r->fds[0], &again);
    if (!s) break;
    if (!again || zg_time_s() >= end)
      return again ? zg_status_prefix(s, "rank %u has waited %.0f s for rank 0 at %s:%u; is rank 0 started, with this address? Last answer: ",
                                      o->rank, o->timeout_s, o->addr, o->port) : s;
    if (zg_time_s() - told > 10) {
      told = zg_time_s();
      zg_warn("still waiting for rank 0 at %s:%u", o->addr, o->port);
    }
    zg_status_free(s);
    usleep(50000);
  }
  return zg_status_prefix(zg__wire_recv(r->fds[0], r->peers, sizeof *r->peers * r->world, STEP_S), "rank 0: ");
}

zg_status zg__rendezvous(const zg__rendezvous_options *o, zg__roster *out) {
  const uint32_t n_fds = o->rank == 0 ? o->world : 1;
  const zg__peer mine = {.rank = o->rank, .pid = (uint32_t)getpid(), .machine = o->machine, .shm_fd = o->shm_fd, .data_port = o->data_port};
  *out = (zg__roster){.rank = o->rank, .world = o->world, .peers = zg_alloc(sizeof *out->peers * o->world), .fds = zg_alloc(sizeof *out->fds * n_fds)};
  for (uint32_t i = 0; i < n_fds; i++) out->fds[i] = -1;
  zg_status s = o->rank == 0 ? serve(o, out, &mine) : come(o, out, &mine);
  if (s) zg__roster_fini(out);
  return s;
}

void zg__rendezvous_protest(const zg__rendezvous_options *o) {
  const greeting g = {.magic = MAGIC, .version = VERSION, .cookie = o->cookie, .rank = o->rank, .world = o->world};
  int fd = -1;
  bool again;
  zg_status_free(greet(o, o->port, &g, 2, &fd, &again));
  zg__wire_close(fd);
}

void zg__roster_fini(zg__roster *r) {
  for (uint32_t i = 0; r->fds && i < (r->rank == 0 ? r->world : 1); i++) zg__wire_close(r->fds[i]);
  zg_free(r->fds);
  zg_free(r->peers);
  *r = (zg__roster){0};
}
