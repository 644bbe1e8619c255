// Op family: gather and scatter, and the ONNX ops made of them.
// Both ops address a tensor `x` through `idx` the same way; "updates" is what gather gives and what scatter
// takes:
//   take      x[outer, idx[j], inner]         updates[outer, j, inner]
//   elements  x[.., idx[i], ..] on the axis   updates of idx's shape
//   nd        x[batch, idx[r, 0..n), inner]   updates[batch, r, inner]
// `walk` visits the runs of elements that correspond to each other, in order of updates.
#include "graph/op/op_priv.h"

static zg_status addressed(const zg_gather_attr *a, const zg_type *x, const zg_type *idx, zg_type *out) {
  if (!zg_dtype_is_int(idx->dtype))
    return zg_error(ZG_INVALID, "indices are %s, want integers", zg_type_text(idx));
  const int64_t axis = a->axis, batch = a->batch;
  const bool nd = a->mode == ZG_IDX_ND;
  if (!nd && (axis < 0 || axis >= x->rank))
    return zg_error(ZG_INVALID, "axis %lld is outside %s", (long long)axis, zg_type_text(x));
  *out = zg_type_scalar(x->dtype);
  int64_t dim[2 * ZG_MAX_RANK], rank = 0;
  if (a->mode == ZG_IDX_TAKE) {
    for (int64_t i = 0; i < axis; i++) dim[rank++] = x->dim[i];
    for (uint32_t i = 0; i < idx->rank; i++) dim[rank++] = idx->dim[i];
    for (uint32_t i = (uint32_t)axis + 1; i < x->rank; i++) dim[rank++] = x->dim[i];
  } else if (a->mode == ZG_IDX_ELEMENTS) {
    bool ok = idx->rank == x->rank;
    for (uint32_t i = 0; ok && i < x->rank; i++) ok = i == axis || idx->dim[i] <= x->dim[i];
    if (!ok)
      return zg_error(ZG_INVALID, "indices %s do not lie within %s beside axis %lld", zg_type_text(idx),
                      zg_type_text(x), (long long)axis);
    for (; rank < idx->rank; rank++) dim[rank] = idx->dim[rank];
  } else {
    const int64_t n = idx->rank ? idx->dim[idx->rank - 1] : 0;
    bool ok = idx->rank > batch && batch >= 0 && batch + n <= x->rank;
    for (int64_t i = 0; ok && i < batch; i++) ok = idx->dim[i] == x->dim[i];
    if (!ok)
      return zg_error(ZG_INVALID, "indices %s with %lld batch dims do not address %s", zg_type_text(idx),
                      (long long)batch, zg_type_text(x));
    for (; rank + 1 < idx->rank; rank++) dim[rank] = idx->dim[rank];
    for (int64_t i = batch + n; i < x->rank; i++) dim[rank++] = x->dim[i];
  }
  if (rank > ZG_MAX_RANK)
    return zg_error(ZG_UNSUPPORTED, "a result of rank %lld is above the limit of %d", (long long)rank,
                    ZG_MAX_RANK);
  *out = zg_type_make(x->dtype, (uint32_t)rank, dim);
  return NULL;
}

// ---- walk ---------------------------------------------------------------------------------------
typedef void (*run_fn)(void *user, int64_t x_at, int64_t u_at, int64_t n);

static zg_status index_at(const zg_tensor *idx, int64_t i, int64_t dim, int64_t *out) {
  const int64_t v = zg_get_i64(idx->type.dtype, idx->data, i);
  *out = v < 0 ? v + dim : v;
  if (*out >= 0 && *out < dim) return NULL;
  return zg_error(ZG_INVALID, "index %lld at position %lld is outside a dimension of %lld", (long long)v,
                  (long long)i, (long long)dim);
}

static zg_status walk_take(const zg_gather_attr *a, const zg_type *x, const zg_tensor *idx, run_fn fn,
                           void *user) {
  const int64_t outer = zg__prod(x, 0, a->axis), d = x->dim[a->axis],
                inner = zg__prod(x, a->axis + 1, x->rank);
  const int64_t n = zg_elems(&idx->type);
  for (int64_t o = 0; o < outer; o++)
    for (int64_t j = 0; j < n; j++) {
      int64_t k;
      ZG_TRY(index_at(idx, j, d, &k));
      fn(user, (o * d + k) * inner, (o * n + j) * inner, inner);
    }
  return NULL;
}

static zg_status walk_elements(const zg_gather_attr *a, const zg_type *x, const zg_tensor *idx, run_fn fn,
                               void *user) {
  int64_t stride[ZG_MAX_RANK], pos[ZG_MAX_RANK] = {0}, at = 0;
  zg_type_strides(x, stride);
  const int64_t along = stride[a->axis];
  stride[a->axis] = 0;
  for (int64_t i = 0, n = zg_elems(&idx->type); i < n; i++) {
    int64_t k;
    ZG_TRY(index_at(idx, i, x->dim[a->axis], &k));
    fn(user, at + k * along, i, 1);
    zg__step(&idx->type, pos, stride, &at);
  }
  return NULL;
}

static zg_status walk_nd(const zg_gather_attr *a, const zg_type *x, const zg_tensor *idx, run_fn fn,
                         void *user) {
  const int64_t n = idx->type.dim[idx->type.rank - 1],
                rows = zg__prod(&idx->type, 0, (int64_t)idx->type.rank - 1);
  const int64_t per_batch = zg__prod(&idx->type, a->batch, (int64_t)idx->type.rank - 1);
  const int64_t inner = zg__prod(x, a->batch + n, x->rank), block = zg__prod(x, a->batch, x->rank);
  int64_t stride[ZG_MAX_RANK];
  zg_type_strides(x, stride);
  for (int64_t r = 0; r < rows; r++) {
    int64_t at = r / per_batch * block;
    for (int64_t j = 0; j < n; j++) {
      int64_t k;
      ZG_TRY(index_at(idx, r * n + j, x->dim[a->batch + j], &k));
      at += k * stride[a->batch + j];
    }
    fn(user, at, r * inner, inner);
  }
  return NULL;
}

static zg_status walk(const zg_gather_attr *a, const zg_type *x, const zg_tensor *idx, run_fn fn,
                      void *user) {
  switch ((zg_idx_mode)a->mode) {
    case ZG_IDX_TAKE: return walk_take(a, x, idx, fn, user);
    case ZG_IDX_ELEMENTS: return walk_elements(a, x, idx, fn, user);
    case ZG_IDX_ND: return walk_nd(a, x, idx, fn, user);
  }
  return zg_error(ZG_INVALID, "no addressing mode %lld", (long long)a->mode);
}

// ---- gather -------------------------------------------------------------------------------------
static zg_status gather_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 2, 2));
  return addressed(x->attr, x->in[0], x->in[1], &x->out[0]);
}

typedef struct {
  char *to;
  const char *from;
  size_t size;
} copy_job;
static void copy_run(void *user, int64_t x_at, int64_t u_at, int64_t n) {
  const copy_job *j = user;
  memcpy(j->to + (size_t)u_at * j->size, j->from + (size_t)x_at * j->size, (size_t)n * j->size);
}

static zg_status gather_eval(zg_eval *x) {
  copy_job job = {x->out[0].data, x->in[0].data, zg_dtype_bytes(x->in[0].type.dtype)};
  return zg_status_prefix(walk(x->attr, &x->in[0].type, &x->in[1], copy_run, &job), "gather: ");
}

static zg_val gather(zg_builder *b, zg_val x, zg_val idx, const zg_gather_attr *a) {
  return zg_emit1(b, &zg_op_gather, a, (zg_val[]){x, idx}, 2);
}

static zg_val scatter(zg_builder *b, zg_val base, zg_val idx, zg_val u, const zg_gather_attr *a,
                      zg_scatter_red red) {
  const zg_scatter_attr s = {.mode = a->mode, .axis = a->axis, .batch = a->batch, .red = red};
  return zg_emit1(b, &zg_op_scatter, &s, (zg_val[]){base, idx, u}, 3);
}

static zg_status gather_grad(zg_grad *g) {
  if (!zg_is(g->dout[0]) || !g->need[0]) return NULL;
  const zg_type t = *zg_b_type(g->b, g->in[0]);
  g->din[0] = scatter(g->b, zg_b_fill(g->b, &t, 0), g->in[1], g->dout[0], g->attr, ZG_SCATTER_ADD);
  return NULL;
}

static const zg_attr_field gather_fields[] = {
    ZG_FIELD(INT, zg_gather_attr, mode, 0),
    ZG_FIELD(INT, zg_gather_attr, axis, 0),
    ZG_FIELD(INT, zg_gather_attr, batch, 0),
};
#define X_IDX(s, i) "%1 = input name=\"x\" type=f64" s "\n%2 = input name=\"i\" type=i64" i "\n"
#define OUT3 "\noutput value \"y\" %3"
static const zg_op_case gather_cases[] = {
    {.name = "rows", .text = X_IDX("[5,3]", "[4]") "%3 = gather %1, %2" OUT3, .hi = 4},
    {.name = "an inner axis", .text = X_IDX("[2,5,3]", "[2,2]") "%3 = gather %1, %2 axis=1" OUT3, .hi = 4},
    {.name = "one", .text = X_IDX("[5,3]", "[]") "%3 = gather %1, %2" OUT3, .hi = 4},
    {.name = "none", .text = X_IDX("[5,3]", "[0]") "%3 = gather %1, %2" OUT3, .hi = 4},
    {.name = "repeats and negative",
     .text = X_IDX("[3]", "[4]") "%3 = gather %1, %2" OUT3,
     .data = "i: -1 0 2 2",
     .hi = 2},
    {.name = "elements", .text = X_IDX("[4,3]", "[2,3]") "%3 = gather %1, %2 mode=1" OUT3, .hi = 3},
    {.name = "elements, smaller",
     .text = X_IDX("[4,5]", "[3,2]") "%3 = gather %1, %2 mode=1 axis=1" OUT3,
     .hi = 4},
    {.name = "nd", .text = X_IDX("[3,3,2]", "[4,2]") "%3 = gather %1, %2 mode=2" OUT3, .hi = 2},
    {.name = "nd, batch",
     .text = X_IDX("[2,3,4]", "[2,5,1]") "%3 = gather %1, %2 mode=2 batch=1" OUT3,
     .hi = 2},
    {.name = "nd, whole", .text = X_IDX("[3,3]", "[2,2]") "%3 = gather %1, %2 mode=2" OUT3, .hi = 2},
};
const zg_op zg_op_gather = {.name = "gather",
                            .traits = ZG_CORE,
                            ZG_ATTRS(zg_gather_attr, gather_fields),
                            .n_out = 1,
                            .infer = gather_infer,
                            .eval = gather_eval,
                            .grad = gather_grad,
                            ZG_CASES(gather_cases)};

// ---- scatter ------------------------------------------------------------------------------------
static zg_gather_attr addressing(const zg_scatter_attr *s) {
  return (zg_gather_attr){s->mode, s->axis, s->batch};
}

static zg_status scatter_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 3, 3));
  const zg_scatter_attr *s = x->attr;
  const zg_gather_attr a = addressing(s);
  zg_type u;
  ZG_TRY(addressed(&a, x->in[0], x->in[1], &u));
  if (!zg_type_equal(&u, x->in[2]))
    return zg_error(ZG_INVALID, "updates are %s, want %s", zg_type_text(x->in[2]), zg_type_text(&u));
  if (s->red < ZG_SCATTER_SET || s->red > ZG_SCATTER_MIN)
    return zg_error(ZG_INVALID, "no reduction %lld", (long long)s->red);
  x->out[0] = *x->in[0];
  return NULL;
}

typedef struct {
  zg_dtype t;
  void *to;
  const void *from;
  int64_t red;
} scatter_job;

static void scatter_run(void *user, int64_t x_at, int64_t u_at, int64_t n) {
  const scatter_job *j = user;
  const bool real = zg_dtype_is_float(j->t);
  for (int64_t i = 0; i < n; i++) {
    const int64_t at = x_at + i;
    const double u = zg_get_f64(j->t, j->from, u_at + i), v = zg_get_f64(j->t, j->to, at);
    const int64_t p = zg_get_i64(j->t, j->from, u_at + i), q = zg_get_i64(j->t, j->to, at);
    double f = u;
    int64_t s = p;
    switch ((zg_scatter_red)j->red) {
      case ZG_SCATTER_SET: break;
      case ZG_SCATTER_ADD: f = v + u, s = (int64_t)((uint64_t)q + (uint64_t)p); break;
      case ZG_SCATTER_MUL: f = v * u, s = (int64_t)((uint64_t)q * (uint64_t)p); break;
      case ZG_SCATTER_MAX: f = u > v || u != u ? u : v, s = p > q ? p : q; break;
      case ZG_SCATTER_MIN: f = u < v || u != u ? u : v, s = p < q ? p : q; break;
    }
    if (real) zg_set_f64(j->t, j->to, at, f);
    else zg_set_i64(j->t, j->to, at, s);
  }
}

// Half-precision sums are kept in f32 until all updates are in, as the devices do.
static zg_status scatter_eval(zg_eval *x) {
  const zg_scatter_attr *s = x->attr;
  const zg_gather_attr a = addressing(s);
  const zg_type *t = &x->in[0].type;
  const int64_t n = zg_elems(t), m = zg_elems(&x->in[2].type);
  const zg_dtype wide = zg__wide_dtype(t->dtype);
  void *mem;
  const uint64_t bytes = (uint64_t)(n + m) * zg_dtype_bytes(wide) + 8;
  ZG_TRY(zg_alloc_big(bytes, &mem));
  void *u = (char *)mem + (size_t)n * zg_dtype_bytes(wide);
  zg_convert(wide, mem, t->dtype, x->in[0].data, n);
  zg_convert(wide, u, t->dtype, x->in[2].data, m);
  scatter_job job = {wide, mem, u, s->red};
  const zg_status status = zg_status_prefix(walk(&a, t, &x->in[1], scatter_run, &job), "scatter: ");
  zg_convert(t->dtype, x->out[0].data, wide, mem, n);
  zg_free_big(mem, bytes);
  return status;
}

// Products: like reduce's, with the number of zeros among the updates of a place.
static void grad_mul(zg_grad *g, const zg_gather_attr *a) {
  zg_builder *b = g->b;
  const zg_val base = g->in[0], idx = g->in[1], u = g->in[2], dy = g->dout[0];
  const zg_type t = *zg_b_type(b, base);
  if (g->need[0]) g->din[0] = zg_mul(b, dy, scatter(b, zg_b_fill(b, &t, 1), idx, u, a, ZG_SCATTER_MUL));
  if (!g->need[2]) return;
  const zg_val zero = zg_b_like(b, u, 0), one = zg_b_like(b, u, 1);
  const zg_val is0 = zg_b_map2(b, ZG_S_EQ, u, zero), u1 = zg_b_where(b, is0, one, u);
  const zg_val zeros = scatter(b, zg_b_fill(b, &t, 0), idx, zg_b_cast(b, is0, t.dtype), a, ZG_SCATTER_ADD);
  const zg_val nz = gather(b, zeros, idx, a),
               p = gather(b, scatter(b, base, idx, u1, a, ZG_SCATTER_MUL), idx, a);
  const zg_val others = zg_b_where(b, zg_b_map2(b, ZG_S_EQ, nz, zero), zg_div(b, p, u1), zero);
  const zg_val alone = zg_b_map2(b, ZG_S_AND, is0, zg_b_map2(b, ZG_S_EQ, nz, one));
  g->din[2] = zg_mul(b, gather(b, dy, idx, a), zg_b_where(b, alone, p, others));
}

// Maximum and minimum: split evenly among equals, the base among them.
static void grad_extreme(zg_grad *g, const zg_gather_attr *a) {
  zg_builder *b = g->b;
  const zg_val base = g->in[0], idx = g->in[1], u = g->in[2];
  const zg_type t = *zg_b_type(b, base);
  const zg_val hit_base = zg_b_cast(b, zg_b_map2(b, ZG_S_EQ, base, g->out[0]), t.dtype);
  const zg_val hit_u = zg_b_cast(b, zg_b_map2(b, ZG_S_EQ, u, gather(b, g->out[0], idx, a)), t.dtype);
  const zg_val share = zg_div(b, g->dout[0], scatter(b, hit_base, idx, hit_u, a, ZG_SCATTER_ADD));
  if (g->need[0]) g->din[0] = zg_mul(b, hit_base, share);
  if (g->need[2]) g->din[2] = zg_mul(b, hit_u, gather(b, share, idx, a));
}

static zg_status scatter_grad(zg_grad *g) {
  zg_builder *b = g->b;
  const zg_scatter_attr *s = g->attr;
  const zg_gather_attr a = addressing(s);
  const zg_val idx = g->in[1], dy = g->dout[0];
  if (!zg_is(dy)) return NULL;
  const zg_type tu = *zg_b_type(b, g->in[2]);
  switch ((zg_scatter_red)s->red) {
    case ZG_SCATTER_SET:
      if (g->need[0]) g->din[0] = scatter(b, dy, idx, zg_b_fill(b, &tu, 0), &a, ZG_SCATTER_SET);
      if (g->need[2]) g->din[2] = gather(b, dy, idx, &a);
      break;
    case ZG_SCATTER_ADD:
      if (g->need[0]) g->din[0] = dy;
      if (g->need[2]) g->din[2] = gather(b, dy, idx, &a);
      break;
    case ZG_SCATTER_MUL: grad_mul(g, &a); break;
    case ZG_SCATTER_MAX:
    case ZG_SCATTER_MIN: grad_extreme(g, &a); break;
  }
  return NULL;
}

static const zg_attr_field scatter_fields[] = {
    ZG_FIELD(INT, zg_scatter_attr, mode, 0),
    ZG_FIELD(INT, zg_scatter_attr, axis, 0),
    ZG_FIELD(INT, zg_scatter_attr, batch, 0),
    ZG_FIELD(INT, zg_scatter_attr, red, 0),
};
#define X_IDX_U(s, i, u) X_IDX(s, i) "%3 = input name=\"u\" type=f64" u "\n"
#define OUT4 "\noutput value \"y\" %4"
static const zg_op_case scatter_cases[] = {
    {.name = "add rows",
     .text = X_IDX_U("[5,3]", "[4]", "[4,3]") "%4 = scatter %1, %2, %3 red=1" OUT4,
     .hi = 4},
    {.name = "add, inner axis",
     .text = X_IDX_U("[2,5,3]", "[4]", "[2,4,3]") "%4 = scatter %1, %2, %3 axis=1 red=1" OUT4,
     .hi = 4},
    {.name = "add elements",
     .text = X_IDX_U("[3,4]", "[2,3]", "[2,3]") "%4 = scatter %1, %2, %3 mode=1 axis=1 red=1" OUT4,
     .hi = 3},
    {.name = "add nd",
     .text = X_IDX_U("[3,3,2]", "[4,2]", "[4,2]") "%4 = scatter %1, %2, %3 mode=2 red=1" OUT4,
     .hi = 2},
    {.name = "set",
     .text = X_IDX_U("[4,2]", "[2]", "[2,2]") "%4 = scatter %1, %2, %3" OUT4,
     .data = "i: 3 1",
     .hi = 3},
    {.name = "set elements",
     .text = X_IDX_U("[2,3]", "[2,2]", "[2,2]") "%4 = scatter %1, %2, %3 mode=1 axis=1" OUT4,
     .data = "i: 0 2 -1 1",
     .hi = 2},
    {.name = "mul",
     .text = X_IDX_U("[3]", "[4]", "[4]") "%4 = scatter %1, %2, %3 red=2" OUT4,
     .hi = 2,
     .lo = 0.5},
    {.name = "max", .text = X_IDX_U("[3]", "[4]", "[4]") "%4 = scatter %1, %2, %3 red=3" OUT4, .hi = 2},
    {.name = "min elements",
     .text = X_IDX_U("[3,2]", "[3,2]", "[3,2]") "%4 = scatter %1, %2, %3 mode=1 red=4" OUT4,
     .hi = 2},
    {.name = "nothing",
     .text = X_IDX_U("[3,2]", "[0]", "[0,2]") "%4 = scatter %1, %2, %3 red=1" OUT4,
     .hi = 2},
};
const zg_op zg_op_scatter = {.name = "scatter",
                             .traits = ZG_CORE,
                             ZG_ATTRS(zg_scatter_attr, scatter_fields),
                             .n_out = 1,
                             .infer = scatter_infer,
                             .eval = scatter_eval,
                             .grad = scatter_grad,
                             ZG_CASES(scatter_cases)};

// ---- ONNX ---------------------------------------------------------------------------------------
// Constant indices in even steps are a slice (its gradient is a copy, not a scatter): x[:, 0], x[..., ::2].
static bool as_slice(zg_onnx_node *n, int64_t axis, zg_val *out) {
  zg_builder *b = n->b;
  const zg_type t = *zg_b_type(b, n->in[0]);
  zg_tensor c;
  if (!zg_b_const(b, n->in[1], &c) || c.type.rank > 1) return false;
  const int64_t count = zg_elems(&c.type), d = t.dim[axis];
  if (count == 0 || count > d) return false;
  int64_t first = zg_get_i64(c.type.dtype, c.data, 0), step = 1;
  first += first < 0 ? d : 0;
  for (int64_t i = 1; i < count; i++) {
    int64_t v = zg_get_i64(c.type.dtype, c.data, i);
    v += v < 0 ? d : 0;
    if (i == 1) step = v - first;
    if (v != first + i * step || step == 0) return false;
  }
  int64_t start[ZG_MAX_RANK] = {0}, steps[ZG_MAX_RANK], size[ZG_MAX_RANK];
  for (uint32_t i = 0; i < t.rank; i++) steps[i] = 1, size[i] = t.dim[i];
  start[axis] = first, steps[axis] = step, size[axis] = count;
  const zg_val y = zg_b_slice(b, n->in[0], start, steps, size);
  *out = c.type.rank == 0 ? zg_b_squeeze(b, y, axis) : y;
  return true;
}

static zg_status import_gather(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 2));
  int64_t axis;
  ZG_TRY(zg__axis(n, zg_onnx_int(n, "axis", 0), zg_b_type(n->b, n->in[0])->rank, &axis));
  if (!as_slice(n, axis, &n->out[0])) n->out[0] = zg_b_gather(n->b, n->in[0], n->in[1], axis);
  return NULL;
}

static zg_status import_gather_elements(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 2));
  zg_gather_attr a = {.mode = ZG_IDX_ELEMENTS};
  ZG_TRY(zg__axis(n, zg_onnx_int(n, "axis", 0), zg_b_type(n->b, n->in[0])->rank, &a.axis));
  n->out[0] = gather(n->b, n->in[0], n->in[1], &a);
  return NULL;
}

static zg_status import_gather_nd(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 2));
  const zg_gather_attr a = {.mode = ZG_IDX_ND, .batch = zg_onnx_int(n, "batch_dims", 0)};
  n->out[0] = gather(n->b, n->in[0], n->in[1], &a);
  return NULL;
}

static zg_status reduction(const zg_onnx_node *n, zg_scatter_red *out) {
  static const char *const names[] = {"none", "add", "mul", "max", "min"};
  const char *s = zg_onnx_str(n, "reduction", "none");
  for (int i = 0; i < 5; i++)
    if (strcmp(s, names[i]) == 0) {
      *out = (zg_scatter_red)i;
      return NULL;
    }
  return zg_onnx_error(n, ZG_INVALID, "reduction \"%s\" is none of none, add, mul, max, min", s);
}

static zg_status import_scatter(zg_onnx_node *n, zg_idx_mode mode) {
  ZG_TRY(zg__need(n, 3));
  zg_gather_attr a = {.mode = mode};
  zg_scatter_red red = ZG_SCATTER_SET;
  ZG_TRY(reduction(n, &red));
  if (mode == ZG_IDX_ELEMENTS)
    ZG_TRY(zg__axis(n, zg_onnx_int(n, "axis", 0), zg_b_type(n->b, n->in[0])->rank, &a.axis));
  n->out[0] = scatter(n->b, n->in[0], n->in[1], n->in[2], &a, red);
  return NULL;
}
static zg_status import_scatter_elements(zg_onnx_node *n) { return import_scatter(n, ZG_IDX_ELEMENTS); }
static zg_status import_scatter_nd(zg_onnx_node *n) { return import_scatter(n, ZG_IDX_ND); }

static zg_status import_one_hot(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 3));
  zg_builder *b = n->b;
  double depth;
  ZG_TRY(zg__const_scalar(n, 1, &depth));
  zg_type t = *zg_b_type(b, n->in[0]);
  int64_t axis;
  ZG_TRY(zg__axis(n, zg_onnx_int(n, "axis", -1), (int64_t)t.rank + 1, &axis));
  if (t.rank == ZG_MAX_RANK)
    return zg_onnx_error(n, ZG_UNSUPPORTED, "the result's rank is above the limit of %d", ZG_MAX_RANK);
  zg_val idx = zg_b_unsqueeze(b, zg_b_cast(b, n->in[0], ZG_I64), axis);
  const zg_val zero = zg_b_scalar(b, ZG_I64, 0), size = zg_b_scalar(b, ZG_I64, depth);
  idx = zg_b_where(b, zg_b_map2(b, ZG_S_LT, idx, zero), zg_add(b, idx, size), idx);
  t = *zg_b_type(b, idx);
  t.dim[axis] = (int64_t)depth;
  const zg_val hit = zg_b_map2(b, ZG_S_EQ, idx, zg__index_along(b, &t, axis, 0));
  const zg_val off = zg_b_squeeze(b, zg_b_slice1(b, n->in[2], 0, 0, 1), 0);
  const zg_val on = zg_b_squeeze(b, zg_b_slice1(b, n->in[2], 0, 1, 1), 0);
  n->out[0] = zg_b_where(b, hit, on, off);
  return NULL;
}

// The number of elements kept must be known now.
static zg_status import_compress(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 2));
  zg_builder *b = n->b;
  zg_ints cond;
  ZG_TRY(zg_onnx_const_ints(n, 1, &cond));
  zg_val x = n->in[0];
  int64_t axis = 0;
  if (zg_onnx_has(n, "axis")) ZG_TRY(zg__axis(n, zg_onnx_int(n, "axis", 0), zg_b_type(b, x)->rank, &axis));
  else x = zg_b_reshape(b, x, (int64_t[]){zg_elems(zg_b_type(b, x))}, 1);
  int64_t *keep = ZG_NEW_N(zg_builder_arena(b), int64_t, cond.n + 1), k = 0;
  for (int64_t i = 0; i < cond.n; i++)
    if (cond.at[i]) keep[k++] = i;
  n->out[0] = zg_b_gather(b, x, zg_b_int_vec(b, keep, k), axis);
  return NULL;
}

static zg_status import_non_zero(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  zg_tensor c;
  if (!zg_b_const(n->b, n->in[0], &c)) {
    if (zg_builder_failed(n->b)) return NULL;
    return zg_onnx_error(
        n, ZG_UNSUPPORTED,
        "the shape of its result depends on data, which a planned step cannot have: compute the "
        "mask outside the model, or select with Where");
  }
  const int64_t rank = c.type.rank ? c.type.rank : 1, total = zg_elems(&c.type);
  int64_t count = 0, k = 0;
  for (int64_t i = 0; i < total; i++) count += zg_get_f64(c.type.dtype, c.data, i) != 0;
  int64_t *at = ZG_NEW_N(zg_builder_arena(n->b), int64_t, rank * count + 1), stride[ZG_MAX_RANK] = {1};
  if (c.type.rank) zg_type_strides(&c.type, stride);
  for (int64_t i = 0; i < total; i++) {
    if (zg_get_f64(c.type.dtype, c.data, i) == 0) continue;
    for (int64_t d = 0; d < rank; d++) at[d * count + k] = c.type.rank ? i / stride[d] % c.type.dim[d] : 0;
    k++;
  }
  const zg_type t = zg_type_make(ZG_I64, 2, (int64_t[]){rank, count});
  n->out[0] = zg_b_const_data(n->b, &t, at);
  return NULL;
}

static const zg_onnx_row rows[] = {
    {"Gather", "", 1, 0, import_gather, NULL, 1, .weight_operands = 1},
    {"GatherElements", "", 11, 0, import_gather_elements, NULL, 1},
    {"GatherND", "", 11, 0, import_gather_nd, NULL, 1},
    {"Scatter", "", 9, 0, import_scatter_elements},
    {"ScatterElements", "", 11, 0, import_scatter_elements},
    {"ScatterND", "", 11, 0, import_scatter_nd},
    {"OneHot", "", 9, 0, import_one_hot},
    {"Compress", "", 9, 0, import_compress},
    {"NonZero", "", 9, 0, import_non_zero, .no_gradient = true},
};
static const zg_op *const ops[] = {&zg_op_gather, &zg_op_scatter};
const zg_family zg_family_gather = {
    .name = "gather", .ops = ops, .n_ops = ZG_COUNT(ops), .onnx = rows, .n_onnx = ZG_COUNT(rows)};
