// opt_channels_last: images are kept with their channels last from convolution to convolution.
//
// The graph says [N, C, d..]; the libraries multiply fastest where the channels of a place are neighbours, and
// reorder operands that are not so. A value has two versions, made when asked for:
//   first   as in the source graph
//   last    [N, d.., C]
//
// - Convolutions, poolings and their gradients take and give `last`: the op itself stays [N, C, d..], between
//   transposes that move nothing, for the lowering stores its result as the transpose reads it.
// - Maps, selections, concatenations, slices and pads of a value that was made `last` are made `last`;
//   reductions are, over the same axes. Operands that broadcast are given the dims that fit.
// - What else reads such a value gets its transpose. Weights and their gradients stay as they are.
//
// Statistics of a batch norm become sums over rows of [N*d.., C], which leave the order of the sum to the loop
// kernels as before. Cost: one copy of the graph. Source: oneDNN 2.6, "Understanding memory formats"; PyTorch's
// channels_last is the same layout.
#include "graph/graph_priv.h"
#include "graph/pass.h"

typedef struct {
  const zg_graph *g;
  zg_builder *b;
  zg_val *first, *last;  // per source value: its versions in b, none where not made
  bool *born_last;       // that was the first one made
} rewrite;

static bool is_window(const zg_node *n) {
  return n->op == &zg_op_conv || n->op == &zg_op_conv_grad_x || n->op == &zg_op_conv_grad_w || n->op == &zg_op_pool ||
         n->op == &zg_op_pool_grad;
}

// ---- versions ---------------------------------------------------------------------------------------------
static int64_t to_first_dim(uint32_t rank, uint32_t d) { return d == 0 ? 0 : d + 1 == rank ? 1 : d + 1; }  // of a last dim
static int64_t to_last_dim(uint32_t rank, uint32_t d) { return d == 0 ? 0 : d == 1 ? rank - 1 : d - 1; }   // of a first dim

static zg_val transpose(rewrite *r, zg_val v, bool to_last) {
  const uint32_t rank = zg_b_type(r->b, v)->rank;
  int64_t perm[ZG_MAX_RANK];
  for (uint32_t d = 0; d < rank; d++) perm[d] = to_last ? to_first_dim(rank, d) : to_last_dim(rank, d);
  return zg_b_transpose(r->b, v, perm);
}

static zg_val first_of(rewrite *r, zg_val v) {
  if (zg_is(v) && !zg_is(r->first[v.id])) r->first[v.id] = transpose(r, r->last[v.id], false);
  return r->first[v.id];
}
static zg_val last_of(rewrite *r, zg_val v) {
  if (!zg_is(r->last[v.id])) r->last[v.id] = transpose(r, r->first[v.id], true);
  return r->last[v.id];
}

static bool made_last(const rewrite *r, zg_val v) { return zg_is(v) && r->born_last[v.id]; }

// An operand of a map whose result has `rank` dims, `last`.
static zg_val operand(rewrite *r, zg_val v, uint32_t rank) {
  if (!zg_is(v)) return v;
  const zg_type t = *zg_type_of(r->g, v);
  if (t.rank == rank) return last_of(r, v);
  if (t.rank < 2 && zg_elems(&t) == 1) return first_of(r, v);
  int64_t dim[ZG_MAX_RANK];
  for (uint32_t d = 0; d < rank; d++) dim[d] = d + t.rank < rank ? 1 : t.dim[d + t.rank - rank];
  return transpose(r, zg_b_reshape(r->b, first_of(r, v), dim, rank), true);
}

// ---- nodes ------------------------------------------------------------------------------------------------
static void set_last(rewrite *r, const zg_node *n, zg_val v) {
  r->last[n->out] = v;
  r->born_last[n->out] = true;
  zg_builder_name(r->b, v, r->g->values.at[n->out].name);
}

static void emit_window(rewrite *r, const zg_node *n) {
  zg_val in[3];
  const bool grad_w = n->op == &zg_op_conv_grad_w;
  const bool pool = n->op == &zg_op_pool || n->op == &zg_op_pool_grad;
  for (uint32_t i = 0; i < n->n_in; i++) {
    const zg_val v = zg_in(r->g, n, i);
    in[i] = i == 0 || grad_w || pool ? transpose(r, last_of(r, v), false) : first_of(r, v);
  }
  const zg_val y = zg_emit1(r->b, n->op, n->attr, in, n->n_in);
  if (grad_w) {
    r->first[n->out] = y;
    zg_builder_name(r->b, y, r->g->values.at[n->out].name);
  } else {
    set_last(r, n, transpose(r, y, true));
  }
}

static void emit_map(rewrite *r, const zg_node *n) {
  zg_val in[4];
  const uint32_t rank = zg_type_of(r->g, zg_out(n, 0))->rank;
  for (uint32_t i = 0; i < n->n_in; i++) in[i] = operand(r, zg_in(r->g, n, i), rank);
  set_last(r, n, zg_emit1(r->b, n->op, n->attr, in, n->n_in));
}

// False: what is kept would change its order.
static bool emit_reduce(rewrite *r, const zg_node *n) {
  const zg_reduce_attr *a = n->attr;
  const zg_val x = zg_in(r->g, n, 0);
  const uint32_t rank = zg_type_of(r->g, x)->rank;
  int64_t axes[ZG_MAX_RANK];
  bool channels = false;
  uint32_t spatial = 0;
  for (int64_t i = 0; i < a->axes.n; i++) {
    axes[i] = to_last_dim(rank, (uint32_t)a->axes.at[i]);
    channels |= a->axes.at[i] == 1;
    spatial += a->axes.at[i] > 1;
  }
  if (!a->keep && !channels && spatial + 2 < rank) return false;
  for (int64_t i = 1; i < a->axes.n; i++)  // in order again
    for (int64_t j = i; j > 0 && axes[j - 1] > axes[j]; j--) {
      const int64_t t = axes[j];
      axes[j] = axes[j - 1], axes[j - 1] = t;
    }
  const zg_val y = zg_b_reduce(r->b, (zg_red)a->kind, last_of(r, x), axes, a->axes.n, a->keep);
  if (a->keep) set_last(r, n, y);
  else r->first[n->out] = y;
  return true;
}

static zg_ints permuted(rewrite *r, zg_ints x) {
  int64_t *at = zg_arena_alloc(zg_builder_arena(r->b), sizeof *at * (size_t)(x.n + 1));
  for (int64_t d = 0; d < x.n; d++) at[d] = x.at[to_first_dim((uint32_t)x.n, (uint32_t)d)];
  return (zg_ints){x.n, at};
}

static void emit_moved(rewrite *r, const zg_node *n) {  // concat, slice, unslice, expand
  zg_shape_attr e;
  zg_slice_attr s;
  zg_unslice_attr u;
  zg_axis_attr c;
  const void *attr;
  if (n->op == &zg_op_concat) {
    c = *(const zg_axis_attr *)n->attr;
    c.axis = to_last_dim(zg_type_of(r->g, zg_out(n, 0))->rank, (uint32_t)c.axis);
    attr = &c;
  } else if (n->op == &zg_op_expand) {
    e.dim = permuted(r, ((const zg_shape_attr *)n->attr)->dim);
    attr = &e;
  } else if (n->op == &zg_op_slice) {
    s = *(const zg_slice_attr *)n->attr;
    s.start = permuted(r, s.start), s.step = permuted(r, s.step), s.size = permuted(r, s.size);
    attr = &s;
  } else {
    u = *(const zg_unslice_attr *)n->attr;
    u.dim = permuted(r, u.dim), u.start = permuted(r, u.start), u.step = permuted(r, u.step);
    attr = &u;
  }
  zg_val *in = zg_alloc(sizeof *in * ((size_t)n->n_in + 1));
  for (uint32_t i = 0; i < n->n_in; i++) in[i] = last_of(r, zg_in(r->g, n, i));
  set_last(r, n, zg_emit1(r->b, n->op, attr, in, n->n_in));
  zg_free(in);
}

// Is an operand of the result's rank, which is that of images, made last alone?
static bool follows(const rewrite *r, const zg_node *n, uint32_t rank) {
  for (uint32_t i = 0; i < n->n_in; i++) {
    const zg_val v = zg_in(r->g, n, i);
    if (made_last(r, v) && zg_type_of(r->g, v)->rank == rank) return true;
  }
  return false;
}

static bool is_moved(const zg_node *n) {
  return n->op == &zg_op_concat || n->op == &zg_op_slice || n->op == &zg_op_unslice || n->op == &zg_op_expand;
}

static void emit_node(rewrite *r, const zg_node *n) {
  const zg_type *t = zg_type_of(r->g, zg_out(n, 0));
  zg_builder_origin(r->b, n->origin);
  if (is_window(n) && zg_type_of(r->g, zg_in(r->g, n, 0))->dtype == ZG_F32) {
    emit_window(r, n);
    return;
  }
  if ((n->op->traits & ZG_ELEMENTWISE) && n->n_in <= 4 && follows(r, n, t->rank)) {
    emit_map(r, n);
    return;
  }
  if (is_moved(n) && follows(r, n, t->rank)) {
    emit_moved(r, n);
    return;
  }
  if (n->op == &zg_op_reduce && made_last(r, zg_in(r->g, n, 0)) && emit_reduce(r, n)) return;
  for (uint32_t i = 0; i < n->n_in; i++) first_of(r, zg_in(r->g, n, i));
  zg_emit_copy(r->b, r->g, n, r->first);
}

zg_status zg_pass_opt_channels_last(const zg_graph *g, zg_graph **out) {
  zg_arena scratch = {0};
  rewrite r = {.g = g, .b = zg_builder_new(), .first = ZG_NEW_N(&scratch, zg_val, g->values.n),
               .last = ZG_NEW_N(&scratch, zg_val, g->values.n), .born_last = ZG_NEW_N(&scratch, bool, g->values.n)};
  for (size_t i = 0; i < g->nodes.n && !zg_builder_failed(r.b); i++) emit_node(&r, &g->nodes.at[i]);
  for (size_t i = 0; i < g->outputs.n; i++) {
    const zg_output *o = &g->outputs.at[i];
    zg_builder_output(r.b, o->kind, o->name, first_of(&r, o->val), first_of(&r, o->target));
  }
  zg_builder_props(r.b, g->props);
  zg_arena_fini(&scratch);
  return zg_builder_finish(r.b, out);
}
