// Structural ops of the preview domains: FlexAttention, which has subgraphs, and Gradient, which names a tensor of the graph around it.
#include <math.h>

#include "graph/graph_priv.h"
#include "graph/onnx/onnx_priv.h"
#include "graph/pass.h"

// ---- FlexAttention (ai.onnx.preview 1) ----------------------------------------------------------------------------
// Applies the subgraph of that name, if there is one, to v.
static zg_status apply(zg__structural *x, const char *attr, zg_val *v) {
  const Onnx__AttributeProto *a = zg__attr(x->node, x->scope->frame, attr);
  if (!a || !a->g) return NULL;
  zg__binding arg = zg__of_val(*v), out = {0};
  if (a->g->n_input != 1 || a->g->n_output != 1)
    return zg_onnx_error(x->view, ZG_INVALID, "%s has %zu inputs and %zu outputs, want one each", attr, a->g->n_input, a->g->n_output);
  const zg_type want = *zg_b_type(x->im->b, *v);
  ZG_TRY(zg__run_graph(x->im, x->scope, x->scope->frame, a->g, &arg, 1, &out));
  ZG_TRY(zg__as_value(x->im, &out));
  if (out.kind != ZG__VALUE) return zg_onnx_error(x->view, ZG_UNSUPPORTED, "%s gives something that is no tensor", attr);
  if (!zg_builder_failed(x->im->b) && !zg_same_shape(zg_b_type(x->im->b, out.val), &want))
    return zg_onnx_error(x->view, ZG_INVALID, "%s changes the shape %s", attr, zg_type_text(&want));
  *v = zg_b_cast(x->im->b, out.val, want.dtype);
  return NULL;
}

// q: [B,H,L,E], k: [B,K,S,E], v: [B,K,S,D]; H a multiple of K, whose heads the groups of query heads share.
static zg_status check_heads(zg__structural *x, const zg_type *q, const zg_type *k, const zg_type *v) {
  const bool ranks = q->rank == 4 && k->rank == 4 && v->rank == 4;
  if (ranks && k->dim[1] > 0 && q->dim[1] % k->dim[1] == 0 && k->dim[1] == v->dim[1] && k->dim[2] == v->dim[2] &&
      q->dim[3] == k->dim[3] && q->dim[0] == k->dim[0] && q->dim[0] == v->dim[0])
    return NULL;
  return zg_onnx_error(x->view, ZG_INVALID, "query %s, key %s and value %s do not fit: want [B,H,L,E], [B,K,S,E], [B,K,S,D]",
                       zg_type_text(q), zg_type_text(k), zg_type_text(v));
}

static zg_status flex_attention(zg__structural *x) {
  zg_builder *b = x->im->b;
  zg_val in[3];
  for (uint32_t i = 0; i < 3; i++) ZG_TRY(zg__arg_value(x, i, &in[i]));
  const zg_type q = *zg_b_type(b, in[0]), k = *zg_b_type(b, in[1]), v = *zg_b_type(b, in[2]);
  ZG_TRY(check_heads(x, &q, &k, &v));
  zg_dtype wide = q.dtype == ZG_F64 ? ZG_F64 : ZG_F32;
  if (zg_onnx_has(x->view, "softmax_precision")) ZG_TRY(zg_onnx_dtype(zg_onnx_int(x->view, "softmax_precision", 1), &wide));
  const double scale = zg_onnx_float(x->view, "scale", 1 / sqrt((double)q.dim[3]));
  const int64_t rows = q.dim[1] / k.dim[1] * q.dim[2], grouped[] = {q.dim[0], k.dim[1], rows, q.dim[3]};
  const int64_t full[] = {q.dim[0], q.dim[1], q.dim[2], k.dim[2]}, shared[] = {q.dim[0], k.dim[1], rows, k.dim[2]};
  const int64_t result[] = {q.dim[0], q.dim[1], q.dim[2], v.dim[3]};
  for (uint32_t i = 0; i < 3; i++) in[i] = zg_b_cast(b, in[i], wide);
  zg_val s = zg_mul_k(b, zg_b_matmul(b, zg_b_reshape(b, in[0], grouped, 4), in[1], false, true), scale);
  s = zg_b_reshape(b, s, full, 4);
  ZG_TRY(apply(x, "score_mod", &s));
  zg_val p = zg_emit1(b, &zg_op_softmax, &(zg_axis_attr){3}, &s, 1);
  ZG_TRY(apply(x, "prob_mod", &p));
  const zg_val y = zg_b_matmul(b, zg_b_reshape(b, p, shared, 4), in[2], false, false);
  x->out[0] = zg__of_val(zg_b_cast(b, zg_b_reshape(b, y, result, 4), v.dtype));
  return NULL;
}

// ---- Gradient (ai.onnx.preview.training 1) ------------------------------------------------------------------------
// d(sum of y) / d(xs). The graph so far becomes one with the xs as inputs and sum(y) as the loss; the autodiff pass differentiates
// it, and the result is copied back, where the forward part meets its equals.
typedef struct {
  zg__structural *x;
  zg_val y, *xs;
  uint32_t n;
} request;

static const char *x_name(const request *r, uint32_t i) { return zg_arena_printf(&r->x->im->mem, "@gradient.x%u", i); }

static zg_status cut_out(const request *r, zg_graph **out) {
  const zg_graph *g = zg_builder_graph(r->x->im->b);
  zg_builder *b = zg_builder_new();
  zg_val *map = ZG_NEW_N(&r->x->im->mem, zg_val, g->values.n);
  bool *fixed = ZG_NEW_N(&r->x->im->mem, bool, g->values.n);
  for (uint32_t i = 0; i < r->n; i++) {
    map[r->xs[i].id] = zg_b_input(b, x_name(r, i), zg_type_of(g, r->xs[i]));
    fixed[r->xs[i].id] = true;
  }
  for (size_t i = 0; i < g->nodes.n && g->nodes.at[i].out <= r->y.id; i++) {
    const zg_node *n = &g->nodes.at[i];
    if (n->n_out == 1 && fixed[n->out]) continue;
    zg_emit_copy(b, g, n, map);
    for (uint32_t k = 0; k < r->n; k++)   // one of several results of a node
      if (r->xs[k].id >= n->out && r->xs[k].id < n->out + n->n_out) map[r->xs[k].id] = zg_b_input(b, x_name(r, k), zg_type_of(g, r->xs[k]));
  }
  zg_builder_output(b, ZG_OUT_LOSS, "y", zg_b_reduce_all(b, ZG_RED_SUM, map[r->y.id]), (zg_val){0});
  zg_builder_props(b, ZG_PROP_LOSS);
  return zg_builder_finish(b, out);
}

// The value of the import's graph that a leaf of the cut-out graph stands for.
static zg_val leaf_back(const request *r, const char *name) {
  for (uint32_t i = 0; i < r->n; i++)
    if (!strcmp(x_name(r, i), name)) return r->xs[i];
  return zg_find_leaf(zg_builder_graph(r->x->im->b), name);
}

static void paste(const request *r, const zg_graph *g) {
  zg_builder *b = r->x->im->b;
  zg_val *map = ZG_NEW_N(&r->x->im->mem, zg_val, g->values.n);
  for (size_t i = 0; i < g->nodes.n; i++) {
    const zg_node *n = &g->nodes.at[i];
    const char *name = zg__leaf_name(n->op, n->attr);
    if (name) map[n->out] = leaf_back(r, name);
    else zg_emit_copy(b, g, n, map);
  }
  for (uint32_t i = 0; i < r->n && i < r->x->n_out; i++)
    r->x->out[i] = zg__of_val(map[zg_find_output(g, ZG_OUT_GRAD, x_name(r, i))->val.id]);
}

static zg_status gradient(zg__structural *x) {
  request r = {.x = x, .n = x->n_in, .xs = ZG_NEW_N(&x->im->mem, zg_val, x->n_in + 1)};
  const char *y = zg_onnx_str(x->view, "y", "");
  const char **wrt = ZG_NEW_N(&x->im->mem, const char *, x->n_in + 1);
  zg__binding found;
  zg_graph *cut = NULL, *made = NULL;
  for (uint32_t i = 0; i < r.n; i++) {
    ZG_TRY(zg__arg_value(x, i, &r.xs[i]));
    wrt[i] = x_name(&r, i);
  }
  if (!zg__lookup(x->scope, y, &found)) return zg_onnx_error(x->view, ZG_INVALID, "there is no tensor \"%s\" to differentiate", y);
  ZG_TRY(zg__as_value(x->im, &found));
  if (found.kind != ZG__VALUE) return zg_onnx_error(x->view, ZG_UNSUPPORTED, "\"%s\" is no tensor", y);
  r.y = found.val;
  if (!zg_dtype_is_float(zg_b_type(x->im->b, r.y)->dtype)) return zg_onnx_error(x->view, ZG_INVALID, "\"%s\" is no float", y);
  ZG_TRY(cut_out(&r, &cut));
  zg_status s = zg_pass_lower_autodiff(cut, &(zg_autodiff_options){.seed = 1, .wrt = wrt, .n_wrt = r.n}, &made);
  if (!s) paste(&r, made);
  zg_graph_free(cut);
  zg_graph_free(made);
  return s;
}

const zg__structural_row zg__preview_rows[] = {
    {"FlexAttention", flex_attention, false, "ai.onnx.preview"},
    {"Gradient", gradient, false, "ai.onnx.preview.training"},
    {NULL, NULL, false, NULL},
};
