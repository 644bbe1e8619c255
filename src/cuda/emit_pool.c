// Pooling: a thread per output element, and for the gradient a thread per input element, which visits the
// windows that contain it. No atomics, so sums do not depend on the order of threads.
#include "cuda/spatial.h"
#include "graph/core.h"

enum { THREADS = 256 };

static const char *better(void) { return "(v > best || (v != v && best == best))"; }

// Declares `first`, the flat input place of the first of the largest elements of the window at output place p
// (-1: none), and `best`.
static void put_window_max(const zg_spatial *s, zg_str *out, zg_dtype t, const char *x) {
  const char *type = zg__cls_type(zg_cls_of(t));
  zg_str_add(out, "zg_i64 first = -1;\n%s best = 0;\nfor (zg_i64 q = 0; q < %lldll; q++) {\n", type,
             (long long)s->n_ker);
  zg__spatial_put_tap(s, out, "p", "q");
  zg_str_add(out, "if (!inside) continue;\nconst %s v = ", type);
  zg__put_load(out, t, "%s[plane * %lldll + tap]", x, (long long)s->n_in);
  zg_str_add(out, ";\nif (first < 0 || %s) { first = tap; best = v; }\n}\n", better());
}

// Declares `count`, the divisor of an average.
static void put_count(const zg_spatial *s, zg_str *out, int64_t kind) {
  zg_str_add(out, "int count = 0;\nfor (zg_i64 q = 0; q < %lldll; q++) {\n", (long long)s->n_ker);
  zg__spatial_put_tap(s, out, "p", "q");
  if (kind == ZG_POOL_AVG_PAD) {
    zg_str_add(out, "count += ");
    for (int d = 0; d < 3; d++)
      zg_str_add(out, "%sx%d >= -%lldll && x%d < %lldll", d ? " && " : "", d, (long long)s->pad[d], d,
                 (long long)(s->in[d] + s->pad_end[d]));
    zg_str_add(out, ";\n(void)inside; (void)tap;\n}\n");
  } else {
    zg_str_add(out, "count += inside;\n(void)tap;\n}\n");
  }
  zg_str_add(out, "if (count < 1) count = 1;\n");
}

static void put_pool(const zg_kernel *k, const zg_spatial *s, zg_str *out) {
  const zg_pool_desc *d = k->desc;
  const zg_dtype t = k->args[1].dtype;
  const char *type = zg__cls_type(zg_cls_of(t));
  zg_str_add(out, "const zg_i64 plane = e / %lldll, p = e %% %lldll;\n", (long long)s->n_out,
             (long long)s->n_out);
  if (d->kind == ZG_POOL_MAX) {
    put_window_max(s, out, t, "a.x");
    zg_str_add(out, "a.y[e] = ");
    zg__put_store(out, k->args[0].dtype, zg_dtype_is_float(t) ? "first < 0 ? -INFINITY : best" : "best");
    zg_str_add(out, ";\n");
    return;
  }
  zg_str_add(out, "%s sum = 0;\nfor (zg_i64 q = 0; q < %lldll; q++) {\n", type, (long long)s->n_ker);
  zg__spatial_put_tap(s, out, "p", "q");
  zg_str_add(out, "if (inside) sum += ");
  zg__put_load(out, t, "a.x[plane * %lldll + tap]", (long long)s->n_in);
  zg_str_add(out, ";\n}\n");
  put_count(s, out, d->kind);
  zg_str_add(out, "a.y[e] = ");
  zg__put_store(out, k->args[0].dtype, "sum / (%s)count", type);
  zg_str_add(out, ";\n");
}

static void put_pool_grad(const zg_kernel *k, const zg_spatial *s, zg_str *out) {
  const zg_pool_desc *d = k->desc;
  const char *type = zg__cls_type(zg_cls_of(k->args[0].dtype));
  zg_str_add(out, "const zg_i64 plane = e / %lldll, t = e %% %lldll;\n%s sum = 0;\n", (long long)s->n_in,
             (long long)s->n_in, type);
  zg_str_add(out, "for (zg_i64 r = %lldll; r-- > 0;) {\n",
             (long long)s->n_ker);  // windows in ascending order
  zg__spatial_put_window(s, out, "t", "r");
  zg_str_add(out, "if (!inside) continue;\nconst zg_i64 p = win;\n{\n");
  if (d->kind == ZG_POOL_MAX) put_window_max(s, out, k->args[1].dtype, "a.x");
  else put_count(s, out, d->kind);
  zg_str_add(out, d->kind == ZG_POOL_MAX ? "if (first == t) sum += " : "sum += ");
  zg__put_load(out, k->args[2].dtype, "a.dy[plane * %lldll + win]", (long long)s->n_out);
  zg_str_add(out, d->kind == ZG_POOL_MAX ? ";\n}\n}\n" : " / (%s)count;\n}\n}\n", type);
  zg_str_add(out, "a.y[e] = ");
  zg__put_store(out, k->args[0].dtype, "sum");
  zg_str_add(out, ";\n");
}

zg_status zg__emit_pool(const zg_kernel *k, zg__code *out) {
  const zg_pool_desc *d = k->desc;
  const bool grad = k->kind == ZG_K_POOL_GRAD;
  const zg_view *x = &k->args[1], *y = &k->args[grad ? 2 : 0];
  const zg_spatial s = zg_spatial_make(d->spatial, x->dim + 2, y->dim + 2, d->kernel, d->stride,
                                         d->pad_begin, d->pad_end, d->dilation);
  const int64_t n = zg_view_elems(&k->args[0]);
  zg__draft f = {0};
  zg__draft_arg(&f, k, 0, false, "y");
  if (!grad || d->kind == ZG_POOL_MAX) zg__draft_arg(&f, k, 1, true, "x");
  if (grad) zg__draft_arg(&f, k, 2, true, "dy");
  zg_str_add(&f.body,
             "{\nconst zg_i64 e = (zg_i64)blockIdx.x * %d + threadIdx.x;\nif (e >= %lldll) return;\n",
             THREADS, (long long)n);
  if (grad) put_pool_grad(k, &s, &f.body);
  else put_pool(k, &s, &f.body);
  zg_str_add(&f.body, "}");
  return zg_status_prefix(zg__draft_launch(&f, out, ((uint64_t)n + THREADS - 1) / THREADS, 1, THREADS, 0),
                          "%s: ", k->label);
}
