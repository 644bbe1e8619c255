// The schedule IR: ordered steps over buffers, split into segments. What runs is exactly what stands here: every kernel,
// every byte, every collective. Made by sched/lower.h from core graphs, changed by passes, run by exec/.
#pragma once
#include "graph/graph.h"

// ---- buffers ------------------------------------------------------------------------------------------------------
typedef enum { ZG_SPACE_DEVICE, ZG_SPACE_HOST, ZG_SPACE_DISK, ZG_N_SPACES } zg_space;
typedef enum {
  ZG_BUF_PARAM, ZG_BUF_GRAD, ZG_BUF_OPTIMIZER, ZG_BUF_MASTER, ZG_BUF_INPUT, ZG_BUF_CONST, ZG_BUF_ACTIVATION,
  ZG_BUF_TEMPORARY,      // lives within forward, backward or update alone
  ZG_BUF_COMM, ZG_BUF_WORKSPACE, ZG_N_BUF_ROLES
} zg_buf_role;
enum { ZG_BUF_ALIGN = 64 };

typedef struct {
  const char *name;         // leaf name, ONNX value name or "tN"; unique; borrowed from the schedule's arena
  uint64_t bytes;           // of the whole buffer; 0 is legal (empty tensors)
  uint64_t offset;          // in the arena of its space, multiple of ZG_BUF_ALIGN; set by plan_memory
  zg_dtype dtype;
  zg_type type;             // logical shape of what it holds
  uint8_t role, space;      // zg_buf_role, zg_space
  bool persistent;          // keeps its place and content between steps (params, states, inputs, constants)
  const void *init;         // ZG_BUF_CONST: bytes to load, in the arena; else NULL
  zg_val value;             // graph value it stands for, for reports; may be none
} zg_buf;

// A strided window on a buffer, in elements: element (i0..) is at offset + sum i_d * stride_d. Stride 0 broadcasts.
typedef struct {
  uint32_t buf;
  zg_dtype dtype;
  uint32_t rank;
  int64_t offset;
  int64_t dim[ZG_MAX_RANK], stride[ZG_MAX_RANK];
} zg_view;
bool zg_view_contiguous(const zg_view *v);                 // row-major without gaps (offset may be any)
// Rank 3 to 5, [N, C, d..], dense in the order N, d.., C (dims of size 1 take no part, so a view may be both this and contiguous).
bool zg_view_channels_last(const zg_view *v);
int64_t zg_view_elems(const zg_view *v);

// ---- kernels ------------------------------------------------------------------------------------------------------
// The closed list that a device implements. One file each under sched/kernel/ holds its table row.
typedef enum {
  ZG_K_LOOP,         // zg_loop_desc (sched/loop.h); args: as its code says
  ZG_K_MATMUL,       // zg_matmul_desc; args: C, A, B [, bias]
  ZG_K_CONV,         // zg_conv_desc; args: y, x, w [, bias]
  ZG_K_CONV_GRAD_X,  // zg_conv_desc; args: dx, dy, w
  ZG_K_CONV_GRAD_W,  // zg_conv_desc; args: dw, x, dy
  ZG_K_POOL,         // zg_pool_desc; args: y, x
  ZG_K_POOL_GRAD,    // zg_pool_desc; args: dx, x, dy
  ZG_K_GATHER,       // zg_gather_desc; args: out, x, idx
  ZG_K_SCATTER,      // zg_gather_desc; args: out (holds base already), idx, updates
  ZG_K_SCAN,         // zg_scan_desc (cumsum); args: out, x
  ZG_K_SORT,         // zg_sort_desc (top-k, arg-reduce); args: values, indices, x; n_out = 2; a result not wanted has buf 0
  ZG_K_ATTENTION,    // zg_attention_desc; args: y, lse, q, k, v [, mask]; n_out = 2; lse may have buf 0
  ZG_K_ATTENTION_GRAD,   // zg_attention_desc; args: dq, dk, dv, q, k, v, y, lse, dy [, mask]; n_out = 3; a result not wanted: buf 0
  ZG_K_RECURRENT,        // zg_recurrent_desc; args: hs, saved, cs, xw, r, h0 [, extra]; n_out = 3; saved, cs (but an LSTM's) may have buf 0
  ZG_K_RECURRENT_GRAD,   // zg_recurrent_desc; args: dxw, dh0, dc0, saved, hs, cs, r, dhs [, dcs]; n_out = 3; dh0, dc0 may have buf 0
  ZG_N_KERNELS
} zg_kernel_kind;

// C[b.., M, N] = epilogue(alpha * sum_k A[b.., M, k] * B[b.., k, N] + beta * C). The views' strides carry transposes,
// head interleaving and broadcast batches; all views have rank 2 + batch rank. bias: f32[N].
typedef enum { ZG_EPI_NONE, ZG_EPI_BIAS, ZG_EPI_BIAS_GELU, ZG_EPI_BIAS_GELU_TANH, ZG_EPI_BIAS_RELU } zg_epilogue;
typedef struct { int64_t m, n, k; double alpha, beta; int64_t epilogue; } zg_matmul_desc;
// Conv and pool args are contiguous row-major; those of images may have their channels last instead. Arrays as in zg_conv_attr / zg_pool_attr, first R entries used.
typedef struct { int64_t spatial, group; int64_t stride[3], pad_begin[3], pad_end[3], dilation[3]; } zg_conv_desc;
typedef struct { int64_t spatial, kind; int64_t kernel[3], stride[3], pad_begin[3], pad_end[3], dilation[3]; } zg_pool_desc;
typedef struct { int64_t mode, axis, batch, red; } zg_gather_desc;              // contiguous args; graph/core.h
typedef struct { int64_t axis, exclusive, reverse; } zg_scan_desc;              // contiguous args
typedef struct { int64_t axis, k, largest, arg, last; } zg_sort_desc;           // arg: arg-reduce (one result); contiguous args

// q: [B,H,T,D], k: [B,K,S,D], v: [B,K,S,E], y: [B,H,T,E], lse: [B,H,T], mask: [B,H,T,S] (bool or float), of any strides.
// The arithmetic is flash_attention's (graph/core.h).
typedef struct { int64_t causal, offset; double scale; } zg_attention_desc;

// The op `recurrent` (graph/core.h): cell as zg_cell; contiguous args. What the cell does not have is an empty tensor.
typedef struct { int64_t cell, reverse; } zg_recurrent_desc;

typedef struct {
  zg_kernel_kind kind;
  const void *desc;          // struct named at the kind; in the schedule's arena
  zg_view *args;             // outputs first
  uint32_t n_args, n_out;
  uint32_t workspace;        // buffer of scratch, 0 = none (buffer 0 is reserved)
  double flops;              // multiply-adds count two
  const char *label;         // ONNX node it stems from, and what it computes: "MatMul_3", "LayerNorm_1 grad"
} zg_kernel;

// Kernel-kind table: what passes and printers need of each kind.
typedef struct {
  const char *name;                                              // "loop", "matmul"
  void (*print)(const void *desc, zg_str *out);                  // attributes, "m=8 n=16"; must parse back
  zg_status (*parse)(const char *text, zg_arena *a, void **desc);
  zg_status (*verify)(const zg_kernel *k);                       // shapes and dtypes agree
} zg_kernel_info;
const zg_kernel_info *zg_kernel_info_of(zg_kernel_kind k);

// ---- steps --------------------------------------------------------------------------------------------------------
typedef enum {
  ZG_STEP_KERNEL,            // kernel
  ZG_STEP_PARTITION,         // a: shard, b: source tensor of the model file (load segment)
  ZG_STEP_GATHER,            // all-gather: a: full, b: shard
  ZG_STEP_REDUCE_SCATTER,    // a: shard, b: full
  ZG_STEP_ALL_REDUCE,        // a: in place
  ZG_STEP_BROADCAST,         // a, from rank `peer`
  ZG_STEP_COPY,              // a <- b, spaces may differ
  ZG_STEP_RELEASE,           // a's bytes may be reused from here on
  ZG_STEP_RECORD, ZG_STEP_WAIT,   // event
  ZG_N_STEP_KINDS
} zg_step_kind;
typedef enum { ZG_STREAM_COMPUTE, ZG_STREAM_COMM, ZG_STREAM_COPY, ZG_N_STREAMS } zg_stream;
typedef struct {
  zg_step_kind kind;
  uint8_t stream;            // zg_stream
  uint8_t phase;             // zg_phase, for reports
  uint32_t kernel;           // ZG_STEP_KERNEL: index into kernels
  uint32_t a, b;             // buffers
  // Element ranges, from a_at and b_at on. COPY, ALL_REDUCE, BROADCAST: n elements; 0: all that follow (of the smaller one). GATHER,
  // REDUCE_SCATTER: n elements per member of the group, 0: all of the shard from its b_at (a_at) on; the full buffer may end before
  // members * n (parts at the end are then short or empty; a reduce-scattered shard is 0 behind its part).
  int64_t a_at, b_at, n;
  uint32_t event;            // RECORD, WAIT: a wait means the last record of its event before it in the segment
  uint32_t peer;             // BROADCAST: member of the group that sends
  uint32_t group;            // collectives: 0 = all ranks, or ZG_GROUP
} zg_step;
static inline bool zg_step_is_collective(const zg_step *s) { return s->kind >= ZG_STEP_GATHER && s->kind <= ZG_STEP_BROADCAST; }
// Groups of `size` ranks, `stride` apart: rank r is member r / stride % size. ZG_GROUP(g, 1) are g neighbours (one machine),
// ZG_GROUP(world / g, g) those at the same place of each such block. size * stride divides the world; both below 65536.
#define ZG_GROUP(size, stride) ((uint32_t)(size) | (uint32_t)(stride) << 16)
#define ZG_GROUP_SIZE(group) ((group) & 0xffffu)
#define ZG_GROUP_STRIDE(group) ((group) >> 16)
typedef enum { ZG_PHASE_LOAD, ZG_PHASE_FORWARD, ZG_PHASE_BACKWARD, ZG_PHASE_UPDATE, ZG_PHASE_SAVE } zg_phase;

// Segments run in the order the training loop calls for: load once; micro per micro-step; update once per update. When k = 1
// micro and update are one segment, "step".
typedef struct { const char *name; uint32_t first, n; } zg_segment;
// A result that the host may read after a segment has run: model outputs, loss, gradients asked for. `view` addresses it.
typedef struct { const char *segment, *name; uint8_t kind; zg_type type; zg_view view; } zg_sched_output;   // kind: zg_out_kind

typedef struct {
  zg_arena mem;
  const char *title;                     // "zero0 rank 0/1"
  ZG_VEC(zg_buf) bufs;                   // bufs.at[0] reserved
  ZG_VEC(zg_kernel) kernels;
  ZG_VEC(zg_step) steps;
  ZG_VEC(zg_segment) segments;
  ZG_VEC(zg_sched_output) outputs;
  zg_map buf_by_name;                    // index of bufs; kept by zg_sched_add_buf
  uint64_t arena_bytes[ZG_N_SPACES];     // set by plan_memory: what the run allocates
  uint64_t lower_bound[ZG_N_SPACES];     // largest sum of live bytes
  uint32_t rank, world;
  const char *disk_path;                 // folder for the file that is the disk space's arena; NULL: none
} zg_sched;

zg_sched *zg_sched_new(void);
void zg_sched_free(zg_sched *s);                                       // NULL ok
uint32_t zg_sched_add_buf(zg_sched *s, const zg_buf *b);               // strings copied; unique name made if taken
uint32_t zg_sched_add_kernel(zg_sched *s, const zg_kernel *k, size_t desc_bytes);  // desc and args copied
const zg_sched_output *zg_sched_find_output(const zg_sched *s, const char *segment, zg_out_kind kind, const char *name);
uint32_t zg_sched_find_buf(const zg_sched *s, const char *name);       // 0: none
const zg_segment *zg_sched_find_segment(const zg_sched *s, const char *name);
const char *zg_role_name(zg_buf_role r);

void zg_sched_print(const zg_sched *s, zg_str *out);                   // the text form of DESIGN, section 5
zg_status zg_sched_parse(const char *text, const char *file, zg_sched **out);
// Written before read; no use after release; hazards across streams ordered; live buffers disjoint; kernels' own rules.
zg_status zg_sched_verify(const zg_sched *s);

// Live range of each buffer over a numbering of all steps (segments one after the other). Persistent: everywhere.
typedef struct { uint32_t first, last; } zg_live_range;
zg_live_range *zg_find_live_ranges(const zg_sched *s, zg_arena *a);

// Assigns offsets: persistent buffers first, then the others by lifetime (sched/plan_memory.c). Sets arena_bytes, lower_bound.
zg_status zg_pass_plan_memory(zg_sched *s);
// Sets lower_bound alone, as plan_memory would: to compare schedules without placing their buffers.
void zg_sched_bound_memory(zg_sched *s);
