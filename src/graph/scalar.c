// What one element of a map computes, on the host: double for float types, 64-bit integers (exact, wrapping) for the others.
// The float side is scalar.def itself; the integer side says what C leaves undefined (division by zero gives 0).
#include "graph/scalar.h"

#include <math.h>

static const struct { const char *name, *expr; int arity; } rows[ZG_N_SCALARS] = {
#define ZG_SCALAR(NAME, name, arity, expr) [ZG_S_##NAME] = {#name, #expr, arity},
#include "graph/scalar.def"
#undef ZG_SCALAR
};

const char *zg_scalar_name(zg_scalar s) { return rows[s].name ? rows[s].name : "none"; }
int zg_scalar_arity(zg_scalar s) { return rows[s].arity; }
const char *zg_scalar_expr(zg_scalar s) { return rows[s].expr; }

bool zg_scalar_find(const char *name, zg_scalar *out) {
  for (int s = ZG_S_NONE + 1; s < ZG_N_SCALARS; s++)
    if (strcmp(rows[s].name, name) == 0) {
      *out = (zg_scalar)s;
      return true;
    }
  return false;
}

// ---- helpers that scalar.def calls --------------------------------------------------------------------------------------
static double zg_mod(double x, double y) {   // sign of the divisor, as numpy
  const double r = fmod(x, y);
  return r != 0 && (r < 0) != (y < 0) ? r + y : r;
}
static double zg_fmod(double x, double y) { return fmod(x, y); }
static double zg_pow(double x, double y) { return pow(x, y); }

static double zg_silu_d(double x) {
  const double s = 1 / (1 + exp(-x));
  return s * (1 + x * (1 - s));
}

static double zg_gelu_d(double x) {   // Phi(x) + x phi(x)
  return 0.5 * (1 + erf(x * 0.70710678118654752440)) + x * 0.39894228040143267794 * exp(-0.5 * x * x);
}

// GELU's tanh form, Hendrycks and Gimpel 2016: 0.5 x (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3)
static double gelu_u(double x) { return 0.79788456080286535588 * (x + 0.044715 * x * x * x); }
static double zg_gelu_tanh(double x) { return 0.5 * x * (1 + tanh(gelu_u(x))); }
static double zg_gelu_tanh_d(double x) {
  const double t = tanh(gelu_u(x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.79788456080286535588 * (1 + 3 * 0.044715 * x * x);
}

#define F(f) f
#define K(k) ((double)(k))
double zg_scalar_f64(zg_scalar s, double x, double y, double z) {
  switch (s) {
#define ZG_SCALAR(NAME, name, arity, expr) \
  case ZG_S_##NAME: return (expr);
#define ZG_SCALAR_INT(NAME, name, arity, expr) \
  case ZG_S_##NAME: return (double)zg_scalar_i64(s, (int64_t)x, (int64_t)y, (int64_t)z);
#include "graph/scalar.def"
#undef ZG_SCALAR
    case ZG_S_NONE:
    case ZG_N_SCALARS: break;
  }
  return 0;
}
#undef F
#undef K

// ---- integers -----------------------------------------------------------------------------------------------------------
// Sums and products wrap: done unsigned, where C defines it.
static int64_t wrap_add(int64_t x, int64_t y) { return (int64_t)((uint64_t)x + (uint64_t)y); }
static int64_t wrap_sub(int64_t x, int64_t y) { return (int64_t)((uint64_t)x - (uint64_t)y); }
static int64_t wrap_mul(int64_t x, int64_t y) { return (int64_t)((uint64_t)x * (uint64_t)y); }
static int64_t int_div(int64_t x, int64_t y) { return y == 0 ? 0 : y == -1 ? wrap_sub(0, x) : x / y; }
static int64_t int_rem(int64_t x, int64_t y) { return y == 0 || y == -1 ? 0 : x % y; }

static int64_t int_mod(int64_t x, int64_t y) {
  const int64_t r = int_rem(x, y);
  return r != 0 && (r < 0) != (y < 0) ? r + y : r;
}

static int64_t int_pow(int64_t x, int64_t y) {
  if (y < 0) return x == 1 ? 1 : x == -1 ? (y & 1 ? -1 : 1) : 0;
  int64_t r = 1;
  for (; y; y >>= 1, x = wrap_mul(x, x))
    if (y & 1) r = wrap_mul(r, x);
  return r;
}

static int64_t shift_left(int64_t x, int64_t y) { return y < 0 || y > 63 ? 0 : (int64_t)((uint64_t)x << y); }
static int64_t shift_right(int64_t x, int64_t y) { return y < 0 || y > 63 ? 0 : (int64_t)((uint64_t)x >> y); }

int64_t zg_scalar_i64(zg_scalar s, int64_t x, int64_t y, int64_t z) {
  switch (s) {
    case ZG_S_NEG: return wrap_sub(0, x);
    case ZG_S_ABS: return x < 0 ? wrap_sub(0, x) : x;
    case ZG_S_SIGN: return (x > 0) - (x < 0);
    case ZG_S_FLOOR:
    case ZG_S_CEIL:
    case ZG_S_ROUND: return x;
    case ZG_S_IS_NAN:
    case ZG_S_IS_INF: return 0;
    case ZG_S_NOT: return !x;
    case ZG_S_BIT_NOT: return ~x;
    case ZG_S_RELU: return x > 0 ? x : 0;
    case ZG_S_ADD: return wrap_add(x, y);
    case ZG_S_SUB: return wrap_sub(x, y);
    case ZG_S_MUL: return wrap_mul(x, y);
    case ZG_S_DIV: return int_div(x, y);
    case ZG_S_MOD: return int_mod(x, y);
    case ZG_S_FMOD: return int_rem(x, y);
    case ZG_S_POW: return int_pow(x, y);
    case ZG_S_MAX: return x > y ? x : y;
    case ZG_S_MIN: return x < y ? x : y;
    case ZG_S_EQ: return x == y;
    case ZG_S_NE: return x != y;
    case ZG_S_LT: return x < y;
    case ZG_S_LE: return x <= y;
    case ZG_S_AND: return x && y;
    case ZG_S_OR: return x || y;
    case ZG_S_XOR: return !x != !y;
    case ZG_S_BIT_AND: return x & y;
    case ZG_S_BIT_OR: return x | y;
    case ZG_S_BIT_XOR: return x ^ y;
    case ZG_S_SHL: return shift_left(x, y);
    case ZG_S_SHR: return shift_right(x, y);
    case ZG_S_WHERE: return x ? y : z;
    case ZG_S_CLIP: return x < y ? (y < z ? y : z) : x > z ? z : x;
    case ZG_S_FMA: return wrap_add(wrap_mul(x, y), z);
    // Functions of real numbers: through double, truncated.
    case ZG_S_SQRT: case ZG_S_RSQRT: case ZG_S_RECIP: case ZG_S_EXP: case ZG_S_LOG: case ZG_S_LOG1P:
    case ZG_S_SIN: case ZG_S_COS: case ZG_S_TAN: case ZG_S_ASIN: case ZG_S_ACOS: case ZG_S_ATAN:
    case ZG_S_SINH: case ZG_S_COSH: case ZG_S_TANH: case ZG_S_ASINH: case ZG_S_ACOSH: case ZG_S_ATANH:
    case ZG_S_ERF: case ZG_S_SIGMOID: case ZG_S_SOFTPLUS: case ZG_S_SILU: case ZG_S_SILU_D:
    case ZG_S_GELU: case ZG_S_GELU_D: case ZG_S_GELU_TANH: case ZG_S_GELU_TANH_D: case ZG_S_ATAN2: {
      int64_t out;
      zg_set_f64(ZG_I64, &out, 0, zg_scalar_f64(s, (double)x, (double)y, (double)z));
      return out;
    }
    case ZG_S_NONE:
    case ZG_N_SCALARS: break;
  }
  return 0;
}
