// Which tensors are trained, and why. The rule (docs/training.md): float initializers of the main graph,
// except
// - rank 0, and tensors without elements;
// - one element that only elementwise arithmetic and shape ops read (a one-element bias of Gemm or Conv is a
// parameter);
// - running statistics of BatchNormalization (role RUNNING), also where Identity or a function call stands
// between;
// - arguments of ops, such as the scales of Resize: they are no tensors of the computation.
// `trainable:` globs replace the rule ("*" alone means: all that the rule admits), `frozen:` globs take away.
// A weight is a weight wherever the exporter put it: the result of a Constant or ConstantOfShape node, or a
// tensor of a branch, obeys the same rule where it reaches a weight slot (zg_onnx_row.weight_operands); others
// are trained only if `trainable:` names them without wildcards. What the imported graph tells besides (masks,
// tables of positions) is roles.c's business, whether the loss reaches a parameter autodiff's.
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
enum { MAX_HOPS = 16 };

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
  const zg_onnx_model *m = u->im->m;
  for (size_t i = n; i-- > 0;) {  // backwards: lists then run in the file's order
    uint32_t d;
    const bool gone = zg__derived_result(m, nodes[i], &d) && m->tensors.at[d].origin;
    for (size_t k = gone ? 0 : nodes[i]->n_input; k-- > 0;) {
      const bool own = func < 0 && zg__derived_operand(m, &u->im->mem, nodes[i], (uint32_t)k, &d);
      add_use(u, own ? m->tensors.at[d].info.name : zg__str(nodes[i]->input[k]),
              (use){nodes[i], (uint32_t)k, 0, func});
    }
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

static const zg_onnx_row *row_of(const uses *u, const use *x) {
  const char *domain = zg__domain(x->node->domain);
  return zg_onnx_find(zg__str(x->node->op_type), domain, *domain ? 1 : zg_onnx_opset(u->im->m));
}

// Does the tensor, or what Transpose, Cast and kin make of it, reach an operand that every net learns?
typedef struct {
  uint32_t rank;
  int hops;
} slot_search;
static bool is_weight_slot(const uses *u, const use *x, void *user) {
  slot_search *s = user;
  const zg_onnx_row *row = row_of(u, x);
  if (row && x->operand < 32 && (row->weight_operands >> x->operand & 1))
    return s->rank > 1 || strcmp(zg__str(x->node->op_type), "Gather") != 0;  // a table of embeddings has rows
  if (x->operand || s->hops >= MAX_HOPS || !x->node->n_output ||
      !in_list(passing, ZG_COUNT(passing), zg__str(x->node->op_type)))
    return false;
  s->hops++;
  bool yes = any_use(u, x->func, zg__str(x->node->output[0]), 0, is_weight_slot, s);
  s->hops--;
  return yes;
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

// The use that says what the tensor is for: the first that is differentiable, or else the first.
static bool is_telling(const uses *u, const use *x, void *user) {
  const zg_onnx_row *row = row_of(u, x);
  const bool passes = in_list(passing, ZG_COUNT(passing), zg__str(x->node->op_type)) && !x->operand;
  if (!passes && !(row && x->operand < 32 && (row->param_operands >> x->operand & 1))) return false;
  *(use *)user = *x;
  return true;
}

// What reads the tensor: `weight operand 1 of Gemm "fc1", through Transpose`.
static const char *describe(uses *u, const zg__tensor *t, const char *name) {
  zg_arena *mem = &u->im->mem;
  use x;
  if (!any_use(u, -1, name, 0, is_telling, &x) && !any_use(u, -1, name, 0, is_any, &x)) return "no node reads it";
  const char *through = "";
  for (int hops = 0; hops < MAX_HOPS && !x.operand && x.node->n_output; hops++) {
    use next;
    const char *op = zg__str(x.node->op_type);
    if (!in_list(passing, ZG_COUNT(passing), op)) break;
    const char *result = zg__str(x.node->output[0]);
    if (!any_use(u, x.func, result, 0, is_telling, &next) && !any_use(u, x.func, result, 0, is_any, &next)) break;
    through = zg_arena_printf(mem, "%s%s%s", through, *through ? ", " : ", through ", op);
    x = next;
  }
  const zg_onnx_row *row = row_of(u, &x);
  bool position = row && x.operand < 32 && (row->param_operands >> x.operand & 1);
  const char *kind = !position ? "operand" : t->info.type.rank > 1 ? "weight, operand" : "parameter, operand";
  return zg_arena_printf(mem, "%s %u of %s \"%s\"%s", kind, x.operand, zg__str(x.node->op_type),
                         zg__label(x.node), through);
}

static const char *matching(const char *const *globs, uint32_t n, const char *name) {
  for (uint32_t i = 0; i < n; i++)
    if (zg_glob(globs[i], name)) return globs[i];
  return NULL;
}

static bool named_exactly(const zg_import_options *o, const char *name) {
  return in_list(o->trainable, o->n_trainable, name);
}

// Tensors outside of the main graph's initializers that stand in no weight slot.
static zg__decision decide_elsewhere(uses *u, const zg__tensor *t) {
  static const char *const reasons[] = {[ZG__IN_BRANCH] = "belongs to a branch or loop body, in no weight slot",
                                        [ZG__IN_CONSTANT] = "Constant node in no weight slot",
                                        [ZG__IN_NODE] = "made by ConstantOfShape, in no weight slot"};
  const char *frozen = matching(u->im->o->frozen, u->im->o->n_frozen, t->info.name);
  if (named_exactly(u->im->o, t->info.name) && !frozen)
    return (zg__decision){.role = ZG_ROLE_TRAINABLE, .reason = "named in trainable"};
  const char *why = t->in_function ? "Constant node of a function" : reasons[t->home];
  return (zg__decision){.is_const = t->home == ZG__IN_NODE || zg_elems(&t->info.type) <= ZG__SMALL,
                        .role = ZG_ROLE_FROZEN,
                        .reason = zg_arena_printf(&u->im->mem, "%s; name it in trainable to train it", why)};
}

static bool only_star(const zg_import_options *o) {
  return o->n_trainable == 1 && !strcmp(o->trainable[0], "*");
}

static zg__decision constant(const char *reason) {
  return (zg__decision){.is_const = true, .role = ZG_ROLE_FROZEN, .reason = reason};
}

// The configuration's word on a tensor that could be trained.
static zg__decision decide_by_globs(uses *u, const zg__tensor *t, const char *name, bool scalar) {
  const zg_import_options *o = u->im->o;
  zg_arena *mem = &u->im->mem;
  const bool rule = !o->n_trainable || only_star(o);
  const char *frozen = matching(o->frozen, o->n_frozen, t->info.name);
  const char *glob = rule ? NULL : matching(o->trainable, o->n_trainable, t->info.name);
  if (scalar && !glob) return constant(t->info.type.rank ? "one element of the arithmetic, or none" : "scalar");
  if (!rule && !glob) return (zg__decision){.role = ZG_ROLE_FROZEN, .reason = "no glob of trainable matches"};
  if (frozen)
    return (zg__decision){.role = ZG_ROLE_FROZEN, .reason = zg_arena_printf(mem, "frozen: \"%s\"", frozen)};
  if (glob)
    return (zg__decision){.role = ZG_ROLE_TRAINABLE, .reason = zg_arena_printf(mem, "trainable: \"%s\"", glob)};
  static const char *const from[] = {[ZG__IN_GRAPH] = "", [ZG__IN_BRANCH] = "; in a branch or loop body",
                                     [ZG__IN_CONSTANT] = "; a Constant node in a weight slot",
                                     [ZG__IN_NODE] = "; made by ConstantOfShape, in a weight slot"};
  const char *more = t->origin ? zg_arena_printf(mem, "; untied from \"%s\"", u->im->m->tensors.at[t->origin - 1].info.name)
                               : from[t->home];
  return (zg__decision){.role = ZG_ROLE_TRAINABLE, .by_rule = true,
                        .reason = zg_arena_printf(mem, "%s%s", describe(u, t, name), more)};
}

static zg__decision decide(uses *u, const zg__tensor *t) {
  zg_arena *mem = &u->im->mem;
  const char *name = t->proto && t->home != ZG__IN_CONSTANT ? zg__str(t->proto->name) : t->info.name;
  if (t->tied_to)
    return (zg__decision){.role = ZG_ROLE_FROZEN,
                          .reason = zg_arena_printf(mem, "tied to \"%s\"%s", u->im->m->tensors.at[t->tied_to - 1].info.name,
                                                    t->tied_transposed ? ", transposed" : "")};
  if (!zg_dtype_is_float(t->info.type.dtype)) return constant("no float type");
  stat_search s = {0};
  if (!t->in_function && any_use(u, -1, name, 0, is_running, &s))
    return (zg__decision){
        .role = ZG_ROLE_RUNNING,
        .reason = zg_arena_printf(mem, "running %s of BatchNormalization \"%s\"",
                                  s.found.operand == 3 ? "mean" : "variance", zg__label(s.found.node))};
  slot_search slot = {.rank = t->info.type.rank};
  const bool own = t->home == ZG__IN_GRAPH || t->origin;
  if (t->in_function || (!own && !any_use(u, -1, name, 0, is_weight_slot, &slot))) return decide_elsewhere(u, t);
  if (first_use(u, -1, name) && !any_use(u, -1, name, 0, is_no_argument, NULL))
    return constant("says how an op works");
  int64_t n = zg_elems(&t->info.type);
  return decide_by_globs(u, t, name,
                         n == 0 || t->info.type.rank == 0 || (n == 1 && !any_use(u, -1, name, 0, is_no_arithmetic, NULL)));
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
