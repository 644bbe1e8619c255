// Libraries opened at run time. Each has one table file (lib_NAME.h, lib_NAME.c) with own declarations of
// just what is used. Search order: the folder ZG_CUDA_LIB_DIR, the loader's path, the toolkit's usual places,
// the layout of NVIDIA's Python wheels.
#pragma once
#include "base/base.h"

typedef struct {
  const char *name;
  size_t at;
} zg__lib_symbol;  // at: offset of the function pointer in the table
typedef struct {
  const char *title;         // "NVRTC"
  const char *const *files;  // names to try, newest first, NULL-terminated
  const char *fix;           // what to install if there is none
  const zg__lib_symbol *symbols;
  size_t n_symbols;
  void *table;  // struct of function pointers
  // filled by zg__lib_load
  bool tried;
  zg_status failure;  // kept for the life of the process
  char path[512];
} zg__lib;

// Opens the library and fills its table, once; thread-safe. Statuses: ZG_NOT_FOUND, ZG_UNSUPPORTED (a
// function is missing).
zg_status zg__lib_load(zg__lib *l);
