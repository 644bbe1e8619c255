// Plain pooling, one plane per task, in double (scratch holds an input and an output plane). Max: the first of equals, NaN wins.
#include <math.h>
#include "cpu/spatial.h"
#include "graph/core.h"

typedef struct {
  const cpu_call *c;
  zg_spatial s;
  int64_t kind;
  uint32_t ix, iy;               // arguments: the input x, and y or dy
} job;

static job make_job(const cpu_call *c) {
  const zg_pool_desc *d = c->k->desc;
  const bool grad = c->k->kind == ZG_K_POOL_GRAD;
  job j = {.c = c, .kind = d->kind, .ix = 1, .iy = grad ? 2 : 0};
  const zg_view *x = &c->k->args[j.ix], *y = &c->k->args[j.iy];
  j.s = zg_spatial_make(d->spatial, x->dim + 2, y->dim + 2, d->kernel, d->stride, d->pad_begin, d->pad_end, d->dilation);
  return j;
}

uint64_t cpu_pool_scratch(const zg_kernel *k) {
  const cpu_call c = {.k = k};
  const job j = make_job(&c);
  return zg_round_up((uint64_t)j.s.n_in * 8, 64) * 2 + zg_round_up((uint64_t)j.s.n_out * 8, 64) * 2 + 64;
}

static void read_plane(const job *j, uint32_t arg, int64_t plane, int64_t n, double *to) {
  const zg_view *v = &j->c->k->args[arg];
  zg_convert(ZG_F64, to, v->dtype, cpu_at(j->c, arg, v->offset + plane * n), n);
}

static void write_plane(const job *j, int64_t plane, int64_t n, const double *from) {
  const zg_view *v = &j->c->k->args[0];
  zg_convert(v->dtype, cpu_at(j->c, 0, v->offset + plane * n), ZG_F64, from, n);
}

// Sums ones over the windows: how many places count in the divisor of each output. AVG: places inside the input. AVG_PAD: also those
// in the padding, which is an input that is larger by it.
static void count_windows(const job *j, double *count) {
  zg_spatial s = j->s;
  if (j->kind == ZG_POOL_AVG_PAD)
    for (int i = 0; i < 3; i++) s.in[i] += s.pad[i] + s.pad_end[i], s.pad[i] = 0;
  memset(count, 0, sizeof *count * (size_t)s.n_out);
  for (int64_t k = 0; k < s.n_ker; k++) SPATIAL_RUNS(&s, k, {
    (void)x, (void)sx;
    for (int64_t i = 0; i < n; i++) count[o + i] += 1;
  });
}

// best[o] = place of the largest element of window o, -1 for an empty window; value[o] = that element.
static void window_max(const zg_spatial *s, const double *xp, double *value, int64_t *best) {
  for (int64_t i = 0; i < s->n_out; i++) value[i] = -INFINITY, best[i] = -1;
  for (int64_t k = 0; k < s->n_ker; k++) SPATIAL_RUNS(s, k, for (int64_t i = 0; i < n; i++) {
    const double v = xp[x + i * sx];
    const double old = value[o + i];
    if (best[o + i] < 0 || v > old || (v != v && old == old)) {
      value[o + i] = v;
      best[o + i] = x + i * sx;
    }
  });
}

static void run(void *arg, int64_t plane, int thread) {
  const job *j = arg;
  const zg_spatial *s = &j->s;
  const bool grad = j->c->k->kind == ZG_K_POOL_GRAD;
  const uint64_t in = zg_round_up((uint64_t)s->n_in * 8, 64), out = zg_round_up((uint64_t)s->n_out * 8, 64);
  uint8_t *room = j->c->scratch[thread];
  double *xp = (double *)room, *dx = (double *)(room + in), *y = (double *)(room + 2 * in), *aux = (double *)(room + 2 * in + out);
  read_plane(j, j->ix, plane, s->n_in, xp);
  if (j->kind == ZG_POOL_MAX) {
    window_max(s, xp, y, (int64_t *)aux);
  } else {
    memset(y, 0, sizeof *y * (size_t)s->n_out);
    count_windows(j, aux);
    if (!grad)
      for (int64_t k = 0; k < s->n_ker; k++) SPATIAL_RUNS(s, k, for (int64_t i = 0; i < n; i++) y[o + i] += xp[x + i * sx];);
    for (int64_t i = 0; i < s->n_out; i++) aux[i] = aux[i] > 1 ? aux[i] : 1, y[i] /= aux[i];
  }
  if (!grad) {
    write_plane(j, plane, s->n_out, y);
    return;
  }
  read_plane(j, j->iy, plane, s->n_out, y);
  memset(dx, 0, sizeof *dx * (size_t)s->n_in);
  if (j->kind == ZG_POOL_MAX) {
    const int64_t *best = (const int64_t *)aux;
    for (int64_t i = 0; i < s->n_out; i++)
      if (best[i] >= 0) dx[best[i]] += y[i];
  } else {
    for (int64_t k = 0; k < s->n_ker; k++)
      SPATIAL_RUNS(s, k, for (int64_t i = 0; i < n; i++) dx[x + i * sx] += y[o + i] / aux[o + i];);
  }
  write_plane(j, plane, s->n_in, dx);
}

void cpu_pool(const cpu_call *c) {
  job j = make_job(c);
  const zg_view *x = &c->k->args[j.ix];
  zg_pool_run(c->pool, x->dim[0] * x->dim[1], run, &j);
}
