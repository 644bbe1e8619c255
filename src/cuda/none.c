// Built with -Dcuda=disabled.
#include "cuda/cuda.h"

static zg_status none_open(int threads, zg_device **out) {
  (void)threads, (void)out;
  return zg_error(ZG_UNSUPPORTED,
                  "device cuda: this build is without CUDA (meson option cuda); use device: cpu");
}

const zg_device_vtable zg_device_cuda = {.name = "cuda", .open = none_open};

void zg_cuda_report(zg_str *out) { zg_str_add(out, "cuda  not in this build (meson option cuda)\n"); }
