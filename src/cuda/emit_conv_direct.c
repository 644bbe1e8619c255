// Convolution of few channels a group (depthwise above all), where a tiled product would mostly multiply padding. All types.
//   forward, gradient of the images   a thread per element of the result, in the order of memory
//   gradient of the weights           a thread per weight and chunk of image rows, neighbours for neighbouring channels; chunks are
//                                     added in order by a second launch
#include <stdio.h>

#include "cuda/emit_conv.h"

enum { THREADS = 256, FEW = 8, MAX_CHUNKS = 256 };

bool zg__conv_is_direct(const zg_kernel *k) {
  const zg__conv c = zg__conv_of(k);
  return c.group > 1 && (c.cg < FEW || c.og < FEW);
}

static const char *cls_type(const zg__conv *c) { return zg__cls_type(zg_cls_of(c->k->args[0].dtype)); }

static void put_head(zg_str *out, int64_t total) {
  zg_str_add(out, "{\nconst zg_i64 e = (zg_i64)blockIdx.x * %d + threadIdx.x;\nif (e >= %lldll) return;\n", THREADS, (long long)total);
}

// Loops over the taps q0, q1, q2; the innermost is unrolled where it is short.
static void put_taps(const zg__conv *c, zg_str *out) {
  for (int d = 0; d < 3; d++)
    zg_str_add(out, "%sfor (int q%d = 0; q%d < %lld; q%d++) {\n", d == 2 && c->s.ker[d] <= 8 ? "ZG_UNROLL " : "ZG_NO_UNROLL ", d, d,
               (long long)c->s.ker[d], d);
}

// n, channel, place and its coordinates p0, p1, p2 of element e of the result.
static void put_place(zg_str *out, const zg__image *i, int64_t channels, const int64_t dim[3]) {
  zg__spatial_put_element(out, i, channels, dim[0] * dim[1] * dim[2]);
  zg_str_add(out, "const int p0 = place / %lld, p1 = place / %lld %% %lld, p2 = place %% %lld;\n", (long long)(dim[1] * dim[2]), (long long)dim[2],
             (long long)dim[1], (long long)dim[2]);
}

static void put_load_of(const zg__conv *c, zg_str *out, uint32_t arg, const char *at) { zg__put_load(out, c->k->args[arg].dtype, "a.p%u[%s]", arg, at); }

// Adds the product of a weight and an element of the other image to `sum`: `at` is that element's place, `inner` its channel variable.
static void put_product(const zg__conv *c, zg_str *out, bool forward) {
  const zg__image *i = forward ? &c->x : &c->y;
  const zg_spatial *s = &c->s;
  char w[240], from[240];
  snprintf(w, sizeof w, "((zg_i64)(%s) * %lld + %s) * %lld + (q0 * %lld + q1) * %lld + q2", forward ? "channel" : "g * OG + j", (long long)c->cg,
           forward ? "j" : "ci", (long long)s->n_ker, (long long)s->ker[1], (long long)s->ker[2]);
  snprintf(from, sizeof from, "n * %lldll + (zg_i64)(g * %lld + j) * %lldll + at * %lldll", (long long)i->image, (long long)(forward ? c->cg : c->og),
           (long long)i->channel, (long long)i->place);
  zg_str_add(out, "for (int j = 0; j < %lld; j++) sum += ", (long long)(forward ? c->cg : c->og));
  put_load_of(c, out, 2, w);
  zg_str_add(out, " * ");
  put_load_of(c, out, 1, from);
  zg_str_add(out, ";\n}\n}\n}\n");
}

static void put_value(const zg__conv *c, zg_str *out) {
  zg_str_add(out, "a.p0[e] = ");
  zg__put_store(out, c->k->args[0].dtype, "sum");
  zg_str_add(out, ";\n}");
}

static void put_forward(const zg__conv *c, zg_str *out) {
  const zg_spatial *s = &c->s;
  put_place(out, &c->y, c->o, s->out);
  zg_str_add(out, "const int g = channel / %lld;\n%s sum = 0;\n", (long long)c->og, cls_type(c));
  put_taps(c, out);
  for (int d = 0; d < 3; d++)
    zg_str_add(out, "const int x%d = p%d * %lld - %lld + q%d * %lld;\n", d, d, (long long)s->stride[d], (long long)s->pad[d], d, (long long)s->dil[d]);
  zg_str_add(out, "if ((unsigned)x0 >= %lld || (unsigned)x1 >= %lld || (unsigned)x2 >= %lld) continue;\n", (long long)s->in[0], (long long)s->in[1],
             (long long)s->in[2]);
  zg_str_add(out, "const zg_i64 at = (x0 * %lldll + x1) * %lldll + x2;\n", (long long)s->in[1], (long long)s->in[2]);
  put_product(c, out, true);
  if (c->k->n_args > 3) {
    zg_str_add(out, "sum += ");
    put_load_of(c, out, 3, "channel");
    zg_str_add(out, ";\n");
  }
}

static void put_grad_x(const zg__conv *c, zg_str *out) {
  const zg_spatial *s = &c->s;
  put_place(out, &c->x, c->c, s->in);
  zg_str_add(out, "const int OG = %lld, g = channel / %lld, ci = channel %% %lld;\n%s sum = 0;\n", (long long)c->og, (long long)c->cg,
             (long long)c->cg, cls_type(c));
  put_taps(c, out);
  for (int d = 0; d < 3; d++)
    zg_str_add(out, "const int y%d = p%d + %lld - q%d * %lld;\n", d, d, (long long)s->pad[d], d, (long long)s->dil[d]);
  zg_str_add(out, "if (");
  for (int d = 0; d < 3; d++)
    zg_str_add(out, "%sy%d < 0 || y%d %% %lld != 0 || y%d >= %lld", d ? " || " : "", d, d, (long long)s->stride[d], d,
               (long long)(s->out[d] * s->stride[d]));
  zg_str_add(out, ") continue;\nconst zg_i64 at = (y0 / %lld * %lldll + y1 / %lld) * %lldll + y2 / %lld;\n", (long long)s->stride[0],
             (long long)s->out[1], (long long)s->stride[1], (long long)s->out[2], (long long)s->stride[2]);
  put_product(c, out, false);
}

static void add_args(const zg__conv *c, zg__draft *d) {
  for (uint32_t i = 0; i < c->k->n_args; i++) {
    char name[16];
    snprintf(name, sizeof name, "p%u", i);
    zg__draft_arg(d, c->k, i, i > 0, name);
  }
}

static zg_status emit_images(const zg__conv *c, zg__code *out) {
  const int64_t total = zg_view_elems(&c->k->args[0]);
  zg__draft d = {0};
  add_args(c, &d);
  put_head(&d.body, total);
  if (c->way == ZG__CONV) put_forward(c, &d.body);
  else put_grad_x(c, &d.body);
  put_value(c, &d.body);
  return zg__draft_launch(&d, out, ((uint64_t)total + THREADS - 1) / THREADS, 1, THREADS, 0);
}

// ---- gradient of the weights ------------------------------------------------------------------------------------------
// A row: the places of one image that share p0 and p1.
static void put_rows(const zg__conv *c, zg_str *out) {
  const zg_spatial *s = &c->s;
  for (int d = 0; d < 2; d++)
    zg_str_add(out, "const int x%d = p%d * %lld - %lld + q%d * %lld;\n", d, d, (long long)s->stride[d], (long long)s->pad[d], d, (long long)s->dil[d]);
  zg_str_add(out, "if ((unsigned)x0 >= %lld || (unsigned)x1 >= %lld) continue;\n", (long long)s->in[0], (long long)s->in[1]);
  zg_str_add(out, "for (int p2 = 0; p2 < %lld; p2++) {\nconst int x2 = p2 * %lld - %lld + q2 * %lld;\nif ((unsigned)x2 < %lld) sum += ",
             (long long)s->out[2], (long long)s->stride[2], (long long)s->pad[2], (long long)s->dil[2], (long long)s->in[2]);
  char y[240], x[240];
  snprintf(y, sizeof y, "n * %lldll + (zg_i64)o * %lldll + ((p0 * %lldll + p1) * %lldll + p2) * %lldll", (long long)c->y.image,
           (long long)c->y.channel, (long long)s->out[1], (long long)s->out[2], (long long)c->y.place);
  snprintf(x, sizeof x, "n * %lldll + (zg_i64)(o / %lld * %lld + ci) * %lldll + ((x0 * %lldll + x1) * %lldll + x2) * %lldll", (long long)c->x.image,
           (long long)c->og, (long long)c->cg, (long long)c->x.channel, (long long)s->in[1], (long long)s->in[2], (long long)c->x.place);
  put_load_of(c, out, 2, y);
  zg_str_add(out, " * ");
  put_load_of(c, out, 1, x);
  zg_str_add(out, ";\n}\n");
}

static zg_status emit_chunks(const zg__conv *c, int64_t chunks, int64_t rows, zg__code *out) {
  const zg_spatial *s = &c->s;
  const int64_t total = c->o * c->cg * s->n_ker, per = (rows + chunks - 1) / chunks;
  zg__draft d = {0};
  zg_str *o = &d.body;
  add_args(c, &d);
  zg__draft_param(&d, cls_type(c), "w", (zg__param){.kind = ZG__P_WORK});
  put_head(o, total);
  zg_str_add(o, "const int o = (int)(e %% %lld), k = (int)(e / %lld), ci = k / %lld, q0 = k / %lld %% %lld, q1 = k / %lld %% %lld, q2 = k %% %lld;\n",
             (long long)c->o, (long long)c->o, (long long)s->n_ker, (long long)(s->ker[1] * s->ker[2]), (long long)s->ker[0], (long long)s->ker[2],
             (long long)s->ker[1], (long long)s->ker[2]);
  zg_str_add(o, "%s sum = 0;\nzg_i64 row = blockIdx.y * %lldll, last = row + %lldll;\nif (last > %lldll) last = %lldll;\n", cls_type(c),
             (long long)per, (long long)per, (long long)rows, (long long)rows);
  zg_str_add(o, "for (; row < last; row++) {\nconst zg_i64 n = row / %lldll;\nconst int p0 = (int)(row / %lldll %% %lldll), p1 = (int)(row %% %lldll);\n",
             (long long)(s->out[0] * s->out[1]), (long long)s->out[1], (long long)s->out[0], (long long)s->out[1]);
  put_rows(c, o);
  zg_str_add(o, "}\na.w[(blockIdx.y * %lldll + o) * %lldll + k] = sum;\n}", (long long)c->o, (long long)(c->cg * s->n_ker));
  return zg__draft_launch(&d, out, ((uint64_t)total + THREADS - 1) / THREADS, (uint64_t)chunks, THREADS, 0);
}

static zg_status emit_sum(const zg__conv *c, int64_t chunks, zg__code *out) {
  const int64_t total = c->o * c->cg * c->s.n_ker;
  zg__draft d = {0};
  zg__draft_arg(&d, c->k, 0, false, "p0");
  zg__draft_param(&d, cls_type(c), "w", (zg__param){.kind = ZG__P_WORK});
  put_head(&d.body, total);
  zg_str_add(&d.body, "%s sum = 0;\nfor (int i = 0; i < %lld; i++) sum += a.w[i * %lldll + e];\n", cls_type(c), (long long)chunks, (long long)total);
  put_value(c, &d.body);
  return zg__draft_launch(&d, out, ((uint64_t)total + THREADS - 1) / THREADS, 1, THREADS, 0);
}

zg_status zg__emit_conv_direct(const zg_kernel *k, const zg__target *t, zg__code *out) {
  const zg__conv c = zg__conv_of(k);
  if (zg_view_elems(&k->args[0]) == 0) return NULL;
  if (c.way != ZG__CONV_GRAD_W) return emit_images(&c, out);
  const int64_t rows = c.n * c.s.out[0] * c.s.out[1], total = c.o * c.cg * c.s.n_ker;
  const int64_t want = 2048 * (int64_t)t->sms / total + 1;   // threads that fill the device
  const int64_t chunks = ZG_MAX(ZG_MIN(ZG_MIN(want, rows), MAX_CHUNKS), 1);
  out->workspace = (uint64_t)(chunks * total) * (zg_cls_of(k->args[0].dtype) == ZG_CLS_F32 ? 4 : 8);
  ZG_TRY(emit_chunks(&c, chunks, rows, out));
  return emit_sum(&c, chunks, out);
}
