// Export: what is replaced changes, all else stays as it was; external data both ways.
#include "graph/onnx/export_priv.h"
#include "graph/onnx/onnx_priv.h"
#include "onnx_test.h"

START_TEST(unchanged_is_identical) {
  static const char *const files[] = {"functions", "if_folded", "sparse", "typed", "careless"};
  for (size_t i = 0; i < ZG_COUNT(zoo) + ZG_COUNT(files); i++) {
    const char *from =
        i < ZG_COUNT(zoo) ? zoo_file(zoo[i], "model.onnx") : fixture(files[i - ZG_COUNT(zoo)], ".onnx");
    const char *to = scratch("same.onnx");
    zg_onnx_model *m;
    zg_str a = {0}, b = {0};
    ok(zg_onnx_load(from, &m));
    ok(zg_onnx_export(m, NULL, 0, to));
    ok(zg_file_read(from, &a));
    ok(zg_file_read(to, &b));
    ck_assert_msg(a.n == b.n && !memcmp(a.at, b.at, a.n), "%s changed", from);
    zg_str_fini(&a);
    zg_str_fini(&b);
    zg_onnx_free(m);
  }
}
END_TEST

// New bytes for every second tensor: a pattern that depends on the tensor's index.
static void *pattern(const zg_onnx_tensor_info *t, uint32_t i) {
  uint64_t n = zg_type_bytes(&t->type);
  uint8_t *p = zg_alloc(n + 1);
  for (uint64_t k = 0; k < n; k++) p[k] = (uint8_t)(k * 7 + i + 1);
  return p;
}

// Exports with patterns, loads again and compares every tensor with what it must be.
static void round_trip(const char *from, const char *to, uint64_t limit, bool want_external) {
  zg_onnx_model *m, *again;
  ok(zg_onnx_load(from, &m));
  uint32_t n = zg_onnx_n_tensors(m), n_new = 0;
  zg_onnx_replacement *r = zg_alloc((n + 1) * sizeof *r);
  for (uint32_t i = 0; i < n; i += 2)
    if (zg_dtype_is_float(zg_onnx_tensor_at(m, i)->type.dtype))
      r[n_new++] = (zg_onnx_replacement){i, pattern(zg_onnx_tensor_at(m, i), i)};
  ok(zg__onnx_export(m, r, n_new, to, limit));
  ok(zg_onnx_load(to, &again));
  ck_assert_uint_eq(zg_onnx_n_tensors(again), n);
  bool external = false;
  for (uint32_t i = 0, k = 0; i < n; i++) {
    const zg_onnx_tensor_info *t = zg_onnx_tensor_at(m, i), *u = zg_onnx_tensor_at(again, i);
    const void *a, *b;
    ck_assert_str_eq(t->name, u->name);
    ck_assert(zg_type_equal(&t->type, &u->type));
    if (k < n_new && r[k].source == i) a = r[k++].data;
    else ok(zg_onnx_tensor_bytes(m, i, &a));
    ok(zg_onnx_tensor_bytes(again, i, &b));
    ck_assert_msg(!memcmp(a, b, zg_type_bytes(&t->type)), "%s: %s differs", from, t->name);
    external |= u->external;
  }
  ck_assert(external == want_external);
  for (uint32_t k = 0; k < n_new; k++) zg_free((void *)(uintptr_t)r[k].data);
  zg_free(r);
  zg_onnx_free(again);
  zg_onnx_free(m);
}

START_TEST(replaced) {
  for (size_t i = 0; i < ZG_COUNT(zoo); i++)
    round_trip(zoo_file(zoo[i], "model.onnx"), scratch("new.onnx"), UINT64_MAX, false);
  round_trip(fixture("typed", ".onnx"), scratch("new.onnx"), UINT64_MAX, false);
  round_trip(fixture("parameters", ".onnx"), scratch("new.onnx"), UINT64_MAX, false);
}
END_TEST

START_TEST(to_external_and_back) {
  const char *model = scratch("big.onnx"), *data = scratch("big.onnx.data");
  round_trip(zoo_file("nanogpt_tiny", "model.onnx"), model, 1000, true);
  ck_assert(zg_file_exists(data));
  round_trip(model, scratch("bigger.onnx"), 1000, true);
  round_trip(model, scratch("small.onnx"), UINT64_MAX, false);
  round_trip(model, model, 1000, true);  // onto itself, while it is mapped
  round_trip(fixture("external", ".onnx"), scratch("inside.onnx"), UINT64_MAX, false);
}
END_TEST

START_TEST(sparse_becomes_dense) {
  zg_onnx_model *m;
  const void *b;
  float w[12];
  const char *to = scratch("dense.onnx");
  for (int i = 0; i < 12; i++) w[i] = (float)i;
  ok(zg_onnx_load(fixture("sparse", ".onnx"), &m));
  ck_assert_str_eq(zg_onnx_tensor_at(m, 0)->name, "w");
  ok(zg_onnx_export(m, &(zg_onnx_replacement){0, w}, 1, to));
  zg_onnx_free(m);
  ok(zg_onnx_load(to, &m));
  ck_assert_str_eq(zg_onnx_tensor_at(m, 0)->name, "w");
  ok(zg_onnx_tensor_bytes(m, 0, &b));
  ck_assert(!memcmp(b, w, sizeof w));
  zg_onnx_free(m);
}
END_TEST

static uint32_t tensor_named(const zg_onnx_model *m, const char *name) {
  uint32_t i = 0;
  while (i < zg_onnx_n_tensors(m) && strcmp(zg_onnx_tensor_at(m, i)->name, name)) i++;
  ck_assert_msg(i < zg_onnx_n_tensors(m), "no tensor %s", name);
  return i;
}

static void holds(zg_onnx_model *m, const char *name, const float *want, size_t n) {
  const void *b;
  const zg_onnx_tensor_info *t = zg_onnx_tensor_at(m, tensor_named(m, name));
  ck_assert_uint_eq(zg_type_bytes(&t->type), n * sizeof *want);
  ok(zg_onnx_tensor_bytes(m, tensor_named(m, name), &b));
  ck_assert_msg(!memcmp(b, want, n * sizeof *want), "%s has other values", name);
}

// What ConstantOfShape made becomes an initializer; what was not replaced stays a node.
START_TEST(generated_becomes_initializer) {
  zg_onnx_model *m;
  zg_graph *g;
  static const float gain[] = {1, 2, 3}, halves[] = {0.5f, 0.5f, 0.5f}, zeros[] = {0, 0, 0};
  const char *to = scratch("generated.onnx");
  ok(zg_onnx_load(fixture("weights", ".onnx"), &m));
  holds(m, "gain", halves, 3);
  holds(m, "bias", zeros, 3);
  ok(zg_onnx_export(m, &(zg_onnx_replacement){tensor_named(m, "gain"), gain}, 1, to));
  zg_onnx_free(m);
  ok(zg_onnx_load(to, &m));
  holds(m, "gain", gain, 3);
  holds(m, "bias", zeros, 3);
  ck_assert(!zg_onnx_tensor_at(m, tensor_named(m, "gain"))->is_constant_node);
  ck_assert(zg_onnx_tensor_at(m, tensor_named(m, "bias"))->is_constant_node);
  ok(zg_onnx_import(m, &(zg_import_options){.default_dim = 2}, &g));
  ck_assert(zg_is(zg_find_leaf(g, "gain")));
  zg_graph_free(g);
  zg_onnx_free(m);
}
END_TEST

// A file of IR version 3 has every initializer among its inputs, a new one too.
START_TEST(old_files_list_it_as_input) {
  zg_onnx_model *m;
  static const float w[12] = {1, 2, 3};
  const char *to = scratch("old_ir.onnx");
  ok(zg_onnx_load(fixture("old_ir", ".onnx"), &m));
  ok(zg_onnx_export(m, &(zg_onnx_replacement){tensor_named(m, "w"), w}, 1, to));
  zg_onnx_free(m);
  ok(zg_onnx_load(to, &m));
  holds(m, "w", w, 12);
  const Onnx__GraphProto *g = m->proto->graph;
  ck_assert_uint_eq(g->n_input, 3);
  ck_assert_str_eq(g->input[2]->name, "w");
  const Onnx__TypeProto__Tensor *t = g->input[2]->type->tensor_type;
  ck_assert_int_eq(t->elem_type, ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT);
  ck_assert_uint_eq(t->shape->n_dim, 2);
  ck_assert_int_eq(t->shape->dim[0]->dim_value, 4);
  ck_assert_int_eq(t->shape->dim[1]->dim_value, 3);
  zg_onnx_free(m);
}
END_TEST

// Untied tensors become initializers that their nodes read; tied ones are all written, transposed where they are.
START_TEST(untied_and_tied) {
  zg_onnx_model *m;
  zg_graph *g;
  uint32_t n;
  float emb[24], head[24];
  static const float ones[] = {1, 1, 1, 1}, a[] = {2, 2, 2, 2}, b[] = {3, 3, 3, 4};
  static const char *const names[] = {"emb", "head"};
  const char *to = scratch("untied.onnx");
  for (int r = 0; r < 6; r++)
    for (int c = 0; c < 4; c++) emb[r * 4 + c] = head[c * 6 + r] = (float)(r * 4 + c);
  ok(zg_onnx_load(fixture("merged", ".onnx"), &m));
  ok(zg_onnx_untie(m, &n));
  ok(zg_onnx_tie(m, names, 2));
  const zg_onnx_replacement r[] = {{tensor_named(m, "ln2.weight"), a}, {tensor_named(m, "ones@ln3"), b}, {tensor_named(m, "emb"), emb}};
  ok(zg_onnx_export(m, r, 3, to));
  zg_onnx_free(m);
  ok(zg_onnx_load(to, &m));
  holds(m, "ones", ones, 4);
  holds(m, "ln2.weight", a, 4);
  holds(m, "ones@ln3", b, 4);
  holds(m, "emb", emb, 24);
  holds(m, "head", head, 24);
  ok(zg_onnx_import(m, &(zg_import_options){0}, &g));
  ck_assert(zg_is(zg_find_leaf(g, "ones@ln3")));
  zg_graph_free(g);
  zg_onnx_free(m);
}
END_TEST

START_TEST(failure_leaves_the_old_file) {
  zg_onnx_model *m;
  zg_str a = {0};
  const char *to = scratch("kept.onnx");
  write_file(to, "old", 3);
  ok(zg_onnx_load(fixture("external_absent", ".onnx"), &m));
  fails(zg_onnx_export(m, NULL, 0, to), ZG_NOT_FOUND, "no_such.bin");
  ok(zg_file_read(to, &a));
  ck_assert_str_eq(a.at, "old");
  zg_str_fini(&a);
  fails(zg_onnx_export(m, NULL, 0, "/no/such/folder/x.onnx"), ZG_NOT_FOUND, "no_such.bin");
  zg_onnx_free(m);
  ok(zg_onnx_load(fixture("typed", ".onnx"), &m));
  fails(zg_onnx_export(m, NULL, 0, "/no/such/folder/x.onnx"), ZG_IO, "/no/such/folder");
  zg_onnx_free(m);
}
END_TEST

int main(void) {
  Suite *s = suite_create("onnx export");
  TCase *t = tcase_create("export");
  suite_add_tcase(s, t);
  tcase_add_test(t, unchanged_is_identical);
  tcase_add_test(t, replaced);
  tcase_add_test(t, to_external_and_back);
  tcase_add_test(t, sparse_becomes_dense);
  tcase_add_test(t, generated_becomes_initializer);
  tcase_add_test(t, old_files_list_it_as_input);
  tcase_add_test(t, untied_and_tied);
  tcase_add_test(t, failure_leaves_the_old_file);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int n = srunner_ntests_failed(r);
  srunner_free(r);
  return n != 0;
}
