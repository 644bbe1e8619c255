// The plain executor of loop programs: one index at a time, every value in double or int64. Slow, and the judge of every device.
// For each row-space index the phases run in turn; in each phase every element is visited and all element code up to that phase is
// computed again from its loads, reductions of the phase accumulate, and stores of the phase are written.
#include "graph/build.h"
#include "sched/loop.h"
#include <math.h>

typedef union { double f; int64_t i; } val;
typedef struct {
  const zg_kernel *k;
  const zg_loop_desc *d;
  void *const *base;
  zg_rand_state rand;
  const uint32_t *phase;
  val *v, *acc;
  int64_t idx[ZG_MAX_RANK];
} ref;

static int64_t place(const ref *r, const zg_view *v) {
  int64_t at = v->offset;
  for (uint32_t k = 0; k < r->d->rank; k++) at += r->idx[k] * v->stride[k];
  return at;
}

static val draw(const ref *r, const zg_inst *in) {
  return (val){.f = zg_loop_random(r->rand, (uint32_t)in->imm, (uint64_t)r->v[in->a].i, in->scalar == 1)};
}

static val map(const ref *r, const zg_inst *in) {
  const int arity = zg_scalar_arity((zg_scalar)in->scalar);
  const val zero = {.i = 0}, a = r->v[in->a], b = arity > 1 ? r->v[in->b] : zero, c = arity > 2 ? r->v[in->c] : zero;
  if (in->scalar == ZG_S_WHERE) return a.i ? b : c;
  if (in->in_cls == ZG_CLS_INT) return (val){.i = zg_scalar_i64((zg_scalar)in->scalar, a.i, b.i, c.i)};
  const double y = zg_scalar_f64((zg_scalar)in->scalar, a.f, b.f, c.f);
  return in->cls == ZG_CLS_INT ? (val){.i = (int64_t)y} : (val){.f = y};
}

// Rounds or wraps through the dtype by writing and reading one element of it.
static val cast(const zg_inst *in, val a) {
  uint64_t cell = 0;
  if (in->in_cls == ZG_CLS_INT) zg_set_i64((zg_dtype)in->to, &cell, 0, a.i);
  else zg_set_f64((zg_dtype)in->to, &cell, 0, a.f);
  if (in->cls == ZG_CLS_INT) return (val){.i = zg_get_i64((zg_dtype)in->to, &cell, 0)};
  return (val){.f = zg_get_f64((zg_dtype)in->to, &cell, 0)};
}

static val identity(const zg_inst *in) {
  const bool ints = in->cls == ZG_CLS_INT;
  switch ((zg_red)in->red) {
    case ZG_RED_SUM: break;
    case ZG_RED_PROD: return ints ? (val){.i = 1} : (val){.f = 1};
    case ZG_RED_MAX: return ints ? (val){.i = INT64_MIN} : (val){.f = -INFINITY};
    case ZG_RED_MIN: return ints ? (val){.i = INT64_MAX} : (val){.f = INFINITY};
  }
  return ints ? (val){.i = 0} : (val){.f = 0};
}

static val fold(const zg_inst *in, val acc, val x) {
  const zg_scalar by[] = {ZG_S_ADD, ZG_S_MAX, ZG_S_MIN, ZG_S_MUL};
  if (in->cls == ZG_CLS_INT) return (val){.i = zg_scalar_i64(by[in->red], acc.i, x.i, 0)};
  if (isnan(acc.f) || isnan(x.f)) return (val){.f = NAN};
  return (val){.f = zg_scalar_f64(by[in->red], acc.f, x.f, 0)};
}

static void store(const ref *r, const zg_inst *in) {
  const zg_view *v = &r->k->args[in->b];
  if (in->cls == ZG_CLS_INT) zg_set_i64(v->dtype, r->base[v->buf], place(r, v), r->v[in->a].i);
  else zg_set_f64(v->dtype, r->base[v->buf], place(r, v), r->v[in->a].f);
}

static void step(ref *r, uint32_t i) {
  const zg_inst *in = &r->d->inst[i];
  switch ((zg_inst_kind)in->kind) {
    case ZG_I_LOAD: {
      const zg_view *v = &r->k->args[in->a];
      if (in->cls == ZG_CLS_INT) r->v[i].i = zg_get_i64(v->dtype, r->base[v->buf], place(r, v));
      else r->v[i].f = zg_get_f64(v->dtype, r->base[v->buf], place(r, v));
      return;
    }
    case ZG_I_CONST: r->v[i] = in->cls == ZG_CLS_INT ? (val){.i = (int64_t)in->imm} : (val){.f = in->imm}; return;
    case ZG_I_INDEX:
      r->v[i].i = (int64_t)in->imm;
      for (uint32_t k = 0; k < r->d->rank; k++) r->v[i].i += r->d->index[in->a][k] * r->idx[k];
      return;
    case ZG_I_RANDOM: r->v[i] = draw(r, in); return;
    case ZG_I_MAP: r->v[i] = map(r, in); return;
    case ZG_I_CAST: r->v[i] = cast(in, r->v[in->a]); return;
    case ZG_I_REDUCE: r->acc[i] = fold(in, r->acc[i], r->v[in->a]); return;
    case ZG_I_STORE: store(r, in); return;
  }
}

static bool next(int64_t *idx, const int64_t *dim, const bool *moves, uint32_t rank) {
  for (uint32_t k = rank; k-- > 0;) {
    if (!moves[k]) continue;
    if (++idx[k] < dim[k]) return true;
    idx[k] = 0;
  }
  return false;
}

// One phase of one row: ROW code of the phase, then all elements. Loads are always repeated except where an earlier phase has
// stored (programs store in the last phase that reads, which the lowering sees to).
static void run_phase(ref *r, uint32_t phase, const bool *reduced) {
  const zg_loop_desc *d = r->d;
  bool any = false, empty = false;
  for (uint32_t i = 0; i < d->n_inst; i++) {
    const zg_inst *in = &d->inst[i];
    const bool elem = in->level == ZG_LEVEL_ELEM || in->kind == ZG_I_REDUCE;
    if (r->phase[i] != phase) continue;
    if (elem) any = true;
    else step(r, i);
    if (in->kind == ZG_I_REDUCE) r->acc[i] = identity(in);
  }
  for (uint32_t k = 0; k < d->rank; k++) empty |= reduced[k] && d->dim[k] == 0;
  if (!any) return;
  if (!empty) do {
    for (uint32_t i = 0; i < d->n_inst; i++) {
      const zg_inst *in = &d->inst[i];
      const bool once = in->kind == ZG_I_REDUCE || in->kind == ZG_I_STORE;
      if (in->level != ZG_LEVEL_ELEM && in->kind != ZG_I_REDUCE) continue;
      if (once ? r->phase[i] == phase : r->phase[i] <= phase) step(r, i);
    }
  } while (next(r->idx, d->dim, reduced, d->rank));
  for (uint32_t i = 0; i < d->n_inst; i++)
    if (d->inst[i].kind == ZG_I_REDUCE && r->phase[i] == phase) r->v[i] = r->acc[i];
}

void zg_loop_reference(const zg_kernel *k, void *const *base, zg_rand_state rand) {
  const zg_loop_desc *d = k->desc;
  uint32_t *phase = zg_alloc(sizeof *phase * (d->n_inst + 1));
  const uint32_t n_phases = zg_loop_phases(d, phase);
  ref r = {.k = k, .d = d, .base = base, .rand = rand, .phase = phase};
  r.v = zg_alloc(sizeof(val) * (d->n_inst + 1));
  r.acc = zg_alloc(sizeof(val) * (d->n_inst + 1));
  bool reduced[ZG_MAX_RANK], kept[ZG_MAX_RANK], empty = false;
  for (uint32_t i = 0; i < d->rank; i++) {
    reduced[i] = d->n_mid ? i >= d->n_outer && i < d->n_outer + d->n_mid : i >= d->n_outer;
    kept[i] = !reduced[i];
    empty |= kept[i] && d->dim[i] == 0;
  }
  if (!empty) do {
    for (uint32_t p = 0; p < n_phases; p++) run_phase(&r, p, reduced);
  } while (next(r.idx, d->dim, kept, d->rank));
  zg_free(phase);
  zg_free(r.v);
  zg_free(r.acc);
}

double zg_loop_random(zg_rand_state r, uint32_t stream, uint64_t element, bool normal) {
  const uint64_t n = normal ? element : element / 4;
  const uint32_t counter[4] = {(uint32_t)n, (uint32_t)(n >> 32), r.step, stream};
  uint32_t w[4];
  zg_philox(counter, r.key, w);
  if (!normal) return (w[element % 4] >> 8) * 0x1p-24;
  const double u = ((w[0] >> 8) + 1) * 0x1p-24, v = (w[1] >> 8) * 0x1p-24;   // u in (0, 1]
  return sqrt(-2 * log(u)) * cos(6.283185307179586477 * v);
}
