// Building graphs. A builder interns equal nodes, infers types, and folds pure nodes whose operands are all constants.
// It carries the first error and goes on harmlessly (results are "none", which every function passes through), so that
// gradient and lowering code reads as formulas; zg_builder_finish returns the error.
#pragma once
#include "graph/graph.h"
#include "graph/scalar.h"

typedef struct zg_builder zg_builder;

zg_builder *zg_builder_new(void);
void zg_builder_free(zg_builder *b);                              // NULL ok; drops the unfinished graph
zg_status zg_builder_finish(zg_builder *b, zg_graph **out);       // ends b in either case
void zg_builder_fail(zg_builder *b, zg_status s);                 // keeps the first error, frees later ones; NULL ok
bool zg_builder_failed(const zg_builder *b);
const zg_graph *zg_builder_graph(const zg_builder *b);            // the graph so far; do not keep pointers over an emit
zg_arena *zg_builder_arena(zg_builder *b);                        // for attribute arrays and names
void zg_builder_origin(zg_builder *b, zg_origin o);               // origin of the nodes emitted from now on
void zg_builder_name(zg_builder *b, zg_val v, const char *name);  // gives v an ONNX name (the first one stays)
void zg_builder_output(zg_builder *b, zg_out_kind kind, const char *name, zg_val v, zg_val target);
void zg_builder_props(zg_builder *b, uint32_t props);

// Applies an op. attr is copied (its arrays and strings too). n_out results are written to out. False after an error.
bool zg_emit(zg_builder *b, const zg_op *op, const void *attr, const zg_val *in, uint32_t n_in, zg_val *out, uint32_t n_out);
zg_val zg_emit1(zg_builder *b, const zg_op *op, const void *attr, const zg_val *in, uint32_t n_in);
// Copies node n of graph g into b with its operands mapped by map[id]; records the results in map.
void zg_emit_copy(zg_builder *b, const zg_graph *g, const zg_node *n, zg_val *map);

static inline const zg_type *zg_b_type(const zg_builder *b, zg_val v) { return zg_type_of(zg_builder_graph(b), v); }
// The value as a constant, if it is one: row-major tensor borrowed from the builder's graph.
bool zg_b_const(const zg_builder *b, zg_val v, zg_tensor *out);
bool zg_b_const_scalar(const zg_builder *b, zg_val v, double *out);  // also a constant whose elements are all equal

// ---- leaves and constants -----------------------------------------------------------------------------------------
zg_val zg_b_input(zg_builder *b, const char *name, const zg_type *t);
zg_val zg_b_param(zg_builder *b, const zg_param_attr *a);
zg_val zg_b_state(zg_builder *b, const zg_state_attr *a);
zg_val zg_b_const_data(zg_builder *b, const zg_type *t, const void *data);   // copied
zg_val zg_b_scalar(zg_builder *b, zg_dtype t, double v);                     // rank 0
zg_val zg_b_like(zg_builder *b, zg_val v, double x);                         // rank-0 constant of v's dtype
zg_val zg_b_fill(zg_builder *b, const zg_type *t, double v);                 // every element v (op fill)
zg_val zg_b_iota(zg_builder *b, const zg_type *t, uint32_t axis);            // index along axis (op iota)
zg_val zg_b_int_vec(zg_builder *b, const int64_t *at, int64_t n);            // i64[n]

// ---- scalar maps (numpy broadcasting; both operands of one dtype) ----------------------------------------------------
zg_val zg_b_map1(zg_builder *b, zg_scalar s, zg_val x);
zg_val zg_b_map2(zg_builder *b, zg_scalar s, zg_val x, zg_val y);
zg_val zg_b_where(zg_builder *b, zg_val cond, zg_val x, zg_val y);
zg_val zg_b_cast(zg_builder *b, zg_val x, zg_dtype to);                      // identity if the dtype is the same
#define zg_add(b, x, y) zg_b_map2(b, ZG_S_ADD, x, y)
#define zg_sub(b, x, y) zg_b_map2(b, ZG_S_SUB, x, y)
#define zg_mul(b, x, y) zg_b_map2(b, ZG_S_MUL, x, y)
#define zg_div(b, x, y) zg_b_map2(b, ZG_S_DIV, x, y)
#define zg_neg(b, x) zg_b_map1(b, ZG_S_NEG, x)
static inline zg_val zg_mul_k(zg_builder *b, zg_val x, double k) { return zg_mul(b, x, zg_b_like(b, x, k)); }
static inline zg_val zg_add_k(zg_builder *b, zg_val x, double k) { return zg_add(b, x, zg_b_like(b, x, k)); }

// ---- other core ops; axis arguments may be negative --------------------------------------------------------------------
typedef enum { ZG_RED_SUM, ZG_RED_MAX, ZG_RED_MIN, ZG_RED_PROD } zg_red;
zg_val zg_b_reduce(zg_builder *b, zg_red kind, zg_val x, const int64_t *axes, int64_t n_axes, bool keep);
zg_val zg_b_reduce_all(zg_builder *b, zg_red kind, zg_val x);                // to a scalar
zg_val zg_b_mean(zg_builder *b, zg_val x, const int64_t *axes, int64_t n_axes, bool keep);
zg_val zg_b_sum_to(zg_builder *b, zg_val dy, const zg_type *shape);          // undoes broadcasting: sums to that shape
zg_val zg_b_matmul(zg_builder *b, zg_val x, zg_val y, bool ta, bool tb);     // batched over leading dims with broadcasting
zg_val zg_b_reshape(zg_builder *b, zg_val x, const int64_t *dim, int64_t rank);
zg_val zg_b_reshape_like(zg_builder *b, zg_val x, const zg_type *shape);
zg_val zg_b_transpose(zg_builder *b, zg_val x, const int64_t *perm);
zg_val zg_b_swap_last(zg_builder *b, zg_val x);                              // swaps the last two dims
zg_val zg_b_expand(zg_builder *b, zg_val x, const int64_t *dim, int64_t rank);
zg_val zg_b_unsqueeze(zg_builder *b, zg_val x, int64_t axis);                // reshape
zg_val zg_b_squeeze(zg_builder *b, zg_val x, int64_t axis);                  // reshape
// out[i] = x[start + i*step] per dim, `size` elements; step may be negative. All arrays of x's rank.
zg_val zg_b_slice(zg_builder *b, zg_val x, const int64_t *start, const int64_t *step, const int64_t *size);
zg_val zg_b_slice1(zg_builder *b, zg_val x, int64_t axis, int64_t start, int64_t size);
// The adjoint: a tensor of shape `dim` filled with `fill` where out[start + i*step] = x[i]; also constant padding.
zg_val zg_b_unslice(zg_builder *b, zg_val x, const int64_t *dim, const int64_t *start, const int64_t *step, double fill);
zg_val zg_b_concat(zg_builder *b, const zg_val *x, uint32_t n, int64_t axis);
zg_val zg_b_gather(zg_builder *b, zg_val x, zg_val idx, int64_t axis);       // numpy take; negative indices count from the end
