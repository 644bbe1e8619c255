// Released buffers filled with NaN, for tests (exec.h). A buffer's bytes are left alone where another that is alive lies on them: a loop's
// result may have taken the place of an operand that dies with it.
#include "exec/exec.h"
#include "exec/exec_priv.h"

struct zg_poison {
  zg_arena mem;
  const zg_live_range *live;
  uint8_t *bytes;        // as many as the largest buffer that is not persistent
};

void zg_exec_poison(zg_program *p) {
  zg_poison *q = zg_alloc(sizeof *q);
  uint64_t most = 0;
  for (size_t b = 1; b < p->sched->bufs.n; b++)
    if (!p->sched->bufs.at[b].persistent) most = ZG_MAX(most, p->sched->bufs.at[b].bytes);
  q->live = zg_find_live_ranges(p->sched, &q->mem);
  q->bytes = zg_arena_alloc(&q->mem, most + 1);
  memset(q->bytes, 0xff, most);
  zg__poison_free(p);
  p->poison = q;
}

void zg__poison_free(zg_program *p) {
  if (!p->poison) return;
  zg_arena_fini(&p->poison->mem);
  zg_free(p->poison);
  p->poison = NULL;
}

static bool lies_on(const zg_buf *a, const zg_buf *b) {
  return a->space == b->space && a->offset < b->offset + b->bytes && b->offset < a->offset + a->bytes;
}

zg_status zg__poison_release(zg_program *p, uint32_t step) {
  const zg_sched *s = p->sched;
  const uint32_t buf = s->steps.at[step].a;
  const zg_live_range *live = p->poison->live;
  for (uint32_t o = 1; o < s->bufs.n; o++) {
    const bool alive = live[o].first != UINT32_MAX && live[o].first <= step && live[o].last >= step;
    if (o != buf && alive && lies_on(&s->bufs.at[buf], &s->bufs.at[o])) return NULL;
  }
  return p->device->vt->write(p, buf, 0, p->poison->bytes, s->bufs.at[buf].bytes);
}
