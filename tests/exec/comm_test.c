// Ranks as threads: every case of comm_cases at several rank counts, byte counts, identities, aborting.
#include <check.h>
#include <pthread.h>
#include <stdlib.h>
#include "comm_cases.h"

typedef struct { zg_comm *c; zg_status (*body)(zg_comm *, void *); void *arg; zg_status status; } rank_run;

static void *rank_main(void *arg) {
  rank_run *r = arg;
  r->status = r->body(r->c, r->arg);
  return NULL;
}

// Runs body on n ranks; status[i] is what rank i returned.
static void on_ranks(uint32_t n, zg_status (*body)(zg_comm *, void *), void *arg, zg_status *status, uint64_t *sent) {
  zg_comm *c[16];
  rank_run run[16];
  pthread_t thread[16];
  ck_assert_ptr_null(zg_comm_local_new(n, c));
  for (uint32_t r = 0; r < n; r++) {
    run[r] = (rank_run){c[r], body, arg, NULL};
    ck_assert_int_eq(pthread_create(&thread[r], NULL, rank_main, &run[r]), 0);
  }
  for (uint32_t r = 0; r < n; r++) {
    pthread_join(thread[r], NULL);
    status[r] = run[r].status;
    if (sent) sent[r] = zg_comm_bytes_sent(c[r]);
  }
  for (uint32_t r = 0; r < n; r++) zg_comm_free(c[r]);
}

static void all_ok(uint32_t n, const zg_status *status) {
  for (uint32_t r = 0; r < n; r++) ck_assert_msg(!status[r], "rank %u: %s", r, zg_status_message(status[r]));
}

static zg_status cases(zg_comm *c, void *arg) { return comm_cases(c, (uint64_t *)arg + c->rank); }

START_TEST(collectives) {
  static const uint32_t counts[] = {1, 2, 3, 4, 7, 8};
  for (size_t k = 0; k < ZG_COUNT(counts); k++) {
    uint64_t digest[16];
    zg_status status[16];
    on_ranks(counts[k], cases, digest, status, NULL);
    all_ok(counts[k], status);
    for (uint32_t r = 1; r < counts[k]; r++) ck_assert_uint_eq(digest[r], digest[0]);
  }
}
END_TEST

static zg_status some_traffic(zg_comm *c, void *arg) {
  (void)arg;
  float data[12] = {0}, shard[3];
  ZG_TRY(zg_comm_all_reduce(c, 0, ZG_F32, data, 10, "a"));           // 2 * 3 * 3 * 4 = 72
  ZG_TRY(zg_comm_reduce_scatter(c, 0, ZG_F32, shard, data, 3, 11, "b"));   // 3 * 3 * 4 = 36
  ZG_TRY(zg_comm_all_gather(c, 0, ZG_F32, data, shard, 3, 12, "c"));       // 36
  return zg_comm_all_gather(c, ZG_GROUP(2, 1), ZG_F32, data, shard, 3, 6, "d");   // 3 * 1 * 4 = 12
}

START_TEST(bytes) {
  zg_status status[4];
  uint64_t sent[4];
  on_ranks(4, some_traffic, NULL, status, sent);
  all_ok(4, status);
  for (int r = 0; r < 4; r++) ck_assert_uint_eq(sent[r], 72 + 36 + 36 + 12);
}
END_TEST

static zg_status compare(zg_comm *c, void *arg) {
  const uint32_t odd = *(uint32_t *)arg;
  return zg_comm_compare(c, &(zg_comm_identity){1, c->rank == odd ? 7 : 2, 3});
}

START_TEST(identities) {
  zg_status status[3];
  uint32_t odd = 9;
  on_ranks(3, compare, &odd, status, NULL);
  all_ok(3, status);
  odd = 2;
  on_ranks(3, compare, &odd, status, NULL);
  for (int r = 0; r < 3; r++) {
    ck_assert_ptr_nonnull(status[r]);
    ck_assert_ptr_nonnull(strstr(zg_status_message(status[r]), "rank 2 of 3"));
    ck_assert_ptr_nonnull(strstr(zg_status_message(status[r]), "another configuration"));
    zg_status_free(status[r]);
  }
}
END_TEST

static zg_status one_fails(zg_comm *c, void *arg) {
  (void)arg;
  float x[4] = {0};
  ZG_TRY(zg_comm_all_reduce(c, 0, ZG_F32, x, 4, "before"));
  if (c->rank == 1) {
    zg_comm_abort(c, "disk full");
    return NULL;
  }
  return zg_comm_all_reduce(c, 0, ZG_F32, x, 4, "grad.w");
}

START_TEST(abort_ends_all) {
  zg_status status[3];
  on_ranks(3, one_fails, NULL, status, NULL);
  ck_assert_ptr_null(status[1]);
  for (int r = 0; r < 3; r += 2) {
    ck_assert_ptr_nonnull(status[r]);
    ck_assert_ptr_nonnull(strstr(zg_status_message(status[r]), "all_reduce of \"grad.w\""));
    ck_assert_ptr_nonnull(strstr(zg_status_message(status[r]), "rank 1 failed: disk full"));
    zg_status_free(status[r]);
  }
}
END_TEST

// Without a collective, as devices with collectives of their own must.
static zg_status looks(zg_comm *c, void *arg) {
  (void)arg;
  zg_status status = zg_comm_check(c);
  ZG_TRY(zg_comm_barrier(c, "start"));
  if (c->rank == 1) zg_comm_abort(c, "disk full");
  for (const double t0 = zg_time_s(); c->rank != 1 && !status && zg_time_s() - t0 < 10;) status = zg_comm_check(c);
  return status;
}

START_TEST(check_tells_of_an_abort) {
  zg_status status[3];
  on_ranks(3, looks, NULL, status, NULL);
  ck_assert_ptr_null(status[1]);
  for (int r = 0; r < 3; r += 2) {
    ck_assert_ptr_nonnull(status[r]);
    ck_assert_ptr_nonnull(strstr(zg_status_message(status[r]), "rank 1 failed: disk full"));
    zg_status_free(status[r]);
  }
}
END_TEST

static zg_status wrong_use(zg_comm *c, void *arg) {
  float x[8] = {0}, y[1];
  uint8_t b[1] = {0};
  zg_status s[4] = {zg_comm_all_reduce(c, ZG_GROUP(3, 1), ZG_F32, x, 4, "g"), zg_comm_all_reduce(c, 0, ZG_BOOL, b, 1, "g"),
                    zg_comm_all_gather(c, 0, ZG_F32, x, y, 1, 3, "g"), zg_comm_broadcast(c, 0, ZG_F32, x, 1, 2, "g")};
  for (int i = 0; i < 4; i++) {
    if (c->rank == 0) *(int *)arg += s[i] != NULL;
    zg_status_free(s[i]);
  }
  return NULL;
}

START_TEST(refusals) {
  zg_status status[2];
  int refused = 0;
  on_ranks(2, wrong_use, &refused, status, NULL);
  ck_assert_int_eq(refused, 4);
  zg_comm *none[1];
  zg_status s = zg_comm_local_new(0, none);
  ck_assert_ptr_nonnull(s);
  zg_status_free(s);
}
END_TEST

int main(void) {
  Suite *s = suite_create("comm");
  TCase *t = tcase_create("local");
  tcase_set_timeout(t, 200);
  tcase_add_test(t, collectives);
  tcase_add_test(t, bytes);
  tcase_add_test(t, identities);
  tcase_add_test(t, abort_ends_all);
  tcase_add_test(t, check_tells_of_an_abort);
  tcase_add_test(t, refusals);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
