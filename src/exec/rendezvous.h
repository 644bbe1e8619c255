// How ranks of several processes find each other: rank 0 listens at a known address, everybody greets it, and it hands out the list
// of all ranks. The connections stay open: the watch (watch.h) lives on them.
#pragma once
#include "exec/comm.h"

// One line of the list.
typedef struct {
  uint32_t rank, local_rank, local_world;
  uint32_t pid;
  uint64_t machine;          // ranks with the same one share memory
  int32_t shm_fd;            // rank 0: its memory file, number in its own table; -1
  uint32_t data_port;        // where it listens for other ranks; 0: nowhere
  char addr[48];             // as rank 0 sees it
} zg__peer;

typedef struct {
  uint32_t rank, world;
  zg__peer *peers;           // world entries
  int *fds;                  // rank 0: socket to each rank (own: -1); else: [0] leads to rank 0
} zg__roster;

typedef struct {
  uint32_t rank, world;
  const char *addr;
  uint16_t port;
  uint32_t n_ports;          // candidates: port .. port + n_ports - 1, all on one job's cookie
  uint64_t cookie;           // of the job; ranks of another job are sent away
  uint64_t machine;
  int listen_fd;             // rank 0: a socket that listens at port already; -1
  int32_t shm_fd;            // rank 0: memory file for all ranks, in its own table; -1
  uint16_t data_port;
  double timeout_s;
} zg__rendezvous_options;

// ZG_INVALID: ranks that do not fit together (twice the same, another world size, another version), named on every rank;
// ZG_NOT_FOUND: ranks that have not come in time, named. Collective, blocking.
zg_status zg__rendezvous(const zg__rendezvous_options *o, zg__roster *out);
// One attempt to greet rank 0 at o->addr as a rank that cannot take part (a second rank 0): it then ends all ranks, with a message.
void zg__rendezvous_protest(const zg__rendezvous_options *o);
void zg__roster_fini(zg__roster *r);
