// NVRTC's table.
#include "cuda/lib_nvrtc.h"

zg_nvrtc_api zg__nvrtc;

static const char *const files[] = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so", NULL};
static const zg__lib_symbol symbols[] = {
#define X(name, args) {#name, offsetof(zg_nvrtc_api, name)},
    ZG_NVRTC_FUNCTIONS(X)
#undef X
        {"nvrtcGetErrorString", offsetof(zg_nvrtc_api, nvrtcGetErrorString)},
};
static zg__lib lib = {.title = "NVRTC",
                      .files = files,
                      .fix = "install the CUDA toolkit or the wheel nvidia-cuda-nvrtc",
                      .symbols = symbols,
                      .n_symbols = ZG_COUNT(symbols),
                      .table = &zg__nvrtc};

zg_status zg__nvrtc_status(int result, const char *call) {
  if (result == 0) return NULL;
  return zg_error(ZG_INTERNAL, "NVRTC: %s failed: %s (%d)", call, zg__nvrtc.nvrtcGetErrorString(result),
                  result);
}

const char *zg__nvrtc_path(void) { return lib.path; }
zg_status zg__nvrtc_load(void) { return zg__lib_load(&lib); }
