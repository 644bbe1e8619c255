// Launching: this program starts itself as launcher and ranks (`launch_test go BODY KEY=VALUE..`), and looks at what they say.
#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include "exec/wire.h"
#include "train/launch.h"

// ---- a rank, or the launcher --------------------------------------------------------------------------------------

static zg_status body(const char *name, zg_comm *c, const zg_config *cfg) {
  float x[100] = {1};
  const uint32_t rank = c ? c->rank : 0;
  if (!strcmp(name, "hello")) {
    printf("rank %u of %u, local %u of %u, %d threads\n", rank, c ? c->world : 1, c ? c->local_rank : 0, c ? c->local_world : 1, zg_launch_threads(cfg, c));
    zg_warn("all say this");
    if (rank == 1) fprintf(stderr, "only I say this\nwithout end");
    return c ? zg_comm_barrier(c, "hello") : NULL;
  }
  if (!strcmp(name, "fail") && rank == 1) return zg_error(ZG_IO, "disk full");
  if (!strcmp(name, "compute") && rank == 1) raise(SIGKILL);
  if (!strcmp(name, "compute")) sleep(60);                 // no collective in sight
  for (int i = 0; i < 1000000; i++) {
    if (!strcmp(name, "die") && rank == 1 && i == 20) raise(SIGKILL);
    if (!strcmp(name, "stop") && rank == 1 && i == 20) raise(SIGSTOP);
    if (c) ZG_TRY(zg_comm_all_reduce(c, 0, ZG_F32, x, 100, "grad.w"));
    if (i == 100 && rank == 0) {
      printf("running %d\n", (int)getppid());
      fflush(stdout);
    }
    if (i > 100) usleep(1000);
  }
  return NULL;
}

static int go(int argc, char **argv) {
  zg_config *cfg = NULL;
  zg_launched l = {.comm = NULL};
  zg_status s = zg_config_load(NULL, 0, (const char *const *)argv + 3, (size_t)(argc - 3), &cfg);
  if (!s) s = zg_launch(cfg, &l);
  if (!s && !l.done) s = body(argv[2], l.comm, cfg);
  if (s && l.comm) zg_comm_abort(l.comm, zg_status_message(s));
  if (s) fprintf(stderr, "zgraph: %s\n", zg_status_message(s));
  const int code = !s ? 0 : zg_status_code(s) == ZG_INVALID ? 2 : 1;
  zg_comm_free(l.comm);
  zg_status_free(s);
  zg_config_free(cfg);
  return code;
}

// ---- the tests ----------------------------------------------------------------------------------------------------

typedef struct { pid_t pid; int out, err; double began; } run;
typedef struct { int status; char out[4096], err[4096]; double seconds; } result;

static run begin(const char *const *args, const char *const *env) {
  int o[2], e[2];
  ck_assert(pipe2(o, O_CLOEXEC) == 0 && pipe2(e, O_CLOEXEC) == 0);
  run r = {.out = o[0], .err = e[0], .began = zg_time_s(), .pid = fork()};
  if (r.pid == 0) {
    char *argv[16] = {"launch_test", "go"};
    dup2(o[1], 1);
    dup2(e[1], 2);
    for (int i = 0; args[i]; i++) argv[i + 2] = (char *)args[i];
    for (int i = 0; env && env[i]; i++) putenv((char *)env[i]);
    execv("/proc/self/exe", argv);
    _exit(127);
  }
  close(o[1]);
  close(e[1]);
  return r;
}

static void read_all(int fd, char *to, size_t n) {
  size_t got = 0;
  for (ssize_t k; got < n - 1 && (k = read(fd, to + got, n - 1 - got)) > 0;) got += (size_t)k;
  to[got] = 0;
  close(fd);
}

static void end(run *r, result *out) {
  read_all(r->out, out->out, sizeof out->out);
  read_all(r->err, out->err, sizeof out->err);
  waitpid(r->pid, &out->status, 0);
  out->seconds = zg_time_s() - r->began;
}

static void run_all(const char *const *args, const char *const *env, result *out) {
  run r = begin(args, env);
  end(&r, out);
}

#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})
static void has(const char *text, const char *want) { ck_assert_msg(strstr(text, want) != NULL, "\"%s\" lacks \"%s\"", text, want); }
static void exits(const result *r, int code) {
  ck_assert_msg(WIFEXITED(r->status) && WEXITSTATUS(r->status) == code, "status %x, want exit %d; it said: %s%s", r->status, code, r->out, r->err);
  ck_assert_msg(r->seconds < 10, "took %.1f s", r->seconds);
}

START_TEST(local_ranks) {
  result r;
  run_all(ARGS("hello", "num_processes=3", "threads=2"), NULL, &r);
  exits(&r, 0);
  ck_assert_str_eq(r.out, "rank 0 of 3, local 0 of 3, 2 threads\n");
  has(r.err, "zgraph: warning: all say this\n");
  ck_assert_ptr_null(strstr(strstr(r.err, "all say this") + 1, "all say this"));
  has(r.err, "[rank 1] only I say this\n");
  has(r.err, "[rank 1] without end\n");
  run_all(ARGS("hello", "num_processes=1"), NULL, &r);
  exits(&r, 0);
  has(r.out, "rank 0 of 1, ");
}
END_TEST

START_TEST(failing_ranks) {
  result r;
  run_all(ARGS("die", "num_processes=3"), NULL, &r);
  exits(&r, 1);
  has(r.err, "rank 1 was killed by signal 9");
  has(r.err, "[rank 0] zgraph: all_reduce of \"grad.w\" on rank 0 of 3: rank 1 has ended without a word");
  run_all(ARGS("compute", "num_processes=2"), NULL, &r);
  exits(&r, 1);
  has(r.err, "zgraph: rank 0 ends: rank 1 has ended without a word");
  run_all(ARGS("fail", "num_processes=2"), NULL, &r);
  exits(&r, 1);
  has(r.err, "[rank 1] zgraph: disk full");
  has(r.err, "[rank 0] zgraph: all_reduce of \"grad.w\" on rank 0 of 2: rank 1 failed: disk full");
}
END_TEST

START_TEST(a_stopped_rank) {
  result r;
  run_all(ARGS("stop", "num_processes=3"), NULL, &r);
  ck_assert_int_ne(r.status, 0);
  has(r.err, "all_reduce of \"grad.w\" on rank 0 of 3: rank 1 does not answer for 6 s");
  ck_assert_msg(r.seconds < 11, "took %.1f s", r.seconds);
}
END_TEST

static void wait_running(const run *r) {
  char line[64] = "";
  ck_assert_int_gt(read(r->out, line, sizeof line - 1), 0);
  has(line, "running");
}

START_TEST(signals) {
  result r;
  run p = begin(ARGS("run", "num_processes=2"), NULL);
  wait_running(&p);
  kill(p.pid, SIGTERM);
  end(&p, &r);
  exits(&r, 1);
  has(r.err, "was killed by signal 15");
  // The launcher is killed: its ranks close our pipes, because they end as well.
  p = begin(ARGS("run", "num_processes=2"), NULL);
  wait_running(&p);
  kill(p.pid, SIGKILL);
  end(&p, &r);
  ck_assert_int_eq(WTERMSIG(r.status), SIGKILL);
  ck_assert_msg(r.seconds < 5, "took %.1f s", r.seconds);
}
END_TEST

START_TEST(other_launchers) {
  static const struct { const char *env[2][6]; } cases[] = {
      {{{"RANK=0", "WORLD_SIZE=2", "LOCAL_WORLD_SIZE=2", "MASTER_ADDR=127.0.0.1", "MASTER_PORT=29653"},
        {"RANK=1", "WORLD_SIZE=2", "LOCAL_WORLD_SIZE=2", "MASTER_ADDR=127.0.0.1", "MASTER_PORT=29653"}}},
      {{{"OMPI_COMM_WORLD_RANK=0", "OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_LOCAL_SIZE=2", "PMIX_NAMESPACE=launch-test"},
        {"OMPI_COMM_WORLD_RANK=1", "OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_LOCAL_SIZE=2", "PMIX_NAMESPACE=launch-test"}}},
      {{{"PMI_RANK=0", "PMI_SIZE=2", "MPI_LOCALNRANKS=2"}, {"PMI_RANK=1", "PMI_SIZE=2", "MPI_LOCALNRANKS=2"}}},
      {{{"SLURM_PROCID=0", "SLURM_STEP_NUM_TASKS=2", "SLURM_STEP_NODELIST=127.0.0.[1-2]", "SLURM_JOB_ID=4711"},
        {"SLURM_PROCID=1", "SLURM_STEP_NUM_TASKS=2", "SLURM_STEP_NODELIST=127.0.0.[1-2]", "SLURM_JOB_ID=4711"}}},
  };
  for (size_t i = 0; i < ZG_COUNT(cases); i++) {
    result r[2];
    run a = begin(ARGS("hello"), cases[i].env[0]), b = begin(ARGS("hello"), cases[i].env[1]);
    end(&a, &r[0]);
    end(&b, &r[1]);
    exits(&r[0], 0);
    exits(&r[1], 0);
    has(r[0].out, "rank 0 of 2, local 0 of 2");
    has(r[1].out, "rank 1 of 2, local 1 of 2");
  }
}
END_TEST

// torchrun's own store listens at MASTER_PORT: the ranks meet behind it.
START_TEST(port_of_torchrun) {
  int fd;
  uint16_t port;
  char at[32], text[32];
  result r[2];
  ck_assert_ptr_null(zg__wire_listen("127.0.0.1", 0, &fd, &port));
  snprintf(at, sizeof at, "MASTER_PORT=%u", port);
  const char *common[] = {"WORLD_SIZE=2", "MASTER_ADDR=127.0.0.1", at, "TORCHELASTIC_USE_AGENT_STORE=True"};
  run p[2];
  for (int k = 0; k < 2; k++) {
    snprintf(text, sizeof text, "RANK=%d", k);
    p[k] = begin(ARGS("hello"), ARGS(text, common[0], common[1], common[2], common[3]));
  }
  for (int k = 0; k < 2; k++) end(&p[k], &r[k]);
  close(fd);
  exits(&r[0], 0);
  exits(&r[1], 0);
}
END_TEST

START_TEST(refusals) {
  result r;
  int fd;
  uint16_t port;
  char set[48];
  ck_assert_ptr_null(zg__wire_listen("127.0.0.1", 0, &fd, &port));
  snprintf(set, sizeof set, "main_process_port=%u", port);
  run_all(ARGS("hello", "num_processes=2", set), NULL, &r);
  exits(&r, 2);
  has(r.err, "is in use: set main_process_port");
  close(fd);
  run_all(ARGS("hello", "num_processes=2", "num_machines=2", "machine_rank=2", "main_process_ip=127.0.0.1"), NULL, &r);
  exits(&r, 2);
  has(r.err, "machine_rank");
  run_all(ARGS("hello", "num_processes=2", "num_machines=2", "machine_rank=0", "main_process_ip=192.0.2.1"), NULL, &r);
  exits(&r, 2);
  has(r.err, "192.0.2.1 is not an address of this machine");
  run_all(ARGS("hello"), ARGS("RANK=0"), &r);
  exits(&r, 2);
  has(r.err, "WORLD_SIZE is not");
  run_all(ARGS("hello"), ARGS("RANK=2", "WORLD_SIZE=2"), &r);
  exits(&r, 2);
  has(r.err, "RANK is 2, of 2 ranks the last is 1");
  run_all(ARGS("hello"), ARGS("RANK=x", "WORLD_SIZE=2"), &r);
  exits(&r, 2);
  has(r.err, "RANK is \"x\"");
}
END_TEST

int main(int argc, char **argv) {
  if (argc > 2 && !strcmp(argv[1], "go")) return go(argc, argv);
  static const char *const foreign[] = {"RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK"};
  for (size_t i = 0; i < ZG_COUNT(foreign); i++) unsetenv(foreign[i]);
  Suite *s = suite_create("launch");
  TCase *t = tcase_create("launch");
  tcase_set_timeout(t, 100);
  tcase_add_test(t, local_ranks);
  tcase_add_test(t, failing_ranks);
  tcase_add_test(t, a_stopped_rank);
  tcase_add_test(t, signals);
  tcase_add_test(t, other_launchers);
  tcase_add_test(t, port_of_torchrun);
  tcase_add_test(t, refusals);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
