// Op family: Resize and Upsample. Every mode is separable and its sizes are known, so each axis is a constant
// linear map: nearest is a gather with a constant index, linear and cubic (antialias, exclude_outside
// included) a matmul with a constant [out, in] matrix. Coordinates and coefficients follow ONNX Resize-19 and
// its reference implementation.
#include <math.h>
#include <stdlib.h>
#include "graph/op/import_priv.h"

typedef enum { NEAREST, LINEAR, CUBIC } mode;
typedef struct {
  mode mode;
  const char *transform, *nearest;
  bool antialias, exclude_outside;
  double cubic_a, extrapolation;
} options;
typedef struct {
  int64_t in, out;
  double scale, roi_start, roi_end;
} axis_map;

// ---- coordinates ------------------------------------------------------------------------------------------
// Position in the input of output element i.
static double position(const options *o, const axis_map *m, int64_t i) {
  const char *t = o->transform;
  const double x = (double)i, in = (double)m->in, out = (double)m->out;
  if (!strcmp(t, "asymmetric")) return x / m->scale;
  if (!strcmp(t, "align_corners")) return m->out > 1 ? x * (in - 1) / (out - 1) : 0;
  if (!strcmp(t, "tf_half_pixel_for_nn")) return (x + 0.5) / m->scale;
  if (!strcmp(t, "pytorch_half_pixel")) return m->out > 1 ? (x + 0.5) / m->scale - 0.5 : 0;
  if (!strcmp(t, "tf_crop_and_resize"))
    return m->out > 1 ? m->roi_start * (in - 1) + x * (m->roi_end - m->roi_start) * (in - 1) / (out - 1)
                      : 0.5 * (m->roi_start + m->roi_end) * (in - 1);
  const double half = (x + 0.5) / m->scale - 0.5;
  if (strcmp(t, "half_pixel_symmetric")) return half;
  return in / 2 * (1 - out / (m->scale * in)) + half;
}

static bool known_transform(const char *t) {
  static const char *const all[] = {"half_pixel",        "half_pixel_symmetric", "pytorch_half_pixel",
                                    "align_corners",     "asymmetric",           "tf_half_pixel_for_nn",
                                    "tf_crop_and_resize"};
  for (size_t i = 0; i < ZG_COUNT(all); i++)
    if (!strcmp(all[i], t)) return true;
  return false;
}

static int64_t clamp(int64_t i, int64_t n) { return i < 0 ? 0 : i >= n ? n - 1 : i; }

static int64_t nearest_index(const options *o, const axis_map *m, int64_t i) {
  const double x = position(o, m, i), low = floor(x);
  double at = low;
  if (!strcmp(o->nearest, "ceil")) at = ceil(x);
  else if (!strcmp(o->nearest, "round_prefer_ceil")) at = floor(x + 0.5);
  else if (!strcmp(o->nearest, "round_prefer_floor")) at = ceil(x - 0.5);
  return clamp((int64_t)at, m->in);
}

// ---- coefficients -----------------------------------------------------------------------------------------
static double cubic_weight(double x, double a) {
  x = fabs(x);
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

// Adds the row of output i to `row` (in elements). The taps are those on both sides of the position; when
// shrinking with antialias they are stretched by 1/scale. A position on a pixel counts as 1 right of the
// pixel before, as ONNX has it.
static void fill_row(const options *o, const axis_map *m, int64_t i, double *row) {
  const double x = position(o, m, i), base = ceil(x) - 1, ratio = x - base;
  const double scale = o->antialias ? fmin(m->scale, 1) : 1;
  const double reach = o->mode == CUBIC ? 2 : 1;
  const int64_t first = (int64_t)floor(-reach / scale) + 1, last = 1 - first;
  double sum = 0;
  for (int pass = 0; pass < 2; pass++)
    for (int64_t k = first; k <= last; k++) {
      const double d = ((double)k - ratio) * scale;
      const double c = o->mode == CUBIC ? cubic_weight(d, o->cubic_a) : fmax(0, 1 - fabs(d));
      const int64_t at = (int64_t)base + k;
      if (o->exclude_outside && (at < 0 || at >= m->in)) continue;
      if (pass == 0) sum += c;
      else row[clamp(at, m->in)] += sum != 0 ? c / sum : c;
    }
}

// ---- one axis ---------------------------------------------------------------------------------------------
static zg_val resize_nearest(zg_builder *b, const options *o, const axis_map *m, zg_val x, int64_t axis) {
  int64_t *index = ZG_NEW_N(zg_builder_arena(b), int64_t, m->out + 1);
  for (int64_t i = 0; i < m->out; i++) index[i] = nearest_index(o, m, i);
  return zg_b_gather(b, x, zg_b_int_vec(b, index, m->out), axis);
}

static zg_val resize_linear_map(zg_builder *b, const options *o, const axis_map *m, zg_val x, int64_t axis) {
  const zg_type t = *zg_b_type(b, x);
  const int64_t dim[] = {m->out, m->in};
  const zg_type mt = zg_type_make(ZG_F64, 2, dim);
  double *at = ZG_NEW_N(zg_builder_arena(b), double, m->out * m->in + 1);
  for (int64_t i = 0; i < m->out; i++) fill_row(o, m, i, at + i * m->in);
  const zg_val matrix = zg_b_cast(b, zg_b_const_data(b, &mt, at), t.dtype);
  int64_t before = 1, after = 1, result[ZG_MAX_RANK];
  for (uint32_t i = 0; i < t.rank; i++) {
    result[i] = (int64_t)i == axis ? m->out : t.dim[i];
    if ((int64_t)i < axis) before *= t.dim[i];
    if ((int64_t)i > axis) after *= t.dim[i];
  }
  const int64_t rows[] = {before, m->in}, planes[] = {before, m->in, after};
  if (after == 1) x = zg_b_matmul(b, zg_b_reshape(b, x, rows, 2), matrix, false, true);
  else x = zg_b_matmul(b, matrix, zg_b_reshape(b, x, planes, 3), false, false);
  return zg_b_reshape(b, x, result, t.rank);
}

// tf_crop_and_resize: positions outside of the image give extrapolation_value. True where the position is
// inside.
static zg_val inside_mask(zg_builder *b, const options *o, const axis_map *m, uint32_t rank, int64_t axis) {
  zg_type t = {.dtype = ZG_BOOL, .rank = rank};
  for (uint32_t i = 0; i < rank; i++) t.dim[i] = (int64_t)i == axis ? m->out : 1;
  uint8_t *at = ZG_NEW_N(zg_builder_arena(b), uint8_t, m->out + 1);
  for (int64_t i = 0; i < m->out; i++) {
    const double x = position(o, m, i);
    at[i] = x >= 0 && x <= (double)(m->in - 1);
  }
  return zg_b_const_data(b, &t, at);
}

static bool is_identity(const options *o, const axis_map *m) {
  return m->in == m->out && m->scale == 1 && strcmp(o->transform, "tf_crop_and_resize") &&
         (o->mode == NEAREST ? nearest_index(o, m, 0) == 0 : position(o, m, 0) == 0);
}

static zg_val resize_all(zg_builder *b, const options *o, const axis_map *m, zg_val x) {
  const uint32_t rank = zg_b_type(b, x)->rank;
  zg_val inside = {0};
  for (int64_t axis = 0; axis < rank; axis++) {
    if (is_identity(o, &m[axis])) continue;
    x = o->mode == NEAREST ? resize_nearest(b, o, &m[axis], x, axis)
                           : resize_linear_map(b, o, &m[axis], x, axis);
    if (strcmp(o->transform, "tf_crop_and_resize")) continue;
    const zg_val mask = inside_mask(b, o, &m[axis], rank, axis);
    inside = zg_is(inside) ? zg_b_map2(b, ZG_S_AND, inside, mask) : mask;
  }
  return zg_is(inside) ? zg_b_where(b, inside, x, zg_b_like(b, x, o->extrapolation)) : x;
}

// ---- reading the node -------------------------------------------------------------------------------------
static zg_status read_mode(const zg_onnx_node *n, mode *out) {
  const char *s = zg_onnx_str(n, "mode", "nearest");
  if (!strcmp(s, "nearest")) *out = NEAREST;
  else if (!strcmp(s, "linear") || !strcmp(s, "bilinear")) *out = LINEAR;
  else if (!strcmp(s, "cubic") && n->opset >= 11) *out = CUBIC;
  else return zg_onnx_error(n, ZG_INVALID, "mode is \"%s\", want nearest, linear or cubic", s);
  return NULL;
}

// Before opset 11 there was one rule: position = i / scale, rounded down.
static zg_status read_options(const zg_onnx_node *n, options *o) {
  const bool old = n->opset < 11;
  *o = (options){
      .transform = old ? "asymmetric" : zg_onnx_str(n, "coordinate_transformation_mode", "half_pixel"),
      .nearest = old ? "floor" : zg_onnx_str(n, "nearest_mode", "round_prefer_floor"),
      .antialias = zg_onnx_int(n, "antialias", 0),
      .exclude_outside = zg_onnx_int(n, "exclude_outside", 0),
      .cubic_a = zg_onnx_float(n, "cubic_coeff_a", -0.75),
      .extrapolation = zg_onnx_float(n, "extrapolation_value", 0)};
  ZG_TRY(read_mode(n, &o->mode));
  if (!known_transform(o->transform))
    return zg_onnx_error(n, ZG_INVALID, "coordinate_transformation_mode \"%s\" is not known", o->transform);
  static const char *const rounding[] = {"floor", "ceil", "round_prefer_floor", "round_prefer_ceil"};
  for (size_t i = 0; i < ZG_COUNT(rounding); i++)
    if (!strcmp(rounding[i], o->nearest)) return NULL;
  return zg_onnx_error(n, ZG_INVALID, "nearest_mode \"%s\" is not known", o->nearest);
}

// The axes that scales and sizes speak of: the attribute (opset 18), or all.
static zg_status read_axes(const zg_onnx_node *n, uint32_t rank, int64_t axes[ZG_MAX_RANK], int64_t *n_axes) {
  zg_ints given;
  *n_axes = rank;
  for (uint32_t i = 0; i < rank; i++) axes[i] = i;
  if (!zg_onnx_ints(n, "axes", &given) || given.n == 0) return NULL;
  *n_axes = given.n;
  for (int64_t i = 0; i < given.n; i++) {
    const int64_t a = given.at[i] < 0 ? given.at[i] + rank : given.at[i];
    if (given.n > rank || a < 0 || a >= rank)
      return zg_onnx_error(n, ZG_INVALID, "attribute axes does not fit rank %u", rank);
    axes[i] = a;
  }
  return NULL;
}

static zg_status apply_sizes(const zg_onnx_node *n, const zg_ints *sizes, const int64_t *axes, int64_t n_axes,
                             axis_map *m) {
  const char *policy = zg_onnx_str(n, "keep_aspect_ratio_policy", "stretch");
  if (sizes->n != n_axes)
    return zg_onnx_error(n, ZG_INVALID, "sizes has %lld entries, want %lld", (long long)sizes->n,
                         (long long)n_axes);
  double scale = 0;
  for (int64_t i = 0; i < n_axes; i++) {
    axis_map *a = &m[axes[i]];
    a->out = sizes->at[i];
    a->scale = (double)a->out / (double)a->in;
    if (i == 0 || (!strcmp(policy, "not_larger") ? a->scale < scale : a->scale > scale)) scale = a->scale;
  }
  if (!strcmp(policy, "stretch")) return NULL;
  if (strcmp(policy, "not_larger") && strcmp(policy, "not_smaller"))
    return zg_onnx_error(n, ZG_INVALID, "keep_aspect_ratio_policy \"%s\" is not known", policy);
  for (int64_t i = 0; i < n_axes; i++) {
    axis_map *a = &m[axes[i]];
    a->out = (int64_t)floor(scale * (double)a->in + 0.5);
    a->scale = scale;
  }
  return NULL;
}

static zg_status apply_scales(const zg_onnx_node *n, const double *scales, int64_t n_scales,
                              const int64_t *axes, int64_t n_axes, axis_map *m) {
  if (n_scales != n_axes)
    return zg_onnx_error(n, ZG_INVALID, "scales has %lld entries, want %lld", (long long)n_scales,
                         (long long)n_axes);
  for (int64_t i = 0; i < n_axes; i++) {
    axis_map *a = &m[axes[i]];
    if (!(scales[i] > 0))
      return zg_onnx_error(n, ZG_INVALID, "scales has the entry %g, want positive ones", scales[i]);
    a->scale = scales[i];
    a->out = (int64_t)floor((double)a->in * scales[i]);
  }
  return NULL;
}

static zg_status apply_roi(const zg_onnx_node *n, const int64_t *axes, int64_t n_axes, axis_map *m) {
  const double *roi;
  int64_t n_roi;
  ZG_TRY(zg__onnx_const_floats(n, 1, &roi, &n_roi));
  if (n_roi != 2 * n_axes)
    return zg_onnx_error(n, ZG_INVALID, "roi has %lld entries, want %lld", (long long)n_roi,
                         (long long)(2 * n_axes));
  for (int64_t i = 0; i < n_axes; i++) {
    m[axes[i]].roi_start = roi[i];
    m[axes[i]].roi_end = roi[n_axes + i];
  }
  return NULL;
}

static bool has_elements(const zg_onnx_node *n,
                         uint32_t i) {  // exporters write "" or an empty tensor for an omitted operand
  const zg_val v = zg_onnx_in(n, i);
  return zg_is(v) && zg_elems(zg_b_type(n->b, v)) > 0;
}

static zg_status finish(zg_onnx_node *n, const options *o, const axis_map *m) {
  const zg_type *t = zg_b_type(n->b, zg_onnx_in(n, 0));
  if (o->mode != NEAREST && !zg_dtype_is_float(t->dtype))
    return zg_onnx_error(n, ZG_UNSUPPORTED, "input 0 is %s; linear and cubic need a float type",
                         zg_type_text(t));
  for (uint32_t i = 0; i < t->rank; i++)
    if (m[i].out < 0 || (m[i].in < 1 && m[i].out > 0))
      return zg_onnx_error(n, ZG_INVALID, "axis %u cannot be resized from %lld to %lld", i,
                           (long long)m[i].in, (long long)m[i].out);
  n->out[0] = resize_all(n->b, o, m, zg_onnx_in(n, 0));
  return NULL;
}

static void start_maps(const zg_type *t, axis_map m[ZG_MAX_RANK]) {
  for (uint32_t i = 0; i < t->rank; i++)
    m[i] = (axis_map){.in = t->dim[i], .out = t->dim[i], .scale = 1, .roi_end = 1};
}

static zg_status import_resize(zg_onnx_node *n) {
  const zg_type t = *zg_b_type(n->b, zg_onnx_in(n, 0));
  const uint32_t at_scales = n->opset < 11 ? 1 : 2;
  options o;
  axis_map m[ZG_MAX_RANK];
  int64_t axes[ZG_MAX_RANK], n_axes;
  ZG_TRY(read_options(n, &o));
  ZG_TRY(read_axes(n, t.rank, axes, &n_axes));
  start_maps(&t, m);
  if (n->opset >= 11 && has_elements(n, 3)) {
    zg_ints sizes;
    ZG_TRY(zg_onnx_const_ints(n, 3, &sizes));
    ZG_TRY(apply_sizes(n, &sizes, axes, n_axes, m));
  } else if (has_elements(n, at_scales)) {
    const double *scales;
    int64_t n_scales;
    ZG_TRY(zg__onnx_const_floats(n, at_scales, &scales, &n_scales));
    ZG_TRY(apply_scales(n, scales, n_scales, axes, n_axes, m));
  } else {
    return zg_onnx_error(n, ZG_INVALID, "neither scales nor sizes are given");
  }
  if (!strcmp(o.transform, "tf_crop_and_resize")) ZG_TRY(apply_roi(n, axes, n_axes, m));
  return finish(n, &o, m);
}

static zg_status import_upsample(zg_onnx_node *n) {  // opset 7: scales attribute; 9: operand
  const zg_type t = *zg_b_type(n->b, zg_onnx_in(n, 0));
  options o = {.transform = "asymmetric", .nearest = "floor"};
  axis_map m[ZG_MAX_RANK];
  int64_t axes[ZG_MAX_RANK], n_axes, n_scales = 0;
  const double *scales = NULL;
  ZG_TRY(read_mode(n, &o.mode));
  ZG_TRY(read_axes(n, t.rank, axes, &n_axes));
  start_maps(&t, m);
  if (n->opset < 9) zg_onnx_floats(n, "scales", &scales, &n_scales);
  else ZG_TRY(zg__onnx_const_floats(n, 1, &scales, &n_scales));
  ZG_TRY(apply_scales(n, scales, n_scales, axes, n_axes, m));
  return finish(n, &o, m);
}

static const zg_onnx_row rows[] = {
    {"Resize", "", 10, 0, import_resize, NULL, 0},
    {"Upsample", "", 7, 9, import_upsample, NULL, 0},
};
const zg_family zg_family_resize = {.name = "resize", .onnx = rows, .n_onnx = ZG_COUNT(rows)};
