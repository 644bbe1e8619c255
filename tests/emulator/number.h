// Element types of cuBLASLt and NCCL as double and back; halves round to nearest even.
#pragma once
#include "emu.h"

typedef enum {
  NUM_I8,
  NUM_U8,
  NUM_I32,
  NUM_U32,
  NUM_I64,
  NUM_U64,
  NUM_F16,
  NUM_F32,
  NUM_F64,
  NUM_BF16,
  NUM_NONE
} number;

static inline size_t number_bytes(number t) {
  switch (t) {
    case NUM_I8:
    case NUM_U8: return 1;
    case NUM_F16:
    case NUM_BF16: return 2;
    case NUM_I32:
    case NUM_U32:
    case NUM_F32: return 4;
    case NUM_I64:
    case NUM_U64:
    case NUM_F64: return 8;
    case NUM_NONE: break;
  }
  return 0;
}

static inline float bits_float(uint32_t u) {
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}
static inline uint32_t float_bits(float f) {
  uint32_t u;
  memcpy(&u, &f, sizeof u);
  return u;
}
static inline float half_float(uint16_t h) {
  uint32_t sign = (uint32_t)(h >> 15) << 31, exponent = h >> 10 & 31, fraction = h & 1023;
  if (exponent == 31) return bits_float(sign | 0x7f800000u | fraction << 13);
  float v = exponent ? bits_float((exponent + 112) << 23 | fraction << 13) : (float)fraction * 0x1p-24f;
  return sign ? -v : v;
}
static inline uint16_t float_half(float f) {
  uint32_t u = float_bits(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
  if (a > 0x7f800000) return (uint16_t)(sign | 0x7e00);
  if (a >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
  if (a < 0x38800000)  // subnormal: multiples of 2^-24, rounded by an addition
    return (uint16_t)(sign | (float_bits(bits_float(a) + 0.5f) - float_bits(0.5f)));
  return (uint16_t)(sign | ((a + 0xfff + (a >> 13 & 1) - (112u << 23)) >> 13));
}
static inline float bfloat_float(uint16_t b) { return bits_float((uint32_t)b << 16); }
static inline uint16_t float_bfloat(float f) {
  uint32_t u = float_bits(f);
  if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 64);
  return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline double number_get(number t, const void *p, size_t i) {
  switch (t) {
    case NUM_I8: return ((const int8_t *)p)[i];
    case NUM_U8: return ((const uint8_t *)p)[i];
    case NUM_I32: return ((const int32_t *)p)[i];
    case NUM_U32: return ((const uint32_t *)p)[i];
    case NUM_I64: return (double)((const int64_t *)p)[i];
    case NUM_U64: return (double)((const uint64_t *)p)[i];
    case NUM_F16: return half_float(((const uint16_t *)p)[i]);
    case NUM_F32: return ((const float *)p)[i];
    case NUM_F64: return ((const double *)p)[i];
    case NUM_BF16: return bfloat_float(((const uint16_t *)p)[i]);
    case NUM_NONE: break;
  }
  return 0;
}
static inline void number_set(number t, void *p, size_t i, double v) {
  switch (t) {
    case NUM_I8: ((int8_t *)p)[i] = (int8_t)v; break;
    case NUM_U8: ((uint8_t *)p)[i] = (uint8_t)v; break;
    case NUM_I32: ((int32_t *)p)[i] = (int32_t)v; break;
    case NUM_U32: ((uint32_t *)p)[i] = (uint32_t)v; break;
    case NUM_I64: ((int64_t *)p)[i] = (int64_t)v; break;
    case NUM_U64: ((uint64_t *)p)[i] = (uint64_t)v; break;
    case NUM_F16: ((uint16_t *)p)[i] = float_half((float)v); break;
    case NUM_F32: ((float *)p)[i] = (float)v; break;
    case NUM_F64: ((double *)p)[i] = v; break;
    case NUM_BF16: ((uint16_t *)p)[i] = float_bfloat((float)v); break;
    case NUM_NONE: break;
  }
}
