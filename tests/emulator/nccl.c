// The stand-in for libnccl: communicators between threads of a process or processes, over one shared memory
// object that the unique id names. A collective is work on a stream (emu.h): it moves its data in rounds.
//
//   round r: every rank has left round r - 1; each writes what it does and a piece of its data into its slot
//   and enters; when all have entered, each reads the others' slots, combines in the order of ranks, and
//   leaves.
//
// Ranks that do different things in a round are an error with a message; a real library hangs. A rank that
// aborts is seen by the others as ncclRemoteError.
#include "number.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
  SUCCESS,
  UNHANDLED_CUDA,
  SYSTEM_ERROR,
  INTERNAL_ERROR,
  INVALID_ARGUMENT,
  INVALID_USAGE,
  REMOTE_ERROR,
  IN_PROGRESS
};
enum { RANKS_MAX = 64, SLOT = 256 << 10 };
typedef enum { ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST, REDUCE } kind;
static const char *const kind_names[] = {"all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce"};

typedef struct {
  int kind, type, op, root;
  uint64_t count;
} what;  // must be the same on all ranks
typedef struct {
  _Atomic uint64_t entered, left;
  what doing;
  char pad[24];
} rank_state;
typedef struct {
  _Atomic int attached, aborted_by;
  int n;
  char pad[52];
  rank_state rank[RANKS_MAX];
  char slots[];
} shared;

typedef struct comm {
  shared *s;
  size_t n_bytes;
  int rank, n, device, async;
  bool aborted;
  uint64_t round;  // the last one that this rank has left
  void *active;    // the collective that is in a round
  uint64_t n_done;
} comm;
typedef struct {
  char bytes[128];
} unique_id;
static _Thread_local char last_error[256];

static int fail(int code, const char *what_failed) {
  snprintf(last_error, sizeof last_error, "%s", what_failed);
  zg_emu_say("nccl: %s", what_failed);
  return code;
}

// ---- collectives --------------------------------------------------------------------------------------

typedef struct {
  comm *c;
  what w;
  const void *send;
  void *recv;
  uint64_t at;
  int stage;
} job;  // stage 0: enter, 1: leave

static number number_of(int nccl_type) {
  return nccl_type >= 0 && nccl_type <= 9 ? (number)nccl_type : NUM_NONE;
}
static char *slot(const comm *c, int rank) { return c->s->slots + (size_t)rank * SLOT; }

// Elements per round: a slot holds that many, for reduce_scatter of every rank's part.
static uint64_t piece(const job *j) {
  uint64_t room =
      SLOT / number_bytes(number_of(j->w.type)) / (j->w.kind == REDUCE_SCATTER ? (uint64_t)j->c->n : 1);
  return j->w.count - j->at < room ? j->w.count - j->at : room;
}

static void give(const job *j, uint64_t n) {
  size_t size = number_bytes(number_of(j->w.type));
  char *to = slot(j->c, j->c->rank);
  if (j->w.kind == BROADCAST && j->c->rank != j->w.root) return;
  if (j->w.kind != REDUCE_SCATTER) memcpy(to, (const char *)j->send + j->at * size, n * size);
  else
    for (int r = 0; r < j->c->n; r++)
      memcpy(to + (size_t)r * n * size, (const char *)j->send + ((uint64_t)r * j->w.count + j->at) * size,
             n * size);
}

static double combine(int op, double a, double b) {
  return op == 1 ? a * b : op == 2 ? (a > b ? a : b) : op == 3 ? (a < b ? a : b) : a + b;
}
// Integers of 64 bits would lose digits as doubles.
static int64_t combine_i64(int op, int64_t a, int64_t b) {
  return op == 1   ? (int64_t)((uint64_t)a * (uint64_t)b)
         : op == 2 ? (a > b ? a : b)
         : op == 3 ? (a < b ? a : b)
                   : (int64_t)((uint64_t)a + (uint64_t)b);
}
static void reduce(const job *j, void *out, size_t from, uint64_t n) {
  const comm *c = j->c;
  number t = number_of(j->w.type);
  for (uint64_t i = 0; i < n; i++) {
    if (t == NUM_I64 || t == NUM_U64) {
      int64_t v = ((int64_t *)slot(c, 0))[from + i];
      for (int r = 1; r < c->n; r++) v = combine_i64(j->w.op, v, ((int64_t *)slot(c, r))[from + i]);
      ((int64_t *)out)[i] = v;
      continue;
    }
    double v = number_get(t, slot(c, 0), from + i);
    for (int r = 1; r < c->n; r++) {
      v = combine(j->w.op, v, number_get(t, slot(c, r), from + i));
      if (t != NUM_F64) v = (float)v;
    }
    number_set(t, out, i, j->w.op == 4 ? v / c->n : v);
  }
}

static void take(const job *j, uint64_t n) {
  const comm *c = j->c;
  size_t size = number_bytes(number_of(j->w.type));
  char *to = (char *)j->recv + j->at * size;
  switch ((kind)j->w.kind) {
    case ALL_REDUCE: reduce(j, to, 0, n); break;
    case REDUCE_SCATTER: reduce(j, to, (size_t)c->rank * n, n); break;
    case REDUCE:
      if (c->rank == j->w.root) reduce(j, to, 0, n);
      break;
    case BROADCAST: memcpy(to, slot(c, j->w.root), n * size); break;
    case ALL_GATHER:
      for (int r = 0; r < c->n; r++) memcpy(to + (uint64_t)r * j->w.count * size, slot(c, r), n * size);
      break;
  }
}

static bool ranges_ok(const job *j) {
  uint64_t n = (uint64_t)j->c->n, size = number_bytes(number_of(j->w.type)), bytes = j->w.count * size;
  bool sends = j->w.kind != BROADCAST || j->c->rank == j->w.root,
       receives = j->w.kind != REDUCE || j->c->rank == j->w.root;
  return (!sends || !zg_emu_check_range(j->send, j->w.kind == REDUCE_SCATTER ? n * bytes : bytes,
                                        kind_names[j->w.kind])) &&
         (!receives ||
          !zg_emu_check_range(j->recv, j->w.kind == ALL_GATHER ? n * bytes : bytes, kind_names[j->w.kind]));
}

static bool same(const what *a, const what *b) {
  return a->kind == b->kind && a->type == b->type && a->op == b->op && a->root == b->root &&
         a->count == b->count;
}

static zg_emu_result give_up(comm *c, int async) {
  c->async = async, c->active = NULL;
  atomic_store(&c->s->aborted_by, c->rank + 1);
  return ZG_EMU_FAILED;
}

// A rank that is not yet in round r, or not yet out of it; -1: none.
static bool all_at(const comm *c, bool left, uint64_t round) {
  for (int r = 0; r < c->n; r++)
    if (atomic_load(left ? &c->s->rank[r].left : &c->s->rank[r].entered) < round) return false;
  return true;
}

static zg_emu_result enter(job *j) {
  comm *c = j->c;
  if (!all_at(c, true, c->round)) return ZG_EMU_BUSY;
  if (j->at == 0 && !ranges_ok(j)) return give_up(c, UNHANDLED_CUDA);
  give(j, piece(j));
  c->s->rank[c->rank].doing = j->w;
  atomic_store(&c->s->rank[c->rank].entered, c->round + 1);
  j->stage = 1;
  return ZG_EMU_MOVED;
}

static zg_emu_result leave(job *j) {
  comm *c = j->c;
  char text[256];
  if (!all_at(c, false, c->round + 1)) return ZG_EMU_BUSY;
  for (int r = 0; r < c->n; r++) {
    const what *w = &c->s->rank[r].doing;
    if (same(w, &j->w)) continue;
    snprintf(text, sizeof text,
             "ranks differ: rank %d does %s of %llu (type %d, op %d, root %d), rank %d %s of %llu (type %d, "
             "op %d, root %d)",
             c->rank, kind_names[j->w.kind], (unsigned long long)j->w.count, j->w.type, j->w.op, j->w.root, r,
             kind_names[w->kind], (unsigned long long)w->count, w->type, w->op, w->root);
    fail(INVALID_USAGE, text);
    return give_up(c, INVALID_USAGE);
  }
  uint64_t n = piece(j);
  take(j, n);
  atomic_store(&c->s->rank[c->rank].left, ++c->round);
  j->at += n, j->stage = 0;
  if (j->at < j->w.count) return ZG_EMU_MOVED;
  c->active = NULL, c->n_done++;
  return ZG_EMU_DONE;
}

static zg_emu_result run(void *state) {
  job *j = state;
  comm *c = j->c;
  if (c->aborted) return ZG_EMU_DONE;  // an abort ends what runs
  if (c->active && c->active != j)
    return ZG_EMU_BUSY;  // collectives of a communicator run one after the other
  c->active = j;
  if (atomic_load(&c->s->aborted_by)) return give_up(c, c->async ? c->async : REMOTE_ERROR);
  return j->stage ? leave(j) : enter(j);
}

// ---- groups -------------------------------------------------------------------------------------------

typedef struct {
  job j;
  void *stream;
} queued;
static _Thread_local queued *group;
static _Thread_local int n_group, depth;
static _Thread_local comm *starting[RANKS_MAX];
static _Thread_local int n_starting;

static int wait_attached(comm *c) {
  double limit = (double)zg_emu_env("ZG_EMU_TIMEOUT", 60);
  for (double t = 0; atomic_load(&c->s->attached) < c->n; t += 1e-4) {
    if (t > limit) return fail(SYSTEM_ERROR, "not all ranks came to ncclCommInitRank");
    usleep(100);
  }
  return SUCCESS;
}
static int start(const queued *q) {
  if (q->j.w.count == 0) return SUCCESS;
  return zg_emu_enqueue(q->stream, kind_names[q->j.w.kind], run, &q->j, sizeof q->j)
             ? fail(UNHANDLED_CUDA, "the stream refused a collective")
             : SUCCESS;
}
ZG_EMU_API int ncclGroupStart(void) {
  depth++;
  return SUCCESS;
}
ZG_EMU_API int ncclGroupEnd(void) {
  if (depth == 0) return fail(INVALID_USAGE, "ncclGroupEnd without ncclGroupStart");
  if (--depth) return SUCCESS;
  int r = SUCCESS;
  for (int i = 0; i < n_starting && !r; i++) r = wait_attached(starting[i]);
  for (int i = 0; i < n_group && !r; i++) r = start(&group[i]);
  free(group);
  group = NULL, n_group = n_starting = 0;
  return r;
}

static int collect(kind k, const void *send, void *recv, size_t count, int type, int op, int root, comm *c,
                   void *stream) {
  if (!c) return fail(INVALID_ARGUMENT, "no communicator");
  if (c->aborted || c->async) return fail(INVALID_USAGE, "the communicator has failed or was aborted");
  if (number_of(type) == NUM_NONE) return fail(INVALID_ARGUMENT, "the element type is unknown");
  if (op < 0 || op > 4 || root < 0 || root >= c->n)
    return fail(INVALID_ARGUMENT, "operation or root is out of range");
  queued q = {{c, {k, type, op, root, count}, send, recv, 0, 0}, stream};
  if (!depth) return start(&q);
  group = realloc(group, sizeof *group * (size_t)(n_group + 1));
  group[n_group++] = q;
  return SUCCESS;
}
ZG_EMU_API int ncclAllReduce(const void *send, void *recv, size_t n, int type, int op, comm *c,
                             void *stream) {
  return collect(ALL_REDUCE, send, recv, n, type, op, 0, c, stream);
}
ZG_EMU_API int ncclReduceScatter(const void *send, void *recv, size_t n, int type, int op, comm *c,
                                 void *stream) {
  return collect(REDUCE_SCATTER, send, recv, n, type, op, 0, c, stream);
}
ZG_EMU_API int ncclAllGather(const void *send, void *recv, size_t n, int type, comm *c, void *stream) {
  return collect(ALL_GATHER, send, recv, n, type, 0, 0, c, stream);
}
ZG_EMU_API int ncclBroadcast(const void *send, void *recv, size_t n, int type, int root, comm *c,
                             void *stream) {
  return collect(BROADCAST, send, recv, n, type, 0, root, c, stream);
}
ZG_EMU_API int ncclReduce(const void *send, void *recv, size_t n, int type, int op, int root, comm *c,
                          void *stream) {
  return collect(REDUCE, send, recv, n, type, op, root, c, stream);
}

// ---- communicators ------------------------------------------------------------------------------------

ZG_EMU_API int ncclGetVersion(int *v) {
  *v = 22899;
  return SUCCESS;
}
ZG_EMU_API const char *ncclGetErrorString(int r) {
  static const char *const texts[] = {"no error",
                                      "unhandled cuda error",
                                      "unhandled system error",
                                      "internal error",
                                      "invalid argument",
                                      "invalid usage",
                                      "remote process exited or there was a network error",
                                      "NCCL operation in progress"};
  return r >= 0 && r < 8 ? texts[r] : "unknown result code";
}
ZG_EMU_API const char *ncclGetLastError(comm *c) {
  (void)c;
  return last_error;
}
ZG_EMU_API int ncclGetUniqueId(unique_id *id) {
  static _Atomic uint64_t count;
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  uint64_t seed = (uint64_t)getpid() << 40 ^ (uint64_t)t.tv_nsec << 8 ^ (uint64_t)t.tv_sec ^
                  atomic_fetch_add(&count, 1) << 56;
  memset(id, 0, sizeof *id);
  snprintf(id->bytes, sizeof id->bytes, "/zgraph-emulator-%016llx", (unsigned long long)zg_emu_mix(&seed));
  return SUCCESS;
}

static int attach(comm *c, const char *name) {
  int fd = shm_open(name, O_RDWR | O_CREAT, 0600);
  if (fd < 0 || ftruncate(fd, (off_t)c->n_bytes))
    return fail(SYSTEM_ERROR, "no shared memory for the communicator");
  c->s = mmap(NULL, c->n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (c->s == MAP_FAILED) return fail(SYSTEM_ERROR, "no shared memory for the communicator");
  if (atomic_fetch_add(&c->s->attached, 1) + 1 == c->n) shm_unlink(name);
  return SUCCESS;
}
ZG_EMU_API int ncclCommInitRank(comm **out, int n, unique_id id, int rank) {
  if (n < 1 || n > RANKS_MAX || rank < 0 || rank >= n || id.bytes[0] != '/')
    return fail(INVALID_ARGUMENT, "rank, size or id is not valid");
  if (zg_emu_current_device() < 0) return fail(UNHANDLED_CUDA, "no device is current");
  comm *c = calloc(1, sizeof *c);
  c->rank = rank, c->n = n, c->device = zg_emu_current_device();
  c->n_bytes = sizeof(shared) + (size_t)n * SLOT;
  int r = attach(c, id.bytes);
  if (!r && depth && n_starting < RANKS_MAX) starting[n_starting++] = c;
  else if (!r) r = wait_attached(c);
  if (r) free(c);
  else *out = c;
  return r;
}
ZG_EMU_API int ncclCommInitRankConfig(comm **out, int n, unique_id id, int rank, void *config) {
  (void)config;
  return ncclCommInitRank(out, n, id, rank);
}
ZG_EMU_API int ncclCommDestroy(comm *c) {
  if (!c) return INVALID_ARGUMENT;
  munmap(c->s, c->n_bytes);
  free(c);
  return SUCCESS;
}
ZG_EMU_API int ncclCommFinalize(comm *c) { return c ? SUCCESS : INVALID_ARGUMENT; }
// The record stays, since queued work names it.
ZG_EMU_API int ncclCommAbort(comm *c) {
  if (!c) return INVALID_ARGUMENT;
  c->aborted = true;
  atomic_store(&c->s->aborted_by, c->rank + 1);
  return SUCCESS;
}
ZG_EMU_API int ncclCommGetAsyncError(comm *c, int *error) {
  if (!c) return INVALID_ARGUMENT;
  *error = c->async ? c->async : !c->aborted && atomic_load(&c->s->aborted_by) ? REMOTE_ERROR : SUCCESS;
  return SUCCESS;
}
ZG_EMU_API int ncclCommCount(const comm *c, int *n) {
  *n = c->n;
  return SUCCESS;
}
ZG_EMU_API int ncclCommUserRank(const comm *c, int *rank) {
  *rank = c->rank;
  return SUCCESS;
}
ZG_EMU_API int ncclCommCuDevice(const comm *c, int *device) {
  *device = c->device;
  return SUCCESS;
}
ZG_EMU_API int ncclCommRegister(const comm *c, void *p, size_t n, void **handle) {
  (void)n;
  *handle = p;
  return c ? SUCCESS : INVALID_ARGUMENT;
}
ZG_EMU_API int ncclCommDeregister(const comm *c, void *handle) {
  (void)handle;
  return c ? SUCCESS : INVALID_ARGUMENT;
}
