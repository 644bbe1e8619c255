// The CUDA side of the kernel dialect, as GNU C17: put before kernel text by the emulator's compiler. Threads
// of a block are fibers that run one at a time (fiber.c), so that atomics are plain reads and writes, and a
// fence is nothing.
//
// The qualifiers below that C lacks become markers, which translate.c finds after preprocessing:
//   __global__  a kernel: it gets a function that unpacks a parameter buffer
//   __shared__  memory of the block: a section of its own, poisoned before each block; extern: the launch's
//   dynamic memory
#pragma once
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include "kernel_ctx.h"

__attribute__((visibility("default"))) zg_emu_ctx *zg_emu;
enum { ZG_EMU_DYN_MAX = 232448, ZG_EMU_DYN_GUARD = 1024 };
__attribute__((visibility("default"), aligned(1024))) char zg_emu_dyn[ZG_EMU_DYN_MAX + ZG_EMU_DYN_GUARD];
extern char __start_zg_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_zg_shared[] __attribute__((weak, visibility("hidden")));
__attribute__((visibility("default"))) char *zg_emu_shared(int end) {
  return end ? __stop_zg_shared : __start_zg_shared;
}

#define __device__
#define __host__
#define __constant__ const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__
#define __global__ zg_emu_mark_global
#define __shared__ zg_emu_mark_shared

#define threadIdx (zg_emu->thread)
#define blockIdx (zg_emu->block)
#define blockDim (zg_emu->block_dim)
#define gridDim (zg_emu->grid_dim)
#define warpSize 32

// ---- vectors ------------------------------------------------------------------------------------------
#define ZG_EMU_VEC(T, name)                                                          \
  typedef struct {                                                                   \
    T x;                                                                             \
  } name##1;                                                                         \
  typedef struct __attribute__((aligned(2 * sizeof(T)))) {                           \
    T x, y;                                                                          \
  } name##2;                                                                         \
  typedef struct {                                                                   \
    T x, y, z;                                                                       \
  } name##3;                                                                         \
  typedef struct __attribute__((aligned(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)))) { \
    T x, y, z, w;                                                                    \
  } name##4;                                                                         \
  static inline name##2 make_##name##2(T x, T y) { return (name##2){x, y}; }         \
  static inline name##3 make_##name##3(T x, T y, T z) { return (name##3){x, y, z}; } \
  static inline name##4 make_##name##4(T x, T y, T z, T w) { return (name##4){x, y, z, w}; }
ZG_EMU_VEC(signed char, char)
ZG_EMU_VEC(unsigned char, uchar)
ZG_EMU_VEC(short, short)
ZG_EMU_VEC(unsigned short, ushort)
ZG_EMU_VEC(int, int)
ZG_EMU_VEC(unsigned, uint)
ZG_EMU_VEC(long long, longlong)
ZG_EMU_VEC(unsigned long long, ulonglong)
ZG_EMU_VEC(float, float)
ZG_EMU_VEC(double, double)
typedef zg_emu_dim dim3;

// ---- block and warp -----------------------------------------------------------------------------------
#define ZG_EMU_SITE(op) (__LINE__ * 16 + (op))
#define __syncthreads() ((void)zg_emu->barrier(ZG_EMU_SITE(0), ZG_EMU_SYNC, 0))
#define __syncthreads_or(p) zg_emu->barrier(ZG_EMU_SITE(0), ZG_EMU_OR, !!(p))
#define __syncthreads_and(p) zg_emu->barrier(ZG_EMU_SITE(0), ZG_EMU_AND, !!(p))
#define __syncthreads_count(p) zg_emu->barrier(ZG_EMU_SITE(0), ZG_EMU_COUNT, !!(p))
static inline void zg_emu_syncwarp(int site, unsigned mask) { zg_emu->meet(mask, NULL, 0, site); }
#define ZG_EMU_FIRST(a, ...) (a)
#define __syncwarp(...) zg_emu_syncwarp(ZG_EMU_SITE(1), ZG_EMU_FIRST(__VA_ARGS__ __VA_OPT__(, ) ~0u, 0))
#define __activemask() (~0u)

// What the dialect (src/cuda/dialect.cuh) asks of a C compiler's side. An exchange gives 32 records of n <=
// 64 bytes, lane l's at 64 * l, good until the lane's next exchange: shuffles, and helpers whose GPU form is
// one instruction of the whole warp.
static inline void *zg_emu_meet_all(int site, const void *give, unsigned n_bytes) {
  return (void *)zg_emu->meet(~0u, give, n_bytes, site)->lane[0];
}
#define zg_emu_exchange(give, n_bytes) zg_emu_meet_all(ZG_EMU_SITE(2), give, n_bytes)
#define zg_emu_sync() __syncthreads()
#define zg_emu_dynshared() ((void *)zg_emu_dyn)
#define zg_emu_enter(ctx) ((void)(ctx))
#define _Thread_local \
  __attribute__((section("zg_shared")))  // the dialect's block memory: poisoned before each block

// A shuffle: which lane's record a lane takes. Segments of `width` lanes; a source outside its segment means
// the lane's own.
static inline unsigned zg_emu_source(int kind, unsigned lane, int o, int width) {
  int first = (int)lane & ~(width - 1), at = kind == 0   ? first + (o & (width - 1))
                                             : kind == 1 ? (int)lane - o
                                             : kind == 2 ? (int)lane + o
                                                         : (int)lane ^ o;
  return at < first || at >= first + width ? lane : (unsigned)at;
}
#define ZG_EMU_SHUFFLE(T, suffix)                                                                     \
  static inline T zg_emu_shuffle_##suffix(int site, int kind, unsigned mask, T v, int o, int width) { \
    unsigned from = zg_emu_source(kind, zg_emu->lane, o, width);                                      \
    const zg_emu_swap *x = zg_emu->meet(mask, &v, sizeof v, site);                                    \
    T r;                                                                                              \
    memcpy(&r, x->lane[from], sizeof r);                                                              \
    return r;                                                                                         \
  }
ZG_EMU_SHUFFLE(int, i)
ZG_EMU_SHUFFLE(unsigned, u)
ZG_EMU_SHUFFLE(long, l)
ZG_EMU_SHUFFLE(unsigned long, ul)
ZG_EMU_SHUFFLE(long long, ll)
ZG_EMU_SHUFFLE(unsigned long long, ull)
ZG_EMU_SHUFFLE(float, f)
ZG_EMU_SHUFFLE(double, d)
#define ZG_EMU_SHUFFLE_OF(kind, mask, v, o, ...)                          \
  _Generic((v), unsigned                                                  \
           : zg_emu_shuffle_u, long                                       \
           : zg_emu_shuffle_l, unsigned long                              \
           : zg_emu_shuffle_ul, long long                                 \
           : zg_emu_shuffle_ll, unsigned long long                        \
           : zg_emu_shuffle_ull, float                                    \
           : zg_emu_shuffle_f, double                                     \
           : zg_emu_shuffle_d, default                                    \
           : zg_emu_shuffle_i)(ZG_EMU_SITE(3 + (kind)), kind, mask, v, o, \
                               ZG_EMU_FIRST(__VA_ARGS__ __VA_OPT__(, ) 32, 0))
#define __shfl_sync(mask, v, ...) ZG_EMU_SHUFFLE_OF(0, mask, v, __VA_ARGS__)
#define __shfl_up_sync(mask, v, ...) ZG_EMU_SHUFFLE_OF(1, mask, v, __VA_ARGS__)
#define __shfl_down_sync(mask, v, ...) ZG_EMU_SHUFFLE_OF(2, mask, v, __VA_ARGS__)
#define __shfl_xor_sync(mask, v, ...) ZG_EMU_SHUFFLE_OF(3, mask, v, __VA_ARGS__)

static inline unsigned zg_emu_ballot(int site, unsigned mask, int p) {
  const zg_emu_swap *x = zg_emu->meet(mask, &p, sizeof p, site);
  unsigned r = 0;
  for (unsigned l = 0; l < 32; l++) {
    int q;
    memcpy(&q, x->lane[l], sizeof q);
    if (x->mask >> l & 1 && q) r |= 1u << l;
  }
  return r;
}
#define __ballot_sync(mask, p) zg_emu_ballot(ZG_EMU_SITE(7), mask, !!(p))
#define __any_sync(mask, p) (zg_emu_ballot(ZG_EMU_SITE(8), mask, !!(p)) != 0)
#define __all_sync(mask, p) (zg_emu_ballot(ZG_EMU_SITE(9), mask, !(p)) == 0)

static inline unsigned zg_emu_reduce(int site, int kind, unsigned mask, unsigned v) {
  const zg_emu_swap *x = zg_emu->meet(mask, &v, sizeof v, site);
  unsigned r = v;
  bool first = true;
  for (unsigned l = 0; l < 32; l++) {
    unsigned q;
    if (!(x->mask >> l & 1)) continue;
    memcpy(&q, x->lane[l], sizeof q);
    if (first) r = q;
    else if (kind == 0) r += q;
    else if (kind == 1) r = (int)q < (int)r ? q : r;
    else if (kind == 2) r = (int)q > (int)r ? q : r;
    else if (kind == 3) r = q < r ? q : r;
    else if (kind == 4) r = q > r ? q : r;
    else if (kind == 5) r |= q;
    else r &= q;
    first = false;
  }
  return r;
}
#define ZG_EMU_REDUCE(kind, mask, v) \
  ((__typeof__(v))zg_emu_reduce(ZG_EMU_SITE(10), kind, mask, (unsigned)(v)))
#define __reduce_add_sync(mask, v) ZG_EMU_REDUCE(0, mask, v)
#define __reduce_min_sync(mask, v) ZG_EMU_REDUCE(_Generic((v), unsigned : 3, default : 1), mask, v)
#define __reduce_max_sync(mask, v) ZG_EMU_REDUCE(_Generic((v), unsigned : 4, default : 2), mask, v)
#define __reduce_or_sync(mask, v) ZG_EMU_REDUCE(5, mask, v)
#define __reduce_and_sync(mask, v) ZG_EMU_REDUCE(6, mask, v)

// ---- memory -------------------------------------------------------------------------------------------
#define __threadfence() ((void)0)
#define __threadfence_block() ((void)0)
#define __threadfence_system() ((void)0)
#define __ldg(p) (*(p))
#define __ldcs(p) (*(p))
#define __ldcg(p) (*(p))
#define __ldca(p) (*(p))
#define __stcs(p, v) (*(p) = (v))
#define __stcg(p, v) (*(p) = (v))
#define __nanosleep(ns) ((void)(ns))
#define __trap() zg_emu->trap("__trap()")
#define ZG_EMU_ATOMIC(p, expr)       \
  ({                                 \
    __typeof__(p) at_ = (p);         \
    __typeof__(*at_) old_ = *at_;    \
    *at_ = (__typeof__(*at_))(expr); \
    old_;                            \
  })
#define atomicAdd(p, v) ZG_EMU_ATOMIC(p, old_ + (v))
#define atomicSub(p, v) ZG_EMU_ATOMIC(p, old_ - (v))
#define atomicExch(p, v) ZG_EMU_ATOMIC(p, v)
#define atomicMax(p, v) ZG_EMU_ATOMIC(p, old_ > (v) ? old_ : (v))
#define atomicMin(p, v) ZG_EMU_ATOMIC(p, old_ < (v) ? old_ : (v))
#define atomicOr(p, v) ZG_EMU_ATOMIC(p, old_ | (v))
#define atomicAnd(p, v) ZG_EMU_ATOMIC(p, old_ &(v))
#define atomicXor(p, v) ZG_EMU_ATOMIC(p, old_ ^ (v))
#define atomicCAS(p, c, v) ZG_EMU_ATOMIC(p, old_ == (c) ? (v) : old_)
#define atomicInc(p, limit) ZG_EMU_ATOMIC(p, old_ >= (limit) ? 0 : old_ + 1)

// ---- arithmetic ---------------------------------------------------------------------------------------
#define ZG_EMU_PICK(a, b, cmp)      \
  ({                                \
    __typeof__((a) + (b)) a_ = (a); \
    __typeof__((a) + (b)) b_ = (b); \
    a_ cmp b_ ? a_ : b_;            \
  })
#define min(a, b) ZG_EMU_PICK(a, b, <)
#define max(a, b) ZG_EMU_PICK(a, b, >)
#define ZG_EMU_BITS(name, From, To) \
  static inline To name(From v) {   \
    To r;                           \
    memcpy(&r, &v, sizeof r);       \
    return r;                       \
  }
ZG_EMU_BITS(__float_as_uint, float, unsigned)
ZG_EMU_BITS(__float_as_int, float, int)
ZG_EMU_BITS(__uint_as_float, unsigned, float)
ZG_EMU_BITS(__int_as_float, int, float)
ZG_EMU_BITS(__double_as_longlong, double, long long)
ZG_EMU_BITS(__longlong_as_double, long long, double)
#define __popc(v) __builtin_popcount(v)
#define __popcll(v) __builtin_popcountll(v)
#define __ffs(v) __builtin_ffs((int)(v))
#define __ffsll(v) __builtin_ffsll((long long)(v))
static inline int __clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
static inline int __clzll(long long v) { return v ? __builtin_clzll((unsigned long long)v) : 64; }
static inline unsigned __brev(unsigned v) {
  unsigned r = 0;
  for (int i = 0; i < 32; i++) r |= (v >> i & 1) << (31 - i);
  return r;
}
static inline unsigned __umulhi(unsigned a, unsigned b) {
  return (unsigned)((unsigned long long)a * b >> 32);
}
static inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned s) {
  return (unsigned)((((unsigned long long)hi << 32 | lo) << (s & 31)) >> 32);
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
  unsigned long long v = (unsigned long long)b << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; i++) r |= (unsigned)(v >> (8 * (s >> (4 * i) & 7)) & 0xff) << (8 * i);
  return r;
}
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float __saturatef(float x) { return x > 0 ? x < 1 ? x : 1 : 0; }
static inline void sincospif(float x, float *s, float *c) {
  *s = (float)sin(M_PI * x), *c = (float)cos(M_PI * x);
}
static inline float cospif(float x) { return (float)cos(M_PI * x); }
static inline float sinpif(float x) { return (float)sin(M_PI * x); }
#define __expf expf
#define __exp10f(x) powf(10.0f, x)
#define __logf logf
#define __log2f log2f
#define __log10f log10f
#define __sinf sinf
#define __cosf cosf
#define __sincosf sincosf
#define __tanhf tanhf
#define __powf powf
#define __fdividef(a, b) ((a) / (b))
#define __fdiv_rn(a, b) ((a) / (b))
#define __frcp_rn(a) (1.0f / (a))
#define __fsqrt_rn sqrtf
#define __fmaf_rn fmaf
#define __fma_rn fma
#define __fadd_rn(a, b) ((a) + (b))
#define __fmul_rn(a, b) ((a) * (b))
#define __fsub_rn(a, b) ((a) - (b))
#define __float2int_rn(x) ((int)rintf(x))
#define __float2int_rz(x) ((int)(x))
#define __float2int_rd(x) ((int)floorf(x))
#define __int2float_rn(x) ((float)(int)(x))
#define __uint2float_rn(x) ((float)(unsigned)(x))
