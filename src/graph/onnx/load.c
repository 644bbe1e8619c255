// Loading an ONNX file: mapped, checked, unpacked without its weights.
//
// protobuf-c copies every byte field, which would double a model's memory. So the file is first taken apart
// (rope.c): the raw_data of every TensorProto is replaced by a 32-byte record that says where in the file the
// payload lies, and only what is left (names, nodes, shapes; about a per mille of a real model) is unpacked.
#include "graph/onnx/onnx_priv.h"

enum {
  OLDEST_OPSET = 6,   // legacy.c
  NEWEST_OPSET = 28,  // that the op families were written against (onnx 1.23)
};

static bool cut_tensor(zg__rewriter *w, const ProtobufCMessageDescriptor *kind, uint32_t tag,
                       const uint8_t *at, uint64_t n, zg__rope *out) {
  if (kind != &onnx__tensor_proto__descriptor)
    return false;  // a sparse tensor holds TensorProtos: they come here
  zg__ref ref = {.message = (uint64_t)(at - w->base), .raw = UINT64_MAX, .index = UINT64_MAX};
  zg__rope body = {0};
  const uint8_t *p = at, *end = at + n;
  while (p < end) {
    zg__field f;
    if (!zg__next_field(&p, end, &f)) {
      w->error = "the file is cut off inside a tensor";
      break;
    }
    if (f.tag == 9 && f.wire == 2) {
      ref.raw = (uint64_t)(f.body - w->base);
      ref.n_raw = f.n_body;
    } else {
      zg__rope_put(&body, f.start, f.n_field);
    }
  }
  zg__rope_field(&body, w->mem, 9, zg_arena_copy(w->mem, &ref, sizeof ref), sizeof ref);
  zg__rope_varint(out, w->mem, (uint64_t)tag << 3 | 2);
  zg__rope_varint(out, w->mem, body.n_bytes);
  zg__rope_append(out, &body);
  zg__rope_fini(&body);
  return true;
}

zg__ref *zg__tensor_ref(const Onnx__TensorProto *t) {
  return t && t->has_raw_data && t->raw_data.len == sizeof(zg__ref) ? (zg__ref *)(void *)t->raw_data.data
                                                                    : NULL;
}

// What the file is, if it is recognisably something else.
static const char *not_onnx(zg_bytes b) {
  static const struct {
    const char *head, *what;
  } known[] = {
      {"version https://git-lfs", "a Git LFS pointer, not the model itself; fetch it with `git lfs pull`"},
      {"PK\003\004", "a zip archive (a PyTorch or Keras file?); export it to ONNX first"},
      {"\211HDF", "an HDF5 file (Keras?); export it to ONNX first"},
      {"<!", "an HTML page; the download went wrong"},
      {"<html", "an HTML page; the download went wrong"},
      {"{", "a JSON file, not a binary ONNX model"},
  };
  if (b.n == 0) return "empty";
  for (size_t i = 0; i < ZG_COUNT(known); i++)
    if (b.n >= strlen(known[i].head) && !memcmp(b.at, known[i].head, strlen(known[i].head)))
      return known[i].what;
  return NULL;
}

static zg_status unpack(zg_onnx_model *m) {
  const char *other = not_onnx(m->file.bytes);
  if (other) return zg_error(ZG_INVALID, "the file is %s", other);
  zg_arena mem = {0};
  zg__rope rope = {0};
  uint8_t *slim = NULL;
  zg_status status = NULL;
  zg__rewriter w = {.tensor = cut_tensor, .base = m->file.bytes.at, .mem = &mem};
  if (!zg__rewrite(&w, &onnx__model_proto__descriptor, m->file.bytes.at, m->file.bytes.n, 0, &rope) ||
      w.error) {
    status = zg_error(ZG_CORRUPT, "%s", w.error);
    goto out;
  }
  slim = zg_alloc(rope.n_bytes + 1);
  uint8_t *p = slim;
  for (size_t i = 0; i < rope.pieces.n; i++) {
    memcpy(p, rope.pieces.at[i].at, rope.pieces.at[i].n);
    p += rope.pieces.at[i].n;
  }
  m->proto = onnx__model_proto__unpack(NULL, rope.n_bytes, slim);
  if (!m->proto) status = zg_error(ZG_CORRUPT, "the file is damaged, or is no ONNX model");
out:
  zg_free(slim);
  zg__rope_fini(&rope);
  zg_arena_fini(&mem);
  return status;
}

zg_status zg__read_opsets(zg_onnx_model *m, Onnx__OperatorSetIdProto **at, size_t n, zg__opsets *out) {
  *out = (zg__opsets){ZG_NEW_N(&m->mem, zg__opset, n ? n : 1), 0};
  for (size_t i = 0; i < n; i++) {
    const char *domain = zg__domain(at[i]->domain);
    zg__opset *known = NULL;
    for (uint32_t j = 0; j < out->n; j++)
      if (!strcmp(out->at[j].domain, domain)) known = &out->at[j];
    if (!known) {
      out->at[out->n++] = (zg__opset){domain, at[i]->version};
    } else if (known->version != at[i]->version) {
      known->version = ZG_MAX(known->version, at[i]->version);
      zg_warn("%s: opset of domain \"%s\" is imported twice; version %lld counts", m->path,
              *domain ? domain : "ai.onnx", (long long)known->version);
    }
  }
  return NULL;
}

static zg_status check_versions(zg_onnx_model *m) {
  const Onnx__ModelProto *p = m->proto;
  if (!p->graph) return zg_error(ZG_INVALID, "the file holds no graph; it is no ONNX model");
  if (!p->has_ir_version || p->ir_version < 3)
    return zg_error(ZG_UNSUPPORTED,
                    "IR version %lld is too old (3 or newer is read); convert the model with a newer onnx",
                    (long long)(p->has_ir_version ? p->ir_version : 0));
  ZG_TRY(zg__read_opsets(m, p->opset_import, p->n_opset_import, &m->opsets));
  int64_t opset = zg_onnx_opset(m);
  if (!opset && p->graph->n_node && !m->opsets.n)
    return zg_error(ZG_INVALID, "the model imports no operator set; it names no opset_import");
  if (opset && opset < OLDEST_OPSET)
    return zg_error(ZG_UNSUPPORTED,
                    "opset %lld is too old (%d or newer is read); convert it with onnx.version_converter",
                    (long long)opset, OLDEST_OPSET);
  if (opset > NEWEST_OPSET)
    zg_warn(
        "%s: opset %lld is newer than %d, the newest zgraph knows; its ops are read as if they had not "
        "changed",
        m->path, (long long)opset, NEWEST_OPSET);
  return NULL;
}

static bool is_initializer(const zg_map *names, const char *name) {
  return zg_map_get(names, zg__str(name), NULL);
}

static zg_status read_signatures(zg_onnx_model *m) {
  const Onnx__GraphProto *g = m->proto->graph;
  zg_map inits = {0};
  zg_status status = NULL;
  for (size_t i = 0; i < g->n_initializer; i++) zg_map_put(&inits, zg__str(g->initializer[i]->name), 0);
  for (size_t i = 0; i < g->n_sparse_initializer; i++)
    if (g->sparse_initializer[i]->values)
      zg_map_put(&inits, zg__str(g->sparse_initializer[i]->values->name), 0);
  zg_signature s;
  for (size_t i = 0; i < g->n_input; i++) {
    if (is_initializer(&inits, g->input[i]->name)) continue;  // weights listed as inputs too (IR 3)
    ZG_TRY_OUT(zg__signature(m, g->input[i], &s));
    zg_vec_push(&m->inputs, s);
  }
  for (size_t i = 0; i < g->n_output; i++) {
    ZG_TRY_OUT(zg__signature(m, g->output[i], &s));
    zg_vec_push(&m->outputs, s);
  }
out:
  zg_map_fini(&inits);
  return status;
}

static zg_status load(zg_onnx_model *m) {
  ZG_TRY(unpack(m));
  ZG_TRY(check_versions(m));
  ZG_TRY(zg__tensor_table(m));
  return read_signatures(m);
}

zg_status zg_onnx_load(const char *path, zg_onnx_model **out) {
  *out = NULL;
  zg_file_map file;
  ZG_TRY(zg_file_map_open(path, &file));
  zg_onnx_model *m = zg_alloc(sizeof *m);
  m->file = file;
  m->path = zg_arena_str(&m->mem, path);
  zg_status s = load(m);
  if (s) {
    s = zg_status_prefix(s, "%s: ", path);
    zg_onnx_free(m);
    return s;
  }
  *out = m;
  return NULL;
}

void zg_onnx_free(zg_onnx_model *m) {
  if (!m) return;
  for (size_t i = 0; i < m->tensors.n; i++)
    if (m->tensors.at[i].decoded) zg_free_big(m->tensors.at[i].decoded, m->tensors.at[i].n_decoded);
  for (size_t i = 0; i < m->externals.n; i++) zg_file_map_close(&m->externals.at[i].map);
  if (m->proto) onnx__model_proto__free_unpacked(m->proto, NULL);
  zg_file_map_close(&m->file);
  zg_vec_fini(&m->inputs);
  zg_vec_fini(&m->outputs);
  zg_vec_fini(&m->tensors);
  zg_vec_fini(&m->externals);
  zg_vec_fini(&m->renames);
  zg_map_fini(&m->derived);
  zg_arena_fini(&m->mem);
  zg_free(m);
}

const zg_signature *zg_onnx_inputs(const zg_onnx_model *m, uint32_t *n) {
  *n = (uint32_t)m->inputs.n;
  return m->inputs.at;
}
const zg_signature *zg_onnx_outputs(const zg_onnx_model *m, uint32_t *n) {
  *n = (uint32_t)m->outputs.n;
  return m->outputs.at;
}
const char *zg_onnx_producer(const zg_onnx_model *m) {
  const Onnx__ModelProto *p = m->proto;
  return p->producer_name ? p->producer_name : "";
}
int64_t zg_onnx_opset(const zg_onnx_model *m) {
  for (uint32_t i = 0; i < m->opsets.n; i++)
    if (!*m->opsets.at[i].domain) return m->opsets.at[i].version;
  return 0;
}
