// The pass table and its runner.
#include "sched/pipeline_priv.h"

#include <stdio.h>
#include <stdlib.h>

#include "sched/lower.h"

typedef struct {
  const char *name;
  bool on_sched, optional;
  uint32_t needs, gives;                              // ZG_PROP_* of the main graph
  zg_run_mode from;                                   // runs in this mode and the ones above it
  zg_status (*run)(zg_pipeline *p);
} pass;

static void replace(zg_graph **g, zg_graph *with) {
  zg_graph_free(*g);
  *g = with;
}

zg_status zg__copy_graph(const zg_graph *g, bool results, zg_graph **out) {
  zg_builder *b = zg_builder_new();
  zg_val *map = zg_alloc(sizeof *map * g->values.n);
  for (size_t i = 0; i < g->nodes.n; i++) zg_emit_copy(b, g, &g->nodes.at[i], map);
  for (size_t i = 0; i < g->outputs.n; i++) {
    const zg_output *o = &g->outputs.at[i];
    if (!results && o->kind == ZG_OUT_VALUE && o->name[0] != '@') continue;
    zg_builder_output(b, o->kind, o->name, map[o->val.id], map[o->target.id]);
  }
  zg_builder_props(b, g->props);
  zg_free(map);
  return zg_builder_finish(b, out);
}

static zg_status each_graph(zg_pipeline *p, zg_status (*f)(const zg_graph *, zg_graph **)) {
  zg_graph **all[] = {&p->main, &p->norm, &p->update, &p->eval};
  for (size_t i = 0; i < ZG_COUNT(all); i++) {
    if (!*all[i]) continue;
    zg_graph *r;
    ZG_TRY(f(*all[i], &r));
    replace(all[i], r);
  }
  return NULL;
}

static zg_status opt_simplify(zg_pipeline *p) { return each_graph(p, zg_pass_opt_simplify); }
static zg_status opt_layer_norm(zg_pipeline *p) { return each_graph(p, zg_pass_opt_layer_norm); }
static zg_status opt_rms_norm(zg_pipeline *p) { return each_graph(p, zg_pass_opt_rms_norm); }
static zg_status opt_rotary(zg_pipeline *p) { return each_graph(p, zg_pass_opt_rotary); }
static zg_status opt_attention(zg_pipeline *p) { return each_graph(p, zg_pass_opt_attention); }
static zg_status lower_to_core(zg_pipeline *p) { return each_graph(p, zg_pass_lower_to_core); }

static zg_status opt_merge_products(zg_pipeline *p) { return each_graph(p, zg_pass_opt_merge_products); }
static zg_status to_bf16(const zg_graph *g, zg_graph **out) { return zg_pass_lower_half(g, ZG_BF16, false, out); }
static zg_status convs_to_bf16(const zg_graph *g, zg_graph **out) { return zg_pass_lower_half(g, ZG_BF16, true, out); }
static zg_status to_f16(const zg_graph *g, zg_graph **out) { return zg_pass_lower_half(g, ZG_F16, false, out); }
static zg_status convs_to_f16(const zg_graph *g, zg_graph **out) { return zg_pass_lower_half(g, ZG_F16, true, out); }
static zg_status lower_half(zg_pipeline *p) {
  if (p->o.bf16) return each_graph(p, p->o.half_convs ? convs_to_bf16 : to_bf16);
  return p->o.fp16 ? each_graph(p, p->o.half_convs ? convs_to_f16 : to_f16) : NULL;
}

// The loss takes the place of the model's outputs: nobody reads those of a step, and logits kept to its end would be there twice.
static zg_status attach_loss_to(zg_graph **g, const zg_loss_spec *losses, uint32_t n) {
  zg_graph *with, *alone;
  ZG_TRY(zg_pass_attach_loss(*g, losses, n, &with));
  zg_status s = zg__copy_graph(with, false, &alone);
  zg_graph_free(with);
  if (!s) replace(g, alone);
  return s;
}

static zg_status attach_loss(zg_pipeline *p) {
  ZG_TRY(attach_loss_to(&p->main, p->o.losses, p->o.n_losses));
  if (!p->eval) return NULL;
  zg_loss_spec specs[16];
  if (p->o.n_losses > ZG_COUNT(specs)) return zg_error(ZG_INVALID, "loss: at most %zu losses can be summed", ZG_COUNT(specs));
  for (uint32_t i = 0; i < p->o.n_losses; i++) {
    specs[i] = p->o.losses[i];
    specs[i].accuracy = i == 0;
    specs[i].labels_known = false;   // its batches may be of another size; the prediction says which
  }
  return attach_loss_to(&p->eval, specs, p->o.n_losses);
}

double zg__loss_seed(const zg_pipeline *p) {
  const int64_t ranks = p->o.spread.self ? p->o.spread.ranks : 1;
  return 1.0 / (double)(p->o.micro_steps * ranks);
}

static zg_status chunk_loss(zg_graph **g, int64_t rows, double seed) {
  zg_graph *r;
  ZG_TRY(zg_pass_opt_loss_chunk(*g, rows, seed, &r));
  replace(g, r);
  return NULL;
}

static zg_status opt_loss_chunk(zg_pipeline *p) {
  ZG_TRY(zg__choose_loss_chunk(p));
  const int64_t rows = p->loss_chunk.rows;
  if (!rows) return NULL;
  ZG_TRY(chunk_loss(&p->main, rows, zg__loss_seed(p)));
  return p->eval ? chunk_loss(&p->eval, rows, 1) : NULL;
}

static zg_status lower_autodiff(zg_pipeline *p) {
  zg_autodiff_options o = {.seed = zg__loss_seed(p), .params = true, .scaled = p->o.optimizer.scaled};
  zg_graph *r;
  ZG_TRY(zg_pass_lower_autodiff(p->main, &o, &r));
  replace(&p->main, r);
  return NULL;
}

static zg_status opt_channels_last(zg_pipeline *p) { return p->o.channels_last ? each_graph(p, zg_pass_opt_channels_last) : NULL; }
static zg_status lower_cells(zg_pipeline *p) { return p->o.unroll_cells ? each_graph(p, zg_pass_lower_cells) : NULL; }

static zg_status zero_split(zg_pipeline *p) { return p->o.spread.self ? p->o.spread.split(p->o.spread.self, p) : NULL; }

static zg_status split_accumulate(zg_pipeline *p) {
  if (p->o.micro_steps <= 1 || p->update) return NULL;
  zg_graph *micro, *update;
  ZG_TRY(zg_pass_split_accumulate(p->main, &micro, &update));
  replace(&p->main, micro);
  replace(&p->update, update);
  return NULL;
}

static zg_status attach_optimizer(zg_pipeline *p) {
  zg_graph **g = p->update ? &p->update : &p->main, *r;
  ZG_TRY(zg_pass_attach_optimizer(*g, &p->o.optimizer, &r));
  replace(g, r);
  return NULL;
}

// norm and update are two graphs, for collectives go between them, and one segment.
static zg_status lower_update(zg_pipeline *p) {
  if (p->norm) ZG_TRY(zg_lower_graph(p->sched, p->norm, "update"));
  ZG_TRY(zg_lower_graph(p->sched, p->update, "update"));
  if (!p->norm) return NULL;
  zg_segment *first = &p->sched->segments.at[p->sched->segments.n - 2];
  first->n += first[1].n;
  p->sched->segments.n--;
  return NULL;
}

// The evaluation set may come in other batches than the training set: its graph gets inputs of its own.
static zg_status own_inputs(const zg_graph *g, zg_graph **out) {
  zg_builder *b = zg_builder_new();
  zg_val *map = zg_alloc(sizeof *map * g->values.n);
  for (size_t i = 0; i < g->nodes.n; i++) {
    const zg_node *n = &g->nodes.at[i];
    const char *name = n->op == &zg_op_input ? ((const zg_input_attr *)n->attr)->name : NULL;
    if (name && name[0] != '@')
      map[n->out] = zg_b_input(b, zg_arena_printf(zg_builder_arena(b), "eval:%s", name), zg_type_of(g, zg_out(n, 0)));
    else
      zg_emit_copy(b, g, n, map);
  }
  for (size_t i = 0; i < g->outputs.n; i++) {
    const zg_output *o = &g->outputs.at[i];
    zg_builder_output(b, o->kind, o->name, map[o->val.id], map[o->target.id]);
  }
  zg_builder_props(b, g->props);
  zg_free(map);
  return zg_builder_finish(b, out);
}

static zg_status lower_eval(zg_pipeline *p) {
  zg_graph *r;
  ZG_TRY(own_inputs(p->eval, &r));
  replace(&p->eval, r);
  return zg_lower_graph(p->sched, p->eval, "eval");
}

static zg_status opt_recompute(zg_pipeline *p) {
  ZG_TRY(zg__choose_recompute(p));
  const zg_recompute *how = &p->recompute.how;
  if (!how->cheap && !how->blocks) return NULL;
  zg_graph *r;
  ZG_TRY(zg_pass_opt_recompute(p->main, how, &r));
  replace(&p->main, r);
  return NULL;
}

static zg_status lower(zg_pipeline *p) {
  static const char *const names[] = {"forward", "grad", "step"};
  p->sched = zg_sched_new();
  ZG_TRY(zg_lower_graph(p->sched, p->main, p->update ? "micro" : names[p->o.mode]));
  if (p->o.spread.self && p->o.spread.two_micros) ZG_TRY(zg_lower_graph(p->sched, p->main, "micro_last"));
  if (p->update) ZG_TRY(lower_update(p));
  return p->eval ? lower_eval(p) : NULL;
}

static zg_status spread(zg_pipeline *p, zg_status (*f)(void *self, zg_sched *s)) {
  return p->o.spread.self ? f(p->o.spread.self, p->sched) : NULL;
}
static zg_status zero_partition(zg_pipeline *p) { return spread(p, p->o.spread.partition); }
static zg_status zero_reduce(zg_pipeline *p) { return spread(p, p->o.spread.reduce); }
static zg_status zero_gather(zg_pipeline *p) { return spread(p, p->o.spread.gather); }
static zg_status zero_offload(zg_pipeline *p) { return spread(p, p->o.spread.offload); }
static zg_status zero_overlap(zg_pipeline *p) { return spread(p, p->o.spread.overlap); }

static zg_status add_workspaces(zg_pipeline *p) { return p->o.add_workspaces ? p->o.add_workspaces(p->o.device, p->sched) : NULL; }
static zg_status plan_memory(zg_pipeline *p) { return zg_pass_plan_memory(p->sched); }

static zg_status check_budget(zg_pipeline *p) {
  uint64_t need = p->sched->arena_bytes[ZG_SPACE_DEVICE];
  if (!p->o.budget || need <= p->o.budget) return NULL;
  return zg_error(ZG_OUT_OF_MEMORY, "memory.budget is %.1f MiB and the step needs %.1f MiB (%llu bytes); memory.recompute: auto lowers it, as "
                  "do a smaller batch with more accumulation, a higher zero.stage, more ranks", (double)p->o.budget / 0x1p20,
                  (double)need / 0x1p20, (unsigned long long)need);
}

static const pass pipeline[] = {
    // name             IR     optional needs                          gives            from
    {"opt_simplify",     false, true,  0,                               0,               ZG_RUN_FORWARD, opt_simplify},
    {"opt_layer_norm",   false, true,  0,                               0,               ZG_RUN_FORWARD, opt_layer_norm},
    {"opt_rms_norm",     false, true,  0,                               0,               ZG_RUN_FORWARD, opt_rms_norm},
    {"opt_rotary",       false, true,  0,                               0,               ZG_RUN_FORWARD, opt_rotary},
    {"opt_attention",    false, true,  0,                               0,               ZG_RUN_FORWARD, opt_attention},
    {"lower_cells",      false, false, 0,                               0,               ZG_RUN_FORWARD, lower_cells},
    {"attach_loss",      false, false, 0,                               ZG_PROP_LOSS,    ZG_RUN_GRAD,    attach_loss},
    {"opt_loss_chunk",   false, true,  ZG_PROP_LOSS,                    ZG_PROP_LOSS,    ZG_RUN_GRAD,    opt_loss_chunk},
    {"lower_autodiff",   false, false, ZG_PROP_LOSS,                    ZG_PROP_GRADS,   ZG_RUN_GRAD,    lower_autodiff},
    {"zero_split",       false, false, ZG_PROP_GRADS,                   0,               ZG_RUN_TRAIN,   zero_split},
    {"split_accumulate", false, false, 0,                               0,               ZG_RUN_TRAIN,   split_accumulate},
    {"attach_optimizer", false, false, 0,                               0,               ZG_RUN_TRAIN,   attach_optimizer},
    {"lower_to_core",    false, false, 0,                               ZG_PROP_CORE,    ZG_RUN_FORWARD, lower_to_core},
    {"opt_simplify_core", false, true, ZG_PROP_CORE,                    ZG_PROP_CORE,    ZG_RUN_FORWARD, opt_simplify},
    {"opt_channels_last", false, true, ZG_PROP_CORE,                    ZG_PROP_CORE,    ZG_RUN_FORWARD, opt_channels_last},
    {"opt_merge_products", false, true, ZG_PROP_CORE,                   ZG_PROP_CORE,    ZG_RUN_FORWARD, opt_merge_products},
    {"lower_half",       false, false, ZG_PROP_CORE,                    ZG_PROP_CORE,    ZG_RUN_FORWARD, lower_half},
    {"opt_recompute",    false, true,  ZG_PROP_CORE,                    ZG_PROP_CORE,    ZG_RUN_GRAD,    opt_recompute},
    {"lower",            true,  false, ZG_PROP_CORE,                    0,               ZG_RUN_FORWARD, lower},
    {"zero_partition",   true,  false, 0,                               0,               ZG_RUN_TRAIN,   zero_partition},
    {"zero_reduce",      true,  false, 0,                               0,               ZG_RUN_TRAIN,   zero_reduce},
    {"zero_gather",      true,  false, 0,                               0,               ZG_RUN_TRAIN,   zero_gather},
    {"zero_offload",     true,  false, 0,                               0,               ZG_RUN_TRAIN,   zero_offload},
    {"zero_overlap",     true,  false, 0,                               0,               ZG_RUN_TRAIN,   zero_overlap},
    {"add_workspaces",   true,  false, 0,                               0,               ZG_RUN_FORWARD, add_workspaces},
    {"plan_memory",      true,  false, 0,                               0,               ZG_RUN_FORWARD, plan_memory},
    {"check_budget",     true,  false, 0,                               0,               ZG_RUN_FORWARD, check_budget},
};

static bool listed(const char *env, const char *name) {
  const char *list = getenv(env);
  if (!list) return false;
  if (!strcmp(list, "all")) return true;
  size_t n = strlen(name);
  for (const char *at = strstr(list, name); at; at = strstr(at + 1, name))
    if ((at == list || at[-1] == ',') && (at[n] == ',' || !at[n])) return true;
  return false;
}

zg_status zg__pipeline_try(const zg_pipeline *p, const char *after, zg_pipeline *q, bool place) {
  zg_status status = NULL;
  zg_graph *const from[] = {p->main, p->norm, p->update, p->eval}, **const to[] = {&q->main, &q->norm, &q->update, &q->eval};
  for (size_t i = 0; i < ZG_COUNT(from); i++)
    if (from[i] && !*to[i]) ZG_TRY_OUT(zg__copy_graph(from[i], true, to[i]));
  q->o = p->o;
  bool behind = false;
  for (size_t i = 0; i < ZG_COUNT(pipeline); i++) {
    const pass *x = &pipeline[i];
    const bool chooses = x->run == opt_loss_chunk || x->run == opt_recompute || x->run == check_budget;
    if (!behind) {
      behind = !strcmp(x->name, after);
    } else if (x->run == plan_memory && !place) {
      zg_sched_bound_memory(q->sched);
    } else if (!chooses && q->o.mode >= x->from && !(x->optional && listed("ZG_SKIP", x->name))) {
      ZG_TRY_OUT(x->run(q));
    }
  }
out:
  return status;
}

// ---- the runner ---------------------------------------------------------------------------------------------------

const char *const *zg_pipeline_pass_names(void) {
  static const char *names[ZG_COUNT(pipeline) + 1];
  for (size_t i = 0; i < ZG_COUNT(pipeline); i++) names[i] = pipeline[i].name;
  return names;
}

static zg_status verify(const zg_pipeline *p, bool on_sched, bool planned) {
  if (on_sched) return planned ? zg_sched_verify(p->sched) : NULL;
  const zg_graph *all[] = {p->main, p->norm, p->update, p->eval};
  for (size_t i = 0; i < ZG_COUNT(all); i++)
    if (all[i]) ZG_TRY(zg_graph_verify(all[i]));
  return NULL;
}

static zg_status run_pass(zg_pipeline *p, const pass *x) {
  if (x->needs & ~p->main->props) return zg_error(ZG_INTERNAL, "pass %s: what it requires has not been established", x->name);
  double t = zg_time_s();
  ZG_TRY(x->run(p));
  double ran = zg_time_s() - t;
  zg_status s = verify(p, x->on_sched, x->run == plan_memory);
  if (s) return zg_status_prefix(s, "after pass %s: ", x->name);
  zg_log(2, "pass %-18s %7.1f ms, verified in %.1f ms, %zu nodes", x->name, ran * 1e3, (zg_time_s() - t - ran) * 1e3, p->main->nodes.n);
  p->stopped_at = x->name;
  if (listed("ZG_DUMP", x->name)) {
    zg_str text = {0};
    zg_pipeline_print(p, &text);
    fprintf(stderr, "; after %s\n%s", x->name, text.at);
    zg_str_fini(&text);
  }
  return NULL;
}

zg_status zg_pipeline_run(const zg_graph *g, const zg_pipeline_options *o, zg_pipeline *out) {
  zg_status status = NULL;
  *out = (zg_pipeline){.o = *o};
  bool found = !o->stop_after || !strcmp(o->stop_after, "import");
  for (size_t i = 0; i < ZG_COUNT(pipeline); i++) found = found || !strcmp(pipeline[i].name, o->stop_after);
  if (!found) {
    const char *near = zg_nearest(o->stop_after, zg_pipeline_pass_names(), ZG_COUNT(pipeline));
    return zg_error(ZG_INVALID, "no pass is called \"%s\"%s%s%s", o->stop_after, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
  }
  ZG_TRY_OUT(zg__copy_graph(g, true, &out->main));
  if (o->eval && o->mode == ZG_RUN_TRAIN) ZG_TRY_OUT(zg__copy_graph(o->eval, true, &out->eval));
  out->stopped_at = "import";
  for (size_t i = 0; i < ZG_COUNT(pipeline) && !(o->stop_after && !strcmp(o->stop_after, out->stopped_at)); i++) {
    const pass *x = &pipeline[i];
    if (o->mode < x->from || (x->optional && listed("ZG_SKIP", x->name))) continue;
    ZG_TRY_OUT(run_pass(out, x));
  }
out:
  if (status) zg_pipeline_fini(out);
  return status;
}

void zg_pipeline_fini(zg_pipeline *p) {
  zg_graph_free(p->main);
  zg_graph_free(p->norm);
  zg_graph_free(p->update);
  zg_graph_free(p->eval);
  zg_sched_free(p->sched);
  *p = (zg_pipeline){0};
}

void zg_pipeline_print(const zg_pipeline *p, zg_str *out) {
  if (p->sched) {
    zg_sched_print(p->sched, out);
    return;
  }
  zg_graph_print(p->main, out);
  if (p->norm) zg_graph_print(p->norm, out);
  if (p->update) zg_graph_print(p->update, out);
  if (p->eval) zg_graph_print(p->eval, out);
}
