// Op family: reshape, transpose, expand, slice, unslice, concat and the ONNX ops made of them.
// All of them move elements: evaluation is one strided copy whatever the element type.
#include "graph/op/op_priv.h"

static int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0 && (a < 0) == (b < 0)); }

// Walks `t` in row-major order while the other side moves by `stride` (elements) from `offset`. to_strided:
// dense -> strided.
static void strided_copy(const zg_type *t, void *dense, void *strided, const int64_t *stride, int64_t offset,
                         bool to_strided) {
  const uint32_t size = zg_dtype_bytes(t->dtype);
  int64_t idx[ZG_MAX_RANK] = {0};
  char *d = dense, *s = strided;
  for (int64_t i = 0, n = zg_elems(t); i < n; i++) {
    if (to_strided) memcpy(s + offset * size, d + i * size, size);
    else memcpy(d + i * size, s + offset * size, size);
    zg__step(t, idx, stride, &offset);
  }
}

static zg_status check_rank(const zg_infer *x, const char *what, int64_t n, int64_t want) {
  if (n > ZG_MAX_RANK)
    return zg_error(ZG_UNSUPPORTED, "rank %lld is above the limit of %d", (long long)n, ZG_MAX_RANK);
  if (want >= 0 && n != want)
    return zg_error(ZG_INVALID, "%s has %lld entries for %s", what, (long long)n, zg_type_text(x->in[0]));
  return NULL;
}

// ---- reshape ------------------------------------------------------------------------------------
static zg_status reshape_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  const zg_shape_attr *a = x->attr;
  ZG_TRY(check_rank(x, "dim", a->dim.n, -1));
  x->out[0] = zg_type_make(x->in[0]->dtype, (uint32_t)a->dim.n, a->dim.at);
  bool negative = false;
  for (int64_t i = 0; i < a->dim.n; i++) negative |= a->dim.at[i] < 0;
  if (negative || zg_elems(&x->out[0]) != zg_elems(x->in[0]))
    return zg_error(ZG_INVALID, "%s does not have the elements of %s", zg_type_text(x->in[0]),
                    zg_type_text(&x->out[0]));
  return NULL;
}

static zg_status reshape_eval(zg_eval *x) {
  memcpy(x->out[0].data, x->in[0].data, zg_type_bytes(&x->in[0].type));
  return NULL;
}

static zg_status reshape_grad(zg_grad *g) {
  const zg_type t = *zg_b_type(g->b, g->in[0]);
  if (zg_is(g->dout[0])) g->din[0] = zg_b_reshape_like(g->b, g->dout[0], &t);
  return NULL;
}

static const zg_attr_field shape_fields[] = {ZG_FIELD(INTS, zg_shape_attr, dim, 0)};
#define IN(shape) "%1 = input name=\"x\" type=f64" shape "\n"
#define OUT2 "\noutput value \"y\" %2"
static const zg_op_case reshape_cases[] = {
    {.name = "flatten", .text = IN("[2,3,4]") "%2 = reshape %1 dim=[6,4]" OUT2},
    {.name = "scalar", .text = IN("[1,1]") "%2 = reshape %1 dim=[]" OUT2},
    {.name = "empty", .text = IN("[0,3]") "%2 = reshape %1 dim=[5,0]" OUT2},
};
const zg_op zg_op_reshape = {.name = "reshape",
                             .traits = ZG_CORE | ZG_VIEW,
                             ZG_ATTRS(zg_shape_attr, shape_fields),
                             .n_out = 1,
                             .infer = reshape_infer,
                             .eval = reshape_eval,
                             .grad = reshape_grad,
                             ZG_CASES(reshape_cases)};

// ---- expand -------------------------------------------------------------------------------------
static zg_status expand_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  const zg_shape_attr *a = x->attr;
  const zg_type *t = x->in[0];
  ZG_TRY(check_rank(x, "dim", a->dim.n, -1));
  x->out[0] = zg_type_make(t->dtype, (uint32_t)a->dim.n, a->dim.at);
  bool ok = a->dim.n >= t->rank;
  for (uint32_t i = 0; ok && i < t->rank; i++) {
    const int64_t to = a->dim.at[a->dim.n - t->rank + i];
    ok = t->dim[i] == to || (t->dim[i] == 1 && to >= 0);
  }
  if (!ok)
    return zg_error(ZG_INVALID, "%s does not broadcast to %s", zg_type_text(t), zg_type_text(&x->out[0]));
  return NULL;
}

static zg_status expand_eval(zg_eval *x) {
  const zg_type *t = &x->in[0].type, *o = &x->out[0].type;
  int64_t s[ZG_MAX_RANK], stride[ZG_MAX_RANK] = {0};
  zg_type_strides(t, s);
  for (uint32_t i = 0; i < t->rank; i++) stride[o->rank - t->rank + i] = t->dim[i] == 1 ? 0 : s[i];
  strided_copy(o, x->out[0].data, x->in[0].data, stride, 0, false);
  return NULL;
}

static zg_status expand_grad(zg_grad *g) {
  const zg_type t = *zg_b_type(g->b, g->in[0]);
  if (zg_is(g->dout[0])) g->din[0] = zg_b_sum_to(g->b, g->dout[0], &t);
  return NULL;
}

static const zg_op_case expand_cases[] = {
    {.name = "new leading dims", .text = IN("[3]") "%2 = expand %1 dim=[2,4,3]" OUT2},
    {.name = "middle", .text = IN("[2,1,3]") "%2 = expand %1 dim=[2,5,3]" OUT2},
    {.name = "scalar", .text = IN("[]") "%2 = expand %1 dim=[2,3]" OUT2},
    {.name = "to nothing", .text = IN("[1,3]") "%2 = expand %1 dim=[0,3]" OUT2},
};
const zg_op zg_op_expand = {.name = "expand",
                            .traits = ZG_CORE | ZG_VIEW,
                            ZG_ATTRS(zg_shape_attr, shape_fields),
                            .n_out = 1,
                            .infer = expand_infer,
                            .eval = expand_eval,
                            .grad = expand_grad,
                            ZG_CASES(expand_cases)};

// ---- transpose ----------------------------------------------------------------------------------
static zg_status transpose_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  const zg_ints *p = &((const zg_transpose_attr *)x->attr)->perm;
  ZG_TRY(check_rank(x, "perm", p->n, x->in[0]->rank));
  x->out[0] = *x->in[0];
  uint32_t seen = 0;
  for (int64_t i = 0; i < p->n; i++) {
    if (p->at[i] < 0 || p->at[i] >= p->n || (seen >> p->at[i] & 1))
      return zg_error(ZG_INVALID, "perm is no permutation of the %lld dims of %s", (long long)p->n,
                      zg_type_text(x->in[0]));
    seen |= 1u << p->at[i];
    x->out[0].dim[i] = x->in[0]->dim[p->at[i]];
  }
  return NULL;
}

static zg_status transpose_eval(zg_eval *x) {
  const zg_ints *p = &((const zg_transpose_attr *)x->attr)->perm;
  int64_t s[ZG_MAX_RANK], stride[ZG_MAX_RANK];
  zg_type_strides(&x->in[0].type, s);
  for (int64_t i = 0; i < p->n; i++) stride[i] = s[p->at[i]];
  strided_copy(&x->out[0].type, x->out[0].data, x->in[0].data, stride, 0, false);
  return NULL;
}

static zg_status transpose_grad(zg_grad *g) {
  const zg_ints *p = &((const zg_transpose_attr *)g->attr)->perm;
  int64_t inverse[ZG_MAX_RANK];
  for (int64_t i = 0; i < p->n; i++) inverse[p->at[i]] = i;
  if (zg_is(g->dout[0])) g->din[0] = zg_b_transpose(g->b, g->dout[0], inverse);
  return NULL;
}

static const zg_attr_field transpose_fields[] = {ZG_FIELD(INTS, zg_transpose_attr, perm, 0)};
static const zg_op_case transpose_cases[] = {
    {.name = "matrix", .text = IN("[2,5]") "%2 = transpose %1 perm=[1,0]" OUT2},
    {.name = "cycle", .text = IN("[2,3,4]") "%2 = transpose %1 perm=[2,0,1]" OUT2},
    {.name = "heads", .text = IN("[2,3,4,5]") "%2 = transpose %1 perm=[0,2,1,3]" OUT2},
    {.name = "scalar", .text = IN("[]") "%2 = transpose %1 perm=[]" OUT2},
    {.name = "empty", .text = IN("[0,3]") "%2 = transpose %1 perm=[1,0]" OUT2},
};
const zg_op zg_op_transpose = {.name = "transpose",
                               .traits = ZG_CORE | ZG_VIEW,
                               ZG_ATTRS(zg_transpose_attr, transpose_fields),
                               .n_out = 1,
                               .infer = transpose_infer,
                               .eval = transpose_eval,
                               .grad = transpose_grad,
                               ZG_CASES(transpose_cases)};

// ---- barrier ------------------------------------------------------------------------------------
// The same elements under another name: nodes on it are not interned with the nodes on its operand, so that a
// value can be computed a second time (opt_recompute). Barriers of one `group` on one value are one.
static zg_status barrier_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  return zg_infer_same(x);
}

static zg_status barrier_eval(zg_eval *x) {
  memcpy(x->out[0].data, x->in[0].data, zg_type_bytes(&x->in[0].type));
  return NULL;
}

static zg_status barrier_grad(zg_grad *g) {
  g->din[0] = g->dout[0];
  return NULL;
}

static const zg_attr_field barrier_fields[] = {ZG_FIELD(INT, zg_barrier_attr, group, 0)};
static const zg_op_case barrier_cases[] = {
    {.name = "matrix", .text = IN("[2,5]") "%2 = barrier %1 group=3" OUT2},
    {.name = "scalar", .text = IN("[]") "%2 = barrier %1" OUT2},
    {.name = "empty", .text = IN("[0,3]") "%2 = barrier %1" OUT2},
    {.name = "second computation",
     .text = IN("[3,4]") "%2 = exp %1\n%3 = barrier %1\n%4 = exp %3\n%5 = mul %2, %4\noutput value \"y\" %5\n"},
};
const zg_op zg_op_barrier = {.name = "barrier",
                             .traits = ZG_CORE | ZG_VIEW,
                             ZG_ATTRS(zg_barrier_attr, barrier_fields),
                             .n_out = 1,
                             .infer = barrier_infer,
                             .eval = barrier_eval,
                             .grad = barrier_grad,
                             ZG_CASES(barrier_cases)};

// ---- slice, unslice -----------------------------------------------------------------------------
// Does start + i * step for i < size stay inside [0, dim).
static bool inside(int64_t start, int64_t step, int64_t size, int64_t dim) {
  // Beyond the dim a step only appears with fewer than two elements, where 1 does as well; so strides cannot
  // overflow.
  const int64_t most = ZG_MAX(dim, 1);
  if (size < 0 || step < -most || step > most) return false;
  if (size == 0) return start >= 0 && start <= dim;
  int64_t reach;
  if (__builtin_mul_overflow(size - 1, step, &reach) || __builtin_add_overflow(reach, start, &reach))
    return false;
  return start >= 0 && start < dim && reach >= 0 && reach < dim && (size == 1 || step != 0);
}

static zg_status slice_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  const zg_slice_attr *a = x->attr;
  const zg_type *t = x->in[0];
  ZG_TRY(check_rank(x, "start", a->start.n, t->rank));
  ZG_TRY(check_rank(x, "step", a->step.n, t->rank));
  ZG_TRY(check_rank(x, "size", a->size.n, t->rank));
  x->out[0] = zg_type_make(t->dtype, t->rank, a->size.at);
  for (uint32_t d = 0; d < t->rank; d++)
    if (!inside(a->start.at[d], a->step.at[d], a->size.at[d], t->dim[d]))
      return zg_error(ZG_INVALID, "start %lld, step %lld, size %lld leave dim %u of %s",
                      (long long)a->start.at[d], (long long)a->step.at[d], (long long)a->size.at[d], d,
                      zg_type_text(t));
  return NULL;
}

static int64_t window(const zg_type *t, const zg_ints *start, const zg_ints *step, int64_t *stride) {
  int64_t s[ZG_MAX_RANK], offset = 0;
  zg_type_strides(t, s);
  for (uint32_t d = 0; d < t->rank; d++) stride[d] = s[d] * step->at[d], offset += s[d] * start->at[d];
  return offset;
}

static zg_status slice_eval(zg_eval *x) {
  const zg_slice_attr *a = x->attr;
  int64_t stride[ZG_MAX_RANK];
  const int64_t offset = window(&x->in[0].type, &a->start, &a->step, stride);
  strided_copy(&x->out[0].type, x->out[0].data, x->in[0].data, stride, offset, false);
  return NULL;
}

static zg_status slice_grad(zg_grad *g) {
  const zg_slice_attr *a = g->attr;
  const zg_type t = *zg_b_type(g->b, g->in[0]);
  if (zg_is(g->dout[0])) g->din[0] = zg_b_unslice(g->b, g->dout[0], t.dim, a->start.at, a->step.at, 0);
  return NULL;
}

static const zg_attr_field slice_fields[] = {
    ZG_FIELD(INTS, zg_slice_attr, start, 0),
    ZG_FIELD(INTS, zg_slice_attr, step, 0),
    ZG_FIELD(INTS, zg_slice_attr, size, 0),
};
static const zg_op_case slice_cases[] = {
    {.name = "part", .text = IN("[4,5]") "%2 = slice %1 start=[1,0] step=[1,1] size=[2,5]" OUT2},
    {.name = "steps", .text = IN("[7,5]") "%2 = slice %1 start=[1,0] step=[2,3] size=[3,2]" OUT2},
    {.name = "backwards", .text = IN("[5]") "%2 = slice %1 start=[4] step=[-2] size=[3]" OUT2},
    {.name = "nothing", .text = IN("[3,2]") "%2 = slice %1 start=[3,0] step=[1,1] size=[0,2]" OUT2},
    {.name = "scalar", .text = IN("[]") "%2 = slice %1 start=[] step=[] size=[]" OUT2},
};
const zg_op zg_op_slice = {.name = "slice",
                           .traits = ZG_CORE | ZG_VIEW,
                           ZG_ATTRS(zg_slice_attr, slice_fields),
                           .n_out = 1,
                           .infer = slice_infer,
                           .eval = slice_eval,
                           .grad = slice_grad,
                           ZG_CASES(slice_cases)};

static zg_status unslice_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  const zg_unslice_attr *a = x->attr;
  const zg_type *t = x->in[0];
  ZG_TRY(check_rank(x, "dim", a->dim.n, t->rank));
  ZG_TRY(check_rank(x, "start", a->start.n, t->rank));
  ZG_TRY(check_rank(x, "step", a->step.n, t->rank));
  x->out[0] = zg_type_make(t->dtype, t->rank, a->dim.at);
  for (uint32_t d = 0; d < t->rank; d++)
    if (a->dim.at[d] < 0 || !inside(a->start.at[d], a->step.at[d], t->dim[d], a->dim.at[d]))
      return zg_error(ZG_INVALID, "dim %u of %s at start %lld, step %lld does not fit into %lld", d,
                      zg_type_text(t), (long long)a->start.at[d], (long long)a->step.at[d],
                      (long long)a->dim.at[d]);
  return NULL;
}

static zg_status unslice_eval(zg_eval *x) {
  const zg_unslice_attr *a = x->attr;
  const zg_type *o = &x->out[0].type;
  const int64_t n = zg_elems(o);
  for (int64_t i = 0; i < n; i++) zg_set_f64(o->dtype, x->out[0].data, i, a->fill);
  int64_t stride[ZG_MAX_RANK];
  const int64_t offset = window(o, &a->start, &a->step, stride);
  strided_copy(&x->in[0].type, x->in[0].data, x->out[0].data, stride, offset, true);
  return NULL;
}

static zg_status unslice_grad(zg_grad *g) {
  const zg_unslice_attr *a = g->attr;
  const zg_type t = *zg_b_type(g->b, g->in[0]);
  if (zg_is(g->dout[0])) g->din[0] = zg_b_slice(g->b, g->dout[0], a->start.at, a->step.at, t.dim);
  return NULL;
}

static const zg_attr_field unslice_fields[] = {
    ZG_FIELD(INTS, zg_unslice_attr, dim, 0),
    ZG_FIELD(INTS, zg_unslice_attr, start, 0),
    ZG_FIELD(INTS, zg_unslice_attr, step, 0),
    ZG_FIELD(FLOAT, zg_unslice_attr, fill, 0),
};
static const zg_op_case unslice_cases[] = {
    {.name = "pad", .text = IN("[2,3]") "%2 = unslice %1 dim=[5,4] start=[1,0] step=[1,1] fill=2.5" OUT2},
    {.name = "steps", .text = IN("[3]") "%2 = unslice %1 dim=[8] start=[7] step=[-3]" OUT2},
    {.name = "nothing", .text = IN("[0,2]") "%2 = unslice %1 dim=[3,2] start=[0,0] step=[1,1]" OUT2},
    {.name = "scalar", .text = IN("[]") "%2 = unslice %1 dim=[] start=[] step=[]" OUT2},
};
const zg_op zg_op_unslice = {.name = "unslice",
                             .traits = ZG_CORE,
                             ZG_ATTRS(zg_unslice_attr, unslice_fields),
                             .n_out = 1,
                             .infer = unslice_infer,
                             .eval = unslice_eval,
                             .grad = unslice_grad,
                             ZG_CASES(unslice_cases)};

// ---- concat -------------------------------------------------------------------------------------
static zg_status concat_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, UINT32_MAX));
  const int64_t axis = ((const zg_axis_attr *)x->attr)->axis;
  const zg_type *t = x->in[0];
  if (axis < 0 || axis >= t->rank)
    return zg_error(ZG_INVALID, "axis %lld is outside %s", (long long)axis, zg_type_text(t));
  x->out[0] = *t;
  for (uint32_t i = 1; i < x->n_in; i++) {
    zg_type same = *x->in[i];
    if (same.rank == t->rank) same.dim[axis] = t->dim[axis];
    if (!zg_type_equal(&same, t))
      return zg_error(ZG_INVALID, "operand %u is %s, which does not fit %s along axis %lld", i,
                      zg_type_text(x->in[i]), zg_type_text(t), (long long)axis);
    x->out[0].dim[axis] += x->in[i]->dim[axis];
  }
  return NULL;
}

static zg_status concat_eval(zg_eval *x) {
  const int64_t axis = ((const zg_axis_attr *)x->attr)->axis;
  const zg_type *o = &x->out[0].type;
  const int64_t outer = zg__prod(o, 0, axis), row = zg__prod(o, axis, o->rank) * zg_dtype_bytes(o->dtype);
  int64_t at = 0;
  for (uint32_t i = 0; i < x->n_in; i++) {
    const int64_t part = zg__prod(&x->in[i].type, axis, o->rank) * zg_dtype_bytes(o->dtype);
    for (int64_t k = 0; k < outer && part; k++)
      memcpy((char *)x->out[0].data + k * row + at, (const char *)x->in[i].data + k * part, (size_t)part);
    at += part;
  }
  return NULL;
}

static zg_status concat_grad(zg_grad *g) {
  const int64_t axis = ((const zg_axis_attr *)g->attr)->axis;
  if (!zg_is(g->dout[0])) return NULL;
  int64_t at = 0;
  for (uint32_t i = 0; i < g->n_in; i++) {
    const int64_t size = zg_b_type(g->b, g->in[i])->dim[axis];
    if (g->need[i]) g->din[i] = zg_b_slice1(g->b, g->dout[0], axis, at, size);
    at += size;
  }
  return NULL;
}

static const zg_attr_field axis_fields[] = {ZG_FIELD(INT, zg_axis_attr, axis, 0)};
#define XY(s, t) "%1 = input name=\"x\" type=f64" s "\n%2 = input name=\"y\" type=f64" t "\n"
#define OUT3 "\noutput value \"z\" %3"
static const zg_op_case concat_cases[] = {
    {.name = "first axis", .text = XY("[2,3]", "[4,3]") "%3 = concat %1, %2 axis=0" OUT3},
    {.name = "last axis", .text = XY("[2,3]", "[2,1]") "%3 = concat %1, %2 axis=1" OUT3},
    {.name = "an operand twice", .text = XY("[2,3,2]", "[2,1,2]") "%3 = concat %1, %2, %1 axis=1" OUT3},
    {.name = "with nothing", .text = XY("[2,3]", "[0,3]") "%3 = concat %1, %2 axis=0" OUT3},
    {.name = "one", .text = IN("[2,3]") "%2 = concat %1 axis=0" OUT2},
};
const zg_op zg_op_concat = {.name = "concat",
                            .traits = ZG_CORE,
                            ZG_ATTRS(zg_axis_attr, axis_fields),
                            .n_out = 1,
                            .infer = concat_infer,
                            .eval = concat_eval,
                            .grad = concat_grad,
                            ZG_CASES(concat_cases)};

// ---- ONNX: shapes -------------------------------------------------------------------------------
static zg_status import_reshape(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  const zg_type t = *zg_b_type(n->b, n->in[0]);
  zg_ints want;
  ZG_TRY(zg__ints(n, "shape", 1, &want, NULL));
  if (want.n > ZG_MAX_RANK)
    return zg_onnx_error(n, ZG_UNSUPPORTED, "rank %lld is above the limit of %d", (long long)want.n,
                         ZG_MAX_RANK);
  const bool allow_zero = zg_onnx_int(n, "allowzero", 0) != 0;
  int64_t dim[ZG_MAX_RANK], known = 1, infer = -1;
  for (int64_t i = 0; i < want.n; i++) {
    dim[i] = want.at[i];
    if (dim[i] == 0 && !allow_zero) {
      if (i >= t.rank)
        return zg_onnx_error(n, ZG_INVALID, "shape entry %lld is 0 (copy), but the operand is %s",
                             (long long)i, zg_type_text(&t));
      dim[i] = t.dim[i];
    }
    if (dim[i] < -1 || (dim[i] == -1 && infer >= 0))
      return zg_onnx_error(n, ZG_INVALID, "shape has more than one unknown entry");
    if (dim[i] == -1) infer = i;
    else known *= dim[i];
  }
  if (infer >= 0) {
    if (known == 0 || zg_elems(&t) % known)
      return zg_onnx_error(n, ZG_INVALID, "%s cannot be reshaped: its elements do not divide by %lld",
                           zg_type_text(&t), (long long)known);
    dim[infer] = zg_elems(&t) / known;
  }
  n->out[0] = zg_b_reshape(n->b, n->in[0], dim, want.n);
  return NULL;
}

static zg_status import_transpose(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  const int64_t rank = zg_b_type(n->b, n->in[0])->rank;
  int64_t perm[ZG_MAX_RANK];
  zg_ints p;
  const bool given = zg_onnx_ints(n, "perm", &p);
  if (given && p.n != rank)
    return zg_onnx_error(n, ZG_INVALID, "perm has %lld entries for rank %lld", (long long)p.n,
                         (long long)rank);
  for (int64_t i = 0; i < rank; i++) perm[i] = given ? p.at[i] : rank - 1 - i;
  n->out[0] = zg_b_transpose(n->b, n->in[0], perm);
  return NULL;
}

// Both sides broadcast: a 1 in the shape keeps the operand's dim.
static zg_status import_expand(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 2));
  const zg_type t = *zg_b_type(n->b, n->in[0]);
  zg_ints want;
  ZG_TRY(zg__ints(n, NULL, 1, &want, NULL));
  if (want.n > ZG_MAX_RANK)
    return zg_onnx_error(n, ZG_UNSUPPORTED, "rank %lld is above the limit of %d", (long long)want.n,
                         ZG_MAX_RANK);
  const zg_type shape = zg_type_make(t.dtype, (uint32_t)want.n, want.at);
  zg_type out;
  ZG_TRY(zg_type_broadcast(&t, &shape, &out));
  n->out[0] = zg_b_expand(n->b, n->in[0], out.dim, out.rank);
  return NULL;
}

static zg_status import_squeeze(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  const zg_type t = *zg_b_type(n->b, n->in[0]);
  zg_ints axes;
  bool given;
  ZG_TRY(zg__axes(n, "axes", 1, t.rank, &axes, &given));
  int64_t dim[ZG_MAX_RANK], rank = 0, k = 0;
  for (uint32_t d = 0; d < t.rank; d++) {
    const bool gone = given ? k < axes.n && axes.at[k] == d : t.dim[d] == 1;
    if (gone && given) k++;
    if (gone && t.dim[d] != 1)
      return zg_onnx_error(n, ZG_INVALID, "axis %u of %s is not 1", d, zg_type_text(&t));
    if (!gone) dim[rank++] = t.dim[d];
  }
  n->out[0] = zg_b_reshape(n->b, n->in[0], dim, rank);
  return NULL;
}

static zg_status import_unsqueeze(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  const zg_type t = *zg_b_type(n->b, n->in[0]);
  zg_ints raw, axes;
  ZG_TRY(zg__ints(n, "axes", 1, &raw, NULL));
  const int64_t rank = t.rank + raw.n;
  if (rank > ZG_MAX_RANK)
    return zg_onnx_error(n, ZG_UNSUPPORTED, "rank %lld is above the limit of %d", (long long)rank,
                         ZG_MAX_RANK);
  ZG_TRY(zg__axes(n, "axes", 1, rank, &axes, NULL));
  int64_t dim[ZG_MAX_RANK], k = 0, d = 0;
  for (int64_t i = 0; i < rank; i++) dim[i] = k < axes.n && axes.at[k] == i ? (k++, 1) : t.dim[d++];
  n->out[0] = zg_b_reshape(n->b, n->in[0], dim, rank);
  return NULL;
}

static zg_status import_flatten(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  const int64_t rank = zg_b_type(n->b, n->in[0])->rank;
  int64_t axis = zg_onnx_int(n, "axis", 1);
  if (axis < 0) axis += rank;
  if (axis < 0 || axis > rank)
    return zg_onnx_error(n, ZG_INVALID, "axis is outside a tensor of rank %lld", (long long)rank);
  n->out[0] = zg__coerce_2d(n->b, n->in[0], axis);
  return NULL;
}

// ---- ONNX: parts --------------------------------------------------------------------------------
static int64_t clamp(int64_t v, int64_t lo, int64_t hi) { return v < lo ? lo : v > hi ? hi : v; }

static zg_status import_slice(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  const zg_type t = *zg_b_type(n->b, n->in[0]);
  zg_ints starts, ends, axes, steps;
  bool has_axes, has_steps;
  ZG_TRY(zg__ints(n, "starts", 1, &starts, NULL));
  ZG_TRY(zg__ints(n, "ends", 2, &ends, NULL));
  ZG_TRY(zg__ints(n, "axes", 3, &axes, &has_axes));
  ZG_TRY(zg__ints(n, NULL, 4, &steps, &has_steps));
  if (starts.n != ends.n || (has_axes && axes.n != starts.n) || (has_steps && steps.n != starts.n) ||
      (!has_axes && starts.n > t.rank))
    return zg_onnx_error(n, ZG_INVALID,
                         "starts, ends, axes and steps differ in length, or exceed the rank of %s",
                         zg_type_text(&t));
  int64_t start[ZG_MAX_RANK] = {0}, step[ZG_MAX_RANK], size[ZG_MAX_RANK];
  for (uint32_t d = 0; d < t.rank; d++) step[d] = 1, size[d] = t.dim[d];
  for (int64_t i = 0; i < starts.n; i++) {
    int64_t a;
    ZG_TRY(zg__axis(n, has_axes ? axes.at[i] : i, t.rank, &a));
    int64_t s = starts.at[i], e = ends.at[i], k = has_steps ? steps.at[i] : 1;
    const int64_t d = t.dim[a];
    if (k == 0) return zg_onnx_error(n, ZG_INVALID, "step 0 along axis %lld", (long long)a);
    k = clamp(k, -d - 1, d + 1);  // the same elements, without overflow
    s = clamp(s < 0 ? s + d : s, k < 0 ? -1 : 0, k < 0 ? d - 1 : d);
    e = clamp(e < 0 ? e + d : e, k < 0 ? -1 : 0, k < 0 ? d - 1 : d);
    size[a] = ZG_MAX(0, ceil_div(e - s, k));
    start[a] = size[a] ? s : 0;
    step[a] = size[a] > 1 ? k : 1;
  }
  n->out[0] = zg_b_slice(n->b, n->in[0], start, step, size);
  return NULL;
}

static zg_status import_split(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  const zg_type t = *zg_b_type(n->b, n->in[0]);
  int64_t axis;
  ZG_TRY(zg__axis(n, zg_onnx_int(n, "axis", 0), t.rank, &axis));
  zg_ints split;
  bool given;
  ZG_TRY(zg__ints(n, "split", 1, &split, &given));
  if (given && split.n != n->n_out)
    return zg_onnx_error(n, ZG_INVALID, "split has %lld sizes for %u outputs", (long long)split.n, n->n_out);
  const int64_t parts = zg_onnx_int(n, "num_outputs", n->n_out);
  if (parts < n->n_out)
    return zg_onnx_error(n, ZG_INVALID, "num_outputs is %lld, but the node has %u outputs", (long long)parts,
                         n->n_out);
  const int64_t chunk = ceil_div(t.dim[axis], ZG_MAX(parts, 1));
  int64_t at = 0;
  for (uint32_t i = 0; i < n->n_out; i++) {
    const int64_t size = given ? split.at[i] : clamp(t.dim[axis] - at, 0, chunk);
    n->out[i] = zg_b_slice1(n->b, n->in[0], axis, at, size);
    at += size;
  }
  if (given && at != t.dim[axis])
    return zg_onnx_error(n, ZG_INVALID, "sizes of split add up to %lld, but axis %lld of %s differs",
                         (long long)at, (long long)axis, zg_type_text(&t));
  return NULL;
}

static zg_status import_concat(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, n->n_in ? n->n_in : 1));
  int64_t axis;
  ZG_TRY(zg__axis(n, zg_onnx_int(n, "axis", 1), zg_b_type(n->b, n->in[0])->rank, &axis));
  n->out[0] = n->n_in == 1 ? n->in[0] : zg_b_concat(n->b, n->in, n->n_in, axis);
  return NULL;
}

// ---- ONNX: Pad ----------------------------------------------------------------------------------
// Index into a dim of d elements that position i of the padded axis shows.
static int64_t mirrored(const char *mode, int64_t i, int64_t d) {
  if (strcmp(mode, "edge") == 0) return clamp(i, 0, d - 1);
  if (strcmp(mode, "wrap") == 0) return ((i % d) + d) % d;
  const int64_t period = ZG_MAX(2 * (d - 1), 1), k = ((i % period) + period) % period;
  return d == 1 ? 0 : k < d ? k : period - k;
}

static zg_status pad_constant(zg_onnx_node *n, zg_val x, const int64_t *before, const int64_t *after) {
  zg_builder *b = n->b;
  const zg_type t = *zg_b_type(b, x);
  double fill = zg_onnx_float(n, "value", 0);
  if (n->opset >= 11 && zg_is(zg_onnx_in(n, 2))) ZG_TRY(zg__const_scalar(n, 2, &fill));
  int64_t dim[ZG_MAX_RANK], step[ZG_MAX_RANK];
  for (uint32_t d = 0; d < t.rank; d++) dim[d] = t.dim[d] + before[d] + after[d], step[d] = 1;
  n->out[0] = zg_b_unslice(b, x, dim, before, step, fill);
  return NULL;
}

static zg_status pad_mirrored(zg_onnx_node *n, zg_val x, const char *mode, const int64_t *before,
                              const int64_t *after) {
  zg_builder *b = n->b;
  const zg_type t = *zg_b_type(b, x);
  for (uint32_t d = 0; d < t.rank; d++) {
    if (before[d] == 0 && after[d] == 0) continue;
    if (t.dim[d] == 0)
      return zg_onnx_error(n, ZG_INVALID, "mode %s cannot fill the empty axis %u of %s", mode, d,
                           zg_type_text(&t));
    const int64_t size = before[d] + t.dim[d] + after[d];
    int64_t *idx = ZG_NEW_N(zg_builder_arena(b), int64_t, size);
    for (int64_t i = 0; i < size; i++) idx[i] = mirrored(mode, i - before[d], t.dim[d]);
    x = zg_b_gather(b, x, zg_b_int_vec(b, idx, size), d);
  }
  n->out[0] = x;
  return NULL;
}

static zg_status import_pad(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  const zg_type t = *zg_b_type(n->b, n->in[0]);
  zg_ints pads, axes;
  bool has_axes;
  ZG_TRY(zg__ints(n, "pads", 1, &pads, NULL));
  ZG_TRY(zg__ints(n, NULL, 3, &axes, &has_axes));
  const int64_t k = has_axes ? axes.n : t.rank;
  if (pads.n != 2 * k)
    return zg_onnx_error(n, ZG_INVALID, "pads has %lld entries, want %lld", (long long)pads.n,
                         (long long)(2 * k));
  int64_t before[ZG_MAX_RANK] = {0}, after[ZG_MAX_RANK] = {0}, start[ZG_MAX_RANK], step[ZG_MAX_RANK],
          size[ZG_MAX_RANK];
  for (int64_t i = 0; i < k; i++) {
    int64_t a;
    ZG_TRY(zg__axis(n, has_axes ? axes.at[i] : i, t.rank, &a));
    before[a] = pads.at[i], after[a] = pads.at[k + i];
  }
  bool crop = false;
  for (uint32_t d = 0; d < t.rank; d++) {  // negative pads cut off
    start[d] = ZG_MAX(0, -before[d]), step[d] = 1, size[d] = t.dim[d] - start[d] - ZG_MAX(0, -after[d]);
    crop |= size[d] != t.dim[d];
    if (size[d] < 0)
      return zg_onnx_error(n, ZG_INVALID, "pads cut more than there is of axis %u of %s", d,
                           zg_type_text(&t));
    before[d] = ZG_MAX(0, before[d]), after[d] = ZG_MAX(0, after[d]);
  }
  const zg_val x = crop ? zg_b_slice(n->b, n->in[0], start, step, size) : n->in[0];
  const char *mode = zg_onnx_str(n, "mode", "constant");
  if (strcmp(mode, "constant") == 0) return pad_constant(n, x, before, after);
  if (strcmp(mode, "edge") && strcmp(mode, "reflect") && strcmp(mode, "wrap"))
    return zg_onnx_error(n, ZG_INVALID, "mode \"%s\" is none of constant, edge, reflect, wrap", mode);
  return pad_mirrored(n, x, mode, before, after);
}

// ---- ONNX: Tile, Trilu, EyeLike -----------------------------------------------------------------
static zg_status import_tile(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 2));
  zg_builder *b = n->b;
  const zg_type t = *zg_b_type(b, n->in[0]);
  zg_ints r;
  ZG_TRY(zg__ints(n, NULL, 1, &r, NULL));
  if (r.n != t.rank)
    return zg_onnx_error(n, ZG_INVALID, "repeats has %lld entries for %s", (long long)r.n, zg_type_text(&t));
  zg_type now = t;
  zg_val x = n->in[0];
  for (uint32_t d = t.rank; d-- > 0;) {  // [outer, 1, rest] -> [outer, repeats, rest]
    if (r.at[d] < 0) return zg_onnx_error(n, ZG_INVALID, "repeats entry %u is negative", d);
    if (r.at[d] == 1) continue;
    const int64_t outer = zg__prod(&now, 0, d), rest = zg__prod(&now, d, t.rank);
    x = zg_b_reshape(b, x, (int64_t[]){outer, 1, rest}, 3);
    x = zg_b_expand(b, x, (int64_t[]){outer, r.at[d], rest}, 3);
    now.dim[d] *= r.at[d];
    x = zg_b_reshape(b, x, now.dim, now.rank);
  }
  n->out[0] = x;
  return NULL;
}

static zg_status import_trilu(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  zg_builder *b = n->b;
  const zg_type t = *zg_b_type(b, n->in[0]);
  if (t.rank < 2) return zg_onnx_error(n, ZG_INVALID, "operand is %s, want rank 2 or more", zg_type_text(&t));
  double k = 0;
  if (zg_is(zg_onnx_in(n, 1))) ZG_TRY(zg__const_scalar(n, 1, &k));
  const zg_val row = zg__index_along(b, &t, (int64_t)t.rank - 2, k),
               col = zg__index_along(b, &t, (int64_t)t.rank - 1, 0);
  const bool upper = zg_onnx_int(n, "upper", 1) != 0;
  const zg_val keep = upper ? zg_b_map2(b, ZG_S_LE, row, col) : zg_b_map2(b, ZG_S_LE, col, row);
  n->out[0] = t.dtype == ZG_BOOL ? zg_b_map2(b, ZG_S_AND, keep, n->in[0])
                                 : zg_b_where(b, keep, n->in[0], zg_b_like(b, n->in[0], 0));
  return NULL;
}

static zg_status import_eye_like(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  zg_builder *b = n->b;
  zg_type t = *zg_b_type(b, n->in[0]);
  if (t.rank != 2) return zg_onnx_error(n, ZG_INVALID, "operand is %s, want a matrix", zg_type_text(&t));
  if (zg_onnx_has(n, "dtype")) ZG_TRY(zg_onnx_dtype(zg_onnx_int(n, "dtype", 1), &t.dtype));
  const zg_val row = zg__index_along(b, &t, 0, (double)zg_onnx_int(n, "k", 0)),
               col = zg__index_along(b, &t, 1, 0);
  n->out[0] = zg_b_cast(b, zg_b_map2(b, ZG_S_EQ, row, col), t.dtype);
  return NULL;
}

static const zg_onnx_row rows[] = {
    {"Reshape", "", 1, 0, import_reshape},
    {"Transpose", "", 1, 0, import_transpose},
    {"Expand", "", 8, 0, import_expand},
    {"Squeeze", "", 1, 0, import_squeeze},
    {"Unsqueeze", "", 1, 0, import_unsqueeze},
    {"Flatten", "", 1, 0, import_flatten},
    {"Slice", "", 1, 0, import_slice},
    {"Split", "", 2, 0, import_split},
    {"Concat", "", 1, 0, import_concat},
    {"Pad", "", 2, 0, import_pad},
    {"Tile", "", 6, 0, import_tile},
    {"Trilu", "", 14, 0, import_trilu},
    {"Trilu", "com.microsoft", 1, 0, import_trilu},
    {"EyeLike", "", 9, 0, import_eye_like, .no_gradient = true},
};
static const zg_op *const ops[] = {&zg_op_reshape, &zg_op_expand,  &zg_op_transpose,
                                   &zg_op_slice,   &zg_op_unslice, &zg_op_concat,
                                   &zg_op_barrier};
const zg_family zg_family_view = {
    .name = "view", .ops = ops, .n_ops = ZG_COUNT(ops), .onnx = rows, .n_onnx = ZG_COUNT(rows)};
