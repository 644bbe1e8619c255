// zgraph run, zgraph grad: one batch in, results out, as npz.
#include <stdio.h>

#include "cli/cli.h"
#include "train/session.h"

typedef struct { const char *segment; bool grads; } what;

// Every result of the segment: values under their names, or "loss" and the gradients.
static zg_status write_results(zg_session *s, const what *w, const char *path) {
  zg_npz_writer *out = NULL;
  zg_status status = NULL;
  const zg_sched *d = zg_session_sched(s);
  void *data = NULL;
  uint64_t bytes = 0;
  ZG_TRY(zg_npz_create(path, &out));
  for (size_t i = 0; i < d->outputs.n; i++) {
    const zg_sched_output *o = &d->outputs.at[i];
    bool wanted = w->grads ? o->kind == ZG_OUT_LOSS || o->kind == ZG_OUT_GRAD : o->kind == ZG_OUT_VALUE;
    if (!wanted) continue;
    bytes = zg_type_bytes(&o->type) + 1;
    ZG_TRY_OUT(zg_alloc_big(bytes, &data));
    ZG_TRY_OUT(zg_session_read(s, o, data));
    zg_tensor t = {o->type, data};
    ZG_TRY_OUT(zg_npz_put(out, o->kind == ZG_OUT_LOSS ? "loss" : o->name, &t));
    zg_free_big(data, bytes);
    data = NULL;
  }
  zg_npz_writer *finishing = out;
  out = NULL;
  status = zg_npz_finish(finishing);
out:
  if (data) zg_free_big(data, bytes);
  zg_npz_abandon(out);
  return status;
}

static zg_status go(int argc, char **argv, zg_run_mode mode, const what *w) {
  zg_cli_config files = {0};
  zg_cli_list rest = {0};
  zg_session_options o = {.mode = mode};
  const char *inputs = NULL, *out = NULL;
  zg_config *cfg = NULL;
  zg_session *s = NULL;
  zg_status status = NULL;
  const zg_cli_option options[] = {ZG_CLI_CONFIG(files), {"inputs", .text = &inputs}, {"out", .text = &out}};
  ZG_TRY(zg_cli_parse(argc, argv, options, ZG_COUNT(options), &rest));
  if (rest.n) ZG_TRY(zg_cli_one(&rest, "model", &o.model_path));
  if (!inputs) return zg_error(ZG_INVALID, "no inputs given: --inputs FILE.npz holds one array for each model input");
  if (!out) return zg_error(ZG_INVALID, "no --out FILE.npz given");
  o.inputs_path = inputs;
  ZG_TRY_OUT(zg_cli_load(&files, &cfg));
  ZG_TRY_OUT(zg_session_open(cfg, &o, &s));
  ZG_TRY_OUT(zg_session_feed(s, NULL, 0));
  zg_rand_state r = {{(uint32_t)cfg->training.seed, 0}, 0};
  ZG_TRY_OUT(zg_exec_run(s->program, w->segment, r, NULL));
  status = write_results(s, w, out);
out:
  zg_session_close(s);
  zg_config_free(cfg);
  return status;
}

static zg_status run(int argc, char **argv) { return go(argc, argv, ZG_RUN_FORWARD, &(what){"forward", false}); }
static zg_status grad(int argc, char **argv) { return go(argc, argv, ZG_RUN_GRAD, &(what){"grad", true}); }

const zg_verb zg_verb_run = {
    "run", "compute a model's outputs for one batch",
    "usage: zgraph run MODEL.onnx --inputs IN.npz --out OUT.npz [--config FILE] [--set KEY=VALUE]\n\n"
    "IN.npz holds one array for each model input, under its name (or as data.inputs says); OUT.npz gets every output\n"
    "under its name.\n\n"
    "example:\n"
    "  zgraph run model.onnx --inputs batch.npz --out outputs.npz\n",
    run};
const zg_verb zg_verb_grad = {
    "grad", "compute loss and gradients for one batch",
    "usage: zgraph grad MODEL.onnx --config FILE --inputs BATCH.npz --out GRADS.npz [--set KEY=VALUE]\n\n"
    "BATCH.npz holds the model's inputs and the labels; GRADS.npz gets `loss` and the gradient of every trainable tensor\n"
    "under its ONNX name.\n\n"
    "example:\n"
    "  zgraph grad model.onnx --config run.yaml --inputs batch.npz --out grads.npz\n",
    grad};
