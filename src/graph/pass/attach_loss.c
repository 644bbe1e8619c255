// attach_loss: adds the loss that the configuration asks for; labels become inputs of the graph.
//
// - Losses are means, computed in f32 (half-precision predictions are widened), and summed with their weights.
// - Labels may come in any shape with the right number of elements ([B,1] beside a prediction [B]); broadcasting one against
//   the other would silently compute something else, so it is refused.
// - from_probs: the graph ends in a softmax, the loss is -log p. Where that softmax is at hand its operand is taken as
//   logits: log(softmax(x)) is -inf where p underflows, log_softmax is not.
#include <stdio.h>

#include "graph/graph_priv.h"
#include "graph/pass.h"

typedef struct { zg_builder *b; const zg_graph *g; const zg_loss_spec *s; } attach;

static zg_val wide(zg_builder *b, zg_val x) {
  const zg_dtype t = zg_b_type(b, x)->dtype;
  return t == ZG_F64 ? x : zg_b_cast(b, x, ZG_F32);
}

static zg_status find_prediction(const zg_graph *g, const char *name, zg_val *out) {
  const zg_output *o = zg_find_output(g, ZG_OUT_VALUE, name);
  if (o) {
    *out = o->val;
    return NULL;
  }
  const char *names[256];
  size_t n = 0;
  for (size_t i = 0; i < g->outputs.n && n < ZG_COUNT(names); i++)
    if (g->outputs.at[i].kind == ZG_OUT_VALUE) names[n++] = g->outputs.at[i].name;
  const char *near = name ? zg_nearest(name, names, n) : NULL;
  if (!near && n) near = names[0];
  return zg_error(ZG_NOT_FOUND, "loss: the model has no output \"%s\"%s%s%s", name ? name : "", near ? "; there is \"" : "",
                  near ? near : "", near ? "\"" : "");
}

// The label input: an existing leaf of that name (a causal model's own token ids), or a new input.
static zg_val labels_input(attach *a, const zg_type *derived) {
  const zg_graph *g = zg_builder_graph(a->b);
  const zg_val have = zg_find_leaf(g, a->s->labels);
  if (zg_is(have)) return have;
  return zg_b_input(a->b, a->s->labels, a->s->labels_known ? &a->s->labels_type : derived);
}

static zg_val fit_labels(attach *a, zg_val y, const zg_type *want, const zg_type *prediction) {
  const zg_type t = *zg_b_type(a->b, y);
  if (zg_same_shape(&t, want)) return y;
  if (zg_elems(&t) != zg_elems(want)) {
    zg_builder_fail(a->b, zg_error(ZG_INVALID, "loss: labels \"%s\" are %s, which does not fit the prediction \"%s\" %s (want %s)", a->s->labels,
                                   zg_type_text(&t), a->s->prediction, zg_type_text(prediction), zg_type_text(want)));
    return (zg_val){0};
  }
  return zg_b_reshape_like(a->b, y, want);
}

// ---- cross entropy ------------------------------------------------------------------------------------------------------
static zg_val drop_end(zg_builder *b, zg_val x, bool last) {   // along axis 1
  const int64_t n = zg_b_type(b, x)->dim[1];
  return zg_b_slice1(b, x, 1, last ? 0 : 1, n - 1);
}

static zg_val class_logits(attach *a, zg_val p, int64_t axis, bool *log_probs) {
  const zg_graph *g = zg_builder_graph(a->b);
  *log_probs = a->s->from_probs;
  if (!a->s->from_probs) return wide(a->b, p);
  if (zg_is_op(g, p, &zg_op_softmax)) {
    const zg_node *n = zg_node_of(g, p);
    const int64_t k = ((const zg_axis_attr *)n->attr)->axis, rank = zg_type_of(g, p)->rank;
    if ((k < 0 ? k + rank : k) == axis) {
      *log_probs = false;
      return wide(a->b, zg_in(g, n, 0));
    }
  }
  return zg_b_map1(a->b, ZG_S_LOG, wide(a->b, p));
}

// Share of the labels (those that count) whose class has the largest logit.
static void accuracy(attach *a, zg_val logits, zg_val y, int64_t axis) {
  zg_builder *b = a->b;
  const zg_arg_reduce_attr arg = {.axis = axis};
  const zg_val top = zg_b_squeeze(b, zg_emit1(b, &zg_op_arg_reduce, &arg, &logits, 1), axis);
  const zg_val counts = zg_b_map2(b, ZG_S_NE, y, zg_b_like(b, y, (double)a->s->ignore_index));
  const zg_val right = zg_b_map2(b, ZG_S_AND, zg_b_map2(b, ZG_S_EQ, top, y), counts);
  const zg_val n = zg_b_reduce_all(b, ZG_RED_SUM, zg_b_cast(b, counts, ZG_F32));
  const zg_val hits = zg_b_reduce_all(b, ZG_RED_SUM, zg_b_cast(b, right, ZG_F32));
  zg_builder_output(b, ZG_OUT_VALUE, "@accuracy", zg_div(b, hits, zg_b_map2(b, ZG_S_MAX, n, zg_b_like(b, n, 1))), (zg_val){0});
}

static zg_val cross_entropy(attach *a, zg_val p) {
  const zg_type t = *zg_b_type(a->b, p);
  const int64_t axis = a->s->class_axis < 0 ? a->s->class_axis + t.rank : a->s->class_axis;
  if (axis < 0 || axis >= t.rank || (a->s->shift && (t.rank < 3 || axis == 1 || t.dim[1] < 1))) {
    zg_builder_fail(a->b, zg_error(ZG_INVALID, "loss: the logits \"%s\" are %s, which has no class axis %lld%s", a->s->prediction,
                                   zg_type_text(&t), (long long)a->s->class_axis,
                                   a->s->shift ? " beside a sequence axis 1 (shift wants [batch, sequence, class])" : ""));
    return (zg_val){0};
  }
  zg_type want = {.dtype = ZG_I64, .rank = 0};
  for (uint32_t d = 0; d < t.rank; d++)
    if (d != axis) want.dim[want.rank++] = t.dim[d];
  zg_val y = fit_labels(a, labels_input(a, &want), &want, &t);
  if (!zg_is(y)) return y;
  if (!zg_dtype_is_int(zg_b_type(a->b, y)->dtype)) {
    zg_builder_fail(a->b, zg_error(ZG_INVALID, "loss: labels \"%s\" are %s; cross_entropy wants class numbers (integers)", a->s->labels,
                                   zg_type_text(zg_b_type(a->b, y))));
    return (zg_val){0};
  }
  bool log_probs;
  zg_val in[2] = {class_logits(a, p, axis, &log_probs), zg_b_cast(a->b, y, ZG_I64)};
  if (a->s->shift) in[0] = drop_end(a->b, in[0], true), in[1] = drop_end(a->b, in[1], false);
  if (a->s->accuracy) accuracy(a, in[0], in[1], axis);
  const zg_cross_entropy_attr attr = {.axis = axis, .ignore = a->s->ignore_index, .log_probs = log_probs,
                                      .smoothing = a->s->label_smoothing};
  return zg_emit1(a->b, &zg_op_cross_entropy, &attr, in, 2);
}

// ---- regressions --------------------------------------------------------------------------------------------------------
static zg_val mean_all(zg_builder *b, zg_val x) {
  if (!zg_is(x)) return x;
  const double n = (double)zg_elems(zg_b_type(b, x));
  return zg_div(b, zg_b_reduce_all(b, ZG_RED_SUM, x), zg_b_like(b, x, n));
}

// Huber 1964: d^2/2 within delta, linear beyond.
static zg_val huber(zg_builder *b, zg_val d, double delta) {
  const zg_val size = zg_b_map1(b, ZG_S_ABS, d);
  const zg_val inner = zg_mul_k(b, zg_mul(b, d, d), 0.5), outer = zg_mul_k(b, zg_add_k(b, size, -0.5 * delta), delta);
  return zg_b_where(b, zg_b_map2(b, ZG_S_LE, size, zg_b_like(b, size, delta)), inner, outer);
}

static zg_val regression(attach *a, zg_val p) {
  zg_builder *b = a->b;
  zg_type t = *zg_b_type(b, p);
  const zg_val x = wide(b, p);
  if (!zg_is(x)) return x;
  t.dtype = zg_b_type(b, x)->dtype;
  zg_val y = fit_labels(a, labels_input(a, &t), &t, zg_b_type(b, p));
  if (!zg_is(y)) return y;
  y = zg_b_cast(b, y, t.dtype);
  const zg_val d = zg_sub(b, x, y);
  switch (a->s->kind) {
    case ZG_LOSS_MSE: return mean_all(b, zg_mul(b, d, d));
    case ZG_LOSS_L1: return mean_all(b, zg_b_map1(b, ZG_S_ABS, d));
    case ZG_LOSS_HUBER: return mean_all(b, huber(b, d, a->s->delta));
    case ZG_LOSS_BCE_LOGITS: return mean_all(b, zg_sub(b, zg_b_map1(b, ZG_S_SOFTPLUS, x), zg_mul(b, x, y)));
    case ZG_LOSS_CROSS_ENTROPY:
    case ZG_LOSS_GRAPH_OUTPUT: break;
  }
  return (zg_val){0};
}

// ---- the pass -----------------------------------------------------------------------------------------------------------
static zg_val one_loss(attach *a, zg_val p) {
  if (!zg_dtype_is_float(zg_b_type(a->b, p)->dtype)) {
    zg_builder_fail(a->b, zg_error(ZG_INVALID, "loss: the output \"%s\" is %s, want floats", a->s->prediction, zg_type_text(zg_b_type(a->b, p))));
    return (zg_val){0};
  }
  if (a->s->kind == ZG_LOSS_GRAPH_OUTPUT) return mean_all(a->b, wide(a->b, p));
  if (!a->s->labels) {
    zg_builder_fail(a->b, zg_error(ZG_INVALID, "loss on \"%s\": `labels` is missing", a->s->prediction));
    return (zg_val){0};
  }
  return a->s->kind == ZG_LOSS_CROSS_ENTROPY ? cross_entropy(a, p) : regression(a, p);
}

zg_status zg_pass_attach_loss(const zg_graph *g, const zg_loss_spec *losses, uint32_t n, zg_graph **out) {
  *out = NULL;
  if (n == 0) return zg_error(ZG_INVALID, "loss: nothing to train on; name a loss");
  zg_arena scratch = {0};
  zg_builder *b = zg_builder_new();
  zg_val *map = ZG_NEW_N(&scratch, zg_val, g->values.n), total = {0};
  for (size_t i = 0; i < g->nodes.n; i++) zg_emit_copy(b, g, &g->nodes.at[i], map);
  zg_builder_origin(b, (zg_origin){"loss", NULL});
  for (uint32_t i = 0; i < n && !zg_builder_failed(b); i++) {
    attach a = {b, g, &losses[i]};
    zg_val p;
    zg_builder_fail(b, find_prediction(g, losses[i].prediction, &p));
    if (zg_builder_failed(b)) break;
    const zg_val l = one_loss(&a, map[p.id]);
    if (zg_builder_failed(b)) break;
    const zg_val part = zg_mul_k(b, zg_b_cast(b, l, ZG_F32), losses[i].weight);
    total = zg_is(total) ? zg_add(b, total, part) : part;
  }
  zg__copy_outputs(b, g, map, ~(1u << ZG_OUT_LOSS));
  zg_builder_output(b, ZG_OUT_LOSS, "loss", total, (zg_val){0});
  zg_builder_props(b, (g->props & ~(uint32_t)ZG_PROP_CORE) | ZG_PROP_LOSS);
  zg_arena_fini(&scratch);
  return zg_builder_finish(b, out);
}
