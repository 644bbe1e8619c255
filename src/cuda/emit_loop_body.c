// Text of a loop kernel's parts. Values are named after their instruction: rN of level ROW, vN of level ELEM,
// aN the accumulator of a reduction, whose result is rN. Index variables are iD, one a dim; element j of a
// vector is at i(last) + j.
#include "cuda/loop.h"
#include "graph/build.h"
#include <stdio.h>

void zg__loop_params(const zg__space *s, zg__draft *d) {
  bool *seen = zg_alloc(s->k->n_args + 1), random = false;
  for (uint32_t i = 0; i < s->d->n_inst; i++) {
    const zg_inst *in = &s->d->inst[i];
    random |= s->used[i] && in->kind == ZG_I_RANDOM;
    if (!s->used[i] || (in->kind != ZG_I_LOAD && in->kind != ZG_I_STORE)) continue;
    const uint32_t arg = in->kind == ZG_I_LOAD ? in->a : in->b;
    char name[16];
    snprintf(name, sizeof name, "p%u", arg);
    if (!seen[arg]) zg__draft_arg(d, s->k, arg, in->kind == ZG_I_LOAD, name);
    seen[arg] = true;
  }
  if (random) zg__draft_param(d, "const unsigned", "rs", (zg__param){.kind = ZG__P_RAND});
  zg_free(seen);
}

void zg__loop_indices(const zg__space *s, zg_str *out, zg__group g, const char *from) {
  const char *type = s->wide ? "zg_i64" : "int";
  int64_t block = s->size[g];
  for (uint32_t r = s->first[g]; r < s->first[g + 1]; r++) {
    block = s->dim[r] ? block / s->dim[r] : 0;  // reductions over nothing
    zg_str_add(out, "const %s i%u = (%s)(%s", type, r, type, from);
    if (block > 1) zg_str_add(out, " / %lldu", (long long)block);
    if (r > s->first[g]) zg_str_add(out, " %% %lldu", (long long)s->dim[r]);
    zg_str_add(out, ");\n");
  }
}

// Offset of an argument at the index variables: all dims, or without the last one's step.
static void put_offset(const zg__space *s, zg_str *out, uint32_t arg) {
  bool any = false;
  for (uint32_t r = 0; r < s->rank; r++) {
    const int64_t st = s->stride[arg][r];
    if (!st) continue;
    zg_str_add(out, any ? " + i%u" : "i%u", r);
    if (st != 1) zg_str_add(out, s->wide ? " * (%lldll)" : " * (%lld)", (long long)st);
    any = true;
  }
  if (!any) zg_str_add(out, "0");
}

static void put_index(const zg__space *s, zg_str *out, const zg_inst *in, bool vector) {
  zg_str_add(out, "%lldll", (long long)in->imm);
  for (uint32_t r = 0; r < s->rank; r++) {
    const int64_t c = s->coef[in->a][r];
    if (!c) continue;
    if (vector && r + 1 == s->rank) zg_str_add(out, " + (zg_i64)(i%u + j) * (%lldll)", r, (long long)c);
    else zg_str_add(out, " + (zg_i64)i%u * (%lldll)", r, (long long)c);
  }
}

static const char *operand(const zg__space *s, uint32_t i, char text[16]) {
  const zg_inst *in = &s->d->inst[i];
  snprintf(text, 16, "%c%u", zg__space_elem(s, in) ? 'v' : 'r', i);
  return text;
}

// The right side of a value's definition; loads excepted.
static void put_value(const zg__space *s, zg_str *out, uint32_t i, bool vector) {
  const zg_inst *in = &s->d->inst[i];
  char a[16], b[16], c[16];
  uint32_t ops[3];
  const uint32_t n = zg_inst_operands(in, ops);
  const char *names[3] = {n > 0 ? operand(s, ops[0], a) : "", n > 1 ? operand(s, ops[1], b) : "",
                          n > 2 ? operand(s, ops[2], c) : ""};
  switch ((zg_inst_kind)in->kind) {
    case ZG_I_CONST: zg__put_const(out, (zg_cls)in->cls, in->imm); break;
    case ZG_I_INDEX: put_index(s, out, in, vector); break;
    case ZG_I_RANDOM:
      zg_str_add(out, "%s(a.rs, %uu, %s)", in->scalar ? "zg_normal" : "zg_uniform", (uint32_t)in->imm,
                 names[0]);
      break;
    case ZG_I_MAP: zg__put_map(out, (zg_scalar)in->scalar, (zg_cls)in->in_cls, (zg_cls)in->cls, names); break;
    case ZG_I_CAST: zg__put_cast(out, (zg_cls)in->in_cls, (zg_dtype)in->to, names[0]); break;
    case ZG_I_LOAD:
    case ZG_I_REDUCE:
    case ZG_I_STORE: break;
  }
}

void zg__loop_row_code(const zg__space *s, zg_str *out, uint32_t p, const bool *want) {
  for (uint32_t i = 0; i < s->d->n_inst; i++) {
    const zg_inst *in = &s->d->inst[i];
    if (!s->used[i] || s->phase[i] != p || zg__space_elem(s, in) || in->kind == ZG_I_REDUCE ||
        in->kind == ZG_I_STORE)
      continue;
    if (want && !want[i]) continue;
    zg_str_add(out, "const %s r%u = ", zg__cls_type((zg_cls)in->cls), i);
    if (in->kind == ZG_I_LOAD) {
      zg_str offset = {0};
      put_offset(s, &offset, in->a);
      zg__put_load(out, s->k->args[in->a].dtype, "a.p%u[%s]", in->a, offset.at);
      zg_str_fini(&offset);
    } else {
      put_value(s, out, i, false);
    }
    zg_str_add(out, ";\n");
  }
}

void zg__loop_row_stores(const zg__space *s, zg_str *out, uint32_t p) {
  for (uint32_t i = 0; i < s->d->n_inst; i++) {
    const zg_inst *in = &s->d->inst[i];
    if (in->kind != ZG_I_STORE || s->phase[i] != p || zg__space_elem(s, in)) continue;
    zg_str_add(out, "a.p%u[", in->b);
    put_offset(s, out, in->b);
    zg_str_add(out, "] = ");
    zg__put_store(out, s->k->args[in->b].dtype, "r%u", in->a);
    zg_str_add(out, ";\n");
  }
}

// Copies `bytes` in the widest pieces.
static void put_copy(zg_str *out, const char *to, const char *from, uint32_t bytes) {
  for (uint32_t at = 0; at < bytes;) {
    const uint32_t n = bytes - at >= 16 ? 16 : bytes - at;
    zg_str_add(out, "zg_ld%u((char *)(%s) + %u, (const char *)(%s) + %u); ", n, to, at, from, at);
    at += n;
  }
  zg_str_add(out, "\n");
}

static void put_loads(const zg__space *s, zg_str *out, const bool *need, uint32_t vec) {
  for (uint32_t i = 0; i < s->d->n_inst; i++) {
    const zg_inst *in = &s->d->inst[i];
    if (!need[i] || in->kind != ZG_I_LOAD) continue;
    const zg_view *v = &s->k->args[in->a];
    zg_str_add(out, "const %s *const q%u = a.p%u + (", zg__ctype(v->dtype), i, in->a);
    put_offset(s, out, in->a);
    zg_str_add(out, ");\n");
    if (vec == 1 || !zg__space_vector(s, in->a, vec)) continue;
    char to[16], from[16];
    snprintf(to, sizeof to, "t%u", i);
    snprintf(from, sizeof from, "q%u", i);
    zg_str_add(out, "ZG_ALIGN(16) %s t%u[%u]; ", zg__ctype(v->dtype), i, vec);
    put_copy(out, to, from, vec * zg_dtype_bytes(v->dtype));
  }
}

static void put_load(const zg__space *s, zg_str *out, uint32_t i, uint32_t vec) {
  const zg_inst *in = &s->d->inst[i];
  const zg_dtype t = s->k->args[in->a].dtype;
  const int64_t st = s->rank && vec > 1 ? s->stride[in->a][s->rank - 1] : 0;
  if (vec > 1 && zg__space_vector(s, in->a, vec)) zg__put_load(out, t, "t%u[j]", i);
  else if (st) zg__put_load(out, t, "q%u[j * (%lldll)]", i, (long long)st);
  else zg__put_load(out, t, "q%u[0]", i);
}

static void put_store(const zg__space *s, zg_str *out, uint32_t i, uint32_t vec) {
  const zg_inst *in = &s->d->inst[i];
  const zg_dtype t = s->k->args[in->b].dtype;
  char name[16];
  if (vec > 1 && zg__space_vector(s, in->b, vec)) {
    zg_str_add(out, "o%u[j] = ", i);
  } else {
    zg_str_add(out, "a.p%u[", in->b);
    put_offset(s, out, in->b);
    if (vec > 1) zg_str_add(out, " + j * (%lldll)", (long long)s->stride[in->b][s->rank - 1]);
    zg_str_add(out, "] = ");
  }
  zg__put_store(out, t, "%s", operand(s, in->a, name));
  zg_str_add(out, ";\n");
}

static void put_vector_stores(const zg__space *s, zg_str *out, const bool *need, uint32_t vec, bool after) {
  for (uint32_t i = 0; i < s->d->n_inst && vec > 1; i++) {
    const zg_inst *in = &s->d->inst[i];
    if (!need[i] || in->kind != ZG_I_STORE || !zg__space_vector(s, in->b, vec)) continue;
    const zg_dtype t = s->k->args[in->b].dtype;
    if (!after) {
      zg_str_add(out, "ZG_ALIGN(16) %s o%u[%u];\n", zg__ctype(t), i, vec);
      continue;
    }
    char from[16];
    snprintf(from, sizeof from, "o%u", i);
    zg_str to = {0};
    zg_str_add(&to, "a.p%u + (", in->b);
    put_offset(s, &to, in->b);
    zg_str_add(&to, ")");
    put_copy(out, to.at, from, vec * zg_dtype_bytes(t));
    zg_str_fini(&to);
  }
}

const char *zg__loop_red_name(const zg_inst *in) {
  static const char *const names[] = {"sum", "max", "min", "prod"};
  return names[in->red];
}

void zg__loop_identity(zg_str *out, const zg_inst *in) {
  const bool ints = in->cls == ZG_CLS_INT;
  const double least = ints ? -0x1p63 : -__builtin_inf(), most = ints ? 0x1p63 : __builtin_inf();
  switch ((zg_red)in->red) {
    case ZG_RED_SUM: zg__put_const(out, (zg_cls)in->cls, 0); break;
    case ZG_RED_PROD: zg__put_const(out, (zg_cls)in->cls, 1); break;
    case ZG_RED_MAX: zg__put_const(out, (zg_cls)in->cls, least); break;
    case ZG_RED_MIN: zg__put_const(out, (zg_cls)in->cls, most); break;
  }
}

void zg__loop_elements(const zg__space *s, zg_str *out, uint32_t p, const bool *need, uint32_t vec) {
  (void)p;
  put_loads(s, out, need, vec);
  put_vector_stores(s, out, need, vec, false);
  if (vec > 1) zg_str_add(out, "ZG_UNROLL for (int j = 0; j < %u; j++) {\n", vec);
  for (uint32_t i = 0; i < s->d->n_inst; i++) {
    const zg_inst *in = &s->d->inst[i];
    char name[16];
    if (!need[i]) continue;
    if (in->kind == ZG_I_STORE) {
      put_store(s, out, i, vec);
    } else if (in->kind == ZG_I_REDUCE) {
      zg_str_add(out, "a%u = zg_r%s_%c(a%u, %s);\n", i, zg__loop_red_name(in),
                 zg__cls_letter((zg_cls)in->cls), i, operand(s, in->a, name));
    } else {
      zg_str_add(out, "const %s v%u = ", zg__cls_type((zg_cls)in->cls), i);
      if (in->kind == ZG_I_LOAD) put_load(s, out, i, vec);
      else put_value(s, out, i, vec > 1);
      zg_str_add(out, ";\n");
    }
  }
  if (vec > 1) zg_str_add(out, "}\n");
  put_vector_stores(s, out, need, vec, true);
}
