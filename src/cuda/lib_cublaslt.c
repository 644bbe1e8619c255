// cuBLASLt's table.
#include "cuda/lib_cublaslt.h"

zg_lt_api zg__lt;

static const char *const files[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so", NULL};
static const zg__lib_symbol symbols[] = {
#define X(name, args) {#name, offsetof(zg_lt_api, name)},
    ZG_LT_FUNCTIONS(X)
#undef X
        {"cublasLtGetVersion", offsetof(zg_lt_api, cublasLtGetVersion)},
    {"cublasLtGetStatusString", offsetof(zg_lt_api, cublasLtGetStatusString)},
};
static zg__lib lib = {.title = "cuBLASLt",
                      .files = files,
                      .fix = "install the CUDA toolkit or the wheel nvidia-cublas",
                      .symbols = symbols,
                      .n_symbols = ZG_COUNT(symbols),
                      .table = &zg__lt};

zg_status zg__lt_status(int result, const char *call) {
  if (result == 0) return NULL;
  return zg_error(result == ZG_LT_NOT_SUPPORTED ? ZG_UNSUPPORTED : ZG_INTERNAL,
                  "cuBLASLt: %s failed: %s (%d)", call, zg__lt.cublasLtGetStatusString(result), result);
}

const char *zg__lt_path(void) { return lib.path; }
zg_status zg__lt_load(void) { return zg__lib_load(&lib); }
