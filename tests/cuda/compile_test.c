// Every kernel that a model's training step needs compiles with the real NVRTC, to CUBIN, for each
// architecture. usage: compile_test CONFIG... ; exit status 77: no NVRTC
#include <stdio.h>
#include <stdlib.h>

#include "cuda/compile.h"
#include "cuda/lib_nvrtc.h"
#include "train/session.h"

static const int archs[] = {80, 90, 100};

static int fail(const char *what, zg_status s) {
  fprintf(stderr, "%s: %s\n", what, zg_status_message(s));
  zg_status_free(s);
  return 1;
}

static int compile_for(const char *name, const zg__code *codes, size_t n, int arch) {
  zg__binary b;
  int bad = 0, most = 0;
  zg_status s = zg__compile(codes, n, arch, "", &b);
  if (s) return fail(name, s);
  for (size_t i = 0; i < b.usage.n; i++) {
    most = ZG_MAX(most, b.usage.at[i].registers);
    if (b.usage.at[i].spill_stores || b.usage.at[i].spill_loads) {
      fprintf(stderr, "%s: kernel %s spills %d bytes for sm_%d\n", name, b.usage.at[i].name,
              b.usage.at[i].spill_stores, arch);
      bad = 1;
    }
  }
  if (b.usage.n != b.n_kernels) {
    fprintf(stderr, "%s: usage of %zu kernels of %u was reported\n", name, b.usage.n, b.n_kernels);
    bad = 1;
  }
  printf("%s: sm_%d: %u kernels in %.2f s, at most %d registers\n", name, arch, b.n_kernels, b.seconds, most);
  fflush(stdout);
  zg__binary_fini(&b);
  return bad;
}

static int check(const char *path, const char *const *sets, size_t n_sets) {
  const char *files[] = {path};
  zg_config *cfg = NULL;
  zg_session *session = NULL;
  const zg_session_options o = {.no_device = true, .default_dim = 4};
  zg_status s = zg_config_load(files, 1, sets, n_sets, &cfg);
  if (!s) s = zg_session_open(cfg, &o, &session);
  if (s) return fail(path, s);
  const zg_sched *sched = zg_session_sched(session);
  const zg__target target = {.sms = 132};
  zg__code *codes = zg_alloc(sizeof *codes * (sched->kernels.n + 1));
  int bad = 0;
  for (size_t k = 0; k < sched->kernels.n && !s; k++) s = zg__emit(&sched->kernels.at[k], &target, &codes[k]);
  if (s) bad = fail(path, s);
  for (size_t a = 0; a < ZG_COUNT(archs) && !bad; a++)
    bad |= compile_for(path, codes, sched->kernels.n, archs[a]);
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
