// Op family: activations that are no scalar opcode of their own. Each is a formula of maps at import; a fused
// loop computes it in one pass. Kinks are PyTorch's: where(0 < x, ...) takes the left branch at 0, clip lets
// gradients through at its bounds. An exponential stands under where() only on the branch that is taken: exp
// of a large x times a zero gradient would be NaN.
#include <math.h>
#include <strings.h>
#include "graph/op/import_priv.h"

// ---- formulas ---------------------------------------------------------------------------------------------
static zg_val positive(zg_builder *b, zg_val x) { return zg_b_map2(b, ZG_S_LT, zg_b_like(b, x, 0), x); }
static zg_val clip(zg_builder *b, zg_val x, double lo, double hi) {
  const zg_val in[] = {x, zg_b_like(b, x, lo), zg_b_like(b, x, hi)};
  return zg_emit1(b, zg_map_op(ZG_S_CLIP), NULL, in, 3);
}
// x > 0 ? x : scale * (exp(x / slope) - 1)
static zg_val elu(zg_builder *b, zg_val x, double scale, double slope) {
  const zg_val p = positive(b, x), low = zg_b_where(b, p, zg_b_like(b, x, 0), x);
  const zg_val e = zg_b_map1(b, ZG_S_EXP, slope == 1 ? low : zg_mul_k(b, low, 1 / slope));
  return zg_b_where(b, p, x, zg_mul_k(b, zg_add_k(b, e, -1), scale));
}
static zg_val leaky_relu(zg_builder *b, zg_val x, double alpha) {
  return zg_b_where(b, positive(b, x), x, zg_mul_k(b, x, alpha));
}
static zg_val thresholded_relu(zg_builder *b, zg_val x, double alpha) {
  return zg_b_where(b, zg_b_map2(b, ZG_S_LT, zg_b_like(b, x, alpha), x), x, zg_b_like(b, x, 0));
}
static zg_val hard_sigmoid(zg_builder *b, zg_val x, double alpha, double beta) {
  return clip(b, zg_add_k(b, zg_mul_k(b, x, alpha), beta), 0, 1);
}
static zg_val softsign(zg_builder *b, zg_val x) {
  return zg_div(b, x, zg_add_k(b, zg_b_map1(b, ZG_S_ABS, x), 1));
}
static zg_val affine(zg_builder *b, zg_val x, double alpha, double beta) {
  return zg_add_k(b, zg_mul_k(b, x, alpha), beta);
}
static zg_val scaled_tanh(zg_builder *b, zg_val x, double alpha, double beta) {
  return zg_mul_k(b, zg_b_map1(b, ZG_S_TANH, zg_mul_k(b, x, beta)), alpha);
}
static zg_val quick_gelu(zg_builder *b, zg_val x, double alpha) {
  return zg_mul(b, x, zg_b_map1(b, ZG_S_SIGMOID, zg_mul_k(b, x, alpha)));
}

// ---- by name: recurrent ops, fused ops --------------------------------------------------------------------
typedef struct {
  const char *name;
  zg_scalar scalar;                                                   // plain map, or
  zg_val (*two)(zg_builder *b, zg_val x, double alpha, double beta);  // with alpha and beta, or
  zg_val (*one)(zg_builder *b, zg_val x, double alpha);               // with alpha, or
  zg_val (*none)(zg_builder *b, zg_val x);
  double alpha, beta;  // defaults
} named;
static zg_val elu1(zg_builder *b, zg_val x, double alpha) { return elu(b, x, alpha, 1); }
static const named activations[] = {
    {.name = "Sigmoid", .scalar = ZG_S_SIGMOID},
    {.name = "Tanh", .scalar = ZG_S_TANH},
    {.name = "Relu", .scalar = ZG_S_RELU},
    {.name = "Softplus", .scalar = ZG_S_SOFTPLUS},
    {.name = "Softsign", .none = softsign},
    {.name = "LeakyRelu", .one = leaky_relu, .alpha = 0.01},
    {.name = "ThresholdedRelu", .one = thresholded_relu, .alpha = 1},
    {.name = "Elu", .one = elu1, .alpha = 1},
    {.name = "Affine", .two = affine, .alpha = 1, .beta = 0},
    {.name = "ScaledTanh", .two = scaled_tanh, .alpha = 1, .beta = 1},
    {.name = "HardSigmoid", .two = hard_sigmoid, .alpha = 0.2, .beta = 0.5},
};
static const named *find(const char *name) {
  for (size_t i = 0; i < ZG_COUNT(activations); i++)
    if (!strcasecmp(activations[i].name, name)) return &activations[i];
  return NULL;
}

bool zg__activation(zg_builder *b, const char *name, double alpha, double beta, zg_val x, zg_val *out) {
  const named *a = find(name);
  if (!a) return false;
  *out = a->two    ? a->two(b, x, alpha, beta)
         : a->one  ? a->one(b, x, alpha)
         : a->none ? a->none(b, x)
                   : zg_b_map1(b, a->scalar, x);
  return true;
}

void zg__activation_params(const char *name, bool *has_alpha, bool *has_beta, double *alpha, double *beta) {
  const named *a = find(name);
  *has_alpha = a && (a->one || a->two);
  *has_beta = a && a->two;
  *alpha = a ? a->alpha : 0;
  *beta = a ? a->beta : 0;
}

// ---- import -----------------------------------------------------------------------------------------------
static zg_status want_float(const zg_onnx_node *n) {
  const zg_type *t = zg_b_type(n->b, zg_onnx_in(n, 0));
  if (!zg_is(zg_onnx_in(n, 0))) return zg_onnx_error(n, ZG_INVALID, "input 0 is missing");
  if (zg_dtype_is_float(t->dtype)) return NULL;
  return zg_onnx_error(n, ZG_UNSUPPORTED, "input 0 is %s, want a float type", zg_type_text(t));
}

static zg_status import_named(
    zg_onnx_node *n) {  // the ONNX defaults of LeakyRelu, Elu, ... equal those of the table
  ZG_TRY(want_float(n));
  const named *a = find(n->op_type);
  ZG_ASSERT(a);
  zg__activation(n->b, n->op_type, zg_onnx_float(n, "alpha", a->alpha), zg_onnx_float(n, "beta", a->beta),
                 zg_onnx_in(n, 0), &n->out[0]);
  return NULL;
}

static zg_status import_prelu(zg_onnx_node *n) {
  ZG_TRY(want_float(n));
  const zg_val x = zg_onnx_in(n, 0), slope = zg_onnx_in(n, 1);
  n->out[0] = zg_b_where(n->b, positive(n->b, x), x, zg_mul(n->b, x, slope));
  if (!zg_builder_failed(n->b) && !zg_same_shape(zg_b_type(n->b, n->out[0]), zg_b_type(n->b, x)))
    return zg_onnx_error(n, ZG_INVALID, "slope %s does not broadcast to input 0, %s",
                         zg_type_text(zg_b_type(n->b, slope)), zg_type_text(zg_b_type(n->b, x)));
  return NULL;
}

static zg_status import_selu(zg_onnx_node *n) {
  ZG_TRY(want_float(n));
  const double alpha = zg_onnx_float(n, "alpha", 1.67326319217681884765625);
  n->out[0] = zg_mul_k(n->b, elu(n->b, zg_onnx_in(n, 0), alpha, 1),
                       zg_onnx_float(n, "gamma", 1.05070102214813232421875));
  return NULL;
}

static zg_status import_celu(zg_onnx_node *n) {
  ZG_TRY(want_float(n));
  const double alpha = zg_onnx_float(n, "alpha", 1);
  if (alpha == 0) return zg_onnx_error(n, ZG_INVALID, "attribute alpha is 0");
  n->out[0] = elu(n->b, zg_onnx_in(n, 0), alpha, alpha);
  return NULL;
}

static zg_status import_hard_swish(zg_onnx_node *n) {
  ZG_TRY(want_float(n));
  n->out[0] = zg_mul(n->b, zg_onnx_in(n, 0), hard_sigmoid(n->b, zg_onnx_in(n, 0), 1.0 / 6, 0.5));
  return NULL;
}

static zg_status import_mish(zg_onnx_node *n) {
  ZG_TRY(want_float(n));
  const zg_val x = zg_onnx_in(n, 0);
  n->out[0] = zg_mul(n->b, x, zg_b_map1(n->b, ZG_S_TANH, zg_b_map1(n->b, ZG_S_SOFTPLUS, x)));
  return NULL;
}

static zg_status import_shrink(zg_onnx_node *n) {  // also for integers
  zg_builder *b = n->b;
  const zg_val x = zg_onnx_in(n, 0);
  const double bias = zg_onnx_float(n, "bias", 0), lambd = zg_onnx_float(n, "lambd", 0.5);
  const zg_dtype t = zg_b_type(b, x)->dtype, in = zg_dtype_is_float(t) ? t : ZG_F64;
  const zg_val v = zg_b_cast(b, x, in);
  const zg_val low = zg_b_map2(b, ZG_S_LT, v, zg_b_like(b, v, -lambd)),
               high = zg_b_map2(b, ZG_S_LT, zg_b_like(b, v, lambd), v);
  const zg_val rest = zg_b_where(b, high, zg_add_k(b, v, -bias), zg_b_like(b, v, 0));
  n->out[0] = zg_b_cast(b, zg_b_where(b, low, zg_add_k(b, v, bias), rest), t);
  return NULL;
}

static zg_status import_quick_gelu(zg_onnx_node *n) {
  ZG_TRY(want_float(n));
  n->out[0] = quick_gelu(n->b, zg_onnx_in(n, 0), zg_onnx_float(n, "alpha", 1.70200002193450927734375));
  return NULL;
}

static zg_status import_swiglu(zg_onnx_node *n) {
  ZG_TRY(want_float(n));
  const double alpha = zg_onnx_float(n, "alpha", 1);
  const zg_val a = zg_onnx_in(n, 0);
  n->out[0] =
      zg_mul(n->b, alpha == 1 ? zg_b_map1(n->b, ZG_S_SILU, a) : quick_gelu(n->b, a, alpha), zg_onnx_in(n, 1));
  return NULL;
}

// com.microsoft FastGelu (tanh form; bias optional) and BiasGelu (erf form).
static zg_status import_bias_gelu(zg_onnx_node *n) {
  ZG_TRY(want_float(n));
  zg_val x = zg_onnx_in(n, 0);
  if (zg_is(zg_onnx_in(n, 1))) x = zg_add(n->b, x, zg_onnx_in(n, 1));
  n->out[0] = zg_b_map1(n->b, !strcmp(n->op_type, "FastGelu") ? ZG_S_GELU_TANH : ZG_S_GELU, x);
  return NULL;
}

static const zg_onnx_row rows[] = {
    {"LeakyRelu", "", 1, 0, import_named, NULL, 0},
    {"Elu", "", 1, 0, import_named, NULL, 0},
    {"ThresholdedRelu", "", 1, 0, import_named, NULL, 0},
    {"HardSigmoid", "", 1, 0, import_named, NULL, 0},
    {"Softsign", "", 1, 0, import_named, NULL, 0},
    {"PRelu", "", 1, 0, import_prelu, NULL, 2, .weight_operands = 2},
    {"Selu", "", 1, 0, import_selu, NULL, 0},
    {"Celu", "", 12, 0, import_celu, NULL, 0},
    {"HardSwish", "", 14, 0, import_hard_swish, NULL, 0},
    {"Mish", "", 18, 0, import_mish, NULL, 0},
    {"Shrink", "", 9, 0, import_shrink, NULL, 0},
    {"SwiGLU", "", 28, 0, import_swiglu, NULL, 0},
    {"QuickGelu", "com.microsoft", 1, 0, import_quick_gelu, NULL, 0},
    {"FastGelu", "com.microsoft", 1, 0, import_bias_gelu, NULL, 2},
    {"BiasGelu", "com.microsoft", 1, 0, import_bias_gelu, NULL, 2},
};
const zg_family zg_family_activation = {.name = "activation", .onnx = rows, .n_onnx = ZG_COUNT(rows)};
