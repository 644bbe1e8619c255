// What `zgraph devices` says of CUDA.
#include "cuda/cuda.h"
#include "cuda/lib_cublaslt.h"
#include "cuda/lib_cuda.h"
#include "cuda/lib_nccl.h"
#include "cuda/lib_nvrtc.h"

static void put_status(zg_str *out, const char *name, zg_status s) {
  zg_str_add(out, "  %-9s not available: %s\n", name, zg_status_message(s));
  zg_status_free(s);
}

static void put_driver(zg_str *out) {
  int version = 0;
  zg_status s = zg__cuda_load();
  if (s) {
    put_status(out, "driver", s);
    return;
  }
  zg__cuda.cuDriverGetVersion(&version);
  zg_str_add(out, "  %-9s for CUDA %d.%d, %s\n", "driver", version / 1000, version % 1000 / 10,
             zg__cuda_path());
}

static void put_libraries(zg_str *out) {
  int major = 0, minor = 0;
  zg_status s = zg__nvrtc_load();
  if (s) {
    put_status(out, "NVRTC", s);
  } else {
    zg__nvrtc.nvrtcVersion(&major, &minor);
    zg_str_add(out, "  %-9s %d.%d, %s\n", "NVRTC", major, minor, zg__nvrtc_path());
  }
  s = zg__lt_load();
  if (s) put_status(out, "cuBLASLt", s);
  else zg_str_add(out, "  %-9s %zu, %s\n", "cuBLASLt", zg__lt.cublasLtGetVersion(), zg__lt_path());
  s = zg__nccl_load();
  if (s) {
    put_status(out, "NCCL", s);
  } else {
    zg__nccl.ncclGetVersion(&major);
    zg_str_add(out, "  %-9s %d.%d.%d, %s\n", "NCCL", major / 10000, major % 10000 / 100, major % 100,
               zg__nccl_path());
  }
}

void zg_cuda_report(zg_str *out) {
  zg_device *d = NULL;
  zg_device_info info;
  zg_status s = zg_device_cuda.open(0, &d);
  if (s) {
    zg_str_add(out, "cuda  not available: %s\n", zg_status_message(s));
    zg_status_free(s);
  } else {
    zg_device_cuda.info(d, &info);
    zg_str_add(out, "cuda  %llu MiB of memory, %s\n", (unsigned long long)(info.memory_bytes >> 20),
               info.text);
    zg_device_cuda.close(d);
  }
  put_driver(out);
  put_libraries(out);
}
