// Op: topk.
#include <stdlib.h>

#include "graph/op/op_priv.h"

static zg_status topk_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  const zg_topk_attr *a = x->attr;
  ZG_TRY(zg__check_axis(x, a->axis));
  if (a->k < 0 || a->k > x->in[0]->dim[a->axis])
    return zg_error(ZG_INVALID, "k = %lld, but axis %lld of %s has fewer elements", (long long)a->k,
                    (long long)a->axis, zg_type_text(x->in[0]));
  if (x->n_out != 2) return zg_error(ZG_INVALID, "topk gives 2 results, not %u", x->n_out);
  x->out[0] = *x->in[0];
  x->out[0].dim[a->axis] = a->k;
  x->out[1] = x->out[0];
  x->out[1].dtype = ZG_I64;
  return NULL;
}

typedef struct {
  double f;
  int64_t s, index;
} topk_item;  // f orders floats, s integers (f is 0 there)

// Ascending with NaN as the greatest; equal values by index.
static int by_value(const void *pa, const void *pb, int sign) {
  const topk_item *a = pa, *b = pb;
  const int nan = (a->f != a->f) - (b->f != b->f);
  const int order = nan                            ? nan
                    : a->f != b->f && a->f == a->f ? (a->f > b->f) - (a->f < b->f)
                                                   : (a->s > b->s) - (a->s < b->s);
  return order ? sign * order : (a->index > b->index) - (a->index < b->index);
}
static int ascending(const void *a, const void *b) { return by_value(a, b, 1); }
static int descending(const void *a, const void *b) { return by_value(a, b, -1); }

static zg_status topk_eval(zg_eval *x) {
  const zg_topk_attr *a = x->attr;
  const zg_type *t = &x->in[0].type;
  const int64_t outer = zg__prod(t, 0, a->axis), n = t->dim[a->axis],
                inner = zg__prod(t, a->axis + 1, t->rank);
  const bool real = zg_dtype_is_float(t->dtype);
  topk_item *item = zg_alloc(sizeof(topk_item) * (size_t)(n + 1));
  const uint32_t size = zg_dtype_bytes(t->dtype);
  for (int64_t o = 0; o < outer; o++)
    for (int64_t i = 0; i < inner; i++) {
      for (int64_t k = 0; k < n; k++) {
        const int64_t at = (o * n + k) * inner + i;
        item[k] = (topk_item){real ? zg_get_f64(t->dtype, x->in[0].data, at) : 0,
                              real ? 0 : zg_get_i64(t->dtype, x->in[0].data, at), k};
      }
      qsort(item, (size_t)n, sizeof *item, a->largest ? descending : ascending);
      for (int64_t k = 0; k < a->k; k++) {
        const int64_t to = (o * a->k + k) * inner + i, from = (o * n + item[k].index) * inner + i;
        memcpy((char *)x->out[0].data + to * size, (const char *)x->in[0].data + from * size, size);
        ((int64_t *)x->out[1].data)[to] = item[k].index;
      }
    }
  zg_free(item);
  return NULL;
}

static zg_status topk_grad(zg_grad *g) {
  if (!zg_is(g->dout[0]) || !g->need[0]) return NULL;
  const zg_type t = *zg_b_type(g->b, g->in[0]);
  const zg_scatter_attr s = {
      .mode = ZG_IDX_ELEMENTS, .axis = ((const zg_topk_attr *)g->attr)->axis, .red = ZG_SCATTER_ADD};
  const zg_val in[3] = {zg_b_fill(g->b, &t, 0), g->out[1], g->dout[0]};
  g->din[0] = zg_emit1(g->b, &zg_op_scatter, &s, in, 3);
  return NULL;
}

static const zg_attr_field topk_fields[] = {
    ZG_FIELD(INT, zg_topk_attr, axis, 0),
    ZG_FIELD(INT, zg_topk_attr, k, 1),
    ZG_FIELD(INT, zg_topk_attr, largest, 1),
};
static const zg_op_case topk_cases[] = {
    {.name = "largest", .text = IN("[3,7]") "%2, %3 = topk %1 axis=1 k=3" OUT2},
    {.name = "smallest of the first axis", .text = IN("[5,3]") "%2, %3 = topk %1 axis=0 k=2 largest=0" OUT2},
    {.name = "all", .text = IN("[1,4]") "%2, %3 = topk %1 axis=1 k=4" OUT2},
    {.name = "none", .text = IN("[2,4]") "%2, %3 = topk %1 axis=1 k=0" OUT2},
    {.name = "ties: lower index first",
     .text = IN("[2,3]") "%2, %3 = topk %1 axis=1 k=1" OUT2,
     .no_grad = true,
     .data = "x: 1 1 0 2 3 3",
     .expect = "x: 1 0 0 0 1 0"},
};
const zg_op zg_op_topk = {.name = "topk",
                          .traits = ZG_CORE,
                          ZG_ATTRS(zg_topk_attr, topk_fields),
                          .n_out = 2,
                          .infer = topk_infer,
                          .eval = topk_eval,
                          .grad = topk_grad,
                          ZG_CASES(topk_cases)};

// ---- ONNX ----------------------------------------------------------------------------------------
static zg_status import_topk(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  double k = (double)zg_onnx_int(n, "k", -1);
  if (n->opset >= 10) ZG_TRY(zg__const_scalar(n, 1, &k));
  zg_topk_attr a = {.k = (int64_t)k, .largest = zg_onnx_int(n, "largest", 1) != 0};
  ZG_TRY(zg__axis(n, zg_onnx_int(n, "axis", -1), zg_b_type(n->b, n->in[0])->rank, &a.axis));
  zg_val out[2];
  if (zg_emit(n->b, &zg_op_topk, &a, n->in, 1, out, 2))
    for (uint32_t i = 0; i < ZG_MIN(n->n_out, 2u); i++) n->out[i] = out[i];
  return NULL;
}

static const zg_onnx_row rows[] = {
    {"TopK", "", 1, 0, import_topk},
};
static const zg_op *const ops[] = {&zg_op_topk};
const zg_family zg_family_topk = {
    .name = "topk", .ops = ops, .n_ops = ZG_COUNT(ops), .onnx = rows, .n_onnx = ZG_COUNT(rows)};
