// The CUDA driver (libcuda.so.1): own declarations of what is used. Names and values are those of cuda.h.
#pragma once
#include "cuda/lib.h"

typedef uint64_t zg_cu_ptr;
typedef void *zg_cu_handle;  // context, module, function, stream, event, graph, executable graph
typedef int zg_cu_device;

enum {
  ZG_CU_OUT_OF_MEMORY = 2,
  ZG_CU_NO_DEVICE = 100,
  ZG_CU_NOT_READY = 600,
  ZG_CU_ATTR_MAX_SHARED = 8,
  ZG_CU_ATTR_SMS = 16,
  ZG_CU_ATTR_MAJOR = 75,
  ZG_CU_ATTR_MINOR = 76,
  ZG_CU_ATTR_SHARED_OPTIN = 97,
  ZG_CU_FUNC_DYNAMIC_SHARED = 8,
  ZG_CU_FUNC_LOCAL_BYTES = 3,
  ZG_CU_FUNC_REGISTERS = 4,
  ZG_CU_STREAM_NON_BLOCKING = 1,
  ZG_CU_EVENT_NO_TIMING = 2,
  ZG_CU_CAPTURE_THREAD_LOCAL = 1,
};
#define ZG_CU_PARAM_END ((void *)0)
#define ZG_CU_PARAM_POINTER ((void *)1)
#define ZG_CU_PARAM_SIZE ((void *)2)

#define ZG_CUDA_FUNCTIONS(X)                                                                          \
  X(cuInit, (unsigned flags))                                                                         \
  X(cuDriverGetVersion, (int *out))                                                                   \
  X(cuGetErrorName, (int error, const char **out))                                                    \
  X(cuGetErrorString, (int error, const char **out))                                                  \
  X(cuDeviceGetCount, (int *out))                                                                     \
  X(cuDeviceGet, (zg_cu_device * out, int ordinal))                                                   \
  X(cuDeviceGetName, (char *out, int n, zg_cu_device d))                                              \
  X(cuDeviceGetAttribute, (int *out, int attribute, zg_cu_device d))                                  \
  X(cuDeviceTotalMem_v2, (size_t * out, zg_cu_device d))                                              \
  X(cuDevicePrimaryCtxRetain, (zg_cu_handle * out, zg_cu_device d))                                   \
  X(cuDevicePrimaryCtxRelease_v2, (zg_cu_device d))                                                   \
  X(cuCtxSetCurrent, (zg_cu_handle ctx))                                                              \
  X(cuMemGetInfo_v2, (size_t * free_bytes, size_t * total))                                           \
  X(cuMemAlloc_v2, (zg_cu_ptr * out, size_t n))                                                       \
  X(cuMemFree_v2, (zg_cu_ptr p))                                                                      \
  X(cuMemHostAlloc, (void **out, size_t n, unsigned flags))                                           \
  X(cuMemFreeHost, (void *p))                                                                         \
  X(cuMemcpyHtoDAsync_v2, (zg_cu_ptr to, const void *from, size_t n, zg_cu_handle stream))            \
  X(cuMemcpyDtoHAsync_v2, (void *to, zg_cu_ptr from, size_t n, zg_cu_handle stream))                  \
  X(cuMemcpyDtoDAsync_v2, (zg_cu_ptr to, zg_cu_ptr from, size_t n, zg_cu_handle stream))              \
  X(cuMemsetD8Async, (zg_cu_ptr to, unsigned char value, size_t n, zg_cu_handle stream))              \
  X(cuMemsetD32Async, (zg_cu_ptr to, unsigned value, size_t n, zg_cu_handle stream))                  \
  X(cuModuleLoadData, (zg_cu_handle * out, const void *image))                                        \
  X(cuModuleUnload, (zg_cu_handle module))                                                            \
  X(cuModuleGetFunction, (zg_cu_handle * out, zg_cu_handle module, const char *name))                 \
  X(cuFuncSetAttribute, (zg_cu_handle f, int attribute, int value))                                   \
  X(cuLaunchKernel, (zg_cu_handle f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, \
                     unsigned bz, unsigned shared, zg_cu_handle stream, void **params, void **extra)) \
  X(cuLaunchHostFunc, (zg_cu_handle stream, void (*f)(void *), void *arg))                            \
  X(cuStreamCreate, (zg_cu_handle * out, unsigned flags))                                             \
  X(cuStreamDestroy_v2, (zg_cu_handle stream))                                                        \
  X(cuStreamSynchronize, (zg_cu_handle stream))                                                       \
  X(cuStreamQuery, (zg_cu_handle stream))                                                             \
  X(cuStreamWaitEvent, (zg_cu_handle stream, zg_cu_handle event, unsigned flags))                     \
  X(cuStreamBeginCapture_v2, (zg_cu_handle stream, int mode))                                         \
  X(cuStreamEndCapture, (zg_cu_handle stream, zg_cu_handle * graph))                                  \
  X(cuEventCreate, (zg_cu_handle * out, unsigned flags))                                              \
  X(cuEventDestroy_v2, (zg_cu_handle event))                                                          \
  X(cuEventRecord, (zg_cu_handle event, zg_cu_handle stream))                                         \
  X(cuEventQuery, (zg_cu_handle event))                                                               \
  X(cuEventSynchronize, (zg_cu_handle event))                                                         \
  X(cuGraphInstantiateWithFlags, (zg_cu_handle * out, zg_cu_handle graph, unsigned long long flags))  \
  X(cuGraphLaunch, (zg_cu_handle exec, zg_cu_handle stream))                                          \
  X(cuGraphExecDestroy, (zg_cu_handle exec))                                                          \
  X(cuGraphDestroy, (zg_cu_handle graph))

typedef struct {
#define X(name, args) int(*name) args;
  ZG_CUDA_FUNCTIONS(X)
#undef X
} zg_cuda_api;
extern zg_cuda_api zg__cuda;

zg_status zg__cuda_load(void);                            // opens the driver and calls cuInit; once
const char *zg__cuda_path(void);                          // file it came from
zg_status zg__cuda_status(int result, const char *call);  // call: its name and arguments as text
// ZG_CUDA(cuMemAlloc_v2, &p, n): the call; a failure names it, its arguments and the driver's reason.
#define ZG_CUDA(name, ...) zg__cuda_status(zg__cuda.name(__VA_ARGS__), #name "(" #__VA_ARGS__ ")")
