// Matrix products on oneDNN: C = epilogue(alpha A B + bias + beta C), any strides.
//
// - Batch dimensions are dropped (size 1), merged with their neighbour, and, where B does not depend on them,
//   folded into M: the library is fastest with few of them and with few large products.
// - A column-major C is the transposed problem: C' = B' A'.
// - Its newer code (brgemm) wants dense operands and leaves others to the older one (gemm), whose kernels it generates
//   all at once when the first of them runs: 80 ms and 6 MiB. So small operands with gaps between their rows are packed.
// - The library's fast code wants stride 1 in one of the last two dimensions of A and B and in the last of C;
//   for anything else it falls to a loop a thousand times slower (0.3 GFLOP/s where 200 are normal). Operands
//   that are not so are packed into scratch first; and if the library still says "ref" for an odd mixture of
//   layouts, all of them are.
#include "cpu/dnnl_priv.h"
#include <math.h>

enum { A, B, C, N_OPERANDS, MAX_BATCH = ZG_MAX_RANK - 2 };
static const int arg_of[N_OPERANDS] = {[C] = 0, [A] = 1, [B] = 2};
enum { BIAS_ARG = 3 };

// One operand: rows x cols under the batch dims; batch stride 0 broadcasts.
typedef struct {
  zg_dtype dtype;
  int64_t rows, cols, rs, cs, batch[MAX_BATCH];
} operand;
typedef struct {
  operand o[N_OPERANDS];
  int n_batch;
  int64_t batch[MAX_BATCH], m, n, k;
  float alpha, beta;
  bool has_bias;
  int64_t epilogue, bias_stride;
  zg_dtype bias_dtype;
} problem;

static zg_status read_operand(const zg_view *v, const zg_view *c, int64_t rows, int64_t cols,
                              const char *name, operand *out) {
  uint32_t r = v->rank;
  if (r != c->rank || r < 2 || v->dim[r - 2] != rows || v->dim[r - 1] != cols)
    return zg_error(ZG_INVALID, "matmul: operand %s is not [..., %lld, %lld] with the result's rank", name,
                    (long long)rows, (long long)cols);
  *out = (operand){v->dtype, rows, cols, v->stride[r - 2], v->stride[r - 1], {0}};
  for (uint32_t i = 0; i + 2 < r; i++) {
    if (v->dim[i] != c->dim[i] && v->dim[i] != 1)
      return zg_error(ZG_INVALID, "matmul: batch dimension %u of operand %s is %lld, of the result %lld", i,
                      name, (long long)v->dim[i], (long long)c->dim[i]);
    out->batch[i] = v->dim[i] == 1 ? 0 : v->stride[i];
  }
  return NULL;
}

static zg_status read_problem(const zg_kernel *k, problem *p) {
  const zg_matmul_desc *d = k->desc;
  const zg_view *c = &k->args[0];
  *p = (problem){.m = d->m,
                 .n = d->n,
                 .k = d->k,
                 .alpha = (float)d->alpha,
                 .beta = (float)d->beta,
                 .epilogue = d->epilogue};
  ZG_TRY(read_operand(c, c, p->m, p->n, "C", &p->o[C]));
  ZG_TRY(read_operand(&k->args[1], c, p->m, p->k, "A", &p->o[A]));
  ZG_TRY(read_operand(&k->args[2], c, p->k, p->n, "B", &p->o[B]));
  p->n_batch = (int)c->rank - 2;
  for (int i = 0; i < p->n_batch; i++) p->batch[i] = c->dim[i];
  p->has_bias = d->epilogue != ZG_EPI_NONE;
  if (p->has_bias) {
    if (k->n_args < 4)
      return zg_error(ZG_INVALID, "matmul: its epilogue adds a bias, but it has %u arguments", k->n_args);
    const zg_view *b = &k->args[BIAS_ARG];
    p->bias_dtype = b->dtype;
    p->bias_stride = b->rank && b->dim[b->rank - 1] > 1 ? b->stride[b->rank - 1] : 1;
  }
  zg_dtype a = p->o[A].dtype;
  if (a != p->o[B].dtype || (a == ZG_F32 && p->o[C].dtype != ZG_F32))
    return zg_error(ZG_UNSUPPORTED, "oneDNN matmul: %s x %s -> %s", zg_dtype_name(a),
                    zg_dtype_name(p->o[B].dtype), zg_dtype_name(p->o[C].dtype));
  return NULL;
}

// ---- shape work -----------------------------------------------------------------------------------------

static void drop_batch(problem *p, int i) {
  p->n_batch--;
  for (int j = i; j < p->n_batch; j++) {
    p->batch[j] = p->batch[j + 1];
    for (int o = 0; o < N_OPERANDS; o++) p->o[o].batch[j] = p->o[o].batch[j + 1];
  }
}

static bool mergeable(const problem *p, int i) {
  for (int o = 0; o < N_OPERANDS; o++)
    if (p->o[o].batch[i] != p->o[o].batch[i + 1] * p->batch[i + 1]) return false;
  return true;
}

static void simplify(problem *p) {
  for (int i = p->n_batch; i-- > 0;)
    if (p->batch[i] == 1) drop_batch(p, i);
  for (int i = p->n_batch - 1; i-- > 0;)
    if (mergeable(p, i)) {
      p->batch[i + 1] *= p->batch[i];
      drop_batch(p, i);
    }
  while (p->n_batch) {
    int i = p->n_batch - 1;
    if (p->o[B].batch[i] || p->o[A].batch[i] != p->o[A].rs * p->m || p->o[C].batch[i] != p->o[C].rs * p->m)
      break;
    p->m *= p->batch[i];
    p->o[A].rows = p->o[C].rows = p->m;
    drop_batch(p, i);
  }
}

// A stride of a dimension of size 1 says nothing: make it what a dense matrix would have.
static void tidy(operand *o) {
  if (o->cols == 1) o->cs = 1;
  if (o->rows == 1) o->rs = o->cs == 1 ? o->cols : 1;
}

static void transpose(operand *o) {
  operand was = *o;
  o->rows = was.cols, o->cols = was.rows, o->rs = was.cs, o->cs = was.rs;
}

static void transpose_problem(problem *p) {
  operand a = p->o[A];
  p->o[A] = p->o[B];
  p->o[B] = a;
  for (int i = 0; i < N_OPERANDS; i++) transpose(&p->o[i]);
  int64_t m = p->m;
  p->m = p->n;
  p->n = m;
}

static bool row_major(const operand *o) { return o->cs == 1 && o->rs >= o->cols; }
static bool column_major(const operand *o) { return o->rs == 1 && o->cs >= o->rows; }

// The library takes the result's batch dimensions from the operands: where both broadcast, A is packed at
// full size.
static bool broadcast_by_both(const problem *p, int i) { return !p->o[A].batch[i] && !p->o[B].batch[i]; }

enum { SMALL_ELEMS = 1 << 16 };
static bool small_with_gaps(const problem *p, int which) {
  const operand *o = &p->o[which];
  if (p->n_batch || o->rows * o->cols > SMALL_ELEMS) return false;
  return row_major(o) ? o->rows > 1 && o->rs != o->cols : o->cols > 1 && o->cs != o->rows;
}

static bool fits(const problem *p, int which) {
  const operand *o = &p->o[which];
  for (int i = 0; i < p->n_batch; i++)
    if (o->batch[i] < 0 || (which == A && broadcast_by_both(p, i))) return false;
  if (which != C && small_with_gaps(p, which)) return false;
  return row_major(o) || (which != C && column_major(o));
}

// ---- degenerate: nothing to sum -------------------------------------------------------------------------

typedef struct {
  problem p;
} plain_desc;

static double activate(int64_t epilogue, double x) {
  switch ((zg_epilogue)epilogue) {
    case ZG_EPI_NONE:
    case ZG_EPI_BIAS: return x;
    case ZG_EPI_BIAS_RELU: return x > 0 ? x : 0;
    case ZG_EPI_BIAS_GELU: return 0.5 * x * (1 + erf(x * 0.70710678118654752));
    case ZG_EPI_BIAS_GELU_TANH: return 0.5 * x * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
  }
  return x;
}

// K = 0 or alpha = 0: C = epilogue(bias + beta C).
static void run_without_product(const void *desc, void *const *args) {
  const problem *p = &((const plain_desc *)desc)->p;
  const operand *c = &p->o[C];
  int64_t n_batch = 1;
  for (int i = 0; i < p->n_batch; i++) n_batch *= p->batch[i];
  for (int64_t b = 0; b < n_batch; b++) {
    int64_t at = 0, rest = b;
    for (int i = p->n_batch; i-- > 0; rest /= p->batch[i]) at += rest % p->batch[i] * c->batch[i];
    for (int64_t m = 0; m < p->m; m++)
      for (int64_t n = 0; n < p->n; n++) {
        int64_t e = at + m * c->rs + n * c->cs;
        double x = p->has_bias ? zg_get_f64(p->bias_dtype, args[BIAS_ARG], n * p->bias_stride) : 0;
        if (p->beta != 0) x += (double)p->beta * zg_get_f64(c->dtype, args[0], e);
        zg_set_f64(c->dtype, args[0], e, activate(p->epilogue, x));
      }
  }
}

// ---- building -------------------------------------------------------------------------------------------

static int dims_of(const problem *p, int which, dnnl_dims_t dim, dnnl_dims_t stride) {
  const operand *o = &p->o[which];
  int64_t extent =
      ZG_MAX(o->rs * o->rows, o->cs * o->cols);  // a sane stride for broadcast dims, which have size 1
  for (int i = 0; i < p->n_batch; i++) {
    bool spread = which == A && broadcast_by_both(p, i);
    dim[i] = o->batch[i] || spread ? p->batch[i] : 1;
    stride[i] = o->batch[i] || spread ? o->batch[i] : extent;
  }
  dim[p->n_batch] = o->rows, stride[p->n_batch] = o->rs;
  dim[p->n_batch + 1] = o->cols, stride[p->n_batch + 1] = o->cs;
  return p->n_batch + 2;
}

static zg_status user_md(const problem *p, int which, dnnl_memory_desc_t *md) {
  dnnl_dims_t dim = {0}, stride = {0};
  int rank = dims_of(p, which, dim, stride);
  dnnl_data_type_t dtype;
  ZG_TRY(zg__dnnl_dtype(p->o[which].dtype, &dtype));
  return ZG_DNNL(memory_desc_init_by_strides, md, rank, dim, dtype, stride);
}

static bool has_only_positive_strides(const problem *p, int which) {
  const operand *o = &p->o[which];
  for (int i = 0; i < p->n_batch; i++)
    if (o->batch[i] < 0 || (which == A && broadcast_by_both(p, i))) return false;
  return o->rs > 0 && o->cs > 0;
}

// Reads argument `arg` into `slot`, which is dense: by the library's reorder where it takes the strides, else
// by a plain copy (strides 0 where the tensor was expanded, negative where it was reversed, overlapping where
// it is a sliding window).
static zg_status pack(zg_dnnl_op *op, const problem *p, int which, int arg, int slot) {
  dnnl_memory_desc_t md;
  if (has_only_positive_strides(p, which)) {
    zg_status s = user_md(p, which, &md);
    if (!s) {
      int from;
      ZG_TRY(zg__dnnl_arg_slot(op, &md, arg, &from));
      return zg__dnnl_add_reorder(op, from, slot);
    }
    zg_status_free(s);
  }
  dnnl_dims_t dim = {0}, stride = {0};
  zg_dnnl_copy c = {.rank = dims_of(p, which, dim, stride), .dtype = p->o[which].dtype, .divisor = 1};
  int64_t n = 1;
  for (int i = c.rank; i-- > 0;) {
    c.dim[i] = dim[i], c.from[i] = stride[i], c.to[i] = n;
    n *= dim[i];
  }
  return zg__dnnl_add_copy(op, &c, arg, slot);
}

static zg_status operand_slot(zg_dnnl_op *op, const problem *p, int which, int arg, bool packed, int *out) {
  dnnl_memory_desc_t md;
  if (!packed) {
    ZG_TRY(user_md(p, which, &md));
    return zg__dnnl_arg_slot(op, &md, arg, out);
  }
  dnnl_dims_t dim = {0}, stride = {0};
  int rank = dims_of(p, which, dim, stride);
  ZG_TRY(zg__dnnl_plain_md(p->o[which].dtype, rank, dim, &md));
  ZG_TRY(zg__dnnl_scratch_slot(op, &md, out));
  return which == C && p->beta == 0 ? NULL : pack(op, p, which, arg, *out);
}

// The bias as a row: [1, .., 1, N]. The library computes alpha (A B + bias), so with alpha the row is packed
// divided by it. (A binary post-op would do as well, but version 2.6.3 crashes in its gemm code where that
// meets a sum and bf16.)
static zg_status bias_slot(zg_dnnl_op *op, const problem *p, int *out) {
  bool scaled = p->alpha != 1;
  dnnl_dims_t dim;
  for (int i = 0; i < p->n_batch + 1; i++) dim[i] = 1;
  dim[p->n_batch + 1] = p->n;
  dnnl_memory_desc_t md;
  ZG_TRY(zg__dnnl_plain_md(scaled ? ZG_F32 : p->bias_dtype, p->n_batch + 2, dim, &md));
  if (p->bias_stride == 1 && !scaled) return zg__dnnl_arg_slot(op, &md, BIAS_ARG, out);
  ZG_TRY(zg__dnnl_scratch_slot(op, &md, out));
  zg_dnnl_copy c = {.rank = 1,
                    .dtype = p->bias_dtype,
                    .divisor = p->alpha,
                    .dim = {p->n},
                    .from = {p->bias_stride},
                    .to = {1}};
  return zg__dnnl_add_copy(op, &c, BIAS_ARG, *out);
}

static zg_status append_post_ops(const problem *p, dnnl_post_ops_t ops) {
  if (p->beta != 0) ZG_TRY(ZG_DNNL(post_ops_append_sum, ops, p->beta));
  dnnl_alg_kind_t kind = dnnl_alg_kind_undef;
  switch ((zg_epilogue)p->epilogue) {
    case ZG_EPI_NONE:
    case ZG_EPI_BIAS: return NULL;
    case ZG_EPI_BIAS_GELU: kind = dnnl_eltwise_gelu_erf; break;
    case ZG_EPI_BIAS_GELU_TANH: kind = dnnl_eltwise_gelu_tanh; break;
    case ZG_EPI_BIAS_RELU: kind = dnnl_eltwise_relu; break;
  }
  return ZG_DNNL(post_ops_append_eltwise, ops, 1.0f, kind, 0.0f, 0.0f);
}

static zg_status make_attr(const problem *p, dnnl_primitive_attr_t *out) {
  ZG_TRY(zg__dnnl_attr(out));
  dnnl_post_ops_t ops = NULL;
  zg_status status = NULL;
  ZG_TRY_OUT(ZG_DNNL(post_ops_create, &ops));
  ZG_TRY_OUT(append_post_ops(p, ops));
  ZG_TRY_OUT(ZG_DNNL(primitive_attr_set_post_ops, *out, ops));
  if (p->alpha != 1) ZG_TRY_OUT(ZG_DNNL(primitive_attr_set_output_scales, *out, 1, 0, &p->alpha));
out:
  if (ops) zg__dnnl.post_ops_destroy(ops);
  if (status) {
    zg__dnnl.primitive_attr_destroy(*out);
    *out = NULL;
  }
  return status;
}

// Adds the product over prepared slots; *out_ref: the library has only its reference loop for it.
static zg_status add_product(zg_dnnl_op *op, const problem *p, const int slot[N_OPERANDS], int bias,
                             bool *out_ref) {
  dnnl_primitive_attr_t attr = NULL;
  dnnl_primitive_desc_t pd = NULL;
  const dnnl_memory_desc_t *bias_md = p->has_bias ? &op->slots[bias].md : NULL;
  zg_status status = make_attr(p, &attr);
  if (status) return status;
  dnnl_matmul_desc_t d;
  ZG_TRY_OUT(ZG_DNNL(matmul_desc_init, &d, &op->slots[slot[A]].md, &op->slots[slot[B]].md, bias_md,
                     &op->slots[slot[C]].md));
  ZG_TRY_OUT(ZG_DNNL(primitive_desc_create, &pd, &d, attr, zg__dnnl.engine, NULL));
  const char *impl = "";
  ZG_TRY_OUT(ZG_DNNL(primitive_desc_query, pd, dnnl_query_impl_info_str, 0, &impl));
  *out_ref = !strncmp(impl, "ref", 3);
  zg_dnnl_arg args[] = {
      {DNNL_ARG_SRC, slot[A]}, {DNNL_ARG_WEIGHTS, slot[B]}, {DNNL_ARG_DST, slot[C]}, {DNNL_ARG_BIAS, bias}};
  ZG_TRY_OUT(zg__dnnl_add(op, pd, args, p->has_bias ? 4 : 3));
out:
  if (pd) zg__dnnl.primitive_desc_destroy(pd);
  zg__dnnl.primitive_attr_destroy(attr);
  return status;
}

static zg_status build(const problem *p, const int arg[N_OPERANDS], const bool packed[N_OPERANDS],
                       int threads, zg_dnnl_op **out, bool *out_ref) {
  zg_dnnl_op *op;
  ZG_TRY(zg__dnnl_op_new(threads, &op));
  zg_status status = NULL;
  int slot[N_OPERANDS], bias = 0, back;
  for (int i = 0; i < N_OPERANDS; i++) ZG_TRY_OUT(operand_slot(op, p, i, arg[i], packed[i], &slot[i]));
  if (p->has_bias) ZG_TRY_OUT(bias_slot(op, p, &bias));
  ZG_TRY_OUT(add_product(op, p, slot, bias, out_ref));
  if (packed[C]) {
    dnnl_memory_desc_t md;
    ZG_TRY_OUT(user_md(p, C, &md));
    ZG_TRY_OUT(zg__dnnl_arg_slot(op, &md, arg[C], &back));
    ZG_TRY_OUT(zg__dnnl_add_reorder(op, slot[C], back));
  }
out:
  if (status) zg_dnnl_free(op);
  *out = status ? NULL : op;
  return status;
}

static bool is_empty(const problem *p) {
  int64_t n = p->m * p->n;
  for (int i = 0; i < p->n_batch; i++) n *= p->batch[i];
  return n == 0;
}

zg_status zg__dnnl_matmul(const zg_kernel *k, int threads, zg_dnnl_op **out) {
  *out = NULL;
  plain_desc plain;
  problem *p = &plain.p;
  ZG_TRY(read_problem(k, p));
  if (is_empty(p)) return zg__dnnl_op_new(threads, out);
  if (p->k == 0 || p->alpha == 0) {
    ZG_TRY(zg__dnnl_op_new(threads, out));
    zg__dnnl_add_plain(*out, run_without_product, &plain, sizeof plain);
    return NULL;
  }
  simplify(p);
  int arg[N_OPERANDS] = {[A] = arg_of[A], [B] = arg_of[B], [C] = arg_of[C]};
  for (int i = 0; i < N_OPERANDS; i++) tidy(&p->o[i]);
  if (!p->has_bias && !row_major(&p->o[C]) && column_major(&p->o[C])) {
    transpose_problem(p);
    arg[A] = arg_of[B], arg[B] = arg_of[A];
  }
  bool packed[N_OPERANDS];
  for (int i = 0; i < N_OPERANDS; i++) packed[i] = !fits(p, i);
  bool ref = false;
  zg_status first = build(p, arg, packed, threads, out, &ref);
  if ((!first && !ref) || (packed[A] && packed[B] && packed[C])) return first;
  zg_dnnl_op *dense;
  zg_status second = build(p, arg, (bool[]){true, true, true}, threads, &dense, &ref);
  if (second || (ref && *out)) {  // no better: what there is, if it is, needs less scratch
    zg_status_free(second);
    zg_dnnl_free(dense);
    return first;
  }
  zg_status_free(first);
  zg_dnnl_free(*out);
  *out = dense;
  return NULL;
}
