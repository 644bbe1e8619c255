// Reader of safetensors.
#include "train/safetensors.h"
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>

static const struct { const char *name; zg_dtype dtype; } dtypes[] = {
  { "F32", ZG_F32 }, { "F64", ZG_F64 }, { "F16", ZG_F16 }, { "BF16", ZG_BF16 }, { "I8", ZG_I8 },   { "I16", ZG_I16 },
  { "I32", ZG_I32 }, { "I64", ZG_I64 }, { "U8", ZG_U8 },   { "U16", ZG_U16 },   { "U32", ZG_U32 }, { "U64", ZG_U64 },
  { "BOOL", ZG_BOOL },
};

const char *zg__safetensors_dtype_name(zg_dtype t) {
  size_t i = 0;
  while (dtypes[i].dtype != t) i++;
  return dtypes[i].name;
}

typedef struct { const char *name; zg_type type; uint64_t begin, end; } tensor;

struct zg_safetensors {
  zg_arena mem;
  char *path;
  zg_file_map map;
  zg_bytes data;
  ZG_VEC(tensor) tensors;
  ZG_VEC(zg_safetensors_meta) meta;
  zg_map by_name;
};

enum { MAX_HEADER = 100 << 20 };                               // as the reference implementation

static zg_status bad(const char *name, const char *what) {
  return zg_error(ZG_CORRUPT, "tensor \"%s\": %s", name, what);
}

static bool get_u64(json_object *o, uint64_t *out) {
  if (!json_object_is_type(o, json_type_int)) return false;
  int64_t v = json_object_get_int64(o);
  *out = (uint64_t)v;
  return v >= 0 && v < INT64_MAX;                              // json-c puts numbers that are too large at the limit
}

static zg_status parse_type(const char *name, json_object *o, zg_type *t) {
  json_object *d, *s;
  if (!json_object_object_get_ex(o, "dtype", &d) || !json_object_is_type(d, json_type_string))
    return bad(name, "no \"dtype\"");
  if (!json_object_object_get_ex(o, "shape", &s) || !json_object_is_type(s, json_type_array)) return bad(name, "no \"shape\"");
  size_t i = 0;
  while (i < ZG_COUNT(dtypes) && strcmp(dtypes[i].name, json_object_get_string(d))) i++;
  if (i == ZG_COUNT(dtypes))
    return zg_error(ZG_UNSUPPORTED, "tensor \"%s\": element type %s", name, json_object_get_string(d));
  t->dtype = dtypes[i].dtype;
  if (json_object_array_length(s) > ZG_MAX_RANK)
    return zg_error(ZG_UNSUPPORTED, "tensor \"%s\": more than %d dimensions", name, (int)ZG_MAX_RANK);
  t->rank = (uint32_t)json_object_array_length(s);
  uint64_t n = zg_dtype_bytes(t->dtype);
  for (uint32_t k = 0; k < t->rank; k++) {
    uint64_t v;
    if (!get_u64(json_object_array_get_idx(s, k), &v)) return bad(name, "\"shape\" has an entry that is no number");
    if (!zg_mul_u64(n, ZG_MAX(v, 1), &n) || n > INT64_MAX) return bad(name, "\"shape\" is too large");
    t->dim[k] = (int64_t)v;
  }
  return NULL;
}

static zg_status parse_tensor(zg_safetensors *f, const char *name, json_object *o) {
  tensor t = { .name = zg_arena_str(&f->mem, name) };
  json_object *at;
  if (!json_object_is_type(o, json_type_object)) return bad(name, "no object");
  ZG_TRY(parse_type(name, o, &t.type));
  if (!json_object_object_get_ex(o, "data_offsets", &at) || !json_object_is_type(at, json_type_array) ||
      json_object_array_length(at) != 2 || !get_u64(json_object_array_get_idx(at, 0), &t.begin) ||
      !get_u64(json_object_array_get_idx(at, 1), &t.end))
    return bad(name, "no \"data_offsets\"");
  if (t.end > f->data.n || t.begin > t.end) return bad(name, "its bytes lie outside the file; the file is cut off");
  if (t.end - t.begin != zg_type_bytes(&t.type))
    return zg_error(ZG_CORRUPT, "tensor \"%s\": %s needs %llu bytes, the offsets give %llu", name, zg_type_text(&t.type),
                    (unsigned long long)zg_type_bytes(&t.type), (unsigned long long)(t.end - t.begin));
  zg_vec_push(&f->tensors, t);
  return NULL;
}

static zg_status parse_metadata(zg_safetensors *f, json_object *o) {
  if (!json_object_is_type(o, json_type_object)) return zg_error(ZG_CORRUPT, "__metadata__ is no object");
  json_object_object_foreach(o, key, value) {
    if (!json_object_is_type(value, json_type_string))
      return zg_error(ZG_CORRUPT, "__metadata__: \"%s\" is no string", key);
    zg_safetensors_meta m = { zg_arena_str(&f->mem, key), zg_arena_str(&f->mem, json_object_get_string(value)) };
    zg_vec_push(&f->meta, m);
  }
  return NULL;
}

static int by_place(const void *a, const void *b) {
  const tensor *x = a, *y = b;
  if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
  return x->end < y->end ? -1 : x->end > y->end;
}

// The format has no gaps and no overlaps: a file with either was not written by a sound writer.
static zg_status check_places(zg_safetensors *f) {
  uint64_t at = 0;
  if (f->tensors.n) qsort(f->tensors.at, f->tensors.n, sizeof *f->tensors.at, by_place);
  for (size_t i = 0; i < f->tensors.n; i++) {
    const tensor *t = &f->tensors.at[i];
    if (t->begin != at) return bad(t->name, t->begin < at ? "overlaps another tensor" : "a gap lies before it");
    at = t->end;
    zg_map_put(&f->by_name, t->name, i);
  }
  if (at != f->data.n) return zg_error(ZG_CORRUPT, "bytes behind the last tensor");
  return NULL;
}

static zg_status parse(zg_safetensors *f, const char *text, int n) {
  zg_status status = NULL;
  json_object *root = NULL;
  json_tokener *tok = json_tokener_new_ex(16);
  if (!tok) return zg_error(ZG_OUT_OF_MEMORY, "json-c has no memory");
  root = json_tokener_parse_ex(tok, text, n);
  if (!root || !json_object_is_type(root, json_type_object))
    ZG_TRY_OUT(zg_error(ZG_CORRUPT, "the header is no JSON object: %s", json_tokener_error_desc(json_tokener_get_error(tok))));
  json_object_object_foreach(root, key, value) {
    if (!strcmp(key, "__metadata__")) ZG_TRY_OUT(parse_metadata(f, value));
    else ZG_TRY_OUT(parse_tensor(f, key, value));
  }
  ZG_TRY_OUT(check_places(f));
out:
  json_object_put(root);
  json_tokener_free(tok);
  return status;
}

static zg_status read_file(zg_safetensors *f) {
  zg_bytes b = f->map.bytes;
  uint64_t n = 0;
  if (b.n < 8) return zg_error(ZG_CORRUPT, "too short for a safetensors file");
  for (int i = 7; i >= 0; i--) n = n << 8 | b.at[i];
  if (!n) return zg_error(ZG_CORRUPT, "the file was not finished (its header is missing)");
  if (n > b.n - 8 || n > MAX_HEADER) return zg_error(ZG_CORRUPT, "the header is cut off, or this is no safetensors file");
  f->data = (zg_bytes){ b.at + 8 + n, b.n - 8 - n };
  return parse(f, (const char *)b.at + 8, (int)n);
}

zg_status zg_safetensors_open(const char *path, zg_safetensors **out) {
  zg_safetensors *f = zg_alloc(sizeof *f);
  zg_status status = NULL;
  *out = NULL;
  f->path = zg_arena_str(&f->mem, path);
  ZG_TRY_OUT(zg_file_map_open(path, &f->map));
  ZG_TRY_OUT(zg_status_prefix(read_file(f), "%s: ", path));
  *out = f;
  return NULL;
out:
  zg_safetensors_close(f);
  return status;
}

void zg_safetensors_close(zg_safetensors *f) {
  if (!f) return;
  zg_vec_fini(&f->tensors);
  zg_vec_fini(&f->meta);
  zg_map_fini(&f->by_name);
  zg_file_map_close(&f->map);
  zg_arena_fini(&f->mem);
  zg_free(f);
}

size_t zg_safetensors_count(const zg_safetensors *f) { return f->tensors.n; }
const char *zg_safetensors_name(const zg_safetensors *f, size_t i) { return f->tensors.at[i].name; }
const zg_type *zg_safetensors_type(const zg_safetensors *f, size_t i) { return &f->tensors.at[i].type; }

int64_t zg_safetensors_find(const zg_safetensors *f, const char *name) {
  uint64_t i;
  return zg_map_get(&f->by_name, name, &i) ? (int64_t)i : -1;
}

const char *zg_safetensors_metadata(const zg_safetensors *f, const char *key) {
  for (size_t i = 0; i < f->meta.n; i++)
    if (!strcmp(f->meta.at[i].key, key)) return f->meta.at[i].value;
  return NULL;
}

zg_bytes zg_safetensors_bytes(const zg_safetensors *f, size_t i) {
  const tensor *t = &f->tensors.at[i];
  return (zg_bytes){ f->data.at + t->begin, t->end - t->begin };
}

zg_status zg_safetensors_read(const zg_safetensors *f, size_t i, uint64_t offset, uint64_t n_bytes, void *dst) {
  zg_bytes b = zg_safetensors_bytes(f, i);
  if (offset > b.n || n_bytes > b.n - offset)
    return zg_error(ZG_INVALID, "%s: tensor \"%s\": bytes %llu + %llu of %llu", f->path, f->tensors.at[i].name,
                    (unsigned long long)offset, (unsigned long long)n_bytes, (unsigned long long)b.n);
  if (n_bytes) memcpy(dst, b.at + offset, n_bytes);
  return NULL;
}

zg_status zg_safetensors_check(const zg_safetensors *f) {
  zg_map crcs = { 0 };
  zg_status status = NULL;
  for (size_t i = 0; i < f->meta.n; i++)
    if (!strncmp(f->meta.at[i].key, "crc32:", 6))
      zg_map_put(&crcs, f->meta.at[i].key + 6, strtoull(f->meta.at[i].value, NULL, 16));
  for (size_t i = 0; i < f->tensors.n; i++) {
    uint64_t want;
    zg_bytes b = zg_safetensors_bytes(f, i);
    if (zg_map_get(&crcs, f->tensors.at[i].name, &want) && zg_crc32(b.at, b.n, 0) != want)
      ZG_TRY_OUT(zg_error(ZG_CORRUPT, "%s: tensor \"%s\": the checksum is wrong; the file is damaged", f->path,
                          f->tensors.at[i].name));
    zg_file_map_forget(b);   // a check of the whole file need not hold the whole file
  }
out:
  zg_map_fini(&crcs);
  return status;
}
