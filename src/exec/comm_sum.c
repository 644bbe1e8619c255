// Sums over ranks, in rank order. Blocks of a few KiB stay in the first-level cache; half types add up in f32.
#include "exec/comm_priv.h"

enum { BLOCK = 2048 };

bool zg__comm_can_sum(zg_dtype t) {
  return t == ZG_F32 || t == ZG_F64 || t == ZG_BF16 || t == ZG_F16 || t == ZG_I32 || t == ZG_I64;
}

static inline float bf16_up(uint16_t x) {
  const uint32_t bits = (uint32_t)x << 16;
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

// Round to nearest even without a branch, so that the loop vectorises; a NaN stays one.
static inline uint16_t bf16_down(float f) {
  uint32_t bits;
  memcpy(&bits, &f, sizeof bits);
  const uint32_t nan = (bits & 0x7fffffffu) > 0x7f800000u ? 0xffffffffu : 0;
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16, quiet = bits >> 16 | 0x40u;
  return (uint16_t)((rounded & ~nan) | (quiet & nan));
}

#define SUM_PLAIN(T)                                                                                     \
  do {                                                                                                   \
    for (uint64_t at = 0; at < n; at += BLOCK) {                                                         \
      const uint64_t m = ZG_MIN((uint64_t)BLOCK, n - at);                                                \
      T acc[BLOCK];                                                                                      \
      memcpy(acc, (const T *)src[0] + at, m * sizeof(T));                                                \
      for (uint32_t r = 1; r < n_src; r++) {                                                             \
        const T *x = (const T *)src[r] + at;                                                             \
        for (uint64_t i = 0; i < m; i++) acc[i] += x[i];                                                 \
      }                                                                                                  \
      memcpy((T *)dst + at, acc, m * sizeof(T));                                                         \
    }                                                                                                    \
  } while (0)

// Half types: up, add in order, down. DOWN and UP work on whole blocks, so that each can be what the machine does best.
#define SUM_HALF(UP, DOWN)                                                                               \
  for (uint64_t at = 0; at < n; at += BLOCK) {                                                           \
    const uint64_t m = ZG_MIN((uint64_t)BLOCK, n - at);                                                  \
    float acc[BLOCK], x[BLOCK];                                                                          \
    UP(acc, (const uint16_t *)src[0] + at, m);                                                           \
    for (uint32_t r = 1; r < n_src; r++) {                                                               \
      UP(x, (const uint16_t *)src[r] + at, m);                                                           \
      for (uint64_t i = 0; i < m; i++) acc[i] += x[i];                                                   \
    }                                                                                                    \
    DOWN((uint16_t *)dst + at, acc, m);                                                                  \
  }

#define INLINE static inline __attribute__((always_inline)) void
INLINE bf16_up_n(float *to, const uint16_t *from, uint64_t n) {
  for (uint64_t i = 0; i < n; i++) to[i] = bf16_up(from[i]);
}
INLINE bf16_down_n(uint16_t *to, const float *from, uint64_t n) {
  for (uint64_t i = 0; i < n; i++) to[i] = bf16_down(from[i]);
}
INLINE f16_up_n(float *to, const uint16_t *from, uint64_t n) {
  for (uint64_t i = 0; i < n; i++) to[i] = zg_f16_to_f32(from[i]);
}
INLINE f16_down_n(uint16_t *to, const float *from, uint64_t n) {
  for (uint64_t i = 0; i < n; i++) to[i] = zg_f16_from_f32(from[i]);
}

static void sum_bf16(void *dst, const void *const *src, uint32_t n_src, uint64_t n) { SUM_HALF(bf16_up_n, bf16_down_n) }
static void sum_f16(void *dst, const void *const *src, uint32_t n_src, uint64_t n) { SUM_HALF(f16_up_n, f16_down_n) }

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2,f16c")))

AVX2 static void f16_up_avx2(float *to, const uint16_t *from, uint64_t n) {
  uint64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
  for (; i < n; i++) to[i] = zg_f16_to_f32(from[i]);
}
AVX2 static void f16_down_avx2(uint16_t *to, const float *from, uint64_t n) {
  uint64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm_storeu_si128((__m128i *)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
  for (; i < n; i++) to[i] = zg_f16_from_f32(from[i]);
}
AVX2 static void sum_f16_avx2(void *dst, const void *const *src, uint32_t n_src, uint64_t n) { SUM_HALF(f16_up_avx2, f16_down_avx2) }
AVX2 static void sum_bf16_avx2(void *dst, const void *const *src, uint32_t n_src, uint64_t n) { SUM_HALF(bf16_up_n, bf16_down_n) }
// clang 14's __builtin_cpu_supports does not know f16c.
static bool has_avx2(void) {
  unsigned a, b, c, d;
  return __builtin_cpu_supports("avx2") && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#else
static bool has_avx2(void) { return false; }
#define sum_f16_avx2 sum_f16
#define sum_bf16_avx2 sum_bf16
#endif

// Two sources are the common case (two ranks) and need no block in between. They may be dst: each element is read before written.
static void sum2_f32(float *dst, const float *a, const float *b, uint64_t n) {
  for (uint64_t i = 0; i < n; i++) dst[i] = a[i] + b[i];
}

void zg__comm_sum(zg_dtype t, void *dst, const void *const *src, uint32_t n_src, uint64_t n) {
  switch (t) {
    case ZG_F32:
      if (n_src == 2) sum2_f32(dst, src[0], src[1], n);
      else SUM_PLAIN(float);
      break;
    case ZG_F64: SUM_PLAIN(double); break;
    case ZG_I32: SUM_PLAIN(uint32_t); break;   // unsigned: overflow wraps, as two's complement does
    case ZG_I64: SUM_PLAIN(uint64_t); break;
    case ZG_BF16: (has_avx2() ? sum_bf16_avx2 : sum_bf16)(dst, src, n_src, n); break;
    case ZG_F16: (has_avx2() ? sum_f16_avx2 : sum_f16)(dst, src, n_src, n); break;
    case ZG_I8: case ZG_I16: case ZG_U8: case ZG_U16: case ZG_U32: case ZG_U64: case ZG_BOOL: case ZG_N_DTYPES: break;
  }
}
