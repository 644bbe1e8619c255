// Private to graph/: attribute structs handled through their field tables, and the builder's insides.
#pragma once
#include "graph/core.h"

// Constants up to this many elements are folded and materialised; bigger ones stay fills, iotas and maps of them.
enum { ZG__FOLD_MAX = 65536 };

// Sets every field of an attribute struct to its table's default (types: f32 scalar, strings NULL, lists empty).
void zg__attr_default(const zg_op *op, void *attr);
// Copies a struct and all it points to into the arena; NULL for ops without attributes.
void *zg__attr_copy(const zg_op *op, const void *attr, zg_arena *a);
uint64_t zg__attr_hash(const zg_op *op, const void *attr, uint64_t seed);
bool zg__attr_equal(const zg_op *op, const void *a, const void *b);
// Appends " name=value" for every field that differs from its default.
void zg__attr_print(const zg_op *op, const void *attr, zg_str *out);
// The name in the attribute struct of a leaf (input, param, state), NULL for other ops.
const char *zg__leaf_name(const zg_op *op, const void *attr);

// Runs an op's inference for a node of graph g; types must hold n_out entries. Context (node, op) is in the message.
zg_status zg__infer_node(const zg_graph *g, const zg_op *op, const void *attr, const zg_val *in, uint32_t n_in,
                         uint32_t n_out, zg_origin origin, zg_type *types);

// v is the result of the map with this opcode; operand i of the node that makes v.
static inline bool zg__is_map(const zg_graph *g, zg_val v, zg_scalar s) { return zg_is_op(g, v, zg_map_op(s)); }
static inline zg_val zg__operand(const zg_graph *g, zg_val v, uint32_t i) { return zg_in(g, zg_node_of(g, v), i); }
bool zg__is_splat(const zg_graph *g, zg_val v, double *out);   // fill, or const whose elements are all equal
// Writes an element as text that parses back exactly.
void zg__print_elem(zg_dtype t, const void *data, int64_t i, zg_str *out);

// ---- for passes that rebuild a graph (pass/rebuild.c) -------------------------------------------------------------------
// Node n made in another way: fn emits it, puts its results into map and returns true, or returns false for a plain copy. What it
// emits gets n's origin, the results n's names.
typedef bool zg__rewrite_fn(zg_builder *b, const zg_graph *g, const zg_node *n, zg_val *map, void *user);
// A new graph of g's leaves and live nodes, but for those that fn takes.
zg_status zg__rebuild(const zg_graph *g, zg__rewrite_fn *fn, void *user, zg_graph **out);
bool zg__node_live(const zg_node *n, const bool *live);
// Copies the outputs whose kind's bit is set in `kinds`, values mapped.
void zg__copy_outputs(zg_builder *b, const zg_graph *g, const zg_val *map, uint32_t kinds);
// Writes node n's lowering in its place and records the results in map; failures go to the builder, naming the node.
void zg__emit_lowered(zg_builder *b, const zg_graph *g, const zg_node *n, zg_val *map);

// ---- part of opt_attention (pass/causal_mask.c) --------------------------------------------------------------------------
// Does a mask [.., t, s] that depends on no leaf say "key <= query + offset" (bool: true = attend; float: 0, or -1e9 and less), the
// first query with a key? 1: yes, *offset is set; 0: no; -1: not decided (it depends on a leaf, or on ops that intervals do not follow).
int zg__mask_is_causal(const zg_graph *g, zg_val mask, int64_t t, int64_t s, int64_t *offset);

// ---- part of opt_rotary -------------------------------------------------------------------------------------------------
typedef struct { zg_val x, c, s; } zg__rotation;
bool zg__match_rotary(const zg_graph *g, zg_val v, zg__rotation *out);   // v is the op rotary, or spelled-out

// ---- parts of opt_simplify (pass/simplify_activation.c) -----------------------------------------------------------------
zg_val zg__match_activation(zg_builder *b, zg_val v);   // v, or the one opcode that a spelled-out activation v is
// Takes constant scalar factors off v: v = result * k (times what *k was).
zg_val zg__strip_scale(const zg_graph *g, zg_val v, double *k);
