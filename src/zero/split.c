// zero_split: turns a graph with gradients into the parts of a step spread over N ranks.
//   main    forward and backward; results ZG_OUT_GRAD in f32, one for each trainable tensor; adds its loss to "@loss.sum"
//   norm    sum of squares of this rank's gradient shards, its mean loss and whether it was asked to stop ("@stop"), to "@sums";
//           the ranks exchange those; results "@loss" (mean) and "@stopped" (how many)
//   update  leaves only, in the shape of what the optimizer works on (whole in stage 0, else f32[shard]); the optimizer is
//           attached to it like to any graph, so that its kernels know nothing of ranks
// Leaves of one name are one buffer in the schedule; zero_partition moves the shard-shaped views to their place in it.
// The norm is made of the same N sums in every stage, also where the whole gradient is at hand.
#include "graph/build.h"
#include "graph/core.h"
#include "zero/zero_priv.h"

static void add_part(zg_zero *z, const zg_param_attr *a) {
  if (!zg_map_put(&z->by_name, a->name, z->parts.n)) return;
  const int64_t n = zg_elems(&a->type), cut = zg__cut(z);
  zg_zero_part p = {.name = zg_arena_str(&z->mem, a->name),
                    .type = a->type,
                    .n = n,
                    .shard = (n + cut - 1) / cut,
                    .role = (zg_param_role)a->role};
  zg_vec_push(&z->parts, p);
}

static void add_parts(zg_zero *z, const zg_graph *g) {
  for (size_t i = 0; g && i < g->nodes.n; i++) {
    const zg_param_attr *a = g->nodes.at[i].attr;
    if (g->nodes.at[i].op != &zg_op_param || zg_zero_find(z, a->name)) continue;
    add_part(z, a);
  }
}

// Stage 3: small tensors stay whole, in the order of the graph while their sum allows; running statistics always do.
static void choose_sharded(zg_zero *z) {
  int64_t whole = 0;
  const int64_t limit = z->o.model_persistence_threshold;
  for (size_t i = 0; i < z->parts.n && z->o.stage == 3; i++) {
    zg_zero_part *p = &z->parts.at[i];
    const bool small = p->n <= z->o.persistence_threshold && (limit <= 0 || whole + p->n <= limit);
    if (small) whole += p->n;
    p->sharded = p->n > 0 && !small && p->role != ZG_ROLE_RUNNING;
  }
}

static zg_val scalar_state(zg_builder *b, const char *name, uint32_t rank, const int64_t *dim) {
  const zg_state_attr a = {.name = name, .type = zg_type_make(ZG_F32, rank, dim), .role = ZG_STATE_SCALAR};
  return zg_b_state(b, &a);
}

static zg_val gradient(zg_builder *b, const char *param, const zg_type *t) {
  const zg_state_attr a = {.name = zg_arena_printf(zg_builder_arena(b), "%s.grad", param),
                           .type = zg_type_make(ZG_F32, t->rank, t->dim),
                           .role = ZG_STATE_GRAD};
  return zg_b_state(b, &a);
}

static zg_status make_main(const zg_zero *z, const zg_graph *g, zg_graph **out) {
  zg_builder *b = zg_builder_new();
  zg_val *map = zg_alloc(sizeof *map * g->values.n);
  for (size_t i = 0; i < g->nodes.n; i++) zg_emit_copy(b, g, &g->nodes.at[i], map);
  zg_builder_origin(b, (zg_origin){NULL, "grad"});
  zg_val loss = {0};
  for (size_t i = 0; i < g->outputs.n && !zg_builder_failed(b); i++) {
    const zg_output *o = &g->outputs.at[i];
    if (o->kind == ZG_OUT_LOSS) loss = map[o->val.id];
    const zg_val v = o->kind == ZG_OUT_GRAD ? zg_b_cast(b, map[o->val.id], ZG_F32) : map[o->val.id];
    zg_builder_output(b, o->kind, o->name, v, map[o->target.id]);
  }
  if (!zg_builder_failed(b)) {
    const zg_val sum = scalar_state(b, ZG_ZERO_LOSS, 0, NULL), zero = zg_b_scalar(b, ZG_F32, 0);
    zg_val next = zg_b_reshape(b, zg_b_cast(b, loss, ZG_F32), NULL, 0);
    if (z->o.micro_steps > 1) {
      const zg_type scalar = zg_type_scalar(ZG_F32);
      const zg_val first = zg_b_map2(b, ZG_S_LT, zero, zg_b_input(b, "@first_micro", &scalar));
      next = zg_add(b, zg_b_where(b, first, zero, sum), next);
    }
    zg_builder_output(b, ZG_OUT_UPDATE, ZG_ZERO_LOSS, next, sum);
  }
  zg_builder_props(b, g->props & ~(uint32_t)ZG_PROP_CORE);
  zg_free(map);
  return zg_builder_finish(b, out);
}

static zg_status make_norm(const zg_zero *z, const zg_graph *g, bool scaled, zg_graph **out) {
  zg_builder *b = zg_builder_new();
  zg_builder_origin(b, (zg_origin){NULL, "update"});
  const int64_t one = 1, columns = ZG_ZERO_COLUMNS;
  const zg_type scalar = zg_type_scalar(ZG_F32);
  zg_val sum = {0};
  for (size_t i = 0; i < g->outputs.n && !zg_builder_failed(b); i++) {
    const zg_output *o = &g->outputs.at[i];
    if (o->kind != ZG_OUT_GRAD) continue;
    const zg_zero_part *p = zg_zero_find(z, o->name);
    const zg_type t = zg_type_make(ZG_F32, 1, &p->shard);
    zg_val d = gradient(b, o->name, &t);
    if (scaled) d = zg_mul(b, d, zg_b_input(b, "@inv_scale", &scalar));
    const zg_val part = zg_b_reduce_all(b, ZG_RED_SUM, zg_mul(b, d, d));
    sum = zg_is(sum) ? zg_add(b, sum, part) : part;
  }
  const zg_val loss = zg_mul_k(b, scalar_state(b, ZG_ZERO_LOSS, 0, NULL), 1.0 / (double)z->o.micro_steps);
  const zg_val stop = zg_b_input(b, "@stop", &scalar);
  const zg_val all[ZG_ZERO_COLUMNS] = {zg_b_reshape(b, sum, &one, 1), zg_b_reshape(b, loss, &one, 1),
                                       zg_b_reshape(b, stop, &one, 1)};
  zg_builder_output(b, ZG_OUT_UPDATE, ZG_ZERO_MINE, zg_b_concat(b, all, ZG_ZERO_COLUMNS, 0),
                    scalar_state(b, ZG_ZERO_MINE, 1, &columns));
  return zg_builder_finish(b, out);
}

static zg_status make_update(const zg_zero *z, const zg_graph *g, zg_graph **out) {
  zg_builder *b = zg_builder_new();
  for (size_t i = 0; i < g->outputs.n && !zg_builder_failed(b); i++) {
    const zg_output *o = &g->outputs.at[i];
    if (o->kind != ZG_OUT_GRAD) continue;
    const zg_zero_part *p = zg_zero_find(z, o->name);
    zg_param_attr a = *(const zg_param_attr *)zg_node_of(g, o->target)->attr;
    if (zg__updates_shard(z)) a.type = zg_type_make(a.type.dtype, 1, &p->shard);
    const zg_val param = zg_b_param(b, &a);
    zg_builder_output(b, ZG_OUT_GRAD, o->name, gradient(b, o->name, &a.type), param);
  }
  zg_builder_origin(b, (zg_origin){NULL, "update"});
  const int64_t dim[2] = {z->o.world, ZG_ZERO_COLUMNS};
  const zg_val all = scalar_state(b, ZG_ZERO_ALL, 2, dim);
  const zg_val losses = zg_b_slice1(b, all, 1, 1, 1), stops = zg_b_slice1(b, all, 1, 2, 1);
  const zg_val mean = zg_mul_k(b, zg_b_reduce_all(b, ZG_RED_SUM, losses), 1.0 / (double)z->o.world);
  zg_builder_output(b, ZG_OUT_VALUE, "@loss", mean, (zg_val){0});
  zg_builder_output(b, ZG_OUT_VALUE, "@stopped", zg_b_reduce_all(b, ZG_RED_SUM, stops), (zg_val){0});
  zg_builder_props(b, ZG_PROP_GRADS);
  return zg_builder_finish(b, out);
}

static zg_status check(const zg_zero *z, const zg_pipeline *p) {
  const zg_graph *g = p->main;
  const zg_opt_kind kind = p->o.optimizer.kind;
  if (zg__updates_shard(z) && (kind == ZG_OPT_LAMB || kind == ZG_OPT_MUON))
    return zg_error(ZG_UNSUPPORTED,
                    "optimizer.type: %s works on whole tensors, ZeRO stage %u has shards of them; use "
                    "zero_stage 0, or another optimizer",
                    kind == ZG_OPT_LAMB ? "lamb" : "muon", z->o.stage);
  for (size_t i = 0; i < g->outputs.n; i++)
    if (g->outputs.at[i].kind == ZG_OUT_GRAD && !zg_zero_find(z, g->outputs.at[i].name))
      return zg_error(ZG_INVALID,
                      "\"%s\" is no parameter of the model, so its gradient cannot be spread over ranks",
                      g->outputs.at[i].name);
  if (!zg_find_output(g, ZG_OUT_GRAD, NULL))
    return zg_error(ZG_INVALID, "no parameter is trainable; see `zgraph inspect` and the `trainable:` key");
  return NULL;
}

zg_status zg__zero_split(void *self, zg_pipeline *p) {
  zg_zero *z = self;
  add_parts(z, p->main);
  add_parts(z, p->eval);
  choose_sharded(z);
  ZG_TRY(check(z, p));
  zg_graph *g;
  ZG_TRY(make_norm(z, p->main, p->o.optimizer.scaled, &p->norm));
  ZG_TRY(make_update(z, p->main, &p->update));
  ZG_TRY(make_main(z, p->main, &g));
  zg_graph_free(p->main);
  p->main = g;
  p->o.optimizer.sums = ZG_ZERO_ALL;
  p->o.optimizer.ranks = z->o.world;
  p->o.optimizer.shards = zg__cut(z);
  return NULL;
}
