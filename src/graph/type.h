// Element types, tensor types, host tensors.
#pragma once
#include "base/base.h"

// ONNX TensorProto.DataType values are mapped in graph/onnx; complex, string and sub-byte types are outside zgraph.
typedef enum {
  ZG_F32, ZG_F64, ZG_F16, ZG_BF16,
  ZG_I8, ZG_I16, ZG_I32, ZG_I64, ZG_U8, ZG_U16, ZG_U32, ZG_U64,
  ZG_BOOL,             // one byte, 0 or 1
  ZG_N_DTYPES
} zg_dtype;

uint32_t zg_dtype_bytes(zg_dtype t);
const char *zg_dtype_name(zg_dtype t);                          // "f32", "bf16", "i64", "bool", ...
bool zg_dtype_parse(const char *name, zg_dtype *out);           // inverse of zg_dtype_name; false: no such type
bool zg_dtype_is_float(zg_dtype t);
bool zg_dtype_is_int(zg_dtype t);                               // signed or unsigned integer; not bool
bool zg_dtype_is_signed(zg_dtype t);

enum { ZG_MAX_RANK = 8 };

// Type of a tensor: element type and shape, row-major when stored. Dimensions are plain numbers: the symbols of an ONNX
// file are bound while it is imported (docs/architecture.md, "Dimensions").
typedef struct { zg_dtype dtype; uint32_t rank; int64_t dim[ZG_MAX_RANK]; } zg_type;

zg_type zg_type_make(zg_dtype dtype, uint32_t rank, const int64_t *dim);   // unused dims are 0, so types compare bytewise
zg_type zg_type_scalar(zg_dtype dtype);
bool zg_type_equal(const zg_type *a, const zg_type *b);
bool zg_same_shape(const zg_type *a, const zg_type *b);
int64_t zg_elems(const zg_type *t);                             // product of the dims; 1 for a scalar
uint64_t zg_type_bytes(const zg_type *t);
// "f32[4,8]"; "f32[]" for a scalar. The text lives in one of 8 thread-local buffers, used in turn: good for one message.
const char *zg_type_text(const zg_type *t);
zg_status zg_type_parse(const char *text, zg_type *out, const char **end);
// Row-major strides, in elements.
void zg_type_strides(const zg_type *t, int64_t stride[ZG_MAX_RANK]);
// numpy broadcasting of two shapes; the dtype is a's. Fails naming both shapes.
zg_status zg_type_broadcast(const zg_type *a, const zg_type *b, zg_type *out);
// Does numpy broadcasting stretch t to the shape of `to`, which stays as it is? The dtypes are not looked at.
bool zg_type_fits(const zg_type *t, const zg_type *to);

// A tensor in host memory, contiguous row-major. `data` is borrowed unless the place that made it says otherwise.
typedef struct { zg_type type; void *data; } zg_tensor;

// Element i (flat index) as double / int64, converting from any dtype; and the inverse (float to bf16/f16 rounds to
// nearest even; float to int truncates).
double zg_get_f64(zg_dtype t, const void *data, int64_t i);
int64_t zg_get_i64(zg_dtype t, const void *data, int64_t i);
void zg_set_f64(zg_dtype t, void *data, int64_t i, double v);
void zg_set_i64(zg_dtype t, void *data, int64_t i, int64_t v);
// Converts n elements between types (same rules).
void zg_convert(zg_dtype to, void *dst, zg_dtype from, const void *src, int64_t n);

uint16_t zg_bf16_from_f32(float x);
float zg_bf16_to_f32(uint16_t x);
uint16_t zg_f16_from_f32(float x);
float zg_f16_to_f32(uint16_t x);
