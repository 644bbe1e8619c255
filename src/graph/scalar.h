// Scalar opcodes: what one element of a loop kernel can compute. The closed list, and the text of each as a C expression in
// the C-and-CUDA dialect, stand once, in scalar.def; the interpreter, the C emitter and the CUDA emitter all read it there.
#pragma once
#include "graph/type.h"

typedef enum {
  ZG_S_NONE,
#define ZG_SCALAR(NAME, name, arity, expr) ZG_S_##NAME,
#include "graph/scalar.def"
#undef ZG_SCALAR
  ZG_N_SCALARS
} zg_scalar;

const char *zg_scalar_name(zg_scalar s);          // "add", "gelu", ...
int zg_scalar_arity(zg_scalar s);                 // 1, 2 or 3
bool zg_scalar_find(const char *name, zg_scalar *out);
const char *zg_scalar_expr(zg_scalar s);          // expression in x, y, z and T(), F() (scalar.def says)
double zg_scalar_f64(zg_scalar s, double x, double y, double z);        // for float element types
int64_t zg_scalar_i64(zg_scalar s, int64_t x, int64_t y, int64_t z);    // for integer and bool element types
