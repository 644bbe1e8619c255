// attach_optimizer: turns gradients into updates of parameters and of optimizer state. The result is an ordinary graph:
// fusion makes one loop kernel a parameter of it, and ZeRO shards its states like any tensor.
//
// - All arithmetic is f32. A parameter that is not f32 gets an f32 master copy (state "PARAM.master"), and takes its value
//   rounded after each update.
// - Norm: sums of squares tensor by tensor, added in the graph's order, so that every ZeRO stage can add them in the same
//   order. Clipping multiplies by min(1, clip / (norm + 1e-6)).
// - Formulas and their order are PyTorch's (torch.optim) for sgd, adam, adamw, adagrad; lion: Chen et al. 2023, algorithm 2;
//   lamb: You et al. 2020, algorithm 2; muon: Jordan 2024 (torch.optim.Muon with its "original" scale of the rate), which
//   is for matrices: other tensors take adamw.
// - With loss scaling a step whose squared norm is not finite changes nothing.
// - What changes every step (rate, bias corrections) comes as scalar inputs, so one graph serves the whole run.
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "graph/graph_priv.h"
#include "graph/pass.h"

typedef struct {
  zg_builder *b;
  const zg_opt_spec *o;
  const char *name;     // of the parameter
  zg_type type;         // its shape, f32
  zg_val p, g, lr;      // f32 value, clipped gradient, rate of its group
  zg_val finite;        // with loss scaling: whether the step is made
  double wd;
} update;

// ---- pieces -------------------------------------------------------------------------------------------------------------
static zg_val step_scalar(zg_builder *b, const char *name) {
  const zg_type t = zg_type_scalar(ZG_F32);
  return zg_b_input(b, name, &t);
}

static zg_val new_state(update *u, const char *suffix) {
  const char *name = zg_arena_printf(zg_builder_arena(u->b), "%s.%s", u->name, suffix);
  const zg_state_attr a = {.name = name, .type = u->type, .role = ZG_STATE_OPTIMIZER};
  return zg_b_state(u->b, &a);
}

static zg_val if_finite(update *u, zg_val next, zg_val old) {
  return zg_is(u->finite) ? zg_b_where(u->b, u->finite, next, old) : next;
}

static void set_state(update *u, zg_val state, zg_val value) {
  if (!zg_is(state) || zg_builder_failed(u->b)) return;
  value = if_finite(u, value, state);
  const zg_node *n = zg_node_of(zg_builder_graph(u->b), state);
  zg_builder_output(u->b, ZG_OUT_UPDATE, ((const zg_state_attr *)n->attr)->name, value, state);
}

// m * keep + x * rest
static zg_val blend(zg_builder *b, zg_val m, double keep, zg_val x, double rest) {
  return zg_add(b, zg_mul_k(b, m, keep), zg_mul_k(b, x, rest));
}

static zg_val decayed_gradient(update *u) {
  return u->wd != 0 ? zg_add(u->b, u->g, zg_mul_k(u->b, u->p, u->wd)) : u->g;
}

// p (1 - lr wd): decoupled decay, before the step as in PyTorch.
static zg_val decayed_param(update *u) {
  if (u->wd == 0) return u->p;
  const zg_val keep = zg_sub(u->b, zg_b_scalar(u->b, ZG_F32, 1), zg_mul_k(u->b, u->lr, u->wd));
  return zg_mul(u->b, u->p, keep);
}

static zg_val norm2(zg_builder *b, zg_val x) {   // rank 0
  return zg_b_map1(b, ZG_S_SQRT, zg_b_reduce_all(b, ZG_RED_SUM, zg_mul(b, x, x)));
}

// ---- the optimizers: each gives the new parameter -----------------------------------------------------------------------
static zg_val sgd(update *u) {
  zg_builder *b = u->b;
  zg_val g = decayed_gradient(u);
  const double mu = u->o->momentum;
  if (mu != 0) {
    const zg_val m = new_state(u, "m");
    const zg_val first = zg_b_map2(b, ZG_S_LT, zg_b_scalar(b, ZG_F32, 0), step_scalar(b, "@first"));
    const zg_val next = zg_b_where(b, first, g, blend(b, m, mu, g, 1 - u->o->dampening));
    set_state(u, m, next);
    g = u->o->nesterov ? zg_add(b, g, zg_mul_k(b, next, mu)) : next;
  }
  return zg_sub(b, u->p, zg_mul(b, u->lr, g));
}

// The bias-corrected direction m^ / (sqrt(v^) + eps), moments updated.
static zg_val adam_direction(update *u, zg_val g) {
  zg_builder *b = u->b;
  const double b1 = u->o->beta1, b2 = u->o->beta2;
  const zg_val m = new_state(u, "m"), v = new_state(u, "v");
  const zg_val m1 = blend(b, m, b1, g, 1 - b1), v1 = blend(b, v, b2, zg_mul(b, g, g), 1 - b2);
  set_state(u, m, m1);
  set_state(u, v, v1);
  const zg_val root = zg_div(b, zg_b_map1(b, ZG_S_SQRT, v1), zg_b_map1(b, ZG_S_SQRT, step_scalar(b, "@bias2")));
  return zg_div(b, zg_div(b, m1, step_scalar(b, "@bias1")), zg_add_k(b, root, u->o->eps));
}

static zg_val adam(update *u) {
  const zg_val step = adam_direction(u, decayed_gradient(u));
  return zg_sub(u->b, u->p, zg_mul(u->b, u->lr, step));
}

static zg_val adamw(update *u) {
  const zg_val step = adam_direction(u, u->g);
  return zg_sub(u->b, decayed_param(u), zg_mul(u->b, u->lr, step));
}

static zg_val lion(update *u) {
  zg_builder *b = u->b;
  const double b1 = u->o->beta1, b2 = u->o->beta2;
  const zg_val m = new_state(u, "m"), sign = zg_b_map1(b, ZG_S_SIGN, blend(b, m, b1, u->g, 1 - b1));
  set_state(u, m, blend(b, m, b2, u->g, 1 - b2));
  return zg_sub(b, decayed_param(u), zg_mul(b, u->lr, sign));
}

static zg_val adagrad(update *u) {
  zg_builder *b = u->b;
  const zg_val g = decayed_gradient(u), s = new_state(u, "v"), sum = zg_add(b, s, zg_mul(b, g, g));
  set_state(u, s, sum);
  const zg_val step = zg_div(b, g, zg_add_k(b, zg_b_map1(b, ZG_S_SQRT, sum), u->o->eps));
  return zg_sub(b, u->p, zg_mul(b, u->lr, step));
}

static zg_val lamb(update *u) {
  zg_builder *b = u->b;
  zg_val step = adam_direction(u, u->g);
  if (u->wd != 0) step = zg_add(b, step, zg_mul_k(b, u->p, u->wd));
  const zg_val p_norm = norm2(b, u->p), s_norm = norm2(b, step), zero = zg_b_scalar(b, ZG_F32, 0);
  const zg_val both = zg_b_map2(b, ZG_S_AND, zg_b_map2(b, ZG_S_LT, zero, p_norm), zg_b_map2(b, ZG_S_LT, zero, s_norm));
  const zg_val trust = zg_b_where(b, both, zg_div(b, p_norm, s_norm), zg_b_scalar(b, ZG_F32, 1));
  return zg_sub(b, u->p, zg_mul(b, zg_mul(b, u->lr, trust), step));
}

// Five steps of the quintic Newton-Schulz iteration bring the singular values of x near 1 (Jordan 2024).
static zg_val orthogonalize(zg_builder *b, zg_val x, bool tall) {
  const double k1 = 3.4445, k2 = -4.7750, k3 = 2.0315;
  const zg_val tiny = zg_b_scalar(b, ZG_F32, 1e-7);
  if (tall) x = zg_b_swap_last(b, x);
  x = zg_div(b, x, zg_b_map2(b, ZG_S_MAX, norm2(b, x), tiny));
  for (int i = 0; i < 5; i++) {
    const zg_val a = zg_b_matmul(b, x, x, false, true);
    const zg_val q = zg_add(b, zg_mul_k(b, a, k2), zg_mul_k(b, zg_b_matmul(b, a, a, false, false), k3));
    x = zg_add(b, zg_mul_k(b, x, k1), zg_b_matmul(b, q, x, false, false));
  }
  return tall ? zg_b_swap_last(b, x) : x;
}

static zg_val muon(update *u) {
  if (u->type.rank != 2) return adamw(u);
  zg_builder *b = u->b;
  const double mu = u->o->momentum, rows = (double)u->type.dim[0], cols = (double)u->type.dim[1];
  const zg_val m = new_state(u, "m"), next = blend(b, m, mu, u->g, 1 - mu);
  set_state(u, m, next);
  const zg_val d = u->o->nesterov ? blend(b, u->g, 1 - mu, next, mu) : next;
  const double scale = sqrt(fmax(1, cols > 0 ? rows / cols : 1));
  return zg_sub(b, decayed_param(u), zg_mul(b, zg_mul_k(b, u->lr, scale), orthogonalize(b, d, rows > cols)));
}

static zg_val apply(update *u) {
  switch (u->o->kind) {
    case ZG_OPT_SGD: return sgd(u);
    case ZG_OPT_ADAM: return adam(u);
    case ZG_OPT_ADAMW: return adamw(u);
    case ZG_OPT_LION: return lion(u);
    case ZG_OPT_ADAGRAD: return adagrad(u);
    case ZG_OPT_LAMB: return lamb(u);
    case ZG_OPT_MUON: return muon(u);
  }
  return (zg_val){0};
}

// ---- the pass -----------------------------------------------------------------------------------------------------------
static const zg_opt_group *group_of(const zg_opt_spec *o, const char *name) {
  for (uint32_t i = 0; i < o->n_groups; i++)
    for (uint32_t k = 0; k < o->groups[i].n_match; k++)
      if (zg_glob(o->groups[i].match[k], name)) return &o->groups[i];
  return NULL;
}

// Where in the backward pass a gradient is complete.
typedef struct { uint32_t made, index; } completion;
static int by_completion(const void *a, const void *b) {
  const completion *x = a, *y = b;
  return x->made != y->made ? (x->made < y->made ? -1 : 1) : (x->index > y->index) - (x->index < y->index);
}

// The order of summation is that in which the backward pass completes the gradients: each is squared, and without clipping used
// and let go, as soon as it is there. In the order of the parameters the first one, complete last, would hold up all others.
static zg_val squared_norm(zg_builder *b, const zg_opt_spec *o, const zg_val *grad, uint32_t n) {
  if (o->sums) {
    const int64_t dim[2] = {o->ranks, 3};
    const zg_state_attr all = {.name = o->sums, .type = zg_type_make(ZG_F32, 2, dim), .role = ZG_STATE_SCALAR};
    const zg_val column = zg_b_slice1(b, zg_b_state(b, &all), 1, 0, 1);
    return zg_b_reduce_all(b, ZG_RED_SUM, o->shards < o->ranks ? zg_b_slice1(b, column, 0, 0, o->shards) : column);
  }
  zg_val sum = {0};
  completion *order = zg_alloc(sizeof *order * (n + 1));
  for (uint32_t i = 0; i < n && !zg_builder_failed(b); i++) {
    const zg_graph *g = zg_builder_graph(b);
    const bool cast = zg_is_op(g, grad[i], &zg_op_cast);
    order[i] = (completion){cast ? zg_in(g, zg_node_of(g, grad[i]), 0).id : grad[i].id, i};
  }
  qsort(order, n, sizeof *order, by_completion);
  for (uint32_t i = 0; i < n; i++) {
    const zg_val g = grad[order[i].index], part = zg_b_reduce_all(b, ZG_RED_SUM, zg_mul(b, g, g));
    sum = zg_is(sum) ? zg_add(b, sum, part) : part;
  }
  zg_free(order);
  return sum;
}

// Gradients in f32, in output order; the norm before clipping; the factor, or none without clipping. finite: with loss scaling, whether
// the norm is.
static zg_val clip_factor(zg_builder *b, const zg_opt_spec *o, const zg_val *grad, uint32_t n, zg_val *finite) {
  const zg_val sum = squared_norm(b, o, grad, n);
  if (o->scaled) *finite = zg_b_map2(b, ZG_S_LT, sum, zg_b_scalar(b, ZG_F32, FLT_MAX));
  const zg_val norm = zg_b_map1(b, ZG_S_SQRT, sum);
  zg_builder_output(b, ZG_OUT_VALUE, "@grad_norm", norm, (zg_val){0});
  if (!(o->clip > 0)) return (zg_val){0};
  const zg_val ratio = zg_div(b, zg_b_scalar(b, ZG_F32, o->clip), zg_add_k(b, norm, 1e-6));
  return zg_b_map2(b, ZG_S_MIN, ratio, zg_b_scalar(b, ZG_F32, 1));
}

static void update_param(zg_builder *b, const zg_opt_spec *o, zg_val param, zg_val grad, zg_val factor, zg_val finite) {
  const zg_param_attr *a = zg_node_of(zg_builder_graph(b), param)->attr;
  const char *name = zg_arena_str(zg_builder_arena(b), a->name);
  const zg_type type = a->type;
  zg_builder_origin(b, (zg_origin){name, "update"});
  update u = {.b = b, .o = o, .name = name, .type = zg_type_make(ZG_F32, type.rank, type.dim), .wd = o->weight_decay};
  const zg_opt_group *group = group_of(o, name);
  if (group) u.wd = group->weight_decay;
  u.lr = step_scalar(b, "@lr");
  if (group && group->lr_scale != 1) u.lr = zg_mul_k(b, u.lr, group->lr_scale);
  u.g = zg_is(factor) ? zg_mul(b, grad, factor) : grad;
  u.p = param;
  u.finite = finite;
  if (type.dtype != ZG_F32) {
    const zg_state_attr master = {.name = zg_arena_printf(zg_builder_arena(b), "%s.master", name), .type = u.type,
                                  .role = ZG_STATE_MASTER, .init_from = name};
    u.p = zg_b_state(b, &master);
  }
  const zg_val master = u.p, next = apply(&u);
  if (type.dtype != ZG_F32) set_state(&u, master, next);
  zg_builder_output(b, ZG_OUT_UPDATE, name, if_finite(&u, zg_b_cast(b, next, type.dtype), param), param);
}

static zg_status check_targets(const zg_graph *g, uint32_t *n) {
  for (size_t i = 0; i < g->outputs.n; i++) {
    const zg_output *o = &g->outputs.at[i];
    if (o->kind != ZG_OUT_GRAD) continue;
    if (!zg_is_op(g, o->target, &zg_op_param))
      return zg_error(ZG_INVALID, "optimizer: \"%s\" is no parameter of the model, so it has no update", o->name);
    ++*n;
  }
  return *n ? NULL : zg_error(ZG_INVALID, "optimizer: no parameter is trainable; see `zgraph inspect` and the `trainable:` key");
}

zg_status zg_pass_attach_optimizer(const zg_graph *g, const zg_opt_spec *o, zg_graph **out) {
  uint32_t n = 0;
  *out = NULL;
  ZG_TRY(check_targets(g, &n));
  zg_arena scratch = {0};
  zg_builder *b = zg_builder_new();
  zg_val *map = ZG_NEW_N(&scratch, zg_val, g->values.n);
  zg_val *param = ZG_NEW_N(&scratch, zg_val, n), *grad = ZG_NEW_N(&scratch, zg_val, n);
  for (size_t i = 0; i < g->nodes.n; i++) zg_emit_copy(b, g, &g->nodes.at[i], map);
  zg__copy_outputs(b, g, map, ~(1u << ZG_OUT_GRAD));
  zg_builder_origin(b, (zg_origin){NULL, "update"});
  for (size_t i = 0, k = 0; i < g->outputs.n && !zg_builder_failed(b); i++) {
    const zg_output *v = &g->outputs.at[i];
    if (v->kind != ZG_OUT_GRAD) continue;
    param[k] = map[v->target.id];
    grad[k] = zg_b_cast(b, map[v->val.id], ZG_F32);
    if (o->scaled) grad[k] = zg_mul(b, grad[k], step_scalar(b, "@inv_scale"));
    k++;
  }
  if (!zg_builder_failed(b)) {
    zg_val finite = {0};
    const zg_val factor = clip_factor(b, o, grad, n, &finite);
    for (uint32_t i = 0; i < n && !zg_builder_failed(b); i++) update_param(b, o, param[i], grad[i], factor, finite);
  }
  zg_builder_props(b, (g->props & ~(uint32_t)ZG_PROP_GRADS) | ZG_PROP_STEP);
  zg_arena_fini(&scratch);
  return zg_builder_finish(b, out);
}
