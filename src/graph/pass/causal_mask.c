// Is a mask that depends on no leaf "key <= query + offset"? Shown by intervals, not element by element: a mask of 8192 x 8192 for 8
// samples has half a billion elements, and plans are made in milliseconds.
//   - an interval holds every element of a value within a box of indices; maps take intervals to intervals, views take boxes to boxes
//   - a box of the mask that is open or closed throughout is compared with where it lies; any other is cut in two along its longer
//     side. Only boxes along the diagonal are cut to the end: O((T + S) log) of them
//   - what intervals cannot say (an op not listed, a reshape that regroups) leaves the answer open
// Moore 1966, "Interval Analysis", chapter 3.
#include <math.h>

#include "graph/graph_priv.h"
#include "graph/pass.h"

typedef struct { int64_t from[ZG_MAX_RANK], to[ZG_MAX_RANK]; } box;   // [from, to)
typedef struct { double lo, hi; bool known; } interval;
typedef struct { const zg_graph *g; int64_t left, s, offset; bool ok, unknown; zg_val mask; } prover;

static const interval UNKNOWN = {0};
static interval exactly(double x) { return (interval){x, x, true}; }
static interval truth(bool may_be_false, bool may_be_true) { return (interval){!may_be_false, may_be_true, true}; }
static interval hull(interval a, interval b) { return (interval){fmin(a.lo, b.lo), fmax(a.hi, b.hi), a.known && b.known}; }

static interval value(prover *p, zg_val v, const box *at);

static interval of_const(prover *p, const zg_const_attr *a, const box *at) {
  const zg_type *t = &a->type;
  int64_t stride[ZG_MAX_RANK], i[ZG_MAX_RANK] = {0}, n = 1, flat = 0;
  zg_type_strides(t, stride);
  for (uint32_t d = 0; d < t->rank; d++) {
    n *= at->to[d] - at->from[d];
    flat += at->from[d] * stride[d];
  }
  interval r = exactly(zg_get_f64(t->dtype, a->data, flat));
  for (int64_t k = 0; k < n; k++) {
    const double x = zg_get_f64(t->dtype, a->data, flat);
    r = isnan(x) ? UNKNOWN : hull(r, exactly(x));
    for (uint32_t d = t->rank; d-- > 0;) {
      flat += stride[d];
      if (++i[d] < at->to[d] - at->from[d]) break;
      flat -= stride[d] * i[d];
      i[d] = 0;
    }
  }
  p->left -= n;
  return r;
}

// The box of an operand that is broadcast to `full`.
static box broadcast(const zg_type *t, const zg_type *full, const box *at) {
  box b = {{0}, {0}};
  for (uint32_t d = 0; d < t->rank; d++) {
    const uint32_t from = full->rank - t->rank + d;
    b.from[d] = t->dim[d] == 1 ? 0 : at->from[from];
    b.to[d] = t->dim[d] == 1 ? 1 : at->to[from];
  }
  return b;
}

static interval operand(prover *p, const zg_node *n, uint32_t i, const box *at) {
  const zg_val v = zg_in(p->g, n, i);
  const box b = broadcast(zg_type_of(p->g, v), &p->g->values.at[n->out].type, at);
  return value(p, v, &b);
}

static interval product(interval x, interval y) {
  const double a = x.lo * y.lo, b = x.lo * y.hi, c = x.hi * y.lo, d = x.hi * y.hi;
  return (interval){fmin(fmin(a, b), fmin(c, d)), fmax(fmax(a, b), fmax(c, d)), !isnan(a) && !isnan(b) && !isnan(c) && !isnan(d)};
}

static interval of_map(zg_scalar s, interval x, interval y) {
  if (!x.known || !y.known) return UNKNOWN;
  switch (s) {
    case ZG_S_NEG: return (interval){-x.hi, -x.lo, true};
    case ZG_S_NOT: return truth(x.lo != 0 || x.hi != 0, x.lo <= 0 && x.hi >= 0);
    case ZG_S_ADD: return (interval){x.lo + y.lo, x.hi + y.hi, !isnan(x.lo + y.lo) && !isnan(x.hi + y.hi)};
    case ZG_S_SUB: return (interval){x.lo - y.hi, x.hi - y.lo, !isnan(x.lo - y.hi) && !isnan(x.hi - y.lo)};
    case ZG_S_MUL: return product(x, y);
    case ZG_S_MAX: return (interval){fmax(x.lo, y.lo), fmax(x.hi, y.hi), true};
    case ZG_S_MIN: return (interval){fmin(x.lo, y.lo), fmin(x.hi, y.hi), true};
    case ZG_S_LT: return truth(x.hi >= y.lo, x.lo < y.hi);
    case ZG_S_LE: return truth(x.hi > y.lo, x.lo <= y.hi);
    case ZG_S_EQ: return truth(x.lo != x.hi || y.lo != y.hi || x.lo != y.lo, x.lo <= y.hi && y.lo <= x.hi);
    case ZG_S_NE: return truth(x.lo <= y.hi && y.lo <= x.hi, x.lo != x.hi || y.lo != y.hi || x.lo != y.lo);
    case ZG_S_AND: return truth((x.lo <= 0 && x.hi >= 0) || (y.lo <= 0 && y.hi >= 0), (x.lo != 0 || x.hi != 0) && (y.lo != 0 || y.hi != 0));
    case ZG_S_OR: return truth(x.lo <= 0 && x.hi >= 0 && y.lo <= 0 && y.hi >= 0, x.lo != 0 || x.hi != 0 || y.lo != 0 || y.hi != 0);
    default: return UNKNOWN;
  }
}

static interval of_cast(interval x, zg_dtype to) {
  if (!x.known) return UNKNOWN;
  if (to == ZG_BOOL) return truth(x.lo <= 0 && x.hi >= 0, x.lo != 0 || x.hi != 0);
  if (to == ZG_F32 || to == ZG_F64) return x;   // rounding keeps the order, and the few bounds that matter exactly
  return to == ZG_I64 || to == ZG_I32 ? (interval){trunc(x.lo), trunc(x.hi), fabs(x.lo) < 0x1p31 && fabs(x.hi) < 0x1p31} : UNKNOWN;
}

static interval of_where(prover *p, const zg_node *n, const box *at) {
  const interval c = operand(p, n, 0, at);
  if (!c.known) return UNKNOWN;
  if (c.lo == 1) return operand(p, n, 1, at);
  if (c.hi == 0) return operand(p, n, 2, at);
  return hull(operand(p, n, 1, at), operand(p, n, 2, at));
}

// A reshape that adds and drops dims of 1.
static bool squeezed(const zg_type *from, const zg_type *to, const box *at, box *b) {
  uint32_t i = 0;
  memset(b, 0, sizeof *b);
  for (uint32_t j = 0; j <= to->rank; j++) {
    if (j < to->rank && to->dim[j] == 1) continue;
    for (; i < from->rank && from->dim[i] == 1; i++) b->to[i] = 1;
    if (j == to->rank) return i == from->rank;
    if (i == from->rank || from->dim[i] != to->dim[j]) return false;
    b->from[i] = at->from[j], b->to[i] = at->to[j];
    i++;
  }
  return false;
}

static interval of_view(prover *p, const zg_node *n, const box *at) {
  const zg_val v = zg_in(p->g, n, 0);
  const zg_type *from = zg_type_of(p->g, v), *to = &p->g->values.at[n->out].type;
  box b = *at;
  if (n->op == &zg_op_expand) return operand(p, n, 0, at);
  if (n->op == &zg_op_reshape) return squeezed(from, to, at, &b) ? value(p, v, &b) : UNKNOWN;
  if (n->op == &zg_op_transpose) {
    const int64_t *perm = ((const zg_transpose_attr *)n->attr)->perm.at;
    for (uint32_t d = 0; d < to->rank; d++) b.from[perm[d]] = at->from[d], b.to[perm[d]] = at->to[d];
    return value(p, v, &b);
  }
  if (n->op != &zg_op_slice) return UNKNOWN;
  const zg_slice_attr *a = n->attr;
  for (uint32_t d = 0; d < to->rank; d++) {
    if (a->step.at[d] != 1) return UNKNOWN;
    b.from[d] += a->start.at[d], b.to[d] += a->start.at[d];
  }
  return value(p, v, &b);
}

static interval value(prover *p, zg_val v, const box *at) {
  const zg_node *n = zg_node_of(p->g, v);
  if (p->left-- <= 0) return UNKNOWN;
  if (n->op == &zg_op_const) return of_const(p, n->attr, at);
  if (n->op == &zg_op_fill) return exactly(((const zg_fill_attr *)n->attr)->value);
  if (n->op == &zg_op_iota) {
    const zg_iota_attr *a = n->attr;
    const double x = a->start + a->step * (double)at->from[a->axis], y = a->start + a->step * (double)(at->to[a->axis] - 1);
    return (interval){fmin(x, y), fmax(x, y), true};
  }
  if (n->op == &zg_op_where) return of_where(p, n, at);
  if (n->op == &zg_op_cast) return of_cast(operand(p, n, 0, at), (zg_dtype)((const zg_cast_attr *)n->attr)->to);
  if (n->op->traits & ZG_VIEW) return of_view(p, n, at);
  if (!(n->op->traits & ZG_ELEMENTWISE) || n->n_in > 2) return UNKNOWN;
  const interval x = operand(p, n, 0, at);
  return of_map(n->op->scalar, x, n->n_in == 2 ? operand(p, n, 1, at) : x);
}

// 1: open throughout, 0: closed throughout, -1: neither, -2: cannot be told.
static int state(prover *p, int64_t i0, int64_t i1, int64_t j0, int64_t j1) {
  const zg_type *t = zg_type_of(p->g, p->mask);
  box b = {{0}, {0}};
  for (uint32_t d = 0; d + 2 < t->rank; d++) b.to[d] = t->dim[d];
  b.from[t->rank - 2] = i0, b.to[t->rank - 2] = i1, b.from[t->rank - 1] = j0, b.to[t->rank - 1] = j1;
  const interval x = value(p, p->mask, &b);
  if (!x.known) return -2;
  const bool is_bool = t->dtype == ZG_BOOL;
  if (is_bool ? x.lo != 0 : x.lo == 0 && x.hi == 0) return 1;
  if (is_bool ? x.hi == 0 : x.hi <= -1e9) return 0;
  return -1;
}

static void prove(prover *p, int64_t i0, int64_t i1, int64_t j0, int64_t j1) {
  if (!p->ok || p->unknown) return;
  const int is = state(p, i0, i1, j0, j1);
  if (is == 1) p->ok = j1 - 1 <= i0 + p->offset;
  else if (is == 0) p->ok = j0 > i1 - 1 + p->offset;
  else if (is == -2 || (i1 - i0 == 1 && j1 - j0 == 1)) p->unknown = true;
  else if (i1 - i0 >= j1 - j0) prove(p, i0, (i0 + i1) / 2, j0, j1), prove(p, (i0 + i1) / 2, i1, j0, j1);
  else prove(p, i0, i1, j0, (j0 + j1) / 2), prove(p, i0, i1, (j0 + j1) / 2, j1);
}

// Keys open to the first query: a first part of them, found by bisection.
static bool find_offset(prover *p) {
  int64_t open = 0, closed = p->s;   // keys [0, open) are open; from `closed` on they are closed
  while (closed > open) {
    const int64_t middle = (open + closed) / 2;
    const int is = state(p, 0, 1, middle, middle + 1);
    if (is < 0) return false;
    *(is ? &open : &closed) = is ? middle + 1 : middle;
  }
  p->offset = open - 1;
  return true;
}

int zg__mask_is_causal(const zg_graph *g, zg_val mask, int64_t t, int64_t s, int64_t *offset) {
  const zg_type *type = zg_type_of(g, mask);
  if (type->rank < 2 || type->dim[type->rank - 2] != t || type->dim[type->rank - 1] != s || zg_elems(type) == 0) return 0;
  prover p = {.g = g, .mask = mask, .s = s, .ok = true, .left = 100 * 1000 * 1000};
  if (!find_offset(&p)) return -1;
  prove(&p, 0, t, 0, s);
  *offset = p.offset;
  if (p.unknown) return -1;
  return p.ok && p.offset >= 0;
}
