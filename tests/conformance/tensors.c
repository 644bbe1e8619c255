// Test values of the onnx package. Files of their own format: no code is shared with the import that is under test.
#include "conformance/tensors.h"

#include "graph/op.h"

static zg_status wrong_count(size_t have, int64_t want) {
  return zg_error(ZG_CORRUPT, "%zu elements, the shape wants %lld", have, (long long)want);
}

#define TAKE(field, convert)                                                     \
  do {                                                                           \
    if (p->n_##field != (size_t)n) return wrong_count(p->n_##field, n);          \
    for (int64_t i = 0; i < n; i++) convert(t->type.dtype, t->data, i, p->field[i]); \
  } while (0)

static void set_bits(zg_dtype t, void *data, int64_t i, int32_t v) {
  if (t == ZG_F16 || t == ZG_BF16) ((uint16_t *)data)[i] = (uint16_t)v;
  else zg_set_i64(t, data, i, v);
}

static zg_status read_tensor(const Onnx__TensorProto *p, zg_tensor *t) {
  zg_dtype d;
  ZG_TRY(zg_onnx_dtype(p->data_type, &d));
  if (p->n_dims > ZG_MAX_RANK) return zg_error(ZG_UNSUPPORTED, "rank %zu", p->n_dims);
  t->type = zg_type_make(d, (uint32_t)p->n_dims, p->dims);
  const int64_t n = zg_elems(&t->type);
  const uint64_t bytes = zg_type_bytes(&t->type);
  ZG_TRY(zg_alloc_big(bytes + 1, &t->data));
  if (p->has_raw_data && (p->raw_data.len || !bytes)) {
    if (p->raw_data.len != bytes) return wrong_count(p->raw_data.len, (int64_t)bytes);
    if (bytes) memcpy(t->data, p->raw_data.data, bytes);
    return NULL;
  }
  if (p->n_float_data) TAKE(float_data, zg_set_f64);
  else if (p->n_double_data) TAKE(double_data, zg_set_f64);
  else if (p->n_int64_data) TAKE(int64_data, zg_set_i64);
  else if (p->n_uint64_data) TAKE(uint64_data, zg_set_i64);
  else TAKE(int32_data, set_bits);
  return NULL;
}

// SequenceProto and OptionalProto stand in onnx-data.proto, which nothing else needs; these readers take from the wire the fields that
// hold tensors: 3 of either, and 5 of an optional, which is a sequence.
typedef struct { const uint8_t *at, *end; } wire;

static bool varint(wire *w, uint64_t *out) {
  *out = 0;
  for (int shift = 0; w->at < w->end && shift < 64; shift += 7) {
    *out |= (uint64_t)(*w->at & 127) << shift;
    if (!(*w->at++ & 128)) return true;
  }
  return false;
}

// The next field; false at the end or where the bytes are no message. body: of length-delimited ones.
static bool next_field(wire *w, uint32_t *tag, zg_bytes *body) {
  uint64_t key, n;
  if (!varint(w, &key) || !varint(w, &n)) return false;
  *tag = (uint32_t)(key >> 3);
  *body = (zg_bytes){.at = w->at};
  if ((key & 7) == 0) return true;
  if ((key & 7) != 2 || n > (uint64_t)(w->end - w->at)) return false;
  body->n = n;
  w->at += n;
  return true;
}

static zg_status read_tensor_bytes(zg_bytes b, zg_tensor *out) {
  Onnx__TensorProto *p = onnx__tensor_proto__unpack(NULL, b.n, b.at);
  return p ? read_tensor(p, out) : zg_error(ZG_CORRUPT, "no tensor");
}

static zg_status read_sequence(zg_bytes b, zg_list_of_tensors *out) {
  wire w = {b.at, b.at + b.n};
  uint32_t tag;
  zg_bytes body;
  out->is_sequence = true;
  out->at = zg_alloc(sizeof *out->at * (b.n + 1));   // an item takes a byte at least
  while (next_field(&w, &tag, &body)) {
    if (tag > 3) return zg_error(ZG_UNSUPPORTED, "a sequence of something that is no tensor");
    if (tag == 3) ZG_TRY(read_tensor_bytes(body, &out->at[out->n++]));
  }
  return w.at == w.end ? NULL : zg_error(ZG_CORRUPT, "no sequence");
}

static zg_status read_one(zg_bytes b, zg_list_of_tensors *out) {
  out->n = 1;
  out->at = zg_alloc(sizeof *out->at);
  return read_tensor_bytes(b, out->at);
}

static zg_status read_optional(zg_bytes b, zg_list_of_tensors *out) {
  wire w = {b.at, b.at + b.n};
  uint32_t tag;
  zg_bytes body;
  while (next_field(&w, &tag, &body)) {
    if (tag == 3) return read_one(body, out);
    if (tag == 5) return read_sequence(body, out);
  }
  return NULL;
}

static zg_status read_bytes(zg_bytes b, const Onnx__TypeProto *type, zg_list_of_tensors *out) {
  if (type && type->value_case == ONNX__TYPE_PROTO__VALUE_SEQUENCE_TYPE) return read_sequence(b, out);
  if (type && type->value_case == ONNX__TYPE_PROTO__VALUE_OPTIONAL_TYPE) return read_optional(b, out);
  return read_one(b, out);
}

zg_status zg_read_test_value(const char *path, const Onnx__TypeProto *type, zg_list_of_tensors *out) {
  zg_file_map f;
  *out = (zg_list_of_tensors){0};
  ZG_TRY(zg_file_map_open(path, &f));
  return zg_status_prefix(read_bytes(f.bytes, type, out), "%s: ", path);
}
