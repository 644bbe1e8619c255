// Op family: reductions, cumsum, arg-reduce, top-k.
//   reduce, arg_reduce, cumsum, topk   core
//   log_sum_exp, norm2                 lower to reduce; short gradients: exp(x - y) dy and x / y dy
#include <math.h>
#include <stdlib.h>

#include "graph/op/op_priv.h"

// ---- reduce -------------------------------------------------------------------------------------
static zg_status check_axes(const zg_ints *axes, const zg_type *t) {
  for (int64_t i = 0; i < axes->n; i++)
    if (axes->at[i] < 0 || axes->at[i] >= t->rank || (i && axes->at[i] <= axes->at[i - 1]))
      return zg_error(ZG_INVALID, "axes must be sorted and inside %s; axis %lld is not", zg_type_text(t),
                      (long long)axes->at[i]);
  return NULL;
}

static zg_type reduced(const zg_type *t, const zg_ints *axes, bool keep) {
  zg_type r = zg_type_scalar(t->dtype);
  int64_t k = 0;
  for (uint32_t d = 0; d < t->rank; d++) {
    if (k < axes->n && axes->at[k] == d) {
      k++;
      if (keep) r.dim[r.rank++] = 1;
    } else {
      r.dim[r.rank++] = t->dim[d];
    }
  }
  return r;
}

static zg_status reduce_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  const zg_reduce_attr *a = x->attr;
  ZG_TRY(check_axes(&a->axes, x->in[0]));
  if (a->kind < ZG_RED_SUM || a->kind > ZG_RED_PROD)
    return zg_error(ZG_INVALID, "no kind %lld", (long long)a->kind);
  x->out[0] = reduced(x->in[0], &a->axes, a->keep);
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
#define IN(shape) "%1 = input name=\"x\" type=f64" shape "\n"
#define OUT2 "\noutput value \"y\" %2"
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

// ---- arg_reduce ---------------------------------------------------------------------------------
static zg_status one_axis(const zg_infer *x, int64_t axis) {
  if (axis < 0 || axis >= x->in[0]->rank)
    return zg_error(ZG_INVALID, "axis %lld is outside %s", (long long)axis, zg_type_text(x->in[0]));
  return NULL;
}

static zg_status arg_reduce_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  const zg_arg_reduce_attr *a = x->attr;
  ZG_TRY(one_axis(x, a->axis));
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

// ---- cumsum -------------------------------------------------------------------------------------
static zg_status cumsum_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  ZG_TRY(one_axis(x, ((const zg_cumsum_attr *)x->attr)->axis));
  x->out[0] = *x->in[0];
  return NULL;
}

static zg_status cumsum_eval(zg_eval *x) {
  const zg_cumsum_attr *a = x->attr;
  const zg_type *t = &x->in[0].type;
  const int64_t outer = zg__prod(t, 0, a->axis), n = t->dim[a->axis],
                inner = zg__prod(t, a->axis + 1, t->rank);
  const bool real = zg_dtype_is_float(t->dtype);
  for (int64_t o = 0; o < outer; o++)
    for (int64_t i = 0; i < inner; i++) {
      double f = 0;
      int64_t s = 0;
      for (int64_t j = 0; j < n; j++) {
        const int64_t at = (o * n + (a->reverse ? n - 1 - j : j)) * inner + i;
        const double f1 = real ? f + zg_get_f64(t->dtype, x->in[0].data, at) : 0;
        const int64_t s1 =
            real ? 0 : (int64_t)((uint64_t)s + (uint64_t)zg_get_i64(t->dtype, x->in[0].data, at));
        if (real) zg_set_f64(t->dtype, x->out[0].data, at, a->exclusive ? f : f1);
        else zg_set_i64(t->dtype, x->out[0].data, at, a->exclusive ? s : s1);
        f = f1, s = s1;
      }
    }
  return NULL;
}

static zg_status cumsum_grad(zg_grad *g) {
  zg_cumsum_attr a = *(const zg_cumsum_attr *)g->attr;
  a.reverse = !a.reverse;
  if (zg_is(g->dout[0]) && g->need[0]) g->din[0] = zg_emit1(g->b, &zg_op_cumsum, &a, g->dout, 1);
  return NULL;
}

static const zg_attr_field cumsum_fields[] = {
    ZG_FIELD(INT, zg_cumsum_attr, axis, 0),
    ZG_FIELD(INT, zg_cumsum_attr, exclusive, 0),
    ZG_FIELD(INT, zg_cumsum_attr, reverse, 0),
};
static const zg_op_case cumsum_cases[] = {
    {.name = "last axis", .text = IN("[3,5]") "%2 = cumsum %1 axis=1" OUT2},
    {.name = "first axis, exclusive", .text = IN("[4,3]") "%2 = cumsum %1 axis=0 exclusive=1" OUT2},
    {.name = "reverse", .text = IN("[2,3,2]") "%2 = cumsum %1 axis=1 reverse=1" OUT2},
    {.name = "reverse, exclusive", .text = IN("[7]") "%2 = cumsum %1 axis=0 exclusive=1 reverse=1" OUT2},
    {.name = "empty", .text = IN("[3,0]") "%2 = cumsum %1 axis=1" OUT2},
};
const zg_op zg_op_cumsum = {.name = "cumsum",
                            .traits = ZG_CORE,
                            ZG_ATTRS(zg_cumsum_attr, cumsum_fields),
                            .n_out = 1,
                            .infer = cumsum_infer,
                            .eval = cumsum_eval,
                            .grad = cumsum_grad,
                            ZG_CASES(cumsum_cases)};

// ---- topk ---------------------------------------------------------------------------------------
static zg_status topk_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  const zg_topk_attr *a = x->attr;
  ZG_TRY(one_axis(x, a->axis));
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

// ---- log_sum_exp, norm2 -------------------------------------------------------------------------
typedef struct {
  int64_t keep;
  zg_ints axes;
} axes_attr;

static zg_status axes_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  const axes_attr *a = x->attr;
  ZG_TRY(check_axes(&a->axes, x->in[0]));
  if (!zg_dtype_is_float(x->in[0]->dtype))
    return zg_error(ZG_INVALID, "wants a float tensor, not %s", zg_type_text(x->in[0]));
  x->out[0] = reduced(x->in[0], &a->axes, a->keep);
  return NULL;
}

static zg_status log_sum_exp_lower(zg_lower *x) {
  const axes_attr *a = x->attr;
  zg_builder *b = x->b;
  const zg_dtype t = zg_b_type(b, x->in[0])->dtype;
  const zg_val v = zg__wide(b, x->in[0]);
  zg_val m = zg__reduce(b, ZG_RED_MAX, v, &a->axes, true);
  m = zg_b_where(b, zg_b_map1(b, ZG_S_IS_INF, m), zg_b_like(b, m, 0), m);  // all -inf: -inf, not NaN
  const zg_val s = zg__reduce(b, ZG_RED_SUM, zg_b_map1(b, ZG_S_EXP, zg_sub(b, v, m)), &a->axes, true);
  const zg_val y = zg_b_cast(b, zg_add(b, zg_b_map1(b, ZG_S_LOG, s), m), t);
  const zg_type in = *zg_b_type(b, x->in[0]), out = reduced(&in, &a->axes, a->keep);
  x->out[0] = zg_b_reshape_like(b, y, &out);
  return NULL;
}

static zg_status log_sum_exp_grad(zg_grad *g) {
  const axes_attr *a = g->attr;
  zg_builder *b = g->b;
  if (!zg_is(g->dout[0]) || !g->need[0]) return NULL;
  const zg_type t = *zg_b_type(b, g->in[0]);
  const zg_val y = zg__unreduce(b, g->out[0], &t, &a->axes), dy = zg__unreduce(b, g->dout[0], &t, &a->axes);
  g->din[0] = zg_mul(b, dy, zg_b_map1(b, ZG_S_EXP, zg_sub(b, g->in[0], y)));
  return NULL;
}

static zg_status norm2_lower(zg_lower *x) {
  const axes_attr *a = x->attr;
  zg_builder *b = x->b;
  const zg_dtype t = zg_b_type(b, x->in[0])->dtype;
  const zg_val v = zg__wide(b, x->in[0]);
  const zg_val s = zg__reduce(b, ZG_RED_SUM, zg_mul(b, v, v), &a->axes, a->keep);
  x->out[0] = zg_b_cast(b, zg_b_map1(b, ZG_S_SQRT, s), t);
  return NULL;
}

// x / y, and 0 where the norm is 0.
static zg_status norm2_grad(zg_grad *g) {
  const axes_attr *a = g->attr;
  zg_builder *b = g->b;
  if (!zg_is(g->dout[0]) || !g->need[0]) return NULL;
  const zg_type t = *zg_b_type(b, g->in[0]);
  const zg_val y = g->out[0], zero = zg_b_like(b, y, 0);
  const zg_val k = zg_b_where(b, zg_b_map2(b, ZG_S_EQ, y, zero), zero, zg_div(b, g->dout[0], y));
  g->din[0] = zg_mul(b, g->in[0], zg__unreduce(b, k, &t, &a->axes));
  return NULL;
}

static const zg_attr_field axes_fields[] = {ZG_FIELD(INT, axes_attr, keep, 0),
                                            ZG_FIELD(INTS, axes_attr, axes, 0)};
static const zg_op_case log_sum_exp_cases[] = {
    {.name = "last axis", .text = IN("[3,5]") "%2 = log_sum_exp %1 axes=[1]" OUT2},
    {.name = "all, kept", .text = IN("[2,3]") "%2 = log_sum_exp %1 keep=1 axes=[0,1]" OUT2},
    {.name = "no axes", .text = IN("[3]") "%2 = log_sum_exp %1 axes=[]" OUT2},
    {.name = "large values", .text = IN("[2,3]") "%2 = log_sum_exp %1 axes=[0]" OUT2, .lo = 700, .hi = 710},
};
static const zg_op op_log_sum_exp = {.name = "log_sum_exp",
                                     ZG_ATTRS(axes_attr, axes_fields),
                                     .n_out = 1,
                                     .infer = axes_infer,
                                     .grad = log_sum_exp_grad,
                                     .lower = log_sum_exp_lower,
                                     ZG_CASES(log_sum_exp_cases)};
static const zg_op_case norm2_cases[] = {
    {.name = "last axis", .text = IN("[3,5]") "%2 = norm2 %1 axes=[1]" OUT2},
    {.name = "all", .text = IN("[2,3]") "%2 = norm2 %1 axes=[0,1]" OUT2},
    {.name = "zero",
     .text = IN("[2,2]") "%2 = norm2 %1 keep=1 axes=[1]" OUT2,
     .no_grad = true,
     .data = "x: 0 0 3 4",
     .expect = "x: 0 0 0.6 0.8"},
};
static const zg_op op_norm2 = {.name = "norm2",
                               ZG_ATTRS(axes_attr, axes_fields),
                               .n_out = 1,
                               .infer = axes_infer,
                               .grad = norm2_grad,
                               .lower = norm2_lower,
                               ZG_CASES(norm2_cases)};

// ---- ONNX ---------------------------------------------------------------------------------------
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
  return zg_emit1(b, &op_log_sum_exp, &(axes_attr){keep, *a}, &x, 1);
}
static zg_val l2(zg_builder *b, zg_val x, const zg_ints *a, bool keep) {
  if (!is_real(b, x)) return in_double(b, x, a, keep, l2);
  return zg_emit1(b, &op_norm2, &(axes_attr){keep, *a}, &x, 1);
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

static zg_status import_cumsum(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 2));
  double axis;
  ZG_TRY(zg__const_scalar(n, 1, &axis));
  zg_cumsum_attr a = {.exclusive = zg_onnx_int(n, "exclusive", 0), .reverse = zg_onnx_int(n, "reverse", 0)};
  ZG_TRY(zg__axis(n, (int64_t)axis, zg_b_type(n->b, n->in[0])->rank, &a.axis));
  n->out[0] = zg_emit1(n->b, &zg_op_cumsum, &a, n->in, 1);
  return NULL;
}

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
    {"ArgMax", "", 1, 0, import_argmax, .no_gradient = true},
    {"ArgMin", "", 1, 0, import_argmin, .no_gradient = true},
    {"CumSum", "", 11, 0, import_cumsum},
    {"TopK", "", 1, 0, import_topk},
};
static const zg_op *const ops[] = {&zg_op_reduce, &zg_op_arg_reduce, &zg_op_cumsum,
                                   &zg_op_topk,   &op_log_sum_exp,   &op_norm2};
const zg_family zg_family_reduce = {
    .name = "reduce", .ops = ops, .n_ops = ZG_COUNT(ops), .onnx = rows, .n_onnx = ZG_COUNT(rows)};
