// The step loop. It walks the steps of one segment in order and does what each line says; nothing else happens in a step.
// streams.c runs it on several threads.
#include "exec/exec_priv.h"
#include <inttypes.h>
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

zg_status zg_program_check_range(const zg_program *p, uint32_t buf, uint64_t at, uint64_t n) {
  if (buf == 0 || buf >= p->sched->bufs.n) return zg_error(ZG_INTERNAL, "no buffer %u in the schedule", buf);
  const zg_buf *b = &p->sched->bufs.at[buf];
  if (at > b->bytes || n > b->bytes - at)
    return zg_error(ZG_INTERNAL, "bytes %llu..%llu of buffer \"%s\", which has %llu", (unsigned long long)at,
                    (unsigned long long)(at + n), b->name, (unsigned long long)b->bytes);
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
  if (n == 0 || (s->a == s->b && at == bt)) return NULL;
  const zg_device_vtable *vt = p->device->vt;
  if (vt->copy) return vt->copy(p, s, at, bt, n);
  uint8_t *to = vt->host_ptr ? vt->host_ptr(p, s->a) : NULL;
  const uint8_t *from = vt->host_ptr ? vt->host_ptr(p, s->b) : NULL;
  if (!to || !from) return copy_bytes(p, s->a, at, s->b, bt, n);
  memmove(to + at, from + bt, n);
  return NULL;
}

// ---- collectives --------------------------------------------------------------------------------------------------

// Elements of buffer b from `at` on; a step that begins or ends beyond is refused.
static zg_status elems_from(const zg_step *s, const zg_buf *b, int64_t at, int64_t n, uint64_t *out) {
  const uint64_t have = b->bytes / zg_dtype_bytes(b->dtype);
  if (at < 0 || n < 0 || (uint64_t)at > have || (uint64_t)n > have - (uint64_t)at)
    return zg_error(ZG_INTERNAL, "collective over elements %" PRId64 " to %" PRId64 " of buffer \"%s\", which has %" PRIu64 " (step kind %d)",
                    at, at + n, b->name, have, (int)s->kind);
  *out = n ? (uint64_t)n : have - (uint64_t)at;
  return NULL;
}

static uint8_t *address(zg_program *p, uint32_t buf, int64_t at) {
  const zg_device_vtable *vt = p->device->vt;
  uint8_t *base = vt->host_ptr ? vt->host_ptr(p, buf) : vt->device_ptr(p, buf);
  return base ? base + (uint64_t)at * zg_dtype_bytes(p->sched->bufs.at[buf].dtype) : NULL;
}

// The full buffer and the shard of a gather or reduce_scatter: parts, and what of them the full buffer holds.
static zg_status set_parts(zg_program *p, const zg_step *s, const zg_comm *comm, zg_comm_op *op) {
  const bool gather = s->kind == ZG_STEP_GATHER;
  const uint32_t full = gather ? s->a : s->b, shard = gather ? s->b : s->a;
  const int64_t full_at = gather ? s->a_at : s->b_at, shard_at = gather ? s->b_at : s->a_at;
  const zg_buf *f = &p->sched->bufs.at[full], *h = &p->sched->bufs.at[shard];
  zg_comm_group g;
  ZG_TRY(zg_comm_group_of(comm, s->group, &g));
  if (f->dtype != h->dtype)
    return zg_error(ZG_INTERNAL, "collective between \"%s\" (%s) and \"%s\" (%s): element types differ", f->name, zg_dtype_name(f->dtype),
                    h->name, zg_dtype_name(h->dtype));
  ZG_TRY(elems_from(s, h, shard_at, s->n, &op->n));
  ZG_TRY(elems_from(s, f, full_at, 0, &op->n_full));
  op->n_full = ZG_MIN(op->n_full, op->n * g.size);
  op->dtype = f->dtype;
  op->data = address(p, full, full_at);
  op->shard = address(p, shard, shard_at);
  op->what = f->name;
  return NULL;
}

static zg_status set_whole(zg_program *p, const zg_step *s, zg_comm_op *op) {
  const zg_buf *a = &p->sched->bufs.at[s->a];
  ZG_TRY(elems_from(s, a, s->a_at, s->n, &op->n));
  op->dtype = a->dtype;
  op->data = address(p, s->a, s->a_at);
  op->root = s->peer;
  op->what = a->name;
  return NULL;
}

static zg_status run_collective(zg_program *p, const zg_step *s, zg_comm *comm) {
  static const zg_comm_vtable nobody = {.name = "one rank"};
  zg_comm alone = {.vt = &nobody, .world = 1, .local_world = 1};
  zg_comm_op op = {.group = s->group};
  if (!comm && p->sched->world > 1)
    return zg_error(ZG_UNSUPPORTED, "schedule \"%s\" is for %u ranks and has collectives: run it with a communicator",
                    p->sched->title ? p->sched->title : "", p->sched->world);
  const zg_device_vtable *vt = p->device->vt;
  if (!vt->host_ptr && (!vt->device_ptr || !vt->collective))
    return zg_error(ZG_UNSUPPORTED, "device %s: its memory is not the host's, communicator %s cannot reach it", p->device->vt->name,
                    comm ? comm->vt->name : "");
  if (!comm) comm = &alone;
  if (s->kind == ZG_STEP_GATHER || s->kind == ZG_STEP_REDUCE_SCATTER) ZG_TRY(set_parts(p, s, comm, &op));
  else ZG_TRY(set_whole(p, s, &op));
  op.kind = zg_comm_kind_of(s);
  if (!op.data && op.n) return NULL;   // the null device: executes nothing
  if (!vt->host_ptr)
    return zg_status_prefix(vt->collective(p, s, comm, &op), "%s of \"%s\" on rank %u of %u: ", zg_comm_kind_name(op.kind), op.what, comm->rank,
                            comm->world);
  return zg_comm_run(comm, &op);
}

static zg_status timed_collective(zg_program *p, const zg_step *s, zg_comm *comm, zg_exec_stats *stats) {
  if (!stats || !stats->profile) return run_collective(p, s, comm);
  const double t0 = zg_time_s();
  zg_status status = run_collective(p, s, comm);
  const double took = zg_time_s() - t0;
  stats->comm_s += took;
  if (s->stream == ZG_STREAM_COMPUTE) stats->wait_s += took;
  return status;
}

static zg_status run_kernel(zg_program *p, const zg_step *s, zg_rand_state r, zg_exec_stats *stats) {
  const zg_device_vtable *vt = p->device->vt;
  if (!stats || !stats->profile) return vt->run_kernel(p, s->kernel, r);
  const double t0 = zg_time_s();
  zg_status status = vt->run_kernel(p, s->kernel, r);
  const double took = zg_time_s() - t0;
  stats->kernel_s[p->sched->kernels.at[s->kernel].kind] += took;
  if (stats->each_s) stats->each_s[s->kernel] += took;
  if (stats->each_n) stats->each_n[s->kernel]++;
  return status;
}

zg_status zg__exec_step(zg_program *p, const zg_step *s, zg_comm *comm, zg_rand_state r, zg_exec_stats *stats) {
  switch (s->kind) {
    case ZG_STEP_KERNEL: return run_kernel(p, s, r, stats);
    case ZG_STEP_COPY: return run_copy(p, s);
    case ZG_STEP_GATHER:
    case ZG_STEP_REDUCE_SCATTER:
    case ZG_STEP_ALL_REDUCE:
    case ZG_STEP_BROADCAST: return timed_collective(p, s, comm, stats);
    case ZG_STEP_PARTITION:
      return zg_error(ZG_INTERNAL, "partition of buffer \"%s\": weights are loaded by the trainer, not by the step loop",
                      p->sched->bufs.at[s->a].name);
    case ZG_STEP_RELEASE: return p->poison ? zg__poison_release(p, (uint32_t)(s - p->sched->steps.at)) : NULL;
    case ZG_STEP_RECORD:
    case ZG_STEP_WAIT: return p->device->vt->mark ? p->device->vt->mark(p, s) : NULL;
    case ZG_N_STEP_KINDS: break;
  }
  return NULL;
}

static zg_status run_segment(zg_program *p, const zg_segment *seg, zg_rand_state r, zg_exec_stats *stats) {
  if (p->streams) return zg__streams_run(p->streams, seg, r, stats);
  if (p->device->vt->begin) return zg__exec_queue(p, seg, NULL, r, stats);
  for (uint32_t i = seg->first; i < seg->first + seg->n; i++) {
    ZG_TRY(zg__exec_step(p, &p->sched->steps.at[i], NULL, r, stats));
    if (stats) stats->steps_run++;
  }
  return NULL;
}

zg_status zg_exec_run(zg_program *p, const char *segment, zg_rand_state r, zg_exec_stats *stats) {
  const zg_segment *seg = zg_sched_find_segment(p->sched, segment);
  if (!seg) return zg_error(ZG_NOT_FOUND, "schedule has no segment \"%s\"", segment);
  if (!stats || !stats->profile) return run_segment(p, seg, r, stats);
  const double t0 = zg_time_s();
  zg_status status = run_segment(p, seg, r, stats);
  stats->run_s += zg_time_s() - t0;
  return status;
}

// A model of many equal layers asks the device once for each.
void zg_exec_kernel_key(const zg_kernel *k, zg_str *out) {
  out->n = 0;
  zg_str_add(out, "%s ", zg_kernel_info_of(k->kind)->name);
  zg_kernel_info_of(k->kind)->print(k->desc, out);
  for (uint32_t i = 0; i < k->n_args; i++) {
    const zg_view *v = &k->args[i];
    zg_str_add(out, " %d%s", v->buf ? (int)v->dtype : -1, i < k->n_out ? ">" : "<");
    for (uint32_t d = 0; d < v->rank; d++) zg_str_add(out, "%lld:%lld,", (long long)v->dim[d], (long long)v->stride[d]);
  }
}

static void add_workspace(zg_sched *s, size_t kernel, uint64_t bytes) {
  char name[32];
  snprintf(name, sizeof name, "workspace%zu", kernel);
  const int64_t dim[1] = {(int64_t)bytes};
  const zg_buf b = {.name = name, .bytes = bytes, .dtype = ZG_U8, .type = zg_type_make(ZG_U8, 1, dim),
                    .role = ZG_BUF_WORKSPACE, .space = ZG_SPACE_DEVICE};
  s->kernels.at[kernel].workspace = zg_sched_add_buf(s, &b);
}

zg_status zg_exec_add_workspaces(zg_device *d, zg_sched *s) {
  zg_map known = {0};
  zg_str key = {0};
  zg_status status = NULL;
  for (size_t i = 0; i < s->kernels.n; i++) {
    uint64_t bytes = 0;
    zg_exec_kernel_key(&s->kernels.at[i], &key);
    if (!zg_map_get(&known, key.at, &bytes)) {
      ZG_TRY_OUT(d->vt->workspace(d, s, &s->kernels.at[i], &bytes));
      zg_map_put(&known, key.at, bytes);
    }
    if (bytes) add_workspace(s, i, bytes);
  }
out:
  zg_map_fini(&known);
  zg_str_fini(&key);
  return status;
}
