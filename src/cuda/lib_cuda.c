// The driver's table.
#include "cuda/lib_cuda.h"

zg_cuda_api zg__cuda;

static const char *const files[] = {"libcuda.so.1", "libcuda.so", NULL};
static const zg__lib_symbol symbols[] = {
#define X(name, args) {#name, offsetof(zg_cuda_api, name)},
    ZG_CUDA_FUNCTIONS(X)
#undef X
};
static zg__lib lib = {.title = "the CUDA driver",
                      .files = files,
                      .fix = "install NVIDIA's driver",
                      .symbols = symbols,
                      .n_symbols = ZG_COUNT(symbols),
                      .table = &zg__cuda};

zg_status zg__cuda_status(int result, const char *call) {
  if (result == 0) return NULL;
  const char *name = NULL, *text = NULL;
  if (zg__cuda.cuGetErrorName) zg__cuda.cuGetErrorName(result, &name);
  if (zg__cuda.cuGetErrorString) zg__cuda.cuGetErrorString(result, &text);
  const zg_code code = result == ZG_CU_OUT_OF_MEMORY ? ZG_OUT_OF_MEMORY
                       : result == ZG_CU_NO_DEVICE   ? ZG_NOT_FOUND
                                                     : ZG_INTERNAL;
  return zg_error(code, "CUDA: %s failed: %s (%d, %s)", call, text ? text : "unknown error", result,
                  name ? name : "?");
}

const char *zg__cuda_path(void) { return lib.path; }

zg_status zg__cuda_load(void) {
  ZG_TRY(zg__lib_load(&lib));
  return ZG_CUDA(cuInit, 0);
}
