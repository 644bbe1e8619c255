// What opt_layer_norm and opt_rms_norm share: reading x * rstd * gain out of the products and quotients that exporters write.
//
//   y = x / sqrt(v + eps) * g,   x * pow(v + eps, -0.5) * g,   g * (x * recip(sqrt(v + eps))),   x * (g * rsqrt(v + eps)), ...
//
// - A product is flattened to its factors, through inner products and quotients that nothing else reads. One factor is the
//   inverse root, one what is normalised, at most one more is the gain.
// - Means are sums times or over the count, along the last dims, which stay as 1.
#include "graph/graph_priv.h"
#include "graph/pass/norm_match.h"

static bool scalar(const zg_graph *g, zg_val v, double *k) {
  return zg_is(v) && zg_elems(zg_type_of(g, v)) == 1 && zg__is_splat(g, v, k);
}

static bool near(double a, double b) { return a > b * (1 - 1e-6) && a < b * (1 + 1e-6); }

// v = k * rest with a constant k, or a quotient by one.
static bool scaled(const zg_graph *g, zg_val v, zg_val *rest, double *k) {
  for (uint32_t i = 0; i < 2 && zg__is_map(g, v, ZG_S_MUL); i++)
    if (scalar(g, zg__operand(g, v, i), k)) {
      *rest = zg__operand(g, v, 1 - i);
      return true;
    }
  if (!zg__is_map(g, v, ZG_S_DIV) || !scalar(g, zg__operand(g, v, 1), k) || *k == 0) return false;
  *k = 1 / *k;
  *rest = zg__operand(g, v, 0);
  return true;
}

bool zg__is_mean(const zg_graph *g, zg_val v, zg_val *of, int64_t *axis) {
  double k;
  zg_val sum;
  if (!scaled(g, v, &sum, &k) || !zg_is_op(g, sum, &zg_op_reduce)) return false;
  const zg_reduce_attr *a = zg_node_of(g, sum)->attr;
  *of = zg__operand(g, sum, 0);
  const zg_type *t = zg_type_of(g, *of);
  if (a->kind != ZG_RED_SUM || !a->keep || a->axes.n == 0) return false;
  int64_t n = 1, first = (int64_t)t->rank - a->axes.n;
  for (int64_t i = 0; i < a->axes.n; i++) {
    if (a->axes.at[i] != first + i) return false;
    n *= t->dim[first + i];
  }
  *axis = first;
  return n > 0 && near(k * (double)n, 1);
}

bool zg__is_square(const zg_graph *g, zg_val v, zg_val *of) {
  double e;
  if (zg__is_map(g, v, ZG_S_MUL) && zg_same(zg__operand(g, v, 0), zg__operand(g, v, 1))) {
    *of = zg__operand(g, v, 0);
    return true;
  }
  if (!zg__is_map(g, v, ZG_S_POW) || !scalar(g, zg__operand(g, v, 1), &e) || e != 2) return false;
  *of = zg__operand(g, v, 0);
  return true;
}

// sum = variance + eps
static bool is_sum_with_eps(const zg_graph *g, zg_val sum, zg_val *variance, double *eps) {
  if (!zg__is_map(g, sum, ZG_S_ADD)) return false;
  for (uint32_t i = 0; i < 2; i++)
    if (scalar(g, zg__operand(g, sum, i), eps) && *eps >= 0) {
      *variance = zg__operand(g, sum, 1 - i);
      return true;
    }
  return false;
}

static bool is_root(const zg_graph *g, zg_val v, zg_val *variance, double *eps) {
  return zg__is_map(g, v, ZG_S_SQRT) && is_sum_with_eps(g, zg__operand(g, v, 0), variance, eps);
}

static bool is_inverse_root(const zg_graph *g, zg_val v, zg_val *variance, double *eps) {
  double e;
  if (zg__is_map(g, v, ZG_S_RSQRT)) return is_sum_with_eps(g, zg__operand(g, v, 0), variance, eps);
  if (zg__is_map(g, v, ZG_S_POW) && scalar(g, zg__operand(g, v, 1), &e) && e == -0.5) return is_sum_with_eps(g, zg__operand(g, v, 0), variance, eps);
  if (zg__is_map(g, v, ZG_S_RECIP)) return is_root(g, zg__operand(g, v, 0), variance, eps);
  return zg__is_map(g, v, ZG_S_DIV) && scalar(g, zg__operand(g, v, 0), &e) && e == 1 && is_root(g, zg__operand(g, v, 1), variance, eps);
}

enum { MAX_FACTORS = 3 };
typedef struct { zg_val at[MAX_FACTORS], variance; uint32_t n; double eps; bool root, ok; } factors;

static void flatten(const zg_graph *g, const uint32_t *uses, zg_val v, bool inner, factors *f) {
  zg_val variance;
  double eps;
  if (is_inverse_root(g, v, &variance, &eps)) {
    f->ok = f->ok && !f->root;
    f->root = true, f->variance = variance, f->eps = eps;
  } else if (zg__is_map(g, v, ZG_S_MUL) && (!inner || uses[v.id] == 1)) {
    flatten(g, uses, zg__operand(g, v, 0), true, f);
    flatten(g, uses, zg__operand(g, v, 1), true, f);
  } else if (zg__is_map(g, v, ZG_S_DIV) && (!inner || uses[v.id] == 1) && !f->root &&
             is_root(g, zg__operand(g, v, 1), &f->variance, &f->eps)) {
    f->root = true;
    flatten(g, uses, zg__operand(g, v, 0), true, f);
  } else if (f->n < MAX_FACTORS) {
    f->at[f->n++] = v;
  } else {
    f->ok = false;
  }
}

bool zg__match_norm(const zg_graph *g, const uint32_t *uses, zg_val v, zg__norm_source *source, zg__norm *out) {
  factors f = {.ok = true};
  if (!zg__is_map(g, v, ZG_S_MUL) && !zg__is_map(g, v, ZG_S_DIV)) return false;
  flatten(g, uses, v, false, &f);
  if (!f.ok || !f.root || f.n < 1 || f.n > 2) return false;
  const zg_type *t = zg_type_of(g, v);
  for (uint32_t i = 0; i < f.n; i++) {
    *out = (zg__norm){.eps = f.eps, .scale = f.n == 2 ? f.at[1 - i] : (zg_val){0}};
    if (!source(g, f.at[i], f.variance, &out->x, &out->axis) || !zg_type_equal(zg_type_of(g, out->x), t)) continue;
    if (!zg_is(out->scale) || zg_type_fits(zg_type_of(g, out->scale), t)) return true;
  }
  return false;
}

bool zg__match_bias(const zg_graph *g, const uint32_t *uses, zg_val v, const bool *is_norm, zg_val *norm, zg_val *bias) {
  if (!zg__is_map(g, v, ZG_S_ADD)) return false;
  for (uint32_t i = 0; i < 2; i++) {
    *norm = zg__operand(g, v, i), *bias = zg__operand(g, v, 1 - i);
    if (is_norm[norm->id] && uses[norm->id] == 1 && zg_type_equal(zg_type_of(g, *norm), zg_type_of(g, v)) &&
        zg_type_fits(zg_type_of(g, *bias), zg_type_of(g, v)) && zg_elems(zg_type_of(g, *bias)) < zg_elems(zg_type_of(g, v)))
      return true;
  }
  return false;
}
