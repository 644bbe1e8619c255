// Matmul kernels through cuBLASLt.
#pragma once
#include "cuda/lib_cublaslt.h"
#include "sched/sched.h"

// One product, possibly repeated over an outer batch dim that no constant stride of the library covers.
typedef struct {
  zg_lt_desc desc;
  zg_lt_layout a, b, c;  // in the library's column-major order: a and b may be swapped
  zg_lt_algo algo;
  uint32_t arg_a, arg_b;                    // which arguments they are
  int64_t n_outer, step_a, step_b, step_c;  // repeats, and elements between them
  size_t workspace;
  double alpha, beta;
} zg__product;

enum { ZG__BLAS_WORKSPACE = 32 << 20 };  // offered to the library; what its algorithm takes is planned
// ZG_UNSUPPORTED: the library cannot do this product (types, strides, epilogue); own kernels can.
// search: how its algorithm is chosen (blas_search.h).
typedef struct zg__search zg__search;
zg_status zg__product_init(zg_lt_handle lt, const zg_kernel *k, zg__search *search, zg__product *out);
void zg__product_fini(zg__product *p);
// arg: device addresses of the kernel's views.
zg_status zg__product_run(zg_lt_handle lt, const zg__product *p, const zg_kernel *k, const uint64_t *arg,
                          uint64_t workspace, void *stream);
