// Export: the model file again, with new bytes for some tensors. The file is rewritten on the wire level
// (rope.c), so that all that is not replaced stays as it was, unknown fields included, and nothing is held in
// memory twice.
//
// Up to 2 GB everything is in one file (protobuf's limit), external data of the source too. Above, tensors of
// 1 KiB and more go to FILE.data:      FILE.data: | tensor 0 | pad to 64 | tensor 7 | pad to 64 | ... Both
// files are written beside their final names, synced, and renamed, the data first.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "graph/onnx/export_priv.h"
#include "graph/onnx/onnx_priv.h"

static const uint64_t INLINE_LIMIT = 0x7fffffff - (1 << 20);  // protobuf's limit less room for headers
enum { MIN_EXTERNAL = 1024, ALIGN = 64 };

typedef struct {
  zg_onnx_model *m;
  const void **bytes;     // by table index; NULL: as in the file
  zg_map by_place;        // offset of a TensorProto (or, sparse, of its values) -> table index
  bool external;          // large tensors go to the data file
  const char *data_name;  // its name without folders
  size_t node;            // of the main graph, next to be met
  zg_arena mem;
  zg__rope data;
  zg_status status;
} export;

static void place_key(uint64_t offset, char key[24]) {
  snprintf(key, 24, "%llu", (unsigned long long)offset);
}

// ---- one tensor
// -----------------------------------------------------------------------------------------------------------
static bool is_payload(uint32_t tag) {  // fields of TensorProto that hold data, or say where they are
  return (tag >= 4 && tag <= 7) || tag == 9 || tag == 10 || tag == 11 || tag == 13 || tag == 14;
}

static void put_entry(export *x, zg__rope *body, const char *key, const char *value) {
  zg__rope e = {0};
  zg__rope_field(&e, &x->mem, 1, key, strlen(key));
  zg__rope_field(&e, &x->mem, 2, value, strlen(value));
  zg__rope_varint(body, &x->mem, 13 << 3 | 2);
  zg__rope_varint(body, &x->mem, e.n_bytes);
  zg__rope_append(body, &e);
  zg__rope_fini(&e);
}

static void put_data(export *x, zg__rope *body, const void *at, uint64_t n) {
  if (!x->external || n < MIN_EXTERNAL) {
    zg__rope_field(body, &x->mem, 9, at, n);
    return;
  }
  uint64_t pad = zg_round_up(x->data.n_bytes, ALIGN) - x->data.n_bytes;
  if (pad) zg__rope_put(&x->data, zg_arena_alloc(&x->mem, pad), pad);
  put_entry(x, body, "location", x->data_name);
  put_entry(x, body, "offset", zg_arena_printf(&x->mem, "%llu", (unsigned long long)x->data.n_bytes));
  put_entry(x, body, "length", zg_arena_printf(&x->mem, "%llu", (unsigned long long)n));
  zg__rope_varint(body, &x->mem, 14 << 3);
  zg__rope_varint(body, &x->mem, 1);
  zg__rope_put(&x->data, at, n);
}

static void put_message(export *x, zg__rope *out, uint32_t tag, const zg__rope *body) {
  zg__rope_varint(out, &x->mem, (uint64_t)tag << 3 | 2);
  zg__rope_varint(out, &x->mem, body->n_bytes);
  zg__rope_append(out, body);
}

static bool put_tensor(export *x, uint32_t tag, const uint8_t *at, uint64_t n, const void *data,
                       uint64_t n_data, zg__rope *out) {
  zg__rope body = {0};
  const uint8_t *p = at, *end = at + n;
  zg__field f;
  while (p < end && zg__next_field(&p, end, &f))
    if (!is_payload(f.tag)) zg__rope_put(&body, f.start, f.n_field);
  put_data(x, &body, data, n_data);
  put_message(x, out, tag, &body);
  zg__rope_fini(&body);
  return true;
}

static uint64_t onnx_type_of(zg_dtype d) {
  zg_dtype k;
  for (int64_t i = 1; i < 32; i++) {
    zg_status s = zg_onnx_dtype(i, &k);
    const bool same = !s && k == d;
    zg_status_free(s);
    if (same) return (uint64_t)i;
  }
  return 0;
}

// A tensor that was none in the file: a sparse one with new values becomes dense under its name, a derived one an initializer.
static bool put_dense(export *x, uint32_t tag, const zg__tensor *t, const char *name, const void *data, zg__rope *out) {
  zg__rope body = {0};
  for (uint32_t i = 0; i < t->info.type.rank; i++) {
    zg__rope_varint(&body, &x->mem, 1 << 3);
    zg__rope_varint(&body, &x->mem, (uint64_t)t->info.type.dim[i]);
  }
  zg__rope_varint(&body, &x->mem, 2 << 3);
  zg__rope_varint(&body, &x->mem, onnx_type_of(t->info.type.dtype));
  zg__rope_field(&body, &x->mem, 8, name, strlen(name));
  put_data(x, &body, data, zg_type_bytes(&t->info.type));
  put_message(x, out, tag, &body);
  zg__rope_fini(&body);
  return true;
}

static bool find_tensor(export *x, uint64_t offset, uint32_t *out) {
  char key[24];
  uint64_t i;
  place_key(offset, key);
  if (!zg_map_get(&x->by_place, key, &i)) return false;
  *out = (uint32_t)i;
  return true;
}

// The SparseTensorProto itself has no record: its values' place (field 1) identifies it.
static bool sparse_hook(zg__rewriter *w, uint32_t tag, const uint8_t *at, uint64_t n, zg__rope *out) {
  export *x = w->user;
  const uint8_t *p = at, *end = at + n;
  zg__field f;
  uint32_t i;
  while (p < end && zg__next_field(&p, end, &f)) {
    if (f.tag != 1 || f.wire != 2 || !find_tensor(x, (uint64_t)(f.body - w->base), &i)) continue;
    const zg__tensor *t = &x->m->tensors.at[i];
    if (!x->bytes[i] || t->home == ZG__IN_CONSTANT) return false;
    return put_dense(x, 5, t, zg__str(t->proto->name), x->bytes[i], out);  // field 15 of GraphProto becomes field 5, `initializer`
  }
  (void)tag;
  return false;
}

static bool tensor_hook(zg__rewriter *w, const ProtobufCMessageDescriptor *kind, uint32_t tag,
                        const uint8_t *at, uint64_t n, zg__rope *out) {
  export *x = w->user;
  uint32_t i;
  if (kind == &onnx__sparse_tensor_proto__descriptor) return sparse_hook(w, tag, at, n, out);
  if (!find_tensor(x, (uint64_t)(at - w->base), &i)) return false;
  const zg__tensor *t = &x->m->tensors.at[i];
  if (t->sparse) return false;
  uint64_t n_data = zg_type_bytes(&t->info.type);
  const void *data = x->bytes[i];
  if (!data && !t->info.external && (!x->external || n_data < MIN_EXTERNAL)) return false;
  if (!data) {
    zg_status s = zg_onnx_tensor_bytes(x->m, i, &data);
    if (s) {
      x->status = s;
      w->error = "";
      return true;
    }
  }
  return put_tensor(x, tag, at, n, data, n_data, out);
}

// ---- derived tensors: nodes go or read others, initializers come
// ----------------------------------------------------------------------------------------------------
static bool edit_node(zg__rewriter *w, const zg__field *f, zg__rope *out) {
  export *x = w->user;
  const Onnx__NodeProto *n = x->m->proto->graph->node[x->node++];
  const uint8_t *p = f->body, *end = f->body + f->n_body;
  uint32_t i, operand = 0, changed = 0;
  zg__rope body = {0};
  zg__field inner;
  if (zg__derived_result(x->m, n, &i) && x->bytes[i]) return true;  // the initializer takes its place
  while (x->m->renames.n && p < end && zg__next_field(&p, end, &inner)) {
    if (inner.tag != 1) {
      zg__rope_put(&body, inner.start, inner.n_field);
    } else if (zg__derived_operand(x->m, &x->mem, n, operand++, &i) && x->bytes[i]) {
      zg__rope_field(&body, &x->mem, 1, x->m->tensors.at[i].info.name, strlen(x->m->tensors.at[i].info.name));
      changed++;
    } else {
      zg__rope_put(&body, inner.start, inner.n_field);
    }
  }
  if (changed) put_message(x, out, 1, &body);
  zg__rope_fini(&body);
  return changed != 0;
}

// Before IR version 4 every initializer is an input too.
static void put_input(export *x, const zg__tensor *t, zg__rope *out) {
  zg__rope shape = {0}, tensor = {0}, type = {0}, input = {0};
  for (uint32_t d = 0; d < t->info.type.rank; d++) {
    zg__rope dim = {0};
    zg__rope_varint(&dim, &x->mem, 1 << 3);
    zg__rope_varint(&dim, &x->mem, (uint64_t)t->info.type.dim[d]);
    put_message(x, &shape, 1, &dim);
    zg__rope_fini(&dim);
  }
  zg__rope_varint(&tensor, &x->mem, 1 << 3);
  zg__rope_varint(&tensor, &x->mem, onnx_type_of(t->info.type.dtype));
  put_message(x, &tensor, 2, &shape);
  put_message(x, &type, 1, &tensor);
  zg__rope_field(&input, &x->mem, 1, t->info.name, strlen(t->info.name));
  put_message(x, &input, 2, &type);
  put_message(x, out, 11, &input);
  zg__rope_fini(&shape);
  zg__rope_fini(&tensor);
  zg__rope_fini(&type);
  zg__rope_fini(&input);
}

static void add_initializers(zg__rewriter *w, zg__rope *out) {
  export *x = w->user;
  for (size_t i = 0; i < x->m->tensors.n; i++) {
    const zg__tensor *t = &x->m->tensors.at[i];
    if (t->home != ZG__IN_NODE || !x->bytes[i]) continue;
    put_dense(x, 5, t, t->info.name, x->bytes[i], out);
    if (x->m->proto->ir_version < 4) put_input(x, t, out);
  }
}

// ---- files
// ----------------------------------------------------------------------------------------------------------------
static zg_status write_all(int fd, const uint8_t *at, uint64_t n, const char *path) {
  while (n) {
    ssize_t k = write(fd, at, (size_t)ZG_MIN(n, (uint64_t)1 << 30));
    if (k < 0 && errno == EINTR) continue;
    if (k < 0) return zg_error(ZG_IO, "%s: %s", path, strerror(errno));
    at += k;
    n -= (uint64_t)k;
  }
  return NULL;
}

// Writes through a buffer, since a rope has many small pieces, and syncs.
static zg_status write_rope(const zg__rope *r, const char *path) {
  enum { BUFFER = 1 << 16 };
  zg_status status = NULL;
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return zg_error(ZG_IO, "%s: %s", path, strerror(errno));
  uint8_t *buf = zg_alloc(BUFFER);
  uint64_t held = 0;
  for (size_t i = 0; i < r->pieces.n; i++) {
    const zg__piece *p = &r->pieces.at[i];
    if (held + p->n > BUFFER) {
      ZG_TRY_OUT(write_all(fd, buf, held, path));
      held = 0;
    }
    if (p->n > BUFFER) {
      ZG_TRY_OUT(write_all(fd, p->at, p->n, path));
      continue;
    }
    memcpy(buf + held, p->at, p->n);
    held += p->n;
  }
  ZG_TRY_OUT(write_all(fd, buf, held, path));
  if (fsync(fd)) status = zg_error(ZG_IO, "%s: %s", path, strerror(errno));
out:
  zg_free(buf);
  if (close(fd) && !status) status = zg_error(ZG_IO, "%s: %s", path, strerror(errno));
  return status;
}

static zg_status move(const char *from, const char *to) {
  return rename(from, to) ? zg_error(ZG_IO, "%s: %s", to, strerror(errno)) : NULL;
}

static zg_status write_files(export *x, const zg__rope *model, const char *path) {
  zg_status status = NULL;
  const char *tmp = zg_arena_printf(&x->mem, "%s.tmp%ld", path, (long)getpid());
  const char *data = zg_arena_printf(&x->mem, "%s.data", path);
  const char *data_tmp = zg_arena_printf(&x->mem, "%s.tmp%ld", data, (long)getpid());
  const char *slash = strrchr(path, '/');
  const char *folder = !slash          ? "."
                       : slash == path ? "/"
                                       : zg_arena_strn(&x->mem, path, (size_t)(slash - path));
  if (x->data.n_bytes) ZG_TRY_OUT(write_rope(&x->data, data_tmp));
  ZG_TRY_OUT(write_rope(model, tmp));
  if (x->data.n_bytes) ZG_TRY_OUT(move(data_tmp, data));
  ZG_TRY_OUT(move(tmp, path));
  status = zg_dir_sync(folder);
out:
  if (status) {
    unlink(tmp);
    unlink(data_tmp);
  }
  return status;
}

// ---- the whole
// --------------------------------------------------------------------------------------------------------------
static zg_status take_replacements(export *x, const zg_onnx_replacement *r, uint32_t n) {
  x->bytes = ZG_NEW_N(&x->mem, const void *, x->m->tensors.n + 1);
  for (uint32_t i = 0; i < n; i++) {
    ZG_ASSERT(r[i].source < x->m->tensors.n);
    x->bytes[r[i].source] = r[i].data;
  }
  for (uint32_t i = 0; i < x->m->tensors.n; i++) {
    const uint32_t leader = x->m->tensors.at[i].tied_to;
    if (leader && x->bytes[leader - 1]) x->bytes[i] = zg__tied_bytes(x->m, i, x->bytes[leader - 1], &x->mem);
  }
  for (size_t i = 0; i < x->m->tensors.n; i++) {
    char key[24];
    const zg__tensor *t = &x->m->tensors.at[i];
    if (t->sparse && t->home == ZG__IN_CONSTANT && x->bytes[i])
      return zg_error(ZG_UNSUPPORTED, "tensor \"%s\" is a sparse Constant node and cannot get new values",
                      t->info.name);
    if (!t->proto) continue;
    place_key(zg__tensor_ref(t->proto)->message, key);
    zg_map_put(&x->by_place, key, i);
  }
  return NULL;
}

// Size of the model with everything inside.
static uint64_t inline_size(const zg_onnx_model *m) {
  uint64_t n = m->file.bytes.n;
  for (size_t i = 0; i < m->tensors.n; i++)
    if (m->tensors.at[i].info.external || m->tensors.at[i].sparse || m->tensors.at[i].home == ZG__IN_NODE)
      n += zg_type_bytes(&m->tensors.at[i].info.type);
  return n;
}

zg_status zg__onnx_export(zg_onnx_model *m, const zg_onnx_replacement *r, uint32_t n, const char *path,
                          uint64_t limit) {
  zg_status status = NULL;
  zg__rope model = {0};
  const char *slash = strrchr(path, '/');
  export x = {.m = m, .external = inline_size(m) > limit};
  x.data_name = zg_arena_printf(&x.mem, "%s.data", slash ? slash + 1 : path);
  zg__rewriter w = {.tensor = tensor_hook, .node = edit_node, .graph_end = add_initializers, .base = m->file.bytes.at, .mem = &x.mem, .user = &x};
  ZG_TRY_OUT(take_replacements(&x, r, n));
  if (!zg__rewrite(&w, &onnx__model_proto__descriptor, m->file.bytes.at, m->file.bytes.n, 0, &model) ||
      w.error) {
    status = x.status ? x.status : zg_error(ZG_CORRUPT, "%s: %s", m->path, w.error);
    goto out;
  }
  status = write_files(&x, &model, path);
out:
  zg__rope_fini(&model);
  zg__rope_fini(&x.data);
  zg_map_fini(&x.by_place);
  zg_arena_fini(&x.mem);
  return zg_status_prefix(status, "exporting %s: ", path);
}

zg_status zg_onnx_export(zg_onnx_model *m, const zg_onnx_replacement *r, uint32_t n, const char *path) {
  return zg__onnx_export(m, r, n, path, INLINE_LIMIT);
}
