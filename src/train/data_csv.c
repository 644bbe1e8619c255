// Numeric CSV, read into memory: features as f32, the label column as double.
//
// A line is fields between one separator (the first of tab ; , that the first line holds); a field may stand in double
// quotes. Empty lines are skipped. Numbers are parsed by strtod on a bounded copy, so the file needs no zero at its end.
#include "train/data_priv.h"
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef ZG_VEC(float) floats;
typedef ZG_VEC(double) doubles;
typedef ZG_VEC(char *) names;

typedef struct { floats features; doubles labels; names columns; size_t label; bool integers; } table;
typedef struct { const char *at, *end; char sep; const char *path; uint64_t line; } reader;

enum { FIELD = 128 };

static bool next_line(reader *r, const char **out, size_t *n) {
  while (r->at < r->end) {
    const char *nl = memchr(r->at, '\n', (size_t)(r->end - r->at)), *stop = nl ? nl : r->end;
    *out = r->at;
    *n = (size_t)(stop - r->at);
    r->at = nl ? nl + 1 : r->end;
    r->line++;
    while (*n && isspace((unsigned char)(*out)[*n - 1]) && (*out)[*n - 1] != r->sep) --*n;
    if (*n) return true;
  }
  return false;
}

// Cuts the next field off a line, without quotes and outer spaces, into buf; false at the line's end. *at: NULL after it.
static bool next_field(const reader *r, const char **at, const char *end, char buf[FIELD]) {
  const char *p = *at;
  size_t n = 0;
  bool quoted = false;
  if (!p) return false;
  for (; p < end && (quoted || *p != r->sep); p++) {
    if (*p == '"') quoted = !quoted;
    else if (n < FIELD - 1) buf[n++] = *p;
  }
  while (n && isspace((unsigned char)buf[n - 1])) n--;
  buf[n] = 0;
  *at = p < end ? p + 1 : NULL;
  size_t lead = strspn(buf, " \t\r");
  memmove(buf, buf + lead, n + 1 - lead);
  return true;
}

static bool parse_number(const char *s, double *out) {
  char *end;
  *out = strtod(s, &end);
  return end != s && !*end;
}

// The first line gives the separator, the columns, and perhaps their names.
static zg_status read_first(zg_data *d, table *t, reader *r, bool *is_header) {
  const char *line;
  size_t n;
  char buf[FIELD];
  double v;
  reader start = *r;
  if (!next_line(r, &line, &n)) return zg_error(ZG_INVALID, "%s: no line in it", r->path);
  r->sep = memchr(line, '\t', n) ? '\t' : memchr(line, ';', n) ? ';' : ',';
  *is_header = false;
  for (const char *at = line; next_field(r, &at, line + n, buf);) {
    zg_vec_push(&t->columns, zg_arena_str(&d->mem, buf));
    if (!parse_number(buf, &v)) *is_header = true;
  }
  if (!*is_header) {
    char sep = r->sep;
    *r = start;
    r->sep = sep;
  }
  return NULL;
}

static zg_status find_label(const zg_data *d, table *t, bool is_header) {
  static const char *const usual[] = { "label", "labels", "target", "class", "y" };
  t->label = t->columns.n - 1;
  if (d->o.label_column) {
    for (size_t i = 0; is_header && i < t->columns.n; i++)
      if (!strcmp(t->columns.at[i], d->o.label_column)) {
        t->label = i;
        return NULL;
      }
    return zg_error(ZG_INVALID, "%s: no column \"%s\"%s", d->o.path, d->o.label_column,
                    is_header ? "" : "; the first line holds numbers, no names");
  }
  for (size_t k = ZG_COUNT(usual); is_header && k-- > 0;)
    for (size_t i = 0; i < t->columns.n; i++)
      if (!strcmp(t->columns.at[i], usual[k])) t->label = i;
  return NULL;
}

static zg_status read_line(table *t, const reader *r, const char *line, size_t n) {
  char buf[FIELD];
  size_t column = 0;
  for (const char *at = line; next_field(r, &at, line + n, buf); column++) {
    double v;
    if (column >= t->columns.n) continue;
    if (!parse_number(buf, &v))
      return zg_error(ZG_INVALID, "%s:%llu: column %zu (%s) is \"%s\", want a number", r->path, (unsigned long long)r->line,
                      column + 1, t->columns.at[column], buf);
    if (column != t->label) {
      zg_vec_push(&t->features, (float)v);
    } else {
      zg_vec_push(&t->labels, v);
      if (v != floor(v) || fabs(v) > 1e15) t->integers = false;
    }
  }
  if (column != t->columns.n)
    return zg_error(ZG_INVALID, "%s:%llu: %zu columns, the first line has %zu", r->path, (unsigned long long)r->line,
                    column, t->columns.n);
  return NULL;
}

static zg_status open_csv(zg_data *d) {
  table *t = d->impl = ZG_NEW(&d->mem, table);
  zg_file_map map;
  zg_status status = NULL;
  bool is_header;
  const char *line;
  size_t n;
  ZG_TRY(zg_file_map_open(d->o.path, &map));
  const char *text = (const char *)map.bytes.at;
  reader r = { text, text + map.bytes.n, 0, d->o.path, 0 };
  if (map.bytes.n >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) r.at += 3;
  t->integers = true;
  ZG_TRY_OUT(read_first(d, t, &r, &is_header));
  ZG_TRY_OUT(find_label(d, t, is_header));
  if (t->columns.n < 2) ZG_TRY_OUT(zg_error(ZG_INVALID, "%s: one column; want features and a label", d->o.path));
  while (next_line(&r, &line, &n)) ZG_TRY_OUT(read_line(t, &r, line, n));
  d->n_samples = t->labels.n;
  int64_t width = (int64_t)t->columns.n - 1;
  zg__data_add(d, "features", ZG_F32, 1, &width);
  zg__data_add(d, "labels", t->integers ? ZG_I64 : ZG_F32, 0, NULL);
out:
  zg_file_map_close(&map);
  return status;
}

static zg_status read_row(zg_data *d, size_t array, uint64_t sample, zg_dtype to, void *dst) {
  const table *t = d->impl;
  size_t width = t->columns.n - 1;
  if (array) zg_convert(to, dst, ZG_F64, &t->labels.at[sample], 1);
  else zg_convert(to, dst, ZG_F32, &t->features.at[sample * width], (int64_t)width);
  return NULL;
}

static void close_csv(zg_data *d) {
  table *t = d->impl;
  if (!t) return;
  zg_vec_fini(&t->features);
  zg_vec_fini(&t->labels);
  zg_vec_fini(&t->columns);
}

static bool claims_csv(const char *path, zg_bytes head) {
  return head.n && (zg__data_ends(path, ".csv") || zg__data_ends(path, ".tsv"));
}

const zg__data_format zg__data_csv = { "csv", "numbers; one column is the label", claims_csv, open_csv, read_row, close_csv };
