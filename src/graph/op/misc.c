// Op family: what fits nowhere else. ReverseSequence, Unique and BitCast of a constant, the fused ops that ONNX Runtime's
// optimizer writes (com.microsoft), and the ops of ai.onnx.ml that scikit-learn's numeric exports need. All
// are formulas of other ops. Strings, maps and tree ensembles are outside of zgraph.
#include <math.h>
#include <stdlib.h>
#include "graph/op/import_priv.h"
#include "graph/op/op_priv.h"

zg_status zg__onnx_const_floats(const zg_onnx_node *n, uint32_t i, const double **out, int64_t *n_out) {
  const zg_val v = zg_onnx_in(n, i);
  zg_tensor t;
  *out = NULL;
  *n_out = 0;
  if (!zg_is(v)) return NULL;
  if (!zg_b_const(n->b, v, &t))
    return zg_onnx_error(n, ZG_UNSUPPORTED,
                         "input %u (%s) must be known before training starts, but depends on the data", i,
                         zg_type_text(zg_b_type(n->b, v)));
  const int64_t count = zg_elems(&t.type);
  double *at = ZG_NEW_N(zg_builder_arena(n->b), double, count + 1);
  zg_convert(ZG_F64, at, t.type.dtype, t.data, count);
  *out = at;
  *n_out = count;
  return NULL;
}

static zg_status want_operand(const zg_onnx_node *n, uint32_t i, uint32_t least_rank) {
  if (zg_is(zg_onnx_in(n, i)) && zg_b_type(n->b, n->in[i])->rank >= least_rank) return NULL;
  return zg_onnx_error(n, ZG_INVALID, "input %u is missing or has fewer than %u dims", i, least_rank);
}

// ---- ReverseSequence --------------------------------------------------------------------------------------
static zg_status import_reverse_sequence(zg_onnx_node *n) {
  zg_builder *b = n->b;
  ZG_TRY(want_operand(n, 0, 2));
  zg_val x = zg_onnx_in(n, 0);
  const zg_type t = *zg_b_type(b, x);
  const int64_t time = zg_onnx_int(n, "time_axis", 0), batch = zg_onnx_int(n, "batch_axis", 1);
  if ((time != 0 && time != 1) || time + batch != 1)
    return zg_onnx_error(n, ZG_INVALID, "time_axis and batch_axis must be 0 and 1");
  const int64_t T = t.dim[time], swap[ZG_MAX_RANK] = {1, 0, 2, 3, 4, 5, 6, 7}, row[] = {1, T};
  if (batch == 1) x = zg_b_transpose(b, x, swap);  // [B, T, ...]
  const zg_type it = zg_type_make(ZG_I64, 2, row);
  const zg_val step = zg_b_iota(b, &it, 1),
               len = zg_b_unsqueeze(b, zg_b_cast(b, zg_onnx_in(n, 1), ZG_I64), 1);
  const zg_val mirror = zg_add_k(b, zg_sub(b, len, step), -1);
  const zg_val index = zg_b_where(b, zg_b_map2(b, ZG_S_LT, step, len), mirror, step);
  const zg_gather_attr a = {.mode = ZG_IDX_ND, .batch = 1};
  const zg_val in[] = {x, zg_b_unsqueeze(b, index, 2)};
  x = zg_emit1(b, &zg_op_gather, &a, in, 2);
  n->out[0] = batch == 1 ? zg_b_transpose(b, x, swap) : x;
  return NULL;
}

// ---- Unique -----------------------------------------------------------------------------------------------
typedef struct {
  const double *real;      // `len` elements; NULL: they are integers
  const int64_t *integer;
  int64_t len, at;
} item;  // ordered by elements, then by place
static int by_content(const item *a, const item *b) {
  for (int64_t i = 0; i < a->len; i++) {
    if (a->real && a->real[i] != b->real[i]) return a->real[i] < b->real[i] ? -1 : 1;
    if (!a->real && a->integer[i] != b->integer[i]) return a->integer[i] < b->integer[i] ? -1 : 1;
  }
  return 0;
}
static int by_place(const void *p, const void *q) {
  const item *a = p, *b = q;
  return a->at < b->at ? -1 : a->at > b->at;
}
static int by_value(const void *p, const void *q) {
  const int order = by_content(p, q);
  return order ? order : by_place(p, q);
}

// The slices of x across `axis`, each row-major.
static item *slices(zg_arena *mem, const zg_tensor *x, uint32_t axis) {
  const bool real = zg_dtype_is_float(x->type.dtype);
  const int64_t count = x->type.dim[axis], len = count ? zg_elems(&x->type) / count : 0;
  const int64_t inner = zg__prod(&x->type, axis + 1, x->type.rank);
  item *all = ZG_NEW_N(mem, item, count + 1);
  double *f = ZG_NEW_N(mem, double, real ? count * len + 1 : 1);
  int64_t *k = ZG_NEW_N(mem, int64_t, real ? 1 : count * len + 1);
  for (int64_t i = 0; i < count; i++) {
    for (int64_t e = 0; e < len; e++) {
      const int64_t from = (e / inner * count + i) * inner + e % inner;
      if (real) f[i * len + e] = zg_get_f64(x->type.dtype, x->data, from);
      else k[i * len + e] = zg_get_i64(x->type.dtype, x->data, from);
    }
    all[i] = (item){real ? f + i * len : NULL, real ? NULL : k + i * len, len, i};
  }
  return all;
}

// Sorts `all` and copies the first of each kind to `first`; returns how many kinds there are.
static int64_t kinds(item *all, int64_t count, bool sorted, item *first) {
  int64_t k = 0;
  qsort(all, (size_t)count, sizeof *all, by_value);
  for (int64_t i = 0; i < count; i++)
    if (i == 0 || by_content(&all[i], &all[i - 1])) first[k++] = all[i];
  if (!sorted) qsort(first, (size_t)k, sizeof *first, by_place);
  return k;
}

// Of a constant only: the number of results is data. Outputs: values, first places, inverse, counts.
static zg_status import_unique(zg_onnx_node *n) {
  zg_builder *b = n->b;
  zg_tensor x;
  zg_val v = zg_onnx_in(n, 0);
  if (!zg_b_const(b, v, &x))
    return zg_onnx_error(
        n, ZG_UNSUPPORTED,
        "input 0 depends on the data, so the size of the result does; take Unique out of the training graph");
  int64_t axis = 0, flat = zg_elems(&x.type);
  if (zg_onnx_has(n, "axis")) {
    ZG_TRY(zg__axis(n, zg_onnx_int(n, "axis", 0), x.type.rank, &axis));
  } else {
    x.type = zg_type_make(x.type.dtype, 1, &flat);
    v = zg_b_reshape(b, v, &flat, 1);
  }
  zg_arena *mem = zg_builder_arena(b);
  const int64_t count = x.type.dim[axis];
  item *all = slices(mem, &x, (uint32_t)axis), *first = ZG_NEW_N(mem, item, count + 1);
  const int64_t k = kinds(all, count, zg_onnx_int(n, "sorted", 1), first);
  int64_t *place = ZG_NEW_N(mem, int64_t, k + 1), *inverse = ZG_NEW_N(mem, int64_t, count + 1),
          *counts = ZG_NEW_N(mem, int64_t, k + 1);
  for (int64_t j = 0; j < k; j++) place[j] = first[j].at;
  for (int64_t i = 0; i < count; i++) {
    int64_t j = 0;
    while (by_content(&first[j], &all[i])) j++;
    inverse[all[i].at] = j;
    counts[j]++;
  }
  const zg_val index = zg_b_int_vec(b, place, k);
  const zg_val out[] = {zg_b_gather(b, v, index, axis), index, zg_b_int_vec(b, inverse, count), zg_b_int_vec(b, counts, k)};
  for (uint32_t i = 0; i < n->n_out && i < 4; i++) n->out[i] = out[i];
  return NULL;
}

// ---- BitCast ----------------------------------------------------------------------------------------------
// Of a constant only: kernels convert values, they do not reinterpret bits.
static zg_status import_bit_cast(zg_onnx_node *n) {
  zg_tensor x;
  zg_dtype to;
  ZG_TRY(want_operand(n, 0, 0));
  ZG_TRY(zg_onnx_dtype(zg_onnx_int(n, "to", 0), &to));
  if (!zg_b_const(n->b, n->in[0], &x))
    return zg_onnx_error(n, ZG_UNSUPPORTED, "the bits of input 0 depend on the data; use Cast, or cut this part off the graph");
  if (zg_dtype_bytes(to) != zg_dtype_bytes(x.type.dtype))
    return zg_onnx_error(n, ZG_INVALID, "%s cannot be read as %s: their sizes differ", zg_type_text(&x.type), zg_dtype_name(to));
  zg_type t = x.type;
  t.dtype = to;
  n->out[0] = zg_b_const_data(n->b, &t, x.data);
  return NULL;
}

// ---- CumProd, window functions ----------------------------------------------------------------------------
// One product a position: cumulative products are rare, and short where they occur.
static zg_status import_cum_prod(zg_onnx_node *n) {
  zg_builder *b = n->b;
  ZG_TRY(want_operand(n, 0, 1));
  const zg_type t = *zg_b_type(b, zg_onnx_in(n, 0));
  zg_ints at;
  ZG_TRY(zg_onnx_const_ints(n, 1, &at));
  const int64_t axis = at.n == 1 ? (at.at[0] < 0 ? at.at[0] + t.rank : at.at[0]) : -1;
  if (axis < 0 || axis >= t.rank)
    return zg_onnx_error(n, ZG_INVALID, "input 1 is no axis of %s", zg_type_text(&t));
  const bool exclusive = zg_onnx_int(n, "exclusive", 0), reverse = zg_onnx_int(n, "reverse", 0);
  const int64_t count = t.dim[axis];
  zg_val *part = ZG_NEW_N(zg_builder_arena(b), zg_val, count + 1);
  zg_type one = t;
  one.dim[axis] = 1;
  zg_val product = zg_b_fill(b, &one, 1);
  for (int64_t i = 0; i < count; i++) {
    const int64_t k = reverse ? count - 1 - i : i;
    const zg_val next = zg_mul(b, product, zg_b_slice1(b, zg_onnx_in(n, 0), axis, k, 1));
    part[k] = exclusive ? product : next;
    product = next;
  }
  n->out[0] = count ? zg_b_concat(b, part, (uint32_t)count, axis) : zg_onnx_in(n, 0);
  return NULL;
}

// Blackman, Hamming and Hann windows: a0 - a1 cos(2 pi k / N) + a2 cos(4 pi k / N).
static zg_status import_window(zg_onnx_node *n) {
  zg_ints size;
  ZG_TRY(zg_onnx_const_ints(n, 0, &size));
  if (size.n != 1 || size.at[0] < 0)
    return zg_onnx_error(n, ZG_INVALID, "input 0 (size) must be one number, not negative");
  static const struct {
    const char *op_type;
    double a[3];
  } windows[] = {{"BlackmanWindow", {0.42, 0.5, 0.08}},
                 {"HammingWindow", {25.0 / 46, 1 - 25.0 / 46, 0}},
                 {"HannWindow", {0.5, 0.5, 0}}};
  const double *a = windows[0].a;
  for (size_t i = 0; i < ZG_COUNT(windows); i++)
    if (!strcmp(windows[i].op_type, n->op_type)) a = windows[i].a;
  const int64_t count = size.at[0];
  const double period = (double)(zg_onnx_int(n, "periodic", 1) ? count : count - 1);
  double *at = ZG_NEW_N(zg_builder_arena(n->b), double, count + 1);
  for (int64_t k = 0; k < count; k++) {
    const double phase = period > 0 ? 2 * 3.14159265358979323846 * (double)k / period : 0;
    at[k] = a[0] - a[1] * cos(phase) + a[2] * cos(2 * phase);
  }
  zg_dtype to;
  ZG_TRY(zg_onnx_dtype(zg_onnx_int(n, "output_datatype", 1), &to));
  const zg_type t = zg_type_make(ZG_F64, 1, &count);
  n->out[0] = zg_b_cast(n->b, zg_b_const_data(n->b, &t, at), to);
  return NULL;
}

// ---- com.microsoft ----------------------------------------------------------------------------------------
// Gemm with an activation by name.
static zg_status import_fused_gemm(zg_onnx_node *n) {
  zg_builder *b = n->b;
  ZG_TRY(want_operand(n, 0, 2));
  ZG_TRY(want_operand(n, 1, 2));
  zg_val y = zg_b_matmul(b, zg_onnx_in(n, 0), zg_onnx_in(n, 1), zg_onnx_int(n, "transA", 0),
                         zg_onnx_int(n, "transB", 0));
  const double alpha = zg_onnx_float(n, "alpha", 1), beta = zg_onnx_float(n, "beta", 1);
  if (alpha != 1) y = zg_mul_k(b, y, alpha);
  zg_val c = zg_onnx_in(n, 2);
  if (zg_is(c)) y = zg_add(b, y, beta == 1 ? c : zg_mul_k(b, c, beta));
  const char *name = zg_onnx_str(n, "activation", "");
  bool has_alpha, has_beta;
  double a, bb;
  zg__activation_params(name, &has_alpha, &has_beta, &a, &bb);
  a = zg_onnx_float(n, "activation_alpha", a), bb = zg_onnx_float(n, "activation_beta", bb);
  n->out[0] = y;
  if (*name && !zg__activation(b, name, a, bb, y, &n->out[0]))
    return zg_onnx_error(n, ZG_UNSUPPORTED, "activation \"%s\" is not known", name);
  return NULL;
}

// ---- ai.onnx.ml -------------------------------------------------------------------------------------------
// Columns y of x's last dim; y is read flat. A vector counts as one row.
static zg_status import_array_feature_extractor(zg_onnx_node *n) {
  ZG_TRY(want_operand(n, 0, 1));
  ZG_TRY(want_operand(n, 1, 0));
  zg_val x = zg_onnx_in(n, 0);
  const int64_t count = zg_elems(zg_b_type(n->b, zg_onnx_in(n, 1)));
  if (zg_b_type(n->b, x)->rank == 1) x = zg_b_unsqueeze(n->b, x, 0);
  n->out[0] = zg_b_gather(n->b, x, zg_b_reshape(n->b, zg_onnx_in(n, 1), &count, 1), -1);
  return NULL;
}

static zg_val to_f32(zg_builder *b, zg_val x) { return zg_b_cast(b, x, ZG_F32); }

static zg_val float_row(zg_builder *b, const double *at, int64_t count) {
  const zg_type t = zg_type_make(ZG_F64, 1, &count);
  return to_f32(b, zg_b_const_data(b, &t, at));
}

static zg_status import_scaler(zg_onnx_node *n) {
  const double *offset, *scale;
  int64_t n_offset, n_scale;
  zg_val x = to_f32(n->b, zg_onnx_in(n, 0));
  if (zg_onnx_floats(n, "offset", &offset, &n_offset)) x = zg_sub(n->b, x, float_row(n->b, offset, n_offset));
  if (zg_onnx_floats(n, "scale", &scale, &n_scale)) x = zg_mul(n->b, x, float_row(n->b, scale, n_scale));
  n->out[0] = x;
  return NULL;
}

// Rows divided by their norm; a row of zeros stays.
static zg_status import_normalizer(zg_onnx_node *n) {
  zg_builder *b = n->b;
  ZG_TRY(want_operand(n, 0, 1));
  const char *kind = zg_onnx_str(n, "norm", "MAX");
  const zg_val x = to_f32(b, zg_onnx_in(n, 0));
  const int64_t last[] = {-1};
  zg_val norm;
  if (!strcmp(kind, "MAX")) norm = zg_b_reduce(b, ZG_RED_MAX, zg_b_map1(b, ZG_S_ABS, x), last, 1, true);
  else if (!strcmp(kind, "L1")) norm = zg_b_reduce(b, ZG_RED_SUM, zg_b_map1(b, ZG_S_ABS, x), last, 1, true);
  else if (!strcmp(kind, "L2"))
    norm = zg_b_map1(b, ZG_S_SQRT, zg_b_reduce(b, ZG_RED_SUM, zg_mul(b, x, x), last, 1, true));
  else return zg_onnx_error(n, ZG_INVALID, "norm is \"%s\", want MAX, L1 or L2", kind);
  const zg_val none = zg_b_map2(b, ZG_S_EQ, norm, zg_b_like(b, norm, 0));
  n->out[0] = zg_div(b, x, zg_b_where(b, none, zg_b_like(b, norm, 1), norm));
  return NULL;
}

static zg_status import_binarizer(zg_onnx_node *n) {
  const zg_val x = zg_onnx_in(n, 0);
  const zg_val above = zg_b_map2(n->b, ZG_S_LT, zg_b_like(n->b, x, zg_onnx_float(n, "threshold", 0)), x);
  n->out[0] = zg_b_cast(n->b, above, zg_b_type(n->b, x)->dtype);
  return NULL;
}

// replaced_value (NaN: what is no number) becomes imputed_value, one for each column or one for all.
static zg_status import_imputer(zg_onnx_node *n) {
  zg_builder *b = n->b;
  const zg_val x = zg_onnx_in(n, 0);
  const double *values;
  int64_t n_values;
  if (!zg_onnx_floats(n, "imputed_value_floats", &values, &n_values) || n_values < 1)
    return zg_onnx_error(n, ZG_UNSUPPORTED,
                         "attribute imputed_value_floats is missing; integer imputation is not supported");
  const double replaced = zg_onnx_float(n, "replaced_value_float", 0);
  const zg_val hit =
      isnan(replaced) ? zg_b_map1(b, ZG_S_IS_NAN, x) : zg_b_map2(b, ZG_S_EQ, x, zg_b_like(b, x, replaced));
  n->out[0] = zg_b_where(b, hit, zg_b_cast(b, float_row(b, values, n_values), zg_b_type(b, x)->dtype), x);
  return NULL;
}

// Numeric tables only: out = values[k] where x = keys[k], else the default.
static zg_status import_label_encoder(zg_onnx_node *n) {
  zg_builder *b = n->b;
  const zg_val x = zg_onnx_in(n, 0);
  zg_ints ikeys, ivalues;
  const double *fkeys, *fvalues;
  int64_t n_fkeys, n_fvalues;
  const bool ik = zg_onnx_ints(n, "keys_int64s", &ikeys), iv = zg_onnx_ints(n, "values_int64s", &ivalues);
  const bool fk = zg_onnx_floats(n, "keys_floats", &fkeys, &n_fkeys),
             fv = zg_onnx_floats(n, "values_floats", &fvalues, &n_fvalues);
  const int64_t n_keys = ik ? ikeys.n : n_fkeys;
  if (ik == fk || iv == fv || n_keys != (iv ? ivalues.n : n_fvalues))
    return zg_onnx_error(n, ZG_UNSUPPORTED,
                         "want one list of numeric keys and one of as many numeric values; labels that are "
                         "strings are not supported");
  const zg_dtype to = iv ? ZG_I64 : ZG_F32;
  zg_val out = zg_b_scalar(
      b, to, iv ? (double)zg_onnx_int(n, "default_int64", -1) : zg_onnx_float(n, "default_float", -0.0));
  for (int64_t k = n_keys; k-- > 0;) {  // the first of equal keys wins
    const zg_val key = zg_b_like(b, x, ik ? (double)ikeys.at[k] : fkeys[k]),
                 value = zg_b_scalar(b, to, iv ? (double)ivalues.at[k] : fvalues[k]);
    const zg_val hit = fk && isnan(fkeys[k]) ? zg_b_map1(b, ZG_S_IS_NAN, x) : zg_b_map2(b, ZG_S_EQ, x, key);
    out = zg_b_where(b, hit, value, out);
  }
  n->out[0] = n_keys ? out : zg_b_expand(b, out, zg_b_type(b, x)->dim, zg_b_type(b, x)->rank);
  return NULL;
}

// A sequence of maps from class to probability holds what the tensor of probabilities holds.
static zg_status import_zip_map(zg_onnx_node *n) {
  n->out[0] = zg_onnx_in(n, 0);
  return NULL;
}

static zg_status import_feature_vectorizer(zg_onnx_node *n) {
  zg_val part[64];
  if (n->n_in < 1 || n->n_in > ZG_COUNT(part))
    return zg_onnx_error(n, ZG_UNSUPPORTED, "%u inputs, want 1 to %zu", n->n_in, ZG_COUNT(part));
  for (uint32_t i = 0; i < n->n_in; i++) {
    ZG_TRY(want_operand(n, i, 2));
    part[i] = to_f32(n->b, n->in[i]);
  }
  n->out[0] = zg_b_concat(n->b, part, n->n_in, 1);
  return NULL;
}

static const zg_onnx_row rows[] = {
    {"ReverseSequence", "", 10, 0, import_reverse_sequence, NULL, 0},
    {"Unique", "", 11, 0, import_unique, NULL, 0, .no_gradient = true},
    {"BitCast", "", 26, 0, import_bit_cast, NULL, 0, .no_gradient = true},
    {"CumProd", "", 26, 0, import_cum_prod, NULL, 0},
    {"BlackmanWindow", "", 17, 0, import_window, NULL, 0, .no_gradient = true},
    {"HammingWindow", "", 17, 0, import_window, NULL, 0, .no_gradient = true},
    {"HannWindow", "", 17, 0, import_window, NULL, 0, .no_gradient = true},
    {"FusedGemm", "com.microsoft", 1, 0, import_fused_gemm, NULL, 7},
    {"ArrayFeatureExtractor", "ai.onnx.ml", 1, 0, import_array_feature_extractor, NULL, 0},
    {"Scaler", "ai.onnx.ml", 1, 0, import_scaler, NULL, 0},
    {"Normalizer", "ai.onnx.ml", 1, 0, import_normalizer, NULL, 0},
    {"Binarizer", "ai.onnx.ml", 1, 0, import_binarizer, NULL, 0, .no_gradient = true},
    {"Imputer", "ai.onnx.ml", 1, 0, import_imputer, NULL, 0},
    {"LabelEncoder", "ai.onnx.ml", 2, 0, import_label_encoder, NULL, 0, .no_gradient = true},
    {"ZipMap", "ai.onnx.ml", 1, 0, import_zip_map, NULL, 0},
    {"FeatureVectorizer", "ai.onnx.ml", 1, 0, import_feature_vectorizer, NULL, 0},
};
const zg_family zg_family_misc = {.name = "misc", .onnx = rows, .n_onnx = ZG_COUNT(rows)};
