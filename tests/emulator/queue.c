// Streams and the scheduler. Work is queued with what it must follow; it runs when somebody waits, one piece
// at a time, from a stream chosen by random priorities that change now and then (Burckhardt et al. 2010, "A
// randomized scheduler with probabilistic guarantees of finding bugs"): long stretches of one stream running
// ahead of another are as likely as even ones.
//
// Order that is kept: within a stream; after the marks that cuStreamWaitEvent named; the default stream
// against streams that were not made with CU_STREAM_NON_BLOCKING, both ways.
#include "driver.h"

#include <time.h>
#include <unistd.h>

typedef stream *CUstream;
static stream **streams;
static uint32_t n_streams;
static stream *defaults[DEVICES_MAX];

static uint64_t random_state;
static bool seeded;
void zg_emu_reseed(uint64_t seed) {
  zg_emu_lock();
  seeded = true, random_state = seed * 0x9e3779b9u + 77;
  zg_emu_reseed_threads(seed);
  for (uint32_t i = 0; i < n_streams; i++) streams[i]->priority = zg_emu_random();
  zg_emu_unlock();
}
uint64_t zg_emu_random(void) {
  if (!seeded) seeded = true, random_state = (uint64_t)zg_emu_env("ZG_EMU_SEED", 1) * 0x9e3779b9u + 77;
  return zg_emu_mix(&random_state);
}
double zg_emu_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static bool eager(void) {
  const char *v = getenv("ZG_EMU_STREAMS");
  return v && !strcmp(v, "eager");
}

static stream *new_stream(device *d, bool non_blocking) {
  stream *s = calloc(1, sizeof *s);
  s->d = d, s->non_blocking = non_blocking, s->priority = zg_emu_random();
  streams = realloc(streams, sizeof(stream *) * (n_streams + 1));
  return streams[n_streams++] = s;
}

stream *zg_emu_stream(void *handle) {
  device *d = zg_emu_device();
  if (handle && handle != (void *)1 && handle != (void *)2) {  // 1, 2: CU_STREAM_LEGACY, CU_STREAM_PER_THREAD
    for (uint32_t i = 0; i < n_streams; i++)
      if (streams[i] == handle) return streams[i]->dead ? NULL : streams[i];
    zg_emu_say("%p is no stream", handle);
    return NULL;
  }
  if (!defaults[d->ordinal]) defaults[d->ordinal] = new_stream(d, false);
  return defaults[d->ordinal];
}

void zg_emu_op_fini(op *o) {
  if (o->own_src) free((void *)o->src);
  if (o->running && o->kind == OP_GRAPH) zg_emu_end_graph(o->running);
  else free(o->running);
  free(o->args), free(o->deps);
}

static void follow(op *o, stream *s, uint64_t seq) {
  if (s->done >= seq) return;
  o->deps = realloc(o->deps, sizeof *o->deps * (o->n_deps + 1));
  o->deps[o->n_deps++] = (struct dep){s, seq};
}

CUresult zg_emu_submit(stream *s, op *o) {
  if (s->capture) return zg_emu_capture(s, o);
  bool is_default = s == defaults[s->d->ordinal];
  for (uint32_t i = 0; i < n_streams; i++) {
    stream *t = streams[i];
    if (t == s || t->d != s->d || t->non_blocking || s->non_blocking) continue;
    if (is_default || t == defaults[s->d->ordinal]) follow(o, t, t->issued);
  }
  if (s->n_ops == s->room) s->ops = realloc(s->ops, sizeof(op) * (s->room = 2 * s->room + 8));
  s->ops[s->n_ops++] = *o;
  s->issued++;
  return eager() ? zg_emu_wait(s, s->issued) : CUDA_SUCCESS;
}

// ---- execution ----------------------------------------------------------------------------------------

static CUresult copy(const op *o) {
  CUresult r = CUDA_SUCCESS;
  for (size_t k = 0; k < o->rows && !r; k++) {
    char *to = (char *)o->dst + k * o->pitch_dst;
    const char *from = (const char *)o->src + k * o->pitch_src;
    if (o->dst_device) r = zg_emu_check_range(to, o->n, "destination of a copy");
    if (!r && o->src_device) r = zg_emu_check_range(from, o->n, "source of a copy");
    if (!r) memmove(to, from, o->n);
  }
  return r ? CUDA_ERROR_ILLEGAL_ADDRESS : r;
}

static CUresult fill(const op *o) {
  if (zg_emu_check_range(o->dst, o->n, "a memset")) return CUDA_ERROR_ILLEGAL_ADDRESS;
  for (size_t i = 0; i < o->n; i += o->fill_bytes) memcpy((char *)o->dst + i, &o->fill, o->fill_bytes);
  return CUDA_SUCCESS;
}

// ZG_EMU_RACES=1: a kernel runs forward and, from the same memory, reversed; what differs depends on the
// order of threads.
static CUresult run_kernel(const op *o) {
  char text[120];
  size_t n;
  if (!zg_emu_env("ZG_EMU_RACES", 0)) return zg_emu_run(&o->launch, o->args, -1);
  void *before = zg_emu_copy_memory();
  CUresult r = zg_emu_run(&o->launch, o->args, 0);
  void *after = zg_emu_copy_memory();
  zg_emu_restore_memory(before);
  if (!r) r = zg_emu_run(&o->launch, o->args, 1);
  const void *at = r ? NULL : zg_emu_find_difference(after, &n);
  if (at) {
    zg_emu_say(
        "kernel %s, grid (%u,%u,%u), block %u: the result depends on the order of threads: %zu bytes at %p: "
        "%s",
        o->name, o->launch.grid.x, o->launch.grid.y, o->launch.grid.z, o->launch.block.x, n, at,
        zg_emu_describe(at, text, sizeof text));
    r = CUDA_ERROR_LAUNCH_FAILED;
  }
  free(before), free(after);
  return r;
}

zg_emu_result zg_emu_execute(op *o, CUresult *error) {
  *error = CUDA_SUCCESS;
  switch (o->kind) {
    case OP_KERNEL: *error = run_kernel(o); break;
    case OP_COPY: *error = copy(o); break;
    case OP_FILL: *error = fill(o); break;
    case OP_MARK: break;
    case OP_GRAPH: return zg_emu_run_graph(o, error);
    case OP_WORK: {
      if (!o->running) o->running = memcpy(malloc(o->n_args + 1), o->args, o->n_args);
      zg_emu_result r = o->work(o->running);
      if (r == ZG_EMU_BUSY || r == ZG_EMU_MOVED) return r;
      free(o->running), o->running = NULL;
      if (r == ZG_EMU_FAILED) *error = CUDA_ERROR_LAUNCH_FAILED;
      break;
    }
  }
  return *error ? ZG_EMU_FAILED : ZG_EMU_DONE;
}

static bool ready(const stream *s) {
  if (!s->n_ops) return false;
  const op *o = &s->ops[0];
  for (uint32_t i = 0; i < o->n_deps; i++)
    if (o->deps[i].s->done < o->deps[i].seq) return false;
  return true;
}

static zg_emu_result advance(stream *s) {
  CUresult error = CUDA_SUCCESS;
  zg_emu_open_memory();
  zg_emu_result r = s->d->sticky ? ZG_EMU_FAILED : zg_emu_execute(&s->ops[0], &error);
  zg_emu_close_memory();
  if (r == ZG_EMU_BUSY || r == ZG_EMU_MOVED) return r;
  if (error && !s->d->sticky) {
    s->d->sticky = error;
    zg_emu_say("\"%s\" failed with error %d; it stays with device %d", s->ops[0].name, error, s->d->ordinal);
  }
  zg_emu_op_fini(&s->ops[0]);
  memmove(s->ops, s->ops + 1, sizeof(op) * --s->n_ops);
  s->done++;
  return ZG_EMU_DONE;
}

bool zg_emu_step(void) {
  if (zg_emu_random() % 6 == 0 && n_streams) streams[zg_emu_random() % n_streams]->priority = zg_emu_random();
  uint64_t below = UINT64_MAX;
  for (;;) {
    stream *best = NULL;
    for (uint32_t i = 0; i < n_streams; i++)
      if (streams[i]->priority < below && (!best || streams[i]->priority > best->priority) &&
          ready(streams[i]))
        best = streams[i];
    if (!best) return false;
    if (advance(best) != ZG_EMU_BUSY) return true;
    below = best->priority;
  }
}

// Runs work until the stream has done number seq, or all streams everything (s NULL). Other processes and
// threads may be what a collective waits for: the lock is given up meanwhile.
static bool finished(const stream *s, uint64_t seq) {
  if (s) return s->done >= seq;
  for (uint32_t i = 0; i < n_streams; i++)
    if (streams[i]->n_ops && streams[i]->d == zg_emu_device()) return false;
  return true;
}
static CUresult wait_for(stream *s, uint64_t seq) {
  double since = zg_emu_now(), limit = (double)zg_emu_env("ZG_EMU_TIMEOUT", 60);
  while (!finished(s, seq)) {
    if (zg_emu_step()) {
      since = zg_emu_now();
      continue;
    }
    if (zg_emu_now() - since > limit) {
      for (uint32_t i = 0; i < n_streams; i++)
        if (streams[i]->n_ops)
          zg_emu_say("no progress: device %d, stream %u waits at \"%s\" (%u queued)", streams[i]->d->ordinal,
                     i, streams[i]->ops[0].name, streams[i]->n_ops);
      zg_emu_device()->sticky = CUDA_ERROR_LAUNCH_TIMEOUT;
      return CUDA_ERROR_LAUNCH_TIMEOUT;
    }
    zg_emu_unlock();
    usleep(30);
    zg_emu_lock();
  }
  CUresult r = zg_emu_check_fences();
  if (r && !zg_emu_device()->sticky) zg_emu_device()->sticky = r;
  return zg_emu_device()->sticky;
}
CUresult zg_emu_wait(stream *s, uint64_t seq) { return wait_for(s, seq); }
CUresult zg_emu_wait_all(void) { return wait_for(NULL, 0); }

int zg_emu_enqueue(void *handle, const char *name, zg_emu_work work, const void *state, size_t n_bytes) {
  ENTER();
  stream *s = zg_emu_stream(handle);
  if (!s) LEAVE(CUDA_ERROR_INVALID_HANDLE);
  op o = {.kind = OP_WORK,
          .name = name,
          .work = work,
          .args = memcpy(malloc(n_bytes + 1), state, n_bytes),
          .n_args = n_bytes};
  CUresult r = zg_emu_submit(s, &o);
  LEAVE(r);
}

// ---- stream calls -------------------------------------------------------------------------------------

ZG_EMU_API CUresult cuStreamCreateWithPriority(CUstream *out, unsigned flags, int priority) {
  (void)priority;
  ENTER();
  *out = new_stream(zg_emu_device(), flags & 1);
  zg_emu_live.streams++;
  LEAVE(CUDA_SUCCESS);
}
ZG_EMU_API CUresult cuStreamCreate(CUstream *out, unsigned flags) {
  return cuStreamCreateWithPriority(out, flags, 0);
}

// What it still has queued goes on, as with a real driver; the record stays, since events may name it.
ZG_EMU_API CUresult cuStreamDestroy_v2(CUstream handle) {
  zg_emu_lock();
  for (uint32_t i = 0; i < n_streams; i++)
    if (streams[i] == handle && !handle->dead) {
      handle->dead = true;
      zg_emu_live.streams--;
      LEAVE(CUDA_SUCCESS);
    }
  LEAVE(CUDA_ERROR_INVALID_HANDLE);
}

ZG_EMU_API CUresult cuStreamSynchronize(CUstream handle) {
  ENTER();
  stream *s = zg_emu_stream(handle);
  CUresult r = !s           ? CUDA_ERROR_INVALID_HANDLE
               : s->capture ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
                            : zg_emu_wait(s, s->issued);
  if (s && s->capture) s->capture->broken = true;
  LEAVE(r);
}
// A query lets some work happen, so that a loop of queries ends.
ZG_EMU_API CUresult cuStreamQuery(CUstream handle) {
  ENTER();
  stream *s = zg_emu_stream(handle);
  if (!s) LEAVE(CUDA_ERROR_INVALID_HANDLE);
  if (s->capture) LEAVE(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  if (s->n_ops) zg_emu_step();
  LEAVE(s->d->sticky ? s->d->sticky : s->n_ops ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS);
}
ZG_EMU_API CUresult cuStreamGetPriority(CUstream s, int *priority) {
  (void)s;
  *priority = 0;
  return CUDA_SUCCESS;
}

// ---- events -------------------------------------------------------------------------------------------

typedef struct CUevent_st *CUevent;
ZG_EMU_API CUresult cuEventCreate(CUevent *out, unsigned flags) {
  (void)flags;
  ENTER();
  *out = calloc(1, sizeof **out);
  zg_emu_live.events++;
  LEAVE(CUDA_SUCCESS);
}
// Marks of queues may still write their time into a destroyed event, so it stays, in this list.
static CUevent destroyed;
ZG_EMU_API CUresult cuEventDestroy_v2(CUevent e) {
  if (!e || e->destroyed) return CUDA_ERROR_INVALID_HANDLE;
  zg_emu_lock();
  zg_emu_live.events--;
  free(e->frontier);
  *e = (struct CUevent_st){.destroyed = true, .next = destroyed};
  destroyed = e;
  LEAVE(CUDA_SUCCESS);
}

static zg_emu_result note_time(void *state) {
  CUevent e;
  memcpy(&e, state, sizeof e);
  e->t = zg_emu_now();
  return ZG_EMU_DONE;
}
ZG_EMU_API CUresult cuEventRecord(CUevent e, CUstream handle) {
  if (!e || e->destroyed) return CUDA_ERROR_INVALID_HANDLE;
  ENTER();
  stream *s = zg_emu_stream(handle);
  if (!s) LEAVE(CUDA_ERROR_INVALID_HANDLE);
  if (s->capture) LEAVE(zg_emu_capture_record(s, e));
  op o = {.kind = OP_WORK,
          .name = "event",
          .work = note_time,
          .args = memcpy(malloc(sizeof e), &e, sizeof e),
          .n_args = sizeof e};
  CUresult r = zg_emu_submit(s, &o);
  e->recorded = true, e->s = s, e->seq = s->issued, e->capture = NULL;
  LEAVE(r);
}
ZG_EMU_API CUresult cuEventRecordWithFlags(CUevent e, CUstream s, unsigned flags) {
  return flags ? CUDA_ERROR_NOT_SUPPORTED : cuEventRecord(e, s);
}
ZG_EMU_API CUresult cuStreamWaitEvent(CUstream handle, CUevent e, unsigned flags) {
  if (!e || e->destroyed) return CUDA_ERROR_INVALID_HANDLE;
  if (flags) return CUDA_ERROR_INVALID_VALUE;
  ENTER();
  stream *s = zg_emu_stream(handle);
  if (!s) LEAVE(CUDA_ERROR_INVALID_HANDLE);
  if (s->capture || e->capture) LEAVE(zg_emu_capture_wait(s, e));
  if (!e->recorded) LEAVE(CUDA_SUCCESS);
  op o = {.kind = OP_MARK, .name = "wait"};
  follow(&o, e->s, e->seq);
  CUresult r = zg_emu_submit(s, &o);
  LEAVE(r);
}
ZG_EMU_API CUresult cuEventSynchronize(CUevent e) {
  if (!e || e->destroyed) return CUDA_ERROR_INVALID_HANDLE;
  ENTER();
  CUresult r = e->capture    ? CUDA_ERROR_CAPTURED_EVENT
               : e->recorded ? zg_emu_wait(e->s, e->seq)
                             : CUDA_SUCCESS;
  LEAVE(r);
}
ZG_EMU_API CUresult cuEventQuery(CUevent e) {
  if (!e || e->destroyed) return CUDA_ERROR_INVALID_HANDLE;
  ENTER();
  if (e->capture) LEAVE(CUDA_ERROR_CAPTURED_EVENT);
  bool done = !e->recorded || e->s->done >= e->seq;
  if (!done) zg_emu_step(), done = e->s->done >= e->seq;
  LEAVE(done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY);
}
ZG_EMU_API CUresult cuEventElapsedTime_v2(float *ms, CUevent a, CUevent b) {
  if (!a || !b || !a->recorded || !b->recorded) return CUDA_ERROR_INVALID_HANDLE;
  ENTER();
  bool done = a->s->done >= a->seq && b->s->done >= b->seq;
  *ms = (float)((b->t - a->t) * 1e3);
  LEAVE(done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY);
}
ZG_EMU_API CUresult cuEventElapsedTime(float *ms, CUevent a, CUevent b) {
  return cuEventElapsedTime_v2(ms, a, b);
}
