// Which tensors are trained, and why. The rule (docs/training.md): float initializers of the main graph,
// except
// - rank 0, and tensors without elements;
// - one element that only elementwise arithmetic and shape ops read (a one-element bias of Gemm or Conv is a
// parameter);
// - running statistics of BatchNormalization (role RUNNING), also where Identity or a function call stands
// between;
// - arguments of ops, such as the scales of Resize: they are no tensors of the computation.
// `trainable:` globs replace the rule ("*" alone means: all that the rule admits), `frozen:` globs take away.
// Constant nodes are trained only if `trainable:` names them without wildcards. Whether the loss reaches a
// parameter is autodiff's business.
#include "graph/onnx/onnx_priv.h"

// Ops in front of which one element is a constant of the arithmetic.
// clang-format off
static const char *const arithmetic[] = {
    "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "Mod", "Clip", "Where", "Equal",
    "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Sqrt", "Reciprocal", "Cast", "CastLike",
    "Expand", "Neg", "Exp", "Identity", "Pad", "Range", "Shape", "Resize", "Upsample", "OneHot",
    "Dropout", "ConstantOfShape", "Tile", "Reshape", "Unsqueeze", "Squeeze", "Concat", "Attention",
    "Loop", "If", "Scan",
};
// clang-format on
// Operands that say how an op works, by bit: they must be constants.
static const struct {
  const char *op_type;
  uint32_t operands;
} arguments[] = {
    {"Resize", 1u << 1 | 1u << 2},
    {"Upsample", 1u << 1},
    {"Dropout", 1u << 1},
    {"Range", 7u},
    {"OneHot", 1u << 2},
    {"RandomUniformLike", 1u},
    {"Pad", 1u << 2},
    {"MelWeightMatrix", 31u},
    {"NonMaxSuppression", 1u << 3 | 1u << 4},
};
// Ops that hand their first operand on: a parameter that passes through them is a parameter of what comes
// behind.
static const char *const passing[] = {"Identity", "Transpose", "Reshape", "Slice",  "Cast", "CastLike",
                                      "Squeeze",  "Unsqueeze", "Flatten", "Expand", "Split"};
enum {
  SMALL = 64,
  MAX_HOPS = 16
};  // small: constants of at most so many elements are folded, not kept as params

typedef struct {
  const Onnx__NodeProto *node;
  uint32_t operand, next;
  int func;
} use;  // next: index + 1; func -1: main graph
typedef struct {
  zg__import *im;
  zg_map first;  // "FUNC\nname" -> index + 1
  ZG_VEC(use) uses;
} uses;

static bool in_list(const char *const *list, size_t n, const char *word) {
  for (size_t i = 0; i < n; i++)
    if (!strcmp(list[i], word)) return true;
  return false;
}

static void add_use(uses *u, const char *name, use x) {
  if (!*name) return;
  zg_str key = {0};
  uint64_t old = 0;
  zg_str_add(&key, "%d\n%s", x.func, name);
  zg_map_get(&u->first, key.at, &old);
  x.next = (uint32_t)old;
  zg_vec_push(&u->uses, x);
  zg_map_put(&u->first, key.at, u->uses.n);
  zg_str_fini(&key);
}

static uint32_t first_use(const uses *u, int func, const char *name) {
  zg_str key = {0};
  uint64_t at = 0;
  zg_str_add(&key, "%d\n%s", func, name);
  zg_map_get(&u->first, key.at, &at);
  zg_str_fini(&key);
  return (uint32_t)at;
}

static void add_nodes(uses *u, Onnx__NodeProto *const *nodes, size_t n, int func) {
  for (size_t i = n; i-- > 0;) {  // backwards: lists then run in the file's order
    for (size_t k = nodes[i]->n_input; k-- > 0;)
      add_use(u, zg__str(nodes[i]->input[k]), (use){nodes[i], (uint32_t)k, 0, func});
    for (size_t a = 0; a < nodes[i]->n_attribute; a++)
      if (nodes[i]->attribute[a]->g)
        add_nodes(u, nodes[i]->attribute[a]->g->node, nodes[i]->attribute[a]->g->n_node, func);
  }
}

static const Onnx__FunctionProto *called(const uses *u, const Onnx__NodeProto *n, int *index) {
  int64_t i = zg__find_function(u->im, n);
  *index = (int)i;
  return i < 0 ? NULL : u->im->m->proto->functions[i];
}

// Calls `fn` for every use of a name, function calls replaced by the uses inside; true as soon as fn is.
typedef bool use_fn(const uses *u, const use *x, void *user);
static bool any_use(const uses *u, int func, const char *name, int hops, use_fn *fn, void *user) {
  for (uint32_t at = first_use(u, func, name); at; at = u->uses.at[at - 1].next) {
    const use *x = &u->uses.at[at - 1];
    int index;
    const Onnx__FunctionProto *f = called(u, x->node, &index);
    if (f && hops < MAX_HOPS && x->operand < f->n_input) {
      if (any_use(u, index, f->input[x->operand], hops + 1, fn, user)) return true;
    } else if (fn(u, x, user)) {
      return true;
    }
  }
  return false;
}

static bool is_no_arithmetic(const uses *u, const use *x, void *user) {
  (void)u, (void)user;
  return !in_list(arithmetic, ZG_COUNT(arithmetic), zg__str(x->node->op_type));
}

static bool is_no_argument(const uses *u, const use *x, void *user) {
  (void)u, (void)user;
  for (size_t i = 0; i < ZG_COUNT(arguments); i++)
    if (!strcmp(arguments[i].op_type, zg__str(x->node->op_type)) && x->operand < 32)
      return !(arguments[i].operands >> x->operand & 1);
  return true;
}

static bool is_any(const uses *u, const use *x, void *user) {
  (void)u;
  *(use *)user = *x;
  return true;
}

// Running statistics: operands 3 and 4 of BatchNormalization, also behind Identity.
typedef struct {
  use found;
  int hops;
} stat_search;
static bool is_running(const uses *u, const use *x, void *user) {
  stat_search *s = user;
  const char *op = zg__str(x->node->op_type);
  if (!strcmp(op, "BatchNormalization") && (x->operand == 3 || x->operand == 4)) {
    s->found = *x;
    return true;
  }
  if (strcmp(op, "Identity") || s->hops >= MAX_HOPS || !x->node->n_output) return false;
  s->hops++;
  bool yes = any_use(u, x->func, zg__str(x->node->output[0]), 0, is_running, s);
  s->hops--;
  return yes;
}

static const char *label(const Onnx__NodeProto *n) {
  return *zg__str(n->name) ? n->name : n->n_output ? zg__str(n->output[0]) : "";
}

// What reads the tensor: `weight operand 1 of Gemm "fc1", through Transpose`.
static const char *describe(uses *u, const zg__tensor *t, const char *name) {
  zg_arena *mem = &u->im->mem;
  use x;
  if (!any_use(u, -1, name, 0, is_any, &x)) return "no node reads it";
  const char *through = "";
  for (int hops = 0; hops < MAX_HOPS && !x.operand && x.node->n_output; hops++) {
    use next;
    const char *op = zg__str(x.node->op_type);
    if (!in_list(passing, ZG_COUNT(passing), op)) break;
    if (!any_use(u, x.func, zg__str(x.node->output[0]), 0, is_any, &next)) break;
    through = zg_arena_printf(mem, "%s%s%s", through, *through ? ", " : ", through ", op);
    x = next;
  }
  const char *domain = zg__domain(x.node->domain);
  const zg_onnx_row *row =
      zg_onnx_find(zg__str(x.node->op_type), domain, *domain ? 1 : zg_onnx_opset(u->im->m));
  bool position = row && x.operand < 32 && (row->param_operands >> x.operand & 1);
  const char *kind = !position ? "operand" : t->info.type.rank > 1 ? "weight, operand" : "parameter, operand";
  return zg_arena_printf(mem, "%s %u of %s \"%s\"%s", kind, x.operand, zg__str(x.node->op_type),
                         label(x.node), through);
}

static const char *matching(const char *const *globs, uint32_t n, const char *name) {
  for (uint32_t i = 0; i < n; i++)
    if (zg_glob(globs[i], name)) return globs[i];
  return NULL;
}

static bool named_exactly(const zg_import_options *o, const char *name) {
  return in_list(o->trainable, o->n_trainable, name);
}

static zg__decision decide_elsewhere(uses *u,
                                     const zg__tensor *t) {  // Constant nodes, initializers of subgraphs
  bool constant = t->home == ZG__IN_CONSTANT;
  const char *frozen = matching(u->im->o->frozen, u->im->o->n_frozen, t->info.name);
  if (named_exactly(u->im->o, t->info.name) && !frozen)
    return (zg__decision){.role = ZG_ROLE_TRAINABLE, .reason = "named in trainable"};
  if (zg_elems(&t->info.type) <= SMALL) return (zg__decision){.is_const = true};
  return (zg__decision){.role = ZG_ROLE_FROZEN,
                        .reason = constant ? "Constant node; name it in trainable to train it"
                                           : "belongs to a branch or loop body"};
}

static bool only_star(const zg_import_options *o) {
  return o->n_trainable == 1 && !strcmp(o->trainable[0], "*");
}

static zg__decision decide(uses *u, const zg__tensor *t) {
  const zg_import_options *o = u->im->o;
  zg_arena *mem = &u->im->mem;
  if (!zg_dtype_is_float(t->info.type.dtype)) return (zg__decision){.is_const = true};
  if (t->home != ZG__IN_GRAPH) return decide_elsewhere(u, t);
  const char *name = zg__str(t->proto->name), *frozen = matching(o->frozen, o->n_frozen, name), *glob;
  stat_search s = {0};
  if (any_use(u, -1, name, 0, is_running, &s))
    return (zg__decision){
        .role = ZG_ROLE_RUNNING,
        .reason = zg_arena_printf(mem, "running %s of BatchNormalization \"%s\"",
                                  s.found.operand == 3 ? "mean" : "variance", label(s.found.node))};
  if (first_use(u, -1, name) && !any_use(u, -1, name, 0, is_no_argument, NULL))
    return (zg__decision){.is_const = true};
  int64_t n = zg_elems(&t->info.type);
  bool scalar =
      n == 0 || t->info.type.rank == 0 || (n == 1 && !any_use(u, -1, name, 0, is_no_arithmetic, NULL));
  if (o->n_trainable && !only_star(o)) {
    glob = matching(o->trainable, o->n_trainable, name);
    if (!glob && scalar) return (zg__decision){.is_const = true};
    if (!glob) return (zg__decision){.role = ZG_ROLE_FROZEN, .reason = "no glob of trainable matches"};
    if (!frozen)
      return (zg__decision){.role = ZG_ROLE_TRAINABLE,
                            .reason = zg_arena_printf(mem, "trainable: \"%s\"", glob)};
  } else if (scalar) {
    return (zg__decision){.is_const = true};
  }
  if (frozen)
    return (zg__decision){.role = ZG_ROLE_FROZEN, .reason = zg_arena_printf(mem, "frozen: \"%s\"", frozen)};
  return (zg__decision){.role = ZG_ROLE_TRAINABLE, .reason = describe(u, t, name)};
}

static void warn_unmatched(const zg__import *im, const char *key, const char *const *globs, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) {
    bool found = false;
    for (size_t k = 0; k < im->m->tensors.n && !found; k++)
      found = zg_glob(globs[i], im->m->tensors.at[k].info.name);
    if (!found) zg_warn("%s: %s: \"%s\" matches no tensor of the model", im->m->path, key, globs[i]);
  }
}

zg_status zg__decide_params(zg__import *im) {
  uses u = {.im = im};
  const Onnx__ModelProto *p = im->m->proto;
  add_nodes(&u, p->graph->node, p->graph->n_node, -1);
  for (size_t i = 0; i < p->n_functions; i++)
    add_nodes(&u, p->functions[i]->node, p->functions[i]->n_node, (int)i);
  im->decisions = ZG_NEW_N(&im->mem, zg__decision, im->m->tensors.n + 1);
  for (size_t i = 0; i < im->m->tensors.n; i++) im->decisions[i] = decide(&u, &im->m->tensors.at[i]);
  warn_unmatched(im, "trainable", im->o->trainable, im->o->n_trainable);
  warn_unmatched(im, "frozen", im->o->frozen, im->o->n_frozen);
  zg_map_fini(&u.first);
  zg_vec_fini(&u.uses);
  return NULL;
}
