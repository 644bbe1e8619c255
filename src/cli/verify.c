// zgraph verify
#include <stdio.h>

#include "cli/cli.h"
#include "graph/graph.h"
#include "sched/sched.h"

// The file may hold several graphs one after the other (dump prints update and evaluation graphs behind the main one).
static zg_status graphs(const char *text, const char *file, zg_str *out) {
  zg_status status = NULL;
  for (const char *at = text; *at && !status;) {
    const char *next = strstr(at + 1, "\ngraph {");
    size_t n = next ? (size_t)(next + 1 - at) : strlen(at);
    zg_str one = {0};
    zg_graph *g = NULL;
    zg_str_put(&one, at, n);
    status = zg_graph_parse(one.at, file, &g);
    if (!status) status = zg_graph_verify(g);
    if (!status) zg_graph_print(g, out);
    zg_graph_free(g);
    zg_str_fini(&one);
    at += n;
  }
  return status;
}

static zg_status schedule(const char *text, const char *file, zg_str *out) {
  zg_sched *s = NULL;
  ZG_TRY(zg_sched_parse(text, file, &s));
  zg_status status = zg_sched_verify(s);
  if (!status) zg_sched_print(s, out);
  zg_sched_free(s);
  return zg_status_prefix(status, "%s: ", file);
}

static zg_status run(int argc, char **argv) {
  zg_cli_list rest = {0};
  const char *file;
  bool print = false;
  zg_str text = {0}, again = {0};
  zg_status status = NULL;
  const zg_cli_option options[] = {{"print", .flag = &print}};
  ZG_TRY(zg_cli_parse(argc, argv, options, ZG_COUNT(options), &rest));
  ZG_TRY(zg_cli_one(&rest, "file", &file));
  ZG_TRY_OUT(zg_file_read(file, &text));
  const char *at = text.at ? text.at : "";
  ZG_TRY_OUT(strncmp(at, "schedule", 8) ? graphs(at, file, &again) : schedule(at, file, &again));
  if (print) fputs(again.at, stdout);
  else printf("%s: ok\n", file);
out:
  zg_str_fini(&text);
  zg_str_fini(&again);
  return status;
}

const zg_verb zg_verb_verify = {
    "verify", "check the text of a graph or schedule",
    "usage: zgraph verify FILE [--print]\n\n"
    "Parses what `zgraph dump` printed and proves what the verifiers prove; with --print, prints it again.\n\n"
    "example:\n"
    "  zgraph dump model.onnx --config run.yaml > step.zg && zgraph verify step.zg\n",
    run};
