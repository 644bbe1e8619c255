// Op: unslice, a tensor written at strides into a filled one; its gradient is slice. ONNX: Pad.
#include "graph/op/op_priv.h"

static zg_status unslice_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  const zg_unslice_attr *a = x->attr;
  const zg_type *t = x->in[0];
  ZG_TRY(zg__check_rank(x, "dim", a->dim.n, t->rank));
  ZG_TRY(zg__check_rank(x, "start", a->start.n, t->rank));
  ZG_TRY(zg__check_rank(x, "step", a->step.n, t->rank));
  x->out[0] = zg_type_make(t->dtype, t->rank, a->dim.at);
  for (uint32_t d = 0; d < t->rank; d++)
    if (a->dim.at[d] < 0 || !zg__inside(a->start.at[d], a->step.at[d], t->dim[d], a->dim.at[d]))
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
  const int64_t offset = zg__slice_strides(o, &a->start, &a->step, stride);
  zg__strided_copy(&x->in[0].type, x->in[0].data, x->out[0].data, stride, offset, true);
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

// ---- ONNX ----------------------------------------------------------------------------------------
// Index into a dim of d elements that position i of the padded axis shows.
static int64_t mirrored(const char *mode, int64_t i, int64_t d) {
  if (strcmp(mode, "edge") == 0) return zg__clamp(i, 0, d - 1);
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

static const zg_onnx_row rows[] = {
    {"Pad", "", 2, 0, import_pad},
};
static const zg_op *const ops[] = {&zg_op_unslice};
const zg_family zg_family_unslice = {
    .name = "unslice", .ops = ops, .n_ops = ZG_COUNT(ops), .onnx = rows, .n_onnx = ZG_COUNT(rows)};
