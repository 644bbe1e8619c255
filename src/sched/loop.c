// Loop programs: phases, text form, verification. The text is one line:
//   space 32,768 outer 1 mid 0 { 0 = load 1; 1.row = reduce sum 0; 2.row.int = index 5 768,0; store.row 1 -> 0 }
// A value is its instruction's number, then ".row" if its level is ROW, then ".f64" or ".int" if its class is not f32.
// "op:cls" names the operands' class where it differs from the result's (comparisons, casts).
#include "sched/loop.h"
#include <ctype.h>
#include <stdlib.h>
#include "graph/build.h"

static const char *const cls_name[] = {"f32", "f64", "int"};
static const char *const red_name[] = {"sum", "max", "min", "prod"};

uint32_t zg_inst_operands(const zg_inst *i, uint32_t ops[3]) {
  ops[0] = i->a, ops[1] = i->b, ops[2] = i->c;
  switch ((zg_inst_kind)i->kind) {
    case ZG_I_LOAD:
    case ZG_I_CONST:
    case ZG_I_INDEX: return 0;
    case ZG_I_RANDOM:
    case ZG_I_CAST:
    case ZG_I_REDUCE:
    case ZG_I_STORE: return 1;
    case ZG_I_MAP: return (uint32_t)zg_scalar_arity((zg_scalar)i->scalar);
  }
  return 0;
}

uint32_t zg_loop_phases(const zg_loop_desc *d, uint32_t *phase) {
  uint32_t last = 0;
  for (uint32_t i = 0; i < d->n_inst; i++) {
    const zg_inst *in = &d->inst[i];
    uint32_t ops[3];
    const uint32_t n = zg_inst_operands(in, ops);
    phase[i] = 0;
    for (uint32_t k = 0; k < n; k++) {
      const uint32_t at = phase[ops[k]] + (d->inst[ops[k]].kind == ZG_I_REDUCE);
      phase[i] = ZG_MAX(phase[i], at);
    }
    last = ZG_MAX(last, phase[i]);
  }
  return last + 1;
}

// ---- print --------------------------------------------------------------------------------------------------------
static void print_flags(const zg_inst *in, zg_str *out) {
  if (in->level == ZG_LEVEL_ROW) zg_str_add(out, ".row");
  if (in->cls != ZG_CLS_F32) zg_str_add(out, ".%s", cls_name[in->cls]);
}

static void print_op(const zg_loop_desc *d, const zg_inst *in, zg_str *out) {
  uint32_t ops[3];
  const uint32_t n = zg_inst_operands(in, ops);
  switch ((zg_inst_kind)in->kind) {
    case ZG_I_LOAD: zg_str_add(out, "load %u", in->a); break;
    case ZG_I_CONST: zg_str_add(out, "const %.17g", in->imm); break;
    case ZG_I_INDEX:
      zg_str_add(out, "index %.17g", in->imm);
      for (uint32_t k = 0; k < d->rank; k++) zg_str_add(out, "%s%lld", k ? "," : " ", (long long)d->index[in->a][k]);
      break;
    case ZG_I_RANDOM: zg_str_add(out, "random %u %u %.17g", in->scalar, in->a, in->imm); break;
    case ZG_I_MAP:
      zg_str_add(out, "%s", zg_scalar_name((zg_scalar)in->scalar));
      if (in->in_cls != in->cls) zg_str_add(out, ":%s", cls_name[in->in_cls]);
      for (uint32_t k = 0; k < n; k++) zg_str_add(out, " %u", ops[k]);
      break;
    case ZG_I_CAST:
      zg_str_add(out, "cast:%s %s %u", cls_name[in->in_cls], zg_dtype_name((zg_dtype)in->to), in->a);
      break;
    case ZG_I_REDUCE: zg_str_add(out, "reduce %s %u", red_name[in->red], in->a); break;
    case ZG_I_STORE: break;
  }
}

void zg_loop_print(const void *desc, zg_str *out) {
  const zg_loop_desc *d = desc;
  zg_str_add(out, "space ");
  for (uint32_t k = 0; k < d->rank; k++) zg_str_add(out, "%s%lld", k ? "," : "", (long long)d->dim[k]);
  if (d->rank == 0) zg_str_add(out, "-");
  zg_str_add(out, " outer %u mid %u {", d->n_outer, d->n_mid);
  for (uint32_t i = 0; i < d->n_inst; i++) {
    const zg_inst *in = &d->inst[i];
    zg_str_add(out, i ? "; " : " ");
    if (in->kind == ZG_I_STORE) {
      zg_str_add(out, "store");
      print_flags(in, out);
      zg_str_add(out, " %u -> %u", in->a, in->b);
      continue;
    }
    zg_str_add(out, "%u", i);
    print_flags(in, out);
    zg_str_add(out, " = ");
    print_op(d, in, out);
  }
  zg_str_add(out, " }");
}

// ---- parse --------------------------------------------------------------------------------------------------------
typedef ZG_VEC(zg_inst) insts;
typedef struct { int64_t c[ZG_MAX_RANK]; } coefs;
typedef ZG_VEC(coefs) coef_rows;
typedef struct {
  const char *text, *at;
  bool failed;
  zg_loop_desc d;
  insts code;
  coef_rows rows;
} parser;

static void skip(parser *p) {
  while (isspace((unsigned char)*p->at)) p->at++;
}

static bool accept(parser *p, const char *token) {
  skip(p);
  const size_t n = strlen(token);
  if (strncmp(p->at, token, n) != 0) return false;
  if (isalnum((unsigned char)token[n - 1]) && (isalnum((unsigned char)p->at[n]) || p->at[n] == '_')) return false;
  p->at += n;
  return true;
}

static void want(parser *p, const char *token) {
  if (!p->failed && !accept(p, token)) p->failed = true;
}

static int64_t number(parser *p) {
  skip(p);
  char *end;
  const long long v = strtoll(p->at, &end, 10);
  if (end == p->at) p->failed = true;
  p->at = end;
  return v;
}

static uint32_t small(parser *p) {
  const int64_t v = number(p);
  if (v < 0 || v > UINT16_MAX * 16) p->failed = true;
  return (uint32_t)v;
}

static double real(parser *p) {
  skip(p);
  char *end;
  const double v = strtod(p->at, &end);
  if (end == p->at) p->failed = true;
  p->at = end;
  return v;
}

static void word(parser *p, char out[32]) {
  skip(p);
  size_t n = 0;
  while ((isalnum((unsigned char)*p->at) || *p->at == '_') && n < 31) out[n++] = *p->at++;
  out[n] = 0;
  if (n == 0) p->failed = true;
}

static uint8_t one_of(parser *p, const char *const *names, uint8_t n) {
  char w[32];
  word(p, w);
  for (uint8_t i = 0; i < n; i++)
    if (strcmp(w, names[i]) == 0) return i;
  p->failed = true;
  return 0;
}

static void parse_flags(parser *p, zg_inst *in) {
  in->level = ZG_LEVEL_ELEM;
  in->cls = ZG_CLS_F32;
  while (*p->at == '.') {
    p->at++;
    if (accept(p, "row")) in->level = ZG_LEVEL_ROW;
    else in->cls = one_of(p, cls_name, 3);
    if (p->failed) return;
  }
}

static void parse_index(parser *p, zg_inst *in) {
  in->kind = ZG_I_INDEX;
  in->imm = real(p);
  in->a = (uint32_t)p->rows.n;
  coefs row = {{0}};
  for (uint32_t k = 0; k < p->d.rank; k++) {
    if (k) want(p, ",");
    row.c[k] = number(p);
  }
  zg_vec_push(&p->rows, row);
}

static void parse_map(parser *p, zg_inst *in, const char *name) {
  zg_scalar s;
  if (!zg_scalar_find(name, &s)) {
    p->failed = true;
    return;
  }
  in->kind = ZG_I_MAP;
  in->scalar = (uint16_t)s;
  in->in_cls = *p->at == ':' ? (p->at++, one_of(p, cls_name, 3)) : in->cls;
  uint32_t *ops[3] = {&in->a, &in->b, &in->c};
  for (int k = 0; k < zg_scalar_arity(s); k++) *ops[k] = small(p);
}

static void parse_op(parser *p, zg_inst *in) {
  char name[32];
  word(p, name);
  in->in_cls = in->cls;
  if (strcmp(name, "load") == 0) in->kind = ZG_I_LOAD, in->a = small(p);
  else if (strcmp(name, "const") == 0) in->kind = ZG_I_CONST, in->imm = real(p);
  else if (strcmp(name, "index") == 0) parse_index(p, in);
  else if (strcmp(name, "random") == 0)
    in->kind = ZG_I_RANDOM, in->scalar = (uint16_t)small(p), in->a = small(p), in->in_cls = ZG_CLS_INT, in->imm = real(p);
  else if (strcmp(name, "reduce") == 0) in->kind = ZG_I_REDUCE, in->red = one_of(p, red_name, 4), in->a = small(p);
  else if (strcmp(name, "cast") == 0) {
    in->kind = ZG_I_CAST;
    want(p, ":");
    in->in_cls = one_of(p, cls_name, 3);
    word(p, name);
    zg_dtype t = ZG_F32;
    if (!zg_dtype_parse(name, &t)) p->failed = true;
    in->to = (uint8_t)t;
    in->a = small(p);
  } else parse_map(p, in, name);
}

static void parse_inst(parser *p) {
  zg_inst in = {0};
  if (accept(p, "store")) {
    in.kind = ZG_I_STORE;
    parse_flags(p, &in);
    in.in_cls = in.cls;
    in.a = small(p);
    want(p, "->");
    in.b = small(p);
  } else {
    if (small(p) != p->code.n) p->failed = true;
    parse_flags(p, &in);
    want(p, "=");
    if (!p->failed) parse_op(p, &in);
  }
  zg_vec_push(&p->code, in);
}

static void parse_space(parser *p) {
  want(p, "space");
  if (!accept(p, "-")) {
    do {
      if (p->d.rank == ZG_MAX_RANK) p->failed = true;
      if (!p->failed) p->d.dim[p->d.rank++] = number(p);
    } while (!p->failed && accept(p, ","));
  }
  want(p, "outer");
  p->d.n_outer = small(p);
  want(p, "mid");
  p->d.n_mid = small(p);
}

zg_status zg_loop_parse(const char *text, zg_arena *a, void **desc) {
  parser p = {.text = text, .at = text};
  parse_space(&p);
  want(&p, "{");
  if (!p.failed && !accept(&p, "}")) {
    do parse_inst(&p);
    while (!p.failed && accept(&p, ";"));
    want(&p, "}");
  }
  zg_status status = NULL;
  if (p.failed) {
    status = zg_error(ZG_INVALID, "loop program: cannot read \"%.40s\"", p.at);
  } else {
    zg_loop_desc *d = zg_arena_copy(a, &p.d, sizeof p.d);
    d->n_inst = (uint32_t)p.code.n;
    d->inst = zg_arena_copy(a, p.code.at, p.code.n * sizeof(zg_inst));
    d->n_index = (uint32_t)p.rows.n;
    d->index = zg_arena_copy(a, p.rows.at, p.rows.n * sizeof(coefs));
    *desc = d;
  }
  zg_vec_fini(&p.code);
  zg_vec_fini(&p.rows);
  return status;
}

// ---- verify -------------------------------------------------------------------------------------------------------
static bool reduced_dim(const zg_loop_desc *d, uint32_t k) {
  return d->n_mid ? k >= d->n_outer && k < d->n_outer + d->n_mid : k >= d->n_outer;
}

static zg_status verify_view(const zg_kernel *k, uint32_t arg, const zg_inst *in, uint32_t i) {
  const zg_loop_desc *d = k->desc;
  if (arg >= k->n_args) return zg_error(ZG_INTERNAL, "%s: instruction %u: no argument %u", k->label, i, arg);
  const zg_view *v = &k->args[arg];
  if (v->rank != d->rank)
    return zg_error(ZG_INTERNAL, "%s: argument %u has rank %u, the loop %u", k->label, arg, v->rank, d->rank);
  if (zg_cls_of(v->dtype) != (zg_cls)in->cls)
    return zg_error(ZG_INTERNAL, "%s: instruction %u: argument %u is %s, the class %s", k->label, i, arg,
                    zg_dtype_name(v->dtype), cls_name[in->cls]);
  for (uint32_t r = 0; r < d->rank; r++)
    if (in->level == ZG_LEVEL_ROW && reduced_dim(d, r) && d->dim[r] > 1 && v->stride[r] != 0)
      return zg_error(ZG_INTERNAL, "%s: instruction %u: row-level argument %u moves along dim %u", k->label, i, arg, r);
  if ((in->kind == ZG_I_STORE) != (arg < k->n_out))
    return zg_error(ZG_INTERNAL, "%s: instruction %u: outputs are stored, inputs loaded (argument %u)", k->label, i, arg);
  return NULL;
}

static zg_cls want_cls(const zg_inst *in, uint32_t operand) {
  switch ((zg_inst_kind)in->kind) {
    case ZG_I_RANDOM: return ZG_CLS_INT;
    case ZG_I_MAP: return in->scalar == ZG_S_WHERE && operand == 0 ? ZG_CLS_INT : (zg_cls)in->in_cls;
    case ZG_I_CAST: return (zg_cls)in->in_cls;
    case ZG_I_LOAD:
    case ZG_I_CONST:
    case ZG_I_INDEX:
    case ZG_I_REDUCE:
    case ZG_I_STORE: break;
  }
  return (zg_cls)in->cls;
}

static zg_status verify_operands(const zg_kernel *k, uint32_t i) {
  const zg_loop_desc *d = k->desc;
  const zg_inst *in = &d->inst[i];
  uint32_t ops[3];
  const uint32_t n_ops = zg_inst_operands(in, ops);
  for (uint32_t n = 0; n < n_ops; n++) {
    if (ops[n] >= i || d->inst[ops[n]].kind == ZG_I_STORE)
      return zg_error(ZG_INTERNAL, "%s: instruction %u reads %u, which defines nothing before it", k->label, i, ops[n]);
    const zg_inst *from = &d->inst[ops[n]];
    if ((zg_cls)from->cls != want_cls(in, n))
      return zg_error(ZG_INTERNAL, "%s: instruction %u: operand %u has class %s, want %s", k->label, i, ops[n],
                      cls_name[from->cls], cls_name[want_cls(in, n)]);
    if (in->level == ZG_LEVEL_ROW && from->level == ZG_LEVEL_ELEM && in->kind != ZG_I_REDUCE)
      return zg_error(ZG_INTERNAL, "%s: row-level instruction %u reads element-level %u", k->label, i, ops[n]);
  }
  return NULL;
}

static zg_status verify_inst(const zg_kernel *k, uint32_t i) {
  const zg_loop_desc *d = k->desc;
  const zg_inst *in = &d->inst[i];
  if (in->kind > ZG_I_STORE || in->cls > ZG_CLS_INT || in->in_cls > ZG_CLS_INT || in->level > ZG_LEVEL_ELEM)
    return zg_error(ZG_INTERNAL, "%s: instruction %u is malformed", k->label, i);
  ZG_TRY(verify_operands(k, i));
  switch ((zg_inst_kind)in->kind) {
    case ZG_I_LOAD: return verify_view(k, in->a, in, i);
    case ZG_I_STORE: return verify_view(k, in->b, in, i);
    case ZG_I_INDEX:
      if (in->a >= d->n_index || in->cls != ZG_CLS_INT)
        return zg_error(ZG_INTERNAL, "%s: instruction %u: bad index", k->label, i);
      return NULL;
    case ZG_I_RANDOM:
      if (in->cls == ZG_CLS_INT) return zg_error(ZG_INTERNAL, "%s: instruction %u: random integers", k->label, i);
      return NULL;
    case ZG_I_MAP:
      if (in->scalar == ZG_S_NONE || in->scalar >= ZG_N_SCALARS)
        return zg_error(ZG_INTERNAL, "%s: instruction %u: no scalar %u", k->label, i, in->scalar);
      return NULL;
    case ZG_I_REDUCE:
      if (in->level != ZG_LEVEL_ROW || in->red > ZG_RED_PROD)
        return zg_error(ZG_INTERNAL, "%s: instruction %u: a reduction gives a row-level value", k->label, i);
      return NULL;
    case ZG_I_CAST:
      if (in->to >= ZG_N_DTYPES || zg_cls_of((zg_dtype)in->to) != (zg_cls)in->cls)
        return zg_error(ZG_INTERNAL, "%s: instruction %u: cast to a dtype of another class", k->label, i);
      return NULL;
    case ZG_I_CONST: return NULL;
  }
  return NULL;
}

// Column form: element-level code must not depend on a reduction, whose result is not there before the last element.
static zg_status verify_column(const zg_kernel *k) {
  const zg_loop_desc *d = k->desc;
  uint32_t *phase = zg_alloc(sizeof *phase * (d->n_inst + 1));
  zg_loop_phases(d, phase);
  zg_status status = NULL;
  for (uint32_t i = 0; i < d->n_inst && !status; i++)
    if (phase[i] && (d->inst[i].level == ZG_LEVEL_ELEM || d->inst[i].kind == ZG_I_REDUCE))
      status = zg_error(ZG_INTERNAL, "%s: instruction %u: element code after a reduction in column form", k->label, i);
  zg_free(phase);
  return status;
}

zg_status zg_loop_verify(const zg_kernel *k) {
  const zg_loop_desc *d = k->desc;
  if (d->rank > ZG_MAX_RANK || d->n_outer > d->rank || d->n_mid > d->rank - d->n_outer)
    return zg_error(ZG_INTERNAL, "%s: loop of rank %u with %u outer and %u mid dims", k->label, d->rank, d->n_outer, d->n_mid);
  for (uint32_t r = 0; r < d->rank; r++)
    if (d->dim[r] < 0) return zg_error(ZG_INTERNAL, "%s: loop dim %u is negative", k->label, r);
  for (uint32_t i = 0; i < d->n_inst; i++) ZG_TRY(verify_inst(k, i));
  return d->n_mid ? verify_column(k) : NULL;
}
