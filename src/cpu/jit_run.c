// Runs compiled phases: cuts a block into runs, pieces in which every view is a line, and calls the function
// for each.
#include "cpu/jit.h"

typedef struct {
  const loop_frame *f;
  const jit_phase *j;
  const loop_phase *ph;
  void *p[JIT_BINDS];
  int64_t x[JIT_INDICES];
  loop_cursor arg[JIT_BINDS], index[JIT_INDICES];
} runner;

static void seek_all(runner *r, int64_t at) {
  const loop_prog *p = r->f->p;
  for (uint32_t i = 0; i < r->j->n_bind; i++)
    if (r->j->bind[i].kind == BIND_ARG)
      zg__loop_seek(&r->arg[i], &p->walks.at[p->ops.at[r->j->bind[i].at].walk], at);
  for (uint32_t i = 0; i < r->j->n_index; i++)
    zg__loop_seek(&r->index[i], &p->walks.at[p->ops.at[r->j->index[i]].walk], at);
}

static inline void advance(loop_cursor *c, int64_t n) {
  const uint32_t last = c->w->rank - 1;
  c->at += n * c->w->stride[last];
  c->idx[last] += n;
  if ((c->left -= n) == 0) zg__loop_next_run(c);
}

// n elements from where the cursors stand; `elem` counts from the block's first element, `row` from its first
// row (column).
static void run_line(runner *r, int64_t n, int64_t elem, int64_t row) {
  const loop_frame *f = r->f;
  while (n > 0) {
    int64_t m = n;
    for (uint32_t i = 0; i < r->j->n_bind; i++) {
      const jit_bind b = r->j->bind[i];
      const loop_slot *s = &f->p->slots.at[b.kind == BIND_ROW || b.kind == BIND_TILE ? b.at : 0];
      switch ((jit_bind_kind)b.kind) {
        case BIND_ARG:
          r->p[i] = zg__loop_tensor(f, &f->p->ops.at[b.at], r->arg[i].at);
          m = ZG_MIN(m, r->arg[i].left);
          break;
        case BIND_ROW: r->p[i] = (uint8_t *)f->ptr[b.at] + (s->uniform ? 0 : row * s->size); break;
        case BIND_TILE: r->p[i] = f->scratch + s->home + elem * s->size; break;
        case BIND_ACC: {
          const loop_acc *a = &f->p->accs.at[b.at];
          const bool part = f->p->column && a->cls == ZG_CLS_F32;
          r->p[i] = f->scratch + (part ? a->part : a->total) + row * (part ? 4 : 8);
          break;
        }
      }
    }
    for (uint32_t i = 0; i < r->j->n_index; i++) r->x[i] = r->index[i].at, m = ZG_MIN(m, r->index[i].left);
    r->j->fn(m, r->p, r->x, (const uint32_t *)&f->r->rand);
    n -= m;
    elem += m;
    if (f->p->column) row += m;
    for (uint32_t i = 0; i < r->j->n_bind; i++)
      if (r->j->bind[i].kind == BIND_ARG) advance(&r->arg[i], m);
    for (uint32_t i = 0; i < r->j->n_index; i++) advance(&r->index[i], m);
  }
}

// A row that several tiles cover, or several rows in one tile.
static void run_rows(runner *r, int64_t t0, int64_t t1) {
  const loop_prog *p = r->f->p;
  const int64_t from = t0 * p->tile, to = ZG_MIN(t1 * p->tile, p->width);
  seek_all(r, r->f->row0 * p->width + from);
  if (p->single && !r->j->by_row) {
    run_line(r, p->width * r->f->n_rows, 0, 0);
  } else if (p->single) {
    for (int64_t i = 0; i < r->f->n_rows; i++) run_line(r, p->width, i * p->width, i);
  } else if (r->ph->n_acc == 0) {
    run_line(r, to - from, from, 0);
  } else {
    for (int64_t at = from; at < to; at += p->tile) run_line(r, ZG_MIN(p->tile, to - at), at, 0);
  }
}

static void run_columns(runner *r, int64_t t0, int64_t t1) {
  const loop_prog *p = r->f->p;
  const int64_t outer = r->f->row0 / p->inner, j = r->f->row0 % p->inner, to = ZG_MIN(t1 * p->tile, p->width);
  const bool whole = r->f->n_rows == p->inner;
  for (int64_t step = t0 * p->tile; step < to; step++) {
    if (step == t0 * p->tile || !whole) seek_all(r, (outer * p->width + step) * p->inner + j);
    run_line(r, r->f->n_rows, 0, 0);
  }
}

void zg__jit_run_tiles(const loop_frame *f, const loop_phase *ph, int64_t t0, int64_t t1) {
  runner r;
  r.f = f, r.ph = ph, r.j = &f->p->jit[ph - f->p->phases.at];
  if (f->p->column) run_columns(&r, t0, t1);
  else run_rows(&r, t0, t1);
}
