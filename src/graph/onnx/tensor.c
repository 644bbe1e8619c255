// The tensor table, and where tensors' bytes come from: the mapped file, external files, typed fields, sparse
// pairs.
#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include <sys/mman.h>
#include <unistd.h>

#include "graph/onnx/onnx_priv.h"

// ---- types
// ----------------------------------------------------------------------------------------------------------
static zg_status dims_type(int32_t onnx_type, const int64_t *dims, size_t n, zg_type *out) {
  zg_dtype d;
  ZG_TRY(zg_onnx_dtype(onnx_type, &d));
  if (n > ZG_MAX_RANK)
    return zg_error(ZG_UNSUPPORTED, "it has %zu dims, at most %d are supported", n, ZG_MAX_RANK);
  int64_t elems = (int64_t)zg_dtype_bytes(d);
  for (size_t i = 0; i < n; i++) {
    if (dims[i] < 0) return zg_error(ZG_CORRUPT, "dim %zu is %lld", i, (long long)dims[i]);
    if (!zg_mul_i64(elems, ZG_MAX(dims[i], 1), &elems))
      return zg_error(ZG_CORRUPT, "its size overflows 63 bits");
  }
  *out = zg_type_make(d, (uint32_t)n, dims);
  return NULL;
}

zg_status zg__tensor_type(const Onnx__TensorProto *t, zg_type *out) {
  return dims_type(t->data_type, t->dims, t->n_dims, out);
}

// ---- external files
// ---------------------------------------------------------------------------------------------------
static bool has_parent_step(const char *p) {
  for (const char *at = p; at; at = strchr(at, '/')) {
    while (*at == '/') at++;
    if (!strncmp(at, "..", 2) && (at[2] == '/' || !at[2])) return true;
  }
  return false;
}

// `location` inside `folder`, with all links resolved; out in mem. NOT_FOUND if there is no such file.
zg_status zg__check_path(const char *folder, const char *location, zg_arena *mem, const char **out) {
  if (!*location) return zg_error(ZG_INVALID, "its external data have no location");
  if (*location == '/' || strchr(location, '\\') || has_parent_step(location))
    return zg_error(ZG_INVALID,
                    "external data \"%s\" lie outside of the model's folder, which is refused; move the file "
                    "beside the model",
                    location);
  char root[PATH_MAX], real[PATH_MAX];
  if (!realpath(folder, root)) return zg_error(ZG_IO, "%s: %s", folder, strerror(errno));
  const char *path = zg_arena_printf(mem, "%s/%s", folder, location);
  if (!realpath(path, real))
    return zg_error(errno == ENOENT ? ZG_NOT_FOUND : ZG_IO, "external data file %s: %s", path,
                    strerror(errno));
  size_t n = strlen(root);
  if (strcmp(root, "/") && (strncmp(real, root, n) || real[n] != '/'))
    return zg_error(
        ZG_INVALID,
        "external data \"%s\" are a link that leaves the model's folder, which is refused; copy the "
        "file there",
        location);
  *out = zg_arena_str(mem, real);
  return NULL;
}

static const char *folder_of(zg_arena *mem, const char *path) {
  const char *slash = strrchr(path, '/');
  return !slash ? "." : slash == path ? "/" : zg_arena_strn(mem, path, (size_t)(slash - path));
}

static zg_status open_external(zg_onnx_model *m, const char *location, zg_bytes *out) {
  for (size_t i = 0; i < m->externals.n; i++)
    if (!strcmp(m->externals.at[i].name, location)) {
      *out = m->externals.at[i].map.bytes;
      return NULL;
    }
  const char *path;
  zg__external e = {.name = zg_arena_str(&m->mem, location)};
  ZG_TRY(zg__check_path(folder_of(&m->mem, m->path), location, &m->mem, &path));
  ZG_TRY(zg_file_map_open(path, &e.map));
  e.real_path = path;
  zg_vec_push(&m->externals, e);
  *out = e.map.bytes;
  return NULL;
}

static zg_status parse_u64(const char *key, const char *text, uint64_t *out) {
  char *end;
  errno = 0;
  long long v = strtoll(text, &end, 10);
  if (!*text || *end || errno || v < 0)
    return zg_error(ZG_CORRUPT, "external data: %s is \"%s\", not a number of bytes", key, text);
  *out = (uint64_t)v;
  return NULL;
}

typedef struct {
  const char *location;
  uint64_t offset, length;
  bool has_length;
} external_info;

static zg_status read_external_info(const Onnx__TensorProto *t, external_info *x) {
  *x = (external_info){.location = ""};
  for (size_t i = 0; i < t->n_external_data; i++) {
    const char *key = zg__str(t->external_data[i]->key), *value = zg__str(t->external_data[i]->value);
    if (!strcmp(key, "location")) x->location = value;
    if (!strcmp(key, "offset")) ZG_TRY(parse_u64(key, value, &x->offset));
    if (!strcmp(key, "length")) {
      ZG_TRY(parse_u64(key, value, &x->length));
      x->has_length = true;
    }
  }
  return NULL;
}

static zg_status external_bytes(zg_onnx_model *m, const Onnx__TensorProto *t, uint64_t need,
                                const void **out) {
  external_info x;
  zg_bytes file;
  ZG_TRY(read_external_info(t, &x));
  if (x.has_length && x.length != need)
    return zg_error(ZG_CORRUPT, "its external data are %llu bytes long, the shape wants %llu",
                    (unsigned long long)x.length, (unsigned long long)need);
  ZG_TRY(open_external(m, x.location, &file));
  if (x.offset > file.n || need > file.n - x.offset)
    return zg_error(ZG_CORRUPT, "it lies at bytes %llu to %llu of %s, which has %llu",
                    (unsigned long long)x.offset, (unsigned long long)(x.offset + need), x.location,
                    (unsigned long long)file.n);
  *out = file.at + x.offset;
  return NULL;
}

// ---- typed fields
// -----------------------------------------------------------------------------------------------------
static zg_status count_check(size_t have, int64_t want) {
  if (have == (size_t)want) return NULL;
  return zg_error(ZG_CORRUPT, "it holds %zu elements, the shape wants %lld", have, (long long)want);
}

// Decodes float_data, int32_data, int64_data, double_data or uint64_data, whichever the type uses.
static zg_status decode_typed(const Onnx__TensorProto *t, const zg_type *type, void *out) {
  int64_t n = zg_elems(type);
  switch (type->dtype) {
    case ZG_F32:
      ZG_TRY(count_check(t->n_float_data, n));
      if (n) memcpy(out, t->float_data, (size_t)n * 4);
      return NULL;
    case ZG_F64:
      ZG_TRY(count_check(t->n_double_data, n));
      if (n) memcpy(out, t->double_data, (size_t)n * 8);
      return NULL;
    case ZG_I64:
      ZG_TRY(count_check(t->n_int64_data, n));
      if (n) memcpy(out, t->int64_data, (size_t)n * 8);
      return NULL;
    case ZG_U32:
    case ZG_U64:
      ZG_TRY(count_check(t->n_uint64_data, n));
      for (int64_t i = 0; i < n; i++) zg_set_i64(type->dtype, out, i, (int64_t)t->uint64_data[i]);
      return NULL;
    case ZG_F16:
    case ZG_BF16:  // the bit pattern in the low 16 bits
      ZG_TRY(count_check(t->n_int32_data, n));
      for (int64_t i = 0; i < n; i++) ((uint16_t *)out)[i] = (uint16_t)t->int32_data[i];
      return NULL;
    case ZG_I8:
    case ZG_I16:
    case ZG_I32:
    case ZG_U8:
    case ZG_U16:
    case ZG_BOOL:
      ZG_TRY(count_check(t->n_int32_data, n));
      for (int64_t i = 0; i < n; i++)
        zg_set_i64(type->dtype, out, i, type->dtype == ZG_BOOL ? t->int32_data[i] != 0 : t->int32_data[i]);
      return NULL;
    case ZG_N_DTYPES: break;
  }
  return zg_error(ZG_CORRUPT, "its element type is unknown");
}

// Bytes of any TensorProto of the model. *owned: a buffer to be freed with zg_free_big, NULL where the bytes
// are borrowed.
static zg_status dense_data(zg_onnx_model *m, const Onnx__TensorProto *t, zg_tensor *out, void **owned,
                            uint64_t *n_owned) {
  ZG_TRY(zg__tensor_type(t, &out->type));
  uint64_t need = zg_type_bytes(&out->type);
  const zg__ref *ref = zg__tensor_ref(t);
  const void *at = NULL;
  if (t->data_location == ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL) {
    ZG_TRY(external_bytes(m, t, need, &at));
  } else if (ref && ref->raw != UINT64_MAX && (ref->n_raw || need == 0)) {
    if (ref->n_raw != need)
      return zg_error(ZG_CORRUPT, "it holds %llu bytes, %s wants %llu", (unsigned long long)ref->n_raw,
                      zg_type_text(&out->type), (unsigned long long)need);
    at = m->file.bytes.at + ref->raw;
  } else {
    // one element of typed data takes a byte of the file at least: a hostile shape cannot ask for more than
    // that
    if (need / zg_dtype_bytes(out->type.dtype) > m->file.bytes.n)
      return zg_error(ZG_CORRUPT, "it has no data for its shape %s", zg_type_text(&out->type));
    ZG_TRY(zg_alloc_big(need ? need : 1, owned));
    *n_owned = need ? need : 1;
    ZG_TRY(decode_typed(t, &out->type, *owned));
    at = *owned;
  }
  out->data = (void *)(uintptr_t)at;
  return NULL;
}

zg_status zg__tensor_data(zg_onnx_model *m, const Onnx__TensorProto *t, const char *name, zg_tensor *out,
                          void **owned, uint64_t *n_owned) {
  *owned = NULL;
  *n_owned = 0;
  zg_status s = dense_data(m, t, out, owned, n_owned);
  if (!s) return NULL;
  if (*owned) zg_free_big(*owned, *n_owned);
  *owned = NULL;
  return zg_status_prefix(s, "tensor \"%s\": ", name);
}

// ---- sparse
// -----------------------------------------------------------------------------------------------------------
// Scatters values at indices (linear, or one row of coordinates each) into zeros.
static zg_status spread(const zg_tensor *values, const zg_tensor *idx, const zg_type *type, uint8_t *out) {
  int64_t n = zg_elems(&values->type), total = zg_elems(type);
  uint32_t size = zg_dtype_bytes(type->dtype);
  bool linear = idx->type.rank == 1;
  if (idx->type.dtype != ZG_I64 || zg_elems(&idx->type) != n * (linear ? 1 : (int64_t)type->rank))
    return zg_error(ZG_CORRUPT, "its indices are %s, want i64 for %lld values", zg_type_text(&idx->type),
                    (long long)n);
  const uint8_t *src = values->data;
  for (int64_t i = 0; i < n; i++) {
    int64_t at = 0, c;
    for (uint32_t d = 0; d < (linear ? 1 : type->rank); d++) {
      memcpy(&c, (const uint8_t *)idx->data + (linear ? i : i * type->rank + d) * 8, 8);
      int64_t limit = linear ? total : type->dim[d];
      if (c < 0 || c >= limit) return zg_error(ZG_CORRUPT, "its index %lld is out of range", (long long)c);
      at = at * (linear ? 1 : limit) + c;
    }
    memcpy(out + at * size, src + i * size, size);
  }
  return NULL;
}

static zg_status decode_sparse(zg_onnx_model *m, zg__tensor *t) {
  const Onnx__SparseTensorProto *s = t->sparse;
  zg_status status = NULL;
  zg_tensor values = {0}, idx = {0};
  void *own_values = NULL, *own_idx = NULL;
  uint64_t n_values = 0, n_idx = 0;
  if (!s->indices) return zg_error(ZG_CORRUPT, "sparse tensor \"%s\" has no indices", t->info.name);
  t->n_decoded = ZG_MAX(zg_type_bytes(&t->info.type), 1);
  ZG_TRY_OUT(zg__tensor_data(m, s->values, t->info.name, &values, &own_values, &n_values));
  ZG_TRY_OUT(zg__tensor_data(m, s->indices, t->info.name, &idx, &own_idx, &n_idx));
  ZG_TRY_OUT(zg_alloc_big(t->n_decoded, &t->decoded));
  status = zg_status_prefix(spread(&values, &idx, &t->info.type, t->decoded),
                            "sparse tensor \"%s\": ", t->info.name);
out:
  if (own_values) zg_free_big(own_values, n_values);
  if (own_idx) zg_free_big(own_idx, n_idx);
  if (status && t->decoded) {
    zg_free_big(t->decoded, t->n_decoded);
    t->decoded = NULL;
  }
  return status;
}

// ---- the table
// ----------------------------------------------------------------------------------------------------------
uint32_t zg_onnx_n_tensors(const zg_onnx_model *m) { return (uint32_t)m->tensors.n; }
const zg_onnx_tensor_info *zg_onnx_tensor_at(const zg_onnx_model *m, uint32_t i) {
  return &m->tensors.at[i].info;
}

zg_status zg_onnx_tensor_bytes(zg_onnx_model *m, uint32_t i, const void **out) {
  zg__tensor *t = &m->tensors.at[i];
  zg_status s = NULL;
  zg_tensor dense;
  if (t->decoded) {
    *out = t->decoded;
    return NULL;
  }
  if (t->home == ZG__IN_NODE) {
    s = zg__derived_bytes(m, i, out);
  } else if (t->sparse) {
    s = decode_sparse(m, t);
    *out = t->decoded;
  } else {
    s = zg__tensor_data(m, t->proto, t->info.name, &dense, &t->decoded, &t->n_decoded);
    *out = s ? NULL : dense.data;
  }
  return zg_status_prefix(s, "%s: ", m->path);
}

void zg_onnx_tensor_drop(zg_onnx_model *m, uint32_t i) {
  zg__tensor *t = &m->tensors.at[i];
  const void *at;
  if (t->decoded) {
    zg_free_big(t->decoded, t->n_decoded);
    t->decoded = NULL;
    return;
  }
  if (t->home == ZG__IN_NODE) {
    if (t->origin) zg_onnx_tensor_drop(m, t->origin - 1);
    return;
  }
  zg_status s = t->sparse ? NULL : zg_onnx_tensor_bytes(m, i, &at);
  if (s || t->sparse || t->decoded) {
    zg_status_free(s);
    return;
  }
  zg_file_map_forget((zg_bytes){at, zg_type_bytes(&t->info.type)});
}

void zg_onnx_forget_pages(const zg_onnx_model *m) {
  zg_file_map_forget(m->file.bytes);
  for (size_t i = 0; i < m->externals.n; i++) zg_file_map_forget(m->externals.at[i].map.bytes);
}

typedef struct { zg_onnx_model *m; zg_map names; bool in_function; } table;

static const char *unique_name(table *t, const char *name) {
  if (!*name) name = "unnamed";
  const char *try = name;
  for (int k = 2; !zg_map_put(&t->names, try, 0); k++) try = zg_arena_printf(&t->m->mem, "%s_%d", name, k);
  return zg_arena_str(&t->m->mem, try);
}

// Tensors whose type zgraph has no word for are left out: they matter only if a node reads them, and that
// says so then.
static void add(table *t, const Onnx__TensorProto *p, const Onnx__SparseTensorProto *sparse, const char *name,
                zg__home home) {
  zg__tensor x = {.proto = p, .sparse = sparse, .home = home, .in_function = t->in_function};
  zg__ref *ref = zg__tensor_ref(p);
  zg_status s = sparse ? dims_type(p->data_type, sparse->dims, sparse->n_dims, &x.info.type)
                       : zg__tensor_type(p, &x.info.type);
  bool bad = s || !ref || ref->index != UINT64_MAX ||
             (home == ZG__IN_CONSTANT && !zg_dtype_is_float(x.info.type.dtype));
  zg_status_free(s);
  if (bad) return;
  x.info.name = unique_name(t, name);
  x.info.external = p->data_location == ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
  x.info.is_constant_node = home == ZG__IN_CONSTANT;
  ref->index = t->m->tensors.n;
  zg_vec_push(&t->m->tensors, x);
}

const Onnx__TensorProto *zg__constant_value(const Onnx__NodeProto *n,
                                            const Onnx__SparseTensorProto **sparse) {
  *sparse = NULL;
  if (strcmp(zg__str(n->op_type), "Constant") || *zg__domain(n->domain)) return NULL;
  for (size_t i = 0; i < n->n_attribute; i++) {
    const Onnx__AttributeProto *a = n->attribute[i];
    if (!strcmp(zg__str(a->name), "value") && a->t) return a->t;
    if (!strcmp(zg__str(a->name), "sparse_value") && a->sparse_tensor && a->sparse_tensor->values) {
      *sparse = a->sparse_tensor;
      return a->sparse_tensor->values;
    }
  }
  return NULL;
}

static void add_graph(table *t, const Onnx__GraphProto *g, zg__home home);

static void add_nodes(table *t, Onnx__NodeProto *const *nodes, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const Onnx__SparseTensorProto *sparse;
    const Onnx__TensorProto *value = zg__constant_value(nodes[i], &sparse);
    if (value && nodes[i]->n_output) add(t, value, sparse, zg__str(nodes[i]->output[0]), ZG__IN_CONSTANT);
    for (size_t a = 0; a < nodes[i]->n_attribute; a++)
      if (nodes[i]->attribute[a]->g) add_graph(t, nodes[i]->attribute[a]->g, ZG__IN_BRANCH);
  }
}

static void add_graph(table *t, const Onnx__GraphProto *g, zg__home home) {
  for (size_t i = 0; i < g->n_initializer; i++)
    add(t, g->initializer[i], NULL, zg__str(g->initializer[i]->name), home);
  for (size_t i = 0; i < g->n_sparse_initializer; i++) {
    const Onnx__SparseTensorProto *s = g->sparse_initializer[i];
    if (s->values) add(t, s->values, s, zg__str(s->values->name), home);
  }
  add_nodes(t, g->node, g->n_node);
}

zg_status zg__tensor_table(zg_onnx_model *m) {
  table t = {.m = m};
  add_graph(&t, m->proto->graph, ZG__IN_GRAPH);
  zg__derive_generated(m, &t.names);
  t.in_function = true;
  for (size_t i = 0; i < m->proto->n_functions; i++)
    add_nodes(&t, m->proto->functions[i]->node, m->proto->functions[i]->n_node);
  zg_map_fini(&t.names);
  return NULL;
}
