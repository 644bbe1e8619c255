#include "train/checkpoint.h"
#include "train_test.h"
#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <sys/wait.h>

enum { N_W = 3000 };

// Saves a state whose every number follows from the step.
static zg_status save(const char *root, uint64_t step, uint64_t keep, char **path) {
  static float w[N_W];
  static uint16_t h[7];
  double m[5];
  zg_checkpoint_state st = { .step = step, .samples = 8 * step, .seed = UINT64_MAX - step, .config_hash = 0xfedcba9876543210u,
                             .world = 4, .stage = 3, .loss_scale = 65536, .loss_scale_good = step / 2, .loss = 1.0 / (double)step,
                             .seconds = 0.1 };
  for (int i = 0; i < N_W; i++) w[i] = (float)(step * 10000 + (uint64_t)i);
  for (int i = 0; i < 7; i++) h[i] = (uint16_t)(step + (uint64_t)i);
  for (int i = 0; i < 5; i++) m[i] = (double)step / (i + 1);
  zg_checkpoint_tensor params[] = { { "h", zg_type_make(ZG_BF16, 1, (int64_t[]){ 7 }), h },
                                    { "w", zg_type_make(ZG_F32, 2, (int64_t[]){ 30, 100 }), w } };
  zg_checkpoint_tensor opt[] = { { "m/w", zg_type_make(ZG_F64, 1, (int64_t[]){ 5 }), m } };
  return zg_checkpoint_save(root, &st, params, 2, opt, 1, keep, path);
}

static void check_is(const zg_checkpoint *c, uint64_t step) {
  const zg_safetensors *p = c->file[ZG_CKPT_PARAMS], *o = c->file[ZG_CKPT_OPTIMIZER];
  ck_assert_uint_eq(c->state.step, step);
  ck_assert_uint_eq(c->state.samples, 8 * step);
  ck_assert_uint_eq(c->state.seed, UINT64_MAX - step);
  ck_assert_uint_eq(c->state.config_hash, 0xfedcba9876543210u);
  ck_assert_uint_eq(c->state.world, 4);
  ck_assert_uint_eq(c->state.stage, 3);
  ck_assert_uint_eq(c->state.loss_scale_good, step / 2);
  ck_assert(c->state.loss_scale == 65536 && c->state.loss == 1.0 / (double)step && c->state.seconds == 0.1);
  const float *w = (const float *)(const void *)zg_safetensors_bytes(p, (size_t)zg_safetensors_find(p, "w")).at;
  for (int i = 0; i < N_W; i++) ck_assert_float_eq(w[i], (float)(step * 10000 + (uint64_t)i));
  const uint16_t *h = (const uint16_t *)(const void *)zg_safetensors_bytes(p, (size_t)zg_safetensors_find(p, "h")).at;
  ck_assert_uint_eq(h[6], (uint16_t)(step + 6));
  const double *m = (const double *)(const void *)zg_safetensors_bytes(o, (size_t)zg_safetensors_find(o, "m/w")).at;
  ck_assert(m[4] == (double)step / 5);
}

static void latest_is(const char *root, uint64_t step) {
  zg_checkpoint c;
  ok(zg_checkpoint_open(root, &c));
  check_is(&c, step);
  zg_checkpoint_close(&c);
}

static int count_entries(const char *root) {
  DIR *d = opendir(root);
  int n = -2;
  ck_assert_ptr_nonnull(d);
  while (readdir(d)) n++;
  closedir(d);
  return n;
}

static bool has_unfinished(const char *root) {
  DIR *d = opendir(root);
  bool found = false;
  for (struct dirent *e; d && (e = readdir(d));) found |= !strncmp(e->d_name, ".tmp-", 5);
  closedir(d);
  return found;
}

START_TEST(save_and_open) {
  const char *root = scratch("runs/one");
  zg_checkpoint c;
  char *path, *latest;
  fails(zg_checkpoint_open(root, &c), ZG_NOT_FOUND, root);
  ok(zg_dir_make(root));
  fails(zg_checkpoint_open(root, &c), ZG_NOT_FOUND, "no checkpoint");
  ok(save(root, 9, 0, &path));
  ck_assert_str_eq(strrchr(path, '/'), "/step-00000009");
  zg_free(path);
  ok(save(root, 100, 0, NULL));
  latest_is(root, 100);
  latest_is(scratch("runs/one/step-00000009"), 9);
  ok(save(root, 100, 0, &path));                                // again: another name, and newer
  ck_assert_str_eq(strrchr(path, '/'), "/step-00000100-2");
  ok(zg_checkpoint_latest(root, &latest));
  ck_assert_str_eq(path, latest);
  zg_free(path);
  zg_free(latest);
  ok(save(root, 123456789012, 0, NULL));                        // more digits sort as numbers
  latest_is(root, 123456789012);
}
END_TEST

START_TEST(keep_n) {
  const char *root = scratch("keep");
  for (uint64_t s = 1; s <= 6; s++) ok(save(root, s, 3, NULL));
  ck_assert_int_eq(count_entries(root), 3);
  latest_is(root, 6);
  latest_is(scratch("keep/step-00000004"), 4);
  ok(save(root, 2, 1, NULL));                                   // what was just written always stays
  ck_assert_int_eq(count_entries(root), 1);
  latest_is(root, 2);
}
END_TEST

// Four ranks write a quarter of every tensor each.
START_TEST(ranks) {
  const char *root = scratch("ranks");
  static uint8_t bytes[4003];
  for (int i = 0; i < 4003; i++) bytes[i] = (uint8_t)(i * 7 + i / 250);
  zg_safetensors_decl p[] = { { "a", zg_type_make(ZG_U8, 1, (int64_t[]){ 4003 }) }, { "b", zg_type_make(ZG_U8, 1,
                              (int64_t[]){ 2 }) } };
  zg_checkpoint_decls decls[] = { { p, 2 }, { p, 1 } };
  zg_checkpoint_writer *w[4];
  for (int r = 0; r < 4; r++) ok(zg_checkpoint_begin(root, 5, r, decls, &w[r]));
  for (int r = 3; r >= 0; r--)
    for (int f = 0; f < ZG_CKPT_N_FILES; f++)
      for (size_t i = 0; i < decls[f].n; i++) {
        uint64_t n = zg_type_bytes(&p[i].type), from = n * (uint64_t)r / 4, to = n * (uint64_t)(r + 1) / 4;
        ok(zg_checkpoint_write(w[r], (zg_checkpoint_file)f, i, from, bytes + from, to - from));
      }
  for (int r = 1; r < 4; r++) ok(zg_checkpoint_leave(w[r]));
  ck_assert_int_eq(count_entries(root), 1);
  zg_checkpoint c;
  fails(zg_checkpoint_open(root, &c), ZG_NOT_FOUND, "no checkpoint");
  ok(zg_checkpoint_commit(w[0], &(zg_checkpoint_state){ .step = 5, .loss = NAN }, 2, NULL));
  ok(zg_checkpoint_open(root, &c));
  ck_assert(isnan(c.state.loss));
  zg_bytes b = zg_safetensors_bytes(c.file[0], (size_t)zg_safetensors_find(c.file[0], "a"));
  ck_assert_uint_eq(b.n, 4003);
  ck_assert_mem_eq(b.at, bytes, 4003);
  zg_checkpoint_close(&c);
  ok(zg_checkpoint_begin(root, 6, 0, decls, &w[0]));
  zg_checkpoint_abandon(w[0]);
  ck_assert_int_eq(count_entries(root), 1);
}
END_TEST

// Any byte of any file changed, or any file cut anywhere: the damage is found, and the checkpoint before it is used.
START_TEST(damage_is_found) {
  const char *root = scratch("damage");
  static const char *const files[] = { "state.json", "params.safetensors", "optimizer.safetensors" };
  uint32_t key[2] = { 3, 4 }, r[4];
  ok(save(root, 1, 0, NULL));
  ok(save(root, 2, 0, NULL));
  quiet(true);
  for (uint32_t i = 0; i < 150; i++) {
    zg_str s = { 0 };
    char path[300];
    snprintf(path, sizeof path, "%s/step-00000002/%s", root, files[i % 3]);
    ok(zg_file_read(path, &s));
    zg_philox((uint32_t[4]){ i }, key, r);
    size_t at = r[1] % (i % 6 < 3 ? s.n : ZG_MIN(s.n, (size_t)300));   // headers are small: hit them too
    if (!strcmp(files[i % 3], "state.json")) at %= s.n - 4;            // not the closing lines, whose space means nothing
    char old = s.at[at];
    s.at[at] ^= (char)(1 << r[2] % 8);
    write_file(path, s.at, i % 2 ? s.n : at);
    zg_checkpoint c;
    ok(zg_checkpoint_open(root, &c));
    ck_assert_msg(c.state.step == 1, "%s: damage at %zu was not found", files[i % 3], at);
    check_is(&c, 1);
    zg_checkpoint_close(&c);
    s.at[at] = old;
    write_file(path, s.at, s.n);
    zg_str_fini(&s);
  }
  quiet(false);
  latest_is(root, 2);
  unlink(scratch("damage/step-00000001/params.safetensors"));
  unlink(scratch("damage/step-00000002/state.json"));
  zg_checkpoint c;
  quiet(true);
  fails(zg_checkpoint_open(root, &c), ZG_NOT_FOUND, "step-00000002/state.json");
  quiet(false);
}
END_TEST

// Saves one checkpoint after the other, telling each when it is done, until it is killed.
static pid_t start_writer(const char *root, uint64_t step, int *reports) {
  int ends[2];
  ck_assert_int_eq(pipe(ends), 0);
  pid_t pid = fork();
  if (!pid) {
    close(ends[0]);
    for (;; step++) {
      if (save(root, step, 2, NULL)) _exit(1);
      if (write(ends[1], &step, sizeof step) != sizeof step) _exit(1);
    }
  }
  close(ends[1]);
  *reports = ends[0];
  return pid;
}

// A writer is killed at random moments, again and again: the newest checkpoint is always sound, and never older than the
// last one the writer reported. The moments are fractions of the time a save takes here, so that slow disks test the same.
START_TEST(killed_at_any_moment) {
  const char *root = scratch("killed");
  uint64_t done = 1, step;
  int in_the_middle = 0, reports, how;
  double start = zg_time_s();
  ok(save(root, 1, 2, NULL));
  double a_save = zg_time_s() - start;
  for (int round = 0; round < 60 && (round < 9 || zg_time_s() - start < 4); round++) {
    pid_t pid = start_writer(root, done + 1, &reports);
    for (int k = 0; k < round % 3; k++) {
      ck_assert_int_eq(read(reports, &step, sizeof step), sizeof step);
      done = step;
    }
    usleep((useconds_t)(a_save * 1.5e6 * (round * 37 % 60) / 60));
    kill(pid, SIGKILL);
    waitpid(pid, &how, 0);
    ck_assert(WIFSIGNALED(how));
    while (read(reports, &step, sizeof step) == sizeof step) done = step;
    close(reports);
    zg_checkpoint c;
    ok(zg_checkpoint_open(root, &c));
    ck_assert_msg(c.state.step == done || c.state.step == done + 1, "%llu after %llu", (unsigned long long)c.state.step,
                  (unsigned long long)done);
    check_is(&c, c.state.step);
    done = c.state.step;
    zg_checkpoint_close(&c);
    in_the_middle += has_unfinished(root);
  }
  ck_assert_uint_ge(done, 10);
  ck_assert_int_gt(in_the_middle, 0);                           // some kills did hit a save in the middle
  ok(save(root, done + 1, 2, NULL));
  ck_assert_int_eq(count_entries(root), 2);                     // what they left is gone
}
END_TEST

int main(void) {
  const TTest *tests[] = { save_and_open, keep_n, ranks, damage_is_found, killed_at_any_moment };
  return run_tests("checkpoint", tests, ZG_COUNT(tests));
}
