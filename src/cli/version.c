// zgraph version
#include <stdio.h>

#include "cli/cli.h"

static zg_status version(int argc, char **argv) {
  zg_cli_list rest = {0};
  ZG_TRY(zg_cli_parse(argc, argv, NULL, 0, &rest));
  if (rest.n) return zg_error(ZG_INVALID, "takes no arguments, what is \"%s\"?", rest.at[0]);
  printf("zgraph %s\n", ZG_VERSION);
  return NULL;
}

const zg_verb zg_verb_version = {"version", "print the version", "usage: zgraph version\n\nexample:\n  zgraph version\n", version};
