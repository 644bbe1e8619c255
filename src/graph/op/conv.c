// Op family: convolution. Cross-correlation over 1 to 3 spatial axes with groups (ONNX Conv), and its two
// adjoints. The three are closed under differentiation, because all are partial derivatives of the one
// trilinear form
//   T(x, w, y) = sum over n, o, p, c, k of  x[n, c, p*stride + k*dilation - pad] * w[o, c, k] * y[n, o, p]
// conv = dT/dy, conv_grad_x = dT/dx, conv_grad_w = dT/dw. ConvTranspose's forward is conv_grad_x.
#include "graph/op/import_priv.h"

static const zg_attr_field conv_fields[] = {
    ZG_FIELD(INTS, zg_conv_attr, strides, 0),   ZG_FIELD(INTS, zg_conv_attr, pads, 0),
    ZG_FIELD(INTS, zg_conv_attr, dilations, 0), ZG_FIELD(INT, zg_conv_attr, group, 1),
    ZG_FIELD(INTS, zg_conv_attr, dim, 0),
};

// ---- shapes -----------------------------------------------------------------------------------------------
static zg_status check_attr(const zg_conv_attr *a, uint32_t rank) {
  if (rank < 3 || rank > 5)
    return zg_error(ZG_UNSUPPORTED, "operands have rank %u, want 3 to 5 (1 to 3 spatial dims)", rank);
  const int64_t r = (int64_t)rank - 2;
  if (a->strides.n != r || a->dilations.n != r || a->pads.n != 2 * r)
    return zg_error(ZG_INVALID, "%lld strides, %lld dilations, %lld pads for %lld spatial dims",
                    (long long)a->strides.n, (long long)a->dilations.n, (long long)a->pads.n, (long long)r);
  for (int64_t i = 0; i < r; i++)
    if (a->strides.at[i] < 1 || a->dilations.at[i] < 1)
      return zg_error(ZG_INVALID, "strides and dilations must be positive");
  for (int64_t i = 0; i < 2 * r; i++)
    if (a->pads.at[i] < 0) return zg_error(ZG_INVALID, "pads must not be negative");
  if (a->group < 1) return zg_error(ZG_INVALID, "group is %lld, want at least 1", (long long)a->group);
  return NULL;
}

// Type of conv(x, w); every rule that ties the three tensors together is here.
static zg_status conv_type(const zg_conv_attr *a, const zg_type *x, const zg_type *w, zg_type *y) {
  ZG_TRY(check_attr(a, x->rank));
  if (w->rank != x->rank || w->dtype != x->dtype || !zg_dtype_is_float(x->dtype))
    return zg_error(ZG_INVALID, "data %s and weight %s must be floats of one type and rank", zg_type_text(x),
                    zg_type_text(w));
  if (x->dim[1] != w->dim[1] * a->group || w->dim[0] % a->group)
    return zg_error(ZG_INVALID, "data %s and weight %s do not fit with %lld groups (channels, filters)",
                    zg_type_text(x), zg_type_text(w), (long long)a->group);
  const int64_t r = (int64_t)x->rank - 2;
  *y = *x;
  y->dim[1] = w->dim[0];
  for (int64_t i = 0; i < r; i++) {
    const int64_t span = (w->dim[2 + i] - 1) * a->dilations.at[i] + 1;
    const int64_t room = x->dim[2 + i] + a->pads.at[i] + a->pads.at[r + i];
    if (w->dim[2 + i] < 1 || room < span)
      return zg_error(ZG_INVALID, "kernel of %s does not fit into %s with its padding on spatial axis %lld",
                      zg_type_text(w), zg_type_text(x), (long long)i);
    y->dim[2 + i] = (room - span) / a->strides.at[i] + 1;
  }
  return NULL;
}

static zg_status infer_conv(zg_infer *in) {
  ZG_TRY(zg_infer_arity(in, 2, 3));
  const zg_conv_attr *a = in->attr;
  const bool bias = in->n_in > 2 && in->in[2];
  ZG_TRY(conv_type(a, in->in[0], in->in[1], in->out));
  if (bias &&
      (in->in[2]->rank != 1 || in->in[2]->dim[0] != in->out->dim[1] || in->in[2]->dtype != in->out->dtype))
    return zg_error(ZG_INVALID, "bias is %s, want one element for each of the %lld filters of %s",
                    zg_type_text(in->in[2]), (long long)in->out->dim[1], zg_type_text(in->in[1]));
  return NULL;
}

static zg_status dim_type(const zg_conv_attr *a, const zg_type *like, zg_type *out) {
  if (a->dim.n != like->rank)
    return zg_error(ZG_INVALID, "dim has %lld entries, want %u", (long long)a->dim.n, like->rank);
  *out = zg_type_make(like->dtype, like->rank, a->dim.at);
  return NULL;
}

static zg_status want_same(const zg_type *got, const zg_type *want) {
  if (zg_type_equal(got, want)) return NULL;
  return zg_error(ZG_INVALID, "dy is %s, but the convolution gives %s", zg_type_text(got),
                  zg_type_text(want));
}

static zg_status infer_grad_x(zg_infer *in) {
  ZG_TRY(zg_infer_arity(in, 2, 2));
  zg_type y;
  ZG_TRY(dim_type(in->attr, in->in[0], in->out));
  ZG_TRY(conv_type(in->attr, in->out, in->in[1], &y));
  return want_same(in->in[0], &y);
}

static zg_status infer_grad_w(zg_infer *in) {
  ZG_TRY(zg_infer_arity(in, 2, 2));
  zg_type y;
  ZG_TRY(dim_type(in->attr, in->in[0], in->out));
  ZG_TRY(conv_type(in->attr, in->in[0], in->out, &y));
  return want_same(in->in[1], &y);
}

// ---- evaluation -------------------------------------------------------------------------------------------
typedef enum { MAKE_Y, MAKE_X, MAKE_W } make;
typedef struct {              // always three spatial axes; missing ones in front have size 1
  int64_t n, groups, xc, yc;  // channels of a group
  int64_t x[3], y[3], k[3], stride[3], pad[3], dil[3];
} geometry;

static geometry make_geometry(const zg_conv_attr *a, const zg_type *x, const zg_type *w, const zg_type *y) {
  geometry g = {.n = x->dim[0], .groups = a->group, .xc = w->dim[1], .yc = w->dim[0] / a->group};
  const int first = 3 - (int)(x->rank - 2);
  for (int i = 0; i < 3; i++) {
    const int s = i - first;  // spatial axis of the tensors
    g.x[i] = s < 0 ? 1 : x->dim[2 + s];
    g.y[i] = s < 0 ? 1 : y->dim[2 + s];
    g.k[i] = s < 0 ? 1 : w->dim[2 + s];
    g.stride[i] = s < 0 ? 1 : a->strides.at[s];
    g.pad[i] = s < 0 ? 0 : a->pads.at[s];
    g.dil[i] = s < 0 ? 1 : a->dilations.at[s];
  }
  return g;
}

// One plane of x against one kernel and one plane of y: adds to whichever is being made.
static void plane(const geometry *g, make what, double *x, double *w, double *y) {
  for (int64_t py = 0; py < g->y[0] * g->y[1] * g->y[2]; py++) {
    const int64_t p[3] = {py / (g->y[1] * g->y[2]), py / g->y[2] % g->y[1], py % g->y[2]};
    for (int64_t kk = 0; kk < g->k[0] * g->k[1] * g->k[2]; kk++) {
      const int64_t k[3] = {kk / (g->k[1] * g->k[2]), kk / g->k[2] % g->k[1], kk % g->k[2]};
      int64_t at = 0;
      bool inside = true;
      for (int i = 0; i < 3; i++) {
        const int64_t q = p[i] * g->stride[i] + k[i] * g->dil[i] - g->pad[i];
        inside = inside && q >= 0 && q < g->x[i];
        at = at * g->x[i] + q;
      }
      if (!inside) continue;
      if (what == MAKE_Y) y[py] += x[at] * w[kk];
      else if (what == MAKE_X) x[at] += y[py] * w[kk];
      else w[kk] += x[at] * y[py];
    }
  }
}

static void all_planes(const geometry *g, make what, double *x, double *w, double *y) {
  const int64_t nx = g->x[0] * g->x[1] * g->x[2], ny = g->y[0] * g->y[1] * g->y[2],
                nk = g->k[0] * g->k[1] * g->k[2];
  for (int64_t n = 0; n < g->n; n++)
    for (int64_t o = 0; o < g->groups * g->yc; o++)
      for (int64_t c = 0; c < g->xc; c++) {
        const int64_t xc = o / g->yc * g->xc + c;
        plane(g, what, x + (n * g->groups * g->xc + xc) * nx, w + (o * g->xc + c) * nk,
              y + (n * g->groups * g->yc + o) * ny);
      }
}

static zg_status alloc_doubles(const zg_type *t, double **out) {
  return zg_alloc_big((uint64_t)zg_elems(t) * sizeof(double) + sizeof(double), (void **)out);
}
static void free_doubles(const zg_type *t, double *p) {
  zg_free_big(p, (uint64_t)zg_elems(t) * sizeof(double) + sizeof(double));
}

// Tensors in the roles x, w, y; the one being made is the output, the others are read.
static zg_status eval_roles(const zg_conv_attr *a, make what, const zg_tensor *x, const zg_tensor *w,
                            const zg_tensor *y, const zg_tensor *bias) {
  const zg_tensor *t[3] = {x, w, y};
  double *d[3] = {NULL, NULL, NULL};
  const int made = what == MAKE_X ? 0 : what == MAKE_W ? 1 : 2;
  zg_status status = NULL;
  for (int i = 0; i < 3; i++) {
    ZG_TRY_OUT(alloc_doubles(&t[i]->type, &d[i]));
    if (i != made) zg_convert(ZG_F64, d[i], t[i]->type.dtype, t[i]->data, zg_elems(&t[i]->type));
  }
  const geometry g = make_geometry(a, &x->type, &w->type, &y->type);
  const int64_t ny = g.y[0] * g.y[1] * g.y[2], total = zg_elems(&y->type);
  if (bias)
    for (int64_t i = 0; i < total; i++)
      d[2][i] = zg_get_f64(bias->type.dtype, bias->data, i / ny % (g.groups * g.yc));
  all_planes(&g, what, d[0], d[1], d[2]);
  zg_convert(t[made]->type.dtype, t[made]->data, ZG_F64, d[made], zg_elems(&t[made]->type));
out:
  for (int i = 0; i < 3; i++)
    if (d[i]) free_doubles(&t[i]->type, d[i]);
  return status;
}

static zg_status eval_conv(zg_eval *e) {
  const bool bias = e->n_in > 2 && e->in[2].data;
  return eval_roles(e->attr, MAKE_Y, &e->in[0], &e->in[1], &e->out[0], bias ? &e->in[2] : NULL);
}
static zg_status eval_grad_x(zg_eval *e) {
  return eval_roles(e->attr, MAKE_X, &e->out[0], &e->in[1], &e->in[0], NULL);
}
static zg_status eval_grad_w(zg_eval *e) {
  return eval_roles(e->attr, MAKE_W, &e->in[0], &e->out[0], &e->in[1], NULL);
}

// ---- gradients --------------------------------------------------------------------------------------------
static zg_val emit_conv(zg_builder *b, const zg_conv_attr *a, zg_val x, zg_val w) {
  zg_conv_attr c = *a;
  c.dim = (zg_ints){0, NULL};
  const zg_val in[] = {x, w};
  return zg_emit1(b, &zg_op_conv, &c, in, 2);
}

// conv_grad_x or conv_grad_w whose result has the shape of `like`.
static zg_val emit_adjoint(zg_builder *b, const zg_op *op, const zg_conv_attr *a, zg_val p, zg_val q,
                           zg_val like) {
  const zg_type t = *zg_b_type(b, like);
  zg_conv_attr c = *a;
  c.dim = zg__array(t.dim, t.rank);
  const zg_val in[] = {p, q};
  return zg_emit1(b, op, &c, in, 2);
}

static zg_status grad_conv(zg_grad *g) {
  const zg_val x = g->in[0], w = g->in[1], dy = g->dout[0];
  if (g->need[0]) g->din[0] = emit_adjoint(g->b, &zg_op_conv_grad_x, g->attr, dy, w, x);
  if (g->need[1]) g->din[1] = emit_adjoint(g->b, &zg_op_conv_grad_w, g->attr, x, dy, w);
  if (g->n_in > 2 && g->need[2] && zg_is(g->in[2])) {
    const int64_t axes[] = {0, 2, 3, 4};
    g->din[2] = zg_b_reduce(g->b, ZG_RED_SUM, dy, axes, (int64_t)zg_b_type(g->b, dy)->rank - 1, false);
  }
  return NULL;
}
static zg_status grad_grad_x(zg_grad *g) {  // <G, grad_x(dy, w)> = <conv(G, w), dy>
  const zg_val dy = g->in[0], w = g->in[1], G = g->dout[0];
  if (g->need[0]) g->din[0] = emit_conv(g->b, g->attr, G, w);
  if (g->need[1]) g->din[1] = emit_adjoint(g->b, &zg_op_conv_grad_w, g->attr, G, dy, w);
  return NULL;
}
static zg_status grad_grad_w(zg_grad *g) {  // <G, grad_w(x, dy)> = <conv(x, G), dy>
  const zg_val x = g->in[0], dy = g->in[1], G = g->dout[0];
  if (g->need[0]) g->din[0] = emit_adjoint(g->b, &zg_op_conv_grad_x, g->attr, dy, G, x);
  if (g->need[1]) g->din[1] = emit_conv(g->b, g->attr, x, G);
  return NULL;
}

// ---- cases ------------------------------------------------------------------------------------------------
#define X(type) "%1 = input name=\"x\" type=" type "\n"
#define W(type) "%2 = input name=\"w\" type=" type "\n"
#define B(type) "%3 = input name=\"b\" type=" type "\n"
static const zg_op_case conv_cases[] = {
    {.name = "2d with bias",
     .text =
         X("f64[2,3,5,6]") W("f64[4,3,3,3]") B("f64[4]") "%4 = conv %1, %2, %3 strides=[1,1] pads=[1,1,1,1] "
                                                         "dilations=[1,1]\noutput value \"y\" %4"},
    {.name = "asymmetric pads, strides that leave a rest",
     .text = X("f64[1,2,7,5]") W("f64[3,2,2,3]") "%4 = conv %1, %2 strides=[2,3] pads=[0,1,2,0] "
                                                 "dilations=[1,1]\noutput value \"y\" %4"},
    {.name = "groups and dilation",
     .text = X("f64[2,4,7,7]") W("f64[6,2,2,3]") "%4 = conv %1, %2 strides=[1,2] pads=[2,0,1,1] "
                                                 "dilations=[3,2] group=2\noutput value \"y\" %4"},
    {.name = "depthwise, two filters a channel",
     .text = X("f64[1,3,4,4]") W("f64[6,1,3,3]") "%4 = conv %1, %2 strides=[1,1] pads=[1,1,1,1] "
                                                 "dilations=[1,1] group=3\noutput value \"y\" %4"},
    {.name = "1d, stride over the kernel",
     .text = X("f64[3,2,11]") W("f64[5,2,2]")
         B("f64[5]") "%4 = conv %1, %2, %3 strides=[4] pads=[1,0] dilations=[1]\noutput value \"y\" %4"},
    {.name = "3d",
     .text = X("f64[1,2,3,4,5]") W("f64[2,2,2,3,2]") "%4 = conv %1, %2 strides=[1,2,1] pads=[0,1,0,1,1,0] "
                                                     "dilations=[1,1,2]\noutput value \"y\" %4"},
    {.name = "1x1, one pixel",
     .text = X("f64[1,1,1,1]") W("f64[1,1,1,1]") "%4 = conv %1, %2 strides=[1,1] pads=[0,0,0,0] "
                                                 "dilations=[1,1]\noutput value \"y\" %4"},
    {.name = "empty batch",
     .text = X("f64[0,2,3,3]") W("f64[2,2,2,2]") "%4 = conv %1, %2 strides=[1,1] pads=[0,0,0,0] "
                                                 "dilations=[1,1]\noutput value \"y\" %4"},
};
static const zg_op_case grad_x_cases[] = {
    {.name = "stride that leaves a rest",
     .text = X("f64[1,3,3,2]") W("f64[3,2,2,3]") "%4 = conv_grad_x %1, %2 strides=[2,3] pads=[0,1,0,0] "
                                                 "dilations=[1,1] dim=[1,2,7,5]\noutput value \"y\" %4"},
    {.name = "groups and dilation",
     .text =
         X("f64[2,6,4,3]") W("f64[6,2,2,3]") "%4 = conv_grad_x %1, %2 strides=[1,1] pads=[1,0,1,2] "
                                             "dilations=[3,2] group=2 dim=[2,4,5,5]\noutput value \"y\" %4"},
    {.name = "1d",
     .text = X("f64[2,3,4]") W("f64[3,1,3]") "%4 = conv_grad_x %1, %2 strides=[2] pads=[1,1] dilations=[1] "
                                             "dim=[2,1,8]\noutput value \"y\" %4"},
    {.name = "3d",
     .text = X("f64[1,2,2,2,2]") W("f64[2,1,2,2,2]") "%4 = conv_grad_x %1, %2 strides=[1,2,1] "
                                                     "pads=[0,0,0,0,0,0] dilations=[1,1,1] dim=[1,1,3,4,3]\n"
                                                     "output value \"y\" %4"},
};
static const zg_op_case grad_w_cases[] = {
    {.name = "2d",
     .text = X("f64[2,2,5,4]") W("f64[2,3,4,2]") "%4 = conv_grad_w %1, %2 strides=[1,2] pads=[1,0,0,1] "
                                                 "dilations=[1,1] dim=[3,2,3,3]\noutput value \"y\" %4"},
    {.name = "groups, dilation",
     .text =
         X("f64[2,4,5,4]") W("f64[2,6,3,4]") "%4 = conv_grad_w %1, %2 strides=[1,1] pads=[0,1,0,1] "
                                             "dilations=[2,1] group=2 dim=[6,2,2,3]\noutput value \"y\" %4"},
    {.name = "1d",
     .text = X("f64[2,1,8]") W("f64[2,3,4]") "%4 = conv_grad_w %1, %2 strides=[2] pads=[1,1] dilations=[1] "
                                             "dim=[3,1,3]\noutput value \"y\" %4"},
};
#undef X
#undef W
#undef B

const zg_op zg_op_conv = {.name = "conv",
                          .traits = ZG_CORE,
                          ZG_ATTRS(zg_conv_attr, conv_fields),
                          .n_out = 1,
                          .infer = infer_conv,
                          .eval = eval_conv,
                          .grad = grad_conv,
                          ZG_CASES(conv_cases)};
const zg_op zg_op_conv_grad_x = {.name = "conv_grad_x",
                                 .traits = ZG_CORE,
                                 ZG_ATTRS(zg_conv_attr, conv_fields),
                                 .n_out = 1,
                                 .infer = infer_grad_x,
                                 .eval = eval_grad_x,
                                 .grad = grad_grad_x,
                                 ZG_CASES(grad_x_cases)};
const zg_op zg_op_conv_grad_w = {.name = "conv_grad_w",
                                 .traits = ZG_CORE,
                                 ZG_ATTRS(zg_conv_attr, conv_fields),
                                 .n_out = 1,
                                 .infer = infer_grad_w,
                                 .eval = eval_grad_w,
                                 .grad = grad_grad_w,
                                 ZG_CASES(grad_w_cases)};

// ---- import: windows --------------------------------------------------------------------------------------
static zg_status read_axis_ints(const zg_onnx_node *n, const char *attr, int64_t want, int64_t least,
                                int64_t *out) {
  zg_ints v;
  if (!zg_onnx_ints(n, attr, &v) || v.n == 0) return NULL;
  if (v.n != want)
    return zg_onnx_error(n, ZG_INVALID, "attribute %s has %lld entries, want %lld", attr, (long long)v.n,
                         (long long)want);
  for (int64_t i = 0; i < want; i++) {
    if (v.at[i] < least)
      return zg_onnx_error(n, ZG_INVALID, "attribute %s has the entry %lld, want at least %lld", attr,
                           (long long)v.at[i], (long long)least);
    out[i] = v.at[i];
  }
  return NULL;
}

zg_status zg__window_read(const zg_onnx_node *n, const zg_type *x, const int64_t *kernel, zg__window *w) {
  if (x->rank < 3 || x->rank > 5)
    return zg_onnx_error(n, ZG_UNSUPPORTED, "input 0 is %s, want rank 3 to 5 (1 to 3 spatial dims)",
                         zg_type_text(x));
  *w = (zg__window){.rank = (int64_t)x->rank - 2};
  zg_ints given;
  if (!kernel && !zg_onnx_ints(n, "kernel_shape", &given))
    return zg_onnx_error(n, ZG_INVALID, "attribute kernel_shape is missing");
  for (int64_t i = 0; i < w->rank; i++) {
    w->kernel[i] = kernel ? kernel[i] : 1;
    w->strides[i] = w->dilations[i] = 1;
  }
  ZG_TRY(read_axis_ints(n, "kernel_shape", w->rank, 1, w->kernel));
  for (int64_t i = 0; kernel && i < w->rank; i++)
    if (kernel[i] != w->kernel[i])
      return zg_onnx_error(n, ZG_INVALID,
                           "kernel_shape says %lld on spatial axis %lld, but the weight has %lld",
                           (long long)w->kernel[i], (long long)i, (long long)kernel[i]);
  ZG_TRY(read_axis_ints(n, "strides", w->rank, 1, w->strides));
  ZG_TRY(read_axis_ints(n, "dilations", w->rank, 1, w->dilations));
  return read_axis_ints(n, "pads", 2 * w->rank, 0, w->pads);
}

static zg_status auto_pad_kind(const zg_onnx_node *n, const char **kind) {
  *kind = zg_onnx_str(n, "auto_pad", "NOTSET");
  static const char *const kinds[] = {"NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"};
  for (size_t i = 0; i < ZG_COUNT(kinds); i++)
    if (!strcmp(*kind, kinds[i])) return NULL;
  return zg_onnx_error(n, ZG_INVALID, "auto_pad is \"%s\", want NOTSET, SAME_UPPER, SAME_LOWER or VALID",
                       *kind);
}

zg_status zg__window_auto_pad(const zg_onnx_node *n, const zg_type *x, zg__window *w) {
  const char *kind;
  ZG_TRY(auto_pad_kind(n, &kind));
  if (!strcmp(kind, "NOTSET")) return NULL;
  for (int64_t i = 0; i < w->rank; i++) {
    int64_t total = 0;
    if (strcmp(kind, "VALID")) {
      const int64_t in = x->dim[2 + i], out = (in + w->strides[i] - 1) / w->strides[i];
      total = ZG_MAX((out - 1) * w->strides[i] + zg__window_span(w, i) - in, 0);
    }
    w->pads[i] = !strcmp(kind, "SAME_LOWER") ? total - total / 2 : total / 2;
    w->pads[w->rank + i] = total - w->pads[i];
  }
  return NULL;
}

// ---- import: Conv, ConvTranspose --------------------------------------------------------------------------
static zg_conv_attr window_attr(const zg__window *w, int64_t group) {
  return (zg_conv_attr){.strides = zg__array(w->strides, w->rank),
                        .pads = zg__array(w->pads, 2 * w->rank),
                        .dilations = zg__array(w->dilations, w->rank),
                        .group = group};
}

static zg_status weight_rank(const zg_onnx_node *n, const zg_type *x, const zg_type *w) {
  if (x->rank == w->rank) return NULL;
  return zg_onnx_error(n, ZG_INVALID, "input 1 (weight) is %s, want the rank of input 0, %s", zg_type_text(w),
                       zg_type_text(x));
}

static zg_status import_conv(zg_onnx_node *n) {
  const zg_type x = *zg_b_type(n->b, zg_onnx_in(n, 0)), w = *zg_b_type(n->b, zg_onnx_in(n, 1));
  ZG_TRY(weight_rank(n, &x, &w));
  zg__window win;
  ZG_TRY(zg__window_read(n, &x, w.dim + 2, &win));
  ZG_TRY(zg__window_auto_pad(n, &x, &win));
  const zg_conv_attr a = window_attr(&win, zg_onnx_int(n, "group", 1));
  const zg_val in[] = {zg_onnx_in(n, 0), zg_onnx_in(n, 1), zg_onnx_in(n, 2)};
  n->out[0] = zg_emit1(n->b, &zg_op_conv, &a, in, zg_is(in[2]) ? 3 : 2);
  return NULL;
}

// Output dims of ConvTranspose, and the pads (auto_pad and output_shape choose them; ONNX ConvTranspose-11).
static zg_status transpose_dims(const zg_onnx_node *n, const zg_type *x, zg__window *w, int64_t *dim) {
  int64_t extra[3] = {0, 0, 0};
  ZG_TRY(read_axis_ints(n, "output_padding", w->rank, 0, extra));
  const char *kind;
  ZG_TRY(auto_pad_kind(n, &kind));
  zg_ints shape = {0, NULL};
  const bool given = zg_onnx_ints(n, "output_shape", &shape) && shape.n > 0;
  if (given && shape.n != w->rank && shape.n != w->rank + 2)
    return zg_onnx_error(n, ZG_INVALID, "output_shape has %lld entries, want %lld", (long long)shape.n,
                         (long long)w->rank);
  const bool same = !strncmp(kind, "SAME", 4);
  for (int64_t i = 0; i < w->rank; i++) {
    const int64_t full = (x->dim[2 + i] - 1) * w->strides[i] + zg__window_span(w, i) + extra[i];
    int64_t *begin = &w->pads[i], *end = &w->pads[w->rank + i];
    if (!strcmp(kind, "VALID")) *begin = *end = 0;
    if (!given && !same) {
      dim[i] = full - *begin - *end;
    } else {
      dim[i] = given ? shape.at[shape.n - w->rank + i] : x->dim[2 + i] * w->strides[i];
      const int64_t total = ZG_MAX(full - dim[i], 0);
      *begin = !strcmp(kind, "SAME_UPPER") ? total / 2 : total - total / 2;
      *end = total - *begin;
    }
    if (dim[i] < 1)
      return zg_onnx_error(n, ZG_INVALID,
                           "output would have size %lld on spatial axis %lld; pads are too large",
                           (long long)dim[i], (long long)i);
  }
  return NULL;
}

// An output that is larger than the windows reach (output_padding of a stride or more, a large output_shape)
// has windows beyond those of x; they hold zeros.
static zg_val extend_windows(zg_builder *b, zg_val x, const zg__window *w, const int64_t *dim) {
  zg_type t = *zg_b_type(b, x);
  bool more = false;
  for (int64_t i = 0; i < w->rank; i++) {
    const int64_t room = dim[i] + w->pads[i] + w->pads[w->rank + i] - zg__window_span(w, i);
    const int64_t windows = room / w->strides[i] + 1;
    if (windows <= t.dim[2 + i]) continue;
    t.dim[2 + i] = windows;
    more = true;
  }
  const int64_t start[ZG_MAX_RANK] = {0}, step[ZG_MAX_RANK] = {1, 1, 1, 1, 1, 1, 1, 1};
  return more ? zg_b_unslice(b, x, t.dim, start, step, 0) : x;
}

static zg_status import_conv_transpose(zg_onnx_node *n) {
  zg_val x = zg_onnx_in(n, 0);
  const zg_type xt = *zg_b_type(n->b, x), wt = *zg_b_type(n->b, zg_onnx_in(n, 1));
  ZG_TRY(weight_rank(n, &xt, &wt));
  zg__window win;
  ZG_TRY(zg__window_read(n, &xt, wt.dim + 2, &win));
  int64_t dim[5] = {xt.dim[0], wt.dim[1] * zg_onnx_int(n, "group", 1)};
  ZG_TRY(transpose_dims(n, &xt, &win, dim + 2));
  x = extend_windows(n->b, x, &win, dim + 2);
  zg_conv_attr a = window_attr(&win, zg_onnx_int(n, "group", 1));
  a.dim = zg__array(dim, xt.rank);
  const zg_val in[] = {x, zg_onnx_in(n, 1)};
  zg_val y = zg_emit1(n->b, &zg_op_conv_grad_x, &a, in, 2);
  if (zg_is(zg_onnx_in(n, 2))) {
    const int64_t column[5] = {1, dim[1], 1, 1, 1};
    y = zg_add(n->b, y, zg_b_reshape(n->b, zg_onnx_in(n, 2), column, xt.rank));
  }
  n->out[0] = y;
  return NULL;
}

// Depthwise convolution over [past_state, x]; the new state is the end of that.
static zg_status import_causal_conv(zg_onnx_node *n) {
  zg_builder *b = n->b;
  const zg_type x = *zg_b_type(b, zg_onnx_in(n, 0)), w = *zg_b_type(b, zg_onnx_in(n, 1));
  if (x.rank != 3 || w.rank != 3 || w.dim[1] != 1 || w.dim[0] != x.dim[1] || w.dim[2] < 1)
    return zg_onnx_error(n, ZG_INVALID, "data %s and weight %s, want [N, C, length] and [C, 1, k]",
                         zg_type_text(&x), zg_type_text(&w));
  const int64_t k = w.dim[2], one = 1, pads[] = {0, 0}, dim[] = {x.dim[0], x.dim[1], k - 1};
  const zg_type past = zg_type_make(x.dtype, 3, dim);
  const zg_val all[] = {zg_is(zg_onnx_in(n, 3)) ? n->in[3] : zg_b_fill(b, &past, 0), zg_onnx_in(n, 0)};
  const zg_val line = k > 1 ? zg_b_concat(b, all, 2, 2) : all[1];
  const zg_conv_attr a = {.strides = zg__array(&one, 1),
                          .pads = zg__array(pads, 2),
                          .dilations = zg__array(&one, 1),
                          .group = x.dim[1]};
  const zg_val in[] = {line, zg_onnx_in(n, 1), zg_onnx_in(n, 2)};
  const zg_val y = zg_emit1(b, &zg_op_conv, &a, in, zg_is(in[2]) ? 3 : 2);
  const char *activation = zg_onnx_str(n, "activation", "none");
  if (!strcmp(activation, "none")) n->out[0] = y;
  else if (!strcmp(activation, "silu") || !strcmp(activation, "swish"))
    n->out[0] = zg_b_map1(b, ZG_S_SILU, y);
  else return zg_onnx_error(n, ZG_INVALID, "activation is \"%s\", want none, silu or swish", activation);
  if (n->n_out > 1) n->out[1] = zg_b_slice1(b, line, 2, x.dim[2], k - 1);
  return NULL;
}

static const zg_op *const ops[] = {&zg_op_conv, &zg_op_conv_grad_x, &zg_op_conv_grad_w};
static const zg_onnx_row rows[] = {
    {"Conv", "", 1, 0, import_conv, NULL, 6, .weight_operands = 6},
    {"ConvTranspose", "", 1, 0, import_conv_transpose, NULL, 6, .weight_operands = 6},
    {"CausalConvWithState", "", 27, 0, import_causal_conv, NULL, 6, .weight_operands = 6},
};
const zg_family zg_family_conv = {
    .name = "conv", .ops = ops, .n_ops = ZG_COUNT(ops), .onnx = rows, .n_onnx = ZG_COUNT(rows)};
