// zgraph's command line: finds the verb, runs it, turns its status into a message and an exit status.
#include <signal.h>
#include <stdio.h>

#include "cli/cli.h"

static const zg_verb *const verbs[] = {
    &zg_verb_train, &zg_verb_run, &zg_verb_grad, &zg_verb_inspect, &zg_verb_plan, &zg_verb_dump, &zg_verb_config,
    &zg_verb_export, &zg_verb_check_grad, &zg_verb_devices, &zg_verb_ops, &zg_verb_verify, &zg_verb_version,
};

static int help(FILE *to, int code) {
  fprintf(to, "zgraph trains ONNX models: it imports the graph, differentiates it, plans every byte, and runs the plan.\n\n"
              "usage: zgraph VERB [ARGUMENTS]\n\n");
  for (size_t i = 0; i < ZG_COUNT(verbs); i++) fprintf(to, "  %-11s %s\n", verbs[i]->name, verbs[i]->what);
  fprintf(to, "\n`zgraph VERB --help` tells more. For example:\n"
              "  zgraph train model.onnx --config run.yaml\n"
              "  zgraph plan model.onnx --config run.yaml --set dims.batch=64\n");
  return code;
}

static const zg_verb *find(const char *name) {
  for (size_t i = 0; i < ZG_COUNT(verbs); i++)
    if (!strcmp(verbs[i]->name, name)) return verbs[i];
  return NULL;
}

static int unknown(const char *name) {
  const char *names[ZG_COUNT(verbs)];
  for (size_t i = 0; i < ZG_COUNT(verbs); i++) names[i] = verbs[i]->name;
  const char *near = zg_nearest(name, names, ZG_COUNT(verbs));
  fprintf(stderr, "zgraph: no verb is called \"%s\"", name);
  if (near) fprintf(stderr, "; did you mean \"%s\"?", near);
  fprintf(stderr, "%s `zgraph --help` lists them.\n", near ? "" : ".");
  return 2;
}

static bool asks_help(int argc, char **argv) {
  for (int i = 1; i < argc && strcmp(argv[i], "--"); i++)
    if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return true;
  return false;
}

static int exit_code(zg_status s) {
  switch (zg_status_code(s)) {
    case ZG_INVALID:
    case ZG_UNSUPPORTED:
    case ZG_NOT_FOUND: return 2;
    case ZG_IO:
    case ZG_OUT_OF_MEMORY:
    case ZG_CORRUPT:
    case ZG_CANCELLED:
    case ZG_INTERNAL: return 1;
  }
  return 1;
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  if (argc < 2) return help(stderr, 2);
  if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) return help(stdout, 0);
  const zg_verb *v = find(!strcmp(argv[1], "--version") ? "version" : argv[1]);
  if (!v) return unknown(argv[1]);
  if (asks_help(argc - 1, argv + 1)) {
    printf("%s", v->help);
    return 0;
  }
  zg_status s = v->run(argc - 1, argv + 1);
  if (fflush(stdout) && !s) s = zg_error(ZG_IO, "standard output: cannot write");
  if (!s) return 0;
  fprintf(stderr, "zgraph %s: %s\n", v->name, zg_status_message(s));
  if (zg_log_level() >= 2) fprintf(stderr, "  (%s)\n", zg_status_place(s));
  int code = exit_code(s);
  zg_status_free(s);
  return code;
}
