// zgraph config
#include <stdio.h>

#include "cli/cli.h"

static zg_status run(int argc, char **argv) {
  zg_cli_config files = {0};
  zg_cli_list rest = {0};
  bool keys = false;
  zg_config *cfg = NULL;
  const zg_cli_option options[] = {ZG_CLI_CONFIG(files), {"keys", .flag = &keys}};
  ZG_TRY(zg_cli_parse(argc, argv, options, ZG_COUNT(options), &rest));
  for (size_t i = 0; i < rest.n; i++) {
    if (files.files.n == ZG_COUNT(files.files.at)) return zg_error(ZG_INVALID, "too many files");
    files.files.at[files.files.n++] = rest.at[i];
  }
  if (keys) {
    zg_config_print_reference(stdout);
    return NULL;
  }
  ZG_TRY(zg_cli_load(&files, &cfg));
  zg_config_print(cfg, stdout);
  zg_config_free(cfg);
  return NULL;
}

const zg_verb zg_verb_config = {
    "config", "print every resolved value and where it came from",
    "usage: zgraph config [--config] FILE ... [--set KEY=VALUE] [--keys]\n\n"
    "Resolves the files as `train` would and prints each value with its source. --keys prints the manual's list of keys.\n\n"
    "example:\n"
    "  zgraph config --config zero3 --config run.yaml --set optimizer.lr=1e-4\n",
    run};
