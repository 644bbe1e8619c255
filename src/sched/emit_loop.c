// Lowering, last part, loop kernels: a group of nodes becomes the straight-line program of one kernel.
//   - the space's dims are put in the order kept, reduced (row form) or kept, reduced, kept (column form)
//   - code is made on demand from the stores, so that members nobody needs disappear; stores come last
//   - dims that all views step through alike are merged, dims of size 1 dropped
#include "sched/lower_priv.h"

#include <stdio.h>

enum { LEVEL_UNSET = 2 };

typedef struct {
  zg_low *l;
  uint32_t group;
  uint32_t rank, n_outer, n_mid;          // space
  int64_t dim[ZG_MAX_RANK];
  uint32_t red;                           // bit mask of reduced space dims
  bool has_red;
  int8_t place[ZG_MAX_RANK];              // group dim -> space dim
  ZG_VEC(zg_inst) inst;
  ZG_VEC(zg_view) args;
  uint32_t n_out;
  struct { size_t n, cap; int64_t (*at)[ZG_MAX_RANK]; } index;
  zg_map regs;                            // node -> instruction + 1, in text keys of small size
  double flops;
} prog;

static uint32_t push(prog *p, zg_inst i) {
  zg_vec_push(&p->inst, i);
  return (uint32_t)p->inst.n - 1;
}

// ---- finishing ----------------------------------------------------------------------------------------------------

static uint8_t zone(const prog *p, uint32_t d) { return d < p->n_outer ? 0 : d < p->n_outer + p->n_mid ? 1 : 2; }

static void drop_dim(prog *p, uint32_t d) {
  for (uint32_t k = d; k + 1 < p->rank; k++) {
    p->dim[k] = p->dim[k + 1];
    for (size_t a = 0; a < p->args.n; a++) p->args.at[a].stride[k] = p->args.at[a].stride[k + 1];
    for (size_t a = 0; a < p->index.n; a++) p->index.at[a][k] = p->index.at[a][k + 1];
  }
  uint8_t z = zone(p, d);
  if (z == 0) p->n_outer--;
  if (z == 1) p->n_mid--;
  p->rank--;
}

static bool mergeable(const prog *p, uint32_t d) {   // d and d+1
  if (zone(p, d) != zone(p, d + 1)) return false;
  for (size_t a = 0; a < p->args.n; a++)
    if (p->args.at[a].stride[d] != p->args.at[a].stride[d + 1] * p->dim[d + 1]) return false;
  for (size_t a = 0; a < p->index.n; a++)
    if (p->index.at[a][d] != p->index.at[a][d + 1] * p->dim[d + 1]) return false;
  return true;
}

static void collapse(prog *p) {
  bool flat = !p->has_red;
  if (flat) p->n_outer = 0, p->n_mid = 0;
  for (uint32_t d = p->rank; d-- > 0;) {
    bool last_of_zone = (d == 0 || zone(p, d - 1) != zone(p, d)) && (d + 1 == p->rank || zone(p, d + 1) != zone(p, d));
    if (p->dim[d] == 1 && !(last_of_zone && zone(p, d) > 0)) drop_dim(p, d);
  }
  for (uint32_t d = p->rank; d-- > 1;) {
    if (!mergeable(p, d - 1)) continue;
    p->dim[d - 1] *= p->dim[d];
    for (size_t a = 0; a < p->args.n; a++) p->args.at[a].stride[d - 1] = p->args.at[a].stride[d];
    for (size_t a = 0; a < p->index.n; a++) p->index.at[a][d - 1] = p->index.at[a][d];
    drop_dim(p, d);
  }
  if (p->rank == 0) {
    p->dim[0] = 1;
    p->rank = 1;
  }
  if (flat) p->n_outer = p->rank - 1;
  for (size_t a = 0; a < p->args.n; a++) {
    p->args.at[a].rank = p->rank;
    memcpy(p->args.at[a].dim, p->dim, sizeof p->dim);
  }
}

static void finish(prog *p, const char *label, uint8_t phase) {
  collapse(p);
  zg_loop_desc *d = ZG_NEW(&p->l->s->mem, zg_loop_desc);
  d->rank = p->rank;
  d->n_outer = p->n_outer;
  d->n_mid = p->n_mid;
  memcpy(d->dim, p->dim, sizeof d->dim);
  d->n_inst = (uint32_t)p->inst.n;
  d->inst = zg_arena_copy(&p->l->s->mem, p->inst.at, p->inst.n * sizeof *p->inst.at);
  d->n_index = (uint32_t)p->index.n;
  d->index = zg_arena_copy(&p->l->s->mem, p->index.at, p->index.n * sizeof *p->index.at);
  int64_t elems = 1;
  for (uint32_t k = 0; k < p->rank; k++) elems *= p->dim[k];
  zg_kernel k = {.kind = ZG_K_LOOP, .desc = d, .args = p->args.at, .n_args = (uint32_t)p->args.n, .n_out = p->n_out,
                 .flops = p->flops * (double)elems, .label = label};
  zg__low_step(p->l, &k, 0, phase);
  zg_vec_fini(&p->inst);
  zg_vec_fini(&p->args);
  zg_vec_fini(&p->index);
  zg_map_fini(&p->regs);
}

// ---- copies and fills ---------------------------------------------------------------------------------------------

static prog plain(zg_low *l, const zg_view *to) {
  prog p = {.l = l, .rank = to->rank};
  memcpy(p.dim, to->dim, sizeof p.dim);
  zg_vec_push(&p.args, *to);
  p.n_out = 1;
  return p;
}

void zg__low_copy(zg_low *l, const zg_view *to, const zg_view *from, const char *label, uint8_t phase) {
  if (zg_view_elems(to) == 0) return;
  prog p = plain(l, to);
  zg_vec_push(&p.args, *from);
  uint8_t cls = (uint8_t)zg_cls_of(to->dtype);
  uint32_t x = push(&p, (zg_inst){.kind = ZG_I_LOAD, .cls = (uint8_t)zg_cls_of(from->dtype), .level = ZG_LEVEL_ELEM, .a = 1});
  if (zg_cls_of(from->dtype) != cls)
    x = push(&p, (zg_inst){.kind = ZG_I_CAST, .cls = cls, .in_cls = (uint8_t)zg_cls_of(from->dtype), .level = ZG_LEVEL_ELEM,
                           .to = (uint8_t)to->dtype, .a = x});
  push(&p, (zg_inst){.kind = ZG_I_STORE, .cls = cls, .level = ZG_LEVEL_ELEM, .a = x, .b = 0});
  finish(&p, label, phase);
}

void zg__low_fill(zg_low *l, const zg_view *to, double value, const char *label, uint8_t phase) {
  if (zg_view_elems(to) == 0) return;
  prog p = plain(l, to);
  uint8_t cls = (uint8_t)zg_cls_of(to->dtype);
  uint32_t x = push(&p, (zg_inst){.kind = ZG_I_CONST, .cls = cls, .level = ZG_LEVEL_ROW, .imm = value});
  push(&p, (zg_inst){.kind = ZG_I_STORE, .cls = cls, .level = ZG_LEVEL_ELEM, .a = x, .b = 0});
  finish(&p, label, phase);
}

// ---- groups -------------------------------------------------------------------------------------------------------

// Strides of `v` (a view on an operand) along the space's dims; dim d of the view lies on group dim at[d].
static zg_view spread(const prog *p, const zg_view *v, const int8_t *at) {
  zg_view r = {.buf = v->buf, .dtype = v->dtype, .offset = v->offset, .rank = p->rank};
  memcpy(r.dim, p->dim, sizeof r.dim);
  for (uint32_t d = 0; d < v->rank; d++)
    if (v->dim[d] != 1) r.stride[p->place[at[d]]] = v->stride[d];
  return r;
}

static bool along_reduced(const prog *p, const int64_t *stride) {
  for (uint32_t d = 0; d < p->rank; d++)
    if ((p->red >> d & 1) && p->dim[d] != 1 && stride[d]) return true;
  return false;
}

static uint8_t level_of(const prog *p, const int64_t *stride) {
  return !p->has_red || along_reduced(p, stride) ? ZG_LEVEL_ELEM : ZG_LEVEL_ROW;
}

static uint32_t add_arg(prog *p, const zg_view *v) {
  for (size_t i = p->n_out; i < p->args.n; i++)
    if (!memcmp(&p->args.at[i], v, sizeof *v)) return (uint32_t)i;
  zg_vec_push(&p->args, *v);
  return (uint32_t)p->args.n - 1;
}

static uint32_t load(prog *p, const zg_view *v, uint8_t level) {
  uint32_t arg = add_arg(p, v);
  for (size_t i = 0; i < p->inst.n; i++)
    if (p->inst.at[i].kind == ZG_I_LOAD && p->inst.at[i].a == arg && p->inst.at[i].level == level) return (uint32_t)i;
  return push(p, (zg_inst){.kind = ZG_I_LOAD, .cls = (uint8_t)zg_cls_of(v->dtype), .level = level, .a = arg});
}

static uint32_t constant(prog *p, zg_cls cls, double value) {
  for (size_t i = 0; i < p->inst.n; i++) {
    const zg_inst *c = &p->inst.at[i];
    if (c->kind == ZG_I_CONST && c->cls == cls && !memcmp(&c->imm, &value, sizeof value)) return (uint32_t)i;
  }
  return push(p, (zg_inst){.kind = ZG_I_CONST, .cls = (uint8_t)cls, .level = ZG_LEVEL_ROW, .imm = value});
}

static uint32_t value_of(prog *p, uint32_t node);

// Operand k of a node of the group, as an instruction. `at`: the node's result dims on group dims.
static uint32_t operand(prog *p, const zg_node *n, uint32_t k, const int8_t *at, bool elem) {
  const zg_low *l = p->l;
  zg_val v = zg_in(l->g, n, k);
  const zg_type *t = zg_type_of(l->g, v);
  double splat;
  if (zg__low_inline_scalar(l, v, &splat)) return constant(p, zg_cls_of(t->dtype), splat);
  if (zg__low_in_register(l, p->group, v)) return value_of(p, l->g->values.at[l->val[v.id].root].node);
  zg_view view = zg__low_view(p->l, v);
  int8_t dims[ZG_MAX_RANK] = {0};
  uint32_t lead = n->op == &zg_op_reduce ? 0 : l->g->values.at[n->out].type.rank - t->rank;
  for (uint32_t d = 0; d < t->rank; d++) dims[d] = at[d + lead];
  zg_view s = spread(p, &view, dims);
  return load(p, &s, elem ? ZG_LEVEL_ELEM : level_of(p, s.stride));
}

static uint32_t index_inst(prog *p, const int64_t *coef, double start) {
  p->index.at = zg_realloc(p->index.at, (p->index.n + 1) * sizeof *p->index.at);
  memcpy(p->index.at[p->index.n], coef, sizeof *p->index.at);
  return push(p, (zg_inst){.kind = ZG_I_INDEX, .cls = ZG_CLS_INT, .level = level_of(p, coef), .a = (uint32_t)p->index.n++, .imm = start});
}

static uint32_t cast_to(prog *p, uint32_t x, zg_dtype to) {
  zg_inst from = p->inst.at[x];
  return push(p, (zg_inst){.kind = ZG_I_CAST, .cls = (uint8_t)zg_cls_of(to), .in_cls = from.cls, .level = from.level, .to = (uint8_t)to, .a = x});
}

static uint32_t map2(prog *p, zg_scalar s, zg_cls cls, uint32_t a, uint32_t b) {
  uint8_t level = ZG_MAX(p->inst.at[a].level, p->inst.at[b].level);
  return push(p, (zg_inst){.kind = ZG_I_MAP, .cls = (uint8_t)cls, .in_cls = (uint8_t)cls, .level = level, .scalar = (uint16_t)s, .a = a, .b = b});
}

static uint32_t emit_iota(prog *p, const zg_node *n, const int8_t *at) {
  const zg_iota_attr *a = n->attr;
  int64_t coef[ZG_MAX_RANK] = {0};
  coef[p->place[at[a->axis]]] = (int64_t)(zg_dtype_is_float(a->type.dtype) ? 1 : a->step);
  if (!zg_dtype_is_float(a->type.dtype)) return index_inst(p, coef, a->start);
  zg_cls cls = zg_cls_of(a->type.dtype);
  uint32_t x = cast_to(p, index_inst(p, coef, 0), a->type.dtype == ZG_F64 ? ZG_F64 : ZG_F32);
  if (a->step != 1) x = map2(p, ZG_S_MUL, cls, x, constant(p, cls, a->step));
  if (a->start != 0) x = map2(p, ZG_S_ADD, cls, x, constant(p, cls, a->start));
  return x;
}

static uint32_t emit_random(prog *p, const zg_node *n, const int8_t *at) {
  const zg_random_attr *a = n->attr;
  zg_cls cls = zg_cls_of(a->type.dtype);
  int64_t own[ZG_MAX_RANK], coef[ZG_MAX_RANK] = {0};
  zg_type_strides(&a->type, own);
  for (uint32_t d = 0; d < a->type.rank; d++)
    if (a->type.dim[d] != 1) coef[p->place[at[d]]] = own[d];
  uint32_t i = index_inst(p, coef, 0);
  uint32_t x = push(p, (zg_inst){.kind = ZG_I_RANDOM, .cls = (uint8_t)cls, .level = p->inst.at[i].level,
                                 .scalar = a->kind == ZG_RAND_NORMAL, .a = i, .imm = (double)a->stream});
  double scale = a->kind == ZG_RAND_NORMAL ? a->hi : a->hi - a->lo;
  if (scale != 1) x = map2(p, ZG_S_MUL, cls, x, constant(p, cls, scale));
  if (a->lo != 0) x = map2(p, ZG_S_ADD, cls, x, constant(p, cls, a->lo));
  return x;
}

static uint32_t emit_reduce(prog *p, const zg_node *n) {
  int8_t at[ZG_MAX_RANK];
  for (int d = 0; d < ZG_MAX_RANK; d++) at[d] = (int8_t)d;
  uint32_t x = operand(p, n, 0, at, true);
  if (p->inst.at[x].level == ZG_LEVEL_ROW) {   // a splat or a row value: repeat it along the row
    int64_t coef[ZG_MAX_RANK] = {0};
    zg_cls cls = p->inst.at[x].cls;
    uint32_t zero = index_inst(p, coef, 0);
    p->inst.at[zero].level = ZG_LEVEL_ELEM;
    zero = cast_to(p, zero, cls == ZG_CLS_F64 ? ZG_F64 : cls == ZG_CLS_F32 ? ZG_F32 : ZG_I64);
    x = map2(p, ZG_S_ADD, cls, x, zero);
  }
  uint8_t cls = p->inst.at[x].cls;
  p->flops += 1;
  return push(p, (zg_inst){.kind = ZG_I_REDUCE, .cls = cls, .in_cls = cls, .level = ZG_LEVEL_ROW,
                           .red = (uint8_t)((const zg_reduce_attr *)n->attr)->kind, .a = x});
}

// Integers narrower than 64 bits wrap as their type does.
static bool wraps(zg_scalar s, zg_dtype t) {
  if (!zg_dtype_is_int(t) || t == ZG_I64 || t == ZG_U64) return false;
  return s == ZG_S_ADD || s == ZG_S_SUB || s == ZG_S_MUL || s == ZG_S_NEG || s == ZG_S_SHL || s == ZG_S_BIT_NOT || s == ZG_S_POW;
}

static uint32_t emit_map(prog *p, const zg_node *n, const int8_t *at) {
  const zg_graph *g = p->l->g;
  zg_dtype out = g->values.at[n->out].type.dtype;
  uint32_t x[3] = {0};
  uint8_t level = ZG_LEVEL_ROW;
  for (uint32_t k = 0; k < n->n_in; k++) {
    x[k] = operand(p, n, k, at, false);
    level = ZG_MAX(level, p->inst.at[x[k]].level);
  }
  p->flops += 1;
  if (n->op == &zg_op_cast) {
    zg_dtype from = zg_type_of(g, zg_in(g, n, 0))->dtype;
    bool widens = zg_cls_of(from) == zg_cls_of(out) && (out == ZG_F32 || out == ZG_F64 || out == ZG_I64);
    return widens ? x[0] : cast_to(p, x[0], out);
  }
  bool where = n->op == &zg_op_where;
  zg_inst i = {.kind = ZG_I_MAP, .cls = (uint8_t)zg_cls_of(out), .level = level, .a = x[0], .b = x[1], .c = x[2]};
  i.scalar = (uint16_t)(where ? ZG_S_WHERE : n->op->scalar);
  i.in_cls = (uint8_t)zg_cls_of(zg_type_of(g, zg_in(g, n, where ? 1 : 0))->dtype);
  uint32_t r = push(p, i);
  return wraps(n->op->scalar, out) ? cast_to(p, r, out) : r;
}

static uint32_t value_of(prog *p, uint32_t node) {
  const zg_low *l = p->l;
  const zg_node *n = &l->g->nodes.at[node];
  char key[16];
  uint64_t known;
  snprintf(key, sizeof key, "%u", node);
  if (zg_map_get(&p->regs, key, &known)) return (uint32_t)known;
  int8_t identity[ZG_MAX_RANK];
  for (int d = 0; d < ZG_MAX_RANK; d++) identity[d] = (int8_t)d;
  bool clone = l->val[n->out].group != p->group;
  const int8_t *at = clone ? identity : l->mmap[node];
  uint32_t r = n->op == &zg_op_reduce   ? emit_reduce(p, n)
               : n->op == &zg_op_iota   ? emit_iota(p, n, at)
               : n->op == &zg_op_random ? emit_random(p, n, at)
                                        : emit_map(p, n, at);
  zg_map_put(&p->regs, key, r);
  return r;
}

// Puts the group's dims in the kernel's order.
static void lay_space(prog *p, const zg_group *q) {
  uint32_t order[ZG_MAX_RANK], n = 0;
  uint32_t first_red = 0;
  while (first_red < q->rank && !((q->red_mask >> first_red & 1) && q->dim[first_red] != 1)) first_red++;
  for (uint32_t d = 0; d < q->rank; d++)
    if (!(q->red_mask >> d & 1) && (!q->column || d < first_red)) order[n++] = d;
  p->n_outer = n;
  for (uint32_t d = 0; d < q->rank; d++)
    if (q->red_mask >> d & 1) order[n++] = d;
  if (q->column) p->n_mid = n - p->n_outer;
  for (uint32_t d = 0; d < q->rank && q->column; d++)
    if (!(q->red_mask >> d & 1) && d > first_red) order[n++] = d;
  p->rank = q->rank;
  p->has_red = q->has_red;
  for (uint32_t i = 0; i < n; i++) {
    p->place[order[i]] = (int8_t)i;
    p->dim[i] = q->dim[order[i]];
    if (q->red_mask >> order[i] & 1) p->red |= 1u << i;
  }
  if (q->has_red && n == p->n_outer) {   // reduction over no axis at all, or of a scalar: one element per row
    p->dim[n] = 1;
    p->red |= 1u << n;
    p->rank = n + 1;
  }
}

void zg__low_emit_loop(zg_low *l, uint32_t group) {
  const zg_group *q = &l->groups.at[group];
  prog p = {.l = l, .group = group};
  lay_space(&p, q);
  for (size_t i = 0; i < q->nodes.n; i++) {   // outputs are the first arguments
    const zg_node *n = &l->g->nodes.at[q->nodes.at[i]];
    if (!l->val[n->out].kept || zg_elems(&l->g->values.at[n->out].type) == 0) continue;
    zg_view v = zg__low_view(l, zg_out(n, 0));
    zg_vec_push(&p.args, spread(&p, &v, l->mmap[q->nodes.at[i]]));
    p.n_out++;
  }
  uint32_t out = 0, last = 0;
  ZG_VEC(zg_inst) stores = {0};
  for (size_t i = 0; i < q->nodes.n; i++) {
    uint32_t node = q->nodes.at[i];
    const zg_node *n = &l->g->nodes.at[node];
    if (!l->val[n->out].kept || zg_elems(&l->g->values.at[n->out].type) == 0) continue;
    uint32_t r = value_of(&p, node);
    uint8_t level = l->elem[node] || !q->has_red ? ZG_LEVEL_ELEM : ZG_LEVEL_ROW;
    zg_vec_push(&stores, (zg_inst){.kind = ZG_I_STORE, .cls = p.inst.at[r].cls, .level = level, .a = r, .b = out++});
    last = node;
  }
  for (size_t i = 0; i < stores.n; i++) push(&p, stores.at[i]);
  zg_vec_fini(&stores);
  if (out) finish(&p, zg__low_label(l, last), q->phase);
}
