// `zgraph train` with ranks that are killed while they compute, reduce and write checkpoints: all end within seconds, with the rank's
// number; nothing is left behind; the run goes on from its last checkpoint with another number of ranks.
// Usage: train_kill_test ZGRAPH MODEL DATA FOLDER
#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/base.h"

static const char *zgraph, *model, *data, *folder;

typedef struct { pid_t pid; int err; } run;

static run begin(const char *ranks, const char *stage, const char *steps, bool resume) {
  int e[2];
  char set[8][160];
  snprintf(set[0], sizeof set[0], "num_processes=%s", ranks);
  snprintf(set[1], sizeof set[1], "zero.stage=%s", stage);
  snprintf(set[2], sizeof set[2], "training.steps=%s", steps);
  snprintf(set[3], sizeof set[3], "data.train.path=%.130s", data);
  ck_assert_int_eq(pipe2(e, O_CLOEXEC), 0);
  run r = {.err = e[0], .pid = fork()};
  if (r.pid == 0) {
    dup2(e[1], 1);
    dup2(e[1], 2);
    execl(zgraph, "zgraph", "train", model, "--set", set[0], "--set", set[1], "--set", set[2], "--set", set[3], "--set", "data.train.batch_size=8",
          "--set", "loss={kind: cross_entropy, logits: probabilities, labels: labels, from_probs: true}", "--set", "training.save_every=1",
          "--set", "device=cpu", "--set", "threads=1", "--out", folder, "--quiet", resume ? "--resume" : (char *)NULL, (char *)NULL);
    _exit(127);
  }
  close(e[1]);
  return r;
}

// The launcher's children, in order of their start.
static int ranks_of(pid_t launcher, pid_t *out, int want) {
  char path[64];
  int n = 0;
  snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)launcher, (int)launcher);
  for (int tries = 0; tries < 400 && n < want; tries++, usleep(5000)) {
    zg_str s = {0};
    zg_status_free(zg_file_read(path, &s));
    n = 0;
    char *at = s.n ? s.at : NULL;
    for (; at && *at && n < want; n++) out[n] = (pid_t)strtol(at, &at, 10), at += strspn(at, " \n");
    zg_str_fini(&s);
  }
  return n;
}

static int finish(run *r, char *text, size_t n) {
  size_t got = 0;
  int status;
  for (ssize_t k; got < n - 1 && (k = read(r->err, text + got, n - 1 - got)) > 0;) got += (size_t)k;
  text[got] = 0;
  close(r->err);
  waitpid(r->pid, &status, 0);
  return status;
}

static bool has_checkpoint(void) {
  char pattern[300];
  snprintf(pattern, sizeof pattern, "ls %s 2>/dev/null | grep -q '^step-\\|^checkpoint'", folder);
  return system(pattern) == 0;
}

START_TEST(killed_while_training) {
  static const char *const stages[] = {"0", "3", "2", "1"};
  char text[8192];
  for (int i = 0; i < 4; i++) {
    pid_t ranks[3];
    run r = begin("3", stages[i], "1000000", i > 0);
    ck_assert_int_eq(ranks_of(r.pid, ranks, 3), 3);
    for (int k = 0; k < 400 && !has_checkpoint(); k++) usleep(10000);
    usleep(20000 + 37000 * (unsigned)i);             // wherever it is now: computing, reducing, or (mostly) writing a checkpoint
    const int victim = (i + 1) % 3;
    kill(ranks[victim], SIGKILL);
    const double killed = zg_time_s();
    const int status = finish(&r, text, sizeof text);
    ck_assert_msg(zg_time_s() - killed < 10, "stage %s: the others took %.1f s", stages[i], zg_time_s() - killed);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 1, "stage %s: status %x: %s", stages[i], status, text);
    char want[64];
    snprintf(want, sizeof want, "rank %d was killed by signal 9", victim);
    ck_assert_msg(strstr(text, want) != NULL, "stage %s: \"%s\" lacks \"%s\"", stages[i], text, want);
    snprintf(want, sizeof want, "rank %d has ended without a word", victim);
    ck_assert_msg(strstr(text, want) != NULL, "stage %s: \"%s\" lacks \"%s\"", stages[i], text, want);
    for (int k = 0; k < 3; k++) ck_assert_msg(kill(ranks[k], 0) != 0, "rank %d still runs", k);
  }
  run r = begin("2", "3", "1", true);                // as many steps as there are already: it only reads the checkpoint
  const int status = finish(&r, text, sizeof text);
  ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "resume: status %x: %s", status, text);
}
END_TEST

START_TEST(interrupted) {
  char text[8192];
  pid_t ranks[2];
  run r = begin("2", "2", "1000000", true);
  ck_assert_int_eq(ranks_of(r.pid, ranks, 2), 2);
  sleep(1);
  kill(r.pid, SIGINT);
  const int status = finish(&r, text, sizeof text);
  ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x: %s", status, text);
  ck_assert_msg(strstr(text, "interrupted after step") != NULL, "%s", text);
}
END_TEST

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  zgraph = argv[1], model = argv[2], data = argv[3], folder = argv[4];
  char clean[300];
  snprintf(clean, sizeof clean, "rm -rf %s", folder);
  if (system(clean)) return 2;
  Suite *s = suite_create("train_kill");
  TCase *t = tcase_create("train_kill");
  tcase_set_timeout(t, 100);
  tcase_add_test(t, killed_while_training);
  tcase_add_test(t, interrupted);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
