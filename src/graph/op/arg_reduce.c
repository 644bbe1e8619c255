// Op: arg_reduce, the index of the greatest or smallest element along an axis.
#include "graph/op/op_priv.h"

static zg_status arg_reduce_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  const zg_arg_reduce_attr *a = x->attr;
  ZG_TRY(zg__check_axis(x, a->axis));
  x->out[0] = *x->in[0];
  x->out[0].dtype = ZG_I64;
  x->out[0].dim[a->axis] = 1;
  if (x->in[0]->dim[a->axis] == 0 && zg_elems(&x->out[0]) > 0)
    return zg_error(ZG_INVALID, "axis %lld of %s is empty", (long long)a->axis, zg_type_text(x->in[0]));
  return NULL;
}

// Is b better than a: NaN beats all, equal values only with `last`.
static bool beats(const zg_arg_reduce_attr *a, double x, double y) {
  if (x != x) return a->last && y != y;
  if (y != y) return true;
  if (x == y) return a->last;
  return a->is_min ? y < x : y > x;
}

static zg_status arg_reduce_eval(zg_eval *x) {
  const zg_arg_reduce_attr *a = x->attr;
  const zg_type *t = &x->in[0].type;
  const int64_t outer = zg__prod(t, 0, a->axis), n = t->dim[a->axis],
                inner = zg__prod(t, a->axis + 1, t->rank);
  for (int64_t o = 0; o < outer; o++)
    for (int64_t i = 0; i < inner; i++) {
      int64_t best = 0;
      double v = zg_get_f64(t->dtype, x->in[0].data, o * n * inner + i);
      for (int64_t k = 1; k < n; k++) {
        const double w = zg_get_f64(t->dtype, x->in[0].data, (o * n + k) * inner + i);
        if (beats(a, v, w)) v = w, best = k;
      }
      ((int64_t *)x->out[0].data)[o * inner + i] = best;
    }
  return NULL;
}

static const zg_attr_field arg_reduce_fields[] = {
    ZG_FIELD(INT, zg_arg_reduce_attr, axis, 0),
    ZG_FIELD(INT, zg_arg_reduce_attr, is_min, 0),
    ZG_FIELD(INT, zg_arg_reduce_attr, last, 0),
};
static const zg_op_case arg_reduce_cases[] = {
    {.name = "argmax", .text = IN("[3,5]") "%2 = arg_reduce %1 axis=1" OUT2},
    {.name = "argmin of a middle axis", .text = IN("[2,5,3]") "%2 = arg_reduce %1 axis=1 is_min=1" OUT2},
    {.name = "last of equals",
     .text = IN("[2,3]") "%2 = arg_reduce %1 axis=1 last=1" OUT2,
     .data = "x: 1 1 0 2 2 2"},
};
const zg_op zg_op_arg_reduce = {.name = "arg_reduce",
                                .traits = ZG_CORE | ZG_NO_GRAD,
                                ZG_ATTRS(zg_arg_reduce_attr, arg_reduce_fields),
                                .n_out = 1,
                                .infer = arg_reduce_infer,
                                .eval = arg_reduce_eval,
                                ZG_CASES(arg_reduce_cases)};

// ---- ONNX ----------------------------------------------------------------------------------------
static zg_status import_arg(zg_onnx_node *n, bool is_min) {
  ZG_TRY(zg__need(n, 1));
  zg_arg_reduce_attr a = {.is_min = is_min, .last = zg_onnx_int(n, "select_last_index", 0)};
  ZG_TRY(zg__axis(n, zg_onnx_int(n, "axis", 0), zg_b_type(n->b, n->in[0])->rank, &a.axis));
  const zg_val y = zg_emit1(n->b, &zg_op_arg_reduce, &a, n->in, 1);
  n->out[0] = zg_onnx_int(n, "keepdims", 1) ? y : zg_b_squeeze(n->b, y, a.axis);
  return NULL;
}

static zg_status import_argmax(zg_onnx_node *n) { return import_arg(n, false); }
static zg_status import_argmin(zg_onnx_node *n) { return import_arg(n, true); }

static const zg_onnx_row rows[] = {
    {"ArgMax", "", 1, 0, import_argmax, .no_gradient = true},
    {"ArgMin", "", 1, 0, import_argmin, .no_gradient = true},
};
static const zg_op *const ops[] = {&zg_op_arg_reduce};
const zg_family zg_family_arg_reduce = {
    .name = "arg_reduce", .ops = ops, .n_ops = ZG_COUNT(ops), .onnx = rows, .n_onnx = ZG_COUNT(rows)};
