// Status, memory, strings, hash, map, log, Philox.
#include "base/base.h"
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static zg_status fail_inner(void) { return zg_error(ZG_UNSUPPORTED, "node %d", 7); }
static zg_status fail_outer(void) {
  ZG_TRY(zg_status_prefix(fail_inner(), "%s: ", "m.onnx"));
  return NULL;
}

START_TEST(status_carries_code_message_place) {
  zg_status s = fail_outer();
  ck_assert_ptr_nonnull(s);
  ck_assert_int_eq(zg_status_code(s), ZG_UNSUPPORTED);
  ck_assert_str_eq(zg_status_message(s), "m.onnx: node 7");
  ck_assert_int_eq(strncmp(zg_status_place(s), "base_test.c:", 12), 0);
  zg_status_free(s);
  ck_assert_ptr_null(zg_status_prefix(NULL, "x"));
  ck_assert_str_eq(zg_status_message(NULL), "");
  zg_status_free(NULL);
}
END_TEST

START_TEST(alloc_big_is_zero_aligned_and_fails_softly) {
  void *p;
  ck_assert_ptr_null(zg_alloc_big(3 << 20, &p));
  ck_assert_uint_eq((uintptr_t)p % 64, 0);
  for (int i = 0; i < 3 << 20; i += 4093) ck_assert_int_eq(((char *)p)[i], 0);
  zg_free_big(p, 3 << 20);
  ck_assert_ptr_null(zg_alloc_big(0, &p));
  ck_assert_ptr_nonnull(p);
  zg_free_big(p, 0);
  zg_free_big(NULL, 5);
  uint64_t absurd[] = {UINT64_MAX, (uint64_t)1 << 62};
  for (size_t i = 0; i < ZG_COUNT(absurd); i++) {
    zg_status s = zg_alloc_big(absurd[i], &p);
    ck_assert_ptr_nonnull(s);
    ck_assert_int_eq(zg_status_code(s), ZG_OUT_OF_MEMORY);
    ck_assert_ptr_null(p);
    zg_status_free(s);
  }
}
END_TEST

START_TEST(arena_keeps_everything) {
  zg_arena a = {0};
  char *s[2000];
  for (int i = 0; i < 2000; i++) {
    s[i] = zg_arena_printf(&a, "value %d", i);
    char *big = zg_arena_alloc(&a, (size_t)i * 7);
    ck_assert_uint_eq((uintptr_t)big % 16, 0);
    int sum = 0;
    for (int k = 0; k < i * 7; k++) sum |= big[k];
    ck_assert_int_eq(sum, 0);
    memset(big, 0xff, (size_t)i * 7);
  }
  for (int i = 0; i < 2000; i++) {
    char want[32];
    snprintf(want, sizeof want, "value %d", i);
    ck_assert_str_eq(s[i], want);
  }
  ck_assert_ptr_null(zg_arena_str(&a, NULL));
  ck_assert_str_eq(zg_arena_strn(&a, "abcdef", 3), "abc");
  int three[] = {1, 2, 3};
  ck_assert_mem_eq(zg_arena_copy(&a, three, sizeof three), three, sizeof three);
  zg_arena_fini(&a);
  ck_assert_ptr_null(a.head);
}
END_TEST

START_TEST(vec_grows_and_zeroes) {
  ZG_VEC(int) v = {0};
  for (int i = 0; i < 1000; i++) zg_vec_push(&v, i * 3);
  ck_assert_uint_eq(v.n, 1000);
  for (int i = 0; i < 1000; i++) ck_assert_int_eq(v.at[i], i * 3);
  zg_vec_resize(&v, 10);
  zg_vec_resize(&v, 3000);
  ck_assert_int_eq(v.at[9], 27);
  for (int i = 10; i < 3000; i++) ck_assert_int_eq(v.at[i], 0);
  zg_vec_fini(&v);
  ck_assert_ptr_null(v.at);
}
END_TEST

START_TEST(str_adds) {
  zg_str s = {0}, want = {0};
  for (int i = 0; i < 500; i++) {
    zg_str_add(&s, "%d,", i);
    char text[16];
    zg_str_put(&want, text, (size_t)snprintf(text, sizeof text, "%d,", i));
  }
  ck_assert_uint_eq(s.n, want.n);
  ck_assert_str_eq(s.at, want.at);
  zg_str_put(&s, "a\0b", 3);
  ck_assert_mem_eq(s.at + s.n - 3, "a\0b", 4);
  zg_str_fini(&s);
  zg_str_fini(&want);
  zg_str_add(&s, "%s", "");
  ck_assert_str_eq(s.at, "");
  zg_str_fini(&s);
}
END_TEST

START_TEST(hash_is_stable) {
  ck_assert_uint_eq(zg_crc32("123456789", 9, 0), 0xCBF43926u);
  ck_assert_uint_eq(zg_crc32("6789", 4, zg_crc32("12345", 5, 0)), 0xCBF43926u);
  ck_assert_uint_ne(zg_hash("abc", 3, 0), zg_hash("abd", 3, 0));
  ck_assert_uint_ne(zg_hash("abc", 3, 0), zg_hash("abc", 3, 1));
  ck_assert_uint_eq(zg_hash("", 0, 0), zg_hash(NULL, 0, 0));
}
END_TEST

START_TEST(map_holds_many) {
  zg_map m = {0};
  ck_assert(!zg_map_get(&m, "x", NULL));
  char key[32];
  for (uint64_t i = 0; i < 5000; i++) {
    snprintf(key, sizeof key, "k%llu", (unsigned long long)i);
    ck_assert(zg_map_put(&m, key, i));
  }
  for (uint64_t i = 0, v; i < 5000; i++) {
    snprintf(key, sizeof key, "k%llu", (unsigned long long)i);
    ck_assert(zg_map_get(&m, key, &v));
    ck_assert_uint_eq(v, i);
  }
  uint64_t v;
  ck_assert(!zg_map_put(&m, "k17", 99));
  ck_assert(zg_map_get(&m, "k17", &v));
  ck_assert_uint_eq(v, 99);
  ck_assert(!zg_map_get(&m, "k5000", &v));
  ck_assert_uint_eq(m.n, 5000);
  zg_map_fini(&m);
}
END_TEST

START_TEST(glob_matches) {
  static const struct {
    const char *pattern, *text;
    bool hit;
  } rows[] = {
      {"*", "", true},
      {"", "", true},
      {"", "a", false},
      {"a*c", "abbc", true},
      {"a*c", "abbd", false},
      {"*bias", "h.0.bias", true},
      {"*.weight", "a/b.weight", true},
      {"?", "", false},
      {"l?.w", "l1.w", true},
      {"[a-c]x", "bx", true},
      {"[a-c]x", "dx", false},
      {"[!a-c]x", "dx", true},
      {"[!a-c]x", "ax", false},
      {"[]]", "]", true},
      {"a[", "a[", true},
      {"*a*b*c", "xxaxxbxxbxc", true},
      {"*aab", "aaaab", true},
      {"A", "a", false},
      {"[*]", "*", true},
      {"[*]", "x", false},
      {"*norm*", "layer_norm.w", true},
  };
  for (size_t i = 0; i < ZG_COUNT(rows); i++)
    ck_assert_msg(zg_glob(rows[i].pattern, rows[i].text) == rows[i].hit, "%s ~ %s", rows[i].pattern,
                  rows[i].text);
}
END_TEST

START_TEST(nearest_suggests) {
  const char *names[] = {"adam", "adamw", "sgd", "learning_rate"};
  ck_assert_str_eq(zg_nearest("adamW", names, 4), "adamw");
  ck_assert_str_eq(zg_nearest("learnig_rate", names, 4), "learning_rate");
  ck_assert_str_eq(zg_nearest("SGD", names, 4), "sgd");
  ck_assert_ptr_null(zg_nearest("momentum", names, 4));
  ck_assert_ptr_null(zg_nearest("", names, 4));
}
END_TEST

// The known answers of the authors' Random123 distribution (kat_vectors, philox4x32 10).
START_TEST(philox_known_answers) {
  static const uint32_t rows[3][10] = {
      {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
      {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
      {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb,
       0x5001e420, 0x24126ea1},
  };
  for (int i = 0; i < 3; i++) {
    uint32_t out[4];
    zg_philox(rows[i], rows[i] + 4, out);
    ck_assert_mem_eq(out, rows[i] + 6, sizeof out);
  }
}
END_TEST

START_TEST(warnings_come_once) {
  fflush(stderr);
  int old = dup(STDERR_FILENO);
  FILE *f = tmpfile();
  dup2(fileno(f), STDERR_FILENO);
  zg_warn("key %s ignored", "a");
  zg_warn("key %s ignored", "a");
  zg_warn("key %s ignored", "b");
  dup2(old, STDERR_FILENO);
  close(old);
  char text[256] = {0};
  rewind(f);
  size_t n = fread(text, 1, sizeof text - 1, f);
  fclose(f);
  ck_assert_uint_gt(n, 0);
  ck_assert_str_eq(text, "zgraph: warning: key a ignored\nzgraph: warning: key b ignored\n");
}
END_TEST

START_TEST(log_level_is_the_environments) { ck_assert_int_eq(zg_log_level(), 3); }
END_TEST

START_TEST(process_numbers) {
  ck_assert_uint_gt(zg_proc_resident_bytes(), 100 << 10);
  // The kernel counts per thread and sums up now and then: the peak may lag by a few pages.
  ck_assert_uint_ge(zg_proc_peak_bytes() + (1 << 20), zg_proc_resident_bytes());
  double t = zg_time_s();
  usleep(2000);
  ck_assert(zg_time_s() - t >= 0.002);
}
END_TEST

int main(void) {
  setenv("ZG_LOG", "3", 1);
  Suite *s = suite_create("base");
  TCase *t = tcase_create("base");
  tcase_add_test(t, status_carries_code_message_place);
  tcase_add_test(t, alloc_big_is_zero_aligned_and_fails_softly);
  tcase_add_test(t, arena_keeps_everything);
  tcase_add_test(t, vec_grows_and_zeroes);
  tcase_add_test(t, str_adds);
  tcase_add_test(t, hash_is_stable);
  tcase_add_test(t, map_holds_many);
  tcase_add_test(t, glob_matches);
  tcase_add_test(t, nearest_suggests);
  tcase_add_test(t, philox_known_answers);
  tcase_add_test(t, warnings_come_once);
  tcase_add_test(t, log_level_is_the_environments);
  tcase_add_test(t, process_numbers);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
