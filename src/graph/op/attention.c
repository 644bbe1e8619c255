// Op family: attention and rotary embedding.
//   attention   (q: [B,H,T,D], k: [B,K,S,D], v: [B,K,S,E][, mask]) -> [B,H,T,E]
// H is a multiple of K (grouped heads).
// mask broadcasts to [B,H,T,S]: bool (true = attend) or float (added). causal: key j <= query i + offset.
// Order: scores * scale, softcap, mask, softmax; a row without any key to attend to gives 0. Grouped heads
// are rows of one product per key head ([B,K,(H/K)*T,D]), so keys and values are never repeated.
#include <math.h>

#include "graph/op/op_priv.h"

// ---- softmax over rows that may be masked out ---------------------------------------------------
static zg_status masked_softmax_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  if (x->in[0]->rank == 0 || !zg_dtype_is_float(x->in[0]->dtype))
    return zg_error(ZG_INVALID, "wants rows of a float tensor, got %s", zg_type_text(x->in[0]));
  return zg_infer_same(x);
}

static zg_status masked_softmax_lower(zg_lower *x) {
  zg_builder *b = x->b;
  const int64_t axis = -1;
  const zg_val v = zg__wide(b, x->in[0]), zero = zg_b_like(b, v, 0);
  zg_val m = zg_b_reduce(b, ZG_RED_MAX, v, &axis, 1, true);
  m = zg_b_where(b, zg_b_map1(b, ZG_S_IS_INF, m), zero, m);
  const zg_val e = zg_b_map1(b, ZG_S_EXP, zg_sub(b, v, m));
  zg_val s = zg_b_reduce(b, ZG_RED_SUM, e, &axis, 1, true);
  s = zg_b_where(b, zg_b_map2(b, ZG_S_EQ, s, zero), zg_b_like(b, v, 1), s);
  x->out[0] = zg__cast_like(b, zg_div(b, e, s), x->in[0]);
  return NULL;
}

static zg_status masked_softmax_grad(zg_grad *g) {
  zg_builder *b = g->b;
  const int64_t axis = -1;
  if (!zg_is(g->dout[0]) || !g->need[0]) return NULL;
  const zg_val y = zg__wide(b, g->out[0]), dy = zg__wide(b, g->dout[0]);
  const zg_val dot = zg_b_reduce(b, ZG_RED_SUM, zg_mul(b, dy, y), &axis, 1, true);
  g->din[0] = zg__cast_like(b, zg_mul(b, y, zg_sub(b, dy, dot)), g->in[0]);
  return NULL;
}

static const zg_op_case masked_softmax_cases[] = {
    {.name = "rows", .text = IN("[3,5]") "%2 = masked_softmax %1\noutput value \"y\" %2"},
    {.name = "a row without keys",
     .text = IN("[2,2]") "%2 = masked_softmax %1\noutput value \"y\" %2",
     .no_grad = true,
     .data = "x: -inf -inf 1 1",
     .expect = "x: 0 0 0 0"},
};
static const zg_op op_masked_softmax = {.name = "masked_softmax",
                                        .n_out = 1,
                                        .infer = masked_softmax_infer,
                                        .grad = masked_softmax_grad,
                                        .lower = masked_softmax_lower,
                                        ZG_CASES(masked_softmax_cases)};

// ---- attention ----------------------------------------------------------------------------------
zg_status zg__attention_result(const zg_type *q, const zg_type *k, const zg_type *v, const zg_type *m, zg_type *out) {
  const bool ok = q->rank == 4 && k->rank == 4 && v->rank == 4 && zg_dtype_is_float(q->dtype) &&
                  k->dtype == q->dtype && v->dtype == q->dtype && k->dim[0] == q->dim[0] &&
                  v->dim[0] == q->dim[0] && k->dim[3] == q->dim[3] && k->dim[1] == v->dim[1] &&
                  k->dim[2] == v->dim[2] && k->dim[1] > 0 && q->dim[1] % k->dim[1] == 0;
  if (!ok)
    return zg_error(ZG_INVALID, "q %s, k %s and v %s do not fit (want [B,H,T,D], [B,K,S,D], [B,K,S,E])",
                    zg_type_text(q), zg_type_text(k), zg_type_text(v));
  *out = *q;
  out->dim[3] = v->dim[3];
  if (!m) return NULL;
  zg_type scores = *q, both;
  scores.dim[3] = k->dim[2];
  scores.dtype = m->dtype;
  if (m->dtype != ZG_BOOL && !zg_dtype_is_float(m->dtype))
    return zg_error(ZG_INVALID, "mask is %s, want bool or float", zg_type_text(m));
  ZG_TRY(zg_status_prefix(zg_type_broadcast(m, &scores, &both), "mask: "));
  if (!zg_type_equal(&both, &scores))
    return zg_error(ZG_INVALID, "mask %s does not broadcast to %s", zg_type_text(m), zg_type_text(&scores));
  return NULL;
}

static zg_status attention_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 3, 4));
  return zg__attention_result(x->in[0], x->in[1], x->in[2], x->n_in > 3 ? x->in[3] : NULL, &x->out[0]);
}

typedef struct {
  zg_val raw, capped, masked, probs, y;
} attended;  // scores are [B,H,T,S]

static zg_val mask_scores(zg_builder *b, const zg_attention_attr *a, zg_val s, zg_val mask) {
  const zg_type t = *zg_b_type(b, s);
  const zg_val minus_inf = zg_b_like(b, s, -INFINITY);
  if (zg_is(mask))
    s = zg_b_type(b, mask)->dtype == ZG_BOOL ? zg_b_where(b, mask, s, minus_inf)
                                             : zg_add(b, s, zg__cast_like(b, mask, s));
  if (a->causal) {
    const zg_val i = zg__index_along(b, &t, 2, (double)a->offset), j = zg__index_along(b, &t, 3, 0);
    s = zg_b_where(b, zg_b_map2(b, ZG_S_LE, j, i), s, minus_inf);
  }
  return s;
}

static attended attend(zg_builder *b, const zg_attention_attr *a, zg_val q, zg_val k, zg_val v, zg_val mask) {
  const zg_type tq = *zg_b_type(b, q), tk = *zg_b_type(b, k), tv = *zg_b_type(b, v);
  const int64_t bs = tq.dim[0], h = tq.dim[1], t = tq.dim[2], kh = tk.dim[1], s = tk.dim[2];
  const bool grouped = h != kh;
  const int64_t rows = grouped && kh ? h / kh * t : t;
  attended r;
  if (grouped) q = zg_b_reshape(b, q, (int64_t[]){bs, kh, rows, tq.dim[3]}, 4);
  r.raw = zg_b_matmul(b, q, k, false, true);
  if (grouped) r.raw = zg_b_reshape(b, r.raw, (int64_t[]){bs, h, t, s}, 4);
  zg_val x = zg__wide(b, r.raw);
  if (a->scale != 1) x = zg_mul_k(b, x, a->scale);
  r.raw = x;
  if (a->softcap != 0) x = zg_mul_k(b, zg_b_map1(b, ZG_S_TANH, zg_mul_k(b, x, 1 / a->softcap)), a->softcap);
  r.capped = x;
  r.masked = x = mask_scores(b, a, x, mask);
  if (a->f64) x = zg_b_cast(b, x, ZG_F64);
  // The first `offset + 1` keys are open to every row: only a mask can close a row altogether.
  if (zg_is(mask) || (a->causal && a->offset < 0)) x = zg_emit1(b, &op_masked_softmax, NULL, &x, 1);
  else x = zg_emit1(b, &zg_op_softmax, &(zg_axis_attr){3}, &x, 1);
  r.probs = x = zg_b_cast(b, x, tq.dtype);
  if (grouped) x = zg_b_reshape(b, x, (int64_t[]){bs, kh, rows, s}, 4);
  r.y = zg_b_matmul(b, x, v, false, false);
  if (grouped) r.y = zg_b_reshape(b, r.y, (int64_t[]){bs, h, t, tv.dim[3]}, 4);
  return r;
}

static zg_status attention_lower(zg_lower *x) {
  x->out[0] = attend(x->b, x->attr, x->in[0], x->in[1], x->in[2], x->n_in > 3 ? x->in[3] : (zg_val){0}).y;
  return NULL;
}

static const zg_attr_field attention_fields[] = {
    ZG_FIELD(INT, zg_attention_attr, causal, 0),    ZG_FIELD(INT, zg_attention_attr, offset, 0),
    ZG_FIELD(INT, zg_attention_attr, f64, 0),       ZG_FIELD(FLOAT, zg_attention_attr, scale, 1),
    ZG_FIELD(FLOAT, zg_attention_attr, softcap, 0),
};
#define QKV(q, k, v)                                                      \
  "%1 = input name=\"q\" type=f64" q "\n%2 = input name=\"k\" type=f64" k \
  "\n%3 = input name=\"v\" type=f64" v "\n"
#define MASK(m) "%4 = input name=\"m\" type=" m "\n"
static const zg_op_case attention_cases[] = {
    {.name = "plain",
     .text = QKV("[2,2,3,4]", "[2,2,5,4]",
                 "[2,2,5,3]") "%4 = attention %1, %2, %3 scale=0.5\noutput value \"y\" %4"},
    {.name = "causal",
     .text = QKV("[1,2,3,2]", "[1,2,3,2]",
                 "[1,2,3,2]") "%4 = attention %1, %2, %3 causal=1\noutput value \"y\" %4"},
    {.name = "causal, after a cache",
     .text = QKV("[1,1,2,2]", "[1,1,5,2]",
                 "[1,1,5,2]") "%4 = attention %1, %2, %3 causal=1 offset=3\noutput value \"y\" %4"},
    {.name = "grouped heads",
     .text = QKV("[2,4,3,2]", "[2,2,3,2]",
                 "[2,2,3,5]") "%4 = attention %1, %2, %3 causal=1\noutput value \"y\" %4"},
    {.name = "softcap",
     .text = QKV("[1,2,3,2]", "[1,1,3,2]",
                 "[1,1,3,2]") "%4 = attention %1, %2, %3 softcap=2\noutput value \"y\" %4"},
    {.name = "float mask",
     .text = QKV("[2,2,3,2]", "[2,2,4,2]", "[2,2,4,2]")
         MASK("f64[3,4]") "%5 = attention %1, %2, %3, %4\noutput value \"y\" %5"},
    {.name = "bool mask",
     .text = QKV("[1,4,2,2]", "[1,2,3,2]", "[1,2,3,2]")
         MASK("bool[2,3]") "%5 = attention %1, %2, %3, %4\noutput value \"y\" %5",
     .data = "m: 1 0 1 0 0 0"},
};
const zg_op zg_op_attention = {.name = "attention",
                                   ZG_ATTRS(zg_attention_attr, attention_fields),
                                   .n_out = 1,
                                   .infer = attention_infer,
                                   .lower = attention_lower,
                                   ZG_CASES(attention_cases)};

// ---- ONNX: Attention ----------------------------------------------------------------------------
// [B,T,H*D] to [B,H,T,D].
static zg_val split_heads(zg_builder *b, zg_val x, int64_t heads) {
  const zg_type t = *zg_b_type(b, x);
  x = zg_b_reshape(b, x, (int64_t[]){t.dim[0], t.dim[1], heads, t.dim[2] / heads}, 4);
  return zg_b_transpose(b, x, (int64_t[]){0, 2, 1, 3});
}

static zg_val merge_heads(zg_builder *b, zg_val x) {
  const zg_type t = *zg_b_type(b, x);
  x = zg_b_transpose(b, x, (int64_t[]){0, 2, 1, 3});
  return zg_b_reshape(b, x, (int64_t[]){t.dim[0], t.dim[2], t.dim[1] * t.dim[3]}, 3);
}

static zg_status heads_of(const zg_onnx_node *n, uint32_t i, int64_t heads, zg_val *out) {
  const zg_type t = *zg_b_type(n->b, n->in[i]);
  *out = n->in[i];
  if (zg_builder_failed(n->b) || t.rank == 4) return NULL;
  if (t.rank != 3 || heads < 1 || t.dim[2] % heads)
    return zg_onnx_error(
        n, ZG_INVALID,
        "operand %u is %s, which %lld heads do not divide (want [B,T,H*D] with the number of "
        "heads as attribute, or [B,H,T,D])",
        i, zg_type_text(&t), (long long)heads);
  *out = split_heads(n->b, n->in[i], heads);
  return NULL;
}

// A mask may be shorter than the keys: what it does not name is closed.
static zg_val pad_mask(zg_builder *b, zg_val mask, int64_t keys) {
  const zg_type t = *zg_b_type(b, mask);
  if (t.rank == 0 || t.dim[t.rank - 1] >= keys || t.dim[t.rank - 1] == 1) return mask;
  int64_t dim[ZG_MAX_RANK], start[ZG_MAX_RANK] = {0}, step[ZG_MAX_RANK];
  for (uint32_t d = 0; d < t.rank; d++) dim[d] = t.dim[d], step[d] = 1;
  dim[t.rank - 1] = keys;
  return zg_b_unslice(b, mask, dim, start, step, t.dtype == ZG_BOOL ? 0 : -INFINITY);
}

// mask AND cond, for a mask of either kind or none.
static zg_val narrow(zg_builder *b, zg_val mask, zg_val cond) {
  if (!zg_is(mask)) return cond;
  if (zg_b_type(b, mask)->dtype == ZG_BOOL) return zg_b_map2(b, ZG_S_AND, mask, cond);
  return zg_b_where(b, cond, mask, zg_b_like(b, mask, -INFINITY));
}

// nonpad_kv_seqlen (keys in use per batch) and sliding windows become masks; with the former, causal too
// (offset per batch).
static zg_val other_masks(zg_onnx_node *n, zg_attention_attr *a, zg_val mask, const zg_type *scores) {
  zg_builder *b = n->b;
  const zg_val used = zg_onnx_in(n, 6), j = zg__index_along(b, scores, 3, 0);
  zg_val i = zg__index_along(b, scores, 2, (double)a->offset);
  if (zg_is(used)) {
    const zg_val len = zg_b_reshape(b, zg_b_cast(b, used, ZG_I64), (int64_t[]){scores->dim[0], 1, 1, 1}, 4);
    mask = narrow(b, mask, zg_b_map2(b, ZG_S_LT, j, len));
    i = zg_add(b, zg__index_along(b, scores, 2, -(double)scores->dim[2]), len);
    if (a->causal) mask = narrow(b, mask, zg_b_map2(b, ZG_S_LE, j, i));
    a->causal = 0;
  }
  const int64_t left = zg_onnx_int(n, "left_window_size", -1),
                right = zg_onnx_int(n, "right_window_size", -1);
  if (left >= 0) mask = narrow(b, mask, zg_b_map2(b, ZG_S_LE, i, zg_add_k(b, j, (double)left)));
  if (right >= 0) mask = narrow(b, mask, zg_b_map2(b, ZG_S_LE, j, zg_add_k(b, i, (double)right)));
  return mask;
}

static zg_status import_attention(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 3));
  zg_builder *b = n->b;
  const bool flat = zg_b_type(b, n->in[0])->rank == 3;
  zg_val q, k, v, mask = zg_onnx_in(n, 3);
  ZG_TRY(heads_of(n, 0, zg_onnx_int(n, "q_num_heads", 0), &q));
  ZG_TRY(heads_of(n, 1, zg_onnx_int(n, "kv_num_heads", 0), &k));
  ZG_TRY(heads_of(n, 2, zg_onnx_int(n, "kv_num_heads", 0), &v));
  zg_attention_attr a = {.causal = zg_onnx_int(n, "is_causal", 0), .softcap = zg_onnx_float(n, "softcap", 0)};
  a.scale = zg_onnx_float(n, "scale", 1 / sqrt((double)ZG_MAX(1, zg_b_type(b, q)->dim[3])));
  a.f64 = zg_onnx_int(n, "softmax_precision", 1) == 11;  // TensorProto.DOUBLE; f32 is the least that is used
  if (zg_is(zg_onnx_in(n, 4)) != zg_is(zg_onnx_in(n, 5)))
    return zg_onnx_error(n, ZG_INVALID, "past_key and past_value must be given together");
  if (zg_is(zg_onnx_in(n, 4))) {
    a.offset = zg_b_type(b, n->in[4])->dim[2];
    k = zg_b_concat(b, (zg_val[]){n->in[4], k}, 2, 2);
    v = zg_b_concat(b, (zg_val[]){n->in[5], v}, 2, 2);
  }
  if (zg_builder_failed(b)) return NULL;
  zg_type scores = *zg_b_type(b, q);
  scores.dim[3] = zg_b_type(b, k)->dim[2];
  if (zg_is(mask)) mask = pad_mask(b, mask, scores.dim[3]);
  mask = other_masks(n, &a, mask, &scores);
  zg_val y;
  if (n->n_out > 3 &&
      n->out_used[3]) {  // the scores themselves are asked for: without the op, which hides them
    const int64_t mode = zg_onnx_int(n, "qk_matmul_output_mode", 0);
    if (mode < 0 || mode > 3)
      return zg_onnx_error(n, ZG_INVALID, "qk_matmul_output_mode is %lld, want 0 to 3", (long long)mode);
    const attended r = attend(b, &a, q, k, v, mask);
    n->out[3] = zg__cast_like(b, (zg_val[]){r.raw, r.capped, r.masked, r.probs}[mode], q);
    y = r.y;
  } else {
    y = zg_emit1(b, &zg_op_attention, &a, (zg_val[]){q, k, v, mask}, zg_is(mask) ? 4 : 3);
  }
  n->out[0] = flat ? merge_heads(b, y) : y;
  if (n->n_out > 1) n->out[1] = k;
  if (n->n_out > 2) n->out[2] = v;
  return NULL;
}

// com.microsoft MultiHeadAttention with separate q, k, v of rank 3, an optional bias of all three, and
// attention_bias.
static zg_status import_multi_head_attention(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 3));
  zg_builder *b = n->b;
  const int64_t heads = zg_onnx_int(n, "num_heads", 0);
  for (uint32_t i = 4; i < n->n_in; i++)
    if (i != 5 && zg_is(n->in[i]))
      return zg_onnx_error(n, ZG_UNSUPPORTED,
                           "operand %u (padding mask, or keys and values of earlier steps) is not supported",
                           i);
  zg_val x[3];
  int64_t at = 0;
  for (uint32_t i = 0; i < 3; i++) {
    const zg_type t = *zg_b_type(b, n->in[i]);
    if (t.rank != 3 || heads < 1 || t.dim[2] % heads)
      return zg_onnx_error(n, ZG_UNSUPPORTED, "operand %u is %s; want [B,T,H*D] for %lld heads", i,
                           zg_type_text(&t), (long long)heads);
    x[i] = n->in[i];
    if (zg_is(zg_onnx_in(n, 3))) x[i] = zg_add(b, x[i], zg_b_slice1(b, n->in[3], 0, at, t.dim[2]));
    at += t.dim[2];
    x[i] = split_heads(b, x[i], heads);
  }
  zg_attention_attr a = {.causal = zg_onnx_int(n, "unidirectional", 0)};
  a.scale = zg_onnx_float(n, "scale", 0);
  if (a.scale == 0) a.scale = 1 / sqrt((double)ZG_MAX(1, zg_b_type(b, x[0])->dim[3]));
  const zg_val bias = zg_onnx_in(n, 5);
  const zg_val y = zg_emit1(b, &zg_op_attention, &a, (zg_val[]){x[0], x[1], x[2], bias}, zg_is(bias) ? 4 : 3);
  n->out[0] = merge_heads(b, y);
  for (uint32_t i = 1; i < ZG_MIN(n->n_out, 3u); i++) n->out[i] = x[i];
  return NULL;
}

// ---- ONNX: RotaryEmbedding ----------------------------------------------------------------------
// x: [B,H,T,D]; c, s broadcast against [B,H,T,r/2]. The first r of D elements turn, as halves or as
// neighbours.
static zg_val rotate(zg_builder *b, zg_val x, zg_val c, zg_val s, int64_t r, bool interleaved) {
  const zg_type t = *zg_b_type(b, x);
  const int64_t start0[4] = {0}, start1[4] = {0, 0, 0, interleaved ? 1 : r / 2},
                step[4] = {1, 1, 1, interleaved ? 2 : 1};
  const int64_t size[4] = {t.dim[0], t.dim[1], t.dim[2], r / 2};
  if (!interleaved && r == t.dim[3]) {
    const zg_val in[3] = {x, zg_b_concat(b, (zg_val[]){c, c}, 2, 3), zg_b_concat(b, (zg_val[]){s, s}, 2, 3)};
    return zg_emit1(b, &zg_op_rotary, NULL, in, 3);
  }
  const zg_val x1 = zg_b_slice(b, x, start0, step, size), x2 = zg_b_slice(b, x, start1, step, size);
  const zg_val re = zg_sub(b, zg_mul(b, x1, c), zg_mul(b, x2, s)),
               im = zg_add(b, zg_mul(b, x1, s), zg_mul(b, x2, c));
  zg_val y;
  if (interleaved) {
    y = zg_b_concat(b, (zg_val[]){zg_b_unsqueeze(b, re, 4), zg_b_unsqueeze(b, im, 4)}, 2, 4);
    y = zg_b_reshape(b, y, (int64_t[]){t.dim[0], t.dim[1], t.dim[2], r}, 4);
  } else {
    y = zg_b_concat(b, (zg_val[]){re, im}, 2, 3);
  }
  return r == t.dim[3] ? y : zg_b_concat(b, (zg_val[]){y, zg_b_slice1(b, x, 3, r, t.dim[3] - r)}, 2, 3);
}

// cache: [positions, r/2] read at ids: [B,T], or [B,T,r/2] as it is; to [B,1,T,r/2].
static zg_status turn_at(zg_onnx_node *n, zg_val cache, zg_val ids, zg_val x, zg_val *out) {
  zg_builder *b = n->b;
  const zg_type t = *zg_b_type(b, cache), tx = *zg_b_type(b, x);
  if (zg_is(ids)) cache = zg_b_gather(b, cache, ids, 0);
  const zg_type g = *zg_b_type(b, cache);
  if (!zg_builder_failed(b) && (g.rank != 3 || g.dim[1] != tx.dim[2]))
    return zg_onnx_error(n, ZG_INVALID, "cos or sin cache %s gives %s for %s; want [B,T,D/2]",
                         zg_type_text(&t), zg_type_text(&g), zg_type_text(&tx));
  *out = zg__cast_like(b, zg_b_unsqueeze(b, cache, 1), x);
  return NULL;
}

static zg_status import_rotary(zg_onnx_node *n, zg_val cos, zg_val sin, zg_val ids) {
  zg_builder *b = n->b;
  const bool flat = zg_b_type(b, n->in[0])->rank == 3;
  int64_t heads = zg_onnx_int(n, "num_heads", 0);
  const int64_t half = zg_b_type(b, cos)->rank ? zg_b_type(b, cos)->dim[zg_b_type(b, cos)->rank - 1] : 0;
  int64_t r = zg_onnx_int(n, "rotary_embedding_dim", 0);
  if (flat && heads == 0 && half > 0) heads = zg_b_type(b, n->in[0])->dim[2] / (2 * half);
  zg_val x, c, s;
  ZG_TRY(heads_of(n, 0, heads, &x));
  if (r == 0) r = zg_b_type(b, x)->dim[3];
  if (!zg_builder_failed(b) && (r != 2 * half || r > zg_b_type(b, x)->dim[3]))
    return zg_onnx_error(n, ZG_INVALID, "caches of width %lld do not turn %lld of the elements of a head",
                         (long long)half, (long long)r);
  ZG_TRY(turn_at(n, cos, ids, x, &c));
  ZG_TRY(turn_at(n, sin, ids, x, &s));
  const zg_val y = rotate(b, x, c, s, r, zg_onnx_int(n, "interleaved", 0) != 0);
  n->out[0] = flat ? merge_heads(b, y) : y;
  return NULL;
}

static zg_status import_rotary_onnx(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 3));
  return import_rotary(n, n->in[1], n->in[2], zg_onnx_in(n, 3));
}

// com.microsoft: (x, position_ids: [1] start or [B,T], cos, sin).
static zg_status import_rotary_ms(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 4));
  zg_builder *b = n->b;
  if (zg_onnx_int(n, "is_packed_batching", 0))
    return zg_onnx_error(n, ZG_UNSUPPORTED, "is_packed_batching is not supported");
  const zg_type t = *zg_b_type(b, n->in[0]);
  zg_val ids = n->in[1];
  if (zg_elems(zg_b_type(b, ids)) == 1) {
    const int64_t dim[2] = {t.dim[0], t.dim[t.rank == 4 ? 2 : 1]};
    const zg_type it = zg_type_make(ZG_I64, 2, dim);
    ids = zg_add(b, zg_b_iota(b, &it, 1), zg_b_cast(b, zg_b_reshape(b, ids, NULL, 0), ZG_I64));
  }
  return import_rotary(n, n->in[2], n->in[3], ids);
}

static const zg_onnx_row rows[] = {
    {"Attention", "", 23, 0, import_attention},
    {"RotaryEmbedding", "", 23, 0, import_rotary_onnx},
    {"RotaryEmbedding", "com.microsoft", 1, 0, import_rotary_ms},
    {"MultiHeadAttention", "com.microsoft", 1, 0, import_multi_head_attention, NULL, 8},
};
static const zg_op *const ops[] = {&zg_op_attention, &op_masked_softmax};
const zg_family zg_family_attention = {
    .name = "attention", .ops = ops, .n_ops = ZG_COUNT(ops), .onnx = rows, .n_onnx = ZG_COUNT(rows)};
