// Keys of other programs' files, by table: each is honoured, mapped, without meaning, or refused; none is
// dropped silently.
#include "train/config_priv.h"

#include <stdlib.h>

static size_t star(const char *path) {
  size_t n = strlen(path);
  return n > 2 && !strcmp(path + n - 2, ".*") ? n - 2 : 0;
}

// The exact row, else the row "a.*" of the nearest section above.
static const zg_foreign_key *find(const zg_foreign_table *t, const char *path) {
  const zg_foreign_key *best = NULL;
  size_t best_n = 0;
  for (size_t i = 0; i < t->n; i++) {
    if (!strcmp(t->keys[i].path, path)) return &t->keys[i];
    size_t n = star(t->keys[i].path);
    if (n > best_n && !strncmp(t->keys[i].path, path, n) && (path[n] == '.' || !path[n]))
      best = &t->keys[i], best_n = n;
  }
  return best;
}

static bool has_below(const zg_foreign_table *t, const char *path) {
  size_t n = strlen(path);
  for (size_t i = 0; i < t->n; i++)
    if (!strncmp(t->keys[i].path, path, n) && t->keys[i].path[n] == '.' && strcmp(t->keys[i].path + n, ".*"))
      return true;
  return false;
}

static zg_status unknown(zg_config *cfg, const zg_foreign_table *t, const char *prefix, const zg_yaml *key) {
  const char *names[256] = {0};
  size_t n = 0, skip = *prefix ? strlen(prefix) + 1 : 0;
  for (size_t i = 0; i < t->n && n < ZG_COUNT(names); i++)
    if (!skip || (!strncmp(t->keys[i].path, prefix, skip - 1) && t->keys[i].path[skip - 1] == '.'))
      names[n++] = zg_arena_strn(&cfg->mem, t->keys[i].path + skip, strcspn(t->keys[i].path + skip, "."));
  const char *near = zg_nearest(key->text, names, n);
  const char *where = *t->name && *prefix ? zg_arena_printf(&cfg->mem, "%s.%s", t->name, prefix)
                      : *prefix           ? prefix
                      : *t->name          ? t->name
                                          : t->title;
  const char *q = near ? "; did you mean \"" : "", *end = near ? "\"?" : "";
  if (!t->lenient || *prefix || near)
    return zg_yaml_error(key, "unknown key \"%s\" in %s%s%s%s", key->text, where, q, near ? near : "", end);
  zg_warn("%s:%u:%u: unknown key \"%s\" in %s is not used", key->src->name, key->line, key->col, key->text,
          where);
  zg__config_note(cfg, "%s in %s is unknown and not used", key->text, where);
  return NULL;
}

static bool is_harmless(const zg_foreign_key *k, const zg_yaml *v) {
  if (v->kind == ZG_YAML_NULL || ((v->kind == ZG_YAML_MAP || v->kind == ZG_YAML_SEQ) && !v->n)) return true;
  for (const char *p = k->harmless; p && *p; p += strcspn(p, "|"), p += *p == '|') {
    size_t n = strcspn(p, "|");
    char word[64] = {0}, *end;
    memcpy(word, p, ZG_MIN(n, sizeof word - 1));
    if (v->kind == ZG_YAML_BOOL ? !strcmp(word, v->i ? "true" : "false") : !strcmp(word, v->text))
      return true;
    if ((v->kind == ZG_YAML_INT || v->kind == ZG_YAML_FLOAT) && strtod(word, &end) == v->f && !*end)
      return true;
  }
  return false;
}

// A YAML beside a JSON file may repeat its values, not contradict them.
static zg_status set_row(zg_config *cfg, const char *to, const zg_yaml *val, const char *origin) {
  int row = zg__key_find(&zg__config_table, to);
  const zg_key *k = &zg__config_table.keys[row];
  const char *json = cfg->state->json_name, *was = cfg->origin[row];
  bool guarded = json && strcmp(val->src->name, json) && !strncmp(was, json, strlen(json));
  zg_str before = {0}, after = {0};
  zg__key_text(k, cfg, &before);
  zg_status status = zg__key_set(&cfg->mem, &zg__config_table, row, cfg, val, origin);
  if (!status) zg__key_text(k, cfg, &after);
  if (!status && guarded && strcmp(before.at, after.at))
    status =
        zg_yaml_error(val, "%s is %s here, but %s at %s; remove one of them", to, after.at, before.at, was);
  zg_str_fini(&before);
  zg_str_fini(&after);
  return status;
}

static void mark_auto(zg_config *cfg, const char *to) {
  if (!strcmp(to, "zero.reduce_bucket_size")) cfg->zero.auto_reduce_bucket_size = true;
  if (!strcmp(to, "zero.stage3_prefetch_bucket_size")) cfg->zero.auto_prefetch_bucket_size = true;
  if (!strcmp(to, "zero.stage3_param_persistence_threshold")) cfg->zero.auto_persistence_threshold = true;
}

static zg_status take(zg_config *cfg, const zg_foreign_table *t, const zg_foreign_key *k, const char *path,
                      const zg_yaml *val) {
  const char *full = zg_arena_printf(&cfg->mem, "%s%s%s", t->name, *t->name ? "." : "", path);
  const char *origin = zg_arena_printf(&cfg->mem, "%s (%s)", zg__key_origin(&cfg->mem, val), full);
  if (k->fate == ZG_FATE_REFUSED) {
    if (is_harmless(k, val)) return NULL;
    return zg_yaml_error(val, "%s is not supported: %s", full, k->note);
  }
  if (k->fate == ZG_FATE_NO_MEANING) {
    if (val->kind != ZG_YAML_NULL)
      zg__config_note(cfg, "%s (%s) has no meaning here: %s", full, zg__key_origin(&cfg->mem, val), k->note);
    return NULL;
  }
  if (val->kind == ZG_YAML_NULL || (val->kind == ZG_YAML_STR && !strcmp(val->text, "auto"))) {
    if (val->kind == ZG_YAML_STR && k->to) {
      mark_auto(cfg, k->to);
      zg__config_note(cfg, "%s is auto: %s keeps its own value", full, k->to);
    }
    return NULL;
  }
  bool asks = val->kind != ZG_YAML_BOOL || val->i;
  if (k->fate == ZG_FATE_MAPPED && k->note && asks)
    zg__config_note(cfg, "%s (%s): %s", full, zg__key_origin(&cfg->mem, val), k->note);
  if (k->apply) return k->apply(cfg, val, origin);
  return set_row(cfg, k->to, val, origin);
}

static zg_status apply_below(zg_config *cfg, const zg_foreign_table *t, const char *prefix,
                             const zg_yaml *map) {
  for (uint32_t i = 0; i < map->n; i++) {
    const zg_yaml *key = map->keys[i], *val = map->vals[i];
    const char *path = *prefix ? zg_arena_printf(&cfg->mem, "%s.%s", prefix, key->text) : key->text;
    bool section = has_below(t, path);
    const zg_foreign_key *k = find(t, path);
    if (section && val->kind == ZG_YAML_NULL) continue;
    if (section && val->kind == ZG_YAML_MAP) ZG_TRY(apply_below(cfg, t, path, val));
    else if (k) ZG_TRY(take(cfg, t, k, path, val));
    else if (section)
      return zg_yaml_error(val, "%s is %s, want a mapping of its keys", path, zg_yaml_kind_name(val->kind));
    else ZG_TRY(unknown(cfg, t, prefix, key));
  }
  return NULL;
}

zg_status zg__foreign_apply(zg_config *cfg, const zg_foreign_table *t, const zg_yaml *map) {
  if (map->kind == ZG_YAML_NULL) return NULL;
  if (map->kind != ZG_YAML_MAP)
    return zg_yaml_error(map, "%s is %s, want a mapping of its keys", t->name, zg_yaml_kind_name(map->kind));
  return apply_below(cfg, t, "", map);
}
