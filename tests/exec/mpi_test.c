// A rank under mpirun: the cases of every back end through the MPI module. Usage: mpirun -n N mpi_test FLAVOUR; alone: the module must
// refuse a launcher whose number of ranks is not MPI's.
#include <stdio.h>
#include <stdlib.h>
#include "comm_cases.h"
#include "train/launch.h"

static int report(zg_status s, uint32_t rank) {
  if (s) fprintf(stderr, "rank %u: %s\n", rank, zg_status_message(s));
  zg_status_free(s);
  return s != NULL;
}

static zg_status run(zg_comm *c) {
  uint64_t digest, *all = zg_alloc(sizeof *all * c->world);
  zg_status s = comm_cases(c, &digest);
  if (!s) s = zg_comm_all_gather(c, 0, ZG_U64, all, &digest, 1, c->world, "digests");
  for (uint32_t r = 0; r < c->world && !s; r++)
    if (all[r] != digest) s = zg_error(ZG_INTERNAL, "rank %u has other results", r);
  zg_free(all);
  return s;
}

int main(int argc, char **argv) {
  zg_rank_env e;
  zg_comm *c = NULL;
  if (argc < 2 || report(zg_rank_env_read(&e), 0)) return 1;
  if (!e.from) {
    zg_status s = zg_comm_mpi_connect(argv[1], 1, 4, &c);
    const bool refused = s && zg_status_code(s) == ZG_INVALID && strstr(zg_status_message(s), "of two MPIs");
    report(s, 0);
    return !refused;
  }
  zg_status s = zg_comm_mpi_connect(argv[1], e.rank, e.world, &c);
  if (!s) s = run(c);
  const int rc = report(s, e.rank);
  zg_comm_free(c);
  return rc;
}
