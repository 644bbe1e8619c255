// zgraph inspect
#include <stdio.h>

#include "cli/cli.h"
#include "train/session.h"

static void print_signature(const char *what, const zg_signature *v, uint32_t n) {
  printf("%s\n", what);
  for (uint32_t i = 0; i < n; i++) {
    printf("  %-32s %s[", v[i].name, zg_dtype_name(v[i].dtype));
    for (uint32_t d = 0; d < v[i].rank; d++) {
      if (v[i].dim[d].symbol) printf("%s%s", d ? "," : "", v[i].dim[d].symbol);
      else printf("%s%lld", d ? "," : "", (long long)v[i].dim[d].value);
    }
    printf("]%s\n", v[i].known ? "" : " (shape not declared)");
  }
}

static void print_params(const zg_session *s) {
  static const char *const roles[] = {"frozen", "trainable", "running"};
  int64_t trained = 0, all = 0;
  printf("tensors\n  %-44s %-22s %-10s %s\n", "name", "type", "decision", "because");
  for (size_t i = 0; i < s->graph->nodes.n; i++) {
    const zg_node *n = &s->graph->nodes.at[i];
    if (n->op != &zg_op_param) continue;
    const zg_param_attr *a = n->attr;
    printf("  %-44s %-22s %-10s %s\n", a->name, zg_type_text(&a->type), roles[a->role], a->reason ? a->reason : "");
    all += zg_elems(&a->type);
    if (a->role == ZG_ROLE_TRAINABLE) trained += zg_elems(&a->type);
  }
  printf("parameters: %lld, of them trainable: %lld\n", (long long)all, (long long)trained);
}

static void print_ops(const zg_session *s) {
  zg_map count = {0};
  const char *names[512];
  size_t n = 0;
  for (size_t i = 0; i < s->graph->nodes.n; i++) {
    const char *name = s->graph->nodes.at[i].op->name;
    uint64_t c = 0;
    bool known = zg_map_get(&count, name, &c);
    if (!known && n < ZG_COUNT(names)) names[n++] = name;
    zg_map_put(&count, name, c + 1);
  }
  printf("graph: %zu nodes after folding:", s->graph->nodes.n);
  for (size_t i = 0; i < n; i++) {
    uint64_t c = 0;
    zg_map_get(&count, names[i], &c);
    printf(" %s %llu%s", names[i], (unsigned long long)c, i + 1 < n ? "," : "\n");
  }
  zg_map_fini(&count);
}

static zg_status run(int argc, char **argv) {
  zg_cli_config files = {0};
  zg_cli_list rest = {0};
  zg_session_options o = {.mode = ZG_RUN_FORWARD, .no_device = true, .no_data = true, .default_dim = 1, .stop_after = "import"};
  zg_config *cfg = NULL;
  zg_session *s = NULL;
  zg_status status = NULL;
  const zg_cli_option options[] = {ZG_CLI_CONFIG(files)};
  ZG_TRY(zg_cli_parse(argc, argv, options, ZG_COUNT(options), &rest));
  if (rest.n) ZG_TRY(zg_cli_one(&rest, "model", &o.model_path));
  ZG_TRY_OUT(zg_cli_load(&files, &cfg));
  ZG_TRY_OUT(zg_session_open(cfg, &o, &s));
  uint32_t n;
  printf("made by %s, opset %lld\n", zg_onnx_producer(s->model), (long long)zg_onnx_opset(s->model));
  const zg_signature *v = zg_onnx_inputs(s->model, &n);
  print_signature("inputs", v, n);
  v = zg_onnx_outputs(s->model, &n);
  print_signature("outputs", v, n);
  print_params(s);
  print_ops(s);
out:
  zg_session_close(s);
  zg_config_free(cfg);
  return status;
}

const zg_verb zg_verb_inspect = {
    "inspect", "show a model's inputs, outputs, and what would be trained",
    "usage: zgraph inspect MODEL.onnx [--config FILE] [--set KEY=VALUE]\n\n"
    "Lists inputs and outputs, every tensor with the decision whether it is trained and the reason, and the graph's ops.\n"
    "Symbolic dimensions take 1 unless --set dims.NAME=N says otherwise.\n\n"
    "example:\n"
    "  zgraph inspect model.onnx --set frozen='[\"*embedding*\"]'\n",
    run};
