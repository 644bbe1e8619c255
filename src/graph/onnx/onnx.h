// ONNX files: import into a graph, export with new weights. The only room that sees protobuf.
#pragma once
#include "graph/graph.h"

// Ops that the import itself executes (If, Loop, sequences, ...), for lists; i from 0 on, NULL behind the last. *domain: "" is ai.onnx.
const char *zg_onnx_structural_op(uint32_t i, const char **domain);

// The parsed file; keeps it mapped. One thread at a time may use a model.
typedef struct zg_onnx_model zg_onnx_model;

// Parses and checks the file. Weights are not read: initializers stay in the mapped file (external data mapped too; paths
// with "..", absolute ones and links that leave the model's folder are refused). An external file that is absent is fine
// until its bytes are asked for (plan works without).
zg_status zg_onnx_load(const char *path, zg_onnx_model **out);
void zg_onnx_free(zg_onnx_model *m);           // NULL ok

// The model's signature, before anything is bound. Arrays are borrowed from the model.
typedef struct { int64_t value; const char *symbol; } zg_sym_dim;     // value >= 0, or a symbol; unnamed ones get "INPUT_dimN"
typedef struct { const char *name; zg_dtype dtype; uint32_t rank; zg_sym_dim dim[ZG_MAX_RANK]; bool known;
  bool sequence, optional;         // sequence: of tensors of dtype, not `known`; its elements are fed and read as NAME[0], NAME[1], ...
} zg_signature;
const zg_signature *zg_onnx_inputs(const zg_onnx_model *m, uint32_t *n);    // graph inputs that are not initializers
const zg_signature *zg_onnx_outputs(const zg_onnx_model *m, uint32_t *n);
int64_t zg_onnx_opset(const zg_onnx_model *m);
const char *zg_onnx_producer(const zg_onnx_model *m);

// The tensor table: every initializer, every float tensor in a Constant node, every float result of a ConstantOfShape node whose
// shape is a constant (is_constant_node too), and what zg_onnx_untie adds; zg_param_attr.source indexes it.
typedef struct { const char *name; zg_type type; bool external, is_constant_node; } zg_onnx_tensor_info;
uint32_t zg_onnx_n_tensors(const zg_onnx_model *m);
const zg_onnx_tensor_info *zg_onnx_tensor_at(const zg_onnx_model *m, uint32_t i);
// Bytes of a tensor, row-major, little-endian. Borrowed: points into the mapped file (raw or external data; the address need
// not be aligned for the type: copy it, do not dereference), else into a buffer that the model keeps. Fails naming tensor and
// file if too short or absent.
zg_status zg_onnx_tensor_bytes(zg_onnx_model *m, uint32_t i, const void **out);
// The bytes are not needed for now: gives back the memory they took (a decoded buffer, pages of the mapped file). What
// zg_onnx_tensor_bytes returned for i must not be used any more; asking again is fine.
void zg_onnx_tensor_drop(zg_onnx_model *m, uint32_t i);
// The same for all that is mapped, the model file itself among it; tensors' bytes stay where they are.
void zg_onnx_forget_pages(const zg_onnx_model *m);

// What exporters' optimisers did to parameters, undone; before the import. Both may be called again with the same.
// untie: gains, biases and statistics that were merged because they were equal get tensors of their own, which are appended to the
// table (*out_n: how many) and become initializers when the model is exported. Reads weights: fails where they are absent.
zg_status zg_onnx_untie(zg_onnx_model *m, uint32_t *out_n);
// tie: the tensors called names[0..n) are one parameter, that of the first name; the others may be its transposes. An export that
// replaces the first writes them all. ZG_INVALID: no such tensor, types that do not fit, a tensor in two ties.
zg_status zg_onnx_tie(zg_onnx_model *m, const char *const *names, uint32_t n);

typedef struct { const char *symbol; int64_t value; } zg_dim_binding;
typedef struct {
  const zg_dim_binding *dims; uint32_t n_dims;             // symbols; unbound ones are an error that lists them
  const zg_type *input_types; const char *const *input_names; uint32_t n_inputs;   // shapes known from data: they bind symbols
  const zg_tensor *input_values;                           // NULL, or one an input_name: data NULL, or the value: it becomes a constant
  int64_t default_dim;                                     // > 0: unbound symbols take it (inspect), 0: error
  bool batch_norm_train;                                   // BatchNormalization uses batch statistics and updates the running ones
  bool dropout_on; double dropout_ratio;                   // Dropout active; ratio < 0: as the node says
  const char *const *trainable; uint32_t n_trainable;      // globs; none: the rule of docs/training.md
  const char *const *frozen; uint32_t n_frozen;
} zg_import_options;
// The graph with all symbols bound, shapes inferred, shape arithmetic folded, params decided (role, reason). Model outputs are
// ZG_OUT_VALUE outputs under their names; running statistics are ZG_OUT_UPDATE outputs in batch_norm_train mode.
zg_status zg_onnx_import(zg_onnx_model *m, const zg_import_options *o, zg_graph **out);

// What the last import decided of tensor i of the table, and why; false before one. Borrowed until the next import.
typedef enum { ZG_DECIDED_TRAINABLE, ZG_DECIDED_FROZEN, ZG_DECIDED_RUNNING, ZG_DECIDED_TIED, ZG_DECIDED_CONSTANT, ZG_DECIDED_UNREAD } zg_onnx_verdict;
typedef struct { zg_onnx_verdict verdict; const char *reason; } zg_onnx_decision;
bool zg_onnx_decided(const zg_onnx_model *m, uint32_t i, zg_onnx_decision *out);

// What the export did to the model as a thing to train, as far as file and last import tell: doctor.c has the list. Texts are in
// `mem`, names of tensors and nodes in quotes.
typedef struct { const char *kind, *what, *effect, *remedy; } zg_onnx_finding;
typedef ZG_VEC(zg_onnx_finding) zg_onnx_findings;
void zg_onnx_examine(zg_onnx_model *m, zg_arena *mem, zg_onnx_findings *out);

// Writes the model with new bytes for some tensors (by table index; type as in the table), everything else untouched: names,
// metadata, opset imports, functions, unknown fields. Atomic. Above 2 GB, weights go to external data beside it ("FILE.data").
// With ZG_OUT_UPDATE of running statistics the caller passes those tensors like any other.
typedef struct { uint32_t source; const void *data; } zg_onnx_replacement;
zg_status zg_onnx_export(zg_onnx_model *m, const zg_onnx_replacement *r, uint32_t n, const char *path);
