// Compiling kernels with NVRTC.
//   programs   kernels in order of first use, PER_PROGRAM each: a program costs 20-40 ms besides its kernels,
//   which is shared, and
//              several programs keep several threads busy
//   cache      one file a program, named by the hash of everything that the result depends on: text,
//   architecture, NVRTC's version and
//              file, options. It holds the compiler's log too, so that register counts are known of cached
//              programs
#include "cuda/compile.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "cuda/lib_nvrtc.h"

enum { PER_PROGRAM = 12, MAX_THREADS = 16, MAGIC = 0x31435a47 };  // "GZC1"

typedef struct {
  uint32_t magic, crc;
  uint64_t n_cubin, n_log;
} file_head;
typedef struct {
  const zg__launch **kernels;
  uint32_t n;
  zg_str text;
  char path[1024];  // in the cache; "" without
  char *cubin, *log;
  size_t n_cubin;
  bool cached;
  zg_status status;
} program;
typedef struct {
  program *programs;
  char arch[48];
} job;

static const char *const options[] = {"--std=c++17", "--ptxas-options=-v",
                                      "--device-as-default-execution-space"};

// ---- cache
// ----------------------------------------------------------------------------------------------------------------
bool zg__cache_folder(const char *given, zg_str *out) {
  const char *dir = getenv("ZG_CACHE_DIR"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  if (given && !*given) return false;
  if (given) zg_str_add(out, "%s", given);
  else if (dir && *dir) zg_str_add(out, "%s/cuda", dir);
  else if (xdg && *xdg) zg_str_add(out, "%s/zgraph/cuda", xdg);
  else if (home && *home) zg_str_add(out, "%s/.cache/zgraph/cuda", home);
  else return false;
  zg_status s = zg_dir_make(out->at);
  if (!s) return true;
  zg_warn("kernels are not cached: %s", zg_status_message(s));
  zg_status_free(s);
  return false;
}

static void name_program(program *p, const char *folder, const char *arch) {
  int major = 0, minor = 0;
  zg__nvrtc.nvrtcVersion(&major, &minor);
  zg_str key = {0};
  zg_str_add(&key, "%s %d.%d %s", arch, major, minor, zg__nvrtc_path());
  for (size_t i = 0; i < ZG_COUNT(options); i++) zg_str_add(&key, " %s", options[i]);
  const uint64_t a = zg_hash(p->text.at, p->text.n, zg_hash(key.at, key.n, 1)),
                 b = zg_hash(p->text.at, p->text.n, zg_hash(key.at, key.n, 2));
  snprintf(p->path, sizeof p->path, "%s/%016llx%016llx.cubin", folder, (unsigned long long)a,
           (unsigned long long)b);
  zg_str_fini(&key);
}

// A file that is absent, cut off or damaged is as good as none.
static bool read_cached(program *p) {
  zg_str file = {0};
  file_head h;
  if (!*p->path || !zg_file_exists(p->path)) return false;
  zg_status s = zg_file_read(p->path, &file);
  bool good = !s && file.n >= sizeof h;
  zg_status_free(s);
  if (good) memcpy(&h, file.at, sizeof h);
  good = good && h.magic == MAGIC && h.n_cubin < file.n && h.n_log < file.n &&
         sizeof h + h.n_cubin + h.n_log == file.n &&
         h.crc == zg_crc32(file.at + sizeof h, file.n - sizeof h, 0);
  if (good) {
    p->n_cubin = h.n_cubin;
    p->cubin = zg_alloc(h.n_cubin + 1);
    p->log = zg_alloc(h.n_log + 1);
    memcpy(p->cubin, file.at + sizeof h, h.n_cubin);
    memcpy(p->log, file.at + sizeof h + h.n_cubin, h.n_log);
    p->cached = true;
  }
  zg_str_fini(&file);
  return good;
}

static void write_cached(const program *p) {
  if (!*p->path) return;
  file_head h = {.magic = MAGIC, .n_cubin = p->n_cubin, .n_log = strlen(p->log)};
  zg_str file = {0};
  zg_str_put(&file, (const char *)&h, sizeof h);
  zg_str_put(&file, p->cubin, p->n_cubin);
  zg_str_put(&file, p->log, h.n_log);
  h.crc = zg_crc32(file.at + sizeof h, file.n - sizeof h, 0);
  memcpy(file.at, &h, sizeof h);
  zg_status s = zg_file_write_atomic(p->path, file.at, file.n);
  if (s) zg_warn("kernel cache: %s", zg_status_message(s));
  zg_status_free(s);
  zg_str_fini(&file);
}

// ---- compiling
// ------------------------------------------------------------------------------------------------------------
static char *read_log(zg_nvrtc_program handle) {
  size_t n = 0;
  if (zg__nvrtc.nvrtcGetProgramLogSize(handle, &n) || n == 0) return zg_alloc(1);
  char *log = zg_alloc(n + 1);
  if (zg__nvrtc.nvrtcGetProgramLog(handle, log)) *log = 0;
  return log;
}

static zg_status compile_program(program *p, const char *arch) {
  const char *args[ZG_COUNT(options) + 1] = {arch};
  memcpy(args + 1, options, sizeof options);
  zg_nvrtc_program handle = NULL;
  zg_status status = NULL;
  ZG_TRY(ZG_NVRTC(nvrtcCreateProgram, &handle, p->text.at, "zgraph.cu", 0, NULL, NULL));
  const int result = zg__nvrtc.nvrtcCompileProgram(handle, (int)ZG_COUNT(args), args);
  p->log = read_log(handle);
  if (result == ZG_NVRTC_COMPILATION) {
    status = zg_error(ZG_INTERNAL, "NVRTC refuses a kernel for %s (ZG_LOG=4 shows the text): %.2000s", arch,
                      p->log);
    goto out;
  }
  ZG_TRY_OUT(zg__nvrtc_status(result, "nvrtcCompileProgram"));
  ZG_TRY_OUT(ZG_NVRTC(nvrtcGetCUBINSize, handle, &p->n_cubin));
  p->cubin = zg_alloc(p->n_cubin + 1);
  ZG_TRY_OUT(ZG_NVRTC(nvrtcGetCUBIN, handle, p->cubin));
  write_cached(p);
out:
  zg__nvrtc.nvrtcDestroyProgram(&handle);
  return status;
}

static void run_program(void *arg, int64_t i, int thread) {
  job *j = arg;
  program *p = &j->programs[i];
  (void)thread;
  if (!read_cached(p)) p->status = compile_program(p, j->arch);
}

// The newest architecture that NVRTC knows, not above the device's, of the same generation where CUBIN allows
// no other.
static zg_status choose_arch(int arch, char *out, size_t n_out) {
  int n = 0, best = 0, list[128];
  ZG_TRY(ZG_NVRTC(nvrtcGetNumSupportedArchs, &n));
  if (n > (int)ZG_COUNT(list)) return zg_error(ZG_INTERNAL, "NVRTC names %d architectures", n);
  ZG_TRY(ZG_NVRTC(nvrtcGetSupportedArchs, list));
  for (int i = 0; i < n; i++)
    if (list[i] <= arch && list[i] / 10 == arch / 10 && list[i] > best) best = list[i];
  if (!best)
    return zg_error(ZG_UNSUPPORTED, "%s does not compile for compute capability %d.%d: install a newer NVRTC",
                    zg__nvrtc_path(), arch / 10, arch % 10);
  snprintf(out, n_out, "--gpu-architecture=sm_%d", best);
  return NULL;
}

// ---- log
// ------------------------------------------------------------------------------------------------------------------
// ptxas -v prints, a kernel: "Function properties for NAME", "... bytes spill stores, N bytes spill loads",
// "Used N registers, ...".
static void parse_log(const char *log, zg__binary *b) {
  zg__usage u = {0};
  for (const char *line = log; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
    char name[64];
    int frame, n;
    const char *at;
    const size_t len = strcspn(line, "\n");
    char text[256];
    snprintf(text, sizeof text, "%.*s", (int)ZG_MIN(len, sizeof text - 1), line);
    if ((at = strstr(text, "Function properties for ")) &&
        sscanf(at, "Function properties for %63s", name) == 1) {
      u = (zg__usage){0};
      snprintf(u.name, sizeof u.name, "%.23s", name);
    } else if (sscanf(text, " %d bytes stack frame, %d bytes spill stores, %d bytes spill loads", &frame,
                      &u.spill_stores, &u.spill_loads) == 3) {
    } else if ((at = strstr(text, "Used ")) && sscanf(at, "Used %d registers", &u.registers) == 1) {
      if ((at = strstr(text, " bytes smem"))) {
        while (at > text && at[-1] >= '0' && at[-1] <= '9') at--;
        if (sscanf(at, "%d", &n) == 1) u.shared = n;
      }
      if (*u.name) zg_vec_push(&b->usage, u);
    }
  }
}

static void report(const zg__binary *b) {
  int most = 0, spills = 0;
  for (size_t i = 0; i < b->usage.n; i++) {
    const zg__usage *u = &b->usage.at[i];
    most = ZG_MAX(most, u->registers);
    spills += u->spill_stores > 0;
    if (u->spill_stores) zg_log(2, "kernel %s spills %d bytes of registers", u->name, u->spill_stores);
    zg_log(3, "kernel %s: %d registers, %d bytes of shared memory", u->name, u->registers, u->shared);
  }
  zg_log(1, "%u kernels in %u programs (%u cached) in %.2f s; at most %d registers, %d spill", b->n_kernels,
         b->n_programs, b->n_cached, b->seconds, most, spills);
}

// ---- all
// ------------------------------------------------------------------------------------------------------------------
static uint32_t distinct(const zg__code *codes, size_t n_codes, const zg__launch **out) {
  zg_map seen = {0};
  uint32_t n = 0;
  for (size_t c = 0; c < n_codes; c++)
    for (size_t l = 0; l < codes[c].launches.n; l++)
      if (zg_map_put(&seen, codes[c].launches.at[l].name, 1)) {
        if (out) out[n] = &codes[c].launches.at[l];
        n++;
      }
  zg_map_fini(&seen);
  return n;
}

static void make_programs(job *j, zg__binary *out, const zg__launch **kernels, const char *cache_dir) {
  zg_str folder = {0};
  const bool cache = zg__cache_folder(cache_dir, &folder);
  for (uint32_t i = 0; i < out->n_programs; i++) {
    program *p = &j->programs[i];
    p->kernels = kernels + i * PER_PROGRAM;
    p->n = ZG_MIN(out->n_kernels - i * PER_PROGRAM, (uint32_t)PER_PROGRAM);
    zg_str_add(&p->text, "%s", zg__emit_prologue());
    for (uint32_t k = 0; k < p->n; k++) {
      zg_str_put(&p->text, p->kernels[k]->text, strlen(p->kernels[k]->text));
      zg_log(4, "%s", p->kernels[k]->text);
    }
    if (cache) name_program(p, folder.at, j->arch);
  }
  zg_str_fini(&folder);
}

static zg_status take_programs(job *j, zg__binary *out) {
  zg_status status = NULL;
  for (uint32_t i = 0; i < out->n_programs; i++) {
    program *p = &j->programs[i];
    if (!status) status = p->status;
    else zg_status_free(p->status);
    if (p->cubin && p->log) {
      out->programs[i].cubin = zg_arena_copy(&out->mem, p->cubin, p->n_cubin + 1);
      out->programs[i].n_bytes = p->n_cubin;
      out->programs[i].first = i * PER_PROGRAM;
      out->programs[i].n = p->n;
      parse_log(p->log, out);
      out->n_cached += p->cached;
      out->n_compiled += !p->cached;
    }
    zg_free(p->cubin);
    zg_free(p->log);
    zg_str_fini(&p->text);
  }
  return status;
}

zg_status zg__compile(const zg__code *codes, size_t n_codes, int arch, const char *cache_dir,
                      zg__binary *out) {
  const double t0 = zg_time_s();
  *out = (zg__binary){0};
  ZG_TRY(zg__nvrtc_load());
  job j = {0};
  ZG_TRY(choose_arch(arch, j.arch, sizeof j.arch));
  out->n_kernels = distinct(codes, n_codes, NULL);
  out->n_programs = (out->n_kernels + PER_PROGRAM - 1) / PER_PROGRAM;
  const zg__launch **kernels = zg_alloc(sizeof *kernels * (out->n_kernels + 1));
  distinct(codes, n_codes, kernels);
  j.programs = zg_alloc(sizeof *j.programs * (out->n_programs + 1));
  out->programs = zg_arena_alloc(&out->mem, sizeof *out->programs * (out->n_programs + 1));
  out->names = ZG_NEW_N(&out->mem, const char *, out->n_kernels + 1);
  for (uint32_t i = 0; i < out->n_kernels; i++) out->names[i] = zg_arena_str(&out->mem, kernels[i]->name);
  make_programs(&j, out, kernels, cache_dir);
  zg_pool *all = zg_pool_new(0);
  const int threads = ZG_MIN(zg_pool_threads(all), MAX_THREADS);
  zg_pool_free(all);
  zg_pool *pool = zg_pool_new(threads);
  zg_pool_run(pool, out->n_programs, run_program, &j);
  zg_pool_free(pool);
  zg_status status = take_programs(&j, out);
  zg_free(j.programs);
  zg_free(kernels);
  out->seconds = zg_time_s() - t0;
  if (status) zg__binary_fini(out);
  else report(out);
  return status;
}

void zg__binary_fini(zg__binary *b) {
  zg_vec_fini(&b->usage);
  zg_arena_fini(&b->mem);
  *b = (zg__binary){0};
}
