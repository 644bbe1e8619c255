// zgraph plan: device descriptions, files of pictures.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/plan.h"
#include "train/yaml.h"

// ---- devices ------------------------------------------------------------------------------------------------------

typedef struct { const char *name; size_t offset; } number;
static const number numbers[] = {
    {"flops_f32", offsetof(zg_device_model, flops_f32)},       {"flops_16", offsetof(zg_device_model, flops_16)},
    {"bytes_per_s", offsetof(zg_device_model, bytes_per_s)},   {"comm_bytes_per_s", offsetof(zg_device_model, comm_bytes_per_s)},
    {"comm_latency_s", offsetof(zg_device_model, comm_latency_s)}, {"copy_bytes_per_s", offsetof(zg_device_model, copy_bytes_per_s)},
    {"launch_s", offsetof(zg_device_model, launch_s)},             {"node_ranks", offsetof(zg_device_model, node_ranks)},
    {"net_bytes_per_s", offsetof(zg_device_model, net_bytes_per_s)}, {"net_latency_s", offsetof(zg_device_model, net_latency_s)},
};

static zg_status number_of(const zg_yaml *v, double *out) {
  // 1e12 is text in YAML 1.1.
  char *end = NULL;
  *out = v->kind == ZG_YAML_INT || v->kind == ZG_YAML_FLOAT ? v->f : v->text ? strtod(v->text, &end) : -1;
  if ((end && *end) || *out < 0) return zg_yaml_error(v, "want a number that is not negative");
  return NULL;
}

static zg_status read_key(const zg_yaml *key, const zg_yaml *v, zg_device_model *d, zg_arena *mem) {
  const char *names[ZG_COUNT(numbers) + 2] = {"name", "memory"};
  double x;
  if (!strcmp(key->text, "name")) {
    d->name = zg_arena_str(mem, v->text ? v->text : "");
    return NULL;
  }
  if (!strcmp(key->text, "memory")) {
    ZG_TRY(number_of(v, &x));
    d->memory = (uint64_t)x;
    return NULL;
  }
  for (size_t i = 0; i < ZG_COUNT(numbers); i++) {
    if (!strcmp(numbers[i].name, key->text)) return number_of(v, (double *)((char *)d + numbers[i].offset));
    names[2 + i] = numbers[i].name;
  }
  const char *near = zg_nearest(key->text, names, ZG_COUNT(names));
  return zg_yaml_error(key, "a device has no \"%s\"%s%s%s", key->text, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

static zg_status read_device(const char *path, zg_device_model *d, zg_arena *mem) {
  zg_str text = {0};
  const zg_yaml *doc;
  zg_status status = NULL;
  *d = *zg_device_model_find("cpu");
  d->name = zg_arena_str(mem, path);
  d->memory = 0;
  ZG_TRY_OUT(zg_file_read(path, &text));
  ZG_TRY_OUT(zg_yaml_parse(mem, path, text.at ? text.at : "", text.n, &doc));
  if (doc->kind != ZG_YAML_MAP) status = zg_yaml_error(doc, "want a map of name, memory, flops_f32, flops_16, bytes_per_s, ...");
  for (uint32_t i = 0; !status && i < doc->n; i++) status = read_key(doc->keys[i], doc->vals[i], d, mem);
  if (!status && !(d->flops_f32 > 0 && d->flops_16 > 0 && d->bytes_per_s > 0 && d->comm_bytes_per_s > 0 && d->copy_bytes_per_s > 0))
    status = zg_error(ZG_INVALID, "%s: rates must be above zero", path);
  if (!status && d->node_ranks > 0 && !(d->net_bytes_per_s > 0))
    status = zg_error(ZG_INVALID, "%s: with node_ranks, net_bytes_per_s must be above zero", path);
out:
  zg_str_fini(&text);
  return status;
}

zg_status zg_cli_device(const char *name, zg_arena *mem, zg_device_model *out) {
  const zg_device_model *known = zg_device_model_find(name ? name : "cpu");
  if (known) {
    *out = *known;
    return NULL;
  }
  if (strchr(name, '.') || strchr(name, '/')) return read_device(name, out, mem);
  uint32_t n;
  const zg_device_model *all = zg_device_models(&n);
  zg_str list = {0};
  for (uint32_t i = 0; i < n; i++) zg_str_add(&list, "%s%s", i ? ", " : "", all[i].name);
  zg_status s = zg_error(ZG_INVALID, "--device %s: known are %s; or name a YAML file", name, list.at);
  zg_str_fini(&list);
  return s;
}

// ---- pictures -----------------------------------------------------------------------------------------------------

static zg_status put(const char *path, zg_str *text) {
  FILE *f = fopen(path, "w");
  bool ok = f && fwrite(text->at, 1, text->n, f) == text->n;
  if (f) ok = fclose(f) == 0 && ok;
  zg_str_fini(text);
  return ok ? NULL : zg_error(ZG_IO, "cannot write %s", path);
}

zg_status zg_cli_write_pictures(const zg_sched *s, const zg_picture *p, const zg_cli_pictures *files) {
  zg_str t = {0};
  if (files->html) {
    zg_report_html(s, p, &t);
    ZG_TRY(put(files->html, &t));
  }
  if (files->svg) {
    zg_report_svg(s, p, &t);
    ZG_TRY(put(files->svg, &t));
  }
  if (files->trace) {
    zg_report_trace(s, p, &t);
    ZG_TRY(put(files->trace, &t));
  }
  if (files->csv) {
    zg_report_csv(s, &t);
    ZG_TRY(put(files->csv, &t));
  }
  return NULL;
}
