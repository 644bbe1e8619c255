// zero_offload: tensors that rest in host memory, or in a file, and are on the device only while a kernel or a collective uses them.
//   - optimizer states and master copies (stages 1 to 3): copied in before the update of their tensor, back after it
//   - parameter shards (stage 3): copied in before a gather, and around their update
// A copy in stands right before its use; zero_overlap starts it ahead, on the copy stream, and lets copies back end behind other
// kernels. Source: ZeRO-Offload (Ren et al. 2021), ZeRO-Infinity (Rajbhandari et al. 2021), which move the optimizer itself to
// the host; here the update stays where the gradients are.
#include "zero/zero_priv.h"

typedef struct {
  zg_zero *z;
  zg_sched *s;
  zg__edit edit;
} offloader;

static int64_t elems(const zg_sched *s, uint32_t buf) {
  return (int64_t)(s->bufs.at[buf].bytes / zg_dtype_bytes(s->bufs.at[buf].dtype));
}

static uint32_t add_here(offloader *f, uint32_t buf) {
  const zg_buf *from = &f->s->bufs.at[buf];
  const zg_buf b = {.name = zg_arena_printf(&f->s->mem, "%s.here", from->name),
                    .bytes = from->bytes,
                    .dtype = from->dtype,
                    .type = from->type,
                    .role = from->role};
  return zg_sched_add_buf(f->s, &b);
}

static zg_step copy(const zg_sched *s, uint32_t to, uint32_t from, uint8_t phase) {
  return (zg_step){.kind = ZG_STEP_COPY,
                   .stream = ZG_STREAM_COMPUTE,
                   .phase = phase,
                   .a = to,
                   .b = from,
                   .n = elems(s, from)};
}

static zg_step release(uint32_t buf, uint8_t phase) {
  return (zg_step){.kind = ZG_STEP_RELEASE, .stream = ZG_STREAM_COMPUTE, .phase = phase, .a = buf};
}

// Kernels of a segment that use `buf` use a copy of it instead.
static void copy_around(offloader *f, const zg_segment *g, uint32_t buf) {
  zg_sched *s = f->s;
  uint32_t first = UINT32_MAX, last = 0, here = 0;
  bool written = false;
  for (uint32_t i = g->first; i < g->first + g->n; i++) {
    if (s->steps.at[i].kind != ZG_STEP_KERNEL) continue;
    zg_kernel *k = &s->kernels.at[s->steps.at[i].kernel];
    for (uint32_t a = 0; a < k->n_args; a++) {
      if (k->args[a].buf != buf) continue;
      if (!here) here = add_here(f, buf), first = i;
      k->args[a].buf = here;
      written = written || a < k->n_out;
      last = i;
    }
  }
  if (!here) return;
  zg__edit_before(&f->edit, first, copy(s, here, buf, s->steps.at[first].phase));
  if (written) zg__edit_after(&f->edit, last, copy(s, buf, here, s->steps.at[last].phase));
  zg__edit_after(&f->edit, last, release(here, s->steps.at[last].phase));
}

static bool uses(const zg_sched *s, uint32_t step, uint32_t buf) {
  if (s->steps.at[step].kind != ZG_STEP_KERNEL) return false;
  const zg_kernel *k = &s->kernels.at[s->steps.at[step].kernel];
  for (uint32_t a = 0; a < k->n_args; a++)
    if (k->args[a].buf == buf) return true;
  return false;
}

// The shard is released once the gather is over, which is known where its result is first used.
static void copy_before_gathers(offloader *f, const zg_segment *g, uint32_t buf) {
  zg_sched *s = f->s;
  for (uint32_t i = g->first; i < g->first + g->n; i++) {
    zg_step *p = &s->steps.at[i];
    if (p->kind != ZG_STEP_GATHER || p->b != buf) continue;
    const uint32_t here = add_here(f, buf);
    p->b = here;
    zg__edit_before(&f->edit, i, copy(s, here, buf, p->phase));
    uint32_t used = i + 1;
    while (!uses(s, used, p->a)) used++;
    zg__edit_after(&f->edit, used, release(here, s->steps.at[used].phase));
  }
}

static bool is_state(const zg_buf *b) {
  return b->persistent && b->name[0] != '@' && (b->role == ZG_BUF_OPTIMIZER || b->role == ZG_BUF_MASTER);
}

static void offload_states(offloader *f) {
  zg_sched *s = f->s;
  const size_t n = s->bufs.n;
  uint64_t all = 0, moved = 0;
  for (uint32_t b = 1; b < n; b++) all += is_state(&s->bufs.at[b]) ? s->bufs.at[b].bytes : 0;
  for (uint32_t b = 1; b < n; b++) {
    const uint64_t bytes = s->bufs.at[b].bytes;
    if (!is_state(&s->bufs.at[b]) || (double)(moved + bytes) > f->z->o.offload_ratio * (double)all + 0.5)
      continue;
    moved += bytes;
    copy_around(f, zg_sched_find_segment(s, "update"), b);
    s->bufs.at[b].space = f->z->o.offload_optimizer;
  }
}

static void offload_params(offloader *f) {
  zg_sched *s = f->s;
  for (size_t i = 0; i < f->z->parts.n; i++) {
    const zg_zero_part *p = &f->z->parts.at[i];
    if (!p->sharded || !p->buf) continue;
    for (size_t g = 0; g < s->segments.n; g++) {
      copy_around(f, &s->segments.at[g], p->buf);  // its update; rounding before a gather
      copy_before_gathers(f, &s->segments.at[g], p->buf);
    }
    s->bufs.at[p->buf].space = f->z->o.offload_param;
  }
}

zg_status zg__zero_offload(void *self, zg_sched *s) {
  offloader f = {.z = self, .s = s, .edit = {.s = s}};
  s->disk_path = zg_arena_str(&s->mem, f.z->o.disk_path);
  if (f.z->o.offload_param != ZG_SPACE_DEVICE) offload_params(&f);
  if (f.z->o.offload_optimizer != ZG_SPACE_DEVICE) offload_states(&f);
  zg__edit_apply(&f.edit);
  return NULL;
}
