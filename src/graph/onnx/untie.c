// untie: gains and biases that an exporter merged become tensors of their own again.
//
// Exporters merge tensors of equal values, and in a fresh model all gains are ones and all biases zeros. The file then holds one
// tensor that many nodes read, directly or through Identity nodes (whose results still bear the parameters' names).
//
// - Only vectors whose elements are all equal are looked at: trained values do not coincide by chance.
// - Only where every reader takes it as gain, bias or statistic. A matrix that two nodes read is a tie that somebody meant.
// - Shared modules (ALBERT's layers, a net that runs twice) read one gain several times on purpose, and their matrices too. So
//   readers are put into groups: two belong together if the nearest matrices before them, or those behind them, are one tensor
//   in two nodes. The search ends at other norms. Each group gets one tensor.
// Why not split every reader: see ALBERT. Cost: one search over at most SEARCH nodes a reader.
#include "graph/onnx/onnx_priv.h"

enum { SEARCH = 256, MAX_HOPS = 4 };

typedef struct { Onnx__NodeProto *node; uint32_t operand; } reader;
typedef ZG_VEC(reader) reader_vec;
typedef struct {
  zg_onnx_model *m;
  zg_map first, makers, matrices;   // name -> index + 1 in `at`; -> node index + 1; float tensors that are no vectors
  reader_vec at;
  ZG_VEC(uint32_t) next;
} wiring;

// Gains, biases and statistics are vectors, or vectors with ones around them.
static bool is_vector(const zg_type *t) {
  int64_t most = 1;
  for (uint32_t d = 0; d < t->rank; d++) most = ZG_MAX(most, t->dim[d]);
  return t->rank >= 1 && most > 1 && most == zg_elems(t);
}

static void add_reader(wiring *w, Onnx__NodeProto *n, uint32_t operand) {
  uint64_t old = 0;
  const char *name = zg__str(n->input[operand]);
  if (!*name) return;
  zg_map_get(&w->first, name, &old);
  zg_vec_push(&w->at, (reader){n, operand});
  zg_vec_push(&w->next, (uint32_t)old);
  zg_map_put(&w->first, name, w->at.n);
}

static wiring find_wiring(zg_onnx_model *m) {
  wiring w = {.m = m};
  const Onnx__GraphProto *g = m->proto->graph;
  for (size_t i = g->n_node; i-- > 0;) {
    for (size_t k = g->node[i]->n_input; k-- > 0;) add_reader(&w, g->node[i], (uint32_t)k);
    for (size_t k = 0; k < g->node[i]->n_output; k++) zg_map_put(&w.makers, zg__str(g->node[i]->output[k]), i + 1);
  }
  for (size_t i = 0; i < m->tensors.n; i++) {
    const zg__tensor *t = &m->tensors.at[i];
    if (zg_dtype_is_float(t->info.type.dtype) && t->info.type.rank >= 2 && !is_vector(&t->info.type) && t->home != ZG__IN_BRANCH)
      zg_map_put(&w.matrices, t->info.name, i);
  }
  return w;
}

static void drop_wiring(wiring *w) {
  zg_map_fini(&w->first);
  zg_map_fini(&w->makers);
  zg_map_fini(&w->matrices);
  zg_vec_fini(&w->at);
  zg_vec_fini(&w->next);
}

static uint32_t first_reader(const wiring *w, const char *name) {
  uint64_t at = 0;
  zg_map_get(&w->first, name, &at);
  return (uint32_t)at;
}

static Onnx__NodeProto *maker_of(const wiring *w, const char *name) {
  uint64_t i = 0;
  return zg_map_get(&w->makers, name, &i) ? w->m->proto->graph->node[i - 1] : NULL;
}

// ---- which readers are there --------------------------------------------------------------------------------------

static bool is_gain_or_bias(const Onnx__NodeProto *n, uint32_t operand) {
  static const struct { const char *op_type; uint32_t operands; } slots[] = {
      {"LayerNormalization", 6}, {"RMSNormalization", 2}, {"SimplifiedLayerNormalization", 2}, {"BatchNormalization", 30},
      {"InstanceNormalization", 6}, {"GroupNormalization", 6}, {"SkipLayerNormalization", 0x1c},
      {"SkipSimplifiedLayerNormalization", 0xc}, {"Conv", 4}, {"ConvTranspose", 4}, {"Gemm", 4}, {"PRelu", 2},
      {"BiasGelu", 2}, {"FastGelu", 2}, {"Add", 3}, {"Mul", 3}};
  for (size_t i = 0; i < ZG_COUNT(slots); i++)
    if (!strcmp(slots[i].op_type, zg__str(n->op_type))) return operand < 32 && (slots[i].operands >> operand & 1);
  return false;
}

static bool is_identity(const Onnx__NodeProto *n) {
  return !strcmp(zg__str(n->op_type), "Identity") && !*zg__domain(n->domain) && n->n_output == 1;
}

// Collects the nodes that read the name as gain or bias, through Identity too; false: something else reads it.
static bool collect(const wiring *w, const char *name, int hops, reader_vec *out) {
  for (uint32_t at = first_reader(w, name); at; at = w->next.at[at - 1]) {
    const reader *x = &w->at.at[at - 1];
    if (is_identity(x->node) && hops < MAX_HOPS) {
      if (!collect(w, x->node->output[0], hops + 1, out)) return false;
    } else if (x->node->n_output && is_gain_or_bias(x->node, x->operand)) {
      zg_vec_push(out, *x);
    } else {
      return false;
    }
  }
  return true;
}

// ---- groups: shared modules ---------------------------------------------------------------------------------------

typedef struct { const Onnx__NodeProto *node; const char *matrix; } landmark;

// The matrix that the node reads, as it is or transposed, cast or reshaped first; NULL: none.
static const char *matrix_of(const wiring *w, const Onnx__NodeProto *n) {
  for (size_t k = 0; k < n->n_input; k++) {
    const char *name = zg__str(n->input[k]);
    for (int hops = 0; hops < MAX_HOPS; hops++) {
      if (zg_map_get(&w->matrices, name, NULL)) return name;
      const Onnx__NodeProto *from = *name ? maker_of(w, name) : NULL;
      if (!from || from->n_input < 1) break;
      static const char *const views[] = {"Transpose", "Cast", "Reshape", "Identity", "Unsqueeze"};
      bool view = false;
      for (size_t v = 0; v < ZG_COUNT(views); v++) view |= !strcmp(views[v], zg__str(from->op_type));
      if (!view) break;
      name = zg__str(from->input[0]);
    }
  }
  return NULL;
}

typedef ZG_VEC(Onnx__NodeProto *) node_vec;

static void push_once(node_vec *v, Onnx__NodeProto *n) {
  for (size_t i = 0; i < v->n; i++)
    if (v->at[i] == n) return;
  zg_vec_push(v, n);
}

static void push_neighbours(const wiring *w, const Onnx__NodeProto *n, bool before, node_vec *v) {
  for (size_t k = 0; before && k < n->n_input; k++) {
    Onnx__NodeProto *from = maker_of(w, zg__str(n->input[k]));
    if (from) push_once(v, from);
  }
  for (size_t k = 0; !before && k < n->n_output; k++)
    for (uint32_t at = first_reader(w, zg__str(n->output[k])); at; at = w->next.at[at - 1]) push_once(v, w->at.at[at - 1].node);
}

static bool is_norm(const Onnx__NodeProto *n) { return strstr(zg__str(n->op_type), "Normalization") != NULL; }

// The nearest node before or behind n that reads a matrix.
static landmark nearest(const wiring *w, Onnx__NodeProto *n, bool before) {
  node_vec v = {0};
  landmark found = {0};
  push_neighbours(w, n, before, &v);
  for (size_t i = 0; i < v.n && i < SEARCH && !found.matrix; i++) {
    found = (landmark){v.at[i], matrix_of(w, v.at[i])};
    if (!is_norm(v.at[i])) push_neighbours(w, v.at[i], before, &v);
  }
  zg_vec_fini(&v);
  return found.matrix ? found : (landmark){0};
}

static bool one_module(const landmark *a, const landmark *b) {
  return a->matrix && b->matrix && a->node != b->node && !strcmp(a->matrix, b->matrix);
}

// group[i]: the first reader of i's group.
static void find_groups(const wiring *w, const reader_vec *r, uint32_t *group) {
  landmark *near = zg_alloc(2 * r->n * sizeof *near);
  for (size_t i = 0; i < r->n; i++) {
    near[2 * i] = nearest(w, r->at[i].node, true), near[2 * i + 1] = nearest(w, r->at[i].node, false);
    group[i] = (uint32_t)i;
    for (size_t j = 0; j < i; j++) {
      if (!one_module(&near[2 * i], &near[2 * j]) && !one_module(&near[2 * i + 1], &near[2 * j + 1])) continue;
      const uint32_t from = group[i], to = group[j];
      for (size_t k = 0; k <= i; k++)
        if (group[k] == from) group[k] = to;
    }
  }
  zg_free(near);
}

// ---- splitting ----------------------------------------------------------------------------------------------------

static bool name_taken(const wiring *w, const char *name) {
  const Onnx__GraphProto *g = w->m->proto->graph;
  for (size_t i = 0; i < w->m->tensors.n; i++)
    if (!strcmp(w->m->tensors.at[i].info.name, name)) return true;
  for (size_t i = 0; i < g->n_input; i++)
    if (!strcmp(zg__str(g->input[i]->name), name)) return true;
  return zg_map_get(&w->makers, name, NULL);
}

// The Identity node that alone feeds the readers of this group with the merged tensor: its result, which bears the parameter's
// own name, can be the parameter again.
static Onnx__NodeProto *own_identity(const wiring *w, const reader_vec *r, const uint32_t *group, uint32_t g) {
  const char *name = zg__str(r->at[g].node->input[r->at[g].operand]);
  Onnx__NodeProto *n = maker_of(w, name);
  size_t in_group = 0, all = 0;
  if (!n || !is_identity(n)) return NULL;
  for (size_t i = 0; i < r->n; i++) {
    if (group[i] != g) continue;
    if (strcmp(zg__str(r->at[i].node->input[r->at[i].operand]), name)) return NULL;
    in_group++;
  }
  for (uint32_t at = first_reader(w, name); at; at = w->next.at[at - 1]) all++;
  return all == in_group ? n : NULL;
}

static void give_tensor(const wiring *w, uint32_t merged, const reader_vec *r, const uint32_t *group, uint32_t g) {
  zg_arena *mem = &w->m->mem;
  const Onnx__NodeProto *identity = own_identity(w, r, group, g), *n = r->at[g].node;
  if (identity) {
    zg__derive(w->m, merged, identity, identity->output[0]);
    return;
  }
  const char *base = zg_arena_printf(mem, "%s@%s", w->m->tensors.at[merged].info.name, zg__label(n));
  const char *name = base;
  for (int k = 2; name_taken(w, name); k++) name = zg_arena_printf(mem, "%s_%d", base, k);
  const uint32_t tensor = zg__derive(w->m, merged, NULL, name);
  for (size_t i = 0; i < r->n; i++)
    if (group[i] == g) zg__derive_operand(w->m, r->at[i].node, r->at[i].operand, tensor);
}

// The group that keeps the tensor of the file: the first that reads it without an Identity between, or else the first.
static uint32_t keeper(const reader_vec *r, const uint32_t *group, const char *name) {
  for (size_t i = 0; i < r->n; i++)
    if (!strcmp(zg__str(r->at[i].node->input[r->at[i].operand]), name)) return group[i];
  return group[0];
}

static zg_status is_uniform(zg_onnx_model *m, uint32_t i, bool *out) {
  const void *bytes;
  const zg_type *t = &m->tensors.at[i].info.type;
  const size_t size = zg_dtype_bytes(t->dtype);
  ZG_TRY(zg_onnx_tensor_bytes(m, i, &bytes));
  *out = true;
  for (int64_t k = 1; k < zg_elems(t) && *out; k++) *out = !memcmp(bytes, (const char *)bytes + (size_t)k * size, size);
  return NULL;
}

// The groups of readers of tensor i, where it is merged: more than one. *r and *group are the caller's to free.
static zg_status merged_groups(const wiring *w, uint32_t i, reader_vec *r, uint32_t **group, uint32_t *n_groups) {
  const zg__tensor *t = &w->m->tensors.at[i];
  bool uniform = false;
  *n_groups = 0;
  if (t->home != ZG__IN_GRAPH || t->sparse || !zg_dtype_is_float(t->info.type.dtype) || !is_vector(&t->info.type)) return NULL;
  if (!collect(w, t->info.name, 0, r) || r->n < 2) return NULL;
  ZG_TRY(is_uniform(w->m, i, &uniform));
  if (!uniform) return NULL;
  *group = zg_alloc(r->n * sizeof **group);
  find_groups(w, r, *group);
  for (uint32_t g = 0; g < r->n; g++) *n_groups += (*group)[g] == g;
  return NULL;
}

static zg_status untie_one(const wiring *w, uint32_t i) {
  reader_vec r = {0};
  uint32_t *group = NULL, n_groups, keep;
  zg_status status = merged_groups(w, i, &r, &group, &n_groups);
  if (!status && n_groups > 1) {
    keep = keeper(&r, group, w->m->tensors.at[i].info.name);
    for (uint32_t g = 0; g < r.n; g++)
      if (group[g] == g && g != keep) give_tensor(w, i, &r, group, g);
  }
  zg_free(group);
  zg_vec_fini(&r);
  return status;
}

void zg__each_merged(zg_onnx_model *m, zg__merged_fn *fn, void *user) {
  if (m->untied) return;
  wiring w = find_wiring(m);
  for (uint32_t i = 0; i < m->tensors.n; i++) {
    reader_vec r = {0};
    uint32_t *group = NULL, n_groups;
    zg_status_free(merged_groups(&w, i, &r, &group, &n_groups));   // absent weights: nothing is known
    if (n_groups > 1) fn(user, i, n_groups, (uint32_t)r.n, r.at[0].node);
    zg_free(group);
    zg_vec_fini(&r);
  }
  drop_wiring(&w);
}

zg_status zg_onnx_untie(zg_onnx_model *m, uint32_t *out_n) {
  wiring w = find_wiring(m);
  const size_t before = m->tensors.n;
  zg_status status = NULL;
  for (size_t i = 0; i < before && !m->untied; i++) ZG_TRY_OUT(untie_one(&w, (uint32_t)i));
  m->untied = true;
  *out_n = (uint32_t)(m->tensors.n - before);
out:
  drop_wiring(&w);
  return zg_status_prefix(status, "untie: auto has to read the weights: ");
}
