// Op family: counts of n-grams (TfIdfVectorizer-9) of integer tokens, the first op of text classifiers that scikit-learn exports. All
// n-grams of one length are compared with all windows at once.
#include "graph/op/import_priv.h"
#include "graph/op/op_priv.h"

typedef struct {
  zg_ints pool, starts, places;   // pool_int64s, ngram_counts (where each length begins in the pool), ngram_indexes
  int64_t shortest, longest, skips;
} grams;

// 1 where all `size` tokens of a window equal those of a gram, summed over windows. x: [B, L] i64, windows' tokens `step` apart;
// pool: size * count tokens. Returns f32[B, count], or none where no window fits.
static zg_val count_matches(zg_builder *b, zg_val x, const int64_t *pool, int64_t count, int64_t size, int64_t step) {
  const zg_type t = *zg_b_type(b, x);
  const int64_t windows = t.dim[1] - step * (size - 1), row[] = {1, 1, count}, middle[] = {1};
  if (windows < 1) return (zg_val){0};
  const zg_type gram = zg_type_make(ZG_I64, 3, row);
  zg_val all = {0};
  int64_t *column = ZG_NEW_N(zg_builder_arena(b), int64_t, count + 1);
  for (int64_t i = 0; i < size; i++) {
    for (int64_t g = 0; g < count; g++) column[g] = pool[g * size + i];
    const zg_val token = zg_b_unsqueeze(b, zg_b_slice1(b, x, 1, i * step, windows), 2);   // [B, windows, 1]
    const zg_val hit = zg_b_map2(b, ZG_S_EQ, token, zg_b_const_data(b, &gram, column));
    all = zg_is(all) ? zg_b_map2(b, ZG_S_AND, all, hit) : hit;
  }
  return zg_b_reduce(b, ZG_RED_SUM, zg_b_cast(b, all, ZG_F32), middle, 1, false);
}

// Counts of the grams of one length: single tokens once, longer ones at every distance up to skips + 1.
static zg_val count_length(zg_builder *b, zg_val x, const grams *s, const int64_t *pool, int64_t count, int64_t size) {
  const zg_type none = zg_type_make(ZG_F32, 2, (const int64_t[]){zg_b_type(b, x)->dim[0], count});
  zg_val sum = zg_b_fill(b, &none, 0);
  if (size < s->shortest || size > s->longest) return sum;
  for (int64_t step = 1; step <= (size > 1 ? s->skips + 1 : 1); step++) {
    const zg_val more = count_matches(b, x, pool, count, size, step);
    if (zg_is(more)) sum = zg_add(b, sum, more);
  }
  return sum;
}

static zg_status read_grams(zg_onnx_node *n, grams *s) {
  *s = (grams){.shortest = zg_onnx_int(n, "min_gram_length", 1), .longest = zg_onnx_int(n, "max_gram_length", 1),
               .skips = zg_onnx_int(n, "max_skip_count", 0)};
  if (!zg_onnx_ints(n, "pool_int64s", &s->pool))
    return zg_onnx_error(n, ZG_UNSUPPORTED, "its n-grams are strings; number the tokens before the model");
  if (!zg_onnx_ints(n, "ngram_counts", &s->starts) || !zg_onnx_ints(n, "ngram_indexes", &s->places))
    return zg_onnx_error(n, ZG_INVALID, "attribute ngram_counts or ngram_indexes is missing");
  int64_t total = 0;
  for (int64_t i = 0; i < s->starts.n; i++) {
    const int64_t from = s->starts.at[i], to = i + 1 < s->starts.n ? s->starts.at[i + 1] : s->pool.n;
    if (from < 0 || to < from || to > s->pool.n || (to - from) % (i + 1))
      return zg_onnx_error(n, ZG_INVALID, "ngram_counts does not divide the %lld tokens of the pool", (long long)s->pool.n);
    total += (to - from) / (i + 1);
  }
  if (total != s->places.n) return zg_onnx_error(n, ZG_INVALID, "%lld n-grams have %lld places", (long long)total, (long long)s->places.n);
  for (int64_t i = 0; i < total; i++)
    if (s->places.at[i] < 0 || s->places.at[i] >= 1 << 24) return zg_onnx_error(n, ZG_INVALID, "place %lld", (long long)s->places.at[i]);
  return NULL;
}

// counts: f32[B, grams] in the pool's order -> [B, largest place + 1]; places that no gram has are 0.
static zg_val to_places(zg_builder *b, zg_val counts, const zg_ints *places) {
  const int64_t batch = zg_b_type(b, counts)->dim[0];
  int64_t size = 0;
  for (int64_t i = 0; i < places->n; i++) size = ZG_MAX(size, places->at[i] + 1);
  int64_t *from = ZG_NEW_N(zg_builder_arena(b), int64_t, size + 1);
  for (int64_t i = 0; i < size; i++) from[i] = places->n;   // the column of zeros behind
  for (int64_t i = 0; i < places->n; i++) from[places->at[i]] = i;
  const zg_type zero = zg_type_make(ZG_F32, 2, (const int64_t[]){batch, 1});
  return zg_b_gather(b, zg_b_concat(b, (zg_val[]){counts, zg_b_fill(b, &zero, 0)}, 2, 1), zg_b_int_vec(b, from, size), 1);
}

static zg_status weigh(zg_onnx_node *n, zg_val y, zg_val *out) {
  zg_builder *b = n->b;
  const char *mode = zg_onnx_str(n, "mode", "TF");
  const double *w;
  int64_t n_w;
  *out = y;
  if (!strcmp(mode, "TF")) return NULL;
  if (strcmp(mode, "IDF") && strcmp(mode, "TFIDF")) return zg_onnx_error(n, ZG_INVALID, "mode \"%s\", want TF, IDF or TFIDF", mode);
  if (!strcmp(mode, "IDF")) *out = zg_b_cast(b, zg_b_map2(b, ZG_S_LT, zg_b_like(b, y, 0), y), ZG_F32);
  if (!zg_onnx_floats(n, "weights", &w, &n_w)) return NULL;
  if (n_w != zg_b_type(b, y)->dim[1]) return zg_onnx_error(n, ZG_INVALID, "%lld weights for %s", (long long)n_w, zg_type_text(zg_b_type(b, y)));
  const zg_type t = zg_type_make(ZG_F64, 1, &n_w);
  *out = zg_mul(b, *out, zg_b_cast(b, zg_b_const_data(b, &t, w), ZG_F32));
  return NULL;
}

// x: [L] or [B, L] tokens
static zg_status import_tf_idf(zg_onnx_node *n) {
  zg_builder *b = n->b;
  grams s;
  ZG_TRY(zg__need(n, 1));
  zg_val x = n->in[0], y;
  const bool flat = zg_b_type(b, x)->rank == 1;
  if (flat) x = zg_b_unsqueeze(b, x, 0);
  const zg_type t = *zg_b_type(b, x);
  if (t.rank != 2 || !zg_dtype_is_int(t.dtype)) return zg_onnx_error(n, ZG_INVALID, "the tokens are %s, want integers [L] or [B,L]", zg_type_text(&t));
  ZG_TRY(read_grams(n, &s));
  x = zg_b_cast(b, x, ZG_I64);
  zg_val *parts = ZG_NEW_N(zg_builder_arena(b), zg_val, s.starts.n + 1);
  uint32_t k = 0;
  for (int64_t i = 0; i < s.starts.n; i++) {
    const int64_t from = s.starts.at[i], to = i + 1 < s.starts.n ? s.starts.at[i + 1] : s.pool.n;
    if (to > from) parts[k++] = count_length(b, x, &s, s.pool.at + from, (to - from) / (i + 1), i + 1);
  }
  if (!k) return zg_onnx_error(n, ZG_INVALID, "its pool of n-grams is empty");
  ZG_TRY(weigh(n, to_places(b, zg_b_concat(b, parts, k, 1), &s.places), &y));
  n->out[0] = flat ? zg_b_squeeze(b, y, 0) : y;
  return NULL;
}

static const zg_onnx_row rows[] = {
    {"TfIdfVectorizer", "", 9, 0, import_tf_idf, NULL, 0, .no_gradient = true},
};
const zg_family zg_family_text = {.name = "text", .onnx = rows, .n_onnx = ZG_COUNT(rows)};
