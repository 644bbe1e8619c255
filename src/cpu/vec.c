// The bodies of vec.h. Built once per instruction-set level with ZG_VEC_TABLE naming the table. Loops are written so that gcc -O3
// vectorises them; the pragma says that a destination equal to a source is no loop-carried dependence.
#include "cpu/vec.h"
#include "cpu/vec_cvt.h"
#include "cpu/vec_each.h"
#include "cpu/vec_math.h"
#include "cpu/vec_random.h"
#include "cpu/vec_tile.h"
#include "cpu/vec_cell.h"

#define EACH NO_CARRIED_DEPENDENCE for (int64_t i = 0; i < n; i++)
#define ARGS int64_t n, void *dst, const void *pa, const void *pb, const void *pc, uint32_t op
#define UNUSED (void)pa, (void)pb, (void)pc, (void)op
typedef int64_t i64;
typedef float f32;
typedef double f64;
typedef uint64_t u64;

// ---- maps ---------------------------------------------------------------------------------------------------------
#define UNARY(C, T, R, name, expr)                         \
  static void C##_##name(ARGS) {                           \
    UNUSED;                                                \
    R *d = dst;                                            \
    const T *a = pa;                                       \
    EACH { const T x = a[i]; d[i] = (R)(expr); }           \
  }
#define BINARY(C, T, R, name, expr)                                                       \
  static void C##_##name##_0(ARGS) {                                                      \
    UNUSED;                                                                               \
    R *d = dst;                                                                           \
    const T *a = pa, *b = pb;                                                             \
    EACH { const T x = a[i], y = b[i]; d[i] = (R)(expr); }                                \
  }                                                                                       \
  static void C##_##name##_1(ARGS) {                                                      \
    UNUSED;                                                                               \
    R *d = dst;                                                                           \
    const T *b = pb, x = *(const T *)pa;                                                  \
    EACH { const T y = b[i]; d[i] = (R)(expr); }                                          \
  }                                                                                       \
  static void C##_##name##_2(ARGS) {                                                      \
    UNUSED;                                                                               \
    R *d = dst;                                                                           \
    const T *a = pa, y = *(const T *)pb;                                                  \
    EACH { const T x = a[i]; d[i] = (R)(expr); }                                          \
  }
#define TERNARY1(C, A, T, name, expr, mask)                                               \
  static void C##_##name##_##mask(ARGS) {                                                 \
    UNUSED;                                                                               \
    T *d = dst;                                                                           \
    const A *a = pa;                                                                      \
    const T *b = pb, *c = pc;                                                             \
    const A x0 = n ? a[0] : 0;                                                            \
    const T y0 = n ? b[0] : 0, z0 = n ? c[0] : 0;                                         \
    EACH {                                                                                \
      const A x = (mask) & 1 ? x0 : a[i];                                                 \
      const T y = (mask) & 2 ? y0 : b[i], z = (mask) & 4 ? z0 : c[i];                     \
      d[i] = (T)(expr);                                                                   \
    }                                                                                     \
  }
#define TERNARY(C, A, T, name, expr)                                                      \
  TERNARY1(C, A, T, name, expr, 0) TERNARY1(C, A, T, name, expr, 1) TERNARY1(C, A, T, name, expr, 2) \
  TERNARY1(C, A, T, name, expr, 3) TERNARY1(C, A, T, name, expr, 4) TERNARY1(C, A, T, name, expr, 5) \
  TERNARY1(C, A, T, name, expr, 6)

// Transcendental maps work on blocks of 16, the last one padded: a scalar remainder would cost as much as the vectors before it.
#define BLOCKS(name, expr)                                                                \
  static void f32_##name(ARGS) {                                                          \
    UNUSED;                                                                               \
    f32 *d = dst, tail[16] = {0};                                                         \
    const f32 *a = pa;                                                                    \
    const i64 whole = n & ~(i64)15;                                                       \
    NO_CARRIED_DEPENDENCE for (i64 i = 0; i < whole; i++) { const f32 x = a[i]; d[i] = (expr); } \
    if (whole == n) return;                                                               \
    memcpy(tail, a + whole, (size_t)(n - whole) * 4);                                     \
    for (int i = 0; i < 16; i++) { const f32 x = tail[i]; tail[i] = (expr); }             \
    memcpy(d + whole, tail, (size_t)(n - whole) * 4);                                     \
  }

#include "cpu/vec_maps.def"

// Rare opcodes: one call of the scalar room's function per element.
#define RARE(C, T, R, call)                                                               \
  static void C(ARGS) {                                                                   \
    R *d = dst;                                                                           \
    const T *a = pa, *b = pb, *c = pc;                                                    \
    const zg_scalar s = (zg_scalar)(op & 0xFFFF);                                         \
    const int arity = zg_scalar_arity(s);                                                 \
    const i64 sa = op >> 16 & 1 ? 0 : 1, sb = op >> 17 & 1 ? 0 : 1, sc = op >> 18 & 1 ? 0 : 1; \
    for (i64 i = 0; i < n; i++) d[i] = (R)call(s, a[i * sa], arity > 1 ? b[i * sb] : 0, arity > 2 ? c[i * sc] : 0); \
  }
RARE(f32_rare, f32, f32, zg_scalar_f64)
RARE(f64_rare, f64, f64, zg_scalar_f64)
RARE(f32_rare_int, f32, i64, zg_scalar_f64)
RARE(f64_rare_int, f64, i64, zg_scalar_f64)
RARE(int_rare, i64, i64, zg_scalar_i64)

// Opcodes that libm computes well in single precision.
#define LIBM(name) UNARY(f32, f32, f32, name, name##f(x))
LIBM(sin) LIBM(cos) LIBM(tan) LIBM(asin) LIBM(acos) LIBM(atan) LIBM(sinh) LIBM(cosh)
BINARY(f32, f32, f32, pow, powf(x, y))

// ---- loads, stores, casts --------------------------------------------------------------------------------------------
#define MOVE(name, D, S, conv)                                                            \
  static void name(int64_t n, void *dst, const void *src, int64_t stride) {               \
    D *d = dst;                                                                           \
    const S *s = src;                                                                     \
    if (stride == 1) EACH { const S x = s[i]; d[i] = conv; }                              \
    else for (int64_t i = 0; i < n; i++) { const S x = s[i * stride]; d[i] = conv; }      \
  }
#define MOVE_OUT(name, D, S, conv)                                                        \
  static void name(int64_t n, void *dst, const void *src, int64_t stride) {               \
    D *d = dst;                                                                           \
    const S *s = src;                                                                     \
    if (stride == 1) EACH { const S x = s[i]; d[i] = conv; }                              \
    else for (int64_t i = 0; i < n; i++) { const S x = s[i]; d[i * stride] = conv; }      \
  }
#define MOVES(t, T) MOVE(load_##t, i64, T, (i64)x) MOVE_OUT(store_##t, T, i64, (T)x)      \
  static void round_##t(int64_t n, void *dst, const void *src) { i64 *d = dst; const i64 *s = src; EACH d[i] = (i64)(T)s[i]; }
MOVE(load_f32, f32, f32, x)
MOVE_OUT(store_f32, f32, f32, x)
MOVE(load_f64, f64, f64, x)
MOVE_OUT(store_f64, f64, f64, x)
MOVE(load_bf16, f32, uint16_t, c_from_bf16(x))
MOVE_OUT(store_bf16, uint16_t, f32, c_to_bf16(x))
MOVE(load_f16, f32, uint16_t, c_from_f16(x))
MOVE_OUT(store_f16, uint16_t, f32, c_to_f16(x))
MOVES(i8, int8_t) MOVES(i16, int16_t) MOVES(i32, int32_t) MOVES(i64, int64_t)
MOVES(u8, uint8_t) MOVES(u16, uint16_t) MOVES(u32, uint32_t) MOVES(u64, uint64_t)
MOVE(load_bool, i64, uint8_t, x != 0)
MOVE_OUT(store_bool, uint8_t, i64, x != 0)

#define CONVERT(name, D, S, expr)                                                         \
  static void name(int64_t n, void *dst, const void *src) {                               \
    D *d = dst;                                                                           \
    const S *s = src;                                                                     \
    EACH { const S x = s[i]; d[i] = expr; }                                               \
  }
CONVERT(cast_f32_f32, f32, f32, x) CONVERT(cast_f32_f64, f64, f32, x) CONVERT(cast_f32_int, i64, f32, c_to_i64(x))
CONVERT(cast_f64_f32, f32, f64, (f32)x) CONVERT(cast_f64_f64, f64, f64, x) CONVERT(cast_f64_int, i64, f64, c_to_i64(x))
CONVERT(cast_int_f32, f32, i64, (f32)x) CONVERT(cast_int_f64, f64, i64, (f64)x) CONVERT(cast_int_int, i64, i64, x)
CONVERT(round_bf16, f32, f32, c_from_bf16(c_to_bf16(x))) CONVERT(round_f16, f32, f32, c_from_f16(c_to_f16(x)))
CONVERT(bool_f32, i64, f32, x != 0) CONVERT(bool_f64, i64, f64, x != 0) CONVERT(bool_int, i64, i64, x != 0)

// ---- reductions --------------------------------------------------------------------------------------------------------
// 64 lanes take turns over the tile, then halve pairwise: an order that depends on n alone. Floats enter the total in double.
enum { LANES = 64 };
#define REDUCE(name, T, ACC, init, fold, total)                                           \
  static inline T name##_of(int64_t n, const T *s) {                                      \
    T lane[LANES];                                                                        \
    for (int j = 0; j < LANES; j++) lane[j] = init;                                       \
    i64 i = 0;                                                                            \
    for (; i + LANES <= n; i += LANES)                                                    \
      for (int j = 0; j < LANES; j++) { const T x = lane[j], y = s[i + j]; lane[j] = fold; } \
    for (int j = 0; i + j < n; j++) { const T x = lane[j], y = s[i + j]; lane[j] = fold; } \
    for (int h = LANES / 2; h > 0; h /= 2)                                                \
      for (int j = 0; j < h; j++) { const T x = lane[j], y = lane[j + h]; lane[j] = fold; } \
    return lane[0];                                                                       \
  }                                                                                       \
  static void name(int64_t rows, int64_t n, const void *src, void *acc) {                 \
    const T *s = src;                                                                     \
    ACC *t = acc;                                                                         \
    for (i64 r = 0; r < rows; r++, s += n) {                                              \
      T y1 = init;                                                                        \
      if (n >= ZG_LANES_FROM) y1 = name##_of(n, s);                                       \
      else for (i64 i = 0; i < n; i++) { const T x = y1, y = s[i]; y1 = fold; }           \
      const ACC x = t[r], y = y1;                                                         \
      t[r] = total;                                                                       \
    }                                                                                     \
  }
#define FOLD_MAX (x > y || x != x ? x : y)
#define FOLD_MIN (x < y || x != x ? x : y)
#define REDUCES(C, T, ACC, lo, hi)                                                        \
  REDUCE(C##_red_sum, T, ACC, 0, x + y, x + y) REDUCE(C##_red_prod, T, ACC, 1, x *y, x *y) \
  REDUCE(C##_red_max, T, ACC, lo, FOLD_MAX, FOLD_MAX) REDUCE(C##_red_min, T, ACC, hi, FOLD_MIN, FOLD_MIN)
REDUCES(f32, f32, f64, -INFINITY, INFINITY)
REDUCES(f64, f64, f64, -INFINITY, INFINITY)
REDUCES(int, i64, i64, INT64_MIN, INT64_MAX)

static void add_to_double(int64_t n, double *acc, float *part) {
  EACH acc[i] += part[i];
  memset(part, 0, (size_t)n * sizeof *part);
}

static void fill4(int64_t n, void *dst, uint32_t v) {
  uint32_t *d = dst;
  EACH d[i] = v;
}

static void fill8(int64_t n, void *dst, uint64_t v) {
  uint64_t *d = dst;
  EACH d[i] = v;
}

static void iota(int64_t n, int64_t *dst, int64_t start, int64_t step) { EACH dst[i] = start + i * step; }

// Element numbers that follow one another share counters.
static void random_uniform(int64_t n, float *dst, const int64_t *element, r_key k) {
  int64_t off = 0;
  for (int64_t i = 0; i < n; i++) off |= element[i] - element[0] - i;
  if (off == 0) r_uniform_run(n, dst, (uint64_t)element[0], k);
  else EACH dst[i] = r_uniform((uint64_t)element[i], k);
}

static void random_tile(int64_t count, float *dst, const int64_t *element, zg_rand_state r, uint32_t stream, bool normal) {
  enum { PIECE = 128 };
  const r_key k = {r.key[0], r.key[1], r.step, stream};
  int32_t w0[PIECE], w1[PIECE];
  for (int64_t at = 0; at < count; at += PIECE) {
    const int64_t n = count - at < PIECE ? count - at : PIECE;
    float *y = dst + at;
    if (!normal) {
      random_uniform(n, y, element + at, k);
      continue;
    }
    EACH {
      int32_t w2, w3;
      r_words((uint64_t)element[at + i], k, w0 + i, w1 + i, &w2, &w3);
    }
    EACH y[i] = sqrtf(-2.0f * m_log((float)(w0[i] + 1) * 0x1p-24f));
    for (int64_t i = 0; i < n; i++) y[i] *= cosf(6.28318531f * ((float)w1[i] * 0x1p-24f));
  }
}

// ---- matrix product ------------------------------------------------------------------------------------------------------
static void gemm(int64_t k, const float *a, const float *b, float *c, int64_t ldc, int64_t m, int64_t n) {
  float acc[ZG_GEMM_MR][ZG_GEMM_NR] = {{0}};
  for (int64_t p = 0; p < k; p++)
    for (int i = 0; i < ZG_GEMM_MR; i++)
      for (int j = 0; j < ZG_GEMM_NR; j++) acc[i][j] += a[p * ZG_GEMM_MR + i] * b[p * ZG_GEMM_NR + j];
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) c[i * ldc + j] += acc[i][j];
}

// ---- table ---------------------------------------------------------------------------------------------------------------
#define U(C, NAME, name) [ZG_S_##NAME] = {C##_##name}
#define B(C, NAME, name) [ZG_S_##NAME] = {C##_##name##_0, C##_##name##_1, C##_##name##_2}
#define X(C, NAME, name) [ZG_S_##NAME] = {C##_##name##_0, C##_##name##_1, C##_##name##_2, C##_##name##_3, C##_##name##_4, \
                                          C##_##name##_5, C##_##name##_6}
#define R1(fn) {fn}
#define R2(fn) {fn, fn, fn}
#define COMPARE_ROWS(C) B(C, EQ, eq), B(C, NE, ne), B(C, LT, lt), B(C, LE, le)
#define ARITHMETIC_ROWS(C)                                                                 \
  U(C, NEG, neg), U(C, SIGN, sign), B(C, ADD, add), B(C, SUB, sub), B(C, MUL, mul), B(C, MAX, max), B(C, MIN, min), \
      X(C, WHERE, where)
#define RED(C) {C##_red_sum, C##_red_max, C##_red_min, C##_red_prod}

// clang-format off
const zg_vec ZG_VEC_TABLE = {
  .name = ZG_VEC_NAME,
  .map = {
    [ZG_CLS_F32] = {
      ARITHMETIC_ROWS(f32), COMPARE_ROWS(f32), X(f32, CLIP, clip), X(f32, FMA, fma), B(f32, DIV, div), B(f32, POW, pow),
      U(f32, ABS, abs), U(f32, SQRT, sqrt), U(f32, RSQRT, rsqrt), U(f32, RECIP, recip), U(f32, FLOOR, floor), U(f32, CEIL, ceil),
      U(f32, ROUND, round), U(f32, RELU, relu), U(f32, IS_NAN, is_nan), U(f32, IS_INF, is_inf), U(f32, EXP, exp), U(f32, LOG, log),
      U(f32, LOG1P, log1p), U(f32, TANH, tanh), U(f32, ERF, erf), U(f32, SIGMOID, sigmoid), U(f32, SOFTPLUS, softplus),
      U(f32, SILU, silu), U(f32, SILU_D, silu_d), U(f32, GELU, gelu), U(f32, GELU_D, gelu_d), U(f32, GELU_TANH, gelu_tanh),
      U(f32, GELU_TANH_D, gelu_tanh_d), U(f32, SIN, sin), U(f32, COS, cos), U(f32, TAN, tan), U(f32, ASIN, asin),
      U(f32, ACOS, acos), U(f32, ATAN, atan), U(f32, SINH, sinh), U(f32, COSH, cosh),
      [ZG_S_ASINH] = R1(f32_rare), [ZG_S_ACOSH] = R1(f32_rare), [ZG_S_ATANH] = R1(f32_rare), [ZG_S_NOT] = R1(f32_rare_int),
      [ZG_S_MOD] = R2(f32_rare), [ZG_S_FMOD] = R2(f32_rare), [ZG_S_ATAN2] = R2(f32_rare), [ZG_S_AND] = R2(f32_rare_int),
      [ZG_S_OR] = R2(f32_rare_int), [ZG_S_XOR] = R2(f32_rare_int),
    },
    [ZG_CLS_F64] = {
      ARITHMETIC_ROWS(f64), COMPARE_ROWS(f64), X(f64, CLIP, clip), X(f64, FMA, fma), B(f64, DIV, div), U(f64, ABS, abs),
      U(f64, SQRT, sqrt), U(f64, RECIP, recip), U(f64, RELU, relu),
      [ZG_S_RSQRT] = R1(f64_rare), [ZG_S_EXP] = R1(f64_rare), [ZG_S_LOG] = R1(f64_rare), [ZG_S_LOG1P] = R1(f64_rare),
      [ZG_S_SIN] = R1(f64_rare), [ZG_S_COS] = R1(f64_rare), [ZG_S_TAN] = R1(f64_rare), [ZG_S_ASIN] = R1(f64_rare),
      [ZG_S_ACOS] = R1(f64_rare), [ZG_S_ATAN] = R1(f64_rare), [ZG_S_SINH] = R1(f64_rare), [ZG_S_COSH] = R1(f64_rare),
      [ZG_S_TANH] = R1(f64_rare), [ZG_S_ASINH] = R1(f64_rare), [ZG_S_ACOSH] = R1(f64_rare), [ZG_S_ATANH] = R1(f64_rare),
      [ZG_S_ERF] = R1(f64_rare), [ZG_S_FLOOR] = R1(f64_rare), [ZG_S_CEIL] = R1(f64_rare), [ZG_S_ROUND] = R1(f64_rare),
      [ZG_S_IS_NAN] = R1(f64_rare_int), [ZG_S_IS_INF] = R1(f64_rare_int), [ZG_S_NOT] = R1(f64_rare_int),
      [ZG_S_SIGMOID] = R1(f64_rare), [ZG_S_SOFTPLUS] = R1(f64_rare), [ZG_S_SILU] = R1(f64_rare), [ZG_S_SILU_D] = R1(f64_rare),
      [ZG_S_GELU] = R1(f64_rare), [ZG_S_GELU_D] = R1(f64_rare), [ZG_S_GELU_TANH] = R1(f64_rare),
      [ZG_S_GELU_TANH_D] = R1(f64_rare), [ZG_S_MOD] = R2(f64_rare), [ZG_S_FMOD] = R2(f64_rare), [ZG_S_POW] = R2(f64_rare),
      [ZG_S_ATAN2] = R2(f64_rare), [ZG_S_AND] = R2(f64_rare_int), [ZG_S_OR] = R2(f64_rare_int), [ZG_S_XOR] = R2(f64_rare_int),
    },
    [ZG_CLS_INT] = {
      ARITHMETIC_ROWS(int), COMPARE_ROWS(int), U(int, NOT, not), U(int, BIT_NOT, bit_not), B(int, AND, and), B(int, OR, or),
      B(int, XOR, xor), B(int, BIT_AND, bit_and), B(int, BIT_OR, bit_or), B(int, BIT_XOR, bit_xor),
      [ZG_S_ABS] = R1(int_rare), [ZG_S_RELU] = R1(int_rare), [ZG_S_DIV] = R2(int_rare), [ZG_S_MOD] = R2(int_rare),
      [ZG_S_FMOD] = R2(int_rare), [ZG_S_POW] = R2(int_rare), [ZG_S_SHL] = R2(int_rare), [ZG_S_SHR] = R2(int_rare),
      [ZG_S_FLOOR] = R1(int_rare), [ZG_S_CEIL] = R1(int_rare), [ZG_S_ROUND] = R1(int_rare), [ZG_S_IS_NAN] = R1(int_rare),
      [ZG_S_IS_INF] = R1(int_rare),
      [ZG_S_CLIP] = {int_rare, int_rare, int_rare, int_rare, int_rare, int_rare, int_rare},
      [ZG_S_FMA] = {int_rare, int_rare, int_rare, int_rare, int_rare, int_rare, int_rare},
    },
  },
  .load = {load_f32, load_f64, load_f16, load_bf16, load_i8, load_i16, load_i32, load_i64, load_u8, load_u16, load_u32, load_u64,
           load_bool},
  .store = {store_f32, store_f64, store_f16, store_bf16, store_i8, store_i16, store_i32, store_i64, store_u8, store_u16, store_u32,
            store_u64, store_bool},
  .cast = {{cast_f32_f32, cast_f32_f64, cast_f32_int}, {cast_f64_f32, cast_f64_f64, cast_f64_int},
           {cast_int_f32, cast_int_f64, cast_int_int}},
  .round = {cast_f32_f32, cast_f64_f64, round_f16, round_bf16, round_i8, round_i16, round_i32, round_i64, round_u8, round_u16,
            round_u32, round_u64, bool_int},
  .to_bool = {bool_f32, bool_f64, bool_int},
  .reduce = {RED(f32), RED(f64), RED(int)},
  .add_to_double = add_to_double, .fill4 = fill4, .fill8 = fill8, .iota = iota, .random = random_tile, .gemm = gemm,
  .tile_gemm = tile_gemm, .tile_load = tile_load, .tile_store = tile_store,
  .tile_transpose = tile_transpose, .tile_softmax = tile_softmax, .tile_weights = tile_weights,
  .tile_dscores = tile_dscores, .tile_scale_rows = tile_scale_rows, .tile_dot = tile_dot, TILE_PAIRS,
  .cell_gemm = cell_gemm, .cell_forward = {tanh_forward, relu_forward, lstm_forward, gru_forward},
  .cell_backward = {tanh_backward, relu_backward, lstm_backward, gru_backward},
};
