// Convolution and its gradients in f32, bf16 and f16 (conv.cuh): here stand the definitions in front of the kernel and the launches
// beside it.
//   pack    weights as the product reads them, [channel][tap][channels of the sum], in the workspace. 1x1 kernels need none going forward
//   tiles   the product. The gradient of the images takes apart what strides leave out: places of one phase (their rest by the stride)
//           meet the same taps, so that a block walks those alone
//   add     where tiles are too few to fill the device the sum is cut: partial results in the workspace, added in order
// 16-bit operands go to the tensor cores with sums in f32; f32 to its own form of the same loop. Images may have their channels last,
// which moves 16 bytes at once, or first. Convolutions of few channels a group are emit_conv_direct.c's, f64 is emit_gemm.c's.
#include <stdio.h>

#include "cuda/emit_conv.h"

enum { THREADS = 256, STAGES = 3, MAX_SPLITS = 64 };

extern const char zg__conv_text[];  // conv.cuh, made a string by the build

typedef struct {
  zg__conv c;
  int64_t m, n, cp;           // m: of one group and phase; cp: channels of the packed sum, padded
  int64_t sum;                // most elements of the sum
  int64_t row[3], src[3];     // dims of the places of the result (grad_w: of the sum) and of what is read beside them
  int64_t phases, bm, bn, wm, e, bk;
  uint32_t splits;
  uint64_t packed;            // bytes of the packed weights, 0: the weights themselves
  zg_str names;               // what was defined, to be undefined
} plan;

// ---- planning -----------------------------------------------------------------------------------------------------
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static void choose_tiles(plan *p) {
  const bool tensor = p->c.size == 2;
  p->bm = p->m <= 64 ? 64 : 128;
  p->bn = p->n <= 32 && tensor ? 32 : p->n <= 64 || !tensor ? 64 : 128;   // f32: 128 would take 190 registers a thread
  p->wm = p->bn == 128 || (p->bm == 64 && p->bn == 64) ? 2 : 4;   // warps beside each other: the rest of 8 along n
}

static void choose_splits(plan *p, const zg__target *t) {
  const int64_t tiles = ceil_div(p->m, p->bm) * ceil_div(p->n, p->bn) * p->c.group * p->phases;
  const int64_t want = tiles < t->sms ? 2 * t->sms / tiles : 1, useful = ZG_MAX(p->sum / (4 * p->bk), 1);
  p->splits = (uint32_t)ZG_MAX(ZG_MIN(ZG_MIN(want, useful), MAX_SPLITS), 1);
}

static plan plan_of(const zg_kernel *k, const zg__target *t) {
  plan p = {.c = zg__conv_of(k), .phases = 1};
  const zg__conv *c = &p.c;
  const zg_spatial *s = &c->s;
  p.e = 16 / c->size;
  p.bk = c->way == ZG__CONV_GRAD_W && c->size == 4 ? 16 : 64 / c->size;
  const int64_t behind = c->way == ZG__CONV_GRAD_X ? c->og : c->cg;
  p.cp = (int64_t)zg_round_up((uint64_t)behind, (uint64_t)p.e);
  for (int d = 0; d < 3; d++) {
    p.row[d] = c->way == ZG__CONV_GRAD_X ? ceil_div(s->in[d], s->stride[d]) : s->out[d];
    p.src[d] = c->way == ZG__CONV_GRAD_X ? s->out[d] : s->in[d];
    if (c->way == ZG__CONV_GRAD_X) p.phases *= s->stride[d];
  }
  const int64_t places = c->n * p.row[0] * p.row[1] * p.row[2], taps = s->n_ker * p.cp;
  p.m = c->way == ZG__CONV_GRAD_W ? c->og : places;
  p.n = c->way == ZG__CONV_GRAD_W ? taps : c->way == ZG__CONV ? c->og : c->cg;
  p.sum = c->way == ZG__CONV_GRAD_W ? places : taps;
  const bool as_it_is = c->way == ZG__CONV && s->n_ker == 1 && p.cp == c->cg && k->args[2].offset % p.e == 0;
  if (c->way != ZG__CONV_GRAD_W && !as_it_is)
    p.packed = zg_round_up((uint64_t)(c->group * p.n * taps * c->size), 256);
  choose_tiles(&p);
  if (p.m * p.n > 0) choose_splits(&p, t);
  return p;
}

// ---- definitions --------------------------------------------------------------------------------------------------
static void define(plan *p, zg_str *out, const char *name, const char *params, const char *fmt, ...) ZG_PRINTF(5, 6);
static void define(plan *p, zg_str *out, const char *name, const char *params, const char *fmt, ...) {
  char text[1024];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  zg_str_add(out, "#define %s%s %s\n", name, params, text);
  zg_str_add(&p->names, "#undef %s\n", name);
}
static void define_int(plan *p, zg_str *out, const char *name, int64_t v) { define(p, out, name, "", "%lld", (long long)v); }
static void define_dim(plan *p, zg_str *out, const char *head, int d, int64_t v) {
  char name[24];
  snprintf(name, sizeof name, "%s%d", head, d);
  define_int(p, out, name, v);
}

// How an operand's places are reached: CV_A_IMAGE, CV_A_VEC, ...
static void define_image(plan *p, zg_str *out, char letter, uint32_t arg, const zg__image *i, int64_t channels) {
  char name[24];
  snprintf(name, sizeof name, "CV_%c", letter);
  define(p, out, name, "", "a.p%u", arg);
  snprintf(name, sizeof name, "CV_%c_IMAGE", letter);
  define(p, out, name, "", "%lldll", (long long)i->image);
  snprintf(name, sizeof name, "CV_%c_CHANNEL", letter);
  define_int(p, out, name, i->channel);
  snprintf(name, sizeof name, "CV_%c_PLACE", letter);
  define_int(p, out, name, i->place);
  snprintf(name, sizeof name, "CV_%c_ACROSS", letter);
  define_int(p, out, name, i->channel != 1 && i->place == 1);
  snprintf(name, sizeof name, "CV_%c_VEC", letter);
  define_int(p, out, name, i->channel == 1 && channels % p->e == 0 && p->c.k->args[arg].offset % p->e == 0);
}

// The taps that the places of a block meet: t of them in each dim, q the first, CV_STEP apart.
static void define_taps(plan *p, zg_str *out) {
  const zg_spatial *s = &p->c.s;
  zg_str text = {0};
  for (int d = 0; d < 3; d++) {
    const long long stride = s->stride[d], dil = s->dil[d];
    char name[24], head[24];
    int64_t gcd = stride, rest = dil % stride;
    while (rest) { const int64_t r = gcd % rest; gcd = rest, rest = r; }
    const bool phased = p->c.way == ZG__CONV_GRAD_X && stride > 1;
    define_dim(p, out, "CV_STEP", d, phased ? stride / gcd : 1);
    snprintf(name, sizeof name, "CV_BASE%d", d);
    snprintf(head, sizeof head, "CV_FROM%d", d);
    if (p->c.way == ZG__CONV_GRAD_X) {
      int64_t block = 1;
      for (int i = d + 1; i < 3; i++) block *= s->stride[i];
      zg_str_add(&text, "const int f%d = f / %lld %% %lld; ", d, (long long)block, stride);
      define(p, out, name, "(x_)", "((x_) * %lld + f%d + %lld)", stride, d, (long long)s->pad[d]);
      define(p, out, head, "(x_, q_)", "(((x_) - (q_) * %lld) / %lld)", dil, stride);
    } else {
      define(p, out, name, "(x_)", "((x_) * %lld - %lld)", stride, (long long)s->pad[d]);
      define(p, out, head, "(x_, q_)", "((x_) + (q_) * %lld)", dil);
    }
    if (phased)
      zg_str_add(&text, "int t%d = 0, q%d = 0; for (int q = %lld; q-- > 0;) if ((q * %lld - f%d - %lld) %% %lld == 0) { t%d++; q%d = q; } ", d, d,
                 (long long)s->ker[d], dil, d, (long long)s->pad[d], stride, d, d);
    else zg_str_add(&text, "const int t%d = %lld, q%d = 0; ", d, (long long)s->ker[d], d);
  }
  zg_str_add(&text, "(void)q0, (void)q1, (void)q2, (void)t0;");
  define(p, out, "CV_SETUP", "", "%s", text.at);
  zg_str_fini(&text);
}

static void define_sizes(plan *p, zg_str *out) {
  static const char *const ctype[] = {"unsigned short", "float"};
  const zg__conv *c = &p->c;
  const bool tensor = c->size == 2, w = c->way == ZG__CONV_GRAD_W;
  define_int(p, out, "CV_W", w);
  define_int(p, out, "CV_TENSOR", tensor);
  if (tensor) define(p, out, "CV_MMA", "", "%s", c->k->args[1].dtype == ZG_BF16 ? "zg_mma_bf16" : "zg_mma_f16");
  define(p, out, "CV_T", "", "%s", ctype[!tensor]);
  define_int(p, out, "CV_SIZE", c->size);
  define_int(p, out, "CV_STAGES", STAGES);
  define_int(p, out, "CV_BEHIND", STAGES - 2);
  define_int(p, out, "CV_E", p->e);
  define_int(p, out, "CV_BK", p->bk);
  define_int(p, out, "CV_BM", p->bm);
  define_int(p, out, "CV_BN", p->bn);
  define_int(p, out, "CV_WM", p->wm);
  define_int(p, out, "CV_M", p->m);
  define_int(p, out, "CV_N", p->n);
  define_int(p, out, "CV_MT", ceil_div(p->m, p->bm));
  define_int(p, out, "CV_NT", ceil_div(p->n, p->bn));
  define_int(p, out, "CV_PHASES", p->phases);
  define_int(p, out, "CV_CHUNK", (int64_t)zg_round_up((uint64_t)ceil_div(p->sum, p->splits), (uint64_t)p->bk));
  define(p, out, "CV_K", "", w ? "%lld" : "(t0 * t1 * t2 * CV_CP)", (long long)p->sum);
  define_int(p, out, "CV_CP", p->cp);
  for (int d = 0; d < 3; d++) {
    define_dim(p, out, "CV_R", d, p->row[d]);
    define_dim(p, out, "CV_S", d, p->src[d]);
    define_dim(p, out, "CV_K", d, c->s.ker[d]);
  }
}

static void define_operands(plan *p, zg_str *out) {
  const zg__conv *c = &p->c;
  if (c->way == ZG__CONV_GRAD_W) {
    define_image(p, out, 'A', 2, &c->y, c->og);
    define_int(p, out, "CV_A_CHANNELS", c->og);
    define_image(p, out, 'B', 1, &c->x, c->cg);
    define_int(p, out, "CV_C", c->cg);
    define_int(p, out, "CV_PLACES", c->s.n_out);
    return;
  }
  const bool x = c->way == ZG__CONV;
  define_image(p, out, 'A', 1, x ? &c->x : &c->y, x ? c->cg : c->og);
  define_int(p, out, "CV_A_CHANNELS", x ? c->cg : c->og);
  define_int(p, out, "CV_KW", c->s.n_ker * p->cp);
  define(p, out, "CV_B", "", p->packed ? "a.pw" : "a.p2");
}

// ---- results ------------------------------------------------------------------------------------------------------
// One line that stores x as the result at [m, n] of group b and phase f.
static void put_store(const plan *p, zg_str *out) {
  const zg__conv *c = &p->c;
  const zg_spatial *s = &c->s;
  const long long per = p->row[0] * p->row[1] * p->row[2];
  zg_str at = {0};
  if (c->way == ZG__CONV) {
    zg_str_add(out, "float z = x; ");
    if (c->k->n_args > 3) {
      zg_str_add(out, "z = z + ");
      zg__put_load(out, c->k->args[3].dtype, "a.p3[b * %lld + n]", (long long)c->og);
      zg_str_add(out, "; ");
    }
    zg_str_add(&at, "m / %lld * %lldll + (zg_i64)(b * %lld + n) * %lldll + m %% %lld * %lldll", per, (long long)c->y.image, (long long)c->og,
               (long long)c->y.channel, per, (long long)c->y.place);
  } else if (c->way == ZG__CONV_GRAD_X) {
    zg_str_add(out, "const float z = x; const int ");
    for (int d = 0; d < 3; d++) {
      long long behind = 1, block = 1;
      for (int i = d + 1; i < 3; i++) behind *= p->row[i], block *= s->stride[i];
      zg_str_add(out, "%su%d = m / %lld %% %lld * %lld + f / %lld %% %lld", d ? ", " : "", d, behind, (long long)p->row[d],
                 (long long)s->stride[d], block, (long long)s->stride[d]);
    }
    zg_str_add(out, "; if (u0 < %lld && u1 < %lld && u2 < %lld) ", (long long)s->in[0], (long long)s->in[1], (long long)s->in[2]);
    zg_str_add(&at, "m / %lld * %lldll + (zg_i64)(b * %lld + n) * %lldll + ((u0 * %lld + u1) * %lld + u2) * %lldll", per, (long long)c->x.image,
               (long long)c->cg, (long long)c->x.channel, (long long)s->in[1], (long long)s->in[2], (long long)c->x.place);
  } else {
    zg_str_add(out, "const float z = x; if (n %% %lld < %lld) ", (long long)p->cp, (long long)c->cg);
    zg_str_add(&at, "((zg_i64)(b * %lld + m) * %lld + n %% %lld) * %lld + n / %lld", (long long)c->og, (long long)c->cg, (long long)p->cp,
               (long long)s->n_ker, (long long)p->cp);
  }
  zg_str_add(out, "a.p0[%s] = ", at.at);
  zg__put_store(out, c->k->args[0].dtype, "z");
  zg_str_add(out, ";");
  zg_str_fini(&at);
}

static void add_args(const plan *p, zg__draft *d) {
  for (uint32_t i = 0; i < p->c.k->n_args; i++) {
    char name[16];
    snprintf(name, sizeof name, "p%u", i);
    zg__draft_arg(d, p->c.k, i, i > 0, name);
  }
}

static void put_partial(const plan *p, zg_str *out) {
  zg_str_add(out, "a.w[((((zg_i64)blockIdx.y * %lld + b) * %lld + f) * %lld + m) * %lld + n] = x;", (long long)p->c.group, (long long)p->phases,
             (long long)p->m, (long long)p->n);
}

// ---- launches -----------------------------------------------------------------------------------------------------
static zg_status emit_pack(const plan *p, zg__code *out) {
  const zg__conv *c = &p->c;
  const zg_dtype t = c->k->args[2].dtype;
  const int64_t kw = c->s.n_ker * p->cp, total = c->group * p->n * kw;
  char type[32];
  zg__draft d = {0};
  zg__draft_arg(&d, c->k, 2, true, "p2");
  snprintf(type, sizeof type, "%s", zg__ctype(t));
  zg__draft_param(&d, type, "pw", (zg__param){.kind = ZG__P_WORK});
  zg_str_add(&d.body, "{\nconst zg_i64 e = (zg_i64)blockIdx.x * %d + threadIdx.x;\nif (e >= %lldll) return;\n", THREADS, (long long)total);
  zg_str_add(&d.body, "const int r = (int)(e / %lld), k = (int)(e %% %lld), q = k / %lld, c = k %% %lld;\n", (long long)kw, (long long)kw,
             (long long)p->cp, (long long)p->cp);
  if (c->way == ZG__CONV)
    zg_str_add(&d.body, "a.pw[e] = c < %lld ? a.p2[((zg_i64)r * %lld + c) * %lld + q] : 0;\n}", (long long)c->cg, (long long)c->cg,
               (long long)c->s.n_ker);
  else
    zg_str_add(&d.body, "a.pw[e] = c < %lld ? a.p2[((zg_i64)(r / %lld * %lld + c) * %lld + r %% %lld) * %lld + q] : 0;\n}", (long long)c->og,
               (long long)c->cg, (long long)c->og, (long long)c->cg, (long long)c->cg, (long long)c->s.n_ker);
  return zg__draft_launch(&d, out, (uint64_t)ceil_div(total, THREADS), 1, THREADS, 0);
}

static zg_status emit_tiles(plan *p, zg__code *out) {
  zg_str result = {0};
  zg__draft d = {0};
  char type[40];
  add_args(p, &d);
  if (p->packed) {
    snprintf(type, sizeof type, "const %s", zg__ctype(p->c.k->args[2].dtype));
    zg__draft_param(&d, type, "pw", (zg__param){.kind = ZG__P_WORK});
  }
  if (p->splits > 1) zg__draft_param(&d, "float", "w", (zg__param){.kind = ZG__P_WORK, .at = p->packed});
  zg_str_add(&d.body, "{\n");
  define_sizes(p, &d.body);
  define_operands(p, &d.body);
  define_taps(p, &d.body);
  if (p->splits > 1) put_partial(p, &result);
  else put_store(p, &result);
  define(p, &d.body, "CV_RESULT", "", "%s", result.at);
  zg_str_add(&d.body, "%s%s}", zg__conv_text, p->names.at);
  zg_str_fini(&result);
  zg_str_fini(&p->names);
  const uint64_t blocks = (uint64_t)(ceil_div(p->m, p->bm) * ceil_div(p->n, p->bn) * p->phases * p->c.group);
  return zg__draft_launch(&d, out, blocks, p->splits, THREADS, 0);
}

static zg_status emit_add(const plan *p, zg__code *out) {
  const int64_t total = p->c.group * p->phases * p->m * p->n;
  zg__draft d = {0};
  add_args(p, &d);
  zg__draft_param(&d, "const float", "w", (zg__param){.kind = ZG__P_WORK, .at = p->packed});
  zg_str_add(&d.body, "{\nconst zg_i64 e = (zg_i64)blockIdx.x * %d + threadIdx.x;\nif (e >= %lldll) return;\n", THREADS, (long long)total);
  zg_str_add(&d.body, "const int n = (int)(e %% %lld), m = (int)(e / %lld %% %lld), f = (int)(e / %lldll %% %lld), b = (int)(e / %lldll);\n",
             (long long)p->n, (long long)p->n, (long long)p->m, (long long)(p->n * p->m), (long long)p->phases,
             (long long)(p->n * p->m * p->phases));
  zg_str_add(&d.body, "float x = 0;\nfor (int c = 0; c < %u; c++) x += a.w[c * %lldll + e];\n", p->splits, (long long)total);
  put_store(p, &d.body);
  zg_str_add(&d.body, "\n(void)b, (void)f;\n}");
  return zg__draft_launch(&d, out, (uint64_t)ceil_div(total, THREADS), 1, THREADS, 0);
}

// Everything but addresses is counted in ints.
static bool fits(const plan *p) {
  const zg__conv *c = &p->c;
  const double most = 1u << 30;
  const double images = (double)ZG_MAX(c->x.image, c->y.image), result = (double)p->m * (double)p->phases;
  return images < most && result < most && (double)p->n < most && (double)p->sum < most && (double)c->n * (double)c->s.n_out < most;
}

bool zg__conv_takes(const zg_kernel *k) {
  const zg_dtype t = k->args[1].dtype;
  if ((t != ZG_F32 && t != ZG_BF16 && t != ZG_F16) || k->args[2].dtype != t) return false;
  for (uint32_t i = 0; i < k->n_args; i++)
    if (zg_cls_of(k->args[i].dtype) != ZG_CLS_F32) return false;
  const plan p = plan_of(k, &(zg__target){.sms = 1});
  return fits(&p);
}

zg_status zg__emit_conv_tiles(const zg_kernel *k, const zg__target *t, zg__code *out) {
  plan p = plan_of(k, t);
  if (p.m * p.n == 0) return NULL;
  out->workspace = p.packed + (p.splits > 1 ? (uint64_t)(p.splits * p.c.group * p.phases * p.m * p.n) * 4 : 0);
  if (p.packed) ZG_TRY(emit_pack(&p, out));
  ZG_TRY(emit_tiles(&p, out));
  return p.splits > 1 ? emit_add(&p, out) : NULL;
}
