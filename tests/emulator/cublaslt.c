// The stand-in for libcublasLt: descriptors, a heuristic of two algorithms (one wants workspace and splits
// the inner dimension), and matmul in plain loops: column- and row-major layouts, strided batches,
// transposes, and the epilogues. Sums are taken in float (double for 64F); TF32 rounds its inputs. The
// workspace is overwritten, as by a real library.
#include "number.h"

#include <math.h>

enum { SUCCESS, NOT_INITIALIZED, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum { COMPUTE_16F = 64, COMPUTE_32F = 68, COMPUTE_64F = 70, COMPUTE_TF32 = 77 };
enum {
  RELU = 2,
  BIAS = 4,
  DRELU = 8,
  BGRAD = 16,
  GELU = 32,
  DGELU = 64,
  AUX = 128,
  BGRAD_A = 256,
  BGRAD_B = 512
};

// Attributes by number: cublasLtMatmulDescAttributes_t, cublasLtMatrixLayoutAttribute_t,
// cublasLtMatmulPreferenceAttributes_t.
typedef struct {
  int compute, scale, pointer_mode, trans_a, trans_b, epilogue, bias_type, aux_type;
  void *bias, *aux;
  int64_t bias_stride, aux_ld, aux_stride;
} desc;
typedef struct {
  int type, order;
  uint64_t rows, cols;
  int64_t ld;
  int batches;
  int64_t stride;
} layout;
typedef struct {
  uint64_t workspace;
} preference;
typedef struct {
  uint64_t magic, split, workspace, unused[5];
} algo;
typedef struct {
  algo a;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
} heuristic;
enum { MAGIC = 0x7a67, SPLIT_WORKSPACE = 1 << 20 };

static number number_of(int cuda_type) {
  switch (cuda_type) {
    case 0: return NUM_F32;
    case 1: return NUM_F64;
    case 2: return NUM_F16;
    case 14: return NUM_BF16;
    default: return NUM_NONE;
  }
}

// ---- objects ------------------------------------------------------------------------------------------

ZG_EMU_API size_t cublasLtGetVersion(void) { return 130099; }
ZG_EMU_API const char *cublasLtGetStatusString(int s) {
  return s == SUCCESS           ? "CUBLAS_STATUS_SUCCESS"
         : s == INVALID_VALUE   ? "CUBLAS_STATUS_INVALID_VALUE"
         : s == NOT_SUPPORTED   ? "CUBLAS_STATUS_NOT_SUPPORTED"
         : s == NOT_INITIALIZED ? "CUBLAS_STATUS_NOT_INITIALIZED"
                                : "CUBLAS_STATUS_EXECUTION_FAILED";
}
ZG_EMU_API const char *cublasLtGetStatusName(int s) { return cublasLtGetStatusString(s); }
ZG_EMU_API int cublasLtCreate(void **h) {
  if (zg_emu_current_device() < 0) return NOT_INITIALIZED;
  *h = calloc(1, 1);
  return SUCCESS;
}
ZG_EMU_API int cublasLtDestroy(void *h) {
  free(h);
  return h ? SUCCESS : NOT_INITIALIZED;
}
ZG_EMU_API int cublasLtMatmulDescCreate(desc **out, int compute, int scale) {
  if (compute < COMPUTE_16F || compute > 79) return INVALID_VALUE;
  desc *d = *out = calloc(1, sizeof *d);
  d->compute = compute, d->scale = scale, d->epilogue = 1, d->bias_type = d->aux_type = -1;
  return SUCCESS;
}
ZG_EMU_API int cublasLtMatmulDescDestroy(desc *d) {
  free(d);
  return SUCCESS;
}
static int set(void *field, size_t size, const void *value, size_t n) {
  if (n != size) return zg_emu_say("an attribute of %zu bytes is set with %zu", size, n), INVALID_VALUE;
  memcpy(field, value, n);
  return SUCCESS;
}
#define FIELD(number, field) \
  case number: return set(&(field), sizeof(field), value, n)
ZG_EMU_API int cublasLtMatmulDescSetAttribute(desc *d, int attribute, const void *value, size_t n) {
  switch (attribute) {
    FIELD(0, d->compute);
    FIELD(1, d->scale);
    FIELD(2, d->pointer_mode);
    FIELD(3, d->trans_a);
    FIELD(4, d->trans_b);
    FIELD(7, d->epilogue);
    FIELD(8, d->bias);
    FIELD(10, d->bias_stride);
    FIELD(11, d->aux);
    FIELD(12, d->aux_ld);
    FIELD(13, d->aux_stride);
    FIELD(22, d->aux_type);
    FIELD(26, d->bias_type);
    case 15:
    case 25: return SUCCESS;  // multiprocessors wanted, fast accumulation
    default: return zg_emu_say("cublasLt: matmul attribute %d is not emulated", attribute), INVALID_VALUE;
  }
}
ZG_EMU_API int cublasLtMatrixLayoutCreate(layout **out, int type, uint64_t rows, uint64_t cols, int64_t ld) {
  if (number_of(type) == NUM_NONE) return INVALID_VALUE;
  layout *l = *out = calloc(1, sizeof *l);
  *l = (layout){type, 0, rows, cols, ld, 1, 0};
  return SUCCESS;
}
ZG_EMU_API int cublasLtMatrixLayoutDestroy(layout *l) {
  free(l);
  return SUCCESS;
}
ZG_EMU_API int cublasLtMatrixLayoutSetAttribute(layout *l, int attribute, const void *value, size_t n) {
  switch (attribute) {
    FIELD(0, l->type);
    FIELD(1, l->order);
    FIELD(2, l->rows);
    FIELD(3, l->cols);
    FIELD(4, l->ld);
    FIELD(5, l->batches);
    FIELD(6, l->stride);
    default: return zg_emu_say("cublasLt: layout attribute %d is not emulated", attribute), INVALID_VALUE;
  }
}
ZG_EMU_API int cublasLtMatmulPreferenceCreate(preference **out) {
  *out = calloc(1, sizeof **out);
  return SUCCESS;
}
ZG_EMU_API int cublasLtMatmulPreferenceDestroy(preference *p) {
  free(p);
  return SUCCESS;
}
ZG_EMU_API int cublasLtMatmulPreferenceSetAttribute(preference *p, int attribute, const void *value,
                                                    size_t n) {
  return attribute == 1 ? set(&p->workspace, sizeof p->workspace, value, n)
                        : SUCCESS;  // others are alignments and masks
}

// ---- checks -------------------------------------------------------------------------------------------

static int refuse(int status, const char *why) {
  zg_emu_say("cublasLt: %s", why);
  return status;
}
static bool layout_ok(const layout *l) {
  return l->order >= 0 && l->order <= 1 && l->batches >= 1 &&
         l->ld >= (int64_t)(l->order ? l->cols : l->rows);
}
static int check(const desc *d, const layout *a, const layout *b, const layout *c, const layout *out) {
  if (!layout_ok(a) || !layout_ok(b) || !layout_ok(c) || !layout_ok(out))
    return refuse(INVALID_VALUE, "a leading dimension is too small");
  uint64_t m = d->trans_a ? a->cols : a->rows, k = d->trans_a ? a->rows : a->cols;
  uint64_t kb = d->trans_b ? b->cols : b->rows, n = d->trans_b ? b->rows : b->cols;
  if (k != kb || out->rows != m || out->cols != n || c->rows != m || c->cols != n)
    return refuse(INVALID_VALUE, "shapes do not fit");
  if (a->batches != out->batches || b->batches != out->batches || c->batches != out->batches)
    return refuse(INVALID_VALUE, "batch counts differ");
  if (a->type != b->type || c->type != out->type)
    return refuse(NOT_SUPPORTED, "types of A and B, or of C and D, differ");
  bool doubles = a->type == 1;
  if (doubles != (d->compute == COMPUTE_64F || d->compute == COMPUTE_64F + 1) ||
      doubles != (out->type == 1) || doubles != (d->scale == 1))
    return refuse(NOT_SUPPORTED, "the compute type does not fit the data");
  if (d->compute < 66) return refuse(NOT_SUPPORTED, "half-precision sums are not emulated");
  if (d->epilogue & (RELU | BIAS | GELU | DGELU | DRELU | BGRAD) && out->batches > 1 && d->epilogue & BGRAD)
    return refuse(NOT_SUPPORTED, "a bias gradient of a batch");
  if (d->pointer_mode > 1) return refuse(NOT_SUPPORTED, "scalars by vector");
  return SUCCESS;
}

ZG_EMU_API int cublasLtMatmulAlgoGetHeuristic(void *h, const desc *d, const layout *a, const layout *b,
                                              const layout *c, const layout *out, const preference *p,
                                              int want, heuristic *results, int *n) {
  if (!h) return NOT_INITIALIZED;
  *n = 0;
  int r = check(d, a, b, c, out);
  for (uint64_t split = 0; split < 2 && !r && *n < want; split++) {
    uint64_t workspace = split ? SPLIT_WORKSPACE : 0;
    if (p && workspace > p->workspace) continue;
    results[(*n)++] = (heuristic){.a = {MAGIC, split, workspace}, .workspace = workspace, .waves = 1};
  }
  return r;
}

// ---- matmul -------------------------------------------------------------------------------------------

typedef struct {
  desc d;
  layout a, b, c, out;
  double alpha, beta;
  const void *alpha_at, *beta_at;  // pointer mode 1: on the device
  const void *pa, *pb, *pc;
  void *po, *workspace;
  size_t n_workspace;
  algo how;
} job;

static size_t place(const layout *l, uint64_t row, uint64_t col, int batch) {
  return (size_t)((int64_t)batch * l->stride) +
         (l->order ? (size_t)row * (size_t)l->ld + col : (size_t)col * (size_t)l->ld + row);
}
static size_t extent(const layout *l) {  // bytes from the first to behind the last element
  size_t at = l->rows && l->cols ? place(l, l->rows - 1, l->cols - 1, l->batches - 1) + 1 : 0;
  return at * number_bytes(number_of(l->type));
}
static double tf32(double v) {  // 10 bits of fraction, ties away
  return bits_float((float_bits((float)v) + 0x1000) & ~0x1fffu);
}
// op(X) as rows x cols doubles, row-major.
static double *unpack(const job *j, const layout *l, const void *p, bool transpose, int batch) {
  uint64_t rows = transpose ? l->cols : l->rows, cols = transpose ? l->rows : l->cols;
  double *out = malloc(sizeof *out * (rows * cols + 1));
  for (uint64_t r = 0; r < rows; r++)
    for (uint64_t c = 0; c < cols; c++) {
      double v = number_get(number_of(l->type), p, transpose ? place(l, c, r, batch) : place(l, r, c, batch));
      out[r * cols + c] = j->d.compute == COMPUTE_TF32 ? tf32(v) : v;
    }
  return out;
}

#define PRODUCT(T)                                                                                           \
  static void product_##T(double *out, const double *a, const double *b, uint64_t m, uint64_t n, uint64_t k, \
                          uint64_t split) {                                                                  \
    T *sum = malloc(sizeof *sum * (n + 1)), *bt = malloc(sizeof *bt * (n * k + 1));                          \
    for (uint64_t i = 0; i < n * k; i++) bt[i] = (T)b[i];                                                    \
    memset(out, 0, sizeof *out *m *n);                                                                       \
    for (uint64_t half = 0; half <= split; half++)                                                           \
      for (uint64_t i = 0; i < m; i++) {                                                                     \
        for (uint64_t x = 0; x < n; x++) sum[x] = 0;                                                         \
        for (uint64_t y = k * half / (split + 1); y < k * (half + 1) / (split + 1); y++) {                   \
          T v = (T)a[i * k + y];                                                                             \
          for (uint64_t x = 0; x < n; x++) sum[x] += v * bt[y * n + x];                                      \
        }                                                                                                    \
        for (uint64_t x = 0; x < n; x++) out[i * n + x] = (T)((T)out[i * n + x] + sum[x]);                   \
      }                                                                                                      \
    free(sum), free(bt);                                                                                     \
  }
PRODUCT(float)
PRODUCT(double)

static double gelu(double x) { return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }
static double gelu_slope(double x) {
  double t = tanh(0.7978845608028654 * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x);
}

// One element through the epilogue; AUX is read by gradients and written otherwise. RELU's AUX is a bit per
// element.
static double epilogue(const job *j, double v, uint64_t row, uint64_t col, int batch) {
  const desc *d = &j->d;
  int e = d->epilogue;
  number bias_type = number_of(d->bias_type < 0 ? j->out.type : d->bias_type),
         aux_type = number_of(d->aux_type < 0 ? j->out.type : d->aux_type);
  size_t aux_at = (size_t)((int64_t)batch * d->aux_stride + (int64_t)col * d->aux_ld) + row;
  if (e & BIAS) v += number_get(bias_type, d->bias, (size_t)((int64_t)batch * d->bias_stride) + row);
  if (e & DGELU) return v * gelu_slope(number_get(aux_type, d->aux, aux_at));
  if (e & DRELU) return ((const uint8_t *)d->aux)[aux_at / 8] >> aux_at % 8 & 1 ? v : 0;
  if (e & GELU) {
    if (e & AUX) number_set(aux_type, d->aux, aux_at, v);
    return gelu(v);
  }
  if (e & RELU) {
    uint8_t *bits = d->aux;
    if (e & AUX)
      bits[aux_at / 8] =
          (uint8_t)((bits[aux_at / 8] & ~(1u << aux_at % 8)) | (unsigned)(v > 0) << aux_at % 8);
    return v > 0 ? v : v != v ? v : 0;
  }
  return v;
}

// Sums along k of op(A) or op(B), or of the result along its columns, into the bias.
static void bias_gradient(const job *j, const double *of, uint64_t n_out, uint64_t n_sum, size_t step_out,
                          size_t step_sum) {
  number t = number_of(j->d.bias_type < 0 ? j->out.type : j->d.bias_type);
  for (uint64_t i = 0; i < n_out; i++) {
    double sum = 0;
    for (uint64_t k = 0; k < n_sum; k++) sum += of[i * step_out + k * step_sum];
    number_set(t, j->d.bias, i, sum);
  }
}

static void one_batch(const job *j, int batch) {
  uint64_t m = j->out.rows, n = j->out.cols, k = j->d.trans_a ? j->a.rows : j->a.cols;
  double *a = unpack(j, &j->a, j->pa, j->d.trans_a, batch), *b = unpack(j, &j->b, j->pb, j->d.trans_b, batch);
  double *out = malloc(sizeof *out * (m * n + 1));
  if (j->out.type == 1) product_double(out, a, b, m, n, k, j->how.split);
  else product_float(out, a, b, m, n, k, j->how.split);
  for (uint64_t r = 0; r < m; r++)
    for (uint64_t c = 0; c < n; c++) {
      double v = j->alpha * out[r * n + c];
      if (j->beta != 0) v += j->beta * number_get(number_of(j->c.type), j->pc, place(&j->c, r, c, batch));
      out[r * n + c] = epilogue(j, v, r, c, batch);
    }
  for (uint64_t r = 0; r < m; r++)
    for (uint64_t c = 0; c < n; c++)
      number_set(number_of(j->out.type), j->po, place(&j->out, r, c, batch), out[r * n + c]);
  if (j->d.epilogue & BGRAD) bias_gradient(j, out, m, n, n, 1);
  if (j->d.epilogue & BGRAD_A) bias_gradient(j, a, m, k, k, 1);
  if (j->d.epilogue & BGRAD_B) bias_gradient(j, b, n, k, 1, n);
  free(a), free(b), free(out);
}

static bool in_range(const job *j) {
  const desc *d = &j->d;
  size_t bias_n = (d->epilogue & BGRAD_B ? j->out.cols : j->out.rows) *
                  number_bytes(number_of(d->bias_type < 0 ? j->out.type : d->bias_type));
  return !zg_emu_check_range(j->pa, extent(&j->a), "cublasLtMatmul: A") &&
         !zg_emu_check_range(j->pb, extent(&j->b), "cublasLtMatmul: B") &&
         (j->beta == 0 || !zg_emu_check_range(j->pc, extent(&j->c), "cublasLtMatmul: C")) &&
         !zg_emu_check_range(j->po, extent(&j->out), "cublasLtMatmul: D") &&
         !zg_emu_check_range(j->workspace, j->how.workspace, "cublasLtMatmul: workspace") &&
         (!(d->epilogue & (BIAS | BGRAD | BGRAD_A | BGRAD_B)) ||
          !zg_emu_check_range(d->bias, bias_n, "cublasLtMatmul: bias"));
}

static zg_emu_result run(void *state) {
  job *j = state;
  number t = j->d.scale == 1 ? NUM_F64 : NUM_F32;
  if (j->alpha_at) j->alpha = number_get(t, j->alpha_at, 0), j->beta = number_get(t, j->beta_at, 0);
  if (!in_range(j)) return ZG_EMU_FAILED;
  if (j->how.workspace) memset(j->workspace, 0xff, j->how.workspace);
  for (int i = 0; i < j->out.batches; i++) one_batch(j, i);
  return ZG_EMU_DONE;
}

static bool aligned(const void *p, const layout *l) {
  return (uintptr_t)p % number_bytes(number_of(l->type)) == 0;
}

ZG_EMU_API int cublasLtMatmul(void *h, const desc *d, const void *alpha, const void *a, const layout *la,
                              const void *b, const layout *lb, const void *beta, const void *c,
                              const layout *lc, void *out, const layout *lout, const algo *how,
                              void *workspace, size_t n_workspace, void *stream) {
  if (!h) return NOT_INITIALIZED;
  int r = check(d, la, lb, lc, lout);
  if (r) return r;
  algo plain = {MAGIC, 0, 0};
  job j = {*d,
           *la,
           *lb,
           *lc,
           *lout,
           .pa = a,
           .pb = b,
           .pc = c,
           .po = out,
           .workspace = workspace,
           .n_workspace = n_workspace,
           .how = how ? *how : plain};
  if (j.how.magic != MAGIC) return refuse(INVALID_VALUE, "the algorithm is not one of the heuristic");
  if (j.how.workspace > n_workspace)
    return refuse(INVALID_VALUE, "the workspace is smaller than the algorithm wants");
  if (!aligned(a, la) || !aligned(b, lb) || !aligned(out, lout) || (uintptr_t)workspace % 16)
    return refuse(NOT_SUPPORTED, "misaligned");
  number t = d->scale == 1 ? NUM_F64 : NUM_F32;
  if (d->pointer_mode == 1) j.alpha_at = alpha, j.beta_at = beta;
  else j.alpha = number_get(t, alpha, 0), j.beta = number_get(t, beta, 0);
  return zg_emu_enqueue(stream, "matmul", run, &j, sizeof j) ? EXECUTION_FAILED : SUCCESS;
}
