// Lowering, last part: groups become kernels and steps, in order; results are registered, dead buffers released.
#include "sched/lower_priv.h"

#include <stdio.h>

uint32_t zg__low_buf(zg_low *l, uint32_t store) {
  zg_store *st = &l->stores.at[store];
  if (!st->buf) {
    const char *name = l->g->values.at[st->value].name;
    zg_buf b = {.name = name, .bytes = zg_type_bytes(&st->type), .dtype = st->type.dtype, .type = st->type,
                .role = ZG_BUF_TEMPORARY, .value = {st->value}};
    if (!name) b.name = zg_arena_printf(&l->mem, "%s.%%%u", l->segment, st->value);
    st->buf = zg_sched_add_buf(l->s, &b);
  }
  return st->buf;
}

zg_view zg__low_view(zg_low *l, zg_val v) {
  zg_view r = l->val[v.id].view;
  r.buf = zg__low_buf(l, r.buf);
  return r;
}

const char *zg__low_label(const zg_low *l, uint32_t node) {
  const zg_node *n = &l->g->nodes.at[node];
  const char *what = n->origin.node ? n->origin.node : n->op->name;
  return n->origin.pass ? zg_arena_printf((zg_arena *)&l->mem, "%s (%s)", what, n->origin.pass) : what;
}

void zg__low_step(zg_low *l, const zg_kernel *k, size_t desc_bytes, uint8_t phase) {
  uint32_t id = zg_sched_add_kernel(l->s, k, desc_bytes);
  zg_vec_push(&l->s->steps, (zg_step){.kind = ZG_STEP_KERNEL, .stream = ZG_STREAM_COMPUTE, .phase = phase, .kernel = id});
}

// ---- kernels that are not loops -----------------------------------------------------------------------------------

typedef struct { zg_low *l; const zg_node *n; const char *label; uint8_t phase; } at_node;

static zg_view temp(at_node *e, const zg_type *t) {
  zg_buf b = {.bytes = zg_type_bytes(t), .dtype = t->dtype, .type = *t, .role = ZG_BUF_TEMPORARY};
  return zg_view_row_major(t, zg_sched_add_buf(e->l->s, &b));
}

// Operand k somewhere in memory, any strides.
static zg_view arg(at_node *e, uint32_t k) {
  zg_val v = zg_in(e->l->g, e->n, k);
  double splat;
  if (!zg__low_inline_scalar(e->l, v, &splat)) return zg__low_view(e->l, v);
  zg_view t = temp(e, zg_type_of(e->l->g, v));
  zg__low_fill(e->l, &t, splat, e->label, e->phase);
  return t;
}

static zg_view contiguous(at_node *e, zg_view v) {
  if (zg_view_contiguous(&v)) return v;
  zg_type t = zg_type_make(v.dtype, v.rank, v.dim);
  zg_view c = temp(e, &t);
  zg__low_copy(e->l, &c, &v, e->label, e->phase);
  return c;
}

static zg_view arg_contiguous(at_node *e, uint32_t k) { return contiguous(e, arg(e, k)); }

// Operand k of a convolution or pooling, which take images with their channels last as they are.
static zg_view arg_image(at_node *e, uint32_t k) {
  zg_view v = arg(e, k);
  return zg_view_channels_last(&v) ? v : contiguous(e, v);
}

// ... in the layout of another.
static zg_view arg_image_like(at_node *e, uint32_t k, const zg_view *like) {
  zg_view v = arg(e, k);
  if (zg_view_contiguous(like)) return contiguous(e, v);
  if (zg_view_channels_last(&v)) return v;
  zg_type t = zg_type_make(v.dtype, v.rank, v.dim);
  const zg_view c = zg_view_make_channels_last(&t, temp(e, &t).buf);
  zg__low_copy(e->l, &c, &v, e->label, e->phase);
  return c;
}

static zg_view result(at_node *e, uint32_t k) { return zg__low_view(e->l, zg_out(e->n, k)); }

static void step(at_node *e, zg_kernel_kind kind, const void *desc, size_t desc_bytes, zg_view *args, uint32_t n_args,
                 uint32_t n_out, double flops) {
  zg_kernel k = {.kind = kind, .desc = desc, .args = args, .n_args = n_args, .n_out = n_out, .flops = flops, .label = e->label};
  zg__low_step(e->l, &k, desc_bytes, e->phase);
}

// One of the last two strides must be 1, so that libraries take the operand as a (transposed) matrix.
static zg_view matrix(at_node *e, zg_view v, bool transposed, uint32_t rank, const int64_t *batch) {
  zg_view m = v;
  int64_t rs = v.stride[v.rank - 2], cs = v.stride[v.rank - 1], rows = v.dim[v.rank - 2], cols = v.dim[v.rank - 1];
  bool ok = (cs == 1 || cols == 1) ? rs >= cols || rows == 1 : (rs == 1 || rows == 1) && (cs >= rows || cols == 1);
  if (!ok) m = v = contiguous(e, v);
  if (transposed) {
    m.dim[v.rank - 2] = v.dim[v.rank - 1], m.dim[v.rank - 1] = v.dim[v.rank - 2];
    m.stride[v.rank - 2] = v.stride[v.rank - 1], m.stride[v.rank - 1] = v.stride[v.rank - 2];
  }
  zg_type t = {.dtype = v.dtype, .rank = rank};
  for (uint32_t d = 0; d + 2 < rank; d++) t.dim[d] = batch[d];
  t.dim[rank - 2] = m.dim[v.rank - 2];
  t.dim[rank - 1] = m.dim[v.rank - 1];
  zg_view x = zg_view_expand(&m, &t);
  x.stride[rank - 2] = m.stride[v.rank - 2];   // expand clears strides of dims of size 1
  x.stride[rank - 1] = m.stride[v.rank - 1];
  return x;
}

// Brings what `to` is added to (operand 0) to its place, if it is not there already.
static void put_base(at_node *e, const zg_view *to) {
  double splat;
  if (zg__low_inline_scalar(e->l, zg_in(e->l->g, e->n, 0), &splat)) {
    zg__low_fill(e->l, to, splat, e->label, e->phase);
    return;
  }
  zg_view base = arg(e, 0);
  if (base.buf != to->buf || base.offset != to->offset) zg__low_copy(e->l, to, &base, e->label, e->phase);
}

static void emit_matmul(at_node *e) {
  const zg_matmul_attr *a = e->n->attr;
  const bool adds = e->n->op == &zg_op_matmul_add;
  zg_view c = result(e, 0);
  if (zg_view_elems(&c) == 0) return;
  if (adds) put_base(e, &c);
  zg_view args[3] = {c, matrix(e, arg(e, adds), a->ta, c.rank, c.dim), matrix(e, arg(e, adds + 1u), a->tb, c.rank, c.dim)};
  zg_matmul_desc d = {.m = c.dim[c.rank - 2], .n = c.dim[c.rank - 1], .k = args[1].dim[c.rank - 1], .alpha = 1, .beta = adds,
                      .epilogue = ZG_EPI_NONE};
  if (d.k == 0) {
    if (!adds) zg__low_fill(e->l, &c, 0, e->label, e->phase);
    return;
  }
  step(e, ZG_K_MATMUL, &d, sizeof d, args, 3, 1, 2.0 * (double)zg_view_elems(&c) * (double)d.k);
}

static void conv_desc(const zg_conv_attr *a, zg_conv_desc *d) {
  d->spatial = a->strides.n;
  d->group = a->group;
  for (int64_t i = 0; i < d->spatial; i++) {
    d->stride[i] = a->strides.at[i];
    d->dilation[i] = a->dilations.at[i];
    d->pad_begin[i] = a->pads.at[i];
    d->pad_end[i] = a->pads.at[i + d->spatial];
  }
}

static void emit_conv_kind(at_node *e, zg_kernel_kind kind) {
  zg_conv_desc d = {0};
  conv_desc(e->n->attr, &d);
  zg_view args[4] = {result(e, 0)};
  uint32_t n = 1;
  for (uint32_t k = 0; k < e->n->n_in; k++)
    if (zg_is(zg_in(e->l->g, e->n, k))) args[n++] = k == 0 || kind == ZG_K_CONV_GRAD_W ? arg_image(e, k) : arg_contiguous(e, k);
  if (zg_view_elems(&args[0]) == 0) return;
  const zg_view *y = kind == ZG_K_CONV ? &args[0] : kind == ZG_K_CONV_GRAD_X ? &args[1] : &args[2];
  const zg_view *w = kind == ZG_K_CONV_GRAD_W ? &args[0] : &args[2];
  double taps = 1;
  for (uint32_t i = 1; i < w->rank; i++) taps *= (double)w->dim[i];
  step(e, kind, &d, sizeof d, args, n, 1, 2.0 * (double)zg_view_elems(y) * taps);
}
static void emit_conv(at_node *e) { emit_conv_kind(e, ZG_K_CONV); }
static void emit_conv_grad_x(at_node *e) { emit_conv_kind(e, ZG_K_CONV_GRAD_X); }
static void emit_conv_grad_w(at_node *e) { emit_conv_kind(e, ZG_K_CONV_GRAD_W); }

static void emit_pool_kind(at_node *e, zg_kernel_kind kind) {
  const zg_pool_attr *a = e->n->attr;
  zg_pool_desc d = {.spatial = a->kernel.n, .kind = a->kind};
  for (int64_t i = 0; i < d.spatial; i++) {
    d.kernel[i] = a->kernel.at[i];
    d.stride[i] = a->strides.at[i];
    d.dilation[i] = a->dilations.at[i];
    d.pad_begin[i] = a->pads.at[i];
    d.pad_end[i] = a->pads.at[i + d.spatial];
  }
  zg_view args[3] = {result(e, 0)};
  for (uint32_t k = 0; k < e->n->n_in; k++) args[k + 1] = arg_image_like(e, k, &args[0]);
  if (zg_view_elems(&args[0]) == 0) return;
  step(e, kind, &d, sizeof d, args, e->n->n_in + 1, 1, (double)zg_view_elems(&args[0]));
}
static void emit_pool(at_node *e) { emit_pool_kind(e, ZG_K_POOL); }
static void emit_pool_grad(at_node *e) { emit_pool_kind(e, ZG_K_POOL_GRAD); }

static void emit_gather(at_node *e) {
  const zg_gather_attr *a = e->n->attr;
  zg_gather_desc d = {.mode = a->mode, .axis = a->axis, .batch = a->batch};
  zg_view args[3] = {result(e, 0), arg_contiguous(e, 0), arg_contiguous(e, 1)};
  if (zg_view_elems(&args[0])) step(e, ZG_K_GATHER, &d, sizeof d, args, 3, 1, 0);
}

static void emit_scatter(at_node *e) {
  const zg_scatter_attr *a = e->n->attr;
  zg_gather_desc d = {.mode = a->mode, .axis = a->axis, .batch = a->batch, .red = a->red};
  zg_view out = result(e, 0);
  put_base(e, &out);
  zg_view args[3] = {out, arg_contiguous(e, 1), arg_contiguous(e, 2)};
  if (zg_view_elems(&out) && zg_view_elems(&args[2])) step(e, ZG_K_SCATTER, &d, sizeof d, args, 3, 1, (double)zg_view_elems(&args[2]));
}

static void emit_cumsum(at_node *e) {
  const zg_cumsum_attr *a = e->n->attr;
  zg_scan_desc d = {.axis = a->axis, .exclusive = a->exclusive, .reverse = a->reverse};
  zg_view args[2] = {result(e, 0), arg_contiguous(e, 0)};
  if (zg_view_elems(&args[0])) step(e, ZG_K_SCAN, &d, sizeof d, args, 2, 1, (double)zg_view_elems(&args[0]));
}

static void emit_topk(at_node *e) {
  const zg_topk_attr *a = e->n->attr;
  zg_sort_desc d = {.axis = a->axis, .k = a->k, .largest = a->largest};
  zg_view args[3] = {{0}, {0}, arg_contiguous(e, 0)};
  for (uint32_t k = 0; k < 2; k++)
    if (e->l->live[e->n->out + k]) args[k] = result(e, k);
  if (zg_view_elems(&args[2])) step(e, ZG_K_SORT, &d, sizeof d, args, 3, 2, 0);
}

static void emit_arg_reduce(at_node *e) {
  const zg_arg_reduce_attr *a = e->n->attr;
  zg_sort_desc d = {.axis = a->axis, .k = 1, .largest = !a->is_min, .arg = 1, .last = a->last};
  zg_view args[3] = {{0}, result(e, 0), arg_contiguous(e, 0)};
  if (zg_view_elems(&args[1])) step(e, ZG_K_SORT, &d, sizeof d, args, 3, 2, 0);
}

// The mask at full size, without moving it.
static zg_view mask_view(at_node *e, uint32_t k, const zg_type *q, const zg_type *key) {
  zg_view m = arg(e, k);
  zg_type t = *q;
  t.dim[3] = key->dim[2];
  return zg_view_expand(&m, &t);
}

static void emit_attention(at_node *e) {
  const zg_graph *g = e->l->g;
  const zg_flash_attr *a = e->n->attr;
  const bool grad = e->n->op == &zg_op_flash_attention_grad;
  const uint32_t n_in = grad ? 6 : 3;
  const zg_type *q = zg_type_of(g, zg_in(g, e->n, 0)), *k = zg_type_of(g, zg_in(g, e->n, 1));
  zg_view args[10] = {{0}};
  for (uint32_t i = 0; i < e->n->n_out; i++)
    if (e->l->live[e->n->out + i]) args[i] = result(e, i);
  uint32_t n = e->n->n_out;
  for (uint32_t i = 0; i < n_in; i++) args[n++] = arg(e, i);
  if (zg_is(zg_in(g, e->n, n_in))) args[n++] = mask_view(e, n_in, q, k);
  zg_attention_desc d = {a->causal, a->offset, a->scale};
  const double pairs = (double)zg_elems(q) / (double)ZG_MAX(q->dim[3], 1) * (double)k->dim[2] * (a->causal ? 0.5 : 1);
  const double flops = 2 * pairs * (double)(q->dim[3] + zg_type_of(g, zg_in(g, e->n, 2))->dim[3]) * (grad ? 2.5 : 1);
  bool some = false;
  for (uint32_t i = 0; i < e->n->n_out; i++) some |= args[i].buf && zg_view_elems(&args[i]) > 0;
  if (some) step(e, grad ? ZG_K_ATTENTION_GRAD : ZG_K_ATTENTION, &d, sizeof d, args, n, e->n->n_out, flops);
}

// Results that nobody reads are not written; all operands stand row-major.
static void emit_recurrent(at_node *e) {
  const zg_graph *g = e->l->g;
  const zg_recurrent_attr *a = e->n->attr;
  const bool grad = e->n->op == &zg_op_recurrent_grad;
  zg_view args[9] = {{0}};
  uint32_t n = 0;
  for (; n < 3; n++)
    if (e->l->live[e->n->out + n]) args[n] = result(e, n);
  for (uint32_t i = 0; i < 3; i += 2)   // what the kernel walks on is there in any case
    if (!args[i].buf && (i == 0 || (!grad && a->cell == ZG_CELL_LSTM))) args[i] = temp(e, zg_type_of(g, zg_out(e->n, i)));
  for (uint32_t i = 0; i < e->n->n_in; i++) args[n++] = arg_contiguous(e, i);
  const zg_type *gates = grad ? zg_type_of(g, zg_out(e->n, 0)) : zg_type_of(g, zg_in(g, e->n, 0));
  const int64_t H = (grad ? args[4] : args[0]).dim[2];
  zg_recurrent_desc d = {a->cell, a->reverse};
  if (H && gates->dim[1]) step(e, grad ? ZG_K_RECURRENT_GRAD : ZG_K_RECURRENT, &d, sizeof d, args, n, 3, 2.0 * (double)zg_elems(gates) * (double)H);
}

// A reshape that strides cannot express: the operand is copied in its own shape; row-major is row-major.
static void emit_reshape(at_node *e) {
  zg_view from = arg(e, 0), to = result(e, 0), as_from;
  zg_type t = zg_type_make(from.dtype, from.rank, from.dim);
  ZG_ASSERT(zg_view_reshape(&to, &t, &as_from));
  zg__low_copy(e->l, &as_from, &from, e->label, e->phase);
}

static void place(at_node *e, uint32_t k, const zg_view *part) {
  zg_val v = zg_in(e->l->g, e->n, k);
  double splat;
  if (zg__low_inline_scalar(e->l, v, &splat)) {
    zg__low_fill(e->l, part, splat, e->label, e->phase);
    return;
  }
  zg_view from = zg__low_view(e->l, v);
  if (from.buf == part->buf && from.offset == part->offset) return;   // written in place by its maker
  zg__low_copy(e->l, part, &from, e->label, e->phase);
}

static void emit_concat(at_node *e) {
  int64_t axis = ((const zg_axis_attr *)e->n->attr)->axis, start[ZG_MAX_RANK] = {0}, step1[ZG_MAX_RANK];
  for (int d = 0; d < ZG_MAX_RANK; d++) step1[d] = 1;
  zg_view out = result(e, 0);
  for (uint32_t k = 0; k < e->n->n_in; k++) {
    const zg_type *t = zg_type_of(e->l->g, zg_in(e->l->g, e->n, k));
    zg_view part = zg_view_slice(&out, start, step1, t->dim);
    if (zg_elems(t)) place(e, k, &part);
    start[axis] += t->dim[axis];
  }
}

static void emit_unslice(at_node *e) {
  const zg_unslice_attr *a = e->n->attr;
  zg_view out = result(e, 0);
  const zg_type *t = zg_type_of(e->l->g, zg_in(e->l->g, e->n, 0));
  zg_view part = zg_view_slice(&out, a->start.at, a->step.at, t->dim);
  if (zg_elems(t) != zg_view_elems(&out)) zg__low_fill(e->l, &out, a->fill, e->label, e->phase);
  if (zg_elems(t)) place(e, 0, &part);
}

static const struct { const zg_op *op; void (*emit)(at_node *e); } kernel_ops[] = {
    {&zg_op_matmul, emit_matmul},           {&zg_op_matmul_add, emit_matmul},
    {&zg_op_conv, emit_conv},     {&zg_op_conv_grad_x, emit_conv_grad_x},
    {&zg_op_conv_grad_w, emit_conv_grad_w}, {&zg_op_pool, emit_pool},     {&zg_op_pool_grad, emit_pool_grad},
    {&zg_op_gather, emit_gather},           {&zg_op_scatter, emit_scatter}, {&zg_op_cumsum, emit_cumsum},
    {&zg_op_topk, emit_topk},               {&zg_op_arg_reduce, emit_arg_reduce}, {&zg_op_reshape, emit_reshape},
    {&zg_op_concat, emit_concat},           {&zg_op_unslice, emit_unslice},
    {&zg_op_recurrent, emit_recurrent},     {&zg_op_recurrent_grad, emit_recurrent},
    {&zg_op_flash_attention, emit_attention}, {&zg_op_flash_attention_grad, emit_attention},
};

static zg_status emit_node(zg_low *l, uint32_t group) {
  uint32_t node = l->groups.at[group].nodes.at[0];
  at_node e = {.l = l, .n = &l->g->nodes.at[node], .label = zg__low_label(l, node), .phase = l->groups.at[group].phase};
  for (size_t i = 0; i < ZG_COUNT(kernel_ops); i++)
    if (kernel_ops[i].op == e.n->op) {
      kernel_ops[i].emit(&e);
      return NULL;
    }
  return zg_error(ZG_UNSUPPORTED, "node %s: no kernel runs the op \"%s\" (it should have been lowered to core ops)", e.label, e.n->op->name);
}

// ---- results and updates ------------------------------------------------------------------------------------------

static void emit_updates(zg_low *l) {
  const zg_graph *g = l->g;
  for (size_t i = 0; i < g->outputs.n; i++) {
    const zg_output *o = &g->outputs.at[i];
    if (o->kind != ZG_OUT_UPDATE || l->update_done[i] || zg_same(o->val, o->target)) continue;
    zg_view to = zg__low_view(l, o->target);
    const char *label = zg_arena_printf(&l->mem, "update of %s", o->name ? o->name : "state");
    double splat;
    if (zg__low_inline_scalar(l, o->val, &splat)) {
      zg__low_fill(l, &to, splat, label, ZG_PHASE_UPDATE);
    } else {
      zg_view from = zg__low_view(l, o->val);
      zg__low_copy(l, &to, &from, label, ZG_PHASE_UPDATE);
    }
  }
}

// Results that are leaves, splats or shared with a leaf that an update overwrites get a buffer of their own.
static void emit_outputs(zg_low *l, bool *is_output) {
  const zg_graph *g = l->g;
  for (size_t i = 0; i < g->outputs.n; i++) {
    const zg_output *o = &g->outputs.at[i];
    if (o->kind == ZG_OUT_UPDATE) continue;
    const zg_type *t = zg_type_of(g, o->val);
    zg_view v;
    double splat;
    bool inlined = zg__low_inline_scalar(l, o->val, &splat);
    bool leaf = !inlined && l->stores.at[l->val[o->val.id].view.buf].leaf;
    if (inlined || leaf || !zg_view_contiguous(&l->val[o->val.id].view)) {
      zg_buf b = {.name = zg_arena_printf(&l->mem, "%s:%s", l->segment, o->name ? o->name : "out"), .bytes = zg_type_bytes(t),
                  .dtype = t->dtype, .type = *t, .role = ZG_BUF_ACTIVATION};
      v = zg_view_row_major(t, zg_sched_add_buf(l->s, &b));
      if (inlined) {
        zg__low_fill(l, &v, splat, b.name, ZG_PHASE_FORWARD);
      } else {
        zg_view from = zg__low_view(l, o->val);
        zg__low_copy(l, &v, &from, b.name, ZG_PHASE_FORWARD);
      }
    } else {
      v = zg__low_view(l, o->val);
    }
    zg_sched_output so = {.segment = l->segment, .name = zg_arena_str(&l->s->mem, o->name ? o->name : ""), .kind = (uint8_t)o->kind,
                          .type = *t, .view = v};
    zg_vec_push(&l->s->outputs, so);
    is_output[i] = true;
    if (o->kind == ZG_OUT_GRAD) l->s->bufs.at[v.buf].role = ZG_BUF_GRAD;
  }
}

// Adds a release after the last step that touches each buffer of this segment, and tells activations from temporaries.
static void release_dead(zg_low *l, size_t first_step) {
  zg_sched *s = l->s;
  size_t n_steps = s->steps.n - first_step, n_bufs = s->bufs.n;
  uint32_t *last = ZG_NEW_N(&l->mem, uint32_t, n_bufs), *first_phase = ZG_NEW_N(&l->mem, uint32_t, n_bufs);
  for (size_t i = 0; i < n_steps; i++) {
    const zg_step *st = &s->steps.at[first_step + i];
    const zg_kernel *k = &s->kernels.at[st->kernel];
    for (uint32_t a = 0; a < k->n_args; a++) {
      uint32_t b = k->args[a].buf;
      if (!last[b]) first_phase[b] = st->phase;
      last[b] = (uint32_t)i + 1;
      if (first_phase[b] == ZG_PHASE_FORWARD && st->phase == ZG_PHASE_BACKWARD && s->bufs.at[b].role == ZG_BUF_TEMPORARY)
        s->bufs.at[b].role = ZG_BUF_ACTIVATION;
    }
  }
  for (size_t i = 0; i < s->outputs.n; i++)
    if (s->outputs.at[i].segment == l->segment) last[s->outputs.at[i].view.buf] = 0;
  uint32_t *head = ZG_NEW_N(&l->mem, uint32_t, n_steps + 1), *next = ZG_NEW_N(&l->mem, uint32_t, n_bufs);
  for (uint32_t b = (uint32_t)n_bufs; b-- > 1;)
    if (last[b] && !s->bufs.at[b].persistent) next[b] = head[last[b] - 1], head[last[b] - 1] = b;
  zg_step *old = zg_arena_copy(&l->mem, s->steps.at + first_step, n_steps * sizeof *old);
  s->steps.n = first_step;
  for (size_t i = 0; i < n_steps; i++) {
    zg_vec_push(&s->steps, old[i]);
    for (uint32_t b = head[i]; b; b = next[b])
      zg_vec_push(&s->steps, (zg_step){.kind = ZG_STEP_RELEASE, .stream = ZG_STREAM_COMPUTE, .phase = old[i].phase, .a = b});
  }
}

zg_status zg__low_emit(zg_low *l) {
  size_t first = l->s->steps.n;
  for (size_t i = 0; i < l->order.n; i++) {
    uint32_t q = l->order.at[i];
    if (l->groups.at[q].loop) zg__low_emit_loop(l, q);
    else ZG_TRY(emit_node(l, q));
  }
  emit_outputs(l, ZG_NEW_N(&l->mem, bool, l->g->outputs.n + 1));
  emit_updates(l);
  release_dead(l, first);
  zg_vec_push(&l->s->segments, (zg_segment){l->segment, (uint32_t)first, (uint32_t)(l->s->steps.n - first)});
  return NULL;
}
