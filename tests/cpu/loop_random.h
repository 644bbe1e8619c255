// Random loop programs on random spaces and views.
#pragma once
#include "cpu_test.h"

enum { MAX_INST = 48, MAX_ARGS = 12, NO = 0xFFFF };
typedef struct {
  rng r;
  zg_sched *s;
  zg_loop_desc d;
  zg_inst inst[MAX_INST];
  double bound[MAX_INST];  // of the value's magnitude
  bool dep[MAX_INST];      // depends on a reduction
  int64_t index[4][ZG_MAX_RANK];
  zg_view args[MAX_ARGS];
  uint32_t n_args, n_out;
  bool coarse;  // 16-bit floats take part
} prog;

static int64_t pick_in(prog *p, int64_t lo, int64_t hi) { return rnd_in(&p->r, lo, hi); }
static bool one_in(prog *p, int64_t n) { return pick_in(p, 1, n) == 1; }
static bool row_dim(const zg_loop_desc *d, uint32_t k) {
  return k < d->n_outer || (d->n_mid && k >= d->n_outer + d->n_mid);
}

static int64_t reduced_elems(const prog *p) {
  int64_t n = 1;
  for (uint32_t k = 0; k < p->d.rank; k++) n *= row_dim(&p->d, k) ? 1 : p->d.dim[k];
  return n;
}

static void random_space(prog *p) {
  static const int64_t sizes[] = {1, 2, 3, 5, 7, 8, 16, 17, 31, 33, 64, 100, 257, 1000};
  p->d.rank = (uint32_t)pick_in(p, 1, 4);
  int64_t total = 1;
  for (uint32_t k = 0; k < p->d.rank; k++) {
    p->d.dim[k] = sizes[rnd(&p->r) % ZG_COUNT(sizes)];
    while (total * p->d.dim[k] > 8000) p->d.dim[k] = (p->d.dim[k] + 1) / 2;
    total *= p->d.dim[k];
  }
  if (one_in(p, 40)) p->d.dim[pick_in(p, 0, p->d.rank - 1)] = 0;
  p->d.n_outer = (uint32_t)pick_in(p, 0, p->d.rank - 1);
  if (one_in(p, 15)) {  // few long rows
    p->d.rank = 2, p->d.n_outer = 1;
    p->d.dim[0] = pick_in(p, 1, 2), p->d.dim[1] = pick_in(p, 1, 150000);
  }
  if (one_in(p, 3)) p->d.n_mid = (uint32_t)pick_in(p, 1, p->d.rank - p->d.n_outer);
  if (p->d.n_mid && one_in(p, 8)) {  // a long column
    p->d.rank = 2, p->d.n_outer = 0, p->d.n_mid = 1;
    p->d.dim[0] = pick_in(p, 1, 20000), p->d.dim[1] = pick_in(p, 1, 9);
  }
}

// Permuted, padded, reversed, broadcast (inputs), constant along the reduced dims (row level).
static zg_view random_view(prog *p, zg_dtype t, bool row, bool out) {
  zg_view v = {.dtype = t, .rank = p->d.rank};
  uint32_t order[ZG_MAX_RANK];
  for (uint32_t k = 0; k < p->d.rank; k++) order[k] = k;
  for (uint32_t k = 0; k + 1 < p->d.rank && one_in(p, 3); k++) {
    const uint32_t o = (uint32_t)pick_in(p, k, p->d.rank - 1), x = order[k];
    order[k] = order[o], order[o] = x;
  }
  int64_t st = 1;
  for (uint32_t i = p->d.rank; i-- > 0;) {
    const uint32_t k = order[i];
    v.dim[k] = p->d.dim[k];
    if ((row && !row_dim(&p->d, k)) || (!out && one_in(p, 5))) continue;
    v.stride[k] = st;
    st *= ZG_MAX(p->d.dim[k], 1) + one_in(p, 6);
  }
  v.offset = pick_in(p, 0, 3);
  v.buf = add_buf(p->s, t, st + v.offset + 1);
  for (uint32_t k = 0; k < p->d.rank && one_in(p, 6); k++) {
    v.offset += v.stride[k] * ZG_MAX(p->d.dim[k] - 1, 0);
    v.stride[k] = -v.stride[k];
  }
  return v;
}

static uint32_t push(prog *p, zg_inst i, double bound, bool dep) {
  p->inst[p->d.n_inst] = i;
  p->bound[p->d.n_inst] = bound;
  p->dep[p->d.n_inst] = dep;
  return p->d.n_inst++;
}

static uint32_t load(prog *p, zg_dtype t) {
  const bool row = one_in(p, 4);
  p->coarse |= t == ZG_BF16 || t == ZG_F16;
  p->args[p->n_args] = random_view(p, t, row, false);
  const zg_inst i = {.kind = ZG_I_LOAD,
                     .cls = (uint8_t)zg_cls_of(t),
                     .in_cls = (uint8_t)zg_cls_of(t),
                     .level = row ? ZG_LEVEL_ROW : ZG_LEVEL_ELEM,
                     .a = p->n_args++};
  return push(p, i, zg_dtype_is_float(t) ? 2 : 9, false);
}

static uint32_t constant(prog *p, zg_cls cls, double v) {
  return push(
      p,
      (zg_inst){
          .kind = ZG_I_CONST, .cls = (uint8_t)cls, .in_cls = (uint8_t)cls, .level = ZG_LEVEL_ROW, .imm = v},
      fabs(v), false);
}

static uint32_t find(prog *p, zg_cls cls) {
  for (int tries = 0; tries < 50; tries++) {
    const uint32_t i = (uint32_t)(rnd(&p->r) % p->d.n_inst);
    if (p->inst[i].cls == cls) return i;
  }
  return NO;
}

static uint32_t map(prog *p, zg_scalar s, zg_cls cls, zg_cls in_cls, uint32_t a, uint32_t b, uint32_t c,
                    double bound) {
  const int n = zg_scalar_arity(s);
  const uint32_t ops[3] = {a, b, c};
  bool elem = false, dep = false;
  for (int k = 0; k < n; k++) elem |= p->inst[ops[k]].level == ZG_LEVEL_ELEM, dep |= p->dep[ops[k]];
  if (p->d.n_mid && elem && dep) return NO;
  if (!(p->d.n_mid && dep)) elem |= one_in(p, 10);
  const zg_inst i = {.kind = ZG_I_MAP,
                     .cls = (uint8_t)cls,
                     .in_cls = (uint8_t)in_cls,
                     .scalar = (uint16_t)s,
                     .a = a,
                     .b = b,
                     .c = c,
                     .level = elem ? ZG_LEVEL_ELEM : ZG_LEVEL_ROW};
  return push(p, i, bound, dep);
}

static uint32_t cast(prog *p, uint32_t a, zg_dtype to) {
  p->coarse |= to == ZG_BF16 || to == ZG_F16;
  const zg_inst i = {.kind = ZG_I_CAST,
                     .cls = (uint8_t)zg_cls_of(to),
                     .in_cls = p->inst[a].cls,
                     .to = (uint8_t)to,
                     .a = a,
                     .level = p->inst[a].level};
  return push(p, i, p->bound[a], p->dep[a]);
}

static void float_map(prog *p, zg_cls cls) {
  const zg_scalar un[] = {ZG_S_NEG,       ZG_S_ABS,    ZG_S_TANH,    ZG_S_SIGMOID, ZG_S_GELU,
                          ZG_S_GELU_TANH, ZG_S_SILU,   ZG_S_RELU,    ZG_S_ERF,     ZG_S_SIN,
                          ZG_S_GELU_D,    ZG_S_SILU_D, ZG_S_SOFTPLUS};
  const zg_scalar bin[] = {ZG_S_ADD, ZG_S_SUB, ZG_S_MUL, ZG_S_MAX, ZG_S_MIN};
  const uint32_t a = find(p, cls), b = find(p, cls), c = find(p, cls);
  if (a == NO || b == NO || c == NO) return;
  const double x = p->bound[a], y = p->bound[b];
  switch (pick_in(p, 0, 5)) {
    case 0:
    case 1: map(p, un[rnd(&p->r) % ZG_COUNT(un)], cls, cls, a, 0, 0, x + 1); break;
    case 2:
    case 3: {
      const zg_scalar s = bin[rnd(&p->r) % ZG_COUNT(bin)];
      if (s != ZG_S_MUL || x * y < 100) map(p, s, cls, cls, a, b, 0, s == ZG_S_MUL ? x * y : x + y);
      break;
    }
    case 4:
      if (x * y < 100) map(p, ZG_S_FMA, cls, cls, a, b, c, x * y + p->bound[c]);
      break;
    default: {
      const uint32_t e = constant(p, cls, (double)pick_in(p, 2, 3));
      if (x < 5) map(p, ZG_S_POW, cls, cls, a, e, 0, x * x * x);
    }
  }
}

// where(lt(load, load), x, y): loads are exact, so that both executors take the same way.
static void choice(prog *p) {
  const uint32_t l = find(p, ZG_CLS_F32), m = find(p, ZG_CLS_INT), x = find(p, ZG_CLS_F32),
                 y = find(p, ZG_CLS_F32);
  if (l == NO || x == NO || y == NO || m == NO) return;
  uint32_t cond = m;
  if (p->inst[l].kind == ZG_I_LOAD) {
    const uint32_t k = constant(p, ZG_CLS_F32, 0.25);
    cond = map(p, one_in(p, 2) ? ZG_S_LT : ZG_S_LE, ZG_CLS_INT, ZG_CLS_F32, l, k, 0, 1);
  }
  if (cond != NO) map(p, ZG_S_WHERE, ZG_CLS_F32, ZG_CLS_F32, cond, x, y, ZG_MAX(p->bound[x], p->bound[y]));
}

static void int_map(prog *p) {
  const zg_scalar bin[] = {ZG_S_ADD, ZG_S_SUB, ZG_S_MAX, ZG_S_MIN, ZG_S_LT, ZG_S_EQ, ZG_S_AND, ZG_S_BIT_XOR};
  const uint32_t a = find(p, ZG_CLS_INT), b = find(p, ZG_CLS_INT);
  if (a == NO || b == NO) return;
  map(p, bin[rnd(&p->r) % ZG_COUNT(bin)], ZG_CLS_INT, ZG_CLS_INT, a, b, 0, 2 * (p->bound[a] + p->bound[b]));
}

static void index_and_random(prog *p) {
  if (p->d.n_index == 4) return;
  int64_t *row = p->index[p->d.n_index], most = 3;
  bool elem = false;
  for (uint32_t k = 0; k < p->d.rank; k++) {
    row[k] = pick_in(p, -1, 3);
    most += 3 * p->d.dim[k];
    elem |= !row_dim(&p->d, k) && row[k] != 0;
  }
  const zg_inst i = {.kind = ZG_I_INDEX,
                     .cls = ZG_CLS_INT,
                     .in_cls = ZG_CLS_INT,
                     .level = elem ? ZG_LEVEL_ELEM : ZG_LEVEL_ROW,
                     .a = p->d.n_index++,
                     .imm = (double)pick_in(p, -3, 3)};
  const uint32_t x = push(p, i, (double)most, false);
  if (one_in(p, 2)) {
    const zg_inst draw = {.kind = ZG_I_RANDOM,
                          .cls = ZG_CLS_F32,
                          .in_cls = ZG_CLS_INT,
                          .level = i.level,
                          .a = x,
                          .imm = 7,
                          .scalar = (uint16_t)pick_in(p, 0, 1)};
    push(p, draw, 6, false);
    return;
  }
  const uint32_t f = cast(p, x, ZG_F32), k = constant(p, ZG_CLS_F32, 1.0 / (double)most);
  map(p, ZG_S_MUL, ZG_CLS_F32, ZG_CLS_F32, f, k, 0, 1);
}

static void reduction(prog *p) {
  const zg_cls cls = one_in(p, 4) ? ZG_CLS_INT : one_in(p, 4) ? ZG_CLS_F64 : ZG_CLS_F32;
  const uint32_t a = find(p, cls);
  if (a == NO || (p->inst[a].level == ZG_LEVEL_ROW && !one_in(p, 4)) || (p->d.n_mid && p->dep[a])) return;
  const int64_t n = reduced_elems(p);
  uint8_t red = (uint8_t)pick_in(p, 0, n <= 4 && p->bound[a] < 4 ? 3 : 2);
  if (n == 0 && red != ZG_RED_SUM) red = ZG_RED_SUM;  // infinities are tested below
  const double bound = red == ZG_RED_PROD  ? 256
                       : red == ZG_RED_SUM ? p->bound[a] * (double)(n + 1)
                                           : p->bound[a];
  const zg_inst i = {.kind = ZG_I_REDUCE,
                     .cls = (uint8_t)cls,
                     .in_cls = (uint8_t)cls,
                     .level = ZG_LEVEL_ROW,
                     .red = red,
                     .a = a};
  const uint32_t x = push(p, i, bound, true);
  if (red != ZG_RED_SUM || cls == ZG_CLS_INT) return;
  p->bound[x] = 1e9;  // means only: sums would drown what follows
  const uint32_t k = constant(p, cls, 1.0 / (double)(n + 1));
  map(p, ZG_S_MUL, cls, cls, x, k, 0, p->bound[a]);
}

static zg_dtype store_type(prog *p, uint8_t cls) {
  const zg_dtype ints[] = {ZG_I64, ZG_I32, ZG_U8, ZG_BOOL, ZG_I8};
  if (cls == ZG_CLS_F64) return ZG_F64;
  if (cls == ZG_CLS_INT) return ints[rnd(&p->r) % ZG_COUNT(ints)];
  return one_in(p, 6) ? ZG_BF16 : one_in(p, 8) ? ZG_F16 : ZG_F32;
}

static bool dense(const prog *p, const zg_view *v) {
  for (uint32_t k = 0; k < p->d.rank; k++)
    if (v->stride[k] == 0 && p->d.dim[k] != 1) return false;
  return true;
}

// Outputs come first among the arguments: the inputs move up by the number of stores. Some stores overwrite
// an input in place, at the end of the program's last phase only.
static void stores(prog *p) {
  uint32_t phase[MAX_INST];
  const uint32_t n_phases = zg_loop_phases(&p->d, phase), n = (uint32_t)pick_in(p, 1, 3);
  zg_inst st[3];
  zg_view out[3];
  uint32_t taken = NO;
  for (uint32_t k = 0; k < n; k++) {
    uint32_t v = p->d.n_inst - 1 - (uint32_t)(k ? pick_in(p, 0, p->d.n_inst - 1) : 0);
    const zg_inst *in = &p->inst[v];
    bool row = in->level == ZG_LEVEL_ROW && (p->d.n_mid || !one_in(p, 4));
    const uint32_t at = phase[v] + (in->kind == ZG_I_REDUCE);
    st[k] = (zg_inst){.kind = ZG_I_STORE,
                      .cls = in->cls,
                      .in_cls = in->cls,
                      .a = v,
                      .b = k,
                      .level = row ? ZG_LEVEL_ROW : ZG_LEVEL_ELEM};
    const zg_dtype t = store_type(p, in->cls);
    p->coarse |= t == ZG_BF16 || t == ZG_F16;
    const uint32_t l = (uint32_t)pick_in(p, 0, p->n_args - 1);
    if (!row && at + 1 >= n_phases && taken == NO && p->args[l].dtype == t && dense(p, &p->args[l]) &&
        one_in(p, 2))
      out[k] = p->args[taken = l];
    else out[k] = random_view(p, t, row, true);
  }
  for (uint32_t i = p->n_args; i-- > 0;) p->args[i + n] = p->args[i];
  for (uint32_t i = 0; i < p->d.n_inst; i++) p->inst[i].a += p->inst[i].kind == ZG_I_LOAD ? n : 0;
  memcpy(p->args, out, sizeof *out * n);
  p->n_args += n, p->n_out = n;
  for (uint32_t k = 0; k < n; k++) push(p, st[k], 0, false);
}

static void random_program(prog *p) {
  const zg_dtype types[] = {ZG_F32, ZG_F32, ZG_F32, ZG_BF16, ZG_F64, ZG_I32, ZG_I64, ZG_BOOL, ZG_F16, ZG_U8};
  random_space(p);
  load(p, ZG_F32);
  for (int64_t n = pick_in(p, 0, 4); n > 0; n--) load(p, types[rnd(&p->r) % ZG_COUNT(types)]);
  constant(p, ZG_CLS_F32, 0.5);
  const int64_t reductions = pick_in(p, 0, 3), steps = pick_in(p, 1, 10);
  for (int64_t n = 0; n < steps && p->d.n_inst < MAX_INST - 10; n++) {
    switch (pick_in(p, 0, 9)) {
      case 0: choice(p); break;
      case 1: int_map(p); break;
      case 2: index_and_random(p); break;
      case 3: float_map(p, ZG_CLS_F64); break;
      case 4: {
        const uint32_t a = find(p, ZG_CLS_F32);
        if (a != NO) cast(p, a, one_in(p, 3) ? ZG_BF16 : ZG_F64);
        break;
      }
      case 5:
      case 6:
        if (reductions) reduction(p);
        break;
      default: float_map(p, ZG_CLS_F32);
    }
  }
  stores(p);
}
