// Starting ranks. A process is one of three things: a rank that something else has started (torchrun, accelerate launch, srun, mpirun,
// or zgraph itself), which its environment tells; the launcher of the ranks that the configuration asks for; or alone.
#pragma once
#include "exec/comm.h"
#include "train/config.h"

// What the environment says of this process. from: the variable it was read from, "RANK", "OMPI_COMM_WORLD_RANK", ..; NULL: nothing.
typedef struct {
  const char *from;
  uint32_t rank, world, local_rank, local_world;   // local_world 0: not told
  char addr[256];                                  // "": not told
  uint16_t port;                                   // 0: not told
  uint64_t job;                                    // the same on all ranks, where something tells
  const char *mpi;                                 // "mpich", "openmpi": started by that one's launcher; NULL
  bool port_taken;                                 // torchrun listens at `port` itself: ranks meet at the ones behind it
} zg_rank_env;
// ZG_INVALID: a variable without its partner, or that is no number.
zg_status zg_rank_env_read(zg_rank_env *out);

typedef struct {
  zg_comm *comm;     // this rank's; zg_comm_free it. NULL: alone
  bool done;         // this was the launcher: all ranks have run to their end, nothing is left to do here
} zg_launched;
// Finds out what this process is, and starts or joins the ranks. As the launcher it runs until all its ranks have ended: the same
// program with the same arguments, one process a rank; rank 0's standard output is shown, standard error of all, each line with its
// rank in front; signals are passed on; whatever way the launcher ends, its ranks end too. Call it before threads exist.
// Failure: a rank that failed, by number, and how; the ranks have told why themselves.
zg_status zg_launch(const zg_config *cfg, zg_launched *out);
// Threads of this rank: cfg->threads, or its share of the cores.
int zg_launch_threads(const zg_config *cfg, const zg_comm *comm);
