// Max and average pooling on oneDNN, images row-major or with their channels last. The gradient of max pooling needs to know which
// element won: the forward pass is run again into scratch, which costs less than keeping its workspace alive
// from forward to backward.
#include "cpu/dnnl_priv.h"
#include "graph/core.h"

typedef struct {
  int rank;
  zg_dtype dtype;
  dnnl_dims_t x, y, kernel, stride, dilation, pad_begin, pad_end;
  dnnl_alg_kind_t alg;
} pool;

static zg_status read_pool(const zg_kernel *k, pool *p) {
  const zg_pool_desc *d = k->desc;
  const zg_view *x = &k->args[1], *y = &k->args[k->kind == ZG_K_POOL ? 0 : 2];
  if (x->rank != (uint32_t)d->spatial + 2 || y->rank != x->rank)
    return zg_error(ZG_INVALID, "pool: arguments of rank %u and %u, want %d", x->rank, y->rank,
                    (int)d->spatial + 2);
  *p = (pool){.rank = (int)x->rank, .dtype = x->dtype};
  for (int i = 0; i < p->rank; i++) p->x[i] = x->dim[i], p->y[i] = y->dim[i];
  for (int i = 0; i < d->spatial; i++) {
    int64_t range = (d->kernel[i] - 1) * d->dilation[i] + 1;
    p->kernel[i] = d->kernel[i];
    p->stride[i] = d->stride[i];
    p->dilation[i] =
        d->kernel[i] > 1 ? d->dilation[i] - 1 : 0;  // the library refuses one larger than x, even unused
    p->pad_begin[i] = d->pad_begin[i];
    p->pad_end[i] = (y->dim[2 + i] - 1) * d->stride[i] + range - x->dim[2 + i] - d->pad_begin[i];
  }
  switch ((zg_pool_kind)d->kind) {
    case ZG_POOL_MAX: p->alg = dnnl_pooling_max; break;
    case ZG_POOL_AVG: p->alg = dnnl_pooling_avg_exclude_padding; break;
    case ZG_POOL_AVG_PAD: p->alg = dnnl_pooling_avg_include_padding; break;
  }
  return NULL;
}

static int64_t count(const pool *p, const dnnl_dims_t dim) {
  int64_t n = 1;
  for (int i = 0; i < p->rank; i++) n *= dim[i];
  return n;
}

static zg_status choose_forward(const pool *p, const dnnl_memory_desc_t *x, const dnnl_memory_desc_t *y,
                                bool training, dnnl_primitive_attr_t attr, dnnl_primitive_desc_t *out) {
  dnnl_pooling_v2_desc_t d;
  ZG_TRY(ZG_DNNL(pooling_v2_forward_desc_init, &d, training ? dnnl_forward_training : dnnl_forward_inference,
                 p->alg, x, y, p->stride, p->kernel, p->dilation, p->pad_begin, p->pad_end));
  return ZG_DNNL(primitive_desc_create, out, &d, attr, zg__dnnl.engine, NULL);
}

static zg_status choose_backward(const pool *p, const dnnl_memory_desc_t *x, const dnnl_memory_desc_t *y,
                                 dnnl_primitive_attr_t attr, dnnl_primitive_desc_t forward,
                                 dnnl_primitive_desc_t *out) {
  dnnl_pooling_v2_desc_t d;
  ZG_TRY(ZG_DNNL(pooling_v2_backward_desc_init, &d, p->alg, x, y, p->stride, p->kernel, p->dilation,
                 p->pad_begin, p->pad_end));
  return ZG_DNNL(primitive_desc_create, out, &d, attr, zg__dnnl.engine, forward);
}

static zg_status add_forward(zg_dnnl_op *op, const dnnl_memory_desc_t *x, const dnnl_memory_desc_t *y,
                             dnnl_primitive_desc_t pd) {
  int xs, ys;
  ZG_TRY(zg__dnnl_arg_slot(op, x, 1, &xs));
  ZG_TRY(zg__dnnl_arg_slot(op, y, 0, &ys));
  return zg__dnnl_add(op, pd, (zg_dnnl_arg[]){{DNNL_ARG_SRC, xs}, {DNNL_ARG_DST, ys}}, 2);
}

// Arguments: dx, x, dy.
static zg_status add_backward(zg_dnnl_op *op, const pool *p, const dnnl_memory_desc_t *x,
                              const dnnl_memory_desc_t *y, dnnl_primitive_desc_t forward,
                              dnnl_primitive_desc_t backward) {
  zg_dnnl_arg args[3] = {{DNNL_ARG_DIFF_SRC, 0}, {DNNL_ARG_DIFF_DST, 0}, {DNNL_ARG_WORKSPACE, 0}};
  ZG_TRY(zg__dnnl_arg_slot(op, x, 0, &args[0].slot));
  ZG_TRY(zg__dnnl_arg_slot(op, y, 2, &args[1].slot));
  if (p->alg != dnnl_pooling_max) return zg__dnnl_add(op, backward, args, 2);
  int xs, ys;
  ZG_TRY(zg__dnnl_arg_slot(op, x, 1, &xs));
  ZG_TRY(zg__dnnl_scratch_slot(op, y, &ys));
  const dnnl_memory_desc_t *ws = zg__dnnl.primitive_desc_query_md(forward, dnnl_query_workspace_md, 0);
  ZG_TRY(zg__dnnl_scratch_slot(op, ws, &args[2].slot));
  zg_dnnl_arg again[] = {{DNNL_ARG_SRC, xs}, {DNNL_ARG_DST, ys}, {DNNL_ARG_WORKSPACE, args[2].slot}};
  ZG_TRY(zg__dnnl_add(op, forward, again, 3));
  return zg__dnnl_add(op, backward, args, 3);
}

static void run_zero(const void *desc, void *const *args) { memset(args[0], 0, *(const uint64_t *)desc); }

zg_status zg__dnnl_pool(const zg_kernel *k, zg_dnnl_op *op) {
  pool p;
  ZG_TRY(read_pool(k, &p));
  bool grad = k->kind == ZG_K_POOL_GRAD;
  uint64_t n_out = (uint64_t)count(&p, grad ? p.x : p.y), n_bytes = n_out * zg_dtype_bytes(p.dtype);
  if (!n_out) return NULL;
  if (!count(&p, p.y)) {
    zg__dnnl_add_plain(op, run_zero, &n_bytes, sizeof n_bytes);
    return NULL;
  }
  dnnl_memory_desc_t x, y;
  bool last = true, row_major = true;
  for (uint32_t i = 0; i < k->n_args; i++) {
    last = last && zg_view_channels_last(&k->args[i]);
    row_major = row_major && zg_view_contiguous(&k->args[i]);
  }
  if (!last && !row_major) return zg_error(ZG_UNSUPPORTED, "pool: images of two layouts");
  ZG_TRY((row_major ? zg__dnnl_plain_md : zg__dnnl_last_md)(p.dtype, p.rank, p.x, &x));
  ZG_TRY((row_major ? zg__dnnl_plain_md : zg__dnnl_last_md)(p.dtype, p.rank, p.y, &y));
  dnnl_primitive_attr_t attr;
  ZG_TRY(zg__dnnl_attr(&attr));
  dnnl_primitive_desc_t forward = NULL, backward = NULL;
  zg_status status = NULL;
  ZG_TRY_OUT(choose_forward(&p, &x, &y, grad, attr, &forward));
  if (grad) {
    ZG_TRY_OUT(choose_backward(&p, &x, &y, attr, forward, &backward));
    ZG_TRY_OUT(add_backward(op, &p, &x, &y, forward, backward));
  } else {
    ZG_TRY_OUT(add_forward(op, &x, &y, forward));
  }
out:
  if (backward) zg__dnnl.primitive_desc_destroy(backward);
  if (forward) zg__dnnl.primitive_desc_destroy(forward);
  zg__dnnl.primitive_attr_destroy(attr);
  return status;
}
