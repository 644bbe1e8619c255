// Shared by the tests of this folder: a scratch folder, statuses that must or must not be there.
#pragma once
#include "graph/type.h"
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

// Fails the test with the status's message.
static inline void ok(zg_status s) {
  if (s) ck_abort_msg("%s (%s)", zg_status_message(s), zg_status_place(s));
}

// The status must be an error of this code whose message holds `part`; frees it.
static inline void fails(zg_status s, zg_code code, const char *part) {
  ck_assert_msg(s != NULL, "no error, want one with \"%s\"", part);
  ck_assert_msg(zg_status_code(s) == code, "code %d: %s", zg_status_code(s), zg_status_message(s));
  ck_assert_msg(strstr(zg_status_message(s), part) != NULL, "\"%s\" is not in: %s", part, zg_status_message(s));
  zg_status_free(s);
}

// A new folder, in memory where the system has such (fsync of many small files is slow on a busy disk), removed with all in
// it when the process ends. Returns a path inside it; 16 live at a time.
static char scratch_dir[64];
static inline void scratch_remove(void) {
  char cmd[96];
  snprintf(cmd, sizeof cmd, "rm -rf '%s'", scratch_dir);
  if (system(cmd)) perror(cmd);
}
static inline const char *scratch(const char *name) {
  static char path[16][256];
  static int next;
  if (!scratch_dir[0]) {
    strcpy(scratch_dir, access("/dev/shm", W_OK) ? "/tmp/zg_test_XXXXXX" : "/dev/shm/zg_test_XXXXXX");
    if (!mkdtemp(scratch_dir)) abort();
    atexit(scratch_remove);
  }
  char *p = path[next++ % 16];
  snprintf(p, sizeof path[0], "%s/%s", scratch_dir, name);
  return p;
}

static inline void write_file(const char *path, const void *bytes, size_t n) {
  FILE *f = fopen(path, "wb");
  ck_assert_ptr_nonnull(f);
  ck_assert_uint_eq(fwrite(bytes, 1, n, f), n);
  fclose(f);
}

// Sends stderr to nowhere (warnings of deliberately bad input), and back.
static inline void quiet(bool on) {
  static int saved = -1;
  fflush(stderr);
  if (on) {
    saved = dup(2);
    ck_assert_ptr_nonnull(freopen("/dev/null", "w", stderr));
  } else {
    dup2(saved, 2);
    close(saved);
  }
}

// One suite of one case, run.
static inline int run_tests(const char *name, const TTest *const *tests, size_t n) {
  Suite *s = suite_create(name);
  TCase *c = tcase_create(name);
  tcase_set_timeout(c, 60);
  for (size_t i = 0; i < n; i++) tcase_add_test(c, tests[i]);
  suite_add_tcase(s, c);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
