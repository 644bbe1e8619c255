// Op family: normalisations.
//   layer_norm   (x[, scale][, bias]) -> y, mean, rstd      over dims axis ..; statistics keep them as 1
//   rms_norm     (x[, scale]) -> y, rstd
//   batch_norm   (x, scale, bias) -> y, mean: [C], var: [C]  over all dims but 1, population variance
// All lower to reductions and maps over the same rows, which fusion turns into one loop; the gradients are
// the short formulas over xhat, written once in `pull_back`. Statistics of half-precision tensors are f32.
#include "graph/op/op_priv.h"

static zg_ints axes_from(int64_t *at, int64_t from, int64_t rank) {
  for (int64_t i = from; i < rank; i++) at[i - from] = i;
  return (zg_ints){ZG_MAX(0, rank - from), at};
}

static int64_t positive(int64_t axis, const zg_type *t) { return axis < 0 ? axis + t->rank : axis; }

static zg_status norm_infer(zg_infer *x, uint32_t n_stats) {
  const zg_norm_attr *a = x->attr;
  const zg_type *t = x->in[0];
  if (!t) return zg_error(ZG_INVALID, "operand 0 is missing");
  const int64_t axis = positive(a->axis, t);
  if (axis < 0 || axis >= t->rank || !zg_dtype_is_float(t->dtype))
    return zg_error(ZG_INVALID, "wants a float tensor with axis %lld, got %s", (long long)a->axis,
                    zg_type_text(t));
  for (uint32_t i = 1; i < x->n_in; i++)
    if (x->in[i] && !zg_type_fits(x->in[i], t))
      return zg_error(ZG_INVALID, "%s %s does not broadcast to %s", i == 1 ? "scale" : "bias",
                      zg_type_text(x->in[i]), zg_type_text(t));
  if (x->n_out != n_stats + 1)
    return zg_error(ZG_INVALID, "%s gives %u results, not %u", x->op->name, n_stats + 1, x->n_out);
  x->out[0] = *t;
  for (uint32_t i = 1; i <= n_stats; i++) {
    x->out[i] = *t;
    x->out[i].dtype = zg__wide_dtype(t->dtype);
    for (int64_t d = axis; d < t->rank; d++) x->out[i].dim[d] = 1;
  }
  return NULL;
}

// y = xhat in x's type, times scale, plus bias.
static zg_val affine(zg_builder *b, zg_val xhat, zg_val like, zg_val scale, zg_val bias) {
  zg_val y = zg__cast_like(b, xhat, like);
  if (zg_is(scale)) y = zg_mul(b, y, zg__cast_like(b, scale, like));
  if (zg_is(bias)) y = zg_add(b, y, zg__cast_like(b, bias, like));
  return y;
}

static zg_val in_at(const zg_val *in, uint32_t n, uint32_t i) { return i < n ? in[i] : (zg_val){0}; }

// x -> (x - mean) rstd backwards: rstd (g - mean(g) - xhat mean(g xhat)); without the first mean where none
// was taken off.
static zg_val pull_back(zg_builder *b, zg_val g, zg_val xhat, zg_val rstd, const zg_ints *axes,
                        bool centred) {
  zg_val d = zg_sub(b, g, zg_mul(b, xhat, zg_b_mean(b, zg_mul(b, g, xhat), axes->at, axes->n, true)));
  if (centred) d = zg_sub(b, d, zg_b_mean(b, g, axes->at, axes->n, true));
  return zg_mul(b, rstd, d);
}

static double count(const zg_type *t, const zg_ints *axes) {
  double n = 1;
  for (int64_t i = 0; i < axes->n; i++) n *= (double)t->dim[axes->at[i]];
  return n;
}

// Gradients of scale and bias, and of x through y and through the statistics (rstd: d rstd / dx = -rstd^2
// xhat / n).
static void norm_grad(zg_grad *g, zg_val mean, zg_val rstd, zg_val dmean, zg_val drstd) {
  zg_builder *b = g->b;
  const zg_norm_attr *a = g->attr;
  const zg_val x = g->in[0], scale = in_at(g->in, g->n_in, 1), bias = in_at(g->in, g->n_in, 2),
               dy = g->dout[0];
  const zg_type t = *zg_b_type(b, x);
  int64_t at[ZG_MAX_RANK];
  const zg_ints axes = axes_from(at, positive(a->axis, &t), t.rank);
  const zg_val xw = zg__wide(b, x), xhat = zg_mul(b, zg_is(mean) ? zg_sub(b, xw, mean) : xw, rstd);
  if (zg_is(dy) && zg_is(scale) && g->need[1]) {
    const zg_type ts = *zg_b_type(b, scale);
    g->din[1] = zg__cast_like(b, zg_b_sum_to(b, zg_mul(b, zg__wide(b, dy), xhat), &ts), scale);
  }
  if (zg_is(dy) && zg_is(bias) && g->need[2]) {
    const zg_type tb = *zg_b_type(b, bias);
    g->din[2] = zg__cast_like(b, zg_b_sum_to(b, zg__wide(b, dy), &tb), bias);
  }
  if (!g->need[0]) return;
  const double n = count(&t, &axes);
  zg_val dx = {0};
  if (zg_is(dy)) {
    const zg_val gw = zg__wide(b, dy);
    dx = pull_back(b, zg_is(scale) ? zg_mul(b, gw, zg__cast_like(b, scale, gw)) : gw, xhat, rstd, &axes,
                   zg_is(mean));
  }
  if (zg_is(drstd)) {
    const zg_val k = zg_mul_k(b, zg_mul(b, drstd, zg_mul(b, rstd, rstd)), -1 / n), d = zg_mul(b, k, xhat);
    dx = zg_is(dx) ? zg_add(b, dx, d) : d;
  }
  if (zg_is(dmean)) {
    const zg_val d = zg_b_expand(b, zg_mul_k(b, dmean, 1 / n), t.dim, t.rank);
    dx = zg_is(dx) ? zg_add(b, dx, d) : d;
  }
  if (zg_is(dx)) g->din[0] = zg__cast_like(b, dx, x);
}

static const zg_attr_field norm_fields[] = {ZG_FIELD(INT, zg_norm_attr, axis, -1),
                                            ZG_FIELD(FLOAT, zg_norm_attr, eps, 1e-5)};

// ---- layer_norm ---------------------------------------------------------------------------------
static zg_status layer_norm_infer(zg_infer *x) {
  if (x->n_in < 1 || x->n_in > 3) return zg_error(ZG_INVALID, "%u operands, want 1 to 3", x->n_in);
  return norm_infer(x, 2);
}

static zg_status layer_norm_lower(zg_lower *x) {
  const zg_norm_attr *a = x->attr;
  zg_builder *b = x->b;
  const zg_type t = *zg_b_type(b, x->in[0]);
  int64_t at[ZG_MAX_RANK];
  const zg_ints axes = axes_from(at, positive(a->axis, &t), t.rank);
  const zg_val v = zg__wide(b, x->in[0]), mean = zg_b_mean(b, v, axes.at, axes.n, true),
               d = zg_sub(b, v, mean);
  const zg_val var = zg_b_mean(b, zg_mul(b, d, d), axes.at, axes.n, true);
  const zg_val rstd = zg_b_map1(b, ZG_S_RSQRT, zg_add_k(b, var, a->eps));
  x->out[0] = affine(b, zg_mul(b, d, rstd), x->in[0], in_at(x->in, x->n_in, 1), in_at(x->in, x->n_in, 2));
  x->out[1] = mean;
  x->out[2] = rstd;
  return NULL;
}

static zg_status layer_norm_grad(zg_grad *g) {
  norm_grad(g, g->out[1], g->out[2], g->dout[1], g->dout[2]);
  return NULL;
}

#define XS(x, s) IN(x) "%2 = input name=\"s\" type=f64" s "\n"
#define XSB(x, s) XS(x, s) "%3 = input name=\"b\" type=f64" s "\n"
static const zg_op_case layer_norm_cases[] = {
    {.name = "last axis",
     .text = XSB("[3,5]", "[5]") "%4, %5, %6 = layer_norm %1, %2, %3\noutput value \"y\" %4"},
    {.name = "two axes",
     .text = XSB("[2,3,4]", "[3,4]") "%4, %5, %6 = layer_norm %1, %2, %3 axis=1\noutput value \"y\" %4"},
    {.name = "scale per channel",
     .text = XSB("[2,3,4]", "[3,1]") "%4, %5, %6 = layer_norm %1, %2, %3 axis=2\noutput value \"y\" %4"},
    {.name = "no bias", .text = XS("[4,7]", "[7]") "%3, %4, %5 = layer_norm %1, %2\noutput value \"y\" %3"},
    {.name = "alone", .text = IN("[2,3]") "%2, %3, %4 = layer_norm %1 eps=0.1\noutput value \"y\" %2"},
    {.name = "statistics",
     .text = IN("[2,3]") "%2, %3, %4 = layer_norm %1\n%5 = mul %3, %4\noutput value \"y\" %2\noutput value "
                         "\"z\" %5"},
    {.name = "no rows",
     .text = XSB("[0,5]", "[5]") "%4, %5, %6 = layer_norm %1, %2, %3\noutput value \"y\" %4"},
};
const zg_op zg_op_layer_norm = {.name = "layer_norm",
                                ZG_ATTRS(zg_norm_attr, norm_fields),
                                .n_out = 3,
                                .infer = layer_norm_infer,
                                .grad = layer_norm_grad,
                                .lower = layer_norm_lower,
                                ZG_CASES(layer_norm_cases)};

// ---- rms_norm -----------------------------------------------------------------------------------
static zg_status rms_norm_infer(zg_infer *x) {
  if (x->n_in < 1 || x->n_in > 2) return zg_error(ZG_INVALID, "%u operands, want 1 or 2", x->n_in);
  return norm_infer(x, 1);
}

static zg_status rms_norm_lower(zg_lower *x) {
  const zg_norm_attr *a = x->attr;
  zg_builder *b = x->b;
  const zg_type t = *zg_b_type(b, x->in[0]);
  int64_t at[ZG_MAX_RANK];
  const zg_ints axes = axes_from(at, positive(a->axis, &t), t.rank);
  const zg_val v = zg__wide(b, x->in[0]), square = zg_b_mean(b, zg_mul(b, v, v), axes.at, axes.n, true);
  const zg_val rstd = zg_b_map1(b, ZG_S_RSQRT, zg_add_k(b, square, a->eps));
  x->out[0] = affine(b, zg_mul(b, v, rstd), x->in[0], in_at(x->in, x->n_in, 1), (zg_val){0});
  x->out[1] = rstd;
  return NULL;
}

static zg_status rms_norm_grad(zg_grad *g) {
  norm_grad(g, (zg_val){0}, g->out[1], (zg_val){0}, g->dout[1]);
  return NULL;
}

static const zg_op_case rms_norm_cases[] = {
    {.name = "last axis", .text = XS("[3,5]", "[5]") "%3, %4 = rms_norm %1, %2\noutput value \"y\" %3"},
    {.name = "two axes",
     .text = XS("[2,3,4]", "[3,4]") "%3, %4 = rms_norm %1, %2 axis=1\noutput value \"y\" %3"},
    {.name = "alone, with its statistic",
     .text = IN("[2,3]") "%2, %3 = rms_norm %1\noutput value \"y\" %2\noutput value \"z\" %3"},
};
const zg_op zg_op_rms_norm = {.name = "rms_norm",
                              ZG_ATTRS(zg_norm_attr, norm_fields),
                              .n_out = 2,
                              .infer = rms_norm_infer,
                              .grad = rms_norm_grad,
                              .lower = rms_norm_lower,
                              ZG_CASES(rms_norm_cases)};

// ---- batch_norm ---------------------------------------------------------------------------------
typedef struct {
  double eps;
} batch_norm_attr;

static zg_status batch_norm_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 3, 3));
  const zg_type *t = x->in[0];
  const bool ok = t->rank >= 2 && zg_dtype_is_float(t->dtype);
  for (uint32_t i = 1; i < 3; i++)
    if (!ok || x->in[i]->rank != 1 || x->in[i]->dim[0] != t->dim[1])
      return zg_error(ZG_INVALID, "wants a float x: [N, C, ...] and %s: [C], got %s and %s",
                      i == 1 ? "scale" : "bias", zg_type_text(t), zg_type_text(x->in[i]));
  if (x->n_out != 3) return zg_error(ZG_INVALID, "batch_norm gives 3 results, not %u", x->n_out);
  x->out[0] = *t;
  x->out[1] = x->out[2] = zg_type_make(zg__wide_dtype(t->dtype), 1, &t->dim[1]);
  return NULL;
}

// [C] to [C, 1, ...], which broadcasts against [N, C, ...].
static zg_val per_channel(zg_builder *b, zg_val v, const zg_type *x) {
  int64_t dim[ZG_MAX_RANK] = {x->dim[1], 1, 1, 1, 1, 1, 1, 1};
  return zg_is(v) ? zg_b_reshape(b, v, dim, (int64_t)x->rank - 1) : v;
}

static zg_ints all_but_channel(int64_t *at, const zg_type *t) {
  int64_t k = 0;
  for (uint32_t i = 0; i < t->rank; i++)
    if (i != 1) at[k++] = i;
  return (zg_ints){k, at};
}

static zg_status batch_norm_lower(zg_lower *x) {
  const batch_norm_attr *a = x->attr;
  zg_builder *b = x->b;
  const zg_type t = *zg_b_type(b, x->in[0]);
  int64_t at[ZG_MAX_RANK];
  const zg_ints axes = all_but_channel(at, &t);
  const zg_val v = zg__wide(b, x->in[0]), mean = zg_b_mean(b, v, axes.at, axes.n, true),
               d = zg_sub(b, v, mean);
  const zg_val var = zg_b_mean(b, zg_mul(b, d, d), axes.at, axes.n, true);
  const zg_val rstd = zg_b_map1(b, ZG_S_RSQRT, zg_add_k(b, var, a->eps));
  x->out[0] =
      affine(b, zg_mul(b, d, rstd), x->in[0], per_channel(b, x->in[1], &t), per_channel(b, x->in[2], &t));
  x->out[1] = zg_b_reshape(b, mean, &t.dim[1], 1);
  x->out[2] = zg_b_reshape(b, var, &t.dim[1], 1);
  return NULL;
}

static zg_status batch_norm_grad(zg_grad *g) {
  zg_builder *b = g->b;
  const batch_norm_attr *a = g->attr;
  const zg_val x = g->in[0], dy = g->dout[0];
  const zg_type t = *zg_b_type(b, x);
  int64_t at[ZG_MAX_RANK];
  const zg_ints axes = all_but_channel(at, &t);
  const double n = count(&t, &axes);
  const zg_val d = zg_sub(b, zg__wide(b, x), per_channel(b, g->out[1], &t));
  const zg_val rstd = per_channel(b, zg_b_map1(b, ZG_S_RSQRT, zg_add_k(b, g->out[2], a->eps)), &t),
               xhat = zg_mul(b, d, rstd);
  zg_val dx = {0};
  if (zg_is(dy)) {  // the two sums that scale and bias want are those that dx wants, but for the scale
    const zg_val gw = zg__wide(b, dy), sum = zg_b_reduce(b, ZG_RED_SUM, gw, axes.at, axes.n, false),
                 sum_x = zg_b_reduce(b, ZG_RED_SUM, zg_mul(b, gw, xhat), axes.at, axes.n, false);
    if (g->need[1]) g->din[1] = zg__cast_like(b, sum_x, g->in[1]);
    if (g->need[2]) g->din[2] = zg__cast_like(b, sum, g->in[2]);
    const zg_val s = zg__cast_like(b, per_channel(b, g->in[1], &t), gw);
    const zg_val mean = per_channel(b, zg_mul_k(b, sum, 1 / n), &t), mean_x = per_channel(b, zg_mul_k(b, sum_x, 1 / n), &t);
    if (g->need[0])
      dx = zg_mul(b, zg_mul(b, s, rstd), zg_sub(b, zg_sub(b, gw, mean), zg_mul(b, xhat, mean_x)));
  }
  if (g->need[0] && zg_is(g->dout[1])) {
    const zg_val e = zg_b_expand(b, zg_mul_k(b, per_channel(b, g->dout[1], &t), 1 / n), t.dim, t.rank);
    dx = zg_is(dx) ? zg_add(b, dx, e) : e;
  }
  if (g->need[0] && zg_is(g->dout[2])) {
    const zg_val e = zg_mul(b, d, zg_mul_k(b, per_channel(b, g->dout[2], &t), 2 / n));
    dx = zg_is(dx) ? zg_add(b, dx, e) : e;
  }
  if (zg_is(dx)) g->din[0] = zg__cast_like(b, dx, x);
  return NULL;
}

static const zg_attr_field batch_norm_fields[] = {ZG_FIELD(FLOAT, batch_norm_attr, eps, 1e-5)};
static const zg_op_case batch_norm_cases[] = {
    {.name = "images",
     .text = XSB("[2,3,4,2]", "[3]") "%4, %5, %6 = batch_norm %1, %2, %3\noutput value \"y\" %4"},
    {.name = "rows",
     .text = XSB("[5,3]", "[3]") "%4, %5, %6 = batch_norm %1, %2, %3 eps=0.01\noutput value \"y\" %4"},
    {.name = "statistics",
     .text = XSB("[4,2]", "[2]") "%4, %5, %6 = batch_norm %1, %2, %3\noutput value \"y\" %4\n"
                                 "output value \"m\" %5\noutput value \"v\" %6"},
};
static const zg_op op_batch_norm = {.name = "batch_norm",
                                    ZG_ATTRS(batch_norm_attr, batch_norm_fields),
                                    .n_out = 3,
                                    .infer = batch_norm_infer,
                                    .grad = batch_norm_grad,
                                    .lower = batch_norm_lower,
                                    ZG_CASES(batch_norm_cases)};

// ---- ONNX: layer and RMS norm -------------------------------------------------------------------
static zg_status import_layer_norm(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  zg_norm_attr a = {.eps = zg_onnx_float(n, "epsilon", 1e-5)};
  ZG_TRY(zg__axis(n, zg_onnx_int(n, "axis", -1), zg_b_type(n->b, n->in[0])->rank, &a.axis));
  zg_val out[3];
  if (zg_emit(n->b, &zg_op_layer_norm, &a, n->in, ZG_MIN(n->n_in, 3u), out, 3))
    for (uint32_t i = 0; i < ZG_MIN(n->n_out, 3u); i++) n->out[i] = out[i];
  return NULL;
}

static zg_status import_rms_norm(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  if (n->n_in > 2 && zg_is(n->in[2]))
    return zg_onnx_error(n, ZG_UNSUPPORTED, "a bias in a normalisation without mean is not supported");
  zg_norm_attr a = {.eps = zg_onnx_float(n, "epsilon", 1e-5)};
  ZG_TRY(zg__axis(n, zg_onnx_int(n, "axis", -1), zg_b_type(n->b, n->in[0])->rank, &a.axis));
  zg_val out[2];
  if (zg_emit(n->b, &zg_op_rms_norm, &a, n->in, ZG_MIN(n->n_in, 2u), out, 2))
    for (uint32_t i = 0; i < ZG_MIN(n->n_out, 2u); i++) n->out[i] = out[i];
  return NULL;
}

// com.microsoft SkipLayerNormalization (x, skip, gamma, beta, bias) and SkipSimplifiedLayerNormalization (x,
// skip, gamma, bias): results y, mean, rstd, x + skip + bias.
static zg_status import_skip_norm(zg_onnx_node *n, bool rms) {
  ZG_TRY(zg__need(n, 3));
  zg_builder *b = n->b;
  zg_val x = zg_add(b, n->in[0], n->in[1]);
  const zg_val extra = zg_onnx_in(n, rms ? 3 : 4);
  if (zg_is(extra)) x = zg_add(b, x, extra);
  const zg_norm_attr a = {.axis = (int64_t)zg_b_type(b, x)->rank - 1, .eps = zg_onnx_float(n, "epsilon", 1e-12)};
  zg_val out[4] = {{0}};
  if (rms) {
    zg_val r[2];
    if (zg_emit(b, &zg_op_rms_norm, &a, (zg_val[]){x, n->in[2]}, 2, r, 2)) out[0] = r[0], out[2] = r[1];
  } else {
    zg_emit(b, &zg_op_layer_norm, &a, (zg_val[]){x, n->in[2], zg_onnx_in(n, 3)}, zg_is(zg_onnx_in(n, 3)) ? 3 : 2,
            out, 3);
  }
  out[3] = x;
  for (uint32_t i = 0; i < ZG_MIN(n->n_out, 4u); i++) n->out[i] = out[i];
  return NULL;
}
static zg_status import_skip_layer_norm(zg_onnx_node *n) { return import_skip_norm(n, false); }
static zg_status import_skip_rms_norm(zg_onnx_node *n) { return import_skip_norm(n, true); }

// ---- ONNX: batch norm ---------------------------------------------------------------------------
// running * momentum + batch * (1 - momentum), in the running statistic's type.
static zg_val blend(zg_builder *b, zg_val running, zg_val batch, double momentum) {
  return zg_add(b, zg_mul_k(b, running, momentum),
                zg_mul_k(b, zg__cast_like(b, batch, running), 1 - momentum));
}

static void update_running(zg_onnx_node *n, zg_val leaf, zg_val v) {
  const zg_graph *g = zg_builder_graph(n->b);
  if (!zg_is_op(g, leaf, &zg_op_param)) return;
  const char *name = ((const zg_param_attr *)zg_node_of(g, leaf)->attr)->name;
  for (size_t i = 0; i < g->outputs.n; i++)
    if (g->outputs.at[i].kind == ZG_OUT_UPDATE && zg_same(g->outputs.at[i].target, leaf)) {
      zg_warn(
          "running statistics \"%s\" are shared by several BatchNormalization nodes: only the first one "
          "updates them",
          name);
      return;
    }
  zg_builder_output(n->b, ZG_OUT_UPDATE, name, v, leaf);
}

static zg_status batch_norm_train(zg_onnx_node *n) {
  zg_builder *b = n->b;
  const double momentum = zg_onnx_float(n, "momentum", 0.9);
  const batch_norm_attr a = {zg_onnx_float(n, "epsilon", 1e-5)};
  zg_val out[3];
  if (!zg_emit(b, &op_batch_norm, &a, n->in, 3, out, 3)) return NULL;
  const zg_val mean = blend(b, n->in[3], out[1], momentum), var = blend(b, n->in[4], out[2], momentum);
  if (n->batch_norm_train) {
    update_running(n, n->in[3], mean);
    update_running(n, n->in[4], var);
  }
  n->out[0] = out[0];
  if (n->n_out > 1) n->out[1] = mean;
  if (n->n_out > 2) n->out[2] = var;
  for (uint32_t i = 3; i < ZG_MIN(n->n_out, 5u); i++)
    n->out[i] = out[i - 2];  // saved statistics, before opset 14
  return NULL;
}

static zg_status import_batch_norm(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 5));
  if (n->opset < 9 && zg_onnx_int(n, "spatial", 1) == 0)
    return zg_onnx_error(n, ZG_UNSUPPORTED, "spatial=0 (statistics per position) is not supported");
  if (n->batch_norm_train || zg_onnx_int(n, "training_mode", 0)) return batch_norm_train(n);
  zg_builder *b = n->b;
  const zg_val x = n->in[0];
  zg_type t = *zg_b_type(b, x);
  if (t.rank == 1) t.dim[1] = t.dim[0];  // [C] alone: the statistics have its shape
  const zg_val wide = zg__wide(b, x);
  const zg_val rstd = zg_b_map1(
      b, ZG_S_RSQRT, zg_add_k(b, zg__cast_like(b, n->in[4], wide), zg_onnx_float(n, "epsilon", 1e-5)));
  const zg_val k = zg_mul(b, rstd, zg__cast_like(b, n->in[1], wide));
  const bool bare = t.rank < 2;
  const zg_val mean = zg__cast_like(b, n->in[3], wide), bias = zg__cast_like(b, n->in[2], wide);
  const zg_val d = zg_sub(b, wide, bare ? mean : per_channel(b, mean, &t));
  const zg_val y =
      zg_add(b, zg_mul(b, d, bare ? k : per_channel(b, k, &t)), bare ? bias : per_channel(b, bias, &t));
  n->out[0] = zg__cast_like(b, y, x);
  return NULL;
}

// ---- ONNX: instance and group norm --------------------------------------------------------------
static zg_val layer_norm(zg_builder *b, zg_val x, zg_val scale, zg_val bias, int64_t axis, double eps) {
  zg_val out[3] = {{0}};
  zg_emit(b, &zg_op_layer_norm, &(zg_norm_attr){axis, eps}, (zg_val[]){x, scale, bias}, 3, out, 3);
  return out[0];
}

static zg_status import_instance_norm(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 3));
  zg_builder *b = n->b;
  const zg_type t = *zg_b_type(b, n->in[0]);
  if (t.rank < 3)
    return zg_onnx_error(n, ZG_INVALID, "operand is %s, want [N, C, ...] of rank 3 or more",
                         zg_type_text(&t));
  n->out[0] = layer_norm(b, n->in[0], per_channel(b, n->in[1], &t), per_channel(b, n->in[2], &t), 2,
                         zg_onnx_float(n, "epsilon", 1e-5));
  return NULL;
}

// x as [N, G, C/G, rest], normalised over the last two; scale is [G] before opset 21, [C] from there on.
static zg_status import_group_norm(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 3));
  zg_builder *b = n->b;
  const zg_type t = *zg_b_type(b, n->in[0]);
  const int64_t groups = zg_onnx_int(n, "num_groups", 0);
  if (t.rank < 2 || groups < 1 || t.dim[1] % groups)
    return zg_onnx_error(n, ZG_INVALID, "num_groups %lld does not divide the channels of %s",
                         (long long)groups, zg_type_text(&t));
  const int64_t per = t.dim[1] / groups, dim[4] = {t.dim[0], groups, per, zg__prod(&t, 2, t.rank)};
  zg_val p[2];
  for (int i = 0; i < 2; i++) {
    const int64_t have = zg_elems(zg_b_type(b, n->in[1 + i])), last = have == t.dim[1] ? per : 1;
    if (have != t.dim[1] && have != groups)
      return zg_onnx_error(n, ZG_INVALID, "operand %d has %lld elements, want %lld groups or %lld channels",
                           1 + i, (long long)have, (long long)groups, (long long)t.dim[1]);
    p[i] = zg_b_reshape(b, n->in[1 + i], (int64_t[]){groups, last, 1}, 3);
  }
  const zg_val y =
      layer_norm(b, zg_b_reshape(b, n->in[0], dim, 4), p[0], p[1], 2, zg_onnx_float(n, "epsilon", 1e-5));
  n->out[0] = zg_b_reshape_like(b, y, &t);
  return NULL;
}

// ---- ONNX: others -------------------------------------------------------------------------------
// x / norm, and 0 where the norm is 0.
static zg_status import_lp_norm(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  zg_builder *b = n->b;
  const zg_val x = n->in[0];
  const int64_t p = zg_onnx_int(n, "p", 2);
  int64_t axis;
  ZG_TRY(zg__axis(n, zg_onnx_int(n, "axis", -1), zg_b_type(b, x)->rank, &axis));
  if (p != 1 && p != 2) return zg_onnx_error(n, ZG_INVALID, "p is %lld, want 1 or 2", (long long)p);
  const zg_val s =
      zg_b_reduce(b, ZG_RED_SUM, p == 1 ? zg_b_map1(b, ZG_S_ABS, x) : zg_mul(b, x, x), &axis, 1, true);
  const zg_val none = zg_b_map2(b, ZG_S_EQ, s, zg_b_like(b, s, 0)),
               safe = zg_b_where(b, none, zg_b_like(b, s, 1), s);
  const zg_val k = p == 1 ? zg_b_map1(b, ZG_S_RECIP, safe) : zg_b_map1(b, ZG_S_RSQRT, safe);
  n->out[0] = zg_mul(b, x, zg_b_where(b, none, zg_b_like(b, s, 0), k));
  return NULL;
}

static zg_status import_mvn(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  zg_builder *b = n->b;
  const zg_val x = n->in[0];
  zg_ints axes;
  bool given;
  ZG_TRY(zg__axes(n, "axes", 0, zg_b_type(b, x)->rank, &axes, &given));
  static const int64_t usual[] = {0, 2, 3};
  if (!given) axes = (zg_ints){3, usual};
  const zg_val d = zg_sub(b, x, zg_b_mean(b, x, axes.at, axes.n, true));
  const zg_val sd = zg_b_map1(b, ZG_S_SQRT, zg_b_mean(b, zg_mul(b, d, d), axes.at, axes.n, true));
  n->out[0] = zg_div(b, d, zg_add_k(b, sd, 1e-9));
  return NULL;
}

// x / (bias + alpha / size * sum of squares over a window of channels) ^ beta
static zg_status import_lrn(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  zg_builder *b = n->b;
  const zg_val x = n->in[0];
  const zg_type t = *zg_b_type(b, x);
  const int64_t size = zg_onnx_int(n, "size", 0), before = (size - 1) / 2;
  if (t.rank < 2 || size < 1)
    return zg_onnx_error(n, ZG_INVALID, "wants [N, C, ...] and a positive size, got %s and %lld",
                         zg_type_text(&t), (long long)size);
  int64_t dim[ZG_MAX_RANK], start[ZG_MAX_RANK] = {0}, step[ZG_MAX_RANK];
  for (uint32_t d = 0; d < t.rank; d++) dim[d] = t.dim[d], step[d] = 1;
  dim[1] += size - 1;
  start[1] = before;
  const zg_val padded = zg_b_unslice(b, zg_mul(b, x, x), dim, start, step, 0);
  zg_val s = zg_b_slice1(b, padded, 1, 0, t.dim[1]);
  for (int64_t i = 1; i < size; i++) s = zg_add(b, s, zg_b_slice1(b, padded, 1, i, t.dim[1]));
  s = zg_add_k(b, zg_mul_k(b, s, zg_onnx_float(n, "alpha", 1e-4) / (double)size),
               zg_onnx_float(n, "bias", 1));
  n->out[0] = zg_mul(b, x, zg_b_map2(b, ZG_S_POW, s, zg_b_like(b, s, -zg_onnx_float(n, "beta", 0.75))));
  return NULL;
}

static const zg_onnx_row rows[] = {
    {"LayerNormalization", "", 1, 0, import_layer_norm, NULL, 6, .weight_operands = 6},
    {"RMSNormalization", "", 1, 0, import_rms_norm, NULL, 2, .weight_operands = 2},
    {"SimplifiedLayerNormalization", "", 1, 0, import_rms_norm, NULL, 2, .weight_operands = 2},
    {"SimplifiedLayerNormalization", "com.microsoft", 1, 0, import_rms_norm, NULL, 2, .weight_operands = 2},
    {"SkipLayerNormalization", "com.microsoft", 1, 0, import_skip_layer_norm, NULL, 0x1c, .weight_operands = 0x1c},
    {"SkipSimplifiedLayerNormalization", "com.microsoft", 1, 0, import_skip_rms_norm, NULL, 0xc, .weight_operands = 0xc},
    {"BatchNormalization", "", 7, 0, import_batch_norm, NULL, 6, .weight_operands = 6},
    {"InstanceNormalization", "", 6, 0, import_instance_norm, NULL, 6, .weight_operands = 6},
    {"GroupNormalization", "", 18, 0, import_group_norm, NULL, 6, .weight_operands = 6},
    {"LpNormalization", "", 1, 0, import_lp_norm},
    {"MeanVarianceNormalization", "", 9, 0, import_mvn},
    {"LRN", "", 1, 0, import_lrn},
};
static const zg_op *const ops[] = {&zg_op_layer_norm, &zg_op_rms_norm, &op_batch_norm};
const zg_family zg_family_norm = {
    .name = "norm", .ops = ops, .n_ops = ZG_COUNT(ops), .onnx = rows, .n_onnx = ZG_COUNT(rows)};
