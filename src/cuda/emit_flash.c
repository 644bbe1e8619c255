// Attention on tensor cores: bf16 and f16, head sizes up to 256 forward and 128 backward. The kernels are
// written by hand (flash_forward.cuh, flash_dq.cuh, flash_dkv.cuh); here stand the definitions in front of
// them. The S x S scores are tiles in registers only; sums run in f32 and in an order given by shapes,
// without atomics.
#include <stdio.h>

#include "cuda/emit.h"

enum { THREADS = 128, ROWS = 64 };

extern const char zg__flash_forward_text[], zg__flash_dq_text[],
    zg__flash_dkv_text[];  // made strings by the build

typedef struct {
  const zg_kernel *k;
  const zg_attention_desc *d;
  uint32_t q, key, v, y, lse, dy, mask;  // argument numbers; mask 0: none
  int64_t h, hk, t, s, de, ev;
  zg_str names;  // what was defined, to be undefined
} flash;

static void define(flash *f, zg_str *out, const char *name, const char *params, const char *text) {
  zg_str_add(out, "#define %s%s %s\n", name, params, text);
  zg_str_add(&f->names, "#undef %s\n", name);
}

static void define_int(flash *f, zg_str *out, const char *name, int64_t value) {
  char text[32];
  snprintf(text, sizeof text, "%lld", (long long)value);
  define(f, out, name, "", text);
}

// Place of element (b, h, i, d) of a view.
static void put_at(zg_str *out, const zg_view *v, const char *const names[4]) {
  zg_str_add(out, "0");
  for (uint32_t r = 0; r < v->rank; r++)
    if (v->stride[r] && v->dim[r] > 1)
      zg_str_add(out, " + (zg_i64)(%s) * (%lldll)", names[r], (long long)v->stride[r]);
}

static const char *const letters[4] = {"b_", "h_", "i_", "d_"};

// FA_NAME(b, h): the first element of a head; FA_NAME_ROW, _COL: steps; FA_NAME_VEC: rows suit 16-byte
// accesses.
static void define_operand(flash *f, zg_str *out, const char *name, uint32_t arg) {
  const zg_view *v = &f->k->args[arg];
  char label[32];
  zg_str at = {0}, text = {0};
  const char *const head[4] = {"b_", "h_", "0", "0"};
  put_at(&at, v, head);
  zg_str_add(&text, "((const unsigned short *)a.p%u + (%s))", arg, at.at);
  snprintf(label, sizeof label, "FA_%s", name);
  define(f, out, label, "(b_, h_)", text.at);
  snprintf(label, sizeof label, "FA_%s_ROW", name);
  define_int(f, out, label, v->stride[2]);
  snprintf(label, sizeof label, "FA_%s_COL", name);
  define_int(f, out, label, v->stride[3]);
  snprintf(label, sizeof label, "FA_%s_VEC", name);
  const int64_t steps = v->offset | v->stride[0] | v->stride[1] | v->stride[2] | v->dim[3];
  define_int(f, out, label, v->stride[3] == 1 && steps % 8 == 0);
  zg_str_fini(&at);
  zg_str_fini(&text);
}

static void define_get(flash *f, zg_str *out, const char *name, const char *params, uint32_t arg) {
  zg_str at = {0}, text = {0};
  put_at(&at, &f->k->args[arg], letters);
  zg__put_load(&text, f->k->args[arg].dtype, "a.p%u[%s]", arg, at.at);
  define(f, out, name, params, text.at);
  zg_str_fini(&at);
  zg_str_fini(&text);
}

static void define_put(flash *f, zg_str *out, const char *name, const char *params, uint32_t arg) {
  zg_str at = {0}, text = {0};
  if (f->k->args[arg].buf) {
    put_at(&at, &f->k->args[arg], letters);
    zg_str_add(&text, "a.p%u[%s] = ", arg, at.at);
    zg__put_store(&text, f->k->args[arg].dtype, "x_");
  } else {
    zg_str_add(&text, "(void)(x_)");
  }
  define(f, out, name, params, text.at);
  zg_str_fini(&at);
  zg_str_fini(&text);
}

static void define_score(flash *f, zg_str *out) {
  zg_str text = {0}, at = {0};
  const char *const names[4] = {"b", "h", "i_", "j_"};
  if (f->d->causal) zg_str_add(&text, "((j_) > (i_) + (%lldll) ? -INFINITY : ", (long long)f->d->offset);
  if (f->mask) {
    const zg_dtype t = f->k->args[f->mask].dtype;
    put_at(&at, &f->k->args[f->mask], names);
    if (t == ZG_BOOL) zg_str_add(&text, "(a.p%u[%s] ? (x_) : -INFINITY)", f->mask, at.at);
    else {
      zg_str_add(&text, "((x_) + ");
      zg__put_load(&text, t, "a.p%u[%s]", f->mask, at.at);
      zg_str_add(&text, ")");
    }
  } else {
    zg_str_add(&text, "(x_)");
  }
  if (f->d->causal) zg_str_add(&text, ")");
  define(f, out, "FA_SCORE", "(x_, i_, j_)", text.at);
  zg_str_fini(&text);
  zg_str_fini(&at);
}

static void define_common(flash *f, zg_str *out, int64_t tile, int64_t n_tiles) {
  const bool bf16 = f->k->args[f->q].dtype == ZG_BF16;
  zg_str scale = {0};
  char text[96];
  define_int(f, out, "FA_H", f->h);
  define_int(f, out, "FA_HK", f->hk);
  define_int(f, out, "FA_G", f->h / f->hk);
  define_int(f, out, "FA_T", f->t);
  define_int(f, out, "FA_S", f->s);
  define_int(f, out, "FA_D", f->de);
  define_int(f, out, "FA_E", f->ev);
  define_int(f, out, "FA_DP", (f->de + 15) / 16 * 16);
  define_int(f, out, "FA_EP", (f->ev + 15) / 16 * 16);
  define_int(f, out, "FA_KT", tile);
  define_int(f, out, "FA_TILES", n_tiles);
  define(f, out, "FA_MMA", "", bf16 ? "zg_mma_bf16" : "zg_mma_f16");
  define(f, out, "FA_PACK", "", bf16 ? "zg_f2b2" : "zg_f2h2");
  zg__put_const(&scale, ZG_CLS_F32, f->d->scale);
  define(f, out, "FA_SCALE", "", scale.at);
  zg_str_fini(&scale);
  snprintf(text, sizeof text, f->d->causal ? "((i_) + (%lldll) + 1)" : "((void)(i_), %lldll)",
           (long long)(f->d->causal ? f->d->offset : f->s));
  define(f, out, "FA_END", "(i_)", text);
  snprintf(text, sizeof text, f->d->causal ? "((j_) - (%lldll))" : "((void)(j_), %lldll)",
           (long long)(f->d->causal ? f->d->offset : 0));
  define(f, out, "FA_BEGIN", "(j_)", text);
  define_score(f, out);
  define_operand(f, out, "Q", f->q);
  define_operand(f, out, "K", f->key);
  define_operand(f, out, "V", f->v);
}

static void define_grad(flash *f, zg_str *out) {
  define_operand(f, out, "DY", f->dy);
  define_get(f, out, "FA_GET_Y", "(b_, h_, i_, d_)", f->y);
  define_get(f, out, "FA_GET_DY", "(b_, h_, i_, d_)", f->dy);
  define_get(f, out, "FA_GET_LSE", "(b_, h_, i_)", f->lse);
}

static zg_status finish(flash *f, zg__draft *d, zg__code *out, const char *body, uint64_t blocks) {
  zg_str_add(&d->body, "%s%s}", body, f->names.at);
  zg_str_fini(&f->names);
  f->names = (zg_str){0};
  return zg_status_prefix(zg__draft_launch(d, out, blocks, 1, THREADS, 0), "%s: ", f->k->label);
}

static void begin(flash *f, zg__draft *d, const bool *want_out) {
  for (uint32_t i = 0; i < f->k->n_args; i++) {
    char name[16];
    snprintf(name, sizeof name, "p%u", i);
    if (f->k->args[i].buf && (i >= f->k->n_out || want_out[i]))
      zg__draft_arg(d, f->k, i, i >= f->k->n_out, name);
  }
  zg_str_add(&d->body, "{\n");
}

static int64_t tile_of(const flash *f) { return f->de > 128 || f->ev > 128 ? 32 : 64; }

static zg_status emit_forward(flash *f, zg__code *out) {
  const int64_t n = (f->t + ROWS - 1) / ROWS;
  zg__draft d = {0};
  begin(f, &d, (const bool[]){true, true});
  define_common(f, &d.body, tile_of(f), n);
  define_put(f, &d.body, "FA_PUT_Y", "(b_, h_, i_, d_, x_)", 0);
  define_put(f, &d.body, "FA_PUT_LSE", "(b_, h_, i_, x_)", 1);
  return finish(f, &d, out, zg__flash_forward_text, (uint64_t)(n * f->h * f->k->args[f->q].dim[0]));
}

static zg_status emit_backward(flash *f, zg__code *out) {
  const int64_t batch = f->k->args[f->q].dim[0], nq = (f->t + ROWS - 1) / ROWS, nk = (f->s + ROWS - 1) / ROWS;
  const int64_t tile = f->de > 64 || f->ev > 64 ? 32 : 64;
  if (f->k->args[0].buf) {
    zg__draft d = {0};
    begin(f, &d, (const bool[]){true, false, false});
    define_common(f, &d.body, tile, nq);
    define_grad(f, &d.body);
    define_put(f, &d.body, "FA_PUT_DQ", "(b_, h_, i_, d_, x_)", 0);
    ZG_TRY(finish(f, &d, out, zg__flash_dq_text, (uint64_t)(nq * f->h * batch)));
  }
  if (!f->k->args[1].buf && !f->k->args[2].buf) return NULL;
  zg__draft d = {0};
  begin(f, &d, (const bool[]){false, true, true});
  define_common(f, &d.body, 32, nk);
  define_grad(f, &d.body);
  define_put(f, &d.body, "FA_PUT_DK", "(b_, h_, i_, d_, x_)", 1);
  define_put(f, &d.body, "FA_PUT_DV", "(b_, h_, i_, d_, x_)", 2);
  return finish(f, &d, out, zg__flash_dkv_text, (uint64_t)(nk * f->hk * batch));
}

bool zg__flash_takes(const zg_kernel *k) {
  const bool grad = k->kind == ZG_K_ATTENTION_GRAD;
  const zg_view *q = &k->args[k->n_out];
  const int64_t most = grad ? 128 : 256;
  if (q->dtype != ZG_BF16 && q->dtype != ZG_F16) return false;
  for (uint32_t i = 0; i < 3; i++)
    if (q[i].dtype != q->dtype || q[i].dim[3] > most) return false;
  if (grad && k->args[8].dtype != q->dtype) return false;
  for (uint32_t i = 0; i < k->n_args; i++)
    if (k->args[i].buf && k->args[i].dtype != ZG_BOOL && zg_cls_of(k->args[i].dtype) != ZG_CLS_F32)
      return false;
  return true;
}

zg_status zg__emit_flash(const zg_kernel *k, zg__code *out) {
  const bool grad = k->kind == ZG_K_ATTENTION_GRAD;
  const uint32_t at = k->n_out, mask = at + (grad ? 6 : 3);
  flash f = {
      .k = k, .d = k->desc, .q = at, .key = at + 1, .v = at + 2, .y = at + 3, .lse = at + 4, .dy = at + 5};
  if (k->n_args > mask && k->args[mask].buf) f.mask = mask;
  f.h = k->args[f.q].dim[1], f.t = k->args[f.q].dim[2], f.de = k->args[f.q].dim[3];
  f.hk = k->args[f.key].dim[1], f.s = k->args[f.key].dim[2], f.ev = k->args[f.v].dim[3];
  return grad ? emit_backward(&f, out) : emit_forward(&f, out);
}
