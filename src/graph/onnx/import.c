// Import: a loaded model becomes a graph. Dims are bound (dims.c), parameters decided (params.c), nodes
// walked (walk.c); here stand the steps in their order, the model's inputs and outputs, and the check of
// declared shapes.
#include "graph/onnx/onnx_priv.h"

static void index_functions(zg__import *im) {
  const Onnx__ModelProto *p = im->m->proto;
  for (size_t i = 0; i < p->n_functions; i++) {
    const Onnx__FunctionProto *f = p->functions[i];
    char *key = zg_arena_printf(&im->mem, "%s\n%s\n%s", zg__domain(f->domain), zg__str(f->name),
                                zg__str(f->overload));
    zg_map_put(&im->functions, key, i);
  }
}

static const Onnx__ValueInfoProto *input_proto(const zg_onnx_model *m, const char *name) {
  const Onnx__GraphProto *g = m->proto->graph;
  for (size_t i = 0; i < g->n_input; i++)
    if (!strcmp(zg__str(g->input[i]->name), name)) return g->input[i];
  return NULL;
}

// The value of an input that the caller knows, or NULL.
static const zg_tensor *known_value(const zg_import_options *o, const char *name) {
  for (uint32_t i = 0; o->input_values && i < o->n_inputs; i++)
    if (o->input_values[i].data && !strcmp(o->input_names[i], name)) return &o->input_values[i];
  return NULL;
}

static bool is_given(const zg_import_options *o, const char *name, zg_type *out) {
  for (uint32_t i = 0; i < o->n_inputs; i++)
    if (!strcmp(o->input_names[i], name)) {
      *out = o->input_types[i];
      return true;
    }
  return false;
}

static zg_val input_value(zg__import *im, const char *name, const zg_type *t) {
  const zg_tensor *known = known_value(im->o, name);
  return known ? zg_b_const_data(im->b, &known->type, known->data) : zg_b_input(im->b, name, t);
}

// A sequence has as many elements as the data give; an optional sequence of none is an empty optional.
static void bind_sequence(zg__import *im, zg__scope *s, const zg_signature *sig) {
  zg_type t;
  uint32_t n = 0;
  while (is_given(im->o, zg_arena_printf(&im->mem, "%s[%u]", sig->name, n), &t)) n++;
  zg_val *at = ZG_NEW_N(&im->mem, zg_val, n + 1);
  for (uint32_t i = 0; i < n; i++) {
    const char *name = zg_arena_printf(&im->mem, "%s[%u]", sig->name, i);
    is_given(im->o, name, &t);
    at[i] = input_value(im, name, &t);
  }
  zg__bind(s, sig->name, n || !sig->optional ? (zg__binding){.kind = ZG__LIST, .list = {n, at}} : (zg__binding){.kind = ZG__NOTHING});
}

// Inputs that some live node or output reads; the others would only have to be fed.
static zg_status make_inputs(zg__import *im, zg__scope *s, const zg_map *reads) {
  for (size_t i = 0; i < im->m->inputs.n; i++) {
    const zg_signature *sig = &im->m->inputs.at[i];
    zg_type t;
    if (!zg_map_get(reads, sig->name, NULL)) {
      zg_log(1, "%s: input \"%s\" is not used", im->m->path, sig->name);
      continue;
    }
    if (sig->sequence) {
      bind_sequence(im, s, sig);
      continue;
    }
    if (sig->optional && !is_given(im->o, sig->name, &t)) {
      zg__bind(s, sig->name, (zg__binding){.kind = ZG__NOTHING});
      continue;
    }
    ZG_TRY(zg__input_type(im, sig, sig->known ? "" : zg__why_unknown(input_proto(im->m, sig->name)), &t));
    zg__bind(s, sig->name, zg__of_val(input_value(im, sig->name, &t)));
  }
  return zg__unbound_dims(im);
}

static void find_reads(const Onnx__GraphProto *g, const uint32_t *order, uint32_t n, zg_map *reads) {
  for (uint32_t i = 0; i < n; i++) zg__add_reads(g->node[order[i]], reads);
  for (size_t i = 0; i < g->n_output; i++) zg_map_put(reads, zg__str(g->output[i]->name), 0);
}

// ---- outputs: a sequence gives NAME[0], NAME[1], ..., an empty optional nothing
// ------------------------------------------------------------------------------------------------------------
static zg_status make_outputs(zg__import *im, zg__scope *s) {
  const Onnx__GraphProto *g = im->m->proto->graph;
  const char *why = NULL;
  uint32_t n_good = 0;
  for (size_t i = 0; i < g->n_output; i++) {
    const char *name = zg__str(g->output[i]->name);
    zg__binding x;
    if (!zg__lookup(s, name, &x)) return zg_error(ZG_INVALID, "output \"%s\" is made by no node", name);
    ZG_TRY(zg__as_value(im, &x));
    const char *bad = x.kind == ZG__POISON ? x.why : NULL;
    if (bad) {
      if (!why) why = bad;
      if (g->n_output > 1) zg_vec_push(&im->warnings, zg_arena_printf(&im->mem, "output \"%s\" is left out: %s", name, bad));
      continue;
    }
    n_good++;
    for (uint32_t k = 0; x.kind == ZG__LIST && k < x.list.n; k++)
      zg_builder_output(im->b, ZG_OUT_VALUE, zg_arena_printf(zg_builder_arena(im->b), "%s[%u]", name, k), x.list.at[k], (zg_val){0});
    if (x.kind == ZG__VALUE)
      zg_builder_output(im->b, ZG_OUT_VALUE, zg_arena_str(zg_builder_arena(im->b), name), x.val, (zg_val){0});
  }
  if (!n_good) return zg_error(ZG_UNSUPPORTED, "%s", why ? why : "the graph has no outputs");
  return NULL;
}

// ---- declared shapes
// ----------------------------------------------------------------------------------------------------
static void check_declared(zg__import *im, const zg__scope *s, const Onnx__ValueInfoProto *v) {
  zg_signature sig;
  zg__binding x;
  const char *name = zg__str(v->name);
  if (!zg__lookup(s, name, &x) || x.kind != ZG__VALUE) return;
  zg_status st = zg__signature(im->m, v, &sig);
  zg_status_free(st);
  if (!sig.known) return;
  const zg_type *t = zg_b_type(im->b, x.val);
  bool wrong = sig.rank != t->rank || sig.dtype != t->dtype;
  for (uint32_t i = 0; !wrong && i < sig.rank; i++)
    wrong = sig.dim[i].value >= 0 && sig.dim[i].value != t->dim[i];
  if (wrong && !im->n_wrong++)
    im->first_wrong = zg_arena_printf(&im->mem, "\"%s\", which is %s", name, zg_type_text(t));
}

static void check_shapes(zg__import *im, const zg__scope *s) {
  const Onnx__GraphProto *g = im->m->proto->graph;
  for (size_t i = 0; i < g->n_output; i++) check_declared(im, s, g->output[i]);
  for (size_t i = 0; i < g->n_value_info; i++) check_declared(im, s, g->value_info[i]);
  if (im->n_wrong)
    zg_vec_push(&im->warnings, zg_arena_printf(&im->mem, "%u declared types are wrong and were inferred anew, the first that of %s",
                                               im->n_wrong, im->first_wrong));
}

// ---- the steps
// ------------------------------------------------------------------------------------------------------------
static zg_status import_graph(zg__import *im) {
  zg_status status = NULL;
  const Onnx__GraphProto *g = im->m->proto->graph;
  zg__frame f = {.opsets = im->m->opsets, .prefix = ""};
  zg__scope s;
  zg_map reads = {0};
  uint32_t *order, n_order;
  const char **wanted = ZG_NEW_N(&im->mem, const char *, g->n_output + 1);
  for (size_t i = 0; i < g->n_output; i++) wanted[i] = zg__str(g->output[i]->name);
  zg__scope_init(&s, NULL, &f);
  ZG_TRY_OUT(zg__order(im, g->node, g->n_node, wanted, g->n_output, &order, &n_order));
  find_reads(g, order, n_order, &reads);
  ZG_TRY_OUT(make_inputs(im, &s, &reads));
  ZG_TRY_OUT(zg__bind_initializers(im, &s, g));
  ZG_TRY_OUT(zg__run_nodes(im, &s, g->node, order, n_order));
  ZG_TRY_OUT(make_outputs(im, &s));
  check_shapes(im, &s);
out:
  zg__scope_fini(&s);
  zg_map_fini(&reads);
  return status;
}

// A second walk where the first graph has told what some tensors are (roles.c).
static zg_status import_twice(zg__import *im, zg_graph **out) {
  for (int again = 0; again < 2; again++) {
    im->b = zg_builder_new();
    im->n_nodes = im->n_wrong = 0;
    im->warnings.n = 0;
    im->leaves = ZG_NEW_N(&im->mem, zg_val, im->m->tensors.n + 1);
    zg_status s = import_graph(im);
    if (!s) {
      s = zg_builder_finish(im->b, out);
      im->b = NULL;
    }
    if (s) return s;
    if (again || !zg__refine_roles(im, *out)) return NULL;
    zg_graph_free(*out);
    *out = NULL;
  }
  return NULL;
}

static void keep_decisions(zg__import *im) {
  zg_onnx_model *m = im->m;
  zg_onnx_decision *d = ZG_NEW_N(&m->mem, zg_onnx_decision, m->tensors.n + 1);
  static const zg_onnx_verdict verdicts[] = {[ZG_ROLE_FROZEN] = ZG_DECIDED_FROZEN, [ZG_ROLE_TRAINABLE] = ZG_DECIDED_TRAINABLE,
                                             [ZG_ROLE_RUNNING] = ZG_DECIDED_RUNNING};
  for (size_t i = 0; i < m->tensors.n; i++) {
    const zg__decision *x = &im->decisions[i];
    d[i].verdict = m->tensors.at[i].tied_to ? ZG_DECIDED_TIED : x->is_const ? ZG_DECIDED_CONSTANT : verdicts[x->role];
    d[i].reason = zg_arena_str(&m->mem, zg__str(x->reason));
    if (zg_is(im->leaves[i]) || d[i].verdict == ZG_DECIDED_CONSTANT || d[i].verdict == ZG_DECIDED_TIED) continue;
    d[i] = (zg_onnx_decision){ZG_DECIDED_UNREAD, "nothing that an output needs reads it"};
  }
  m->n_wrong = im->n_wrong;
  m->first_wrong = im->n_wrong ? zg_arena_str(&m->mem, im->first_wrong) : "";
  m->decided = d;
  m->n_decided = (uint32_t)m->tensors.n;
}

bool zg_onnx_decided(const zg_onnx_model *m, uint32_t i, zg_onnx_decision *out) {
  if (i >= m->n_decided) return false;
  *out = m->decided[i];
  return true;
}

zg_status zg_onnx_import(zg_onnx_model *m, const zg_import_options *o, zg_graph **out) {
  zg_status status = NULL;
  zg__import im = {.m = m, .o = o};
  *out = NULL;
  index_functions(&im);
  ZG_TRY_OUT(zg__bind_dims(&im));
  ZG_TRY_OUT(zg__decide_params(&im));
  ZG_TRY_OUT(import_twice(&im, out));
  keep_decisions(&im);
  for (size_t i = 0; i < im.warnings.n; i++) zg_warn("%s: %s", m->path, im.warnings.at[i]);
out:
  zg_vec_fini(&im.warnings);
  zg_builder_free(im.b);
  zg_map_fini(&im.symbols);
  zg_map_fini(&im.functions);
  zg_arena_fini(&im.mem);
  return zg_status_prefix(status, "%s: ", m->path);
}
