// The graph IR: a pure SSA program over tensors. A graph is immutable once built; passes read one and build another with
// zg_builder (build.h). Nodes are in topological order, ids are dense, analyses are arrays indexed by id.
#pragma once
#include "graph/type.h"

typedef struct zg_op zg_op;   // op.h: all that is known of one op; the op of a node IS this pointer

typedef struct { uint32_t id; } zg_val;                 // %id in dumps; id 0 = no value (an omitted optional operand)
static inline bool zg_is(zg_val v) { return v.id != 0; }
static inline bool zg_same(zg_val a, zg_val b) { return a.id == b.id; }

// Where a node came from, for every message: the ONNX node it stems from, and the pass that made it if not the import.
typedef struct { const char *node, *pass; } zg_origin;  // both may be NULL; in the graph's arena

typedef struct {            // one application of an op
  const zg_op *op;
  uint32_t in, n_in;        // span of zg_graph.operands; an operand may be 0 (omitted)
  uint32_t out, n_out;      // consecutive values, ids out .. out+n_out-1
  const void *attr;         // the op's own struct (op->attr_bytes); NULL if the op has no attributes
  zg_origin origin;
} zg_node;

typedef struct {
  zg_type type;
  uint32_t node;            // index of the node that makes it
  const char *name;         // ONNX name where it has one, else NULL
} zg_value;

// What a graph gives. A graph's outputs are all computed, then the updates are written to their leaves at once.
typedef enum {
  ZG_OUT_VALUE,    // named result (model output, metric)
  ZG_OUT_LOSS,     // f32 scalar
  ZG_OUT_GRAD,     // gradient of the leaf `target`; name = the leaf's name
  ZG_OUT_UPDATE,   // the leaf `target` (param or state) takes this value when the graph has run
} zg_out_kind;
typedef struct { zg_out_kind kind; const char *name; zg_val val, target; } zg_output;

// Properties that passes establish; the verifier checks those that are set.
enum {
  ZG_PROP_CORE = 1u << 0,    // core ops only (trait ZG_CORE)
  ZG_PROP_LOSS = 1u << 1,    // has a ZG_OUT_LOSS output
  ZG_PROP_GRADS = 1u << 2,   // has ZG_OUT_GRAD outputs
  ZG_PROP_STEP = 1u << 3,    // has the optimizer's ZG_OUT_UPDATE outputs
};

typedef struct {
  zg_arena mem;                       // owns attributes, names, constants' bytes
  ZG_VEC(zg_node) nodes;
  ZG_VEC(zg_value) values;            // values.at[0] is the reserved "none"
  ZG_VEC(zg_val) operands;
  ZG_VEC(zg_output) outputs;
  uint32_t props;
} zg_graph;

void zg_graph_free(zg_graph *g);      // NULL ok
static inline const zg_type *zg_type_of(const zg_graph *g, zg_val v) { return &g->values.at[v.id].type; }
static inline const zg_node *zg_node_of(const zg_graph *g, zg_val v) { return &g->nodes.at[g->values.at[v.id].node]; }
static inline zg_val zg_in(const zg_graph *g, const zg_node *n, uint32_t i) {
  return i < n->n_in ? g->operands.at[n->in + i] : (zg_val){0};
}
static inline zg_val zg_out(const zg_node *n, uint32_t i) { return (zg_val){n->out + i}; }
// The leaf (param, state or input) of that name, or none.
zg_val zg_find_leaf(const zg_graph *g, const char *name);
// The output of that kind and name (name NULL: the first of the kind), or NULL.
const zg_output *zg_find_output(const zg_graph *g, zg_out_kind kind, const char *name);
// live[id] = true for values that some output needs; array of values.n in `a`.
bool *zg_find_live(const zg_graph *g, zg_arena *a);
// Number of reads of each value (operands of live nodes, and outputs); array of values.n in `a`.
uint32_t *zg_find_uses(const zg_graph *g, zg_arena *a);

// ---- leaves -------------------------------------------------------------------------------------------------------
// Leaves are nodes without operands. Their ops and attribute structs, known to all passes:
extern const zg_op zg_op_input;   // data of a micro-step, or a run-time scalar of the step (names that begin with '@')
extern const zg_op zg_op_param;   // tensor of the model: ONNX initializer or constant in parameter position
extern const zg_op zg_op_state;   // tensor kept between steps that the model file does not have (optimizer, accumulators)
extern const zg_op zg_op_const;   // small constant, bytes in the graph's arena

typedef struct { const char *name; zg_type type; } zg_input_attr;
typedef enum { ZG_ROLE_FROZEN, ZG_ROLE_TRAINABLE, ZG_ROLE_RUNNING } zg_param_role;   // running: statistics of BatchNorm
typedef struct {
  const char *name;          // ONNX name; unique
  zg_type type;              // element type as the file has it
  int64_t role;              // zg_param_role
  const char *reason;        // why: shown by `zgraph inspect`
  int64_t source;            // index into the model's tensor table (graph/onnx/onnx.h): where the bytes are
} zg_param_attr;
typedef enum { ZG_STATE_OPTIMIZER, ZG_STATE_GRAD, ZG_STATE_MASTER, ZG_STATE_SCALAR } zg_state_role;
typedef struct {
  const char *name;          // "PARAM.m", "PARAM.v", ...; unique
  zg_type type;
  int64_t role;              // zg_state_role
  double init;               // every element starts as this, unless init_from is set
  const char *init_from;     // name of a param whose value it starts as (master weights), or NULL
} zg_state_attr;
typedef struct { zg_type type; const void *data; } zg_const_attr;   // row-major; a splat is one element with `splat` set
static inline bool zg_is_op(const zg_graph *g, zg_val v, const zg_op *op) { return zg_is(v) && zg_node_of(g, v)->op == op; }

// ---- text ---------------------------------------------------------------------------------------------------------
// Text form, one node a line, parses back to an equal graph:
//   graph {
//     %1 = input name="x" type=f32[8,64]
//     %2 = param name="fc1.weight" type=f32[64,64] role=1 reason="weight of MatMul" source=0
//     %3 = matmul %1, %2 ta=0 tb=1              ; f32[8,64]  Gemm_0
//     output loss "loss" %9
//     output update "fc1.weight" %12 -> %2
//   }
// Types of results are not parsed: they are inferred again. Origins are comments, value names are not written. Properties
// stand after the word: `graph core loss {`. An omitted operand is `_`; lists are [1,2] (read without brackets too); the
// frame `graph { }` may be left out when reading.
void zg_graph_print(const zg_graph *g, zg_str *out);
zg_status zg_graph_parse(const char *text, const char *file, zg_graph **out);
// Every invariant of the IR and of the properties set; the message names node and origin.
zg_status zg_graph_verify(const zg_graph *g);
