// Op family: determinants, and the selection of boxes by score (NonMaxSuppression of boxes known while importing).
#include <math.h>
#include <stdlib.h>

#include "graph/op/import_priv.h"
#include "graph/op/op_priv.h"

// ---- Det ----------------------------------------------------------------------------------------------------------
// Gaussian elimination with row pivots, one column a step; the pivot's place is an integer, so the gradient goes through the
// elimination alone. a: [B, m, m]; returns the next [B, m-1, m-1] and multiplies det: [B] by the pivot and the swap's sign.
static zg_val eliminate(zg_builder *b, zg_val a, zg_val *det) {
  const zg_type t = *zg_b_type(b, a);
  const int64_t B = t.dim[0], m = t.dim[1], rows[] = {B, m}, each[] = {B}, one[] = {B, 1, 1};
  const zg_val column = zg_b_reshape(b, zg_b_slice1(b, a, 2, 0, 1), rows, 2);
  const zg_arg_reduce_attr largest = {.axis = 1};
  const zg_val p = zg_emit1(b, &zg_op_arg_reduce, &largest, (zg_val[]){zg_b_map1(b, ZG_S_ABS, column)}, 1);   // [B, 1]
  const zg_type it = zg_type_make(ZG_I64, 2, rows);
  const zg_val i = zg_b_iota(b, &it, 1), nil = zg_b_like(b, i, 0);
  zg_val order = zg_b_where(b, zg_b_map2(b, ZG_S_EQ, i, p), nil, i);
  order = zg_b_where(b, zg_b_map2(b, ZG_S_EQ, i, nil), p, order);
  const zg_gather_attr by_row = {.mode = ZG_IDX_ND, .batch = 1};
  a = zg_emit1(b, &zg_op_gather, &by_row, (zg_val[]){a, zg_b_unsqueeze(b, order, 2)}, 2);
  const zg_val top = zg_b_slice1(b, a, 1, 0, 1), pivot = zg_b_reshape(b, zg_b_slice1(b, top, 2, 0, 1), each, 1);
  const zg_val stays = zg_b_map2(b, ZG_S_EQ, zg_b_reshape(b, p, each, 1), nil);
  *det = zg_mul(b, *det, zg_mul(b, pivot, zg_b_where(b, stays, zg_b_like(b, pivot, 1), zg_b_like(b, pivot, -1))));
  const zg_val divisor = zg_b_where(b, zg_b_map2(b, ZG_S_EQ, pivot, zg_b_like(b, pivot, 0)), zg_b_like(b, pivot, 1), pivot);
  const zg_val below = zg_b_slice1(b, a, 1, 1, m - 1), factor = zg_div(b, zg_b_slice1(b, below, 2, 0, 1), zg_b_reshape(b, divisor, one, 3));
  const zg_val rest = zg_mul(b, factor, zg_b_slice1(b, top, 2, 1, m - 1));
  return zg_sub(b, zg_b_slice1(b, below, 2, 1, m - 1), rest);
}

static zg_status import_det(zg_onnx_node *n) {
  zg_builder *b = n->b;
  ZG_TRY(zg__need(n, 1));
  const zg_type t = *zg_b_type(b, n->in[0]);
  if (t.rank < 2 || t.dim[t.rank - 1] != t.dim[t.rank - 2])
    return zg_onnx_error(n, ZG_INVALID, "the operand is %s, want square matrices", zg_type_text(&t));
  const int64_t m = t.dim[t.rank - 1], count = zg__prod(&t, 0, (int64_t)t.rank - 2), dim[] = {count, m, m};
  if (m > 256) return zg_onnx_error(n, ZG_UNSUPPORTED, "matrices of %lld rows; up to 256 are eliminated", (long long)m);
  const zg_type each = zg_type_make(t.dtype, 1, dim);
  zg_val a = zg_b_reshape(b, n->in[0], dim, 3), det = zg_b_fill(b, &each, 1);
  for (int64_t i = m; i > 1; i--) a = eliminate(b, a, &det);
  if (m) det = zg_mul(b, det, zg_b_reshape(b, a, dim, 1));
  n->out[0] = zg_b_reshape(b, det, t.dim, (int64_t)t.rank - 2);
  return NULL;
}

// ---- NonMaxSuppression --------------------------------------------------------------------------------------------
typedef struct { double low[2], high[2]; } box;
typedef struct { double score; int64_t at; } candidate;

static box read_box(const double *v, bool centre) {
  box r;
  for (int d = 0; d < 2; d++) {
    const double a = centre ? v[d] - v[2 + d] / 2 : v[d], c = centre ? v[d] + v[2 + d] / 2 : v[2 + d];
    r.low[d] = ZG_MIN(a, c);
    r.high[d] = ZG_MAX(a, c);
  }
  return r;
}

static double overlap(const box *p, const box *q) {
  double common = 1, area_p = 1, area_q = 1;
  for (int d = 0; d < 2; d++) {
    common *= ZG_MAX(ZG_MIN(p->high[d], q->high[d]) - ZG_MAX(p->low[d], q->low[d]), 0);
    area_p *= p->high[d] - p->low[d];
    area_q *= q->high[d] - q->low[d];
  }
  return common > 0 ? common / (area_p + area_q - common) : 0;
}

static int best_first(const void *p, const void *q) {
  const candidate *a = p, *c = q;
  if (a->score != c->score) return a->score > c->score ? -1 : 1;
  return a->at < c->at ? -1 : 1;
}

typedef struct { int64_t limit; double iou, score; bool centre; } rule;

// Takes boxes from the best score down, none that overlaps a taken one. taken: room for n; returns how many.
static int64_t suppress(const rule *r, const double *boxes, const double *scores, int64_t n, candidate *list, int64_t *taken) {
  int64_t k = 0, count = 0;
  for (int64_t i = 0; i < n; i++)
    if (scores[i] > r->score) list[k++] = (candidate){scores[i], i};
  qsort(list, (size_t)k, sizeof *list, best_first);
  for (int64_t i = 0; i < k && count < r->limit; i++) {
    const box own = read_box(boxes + 4 * list[i].at, r->centre);
    bool free = true;
    for (int64_t j = 0; j < count && free; j++) {
      const box other = read_box(boxes + 4 * taken[j], r->centre);
      free = overlap(&own, &other) <= r->iou;
    }
    if (free) taken[count++] = list[i].at;
  }
  return count;
}

static zg_status read_rule(zg_onnx_node *n, rule *r) {
  double v = 0;
  *r = (rule){.score = -INFINITY, .centre = zg_onnx_int(n, "center_point_box", 0)};
  if (zg_is(zg_onnx_in(n, 2))) ZG_TRY(zg__const_scalar(n, 2, &v));
  r->limit = (int64_t)v;
  if (zg_is(zg_onnx_in(n, 3))) ZG_TRY(zg__const_scalar(n, 3, &r->iou));
  if (zg_is(zg_onnx_in(n, 4))) ZG_TRY(zg__const_scalar(n, 4, &r->score));
  return NULL;
}

// Rows (batch, class, box). How many there are depends on the scores, so these must be known.
static zg_status import_nms(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 2));
  const zg_type tb = *zg_b_type(n->b, n->in[0]), ts = *zg_b_type(n->b, n->in[1]);
  const double *boxes, *scores;
  int64_t n_boxes, n_scores, count = 0;
  rule r;
  if (tb.rank != 3 || ts.rank != 3 || tb.dim[2] != 4 || tb.dim[0] != ts.dim[0] || tb.dim[1] != ts.dim[2])
    return zg_onnx_error(n, ZG_INVALID, "boxes are %s, scores %s; want [B,N,4] and [B,C,N]", zg_type_text(&tb), zg_type_text(&ts));
  ZG_TRY(read_rule(n, &r));
  ZG_TRY(zg__onnx_const_floats(n, 0, &boxes, &n_boxes));
  ZG_TRY(zg__onnx_const_floats(n, 1, &scores, &n_scores));
  zg_arena *mem = zg_builder_arena(n->b);
  const int64_t N = tb.dim[1], C = ts.dim[1];
  candidate *list = ZG_NEW_N(mem, candidate, N + 1);
  int64_t *taken = ZG_NEW_N(mem, int64_t, N + 1), *out = ZG_NEW_N(mem, int64_t, 3 * n_scores + 1);
  for (int64_t row = 0; row < ts.dim[0] * C; row++) {
    const int64_t k = suppress(&r, boxes + row / C * N * 4, scores + row * N, N, list, taken);
    for (int64_t i = 0; i < k; i++, count++) out[3 * count] = row / C, out[3 * count + 1] = row % C, out[3 * count + 2] = taken[i];
  }
  const zg_type t = zg_type_make(ZG_I64, 2, (const int64_t[]){count, 3});
  n->out[0] = zg_b_const_data(n->b, &t, out);
  return NULL;
}

static const zg_onnx_row rows[] = {
    {"Det", "", 11, 0, import_det, NULL, 0},
    {"NonMaxSuppression", "", 10, 0, import_nms, NULL, 0, .no_gradient = true},
};
const zg_family zg_family_detection = {.name = "detection", .onnx = rows, .n_onnx = ZG_COUNT(rows)};
