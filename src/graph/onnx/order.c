// The order in which nodes are imported. Nodes that no wanted name depends on are left out; the rest keeps
// the file's order as far as that is topological (some writers do not sort). Depth-first with an explicit
// stack: chains of any length work.
#include "graph/onnx/onnx_priv.h"

// Names that a subgraph defines itself hide outer ones (the standard forbids it, files do it).
typedef struct defined {
  zg_map names;
  const struct defined *outer;
} defined;
typedef void read_fn(void *user, const char *name);

static bool is_defined(const defined *d, const char *name) {
  for (; d; d = d->outer)
    if (zg_map_get(&d->names, name, NULL)) return true;
  return false;
}

static void each_read(const Onnx__NodeProto *n, const defined *inner, read_fn *fn, void *user);

static void each_graph_read(const Onnx__GraphProto *g, const defined *outer, read_fn *fn, void *user) {
  defined d = {.outer = outer};
  for (size_t i = 0; i < g->n_input; i++) zg_map_put(&d.names, zg__str(g->input[i]->name), 0);
  for (size_t i = 0; i < g->n_initializer; i++) zg_map_put(&d.names, zg__str(g->initializer[i]->name), 0);
  for (size_t i = 0; i < g->n_node; i++)
    for (size_t k = 0; k < g->node[i]->n_output; k++) zg_map_put(&d.names, zg__str(g->node[i]->output[k]), 0);
  for (size_t i = 0; i < g->n_node; i++) each_read(g->node[i], &d, fn, user);
  for (size_t i = 0; i < g->n_output; i++)
    if (!is_defined(&d, zg__str(g->output[i]->name))) fn(user, zg__str(g->output[i]->name));
  zg_map_fini(&d.names);
}

static void read_attribute(const ProtobufCBinaryData *s, const defined *inner, read_fn *fn, void *user) {
  zg_str name = {0};
  zg_str_add(&name, "%.*s", (int)s->len, (const char *)s->data);
  if (!is_defined(inner, name.at)) fn(user, name.at);
  zg_str_fini(&name);
}

// Calls fn for every name from outside that the node reads, through its subgraphs too.
static void each_read(const Onnx__NodeProto *n, const defined *inner, read_fn *fn, void *user) {
  for (size_t i = 0; i < n->n_input; i++)
    if (*zg__str(n->input[i]) && !is_defined(inner, n->input[i])) fn(user, n->input[i]);
  const bool by_name = !strcmp(zg__str(n->op_type), "Gradient");   // its attribute y is the name of a tensor
  for (size_t i = 0; i < n->n_attribute; i++)
    if (by_name && !strcmp(zg__str(n->attribute[i]->name), "y") && n->attribute[i]->has_s)
      read_attribute(&n->attribute[i]->s, inner, fn, user);
    else if (n->attribute[i]->g) each_graph_read(n->attribute[i]->g, inner, fn, user);
}

static void put_name(void *user, const char *name) { zg_map_put(user, name, 0); }

void zg__add_reads(const Onnx__NodeProto *n, zg_map *names) { each_read(n, NULL, put_name, names); }

typedef ZG_VEC(uint32_t) ids;
typedef struct {
  Onnx__NodeProto *const *nodes;
  zg_map makers;  // name -> node
  ids *deps;      // one a node: the nodes whose results it reads
  uint32_t node;  // whose reads are being collected
} graph;

static void add_dep(void *user, const char *name) {
  graph *g = user;
  uint64_t maker;
  if (zg_map_get(&g->makers, name, &maker)) zg_vec_push(&g->deps[g->node], (uint32_t)maker);
}

static zg_status find_makers(graph *g, uint32_t n) {
  for (uint32_t i = 0; i < n; i++)
    for (size_t k = 0; k < g->nodes[i]->n_output; k++) {
      const char *name = zg__str(g->nodes[i]->output[k]);
      if (*name && !zg_map_put(&g->makers, name, i))
        return zg_error(ZG_INVALID, "value \"%s\" is made by two nodes, the second is \"%s\" (%s)", name,
                        zg__str(g->nodes[i]->name), zg__str(g->nodes[i]->op_type));
    }
  return NULL;
}

static void mark_live(const graph *g, bool *live, const char *const *wanted, size_t n_wanted) {
  ids reached = {0};
  for (size_t i = 0; i < n_wanted; i++) {
    uint64_t maker;
    if (zg_map_get(&g->makers, zg__str(wanted[i]), &maker)) zg_vec_push(&reached, (uint32_t)maker);
  }
  while (reached.n) {
    uint32_t at = reached.at[--reached.n];
    if (live[at]) continue;
    live[at] = true;
    for (size_t k = 0; k < g->deps[at].n; k++) zg_vec_push(&reached, g->deps[at].at[k]);
  }
  zg_vec_fini(&reached);
}

// Puts `root` behind everything it needs. state: 0 new, 1 on the stack, 2 placed.
static zg_status place(const graph *g, uint32_t root, uint8_t *state, uint32_t *next_dep, uint32_t *out,
                       uint32_t *n_out) {
  zg_status status = NULL;
  ids stack = {0};
  zg_vec_push(&stack, root);
  state[root] = 1;
  while (stack.n) {
    uint32_t at = stack.at[stack.n - 1];
    if (next_dep[at] == g->deps[at].n) {
      state[at] = 2;
      out[(*n_out)++] = at;
      stack.n--;
      continue;
    }
    uint32_t dep = g->deps[at].at[next_dep[at]++];
    if (state[dep] == 2) continue;
    if (state[dep] == 1) {
      status = zg_error(ZG_INVALID, "node \"%s\" (%s) depends on its own result: the graph has a cycle",
                        zg__str(g->nodes[dep]->name), zg__str(g->nodes[dep]->op_type));
      break;
    }
    state[dep] = 1;
    zg_vec_push(&stack, dep);
  }
  zg_vec_fini(&stack);
  return status;
}

zg_status zg__order(zg__import *im, Onnx__NodeProto *const *nodes, size_t n, const char *const *wanted,
                    size_t n_wanted, uint32_t **out, uint32_t *n_out) {
  zg_status status = NULL;
  graph g = {.nodes = nodes, .deps = zg_alloc((n + 1) * sizeof(ids))};
  bool *live = zg_alloc(n + 1);
  uint8_t *state = zg_alloc(n + 1);
  uint32_t *next_dep = zg_alloc((n + 1) * sizeof *next_dep);
  *out = ZG_NEW_N(&im->mem, uint32_t, n + 1);
  *n_out = 0;
  ZG_TRY_OUT(find_makers(&g, (uint32_t)n));
  for (g.node = 0; g.node < n; g.node++) each_read(nodes[g.node], NULL, add_dep, &g);
  mark_live(&g, live, wanted, n_wanted);
  for (uint32_t i = 0; i < n; i++)
    if (live[i] && !state[i]) ZG_TRY_OUT(place(&g, i, state, next_dep, *out, n_out));
out:
  for (size_t i = 0; i < n; i++) zg_vec_fini(&g.deps[i]);
  zg_map_fini(&g.makers);
  zg_free(g.deps);
  zg_free(live);
  zg_free(state);
  zg_free(next_dep);
  return status;
}
