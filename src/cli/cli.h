// The command line: a table of verbs, one file each, and what they share.
#pragma once
#include "train/config.h"

// Exit status: 0 done, 1 failed, 2 wrong usage, configuration or input.
typedef struct {
  const char *name, *what;       // one line for `zgraph --help`
  const char *help;              // whole text of `zgraph NAME --help`, with an example
  zg_status (*run)(int argc, char **argv);   // argv[0] is the verb
} zg_verb;
extern const zg_verb zg_verb_train, zg_verb_run, zg_verb_grad, zg_verb_inspect, zg_verb_plan, zg_verb_dump, zg_verb_config,
    zg_verb_export, zg_verb_check_grad, zg_verb_devices, zg_verb_ops, zg_verb_verify, zg_verb_version;

// One option of a verb. Exactly one of the pointers is set: text takes a value, flag does not, list collects values.
typedef struct { size_t n; const char *at[64]; } zg_cli_list;
typedef struct { const char *name; const char **text; bool *flag; zg_cli_list *list; } zg_cli_option;
// Parses `--name value` and `--name=value`; what is not an option goes to `rest`. Unknown options are an error that names the
// nearest. Options end at "--".
zg_status zg_cli_parse(int argc, char **argv, const zg_cli_option *options, size_t n, zg_cli_list *rest);
// --config and --set, shared by most verbs.
typedef struct { zg_cli_list files, sets; } zg_cli_config;
#define ZG_CLI_CONFIG(c) {"config", .list = &(c).files}, {"set", .list = &(c).sets}
zg_status zg_cli_load(const zg_cli_config *c, zg_config **out);
// "--set key=value" from a flag of its own.
zg_status zg_cli_set(zg_cli_config *c, const char *key_value);
// The one positional argument, or an error that says what is missing or too much.
zg_status zg_cli_one(const zg_cli_list *rest, const char *what, const char **out);
// "1.5 GiB", in one of 8 thread-local buffers used in turn.
const char *zg_cli_bytes(uint64_t n);
