// Convolution and its two gradients on oneDNN. Images with their channels last (NHWC) are taken as they are, for
// the library is as fast in that layout as in its own blocked ones (resnet18's convolutions, 32x3x32x32, f32, 2
// cores: 472 ms a step against 466; row-major 853). For row-major ones (NCHW), and for weights (OIHW), it picks
// the layouts that it likes best, and reorders into scratch stand between.
//
// 3x3 windows of stride 1 go by Winograd's algorithm where it is faster, on machines for which the library has it
// (AVX-512): tiles of 6x6 inputs give 4x4 outputs by 36 multiplications a channel pair in place of 144 (Lavin and
// Gray 2016, F(4x4, 3x3)). Its sums are as long and its error about that of the direct ones (relative to double,
// resnet18's shapes: 0.5e-6 to 1.2e-6 against 0.2e-6 to 1.0e-6). ZG_WINOGRAD=off leaves it out.
#include <stdlib.h>
#include "cpu/dnnl_priv.h"

enum { X, W, Y, N_TENSORS };

typedef struct {
  zg_dtype dtype[N_TENSORS];
  int rank[N_TENSORS];
  bool last[N_TENSORS];        // channels last
  dnnl_dims_t dim[N_TENSORS];  // w: [g, O/g, C/g, k..] where g > 1
  dnnl_dims_t stride, dilation, pad_begin, pad_end;
  bool has_bias;
  zg_dtype bias_dtype;
  int64_t n_out;  // O
} conv;

// Position of x, w, y among each kind's arguments.
static const int position[3][N_TENSORS] = {{1, 2, 0}, {0, 2, 1}, {1, 0, 2}};
static int kind_of(const zg_kernel *k) {
  return k->kind == ZG_K_CONV ? 0 : k->kind == ZG_K_CONV_GRAD_X ? 1 : 2;
}

static zg_status read_conv(const zg_kernel *k, conv *c) {
  const zg_conv_desc *d = k->desc;
  const int *at = position[kind_of(k)];
  *c = (conv){0};
  for (int t = 0; t < N_TENSORS; t++) {
    const zg_view *v = &k->args[at[t]];
    if (v->rank != (uint32_t)d->spatial + 2)
      return zg_error(ZG_INVALID, "conv: argument %d has rank %u, want %d", at[t], v->rank,
                      (int)d->spatial + 2);
    c->dtype[t] = v->dtype;
    c->rank[t] = (int)v->rank;
    c->last[t] = t != W && zg_view_channels_last(v);
    for (uint32_t i = 0; i < v->rank; i++) c->dim[t][i] = v->dim[i];
  }
  c->n_out = c->dim[W][0];
  for (int i = 0; i < d->spatial; i++) {
    int64_t range = (c->dim[W][2 + i] - 1) * d->dilation[i] + 1;
    c->stride[i] = d->stride[i];
    c->dilation[i] = d->dilation[i] - 1;  // the library counts from 0
    c->pad_begin[i] = d->pad_begin[i];
    // What makes the last window end exactly where it ends: less than the declared padding where a stride
    // skips the rest.
    c->pad_end[i] = (c->dim[Y][2 + i] - 1) * d->stride[i] + range - c->dim[X][2 + i] - d->pad_begin[i];
  }
  if (d->group > 1) {
    int64_t w[] = {d->group, c->dim[W][0] / d->group};
    for (int i = c->rank[W]; i > 1; i--) c->dim[W][i] = c->dim[W][i - 1];
    c->dim[W][0] = w[0];
    c->dim[W][1] = w[1];
    c->rank[W]++;
  }
  c->has_bias = k->kind == ZG_K_CONV && k->n_args > 3;
  if (c->has_bias) c->bias_dtype = k->args[3].dtype;
  return NULL;
}

static int64_t count(const conv *c, int t) {
  int64_t n = 1;
  for (int i = 0; i < c->rank[t]; i++) n *= c->dim[t][i];
  return n;
}

// Whether Winograd's algorithm is likely to be faster: both sides in floating-point operations, a byte that the
// transforms move counted as 4 (measured on 2 cores: 200 GFLOP/s, 35 to 60 GB/s from the near caches). The
// transforms move the tiles of x and y and the weights about three times, the reorders x and y twice.
static bool winograd_pays(const conv *c, int kind) {
  enum { TILE = 4, POINTS = 36, FLOPS_A_BYTE = 4 };
  const double min_flops = 1e7;  // below, the waking of threads for its several phases is what counts
  const char *want = getenv("ZG_WINOGRAD");
  if (want && strcmp(want, "off") == 0) return false;
  if (c->rank[X] != 4 || c->rank[W] != 4) return false;  // 2-d, one group
  for (int t = 0; t < N_TENSORS; t++)
    if (c->dtype[t] != ZG_F32) return false;
  for (int i = 0; i < 2; i++)
    if (c->dim[W][2 + i] != 3 || c->stride[i] != 1 || c->dilation[i] != 0) return false;
  const int64_t *out = c->dim[kind == 1 ? X : Y];
  const double C = (double)c->dim[X][1], O = (double)c->dim[Y][1];
  const double tiles = (double)(out[0] * ((out[2] + TILE - 1) / TILE) * ((out[3] + TILE - 1) / TILE));
  const double direct = 18 * (double)(out[0] * out[2] * out[3]) * C * O;
  const double moved = 4.0 * (3 * POINTS * (tiles * (C + O) + C * O) + 2 * (double)(count(c, X) + count(c, Y)));
  return direct >= min_flops && 2 * POINTS * tiles * C * O + FLOPS_A_BYTE * moved < 0.9 * direct;
}

static zg_status describe(const conv *c, int kind, dnnl_alg_kind_t alg, const dnnl_memory_desc_t any[N_TENSORS],
                          const dnnl_memory_desc_t *bias, dnnl_convolution_desc_t *d) {
  switch (kind) {
    case 1:
      return ZG_DNNL(dilated_convolution_backward_data_desc_init, d, alg, &any[X],
                     &any[W], &any[Y], c->stride, c->dilation, c->pad_begin, c->pad_end);
    case 2:
      return ZG_DNNL(dilated_convolution_backward_weights_desc_init, d, alg, &any[X],
                     &any[W], NULL, &any[Y], c->stride, c->dilation, c->pad_begin, c->pad_end);
    default:
      return ZG_DNNL(dilated_convolution_forward_desc_init, d, dnnl_forward_training, alg,
                     &any[X], &any[W], bias, &any[Y], c->stride, c->dilation, c->pad_begin, c->pad_end);
  }
}

// The chosen primitive; gradients need the forward one as a hint while they are made.
static zg_status choose(const conv *c, int kind, dnnl_alg_kind_t alg, const dnnl_memory_desc_t any[N_TENSORS],
                        const dnnl_memory_desc_t *bias, dnnl_primitive_desc_t *out) {
  dnnl_primitive_attr_t attr;
  ZG_TRY(zg__dnnl_attr(&attr));
  dnnl_primitive_desc_t forward = NULL;
  dnnl_convolution_desc_t d;
  zg_status status = NULL;
  ZG_TRY_OUT(describe(c, 0, alg, any, bias, &d));
  ZG_TRY_OUT(ZG_DNNL(primitive_desc_create, &forward, &d, attr, zg__dnnl.engine, NULL));
  if (kind == 0) {
    *out = forward;
    forward = NULL;
  } else {
    ZG_TRY_OUT(describe(c, kind, alg, any, NULL, &d));
    ZG_TRY_OUT(ZG_DNNL(primitive_desc_create, out, &d, attr, zg__dnnl.engine, forward));
  }
out:
  if (forward) zg__dnnl.primitive_desc_destroy(forward);
  zg__dnnl.primitive_attr_destroy(attr);
  return status;
}

// Per kind: what the library calls x, w, y as arguments and in queries (index 0 everywhere), and which is the
// output.
static const struct {
  int arg[N_TENSORS];
  dnnl_query_t md[N_TENSORS];
  int output;
} roles[3] = {
    {{DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST},
     {dnnl_query_src_md, dnnl_query_weights_md, dnnl_query_dst_md},
     Y},
    {{DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST},
     {dnnl_query_diff_src_md, dnnl_query_weights_md, dnnl_query_diff_dst_md},
     X},
    {{DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST},
     {dnnl_query_src_md, dnnl_query_diff_weights_md, dnnl_query_diff_dst_md},
     W},
};

static zg_status chain(zg_dnnl_op *op, const conv *c, int kind, dnnl_primitive_desc_t pd,
                       const dnnl_memory_desc_t plain[N_TENSORS], const dnnl_memory_desc_t *bias) {
  const int *at = position[kind];
  int output = roles[kind].output;
  zg_dnnl_arg args[N_TENSORS + 1];
  for (int t = 0; t < N_TENSORS; t++) {
    const dnnl_memory_desc_t *want = zg__dnnl.primitive_desc_query_md(pd, roles[kind].md[t], 0);
    args[t].dnnl_arg = roles[kind].arg[t];
    if (t == output) ZG_TRY(zg__dnnl_output(op, at[t], &plain[t], want, &args[t].slot));
    else ZG_TRY(zg__dnnl_input(op, at[t], &plain[t], want, &args[t].slot));
  }
  args[N_TENSORS].dnnl_arg = DNNL_ARG_BIAS;
  if (c->has_bias) ZG_TRY(zg__dnnl_arg_slot(op, bias, 3, &args[N_TENSORS].slot));
  ZG_TRY(zg__dnnl_add(op, pd, args, N_TENSORS + c->has_bias));
  return zg__dnnl_finish(op, at[output], &plain[output], args[output].slot);
}

static void run_zero(const void *desc, void *const *args) { memset(args[0], 0, *(const uint64_t *)desc); }

// The convolution by Winograd's algorithm, in the layouts that it wants, or else the direct one.
static zg_status choose_algorithm(const conv *c, int kind, const dnnl_memory_desc_t *bias, dnnl_primitive_desc_t *out) {
  dnnl_memory_desc_t any[N_TENSORS];
  if (winograd_pays(c, kind)) {
    for (int t = 0; t < N_TENSORS; t++) ZG_TRY(zg__dnnl_any_md(c->dtype[t], c->rank[t], c->dim[t], &any[t]));
    zg_status status = choose(c, kind, dnnl_convolution_winograd, any, bias, out);
    if (!status || zg_status_code(status) != ZG_UNSUPPORTED) return status;
    zg_status_free(status);
  }
  for (int t = 0; t < N_TENSORS; t++) {
    const bool last = t != W && (c->last[X] || c->last[Y]);  // of two layouts the library has only its reference loop
    ZG_TRY((last ? zg__dnnl_last_md : zg__dnnl_any_md)(c->dtype[t], c->rank[t], c->dim[t], &any[t]));
  }
  return choose(c, kind, dnnl_convolution_direct, any, bias, out);
}

zg_status zg__dnnl_conv(const zg_kernel *k, zg_dnnl_op *op) {
  conv c;
  ZG_TRY(read_conv(k, &c));
  int kind = kind_of(k), output = roles[kind].output;
  if (count(&c, output) == 0) return NULL;
  if (count(&c, X) == 0 || count(&c, W) == 0 || count(&c, Y) == 0) {  // nothing to sum
    if (c.has_bias) return zg_error(ZG_UNSUPPORTED, "conv: no elements to sum, only a bias");
    uint64_t n_bytes = (uint64_t)count(&c, output) * zg_dtype_bytes(c.dtype[output]);
    zg__dnnl_add_plain(op, run_zero, &n_bytes, sizeof n_bytes);
    return NULL;
  }
  dnnl_memory_desc_t plain[N_TENSORS], bias = {0};
  for (int t = 0; t < N_TENSORS; t++)
    ZG_TRY((c.last[t] ? zg__dnnl_last_md : zg__dnnl_plain_md)(c.dtype[t], c.rank[t], c.dim[t], &plain[t]));
  if (c.has_bias) ZG_TRY(zg__dnnl_plain_md(c.bias_dtype, 1, &c.n_out, &bias));
  dnnl_primitive_desc_t pd = NULL;
  ZG_TRY(choose_algorithm(&c, kind, c.has_bias ? &bias : NULL, &pd));
  zg_status status = chain(op, &c, kind, pd, plain, &bias);
  zg__dnnl.primitive_desc_destroy(pd);
  return status;
}
