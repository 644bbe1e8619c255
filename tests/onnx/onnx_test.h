// Shared by the tests of this folder: fixtures, evaluation of an imported graph, comparison with stored
// arrays.
#pragma once
#include <math.h>

#include "../train/train_test.h"
#include "graph/core.h"
#include "graph/onnx/onnx.h"
#include "train/npz.h"

static inline const char *fixture(const char *name, const char *ext) {
  static char path[8][512];
  static int next;
  char *p = path[next++ % 8];
  snprintf(p, sizeof path[0], "%sonnx/fixtures/%s%s", ZG_TESTS, name, ext);
  return p;
}

static inline const char *zoo_file(const char *name, const char *file) {
  static char path[8][512];
  static int next;
  char *p = path[next++ % 8];
  snprintf(p, sizeof path[0], "%szoo/%s/%s", ZG_TESTS, name, file);
  return p;
}

static const char *const zoo[] = {
    "flax_mlp",           "hf_bert_tiny",        "hf_gpt2_raw",     "hf_gpt2_tiny",
    "hf_llama_tiny",      "hf_vit_tiny",         "jax_transformer", "keras_cnn",
    "keras_mlp",          "nanogpt_tiny",        "paddle_mlp",      "skl_mlp",
    "torch_cnn_digits",   "torch_cnn_digits_ts", "torch_lstm_lm",   "torch_mlp_digits",
    "torch_resnet_small",
};

// An imported model and the arrays it is fed with.
typedef struct {
  zg_onnx_model *m;
  zg_graph *g;
  zg_npz *data;
  const char *prefix;  // of the inputs' names in `data`
  bool batches;        // arrays have a leading axis of micro-batches; the first is used
  void *owned[1024];
  uint64_t n_owned[1024];
  int n;
} setup;

// Aligned copy: tensors of the model may lie anywhere in the file.
static inline zg_tensor copied(setup *s, zg_type t, const void *from) {
  void *p;
  uint64_t n = zg_type_bytes(&t) + 1;
  ok(zg_alloc_big(n, &p));
  if (from) memcpy(p, from, n - 1);
  ck_assert_int_lt(s->n, 1024);
  s->n_owned[s->n] = n;
  s->owned[s->n++] = p;
  return (zg_tensor){t, p};
}

static inline zg_tensor input_array(setup *s, const char *name) {
  char key[256];
  zg_tensor a;
  snprintf(key, sizeof key, "%s%s", s->prefix, name);
  ok(zg_npz_get(s->data, key, &a));
  if (s->batches) {
    a.type.rank--;
    memmove(a.type.dim, a.type.dim + 1, sizeof a.type.dim - sizeof a.type.dim[0]);
    a.type = zg_type_make(a.type.dtype, a.type.rank, a.type.dim);
  }
  return a;
}

static inline zg_tensor leaf(void *user, const zg_node *n) {
  setup *s = user;
  const void *bytes;
  if (n->op == &zg_op_input) {
    const zg_input_attr *a = n->attr;
    zg_tensor from = input_array(s, a->name);
    ck_assert(zg_same_shape(&from.type, &a->type));
    zg_tensor to = copied(s, a->type, NULL);  // what feeds an input converts to the model's element type
    zg_convert(a->type.dtype, to.data, from.type.dtype, from.data, zg_elems(&a->type));
    return to;
  }
  ck_assert(n->op == &zg_op_param);
  const zg_param_attr *a = n->attr;
  ok(zg_onnx_tensor_bytes(s->m, (uint32_t)a->source, &bytes));
  return copied(s, a->type, bytes);
}

// Imports with the inputs' shapes as the data have them.
static inline zg_status import_with(setup *s, zg_import_options o) {
  uint32_t n;
  const zg_signature *in = zg_onnx_inputs(s->m, &n);
  static zg_type types[32];
  static const char *names[32];
  for (uint32_t i = 0; i < n; i++) {
    names[i] = in[i].name;
    types[i] = input_array(s, in[i].name).type;
  }
  o.input_types = types;
  o.input_names = names;
  o.n_inputs = n;
  return zg_onnx_import(s->m, &o, &s->g);
}

static inline void done(setup *s) {
  for (int i = 0; i < s->n; i++) zg_free_big(s->owned[i], s->n_owned[i]);
  zg_graph_free(s->g);
  zg_npz_close(s->data);
  zg_onnx_free(s->m);
  *s = (setup){0};
}

// Evaluates the graph and compares each output with the array of its name; relative to the largest element.
static inline int compare_outputs(setup *s, zg_npz *want, double tolerance) {
  zg_tensor *out;
  int n = 0;
  ok(zg_graph_eval(s->g, leaf, s, &out));
  for (size_t i = 0; i < s->g->outputs.n; i++) {
    const zg_output *o = &s->g->outputs.at[i];
    char key[256];
    zg_tensor w;
    snprintf(key, sizeof key, "out/%s", o->name);
    if (o->kind != ZG_OUT_VALUE || zg_npz_find(want, key) < 0) continue;
    ok(zg_npz_get(want, key, &w));
    ck_assert_msg(zg_same_shape(&w.type, &out[i].type), "%s: %s, want %s", key, zg_type_text(&out[i].type),
                  zg_type_text(&w.type));
    double top = 1e-6, worst = 0;
    for (int64_t k = 0; k < zg_elems(&w.type); k++)
      top = fmax(top, fabs(zg_get_f64(w.type.dtype, w.data, k)));
    for (int64_t k = 0; k < zg_elems(&w.type); k++) {
      double d = fabs(zg_get_f64(w.type.dtype, w.data, k) - zg_get_f64(out[i].type.dtype, out[i].data, k));
      worst = d <= worst ? worst : d;  // a NaN stays
    }
    ck_assert_msg(worst <= tolerance * top, "%s: off by %g of %g", key, worst, top);
    n++;
  }
  zg_eval_free(s->g, out);
  return n;
}
