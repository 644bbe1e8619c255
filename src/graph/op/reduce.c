// Op: reduce, and the ONNX reductions, which are formulas around it.
#include <math.h>

#include "graph/op/op_priv.h"

static zg_status reduce_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  const zg_reduce_attr *a = x->attr;
  ZG_TRY(zg__check_axes(&a->axes, x->in[0]));
  if (a->kind < ZG_RED_SUM || a->kind > ZG_RED_PROD)
    return zg_error(ZG_INVALID, "no kind %lld", (long long)a->kind);
  x->out[0] = zg__reduced_type(x->in[0], &a->axes, a->keep);
  return NULL;
}

static void reduced_strides(const zg_type *t, const zg_ints *axes, int64_t *stride) {
  bool gone[ZG_MAX_RANK] = {false};
  for (int64_t i = 0; i < axes->n; i++) gone[axes->at[i]] = true;
  int64_t s = 1;
  for (uint32_t d = t->rank; d-- > 0;) {
    stride[d] = gone[d] ? 0 : s;
    if (!gone[d]) s *= t->dim[d];
  }
}

static int64_t int_limit(zg_dtype t, bool max) {
  if (t == ZG_BOOL) return max;
  const int bits = (int)zg_dtype_bytes(t) * 8 - zg_dtype_is_signed(t);
  if (max) return bits >= 63 ? INT64_MAX : ((int64_t)1 << bits) - 1;
  return zg_dtype_is_signed(t) ? (bits >= 63 ? INT64_MIN : -((int64_t)1 << bits)) : 0;
}

static double combine_f64(int64_t kind, double acc, double v) {
  switch ((zg_red)kind) {
    case ZG_RED_SUM: return acc + v;
    case ZG_RED_MAX: return v > acc || v != v ? v : acc;
    case ZG_RED_MIN: return v < acc || v != v ? v : acc;
    case ZG_RED_PROD: return acc * v;
  }
  return acc;
}

static int64_t combine_i64(int64_t kind, int64_t acc, int64_t v) {
  switch ((zg_red)kind) {
    case ZG_RED_SUM: return (int64_t)((uint64_t)acc + (uint64_t)v);
    case ZG_RED_MAX: return v > acc ? v : acc;
    case ZG_RED_MIN: return v < acc ? v : acc;
    case ZG_RED_PROD: return (int64_t)((uint64_t)acc * (uint64_t)v);
  }
  return acc;
}

static zg_status reduce_eval(zg_eval *x) {
  const zg_reduce_attr *a = x->attr;
  const zg_tensor *in = &x->in[0], *out = &x->out[0];
  const int64_t n = zg_elems(&in->type), m = zg_elems(&out->type);
  const bool real = zg_dtype_is_float(in->type.dtype), bound = a->kind == ZG_RED_MAX || a->kind == ZG_RED_MIN;
  void *mem;
  ZG_TRY(zg_alloc_big((uint64_t)m * 8 + 8, &mem));
  double *f = mem;
  int64_t *s = mem;
  for (int64_t i = 0; i < m; i++) {
    if (real) f[i] = bound ? (a->kind == ZG_RED_MAX ? -INFINITY : INFINITY) : a->kind == ZG_RED_PROD;
    else s[i] = bound ? int_limit(in->type.dtype, a->kind == ZG_RED_MIN) : a->kind == ZG_RED_PROD;
  }
  int64_t stride[ZG_MAX_RANK], idx[ZG_MAX_RANK] = {0}, at = 0;
  reduced_strides(&in->type, &a->axes, stride);
  for (int64_t i = 0; i < n; i++) {
    if (real) f[at] = combine_f64(a->kind, f[at], zg_get_f64(in->type.dtype, in->data, i));
    else s[at] = combine_i64(a->kind, s[at], zg_get_i64(in->type.dtype, in->data, i));
    zg__step(&in->type, idx, stride, &at);
  }
  for (int64_t i = 0; i < m; i++) {
    if (real) zg_set_f64(in->type.dtype, out->data, i, f[i]);
    else zg_set_i64(in->type.dtype, out->data, i, s[i]);
  }
  zg_free_big(mem, (uint64_t)m * 8 + 8);
  return NULL;
}

// d prod / dx_i = product of the others: p / x_i without zeros; with one zero only that zero has a gradient.
static zg_val prod_grad(zg_builder *b, zg_val x, zg_val dy, const zg_ints *axes) {
  const zg_dtype t = zg_b_type(b, x)->dtype;
  const zg_val one = zg_b_like(b, x, 1), zero = zg_b_like(b, x, 0);
  const zg_val is0 = zg_b_map2(b, ZG_S_EQ, x, zero);
  const zg_val x1 = zg_b_where(b, is0, one, x);
  const zg_val p = zg_b_reduce(b, ZG_RED_PROD, x1, axes->at, axes->n, true);
  const zg_val zeros = zg_b_reduce(b, ZG_RED_SUM, zg_b_cast(b, is0, t), axes->at, axes->n, true);
  const zg_val others = zg_b_where(b, zg_b_map2(b, ZG_S_EQ, zeros, zero), zg_div(b, p, x1), zero);
  const zg_val alone = zg_b_map2(b, ZG_S_AND, is0, zg_b_map2(b, ZG_S_EQ, zeros, one));
  return zg_mul(b, dy, zg_b_where(b, alone, p, others));
}

// max and min: split evenly among equals.
static zg_val extreme_grad(zg_builder *b, zg_val x, zg_val y, zg_val dy, const zg_ints *axes) {
  const zg_type t = *zg_b_type(b, x);
  zg_type keep = t;
  for (int64_t i = 0; i < axes->n; i++) keep.dim[axes->at[i]] = 1;
  const zg_val yk = zg_b_reshape(b, y, keep.dim, keep.rank), dk = zg_b_reshape(b, dy, keep.dim, keep.rank);
  const zg_val hit = zg_b_cast(b, zg_b_map2(b, ZG_S_EQ, x, yk), t.dtype);
  const zg_val count = zg_b_reduce(b, ZG_RED_SUM, hit, axes->at, axes->n, true);
  return zg_mul(b, hit, zg_div(b, dk, count));
}

static zg_status reduce_grad(zg_grad *g) {
  const zg_reduce_attr *a = g->attr;
  zg_builder *b = g->b;
  if (!zg_is(g->dout[0]) || !g->need[0]) return NULL;
  const zg_type t = *zg_b_type(b, g->in[0]);
  if (a->axes.n == 0) {
    g->din[0] = g->dout[0];
    return NULL;
  }
  switch ((zg_red)a->kind) {
    case ZG_RED_SUM: g->din[0] = zg__unreduce(b, g->dout[0], &t, &a->axes); break;
    case ZG_RED_PROD:
      g->din[0] = prod_grad(b, g->in[0], zg__unreduce(b, g->dout[0], &t, &a->axes), &a->axes);
      break;
    case ZG_RED_MAX:
    case ZG_RED_MIN: g->din[0] = extreme_grad(b, g->in[0], g->out[0], g->dout[0], &a->axes); break;
  }
  return NULL;
}

static const zg_attr_field reduce_fields[] = {
    ZG_FIELD(INT, zg_reduce_attr, kind, 0),
    ZG_FIELD(INT, zg_reduce_attr, keep, 0),
    ZG_FIELD(INTS, zg_reduce_attr, axes, 0),
};
static const zg_op_case reduce_cases[] = {
    {.name = "sum of the last axis", .text = IN("[3,5]") "%2 = reduce %1 kind=0 axes=[1]" OUT2},
    {.name = "sum of the first axis, kept", .text = IN("[7,3]") "%2 = reduce %1 kind=0 keep=1 axes=[0]" OUT2},
    {.name = "sum of outer and inner", .text = IN("[3,5,2]") "%2 = reduce %1 kind=0 axes=[0,2]" OUT2},
    {.name = "sum of all", .text = IN("[2,3]") "%2 = reduce %1 kind=0 axes=[0,1]" OUT2},
    {.name = "scalar", .text = IN("[]") "%2 = reduce %1 kind=0 axes=[]" OUT2},
    {.name = "empty", .text = IN("[0,3]") "%2 = reduce %1 kind=0 axes=[0]" OUT2},
    {.name = "empty product", .text = IN("[2,0]") "%2 = reduce %1 kind=3 axes=[1]" OUT2},
    {.name = "max", .text = IN("[3,7]") "%2 = reduce %1 kind=1 axes=[1]" OUT2},
    {.name = "min, kept", .text = IN("[3,7]") "%2 = reduce %1 kind=2 keep=1 axes=[0]" OUT2},
    {.name = "max: ties split evenly",
     .text = IN("[2,3]") "%2 = reduce %1 kind=1 axes=[1]" OUT2,
     .no_grad = true,
     .data = "x: 1 3 3 2 2 2",
     .expect = "x: 0 0.5 0.5 0.333333333333333333 0.333333333333333333 0.333333333333333333"},
    {.name = "product", .text = IN("[3,4]") "%2 = reduce %1 kind=3 axes=[1]" OUT2},
    {.name = "product: zeros",
     .text = IN("[3,3]") "%2 = reduce %1 kind=3 axes=[1]" OUT2,
     .no_grad = true,
     .data = "x: 2 0 3 0 0 4 1 2 3",
     .expect = "x: 0 6 0 0 0 0 6 3 2"},
    {.name = "integers",
     .text = "%1 = input name=\"x\" type=i32[2,5]\n%2 = reduce %1 kind=1 axes=[1]" OUT2,
     .hi = 9,
     .no_grad = true},
};
const zg_op zg_op_reduce = {.name = "reduce",
                            .traits = ZG_CORE,
                            ZG_ATTRS(zg_reduce_attr, reduce_fields),
                            .n_out = 1,
                            .infer = reduce_infer,
                            .eval = reduce_eval,
                            .grad = reduce_grad,
                            ZG_CASES(reduce_cases)};

// ---- ONNX ----------------------------------------------------------------------------------------
typedef zg_val (*reduce_fn)(zg_builder *b, zg_val x, const zg_ints *axes, bool keep);

// With noop_with_empty_axes the list of axes is empty: what remains is what each formula does to one element.
static zg_status import_reduce(zg_onnx_node *n, reduce_fn fn) {
  ZG_TRY(zg__need(n, 1));
  const zg_type t = *zg_b_type(n->b, n->in[0]);
  zg_ints axes;
  bool given;
  ZG_TRY(zg__axes(n, "axes", 1, t.rank, &axes, &given));
  if (axes.n == 0 && !zg_onnx_int(n, "noop_with_empty_axes", 0)) {
    int64_t *all = ZG_NEW_N(zg_builder_arena(n->b), int64_t, ZG_MAX_RANK);
    for (uint32_t i = 0; i < t.rank; i++) all[i] = i;
    axes = (zg_ints){t.rank, all};
  }
  n->out[0] = fn(n->b, n->in[0], &axes, zg_onnx_int(n, "keepdims", 1) != 0);
  return NULL;
}

static zg_val sum(zg_builder *b, zg_val x, const zg_ints *a, bool keep) {
  return zg__reduce(b, ZG_RED_SUM, x, a, keep);
}
static zg_val max(zg_builder *b, zg_val x, const zg_ints *a, bool keep) {
  return zg__reduce(b, ZG_RED_MAX, x, a, keep);
}
static zg_val min(zg_builder *b, zg_val x, const zg_ints *a, bool keep) {
  return zg__reduce(b, ZG_RED_MIN, x, a, keep);
}
static zg_val prod(zg_builder *b, zg_val x, const zg_ints *a, bool keep) {
  return zg__reduce(b, ZG_RED_PROD, x, a, keep);
}
static zg_val sum_square(zg_builder *b, zg_val x, const zg_ints *a, bool keep) {
  return sum(b, zg_mul(b, x, x), a, keep);
}
static zg_val l1(zg_builder *b, zg_val x, const zg_ints *a, bool keep) {
  return sum(b, zg_b_map1(b, ZG_S_ABS, x), a, keep);
}
// Integer tensors of the formulas with roots and logarithms are computed in double.
static zg_val in_double(zg_builder *b, zg_val x, const zg_ints *a, bool keep, reduce_fn fn) {
  const zg_dtype t = zg_b_type(b, x)->dtype;
  return zg_b_cast(b, fn(b, zg_b_cast(b, x, ZG_F64), a, keep), t);
}
static bool is_real(zg_builder *b, zg_val x) { return zg_dtype_is_float(zg_b_type(b, x)->dtype); }
static zg_val mean(zg_builder *b, zg_val x, const zg_ints *a, bool keep) {
  if (!is_real(b, x)) return in_double(b, x, a, keep, mean);
  return a->n ? zg_b_mean(b, x, a->at, a->n, keep) : x;
}
static zg_val log_sum(zg_builder *b, zg_val x, const zg_ints *a, bool keep) {
  if (!is_real(b, x)) return in_double(b, x, a, keep, log_sum);
  return zg_b_map1(b, ZG_S_LOG, sum(b, x, a, keep));
}
static zg_val log_sum_exp(zg_builder *b, zg_val x, const zg_ints *a, bool keep) {
  if (!is_real(b, x)) return in_double(b, x, a, keep, log_sum_exp);
  return zg_emit1(b, &zg_op_log_sum_exp, &(zg_axes_attr){keep, *a}, &x, 1);
}
static zg_val l2(zg_builder *b, zg_val x, const zg_ints *a, bool keep) {
  if (!is_real(b, x)) return in_double(b, x, a, keep, l2);
  return zg_emit1(b, &zg_op_norm2, &(zg_axes_attr){keep, *a}, &x, 1);
}

static zg_status import_sum(zg_onnx_node *n) { return import_reduce(n, sum); }
static zg_status import_mean(zg_onnx_node *n) { return import_reduce(n, mean); }
static zg_status import_max(zg_onnx_node *n) { return import_reduce(n, max); }
static zg_status import_min(zg_onnx_node *n) { return import_reduce(n, min); }
static zg_status import_prod(zg_onnx_node *n) { return import_reduce(n, prod); }
static zg_status import_l1(zg_onnx_node *n) { return import_reduce(n, l1); }
static zg_status import_l2(zg_onnx_node *n) { return import_reduce(n, l2); }
static zg_status import_log_sum(zg_onnx_node *n) { return import_reduce(n, log_sum); }
static zg_status import_log_sum_exp(zg_onnx_node *n) { return import_reduce(n, log_sum_exp); }
static zg_status import_sum_square(zg_onnx_node *n) { return import_reduce(n, sum_square); }

static const zg_onnx_row rows[] = {
    {"ReduceSum", "", 1, 0, import_sum},
    {"ReduceMean", "", 1, 0, import_mean},
    {"ReduceMax", "", 1, 0, import_max},
    {"ReduceMin", "", 1, 0, import_min},
    {"ReduceProd", "", 1, 0, import_prod},
    {"ReduceL1", "", 1, 0, import_l1},
    {"ReduceL2", "", 1, 0, import_l2},
    {"ReduceLogSum", "", 1, 0, import_log_sum},
    {"ReduceLogSumExp", "", 1, 0, import_log_sum_exp},
    {"ReduceSumSquare", "", 1, 0, import_sum_square},
};
static const zg_op *const ops[] = {&zg_op_reduce};
const zg_family zg_family_reduce = {
    .name = "reduce", .ops = ops, .n_ops = ZG_COUNT(ops), .onnx = rows, .n_onnx = ZG_COUNT(rows)};
