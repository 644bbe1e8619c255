// The CUDA device: one GPU, one context. Its programs (program.c) queue a schedule's steps on streams of their own (run.c) and move
// bytes beside them (transfer.c). A kernel that finds a bad index fills an error record; the next result read reports it, by the
// kernel's name.
#include <stdio.h>
#include <stdlib.h>

#include "cuda/device_priv.h"
#include "cuda/lib_nvrtc.h"

// ---- opening
// --------------------------------------------------------------------------------------------------------------
// The GPU of this process: LOCAL_RANK's, in turn where there are more ranks than GPUs.
static zg_status choose_gpu(zg_cu_device *out) {
  int n = 0;
  ZG_TRY(ZG_CUDA(cuDeviceGetCount, &n));
  if (n == 0) return zg_error(ZG_NOT_FOUND, "CUDA: the driver sees no GPU (CUDA_VISIBLE_DEVICES?)");
  const char *rank = getenv("LOCAL_RANK");
  return ZG_CUDA(cuDeviceGet, out, rank ? abs(atoi(rank)) % n : 0);
}

static zg_status read_properties(zg__cuda_device *d) {
  int major = 0, minor = 0, driver = 0;
  size_t total = 0;
  char name[96] = "";
  ZG_TRY(ZG_CUDA(cuDeviceGetName, name, (int)sizeof name, d->gpu));
  ZG_TRY(ZG_CUDA(cuDeviceGetAttribute, &major, ZG_CU_ATTR_MAJOR, d->gpu));
  ZG_TRY(ZG_CUDA(cuDeviceGetAttribute, &minor, ZG_CU_ATTR_MINOR, d->gpu));
  ZG_TRY(ZG_CUDA(cuDeviceGetAttribute, &d->target.sms, ZG_CU_ATTR_SMS, d->gpu));
  ZG_TRY(ZG_CUDA(cuDeviceTotalMem_v2, &total, d->gpu));
  ZG_TRY(ZG_CUDA(cuDriverGetVersion, &driver));
  d->arch = major * 10 + minor;
  d->memory = total;
  if (d->arch < 80)
    return zg_error(ZG_UNSUPPORTED, "CUDA: %s has compute capability %d.%d; zgraph needs 8.0", name, major,
                    minor);
  snprintf(d->text, sizeof d->text, "%s, sm_%d, %d multiprocessors, driver for CUDA %d.%d%s", name, d->arch,
           d->target.sms, driver / 1000, driver % 1000 / 10, d->lt ? ", cuBLASLt" : "");
  return NULL;
}

static void open_blas(zg__cuda_device *d) {
  zg_status s = zg__lt_load();
  if (!s) s = ZG_LT(cublasLtCreate, &d->lt);
  if (s) zg_log(1, "cuda: %s; own kernels do matmul", zg_status_message(s));
  zg_status_free(s);
}

static void cuda_close(zg_device *dev) {
  zg__cuda_device *d = (zg__cuda_device *)dev;
  zg__search_fini(&d->search);
  if (d->lt) zg__lt.cublasLtDestroy(d->lt);
  if (d->ctx) zg__cuda.cuDevicePrimaryCtxRelease_v2(d->gpu);
  zg_free(d);
}

static zg_status cuda_open(int threads, zg_device **out) {
  (void)threads;
  zg_status status = NULL;
  ZG_TRY(zg__cuda_load());
  ZG_TRY(zg__nvrtc_load());
  zg__cuda_device *d = zg_alloc(sizeof *d);
  d->base.vt = &zg_device_cuda;
  ZG_TRY_OUT(choose_gpu(&d->gpu));
  ZG_TRY_OUT(ZG_CUDA(cuDevicePrimaryCtxRetain, &d->ctx, d->gpu));
  ZG_TRY_OUT(ZG_CUDA(cuCtxSetCurrent, d->ctx));
  open_blas(d);
  ZG_TRY_OUT(read_properties(d));
  d->search.device = d->text;
  zg_log(1, "cuda: %s", d->text);
out:
  if (status) cuda_close(&d->base);
  else *out = &d->base;
  return status;
}

static void cuda_info(const zg_device *dev, zg_device_info *out) {
  const zg__cuda_device *d = (const zg__cuda_device *)dev;
  *out = (zg_device_info){.name = "cuda", .memory_bytes = d->memory, .threads = d->target.sms};
  snprintf(out->text, sizeof out->text, "%s", d->text);
}

static void *cuda_device_ptr(const zg_program *base, uint32_t buf) {
  return (void *)zg__cuda_address((const zg__cuda_program *)base, buf);
}
static uint64_t cuda_allocated(const zg_program *base) { return ((const zg__cuda_program *)base)->allocated; }

// Tensor cores and 16-byte accesses want the channels of a place beside each other (conv.cuh).
static bool cuda_channels_last(const zg_device *dev) {
  (void)dev;
  return true;
}

const zg_device_vtable zg_device_cuda = {
    .name = "cuda",
    .channels_last = cuda_channels_last,
    .half_convs = true,
    .lacks = 1u << ZG_K_RECURRENT | 1u << ZG_K_RECURRENT_GRAD,
    .open = cuda_open,
    .close = cuda_close,
    .info = cuda_info,
    .workspace = zg__cuda_workspace,
    .prepare = zg__cuda_prepare,
    .program_free = zg__cuda_program_free,
    .run_kernel = zg__cuda_run_kernel,
    .write = zg__cuda_write,
    .read = zg__cuda_read,
    .device_ptr = cuda_device_ptr,
    .collective = zg__cuda_collective,
    .begin = zg__cuda_begin,
    .end = zg__cuda_end,
    .group = zg__cuda_group,
    .mark = zg__cuda_mark,
    .copy = zg__cuda_copy,
    .fetch = zg__cuda_fetch,
    .take = zg__cuda_take,
    .allocated = cuda_allocated,
};
