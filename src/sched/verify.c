// The schedule's verifier: proves, segment by segment, that what stands there can run.
//   - kernels' own rules; views inside their buffers
//   - written before read; no use after release
//   - no two live buffers overlap, but for a loop's result in place of a dying operand (once offsets are planned)
//   - hazards between streams are ordered by record/wait
#include <inttypes.h>
#include <stdlib.h>

#include "sched/loop.h"
#include "sched/sched.h"

static zg_status check_view(const zg_sched *s, const zg_kernel *k, uint32_t i) {
  const zg_view *v = &k->args[i];
  const bool optional = k->kind == ZG_K_SORT || k->kind == ZG_K_ATTENTION || k->kind == ZG_K_ATTENTION_GRAD || k->kind == ZG_K_RECURRENT ||
                        k->kind == ZG_K_RECURRENT_GRAD;
  if (v->buf == 0 && i < k->n_out && optional) return NULL;
  if (v->buf == 0 || v->buf >= s->bufs.n) return zg_error(ZG_INVALID, "kernel \"%s\": argument %u names no buffer", k->label, i);
  const zg_buf *b = &s->bufs.at[v->buf];
  int64_t lo = v->offset, hi = v->offset;
  for (uint32_t d = 0; d < v->rank; d++) {
    if (v->dim[d] < 0) return zg_error(ZG_INVALID, "kernel \"%s\": argument %u has a negative dim", k->label, i);
    if (v->dim[d] == 0) return NULL;
    int64_t span = (v->dim[d] - 1) * v->stride[d];
    if (span < 0) lo += span;
    else hi += span;
  }
  if (lo < 0 || (uint64_t)(hi + 1) * zg_dtype_bytes(v->dtype) > b->bytes)
    return zg_error(ZG_INVALID, "kernel \"%s\": argument %u reaches elements %" PRId64 " to %" PRId64 " of buffer \"%s\", which has %" PRIu64 " bytes",
                    k->label, i, lo, hi, b->name, b->bytes);
  return NULL;
}

typedef struct { bool written, released; } buf_state;

static zg_status check_use(const zg_sched *s, const buf_state *st, uint32_t buf, bool read, uint32_t step, const char *label) {
  if (!buf) return NULL;
  if (st[buf].released) return zg_error(ZG_INVALID, "step %u (%s) uses buffer \"%s\" after its release", step, label, s->bufs.at[buf].name);
  if (read && !st[buf].written && s->bufs.at[buf].bytes) return zg_error(ZG_INVALID, "step %u (%s) reads buffer \"%s\" before anything wrote it", step, label, s->bufs.at[buf].name);
  return NULL;
}

static zg_status check_kernel_step(const zg_sched *s, buf_state *st, const zg_step *p, uint32_t at) {
  if (p->kernel >= s->kernels.n) return zg_error(ZG_INVALID, "step %u names kernel %u of %zu", at, p->kernel, s->kernels.n);
  const zg_kernel *k = &s->kernels.at[p->kernel];
  for (uint32_t i = 0; i < k->n_args; i++) ZG_TRY(check_view(s, k, i));
  ZG_TRY(zg_kernel_info_of(k->kind)->verify(k));
  bool updates = k->kind == ZG_K_SCATTER || (k->kind == ZG_K_MATMUL && ((const zg_matmul_desc *)k->desc)->beta != 0);
  for (uint32_t i = 0; i < k->n_args; i++) ZG_TRY(check_use(s, st, k->args[i].buf, i >= k->n_out || updates, at, k->label));
  for (uint32_t i = 0; i < k->n_out; i++) st[k->args[i].buf].written = true;
  return check_use(s, st, k->workspace, false, at, k->label);
}

static zg_status check_other_step(const zg_sched *s, buf_state *st, const zg_step *p, uint32_t at) {
  if (p->a >= s->bufs.n || p->b >= s->bufs.n) return zg_error(ZG_INVALID, "step %u names a buffer that does not exist", at);
  switch (p->kind) {
    case ZG_STEP_RELEASE:
      ZG_TRY(check_use(s, st, p->a, true, at, "release"));
      if (s->bufs.at[p->a].persistent) return zg_error(ZG_INVALID, "step %u releases the persistent buffer \"%s\"", at, s->bufs.at[p->a].name);
      st[p->a].released = true;
      return NULL;
    case ZG_STEP_PARTITION:
      st[p->a].written = true;
      return NULL;
    case ZG_STEP_ALL_REDUCE:
    case ZG_STEP_BROADCAST: return check_use(s, st, p->a, true, at, "collective");
    case ZG_STEP_GATHER:
    case ZG_STEP_REDUCE_SCATTER:
    case ZG_STEP_COPY:
      ZG_TRY(check_use(s, st, p->b, true, at, "copy"));
      ZG_TRY(check_use(s, st, p->a, false, at, "copy"));
      st[p->a].written = true;
      return NULL;
    case ZG_STEP_KERNEL:
    case ZG_STEP_RECORD:
    case ZG_STEP_WAIT:
    case ZG_N_STEP_KINDS: break;
  }
  return NULL;
}

// ---- overlap ------------------------------------------------------------------------------------------------------

static int by_offset(const void *a, const void *b, void *context) {
  const zg_sched *s = context;
  uint64_t x = s->bufs.at[*(const uint32_t *)a].offset, y = s->bufs.at[*(const uint32_t *)b].offset;
  return x < y ? -1 : x > y;
}

// b begins in the step in which a ends, as a loop's result in a's place.
static bool in_place(const zg_sched *s, const zg_live_range *r, uint32_t a, uint32_t b) {
  if (r[a].last != r[b].first || s->bufs.at[a].offset != s->bufs.at[b].offset) return false;
  const zg_step *st = &s->steps.at[r[b].first];
  if (st->kind != ZG_STEP_KERNEL || s->kernels.at[st->kernel].kind != ZG_K_LOOP) return false;
  const zg_kernel *k = &s->kernels.at[st->kernel];
  for (uint32_t o = 0; o < k->n_out; o++)
    for (uint32_t i = k->n_out; i < k->n_args; i++)
      if (k->args[o].buf == b && k->args[i].buf == a && zg_loop_may_alias(k, o, i)) return true;
  return false;
}

static zg_status check_overlap(const zg_sched *s, zg_arena *mem) {
  zg_live_range *r = zg_find_live_ranges(s, mem);
  for (uint8_t space = 0; space < ZG_N_SPACES; space++) {
    if (!s->arena_bytes[space]) continue;
    uint32_t *ids = ZG_NEW_N(mem, uint32_t, s->bufs.n), n = 0;
    for (uint32_t b = 1; b < s->bufs.n; b++)
      if (s->bufs.at[b].space == space && s->bufs.at[b].bytes && r[b].first != UINT32_MAX) ids[n++] = b;
    qsort_r(ids, n, sizeof *ids, by_offset, (void *)s);
    for (uint32_t i = 0; i < n; i++) {
      const zg_buf *x = &s->bufs.at[ids[i]];
      if (x->offset + x->bytes > s->arena_bytes[space])
        return zg_error(ZG_INVALID, "buffer \"%s\" ends at %" PRIu64 ", beyond its arena of %" PRIu64 " bytes", x->name, x->offset + x->bytes, s->arena_bytes[space]);
      for (uint32_t j = i + 1; j < n && s->bufs.at[ids[j]].offset < x->offset + x->bytes; j++) {
        uint32_t a = ids[i], b = ids[j];
        if (r[a].last < r[b].first || r[b].last < r[a].first) continue;
        if (in_place(s, r, a, b) || in_place(s, r, b, a)) continue;
        return zg_error(ZG_INVALID, "buffers \"%s\" and \"%s\" are alive together (steps %u-%u, %u-%u) and overlap in memory",
                        x->name, s->bufs.at[b].name, r[a].first, r[a].last, r[b].first, r[b].last);
      }
    }
  }
  return NULL;
}

// ---- streams ------------------------------------------------------------------------------------------------------

// Vector clocks: clock[s][t] = how many steps of stream t are known to be done when stream s goes on.
typedef struct { uint32_t stream, at; bool write, used; } access;

static bool ordered(const uint32_t (*clock)[ZG_N_STREAMS], uint32_t stream, const access *a) {
  return !a->used || a->stream == stream || clock[stream][a->stream] >= a->at;
}

static zg_status check_streams(const zg_sched *s, const zg_segment *seg, zg_arena *mem) {
  uint32_t clock[ZG_N_STREAMS][ZG_N_STREAMS] = {{0}}, n_events = 1;
  for (uint32_t i = seg->first; i < seg->first + seg->n; i++) n_events = ZG_MAX(n_events, s->steps.at[i].event + 1);
  uint32_t(*event)[ZG_N_STREAMS] = zg_arena_alloc(mem, sizeof *event * n_events);
  access *wrote = ZG_NEW_N(mem, access, s->bufs.n), (*read)[ZG_N_STREAMS] = zg_arena_alloc(mem, sizeof *read * s->bufs.n);
  for (uint32_t i = seg->first; i < seg->first + seg->n; i++) {
    const zg_step *p = &s->steps.at[i];
    uint32_t me = p->stream;
    clock[me][me]++;
    if (p->kind == ZG_STEP_RECORD) memcpy(event[p->event], clock[me], sizeof clock[me]);
    for (int t = 0; p->kind == ZG_STEP_WAIT && t < ZG_N_STREAMS; t++) clock[me][t] = ZG_MAX(clock[me][t], event[p->event][t]);
    uint32_t use[2 * ZG_MAX_RANK + 64], n = 0, n_write = 0;
    if (p->kind == ZG_STEP_KERNEL) {
      const zg_kernel *k = &s->kernels.at[p->kernel];
      n_write = k->n_out;
      for (uint32_t a = 0; a < k->n_args && n < ZG_COUNT(use); a++) use[n++] = k->args[a].buf;
    } else if (p->kind != ZG_STEP_RECORD && p->kind != ZG_STEP_WAIT) {
      use[n++] = p->a;
      n_write = 1;
      if (p->b) use[n++] = p->b;
    }
    for (uint32_t u = 0; u < n; u++) {
      uint32_t b = use[u];
      bool ok = ordered((const uint32_t(*)[ZG_N_STREAMS])clock, me, &wrote[b]);
      for (int t = 0; t < ZG_N_STREAMS && u < n_write; t++) ok = ok && ordered((const uint32_t(*)[ZG_N_STREAMS])clock, me, &read[b][t]);
      if (!ok) return zg_error(ZG_INVALID, "step %u uses buffer \"%s\" while another stream may still be at it: a wait is missing", i, s->bufs.at[b].name);
      access now = {me, clock[me][me], u < n_write, true};
      if (u < n_write) wrote[b] = now;
      else read[b][me] = now;
    }
  }
  return NULL;
}

zg_status zg_sched_verify(const zg_sched *s) {
  zg_arena mem = {0};
  zg_status status = NULL;
  buf_state *st = ZG_NEW_N(&mem, buf_state, s->bufs.n);
  for (uint32_t g = 0; g < s->segments.n; g++) {
    const zg_segment *seg = &s->segments.at[g];
    for (uint32_t b = 0; b < s->bufs.n; b++) st[b] = (buf_state){.written = s->bufs.at[b].persistent};
    if ((uint64_t)seg->first + seg->n > s->steps.n) {
      status = zg_error(ZG_INVALID, "segment \"%s\" ends beyond the last step", seg->name);
      goto out;
    }
    for (uint32_t i = seg->first; i < seg->first + seg->n; i++) {
      const zg_step *p = &s->steps.at[i];
      if (p->kind == ZG_STEP_KERNEL) ZG_TRY_OUT(check_kernel_step(s, st, p, i));
      else ZG_TRY_OUT(check_other_step(s, st, p, i));
    }
    ZG_TRY_OUT(check_streams(s, seg, &mem));
  }
  ZG_TRY_OUT(check_overlap(s, &mem));
out:
  zg_arena_fini(&mem);
  return status;
}
