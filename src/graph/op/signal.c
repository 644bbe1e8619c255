// Op family: Fourier transforms (DFT, STFT) and the mel filter bank. A transform of fixed length is one product with a constant
// matrix over (sample, real or imaginary part), so its gradient is that matrix transposed and nothing else is needed.
#include <math.h>

#include "graph/op/import_priv.h"
#include "graph/op/op_priv.h"

static const double TAU = 6.28318530717958647692;
enum { MAX_MATRIX = 1 << 26 };   // elements

typedef struct {
  int64_t length;         // of the transform
  int64_t in, in_parts;   // samples read, and 1 (real) or 2 numbers each
  int64_t out, out_parts;
  bool inverse, onesided;
} transform;

// What in number (n, p) adds to out number (k, q).
static double weight(const transform *t, int64_t n, int64_t p, int64_t k, int64_t q) {
  const double phase = TAU * (double)(n * k % t->length) / (double)t->length;
  const double c = cos(phase), s = t->inverse ? sin(phase) : -sin(phase);
  const double w = p == q ? c : q == 0 ? -s : s;   // (xr + i xi) (c + i s)
  if (!t->inverse) return w;
  const bool twice = t->onesided && n > 0 && 2 * n != t->length;   // the mirrored half that a one-sided input leaves out
  return (twice ? 2 : 1) * w / (double)t->length;
}

// [in * in_parts, out * out_parts]
static zg_val matrix(zg_builder *b, const transform *t, zg_dtype type) {
  const int64_t dim[] = {t->in * t->in_parts, t->out * t->out_parts};
  double *at = ZG_NEW_N(zg_builder_arena(b), double, dim[0] * dim[1] + 1), *w = at;
  for (int64_t n = 0; n < t->in; n++)
    for (int64_t p = 0; p < t->in_parts; p++)
      for (int64_t k = 0; k < t->out; k++)
        for (int64_t q = 0; q < t->out_parts; q++) *w++ = weight(t, n, p, k, q);
  const zg_type m = zg_type_make(ZG_F64, 2, dim);
  return zg_b_cast(b, zg_b_const_data(b, &m, at), type);
}

// Transforms dim rank-2 of x: [..., N, 1 or 2] by t.length; the other fields of t are filled here.
static zg_status transform_last(zg_onnx_node *n, zg_val x, transform *t, zg_val *out) {
  zg_builder *b = n->b;
  zg_type type = *zg_b_type(b, x);
  const uint32_t r = type.rank;
  const int64_t half = t->length / 2 + 1;
  t->in = ZG_MIN(type.dim[r - 2], t->inverse && t->onesided ? half : t->length);
  t->in_parts = type.dim[r - 1];
  t->out = t->onesided && !t->inverse ? half : t->length;
  t->out_parts = t->onesided && t->inverse ? 1 : 2;
  if (t->length < 1 || t->in_parts < 1 || t->in_parts > 2)
    return zg_onnx_error(n, ZG_INVALID, "a transform of length %lld over %s; want numbers in pairs (or single ones) in the last dim",
                         (long long)t->length, zg_type_text(&type));
  if (t->length > MAX_MATRIX || t->in * t->in_parts * t->out * t->out_parts > MAX_MATRIX)
    return zg_onnx_error(n, ZG_UNSUPPORTED, "a transform of length %lld; its matrix would be too large", (long long)t->length);
  x = zg_b_slice1(b, x, (int64_t)r - 2, 0, t->in);
  type.dim[r - 2] = t->in * t->in_parts;
  zg_val y = zg__matmul(b, zg_b_reshape(b, x, type.dim, (int64_t)r - 1), matrix(b, t, type.dtype), false, false);
  type.dim[r - 2] = t->out;
  type.dim[r - 1] = t->out_parts;
  *out = zg_b_reshape(b, y, type.dim, r);
  return NULL;
}

static zg_val swap_dims(zg_builder *b, zg_val x, int64_t i, int64_t k) {
  int64_t perm[ZG_MAX_RANK];
  for (int64_t d = 0; d < ZG_MAX_RANK; d++) perm[d] = d == i ? k : d == k ? i : d;
  return i == k ? x : zg_b_transpose(b, x, perm);
}

static zg_status import_dft(zg_onnx_node *n) {
  zg_builder *b = n->b;
  ZG_TRY(zg__need(n, 1));
  zg_val x = zg_onnx_in(n, 0);
  const zg_type type = *zg_b_type(b, x);
  transform t = {.inverse = zg_onnx_int(n, "inverse", 0), .onesided = zg_onnx_int(n, "onesided", 0)};
  int64_t axis = n->opset < 20 ? zg_onnx_int(n, "axis", 1) : -2;
  double given;
  if (n->opset >= 20 && zg_is(zg_onnx_in(n, 2))) {
    ZG_TRY(zg__const_scalar(n, 2, &given));
    axis = (int64_t)given;
  }
  ZG_TRY(zg__axis(n, axis, type.rank, &axis));
  if (type.rank < 2 || axis == (int64_t)type.rank - 1)
    return zg_onnx_error(n, ZG_INVALID, "axis %lld of %s; the last dim holds the parts of a number", (long long)axis, zg_type_text(&type));
  t.length = t.inverse && t.onesided ? 2 * (type.dim[axis] - 1) : type.dim[axis];
  if (zg_is(zg_onnx_in(n, 1))) {
    ZG_TRY(zg__const_scalar(n, 1, &given));
    t.length = (int64_t)given;
  }
  const int64_t place = (int64_t)type.rank - 2;
  ZG_TRY(transform_last(n, swap_dims(b, x, axis, place), &t, &x));
  n->out[0] = swap_dims(b, x, axis, place);
  return NULL;
}

// signal: [B, T, 1 or 2], frames of frame_length every frame_step samples -> [B, frames, bins, 2]
static zg_status import_stft(zg_onnx_node *n) {
  zg_builder *b = n->b;
  ZG_TRY(zg__need(n, 2));
  const zg_val x = zg_onnx_in(n, 0), window = zg_onnx_in(n, 2);
  const zg_type type = *zg_b_type(b, x);
  double step, length;
  if (type.rank != 3) return zg_onnx_error(n, ZG_INVALID, "the signal is %s, want [batch, samples, 1 or 2]", zg_type_text(&type));
  ZG_TRY(zg__const_scalar(n, 1, &step));
  length = (double)(zg_is(window) ? zg_elems(zg_b_type(b, window)) : type.dim[1]);
  if (zg_is(zg_onnx_in(n, 3))) ZG_TRY(zg__const_scalar(n, 3, &length));
  if (step < 1 || length < 1 || length > (double)type.dim[1])
    return zg_onnx_error(n, ZG_INVALID, "frames of %g samples every %g do not fit %s", length, step, zg_type_text(&type));
  const int64_t L = (int64_t)length, hop = (int64_t)step, frames = (type.dim[1] - L) / hop + 1, dim[] = {frames, L};
  int64_t *at = ZG_NEW_N(zg_builder_arena(b), int64_t, frames * L);
  for (int64_t f = 0; f < frames; f++)
    for (int64_t i = 0; i < L; i++) at[f * L + i] = f * hop + i;
  const zg_type index = zg_type_make(ZG_I64, 2, dim);
  zg_val y = zg_b_gather(b, x, zg_b_const_data(b, &index, at), 1);
  if (zg_is(window)) y = zg_mul(b, y, zg_b_reshape(b, window, (const int64_t[]){L, 1}, 2));
  transform t = {.length = L, .onesided = zg_onnx_int(n, "onesided", 1)};
  return transform_last(n, y, &t, &n->out[0]);
}

// Triangles over the bins of a one-sided spectrum, with corners equally spaced on the mel scale 2595 log10(1 + f / 700) and moved
// to whole bins: [dft_length / 2 + 1, num_mel_bins]. ONNX MelWeightMatrix-17.
static zg_status import_mel_weights(zg_onnx_node *n) {
  double v[5];   // bins, DFT length, sample rate, lowest and highest frequency
  zg_dtype to;
  for (uint32_t i = 0; i < 5; i++) ZG_TRY(zg__const_scalar(n, i, &v[i]));
  ZG_TRY(zg_onnx_dtype(zg_onnx_int(n, "output_datatype", 1), &to));
  if (!(v[0] >= 1 && v[0] < 1e5 && v[1] >= 1 && v[1] < 1e6 && v[2] > 0))
    return zg_onnx_error(n, ZG_INVALID, "%g mel bins, DFT length %g, sample rate %g", v[0], v[1], v[2]);
  const int64_t bins = (int64_t)v[0], rows = (int64_t)v[1] / 2 + 1, dim[] = {rows, bins};
  const double low = 2595 * log10(1 + v[3] / 700), high = 2595 * log10(1 + v[4] / 700), step = (high - low) / (double)(bins + 2);
  int64_t *corner = ZG_NEW_N(zg_builder_arena(n->b), int64_t, bins + 2);
  for (int64_t i = 0; i < bins + 2; i++) {
    const double hertz = 700 * (pow(10, (low + (double)i * step) / 2595) - 1);
    corner[i] = (int64_t)floor(((double)(int64_t)v[1] + 1) * hertz / v[2]);
    if (corner[i] < 0 || corner[i] >= rows)
      return zg_onnx_error(n, ZG_INVALID, "%g Hz lies outside of the spectrum at sample rate %g", hertz, v[2]);
  }
  double *w = ZG_NEW_N(zg_builder_arena(n->b), double, rows * bins);
  for (int64_t i = 0; i < bins; i++) {
    const int64_t l = corner[i], c = corner[i + 1], r = corner[i + 2];
    for (int64_t j = l; j <= c; j++) w[j * bins + i] = c > l ? (double)(j - l) / (double)(c - l) : 1;
    for (int64_t j = c; j < r; j++) w[j * bins + i] = (double)(r - j) / (double)(r - c);
  }
  const zg_type t = zg_type_make(ZG_F64, 2, dim);
  n->out[0] = zg_b_cast(n->b, zg_b_const_data(n->b, &t, w), to);
  return NULL;
}

static const zg_onnx_row rows[] = {
    {"DFT", "", 17, 0, import_dft, NULL, 0},
    {"STFT", "", 17, 0, import_stft, NULL, 4},
    {"MelWeightMatrix", "", 17, 0, import_mel_weights, NULL, 0, .no_gradient = true},
};
const zg_family zg_family_signal = {.name = "signal", .onnx = rows, .n_onnx = ZG_COUNT(rows)};
