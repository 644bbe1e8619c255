// Builds compiled kernels with the system's C compiler, and keeps them.
//   file     FOLDER/KEY.so, KEY a hash of text, flags, compiler (path, size, time of change) and version; a trailer
//            with a checksum, so that a file that is cut off is never mapped; written beside and renamed
//   folder   $ZG_CACHE_DIR/cpu, $XDG_CACHE_HOME/zgraph/cpu or ~/.cache/zgraph/cpu. Code is loaded from it: it is used
//            only if it belongs to the user and nobody else may write or replace it. Without one, a folder that is
//            removed at once
//   child    one compiler, on a thread of its own at a lower priority, in its own process group, ended after TIMEOUT_S
//            and when the program ends. Several ranks on a machine: who has the lock compiles, the others wait for the
//            file
#include "cpu/jit.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TIMEOUT_S = 300, NAP_US = 5000, GRACE_NAPS = 100, NICE = 10, MAX_MORE = 300, MAX_FLAGS = 16 + MAX_MORE / 2, TRAILER = 0x315a4a47 };  // "GJZ1"
static const double START_AFTER_S = 1.0;

typedef struct {
  uint32_t magic, crc;
  uint64_t n;
} trailer;

struct zg_jit {
  loop_prog **progs;
  size_t n;
  zg_str text;
  char compiler[512], flags[512], folder[768], key[40];
  bool cached_folder;  // `folder` is the cache's, else a temporary one that is removed after loading
  void *library;
  double first_poll;
  bool polled, started, tried;
  pthread_t thread;
  atomic_bool stop;
};

extern char **environ;

// ---- compiler, flags, key ---------------------------------------------------------------------------------
static bool find_in_path(const char *name, char *out, size_t n_out) {
  if (strchr(name, '/')) {
    return snprintf(out, n_out, "%s", name) < (int)n_out && access(out, X_OK) == 0;
  }
  const char *path = getenv("PATH");
  for (const char *at = path ? path : "/usr/bin:/bin"; *at;) {
    const size_t n = strcspn(at, ":");
    if (n && at[0] == '/' && snprintf(out, n_out, "%.*s/%s", (int)n, at, name) < (int)n_out &&
        access(out, X_OK) == 0)
      return true;
    at += n + (at[n] == ':');
  }
  return false;
}

static bool find_compiler(zg_jit *j) {
  const char *want = getenv("ZG_CC");
  if (want && *want) return find_in_path(want, j->compiler, sizeof j->compiler);
  static const char *const names[] = {"cc", "gcc", "clang"};
  for (size_t i = 0; i < ZG_COUNT(names); i++)
    if (find_in_path(names[i], j->compiler, sizeof j->compiler)) return true;
  return false;
}

// -ffp-contract=off and no -ffast-math: the bits of the interpreter.
static void choose_flags(zg_jit *j, const zg_vec *vec) {
  const char *level = strcmp(vec->name, "v4") == 0   ? " -march=x86-64-v4 -mprefer-vector-width=512"
                      : strcmp(vec->name, "v3") == 0 ? " -march=x86-64-v3"
                      : strcmp(vec->name, "v2") == 0 ? " -march=x86-64-v2"
                                                     : "";
  const char *more = getenv("ZG_JIT_CFLAGS");
  if (more && strlen(more) > MAX_MORE) {
    zg_warn("ZG_JIT_CFLAGS is longer than %d characters: left out", MAX_MORE);
    more = NULL;
  }
  snprintf(j->flags, sizeof j->flags,
           "-std=gnu11 -w -O3 -shared -fPIC -ffp-contract=off -fno-trapping-math -fno-math-errno "
           "-fno-strict-aliasing%s%s%s",
           level, more && *more ? " " : "", more ? more : "");
}

static void make_key(zg_jit *j) {
  struct stat st = {0};
  char *real = realpath(j->compiler, NULL);
  if (stat(j->compiler, &st)) st.st_size = 0;
  zg_str key = {0};
  zg_str_add(&key, "%s %s %lld %lld %s", j->flags, real ? real : j->compiler, (long long)st.st_size,
             (long long)st.st_mtime, ZG_VERSION);
  for (uint64_t k = 0; k < 2; k++)
    snprintf(j->key + 16 * k, sizeof j->key - 16 * k, "%016llx",
             (unsigned long long)zg_hash(j->text.at, j->text.n, zg_hash(key.at, key.n, 11 + k)));
  zg_str_fini(&key);
  free(real);
}

// ---- folder -----------------------------------------------------------------------------------------------
static bool ours(const char *path, bool folder) {
  struct stat st;
  if (lstat(path, &st)) return false;
  return (folder ? S_ISDIR(st.st_mode) : S_ISREG(st.st_mode)) && st.st_uid == geteuid() &&
         !(st.st_mode & (S_IWGRP | S_IWOTH));
}

// Can another user rename a folder on the way to this one, and so put his own in its place?
static bool exposed(const char *folder) {
  char *path = realpath(folder, NULL);
  bool bad = !path;
  for (char *slash = path ? strrchr(path, '/') : NULL; slash && !bad; slash = slash == path ? NULL : strrchr(path, '/')) {
    struct stat st;
    slash[slash == path] = 0;
    bad = stat(path, &st) != 0;
    const bool sticky = !bad && st.st_mode & S_ISVTX && (st.st_uid == 0 || st.st_uid == geteuid());
    if (!bad) bad = st.st_mode & S_IWOTH && !sticky;
  }
  free(path);
  return bad;
}

static bool trusted_folder(const char *path) { return ours(path, true) && !exposed(path); }

static bool name_folder(zg_jit *j) {
  const char *dir = getenv("ZG_CACHE_DIR"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  int n = 0;
  if (dir && *dir) n = snprintf(j->folder, sizeof j->folder, "%s/cpu", dir);
  else if (xdg && *xdg) n = snprintf(j->folder, sizeof j->folder, "%s/zgraph/cpu", xdg);
  else if (home && *home) n = snprintf(j->folder, sizeof j->folder, "%s/.cache/zgraph/cpu", home);
  return n > 0 && n < (int)sizeof j->folder - 64;
}

// The cache's folder, the last of its path for the user alone whatever the umask says.
static bool make_cache(const char *folder) {
  char above[768];
  snprintf(above, sizeof above, "%.*s", (int)(strrchr(folder, '/') - folder), folder);
  zg_status s = zg_dir_make(above);
  if (!s && mkdir(folder, 0700) && errno != EEXIST) s = zg_error(ZG_IO, "%s: %s", folder, strerror(errno));
  if (!s && (!trusted_folder(folder) || access(folder, W_OK | X_OK)))
    s = zg_error(ZG_IO, "%s is not the user's alone to write, or a folder above is everybody's", folder);
  if (s) zg_log(1, "jit: kernels are not kept: %s", zg_status_message(s));
  const bool good = !s;
  zg_status_free(s);
  return good;
}

// Makes the cache's folder, or a temporary one where that cannot be.
static bool make_folder(zg_jit *j) {
  if (j->cached_folder && make_cache(j->folder)) return true;
  j->cached_folder = false;
  const char *tmp = getenv("TMPDIR");
  snprintf(j->folder, sizeof j->folder, "%s/zgraph-XXXXXX", tmp && *tmp && strlen(tmp) < 500 ? tmp : "/tmp");
  if (mkdtemp(j->folder)) return true;
  zg_log(1, "jit: %s: %s", j->folder, strerror(errno));
  return false;
}

static void path_of(const zg_jit *j, const char *suffix, char out[1024]) {
  snprintf(out, 1024, "%s/%s%s", j->folder, j->key, suffix);
}

// ---- files ------------------------------------------------------------------------------------------------
// Whole, ours, and as it was written.
static bool good_file(const char *path) {
  if (!ours(path, false)) return false;
  zg_file_map m;
  zg_status s = zg_file_map_open(path, &m);
  if (s) {
    zg_status_free(s);
    return false;
  }
  trailer t = {0};
  if (m.bytes.n > sizeof t) memcpy(&t, m.bytes.at + m.bytes.n - sizeof t, sizeof t);
  const bool good =
      t.magic == TRAILER && t.n == m.bytes.n - sizeof t && t.crc == zg_crc32(m.bytes.at, t.n, 0);
  zg_file_map_close(&m);
  return good;
}

// The compiler's output with the trailer, renamed to its place.
static bool keep_file(const char *from, const char *to) {
  zg_str file = {0};
  zg_status s = zg_file_read(from, &file);
  if (!s) {
    const trailer t = {TRAILER, zg_crc32(file.at, file.n, 0), file.n};
    zg_str_put(&file, (const char *)&t, sizeof t);
    s = zg_file_write_atomic(to, file.at, file.n);
  }
  if (!s && chmod(to, 0700)) s = zg_error(ZG_IO, "%s: %s", to, strerror(errno));
  if (s) zg_log(1, "jit: %s", zg_status_message(s));
  const bool ok = !s;
  zg_status_free(s);
  zg_str_fini(&file);
  return ok;
}

static bool load_file(zg_jit *j, const char *path) {
  j->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!j->library) {
    zg_log(1, "jit: %s", dlerror());
    return false;
  }
  for (size_t i = 0; i < j->n; i++) {
    loop_prog *p = j->progs[i];
    if (!p || !p->jit) continue;
    bool all = true;
    for (size_t q = 0; q < p->phases.n; q++) {
      if (!*p->jit[q].name) continue;
      void *at = dlsym(j->library, p->jit[q].name);
      memcpy(&p->jit[q].fn, &at, sizeof at);
      all &= at != NULL;
    }
    atomic_store_explicit(&p->compiled, all, memory_order_release);
  }
  return true;
}

static bool load_cached(zg_jit *j) {
  char path[1024];
  path_of(j, ".so", path);
  return j->cached_folder && trusted_folder(j->folder) && good_file(path) && load_file(j, path);
}

// ---- the child --------------------------------------------------------------------------------------------
static pid_t start_compiler(const zg_jit *j, const char *source, const char *object, const char *messages) {
  char flags[512], *argv[MAX_FLAGS + 8], *save = NULL;
  int n = 0;
  snprintf(flags, sizeof flags, "%s", j->flags);
  argv[n++] = (char *)j->compiler;
  for (char *f = strtok_r(flags, " ", &save); f && n < MAX_FLAGS; f = strtok_r(NULL, " ", &save))
    argv[n++] = f;
  char *const rest[] = {(char *)"-o", (char *)object, (char *)source, (char *)"-lm", NULL};
  memcpy(argv + n, rest, sizeof rest);
  posix_spawn_file_actions_t fa;
  posix_spawnattr_t at;
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawn_file_actions_init(&fa);
  posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&fa, 1, messages, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&fa, 1, 2);
  posix_spawnattr_init(&at);
  posix_spawnattr_setflags(&at, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  posix_spawnattr_setsigmask(&at, &none);
  posix_spawnattr_setsigdefault(&at, &all);
  pid_t pid = 0;
  const int err = posix_spawn(&pid, j->compiler, &fa, &at, argv, environ);
  posix_spawn_file_actions_destroy(&fa);
  posix_spawnattr_destroy(&at);
  if (err) zg_log(1, "jit: %s does not start: %s", j->compiler, strerror(err));
  return err ? 0 : pid;
}

static void nap(void) { usleep(NAP_US); }

// A compiler that is asked to end removes its temporary files first; one that does not listen is killed. It is waited for
// last, so that the group's number is not somebody else's.
static void end_compiler(pid_t pid) {
  siginfo_t ended = {0};
  kill(-pid, SIGTERM);
  for (int i = 0; i < GRACE_NAPS && !ended.si_pid; i++) {
    if (waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOHANG | WNOWAIT) && errno != EINTR) break;
    nap();
  }
  kill(-pid, SIGKILL);
  while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) continue;
}

static bool wait_for(zg_jit *j, pid_t pid, const char *messages) {
  const double t0 = zg_time_s();
  int how = 0;
  for (pid_t r; (r = waitpid(pid, &how, WNOHANG)) != pid; nap()) {
    if (r < 0 && errno != EINTR) {
      zg_log(1, "jit: how %s ended is not known: %s (is SIGCHLD ignored?)", j->compiler, strerror(errno));
      return false;
    }
    const bool late = zg_time_s() - t0 > TIMEOUT_S;
    if (!late && !atomic_load(&j->stop)) continue;
    if (late) zg_log(1, "jit: %s takes more than %d s: ended", j->compiler, TIMEOUT_S);
    end_compiler(pid);
    return false;
  }
  if (WIFEXITED(how) && WEXITSTATUS(how) == 0) return true;
  zg_str said = {0};
  zg_status_free(zg_file_read(messages, &said));
  zg_log(1, "jit: %s fails: %.400s", j->compiler, said.n ? said.at : "without a message");
  zg_str_fini(&said);
  return false;
}

static void compile(zg_jit *j) {
  char source[1024], object[1024], messages[1024], final[1024], mine[64];
  snprintf(mine, sizeof mine, ".%ld.%p", (long)getpid(), (void *)j);  // ranks in one process are several
  path_of(j, "", source);
  snprintf(source + strlen(source), 128, "%s.c", mine);
  path_of(j, mine, object);
  snprintf(messages, sizeof messages, "%.900s.log", object);
  path_of(j, ".so", final);
  zg_status s = zg_file_write_atomic(source, j->text.at, j->text.n);
  if (s) zg_log(1, "jit: %s", zg_status_message(s));
  else {
    const double t0 = zg_time_s();
    const pid_t pid = start_compiler(j, source, object, messages);
    const bool ok = pid && wait_for(j, pid, messages) && keep_file(object, final) && load_file(j, final);
    if (ok) zg_log(1, "jit: kernels compiled by %s in %.2f s: %s", j->compiler, zg_time_s() - t0, final);
  }
  zg_status_free(s);
  unlink(source);
  unlink(object);
  unlink(messages);
  if (!j->cached_folder) unlink(final);
}

// One of several who want the same file compiles it. Where the folder's system has no locks, each does.
static void build_in_cache(zg_jit *j) {
  char lock[1024];
  path_of(j, ".lock", lock);
  const int fd = open(lock, O_CREAT | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);
  bool locked = false, wait = fd >= 0;
  while (wait && !atomic_load(&j->stop)) {
    locked = !flock(fd, LOCK_EX | LOCK_NB);
    wait = !locked && (errno == EWOULDBLOCK || errno == EINTR);
    if (wait) nap();
  }
  if (!atomic_load(&j->stop) && !load_cached(j)) compile(j);
  if (locked) unlink(lock);
  if (fd >= 0) close(fd);
}

static void build(zg_jit *j) {
  if (!make_folder(j)) return;
  if (j->cached_folder) {
    build_in_cache(j);
    return;
  }
  if (!atomic_load(&j->stop)) compile(j);
  rmdir(j->folder);
}

static void *builder(void *arg) {
  if (nice(NICE) == -1) errno = 0;  // Linux: of this thread, and of the child it makes
  build(arg);
  zg_str_fini(&((zg_jit *)arg)->text);
  return NULL;
}

// ---- from outside -----------------------------------------------------------------------------------------
static bool emit_all(zg_jit *j) {
  zg_map seen = {0};
  size_t n = 0, left = 0;
  zg__jit_prelude(&j->text);
  for (size_t i = 0; i < j->n; i++) {
    if (!j->progs[i]) continue;
    if (zg__jit_emit(j->progs[i], &j->text, &seen)) n++;
    else left++, zg_log(3, "jit: %s: left to the interpreter", j->progs[i]->k->label);
  }
  zg_log(2, "jit: %zu loop kernels in %zu functions, %zu left to the interpreter", n, seen.n, left);
  zg_map_fini(&seen);
  return n > 0;
}

static bool prepare(zg_jit *j, const zg_vec *vec) {
  if (!find_compiler(j)) {
    zg_log(1, "jit: no C compiler in PATH: loop kernels are interpreted");
    return false;
  }
  if (!emit_all(j)) return false;
  zg_log(4, "%s", j->text.at);
  choose_flags(j, vec);
  make_key(j);
  j->cached_folder = name_folder(j);
  return true;
}

zg_jit *zg_jit_new(loop_prog **progs, size_t n, const zg_vec *vec) {
  const char *want = getenv("ZG_JIT");
  if (want && strcmp(want, "off") == 0) return NULL;
  const bool wait = want && strcmp(want, "wait") == 0;
  if (want && *want && !wait && strcmp(want, "auto") != 0)
    zg_warn("ZG_JIT=%s: want auto, off or wait; taken as auto", want);
  zg_jit *j = zg_alloc(sizeof *j);
  j->progs = progs, j->n = n;
  if (!prepare(j, vec)) {
    zg_jit_free(j);
    return NULL;
  }
  j->tried = load_cached(j);
  if (!j->tried && wait) build(j), j->tried = true;
  if (j->tried) zg_str_fini(&j->text);
  return j;
}

void zg_jit_poll(zg_jit *j) {
  if (!j || j->tried) return;
  const double now = zg_time_s();
  if (!j->polled) j->polled = true, j->first_poll = now;
  if (now - j->first_poll < START_AFTER_S) return;
  j->tried = true;
  const int err = pthread_create(&j->thread, NULL, builder, j);
  j->started = !err;
  if (err) zg_log(1, "jit: no thread for the compiler: %s", strerror(err));
}

void zg_jit_free(zg_jit *j) {
  if (!j) return;
  atomic_store(&j->stop, true);
  if (j->started) pthread_join(j->thread, NULL);
  if (j->library) dlclose(j->library);
  zg_str_fini(&j->text);
  zg_free(j);
}
