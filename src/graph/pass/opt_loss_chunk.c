// opt_loss_chunk: cross entropy over a linear layer becomes linear_cross_entropy, which holds `rows` rows of logits at a time.
//
//   h [N,K] -> matmul w -> [+ bias] -> views, casts -> cross_entropy   =>   the same views of h -> linear_cross_entropy
//
// - Views between the two (a reshape to [batch, sequence, class], the slice that shifts predictions against labels, a transpose
//   that brings the classes to axis 1) do not touch the class axis, so they may as well be taken of h.
// - Every value on the way has this one reader; the logits themselves may also be asked for their largest class (accuracy).
// - Losses that have no total (reduction none), take log-probabilities, or have class weights that are computed or trained are left
//   alone: the new op has no gradient by class weights.
// Runs before autodiff: the gradients are results of the new op. Cost: linear in the graph.
#include "graph/graph_priv.h"
#include "graph/pass.h"

enum { MAX_PATH = 16 };

typedef struct {
  const zg_node *loss, *top, *product;   // top: arg_reduce over the logits, or NULL
  const zg_node *path[MAX_PATH];         // views and casts from the product to the loss, the last first
  uint32_t n_path;
  zg_val bias;
  int64_t axis, classes;                 // of the logits as the loss reads them
} match;

typedef struct {
  const zg_graph *g;
  zg_builder *b;
  const uint32_t *uses;
  const uint32_t *top;       // per value: index + 1 of the arg_reduce node that reads it, or 0
} finder;

static bool is_last(const zg_type *t, int64_t axis) { return axis == (int64_t)t->rank - 1; }

// A vector over the classes beside the logits; dims of 1 may stand before it.
static bool is_bias(const zg_graph *g, zg_val v, const zg_type *logits, int64_t axis) {
  const zg_type *t = zg_type_of(g, v);
  return is_last(logits, axis) && t->rank && t->dim[t->rank - 1] == logits->dim[axis] && zg_elems(t) == logits->dim[axis] &&
         t->dtype == logits->dtype;
}

// What node n leaves of the class axis of its operand: false if n is no view of whole rows of classes.
static bool step_back(const zg_graph *g, const zg_node *n, int64_t *axis) {
  const zg_type *out = &g->values.at[n->out].type, *in = zg_type_of(g, zg_in(g, n, 0));
  const int64_t classes = out->dim[*axis];
  if (n->op == &zg_op_reshape) {
    if (!is_last(out, *axis) || !in->rank || in->dim[in->rank - 1] != classes) return false;
    *axis = (int64_t)in->rank - 1;
    return true;
  }
  if (n->op == &zg_op_transpose) {
    *axis = ((const zg_transpose_attr *)n->attr)->perm.at[*axis];
    return true;
  }
  if (n->op == &zg_op_slice) {
    const zg_slice_attr *a = n->attr;
    return a->step.at[*axis] == 1 && in->dim[*axis] == classes;
  }
  return n->op == &zg_op_cast && (in->dtype == ZG_F16 || in->dtype == ZG_BF16) && out->dtype == ZG_F32;
}

static bool is_linear(const zg_graph *g, const zg_node *n) {
  return n->op == &zg_op_matmul && !((const zg_matmul_attr *)n->attr)->ta && !((const zg_matmul_attr *)n->attr)->wide &&
         zg_type_of(g, zg_in(g, n, 0))->rank == 2 && zg_type_of(g, zg_in(g, n, 1))->rank == 2;
}

// Takes a bias off v: the other operand of the addition, or v.
static zg_val without_bias(const zg_graph *g, zg_val v, int64_t axis, zg_val *bias) {
  const zg_node *n = zg_node_of(g, v);
  if (n->op != zg_map_op(ZG_S_ADD) || zg_is(*bias)) return v;
  for (uint32_t k = 0; k < 2; k++) {
    const zg_val x = zg_in(g, n, k), y = zg_in(g, n, 1 - k);
    if (!is_bias(g, y, zg_type_of(g, v), axis) || !zg_type_equal(zg_type_of(g, x), zg_type_of(g, v))) continue;
    *bias = y;
    return x;
  }
  return v;
}

static bool find_top(const finder *f, const zg_val logits, match *m) {
  const zg_graph *g = f->g;
  if (f->uses[logits.id] == 1) return true;
  if (f->uses[logits.id] != 2 || !f->top[logits.id]) return false;
  m->top = &g->nodes.at[f->top[logits.id] - 1];
  const zg_arg_reduce_attr *a = m->top->attr;
  const uint32_t labels = g->values.at[zg_in(g, m->loss, 1).id].node;
  return (a->axis < 0 ? a->axis + (int64_t)zg_type_of(g, logits)->rank : a->axis) == m->axis && !a->is_min && !a->last &&
         labels < f->top[logits.id];
}

// Can the loss's class weights have no gradient: a constant, or a tensor that is not trained. A leaf in any case.
static bool is_fixed(const zg_graph *g, zg_val v) {
  const zg_node *n = zg_node_of(g, v);
  return n->op == &zg_op_const || n->op == &zg_op_fill || (n->op == &zg_op_param && ((const zg_param_attr *)n->attr)->role != ZG_ROLE_TRAINABLE);
}

static bool find_match(const finder *f, const zg_node *loss, match *m) {
  const zg_graph *g = f->g;
  if (loss->op != &zg_op_cross_entropy) return false;
  const zg_cross_entropy_attr *a = loss->attr;
  zg_val v = zg_in(g, loss, 0);
  const zg_type *t = zg_type_of(g, v);
  if (a->log_probs || a->reduction > 1 || (loss->n_in > 2 && !is_fixed(g, zg_in(g, loss, 2)))) return false;
  *m = (match){.loss = loss, .axis = a->axis < 0 ? a->axis + (int64_t)t->rank : a->axis};
  m->classes = t->dim[m->axis];
  if (!find_top(f, v, m)) return false;
  for (int64_t axis = m->axis; m->n_path < MAX_PATH;) {
    const zg_node *n = zg_node_of(g, v);
    if (is_linear(g, n)) {
      m->product = n;
      return axis == 1;
    }
    zg_val next = without_bias(g, v, axis, &m->bias);
    if (zg_same(next, v)) {
      if (!step_back(g, n, &axis)) return false;
      m->path[m->n_path++] = n;
      next = zg_in(g, n, 0);
    }
    if (f->uses[next.id] != 1) return false;
    v = next;
  }
  return false;
}

// ---- rewriting ----------------------------------------------------------------------------------------------------

// View n, taken of rows x of `width` elements in place of rows of classes; *axis follows the class axis.
static zg_val view_of_rows(const zg_graph *g, zg_builder *b, const zg_node *n, zg_val x, int64_t width, int64_t *axis) {
  zg_type t = g->values.at[n->out].type;
  if (n->op == &zg_op_reshape) {
    *axis = (int64_t)t.rank - 1;
    t.dim[*axis] = width;
    return zg_b_reshape(b, x, t.dim, t.rank);
  }
  if (n->op == &zg_op_transpose) {
    const int64_t *perm = ((const zg_transpose_attr *)n->attr)->perm.at, from = *axis;
    for (int64_t d = 0; d < (int64_t)t.rank; d++)
      if (perm[d] == from) *axis = d;
    return zg_b_transpose(b, x, perm);
  }
  if (n->op == &zg_op_slice) {
    const zg_slice_attr *a = n->attr;
    t.dim[*axis] = width;
    return zg_b_slice(b, x, a->start.at, a->step.at, t.dim);
  }
  return x;   // a cast: sums are in f32 in any case
}

// [.., width, ..] -> [rows, width]
static zg_val as_rows(zg_builder *b, zg_val x, int64_t axis) {
  const zg_type t = *zg_b_type(b, x);
  int64_t perm[ZG_MAX_RANK], rank = (int64_t)t.rank;
  for (int64_t d = 0, k = 0; d < rank; d++)
    if (d != axis) perm[k++] = d;
  perm[rank - 1] = axis;
  const int64_t width = t.dim[axis], dim[2] = {width ? zg_elems(&t) / width : 0, width};
  return zg_b_reshape(b, axis == rank - 1 ? x : zg_b_transpose(b, x, perm), dim, 2);
}

static void emit_chunked(const finder *f, const match *m, int64_t rows, double scale, zg_val *map) {
  const zg_graph *g = f->g;
  zg_builder *b = f->b;
  const zg_cross_entropy_attr *ce = m->loss->attr;
  zg_val x = map[zg_in(g, m->product, 0).id], out[5];
  int64_t axis = 1, width = zg_b_type(b, x)->dim[1];
  for (uint32_t i = m->n_path; i-- > 0;) x = view_of_rows(g, b, m->path[i], x, width, &axis);
  x = as_rows(b, x, axis);
  const int64_t n = zg_b_type(b, x)->dim[0];
  const zg_val from = m->loss->n_in > 2 ? zg_in(g, m->loss, 2) : (zg_val){0};
  if (zg_is(from) && !zg_is(map[from.id])) zg_emit_copy(b, g, zg_node_of(g, from), map);   // a leaf between `top` and the loss
  const zg_val weight = map[from.id];
  const zg_val bias = zg_is(m->bias) ? zg_b_reshape(b, map[m->bias.id], &m->classes, 1) : (zg_val){0};
  const zg_val in[5] = {x, map[zg_in(g, m->product, 1).id], zg_b_reshape(b, map[zg_in(g, m->loss, 1).id], &n, 1), bias, weight};
  const zg_linear_cross_entropy_attr a = {.tb = ((const zg_matmul_attr *)m->product->attr)->tb, .rows = rows, .ignore = ce->ignore,
                                          .reduction = ce->reduction, .smoothing = ce->smoothing, .scale = scale};
  zg_builder_origin(b, m->loss->origin);
  if (!zg_emit(b, &zg_op_linear_cross_entropy, &a, in, zg_is(weight) ? 5 : zg_is(m->bias) ? 4 : 3, out, 5)) return;
  map[m->loss->out] = out[0];
  if (m->top) map[m->top->out] = zg_b_reshape_like(b, out[4], &g->values.at[m->top->out].type);
}

// d loss / d v, where v reaches the loss through additions and constant factors alone; else 0.
static double factor_of(const zg_graph *g, zg_val from, zg_val v, int depth) {
  if (zg_same(from, v)) return 1;
  const zg_node *n = zg_node_of(g, from);
  if (depth == 0 || (n->op != zg_map_op(ZG_S_ADD) && n->op != zg_map_op(ZG_S_MUL))) return 0;
  const zg_val x = zg_in(g, n, 0), y = zg_in(g, n, 1);
  double k;
  if (n->op == zg_map_op(ZG_S_ADD)) return factor_of(g, x, v, depth - 1) + factor_of(g, y, v, depth - 1);
  if (zg__is_splat(g, y, &k)) return k * factor_of(g, x, v, depth - 1);
  return zg__is_splat(g, x, &k) ? k * factor_of(g, y, v, depth - 1) : 0;
}

static double scale_of(const zg_graph *g, zg_val loss, double seed) {
  const zg_output *o = zg_find_output(g, ZG_OUT_LOSS, NULL);
  const double f = o ? seed * factor_of(g, o->val, loss, 32) : 0;
  return f != 0 ? f : 1;
}

static finder make_finder(const zg_graph *g, const bool *live, zg_arena *mem) {
  uint32_t *top = ZG_NEW_N(mem, uint32_t, g->values.n);
  for (size_t i = 0; i < g->nodes.n; i++)
    if (g->nodes.at[i].op == &zg_op_arg_reduce && zg__node_live(&g->nodes.at[i], live)) top[zg_in(g, &g->nodes.at[i], 0).id] = (uint32_t)i + 1;
  return (finder){.g = g, .uses = zg_find_uses(g, mem), .top = top};
}

bool zg_find_linear_loss(const zg_graph *g, zg_linear_loss *out) {
  zg_arena mem = {0};
  const bool *live = zg_find_live(g, &mem);
  const finder f = make_finder(g, live, &mem);
  *out = (zg_linear_loss){0};
  for (size_t i = 0; i < g->nodes.n; i++) {
    match m;
    if (!zg__node_live(&g->nodes.at[i], live) || !find_match(&f, &g->nodes.at[i], &m) || !m.classes) continue;
    const int64_t rows = zg_elems(zg_type_of(g, zg_in(g, m.loss, 0))) / m.classes;
    if (rows * m.classes > out->rows * out->classes)
      *out = (zg_linear_loss){rows, zg_type_of(g, zg_in(g, m.product, 0))->dim[1], m.classes};
  }
  zg_arena_fini(&mem);
  return out->rows > 0;
}

zg_status zg_pass_opt_loss_chunk(const zg_graph *g, int64_t rows, double seed, zg_graph **out) {
  zg_arena mem = {0};
  const bool *live = zg_find_live(g, &mem);
  finder f = make_finder(g, live, &mem);
  f.b = zg_builder_new();
  zg_val *map = ZG_NEW_N(&mem, zg_val, g->values.n);
  match *at = ZG_NEW_N(&mem, match, g->nodes.n + 1);   // by the first of the nodes that the match replaces
  bool *replaced = ZG_NEW_N(&mem, bool, g->nodes.n + 1);
  for (size_t i = 0; i < g->nodes.n; i++) {
    match m;
    if (!zg__node_live(&g->nodes.at[i], live) || !find_match(&f, &g->nodes.at[i], &m)) continue;
    const size_t first = m.top && m.top < m.loss ? (size_t)(m.top - g->nodes.at) : i;
    at[first] = m;
    replaced[i] = true;
    if (m.top) replaced[m.top - g->nodes.at] = true;
  }
  for (size_t i = 0; i < g->nodes.n && !zg_builder_failed(f.b); i++) {
    const zg_node *n = &g->nodes.at[i];
    if (at[i].loss) emit_chunked(&f, &at[i], rows, scale_of(g, zg_out(at[i].loss, 0), seed), map);
    else if (!replaced[i] && !zg_is(map[n->out]) && (zg__node_live(n, live) || zg__leaf_name(n->op, n->attr))) zg_emit_copy(f.b, g, n, map);
  }
  zg__copy_outputs(f.b, g, map, ~0u);
  zg_builder_props(f.b, g->props);
  zg_arena_fini(&mem);
  return zg_builder_finish(f.b, out);
}
