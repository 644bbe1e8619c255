// Imports and evaluates many small models in one process: reads lines "MODEL INPUTS.npz OUTPUTS.npz" from standard input,
// writes one line each: "ok", or the code and message of the status. node_test.py makes the models and compares.
#include <stdio.h>
#include <stdlib.h>

#include "graph/core.h"
#include "graph/onnx/onnx.h"
#include "train/npz.h"

typedef struct { zg_onnx_model *model; zg_npz *in; zg_status status; } job;

static zg_tensor leaf(void *user, const zg_node *n) {
  job *j = user;
  zg_tensor t = {0};
  zg_status s = NULL;
  if (n->op == &zg_op_param) {
    const zg_param_attr *a = n->attr;
    const void *bytes = NULL;
    s = zg_onnx_tensor_bytes(j->model, (uint32_t)a->source, &bytes);
    t = (zg_tensor){a->type, (void *)bytes};
  } else {
    s = zg_npz_get(j->in, ((const zg_input_attr *)n->attr)->name, &t);
  }
  if (s && !j->status) j->status = s;
  else zg_status_free(s);
  return t;
}

static zg_status write_outputs(const zg_graph *g, const zg_tensor *values, const char *path) {
  zg_npz_writer *w = NULL;
  ZG_TRY(zg_npz_create(path, &w));
  zg_status status = NULL;
  for (size_t i = 0; i < g->outputs.n && !status; i++)
    if (g->outputs.at[i].kind == ZG_OUT_VALUE) status = zg_npz_put(w, g->outputs.at[i].name, &values[i]);
  if (!status) return zg_npz_finish(w);
  zg_npz_abandon(w);
  return status;
}

static zg_status run(const char *model, const char *inputs, const char *outputs) {
  job j = {0};
  zg_graph *g = NULL;
  zg_tensor *values = NULL;
  zg_type types[64];
  const char *names[64];
  zg_status status = NULL;
  ZG_TRY_OUT(zg_onnx_load(model, &j.model));
  ZG_TRY_OUT(zg_npz_open(inputs, &j.in));
  const size_t n = ZG_MIN(zg_npz_count(j.in), ZG_COUNT(types));
  for (size_t i = 0; i < n; i++) types[i] = *zg_npz_type(j.in, i), names[i] = zg_npz_name(j.in, i);
  const zg_import_options o = {.input_types = types, .input_names = names, .n_inputs = (uint32_t)n, .dropout_ratio = -1};
  ZG_TRY_OUT(zg_onnx_import(j.model, &o, &g));
  ZG_TRY_OUT(zg_graph_verify(g));
  ZG_TRY_OUT(zg_graph_eval(g, leaf, &j, &values));
  ZG_TRY_OUT(write_outputs(g, values, outputs));
out:
  if (values) zg_eval_free(g, values);
  zg_graph_free(g);
  zg_npz_close(j.in);
  zg_onnx_free(j.model);
  if (j.status && status) zg_status_free(j.status);
  return status ? status : j.status;
}

int main(void) {
  char line[4096], model[1024], in[1024], out[1024];
  while (fgets(line, sizeof line, stdin)) {
    if (sscanf(line, "%1023s %1023s %1023s", model, in, out) != 3) return 2;
    zg_status s = run(model, in, out);
    if (s) printf("%d %s\n", (int)zg_status_code(s), zg_status_message(s));
    else printf("ok\n");
    fflush(stdout);
    zg_status_free(s);
  }
  return 0;
}
