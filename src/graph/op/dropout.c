// Op family: Dropout and the ops that draw random numbers. Numbers come from the core op `random`, whose
// counter has the step, the element and a stream in it, so every rank, stage and resumed run draws the same
// ones. The run's seed rules: a node's `seed` attribute is part of an inference-time graph and would repeat
// its numbers in every step.
#include "graph/op/import_priv.h"

// The stream of a new random node: its place in the graph, which no other random node has and every rank
// agrees on.
static int64_t next_stream(const zg_builder *b) { return (int64_t)zg_builder_graph(b)->nodes.n; }

static zg_val draw(zg_builder *b, const zg_type *t, zg_rand_kind kind, double lo, double hi) {
  zg_random_attr a = {.type = *t, .kind = kind, .stream = next_stream(b), .lo = lo, .hi = hi};
  return zg_emit1(b, &zg_op_random, &a, NULL, 0);
}

// Uniform in [0, 1) of t's shape; f32, so that 16-bit models get all the ratios.
static zg_val uniform01(zg_builder *b, const zg_type *t) {
  zg_type u = *t;
  u.dtype = ZG_F32;
  return draw(b, &u, ZG_RAND_UNIFORM, 0, 1);
}

// ---- Dropout ----------------------------------------------------------------------------------------------
// A node is active if dropout is on and the file means it to be: before opset 12 every Dropout is, later one
// says so with training_mode (an operand that the run decides counts as yes). A ratio from the configuration
// makes all of them active.
static bool is_active(const zg_onnx_node *n) {
  if (!n->dropout_on) return false;
  if (n->dropout_ratio >= 0 || n->opset < 12) return true;
  double mode = 0;
  const zg_val v = zg_onnx_in(n, 2);
  return zg_is(v) && (!zg_b_const_scalar(n->b, v, &mode) || mode != 0);
}

static zg_status read_ratio(const zg_onnx_node *n, double *ratio) {
  *ratio = n->opset < 12 ? zg_onnx_float(n, "ratio", 0.5) : 0.5;
  const zg_val v = n->opset < 12 ? (zg_val){0} : zg_onnx_in(n, 1);
  if (n->dropout_ratio >= 0) *ratio = n->dropout_ratio;
  else if (zg_is(v) && !zg_b_const_scalar(n->b, v, ratio))
    return zg_onnx_error(
        n, ZG_UNSUPPORTED,
        "input 1 (ratio) depends on the data; export it as a constant, or set `dropout:` to a ratio");
  if (!(*ratio >= 0 && *ratio <= 1)) return zg_onnx_error(n, ZG_INVALID, "ratio is %g, want 0 to 1", *ratio);
  return NULL;
}

static zg_status import_dropout(zg_onnx_node *n) {
  zg_builder *b = n->b;
  const zg_val x = zg_onnx_in(n, 0);
  const zg_type t = *zg_b_type(b, x);
  double ratio = 0;
  zg_val keep = {0};
  n->out[0] = x;
  if (is_active(n)) ZG_TRY(read_ratio(n, &ratio));
  if (ratio > 0) {
    keep = zg_b_map2(b, ZG_S_LE, zg_b_scalar(b, ZG_F32, ratio), uniform01(b, &t));  // u >= ratio
    const zg_val scaled = ratio < 1 ? zg_mul_k(b, x, 1 / (1 - ratio)) : x;
    n->out[0] = zg_b_where(b, keep, scaled, zg_b_like(b, x, 0));
  }
  if (n->n_out < 2 || !n->out_used[1]) return NULL;
  zg_type mask = t;
  mask.dtype = ZG_BOOL;
  if (!zg_is(keep)) keep = zg_b_fill(b, &mask, 1);
  n->out[1] = n->opset < 10 ? zg_b_cast(b, keep, t.dtype) : keep;
  return NULL;
}

// ---- RandomNormal, RandomUniform, their Like forms, Bernoulli ---------------------------------------------
static zg_status result_type(const zg_onnx_node *n, bool like, zg_type *t) {
  if (like) {
    *t = *zg_b_type(n->b, zg_onnx_in(n, 0));
  } else {
    zg_ints shape;
    if (!zg_onnx_ints(n, "shape", &shape) || shape.n > ZG_MAX_RANK)
      return zg_onnx_error(n, ZG_INVALID, "attribute shape is missing or has more than %d entries",
                           ZG_MAX_RANK);
    *t = zg_type_make(ZG_F32, (uint32_t)shape.n, shape.at);
  }
  if (zg_onnx_has(n, "dtype")) ZG_TRY(zg_onnx_dtype(zg_onnx_int(n, "dtype", 1), &t->dtype));
  return NULL;
}

static zg_status import_random(zg_onnx_node *n) {
  const bool like = strstr(n->op_type, "Like"), normal = !strncmp(n->op_type, "RandomNormal", 12);
  zg_type t;
  ZG_TRY(result_type(n, like, &t));
  if (!zg_dtype_is_float(t.dtype)) return zg_onnx_error(n, ZG_INVALID, "dtype must be a float type");
  if (normal)
    n->out[0] = draw(n->b, &t, ZG_RAND_NORMAL, zg_onnx_float(n, "mean", 0), zg_onnx_float(n, "scale", 1));
  else n->out[0] = draw(n->b, &t, ZG_RAND_UNIFORM, zg_onnx_float(n, "low", 0), zg_onnx_float(n, "high", 1));
  return NULL;
}

static zg_status import_bernoulli(zg_onnx_node *n) {
  zg_type t;
  ZG_TRY(result_type(n, true, &t));
  const zg_val u = uniform01(n->b, &t), p = zg_b_cast(n->b, zg_onnx_in(n, 0), ZG_F32);
  n->out[0] = zg_b_cast(n->b, zg_b_map2(n->b, ZG_S_LT, u, p), t.dtype);
  return NULL;
}

static const zg_onnx_row rows[] = {
    {"Dropout", "", 7, 0, import_dropout, NULL, 0},
    {"RandomNormal", "", 1, 0, import_random, NULL, 0, .no_gradient = true},
    {"RandomUniform", "", 1, 0, import_random, NULL, 0, .no_gradient = true},
    {"RandomNormalLike", "", 1, 0, import_random, NULL, 0, .no_gradient = true},
    {"RandomUniformLike", "", 1, 0, import_random, NULL, 0, .no_gradient = true},
    {"Bernoulli", "", 15, 0, import_bernoulli, NULL, 0, .no_gradient = true},
};
const zg_family zg_family_dropout = {.name = "dropout", .onnx = rows, .n_onnx = ZG_COUNT(rows)};
