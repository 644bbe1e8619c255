// Opening oneDNN: the function table, the version check, the engine.
#include "cpu/dnnl_priv.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

zg_dnnl_api zg__dnnl;

static const char *const reasons[] = {
    [dnnl_out_of_memory] = "out of memory",   [dnnl_invalid_arguments] = "invalid arguments",
    [dnnl_unimplemented] = "not implemented", [dnnl_iterator_ends] = "no implementation left",
    [dnnl_runtime_error] = "run-time error",  [dnnl_not_required] = "not required",
};

zg_status zg__dnnl_status(dnnl_status_t s, const char *call) {
  if (s == dnnl_success) return NULL;
  const char *reason = (size_t)s < ZG_COUNT(reasons) && reasons[s] ? reasons[s] : "unknown error";
  zg_code code = s == dnnl_out_of_memory                                  ? ZG_OUT_OF_MEMORY
                 : s == dnnl_unimplemented || s == dnnl_invalid_arguments ? ZG_UNSUPPORTED
                                                                          : ZG_INTERNAL;
  return zg_error(code, "oneDNN: %s failed: %s (%d)", call, reason, (int)s);
}

static const char *runtime_name(unsigned runtime) {
  switch (runtime) {
    case DNNL_RUNTIME_SEQ: return "one thread";
    case DNNL_RUNTIME_OMP: return "OpenMP";
    case DNNL_RUNTIME_TBB: return "TBB";
    default: return "own threads";
  }
}

static zg_status check_version(const char *file, void *lib, zg_dnnl_api *api) {
  __typeof__(&dnnl_version) version;
  *(void **)&version = dlsym(lib, "dnnl_version");
  if (!version) return zg_error(ZG_UNSUPPORTED, "%s: has no dnnl_version, so it is not oneDNN", file);
  const dnnl_version_t *v = version();
  if (v->major != DNNL_VERSION_MAJOR)
    return zg_error(ZG_UNSUPPORTED, "%s: is oneDNN %d.%d.%d; zgraph needs version %d.x", file, v->major,
                    v->minor, v->patch, DNNL_VERSION_MAJOR);
  snprintf(api->text, sizeof api->text, "oneDNN %d.%d.%d, %s", v->major, v->minor, v->patch,
           runtime_name(v->cpu_runtime));
  return NULL;
}

static zg_status fill_table(const char *file, void *lib, zg_dnnl_api *api) {
#define X(name)                                            \
  if (!(*(void **)&api->name = dlsym(lib, "dnnl_" #name))) \
    return zg_error(ZG_UNSUPPORTED, "%s: %s lacks dnnl_%s; install version 2.6", file, api->text, #name);
  ZG_DNNL_FUNCTIONS(X)
#undef X
  // Looked up in libdnnl's own dependencies: whichever OpenMP library that is, it is the one to set.
  *(void **)&api->omp_set_num_threads = dlsym(lib, "omp_set_num_threads");
  *(void **)&api->team.run = dlsym(lib, "GOMP_parallel");
  *(void **)&api->team.number = dlsym(lib, "omp_get_thread_num");
  return NULL;
}

zg_status zg__dnnl_open(const char *file, zg_dnnl_api *api) {
  *api = (zg_dnnl_api){0};
  // libgomp's threads spin for milliseconds after each parallel region unless told otherwise, on cores that
  // the loop kernels' pool wants next. It reads this when it is loaded; a user's own setting stands.
  if (!getenv("OMP_WAIT_POLICY")) setenv("GOMP_SPINCOUNT", "20000", 0);
  void *lib = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (!lib) return zg_error(ZG_NOT_FOUND, "cannot open oneDNN: %s; install libdnnl 2.x", dlerror());
  zg_status status = check_version(file, lib, api);
  if (!status) status = fill_table(file, lib, api);
  if (!status) status = zg__dnnl_status(api->engine_create(&api->engine, dnnl_cpu, 0), "dnnl_engine_create");
  if (status) {
    dlclose(lib);
    *api = (zg_dnnl_api){0};
  }
  return status;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool tried;
static zg_status failure;  // kept for the life of the process; callers get copies

zg_status zg_dnnl_load(void) {
  pthread_mutex_lock(&lock);
  if (!tried) {
    failure = zg__dnnl_open("libdnnl.so.2", &zg__dnnl);
    if (!failure) zg_log(1, "%s", zg__dnnl.text);
    tried = true;
  }
  zg_status copy = failure ? zg_error(zg_status_code(failure), "%s", zg_status_message(failure)) : NULL;
  pthread_mutex_unlock(&lock);
  return copy;
}

bool zg_dnnl_team(zg_team *out) {
  *out = zg__dnnl.team;
  return out->run && out->number;
}

const char *zg_dnnl_text(void) { return zg__dnnl.text; }
