// What the op families share among themselves: walking strided tensors, reading axes and integer lists of
// ONNX nodes, and a few formulas that several families emit.
#pragma once
#include "graph/core.h"

// Advances a row-major counter over t and moves *offset as the strides say. Start with idx all 0; wraps at
// the end.
static inline void zg__step(const zg_type *t, int64_t *idx, const int64_t *stride, int64_t *offset) {
  for (uint32_t d = t->rank; d-- > 0;) {
    *offset += stride[d];
    if (++idx[d] < t->dim[d]) return;
    *offset -= stride[d] * t->dim[d];
    idx[d] = 0;
  }
}

// Product of dims [from, to).
static inline int64_t zg__prod(const zg_type *t, int64_t from, int64_t to) {
  int64_t n = 1;
  for (int64_t i = from; i < to; i++) n *= t->dim[i];
  return n;
}

static inline int64_t zg__ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0 && (a < 0) == (b < 0)); }
static inline int64_t zg__clamp(int64_t v, int64_t lo, int64_t hi) { return v < lo ? lo : v > hi ? hi : v; }

// Walks `t` in row-major order, dense on one side, while the other side moves by `stride` (elements) from
// `offset`; copies elements dense -> strided or strided -> dense.
void zg__strided_copy(const zg_type *t, void *dense, void *strided, const int64_t *stride, int64_t offset,
                      bool to_strided);
// Strides (elements) of the part of a dense `t` that starts at `start` and takes every step-th element; gives its
// offset.
int64_t zg__slice_strides(const zg_type *t, const zg_ints *start, const zg_ints *step, int64_t *stride);

// ---- inference ----------------------------------------------------------------------------------
// A list of n entries is within the rank limit and has `want` of them (-1: any number).
zg_status zg__check_rank(const zg_infer *x, const char *what, int64_t n, int64_t want);
// axis lies in [0, rank) of operand 0.
zg_status zg__check_axis(const zg_infer *x, int64_t axis);
// axes are sorted, without repeats, inside t.
zg_status zg__check_axes(const zg_ints *axes, const zg_type *t);
// t without the dims of `axes`, or with 1 in their place.
zg_type zg__reduced_type(const zg_type *t, const zg_ints *axes, bool keep);
// Does start + i * step for i < size stay inside [0, dim).
bool zg__inside(int64_t start, int64_t step, int64_t size, int64_t dim);

// Attributes of the fused reductions of floats: log_sum_exp, norm2.
typedef struct {
  int64_t keep;  // 1: reduced dims stay as 1
  zg_ints axes;  // sorted
} zg_axes_attr;
zg_status zg__axes_infer(zg_infer *x);  // one float operand, reduced over axes
extern const zg_op zg_op_log_sum_exp, zg_op_norm2;

// ---- readers of ONNX nodes ----------------------------------------------------------------------
// Checks that operands 0 .. count-1 are there.
zg_status zg__need(const zg_onnx_node *n, uint32_t count);
// axis in [-rank, rank) to [0, rank); rank 0 counts as 1.
zg_status zg__axis(const zg_onnx_node *n, int64_t axis, int64_t rank, int64_t *out);
// A list of integers that older opsets give as attribute `attr` and newer ones as operand `input`; *given
// tells whether it was there at all (given may be NULL: then it is required).
zg_status zg__ints(const zg_onnx_node *n, const char *attr, uint32_t input, zg_ints *out, bool *given);
// The same for axes: normalised for `rank`, sorted, without repeats.
zg_status zg__axes(const zg_onnx_node *n, const char *attr, uint32_t input, int64_t rank, zg_ints *out,
                   bool *given);
// A number that is a constant operand.
zg_status zg__const_scalar(const zg_onnx_node *n, uint32_t input, double *out);

// ---- cross entropy (loss.c), for those who compute it by parts ----------------------------------------------------
enum { ZG__CE_MEAN, ZG__CE_SUM, ZG__CE_NONE };  // zg_cross_entropy_attr.reduction
// bool, like the labels: counts this label?
zg_val zg__ce_valid(zg_builder *b, const zg_cross_entropy_attr *a, zg_val labels);
// Of dtype t, like the labels: the weight of each (weight: f[C], or none for 1), 0 where it does not count.
zg_val zg__ce_share(zg_builder *b, const zg_cross_entropy_attr *a, zg_val labels, zg_val weight, zg_dtype t);
// Gradient by the logits: rows (like the labels) * (softmax - (1 - s) onehot - s / C); log-probabilities: without the softmax.
zg_val zg__ce_dlogits(zg_builder *b, const zg_cross_entropy_attr *a, zg_val logits, zg_val labels, zg_val rows);

// ---- formulas -----------------------------------------------------------------------------------
static inline bool zg__is_half(zg_dtype t) { return t == ZG_F16 || t == ZG_BF16; }
// Statistics of half-precision tensors are computed in f32.
static inline zg_val zg__wide(zg_builder *b, zg_val x) {
  return zg__is_half(zg_b_type(b, x)->dtype) ? zg_b_cast(b, x, ZG_F32) : x;
}
static inline zg_dtype zg__wide_dtype(zg_dtype t) { return zg__is_half(t) ? ZG_F32 : t; }
// f32 tensors narrower than x's wide type (mixed parameters) follow it.
static inline zg_val zg__cast_like(zg_builder *b, zg_val x, zg_val like) {
  return zg_is(x) ? zg_b_cast(b, x, zg_b_type(b, like)->dtype) : x;
}
// Reduces over no axes at all are the identity; zg_b_reduce otherwise.
zg_val zg__reduce(zg_builder *b, zg_red kind, zg_val x, const zg_ints *axes, bool keep);
// Restores the dims that a reduction without keep removed, and broadcasts to `full`.
zg_val zg__unreduce(zg_builder *b, zg_val v, const zg_type *full, const zg_ints *axes);
// numpy matmul for operands of rank >= 2; a right side of rank 2 becomes one 2-D product over all rows of x.
zg_val zg__matmul(zg_builder *b, zg_val x, zg_val y, bool ta, bool tb);
// Softmax before opset 13, Hardmax: [prod of dims before axis, rest].
zg_val zg__coerce_2d(zg_builder *b, zg_val x, int64_t axis);
// i64 tensor that is 1 long everywhere except along `axis`, where it counts from `start`; rank as t's.
zg_val zg__index_along(zg_builder *b, const zg_type *t, int64_t axis, double start);
// Type of the result of attention over q, k, v and a mask (NULL: none); fails naming the operands that do not fit.
zg_status zg__attention_result(const zg_type *q, const zg_type *k, const zg_type *v, const zg_type *mask, zg_type *out);

// ---- cases --------------------------------------------------------------------------------------
// Text of a test case whose graph has the input x (double) as %1 and gives %2.
#define IN(shape) "%1 = input name=\"x\" type=f64" shape "\n"
#define OUT2 "\noutput value \"y\" %2"
