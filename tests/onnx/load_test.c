// Loading: signatures, the tensor table, bytes in every form, and files that lie.
#include "onnx_test.h"

static zg_status load(const char *path) {
  zg_onnx_model *m = NULL;
  zg_status s = zg_onnx_load(path, &m);
  zg_onnx_free(m);
  return s;
}

START_TEST(signature) {
  zg_onnx_model *m;
  uint32_t n;
  ok(zg_onnx_load(zoo_file("hf_bert_tiny", "model.onnx"), &m));
  const zg_signature *in = zg_onnx_inputs(m, &n);
  ck_assert_uint_eq(n, 2);
  ck_assert_str_eq(in[0].name, "input_ids");
  ck_assert(in[0].known && in[0].dtype == ZG_I64 && in[0].rank == 2);
  ck_assert_str_eq(in[0].dim[0].symbol, "batch");
  ck_assert_int_eq(in[0].dim[1].value, 24);
  ck_assert_ptr_null(in[0].dim[1].symbol);
  const zg_signature *out = zg_onnx_outputs(m, &n);
  ck_assert_uint_eq(n, 1);
  ck_assert_str_eq(out[0].name, "logits");
  ck_assert_int_eq(zg_onnx_opset(m), 20);
  ck_assert_str_eq(zg_onnx_producer(m), "pytorch");
  zg_onnx_free(m);
  ok(zg_onnx_load(zoo_file("skl_mlp", "model.onnx"), &m));
  in = zg_onnx_inputs(m, &n);
  ck_assert_str_eq(in[0].dim[0].symbol, "X_dim0");  // a dim of 0 is an unnamed symbol
  zg_onnx_free(m);
}
END_TEST

static int find_tensor(const zg_onnx_model *m, const char *name) {
  for (uint32_t i = 0; i < zg_onnx_n_tensors(m); i++)
    if (!strcmp(zg_onnx_tensor_at(m, i)->name, name)) return (int)i;
  ck_abort_msg("no tensor %s", name);
}

static double element(zg_onnx_model *m, const char *name, int64_t i) {
  int at = find_tensor(m, name);
  const void *bytes;
  uint64_t raw = 0;
  ok(zg_onnx_tensor_bytes(m, (uint32_t)at, &bytes));
  zg_dtype d = zg_onnx_tensor_at(m, (uint32_t)at)->type.dtype;
  memcpy(&raw, (const char *)bytes + i * zg_dtype_bytes(d), zg_dtype_bytes(d));
  return zg_get_f64(d, &raw, 0);
}

START_TEST(typed_fields) {
  zg_onnx_model *m;
  ok(zg_onnx_load(fixture("typed", ".onnx"), &m));
  static const char *const is_signed[] = {"float", "double", "float16", "bfloat16",
                                          "int8",  "int16",  "int32",   "int64"};
  static const char *const is_unsigned[] = {"uint8", "uint16", "uint32", "uint64"};
  for (size_t i = 0; i < ZG_COUNT(is_signed); i++) ck_assert_double_eq(element(m, is_signed[i], 1), -3);
  for (size_t i = 0; i < ZG_COUNT(is_unsigned); i++) ck_assert_double_eq(element(m, is_unsigned[i], 1), 200);
  for (size_t i = 0; i < ZG_COUNT(is_signed); i++) ck_assert_double_eq(element(m, is_signed[i], 2), 7);
  ck_assert_double_eq(element(m, "bool", 0), 1);
  ck_assert_double_eq(element(m, "bool", 1), 0);
  zg_onnx_free(m);
}
END_TEST

START_TEST(sparse) {
  zg_onnx_model *m;
  ok(zg_onnx_load(fixture("sparse", ".onnx"), &m));
  static const double w[12] = {1.5, 0, 0, 0, -2, 0, 0, 0, 0, 0, 0, 4},
                      k[12] = {0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5};
  for (int i = 0; i < 12; i++) {
    ck_assert_double_eq(element(m, "w", i), w[i]);
    ck_assert_double_eq(element(m, "k", i), k[i]);
  }
  zg_onnx_free(m);
}
END_TEST

START_TEST(external_data) {
  static const struct {
    const char *file;
    zg_code code;
    const char *part;
  } bad[] = {
      {"external_parent", ZG_INVALID, "outside of the model's folder"},
      {"external_absolute", ZG_INVALID, "outside of the model's folder"},
      {"external_link", ZG_INVALID, "leaves the model's folder"},
      {"external_absent", ZG_NOT_FOUND, "no_such.bin"},
      {"external_short", ZG_CORRUPT, "which has 592"},
  };
  zg_onnx_model *m;
  ok(zg_onnx_load(fixture("external", ".onnx"), &m));
  ck_assert(zg_onnx_tensor_at(m, 0)->external);
  const void *w, *b;
  ok(zg_onnx_tensor_bytes(m, 0, &w));
  ok(zg_onnx_tensor_bytes(m, 1, &b));
  ck_assert_int_eq((const char *)b - (const char *)w,
                   8 * 16 * 4 + 4);  // both in one mapping, 4 bytes between
  zg_onnx_free(m);
  for (size_t i = 0; i < ZG_COUNT(bad); i++) {
    const void *p;
    ok(zg_onnx_load(fixture(bad[i].file, ".onnx"), &m));  // absent data are fine until they are asked for
    zg_status s = zg_onnx_tensor_bytes(m, 0, &p);
    if (!s) s = zg_onnx_tensor_bytes(m, 1, &p);
    fails(s, bad[i].code, bad[i].part);
    zg_onnx_free(m);
  }
}
END_TEST

START_TEST(refused) {
  fails(load(fixture("bad_ir", ".onnx")), ZG_UNSUPPORTED, "IR version 2");
  fails(load(fixture("bad_opset", ".onnx")), ZG_UNSUPPORTED, "opset 5");
  fails(load(fixture("no_such_file", ".onnx")), ZG_NOT_FOUND, "no_such_file.onnx");
  static const struct {
    const char *text, *part;
  } other[] = {
      {"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"},
      {"PK\003\004....", "zip"},
      {"<!DOCTYPE html>", "HTML"},
      {"", "empty"},
      {"random text that is no model", "no ONNX model"},
  };
  for (size_t i = 0; i < ZG_COUNT(other); i++) {
    const char *path = scratch("other.onnx");
    write_file(path, other[i].text, strlen(other[i].text));
    zg_status s = load(path);
    ck_assert_ptr_nonnull(s);
    fails(s, zg_status_code(s), other[i].part);
  }
}
END_TEST

// ---- hostile files
// ------------------------------------------------------------------------------------------------------
static uint32_t seed = 12345;
static uint32_t next_random(void) { return seed = seed * 1664525u + 1013904223u, seed >> 8; }

// Loads, asks for all bytes, imports: whatever happens, it is a status.
static bool survives(const char *path) {
  zg_onnx_model *m = NULL;
  zg_status s = zg_onnx_load(path, &m);
  bool loaded = !s;
  zg_status_free(s);
  if (!loaded) return false;
  for (uint32_t i = 0; i < zg_onnx_n_tensors(m); i++) {
    const void *p;
    if (zg_type_bytes(&zg_onnx_tensor_at(m, i)->type) < 1 << 24)
      zg_status_free(zg_onnx_tensor_bytes(m, i, &p));
  }
  zg_graph *g = NULL;
  zg_status_free(zg_onnx_import(m, &(zg_import_options){.default_dim = 2}, &g));
  zg_graph_free(g);
  zg_onnx_free(m);
  return true;
}

static const char *const victims[] = {"functions", "loop",  "if_folded", "sequences",
                                      "sparse",    "typed", "parameters"};

START_TEST(truncated) {
  const char *path = scratch("cut.onnx");
  quiet(true);
  for (size_t v = 0; v < ZG_COUNT(victims); v++) {
    zg_str all = {0};
    int n_loaded = 0, n_cut = 0;
    ok(zg_file_read(fixture(victims[v], ".onnx"), &all));
    size_t step = ZG_MAX(all.n / 150, 1);
    for (size_t n = 0; n < all.n; n += step, n_cut++) {
      write_file(path, all.at, n);
      n_loaded += survives(path);
    }
    ck_assert_int_lt(n_loaded,
                     n_cut / 4);  // a cut between two fields of the model can go unseen, others may not
    zg_str_fini(&all);
  }
  quiet(false);
}
END_TEST

START_TEST(flipped_bits) {
  const char *path = scratch("flip.onnx");
  quiet(true);
  for (size_t v = 0; v < ZG_COUNT(victims); v++) {
    zg_str all = {0};
    ok(zg_file_read(fixture(victims[v], ".onnx"), &all));
    for (int k = 0; k < 250; k++) {
      size_t at[3];
      for (int i = 0; i < 3; i++) at[i] = next_random() % all.n;
      int n = 1 + k % 3, bit = (int)(next_random() % 8);
      for (int i = 0; i < n; i++) all.at[at[i]] ^= (char)(1 << bit);
      write_file(path, all.at, all.n);
      survives(path);
      for (int i = 0; i < n; i++) all.at[at[i]] ^= (char)(1 << bit);
    }
    zg_str_fini(&all);
  }
  quiet(false);
}
END_TEST

START_TEST(random_bytes) {
  const char *path = scratch("random.onnx");
  uint8_t b[512];
  for (int k = 0; k < 300; k++) {
    for (size_t i = 0; i < sizeof b; i++) b[i] = (uint8_t)next_random();
    if (k % 2) b[0] = 0x3a;  // field 7, the graph
    write_file(path, b, next_random() % sizeof b);
    survives(path);
  }
}
END_TEST

// AttributeProto.g.node.attribute.g... nested until the stack would overflow.
START_TEST(deep_nesting) {
  const char *path = scratch("deep.onnx");
  zg_str s = {0};
  static const uint8_t tags[3] = {0x0a, 0x2a,
                                  0x32};  // GraphProto.node, NodeProto.attribute, AttributeProto.g
  for (int k = 0; k < 3000; k++) {
    zg_str outer = {0};
    uint8_t head[6] = {tags[(3001 - k) % 3]};
    size_t n = s.n, len = 1;
    do {
      head[len++] = (uint8_t)((n & 0x7f) | (n > 0x7f ? 0x80 : 0));
      n >>= 7;
    } while (n);
    zg_str_put(&outer, (const char *)head, len);
    if (s.n) zg_str_put(&outer, s.at, s.n);
    zg_str_fini(&s);
    s = outer;
  }
  s.at[0] = 0x3a;  // ModelProto.graph
  write_file(path, s.at, s.n);
  zg_str_fini(&s);
  fails(load(path), ZG_CORRUPT, "nested too deeply");
}
END_TEST

int main(void) {
  Suite *s = suite_create("onnx load");
  TCase *t = tcase_create("load");
  suite_add_tcase(s, t);
  tcase_add_test(t, signature);
  tcase_add_test(t, typed_fields);
  tcase_add_test(t, sparse);
  tcase_add_test(t, external_data);
  tcase_add_test(t, refused);
  TCase *h = tcase_create("hostile");
  suite_add_tcase(s, h);
  tcase_set_timeout(h, 60);
  tcase_add_test(h, truncated);
  tcase_add_test(h, flipped_bits);
  tcase_add_test(h, random_bytes);
  tcase_add_test(h, deep_nesting);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int n = srunner_ntests_failed(r);
  srunner_free(r);
  return n != 0;
}
