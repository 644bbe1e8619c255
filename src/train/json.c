// The JSON reader of yaml.h: recursive descent over the text, with comments and trailing commas allowed.
#include "train/yaml.h"

#include <errno.h>
#include <stdlib.h>

enum { MAX_DEPTH = 64 };

typedef struct {
  zg_arena *mem;
  const zg_yaml_source *src;
  const char *p, *end;
  uint32_t line;
  const char *line_start;
} reader;

static uint32_t column(const reader *r) {
  uint32_t col = 1;
  for (const char *q = r->line_start; q < r->p; q++) col += ((unsigned char)*q & 0xc0) != 0x80;
  return col;
}

#define fail(r, ...) zg__yaml_error((r)->src, (r)->line, column(r), __VA_ARGS__)

static void advance(reader *r) {
  if (*r->p++ == '\n') r->line++, r->line_start = r->p;
}

static bool at(const reader *r, const char *word) {
  size_t n = strlen(word);
  return (size_t)(r->end - r->p) >= n && !memcmp(r->p, word, n);
}

static zg_status skip_space(reader *r) {
  while (r->p < r->end) {
    if (strchr(" \t\r\n", *r->p) && *r->p) {
      advance(r);
    } else if (*r->p == '#' || at(r, "//")) {
      while (r->p < r->end && *r->p != '\n') r->p++;
    } else if (at(r, "/*")) {
      reader start = *r;
      for (r->p += 2; !at(r, "*/"); advance(r))
        if (r->p >= r->end) return fail(&start, "this comment is never closed with */");
      r->p += 2;
    } else {
      break;
    }
  }
  return NULL;
}

static int hex4(const reader *r) {
  if (r->end - r->p < 4) return -1;
  int value = 0;
  for (int i = 0; i < 4; i++) {
    char c = r->p[i];
    int digit = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

static void put_utf8(zg_str *s, uint32_t c) {
  char b[4];
  size_t n = 0;
  if (c < 0x80) b[n++] = (char)c;
  else {
    if (c < 0x800) b[n++] = (char)(0xc0 | c >> 6);
    else {
      if (c < 0x10000) b[n++] = (char)(0xe0 | c >> 12);
      else b[n++] = (char)(0xf0 | c >> 18), b[n++] = (char)(0x80 | (c >> 12 & 63));
      b[n++] = (char)(0x80 | (c >> 6 & 63));
    }
    b[n++] = (char)(0x80 | (c & 63));
  }
  zg_str_put(s, b, n);
}

static zg_status read_unicode(reader *r, zg_str *s) {
  int c = hex4(r);
  if (c <= 0) return fail(r, "\\u needs four hexadecimal digits, not 0000");
  r->p += 4;
  uint32_t code = (uint32_t)c;
  if (code >= 0xd800 && code < 0xdc00 && at(r, "\\u")) {
    r->p += 2;
    int low = hex4(r);
    if (low < 0xdc00 || low > 0xdfff) return fail(r, "the second half of a \\u pair is missing");
    r->p += 4;
    code = 0x10000 + ((code - 0xd800) << 10) + ((uint32_t)low - 0xdc00);
  } else if (code >= 0xd800 && code < 0xe000) {
    return fail(r, "half of a \\u pair stands alone");
  }
  put_utf8(s, code);
  return NULL;
}

static zg_status read_escape(reader *r, zg_str *s) {
  static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
  if (r->p >= r->end) return fail(r, "this string is never closed");
  const char *f = *r->p ? strchr(from, *r->p) : NULL;
  if (*r->p == 'u') return r->p++, read_unicode(r, s);
  if (!f) return fail(r, "\\%c is not an escape of JSON", *r->p);
  zg_str_put(s, &to[f - from], 1);
  r->p++;
  return NULL;
}

static zg_status read_string(reader *r, zg_yaml *node) {
  zg_str s = {0};
  zg_status status = NULL;
  reader start = *r;
  zg_str_put(&s, "", 0);
  for (r->p++;;) {
    if (r->p >= r->end || *r->p == '\n') ZG_TRY_OUT(fail(&start, "this string is never closed"));
    char c = *r->p++;
    if (c == '"') break;
    if (c == 0) ZG_TRY_OUT(fail(r, "a string may not contain the character \\0"));
    if (c == '\\') ZG_TRY_OUT(read_escape(r, &s));
    else zg_str_put(&s, &c, 1);
  }
  node->kind = ZG_YAML_STR;
  node->quoted = true;
  node->text = zg_arena_strn(r->mem, s.n ? s.at : "", s.n);
out:
  zg_str_fini(&s);
  return status;
}

static zg_status read_word(reader *r, zg_yaml *node) {
  const char *start = r->p;
  while (r->p < r->end && *r->p && !strchr(" \t\r\n,:{}[]\"#/", *r->p)) r->p++;
  const char *s = node->text = zg_arena_strn(r->mem, start, (size_t)(r->p - start));
  const char *digits = s + (*s == '-');
  char *end = NULL;
  if (!strcmp(s, "null")) return node->kind = ZG_YAML_NULL, NULL;
  if (!strcmp(s, "true") || !strcmp(s, "false")) return node->kind = ZG_YAML_BOOL, node->i = *s == 't', NULL;
  bool number = *digits >= '0' && *digits <= '9' && s[strspn(s, "0123456789+-.eE")] == 0;
  if (number) node->f = strtod(s, &end);
  if (number && !*end) {
    errno = 0;
    node->kind = s[strcspn(s, ".eE")] ? ZG_YAML_FLOAT : ZG_YAML_INT;
    if (node->kind == ZG_YAML_INT) node->i = strtoll(s, &end, 10);
    if (errno) node->kind = ZG_YAML_FLOAT;
    return NULL;
  }
  r->p = start;
  if (!*s && start < r->end) return fail(r, "unexpected character '%c'", *start);
  return *s ? fail(r, "\"%s\" is not JSON; put text into double quotes", s)
            : fail(r, "the file ends too early");
}

static zg_status read_value(reader *r, int depth, zg_yaml **out);

typedef ZG_VEC(zg_yaml *) node_vec;

static zg_status read_entry(reader *r, int depth, zg_yaml *node, node_vec *keys, node_vec *vals) {
  zg_yaml *key = NULL, *val = NULL;
  if (node->kind == ZG_YAML_MAP) {
    if (*r->p != '"') return fail(r, "a key in double quotes is expected here");
    key = zg__yaml_node(r->mem, r->src, ZG_YAML_STR, r->line, column(r));
    ZG_TRY(read_string(r, key));
    ZG_TRY(skip_space(r));
    if (r->p >= r->end || *r->p != ':') return fail(r, "':' is expected after the key \"%s\"", key->text);
    r->p++;
  }
  ZG_TRY(read_value(r, depth, &val));
  node->weight += val->weight + (key ? 1 : 0);
  if (key) zg_vec_push(keys, key);
  zg_vec_push(vals, val);
  return NULL;
}

static zg_status read_collection(reader *r, int depth, zg_yaml *node) {
  bool map = *r->p == '{';
  char close = map ? '}' : ']';
  node->kind = map ? ZG_YAML_MAP : ZG_YAML_SEQ;
  node->text = "";
  if (depth >= MAX_DEPTH) return zg_yaml_error(node, "nested more than %d deep", MAX_DEPTH);
  node_vec keys = {0}, vals = {0};
  zg_status status = NULL;
  r->p++;
  for (;;) {
    ZG_TRY_OUT(skip_space(r));
    if (r->p < r->end && *r->p == close) break;
    if (r->p >= r->end) ZG_TRY_OUT(zg_yaml_error(node, "this '%c' is never closed", map ? '{' : '['));
    ZG_TRY_OUT(read_entry(r, depth + 1, node, &keys, &vals));
    ZG_TRY_OUT(skip_space(r));
    if (r->p < r->end && *r->p == ',') r->p++;
    else if (r->p < r->end && *r->p != close) ZG_TRY_OUT(fail(r, "',' or '%c' is expected here", close));
  }
  r->p++;
  node->n = (uint32_t)vals.n;
  node->keys = map ? zg_arena_copy(r->mem, keys.at, keys.n * sizeof *keys.at) : NULL;
  node->vals = zg_arena_copy(r->mem, vals.at, vals.n * sizeof *vals.at);
  if (map) ZG_TRY_OUT(zg__yaml_check_duplicates(node));
out:
  zg_vec_fini(&keys);
  zg_vec_fini(&vals);
  return status;
}

static zg_status read_value(reader *r, int depth, zg_yaml **out) {
  ZG_TRY(skip_space(r));
  if (r->p >= r->end) return fail(r, "the file ends too early");
  zg_yaml *node = *out = zg__yaml_node(r->mem, r->src, ZG_YAML_NULL, r->line, column(r));
  if (*r->p == '{' || *r->p == '[') return read_collection(r, depth, node);
  if (*r->p == '"') return read_string(r, node);
  return read_word(r, node);
}

zg_status zg_json_parse(zg_arena *mem, const char *name, const char *text, size_t n, const zg_yaml **out) {
  reader r = {.mem = mem, .src = zg__yaml_source(mem, name, text, n), .line = 1};
  r.p = r.line_start = r.src->text;
  r.end = r.p + n;
  if (n >= 3 && !memcmp(r.p, "\xef\xbb\xbf", 3)) r.p += 3, r.line_start = r.p;
  zg_yaml *root = NULL;
  *out = NULL;
  ZG_TRY(read_value(&r, 0, &root));
  ZG_TRY(skip_space(&r));
  if (r.p < r.end) return fail(&r, "nothing may follow the end of the JSON value");
  *out = root;
  return NULL;
}
