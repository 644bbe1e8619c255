// The .npy header: magic, version, length, and a Python dict literal
//   {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
// of which exactly these three keys are read. Source: numpy.lib.format.
#include "train/npz.h"
#include <ctype.h>
#include <stdio.h>

static const struct { char kind; uint8_t size; zg_dtype dtype; } dtypes[] = {
  { 'f', 4, ZG_F32 }, { 'f', 8, ZG_F64 }, { 'f', 2, ZG_F16 }, { 'V', 2, ZG_BF16 },
  { 'i', 1, ZG_I8 },  { 'i', 2, ZG_I16 }, { 'i', 4, ZG_I32 }, { 'i', 8, ZG_I64 },
  { 'u', 1, ZG_U8 },  { 'u', 2, ZG_U16 }, { 'u', 4, ZG_U32 }, { 'u', 8, ZG_U64 },
  { 'b', 1, ZG_BOOL },
};

typedef struct { const char *at, *end, *name; } reader;

static zg_status bad(const reader *r, const char *what) {
  return zg_error(ZG_CORRUPT, "%s: .npy header: %s", r->name, what);
}

static void skip_space(reader *r) {
  while (r->at < r->end && isspace((unsigned char)*r->at)) r->at++;
}

static bool take(reader *r, char c) {
  skip_space(r);
  if (r->at >= r->end || *r->at != c) return false;
  r->at++;
  return true;
}

static bool take_word(reader *r, const char *word) {
  skip_space(r);
  size_t n = strlen(word);
  if ((size_t)(r->end - r->at) < n || memcmp(r->at, word, n)) return false;
  r->at += n;
  return true;
}

// A quoted string without escapes (numpy writes none in these keys); cut to the buffer.
static zg_status take_string(reader *r, char *out, size_t cap) {
  skip_space(r);
  if (r->at >= r->end || (*r->at != '\'' && *r->at != '"')) return bad(r, "a quoted string is missing");
  char quote = *r->at++;
  size_t n = 0;
  for (; r->at < r->end && *r->at != quote; r->at++)
    if (n + 1 < cap) out[n++] = *r->at;
  out[n] = 0;
  return take(r, quote) ? NULL : bad(r, "a string has no end");
}

static zg_status take_descr(reader *r, zg_dtype *out) {
  skip_space(r);
  if (r->at < r->end && *r->at == '[')
    return zg_error(ZG_UNSUPPORTED, "%s: a structured array; save each field as an array of its own", r->name);
  char d[24];
  ZG_TRY(take_string(r, d, sizeof d));
  char order = d[0] && strchr("<>|=", d[0]) ? d[0] : '|';
  const char *kind = strchr("<>|=", d[0]) && d[0] ? d + 1 : d;
  if (!strcmp(kind, "?")) kind = "b1";
  char tail = 0;
  unsigned size = 0;
  if (!kind[0] || sscanf(kind + 1, "%2u%c", &size, &tail) != 1) size = 0;
  for (size_t i = 0; i < ZG_COUNT(dtypes); i++)
    if (dtypes[i].kind == kind[0] && dtypes[i].size == size) {
      if (order == '>' && size > 1)
        return zg_error(ZG_UNSUPPORTED, "%s: big-endian elements (%s); save it as a.astype('<%s')", r->name, d, kind);
      *out = dtypes[i].dtype;
      return NULL;
    }
  return zg_error(ZG_UNSUPPORTED, "%s: element type '%s'; want a number type: f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 b1", r->name,
                  d);
}

static zg_status take_shape(reader *r, zg_type *t) {
  if (!take(r, '(')) return bad(r, "'shape' is no tuple");
  uint64_t n = zg_dtype_bytes(t->dtype);
  while (!take(r, ')')) {
    if (r->at >= r->end || !isdigit((unsigned char)*r->at)) return bad(r, "'shape' has an entry that is no number");
    int64_t d = 0;
    for (; r->at < r->end && isdigit((unsigned char)*r->at); r->at++)
      if (!zg_mul_i64(d, 10, &d) || __builtin_add_overflow(d, (int64_t)(*r->at - '0'), &d))
        return bad(r, "'shape' is too large");
    if (r->at < r->end && *r->at == 'L') r->at++;              // written by Python 2
    if (t->rank == ZG_MAX_RANK)
      return zg_error(ZG_UNSUPPORTED, "%s: more than %d dimensions", r->name, (int)ZG_MAX_RANK);
    if (!zg_mul_u64(n, (uint64_t)ZG_MAX(d, 1), &n) || n > INT64_MAX) return bad(r, "'shape' is too large");
    t->dim[t->rank++] = d;
    if (take(r, ',')) continue;
    if (!take(r, ')')) return bad(r, "'shape' has no end");
    break;
  }
  return NULL;
}

static zg_status take_dict(reader *r, zg_type *type, bool *fortran) {
  bool have_descr = false, have_order = false;
  reader shape = { 0 };                                        // read last: it needs the element size
  if (!take(r, '{')) return bad(r, "no dict");
  while (!take(r, '}')) {
    char key[24];
    ZG_TRY(take_string(r, key, sizeof key));
    if (!take(r, ':')) return bad(r, "':' is missing");
    if (!strcmp(key, "descr")) {
      ZG_TRY(take_descr(r, &type->dtype));
      have_descr = true;
    } else if (!strcmp(key, "fortran_order")) {
      have_order = true;
      *fortran = take_word(r, "True");
      if (!*fortran && !take_word(r, "False")) return bad(r, "'fortran_order' is neither True nor False");
    } else if (!strcmp(key, "shape")) {
      shape = *r;
      while (r->at < r->end && *r->at != ')') r->at++;
      if (!take(r, ')')) return bad(r, "'shape' has no end");
    } else {
      return zg_error(ZG_CORRUPT, "%s: .npy header: unknown key '%s'", r->name, key);
    }
    if (take(r, ',')) continue;
    if (!take(r, '}')) return bad(r, "the dict has no end");
    break;
  }
  if (!have_descr || !have_order || !shape.at) return bad(r, "'descr', 'fortran_order' or 'shape' is missing");
  return take_shape(&shape, type);
}

zg_status zg__npy_header(zg_bytes b, const char *name, zg_type *out_type, bool *out_fortran, uint64_t *out_n_bytes) {
  if (b.n < 10 || memcmp(b.at, "\x93NUMPY", 6)) return zg_error(ZG_CORRUPT, "%s: not an .npy array", name);
  int version = b.at[6];
  if (version < 1 || version > 3) return zg_error(ZG_UNSUPPORTED, "%s: .npy version %d", name, version);
  uint64_t start = version == 1 ? 10 : 12, n = b.at[8] | (uint64_t)b.at[9] << 8;
  if (version > 1 && b.n >= 12) n |= (uint64_t)b.at[10] << 16 | (uint64_t)b.at[11] << 24;
  if (b.n < start || n > b.n - start) return zg_error(ZG_CORRUPT, "%s: the .npy header is cut off", name);
  reader r = { (const char *)b.at + start, (const char *)b.at + start + n, name };
  *out_type = (zg_type){ 0 };
  *out_fortran = false;
  *out_n_bytes = start + n;
  return take_dict(&r, out_type, out_fortran);
}

void zg__npy_header_make(const zg_type *t, zg_str *out) {
  zg_dtype dtype = t->dtype == ZG_BF16 ? ZG_F32 : t->dtype;
  size_t row = 0;
  while (dtypes[row].dtype != dtype) row++;
  zg_str d = { 0 };
  zg_str_add(&d, "{'descr': '%c%c%d', 'fortran_order': False, 'shape': (", dtypes[row].size == 1 ? '|' : '<',
             dtypes[row].kind, dtypes[row].size);
  for (uint32_t i = 0; i < t->rank; i++)
    zg_str_add(&d, i + 1 < t->rank ? "%lld, " : t->rank == 1 ? "%lld," : "%lld", (long long)t->dim[i]);
  zg_str_add(&d, "), }");
  size_t total = (size_t)zg_round_up(10 + d.n + 1, 64), len = total - 10;
  while (d.n + 1 < len) zg_str_put(&d, " ", 1);
  zg_str_put(&d, "\n", 1);
  const char magic[10] = { '\x93', 'N', 'U', 'M', 'P', 'Y', 1, 0, (char)(len & 255), (char)(len >> 8) };
  zg_str_put(out, magic, 10);
  zg_str_put(out, d.at, d.n);
  zg_str_fini(&d);
}
