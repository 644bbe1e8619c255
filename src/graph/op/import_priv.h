// What the imports of several op families share: windows, activations by name, constant floats.
#pragma once
#include "graph/core.h"

// Window attributes of Conv, ConvTranspose and the pools, all filled in. pads: begin of each axis, then end
// of each.
typedef struct {
  int64_t rank;  // spatial, 1..3
  int64_t kernel[3], strides[3], pads[6], dilations[3];
} zg__window;
// Reads kernel_shape (or takes `kernel` when the attribute is absent; NULL: it must be there), strides, pads
// and dilations for data of type x: [N, C, d1..dR]. pads are left as declared; auto_pad is the next
// function's.
zg_status zg__window_read(const zg_onnx_node *n, const zg_type *x, const int64_t *kernel, zg__window *w);
// Applies auto_pad of a forward window over the spatial dims of x: SAME_* pads so that out = ceil(in /
// stride).
zg_status zg__window_auto_pad(const zg_onnx_node *n, const zg_type *x, zg__window *w);
// Elements that the dilated kernel spans on an axis.
static inline int64_t zg__window_span(const zg__window *w, int64_t axis) {
  return (w->kernel[axis] - 1) * w->dilations[axis] + 1;
}

// Integers of an array on the caller's stack, for an attribute that the builder copies.
static inline zg_ints zg__array(const int64_t *at, int64_t n) { return (zg_ints){n, at}; }

// Operand i as doubles known now; *out is in the builder's arena. Omitted or empty operand: *n_out = 0. Fails
// naming node and operand if it depends on data.
zg_status zg__onnx_const_floats(const zg_onnx_node *n, uint32_t i, const double **out, int64_t *n_out);

// Activation of a recurrent or fused op by its ONNX name (case ignored); alpha and beta as that activation
// defines them. False: no such activation.
bool zg__activation(zg_builder *b, const char *name, double alpha, double beta, zg_val x, zg_val *out);
// How many of alpha, beta the named activation takes, and their defaults (ONNX LSTM-14, GRU-14, RNN-14).
void zg__activation_params(const char *name, bool *has_alpha, bool *has_beta, double *alpha, double *beta);

// The lowering of the core op `recurrent` (op/cell.c) to one product and maps for each time step: recurrent.c.
zg_status zg__recurrent_unroll(zg_lower *x);
