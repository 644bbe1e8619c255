// zero_reduce: what becomes of the gradients, and what follows the update.
//   stage 0, 1  accumulate into the whole "W.grad"; in the last micro-step all_reduce / reduce_scatter it (in place: rank r's
//               shard lies at element r * shard)
//   stage 2, 3  reduce_scatter in every micro-step, then accumulate the shard; the whole gradient is released at once
//   update      the ranks exchange "@sums"; whole tensors whose shards were updated are gathered in place; BatchNorm's running
//               statistics become rank 0's, so that ranks stay equal (what PyTorch's DDP does with buffers)
// Each collective stands as early as its operand is complete. With k = 1 a gradient is not accumulated but written straight
// into "W.grad" (stage 0, 1) or reduced into it (2, 3).
//
// A backward kernel's result becomes the collective's operand as it is, if it fills a buffer of its own; a result that is part of
// another buffer, or the gradient of two tensors, is copied first.
#include "zero/zero_priv.h"

typedef struct {
  zg_zero *z;
  zg_sched *s;
  zg__edit edit;
  uint32_t first_micro;             // buffer; 0 with k = 1
  uint32_t *last_write, *last_use;  // per buffer: step + 1, of the segment at hand
  uint32_t *n_results, *n_left;     // per buffer: results of the segment in it; those not yet dealt with
  uint8_t phase;
} reducer;

static void note_use(reducer *r, const zg_segment *g) {
  zg_sched *s = r->s;
  for (uint32_t i = g->first; i < g->first + g->n; i++) {
    if (s->steps.at[i].kind != ZG_STEP_KERNEL) continue;
    const zg_kernel *k = &s->kernels.at[s->steps.at[i].kernel];
    for (uint32_t a = 0; a < k->n_args; a++) {
      r->last_use[k->args[a].buf] = i + 1;
      if (a < k->n_out) r->last_write[k->args[a].buf] = i + 1;
    }
  }
  for (size_t i = 0; i < s->outputs.n; i++)
    if (!strcmp(s->outputs.at[i].segment, g->name))
      r->n_results[s->outputs.at[i].view.buf]++, r->n_left[s->outputs.at[i].view.buf]++;
}

static zg_step collective(zg_step_kind kind, uint32_t a, int64_t a_at, uint32_t b, int64_t b_at, int64_t n,
                          uint8_t phase) {
  return (zg_step){.kind = kind,
                   .stream = ZG_STREAM_COMPUTE,
                   .phase = phase,
                   .a = a,
                   .a_at = a_at,
                   .b = b,
                   .b_at = b_at,
                   .n = n};
}

static zg_step in_group(zg_step p, uint32_t group) {
  p.group = group;
  return p;
}

static zg_step release(uint32_t buf, uint8_t phase) {
  return (zg_step){.kind = ZG_STEP_RELEASE, .stream = ZG_STREAM_COMPUTE, .phase = phase, .a = buf};
}

static uint32_t add_buf(zg_sched *s, const char *name, zg_dtype t, int64_t n, zg_buf_role role) {
  const zg_type type = zg_type_make(t, 1, &n);
  const zg_buf b = {
      .name = name, .bytes = zg_type_bytes(&type), .dtype = t, .type = type, .role = (uint8_t)role};
  return zg_sched_add_buf(s, &b);
}

static void replace_buf(zg_sched *s, const zg_segment *g, uint32_t from, uint32_t to) {
  for (uint32_t i = g->first; i < g->first + g->n; i++) {
    zg_step *p = &s->steps.at[i];
    if (p->kind == ZG_STEP_RELEASE && p->a == from) p->a = to;
    if (p->kind != ZG_STEP_KERNEL) continue;
    zg_kernel *k = &s->kernels.at[p->kernel];
    for (uint32_t a = 0; a < k->n_args; a++)
      if (k->args[a].buf == from) k->args[a].buf = to;
  }
}

// The view fills a buffer that nothing else wants when the segment has ended.
static bool has_own_buffer(const reducer *r, const zg_zero_part *p, const zg_view *v) {
  const zg_buf *b = &r->s->bufs.at[v->buf];
  return !b->persistent && v->offset == 0 && b->dtype == ZG_F32 && b->bytes == (uint64_t)p->n * 4 &&
         r->n_results[v->buf] == 1;
}

// Stage 0, 1 without accumulation: the result is written where it is to stay.
static uint32_t write_in_place(reducer *r, const zg_segment *g, const zg_zero_part *p, const zg_view *v) {
  const uint32_t done = r->last_use[v->buf] - 1;
  if (has_own_buffer(r, p, v)) {
    replace_buf(r->s, g, v->buf, p->grad);
    r->s->bufs.at[v->buf].bytes = 0;
    return done;
  }
  zg__edit_after(&r->edit, done,
                 zg__copy_step(r->s, zg__flat(p->grad, ZG_F32, 0, p->n),
                               zg__flat(v->buf, ZG_F32, v->offset, p->n), r->phase, p->name));
  return done;
}

// The result as a buffer of padded size, its tail zero. Returns the step after which it is complete.
static uint32_t whole_gradient(reducer *r, const zg_zero_part *p, const zg_view *v, uint32_t *out_buf) {
  const int64_t padded = zg__padded(r->z, p);
  uint32_t at = r->last_write[v->buf] - 1;
  *out_buf = v->buf;
  if (!has_own_buffer(r, p, v)) {
    *out_buf =
        add_buf(r->s, zg_arena_printf(&r->s->mem, "%s.grad.whole", p->name), ZG_F32, padded, ZG_BUF_GRAD);
    zg__edit_after(&r->edit, at,
                   zg__copy_step(r->s, zg__flat(*out_buf, ZG_F32, 0, p->n),
                                 zg__flat(v->buf, ZG_F32, v->offset, p->n), r->phase, p->name));
  } else {
    r->s->bufs.at[v->buf].bytes = (uint64_t)padded * 4;
    r->s->bufs.at[v->buf].role = ZG_BUF_GRAD;
  }
  if (padded > p->n) {
    const char *label = zg_arena_printf(&r->s->mem, "padding of %s", p->name);
    zg__edit_after(&r->edit, at,
                   zg__fill_step(r->s, zg__flat(*out_buf, ZG_F32, p->n, padded - p->n), r->phase, label));
  }
  return at;
}

static void accumulate(reducer *r, uint32_t at, const zg_zero_part *p, uint32_t from, zg_dtype t, int64_t offset,
                       int64_t n) {
  const char *label = zg_arena_printf(&r->s->mem, "accumulate %s", p->name);
  zg__edit_after(&r->edit, at,
                 zg__accumulate_step(r->s, zg__flat(p->grad, ZG_F32, 0, n), zg__flat(from, t, offset, n),
                                     r->first_micro, r->phase, label));
}

// The first n elements of a gradient rounded to the type they are sent in.
static uint32_t rounded(reducer *r, uint32_t at, const zg_zero_part *p, uint32_t whole, int64_t n) {
  const zg_dtype t = r->z->o.reduce_type;
  const uint32_t half = add_buf(r->s, zg_arena_printf(&r->s->mem, "%s.grad.sent", p->name), t, n, ZG_BUF_GRAD);
  zg__edit_after(&r->edit, at, zg__copy_step(r->s, zg__flat(half, t, 0, n), zg__flat(whole, ZG_F32, 0, n), r->phase, p->name));
  return half;
}

// What this rank gets of the sum, in the type that was sent.
static uint32_t scatter_rounded(reducer *r, uint32_t at, const zg_zero_part *p, uint32_t half) {
  const uint32_t part =
      add_buf(r->s, zg_arena_printf(&r->s->mem, "%s.grad.got", p->name), r->z->o.reduce_type, p->shard, ZG_BUF_GRAD);
  zg__edit_after(&r->edit, at, in_group(collective(ZG_STEP_REDUCE_SCATTER, part, 0, half, 0, p->shard, r->phase), zg__group(r->z)));
  zg__edit_after(&r->edit, at, release(half, r->phase));
  return part;
}

static void widen_to_grad(reducer *r, uint32_t at, const zg_zero_part *p, int64_t grad_at, uint32_t from, int64_t n) {
  zg__edit_after(&r->edit, at, zg__copy_step(r->s, zg__flat(p->grad, ZG_F32, grad_at, n), zg__flat(from, r->z->o.reduce_type, 0, n), r->phase, p->name));
  zg__edit_after(&r->edit, at, release(from, r->phase));
}

static void reduce_whole_rounded(reducer *r, uint32_t at, const zg_zero_part *p) {
  const int64_t padded = zg__padded(r->z, p);
  const uint32_t half = rounded(r, at, p, p->grad, padded);
  if (r->z->o.stage == 1) {
    widen_to_grad(r, at, p, zg__zero_lo(r->z, p), scatter_rounded(r, at, p, half), p->shard);
    return;
  }
  zg__edit_after(&r->edit, at, collective(ZG_STEP_ALL_REDUCE, half, 0, 0, 0, padded, r->phase));
  widen_to_grad(r, at, p, 0, half, padded);
}

// Stage 0, 1.
static void keep_whole(reducer *r, const zg_segment *g, const zg_zero_part *p, const zg_view *v, bool last) {
  uint32_t at = r->last_use[v->buf] - 1;
  if (r->first_micro) accumulate(r, at, p, v->buf, ZG_F32, v->offset, p->n);
  else at = write_in_place(r, g, p, v);
  if (last && r->z->o.reduce_type != ZG_F32) reduce_whole_rounded(r, at, p);
  else if (last && r->z->o.stage == 0)
    zg__edit_after(&r->edit, at,
                   collective(ZG_STEP_ALL_REDUCE, p->grad, 0, 0, 0, zg__padded(r->z, p), r->phase));
  else if (last)
    zg__edit_after(
        &r->edit, at,
        collective(ZG_STEP_REDUCE_SCATTER, p->grad, zg__zero_lo(r->z, p), p->grad, 0, p->shard, r->phase));
  if (!r->s->bufs.at[v->buf].persistent && r->s->bufs.at[v->buf].bytes && r->n_left[v->buf] == 1)
    zg__edit_after(&r->edit, at, release(v->buf, r->phase));
}

// Ranks of one place in their groups add up what their groups have: once per update, after the last micro-step.
static zg_step between_groups(const reducer *r, const zg_zero_part *p, uint8_t phase) {
  return in_group(collective(ZG_STEP_ALL_REDUCE, p->grad, 0, 0, 0, p->shard, phase), ZG_GROUP(zg__copies(r->z), zg__cut(r->z)));
}

// Stage 2, 3: the whole gradient becomes this rank's shard of the sum, in p->grad or added to it. over: nobody else wants the whole.
static void reduce_to_shard(reducer *r, uint32_t at, const zg_zero_part *p, uint32_t whole, bool over) {
  uint32_t shard = p->grad;
  if (r->first_micro)
    shard = add_buf(r->s, zg_arena_printf(&r->s->mem, "%s.grad.new", p->name), ZG_F32, p->shard, ZG_BUF_GRAD);
  zg__edit_after(&r->edit, at, in_group(collective(ZG_STEP_REDUCE_SCATTER, shard, 0, whole, 0, p->shard, r->phase), zg__group(r->z)));
  if (over) zg__edit_after(&r->edit, at, release(whole, r->phase));
  if (!r->first_micro) return;
  accumulate(r, at, p, shard, ZG_F32, 0, p->shard);
  zg__edit_after(&r->edit, at, release(shard, r->phase));
}

static void reduce_to_shard_rounded(reducer *r, uint32_t at, const zg_zero_part *p, uint32_t whole, bool over) {
  const uint32_t half = rounded(r, at, p, whole, zg__padded(r->z, p));
  if (over) zg__edit_after(&r->edit, at, release(whole, r->phase));
  const uint32_t part = scatter_rounded(r, at, p, half);
  if (!r->first_micro) {
    widen_to_grad(r, at, p, 0, part, p->shard);
    return;
  }
  accumulate(r, at, p, part, r->z->o.reduce_type, 0, p->shard);
  zg__edit_after(&r->edit, at, release(part, r->phase));
}

static void keep_shard(reducer *r, const zg_zero_part *p, const zg_view *v) {
  uint32_t whole, at = whole_gradient(r, p, v, &whole);
  const uint32_t used = ZG_MAX(at, whole == v->buf ? r->last_use[whole] - 1 : at);
  (r->z->o.reduce_type == ZG_F32 ? reduce_to_shard : reduce_to_shard_rounded)(r, at, p, whole, used == at);
  if (used != at) zg__edit_after(&r->edit, used, release(whole, r->phase));
  if (!r->first_micro && zg__copies(r->z) > 1) zg__edit_after(&r->edit, at, between_groups(r, p, r->phase));
  if (whole != v->buf && r->n_left[v->buf] == 1)
    zg__edit_after(&r->edit, r->last_use[v->buf] - 1, release(v->buf, r->phase));
}

static void reduce_segment(reducer *r, const zg_segment *g) {
  zg_sched *s = r->s;
  const bool last = r->z->o.micro_steps == 1 || !strcmp(g->name, "micro_last");
  const size_t n_bufs = s->bufs.n;
  r->last_write = zg_alloc(sizeof(uint32_t) * n_bufs);
  r->last_use = zg_alloc(sizeof(uint32_t) * n_bufs);
  r->n_results = zg_alloc(sizeof(uint32_t) * n_bufs);
  r->n_left = zg_alloc(sizeof(uint32_t) * n_bufs);
  r->phase = ZG_PHASE_BACKWARD;
  note_use(r, g);
  for (size_t i = 0; i < s->outputs.n; i++) {
    const zg_sched_output *o = &s->outputs.at[i];
    if (o->kind != ZG_OUT_GRAD || strcmp(o->segment, g->name)) continue;
    const zg_zero_part *p = zg_zero_find(r->z, o->name);
    const zg_view v = o->view;
    if (!p || !p->grad || p->n == 0) continue;
    if (zg__shards_grads(r->z)) keep_shard(r, p, &v);
    else keep_whole(r, g, p, &v, last);
    r->n_left[v.buf]--;  // the last of several takes the buffer along
  }
  size_t kept = 0;
  for (size_t i = 0; i < s->outputs.n; i++)
    if (s->outputs.at[i].kind != ZG_OUT_GRAD || strcmp(s->outputs.at[i].segment, g->name))
      s->outputs.at[kept++] = s->outputs.at[i];
  s->outputs.n = kept;
  zg_free(r->last_write);
  zg_free(r->last_use);
  zg_free(r->n_results);
  zg_free(r->n_left);
}

// ---- update ---------------------------------------------------------------------------------------------------------------

static uint32_t last_writer(const zg_sched *s, const zg_segment *g, uint32_t buf) {
  uint32_t at = UINT32_MAX;
  for (uint32_t i = g->first; i < g->first + g->n; i++) {
    if (s->steps.at[i].kind != ZG_STEP_KERNEL) continue;
    const zg_kernel *k = &s->kernels.at[s->steps.at[i].kernel];
    for (uint32_t a = 0; a < k->n_out; a++)
      if (k->args[a].buf == buf) at = i;
  }
  return at;
}

static bool is_written(const zg_sched *s, uint32_t buf) {
  for (size_t g = 0; g < s->segments.n; g++)
    if (zg__is_micro(&s->segments.at[g]) && last_writer(s, &s->segments.at[g], buf) != UINT32_MAX)
      return true;
  return false;
}

static void after_update(reducer *r) {
  zg_sched *s = r->s;
  const zg_segment *g = zg_sched_find_segment(s, "update");
  const uint32_t mine = zg_sched_find_buf(s, ZG_ZERO_MINE), all = zg_sched_find_buf(s, ZG_ZERO_ALL),
                 end = g->first + g->n - 1;
  zg__edit_after(&r->edit, last_writer(s, g, mine),
                 collective(ZG_STEP_GATHER, all, 0, mine, 0, ZG_ZERO_COLUMNS, ZG_PHASE_UPDATE));
  for (size_t i = 0; i < r->z->parts.n; i++) {
    const zg_zero_part *p = &r->z->parts.at[i];
    if (!p->buf || p->n == 0) continue;
    if (p->role == ZG_ROLE_RUNNING && is_written(s, p->buf))
      zg__edit_after(&r->edit, end, collective(ZG_STEP_BROADCAST, p->buf, 0, 0, 0, p->n, ZG_PHASE_UPDATE));
    if (p->role == ZG_ROLE_TRAINABLE && p->grad && r->first_micro && zg__copies(r->z) > 1)
      zg__edit_before(&r->edit, g->first, between_groups(r, p, ZG_PHASE_UPDATE));
    if (p->role != ZG_ROLE_TRAINABLE || p->sharded || !zg__updates_shard(r->z)) continue;
    const uint32_t at = last_writer(s, g, p->buf);
    zg__edit_after(
        &r->edit, at == UINT32_MAX ? end : at,
        in_group(collective(ZG_STEP_GATHER, p->buf, 0, p->buf, zg__zero_lo(r->z, p), p->shard, ZG_PHASE_UPDATE), zg__group(r->z)));
  }
}

zg_status zg__zero_reduce(void *self, zg_sched *s) {
  reducer r = {.z = self, .s = s, .edit = {.s = s}};
  if (r.z->o.micro_steps > 1) r.first_micro = zg_sched_find_buf(s, "@first_micro");
  for (size_t g = 0; g < s->segments.n; g++)
    if (zg__is_micro(&s->segments.at[g])) reduce_segment(&r, &s->segments.at[g]);
  after_update(&r);
  zg__edit_apply(&r.edit);
  return NULL;
}
