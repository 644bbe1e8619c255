// Derived tensors: parameters that the file does not hold as a tensor. They stand in the tensor table behind those of the
// file, so that what knows parameters by name (decisions, checkpoints, export) need not know of them.
//
//   generated  the result of a ConstantOfShape node of the main graph whose shape is a constant: the weights of a file that
//              was made light, or initialisers that an exporter wrote out
//   copied     the result of an Identity node that hands a merged parameter on (zg_onnx_untie)
//   split      operands of nodes that read a merged parameter (zg_onnx_untie)
//
// An export that replaces one writes it as an initializer under its name: the node that made it goes, or the operand is
// renamed (export.c). What is not replaced stays as it was in the file.
#include "graph/onnx/onnx_priv.h"

static const Onnx__AttributeProto *plain_attr(const Onnx__NodeProto *n, const char *name) {
  for (size_t i = 0; i < n->n_attribute; i++)
    if (!strcmp(zg__str(n->attribute[i]->name), name)) return n->attribute[i];
  return NULL;
}

// ---- generated ----------------------------------------------------------------------------------------------------

typedef struct { const Onnx__GraphProto *g; zg_map initializers, constants; } sources;

static sources find_sources(const Onnx__GraphProto *g) {
  sources s = {.g = g};
  for (size_t i = 0; i < g->n_initializer; i++) zg_map_put(&s.initializers, zg__str(g->initializer[i]->name), i);
  for (size_t i = 0; i < g->n_node; i++)
    if (!strcmp(zg__str(g->node[i]->op_type), "Constant") && g->node[i]->n_output)
      zg_map_put(&s.constants, zg__str(g->node[i]->output[0]), i);
  return s;
}

static void drop_sources(sources *s) {
  zg_map_fini(&s->initializers);
  zg_map_fini(&s->constants);
}

static const Onnx__TensorProto *constant_named(const sources *s, const char *name) {
  const Onnx__SparseTensorProto *sparse;
  uint64_t i;
  if (zg_map_get(&s->initializers, name, &i)) return s->g->initializer[i];
  if (!zg_map_get(&s->constants, name, &i)) return NULL;
  const Onnx__TensorProto *t = zg__constant_value(s->g->node[i], &sparse);
  return sparse ? NULL : t;
}

// The dims that tensor t lists, as a type of dtype d; false where they are no shape.
static bool shape_listed(zg_onnx_model *m, const Onnx__TensorProto *t, zg_dtype d, zg_type *out) {
  zg_tensor list = {0};
  void *owned;
  uint64_t n_owned;
  zg_status s = zg__tensor_data(m, t, zg__str(t->name), &list, &owned, &n_owned);
  bool good = !s && list.type.dtype == ZG_I64 && list.type.rank == 1 && list.type.dim[0] <= ZG_MAX_RANK;
  int64_t dim[ZG_MAX_RANK] = {0}, bytes = (int64_t)zg_dtype_bytes(d);
  for (int64_t i = 0; good && i < list.type.dim[0]; i++) {
    memcpy(&dim[i], (const uint8_t *)list.data + i * 8, 8);
    good = dim[i] >= 0 && zg_mul_i64(bytes, ZG_MAX(dim[i], 1), &bytes);
  }
  if (good) *out = zg_type_make(d, (uint32_t)list.type.dim[0], dim);
  if (owned) zg_free_big(owned, n_owned);
  zg_status_free(s);
  return good;
}

// Element type of ConstantOfShape's value, f32 where it has none; false for what is no float.
static bool fill_type(const Onnx__NodeProto *n, zg_dtype *out) {
  const Onnx__AttributeProto *a = plain_attr(n, "value");
  zg_type t = {.dtype = ZG_F32};
  zg_status s = a && a->t ? zg__tensor_type(a->t, &t) : NULL;
  const bool good = !s && zg_dtype_is_float(t.dtype);
  zg_status_free(s);
  *out = t.dtype;
  return good;
}

static void add_generated(zg_onnx_model *m, const sources *s, const Onnx__NodeProto *n, zg_map *names) {
  zg__tensor x = {.home = ZG__IN_NODE, .maker = n};
  zg_dtype d;
  if (strcmp(zg__str(n->op_type), "ConstantOfShape") || *zg__domain(n->domain) || n->n_input != 1 || n->n_output != 1) return;
  const Onnx__TensorProto *shape = constant_named(s, zg__str(n->input[0]));
  if (!shape || !fill_type(n, &d) || !shape_listed(m, shape, d, &x.info.type)) return;
  x.info.name = zg_arena_str(&m->mem, zg__str(n->output[0]));
  x.info.is_constant_node = true;
  if (!*x.info.name || !zg_map_put(names, x.info.name, 0)) return;
  zg_map_put(&m->derived, x.info.name, m->tensors.n);
  zg_vec_push(&m->tensors, x);
}

void zg__derive_generated(zg_onnx_model *m, zg_map *names) {
  const Onnx__GraphProto *g = m->proto->graph;
  sources s = find_sources(g);
  for (size_t i = 0; i < g->n_node; i++) add_generated(m, &s, g->node[i], names);
  drop_sources(&s);
}

static zg_status fill_decoded(zg_onnx_model *m, zg__tensor *t) {
  const Onnx__AttributeProto *a = plain_attr(t->maker, "value");
  const int64_t n = zg_elems(&t->info.type), size = (int64_t)zg_dtype_bytes(t->info.type.dtype);
  uint8_t zero[8] = {0};
  zg_tensor value = {.type = {.dtype = t->info.type.dtype}, .data = zero};
  void *owned = NULL;
  uint64_t n_owned = 0;
  zg_status status = NULL;
  if (a && a->t) ZG_TRY(zg__tensor_data(m, a->t, t->info.name, &value, &owned, &n_owned));
  if (zg_elems(&value.type) != 1) status = zg_error(ZG_CORRUPT, "node \"%s\" (ConstantOfShape): its value has %lld elements, want one",
                                                     zg__str(t->maker->name), (long long)zg_elems(&value.type));
  t->n_decoded = (uint64_t)ZG_MAX(n * size, 1);
  if (!status) ZG_TRY_OUT(zg_alloc_big(t->n_decoded, &t->decoded));
  for (int64_t i = 0; !status && i < n; i++) memcpy((uint8_t *)t->decoded + i * size, value.data, (size_t)size);
out:
  if (owned) zg_free_big(owned, n_owned);
  return status;
}

zg_status zg__derived_bytes(zg_onnx_model *m, uint32_t i, const void **out) {
  zg__tensor *t = &m->tensors.at[i];
  if (t->origin) return zg_onnx_tensor_bytes(m, t->origin - 1, out);
  ZG_TRY(fill_decoded(m, t));
  *out = t->decoded;
  return NULL;
}

// ---- look-ups of the import ---------------------------------------------------------------------------------------

static const char *operand_key(zg_arena *mem, const Onnx__NodeProto *n, uint32_t operand) {
  return zg_arena_printf(mem, "%s\n%u", zg__str(n->output[0]), operand);
}

bool zg__derived_result(const zg_onnx_model *m, const Onnx__NodeProto *n, uint32_t *out) {
  uint64_t i;
  if (n->n_output != 1 || !zg_map_get(&m->derived, zg__str(n->output[0]), &i)) return false;
  *out = (uint32_t)i;
  return m->tensors.at[i].maker == n;
}

bool zg__derived_operand(const zg_onnx_model *m, zg_arena *mem, const Onnx__NodeProto *n, uint32_t operand, uint32_t *out) {
  uint64_t i;
  if (!m->renames.n || !n->n_output || !zg_map_get(&m->derived, operand_key(mem, n, operand), &i)) return false;
  *out = m->renames.at[i].tensor;
  return m->renames.at[i].node == n;
}

// ---- for untie.c --------------------------------------------------------------------------------------------------

uint32_t zg__derive(zg_onnx_model *m, uint32_t origin, const Onnx__NodeProto *maker, const char *name) {
  zg__tensor x = {.home = ZG__IN_NODE, .maker = maker, .origin = origin + 1};
  x.info = (zg_onnx_tensor_info){.name = name, .type = m->tensors.at[origin].info.type};
  if (maker) zg_map_put(&m->derived, name, m->tensors.n);
  zg_vec_push(&m->tensors, x);
  return (uint32_t)m->tensors.n - 1;
}

void zg__derive_operand(zg_onnx_model *m, const Onnx__NodeProto *n, uint32_t operand, uint32_t tensor) {
  zg_map_put(&m->derived, operand_key(&m->mem, n, operand), m->renames.n);
  zg_vec_push(&m->renames, (zg__rename){n, operand, tensor});
}
