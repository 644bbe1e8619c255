// Between connecting (comm_connect.c) and the two back ends for processes.
#pragma once
#include "exec/comm_priv.h"
#include "exec/watch.h"

// What both have: the watch, and the patience with a rank that does not come.
typedef struct {
  zg_comm base;
  zg__watch *watch;
  double patience_s;
  uint32_t n_collectives;
} zg__procs;
// What to say of a rank that somebody waits for since `since` (zg_time_s): NULL while waiting goes on.
zg_status zg__procs_check(zg__procs *p, uint32_t rank, double since);

// Shared memory of `world` ranks of one machine: size of the file, and a back end on a mapping of it (taken over).
uint64_t zg__shm_bytes(uint32_t world);
zg_status zg__shm_create(uint32_t world, uint64_t cookie, int *out_fd, void **out_map);
zg_status zg__shm_attach(uint32_t pid, int fd, uint32_t world, uint64_t cookie, void **out_map);
zg_comm *zg__shm_new(const zg__procs *p, void *map);
// TCP: a socket to every other rank (own: -1), taken over.
zg_status zg__tcp_new(const zg__procs *p, int *fds, zg_comm **out);
