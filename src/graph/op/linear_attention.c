// Op family: linear attention (ONNX LinearAttention-27) and the cache update of attention in decoding (TensorScatter-24).
//
// The recurrence over time is unrolled, as recurrent cells are: per step the state [B, Hkv, dk, dv] decays, is corrected (delta
// rules) and takes k v'; queries read it. Heads of a group share the state. Sums are in f32 at least.
#include <math.h>

#include "graph/op/op_priv.h"

typedef struct {
  int64_t batch, time, q_heads, kv_heads, dk, dv;
  bool gated, delta;
} shape;

// x: [B, T, H * D] -> [B, H, T, D]
static zg_val split_heads(zg_builder *b, zg_val x, int64_t heads) {
  const zg_type t = *zg_b_type(b, x);
  const int64_t dim[] = {t.dim[0], t.dim[1], heads, heads ? t.dim[2] / heads : 0}, perm[] = {0, 2, 1, 3};
  return zg_b_transpose(b, zg_b_reshape(b, x, dim, 4), perm);
}

static zg_status read_shape(zg_onnx_node *n, shape *s) {
  zg_builder *b = n->b;
  ZG_TRY(zg__need(n, 3));
  const zg_type q = *zg_b_type(b, n->in[0]), k = *zg_b_type(b, n->in[1]), v = *zg_b_type(b, n->in[2]);
  const char *rule = zg_onnx_str(n, "update_rule", "gated_delta");
  *s = (shape){.q_heads = zg_onnx_int(n, "q_num_heads", 0), .kv_heads = zg_onnx_int(n, "kv_num_heads", 0),
               .gated = !strncmp(rule, "gated", 5), .delta = strstr(rule, "delta") != NULL};
  if (!s->gated && !s->delta && strcmp(rule, "linear")) return zg_onnx_error(n, ZG_INVALID, "update_rule \"%s\" is not known", rule);
  if (s->kv_heads < 1 || s->q_heads < 1 || s->q_heads % s->kv_heads)
    return zg_onnx_error(n, ZG_INVALID, "q_num_heads %lld is no multiple of kv_num_heads %lld", (long long)s->q_heads, (long long)s->kv_heads);
  if (q.rank != 3 || k.rank != 3 || v.rank != 3 || q.dim[2] % s->q_heads || v.dim[2] % s->kv_heads ||
      k.dim[2] != q.dim[2] / s->q_heads * s->kv_heads)
    return zg_onnx_error(n, ZG_INVALID, "query %s, key %s, value %s do not split into %lld and %lld heads", zg_type_text(&q),
                         zg_type_text(&k), zg_type_text(&v), (long long)s->q_heads, (long long)s->kv_heads);
  s->batch = q.dim[0], s->time = q.dim[1], s->dk = q.dim[2] / s->q_heads, s->dv = v.dim[2] / s->kv_heads;
  if ((s->gated && !zg_is(zg_onnx_in(n, 4))) || (s->delta && !zg_is(zg_onnx_in(n, 5))))
    return zg_onnx_error(n, ZG_INVALID, "update_rule \"%s\" wants %s", rule, s->gated ? "a decay" : "a beta");
  return NULL;
}

typedef struct { zg_val q, k, v, decay, beta, state; } streams;   // [B, H, T, ...]

// One step: the new state, and what the queries read, [B, 1, Hq * dv].
static zg_val step(zg_builder *b, const shape *s, streams *x, int64_t t, double scale) {
  const zg_val k = zg_b_slice1(b, x->k, 2, t, 1);   // [B, Hkv, 1, dk]
  zg_val v = zg_b_slice1(b, x->v, 2, t, 1), q = zg_b_slice1(b, x->q, 2, t, 1);
  if (s->gated) x->state = zg_mul(b, x->state, zg_b_map1(b, ZG_S_EXP, zg_b_swap_last(b, zg_b_slice1(b, x->decay, 2, t, 1))));
  if (s->delta) v = zg_mul(b, zg_sub(b, v, zg_b_matmul(b, k, x->state, false, false)), zg_b_slice1(b, x->beta, 2, t, 1));
  x->state = zg_add(b, x->state, zg_mul(b, zg_b_swap_last(b, k), v));
  const int64_t grouped[] = {s->batch, s->kv_heads, s->q_heads / s->kv_heads, s->dk}, flat[] = {s->batch, 1, s->q_heads * s->dv};
  q = zg_b_reshape(b, q, grouped, 4);
  return zg_b_reshape(b, zg_mul_k(b, zg_b_matmul(b, q, x->state, false, false), scale), flat, 3);
}

static zg_status import_linear_attention(zg_onnx_node *n) {
  zg_builder *b = n->b;
  shape s;
  ZG_TRY(read_shape(n, &s));
  const zg_dtype type = zg_b_type(b, n->in[0])->dtype;
  const zg_val past = zg_onnx_in(n, 3);
  const zg_dtype state_type = zg_is(past) ? zg_b_type(b, past)->dtype : type;
  const int64_t dim[] = {s.batch, s.kv_heads, s.dk, s.dv};
  const zg_type start = zg_type_make(zg__wide_dtype(type), 4, dim);
  double scale = zg_onnx_float(n, "scale", 0);
  if (scale == 0) scale = 1 / sqrt((double)s.dk);
  streams x = {.q = split_heads(b, zg__wide(b, n->in[0]), s.q_heads), .k = split_heads(b, zg__wide(b, n->in[1]), s.kv_heads),
               .v = split_heads(b, zg__wide(b, n->in[2]), s.kv_heads)};
  if (s.gated) x.decay = split_heads(b, zg__wide(b, n->in[4]), s.kv_heads);
  if (s.delta) x.beta = split_heads(b, zg__wide(b, n->in[5]), zg_b_type(b, n->in[5])->dim[2]);   // one a head, or one for all
  x.state = zg_is(past) ? zg_b_cast(b, past, start.dtype) : zg_b_fill(b, &start, 0);
  zg_val *parts = ZG_NEW_N(zg_builder_arena(b), zg_val, s.time + 1);
  for (int64_t t = 0; t < s.time; t++) parts[t] = step(b, &s, &x, t, scale);
  const int64_t empty[] = {s.batch, 0, s.q_heads * s.dv};
  const zg_type none = zg_type_make(start.dtype, 3, empty);
  n->out[0] = zg_b_cast(b, s.time ? zg_b_concat(b, parts, (uint32_t)s.time, 1) : zg_b_fill(b, &none, 0), type);
  if (n->n_out > 1) n->out[1] = zg_b_cast(b, x.state, state_type);
  return NULL;
}

// ---- TensorScatter --------------------------------------------------------------------------------
// cache[b, ..., write_indices[b] + s, ...] = update[b, ..., s, ...], wrapping around in mode circular. As a scatter over (batch,
// position) pairs with the axis moved to place 1.
static zg_status import_tensor_scatter(zg_onnx_node *n) {
  zg_builder *b = n->b;
  ZG_TRY(zg__need(n, 2));
  const zg_type c = *zg_b_type(b, n->in[0]), u = *zg_b_type(b, n->in[1]);
  int64_t axis, perm[ZG_MAX_RANK], dim[] = {c.dim[0], 0}, one[] = {c.dim[0], 1};
  ZG_TRY(zg__axis(n, zg_onnx_int(n, "axis", -2), c.rank, &axis));
  if (axis == 0 || u.rank != c.rank || u.dim[axis] > c.dim[axis] || u.dim[0] != c.dim[0])
    return zg_onnx_error(n, ZG_INVALID, "update %s does not fit cache %s along axis %lld", zg_type_text(&u), zg_type_text(&c), (long long)axis);
  dim[1] = u.dim[axis];
  const zg_type it = zg_type_make(ZG_I64, 2, dim);
  zg_val at = zg_b_iota(b, &it, 1);
  if (zg_is(zg_onnx_in(n, 2))) at = zg_add(b, at, zg_b_reshape(b, zg_b_cast(b, n->in[2], ZG_I64), one, 2));
  if (!strcmp(zg_onnx_str(n, "mode", "linear"), "circular")) at = zg_b_map2(b, ZG_S_MOD, at, zg_b_like(b, at, (double)c.dim[axis]));
  for (int64_t d = 0; d < ZG_MAX_RANK; d++) perm[d] = d == 1 ? axis : d == axis ? 1 : d;
  const zg_val in[] = {zg_b_transpose(b, n->in[0], perm), zg_b_unsqueeze(b, at, 2), zg_b_transpose(b, n->in[1], perm)};
  const zg_scatter_attr a = {.mode = ZG_IDX_ND, .batch = 1, .red = ZG_SCATTER_SET};
  n->out[0] = zg_b_transpose(b, zg_emit1(b, &zg_op_scatter, &a, in, 3), perm);
  return NULL;
}

static const zg_onnx_row rows[] = {
    {"LinearAttention", "", 27, 0, import_linear_attention, NULL, 0},
    {"TensorScatter", "", 24, 0, import_tensor_scatter, NULL, 0},
};
const zg_family zg_family_linear_attention = {.name = "linear_attention", .onnx = rows, .n_onnx = ZG_COUNT(rows)};
