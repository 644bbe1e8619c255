// Top-k, arg-reduce and cumulative sums: one line along the axis per step of a task.
// Top-k keeps the best k places in a heap whose root is the worst of them, then sorts the heap: O(n log k) and stable by place.
#include <math.h>
#include "cpu/cpu.h"

enum { CHUNK_ELEMS = 16384 };

typedef union { double f; int64_t i; } key;
typedef struct {
  const cpu_call *c;
  const zg_sort_desc *sort;
  const zg_scan_desc *scan;
  uint32_t x;                    // argument
  int64_t len, inner, lines, per_chunk, k;
  bool floats;
} job;

static job make_job(const cpu_call *c, uint32_t x, int64_t axis) {
  const zg_view *v = &c->k->args[x];
  job j = {.c = c, .x = x, .len = v->dim[axis], .inner = cpu_product(v->dim, (uint32_t)axis + 1, v->rank)};
  j.lines = cpu_product(v->dim, 0, (uint32_t)axis) * j.inner;
  j.per_chunk = ZG_MAX(CHUNK_ELEMS / ZG_MAX(j.len, 1), 1);
  j.floats = zg_dtype_is_float(v->dtype);
  return j;
}

static uint8_t *at(const job *j, uint32_t arg, int64_t i) { return cpu_at(j->c, arg, j->c->k->args[arg].offset + i); }
static int64_t line_start(const job *j, int64_t l, int64_t len) { return l / j->inner * len * j->inner + l % j->inner; }

static void read_line(const job *j, int64_t l, key *to) {
  const zg_dtype t = j->c->k->args[j->x].dtype;
  const int64_t start = line_start(j, l, j->len);
  for (int64_t e = 0; e < j->len; e++) {
    const uint8_t *p = at(j, j->x, start + e * j->inner);
    if (j->floats) to[e].f = zg_get_f64(t, p, 0);
    else to[e].i = zg_get_i64(t, p, 0);
  }
}

// Does place a come before place b? NaNs first; equal ones by place, the lower first unless `last`.
static bool before(const job *j, const key *x, int64_t a, int64_t b) {
  if (j->floats) {
    const double u = x[a].f, v = x[b].f;
    if (isnan(u) != isnan(v)) return isnan(u);
    if (u != v && !isnan(u)) return j->sort->largest ? u > v : u < v;
  } else if (x[a].i != x[b].i) {
    return j->sort->largest ? x[a].i > x[b].i : x[a].i < x[b].i;
  }
  return j->sort->last ? a > b : a < b;
}

// Sinks h[i] in a heap of n whose root comes last.
static void sink(const job *j, const key *x, int64_t *h, int64_t i, int64_t n) {
  for (;;) {
    int64_t worst = i, left = 2 * i + 1;
    if (left < n && before(j, x, h[worst], h[left])) worst = left;
    if (left + 1 < n && before(j, x, h[worst], h[left + 1])) worst = left + 1;
    if (worst == i) return;
    const int64_t t = h[i];
    h[i] = h[worst], h[worst] = t;
    i = worst;
  }
}

// h = places of the first k elements in order.
static void select_first(const job *j, const key *x, int64_t *h, int64_t k) {
  for (int64_t i = 0; i < k; i++) h[i] = i;
  for (int64_t i = k / 2; i-- > 0;) sink(j, x, h, i, k);
  for (int64_t e = k; e < j->len; e++) {
    if (!before(j, x, e, h[0])) continue;
    h[0] = e;
    sink(j, x, h, 0, k);
  }
  for (int64_t n = k; n-- > 1;) {
    const int64_t t = h[0];
    h[0] = h[n], h[n] = t;
    sink(j, x, h, 0, n);
  }
}

static void sort_chunk(void *arg, int64_t chunk, int thread) {
  const job *j = arg;
  const zg_view *args = j->c->k->args;
  key *x = (key *)j->c->scratch[thread];
  int64_t *h = (int64_t *)(x + j->len);
  for (int64_t l = chunk * j->per_chunk, end = ZG_MIN(l + j->per_chunk, j->lines); l < end; l++) {
    const int64_t start = line_start(j, l, j->k);
    read_line(j, l, x);
    select_first(j, x, h, j->k);
    for (int64_t i = 0; i < j->k; i++) {
      const int64_t to = start + i * j->inner;
      if (args[0].buf && j->floats) zg_set_f64(args[0].dtype, at(j, 0, to), 0, x[h[i]].f);
      else if (args[0].buf) zg_set_i64(args[0].dtype, at(j, 0, to), 0, x[h[i]].i);
      if (args[1].buf) zg_set_i64(args[1].dtype, at(j, 1, to), 0, h[i]);
    }
  }
}

uint64_t cpu_sort_scratch(const zg_kernel *k) {
  const zg_sort_desc *d = k->desc;
  return (uint64_t)k->args[2].dim[d->axis] * 16 + 64;
}

void cpu_sort(const cpu_call *c) {
  const zg_sort_desc *d = c->k->desc;
  job j = make_job(c, 2, d->axis);
  j.sort = d;
  j.k = ZG_MIN(d->arg ? 1 : d->k, j.len);
  if (j.lines && j.k) zg_pool_run(c->pool, (j.lines + j.per_chunk - 1) / j.per_chunk, sort_chunk, &j);
}

static void scan_chunk(void *arg, int64_t chunk, int thread) {
  (void)thread;
  const job *j = arg;
  const zg_dtype from = j->c->k->args[1].dtype, to = j->c->k->args[0].dtype;
  for (int64_t l = chunk * j->per_chunk, end = ZG_MIN(l + j->per_chunk, j->lines); l < end; l++) {
    const int64_t start = line_start(j, l, j->len);
    double sum = 0;
    uint64_t isum = 0;
    for (int64_t e = 0; e < j->len; e++) {
      const int64_t p = start + (j->scan->reverse ? j->len - 1 - e : e) * j->inner;
      if (j->floats) {
        const double x = zg_get_f64(from, at(j, 1, p), 0);
        zg_set_f64(to, at(j, 0, p), 0, j->scan->exclusive ? sum : sum + x);
        sum += x;
      } else {
        const uint64_t x = (uint64_t)zg_get_i64(from, at(j, 1, p), 0);
        zg_set_i64(to, at(j, 0, p), 0, (int64_t)(j->scan->exclusive ? isum : isum + x));
        isum += x;
      }
    }
  }
}

void cpu_scan(const cpu_call *c) {
  const zg_scan_desc *d = c->k->desc;
  job j = make_job(c, 1, d->axis);
  j.scan = d;
  if (j.lines && j.len) zg_pool_run(c->pool, (j.lines + j.per_chunk - 1) / j.per_chunk, scan_chunk, &j);
}
