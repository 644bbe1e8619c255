// Op family: a recurrent layer as one step (graph/core.h has the formulas), with its gradient.
//   recurrent       (xw, r, h0[, extra]) -> hs, saved, cs
//   recurrent_grad  (saved, hs, cs, r, dhs[, dcs]) -> dxw, dh0, dc0
// Only what a step hands to the next is in here: the projection of the inputs before it and the products that
// give the gradients of both weights after it run over all steps at once, as ordinary matmuls.
//
// hs has T + 1 states so that "state before each step", which the gradient of R needs, and "state after each
// step", which the next layer reads, are two slices of one tensor.
#include <math.h>

#include "graph/op/import_priv.h"
#include "graph/op/op_priv.h"

// ---- evaluation -------------------------------------------------------------------------------------------
typedef struct {
  int64_t cell, T, B, H, G, S;
  bool reverse;
} layer;

// Step number i of the walk is time step t; its state before is slot `from` of hs and cs, after is slot `to`.
typedef struct {
  int64_t t, from, to;
} moment;
static moment moment_of(const layer *l, int64_t i) {
  const int64_t t = l->reverse ? l->T - 1 - i : i;
  return (moment){t, l->reverse ? t + 1 : t, l->reverse ? t : t + 1};
}
static int64_t first_slot(const layer *l) { return l->reverse ? l->T : 0; }

static layer layer_of(const zg_recurrent_attr *a, const zg_type *hs) {
  return (layer){.cell = a->cell, .T = hs->dim[0] - 1, .B = hs->dim[1], .H = hs->dim[2], .G = zg_cell_gates(a->cell),
                 .S = zg_cell_saved(a->cell), .reverse = a->reverse};
}

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

// Operand i in double (zeros where it is omitted), in memory of `mem`.
static double *wide(zg_arena *mem, const zg_eval *x, uint32_t i, int64_t n) {
  double *d = ZG_NEW_N(mem, double, n + 1);
  if (i < x->n_in && x->in[i].data) zg_convert(ZG_F64, d, x->in[i].type.dtype, x->in[i].data, n);
  return d;
}

static void narrow(zg_eval *x, uint32_t i, const double *from) {
  zg_convert(x->out[i].type.dtype, x->out[i].data, ZG_F64, from, zg_elems(&x->out[i].type));
}

typedef struct {
  const double *x, *pre;  // gates of this row from the input and from the state: [G*H]
  const double *h, *extra;
  double *h_new, *saved, *c_new;
  const double *c;
} row;

static void forward_unit(const layer *l, const row *r, int64_t j) {
  const int64_t H = l->H;
#define GATE(g) (r->x[(g)*H + j] + r->pre[(g)*H + j])
  switch ((zg_cell)l->cell) {
    case ZG_CELL_TANH: r->h_new[j] = tanh(GATE(0)); break;
    case ZG_CELL_RELU: r->h_new[j] = GATE(0) > 0 ? GATE(0) : 0; break;
    case ZG_CELL_LSTM: {
      const double s[4] = {sigmoid(GATE(0)), sigmoid(GATE(1)), sigmoid(GATE(2)), tanh(GATE(3))};
      for (int g = 0; g < 4; g++) r->saved[g * H + j] = s[g];
      r->c_new[j] = s[2] * r->c[j] + s[0] * s[3];
      r->h_new[j] = s[1] * tanh(r->c_new[j]);
      break;
    }
    case ZG_CELL_GRU: {
      const double z = sigmoid(GATE(0)), reset = sigmoid(GATE(1)), q = r->pre[2 * H + j] + r->extra[j],
                   n = tanh(r->x[2 * H + j] + reset * q), s[4] = {z, reset, n, q};
      for (int g = 0; g < 4; g++) r->saved[g * H + j] = s[g];
      r->h_new[j] = (1 - z) * n + z * r->h[j];
      break;
    }
  }
#undef GATE
}

static zg_status recurrent_eval(zg_eval *x) {
  zg_arena mem = {0};
  const layer l = layer_of(x->attr, &x->out[0].type);
  const int64_t BH = l.B * l.H, G = l.G * l.H, S = l.S * l.H;
  const bool has_c = l.cell == ZG_CELL_LSTM;
  const double *xw = wide(&mem, x, 0, l.T * l.B * G), *w = wide(&mem, x, 1, G * l.H), *h0 = wide(&mem, x, 2, BH),
               *extra = wide(&mem, x, 3, has_c ? BH : l.H);
  double *hs = ZG_NEW_N(&mem, double, (l.T + 1) * BH + 1), *cs = ZG_NEW_N(&mem, double, (l.T + 1) * BH + 1),
         *saved = ZG_NEW_N(&mem, double, l.T * l.B * S + 1), *pre = ZG_NEW_N(&mem, double, G + 1);
  memcpy(hs + first_slot(&l) * BH, h0, sizeof *h0 * (size_t)BH);
  if (has_c) memcpy(cs + first_slot(&l) * BH, extra, sizeof *h0 * (size_t)BH);
  for (int64_t i = 0; i < l.T * l.B; i++) {
    const moment m = moment_of(&l, i / l.B);
    const int64_t b = i % l.B, n = m.t * l.B + b, from = (m.from * l.B + b) * l.H, to = (m.to * l.B + b) * l.H;
    for (int64_t g = 0; g < G; g++) {
      pre[g] = 0;
      for (int64_t k = 0; k < l.H; k++) pre[g] += hs[from + k] * w[g * l.H + k];
    }
    const row r = {xw + n * G, pre, hs + from, extra, hs + to, saved + n * S, cs + to, cs + from};
    for (int64_t j = 0; j < l.H; j++) forward_unit(&l, &r, j);
  }
  narrow(x, 0, hs);
  narrow(x, 1, saved);
  narrow(x, 2, cs);
  zg_arena_fini(&mem);
  return NULL;
}

typedef struct {
  const double *saved, *h, *h_new, *c, *c_new;
  double *dh, *dc;   // of the state after the step; become what reaches the state before it but for R's part
  double *dx, *dpre; // gradients of the row's gates: before the input's and before the state's part
} grad_row;

static void backward_unit(const layer *l, const grad_row *r, int64_t j) {
  const int64_t H = l->H;
  const double dh = r->dh[j];
  switch ((zg_cell)l->cell) {
    case ZG_CELL_TANH: r->dx[j] = r->dpre[j] = dh * (1 - r->h_new[j] * r->h_new[j]), r->dh[j] = 0; break;
    case ZG_CELL_RELU: r->dx[j] = r->dpre[j] = r->h_new[j] > 0 ? dh : 0, r->dh[j] = 0; break;
    case ZG_CELL_LSTM: {
      const double i = r->saved[j], o = r->saved[H + j], f = r->saved[2 * H + j], g = r->saved[3 * H + j],
                   tc = tanh(r->c_new[j]), dc = r->dc[j] + dh * o * (1 - tc * tc),
                   d[4] = {dc * g * i * (1 - i), dh * tc * o * (1 - o), dc * r->c[j] * f * (1 - f), dc * i * (1 - g * g)};
      for (int k = 0; k < 4; k++) r->dx[k * H + j] = r->dpre[k * H + j] = d[k];
      r->dc[j] = dc * f, r->dh[j] = 0;
      break;
    }
    case ZG_CELL_GRU: {
      const double z = r->saved[j], reset = r->saved[H + j], n = r->saved[2 * H + j], q = r->saved[3 * H + j],
                   dn = dh * (1 - z) * (1 - n * n);
      r->dx[j] = r->dpre[j] = dh * (r->h[j] - n) * z * (1 - z);
      r->dx[H + j] = r->dpre[H + j] = dn * q * reset * (1 - reset);
      r->dx[2 * H + j] = dn, r->dpre[2 * H + j] = dn * reset;
      r->dh[j] = dh * z;
      break;
    }
  }
}

static zg_status recurrent_grad_eval(zg_eval *x) {
  zg_arena mem = {0};
  const layer l = layer_of(x->attr, &x->in[1].type);
  const int64_t BH = l.B * l.H, G = l.G * l.H, S = l.S * l.H, all = (l.T + 1) * BH;
  const bool has_c = l.cell == ZG_CELL_LSTM;
  const double *saved = wide(&mem, x, 0, l.T * l.B * S), *hs = wide(&mem, x, 1, all), *cs = has_c ? wide(&mem, x, 2, all) : NULL,
               *w = wide(&mem, x, 3, G * l.H);
  double *dhs = wide(&mem, x, 4, all), *dcs = wide(&mem, x, 5, has_c ? all : 0), *dxw = ZG_NEW_N(&mem, double, l.T * l.B * G + 1),
         *dpre = ZG_NEW_N(&mem, double, G + 1), *none = ZG_NEW_N(&mem, double, l.H + 1);
  for (int64_t i = l.T * l.B; i-- > 0;) {
    const moment m = moment_of(&l, i / l.B);
    const int64_t b = i % l.B, n = m.t * l.B + b, from = (m.from * l.B + b) * l.H, to = (m.to * l.B + b) * l.H;
    const grad_row r = {saved + n * S, hs + from, hs + to, has_c ? cs + from : none, has_c ? cs + to : none,
                        dhs + to, has_c ? dcs + to : none, dxw + n * G, dpre};
    for (int64_t j = 0; j < l.H; j++) backward_unit(&l, &r, j);
    for (int64_t k = 0; k < l.H; k++) {
      double sum = dhs[to + k];
      for (int64_t g = 0; g < G; g++) sum += dpre[g] * w[g * l.H + k];
      dhs[from + k] += sum;
      if (has_c) dcs[from + k] += dcs[to + k];
    }
  }
  narrow(x, 0, dxw);
  narrow(x, 1, dhs + first_slot(&l) * BH);
  if (has_c) narrow(x, 2, dcs + first_slot(&l) * BH);
  zg_arena_fini(&mem);
  return NULL;
}

// ---- types ------------------------------------------------------------------------------------------------
static zg_status want(const zg_type *got, const char *what, zg_dtype dtype, uint32_t rank, int64_t a, int64_t b, int64_t c) {
  const int64_t dim[3] = {a, b, c};
  const zg_type t = zg_type_make(dtype, rank, dim);
  if (zg_type_equal(got, &t)) return NULL;
  return zg_error(ZG_INVALID, "%s is %s, want %s", what, zg_type_text(got), zg_type_text(&t));
}

static zg_type type3(zg_dtype dtype, int64_t a, int64_t b, int64_t c) {
  const int64_t dim[3] = {a, b, c};
  return zg_type_make(dtype, 3, dim);
}

static zg_status check_attr(const zg_recurrent_attr *a) {
  if (a->cell >= ZG_CELL_TANH && a->cell <= ZG_CELL_GRU) return NULL;
  return zg_error(ZG_INVALID, "cell is %lld, want 0 to %d", (long long)a->cell, ZG_CELL_GRU);
}

static zg_status recurrent_infer(zg_infer *x) {
  const zg_recurrent_attr *a = x->attr;
  ZG_TRY(check_attr(a));
  const uint32_t n = a->cell == ZG_CELL_LSTM || a->cell == ZG_CELL_GRU ? 4 : 3;
  ZG_TRY(zg_infer_arity(x, n, n));
  const zg_type *xw = x->in[0], *r = x->in[1];
  if (xw->rank != 3 || r->rank != 2 || !zg_dtype_is_float(xw->dtype))
    return zg_error(ZG_INVALID, "gates %s and weight %s, want floats [T,B,G*H] and [G*H,H]", zg_type_text(xw), zg_type_text(r));
  const int64_t G = zg_cell_gates(a->cell), T = xw->dim[0], B = xw->dim[1], H = r->dim[1];
  ZG_TRY(want(xw, "the gates' input", xw->dtype, 3, T, B, G * H));
  ZG_TRY(want(r, "the recurrent weight", xw->dtype, 2, G * H, H, 0));
  ZG_TRY(want(x->in[2], "the first state", xw->dtype, 2, B, H, 0));
  if (a->cell == ZG_CELL_LSTM) ZG_TRY(want(x->in[3], "the first cell state", xw->dtype, 2, B, H, 0));
  if (a->cell == ZG_CELL_GRU) ZG_TRY(want(x->in[3], "the recurrent bias", xw->dtype, 1, H, 0, 0));
  x->out[0] = type3(xw->dtype, T + 1, B, H);
  x->out[1] = type3(xw->dtype, T, B, zg_cell_saved(a->cell) * H);
  x->out[2] = type3(xw->dtype, T + 1, B, a->cell == ZG_CELL_LSTM ? H : 0);
  return NULL;
}

static zg_status recurrent_grad_infer(zg_infer *x) {
  const zg_recurrent_attr *a = x->attr;
  ZG_TRY(check_attr(a));
  ZG_TRY(zg_infer_arity(x, 5, 6));
  const zg_type *hs = x->in[1];
  if (hs->rank != 3 || hs->dim[0] < 1 || !zg_dtype_is_float(hs->dtype))
    return zg_error(ZG_INVALID, "the states are %s, want floats [T+1,B,H]", zg_type_text(hs));
  const int64_t G = zg_cell_gates(a->cell), T = hs->dim[0] - 1, B = hs->dim[1], H = hs->dim[2], C = a->cell == ZG_CELL_LSTM ? H : 0;
  ZG_TRY(want(x->in[0], "what the forward saved", hs->dtype, 3, T, B, zg_cell_saved(a->cell) * H));
  ZG_TRY(want(x->in[2], "the cell states", hs->dtype, 3, T + 1, B, C));
  ZG_TRY(want(x->in[3], "the recurrent weight", hs->dtype, 2, G * H, H, 0));
  ZG_TRY(want(x->in[4], "the states' gradient", hs->dtype, 3, T + 1, B, H));
  if (x->n_in > 5 && x->in[5]) ZG_TRY(want(x->in[5], "the cell states' gradient", hs->dtype, 3, T + 1, B, C));
  const int64_t dc0[] = {B, C};
  x->out[0] = type3(hs->dtype, T, B, G * H);
  x->out[1] = zg_type_make(hs->dtype, 2, hs->dim + 1);
  x->out[2] = zg_type_make(hs->dtype, 2, dc0);
  return NULL;
}

// ---- gradient ---------------------------------------------------------------------------------------------
// Rows of x: [T,B,n*H], gates first .. first+n of each, as a matrix.
static zg_val gate_rows(zg_builder *b, zg_val x, int64_t first, int64_t n, int64_t H) {
  const zg_type t = *zg_b_type(b, x);
  const int64_t dim[] = {t.dim[0] * t.dim[1], n * H};
  return zg_b_reshape(b, zg_b_slice1(b, x, 2, first * H, n * H), dim, 2);
}

// Gradient of R: the gates' gradients times the states before the steps. A GRU's candidate enters through q = h Rn^T + extra.
static zg_val weight_grad(zg_grad *g, const layer *l, zg_val dxw, zg_val dq) {
  zg_builder *b = g->b;
  const zg_val before = gate_rows(b, zg_b_slice1(b, g->out[0], 0, l->reverse ? 1 : 0, l->T), 0, 1, l->H);
  if (l->cell != ZG_CELL_GRU) return zg_b_matmul(b, gate_rows(b, dxw, 0, l->G, l->H), before, true, false);
  const zg_val parts[] = {zg_b_matmul(b, gate_rows(b, dxw, 0, 2, l->H), before, true, false), zg_b_matmul(b, dq, before, true, false)};
  return zg_b_concat(b, parts, 2, 0);
}

static zg_status recurrent_vjp(zg_grad *g) {
  zg_builder *b = g->b;
  if (zg_is(g->dout[1])) return zg_error(ZG_UNSUPPORTED, "the gradient of what a recurrent step saves is not defined");
  if (!zg_is(g->dout[0]) && !zg_is(g->dout[2])) return NULL;
  const layer l = layer_of(g->attr, zg_b_type(b, g->out[0]));
  const zg_type states = *zg_b_type(b, g->out[0]);
  const zg_val dhs = zg_is(g->dout[0]) ? g->dout[0] : zg_b_fill(b, &states, 0);
  const bool has_dc = zg_is(g->dout[2]) && l.cell == ZG_CELL_LSTM;
  const zg_val in[] = {g->out[1], g->out[0], g->out[2], g->in[1], dhs, g->dout[2]};
  zg_val d[3], dq = {0};
  if (!zg_emit(b, &zg_op_recurrent_grad, g->attr, in, has_dc ? 6 : 5, d, 3)) return NULL;
  if (l.cell == ZG_CELL_GRU) dq = zg_mul(b, gate_rows(b, d[0], 2, 1, l.H), gate_rows(b, g->out[1], 1, 1, l.H));
  if (g->need[0]) g->din[0] = d[0];
  if (g->need[1]) g->din[1] = weight_grad(g, &l, d[0], dq);
  if (g->need[2]) g->din[2] = d[1];
  if (g->n_in < 4 || !g->need[3]) return NULL;
  const int64_t rows = 0;
  g->din[3] = l.cell == ZG_CELL_GRU ? zg_b_reduce(b, ZG_RED_SUM, dq, &rows, 1, false) : d[2];
  return NULL;
}

// ---- tables -----------------------------------------------------------------------------------------------
static const zg_attr_field fields[] = {ZG_FIELD(INT, zg_recurrent_attr, cell, 0), ZG_FIELD(INT, zg_recurrent_attr, reverse, 0)};
#define CELL_IN(xw, r, h)                                                                                        \
  "%1 = input name=\"xw\" type=f64" xw "\n%2 = input name=\"r\" type=f64" r "\n%3 = input name=\"h0\" type=f64" h "\n"
#define MORE(t) "%4 = input name=\"e\" type=f64" t "\n"
#define CELL3(attrs) "%4, %5, %6 = recurrent %1, %2, %3 " attrs "\noutput value \"hs\" %4"
#define CELL4(attrs) "%5, %6, %7 = recurrent %1, %2, %3, %4 " attrs "\noutput value \"hs\" %5"
static const zg_op_case cases[] = {
    {.name = "tanh", .text = CELL_IN("[3,2,4]", "[4,4]", "[2,4]") CELL3("")},
    {.name = "tanh, reverse", .text = CELL_IN("[3,2,1]", "[1,1]", "[2,1]") CELL3("reverse=1")},
    {.name = "relu, away from its kink", .text = CELL_IN("[2,3,2]", "[2,2]", "[3,2]") CELL3("cell=1"), .lo = 0.1, .hi = 1},
    {.name = "lstm", .text = CELL_IN("[3,2,12]", "[12,3]", "[2,3]") MORE("[2,3]") CELL4("cell=2") "\noutput value \"cs\" %7"},
    {.name = "lstm, reverse, states of c alone",
     .text = CELL_IN("[2,1,8]", "[8,2]", "[1,2]") MORE("[1,2]")
     "%5, %6, %7 = recurrent %1, %2, %3, %4 cell=2 reverse=1\noutput value \"cs\" %7"},
    {.name = "gru", .text = CELL_IN("[3,2,6]", "[6,2]", "[2,2]") MORE("[2]") CELL4("cell=3")},
    {.name = "gru, reverse, one step", .text = CELL_IN("[1,2,9]", "[9,3]", "[2,3]") MORE("[3]") CELL4("cell=3 reverse=1")},
    {.name = "lstm, no steps", .text = CELL_IN("[0,2,8]", "[8,2]", "[2,2]") MORE("[2,2]") CELL4("cell=2")},
    {.name = "tanh, no steps", .text = CELL_IN("[0,2,2]", "[2,2]", "[2,2]") CELL3("")},
    {.name = "no batch", .text = CELL_IN("[2,0,8]", "[8,2]", "[0,2]") MORE("[0,2]") CELL4("cell=2")},
};
const zg_op zg_op_recurrent = {.name = "recurrent", .traits = ZG_CORE, ZG_ATTRS(zg_recurrent_attr, fields), .n_out = 3,
                               .infer = recurrent_infer, .eval = recurrent_eval, .grad = recurrent_vjp,
                               .lower = zg__recurrent_unroll, ZG_CASES(cases)};

static const zg_op_case grad_cases[] = {
    {.name = "lstm",
     .no_grad = true,
     .text = CELL_IN("[2,2,8]", "[8,2]", "[2,2]") MORE("[2,2]") "%5 = input name=\"d\" type=f64[3,2,2]\n"
             "%6, %7, %8 = recurrent %1, %2, %3, %4 cell=2\n%9, %10, %11 = recurrent_grad %7, %6, %8, %2, %5 cell=2\n"
             "output value \"dxw\" %9\noutput value \"dh0\" %10\noutput value \"dc0\" %11"},
};
const zg_op zg_op_recurrent_grad = {.name = "recurrent_grad", .traits = ZG_CORE | ZG_NO_GRAD, ZG_ATTRS(zg_recurrent_attr, fields), .n_out = 3,
                                    .infer = recurrent_grad_infer, .eval = recurrent_grad_eval, ZG_CASES(grad_cases)};

static const zg_op *const ops[] = {&zg_op_recurrent, &zg_op_recurrent_grad};
const zg_family zg_family_cell = {.name = "cell", .ops = ops, .n_ops = ZG_COUNT(ops)};
