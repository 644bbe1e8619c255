// The core ops: what remains after `lower_to_core`, what the schedule's lowering reads. Each op's rules are in its family's
// file under graph/op/; here stand the names and the attribute structs that other rooms read.
#pragma once
#include "graph/op.h"

// ---- op/map.c: scalar maps; every opcode of scalar.def has its op ------------------------------------------------------
const zg_op *zg_map_op(zg_scalar s);              // the op of a scalar opcode
extern const zg_op zg_op_where;                   // cond: bool, x, y of one dtype
extern const zg_op zg_op_cast;                    // float to int truncates; to bool: != 0
typedef struct { int64_t to; } zg_cast_attr;

// ---- op/leaf.c: input, param, state, const (graph.h), and: ------------------------------------------------------------
extern const zg_op zg_op_fill;                    // no operands: every element = value
typedef struct { zg_type type; double value; } zg_fill_attr;
extern const zg_op zg_op_iota;                    // no operands: out[i0..] = start + i_axis * step
typedef struct { zg_type type; int64_t axis; double start, step; } zg_iota_attr;
extern const zg_op zg_op_random;                  // no operands; Philox counter (element, step, node stream), key = seed
typedef enum { ZG_RAND_UNIFORM, ZG_RAND_NORMAL } zg_rand_kind;   // uniform in [lo, hi); normal(lo = mean, hi = sd)
typedef struct { zg_type type; int64_t kind, stream; double lo, hi; } zg_random_attr;

// ---- op/reduce.c, arg_reduce.c, cumsum.c, topk.c ------------------------------------------------------------------------
extern const zg_op zg_op_reduce;                  // axes sorted, non-negative; keep: reduced dims stay as 1
typedef struct { int64_t kind, keep; zg_ints axes; } zg_reduce_attr;
extern const zg_op zg_op_arg_reduce;              // argmax/argmin along one axis, kept as 1; i64; last: last of equals
typedef struct { int64_t axis, is_min, last; } zg_arg_reduce_attr;
extern const zg_op zg_op_cumsum;                  // along axis
typedef struct { int64_t axis, exclusive, reverse; } zg_cumsum_attr;
extern const zg_op zg_op_topk;                    // (x) -> values, indices i64; sorted descending if largest; ties: lower index first
typedef struct { int64_t axis, k, largest; } zg_topk_attr;

// ---- op/matmul.c --------------------------------------------------------------------------------------------------------
// x: [..., M, K] (ta: [..., K, M]), y: [..., K, N] (tb: [..., N, K]) -> [..., M, N]; leading dims broadcast. Ranks >= 2.
extern const zg_op zg_op_matmul;
typedef struct { int64_t ta, tb, wide; } zg_matmul_attr;   // wide: half-precision operands, result f32 as it was summed

// (c, x, y) -> c + x y, of c's type; summed in c's memory where nobody else reads c. Attributes: zg_matmul_attr.
extern const zg_op zg_op_matmul_add;

// ---- views: op/reshape.c, expand.c, transpose.c, slice.c, unslice.c, barrier.c, concat.c ---------------------------------
extern const zg_op zg_op_reshape;                 // dim: no -1 left
extern const zg_op zg_op_expand;                  // numpy broadcast to dim
typedef struct { zg_ints dim; } zg_shape_attr;    // of both
extern const zg_op zg_op_transpose;
typedef struct { zg_ints perm; } zg_transpose_attr;   // out dim i = in dim perm[i]
extern const zg_op zg_op_slice;                   // out[i] = x[start + i*step]
typedef struct { zg_ints start, step, size; } zg_slice_attr;
extern const zg_op zg_op_unslice;                 // adjoint of slice, and padding: out = fill; out[start + i*step] = x[i]
typedef struct { zg_ints dim, start, step; double fill; } zg_unslice_attr;
extern const zg_op zg_op_barrier;                 // the same elements; keeps what is computed from it apart (opt_recompute)
typedef struct { int64_t group; } zg_barrier_attr;
extern const zg_op zg_op_concat;
typedef struct { int64_t axis; } zg_axis_attr;

// ---- op/gather.c --------------------------------------------------------------------------------------------------------
// take: (x, idx) numpy take along axis. elements: idx has the result's shape, one index along axis. nd: the last dim of
// idx indexes dims batch .. batch+n of x. Negative indices count from the end; out of range is a run-time error of the step.
typedef enum { ZG_IDX_TAKE, ZG_IDX_ELEMENTS, ZG_IDX_ND } zg_idx_mode;
extern const zg_op zg_op_gather;
typedef struct { int64_t mode, axis, batch; } zg_gather_attr;
// (base, idx, updates) -> base with updates combined in at idx, in order of updates (deterministic). Same addressing as gather;
// TAKE: updates have the shape gather would give. With reduction ADD this is gather's adjoint.
typedef enum { ZG_SCATTER_SET, ZG_SCATTER_ADD, ZG_SCATTER_MUL, ZG_SCATTER_MAX, ZG_SCATTER_MIN } zg_scatter_red;
extern const zg_op zg_op_scatter;
typedef struct { int64_t mode, axis, batch, red; } zg_scatter_attr;

// ---- op/conv.c, op/pool.c -----------------------------------------------------------------------------------------------
// Spatial rank R = 1..3. x: [N, C, d1..dR], w: [O, C/group, k1..kR]. pads: begin then end (2R). All arrays filled in.
typedef struct { zg_ints strides, pads, dilations; int64_t group; zg_ints dim; } zg_conv_attr;
extern const zg_op zg_op_conv;                    // (x, w[, bias: [O]]) -> y; dim empty
extern const zg_op zg_op_conv_grad_x;             // (dy, w) -> dx of shape dim; also ConvTranspose's forward
extern const zg_op zg_op_conv_grad_w;             // (x, dy) -> dw of shape dim
typedef enum { ZG_POOL_MAX, ZG_POOL_AVG, ZG_POOL_AVG_PAD } zg_pool_kind;   // AVG: over what is no padding; AVG_PAD: over the kernel's volume
typedef struct { int64_t kind; zg_ints kernel, strides, pads, dilations; zg_ints dim; } zg_pool_attr;
extern const zg_op zg_op_pool;                    // (x) -> y; pads make every window whole (ceil_mode adds to the end pads); dim = output spatial dims
extern const zg_op zg_op_pool_grad;               // (x, dy) -> dx; max: to the first of equals. dim as in the forward

// ---- op/flash.c ---------------------------------------------------------------------------------------------------------
// (q: [B,H,T,D], k: [B,K,S,D], v: [B,K,S,E][, mask]) -> y: [B,H,T,E], lse: [B,H,T] (f32, or f64 for f64). H a multiple of K.
// Scores q.k * scale (+ mask; bool: true = attend); causal: key j <= query i + offset; softmax; a row without keys gives 0.
// grad: (q, k, v, y, lse, dy[, mask]) -> dq, dk, dv. mask broadcasts to [B,H,T,S].
extern const zg_op zg_op_flash_attention, zg_op_flash_attention_grad;
typedef struct { int64_t causal, offset; double scale; } zg_flash_attr;

// ---- op/cell.c ----------------------------------------------------------------------------------------------------------
// A recurrent layer over all time steps, behind its input projection. G = gates of the cell, S = tensors it saves per step.
//   (xw: [T,B,G*H], r: [G*H,H], h0: [B,H][, extra]) -> hs: [T+1,B,H], saved: [T,B,S*H], cs: [T+1,B,H] (cells without c: [T+1,B,0])
// xw holds the biases. hs[0] = h0 and hs[t+1] is the state after step t; `reverse`: hs[T] = h0, hs[t] after step t, from T-1 down.
//   TANH, RELU  h = f(x + h R^T)
//   LSTM        gates i o f g; extra = c0: [B,H]; c = f c + i g, h = o tanh(c); saved: i o f g
//   GRU         gates z r n; extra = recurrent bias of n: [H]; q = h Rn^T + extra, n = tanh(x_n + r q), h = (1 - z) n + z h; saved: z r n q
// grad: (saved, hs, cs, r, dhs: [T+1,B,H][, dcs: [T+1,B,H]]) -> dxw, dh0, dc0 (cells without c: [B,0]); R's is a product over all steps.
// ONNX's attributes beyond these (graph/op/recurrent.c lists them) are imported as unrolled steps.
extern const zg_op zg_op_recurrent, zg_op_recurrent_grad;
typedef enum { ZG_CELL_TANH, ZG_CELL_RELU, ZG_CELL_LSTM, ZG_CELL_GRU } zg_cell;
typedef struct { int64_t cell, reverse; } zg_recurrent_attr;
static inline int64_t zg_cell_gates(int64_t cell) { return cell == ZG_CELL_LSTM ? 4 : cell == ZG_CELL_GRU ? 3 : 1; }
static inline int64_t zg_cell_saved(int64_t cell) { return cell == ZG_CELL_LSTM || cell == ZG_CELL_GRU ? 4 : 0; }

// ---- high-level ops that passes know by name --------------------------------------------------------------------------
extern const zg_op zg_op_softmax, zg_op_log_softmax;          // zg_axis_attr; op/softmax.c
// (logits: f[..., C] with the class on `axis`, labels: i64 without that axis) -> loss: f32[], mean over labels that are not
// `ignore`; smoothing as PyTorch. log_probs: logits are log-probabilities already. A third operand, f[C], weighs each label's
// loss by its class (the mean divides by the sum of those weights; no smoothing then). op/loss.c
extern const zg_op zg_op_cross_entropy;
typedef struct { int64_t axis, ignore, log_probs; double smoothing; int64_t reduction; } zg_cross_entropy_attr;  // 0 mean, 1 sum, 2 none
// linear_cross_entropy: (h: f[N,K], w: f[K,V] or with tb [V,K], labels: i64[N] [, bias: f[V] [, class weights: f[V]]], either may
// be omitted) -> loss: f32[], dh, dw, dbias, top: i64[N]: the mean or sum of cross_entropy(h w + bias) over rows, `scale` times its
// gradient by each of h, w, bias (f32 or f64), and the class of the largest logit (the first of equals). Computed `rows` rows at a
// time: the [N,V] logits are never held whole. The results that nobody reads are not computed; scale is not 0. op/loss_linear.c
extern const zg_op zg_op_linear_cross_entropy;
typedef struct { int64_t tb, rows, ignore, reduction; double smoothing, scale; } zg_linear_cross_entropy_attr;
// Attention with softcap (0: none) and f64 (softmax in double); operands as flash_attention's, one result. op/attention.c
extern const zg_op zg_op_attention;
typedef struct { int64_t causal, offset, f64; double scale, softcap; } zg_attention_attr;
// (x[, scale][, bias]) -> y, mean, rstd and (x[, scale]) -> y, rstd over dims axis ..; scale and bias broadcast to x. op/norm.c
extern const zg_op zg_op_layer_norm, zg_op_rms_norm;
typedef struct { int64_t axis; double eps; } zg_norm_attr;
// (x: [.., D], c, s: broadcast to x) -> x * c + r * s with r = [-x2, x1] for the halves x1, x2 of x's last dim. op/rotary.c
extern const zg_op zg_op_rotary;
