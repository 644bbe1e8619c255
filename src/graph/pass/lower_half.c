// lower_half: matrix products and attention take and give bf16 or f16; everything else, and all parameters and
// states, stay f32.
//
// - Each operand of such an op is rounded to the half type (a cast, which fuses with the loop that makes the operand);
// sums run in f32.
// - A result is kept in that type if some path leads from it to another such op (activations and their gradients),
// else it is given
//   in f32 as it is summed: gradients of weights go to the optimizer and to accumulators unrounded.
// - A value exists in the version in which it was made, and in the other one where something asks for it.
// Views and concatenations
//   do not decide: half(view(x)) is view(half(x)) and wide(view(x)) is view of whatever x is, cast after the
//   view. So a cast stands beside the map that can take it in, never between two views.
// - Losses, norms, softmax outside of attention and reductions read wide versions: PyTorch's autocast list.
// - A sum of products (matmul_add) is f32 from the first to the last.
// - A product over one element (position times frequency) is no matrix product and stays f32.
//
// - Convolutions and their gradients go with the products where `convs` says that the device is faster so; results are then kept in the
//   half type, gradients of weights among them, as PyTorch's autocast does. Else they stay f32.
//
// Cost: one copy of the graph.
#include "graph/graph_priv.h"
#include "graph/pass.h"

typedef struct {
  const zg_graph *g;
  zg_builder *b;
  zg_dtype type;        // bf16 or f16
  bool convs;           // convolutions too
  zg_val *wide, *half;  // per source value: its two versions in b, none where not made
  bool *feeds;          // per source value: some path leads to an op that takes it
} rewrite;

static bool is_float(const zg_graph *g, zg_val v) { return zg_is(v) && zg_type_of(g, v)->dtype == ZG_F32; }

static bool is_product(const zg_node *n) { return n->op == &zg_op_matmul || n->op == &zg_op_matmul_add; }

static bool is_conv(const zg_node *n) {
  return n->op == &zg_op_conv || n->op == &zg_op_conv_grad_x || n->op == &zg_op_conv_grad_w;
}

static bool takes_half(const zg_graph *g, const zg_node *n, bool convs) {
  if (is_conv(n)) return convs && is_float(g, zg_in(g, n, 0));
  if (n->op == &zg_op_flash_attention || n->op == &zg_op_flash_attention_grad)
    return is_float(g, zg_in(g, n, 0));
  if (!is_product(n) || !is_float(g, zg_in(g, n, 0))) return false;
  const zg_type *x = zg_type_of(g, zg_in(g, n, n->op == &zg_op_matmul_add));
  return x->dim[x->rank - (((const zg_matmul_attr *)n->attr)->ta ? 2 : 1)] > 1;
}

// The sum so far of a matmul_add is not rounded: it is f32, as the sum inside of one product is.
static bool is_sum_so_far(const zg_node *n, uint32_t operand) { return n->op == &zg_op_matmul_add && operand == 0; }

static bool *find_feeds(const zg_graph *g, bool convs, zg_arena *a) {
  bool *feeds = ZG_NEW_N(a, bool, g->values.n);
  for (size_t i = g->nodes.n; i-- > 0;) {
    const zg_node *n = &g->nodes.at[i];
    const bool on = takes_half(g, n, convs);
    bool result = false;
    for (uint32_t k = 0; k < n->n_out; k++) result |= feeds[n->out + k];
    for (uint32_t k = 0; k < n->n_in; k++) feeds[zg_in(g, n, k).id] |= result || (on && !is_sum_so_far(n, k));
  }
  return feeds;
}

static bool is_transparent(const zg_node *n) {
  return n->op == &zg_op_reshape || n->op == &zg_op_transpose || n->op == &zg_op_expand ||
         n->op == &zg_op_slice || n->op == &zg_op_concat || n->op == &zg_op_unslice;
}

static zg_val half_of(rewrite *r, zg_val v);
static zg_val wide_of(rewrite *r, zg_val v);

static zg_val emit_transparent(rewrite *r, const zg_node *n, zg_val (*version)(rewrite *, zg_val)) {
  zg_arena scratch = {0};
  zg_val *in = ZG_NEW_N(&scratch, zg_val, n->n_in);
  for (uint32_t i = 0; i < n->n_in; i++) in[i] = version(r, zg_in(r->g, n, i));
  zg_builder_origin(r->b, n->origin);
  const zg_val out = zg_emit1(r->b, n->op, n->attr, in, n->n_in);
  zg_arena_fini(&scratch);
  return out;
}

// Are all float operands of a view or concatenation made in the half type?
static bool made_half(const rewrite *r, zg_val v) {
  const zg_node *n = zg_node_of(r->g, v);
  if (!is_transparent(n)) return zg_is(r->half[v.id]) && !zg_is(r->wide[v.id]);
  for (uint32_t i = 0; i < n->n_in; i++)
    if (!made_half(r, zg_in(r->g, n, i))) return false;
  return n->n_in > 0;
}

static zg_val half_of(rewrite *r, zg_val v) {
  if (!is_float(r->g, v)) return r->wide[v.id];
  if (zg_is(r->half[v.id])) return r->half[v.id];
  const zg_node *n = zg_node_of(r->g, v);
  const zg_val h =
      is_transparent(n) ? emit_transparent(r, n, half_of) : zg_b_cast(r->b, r->wide[v.id], r->type);
  return r->half[v.id] = h;
}

static zg_val wide_of(rewrite *r, zg_val v) {
  if (!zg_is(v) || zg_is(r->wide[v.id])) return r->wide[v.id];
  const zg_node *n = zg_node_of(r->g, v);
  const bool through = is_transparent(n) && !made_half(r, v);
  const zg_val w = through ? emit_transparent(r, n, wide_of) : zg_b_cast(r->b, half_of(r, v), ZG_F32);
  return r->wide[v.id] = w;
}

static void emit_half(rewrite *r, const zg_node *n) {
  zg_val in[8], out[4];
  zg_matmul_attr mm = {0};
  const void *attr = n->attr;
  for (uint32_t i = 0; i < n->n_in; i++) {
    const zg_val v = zg_in(r->g, n, i);
    const bool statistic = n->op == &zg_op_flash_attention_grad && i == 4;  // the log-sum-exp
    const bool mask = !is_product(n) && i == (n->op == &zg_op_flash_attention ? 3u : 6u);
    in[i] = statistic || mask || is_sum_so_far(n, i) ? wide_of(r, v) : half_of(r, v);
  }
  const bool wide = n->op == &zg_op_matmul_add || (n->op == &zg_op_matmul && !r->feeds[n->out]);
  if (is_product(n)) {
    mm = *(const zg_matmul_attr *)n->attr;
    mm.wide = wide;
    attr = &mm;
  }
  zg_builder_origin(r->b, n->origin);
  if (!zg_emit(r->b, n->op, attr, in, n->n_in, out, n->n_out)) return;
  for (uint32_t k = 0; k < n->n_out; k++) {
    const bool stays = wide || (n->op == &zg_op_flash_attention && k == 1);
    (stays ? r->wide : r->half)[n->out + k] = out[k];
    zg_builder_name(r->b, out[k], r->g->values.at[n->out + k].name);
  }
}

static void emit_node(rewrite *r, const zg_node *n) {
  if (takes_half(r->g, n, r->convs)) {
    emit_half(r, n);
  } else if (!is_transparent(n) || !is_float(r->g, zg_out(n, 0))) {
    for (uint32_t i = 0; i < n->n_in; i++) wide_of(r, zg_in(r->g, n, i));
    zg_emit_copy(r->b, r->g, n, r->wide);
  }  // views and concatenations of floats are made when asked for
}

zg_status zg_pass_lower_half(const zg_graph *g, zg_dtype half, bool convs, zg_graph **out) {
  zg_arena scratch = {0};
  const bool *live = zg_find_live(g, &scratch);
  rewrite r = {.g = g,
               .b = zg_builder_new(),
               .type = half,
               .convs = convs,
               .wide = ZG_NEW_N(&scratch, zg_val, g->values.n),
               .half = ZG_NEW_N(&scratch, zg_val, g->values.n),
               .feeds = find_feeds(g, convs, &scratch)};
  for (size_t i = 0; i < g->nodes.n && !zg_builder_failed(r.b); i++) {
    const zg_node *n = &g->nodes.at[i];
    if (zg__node_live(n, live) || zg__leaf_name(n->op, n->attr)) emit_node(&r, n);
  }
  for (size_t i = 0; i < g->outputs.n; i++) {
    const zg_output *o = &g->outputs.at[i];
    zg_builder_output(r.b, o->kind, o->name, wide_of(&r, o->val), wide_of(&r, o->target));
  }
  zg_builder_props(r.b, g->props);
  zg_arena_fini(&scratch);
  return zg_builder_finish(r.b, out);
}
