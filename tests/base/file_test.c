// Files and directories.
#include "base/base.h"
#include <check.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64];

static char *in_dir(const char *name) {
  static char path[4][256];
  static unsigned turn;
  char *p = path[turn++ % 4];
  snprintf(p, sizeof path[0], "%s/%s", dir, name);
  return p;
}

static int count_entries(void) {
  DIR *d = opendir(dir);
  int n = -2;  // . and ..
  while (readdir(d)) n++;
  closedir(d);
  return n;
}

static void ok(zg_status s) { ck_assert_msg(!s, "%s", zg_status_message(s)); }

static void fails(zg_status s, zg_code code, const char *part) {
  ck_assert_ptr_nonnull(s);
  ck_assert_int_eq(zg_status_code(s), code);
  ck_assert_msg(strstr(zg_status_message(s), part), "\"%s\" lacks \"%s\"", zg_status_message(s), part);
  zg_status_free(s);
}

static void set_up(void) {
  strcpy(dir, "/tmp/zg_file_test_XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void tear_down(void) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", dir);
  ck_assert_int_eq(system(command), 0);
}

START_TEST(write_read_map) {
  const char *path = in_dir("a.txt");
  ok(zg_file_write_atomic(path, "hello", 5));
  ok(zg_file_write_atomic(path, "goodbye", 7));
  ck_assert_int_eq(count_entries(), 1);
  zg_str s = {0};
  zg_str_put(&s, "> ", 2);
  ok(zg_file_read(path, &s));
  ck_assert_str_eq(s.at, "> goodbye");
  ck_assert_uint_eq(s.n, 9);
  zg_str_fini(&s);
  zg_file_map m;
  ok(zg_file_map_open(path, &m));
  ck_assert_uint_eq(m.bytes.n, 7);
  ck_assert_mem_eq(m.bytes.at, "goodbye", 7);
  zg_file_map_close(&m);
  ck_assert(zg_file_exists(path));
  ck_assert(!zg_file_exists(in_dir("b")));
}
END_TEST

START_TEST(empty_and_endless_files) {
  ok(zg_file_write_atomic(in_dir("empty"), NULL, 0));
  zg_file_map m;
  ok(zg_file_map_open(in_dir("empty"), &m));
  ck_assert_uint_eq(m.bytes.n, 0);
  zg_file_map_close(&m);
  zg_str s = {0};
  ok(zg_file_read(in_dir("empty"), &s));
  ck_assert_str_eq(s.at, "");
  s.n = 0;
  ok(zg_file_read("/proc/self/status", &s));  // says it has 0 bytes, and has more
  ck_assert_ptr_nonnull(strstr(s.at, "VmRSS"));
  zg_str_fini(&s);
  ok(zg_file_write_atomic("/dev/null", "x", 1));
  struct stat st;
  ck_assert(!stat("/dev/null", &st) && S_ISCHR(st.st_mode));
}
END_TEST

START_TEST(errors_name_path_and_reason) {
  zg_file_map m;
  zg_str s = {0};
  fails(zg_file_map_open(in_dir("none"), &m), ZG_NOT_FOUND, "none: cannot open: No such file");
  fails(zg_file_read(in_dir("none"), &s), ZG_NOT_FOUND, "No such file");
  fails(zg_file_read(dir, &s), ZG_INVALID, "directory");
  fails(zg_file_map_open("/dev/null", &m), ZG_INVALID, "not a regular file");
  fails(zg_file_write_atomic(in_dir("no/such/x"), "x", 1), ZG_NOT_FOUND, "no/such/x: cannot create");
  fails(zg_file_write_atomic(dir, "x", 1), ZG_INVALID, "directory");
  fails(zg_file_write_atomic("/dev/full", "x", 1), ZG_IO, "No space left");
  zg_str_fini(&s);
}
END_TEST

START_TEST(failed_write_leaves_old_content_alone) {
  const char *path = in_dir("a");
  ok(zg_file_write_atomic(path, "old", 3));
  struct rlimit old, small = {.rlim_cur = 1000};
  getrlimit(RLIMIT_FSIZE, &old);
  small.rlim_max = old.rlim_max;
  signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  static char big[5000];
  zg_status s = zg_file_write_atomic(path, big, sizeof big);
  setrlimit(RLIMIT_FSIZE, &old);
  fails(s, ZG_IO, "/a: cannot write: File too large");
  ck_assert_int_eq(count_entries(), 1);
  zg_str text = {0};
  ok(zg_file_read(path, &text));
  ck_assert_str_eq(text.at, "old");
  zg_str_fini(&text);
}
END_TEST

START_TEST(keeps_mode) {
  const char *path = in_dir("a");
  ok(zg_file_write_atomic(path, "old", 3));
  chmod(path, 0640);
  ok(zg_file_write_atomic(path, "new", 3));
  struct stat st;
  ck_assert(!stat(path, &st));
  ck_assert_int_eq(st.st_mode & 0777, 0640);
}
END_TEST

// The whole pages of a part go; what is read again is what was there.
START_TEST(forgets_pages) {
  enum { N = 16 << 20, EDGE = 100 };
  char *bytes = zg_alloc(N);
  for (int i = 0; i < N; i++) bytes[i] = (char)(i / 4096 + i % 251);
  ok(zg_file_write_atomic(in_dir("f"), bytes, N));
  zg_file_map m;
  ok(zg_file_map_open(in_dir("f"), &m));
  ck_assert_int_eq(memcmp(m.bytes.at, bytes, N), 0);
  const uint64_t before = zg_proc_resident_bytes();
  zg_file_map_forget((zg_bytes){m.bytes.at + EDGE, 0});
  zg_file_map_forget((zg_bytes){m.bytes.at + EDGE, EDGE});  // within a page
  zg_file_map_forget((zg_bytes){m.bytes.at + EDGE, N - 2 * EDGE});
  const uint64_t after = zg_proc_resident_bytes();
  ck_assert_msg(before >= after + N / 2, "%llu bytes resident before, %llu after", (unsigned long long)before, (unsigned long long)after);
  ck_assert_int_eq(memcmp(m.bytes.at, bytes, N), 0);
  zg_file_map_close(&m);
  char *page = aligned_alloc(65536, 65536);  // of memory that is nobody's file, edges stay
  memset(page, 7, 65536);
  const long size = sysconf(_SC_PAGESIZE);
  zg_file_map_forget((zg_bytes){(uint8_t *)page + 1, (uint64_t)(2 * size - 2)});
  ck_assert_int_eq(page[0] + page[1] + page[size - 1] + page[size] + page[2 * size - 1], 5 * 7);
  free(page);
  zg_free(bytes);
}
END_TEST

START_TEST(makes_directories) {
  ok(zg_dir_make(in_dir("x/y//z/")));
  ok(zg_dir_make(in_dir("x/y/z")));
  ok(zg_dir_make("/"));
  ok(zg_dir_sync(in_dir("x/y")));
  ok(zg_file_write_atomic(in_dir("x/f"), "1", 1));
  fails(zg_dir_make(in_dir("x/f")), ZG_IO, "not a directory");
  zg_status s = zg_dir_make(in_dir("x/f/g"));
  ck_assert_ptr_nonnull(s);
  zg_status_free(s);
  fails(zg_dir_sync(in_dir("q")), ZG_NOT_FOUND, "q: cannot open");
}
END_TEST

int main(void) {
  Suite *s = suite_create("file");
  TCase *t = tcase_create("file");
  tcase_add_checked_fixture(t, set_up, tear_down);
  tcase_add_test(t, write_read_map);
  tcase_add_test(t, empty_and_endless_files);
  tcase_add_test(t, errors_name_path_and_reason);
  tcase_add_test(t, failed_write_leaves_old_content_alone);
  tcase_add_test(t, keeps_mode);
  tcase_add_test(t, forgets_pages);
  tcase_add_test(t, makes_directories);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
