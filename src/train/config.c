// Loading: files and --set become document trees, trees become fields; then printing, hashing and the
// manual's key list.
#include "train/config_priv.h"

#include <dirent.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "train/config_dirs.h"

void zg__config_note(zg_config *cfg, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  char text[512];
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  for (size_t i = 0; i < cfg->notes.n; i++)
    if (!strcmp(cfg->notes.at[i], text)) return;
  const char **more = ZG_NEW_N(&cfg->mem, const char *, cfg->notes.n + 1);
  if (cfg->notes.n) memcpy(more, cfg->notes.at, cfg->notes.n * sizeof *more);
  more[cfg->notes.n] = zg_arena_str(&cfg->mem, text);
  cfg->notes = (zg_cfg_strs){more, cfg->notes.n + 1};
}

// ---- one document into the fields ---------------------------------------------------------------------------------

// Names that may stand directly below `prefix`: the next components of all rows there.
static size_t names_below(zg_arena *mem, const char *prefix, const char **names, size_t max) {
  size_t n = 0, skip = *prefix ? strlen(prefix) + 1 : 0;
  for (size_t i = 0; i < zg__config_table.n && n < max; i++) {
    const char *path = zg__config_table.keys[i].path;
    if (skip && (strncmp(path, prefix, skip - 1) || path[skip - 1] != '.')) continue;
    char *name = zg_arena_strn(mem, path + skip, strcspn(path + skip, "."));
    if (!n || strcmp(names[n - 1], name)) names[n++] = name;
  }
  const char *sections[] = {"deepspeed_config", "fsdp_config", "parallelism_config"};
  for (size_t i = 0; i < ZG_COUNT(sections) && !skip && n < max; i++) names[n++] = sections[i];
  for (size_t i = 0; i < zg__accelerate_top.n && !skip && n < max; i++)
    names[n++] =
        zg_arena_strn(mem, zg__accelerate_top.keys[i].path, strcspn(zg__accelerate_top.keys[i].path, "."));
  return n;
}

static zg_status unknown_key(zg_config *cfg, const char *prefix, const zg_yaml *key) {
  const char *names[256] = {0}, *deeper = NULL;
  size_t n = names_below(&cfg->mem, prefix, names, ZG_COUNT(names));
  const char *near = zg_nearest(key->text, names, n);
  for (size_t i = 0; i < zg__config_table.n && !near && !deeper;
       i++) {  // `lr` at the top: optimizer.lr is meant
    const char *path = zg__config_table.keys[i].path, *last = strrchr(path, '.');
    if (last && !strcmp(last + 1, key->text)) deeper = path;
  }
  const char *in = *prefix ? " in " : "", *hint = near ? near : deeper;
  if (hint)
    return zg_yaml_error(key, "unknown key \"%s\"%s%s; did you mean \"%s\"?", key->text, in, prefix, hint);
  return zg_yaml_error(key, "unknown key \"%s\"%s%s; `zgraph config --keys` lists all keys", key->text, in,
                       prefix);
}

static bool is_section(const char *path) {
  size_t n = strlen(path);
  for (size_t i = 0; i < zg__config_table.n; i++)
    if (!strncmp(zg__config_table.keys[i].path, path, n) && zg__config_table.keys[i].path[n] == '.')
      return true;
  return false;
}

static zg_status apply_entry(zg_config *cfg, const char *prefix, const zg_yaml *key, const zg_yaml *val) {
  if (key->kind != ZG_YAML_STR)
    return zg_yaml_error(key, "this key is %s; put it into quotes", zg_yaml_kind_name(key->kind));
  if (!*prefix) {
    bool taken = false;
    ZG_TRY(zg__accelerate_entry(cfg, key, val, &taken));
    if (taken) return NULL;
  }
  const char *dot = strchr(key->text, '.');
  if (dot)
    return zg_yaml_error(key, "unknown key \"%s\"; in a file sections are nested: %.*s: {%s: ...}", key->text,
                         (int)(dot - key->text), key->text, dot + 1);
  const char *path = *prefix ? zg_arena_printf(&cfg->mem, "%s.%s", prefix, key->text) : key->text;
  int row = zg__key_find(&zg__config_table, path);
  if (row >= 0) return zg__key_set(&cfg->mem, &zg__config_table, row, cfg, val, NULL);
  if (!is_section(path)) return unknown_key(cfg, prefix, key);
  if (val->kind == ZG_YAML_NULL) return NULL;
  if (val->kind != ZG_YAML_MAP)
    return zg_yaml_error(val, "%s is %s, want a mapping of its keys", path, zg_yaml_kind_name(val->kind));
  return zg__config_apply(cfg, path, val);
}

zg_status zg__config_apply(zg_config *cfg, const char *prefix, const zg_yaml *map) {
  for (uint32_t i = 0; i < map->n; i++) ZG_TRY(apply_entry(cfg, prefix, map->keys[i], map->vals[i]));
  return NULL;
}

// ---- files --------------------------------------------------------------------------------------------------------

// Directories with packaged files, most specific first. Returns how many.
static size_t config_dirs(zg_arena *mem, const char *dirs[4]) {
  size_t n = 0;
  char exe[4096];
  ssize_t len = readlink("/proc/self/exe", exe, sizeof exe - 1);
  if (getenv("ZG_CONFIG_DIR")) dirs[n++] = getenv("ZG_CONFIG_DIR");
  if (len > 0) {
    exe[len] = 0;
    char *slash = strrchr(exe, '/');
    if (slash) *slash = 0;
    dirs[n++] = zg_arena_printf(mem, "%s/../share/zgraph/configs", exe);
  }
  dirs[n++] = ZG_SOURCE_CONFIG_DIR;
  dirs[n++] = ZG_INSTALLED_CONFIG_DIR;
  return n;
}

static int by_name(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static zg_status no_such_config(zg_arena *mem, const char *name, const char *const *dirs, size_t n_dirs) {
  const char *names[128];
  size_t n = 0;
  for (size_t i = 0; i < n_dirs; i++) {
    DIR *d = opendir(dirs[i]);
    for (struct dirent *e; d && (e = readdir(d)) && n < ZG_COUNT(names);) {
      size_t len = strlen(e->d_name);
      if (len > 5 && !strcmp(e->d_name + len - 5, ".yaml"))
        names[n++] = zg_arena_strn(mem, e->d_name, len - 5);
    }
    if (d) closedir(d);
  }
  if (strchr(name, '/') || !n) return zg_error(ZG_NOT_FOUND, "--config %s: no such file", name);
  qsort(names, n, sizeof *names, by_name);
  const char *near = zg_nearest(name, names, n);
  if (near) return zg_error(ZG_NOT_FOUND, "--config %s: no such file; did you mean \"%s\"?", name, near);
  zg_str all = {0};
  for (size_t i = 0; i < n; i++)
    if (!i || strcmp(names[i], names[i - 1])) zg_str_add(&all, "%s%s", i ? ", " : "", names[i]);
  zg_status status =
      zg_error(ZG_NOT_FOUND, "--config %s: no such file, nor a packaged one (%s)", name, all.at);
  zg_str_fini(&all);
  return status;
}

// A folder of that name (an output_dir called zero3) does not hide a packaged file.
static bool is_file(const char *path) {
  struct stat st;
  return !stat(path, &st) && !S_ISDIR(st.st_mode);
}

static zg_status find_file(zg_arena *mem, const char *name, const char **out) {
  const char *dirs[4];
  *out = name;
  if (is_file(name)) return NULL;
  size_t n = config_dirs(mem, dirs);
  for (size_t i = 0; i < n && !strchr(name, '/'); i++) {
    *out = zg_arena_printf(mem, "%s/%s.yaml", dirs[i], name);
    if (is_file(*out)) return NULL;
  }
  return no_such_config(mem, name, dirs, n);
}

static bool ends_with(const char *s, const char *end) {
  size_t n = strlen(s), m = strlen(end);
  return n >= m && !strcmp(s + n - m, end);
}

static zg_status read_file(zg_config *cfg, const char *name, const zg_yaml **out) {
  const char *path = NULL;
  zg_str text = {0};
  ZG_TRY(find_file(&cfg->mem, name, &path));
  zg_status status = zg_file_read(path, &text);
  if (!status && text.n > (16u << 20))
    status = zg_error(ZG_INVALID, "%s: a configuration of %zu bytes? It must be under 16 MiB", path, text.n);
  if (!status && ends_with(path, ".json"))
    status = zg_json_parse(&cfg->mem, path, text.at ? text.at : "", text.n, out);
  else if (!status) status = zg_yaml_parse(&cfg->mem, path, text.at ? text.at : "", text.n, out);
  zg_str_fini(&text);
  if (status) return status;
  if ((*out)->kind != ZG_YAML_MAP && (*out)->kind != ZG_YAML_NULL)
    return zg_yaml_error(*out, "the file holds %s, want a mapping of keys", zg_yaml_kind_name((*out)->kind));
  return NULL;
}

// "a.b=v" becomes {a: {b: v}}. The value is read from a copy in which the path is blank, so that its columns
// are right.
static zg_status read_set(zg_config *cfg, const char *arg, const zg_yaml **out) {
  const char *eq = strchr(arg, '=');
  if (!eq || eq == arg)
    return zg_error(ZG_INVALID, "--set %s: want key.path=value, as in --set optimizer.lr=3e-4", arg);
  char *blank = zg_arena_str(&cfg->mem, arg);
  memset(blank, ' ', (size_t)(eq - arg) + 1);
  const zg_yaml *value = NULL;
  ZG_TRY(zg_yaml_parse(&cfg->mem, "--set", blank, strlen(blank), &value));
  zg_yaml_source *src = (zg_yaml_source *)(uintptr_t)value->src;
  src->text = zg_arena_str(&cfg->mem, arg);
  size_t starts[16], n = 0;
  for (const char *p = arg; p && p < eq && n < ZG_COUNT(starts); n++) {
    starts[n] = (size_t)(p - arg);
    int row = zg__key_find(&zg__config_table, zg_arena_strn(&cfg->mem, arg, starts[n] ? starts[n] - 1 : 0));
    bool names = row >= 0 && (zg__config_table.keys[row].kind == ZG_KEY_STR_MAP ||
                              zg__config_table.keys[row].kind == ZG_KEY_INT_MAP);
    const char *dot = memchr(p, '.', (size_t)(eq - p));  // names of tensors may contain dots
    p = names ? NULL : dot ? dot + 1 : NULL;
  }
  zg_yaml *inner = (zg_yaml *)(uintptr_t)value;
  for (size_t end = (size_t)(eq - arg); n-- > 0; end = starts[n] - 1) {
    uint32_t col = (uint32_t)starts[n] + 1;
    zg_yaml *key = zg__yaml_node(&cfg->mem, src, ZG_YAML_STR, 1, col),
            *map = zg__yaml_node(&cfg->mem, src, ZG_YAML_MAP, 1, col);
    key->text = zg_arena_strn(&cfg->mem, arg + starts[n], end - starts[n]);
    map->text = "";
    map->n = 1;
    map->keys = zg_arena_copy(&cfg->mem, &key, sizeof key);
    map->vals = zg_arena_copy(&cfg->mem, &inner, sizeof inner);
    inner = map;
  }
  *out = inner;
  return NULL;
}

zg_status zg_config_load(const char *const *files, size_t n, const char *const *sets, size_t n_sets,
                         zg_config **out) {
  zg_config *cfg = zg_alloc(sizeof *cfg);
  const zg_yaml **docs = zg_alloc((1 + n + n_sets) * sizeof *docs), **first = docs + 1;
  size_t n_docs = n + n_sets;
  zg_status status = NULL;
  *out = NULL;
  zg__key_defaults(&cfg->mem, &zg__config_table, cfg);
  for (size_t i = 0; i < n; i++) ZG_TRY_OUT(read_file(cfg, files[i], &first[i]));
  for (size_t i = 0; i < n_sets; i++) ZG_TRY_OUT(read_set(cfg, sets[i], &first[n + i]));
  ZG_TRY_OUT(zg__accelerate_env(cfg, &docs[0]));
  if (docs[0]) first = docs, n_docs++;
  ZG_TRY_OUT(zg__accelerate_begin(cfg, first, n_docs));
  for (size_t i = 0; i < n_docs; i++)
    ZG_TRY_OUT(zg__deepspeed_is_json(first[i]) ? zg__deepspeed_apply(cfg, first[i])
                                               : zg__config_apply(cfg, "", first[i]));
  ZG_TRY_OUT(zg__accelerate_end(cfg));
  ZG_TRY_OUT(zg__config_finish(cfg));
  cfg->state = NULL;
  *out = cfg;
  cfg = NULL;
out:
  zg_free(docs);
  zg_config_free(cfg);
  return status;
}

void zg_config_free(zg_config *cfg) {
  if (!cfg) return;
  zg_arena_fini(&cfg->mem);
  zg_free(cfg);
}

// ---- asking -------------------------------------------------------------------------------------------------------

const char *zg_config_origin(const zg_config *cfg, const char *key) {
  int row = zg__key_find(&zg__config_table, key);
  return row < 0 ? NULL : cfg->origin[row];
}

bool zg_config_given(const zg_config *cfg, const char *key) {
  const char *origin = zg_config_origin(cfg, key);
  return origin && !zg__key_is_default(origin);
}

zg_status zg_config_require(const zg_config *cfg, const char *key) {
  int row = zg__key_find(&zg__config_table, key);
  ZG_ASSERT(row >= 0);
  if (zg_config_given(cfg, key)) return NULL;
  return zg_error(ZG_INVALID, "%s is not given (%s): put it into a --config file or add --set %s=...", key,
                  zg__config_table.keys[row].doc, key);
}

zg_status zg__config_error(const zg_config *cfg, const char *key, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  char text[512];
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  return zg_error(ZG_INVALID, "%s: %s: %s", zg_config_origin(cfg, key), key, text);
}

const char *zg_config_choice(const zg_config *cfg, const char *key) {
  int row = zg__key_find(&zg__config_table, key);
  ZG_ASSERT(row >= 0 && zg__config_table.keys[row].kind == ZG_KEY_ENUM);
  const zg_key *k = &zg__config_table.keys[row];
  return k->choices[*(const int *)zg__key_at(k, cfg)];
}

static void fill_one(zg_config *cfg, const char *key, bool *is_auto, int64_t *value, double filled,
                     const char *rule) {
  if (!*is_auto) return;
  *is_auto = false;
  if (zg_config_given(cfg, key)) return;  // a later file gave a number
  *value = filled < 1 ? 1 : filled > 9e18 ? INT64_MAX : (int64_t)filled;
  cfg->origin[zg__key_find(&zg__config_table, key)] =
      zg_arena_printf(&cfg->mem, "auto: %s of the model's width", rule);
  zg__config_note(cfg, "%s was auto: %lld, %s of the model's width", key, (long long)*value, rule);
}

void zg_config_fill_auto(zg_config *cfg, int64_t hidden_size) {
  double h = (double)hidden_size;
  fill_one(cfg, "zero.reduce_bucket_size", &cfg->zero.auto_reduce_bucket_size, &cfg->zero.reduce_bucket_size,
           h * h, "h*h");
  fill_one(cfg, "zero.stage3_prefetch_bucket_size", &cfg->zero.auto_prefetch_bucket_size,
           &cfg->zero.stage3_prefetch_bucket_size, floor(0.9 * h * h), "0.9*h*h");
  fill_one(cfg, "zero.stage3_param_persistence_threshold", &cfg->zero.auto_persistence_threshold,
           &cfg->zero.stage3_param_persistence_threshold, 10 * h, "10*h");
}

uint64_t zg_config_hash(const zg_config *cfg) {
  static const char *const local[] = {"machine_rank", "main_process_ip", "gpu_ids", "threads",
                                      "training.output_dir"};
  zg_str text = {0};
  for (size_t i = 0; i < zg__config_table.n; i++) {
    const zg_key *k = &zg__config_table.keys[i];
    bool skip = false;
    for (size_t j = 0; j < ZG_COUNT(local); j++) skip |= !strcmp(k->path, local[j]);
    if (skip) continue;
    zg_str_add(&text, "%s=", k->path);
    zg__key_text(k, cfg, &text);
    zg_str_add(&text, "\n");
  }
  uint64_t h = zg_hash(text.at, text.n, 0);
  zg_str_fini(&text);
  return h;
}

void zg_config_print(const zg_config *cfg, FILE *to) {
  zg_str value = {0};
  for (size_t i = 0; i < zg__config_table.n; i++) {
    const zg_key *k = &zg__config_table.keys[i];
    value.n = 0;
    zg__key_text(k, cfg, &value);
    fprintf(to, "%-46s %-28s # %s\n", k->path, value.at, cfg->origin[i]);
  }
  if (cfg->notes.n) fprintf(to, "\n");
  for (size_t i = 0; i < cfg->notes.n; i++) fprintf(to, "# note: %s\n", cfg->notes.at[i]);
  zg_str_fini(&value);
}
