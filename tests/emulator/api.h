// What the emulator's own tests call of the four libraries, and how they start: one device, one context.
#pragma once
#include <check.h>
#include "emu.h"

typedef uint64_t ptr;
int cuInit(unsigned);
int cuDeviceGetCount(int *);
int cuDevicePrimaryCtxRetain(void **, int);
int cuDevicePrimaryCtxRelease_v2(int);
int cuCtxSetCurrent(void *);
int cuCtxSynchronize(void);
int cuMemAlloc_v2(ptr *, size_t);
int cuMemFree_v2(ptr);
int cuMemHostAlloc(void **, size_t, unsigned);
int cuMemFreeHost(void *);
int cuMemGetInfo_v2(size_t *, size_t *);
int cuMemcpyHtoD_v2(ptr, const void *, size_t);
int cuMemcpyDtoH_v2(void *, ptr, size_t);
int cuMemcpyHtoDAsync_v2(ptr, const void *, size_t, void *);
int cuMemcpyDtoHAsync_v2(void *, ptr, size_t, void *);
int cuMemcpyDtoDAsync_v2(ptr, ptr, size_t, void *);
int cuMemsetD32Async(ptr, unsigned, size_t, void *);
int cuModuleLoadData(void **, const void *);
int cuModuleUnload(void *);
int cuModuleGetFunction(void **, void *, const char *);
int cuLaunchKernel(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *,
                   void **, void **);
int cuStreamCreate(void **, unsigned);
int cuStreamDestroy_v2(void *);
int cuStreamSynchronize(void *);
int cuStreamWaitEvent(void *, void *, unsigned);
int cuStreamBeginCapture_v2(void *, int);
int cuStreamEndCapture(void *, void **);
int cuEventCreate(void **, unsigned);
int cuEventDestroy_v2(void *);
int cuEventRecord(void *, void *);
int cuEventSynchronize(void *);
int cuGraphInstantiateWithFlags(void **, void *, unsigned long long);
int cuGraphLaunch(void *, void *);
int cuGraphExecDestroy(void *);
int cuGraphDestroy(void *);
int nvrtcCreateProgram(void **, const char *, const char *, int, const char *const *, const char *const *);
int nvrtcDestroyProgram(void **);
int nvrtcCompileProgram(void *, int, const char *const *);
int nvrtcGetCUBINSize(void *, size_t *);
int nvrtcGetCUBIN(void *, char *);
int nvrtcGetProgramLogSize(void *, size_t *);
int nvrtcGetProgramLog(void *, char *);

static inline void must_be_ok(int r, const char *call, int line) {
  ck_assert_msg(r == 0, "line %d: %s gives %d (%s)", line, call, r, zg_emu_last_message());
}
#define OK(call) must_be_ok(call, #call, __LINE__)

static inline void use_device(int d) {
  void *context;
  OK(cuInit(0));
  OK(cuDevicePrimaryCtxRetain(&context, d));
  OK(cuCtxSetCurrent(context));
}
// Forgets a sticky error: the context goes and comes again.
static inline void renew_device(void) {
  OK(cuDevicePrimaryCtxRelease_v2(0));
  use_device(0);
}
static inline ptr device_floats(const float *from, size_t n) {
  ptr p;
  OK(cuMemAlloc_v2(&p, n * sizeof(float)));
  if (from) OK(cuMemcpyHtoD_v2(p, from, n * sizeof(float)));
  return p;
}
static inline int run_suite(Suite *s) {
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
