// The MPI module: point-to-point messages and nothing else, so that sums run in zgraph's order with zgraph's arithmetic, whatever the
// MPI. Waiting gives the processor away: MPICH's own waits spin, which costs dearly where ranks share cores.
#include "exec/mpi_module.h"
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PIECE = 1 << 30, SPINS = 200 };      // bytes of one message: counts are int
static char library[MPI_MAX_LIBRARY_VERSION_STRING];
static MPI_Request *requests;
static int n_requests, cap_requests;

static int failed(int rc, const char *call, char *text, int n_text) {
  char why[MPI_MAX_ERROR_STRING];
  int n;
  if (rc == MPI_SUCCESS) return 0;
  MPI_Error_string(rc, why, &n);
  snprintf(text, (size_t)n_text, "%s: %s", call, why);
  return 1;
}

static int init(int *rank, int *size, int *local_rank, int *local_size, char *text, int n_text) {
  int given, n;
  MPI_Comm local;
  if (failed(MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &given), "MPI_Init_thread", text, n_text)) return 1;
  if (given < MPI_THREAD_SERIALIZED) {
    snprintf(text, (size_t)n_text, "this MPI works in its first thread only (MPI_THREAD_SERIALIZED is needed)");
    return 1;
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Get_library_version(library, &n);
  library[strcspn(library, "\n")] = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, rank);
  MPI_Comm_size(MPI_COMM_WORLD, size);
  if (failed(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, *rank, MPI_INFO_NULL, &local), "MPI_Comm_split_type", text, n_text)) return 1;
  MPI_Comm_rank(local, local_rank);
  MPI_Comm_size(local, local_size);
  MPI_Comm_free(&local);
  return 0;
}

static MPI_Request *next_request(void) {
  if (n_requests == cap_requests) {
    cap_requests = cap_requests ? 2 * cap_requests : 64;
    requests = realloc(requests, sizeof *requests * (size_t)cap_requests);
    if (!requests) abort();
  }
  return &requests[n_requests++];
}

static int post(int peer, const void *out, uint64_t n_out, void *in, uint64_t n_in, char *text, int n_text) {
  for (uint64_t at = 0; at < n_in; at += PIECE) {
    const int n = (int)(n_in - at < PIECE ? n_in - at : PIECE);
    if (failed(MPI_Irecv((char *)in + at, n, MPI_BYTE, peer, 0, MPI_COMM_WORLD, next_request()), "MPI_Irecv", text, n_text)) return 1;
  }
  for (uint64_t at = 0; at < n_out; at += PIECE) {
    const int n = (int)(n_out - at < PIECE ? n_out - at : PIECE);
    if (failed(MPI_Isend((const char *)out + at, n, MPI_BYTE, peer, 0, MPI_COMM_WORLD, next_request()), "MPI_Isend", text, n_text)) return 1;
  }
  return 0;
}

static int exchange(int n, const int *peer, const void *const *out, const uint64_t *n_out, void *const *in, const uint64_t *n_in,
                    int (*look)(void *arg), void *arg, char *text, int n_text) {
  n_requests = 0;
  for (int i = 0; i < n; i++)
    if (post(peer[i], out[i], n_out[i], in[i], n_in[i], text, n_text)) return 1;
  for (int round = 0, done = 0;; round++) {
    if (failed(MPI_Testall(n_requests, requests, &done, MPI_STATUSES_IGNORE), "MPI_Testall", text, n_text)) return 1;
    if (done) return 0;
    if (round < SPINS) continue;
    const struct timespec nap = {0, 50000};
    nanosleep(&nap, NULL);
    if (round % 1000 == 0 && look(arg)) return -1;
  }
}

static void abort_all(void) { MPI_Abort(MPI_COMM_WORLD, 1); }
static void finalize(void) {
  MPI_Finalize();
  free(requests);
  requests = NULL;
  n_requests = cap_requests = 0;
}

const zg_mpi_module_table zg_mpi_module = {ZG_MPI_MODULE_VERSION, library, init, exchange, abort_all, finalize};
