// ties: several tensors of the file are one parameter.
//
// Exporters break ties: the head of a language model that reads the embedding transposed gets a transposed copy (`val_152`).
// Tied tensors are read from the first of them, transposed where the copy is; an export writes all of them. Which of the two a
// square copy is, its values say.
#include "graph/onnx/onnx_priv.h"

static zg_status find_tensor(const zg_onnx_model *m, const char *name, uint32_t *out) {
  const char *names[256];
  size_t n = 0;
  for (size_t i = 0; i < m->tensors.n; i++) {
    if (!strcmp(m->tensors.at[i].info.name, name)) {
      *out = (uint32_t)i;
      return NULL;
    }
    if (n < ZG_COUNT(names)) names[n++] = m->tensors.at[i].info.name;
  }
  const char *near = zg_nearest(name, names, n);
  return zg_error(ZG_INVALID, "ties: the model has no tensor \"%s\"%s%s%s", name, near ? "; did you mean \"" : "", near ? near : "",
                  near ? "\"?" : "; `zgraph inspect` lists its tensors");
}

static bool is_transposed(const zg_type *a, const zg_type *b) {
  return a->rank == 2 && b->rank == 2 && a->dim[0] == b->dim[1] && a->dim[1] == b->dim[0];
}

static void transpose(const zg_type *from, const uint8_t *at, uint8_t *out) {
  const size_t size = zg_dtype_bytes(from->dtype), rows = (size_t)from->dim[0], columns = (size_t)from->dim[1];
  for (size_t r = 0; r < rows; r++)
    for (size_t c = 0; c < columns; c++) memcpy(out + (c * rows + r) * size, at + (r * columns + c) * size, size);
}

const void *zg__tied_bytes(const zg_onnx_model *m, uint32_t i, const void *data, zg_arena *mem) {
  const zg__tensor *t = &m->tensors.at[i];
  const zg_type *from = &m->tensors.at[t->tied_to - 1].info.type;
  if (!t->tied_transposed) return data;
  uint8_t *out = zg_arena_alloc(mem, zg_type_bytes(from) + 1);
  transpose(from, data, out);
  return out;
}

// 0: the same bytes; 1: transposed; 2: neither.
static zg_status compare(zg_onnx_model *m, uint32_t a, uint32_t b, int *out) {
  const void *x, *y;
  const zg_type *t = &m->tensors.at[a].info.type, *u = &m->tensors.at[b].info.type;
  const uint64_t n = zg_type_bytes(t);
  zg_arena mem = {0};
  ZG_TRY(zg_onnx_tensor_bytes(m, a, &x));
  ZG_TRY(zg_onnx_tensor_bytes(m, b, &y));
  *out = zg_same_shape(t, u) && !memcmp(x, y, n) ? 0 : 2;
  if (*out == 2 && is_transposed(t, u)) {
    uint8_t *turned = zg_arena_alloc(&mem, n + 1);
    transpose(t, x, turned);
    if (!memcmp(turned, y, n)) *out = 1;
  }
  zg_arena_fini(&mem);
  return NULL;
}

bool zg__same_or_transposed(zg_onnx_model *m, uint32_t a, uint32_t b, bool *transposed) {
  int how = 2;
  zg_status s = compare(m, a, b, &how);
  const bool yes = !s && how < 2;
  zg_status_free(s);
  *transposed = how == 1;
  return yes;
}

static bool leads(const zg_onnx_model *m, uint32_t i) {
  for (size_t k = 0; k < m->tensors.n; k++)
    if (m->tensors.at[k].tied_to == i + 1) return true;
  return false;
}

static zg_status tie_to(zg_onnx_model *m, uint32_t leader, uint32_t i) {
  zg__tensor *a = &m->tensors.at[leader], *t = &m->tensors.at[i];
  const bool same = zg_type_equal(&a->info.type, &t->info.type),
             turned = a->info.type.dtype == t->info.type.dtype && is_transposed(&a->info.type, &t->info.type);
  int how = 2;
  if (!zg_dtype_is_float(a->info.type.dtype) || (!same && !turned))
    return zg_error(ZG_INVALID, "ties: \"%s\" is %s, \"%s\" is %s: want equal float types, or one the transpose of the other", a->info.name,
                    zg_type_text(&a->info.type), t->info.name, zg_type_text(&t->info.type));
  if (t->tied_to == leader + 1) return NULL;   // said before
  if (t->tied_to || a->tied_to || i == leader || leads(m, i))
    return zg_error(ZG_INVALID, "ties: \"%s\" is named twice; put all tensors that are one parameter into one list", t->info.name);
  zg_status s = compare(m, leader, i, &how);
  if (s && same && turned) return s;   // a square one: only its values tell
  zg_status_free(s);
  if (!s && how == 2)
    zg_warn("%s: ties: \"%s\" and \"%s\" hold different values; those of \"%s\" count", m->path, a->info.name, t->info.name, a->info.name);
  t->tied_to = leader + 1;
  t->tied_transposed = how == 1 || (how == 2 && !same);
  return NULL;
}

zg_status zg_onnx_tie(zg_onnx_model *m, const char *const *names, uint32_t n) {
  uint32_t leader, i;
  if (n < 2) return zg_error(ZG_INVALID, "ties: a list wants at least two tensors that are one parameter");
  ZG_TRY(find_tensor(m, names[0], &leader));
  for (uint32_t k = 1; k < n; k++) {
    ZG_TRY(find_tensor(m, names[k], &i));
    ZG_TRY(tie_to(m, leader, i));
  }
  return NULL;
}
