// Matmul through cuBLASLt. The library thinks in columns: a matrix is (rows, cols, ld) with element (r, c) at
// r + c ld. Row-major C = A B is its C' = B' A'; any of the three whose rows are not contiguous but whose
// columns are is given transposed.
//   batch dims   those of size 1 vanish, neighbours that all operands step through as one are merged; what is
//   left may be one strided
//                batch, and one more dim over which calls repeat
//   algorithm    of the library's proposals for these shapes, strides and alignments the fastest (blas_search.h)
#include "cuda/blas.h"
#include "cuda/blas_search.h"

#include <stdlib.h>

enum { MAX_OUTER = 64 };

typedef struct {
  int64_t rows, cols, ld;
  bool transposed;
} matrix;  // as stored; transposed: the operand is its transpose

// The operand of `rows` x `cols` whose element (r, c) is at r sr + c sc, as a column-major matrix or the
// transpose of one.
static bool as_matrix(int64_t rows, int64_t cols, int64_t sr, int64_t sc, matrix *out) {
  if ((sr == 1 || rows == 1) && (cols == 1 || sc >= rows)) {
    *out = (matrix){rows, cols, cols == 1 ? rows : sc, false};
    return true;
  }
  if ((sc == 1 || cols == 1) && (rows == 1 || sr >= cols)) {
    *out = (matrix){cols, rows, rows == 1 ? cols : sr, true};
    return true;
  }
  return false;
}

static bool types_of(zg_dtype t, int *type, int *compute, int *scale) {
  static const struct {
    bool valid;
    int type, compute, scale;
  } rows[ZG_N_DTYPES] = {
      [ZG_F32] = {true, ZG_LT_R_32F, ZG_LT_COMPUTE_32F, ZG_LT_R_32F},
      [ZG_F64] = {true, ZG_LT_R_64F, ZG_LT_COMPUTE_64F, ZG_LT_R_64F},
      [ZG_F16] = {true, ZG_LT_R_16F, ZG_LT_COMPUTE_32F, ZG_LT_R_32F},
      [ZG_BF16] = {true, ZG_LT_R_16BF, ZG_LT_COMPUTE_32F, ZG_LT_R_32F},
  };
  *type = rows[t].type, *compute = rows[t].compute, *scale = rows[t].scale;
  return rows[t].valid;
}

// ---- batches
// --------------------------------------------------------------------------------------------------------------
typedef struct {
  uint32_t n;
  int64_t dim[ZG_MAX_RANK], stride[3][ZG_MAX_RANK];
} batch;

static batch batch_of(const zg_kernel *k) {
  batch b = {0};
  for (uint32_t r = 0; r + 2 < k->args[0].rank; r++) {
    const int64_t n = k->args[0].dim[r];
    if (n == 1) continue;
    bool merge = b.n > 0;
    for (uint32_t i = 0; i < 3 && merge; i++) merge = b.stride[i][b.n - 1] == k->args[i].stride[r] * n;
    const uint32_t to = merge ? b.n - 1 : b.n++;
    b.dim[to] = (merge ? b.dim[to] : 1) * n;
    for (uint32_t i = 0; i < 3; i++) b.stride[i][to] = k->args[i].stride[r];
  }
  return b;
}

// ---- descriptors
// ----------------------------------------------------------------------------------------------------------
static zg_status set_layout(zg_lt_layout *out, int type, const matrix *m, int64_t count, int64_t step) {
  const int32_t n = (int32_t)count;
  ZG_TRY(ZG_LT(cublasLtMatrixLayoutCreate, out, type, (uint64_t)m->rows, (uint64_t)m->cols, m->ld));
  if (count == 1) return NULL;
  ZG_TRY(ZG_LT(cublasLtMatrixLayoutSetAttribute, *out, ZG_LT_LAYOUT_BATCH_COUNT, &n, sizeof n));
  return ZG_LT(cublasLtMatrixLayoutSetAttribute, *out, ZG_LT_LAYOUT_BATCH_OFFSET, &step, sizeof step);
}

// Largest power of two up to ZG_BUF_ALIGN that divides every address of an operand.
static uint32_t alignment(const zg_kernel *k, uint32_t arg, const batch *b) {
  const uint64_t size = zg_dtype_bytes(k->args[arg].dtype);
  uint64_t all = ZG_BUF_ALIGN | (uint64_t)k->args[arg].offset * size;
  for (uint32_t d = 0; d < b->n; d++) all |= (uint64_t)b->stride[arg][d] * size;
  return (uint32_t)(all & -all);
}

static zg_status choose_algorithm(zg_lt_handle lt, const zg_kernel *k, const batch *b, zg__search *search, zg__product *p) {
  const uint64_t workspace = ZG__BLAS_WORKSPACE;
  const uint32_t args[4] = {p->arg_a, p->arg_b, 0, 0};
  zg_lt_preference pref = NULL;
  zg_lt_heuristic found[ZG__SEARCH_MAX] = {{{{0}}}};
  zg_status status = NULL;
  int n = 0;
  ZG_TRY(ZG_LT(cublasLtMatmulPreferenceCreate, &pref));
  ZG_TRY_OUT(
      ZG_LT(cublasLtMatmulPreferenceSetAttribute, pref, ZG_LT_PREF_WORKSPACE, &workspace, sizeof workspace));
  for (int i = 0; i < 4; i++) {
    const uint32_t align = alignment(k, args[i], b);
    ZG_TRY_OUT(
        ZG_LT(cublasLtMatmulPreferenceSetAttribute, pref, ZG_LT_PREF_ALIGN_A + i, &align, sizeof align));
  }
  ZG_TRY_OUT(ZG_LT(cublasLtMatmulAlgoGetHeuristic, lt, p->desc, p->a, p->b, p->c, p->c, pref, ZG__SEARCH_MAX, found, &n));
  int good = 0;
  for (int i = 0; i < n; i++)
    if (!found[i].state) found[good++] = found[i];
  if (!good) status = zg_error(ZG_UNSUPPORTED, "%s: cuBLASLt has no algorithm", k->label);
  else status = zg__product_search(search, lt, k, found, good, p);
out:
  zg__lt.cublasLtMatmulPreferenceDestroy(pref);
  return status;
}

// The operands in the library's order: column-major C, or its transpose with A and B swapped.
typedef struct {
  matrix a, b, c;
  uint32_t arg_a, arg_b;
} operands;

static bool order_operands(const zg_kernel *k, operands *o) {
  const zg_matmul_desc *d = k->desc;
  const zg_view *c = &k->args[0], *a = &k->args[1], *b = &k->args[2];
  const uint32_t r = c->rank - 2;
  matrix straight, ma, mb;
  if (!as_matrix(d->n, d->m, c->stride[r + 1], c->stride[r], &straight)) return false;
  if (!straight.transposed) {  // C' [n, m] = B' [n, k] A' [k, m]
    if (!as_matrix(d->n, d->k, b->stride[r + 1], b->stride[r], &mb) ||
        !as_matrix(d->k, d->m, a->stride[r + 1], a->stride[r], &ma))
      return false;
    *o = (operands){mb, ma, straight, 2, 1};
  } else {  // C [m, n] = A [m, k] B [k, n]
    if (!as_matrix(d->m, d->k, a->stride[r], a->stride[r + 1], &ma) ||
        !as_matrix(d->k, d->n, b->stride[r], b->stride[r + 1], &mb))
      return false;
    *o = (operands){ma, mb, {straight.rows, straight.cols, straight.ld, false}, 1, 2};
  }
  return true;
}

static zg_status describe(const zg_kernel *k, const operands *o, const batch *b, zg__product *p) {
  int type_in, type_out, compute, scale, unused;
  const uint32_t in = b->n ? b->n - 1 : 0;  // the last batch dim is the library's
  const int64_t count = b->n ? b->dim[in] : 1;
  const int32_t op_a = o->a.transposed ? ZG_LT_OP_T : ZG_LT_OP_N,
                op_b = o->b.transposed ? ZG_LT_OP_T : ZG_LT_OP_N;
  if (!types_of(k->args[0].dtype, &type_out, &unused, &unused) ||
      !types_of(k->args[1].dtype, &type_in, &compute, &scale))
    return zg_error(ZG_UNSUPPORTED, "%s: no type of cuBLASLt", k->label);
  const char *tf32 = getenv("ZG_TF32");  // products of floats on tensor cores, with 10 bits of mantissa
  if (k->args[1].dtype == ZG_F32 && tf32 && strcmp(tf32, "1") == 0) compute = ZG_LT_COMPUTE_32F_TF32;
  ZG_TRY(ZG_LT(cublasLtMatmulDescCreate, &p->desc, compute, scale));
  ZG_TRY(ZG_LT(cublasLtMatmulDescSetAttribute, p->desc, ZG_LT_DESC_TRANSA, &op_a, sizeof op_a));
  ZG_TRY(ZG_LT(cublasLtMatmulDescSetAttribute, p->desc, ZG_LT_DESC_TRANSB, &op_b, sizeof op_b));
  ZG_TRY(set_layout(&p->a, type_in, &o->a, count, b->stride[o->arg_a][in]));
  ZG_TRY(set_layout(&p->b, type_in, &o->b, count, b->stride[o->arg_b][in]));
  return set_layout(&p->c, type_out, &o->c, count, b->stride[0][in]);
}

// The library says nothing of batches that are stepped through backwards (a slice with a negative step).
static bool goes_back(const batch *b) {
  for (uint32_t d = 0; d < b->n; d++)
    for (uint32_t i = 0; i < 3; i++)
      if (b->stride[i][d] < 0) return true;
  return false;
}

zg_status zg__product_init(zg_lt_handle lt, const zg_kernel *k, zg__search *search, zg__product *p) {
  const zg_matmul_desc *d = k->desc;
  *p = (zg__product){.alpha = d->alpha, .beta = d->beta, .n_outer = 1};
  const batch b = batch_of(k);
  operands o;
  if (d->epilogue != ZG_EPI_NONE || k->n_args > 3 || k->args[1].dtype != k->args[2].dtype || b.n > 2 ||
      (b.n == 2 && b.dim[0] > MAX_OUTER) || d->m * d->n * d->k == 0 || zg_view_elems(&k->args[0]) == 0 ||
      goes_back(&b) || !order_operands(k, &o))
    return zg_error(ZG_UNSUPPORTED, "%s: not a product of cuBLASLt's", k->label);
  p->arg_a = o.arg_a, p->arg_b = o.arg_b;
  if (b.n == 2)
    p->n_outer = b.dim[0], p->step_a = b.stride[p->arg_a][0], p->step_b = b.stride[p->arg_b][0],
    p->step_c = b.stride[0][0];
  zg_status status = describe(k, &o, &b, p);
  if (!status) status = choose_algorithm(lt, k, &b, search, p);
  if (status) zg__product_fini(p);
  return status;
}

void zg__product_fini(zg__product *p) {
  if (p->desc) zg__lt.cublasLtMatmulDescDestroy(p->desc);
  if (p->a) zg__lt.cublasLtMatrixLayoutDestroy(p->a);
  if (p->b) zg__lt.cublasLtMatrixLayoutDestroy(p->b);
  if (p->c) zg__lt.cublasLtMatrixLayoutDestroy(p->c);
  *p = (zg__product){0};
}

zg_status zg__product_run(zg_lt_handle lt, const zg__product *p, const zg_kernel *k, const uint64_t *arg,
                          uint64_t workspace, void *stream) {
  const float alpha = (float)p->alpha, beta = (float)p->beta;
  const bool wide = k->args[1].dtype == ZG_F64;
  const void *pa = wide ? (const void *)&p->alpha : &alpha, *pb = wide ? (const void *)&p->beta : &beta;
  for (int64_t i = 0; i < p->n_outer; i++) {
    const uint64_t a = arg[p->arg_a] + (uint64_t)(i * p->step_a) * zg_dtype_bytes(k->args[p->arg_a].dtype);
    const uint64_t b = arg[p->arg_b] + (uint64_t)(i * p->step_b) * zg_dtype_bytes(k->args[p->arg_b].dtype);
    const uint64_t c = arg[0] + (uint64_t)(i * p->step_c) * zg_dtype_bytes(k->args[0].dtype);
    ZG_TRY(ZG_LT(cublasLtMatmul, lt, p->desc, pa, (const void *)a, p->a, (const void *)b, p->b, pb,
                 (const void *)c, p->c, (void *)c, p->c, &p->algo, (void *)workspace, p->workspace, stream));
  }
  return NULL;
}
