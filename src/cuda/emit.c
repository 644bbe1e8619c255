// Emitter: what all kernel kinds share.
#include "cuda/emit.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>

zg_status zg__emit(const zg_kernel *k, const zg__target *t, zg__code *out) {
  switch (k->kind) {
    case ZG_K_LOOP: return zg__emit_loop(k, t, out);
    case ZG_K_MATMUL: return zg__emit_matmul(k, t, out);
    case ZG_K_CONV:
    case ZG_K_CONV_GRAD_X:
    case ZG_K_CONV_GRAD_W: return zg__emit_conv(k, t, out);
    case ZG_K_POOL:
    case ZG_K_POOL_GRAD: return zg__emit_pool(k, out);
    case ZG_K_GATHER: return zg__emit_gather(k, out);
    case ZG_K_SCATTER: return zg__emit_scatter(k, out);
    case ZG_K_SCAN: return zg__emit_scan(k, out);
    case ZG_K_SORT: return zg__emit_sort(k, out);
    case ZG_K_ATTENTION:
    case ZG_K_ATTENTION_GRAD: return zg__emit_attention(k, out);
    case ZG_K_RECURRENT:   // the device lacks these: recurrent layers come unrolled
    case ZG_K_RECURRENT_GRAD:
    case ZG_N_KERNELS: break;
  }
  return zg_error(ZG_INTERNAL, "%s: kernel kind %d has no CUDA form", k->label, (int)k->kind);
}

void zg__code_fini(zg__code *c) {
  zg_vec_fini(&c->launches);
  zg_arena_fini(&c->mem);
}

// ---- drafts
// ---------------------------------------------------------------------------------------------------------------
void zg__draft_param(zg__draft *d, const char *type, const char *name, zg__param p) {
  zg_str_add(&d->fields, p.kind == ZG__P_NUMBER ? "%s %s; " : "%s *%s; ", type, name);
  zg_vec_push(&d->params, p);
}

void zg__draft_arg(zg__draft *d, const zg_kernel *k, uint32_t arg, bool is_const, const char *name) {
  char type[48];
  snprintf(type, sizeof type, "%s%s", is_const ? "const " : "", zg__ctype(k->args[arg].dtype));
  zg__draft_param(d, type, name, (zg__param){.kind = ZG__P_ARG, .arg = arg});
}

static void draft_fini(zg__draft *d) {
  zg_str_fini(&d->fields);
  zg_str_fini(&d->body);
  zg_vec_fini(&d->params);
}

zg_status zg__draft_launch(zg__draft *d, zg__code *out, uint64_t gx, uint64_t gy, uint32_t block,
                           uint32_t shared) {
  if (gx > INT32_MAX || gy > 65535 || d->params.n > ZG__MAX_PARAMS) {
    const size_t n = d->params.n;
    draft_fini(d);
    return zg_error(ZG_UNSUPPORTED,
                    "kernel of %llu x %llu blocks and %zu parameters is too large for one CUDA launch",
                    (unsigned long long)gx, (unsigned long long)gy, n);
  }
  if (gx && gy) {
    uint64_t h = zg_hash(d->body.at, d->body.n, zg_hash(d->fields.at, d->fields.n, block));
    zg__launch l = {.grid = {(uint32_t)gx, (uint32_t)gy, 1}, .block = block, .shared = shared};
    snprintf(l.name, sizeof l.name, "zg_%016llx", (unsigned long long)h);
    l.text = zg_arena_printf(
        &out->mem,
        "typedef struct { %s} %s_args;\nZG_KERNEL(%s, %u)(const %s_args a) %s\nZG_THUNK(%s, %s_args)\n",
        d->fields.at, l.name, l.name, block, l.name, d->body.at, l.name, l.name);
    l.n_params = (uint32_t)d->params.n;
    l.params = zg_arena_copy(&out->mem, d->params.at, d->params.n * sizeof(zg__param));
    zg_vec_push(&out->launches, l);
  }
  draft_fini(d);
  return NULL;
}

// ---- types
// ----------------------------------------------------------------------------------------------------------------
static const struct {
  const char *type;
  const char *load, *store;
} rows[ZG_N_DTYPES] = {
    [ZG_F32] = {"float", "(", "("},
    [ZG_F64] = {"double", "(", "("},
    [ZG_F16] = {"zg_f16", "zg_h2f(", "zg_f2h("},
    [ZG_BF16] = {"zg_bf16", "zg_b2f(", "zg_f2b("},
    [ZG_I8] = {"signed char", "(zg_i64)(", "(signed char)("},
    [ZG_I16] = {"short", "(zg_i64)(", "(short)("},
    [ZG_I32] = {"int", "(zg_i64)(", "(int)("},
    [ZG_I64] = {"zg_i64", "(", "("},
    [ZG_U8] = {"unsigned char", "(zg_i64)(", "(unsigned char)("},
    [ZG_U16] = {"unsigned short", "(zg_i64)(", "(unsigned short)("},
    [ZG_U32] = {"unsigned", "(zg_i64)(", "(unsigned)("},
    [ZG_U64] = {"zg_u64", "(zg_i64)(", "(zg_u64)("},
    [ZG_BOOL] = {"unsigned char", "(zg_i64)(0 != ", "(unsigned char)(0 != "},
};

const char *zg__ctype(zg_dtype t) { return rows[t].type; }
const char *zg__cls_type(zg_cls c) {
  return c == ZG_CLS_F32 ? "float" : c == ZG_CLS_F64 ? "double" : "zg_i64";
}
char zg__cls_letter(zg_cls c) { return "fdi"[c]; }

static void put_wrapped(zg_str *s, const char *head, const char *fmt, va_list ap) {
  char text[512];
  vsnprintf(text, sizeof text, fmt, ap);
  zg_str_add(s, "%s%s)", head, text);
}

void zg__put_load(zg_str *s, zg_dtype t, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  put_wrapped(s, rows[t].load, fmt, ap);
  va_end(ap);
}

void zg__put_store(zg_str *s, zg_dtype t, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  put_wrapped(s, rows[t].store, fmt, ap);
  va_end(ap);
}

void zg__put_const(zg_str *s, zg_cls c, double imm) {
  if (c == ZG_CLS_INT) {
    if (imm <= -0x1p63) zg_str_add(s, "(-9223372036854775807ll - 1)");
    else zg_str_add(s, "%lldll", imm >= 0x1p63 ? (long long)INT64_MAX : (long long)imm);
  } else if (isnan(imm)) {
    zg_str_add(s, "zg_float(0x7fc00000u)");
  } else if (isinf(imm) || (c == ZG_CLS_F32 && isinf((float)imm))) {
    zg_str_add(s, imm > 0 ? "zg_float(0x7f800000u)" : "zg_float(0xff800000u)");
  } else {
    char text[40];
    snprintf(text, sizeof text, c == ZG_CLS_F32 ? "%.9g" : "%.17g",
             c == ZG_CLS_F32 ? (double)(float)imm : imm);
    zg_str_add(s, strpbrk(text, ".e") ? "%s%s" : "%s.0%s", text, c == ZG_CLS_F32 ? "f" : "");
  }
}

static void put_float_to_int(zg_str *s, zg_dtype to, const char *v) {
  static const struct {
    const char *lo, *hi, *ilo, *ihi;
  } range[ZG_N_DTYPES] = {
      [ZG_I8] = {"-128.0", "127.0", "-128", "127"},
      [ZG_I16] = {"-32768.0", "32767.0", "-32768", "32767"},
      [ZG_I32] = {"-2147483648.0", "2147483647.0", "-2147483648ll", "2147483647ll"},
      [ZG_I64] = {"-9223372036854775808.0", "9223372036854775807.0", "(-9223372036854775807ll - 1)",
                  "9223372036854775807ll"},
      [ZG_U8] = {"0.0", "255.0", "0", "255"},
      [ZG_U16] = {"0.0", "65535.0", "0", "65535"},
      [ZG_U32] = {"0.0", "4294967295.0", "0", "4294967295ll"},
  };
  if (to == ZG_BOOL) zg_str_add(s, "(zg_i64)(%s != 0)", v);
  else if (to == ZG_U64) zg_str_add(s, "(zg_i64)zg_trunc_u64((double)%s)", v);
  else
    zg_str_add(s, "zg_trunc((double)%s, %s, %s, %s, %s)", v, range[to].lo, range[to].hi, range[to].ilo,
               range[to].ihi);
}

void zg__put_cast(zg_str *s, zg_cls from, zg_dtype to, const char *v) {
  if (to == ZG_F32) zg_str_add(s, "(float)%s", v);
  else if (to == ZG_F64) zg_str_add(s, "(double)%s", v);
  else if (to == ZG_BF16 || to == ZG_F16)
    zg_str_add(s, from == ZG_CLS_F32 ? "%s%s))" : "%szg_odd((double)%s)))",
               to == ZG_BF16 ? "zg_b2f(zg_f2b(" : "zg_h2f(zg_f2h(", v);
  else if (from != ZG_CLS_INT) put_float_to_int(s, to, v);
  else if (to == ZG_BOOL) zg_str_add(s, "(zg_i64)(%s != 0)", v);
  else zg_str_add(s, "(zg_i64)(%s)%s", zg__ctype(to), v);
}

// ---- scalar maps
// ------------------------------------------------------------------------------------------------------------
// Floats: functions made from scalar.def's own text, zg_s_f32_NAME and zg_s_f64_NAME. Integers: what
// graph/scalar.c says, in x, y, z.
static const struct {
  const char *name, *expr;
  int arity;
  bool ints;
} maps[ZG_N_SCALARS] = {
#define ZG_SCALAR(NAME, name, arity, expr) [ZG_S_##NAME] = {#name, #expr, arity, false},
#define ZG_SCALAR_INT(NAME, name, arity, expr) [ZG_S_##NAME] = {#name, #expr, arity, true},
#include "graph/scalar.def"
#undef ZG_SCALAR
};

static const char *const int_maps[ZG_N_SCALARS] = {
    [ZG_S_NEG] = "zg_sub_i(0, x)",
    [ZG_S_ABS] = "x < 0 ? zg_sub_i(0, x) : x",
    [ZG_S_SIGN] = "(x > 0) - (x < 0)",
    [ZG_S_FLOOR] = "x",
    [ZG_S_CEIL] = "x",
    [ZG_S_ROUND] = "x",
    [ZG_S_IS_NAN] = "0",
    [ZG_S_IS_INF] = "0",
    [ZG_S_NOT] = "!x",
    [ZG_S_BIT_NOT] = "~x",
    [ZG_S_RELU] = "x > 0 ? x : 0",
    [ZG_S_ADD] = "zg_add_i(x, y)",
    [ZG_S_SUB] = "zg_sub_i(x, y)",
    [ZG_S_MUL] = "zg_mul_i(x, y)",
    [ZG_S_DIV] = "zg_div_i(x, y)",
    [ZG_S_MOD] = "zg_mod_i(x, y)",
    [ZG_S_FMOD] = "zg_fmod_i(x, y)",
    [ZG_S_POW] = "zg_pow_i(x, y)",
    [ZG_S_MAX] = "x > y ? x : y",
    [ZG_S_MIN] = "x < y ? x : y",
    [ZG_S_EQ] = "x == y",
    [ZG_S_NE] = "x != y",
    [ZG_S_LT] = "x < y",
    [ZG_S_LE] = "x <= y",
    [ZG_S_AND] = "x && y",
    [ZG_S_OR] = "x || y",
    [ZG_S_XOR] = "!x != !y",
    [ZG_S_BIT_AND] = "x & y",
    [ZG_S_BIT_OR] = "x | y",
    [ZG_S_BIT_XOR] = "x ^ y",
    [ZG_S_SHL] = "zg_shl_i(x, y)",
    [ZG_S_SHR] = "zg_shr_i(x, y)",
    [ZG_S_WHERE] = "x ? y : z",
    [ZG_S_CLIP] = "x < y ? (y < z ? y : z) : x > z ? z : x",
    [ZG_S_FMA] = "zg_add_i(zg_mul_i(x, y), z)",
};

static const char params[4][40] = {"", "(T x) ", "(T x, T y) ", "(T x, T y, T z) "};

static void put_float_maps(zg_str *s, const char *cls, const char *type, const char *fn) {
  static const char *const helpers[] = {"mod", "fmod", "pow", "silu_d", "gelu_d", "gelu_tanh", "gelu_tanh_d"};
  zg_str_add(s, "#define T %s\n#define F(n) %s\n#define K(k) ((T)(k))\n", type, fn);
  for (size_t i = 0; i < ZG_COUNT(helpers); i++)
    zg_str_add(s, "#define zg_%s zg_%s_%s\n", helpers[i], helpers[i], cls);
  for (int m = ZG_S_NONE + 1; m < ZG_N_SCALARS; m++)
    if (!maps[m].ints)
      zg_str_add(s, "ZG_FN T zg_s_%s_%s%s{ return (T)(%s); }\n", cls, maps[m].name, params[maps[m].arity],
                 maps[m].expr);
  for (size_t i = 0; i < ZG_COUNT(helpers); i++) zg_str_add(s, "#undef zg_%s\n", helpers[i]);
  zg_str_add(s, "#undef T\n#undef F\n#undef K\n");
}

static void put_int_maps(zg_str *s) {
  zg_str_add(s, "#define T zg_i64\n");
  for (int m = ZG_S_NONE + 1; m < ZG_N_SCALARS; m++) {
    zg_str_add(s, "ZG_FN T zg_s_int_%s%s{ %s", maps[m].name, params[maps[m].arity],
               maps[m].arity > 1 ? "(void)y; " : "");
    if (maps[m].arity > 2) zg_str_add(s, "(void)z; ");
    if (int_maps[m]) zg_str_add(s, "(void)x; return (zg_i64)(%s); }\n", int_maps[m]);
    else  // functions of real numbers: through double, truncated
      zg_str_add(s,
                 "return zg_trunc(zg_s_f64_%s((double)x%s), -9223372036854775808.0, 9223372036854775807.0, "
                 "(-9223372036854775807ll - 1), 9223372036854775807ll); }\n",
                 maps[m].name, maps[m].arity > 1 ? ", (double)y" : "");
  }
  zg_str_add(s, "#undef T\n");
}

extern const char zg__dialect_text[];  // dialect.cuh, made a string by the build

static zg_str prologue;

static void make_prologue(void) {
  zg_str_add(&prologue, "%s", zg__dialect_text);
  put_float_maps(&prologue, "f32", "float", "n##f");
  put_float_maps(&prologue, "f64", "double", "n");
  put_int_maps(&prologue);
}

const char *zg__emit_prologue(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, make_prologue);
  return prologue.at;
}

void zg__put_map(zg_str *s, zg_scalar op, zg_cls in, zg_cls result, const char *const operands[3]) {
  static const char *const cls[] = {"f32", "f64", "int"};
  if (op == ZG_S_WHERE) {
    zg_str_add(s, "%s ? %s : %s", operands[0], operands[1], operands[2]);
    return;
  }
  if (result != in) zg_str_add(s, "(%s)", zg__cls_type(result));
  zg_str_add(s, "zg_s_%s_%s(", cls[in], maps[op].name);
  for (int i = 0; i < maps[op].arity; i++) zg_str_add(s, i ? ", %s" : "%s", operands[i]);
  zg_str_add(s, ")");
}
