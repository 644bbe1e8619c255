// Running segments: steps are queued on three streams, ordered by the events that the schedule names, and nothing waits on the host.
//
//   compute  -- fork -------- k --- k -- rec1 --------- wait2 -- k ------- join
//   comm         \-- wait1 .. reduce_scatter -- rec2 ...........  -- rec --/
//   copy          \--------------- copy ------------------------  -- rec --/
//
// A segment's first run warms up (communicators are made, libraries load their kernels). The second is recorded as a CUDA graph,
// collectives and copies included, and from then on the graph is launched. Where it cannot be recorded the steps are queued as before;
// ZG_LOG says why. What changes from step to step (inputs, scalars, the random state) is written to device memory before the segment.
#include <stdio.h>

#include "cuda/device_priv.h"

// ---- begin and end ------------------------------------------------------------------------------------------------

// Kernels read the random state from device memory, where this puts it.
static zg_status set_rand(zg__cuda_program *p, zg_rand_state r) {
  if (p->has_rand && memcmp(&r, &p->last_rand, sizeof r) == 0) return NULL;
  const uint32_t word[4] = {r.key[0], r.key[1], r.step, 0};
  ZG_TRY(zg__cuda_put(p, p->state, word, sizeof word));
  p->last_rand = r;
  p->has_rand = true;
  return NULL;
}

static zg_status follow(zg_cu_handle event, zg_cu_handle first, zg_cu_handle then) {
  ZG_TRY(ZG_CUDA(cuEventRecord, event, first));
  return ZG_CUDA(cuStreamWaitEvent, then, event, 0);
}

static zg_status fork_streams(zg__cuda_program *p) {
  for (int i = 0; i < ZG_N_STREAMS; i++)
    if (i != ZG_STREAM_COMPUTE && p->now->uses[i]) ZG_TRY(follow(p->fork, p->stream[ZG_STREAM_COMPUTE], p->stream[i]));
  return NULL;
}
static zg_status join_streams(zg__cuda_program *p) {
  for (int i = 0; i < ZG_N_STREAMS; i++)
    if (i != ZG_STREAM_COMPUTE && p->now->uses[i])
      ZG_TRY(follow(p->join[i], p->stream[i], p->stream[ZG_STREAM_COMPUTE]));
  return NULL;
}

static void refuse(zg__cuda_program *p, zg_status why) {
  const size_t g = (size_t)(p->now - p->segments);
  p->now->refused = true;
  zg_log(1, "cuda: segment \"%s\" is not replayed as a graph: %s", p->base.sched->segments.at[g].name, zg_status_message(why));
  zg_status_free(why);
}

static zg_status replay(zg__cuda_program *p, zg_comm *comm) {
  for (int i = 0; comm && i < ZG_N_COMM_KINDS; i++) {
    comm->calls[i] += p->now->calls[i];
    comm->bytes_sent[i] += p->now->bytes_sent[i];
  }
  return ZG_CUDA(cuGraphLaunch, p->now->graph, p->stream[ZG_STREAM_COMPUTE]);
}

static void note_counts(zg__cuda_program *p) {
  if (!p->comm) return;
  memcpy(p->now->calls, p->comm->calls, sizeof p->now->calls);
  memcpy(p->now->bytes_sent, p->comm->bytes_sent, sizeof p->now->bytes_sent);
}

static zg_status begin_locked(zg__cuda_program *p, zg_rand_state r, bool *replayed) {
  ZG_TRY(zg__cuda_enter(p));
  ZG_TRY(set_rand(p, r));
  p->last_collective = -1;
  const bool poisoned = p->base.poison != NULL;   // writes from the host within the segment
  if (p->now->graph && !poisoned) {
    *replayed = true;
    return replay(p, p->comm);
  }
  if (p->graphs && p->now->runs && !p->now->refused && !poisoned) {
    zg_status s = ZG_CUDA(cuStreamBeginCapture_v2, p->stream[ZG_STREAM_COMPUTE], ZG_CU_CAPTURE_THREAD_LOCAL);
    if (s) refuse(p, s);
    p->capturing = !s;
    if (!s) note_counts(p);
  }
  p->now->runs++;
  return fork_streams(p);
}

zg_status zg__cuda_begin(zg_program *base, const zg_segment *seg, zg_comm *comm, zg_rand_state r, bool *replayed) {
  zg__cuda_program *p = zg__cuda_program_of(base);
  pthread_mutex_lock(&p->lock);
  p->now = &p->segments[seg - base->sched->segments.at];
  p->comm = comm;
  *replayed = false;
  zg_status status = begin_locked(p, r, replayed);
  pthread_mutex_unlock(&p->lock);
  return status;
}

// Counts of a run that was recorded: kept for replays; taken back where nothing has run.
static void settle_counts(zg__cuda_program *p, bool recorded) {
  zg__cuda_segment *g = p->now;
  for (int i = 0; p->comm && i < ZG_N_COMM_KINDS; i++) {
    const uint64_t calls = p->comm->calls[i] - g->calls[i], bytes = p->comm->bytes_sent[i] - g->bytes_sent[i];
    p->comm->calls[i] = g->calls[i];   // replay counts them
    p->comm->bytes_sent[i] = g->bytes_sent[i];
    g->calls[i] = recorded ? calls : 0;
    g->bytes_sent[i] = recorded ? bytes : 0;
  }
}

static zg_status finish_capture(zg__cuda_program *p, zg_status so_far, bool *again) {
  zg_cu_handle graph = NULL;
  zg_status ended = ZG_CUDA(cuStreamEndCapture, p->stream[ZG_STREAM_COMPUTE], &graph);
  p->capturing = false;
  if (so_far) zg_status_free(ended);
  else so_far = ended;
  if (!so_far) so_far = ZG_CUDA(cuGraphInstantiateWithFlags, &p->now->graph, graph, 0);
  if (graph) zg__cuda.cuGraphDestroy(graph);
  settle_counts(p, !so_far);
  if (!so_far) {
    zg_log(1, "cuda: segment \"%s\" is recorded as a graph", p->base.sched->segments.at[p->now - p->segments].name);
    return replay(p, p->comm);
  }
  p->now->graph = NULL;
  refuse(p, so_far);
  *again = true;
  return NULL;
}

zg_status zg__cuda_end(zg_program *base, zg_status so_far, bool *again) {
  zg__cuda_program *p = zg__cuda_program_of(base);
  pthread_mutex_lock(&p->lock);
  *again = false;
  zg_status status = so_far ? so_far : join_streams(p);
  if (p->capturing) status = finish_capture(p, status, again);
  pthread_mutex_unlock(&p->lock);
  return status;
}

// ---- steps --------------------------------------------------------------------------------------------------------

static zg_status launch_all(zg__cuda_program *p, const zg__cuda_kernel *k) {
  for (uint32_t i = 0; i < k->n; i++) {
    const zg__cuda_launch *l = &k->launches[i];
    size_t n = l->n_params;
    void *extra[] = {ZG_CU_PARAM_POINTER, l->params, ZG_CU_PARAM_SIZE, &n, ZG_CU_PARAM_END};
    ZG_TRY(ZG_CUDA(cuLaunchKernel, l->f, l->grid[0], l->grid[1], l->grid[2], l->block, 1, 1, l->shared,
                   p->stream[ZG_STREAM_COMPUTE], NULL, extra));
  }
  return NULL;
}

static zg_status run_locked(zg__cuda_program *p, uint32_t kernel, zg_rand_state r) {
  const zg__cuda_kernel *k = &p->kernels[kernel];
  ZG_TRY(zg__cuda_enter(p));
  ZG_TRY(set_rand(p, r));   // a kernel run by itself; within a segment, begin has done it
  if (k->blas)
    return zg__product_run(zg__cuda_device_of(p)->lt, &k->product, &p->base.sched->kernels.at[kernel], k->args,
                           k->workspace, p->stream[ZG_STREAM_COMPUTE]);
  return launch_all(p, k);
}

zg_status zg__cuda_run_kernel(zg_program *base, uint32_t kernel, zg_rand_state r) {
  zg__cuda_program *p = zg__cuda_program_of(base);
  pthread_mutex_lock(&p->lock);
  zg_status status = run_locked(p, kernel, r);
  pthread_mutex_unlock(&p->lock);
  return zg_status_prefix(status, "%s: ", base->sched->kernels.at[kernel].label);
}

zg_status zg__cuda_mark(zg_program *base, const zg_step *s) {
  zg__cuda_program *p = zg__cuda_program_of(base);
  pthread_mutex_lock(&p->lock);
  zg_cu_handle event = p->events[s->event], on = p->stream[s->stream];
  zg_status status = s->kind == ZG_STEP_RECORD ? ZG_CUDA(cuEventRecord, event, on) : ZG_CUDA(cuStreamWaitEvent, on, event, 0);
  pthread_mutex_unlock(&p->lock);
  return status;
}

// Collectives on another stream go behind the last one.
static zg_status note_collective(zg__cuda_program *p) {
  const int last = p->last_collective;
  return p->now->mixed && last >= 0 ? ZG_CUDA(cuEventRecord, p->order[last], p->stream[last]) : NULL;
}

static zg_status group_locked(zg__cuda_program *p, bool on) {
  ZG_TRY(zg__cuda_enter(p));
  p->grouping = false;
  if (on) {
    ZG_TRY(ZG_NCCL(ncclGroupStart));
    p->grouping = true;
    return NULL;
  }
  ZG_TRY(ZG_NCCL(ncclGroupEnd));
  return note_collective(p);   // what stands in a group is queued by its end
}

// The first run makes the communicators, which cannot be done within a group.
zg_status zg__cuda_group(zg_program *base, bool on) {
  zg__cuda_program *p = zg__cuda_program_of(base);
  if (!p->comm || p->comm->world < 2 || p->now->runs < 2) return NULL;
  pthread_mutex_lock(&p->lock);
  zg_status status = group_locked(p, on);
  pthread_mutex_unlock(&p->lock);
  return status;
}

static zg_status collective_locked(zg__cuda_program *p, const zg_step *s, zg_comm *comm, const zg_comm_op *op) {
  zg_cu_handle on = p->stream[s->stream];
  const uint32_t step = (uint32_t)(s - p->base.sched->steps.at);
  ZG_TRY(zg__cuda_enter(p));
  if (p->now->mixed && p->last_collective >= 0 && p->last_collective != s->stream)
    ZG_TRY(ZG_CUDA(cuStreamWaitEvent, on, p->order[p->last_collective], 0));
  ZG_TRY(ZG_CUDA(cuMemsetD32Async, p->state + ZG__PROGRESS_AT, step + 1, 1, on));
  ZG_TRY(zg__collective_run(&p->groups, comm, op, on));
  p->last_collective = s->stream;
  return p->grouping ? NULL : note_collective(p);
}

zg_status zg__cuda_collective(zg_program *base, const zg_step *s, zg_comm *comm, const zg_comm_op *op) {
  zg__cuda_program *p = zg__cuda_program_of(base);
  pthread_mutex_lock(&p->lock);
  zg_status status = collective_locked(p, s, comm, op);
  pthread_mutex_unlock(&p->lock);
  return status;
}
