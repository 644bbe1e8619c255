// The environments of launchers, as one table:
//   zgraph, torchrun, accelerate, deepspeed   RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE (LOCAL_SIZE), MASTER_ADDR MASTER_PORT
//   Open MPI                                  OMPI_COMM_WORLD_RANK ..
//   MPICH and others with PMI                 PMI_RANK PMI_SIZE
//   srun                                      SLURM_PROCID of a step with SLURM_STEP_NUM_TASKS tasks
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "train/launch.h"

typedef struct { const char *rank, *world, *local_rank, *local_world[2], *job, *mpi; } source;
static const source sources[] = {
    {"RANK", "WORLD_SIZE", "LOCAL_RANK", {"LOCAL_WORLD_SIZE", "LOCAL_SIZE"}, "TORCHELASTIC_RUN_ID", NULL},
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", {"OMPI_COMM_WORLD_LOCAL_SIZE", NULL}, "PMIX_NAMESPACE", "openmpi"},
    {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", {"MPI_LOCALNRANKS", NULL}, NULL, "mpich"},
    {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", {NULL, NULL}, "SLURM_JOB_ID", NULL},
};

static zg_status read_number(const char *name, uint32_t limit, uint32_t *out) {
  char *end;
  const char *text = name ? getenv(name) : NULL;
  if (!text) return NULL;
  const unsigned long long v = strtoull(text, &end, 10);
  if (end == text || *end || text[0] == '-' || v > limit) return zg_error(ZG_INVALID, "environment: %s is \"%s\", want a number up to %u", name, text, limit);
  *out = (uint32_t)v;
  return NULL;
}

// First host of a Slurm list: "n[03-07,9],m1" -> "n03".
static void first_host(const char *list, char *out, size_t n) {
  const size_t head = strcspn(list, "[,");
  if (list[head] == '[') {
    const char *from = list + head + 1;
    snprintf(out, n, "%.*s%.*s", (int)head, list, (int)strcspn(from, "-,]"), from);
  } else {
    snprintf(out, n, "%.*s", (int)head, list);
  }
}

static zg_status read_address(zg_rank_env *e) {
  const char *addr = getenv("MASTER_ADDR"), *nodes = getenv("SLURM_STEP_NODELIST");
  uint32_t port = 0;
  if (addr) snprintf(e->addr, sizeof e->addr, "%s", addr);
  else if (e->local_world == e->world) snprintf(e->addr, sizeof e->addr, "127.0.0.1");
  else if (nodes && !strncmp(e->from, "SLURM", 5)) first_host(nodes, e->addr, sizeof e->addr);
  ZG_TRY(read_number("MASTER_PORT", UINT16_MAX, &port));
  e->port = (uint16_t)port;
  const char *store = getenv("TORCHELASTIC_USE_AGENT_STORE");
  e->port_taken = store && !strcmp(store, "True") && !strcmp(e->from, "RANK");
  return NULL;
}

zg_status zg_rank_env_read(zg_rank_env *out) {
  *out = (zg_rank_env){.from = NULL};
  for (size_t i = 0; i < ZG_COUNT(sources) && !out->from; i++) {
    const source *s = &sources[i];
    const char *rank = getenv(s->rank), *world = getenv(s->world), *job = s->job ? getenv(s->job) : NULL;
    if (!rank || !world) {
      if (i == 0 && rank) return zg_error(ZG_INVALID, "environment: RANK is set, WORLD_SIZE is not: set both, or unset RANK");
      continue;
    }
    out->from = s->rank;
    out->mpi = s->mpi;
    ZG_TRY(read_number(s->rank, INT_MAX, &out->rank));
    ZG_TRY(read_number(s->world, INT_MAX, &out->world));
    ZG_TRY(read_number(s->local_rank, INT_MAX, &out->local_rank));
    for (int k = 1; k >= 0; k--) ZG_TRY(read_number(s->local_world[k], INT_MAX, &out->local_world));
    out->job = job ? zg_hash(job, strlen(job), 3) : i == 2 ? (uint64_t)getppid() : 0;   // hydra starts all its local ranks itself
  }
  if (!out->from) return NULL;
  if (out->rank >= out->world) return zg_error(ZG_INVALID, "environment: %s is %u, of %u ranks the last is %u", out->from, out->rank, out->world, out->world - 1);
  return read_address(out);
}
