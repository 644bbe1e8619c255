// Attention, any element type, head size, strides and mask: a warp per query row (forward, dq) or per key row
// (dk, dv). Keys are taken 32 at a time, a lane each; scores live in registers only, with running maximum and
// sum (FlashAttention-2, Dao 2023, algorithms 1 and 2). No atomics: every result element belongs to one
// thread.
#include <stdio.h>

#include "cuda/emit.h"

enum { WARPS = 4, THREADS = 32 * WARPS };

typedef struct {
  const zg_kernel *k;
  const zg_attention_desc *d;
  uint32_t iq, imask;              // argument numbers; imask 0: no mask
  int64_t b, h, kh, t, s, de, ev;  // de, ev: head sizes of q and v
  zg_cls cls;
  const char *type;
} attention;

static attention attention_of(const zg_kernel *k) {
  const bool grad = k->kind == ZG_K_ATTENTION_GRAD;
  attention a = {.k = k, .d = k->desc, .iq = k->n_out};
  const uint32_t mask = k->n_out + (grad ? 6 : 3);
  if (k->n_args > mask && k->args[mask].buf) a.imask = mask;
  const zg_view *q = &k->args[a.iq], *key = q + 1, *v = q + 2;
  a.b = q->dim[0], a.h = q->dim[1], a.t = q->dim[2], a.de = q->dim[3];
  a.kh = key->dim[1], a.s = key->dim[2], a.ev = v->dim[3];
  a.cls = zg_cls_of(q->dtype);
  a.type = zg__cls_type(a.cls);
  return a;
}

// "b * 1 + h * 2 + i * 3 + d * 4" of a view whose first dims are named by the letters.
static void put_at(zg_str *out, const zg_view *v, const char *const *names) {
  bool any = false;
  for (uint32_t r = 0; r < v->rank; r++) {
    if (!v->stride[r] || v->dim[r] == 1) continue;
    zg_str_add(out, "%s(zg_i64)(%s) * (%lldll)", any ? " + " : "", names[r], (long long)v->stride[r]);
    any = true;
  }
  if (!any) zg_str_add(out, "0");
}

// Loads element (b, h, i, d) of an argument, in its class brought to the kernel's.
static void put_get(const attention *a, zg_str *out, uint32_t arg, const char *h, const char *i,
                    const char *d) {
  const char *const names[4] = {"b", h, i, d};
  zg_str at = {0};
  put_at(&at, &a->k->args[arg], names);
  zg_str_add(out, "(%s)", a->type);
  zg__put_load(out, a->k->args[arg].dtype, "a.p%u[%s]", arg, at.at);
  zg_str_fini(&at);
}

static void put_set(const attention *a, zg_str *out, uint32_t arg, const char *h, const char *i,
                    const char *d, const char *value) {
  const char *const names[4] = {"b", h, i, d};
  zg_str_add(out, "a.p%u[", arg);
  put_at(out, &a->k->args[arg], names);
  zg_str_add(out, "] = ");
  const zg_dtype t = a->k->args[arg].dtype;
  zg__put_store(out, t,
                zg_cls_of(t) == a->cls       ? "%s"
                : zg_cls_of(t) == ZG_CLS_F64 ? "(double)(%s)"
                                             : "(float)(%s)",
                value);
  zg_str_add(out, ";\n");
}

// `x` += sum over d < n of row[w][d] * element (b, h, i, d) of arg.
static void put_dot(const attention *a, zg_str *out, const char *x, const char *row, uint32_t arg,
                    const char *h, const char *i, int64_t n) {
  zg_str_add(out, "for (int d = 0; d < %lld; d++) %s += %s[w][d] * ", (long long)n, x, row);
  put_get(a, out, arg, h, i, "d");
  zg_str_add(out, ";\n");
}

// Turns x, the product of query i and key j, into their score; -INFINITY where the mask forbids it.
static void put_score(const attention *a, zg_str *out) {
  zg_str_add(out, "x *= ");
  zg__put_const(out, a->cls, a->d->scale);
  zg_str_add(out, ";\n");
  if (!a->imask) return;
  if (a->k->args[a->imask].dtype == ZG_BOOL) {
    zg_str_add(out, "if (!");
    put_get(a, out, a->imask, "h", "i", "j");
    zg_str_add(out, ") x = -INFINITY;\n");
  } else {
    zg_str_add(out, "x += ");
    put_get(a, out, a->imask, "h", "i", "j");
    zg_str_add(out, ";\n");
  }
}

static void put_stage(const attention *a, zg_str *out, const char *row, uint32_t arg, const char *h,
                      const char *i, int64_t n) {
  zg_str_add(out, "for (int d = lane; d < %lld; d += 32) %s[w][d] = ", (long long)n, row);
  put_get(a, out, arg, h, i, "d");
  zg_str_add(out, ";\n");
}

// Accumulators NAME[u] of the elements lane + 32 u.
static void put_zero(const attention *a, zg_str *out, const char *name, int64_t n) {
  zg_str_add(out, "%s %s[%lld];\nZG_UNROLL for (int u = 0; u < %lld; u++) %s[u] = 0;\n", a->type, name,
             (long long)(n + 31) / 32, (long long)(n + 31) / 32, name);
}

static void put_add(const attention *a, zg_str *out, const char *name, const char *weight, uint32_t arg,
                    const char *h, const char *i, int64_t n) {
  zg_str_add(
      out,
      "ZG_UNROLL for (int u = 0; u < %lld; u++) { const int d = lane + 32 * u; if (d < %lld) %s[u] += %s * ",
      (long long)(n + 31) / 32, (long long)n, name, weight);
  put_get(a, out, arg, h, i, "d");
  zg_str_add(out, "; }\n");
}

static void put_result(const attention *a, zg_str *out, uint32_t arg, const char *h, const char *i,
                       const char *value, int64_t n) {
  zg_str_add(out, "ZG_UNROLL for (int u = 0; u < %lld; u++) { const int d = lane + 32 * u; if (d < %lld) ",
             (long long)(n + 31) / 32, (long long)n);
  put_set(a, out, arg, h, i, "d", value);
  zg_str_add(out, "}\n");
}

// b, head and row of this warp: `heads` heads of `rows` rows; head variable `h`, row variable `i`.
static void put_place(zg_str *out, int64_t b, int64_t heads, int64_t rows, const char *h, const char *i) {
  zg_str_add(out,
             "const int lane = threadIdx.x %% 32, w = threadIdx.x / 32;\nzg_i64 place = (zg_i64)blockIdx.x * "
             "%d + w;\n",
             WARPS);
  zg_str_add(out, "const int live = place < %lldll;\nif (!live) place = 0;\n", (long long)(b * heads * rows));
  zg_str_add(out, "const zg_i64 b = place / %lldll, %s = place / %lldll %% %lldll, %s = place %% %lldll;\n",
             (long long)(heads * rows), h, (long long)rows, (long long)heads, i, (long long)rows);
}

static void add_args(const attention *a, zg__draft *d, uint32_t out_from, uint32_t out_to) {
  for (uint32_t i = 0; i < a->k->n_args; i++) {
    char name[16];
    snprintf(name, sizeof name, "p%u", i);
    const bool is_out = i < a->k->n_out;
    if (!a->k->args[i].buf || (is_out && (i < out_from || i >= out_to))) continue;
    zg__draft_arg(d, a->k, i, !is_out, name);
  }
}

// Keys that query i sees: `end`.
static void put_end(const attention *a, zg_str *out) {
  zg_str_add(out, "const zg_i64 g = h / %lldll;\nzg_i64 end = live ? %lldll : 0;\n",
             (long long)(a->h / a->kh), (long long)a->s);
  if (a->d->causal)
    zg_str_add(out, "if (end > i + %lldll + 1) end = i + (%lldll) + 1;\n", (long long)a->d->offset,
               (long long)a->d->offset);
}

static zg_status launch(const attention *a, zg__draft *d, zg__code *out, int64_t rows) {
  return zg_status_prefix(zg__draft_launch(d, out, ((uint64_t)rows + WARPS - 1) / WARPS, 1, THREADS, 0),
                          "%s: ", a->k->label);
}

static zg_status emit_forward(const attention *a, zg__code *out) {
  const char c = zg__cls_letter(a->cls), *f = a->cls == ZG_CLS_F32 ? "f" : "";
  zg__draft d = {0};
  zg_str *o = &d.body;
  add_args(a, &d, 0, 2);
  zg_str_add(o, "{\nZG_SHARED %s sq[%d][%lld];\n", a->type, WARPS, (long long)ZG_MAX(a->de, 1));
  put_place(o, a->b, a->h, a->t, "h", "i");
  put_end(a, o);
  put_stage(a, o, "sq", a->iq, "h", "i", a->de);
  put_zero(a, o, "y", a->ev);
  zg_str_add(o,
             "zg_syncwarp();\n%s most = -INFINITY, sum = 0;\nfor (zg_i64 j0 = 0; j0 < end; j0 += 32) "
             "{\nconst zg_i64 j = j0 + lane;\n%s x = 0;\n",
             a->type, a->type);
  zg_str_add(o, "if (j < end) {\n");
  put_dot(a, o, "x", "sq", a->iq + 1, "g", "j", a->de);
  put_score(a, o);
  zg_str_add(o,
             "} else x = -INFINITY;\nconst %s top = zg_rmax_%c(most, zg_wmax_%c(x, 32));\nif (top == "
             "-INFINITY) continue;\n",
             a->type, c, c);
  zg_str_add(o,
             "const %s keep = exp%s(most - top), p = exp%s(x - top);\nsum = sum * keep + zg_wsum_%c(p, "
             "32);\nmost = top;\n",
             a->type, f, f, c);
  zg_str_add(o, "ZG_UNROLL for (int u = 0; u < %lld; u++) y[u] *= keep;\n", (long long)(a->ev + 31) / 32);
  zg_str_add(o, "for (int n = 0; n < 32 && j0 + n < end; n++) {\nconst %s wn = zg_shfl_%c(p, n);\n", a->type,
             c);
  put_add(a, o, "y", "wn", a->iq + 2, "g", "j0 + n", a->ev);
  zg_str_add(o, "}\n}\nif (!live) return;\n");
  put_result(a, o, 0, "h", "i", "sum > 0 ? y[u] / sum : 0", a->ev);
  if (a->k->args[1].buf) {
    char lse[64];
    snprintf(lse, sizeof lse, "sum > 0 ? most + log%s(sum) : INFINITY", f);
    zg_str_add(o, "if (lane == 0) ");
    put_set(a, o, 1, "h", "i", "", lse);
  }
  zg_str_add(o, "}");
  return launch(a, &d, out, a->b * a->h * a->t);
}

// After x: the weight p and, in ds, the gradient of the product of query i and key j; rows[w] holds the one
// side, arguments the other.
static void put_weights(const attention *a, zg_str *out, const char *f) {
  zg_str_add(out, "p = exp%s(x - lse);\nds = p * (dp - delta) * ", f);
  zg__put_const(out, a->cls, a->d->scale);
  zg_str_add(out, ";\n");
}

static zg_status emit_dq(const attention *a, zg__code *out) {
  const char c = zg__cls_letter(a->cls), *f = a->cls == ZG_CLS_F32 ? "f" : "";
  zg__draft d = {0};
  zg_str *o = &d.body;
  add_args(a, &d, 0, 1);
  zg_str_add(o, "{\nZG_SHARED %s sq[%d][%lld];\nZG_SHARED %s sy[%d][%lld];\n", a->type, WARPS,
             (long long)ZG_MAX(a->de, 1), a->type, WARPS, (long long)ZG_MAX(a->ev, 1));
  put_place(o, a->b, a->h, a->t, "h", "i");
  put_end(a, o);
  put_stage(a, o, "sq", a->iq, "h", "i", a->de);
  put_stage(a, o, "sy", a->iq + 5, "h", "i", a->ev);
  put_zero(a, o, "dq", a->de);
  zg_str_add(o, "zg_syncwarp();\n%s delta = 0;\nfor (int d = lane; d < %lld; d += 32) delta += sy[w][d] * ",
             a->type, (long long)a->ev);
  put_get(a, o, a->iq + 3, "h", "i", "d");
  zg_str_add(o, ";\ndelta = zg_wsum_%c(delta, 32);\nconst %s lse = ", c, a->type);
  put_get(a, o, a->iq + 4, "h", "i", "");
  zg_str_add(o,
             ";\nfor (zg_i64 j0 = 0; j0 < end; j0 += 32) {\nconst zg_i64 j = j0 + lane;\n%s x = 0, dp = 0, p "
             "= 0, ds = 0;\nif (j < end) {\n",
             a->type);
  put_dot(a, o, "x", "sq", a->iq + 1, "g", "j", a->de);
  put_score(a, o);
  put_dot(a, o, "dp", "sy", a->iq + 2, "g", "j", a->ev);
  put_weights(a, o, f);
  zg_str_add(o, "}\nfor (int n = 0; n < 32 && j0 + n < end; n++) {\nconst %s wn = zg_shfl_%c(ds, n);\n",
             a->type, c);
  put_add(a, o, "dq", "wn", a->iq + 1, "g", "j0 + n", a->de);
  zg_str_add(o, "}\n}\nif (!live) return;\n");
  put_result(a, o, 0, "h", "i", "dq[u]", a->de);
  zg_str_add(o, "}");
  return launch(a, &d, out, a->b * a->h * a->t);
}

static zg_status emit_dkv(const attention *a, zg__code *out) {
  const char c = zg__cls_letter(a->cls), *f = a->cls == ZG_CLS_F32 ? "f" : "";
  const bool want_k = a->k->args[1].buf, want_v = a->k->args[2].buf;
  zg__draft d = {0};
  zg_str *o = &d.body;
  add_args(a, &d, 1, 3);
  zg_str_add(o, "{\nZG_SHARED %s sk[%d][%lld];\nZG_SHARED %s sv[%d][%lld];\n", a->type, WARPS,
             (long long)ZG_MAX(a->de, 1), a->type, WARPS, (long long)ZG_MAX(a->ev, 1));
  put_place(o, a->b, a->kh, a->s, "g", "j");
  put_stage(a, o, "sk", a->iq + 1, "g", "j", a->de);
  put_stage(a, o, "sv", a->iq + 2, "g", "j", a->ev);
  if (want_k) put_zero(a, o, "dk", a->de);
  if (want_v) put_zero(a, o, "dv", a->ev);
  zg_str_add(o, "zg_syncwarp();\nzg_i64 begin = 0;\n");
  if (a->d->causal)
    zg_str_add(o, "if (j - (%lldll) > 0) begin = j - (%lldll);\n", (long long)a->d->offset,
               (long long)a->d->offset);
  zg_str_add(o, "if (!live) begin = %lldll;\n", (long long)a->t);
  zg_str_add(o, "for (zg_i64 h = g * %lldll; h < (g + 1) * %lldll; h++) {\n", (long long)(a->h / a->kh),
             (long long)(a->h / a->kh));
  zg_str_add(o,
             "for (zg_i64 i0 = begin; i0 < %lldll; i0 += 32) {\nconst zg_i64 i = i0 + lane;\n%s x = 0, dp = "
             "0, delta = 0, p = 0, ds = 0;\nif (i < %lldll) {\n",
             (long long)a->t, a->type, (long long)a->t);
  put_dot(a, o, "x", "sk", a->iq, "h", "i", a->de);
  put_score(a, o);
  put_dot(a, o, "dp", "sv", a->iq + 5, "h", "i", a->ev);
  zg_str_add(o, "for (int d = 0; d < %lld; d++) delta += ", (long long)a->ev);
  put_get(a, o, a->iq + 3, "h", "i", "d");
  zg_str_add(o, " * ");
  put_get(a, o, a->iq + 5, "h", "i", "d");
  zg_str_add(o, ";\nconst %s lse = ", a->type);
  put_get(a, o, a->iq + 4, "h", "i", "");
  zg_str_add(o, ";\n");
  put_weights(a, o, f);
  zg_str_add(o, "}\nfor (int n = 0; n < 32 && i0 + n < %lldll; n++) {\n", (long long)a->t);
  if (want_v) {
    zg_str_add(o, "const %s pn = zg_shfl_%c(p, n);\n", a->type, c);
    put_add(a, o, "dv", "pn", a->iq + 5, "h", "i0 + n", a->ev);
  }
  if (want_k) {
    zg_str_add(o, "const %s sn = zg_shfl_%c(ds, n);\n", a->type, c);
    put_add(a, o, "dk", "sn", a->iq, "h", "i0 + n", a->de);
  }
  zg_str_add(o, "}\n}\n}\nif (!live) return;\n");
  if (want_k) put_result(a, o, 1, "g", "j", "dk[u]", a->de);
  if (want_v) put_result(a, o, 2, "g", "j", "dv[u]", a->ev);
  zg_str_add(o, "}");
  return launch(a, &d, out, a->b * a->kh * a->s);
}

zg_status zg__emit_attention(const zg_kernel *k, zg__code *out) {
  if (zg__flash_takes(k)) return zg__emit_flash(k, out);
  const attention a = attention_of(k);
  if (k->kind == ZG_K_ATTENTION) return emit_forward(&a, out);
  if (k->args[0].buf) ZG_TRY(emit_dq(&a, out));
  return k->args[1].buf || k->args[2].buf ? emit_dkv(&a, out) : NULL;
}
