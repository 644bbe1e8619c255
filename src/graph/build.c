// The builder: appends nodes to a graph while it interns equal ones, infers types and folds constants.
//
// - Interning: open-addressing table over node numbers, keyed by op, attribute fields and operands. Impure ops stay out.
//   Leaves are kept by name: asking again for the same leaf gives the same value.
// - Folding: a pure op whose operands are all constants is evaluated at once if its result has at most ZG__FOLD_MAX
//   elements. Splats (fills) go through maps and views as one element and stay fills, so a constant mask of a gigabyte is
//   never made. An op without .eval is folded by lowering it in a second builder whose leaves are the constants.
// - Errors: the first is kept with the node's origin in its message; after it every call returns "none".
//
// Invariant: the graph is always valid up to here; a failed emit appends nothing.
#include <math.h>

#include "graph/graph_priv.h"

struct zg_builder {
  zg_graph *g;
  zg_status error;
  zg_origin origin;
  ZG_VEC(uint64_t) hashes;          // by node number
  uint32_t *slots, n_slots, used;   // node number + 1; a power of two
  zg_map leaves;                    // name -> value id
  ZG_VEC(const void *) bytes;       // by value id: fills and iotas that zg_b_const has written out
};

zg_builder *zg_builder_new(void) {
  zg_builder *b = zg_alloc(sizeof *b);
  b->g = zg_alloc(sizeof *b->g);
  zg_vec_resize(&b->g->values, 1);   // id 0: none
  return b;
}

static void end_builder(zg_builder *b) {
  zg_vec_fini(&b->hashes);
  zg_vec_fini(&b->bytes);
  zg_map_fini(&b->leaves);
  zg_free(b->slots);
  zg_free(b);
}

void zg_builder_free(zg_builder *b) {
  if (!b) return;
  zg_status_free(b->error);
  zg_graph_free(b->g);
  end_builder(b);
}

zg_status zg_builder_finish(zg_builder *b, zg_graph **out) {
  zg_status s = b->error;
  b->error = NULL;
  if (s) {
    *out = NULL;
    zg_builder_free(b);
    return s;
  }
  *out = b->g;
  end_builder(b);
  return NULL;
}

void zg_builder_fail(zg_builder *b, zg_status s) {
  if (!b->error) {
    b->error = s;
  } else {
    zg_status_free(s);
  }
}

bool zg_builder_failed(const zg_builder *b) { return b->error != NULL; }
const zg_graph *zg_builder_graph(const zg_builder *b) { return b->g; }
zg_arena *zg_builder_arena(zg_builder *b) { return &b->g->mem; }
void zg_builder_props(zg_builder *b, uint32_t props) { b->g->props = props; }

// Many nodes in a row share their origin: the text is copied when it changes, not per node.
static const char *keep_text(zg_builder *b, const char *old, const char *s) {
  if (old == s || !s) return s;
  return old && strcmp(old, s) == 0 ? old : zg_arena_str(&b->g->mem, s);
}

void zg_builder_origin(zg_builder *b, zg_origin o) {
  b->origin.node = keep_text(b, b->origin.node, o.node);
  b->origin.pass = keep_text(b, b->origin.pass, o.pass);
}

void zg_builder_name(zg_builder *b, zg_val v, const char *name) {
  if (!zg_is(v) || !name || b->g->values.at[v.id].name) return;
  b->g->values.at[v.id].name = zg_arena_str(&b->g->mem, name);
}

void zg_builder_output(zg_builder *b, zg_out_kind kind, const char *name, zg_val v, zg_val target) {
  if (b->error) return;
  if (!zg_is(v)) {
    zg_builder_fail(b, zg_error(ZG_INVALID, "output \"%s\" has no value", name ? name : ""));
    return;
  }
  const zg_output o = {kind, zg_arena_str(&b->g->mem, name), v, target};
  zg_vec_push(&b->g->outputs, o);
}

// ---- interning --------------------------------------------------------------------------------------------------------
static uint64_t node_hash(const zg_op *op, const void *attr, const zg_val *in, uint32_t n_in) {
  uint64_t h = zg_hash(&op, sizeof op, n_in);
  h = zg_hash(in, sizeof *in * n_in, h);
  return attr ? zg__attr_hash(op, attr, h) : h;
}

static bool node_equal(const zg_graph *g, const zg_node *n, const zg_op *op, const void *attr, const zg_val *in,
                       uint32_t n_in, uint32_t n_out) {
  if (n->op != op || n->n_in != n_in || n->n_out != n_out) return false;
  if (n_in && memcmp(&g->operands.at[n->in], in, sizeof *in * n_in) != 0) return false;
  return !op->attr_bytes || zg__attr_equal(op, n->attr, attr);
}

static const zg_node *find_equal(const zg_builder *b, uint64_t h, const zg_op *op, const void *attr, const zg_val *in,
                                 uint32_t n_in, uint32_t n_out) {
  if (!b->n_slots) return NULL;
  for (uint32_t i = (uint32_t)h & (b->n_slots - 1); b->slots[i]; i = (i + 1) & (b->n_slots - 1)) {
    const uint32_t k = b->slots[i] - 1;
    if (b->hashes.at[k] == h && node_equal(b->g, &b->g->nodes.at[k], op, attr, in, n_in, n_out)) return &b->g->nodes.at[k];
  }
  return NULL;
}

static void put_slot(uint32_t *slots, uint32_t n_slots, uint64_t h, uint32_t node) {
  uint32_t i = (uint32_t)h & (n_slots - 1);
  while (slots[i]) i = (i + 1) & (n_slots - 1);
  slots[i] = node + 1;
}

static void remember(zg_builder *b, uint64_t h, uint32_t node) {
  if (2 * (b->used + 1) > b->n_slots) {
    const uint32_t n = b->n_slots ? 2 * b->n_slots : 256;
    uint32_t *slots = zg_alloc(sizeof *slots * n);
    for (uint32_t i = 0; i < b->n_slots; i++)
      if (b->slots[i]) put_slot(slots, n, b->hashes.at[b->slots[i] - 1], b->slots[i] - 1);
    zg_free(b->slots);
    b->slots = slots, b->n_slots = n;
  }
  put_slot(b->slots, b->n_slots, h, node);
  b->used++;
}

// ---- inference --------------------------------------------------------------------------------------------------------
static zg_status check_type(const zg_type *t) {
  if (t->rank > ZG_MAX_RANK)
    return zg_error(ZG_UNSUPPORTED, "a result has %u dimensions, at most %d are possible", t->rank, ZG_MAX_RANK);
  if ((uint32_t)t->dtype >= ZG_N_DTYPES) return zg_error(ZG_INVALID, "a result has no known element type");
  int64_t bytes = zg_dtype_bytes(t->dtype);
  for (uint32_t d = 0; d < t->rank; d++) {
    if (t->dim[d] < 0) return zg_error(ZG_INVALID, "result %s has a negative dimension", zg_type_text(t));
    // A zero dimension does not excuse the others: strides are products of any of them.
    if (!zg_mul_i64(bytes, ZG_MAX(t->dim[d], 1), &bytes) || bytes > INT64_MAX / 16)
      return zg_error(ZG_INVALID, "result %s is too big to address", zg_type_text(t));
  }
  return NULL;
}

static zg_status in_node(zg_status s, const zg_op *op, zg_origin origin) {
  if (!s) return NULL;
  if (origin.node && origin.pass)
    return zg_status_prefix(s, "node \"%s\" (%s, in %s): ", origin.node, op->name, origin.pass);
  if (origin.node) return zg_status_prefix(s, "node \"%s\" (%s): ", origin.node, op->name);
  return zg_status_prefix(s, "%s: ", op->name);
}

zg_status zg__infer_node(const zg_graph *g, const zg_op *op, const void *attr, const zg_val *in, uint32_t n_in,
                         uint32_t n_out, zg_origin origin, zg_type *types) {
  const zg_type *small[16], **types_in = n_in <= ZG_COUNT(small) ? small : zg_alloc(sizeof *types_in * n_in);
  for (uint32_t i = 0; i < n_in; i++) types_in[i] = zg_is(in[i]) ? zg_type_of(g, in[i]) : NULL;
  memset(types, 0, sizeof *types * n_out);
  zg_infer x = {.op = op, .attr = attr, .in = types_in, .n_in = n_in, .n_out = n_out, .out = types};
  zg_status s = op->infer(&x);
  for (uint32_t i = 0; !s && i < n_out; i++) {
    s = check_type(&types[i]);
    if (!s) types[i] = zg_type_make(types[i].dtype, types[i].rank, types[i].dim);
  }
  if (types_in != small) zg_free(types_in);
  return in_node(s, op, origin);
}

// ---- emit -------------------------------------------------------------------------------------------------------------
static const zg_node *append(zg_builder *b, const zg_op *op, const void *attr, const zg_val *in, uint32_t n_in,
                             const zg_type *types, uint32_t n_out, uint64_t h) {
  zg_graph *g = b->g;
  const uint32_t number = (uint32_t)g->nodes.n;
  const zg_node n = {.op = op, .in = (uint32_t)g->operands.n, .n_in = n_in, .out = (uint32_t)g->values.n, .n_out = n_out,
                     .attr = zg__attr_copy(op, attr, &g->mem), .origin = b->origin};
  for (uint32_t i = 0; i < n_in; i++) zg_vec_push(&g->operands, in[i]);
  for (uint32_t i = 0; i < n_out; i++) zg_vec_push(&g->values, (zg_value){.type = types[i], .node = number});
  zg_vec_push(&g->nodes, n);
  zg_vec_push(&b->hashes, h);
  if (!(op->traits & ZG_IMPURE)) remember(b, h, number);
  return &g->nodes.at[number];
}

static bool fold(zg_builder *b, const zg_op *op, const void *attr, const zg_val *in, uint32_t n_in, const zg_type *types,
                 uint32_t n_out, zg_val *out);

static zg_status register_leaf(zg_builder *b, const zg_op *op, const void *attr) {
  const char *name = zg__leaf_name(op, attr);
  if (!name) return op == &zg_op_const ? NULL : zg_error(ZG_INVALID, "%s without a name", op->name);
  if (zg_map_get(&b->leaves, name, NULL))
    return zg_error(ZG_INVALID, "\"%s\" is used for two different leaves; rename one", name);
  zg_map_put(&b->leaves, name, b->g->values.n);
  return NULL;
}

static bool emit_checked(zg_builder *b, const zg_op *op, const void *attr, const zg_val *in, uint32_t n_in, zg_val *results,
                         uint32_t count, zg_type *types) {
  const uint64_t h = node_hash(op, attr, in, n_in);
  if (!(op->traits & ZG_IMPURE)) {
    const zg_node *same = find_equal(b, h, op, attr, in, n_in, count);
    if (same) {
      for (uint32_t i = 0; i < count; i++) results[i] = zg_out(same, i);
      return true;
    }
  }
  zg_status s = zg__infer_node(b->g, op, attr, in, n_in, count, b->origin, types);
  if (!s && (op->traits & ZG_LEAF)) s = register_leaf(b, op, attr);
  if (s) {
    zg_builder_fail(b, s);
    return false;
  }
  if (fold(b, op, attr, in, n_in, types, count, results)) return true;
  const zg_node *n = append(b, op, attr, in, n_in, types, count, h);
  for (uint32_t i = 0; i < count; i++) results[i] = zg_out(n, i);
  return true;
}

bool zg_emit(zg_builder *b, const zg_op *op, const void *attr, const zg_val *in, uint32_t n_in, zg_val *out,
             uint32_t n_out) {
  for (uint32_t i = 0; i < n_out; i++) out[i] = (zg_val){0};
  if (b->error) return false;
  // Omitted operands at the end are the same as none: one spelling, so that equal nodes are equal.
  while (n_in && !zg_is(in[n_in - 1])) n_in--;
  const uint32_t count = op->n_out ? op->n_out : n_out;   // results that nobody asked for exist all the same
  if (n_out > count || count == 0) {
    zg_builder_fail(b, in_node(zg_error(ZG_INVALID, "has %u results, not %u", count, n_out), op, b->origin));
    return false;
  }
  void *own = NULL;
  if (!attr && op->attr_bytes) attr = own = zg_alloc(op->attr_bytes), zg__attr_default(op, own);
  zg_val small_vals[8], *results = count <= 8 ? small_vals : zg_alloc(sizeof *results * count);
  zg_type small_types[8], *types = count <= 8 ? small_types : zg_alloc(sizeof *types * count);
  const bool ok = emit_checked(b, op, attr, in, n_in, results, count, types);
  for (uint32_t i = 0; ok && i < n_out; i++) out[i] = results[i];
  if (results != small_vals) zg_free(results);
  if (types != small_types) zg_free(types);
  zg_free(own);
  return ok;
}

zg_val zg_emit1(zg_builder *b, const zg_op *op, const void *attr, const zg_val *in, uint32_t n_in) {
  zg_val v;
  zg_emit(b, op, attr, in, n_in, &v, 1);
  return v;
}

void zg_emit_copy(zg_builder *b, const zg_graph *g, const zg_node *n, zg_val *map) {
  zg_val small_in[16], *in = n->n_in <= 16 ? small_in : zg_alloc(sizeof *in * n->n_in);
  zg_val small_out[16], *out = n->n_out <= 16 ? small_out : zg_alloc(sizeof *out * n->n_out);
  for (uint32_t i = 0; i < n->n_in; i++) in[i] = map[g->operands.at[n->in + i].id];
  const zg_origin before = b->origin;
  zg_builder_origin(b, n->origin);
  zg_emit(b, n->op, n->attr, in, n->n_in, out, n->n_out);
  b->origin = before;
  for (uint32_t i = 0; i < n->n_out; i++) {
    map[n->out + i] = out[i];
    zg_builder_name(b, out[i], g->values.at[n->out + i].name);
  }
  if (in != small_in) zg_free(in);
  if (out != small_out) zg_free(out);
}

// ---- constants --------------------------------------------------------------------------------------------------------
static bool const_like(const zg_node *n) {
  return n->op == &zg_op_const || n->op == &zg_op_fill || n->op == &zg_op_iota;
}

bool zg__is_splat(const zg_graph *g, zg_val v, double *out) {
  if (!zg_is(v)) return false;
  const zg_node *n = zg_node_of(g, v);
  if (n->op == &zg_op_fill) {
    *out = ((const zg_fill_attr *)n->attr)->value;
    return true;
  }
  if (n->op != &zg_op_const) return false;
  const zg_const_attr *c = n->attr;
  const int64_t count = zg_elems(&c->type);
  const size_t size = zg_dtype_bytes(c->type.dtype);
  if (count == 0) return false;
  for (int64_t i = 1; i < count; i++)
    if (memcmp(c->data, (const char *)c->data + (size_t)i * size, size) != 0) return false;
  *out = zg_get_f64(c->type.dtype, c->data, 0);
  return true;
}

bool zg_b_const_scalar(const zg_builder *b, zg_val v, double *out) { return zg__is_splat(b->g, v, out); }

bool zg_b_const(const zg_builder *b, zg_val v, zg_tensor *out) {
  if (!zg_is(v)) return false;
  const zg_node *n = zg_node_of(b->g, v);
  if (!const_like(n)) return false;
  const zg_type *t = zg_type_of(b->g, v);
  if (n->op == &zg_op_const) {
    *out = (zg_tensor){*t, (void *)((const zg_const_attr *)n->attr)->data};
    return true;
  }
  if (zg_elems(t) > ZG__FOLD_MAX) return false;
  zg_builder *w = (zg_builder *)b;   // the cache of written-out constants is no part of the graph's value
  if (w->bytes.n <= v.id) zg_vec_resize(&w->bytes, v.id + 1);
  if (!w->bytes.at[v.id]) {
    zg_tensor made = {*t, zg_arena_alloc(&w->g->mem, zg_type_bytes(t) + 8)};
    zg_eval x = {.attr = n->attr, .n_out = 1, .out = &made};
    zg_status s = n->op->eval(&x);
    if (s) {
      zg_status_free(s);
      return false;
    }
    w->bytes.at[v.id] = made.data;
  }
  *out = (zg_tensor){*t, (void *)w->bytes.at[v.id]};
  return true;
}

// Is element 0 exactly what a fill of its double gives? (Not so for integers beyond 2^53 and NaNs with a payload.)
static bool exact_as_double(zg_dtype t, const void *data, double *out) {
  uint64_t back = 0;
  *out = zg_get_f64(t, data, 0);
  zg_set_f64(t, &back, 0, *out);
  if (!zg_dtype_is_float(t) && fabs(*out) > 9007199254740992.0) return false;
  return memcmp(&back, data, zg_dtype_bytes(t)) == 0;
}

zg_val zg_b_const_data(zg_builder *b, const zg_type *t, const void *data) {
  const int64_t n = zg_elems(t);
  const size_t size = zg_dtype_bytes(t->dtype);
  bool splat = n > 1;
  for (int64_t i = 1; splat && i < n; i++) splat = memcmp(data, (const char *)data + (size_t)i * size, size) == 0;
  double v;
  if (splat && exact_as_double(t->dtype, data, &v)) return zg_b_fill(b, t, v);
  const zg_const_attr a = {*t, data};
  return zg_emit1(b, &zg_op_const, &a, NULL, 0);
}

// ---- folding ----------------------------------------------------------------------------------------------------------
// Maps of splats: one element is computed, the result is a splat again.
static bool fold_splats(zg_builder *b, const zg_op *op, const void *attr, const zg_val *in, uint32_t n_in,
                        const zg_type *type, zg_val *out) {
  zg_tensor ins[3], res = {zg_type_scalar(type->dtype), NULL};
  uint64_t store[4] = {0};
  if (n_in > 3 || !op->eval) return false;
  for (uint32_t i = 0; i < n_in; i++) {
    double v;
    if (!zg__is_splat(b->g, in[i], &v)) return false;
    ins[i] = (zg_tensor){zg_type_scalar(zg_type_of(b->g, in[i])->dtype), &store[i]};
    const zg_node *n = zg_node_of(b->g, in[i]);
    if (n->op == &zg_op_const) {   // bytes, not the double: 64-bit integers stay exact
      memcpy(&store[i], ((const zg_const_attr *)n->attr)->data, zg_dtype_bytes(ins[i].type.dtype));
    } else {
      zg_set_f64(ins[i].type.dtype, &store[i], 0, v);
    }
  }
  res.data = &store[3];
  zg_eval x = {.attr = attr, .in = ins, .n_in = n_in, .n_out = 1, .out = &res};
  zg_status s = op->eval(&x);
  double v = 0;
  if (s || (zg_elems(type) > 1 && !exact_as_double(type->dtype, res.data, &v))) {
    zg_status_free(s);
    return false;
  }
  if (zg_elems(type) == 1) {
    const zg_const_attr c = {*type, res.data};
    *out = zg_emit1(b, &zg_op_const, &c, NULL, 0);
  } else {
    *out = zg_b_fill(b, type, v);
  }
  return true;
}

static bool fold_eval(zg_builder *b, const zg_op *op, const void *attr, zg_tensor *ins, uint32_t n_in, const zg_type *types,
                      uint32_t n_out, zg_val *out) {
  zg_arena scratch = {0};
  zg_tensor *res = ZG_NEW_N(&scratch, zg_tensor, n_out);
  for (uint32_t i = 0; i < n_out; i++) res[i] = (zg_tensor){types[i], zg_arena_alloc(&scratch, zg_type_bytes(&types[i]) + 8)};
  zg_eval x = {.attr = attr, .in = ins, .n_in = n_in, .n_out = n_out, .out = res};
  zg_status s = op->eval(&x);
  for (uint32_t i = 0; !s && i < n_out; i++) out[i] = zg_b_const_data(b, &types[i], res[i].data);
  const bool ok = !s;
  zg_status_free(s);   // what cannot be computed now (an index out of range) is reported when the step runs
  zg_arena_fini(&scratch);
  return ok;
}

static bool fold_lowered(zg_builder *b, const zg_op *op, const void *attr, const zg_tensor *ins, uint32_t n_in,
                         uint32_t n_out, zg_val *out) {
  zg_builder *t = zg_builder_new();
  zg_val *in = ZG_NEW_N(&t->g->mem, zg_val, n_in + 8), *res = ZG_NEW_N(&t->g->mem, zg_val, n_out + 8);
  for (uint32_t i = 0; i < n_in; i++)
    if (ins[i].data) in[i] = zg_b_const_data(t, &ins[i].type, ins[i].data);
  zg_lower x = {.b = t, .attr = attr, .in = in, .n_in = n_in, .n_out = n_out, .out = res};
  zg_status s = op->lower(&x);
  bool ok = !s && !t->error;
  zg_status_free(s);
  for (uint32_t i = 0; ok && i < n_out; i++) ok = zg_is(res[i]) && const_like(zg_node_of(t->g, res[i]));
  for (uint32_t i = 0; ok && i < n_out; i++) {
    const zg_node *n = zg_node_of(t->g, res[i]);
    out[i] = zg_emit1(b, n->op, n->attr, NULL, 0);
  }
  zg_builder_free(t);
  return ok;
}

static bool fold(zg_builder *b, const zg_op *op, const void *attr, const zg_val *in, uint32_t n_in, const zg_type *types,
                 uint32_t n_out, zg_val *out) {
  if (n_in == 0 || (op->traits & (ZG_IMPURE | ZG_LEAF))) return false;
  for (uint32_t i = 0; i < n_in; i++)
    if (zg_is(in[i]) && !const_like(zg_node_of(b->g, in[i]))) return false;
  double v;
  if ((op->traits & ZG_ELEMENTWISE) && fold_splats(b, op, attr, in, n_in, types, out)) return true;
  if ((op->traits & ZG_VIEW) && n_out == 1 && zg__is_splat(b->g, in[0], &v) && zg_elems(types) > 1 &&
      zg_is_op(b->g, in[0], &zg_op_fill)) {
    *out = zg_b_fill(b, types, v);
    return true;
  }
  for (uint32_t i = 0; i < n_out; i++)
    if (zg_elems(&types[i]) > ZG__FOLD_MAX) return false;
  zg_tensor small[16] = {0}, *ins = n_in <= 16 ? small : zg_alloc(sizeof *ins * n_in);
  bool ok = op->eval || op->lower;
  for (uint32_t i = 0; ok && i < n_in; i++)
    if (zg_is(in[i])) ok = zg_elems(zg_type_of(b->g, in[i])) <= ZG__FOLD_MAX && zg_b_const(b, in[i], &ins[i]);
  if (ok && op->eval) {
    ok = fold_eval(b, op, attr, ins, n_in, types, n_out, out);
  } else if (ok) {
    ok = fold_lowered(b, op, attr, ins, n_in, n_out, out);
  }
  if (ins != small) zg_free(ins);
  return ok;
}
