// zgraph dump
#include <stdio.h>

#include "cli/cli.h"
#include "train/session.h"

static zg_status mode_of(const char *text, const zg_config *cfg, zg_run_mode *out) {
  static const char *const names[] = {"forward", "grad", "train"};
  if (!text) {
    *out = cfg->loss.n ? ZG_RUN_TRAIN : ZG_RUN_FORWARD;
    return NULL;
  }
  for (int i = 0; i < 3; i++)
    if (!strcmp(text, names[i])) {
      *out = (zg_run_mode)i;
      return NULL;
    }
  return zg_error(ZG_INVALID, "--mode is forward, grad or train, not \"%s\"", text);
}

static zg_status run(int argc, char **argv) {
  zg_cli_config files = {0};
  zg_cli_list rest = {0};
  zg_session_options o = {.no_device = true, .default_dim = 1};
  const char *stop = NULL, *mode = NULL;
  bool passes = false;
  zg_config *cfg = NULL;
  zg_session *s = NULL;
  zg_str text = {0};
  zg_status status = NULL;
  const zg_cli_option options[] = {ZG_CLI_CONFIG(files), {"stop-after", .text = &stop}, {"mode", .text = &mode}, {"passes", .flag = &passes}};
  ZG_TRY(zg_cli_parse(argc, argv, options, ZG_COUNT(options), &rest));
  if (passes) {
    printf("import\n");
    for (const char *const *p = zg_pipeline_pass_names(); *p; p++) printf("%s\n", *p);
    return NULL;
  }
  if (rest.n) ZG_TRY(zg_cli_one(&rest, "model", &o.model_path));
  ZG_TRY_OUT(zg_cli_load(&files, &cfg));
  ZG_TRY_OUT(mode_of(mode, cfg, &o.mode));
  o.no_data = !cfg->data.train.path;
  o.stop_after = stop ? stop : "plan_memory";
  ZG_TRY_OUT(zg_session_open(cfg, &o, &s));
  zg_pipeline_print(&s->pipe, &text);
  fputs(text.at, stdout);
out:
  zg_str_fini(&text);
  zg_session_close(s);
  zg_config_free(cfg);
  return status;
}

const zg_verb zg_verb_dump = {
    "dump", "print the IR after any pass",
    "usage: zgraph dump MODEL.onnx [--config FILE] [--stop-after PASS] [--mode forward|grad|train]\n\n"
    "Prints the graph or the schedule as the pass left it; without --stop-after, the planned schedule. The text parses back\n"
    "(docs/architecture.md has its grammar). --passes lists the passes.\n\n"
    "example:\n"
    "  zgraph dump model.onnx --config run.yaml --stop-after lower_autodiff\n",
    run};
