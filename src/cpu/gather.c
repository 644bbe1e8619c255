// Gather and scatter. Work is cut so that no two tasks write one element, and updates of one element are applied in their order: the
// result is that of the plain loop for any number of threads. An index out of range is noted (the first one by place) and
// reported when the kernel is done.
#include <math.h>
#include <stdatomic.h>
#include "cpu/cpu.h"
#include "graph/core.h"
#include "sched/reference.h"

enum { CHUNK_ELEMS = 16384, PARTS_PER_THREAD = 4, WIDE = 32 };

typedef struct {
  const cpu_call *c;
  const zg_gather_desc *d;
  zg_gather_plan g;
  uint32_t data, idx, other;     // arguments: data tensor, indices, gather's result or the updates
  int64_t per_chunk, parts;
  int64_t line, inner, lines, limit, stride;   // ELEMENTS: lines along the axis
  _Atomic int64_t bad;           // lowest place in idx with a bad index, or INT64_MAX
  int64_t bad_limit;
} job;

static void note_bad(job *j, int64_t place) {
  int64_t old = atomic_load(&j->bad);
  while (place < old && !atomic_compare_exchange_weak(&j->bad, &old, place)) {}
}

static int64_t index_at(const job *j, int64_t place) {
  const zg_view *v = &j->c->k->args[j->idx];
  return zg_get_i64(v->dtype, cpu_at(j->c, j->idx, v->offset + place), 0);
}

static uint8_t *at(const job *j, uint32_t arg, int64_t i) { return cpu_at(j->c, arg, j->c->k->args[arg].offset + i); }

// Data offset of tuple n of batch b, or -1.
static int64_t target(job *j, int64_t b, int64_t n) {
  const zg_gather_plan *g = &j->g;
  const int64_t first = ((j->d->mode == ZG_IDX_ND ? b * g->n_idx : 0) + n) * g->n_coord;
  int64_t to = b * g->span;
  for (int64_t c = 0; c < g->n_coord; c++) {
    int64_t i = index_at(j, first + c);
    if (i < 0) i += g->limit[c];
    if (i < 0 || i >= g->limit[c]) {
      note_bad(j, first + c);
      return -1;
    }
    to += i * g->stride[c];
  }
  return to;
}

// data[to..] = red(data[to..], updates[from..]), n elements.
static void combine(const job *j, int64_t to, int64_t from, int64_t n) {
  const zg_dtype t = j->c->k->args[j->data].dtype;
  const zg_dtype u = j->c->k->args[j->other].dtype;
  uint8_t *x = at(j, j->data, to);
  const uint8_t *y = at(j, j->other, from);
  const zg_scalar by[] = {ZG_S_NONE, ZG_S_ADD, ZG_S_MUL, ZG_S_MAX, ZG_S_MIN};
  const zg_scalar s = by[j->d->red];
  if (s == ZG_S_NONE) {
    zg_convert(t, x, u, y, n);
  } else if (t == u && (t == ZG_F32 || t == ZG_F64 || t == ZG_I64)) {
    j->c->vec->map[zg_cls_of(t)][s][0](n, x, y, x, NULL, s);
  } else if (zg_dtype_is_float(t)) {
    for (int64_t i = 0; i < n; i++) {
      const double a = zg_get_f64(t, x, i), b = zg_get_f64(u, y, i);
      zg_set_f64(t, x, i, zg_scalar_f64(s, b, a, 0));
    }
  } else {
    for (int64_t i = 0; i < n; i++) zg_set_i64(t, x, i, zg_scalar_i64(s, zg_get_i64(u, y, i), zg_get_i64(t, x, i), 0));
  }
}

static void copy_out(const job *j, int64_t to, int64_t from, int64_t n) {
  const zg_dtype t = j->c->k->args[j->data].dtype, u = j->c->k->args[j->other].dtype;
  if (t == u) memcpy(at(j, j->other, to), at(j, j->data, from), (size_t)n * zg_dtype_bytes(t));
  else zg_convert(u, at(j, j->other, to), t, at(j, j->data, from), n);
}

static void gather_chunk(void *arg, int64_t chunk, int thread) {
  (void)thread;
  job *j = arg;
  const zg_gather_plan *g = &j->g;
  for (int64_t r = chunk * j->per_chunk, end = ZG_MIN(r + j->per_chunk, g->batch * g->n_idx); r < end; r++) {
    const int64_t from = target(j, r / g->n_idx, r % g->n_idx);
    if (from >= 0) copy_out(j, r * g->inner, from, g->inner);
  }
}

// Every part goes through all indices of its batch and applies those that fall in its range of data.
static void scatter_chunk(void *arg, int64_t chunk, int thread) {
  (void)thread;
  job *j = arg;
  const zg_gather_plan *g = &j->g;
  const int64_t b = chunk / j->parts, part = chunk % j->parts;
  const int64_t rows = g->span / ZG_MAX(g->inner, 1);
  const int64_t lo = b * g->span + rows * part / j->parts * g->inner, hi = b * g->span + rows * (part + 1) / j->parts * g->inner;
  for (int64_t n = 0; n < g->n_idx; n++) {
    const int64_t to = target(j, b, n);
    if (to >= lo && to < hi) combine(j, to, (b * g->n_idx + n) * g->inner, g->inner);
  }
}

// ELEMENTS: a line of indices along the axis touches one line of data and no other.
static void elements_chunk(void *arg, int64_t chunk, int thread) {
  (void)thread;
  job *j = arg;
  const bool scatter = j->c->k->kind == ZG_K_SCATTER;
  for (int64_t l = chunk * j->per_chunk, end = ZG_MIN(l + j->per_chunk, j->lines); l < end; l++) {
    const int64_t first = l / j->inner * j->line * j->inner + l % j->inner;
    const int64_t base = zg_gather_elements_at(j->d, &j->c->k->args[j->data], &j->c->k->args[j->idx], first);
    for (int64_t e = 0; e < j->line; e++) {
      const int64_t p = first + e * j->inner;
      int64_t i = index_at(j, p);
      if (i < 0) i += j->limit;
      if (i < 0 || i >= j->limit) {
        note_bad(j, p);
        continue;
      }
      if (scatter) combine(j, base + i * j->stride, p, 1);
      else copy_out(j, p, base + i * j->stride, 1);
    }
  }
}

static zg_status report(job *j) {
  const int64_t place = atomic_load(&j->bad);
  if (place == INT64_MAX) return NULL;
  const int64_t limit = j->d->mode == ZG_IDX_ELEMENTS ? j->limit : j->g.limit[place % j->g.n_coord];
  return zg_error(ZG_INVALID, "%s: index %lld (element %lld of the indices) is out of range for a dimension of %lld",
                  j->c->k->label, (long long)index_at(j, place), (long long)place, (long long)limit);
}

static zg_status run_elements(job *j) {
  const zg_view *data = &j->c->k->args[j->data], *idx = &j->c->k->args[j->idx];
  const uint32_t axis = (uint32_t)j->d->axis;
  j->line = idx->dim[axis];
  j->inner = cpu_product(idx->dim, axis + 1, idx->rank);
  j->lines = cpu_product(idx->dim, 0, axis) * j->inner;
  j->limit = data->dim[axis];
  j->stride = cpu_product(data->dim, axis + 1, data->rank);
  j->per_chunk = ZG_MAX(CHUNK_ELEMS / ZG_MAX(j->line, 1), 1);
  zg_pool_run(j->c->pool, (j->lines + j->per_chunk - 1) / j->per_chunk, elements_chunk, j);
  return report(j);
}

zg_status cpu_gather(const cpu_call *c) {
  job j = {.c = c, .d = c->k->desc, .data = 1, .idx = 2, .other = 0, .bad = INT64_MAX};
  if (zg_view_elems(&c->k->args[0]) == 0) return NULL;
  if (j.d->mode == ZG_IDX_ELEMENTS) return run_elements(&j);
  j.g = zg_gather_make_plan(j.d, &c->k->args[1], &c->k->args[2]);
  j.per_chunk = ZG_MAX(CHUNK_ELEMS / ZG_MAX(j.g.inner, 1), 1);
  zg_pool_run(c->pool, (j.g.batch * j.g.n_idx + j.per_chunk - 1) / j.per_chunk, gather_chunk, &j);
  return report(&j);
}

zg_status cpu_scatter(const cpu_call *c) {
  job j = {.c = c, .d = c->k->desc, .data = 0, .idx = 1, .other = 2, .bad = INT64_MAX, .parts = 1};
  if (zg_view_elems(&c->k->args[2]) == 0) return NULL;
  if (j.d->mode == ZG_IDX_ELEMENTS) return run_elements(&j);
  j.g = zg_gather_make_plan(j.d, &c->k->args[0], &c->k->args[1]);
  const int threads = zg_pool_threads(c->pool);
  if (threads > 1 && j.g.batch < threads && j.g.inner >= WIDE && j.g.n_idx * j.g.inner >= CHUNK_ELEMS)
    j.parts = (int64_t)threads * PARTS_PER_THREAD;
  zg_pool_run(c->pool, j.g.batch * j.parts, scatter_chunk, &j);
  return report(&j);
}
