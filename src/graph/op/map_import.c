// ONNX's elementwise ops, as scalar maps. Opset 7 and newer, where operands broadcast as in numpy.
#include "graph/core.h"

static zg_status need(const zg_onnx_node *n, uint32_t count) {
  for (uint32_t i = 0; i < count; i++)
    if (!zg_is(zg_onnx_in(n, i))) return zg_onnx_error(n, ZG_INVALID, "operand %u is missing", i);
  return NULL;
}

static zg_dtype dtype_of(const zg_onnx_node *n, zg_val v) { return zg_b_type(n->b, v)->dtype; }

// ---- one opcode ---------------------------------------------------------------------------------------------------------
typedef struct { const char *onnx; zg_scalar scalar; bool swapped; } opcode_name;
static const opcode_name opcode_names[] = {
    {"Add", ZG_S_ADD, 0},         {"Sub", ZG_S_SUB, 0},       {"Mul", ZG_S_MUL, 0},       {"Div", ZG_S_DIV, 0},
    {"Neg", ZG_S_NEG, 0},         {"Abs", ZG_S_ABS, 0},       {"Sqrt", ZG_S_SQRT, 0},     {"Reciprocal", ZG_S_RECIP, 0},
    {"Exp", ZG_S_EXP, 0},         {"Log", ZG_S_LOG, 0},       {"Sin", ZG_S_SIN, 0},       {"Cos", ZG_S_COS, 0},
    {"Tan", ZG_S_TAN, 0},         {"Asin", ZG_S_ASIN, 0},     {"Acos", ZG_S_ACOS, 0},     {"Atan", ZG_S_ATAN, 0},
    {"Sinh", ZG_S_SINH, 0},       {"Cosh", ZG_S_COSH, 0},     {"Tanh", ZG_S_TANH, 0},     {"Asinh", ZG_S_ASINH, 0},
    {"Acosh", ZG_S_ACOSH, 0},     {"Atanh", ZG_S_ATANH, 0},   {"Erf", ZG_S_ERF, 0},       {"Sigmoid", ZG_S_SIGMOID, 0},
    {"Relu", ZG_S_RELU, 0},       {"Softplus", ZG_S_SOFTPLUS, 0}, {"Floor", ZG_S_FLOOR, 0}, {"Ceil", ZG_S_CEIL, 0},
    {"Round", ZG_S_ROUND, 0},     {"Sign", ZG_S_SIGN, 0},     {"IsNaN", ZG_S_IS_NAN, 0},  {"Not", ZG_S_NOT, 0},
    {"And", ZG_S_AND, 0},         {"Or", ZG_S_OR, 0},         {"Xor", ZG_S_XOR, 0},       {"Equal", ZG_S_EQ, 0},
    {"Less", ZG_S_LT, 0},         {"LessOrEqual", ZG_S_LE, 0}, {"Greater", ZG_S_LT, 1},   {"GreaterOrEqual", ZG_S_LE, 1},
    {"BitwiseAnd", ZG_S_BIT_AND, 0}, {"BitwiseOr", ZG_S_BIT_OR, 0}, {"BitwiseXor", ZG_S_BIT_XOR, 0},
    {"BitwiseNot", ZG_S_BIT_NOT, 0},
};

static zg_status import_opcode(zg_onnx_node *n) {
  for (uint32_t i = 0; i < ZG_COUNT(opcode_names); i++) {
    const opcode_name *o = &opcode_names[i];
    if (strcmp(o->onnx, n->op_type) != 0) continue;
    const uint32_t arity = (uint32_t)zg_scalar_arity(o->scalar);
    ZG_TRY(need(n, arity));
    if (arity == 1) {
      n->out[0] = zg_b_map1(n->b, o->scalar, n->in[0]);
    } else {
      n->out[0] = zg_b_map2(n->b, o->scalar, n->in[o->swapped], n->in[!o->swapped]);
    }
    return NULL;
  }
  return zg_onnx_error(n, ZG_INTERNAL, "row without opcode");
}

// ---- several opcodes, or operands to adapt ------------------------------------------------------------------------------
static zg_status import_identity(zg_onnx_node *n) {
  ZG_TRY(need(n, 1));
  n->out[0] = n->in[0];
  return NULL;
}

static zg_status import_mod(zg_onnx_node *n) {
  ZG_TRY(need(n, 2));
  n->out[0] = zg_b_map2(n->b, zg_onnx_int(n, "fmod", 0) ? ZG_S_FMOD : ZG_S_MOD, n->in[0], n->in[1]);
  return NULL;
}

// Base and exponent may differ in type; the result has the base's. Small constant exponents become products, which are
// faster and have simpler gradients.
static zg_status import_pow(zg_onnx_node *n) {
  ZG_TRY(need(n, 2));
  zg_builder *b = n->b;
  const zg_val x = n->in[0];
  zg_val y = n->in[1];
  const zg_type tx = *zg_b_type(b, x);
  zg_type t = tx;
  ZG_TRY(zg_type_broadcast(&tx, zg_b_type(b, y), &t));
  double k;
  if (zg_dtype_is_float(tx.dtype) && zg_same_shape(&t, &tx) && zg_b_const_scalar(b, y, &k)) {
    if (k == 1) n->out[0] = x;
    if (k == 2) n->out[0] = zg_mul(b, x, x);
    if (k == 3) n->out[0] = zg_mul(b, zg_mul(b, x, x), x);
    if (k == 0.5) n->out[0] = zg_b_map1(b, ZG_S_SQRT, x);
    if (k == -0.5) n->out[0] = zg_b_map1(b, ZG_S_RSQRT, x);
    if (k == -1) n->out[0] = zg_b_map1(b, ZG_S_RECIP, x);
    if (zg_is(n->out[0])) return NULL;
  }
  const zg_dtype ty = zg_b_type(b, y)->dtype;
  if (zg_dtype_is_int(tx.dtype) && zg_dtype_is_float(ty)) {   // an integer base with a real exponent is computed as real
    n->out[0] = zg_b_cast(b, zg_b_map2(b, ZG_S_POW, zg_b_cast(b, x, ty), y), tx.dtype);
    return NULL;
  }
  y = zg_b_cast(b, y, tx.dtype);
  n->out[0] = zg_b_map2(b, ZG_S_POW, x, y);
  return NULL;
}

// Max Min Sum Mean: any number of operands, taken pairwise from the left.
static zg_status import_variadic(zg_onnx_node *n) {
  static const struct { const char *onnx; zg_scalar scalar; } names[] = {
      {"Max", ZG_S_MAX}, {"Min", ZG_S_MIN}, {"Sum", ZG_S_ADD}, {"Mean", ZG_S_ADD}};
  zg_scalar s = ZG_S_ADD;
  for (uint32_t i = 0; i < ZG_COUNT(names); i++)
    if (strcmp(names[i].onnx, n->op_type) == 0) s = names[i].scalar;
  if (n->n_in == 0) return zg_onnx_error(n, ZG_INVALID, "has no operands, takes at least one");
  ZG_TRY(need(n, n->n_in));
  zg_val v = n->in[0];
  for (uint32_t i = 1; i < n->n_in; i++) v = zg_b_map2(n->b, s, v, n->in[i]);
  if (strcmp(n->op_type, "Mean") == 0 && zg_is(v)) v = zg_div(n->b, v, zg_b_like(n->b, v, n->n_in));
  n->out[0] = v;
  return NULL;
}

static zg_status import_where(zg_onnx_node *n) {
  ZG_TRY(need(n, 3));
  n->out[0] = zg_b_where(n->b, n->in[0], n->in[1], n->in[2]);
  return NULL;
}

static zg_status import_cast(zg_onnx_node *n) {
  ZG_TRY(need(n, 1));
  zg_dtype to;
  if (!zg_onnx_has(n, "to")) return zg_onnx_error(n, ZG_INVALID, "the attribute \"to\" is missing");
  zg_status s = zg_onnx_dtype(zg_onnx_int(n, "to", 0), &to);
  if (s) return zg_status_prefix(s, "node \"%s\" (%s): ", n->name ? n->name : "", n->op_type);
  n->out[0] = zg_b_cast(n->b, n->in[0], to);
  return NULL;
}

static zg_status import_cast_like(zg_onnx_node *n) {
  ZG_TRY(need(n, 2));
  n->out[0] = zg_b_cast(n->b, n->in[0], dtype_of(n, n->in[1]));
  return NULL;
}

static zg_status import_is_inf(zg_onnx_node *n) {
  ZG_TRY(need(n, 1));
  zg_builder *b = n->b;
  const zg_val x = n->in[0], zero = zg_b_like(b, x, 0), inf = zg_b_map1(b, ZG_S_IS_INF, x);
  const bool neg = zg_onnx_int(n, "detect_negative", 1), pos = zg_onnx_int(n, "detect_positive", 1);
  if (neg && pos) {
    n->out[0] = inf;
  } else if (neg || pos) {
    const zg_val side = neg ? zg_b_map2(b, ZG_S_LT, x, zero) : zg_b_map2(b, ZG_S_LT, zero, x);
    n->out[0] = zg_b_map2(b, ZG_S_AND, inf, side);
  } else {
    zg_type t = *zg_b_type(b, x);
    t.dtype = ZG_BOOL;
    n->out[0] = zg_b_fill(b, &t, 0);
  }
  return NULL;
}

static zg_val bounded(zg_builder *b, zg_val x, zg_val lo, zg_val hi) {
  if (zg_is(lo) && zg_is(hi)) {
    const zg_val in[3] = {x, lo, hi};
    return zg_emit1(b, zg_map_op(ZG_S_CLIP), NULL, in, 3);
  }
  if (zg_is(lo)) return zg_b_map2(b, ZG_S_MAX, x, lo);
  return zg_is(hi) ? zg_b_map2(b, ZG_S_MIN, x, hi) : x;
}

// One bound alone would be a max or min, whose gradient at the bound is a half; clip's is one: the other bound is infinite.
static zg_status import_clip(zg_onnx_node *n) {
  ZG_TRY(need(n, 1));
  zg_builder *b = n->b;
  const zg_val x = n->in[0];
  zg_val lo = zg_onnx_in(n, 1), hi = zg_onnx_in(n, 2);
  if (n->opset < 11) {
    lo = zg_onnx_has(n, "min") ? zg_b_like(b, x, zg_onnx_float(n, "min", 0)) : (zg_val){0};
    hi = zg_onnx_has(n, "max") ? zg_b_like(b, x, zg_onnx_float(n, "max", 0)) : (zg_val){0};
  }
  if (zg_dtype_is_float(dtype_of(n, x)) && zg_is(lo) != zg_is(hi)) {
    if (!zg_is(lo)) lo = zg_b_like(b, x, -__builtin_inf());
    if (!zg_is(hi)) hi = zg_b_like(b, x, __builtin_inf());
  }
  if (zg_is(lo)) lo = zg_b_reshape(b, lo, NULL, 0);
  if (zg_is(hi)) hi = zg_b_reshape(b, hi, NULL, 0);
  n->out[0] = bounded(b, x, lo, hi);
  return NULL;
}

// Right shifts of signed integers keep the sign (the opcode shifts zeros in): of the complement, for negative ones.
static zg_val shift_signed(zg_builder *b, zg_val x, zg_val y) {
  const zg_val negative = zg_b_map2(b, ZG_S_LT, x, zg_b_like(b, x, 0));
  const zg_val down = zg_b_map1(b, ZG_S_BIT_NOT, zg_b_map2(b, ZG_S_SHR, zg_b_map1(b, ZG_S_BIT_NOT, x), y));
  return zg_b_where(b, negative, down, zg_b_map2(b, ZG_S_SHR, x, y));
}

static zg_status import_bit_shift(zg_onnx_node *n) {
  ZG_TRY(need(n, 2));
  const char *dir = zg_onnx_str(n, "direction", "");
  const bool left = strcmp(dir, "LEFT") == 0;
  if (!left && strcmp(dir, "RIGHT") != 0) return zg_onnx_error(n, ZG_INVALID, "direction \"%s\" is neither LEFT nor RIGHT", dir);
  const bool is_signed = zg_dtype_is_signed(zg_b_type(n->b, n->in[0])->dtype);
  if (!left && is_signed) n->out[0] = shift_signed(n->b, n->in[0], n->in[1]);
  else n->out[0] = zg_b_map2(n->b, left ? ZG_S_SHL : ZG_S_SHR, n->in[0], n->in[1]);
  return NULL;
}

static zg_status import_gelu(zg_onnx_node *n) {
  ZG_TRY(need(n, 1));
  const char *how = zg_onnx_str(n, "approximate", "none");
  const bool tanh_form = strcmp(how, "tanh") == 0;
  if (!tanh_form && strcmp(how, "none") != 0) return zg_onnx_error(n, ZG_UNSUPPORTED, "approximate \"%s\" is neither none nor tanh", how);
  n->out[0] = zg_b_map1(n->b, tanh_form ? ZG_S_GELU_TANH : ZG_S_GELU, n->in[0]);
  return NULL;
}

// onnxruntime's FastGelu: the tanh form of x + bias.
static zg_status import_fast_gelu(zg_onnx_node *n) {
  ZG_TRY(need(n, 1));
  const zg_val bias = zg_onnx_in(n, 1), x = zg_is(bias) ? zg_add(n->b, n->in[0], bias) : n->in[0];
  n->out[0] = zg_b_map1(n->b, ZG_S_GELU_TANH, x);
  return NULL;
}

// 1 - erf(x): no ONNX op, but tf2onnx hands TensorFlow's Erfc on, which is how Keras 3 writes gelu.
static zg_status import_erfc(zg_onnx_node *n) {
  ZG_TRY(need(n, 1));
  n->out[0] = zg_add_k(n->b, zg_neg(n->b, zg_b_map1(n->b, ZG_S_ERF, n->in[0])), 1);
  return NULL;
}

static zg_status swish(zg_onnx_node *n, double alpha) {
  ZG_TRY(need(n, 1));
  const zg_val x = n->in[0];
  n->out[0] = alpha == 1 ? zg_b_map1(n->b, ZG_S_SILU, x)
                         : zg_mul(n->b, x, zg_b_map1(n->b, ZG_S_SIGMOID, zg_mul_k(n->b, x, alpha)));
  return NULL;
}
static zg_status import_swish(zg_onnx_node *n) { return swish(n, zg_onnx_float(n, "alpha", 1)); }
static zg_status import_quick_gelu(zg_onnx_node *n) { return swish(n, zg_onnx_float(n, "alpha", 1.702)); }

// ---- rows ---------------------------------------------------------------------------------------------------------------
#define ROW(type, fn, params) {.op_type = type, .domain = "", .since = 1, .import = fn, .param_operands = (uint32_t)(params)}
#define STEP(type, fn) {.op_type = type, .domain = "", .since = 1, .import = fn, .no_gradient = true}
#define OPCODE(type, params) ROW(type, import_opcode, params)
enum { ALL = -1 };
static const zg_onnx_row rows[] = {
    OPCODE("Add", 3), OPCODE("Sub", 3), OPCODE("Mul", 3), OPCODE("Div", 3), OPCODE("Neg", 1), OPCODE("Abs", 1),
    OPCODE("Sqrt", 1), OPCODE("Reciprocal", 1), OPCODE("Exp", 1), OPCODE("Log", 1), OPCODE("Sin", 1), OPCODE("Cos", 1),
    OPCODE("Tan", 1), OPCODE("Asin", 1), OPCODE("Acos", 1), OPCODE("Atan", 1), OPCODE("Sinh", 1), OPCODE("Cosh", 1),
    OPCODE("Tanh", 1), OPCODE("Asinh", 1), OPCODE("Acosh", 1), OPCODE("Atanh", 1), OPCODE("Erf", 1), OPCODE("Sigmoid", 1),
    OPCODE("Relu", 1), OPCODE("Softplus", 1), STEP("Floor", import_opcode), STEP("Ceil", import_opcode), STEP("Round", import_opcode), STEP("Sign", import_opcode),
    STEP("IsNaN", import_opcode), STEP("Not", import_opcode), STEP("And", import_opcode), STEP("Or", import_opcode), STEP("Xor", import_opcode), STEP("Equal", import_opcode),
    STEP("Less", import_opcode), STEP("LessOrEqual", import_opcode), STEP("Greater", import_opcode), STEP("GreaterOrEqual", import_opcode),
    STEP("BitwiseAnd", import_opcode), STEP("BitwiseOr", import_opcode), STEP("BitwiseXor", import_opcode), STEP("BitwiseNot", import_opcode),
    ROW("Identity", import_identity, 1), ROW("Mod", import_mod, 0), ROW("Pow", import_pow, 1),
    ROW("Max", import_variadic, ALL), ROW("Min", import_variadic, ALL), ROW("Sum", import_variadic, ALL),
    ROW("Mean", import_variadic, ALL), ROW("Where", import_where, 6), ROW("Cast", import_cast, 1),
    ROW("CastLike", import_cast_like, 1), STEP("IsInf", import_is_inf), ROW("Clip", import_clip, 1),
    STEP("BitShift", import_bit_shift), ROW("Gelu", import_gelu, 1), ROW("Swish", import_swish, 1),
    ROW("Erfc", import_erfc, 1),
    {.op_type = "Gelu", .domain = "com.microsoft", .since = 1, .import = import_gelu, .param_operands = 1},
    {.op_type = "FastGelu", .domain = "com.microsoft", .since = 1, .import = import_fast_gelu, .param_operands = 3},
    {.op_type = "QuickGelu", .domain = "com.microsoft", .since = 1, .import = import_quick_gelu, .param_operands = 1},
};
const zg_family zg_family_map_import = {.name = "map_import", .onnx = rows, .n_onnx = ZG_COUNT(rows)};
