// zero_overlap: puts collectives on the communication stream, beside the kernels.
//   - a gather of a tensor's shards starts ahead of its first use: as late as the cost model says it may (latency + bytes /
//     bandwidth against the time of the kernels in between), as early as prefetch_bucket and max_live allow. Going backwards from
//     the last gather, each must be over when its use or the next gather begins.
//   - a reduction starts when its gradient is complete; what follows from it (accumulating the shard, releasing the whole) waits
//     until the cost model has it finished, or something needs the result, or more than reduce_bucket elements are under way
//   - copies from and to other memory likewise, on the copy stream; those of parameters stay in line with the gather that they feed
//   - what a collective touches stays in place until the compute stream has waited for it: releases come after the wait
// Both sides of each collective are ordered: it waits for a record of the compute stream at the point where it was issued (its
// operand is written, the place of its result is free), and whoever needs the result waits for its own record. The communication
// stream keeps the order of issue, the same on all ranks, so ranks cannot block each other.
//
// Why not on demand as run-time systems do: without knowing what comes next they prefetch by a recorded trace of the step before,
// and give up when it changes.
#include "zero/zero_priv.h"

typedef struct {
  uint32_t issue;
  double start;
} plan;  // of a gather: step before which it starts
typedef struct {
  uint32_t event, a, b;
  int64_t reduced;  // elements on their way out; 0: a gather or copy for kernels to come
  double end;       // by the cost model
  uint32_t first_deferred, n_deferred;
} pending;

typedef struct {
  const zg_zero *z;
  zg_sched *s;
  const zg_step *old;  // the segment's steps
  uint32_t n;
  double *time;                // compute time before step i; n + 1
  plan *gathers;               // per step
  uint32_t *order, n_gathers;  // steps that are prefetched gathers
  ZG_VEC(pending) queue;
  uint32_t head;
  ZG_VEC(zg_step) deferred;
  bool *skip;
  uint32_t next_event;
  double comm_free;
  int64_t reducing;            // elements under way
  bool ordered[ZG_N_STREAMS];  // the stream waits for all that compute has done so far
} overlap;

// ---- cost model -----------------------------------------------------------------------------------------------------------

static double kernel_time(const overlap *o, const zg_kernel *k) {
  double bytes = 0;
  for (uint32_t a = 0; a < k->n_args; a++) {
    double n = zg_dtype_bytes(k->args[a].dtype);
    for (uint32_t d = 0; d < k->args[a].rank; d++)
      if (k->args[a].stride[d]) n *= (double)k->args[a].dim[d];
    bytes += n;
  }
  return 1e-6 + ZG_MAX(k->flops / o->z->o.cost.flops_per_s, bytes / o->z->o.cost.bytes_per_s);
}

static double comm_time(const overlap *o, const zg_step *p) {
  const double world = zg__members(o->s, p), shard = (double)p->n * zg_dtype_bytes(o->s->bufs.at[p->a].dtype);
  const double bytes = p->kind == ZG_STEP_COPY         ? shard
                       : p->kind == ZG_STEP_ALL_REDUCE ? 2 * shard * (world - 1) / world
                                                       : shard * (world - 1);
  return o->z->o.cost.comm_latency_s + bytes / o->z->o.cost.comm_bytes_per_s;
}

static bool goes_beside(const zg_step *p) { return zg_step_is_collective(p) || p->kind == ZG_STEP_COPY; }
static bool may_prefetch(const overlap *o, const zg_step *p) {
  return (p->kind == ZG_STEP_GATHER || p->kind == ZG_STEP_COPY) && !o->s->bufs.at[p->a].persistent;
}
static zg_stream stream_of(const overlap *o, const zg_step *p) {
  return p->kind == ZG_STEP_COPY && o->s->bufs.at[p->a].role != ZG_BUF_PARAM ? ZG_STREAM_COPY
                                                                             : ZG_STREAM_COMM;
}

// Elements that it takes memory for.
static int64_t whole(const overlap *o, uint32_t step) {
  return o->old[step].kind == ZG_STEP_COPY ? o->old[step].n : o->old[step].n * (int64_t)zg__members(o->s, &o->old[step]);
}

// ---- when gathers start ---------------------------------------------------------------------------------------------------

// Elements gathered at each step as the schedule stands.
static int64_t *gathered_now(const overlap *o, zg_arena *mem) {
  int64_t *live = ZG_NEW_N(mem, int64_t, o->n + 1), now = 0;
  bool *is = ZG_NEW_N(mem, bool, o->s->bufs.n);
  for (uint32_t i = 0; i < o->n; i++) {
    const zg_step *p = &o->old[i];
    if (may_prefetch(o, p)) now += whole(o, i), is[p->a] = true;
    live[i] = now;
    if (p->kind == ZG_STEP_RELEASE && is[p->a])
      now -= (int64_t)(o->s->bufs.at[p->a].bytes / zg_dtype_bytes(o->s->bufs.at[p->a].dtype));
  }
  return live;
}

// By gather: the step behind the last kernel before it that makes what it sends; 0: none does.
static uint32_t *find_made(const overlap *o, zg_arena *mem) {
  uint32_t *last = ZG_NEW_N(mem, uint32_t, o->s->bufs.n), *made = ZG_NEW_N(mem, uint32_t, o->n + 1);
  for (uint32_t i = 0; i < o->n; i++) {
    if (may_prefetch(o, &o->old[i]) && !o->s->bufs.at[o->old[i].b].persistent) made[i] = last[o->old[i].b];
    if (o->old[i].kind != ZG_STEP_KERNEL) continue;
    const zg_kernel *k = &o->s->kernels.at[o->old[i].kernel];
    for (uint32_t a = 0; a < k->n_out; a++) last[k->args[a].buf] = i + 1;
  }
  return made;
}

static void plan_gathers(overlap *o, zg_arena *mem) {
  const int64_t bucket = o->z->o.prefetch_bucket, max_live = o->z->o.max_live;
  int64_t *live = gathered_now(o, mem);
  const uint32_t *made = find_made(o, mem);
  double next_start = o->time[o->n];
  for (uint32_t k = o->n_gathers; k-- > 0;) {
    const uint32_t at = o->order[k];
    const int64_t mine = whole(o, at);
    uint32_t first = at, ahead = k;  // first: the earliest step that prefetch_bucket allows
    for (int64_t sum = mine; sum <= bucket; sum += whole(o, o->order[ahead])) {
      first = ahead ? o->order[ahead - 1] + 1 : 0;
      if (!ahead--) break;
    }
    first = ZG_MAX(first, made[at]);
    double start = ZG_MIN(o->time[at], next_start) - comm_time(o, &o->old[at]);
    uint32_t issue = at;
    while (issue > first && o->time[issue] > start && (max_live <= 0 || live[issue - 1] + mine <= max_live))
      live[--issue] += mine;
    if (k + 1 < o->n_gathers && issue > o->gathers[o->order[k + 1]].issue) {  // keep their order
      const uint32_t after = o->gathers[o->order[k + 1]].issue;
      issue = ZG_MAX(first, after);
      for (uint32_t later = k + 1; later < o->n_gathers && o->gathers[o->order[later]].issue < issue; later++)
        o->gathers[o->order[later]].issue = issue;
    }
    o->gathers[at] = (plan){issue, start};
    next_start = start;
  }
}

// ---- writing the segment --------------------------------------------------------------------------------------------------

static void emit(overlap *o, zg_step p) {
  if (p.stream == ZG_STREAM_COMPUTE && p.kind != ZG_STEP_RECORD) memset(o->ordered, 0, sizeof o->ordered);
  zg_vec_push(&o->s->steps, p);
}

static uint32_t record(overlap *o, zg_stream on, zg_stream waits, uint8_t phase) {
  const uint32_t event = o->next_event++;
  emit(o, (zg_step){.kind = ZG_STEP_RECORD, .stream = (uint8_t)on, .phase = phase, .event = event});
  if (waits != on)
    emit(o, (zg_step){.kind = ZG_STEP_WAIT, .stream = (uint8_t)waits, .phase = phase, .event = event});
  return event;
}

// The oldest collective under way is waited for, then come the steps that were put off for it.
static void finish_oldest(overlap *o, uint8_t phase) {
  const pending *p = &o->queue.at[o->head++];
  emit(o, (zg_step){.kind = ZG_STEP_WAIT, .stream = ZG_STREAM_COMPUTE, .phase = phase, .event = p->event});
  for (uint32_t i = 0; i < p->n_deferred; i++) emit(o, o->deferred.at[p->first_deferred + i]);
  o->reducing -= p->reduced;
}

static bool touches(const zg_sched *s, const zg_step *p, uint32_t buf, bool writes_only) {
  if (!buf || p->kind == ZG_STEP_RECORD || p->kind == ZG_STEP_WAIT) return false;
  if (p->kind != ZG_STEP_KERNEL) return p->a == buf || (!writes_only && p->b == buf);
  const zg_kernel *k = &s->kernels.at[p->kernel];
  for (uint32_t a = 0; a < (writes_only ? k->n_out : k->n_args); a++)
    if (k->args[a].buf == buf) return true;
  return false;
}

// Everything under way that step p must not meet, and what is older.
static void finish_for(overlap *o, const zg_step *p) {
  uint32_t need = o->head;
  for (uint32_t q = o->head; q < o->queue.n; q++)
    if (touches(o->s, p, o->queue.at[q].a, false) || touches(o->s, p, o->queue.at[q].b, true)) need = q + 1;
  while (o->head < need) finish_oldest(o, p->phase);
}

static void issue(overlap *o, uint32_t at, double now) {
  zg_step p = o->old[at];
  const zg_stream on = stream_of(o, &p);
  if (!o->ordered[on]) record(o, ZG_STREAM_COMPUTE, on, p.phase);
  o->ordered[on] = true;
  p.stream = (uint8_t)on;
  emit(o, p);
  o->comm_free = ZG_MAX(o->comm_free, now) + comm_time(o, &p);
  const pending q = {.event = record(o, on, on, p.phase),
                     .a = p.a,
                     .b = p.b,
                     .reduced = may_prefetch(o, &p) ? 0 : p.n,
                     .end = o->comm_free,
                     .first_deferred = (uint32_t)o->deferred.n};
  o->reducing += q.reduced;
  zg_vec_push(&o->queue, q);
}

// Steps right behind a reduction that follow from it alone are put off with it.
static void defer_followers(overlap *o, uint32_t at) {
  pending *q = &o->queue.at[o->queue.n - 1];
  for (uint32_t i = at + 1; i < o->n; i++) {
    const zg_step *p = &o->old[i];
    if (goes_beside(p) || !(touches(o->s, p, q->a, false) || touches(o->s, p, q->b, true))) break;
    if (o->s->bufs.at[q->a].persistent && p->kind == ZG_STEP_KERNEL) break;
    zg_vec_push(&o->deferred, *p);
    q->n_deferred++;
    o->skip[i] = true;
  }
}

static void step(overlap *o, uint32_t i) {
  const zg_step *p = &o->old[i];
  if (o->skip[i]) return;
  while (o->head < o->queue.n && o->queue.at[o->head].end <= o->time[i]) finish_oldest(o, p->phase);
  if (!goes_beside(p)) {
    finish_for(o, p);
    emit(o, *p);
    return;
  }
  if (may_prefetch(o, p)) return;  // started already
  while (o->head < o->queue.n && o->reducing > 0 && o->reducing + p->n > o->z->o.reduce_bucket)
    finish_oldest(o, p->phase);
  issue(o, i, o->time[i]);
  defer_followers(o, i);
}

static void write_segment(overlap *o) {
  uint32_t k = 0;
  for (uint32_t i = 0; i < o->n; i++) {
    for (; k < o->n_gathers && o->gathers[o->order[k]].issue <= i; k++) issue(o, o->order[k], o->time[i]);
    step(o, i);
  }
  while (o->head < o->queue.n) finish_oldest(o, o->n ? o->old[o->n - 1].phase : 0);
}

static void overlap_segment(overlap *o) {
  zg_arena mem = {0};
  o->time = ZG_NEW_N(&mem, double, o->n + 1);
  o->gathers = ZG_NEW_N(&mem, plan, o->n + 1);
  o->order = ZG_NEW_N(&mem, uint32_t, o->n + 1);
  o->skip = ZG_NEW_N(&mem, bool, o->n + 1);
  o->n_gathers = o->head = 0;
  o->queue.n = o->deferred.n = 0;
  o->comm_free = 0;
  o->reducing = 0;
  memset(o->ordered, 0, sizeof o->ordered);
  for (uint32_t i = 0; i < o->n; i++) {
    o->time[i + 1] =
        o->time[i] +
        (o->old[i].kind == ZG_STEP_KERNEL ? kernel_time(o, &o->s->kernels.at[o->old[i].kernel]) : 0);
    if (may_prefetch(o, &o->old[i])) o->order[o->n_gathers++] = i;
  }
  plan_gathers(o, &mem);
  write_segment(o);
  zg_arena_fini(&mem);
}

zg_status zg__zero_overlap(void *self, zg_sched *s) {
  overlap o = {.z = self, .s = s, .next_event = 1};
  if (!o.z->o.overlap) return NULL;
  zg_arena mem = {0};
  const zg_step *all = zg_arena_copy(&mem, s->steps.at, sizeof *all * s->steps.n);
  s->steps.n = 0;
  for (size_t g = 0; g < s->segments.n; g++) {
    zg_segment *seg = &s->segments.at[g];
    const uint32_t first = (uint32_t)s->steps.n;
    o.old = all + seg->first;
    o.n = seg->n;
    overlap_segment(&o);
    *seg = (zg_segment){seg->name, first, (uint32_t)s->steps.n - first};
  }
  zg_vec_fini(&o.queue);
  zg_vec_fini(&o.deferred);
  zg_arena_fini(&mem);
  return NULL;
}
