// Op family: ops on images that are made of others: pixel shuffles (reshape and transpose), GridSample
// (gather with weights from the grid), AffineGrid (matmul with a constant), CenterCropPad (slice and pad),
// Col2Im (a transposed convolution with a one-hot kernel), RoiAlign (two matmuls with matrices of hat
// functions), DeformConv (a matmul of what GridSample's sampler gives).
#include <math.h>
#include "graph/op/import_priv.h"

static zg_status want_rank(const zg_onnx_node *n, uint32_t operand, uint32_t least, uint32_t most) {
  const zg_type *t = zg_b_type(n->b, zg_onnx_in(n, operand));
  if (zg_is(zg_onnx_in(n, operand)) && t->rank >= least && t->rank <= most) return NULL;
  return zg_onnx_error(n, ZG_INVALID, "input %u is %s, want rank %u to %u", operand,
                       zg_is(zg_onnx_in(n, operand)) ? zg_type_text(t) : "missing", least, most);
}

// ---- pixel shuffles ---------------------------------------------------------------------------------------
static zg_status import_pixel_shuffle(zg_onnx_node *n) {
  ZG_TRY(want_rank(n, 0, 4, 4));
  const bool to_space = !strcmp(n->op_type, "DepthToSpace");
  const int64_t s = zg_onnx_int(n, "blocksize", 0), *d = zg_b_type(n->b, zg_onnx_in(n, 0))->dim;
  const int64_t N = d[0], C = d[1], H = d[2], W = d[3];
  if (s < 1 || (to_space ? C % (s * s) : (H % s || W % s)))
    return zg_onnx_error(n, ZG_INVALID, "input 0 is %s, which blocksize %lld does not divide",
                         zg_type_text(zg_b_type(n->b, zg_onnx_in(n, 0))), (long long)s);
  zg_val x = zg_onnx_in(n, 0);
  const char *mode = zg_onnx_str(n, "mode", "DCR");
  const bool crd = !strcmp(mode, "CRD");
  if (!crd && strcmp(mode, "DCR"))
    return zg_onnx_error(n, ZG_INVALID, "mode is \"%s\", want DCR or CRD", mode);
  if (!to_space) {
    const int64_t split[] = {N, C, H / s, s, W / s, s}, out[] = {N, C * s * s, H / s, W / s};
    const int64_t perm[] = {0, 3, 5, 1, 2, 4}, crd_perm[] = {0, 1, 3, 5, 2, 4};
    x = zg_b_transpose(n->b, zg_b_reshape(n->b, x, split, 6), crd ? crd_perm : perm);
    n->out[0] = zg_b_reshape(n->b, x, out, 4);
    return NULL;
  }
  const int64_t c = C / (s * s), dcr[] = {N, s, s, c, H, W}, dcr_perm[] = {0, 3, 4, 1, 5, 2};
  const int64_t cr[] = {N, c, s, s, H, W}, cr_perm[] = {0, 1, 4, 2, 5, 3}, out[] = {N, c, H * s, W * s};
  x = zg_b_transpose(n->b, zg_b_reshape(n->b, x, crd ? cr : dcr, 6), crd ? cr_perm : dcr_perm);
  n->out[0] = zg_b_reshape(n->b, x, out, 4);
  return NULL;
}

// ---- GridSample -------------------------------------------------------------------------------------------
typedef enum { PAD_ZEROS, PAD_BORDER, PAD_REFLECT } padding;
typedef struct {
  zg_builder *b;
  zg_type x;             // [N, C, d1..dR]
  int64_t rank, pixels;  // R; elements of a plane
  zg_val flat;           // [N, pixels, C]
  zg_val at[3];          // position on each axis, [N, points], in pixels
  padding pad;
  bool corners;  // align_corners
} sampler;

// (g + 1) / 2 maps [-1, 1] onto the image: centres of the corner pixels, or their outer edges.
static zg_val to_pixels(const sampler *s, zg_val g, int64_t size) {
  const double scale = s->corners ? (double)(size - 1) / 2 : (double)size / 2;
  return zg_add_k(s->b, zg_mul_k(s->b, g, scale), s->corners ? scale : scale - 0.5);
}

static zg_val clip_to(const sampler *s, zg_val x, double lo, double hi) {
  const zg_val in[] = {x, zg_b_like(s->b, x, lo), zg_b_like(s->b, x, hi)};
  return zg_emit1(s->b, zg_map_op(ZG_S_CLIP), NULL, in, 3);
}

// Reflects x at lo and hi as often as needed: distance from lo, folded with period 2 (hi - lo).
static zg_val reflect(const sampler *s, zg_val x, double lo, double hi) {
  zg_builder *b = s->b;
  const double span = hi - lo;
  if (span <= 0) return zg_mul_k(b, x, 0);
  const zg_val d = zg_b_map1(b, ZG_S_ABS, zg_add_k(b, x, -lo));
  const zg_val period = zg_mul_k(b, zg_b_map1(b, ZG_S_FLOOR, zg_mul_k(b, d, 1 / (2 * span))), 2 * span);
  const zg_val phase = zg_sub(b, d, period);  // in [0, 2 span)
  const zg_val back = zg_add_k(b, zg_neg(b, phase), 2 * span);
  return zg_add_k(b, zg_b_where(b, zg_b_map2(b, ZG_S_LT, zg_b_like(b, phase, span), phase), back, phase), lo);
}

static zg_val into_image(const sampler *s, zg_val x, int64_t size) {
  const double last = (double)size - 1;
  if (s->pad == PAD_ZEROS) return x;
  if (s->pad == PAD_REFLECT) x = reflect(s, x, s->corners ? 0 : -0.5, s->corners ? last : last + 0.5);
  return clip_to(s, x, 0, last);
}

// Pixels at whole positions (floats, one array an axis): [N, points, C], zeros outside of the image.
static zg_val fetch(const sampler *s, const zg_val *whole) {
  zg_builder *b = s->b;
  zg_val index = {0}, inside = {0};
  for (int64_t i = 0; i < s->rank; i++) {
    const int64_t size = s->x.dim[2 + i];
    const zg_val k = clip_to(s, whole[i], 0, (double)size - 1), in = zg_b_map2(b, ZG_S_EQ, k, whole[i]);
    const zg_val ki = zg_b_cast(b, k, ZG_I64);
    index = i ? zg_add(b, zg_mul_k(b, index, (double)size), ki) : ki;
    inside = i ? zg_b_map2(b, ZG_S_AND, inside, in) : in;
  }
  const zg_gather_attr a = {.mode = ZG_IDX_ND, .batch = 1};
  const zg_val in[] = {s->flat, zg_b_unsqueeze(b, index, 2)};
  const zg_val v = zg_emit1(b, &zg_op_gather, &a, in, 2);
  return s->pad == PAD_ZEROS ? zg_b_where(b, zg_b_unsqueeze(b, inside, 2), v, zg_b_like(b, v, 0)) : v;
}

static zg_val sample_nearest(const sampler *s) {
  zg_val whole[3];
  for (int64_t i = 0; i < s->rank; i++)
    whole[i] = zg_b_map1(s->b, ZG_S_ROUND, into_image(s, s->at[i], s->x.dim[2 + i]));
  return fetch(s, whole);
}

// Keys' cubic with a = -0.75 as a polynomial in the distance (at least 0): within one pixel, or from one to
// two.
static zg_val cubic(zg_builder *b, zg_val d, bool near) {
  const double a = -0.75, c[2][4] = {{a, -5 * a, 8 * a, -4 * a}, {a + 2, -(a + 3), 0, 1}};
  zg_val v = zg_mul_k(b, d, c[near][0]);
  for (int i = 1; i < 4; i++) {
    v = zg_add_k(b, v, c[near][i]);
    if (i < 3) v = zg_mul(b, v, d);
  }
  return v;
}

// Sum over taps^R neighbours; weights are products over axes. Two taps: linear; four: cubic.
static zg_val sample_weighted(const sampler *s, int64_t taps) {
  zg_builder *b = s->b;
  zg_val whole[3][4], weight[3][4], sum = {0};
  int64_t total = 1;
  for (int64_t i = 0; i < s->rank; i++, total *= taps) {
    const int64_t size = s->x.dim[2 + i];
    const zg_val at = taps == 2 ? into_image(s, s->at[i], size) : s->at[i];
    const zg_val base = zg_b_map1(b, ZG_S_FLOOR, at), f = zg_sub(b, at, base),
                 g = zg_add_k(b, zg_neg(b, f), 1);
    for (int64_t k = 0; k < taps; k++) {
      whole[i][k] = zg_add_k(b, base, (double)(taps == 2 ? k : k - 1));
      if (taps == 4) whole[i][k] = into_image(s, whole[i][k], size);
    }
    if (taps == 2) weight[i][0] = g, weight[i][1] = f;
    else {
      weight[i][0] = cubic(b, zg_add_k(b, f, 1), false), weight[i][1] = cubic(b, f, true);
      weight[i][2] = cubic(b, g, true), weight[i][3] = cubic(b, zg_add_k(b, g, 1), false);
    }
  }
  for (int64_t t = 0; t < total; t++) {
    zg_val at[3], w = {0};
    for (int64_t i = s->rank, rest = t; i-- > 0; rest /= taps) {
      at[i] = whole[i][rest % taps];
      w = zg_is(w) ? zg_mul(b, w, weight[i][rest % taps]) : weight[i][rest % taps];
    }
    const zg_val part = zg_mul(b, fetch(s, at), zg_b_unsqueeze(b, w, 2));
    sum = t ? zg_add(b, sum, part) : part;
  }
  return sum;
}

static zg_status open_sampler(zg_onnx_node *n, sampler *s) {
  zg_builder *b = n->b;
  const zg_val x = zg_onnx_in(n, 0);
  ZG_TRY(want_rank(n, 0, 3, 5));
  *s = (sampler){.b = b, .x = *zg_b_type(b, x), .corners = zg_onnx_int(n, "align_corners", 0), .pixels = 1};
  s->rank = (int64_t)s->x.rank - 2;
  const zg_type g = *zg_b_type(b, zg_onnx_in(n, 1));
  if (g.rank != s->x.rank || g.dim[0] != s->x.dim[0] || g.dim[g.rank - 1] != s->rank || g.dtype != s->x.dtype)
    return zg_onnx_error(n, ZG_INVALID, "input 1 (grid) is %s, which does not fit input 0, %s",
                         zg_type_text(&g), zg_type_text(&s->x));
  const char *pad = zg_onnx_str(n, "padding_mode", "zeros");
  if (strcmp(pad, "zeros") && strcmp(pad, "border") && strcmp(pad, "reflection"))
    return zg_onnx_error(n, ZG_INVALID, "padding_mode is \"%s\", want zeros, border or reflection", pad);
  s->pad = !strcmp(pad, "zeros") ? PAD_ZEROS : !strcmp(pad, "border") ? PAD_BORDER : PAD_REFLECT;
  int64_t points = 1;
  for (int64_t i = 0; i < s->rank; i++) s->pixels *= s->x.dim[2 + i], points *= g.dim[1 + i];
  const int64_t planes[] = {s->x.dim[0], s->x.dim[1], s->pixels}, line[] = {s->x.dim[0], points, s->rank};
  s->flat = zg_b_swap_last(b, zg_b_reshape(b, x, planes, 3));
  const zg_val grid = zg_b_reshape(b, zg_onnx_in(n, 1), line, 3);
  for (int64_t i = 0; i < s->rank; i++)  // the grid's last dim counts from the innermost axis
    s->at[i] = to_pixels(s, zg_b_squeeze(b, zg_b_slice1(b, grid, 2, s->rank - 1 - i, 1), 2), s->x.dim[2 + i]);
  return NULL;
}

static zg_status import_grid_sample(zg_onnx_node *n) {
  sampler s;
  ZG_TRY(open_sampler(n, &s));
  const char *mode = zg_onnx_str(n, "mode", "bilinear");
  zg_val y;
  if (!strcmp(mode, "nearest")) y = sample_nearest(&s);
  else if (!strcmp(mode, "linear") || !strcmp(mode, "bilinear")) y = sample_weighted(&s, 2);
  else if (!strcmp(mode, "cubic") || !strcmp(mode, "bicubic")) y = sample_weighted(&s, 4);
  else return zg_onnx_error(n, ZG_INVALID, "mode is \"%s\", want linear, nearest or cubic", mode);
  zg_type out = s.x;
  for (int64_t i = 0; i < s.rank; i++) out.dim[2 + i] = zg_b_type(n->b, zg_onnx_in(n, 1))->dim[1 + i];
  n->out[0] = zg_b_reshape_like(n->b, zg_b_swap_last(n->b, y), &out);
  return NULL;
}

// ---- DeformConv -------------------------------------------------------------------------------------------
typedef struct {
  zg__window w;
  int64_t kernel, points;  // volume of the kernel; of the output
  int64_t out[3];
  int64_t groups, offset_groups;
} deform;

static zg_status read_deform(const zg_onnx_node *n, const zg_type *x, const zg_type *w, deform *d) {
  *d = (deform){.kernel = 1,
                .points = 1,
                .groups = zg_onnx_int(n, "group", 1),
                .offset_groups = zg_onnx_int(n, "offset_group", 1)};
  if (w->rank != x->rank)
    return zg_onnx_error(n, ZG_INVALID, "input 1 (weight) is %s, want the rank of %s", zg_type_text(w),
                         zg_type_text(x));
  ZG_TRY(zg__window_read(n, x, w->dim + 2, &d->w));
  for (int64_t i = 0; i < d->w.rank; i++) {
    const int64_t room = x->dim[2 + i] + d->w.pads[i] + d->w.pads[d->w.rank + i] - zg__window_span(&d->w, i);
    if (room < 0)
      return zg_onnx_error(n, ZG_INVALID, "kernel of %s does not fit into %s", zg_type_text(w),
                           zg_type_text(x));
    d->points *= d->out[i] = room / d->w.strides[i] + 1;
    d->kernel *= d->w.kernel[i];
  }
  const int64_t g = d->groups, og = d->offset_groups;
  if (g < 1 || og < 1 || x->dim[1] != w->dim[1] * g || w->dim[0] % g || x->dim[1] % og)
    return zg_onnx_error(n, ZG_INVALID,
                         "data %s and weight %s do not fit with %lld groups and %lld offset groups",
                         zg_type_text(x), zg_type_text(w), (long long)g, (long long)og);
  const zg_type *o = zg_b_type(n->b, zg_onnx_in(n, 2));
  if (o->rank != x->rank || zg_elems(o) != x->dim[0] * og * d->kernel * d->w.rank * d->points)
    return zg_onnx_error(n, ZG_INVALID, "input 2 (offset) is %s, which does not fit data %s", zg_type_text(o),
                         zg_type_text(x));
  return NULL;
}

// Where the undeformed kernel looks on an axis: [1, K*P].
static zg_val deform_base(zg_builder *b, const deform *d, int64_t axis, zg_dtype t) {
  const int64_t dim[] = {1, d->kernel * d->points};
  const zg_type bt = zg_type_make(ZG_F64, 2, dim);
  double *at = ZG_NEW_N(zg_builder_arena(b), double, d->kernel * d->points + 1);
  for (int64_t k = 0; k < d->kernel; k++)
    for (int64_t p = 0; p < d->points; p++) {
      int64_t kk = k, pp = p;
      for (int64_t i = d->w.rank - 1; i > axis; i--) kk /= d->w.kernel[i], pp /= d->out[i];
      at[k * d->points + p] = (double)(pp % d->out[axis] * d->w.strides[axis] +
                                       kk % d->w.kernel[axis] * d->w.dilations[axis] - d->w.pads[axis]);
    }
  return zg_b_cast(b, zg_b_const_data(b, &bt, at), t);
}

// What the kernel sees in the channels of offset group j: [N, K*P, C / offset groups].
static zg_val deform_columns(const zg_onnx_node *n, const deform *d, int64_t j) {
  zg_builder *b = n->b;
  const zg_type x = *zg_b_type(b, zg_onnx_in(n, 0));
  const int64_t N = x.dim[0], C = x.dim[1] / d->offset_groups, R = d->w.rank, KP = d->kernel * d->points;
  sampler s = {.b = b, .x = x, .rank = R, .pixels = 1, .pad = PAD_ZEROS};
  for (int64_t i = 0; i < R; i++) s.pixels *= x.dim[2 + i];
  const int64_t planes[] = {N, C, s.pixels}, split[] = {N, d->offset_groups, d->kernel, R, d->points},
                line[] = {N, KP};
  s.flat = zg_b_swap_last(b, zg_b_reshape(b, zg_b_slice1(b, zg_onnx_in(n, 0), 1, j * C, C), planes, 3));
  const zg_val offset = zg_b_slice1(b, zg_b_reshape(b, zg_onnx_in(n, 2), split, 5), 1, j, 1);
  for (int64_t i = 0; i < R; i++)
    s.at[i] =
        zg_add(b, zg_b_reshape(b, zg_b_slice1(b, offset, 3, i, 1), line, 2), deform_base(b, d, i, x.dtype));
  const zg_val y = sample_weighted(&s, 2);
  if (!zg_is(zg_onnx_in(n, 4))) return y;
  const int64_t groups[] = {N, d->offset_groups, KP}, column[] = {N, KP, 1};
  const zg_val mask = zg_b_slice1(b, zg_b_reshape(b, zg_onnx_in(n, 4), groups, 3), 1, j, 1);
  return zg_mul(b, y, zg_b_reshape(b, mask, column, 3));
}

// Sampled columns times the weights: one matmul a group.
static zg_status import_deform_conv(zg_onnx_node *n) {
  zg_builder *b = n->b;
  ZG_TRY(want_rank(n, 0, 3, 5));
  ZG_TRY(want_rank(n, 2, 3, 5));
  const zg_type x = *zg_b_type(b, zg_onnx_in(n, 0)), w = *zg_b_type(b, zg_onnx_in(n, 1));
  deform d;
  ZG_TRY(read_deform(n, &x, &w, &d));
  zg_val *part = ZG_NEW_N(zg_builder_arena(b), zg_val, d.offset_groups);
  for (int64_t j = 0; j < d.offset_groups; j++) part[j] = deform_columns(n, &d, j);
  const zg_val seen = d.offset_groups > 1 ? zg_b_concat(b, part, (uint32_t)d.offset_groups, 2) : part[0];
  const int64_t N = x.dim[0], g = d.groups, c = x.dim[1] / g, O = w.dim[0], perm[] = {0, 3, 4, 1, 2};
  const int64_t split[] = {N, d.kernel, d.points, g, c}, columns[] = {N, g, c * d.kernel, d.points},
                wd[] = {g, O / g, c * d.kernel};
  const zg_val cols = zg_b_reshape(b, zg_b_transpose(b, zg_b_reshape(b, seen, split, 5), perm), columns, 4);
  int64_t out[5] = {N, O}, row[5] = {1, O, 1, 1, 1};
  for (int64_t i = 0; i < d.w.rank; i++) out[2 + i] = d.out[i];
  const zg_val y = zg_b_matmul(b, zg_b_reshape(b, zg_onnx_in(n, 1), wd, 3), cols, false, false);
  n->out[0] = zg_b_reshape(b, y, out, x.rank);
  if (zg_is(zg_onnx_in(n, 3)))
    n->out[0] = zg_add(b, n->out[0], zg_b_reshape(b, zg_onnx_in(n, 3), row, x.rank));
  return NULL;
}

// ---- AffineGrid -------------------------------------------------------------------------------------------
// theta [N, R, R+1] times the homogeneous pixel positions [R+1, points].
static zg_status import_affine_grid(zg_onnx_node *n) {
  zg_builder *b = n->b;
  ZG_TRY(want_rank(n, 0, 3, 3));
  zg_ints size;
  ZG_TRY(zg_onnx_const_ints(n, 1, &size));
  const zg_type t = *zg_b_type(b, zg_onnx_in(n, 0));
  const int64_t R = size.n - 2;
  if ((R != 2 && R != 3) || t.dim[1] != R || t.dim[2] != R + 1 || t.dim[0] != size.at[0])
    return zg_onnx_error(n, ZG_INVALID, "input 0 (theta) is %s, which does not fit a size of %lld entries",
                         zg_type_text(&t), (long long)size.n);
  const bool corners = zg_onnx_int(n, "align_corners", 0);
  int64_t points = 1, out[5] = {size.at[0]};
  for (int64_t i = 0; i < R; i++) points *= out[1 + i] = size.at[2 + i];
  out[1 + R] = R;
  const int64_t dim[] = {points, R + 1};
  const zg_type bt = zg_type_make(ZG_F64, 2, dim);
  double *base = ZG_NEW_N(zg_builder_arena(b), double, points *(R + 1) + 1);
  for (int64_t p = 0; p < points; p++) {
    for (int64_t i = R, rest = p; i-- > 0; rest /= size.at[2 + i]) {
      const double k = (double)(rest % size.at[2 + i]), len = (double)size.at[2 + i];
      base[p * (R + 1) + R - 1 - i] = !corners ? (2 * k + 1) / len - 1 : len > 1 ? 2 * k / (len - 1) - 1 : 0;
    }
    base[p * (R + 1) + R] = 1;
  }
  const zg_val positions = zg_b_cast(b, zg_b_const_data(b, &bt, base), t.dtype);
  n->out[0] = zg_b_reshape(b, zg_b_matmul(b, positions, zg_onnx_in(n, 0), false, true), out, R + 2);
  return NULL;
}

// ---- CenterCropPad ----------------------------------------------------------------------------------------
static zg_status import_center_crop_pad(zg_onnx_node *n) {
  const zg_type t = *zg_b_type(n->b, zg_onnx_in(n, 0));
  zg_ints shape, axes;
  ZG_TRY(zg_onnx_const_ints(n, 1, &shape));
  const bool some = zg_onnx_ints(n, "axes", &axes);
  if (shape.n != (some ? axes.n : t.rank))
    return zg_onnx_error(n, ZG_INVALID, "shape has %lld entries for input 0, %s", (long long)shape.n,
                         zg_type_text(&t));
  int64_t start[ZG_MAX_RANK] = {0}, step[ZG_MAX_RANK], size[ZG_MAX_RANK], dim[ZG_MAX_RANK],
          place[ZG_MAX_RANK] = {0};
  bool pad = false;
  for (uint32_t i = 0; i < t.rank; i++) size[i] = dim[i] = t.dim[i], step[i] = 1;
  for (int64_t i = 0; i < shape.n; i++) {
    const int64_t a = !some ? i : axes.at[i] < 0 ? axes.at[i] + t.rank : axes.at[i], want = shape.at[i];
    if (a < 0 || a >= t.rank || want < 0)
      return zg_onnx_error(n, ZG_INVALID, "axes or shape do not fit input 0, %s", zg_type_text(&t));
    dim[a] = want;
    size[a] = ZG_MIN(want, t.dim[a]);
    start[a] = want < t.dim[a] ? (t.dim[a] - want) / 2 : 0;
    place[a] = want > t.dim[a] ? (want - t.dim[a]) / 2 : 0;
    pad = pad || want > t.dim[a];
  }
  n->out[0] = zg_b_slice(n->b, zg_onnx_in(n, 0), start, step, size);
  if (pad) n->out[0] = zg_b_unslice(n->b, n->out[0], dim, place, step, 0);
  return NULL;
}

// ---- Col2Im -----------------------------------------------------------------------------------------------
static zg_status axis_values(const zg_onnx_node *n, const char *attr, int64_t count, int64_t def,
                             int64_t *out) {
  zg_ints given;
  const bool there = zg_onnx_ints(n, attr, &given);
  if (there && given.n != count)
    return zg_onnx_error(n, ZG_INVALID, "attribute %s has %lld entries, want %lld", attr, (long long)given.n,
                         (long long)count);
  for (int64_t i = 0; i < count; i++) out[i] = there ? given.at[i] : def;
  return NULL;
}

// Column k of channel c is one filter that puts its value at kernel position k: dy [N, C*K, windows], w [C*K,
// 1, kernel], one group a channel.
static zg_status import_col2im(zg_onnx_node *n) {
  zg_builder *b = n->b;
  ZG_TRY(want_rank(n, 0, 3, 3));
  const zg_type t = *zg_b_type(b, zg_onnx_in(n, 0));
  zg_ints image, block;
  ZG_TRY(zg_onnx_const_ints(n, 1, &image));
  ZG_TRY(zg_onnx_const_ints(n, 2, &block));
  const int64_t R = image.n;
  if (R < 1 || R > 3 || block.n != R)
    return zg_onnx_error(n, ZG_UNSUPPORTED, "image of %lld dims; want 1 to 3, and as many of the block",
                         (long long)R);
  int64_t strides[3], dilations[3], pads[6], K = 1, windows = 1;
  ZG_TRY(axis_values(n, "strides", R, 1, strides));
  ZG_TRY(axis_values(n, "dilations", R, 1, dilations));
  ZG_TRY(axis_values(n, "pads", 2 * R, 0, pads));
  int64_t dy[5] = {t.dim[0], t.dim[1]}, w[5], dim[5] = {t.dim[0]};
  for (int64_t i = 0; i < R; i++) {
    if (block.at[i] < 1 || strides[i] < 1)
      return zg_onnx_error(n, ZG_INVALID, "block and strides must be positive");
    K *= w[2 + i] = block.at[i];
    dim[2 + i] = image.at[i];
    dy[2 + i] = (image.at[i] + pads[i] + pads[R + i] - (block.at[i] - 1) * dilations[i] - 1) / strides[i] + 1;
    windows *= dy[2 + i];
  }
  if (t.dim[1] % K || windows != t.dim[2])
    return zg_onnx_error(n, ZG_INVALID,
                         "input 0 is %s; image and block need a multiple of %lld rows and %lld columns",
                         zg_type_text(&t), (long long)K, (long long)windows);
  const int64_t C = t.dim[1] / K;
  w[0] = C * K, w[1] = 1, dim[1] = C;
  const zg_type wt = zg_type_make(ZG_F64, (uint32_t)R + 2, w);
  double *one_hot = ZG_NEW_N(zg_builder_arena(b), double, C *K *K + 1);
  for (int64_t i = 0; i < C * K; i++) one_hot[i * K + i % K] = 1;
  const zg_conv_attr a = {.strides = zg__array(strides, R),
                          .pads = zg__array(pads, 2 * R),
                          .dilations = zg__array(dilations, R),
                          .group = C,
                          .dim = zg__array(dim, R + 2)};
  const zg_val in[] = {zg_b_reshape(b, zg_onnx_in(n, 0), dy, R + 2),
                       zg_b_cast(b, zg_b_const_data(b, &wt, one_hot), t.dtype)};
  n->out[0] = zg_emit1(b, &zg_op_conv_grad_x, &a, in, 2);
  return NULL;
}

// ---- RoiAlign ---------------------------------------------------------------------------------------------
typedef struct {
  int64_t out, size, samples;
  double scale;
  bool half;
} roi_axis;

// Where the samples of an axis lie, clipped into the image: [R, points]; *out: the ones more than a pixel outside, which count nothing.
static zg_val roi_points(zg_builder *b, const roi_axis *a, zg_val lo, zg_val hi, zg_val *out) {  // lo, hi: [R]
  const zg_dtype t = zg_b_type(b, lo)->dtype;
  const double shift = a->half ? -0.5 : 0;
  const zg_val start = zg_add_k(b, zg_mul_k(b, lo, a->scale), shift),
               end = zg_add_k(b, zg_mul_k(b, hi, a->scale), shift);
  zg_val extent = zg_sub(b, end, start);
  if (!a->half) extent = zg_b_map2(b, ZG_S_MAX, extent, zg_b_like(b, extent, 1));
  const int64_t points = a->out * a->samples, pd[] = {1, points};
  const zg_type pt = zg_type_make(t, 2, pd);
  const double bin = 1 / (double)a->out, sub = bin / (double)a->samples;
  const zg_val unit = zg_add_k(b, zg_mul_k(b, zg_b_iota(b, &pt, 1), sub), sub / 2);
  const zg_val p = zg_add(b, zg_b_unsqueeze(b, start, 1), zg_mul(b, zg_b_unsqueeze(b, extent, 1), unit));
  const zg_val low = zg_b_map2(b, ZG_S_LT, p, zg_b_like(b, p, -1)),
               high = zg_b_map2(b, ZG_S_LT, zg_b_like(b, p, (double)a->size), p);
  *out = zg_b_map2(b, ZG_S_OR, low, high);
  const zg_val lim[] = {p, zg_b_like(b, p, 0), zg_b_like(b, p, (double)a->size - 1)};
  return zg_emit1(b, zg_map_op(ZG_S_CLIP), NULL, lim, 3);
}

static zg_val roi_pixels(zg_builder *b, const roi_axis *a, zg_dtype t) {  // [1, 1, size]
  const int64_t kd[] = {1, 1, a->size};
  const zg_type kt = zg_type_make(t, 3, kd);
  return zg_b_iota(b, &kt, 2);
}

// [R, out, size]: how much each pixel of an axis adds to each bin. A sample at p is the hat function max(0, 1
// - |p - pixel|).
static zg_val roi_matrix(zg_builder *b, const roi_axis *a, zg_val lo, zg_val hi) {
  zg_val out, p = zg_b_unsqueeze(b, roi_points(b, a, lo, hi, &out), 2);
  const zg_val pixel = roi_pixels(b, a, zg_b_type(b, lo)->dtype);
  const zg_val hat = zg_b_map1(b, ZG_S_RELU, zg_add_k(b, zg_neg(b, zg_b_map1(b, ZG_S_ABS, zg_sub(b, p, pixel))), 1));
  const zg_val w = zg_b_where(b, zg_b_unsqueeze(b, out, 2), zg_b_like(b, hat, 0), hat);  // [R, points, size]
  const int64_t R = zg_b_type(b, lo)->dim[0], bins[] = {R, a->out, a->samples, a->size}, axis[] = {2};
  return zg_b_mean(b, zg_b_reshape(b, w, bins, 4), axis, 1, false);
}

// [R, points, size] for mode max: the weight of the pixel below (upper: above) each sample, elsewhere 0. At the image's last pixel
// both are that pixel, the upper one with weight 0.
static zg_val roi_corner(zg_builder *b, const roi_axis *a, zg_val lo, zg_val hi, bool upper) {
  zg_val out;
  const zg_val p = roi_points(b, a, lo, hi, &out), floor = zg_b_map1(b, ZG_S_FLOOR, p), part = zg_sub(b, p, floor);
  const zg_val weight = upper ? part : zg_add_k(b, zg_neg(b, part), 1);
  const zg_val at = upper ? zg_b_map2(b, ZG_S_MIN, zg_add_k(b, floor, 1), zg_b_like(b, p, (double)a->size - 1)) : floor;
  const zg_val w = zg_b_where(b, out, zg_b_like(b, p, 0), weight);
  const zg_val hit = zg_b_map2(b, ZG_S_EQ, zg_b_unsqueeze(b, at, 2), roi_pixels(b, a, zg_b_type(b, p)->dtype));
  return zg_b_where(b, hit, zg_b_unsqueeze(b, w, 2), zg_b_like(b, p, 0));
}

// ONNX's mode max: of every sample the largest of its four weighted corners, of a bin the largest sample. edge: x1, y1, x2, y2.
static zg_val roi_max(zg_builder *b, zg_val images, const roi_axis *ay, const roi_axis *ax, const zg_val *edge) {
  zg_val most = {0};
  for (int i = 0; i < 4; i++) {
    const zg_val wy = zg_b_unsqueeze(b, roi_corner(b, ay, edge[1], edge[3], i & 1), 1),
                 wx = zg_b_unsqueeze(b, roi_corner(b, ax, edge[0], edge[2], i & 2), 1);
    const zg_val v = zg_b_matmul(b, zg_b_matmul(b, wy, images, false, false), wx, false, true);
    most = i ? zg_b_map2(b, ZG_S_MAX, most, v) : v;
  }
  const zg_type t = *zg_b_type(b, images);
  const int64_t dim[] = {t.dim[0], t.dim[1], ay->out, ay->samples, ax->out, ax->samples}, samples[] = {3, 5};
  return zg_b_reduce(b, ZG_RED_MAX, zg_b_reshape(b, most, dim, 6), samples, 2, false);
}

static zg_status import_roi_align(zg_onnx_node *n) {
  zg_builder *b = n->b;
  ZG_TRY(want_rank(n, 0, 4, 4));
  ZG_TRY(want_rank(n, 1, 2, 2));
  const zg_type x = *zg_b_type(b, zg_onnx_in(n, 0));
  const char *mode = zg_onnx_str(n, "mode", "avg");
  if (strcmp(mode, "avg") && strcmp(mode, "max")) return zg_onnx_error(n, ZG_INVALID, "mode \"%s\", want avg or max", mode);
  const int64_t samples = zg_onnx_int(n, "sampling_ratio", 0);
  if (samples < 1)
    return zg_onnx_error(
        n, ZG_UNSUPPORTED,
        "sampling_ratio 0 makes the number of samples depend on the data; export with a fixed one");
  const bool half =
      n->opset >= 16 && !strcmp(zg_onnx_str(n, "coordinate_transformation_mode", "half_pixel"), "half_pixel");
  const double scale = zg_onnx_float(n, "spatial_scale", 1);
  zg_val edge[4];
  for (int i = 0; i < 4; i++)
    edge[i] = zg_b_squeeze(b, zg_b_slice1(b, zg_onnx_in(n, 1), 1, i, 1), 1);  // x1, y1, x2, y2
  const roi_axis ay = {zg_onnx_int(n, "output_height", 1), x.dim[2], samples, scale, half};
  const roi_axis ax = {zg_onnx_int(n, "output_width", 1), x.dim[3], samples, scale, half};
  const zg_val images = zg_b_gather(b, zg_onnx_in(n, 0), zg_onnx_in(n, 2), 0);  // [R, C, H, W]
  if (!strcmp(mode, "max")) {
    n->out[0] = roi_max(b, images, &ay, &ax, edge);
    return NULL;
  }
  const zg_val wy = zg_b_unsqueeze(b, roi_matrix(b, &ay, edge[1], edge[3]), 1),
               wx = zg_b_unsqueeze(b, roi_matrix(b, &ax, edge[0], edge[2]), 1);
  n->out[0] = zg_b_matmul(b, zg_b_matmul(b, wy, images, false, false), wx, false, true);
  return NULL;
}

// ---- MaxRoiPool -------------------------------------------------------------------------------------------
// Which of `size` pixels each of `bins` parts of [start, end] takes: bool [R, bins, size]. Ends are whole pixels, both included; part
// j goes from floor(j * length / bins) to ceil((j + 1) * length / bins).
static zg_val roi_parts(zg_builder *b, zg_val start, zg_val end, int64_t bins, int64_t size) {
  const zg_dtype t = zg_b_type(b, start)->dtype;
  const int64_t bd[] = {1, bins, 1}, kd[] = {1, 1, size};
  const zg_type bt = zg_type_make(t, 3, bd), kt = zg_type_make(t, 3, kd);
  zg_val length = zg_add_k(b, zg_sub(b, end, start), 1);
  length = zg_b_map2(b, ZG_S_MAX, length, zg_b_like(b, length, 1));
  const zg_val step = zg_mul_k(b, zg_b_unsqueeze(b, zg_b_unsqueeze(b, length, 1), 2), 1 / (double)bins);
  const zg_val from = zg_b_unsqueeze(b, zg_b_unsqueeze(b, start, 1), 2), j = zg_b_iota(b, &bt, 1), pixel = zg_b_iota(b, &kt, 2);
  const zg_val lo = zg_add(b, zg_b_map1(b, ZG_S_FLOOR, zg_mul(b, j, step)), from);
  const zg_val hi = zg_add(b, zg_b_map1(b, ZG_S_CEIL, zg_mul(b, zg_add_k(b, j, 1), step)), from);
  return zg_b_map2(b, ZG_S_AND, zg_b_map2(b, ZG_S_LE, lo, pixel), zg_b_map2(b, ZG_S_LT, pixel, hi));
}

// Largest element of x: [R, C, L, size] in each part: [R, C, L, bins].
static zg_val max_of_parts(zg_builder *b, zg_val x, zg_val parts) {
  const int64_t last[] = {4};
  const zg_val mask = zg_b_unsqueeze(b, zg_b_unsqueeze(b, parts, 1), 1);   // [R, 1, 1, bins, size]
  return zg_b_reduce(b, ZG_RED_MAX, zg_b_where(b, mask, zg_b_unsqueeze(b, x, 3), zg_b_like(b, x, -INFINITY)), last, 1, false);
}

// x: [N,C,H,W], rois: [R,5] of (image, x1, y1, x2, y2) -> [R, C, pooled_shape]; a part outside of the image gives 0. Columns first,
// then rows: a rectangle's largest element is the largest of its rows' largest.
static zg_status import_max_roi_pool(zg_onnx_node *n) {
  zg_builder *b = n->b;
  zg_ints pooled;
  zg_val edge[5];
  ZG_TRY(want_rank(n, 0, 4, 4));
  ZG_TRY(want_rank(n, 1, 2, 2));
  const zg_type x = *zg_b_type(b, zg_onnx_in(n, 0)), r = *zg_b_type(b, zg_onnx_in(n, 1));
  if (!zg_onnx_ints(n, "pooled_shape", &pooled) || pooled.n != 2 || pooled.at[0] < 1 || pooled.at[1] < 1 || r.dim[1] != 5)
    return zg_onnx_error(n, ZG_INVALID, "rois are %s, want [R,5], and pooled_shape two positive numbers", zg_type_text(&r));
  const double scale = zg_onnx_float(n, "spatial_scale", 1);
  for (int i = 0; i < 5; i++) edge[i] = zg_b_squeeze(b, zg_b_slice1(b, zg_onnx_in(n, 1), 1, i, 1), 1);
  for (int i = 1; i < 5; i++) edge[i] = zg_b_map1(b, ZG_S_FLOOR, zg_add_k(b, zg_mul_k(b, edge[i], scale), 0.5));
  const int64_t swap[] = {0, 1, 3, 2};
  zg_val y = zg_b_gather(b, zg_onnx_in(n, 0), zg_b_cast(b, edge[0], ZG_I64), 0);             // [R, C, H, W]
  y = max_of_parts(b, y, roi_parts(b, edge[1], edge[3], pooled.at[1], x.dim[3]));            // [R, C, H, pw]
  y = max_of_parts(b, zg_b_transpose(b, y, swap), roi_parts(b, edge[2], edge[4], pooled.at[0], x.dim[2]));   // [R, C, pw, ph]
  const zg_val none = zg_b_map2(b, ZG_S_EQ, y, zg_b_like(b, y, -INFINITY));
  n->out[0] = zg_b_transpose(b, zg_b_where(b, none, zg_b_like(b, y, 0), y), swap);
  return NULL;
}

static const zg_onnx_row rows[] = {
    {"DepthToSpace", "", 1, 0, import_pixel_shuffle, NULL, 0},
    {"SpaceToDepth", "", 1, 0, import_pixel_shuffle, NULL, 0},
    {"GridSample", "", 16, 0, import_grid_sample, NULL, 0},
    {"AffineGrid", "", 20, 0, import_affine_grid, NULL, 0},
    {"CenterCropPad", "", 18, 0, import_center_crop_pad, NULL, 0},
    {"Col2Im", "", 18, 0, import_col2im, NULL, 0},
    {"DeformConv", "", 19, 0, import_deform_conv, NULL, 10, .weight_operands = 10},
    {"MaxRoiPool", "", 1, 0, import_max_roi_pool, NULL, 0},
    {"RoiAlign", "", 10, 0, import_roi_align, NULL, 0},
};
const zg_family zg_family_image = {.name = "image", .onnx = rows, .n_onnx = ZG_COUNT(rows)};
