// Reads the text form of graphs. The text may be hostile: nothing is trusted, every error has file:line:column. Nodes go
// through the builder, so types are inferred again and wrong ones are impossible.
//
//   text   = [ "graph" prop* "{" ] (node | output)* [ "}" ]
//   node   = ids "=" op operands attr*          ids, operands: %N separated by commas; "_" or %0 is an omitted operand
//   attr   = name "=" value                     lists: [1,2] or 1,2
//   output = "output" kind string %N [ "->" %N ]
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "graph/graph_priv.h"

typedef struct {
  const char *at, *line_start, *file;
  int line;
  zg_builder *b;
  zg_map ids;          // "N" -> value id + 1
  zg_arena scratch;
} parser;

typedef ZG_VEC(zg_val) val_vec;
typedef ZG_VEC(uint64_t) id_vec;

#define fail_here(p, ...) \
  zg_status_prefix(zg_error(ZG_INVALID, __VA_ARGS__), "%s:%d:%d: ", (p)->file, (p)->line, (int)((p)->at - (p)->line_start) + 1)

static void skip_space(parser *p, bool newlines) {
  for (;; p->at++) {
    if (*p->at == ';') {
      while (*p->at && *p->at != '\n') p->at++;
    }
    if (*p->at == '\n' && newlines) {
      p->line++, p->line_start = p->at + 1;
    } else if (*p->at != ' ' && *p->at != '\t' && *p->at != '\r') {
      return;
    }
  }
}

static bool take(parser *p, char c) {
  skip_space(p, false);
  if (*p->at != c) return false;
  p->at++;
  return true;
}

static bool word_char(char c) { return isalnum((unsigned char)c) || c == '_' || c == '.'; }

static const char *word(parser *p) {
  skip_space(p, false);
  const char *start = p->at;
  while (word_char(*p->at)) p->at++;
  return zg_arena_strn(&p->scratch, start, (size_t)(p->at - start));
}

static zg_status parse_string(parser *p, const char **out) {
  if (!take(p, '"')) return fail_here(p, "a quoted string is wanted here");
  zg_str s = {0};
  for (; *p->at != '"'; p->at++) {
    if (!*p->at || *p->at == '\n') {
      zg_str_fini(&s);
      return fail_here(p, "the string does not end on its line");
    }
    if (*p->at != '\\') {
      zg_str_put(&s, p->at, 1);
      continue;
    }
    p->at++;
    if (*p->at == 'x' && isxdigit((unsigned char)p->at[1]) && isxdigit((unsigned char)p->at[2])) {
      const char hex[3] = {p->at[1], p->at[2], 0};
      const char c = (char)strtol(hex, NULL, 16);
      if (c) zg_str_put(&s, &c, 1);
      p->at += 2;
    } else if (*p->at == '"' || *p->at == '\\') {
      zg_str_put(&s, p->at, 1);
    } else {
      zg_str_fini(&s);
      return fail_here(p, "unknown escape in a string; there are \\\" \\\\ and \\xNN");
    }
  }
  p->at++;
  *out = zg_arena_strn(&p->scratch, s.at ? s.at : "", s.n);
  zg_str_fini(&s);
  return NULL;
}

static zg_status parse_int(parser *p, int64_t *out) {
  skip_space(p, false);
  char *end;
  errno = 0;
  *out = strtoll(p->at, &end, 10);
  if (errno) {   // u64 constants beyond the signed range
    errno = 0;
    *out = (int64_t)strtoull(p->at, &end, 10);
  }
  if (end == p->at || !(isdigit((unsigned char)*p->at) || *p->at == '-' || *p->at == '+') || errno)
    return fail_here(p, "an integer is wanted here");
  p->at = end;
  return NULL;
}

static zg_status parse_float(parser *p, double *out) {
  skip_space(p, false);
  char *end;
  if (*p->at == '\n' || !*p->at) return fail_here(p, "a number is wanted here");
  *out = strtod(p->at, &end);
  if (end == p->at) return fail_here(p, "a number is wanted here");
  p->at = end;
  return NULL;
}

static zg_status parse_id(parser *p, uint64_t *out) {
  if (!take(p, '%')) return fail_here(p, "a value (%%N) is wanted here");
  int64_t v = -1;
  if (isdigit((unsigned char)*p->at)) ZG_TRY(parse_int(p, &v));
  if (v < 0 || v > UINT32_MAX) return fail_here(p, "a value's number is wanted after %%");
  *out = (uint64_t)v;
  return NULL;
}

static zg_status parse_operand(parser *p, zg_val *out) {
  *out = (zg_val){0};
  if (take(p, '_')) return NULL;
  uint64_t id;
  ZG_TRY(parse_id(p, &id));
  if (id == 0) return NULL;
  char key[24];
  snprintf(key, sizeof key, "%" PRIu64, id);
  uint64_t v;
  if (!zg_map_get(&p->ids, key, &v)) return fail_here(p, "%%%" PRIu64 " is used before it is defined", id);
  out->id = (uint32_t)v;
  return NULL;
}

// ---- attributes ---------------------------------------------------------------------------------------------------------
// [1,2,3] with commas or spaces, or 1,2,3 without brackets.
static zg_status parse_ints(parser *p, zg_ints *out) {
  ZG_VEC(int64_t) v = {0};
  zg_status status = NULL;
  const bool bracket = take(p, '[');
  skip_space(p, bracket);
  while (!(bracket && *p->at == ']')) {
    int64_t k;
    ZG_TRY_OUT(parse_int(p, &k));
    zg_vec_push(&v, k);
    skip_space(p, bracket);
    if (*p->at == ',') {
      p->at++;
      skip_space(p, bracket);
    } else if (!bracket) {
      break;
    }
  }
  if (bracket) p->at++;
  *out = (zg_ints){(int64_t)v.n, v.n ? zg_arena_copy(&p->scratch, v.at, v.n * sizeof *v.at) : NULL};
out:
  zg_vec_fini(&v);
  return status;
}

static zg_status parse_elem(parser *p, zg_dtype t, void *data, int64_t i) {
  if (zg_dtype_is_float(t)) {
    double v;
    ZG_TRY(parse_float(p, &v));
    zg_set_f64(t, data, i, v);
  } else {
    int64_t v;
    ZG_TRY(parse_int(p, &v));
    zg_set_i64(t, data, i, v);
  }
  return NULL;
}

static zg_status parse_data(parser *p, const zg_type *t, const void **out) {
  // Every element takes a character or more of text, so a type bigger than the text that follows is a lie.
  const int64_t n = zg_elems(t);
  if (!take(p, '[')) return fail_here(p, "the elements' list [...] is wanted here");
  const size_t left = strnlen(p->at, (size_t)n + 1);
  if ((size_t)n > left) return fail_here(p, "%s has %" PRId64 " elements, fewer follow", zg_type_text(t), n);
  void *data = zg_arena_alloc(&p->scratch, zg_type_bytes(t) + 8);
  for (int64_t i = 0; i < n; i++) {
    skip_space(p, true);
    ZG_TRY(parse_elem(p, t->dtype, data, i));
    skip_space(p, true);
    if (i + 1 < n && !take(p, ',') && *p->at != '-' && *p->at != '+' && !word_char(*p->at))
      return fail_here(p, "%s has %" PRId64 " elements, the list holds %" PRId64, zg_type_text(t), n, i + 1);
  }
  skip_space(p, true);
  if (!take(p, ']')) return fail_here(p, "the list of elements does not end here with ]");
  *out = data;
  return NULL;
}

static zg_status parse_type(parser *p, zg_type *out) {
  skip_space(p, false);
  const char *end = p->at;
  zg_status s = zg_type_parse(p->at, out, &end);
  if (s) return zg_status_prefix(s, "%s:%d:%d: ", p->file, p->line, (int)(p->at - p->line_start) + 1);
  p->at = end;
  int64_t n = zg_dtype_bytes(out->dtype);
  for (uint32_t d = 0; d < out->rank; d++)
    if (out->dim[d] < 0 || !zg_mul_i64(n, ZG_MAX(out->dim[d], 1), &n) || n > INT64_MAX / 16)
      return fail_here(p, "the type is too big to address");
  return NULL;
}

static zg_status parse_value(parser *p, const zg_op *op, const zg_attr_field *f, char *attr) {
  void *dst = attr + f->offset;
  switch (f->kind) {
    case ZG_ATTR_INT: return parse_int(p, dst);
    case ZG_ATTR_FLOAT: return parse_float(p, dst);
    case ZG_ATTR_INTS: return parse_ints(p, dst);
    case ZG_ATTR_STR: return parse_string(p, dst);
    case ZG_ATTR_TYPE: return parse_type(p, dst);
    case ZG_ATTR_DTYPE: {
      zg_dtype t;
      const char *name = word(p);
      if (!zg_dtype_parse(name, &t)) return fail_here(p, "\"%s\" is no element type", name);
      *(int64_t *)dst = t;
      return NULL;
    }
    case ZG_ATTR_DATA: {
      const zg_type *t = NULL;
      for (const zg_attr_field *k = op->fields; k != f; k++)
        if (k->kind == ZG_ATTR_TYPE) t = (const void *)(attr + k->offset);
      return parse_data(p, t, dst);
    }
  }
  return NULL;
}

static zg_status parse_attrs(parser *p, const zg_op *op, char *attr) {
  uint64_t seen = 0;
  for (;;) {
    skip_space(p, false);
    if (!word_char(*p->at)) break;
    const char *name = word(p);
    uint32_t i = 0;
    while (i < op->n_fields && strcmp(op->fields[i].name, name) != 0) i++;
    if (i == op->n_fields) return fail_here(p, "%s has no attribute \"%s\"", op->name, name);
    if (!take(p, '=')) return fail_here(p, "= is wanted after the attribute's name");
    ZG_TRY(parse_value(p, op, &op->fields[i], attr));
    seen |= 1ull << i;
  }
  for (uint32_t i = 0; i < op->n_fields; i++)
    if ((op->fields[i].kind == ZG_ATTR_TYPE || op->fields[i].kind == ZG_ATTR_DATA) && !(seen >> i & 1))
      return fail_here(p, "%s needs the attribute \"%s\"", op->name, op->fields[i].name);
  return NULL;
}

// ---- lines --------------------------------------------------------------------------------------------------------------
static zg_status define(parser *p, uint64_t id, zg_val v) {
  char key[24];
  snprintf(key, sizeof key, "%" PRIu64, id);
  if (id == 0 || !zg_map_put(&p->ids, key, v.id)) return fail_here(p, "%%%" PRIu64 " is defined twice", id);
  return NULL;
}

static zg_status emit(parser *p, const zg_op *op, const void *attr, const val_vec *in, const id_vec *ids) {
  zg_val *out = ZG_NEW_N(&p->scratch, zg_val, ids->n);
  const int line = p->line;
  if (!zg_emit(p->b, op, attr, in->at, (uint32_t)in->n, out, (uint32_t)ids->n)) {
    zg_graph *none;
    zg_builder *b = p->b;
    p->b = NULL;
    return zg_status_prefix(zg_builder_finish(b, &none), "%s:%d:1: ", p->file, line);
  }
  for (size_t i = 0; i < ids->n; i++) ZG_TRY(define(p, ids->at[i], out[i]));
  return NULL;
}

static zg_status parse_node(parser *p) {
  id_vec ids = {0};
  val_vec in = {0};
  zg_status status = NULL;
  do {
    uint64_t id;
    ZG_TRY_OUT(parse_id(p, &id));
    zg_vec_push(&ids, id);
  } while (take(p, ','));
  if (!take(p, '=')) {
    status = fail_here(p, "= is wanted after the values that a node defines");
    goto out;
  }
  const char *name = word(p);
  const zg_op *op = zg_op_find(name);
  if (!op) {
    status = fail_here(p, "there is no op \"%s\"", name);
    goto out;
  }
  skip_space(p, false);
  if (*p->at == '%' || (*p->at == '_' && !word_char(p->at[1]))) {
    do {
      zg_val v;
      ZG_TRY_OUT(parse_operand(p, &v));
      zg_vec_push(&in, v);
    } while (take(p, ','));
  }
  char *attr = op->attr_bytes ? zg_arena_alloc(&p->scratch, op->attr_bytes) : NULL;
  if (attr) zg__attr_default(op, attr);
  ZG_TRY_OUT(parse_attrs(p, op, attr));
  ZG_TRY_OUT(emit(p, op, attr, &in, &ids));
out:
  zg_vec_fini(&ids);
  zg_vec_fini(&in);
  return status;
}

static zg_status parse_output(parser *p) {
  static const char *const kinds[] = {"value", "loss", "grad", "update"};
  const char *kind = word(p), *name;
  uint32_t k = 0;
  while (k < ZG_COUNT(kinds) && strcmp(kinds[k], kind) != 0) k++;
  if (k == ZG_COUNT(kinds)) return fail_here(p, "an output is a value, loss, grad or update, not \"%s\"", kind);
  ZG_TRY(parse_string(p, &name));
  zg_val v, target = {0};
  ZG_TRY(parse_operand(p, &v));
  skip_space(p, false);
  if (p->at[0] == '-' && p->at[1] == '>') {
    p->at += 2;
    ZG_TRY(parse_operand(p, &target));
  }
  if (!zg_is(v)) return fail_here(p, "output \"%s\" has no value", name);
  zg_builder_output(p->b, (zg_out_kind)k, name, v, target);
  return NULL;
}

static zg_status parse_head(parser *p, bool *braced) {
  static const char *const props[] = {"core", "loss", "grads", "step"};
  skip_space(p, true);
  *braced = strncmp(p->at, "graph", 5) == 0;
  if (!*braced) return NULL;
  p->at += 5;
  uint32_t bits = 0;
  while (!take(p, '{')) {
    const char *w = word(p);
    uint32_t i = 0;
    while (i < ZG_COUNT(props) && strcmp(props[i], w) != 0) i++;
    if (i == ZG_COUNT(props)) return fail_here(p, "{ is wanted after graph");
    bits |= 1u << i;
  }
  zg_builder_props(p->b, bits);
  return NULL;
}

static zg_status parse_body(parser *p) {
  bool braced;
  ZG_TRY(parse_head(p, &braced));
  for (;;) {
    skip_space(p, true);
    if (*p->at == '%') {
      ZG_TRY(parse_node(p));
    } else if (strncmp(p->at, "output", 6) == 0) {
      p->at += 6;
      ZG_TRY(parse_output(p));
    } else {
      break;
    }
    skip_space(p, false);
    if (*p->at && *p->at != '\n' && *p->at != '}') return fail_here(p, "the line should end here");
  }
  if (braced && !take(p, '}')) return fail_here(p, "a node, an output or } is wanted here");
  skip_space(p, true);
  if (*p->at) return fail_here(p, "nothing may follow the graph");
  return NULL;
}

zg_status zg_graph_parse(const char *text, const char *file, zg_graph **out) {
  parser p = {.at = text, .line_start = text, .file = file ? file : "graph", .line = 1, .b = zg_builder_new()};
  *out = NULL;
  zg_status s = parse_body(&p);
  zg_map_fini(&p.ids);
  zg_arena_fini(&p.scratch);
  if (s) {
    zg_builder_free(p.b);
    return s;
  }
  s = zg_builder_finish(p.b, out);
  if (!s && (s = zg_graph_verify(*out))) {
    zg_graph_free(*out);
    *out = NULL;
  }
  return zg_status_prefix(s, "%s: ", p.file);
}
