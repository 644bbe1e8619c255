// The stand-in for libcuda: what its files share. One lock guards everything; whoever waits for work runs it
// (queue.c).
#pragma once
#include "fiber.h"

typedef int CUresult;
enum {
  CUDA_SUCCESS = 0,
  CUDA_ERROR_INVALID_VALUE = 1,
  CUDA_ERROR_OUT_OF_MEMORY = 2,
  CUDA_ERROR_NOT_INITIALIZED = 3,
  CUDA_ERROR_INVALID_DEVICE = 101,
  CUDA_ERROR_INVALID_IMAGE = 200,
  CUDA_ERROR_INVALID_CONTEXT = 201,
  CUDA_ERROR_INVALID_HANDLE = 400,
  CUDA_ERROR_NOT_FOUND = 500,
  CUDA_ERROR_NOT_READY = 600,
  CUDA_ERROR_ILLEGAL_ADDRESS = 700,
  CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES = 701,
  CUDA_ERROR_LAUNCH_TIMEOUT = 702,
  CUDA_ERROR_LAUNCH_FAILED = 719,
  CUDA_ERROR_NOT_SUPPORTED = 801,
  CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
  CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901,
  CUDA_ERROR_STREAM_CAPTURE_MERGE = 902,
  CUDA_ERROR_STREAM_CAPTURE_UNMATCHED = 903,
  CUDA_ERROR_STREAM_CAPTURE_UNJOINED = 904,
  CUDA_ERROR_STREAM_CAPTURE_ISOLATION = 905,
  CUDA_ERROR_CAPTURED_EVENT = 907,
};
enum { DEVICES_MAX = 16 };

// ---- device.c -----------------------------------------------------------------------------------------
typedef struct {
  int ordinal, retained;
  CUresult sticky;
} device;                     // a CUcontext points to one
device *zg_emu_device(void);  // the calling thread's current one; NULL: none
void zg_emu_lock(void);
void zg_emu_unlock(void);
// Begins a call: takes the lock. An error (not initialised, no context, a sticky error) is returned with the
// lock not held.
CUresult zg_emu_enter_call(void);
CUresult zg_emu_leave_call(CUresult r);
#define ENTER()                        \
  do {                                 \
    CUresult r_ = zg_emu_enter_call(); \
    if (r_) return r_;                 \
  } while (0)
#define LEAVE(r) return zg_emu_leave_call(r)

// ---- memory.c -----------------------------------------------------------------------------------------
// Opens device memory for the emulator's own work; calls nest. Inside, illegal accesses by kernels fault.
void zg_emu_open_memory(void);
void zg_emu_close_memory(void);
void *zg_emu_copy_memory(void);  // all live device memory, to be freed
void zg_emu_restore_memory(const void *copy);
// Where device memory differs from a copy: the address, and *n bytes that differ from the first to the last;
// NULL: nowhere.
const void *zg_emu_find_difference(const void *copy, size_t *n);
CUresult zg_emu_check_fences(void);  // bytes behind allocations that were written
bool zg_emu_is_pinned(const void *p, size_t n);
bool zg_emu_is_device(const void *p);
const char *zg_emu_describe(const void *p, char *room,
                            size_t n);  // "12 bytes behind an allocation of 40 bytes"

// ---- queue.c ------------------------------------------------------------------------------------------
typedef struct CUstream_st stream;
typedef struct CUgraph_st graph;
typedef struct CUfunc_st function;

typedef enum {
  OP_KERNEL,
  OP_COPY,
  OP_FILL,
  OP_WORK,
  OP_GRAPH,
  OP_MARK
} op_kind;  // MARK: an event's record, or only a wait
typedef struct op {
  op_kind kind;
  const char *name;
  zg_emu_launch launch;
  void *dst;
  const void *src;  // OP_COPY; owned where own_src
  bool own_src;
  bool dst_device, src_device;
  size_t n, pitch_dst, pitch_src, rows;  // n bytes in each of `rows` rows
  uint32_t fill;
  unsigned fill_bytes;
  zg_emu_work work;
  void *args;  // owned: parameter buffer, or the state of OP_WORK
  size_t n_args;
  void *running;  // OP_WORK: the state of this execution; OP_GRAPH: its progress
  graph *graph;   // OP_GRAPH: borrowed from the CUgraphExec
  struct dep {
    stream *s;
    uint64_t seq;
  } * deps;  // owned: what must be done before
  uint32_t n_deps;
} op;

struct CUstream_st {
  device *d;
  bool non_blocking, dead;
  op *ops;  // queued; ops[0] is number done + 1
  uint32_t n_ops, room;
  uint64_t issued, done;
  uint64_t priority;   // of the random scheduler
  graph *capture;      // being captured into, or NULL
  bool origin;         // the stream whose capture was begun
  uint32_t *frontier;  // capture: nodes that the next one follows
  uint32_t n_frontier;
};

struct CUevent_st {
  bool recorded, destroyed;
  struct CUevent_st *next;  // among the destroyed
  stream *s;
  uint64_t seq;
  double t;  // of execution, s
  graph *capture;
  uint32_t *frontier;
  uint32_t n_frontier;
};

stream *zg_emu_stream(void *handle);       // NULL handle: the device's default stream
CUresult zg_emu_submit(stream *s, op *o);  // takes what o owns; queues or captures
void zg_emu_op_fini(op *o);
zg_emu_result zg_emu_execute(op *o, CUresult *error);
// Runs queued work until the stream has done number seq.
CUresult zg_emu_wait(stream *s, uint64_t seq);
CUresult zg_emu_wait_all(void);
bool zg_emu_step(void);  // one piece of work; false: nothing could move
uint64_t zg_emu_random(void);
double zg_emu_now(void);

// ---- graph.c ------------------------------------------------------------------------------------------
typedef struct {
  op o;
  uint32_t *before;
  uint32_t n_before;
  bool followed;
} node;
struct CUgraph_st {
  node *nodes;
  uint32_t n, room;
  bool broken;
};
CUresult zg_emu_capture(stream *s, op *o);
CUresult zg_emu_capture_record(stream *s, struct CUevent_st *e);
CUresult zg_emu_capture_wait(stream *s, struct CUevent_st *e);
zg_emu_result zg_emu_run_graph(op *o, CUresult *error);
void zg_emu_end_graph(void *running);

extern zg_emu_alive zg_emu_live;  // counts, kept by the files that make things
