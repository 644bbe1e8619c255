// Plain convolutions: one plane of the result per task, tap by tap, computed in f32 or f64. Planes of other dtypes are converted
// into scratch on the way. Sums run in a fixed order, so the number of threads does not matter.
#include "cpu/spatial.h"

typedef struct {
  const cpu_call *c;
  zg_spatial s;
  int64_t n, ch, o, cg, og;      // batch, channels, outputs, channels and outputs per group
  uint32_t iy, ix, iw;           // arguments
} job;

static uint64_t largest_plane(const zg_kernel *k) {
  uint64_t most = 1;
  for (uint32_t a = 0; a < k->n_args; a++)
    if (k->args[a].rank > 2) most = ZG_MAX(most, (uint64_t)cpu_product(k->args[a].dim, 2, k->args[a].rank));
  return most;
}

uint64_t cpu_conv_scratch(const zg_kernel *k) { return 3 * zg_round_up(largest_plane(k) * 8, 64); }

#define CONV_PLANES(T, CLS)                                                                          \
  /* n elements of an argument as T: where they lie if they are T, else converted to `room` */       \
  static const T *plane_##T(const job *j, uint32_t arg, int64_t at, int64_t n, T *room) {            \
    const zg_view *v = &j->c->k->args[arg];                                                          \
    const uint8_t *p = cpu_at(j->c, arg, v->offset + at);                                            \
    if (zg_dtype_bytes(v->dtype) == sizeof(T)) return (const T *)p;                                  \
    j->c->vec->load[v->dtype](n, room, p, 1);                                                        \
    return room;                                                                                     \
  }                                                                                                  \
  static T weight_##T(const job *j, int64_t at) {                                                    \
    T w;                                                                                             \
    return *plane_##T(j, j->iw, at, 1, &w);                                                          \
  }                                                                                                  \
  static void put_##T(const job *j, int64_t at, int64_t n, const T *from) {                          \
    const zg_view *v = &j->c->k->args[0];                                                            \
    j->c->vec->store[v->dtype](n, cpu_at(j->c, 0, v->offset + at), from, 1);                         \
  }                                                                                                  \
  static void rooms_##T(const job *j, int thread, T *room[3]) {                                      \
    const uint64_t step = zg_round_up(largest_plane(j->c->k) * 8, 64);                               \
    for (int i = 0; i < 3; i++) room[i] = (T *)(j->c->scratch[thread] + step * (uint64_t)i);         \
  }                                                                                                  \
  static void forward_##T(void *arg, int64_t chunk, int thread) {                                    \
    const job *j = arg;                                                                              \
    const zg_spatial *s = &j->s;                                                                     \
    const int64_t b = chunk / j->o, f = chunk % j->o;                                                \
    T *room[3], bias = 0;                                                                            \
    rooms_##T(j, thread, room);                                                                      \
    T *acc = room[0];                                                                                \
    if (j->c->k->n_args > 3) bias = *plane_##T(j, 3, f, 1, room[1]);                                 \
    for (int64_t i = 0; i < s->n_out; i++) acc[i] = bias;                                            \
    for (int64_t c = 0; c < j->cg; c++) {                                                            \
      const T *xp = plane_##T(j, j->ix, (b * j->ch + f / j->og * j->cg + c) * s->n_in, s->n_in, room[1]); \
      for (int64_t k = 0; k < s->n_ker; k++) {                                                       \
        const T w = weight_##T(j, (f * j->cg + c) * s->n_ker + k);                                   \
        SPATIAL_RUNS(s, k, for (int64_t i = 0; i < n; i++) acc[o + i] += w * xp[x + i * sx];);       \
      }                                                                                              \
    }                                                                                                \
    put_##T(j, chunk * s->n_out, s->n_out, acc);                                                     \
  }                                                                                                  \
  static void grad_x_##T(void *arg, int64_t chunk, int thread) {                                     \
    const job *j = arg;                                                                              \
    const zg_spatial *s = &j->s;                                                                     \
    const int64_t b = chunk / j->ch, c = chunk % j->ch, g = c / j->cg;                               \
    T *room[3];                                                                                      \
    rooms_##T(j, thread, room);                                                                      \
    T *acc = room[0];                                                                                \
    memset(acc, 0, sizeof(T) * (size_t)s->n_in);                                                     \
    for (int64_t f = g * j->og; f < (g + 1) * j->og; f++) {                                          \
      const T *yp = plane_##T(j, j->iy, (b * j->o + f) * s->n_out, s->n_out, room[1]);               \
      for (int64_t k = 0; k < s->n_ker; k++) {                                                       \
        const T w = weight_##T(j, (f * j->cg + c % j->cg) * s->n_ker + k);                           \
        SPATIAL_RUNS(s, k, for (int64_t i = 0; i < n; i++) acc[x + i * sx] += w * yp[o + i];);       \
      }                                                                                              \
    }                                                                                                \
    put_##T(j, chunk * s->n_in, s->n_in, acc);                                                       \
  }                                                                                                  \
  static void grad_w_##T(void *arg, int64_t chunk, int thread) {                                     \
    const job *j = arg;                                                                              \
    const zg_spatial *s = &j->s;                                                                     \
    const int64_t f = chunk / j->cg, c = f / j->og * j->cg + chunk % j->cg;                          \
    T *room[3];                                                                                      \
    rooms_##T(j, thread, room);                                                                      \
    double *acc = (double *)room[0];                                                                 \
    memset(acc, 0, sizeof(double) * (size_t)s->n_ker);                                               \
    for (int64_t b = 0; b < j->n; b++) {                                                             \
      const T *xp = plane_##T(j, j->ix, (b * j->ch + c) * s->n_in, s->n_in, room[1]);                \
      const T *yp = plane_##T(j, j->iy, (b * j->o + f) * s->n_out, s->n_out, room[2]);               \
      for (int64_t k = 0; k < s->n_ker; k++) {                                                       \
        double sum = 0;                                                                              \
        SPATIAL_RUNS(s, k, {                                                                         \
          T part = 0;                                                                                \
          for (int64_t i = 0; i < n; i++) part += xp[x + i * sx] * yp[o + i];                        \
          sum += (double)part;                                                                       \
        });                                                                                          \
        acc[k] += sum;                                                                               \
      }                                                                                              \
    }                                                                                                \
    for (int64_t k = 0; k < s->n_ker; k++) room[1][k] = (T)acc[k];                                   \
    put_##T(j, chunk * s->n_ker, s->n_ker, room[1]);                                                 \
  }
CONV_PLANES(float, ZG_CLS_F32)
CONV_PLANES(double, ZG_CLS_F64)

void cpu_conv(const cpu_call *c) {
  const zg_conv_desc *d = c->k->desc;
  const bool gx = c->k->kind == ZG_K_CONV_GRAD_X, gw = c->k->kind == ZG_K_CONV_GRAD_W;
  job j = {.c = c, .iy = gx ? 1 : gw ? 2 : 0, .ix = gx ? 0 : 1, .iw = gw ? 0 : 2};
  const zg_view *y = &c->k->args[j.iy], *x = &c->k->args[j.ix], *w = &c->k->args[j.iw];
  j.s = zg_spatial_make(d->spatial, x->dim + 2, y->dim + 2, w->dim + 2, d->stride, d->pad_begin, d->pad_end, d->dilation);
  j.n = x->dim[0], j.ch = x->dim[1], j.o = w->dim[0], j.cg = w->dim[1], j.og = j.o / ZG_MAX(d->group, 1);
  const bool wide = y->dtype == ZG_F64;
  if (gx) zg_pool_run(c->pool, j.n * j.ch, wide ? grad_x_double : grad_x_float, &j);
  else if (gw) zg_pool_run(c->pool, j.o * j.cg, wide ? grad_w_double : grad_w_float, &j);
  else zg_pool_run(c->pool, j.n * j.o, wide ? forward_double : forward_float, &j);
}
