// Thread pool: every chunk once, whatever the number of threads, with pauses that let the workers park.
#include "base/base.h"
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

enum { MAX_CHUNKS = 4096 };
static _Thread_local int my_number;
typedef struct {
  atomic_int seen[MAX_CHUNKS];
  atomic_int bad_thread;
  int n_threads;
  bool in_team;  // threads have the team's numbers
} job;

static void mark(void *arg, int64_t chunk, int thread) {
  job *j = arg;
  atomic_fetch_add(&j->seen[chunk], 1);
  if (thread < 0 || thread >= j->n_threads || (j->in_team && thread != my_number)) atomic_store(&j->bad_thread, 1);
  if (j->in_team && chunk < 8) usleep(300);  // so that all threads find chunks
}

static void run_checked(zg_pool *p, int64_t n, bool in_team) {
  static job j;
  memset((void *)&j, 0, sizeof j);
  j.n_threads = zg_pool_threads(p), j.in_team = in_team;
  zg_pool_run(p, n, mark, &j);
  ck_assert_int_eq(j.bad_thread, 0);
  int wrong = 0;
  for (int64_t i = 0; i < MAX_CHUNKS; i++) wrong += j.seen[i] != (i < n);
  ck_assert_int_eq(wrong, 0);
}

static void run_and_check(zg_pool *p, int64_t n) { run_checked(p, n, false); }

START_TEST(every_chunk_once) {
  int threads[] = {1, 2, 3, 8, 0};
  for (size_t k = 0; k < ZG_COUNT(threads); k++) {
    zg_pool *p = zg_pool_new(threads[k]);
    if (threads[k]) ck_assert_int_eq(zg_pool_threads(p), threads[k]);
    ck_assert_int_ge(zg_pool_threads(p), 1);
    int64_t counts[] = {0, 1, 2, 7, 100, MAX_CHUNKS};
    for (size_t i = 0; i < ZG_COUNT(counts); i++) run_and_check(p, counts[i]);
    for (int i = 0; i < 300; i++) run_and_check(p, i % 5);
    usleep(3000);  // parked by now
    run_and_check(p, 33);
    zg_pool_free(p);
  }
}
END_TEST

START_TEST(no_pool_runs_on_the_caller) {
  ck_assert_int_eq(zg_pool_threads(NULL), 1);
  run_and_check(NULL, 17);
  zg_pool_free(NULL);
}
END_TEST

static void add(void *arg, int64_t chunk, int thread) {
  (void)thread;
  ((int64_t *)arg)[chunk] += chunk;
}

// What a chunk wrote is visible to the caller after the run, and to the chunks of the next one.
START_TEST(runs_are_ordered) {
  zg_pool *p = zg_pool_new(4);
  int64_t sum[64] = {0};
  for (int i = 0; i < 3000; i++) zg_pool_run(p, 64, add, sum);
  for (int i = 0; i < 64; i++) ck_assert_int_eq(sum[i], 3000 * i);
  zg_pool_free(p);
}
END_TEST

// ---- threads of somebody else's ---------------------------------------------------------------------------
enum { TEAM = 3 };
static atomic_int team_runs;
typedef struct {
  void (*fn)(void *);
  void *arg;
  int number;
} member;
static void *run_member(void *arg) {
  member *m = arg;
  my_number = m->number;
  m->fn(m->arg);
  return NULL;
}
static void run_team(void (*fn)(void *), void *arg, unsigned n, unsigned flags) {
  member m[TEAM];
  pthread_t t[TEAM];
  ck_assert_uint_eq(flags, 0);
  ck_assert_uint_eq(n, TEAM);
  team_runs++;
  for (unsigned i = 0; i < n; i++) m[i] = (member){fn, arg, (int)i};
  for (unsigned i = 1; i < n; i++) ck_assert_int_eq(pthread_create(&t[i], NULL, run_member, &m[i]), 0);
  run_member(&m[0]);
  for (unsigned i = 1; i < n; i++) pthread_join(t[i], NULL);
}
static int number_in_team(void) { return my_number; }

START_TEST(runs_on_a_team) {
  zg_pool *p = zg_pool_new(TEAM);
  const zg_team team = {run_team, number_in_team};
  run_and_check(p, 20);
  zg_pool_use_team(p, &team);
  ck_assert_int_eq(zg_pool_threads(p), TEAM);
  int64_t counts[] = {0, 1, 2, 7, 100, MAX_CHUNKS};
  for (size_t i = 0; i < ZG_COUNT(counts); i++) run_checked(p, counts[i], true);
  ck_assert_int_eq(team_runs, 4);  // none for no chunk or one
  zg_pool_use_team(p, NULL);
  run_and_check(p, 20);
  ck_assert_int_eq(team_runs, 4);
  zg_pool_free(p);
}
END_TEST

START_TEST(made_and_freed_at_once) {
  for (int i = 0; i < 50; i++) zg_pool_free(zg_pool_new(4));
}
END_TEST

int main(void) {
  Suite *s = suite_create("pool");
  TCase *t = tcase_create("pool");
  tcase_set_timeout(t, 30);
  tcase_add_test(t, every_chunk_once);
  tcase_add_test(t, no_pool_runs_on_the_caller);
  tcase_add_test(t, runs_are_ordered);
  tcase_add_test(t, runs_on_a_team);
  tcase_add_test(t, made_and_freed_at_once);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
