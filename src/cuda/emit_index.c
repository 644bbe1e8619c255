// Gather, scatter, scan, sort.
//   gather    a thread per unit of up to 16 bytes of the result
//   scatter   updates of one element are applied in their order. TAKE and ND: a block owns neighbouring rows
//   of the data and reads all
//             indices of its batch, 256 at a time; a row element belongs to one thread. ELEMENTS: a thread
//             owns a line along the axis
//   scan      a thread per line
//   sort      top-k: a thread per element counts those that go before it, which is its place; arg-reduce: a
//   warp per line
// An index out of range fills the error record and is left out.
#include <stdio.h>

#include "cuda/emit.h"
#include "graph/core.h"
#include "sched/reference.h"

enum { THREADS = 256 };

static void put_linear(zg_str *out, int64_t n) {
  zg_str_add(out, "{\nconst zg_i64 e = (zg_i64)blockIdx.x * %d + threadIdx.x;\nif (e >= %lldll) return;\n",
             THREADS, (long long)n);
}

static zg_status launch_linear(const zg_kernel *k, zg__draft *d, zg__code *out, int64_t n) {
  return zg_status_prefix(zg__draft_launch(d, out, ((uint64_t)n + THREADS - 1) / THREADS, 1, THREADS, 0),
                          "%s: ", k->label);
}

static void add_error(zg__draft *d) {
  zg__draft_param(d, "void", "err", (zg__param){.kind = ZG__P_ERROR});
  zg__draft_param(d, "zg_i64", "number", (zg__param){.kind = ZG__P_NUMBER});
}

// Declares `to`: data offset of index tuple n of batch b, -1 where an index is out of range.
static void put_target(zg_str *out, const zg_gather_desc *d, const zg_gather_plan *g, zg_dtype t) {
  zg_str_add(out, "zg_i64 to = b * %lldll;\n", (long long)g->span);
  for (int64_t c = 0; c < g->n_coord; c++) {
    zg_str_add(out, "{\nzg_i64 i = ");
    if (d->mode == ZG_IDX_ND)
      zg__put_load(out, t, "a.idx[(b * %lldll + n) * %lldll + %lldll]", (long long)g->n_idx,
                   (long long)g->n_coord, (long long)c);
    else zg__put_load(out, t, "a.idx[n]");
    zg_str_add(out,
               ";\nif (i < -%lldll || i >= %lldll) { zg_fail(a.err, a.number, i, %lldll); i = 0; to = -(1ll "
               "<< 62); }\n",
               (long long)g->limit[c], (long long)g->limit[c], (long long)g->limit[c]);
    zg_str_add(out, "to += (i < 0 ? i + %lldll : i) * %lldll;\n}\n", (long long)g->limit[c],
               (long long)g->stride[c]);
  }
}

// ELEMENTS: declares data offset `to` of place p of the index tensor, without the index along the axis;
// coordinates of the index tensor.
static void put_place(zg_str *out, const zg_gather_desc *d, const zg_view *data, const zg_view *idx) {
  int64_t stride = 1, block = 1;
  zg_str_add(out, "zg_i64 to = 0");
  for (uint32_t r = data->rank; r-- > 0; stride *= data->dim[r], block *= idx->dim[r])
    if ((int64_t)r != d->axis)
      zg_str_add(out, " + p / %lldll %% %lldll * %lldll", (long long)block, (long long)idx->dim[r],
                 (long long)stride);
  zg_str_add(out, ";\n");
}

static int64_t axis_stride(const zg_view *v, int64_t axis) {
  int64_t stride = 1;
  for (uint32_t r = (uint32_t)axis + 1; r < v->rank; r++) stride *= v->dim[r];
  return stride;
}

// Reads index i at place p and adds its step along the axis, or leaves with `leave`.
static void put_element_index(zg_str *out, const zg_gather_desc *d, const zg_view *data, const zg_view *idx,
                              const char *leave) {
  const long long limit = data->dim[d->axis];
  zg_str_add(out, "const zg_i64 i = ");
  zg__put_load(out, idx->dtype, "a.idx[p]");
  zg_str_add(out, ";\nif (i < -%lldll || i >= %lldll) { zg_fail(a.err, a.number, i, %lldll); %s; }\n", limit,
             limit, limit, leave);
  zg_str_add(out, "to += (i < 0 ? i + %lldll : i) * %lldll;\n", limit, (long long)axis_stride(data, d->axis));
}

// ---- gather
// ---------------------------------------------------------------------------------------------------------------
// Bytes that one thread moves at once: rows, and both views' starts, are multiples of it.
static uint32_t unit_bytes(const zg_kernel *k, int64_t inner) {
  const uint32_t size = zg_dtype_bytes(k->args[0].dtype);
  uint32_t u = 16;
  while (u > size && (inner * size % u || k->args[0].offset * size % u || k->args[1].offset * size % u))
    u /= 2;
  return u;
}

static const char *unit_type(uint32_t bytes) {
  return bytes == 16  ? "zg_u4"
         : bytes == 8 ? "zg_u2"
         : bytes == 4 ? "unsigned"
         : bytes == 2 ? "unsigned short"
                      : "unsigned char";
}

zg_status zg__emit_gather(const zg_kernel *k, zg__code *out) {
  const zg_gather_desc *d = k->desc;
  const zg_view *y = &k->args[0], *x = &k->args[1], *idx = &k->args[2];
  const bool elements = d->mode == ZG_IDX_ELEMENTS;
  const zg_gather_plan g = elements ? (zg_gather_plan){.inner = 1} : zg_gather_make_plan(d, x, idx);
  if (y->dtype != x->dtype)
    return zg_error(ZG_INTERNAL, "%s: gather from %s to %s", k->label, zg_dtype_name(x->dtype),
                    zg_dtype_name(y->dtype));
  const uint32_t unit = unit_bytes(k, g.inner);
  const int64_t per = unit / zg_dtype_bytes(y->dtype), total = zg_view_elems(y) / per, units = g.inner / per;
  char in_type[32];
  snprintf(in_type, sizeof in_type, "const %s", unit_type(unit));
  zg__draft f = {0};
  zg__draft_param(&f, unit_type(unit), "y", (zg__param){.kind = ZG__P_ARG, .arg = 0});
  zg__draft_param(&f, in_type, "x", (zg__param){.kind = ZG__P_ARG, .arg = 1});
  zg__draft_arg(&f, k, 2, true, "idx");
  add_error(&f);
  put_linear(&f.body, total);
  if (elements) {
    zg_str_add(&f.body, "const zg_i64 p = e;\n");
    put_place(&f.body, d, x, idx);
    put_element_index(&f.body, d, x, idx, "return");
    zg_str_add(&f.body, "a.y[e] = a.x[to];\n}");
  } else {
    zg_str_add(&f.body, "const zg_i64 p = e / %lldll, u = e %% %lldll, b = p / %lldll, n = p %% %lldll;\n",
               (long long)ZG_MAX(units, 1), (long long)ZG_MAX(units, 1), (long long)ZG_MAX(g.n_idx, 1),
               (long long)ZG_MAX(g.n_idx, 1));
    put_target(&f.body, d, &g, idx->dtype);
    zg_str_add(&f.body, "if (to >= 0) a.y[e] = a.x[to / %lldll + u];\n}", (long long)per);
  }
  return launch_linear(k, &f, out, total);
}

// ---- scatter
// --------------------------------------------------------------------------------------------------------------
static void put_combine(zg_str *out, const zg_kernel *k, const char *at, const char *from) {
  static const char *const by[] = {"u", "o + u", "o * u", "u > o || u != u ? u : o",
                                   "u < o || u != u ? u : o"};
  static const char *const by_int[] = {"u", "zg_add_i(o, u)", "zg_mul_i(o, u)", "u > o ? u : o",
                                       "u < o ? u : o"};
  const zg_gather_desc *d = k->desc;
  const zg_cls cls = zg_cls_of(k->args[0].dtype);
  zg_str_add(out, "{\nconst %s o = ", zg__cls_type(cls));
  zg__put_load(out, k->args[0].dtype, "a.y[%s]", at);
  zg_str_add(out, ", u = ");
  zg__put_load(out, k->args[2].dtype, "a.u[%s]", from);
  zg_str_add(out, ";\n(void)o;\na.y[%s] = ", at);
  zg__put_store(out, k->args[0].dtype, "%s", cls == ZG_CLS_INT ? by_int[d->red] : by[d->red]);
  zg_str_add(out, ";\n}\n");
}

static zg_status scatter_elements(const zg_kernel *k, zg__draft *f, zg__code *out) {
  const zg_gather_desc *d = k->desc;
  const zg_view *data = &k->args[0], *idx = &k->args[1];
  const int64_t len = idx->dim[d->axis], step = axis_stride(idx, d->axis),
                lines = len ? zg_view_elems(idx) / len : 0;
  put_linear(&f->body, lines);
  zg_str_add(&f->body,
             "for (zg_i64 j = 0; j < %lldll; j++) {\nconst zg_i64 p = e / %lldll * %lldll + e %% %lldll + j "
             "* %lldll;\n",
             (long long)len, (long long)step, (long long)(step * len), (long long)step, (long long)step);
  put_place(&f->body, d, data, idx);
  put_element_index(&f->body, d, data, idx, "continue");
  put_combine(&f->body, k, "to", "p");
  zg_str_add(&f->body, "}\n}");
  return launch_linear(k, f, out, lines);
}

static zg_status scatter_rows(const zg_kernel *k, zg__draft *f, zg__code *out) {
  const zg_gather_desc *d = k->desc;
  const zg_view *data = &k->args[0], *idx = &k->args[1];
  const zg_gather_plan g = zg_gather_make_plan(d, data, idx);
  const int64_t inner = ZG_MAX(g.inner, 1), rows = g.span / inner,
                per = ZG_MAX(ZG_MIN(4096 / inner, rows), 1), blocks = (rows + per - 1) / per;
  zg_str *o = &f->body;
  zg_str_add(o,
             "{\nZG_SHARED int list[%d];\nconst zg_i64 b = blockIdx.x / %lldll, row0 = blockIdx.x %% %lldll "
             "* %lldll;\n",
             THREADS, (long long)ZG_MAX(blocks, 1), (long long)ZG_MAX(blocks, 1), (long long)per);
  zg_str_add(o,
             "for (zg_i64 n0 = 0; n0 < %lldll; n0 += %d) {\nconst zg_i64 n = n0 + threadIdx.x;\nint row = "
             "-1;\nif (n < %lldll) {\n",
             (long long)g.n_idx, THREADS, (long long)g.n_idx);
  put_target(o, d, &g, idx->dtype);
  zg_str_add(o,
             "const zg_i64 r = (to - b * %lldll) / %lldll - row0;\nif (to >= 0 && r >= 0 && r < %lldll) row "
             "= (int)r;\n}\n",
             (long long)g.span, (long long)inner, (long long)per);
  zg_str_add(o, "if (!zg_sync_or(row >= 0)) continue;\nlist[threadIdx.x] = row;\nzg_sync();\n");
  zg_str_add(o, "ZG_NO_UNROLL for (int i = 0; i < %d; i++) {\nconst int r = list[i];\nif (r < 0) continue;\n",
             THREADS);
  zg_str_add(o, "for (int c = (int)((threadIdx.x + %d - r * %lldll %% %d) %% %d); c < %lldll; c += %d) {\n",
             THREADS, (long long)inner, THREADS, THREADS, (long long)inner, THREADS);
  zg_str_add(
      o,
      "const zg_i64 at = b * %lldll + (row0 + r) * %lldll + c, from = (b * %lldll + n0 + i) * %lldll + c;\n",
      (long long)g.span, (long long)inner, (long long)g.n_idx, (long long)inner);
  put_combine(o, k, "at", "from");
  zg_str_add(o, "}\n}\nzg_sync();\n}\n}");
  const bool empty = g.n_idx == 0 || g.span == 0;
  return zg_status_prefix(zg__draft_launch(f, out, empty ? 0 : (uint64_t)(blocks * g.batch), 1, THREADS, 0),
                          "%s: ", k->label);
}

zg_status zg__emit_scatter(const zg_kernel *k, zg__code *out) {
  zg__draft f = {0};
  zg__draft_arg(&f, k, 0, false, "y");
  zg__draft_arg(&f, k, 1, true, "idx");
  zg__draft_arg(&f, k, 2, true, "u");
  add_error(&f);
  return ((const zg_gather_desc *)k->desc)->mode == ZG_IDX_ELEMENTS ? scatter_elements(k, &f, out)
                                                                    : scatter_rows(k, &f, out);
}

// ---- scan
// -----------------------------------------------------------------------------------------------------------------
zg_status zg__emit_scan(const zg_kernel *k, zg__code *out) {
  const zg_scan_desc *d = k->desc;
  const zg_view *x = &k->args[1];
  const int64_t len = x->dim[d->axis], inner = axis_stride(x, d->axis),
                lines = len ? zg_view_elems(x) / len : 0;
  const zg_cls cls = zg_cls_of(k->args[0].dtype);
  zg__draft f = {0};
  zg__draft_arg(&f, k, 0, false, "y");
  zg__draft_arg(&f, k, 1, true, "x");
  put_linear(&f.body, lines);
  zg_str_add(&f.body, "%s sum = 0;\nfor (zg_i64 j = 0; j < %lldll; j++) {\n",
             cls == ZG_CLS_INT ? "zg_i64" : "double", (long long)len);
  if (d->reverse) zg_str_add(&f.body, "const zg_i64 i = %lldll - j;\n", (long long)len - 1);
  else zg_str_add(&f.body, "const zg_i64 i = j;\n");
  zg_str_add(&f.body, "const zg_i64 at = (e / %lldll * %lldll + i) * %lldll + e %% %lldll;\nconst %s v = ",
             (long long)inner, (long long)len, (long long)inner, (long long)inner, zg__cls_type(cls));
  zg__put_load(&f.body, x->dtype, "a.x[at]");
  zg_str_add(&f.body, ";\n");
  const char *add = cls == ZG_CLS_INT ? "sum = zg_add_i(sum, v);\n" : "sum += v;\n";
  if (!d->exclusive) zg_str_add(&f.body, "%s", add);
  zg_str_add(&f.body, "a.y[at] = ");
  zg__put_store(&f.body, k->args[0].dtype, "(%s)sum", zg__cls_type(cls));
  zg_str_add(&f.body, ";\n%s}\n}", d->exclusive ? add : "");
  return launch_linear(k, &f, out, lines);
}

// ---- sort
// -----------------------------------------------------------------------------------------------------------------
// Expression: does (x, i) go before (y, j)? NaNs first; ties by place, the lower first unless `last`.
static void put_before(zg_str *out, const zg_sort_desc *d, bool floats, const char *x, const char *i,
                       const char *y, const char *j) {
  const char *order = d->largest ? ">" : "<", *tie = d->last ? ">" : "<";
  if (floats)
    zg_str_add(out, "((%s != %s) != (%s != %s) ? %s != %s : %s == %s && %s != %s ? %s %s %s : %s %s %s)", x,
               x, y, y, x, x, x, x, x, y, x, order, y, i, tie, j);
  else zg_str_add(out, "(%s != %s ? %s %s %s : %s %s %s)", x, y, x, order, y, i, tie, j);
}

static void put_results(zg_str *out, const zg_kernel *k, const char *to, const char *at, const char *i) {
  if (k->args[0].buf) zg_str_add(out, "a.v[%s] = a.x[%s];\n", to, at);
  if (!k->args[1].buf) return;
  zg_str_add(out, "a.i[%s] = ", to);
  zg__put_store(out, k->args[1].dtype, "%s", i);
  zg_str_add(out, ";\n");
}

static void add_sort_args(const zg_kernel *k, zg__draft *f) {
  if (k->args[0].buf) zg__draft_arg(f, k, 0, false, "v");
  if (k->args[1].buf) zg__draft_arg(f, k, 1, false, "i");
  zg__draft_arg(f, k, 2, true, "x");
}

static zg_status emit_topk(const zg_kernel *k, int64_t len, int64_t inner, zg__code *out) {
  const zg_sort_desc *d = k->desc;
  const zg_view *x = &k->args[2];
  const int64_t total = zg_view_elems(x);
  const char *type = zg__cls_type(zg_cls_of(x->dtype));
  zg__draft f = {0};
  add_sort_args(k, &f);
  put_linear(&f.body, total);
  zg_str_add(&f.body,
             "const zg_i64 in = e %% %lldll, i = e / %lldll %% %lldll, o = e / %lldll, at = o * %lldll + "
             "in;\nconst %s x = ",
             (long long)inner, (long long)inner, (long long)ZG_MAX(len, 1), (long long)ZG_MAX(inner * len, 1),
             (long long)(inner * len), type);
  zg__put_load(&f.body, x->dtype, "a.x[e]");
  zg_str_add(&f.body,
             ";\nzg_i64 rank = 0;\nfor (zg_i64 j = 0; j < %lldll; j++) {\nconst %s y = ", (long long)len,
             type);
  zg__put_load(&f.body, x->dtype, "a.x[at + j * %lldll]", (long long)inner);
  zg_str_add(&f.body, ";\nrank += j != i && ");
  put_before(&f.body, d, zg_dtype_is_float(x->dtype), "y", "j", "x", "i");
  zg_str_add(&f.body,
             ";\n}\nif (rank >= %lldll) return;\nconst zg_i64 to = (o * %lldll + rank) * %lldll + in;\n",
             (long long)d->k, (long long)d->k, (long long)inner);
  put_results(&f.body, k, "to", "e", "i");
  zg_str_add(&f.body, "}");
  return launch_linear(k, &f, out, total);
}

static zg_status emit_arg(const zg_kernel *k, int64_t len, int64_t inner, zg__code *out) {
  const zg_sort_desc *d = k->desc;
  const zg_view *x = &k->args[2];
  const zg_cls cls = zg_cls_of(x->dtype);
  const int64_t lines = len ? zg_view_elems(x) / len : 0;
  const char *type = zg__cls_type(cls);
  zg__draft f = {0};
  zg_str *o = &f.body;
  add_sort_args(k, &f);
  zg_str_add(o,
             "{\nconst int lane = threadIdx.x %% 32;\nconst zg_i64 line = (zg_i64)blockIdx.x * %d + "
             "threadIdx.x / 32;\nconst int live = line < %lldll;\n",
             THREADS / 32, (long long)lines);
  zg_str_add(o, "const zg_i64 at = line / %lldll * %lldll + line %% %lldll;\nzg_i64 i = -1;\n%s x = 0;\n",
             (long long)inner, (long long)(inner * len), (long long)inner, type);
  zg_str_add(o, "for (zg_i64 j = lane; live && j < %lldll; j += 32) {\nconst %s y = ", (long long)len, type);
  zg__put_load(o, x->dtype, "a.x[at + j * %lldll]", (long long)inner);
  zg_str_add(o, ";\nif (i < 0 || ");
  put_before(o, d, zg_dtype_is_float(x->dtype), "y", "j", "x", "i");
  zg_str_add(o, ") { x = y; i = j; }\n}\n");
  zg_str_add(o,
             "ZG_UNROLL for (int m = 16; m > 0; m /= 2) {\nconst %s y = zg_shfl_xor_%c(x, m);\nconst zg_i64 "
             "j = zg_shfl_xor_i(i, m);\n",
             type, zg__cls_letter(cls));
  zg_str_add(o, "if (j >= 0 && (i < 0 || ");
  put_before(o, d, zg_dtype_is_float(x->dtype), "y", "j", "x", "i");
  zg_str_add(o, ")) { x = y; i = j; }\n}\nif (live && lane == 0) {\n");
  char source[64];
  snprintf(source, sizeof source, "at + i * %lldll", (long long)inner);
  put_results(o, k, "line", source, "i");
  zg_str_add(o, "}\n}");
  return zg_status_prefix(
      zg__draft_launch(&f, out, ((uint64_t)lines + THREADS / 32 - 1) / (THREADS / 32), 1, THREADS, 0),
      "%s: ", k->label);
}

zg_status zg__emit_sort(const zg_kernel *k, zg__code *out) {
  const zg_sort_desc *d = k->desc;
  const zg_view *x = &k->args[2];
  const int64_t len = x->dim[d->axis], inner = axis_stride(x, d->axis);
  if (k->args[0].buf && k->args[0].dtype != x->dtype)
    return zg_error(ZG_INTERNAL, "%s: sort of %s gives values of %s", k->label, zg_dtype_name(x->dtype),
                    zg_dtype_name(k->args[0].dtype));
  return d->arg ? emit_arg(k, len, inner, out) : emit_topk(k, len, inner, out);
}
