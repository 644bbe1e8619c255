// The CUDA device: what other rooms see of it.
#pragma once
#include "exec/device.h"

extern const zg_device_vtable
    zg_device_cuda;  // open: ZG_NOT_FOUND without driver, GPU or NVRTC; the GPU is LOCAL_RANK's
// One line a library and GPU: what was found, its version and file, or why not.
void zg_cuda_report(zg_str *out);
