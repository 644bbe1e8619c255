// zgraph train
#include <math.h>
#include <stdio.h>

#include "cli/cli.h"
#include "train/launch.h"
#include "train/trainer.h"

static zg_status report(const zg_train_result *r) {
  if (r->interrupted) {
    printf("interrupted after step %llu; a checkpoint was written, --resume goes on from it\n", (unsigned long long)r->steps);
    return NULL;
  }
  if (!isnan(r->eval_loss)) printf("validation loss    %.4f\n", r->eval_loss);
  else printf("training loss      %.4f\n", r->loss);
  if (r->samples_per_s > 0) printf("samples per second %.2f\n", r->samples_per_s);
  printf("planned memory     %s (allocated %s)\n", zg_cli_bytes(r->planned_bytes), zg_cli_bytes(r->allocated_bytes));
  printf("peak memory        %s (whole process)\n", zg_cli_bytes(r->peak_bytes));
  printf("trained model      %s\n", r->model_path);
  return NULL;
}

static zg_status run(int argc, char **argv) {
  zg_cli_config files = {0};
  zg_cli_list rest = {0};
  zg_train_options o = {0};
  zg_config *cfg = NULL;
  zg_launched ranks = {.comm = NULL};
  zg_train_result r = {0};
  zg_status status = NULL;
  const char *out_dir = NULL;
  bool resume = false;
  const zg_cli_option options[] = {ZG_CLI_CONFIG(files), {"resume", .flag = &resume}, {"resume-from", .text = &o.resume},
                                   {"out", .text = &out_dir}, {"quiet", .flag = &o.quiet}, {"profile", .flag = &o.profile}};
  ZG_TRY(zg_cli_parse(argc, argv, options, ZG_COUNT(options), &rest));
  if (rest.n) ZG_TRY(zg_cli_one(&rest, "model", &o.model_path));
  zg_str set = {0};
  if (out_dir) {
    zg_str_add(&set, "training.output_dir=%s", out_dir);
    ZG_TRY_OUT(zg_cli_set(&files, set.at));
  }
  if (resume && !o.resume) o.resume = "auto";
  ZG_TRY_OUT(zg_cli_load(&files, &cfg));
  ZG_TRY_OUT(zg_launch(cfg, &ranks));
  if (ranks.done) goto out;
  cfg->threads = zg_launch_threads(cfg, ranks.comm);
  o.comm = ranks.comm;
  ZG_TRY_OUT(zg_train(cfg, &o, &r));
  if (!o.comm || o.comm->rank == 0) status = report(&r);
out:
  zg_comm_free(ranks.comm);
  zg_free(r.model_path);
  zg_config_free(cfg);
  zg_str_fini(&set);
  return status;
}

const zg_verb zg_verb_train = {
    "train", "train a model as a configuration says",
    "usage: zgraph train [MODEL.onnx] --config FILE [--config FILE ...] [options]\n\n"
    "Trains the model on the configured data and writes OUTPUT_DIR/model.onnx, with checkpoints, metrics.jsonl and\n"
    "TensorBoard events on the way. Ctrl-C writes a checkpoint and ends.\n\n"
    "  --config FILE       configuration (YAML, or the name of a packaged one); later files win\n"
    "  --set KEY=VALUE     one value, for example --set optimizer.lr=1e-3\n"
    "  --out DIR           training.output_dir\n"
    "  --resume            go on from the newest checkpoint of the output directory, if there is one\n"
    "  --resume-from DIR   go on from this checkpoint\n"
    "  --quiet             no lines on standard output but the summary\n"
    "  --profile           time by kernel kind at the end\n\n"
    "example:\n"
    "  zgraph train models/gpt/model.onnx --config configs/gpt.yaml --set training.steps=200\n",
    run};
