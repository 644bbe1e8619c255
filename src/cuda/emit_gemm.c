// Matrix products in own kernels: matmuls that cuBLASLt does not take (integers, odd strides), and f64
// convolution with its two gradients as implicit products: operand elements are fetched straight from the
// tensors while a tile is loaded (im2col without its matrix: Chetlur et al. 2014, "cuDNN", section 3). Other
// types of convolution are emit_conv.c's.
//
// A block of 256 threads computes a 64 x 64 tile in steps of 16 along k, each thread 4 x 4 elements, in the
// computing class. Where tiles are too few to fill the device, k is cut in chunks: partial tiles go to the
// workspace, a second launch adds them in order.
#include <stdio.h>

#include "cuda/emit_conv.h"

enum { TILE = 64, STEP = 16, THREADS = 256, MAX_SPLITS = 64 };

typedef struct gemm gemm;
struct gemm {
  const zg_kernel *k;
  int64_t m, n, len, batch;  // len: of the sum
  zg_dtype dtype;            // of the result
  zg_cls cls;
  void (*put_a)(const gemm *g, zg_str *out);  // statement that sets v to A[m, k] of batch b
  void (*put_b)(const gemm *g, zg_str *out);  // ... B[k, n]
  void (*put_store)(const gemm *g,
                    zg_str *out);  // statement that stores x as the result at [m, n] of batch b
  bool a_along_k, b_along_k;       // neighbouring k are neighbours in memory: how threads share the loads
  zg__conv c;
};

static void put_tile_load(const gemm *g, zg_str *out, bool is_a) {
  const bool along = is_a ? g->a_along_k : g->b_along_k;
  const char *row = is_a ? "m" : "n", *type = zg__cls_type(g->cls);
  zg_str_add(out, "ZG_UNROLL for (int s = 0; s < %d; s++) {\nconst int at = (int)threadIdx.x + s * %d;\n",
             TILE * STEP / THREADS, THREADS);
  if (along) zg_str_add(out, "const int kk = at %% %d, rr = at / %d;\n", STEP, STEP);
  else zg_str_add(out, "const int kk = at / %d, rr = at %% %d;\n", TILE, TILE);
  zg_str_add(out, "const zg_i64 %s = %s0 + rr, k = k0 + kk;\n%s v = 0;\nif (%s < %lldll && k < k1) {\n", row,
             row, type, row, (long long)(is_a ? g->m : g->n));
  if (is_a) g->put_a(g, out);
  else g->put_b(g, out);
  zg_str_add(out, "}\ns%c[kk][rr] = v;\n}\n", is_a ? 'a' : 'b');
}

static void put_fma(const gemm *g, zg_str *out) {
  const char *type = zg__cls_type(g->cls);
  zg_str_add(out, "ZG_UNROLL for (int kk = 0; kk < %d; kk++) {\n%s x[4], y[4];\n", STEP, type);
  zg_str_add(
      out,
      "ZG_UNROLL for (int i = 0; i < 4; i++) { x[i] = sa[kk][ty + 16 * i]; y[i] = sb[kk][tx + 16 * i]; }\n");
  zg_str_add(out, "ZG_UNROLL for (int i = 0; i < 4; i++) { ZG_UNROLL for (int j = 0; j < 4; j++) %s; }\n}\n",
             g->cls == ZG_CLS_INT ? "acc[i][j] = zg_add_i(acc[i][j], zg_mul_i(x[i], y[j]))"
                                  : "acc[i][j] += x[i] * y[j]");
}

static void add_args(const gemm *g, zg__draft *d) {
  for (uint32_t i = 0; i < g->k->n_args; i++) {
    char name[16];
    snprintf(name, sizeof name, "p%u", i);
    zg__draft_arg(d, g->k, i, i >= g->k->n_out, name);
  }
}

static zg_status emit_tiles(const gemm *g, uint32_t splits, zg__code *out) {
  const uint64_t mt = (uint64_t)(g->m + TILE - 1) / TILE, nt = (uint64_t)(g->n + TILE - 1) / TILE;
  const int64_t chunk = (int64_t)zg_round_up((uint64_t)((g->len + splits - 1) / splits), STEP);
  const char *type = zg__cls_type(g->cls);
  zg__draft d = {0};
  zg_str *o = &d.body;
  add_args(g, &d);
  if (splits > 1) zg__draft_param(&d, type, "w", (zg__param){.kind = ZG__P_WORK});
  zg_str_add(o, "{\nZG_SHARED %s sa[%d][%d];\nZG_SHARED %s sb[%d][%d];\n", type, STEP, TILE + 1, type, STEP,
             TILE + 1);
  zg_str_add(o, "const int tx = threadIdx.x %% 16, ty = threadIdx.x / 16;\n");
  zg_str_add(o,
             "const zg_i64 m0 = (zg_i64)(blockIdx.x %% %lluu) * %d, n0 = (zg_i64)(blockIdx.x / %lluu %% "
             "%lluu) * %d, b = blockIdx.x / %lluu;\n",
             (unsigned long long)mt, TILE, (unsigned long long)mt, (unsigned long long)nt, TILE,
             (unsigned long long)(mt * nt));
  zg_str_add(o, "zg_i64 k0 = (zg_i64)blockIdx.y * %lldll, k1 = k0 + %lldll;\nif (k1 > %lldll) k1 = %lldll;\n",
             (long long)chunk, (long long)chunk, (long long)g->len, (long long)g->len);
  zg_str_add(o,
             "%s acc[4][4];\nZG_UNROLL for (int i = 0; i < 4; i++) { ZG_UNROLL for (int j = 0; j < 4; j++) "
             "acc[i][j] = 0; }\n",
             type);
  zg_str_add(o, "for (; k0 < k1; k0 += %d) {\n", STEP);
  put_tile_load(g, o, true);
  put_tile_load(g, o, false);
  zg_str_add(o, "zg_sync();\n");
  put_fma(g, o);
  zg_str_add(o, "zg_sync();\n}\n");
  zg_str_add(o,
             "ZG_UNROLL for (int i = 0; i < 4; i++) { ZG_UNROLL for (int j = 0; j < 4; j++) {\n"
             "const zg_i64 m = m0 + ty + 16 * i, n = n0 + tx + 16 * j;\nif (m < %lldll && n < %lldll) "
             "{\nconst %s x = acc[i][j];\n",
             (long long)g->m, (long long)g->n, type);
  if (splits > 1)
    zg_str_add(o, "a.w[((zg_i64)blockIdx.y * %lldll + b * %lldll + m) * %lldll + n] = x;\n",
               (long long)(g->batch * g->m), (long long)g->m, (long long)g->n);
  else g->put_store(g, o);
  zg_str_add(o, "}\n} }\n(void)b;\n}");
  return zg__draft_launch(&d, out, mt * nt * (uint64_t)g->batch, splits, THREADS, 0);
}

static zg_status emit_add(const gemm *g, uint32_t splits, zg__code *out) {
  const uint64_t total = (uint64_t)(g->batch * g->m * g->n);
  const char *type = zg__cls_type(g->cls);
  zg__draft d = {0};
  add_args(g, &d);
  zg__draft_param(&d, type, "w", (zg__param){.kind = ZG__P_WORK});
  zg_str_add(&d.body,
             "{\nconst zg_i64 e = (zg_i64)blockIdx.x * %d + threadIdx.x;\nif (e >= %llull) return;\n",
             THREADS, (unsigned long long)total);
  zg_str_add(&d.body, "const zg_i64 n = e %% %lldll, m = e / %lldll %% %lldll, b = e / %lldll;\n",
             (long long)g->n, (long long)g->n, (long long)g->m, (long long)(g->m * g->n));
  zg_str_add(&d.body, "%s x = 0;\nfor (int c = 0; c < %u; c++) x = zg_rsum_%c(x, a.w[c * %lluull + e]);\n",
             type, splits, zg__cls_letter(g->cls), (unsigned long long)total);
  g->put_store(g, &d.body);
  zg_str_add(&d.body, "(void)b;\n}");
  return zg__draft_launch(&d, out, (total + THREADS - 1) / THREADS, 1, THREADS, 0);
}

static zg_status emit_gemm(const gemm *g, const zg__target *t, zg__code *out) {
  if (g->batch * g->m * g->n == 0) return NULL;
  const int64_t tiles = ((g->m + TILE - 1) / TILE) * ((g->n + TILE - 1) / TILE) * g->batch;
  const int64_t want = tiles < t->sms ? 2 * t->sms / tiles : 1, useful = ZG_MAX(g->len / (8 * STEP), 1);
  const uint32_t splits = (uint32_t)ZG_MAX(ZG_MIN(ZG_MIN(want, useful), MAX_SPLITS), 1);
  if (splits > 1)
    out->workspace = (uint64_t)splits * (uint64_t)(g->batch * g->m * g->n) * (g->cls == ZG_CLS_F32 ? 4 : 8);
  ZG_TRY(emit_tiles(g, splits, out));
  return splits > 1 ? emit_add(g, splits, out) : NULL;
}

// ---- matmul
// ---------------------------------------------------------------------------------------------------------------
static void put_place(const gemm *g, zg_str *out, uint32_t arg, const char *row, const char *col) {
  const zg_view *v = &g->k->args[arg], *c = &g->k->args[0];
  int64_t block = 1;
  zg_str_add(out, "%s * (%lldll) + %s * (%lldll)", row, (long long)v->stride[v->rank - 2], col,
             (long long)v->stride[v->rank - 1]);
  for (uint32_t r = c->rank - 2; r-- > 0; block *= c->dim[r])
    if (v->stride[r] && c->dim[r] > 1)
      zg_str_add(out, " + b / %lldll %% %lldll * (%lldll)", (long long)block, (long long)c->dim[r],
                 (long long)v->stride[r]);
}

static void put_matmul_load(const gemm *g, zg_str *out, uint32_t arg, const char *row, const char *col) {
  zg_str at = {0};
  put_place(g, &at, arg, row, col);
  zg_str_add(out, "v = ");
  zg__put_load(out, g->k->args[arg].dtype, "a.p%u[%s]", arg, at.at);
  zg_str_add(out, ";\n");
  zg_str_fini(&at);
}

static void matmul_a(const gemm *g, zg_str *out) { put_matmul_load(g, out, 1, "m", "k"); }
static void matmul_b(const gemm *g, zg_str *out) { put_matmul_load(g, out, 2, "k", "n"); }

static void matmul_store(const gemm *g, zg_str *out) {
  static const zg_scalar epilogues[] = {ZG_S_NONE, ZG_S_NONE, ZG_S_GELU, ZG_S_GELU_TANH, ZG_S_RELU};
  const zg_matmul_desc *d = g->k->desc;
  const zg_scalar op = epilogues[d->epilogue];
  const char *type = zg__cls_type(g->cls), *const operand[3] = {"z", "", ""};
  zg_str at = {0};
  put_place(g, &at, 0, "m", "n");
  zg_str_add(out, "%s z = x;\n", type);
  if (g->cls != ZG_CLS_INT) {  // integers have neither scale nor epilogue
    if (d->alpha != 1) {
      zg_str_add(out, "z = z * ");
      zg__put_const(out, g->cls, d->alpha);
      zg_str_add(out, ";\n");
    }
    if (d->beta != 0) {
      zg_str_add(out, "z = z + ");
      zg__put_const(out, g->cls, d->beta);
      zg_str_add(out, " * ");
      zg__put_load(out, g->dtype, "a.p0[%s]", at.at);
      zg_str_add(out, ";\n");
    }
    if (g->k->n_args > 3) {
      const zg_view *bias = &g->k->args[3];
      zg_str_add(out, "z = z + (%s)", type);
      zg__put_load(out, bias->dtype, "a.p3[n * (%lldll)]", (long long)bias->stride[bias->rank - 1]);
      zg_str_add(out, ";\n");
    }
    if (op != ZG_S_NONE) {
      zg_str_add(out, "z = ");
      zg__put_map(out, op, g->cls, g->cls, operand);
      zg_str_add(out, ";\n");
    }
  }
  zg_str_add(out, "a.p0[%s] = ", at.at);
  zg__put_store(out, g->dtype, "z");
  zg_str_add(out, ";\n");
  zg_str_fini(&at);
}

zg_status zg__emit_matmul(const zg_kernel *k, const zg__target *t, zg__code *out) {
  const zg_matmul_desc *d = k->desc;
  const zg_view *a = &k->args[1], *b = &k->args[2], *c = &k->args[0];
  gemm g = {.k = k,
            .m = d->m,
            .n = d->n,
            .len = d->k,
            .batch = 1,
            .dtype = c->dtype,
            .cls = zg_cls_of(c->dtype),
            .put_a = matmul_a,
            .put_b = matmul_b,
            .put_store = matmul_store,
            .a_along_k = a->stride[a->rank - 1] == 1,
            .b_along_k = b->stride[b->rank - 2] == 1};
  for (uint32_t r = 0; r + 2 < c->rank; r++) g.batch *= c->dim[r];
  return zg_status_prefix(emit_gemm(&g, t, out), "%s: ", k->label);
}

// ---- convolution
// ------------------------------------------------------------------------------------------------------------
static void put_element(const gemm *g, zg_str *out, uint32_t arg, const char *at) {
  zg_str_add(out, "v = ");
  zg__put_load(out, g->k->args[arg].dtype, "a.p%u[%s]", arg, at);
  zg_str_add(out, ";\n");
}

// "(img * 1 + (b * 2 + c) * 3 + p * 4)": an element of an image, `per` channels a group.
static void put_image(zg_str *out, const zg__image *i, const char *img, int64_t per, const char *c, const char *p) {
  zg_str_add(out, "%s * %lldll + (b * %lldll + %s) * %lldll + %s * %lldll", img, (long long)i->image, (long long)per, c, (long long)i->channel, p,
             (long long)i->place);
}
static void put_image_element(const gemm *g, zg_str *out, uint32_t arg, const zg__image *i, const char *img, int64_t per, const char *c,
                              const char *p) {
  zg_str at = {0};
  put_image(&at, i, img, per, c, p);
  put_element(g, out, arg, at.at);
  zg_str_fini(&at);
}

// y[o, (img, p)] = sum over (c, q) of w[o, (c, q)] x[(c, q), (img, p)]
static void conv_a(const gemm *g, zg_str *out) {
  char at[96];
  snprintf(at, sizeof at, "(b * %lldll + m) * %lldll + k", (long long)g->c.og, (long long)g->len);
  put_element(g, out, 2, at);
}

static void conv_b(const gemm *g, zg_str *out) {
  const zg_spatial *s = &g->c.s;
  zg_str_add(out, "const zg_i64 img = n / %lldll, p = n %% %lldll, c = k / %lldll, q = k %% %lldll;\n", (long long)s->n_out, (long long)s->n_out,
             (long long)s->n_ker, (long long)s->n_ker);
  zg__spatial_put_tap(s, out, "p", "q");
  zg_str_add(out, "if (inside) ");
  put_image_element(g, out, 1, &g->c.x, "img", g->c.cg, "c", "tap");
}

static void put_result(const gemm *g, zg_str *out, const char *at) {
  zg_str_add(out, "a.p0[%s] = ", at);
  zg__put_store(out, g->dtype, "z");
  zg_str_add(out, ";\n");
}
static void put_image_result(const gemm *g, zg_str *out, const zg__image *i, int64_t places, int64_t per) {
  zg_str at = {0};
  zg_str_add(out, "const zg_i64 img = n / %lldll, p = n %% %lldll;\n", (long long)places, (long long)places);
  put_image(&at, i, "img", per, "m", "p");
  put_result(g, out, at.at);
  zg_str_fini(&at);
}

static void conv_store(const gemm *g, zg_str *out) {
  zg_str_add(out, "%s z = x;\n", zg__cls_type(g->cls));
  if (g->k->n_args > 3) {
    zg_str_add(out, "z = z + ");
    zg__put_load(out, g->k->args[3].dtype, "a.p3[b * %lldll + m]", (long long)g->c.og);
    zg_str_add(out, ";\n");
  }
  put_image_result(g, out, &g->c.y, g->c.s.n_out, g->c.og);
}

// dx[c, (img, t)] = sum over (o, q) of w[(o, q), c] dy[(o, q), (img, t)]
static void grad_x_a(const gemm *g, zg_str *out) {
  const long long n_ker = g->c.s.n_ker;
  char at[160];
  snprintf(at, sizeof at, "((b * %lldll + k / %lldll) * %lldll + m) * %lldll + k %% %lldll", (long long)g->c.og, n_ker, (long long)g->c.cg, n_ker,
           n_ker);
  put_element(g, out, 2, at);
}

static void grad_x_b(const gemm *g, zg_str *out) {
  const zg_spatial *s = &g->c.s;
  zg_str_add(out, "const zg_i64 img = n / %lldll, t = n %% %lldll, o = k / %lldll, q = k %% %lldll;\n", (long long)s->n_in, (long long)s->n_in,
             (long long)s->n_ker, (long long)s->n_ker);
  zg__spatial_put_window(s, out, "t", "q");
  zg_str_add(out, "if (inside) ");
  put_image_element(g, out, 1, &g->c.y, "img", g->c.og, "o", "win");
}

static void grad_x_store(const gemm *g, zg_str *out) {
  zg_str_add(out, "%s z = x;\n", zg__cls_type(g->cls));
  put_image_result(g, out, &g->c.x, g->c.s.n_in, g->c.cg);
}

// dw[o, (c, q)] = sum over (img, p) of dy[o, (img, p)] x[(c, q), (img, p)]
static void grad_w_a(const gemm *g, zg_str *out) {
  zg_str_add(out, "const zg_i64 img = k / %lldll, p = k %% %lldll;\n", (long long)g->c.s.n_out, (long long)g->c.s.n_out);
  put_image_element(g, out, 2, &g->c.y, "img", g->c.og, "m", "p");
}

static void grad_w_b(const gemm *g, zg_str *out) {
  const zg_spatial *s = &g->c.s;
  zg_str_add(out, "const zg_i64 img = k / %lldll, p = k %% %lldll, c = n / %lldll, q = n %% %lldll;\n", (long long)s->n_out, (long long)s->n_out,
             (long long)s->n_ker, (long long)s->n_ker);
  zg__spatial_put_tap(s, out, "p", "q");
  zg_str_add(out, "if (inside) ");
  put_image_element(g, out, 1, &g->c.x, "img", g->c.cg, "c", "tap");
}

static void grad_w_store(const gemm *g, zg_str *out) {
  char at[96];
  zg_str_add(out, "%s z = x;\n", zg__cls_type(g->cls));
  snprintf(at, sizeof at, "(b * %lldll + m) * %lldll + n", (long long)g->c.og, (long long)g->n);
  put_result(g, out, at);
}

zg__conv zg__conv_of(const zg_kernel *k) {
  const zg_conv_desc *d = k->desc;
  zg__conv c = {.k = k, .way = ZG__CONV, .ix = 1, .iw = 2, .iy = 0};
  if (k->kind == ZG_K_CONV_GRAD_X) c.way = ZG__CONV_GRAD_X, c.ix = 0, c.iy = 1;
  if (k->kind == ZG_K_CONV_GRAD_W) c.way = ZG__CONV_GRAD_W, c.iw = 0, c.iy = 2;
  const zg_view *x = &k->args[c.ix], *w = &k->args[c.iw], *y = &k->args[c.iy];
  c.s = zg_spatial_make(d->spatial, x->dim + 2, y->dim + 2, w->dim + 2, d->stride, d->pad_begin, d->pad_end, d->dilation);
  c.n = x->dim[0], c.c = x->dim[1], c.o = w->dim[0], c.cg = w->dim[1];
  c.group = ZG_MAX(d->group, 1), c.og = c.o / c.group;
  c.size = zg_dtype_bytes(k->args[1].dtype);
  c.x = zg__image_of(x), c.y = zg__image_of(y);
  return c;
}

static zg_status emit_conv_plainly(const zg_kernel *k, const zg__target *t, zg__code *out) {
  gemm g = {.k = k, .c = zg__conv_of(k), .dtype = k->args[0].dtype, .cls = zg_cls_of(k->args[0].dtype)};
  const zg__conv *c = &g.c;
  g.batch = c->group;
  if (c->way == ZG__CONV) {
    g.m = c->og, g.n = c->n * c->s.n_out, g.len = c->cg * c->s.n_ker, g.a_along_k = true;
    g.put_a = conv_a, g.put_b = conv_b, g.put_store = conv_store;
  } else if (c->way == ZG__CONV_GRAD_X) {
    g.m = c->cg, g.n = c->n * c->s.n_in, g.len = c->og * c->s.n_ker;
    g.put_a = grad_x_a, g.put_b = grad_x_b, g.put_store = grad_x_store;
  } else {
    g.m = c->og, g.n = c->cg * c->s.n_ker, g.len = c->n * c->s.n_out, g.a_along_k = g.b_along_k = true;
    g.put_a = grad_w_a, g.put_b = grad_w_b, g.put_store = grad_w_store;
  }
  return emit_gemm(&g, t, out);
}

zg_status zg__emit_conv(const zg_kernel *k, const zg__target *t, zg__code *out) {
  zg_status s = zg__conv_is_direct(k) ? zg__emit_conv_direct(k, t, out)
                : zg__conv_takes(k)   ? zg__emit_conv_tiles(k, t, out)
                                      : emit_conv_plainly(k, t, out);
  return zg_status_prefix(s, "%s: ", k->label);
}
