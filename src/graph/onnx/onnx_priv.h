// Private to graph/onnx: the loaded model, and the state of one import.
#pragma once
#include "graph/core.h"
#include "graph/onnx/onnx.h"
#include "graph/onnx/onnx.pb-c.h"

// ---- rope.c: rewriting the wire format without copying payloads
// ------------------------------------------------------- A message as a list of pieces: most point into the
// mapped file, the rest into the rope's arena.
typedef struct {
  const uint8_t *at;
  uint64_t n;
} zg__piece;
typedef struct {
  ZG_VEC(zg__piece) pieces;
  uint64_t n_bytes;
} zg__rope;

// A field of a message: tag, wire type, the whole field, and the payload of wire type 2.
typedef struct {
  uint32_t tag, wire;
  const uint8_t *start, *body;
  uint64_t n_field, n_body;
} zg__field;

// What becomes of each TensorProto / SparseTensorProto met while a message is copied. `at`, `n`: the
// message's bytes in the source; `prefix`: the tag it has there. The hook appends the whole field (tag,
// length, body) to `out` and returns true, or returns false: the field is copied as it is.
typedef struct zg__rewriter zg__rewriter;
struct zg__rewriter {
  bool (*tensor)(zg__rewriter *w, const ProtobufCMessageDescriptor *kind, uint32_t tag, const uint8_t *at,
                 uint64_t n, zg__rope *out);
  // NULL, or as `tensor`, for the nodes of the model's main graph, in their order; f: the field that holds one.
  bool (*node)(zg__rewriter *w, const zg__field *f, zg__rope *out);
  void (*graph_end)(zg__rewriter *w, zg__rope *out);  // NULL, or appends fields to the main graph
  const uint8_t *base;  // start of the source
  zg_arena *mem;
  void *user;
  const char *error;  // why the source is malformed; NULL: it is not
};
// Appends to `out` the message of type `kind` in src[0..n), nested messages rewritten. False: w->error says
// why.
bool zg__rewrite(zg__rewriter *w, const ProtobufCMessageDescriptor *kind, const uint8_t *src, uint64_t n,
                 int depth, zg__rope *out);
void zg__rope_put(zg__rope *r, const void *at, uint64_t n);  // borrowed bytes
void zg__rope_varint(zg__rope *r, zg_arena *mem, uint64_t v);
void zg__rope_field(zg__rope *r, zg_arena *mem, uint32_t tag, const void *at,
                    uint64_t n);  // length-delimited
void zg__rope_append(zg__rope *r, const zg__rope *tail);
void zg__rope_fini(zg__rope *r);
// One field of a message at *at (moved on).
bool zg__next_field(const uint8_t **at, const uint8_t *end, zg__field *out);

// ---- the model
// --------------------------------------------------------------------------------------------------------
// Every TensorProto of the unpacked tree carries, in place of its raw_data, this record: the payload stays in
// the file.
typedef struct {
  uint64_t message;     // offset of the TensorProto's body in the file
  uint64_t raw, n_raw;  // raw_data in the file; raw == UINT64_MAX: the tensor has none
  uint64_t index;       // in the tensor table, UINT64_MAX: not in it
} zg__ref;

typedef enum {
  ZG__IN_GRAPH,
  ZG__IN_BRANCH,
  ZG__IN_CONSTANT,
  ZG__IN_NODE
} zg__home;  // initializer, of a subgraph, Constant node, derived (derive.c)
typedef struct {
  zg_onnx_tensor_info info;
  const Onnx__TensorProto *proto;         // values tensor where sparse
  const Onnx__SparseTensorProto *sparse;  // or NULL
  zg__home home;
  bool in_function;               // a Constant node of a model-local function
  // ZG__IN_NODE (proto NULL): the node of the main graph whose result it takes the place of, NULL where it takes the place of
  // operands (zg_onnx_model.renames); and the table index + 1 of the tensor whose bytes it starts with, 0 where maker fills it
  const Onnx__NodeProto *maker;
  uint32_t origin;
  uint32_t tied_to;               // table index + 1 of the tensor that this one is (zg_onnx_tie), 0: none
  bool tied_transposed;           // its bytes are that one's transposed
  void *decoded;  // buffer for what cannot be borrowed from a file, n_decoded bytes
  uint64_t n_decoded;
} zg__tensor;

typedef struct {
  const char *name;
  const char *real_path;
  zg_file_map map;
} zg__external;
typedef struct {
  const char *domain;
  int64_t version;
} zg__opset;
typedef struct {
  zg__opset *at;
  uint32_t n;
} zg__opsets;

// Operand `operand` of a node of the main graph is read from a tensor of the table instead of what the file says.
typedef struct { const Onnx__NodeProto *node; uint32_t operand, tensor; } zg__rename;

struct zg_onnx_model {
  zg_arena mem;
  const char *path;
  zg_file_map file;
  Onnx__ModelProto *proto;
  zg__opsets opsets;
  ZG_VEC(zg_signature) inputs;
  ZG_VEC(zg_signature) outputs;
  ZG_VEC(zg__tensor) tensors;
  ZG_VEC(zg__external) externals;
  ZG_VEC(zg__rename) renames;
  const zg_onnx_decision *decided;  // of the last import, one a table entry at that time; n_decided
  uint32_t n_decided, n_wrong;      // n_wrong: declared types that the last import found wrong
  const char *first_wrong;
  zg_map derived;   // result of a node -> table index; "RESULT\nOPERAND" -> index into renames
  bool untied;
};

zg_status zg__read_opsets(zg_onnx_model *m, Onnx__OperatorSetIdProto **at, size_t n, zg__opsets *out);
zg_status zg__tensor_table(zg_onnx_model *m);         // tensor.c: fills m->tensors
zg__ref *zg__tensor_ref(const Onnx__TensorProto *t);  // the record, or NULL
// ---- derive.c: parameters that are no tensors of the file
// Appends the results of ConstantOfShape nodes to the table; `names`: those that tensors have already.
void zg__derive_generated(zg_onnx_model *m, zg_map *names);
zg_status zg__derived_bytes(zg_onnx_model *m, uint32_t i, const void **out);
// The derived tensor that stands for the node's result, or for its operand (nodes of the main graph alone).
bool zg__derived_result(const zg_onnx_model *m, const Onnx__NodeProto *n, uint32_t *out);
bool zg__derived_operand(const zg_onnx_model *m, zg_arena *mem, const Onnx__NodeProto *n, uint32_t operand, uint32_t *out);
// Appends a tensor that starts as `origin`; maker: the Identity node whose place it takes, or NULL. Gives its index.
uint32_t zg__derive(zg_onnx_model *m, uint32_t origin, const Onnx__NodeProto *maker, const char *name);
void zg__derive_operand(zg_onnx_model *m, const Onnx__NodeProto *n, uint32_t operand, uint32_t tensor);

// ---- untie.c, tie.c
// Calls fn for every tensor that zg_onnx_untie would split, and how many tensors it would be; first: a node that reads it.
typedef void zg__merged_fn(void *user, uint32_t tensor, uint32_t n_groups, uint32_t n_readers, const Onnx__NodeProto *first);
void zg__each_merged(zg_onnx_model *m, zg__merged_fn *fn, void *user);
bool zg__same_or_transposed(zg_onnx_model *m, uint32_t a, uint32_t b, bool *transposed);   // equal bytes? absent ones: no
// The bytes of a tied tensor when its leader's are `data`: those, or a transposed copy in mem.
const void *zg__tied_bytes(const zg_onnx_model *m, uint32_t i, const void *data, zg_arena *mem);
zg_status zg__tensor_type(const Onnx__TensorProto *t,
                          zg_type *out);  // unsupported types and ranks are errors
// Bytes of any TensorProto of the model, borrowed from a file, or in *owned (zg_free_big). Messages name it
// as `name`.
zg_status zg__tensor_data(zg_onnx_model *m, const Onnx__TensorProto *t, const char *name, zg_tensor *out,
                          void **owned, uint64_t *n_owned);
zg_status zg__check_path(const char *folder, const char *location, zg_arena *mem,
                         const char **out);  // external files
static inline const char *zg__str(const char *s) { return s ? s : ""; }
// What messages call a node: its name, or else its first result's.
static inline const char *zg__label(const Onnx__NodeProto *n) {
  return *zg__str(n->name) ? n->name : n->n_output ? zg__str(n->output[0]) : "";
}
static inline const char *zg__domain(const char *s) { return !s || !strcmp(s, "ai.onnx") ? "" : s; }
const Onnx__TensorProto *zg__constant_value(const Onnx__NodeProto *n, const Onnx__SparseTensorProto **sparse);
zg_status zg__signature(zg_onnx_model *m, const Onnx__ValueInfoProto *v, zg_signature *out);
const char *zg__why_unknown(const Onnx__ValueInfoProto *v);  // what a signature without `known` is, in words

// ---- one import
// ------------------------------------------------------------------------------------------------------- A
// name of the file stands for one of these.
typedef enum {
  ZG__NOTHING,  // omitted function input
  ZG__VALUE,    // value of the builder
  ZG__TENSOR,   // table entry that nobody has read yet
  ZG__LIST,     // sequence of values: known while importing, never in the graph
  ZG__POISON,   // result of something zgraph cannot do; an error only if a model output depends on it
} zg__kind;
typedef struct {
  uint32_t n;
  const zg_val *at;
} zg__list;
typedef struct {
  zg__kind kind;
  zg_val val;
  uint32_t tensor;
  zg__list list;
  const char *why;
} zg__binding;

// An activation of a function (or the main graph): where attribute references and opset versions are looked
// up.
typedef struct zg__frame zg__frame;
struct zg__frame {
  const Onnx__FunctionProto *func;  // NULL: the main graph
  const Onnx__NodeProto *call;
  const zg__frame *caller;
  zg__opsets opsets;
  const char *prefix;  // "" or "CALL/": in front of node names in messages
  int depth;
};
typedef struct zg__scope zg__scope;
struct zg__scope {
  zg__scope *outer;  // of a subgraph; a function's scope has none
  const zg__frame *frame;
  zg_map names;  // -> index into at
  ZG_VEC(zg__binding) at;
};

typedef struct {
  bool is_const;
  bool by_rule;  // trainable by the rule, not by the configuration's word: roles.c may know better
  zg_param_role role;
  const char *reason;
} zg__decision;

typedef struct {
  zg_onnx_model *m;
  const zg_import_options *o;
  zg_builder *b;
  zg_arena mem;
  zg__decision *decisions;  // one a table entry
  zg_val *leaves;           // one a table entry; none: not read yet
  zg_map symbols;           // symbol -> value
  zg_map functions;         // "domain\nname\noverload" -> index
  uint64_t n_nodes;         // imported so far, after inlining
  uint32_t n_wrong;         // declared shapes that differ from the inferred ones
  const char *first_wrong;
  ZG_VEC(const char *) warnings;  // of this walk; told when it was the last
  const char *node_name, *node_op;  // being imported
} zg__import;

struct zg_onnx_attrs {
  const Onnx__NodeProto *node;
  const zg__frame *frame;
  zg__import *im;
};

enum { ZG__SMALL = 64 };  // constants of at most so many elements are folded, not kept as params
enum { ZG__MAX_DEPTH = 64 };                    // of functions and subgraphs
static const uint64_t ZG__MAX_NODES = 4000000;  // after inlining and unrolling

zg_status zg__bind_dims(zg__import *im);  // dims.c
zg_status zg__input_type(zg__import *im, const zg_signature *s, const char *why, zg_type *out);
zg_status zg__unbound_dims(
    zg__import *im);  // an error that lists the symbols zg__input_type found no size for
zg_status zg__decide_params(zg__import *im);                                  // params.c
bool zg__refine_roles(zg__import *im, const zg_graph *g);  // roles.c: corrects decisions; true if one has changed
void zg__scope_init(zg__scope *s, zg__scope *outer, const zg__frame *frame);  // walk.c
void zg__scope_fini(zg__scope *s);
void zg__bind(zg__scope *s, const char *name, zg__binding x);
static inline zg__binding zg__of_val(zg_val v) {
  return (zg__binding){.kind = zg_is(v) ? ZG__VALUE : ZG__NOTHING, .val = v};
}
bool zg__lookup(const zg__scope *s, const char *name, zg__binding *out);
zg_val zg__const(zg_builder *b, const zg_type *t, const void *bytes);
zg_status zg__as_value(zg__import *im, zg__binding *x);                     // TENSOR becomes VALUE
int64_t zg__find_function(const zg__import *im, const Onnx__NodeProto *n);  // model-local function; -1: none
// Nodes that `wanted` needs, in an order that can be executed. out: indices, in im->mem.
zg_status zg__order(zg__import *im, Onnx__NodeProto *const *nodes, size_t n, const char *const *wanted,
                    size_t n_wanted, uint32_t **out, uint32_t *n_out);
// Adds every name that the node reads to `names`, those that its subgraphs capture included.
void zg__add_reads(const Onnx__NodeProto *n, zg_map *names);
zg_status zg__run_nodes(zg__import *im, zg__scope *s, Onnx__NodeProto *const *nodes, const uint32_t *order,
                        uint32_t n);
// Runs a subgraph with its inputs bound to args; fills one binding an output.
zg_status zg__run_graph(zg__import *im, zg__scope *outer, const zg__frame *f, const Onnx__GraphProto *g,
                        const zg__binding *args, uint32_t n_args, zg__binding *out);
zg_status zg__bind_initializers(zg__import *im, zg__scope *s, const Onnx__GraphProto *g);

// What a structural node (one the walk itself executes) sees. in/out: bindings; out is to be filled.
typedef struct {
  zg__import *im;
  zg__scope *scope;
  const Onnx__NodeProto *node;
  zg_onnx_node *view;  // for attributes and messages; view->in holds none for lists
  zg__binding *in, *out;
  uint32_t n_in, n_out;
} zg__structural;
typedef struct {
  const char *op_type;
  zg_status (*run)(zg__structural *x);
  bool lists_only;
  const char *domain;  // NULL: ""
} zg__structural_row;
// The row of a structural op; lists_only rows apply only when an operand is a list.
const zg__structural_row *zg__find_structural(const char *op_type, const char *domain);
zg_status zg__run_if(zg__structural *x);  // control.c
zg_status zg__run_loop(zg__structural *x);
zg_status zg__run_scan(zg__structural *x);
extern const zg__structural_row zg__sequence_rows[];                  // sequence.c; ends with NULL
extern const zg__structural_row zg__preview_rows[];                   // preview.c; ends with NULL
zg_status zg__arg_value(zg__structural *x, uint32_t i, zg_val *out);  // operand i, which must be a tensor
bool zg__arg_present(const zg__structural *x, uint32_t i);
zg_status zg__builder_error(
    zg__import *im);  // ends the builder: its first error, with the node's name in front

// A node of opset 6 as the node of opset 7 that means the same; newer ones stay. Reads operands, so after they are bound. legacy.c
zg_status zg__modernise(zg_onnx_node *v);

const Onnx__AttributeProto *zg__attr(const Onnx__NodeProto *n, const zg__frame *f,
                                     const char *name);  // attrs.c
