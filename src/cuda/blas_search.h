// Which of cuBLASLt's algorithms does a product fastest on this device: measured once, remembered on disk.
#pragma once
#include "cuda/blas.h"
#include "cuda/lib_cuda.h"

typedef struct {
  zg_lt_algo algo;
  uint64_t workspace;
} zg__choice;

// What a device knows of its products. Zero-initialised with `device` set is valid and knows nothing.
struct zg__search {
  const char *device;  // name and driver, part of what a result is remembered by; borrowed
  zg_map found;        // key -> index in all
  ZG_VEC(zg__choice) all;
  uint32_t n_timed, n_remembered;
  double seconds;
};

enum { ZG__SEARCH_MAX = 8 };  // proposals that are timed
// Of `n` proposals of the library for p (all but algorithm and workspace set), the fastest: as it was found before by this process, as a
// file in the kernel cache says (compile.h: zg__cache_folder), or as timing on memory of its own finds now, which is remembered. Products
// of little work, and all with ZG_CUDA_SEARCH=0, take the library's first proposal; ZG_CUDA_SEARCH=all times the small ones too. Without
// memory for the operands the first proposal is taken as well. The driver's context is current.
zg_status zg__product_search(zg__search *s, zg_lt_handle lt, const zg_kernel *k, const zg_lt_heuristic *proposals, int n, zg__product *p);
void zg__search_fini(zg__search *s);
