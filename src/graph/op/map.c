// Op family: scalar maps. Each opcode of scalar.def is one op here, made by the table `maps` below from a row that says what
// element types it takes, what it gives, its gradient and its test cases; the arithmetic itself is scalar.def's alone.
// Then where and cast. ONNX's names for them are in map_import.c.
//
// Gradients at kinks are PyTorch's: relu'(0) = 0, abs'(0) = 0, max and min of equal operands half each, clip passes the
// gradient at its bounds, x^y guarded where x^(y-1) or log x is infinite but its factor 0.
#include "graph/graph_priv.h"

// ---- inference ----------------------------------------------------------------------------------------------------------
enum { TAKES_FLOAT = 1, TAKES_INT = 2, TAKES_BOOL = 4, TAKES_NUM = 3, TAKES_ANY = 7, TAKES_BITS = 6 };

static bool takes(int mask, zg_dtype t) {
  return mask & (zg_dtype_is_float(t) ? TAKES_FLOAT : zg_dtype_is_int(t) ? TAKES_INT : TAKES_BOOL);
}

// Operands [first, n_in): present, of one dtype which the op takes, shapes that broadcast.
static zg_status infer_map(zg_infer *x, uint32_t arity, int mask, bool gives_bool) {
  static const char *const mask_names[] = {"", "floats", "integers", "numbers", "bool", "", "integers or bool", "any type"};
  ZG_TRY(zg_infer_arity(x, arity, arity));
  for (uint32_t i = 0; i < arity; i++) {
    if (x->in[i]->dtype != x->in[0]->dtype)
      return zg_error(ZG_INVALID, "operands are %s and %s; both must have one element type", zg_type_text(x->in[0]), zg_type_text(x->in[i]));
    if (!takes(mask, x->in[i]->dtype)) return zg_error(ZG_INVALID, "operand is %s; it takes %s", zg_type_text(x->in[i]), mask_names[mask]);
  }
  return gives_bool ? zg_infer_compare(x) : zg_infer_broadcast(x);
}

// ---- evaluation ---------------------------------------------------------------------------------------------------------
// Strides of an operand seen in the result's shape: 0 along dims it broadcasts over.
static void map_strides(const zg_type *in, const zg_type *out, int64_t *stride) {
  int64_t own[ZG_MAX_RANK];
  zg_type_strides(in, own);
  for (uint32_t d = 0; d < out->rank; d++) {
    const int64_t k = (int64_t)d - (out->rank - in->rank);
    stride[d] = k < 0 || in->dim[k] == 1 ? 0 : own[k];
  }
}

typedef struct { int64_t idx[ZG_MAX_RANK], stride[3][ZG_MAX_RANK], at[3]; } map_walk;

static void walk_start(map_walk *w, const zg_eval *x) {
  memset(w, 0, sizeof *w);
  for (uint32_t k = 0; k < x->n_in; k++) map_strides(&x->in[k].type, &x->out[0].type, w->stride[k]);
}

static void walk_next(map_walk *w, const zg_type *t) {
  for (uint32_t d = t->rank; d-- > 0;) {
    for (int k = 0; k < 3; k++) w->at[k] += w->stride[k][d];
    if (++w->idx[d] < t->dim[d]) return;
    for (int k = 0; k < 3; k++) w->at[k] -= w->stride[k][d] * t->dim[d];
    w->idx[d] = 0;
  }
}

static zg_status eval_map(zg_eval *x, zg_scalar s) {
  const zg_type *t = &x->out[0].type;
  const zg_dtype from = x->in[0].type.dtype;
  const int64_t n = zg_elems(t);
  map_walk w;
  walk_start(&w, x);
  for (int64_t i = 0; i < n; i++, walk_next(&w, t)) {
    if (zg_dtype_is_float(from)) {
      double v[3] = {0};
      for (uint32_t k = 0; k < x->n_in; k++) v[k] = zg_get_f64(from, x->in[k].data, w.at[k]);
      zg_set_f64(t->dtype, x->out[0].data, i, zg_scalar_f64(s, v[0], v[1], v[2]));
    } else {
      int64_t v[3] = {0};
      for (uint32_t k = 0; k < x->n_in; k++) v[k] = zg_get_i64(from, x->in[k].data, w.at[k]);
      zg_set_i64(t->dtype, x->out[0].data, i, zg_scalar_i64(s, v[0], v[1], v[2]));
    }
  }
  return NULL;
}

// ---- gradients ----------------------------------------------------------------------------------------------------------
// The formulas below read operands x, y, z, the result r and the result's gradient d; each sets din[k] where it is needed,
// of the result's shape: grad_done sums it to the operand's.
#define GRAD_VARS(g) \
  zg_builder *const b = (g)->b; \
  const zg_val x = (g)->in[0], y = (g)->n_in > 1 ? (g)->in[1] : x, r = (g)->out[0], d = (g)->dout[0]; \
  (void)x, (void)y, (void)r, (void)b

static zg_status set(zg_grad *g, uint32_t k, zg_val v) {
  if (zg_is(v)) g->din[k] = zg_b_sum_to(g->b, v, zg_b_type(g->b, g->in[k]));
  return NULL;
}

// Opcode, gradient of a one-operand map as an expression.
#define GRAD1(name, expr) \
  static zg_status grad_##name(zg_grad *g) { \
    GRAD_VARS(g); \
    return set(g, 0, expr); \
  }
#define M1(S, v) zg_b_map1(b, ZG_S_##S, v)
#define M2(S, v, w) zg_b_map2(b, ZG_S_##S, v, w)
#define SQUARE(v) zg_mul(b, v, v)
#define K_PLUS(k, v) zg_add_k(b, v, k)
#define K_MINUS(k, v) zg_sub(b, zg_b_like(b, v, k), v)

GRAD1(neg, zg_neg(b, d))
GRAD1(abs, zg_mul(b, d, M1(SIGN, x)))
GRAD1(sqrt, zg_div(b, zg_mul_k(b, d, 0.5), r))
GRAD1(rsqrt, zg_mul(b, zg_mul_k(b, d, -0.5), zg_mul(b, r, SQUARE(r))))
GRAD1(recip, zg_neg(b, zg_mul(b, d, SQUARE(r))))
GRAD1(exp, zg_mul(b, d, r))
GRAD1(log, zg_div(b, d, x))
GRAD1(log1p, zg_div(b, d, K_PLUS(1, x)))
GRAD1(sin, zg_mul(b, d, M1(COS, x)))
GRAD1(cos, zg_neg(b, zg_mul(b, d, M1(SIN, x))))
GRAD1(tan, zg_mul(b, d, K_PLUS(1, SQUARE(r))))
GRAD1(asin, zg_mul(b, d, M1(RSQRT, K_MINUS(1, SQUARE(x)))))
GRAD1(acos, zg_neg(b, zg_mul(b, d, M1(RSQRT, K_MINUS(1, SQUARE(x))))))
GRAD1(atan, zg_div(b, d, K_PLUS(1, SQUARE(x))))
GRAD1(sinh, zg_mul(b, d, M1(COSH, x)))
GRAD1(cosh, zg_mul(b, d, M1(SINH, x)))
GRAD1(tanh, zg_mul(b, d, K_MINUS(1, SQUARE(r))))
GRAD1(asinh, zg_mul(b, d, M1(RSQRT, K_PLUS(1, SQUARE(x)))))
GRAD1(acosh, zg_mul(b, d, M1(RSQRT, K_PLUS(-1, SQUARE(x)))))
GRAD1(atanh, zg_div(b, d, K_MINUS(1, SQUARE(x))))
GRAD1(erf, zg_mul(b, d, zg_mul_k(b, M1(EXP, zg_neg(b, SQUARE(x))), 1.12837916709551257390)))   // 2/sqrt(pi)
GRAD1(relu, zg_b_where(b, M2(LE, r, zg_b_like(b, r, 0)), zg_b_like(b, d, 0), d))
GRAD1(sigmoid, zg_mul(b, d, zg_mul(b, r, K_MINUS(1, r))))
GRAD1(softplus, zg_mul(b, d, M1(SIGMOID, x)))
GRAD1(silu, zg_mul(b, d, M1(SILU_D, x)))
GRAD1(gelu, zg_mul(b, d, M1(GELU_D, x)))
GRAD1(gelu_tanh, zg_mul(b, d, M1(GELU_TANH_D, x)))

static zg_status grad_add(zg_grad *g) {
  if (g->need[0]) ZG_TRY(set(g, 0, g->dout[0]));
  if (g->need[1]) ZG_TRY(set(g, 1, g->dout[0]));
  return NULL;
}

static zg_status grad_sub(zg_grad *g) {
  if (g->need[0]) ZG_TRY(set(g, 0, g->dout[0]));
  if (g->need[1]) ZG_TRY(set(g, 1, zg_neg(g->b, g->dout[0])));
  return NULL;
}

static zg_status grad_mul(zg_grad *g) {
  if (g->need[0]) ZG_TRY(set(g, 0, zg_mul(g->b, g->dout[0], g->in[1])));
  if (g->need[1]) ZG_TRY(set(g, 1, zg_mul(g->b, g->dout[0], g->in[0])));
  return NULL;
}

static zg_status grad_div(zg_grad *g) {
  GRAD_VARS(g);
  if (g->need[0]) ZG_TRY(set(g, 0, zg_div(b, d, y)));
  if (g->need[1]) ZG_TRY(set(g, 1, zg_neg(b, zg_div(b, zg_mul(b, d, r), y))));
  return NULL;
}

// r = x - q y with an integer q, constant almost everywhere.
static zg_status grad_mod(zg_grad *g) {
  GRAD_VARS(g);
  if (g->need[0]) ZG_TRY(set(g, 0, d));
  if (g->need[1]) {
    const zg_val q = M1(ROUND, zg_div(b, zg_sub(b, x, r), y));
    ZG_TRY(set(g, 1, zg_neg(b, zg_mul(b, d, q))));
  }
  return NULL;
}

static zg_val pow_grad_base(zg_builder *b, zg_val x, zg_val y, zg_val d) {
  double k;
  if (zg_b_const_scalar(b, y, &k)) {   // the exponents models use need no pow
    if (k == 0) return zg_mul_k(b, zg_mul(b, d, y), 0);
    if (k == 1) return d;
    if (k == 2) return zg_mul(b, d, zg_mul_k(b, x, 2));
    if (k == 3) return zg_mul(b, d, zg_mul_k(b, SQUARE(x), 3));
    return zg_mul(b, d, zg_mul_k(b, zg_b_map2(b, ZG_S_POW, x, zg_b_like(b, x, k - 1)), k));
  }
  const zg_val zero = zg_b_like(b, y, 0);
  const zg_val dx = zg_mul(b, d, zg_mul(b, y, M2(POW, x, K_PLUS(-1, y))));
  return zg_b_where(b, M2(EQ, y, zero), zero, dx);
}

static zg_status grad_pow(zg_grad *g) {
  GRAD_VARS(g);
  if (g->need[0]) {
    const zg_type full = *zg_b_type(b, r);
    zg_val dx = pow_grad_base(b, x, y, d);
    if (zg_is(dx)) dx = zg_b_expand(b, dx, full.dim, full.rank);
    ZG_TRY(set(g, 0, dx));
  }
  if (g->need[1]) {
    const zg_val zero = zg_b_like(b, x, 0);
    const zg_val flat = M2(AND, M2(EQ, x, zero), M2(LE, zero, y));
    ZG_TRY(set(g, 1, zg_b_where(b, flat, zero, zg_mul(b, d, zg_mul(b, r, M1(LOG, x))))));
  }
  return NULL;
}

static zg_status grad_atan2(zg_grad *g) {   // x is the ordinate
  GRAD_VARS(g);
  const zg_val q = zg_div(b, d, zg_add(b, SQUARE(x), SQUARE(y)));
  if (g->need[0]) ZG_TRY(set(g, 0, zg_mul(b, q, y)));
  if (g->need[1]) ZG_TRY(set(g, 1, zg_neg(b, zg_mul(b, q, x))));
  return NULL;
}

// The gradient goes to the operand that won, half to each of equals.
static zg_status grad_extremum(zg_grad *g, bool is_max) {
  GRAD_VARS(g);
  const zg_val half = zg_mul_k(b, d, 0.5), zero = zg_b_like(b, d, 0), tie = M2(EQ, x, y);
  for (uint32_t k = 0; k < 2; k++) {
    if (!g->need[k]) continue;
    const zg_val mine = g->in[k], other = g->in[1 - k];
    const zg_val lost = is_max ? M2(LT, mine, other) : M2(LT, other, mine);
    ZG_TRY(set(g, k, zg_b_where(b, tie, half, zg_b_where(b, lost, zero, d))));
  }
  return NULL;
}
static zg_status grad_max(zg_grad *g) { return grad_extremum(g, true); }
static zg_status grad_min(zg_grad *g) { return grad_extremum(g, false); }

static zg_status grad_clip(zg_grad *g) {
  GRAD_VARS(g);
  const zg_val hi = g->in[2], zero = zg_b_like(b, d, 0);
  const zg_val below = M2(LT, x, y), above = M2(LT, hi, x), crossed = M2(LT, hi, y);
  if (g->need[0]) ZG_TRY(set(g, 0, zg_b_where(b, M2(OR, below, above), zero, d)));
  if (g->need[1]) ZG_TRY(set(g, 1, zg_b_where(b, M2(AND, below, M1(NOT, crossed)), d, zero)));
  if (g->need[2]) ZG_TRY(set(g, 2, zg_b_where(b, M2(OR, above, M2(AND, below, crossed)), d, zero)));
  return NULL;
}

static zg_status grad_fma(zg_grad *g) {
  GRAD_VARS(g);
  if (g->need[0]) ZG_TRY(set(g, 0, zg_mul(b, d, y)));
  if (g->need[1]) ZG_TRY(set(g, 1, zg_mul(b, d, x)));
  if (g->need[2]) ZG_TRY(set(g, 2, d));
  return NULL;
}

static zg_status grad_where(zg_grad *g) {
  zg_builder *b = g->b;
  const zg_val d = g->dout[0], zero = zg_b_like(b, d, 0);
  if (g->need[1]) ZG_TRY(set(g, 1, zg_b_where(b, g->in[0], d, zero)));
  if (g->need[2]) ZG_TRY(set(g, 2, zg_b_where(b, g->in[0], zero, d)));
  return NULL;
}

// ---- where, cast --------------------------------------------------------------------------------------------------------
static zg_status infer_where(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 3, 3));
  if (x->in[0]->dtype != ZG_BOOL) return zg_error(ZG_INVALID, "the condition is %s; it must be bool", zg_type_text(x->in[0]));
  if (x->in[1]->dtype != x->in[2]->dtype)
    return zg_error(ZG_INVALID, "operands are %s and %s; both must have one element type", zg_type_text(x->in[1]), zg_type_text(x->in[2]));
  zg_type t = *x->in[1];
  ZG_TRY(zg_type_broadcast(&t, x->in[2], &t));
  return zg_type_broadcast(&t, x->in[0], &x->out[0]);
}

static zg_status eval_select(zg_eval *x) {
  const zg_type *t = &x->out[0].type;
  const size_t size = zg_dtype_bytes(t->dtype);
  const int64_t n = zg_elems(t);
  map_walk w;
  walk_start(&w, x);
  for (int64_t i = 0; i < n; i++, walk_next(&w, t)) {
    const int k = ((const uint8_t *)x->in[0].data)[w.at[0]] ? 1 : 2;
    memcpy((char *)x->out[0].data + (size_t)i * size, (const char *)x->in[k].data + (size_t)w.at[k] * size, size);
  }
  return NULL;
}

static zg_status infer_cast(zg_infer *x) {
  const zg_cast_attr *a = x->attr;
  ZG_TRY(zg_infer_arity(x, 1, 1));
  if (a->to < 0 || a->to >= ZG_N_DTYPES) return zg_error(ZG_INVALID, "no element type %lld", (long long)a->to);
  x->out[0] = *x->in[0];
  x->out[0].dtype = (zg_dtype)a->to;
  return NULL;
}

static zg_status eval_cast(zg_eval *x) {
  zg_convert(x->out[0].type.dtype, x->out[0].data, x->in[0].type.dtype, x->in[0].data, zg_elems(&x->out[0].type));
  return NULL;
}

static zg_status grad_cast(zg_grad *g) {
  const zg_dtype from = zg_b_type(g->b, g->in[0])->dtype;
  if (zg_dtype_is_float(from)) g->din[0] = zg_b_cast(g->b, g->dout[0], from);
  return NULL;
}

// ---- test cases ---------------------------------------------------------------------------------------------------------
// The form of most cases: the op on one input x, or on x and y.
#define TEXT1(op, shape) "%1 = input name=\"x\" type=" shape "\n%2 = " op " %1\noutput value \"y\" %2"
#define TEXT2(op, sx, sy) \
  "%1 = input name=\"x\" type=" sx "\n%2 = input name=\"w\" type=" sy "\n%3 = " op " %1, %2\noutput value \"y\" %3"
#define CASES1(op, low, high) \
  static const zg_op_case op##_cases[] = { \
      {.name = "matrix", .text = TEXT1(#op, "f64[3,4]"), .lo = low, .hi = high}, \
      {.name = "scalar", .text = TEXT1(#op, "f64[]"), .lo = low, .hi = high}, \
      {.name = "empty", .text = TEXT1(#op, "f64[0,2]"), .lo = low, .hi = high}, \
  }
#define CASES2(op, low, high) \
  static const zg_op_case op##_cases[] = { \
      {.name = "same shape", .text = TEXT2(#op, "f64[3,4]", "f64[3,4]"), .lo = low, .hi = high}, \
      {.name = "broadcast row", .text = TEXT2(#op, "f64[2,3,4]", "f64[4]"), .lo = low, .hi = high}, \
      {.name = "broadcast both ways", .text = TEXT2(#op, "f64[3,1]", "f64[2,1,4]"), .lo = low, .hi = high}, \
      {.name = "scalar", .text = TEXT2(#op, "f64[2]", "f64[]"), .lo = low, .hi = high}, \
      {.name = "empty", .text = TEXT2(#op, "f64[0]", "f64[1]"), .lo = low, .hi = high}, \
  }
// Without derivative: forward only.
#define CASES1_FLAT(op, type) \
  static const zg_op_case op##_cases[] = { \
      {.name = "forward", .text = TEXT1(#op, type), .lo = -2, .hi = 2, .no_grad = true}, \
  }
#define CASES2_FLAT(op, type) \
  static const zg_op_case op##_cases[] = { \
      {.name = "forward", .text = TEXT2(#op, type "[2,3]", type "[3]"), .lo = 0, .hi = 3, .no_grad = true}, \
  }

CASES1(neg, -1, 1);
CASES1(sqrt, 0.5, 2);
CASES1(rsqrt, 0.5, 2);
CASES1(recip, 0.5, 2);
CASES1(exp, -1, 1);
CASES1(log, 0.5, 2);
CASES1(log1p, -0.5, 2);
CASES1(sin, -3, 3);
CASES1(cos, -3, 3);
CASES1(tan, -1, 1);
CASES1(asin, -0.8, 0.8);
CASES1(acos, -0.8, 0.8);
CASES1(atan, -2, 2);
CASES1(sinh, -2, 2);
CASES1(cosh, -2, 2);
CASES1(tanh, -2, 2);
CASES1(asinh, -2, 2);
CASES1(acosh, 1.2, 3);
CASES1(atanh, -0.8, 0.8);
CASES1(erf, -2, 2);
CASES1(sigmoid, -4, 4);
CASES1(softplus, -4, 4);
CASES1(silu, -4, 4);
CASES1(gelu, -4, 4);
CASES1(gelu_tanh, -4, 4);
CASES1_FLAT(silu_d, "f64[5]");
CASES1_FLAT(gelu_d, "f64[5]");
CASES1_FLAT(gelu_tanh_d, "f64[5]");
CASES1_FLAT(sign, "f64[5]");
CASES1_FLAT(floor, "f64[5]");
CASES1_FLAT(ceil, "f64[5]");
CASES1_FLAT(round, "f64[5]");
CASES1_FLAT(is_nan, "f64[5]");
CASES1_FLAT(is_inf, "f64[5]");
CASES1_FLAT(not, "bool[5]");
CASES1_FLAT(bit_not, "u8[5]");
CASES2(add, -1, 1);
CASES2(sub, -1, 1);
CASES2(mul, -1, 1);
CASES2(div, 0.5, 2);
CASES2(atan2, 0.3, 2);
CASES2_FLAT(eq, "i64");
CASES2_FLAT(ne, "i64");
CASES2_FLAT(lt, "f64");
CASES2_FLAT(le, "i32");
CASES2_FLAT(and, "bool");
CASES2_FLAT(or, "bool");
CASES2_FLAT(xor, "bool");
CASES2_FLAT(bit_and, "u8");
CASES2_FLAT(bit_or, "i32");
CASES2_FLAT(bit_xor, "u64");
CASES2_FLAT(shl, "u8");
CASES2_FLAT(shr, "u32");
static const zg_op_case abs_cases[] = {
    {.name = "matrix", .text = TEXT1("abs", "f64[3,4]")},
    {.name = "kink", .text = TEXT1("abs", "f64[3]"), .no_grad = true, .data = "x: -2 0 3", .expect = "x: -1 0 1"},
    {.name = "integer", .text = TEXT1("abs", "i32[4]"), .no_grad = true},
};
static const zg_op_case relu_cases[] = {
    {.name = "matrix", .text = TEXT1("relu", "f64[3,4]")},
    {.name = "kink", .text = TEXT1("relu", "f64[3]"), .no_grad = true, .data = "x: -2 0 3", .expect = "x: 0 0 1"},
};
static const zg_op_case mod_cases[] = {
    {.name = "both signs", .text = TEXT2("mod", "f64[4]", "f64[4]"), .data = "x: 2.3 -2.3 2.3 -2.3\nw: 0.7 0.7 -0.7 -0.7"},
    {.name = "integer", .text = TEXT2("mod", "i64[6]", "i64[]"), .hi = 9, .no_grad = true},
    {.name = "by zero", .text = TEXT2("mod", "i64[2]", "i64[2]"), .no_grad = true, .data = "x: 5 -5\nw: 0 0"},
};
static const zg_op_case fmod_cases[] = {
    {.name = "both signs", .text = TEXT2("fmod", "f64[4]", "f64[4]"), .data = "x: 2.3 -2.3 2.3 -2.3\nw: 0.7 0.7 -0.7 -0.7"},
};
static const zg_op_case pow_cases[] = {
    {.name = "general", .text = TEXT2("pow", "f64[3,4]", "f64[4]"), .lo = 0.5, .hi = 2},
    {.name = "square", .text = "%1 = input name=\"x\" type=f64[2,3]\n%2 = const type=f64[] data=[2]\n%3 = pow %1, %2\n"
                               "output value \"y\" %3"},
    {.name = "odd power", .text = "%1 = input name=\"x\" type=f64[5]\n%2 = const type=f64[] data=[5]\n%3 = pow %1, %2\n"
                                  "output value \"y\" %3"},
    {.name = "exponent broadcasts base", .text = "%1 = input name=\"x\" type=f64[1]\n%2 = fill type=f64[3] value=2\n"
                                                 "%3 = pow %1, %2\noutput value \"y\" %3"},
    {.name = "base 0", .text = TEXT2("pow", "f64[3]", "f64[3]"), .no_grad = true, .data = "x: 0 0 2\nw: 0 2 0",
     .expect = "x: 0 0 0\nw: 0 0 0.69314718055994531"},
    {.name = "integer", .text = TEXT2("pow", "i64[4]", "i64[]"), .hi = 4, .no_grad = true},
};
static const zg_op_case max_cases[] = {
    {.name = "broadcast", .text = TEXT2("max", "f64[3,4]", "f64[4]")},
    {.name = "tie", .text = TEXT2("max", "f64[3]", "f64[3]"), .no_grad = true, .data = "x: 1 2 3\nw: 2 2 2",
     .expect = "x: 0 0.5 1\nw: 1 0.5 0"},
};
static const zg_op_case min_cases[] = {
    {.name = "broadcast", .text = TEXT2("min", "f64[3,4]", "f64[4]")},
    {.name = "tie", .text = TEXT2("min", "f64[3]", "f64[3]"), .no_grad = true, .data = "x: 1 2 3\nw: 2 2 2",
     .expect = "x: 1 0.5 0\nw: 0 0.5 1"},
};
#define TEXT3(op, tx, ty, tz) \
  "%1 = input name=\"x\" type=" tx "\n%2 = input name=\"w\" type=" ty "\n%3 = input name=\"z\" type=" tz \
  "\n%4 = " op " %1, %2, %3\noutput value \"y\" %4"
static const zg_op_case clip_cases[] = {
    {.name = "between", .text = TEXT3("clip", "f64[5]", "f64[]", "f64[]"), .data = "x: -2 -0.4 0.1 0.6 2\nw: -0.5\nz: 0.5"},
    {.name = "at its bounds", .text = TEXT3("clip", "f64[4]", "f64[]", "f64[]"), .no_grad = true,
     .data = "x: -1 0 1 2\nw: -1\nz: 1", .expect = "x: 1 1 1 0"},
    {.name = "crossed bounds", .text = TEXT3("clip", "f64[3]", "f64[]", "f64[]"), .data = "x: -2 0.2 2\nw: 1\nz: -1"},
};
static const zg_op_case fma_cases[] = {
    {.name = "broadcast", .text = TEXT3("fma", "f64[2,3]", "f64[3]", "f64[2,1]")},
};
static const zg_op_case where_cases[] = {
    {.name = "broadcast", .text = TEXT3("where", "bool[3]", "f64[2,3]", "f64[2,1]"), .lo = -1, .hi = 1},
    {.name = "scalar branch", .text = TEXT3("where", "bool[2,3]", "f64[]", "f64[2,3]"), .lo = -1, .hi = 1},
};
static const zg_op_case cast_cases[] = {
    {.name = "through f32", .text = "%1 = input name=\"x\" type=f64[3]\n%2 = cast %1 to=i32\n%3 = cast %2 to=f64\n"
                                    "%4 = mul %1, %3\noutput value \"y\" %4", .lo = 1.1, .hi = 1.9},
    {.name = "to bool", .text = "%1 = input name=\"x\" type=i64[4]\n%2 = cast %1 to=bool\noutput value \"y\" %2", .no_grad = true},
};

// ---- the table ----------------------------------------------------------------------------------------------------------
// One eval and one infer function an opcode: zg_eval does not say which op it serves.
#define ZG_SCALAR(NAME, name, arity, expr) \
  static inline zg_status eval_##name(zg_eval *x) { return eval_map(x, ZG_S_##NAME); }
#include "graph/scalar.def"
#undef ZG_SCALAR

// What the rows say: element types taken, bool result or not.
typedef struct { int takes; bool gives_bool; } map_rule;
static const map_rule rules[ZG_N_SCALARS];
static zg_status infer_by_rule(zg_infer *x) {
  const zg_scalar s = x->op->scalar;
  return infer_map(x, (uint32_t)zg_scalar_arity(s), rules[s].takes, rules[s].gives_bool);
}

#define OP(NAME, nm, more, ...) \
  [ZG_S_##NAME] = {.name = #nm, .traits = ZG_CORE | ZG_ELEMENTWISE | (more), .n_out = 1, .scalar = ZG_S_##NAME, \
                   .infer = infer_by_rule, .eval = eval_##nm, ZG_CASES(nm##_cases), __VA_ARGS__}
#define DIFF(NAME, nm) OP(NAME, nm, 0, .grad = grad_##nm)
#define FLAT(NAME, nm) OP(NAME, nm, ZG_NO_GRAD)

static const zg_op maps[ZG_N_SCALARS] = {
    DIFF(NEG, neg), DIFF(ABS, abs), FLAT(SIGN, sign), DIFF(SQRT, sqrt), DIFF(RSQRT, rsqrt), DIFF(RECIP, recip),
    DIFF(EXP, exp), DIFF(LOG, log), DIFF(LOG1P, log1p), DIFF(SIN, sin), DIFF(COS, cos), DIFF(TAN, tan),
    DIFF(ASIN, asin), DIFF(ACOS, acos), DIFF(ATAN, atan), DIFF(SINH, sinh), DIFF(COSH, cosh), DIFF(TANH, tanh),
    DIFF(ASINH, asinh), DIFF(ACOSH, acosh), DIFF(ATANH, atanh), DIFF(ERF, erf),
    FLAT(FLOOR, floor), FLAT(CEIL, ceil), FLAT(ROUND, round), FLAT(IS_NAN, is_nan), FLAT(IS_INF, is_inf),
    FLAT(NOT, not), FLAT(BIT_NOT, bit_not), DIFF(RELU, relu), DIFF(SIGMOID, sigmoid), DIFF(SOFTPLUS, softplus),
    DIFF(SILU, silu), OP(SILU_D, silu_d, 0), DIFF(GELU, gelu), OP(GELU_D, gelu_d, 0), DIFF(GELU_TANH, gelu_tanh),
    OP(GELU_TANH_D, gelu_tanh_d, 0), DIFF(ADD, add), DIFF(SUB, sub), DIFF(MUL, mul), DIFF(DIV, div),
    OP(MOD, mod, 0, .grad = grad_mod), OP(FMOD, fmod, 0, .grad = grad_mod), DIFF(POW, pow), DIFF(ATAN2, atan2),
    DIFF(MAX, max), DIFF(MIN, min), FLAT(EQ, eq), FLAT(NE, ne), FLAT(LT, lt), FLAT(LE, le),
    FLAT(AND, and), FLAT(OR, or), FLAT(XOR, xor), FLAT(BIT_AND, bit_and), FLAT(BIT_OR, bit_or),
    FLAT(BIT_XOR, bit_xor), FLAT(SHL, shl), FLAT(SHR, shr), DIFF(CLIP, clip), DIFF(FMA, fma),
};

#define FLOATS(NAME) [ZG_S_##NAME] = {TAKES_FLOAT, false}
#define NUMBERS(NAME) [ZG_S_##NAME] = {TAKES_NUM, false}
static const map_rule rules[ZG_N_SCALARS] = {
    NUMBERS(NEG), NUMBERS(ABS), NUMBERS(SIGN), FLOATS(SQRT), FLOATS(RSQRT), FLOATS(RECIP), FLOATS(EXP), FLOATS(LOG),
    FLOATS(LOG1P), FLOATS(SIN), FLOATS(COS), FLOATS(TAN), FLOATS(ASIN), FLOATS(ACOS), FLOATS(ATAN), FLOATS(SINH),
    FLOATS(COSH), FLOATS(TANH), FLOATS(ASINH), FLOATS(ACOSH), FLOATS(ATANH), FLOATS(ERF), NUMBERS(FLOOR), NUMBERS(CEIL),
    NUMBERS(ROUND), [ZG_S_IS_NAN] = {TAKES_FLOAT, true}, [ZG_S_IS_INF] = {TAKES_FLOAT, true},
    [ZG_S_NOT] = {TAKES_BOOL, true}, [ZG_S_BIT_NOT] = {TAKES_INT, false}, NUMBERS(RELU), FLOATS(SIGMOID), FLOATS(SOFTPLUS),
    FLOATS(SILU), FLOATS(SILU_D), FLOATS(GELU), FLOATS(GELU_D), FLOATS(GELU_TANH), FLOATS(GELU_TANH_D), NUMBERS(ADD),
    NUMBERS(SUB), NUMBERS(MUL), NUMBERS(DIV), NUMBERS(MOD), NUMBERS(FMOD), NUMBERS(POW), FLOATS(ATAN2), NUMBERS(MAX),
    NUMBERS(MIN), [ZG_S_EQ] = {TAKES_ANY, true}, [ZG_S_NE] = {TAKES_ANY, true}, [ZG_S_LT] = {TAKES_ANY, true},
    [ZG_S_LE] = {TAKES_ANY, true}, [ZG_S_AND] = {TAKES_BOOL, true}, [ZG_S_OR] = {TAKES_BOOL, true},
    [ZG_S_XOR] = {TAKES_BOOL, true}, [ZG_S_BIT_AND] = {TAKES_BITS, false}, [ZG_S_BIT_OR] = {TAKES_BITS, false},
    [ZG_S_BIT_XOR] = {TAKES_BITS, false}, [ZG_S_SHL] = {TAKES_INT, false}, [ZG_S_SHR] = {TAKES_INT, false}, NUMBERS(CLIP),
    NUMBERS(FMA),
};

const zg_op zg_op_where = {.name = "where", .traits = ZG_CORE | ZG_ELEMENTWISE, .n_out = 1, .infer = infer_where,
                           .eval = eval_select, .grad = grad_where, ZG_CASES(where_cases)};
static const zg_attr_field cast_fields[] = {ZG_FIELD(DTYPE, zg_cast_attr, to, -1)};
const zg_op zg_op_cast = {.name = "cast", .traits = ZG_CORE | ZG_ELEMENTWISE, ZG_ATTRS(zg_cast_attr, cast_fields), .n_out = 1,
                          .infer = infer_cast, .eval = eval_cast, .grad = grad_cast, ZG_CASES(cast_cases)};

const zg_op *zg_map_op(zg_scalar s) {
  if (s == ZG_S_WHERE) return &zg_op_where;
  ZG_ASSERT(s > ZG_S_NONE && s < ZG_N_SCALARS && maps[s].name);
  return &maps[s];
}

#define ZG_SCALAR(NAME, name, arity, expr) ZG_S_##NAME == ZG_S_WHERE ? &zg_op_where : &maps[ZG_S_##NAME],
static const zg_op *const map_ops[] = {
#include "graph/scalar.def"
    &zg_op_cast,
};
#undef ZG_SCALAR

const zg_family zg_family_map = {.name = "map", .ops = map_ops, .n_ops = ZG_COUNT(map_ops)};
