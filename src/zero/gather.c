// zero_gather (stage 3): a tensor that rests in shards is whole only while kernels read it.
//   - for each use in the forward pass and each in the backward pass: gather before the first, release after the last, into a
//     temporary buffer of its own, so that plan_memory gives its place to others in between
//   - one gather for both where the way between them is short (max_reuse_distance: elements of other tensors gathered in
//     between) and what is gathered at once stays within max_live
// What is gathered is the shard as kernels read it: rounded first, where mixed precision rounds it anyway (cast.c).
// Memory that is whole at rest (tensors below the persistence threshold, running statistics) is not touched.
#include "zero/zero_priv.h"

typedef struct {
  uint32_t first, last;
} use_span;  // step + 1; 0: none
typedef struct {
  uint32_t part, from;
  use_span forward, backward;
  bool keep;
} use;  // from: buffer of the shard
typedef struct {
  zg_zero *z;
  zg_sched *s;
  zg__edit edit;
  const zg_segment *g;
  bool *dropped;
  ZG_VEC(use) uses;
} gatherer;
typedef struct {
  uint32_t buf, members, group;
  int64_t n;
} source;  // what is gathered: n elements of `buf` from each member of `group`

static void widen(use_span *u, uint32_t step) {
  if (!u->first) u->first = step + 1;
  u->last = step + 1;
}

static void find_uses(gatherer *q) {
  zg_sched *s = q->s;
  zg_arena mem = {0};
  const zg__touches touches = zg__find_touches(s, q->g, &mem);
  uint32_t *part_of = zg_alloc(sizeof *part_of * (s->bufs.n + q->z->parts.n)),
           *use_of = zg_alloc(sizeof *use_of * (q->z->parts.n + 1));
  for (uint32_t i = 0; i < q->z->parts.n; i++) {
    const zg_zero_part *p = &q->z->parts.at[i];
    if (!p->sharded || !p->buf) continue;
    const uint32_t cast = zg__zero_cast_shard(&q->edit, q->g, &touches, p, q->dropped);
    part_of[cast ? cast : p->buf] = i + 1;
  }
  q->uses.n = 0;
  for (uint32_t i = q->g->first; i < q->g->first + q->g->n; i++) {
    const zg_step *p = &s->steps.at[i];
    if (p->kind != ZG_STEP_KERNEL || q->dropped[i]) continue;
    const zg_kernel *k = &s->kernels.at[p->kernel];
    for (uint32_t a = 0; a < k->n_args; a++) {
      const uint32_t part = part_of[k->args[a].buf];
      if (!part) continue;
      if (!use_of[part]) {
        zg_vec_push(&q->uses, (use){.part = part - 1, .from = k->args[a].buf});
        use_of[part] = (uint32_t)q->uses.n;
      }
      use *u = &q->uses.at[use_of[part] - 1];
      widen(p->phase == ZG_PHASE_FORWARD ? &u->forward : &u->backward, i);
    }
  }
  zg_free(part_of);
  zg_free(use_of);
  zg_arena_fini(&mem);
}

// Elements of other tensors gathered between the last forward and the first backward use.
static int64_t distance(const gatherer *q, const use *u) {
  int64_t sum = 0;
  for (size_t i = 0; i < q->uses.n; i++) {
    const use *o = &q->uses.at[i];
    const int64_t n = q->z->parts.at[o->part].n;
    if (o == u) continue;
    if (o->forward.first > u->forward.last) sum += n;
    if (o->backward.first && o->backward.first < u->backward.first) sum += n;
  }
  return sum;
}

// Uses come in order of first use; the last ones of the forward pass, which the backward pass wants first, are kept first.
static void choose_kept(gatherer *q) {
  const zg_zero_options *o = &q->z->o;
  int64_t live = 0;
  for (size_t i = q->uses.n; i-- > 0;) {
    use *u = &q->uses.at[i];
    const int64_t n = q->z->parts.at[u->part].n;
    if (!u->forward.first || !u->backward.first || distance(q, u) > o->max_reuse_distance) continue;
    if (o->max_live > 0 && live + n > o->max_live) continue;
    u->keep = true;
    live += n;
  }
}

static void release_after(gatherer *q, uint32_t at, uint32_t buf) {
  zg__edit_after(
      &q->edit, at,
      (zg_step){.kind = ZG_STEP_RELEASE, .stream = ZG_STREAM_COMPUTE, .phase = q->s->steps.at[at].phase, .a = buf});
}

// Kernels of the span read a buffer of their own, gathered from the members' `shard`s. Returns it.
static uint32_t gather_span(gatherer *q, const zg_zero_part *p, uint32_t read, source from, use_span u, const char *suffix) {
  zg_sched *s = q->s;
  const int64_t padded = from.n * from.members;
  const zg_dtype t = s->bufs.at[from.buf].dtype;
  const zg_buf b = {.name = zg_arena_printf(&s->mem, "%s.%s", p->name, suffix),
                    .bytes = (uint64_t)padded * zg_dtype_bytes(t),
                    .dtype = t,
                    .type = zg_type_make(t, 1, &padded),
                    .role = ZG_BUF_COMM};
  const uint32_t buf = zg_sched_add_buf(s, &b);
  const uint8_t phase = s->steps.at[u.first - 1].phase;
  for (uint32_t i = u.first - 1; i < u.last; i++) {
    if (s->steps.at[i].kind != ZG_STEP_KERNEL || q->dropped[i]) continue;
    zg_kernel *k = &s->kernels.at[s->steps.at[i].kernel];
    for (uint32_t a = 0; a < k->n_args; a++)
      if (k->args[a].buf == read) k->args[a].buf = buf;
  }
  zg__edit_before(&q->edit, u.first - 1,
                  (zg_step){.kind = ZG_STEP_GATHER,
                            .stream = ZG_STREAM_COMPUTE,
                            .phase = phase,
                            .a = buf,
                            .b = from.buf,
                            .n = from.n,
                            .group = from.group});
  return buf;
}

// hpZ: what this rank has to give within its group, out of the whole, as long as that is there.
static source keep_second(gatherer *q, const zg_zero_part *p, uint32_t whole, use_span forward) {
  zg_sched *s = q->s;
  const uint32_t members = q->z->o.second_ranks;
  const int64_t n = (p->n + members - 1) / members;
  const zg_dtype t = s->bufs.at[whole].dtype;
  const zg_buf b = {.name = zg_arena_printf(&s->mem, "%s.second", p->name),
                    .bytes = (uint64_t)n * zg_dtype_bytes(t),
                    .dtype = t,
                    .type = zg_type_make(t, 1, &n),
                    .role = ZG_BUF_COMM};
  const source second = {zg_sched_add_buf(s, &b), members, ZG_GROUP(members, 1), n};
  zg__edit_after(&q->edit, forward.last - 1,
                 zg__copy_step(s, zg__flat(second.buf, t, 0, n), zg__flat(whole, t, n * (q->z->o.rank % members), n),
                               s->steps.at[forward.last - 1].phase, p->name));
  return second;
}

static void gather_twice(gatherer *q, const zg_zero_part *p, const use *u, source all) {
  const zg_sched *s = q->s;
  source again = all;
  const uint32_t whole = gather_span(q, p, u->from, all, u->forward, "forward");
  if (q->z->o.second_ranks) again = keep_second(q, p, whole, u->forward);
  release_after(q, u->forward.last - 1, whole);
  release_after(q, u->backward.last - 1, gather_span(q, p, u->from, again, u->backward, "backward"));
  if (again.buf == all.buf) return;
  release_after(q, u->backward.last - 1, again.buf);
  if (!strcmp(q->g->name, "micro")) q->z->gathered[2] += (uint64_t)again.n * zg_dtype_bytes(s->bufs.at[again.buf].dtype);
}

static void gather_segment(gatherer *q) {
  const bool counts = !strcmp(q->g->name, "micro");
  find_uses(q);
  choose_kept(q);
  for (size_t i = 0; i < q->uses.n; i++) {
    const use *u = &q->uses.at[i];
    const zg_zero_part *p = &q->z->parts.at[u->part];
    const bool twice = u->forward.first && u->backward.first && !u->keep;
    if (counts) q->z->gathered[twice] += (uint64_t)p->shard * zg_dtype_bytes(q->s->bufs.at[u->from].dtype);
    const source all = {u->from, zg__cut(q->z), zg__group(q->z), p->shard};
    if (twice) {
      gather_twice(q, p, u, all);
    } else {
      const uint32_t first = u->forward.first ? u->forward.first : u->backward.first,
                     last = ZG_MAX(u->forward.last, u->backward.last);
      release_after(q, last - 1, gather_span(q, p, u->from, all, (use_span){first, last}, "whole"));
    }
    if (u->from == p->buf) continue;
    const bool second = twice && q->z->o.second_ranks;
    const uint32_t end = (second ? u->forward.last : ZG_MAX(u->forward.last, u->backward.last)) - 1;  // the last gather is over there
    release_after(q, end, u->from);
  }
}

zg_status zg__zero_gather(void *self, zg_sched *s) {
  gatherer q = {.z = self, .s = s, .edit = {.s = s}};
  memset(q.z->gathered, 0, sizeof q.z->gathered);
  q.dropped = zg_alloc(sizeof *q.dropped * (s->steps.n + 1));
  for (size_t g = 0; q.z->o.stage == 3 && g < s->segments.n; g++) {
    q.g = &s->segments.at[g];
    if (strcmp(q.g->name, "update")) gather_segment(&q);
  }
  zg__edit_apply(&q.edit);
  zg_vec_fini(&q.uses);
  zg_free(q.dropped);
  return NULL;
}
