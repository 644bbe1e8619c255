// The node view of op.h: attributes, constant operands, messages. Attributes of nodes in functions may refer
// to attributes of the call (ref_attr_name).
#include "graph/onnx/onnx_priv.h"

static const struct {
  int32_t onnx;
  zg_dtype zg;
} dtypes[] = {
    {ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT, ZG_F32},   {ONNX__TENSOR_PROTO__DATA_TYPE__DOUBLE, ZG_F64},
    {ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT16, ZG_F16}, {ONNX__TENSOR_PROTO__DATA_TYPE__BFLOAT16, ZG_BF16},
    {ONNX__TENSOR_PROTO__DATA_TYPE__INT8, ZG_I8},     {ONNX__TENSOR_PROTO__DATA_TYPE__INT16, ZG_I16},
    {ONNX__TENSOR_PROTO__DATA_TYPE__INT32, ZG_I32},   {ONNX__TENSOR_PROTO__DATA_TYPE__INT64, ZG_I64},
    {ONNX__TENSOR_PROTO__DATA_TYPE__UINT8, ZG_U8},    {ONNX__TENSOR_PROTO__DATA_TYPE__UINT16, ZG_U16},
    {ONNX__TENSOR_PROTO__DATA_TYPE__UINT32, ZG_U32},  {ONNX__TENSOR_PROTO__DATA_TYPE__UINT64, ZG_U64},
    {ONNX__TENSOR_PROTO__DATA_TYPE__BOOL, ZG_BOOL},
};

zg_status zg_onnx_dtype(int64_t onnx_type, zg_dtype *out) {
  for (size_t i = 0; i < ZG_COUNT(dtypes); i++)
    if (dtypes[i].onnx == onnx_type) {
      *out = dtypes[i].zg;
      return NULL;
    }
  const ProtobufCEnumValue *v = NULL;
  if (onnx_type >= 0 && onnx_type < 1000)
    v = protobuf_c_enum_descriptor_get_value(&onnx__tensor_proto__data_type__descriptor, (int)onnx_type);
  return zg_error(ZG_UNSUPPORTED,
                  "element type %s (%lld) is not supported; zgraph computes with floats of 16 to 64 bits, "
                  "integers of 8 to 64 bits and bool",
                  v ? v->name : "unknown", (long long)onnx_type);
}

static const Onnx__AttributeProto *find(Onnx__AttributeProto *const *at, size_t n, const char *name) {
  for (size_t i = 0; i < n; i++)
    if (!strcmp(zg__str(at[i]->name), name)) return at[i];
  return NULL;
}

const Onnx__AttributeProto *zg__attr(const Onnx__NodeProto *n, const zg__frame *f, const char *name) {
  const Onnx__AttributeProto *a = find(n->attribute, n->n_attribute, name);
  while (a && a->ref_attr_name && *a->ref_attr_name) {
    if (!f->func) return NULL;  // a reference outside of a function means nothing
    const char *ref = a->ref_attr_name;
    const zg__frame *at = f;
    a = find(at->call->attribute, at->call->n_attribute, ref);
    f = at->caller;
    if (!a) return find(at->func->attribute_proto, at->func->n_attribute_proto, ref);
  }
  return a;
}

static const Onnx__AttributeProto *get(const zg_onnx_node *n, const char *name) {
  return zg__attr(n->attrs->node, n->attrs->frame, name);
}

bool zg_onnx_has(const zg_onnx_node *n, const char *attr) { return get(n, attr) != NULL; }

int64_t zg_onnx_int(const zg_onnx_node *n, const char *attr, int64_t def) {
  const Onnx__AttributeProto *a = get(n, attr);
  if (!a) return def;
  // proto3 writers leave a zero out: absent with the type set means 0
  return a->has_i ? a->i : a->has_f ? (int64_t)a->f : a->has_type ? 0 : def;
}

double zg_onnx_float(const zg_onnx_node *n, const char *attr, double def) {
  const Onnx__AttributeProto *a = get(n, attr);
  if (!a) return def;
  return a->has_f ? (double)a->f : a->has_i ? (double)a->i : a->has_type ? 0 : def;
}

const char *zg_onnx_str(const zg_onnx_node *n, const char *attr, const char *def) {
  const Onnx__AttributeProto *a = get(n, attr);
  if (!a) return def;
  if (!a->has_s || !a->s.len) return a->has_type || a->has_s ? "" : def;
  return zg_arena_strn(zg_builder_arena(n->b), (const char *)a->s.data, a->s.len);
}

bool zg_onnx_ints(const zg_onnx_node *n, const char *attr, zg_ints *out) {
  *out = (zg_ints){0};
  const Onnx__AttributeProto *a = get(n, attr);
  if (!a) return false;
  if (!a->n_ints && a->has_i) *out = (zg_ints){1, zg_arena_copy(zg_builder_arena(n->b), &a->i, sizeof a->i)};
  else
    *out = (zg_ints){(int64_t)a->n_ints,
                     zg_arena_copy(zg_builder_arena(n->b), a->ints, a->n_ints * sizeof *a->ints)};
  return true;
}

bool zg_onnx_floats(const zg_onnx_node *n, const char *attr, const double **out, int64_t *n_out) {
  *out = NULL;
  *n_out = 0;
  const Onnx__AttributeProto *a = get(n, attr);
  if (!a) return false;
  double *d = ZG_NEW_N(zg_builder_arena(n->b), double, a->n_floats + 1);
  for (size_t i = 0; i < a->n_floats; i++) d[i] = a->floats[i];
  *out = d;
  *n_out = (int64_t)a->n_floats;
  return true;
}

const char *zg_onnx_str_at(const zg_onnx_node *n, const char *attr, int64_t i) {
  const Onnx__AttributeProto *a = get(n, attr);
  if (!a || i < 0 || (uint64_t)i >= a->n_strings) return NULL;
  return zg_arena_strn(zg_builder_arena(n->b), (const char *)a->strings[i].data, a->strings[i].len);
}

zg_val zg_onnx_tensor(const zg_onnx_node *n, const char *attr) {
  const Onnx__AttributeProto *a = get(n, attr);
  if (!a || !a->t) return (zg_val){0};
  zg_tensor t;
  void *owned = NULL;
  uint64_t n_owned = 0;
  zg_status s = zg__tensor_data(n->attrs->im->m, a->t, zg__str(a->t->name), &t, &owned, &n_owned);
  if (s) {
    zg_builder_fail(n->b, zg_status_prefix(s, "attribute \"%s\": ", attr));
    return (zg_val){0};
  }
  zg_val v = zg__const(n->b, &t.type, t.data);
  if (owned) zg_free_big(owned, n_owned);
  return v;
}

zg_status zg_onnx_const_ints(const zg_onnx_node *n, uint32_t i, zg_ints *out) {
  *out = (zg_ints){0};
  zg_val v = zg_onnx_in(n, i);
  zg_tensor t;
  if (!zg_is(v)) return zg_onnx_error(n, ZG_INVALID, "input %u is missing", i);
  if (!zg_b_const(n->b, v, &t))
    return zg_onnx_error(n, ZG_UNSUPPORTED,
                         "input %u (%s) must be known before training starts, but depends on the data; "
                         "export the model with fixed sizes there",
                         i, zg_type_text(zg_b_type(n->b, v)));
  int64_t count = zg_elems(&t.type);
  int64_t *at = ZG_NEW_N(zg_builder_arena(n->b), int64_t, count + 1);
  for (int64_t k = 0; k < count; k++) at[k] = zg_get_i64(t.type.dtype, t.data, k);
  *out = (zg_ints){count, at};
  return NULL;
}

zg_status zg__onnx_error(const zg_onnx_node *n, zg_code code, const char *file, int line, const char *fmt,
                         ...) {
  va_list ap;
  va_start(ap, fmt);
  zg_status s = zg__status_vmake(code, file, line, fmt, ap);
  va_end(ap);
  const char *prefix = n->attrs ? n->attrs->frame->prefix : "";
  return zg_status_prefix(s, "node \"%s%s\" (%s%s%s-%lld): ", prefix, zg__str(n->name), zg__str(n->domain),
                          n->domain && *n->domain ? "." : "", n->op_type, (long long)n->opset);
}
