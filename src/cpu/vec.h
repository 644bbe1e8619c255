// Vector bodies of the CPU device: what one instruction of a loop does to a tile. The file vec.c is built once per instruction-set
// level; zg_vec_select picks the best table that this processor runs. All bodies accept n >= 0, any alignment, and a destination
// that is the same memory as a source of the same element size; else destination and sources do not overlap.
#pragma once
#include "graph/build.h"
#include "sched/loop.h"

// dst[i] = op(a[i], b[i], c[i]). `op` is the zg_scalar, read only by the bodies that serve the rare opcodes, with the mask of
// scalar operands in bits 16..18.
typedef void (*zg_vec_fn)(int64_t n, void *dst, const void *a, const void *b, const void *c, uint32_t op);

// `n` units of `m` rows of a batch in one time step of a recurrent layer (graph/core.h, op `recurrent`). Rows are H apart in states, G*H
// in x and dx, S*H in saved; gates are H apart in all three.
typedef struct {
  int64_t m, n, H;
  const float *pre;             // [gate][row][width]: h R^T
  int64_t width;
  const float *x, *h, *c;       // gates' input; states before
  const float *extra;           // GRU: [n]
  float *h_new, *c_new, *saved; // saved: NULL where nobody wants it
} zg_cell_forward;
typedef struct {
  int64_t m, n, H;
  const float *rec;             // [row][width]: what reaches the state after the step through R; NULL: nothing
  int64_t width;
  const float *saved, *h, *h_new, *c, *c_new;
  const float *dhs, *dcs;       // gradients of the states after the step from outside; dcs may be NULL
  float *carry;                 // what reaches the state before the step otherwise: LSTM: of c; GRU: of h. Read, then written
  float *dx, *dpre;             // dpre: GRU only, as dx
} zg_cell_backward;

typedef struct {
  const char *name;                                       // "x86-64-v3", "generic"
  // Operand i is one element instead of n where bit i of the mask is set. Index: class of the operands (of the result for WHERE).
  zg_vec_fn map[3][ZG_N_SCALARS][8];
  void (*load[ZG_N_DTYPES])(int64_t n, void *dst, const void *src, int64_t stride);        // dtype -> its class; stride in elements
  void (*store[ZG_N_DTYPES])(int64_t n, void *dst, const void *src, int64_t stride);       // class -> dtype
  void (*cast[3][3])(int64_t n, void *dst, const void *src);                               // [from][to] class, truncating
  void (*round[ZG_N_DTYPES])(int64_t n, void *dst, const void *src);                       // within the class, to what the dtype holds
  void (*to_bool[3])(int64_t n, void *dst, const void *src);                               // int: src != 0
  // Folds each of `rows` rows of n elements into acc[row]: double, or int64 for ints. Index: class, zg_red.
  void (*reduce[3][4])(int64_t rows, int64_t n, const void *src, void *acc);
  void (*add_to_double)(int64_t n, double *acc, float *part);                              // acc += part; part = 0
  void (*fill4)(int64_t n, void *dst, uint32_t v);
  void (*fill8)(int64_t n, void *dst, uint64_t v);
  void (*iota)(int64_t n, int64_t *dst, int64_t start, int64_t step);
  void (*random)(int64_t n, float *dst, const int64_t *element, zg_rand_state r, uint32_t stream, bool normal);
  // C[m,n] (row stride ldc) += A panel (k x 6, packed) * B panel (k x 16, packed), f32
  void (*gemm)(int64_t k, const float *a, const float *b, float *c, int64_t ldc, int64_t m, int64_t n);
  // Small matrices (vec_tile.h): row strides are multiples of 16, rows whole vectors of 16. m: a multiple of 8 for gemm, of 16
  // for transpose. A(i, p) stands at a[i * rs + p * cs].
  void (*tile_gemm)(int64_t m, int64_t n, int64_t k, const float *a, int64_t rs, int64_t cs, const float *b, int64_t ldb, float *c,
                    int64_t ldc, bool add);
  // The same on pairs of bf16 in 32-bit words (vec_tile.h), k counting words; NULL where the level lacks them, and to be called only
  // where zg_vec_has_pairs. pair_cols: [m, n] to words [m, ld / 2]; pair_rows: to words [m / 2, ld]; n a multiple of 16, m even.
  void (*tile_gemm_pairs)(int64_t m, int64_t n, int64_t k, const float *a, int64_t rs, int64_t cs, const float *b, int64_t ldb, float *c,
                          int64_t ldc, bool add);
  void (*tile_pair_cols)(int64_t m, int64_t n, const float *src, int64_t ld, float *dst);
  void (*tile_pair_rows)(int64_t m, int64_t n, const float *src, int64_t ld, float *dst);
  // The same from bf16 in memory (rows `stride` elements apart): m rows of n, zeros to `rows` and to ld columns.
  void (*tile_half_cols)(int64_t m, int64_t n, int64_t rows, const uint16_t *src, int64_t stride, float *dst, int64_t ld);
  void (*tile_half_rows)(int64_t m, int64_t n, int64_t rows, const uint16_t *src, int64_t stride, float *dst, int64_t ld);
  // Copies between bf16 in memory and a tile of floats; load: zeros from n to ld.
  void (*tile_load_half)(int64_t m, int64_t n, const uint16_t *src, int64_t stride, float *dst, int64_t ld);
  void (*tile_store_half)(int64_t m, int64_t n, const float *src, int64_t ld, uint16_t *dst, int64_t stride);
  // The same from and to floats.
  void (*tile_load)(int64_t m, int64_t n, const float *src, int64_t stride, float *dst, int64_t ld);
  void (*tile_store)(int64_t m, int64_t n, const float *src, int64_t ld, float *dst, int64_t stride);
  void (*tile_transpose)(int64_t m, int64_t n, const float *src, int64_t ld, float *dst, int64_t ldd);
  // One step of a running softmax over rows: s = exp(s * scale - new max); sum and max are kept up, keep = exp(old max - new max).
  void (*tile_softmax)(int64_t m, int64_t n, float *s, int64_t ld, float scale, float *max, float *sum, float *keep);
  void (*tile_weights)(int64_t m, int64_t n, float *s, int64_t ld, float scale, const float *lse);      // s = exp(s * scale - lse)
  void (*tile_dscores)(int64_t m, int64_t n, const float *p, float *dp, int64_t ld, const float *delta, float scale);   // dp = p (dp - delta) scale
  void (*tile_scale_rows)(int64_t m, int64_t n, float *c, int64_t ld, const float *by);
  float (*tile_dot)(int64_t n, const float *x, const float *y);
  // C[m, n] = A B: A has row stride lda, B is packed [k, n], n is 16 or 32, C has row stride n. Any m.
  void (*cell_gemm)(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b, float *c);
  // What a recurrent cell makes of its gates, and the gradient. Index: zg_cell.
  void (*cell_forward[4])(const zg_cell_forward *r);
  void (*cell_backward[4])(const zg_cell_backward *r);
} zg_vec;

enum { ZG_LANES_FROM = 48 };   // elements from which a sum has 64 lanes, in vec.c as in compiled kernels
enum { ZG_GEMM_MR = 6, ZG_GEMM_NR = 32, ZG_TILED_MR = 12, ZG_TILED_NR = 32 };
const zg_vec *zg_vec_select(void);                        // ZG_ISA=generic|v2|v3|v4 in the environment lowers the choice
bool zg_vec_has_pairs(const zg_vec *v);                   // bf16 products in hardware
const zg_vec *zg_vec_named(const char *name);             // NULL: not built, or the processor lacks it
