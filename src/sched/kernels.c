// The table of kernel kinds: attributes as text, and what the arguments of each must look like. Loops have files of their own.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "graph/core.h"
#include "sched/loop.h"
#include "sched/sched.h"

// Attributes: every desc but the loop's is a struct of int64_t and double fields.
typedef struct { const char *name; uint16_t offset; uint8_t n; bool real; } field;
#define INT(type, member) {#member, offsetof(type, member), 1, false}
#define INTS(type, member) {#member, offsetof(type, member), 3, false}
#define REAL(type, member) {#member, offsetof(type, member), 1, true}

static const field matmul_fields[] = {INT(zg_matmul_desc, m), INT(zg_matmul_desc, n), INT(zg_matmul_desc, k),
                                      REAL(zg_matmul_desc, alpha), REAL(zg_matmul_desc, beta), INT(zg_matmul_desc, epilogue)};
static const field conv_fields[] = {INT(zg_conv_desc, spatial), INT(zg_conv_desc, group), INTS(zg_conv_desc, stride),
                                    INTS(zg_conv_desc, pad_begin), INTS(zg_conv_desc, pad_end), INTS(zg_conv_desc, dilation)};
static const field pool_fields[] = {INT(zg_pool_desc, spatial), INT(zg_pool_desc, kind), INTS(zg_pool_desc, kernel),
                                    INTS(zg_pool_desc, stride), INTS(zg_pool_desc, pad_begin), INTS(zg_pool_desc, pad_end),
                                    INTS(zg_pool_desc, dilation)};
static const field gather_fields[] = {INT(zg_gather_desc, mode), INT(zg_gather_desc, axis), INT(zg_gather_desc, batch), INT(zg_gather_desc, red)};
static const field scan_fields[] = {INT(zg_scan_desc, axis), INT(zg_scan_desc, exclusive), INT(zg_scan_desc, reverse)};
static const field sort_fields[] = {INT(zg_sort_desc, axis), INT(zg_sort_desc, k), INT(zg_sort_desc, largest), INT(zg_sort_desc, arg), INT(zg_sort_desc, last)};

static const field attention_fields[] = {INT(zg_attention_desc, causal), INT(zg_attention_desc, offset), REAL(zg_attention_desc, scale)};

static const field recurrent_fields[] = {INT(zg_recurrent_desc, cell), INT(zg_recurrent_desc, reverse)};

static void print_fields(const field *f, size_t n, const void *desc, zg_str *out) {
  for (size_t i = 0; i < n; i++) {
    const char *at = (const char *)desc + f[i].offset;
    zg_str_add(out, "%s%s=", i ? " " : "", f[i].name);
    if (f[i].real) zg_str_add(out, "%.17g", *(const double *)at);
    for (int k = 0; k < f[i].n && !f[i].real; k++) zg_str_add(out, "%s%" PRId64, k ? "," : "", ((const int64_t *)at)[k]);
  }
}

static zg_status parse_field(const field *f, const char *text, char *desc) {
  const char *p = text;
  for (int k = 0; k < f->n; k++) {
    char *end;
    if (f->real) *(double *)(desc + f->offset) = strtod(p, &end);
    else ((int64_t *)(desc + f->offset))[k] = strtoll(p, &end, 10);
    if (end == p) return zg_error(ZG_INVALID, "attribute %s: expected %d number(s), found \"%.20s\"", f->name, f->n, text);
    p = *end == ',' ? end + 1 : end;
  }
  return NULL;
}

static zg_status parse_fields(const field *f, size_t n, size_t bytes, const char *text, zg_arena *a, void **desc) {
  char *d = zg_arena_alloc(a, bytes);
  for (const char *p = text; *p;) {
    while (*p == ' ') p++;
    size_t len = strcspn(p, "= ");
    if (!*p) break;
    size_t i = 0;
    while (i < n && (strlen(f[i].name) != len || strncmp(f[i].name, p, len))) i++;
    if (i == n || p[len] != '=') return zg_error(ZG_INVALID, "unknown kernel attribute \"%.*s\"", (int)len, p);
    ZG_TRY(parse_field(&f[i], p + len + 1, d));
    p += len + strcspn(p + len, " ");
  }
  *desc = d;
  return NULL;
}

#define TEXT(kind, type)                                                                                        \
  static void print_##kind(const void *d, zg_str *out) { print_fields(kind##_fields, ZG_COUNT(kind##_fields), d, out); } \
  static zg_status parse_##kind(const char *t, zg_arena *a, void **d) {                                          \
    return parse_fields(kind##_fields, ZG_COUNT(kind##_fields), sizeof(type), t, a, d);                          \
  }
TEXT(matmul, zg_matmul_desc)
TEXT(conv, zg_conv_desc)
TEXT(pool, zg_pool_desc)
TEXT(gather, zg_gather_desc)
TEXT(scan, zg_scan_desc)
TEXT(sort, zg_sort_desc)
TEXT(attention, zg_attention_desc)
TEXT(recurrent, zg_recurrent_desc)

// ---- argument rules -----------------------------------------------------------------------------------------------

static zg_status n_args(const zg_kernel *k, uint32_t lo, uint32_t hi, uint32_t out) {
  if (k->n_args < lo || k->n_args > hi || k->n_out != out)
    return zg_error(ZG_INVALID, "kernel \"%s\": has %u arguments and %u results, want %u to %u and %u", k->label, k->n_args, k->n_out, lo, hi, out);
  return NULL;
}

static zg_status contiguous_args(const zg_kernel *k) {
  for (uint32_t i = 0; i < k->n_args; i++)
    if (k->args[i].buf && !zg_view_contiguous(&k->args[i]))
      return zg_error(ZG_INVALID, "kernel \"%s\": argument %u must be contiguous", k->label, i);
  return NULL;
}

// Bit i of `images`: argument i may have its channels last.
static zg_status dense_args(const zg_kernel *k, uint32_t images) {
  for (uint32_t i = 0; i < k->n_args; i++)
    if (!zg_view_contiguous(&k->args[i]) && !(images >> i & 1 && zg_view_channels_last(&k->args[i])))
      return zg_error(ZG_INVALID, "kernel \"%s\": argument %u must be contiguous%s", k->label, i, images >> i & 1 ? ", or have its channels last" : "");
  return NULL;
}

static zg_status verify_matmul(const zg_kernel *k) {
  const zg_matmul_desc *d = k->desc;
  ZG_TRY(n_args(k, 3, 4, 1));
  const int64_t want[3][2] = {{d->m, d->n}, {d->m, d->k}, {d->k, d->n}};
  for (uint32_t i = 0; i < 3; i++) {
    const zg_view *v = &k->args[i];
    uint32_t r = v->rank;
    if (r < 2 || r != k->args[0].rank || v->dim[r - 2] != want[i][0] || v->dim[r - 1] != want[i][1])
      return zg_error(ZG_INVALID, "kernel \"%s\": argument %u of matmul must be [.., %" PRId64 ", %" PRId64 "]", k->label, i, want[i][0], want[i][1]);
    for (uint32_t b = 0; b + 2 < r; b++)
      if (v->dim[b] != k->args[0].dim[b]) return zg_error(ZG_INVALID, "kernel \"%s\": batch dims of argument %u differ from the result's", k->label, i);
  }
  if (k->args[1].dtype != k->args[2].dtype) return zg_error(ZG_INVALID, "kernel \"%s\": operands of matmul have two element types", k->label);
  return NULL;
}

static zg_status verify_conv(const zg_kernel *k) {
  const zg_conv_desc *d = k->desc;
  ZG_TRY(n_args(k, 3, 4, 1));
  ZG_TRY(dense_args(k, k->kind == ZG_K_CONV_GRAD_W ? 6 : 3));
  for (uint32_t i = 0; i < 3; i++)
    if ((int64_t)k->args[i].rank != d->spatial + 2)
      return zg_error(ZG_INVALID, "kernel \"%s\": argument %u of a convolution has rank %u, want %" PRId64, k->label, i, k->args[i].rank, d->spatial + 2);
  return NULL;
}

static zg_status verify_pool(const zg_kernel *k) {
  ZG_TRY(n_args(k, 2, 2, 1));
  return dense_args(k, 3);
}
static zg_status verify_pool_grad(const zg_kernel *k) {
  ZG_TRY(n_args(k, 3, 3, 1));
  return dense_args(k, 7);
}
static zg_status verify_gather(const zg_kernel *k) {
  ZG_TRY(n_args(k, 3, 3, 1));
  ZG_TRY(contiguous_args(k));
  zg_dtype idx = k->args[k->kind == ZG_K_GATHER ? 2 : 1].dtype;
  if (!zg_dtype_is_int(idx)) return zg_error(ZG_INVALID, "kernel \"%s\": indices are %s, want integers", k->label, zg_dtype_name(idx));
  return NULL;
}
static zg_status verify_scan(const zg_kernel *k) {
  ZG_TRY(n_args(k, 2, 2, 1));
  return contiguous_args(k);
}
static zg_status verify_sort(const zg_kernel *k) {
  ZG_TRY(n_args(k, 3, 3, 2));
  return contiguous_args(k);
}


static bool is_shape(const zg_view *v, uint32_t rank, const int64_t *dim) {
  bool ok = v->rank == rank;
  for (uint32_t i = 0; i < rank && ok; i++) ok = v->dim[i] == dim[i];
  return ok;
}

// Arguments from `q` on: q, k, v; [y, lse, dy]; [mask].
static zg_status verify_attention_args(const zg_kernel *k, uint32_t at, bool grad) {
  const zg_view *a = k->args, *q = &a[at], *key = &a[at + 1], *v = &a[at + 2];
  bool ok = q->rank == 4 && key->rank == 4 && v->rank == 4 && key->dim[1] > 0 && q->dim[1] % key->dim[1] == 0;
  const int64_t want_k[4] = {q->dim[0], key->dim[1], key->dim[2], q->dim[3]}, want_v[4] = {q->dim[0], key->dim[1], key->dim[2], v->dim[3]};
  const int64_t want_y[4] = {q->dim[0], q->dim[1], q->dim[2], v->dim[3]}, want_m[4] = {q->dim[0], q->dim[1], q->dim[2], key->dim[2]};
  ok = ok && is_shape(key, 4, want_k) && is_shape(v, 4, want_v) && is_shape(&a[grad ? at + 3 : 0], 4, want_y);
  const zg_view *lse = &a[grad ? at + 4 : 1];
  ok = ok && ((!grad && !lse->buf) || is_shape(lse, 3, want_y)) && (!grad || is_shape(&a[at + 5], 4, want_y));
  const zg_view *res[3] = {q, key, v};
  for (uint32_t i = 0; i < 3 && ok && grad; i++) ok = !a[i].buf || is_shape(&a[i], 4, res[i]->dim);
  const uint32_t mask = at + (grad ? 6 : 3);
  ok = ok && (k->n_args <= mask || is_shape(&a[mask], 4, want_m));
  if (!ok) return zg_error(ZG_INVALID, "kernel \"%s\": the shapes of attention's arguments do not fit each other", k->label);
  return NULL;
}
static zg_status verify_attention(const zg_kernel *k) {
  ZG_TRY(n_args(k, 5, 6, 2));
  return verify_attention_args(k, 2, false);
}
static zg_status verify_attention_grad(const zg_kernel *k) {
  ZG_TRY(n_args(k, 9, 10, 3));
  return verify_attention_args(k, 3, true);
}

// Each argument of rank `rank` with these dims; results may be left out.
static zg_status want_args(const zg_kernel *k, const int64_t (*dim)[3], const uint32_t *rank) {
  for (uint32_t i = 0; i < k->n_args; i++)
    if ((k->args[i].buf || i >= k->n_out) && !is_shape(&k->args[i], rank[i], dim[i]))
      return zg_error(ZG_INVALID, "kernel \"%s\": the shape of argument %u does not fit a recurrent layer", k->label, i);
  return contiguous_args(k);
}

static zg_status check_cell(const zg_kernel *k) {
  const zg_recurrent_desc *d = k->desc;
  if (d->cell >= ZG_CELL_TANH && d->cell <= ZG_CELL_GRU) return NULL;
  return zg_error(ZG_INVALID, "kernel \"%s\": cell is %" PRId64 ", want 0 to %d", k->label, d->cell, ZG_CELL_GRU);
}

static zg_status verify_recurrent(const zg_kernel *k) {
  const int64_t cell = ((const zg_recurrent_desc *)k->desc)->cell, G = zg_cell_gates(cell), S = zg_cell_saved(cell);
  ZG_TRY(check_cell(k));
  const uint32_t n = cell == ZG_CELL_LSTM || cell == ZG_CELL_GRU ? 7 : 6;
  ZG_TRY(n_args(k, n, n, 3));
  const int64_t T = k->args[3].dim[0], B = k->args[3].dim[1], H = k->args[4].dim[1], C = cell == ZG_CELL_LSTM ? H : 0;
  if (!k->args[0].buf || (C && !k->args[2].buf))
    return zg_error(ZG_INVALID, "kernel \"%s\": a recurrent layer walks on its states: they must be there", k->label);
  const int64_t dim[7][3] = {{T + 1, B, H}, {T, B, S * H}, {T + 1, B, C}, {T, B, G * H}, {G * H, H}, {B, H}, {C ? B : H, H}};
  return want_args(k, dim, (const uint32_t[]){3, 3, 3, 3, 2, 2, C ? 2 : 1});
}

static zg_status verify_recurrent_grad(const zg_kernel *k) {
  const int64_t cell = ((const zg_recurrent_desc *)k->desc)->cell, G = zg_cell_gates(cell), S = zg_cell_saved(cell);
  ZG_TRY(check_cell(k));
  ZG_TRY(n_args(k, 8, 9, 3));
  const int64_t T = k->args[4].dim[0] - 1, B = k->args[4].dim[1], H = k->args[4].dim[2], C = cell == ZG_CELL_LSTM ? H : 0;
  const int64_t dim[9][3] = {{T, B, G * H}, {B, H}, {B, C}, {T, B, S * H}, {T + 1, B, H}, {T + 1, B, C}, {G * H, H}, {T + 1, B, H}, {T + 1, B, C}};
  return want_args(k, dim, (const uint32_t[]){3, 2, 2, 3, 3, 3, 2, 3, 3});
}

static const zg_kernel_info infos[ZG_N_KERNELS] = {
    [ZG_K_LOOP] = {"loop", zg_loop_print, zg_loop_parse, zg_loop_verify},
    [ZG_K_MATMUL] = {"matmul", print_matmul, parse_matmul, verify_matmul},
    [ZG_K_CONV] = {"conv", print_conv, parse_conv, verify_conv},
    [ZG_K_CONV_GRAD_X] = {"conv_grad_x", print_conv, parse_conv, verify_conv},
    [ZG_K_CONV_GRAD_W] = {"conv_grad_w", print_conv, parse_conv, verify_conv},
    [ZG_K_POOL] = {"pool", print_pool, parse_pool, verify_pool},
    [ZG_K_POOL_GRAD] = {"pool_grad", print_pool, parse_pool, verify_pool_grad},
    [ZG_K_GATHER] = {"gather", print_gather, parse_gather, verify_gather},
    [ZG_K_SCATTER] = {"scatter", print_gather, parse_gather, verify_gather},
    [ZG_K_SCAN] = {"scan", print_scan, parse_scan, verify_scan},
    [ZG_K_SORT] = {"sort", print_sort, parse_sort, verify_sort},
    [ZG_K_ATTENTION] = {"attention", print_attention, parse_attention, verify_attention},
    [ZG_K_RECURRENT] = {"recurrent", print_recurrent, parse_recurrent, verify_recurrent},
    [ZG_K_RECURRENT_GRAD] = {"recurrent_grad", print_recurrent, parse_recurrent, verify_recurrent_grad},
    [ZG_K_ATTENTION_GRAD] = {"attention_grad", print_attention, parse_attention, verify_attention_grad},
};

const zg_kernel_info *zg_kernel_info_of(zg_kernel_kind k) { return &infos[k]; }
