// Attention forward and backward in tiles of 64 queries by 64 keys; scores exist only as one tile in the
// first cache (FlashAttention-2, Dao 2023, algorithms 1 and 2). Tiles beyond the causal line are skipped;
// keys and values of grouped heads are read once for all queries of the group.
//
//   forward    job = part of the query tiles of one (batch, key head): keys transposed and values packed
//   first, then each query
//              tile walks its key tiles with running maximum and sum
//   backward   job = one (batch, key head): queries and dy become operands once; for each key tile all query
//   tiles; dk and dv stay in cache, dq in scratch
//
// Sums run in an order given by shapes alone, so results do not depend on threads. Scratch per thread: a copy
// of the keys and values of one head (forward), of its queries, dy and queries' gradient (backward), and some tiles. Operands
// are of any strides and of f32, bf16 or f16; arithmetic is f32. bf16 heads are multiplied as pairs where the
// processor has them: then weights and their gradients are rounded to bf16 for the products, as sums stay
// f32. f64 goes to the reference.
//
// An operand of a product is a tile of floats, or of pairs of bf16 in words half as many: `h2` is 2 then,
// else 1. Left sides read row by row hold their pairs along columns, all others along rows; offsets of whole
// rows divide by h2 in both.
#include <math.h>
#include "cpu/cpu.h"
#include "sched/reference.h"

enum { TILE = 64, STRIP = 16 };

typedef struct {
  const cpu_call *c;
  const zg_attention_desc *d;
  const zg_view *q, *k, *v, *mask;
  uint32_t iq, imask;                     // argument numbers
  int64_t b, h, kh, group, t, s, de, ev;  // de, ev: head sizes of q and v
  int64_t dp, ep;                         // ... padded to whole vectors
  int64_t q_tiles, k_tiles, parts, h2;    // h2: elements per word of an operand
} job;

static int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

static job job_of(const zg_kernel *k, const cpu_call *c) {
  const bool grad = k->kind == ZG_K_ATTENTION_GRAD;
  job j = {.c = c, .d = k->desc, .iq = k->n_out, .imask = k->n_out + (grad ? 6 : 3)};
  j.q = &k->args[j.iq], j.k = &k->args[j.iq + 1], j.v = &k->args[j.iq + 2];
  j.mask = k->n_args > j.imask ? &k->args[j.imask] : NULL;
  j.b = j.q->dim[0], j.h = j.q->dim[1], j.t = j.q->dim[2], j.de = j.q->dim[3];
  j.kh = j.k->dim[1], j.s = j.k->dim[2], j.ev = j.v->dim[3], j.group = j.h / j.kh;
  j.dp = padded(j.de), j.ep = padded(j.ev);
  j.h2 = c && j.q->dtype == ZG_BF16 && zg_vec_has_pairs(c->vec) ? 2 : 1;
  j.q_tiles = (j.t + TILE - 1) / TILE, j.k_tiles = (j.s + TILE - 1) / TILE;
  return j;
}

// f32 arithmetic serves these dtypes; a row of a head must fit a tile of scores.
static bool narrow(const zg_kernel *k) {
  for (uint32_t a = 0; a < k->n_args; a++)
    if (k->args[a].buf && k->args[a].dtype != ZG_BOOL && zg_cls_of(k->args[a].dtype) != ZG_CLS_F32)
      return false;
  return k->args[k->n_out + 2].dim[3] <= TILE * TILE;
}

// Floats of scratch, for one thread.
static int64_t tiles_floats(const job *j) {
  return TILE * (4 * ZG_MAX(j->dp, j->ep) + 6 * j->dp + 6 * j->ep + 5 * TILE) + 8 * TILE;
}
uint64_t cpu_attention_scratch(const zg_kernel *k) {
  const job j = job_of(k, NULL);
  const int64_t keys = j.k_tiles * TILE * (j.dp + j.ep), queries = j.group * j.q_tiles * TILE * (2 * j.dp + j.ep + 2);
  return sizeof(float) * (uint64_t)(tiles_floats(&j) + (k->kind == ZG_K_ATTENTION ? keys : queries)) + 256;
}

// ---- moving tiles
// ---------------------------------------------------------------------------------------------------------
static int64_t row_at(const zg_view *v, int64_t b, int64_t h, int64_t i) {
  return v->offset + b * v->stride[0] + h * v->stride[1] + i * v->stride[2];
}

// Rows i .. i+n of argument `arg` into dst[n][ld], and zeros beyond: columns to ld, rows to `rows`.
static void load_rows(const job *j, uint32_t arg, int64_t b, int64_t h, int64_t i, int64_t n, int64_t rows,
                      float *dst, int64_t ld) {
  const zg_view *v = &j->c->k->args[arg];
  const int64_t w = v->dim[3];
  const void *at = cpu_at(j->c, arg, row_at(v, b, h, i));
  const bool plain = v->stride[3] == 1;
  if (plain && v->dtype == ZG_F32) j->c->vec->tile_load(n, w, at, v->stride[2], dst, ld);
  else if (plain && v->dtype == ZG_BF16 && j->h2 == 2) j->c->vec->tile_load_half(n, w, at, v->stride[2], dst, ld);
  else
    for (int64_t r = 0; r < n; r++) {
      j->c->vec->load[v->dtype](w, dst + r * ld, cpu_at(j->c, arg, row_at(v, b, h, i + r)), v->stride[3]);
      if (w < ld) memset(dst + r * ld + w, 0, sizeof(float) * (size_t)(ld - w));
    }
  if (rows > n) memset(dst + n * ld, 0, sizeof(float) * (size_t)((rows - n) * ld));
}

static void store_rows(const job *j, uint32_t arg, int64_t b, int64_t h, int64_t i, int64_t n,
                       const float *src, int64_t ld) {
  const zg_view *v = &j->c->k->args[arg];
  if (!v->buf) return;
  void *at = cpu_at(j->c, arg, row_at(v, b, h, i));
  const bool plain = v->stride[3] == 1;
  if (plain && v->dtype == ZG_F32) j->c->vec->tile_store(n, v->dim[3], src, ld, at, v->stride[2]);
  else if (plain && v->dtype == ZG_BF16 && j->h2 == 2) j->c->vec->tile_store_half(n, v->dim[3], src, ld, at, v->stride[2]);
  else
    for (int64_t r = 0; r < n; r++)
      j->c->vec->store[v->dtype](v->dim[3], cpu_at(j->c, arg, row_at(v, b, h, i + r)), src + r * ld, v->stride[3]);
}

static void load_row_values(const job *j, uint32_t arg, int64_t b, int64_t h, int64_t i, int64_t n,
                            float *dst) {
  const zg_view *v = &j->c->k->args[arg];
  j->c->vec->load[v->dtype](n, dst, cpu_at(j->c, arg, row_at(v, b, h, i)), v->stride[2]);
}

// ---- operands and products
// ------------------------------------------------------------------------------------------------ The tile
// as a left side read by rows (`by_cols`), or as any other operand: src itself, or its pairs in dst.
static const float *operand(const job *j, bool by_cols, int64_t m, int64_t n, const float *src, int64_t ld,
                            float *dst) {
  if (j->h2 == 1) return src;
  if (by_cols) j->c->vec->tile_pair_cols(m, n, src, ld, dst);
  else j->c->vec->tile_pair_rows(m, n, src, ld, dst);
  return dst;
}

// load_rows as an operand. `stage`: room for as many floats.
static void load_operand(const job *j, uint32_t arg, bool by_cols, int64_t b, int64_t h, int64_t i, int64_t n, int64_t rows,
                         float *dst, int64_t ld, float *stage) {
  const zg_view *v = &j->c->k->args[arg];
  const zg_vec *vec = j->c->vec;
  if (j->h2 == 1) {
    load_rows(j, arg, b, h, i, n, rows, dst, ld);
  } else if (v->dtype == ZG_BF16 && v->stride[3] == 1) {
    const uint16_t *src = (const uint16_t *)cpu_at(j->c, arg, row_at(v, b, h, i));
    (by_cols ? vec->tile_half_cols : vec->tile_half_rows)(n, v->dim[3], rows, src, v->stride[2], dst, ld);
  } else {
    load_rows(j, arg, b, h, i, n, rows, stage, ld);
    operand(j, by_cols, rows, ld, stage, ld, dst);
  }
}

// C (+)= A B over k elements. `rows`: A is read row by row (ld: of its floats), else it stands transposed.
static void product(const job *j, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, bool rows,
                    const float *b, int64_t ldb, float *c, int64_t ldc, bool add) {
  const int64_t rs = rows ? lda / j->h2 : 1, cs = rows ? 1 : lda;
  if (j->h2 == 1) j->c->vec->tile_gemm(m, n, k, a, rs, cs, b, ldb, c, ldc, add);
  else j->c->vec->tile_gemm_pairs(m, n, (k + 1) / 2, a, rs, cs, b, ldb, c, ldc, add);
}

// ---- one tile of scores
// ---------------------------------------------------------------------------------------------------
typedef struct {
  int64_t b, h, i, m, j, n;
} place;  // queries i .. i+m, keys j .. j+n

static void mask_row(const job *j, const place *p, int64_t r, float *s, float *row) {
  const zg_view *v = j->mask;
  const int64_t at = row_at(v, p->b, p->h, p->i + r) + p->j * v->stride[3];
  const float scale = (float)j->d->scale;
  if (v->dtype == ZG_BOOL) {
    const uint8_t *open = cpu_at(j->c, j->imask, at);
    for (int64_t c = 0; c < p->n; c++) s[c] = open[c * v->stride[3]] ? s[c] * scale : -INFINITY;
    return;
  }
  j->c->vec->load[v->dtype](p->n, row, cpu_at(j->c, j->imask, at), v->stride[3]);
  for (int64_t c = 0; c < p->n; c++) s[c] = s[c] * scale + row[c];
}

// Applies mask and causal line; returns the factor that the scores still need.
static float close_tile(const job *j, const place *p, float *s) {
  float row[TILE];
  for (int64_t r = 0; j->mask && r < p->m; r++) mask_row(j, p, r, s + r * TILE, row);
  if (j->d->causal && p->j + p->n - 1 > p->i + j->d->offset)
    for (int64_t r = 0; r < p->m; r++)
      for (int64_t c = ZG_MAX(0, p->i + r + j->d->offset + 1 - p->j); c < p->n; c++)
        s[r * TILE + c] = -INFINITY;
  return j->mask ? 1.0f : (float)j->d->scale;
}

// Number of keys that some query below `end` may attend to.
static int64_t keys_until(const job *j, int64_t end) {
  return j->d->causal ? ZG_MAX(0, ZG_MIN(j->s, end + j->d->offset)) : j->s;
}

static int64_t whole(int64_t m) { return (m + 7) / 8 * 8; }  // rows that the product computes

// A tile is taken in strips of queries: one, or several where the causal line crosses it, each with the keys
// that it needs. Cuts the strip at query r off tile p; false where it needs no key of the tile.
static bool strip_at(const job *j, const place *p, int64_t r, int64_t *step, place *out) {
  const bool crossed = j->d->causal && p->j + p->n - 1 > p->i + j->d->offset;
  *step = crossed ? STRIP : TILE;
  *out = *p;
  out->i += r;
  out->m = ZG_MIN(*step, p->m - r);
  out->n = ZG_MIN(p->n, keys_until(j, out->i + out->m) - p->j);
  return out->n > 0;
}

// ---- forward
// --------------------------------------------------------------------------------------------------------------
typedef struct {
  float *keys, *values, *q, *o, *s, *pairs, *max, *sum, *keep;
} forward_tiles;

static void pack_keys(const job *j, int64_t b, int64_t kh, int64_t n_keys, const forward_tiles *w) {
  const zg_vec *vec = j->c->vec;
  for (int64_t at = 0; at < n_keys; at += TILE) {
    const int64_t n = ZG_MIN(TILE, j->s - at);
    load_operand(j, j->iq + 1, true, b, kh, at, n, TILE, w->q, j->dp, w->o);
    vec->tile_transpose(TILE, padded(j->dp / j->h2), w->q, j->dp / j->h2, w->keys + at * j->dp, TILE);
    load_operand(j, j->iq + 2, false, b, kh, at, n, TILE, w->values + at * j->ep, j->ep, w->o);
  }
}

// The weights as a left side; an odd last column gets a zero beside it.
static const float *weights_operand(const job *j, const place *p, float *s, float *pairs) {
  for (int64_t i = 0; i < p->m && j->h2 == 2 && p->n % 2; i++) s[i * TILE + p->n] = 0;
  return operand(j, true, whole(p->m), padded(p->n), s, TILE, pairs);
}

// Rows r .. of the query tile against one strip's keys.
static void forward_strip(const job *j, const place *p, int64_t r, const forward_tiles *w) {
  const zg_vec *vec = j->c->vec;
  const int64_t m8 = whole(p->m);
  float *s = w->s + r * TILE, *o = w->o + r * j->ep;
  product(j, m8, padded(p->n), j->de, w->q + r * j->dp / j->h2, j->dp, true, w->keys + p->j * j->dp, TILE, s,
          TILE, false);
  const float scale = close_tile(j, p, s);
  vec->tile_softmax(p->m, p->n, s, TILE, scale, w->max + r, w->sum + r, w->keep + r);
  if (p->j) vec->tile_scale_rows(p->m, j->ep, o, j->ep, w->keep + r);
  const float *weights = weights_operand(j, p, s, w->pairs);
  product(j, m8, j->ep, p->n, weights, TILE, true, w->values + p->j * j->ep, j->ep, o, j->ep, true);
}

static void query_tile(const job *j, place p, forward_tiles *w) {
  const zg_vec *vec = j->c->vec;
  const int64_t m8 = whole(p.m), n_keys = keys_until(j, p.i + p.m);
  load_operand(j, j->iq, true, p.b, p.h, p.i, p.m, m8, w->q, j->dp, w->o);
  memset(w->o, 0, sizeof(float) * (size_t)(m8 * j->ep));
  for (int64_t r = 0; r < m8; r++) w->max[r] = -INFINITY, w->sum[r] = 0;
  for (p.j = 0; p.j < n_keys; p.j += TILE) {
    p.n = ZG_MIN(TILE, j->s - p.j);
    place strip;
    for (int64_t r = 0, step; r < p.m; r += step)
      if (strip_at(j, &p, r, &step, &strip)) forward_strip(j, &strip, r, w);
  }
  for (int64_t r = 0; r < p.m; r++) w->keep[r] = w->sum[r] > 0 ? 1.0f / w->sum[r] : 0.0f;
  vec->tile_scale_rows(p.m, j->ep, w->o, j->ep, w->keep);
  store_rows(j, 0, p.b, p.h, p.i, p.m, w->o, j->ep);
  if (!j->c->k->args[1].buf) return;
  for (int64_t r = 0; r < p.m; r++) w->keep[r] = w->sum[r] > 0 ? w->max[r] + logf(w->sum[r]) : INFINITY;
  const zg_view *l = &j->c->k->args[1];
  vec->store[l->dtype](p.m, cpu_at(j->c, 1, row_at(l, p.b, p.h, p.i)), w->keep, l->stride[2]);
}

static void forward(void *arg, int64_t chunk, int thread) {
  const job *j = arg;
  const int64_t part = chunk % j->parts, b = chunk / j->parts / j->kh, kh = chunk / j->parts % j->kh;
  const int64_t all = j->group * j->q_tiles, first = all * part / j->parts, end = all * (part + 1) / j->parts;
  float *at = (float *)j->c->scratch[thread];
  forward_tiles w = {.q = at, .o = at + TILE * j->dp, .s = at + TILE * (j->dp + ZG_MAX(j->dp, j->ep))};
  w.pairs = w.s + TILE * TILE;  // of the weights
  w.max = w.pairs + TILE * TILE, w.sum = w.max + TILE, w.keep = w.sum + TILE;
  w.keys = at + tiles_floats(j);
  w.values = w.keys + j->k_tiles * TILE * j->dp;
  int64_t n_keys = 0;
  for (int64_t i = first; i < end; i++)
    n_keys = ZG_MAX(n_keys, keys_until(j, ZG_MIN(j->t, (i % j->q_tiles + 1) * TILE)));
  pack_keys(j, b, kh, n_keys, &w);
  for (int64_t i = first; i < end; i++) {
    const int64_t q0 = i % j->q_tiles * TILE;
    query_tile(j, (place){.b = b, .h = kh * j->group + i / j->q_tiles, .i = q0, .m = ZG_MIN(TILE, j->t - q0)},
               &w);
  }
}

// ---- backward
// -------------------------------------------------------------------------------------------------------------
typedef struct {
  float *k, *kt, *vt, *dk, *dv, *dy, *s, *ds, *pk, *ps, *pds;  // tiles; kt, vt: transposed; p..: pairs
  const float *kr;                                             // keys as a right side
  float *qc, *qr, *dyc, *dyr;                                  // operands of all query tiles, as left and right sides
  float *dq, *lse, *delta;                                     // of all query tiles
} backward_tiles;

static backward_tiles backward_split(const job *j, float *at) {
  backward_tiles w;
  const int64_t d = TILE * j->dp, e = TILE * j->ep, wide = TILE * ZG_MAX(j->dp, j->ep);
  w.k = at, w.kt = w.k + d, w.dk = w.kt + d, w.vt = w.dk + d, w.dv = w.vt + e;
  w.dy = w.dv + e, w.pk = w.dy + wide, w.s = w.pk + wide, w.ds = w.s + TILE * TILE;
  w.ps = w.ds + TILE * TILE, w.pds = w.ps + TILE * TILE;
  w.dq = at + tiles_floats(j);
  const int64_t rows = j->group * j->q_tiles * TILE;
  w.lse = w.dq + rows * j->dp, w.delta = w.lse + rows;
  w.qc = w.delta + rows, w.dyc = w.qc + rows * j->dp;
  w.qr = j->h2 == 1 ? w.qc : w.qc + rows * j->dp / 2, w.dyr = j->h2 == 1 ? w.dyc : w.dyc + rows * j->ep / 2;
  return w;
}

// Query tile i of head h, which is row `row` of the key head's: operands, lse, delta = dy . y.
static void prepare_tile(const job *j, int64_t b, int64_t h, int64_t i, int64_t row, const backward_tiles *w) {
  const zg_vec *vec = j->c->vec;
  const int64_t m = ZG_MIN(TILE, j->t - i), m8 = whole(m), rq = row * j->dp / j->h2, ry = row * j->ep / j->h2;
  float *dy = j->h2 == 1 ? w->dyc + ry : w->dy;
  load_row_values(j, j->iq + 4, b, h, i, m, w->lse + row);
  load_rows(j, j->iq + 5, b, h, i, m, m8, dy, j->ep);
  load_rows(j, j->iq + 3, b, h, i, m, m, w->dv, j->ep);
  for (int64_t r = 0; r < m; r++) w->delta[row + r] = vec->tile_dot(j->ep, dy + r * j->ep, w->dv + r * j->ep);
  load_operand(j, j->iq, true, b, h, i, m, m8, w->qc + rq, j->dp, w->k);
  if (j->h2 == 1) return;
  load_operand(j, j->iq, false, b, h, i, m, m8, w->qr + rq, j->dp, w->k);
  vec->tile_pair_cols(m8, j->ep, dy, j->ep, w->dyc + ry);
  vec->tile_pair_rows(m8, j->ep, dy, j->ep, w->dyr + ry);
}

static void prepare_rows(const job *j, int64_t b, int64_t kh, const backward_tiles *w) {
  memset(w->dq, 0, sizeof(float) * (size_t)(j->group * j->q_tiles * TILE * j->dp));
  for (int64_t g = 0; g < j->group; g++)
    for (int64_t i = 0; i < j->q_tiles; i++) prepare_tile(j, b, kh * j->group + g, i * TILE, (g * j->q_tiles + i) * TILE, w);
}

// Rows r .. of the query tile, which is row `row` of the head, against one strip's keys.
static void backward_strip(const job *j, const place *p, int64_t r, int64_t row, const backward_tiles *w) {
  const zg_vec *vec = j->c->vec;
  const int64_t m8 = whole(p->m), n8 = whole(p->n), n16 = padded(p->n);
  const int64_t rq = (row + r) * j->dp / j->h2, ry = (row + r) * j->ep / j->h2;
  product(j, m8, n16, j->de, w->qc + rq, j->dp, true, w->kt, TILE, w->s, TILE, false);
  const float scale = close_tile(j, p, w->s);
  vec->tile_weights(p->m, p->n, w->s, TILE, scale, w->lse + row + r);
  for (int64_t i = 0; i < p->m && n8 > p->n; i++)  // keys of later strips gain nothing from this one
    memset(w->s + i * TILE + p->n, 0, sizeof(float) * (size_t)(n8 - p->n));
  product(j, m8, n16, j->ev, w->dyc + ry, j->ep, true, w->vt, TILE, w->ds, TILE, false);
  const float *weights = operand(j, false, m8, n16, w->s, TILE, w->ps);
  product(j, n8, j->ep, p->m, weights, TILE, false, w->dyr + ry, j->ep, w->dv, j->ep, true);
  vec->tile_dscores(p->m, n16, w->s, w->ds, TILE, w->delta + row + r, (float)j->d->scale);
  const float *d = operand(j, false, m8, n16, w->ds, TILE, w->ps);
  product(j, n8, j->dp, p->m, d, TILE, false, w->qr + rq, j->dp, w->dk, j->dp, true);
  d = operand(j, true, m8, n16, w->ds, TILE, w->pds);
  product(j, m8, j->dp, p->n, d, TILE, true, w->kr, j->dp, w->dq + (row + r) * j->dp, j->dp, true);
}

static void backward_tile(const job *j, const place *p, int64_t row, backward_tiles *w) {
  place strip;
  for (int64_t r = 0, step; r < p->m; r += step)
    if (strip_at(j, p, r, &step, &strip)) backward_strip(j, &strip, r, row, w);
}

static void key_tile(const job *j, int64_t b, int64_t kh, int64_t at, backward_tiles *w) {
  const zg_vec *vec = j->c->vec;
  const int64_t n = ZG_MIN(TILE, j->s - at);
  load_operand(j, j->iq + 2, true, b, kh, at, n, TILE, w->pk, j->ep, w->dy);
  vec->tile_transpose(TILE, padded(j->ep / j->h2), w->pk, j->ep / j->h2, w->vt, TILE);
  load_operand(j, j->iq + 1, true, b, kh, at, n, TILE, w->pk, j->dp, w->k);
  vec->tile_transpose(TILE, padded(j->dp / j->h2), w->pk, j->dp / j->h2, w->kt, TILE);
  if (j->h2 == 2) load_operand(j, j->iq + 1, false, b, kh, at, n, TILE, w->pk, j->dp, w->k);
  w->kr = w->pk;
  memset(w->dk, 0, sizeof(float) * (size_t)(TILE * j->dp));
  memset(w->dv, 0, sizeof(float) * (size_t)(TILE * j->ep));
  for (int64_t g = 0; g < j->group; g++)
    for (int64_t i = 0; i < j->q_tiles; i++) {
      const place p = {b, kh * j->group + g, i * TILE, ZG_MIN(TILE, j->t - i * TILE), at, n};
      if (keys_until(j, p.i + p.m) > at) backward_tile(j, &p, (g * j->q_tiles + i) * TILE, w);
    }
  store_rows(j, 1, b, kh, at, n, w->dk, j->dp);
  store_rows(j, 2, b, kh, at, n, w->dv, j->ep);
}

static void backward(void *arg, int64_t chunk, int thread) {
  const job *j = arg;
  const int64_t b = chunk / j->kh, kh = chunk % j->kh;
  backward_tiles w = backward_split(j, (float *)j->c->scratch[thread]);
  prepare_rows(j, b, kh, &w);
  for (int64_t at = 0; at < j->s; at += TILE) key_tile(j, b, kh, at, &w);
  for (int64_t g = 0; g < j->group; g++)
    for (int64_t i = 0; i < j->q_tiles; i++)
      store_rows(j, 0, b, kh * j->group + g, i * TILE, ZG_MIN(TILE, j->t - i * TILE),
                 w.dq + (g * j->q_tiles + i) * TILE * j->dp, j->dp);
}

zg_status cpu_attention(const cpu_call *c) {
  if (!narrow(c->k)) return zg_kernel_reference(c->k, c->base, (zg_rand_state){{0}, 0});
  job j = job_of(c->k, c);
  const int64_t heads = j.b * j.kh, want = 4 * (int64_t)zg_pool_threads(c->pool);
  if (heads == 0) return NULL;
  j.parts = ZG_MAX(1, ZG_MIN((want + heads - 1) / heads, j.group * j.q_tiles));
  if (c->k->kind == ZG_K_ATTENTION) zg_pool_run(c->pool, heads * j.parts, forward, &j);
  else zg_pool_run(c->pool, heads, backward, &j);
  return NULL;
}
