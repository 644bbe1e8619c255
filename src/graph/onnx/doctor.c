// The export doctor: what exporters do to a model on the assumption that it will only be run. Each check looks at the file and at
// the decisions of the last import and writes findings: the tensors by name, what it does to training, and the remedy. `zgraph
// inspect` prints them; docs/export.md explains them. A check is a row of the table at the end.
//
// What cannot be seen is not guessed at: a model without Dropout looks like one whose Dropout was dropped, so that finding says
// "if". Checks that compare values touch the weights of candidates of equal size alone.
#include "graph/onnx/onnx_priv.h"

enum { SHOWN = 4, SAMPLES = 16, MIN_MATRIX = 16 };
typedef struct {
  zg_onnx_model *m;
  const Onnx__GraphProto *g;
  zg_arena *mem;
  zg_onnx_findings *out;
  zg_map inits;      // name of an initializer -> index
  zg_map counts;     // op type -> nodes of the main graph
} doctor;

static void add(doctor *d, const char *kind, const char *what, const char *effect, const char *remedy) {
  zg_vec_push(d->out, (zg_onnx_finding){kind, what, effect, remedy});
}

// ---- lists of names -----------------------------------------------------------------------------------------------

typedef struct { zg_str text; uint32_t n; } names;

static void put(names *l, const char *name) {
  if (l->n < SHOWN) zg_str_add(&l->text, "%s\"%s\"", l->n ? ", " : "", name);
  l->n++;
}

// Adds "3 tensors: "a", "b", "c"" where there are any; frees the list.
static void add_list(doctor *d, names *l, const char *kind, const char *one, const char *many, const char *effect, const char *remedy) {
  if (l->n == 0) return;
  add(d, kind, zg_arena_printf(d->mem, "%u %s: %s%s", l->n, l->n == 1 ? one : many, l->text.at, l->n > SHOWN ? ", ..." : ""), effect, remedy);
  zg_str_fini(&l->text);
}

static bool is_op(const Onnx__NodeProto *n, const char *op) { return !strcmp(zg__str(n->op_type), op) && !*zg__domain(n->domain); }

static uint64_t count(const doctor *d, const char *op) {
  uint64_t n = 0;
  zg_map_get(&d->counts, op, &n);
  return n;
}

static zg_onnx_verdict verdict(const doctor *d, uint32_t i) {
  zg_onnx_decision x;
  return zg_onnx_decided(d->m, i, &x) ? x.verdict : ZG_DECIDED_UNREAD;
}

static bool is_initializer(const doctor *d, const char *name) { return zg_map_get(&d->inits, zg__str(name), NULL); }

static const Onnx__NodeProto *maker(const doctor *d, const char *name) {
  for (size_t i = 0; i < d->g->n_node; i++)
    for (size_t k = 0; k < d->g->node[i]->n_output; k++)
      if (!strcmp(zg__str(d->g->node[i]->output[k]), name)) return d->g->node[i];
  return NULL;
}

// ---- parameters ---------------------------------------------------------------------------------------------------

static void found_merged(void *user, uint32_t tensor, uint32_t n_groups, uint32_t n_readers, const Onnx__NodeProto *first) {
  doctor *d = user;
  add(d, "merged parameters",
      zg_arena_printf(d->mem, "\"%s\" is read as gain or bias by %u nodes, the first \"%s\": %u parameters of equal values were made one",
                      d->m->tensors.at[tensor].info.name, n_readers, zg__label(first), n_groups),
      "they stay equal, and each step moves them by the sum of their gradients", "untie: auto; or export with the optimiser off");
}

static void check_merged(doctor *d) { zg__each_merged(d->m, found_merged, d); }

// Sampled elements agree, as they are or transposed: worth a comparison of all.
static bool may_be_copies(const zg__tensor *a, const void *x, const zg__tensor *b, const void *y) {
  const zg_type *t = &a->info.type, *u = &b->info.type;
  const int64_t n = zg_elems(t), rows = t->dim[0], columns = t->dim[1], size = (int64_t)zg_dtype_bytes(t->dtype);
  bool same = zg_same_shape(t, u), turned = rows == u->dim[1] && columns == u->dim[0], uniform = true;
  for (int64_t k = 0; k < SAMPLES; k++) {
    const int64_t i = k * (n - 1) / (SAMPLES - 1), j = i % columns * rows + i / columns;
    const char *at = (const char *)x + i * size;
    same = same && !memcmp(at, (const char *)y + i * size, (size_t)size);
    turned = turned && !memcmp(at, (const char *)y + j * size, (size_t)size);
    uniform = uniform && !memcmp(at, x, (size_t)size);
  }
  return !uniform && (same || turned);
}

static bool is_matrix(const doctor *d, uint32_t i) {
  const zg__tensor *t = &d->m->tensors.at[i];
  return t->home == ZG__IN_GRAPH && !t->sparse && zg_dtype_is_float(t->info.type.dtype) && t->info.type.rank == 2 &&
         zg_elems(&t->info.type) >= MIN_MATRIX && verdict(d, i) == ZG_DECIDED_TRAINABLE;
}

static void compare_matrices(doctor *d, uint32_t i, uint32_t k) {
  const zg__tensor *a = &d->m->tensors.at[i], *b = &d->m->tensors.at[k];
  const void *x, *y;
  bool transposed;
  if (a->info.type.dtype != b->info.type.dtype || zg_elems(&a->info.type) != zg_elems(&b->info.type)) return;
  zg_status s = zg_onnx_tensor_bytes(d->m, i, &x);
  if (!s) s = zg_onnx_tensor_bytes(d->m, k, &y);
  const bool likely = !s && may_be_copies(a, x, b, y);
  zg_status_free(s);
  if (!likely || !zg__same_or_transposed(d->m, i, k, &transposed)) return;
  add(d, "broken tie", zg_arena_printf(d->mem, "\"%s\" is a%s copy of \"%s\"", b->info.name, transposed ? " transposed" : "", a->info.name),
      "a tied weight (embedding and head) was split: the two drift apart, and there are more parameters than the model has",
      zg_arena_printf(d->mem, "ties: [[%s, %s]]; or export with the optimiser off", a->info.name, b->info.name));
}

static void check_broken_ties(doctor *d) {
  for (uint32_t i = 0; i < d->m->tensors.n; i++)
    for (uint32_t k = i + 1; is_matrix(d, i) && k < d->m->tensors.n; k++)
      if (is_matrix(d, k)) compare_matrices(d, i, k);
}

// val_152, onnx::MatMul_42, 317, const_fold_opt__9: names that an exporter made up.
static bool is_made_up(const char *name) {
  static const char *const heads[] = {"val_", "onnx::", "const_fold_opt_", "_val_", "constant_", "p_lifted_"};
  if (name[strspn(name, "0123456789")] == 0) return true;
  for (size_t i = 0; i < ZG_COUNT(heads); i++)
    if (!strncmp(name, heads[i], strlen(heads[i]))) return true;
  return false;
}

static bool is_renamed(const zg__tensor *t) { return t->home == ZG__IN_GRAPH && is_made_up(t->info.name); }
static bool is_in_node(const zg__tensor *t) { return t->info.is_constant_node; }
static bool is_half(const zg__tensor *t) { return t->info.type.dtype == ZG_F16 || t->info.type.dtype == ZG_BF16; }

static names trained(const doctor *d, bool (*is)(const zg__tensor *)) {
  names l = {0};
  for (uint32_t i = 0; i < d->m->tensors.n; i++)
    if (verdict(d, i) == ZG_DECIDED_TRAINABLE && is(&d->m->tensors.at[i])) put(&l, d->m->tensors.at[i].info.name);
  return l;
}

static void check_renamed(doctor *d) {
  names l = trained(d, is_renamed);
  add_list(d, &l, "renamed parameters", "trained tensor with a made-up name", "trained tensors with made-up names",
           "globs of frozen, trainable and optimizer.groups that follow the framework's names miss them (weight decay on a bias, say)",
           "name them as the list does; or export with the optimiser off (PyTorch: optimize=False, TorchScript: do_constant_folding=False)");
}

static void check_constants(doctor *d) {
  names l = trained(d, is_in_node);
  add_list(d, &l, "weights in nodes", "weight is the result of a Constant or ConstantOfShape node",
           "weights are results of Constant or ConstantOfShape nodes",
           "trained by rule, since they stand where weights do; in the trained model those of ConstantOfShape are initializers",
           "frozen: [NAME] where one is no weight");
}

static void check_by_reason(doctor *d, zg_onnx_verdict v, const char *part, const char *kind, const char *one, const char *many,
                            const char *effect, const char *remedy) {
  names l = {0};
  zg_onnx_decision x;
  for (uint32_t i = 0; i < d->m->tensors.n; i++)
    if (zg_dtype_is_float(d->m->tensors.at[i].info.type.dtype) && zg_onnx_decided(d->m, i, &x) && x.verdict == v && strstr(x.reason, part))
      put(&l, d->m->tensors.at[i].info.name);
  add_list(d, &l, kind, one, many, effect, remedy);
}

static void check_tables(doctor *d) {
  static const char *const parts[] = {"rotary positions", "frequencies", "for all heads alike"};
  for (size_t i = 0; i < ZG_COUNT(parts); i++)
    check_by_reason(d, ZG_DECIDED_FROZEN, parts[i], "tables of positions and masks", "float tensor is a table, not a weight",
                    "float tensors are tables, not weights",
                    "left alone, by rule", "trainable: [NAME] where one is learned after all");
}

static void check_unreached(doctor *d) {
  check_by_reason(d, ZG_DECIDED_FROZEN, "reaches no output", "no gradient", "tensor reaches no output through differentiable ops",
                  "tensors reach no output through differentiable ops", "not trained",
                  "export the model so that its loss depends on them, or ignore it");
  check_by_reason(d, ZG_DECIDED_UNREAD, "", "unread tensors", "tensor is read by nothing that an output needs",
                  "tensors are read by nothing that an output needs", "not trained; they stay in the file", "none is needed");
}

static void check_half(doctor *d) {
  names l = trained(d, is_half);
  add_list(d, &l, "half-precision weights", "trained tensor is stored in 16 bits", "trained tensors are stored in 16 bits",
           "trained with a float32 copy each, rounded to 16 bits after every update: steps smaller than that rounding show in the copy alone",
           "export in float32 and set mixed_precision: bf16");
}

static void check_quantised(doctor *d) {
  names l = {0};
  for (size_t i = 0; i < d->g->n_node; i++) {
    const Onnx__NodeProto *n = d->g->node[i];
    const bool reads = is_op(n, "DequantizeLinear") || strstr(zg__str(n->op_type), "MatMulNBits");
    if (reads && n->n_input && is_initializer(d, n->input[0])) put(&l, n->input[0]);
  }
  add_list(d, &l, "quantised weights", "weight is stored in integers", "weights are stored in integers",
           "integers have no gradient: these weights cannot be trained",
           "export the float model, train it, quantise the result");
}

// ---- layers -------------------------------------------------------------------------------------------------------

// Do both names belong to one module: the same up to the last separator?
static bool one_module(const char *a, const char *b) {
  size_t same = 0, last = 0;
  for (; a[same] && a[same] == b[same]; same++)
    if (strchr("./_", a[same])) last = same + 1;
  return last > 0 && strcspn(a + last, "./") == strlen(a + last) && strcspn(b + last, "./") == strlen(b + last);
}

// What the exporter wrote beside node n under `key`, "" if nothing.
static const char *note_of(const Onnx__NodeProto *n, const char *key) {
  for (size_t i = 0; i < n->n_metadata_props; i++)
    if (!strcmp(zg__str(n->metadata_props[i]->key), key)) return zg__str(n->metadata_props[i]->value);
  return "";
}

// Did PyTorch's optimiser apply that rule to n? It writes down which it applied.
static bool is_rewritten(const Onnx__NodeProto *n, const char *rule) {
  return strstr(note_of(n, "pkg.onnxscript.rewriter.rule_name"), rule) != NULL;
}

// The rule also takes off biases that the exporter itself gave to layers without; PyTorch's call tells.
static bool lost_its_bias(const Onnx__NodeProto *n) {
  return is_rewritten(n, "RemoveOptionalBias") && !is_rewritten(n, "FuseBatchNorm") && strstr(note_of(n, "pkg.torch.onnx.fx_node"), "bias");
}

static void check_folded_norms(doctor *d) {
  names l = {0};
  if (count(d, "BatchNormalization")) return;
  for (size_t i = 0; i < d->g->n_node; i++) {
    const Onnx__NodeProto *n = d->g->node[i];
    const bool foreign_bias = is_op(n, "Conv") && n->n_input > 2 && is_initializer(d, n->input[1]) && is_initializer(d, n->input[2]) &&
                              (is_made_up(n->input[2]) || !one_module(n->input[1], n->input[2]));
    if (foreign_bias || is_rewritten(n, "FuseBatchNorm")) put(&l, zg__label(n));
  }
  add_list(d, &l, "folded BatchNormalization", "node holds a norm that followed it, and the file has no BatchNormalization",
           "nodes hold norms that followed them, and the file has no BatchNormalization",
           "norms folded into the weights before them are gone: nothing normalises while training, and larger learning rates diverge",
           "export with the optimiser off (PyTorch: model.train(), optimize=False; TorchScript: training=TrainingMode.TRAINING)");
}

static void check_batch_norm(doctor *d) {
  names l = {0};
  for (size_t i = 0; i < d->g->n_node; i++)
    if (is_op(d->g->node[i], "BatchNormalization")) put(&l, zg__label(d->g->node[i]));
  add_list(d, &l, "BatchNormalization", "node", "nodes",
           "normalises with the batch's statistics while training; the running ones are updated and written into the trained model",
           "batch_norm: frozen to keep the statistics of the file");
}

static bool is_active(const doctor *d, const Onnx__NodeProto *n) {   // a Dropout that drops something when the graph is run as it is
  if (zg_onnx_opset(d->m) < 12) return true;
  return n->n_input > 2 && *zg__str(n->input[2]) != 0;
}

static void check_dropout(doctor *d) {
  names idle = {0};
  for (size_t i = 0; i < d->g->n_node; i++)
    if (is_op(d->g->node[i], "Dropout") && !is_active(d, d->g->node[i])) put(&idle, zg__label(d->g->node[i]));
  add_list(d, &idle, "idle Dropout", "node was exported for inference", "nodes were exported for inference",
           "dropout: graph leaves it off",
           "dropout: RATIO makes every Dropout active; or export in train mode");
  if (!count(d, "Dropout") && count(d, "MatMul") + count(d, "Gemm") + count(d, "Conv") >= 2)
    add(d, "no Dropout", "the file has no Dropout", "none, if the model has none; if it has, it was exported in eval mode and trains without",
        "export in train mode");
}

// Optimisers leave out the addition of a bias that is all zero: tf2onnx always, PyTorch's where it has merged fresh gains too.
static void check_biases(doctor *d) {
  names l = {0};
  zg_map biased = {0};
  bool optimised = strstr(zg_onnx_producer(d->m), "tf2onnx") != NULL;
  for (size_t i = 0; i < d->out->n; i++) optimised = optimised || !strcmp(d->out->at[i].kind, "merged parameters");
  for (size_t i = 0; i < d->g->n_node; i++)
    for (size_t k = 0; is_op(d->g->node[i], "Add") && k < d->g->node[i]->n_input; k++) zg_map_put(&biased, zg__str(d->g->node[i]->input[k]), 0);
  for (size_t i = 0; i < d->g->n_node; i++) {
    const Onnx__NodeProto *n = d->g->node[i];
    const bool layer = is_op(n, "MatMul") || (is_op(n, "Conv") && n->n_input < 3) || (is_op(n, "Gemm") && n->n_input < 3);
    const bool bare = layer && n->n_input > 1 && n->n_output && is_initializer(d, n->input[1]) &&
                      !zg_map_get(&biased, zg__str(n->output[0]), NULL);
    if ((optimised && bare) || lost_its_bias(n)) put(&l, zg__label(n));
  }
  zg_map_fini(&biased);
  add_list(d, &l, "missing biases", "layer has no bias", "layers have no bias",
           "the exporter leaves out biases that are all zero, as fresh ones are: if the model has them, they are not trained",
           "export with the optimiser off, or after a training step; in Keras bias_initializer=\"random_normal\" with a small deviation");
}

// ---- signature ----------------------------------------------------------------------------------------------------

static void check_fixed_batch(doctor *d) {
  names l = {0};
  for (size_t i = 0; i < d->m->inputs.n; i++) {
    const zg_signature *s = &d->m->inputs.at[i];
    if (s->known && s->rank && !s->dim[0].symbol) put(&l, s->name);
  }
  add_list(d, &l, "fixed batch size", "input has a number as its first dim", "inputs have numbers as their first dims",
           "data.train.batch_size must be that number; more samples a step need training.gradient_accumulation_steps",
           "export with a symbolic first dim (dynamic_shapes, dynamic_axes)");
}

static void check_outputs(doctor *d) {
  for (size_t i = 0; i < d->g->n_output; i++) {
    const char *name = zg__str(d->g->output[i]->name);
    const Onnx__NodeProto *n = maker(d, name);
    if (n && (is_op(n, "Softmax") || is_op(n, "Sigmoid")))
      add(d, "probabilities", zg_arena_printf(d->mem, "output \"%s\" ends in %s \"%s\"", name, n->op_type, zg__label(n)),
          "a loss that takes logits would apply it twice",
          is_op(n, "Softmax") ? "loss: {kind: cross_entropy, from_probs: true}, which reads the logits before it"
                              : zg_arena_printf(d->mem, "loss: {kind: mse}; or export logits, for bce_with_logits: \"%s\"", zg__str(n->input[0])));
    if (n && (is_op(n, "ArgMax") || is_op(n, "TopK") || is_op(n, "NonMaxSuppression")))
      add(d, "decisions", zg_arena_printf(d->mem, "output \"%s\" is made by %s \"%s\"", name, n->op_type, zg__label(n)),
          "a choice has no gradient: a loss on it trains nothing", "export the scores before it as an output, and take the loss there");
  }
}

static void check_shapes(doctor *d) {
  if (d->m->n_wrong)
    add(d, "wrong shapes", zg_arena_printf(d->mem, "%u declared types are wrong, the first that of %s", d->m->n_wrong, d->m->first_wrong),
        "none: they were inferred anew", "none is needed");
}

// ---- the list -----------------------------------------------------------------------------------------------------

static void (*const checks[])(doctor *) = {
    check_merged,    check_broken_ties, check_renamed,   check_folded_norms, check_batch_norm, check_dropout,     check_biases,  check_constants,
    check_tables,    check_unreached,   check_half,      check_quantised,    check_fixed_batch, check_outputs,    check_shapes,
};

void zg_onnx_examine(zg_onnx_model *m, zg_arena *mem, zg_onnx_findings *out) {
  doctor d = {.m = m, .g = m->proto->graph, .mem = mem, .out = out};
  for (size_t i = 0; i < d.g->n_initializer; i++) zg_map_put(&d.inits, zg__str(d.g->initializer[i]->name), i);
  for (size_t i = 0; i < d.g->n_node; i++) {
    const char *op = zg__str(d.g->node[i]->op_type);
    zg_map_put(&d.counts, op, count(&d, op) + 1);
  }
  for (size_t i = 0; i < ZG_COUNT(checks); i++) checks[i](&d);
  zg_map_fini(&d.inits);
  zg_map_fini(&d.counts);
}
