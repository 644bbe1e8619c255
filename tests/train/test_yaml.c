// The document reader: scalars as PyYAML resolves them, places, merges, aliases, duplicate keys, JSON with
// comments.
#include <check.h>
#include <math.h>
#include <stdlib.h>

#include "train/yaml.h"

static zg_arena mem;

static const zg_yaml *yaml(const char *text) {
  const zg_yaml *v = NULL;
  zg_status status = zg_yaml_parse(&mem, "t.yaml", text, strlen(text), &v);
  ck_assert_msg(!status, "%s", zg_status_message(status));
  return v;
}

static void expect_error(zg_status status, const char *part) {
  ck_assert_msg(status != NULL, "expected an error with \"%s\"", part);
  ck_assert_int_eq(zg_status_code(status), ZG_INVALID);
  ck_assert_msg(strstr(zg_status_message(status), part), "\"%s\" is not in: %s", part,
                zg_status_message(status));
  zg_status_free(status);
}

static void expect_yaml_error(const char *text, const char *part) {
  const zg_yaml *v = NULL;
  expect_error(zg_yaml_parse(&mem, "t.yaml", text, strlen(text), &v), part);
}

static void expect_json_error(const char *text, const char *part) {
  const zg_yaml *v = NULL;
  expect_error(zg_json_parse(&mem, "t.json", text, strlen(text), &v), part);
}

#define BOOLEAN(t, x) \
  { t, ZG_YAML_BOOL, x }
#define INTEGER(t, x) \
  { t, ZG_YAML_INT, x }
#define NUMBER(t, x) \
  { t, ZG_YAML_FLOAT, x }
#define STRING(t) \
  { t, ZG_YAML_STR, 0 }
#define NOTHING(t) \
  { t, ZG_YAML_NULL, 0 }

// What PyYAML 6 safe_load gives for each of these, written by fixtures/yaml_scalars.py.
static const struct {
  const char *text;
  zg_yaml_kind kind;
  double value;
} scalars[] = {
#include "yaml_scalars.inc"
};

START_TEST(scalars_resolve_as_in_pyyaml) {
  for (size_t i = 0; i < ZG_COUNT(scalars); i++) {
    const zg_yaml *v = yaml(scalars[i].text);
    ck_assert_msg(v->kind == scalars[i].kind, "%s is %s, want %s", scalars[i].text,
                  zg_yaml_kind_name(v->kind), zg_yaml_kind_name(scalars[i].kind));
    if (v->kind == ZG_YAML_BOOL || v->kind == ZG_YAML_INT)
      ck_assert_msg((double)v->i == scalars[i].value, "%s is %lld", scalars[i].text, (long long)v->i);
    if (v->kind == ZG_YAML_FLOAT && !isnan(scalars[i].value))
      ck_assert_msg(v->f == scalars[i].value, "%s is %.17g", scalars[i].text, v->f);
    if (v->kind == ZG_YAML_FLOAT && isnan(scalars[i].value)) ck_assert(isnan(v->f));
  }
}
END_TEST

START_TEST(nodes_know_their_place) {
  const zg_yaml *v = yaml("a: 1\nb:\n  - x\n  - {c: 2}\n");
  const zg_yaml *list = zg_yaml_get(v, "b");
  ck_assert_uint_eq(list->n, 2);
  ck_assert_uint_eq(list->vals[1]->vals[0]->line, 4);
  ck_assert_uint_eq(list->vals[1]->vals[0]->col, 9);
  ck_assert_ptr_null(zg_yaml_get(v, "d"));
  expect_error(zg_yaml_error(list->vals[1]->vals[0], "too %s", "big"),
               "t.yaml:4:9: too big\n    - {c: 2}\n          ^");
}
END_TEST

START_TEST(empty_documents_are_null) {
  ck_assert_int_eq(yaml("")->kind, ZG_YAML_NULL);
  ck_assert_int_eq(yaml("# only a comment\n")->kind, ZG_YAML_NULL);
  ck_assert_int_eq(yaml("---\n...\n")->kind, ZG_YAML_NULL);
}
END_TEST

START_TEST(merge_keys) {
  const zg_yaml *v = yaml("base: &b {x: 1, y: 2}\nmore: &m {y: 3, z: 4}\nuse:\n  <<: [*b, *m]\n  x: 9\n");
  const zg_yaml *use = zg_yaml_get(v, "use");
  ck_assert_uint_eq(use->n, 3);
  ck_assert_int_eq(zg_yaml_get(use, "x")->i, 9);
  ck_assert_int_eq(zg_yaml_get(use, "y")->i, 2);
  ck_assert_int_eq(zg_yaml_get(use, "z")->i, 4);
  expect_yaml_error("a: {<<: 3}", "<< merges a mapping");
}
END_TEST

START_TEST(aliases) {
  ck_assert_int_eq(zg_yaml_get(yaml("a: &x 3\nb: *x\n"), "b")->i, 3);
  expect_yaml_error("a: *x\n", "no anchor &x");
  expect_yaml_error("a: &x [*x]\n", "stands inside the node");
  zg_str s = {0};
  zg_str_add(&s, "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
  for (int i = 1; i < 9; i++) {
    zg_str_add(&s, "a%d: &a%d [", i, i);
    for (int j = 0; j < 10; j++) zg_str_add(&s, "%s*a%d", j ? ", " : "", i - 1);
    zg_str_add(&s, "]\n");
  }
  expect_yaml_error(s.at, "expands to more than");
  s.n = 0;
  for (int i = 0; i < 100; i++) zg_str_add(&s, "[");
  expect_yaml_error(s.at, "nested more than 64 deep");
  zg_str_fini(&s);
}
END_TEST

START_TEST(bad_yaml_is_refused) {
  expect_yaml_error("a: 1\nb: 2\na: 3\n", "t.yaml:3:1: key \"a\" is given twice (first on line 1)");
  expect_yaml_error("no: 1\noff: 2\n", "given twice");
  expect_yaml_error("a: [1, 2\n", "t.yaml:2:1");
  expect_yaml_error("a:\n\t- 1\n", "tabs");
  expect_yaml_error("a: 1\n---\nb: 2\n", "second document");
  expect_yaml_error("a: !!python/object:os.system x\n", "is not allowed");
  expect_yaml_error("a: \"x\\0y\"\n", "\\0");
  expect_yaml_error("? [a, b]\n: 1\n", "a key must be a scalar");
  expect_yaml_error("a: !!int x\n", "does not fit its tag");
}
END_TEST

START_TEST(json_with_comments) {
  const char *text =
      "// head\n{ /* a\n b */ \"stage\": 3, # tail\n \"size\": 5e8, \"auto\": \"auto\", \"t\": [true, null, "
      "-1.5,],\n"
      " \"s\": \"\\u00e9\\ud83d\\ude00\\/\\n\",}\n";
  const zg_yaml *v = NULL;
  zg_status status = zg_json_parse(&mem, "ds.json", text, strlen(text), &v);
  ck_assert_msg(!status, "%s", zg_status_message(status));
  ck_assert_int_eq(zg_yaml_get(v, "stage")->i, 3);
  ck_assert_uint_eq(zg_yaml_get(v, "stage")->line, 3);
  ck_assert_uint_eq(zg_yaml_get(v, "stage")->col, 16);
  ck_assert_int_eq(zg_yaml_get(v, "size")->kind, ZG_YAML_FLOAT);
  ck_assert(zg_yaml_get(v, "size")->f == 5e8);
  ck_assert_uint_eq(zg_yaml_get(v, "t")->n, 3);
  ck_assert(zg_yaml_get(v, "t")->vals[2]->f == -1.5);
  ck_assert_str_eq(zg_yaml_get(v, "s")->text, "\xc3\xa9\xf0\x9f\x98\x80/\n");
}
END_TEST

START_TEST(bad_json_is_refused) {
  expect_json_error("{\"a\": 1, \"a\": 2}", "t.json:1:10: key \"a\" is given twice");
  expect_json_error("{\"a\": tru}", "\"tru\" is not JSON");
  expect_json_error("{\"a\": 1", "never closed");
  expect_json_error("{\"a\" 1}", "':' is expected");
  expect_json_error("{a: 1}", "double quotes");
  expect_json_error("[1 2]", "',' or ']' is expected");
  expect_json_error("{} x", "nothing may follow");
  expect_json_error("\"ab", "never closed");
  expect_json_error("\"\\ud800\"", "\\u pair");
  expect_json_error("\"\\q\"", "not an escape");
  expect_json_error("/* ", "never closed");
  expect_json_error("", "ends too early");
  expect_json_error("[01x]", "not JSON");
  zg_str s = {0};
  for (int i = 0; i < 100; i++) zg_str_add(&s, "[");
  expect_json_error(s.at, "nested more than 64 deep");
  zg_str_fini(&s);
}
END_TEST

// Every prefix of, and every byte flipped in, a document with all features: a status or a tree, never a
// crash.
START_TEST(mangled_input_is_survived) {
  const char *text = "a: &x {b: [1, 2.5, 'q'], c: \"\\u00e9\"}\nd: {<<: *x, e: 1:30}\n# c\nf: |\n  text\n";
  size_t n = strlen(text);
  for (size_t i = 0; i < n * 256; i++) {
    char copy[256];
    memcpy(copy, text, n);
    size_t len = i < n ? i : n;
    copy[i % n] = (char)(i / n);
    const zg_yaml *v = NULL;
    zg_status_free(zg_yaml_parse(&mem, "t", copy, len, &v));
    zg_status_free(zg_json_parse(&mem, "t", copy, len, &v));
    zg_arena_fini(&mem);
  }
}
END_TEST

int main(void) {
  Suite *s = suite_create("yaml");
  TCase *t = tcase_create("all");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, scalars_resolve_as_in_pyyaml);
  tcase_add_test(t, nodes_know_their_place);
  tcase_add_test(t, empty_documents_are_null);
  tcase_add_test(t, merge_keys);
  tcase_add_test(t, aliases);
  tcase_add_test(t, bad_yaml_is_refused);
  tcase_add_test(t, json_with_comments);
  tcase_add_test(t, bad_json_is_refused);
  tcase_add_test(t, mangled_input_is_survived);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  zg_arena_fini(&mem);
  return failed != 0;
}
