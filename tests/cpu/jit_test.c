// Compiled loop kernels against the interpreter: the same bits. And whatever can go wrong with a compiler and
// a cache: the interpreter.
#include "cpu/jit.h"
#include "loop_random.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[] = "/tmp/zgraph-jit-test-XXXXXX";

static void use(const char *jit, const char *cc, const char *cflags, const char *cache) {
  setenv("ZG_JIT", jit, 1);
  setenv("ZG_CC", cc, 1);
  setenv("ZG_JIT_CFLAGS", cflags, 1);
  setenv("ZG_CACHE_DIR", cache, 1);
}

// ---- many kernels in one schedule -------------------------------------------------------------------------
typedef struct {
  zg_sched *s;
  prog *progs;
  size_t n;
  contents in;
} many;

static many many_new(uint64_t first, size_t n) {
  many m = {.s = zg_sched_new(), .progs = zg_alloc(sizeof(prog) * n), .n = n};
  for (size_t i = 0; i < n; i++) {
    prog *p = &m.progs[i];
    p->r.s = (first + i) * 77 + 1;
    p->s = m.s;
    p->d.inst = p->inst;
    p->d.index = p->index;
    random_program(p);
    const zg_kernel k = {.kind = ZG_K_LOOP,
                         .desc = &p->d,
                         .args = p->args,
                         .n_args = p->n_args,
                         .n_out = p->n_out,
                         .label = "loop"};
    zg_sched_add_kernel(m.s, &k, sizeof p->d);
  }
  m.in = contents_new(m.s);
  rng r = {first + 5};
  for (size_t i = 1; i < m.in.n; i++) {
    const bool f = zg_dtype_is_float(m.s->bufs.at[i].dtype);
    fill_random(&r, &m.s->bufs.at[i], m.in.at[i], f ? -2 : 0, f ? 2 : 9);
  }
  return m;
}

static void many_free(many *m) {
  contents_free(m->in);
  zg_sched_free(m->s);
  zg_free(m->progs);
}

// Runs all kernels under the present settings; returns how many ran compiled.
static uint32_t many_run(many *m, int threads, contents c) {
  zg_device *d = NULL;
  zg_program *p = NULL;
  must(zg_device_cpu.open(threads, &d));
  for (size_t k = 0; k < m->s->kernels.n; k++) m->s->kernels.at[k].workspace = 0;
  m->s->arena_bytes[0] = 0;
  for (size_t i = 1; i < m->s->bufs.n; i++) m->s->bufs.at[i].offset = 0;
  must(zg_exec_add_workspaces(d, m->s));
  place(m->s);
  must(zg_device_cpu.prepare(d, m->s, &p));
  for (uint32_t i = 1; i < c.n; i++) must(zg_device_cpu.write(p, i, 0, c.at[i], m->s->bufs.at[i].bytes));
  for (uint32_t k = 0; k < m->s->kernels.n; k++)
    must(zg_device_cpu.run_kernel(p, k, (zg_rand_state){{3, 4}, 5}));
  for (uint32_t i = 1; i < c.n; i++) must(zg_device_cpu.read(p, i, 0, c.at[i], m->s->bufs.at[i].bytes));
  uint32_t compiled, loops;
  zg_cpu_compiled(p, &compiled, &loops);
  ck_assert_uint_eq(loops, m->n);
  zg_device_cpu.program_free(p);
  zg_device_cpu.close(d);
  return compiled;
}

static void compare(const many *m, contents a, contents b) {
  for (size_t k = 0; k < m->n; k++)
    for (uint32_t o = 0; o < m->progs[k].n_out; o++) {
      const zg_buf *f = &m->s->bufs.at[m->progs[k].args[o].buf];
      const uint8_t *x = a.at[m->progs[k].args[o].buf], *y = b.at[m->progs[k].args[o].buf];
      const uint64_t size = zg_dtype_bytes(f->dtype);
      for (uint64_t i = 0; i < f->bytes; i += size) {
        if (memcmp(x + i, y + i, size) == 0) continue;
        const double g = zg_get_f64(f->dtype, (void *)x, (int64_t)(i / size)),
                     w = zg_get_f64(f->dtype, (void *)y, (int64_t)(i / size));
        if (isnan(g) && isnan(w)) continue;  // which NaN is left open
        zg_str s = {0};
        zg_loop_print(&m->progs[k].d, &s);
        ck_abort_msg("program %zu output %u element %llu: interpreted %.17g, compiled %.17g\n%s", k, o,
                     (unsigned long long)(i / size), g, w, s.at);
      }
    }
}

static void same_bits(uint64_t first, size_t n, const char *cflags, const char *isa) {
  if (isa) setenv("ZG_ISA", isa, 1);
  many m = many_new(first, n);
  contents a = contents_copy(m.s, m.in), b = contents_copy(m.s, m.in);
  use("off", "", "", folder);
  ck_assert_uint_eq(many_run(&m, 2, a), 0);
  use("wait", "", cflags, folder);
  const uint32_t compiled = many_run(&m, 2, b);
  ck_assert_msg(compiled > n / 3, "only %u of %zu programs were compiled", compiled, n);
  compare(&m, a, b);
  contents_free(a);
  contents_free(b);
  many_free(&m);
  unsetenv("ZG_ISA");
}

static const char *more_flags(const char *flags) {  // a sanitised build sanitises these as well
  static char out[200];
  const char *given = getenv("ZG_TEST_JIT_CFLAGS");
  snprintf(out, sizeof out, "%s %s", flags, given ? given : "");
  return out;
}

START_TEST(bits_at_full_optimization) { same_bits(1, 40, more_flags(""), NULL); }
END_TEST
START_TEST(bits_of_many_programs) { same_bits(1000, 300, more_flags("-O1"), NULL); }
END_TEST
START_TEST(bits_at_lower_levels) {
  same_bits(2000, 30, more_flags("-O2"), "v3");
  same_bits(3000, 30, more_flags("-O2"), "generic");
}
END_TEST

// ---- one small kernel -------------------------------------------------------------------------------------
static uint32_t small_run(void) {
  many m = many_new(4, 3);
  contents c = contents_copy(m.s, m.in), want = contents_copy(m.s, m.in);
  const uint32_t compiled = many_run(&m, 1, c);
  char jit[16];
  snprintf(jit, sizeof jit, "%s", getenv("ZG_JIT"));
  setenv("ZG_JIT", "off", 1);
  many_run(&m, 1, want);
  setenv("ZG_JIT", jit, 1);
  compare(&m, want, c);
  contents_free(c);
  contents_free(want);
  many_free(&m);
  return compiled;
}

static void script(const char *path, const char *text) {
  FILE *f = fopen(path, "w");
  ck_assert(f && fputs(text, f) >= 0);
  fclose(f);
  chmod(path, 0700);
}

static void first_object(const char *dir, char out[600]) {
  DIR *d = opendir(dir);
  *out = 0;
  for (struct dirent *e; d && (e = readdir(d));)
    if (strstr(e->d_name, ".so")) snprintf(out, 600, "%s/%s", dir, e->d_name);
  if (d) closedir(d);
  ck_assert_msg(*out, "no object in %s", dir);
}

START_TEST(without_a_compiler) {
  use("wait", "/nonexistent/cc", "", folder);
  ck_assert_uint_eq(small_run(), 0);
  use("wait", "/bin/false", "", folder);
  ck_assert_uint_eq(small_run(), 0);
  char path[200];
  snprintf(path, sizeof path, "%s/cc-empty", folder);  // says that all is well and writes nothing
  script(path, "#!/bin/sh\nexit 0\n");
  use("wait", path, "", folder);
  ck_assert_uint_eq(small_run(), 0);
  snprintf(path, sizeof path, "%s/cc-rubbish", folder);
  script(path, "#!/bin/sh\nwhile [ $# -gt 0 ]; do [ \"$1\" = -o ] && echo rubbish > \"$2\"; shift; done\n");
  use("wait", path, "", folder);
  ck_assert_uint_eq(small_run(), 0);
}
END_TEST

// How many files a folder holds.
static int n_files(const char *dir) {
  DIR *d = opendir(dir);
  int n = 0;
  for (struct dirent *e; d && (e = readdir(d));) n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
  if (d) closedir(d);
  return n;
}

// Runs kernels until the compiler's thread starts, after a second, and then until `sign` exists (NULL: half a second more); then
// ends the program, which must not take long.
static void run_and_end(const char *sign) {
  many m = many_new(4, 3);
  zg_device *d = NULL;
  zg_program *p = NULL;
  must(zg_device_cpu.open(1, &d));
  must(zg_exec_add_workspaces(d, m.s));
  place(m.s);
  must(zg_device_cpu.prepare(d, m.s, &p));
  const double t0 = zg_time_s();
  while (sign ? access(sign, F_OK) && zg_time_s() - t0 < 20 : zg_time_s() - t0 < 1.5)
    must(zg_device_cpu.run_kernel(p, 0, (zg_rand_state){{3, 4}, 5}));
  ck_assert_msg(!sign || !access(sign, F_OK), "the compiler was not started");
  const double t1 = zg_time_s();
  zg_device_cpu.program_free(p);
  ck_assert_msg(zg_time_s() - t1 < 5, "the program's end waits for a compiler that hangs");
  ck_assert_msg(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD, "a child is left");
  zg_device_cpu.close(d);
  many_free(&m);
}

START_TEST(a_hanging_compiler_is_ended) {
  static const char *const hang[] = {"trap 'rm -f \"$0.temp\"; exit 1' TERM; touch \"$0.temp\"; touch \"$0.runs\"; while :; do sleep 0.1; done",
                                     "trap '' TERM; touch \"$0.runs\"; exec sleep 1000"};
  for (size_t i = 0; i < ZG_COUNT(hang); i++) {
    char path[200], cache[200], cpu[220], text[300], sign[220];
    snprintf(path, sizeof path, "%s/cc-hang-%zu", folder, i);
    snprintf(cache, sizeof cache, "%s/hang", folder);
    snprintf(cpu, sizeof cpu, "%s/cpu", cache);
    snprintf(text, sizeof text, "#!/bin/sh\n%s\n", hang[i]);
    snprintf(sign, sizeof sign, "%s.runs", path);
    script(path, text);
    use("auto", path, "", cache);
    run_and_end(sign);
    ck_assert_int_eq(n_files(cpu), 0);
    snprintf(sign, sizeof sign, "%s.temp", path);
    ck_assert_msg(access(sign, F_OK), "a compiler that is asked to end was not let remove its files");
  }
}
END_TEST

START_TEST(cached_and_damaged) {
  char cache[200], cpu[220], object[600];
  snprintf(cache, sizeof cache, "%s/cache", folder);
  snprintf(cpu, sizeof cpu, "%s/cpu", cache);
  const mode_t old = umask(002);  // the group may write into what is made without care
  use("wait", "", "", cache);
  const uint32_t n = small_run();
  umask(old);
  ck_assert_uint_gt(n, 0);
  first_object(cpu, object);
  use("auto", "", "", cache);  // from the cache alone: a run of microseconds starts no compiler
  ck_assert_uint_eq(small_run(), n);
  const int fd = open(object, O_RDWR | O_CLOEXEC);  // one byte of the code
  uint8_t byte;
  ck_assert(fd >= 0 && pread(fd, &byte, 1, 5000) == 1);
  byte ^= 1;
  ck_assert_int_eq(pwrite(fd, &byte, 1, 5000), 1);
  close(fd);
  ck_assert_uint_eq(small_run(), 0);
  ck_assert_int_eq(truncate(object, 3000), 0);
  ck_assert_uint_eq(small_run(), 0);
  use("wait", "", "", cache);
  ck_assert_uint_eq(small_run(), n);
  chmod(object, 0777);  // others may have written it
  use("auto", "", "", cache);
  ck_assert_uint_eq(small_run(), 0);
  chmod(object, 0700);
  chmod(cpu, 0777);
  ck_assert_uint_eq(small_run(), 0);
  chmod(cpu, 0700);
  ck_assert_uint_eq(small_run(), n);
  chmod(cache, 0777);  // others may have put another folder there
  ck_assert_uint_eq(small_run(), 0);
}
END_TEST

START_TEST(without_a_cache) {
  char cache[200], tmp[200];
  snprintf(cache, sizeof cache, "%s/open", folder);
  snprintf(tmp, sizeof tmp, "%s/tmp", folder);
  ck_assert_int_eq(mkdir(cache, 0700) | mkdir(tmp, 0700), 0);
  chmod(cache, 0777);
  setenv("TMPDIR", tmp, 1);
  use("wait", "", "", cache);
  ck_assert_uint_gt(small_run(), 0);
  use("wait", "", "", "/proc/nowhere");
  ck_assert_uint_gt(small_run(), 0);
  ck_assert_int_eq(n_files(tmp), 0);
  unsetenv("TMPDIR");
}
END_TEST

// Another process compiles the same: this one waits for its file, and its end leaves the other's lock alone.
START_TEST(locked_by_another) {
  char cache[200], cpu[220], object[600], lock[620];
  snprintf(cache, sizeof cache, "%s/locked", folder);
  snprintf(cpu, sizeof cpu, "%s/cpu", cache);
  use("wait", "", "", cache);
  const uint32_t n = small_run();
  ck_assert_uint_gt(n, 0);
  ck_assert_int_eq(n_files(cpu), 1);
  first_object(cpu, object);
  unlink(object);
  snprintf(lock, sizeof lock, "%.*s.lock", (int)strlen(object) - 3, object);
  const int fd = open(lock, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  ck_assert(fd >= 0 && !flock(fd, LOCK_EX));
  use("auto", "", "", cache);
  run_and_end(NULL);
  ck_assert_msg(!access(lock, F_OK), "somebody else's lock was removed");
  ck_assert_msg(access(object, F_OK), "compiled twice");
  close(fd);
}
END_TEST

static void all(TCase *tc) {
  tcase_add_test(tc, bits_at_full_optimization);
  tcase_add_test(tc, bits_of_many_programs);
  tcase_add_test(tc, bits_at_lower_levels);
  tcase_add_test(tc, without_a_compiler);
  tcase_add_test(tc, a_hanging_compiler_is_ended);
  tcase_add_test(tc, cached_and_damaged);
  tcase_add_test(tc, without_a_cache);
  tcase_add_test(tc, locked_by_another);
}

int main(void) {
  void (*const tests[])(TCase *) = {all};
  if (system("cc --version > /dev/null 2>&1")) return puts("no C compiler: nothing to test"), 77;
  if (!mkdtemp(folder)) return 1;
  const int failed = run_suite("jit", tests, 1);
  char command[200];
  snprintf(command, sizeof command, "rm -rf %s", folder);
  return system(command) || failed;
}
