// Segments on devices that queue work: the caller's thread gives the device every step in the order of the schedule, each for the stream
// that it names, and waits for nothing. Order between streams is the device's, by the schedule's own RECORD and WAIT steps.
//
// Gathers that stand together on one stream start as a group: the library then sends them in one go. What is recorded between them is
// recorded behind the group; whoever waits for it waits for the whole group, which never closes a circle since the group holds no wait.
#include "exec/exec_priv.h"

enum { GROUP_MAX = 16 };

static bool joins(const zg_step *first, const zg_step *s) {
  return s->kind == ZG_STEP_GATHER && s->stream == first->stream && s->group == first->group;
}
static bool may_stand_between(const zg_step *first, const zg_step *s) {
  return s->kind == ZG_STEP_RECORD && s->stream == first->stream;
}

// Steps [at, *end) that hold a group of gathers, beginning and ending with one; false: no more than one.
static bool find_group(const zg_program *p, uint32_t at, uint32_t stop, uint32_t *end) {
  const zg_step *steps = p->sched->steps.at, *first = &steps[at];
  uint32_t n = 1;
  *end = at + 1;
  if (first->kind != ZG_STEP_GATHER) return false;
  for (uint32_t i = at + 1; i < stop && n < GROUP_MAX; i++) {
    if (joins(first, &steps[i])) *end = i + 1, n++;
    else if (!may_stand_between(first, &steps[i])) break;
  }
  return n > 1;
}

typedef struct { zg_program *p; zg_comm *comm; zg_rand_state r; zg_exec_stats *stats; } queue;

static zg_status one(const queue *q, uint32_t i) {
  if (q->stats) q->stats->steps_run++;
  return zg__exec_step(q->p, &q->p->sched->steps.at[i], q->comm, q->r, q->stats);
}

static zg_status one_group(const queue *q, uint32_t at, uint32_t end) {
  const zg_device_vtable *vt = q->p->device->vt;
  const zg_step *steps = q->p->sched->steps.at;
  ZG_TRY(vt->group(q->p, true));
  zg_status status = NULL;
  for (uint32_t i = at; i < end && !status; i++)
    if (steps[i].kind == ZG_STEP_GATHER) status = one(q, i);
  zg_status closed = vt->group(q->p, false);
  if (status) zg_status_free(closed);
  else status = closed;
  for (uint32_t i = at; i < end && !status; i++)
    if (steps[i].kind != ZG_STEP_GATHER) status = one(q, i);
  return status;
}

static zg_status all_steps(const queue *q, const zg_segment *seg) {
  const uint32_t stop = seg->first + seg->n;
  for (uint32_t i = seg->first; i < stop;) {
    uint32_t end;
    ZG_TRY(find_group(q->p, i, stop, &end) ? one_group(q, i, end) : one(q, i));
    i = end;
  }
  return NULL;
}

zg_status zg__exec_queue(zg_program *p, const zg_segment *seg, zg_comm *comm, zg_rand_state r, zg_exec_stats *stats) {
  const queue q = {p, comm, r, stats};
  const uint64_t before = stats ? stats->steps_run : 0;
  bool again;
  do {
    bool replayed = false;
    again = false;
    if (stats) stats->steps_run = before;
    ZG_TRY(p->device->vt->begin(p, seg, comm, r, &replayed));
    if (replayed) {
      if (stats) stats->steps_run = before + seg->n;
      return NULL;
    }
    ZG_TRY(p->device->vt->end(p, all_steps(&q, seg), &again));
  } while (again);
  return NULL;
}
