// opt_attention: attention that exporters spell out becomes the core op flash_attention, as does the op
// `attention`.
//
//   softmax(q k^T * scale [+ mask]) v, with what GPT-2, BERT, Llama, ViT, nanoGPT and JAX exports put around
//   it:
//   - scale: a constant factor or divisor of the scores; opt_simplify has moved those of q and k here
//   - mask: an added tensor, or where(mask, scores, k) with a constant k
//   - "safe softmax": where(isnan(p), 0, p), which gives 0 for rows without keys, as flash_attention does
//   - grouped heads: keys and values repeated by reshape, expand, reshape; the unrepeated ones are taken. A
//   view chain is
//     followed by the lengths of its dims: [B, K, G, S, D] labels regrouped by each reshape and permuted by
//     each transpose.
//   - batch and heads merged into one dim around the products
//
// A mask that depends on no leaf is judged by intervals (causal_mask.c) or, where they do not tell, evaluated
// here; if it says "key <= query + offset" it becomes the attribute `causal`, so that whole tiles are skipped,
// and is never stored. What differs from the graph as written: a row that may attend to nothing gives 0 where
// plain softmax gives NaN. Cost: linear in the graph, and one judgement for layers that share a mask.
// Source: Dao et al. 2022, FlashAttention.
#include <math.h>
#include <stdlib.h>

#include "graph/graph_priv.h"
#include "graph/pass.h"

enum { MAX_MASK_NODES = 64, MAX_MASK_ELEMS = 1 << 24, MAX_CHAIN = 12 };

typedef struct {
  zg_val q, k, v, mask;  // in the source graph; q [..,T,D], k [..,D,S] (as the product reads it), v [..,S,E]
  zg_val mask_if;        // bool: mask is 0 where it holds and `closed` elsewhere
  double scale, closed;
  int64_t b, h, t, s;  // the scores' dims
} match;

static bool scalar_const(const zg_graph *g, zg_val v, double *k) {
  return zg_is(v) && zg_elems(zg_type_of(g, v)) == 1 && zg__is_splat(g, v, k);
}

// ---- the probabilities
// ----------------------------------------------------------------------------------------------------
// where(isnan(p), 0, p) -> p
static zg_val strip_safe(const zg_graph *g, zg_val p) {
  double zero;
  if (!zg_is_op(g, p, &zg_op_where) || !zg__is_map(g, zg__operand(g, p, 0), ZG_S_IS_NAN)) return p;
  const zg_val from = zg__operand(g, zg__operand(g, p, 0), 0);
  return scalar_const(g, zg__operand(g, p, 1), &zero) && zero == 0 && zg_same(zg__operand(g, p, 2), from) ? from : p;
}

static bool same_last(const zg_type *x, const zg_type *y) {
  return x->rank >= 2 && y->rank >= 2 && x->dim[x->rank - 1] == y->dim[y->rank - 1] &&
         x->dim[x->rank - 2] == y->dim[y->rank - 2];
}

// A reshape that only regroups the dims before the last two.
static zg_val strip_batch_reshape(const zg_graph *g, zg_val v) {
  while (zg_is_op(g, v, &zg_op_reshape) && same_last(zg_type_of(g, v), zg_type_of(g, zg__operand(g, v, 0))))
    v = zg__operand(g, v, 0);
  return v;
}

// ---- the scores
// -----------------------------------------------------------------------------------------------------------
static bool take_scale(const zg_graph *g, zg_val *s, double *scale) {
  double k;
  for (uint32_t i = 0; i < 2 && zg__is_map(g, *s, ZG_S_MUL); i++)
    if (scalar_const(g, zg__operand(g, *s, i), &k)) {
      *scale *= k;
      *s = zg__operand(g, *s, 1 - i);
      return true;
    }
  if (!zg__is_map(g, *s, ZG_S_DIV) || !scalar_const(g, zg__operand(g, *s, 1), &k) || k == 0) return false;
  *scale /= k;
  *s = zg__operand(g, *s, 0);
  return true;
}

// Does v come from a matmul through scales and batch reshapes?
static bool take_product(const zg_graph *g, zg_val v, double *scale, zg_val *product) {
  do v = strip_batch_reshape(g, v);
  while (take_scale(g, &v, scale));
  *product = v;
  return zg_is_op(g, v, &zg_op_matmul);
}

static bool take_scores(const zg_graph *g, zg_val s, match *m, zg_val *product) {
  if (take_product(g, s, &m->scale, product)) return true;
  m->scale = 1;
  if (zg_is_op(g, s, &zg_op_where) && scalar_const(g, zg__operand(g, s, 2), &m->closed) && m->closed < 0) {
    m->mask_if = zg__operand(g, s, 0);
    return take_product(g, zg__operand(g, s, 1), &m->scale, product);
  }
  for (uint32_t i = 0; i < 2 && zg__is_map(g, s, ZG_S_ADD); i++) {
    m->mask = zg__operand(g, s, 1 - i);
    m->scale = 1;
    if (take_product(g, zg__operand(g, s, i), &m->scale, product)) return true;
  }
  return false;
}

// Batch dims of a product's operands must all be there (no broadcasting between q and k).
static bool whole_batch(const zg_graph *g, zg_val product) {
  const zg_type *o = zg_type_of(g, product), *x = zg_type_of(g, zg__operand(g, product, 0)),
                *y = zg_type_of(g, zg__operand(g, product, 1));
  if (x->rank != o->rank || y->rank != o->rank) return false;
  for (uint32_t d = 0; d + 2 < o->rank; d++)
    if (x->dim[d] != o->dim[d] || y->dim[d] != o->dim[d]) return false;
  return true;
}

static bool plain_product(const zg_graph *g, zg_val p, bool *tb) {
  const zg_matmul_attr *a = zg_node_of(g, p)->attr;
  *tb = a->tb;
  return !a->ta && whole_batch(g, p);
}

// v = softmax(..) v: fills m. `tb` of the score product tells how k lies.
static bool match_attention(const zg_graph *g, zg_val out, match *m, bool *k_rows) {
  bool tb;
  zg_val product;
  *m = (match){.scale = 1};
  if (!zg_is_op(g, out, &zg_op_matmul) || !plain_product(g, out, &tb) || tb) return false;
  const zg_val p = strip_safe(g, strip_batch_reshape(g, zg__operand(g, out, 0)));
  if (!zg_is_op(g, p, &zg_op_softmax)) return false;
  const zg_type *t = zg_type_of(g, p);
  const int64_t axis = ((const zg_axis_attr *)zg_node_of(g, p)->attr)->axis;
  if (t->rank < 3 || t->rank > 4 || (axis != -1 && axis != (int64_t)t->rank - 1) || t->dtype == ZG_F16)
    return false;
  m->b = t->rank == 4 ? t->dim[0] : 1, m->h = t->dim[t->rank - 3], m->t = t->dim[t->rank - 2],
  m->s = t->dim[t->rank - 1];
  if (!take_scores(g, zg__operand(g, p, 0), m, &product) || !plain_product(g, product, k_rows) ||
      !isfinite(m->scale))
    return false;
  m->q = zg__operand(g, product, 0), m->k = zg__operand(g, product, 1), m->v = zg__operand(g, out, 1);
  const zg_val extra = zg_is(m->mask) ? m->mask : m->mask_if;
  return !zg_is(extra) || zg_type_of(g, extra)->rank <= t->rank;
}

// ---- grouped heads
// --------------------------------------------------------------------------------------------------------
typedef struct {
  int n;
  int label[16];
  int64_t size[16];
} labels;  // the dims longer than 1, in order, split as far as needed

// Cuts the flat labels so that the dims of t are whole runs of them; false where a dim would cut a label.
static bool dim_runs(const labels *l, const zg_type *t, int *first) {
  int at = 0;
  for (uint32_t d = 0; d < t->rank; d++) {
    int64_t n = 1;
    first[d] = at;
    while (n < t->dim[d] && at < l->n) n *= l->size[at++];
    if (n != t->dim[d]) return false;
  }
  first[t->rank] = at;
  return at == l->n;
}

static bool permute(labels *l, const zg_type *from, const int64_t *perm) {
  int first[ZG_MAX_RANK + 1];
  if (!dim_runs(l, from, first)) return false;
  labels r = {0};
  for (uint32_t d = 0; d < from->rank; d++)
    for (int i = first[perm[d]]; i < first[perm[d] + 1]; i++)
      r.label[r.n] = l->label[i], r.size[r.n++] = l->size[i];
  *l = r;
  return true;
}

// v: [.., H, S, D] (swapped: [.., H, D, S]), made by reshapes and transposes from an expand [B,K,1,S,D] ->
// [B,K,G,S,D]: gives the value before the expand, of type [B,K,1,S,D].
static zg_val ungroup(const zg_graph *g, zg_val v, bool swapped) {
  zg_val chain[MAX_CHAIN];
  int n = 0;
  for (; n < MAX_CHAIN && (zg_is_op(g, v, &zg_op_reshape) || zg_is_op(g, v, &zg_op_transpose));
       v = zg__operand(g, v, 0))
    chain[n++] = v;
  if (!zg_is_op(g, v, &zg_op_expand)) return (zg_val){0};
  const zg_val from = zg__operand(g, v, 0);
  const zg_type *full = zg_type_of(g, v), *one = zg_type_of(g, from);
  if (full->rank != 5 || one->rank != 5 || one->dim[2] != 1) return (zg_val){0};
  labels l = {0};
  for (int d = 0; d < 5; d++) {
    if (d != 2 && one->dim[d] != full->dim[d]) return (zg_val){0};
    if (full->dim[d] != 1) l.label[l.n] = d, l.size[l.n++] = full->dim[d];
  }
  while (n-- > 0)
    if (zg_is_op(g, chain[n], &zg_op_transpose) &&
        !permute(&l, zg_type_of(g, zg__operand(g, chain[n], 0)),
                 ((const zg_transpose_attr *)zg_node_of(g, chain[n])->attr)->perm.at))
      return (zg_val){0};
  const int want[2][5] = {{0, 1, 2, 3, 4}, {0, 1, 2, 4, 3}};
  int at = 0;
  for (int d = 0; d < 5; d++)
    if (full->dim[want[swapped][d]] != 1 && (at >= l.n || l.label[at++] != want[swapped][d]))
      return (zg_val){0};
  return from;
}

// ---- masks
// ----------------------------------------------------------------------------------------------------------------
// Copies what v is made of into b, unless it hangs on a leaf or is long.
static bool copy_closed(zg_builder *b, const zg_graph *g, zg_val v, zg_val *map, int *left) {
  if (zg_is(map[v.id])) return true;
  const zg_node *n = zg_node_of(g, v);
  const bool leaf = n->op == &zg_op_input || n->op == &zg_op_param || n->op == &zg_op_state;
  if (leaf || n->op->traits & ZG_IMPURE || (*left)-- == 0) return false;
  for (uint32_t i = 0; i < n->n_in; i++)
    if (zg_is(zg_in(g, n, i)) && !copy_closed(b, g, zg_in(g, n, i), map, left)) return false;
  zg_emit_copy(b, g, n, map);
  return true;
}

static zg_tensor no_leaf(void *user, const zg_node *n) {
  (void)user, (void)n;
  return (zg_tensor){0};
}

// The bytes of v, if it depends on no leaf: *out_values to be freed with *out_graph.
static bool evaluate(const zg_graph *g, zg_val v, zg_graph **out_graph, zg_tensor **out_values) {
  if (zg_elems(zg_type_of(g, v)) > MAX_MASK_ELEMS) return false;
  zg_arena scratch = {0};
  zg_builder *b = zg_builder_new();
  zg_val *map = ZG_NEW_N(&scratch, zg_val, g->values.n);
  int left = MAX_MASK_NODES;
  const bool closed = copy_closed(b, g, v, map, &left);
  if (closed) zg_builder_output(b, ZG_OUT_VALUE, "mask", map[v.id], (zg_val){0});
  zg_arena_fini(&scratch);
  if (!closed) {
    zg_builder_free(b);
    return false;
  }
  zg_status s = zg_builder_finish(b, out_graph);
  if (!s) {
    s = zg_graph_eval(*out_graph, no_leaf, NULL, out_values);
    if (s) zg_graph_free(*out_graph);
  }
  const bool ok = !s;
  zg_status_free(s);
  return ok;
}

static bool mask_open(const zg_tensor *t, int64_t i, bool *ok) {
  if (t->type.dtype == ZG_BOOL) return zg_get_i64(ZG_BOOL, t->data, i) != 0;
  const double x = zg_get_f64(t->type.dtype, t->data, i);
  *ok = *ok && (x == 0 || x <= -1e9);
  return x == 0;
}

// Is the mask "key <= query + offset" in every batch and head, every row with a key? An open mask is causal
// with offset S.
static bool is_causal(const zg_tensor *m, const match *x, int64_t *offset) {
  const zg_type *t = &m->type;
  if (t->rank < 2 || t->dim[t->rank - 1] != x->s || t->dim[t->rank - 2] != x->t || x->t == 0 || x->s == 0)
    return false;
  const int64_t n = zg_elems(t) / (x->t * x->s);
  bool ok = n > 0;
  int64_t off = -1;
  while (ok && off + 1 < x->s && mask_open(m, off + 1, &ok)) off++;
  for (int64_t i = 0; i < n * x->t && ok; i++)
    for (int64_t j = 0; j < x->s && ok; j++)
      ok = mask_open(m, i * x->s + j, &ok) == (j <= i % x->t + off) && ok;
  *offset = off;
  return ok && off >= 0;
}

static bool causal_mask(const zg_graph *g, zg_val mask, const match *m, int64_t *offset) {
  const int shown = zg__mask_is_causal(g, mask, m->t, m->s, offset);
  if (shown >= 0) return shown;
  zg_graph *small;
  zg_tensor *values;
  if (!evaluate(g, mask, &small, &values)) return false;
  const bool yes = is_causal(&values[0], m, offset);
  zg_eval_free(small, values);
  zg_graph_free(small);
  return yes;
}

// ---- rewriting
// ------------------------------------------------------------------------------------------------------------
typedef struct {
  zg_builder *b;
  const zg_graph *g;
  zg_val *map;
  zg_val judged;    // the mask judged last: all layers have the same
  int64_t t, s, offset;
  bool causal;
} rewrite;

static bool is_causal_mask(rewrite *r, zg_val mask, const match *m, int64_t *offset) {
  if (!zg_same(r->judged, mask) || r->t != m->t || r->s != m->s) {
    r->judged = mask, r->t = m->t, r->s = m->s;
    r->causal = causal_mask(r->g, mask, m, &r->offset);
  }
  *offset = r->offset;
  return r->causal;
}

static zg_val as_4d(zg_builder *b, zg_val x, int64_t batch, int64_t heads) {
  const zg_type t = *zg_b_type(b, x);
  return zg_b_reshape(b, x, (int64_t[]){batch, heads, t.dim[t.rank - 2], t.dim[t.rank - 1]}, 4);
}

static zg_val mask_4d(zg_builder *b, zg_val mask) {
  const zg_type t = *zg_b_type(b, mask);
  int64_t dim[4] = {1, 1, 1, 1};
  for (uint32_t i = 0; i < t.rank; i++) dim[4 - t.rank + i] = t.dim[i];
  return zg_b_reshape(b, mask, dim, 4);
}

static zg_val emit_mask(rewrite *r, const match *m, zg_flash_attr *a) {
  const zg_val mask = zg_is(m->mask) ? m->mask : m->mask_if;
  if (!zg_is(mask)) return mask;
  const bool closes = zg_is(m->mask) || m->closed <= -1e9;
  if (closes && is_causal_mask(r, mask, m, &a->offset)) {
    a->causal = a->offset < m->s - 1;
    if (!a->causal) a->offset = 0;
    return (zg_val){0};
  }
  zg_val v = r->map[mask.id];
  if (zg_is(m->mask_if) && isfinite(m->closed)) {
    const zg_val s = zg_b_scalar(r->b, ZG_F32, m->closed);
    v = zg_b_where(r->b, v, zg_b_scalar(r->b, ZG_F32, 0), s);
  }
  return mask_4d(r->b, v);
}

static bool emit_match(rewrite *r, const zg_node *n) {
  match m;
  bool k_rows;
  zg_builder *b = r->b;
  if (!match_attention(r->g, zg_out(n, 0), &m, &k_rows)) return false;
  const zg_val k1 = ungroup(r->g, m.k, !k_rows), v1 = ungroup(r->g, m.v, false);
  const zg_type out = *zg_type_of(r->g, zg_out(n, 0));
  zg_flash_attr a = {.scale = m.scale};
  zg_val k, v;
  bool grouped = zg_is(k1) && zg_is(v1);
  if (grouped) {
    const zg_type *tk = zg_type_of(r->g, k1), *tv = zg_type_of(r->g, v1);
    grouped = tk->dim[0] == m.b && tv->dim[0] == m.b && tk->dim[1] == tv->dim[1] && m.h % tk->dim[1] == 0;
  }
  zg_builder_origin(b, n->origin);
  if (grouped) {
    k = zg_b_squeeze(b, r->map[k1.id], 2);
    v = zg_b_squeeze(b, r->map[v1.id], 2);
  } else {
    k = as_4d(b, r->map[m.k.id], m.b, m.h);
    if (!k_rows) k = zg_b_swap_last(b, k);
    v = as_4d(b, r->map[m.v.id], m.b, m.h);
  }
  const zg_val in[4] = {as_4d(b, r->map[m.q.id], m.b, m.h), k, v, emit_mask(r, &m, &a)};
  zg_val y[2];
  if (zg_emit(b, &zg_op_flash_attention, &a, in, zg_is(in[3]) ? 4 : 3, y, 2))
    r->map[n->out] = zg_b_reshape(b, y[0], out.dim, out.rank);
  zg_builder_origin(b, (zg_origin){0});
  return !zg_builder_failed(b);
}

// The op `attention`, where it asks for nothing that flash_attention lacks.
static bool emit_op(rewrite *r, const zg_node *n) {
  const zg_attention_attr *o = n->attr;
  const zg_type *t = zg_type_of(r->g, zg_in(r->g, n, 0));
  if (o->softcap != 0 || o->f64 || t->dtype == ZG_F16) return false;
  const zg_flash_attr a = {.causal = o->causal, .offset = o->offset, .scale = o->scale};
  zg_val in[4] = {{0}}, y[2];
  for (uint32_t i = 0; i < n->n_in; i++) in[i] = r->map[zg_in(r->g, n, i).id];
  zg_builder_origin(r->b, n->origin);
  if (zg_emit(r->b, &zg_op_flash_attention, &a, in, zg_is(in[3]) ? 4 : 3, y, 2)) r->map[n->out] = y[0];
  zg_builder_origin(r->b, (zg_origin){0});
  return !zg_builder_failed(r->b);
}

zg_status zg_pass_opt_attention(const zg_graph *g, zg_graph **out) {
  zg_arena scratch = {0};
  const bool *live = zg_find_live(g, &scratch);
  rewrite r = {.b = zg_builder_new(), .g = g, .map = ZG_NEW_N(&scratch, zg_val, g->values.n)};
  for (size_t i = 0; i < g->nodes.n && !zg_builder_failed(r.b); i++) {
    const zg_node *n = &g->nodes.at[i];
    if (!zg__node_live(n, live) && !zg__leaf_name(n->op, n->attr)) continue;
    if (n->op == &zg_op_matmul && emit_match(&r, n)) continue;
    if (n->op == &zg_op_attention && emit_op(&r, n)) continue;
    zg_emit_copy(r.b, g, n, r.map);
  }
  zg__copy_outputs(r.b, g, r.map, ~0u);
  zg_builder_props(r.b, g->props);
  zg_arena_fini(&scratch);
  return zg_builder_finish(r.b, out);
}
