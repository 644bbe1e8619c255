// Casting before gathering (stage 3): where kernels read a tensor only as rounded to fewer bits (mixed precision), each rank rounds its
// shard once a micro-step and the ranks gather that: half the bytes sent, and no rounded whole copy kept from forward to backward.
// The rounding is elementwise, so the result has the same bits. Source: ZeRO-Infinity (Rajbhandari et al. 2021), section 5.
#include "sched/loop.h"
#include "zero/zero_priv.h"

static bool is_flat(const zg_view *v, int64_t n) {
  return v->rank == 1 && v->offset == 0 && v->dim[0] == n && v->stride[0] == 1;
}

// A loop that does nothing but round the whole of `buf` into another buffer.
static bool is_cast(const zg_sched *s, const zg_kernel *k, uint32_t buf, int64_t n) {
  if (k->kind != ZG_K_LOOP || k->n_args != 2 || k->n_out != 1) return false;
  const zg_loop_desc *d = k->desc;
  const zg_buf *to = &s->bufs.at[k->args[0].buf];
  const bool shape = k->args[1].buf == buf && is_flat(&k->args[0], n) && is_flat(&k->args[1], n);
  const bool code = d->rank == 1 && d->n_inst == 3 && d->inst[0].kind == ZG_I_LOAD &&
                    d->inst[1].kind == ZG_I_CAST && d->inst[2].kind == ZG_I_STORE;
  return shape && code && !to->persistent && to->bytes == (uint64_t)n * zg_dtype_bytes(to->dtype) &&
         zg_dtype_bytes(to->dtype) < zg_dtype_bytes(k->args[1].dtype);
}

static bool is_result(const zg_sched *s, uint32_t buf) {
  for (size_t i = 0; i < s->outputs.n; i++)
    if (s->outputs.at[i].view.buf == buf) return true;
  return false;
}

zg__touches zg__find_touches(const zg_sched *s, const zg_segment *g, zg_arena *mem) {
  zg__touches t = {.start = ZG_NEW_N(mem, uint32_t, s->bufs.n + 2)};
  uint32_t *fill = NULL;
  for (int pass = 0; pass < 2; pass++) {
    for (uint32_t i = g->first; i < g->first + g->n; i++) {
      const zg_step *p = &s->steps.at[i];
      const zg_kernel *k = p->kind == ZG_STEP_KERNEL ? &s->kernels.at[p->kernel] : NULL;
      const uint32_t n = k ? k->n_args : p->kind == ZG_STEP_RELEASE;
      for (uint32_t a = 0; a < n; a++) {
        const uint32_t buf = k ? k->args[a].buf : p->a;
        if (pass == 0) t.start[buf + 1]++;
        else t.step[fill[buf]++] = i;
      }
    }
    if (pass) break;
    for (size_t b = 0; b <= s->bufs.n; b++) t.start[b + 1] += t.start[b];
    t.step = ZG_NEW_N(mem, uint32_t, t.start[s->bufs.n + 1] + 1);
    fill = zg_arena_copy(mem, t.start, sizeof *fill * (s->bufs.n + 1));
  }
  return t;
}

// The first cast of the tensor if all kernels of the segment that read it are casts of one kind; else UINT32_MAX.
static uint32_t find_casts(const zg_sched *s, const zg__touches *t, const zg_zero_part *p) {
  uint32_t first = UINT32_MAX;
  for (uint32_t at = t->start[p->buf]; at < t->start[p->buf + 1]; at++) {
    const uint32_t i = t->step[at];
    if (s->steps.at[i].kind != ZG_STEP_KERNEL) continue;
    const zg_kernel *k = &s->kernels.at[s->steps.at[i].kernel];
    if (!is_cast(s, k, p->buf, p->n) || is_result(s, k->args[0].buf)) return UINT32_MAX;
    if (first != UINT32_MAX && s->kernels.at[s->steps.at[first].kernel].args[0].dtype != k->args[0].dtype)
      return UINT32_MAX;
    if (first == UINT32_MAX) first = i;
  }
  return first;
}

static zg_step cast_shard(zg_sched *s, const zg_kernel *whole, uint32_t to, const zg_zero_part *p,
                          uint8_t phase) {
  zg_loop_desc d = *(const zg_loop_desc *)whole->desc;
  d.dim[0] = p->shard;
  zg_view args[2] = {zg__flat(to, whole->args[0].dtype, 0, p->shard),
                     zg__flat(p->buf, whole->args[1].dtype, 0, p->shard)};
  const zg_kernel k = {.kind = ZG_K_LOOP,
                       .desc = &d,
                       .args = args,
                       .n_args = 2,
                       .n_out = 1,
                       .flops = (double)p->shard,
                       .label = p->name};
  return (zg_step){.kind = ZG_STEP_KERNEL,
                   .stream = ZG_STREAM_COMPUTE,
                   .phase = phase,
                   .kernel = zg_sched_add_kernel(s, &k, sizeof d)};
}

// Readers of a rounded whole read `to` instead, which zero_gather then makes whole for them.
static void redirect(zg__edit *e, const zg__touches *t, uint32_t from, uint32_t to, bool *dropped) {
  zg_sched *s = e->s;
  for (uint32_t at = t->start[from]; at < t->start[from + 1]; at++) {
    const uint32_t i = t->step[at];
    zg_step *p = &s->steps.at[i];
    if (p->kind == ZG_STEP_RELEASE && p->a == from && !dropped[i]) dropped[i] = true, zg__edit_drop(e, i);
    if (p->kind != ZG_STEP_KERNEL || dropped[i]) continue;
    zg_kernel *k = &s->kernels.at[p->kernel];
    for (uint32_t a = 0; a < k->n_args; a++)
      if (k->args[a].buf == from) k->args[a].buf = to;
  }
}

uint32_t zg__zero_cast_shard(zg__edit *e, const zg_segment *g, const zg__touches *touches, const zg_zero_part *p,
                             bool *dropped) {
  zg_sched *s = e->s;
  const uint32_t first = find_casts(s, touches, p);
  if (first == UINT32_MAX) return 0;
  const zg_kernel whole = s->kernels.at[s->steps.at[first].kernel];
  const zg_type t = zg_type_make(whole.args[0].dtype, 1, &p->shard);
  const zg_buf b = {.name = zg_arena_printf(&s->mem, "%s.%s", p->name, zg_dtype_name(t.dtype)),
                    .bytes = zg_type_bytes(&t),
                    .dtype = t.dtype,
                    .type = t,
                    .role = ZG_BUF_TEMPORARY};
  const uint32_t shard = zg_sched_add_buf(s, &b);
  for (uint32_t at = touches->start[p->buf]; at < touches->start[p->buf + 1]; at++) {
    const uint32_t i = touches->step[at];
    if (s->steps.at[i].kind != ZG_STEP_KERNEL) continue;
    const uint32_t rounded = s->kernels.at[s->steps.at[i].kernel].args[0].buf;
    dropped[i] = true;
    zg__edit_drop(e, i);
    redirect(e, touches, rounded, shard, dropped);
  }
  zg__edit_before(e, g->first, cast_shard(s, &whole, shard, p, s->steps.at[g->first].phase));
  return shard;
}
