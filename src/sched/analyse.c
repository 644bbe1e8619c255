// Lowering, first part: decides for every value what makes it and where its elements are.
//   - leaves are persistent buffers; splats are inlined; views are strides on their root where strides can say it
//   - a result is stored row-major, except where its only reader would have to copy it:
//       x -> transpose -> reshape   is stored in the transposed order (heads after attention)
//       window -> transpose         is stored with its channels last (opt_channels_last)
//       x -> concat                 is written straight into its part of the concatenation; results of attention also
//                                   through transposes and reshapes (the gradients of heads, into the fused projection's)
// Costs: linear in the graph.
#include "sched/lower_priv.h"

// Readers of each value: nodes, in compressed rows. Outputs of the graph do not count.
typedef struct { uint32_t *start, *node; uint32_t *n_outputs; } readers;

static readers find_readers(zg_low *l) {
  const zg_graph *g = l->g;
  readers r = {.start = ZG_NEW_N(&l->mem, uint32_t, g->values.n + 1), .n_outputs = ZG_NEW_N(&l->mem, uint32_t, g->values.n)};
  for (size_t i = 0; i < g->nodes.n; i++) {
    const zg_node *n = &g->nodes.at[i];
    if (l->node_live[i])
      for (uint32_t k = 0; k < n->n_in; k++) r.start[zg_in(g, n, k).id]++;
  }
  uint32_t sum = 0;
  for (size_t v = 0; v <= g->values.n; v++) {
    uint32_t count = v < g->values.n ? r.start[v] : 0;
    r.start[v] = sum;
    sum += count;
  }
  r.node = ZG_NEW_N(&l->mem, uint32_t, sum + 1);
  uint32_t *fill = ZG_NEW_N(&l->mem, uint32_t, g->values.n);
  for (size_t i = 0; i < g->nodes.n; i++) {
    const zg_node *n = &g->nodes.at[i];
    if (!l->node_live[i]) continue;
    for (uint32_t k = 0; k < n->n_in; k++) {
      uint32_t v = zg_in(g, n, k).id;
      r.node[r.start[v] + fill[v]++] = (uint32_t)i;
    }
  }
  for (size_t i = 0; i < g->outputs.n; i++) r.n_outputs[g->outputs.at[i].val.id]++;
  return r;
}

// The only node that reads v, or NULL.
static const zg_node *only_reader(const zg_low *l, const readers *r, uint32_t v) {
  if (r->n_outputs[v] || r->start[v + 1] - r->start[v] != 1) return NULL;
  return &l->g->nodes.at[r->node[r->start[v]]];
}

// The same, but for gradients of attention, which read any strides.
static const zg_node *only_mover(const zg_low *l, const readers *r, uint32_t v) {
  const zg_node *only = NULL;
  if (r->n_outputs[v]) return NULL;
  for (uint32_t i = r->start[v]; i < r->start[v + 1]; i++) {
    const zg_node *n = &l->g->nodes.at[r->node[i]];
    if (n->op == &zg_op_flash_attention_grad) continue;
    if (only) return NULL;
    only = n;
  }
  return only;
}

uint32_t zg__low_store(zg_low *l, const zg_type *t, uint32_t value) {
  zg_vec_push(&l->stores, (zg_store){.type = *t, .value = value});
  return (uint32_t)l->stores.n - 1;
}

static void set_root(zg_low *l, uint32_t v) {
  zg_low_val *x = &l->val[v];
  x->root = v;
  x->direct = true;
  for (int d = 0; d < ZG_MAX_RANK; d++) x->dmap[d] = (int8_t)d;
}

static bool is_splat(const zg_graph *g, zg_val v, double *out) {
  const zg_node *n = zg_node_of(g, v);
  if (n->op == &zg_op_fill) {
    *out = ((const zg_fill_attr *)n->attr)->value;
    return true;
  }
  if (n->op != &zg_op_const) return false;
  const zg_const_attr *a = n->attr;
  int64_t elems = zg_elems(&a->type);
  uint32_t size = zg_dtype_bytes(a->type.dtype);
  for (int64_t i = 1; i < elems; i++)
    if (memcmp(a->data, (const char *)a->data + i * size, size)) return false;
  if (elems == 0) {
    *out = 0;
    return true;
  }
  *out = zg_get_f64(a->type.dtype, a->data, 0);
  // A 64-bit integer that a double cannot hold stays in memory.
  return !zg_dtype_is_int(a->type.dtype) || (int64_t)*out == zg_get_i64(a->type.dtype, a->data, 0);
}

bool zg__low_inline_scalar(const zg_low *l, zg_val v, double *out) {
  const zg_low_val *x = &l->val[v.id];
  return x->at == ZG_AT_INLINE && is_splat(l->g, (zg_val){x->root}, out);
}

// Leaf buffers are shared between segments by name.
static uint32_t leaf_store(zg_low *l, const zg_node *n) {
  const zg_type *t = &l->g->values.at[n->out].type;
  const char *name = NULL;
  zg_buf b = {.bytes = zg_type_bytes(t), .dtype = t->dtype, .type = *t, .persistent = true, .value = {n->out}};
  if (n->op == &zg_op_input) {
    name = ((const zg_input_attr *)n->attr)->name;
    b.role = ZG_BUF_INPUT;
  } else if (n->op == &zg_op_param) {
    name = ((const zg_param_attr *)n->attr)->name;
    b.role = ZG_BUF_PARAM;
  } else if (n->op == &zg_op_state) {
    static const uint8_t role[] = {ZG_BUF_OPTIMIZER, ZG_BUF_GRAD, ZG_BUF_MASTER, ZG_BUF_OPTIMIZER};
    const zg_state_attr *a = n->attr;
    name = a->name;
    b.role = role[a->role];
  } else {
    const zg_const_attr *a = n->attr;
    uint64_t h = zg_hash(a->data, b.bytes, zg_hash(&b.type, sizeof b.type, 0));
    name = zg_arena_printf(&l->mem, "const:%016llx", (unsigned long long)h);
    b.role = ZG_BUF_CONST;
    b.init = a->data;
  }
  uint32_t buf = zg_sched_find_buf(l->s, name);
  if (!buf) {
    b.name = name;
    if (b.init) b.init = zg_arena_copy(&l->s->mem, b.init, b.bytes);
    buf = zg_sched_add_buf(l->s, &b);
  }
  uint32_t store = zg__low_store(l, t, n->out);
  l->stores.at[store].buf = buf;
  l->stores.at[store].leaf = true;
  return store;
}

// Dims of a reshape that only adds or drops dims of size 1, in terms of the operand's dims.
static bool ones_map(const zg_type *from, const zg_type *to, int8_t *map) {
  uint32_t i = 0;
  for (uint32_t j = 0; j < to->rank; j++) {
    map[j] = -1;
    if (to->dim[j] == 1) continue;
    while (i < from->rank && from->dim[i] == 1) i++;
    if (i == from->rank || from->dim[i] != to->dim[j]) return false;
    map[j] = (int8_t)i++;
  }
  while (i < from->rank && from->dim[i] == 1) i++;
  return i == from->rank;
}

static bool try_view(zg_low *l, const zg_node *n) {
  const zg_val x = zg_in(l->g, n, 0);
  const zg_low_val *from = &l->val[x.id];
  zg_low_val *to = &l->val[n->out];
  const zg_type *t = &l->g->values.at[n->out].type;
  if (from->at == ZG_AT_INLINE) {
    *to = (zg_low_val){.at = ZG_AT_INLINE, .cls = ZG_LOW_VIEW, .root = from->root};
    return true;
  }
  zg_low_val r = {.at = ZG_AT_STORED, .cls = ZG_LOW_VIEW, .root = from->root};
  if (n->op == &zg_op_reshape) {
    if (!zg_view_reshape(&from->view, t, &r.view)) return false;
    int8_t map[ZG_MAX_RANK];
    r.direct = from->direct && ones_map(zg_type_of(l->g, x), t, map);
    for (uint32_t d = 0; d < t->rank && r.direct; d++) r.dmap[d] = map[d] < 0 ? -1 : from->dmap[map[d]];
  } else if (n->op == &zg_op_transpose) {
    r.view = zg_view_transpose(&from->view, ((const zg_transpose_attr *)n->attr)->perm.at);
  } else if (n->op == &zg_op_expand) {
    r.view = zg_view_expand(&from->view, t);
  } else if (n->op == &zg_op_barrier) {
    r.view = from->view;
    r.direct = from->direct;
    memcpy(r.dmap, from->dmap, sizeof r.dmap);
  } else {
    const zg_slice_attr *a = n->attr;
    r.view = zg_view_slice(&from->view, a->start.at, a->step.at, a->size.at);
  }
  *to = r;
  return true;
}

static bool is_attention(const zg_node *n) { return n->op == &zg_op_flash_attention || n->op == &zg_op_flash_attention_grad; }

static bool free_layout(const zg_node *n) {   // kernels that write any strides
  return n->op == &zg_op_matmul || is_attention(n) || (n->op->traits & ZG_ELEMENTWISE) || n->op == &zg_op_reduce;
}

static zg_view place_view(zg_low *l, const zg_node *n) {
  zg_low_val *x = &l->val[n->out];
  if (x->at == ZG_AT_NONE) {
    const zg_type *t = &l->g->values.at[n->out].type;
    x->at = ZG_AT_STORED;
    x->view = zg_view_row_major(t, zg__low_store(l, t, n->out));
  }
  return x->view;
}

// Where in its concatenation a value goes that only this concat reads (once) as its own operand.
static bool concat_part(zg_low *l, const readers *r, uint32_t v, zg_view *out) {
  const zg_graph *g = l->g;
  const zg_node *c = only_reader(l, r, v);
  if (!c || c->op != &zg_op_concat) return false;
  int64_t axis = ((const zg_axis_attr *)c->attr)->axis, at = 0;
  for (uint32_t k = 0; k < c->n_in; k++) {
    zg_val x = zg_in(g, c, k);
    const zg_type *t = zg_type_of(g, x);
    if (x.id == v) {
      int64_t start[ZG_MAX_RANK] = {0}, step[ZG_MAX_RANK];
      for (int d = 0; d < ZG_MAX_RANK; d++) step[d] = 1;
      start[axis] = at;
      zg_view whole = place_view(l, c);
      *out = zg_view_slice(&whole, start, step, t->dim);
      return true;
    }
    at += t->dim[axis];
  }
  return false;
}

// The view of x that makes a transpose or reshape of it this view.
static bool undo_move(const zg_low *l, const zg_node *n, zg_view *v) {
  const zg_type *t = zg_type_of(l->g, zg_in(l->g, n, 0));
  zg_view out;
  if (n->op == &zg_op_reshape) {
    if (!zg_view_reshape(v, t, &out)) return false;
  } else {
    const int64_t *perm = ((const zg_transpose_attr *)n->attr)->perm.at;
    int64_t back[ZG_MAX_RANK];
    for (uint32_t d = 0; d < t->rank; d++) back[perm[d]] = d;
    out = zg_view_transpose(v, back);
  }
  *v = out;
  return true;
}

// Where x goes in the concatenation that reads it through transposes and reshapes; its rows must stay rows.
static bool moved_concat_part(zg_low *l, const readers *r, uint32_t v, zg_view *out) {
  const zg_node *move[4];
  uint32_t n = 0, at = v;
  for (const zg_node *m; n < ZG_COUNT(move) && (m = only_reader(l, r, at)) && (m->op == &zg_op_transpose || m->op == &zg_op_reshape);) {
    move[n++] = m;
    at = m->out;
  }
  if (!n || !concat_part(l, r, at, out)) return false;
  while (n--)
    if (!undo_move(l, move[n], out)) return false;
  return out->rank > 0 && out->stride[out->rank - 1] == 1;
}

// x -> transpose -> reshape that strides cannot express: store x in the transposed order.
static bool transposed_store(zg_low *l, const readers *r, uint32_t v, zg_view *out) {
  const zg_graph *g = l->g;
  const zg_node *t = only_mover(l, r, v);
  if (!t || t->op != &zg_op_transpose) return false;
  const zg_node *s = only_reader(l, r, t->out);
  if (!s || s->op != &zg_op_reshape) return false;
  const zg_type *vt = &g->values.at[v].type;
  const int64_t *perm = ((const zg_transpose_attr *)t->attr)->perm.at;
  zg_view plain = zg_view_row_major(vt, 0), moved = zg_view_transpose(&plain, perm), ignored;
  if (zg_view_reshape(&moved, &g->values.at[s->out].type, &ignored)) return false;
  zg_view as_read = zg_view_row_major(&g->values.at[t->out].type, zg__low_store(l, vt, v));
  int64_t back[ZG_MAX_RANK];
  for (uint32_t d = 0; d < vt->rank; d++) back[perm[d]] = d;
  *out = zg_view_transpose(&as_read, back);
  return true;
}

// What adds to a base that nobody else reads (scatter, matmul_add) works in the base's own memory.
static bool base_in_place(const zg_low *l, const readers *r, const zg_node *n, zg_view *out) {
  if (n->op != &zg_op_scatter && n->op != &zg_op_matmul_add) return false;
  const zg_val base = zg_in(l->g, n, 0);
  const zg_low_val *x = &l->val[base.id];
  if (x->at != ZG_AT_STORED || x->root != base.id || x->cls == ZG_LOW_LEAF || only_reader(l, r, base.id) != n) return false;
  if (!zg_view_contiguous(&x->view)) return false;
  *out = x->view;
  return true;
}

static bool is_window(const zg_node *n) {
  return n->op == &zg_op_conv || n->op == &zg_op_conv_grad_x || n->op == &zg_op_conv_grad_w || n->op == &zg_op_pool || n->op == &zg_op_pool_grad;
}
static bool is_image(const zg_node *n, uint32_t operand) {   // of a window, which takes images of either layout
  return operand == 0 || (operand == 1 && n->op != &zg_op_conv && n->op != &zg_op_conv_grad_x);
}

static bool puts_channels_last(const zg_node *t) {
  if (t->op != &zg_op_transpose) return false;
  const zg_ints *perm = &((const zg_transpose_attr *)t->attr)->perm;
  for (int64_t d = 0; d < perm->n; d++)
    if (perm->at[d] != (d == 0 ? 0 : d + 1 == perm->n ? 1 : d + 1)) return false;
  return true;
}

// Do only such transposes and windows read v? *found: one of them is such a transpose. Barriers are looked through, so that what is
// computed again is computed in the same layout.
static bool read_as_image(const zg_low *l, const readers *r, uint32_t v, bool *found) {
  if (r->n_outputs[v]) return false;
  for (uint32_t i = r->start[v]; i < r->start[v + 1]; i++) {
    const zg_node *n = &l->g->nodes.at[r->node[i]];
    if (puts_channels_last(n)) {
      *found = true;
    } else if (n->op == &zg_op_barrier) {
      if (!read_as_image(l, r, n->out, found)) return false;
    } else {
      if (!is_window(n)) return false;
      for (uint32_t k = 0; k < n->n_in; k++)
        if (zg_in(l->g, n, k).id == v && !is_image(n, k)) return false;
    }
  }
  return true;
}

// A window's result that only such transposes and windows read is stored with its channels last, if one of them is such a transpose
// or its own operand is stored so.
static bool channels_last_store(zg_low *l, const readers *r, const zg_node *n, uint32_t v, zg_view *out) {
  const zg_type *t = &l->g->values.at[v].type;
  if (!is_window(n) || n->op == &zg_op_conv_grad_w) return false;
  const zg_view *x = &l->val[zg_in(l->g, n, 0).id].view;
  bool found = l->val[zg_in(l->g, n, 0).id].at == ZG_AT_STORED && !zg_view_contiguous(x) && zg_view_channels_last(x);
  if (!read_as_image(l, r, v, &found) || !found) return false;
  *out = zg_view_make_channels_last(t, zg__low_store(l, t, v));
  return true;
}

static void place_result(zg_low *l, const readers *r, const zg_node *n, uint32_t v) {
  zg_low_val *x = &l->val[v];
  set_root(l, v);
  if (x->at == ZG_AT_STORED) return;   // a concat that one of its parts placed already
  x->at = ZG_AT_STORED;
  if (base_in_place(l, r, n, &x->view)) return;
  if (is_attention(n) && moved_concat_part(l, r, v, &x->view)) return;
  if (free_layout(n) && (concat_part(l, r, v, &x->view) || transposed_store(l, r, v, &x->view))) return;
  if (channels_last_store(l, r, n, v, &x->view)) return;
  const zg_type *t = &l->g->values.at[v].type;
  l->val[v].view = zg_view_row_major(t, zg__low_store(l, t, v));
}

static zg_low_class class_of(const zg_node *n) {
  const zg_op *op = n->op;
  if (op == &zg_op_input || op == &zg_op_param || op == &zg_op_state || op == &zg_op_const) return ZG_LOW_LEAF;
  if (op == &zg_op_reshape || op == &zg_op_transpose || op == &zg_op_expand || op == &zg_op_slice ||
      op == &zg_op_barrier)
    return ZG_LOW_VIEW;
  if (op == &zg_op_concat || op == &zg_op_unslice) return ZG_LOW_PLACE;
  if ((op->traits & ZG_ELEMENTWISE) || op == &zg_op_reduce || op == &zg_op_iota || op == &zg_op_random) return ZG_LOW_LOOP;
  return ZG_LOW_KERNEL;
}

static void analyse_node(zg_low *l, const readers *r, const zg_node *n) {
  zg_low_val *x = &l->val[n->out];
  zg_low_class cls = class_of(n);
  double ignored;
  if (n->op == &zg_op_fill || (n->op == &zg_op_const && is_splat(l->g, zg_out(n, 0), &ignored))) {
    *x = (zg_low_val){.at = ZG_AT_INLINE, .cls = ZG_LOW_LEAF, .root = n->out};
    return;
  }
  if (cls == ZG_LOW_LEAF) {
    *x = (zg_low_val){.at = ZG_AT_STORED, .cls = cls, .kept = true};
    set_root(l, n->out);
    x->view = zg_view_row_major(&l->g->values.at[n->out].type, leaf_store(l, n));
    return;
  }
  if (cls == ZG_LOW_VIEW) {
    if (try_view(l, n)) return;
    cls = ZG_LOW_KERNEL;   // a reshape that must copy
  }
  for (uint32_t k = 0; k < n->n_out; k++) {
    l->val[n->out + k].cls = cls;
    l->val[n->out + k].kept = cls != ZG_LOW_LOOP;
    place_result(l, r, n, n->out + k);
  }
}

zg_status zg__low_analyse(zg_low *l) {
  const zg_graph *g = l->g;
  l->val = ZG_NEW_N(&l->mem, zg_low_val, g->values.n);
  zg_vec_push(&l->stores, (zg_store){0});
  readers r = find_readers(l);
  for (size_t i = 0; i < g->nodes.n; i++) {
    if (l->node_live[i]) analyse_node(l, &r, &g->nodes.at[i]);
  }
  return NULL;
}
