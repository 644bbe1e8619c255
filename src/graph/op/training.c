// Op family: the optimizers of ai.onnx.preview.training, for graphs that carry their own update. zgraph's training loop has its own
// (pass/attach_optimizer.c). Inputs: learning rate R, update count T, then the tensors X, then their gradients G, then the states;
// results: the new X, then the new states.
#include "graph/op/op_priv.h"

typedef struct {
  zg_onnx_node *n;
  zg_val rate, count;   // scalars; count: i64
  double regular;       // norm_coefficient
} update;

static zg_val scaled(const update *u, zg_val rate, zg_val x) {
  return zg_mul(u->n->b, x, zg_b_cast(u->n->b, rate, zg_b_type(u->n->b, x)->dtype));
}

static zg_val regularised(const update *u, zg_val x, zg_val g) {
  return u->regular == 0 ? g : zg_add(u->n->b, g, zg_mul_k(u->n->b, x, u->regular));
}

// first ? a : b, in the rate's type
static zg_val unless_started(const update *u, zg_val first, zg_val later) {
  zg_builder *b = u->n->b;
  return zg_b_where(b, zg_b_map2(b, ZG_S_LE, u->count, zg_b_like(b, u->count, 0)), first, later);
}

static zg_val float_count(const update *u) { return zg_b_cast(u->n->b, u->count, zg_b_type(u->n->b, u->rate)->dtype); }

static void adagrad(const update *u, const zg_val *in, zg_val *out) {
  zg_builder *b = u->n->b;
  const zg_val g = regularised(u, in[0], in[1]), h = zg_add(b, in[2], zg_mul(b, g, g));
  const zg_val rate = zg_div(b, u->rate, zg_add_k(b, zg_mul_k(b, float_count(u), zg_onnx_float(u->n, "decay_factor", 0)), 1));
  const zg_val root = zg_add_k(b, zg_b_map1(b, ZG_S_SQRT, h), zg_onnx_float(u->n, "epsilon", 0));
  out[0] = zg_sub(b, in[0], zg_div(b, scaled(u, rate, g), root));
  out[1] = h;
}

static void adam(const update *u, const zg_val *in, zg_val *out) {
  zg_builder *b = u->n->b;
  const double alpha = zg_onnx_float(u->n, "alpha", 0.9), beta = zg_onnx_float(u->n, "beta", 0.999);
  // without updates so far there is no correction; its formula is then taken at 1, where it has a derivative
  const zg_val one = zg_b_like(b, u->rate, 1), t = unless_started(u, one, float_count(u)), g = regularised(u, in[0], in[1]);
  const zg_val v = zg_add(b, zg_mul_k(b, in[2], alpha), zg_mul_k(b, g, 1 - alpha));
  const zg_val h = zg_add(b, zg_mul_k(b, in[3], beta), zg_mul_k(b, zg_mul(b, g, g), 1 - beta));
  const zg_val v_rest = zg_add_k(b, zg_neg(b, zg_b_map2(b, ZG_S_POW, zg_b_like(b, t, alpha), t)), 1);
  const zg_val h_rest = zg_add_k(b, zg_neg(b, zg_b_map2(b, ZG_S_POW, zg_b_like(b, t, beta), t)), 1);
  const zg_val corrected = zg_div(b, zg_mul(b, u->rate, zg_b_map1(b, ZG_S_SQRT, h_rest)), v_rest);
  const zg_val root = zg_add_k(b, zg_b_map1(b, ZG_S_SQRT, h), zg_onnx_float(u->n, "epsilon", 0));
  const zg_val x = zg_sub(b, in[0], scaled(u, unless_started(u, u->rate, corrected), zg_div(b, v, root)));
  out[0] = zg_mul_k(b, x, 1 - zg_onnx_float(u->n, "norm_coefficient_post", 0));
  out[1] = v;
  out[2] = h;
}

static void momentum(const update *u, const zg_val *in, zg_val *out) {
  zg_builder *b = u->n->b;
  const double alpha = zg_onnx_float(u->n, "alpha", 0);
  const bool nesterov = !strcmp(zg_onnx_str(u->n, "mode", "standard"), "nesterov");
  const zg_val g = regularised(u, in[0], in[1]);
  const zg_val beta = unless_started(u, zg_b_like(b, u->rate, 1), zg_b_like(b, u->rate, zg_onnx_float(u->n, "beta", 0)));
  const zg_val v = zg_add(b, zg_mul_k(b, in[2], alpha), scaled(u, beta, g));
  out[0] = zg_sub(b, in[0], scaled(u, u->rate, nesterov ? zg_add(b, g, zg_mul_k(b, v, alpha)) : v));
  out[1] = v;
}

// Applies `one` to each tensor: it has n_states states.
static zg_status each(zg_onnx_node *n, uint32_t n_states, void (*one)(const update *u, const zg_val *in, zg_val *out)) {
  const uint32_t per = 2 + n_states, count = n->n_in > 2 ? (n->n_in - 2) / per : 0;
  zg_val in[4], out[3];
  if (!count || n->n_in != 2 + count * per)
    return zg_onnx_error(n, ZG_INVALID, "%u operands; want 2 and %u for each tensor", n->n_in, per);
  ZG_TRY(zg__need(n, n->n_in));
  const update u = {.n = n, .rate = zg_b_reshape(n->b, n->in[0], NULL, 0),
                    .count = zg_b_cast(n->b, zg_b_reshape(n->b, n->in[1], NULL, 0), ZG_I64),
                    .regular = zg_onnx_float(n, "norm_coefficient", 0)};
  for (uint32_t i = 0; i < count; i++) {
    for (uint32_t k = 0; k < per; k++) in[k] = n->in[2 + k * count + i];
    one(&u, in, out);
    for (uint32_t k = 0; k <= n_states; k++)
      if (k * count + i < n->n_out) n->out[k * count + i] = out[k];
  }
  return NULL;
}

static zg_status import_adagrad(zg_onnx_node *n) { return each(n, 1, adagrad); }
static zg_status import_adam(zg_onnx_node *n) { return each(n, 2, adam); }
static zg_status import_momentum(zg_onnx_node *n) { return each(n, 1, momentum); }

#define DOMAIN "ai.onnx.preview.training"
static const zg_onnx_row rows[] = {
    {"Adagrad", DOMAIN, 1, 0, import_adagrad, NULL, 0},
    {"Adam", DOMAIN, 1, 0, import_adam, NULL, 0},
    {"Momentum", DOMAIN, 1, 0, import_momentum, NULL, 0},
};
const zg_family zg_family_training = {.name = "training", .onnx = rows, .n_onnx = ZG_COUNT(rows)};
