// `deepspeed_config_file:`: a path, or the JSON itself, plain or in base64, as Accelerate allows.
#include "train/config_priv.h"

static int base64_digit(char c) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const char *p = c ? strchr(digits, c == '-' ? '+' : c == '_' ? '/' : c) : NULL;
  return p ? (int)(p - digits) : -1;
}

// Decoded text if `s` is base64 of something that starts with '{'; else NULL.
static char *base64_json(zg_arena *mem, const char *s) {
  size_t n = strlen(s), out = 0;
  uint8_t *bytes = zg_arena_alloc(mem, n + 1);
  uint32_t bits = 0;
  int have = 0;
  for (size_t i = 0; i < n && s[i] != '='; i++) {
    int d = base64_digit(s[i]);
    if (d < 0) return NULL;
    bits = bits << 6 | (uint32_t)d, have += 6;
    if (have < 8) continue;
    have -= 8;
    bytes[out++] = (uint8_t)(bits >> have);
  }
  return out && bytes[0] == '{' ? (char *)bytes : NULL;
}

// Next to the file that names it, where the working directory has none.
static const char *find(zg_arena *mem, const zg_yaml *val) {
  const char *slash = strrchr(val->src->name, '/');
  if (zg_file_exists(val->text) || *val->text == '/' || !slash) return val->text;
  const char *beside =
      zg_arena_printf(mem, "%.*s/%s", (int)(slash - val->src->name), val->src->name, val->text);
  return zg_file_exists(beside) ? beside : val->text;
}

static zg_status read_json(zg_config *cfg, const zg_yaml *val, const zg_yaml **doc) {
  const char *inline_text = val->text[strspn(val->text, " \t\n")] == '{' ? val->text : NULL;
  const char *path = find(&cfg->mem, val);
  if (!inline_text && !zg_file_exists(path)) inline_text = base64_json(&cfg->mem, val->text);
  if (inline_text) {
    const char *name = zg_arena_printf(&cfg->mem, "deepspeed_config_file of %s", val->src->name);
    return zg_json_parse(&cfg->mem, name, inline_text, strlen(inline_text), doc);
  }
  zg_str text = {0};
  zg_status status = zg_file_exists(path)
                         ? zg_file_read(path, &text)
                         : zg_yaml_error(val,
                                         "deepspeed_config_file: there is no file %s (looked in the working "
                                         "directory and beside this file)",
                                         path);
  if (!status) status = zg_json_parse(&cfg->mem, path, text.at ? text.at : "", text.n, doc);
  zg_str_fini(&text);
  return status;
}

zg_status zg__deepspeed_file(zg_config *cfg, const zg_yaml *val) {
  const zg_yaml *doc = val;
  if (val->kind == ZG_YAML_STR && !strcmp(val->text, "none")) return NULL;
  if (val->kind != ZG_YAML_MAP && val->kind != ZG_YAML_STR)
    return zg_yaml_error(val, "deepspeed_config_file is %s, want a path", zg_yaml_kind_name(val->kind));
  if (val->kind == ZG_YAML_STR) ZG_TRY(read_json(cfg, val, &doc));
  if (doc->kind != ZG_YAML_MAP)
    return zg_yaml_error(doc, "DeepSpeed's file holds %s, want an object", zg_yaml_kind_name(doc->kind));
  if (!zg_yaml_get(doc, "zero_optimization"))
    return zg_yaml_error(doc, "DeepSpeed's file has no \"zero_optimization\"; add it, with a \"stage\"");
  return zg__deepspeed_apply(cfg, doc);
}
