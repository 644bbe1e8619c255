// Streams: the steps of one segment on several threads. Every stream's thread walks the whole segment and runs the steps that are its
// own; there is no queue. A stream publishes how far it has come, and whoever must wait for a step waits for that number:
//   WAIT        for the last RECORD of its event before it, whichever stream that is on
//   collective  for the last collective before it on another stream: all ranks run them in the order of the steps
// Both name an earlier step of the segment, so waiting cannot close a circle. What waits for what is found once, by attach; nothing is
// allocated and no lock is taken while a segment runs.
//
//   compute   k0  k1  rec1  k2 ..................  wait2  k3
//   comm      .......  wait1  reduce_scatter  rec2
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "exec/exec_priv.h"

// Progress of a stream: index after the last step of the segment it has done; ALL_DONE at the end.
enum { ALL_DONE = INT32_MAX };
typedef struct {
  _Alignas(64) _Atomic uint32_t done;
  _Atomic uint32_t sleepers;
} progress;

typedef struct { uint32_t step; uint8_t stream; bool any; } need;      // wait until `stream` has done `step` (index in the schedule)

typedef struct {
  zg_streams *all;
  uint8_t stream;
  bool used, started;                   // used: some segment has steps on it
  pthread_t thread;
  zg_exec_stats stats;                  // of this segment
  _Alignas(64) _Atomic uint32_t go;     // raised for each segment to run
  _Atomic uint32_t finished;            // the last `go` that is over
} worker;

struct zg_streams {
  zg_program *program;
  zg_comm *comm;
  need *needs;                          // per step of the schedule
  progress at[ZG_N_STREAMS];
  worker workers[ZG_N_STREAMS];         // [ZG_STREAM_COMPUTE] is the caller
  int spin;
  _Atomic bool stop, failed;
  pthread_mutex_t lock;
  zg_status status;                     // the first failure, under lock
  const zg_segment *seg;                // of the segment that runs
  zg_rand_state rand;
};

static void futex(_Atomic uint32_t *word, int op, uint32_t value) {
  const struct timespec limit = {0, 50 * 1000000L};   // a lost wake costs 50 ms, never a hang
  syscall(SYS_futex, word, op, value, op == FUTEX_WAIT_PRIVATE ? &limit : NULL, NULL, 0);
}

static inline void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// ---- progress -----------------------------------------------------------------------------------------------------

static void publish(progress *p, uint32_t done) {
  atomic_store(&p->done, done);
  if (atomic_load(&p->sleepers)) futex(&p->done, FUTEX_WAKE_PRIVATE, INT32_MAX);
}

static void await(zg_streams *st, progress *p, uint32_t want) {
  for (int spins = 0; atomic_load_explicit(&p->done, memory_order_acquire) < want; spins++) {
    if (atomic_load(&st->failed)) return;
    if (spins < st->spin) {
      relax();
      continue;
    }
    atomic_fetch_add(&p->sleepers, 1);
    const uint32_t now = atomic_load(&p->done);
    if (now < want) futex(&p->done, FUTEX_WAIT_PRIVATE, now);
    atomic_fetch_sub(&p->sleepers, 1);
  }
}

// Keeps the first failure of the rank and tells the other ranks, which wakes a stream that sits in a collective as well.
static void fail(zg_streams *st, zg_status status) {
  pthread_mutex_lock(&st->lock);
  const bool first = !st->status;
  if (first) st->status = status;
  pthread_mutex_unlock(&st->lock);
  if (!first) {
    zg_status_free(status);
    return;
  }
  atomic_store(&st->failed, true);
  if (st->comm) zg_comm_abort(st->comm, zg_status_message(status));
  for (int s = 0; s < ZG_N_STREAMS; s++) futex(&st->at[s].done, FUTEX_WAKE_PRIVATE, INT32_MAX);
}

static void walk(zg_streams *st, uint8_t stream, zg_exec_stats *stats) {
  const zg_segment *seg = st->seg;
  const zg_step *steps = st->program->sched->steps.at;
  for (uint32_t i = seg->first; i < seg->first + seg->n; i++) {
    const zg_step *s = &steps[i];
    if (s->stream != stream) continue;
    const need *n = &st->needs[i];
    if (n->any) {
      const double t0 = stats && stats->profile ? zg_time_s() : 0;
      await(st, &st->at[n->stream], n->step - seg->first + 1);
      if (t0 > 0 && stream == ZG_STREAM_COMPUTE) stats->wait_s += zg_time_s() - t0;
    }
    if (atomic_load(&st->failed)) break;
    zg_status status = zg__exec_step(st->program, s, st->comm, st->rand, stats);
    if (status) {
      fail(st, status);
      break;
    }
    if (stats) stats->steps_run++;
    publish(&st->at[stream], i - seg->first + 1);
  }
  publish(&st->at[stream], ALL_DONE);
}

// ---- threads ------------------------------------------------------------------------------------------------------

static void *worker_main(void *arg) {
  worker *w = arg;
  zg_streams *st = w->all;
  prctl(PR_SET_NAME, w->stream == ZG_STREAM_COMM ? "zg-comm" : "zg-copy");
  for (uint32_t seen = 0;;) {
    for (int spins = 0; atomic_load(&w->go) == seen; spins++) {
      if (spins < st->spin) relax();
      else futex(&w->go, FUTEX_WAIT_PRIVATE, seen);
    }
    seen = atomic_load(&w->go);
    if (atomic_load(&st->stop)) return NULL;
    walk(st, w->stream, &w->stats);
    atomic_store(&w->finished, seen);
    futex(&w->finished, FUTEX_WAKE_PRIVATE, 1);
  }
}

static void release(worker *w) {
  atomic_fetch_add(&w->go, 1);
  futex(&w->go, FUTEX_WAKE_PRIVATE, 1);
}

static void join(zg_streams *st, worker *w) {
  const uint32_t want = atomic_load(&w->go);
  for (int spins = 0; atomic_load(&w->finished) != want; spins++) {
    if (spins < st->spin) relax();
    else futex(&w->finished, FUTEX_WAIT_PRIVATE, want - 1);
  }
}

static void add_stats(zg_exec_stats *to, const zg_exec_stats *from) {
  to->steps_run += from->steps_run;
  to->comm_s += from->comm_s;
}

static bool uses(const zg_sched *s, const zg_segment *seg, uint8_t stream) {
  for (uint32_t i = seg->first; i < seg->first + seg->n; i++)
    if (s->steps.at[i].stream == stream) return true;
  return false;
}

zg_status zg__streams_run(zg_streams *st, const zg_segment *seg, zg_rand_state r, zg_exec_stats *stats) {
  if (atomic_load(&st->failed)) return zg_error(ZG_CANCELLED, "segment \"%s\": an earlier one failed", seg->name);
  if (st->program->device->vt->begin) {
    zg_status status = zg__exec_queue(st->program, seg, st->comm, r, stats);
    if (!status) return NULL;
    atomic_store(&st->failed, true);
    if (st->comm) zg_comm_abort(st->comm, zg_status_message(status));
    return status;
  }
  bool on[ZG_N_STREAMS] = {false};
  st->seg = seg;
  st->rand = r;
  for (uint8_t s = 0; s < ZG_N_STREAMS; s++) {
    worker *w = &st->workers[s];
    on[s] = w->started && uses(st->program->sched, seg, s);
    atomic_store(&st->at[s].done, 0);
    w->stats = (zg_exec_stats){.profile = stats && stats->profile};
  }
  for (uint8_t s = 0; s < ZG_N_STREAMS; s++)
    if (on[s]) release(&st->workers[s]);
  walk(st, ZG_STREAM_COMPUTE, stats);
  const double t0 = stats && stats->profile ? zg_time_s() : 0;
  for (uint8_t s = 0; s < ZG_N_STREAMS; s++) {
    if (!on[s]) continue;
    join(st, &st->workers[s]);
    if (stats) add_stats(stats, &st->workers[s].stats);
  }
  if (t0 > 0) stats->wait_s += zg_time_s() - t0;
  if (!atomic_load(&st->failed)) return NULL;
  zg_status status = st->status;
  st->status = zg_error(ZG_CANCELLED, "segment \"%s\" failed before", seg->name);   // what a later run would report
  return status;
}

// ---- attaching ----------------------------------------------------------------------------------------------------

static zg_status check_step(const zg_sched *s, uint32_t i, const zg_comm *comm) {
  const zg_step *p = &s->steps.at[i];
  if (p->stream >= ZG_N_STREAMS) return zg_error(ZG_INVALID, "step %u is on stream %u, which does not exist", i, p->stream);
  if (p->kind == ZG_STEP_KERNEL && p->stream != ZG_STREAM_COMPUTE)
    return zg_error(ZG_INVALID, "step %u runs kernel \"%s\" off the compute stream", i, s->kernels.at[p->kernel].label);
  if (!zg_step_is_collective(p)) return NULL;
  if (p->stream == ZG_STREAM_COPY) return zg_error(ZG_INVALID, "step %u is a collective on the copy stream: put it on the communication stream", i);
  zg_comm_group g;
  return comm ? zg_comm_group_of(comm, p->group, &g) : NULL;
}

static zg_status find_needs(zg_streams *st, const zg_segment *seg) {
  const zg_sched *s = st->program->sched;
  need last_collective[ZG_N_STREAMS] = {{0}};
  for (uint32_t i = seg->first; i < seg->first + seg->n; i++) {
    const zg_step *p = &s->steps.at[i];
    ZG_TRY(check_step(s, i, st->comm));
    if (p->kind == ZG_STEP_WAIT) {
      uint32_t j = i;
      while (j > seg->first && !(s->steps.at[j - 1].kind == ZG_STEP_RECORD && s->steps.at[j - 1].event == p->event)) j--;
      if (j == seg->first) return zg_error(ZG_INVALID, "step %u of segment \"%s\" waits for event %u, which no step before it records", i, seg->name, p->event);
      st->needs[i] = (need){j - 1, s->steps.at[j - 1].stream, s->steps.at[j - 1].stream != p->stream};
    } else if (zg_step_is_collective(p)) {
      for (uint8_t t = 0; t < ZG_N_STREAMS; t++)
        if (t != p->stream && last_collective[t].any) st->needs[i] = last_collective[t];
      last_collective[p->stream] = (need){i, p->stream, true};
    }
    st->workers[p->stream].used = true;
  }
  return NULL;
}

// Spinning only helps where every thread that may hold us up has a core of its own.
static int spin_rounds(const zg_comm *comm) {
  cpu_set_t set;
  const int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  return 2 * (comm ? (int)comm->local_world : 1) > cores ? 0 : 4000;
}

static zg_status start(worker *w) {
  if (pthread_create(&w->thread, NULL, worker_main, w)) return zg_error(ZG_IO, "the system gives no thread for stream %d", w->stream);
  w->started = true;
  return NULL;
}

zg_status zg_exec_attach(zg_program *p, zg_comm *comm) {
  const zg_sched *s = p->sched;
  const uint32_t world = comm ? comm->world : 1, rank = comm ? comm->rank : 0;
  if (s->world != world || s->rank != rank)
    return zg_error(ZG_INVALID, "the schedule is rank %u of %u, the communicator rank %u of %u", s->rank, s->world, rank, world);
  ZG_ASSERT(!p->streams);
  const size_t bytes = zg_round_up(sizeof(zg_streams), 64);
  zg_streams *st = NULL;
  ZG_TRY(zg_alloc_big(bytes, (void **)&st));
  zg_status status = NULL;
  *st = (zg_streams){.program = p, .comm = comm, .spin = spin_rounds(comm)};
  pthread_mutex_init(&st->lock, NULL);
  p->streams = st;
  st->needs = zg_alloc(sizeof *st->needs * (s->steps.n + 1));
  for (size_t g = 0; g < s->segments.n; g++) ZG_TRY_OUT(find_needs(st, &s->segments.at[g]));
  for (uint8_t t = 0; t < ZG_N_STREAMS; t++) {
    worker *w = &st->workers[t];
    w->all = st;
    w->stream = t;
    if (t != ZG_STREAM_COMPUTE && w->used && !p->device->vt->begin) ZG_TRY_OUT(start(w));
  }
out:
  if (status) zg_exec_detach(p);
  return status;
}

void zg_exec_detach(zg_program *p) {
  if (p) zg__poison_free(p);
  zg_streams *st = p ? p->streams : NULL;
  if (!st) return;
  atomic_store(&st->stop, true);
  for (uint8_t t = 0; t < ZG_N_STREAMS; t++) {
    if (!st->workers[t].started) continue;
    release(&st->workers[t]);
    pthread_join(st->workers[t].thread, NULL);
  }
  pthread_mutex_destroy(&st->lock);
  zg_status_free(st->status);
  zg_free(st->needs);
  zg_free_big(st, zg_round_up(sizeof *st, 64));
  p->streams = NULL;
}
