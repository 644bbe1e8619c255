// Kernel text to a shared object: preprocess after kernel_env.h, turn what C lacks into C, compile.
//   - `extern "C"` goes.
//   - `__shared__ T x` becomes static memory in section zg_shared; `extern __shared__ T x[]` a pointer to the
//   launch's memory.
//   - for each `__global__ void f(T a, U *b) {` a struct of the parameters is appended, its layout
//   (zg_emu_layout_f: count, size,
//     then offset and size of each) and a function zg_emu_run_f that calls f with a buffer laid out so. C
//     lays a struct out as CUDA lays out a parameter buffer.
// Everything is done in place or appended, so that compilers report the lines of the given text.
#include "emu.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
  char *at;
  size_t n, room;
} text;

static void put(text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(text *t, const char *fmt, ...) {
  va_list ap, again;
  va_start(ap, fmt);
  va_copy(again, ap);
  size_t n = (size_t)vsnprintf(NULL, 0, fmt, ap);
  if (t->n + n + 1 > t->room) t->at = realloc(t->at, t->room = 2 * (t->n + n) + 64);
  vsnprintf(t->at + t->n, n + 1, fmt, again);
  t->n += n;
  va_end(ap);
  va_end(again);
}

static char *read_file(const char *path) {
  FILE *f = fopen(path, "rb");
  if (!f) return NULL;
  text t = {0};
  char part[65536];
  put(&t, "%s", "");
  for (size_t n; (n = fread(part, 1, sizeof part - 1, f)) > 0;) part[n] = 0, put(&t, "%s", part);
  fclose(f);
  return t.at;
}

static bool is_word(int c) { return isalnum(c) || c == '_' || c == '$'; }
static const char *skip_space(const char *p) {
  while (isspace((unsigned char)*p)) p++;
  return p;
}
static void blank(char *p, size_t n) { memset(p, ' ', n); }

// The ')' that closes the '(' at p.
static const char *closing(const char *p) {
  int depth = 0;
  for (; *p; p++) {
    if (*p == '(') depth++;
    if (*p == ')' && --depth == 0) return p;
  }
  return NULL;
}

// ---- kernels ------------------------------------------------------------------------------------------

static void last_word(const char *from, const char *end, const char **word, int *n) {
  while (end > from && !is_word((unsigned char)end[-1])) end--;
  const char *start = end;
  while (start > from && is_word((unsigned char)start[-1])) start--;
  *word = start, *n = (int)(end - start);
}

// Appends the unpacking of kernel `name` whose parameter list is between open and close.
static void unpack(text *out, const char *name, int n_name, const char *open, const char *close) {
  text members = {0}, args = {0}, layout = {0};
  int n = 0, depth = 0;
  put(&members, "%s", ""), put(&args, "%s", ""), put(&layout, "%s", "");
  for (const char *p = open + 1, *start = p; p <= close; p++) {
    if (*p == '(' || *p == '[') depth++;
    if (p < close && (*p == ')' || *p == ']')) depth--;
    if (p < close && !(*p == ',' && depth == 0)) continue;
    const char *word;
    int n_word;
    last_word(start, p, &word, &n_word);
    if (n_word && !(n == 0 && p == close && n_word == 4 && !memcmp(word, "void", 4))) {
      put(&members, "%.*s; ", (int)(p - start), start);
      put(&args, "%sa->%.*s", n ? ", " : "", n_word, word);
      put(&layout,
          ", __builtin_offsetof(struct zg_emu_args_%.*s, %.*s), sizeof ((struct zg_emu_args_%.*s *)0)->%.*s",
          n_name, name, n_word, word, n_name, name, n_word, word);
      n++;
    }
    start = p + 1;
  }
  put(out, "struct zg_emu_args_%.*s { %s};\n", n_name, name, members.at);
  put(out,
      "__attribute__((visibility(\"default\"))) const unsigned zg_emu_layout_%.*s[] = {%d, sizeof(struct "
      "zg_emu_args_%.*s)%s};\n",
      n_name, name, n, n_name, name, layout.at);
  put(out,
      "__attribute__((visibility(\"default\"))) void zg_emu_run_%.*s(const void *p, void *ctx) { const "
      "struct zg_emu_args_%.*s *a = p; "
      "(void)a, (void)ctx; %.*s(%s); }\n",
      n_name, name, n_name, name, n_name, name, args.at);
  free(members.at), free(args.at), free(layout.at);
}

static void find_kernels(char *src, text *out) {
  static const char mark[] = "zg_emu_mark_global";
  for (char *p = src; (p = strstr(p, mark)); p += sizeof mark - 1) {
    blank(p, sizeof mark - 1);
    const char *open = strchr(p, '('), *close = open ? closing(open) : NULL, *name;
    int n_name;
    if (!close || *skip_space(close + 1) != '{')
      continue;  // a declaration, or broken text that the compiler will refuse
    last_word(p, open, &name, &n_name);
    unpack(out, name, n_name, open, close);
  }
}

// ---- shared memory ------------------------------------------------------------------------------------

// The `T name[];` of an extern __shared__ declaration, as `T *const name = (T *)zg_emu_dyn;`. Alignment
// attributes of T have no meaning there.
static void dynamic_shared(const char *rest, text *out) {
  const char *end = strchr(rest, ';'), *bracket = strchr(rest, '['), *name;
  int n_name;
  if (!end || !bracket || bracket > end) return;
  last_word(rest, bracket, &name, &n_name);
  text type = {0};
  put(&type, "%s", "");
  for (const char *p = rest; p < name;) {
    if (!strncmp(p, "__attribute__", 13)) {
      const char *close = closing(p);
      p = close ? close + 1 : name;
    } else put(&type, "%c", *p++);
  }
  put(out, " static %s *const %.*s = (%s *)zg_emu_dyn", type.at, n_name, name, type.at);
  free(type.at);
}

// Rewrites all __shared__ declarations into out.
static void shared_memory(char *src, text *out) {
  static const char mark[] = "zg_emu_mark_shared";
  char *done = src;
  for (char *p = src; (p = strstr(p, mark));) {
    char *before = p;
    while (before > src && isspace((unsigned char)before[-1])) before--;
    char *word = before;
    while (word > src && is_word((unsigned char)word[-1])) word--;
    size_t n_word = (size_t)(before - word);
    const char *rest = p + sizeof mark - 1;
    bool dynamic = n_word == 6 && !memcmp(word, "extern", 6),
         is_static = n_word == 6 && !memcmp(word, "static", 6);
    if (dynamic || is_static) blank(word, n_word);
    put(out, "%.*s", (int)(p - done), done);
    if (dynamic) {
      dynamic_shared(rest, out);
      done = strchr(rest, ';') ? strchr(rest, ';') : (char *)rest;
    } else {
      put(out, " static __attribute__((section(\"zg_shared\"))) ");
      done = (char *)rest;
    }
    p = done;
  }
  put(out, "%s", done);
}

static void drop_extern_c(char *src) {
  for (char *p = src; (p = strstr(p, "extern"));) {
    const char *q = skip_space(p + 6);
    if (!strncmp(q, "\"C\"", 3)) blank(p, (size_t)(q + 3 - p));
    p += 6;
  }
}

static char *rewrite(char *preprocessed) {
  text kernels = {0}, out = {0};
  put(&kernels, "%s", ""), put(&out, "%s", "");
  drop_extern_c(preprocessed);
  find_kernels(preprocessed, &kernels);
  shared_memory(preprocessed, &out);
  put(&out, "\n%s", kernels.at);
  free(kernels.at);
  return out.at;
}

// ---- compiler -----------------------------------------------------------------------------------------

static bool write_file(const char *path, const char *what) {
  FILE *f = fopen(path, "wb");
  bool ok = f && fputs(what, f) >= 0;
  return f ? fclose(f) == 0 && ok : false;
}

// Runs a command of the shell, messages to `log_path`; true: status 0.
static bool shell(const char *command) {
  int status = system(command);
  return status != -1 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static uint64_t hash(uint64_t h, const char *s) {
  for (; s && *s; s++) h = (h ^ (unsigned char)*s) * 0x100000001b3u;
  return h ^ 0xff;
}

static const char *cache_dir(char *room, size_t n) {
  const char *dir = getenv("ZG_EMU_CACHE");
  if (dir) snprintf(room, n, "%s", dir);
  else
    snprintf(room, n, "%s/zgraph-emulator-%u", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp",
             (unsigned)getuid());
  mkdir(room, 0700);
  return room;
}

static const char *compiler(void) { return getenv("ZG_EMU_CC") ? getenv("ZG_EMU_CC") : "cc"; }
static const char *flags(void) { return getenv("ZG_EMU_CFLAGS") ? getenv("ZG_EMU_CFLAGS") : "-O1"; }
static const char language[] = "-std=gnu17 -fgnu89-inline -fPIC -fno-strict-aliasing -ffp-contract=off -w";

static bool build(const char *stem, const char *source, const char *name, const char *defines, char **log) {
  char path[4][560];
  const char *ends[4] = {"cu", "i", "so", "log"};
  text command = {0}, full = {0};
  for (int i = 0; i < 4; i++) snprintf(path[i], sizeof path[i], "%s.%s", stem, ends[i]);
  put(&full, "#include \"%s/kernel_env.h\"\n#line 1 \"%s\"\n%s\n", ZG_EMU_SOURCE_DIR, name, source);
  bool ok = write_file(path[0], full.at);
  put(&command, "%s %s %s -E -x c '%s' -o '%s' 2>'%s'", compiler(), language, defines, path[0], path[1],
      path[3]);
  ok = ok && shell(command.at);
  char *preprocessed = ok ? read_file(path[1]) : NULL, *c = preprocessed ? rewrite(preprocessed) : NULL;
  command.n = 0;
  put(&command, "%s %s %s -shared -Wl,-Bsymbolic -x cpp-output '%s' -o '%s' -lm 2>'%s'", compiler(), language,
      flags(), path[1], path[2], path[3]);
  ok = c && write_file(path[1], c) && shell(command.at);
  *log = read_file(path[3]);
  if (!getenv("ZG_EMU_KEEP")) unlink(path[0]), unlink(path[1]);
  unlink(path[3]);
  free(preprocessed), free(c), free(command.at), free(full.at);
  return ok;
}

char *zg_emu_translate(const char *source, const char *name, const char *defines, char **log) {
  char dir[400], final[512], stem[512], built[560];
  char *env = read_file(ZG_EMU_SOURCE_DIR "/kernel_env.h"),
       *ctx = read_file(ZG_EMU_SOURCE_DIR "/kernel_ctx.h");
  uint64_t h = hash(hash(hash(0xcbf29ce484222325u, env), ctx), source),
           h2 = hash(hash(hash(h * 31, flags()), defines), compiler());
  free(env), free(ctx);
  cache_dir(dir, sizeof dir);
  snprintf(final, sizeof final, "%s/%016llx%016llx.so", dir, (unsigned long long)h, (unsigned long long)h2);
  *log = NULL;
  if (access(final, R_OK) == 0) return strdup(final);
  snprintf(stem, sizeof stem, "%s/%016llx.%ld.%llx", dir, (unsigned long long)h2, (long)getpid(),
           (unsigned long long)(uintptr_t)log);
  bool ok = build(stem, source, name && *name ? name : "kernel.cu", defines, log);
  snprintf(built, sizeof built, "%s.so", stem);
  if (ok && rename(built, final) == 0) return strdup(final);
  unlink(built);
  return NULL;
}
