// Prepares loop kernels: chooses form, tile and cut, then turns instructions into operations with registers.
// - Levels are found anew: what does not move along the inner dims is row-level, whatever the program says, and uniform if it moves
//   along none. Loops without reductions take the split of dims that suits their views.
// - A phase computes what its reductions and stores need. A value of an earlier phase is computed again if that is cheap; else it
//   is kept in a row buffer. Loads from memory that the kernel also writes are always kept.
// - Registers are given by last use. A result that is stored as it is goes straight to the tensor, unless an operand that lies
//   in the same memory is still to be read.
#include "cpu/loop_priv.h"

enum { NONE = UINT32_MAX, SPLIT_ELEMS = 32768, WANT_UNITS = 64, L1_BYTES = 20480, KEEP_BYTES = 1 << 19, CHEAP = 3, COLUMN_TILE = 256 };

typedef struct {
  loop_prog *p;
  const zg_sched *s;
  const zg_vec *vec;
  const zg_kernel *k;
  zg_loop_desc d;                   // with n_outer, n_mid as chosen here
  uint32_t *phase, *slot, *expanded, *acc_of, *last_need;
  uint8_t *level;                   // zg_level, found anew
  bool *uniform, *keep, *needed;
  int *cost;
  uint32_t n_phases;
} plan;

// ---- walks --------------------------------------------------------------------------------------------------------
static bool is_row_dim(const zg_loop_desc *d, uint32_t k) { return k < d->n_outer || (d->n_mid && k >= d->n_outer + d->n_mid); }

static loop_walk make_walk(const zg_loop_desc *d, const int64_t *stride, int64_t offset, bool row) {
  loop_walk w = {.offset = offset};
  for (uint32_t k = 0; k < d->rank; k++) {
    if (d->dim[k] == 1 || (row && !is_row_dim(d, k))) continue;
    if (w.rank && w.stride[w.rank - 1] == stride[k] * d->dim[k]) {
      w.dim[w.rank - 1] *= d->dim[k];
      w.stride[w.rank - 1] = stride[k];
      continue;
    }
    w.dim[w.rank] = d->dim[k];
    w.stride[w.rank++] = stride[k];
  }
  if (w.rank == 0) w.dim[0] = 1, w.rank = 1;
  return w;
}

static bool zero_along(const zg_loop_desc *d, const int64_t *stride, bool inner_only) {
  for (uint32_t k = 0; k < d->rank; k++)
    if (d->dim[k] != 1 && stride[k] != 0 && !(inner_only && is_row_dim(d, k))) return false;
  return true;
}

static int64_t product(const int64_t *dim, uint32_t from, uint32_t to) {
  int64_t n = 1;
  for (uint32_t i = from; i < to; i++) n *= dim[i];
  return n;
}

// ---- levels -------------------------------------------------------------------------------------------------------
static void find_levels(plan *b) {
  for (uint32_t i = 0; i < b->d.n_inst; i++) {
    const zg_inst *in = &b->d.inst[i];
    uint32_t ops[3];
    const uint32_t n = zg_inst_operands(in, ops);
    bool row = true, uniform = true;
    for (uint32_t k = 0; k < n; k++) row &= b->level[ops[k]] == ZG_LEVEL_ROW, uniform &= b->uniform[ops[k]];
    const int64_t *stride = in->kind == ZG_I_LOAD ? b->k->args[in->a].stride : in->kind == ZG_I_INDEX ? b->d.index[in->a] : NULL;
    if (stride) row = zero_along(&b->d, stride, true), uniform = zero_along(&b->d, stride, false);
    if (in->kind == ZG_I_REDUCE) row = true, uniform = false;
    if (in->kind == ZG_I_STORE) row = zero_along(&b->d, b->k->args[in->b].stride, true) && row, uniform = false;
    b->level[i] = row ? ZG_LEVEL_ROW : ZG_LEVEL_ELEM;
    b->uniform[i] = row && uniform;
  }
}

static bool has_reduction(const zg_loop_desc *d) {
  for (uint32_t i = 0; i < d->n_inst; i++)
    if (d->inst[i].kind == ZG_I_REDUCE) return true;
  return false;
}

// Does every view walk the dims from `from` on as one dim?
static bool suffix_is_flat(const plan *b, uint32_t from) {
  zg_loop_desc d = b->d;
  d.n_outer = from, d.n_mid = 0;
  for (uint32_t k = 0; k < from; k++) d.dim[k] = 1;
  for (uint32_t a = 0; a < b->k->n_args; a++)
    if (b->k->args[a].buf && make_walk(&d, b->k->args[a].stride, 0, false).rank > 1) return false;
  return true;
}

// Is there an instruction of that kind that gives or takes one value a row, and not one for all rows?
static bool row_level(const plan *b, zg_inst_kind kind) {
  for (uint32_t i = 0; i < b->d.n_inst; i++)
    if (b->level[i] == ZG_LEVEL_ROW && !b->uniform[i] && b->d.inst[i].kind == kind) return true;
  return false;
}

// Loops without reductions: rows are the longest run of dims that all views walk without a break. Row-level code that the program
// has and that costs something is left row-level.
static void choose_split(plan *b) {
  if (b->d.n_mid && product(b->d.dim, b->d.n_outer + b->d.n_mid, b->d.rank) == 1) b->d.n_mid = 0;
  if (has_reduction(&b->d)) return;
  int64_t width = 1;
  for (uint32_t k = 0; k < b->d.rank; k++) width *= is_row_dim(&b->d, k) ? 1 : b->d.dim[k];
  find_levels(b);
  if (width != 1 && row_level(b, ZG_I_STORE)) return;
  b->d.n_mid = 0;
  uint32_t from = b->d.rank;
  while (from > 0 && suffix_is_flat(b, from - 1)) from--;
  find_levels(b);
  if (from > 0 && width >= 8 && row_level(b, ZG_I_MAP)) return;
  b->d.n_outer = product(b->d.dim, from, b->d.rank) >= 64 ? from : 0;
}

// ---- shape of the work --------------------------------------------------------------------------------------------------
static int64_t even(int64_t n, int64_t most) {   // the size of equal pieces of n, at most `most`, a multiple of 16
  const int64_t pieces = (n + most - 1) / most;
  return pieces <= 1 ? n : ZG_MIN(most, (int64_t)zg_round_up((uint64_t)((n + pieces - 1) / pieces), 16));
}

// Bytes that a tile element occupies in L1: registers live at once are about half of the values; tensors count once each.
static int64_t bytes_per_elem(const plan *b) {
  int64_t bytes = 0;
  for (uint32_t i = 0; i < b->d.n_inst; i++) {
    if (b->level[i] != ZG_LEVEL_ELEM) continue;
    const int64_t size = b->d.inst[i].cls == ZG_CLS_F32 ? 4 : 8;
    bytes += b->d.inst[i].kind == ZG_I_LOAD || b->d.inst[i].kind == ZG_I_STORE ? size : size / 2;
  }
  return bytes;
}

// Rows that several phases go over are best one tile, even if that takes a part of L2: nothing is computed or loaded twice.
static int64_t choose_tile(const plan *b) {
  const int64_t bytes = bytes_per_elem(b), width = product(b->d.dim, b->d.n_outer, b->d.rank);
  int64_t tile = LOOP_TILE_MAX;
  if (b->n_phases > 1 && !b->d.n_mid && width <= tile && width * bytes <= 2 * L1_BYTES) return ZG_MAX(width, LOOP_TILE_MIN);
  while (tile > LOOP_TILE_MIN && tile * bytes > L1_BYTES) tile /= 2;
  return tile;
}

// Parts that a block's tiles are cut into where there are few blocks; `elems`: of a block.
static int64_t choose_splits(const plan *b, int64_t n_blocks, int64_t tiles, int64_t elems) {
  if (!n_blocks || n_blocks >= WANT_UNITS || tiles < 2) return 1;
  const int64_t want = (WANT_UNITS + n_blocks - 1) / n_blocks, most = elems / SPLIT_ELEMS;
  return ZG_MIN(ZG_MAX(has_reduction(&b->d) ? ZG_MIN(most, want) : most, 1), tiles);
}

static void shape_blocks(plan *b) {
  loop_prog *p = b->p;
  const zg_loop_desc *d = &b->d;
  const int64_t tile = choose_tile(b);
  p->column = d->n_mid > 0;
  if (p->column) {
    // The cut that decides the order of the sums depends on the shape alone: a value that is computed again in another kernel sums
    // to the same bits. How many columns go together does not matter to them.
    const int64_t outer = product(d->dim, 0, d->n_outer);
    p->inner = product(d->dim, d->n_outer + d->n_mid, d->rank);
    p->width = product(d->dim, d->n_outer, d->n_outer + d->n_mid);
    p->rows = outer * p->inner;
    const int64_t columns = ZG_MAX(even(p->inner, COLUMN_TILE), 1), blocks = outer * ((p->inner + columns - 1) / columns);
    p->tile = columns == p->inner ? ZG_MAX(COLUMN_TILE / p->inner, 1) : 1;
    p->tiles = (p->width + p->tile - 1) / p->tile;
    p->splits = choose_splits(b, p->rows ? blocks : 0, p->tiles, p->width * columns);
    p->block_rows = columns >= p->inner ? columns : even(p->inner, ZG_MAX(tile, COLUMN_TILE));
    p->n_blocks = outer * ((p->inner + p->block_rows - 1) / p->block_rows);
  } else {
    p->rows = product(d->dim, 0, d->n_outer);
    p->width = product(d->dim, d->n_outer, d->rank);
    p->single = p->width <= tile;
    p->block_rows = p->single ? ZG_MIN(ZG_MAX(tile / ZG_MAX(p->width, 1), 1), LOOP_ROWS_MAX) : 1;
    p->n_blocks = (p->rows + p->block_rows - 1) / p->block_rows;
    p->tile = p->single ? ZG_MAX(p->width, 1) : even(p->width, tile);
    p->tiles = (p->width + p->tile - 1) / p->tile;
    p->splits = choose_splits(b, p->rows ? p->n_blocks : 0, p->tiles, p->width * p->block_rows);
  }
  if (p->rows == 0) p->n_blocks = 0;
}

// ---- what is kept over phases -------------------------------------------------------------------------------------------
static bool same_memory(const plan *b, uint32_t x, uint32_t y) {
  if (x == y) return true;
  const zg_buf *p = &b->s->bufs.at[x], *q = &b->s->bufs.at[y];
  if (b->s->arena_bytes[p->space] == 0) return false;   // offsets are not set yet
  return p->space == q->space && p->offset < q->offset + q->bytes && q->offset < p->offset + p->bytes;
}

static bool is_overwritten(const plan *b, uint32_t arg) {
  for (uint32_t o = 0; o < b->k->n_out; o++)
    if (b->k->args[o].buf && same_memory(b, b->k->args[o].buf, b->k->args[arg].buf)) return true;
  return false;
}

static int own_cost(const zg_inst *in) {
  switch ((zg_inst_kind)in->kind) {
    case ZG_I_LOAD:
    case ZG_I_CAST: return 1;
    case ZG_I_INDEX: return 2;
    case ZG_I_RANDOM: return 20;
    case ZG_I_MAP: break;
    case ZG_I_CONST:
    case ZG_I_REDUCE:
    case ZG_I_STORE: return 0;
  }
  switch ((zg_scalar)in->scalar) {
    case ZG_S_ADD: case ZG_S_SUB: case ZG_S_MUL: case ZG_S_NEG: case ZG_S_ABS: case ZG_S_MAX: case ZG_S_MIN: case ZG_S_FMA:
    case ZG_S_WHERE: case ZG_S_CLIP: case ZG_S_RELU: case ZG_S_EQ: case ZG_S_NE: case ZG_S_LT: case ZG_S_LE: return 1;
    case ZG_S_DIV: case ZG_S_SQRT: case ZG_S_RSQRT: case ZG_S_RECIP: return 3;
    default: return 8;
  }
}

static void choose_kept(plan *b) {
  if (b->p->single || b->p->column || b->n_phases == 1) return;
  uint32_t ops[3];
  for (uint32_t i = 0; i < b->d.n_inst; i++) {
    const zg_inst *in = &b->d.inst[i];
    b->cost[i] = b->level[i] == ZG_LEVEL_ELEM ? own_cost(in) : 0;
    for (uint32_t n = zg_inst_operands(in, ops); n-- > 0;) b->cost[i] = ZG_MIN(b->cost[i] + b->cost[ops[n]], 1000);
  }
  bool overwritten = false;
  for (uint32_t i = b->d.n_inst; i-- > 0;) {
    const zg_inst *in = &b->d.inst[i];
    if (in->kind == ZG_I_STORE || in->kind == ZG_I_REDUCE) b->last_need[i] = b->phase[i];
    if (b->level[i] == ZG_LEVEL_ELEM && b->last_need[i] > b->phase[i] && in->kind != ZG_I_STORE) {
      const bool must = in->kind == ZG_I_LOAD && is_overwritten(b, in->a);
      const bool fits = b->p->splits == 1 && b->p->width * 8 <= KEEP_BYTES;
      overwritten |= must;
      b->keep[i] = must || (b->cost[i] > CHEAP && fits);
    }
    const uint32_t need = b->keep[i] ? b->phase[i] : ZG_MAX(b->last_need[i], b->phase[i]);
    for (uint32_t n = zg_inst_operands(in, ops); n-- > 0;) b->last_need[ops[n]] = ZG_MAX(b->last_need[ops[n]], need);
  }
  if (overwritten) b->p->splits = 1;
}

// ---- operations ---------------------------------------------------------------------------------------------------------
static uint8_t cls_size(uint8_t cls) { return cls == ZG_CLS_F32 ? 4 : 8; }

static uint32_t new_slot(plan *b, uint8_t cls, bool row) {
  const loop_slot s = {.size = cls_size(cls), .row = row};
  zg_vec_push(&b->p->slots, s);
  return (uint32_t)b->p->slots.n - 1;
}

static uint32_t add_walk(plan *b, const int64_t *stride, int64_t offset, bool row) {
  const loop_walk w = make_walk(&b->d, stride, offset, row);
  zg_vec_push(&b->p->walks, w);
  return (uint32_t)b->p->walks.n - 1;
}

// The slot of value v as an operand of element-level code; *scalar: one element serves the whole tile.
static uint32_t elem_operand(plan *b, uint32_t v, bool *scalar) {
  if (scalar) *scalar = false;
  if (b->level[v] == ZG_LEVEL_ELEM) return b->slot[v];
  if (scalar && (b->uniform[v] || b->p->block_rows == 1)) {
    *scalar = true;
    return b->slot[v];
  }
  if (b->expanded[v] == NONE) {
    const loop_op op = {.kind = OP_EXPAND, .cls = b->d.inst[v].cls, .a = b->slot[v], .direct = -1,
                        .dst = new_slot(b, b->d.inst[v].cls, false), .copy = b->uniform[v] || b->p->block_rows == 1};
    zg_vec_push(&b->p->ops, op);
    b->expanded[v] = op.dst;
  }
  return b->expanded[v];
}

static void emit_map(plan *b, uint32_t i, bool row);

// Powers with a usual constant exponent. Returns whether it was one.
static bool emit_power(plan *b, uint32_t i, bool row) {
  const zg_inst *in = &b->d.inst[i], *e = &b->d.inst[in->b];
  if (in->scalar != ZG_S_POW || e->kind != ZG_I_CONST || in->cls == ZG_CLS_INT) return false;
  const uint32_t x = row ? b->slot[in->a] : elem_operand(b, in->a, NULL);
  loop_op op = {.kind = OP_MAP, .cls = in->cls, .in_cls = in->cls, .a = x, .b = x, .direct = -1};
  zg_scalar s;
  if (e->imm == 2 || e->imm == 3) s = ZG_S_MUL;
  else if (e->imm == 0.5) s = ZG_S_SQRT;
  else if (e->imm == -0.5) s = ZG_S_RSQRT;
  else if (e->imm == -1) s = ZG_S_RECIP;
  else return false;
  op.op = s;
  op.fn = b->vec->map[in->cls][s][0];
  if (e->imm == 3) {
    op.dst = new_slot(b, in->cls, row);
    zg_vec_push(&b->p->ops, op);
    op.a = op.dst;
  }
  op.dst = b->slot[i] = new_slot(b, in->cls, row);
  zg_vec_push(&b->p->ops, op);
  return true;
}

static void emit_map(plan *b, uint32_t i, bool row) {
  if (emit_power(b, i, row)) return;
  const zg_inst *in = &b->d.inst[i];
  const uint32_t from[3] = {in->a, in->b, in->c};
  uint32_t ops[3] = {0}, mask = 0;
  const int arity = zg_scalar_arity((zg_scalar)in->scalar);
  for (int k = 0; k < arity; k++) {
    bool scalar = false;
    ops[k] = row ? b->slot[from[k]] : elem_operand(b, from[k], arity > 1 ? &scalar : NULL);
    mask |= (uint32_t)scalar << k;
  }
  const uint8_t table = in->scalar == ZG_S_WHERE ? in->cls : in->in_cls;
  const loop_op op = {.kind = OP_MAP, .cls = in->cls, .in_cls = in->in_cls, .op = in->scalar | mask << 16, .a = ops[0],
                      .b = ops[1], .c = ops[2], .direct = -1, .fn = b->vec->map[table][in->scalar][mask],
                      .dst = b->slot[i] = new_slot(b, in->cls, row)};
  zg_vec_push(&b->p->ops, op);
}

static uint32_t operand(plan *b, uint32_t v, bool row) { return row ? b->slot[v] : elem_operand(b, v, NULL); }

static void emit_load(plan *b, uint32_t i, bool row) {
  const zg_inst *in = &b->d.inst[i];
  const zg_view *v = &b->k->args[in->a];
  const loop_op op = {.kind = OP_LOAD, .cls = in->cls, .arg = in->a, .to = v->dtype, 
                      .copy = row || b->keep[i] || (b->n_phases > 1 && is_overwritten(b, in->a)), .direct = -1,
                      .walk = add_walk(b, v->stride, v->offset, row), .dst = b->slot[i] = new_slot(b, in->cls, row)};
  zg_vec_push(&b->p->ops, op);
}

static void emit_inst(plan *b, uint32_t i, bool row) {
  const zg_inst *in = &b->d.inst[i];
  loop_op op = {.cls = in->cls, .in_cls = in->in_cls, .to = in->to, .red = in->red, .imm = in->imm, .direct = -1};
  switch ((zg_inst_kind)in->kind) {
    case ZG_I_LOAD: emit_load(b, i, row); return;
    case ZG_I_MAP: emit_map(b, i, row); return;
    case ZG_I_CONST: op.kind = OP_CONST; break;
    case ZG_I_INDEX:
      op.kind = OP_INDEX;
      op.walk = add_walk(b, b->d.index[in->a], (int64_t)in->imm, row);
      break;
    case ZG_I_RANDOM: op.kind = OP_RANDOM, op.normal = in->scalar == 1, op.a = operand(b, in->a, row); break;
    case ZG_I_CAST: op.kind = OP_CAST, op.a = operand(b, in->a, row); break;
    case ZG_I_REDUCE: op.kind = OP_REDUCE, op.a = operand(b, in->a, false), op.acc = b->acc_of[i]; break;
    case ZG_I_STORE: {
      const zg_view *v = &b->k->args[in->b];
      op.kind = OP_STORE, op.a = operand(b, in->a, row), op.arg = in->b, op.to = v->dtype;
      op.walk = add_walk(b, v->stride, v->offset, row);
      break;
    }
  }
  if (in->kind != ZG_I_REDUCE && in->kind != ZG_I_STORE) op.dst = b->slot[i] = new_slot(b, in->cls, row);
  zg_vec_push(&b->p->ops, op);
}

// Marks the element-level instructions that phase q has to run.
static void mark_needed(plan *b, uint32_t q) {
  memset(b->needed, 0, b->d.n_inst);
  for (uint32_t i = b->d.n_inst; i-- > 0;) {
    const zg_inst *in = &b->d.inst[i];
    const bool elem = b->level[i] == ZG_LEVEL_ELEM || in->kind == ZG_I_REDUCE;
    const bool root = in->kind == ZG_I_STORE || in->kind == ZG_I_REDUCE || b->keep[i];
    if (elem && root && b->phase[i] == q) b->needed[i] = true;
    if (!b->needed[i]) continue;
    uint32_t ops[3];
    for (uint32_t n = zg_inst_operands(in, ops); n-- > 0;) {
      const bool there = b->slot[ops[n]] != NONE && (b->p->single || (b->keep[ops[n]] && b->phase[ops[n]] < q));
      if (b->level[ops[n]] == ZG_LEVEL_ELEM && !there) b->needed[ops[n]] = true;
    }
  }
}

static void emit_elem(plan *b, uint32_t q) {
  mark_needed(b, q);
  for (uint32_t i = 0; i < b->d.n_inst; i++) {
    if (!b->p->single && !(b->keep[i] && b->phase[i] < q) && b->level[i] == ZG_LEVEL_ELEM) b->slot[i] = NONE;
    if (!b->p->single) b->expanded[i] = NONE;
  }
  for (uint32_t i = 0; i < b->d.n_inst; i++) {
    if (!b->needed[i] || b->d.inst[i].kind == ZG_I_STORE) continue;
    emit_inst(b, i, false);
    if (!b->keep[i]) continue;
    b->p->slots.at[b->slot[i]].kept = true;
    zg_vec_push(&b->p->kept, b->slot[i]);
  }
  for (uint32_t i = 0; i < b->d.n_inst; i++)   // stores last: what they overwrite has been read
    if (b->needed[i] && b->d.inst[i].kind == ZG_I_STORE) emit_inst(b, i, false);
}

static void emit_phases(plan *b) {
  loop_prog *p = b->p;
  for (uint32_t i = 0; i < b->d.n_inst; i++) {
    b->slot[i] = b->expanded[i] = NONE;
    if (b->d.inst[i].kind == ZG_I_REDUCE) b->slot[i] = new_slot(b, b->d.inst[i].cls, true);
  }
  for (uint32_t i = 0; i < b->d.n_inst; i++)
    if (b->uniform[i] && b->phase[i] == 0) emit_inst(b, i, true), p->slots.at[b->slot[i]].uniform = true;
  p->n_once = (uint32_t)p->ops.n;
  for (uint32_t q = 0; q < b->n_phases; q++) {
    loop_phase ph = {.row = (uint32_t)p->ops.n, .acc = (uint32_t)p->accs.n};
    for (uint32_t i = 0; i < b->d.n_inst; i++) {
      if (b->d.inst[i].kind != ZG_I_REDUCE || b->phase[i] != q) continue;
      b->acc_of[i] = (uint32_t)p->accs.n;
      const loop_acc a = {.cls = b->d.inst[i].cls, .red = b->d.inst[i].red, .slot = b->slot[i]};
      zg_vec_push(&p->accs, a);
    }
    ph.n_acc = (uint32_t)p->accs.n - ph.acc;
    for (uint32_t i = 0; i < b->d.n_inst; i++)
      if (b->level[i] == ZG_LEVEL_ROW && b->phase[i] == q && b->d.inst[i].kind != ZG_I_REDUCE && !(b->uniform[i] && q == 0))
        emit_inst(b, i, true);
    ph.n_row = (uint32_t)p->ops.n - ph.row;
    ph.elem = (uint32_t)p->ops.n;
    emit_elem(b, q);
    ph.n_elem = (uint32_t)p->ops.n - ph.elem;
    zg_vec_push(&p->phases, ph);
  }
}

// ---- registers ----------------------------------------------------------------------------------------------------------
uint32_t zg__loop_op_reads(const loop_op *o, uint32_t at[3]) {
  at[0] = o->a, at[1] = o->b, at[2] = o->c;
  switch ((loop_op_kind)o->kind) {
    case OP_LOAD:
    case OP_CONST:
    case OP_INDEX: return 0;
    case OP_RANDOM:
    case OP_CAST:
    case OP_EXPAND:
    case OP_REDUCE:
    case OP_STORE: return 1;
    case OP_MAP: return (uint32_t)zg_scalar_arity((zg_scalar)(o->op & 0xFFFF));
  }
  return 0;
}

static bool native(const plan *b, uint32_t arg) {
  const zg_dtype t = b->k->args[arg].dtype;
  return t == ZG_F32 || t == ZG_F64 || t == ZG_I64;
}

// A value that one store takes as it is may be computed in the tensor's place: its definition must be a map in the same phase, and
// no load that shares memory with the output may be read after it.
static void choose_direct(plan *b, const uint32_t *last) {
  loop_prog *p = b->p;
  for (uint32_t i = p->n_once; i < p->ops.n; i++) {
    const loop_op *st = &p->ops.at[i];
    if (st->kind != OP_STORE || !native(b, st->arg) || p->slots.at[st->a].row || p->slots.at[st->a].kept) continue;
    uint32_t def = i;
    while (def > 0 && (p->ops.at[def].dst != st->a || p->ops.at[def].kind == OP_STORE || p->ops.at[def].kind == OP_REDUCE)) def--;
    bool ok = p->ops.at[def].dst == st->a && p->ops.at[def].kind == OP_MAP && p->ops.at[def].direct < 0;
    for (uint32_t j = 0; j < p->ops.n && ok; j++) {
      const loop_op *l = &p->ops.at[j];
      if (l->kind == OP_LOAD && same_memory(b, b->k->args[l->arg].buf, b->k->args[st->arg].buf))
        ok = j < def && (p->slots.at[l->dst].row || last[l->dst] <= def);
      if (l->kind == OP_STORE && j != i && same_memory(b, b->k->args[l->arg].buf, b->k->args[st->arg].buf)) ok = false;
    }
    if (ok) p->ops.at[def].direct = (int32_t)i;
  }
}

// A load that points into the tensor must not be read after a store has changed it there.
static void copy_overwritten(plan *b, const uint32_t *last) {
  loop_prog *p = b->p;
  for (uint32_t i = p->n_once; i < p->ops.n; i++) {
    loop_op *l = &p->ops.at[i];
    for (uint32_t j = i; l->kind == OP_LOAD && j < last[l->dst]; j++)
      if (p->ops.at[j].kind == OP_STORE && same_memory(b, b->k->args[l->arg].buf, b->k->args[p->ops.at[j].arg].buf)) l->copy = true;
  }
}

static uint64_t take(uint64_t *at, uint64_t bytes) {
  const uint64_t here = *at;
  *at += zg_round_up(bytes, 64);
  return here;
}

typedef ZG_VEC(uint64_t) free_list;

static void give_homes(plan *b, const uint32_t *last, uint64_t *at) {
  loop_prog *p = b->p;
  const uint64_t tile = (uint64_t)(p->column ? p->tile * p->block_rows : p->single ? p->width * p->block_rows : p->tile);
  free_list free[2] = {{0}};
  for (uint32_t i = p->n_once; i < p->ops.n; i++) {
    const loop_op *o = &p->ops.at[i];
    uint32_t reads[3];
    const uint32_t n = zg__loop_op_reads(o, reads);
    for (uint32_t k = 0; k < n; k++) {
      loop_slot *s = &p->slots.at[reads[k]];
      if (s->row || s->kept || !s->has_home || last[reads[k]] != i) continue;
      zg_vec_push(&free[s->size == 8], s->home);
      s->has_home = false;   // given back; cleared again below
    }
    if (o->kind == OP_STORE || o->kind == OP_REDUCE || p->slots.at[o->dst].row) continue;
    loop_slot *d = &p->slots.at[o->dst];
    free_list *f = &free[d->size == 8];
    if (d->kept) d->home = take(at, (uint64_t)p->width * d->size);
    else if (f->n) d->home = f->at[--f->n];
    else d->home = take(at, tile * d->size);
    d->has_home = true;
  }
  zg_vec_fini(&free[0]);
  zg_vec_fini(&free[1]);
}

static void lay_out(plan *b) {
  loop_prog *p = b->p;
  const uint64_t rw = (uint64_t)p->block_rows;
  uint64_t at = 0;
  for (uint32_t i = 0; i < p->slots.n; i++)
    if (p->slots.at[i].row) p->slots.at[i].home = take(&at, rw * p->slots.at[i].size), p->slots.at[i].has_home = true;
  p->row_bytes = at;
  p->acc_area = at;
  for (uint32_t i = 0; i < p->accs.n; i++) p->accs.at[i].total = take(&at, rw * 8);
  p->acc_bytes = at - p->acc_area;
  for (uint32_t i = 0; i < p->accs.n && p->column; i++) p->accs.at[i].part = take(&at, rw * 4);
  uint32_t *last = zg_alloc(sizeof *last * (p->slots.n + 1));
  for (uint32_t i = 0; i < p->ops.n; i++) {
    uint32_t reads[3];
    const uint32_t n = zg__loop_op_reads(&p->ops.at[i], reads);
    for (uint32_t k = 0; k < n; k++) last[reads[k]] = i;
  }
  give_homes(b, last, &at);
  choose_direct(b, last);
  copy_overwritten(b, last);
  zg_free(last);
  p->scratch_bytes = ZG_MAX(at, 64);
  if (p->splits > 1 && p->accs.n)
    p->workspace_bytes = (uint64_t)p->n_blocks * (p->row_bytes + (uint64_t)p->splits * p->acc_bytes);
}

zg_status zg_loop_prog_new(const zg_kernel *k, const zg_sched *s, const zg_vec *vec, loop_prog **out) {
  ZG_TRY(zg_loop_verify(k));
  loop_prog *p = zg_alloc(sizeof *p);
  zg_arena a = {0};
  plan b = {.p = p, .s = s, .vec = vec, .k = k, .d = *(const zg_loop_desc *)k->desc};
  const size_t n = b.d.n_inst + 1;
  p->k = k;
  b.phase = ZG_NEW_N(&a, uint32_t, n);
  b.slot = ZG_NEW_N(&a, uint32_t, n);
  b.expanded = ZG_NEW_N(&a, uint32_t, n);
  b.acc_of = ZG_NEW_N(&a, uint32_t, n);
  b.last_need = ZG_NEW_N(&a, uint32_t, n);
  b.level = ZG_NEW_N(&a, uint8_t, n);
  b.uniform = ZG_NEW_N(&a, bool, n);
  b.keep = ZG_NEW_N(&a, bool, n);
  b.needed = ZG_NEW_N(&a, bool, n);
  b.cost = ZG_NEW_N(&a, int, n);
  b.n_phases = zg_loop_phases(&b.d, b.phase);
  choose_split(&b);
  find_levels(&b);
  shape_blocks(&b);
  choose_kept(&b);
  emit_phases(&b);
  lay_out(&b);
  zg_arena_fini(&a);
  for (uint32_t i = 0; i < p->ops.n; i++)
    if (p->ops.at[i].kind == OP_MAP && !p->ops.at[i].fn) {
      zg_status status = zg_error(ZG_UNSUPPORTED, "%s: the cpu device has no %s of that class", k->label,
                                  zg_scalar_name((zg_scalar)(p->ops.at[i].op & 0xFFFF)));
      zg_loop_prog_free(p);
      return status;
    }
  *out = p;
  return NULL;
}

void zg_loop_prog_free(loop_prog *p) {
  if (!p) return;
  zg_vec_fini(&p->ops);
  zg_vec_fini(&p->slots);
  zg_vec_fini(&p->walks);
  zg_vec_fini(&p->accs);
  zg_vec_fini(&p->phases);
  zg_vec_fini(&p->kept);
  zg_free(p->jit);
  zg_free(p);
}
