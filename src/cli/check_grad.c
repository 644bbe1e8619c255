// zgraph check-grad: gradients of the user's own model against central differences, in double on the host.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "graph/pass.h"
#include "train/session.h"

typedef struct {
  zg_session *s;
  zg_graph *g;          // loss and gradients, in double
  zg_graph *loss;       // the loss alone
  zg_arena mem;
  zg_tensor *leaf;      // by name, in order of `names`
  zg_map names;
  size_t n;
} checker;

static const char *leaf_name(const zg_node *n) {
  if (n->op == &zg_op_input) return ((const zg_input_attr *)n->attr)->name;
  if (n->op == &zg_op_param) return ((const zg_param_attr *)n->attr)->name;
  return n->op == &zg_op_state ? ((const zg_state_attr *)n->attr)->name : NULL;
}

static zg_tensor leaf_of(void *user, const zg_node *n) {
  const checker *c = user;
  uint64_t i;
  return zg_map_get(&c->names, leaf_name(n), &i) ? c->leaf[i] : (zg_tensor){0};
}

// The graph with the loss as its only output.
static zg_status only_loss(const zg_graph *g, zg_graph **out) {
  zg_builder *b = zg_builder_new();
  zg_val *map = zg_alloc(sizeof *map * g->values.n);
  for (size_t i = 0; i < g->nodes.n; i++) zg_emit_copy(b, g, &g->nodes.at[i], map);
  const zg_output *o = zg_find_output(g, ZG_OUT_LOSS, NULL);
  zg_builder_output(b, ZG_OUT_LOSS, o->name, map[o->val.id], (zg_val){0});
  zg_free(map);
  zg_graph *all = NULL;
  ZG_TRY(zg_builder_finish(b, &all));
  zg_status s = zg_pass_lower_to_core(all, out);
  zg_graph_free(all);
  return s;
}

static zg_status read_leaf(checker *c, const zg_node *n, zg_tensor *t) {
  t->type = *zg_type_of(c->g, zg_out(n, 0));
  t->data = zg_arena_alloc(&c->mem, zg_type_bytes(&t->type) + 8);
  if (n->op == &zg_op_param) {
    const zg_param_attr *a = n->attr;
    const void *bytes;
    ZG_TRY(zg_onnx_tensor_bytes(c->s->model, (uint32_t)a->source, &bytes));
    zg_dtype from = zg_onnx_tensor_at(c->s->model, (uint32_t)a->source)->type.dtype;
    void *aligned = zg_arena_copy(&c->mem, bytes, (size_t)zg_elems(&t->type) * zg_dtype_bytes(from));
    zg_convert(t->type.dtype, t->data, from, aligned, zg_elems(&t->type));
    return NULL;
  }
  for (size_t i = 0; i < c->s->feeds.n; i++) {
    const zg_feed *f = &c->s->feeds.at[i];
    if (strcmp(f->name, leaf_name(n))) continue;
    if (!c->s->inputs) {
      zg_data_dst dst = {(size_t)f->array, t->type.dtype, t->data};
      return zg_data_batch(c->s->train, 0, &dst, 1);
    }
    zg_tensor x;
    int64_t k = zg_npz_find(c->s->inputs, zg_session_array(c->s, f->name));
    ZG_TRY(zg_npz_tensor(c->s->inputs, (size_t)k, &x));
    zg_convert(t->type.dtype, t->data, x.type.dtype, x.data, zg_elems(&t->type));
    return NULL;
  }
  return zg_error(ZG_INVALID, "nothing feeds the input \"%s\"", leaf_name(n));
}

static zg_status read_leaves(checker *c) {
  c->leaf = ZG_NEW_N(&c->mem, zg_tensor, c->g->nodes.n + 1);
  for (size_t i = 0; i < c->g->nodes.n; i++) {
    const zg_node *n = &c->g->nodes.at[i];
    if (!leaf_name(n)) continue;
    ZG_TRY(read_leaf(c, n, &c->leaf[c->n]));
    zg_map_put(&c->names, leaf_name(n), c->n++);
  }
  return NULL;
}

static zg_status loss_at(checker *c, double *out) {
  zg_tensor *v;
  ZG_TRY(zg_graph_eval(c->loss, leaf_of, c, &v));
  *out = zg_get_f64(v[0].type.dtype, v[0].data, 0);
  zg_eval_free(c->loss, v);
  return NULL;
}

static zg_status difference(checker *c, zg_tensor *t, int64_t i, double *out) {
  double x = zg_get_f64(t->type.dtype, t->data, i), h = 1e-5 * fmax(1, fabs(x)), up, down;
  zg_set_f64(t->type.dtype, t->data, i, x + h);
  ZG_TRY(loss_at(c, &up));
  zg_set_f64(t->type.dtype, t->data, i, x - h);
  ZG_TRY(loss_at(c, &down));
  zg_set_f64(t->type.dtype, t->data, i, x);
  *out = (up - down) / (2 * h);
  return NULL;
}

// The element with the largest gradient, then others drawn by Philox.
static int64_t element(const zg_tensor *grad, int k, uint32_t tensor) {
  int64_t n = zg_elems(&grad->type), best = 0;
  const double *g = grad->data;
  for (int64_t i = 1; i < n && k == 0; i++)
    if (fabs(g[i]) > fabs(g[best])) best = i;
  if (k == 0) return best;
  uint32_t counter[4] = {(uint32_t)k, tensor, 0, 0}, key[2] = {0xc4ec, 0}, w[4];
  zg_philox(counter, key, w);
  return (int64_t)(((uint64_t)w[0] << 32 | w[1]) % (uint64_t)n);
}

static double largest(const zg_tensor *t) {
  double m = 0;
  for (int64_t i = 0; i < zg_elems(&t->type); i++) m = fmax(m, fabs(((const double *)t->data)[i]));
  return m;
}

// Gradients that are zero in exact arithmetic (a bias before batch statistics) are rounding noise: what is below this part of
// the largest gradient of all is compared on that scale.
static const double NOISE = 1e-4;

static zg_status check_all(checker *c, int samples, double tolerance, int *bad) {
  zg_tensor *v;
  uint32_t at = 0;
  double most = 0;
  zg_status status = NULL;
  ZG_TRY(zg_graph_eval(c->g, leaf_of, c, &v));
  for (size_t o = 0; o < c->g->outputs.n; o++)
    if (c->g->outputs.at[o].kind == ZG_OUT_GRAD) most = fmax(most, largest(&v[o]));
  printf("%-44s %12s %14s %14s %9s\n", "tensor", "element", "gradient", "difference", "error");
  for (size_t o = 0; o < c->g->outputs.n; o++) {
    const zg_output *x = &c->g->outputs.at[o];
    uint64_t leaf;
    if (x->kind != ZG_OUT_GRAD || !zg_map_get(&c->names, x->name, &leaf) || zg_elems(&v[o].type) == 0) continue;
    double worst = -1, worst_g = 0, worst_d = 0, scale = fmax(largest(&v[o]), NOISE * most);
    int64_t worst_i = 0;
    for (int k = 0; k < samples; k++) {
      int64_t i = element(&v[o], k, at);
      double d, g = ((double *)v[o].data)[i];
      ZG_TRY_OUT(difference(c, &c->leaf[leaf], i, &d));
      double e = fabs(g - d) / fmax(scale, 1e-12);
      if (e > worst) worst = e, worst_g = g, worst_d = d, worst_i = i;
    }
    bool wrong = !(worst <= tolerance);
    *bad += wrong;
    at++;
    printf("%-44s %12lld %14.6e %14.6e %9.1e%s\n", x->name, (long long)worst_i, worst_g, worst_d, worst, wrong ? "  WRONG" : "");
  }
out:
  zg_eval_free(c->g, v);
  return status;
}

static zg_status make_graphs(checker *c) {
  zg_graph *core = NULL;
  zg_status status = NULL;
  ZG_TRY(zg_pass_lower_to_core(c->s->pipe.main, &core));
  ZG_TRY_OUT(zg_pass_widen(core, &c->g));
  ZG_TRY_OUT(only_loss(c->g, &c->loss));
out:
  zg_graph_free(core);
  return status;
}

static zg_status run(int argc, char **argv) {
  zg_cli_config files = {0};
  zg_cli_list rest = {0};
  zg_session_options o = {.mode = ZG_RUN_GRAD, .no_device = true, .stop_after = "lower_autodiff"};
  const char *samples = "3", *tolerance = "1e-5";
  zg_config *cfg = NULL;
  checker c = {0};
  int bad = 0;
  zg_status status = NULL;
  const zg_cli_option options[] = {ZG_CLI_CONFIG(files), {"inputs", .text = &o.inputs_path}, {"samples", .text = &samples},
                                   {"tolerance", .text = &tolerance}};
  ZG_TRY(zg_cli_parse(argc, argv, options, ZG_COUNT(options), &rest));
  if (rest.n) ZG_TRY(zg_cli_one(&rest, "model", &o.model_path));
  int n = atoi(samples);
  if (n < 1) return zg_error(ZG_INVALID, "--samples is a positive number, not \"%s\"", samples);
  ZG_TRY_OUT(zg_cli_load(&files, &cfg));
  ZG_TRY_OUT(zg_session_open(cfg, &o, &c.s));
  if (!c.s->inputs && !c.s->train) {
    status = zg_error(ZG_INVALID, "no batch to check with: give --inputs BATCH.npz, or data.train in the configuration");
    goto out;
  }
  ZG_TRY_OUT(make_graphs(&c));
  ZG_TRY_OUT(read_leaves(&c));
  ZG_TRY_OUT(check_all(&c, n, strtod(tolerance, NULL), &bad));
  if (bad) status = zg_error(ZG_INTERNAL, "%d tensors have gradients that differ from finite differences by more than %s", bad, tolerance);
out:
  zg_graph_free(c.g);
  zg_graph_free(c.loss);
  zg_map_fini(&c.names);
  zg_arena_fini(&c.mem);
  zg_session_close(c.s);
  zg_config_free(cfg);
  return status;
}

const zg_verb zg_verb_check_grad = {
    "check-grad", "check gradients against finite differences",
    "usage: zgraph check-grad MODEL.onnx --config FILE [--inputs BATCH.npz] [--samples N] [--tolerance T]\n\n"
    "Evaluates loss and gradients in double on the host, and for every trainable tensor compares the element of largest\n"
    "gradient and N-1 others with central differences. The error is relative to the tensor's largest gradient (or to\n"
    "1e-4 of the largest of all, if that is more). Slow by design:\n"
    "use a small batch. Exit status 1 if a tensor is off by more than T (default 1e-5).\n\n"
    "example:\n"
    "  zgraph check-grad model.onnx --config run.yaml --set data.train.batch_size=2\n",
    run};
