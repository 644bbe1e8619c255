// Every kernel that a model's training step needs compiles with the real NVRTC, to CUBIN, for each architecture; loop kernels without
// spilling a byte. usage: compile_test CONFIG [KEY=VALUE...]; ZG_TEST_REPORT=1 prints a line a kernel: registers, shared memory, spills,
// and how many of a multiprocessor's threads can be there at once; ZG_TEST_ARCH=90 compiles for one architecture alone;
// ZG_TEST_CACHE=folder uses a cache. Exit status 77: no NVRTC
#include <stdio.h>
#include <stdlib.h>

#include "cuda/compile.h"
#include "cuda/lib_nvrtc.h"
#include "train/session.h"

// Limits of a multiprocessor (CUDA programming guide, technical specifications per compute capability).
static const struct {
  int arch, threads, blocks, shared;
} limits[] = {{80, 2048, 32, 167936}, {90, 2048, 32, 233472}, {100, 2048, 32, 233472}, {120, 1536, 32, 102400}};

static int fail(const char *what, zg_status s) {
  fprintf(stderr, "%s: %s\n", what, zg_status_message(s));
  zg_status_free(s);
  return 1;
}

// Which kernel a launch stems from.
typedef struct {
  const zg_sched *s;
  const zg__code *codes;
} work;
static const zg__launch *find_launch(const work *w, const char *name, const zg_kernel **out) {
  for (size_t k = 0; k < w->s->kernels.n; k++)
    for (size_t l = 0; l < w->codes[k].launches.n; l++)
      if (!strcmp(w->codes[k].launches.at[l].name, name)) {
        *out = &w->s->kernels.at[k];
        return &w->codes[k].launches.at[l];
      }
  return NULL;
}

// Threads at once on a multiprocessor, of those that it can hold, in percent. Registers are given to warps in pieces of 256, shared
// memory to blocks in pieces of 128 bytes and 1 KiB beside.
static int occupancy(size_t a, const zg__usage *u, const zg__launch *l) {
  const int warps = ((int)l->block + 31) / 32, of_warp = (u->registers * 32 + 255) / 256 * 256;
  const int shared = (u->shared + (int)l->shared + 127) / 128 * 128 + 1024;
  int blocks = ZG_MIN(limits[a].blocks, limits[a].threads / (32 * warps));
  blocks = ZG_MIN(blocks, 65536 / of_warp / warps);
  blocks = ZG_MIN(blocks, limits[a].shared / shared);
  return 100 * blocks * 32 * warps / limits[a].threads;
}

static int compile_for(const char *name, const work *w, size_t a) {
  zg__binary b;
  const int arch = limits[a].arch;
  const char *alone = getenv("ZG_TEST_ARCH");
  if (alone && atoi(alone) != arch) return 0;
  int bad = 0, most = 0, spilling = 0;
  const char *cache = getenv("ZG_TEST_CACHE");
  zg_status s = zg__compile(w->codes, w->s->kernels.n, arch, cache ? cache : "", &b);
  if (s && arch == 120 && zg_status_code(s) == ZG_UNSUPPORTED) {
    printf("%s: sm_%d: %s\n", name, arch, zg_status_message(s));
    zg_status_free(s);
    return 0;
  }
  if (s) return fail(name, s);
  for (size_t i = 0; i < b.usage.n; i++) {
    const zg__usage *u = &b.usage.at[i];
    const zg_kernel *k = NULL;
    const zg__launch *l = find_launch(w, u->name, &k);
    if (!l) return fprintf(stderr, "%s: nothing launches %s\n", name, u->name), 1;
    most = ZG_MAX(most, u->registers);
    spilling += u->spill_stores > 0;
    if (getenv("ZG_TEST_REPORT"))
      printf("sm_%-3d %-14s %3d registers %6d B shared %4d B spilled %3d %% occupancy  %s %s\n", arch, zg_kernel_info_of(k->kind)->name,
             u->registers, u->shared + (int)l->shared, u->spill_stores, occupancy(a, u, l), u->name, k->label);
    if (k->kind == ZG_K_LOOP && (u->spill_stores || u->spill_loads)) {
      fprintf(stderr, "%s: loop kernel %s (%s) spills %d bytes for sm_%d\n", name, u->name, k->label, u->spill_stores, arch);
      bad = 1;
    }
  }
  if (b.usage.n != b.n_kernels) {
    fprintf(stderr, "%s: usage of %zu kernels of %u was reported\n", name, b.usage.n, b.n_kernels);
    bad = 1;
  }
  printf("%s: sm_%d: %u kernels in %.2f s (%u of %u programs cached), at most %d registers, %d spill\n", name, arch, b.n_kernels, b.seconds,
         b.n_cached, b.n_programs, most, spilling);
  fflush(stdout);
  zg__binary_fini(&b);
  return bad;
}

static int check(const char *path, const char *const *sets, size_t n_sets) {
  const char *files[] = {path};
  zg_config *cfg = NULL;
  zg_session *session = NULL;
  const zg_session_options o = {.mode = ZG_RUN_TRAIN, .no_device = true, .default_dim = 4};
  zg_status s = zg_config_load(files, 1, sets, n_sets, &cfg);
  if (!s) s = zg_session_open(cfg, &o, &session);
  if (s) return fail(path, s);
  const zg_sched *sched = zg_session_sched(session);
  const zg__target target = {.sms = 132};
  zg__code *codes = zg_alloc(sizeof *codes * (sched->kernels.n + 1));
  int bad = 0;
  for (size_t k = 0; k < sched->kernels.n && !s; k++) s = zg__emit(&sched->kernels.at[k], &target, &codes[k]);
  if (s) bad = fail(path, s);
  const work w = {sched, codes};
  for (size_t a = 0; a < ZG_COUNT(limits) && !bad; a++) bad |= compile_for(path, &w, a);
  for (size_t k = 0; k < sched->kernels.n; k++) zg__code_fini(&codes[k]);
  zg_free(codes);
  zg_session_close(session);
  zg_config_free(cfg);
  return bad;
}

int main(int argc, char **argv) {
  zg_status s = zg__nvrtc_load();
  if (s) {
    fprintf(stderr, "skipped: %s\n", zg_status_message(s));
    zg_status_free(s);
    return 77;
  }
  if (argc < 2) {
    fprintf(stderr, "usage: compile_test CONFIG [KEY=VALUE...]\n");
    return 2;
  }
  return check(argv[1], (const char *const *)argv + 2, (size_t)argc - 2);
}
