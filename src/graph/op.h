// Ops. An op is a const struct; adding one to a family touches the family's file alone (its file ends in its tables),
// a new family adds one line to op_list.c. Code asks traits or calls members: there is no op enum and no switch over ops.
#pragma once
#include "graph/build.h"
#include "graph/graph.h"
#include "graph/scalar.h"

enum {
  ZG_CORE = 1u << 0,         // the schedule's lowering knows it; every other op has .lower
  ZG_ELEMENTWISE = 1u << 1,  // scalar map with numpy broadcasting over all operands (has .scalar, or is cast/where)
  ZG_NO_GRAD = 1u << 2,      // no derivative, or zero almost everywhere: gradients stop here
  ZG_IMPURE = 1u << 3,       // random or stateful: never interned, never folded
  ZG_LEAF = 1u << 4,         // input, param, state, const
  ZG_VIEW = 1u << 5,         // moves no data by itself: result is a strided view (reshape, transpose, expand, slice)
};

// ---- attributes ---------------------------------------------------------------------------------------------------
// One row a field of the op's attribute struct. From the table come print, parse, hash and equality. A field whose value
// equals its default is not printed.
typedef struct { int64_t n; const int64_t *at; } zg_ints;      // in the graph's arena
typedef enum {
  ZG_ATTR_INT,      // int64_t
  ZG_ATTR_FLOAT,    // double
  ZG_ATTR_INTS,     // zg_ints
  ZG_ATTR_STR,      // const char *, may be NULL
  ZG_ATTR_DTYPE,    // int64_t holding a zg_dtype
  ZG_ATTR_TYPE,     // zg_type
  ZG_ATTR_DATA,     // const void *: bytes of the zg_type field that precedes it in the struct (const only)
} zg_attr_kind;
typedef struct { const char *name; zg_attr_kind kind; uint32_t offset; double def; } zg_attr_field;
#define ZG_FIELD(kind, type, member, def) { #member, ZG_ATTR_##kind, offsetof(type, member), def }

// ---- contexts -----------------------------------------------------------------------------------------------------
// Shape inference: reads operand types (and, through zg_infer_const, operands that are constants), fills `out` types.
typedef struct {
  const zg_op *op;
  const void *attr;
  const zg_type *const *in;     // n_in; NULL for an omitted operand
  uint32_t n_in, n_out;         // n_out: what the caller asked for; infer may refuse
  zg_type *out;
} zg_infer;
zg_status zg_infer_same(zg_infer *x);         // out[*] = in[0]
zg_status zg_infer_broadcast(zg_infer *x);    // numpy broadcast of all operands; dtype of the first
zg_status zg_infer_compare(zg_infer *x);      // broadcast; dtype bool
// Checks the number of operands and that all present ones are there; for use at the head of infer functions.
zg_status zg_infer_arity(const zg_infer *x, uint32_t min, uint32_t max);

// Host evaluation: plain loops, any dtype, results as exact as double allows. Serves constant folding, finite differences
// and as the reference of every device kernel. Outputs are allocated (zeroed) with the inferred types.
typedef struct {
  const void *attr;
  const zg_tensor *in;          // n_in; data NULL for an omitted operand
  uint32_t n_in, n_out;
  zg_tensor *out;
  const uint32_t *seed;         // 2 words; for random ops only
} zg_eval;

// Gradient: emits nodes for din[i] given dout[j]. Reads forward values in the builder's graph.
typedef struct {
  zg_builder *b;
  const void *attr;
  const zg_val *in, *out;       // operands and results of the node, as values of b
  uint32_t n_in, n_out;
  const zg_val *dout;           // none (id 0) where no gradient reaches that result
  const bool *need;             // need[i]: is din[i] wanted
  zg_val *din;                  // to fill; none = zero. Shapes must equal the operands' (zg_b_sum_to)
} zg_grad;

// Lowering: emits core (or other lowerable) ops that compute out[0..n_out).
typedef struct {
  zg_builder *b;
  const void *attr;
  const zg_val *in;
  uint32_t n_in, n_out;
  zg_val *out;                  // to fill; same types as the node's
} zg_lower;

// A case of the generic op tests (tests/graph/op_test.c): written in the graph's text form, a body that starts from inputs
//   .text = "%1 = input name=\"x\" type=f64[3,5]\n%2 = softmax %1 axis=-1\noutput value \"y\" %2"
// Inputs are filled with reproducible noise in [lo, hi] (default [-1, 1]); integer inputs with 0 .. hi. Run in double:
// gradient of every float input by central differences, VJP identities, lowering against eval, cpu device against eval.
typedef struct {
  const char *name;             // what is special: "scalar", "empty", "broadcast left", "ties"
  const char *text;
  double lo, hi;                // 0, 0: [-1, 1]
  bool no_grad;                 // forward only (kinks and ties: then the next field is the expected gradient's place)
  const char *expect;           // optional "x: 1 0 0.5 ..." expected gradient of sum(y) w.r.t. an input at given data
  const char *data;             // optional "x: 1 2 3 ..." fixed input data
} zg_op_case;

struct zg_op {
  const char *name;             // dump name
  uint32_t traits;
  uint32_t attr_bytes;
  const zg_attr_field *fields;
  uint32_t n_fields;
  uint32_t n_out;               // results; 0: decided by .n_out_of
  zg_scalar scalar;             // ZG_ELEMENTWISE: the opcode of loop kernels (ZG_S_NONE for cast, where)
  zg_status (*infer)(zg_infer *x);
  zg_status (*eval)(zg_eval *x);      // core ops; others are evaluated through .lower
  zg_status (*grad)(zg_grad *x);      // NULL: ZG_NO_GRAD, or differentiated through .lower
  zg_status (*lower)(zg_lower *x);    // NULL for core ops
  const zg_op_case *cases;
  uint32_t n_cases;
};
#define ZG_ATTRS(type, table) .attr_bytes = sizeof(type), .fields = table, .n_fields = ZG_COUNT(table)
#define ZG_CASES(table) .cases = table, .n_cases = ZG_COUNT(table)

// ---- import -------------------------------------------------------------------------------------------------------
// How an ONNX op becomes graph ops. The node view hides protobuf; its reader functions are implemented in graph/onnx.
typedef struct zg_onnx_attrs zg_onnx_attrs;
typedef struct {
  zg_builder *b;
  const char *op_type, *domain, *name;   // domain "" is ai.onnx
  int64_t opset;                         // version of the node's domain
  const zg_val *in;                      // n_in; none for an empty name
  uint32_t n_in, n_out;
  zg_val *out;                           // n_out, to fill; may stay none for an output that nobody reads
  const bool *out_used;                  // n_out: has the output a name in the file
  const zg_onnx_attrs *attrs;
  bool batch_norm_train, dropout_on;     // import options that change the meaning of a node (zg_import_options)
  double dropout_ratio;                  // < 0: as the node says
} zg_onnx_node;
bool zg_onnx_has(const zg_onnx_node *n, const char *attr);
int64_t zg_onnx_int(const zg_onnx_node *n, const char *attr, int64_t def);
double zg_onnx_float(const zg_onnx_node *n, const char *attr, double def);
const char *zg_onnx_str(const zg_onnx_node *n, const char *attr, const char *def);        // borrowed
bool zg_onnx_ints(const zg_onnx_node *n, const char *attr, zg_ints *out);                 // false: absent. In the builder's arena
bool zg_onnx_floats(const zg_onnx_node *n, const char *attr, const double **out, int64_t *n_out);
const char *zg_onnx_str_at(const zg_onnx_node *n, const char *attr, int64_t i);           // item of a list of strings; NULL: none
zg_val zg_onnx_tensor(const zg_onnx_node *n, const char *attr);                           // attribute tensor as const; none: absent
// ONNX data type number (attribute `to`, `dtype`) to zg_dtype; fails naming the type for strings, float8 and kin.
zg_status zg_onnx_dtype(int64_t onnx_type, zg_dtype *out);
static inline zg_val zg_onnx_in(const zg_onnx_node *n, uint32_t i) { return i < n->n_in ? n->in[i] : (zg_val){0}; }
// Operand i as integers known now (a constant); fails naming node and operand if it depends on data.
zg_status zg_onnx_const_ints(const zg_onnx_node *n, uint32_t i, zg_ints *out);
// An error that names the node: "node "Conv_12" (Conv-11): ...".
#define zg_onnx_error(n, code, ...) zg__onnx_error(n, code, __FILE__, __LINE__, __VA_ARGS__)
zg_status zg__onnx_error(const zg_onnx_node *n, zg_code code, const char *file, int line, const char *fmt, ...)
    ZG_PRINTF(5, 6) ZG_MUST_USE;

typedef struct {
  const char *op_type, *domain;
  int64_t since, until;                          // opset range of this row, inclusive; until 0 = newest
  zg_status (*import)(zg_onnx_node *n);          // NULL with .op: operands as they are, attributes by field names
  const zg_op *op;
  uint32_t param_operands;                       // bit i: an initializer feeding operand i is in parameter position
  bool no_gradient;                              // integers, steps, or no float operand: the derivative is zero or does not exist
  uint32_t weight_operands;                      // bit i: every net that has this op learns operand i (W of Conv, scale of a norm), so that
                                                 // a constant there is a weight too, wherever the exporter put it
} zg_onnx_row;

typedef struct {
  const char *name;
  const zg_op *const *ops; uint32_t n_ops;
  const zg_onnx_row *onnx; uint32_t n_onnx;
} zg_family;
extern const zg_family *const zg_families[];     // op_list.c; NULL-terminated
const zg_op *zg_op_find(const char *dump_name);                                          // NULL: none
const zg_onnx_row *zg_onnx_find(const char *op_type, const char *domain, int64_t opset); // NULL: none

// ---- evaluation ---------------------------------------------------------------------------------------------------
// Evaluates a whole graph on the host. leaves: by value id of input/param/state (data contiguous, the leaf's type); outs:
// allocated by this function (free with zg_free_big via zg_eval_free), one per graph output.
zg_status zg_graph_eval(const zg_graph *g, zg_tensor (*leaf)(void *user, const zg_node *n), void *user,
                        zg_tensor **out_values);
void zg_eval_free(const zg_graph *g, zg_tensor *values);
