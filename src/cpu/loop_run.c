// Runs prepared loop kernels (loop_priv.h says how the work is cut). Nothing here allocates, locks or logs.
#include <math.h>
#include "cpu/jit.h"

enum { CHUNK_ELEMS = 65536, FLUSH_ROWS = 32 };

typedef loop_frame frame;
typedef loop_cursor cursor;
#define seek zg__loop_seek
#define next_run zg__loop_next_run

// ---- walking views ------------------------------------------------------------------------------------------------
static inline int64_t last_stride(const loop_walk *w) { return w->stride[w->rank - 1]; }
static inline int cls_size(uint8_t cls) { return cls == ZG_CLS_F32 ? 4 : 8; }
static inline bool is_native(uint8_t t) { return t == ZG_F32 || t == ZG_F64 || t == ZG_I64; }

static void fill(const frame *f, uint8_t cls, int64_t n, void *dst, const void *one) {
  if (cls == ZG_CLS_F32) {
    uint32_t v;
    memcpy(&v, one, 4);
    f->vec->fill4(n, dst, v);
  } else {
    uint64_t v;
    memcpy(&v, one, 8);
    f->vec->fill8(n, dst, v);
  }
}

#define tensor zg__loop_tensor

static void load(const frame *f, const loop_op *o, uint8_t *home, int64_t at, int64_t n) {
  const loop_walk *w = &f->p->walks.at[o->walk];
  const int64_t stride = last_stride(w);
  cursor c;
  seek(&c, w, at);
  if (c.left >= n && stride == 1 && !o->copy && is_native(o->to)) {
    const uint8_t *here = tensor(f, o, c.at), *next = here + n * cls_size(o->cls);
    for (int64_t i = 0; i < n * cls_size(o->cls); i += 64) __builtin_prefetch(next + i, 0, 2);   // the tile after this one
    f->ptr[o->dst] = (void *)here;
    return;
  }
  f->ptr[o->dst] = home;
  for (int64_t done = 0; done < n;) {
    const int64_t m = ZG_MIN(n - done, c.left);
    uint8_t *to = home + done * cls_size(o->cls);
    if (stride == 0 && m > 1) {
      uint64_t one;
      f->vec->load[o->to](1, &one, tensor(f, o, c.at), 1);
      fill(f, o->cls, m, to, &one);
    } else {
      f->vec->load[o->to](m, to, tensor(f, o, c.at), stride);
    }
    if ((done += m) < n) next_run(&c);
  }
}

static void store(const frame *f, const loop_op *o, int64_t at, int64_t n) {
  const loop_walk *w = &f->p->walks.at[o->walk];
  const uint8_t *from = f->ptr[o->a];
  cursor c;
  seek(&c, w, at);
  if (from == tensor(f, o, c.at)) return;   // computed in place
  for (int64_t done = 0; done < n;) {
    const int64_t m = ZG_MIN(n - done, c.left);
    f->vec->store[o->to](m, tensor(f, o, c.at), from + done * cls_size(o->cls), last_stride(w));
    if ((done += m) < n) next_run(&c);
  }
}

// The place of a whole tile in the tensor that a later store writes, or NULL if it is in pieces.
static void *direct_place(const frame *f, const loop_op *o, int64_t at, int64_t n) {
  const loop_op *st = &f->p->ops.at[o->direct];
  const loop_walk *w = &f->p->walks.at[st->walk];
  cursor c;
  seek(&c, w, at);
  return c.left >= n && last_stride(w) == 1 ? tensor(f, st, c.at) : NULL;
}

static void index_tile(const frame *f, const loop_op *o, int64_t *dst, int64_t at, int64_t n) {
  cursor c;
  seek(&c, &f->p->walks.at[o->walk], at);
  for (int64_t done = 0; done < n;) {
    const int64_t m = ZG_MIN(n - done, c.left);
    f->vec->iota(m, dst + done, c.at, last_stride(c.w));
    if ((done += m) < n) next_run(&c);
  }
}

// ---- other operations ---------------------------------------------------------------------------------------------
static void constant(const frame *f, const loop_op *o, void *dst, int64_t n) {
  const float f32 = (float)o->imm;
  const int64_t i64 = o->cls == ZG_CLS_INT ? (int64_t)o->imm : 0;
  fill(f, o->cls, n, dst, o->cls == ZG_CLS_F32 ? (const void *)&f32 : o->cls == ZG_CLS_F64 ? (const void *)&o->imm : &i64);
}

static void draw(const frame *f, const loop_op *o, void *dst, int64_t n) {
  const int64_t *element = f->ptr[o->a];
  if (o->cls == ZG_CLS_F32) {
    f->vec->random(n, dst, element, f->r->rand, (uint32_t)o->imm, o->normal);
    return;
  }
  double *d = dst;
  for (int64_t i = 0; i < n; i++) d[i] = zg_loop_random(f->r->rand, (uint32_t)o->imm, (uint64_t)element[i], o->normal);
}

static void cast(const frame *f, const loop_op *o, void *dst, int64_t n) {
  if (o->to == ZG_BOOL) {
    f->vec->to_bool[o->in_cls](n, dst, f->ptr[o->a]);
    return;
  }
  f->vec->cast[o->in_cls][o->cls](n, dst, f->ptr[o->a]);
  if (!is_native(o->to)) f->vec->round[o->to](n, dst, dst);
}

// A row-level value at every element of the tile.
static void expand(const frame *f, const loop_op *o, uint8_t *home, int64_t n) {
  const int size = cls_size(o->cls);
  const uint8_t *from = f->ptr[o->a];
  f->ptr[o->dst] = home;
  if (o->copy) {
    fill(f, o->cls, n, home, from);
  } else if (!f->p->column) {
    const int64_t width = f->p->width;
    for (int64_t i = 0; i < f->n_rows; i++) fill(f, o->cls, width, home + i * width * size, from + i * size);
  } else if (n == f->n_rows) {
    f->ptr[o->dst] = (void *)from;
  } else {
    for (int64_t i = 0; i < n; i += f->n_rows) memcpy(home + i * size, from, (size_t)(f->n_rows * size));
  }
}

static const zg_scalar fold_by[] = {ZG_S_ADD, ZG_S_MAX, ZG_S_MIN, ZG_S_MUL};

static void reduce(const frame *f, const loop_op *o, int64_t n) {
  const loop_acc *a = &f->p->accs.at[o->acc];
  void *total = f->scratch + a->total;
  if (!f->p->column) {
    const int64_t rows = f->p->single ? f->n_rows : 1;
    f->vec->reduce[o->cls][o->red](rows, rows ? n / rows : 0, f->ptr[o->a], total);
    return;
  }
  void *acc = a->cls == ZG_CLS_F32 ? f->scratch + a->part : total;
  const zg_vec_fn fold = f->vec->map[o->cls][fold_by[o->red]][0];
  const uint8_t *from = f->ptr[o->a];
  for (int64_t i = 0; i < n; i += f->n_rows) fold(f->n_rows, acc, acc, from + i * cls_size(o->cls), NULL, fold_by[o->red]);
}

// Runs ops on n values: elements (or row-level values) at .. at + n of the space.
static void run_ops(const frame *f, uint32_t first, uint32_t count, int64_t at, int64_t n) {
  for (const loop_op *o = f->p->ops.at + first, *end = o + count; o < end; o++) {
    const loop_slot *s = &f->p->slots.at[o->dst];
    void *dst = s->kept ? f->ptr[o->dst] : f->scratch + s->home;
    switch ((loop_op_kind)o->kind) {
      case OP_LOAD: load(f, o, dst, at, n); continue;
      case OP_EXPAND: expand(f, o, dst, n); continue;
      case OP_REDUCE: reduce(f, o, n); continue;
      case OP_STORE:
        if (!f->skip_row_stores || !f->p->slots.at[o->a].row) store(f, o, at, n);
        continue;
      case OP_CONST: constant(f, o, dst, n); break;
      case OP_INDEX: index_tile(f, o, dst, at, n); break;
      case OP_RANDOM: draw(f, o, dst, n); break;
      case OP_CAST: cast(f, o, dst, n); break;
      case OP_MAP:
        if (o->direct >= 0) {
          void *place = direct_place(f, o, at, n);
          if (place) dst = place;
        }
        o->fn(n, dst, f->ptr[o->a], f->ptr[o->b], f->ptr[o->c], o->op);
        break;
    }
    f->ptr[o->dst] = dst;
  }
}

// ---- accumulators -------------------------------------------------------------------------------------------------
static double identity_f64(uint8_t red) { return red == ZG_RED_SUM ? 0 : red == ZG_RED_PROD ? 1 : red == ZG_RED_MAX ? -INFINITY : INFINITY; }
static int64_t identity_int(uint8_t red) {
  return red == ZG_RED_SUM ? 0 : red == ZG_RED_PROD ? 1 : red == ZG_RED_MAX ? INT64_MIN : INT64_MAX;
}

static void clear_accs(const frame *f, const loop_phase *ph) {
  for (uint32_t i = ph->acc; i < ph->acc + ph->n_acc; i++) {
    const loop_acc *a = &f->p->accs.at[i];
    const double d = identity_f64(a->red);
    const int64_t n = identity_int(a->red);
    fill(f, a->cls == ZG_CLS_INT ? ZG_CLS_INT : ZG_CLS_F64, f->n_rows, f->scratch + a->total,
         a->cls == ZG_CLS_INT ? (const void *)&n : &d);
    if (!f->p->column || a->cls != ZG_CLS_F32) continue;
    const float p = (float)d;
    fill(f, ZG_CLS_F32, f->n_rows, f->scratch + a->part, &p);
  }
}

// Column form, f32: partial sums enter the double totals. Other reductions do so once, at the end.
static void flush_accs(const frame *f, const loop_phase *ph, bool end) {
  for (uint32_t i = ph->acc; i < ph->acc + ph->n_acc; i++) {
    const loop_acc *a = &f->p->accs.at[i];
    if (a->cls != ZG_CLS_F32) continue;
    double *total = (double *)(f->scratch + a->total);
    float *part = (float *)(f->scratch + a->part);
    if (a->red == ZG_RED_SUM) f->vec->add_to_double(f->n_rows, total, part);
    else if (end)
      for (int64_t r = 0; r < f->n_rows; r++) total[r] = part[r];
  }
}

static void finish_accs(const frame *f, const loop_phase *ph) {
  for (uint32_t i = ph->acc; i < ph->acc + ph->n_acc; i++) {
    const loop_acc *a = &f->p->accs.at[i];
    void *to = f->ptr[a->slot];
    if (a->cls == ZG_CLS_F32) f->vec->cast[ZG_CLS_F64][ZG_CLS_F32](f->n_rows, to, f->scratch + a->total);
    else memcpy(to, f->scratch + a->total, (size_t)f->n_rows * 8);
  }
}

// total = fold(total, from), where from has the layout of the accumulator area.
static void combine_accs(const frame *f, const loop_phase *ph, const uint8_t *from) {
  for (uint32_t i = ph->acc; i < ph->acc + ph->n_acc; i++) {
    const loop_acc *a = &f->p->accs.at[i];
    const uint8_t cls = a->cls == ZG_CLS_INT ? ZG_CLS_INT : ZG_CLS_F64;
    void *total = f->scratch + a->total;
    f->vec->map[cls][fold_by[a->red]][0](f->n_rows, total, total, from + (a->total - f->p->acc_area), NULL, fold_by[a->red]);
  }
}

// ---- blocks -------------------------------------------------------------------------------------------------------
static void enter_block(frame *f, int64_t block) {
  const loop_prog *p = f->p;
  if (!p->column) {
    f->row0 = block * p->block_rows;
    f->n_rows = ZG_MIN(p->block_rows, p->rows - f->row0);
    return;
  }
  const int64_t per = (p->inner + p->block_rows - 1) / p->block_rows, j = block % per * p->block_rows;
  f->row0 = block / per * p->inner + j;
  f->n_rows = ZG_MIN(p->block_rows, p->inner - j);
}

static void run_tile(const frame *f, const loop_phase *ph, int64_t t) {
  const loop_prog *p = f->p;
  const int64_t from = t * p->tile, n = ZG_MIN(p->tile, p->width - from);
  for (size_t i = 0; i < p->kept.n; i++) {
    const loop_slot *s = &p->slots.at[p->kept.at[i]];
    f->ptr[p->kept.at[i]] = f->scratch + s->home + from * s->size;
  }
  if (p->column) {
    const int64_t outer = f->row0 / p->inner, j = f->row0 % p->inner;
    run_ops(f, ph->elem, ph->n_elem, (outer * p->width + from) * p->inner + j, n * f->n_rows);
  } else {
    run_ops(f, ph->elem, ph->n_elem, f->row0 * p->width + from, p->single ? n * f->n_rows : n);
  }
}

static void run_tiles(const frame *f, const loop_phase *ph, int64_t split) {
  const loop_prog *p = f->p;
  const int64_t flush = ZG_MAX(FLUSH_ROWS / p->tile, 1), t0 = p->tiles * split / p->splits;
  const int64_t end = p->tiles * (split + 1) / p->splits;
  clear_accs(f, ph);
  for (int64_t t = t0; t < end; t++) {
    if (!f->compiled) {
      run_tile(f, ph, t);
    } else {
      const int64_t to = !p->column ? end : ZG_MIN(t - (t - t0) % flush + flush, end);   // to the next flush
      zg__jit_run_tiles(f, ph, t, to);
      t = to - 1;
    }
    if (p->column && (t - t0) % flush == flush - 1) flush_accs(f, ph, false);
  }
  if (p->column) flush_accs(f, ph, true);
}

static void run_unit(frame *f, int64_t unit) {
  const loop_prog *p = f->p;
  const int64_t split = unit % p->splits;
  enter_block(f, unit / p->splits);
  f->skip_row_stores = split != 0;
  for (size_t q = 0; q < p->phases.n; q++) {
    const loop_phase *ph = &p->phases.at[q];
    run_ops(f, ph->row, ph->n_row, f->row0, f->n_rows);
    if (ph->n_elem == 0) continue;
    run_tiles(f, ph, split);
    finish_accs(f, ph);
  }
  f->skip_row_stores = false;
}

// ---- jobs ---------------------------------------------------------------------------------------------------------
typedef struct {
  const loop_prog *p;
  const zg_vec *vec;
  const loop_run *r;
  int64_t per_chunk, units;
  size_t phase;
  bool compiled;
} job;

static frame make_frame(const job *j, int thread) {
  frame f = {.p = j->p, .vec = j->vec, .r = j->r, .scratch = j->r->scratch[thread], .ptr = j->r->slots[thread], .compiled = j->compiled};
  for (size_t i = 0; i < j->p->slots.n; i++)
    if (j->p->slots.at[i].row) f.ptr[i] = f.scratch + j->p->slots.at[i].home;
  return f;
}

static void whole_chunk(void *arg, int64_t chunk, int thread) {
  const job *j = arg;
  frame f = make_frame(j, thread);
  run_ops(&f, 0, j->p->n_once, 0, j->p->block_rows);
  for (int64_t u = chunk * j->per_chunk, end = ZG_MIN(u + j->per_chunk, j->units); u < end; u++) run_unit(&f, u);
}

static uint8_t *saved_rows(const job *j, int64_t block) {
  return j->r->workspace + (uint64_t)block * (j->p->row_bytes + (uint64_t)j->p->splits * j->p->acc_bytes);
}

static void begin_chunk(void *arg, int64_t block, int thread) {
  const job *j = arg;
  frame f = make_frame(j, thread);
  run_ops(&f, 0, j->p->n_once, 0, j->p->block_rows);
  enter_block(&f, block);
  run_ops(&f, j->p->phases.at[0].row, j->p->phases.at[0].n_row, f.row0, f.n_rows);
  memcpy(saved_rows(j, block), f.scratch + j->p->row_area, j->p->row_bytes);
}

static void split_chunk(void *arg, int64_t unit, int thread) {
  const job *j = arg;
  const loop_prog *p = j->p;
  const int64_t block = unit / p->splits, split = unit % p->splits;
  frame f = make_frame(j, thread);
  enter_block(&f, block);
  uint8_t *saved = saved_rows(j, block);
  memcpy(f.scratch + p->row_area, saved, p->row_bytes);
  run_tiles(&f, &p->phases.at[j->phase], split);
  memcpy(saved + p->row_bytes + (uint64_t)split * p->acc_bytes, f.scratch + p->acc_area, p->acc_bytes);
}

static void combine_chunk(void *arg, int64_t block, int thread) {
  const job *j = arg;
  const loop_prog *p = j->p;
  const loop_phase *ph = &p->phases.at[j->phase];
  frame f = make_frame(j, thread);
  enter_block(&f, block);
  uint8_t *saved = saved_rows(j, block);
  memcpy(f.scratch + p->row_area, saved, p->row_bytes);
  if (ph->n_elem) {
    clear_accs(&f, ph);
    for (int64_t s = 0; s < p->splits; s++) combine_accs(&f, ph, saved + p->row_bytes + (uint64_t)s * p->acc_bytes);
    finish_accs(&f, ph);
  }
  if (j->phase + 1 < p->phases.n) run_ops(&f, ph[1].row, ph[1].n_row, f.row0, f.n_rows);
  memcpy(saved, f.scratch + p->row_area, p->row_bytes);
}

static void run_phase_by_phase(const job *base, zg_pool *pool) {
  job j = *base;
  zg_pool_run(pool, j.p->n_blocks, begin_chunk, &j);
  for (j.phase = 0; j.phase < j.p->phases.n; j.phase++) {
    if (j.p->phases.at[j.phase].n_elem) zg_pool_run(pool, j.units, split_chunk, &j);
    zg_pool_run(pool, j.p->n_blocks, combine_chunk, &j);
  }
}

void zg_loop_prog_run(const loop_prog *p, const zg_vec *vec, zg_pool *pool, const loop_run *r) {
  job j = {.p = p, .vec = vec, .r = r, .units = p->n_blocks * p->splits, .compiled = atomic_load_explicit(&p->compiled, memory_order_acquire)};
  if (j.units == 0) return;
  if (p->splits > 1 && p->accs.n) {
    run_phase_by_phase(&j, pool);
    return;
  }
  const int64_t elems = ZG_MAX(p->width * p->block_rows / p->splits, 1);
  j.per_chunk = ZG_MAX(CHUNK_ELEMS / elems, 1);
  const int64_t chunks = (j.units + j.per_chunk - 1) / j.per_chunk;
  if (chunks == 1) whole_chunk(&j, 0, 0);
  else zg_pool_run(pool, chunks, whole_chunk, &j);
}
