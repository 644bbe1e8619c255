// Part of opt_simplify: activations that exporters spell out become one opcode again. The opcode's derivative needs the
// operand alone, so the backward pass keeps one tensor instead of three.
//
//   x * sigmoid(x)                                           silu
//   0.5 * x * (1 + erf(x / sqrt 2))                          gelu
//   0.5 * x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))    gelu_tanh
//
// - Exporters group the products in every possible way. So a product is flattened to its factors and one constant first,
//   and matched as a set.
// - Constants are compared to 1e-4 relative: they were rounded to the model's type, and some are written with five digits.
#include <math.h>

#include "graph/graph_priv.h"

enum { MAX_FACTORS = 4 };
typedef struct { zg_val at[MAX_FACTORS]; uint32_t n; double k; bool ok; } product;

static bool near(double a, double b) { return fabs(a - b) <= 1e-4 * fabs(b); }

static bool small_const(const zg_graph *g, zg_val v, double *k) {   // does not change the other operand's shape
  return zg_elems(zg_type_of(g, v)) == 1 && zg__is_splat(g, v, k);
}

static void flatten(const zg_graph *g, zg_val v, product *p, int depth) {
  double k;
  if (small_const(g, v, &k)) {
    p->k *= k;
  } else if (depth < 6 && zg__is_map(g, v, ZG_S_MUL)) {
    flatten(g, zg__operand(g, v, 0), p, depth + 1);
    flatten(g, zg__operand(g, v, 1), p, depth + 1);
  } else if (depth < 6 && zg__is_map(g, v, ZG_S_DIV) && small_const(g, zg__operand(g, v, 1), &k) && k != 0) {
    p->k /= k;
    flatten(g, zg__operand(g, v, 0), p, depth + 1);
  } else if (p->n < MAX_FACTORS) {
    p->at[p->n++] = v;
  } else {
    p->ok = false;
  }
}

static product factors(const zg_graph *g, zg_val v) {
  product p = {.k = 1, .ok = true};
  flatten(g, v, &p, 0);
  return p;
}

// v = 1 + f(u): gives u.
static bool one_plus(const zg_graph *g, zg_val v, zg_scalar f, zg_val *u) {
  double k;
  if (!zg__is_map(g, v, ZG_S_ADD)) return false;
  for (uint32_t i = 0; i < 2; i++)
    if (small_const(g, zg__operand(g, v, i), &k) && k == 1 && zg__is_map(g, zg__operand(g, v, 1 - i), f)) {
      *u = zg__operand(g, zg__operand(g, v, 1 - i), 0);
      return true;
    }
  return false;
}

static bool is_scaled(const zg_graph *g, zg_val v, zg_val x, double k) {   // v = k x
  const product p = factors(g, v);
  return p.ok && p.n == 1 && zg_same(p.at[0], x) && near(p.k, k);
}

static bool is_scaled_cube(const zg_graph *g, zg_val v, zg_val x, double k) {   // v = k x^3
  const product p = factors(g, v);
  double e;
  if (!p.ok || !near(p.k, k)) return false;
  if (p.n == 1 && zg__is_map(g, p.at[0], ZG_S_POW))
    return zg_same(zg__operand(g, p.at[0], 0), x) && zg__is_splat(g, zg__operand(g, p.at[0], 1), &e) && e == 3;
  return p.n == 3 && zg_same(p.at[0], x) && zg_same(p.at[1], x) && zg_same(p.at[2], x);
}

// u = sqrt(2/pi) * (x + 0.044715 x^3)
static bool is_tanh_argument(const zg_graph *g, zg_val u, zg_val x) {
  const product p = factors(g, u);
  if (!p.ok || p.n != 1 || !near(p.k, 0.79788456) || !zg__is_map(g, p.at[0], ZG_S_ADD)) return false;
  for (uint32_t i = 0; i < 2; i++)
    if (zg_same(zg__operand(g, p.at[0], i), x) && is_scaled_cube(g, zg__operand(g, p.at[0], 1 - i), x, 0.044715)) return true;
  return false;
}

zg_val zg__match_activation(zg_builder *b, zg_val v) {
  const zg_graph *g = zg_builder_graph(b);
  if (!zg_is(v) || !zg__is_map(g, v, ZG_S_MUL) || !zg_dtype_is_float(zg_type_of(g, v)->dtype)) return v;
  const product p = factors(g, v);
  if (!p.ok || p.n != 2) return v;
  for (uint32_t i = 0; i < 2; i++) {
    const zg_val x = p.at[i], f = p.at[1 - i];
    zg_val u;
    if (!zg_same_shape(zg_type_of(g, x), zg_type_of(g, v))) continue;
    if (p.k == 1 && zg__is_map(g, f, ZG_S_SIGMOID) && zg_same(zg__operand(g, f, 0), x)) return zg_b_map1(b, ZG_S_SILU, x);
    if (near(p.k, 0.5) && one_plus(g, f, ZG_S_ERF, &u) && is_scaled(g, u, x, 0.70710678)) return zg_b_map1(b, ZG_S_GELU, x);
    if (near(p.k, 0.5) && one_plus(g, f, ZG_S_TANH, &u) && is_tanh_argument(g, u, x)) return zg_b_map1(b, ZG_S_GELU_TANH, x);
  }
  return v;
}

// v = rest * c with a constant scalar c: gives rest.
static bool scaled_by(const zg_graph *g, zg_val v, zg_val *rest, double *c) {
  if (zg__is_map(g, v, ZG_S_DIV) && small_const(g, zg__operand(g, v, 1), c) && *c != 0) {
    *c = 1 / *c;
    *rest = zg__operand(g, v, 0);
    return true;
  }
  for (uint32_t i = 0; i < 2 && zg__is_map(g, v, ZG_S_MUL); i++)
    if (small_const(g, zg__operand(g, v, i), c)) {
      *rest = zg__operand(g, v, 1 - i);
      return true;
    }
  return false;
}

zg_val zg__strip_scale(const zg_graph *g, zg_val v, double *k) {
  zg_val rest;
  double c;
  while (scaled_by(g, v, &rest, &c) && zg_type_equal(zg_type_of(g, rest), zg_type_of(g, v))) *k *= c, v = rest;
  return v;
}
