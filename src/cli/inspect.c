// zgraph inspect
#include <stdio.h>

#include "cli/cli.h"
#include "train/safetensors.h"
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

static const char *const verdicts[] = {[ZG_DECIDED_TRAINABLE] = "trainable", [ZG_DECIDED_FROZEN] = "frozen",
                                       [ZG_DECIDED_RUNNING] = "running",     [ZG_DECIDED_TIED] = "tied",
                                       [ZG_DECIDED_CONSTANT] = "constant",   [ZG_DECIDED_UNREAD] = "unread"};

static bool is_listed(const zg_onnx_tensor_info *t, const zg_onnx_decision *d, bool all) {
  return all || d->verdict != ZG_DECIDED_CONSTANT || (zg_dtype_is_float(t->type.dtype) && zg_elems(&t->type) > 1);
}

static void print_params(const zg_session *s, bool every) {
  int64_t trained = 0, all = 0;
  uint32_t hidden = 0;
  printf("tensors\n  %-44s %-22s %-10s %s\n", "name", "type", "decision", "because");
  for (uint32_t i = 0; i < zg_onnx_n_tensors(s->model); i++) {
    const zg_onnx_tensor_info *t = zg_onnx_tensor_at(s->model, i);
    zg_onnx_decision d;
    if (!zg_onnx_decided(s->model, i, &d)) continue;
    if (d.verdict < ZG_DECIDED_TIED) all += zg_elems(&t->type);
    if (d.verdict == ZG_DECIDED_TRAINABLE) trained += zg_elems(&t->type);
    if (is_listed(t, &d, every)) printf("  %-44s %-22s %-10s %s\n", t->name, zg_type_text(&t->type), verdicts[d.verdict], d.reason);
    else hidden++;
  }
  if (hidden) printf("  and %u constants of shapes and arithmetic (--all lists them)\n", hidden);
  printf("parameters: %lld, of them trainable: %lld\n", (long long)all, (long long)trained);
}

static void print_findings(const zg_session *s) {
  zg_arena mem = {0};
  zg_onnx_findings f = {0};
  zg_onnx_examine(s->model, &mem, &f);
  printf("findings: %zu\n", f.n);
  for (size_t i = 0; i < f.n; i++)
    printf("  %s\n    %s\n    in training: %s\n    remedy: %s\n", f.at[i].kind, f.at[i].what, f.at[i].effect, f.at[i].remedy);
  zg_vec_fini(&f);
  zg_arena_fini(&mem);
}

static void put_object(zg_str *out, size_t at, const char *const *keys, const char *const *values, size_t n) {
  for (size_t i = 0; i < n; i++) {
    zg_str_add(out, "%s\"%s\": ", i ? ", " : at ? ",\n  {" : "\n  {", keys[i]);
    zg__json_quote(out, values[i]);
  }
  zg_str_add(out, "}");
}

// {"tensors": [{name, type, decision, because}], "findings": [{kind, what, effect, remedy}]}
static void print_json(const zg_session *s) {
  static const char *const of_tensor[] = {"name", "type", "decision", "because"}, *const of_finding[] = {"kind", "what", "effect", "remedy"};
  zg_arena mem = {0};
  zg_onnx_findings f = {0};
  zg_str out = {0};
  zg_onnx_examine(s->model, &mem, &f);
  zg_str_add(&out, "{\"tensors\": [");
  for (uint32_t i = 0; i < zg_onnx_n_tensors(s->model); i++) {
    const zg_onnx_tensor_info *t = zg_onnx_tensor_at(s->model, i);
    zg_onnx_decision d = {ZG_DECIDED_UNREAD, ""};
    zg_onnx_decided(s->model, i, &d);
    put_object(&out, i, of_tensor, (const char *[]){t->name, zg_type_text(&t->type), verdicts[d.verdict], d.reason}, 4);
  }
  zg_str_add(&out, "],\n\"findings\": [");
  for (size_t i = 0; i < f.n; i++)
    put_object(&out, i, of_finding, (const char *[]){f.at[i].kind, f.at[i].what, f.at[i].effect, f.at[i].remedy}, 4);
  printf("%s]}\n", out.at);
  zg_str_fini(&out);
  zg_vec_fini(&f);
  zg_arena_fini(&mem);
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

static void print_report(const zg_session *s, bool all) {
  uint32_t n;
  printf("made by %s, opset %lld\n", zg_onnx_producer(s->model), (long long)zg_onnx_opset(s->model));
  const zg_signature *v = zg_onnx_inputs(s->model, &n);
  print_signature("inputs", v, n);
  v = zg_onnx_outputs(s->model, &n);
  print_signature("outputs", v, n);
  print_params(s, all);
  print_ops(s);
  print_findings(s);
}

static zg_status run(int argc, char **argv) {
  zg_cli_config files = {0};
  zg_cli_list rest = {0};
  zg_session_options o = {.mode = ZG_RUN_FORWARD, .no_device = true, .no_data = true, .default_dim = 1, .stop_after = "import"};
  zg_config *cfg = NULL;
  zg_session *s = NULL;
  zg_status status = NULL;
  bool all = false, json = false;
  const zg_cli_option options[] = {ZG_CLI_CONFIG(files), {"all", .flag = &all}, {"json", .flag = &json}};
  ZG_TRY(zg_cli_parse(argc, argv, options, ZG_COUNT(options), &rest));
  if (rest.n) ZG_TRY(zg_cli_one(&rest, "model", &o.model_path));
  ZG_TRY_OUT(zg_cli_load(&files, &cfg));
  ZG_TRY_OUT(zg_session_open(cfg, &o, &s));
  if (json) print_json(s);
  else print_report(s, all);
out:
  zg_session_close(s);
  zg_config_free(cfg);
  return status;
}

const zg_verb zg_verb_inspect = {
    "inspect", "show a model's inputs, outputs, what would be trained, and what its exporter did to it",
    "usage: zgraph inspect MODEL.onnx [--config FILE] [--set KEY=VALUE] [--all] [--json]\n\n"
    "Lists inputs and outputs, every tensor with the decision whether it is trained and the reason, and the graph's ops. Then the\n"
    "findings: what the export did to the model as a thing to train, with the tensors' names, what it does to training, and the\n"
    "remedy. Symbolic dimensions take 1 unless --set dims.NAME=N says otherwise.\n"
    "  --all     also the constants of shapes and arithmetic\n"
    "  --json    tensors and findings as JSON\n\n"
    "example:\n"
    "  zgraph inspect model.onnx --set frozen='[\"*embedding*\"]'\n",
    run};
