// The step loop. It walks the steps of one segment in order and does what each line says; nothing else happens in a step.
// Streams, records and waits order work between queues: on a device that finishes each call before the next they hold already.
#include "exec/exec.h"
#include <stdio.h>

enum { COPY_BYTES = 1 << 16 };   // copies between buffers go through the stack in pieces: no allocation inside a step

static zg_status copy_bytes(zg_program *p, uint32_t to, uint64_t to_at, uint32_t from, uint64_t from_at, uint64_t n) {
  _Alignas(64) uint8_t piece[COPY_BYTES];
  const zg_device_vtable *vt = p->device->vt;
  for (uint64_t done = 0; done < n;) {
    const uint64_t m = ZG_MIN(n - done, (uint64_t)COPY_BYTES);
    ZG_TRY(vt->read(p, from, from_at + done, piece, m));
    ZG_TRY(vt->write(p, to, to_at + done, piece, m));
    done += m;
  }
  return NULL;
}

// a[a_at .. +n) <- b[b_at .. +n), n = 0: all of the smaller one.
static zg_status run_copy(zg_program *p, const zg_step *s) {
  const zg_buf *a = &p->sched->bufs.at[s->a], *b = &p->sched->bufs.at[s->b];
  if (a->dtype != b->dtype)
    return zg_error(ZG_INTERNAL, "copy of buffer \"%s\" (%s) to \"%s\" (%s): element types differ", b->name,
                    zg_dtype_name(b->dtype), a->name, zg_dtype_name(a->dtype));
  const uint64_t size = zg_dtype_bytes(a->dtype), at = (uint64_t)s->a_at * size, bt = (uint64_t)s->b_at * size;
  if (at > a->bytes || bt > b->bytes)
    return zg_error(ZG_INTERNAL, "copy of buffer \"%s\" to \"%s\" starts outside of them", b->name, a->name);
  const uint64_t n = s->n ? (uint64_t)s->n * size : ZG_MIN(a->bytes - at, b->bytes - bt);
  if (n > a->bytes - at || n > b->bytes - bt)
    return zg_error(ZG_INTERNAL, "copy of %llu bytes from buffer \"%s\" to \"%s\" does not fit", (unsigned long long)n,
                    b->name, a->name);
  if (s->a == s->b && at == bt) return NULL;
  return copy_bytes(p, s->a, at, s->b, bt, n);
}

// One rank alone: gathering and reduce-scattering are copies, reducing and broadcasting change nothing.
static zg_status run_collective(zg_program *p, const zg_step *s) {
  if (p->sched->world > 1)
    return zg_error(ZG_UNSUPPORTED, "schedule \"%s\" is for %u ranks and has collectives: run it with a communicator",
                    p->sched->title ? p->sched->title : "", p->sched->world);
  if (s->kind == ZG_STEP_GATHER || s->kind == ZG_STEP_REDUCE_SCATTER) return run_copy(p, s);
  return NULL;
}

static zg_status run_kernel(zg_program *p, const zg_step *s, zg_rand_state r, zg_exec_stats *stats) {
  const zg_device_vtable *vt = p->device->vt;
  if (!stats || !stats->profile) return vt->run_kernel(p, s->kernel, r);
  const double t0 = zg_time_s();
  zg_status status = vt->run_kernel(p, s->kernel, r);
  stats->kernel_s[p->sched->kernels.at[s->kernel].kind] += zg_time_s() - t0;
  return status;
}

static zg_status run_step(zg_program *p, const zg_step *s, zg_rand_state r, zg_exec_stats *stats) {
  switch (s->kind) {
    case ZG_STEP_KERNEL: return run_kernel(p, s, r, stats);
    case ZG_STEP_COPY: return run_copy(p, s);
    case ZG_STEP_GATHER:
    case ZG_STEP_REDUCE_SCATTER:
    case ZG_STEP_ALL_REDUCE:
    case ZG_STEP_BROADCAST: return run_collective(p, s);
    case ZG_STEP_PARTITION:
      return zg_error(ZG_INTERNAL, "partition of buffer \"%s\": weights are loaded by the trainer, not by the step loop",
                      p->sched->bufs.at[s->a].name);
    case ZG_STEP_RELEASE:
    case ZG_STEP_RECORD:
    case ZG_STEP_WAIT:
    case ZG_N_STEP_KINDS: break;
  }
  return NULL;
}

zg_status zg_exec_run(zg_program *p, const char *segment, zg_rand_state r, zg_exec_stats *stats) {
  const zg_segment *seg = NULL;
  for (size_t i = 0; i < p->sched->segments.n && !seg; i++)
    if (strcmp(p->sched->segments.at[i].name, segment) == 0) seg = &p->sched->segments.at[i];
  if (!seg) return zg_error(ZG_NOT_FOUND, "schedule has no segment \"%s\"", segment);
  for (uint32_t i = seg->first; i < seg->first + seg->n; i++) {
    ZG_TRY(run_step(p, &p->sched->steps.at[i], r, stats));
    if (stats) stats->steps_run++;
  }
  return NULL;
}

zg_status zg_exec_add_workspaces(zg_device *d, zg_sched *s) {
  for (size_t i = 0; i < s->kernels.n; i++) {
    uint64_t bytes = 0;
    ZG_TRY(d->vt->workspace(d, s, &s->kernels.at[i], &bytes));
    if (bytes == 0) continue;
    char name[32];
    snprintf(name, sizeof name, "workspace%zu", i);
    const int64_t dim[1] = {(int64_t)bytes};
    const zg_buf b = {.name = name, .bytes = bytes, .dtype = ZG_U8, .type = zg_type_make(ZG_U8, 1, dim),
                      .role = ZG_BUF_WORKSPACE, .space = ZG_SPACE_DEVICE};
    s->kernels.at[i].workspace = zg_sched_add_buf(s, &b);
  }
  return NULL;
}
