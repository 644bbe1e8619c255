// What the MPI module (mpi_module.c, a shared object built with mpicc) gives to zgraph, which is built without MPI. Plain C types only:
// one module is made for each MPI, because their binary interfaces differ.
#pragma once
#include <stdint.h>

enum { ZG_MPI_MODULE_VERSION = 1 };
typedef struct {
  int version;
  const char *library;                                                   // "MPICH Version: 4.0.2 .."; valid after init
  // Starts MPI for use by one thread at a time. 0: well; else text says what failed.
  int (*init)(int *rank, int *size, int *local_rank, int *local_size, char *text, int n_text);
  // Sends out[i] (n_out[i] bytes) to rank peer[i] and receives in[i] from it, for n peers at once. Calls look(arg) every 50 ms while
  // it waits; gives up with -1 when that returns nonzero. Else 0, or 1 with a text.
  int (*exchange)(int n, const int *peer, const void *const *out, const uint64_t *n_out, void *const *in, const uint64_t *n_in,
                  int (*look)(void *arg), void *arg, char *text, int n_text);
  void (*abort)(void);                                                   // ends all ranks
  void (*finalize)(void);
} zg_mpi_module_table;
// The one symbol of the module.
extern const zg_mpi_module_table zg_mpi_module;
