// Element types, tensor types, conversion of host elements.
#include "graph/type.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { KIND_FLOAT, KIND_INT, KIND_BOOL };
static const struct {
  const char *name;
  uint8_t n_bytes, kind;
  bool is_signed;
} dtypes[ZG_N_DTYPES] = {
    [ZG_F32] = {"f32", 4, KIND_FLOAT, true},   [ZG_F64] = {"f64", 8, KIND_FLOAT, true},
    [ZG_F16] = {"f16", 2, KIND_FLOAT, true},   [ZG_BF16] = {"bf16", 2, KIND_FLOAT, true},
    [ZG_I8] = {"i8", 1, KIND_INT, true},       [ZG_I16] = {"i16", 2, KIND_INT, true},
    [ZG_I32] = {"i32", 4, KIND_INT, true},     [ZG_I64] = {"i64", 8, KIND_INT, true},
    [ZG_U8] = {"u8", 1, KIND_INT, false},      [ZG_U16] = {"u16", 2, KIND_INT, false},
    [ZG_U32] = {"u32", 4, KIND_INT, false},    [ZG_U64] = {"u64", 8, KIND_INT, false},
    [ZG_BOOL] = {"bool", 1, KIND_BOOL, false},
};

uint32_t zg_dtype_bytes(zg_dtype t) { return dtypes[t].n_bytes; }
const char *zg_dtype_name(zg_dtype t) { return dtypes[t].name; }
bool zg_dtype_is_float(zg_dtype t) { return dtypes[t].kind == KIND_FLOAT; }
bool zg_dtype_is_int(zg_dtype t) { return dtypes[t].kind == KIND_INT; }
bool zg_dtype_is_signed(zg_dtype t) { return dtypes[t].is_signed; }

static bool parse_dtype(const char *name, size_t n, zg_dtype *out) {
  for (int i = 0; i < ZG_N_DTYPES; i++)
    if (strlen(dtypes[i].name) == n && !memcmp(dtypes[i].name, name, n)) {
      *out = (zg_dtype)i;
      return true;
    }
  return false;
}

bool zg_dtype_parse(const char *name, zg_dtype *out) { return parse_dtype(name, strlen(name), out); }

// ---- types ----------------------------------------------------------------------------------------------

zg_type zg_type_make(zg_dtype dtype, uint32_t rank, const int64_t *dim) {
  ZG_ASSERT(rank <= ZG_MAX_RANK);
  zg_type t;
  memset(&t, 0, sizeof t);  // padding too: types are hashed bytewise
  t.dtype = dtype;
  t.rank = rank;
  if (rank) memcpy(t.dim, dim, rank * sizeof *dim);
  return t;
}

zg_type zg_type_scalar(zg_dtype dtype) { return zg_type_make(dtype, 0, NULL); }

bool zg_same_shape(const zg_type *a, const zg_type *b) {
  return a->rank == b->rank && !memcmp(a->dim, b->dim, a->rank * sizeof *a->dim);
}
bool zg_type_equal(const zg_type *a, const zg_type *b) { return a->dtype == b->dtype && zg_same_shape(a, b); }

int64_t zg_elems(const zg_type *t) {
  int64_t n = 1;
  bool fits = true;
  for (uint32_t i = 0; i < t->rank; i++) {
    if (!t->dim[i]) return 0;
    fits = fits && zg_mul_i64(n, t->dim[i], &n);
  }
  return fits ? n : INT64_MAX;  // an absurd shape becomes an allocation that fails, not a small one
}

uint64_t zg_type_bytes(const zg_type *t) {
  uint64_t n;
  return zg_mul_u64((uint64_t)zg_elems(t), zg_dtype_bytes(t->dtype), &n) ? n : UINT64_MAX;
}

const char *zg_type_text(const zg_type *t) {
  static _Thread_local char texts[8][8 + ZG_MAX_RANK * 21 + 4];
  static _Thread_local unsigned turn;
  char *text = texts[turn++ % 8];
  size_t room = sizeof texts[0];
  int n = snprintf(text, room, "%s[", zg_dtype_name(t->dtype));
  for (uint32_t i = 0; i < t->rank; i++)
    n += snprintf(text + n, room - (size_t)n, "%s%lld", i ? "," : "", (long long)t->dim[i]);
  snprintf(text + n, room - (size_t)n, "]");
  return text;
}

zg_status zg_type_parse(const char *text, zg_type *out, const char **end) {
  const char *p = text;
  while ((*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9')) p++;
  zg_dtype dtype;
  if (!parse_dtype(text, (size_t)(p - text), &dtype))
    return zg_error(ZG_INVALID,
                    "\"%.*s\" is no element type; want one of f32, f64, f16, bf16, i8..i64, u8..u64, bool",
                    (int)ZG_MIN(p - text, 32), text);
  if (*p++ != '[') return zg_error(ZG_INVALID, "type \"%.32s\": want '[' after the element type", text);
  int64_t dim[ZG_MAX_RANK];
  uint32_t rank = 0;
  for (; *p != ']'; rank++) {
    if (rank == ZG_MAX_RANK)
      return zg_error(ZG_INVALID, "type \"%.64s\": more than %d dimensions", text, ZG_MAX_RANK);
    if (rank && *p++ != ',')
      return zg_error(ZG_INVALID, "type \"%.64s\": want ',' or ']' between dimensions", text);
    if (*p < '0' || *p > '9')
      return zg_error(ZG_INVALID, "type \"%.64s\": want a number for each dimension", text);
    int64_t n = 0;
    bool fits = true;
    for (; *p >= '0' && *p <= '9'; p++)
      fits = fits && zg_mul_i64(n, 10, &n) && !__builtin_add_overflow(n, *p - '0', &n);
    if (!fits) return zg_error(ZG_INVALID, "type \"%.64s\": dimension %u does not fit 63 bits", text, rank);
    dim[rank] = n;
  }
  *out = zg_type_make(dtype, rank, dim);
  if (end) *end = p + 1;
  else if (p[1]) return zg_error(ZG_INVALID, "type \"%.64s\": text after ']'", text);
  return NULL;
}

void zg_type_strides(const zg_type *t, int64_t stride[ZG_MAX_RANK]) {
  memset(stride, 0, ZG_MAX_RANK * sizeof *stride);
  int64_t n = 1;
  for (uint32_t i = t->rank; i-- > 0;) {
    stride[i] = n;
    if (!zg_mul_i64(n, t->dim[i], &n)) n = INT64_MAX;
  }
}

zg_status zg_type_broadcast(const zg_type *a, const zg_type *b, zg_type *out) {
  uint32_t rank = ZG_MAX(a->rank, b->rank);
  int64_t dim[ZG_MAX_RANK];
  for (uint32_t i = 0; i < rank; i++) {  // i counts from the last dimension
    int64_t x = i < a->rank ? a->dim[a->rank - 1 - i] : 1, y = i < b->rank ? b->dim[b->rank - 1 - i] : 1;
    if (x != y && x != 1 && y != 1)
      return zg_error(ZG_INVALID,
                      "shapes %s and %s do not broadcast: dimension %d is %lld in one and %lld in the other",
                      zg_type_text(a), zg_type_text(b), -(int)i - 1, (long long)x, (long long)y);
    dim[rank - 1 - i] = x == 1 ? y : x;
  }
  *out = zg_type_make(a->dtype, rank, dim);
  return NULL;
}

bool zg_type_fits(const zg_type *t, const zg_type *to) {
  if (t->rank > to->rank) return false;
  for (uint32_t i = 0; i < t->rank; i++)
    if (t->dim[i] != 1 && t->dim[i] != to->dim[to->rank - t->rank + i]) return false;
  return true;
}

// ---- half types -----------------------------------------------------------------------------------------

static uint32_t bits_of(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  return u;
}
static float float_of(uint32_t u) {
  float x;
  memcpy(&x, &u, 4);
  return x;
}

uint16_t zg_bf16_from_f32(float x) {
  uint32_t u = bits_of(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40);  // NaN stays NaN, quiet
  return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

float zg_bf16_to_f32(uint16_t x) { return float_of((uint32_t)x << 16); }

uint16_t zg_f16_from_f32(float x) {
  uint32_t u = bits_of(x), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (a >> 13 & 0x1ffu));
  if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);  // 65520 and up rounds to infinity
  if (a < 0x38800000u) {  // below 2^-14: let float addition round to multiples of 2^-24
    float y = float_of(a) + 0.5f;
    return (uint16_t)(sign | (bits_of(y) - bits_of(0.5f)));
  }
  uint32_t r = a + 0xfffu + (a >> 13 & 1);
  return (uint16_t)(sign | ((r - 0x38000000u) >> 13));
}

float zg_f16_to_f32(uint16_t x) {
  uint32_t sign = (uint32_t)(x & 0x8000u) << 16, e = x >> 10 & 31, m = x & 0x3ffu;
  if (e == 31) return float_of(sign | 0x7f800000u | m << 13);
  if (e) return float_of(sign | (e + 112) << 23 | m << 13);
  float y = (float)m * 0x1p-24f;  // subnormal or zero
  return float_of(sign | bits_of(y));
}

// To float by rounding to odd: a second rounding, to a half type, then gives what one rounding of the double
// would.
static float f32_round_odd(double v) {
  float f = (float)v;
  if ((double)f == v || isnan(v) || isinf(v)) return f;
  if (isinf(f)) return f;
  if (fabs((double)f) > fabs(v)) f = float_of(bits_of(f) - 1);  // truncate
  return float_of(bits_of(f) | 1);
}

// ---- elements -------------------------------------------------------------------------------------------

#define INT_TYPES(X)                                                                \
  X(ZG_I8, int8_t, INT8_MIN, INT8_MAX)                                              \
  X(ZG_I16, int16_t, INT16_MIN, INT16_MAX) X(ZG_I32, int32_t, INT32_MIN, INT32_MAX) \
      X(ZG_I64, int64_t, INT64_MIN, INT64_MAX) X(ZG_U8, uint8_t, 0, UINT8_MAX)      \
          X(ZG_U16, uint16_t, 0, UINT16_MAX) X(ZG_U32, uint32_t, 0, UINT32_MAX)     \
              X(ZG_U64, uint64_t, 0, UINT64_MAX)

double zg_get_f64(zg_dtype t, const void *data, int64_t i) {
  switch (t) {
    case ZG_F32: return (double)((const float *)data)[i];
    case ZG_F64: return ((const double *)data)[i];
    case ZG_F16: return (double)zg_f16_to_f32(((const uint16_t *)data)[i]);
    case ZG_BF16: return (double)zg_bf16_to_f32(((const uint16_t *)data)[i]);
#define X(T, C, lo, hi) \
  case T: return (double)((const C *)data)[i];
      INT_TYPES(X)
#undef X
    case ZG_BOOL: return ((const uint8_t *)data)[i] != 0;
    case ZG_N_DTYPES: break;
  }
  ZG_ASSERT(!"element type");
  return 0;
}

// Truncates; out of range gives the nearest end, NaN gives 0 (C leaves both undefined).
static int64_t i64_of(double v) {
  if (isnan(v)) return 0;
  if (v >= 0x1p63) return INT64_MAX;
  return v <= -0x1p63 ? INT64_MIN : (int64_t)v;
}

int64_t zg_get_i64(zg_dtype t, const void *data, int64_t i) {
  switch (t) {
    case ZG_F32:
    case ZG_F64:
    case ZG_F16:
    case ZG_BF16: return i64_of(zg_get_f64(t, data, i));
#define X(T, C, lo, hi) \
  case T: return (int64_t)((const C *)data)[i];
      INT_TYPES(X)
#undef X
    case ZG_BOOL: return ((const uint8_t *)data)[i] != 0;
    case ZG_N_DTYPES: break;
  }
  ZG_ASSERT(!"element type");
  return 0;
}

void zg_set_f64(zg_dtype t, void *data, int64_t i, double v) {
  switch (t) {
    case ZG_F32: ((float *)data)[i] = (float)v; return;
    case ZG_F64: ((double *)data)[i] = v; return;
    case ZG_F16: ((uint16_t *)data)[i] = zg_f16_from_f32(f32_round_odd(v)); return;
    case ZG_BF16: ((uint16_t *)data)[i] = zg_bf16_from_f32(f32_round_odd(v)); return;
#define X(T, C, lo, hi) \
  case T: ((C *)data)[i] = isnan(v) ? 0 : v >= (double)(hi) ? (hi) : v <= (double)(lo) ? (lo) : (C)v; return;
      INT_TYPES(X)
#undef X
    case ZG_BOOL: ((uint8_t *)data)[i] = v != 0; return;
    case ZG_N_DTYPES: break;
  }
  ZG_ASSERT(!"element type");
}

void zg_set_i64(zg_dtype t, void *data, int64_t i, int64_t v) {
  switch (t) {
    case ZG_F32: ((float *)data)[i] = (float)v; return;
    case ZG_F64:
    case ZG_F16:
    case ZG_BF16: zg_set_f64(t, data, i, (double)v); return;
#define X(T, C, lo, hi) \
  case T: ((C *)data)[i] = (C)v; return;
      INT_TYPES(X)
#undef X
    case ZG_BOOL: ((uint8_t *)data)[i] = v != 0; return;
    case ZG_N_DTYPES: break;
  }
  ZG_ASSERT(!"element type");
}

// The conversions that whole parameters go through, as loops the compiler vectorises.
static bool convert_fast(zg_dtype to, void *dst, zg_dtype from, const void *src, int64_t n) {
  if (from == ZG_F32 && to == ZG_BF16) {
    for (int64_t i = 0; i < n; i++) ((uint16_t *)dst)[i] = zg_bf16_from_f32(((const float *)src)[i]);
  } else if (from == ZG_BF16 && to == ZG_F32) {
    for (int64_t i = 0; i < n; i++) ((float *)dst)[i] = zg_bf16_to_f32(((const uint16_t *)src)[i]);
  } else if (from == ZG_F32 && to == ZG_F16) {
    for (int64_t i = 0; i < n; i++) ((uint16_t *)dst)[i] = zg_f16_from_f32(((const float *)src)[i]);
  } else if (from == ZG_F16 && to == ZG_F32) {
    for (int64_t i = 0; i < n; i++) ((float *)dst)[i] = zg_f16_to_f32(((const uint16_t *)src)[i]);
  } else {
    return false;
  }
  return true;
}

void zg_convert(zg_dtype to, void *dst, zg_dtype from, const void *src, int64_t n) {
  if (to == from) {
    if (n > 0) memmove(dst, src, (size_t)n * zg_dtype_bytes(to));
    return;
  }
  if (convert_fast(to, dst, from, src, n)) return;
  // Integers and bools go through int64 (exact, one rounding on the way to a float); u64 above 2^63 only to a
  // float does not.
  bool as_int = !zg_dtype_is_float(from) && !(from == ZG_U64 && zg_dtype_is_float(to));
  for (int64_t i = 0; i < n; i++) {
    if (as_int) zg_set_i64(to, dst, i, zg_get_i64(from, src, i));
    else zg_set_f64(to, dst, i, zg_get_f64(from, src, i));
  }
}
