// Private to graph/pass: spelled-out norms, read from a graph (norm_match.c).
#pragma once
#include "graph/core.h"

// y = source * rstd [* scale]: x is what `rms_norm` or `layer_norm` takes, axis its attribute.
typedef struct { zg_val x, scale; int64_t axis; double eps; } zg__norm;

// Is `factor` the numerator, and `variance` its mean of squares, of a norm over dims axis .. of x?
typedef bool zg__norm_source(const zg_graph *g, zg_val factor, zg_val variance, zg_val *x, int64_t *axis);

// Reads the product or quotient v; uses: zg_find_uses.
bool zg__match_norm(const zg_graph *g, const uint32_t *uses, zg_val v, zg__norm_source *source, zg__norm *out);
// v = norm + bias, with a norm (is_norm, by value) that nothing else reads.
bool zg__match_bias(const zg_graph *g, const uint32_t *uses, zg_val v, const bool *is_norm, zg_val *norm, zg_val *bias);
bool zg__is_mean(const zg_graph *g, zg_val v, zg_val *of, int64_t *axis);   // over the last dims, which stay as 1
bool zg__is_square(const zg_graph *g, zg_val v, zg_val *of);
