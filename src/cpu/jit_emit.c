// Emits the phases of a prepared loop kernel as C text. The text of a phase knows types, strides along the
// innermost dim, and constants, but no sizes and no addresses: equal layers of a model share functions.
//   values      locals; a value that a later phase reads is also written to its home in the thread's scratch, unless that
//               phase can load or compute it again
//   reductions  64 lanes over runs of ZG_LANES_FROM and more, else one by one, then into the row's total: the order of
//               vec.c's REDUCE
#include "cpu/jit.h"
#include <math.h>
#include <stdio.h>

enum { MAX_OPS = 300, MIN_RUN = 16 };
enum { NONE = UINT32_MAX };

typedef struct {
  loop_prog *p;
  const loop_phase *ph;
  jit_phase *out;
  const uint32_t *def;  // op that defines each slot
  uint32_t phase;
  zg_str ahead;       // what to fetch early, 64 elements at a time
  zg_str first;       // what 64 elements (M of them, from B on) need before the loop over them: their random numbers
  zg_str head, body;  // declarations before the loop; the loop's body, with I for the element and L(k) for accumulator k
  uint32_t *name;     // slot -> number of its local, or NONE
  uint32_t n_names;
  bool ok;
} emitter;

static const char *const cls_name[] = {"f32", "f64", "i64"};
static const char *cls_of(uint8_t c) { return cls_name[c]; }

// How an element lies in memory, and what is put before it to make it a value, and a value it: functions or operators.
static const struct {
  const char *name, *load, *store;
} dtypes[ZG_N_DTYPES] = {
    [ZG_F32] = {"f32", "", ""},
    [ZG_F64] = {"f64", "", ""},
    [ZG_BF16] = {"uint16_t", "c_from_bf16", "c_to_bf16"},
    [ZG_F16] = {"uint16_t", "c_from_f16", "c_to_f16"},
    [ZG_I8] = {"int8_t", "(i64)", "(int8_t)"},
    [ZG_I16] = {"int16_t", "(i64)", "(int16_t)"},
    [ZG_I32] = {"int32_t", "(i64)", "(int32_t)"},
    [ZG_I64] = {"int64_t", "(i64)", "(int64_t)"},
    [ZG_U8] = {"uint8_t", "(i64)", "(uint8_t)"},
    [ZG_U16] = {"uint16_t", "(i64)", "(uint16_t)"},
    [ZG_U32] = {"uint32_t", "(i64)", "(uint32_t)"},
    [ZG_U64] = {"uint64_t", "(i64)", "(uint64_t)"},
    [ZG_BOOL] = {"uint8_t", "0 != ", "0 != "},
};

// ---- the maps that exist ----------------------------------------------------------------------------------
static const char *const maps[] = {
#define UNARY(C, T, R, name, expr) #C "_" #name,
#define BLOCKS(name, expr) "f32_" #name,
#define BINARY(C, T, R, name, expr) #C "_" #name,
#define TERNARY(C, A, T, name, expr) #C "_" #name,
#include "cpu/vec_maps.def"
#undef UNARY
#undef BLOCKS
#undef BINARY
#undef TERNARY
};

static bool map_exists(const char *name) {
  for (size_t i = 0; i < ZG_COUNT(maps); i++)
    if (strcmp(maps[i], name) == 0) return true;
  return false;
}

// ---- bindings ---------------------------------------------------------------------------------------------
static uint32_t bind(emitter *e, jit_bind_kind kind, uint32_t at) {
  jit_phase *o = e->out;
  for (uint32_t i = 0; i < o->n_bind; i++)
    if (o->bind[i].kind == kind && o->bind[i].at == at) return i;
  if (o->n_bind == JIT_BINDS) {
    e->ok = false;
    return 0;
  }
  o->bind[o->n_bind] = (jit_bind){(uint8_t)kind, at};
  return o->n_bind++;
}

static uint32_t new_local(emitter *e, uint32_t slot) { return e->name[slot] = e->n_names++; }

// ---- values -----------------------------------------------------------------------------------------------
static uint32_t value(emitter *e, uint32_t slot);

static void put_number(zg_str *out, uint8_t cls, double imm) {
  if (cls == ZG_CLS_INT) zg_str_add(out, "(i64)%lldLL", (long long)imm);
  else if (isnan(imm)) zg_str_add(out, "(%s)NAN", cls_of(cls));
  else if (isinf(imm)) zg_str_add(out, "(%s)%sINFINITY", cls_of(cls), imm < 0 ? "-" : "");
  else zg_str_add(out, cls == ZG_CLS_F32 ? "(f32)%af" : "%a", cls == ZG_CLS_F32 ? (double)(float)imm : imm);
}

static int64_t inner_stride(const emitter *e, const loop_op *o) {
  const loop_walk *w = &e->p->walks.at[o->walk];
  return w->stride[w->rank - 1];
}

static uint32_t put_load(emitter *e, uint32_t op, uint32_t slot) {
  const loop_op *o = &e->p->ops.at[op];
  const int64_t stride = inner_stride(e, o);
  const uint32_t b = bind(e, BIND_ARG, op), v = new_local(e, slot);
  zg_str_add(&e->head, "const %s *const a%u = p[%u];\n", dtypes[o->to].name, v, b);
  zg_str *out = stride == 0 ? &e->head : &e->body;
  zg_str_add(out, "const %s v%u = %s(a%u[", cls_of(o->cls), v, dtypes[o->to].load, v);
  if (stride == 0) zg_str_add(out, "0]);\n");
  else zg_str_add(out, "(I) * %lldLL]);\n", (long long)stride);
  if (stride == 1 && e->p->single) zg_str_add(&e->ahead, "AHEAD(a%u + i + n, 0)\n", v);
  return v;
}

static uint32_t put_index(emitter *e, uint32_t op, uint32_t slot) {
  const loop_op *o = &e->p->ops.at[op];
  if (e->out->n_index == JIT_INDICES) e->ok = false;
  else e->out->index[e->out->n_index++] = op;
  const uint32_t v = new_local(e, slot);
  zg_str_add(&e->head, "const i64 x%u = x[%u];\n", v, e->out->n_index - 1);
  zg_str_add(&e->body, "const i64 v%u = x%u + (I) * %lldLL;\n", v, v, (long long)inner_stride(e, o));
  return v;
}

static uint32_t put_const(emitter *e, uint32_t op, uint32_t slot) {
  const loop_op *o = &e->p->ops.at[op];
  const uint32_t v = new_local(e, slot);
  zg_str_add(&e->head, "const %s v%u = ", cls_of(o->cls), v);
  put_number(&e->head, o->cls, o->imm);
  zg_str_add(&e->head, ";\n");
  return v;
}

// A row-level value: one for the run, or one a column.
static uint32_t put_row(emitter *e, uint32_t slot, uint8_t cls) {
  const bool column = e->p->column && !e->p->slots.at[slot].uniform;
  const uint32_t b = bind(e, BIND_ROW, slot), v = new_local(e, slot);
  if (!e->p->slots.at[slot].uniform) e->out->by_row = true;
  if (column) {
    zg_str_add(&e->head, "const %s *const a%u = p[%u];\n", cls_of(cls), v, b);
    zg_str_add(&e->body, "const %s v%u = a%u[I];\n", cls_of(cls), v, v);
  } else {
    zg_str_add(&e->head, "const %s v%u = *(const %s *)p[%u];\n", cls_of(cls), v, cls_of(cls), b);
  }
  return v;
}

static uint32_t put_kept(emitter *e, uint32_t slot, uint8_t cls) {
  const uint32_t b = bind(e, BIND_TILE, slot), v = new_local(e, slot);
  zg_str_add(&e->head, "const %s *const a%u = p[%u];\n", cls_of(cls), v, b);
  zg_str_add(&e->body, "const %s v%u = a%u[I];\n", cls_of(cls), v, v);
  return v;
}

static uint8_t slot_cls(const emitter *e, uint32_t slot) {
  const uint32_t d = e->def[slot];
  if (d != NONE) return e->p->ops.at[d].cls;
  for (size_t i = 0; i < e->p->accs.n; i++)
    if (e->p->accs.at[i].slot == slot) return e->p->accs.at[i].cls;
  return ZG_CLS_F32;
}

// May a later phase do the op again instead of reading what this one kept?
static bool again(const loop_op *o) {
  return o->kind == OP_CONST || o->kind == OP_INDEX || o->kind == OP_EXPAND ||
         (o->kind == OP_LOAD && !o->copy);
}

// The local that holds `slot`; made if this phase has none yet.
static uint32_t value(emitter *e, uint32_t slot) {
  if (e->name[slot] != NONE) return e->name[slot];
  const loop_slot *s = &e->p->slots.at[slot];
  if (s->row) return put_row(e, slot, slot_cls(e, slot));
  const uint32_t d = e->def[slot];
  const loop_op *o = &e->p->ops.at[d];
  if (s->kept || !again(o)) return put_kept(e, slot, o->cls);
  switch ((loop_op_kind)o->kind) {
    case OP_CONST: return put_const(e, d, slot);
    case OP_INDEX: return put_index(e, d, slot);
    case OP_LOAD: return put_load(e, d, slot);
    case OP_EXPAND: return e->name[slot] = value(e, o->a);
    case OP_RANDOM:
    case OP_MAP:
    case OP_CAST:
    case OP_REDUCE:
    case OP_STORE: break;
  }
  e->ok = false;
  return 0;
}

// ---- operations -------------------------------------------------------------------------------------------
static void put_map(emitter *e, const loop_op *o) {
  static const char *const table_name[] = {"f32", "f64", "int"};
  const zg_scalar s = (zg_scalar)(o->op & 0xFFFF);
  const uint32_t from[3] = {o->a, o->b, o->c};
  uint32_t ops[3];
  char name[64];
  snprintf(name, sizeof name, "%s_%s", table_name[s == ZG_S_WHERE ? o->cls : o->in_cls], zg_scalar_name(s));
  if (!map_exists(name)) e->ok = false;
  const int n = zg_scalar_arity(s);
  for (int i = 0; i < n; i++) ops[i] = value(e, from[i]);
  zg_str_add(&e->body, "const %s v%u = j_%s(", cls_of(o->cls), new_local(e, o->dst), name);
  for (int i = 0; i < n; i++) zg_str_add(&e->body, i ? ", v%u" : "v%u", ops[i]);
  zg_str_add(&e->body, ");\n");
}

static void put_cast(emitter *e, const loop_op *o) {
  const uint32_t a = value(e, o->a), v = new_local(e, o->dst);
  zg_str *out = &e->body;
  if (o->to == ZG_BOOL) {
    zg_str_add(out, "const i64 v%u = v%u != 0;\n", v, a);
    return;
  }
  const bool to_int = o->cls == ZG_CLS_INT && o->in_cls != ZG_CLS_INT;
  if (to_int) zg_str_add(out, "i64 v%u = c_to_i64(v%u);\n", v, a);
  else zg_str_add(out, "%s v%u = (%s)v%u;\n", cls_of(o->cls), v, cls_of(o->cls), a);
  switch ((zg_dtype)o->to) {
    case ZG_BF16: zg_str_add(out, "v%u = c_from_bf16(c_to_bf16(v%u));\n", v, v); break;
    case ZG_F16: zg_str_add(out, "v%u = c_from_f16(c_to_f16(v%u));\n", v, v); break;
    case ZG_I8:
    case ZG_I16:
    case ZG_I32:
    case ZG_U8:
    case ZG_U16:
    case ZG_U32: zg_str_add(out, "v%u = (i64)(%s)v%u;\n", v, dtypes[o->to].name, v); break;
    case ZG_F32:
    case ZG_F64:
    case ZG_I64:
    case ZG_U64:
    case ZG_BOOL:
    case ZG_N_DTYPES: break;
  }
}

static void put_random(emitter *e, const loop_op *o) {
  if (o->normal || o->cls != ZG_CLS_F32) e->ok = false;
  const uint32_t a = value(e, o->a), d = e->def[o->a], v = new_local(e, o->dst);
  const bool run = d != NONE && e->p->ops.at[d].kind == OP_INDEX && !e->p->slots.at[o->a].row &&
                   inner_stride(e, &e->p->ops.at[d]) == 1;
  zg_str_add(&e->head, "const r_key k%u = j_key(rand, %uu);\n", v, (uint32_t)o->imm);
  if (run) {
    zg_str_add(&e->head, "f32 u%u[64];\n", v);
    zg_str_add(&e->first, "r_uniform_run(M, u%u, (u64)(x%u + B), k%u);\n", v, a, v);
    zg_str_add(&e->body, "const f32 v%u = u%u[J];\n", v, v);
  } else {
    zg_str_add(&e->body, "const f32 v%u = r_uniform((u64)v%u, k%u);\n", v, a, v);
  }
}

static void put_store(emitter *e, uint32_t op) {
  const loop_op *o = &e->p->ops.at[op];
  const int64_t stride = inner_stride(e, o);
  const uint32_t v = value(e, o->a), b = bind(e, BIND_ARG, op);
  zg_str_add(&e->head, "%s *const o%u = p[%u];\n", dtypes[o->to].name, b, b);
  zg_str_add(&e->body, "o%u[(I) * %lldLL] = %s(v%u);\n", b, (long long)stride, dtypes[o->to].store, v);
}

static void put_fold(zg_str *out, uint8_t red, const char *x, const char *y) {
  switch (red) {
    case ZG_RED_SUM: zg_str_add(out, "%s + %s", x, y); break;
    case ZG_RED_PROD: zg_str_add(out, "%s * %s", x, y); break;
    default:
      zg_str_add(out, "%s %s %s || %s != %s ? %s : %s", x, red == ZG_RED_MAX ? ">" : "<", y, x, x, x, y);
  }
}

// Integers wrap as vec.c's do: their sums and products are done unsigned.
static void put_fold_of(zg_str *out, uint8_t cls, uint8_t red, const char *x, const char *y) {
  const bool wraps = cls == ZG_CLS_INT && (red == ZG_RED_SUM || red == ZG_RED_PROD);
  if (!wraps) put_fold(out, red, x, y);
  else zg_str_add(out, "(i64)((u64)%s %s (u64)%s)", x, red == ZG_RED_SUM ? "+" : "*", y);
}

static void put_reduce(emitter *e, const loop_op *o) {
  const uint32_t v = value(e, o->a);
  char x[32], y[32];
  snprintf(x, sizeof x, "L(%u)", o->acc - e->ph->acc);
  snprintf(y, sizeof y, "v%u", v);
  zg_str_add(&e->body, "%s = ", x);
  put_fold_of(&e->body, o->cls == ZG_CLS_F32 && !e->p->column ? ZG_CLS_F32 : o->cls, o->red, x, y);
  zg_str_add(&e->body, ";\n");
}

// Is the slot read by element code of a later phase that can only find it in its home?
static bool crosses(const emitter *e, const loop_op *o) {
  if (e->p->slots.at[o->dst].kept) return true;
  if (!e->p->single || again(o)) return false;
  for (size_t q = e->phase + 1; q < e->p->phases.n; q++) {
    const loop_phase *ph = &e->p->phases.at[q];
    for (uint32_t i = ph->elem; i < ph->elem + ph->n_elem; i++) {
      uint32_t reads[3];
      for (uint32_t n = zg__loop_op_reads(&e->p->ops.at[i], reads); n-- > 0;)
        if (reads[n] == o->dst) return true;
    }
  }
  return false;
}

static void put_op(emitter *e, uint32_t op) {
  const loop_op *o = &e->p->ops.at[op];
  switch ((loop_op_kind)o->kind) {
    case OP_LOAD: put_load(e, op, o->dst); break;
    case OP_CONST: put_const(e, op, o->dst); break;
    case OP_INDEX: put_index(e, op, o->dst); break;
    case OP_EXPAND: e->name[o->dst] = value(e, o->a); return;
    case OP_RANDOM: put_random(e, o); break;
    case OP_MAP: put_map(e, o); break;
    case OP_CAST: put_cast(e, o); break;
    case OP_REDUCE: put_reduce(e, o); return;
    case OP_STORE: put_store(e, op); return;
  }
  if (!crosses(e, o)) return;
  const uint32_t b = bind(e, BIND_TILE, o->dst);
  zg_str_add(&e->head, "%s *const t%u = p[%u];\n", cls_of(o->cls), b, b);
  zg_str_add(&e->body, "t%u[I] = v%u;\n", b, e->name[o->dst]);
}

// ---- functions --------------------------------------------------------------------------------------------
static void put_identity(zg_str *out, const loop_acc *a) {
  if (a->cls == ZG_CLS_INT) {
    zg_str_add(out, a->red == ZG_RED_SUM    ? "0"
                    : a->red == ZG_RED_PROD ? "1"
                    : a->red == ZG_RED_MAX  ? "INT64_MIN"
                                            : "INT64_MAX");
    return;
  }
  zg_str_add(out, a->red == ZG_RED_SUM    ? "0"
                  : a->red == ZG_RED_PROD ? "1"
                  : a->red == ZG_RED_MAX  ? "-INFINITY"
                                          : "INFINITY");
}

static void each_acc(const emitter *e, zg_str *out, void (*put)(zg_str *, uint32_t, const loop_acc *)) {
  for (uint32_t k = 0; k < e->ph->n_acc; k++) put(out, k, &e->p->accs.at[e->ph->acc + k]);
}

static void put_lanes(zg_str *out, uint32_t k, const loop_acc *a) {
  zg_str_add(out, "%s l%u[64];\nfor (int j = 0; j < 64; j++) l%u[j] = ", cls_of(a->cls), k, k);
  put_identity(out, a);
  zg_str_add(out, ";\n");
}
static void put_tree(zg_str *out, uint32_t k, const loop_acc *a) {
  char x[32], y[32];
  snprintf(x, sizeof x, "l%u[j]", k);
  snprintf(y, sizeof y, "l%u[j + h]", k);
  zg_str_add(out, "for (int h = 32; h > 0; h /= 2)\nfor (int j = 0; j < h; j++) %s = ", x);
  put_fold_of(out, a->cls, a->red, x, y);
  zg_str_add(out, ";\ny%u = l%u[0];\n", k, k);
}
static void put_result(zg_str *out, uint32_t k, const loop_acc *a) {
  zg_str_add(out, "%s y%u = ", cls_of(a->cls), k);
  put_identity(out, a);
  zg_str_add(out, ";\n");
}
static void put_total(zg_str *out, uint32_t k, const loop_acc *a) {
  const char *t = a->cls == ZG_CLS_INT ? "i64" : "f64";
  zg_str_add(out, "{ %s *const t = p[%u]; const %s x = *t, y = y%u; *t = ", t, k, t, k);
  put_fold_of(out, a->cls, a->red, "x", "y");
  zg_str_add(out, "; }\n");
}
static void put_column_acc(zg_str *out, uint32_t k, const loop_acc *a) {
  zg_str_add(out, "%s *const c%u = p[%u];\n", cls_of(a->cls), k, k);
}

// The runs of a phase with reductions are its tiles, or rows: do they reach lengths that take lanes, or that
// do not?
static void run_lengths(const loop_prog *p, bool *lanes, bool *single) {
  const int64_t most = p->single ? p->width : p->tile, last = p->width % p->tile;
  *lanes = most >= ZG_LANES_FROM;
  *single = most < ZG_LANES_FROM || (!p->single && last && last < ZG_LANES_FROM);
}

// 64 elements at a time, then the rest. `accumulator`: what L(k) stands for.
static void put_blocks(const emitter *e, zg_str *out, const char *accumulator) {
  const char *first = e->first.n ? e->first.at : "", *ahead = e->ahead.n ? e->ahead.at : "";
  zg_str_add(out, "i64 i = 0;\n#define I (i + j)\n#define J j\n#define B i\n#define L(k) %s\n", accumulator);
  zg_str_add(out,
             "#define M 64\nfor (; i + 64 <= n; i += 64) {\n%s%sEACH for (int j = 0; j < 64; j++) "
             "{\n%s}\n}\n#undef M\n",
             ahead, first, e->body.at);
  zg_str_add(out, "#define M (n - i)\n%sEACH for (int j = 0; i + j < n; j++) {\n%s}\n#undef M\n", first,
             e->body.at);
  zg_str_add(out, "#undef I\n#undef J\n#undef B\n#undef L\n");
}

// All in one loop.
static void put_line(const emitter *e, zg_str *out, const char *accumulator) {
  zg_str_add(out, "#define I i\n#define J i\n#define B 0\n#define M n\n#define L(k) %s\n%s", accumulator,
             e->first.n ? e->first.at : "");
  zg_str_add(out,
             "EACH for (i64 i = 0; i < n; i++) {\n%s}\n#undef I\n#undef J\n#undef B\n#undef M\n#undef L\n",
             e->body.at);
}

static void put_row_reductions(emitter *e, zg_str *out) {
  bool lanes, single;
  run_lengths(e->p, &lanes, &single);
  each_acc(e, out, put_result);
  if (lanes) {
    if (single) zg_str_add(out, "if (n >= %d) ", ZG_LANES_FROM);
    zg_str_add(out, "{\n");
    each_acc(e, out, put_lanes);
    put_blocks(e, out, "l##k[j]");
    each_acc(e, out, put_tree);
    zg_str_add(out, "}%s", single ? " else " : "\n");
  }
  if (single) {
    zg_str_add(out, "{\n");
    put_line(e, out, "y##k");
    zg_str_add(out, "}\n");
  }
  each_acc(e, out, put_total);
}

static void put_function(emitter *e, zg_str *out) {
  zg_str_add(out, "(i64 n, void *const *p, const i64 *x, const uint32_t *rand) {\n(void)x;\n(void)rand;\n%s",
             e->head.n ? e->head.at : "");
  if (e->ph->n_acc && !e->p->column) {
    put_row_reductions(e, out);
  } else {
    each_acc(e, out, put_column_acc);
    if (e->first.n) put_blocks(e, out, "c##k[i + j]");
    else put_line(e, out, "c##k[i]");
  }
  zg_str_add(out, "}\n");
}

// ---- what is worth it -------------------------------------------------------------------------------------
// The shortest piece of the space in which all views of a phase are lines.
static int64_t shortest_run(const loop_prog *p, const loop_phase *ph) {
  int64_t least = INT64_MAX;
  for (uint32_t i = ph->elem; i < ph->elem + ph->n_elem; i++) {
    const loop_op *o = &p->ops.at[i];
    if (o->kind != OP_LOAD && o->kind != OP_STORE && o->kind != OP_INDEX) continue;
    const loop_walk *w = &p->walks.at[o->walk];
    if (w->rank > 1) least = ZG_MIN(least, w->dim[w->rank - 1]);
  }
  return least;
}

static bool worth_it(const loop_prog *p, const loop_phase *ph) {
  const int64_t run = shortest_run(p, ph), line = p->column ? p->block_rows : p->width;
  if (ph->n_elem > MAX_OPS) return false;
  if (run < line && (run < MIN_RUN || (ph->n_acc && !p->column)))
    return false;  // reductions: a tile is one run
  if (ph->n_acc && !p->column && run < INT64_MAX && run % p->width) return false;
  return true;
}

// Rows in one tile: the last reduction fetches the lines that the code behind it will write, so that their
// way from memory goes beside arithmetic. (Loads fetch the next row, see put_load.)
static void put_ahead_stores(emitter *e) {
  if (!e->p->single || !e->ph->n_acc || e->p->column) return;
  for (uint32_t i = e->ph->elem + e->ph->n_elem; i < e->p->ops.n; i++) {
    const loop_op *o = &e->p->ops.at[i];
    if (o->kind == OP_REDUCE) {
      return;
    } else if (o->kind == OP_STORE && !e->p->slots.at[o->a].row && inner_stride(e, o) == 1) {
      const uint32_t b = bind(e, BIND_ARG, i);
      zg_str_add(&e->head, "%s *const o%u = p[%u];\n", dtypes[o->to].name, b, b);
      zg_str_add(&e->ahead, "AHEAD(o%u + i, 1)\n", b);
    }
  }
}

static bool emit_phase(loop_prog *p, uint32_t q, const uint32_t *def, zg_str *text, zg_map *seen) {
  const loop_phase *ph = &p->phases.at[q];
  jit_phase *out = &p->jit[q];
  if (ph->n_elem == 0) return true;
  if (!worth_it(p, ph)) return false;
  emitter e = {.p = p,
               .ph = ph,
               .out = out,
               .def = def,
               .phase = q,
               .ok = true,
               .name = zg_alloc(sizeof(uint32_t) * (p->slots.n + 1))};
  for (size_t i = 0; i < p->slots.n; i++) e.name[i] = NONE;
  out->by_row = ph->n_acc > 0;
  for (uint32_t k = 0; k < ph->n_acc; k++) bind(&e, BIND_ACC, ph->acc + k);   // first, so that accumulator k is p[k]
  for (uint32_t i = ph->elem; i < ph->elem + ph->n_elem && e.ok; i++) put_op(&e, i);
  if (e.ok) put_ahead_stores(&e);
  if (e.ok) {
    zg_str f = {0};
    put_function(&e, &f);
    snprintf(out->name, sizeof out->name, "k%016llx", (unsigned long long)zg_hash(f.at, f.n, 7));
    if (zg_map_put(seen, out->name, 1)) {
      zg_str_add(text, "void %s", out->name);
      zg_str_put(text, f.at, f.n);
    }
    zg_str_fini(&f);
  }
  zg_str_fini(&e.head);
  zg_str_fini(&e.body);
  zg_str_fini(&e.ahead);
  zg_str_fini(&e.first);
  zg_free(e.name);
  return e.ok;
}

bool zg__jit_emit(loop_prog *p, zg_str *text, zg_map *seen) {
  if (p->n_blocks == 0 || p->width == 0) return false;
  uint32_t *def = zg_alloc(sizeof *def * (p->slots.n + 1));
  for (size_t i = 0; i < p->slots.n; i++) def[i] = NONE;
  for (uint32_t i = 0; i < p->ops.n; i++)
    if (p->ops.at[i].kind != OP_STORE && p->ops.at[i].kind != OP_REDUCE) def[p->ops.at[i].dst] = i;
  p->jit = zg_alloc(sizeof *p->jit * (p->phases.n + 1));
  bool ok = true;
  for (uint32_t q = 0; q < p->phases.n && ok; q++) ok = emit_phase(p, q, def, text, seen);
  zg_free(def);
  if (ok) return true;
  zg_free(p->jit);
  p->jit = NULL;
  return false;
}

// ---- prelude ----------------------------------------------------------------------------------------------
extern const char zg__text_vec_math[], zg__text_vec_cvt[], zg__text_vec_random[], zg__text_vec_maps[],
    zg__text_jit_prelude[];

static void put_file(zg_str *out, const char *text) {
  for (const char *at = text; *at;) {
    const size_t n = strcspn(at, "\n");
    if (strncmp(at, "#include \"", 10) != 0 && strncmp(at, "#pragma once", 12) != 0)
      zg_str_put(out, at, n), zg_str_add(out, "\n");
    at += n + (at[n] == '\n');
  }
}

void zg__jit_prelude(zg_str *out) {
  put_file(out, zg__text_vec_math);
  put_file(out, zg__text_vec_cvt);
  put_file(out, zg__text_vec_random);
  put_file(out, zg__text_jit_prelude);
  put_file(out, zg__text_vec_maps);
}
