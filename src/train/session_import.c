// Sessions, first half: which array feeds which model input, what the data say of symbolic dimensions, the import itself.
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "train/session_priv.h"

const char *zg_session_array(const zg_session *s, const char *input) {
  for (size_t i = 0; i < s->cfg->data.inputs.n; i++)
    if (!strcmp(s->cfg->data.inputs.at[i].key, input)) return s->cfg->data.inputs.at[i].value;
  return input;
}

// ---- batch size, sequence length ----------------------------------------------------------------------------------

static int64_t dim_from_config(const zg_session *s, const char *symbol) {
  for (size_t i = 0; symbol && i < s->cfg->dims.n; i++)
    if (!strcmp(s->cfg->dims.at[i].key, symbol)) return s->cfg->dims.at[i].value;
  return 0;
}

// Dim d of the first model input of at least d+1 dims: a number in the file, or bound in `dims:`; 0 if it is neither.
static int64_t model_dim(const zg_session *s, uint32_t d) {
  uint32_t n;
  const zg_signature *in = zg_onnx_inputs(s->model, &n);
  for (uint32_t i = 0; i < n; i++) {
    if (!in[i].known || in[i].rank <= d) continue;
    if (in[i].dim[d].symbol) return dim_from_config(s, in[i].dim[d].symbol);
    return in[i].dim[d].value;
  }
  return 0;
}

static const char *format_name(zg_cfg_data_format f) {
  static const char *const names[] = {NULL, "text", "tokens", "npy", "npz", "batches", "idx", "csv", "random"};
  return names[f];
}

static zg_status random_arrays(zg_session *s, zg_data_options *o) {
  uint32_t n;
  const zg_signature *in = zg_onnx_inputs(s->model, &n);
  zg_data_random *r = ZG_NEW_N(&s->mem, zg_data_random, n + 1);
  for (uint32_t i = 0; i < n; i++) {
    zg_type t = {.dtype = in[i].dtype, .rank = in[i].rank};
    for (uint32_t d = 0; d < t.rank; d++) {
      t.dim[d] = in[i].dim[d].symbol ? dim_from_config(s, in[i].dim[d].symbol) : in[i].dim[d].value;
      if (t.dim[d] <= 0 && d == 0) t.dim[d] = o->batch_size;
      if (t.dim[d] <= 0 && d == 1) t.dim[d] = o->seq_len;
      if (t.dim[d] <= 0) return zg_error(ZG_INVALID, "data: random needs a size for dimension \"%s\" of input \"%s\": set dims.%s", in[i].dim[d].symbol, in[i].name, in[i].dim[d].symbol);
    }
    r[i] = (zg_data_random){in[i].name, t, 2};
  }
  o->random = r;
  o->n_random = n;
  return NULL;
}

// Training batches are dealt out to the ranks; evaluation is the same on all of them, so that no rank goes ahead alone.
static zg_status open_set(zg_session *s, const zg_cfg_data *c, const zg_cfg_data *fallback, zg_data **out) {
  zg_data_options o = {.path = c->path, .format = format_name(c->format), .batch_size = c->batch_size, .seq_len = c->seq_len,
                       .shuffle = c->shuffle, .labels_path = c->labels_path,
                       .label_column = c->label_column, .token_bits = c->token_bits == ZG_UNSET ? 0 : (int)c->token_bits,
                       .seed = (uint64_t)s->cfg->training.seed, .world = 1};
  if (!fallback && s->o.world > 1) o.rank = (int)s->o.rank, o.world = (int)s->o.world;
  if (!c->path && c->format != ZG_CFG_DATA_RANDOM) return NULL;
  if (c->path && !zg_file_exists(c->path)) return zg_error(ZG_NOT_FOUND, "data: there is no file \"%s\"", c->path);
  if (o.batch_size == ZG_UNSET && fallback) o.batch_size = fallback->batch_size;
  if (o.seq_len == ZG_UNSET && fallback) o.seq_len = fallback->seq_len;
  if (o.batch_size == ZG_UNSET) o.batch_size = model_dim(s, 0);
  if (o.seq_len == ZG_UNSET) o.seq_len = model_dim(s, 1);
  if (o.batch_size <= 0) o.batch_size = c->format == ZG_CFG_DATA_BATCHES ? 1 : 0;
  if (o.batch_size <= 0) return zg_error(ZG_INVALID, "data: the model leaves the batch size open; set data.train.batch_size");
  if (c->format == ZG_CFG_DATA_RANDOM) ZG_TRY(random_arrays(s, &o));
  return zg_data_open(&o, out);
}

zg_status zg__session_open_data(zg_session *s) {
  if (s->o.no_data) return NULL;
  if (s->o.inputs_path) return zg_npz_open(s->o.inputs_path, &s->inputs);
  ZG_TRY(open_set(s, &s->cfg->data.train, NULL, &s->train));
  if (s->o.mode == ZG_RUN_TRAIN && s->cfg->data.eval.path) ZG_TRY(open_set(s, &s->cfg->data.eval, &s->cfg->data.train, &s->eval));
  return NULL;
}

// ---- feeds --------------------------------------------------------------------------------------------------------

static bool array_type(const zg_session *s, const char *array, zg_type *out) {
  if (s->inputs) {
    int64_t i = zg_npz_find(s->inputs, array);
    if (i >= 0) *out = *zg_npz_type(s->inputs, (size_t)i);
    return i >= 0;
  }
  int64_t i = s->train ? zg_data_find(s->train, array) : -1;
  if (i >= 0) *out = *zg_data_type(s->train, (size_t)i);
  return i >= 0;
}

static size_t n_arrays(const zg_session *s) { return s->inputs ? zg_npz_count(s->inputs) : s->train ? zg_data_n_arrays(s->train) : 0; }
static const char *array_at(const zg_session *s, size_t i) { return s->inputs ? zg_npz_name(s->inputs, i) : zg_data_name(s->train, i); }

// The array that a lone model input of another name obviously means: tokens, images, features, or the only one that is not
// the labels.
static const char *guess_array(const zg_session *s) {
  static const char *const usual[] = {"tokens", "images", "features"};
  zg_type t;
  for (size_t i = 0; i < ZG_COUNT(usual); i++)
    if (array_type(s, usual[i], &t)) return usual[i];
  const char *only = NULL;
  for (size_t i = 0; i < n_arrays(s); i++) {
    if (!strcmp(array_at(s, i), "labels")) continue;
    if (only) return NULL;
    only = array_at(s, i);
  }
  return only;
}

static void add_feed(zg_session *s, const char *name, const char *array, const zg_type *t) {
  for (size_t i = 0; i < s->feeds.n; i++)
    if (!strcmp(s->feeds.at[i].name, name)) return;
  zg_feed f = {.name = zg_arena_str(&s->mem, name), .type = *t, .array = -1};
  if (s->train) f.array = zg_data_find(s->train, array);
  zg_vec_push(&s->feeds, f);
}

static zg_status no_array(const zg_session *s, const char *input, const char *array) {
  zg_str have = {0};
  for (size_t i = 0; i < n_arrays(s); i++) zg_str_add(&have, "%s%s", i ? ", " : "", array_at(s, i));
  zg_status e = zg_error(ZG_INVALID, "no array \"%s\" for the model's input \"%s\"; the data have: %s. Name the array with data.inputs: {%s: ARRAY}",
                         array, input, have.n ? have.at : "none", input);
  zg_str_fini(&have);
  return e;
}

// The elements of a sequence are the arrays NAME[0], NAME[1], ...
static void match_elements(zg_session *s, const zg_signature *in, zg_type *types, const char **names, uint32_t *n) {
  zg_type t;
  for (uint32_t k = 0;; k++) {
    const char *name = zg_arena_printf(&s->mem, "%s[%u]", in->name, k);
    if (!array_type(s, name, &t)) return;
    t.dtype = in->dtype;
    types[*n] = t;
    names[(*n)++] = name;
    add_feed(s, name, name, &t);
  }
}

// Shapes of the inputs as the data give them, and the feeds.
static zg_status match_inputs(zg_session *s, zg_type **out_types, const char ***out_names, uint32_t *out_n) {
  uint32_t n;
  const zg_signature *in = zg_onnx_inputs(s->model, &n);
  *out_types = ZG_NEW_N(&s->mem, zg_type, n + n_arrays(s) + 1);
  *out_names = ZG_NEW_N(&s->mem, const char *, n + n_arrays(s) + 1);
  *out_n = 0;
  if (!s->inputs && !s->train) return NULL;
  for (uint32_t i = 0; i < n; i++) {
    const char *array = zg_session_array(s, in[i].name);
    zg_type t;
    if (in[i].sequence) {
      match_elements(s, &in[i], *out_types, *out_names, out_n);
      continue;
    }
    if (!array_type(s, array, &t)) {
      if (in[i].optional) continue;
      const char *guess = n == 1 && array == in[i].name ? guess_array(s) : NULL;
      if (!guess || !array_type(s, guess, &t)) return no_array(s, in[i].name, array);
      zg_log(1, "input \"%s\" takes array \"%s\"", in[i].name, guess);
      array = guess;
    }
    if (in[i].known && t.rank != in[i].rank)
      return zg_error(ZG_INVALID, "array \"%s\" is %s a batch, but the model's input \"%s\" has %u dimensions", array, zg_type_text(&t), in[i].name, in[i].rank);
    t.dtype = in[i].dtype;
    (*out_types)[*out_n] = t;
    (*out_names)[(*out_n)++] = in[i].name;
    add_feed(s, in[i].name, array, &t);
  }
  return NULL;
}

// ---- losses -------------------------------------------------------------------------------------------------------

static zg_status loss_of(zg_session *s, const zg_cfg_loss *c) {
  static const zg_loss_kind kinds[] = {ZG_LOSS_CROSS_ENTROPY, ZG_LOSS_MSE, ZG_LOSS_L1, ZG_LOSS_HUBER, ZG_LOSS_BCE_LOGITS, ZG_LOSS_GRAPH_OUTPUT};
  uint32_t n_out;
  const zg_signature *out = zg_onnx_outputs(s->model, &n_out);
  zg_loss_spec l = {.kind = kinds[c->kind], .prediction = c->logits, .labels = c->labels, .weight = c->weight, .shift = c->shift,
                    .from_probs = c->from_probs, .ignore_index = c->ignore_index, .class_axis = c->class_axis,
                    .label_smoothing = c->label_smoothing, .delta = c->delta};
  if (!l.prediction) {
    if (n_out != 1) return zg_error(ZG_INVALID, "loss: the model has %u outputs; name one with loss.%s", n_out, l.kind == ZG_LOSS_CROSS_ENTROPY ? "logits" : "prediction");
    l.prediction = out[0].name;
  }
  const char *array = l.labels ? zg_session_array(s, l.labels) : NULL;
  if (l.kind != ZG_LOSS_GRAPH_OUTPUT && array) {
    l.labels_known = array_type(s, array, &l.labels_type);
    if (!l.labels_known && (s->train || s->inputs)) return no_array(s, l.labels, array);
    if (l.labels_known) {
      l.labels_type.dtype = l.kind == ZG_LOSS_CROSS_ENTROPY ? ZG_I64 : ZG_F32;
      add_feed(s, l.labels, array, &l.labels_type);
    }
  }
  zg_vec_push(&s->losses, l);
  return NULL;
}

static zg_status losses(zg_session *s) {
  if (s->o.mode == ZG_RUN_FORWARD) return NULL;
  if (s->cfg->loss.n == 0)
    return zg_error(ZG_INVALID, "no loss configured: set loss, for example loss: {kind: cross_entropy, logits: OUTPUT, labels: labels}, or loss: {kind: graph_output} if the model computes it");
  for (size_t i = 0; i < s->cfg->loss.n; i++) ZG_TRY(loss_of(s, &s->cfg->loss.at[i]));
  return NULL;
}

// The evaluation set's batch of a model input.
static zg_status eval_type(const zg_session *s, const char *input, zg_type *t) {
  for (size_t i = 0; i < s->feeds.n; i++) {
    const zg_feed *f = &s->feeds.at[i];
    if (strcmp(f->name, input) || f->array < 0) continue;
    const char *array = zg_data_name(s->train, (size_t)f->array);
    int64_t k = zg_data_find(s->eval, array);
    if (k < 0) return zg_error(ZG_INVALID, "data.eval has no array \"%s\", which the training data have", array);
    zg_dtype dtype = t->dtype;
    *t = *zg_data_type(s->eval, (size_t)k);
    t->dtype = dtype;
  }
  return NULL;
}

// ---- import -------------------------------------------------------------------------------------------------------

static bool is_known(const zg_type *t, uint32_t level) {
  return level >= 3 || !zg_dtype_is_float(t->dtype) || (level >= 2 && t->rank <= 1 && zg_elems(t) <= 64);
}

// Values of the batch for the inputs that this level makes constants; others have no data.
static zg_status known_values(zg_session *s, const zg_import_options *o, uint32_t level, zg_tensor *out) {
  for (uint32_t i = 0; i < o->n_inputs; i++) {
    zg_tensor t;
    out[i] = (zg_tensor){.type = o->input_types[i]};
    if (!is_known(&out[i].type, level)) continue;
    ZG_TRY(zg_npz_get(s->inputs, zg_session_array(s, o->input_names[i]), &t));
    out[i].data = zg_arena_alloc(&s->mem, zg_type_bytes(&out[i].type) + 1);
    zg_convert(out[i].type.dtype, out[i].data, t.type.dtype, t.data, zg_elems(&out[i].type));
  }
  return NULL;
}

// Imports for the batch at hand. Sizes, axes and lengths that a model takes as inputs must be known before it is planned; `run` has
// its one batch, so what the plan cannot do without is taken from there, as little as possible.
static zg_status import_batch(zg_session *s, zg_import_options o) {
  zg_status first = zg_onnx_import(s->model, &o, &s->graph);
  if (!first || zg_status_code(first) != ZG_UNSUPPORTED || !s->inputs || s->o.mode != ZG_RUN_FORWARD) return first;
  zg_tensor *values = ZG_NEW_N(&s->mem, zg_tensor, o.n_inputs + 1);
  o.input_values = values;
  for (uint32_t level = 1; level <= 3; level++) {
    zg_status again = known_values(s, &o, level, values);
    if (!again) again = zg_onnx_import(s->model, &o, &s->graph);
    if (!again) {
      s->known_inputs = level;
      zg_status_free(first);
      return NULL;
    }
    zg_status_free(again);
  }
  return first;
}

// Parameters that the exporter merged or split, as the configuration says.
static zg_status mend_parameters(zg_session *s) {
  const zg_config *c = s->cfg;
  uint32_t n = 0;
  if (c->untie == ZG_CFG_UNTIE_AUTO) ZG_TRY(zg_onnx_untie(s->model, &n));
  if (n) zg_log(1, "untie: %u gains, biases and statistics have tensors of their own again", n);
  for (size_t i = 0; i < c->ties.n; i++)
    ZG_TRY(zg_status_prefix(zg_onnx_tie(s->model, c->ties.at[i].at, (uint32_t)c->ties.at[i].n), "%s: ", zg_config_origin(c, "ties")));
  return NULL;
}

zg_status zg__session_import(zg_session *s) {
  const zg_config *c = s->cfg;
  ZG_TRY(mend_parameters(s));
  zg_type *types;
  const char **names;
  uint32_t n;
  ZG_TRY(match_inputs(s, &types, &names, &n));
  ZG_TRY(losses(s));
  zg_dim_binding *dims = ZG_NEW_N(&s->mem, zg_dim_binding, c->dims.n + 1);
  for (size_t i = 0; i < c->dims.n; i++) dims[i] = (zg_dim_binding){c->dims.at[i].key, c->dims.at[i].value};
  bool training = s->o.mode != ZG_RUN_FORWARD;
  zg_import_options o = {.dims = dims, .n_dims = (uint32_t)c->dims.n, .input_types = types, .input_names = names, .n_inputs = n,
                         .default_dim = s->o.default_dim,
                         .batch_norm_train = c->batch_norm == ZG_CFG_BN_TRAIN && (training || zg_config_given(c, "batch_norm")),
                         .dropout_on = training && c->dropout.mode != ZG_CFG_DROPOUT_OFF,
                         .dropout_ratio = c->dropout.mode == ZG_CFG_DROPOUT_RATIO ? c->dropout.ratio : -1,
                         .trainable = c->trainable.at, .n_trainable = (uint32_t)c->trainable.n,
                         .frozen = c->frozen.at, .n_frozen = (uint32_t)c->frozen.n};
  ZG_TRY(import_batch(s, o));
  if (!s->eval) return NULL;
  o.batch_norm_train = o.dropout_on = false;
  for (uint32_t i = 0; i < n; i++) ZG_TRY(eval_type(s, names[i], &types[i]));
  return zg_onnx_import(s->model, &o, &s->eval_graph);
}
