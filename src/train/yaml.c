// The YAML reader: libyaml's events to a tree.
//
// - A plain scalar is resolved by YAML 1.1's patterns in PyYAML's version of them (resolver.py), written out
// by hand below,
//   one function per pattern group. Explicit tags !!str, !!int, !!float, !!bool, !!null, !!seq and !!map are
//   obeyed.
// - An alias is the anchored node itself, not a copy, so reading "billion laughs" costs nothing; but whoever
// walks the tree
//   would walk it expanded. Each node therefore carries its expanded size, and the reader stops when that
//   passes a bound.
// - `<<` is flattened when its mapping ends: entries of the mapping itself win, then the first merged
// mapping, as in PyYAML.
#include "train/yaml.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <yaml.h>

enum { MAX_WEIGHT = 100000, MAX_DEPTH = 64 };

// ---- nodes and messages -------------------------------------------------------------------------------------------

zg_yaml_source *zg__yaml_source(zg_arena *mem, const char *name, const char *text, size_t n) {
  zg_yaml_source *s = ZG_NEW(mem, zg_yaml_source);
  *s = (zg_yaml_source){zg_arena_str(mem, name), zg_arena_strn(mem, n ? text : "", n), n};
  return s;
}

zg_yaml *zg__yaml_node(zg_arena *mem, const zg_yaml_source *src, zg_yaml_kind kind, uint32_t line,
                       uint32_t col) {
  zg_yaml *node = ZG_NEW(mem, zg_yaml);
  *node = (zg_yaml){.kind = kind, .src = src, .line = line, .col = col, .weight = 1};
  return node;
}

const char *zg_yaml_kind_name(zg_yaml_kind k) {
  switch (k) {
    case ZG_YAML_NULL: return "null";
    case ZG_YAML_BOOL: return "a boolean";
    case ZG_YAML_INT: return "an integer";
    case ZG_YAML_FLOAT: return "a number";
    case ZG_YAML_STR: return "a string";
    case ZG_YAML_SEQ: return "a list";
    case ZG_YAML_MAP: return "a mapping";
  }
  return "?";
}

static zg_bytes source_line(const zg_yaml_source *src, uint32_t line) {
  const char *p = src->text, *end = src->text + src->n;
  for (; line > 1 && p < end; line--) {
    const char *nl = memchr(p, '\n', (size_t)(end - p));
    p = nl ? nl + 1 : end;
  }
  const char *nl = memchr(p, '\n', (size_t)(end - p));
  size_t n = (size_t)((nl ? nl : end) - p);
  if (n && p[n - 1] == '\r') n--;
  return (zg_bytes){(const uint8_t *)p, n};
}

zg_status zg__yaml_error(const zg_yaml_source *src, uint32_t line, uint32_t col, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  char message[1024];
  vsnprintf(message, sizeof message, fmt, ap);
  va_end(ap);
  zg_bytes text = source_line(src, line);
  zg_str s = {0};
  zg_str_add(&s, "%s:%u:%u: %s", src->name, line, col, message);
  if (text.n && text.n < 200) {
    zg_str_add(&s, "\n  ");
    zg_str_put(&s, (const char *)text.at, text.n);
    zg_str_add(&s, "\n  ");
    uint32_t at = 1;
    for (size_t i = 0; i < text.n && at < col;
         i++) {  // tabs keep their width, UTF-8 continuation bytes count nothing
      if ((text.at[i] & 0xc0) == 0x80) continue;
      zg_str_put(&s, text.at[i] == '\t' ? "\t" : " ", 1);
      at++;
    }
    zg_str_put(&s, "^", 1);
  }
  zg_status status = zg_error(ZG_INVALID, "%s", s.at);
  zg_str_fini(&s);
  return status;
}

const zg_yaml *zg_yaml_get(const zg_yaml *map, const char *key) {
  if (!map || map->kind != ZG_YAML_MAP) return NULL;
  for (uint32_t i = 0; i < map->n; i++)
    if (map->keys[i]->kind == ZG_YAML_STR && !strcmp(map->keys[i]->text, key)) return map->vals[i];
  return NULL;
}

static bool same_key(const zg_yaml *a, const zg_yaml *b) {
  return a->kind == b->kind &&
         (a->kind == ZG_YAML_BOOL || a->kind == ZG_YAML_INT ? a->i == b->i : !strcmp(a->text, b->text));
}

zg_status zg__yaml_check_duplicates(const zg_yaml *map) {
  zg_map seen = {0};
  zg_status status = NULL;
  zg_str name = {0};
  for (uint32_t i = 0; i < map->n && !status; i++) {
    const zg_yaml *k = map->keys[i];
    name.n = 0;
    if (k->kind == ZG_YAML_BOOL || k->kind == ZG_YAML_INT)
      zg_str_add(&name, "%d:%lld", k->kind, (long long)k->i);
    else zg_str_add(&name, "%d:%s", k->kind, k->text);
    uint64_t first = 0;
    if (zg_map_get(&seen, name.at, &first)) {
      status = zg_yaml_error(k, "key \"%s\" is given twice (first on line %u); keep one of them", k->text,
                             map->keys[first]->line);
    }
    zg_map_put(&seen, name.at, i);
  }
  zg_str_fini(&name);
  zg_map_fini(&seen);
  return status;
}

// ---- scalars, YAML 1.1 as in PyYAML -------------------------------------------------------------------------------

static bool one_of(const char *s, const char *const *words) {
  for (; *words; words++)
    if (!strcmp(s, *words)) return true;
  return false;
}

static bool is_null(const char *s) {
  return one_of(s, (const char *const[]){"", "~", "null", "Null", "NULL", NULL});
}

static bool is_bool(const char *s, int64_t *out) {
  *out =
      one_of(s, (const char *const[]){"yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON", NULL});
  return *out || one_of(s, (const char *const[]){"no", "No", "NO", "false", "False", "FALSE", "off", "Off",
                                                 "OFF", NULL});
}

static size_t span(const char *s, const char *set) { return strspn(s, set); }
static size_t sign_span(const char *s) { return *s == '-' || *s == '+'; }

// (:[0-5]?[0-9])+ : length, or 0.
static size_t sixty_span(const char *s) {
  size_t at = 0;
  while (s[at] == ':') {
    size_t digits = span(s + at + 1, "0123456789");
    if (digits < 1 || digits > 2 || (digits == 2 && s[at + 1] > '5')) return 0;
    at += 1 + digits;
  }
  return at;
}

// Text without underscores, for strtod and strtoull; false if it is unreasonably long.
static bool strip(const char *s, char out[256]) {
  size_t n = 0;
  for (; *s; s++)
    if (*s != '_') {
      if (n == 255) return false;
      out[n++] = *s;
    }
  out[n] = 0;
  return true;
}

static double sixty_value(const char *digits) {
  double value = 0;
  for (const char *p = digits; p; p = strchr(p, ':') ? strchr(p, ':') + 1 : NULL)
    value = value * 60 + strtod(p, NULL);
  return value;
}

// The int patterns. A value beyond 64 bits becomes a FLOAT: Python has no bound there, we do.
static bool is_int(const char *s, zg_yaml *node) {
  const char *body = s + sign_span(s);
  size_t n = strlen(body), digits;
  char clean[256];
  int base = 0;
  bool sixty = false;
  if (n > 2 && body[0] == '0' && body[1] == 'b' && span(body + 2, "01_") == n - 2) base = 2;
  else if (n > 2 && body[0] == '0' && body[1] == 'x' && span(body + 2, "0123456789abcdefABCDEF_") == n - 2)
    base = 16;
  else if (n > 1 && body[0] == '0' && span(body + 1, "01234567_") == n - 1) base = 8;
  else if (!strcmp(body, "0")) base = 10;
  else if (*body >= '1' && *body <= '9') {
    digits = span(body, "0123456789_");
    if (digits == n) base = 10;
    else sixty = sixty_span(body + digits) == n - digits;
  }
  if ((!base && !sixty) || !strip(body, clean)) return false;
  const char *first = clean + (base == 2 || base == 16 ? 2 : 0);
  if (!*first) return false;
  bool negative = *s == '-';
  char *end = NULL;
  errno = 0;
  uint64_t u = sixty ? 0 : strtoull(first, &end, base);
  double f = sixty ? sixty_value(clean) : errno ? strtod(clean, NULL) : (double)u;
  if (sixty && f < 9e18) u = (uint64_t)f;
  node->f = negative ? -f : f;
  if (errno || f >= 9.3e18 || u > (uint64_t)INT64_MAX) {
    node->kind = ZG_YAML_FLOAT;
    return true;
  }
  node->kind = ZG_YAML_INT;
  node->i = negative ? -(int64_t)u : (int64_t)u;
  return true;
}

// \.[0-9_]* or \.[0-9][0-9_]* was seen before `s`; what may follow: an exponent with a sign, or the end.
static bool exponent_or_end(const char *s) {
  if (!*s) return true;
  if ((*s != 'e' && *s != 'E') || (s[1] != '-' && s[1] != '+')) return false;
  size_t n = span(s + 2, "0123456789");
  return n > 0 && !s[2 + n];
}

static bool is_float(const char *s, double *out) {
  const char *digits = "0123456789_", *body = s + sign_span(s);
  char clean[256];
  if (one_of(body, (const char *const[]){".inf", ".Inf", ".INF", NULL}))
    return *out = *s == '-' ? -INFINITY : INFINITY, true;
  if (one_of(s, (const char *const[]){".nan", ".NaN", ".NAN", NULL})) return *out = NAN, true;
  bool ok = false, sixty = false;
  if (*body >= '0' && *body <= '9') {
    const char *p = body + span(body, digits);
    size_t n60 = sixty_span(p);
    sixty = n60 > 0;
    p += n60;
    if (*p == '.') {
      p += 1 + span(p + 1, digits);
      ok = sixty ? !*p : exponent_or_end(p);
    }
  } else if (*s == '.' && s[1] >= '0' && s[1] <= '9') {
    ok = exponent_or_end(s + 1 + span(s + 1, digits));
  }
  if (!ok || !strip(body, clean)) return false;
  double f = sixty ? sixty_value(clean) : strtod(clean, NULL);
  *out = *s == '-' ? -f : f;
  return true;
}

static void resolve_plain(zg_yaml *node) {
  const char *s = node->text;
  node->kind = ZG_YAML_STR;
  if (is_null(s)) node->kind = ZG_YAML_NULL;
  else if (is_bool(s, &node->i)) node->kind = ZG_YAML_BOOL;
  else if (is_float(s, &node->f)) node->kind = ZG_YAML_FLOAT;
  else (void)is_int(s, node);
}

// ---- reading events -----------------------------------------------------------------------------------------------

typedef struct {
  const char *name;
  zg_yaml *node;
} anchor;  // node NULL while its collection is still open
typedef struct {
  zg_arena *mem;
  const zg_yaml_source *src;
  yaml_parser_t yaml;
  yaml_event_t event;
  bool have_event;
  ZG_VEC(anchor) anchors;
} reader;

static zg_status next_event(reader *r) {
  if (r->have_event) yaml_event_delete(&r->event);
  r->have_event = false;
  if (yaml_parser_parse(&r->yaml, &r->event)) return r->have_event = true, NULL;
  yaml_mark_t m = r->yaml.problem_mark;
  const char *problem = r->yaml.problem ? r->yaml.problem : "not readable as YAML";
  const char *hint = strstr(problem, "cannot start any token")
                         ? " (tabs may not indent YAML; quote text that starts with a special character)"
                         : "";
  return zg__yaml_error(r->src, (uint32_t)m.line + 1, (uint32_t)m.column + 1, "%s%s", problem, hint);
}

static uint32_t event_line(const reader *r) { return (uint32_t)r->event.start_mark.line + 1; }
static uint32_t event_col(const reader *r) { return (uint32_t)r->event.start_mark.column + 1; }

static zg_status obey_tag(zg_yaml *node, const char *tag) {
  static const char prefix[] = "tag:yaml.org,2002:";
  zg_yaml_kind was = node->kind, want;
  const char *name = strncmp(tag, prefix, sizeof prefix - 1) ? "" : tag + sizeof prefix - 1;
  if (!strcmp(tag, "!"))
    return node->kind = was == ZG_YAML_SEQ || was == ZG_YAML_MAP ? was : ZG_YAML_STR, NULL;
  if (!strcmp(name, "str")) want = ZG_YAML_STR;
  else if (!strcmp(name, "int")) want = ZG_YAML_INT;
  else if (!strcmp(name, "float")) want = ZG_YAML_FLOAT;
  else if (!strcmp(name, "bool")) want = ZG_YAML_BOOL;
  else if (!strcmp(name, "null")) want = ZG_YAML_NULL;
  else if (!strcmp(name, "seq")) want = ZG_YAML_SEQ;
  else if (!strcmp(name, "map")) want = ZG_YAML_MAP;
  else return zg_yaml_error(node, "tag %s is not allowed in a configuration file; remove it", tag);
  bool collection = was == ZG_YAML_SEQ || was == ZG_YAML_MAP;
  if (!collection && want == ZG_YAML_STR) return node->kind = want, NULL;
  if (!collection) resolve_plain(node);
  if (want == ZG_YAML_FLOAT && node->kind == ZG_YAML_INT) node->kind = want;
  if (want == ZG_YAML_FLOAT && node->kind == ZG_YAML_STR && *node->text) {
    char *end;
    node->f = strtod(node->text, &end);
    if (!*end) node->kind = want;
  }
  if (node->kind != want)
    return zg_yaml_error(node, "%s does not fit its tag !!%s", zg_yaml_kind_name(node->kind), name);
  return NULL;
}

static zg_status read_node(reader *r, int depth, zg_yaml **out);

static zg_status read_alias(reader *r, zg_yaml **out) {
  const char *name = (const char *)r->event.data.alias.anchor;
  for (size_t i = r->anchors.n; i-- > 0;) {
    if (strcmp(r->anchors.at[i].name, name)) continue;
    if (r->anchors.at[i].node) return *out = r->anchors.at[i].node, NULL;
    return zg__yaml_error(r->src, event_line(r), event_col(r),
                          "alias *%s stands inside the node it refers to", name);
  }
  return zg__yaml_error(r->src, event_line(r), event_col(r), "alias *%s has no anchor &%s before it", name,
                        name);
}

static size_t open_anchor(reader *r, const yaml_char_t *name) {
  if (!name) return SIZE_MAX;
  zg_vec_push(&r->anchors, (anchor){zg_arena_str(r->mem, (const char *)name), NULL});
  return r->anchors.n - 1;
}

static void close_anchor(reader *r, size_t at, zg_yaml *node) {
  if (at != SIZE_MAX) r->anchors.at[at].node = node;
}

static zg_status read_scalar(reader *r, zg_yaml **out) {
  zg_yaml *node = zg__yaml_node(r->mem, r->src, ZG_YAML_STR, event_line(r), event_col(r));
  const char *text = (const char *)r->event.data.scalar.value, *tag = (const char *)r->event.data.scalar.tag;
  size_t n = r->event.data.scalar.length;
  node->text = zg_arena_strn(r->mem, text, n);
  node->quoted = r->event.data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
  if (strlen(node->text) != n) return zg_yaml_error(node, "a string may not contain the character \\0");
  close_anchor(r, open_anchor(r, r->event.data.scalar.anchor), node);
  *out = node;
  if (tag) return obey_tag(node, tag);
  if (!node->quoted) resolve_plain(node);
  return NULL;
}

typedef ZG_VEC(zg_yaml *) node_vec;

// Appends entries of `from` that `keys` does not have yet; returns the weight added.
static uint64_t add_missing(node_vec *keys, node_vec *vals, const zg_yaml *from) {
  uint64_t weight = 0;
  for (uint32_t i = 0; i < from->n; i++) {
    bool have = false;
    for (size_t k = 0; k < keys->n && !have; k++) have = same_key(keys->at[k], from->keys[i]);
    if (have) continue;
    zg_vec_push(keys, from->keys[i]);
    zg_vec_push(vals, from->vals[i]);
    weight += from->vals[i]->weight + 1;
  }
  return weight;
}

static bool is_merge_key(const zg_yaml *key) {
  return key->kind == ZG_YAML_STR && !key->quoted && !strcmp(key->text, "<<");
}

static zg_status merge(zg_yaml *map, node_vec *keys, node_vec *vals, const zg_yaml *value) {
  if (value->kind == ZG_YAML_MAP) return map->weight += add_missing(keys, vals, value), NULL;
  if (value->kind != ZG_YAML_SEQ)
    return zg_yaml_error(value, "<< merges a mapping or a list of them, not %s",
                         zg_yaml_kind_name(value->kind));
  for (uint32_t i = 0; i < value->n; i++) {
    if (value->vals[i]->kind != ZG_YAML_MAP)
      return zg_yaml_error(value->vals[i], "<< merges mappings, not %s",
                           zg_yaml_kind_name(value->vals[i]->kind));
    map->weight += add_missing(keys, vals, value->vals[i]);
    if (map->weight > MAX_WEIGHT) return zg_yaml_error(map, "merged aliases make this document too large");
  }
  return NULL;
}

static zg_status read_entry(reader *r, int depth, zg_yaml *node, node_vec *keys, node_vec *vals,
                            node_vec *merges) {
  zg_yaml *key = NULL, *val = NULL;
  bool map = node->kind == ZG_YAML_MAP;
  if (map) {
    ZG_TRY(read_node(r, depth, &key));
    if (key->kind == ZG_YAML_SEQ || key->kind == ZG_YAML_MAP)
      return zg_yaml_error(key, "a key must be a scalar, not %s", zg_yaml_kind_name(key->kind));
    ZG_TRY(next_event(r));
  }
  ZG_TRY(read_node(r, depth, &val));
  node->weight += val->weight + (key ? 1 : 0);
  if (node->weight > MAX_WEIGHT)
    return zg_yaml_error(node, "the document expands to more than %d nodes (aliases of aliases?)",
                         MAX_WEIGHT);
  if (map && is_merge_key(key)) {
    zg_vec_push(merges, val);
    return NULL;
  }
  if (map) zg_vec_push(keys, key);
  zg_vec_push(vals, val);
  return NULL;
}

static zg_status read_collection(reader *r, int depth, zg_yaml_kind kind, yaml_event_type_t end,
                                 zg_yaml **out) {
  bool map = kind == ZG_YAML_MAP;
  zg_yaml *node = zg__yaml_node(r->mem, r->src, kind, event_line(r), event_col(r));
  const char *tag = (const char *)(map ? r->event.data.mapping_start.tag : r->event.data.sequence_start.tag);
  size_t anchor_at =
      open_anchor(r, map ? r->event.data.mapping_start.anchor : r->event.data.sequence_start.anchor);
  node_vec keys = {0}, vals = {0}, merges = {0};
  zg_status status = NULL;
  node->text = "";
  if (depth >= MAX_DEPTH) ZG_TRY_OUT(zg_yaml_error(node, "nested more than %d deep", MAX_DEPTH));
  if (tag) ZG_TRY_OUT(obey_tag(node, tag));
  for (;;) {
    ZG_TRY_OUT(next_event(r));
    if (r->event.type == end) break;
    ZG_TRY_OUT(read_entry(r, depth + 1, node, &keys, &vals, &merges));
  }
  node->n = (uint32_t)vals.n, node->keys = keys.at, node->vals = vals.at;
  if (map) ZG_TRY_OUT(zg__yaml_check_duplicates(node));
  for (size_t i = 0; i < merges.n; i++) ZG_TRY_OUT(merge(node, &keys, &vals, merges.at[i]));
  node->n = (uint32_t)vals.n;
  node->keys = map ? zg_arena_copy(r->mem, keys.at, keys.n * sizeof *keys.at) : NULL;
  node->vals = zg_arena_copy(r->mem, vals.at, vals.n * sizeof *vals.at);
  close_anchor(r, anchor_at, node);
  *out = node;
out:
  zg_vec_fini(&keys);
  zg_vec_fini(&vals);
  zg_vec_fini(&merges);
  return status;
}

// Reads the node whose first event is the current one.
static zg_status read_node(reader *r, int depth, zg_yaml **out) {
  switch (r->event.type) {
    case YAML_ALIAS_EVENT: return read_alias(r, out);
    case YAML_SCALAR_EVENT: return read_scalar(r, out);
    case YAML_SEQUENCE_START_EVENT:
      return read_collection(r, depth, ZG_YAML_SEQ, YAML_SEQUENCE_END_EVENT, out);
    case YAML_MAPPING_START_EVENT: return read_collection(r, depth, ZG_YAML_MAP, YAML_MAPPING_END_EVENT, out);
    default: return zg__yaml_error(r->src, event_line(r), event_col(r), "not readable as YAML");
  }
}

static zg_status read_document(reader *r, zg_yaml **out) {
  *out = zg__yaml_node(r->mem, r->src, ZG_YAML_NULL, 1, 1);
  (*out)->text = "";
  ZG_TRY(next_event(r));  // stream start
  ZG_TRY(next_event(r));
  if (r->event.type == YAML_STREAM_END_EVENT) return NULL;
  ZG_TRY(next_event(r));  // past document start
  ZG_TRY(read_node(r, 0, out));
  ZG_TRY(next_event(r));  // document end
  ZG_TRY(next_event(r));
  if (r->event.type == YAML_STREAM_END_EVENT) return NULL;
  return zg__yaml_error(r->src, event_line(r), event_col(r),
                        "a second document starts here; put it into a file of its own");
}

zg_status zg_yaml_parse(zg_arena *mem, const char *name, const char *text, size_t n, const zg_yaml **out) {
  reader r = {.mem = mem, .src = zg__yaml_source(mem, name, text, n)};
  if (!yaml_parser_initialize(&r.yaml))
    return zg_error(ZG_OUT_OF_MEMORY, "%s: no memory for the YAML reader", name);
  yaml_parser_set_input_string(&r.yaml, (const unsigned char *)r.src->text, n);
  zg_yaml *root = NULL;
  zg_status status = read_document(&r, &root);
  if (r.have_event) yaml_event_delete(&r.event);
  yaml_parser_delete(&r.yaml);
  zg_vec_fini(&r.anchors);
  *out = status ? NULL : root;
  return status;
}
