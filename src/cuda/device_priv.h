// The CUDA device and its programs, as the files of this room share them: device.c opens, program.c prepares, run.c runs segments,
// transfer.c moves bytes between host and device.
#pragma once
#include <pthread.h>

#include "cuda/blas_search.h"
#include "cuda/collective.h"
#include "cuda/compile.h"
#include "cuda/cuda.h"
#include "cuda/lib_cuda.h"
#include "cuda/lib_nccl.h"

typedef struct {
  zg_device base;
  zg_cu_device gpu;
  zg_cu_handle ctx;
  int arch;
  zg__target target;
  zg_lt_handle lt;  // NULL: no cuBLASLt, own kernels do matmul
  zg__search search;
  char text[160];
  uint64_t memory;
} zg__cuda_device;

typedef struct {
  zg_cu_handle f;
  uint32_t grid[3], block, shared;
  size_t n_params;
  uint64_t *params;
} zg__cuda_launch;
typedef struct {
  zg__cuda_launch *launches;
  uint32_t n;
  bool blas;
  zg__product product;
  uint64_t *args, workspace;
} zg__cuda_kernel;

// Bytes on their way to the device: a pinned ring of two halves. A half is written again when the device has copied all of it.
typedef struct {
  uint8_t *at;  // two halves, one behind the other
  uint64_t half, used;
  uint32_t current;
  zg_cu_handle left[2];  // event: the copies out of this half are done
} zg__ring;

// Results that the host asks for now and takes later.
enum { ZG__FETCH_BYTES = 16, ZG__FETCH_SLOT = 64, ZG__FETCH_CHUNK = 256 };
typedef struct {
  zg_cu_handle ready;
  uint8_t *at;  // pinned: the bytes, then the error record
  uint64_t n;
  bool taken;  // free to be used again
} zg__fetch;

// A piece of a disk arena read into, or written from, a stream's pinned bounce buffer by a host function on that stream.
typedef struct {
  int fd;
  bool write;
  uint8_t *bounce;
  uint64_t at, n;
  _Atomic int *failure;  // errno of the first transfer that failed
} zg__disk_job;

// What is known of a segment after it has run: how it is recorded and replayed.
typedef struct {
  bool uses[ZG_N_STREAMS], mixed;  // mixed: collectives on more than one stream
  uint32_t runs;
  bool refused;  // it cannot be recorded
  zg_cu_handle graph;
  uint64_t calls[ZG_N_COMM_KINDS], bytes_sent[ZG_N_COMM_KINDS];  // of one run
} zg__cuda_segment;

typedef struct {
  zg_program base;
  pthread_mutex_t lock;
  zg_cu_handle stream[ZG_N_STREAMS], aside;  // aside: to look at the device while the others are stuck
  zg_cu_ptr device, state;                   // device space; random state, error record, progress
  uint8_t *host;                             // host space, pinned
  int disk;                                  // file of the disk space, -1: none
  uint8_t *bounce[ZG_N_STREAMS];
  zg__disk_job **jobs;  // of each COPY step that meets the disk
  _Atomic int disk_failure;
  uint64_t allocated;
  zg__ring ring;
  uint8_t *stage;  // pinned, what `read` reads
  ZG_VEC(zg__fetch) fetches;
  ZG_VEC(uint8_t *) fetch_chunks;
  zg_rand_state last_rand;
  bool has_rand;
  zg_arena mem;
  zg_cu_handle *modules;
  uint32_t n_modules;
  zg__cuda_kernel *kernels;
  zg__nccl_groups groups;
  // running
  zg_cu_handle *events;                      // by the schedule's numbers
  uint32_t n_events;
  zg_cu_handle fork, join[ZG_N_STREAMS], order[ZG_N_STREAMS];
  zg__cuda_segment *segments, *now;          // now: between begin and end
  zg_comm *comm;
  bool capturing, grouping, graphs;
  int last_collective;                       // stream of the last one in this segment, -1: none
} zg__cuda_program;

enum {
  ZG__STATE_BYTES = 256,
  ZG__ERROR_AT = 128,     // in p->state: the error record (dialect.cuh, zg_fail)
  ZG__PROGRESS_AT = 192,  // step of the last collective that began, plus one
  ZG__ERROR_BYTES = 32,
  ZG__STAGE_BYTES = 4 << 20,
};

static inline zg__cuda_program *zg__cuda_program_of(zg_program *p) { return (zg__cuda_program *)p; }
static inline zg__cuda_device *zg__cuda_device_of(const zg__cuda_program *p) {
  return (zg__cuda_device *)p->base.device;
}
// The driver's calls are for the thread's current context, and programs are used from several threads.
static inline zg_status zg__cuda_enter(const zg__cuda_program *p) {
  return ZG_CUDA(cuCtxSetCurrent, zg__cuda_device_of(p)->ctx);
}

// program.c
zg_status zg__cuda_prepare(zg_device *dev, const zg_sched *s, zg_program **out);
void zg__cuda_program_free(zg_program *base);
zg_status zg__cuda_workspace(zg_device *dev, const zg_sched *s, const zg_kernel *k, uint64_t *out_bytes);
uint64_t zg__cuda_address(const zg__cuda_program *p, uint32_t buf);  // of a buffer in the device space

// run.c
zg_status zg__cuda_begin(zg_program *p, const zg_segment *seg, zg_comm *comm, zg_rand_state r, bool *replayed);
zg_status zg__cuda_end(zg_program *p, zg_status so_far, bool *again);
zg_status zg__cuda_run_kernel(zg_program *p, uint32_t kernel, zg_rand_state r);
zg_status zg__cuda_collective(zg_program *p, const zg_step *s, zg_comm *comm, const zg_comm_op *op);
zg_status zg__cuda_group(zg_program *p, bool on);
zg_status zg__cuda_mark(zg_program *p, const zg_step *s);

// transfer.c
zg_status zg__cuda_write(zg_program *p, uint32_t buf, uint64_t at, const void *src, uint64_t n);
zg_status zg__cuda_read(zg_program *p, uint32_t buf, uint64_t at, void *dst, uint64_t n);
zg_status zg__cuda_copy(zg_program *p, const zg_step *s, uint64_t to_at, uint64_t from_at, uint64_t n);
zg_status zg__cuda_fetch(zg_program *p, uint32_t buf, uint64_t at, uint64_t n, uint32_t *out_ticket);
zg_status zg__cuda_take(zg_program *p, uint32_t ticket, void *dst);
// Bytes to device memory through the ring, behind what the compute stream has.
zg_status zg__cuda_put(zg__cuda_program *p, zg_cu_ptr to, const void *src, uint64_t n);
zg_status zg__cuda_transfer_init(zg__cuda_program *p);
void zg__cuda_transfer_fini(zg__cuda_program *p);

// watch.c
// Waits for an event, or until a stream has done all it has (event NULL). With several ranks it looks after them meanwhile: one that
// has failed, a failure of NCCL, or no end for ZG_CUDA_TIMEOUT seconds (1800) end the wait and abort NCCL, with a status that names the
// collective that was under way.
zg_status zg__cuda_wait(zg__cuda_program *p, zg_cu_handle event, zg_cu_handle stream);
