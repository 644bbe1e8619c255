// The op families, in the order in which they are searched. A new family adds one line here and one in meson.build.
#include "graph/core.h"

extern const zg_family zg_family_leaf;
extern const zg_family zg_family_map;
extern const zg_family zg_family_map_import;
extern const zg_family zg_family_reduce;
extern const zg_family zg_family_arg_reduce;
extern const zg_family zg_family_cumsum;
extern const zg_family zg_family_topk;
extern const zg_family zg_family_log_sum_exp;
extern const zg_family zg_family_norm2;
extern const zg_family zg_family_matmul;
extern const zg_family zg_family_reshape;
extern const zg_family zg_family_expand;
extern const zg_family zg_family_transpose;
extern const zg_family zg_family_barrier;
extern const zg_family zg_family_slice;
extern const zg_family zg_family_unslice;
extern const zg_family zg_family_concat;
extern const zg_family zg_family_triangle;
extern const zg_family zg_family_gather;
extern const zg_family zg_family_shape;
extern const zg_family zg_family_conv;
extern const zg_family zg_family_pool;
extern const zg_family zg_family_softmax;
extern const zg_family zg_family_norm;
extern const zg_family zg_family_loss;
extern const zg_family zg_family_loss_linear;
extern const zg_family zg_family_attention;
extern const zg_family zg_family_flash;
extern const zg_family zg_family_einsum;
extern const zg_family zg_family_activation;
extern const zg_family zg_family_recurrent;
extern const zg_family zg_family_dropout;
extern const zg_family zg_family_resize;
extern const zg_family zg_family_rotary;
extern const zg_family zg_family_image;
extern const zg_family zg_family_misc;
extern const zg_family zg_family_cell;
extern const zg_family zg_family_signal;
extern const zg_family zg_family_quantize;
extern const zg_family zg_family_linear_attention;
extern const zg_family zg_family_training;
extern const zg_family zg_family_detection;
extern const zg_family zg_family_text;

const zg_family *const zg_families[] = {
    &zg_family_leaf,
    &zg_family_map,
    &zg_family_map_import,
    &zg_family_reduce,
    &zg_family_arg_reduce,
    &zg_family_cumsum,
    &zg_family_topk,
    &zg_family_log_sum_exp,
    &zg_family_norm2,
    &zg_family_matmul,
    &zg_family_reshape,
    &zg_family_expand,
    &zg_family_transpose,
    &zg_family_barrier,
    &zg_family_slice,
    &zg_family_unslice,
    &zg_family_concat,
    &zg_family_triangle,
    &zg_family_gather,
    &zg_family_shape,
    &zg_family_conv,
    &zg_family_pool,
    &zg_family_softmax,
    &zg_family_norm,
    &zg_family_loss,
    &zg_family_loss_linear,
    &zg_family_attention,
    &zg_family_flash,
    &zg_family_einsum,
    &zg_family_activation,
    &zg_family_recurrent,
    &zg_family_cell,
    &zg_family_dropout,
    &zg_family_resize,
    &zg_family_rotary,
    &zg_family_image,
    &zg_family_misc,
    &zg_family_signal,
    &zg_family_quantize,
    &zg_family_linear_attention,
    &zg_family_training,
    &zg_family_detection,
    &zg_family_text,
    NULL,
};
