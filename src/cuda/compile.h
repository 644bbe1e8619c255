// From kernel texts to CUBIN: programs of several kernels, compiled on several threads, kept in a disk cache.
#pragma once
#include "cuda/emit.h"

// What ptxas said of one kernel.
typedef struct {
  char name[24];
  int registers, spill_stores, spill_loads, shared;
} zg__usage;

typedef struct {
  zg_arena mem;
  uint32_t n_programs;
  struct {
    const void *cubin;
    size_t n_bytes;
    uint32_t first, n;
  } * programs;  // kernels names[first .. first + n)
  uint32_t n_kernels;
  const char **names;             // distinct kernels
  ZG_VEC(zg__usage) usage;        // one a kernel, where the compiler reported it
  uint32_t n_compiled, n_cached;  // programs
  double seconds;
} zg__binary;

// Compiles the distinct kernels of all codes for compute capability `arch` (90 is sm_90). Kernels of the same
// text are compiled once. cache_dir NULL: $ZG_CACHE_DIR, else $XDG_CACHE_HOME/zgraph, else ~/.cache/zgraph,
// each with /cuda; "": no cache.
zg_status zg__compile(const zg__code *codes, size_t n_codes, int arch, const char *cache_dir,
                      zg__binary *out);
// The kernel cache's folder (cache_dir as above), made if it is not there; false: no cache, *out is not to be used.
bool zg__cache_folder(const char *given, zg_str *out);
void zg__binary_fini(zg__binary *b);
