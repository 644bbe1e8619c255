// Finding and opening shared libraries.
#include "cuda/lib.h"
#include <dlfcn.h>
#include <glob.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

// Folders, "~" and "$NAME" in front replaced; patterns are globbed.
static const char *const places[] = {
    "$CUDA_HOME/lib64",
    "$CUDA_PATH/lib64",
    "/usr/local/cuda/lib64",
    "/usr/local/cuda/targets/*/lib",
    "/opt/cuda/lib64",
    "/usr/lib/wsl/lib",
    "/usr/local/cuda-*/lib64",
    "$VIRTUAL_ENV/lib/python3*/site-packages/nvidia/*/lib",
    "$CONDA_PREFIX/lib",
    "$CONDA_PREFIX/lib/python3*/site-packages/nvidia/*/lib",
    "$HOME/.local/lib/python3*/site-packages/nvidia/*/lib",
    "/usr/local/lib/python3*/*-packages/nvidia/*/lib",
    "/usr/lib/python3*/*-packages/nvidia/*/lib",
};

static void *try_file(zg__lib *l, const char *path) {
  void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (lib) snprintf(l->path, sizeof l->path, "%s", path);
  return lib;
}

static bool expand(const char *place, zg_str *out) {
  const char *rest = strchr(place, '/');
  if (place[0] != '$') {
    zg_str_add(out, "%s", place);
    return true;
  }
  char name[32];
  snprintf(name, sizeof name, "%.*s", (int)(rest - place - 1), place + 1);
  const char *value = getenv(name);
  if (!value || !*value) return false;
  zg_str_add(out, "%s%s", value, rest);
  return true;
}

static void *try_place(zg__lib *l, const char *place) {
  void *lib = NULL;
  for (const char *const *f = l->files; *f && !lib; f++) {
    zg_str pattern = {0};
    glob_t g = {0};
    if (expand(place, &pattern)) {
      zg_str_add(&pattern, "/%s", *f);
      if (glob(pattern.at, 0, NULL, &g) == 0)
        for (size_t i = 0; i < g.gl_pathc && !lib; i++) lib = try_file(l, g.gl_pathv[i]);
      globfree(&g);
    }
    zg_str_fini(&pattern);
  }
  return lib;
}

static void *find(zg__lib *l) {
  const char *dir = getenv("ZG_CUDA_LIB_DIR");
  void *lib = dir && *dir ? try_place(l, "$ZG_CUDA_LIB_DIR/.") : NULL;
  for (const char *const *f = l->files; *f && !lib; f++) lib = try_file(l, *f);
  for (size_t i = 0; i < ZG_COUNT(places) && !lib; i++) lib = try_place(l, places[i]);
  return lib;
}

static zg_status open_lib(zg__lib *l) {
  void *lib = find(l);
  if (!lib)
    return zg_error(ZG_NOT_FOUND, "cannot find %s (%s): %s, or name its folder in ZG_CUDA_LIB_DIR", l->title,
                    l->files[0], l->fix);
  for (size_t i = 0; i < l->n_symbols; i++) {
    void *f = dlsym(lib, l->symbols[i].name);
    if (!f) {
      dlclose(lib);
      return zg_error(ZG_UNSUPPORTED, "%s: has no %s; %s", l->path, l->symbols[i].name, l->fix);
    }
    memcpy((char *)l->table + l->symbols[i].at, &f, sizeof f);
  }
  zg_log(2, "%s: %s", l->title, l->path);
  return NULL;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

zg_status zg__lib_load(zg__lib *l) {
  pthread_mutex_lock(&lock);
  if (!l->tried) l->failure = open_lib(l);
  l->tried = true;
  zg_status copy =
      l->failure ? zg_error(zg_status_code(l->failure), "%s", zg_status_message(l->failure)) : NULL;
  pthread_mutex_unlock(&lock);
  return copy;
}
