// Rewriting protobuf's wire format. A message is copied as a rope: pieces that point into the source wherever
// nothing changes, so that a 500 MB model is taken apart, or written with new weights, without its payload
// being copied.
//
// - The walk follows protobuf-c's descriptors, so every nested TensorProto is met wherever ONNX puts one
// (initializers,
//   attributes, subgraphs, functions); unknown fields are kept as bytes.
// - Length prefixes of enclosing messages depend on what is inside: the inner rope is built first.
// - Depth is limited here, since protobuf-c's unpack recurses without a limit.
// Cost: one pass over tags and lengths, O(number of fields).
#include "graph/onnx/onnx_priv.h"

enum { MAX_DEPTH = 200 };

static bool read_varint(const uint8_t **at, const uint8_t *end, uint64_t *out) {
  uint64_t v = 0;
  for (int shift = 0; shift < 70; shift += 7) {
    if (*at == end) return false;
    uint8_t byte = *(*at)++;
    v |= (uint64_t)(byte & 0x7f) << ZG_MIN(shift, 63);
    if (byte < 0x80) {
      *out = v;
      return true;
    }
  }
  return false;
}

bool zg__next_field(const uint8_t **at, const uint8_t *end, zg__field *out) {
  uint64_t key, n = 0;
  *out = (zg__field){.start = *at};
  if (!read_varint(at, end, &key) || key >> 3 == 0 || key >> 3 > 0x1fffffff) return false;
  out->tag = (uint32_t)(key >> 3);
  out->wire = key & 7;
  switch (out->wire) {
    case 0:
      if (!read_varint(at, end, &n)) return false;
      n = 0;
      break;
    case 1: n = 8; break;
    case 2:
      if (!read_varint(at, end, &n)) return false;
      break;
    case 5: n = 4; break;
    default: return false;
  }
  if (n > (uint64_t)(end - *at)) return false;
  out->body = *at;
  out->n_body = n;
  *at += n;
  out->n_field = (uint64_t)(*at - out->start);
  return true;
}

void zg__rope_put(zg__rope *r, const void *at, uint64_t n) {
  if (!n) return;
  zg__piece *last = r->pieces.n ? &r->pieces.at[r->pieces.n - 1] : NULL;
  if (last && last->at + last->n == (const uint8_t *)at) last->n += n;
  else zg_vec_push(&r->pieces, (zg__piece){at, n});
  r->n_bytes += n;
}

void zg__rope_varint(zg__rope *r, zg_arena *mem, uint64_t v) {
  uint8_t bytes[10];
  size_t n = 0;
  do {
    bytes[n++] = (uint8_t)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
    v >>= 7;
  } while (v);
  zg__rope_put(r, zg_arena_copy(mem, bytes, n), n);
}

void zg__rope_field(zg__rope *r, zg_arena *mem, uint32_t tag, const void *at, uint64_t n) {
  zg__rope_varint(r, mem, (uint64_t)tag << 3 | 2);
  zg__rope_varint(r, mem, n);
  zg__rope_put(r, at, n);
}

void zg__rope_append(zg__rope *r, const zg__rope *tail) {
  for (size_t i = 0; i < tail->pieces.n; i++) zg__rope_put(r, tail->pieces.at[i].at, tail->pieces.at[i].n);
}

void zg__rope_fini(zg__rope *r) {
  zg_vec_fini(&r->pieces);
  r->n_bytes = 0;
}

static bool fail(zg__rewriter *w, const char *why) {
  if (!w->error) w->error = why;
  return false;
}

static bool rewrite_nested(zg__rewriter *w, const ProtobufCMessageDescriptor *kind, const zg__field *f,
                           int depth, zg__rope *out) {
  bool is_tensor = kind == &onnx__tensor_proto__descriptor || kind == &onnx__sparse_tensor_proto__descriptor;
  if (is_tensor && w->tensor(w, kind, f->tag, f->body, f->n_body, out)) return !w->error;
  zg__rope inner = {0};
  bool ok = zg__rewrite(w, kind, f->body, f->n_body, depth + 1, &inner);
  if (ok) {
    zg__rope_varint(out, w->mem, (uint64_t)f->tag << 3 | 2);
    zg__rope_varint(out, w->mem, inner.n_bytes);
    zg__rope_append(out, &inner);
  }
  zg__rope_fini(&inner);
  return ok;
}

bool zg__rewrite(zg__rewriter *w, const ProtobufCMessageDescriptor *kind, const uint8_t *src, uint64_t n,
                 int depth, zg__rope *out) {
  if (depth > MAX_DEPTH) return fail(w, "messages are nested too deeply");
  const uint8_t *at = src, *end = src + n;
  const bool main_graph = depth == 1 && kind == &onnx__graph_proto__descriptor;
  while (at < end) {
    zg__field f;
    if (!zg__next_field(&at, end, &f)) return fail(w, "the file is cut off or is no ONNX model");
    if (main_graph && f.tag == 1 && f.wire == 2 && w->node && w->node(w, &f, out)) continue;
    const ProtobufCFieldDescriptor *d = protobuf_c_message_descriptor_get_field(kind, f.tag);
    if (!d || d->type != PROTOBUF_C_TYPE_MESSAGE || f.wire != 2) {
      zg__rope_put(out, f.start, f.n_field);
      continue;
    }
    if (!rewrite_nested(w, d->descriptor, &f, depth, out)) return false;
  }
  if (main_graph && w->graph_end) w->graph_end(w, out);
  return true;
}
