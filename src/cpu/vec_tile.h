// Part of vec.c: bodies on small f32 matrices that sit in the first caches. Attention is made of them.
//
// A matrix has a row stride (ld) of a multiple of 16 floats and whole vectors in each row, so that no body
// has a masked tail. The product keeps TILE_MR x 2 vectors of C in registers; A is read by broadcasts, which
// may have any strides.
#pragma once
#include <stdbool.h>
#include "cpu/vec_math.h"

#if defined(__AVX512F__)
#include <immintrin.h>
enum { TILE_MR = 8, TILE_W = 16 };
typedef float tile_v __attribute__((vector_size(64), aligned(4)));
#elif defined(__AVX__)
enum { TILE_MR = 4, TILE_W = 8 };
typedef float tile_v __attribute__((vector_size(32), aligned(4)));
#else
enum { TILE_MR = 4, TILE_W = 4 };
typedef float tile_v __attribute__((vector_size(16), aligned(4)));
#endif

typedef struct {
  int64_t k, rs, cs, ldb, ldc;
  bool add;
} tile_shape;

// C[mr, nv * W] (+)= A B
static inline __attribute__((always_inline)) void tile_block(const int mr, const int nv, const tile_shape *s,
                                                             const float *a, const float *b, float *c) {
  tile_v acc[TILE_MR][2];
#pragma GCC unroll 8
  for (int i = 0; i < mr; i++)
#pragma GCC unroll 2
    for (int j = 0; j < nv; j++)
      acc[i][j] = s->add ? *(const tile_v *)(c + i * s->ldc + j * TILE_W) : (tile_v){0};
  for (int64_t p = 0; p < s->k; p++) {
    const float *row = b + p * s->ldb, *col = a + p * s->cs;
    tile_v y[2];
#pragma GCC unroll 2
    for (int j = 0; j < nv; j++) y[j] = *(const tile_v *)(row + j * TILE_W);
#pragma GCC unroll 8
    for (int i = 0; i < mr; i++) {
      const float x = col[i * s->rs];
#pragma GCC unroll 2
      for (int j = 0; j < nv; j++) acc[i][j] += x * y[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < mr; i++)
#pragma GCC unroll 2
    for (int j = 0; j < nv; j++) *(tile_v *)(c + i * s->ldc + j * TILE_W) = acc[i][j];
}

static void tile_gemm(int64_t m, int64_t n, int64_t k, const float *a, int64_t rs, int64_t cs, const float *b,
                      int64_t ldb, float *c, int64_t ldc, bool add) {
  const tile_shape s = {k, rs, cs, ldb, ldc, add};
  for (int64_t j = 0; j < n;) {
    const bool two = n - j >= 2 * TILE_W;
    for (int64_t i = 0; i < m; i += TILE_MR) {
      if (two) tile_block(TILE_MR, 2, &s, a + i * rs, b + j, c + i * ldc + j);
      else tile_block(TILE_MR, 1, &s, a + i * rs, b + j, c + i * ldc + j);
    }
    j += two ? 2 * TILE_W : TILE_W;
  }
}

#if defined(__AVX512F__)
// 16 x 16: pairs of rows, pairs of pairs, then the 128-bit lanes across the four groups.
static void transpose16(const float *src, int64_t ld, float *dst, int64_t ldd) {
  __m512 r[16], t[16];
  for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_ps(src + i * ld);
  for (int i = 0; i < 16; i += 2)
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]), t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  for (int i = 0; i < 16; i += 4) {
    const __m512d lo0 = _mm512_castps_pd(t[i]), hi0 = _mm512_castps_pd(t[i + 1]),
                  lo1 = _mm512_castps_pd(t[i + 2]), hi1 = _mm512_castps_pd(t[i + 3]);
    r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(lo0, lo1));
    r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(lo0, lo1));
    r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(hi0, hi1));
    r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(hi0, hi1));
  }
  for (int c = 0; c < 4; c++) {
    const __m512 a = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x88),
                 b = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xdd),
                 e = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x88),
                 f = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xdd);
    _mm512_storeu_ps(dst + c * ldd, _mm512_shuffle_f32x4(a, e, 0x88));
    _mm512_storeu_ps(dst + (4 + c) * ldd, _mm512_shuffle_f32x4(b, f, 0x88));
    _mm512_storeu_ps(dst + (8 + c) * ldd, _mm512_shuffle_f32x4(a, e, 0xdd));
    _mm512_storeu_ps(dst + (12 + c) * ldd, _mm512_shuffle_f32x4(b, f, 0xdd));
  }
}
#else
static void transpose16(const float *src, int64_t ld, float *dst, int64_t ldd) {
  for (int j = 0; j < 16; j++)
    for (int i = 0; i < 16; i++) dst[j * ldd + i] = src[i * ld + j];
}
#endif

static void tile_transpose(int64_t m, int64_t n, const float *src, int64_t ld, float *dst, int64_t ldd) {
  for (int64_t i = 0; i < m; i += 16)
    for (int64_t j = 0; j < n; j += 16) transpose16(src + i * ld + j, ld, dst + j * ldd + i, ldd);
}

// Rows of heads stand far apart in memory, which the processor does not foresee: rows to come are asked for.
enum { TILE_AHEAD = 8 };
static inline void fetch_row(const void *src, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch((const char *)src + at);
}

static void tile_load(int64_t m, int64_t n, const float *src, int64_t stride, float *dst, int64_t ld) {
  for (int64_t i = 0; i < m && i < TILE_AHEAD; i++) fetch_row(src + i * stride, n * 4);
  for (int64_t i = 0; i < m; i++, src += stride, dst += ld) {
    if (i + TILE_AHEAD < m) fetch_row(src + TILE_AHEAD * stride, n * 4);
    for (int64_t j = 0; j < n; j++) dst[j] = src[j];
    for (int64_t j = n; j < ld; j++) dst[j] = 0;
  }
}

static void tile_store(int64_t m, int64_t n, const float *src, int64_t ld, float *dst, int64_t stride) {
  for (int64_t i = 0; i < m; i++, src += ld, dst += stride)
    for (int64_t j = 0; j < n; j++) dst[j] = src[j];
}

// Folds of a row: sixteen partial results, which the compiler keeps in vectors, then a tree. Rows have room
// to a multiple of 16.
#define TILE_TREE(part, step) \
  for (int w = 8; w; w /= 2)  \
    for (int q = 0; q < w; q++) part[q] = step(part[q], part[q + w]);
#define TILE_MAX(x, y) ((x) > (y) ? (x) : (y))
#define TILE_ADD(x, y) ((x) + (y))

#if defined(__AVX512F__)
static float row_max(int64_t n, const float *x) {
  __m512 best = _mm512_set1_ps(-INFINITY);
  for (int64_t j = 0; j + 16 <= n; j += 16) best = _mm512_max_ps(_mm512_loadu_ps(x + j), best);
  const __mmask16 tail = (__mmask16)((1u << (n & 15)) - 1);
  best = _mm512_mask_max_ps(best, tail, _mm512_maskz_loadu_ps(tail, x + (n & ~(int64_t)15)), best);
  return _mm512_reduce_max_ps(best);
}
#else
static float row_max(int64_t n, const float *x) {
  float part[16];
  for (int q = 0; q < 16; q++) part[q] = -INFINITY;
  for (int64_t j = 0; j + 16 <= n; j += 16)
    for (int q = 0; q < 16; q++) part[q] = TILE_MAX(x[j + q], part[q]);
  for (int64_t j = n & ~(int64_t)15; j < n; j++) part[j & 15] = TILE_MAX(x[j], part[j & 15]);
  TILE_TREE(part, TILE_MAX)
  return part[0];
}
#endif

static void row_exp(int64_t n, float *x, float scale, float shift) {
  for (int64_t i = 0; i < (n + 15) / 16 * 16; i++) x[i] = m_exp(x[i] * scale - shift);
}

#if defined(__AVX512F__)
static float row_sum(int64_t n, const float *x) {
  __m512 part[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  int64_t j = 0;
  for (; j + 32 <= n; j += 32)
    for (int q = 0; q < 2; q++) part[q] = _mm512_add_ps(part[q], _mm512_loadu_ps(x + j + 16 * q));
  for (; j < n; j += 16)
    part[0] = _mm512_add_ps(part[0], _mm512_maskz_loadu_ps((__mmask16)(n - j >= 16 ? 0xffff : (1u << (n - j)) - 1), x + j));
  return _mm512_reduce_add_ps(_mm512_add_ps(part[0], part[1]));
}
#else
static float row_sum(int64_t n, const float *x) {
  float part[16] = {0};
  for (int64_t j = 0; j + 16 <= n; j += 16)
    for (int q = 0; q < 16; q++) part[q] += x[j + q];
  for (int64_t j = n & ~(int64_t)15; j < n; j++) part[j & 15] += x[j];
  TILE_TREE(part, TILE_ADD)
  return part[0];
}
#endif

static void tile_softmax(int64_t m, int64_t n, float *s, int64_t ld, float scale, float *max, float *sum,
                         float *keep) {
  for (int64_t i = 0; i < m; i++) {  // keep: old maximum
    const float here = row_max(n, s + i * ld) * scale;
    keep[i] = max[i];
    max[i] = here > max[i] ? here : max[i];
  }
  for (int64_t i = 0; i < m; i++) keep[i] = m_exp(keep[i] - (max[i] == -INFINITY ? 0.0f : max[i]));
  for (int64_t i = 0; i < m; i++) row_exp(n, s + i * ld, scale, max[i] == -INFINITY ? 0.0f : max[i]);
  for (int64_t i = 0; i < m; i++) sum[i] = sum[i] * keep[i] + row_sum(n, s + i * ld);
}

static void tile_weights(int64_t m, int64_t n, float *s, int64_t ld, float scale, const float *lse) {
  for (int64_t i = 0; i < m; i++) row_exp(n, s + i * ld, scale, lse[i]);
}

static void tile_dscores(int64_t m, int64_t n, const float *p, float *dp, int64_t ld, const float *delta,
                         float scale) {
  for (int64_t i = 0; i < m; i++, p += ld, dp += ld) {
    const float d = delta[i];
    for (int64_t j = 0; j < n; j++) dp[j] = p[j] * (dp[j] - d) * scale;
  }
}

static void tile_scale_rows(int64_t m, int64_t n, float *c, int64_t ld, const float *by) {
  for (int64_t i = 0; i < m; i++, c += ld) {
    const float k = by[i];
    if (k == 1.0f) continue;
    for (int64_t j = 0; j < n; j++) c[j] *= k;
  }
}

static float tile_dot(int64_t n, const float *x, const float *y) {
  float part[16] = {0};
  for (int64_t j = 0; j + 16 <= n; j += 16)
    for (int q = 0; q < 16; q++) part[q] += x[j + q] * y[j + q];
  for (int64_t j = n & ~(int64_t)15; j < n; j++) part[j & 15] += x[j] * y[j];
  TILE_TREE(part, TILE_ADD)
  return part[0];
}

// ---- bf16 pairs
// -----------------------------------------------------------------------------------------------------------
// Two neighbours along the summed dim stand in one 32-bit word, the first in its low half: what vdpbf16ps
// multiplies.
#if defined(__AVX512F__)
#define TILE_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

TILE_BF16 static inline void pair_block(const int nv, const tile_shape *s, const float *a, const float *b,
                                        float *c) {
  __m512 acc[TILE_MR][2];
#pragma GCC unroll 8
  for (int i = 0; i < TILE_MR; i++)
#pragma GCC unroll 2
    for (int j = 0; j < nv; j++)
      acc[i][j] = s->add ? _mm512_loadu_ps(c + i * s->ldc + j * 16) : _mm512_setzero_ps();
  for (int64_t p = 0; p < s->k; p++) {
    const float *row = b + p * s->ldb, *col = a + p * s->cs;
    __m512bh y[2];
#pragma GCC unroll 2
    for (int j = 0; j < nv; j++) y[j] = (__m512bh)_mm512_loadu_ps(row + j * 16);
#pragma GCC unroll 8
    for (int i = 0; i < TILE_MR; i++) {
      const __m512bh x = (__m512bh)_mm512_set1_ps(col[i * s->rs]);
#pragma GCC unroll 2
      for (int j = 0; j < nv; j++) acc[i][j] = _mm512_dpbf16_ps(acc[i][j], x, y[j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < TILE_MR; i++)
#pragma GCC unroll 2
    for (int j = 0; j < nv; j++) _mm512_storeu_ps(c + i * s->ldc + j * 16, acc[i][j]);
}
TILE_BF16 static void pair_block1(const tile_shape *s, const float *a, const float *b, float *c) {
  pair_block(1, s, a, b, c);
}
TILE_BF16 static void pair_block2(const tile_shape *s, const float *a, const float *b, float *c) {
  pair_block(2, s, a, b, c);
}

TILE_BF16 static void tile_gemm_pairs(int64_t m, int64_t n, int64_t k, const float *a, int64_t rs, int64_t cs,
                                      const float *b, int64_t ldb, float *c, int64_t ldc, bool add) {
  const tile_shape s = {k, rs, cs, ldb, ldc, add};
  for (int64_t j = 0; j < n;) {
    const bool two = n - j >= 32;
    for (int64_t i = 0; i < m; i += TILE_MR)
      (two ? pair_block2 : pair_block1)(&s, a + i * rs, b + j, c + i * ldc + j);
    j += two ? 32 : 16;
  }
}

TILE_BF16 static void tile_pair_cols(int64_t m, int64_t n, const float *src, int64_t ld, float *dst) {
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j += 16)
      _mm256_storeu_ps(dst + (i * ld + j) / 2, (__m256)_mm512_cvtneps_pbh(_mm512_loadu_ps(src + i * ld + j)));
}

TILE_BF16 static void tile_pair_rows(int64_t m, int64_t n, const float *src, int64_t ld, float *dst) {
  for (int64_t i = 0; i < m; i += 2)
    for (int64_t j = 0; j < n; j += 16) {
      const __m512i x = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(src + i * ld + j)));
      const __m512i y =
          _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(src + (i + 1) * ld + j)));
      _mm512_storeu_ps(dst + i / 2 * ld + j,
                       _mm512_castsi512_ps(_mm512_or_si512(x, _mm512_slli_epi32(y, 16))));
    }
}

static inline __mmask16 have16(int64_t n) { return (__mmask16)(n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1); }

// The same from bf16 in memory, `n` of the ld columns and `m` of the rows given, the others zero.
TILE_BF16 static void tile_half_cols(int64_t m, int64_t n, int64_t rows, const uint16_t *src, int64_t stride, float *dst, int64_t ld) {
  for (int64_t i = 0; i < m && i < TILE_AHEAD; i++) fetch_row(src + i * stride, n * 2);
  for (int64_t i = 0; i < rows; i++, src += stride, dst += ld / 2) {
    if (i + TILE_AHEAD < m) fetch_row(src + TILE_AHEAD * stride, n * 2);
    for (int64_t j = 0; j < ld; j += 16)
      _mm256_storeu_ps(dst + j / 2, _mm256_castsi256_ps(_mm256_maskz_loadu_epi16(i < m ? have16(n - j) : 0, src + j)));
  }
}

TILE_BF16 static void tile_half_rows(int64_t m, int64_t n, int64_t rows, const uint16_t *src, int64_t stride, float *dst, int64_t ld) {
  for (int64_t i = 0; i < m && i < TILE_AHEAD; i++) fetch_row(src + i * stride, n * 2);
  for (int64_t i = 0; i < rows; i += 2, src += 2 * stride, dst += ld) {
    for (int64_t r = i + TILE_AHEAD; r < m && r < i + TILE_AHEAD + 2; r++) fetch_row(src + (r - i) * stride, n * 2);
    for (int64_t j = 0; j < ld; j += 16) {
      const __m512i x = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(i < m ? have16(n - j) : 0, src + j));
      const __m512i y = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(i + 1 < m ? have16(n - j) : 0, src + stride + j));
      _mm512_storeu_si512(dst + j, _mm512_or_si512(x, _mm512_slli_epi32(y, 16)));
    }
  }
}

static void tile_load_half(int64_t m, int64_t n, const uint16_t *src, int64_t stride, float *dst, int64_t ld) {
  for (int64_t i = 0; i < m && i < TILE_AHEAD; i++) fetch_row(src + i * stride, n * 2);
  for (int64_t i = 0; i < m; i++, src += stride, dst += ld) {
    if (i + TILE_AHEAD < m) fetch_row(src + TILE_AHEAD * stride, n * 2);
    for (int64_t j = 0; j < ld; j += 16)
      _mm512_storeu_si512(dst + j, _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(have16(n - j), src + j)), 16));
  }
}

TILE_BF16 static void tile_store_half(int64_t m, int64_t n, const float *src, int64_t ld, uint16_t *dst, int64_t stride) {
  for (int64_t i = 0; i < m; i++, src += ld, dst += stride)
    for (int64_t j = 0; j < n; j += 16)
      _mm256_mask_storeu_epi16(dst + j, have16(n - j), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(src + j)));
}
#define TILE_PAIRS                                                                                                      \
  .tile_gemm_pairs = tile_gemm_pairs, .tile_pair_cols = tile_pair_cols, .tile_pair_rows = tile_pair_rows,               \
  .tile_half_cols = tile_half_cols, .tile_half_rows = tile_half_rows, .tile_load_half = tile_load_half,                            \
  .tile_store_half = tile_store_half
#else
#define TILE_PAIRS .tile_gemm_pairs = NULL
#endif
