// NCCL's table.
#include "cuda/lib_nccl.h"
#include "graph/type.h"

zg_nccl_api zg__nccl;

static const char *const files[] = {"libnccl.so.2", "libnccl.so", NULL};
static const zg__lib_symbol symbols[] = {
#define X(name, args) {#name, offsetof(zg_nccl_api, name)},
    ZG_NCCL_FUNCTIONS(X)
#undef X
        {"ncclGetErrorString", offsetof(zg_nccl_api, ncclGetErrorString)},
    {"ncclGetLastError", offsetof(zg_nccl_api, ncclGetLastError)},
};
static zg__lib lib = {.title = "NCCL",
                      .files = files,
                      .fix = "install libnccl2 or the wheel nvidia-nccl-cu13",
                      .symbols = symbols,
                      .n_symbols = ZG_COUNT(symbols),
                      .table = &zg__nccl};

zg_status zg__nccl_status(int result, const char *call) {
  if (result == 0) return NULL;
  const char *last = zg__nccl.ncclGetLastError(NULL);
  return zg_error(ZG_INTERNAL, "NCCL: %s failed: %s (%d)%s%s", call, zg__nccl.ncclGetErrorString(result),
                  result, last && *last ? ": " : "", last ? last : "");
}

int zg__nccl_dtype(int t) {
  static const struct {
    bool valid;
    int value;
  } rows[ZG_N_DTYPES] = {
      [ZG_F32] = {true, ZG_NCCL_F32},   [ZG_F64] = {true, ZG_NCCL_F64}, [ZG_F16] = {true, ZG_NCCL_F16},
      [ZG_BF16] = {true, ZG_NCCL_BF16}, [ZG_I8] = {true, ZG_NCCL_I8},   [ZG_I32] = {true, ZG_NCCL_I32},
      [ZG_I64] = {true, ZG_NCCL_I64},   [ZG_U8] = {true, ZG_NCCL_U8},   [ZG_U32] = {true, ZG_NCCL_U32},
      [ZG_U64] = {true, ZG_NCCL_U64},   [ZG_BOOL] = {true, ZG_NCCL_U8},
  };
  return t >= 0 && t < ZG_N_DTYPES && rows[t].valid ? rows[t].value : -1;
}

const char *zg__nccl_path(void) { return lib.path; }
zg_status zg__nccl_load(void) { return zg__lib_load(&lib); }
