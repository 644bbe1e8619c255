// The C-and-CUDA dialect: what stands in front of every generated kernel. One text serves NVRTC (no CUDA header is used) and a
// C compiler, for which whoever runs the kernels declares before it:
//   threadIdx, blockIdx, blockDim, gridDim      structs with unsigned x, y, z
//   void zg_emu_sync(void)                      barrier of the block
//   void *zg_emu_exchange(const void *v, unsigned n)   warp collective: 32 slots of 64 bytes, slot i = lane i's n <= 64 bytes;
//                                               good until the lane's next exchange
//   void *zg_emu_dynshared(void)                the block's dynamic shared memory, 16-byte aligned
//   void zg_emu_enter(void *ctx)                makes ctx the one that runs (called by thunks)
// All memory is accessed by any type that fits (-fno-strict-aliasing). Warps are 32 lanes; warp collectives are called by all
// lanes of a warp. bf16 and f16 are unsigned shorts, arithmetic is in float.
#ifdef __CUDACC__
// ZG_KERNEL(name, threads per block)(const name_args a) { ... }
#define ZG_KERNEL(name, threads) extern "C" __global__ void __launch_bounds__(threads) name
#define ZG_THUNK(name, args)
#define ZG_FN static __device__ __forceinline__
#define ZG_SHARED __shared__
#define ZG_DYNSHARED(T, n) extern __shared__ __align__(16) unsigned char zg_dyn_[]; T *n = (T *)zg_dyn_
#define ZG_UNROLL _Pragma("unroll")
#define ZG_NO_UNROLL _Pragma("unroll 1")
#define zg_sync() __syncthreads()
#define zg_syncwarp() __syncwarp()
typedef uint2 zg_u2;
typedef uint4 zg_u4;
#else
// void name(const args a), and void name__thunk(const void *packed, void *ctx), which unpacks the launch's parameter buffer.
#define ZG_KERNEL(name, threads) static void name
#define ZG_THUNK(name, args)                          \
  void name##__thunk(const void *packed, void *ctx) { \
    args a;                                           \
    zg_emu_enter(ctx);                                \
    __builtin_memcpy(&a, packed, sizeof a);           \
    name(a);                                          \
  }
#define ZG_FN static inline __attribute__((unused))
#define ZG_SHARED static _Thread_local
#define ZG_DYNSHARED(T, n) T *n = (T *)zg_emu_dynshared()
#define ZG_UNROLL
#define ZG_NO_UNROLL
#define zg_sync() zg_emu_sync()
#define zg_syncwarp() ((void)zg_emu_exchange("", 1))
typedef struct { unsigned x, y; } __attribute__((aligned(8))) zg_u2;
typedef struct { unsigned x, y, z, w; } __attribute__((aligned(16))) zg_u4;
#endif
#define ZG_ALIGN(n) __attribute__((aligned(n)))
#ifndef INFINITY
#define INFINITY (zg_float(0x7f800000u))
#endif
typedef long long zg_i64;
typedef unsigned long long zg_u64;
typedef unsigned short zg_bf16;
typedef unsigned short zg_f16;

// ---- bits, conversions ---------------------------------------------------------------------------------------------------
#ifdef __CUDACC__
ZG_FN float zg_float(unsigned u) { return __uint_as_float(u); }
ZG_FN unsigned zg_bits(float f) { return __float_as_uint(f); }
ZG_FN zg_bf16 zg_f2b(float f) { zg_bf16 r; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(f)); return r; }
ZG_FN unsigned zg_f2b2(float lo, float hi) { unsigned r; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo)); return r; }
ZG_FN float zg_h2f(zg_f16 h) { float r; asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(h)); return r; }
ZG_FN zg_f16 zg_f2h(float f) { zg_f16 r; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(f)); return r; }
ZG_FN unsigned zg_f2h2(float lo, float hi) { unsigned r; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo)); return r; }
ZG_FN void zg_ld16(void *to, const void *from) { *(zg_u4 *)to = *(const zg_u4 *)from; }
ZG_FN void zg_ld8(void *to, const void *from) { *(zg_u2 *)to = *(const zg_u2 *)from; }
#else
ZG_FN float zg_float(unsigned u) { float f; __builtin_memcpy(&f, &u, 4); return f; }
ZG_FN unsigned zg_bits(float f) { unsigned u; __builtin_memcpy(&u, &f, 4); return u; }
ZG_FN zg_bf16 zg_f2b(float f) {
  const unsigned u = zg_bits(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (zg_bf16)(u >> 16 | 64);
  return (zg_bf16)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}
ZG_FN unsigned zg_f2b2(float lo, float hi) { return zg_f2b(lo) | (unsigned)zg_f2b(hi) << 16; }
ZG_FN float zg_h2f(zg_f16 h) {
  const unsigned s = (h & 0x8000u) << 16, e = h >> 10 & 31, m = h & 0x3ffu;
  if (e == 31) return zg_float(s | 0x7f800000u | m << 13);
  if (e) return zg_float(s | (e + 112) << 23 | m << 13);
  return zg_float(s | zg_bits((float)m * 0x1p-24f));
}
ZG_FN zg_f16 zg_f2h(float f) {
  const unsigned u = zg_bits(f), s = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return (zg_f16)(s | 0x7e00u);
  if (a >= 0x477ff000u) return (zg_f16)(s | 0x7c00u);
  if (a < 0x38800000u) return (zg_f16)(s | (zg_bits(zg_float(a) + 0.5f) - zg_bits(0.5f)));
  return (zg_f16)(s | ((a + 0xfffu + (a >> 13 & 1) - 0x38000000u) >> 13));
}
ZG_FN unsigned zg_f2h2(float lo, float hi) { return zg_f2h(lo) | (unsigned)zg_f2h(hi) << 16; }
ZG_FN void zg_ld16(void *to, const void *from) { *(zg_u4 *)__builtin_assume_aligned(to, 16) = *(const zg_u4 *)from; }
ZG_FN void zg_ld8(void *to, const void *from) { *(zg_u2 *)__builtin_assume_aligned(to, 8) = *(const zg_u2 *)from; }
#endif
ZG_FN void zg_ld4(void *to, const void *from) { *(unsigned *)to = *(const unsigned *)from; }
ZG_FN void zg_ld2(void *to, const void *from) { *(unsigned short *)to = *(const unsigned short *)from; }
ZG_FN float zg_b2f(zg_bf16 h) { return zg_float((unsigned)h << 16); }
// Double to a half type with one rounding: by way of a float rounded to odd.
ZG_FN float zg_odd(double v) {
  const float f = (float)v;
  if ((double)f == v || v != v || f - f != 0) return f;
  return zg_float((((double)f > v) == (v > 0) ? zg_bits(f) - 1 : zg_bits(f)) | 1);
}
// Floats to integers truncate; out of range gives the nearest end, NaN gives 0.
ZG_FN zg_i64 zg_trunc(double v, double lo, double hi, zg_i64 ilo, zg_i64 ihi) {
  return v != v ? 0 : v >= hi ? ihi : v <= lo ? ilo : (zg_i64)v;
}
ZG_FN zg_u64 zg_trunc_u64(double v) { return v != v || v <= 0 ? 0 : v >= 18446744073709551615.0 ? ~0ull : (zg_u64)v; }

// ---- warps, atomics ------------------------------------------------------------------------------------------------------
#ifdef __CUDACC__
ZG_FN float zg_shfl_xor_f(float v, int m) { return __shfl_xor_sync(~0u, v, m); }
ZG_FN double zg_shfl_xor_d(double v, int m) { return __shfl_xor_sync(~0u, v, m); }
ZG_FN zg_i64 zg_shfl_xor_i(zg_i64 v, int m) { return __shfl_xor_sync(~0u, v, m); }
ZG_FN float zg_shfl_f(float v, int lane) { return __shfl_sync(~0u, v, lane); }
ZG_FN double zg_shfl_d(double v, int lane) { return __shfl_sync(~0u, v, lane); }
ZG_FN zg_i64 zg_shfl_i(zg_i64 v, int lane) { return __shfl_sync(~0u, v, lane); }
ZG_FN unsigned zg_ballot(int p) { return __ballot_sync(~0u, p); }
ZG_FN int zg_sync_or(int p) { return __syncthreads_or(p); }
ZG_FN int zg_popc(unsigned x) { return __popc(x); }
ZG_FN int zg_cas(int *at, int want, int to) { return atomicCAS(at, want, to); }
ZG_FN void zg_fence(void) { __threadfence(); }
ZG_FN unsigned zg_mulhi(unsigned a, unsigned b) { return __umulhi(a, b); }
#else
#define ZG_EMU_SHFL(T, s)                                                                     \
  ZG_FN T zg_shfl_##s(T v, int lane) {                                                        \
    T r;                                                                                      \
    __builtin_memcpy(&r, (char *)zg_emu_exchange(&v, sizeof v) + 64 * (lane & 31), sizeof r); \
    return r;                                                                                 \
  }                                                                                           \
  ZG_FN T zg_shfl_xor_##s(T v, int m) {                                                       \
    return zg_shfl_##s(v, (int)((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) & 31) ^ m); \
  }
ZG_EMU_SHFL(float, f)
ZG_EMU_SHFL(double, d)
ZG_EMU_SHFL(zg_i64, i)
ZG_FN unsigned zg_ballot(int p) {
  const char *s = (const char *)zg_emu_exchange(&p, sizeof p);
  unsigned r = 0;
  for (int i = 0; i < 32; i++) {
    int q;
    __builtin_memcpy(&q, s + 64 * i, 4);
    r |= (unsigned)(q != 0) << i;
  }
  return r;
}
ZG_FN int zg_sync_or(int p) {
  static _Thread_local int any;
  zg_emu_sync();
  any = 0;
  zg_emu_sync();
  if (p) any = 1;
  zg_emu_sync();
  return any;
}
ZG_FN int zg_popc(unsigned x) { return __builtin_popcount(x); }
ZG_FN int zg_cas(int *at, int want, int to) {
  __atomic_compare_exchange_n(at, &want, to, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  return want;
}
ZG_FN void zg_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
ZG_FN unsigned zg_mulhi(unsigned a, unsigned b) { return (unsigned)((zg_u64)a * b >> 32); }
#endif

// The first failure of a run: record[0] claims, then kernel number, index, limit. The host reads it when it next waits.
ZG_FN void zg_fail(void *record, zg_i64 kernel, zg_i64 index, zg_i64 limit) {
  if (zg_cas((int *)record, 0, 1) != 0) return;
  ((zg_i64 *)record)[1] = kernel;
  ((zg_i64 *)record)[2] = index;
  ((zg_i64 *)record)[3] = limit;
}

// ---- tensor cores --------------------------------------------------------------------------------------------------------
// c[16,8] += a[16,16] b[16,8], fragments as PTX's mma.m16n8k16 lays them out: lane l holds, with g = l / 4 and t = l % 4,
// c rows g, g + 8, columns 2t, 2t + 1; a pairs (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8); b pairs (2t, g), (2t + 8, g).
#ifdef __CUDACC__
#define ZG_MMA(name, type)                                                                                         \
  ZG_FN void name(float *c, const unsigned *a, const unsigned *b) {                                                \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                                            \
                 ".f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"                                         \
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                              \
  }
ZG_MMA(zg_mma_bf16, "bf16")
ZG_MMA(zg_mma_f16, "f16")
#else
#define ZG_MMA(name, value)                                                                                        \
  ZG_FN void name(float *c, const unsigned *a, const unsigned *b) {                                                \
    const unsigned in[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};                                                   \
    const int lane = (int)((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) & 31);            \
    const char *s = (const char *)zg_emu_exchange(in, sizeof in);                                                  \
    for (int j = 0; j < 4; j++) {                                                                                  \
      const int row = lane / 4 + (j >> 1) * 8, col = lane % 4 * 2 + (j & 1);                                       \
      float sum = 0;                                                                                               \
      for (int k = 0; k < 16; k++) {                                                                               \
        unsigned x, y;                                                                                             \
        __builtin_memcpy(&x, s + 64 * (row % 8 * 4 + k % 8 / 2) + 4 * (row / 8 + k / 8 * 2), 4);                   \
        __builtin_memcpy(&y, s + 64 * (col * 4 + k % 8 / 2) + 16 + 4 * (k / 8), 4);                                \
        sum += value((unsigned short)(x >> (k & 1) * 16)) * value((unsigned short)(y >> (k & 1) * 16));            \
      }                                                                                                            \
      c[j] += sum;                                                                                                 \
    }                                                                                                              \
  }
ZG_MMA(zg_mma_bf16, zg_b2f)
ZG_MMA(zg_mma_f16, zg_h2f)
#endif

// r[i]: lane l's part of the i-th of four 8 x 8 matrices of 16-bit numbers, whose rows of 16 bytes lie in shared memory where lanes
// 8i .. 8i + 7 point: row l / 4, columns 2 (l % 4) and the next. zg_ldmatrix_t: of the transposed matrices.
#ifdef __CUDACC__
#define ZG_LDMATRIX(name, how)                                                                             \
  ZG_FN void name(unsigned *r, const void *row) {                                                          \
    asm volatile("ldmatrix.sync.aligned.m8n8.x4" how ".shared.b16 {%0,%1,%2,%3}, [%4];"                    \
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])                                          \
                 : "r"((unsigned)__cvta_generic_to_shared(row))                                            \
                 : "memory");                                                                              \
  }
ZG_LDMATRIX(zg_ldmatrix, "")
ZG_LDMATRIX(zg_ldmatrix_t, ".trans")
#else
ZG_FN const unsigned short *zg_emu_row(const char *s, int i) {
  const unsigned short *r;
  __builtin_memcpy(&r, s + 64 * i, sizeof r);
  return r;
}
ZG_FN void zg_ldmatrix(unsigned *r, const void *row) {
  const int lane = (int)threadIdx.x & 31;
  const char *s = (const char *)zg_emu_exchange(&row, sizeof row);
  for (int i = 0; i < 4; i++) zg_ld4(&r[i], zg_emu_row(s, 8 * i + lane / 4) + lane % 4 * 2);
}
ZG_FN void zg_ldmatrix_t(unsigned *r, const void *row) {
  const int lane = (int)threadIdx.x & 31;
  const char *s = (const char *)zg_emu_exchange(&row, sizeof row);
  for (int i = 0; i < 4; i++)
    r[i] = zg_emu_row(s, 8 * i + lane % 4 * 2)[lane / 4] | (unsigned)zg_emu_row(s, 8 * i + lane % 4 * 2 + 1)[lane / 4] << 16;
}
#endif

// ---- copies to shared memory behind the thread's back -------------------------------------------------------------------------
// ZG_ASYNC(q) declares the thread's queue. zg_async16 asks for 16 bytes, zeros where not `live`; zg_async_commit ends a group of such;
// zg_async_wait(q, n) waits until all but the last n groups (a literal number) have arrived; other threads see them behind a barrier.
// In C a copy is done when it is asked for or when it is waited for, by its place: what comes too early shows, and what comes too late.
#ifdef __CUDACC__
#define ZG_ASYNC(q)
#define zg_async16(q, to, from, live) zg_async16_(to, from, live)
#define zg_async_commit(q) asm volatile("cp.async.commit_group;" ::: "memory")
#define zg_async_wait(q, n) zg_async_wait_(n)
#define zg_async_wait_(n) asm volatile("cp.async.wait_group " #n ";" ::: "memory")
ZG_FN void zg_async16_(void *to, const void *from, int live) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               ::"r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(live ? 16 : 0) : "memory");
}
#else
typedef struct {
  struct { void *to; const void *from; int group; } copy[64];
  int n, group;
} zg_async_queue;
#define ZG_ASYNC(q) zg_async_queue q; q.n = q.group = 0
#define zg_async16(q, to, from, live) zg_async16_(&q, to, from, live)
#define zg_async_commit(q) ((void)q.group++)
#define zg_async_wait(q, n) zg_async_wait_(&q, n)
ZG_FN void zg_async_do_(void *to, const void *from) {
  __builtin_memset(to, 0, 16);
  if (from) __builtin_memcpy(to, from, 16);
}
ZG_FN void zg_async16_(zg_async_queue *q, void *to, const void *from, int live) {
  if (!live) from = (const void *)0;
  if (q->n == 64 || (((zg_u64)to >> 4 ^ (zg_u64)to >> 7 ^ threadIdx.x ^ (unsigned)q->group) & 1)) {
    zg_async_do_(to, from);
    return;
  }
  q->copy[q->n].to = to, q->copy[q->n].from = from, q->copy[q->n++].group = q->group;
}
ZG_FN void zg_async_wait_(zg_async_queue *q, int but) {
  int kept = 0;
  for (int i = 0; i < q->n; i++) {
    if (q->copy[i].group < q->group - but) zg_async_do_(q->copy[i].to, q->copy[i].from);
    else q->copy[kept++] = q->copy[i];
  }
  q->n = kept;
}
#endif

// ---- tiles of 16-bit floats, for attention -----------------------------------------------------------------------------------
// Loads `rows` x `padded` elements from row row0 on into shared memory, row-major with `pitch`, or transposed; what lies behind
// `limit` rows or `cols` columns becomes 0. vec: rows are contiguous and all addresses suit 16-byte accesses. padded: multiple of 8.
ZG_FN void zg_tile(unsigned short *to, int pitch, int transposed, const unsigned short *from, zg_i64 row0, zg_i64 limit, zg_i64 step_row,
                   zg_i64 step_col, int rows, int cols, int padded, int vec) {
  for (int at = (int)threadIdx.x * 8; at < rows * padded; at += (int)blockDim.x * 8) {
    const int r = at / padded, c = at % padded;
    ZG_ALIGN(16) unsigned short t[8];
    if (vec && row0 + r < limit && c < cols) zg_ld16(t, from + (row0 + r) * step_row + c);
    else
      for (int u = 0; u < 8; u++) t[u] = row0 + r < limit && c + u < cols ? from[(row0 + r) * step_row + (c + u) * step_col] : 0;
    if (transposed)
      for (int u = 0; u < 8; u++) to[(c + u) * pitch + r] = t[u];
    else zg_ld16(to + r * pitch + c, t);
  }
}
// The fragment a of zg_mma: rows row0 + g and row0 + g + 8, columns col0 .. col0 + 15, from memory; 0 behind limit and cols.
ZG_FN void zg_fragment(unsigned *a, const unsigned short *from, zg_i64 row0, zg_i64 limit, zg_i64 step_row, zg_i64 step_col, int col0, int cols) {
  const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
  ZG_UNROLL for (int i = 0; i < 4; i++) {
    const zg_i64 row = row0 + g + i % 2 * 8;
    const int col = col0 + 2 * t + i / 2 * 8;
    const unsigned lo = row < limit && col < cols ? from[row * step_row + col * step_col] : 0;
    const unsigned hi = row < limit && col + 1 < cols ? from[row * step_row + (col + 1) * step_col] : 0;
    a[i] = lo | hi << 16;
  }
}
// The fragment b of zg_mma out of shared memory where b[k][n] is at n * pitch + k.
ZG_FN void zg_fragment_b(unsigned *b, const unsigned short *tile, int pitch, int n0, int k0) {
  const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
  const unsigned short *at = tile + (n0 + g) * pitch + k0 + 2 * t;
  b[0] = *(const unsigned *)at;
  b[1] = *(const unsigned *)(at + 8);
}

// ---- random: Philox4x32-10 -----------------------------------------------------------------------------------------------
// state: key low, key high, step. The draws of zg_loop_random.
ZG_FN void zg_philox(const unsigned *state, unsigned stream, zg_u64 element, unsigned *w) {
  unsigned c0 = (unsigned)element, c1 = (unsigned)(element >> 32), c2 = state[2], c3 = stream, k0 = state[0], k1 = state[1];
  for (int round = 0; round < 10; round++) {
    const unsigned h0 = zg_mulhi(0xD2511F53u, c0), l0 = 0xD2511F53u * c0, h1 = zg_mulhi(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
    c0 = h1 ^ c1 ^ k0;
    c1 = l1;
    c2 = h0 ^ c3 ^ k1;
    c3 = l0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  w[0] = c0;
  w[1] = c1;
  w[2] = c2;
  w[3] = c3;
}
ZG_FN float zg_uniform(const unsigned *state, unsigned stream, zg_i64 element) {
  unsigned w[4];
  zg_philox(state, stream, (zg_u64)element / 4, w);
  const unsigned lo = element & 1 ? w[1] : w[0], hi = element & 1 ? w[3] : w[2];   // an index would put w into local memory
  return (float)((element & 2 ? hi : lo) >> 8) * 5.9604644775390625e-8f;
}
ZG_FN float zg_normal(const unsigned *state, unsigned stream, zg_i64 element) {
  unsigned w[4];
  zg_philox(state, stream, (zg_u64)element, w);
  const float u = (float)((w[0] >> 8) + 1) * 5.9604644775390625e-8f, v = (float)(w[1] >> 8) * 5.9604644775390625e-8f;
  return sqrtf(-2.0f * logf(u)) * cosf(6.283185307179586477f * v);
}

// ---- helpers of the scalar maps, for float and double; integers -------------------------------------------------------------
#define ZG_REAL(T, S, f)                                                                              \
  ZG_FN T zg_mod_##S(T x, T y) { const T r = f(fmod)(x, y); return r != 0 && (r < 0) != (y < 0) ? r + y : r; } \
  ZG_FN T zg_fmod_##S(T x, T y) { return f(fmod)(x, y); }                                             \
  ZG_FN T zg_pow_##S(T x, T y) { return f(pow)(x, y); }                                               \
  ZG_FN T zg_silu_d_##S(T x) { const T s = 1 / (1 + f(exp)(-x)); return s * (1 + x * (1 - s)); }      \
  ZG_FN T zg_gelu_d_##S(T x) {                                                                        \
    return (T)0.5 * (1 + f(erf)(x * (T)0.70710678118654752440)) +                                     \
           x * (T)0.39894228040143267794 * f(exp)((T)-0.5 * x * x);                                   \
  }                                                                                                   \
  ZG_FN T zg_gelu_u_##S(T x) { return (T)0.79788456080286535588 * (x + (T)0.044715 * x * x * x); }    \
  ZG_FN T zg_gelu_tanh_##S(T x) { return (T)0.5 * x * (1 + f(tanh)(zg_gelu_u_##S(x))); }              \
  ZG_FN T zg_gelu_tanh_d_##S(T x) {                                                                   \
    const T t = f(tanh)(zg_gelu_u_##S(x));                                                            \
    return (T)0.5 * (1 + t) +                                                                         \
           (T)0.5 * x * (1 - t * t) * (T)0.79788456080286535588 * (1 + 3 * (T)0.044715 * x * x);      \
  }
#define ZG_F32_NAME(n) n##f
#define ZG_F64_NAME(n) n
ZG_REAL(float, f32, ZG_F32_NAME)
ZG_REAL(double, f64, ZG_F64_NAME)

// Sums and products wrap; division by zero gives 0.
ZG_FN zg_i64 zg_add_i(zg_i64 x, zg_i64 y) { return (zg_i64)((zg_u64)x + (zg_u64)y); }
ZG_FN zg_i64 zg_sub_i(zg_i64 x, zg_i64 y) { return (zg_i64)((zg_u64)x - (zg_u64)y); }
ZG_FN zg_i64 zg_mul_i(zg_i64 x, zg_i64 y) { return (zg_i64)((zg_u64)x * (zg_u64)y); }
ZG_FN zg_i64 zg_div_i(zg_i64 x, zg_i64 y) { return y == 0 ? 0 : y == -1 ? zg_sub_i(0, x) : x / y; }
ZG_FN zg_i64 zg_fmod_i(zg_i64 x, zg_i64 y) { return y == 0 || y == -1 ? 0 : x % y; }
ZG_FN zg_i64 zg_mod_i(zg_i64 x, zg_i64 y) {
  const zg_i64 r = zg_fmod_i(x, y);
  return r != 0 && (r < 0) != (y < 0) ? r + y : r;
}
ZG_FN zg_i64 zg_pow_i(zg_i64 x, zg_i64 y) {
  zg_i64 r = 1;
  if (y < 0) return x == 1 ? 1 : x == -1 ? (y & 1 ? -1 : 1) : 0;
  for (; y; y >>= 1, x = zg_mul_i(x, x))
    if (y & 1) r = zg_mul_i(r, x);
  return r;
}
ZG_FN zg_i64 zg_shl_i(zg_i64 x, zg_i64 y) { return y < 0 || y > 63 ? 0 : (zg_i64)((zg_u64)x << y); }
ZG_FN zg_i64 zg_shr_i(zg_i64 x, zg_i64 y) { return y < 0 || y > 63 ? 0 : (zg_i64)((zg_u64)x >> y); }

// ---- reductions ------------------------------------------------------------------------------------------------------------
// zg_OP_C(x, y) of computing class C (f, d, i). A NaN wins over numbers.
#define ZG_RED(T, S)                                                       \
  ZG_FN T zg_rsum_##S(T x, T y) { return x + y; }                          \
  ZG_FN T zg_rprod_##S(T x, T y) { return x * y; }                         \
  ZG_FN T zg_rmax_##S(T x, T y) { return x > y || x != x ? x : y; }        \
  ZG_FN T zg_rmin_##S(T x, T y) { return x < y || x != x ? x : y; }
ZG_RED(float, f)
ZG_RED(double, d)
ZG_FN zg_i64 zg_rsum_i(zg_i64 x, zg_i64 y) { return zg_add_i(x, y); }
ZG_FN zg_i64 zg_rprod_i(zg_i64 x, zg_i64 y) { return zg_mul_i(x, y); }
ZG_FN zg_i64 zg_rmax_i(zg_i64 x, zg_i64 y) { return x > y ? x : y; }
ZG_FN zg_i64 zg_rmin_i(zg_i64 x, zg_i64 y) { return x < y ? x : y; }
// Over groups of `width` neighbouring lanes (a power of two up to 32); all lanes get the result.
#define ZG_WARP(T, S, op)                                                            \
  ZG_FN T zg_w##op##_##S(T v, int width) {                                           \
    ZG_UNROLL for (int m = width / 2; m > 0; m /= 2) v = zg_r##op##_##S(v, zg_shfl_xor_##S(v, m)); \
    return v;                                                                        \
  }
#define ZG_WARPS(T, S) ZG_WARP(T, S, sum) ZG_WARP(T, S, prod) ZG_WARP(T, S, max) ZG_WARP(T, S, min)
ZG_WARPS(float, f)
ZG_WARPS(double, d)
ZG_WARPS(zg_i64, i)
