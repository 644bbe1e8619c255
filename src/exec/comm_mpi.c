// Ranks that mpirun or srun has started, through MPI: the module for the MPI at hand is opened at run time. The launcher's word on the
// number of ranks is compared with MPI's: a module of another MPI would silently make every rank the only one.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "exec/comm_mesh.h"
#include "exec/mpi_dirs.h"
#include "exec/mpi_module.h"

typedef struct {
  zg__mesh m;
  void *library;
  const zg_mpi_module_table *mpi;
  int *peer;                         // arguments of exchange, per rank
  const void **out;
  void **in;
  uint64_t *n_out, *n_in;
  double since;
} mpi_comm;

static int look(void *arg) {
  const mpi_comm *c = arg;
  return zg_time_s() - c->since > c->m.p.patience_s;
}

static zg_status exchange(zg__mesh *m, const zg_comm_group *g) {
  mpi_comm *c = (mpi_comm *)m;
  char text[400] = "";
  int n = 0;
  for (uint32_t i = 0; i < g->size; i++) {
    const uint32_t rank = g->base + i * g->stride;
    const zg__lane *l = &m->lanes[rank];
    if (rank == m->p.base.rank || (!l->n_in && !l->n_out)) continue;
    c->peer[n] = (int)rank;
    c->out[n] = l->out, c->n_out[n] = l->n_out;
    c->in[n] = l->in, c->n_in[n] = l->n_in;
    n++;
  }
  c->since = zg_time_s();
  const int rc = n ? c->mpi->exchange(n, c->peer, c->out, c->n_out, c->in, c->n_in, look, c, text, sizeof text) : 0;
  if (rc < 0) return zg_error(ZG_CANCELLED, "one of the other ranks has not come for %.0f s", m->p.patience_s);
  return rc ? zg_error(ZG_CANCELLED, "%s", text) : NULL;
}

// MPI has no way to tell other ranks and go on: all end here, with the reason on standard error.
static void mpi_abort(zg_comm *base, const char *why) {
  fflush(stdout);
  fprintf(stderr, "zgraph: rank %u failed: %s\n", base->rank, why);
  ((mpi_comm *)base)->mpi->abort();
}

static void mpi_free(zg_comm *base) {
  mpi_comm *c = (mpi_comm *)base;
  c->mpi->finalize();
  zg__mesh_fini(&c->m);
  zg_free(c->peer);
  zg_free(c->out);
  zg_free(c->in);
  zg_free(c->n_out);
  zg_free(c->n_in);
  zg_free(c);                         // the library stays: MPI cannot be started twice
}

static zg_status open_module(const char *flavour, void **out, const zg_mpi_module_table **table) {
  static const char *const dirs[] = {ZG_MPI_DIRS};
  const char *own = getenv("ZG_MPI_MODULE");
  char path[1024];
  zg_str tried = {0};
  *out = NULL;
  for (size_t i = 0; i < ZG_COUNT(dirs) + 1 && !*out; i++) {
    if (i == 0 && !own) continue;
    if (i == 0) snprintf(path, sizeof path, "%s", own);
    else snprintf(path, sizeof path, "%s/zgraph-mpi-%s.so", dirs[i - 1], flavour);
    if (access(path, R_OK) == 0) *out = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!*out) zg_str_add(&tried, "%s%s", tried.n ? ", " : "", path);
  }
  zg_status s = NULL;
  if (!*out)
    s = zg_error(ZG_NOT_FOUND, "no MPI module for %s (looked for %s): build zgraph with its mpicc at hand, or set MASTER_ADDR, and ranks talk over TCP",
                 flavour, tried.at);
  zg_str_fini(&tried);
  if (s) return s;
  *table = dlsym(*out, "zg_mpi_module");
  if (!*table || (*table)->version != ZG_MPI_MODULE_VERSION) return zg_error(ZG_INVALID, "%s is no MPI module of this zgraph", path);
  return NULL;
}

zg_status zg_comm_mpi_connect(const char *flavour, uint32_t rank, uint32_t world, zg_comm **out) {
  static const zg_comm_vtable vtable = {.name = "mpi", .run = zg__mesh_run, .abort = mpi_abort, .free = mpi_free};
  void *library;
  const zg_mpi_module_table *mpi;
  int got_rank, got_world, local_rank, local_world;
  char text[400] = "";
  if (world > ZG_MAX_WORLD) return zg_error(ZG_INVALID, "%u ranks: at most %d", world, ZG_MAX_WORLD);
  ZG_TRY(open_module(flavour, &library, &mpi));
  if (mpi->init(&got_rank, &got_world, &local_rank, &local_world, text, sizeof text)) return zg_error(ZG_INTERNAL, "MPI: %s", text);
  if ((uint32_t)got_world != world || (uint32_t)got_rank != rank) {
    zg_status s = zg_error(ZG_INVALID, "the launcher says rank %u of %u, the MPI library (%.60s) rank %d of %d: they are of two MPIs; use the mpirun that "
                           "belongs to the library", rank, world, mpi->library, got_rank, got_world);
    mpi->finalize();
    return s;
  }
  const zg__procs p = {.base = {.rank = rank, .world = world, .local_rank = (uint32_t)local_rank, .local_world = (uint32_t)local_world}, .patience_s = 1800};
  mpi_comm *c = zg_alloc(sizeof *c);
  zg_status s = zg__mesh_init(&c->m, &p);
  if (s) {
    zg_free(c);
    return s;
  }
  c->m.p.base.vt = &vtable;
  c->m.exchange = exchange;
  c->library = library;
  c->mpi = mpi;
  c->peer = zg_alloc(sizeof *c->peer * world);
  c->out = zg_alloc(sizeof *c->out * world);
  c->in = zg_alloc(sizeof *c->in * world);
  c->n_out = zg_alloc(sizeof *c->n_out * world);
  c->n_in = zg_alloc(sizeof *c->n_in * world);
  *out = &c->m.p.base;
  return NULL;
}
