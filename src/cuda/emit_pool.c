// Pooling: a thread per output element, and for the gradient a thread per input element, which visits the
// windows that contain it. No atomics, so sums do not depend on the order of threads.
#include "cuda/spatial.h"
#include "graph/core.h"

enum { THREADS = 256 };

static const char *better(void) { return "(v > best || (v != v && best == best))"; }

// "a.x[..]": where the channel's plane lies in an argument, plus a place.
static void put_at(zg_str *out, const zg_kernel *k, uint32_t arg, const char *name, const char *place) {
  const zg__image i = zg__image_of(&k->args[arg]);
  zg_str at = {0};
  zg_str_add(&at, "a.%s[n * %lldll + channel * %lldll + %s * %lldll]", name, (long long)i.image, (long long)i.channel, place, (long long)i.place);
  zg__put_load(out, k->args[arg].dtype, "%s", at.at);
  zg_str_fini(&at);
}

// Declares `first`, the flat input place of the first of the largest elements of the window at output place p
// (-1: none), and `best`.
static void put_window_max(const zg_kernel *k, const zg_spatial *s, zg_str *out) {
  const zg_dtype t = k->args[1].dtype;
  const char *type = zg__cls_type(zg_cls_of(t));
  zg_str_add(out, "zg_i64 first = -1;\n%s best = 0;\nfor (zg_i64 q = 0; q < %lldll; q++) {\n", type,
             (long long)s->n_ker);
  zg__spatial_put_tap(s, out, "p", "q");
  zg_str_add(out, "if (!inside) continue;\nconst %s v = ", type);
  put_at(out, k, 1, "x", "tap");
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
  const zg__image y = zg__image_of(&k->args[0]);
  zg__spatial_put_element(out, &y, k->args[0].dim[1], s->n_out);
  zg_str_add(out, "const zg_i64 p = place;\n");
  if (d->kind == ZG_POOL_MAX) {
    put_window_max(k, s, out);
    zg_str_add(out, "a.y[e] = ");
    zg__put_store(out, k->args[0].dtype, zg_dtype_is_float(t) ? "first < 0 ? -INFINITY : best" : "best");
    zg_str_add(out, ";\n");
    return;
  }
  zg_str_add(out, "%s sum = 0;\nfor (zg_i64 q = 0; q < %lldll; q++) {\n", type, (long long)s->n_ker);
  zg__spatial_put_tap(s, out, "p", "q");
  zg_str_add(out, "if (inside) sum += ");
  put_at(out, k, 1, "x", "tap");
  zg_str_add(out, ";\n}\n");
  put_count(s, out, d->kind);
  zg_str_add(out, "a.y[e] = ");
  zg__put_store(out, k->args[0].dtype, "sum / (%s)count", type);
  zg_str_add(out, ";\n");
}

static void put_pool_grad(const zg_kernel *k, const zg_spatial *s, zg_str *out) {
  const zg_pool_desc *d = k->desc;
  const char *type = zg__cls_type(zg_cls_of(k->args[0].dtype));
  const zg__image x = zg__image_of(&k->args[0]);
  zg__spatial_put_element(out, &x, k->args[0].dim[1], s->n_in);
  zg_str_add(out, "const zg_i64 t = place;\n%s sum = 0;\n", type);
  zg_str_add(out, "for (zg_i64 r = %lldll; r-- > 0;) {\n",
             (long long)s->n_ker);  // windows in ascending order
  zg__spatial_put_window(s, out, "t", "r");
  zg_str_add(out, "if (!inside) continue;\nconst zg_i64 p = win;\n{\n");
  if (d->kind == ZG_POOL_MAX) put_window_max(k, s, out);
  else put_count(s, out, d->kind);
  zg_str_add(out, d->kind == ZG_POOL_MAX ? "if (first == t) sum += " : "sum += ");
  put_at(out, k, 2, "dy", "win");
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
