// zgraph export
#include <json-c/json.h>
#include <stdio.h>

#include "cli/cli.h"
#include "graph/onnx/onnx.h"
#include "train/checkpoint.h"

// run.json beside the checkpoints says which model the run started from, and which of its tensors were untied and tied. With
// --model it may be absent.
static zg_status read_run(const char *checkpoint, bool needed, json_object **out) {
  zg_str path = {0}, text = {0};
  json_object *m = NULL;
  *out = NULL;
  zg_str_add(&path, "%s/../run.json", checkpoint);
  zg_status status = zg_file_read(path.at, &text);
  if (!status) *out = json_tokener_parse(text.at ? text.at : "");
  if (!status && (!*out || !json_object_object_get_ex(*out, "model", &m) || !json_object_is_type(m, json_type_string)))
    status = zg_error(ZG_CORRUPT, "%s: does not name the model; give it with --model", path.at);
  zg_str_fini(&path);
  zg_str_fini(&text);
  if (needed) return status;
  zg_status_free(status);
  return NULL;
}

static zg_status tie(zg_onnx_model *m, json_object *set) {
  ZG_VEC(const char *) names = {0};
  const size_t n = json_object_is_type(set, json_type_array) ? json_object_array_length(set) : 0;
  for (size_t i = 0; i < n; i++)
    if (json_object_is_type(json_object_array_get_idx(set, i), json_type_string))
      zg_vec_push(&names, json_object_get_string(json_object_array_get_idx(set, i)));
  zg_status status = n && names.n == n ? zg_onnx_tie(m, names.at, (uint32_t)n) : zg_error(ZG_CORRUPT, "run.json: ties are lists of names");
  zg_vec_fini(&names);
  return status;
}

static zg_status mend(zg_onnx_model *m, json_object *run) {
  json_object *untie = NULL, *ties = NULL;
  uint32_t n;
  if (json_object_object_get_ex(run, "untie", &untie) && json_object_get_boolean(untie)) ZG_TRY(zg_onnx_untie(m, &n));
  if (!json_object_object_get_ex(run, "ties", &ties) || !json_object_is_type(ties, json_type_array)) return NULL;
  for (size_t i = 0; i < json_object_array_length(ties); i++) ZG_TRY(tie(m, json_object_array_get_idx(ties, i)));
  return NULL;
}

static zg_status replacements(zg_onnx_model *m, const zg_checkpoint *c, zg_onnx_replacement *r, uint32_t *n) {
  const zg_safetensors *f = c->file[ZG_CKPT_PARAMS];
  for (size_t i = 0; i < zg_safetensors_count(f); i++) {
    const char *name = zg_safetensors_name(f, i);
    uint32_t k = 0, all = zg_onnx_n_tensors(m);
    while (k < all && strcmp(zg_onnx_tensor_at(m, k)->name, name)) k++;
    if (k == all) return zg_error(ZG_INVALID, "%s: tensor \"%s\" is not in the model; is it the model that was trained?", c->path, name);
    const zg_type *want = &zg_onnx_tensor_at(m, k)->type, *have = zg_safetensors_type(f, i);
    if (!zg_type_equal(want, have))
      return zg_error(ZG_INVALID, "%s: tensor \"%s\" is %s, the model has %s", c->path, name, zg_type_text(have), zg_type_text(want));
    r[(*n)++] = (zg_onnx_replacement){k, zg_safetensors_bytes(f, i).at};
  }
  return NULL;
}

static zg_status export_to(const char *from, const char *model, const char *out) {
  zg_checkpoint c;
  zg_onnx_model *m = NULL;
  zg_onnx_replacement *r = NULL;
  uint32_t n = 0;
  json_object *run = NULL, *named = NULL;
  zg_status status = NULL;
  ZG_TRY(zg_checkpoint_open(from, &c));
  ZG_TRY_OUT(read_run(c.path, !model, &run));
  if (!model && json_object_object_get_ex(run, "model", &named)) model = json_object_get_string(named);
  ZG_TRY_OUT(zg_onnx_load(model, &m));
  ZG_TRY_OUT(mend(m, run));
  r = zg_alloc(sizeof *r * (zg_safetensors_count(c.file[ZG_CKPT_PARAMS]) + 1));
  ZG_TRY_OUT(replacements(m, &c, r, &n));
  ZG_TRY_OUT(zg_onnx_export(m, r, n, out));
  printf("wrote %s: %s at step %llu, %u tensors\n", out, model, (unsigned long long)c.state.step, n);
out:
  zg_free(r);
  json_object_put(run);
  zg_onnx_free(m);
  zg_checkpoint_close(&c);
  return status;
}

static zg_status run(int argc, char **argv) {
  zg_cli_list rest = {0};
  const char *out = NULL, *model = NULL, *from;
  const zg_cli_option options[] = {{"out", .text = &out}, {"model", .text = &model}};
  ZG_TRY(zg_cli_parse(argc, argv, options, ZG_COUNT(options), &rest));
  ZG_TRY(zg_cli_one(&rest, "checkpoint", &from));
  if (!out) return zg_error(ZG_INVALID, "no -o FILE.onnx given");
  return export_to(from, model, out);
}

const zg_verb zg_verb_export = {
    "export", "write a checkpoint's weights as an ONNX model",
    "usage: zgraph export CHECKPOINT -o MODEL.onnx [--model ORIGINAL.onnx]\n\n"
    "CHECKPOINT is a checkpoint's folder, or a run's output directory (then the newest sound one is taken). The model is the\n"
    "one the run trained, unless --model names it: the same graph, names and metadata with the checkpoint's weights.\n\n"
    "example:\n"
    "  zgraph export out -o trained.onnx\n",
    run};
