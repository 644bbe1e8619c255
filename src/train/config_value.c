// Values of single keys: from a document node into a typed field, and back to text. One function per kind.
#include "train/config_priv.h"

#include <stdlib.h>

bool zg__key_is_default(const char *origin) { return !origin || !strncmp(origin, "default", 7); }

const char *zg__key_origin(zg_arena *mem, const zg_yaml *at) {
  if (!strncmp(at->src->name, "--set", 5)) return zg_arena_str(mem, at->src->name);
  return zg_arena_printf(mem, "%s:%u:%u", at->src->name, at->line, at->col);
}

static zg_status wrong_kind(const zg_key *k, const zg_yaml *v, const char *want) {
  if (v->kind == ZG_YAML_SEQ || v->kind == ZG_YAML_MAP)
    return zg_yaml_error(v, "%s is %s, want %s", k->path, zg_yaml_kind_name(v->kind), want);
  return zg_yaml_error(v, "%s is %s (%s), want %s", k->path, zg_yaml_kind_name(v->kind), v->text, want);
}

static zg_status check_range(const zg_key *k, const zg_yaml *v, double x) {
  if (k->min == 0 && k->max == 0) return NULL;
  if (x >= k->min && x <= k->max) return NULL;
  if (k->max >= 1e15) return zg_yaml_error(v, "%s is %s, want %g or more", k->path, v->text, k->min);
  return zg_yaml_error(v, "%s is %s, want %g to %g", k->path, v->text, k->min, k->max);
}

// A number, also one that YAML 1.1 leaves a string (1e9, 3e-4): nothing else can be meant where a number is
// wanted.
static bool number_of(const zg_yaml *v, double *out) {
  *out = v->f;
  if (v->kind == ZG_YAML_INT || v->kind == ZG_YAML_FLOAT) return true;
  if (v->kind != ZG_YAML_STR || !*v->text || strspn(v->text, "0123456789+-.eE_") != strlen(v->text))
    return false;
  char *end;
  *out = strtod(v->text, &end);
  return !*end;
}

static zg_status set_bool(const zg_key *k, void *at, const zg_yaml *v) {
  if (v->kind != ZG_YAML_BOOL) return wrong_kind(k, v, "true or false");
  *(bool *)at = v->i != 0;
  return NULL;
}

static zg_status set_int(const zg_key *k, void *at, const zg_yaml *v) {
  double x;
  if (!number_of(v, &x)) return wrong_kind(k, v, "an integer");
  if (v->kind != ZG_YAML_INT && x != floor(x))
    return zg_yaml_error(v, "%s is %s, want an integer", k->path, v->text);
  ZG_TRY(check_range(k, v, x));
  if (v->kind != ZG_YAML_INT && fabs(x) >= 9.2e18)
    return zg_yaml_error(v, "%s is %s, which is too large", k->path, v->text);
  *(int64_t *)at = v->kind == ZG_YAML_INT ? v->i : (int64_t)x;
  return NULL;
}

static zg_status set_float(const zg_key *k, double *at, const zg_yaml *v) {
  double x;
  if (!number_of(v, &x)) return wrong_kind(k, v, "a number");
  if (!isfinite(x)) return zg_yaml_error(v, "%s is %s, want a finite number", k->path, v->text);
  ZG_TRY(check_range(k, v, x));
  *at = x;
  return NULL;
}

// Names may look like numbers (ONNX calls tensors "123"): then the text as written counts.
static zg_status set_str(zg_arena *mem, const zg_key *k, const char **at, const zg_yaml *v) {
  if (v->kind == ZG_YAML_BOOL)
    return zg_yaml_error(v, "%s is the boolean %s; put the text into quotes", k->path, v->text);
  if (v->kind == ZG_YAML_NULL || v->kind == ZG_YAML_SEQ || v->kind == ZG_YAML_MAP)
    return wrong_kind(k, v, "a string");
  *at = zg_arena_str(mem, v->text);
  return NULL;
}

static bool ascii_same(const char *a, const char *b) {
  for (; *a && *b; a++, b++) {
    char x = *a >= 'A' && *a <= 'Z' ? (char)(*a + 32) : *a, y = *b >= 'A' && *b <= 'Z' ? (char)(*b + 32) : *b;
    if (x != y) return false;
  }
  return *a == *b;
}

static size_t n_choices(const zg_key *k) {
  size_t n = 0;
  while (k->choices[n]) n++;
  return n;
}

// Index of the choice that a scalar names, or -1. Bare no, off, yes, on and numbers are taken by their text: `mixed_precision: no` means
// 'no'; a false (bare no, off) and "off" mean the choice that says so.
static int find_choice(const zg_key *k, const zg_yaml *v) {
  const bool off = (v->kind == ZG_YAML_BOOL && !v->i) || ascii_same(v->text, "off");
  for (int i = 0; k->choices[i]; i++) {
    const char *c = k->choices[i];
    if (ascii_same(v->text, c) || (off && (ascii_same(c, "no") || ascii_same(c, "off") || ascii_same(c, "none")))) return i;
  }
  return -1;
}

static zg_status set_enum(const zg_key *k, void *at, const zg_yaml *v) {
  if (v->kind == ZG_YAML_SEQ || v->kind == ZG_YAML_MAP || v->kind == ZG_YAML_NULL)
    return wrong_kind(k, v, "one of its names");
  const int found = find_choice(k, v);
  if (found >= 0) return *(int *)at = found, NULL;
  zg_str names = {0};
  for (int i = 0; k->choices[i]; i++) zg_str_add(&names, "%s%s", i ? ", " : "", k->choices[i]);
  const char *near = zg_nearest(v->text, k->choices, n_choices(k));
  zg_status status =
      near ? zg_yaml_error(v, "%s is \"%s\"; did you mean %s? It takes: %s", k->path, v->text, near, names.at)
           : zg_yaml_error(v, "%s is \"%s\", want one of: %s", k->path, v->text, names.at);
  zg_str_fini(&names);
  return status;
}

static zg_status set_count(const zg_key *k, int64_t *at, const zg_yaml *v) {
  const bool scalar = v->kind != ZG_YAML_SEQ && v->kind != ZG_YAML_MAP && v->kind != ZG_YAML_NULL;
  const int found = scalar ? find_choice(k, v) : -1;
  if (found >= 0) return *at = -1 - found, NULL;
  if (v->kind == ZG_YAML_INT || v->kind == ZG_YAML_FLOAT) return set_int(k, at, v);
  zg_str names = {0};
  for (int i = 0; k->choices[i]; i++) zg_str_add(&names, "%s, ", k->choices[i]);
  zg_str_add(&names, "or a number");
  zg_status status = wrong_kind(k, v, names.at);
  zg_str_fini(&names);
  return status;
}

static zg_status set_bytes(const zg_key *k, int64_t *at, const zg_yaml *v) {
  static const struct {
    const char *name;
    double bytes;
  } units[] = {{"", 1},
               {"B", 1},
               {"KiB", 1024.0},
               {"MiB", 1048576.0},
               {"GiB", 1073741824.0},
               {"TiB", 1099511627776.0},
               {"KB", 1e3},
               {"MB", 1e6},
               {"GB", 1e9},
               {"TB", 1e12},
               {"K", 1024.0},
               {"M", 1048576.0},
               {"G", 1073741824.0},
               {"T", 1099511627776.0}};
  if (v->kind != ZG_YAML_INT && v->kind != ZG_YAML_FLOAT && v->kind != ZG_YAML_STR)
    return wrong_kind(k, v, "a size like 16GiB");
  char *end = NULL;
  double x = v->kind == ZG_YAML_STR ? strtod(v->text, &end) : v->f;
  const char *unit = v->kind == ZG_YAML_STR ? end : "";
  if (v->kind == ZG_YAML_STR && end == v->text)
    return zg_yaml_error(v, "%s is \"%s\", want a size like 16GiB", k->path, v->text);
  while (*unit == ' ') unit++;
  for (size_t i = 0; i < ZG_COUNT(units); i++) {
    if (!ascii_same(unit, units[i].name)) continue;
    x *= units[i].bytes;
    if (!(x >= 1 && x < 9.2e18))
      return zg_yaml_error(v, "%s is %s, want a positive size like 16GiB", k->path, v->text);
    return *at = (int64_t)x, NULL;
  }
  return zg_yaml_error(v, "%s: \"%s\" is no unit; want KiB, MiB, GiB, TiB, KB, MB, GB, TB or plain bytes",
                       k->path, unit);
}

static zg_status set_pair(const zg_key *k, double *at, const zg_yaml *v) {
  if (v->kind != ZG_YAML_SEQ || v->n != 2)
    return v->kind == ZG_YAML_SEQ ? zg_yaml_error(v, "%s has %u entries, want two", k->path, v->n)
                                  : wrong_kind(k, v, "a list of two numbers");
  for (int i = 0; i < 2; i++) ZG_TRY(set_float(k, &at[i], v->vals[i]));
  return NULL;
}

static zg_status set_strs(zg_arena *mem, const zg_key *k, zg_cfg_strs *at, const zg_yaml *v) {
  size_t n = v->kind == ZG_YAML_SEQ ? v->n : 1;
  const char **names = ZG_NEW_N(mem, const char *, n);
  if (v->kind == ZG_YAML_MAP) return wrong_kind(k, v, "a list of strings");
  for (size_t i = 0; i < n; i++) ZG_TRY(set_str(mem, k, &names[i], v->kind == ZG_YAML_SEQ ? v->vals[i] : v));
  *at = (zg_cfg_strs){names, n};
  return NULL;
}

static zg_status set_name_sets(zg_arena *mem, const zg_key *k, zg_cfg_groups_of_names *at, const zg_yaml *v) {
  if (v->kind != ZG_YAML_SEQ) return wrong_kind(k, v, "a list of lists of names");
  zg_cfg_strs *sets = ZG_NEW_N(mem, zg_cfg_strs, v->n);
  for (uint32_t i = 0; i < v->n; i++) {
    if (v->vals[i]->kind != ZG_YAML_SEQ || v->vals[i]->n < 2)
      return zg_yaml_error(v->vals[i], "%s: want a list of two or more names", k->path);
    ZG_TRY(set_strs(mem, k, &sets[i], v->vals[i]));
  }
  *at = (zg_cfg_groups_of_names){sets, v->n};
  return NULL;
}

static zg_status map_key(const zg_key *k, const zg_yaml *key) {
  if (key->kind == ZG_YAML_BOOL || key->kind == ZG_YAML_NULL)
    return zg_yaml_error(key, "%s: this key is %s; put it into quotes", k->path,
                         zg_yaml_kind_name(key->kind));
  return NULL;
}

// Maps merge entry by entry, as sections do: a later file adds names or overrides them.
static zg_status set_str_map(zg_arena *mem, const zg_key *k, zg_cfg_str_map *at, const zg_yaml *v) {
  if (v->kind != ZG_YAML_MAP) return wrong_kind(k, v, "a mapping");
  zg_cfg_str_pair *pairs = ZG_NEW_N(mem, zg_cfg_str_pair, at->n + v->n);
  size_t n = at->n;
  if (n) memcpy(pairs, at->at, n * sizeof *pairs);
  for (uint32_t i = 0; i < v->n; i++) {
    size_t j = 0;
    ZG_TRY(map_key(k, v->keys[i]));
    while (j < n && strcmp(pairs[j].key, v->keys[i]->text)) j++;
    pairs[j].key = zg_arena_str(mem, v->keys[i]->text);
    ZG_TRY(set_str(mem, k, &pairs[j].value, v->vals[i]));
    if (j == n) n++;
  }
  *at = (zg_cfg_str_map){pairs, n};
  return NULL;
}

static zg_status set_int_map(zg_arena *mem, const zg_key *k, zg_cfg_int_map *at, const zg_yaml *v) {
  if (v->kind != ZG_YAML_MAP) return wrong_kind(k, v, "a mapping");
  zg_cfg_int_pair *pairs = ZG_NEW_N(mem, zg_cfg_int_pair, at->n + v->n);
  size_t n = at->n;
  if (n) memcpy(pairs, at->at, n * sizeof *pairs);
  for (uint32_t i = 0; i < v->n; i++) {
    size_t j = 0;
    ZG_TRY(map_key(k, v->keys[i]));
    while (j < n && strcmp(pairs[j].key, v->keys[i]->text)) j++;
    pairs[j].key = zg_arena_str(mem, v->keys[i]->text);
    ZG_TRY(set_int(k, &pairs[j].value, v->vals[i]));
    if (j == n) n++;
  }
  *at = (zg_cfg_int_map){pairs, n};
  return NULL;
}

typedef struct {
  zg_cfg_dropout_mode mode;
  double ratio;
} dropout_value;

static zg_status set_dropout(const zg_key *k, dropout_value *at, const zg_yaml *v) {
  double x;
  *at = (dropout_value){ZG_CFG_DROPOUT_GRAPH, 0};
  if (v->kind == ZG_YAML_BOOL) return at->mode = v->i ? ZG_CFG_DROPOUT_GRAPH : ZG_CFG_DROPOUT_OFF, NULL;
  if (number_of(v, &x)) {
    if (!(x >= 0 && x < 1))
      return zg_yaml_error(v, "%s is %s, want a ratio from 0 up to but not 1", k->path, v->text);
    return *at = (dropout_value){x > 0 ? ZG_CFG_DROPOUT_RATIO : ZG_CFG_DROPOUT_OFF, x}, NULL;
  }
  if (v->kind == ZG_YAML_STR && !strcmp(v->text, "graph")) return NULL;
  if (v->kind == ZG_YAML_STR && !strcmp(v->text, "off")) return at->mode = ZG_CFG_DROPOUT_OFF, NULL;
  return wrong_kind(k, v, "graph, off or a ratio");
}

// ---- lists of structs: loss, optimizer.groups ---------------------------------------------------------------------

typedef struct {
  void *at;
  size_t n;
} struct_list;

static zg_status set_struct(zg_arena *mem, const zg_key *k, void *base, const zg_yaml *v) {
  const zg_key_table *t = k->sub;
  for (uint32_t i = 0; i < v->n; i++) {
    const zg_yaml *key = v->keys[i];
    int row = key->kind == ZG_YAML_STR ? zg__key_find(t, key->text) : -1;
    if (row < 0) {
      const char *names[32];
      for (size_t j = 0; j < t->n; j++) names[j] = t->keys[j].path;
      const char *near = zg_nearest(key->text, names, t->n);
      return zg_yaml_error(key, "unknown key \"%s\" in %s%s%s%s", key->text, k->path,
                           near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    }
    ZG_TRY(zg__key_set(mem, t, row, base, v->vals[i], NULL));
  }
  return NULL;
}

// A mapping onto a list of one edits that one (a second file, or --set loss.shift=true); a list replaces the
// list.
static zg_status set_list(zg_arena *mem, const zg_key *k, struct_list *list, const zg_yaml *v) {
  bool one = v->kind == ZG_YAML_MAP;
  if (!one && v->kind != ZG_YAML_SEQ) return wrong_kind(k, v, "a mapping or a list of mappings");
  if (one && list->n > 1)
    return zg_yaml_error(v, "%s is a list of %zu so far: give a list to replace it", k->path, list->n);
  size_t n = one ? 1 : v->n;
  char *items = ZG_NEW_N(mem, char, n * k->sub->size);
  for (size_t i = 0; i < n; i++) {
    const zg_yaml *item = one ? v : v->vals[i];
    if (item->kind != ZG_YAML_MAP) return wrong_kind(k, item, "a mapping");
    zg__key_defaults(mem, k->sub, items + i * k->sub->size);
    if (one && list->n) memcpy(items, list->at, k->sub->size);
    ZG_TRY(set_struct(mem, k, items + i * k->sub->size, item));
  }
  *list = (struct_list){items, n};
  return NULL;
}

// ---- any kind -----------------------------------------------------------------------------------------------------

static zg_status set_value(zg_arena *mem, const zg_key *k, void *at, const zg_yaml *v) {
  switch (k->kind) {
    case ZG_KEY_BOOL: return set_bool(k, at, v);
    case ZG_KEY_INT: return set_int(k, at, v);
    case ZG_KEY_FLOAT: return set_float(k, at, v);
    case ZG_KEY_STR: return set_str(mem, k, at, v);
    case ZG_KEY_ENUM: return set_enum(k, at, v);
    case ZG_KEY_COUNT: return set_count(k, at, v);
    case ZG_KEY_BYTES: return set_bytes(k, at, v);
    case ZG_KEY_PAIR: return set_pair(k, at, v);
    case ZG_KEY_STRS: return set_strs(mem, k, at, v);
    case ZG_KEY_STR_MAP: return set_str_map(mem, k, at, v);
    case ZG_KEY_INT_MAP: return set_int_map(mem, k, at, v);
    case ZG_KEY_NAME_SETS: return set_name_sets(mem, k, at, v);
    case ZG_KEY_DROPOUT: return set_dropout(k, at, v);
    case ZG_KEY_LIST: return set_list(mem, k, at, v);
  }
  return NULL;
}

static size_t value_size(zg_key_kind kind) {
  switch (kind) {
    case ZG_KEY_BOOL: return sizeof(bool);
    case ZG_KEY_ENUM: return sizeof(int);
    case ZG_KEY_STR: return sizeof(char *);
    case ZG_KEY_INT:
    case ZG_KEY_COUNT:
    case ZG_KEY_BYTES:
    case ZG_KEY_FLOAT: return 8;
    case ZG_KEY_PAIR:
    case ZG_KEY_STRS:
    case ZG_KEY_STR_MAP:
    case ZG_KEY_INT_MAP:
    case ZG_KEY_NAME_SETS:
    case ZG_KEY_DROPOUT:
    case ZG_KEY_LIST: return 16;
  }
  return 0;
}

static void set_default(zg_arena *mem, const zg_key *k, void *base) {
  void *at = zg__key_at(k, base);
  memset(at, 0, value_size(k->kind));
  if (k->def) {
    const zg_yaml *v = NULL;
    zg_status status = zg_yaml_parse(mem, "default", k->def, strlen(k->def), &v);
    if (!status) status = set_value(mem, k, at, v);
    ZG_ASSERT(!status);  // the schema's own text
  } else if (k->kind == ZG_KEY_INT || k->kind == ZG_KEY_COUNT || k->kind == ZG_KEY_BYTES) {
    *(int64_t *)at = ZG_UNSET;
  } else if (k->kind == ZG_KEY_FLOAT || k->kind == ZG_KEY_PAIR) {
    for (size_t i = 0; i < (k->kind == ZG_KEY_PAIR ? 2u : 1u); i++) ((double *)at)[i] = NAN;
  }
}

void zg__key_defaults(zg_arena *mem, const zg_key_table *t, void *base) {
  const char **origin = ZG_NEW_N(mem, const char *, t->n);
  *(const char ***)base = origin;  // `origin` is the first member of every such struct
  for (size_t i = 0; i < t->n; i++) {
    set_default(mem, &t->keys[i], base);
    origin[i] = "default";
  }
}

zg_status zg__key_set(zg_arena *mem, const zg_key_table *t, int row, void *base, const zg_yaml *value,
                      const char *origin) {
  const zg_key *k = &t->keys[row];
  if (!origin) origin = zg__key_origin(mem, value);
  if (value->kind == ZG_YAML_NULL) {
    set_default(mem, k, base);
    origin = zg_arena_printf(mem, "default (null in %s)", origin);
  } else {
    ZG_TRY(set_value(mem, k, zg__key_at(k, base), value));
  }
  (*(const char ***)base)[row] = origin;
  return NULL;
}

// ---- to text ------------------------------------------------------------------------------------------------------

// Quotes where YAML would read something else back.
static void str_text(const char *s, zg_str *out) {
  if (!s) {
    zg_str_add(out, "null");
    return;
  }
  zg_arena mem = {0};
  const zg_yaml *v = NULL;
  zg_status status = strpbrk(s, "\n#:,[]{}'\"&*!|>%@`") ? zg_error(ZG_INVALID, "quote")
                                                        : zg_yaml_parse(&mem, "", s, strlen(s), &v);
  bool plain = !status && v->kind == ZG_YAML_STR && !strcmp(v->text, s);
  zg_status_free(status);
  if (plain) {
    zg_str_add(out, "%s", s);
  } else {
    zg_str_add(out, "'");
    for (const char *p = s; *p; p++) zg_str_add(out, *p == '\'' ? "''" : "%c", *p);
    zg_str_add(out, "'");
  }
  zg_arena_fini(&mem);
}

static void float_text(double x, zg_str *out) {
  char b[40];
  if (isnan(x)) {
    zg_str_add(out, "null");
    return;
  }
  for (int digits = 6; digits <= 17; digits++) {
    snprintf(b, sizeof b, "%.*g", digits, x);
    if (strtod(b, NULL) == x) break;
  }
  const char *e = strchr(b, 'e');
  if (e && !strchr(b, '.')) zg_str_add(out, "%.*s.0%s", (int)(e - b), b, e);  // 1e-08 would be a string
  else zg_str_add(out, "%s", b);
}

static void strs_text(const zg_cfg_strs *s, zg_str *out) {
  zg_str_add(out, "[");
  for (size_t i = 0; i < s->n; i++) {
    if (i) zg_str_add(out, ", ");
    str_text(s->at[i], out);
  }
  zg_str_add(out, "]");
}

static void list_text(const zg_key *k, const struct_list *list, zg_str *out) {
  zg_str_add(out, "[");
  for (size_t i = 0; i < list->n; i++) {
    const char *item = (const char *)list->at + i * k->sub->size, *separator = "";
    const char *const *origin = *(const char *const *const *)item;
    zg_str_add(out, "%s{", i ? ", " : "");
    for (size_t j = 0; j < k->sub->n; j++) {
      if (zg__key_is_default(origin[j]) && strcmp(k->sub->keys[j].path, "kind")) continue;
      zg_str_add(out, "%s%s: ", separator, k->sub->keys[j].path);
      zg__key_text(&k->sub->keys[j], item, out);
      separator = ", ";
    }
    zg_str_add(out, "}");
  }
  zg_str_add(out, "]");
}

static void maps_text(const zg_key *k, const void *at, zg_str *out) {
  const zg_cfg_str_map *s = at;
  const zg_cfg_int_map *m = at;
  bool strings = k->kind == ZG_KEY_STR_MAP;
  zg_str_add(out, "{");
  for (size_t i = 0; i < (strings ? s->n : m->n); i++) {
    if (i) zg_str_add(out, ", ");
    str_text(strings ? s->at[i].key : m->at[i].key, out);
    zg_str_add(out, ": ");
    if (strings) str_text(s->at[i].value, out);
    else zg_str_add(out, "%lld", (long long)m->at[i].value);
  }
  zg_str_add(out, "}");
}

void zg__key_text(const zg_key *k, const void *base, zg_str *out) {
  const void *at = zg__key_at(k, base);
  const dropout_value *d = at;
  const zg_cfg_groups_of_names *sets = at;
  switch (k->kind) {
    case ZG_KEY_BOOL: zg_str_add(out, *(const bool *)at ? "true" : "false"); break;
    case ZG_KEY_COUNT:
      if (*(const int64_t *)at < 0) str_text(k->choices[-1 - *(const int64_t *)at], out);
      else zg_str_add(out, "%lld", (long long)*(const int64_t *)at);
      break;
    case ZG_KEY_INT:
    case ZG_KEY_BYTES:
      if (*(const int64_t *)at == ZG_UNSET) zg_str_add(out, "null");
      else zg_str_add(out, "%lld", (long long)*(const int64_t *)at);
      break;
    case ZG_KEY_FLOAT: float_text(*(const double *)at, out); break;
    case ZG_KEY_STR: str_text(*(const char *const *)at, out); break;
    case ZG_KEY_ENUM: str_text(k->choices[*(const int *)at], out); break;
    case ZG_KEY_PAIR:
      zg_str_add(out, "[");
      float_text(((const double *)at)[0], out);
      zg_str_add(out, ", ");
      float_text(((const double *)at)[1], out);
      zg_str_add(out, "]");
      break;
    case ZG_KEY_STRS: strs_text(at, out); break;
    case ZG_KEY_STR_MAP:
    case ZG_KEY_INT_MAP: maps_text(k, at, out); break;
    case ZG_KEY_NAME_SETS:
      zg_str_add(out, "[");
      for (size_t i = 0; i < sets->n; i++) {
        if (i) zg_str_add(out, ", ");
        strs_text(&sets->at[i], out);
      }
      zg_str_add(out, "]");
      break;
    case ZG_KEY_DROPOUT:
      if (d->mode == ZG_CFG_DROPOUT_RATIO) float_text(d->ratio, out);
      else str_text(d->mode == ZG_CFG_DROPOUT_OFF ? "off" : "graph", out);
      break;
    case ZG_KEY_LIST: list_text(k, at, out); break;
  }
}
