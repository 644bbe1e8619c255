// Part of vec.c: the inner parts of large matrix products (gemm_tiled.c), for processors with 512-bit vectors.
//
// Elements are 32-bit words: a float, or a pair of bf16 that are neighbours along the summed dim, the first in the low
// half. A panel holds `width` lines (rows of A, columns of B) side by side, word after word:
//
//   panel:   word 0 of line 0..width-1 | word 1 of line 0..width-1 | ...      width 12 for A, 32 for B
//
// The product keeps 12 x 2 vectors of C in registers, reads B by two loads and A by twelve broadcasts a word: 24
// multiply-adds for 14 loads, so both panels may stream from the second cache.
#pragma once
#if defined(__AVX512F__)
#include <immintrin.h>

#define GEMM_BODY(MULTIPLY_ADD)                                                                                      \
  __m512 acc[ZG_TILED_MR][2];                                                                                        \
  _Pragma("GCC unroll 12") for (int i = 0; i < ZG_TILED_MR; i++) {                                                   \
    acc[i][0] = add ? _mm512_loadu_ps(c + i * ldc) : _mm512_setzero_ps();                                            \
    acc[i][1] = add ? _mm512_loadu_ps(c + i * ldc + 16) : _mm512_setzero_ps();                                       \
    _mm_prefetch(c + i * ldc, _MM_HINT_T0), _mm_prefetch(c + i * ldc + 16, _MM_HINT_T0);                             \
  }                                                                                                                  \
  for (int64_t p = 0; p < k; p++, a += ZG_TILED_MR, b += ZG_TILED_NR, ahead += ahead_step) {                         \
    _mm_prefetch(ahead, _MM_HINT_T1);                                                                                \
    const __m512 y0 = _mm512_load_ps(b), y1 = _mm512_load_ps(b + 16);                                                \
    _Pragma("GCC unroll 12") for (int i = 0; i < ZG_TILED_MR; i++) {                                                 \
      const __m512 x = _mm512_set1_ps(a[i]);                                                                         \
      acc[i][0] = MULTIPLY_ADD(acc[i][0], x, y0);                                                                    \
      acc[i][1] = MULTIPLY_ADD(acc[i][1], x, y1);                                                                    \
    }                                                                                                                \
  }                                                                                                                  \
  _Pragma("GCC unroll 12") for (int i = 0; i < ZG_TILED_MR; i++) {                                                   \
    _mm512_storeu_ps(c + i * ldc, acc[i][0]);                                                                        \
    _mm512_storeu_ps(c + i * ldc + 16, acc[i][1]);                                                                   \
  }
#define MULTIPLY_ADD_F32(acc, x, y) _mm512_fmadd_ps(x, y, acc)
#define MULTIPLY_ADD_PAIRS(acc, x, y) _mm512_dpbf16_ps(acc, (__m512bh)(x), (__m512bh)(y))

static void tiled_f32(int64_t k, const float *a, const float *b, const char *ahead, int64_t ahead_step, float *c, int64_t ldc, bool add) {
  GEMM_BODY(MULTIPLY_ADD_F32)
}
TILE_BF16 static void tiled_pairs(int64_t k, const float *a, const float *b, const char *ahead, int64_t ahead_step, float *c, int64_t ldc,
                                  bool add) {
  GEMM_BODY(MULTIPLY_ADD_PAIRS)
}

// 16 lines (of which `n` exist) x 16 words, of which the mask lets pass `have` elements of `size` bytes.
static void transpose_words(const uint8_t *src, int64_t line_bytes, int64_t n, int64_t have, int64_t size, __m512 out[16]) {
  __m512 r[16], t[16];
  const __mmask32 mask = have >= 64 / size ? 0xffffffffu : (1u << (have * size / 2)) - 1;   // of 16-bit halves
  for (int i = 0; i < 16 && i < n; i++) _mm_prefetch(src + i * line_bytes + 512, _MM_HINT_T0);
  for (int i = 0; i < 16; i++)
    r[i] = i < n ? _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(mask, src + i * line_bytes)) : _mm512_setzero_ps();
  for (int i = 0; i < 16; i += 2) t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]), t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  for (int i = 0; i < 16; i += 4) {
    const __m512d lo0 = _mm512_castps_pd(t[i]), hi0 = _mm512_castps_pd(t[i + 1]), lo1 = _mm512_castps_pd(t[i + 2]),
                  hi1 = _mm512_castps_pd(t[i + 3]);
    r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(lo0, lo1)), r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(lo0, lo1));
    r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(hi0, hi1)), r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(hi0, hi1));
  }
  for (int c = 0; c < 4; c++) {
    const __m512 a = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x88), b = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xdd),
                 e = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x88), f = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xdd);
    out[c] = _mm512_shuffle_f32x4(a, e, 0x88), out[4 + c] = _mm512_shuffle_f32x4(b, f, 0x88);
    out[8 + c] = _mm512_shuffle_f32x4(a, e, 0xdd), out[12 + c] = _mm512_shuffle_f32x4(b, f, 0xdd);
  }
}

// The lines of a panel that vector i .. i + 16 holds.
static __mmask16 panel_mask(int64_t width, int64_t i) { return (__mmask16)(width - i >= 16 ? 0xffff : (1u << (width - i)) - 1); }

// One panel of lines whose k elements are neighbours in memory.
static void tiled_pack_lines(int64_t width, int64_t n, int64_t k, int64_t size, const void *src, int64_t line, float *dst) {
  const int64_t words = (k * size + 3) / 4;
  for (int64_t i = 0; i < width; i += 16)
    for (int64_t p = 0; p < words; p += 16) {
      __m512 out[16];
      const uint8_t *from = (const uint8_t *)src + i * line * size + p * 4;
      transpose_words(from, line * size, n - i, k - p * 4 / size, size, out);
      const int64_t m = ZG_MIN(16, words - p);
      for (int64_t q = 0; q < m; q++) _mm512_mask_storeu_ps(dst + (p + q) * width + i, panel_mask(width, i), out[q]);
    }
}

// One panel of lines that are neighbours in memory, their elements `step` apart. The processor does not foresee reads so
// far apart, hence the prefetches (of addresses that need not exist).
enum { TILED_AHEAD = 64 };
static void tiled_pack_words(int64_t width, int64_t n, int64_t k, const float *src, int64_t step, float *dst) {
  for (int64_t i = 0; i < width; i += 16) {
    const int64_t w = ZG_MAX(0, ZG_MIN(16, n - i));
    const __mmask16 mask = (__mmask16)((1u << w) - 1);
    for (int64_t p = 0; p < k; p++) {
      _mm_prefetch(src + (p + TILED_AHEAD) * step + i, _MM_HINT_T0);
      _mm512_mask_storeu_ps(dst + p * width + i, panel_mask(width, i), _mm512_maskz_loadu_ps(mask, src + p * step + i));
    }
  }
}
static void tiled_pack_pairs(int64_t width, int64_t n, int64_t k, const uint16_t *src, int64_t step, float *dst) {
  for (int64_t i = 0; i < width; i += 16) {
    const int64_t w = ZG_MAX(0, ZG_MIN(16, n - i));
    const __mmask16 mask = (__mmask16)((1u << w) - 1);
    for (int64_t p = 0; p < k; p += 2) {
      _mm_prefetch(src + (p + TILED_AHEAD) * step + i, _MM_HINT_T0);
      _mm_prefetch(src + (p + TILED_AHEAD + 1) * step + i, _MM_HINT_T0);
      const __m512i lo = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, src + p * step + i));
      const __mmask16 second = p + 1 < k ? mask : 0;
      const __m512i hi = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(second, src + (p + 1) * step + i));
      _mm512_mask_storeu_epi32(dst + p / 2 * width + i, panel_mask(width, i), _mm512_or_si512(lo, _mm512_slli_epi32(hi, 16)));
    }
  }
}

static void tiled_pack(int64_t width, int64_t n, int64_t k, int64_t size, const void *src, int64_t line, int64_t step, float *dst) {
  if (step == 1) tiled_pack_lines(width, n, k, size, src, line, dst);
  else if (size == 4) tiled_pack_words(width, n, k, src, step, dst);
  else tiled_pack_pairs(width, n, k, src, step, dst);
}

// A tile of sums, 32 a row, to bf16.
TILE_BF16 static void tiled_half(int64_t m, int64_t n, const float *sums, uint16_t *dst, int64_t ld) {
  const __mmask32 mask = n >= ZG_TILED_NR ? 0xffffffffu : (1u << n) - 1;
  for (int64_t i = 0; i < m; i++, sums += ZG_TILED_NR, dst += ld)
    _mm512_mask_storeu_epi16(dst, mask, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(sums + 16), _mm512_loadu_ps(sums)));
}
#define TILED_ROWS .tiled = {tiled_f32, tiled_pairs}, .tiled_pack = tiled_pack, .tiled_half = tiled_half
#else
#define TILED_ROWS .tiled_pack = NULL
#endif
