// Ranks as processes of this machine, through shared memory and through TCP: the cases of every back end, and what happens when a
// rank dies, stops, leaves, hangs, or does not fit.
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include "comm_cases.h"
#include "exec/wire.h"

enum { MAX_RANKS = 8 };
typedef struct { uint32_t world; bool no_shm; void (*edit)(zg_comm_options *o); zg_status (*body)(zg_comm *c); } setup;
typedef struct { int exit_status, signal; char text[600]; double seconds; } result;

// A rank: connects, runs, says what happened through the pipe, exits 0 if all is well.
static void child(const setup *s, uint32_t rank, int listen_fd, uint16_t port, int out) {
  zg_comm_options o = {.rank = rank, .world = s->world, .addr = "127.0.0.1", .port = port, .cookie = 77, .listen_fd = rank ? -1 : listen_fd,
                       .no_shm = s->no_shm, .start_s = 20};
  zg_comm *c = NULL;
  if (rank) close(listen_fd);
  if (s->edit) s->edit(&o);
  zg_status status = zg_comm_connect(&o, &c);
  if (!status) status = s->body(c);
  if (status) (void)!write(out, zg_status_message(status), strlen(zg_status_message(status)));
  if (status && c) zg_comm_abort(c, zg_status_message(status));
  const int rc = status != NULL;
  zg_status_free(status);
  zg_comm_free(c);
  _exit(rc);
}

static void run_ranks(const setup *s, result *out) {
  int listen_fd, pipes[MAX_RANKS][2];
  uint16_t port;
  pid_t pids[MAX_RANKS];
  const double began = zg_time_s();
  ck_assert_ptr_null(zg__wire_listen("127.0.0.1", 0, &listen_fd, &port));
  for (uint32_t r = 0; r < s->world; r++) {
    ck_assert_int_eq(pipe(pipes[r]), 0);
    pids[r] = fork();
    if (pids[r] == 0) child(s, r, listen_fd, port, pipes[r][1]);
    close(pipes[r][1]);
  }
  close(listen_fd);
  for (uint32_t left = s->world; left; usleep(5000)) {
    for (uint32_t r = 0; r < s->world; r++) {
      int status;
      if (!pids[r]) continue;
      if (zg_time_s() - began > 25) kill(pids[r], SIGKILL);
      else if (zg_time_s() - began > 10.5) kill(pids[r], SIGCONT);   // those that the test has stopped
      if (waitpid(pids[r], &status, WNOHANG) != pids[r]) continue;
      pids[r] = 0;
      left--;
      out[r] = (result){.exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : -1, .signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0,
                        .seconds = zg_time_s() - began};
      (void)!read(pipes[r][0], out[r].text, sizeof out[r].text - 1);
      close(pipes[r][0]);
    }
  }
}

static void wants(const result *r, uint32_t rank, const char *text) {
  ck_assert_msg(r[rank].exit_status == 1, "rank %u: exit status %d, signal %d", rank, r[rank].exit_status, r[rank].signal);
  ck_assert_msg(strstr(r[rank].text, text) != NULL, "rank %u says \"%s\", want \"%s\"", rank, r[rank].text, text);
  ck_assert_msg(r[rank].seconds < 10, "rank %u took %.1f s", rank, r[rank].seconds);
}

static zg_status cases(zg_comm *c) {
  uint64_t digest, *all = zg_alloc(sizeof *all * c->world);
  zg_status status = NULL;
  ZG_TRY_OUT(comm_cases(c, &digest));
  ZG_TRY_OUT(zg_comm_all_gather(c, 0, ZG_U64, all, &digest, 1, c->world, "digests"));
  for (uint32_t r = 0; r < c->world && !status; r++)
    if (all[r] != digest) status = zg_error(ZG_INTERNAL, "rank %u has other results than rank %u", r, c->rank);
out:
  zg_free(all);
  return status;
}

static void all_cases(uint32_t world, bool no_shm) {
  result r[MAX_RANKS];
  run_ranks(&(setup){.world = world, .no_shm = no_shm, .body = cases}, r);
  for (uint32_t i = 0; i < world; i++) ck_assert_msg(r[i].exit_status == 0, "rank %u of %u: %s (signal %d)", i, world, r[i].text, r[i].signal);
}

START_TEST(shared_memory) {
  all_cases(2, false);
  all_cases(4, false);
}
END_TEST

START_TEST(tcp) {
  all_cases(1, true);
  all_cases(2, true);
  all_cases(3, true);
}
END_TEST

// Large enough to be cut in several pieces, with an end that is not even.
static zg_status large(zg_comm *c) {
  const uint64_t n = (3u << 20) + 12345;
  float *x = zg_alloc(n * sizeof *x);
  zg_status status = NULL;
  for (uint64_t i = 0; i < n; i++) x[i] = (float)(i % 1000) * (float)(c->rank + 1);
  ZG_TRY_OUT(zg_comm_all_reduce(c, 0, ZG_F32, x, n, "large"));
  for (uint64_t i = 0; i < n && !status; i++)
    if (x[i] != (float)(i % 1000) * (float)(c->world * (c->world + 1) / 2)) status = zg_error(ZG_INTERNAL, "element %zu is %g", (size_t)i, (double)x[i]);
out:
  zg_free(x);
  return status;
}

START_TEST(large_buffers) {
  for (int no_shm = 0; no_shm < 2; no_shm++) {
    result r[MAX_RANKS];
    run_ranks(&(setup){.world = 3, .no_shm = no_shm, .body = large}, r);
    for (uint32_t i = 0; i < 3; i++) ck_assert_msg(r[i].exit_status == 0, "rank %u: %s", i, r[i].text);
  }
}
END_TEST

// ---- failures -----------------------------------------------------------------------------------------------------

static zg_status many(zg_comm *c) {
  static float x[4096];
  for (int i = 0;; i++) {
    ZG_TRY(zg_comm_all_reduce(c, 0, ZG_F32, x, 4096, "grad.w"));
    if (i == 50 && c->rank == 1) raise(SIGKILL);
  }
}
static zg_status stops(zg_comm *c) {
  static float x[4096];
  for (int i = 0;; i++) {
    ZG_TRY(zg_comm_all_reduce(c, 0, ZG_F32, x, 4096, "grad.w"));
    if (i == 50 && c->rank == 1) raise(SIGSTOP);
  }
}
static zg_status leaves(zg_comm *c) { return c->rank == 1 ? NULL : zg_comm_barrier(c, "end"); }
static zg_status fails(zg_comm *c) {
  if (c->rank == 1) return zg_error(ZG_IO, "disk full");
  return zg_comm_barrier(c, "end");
}
static zg_status hangs(zg_comm *c) {
  if (c->rank == 1) sleep(5);
  return zg_comm_barrier(c, "end");
}
static zg_status looks(zg_comm *c) {   // without a collective, as devices with collectives of their own must
  zg_status status = zg_comm_check(c);
  ZG_TRY(zg_comm_barrier(c, "start"));
  if (c->rank == 1) raise(SIGKILL);
  for (const double t0 = zg_time_s(); !status && zg_time_s() - t0 < 10; usleep(1000)) status = zg_comm_check(c);
  return status;
}
static void impatient(zg_comm_options *o) { o->collective_s = 1; }

static void failing(bool no_shm) {
  result r[MAX_RANKS];
  setup s = {.world = 3, .no_shm = no_shm, .body = many};
  run_ranks(&s, r);
  ck_assert_int_eq(r[1].signal, SIGKILL);
  wants(r, 0, "all_reduce of \"grad.w\" on rank 0 of 3: rank 1 has ended without a word");
  wants(r, 2, "rank 1 has ended without a word");
  s.body = looks;
  run_ranks(&s, r);
  wants(r, 0, "rank 1 has ended without a word");
  wants(r, 2, "rank 1 has ended without a word");
  s.body = leaves;
  run_ranks(&s, r);
  ck_assert_int_eq(r[1].exit_status, 0);
  wants(r, 0, "rank 1 has ended its run already");
  wants(r, 2, "barrier of \"end\" on rank 2 of 3: rank ");
  s.body = fails;
  run_ranks(&s, r);
  wants(r, 0, "rank 1 failed: disk full");
  wants(r, 1, "disk full");
  wants(r, 2, "rank 1 failed: disk full");
  s.body = hangs;
  s.edit = impatient;
  run_ranks(&s, r);
  wants(r, 0, "rank 1 has not come for 1 s");
  wants(r, 2, "rank 1 has not come for 1 s");
}

START_TEST(failures_shm) { failing(false); }
END_TEST
START_TEST(failures_tcp) { failing(true); }
END_TEST

START_TEST(a_stopped_rank) {
  result r[MAX_RANKS];
  run_ranks(&(setup){.world = 3, .body = stops}, r);
  wants(r, 0, "all_reduce of \"grad.w\" on rank 0 of 3: rank 1 does not answer for 6 s");
  wants(r, 2, "rank 1 does not answer for 6 s");
}
END_TEST

// ---- ranks that do not fit ----------------------------------------------------------------------------------------

static zg_status nothing(zg_comm *c) {
  (void)c;
  return NULL;
}
static void twice(zg_comm_options *o) { o->rank = ZG_MIN(o->rank, 1u); }
static void other_world(zg_comm_options *o) { o->world += o->rank == 2; }
static void missing(zg_comm_options *o) {
  o->start_s = 1.5;
  if (o->rank == 2) _exit(0);
}
static void wrong_address(zg_comm_options *o) {
  o->addr = o->rank ? o->addr : "192.0.2.1";    // TEST-NET-1: nobody's
  o->listen_fd = -1;
  o->start_s = 1;
}

START_TEST(ranks_that_do_not_fit) {
  result r[MAX_RANKS];
  setup s = {.world = 3, .edit = twice, .body = nothing};
  run_ranks(&s, r);
  wants(r, 0, "rank 1 was started twice");
  wants(r, 1, "rank 1 was started twice");
  wants(r, 2, "rank 1 was started twice");
  s.edit = other_world;
  run_ranks(&s, r);
  for (uint32_t i = 0; i < 3; i++) wants(r, i, "was started for 4 ranks, rank 0 for 3");
  s.edit = missing;
  run_ranks(&s, r);
  wants(r, 0, "these of 3 ranks have not come to 127.0.0.1:");
  ck_assert_ptr_nonnull(strstr(r[0].text, ": 2"));
  s.edit = wrong_address;
  s.world = 2;
  run_ranks(&s, r);
  wants(r, 0, "192.0.2.1 is not an address of this machine");
  wants(r, 1, "rank 1 has waited 1 s for rank 0 at 127.0.0.1:");
}
END_TEST

START_TEST(port_in_use) {
  int fd, second;
  uint16_t port, got;
  ck_assert_ptr_null(zg__wire_listen("127.0.0.1", 0, &fd, &port));
  zg_status s = zg__wire_listen("127.0.0.1", port, &second, &got);
  ck_assert_ptr_nonnull(s);
  ck_assert_ptr_nonnull(strstr(zg_status_message(s), "is in use: set main_process_port"));
  zg_status_free(s);
  close(fd);
}
END_TEST

int main(void) {
  Suite *s = suite_create("procs");
  TCase *t = tcase_create("procs");
  tcase_set_timeout(t, 100);
  tcase_add_test(t, shared_memory);
  tcase_add_test(t, tcp);
  tcase_add_test(t, large_buffers);
  tcase_add_test(t, failures_shm);
  tcase_add_test(t, failures_tcp);
  tcase_add_test(t, a_stopped_rank);
  tcase_add_test(t, ranks_that_do_not_fit);
  tcase_add_test(t, port_in_use);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
