// Op family: pooling over 1 to 3 spatial axes. The core op takes padding that makes every window whole; what
// ceil_mode adds is part of the end pads, and the one case in which that changes a divisor (count_include_pad
// with ceil_mode) is a multiplication by a constant, made at import. Maxima and their gradients go to the
// first of equals, a NaN wins.
#include <math.h>
#include "graph/op/import_priv.h"

static const zg_attr_field pool_fields[] = {
    ZG_FIELD(INT, zg_pool_attr, kind, 0),       ZG_FIELD(INTS, zg_pool_attr, kernel, 0),
    ZG_FIELD(INTS, zg_pool_attr, strides, 0),   ZG_FIELD(INTS, zg_pool_attr, pads, 0),
    ZG_FIELD(INTS, zg_pool_attr, dilations, 0), ZG_FIELD(INTS, zg_pool_attr, dim, 0),
};

// ---- shapes -----------------------------------------------------------------------------------------------
static zg_status pool_type(const zg_pool_attr *a, const zg_type *x, zg_type *y) {
  if (x->rank < 3 || x->rank > 5)
    return zg_error(ZG_UNSUPPORTED, "data is %s, want rank 3 to 5 (1 to 3 spatial dims)", zg_type_text(x));
  const int64_t r = (int64_t)x->rank - 2;
  if (a->kernel.n != r || a->strides.n != r || a->dilations.n != r || a->pads.n != 2 * r || a->dim.n != r)
    return zg_error(ZG_INVALID,
                    "kernel, strides, dilations, dim need %lld entries and pads %lld, for data %s",
                    (long long)r, (long long)(2 * r), zg_type_text(x));
  if (a->kind < ZG_POOL_MAX || a->kind > ZG_POOL_AVG_PAD) return zg_error(ZG_INVALID, "no such kind");
  if (a->kind != ZG_POOL_MAX && !zg_dtype_is_float(x->dtype))
    return zg_error(ZG_INVALID, "the average of %s is not defined, want a float type", zg_type_text(x));
  *y = *x;
  for (int64_t i = 0; i < r; i++) {
    if (a->strides.at[i] < 1 || a->dilations.at[i] < 1 || a->kernel.at[i] < 1 || a->pads.at[i] < 0 ||
        a->pads.at[r + i] < 0)
      return zg_error(ZG_INVALID, "kernel, strides and dilations must be positive, pads not negative");
    const int64_t room =
        x->dim[2 + i] + a->pads.at[i] + a->pads.at[r + i] - (a->kernel.at[i] - 1) * a->dilations.at[i] - 1;
    if (room < 0)
      return zg_error(ZG_INVALID, "window of %lld does not fit into %s with its padding on spatial axis %lld",
                      (long long)a->kernel.at[i], zg_type_text(x), (long long)i);
    y->dim[2 + i] = room / a->strides.at[i] + 1;
    if (y->dim[2 + i] != a->dim.at[i])
      return zg_error(ZG_INVALID, "dim says %lld on spatial axis %lld, the windows are %lld",
                      (long long)a->dim.at[i], (long long)i, (long long)y->dim[2 + i]);
  }
  return NULL;
}

static zg_status infer_pool(zg_infer *in) {
  ZG_TRY(zg_infer_arity(in, 1, 1));
  return pool_type(in->attr, in->in[0], in->out);
}

static zg_status infer_pool_grad(zg_infer *in) {
  ZG_TRY(zg_infer_arity(in, 2, 2));
  zg_type y;
  ZG_TRY(pool_type(in->attr, in->in[0], &y));
  if (!zg_type_equal(&y, in->in[1]))
    return zg_error(ZG_INVALID, "pool_grad: dy is %s, but pooling %s gives %s", zg_type_text(in->in[1]),
                    zg_type_text(in->in[0]), zg_type_text(&y));
  *in->out = *in->in[0];
  return NULL;
}

// ---- evaluation -------------------------------------------------------------------------------------------
typedef struct {
  int64_t x[3], y[3], k[3], stride[3], pad[3], dil[3];
} geometry;  // three axes; missing ones in front are 1

static geometry make_geometry(const zg_pool_attr *a, const zg_type *x) {
  geometry g;
  const int first = 3 - (int)(x->rank - 2);
  for (int i = 0; i < 3; i++) {
    const int s = i - first;
    g.x[i] = s < 0 ? 1 : x->dim[2 + s];
    g.y[i] = s < 0 ? 1 : a->dim.at[s];
    g.k[i] = s < 0 ? 1 : a->kernel.at[s];
    g.stride[i] = s < 0 ? 1 : a->strides.at[s];
    g.pad[i] = s < 0 ? 0 : a->pads.at[s];
    g.dil[i] = s < 0 ? 1 : a->dilations.at[s];
  }
  return g;
}

// Positions in a plane of x that window p covers, in order; returns their number. `at` has room for the
// kernel's volume.
static int64_t window(const geometry *g, int64_t p, int64_t *at) {
  const int64_t q[3] = {p / (g->y[1] * g->y[2]), p / g->y[2] % g->y[1], p % g->y[2]};
  int64_t n = 0;
  for (int64_t kk = 0; kk < g->k[0] * g->k[1] * g->k[2]; kk++) {
    const int64_t k[3] = {kk / (g->k[1] * g->k[2]), kk / g->k[2] % g->k[1], kk % g->k[2]};
    int64_t index = 0;
    bool inside = true;
    for (int i = 0; i < 3; i++) {
      const int64_t c = q[i] * g->stride[i] + k[i] * g->dil[i] - g->pad[i];
      inside = inside && c >= 0 && c < g->x[i];
      index = index * g->x[i] + c;
    }
    if (inside) at[n++] = index;
  }
  return n;
}

// Which of n positions holds the maximum (n > 0).
static int64_t first_max(const zg_tensor *x, int64_t base, const int64_t *at, int64_t n) {
  int64_t best = 0;
  double top = zg_get_f64(x->type.dtype, x->data, base + at[0]);
  for (int64_t i = 1; i < n && !isnan(top); i++) {
    const double v = zg_get_f64(x->type.dtype, x->data, base + at[i]);
    if (v > top || isnan(v)) best = i, top = v;
  }
  return best;
}

static double lowest(zg_dtype t) {
  if (zg_dtype_is_float(t)) return -INFINITY;
  return zg_dtype_is_signed(t) ? -ldexp(1, 8 * (int)zg_dtype_bytes(t) - 1) : 0;
}

static double pool_one(const zg_tensor *x, int64_t kind, int64_t base, const int64_t *at, int64_t n,
                       int64_t volume) {
  const zg_dtype t = x->type.dtype;
  if (kind == ZG_POOL_MAX)
    return n ? zg_get_f64(t, x->data, base + at[first_max(x, base, at, n)]) : lowest(t);
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += zg_get_f64(t, x->data, base + at[i]);
  return sum / (double)(kind == ZG_POOL_AVG_PAD ? volume : ZG_MAX(n, 1));
}

static zg_status eval_pool(zg_eval *e) {
  const zg_pool_attr *a = e->attr;
  const zg_tensor *x = &e->in[0], *y = &e->out[0];
  const geometry g = make_geometry(a, &x->type);
  const int64_t nx = g.x[0] * g.x[1] * g.x[2], ny = g.y[0] * g.y[1] * g.y[2],
                volume = g.k[0] * g.k[1] * g.k[2];
  int64_t *at = zg_alloc((size_t)volume * sizeof *at);
  for (int64_t p = 0; p < ny; p++) {
    const int64_t n = window(&g, p, at);
    for (int64_t c = 0; c < x->type.dim[0] * x->type.dim[1]; c++)
      zg_set_f64(y->type.dtype, y->data, c * ny + p, pool_one(x, a->kind, c * nx, at, n, volume));
  }
  zg_free(at);
  return NULL;
}

static zg_status eval_pool_grad(zg_eval *e) {
  const zg_pool_attr *a = e->attr;
  const zg_tensor *x = &e->in[0], *dy = &e->in[1], *dx = &e->out[0];
  const geometry g = make_geometry(a, &x->type);
  const int64_t nx = g.x[0] * g.x[1] * g.x[2], ny = g.y[0] * g.y[1] * g.y[2],
                volume = g.k[0] * g.k[1] * g.k[2];
  double *sum = NULL;
  const uint64_t bytes = (uint64_t)(zg_elems(&x->type) + 1) * sizeof *sum;
  ZG_TRY(zg_alloc_big(bytes, (void **)&sum));
  int64_t *at = zg_alloc((size_t)volume * sizeof *at);
  for (int64_t p = 0; p < ny; p++) {
    const int64_t n = window(&g, p, at);
    for (int64_t c = 0; c < x->type.dim[0] * x->type.dim[1] && n; c++) {
      const double d = zg_get_f64(dy->type.dtype, dy->data, c * ny + p);
      if (a->kind == ZG_POOL_MAX) {
        sum[c * nx + at[first_max(x, c * nx, at, n)]] += d;
      } else {
        for (int64_t i = 0; i < n; i++)
          sum[c * nx + at[i]] += d / (double)(a->kind == ZG_POOL_AVG_PAD ? volume : n);
      }
    }
  }
  zg_convert(dx->type.dtype, dx->data, ZG_F64, sum, zg_elems(&dx->type));
  zg_free(at);
  zg_free_big(sum, bytes);
  return NULL;
}

// ---- gradients --------------------------------------------------------------------------------------------
// What `payload` (shape of x) holds where each window of x has its first maximum. Built from one strided
// slice for each position in the kernel: rare (indices of MaxPool, second derivatives), so it needs no kernel
// of its own.
static zg_val pick_at_max(zg_builder *b, const zg_pool_attr *a, zg_val x, zg_val payload) {
  const zg_type t = *zg_b_type(b, x);
  const int64_t r = a->kernel.n;
  int64_t padded[ZG_MAX_RANK], start[ZG_MAX_RANK] = {0}, step[ZG_MAX_RANK] = {1, 1}, size[ZG_MAX_RANK],
                               one[ZG_MAX_RANK] = {1, 1};
  int64_t volume = 1;
  memcpy(padded, t.dim, sizeof padded);
  memcpy(size, t.dim, sizeof size);
  for (int64_t i = 0; i < r; i++) {
    start[2 + i] = a->pads.at[i];
    padded[2 + i] += a->pads.at[i] + a->pads.at[r + i];
    step[2 + i] = a->strides.at[i];
    size[2 + i] = a->dim.at[i];
    one[2 + i] = 1;
    volume *= a->kernel.at[i];
  }
  const zg_val xs = zg_b_unslice(b, x, padded, start, one, lowest(t.dtype)),
               ps = zg_b_unslice(b, payload, padded, start, one, 0);
  zg_val best = {0}, pick = {0};
  for (int64_t k = 0; k < volume; k++) {
    for (int64_t i = r, rest = k; i-- > 0; rest /= a->kernel.at[i])
      start[2 + i] = rest % a->kernel.at[i] * a->dilations.at[i];
    const zg_val v = zg_b_slice(b, xs, start, step, size), p = zg_b_slice(b, ps, start, step, size);
    zg_val take = {0};
    if (k) take = zg_b_map2(b, ZG_S_LT, best, v);
    if (k && zg_dtype_is_float(t.dtype)) {  // a NaN wins over what is no NaN yet
      const zg_val fresh =
          zg_b_map2(b, ZG_S_AND, zg_b_map1(b, ZG_S_IS_NAN, v), zg_b_map2(b, ZG_S_EQ, best, best));
      take = zg_b_map2(b, ZG_S_OR, take, fresh);
    }
    pick = k ? zg_b_where(b, take, p, pick) : p;
    best = k ? zg_b_where(b, take, v, best) : v;
  }
  return pick;
}

static zg_status grad_pool(zg_grad *g) {
  const zg_val in[] = {g->in[0], g->dout[0]};
  if (g->need[0]) g->din[0] = zg_emit1(g->b, &zg_op_pool_grad, g->attr, in, 2);
  return NULL;
}

// Linear in dy; piecewise constant in x.
static zg_status grad_pool_grad(zg_grad *g) {
  const zg_pool_attr *a = g->attr;
  if (!g->need[1]) return NULL;
  if (a->kind == ZG_POOL_MAX) g->din[1] = pick_at_max(g->b, a, g->in[0], g->dout[0]);
  else g->din[1] = zg_emit1(g->b, &zg_op_pool, a, &g->dout[0], 1);
  return NULL;
}

// ---- cases ------------------------------------------------------------------------------------------------
#define X(type) "%1 = input name=\"x\" type=" type "\n"
#define Y(type) "%2 = input name=\"dy\" type=" type "\n"
#define OUT "\noutput value \"y\" %3"
static const zg_op_case pool_cases[] = {
    {.name = "max",
     .text = X("f64[2,3,6,4]") "%3 = pool %1 kernel=[2,2] strides=[2,2] pads=[0,0,0,0] dilations=[1,1] "
                               "dim=[3,2]" OUT},
    {.name = "max, overlapping, asymmetric pads",
     .text = X("f64[1,2,5,7]") "%3 = pool %1 kernel=[3,2] strides=[2,1] pads=[1,0,0,1] dilations=[1,1] "
                               "dim=[2,7]" OUT},
    {.name = "max, dilated, rest at the end",
     .text = X("f64[1,1,8,7]") "%3 = pool %1 kernel=[3,2] strides=[2,3] pads=[0,1,1,0] dilations=[2,3] "
                               "dim=[3,2]" OUT},
    {.name = "max, ties to the first",
     .no_grad = true,
     .text = X("f64[1,1,4]") "%3 = pool %1 kernel=[2] strides=[1] pads=[0,0] dilations=[1] dim=[3]" OUT,
     .data = "x: 1 1 1 0",
     .expect = "x: 1 1 1 0"},
    {.name = "average without padding",
     .text = X("f64[2,2,5,5]") "%3 = pool %1 kind=1 kernel=[3,3] strides=[2,2] pads=[1,1,1,1] "
                               "dilations=[1,1] dim=[3,3]" OUT},
    {.name = "average with padding",
     .text = X("f64[1,2,5,4]") "%3 = pool %1 kind=2 kernel=[3,2] strides=[1,2] pads=[1,1,0,1] "
                               "dilations=[1,1] dim=[4,3]" OUT},
    {.name = "average, 1d, dilated",
     .text =
         X("f64[2,1,9]") "%3 = pool %1 kind=1 kernel=[3] strides=[2] pads=[1,2] dilations=[2] dim=[4]" OUT},
    {.name = "average, 3d",
     .text = X("f64[1,2,3,4,3]") "%3 = pool %1 kind=1 kernel=[2,2,2] strides=[1,2,2] pads=[0,0,1,0,0,0] "
                                 "dilations=[1,1,1] dim=[2,2,2]" OUT},
    {.name = "max, 3d, one window",
     .text = X("f64[2,1,2,3,2]") "%3 = pool %1 kernel=[2,3,2] strides=[1,1,1] pads=[0,0,0,0,0,0] "
                                 "dilations=[1,1,1] dim=[1,1,1]" OUT},
    {.name = "empty batch",
     .text = X("f64[0,3,4,4]") "%3 = pool %1 kernel=[2,2] strides=[2,2] pads=[0,0,0,0] dilations=[1,1] "
                               "dim=[2,2]" OUT},
};
static const zg_op_case pool_grad_cases[] = {
    {.name = "max, overlapping",
     .text = X("f64[1,2,5,7]") Y("f64[1,2,2,7]") "%3 = pool_grad %1, %2 kernel=[3,2] strides=[2,1] "
                                                 "pads=[1,0,0,1] dilations=[1,1] dim=[2,7]" OUT},
    {.name = "average",
     .text = X("f64[2,2,5,5]") Y("f64[2,2,3,3]") "%3 = pool_grad %1, %2 kind=1 kernel=[3,3] strides=[2,2] "
                                                 "pads=[1,1,1,1] dilations=[1,1] dim=[3,3]" OUT},
    {.name = "average with padding, 1d",
     .text = X("f64[2,2,7]") Y("f64[2,2,4]") "%3 = pool_grad %1, %2 kind=2 kernel=[3] strides=[2] pads=[1,1] "
                                             "dilations=[1] dim=[4]" OUT},
};
#undef X
#undef Y
#undef OUT

const zg_op zg_op_pool = {.name = "pool",
                          .traits = ZG_CORE,
                          ZG_ATTRS(zg_pool_attr, pool_fields),
                          .n_out = 1,
                          .infer = infer_pool,
                          .eval = eval_pool,
                          .grad = grad_pool,
                          ZG_CASES(pool_cases)};
const zg_op zg_op_pool_grad = {.name = "pool_grad",
                               .traits = ZG_CORE,
                               ZG_ATTRS(zg_pool_attr, pool_fields),
                               .n_out = 1,
                               .infer = infer_pool_grad,
                               .eval = eval_pool_grad,
                               .grad = grad_pool_grad,
                               ZG_CASES(pool_grad_cases)};

// ---- import -----------------------------------------------------------------------------------------------
typedef struct {
  zg__window w;     // pads as declared (or chosen by auto_pad)
  int64_t pads[6];  // with what ceil_mode adds
  int64_t dim[3];
  bool extended;  // pads differ from w.pads
} pool_shape;

// Output dims. ceil_mode drops a last window that would start in the end padding (ONNX MaxPool-22, PyTorch).
static zg_status read_shape(const zg_onnx_node *n, const zg_type *x, pool_shape *s) {
  *s = (pool_shape){0};
  ZG_TRY(zg__window_read(n, x, NULL, &s->w));
  ZG_TRY(zg__window_auto_pad(n, x, &s->w));
  memcpy(s->pads, s->w.pads, sizeof s->pads);
  const bool up = zg_onnx_int(n, "ceil_mode", 0);
  const int64_t r = s->w.rank;
  for (int64_t i = 0; i < r; i++) {
    const int64_t in = x->dim[2 + i], begin = s->pads[i], stride = s->w.strides[i],
                  span = zg__window_span(&s->w, i);
    const int64_t room = in + begin + s->pads[r + i] - span;
    if (room < 0 && !(up && room > -stride))
      return zg_onnx_error(n, ZG_INVALID,
                           "window of %lld does not fit into input 0, %s, on spatial axis %lld",
                           (long long)span, zg_type_text(x), (long long)i);
    s->dim[i] = (up ? room + stride - 1 : room) / stride + 1;
    if (up && (s->dim[i] - 1) * stride >= in + begin) s->dim[i]--;
    const int64_t need = (s->dim[i] - 1) * stride + span - in - begin;
    if (need <= s->pads[r + i]) continue;
    s->pads[r + i] = need;
    s->extended = true;
  }
  return NULL;
}

static zg_pool_attr shape_attr(const pool_shape *s, zg_pool_kind kind) {
  const int64_t r = s->w.rank;
  return (zg_pool_attr){.kind = kind,
                        .kernel = zg__array(s->w.kernel, r),
                        .strides = zg__array(s->w.strides, r),
                        .pads = zg__array(s->pads, 2 * r),
                        .dilations = zg__array(s->w.dilations, r),
                        .dim = zg__array(s->dim, r)};
}

// Position of each element of x as MaxPool's Indices count it: in the whole tensor, the spatial part in row-
// or column-major.
static zg_val flat_positions(zg_builder *b, const zg_type *x, bool column_major) {
  zg_val sum = {0};
  int64_t plane = 1;
  for (uint32_t i = 2; i < x->rank; i++) plane *= x->dim[i];
  for (uint32_t i = 0; i < x->rank; i++) {
    int64_t step = 1;
    if (i < 2) step = i ? plane : plane * x->dim[1];
    for (uint32_t j = 2; i >= 2 && j < x->rank; j++) step *= (column_major ? j < i : j > i) ? x->dim[j] : 1;
    zg_iota_attr a = {.type = {.dtype = ZG_I64, .rank = x->rank}, .axis = i, .step = (double)step};
    for (uint32_t j = 0; j < x->rank; j++) a.type.dim[j] = j == i ? x->dim[j] : 1;
    const zg_val part = zg_emit1(b, &zg_op_iota, &a, NULL, 0);
    sum = i ? zg_add(b, sum, part) : part;
  }
  return zg_b_expand(b, sum, x->dim, x->rank);
}

static zg_status import_max_pool(zg_onnx_node *n) {
  const zg_val x = zg_onnx_in(n, 0);
  const zg_type t = *zg_b_type(n->b, x);
  pool_shape s;
  ZG_TRY(read_shape(n, &t, &s));
  const zg_pool_attr a = shape_attr(&s, ZG_POOL_MAX);
  n->out[0] = zg_emit1(n->b, &zg_op_pool, &a, &x, 1);
  if (n->n_out > 1 && n->out_used[1])
    n->out[1] = pick_at_max(n->b, &a, x, flat_positions(n->b, &t, zg_onnx_int(n, "storage_order", 0)));
  return NULL;
}

// Kernel volume over the number of elements, real or of declared padding, in each window: 1 but for windows
// that ceil_mode lets reach beyond the padding.
static zg_val divisor_fix(zg_builder *b, const zg_type *x, const pool_shape *s) {
  const int64_t r = s->w.rank;
  zg_val fix = {0};
  for (int64_t i = 0; i < r; i++) {
    zg_type t = {.dtype = ZG_F64, .rank = x->rank, .dim = {1, 1, 1, 1, 1}};
    for (uint32_t j = x->rank; j < ZG_MAX_RANK; j++) t.dim[j] = 0;
    t.dim[2 + i] = s->dim[i];
    double *at = ZG_NEW_N(zg_builder_arena(b), double, s->dim[i] + 1);
    for (int64_t p = 0; p < s->dim[i]; p++) {
      int64_t count = 0;
      for (int64_t k = 0; k < s->w.kernel[i]; k++)
        count +=
            p * s->w.strides[i] + k * s->w.dilations[i] < s->w.pads[i] + x->dim[2 + i] + s->w.pads[r + i];
      at[p] = (double)s->w.kernel[i] / (double)ZG_MAX(count, 1);
    }
    const zg_val part = zg_b_const_data(b, &t, at);
    fix = i ? zg_mul(b, fix, part) : part;
  }
  return zg_b_cast(b, fix, x->dtype);
}

static zg_status import_average_pool(zg_onnx_node *n) {
  const zg_val x = zg_onnx_in(n, 0);
  const zg_type t = *zg_b_type(n->b, x);
  pool_shape s;
  ZG_TRY(read_shape(n, &t, &s));
  const bool pad = zg_onnx_int(n, "count_include_pad", 0);
  const zg_pool_attr a = shape_attr(&s, pad ? ZG_POOL_AVG_PAD : ZG_POOL_AVG);
  n->out[0] = zg_emit1(n->b, &zg_op_pool, &a, &x, 1);
  if (pad && s.extended) n->out[0] = zg_mul(n->b, n->out[0], divisor_fix(n->b, &t, &s));
  return NULL;
}

// |x|^p and its inverse (sum)^(1/p).
static zg_val power(zg_builder *b, zg_val x, double p) {
  if (p == 2) return zg_mul(b, x, x);
  const zg_val m = zg_b_map1(b, ZG_S_ABS, x);
  return p == 1 ? m : zg_b_map2(b, ZG_S_POW, m, zg_b_like(b, m, p));
}
static zg_val root(zg_builder *b, zg_val x, double p) {
  if (p == 1) return x;
  return p == 2 ? zg_b_map1(b, ZG_S_SQRT, x) : zg_b_map2(b, ZG_S_POW, x, zg_b_like(b, x, 1 / p));
}
static double order(const zg_onnx_node *n) {  // p was a float in opset 1
  return n->opset < 2 ? zg_onnx_float(n, "p", 2) : (double)zg_onnx_int(n, "p", 2);
}

static zg_status import_lp_pool(zg_onnx_node *n) {
  const zg_val x = zg_onnx_in(n, 0);
  const zg_type t = *zg_b_type(n->b, x);
  pool_shape s;
  ZG_TRY(read_shape(n, &t, &s));
  const zg_pool_attr a = shape_attr(&s, ZG_POOL_AVG_PAD);
  const zg_val in = power(n->b, x, order(n));
  double volume = 1;
  for (int64_t i = 0; i < s.w.rank; i++) volume *= (double)s.w.kernel[i];
  n->out[0] = root(n->b, zg_mul_k(n->b, zg_emit1(n->b, &zg_op_pool, &a, &in, 1), volume), order(n));
  return NULL;
}

static zg_status import_global(zg_onnx_node *n) {
  const zg_val x = zg_onnx_in(n, 0);
  const uint32_t rank = zg_b_type(n->b, x)->rank;
  if (rank < 3)
    return zg_onnx_error(n, ZG_INVALID, "input 0 is %s, want [N, C, spatial dims]",
                         zg_type_text(zg_b_type(n->b, x)));
  int64_t axes[ZG_MAX_RANK];
  for (uint32_t i = 2; i < rank; i++) axes[i - 2] = i;
  const int64_t n_axes = (int64_t)rank - 2;
  if (!strcmp(n->op_type, "GlobalAveragePool")) {
    n->out[0] = zg_b_mean(n->b, x, axes, n_axes, true);
  } else if (!strcmp(n->op_type, "GlobalMaxPool")) {
    n->out[0] = zg_b_reduce(n->b, ZG_RED_MAX, x, axes, n_axes, true);
  } else {
    n->out[0] =
        root(n->b, zg_b_reduce(n->b, ZG_RED_SUM, power(n->b, x, order(n)), axes, n_axes, true), order(n));
  }
  return NULL;
}

// MaxUnpool: the indices count in the whole output tensor. ONNX counts them in the shape that the windows
// give, also when output_shape asks for a larger one, which then holds the smaller at its corner.
static zg_status import_max_unpool(zg_onnx_node *n) {
  const zg_val x = zg_onnx_in(n, 0);
  zg_type t = *zg_b_type(n->b, x);
  zg__window w;
  ZG_TRY(zg__window_read(n, &t, NULL, &w));
  for (int64_t i = 0; i < w.rank; i++)
    t.dim[2 + i] = (t.dim[2 + i] - 1) * w.strides[i] - w.pads[i] - w.pads[w.rank + i] + w.kernel[i];
  const int64_t flat = zg_elems(zg_b_type(n->b, x)), total = zg_elems(&t);
  const zg_type line = zg_type_make(t.dtype, 1, &total);
  const zg_scatter_attr a = {.mode = ZG_IDX_ELEMENTS, .axis = 0, .red = ZG_SCATTER_SET};
  const zg_val in[] = {zg_b_fill(n->b, &line, 0), zg_b_reshape(n->b, zg_onnx_in(n, 1), &flat, 1),
                       zg_b_reshape(n->b, x, &flat, 1)};
  zg_val y = zg_b_reshape_like(n->b, zg_emit1(n->b, &zg_op_scatter, &a, in, 3), &t);
  if (zg_is(zg_onnx_in(n, 2))) {
    zg_ints dim;
    ZG_TRY(zg_onnx_const_ints(n, 2, &dim));
    const int64_t start[ZG_MAX_RANK] = {0}, step[ZG_MAX_RANK] = {1, 1, 1, 1, 1, 1, 1, 1};
    for (uint32_t i = 0; i < t.rank; i++)
      if (dim.n != t.rank || dim.at[i] < t.dim[i])
        return zg_onnx_error(n, ZG_INVALID, "output_shape is smaller than %s, which the windows give",
                             zg_type_text(&t));
    y = zg_b_unslice(n->b, y, dim.at, start, step, 0);
  }
  n->out[0] = y;
  return NULL;
}

static const zg_op *const ops[] = {&zg_op_pool, &zg_op_pool_grad};
static const zg_onnx_row rows[] = {
    {"MaxPool", "", 1, 0, import_max_pool, NULL, 0},
    {"AveragePool", "", 1, 0, import_average_pool, NULL, 0},
    {"LpPool", "", 1, 0, import_lp_pool, NULL, 0},
    {"GlobalAveragePool", "", 1, 0, import_global, NULL, 0},
    {"GlobalMaxPool", "", 1, 0, import_global, NULL, 0},
    {"GlobalLpPool", "", 1, 0, import_global, NULL, 0},
    {"MaxUnpool", "", 1, 0, import_max_unpool, NULL, 0},
};
const zg_family zg_family_pool = {
    .name = "pool", .ops = ops, .n_ops = ZG_COUNT(ops), .onnx = rows, .n_onnx = ZG_COUNT(rows)};
