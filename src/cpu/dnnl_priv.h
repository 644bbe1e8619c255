// Shared by the dnnl_*.c files: the library's function table and the builder of prepared operations.
#pragma once
#include "cpu/dnnl.h"
#include <oneapi/dnnl/dnnl.h>  // for its types; its functions are called through zg__dnnl only

// ---- function table -------------------------------------------------------------------------------------
#define ZG_DNNL_FUNCTIONS(X)                                                                              \
  X(engine_create)                                                                                        \
  X(engine_destroy) X(stream_create) X(stream_destroy) X(stream_wait) X(memory_create) X(memory_destroy)  \
      X(memory_set_data_handle) X(memory_desc_init_by_strides) X(memory_desc_init_by_tag)                 \
          X(memory_desc_equal) X(memory_desc_get_size) X(primitive_desc_create) X(primitive_desc_destroy) \
              X(primitive_desc_query) X(primitive_desc_query_md) X(primitive_create) X(primitive_destroy) \
                  X(primitive_execute) X(reorder_primitive_desc_create) X(primitive_attr_create)          \
                      X(primitive_attr_destroy) X(primitive_attr_set_scratchpad_mode)                     \
                          X(primitive_attr_set_output_scales) X(primitive_attr_set_post_ops)              \
                              X(post_ops_create) X(post_ops_destroy) X(post_ops_append_sum)               \
                                  X(post_ops_append_eltwise) X(matmul_desc_init)                          \
                                      X(dilated_convolution_forward_desc_init)                            \
                                          X(dilated_convolution_backward_data_desc_init)                  \
                                              X(dilated_convolution_backward_weights_desc_init)           \
                                                  X(pooling_v2_forward_desc_init)                         \
                                                      X(pooling_v2_backward_desc_init)

typedef struct {
#define X(name) __typeof__(&dnnl_##name) name;
  ZG_DNNL_FUNCTIONS(X)
#undef X
  void (*omp_set_num_threads)(int);  // of the OpenMP library that libdnnl pulled in; NULL where it uses none
  zg_team team;                      // the same library's threads; members NULL likewise
  dnnl_engine_t engine;
  char text[64];
} zg_dnnl_api;
extern zg_dnnl_api zg__dnnl;  // valid after a successful zg_dnnl_load

// Fills `api` from the shared library `file`, which stays open. Statuses as zg_dnnl_load.
zg_status zg__dnnl_open(const char *file, zg_dnnl_api *api);
// NULL for dnnl_success, else a status that names the call: unimplemented or invalid arguments ->
// ZG_UNSUPPORTED.
zg_status zg__dnnl_status(dnnl_status_t s, const char *call);
#define ZG_DNNL(name, ...) zg__dnnl_status(zg__dnnl.name(__VA_ARGS__), "dnnl_" #name)

// ---- prepared operations --------------------------------------------------------------------------------
enum { ZG_DNNL_SLOTS = 16, ZG_DNNL_CALLS = 8, ZG_DNNL_ARGS = 8 };

// A tensor that the chain reads or writes: an argument of the kernel, or a place in the scratch.
typedef struct {
  dnnl_memory_t memory;
  dnnl_memory_desc_t md;
  int arg;      // argument number, or -1: scratch
  bool is_pad;  // the primitives' own scratchpad, which they share, behind the tensors
  uint64_t at;  // offset in the scratch
  void *last;   // address set last; setting one costs a call and may touch memory
} zg_dnnl_slot;

// Strided copy for what the library's reorder refuses: strides that are 0, negative or overlap. In elements.
// A divisor other than 1 makes the result f32.
typedef struct {
  int rank;
  zg_dtype dtype;
  float divisor;
  int64_t dim[DNNL_MAX_NDIMS], from[DNNL_MAX_NDIMS], to[DNNL_MAX_NDIMS];
} zg_dnnl_copy;
typedef struct {
  int dnnl_arg, slot;
} zg_dnnl_arg;

typedef enum { ZG_DNNL_PRIMITIVE, ZG_DNNL_COPY, ZG_DNNL_PLAIN } zg_dnnl_call_kind;
typedef struct {
  zg_dnnl_call_kind kind;
  dnnl_primitive_t primitive;  // PRIMITIVE
  int n_args;
  dnnl_exec_arg_t args[ZG_DNNL_ARGS];
  zg_dnnl_copy copy;  // COPY: kernel argument -> slot
  int copy_arg, copy_slot;
  void (*plain)(const void *desc, void *const *args);  // PLAIN: C code for degenerate shapes; desc in op->mem
  const void *desc;
} zg_dnnl_call;

struct zg_dnnl_op {
  zg_arena mem;
  int threads;
  dnnl_stream_t stream;
  uint64_t tensor_bytes, pad_bytes;  // scratch: the tensors between the calls, then the largest scratchpad
  int n_slots, n_calls;
  zg_dnnl_slot slots[ZG_DNNL_SLOTS];
  zg_dnnl_call calls[ZG_DNNL_CALLS];
};

// Each adds to the op; on failure the op is still fit for zg_dnnl_free and nothing else.
zg_status zg__dnnl_op_new(int threads, zg_dnnl_op **out);
zg_status zg__dnnl_arg_slot(zg_dnnl_op *op, const dnnl_memory_desc_t *md, int arg, int *out);
zg_status zg__dnnl_scratch_slot(zg_dnnl_op *op, const dnnl_memory_desc_t *md, int *out);
// Appends the primitive of `pd` (not consumed), and its scratchpad to its arguments.
zg_status zg__dnnl_add(zg_dnnl_op *op, const_dnnl_primitive_desc_t pd, const zg_dnnl_arg *args, int n_args);
zg_status zg__dnnl_add_reorder(zg_dnnl_op *op, int from, int to);
zg_status zg__dnnl_add_copy(zg_dnnl_op *op, const zg_dnnl_copy *c, int arg, int slot);
void zg__dnnl_add_plain(zg_dnnl_op *op, void (*fn)(const void *desc, void *const *args), const void *desc,
                        size_t n_bytes);
// Input in layout `want`: the argument itself where its layout `have` is that, else a scratch copy and the
// reorder to fill it.
zg_status zg__dnnl_input(zg_dnnl_op *op, int arg, const dnnl_memory_desc_t *have,
                         const dnnl_memory_desc_t *want, int *out);
// Output likewise; zg__dnnl_finish, called after the primitive, adds the reorder back where there is one to
// do.
zg_status zg__dnnl_output(zg_dnnl_op *op, int arg, const dnnl_memory_desc_t *have,
                          const dnnl_memory_desc_t *want, int *out);
zg_status zg__dnnl_finish(zg_dnnl_op *op, int arg, const dnnl_memory_desc_t *have, int slot);

// A primitive attribute with the scratchpad in the caller's hands. Destroy with primitive_attr_destroy.
zg_status zg__dnnl_attr(dnnl_primitive_attr_t *out);
zg_status zg__dnnl_dtype(zg_dtype t, dnnl_data_type_t *out);
// Row-major descriptor.
zg_status zg__dnnl_plain_md(zg_dtype t, int rank, const int64_t *dim, dnnl_memory_desc_t *out);
// [N, C, d..] with the channels last.
zg_status zg__dnnl_last_md(zg_dtype t, int rank, const int64_t *dim, dnnl_memory_desc_t *out);
zg_status zg__dnnl_any_md(zg_dtype t, int rank, const int64_t *dim, dnnl_memory_desc_t *out);

// The kinds: they add to a fresh op.
zg_status zg__dnnl_matmul(const zg_kernel *k, int threads, zg_dnnl_op **out);
zg_status zg__dnnl_conv(const zg_kernel *k, zg_dnnl_op *op);
zg_status zg__dnnl_pool(const zg_kernel *k, zg_dnnl_op *op);
