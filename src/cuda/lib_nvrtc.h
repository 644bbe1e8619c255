// NVRTC, the run-time compiler: own declarations of what is used.
#pragma once
#include "cuda/lib.h"

typedef void *zg_nvrtc_program;
enum { ZG_NVRTC_COMPILATION = 6 };  // the text does not compile; the program's log says why

#define ZG_NVRTC_FUNCTIONS(X)                                                                       \
  X(nvrtcVersion, (int *major, int *minor))                                                         \
  X(nvrtcGetNumSupportedArchs, (int *out))                                                          \
  X(nvrtcGetSupportedArchs, (int *out))                                                             \
  X(nvrtcCreateProgram, (zg_nvrtc_program * out, const char *text, const char *name, int n_headers, \
                         const char *const *headers, const char *const *header_names))              \
  X(nvrtcDestroyProgram, (zg_nvrtc_program * p))                                                    \
  X(nvrtcCompileProgram, (zg_nvrtc_program p, int n_options, const char *const *options))           \
  X(nvrtcGetCUBINSize, (zg_nvrtc_program p, size_t * out))                                          \
  X(nvrtcGetCUBIN, (zg_nvrtc_program p, char *out))                                                 \
  X(nvrtcGetProgramLogSize, (zg_nvrtc_program p, size_t * out))                                     \
  X(nvrtcGetProgramLog, (zg_nvrtc_program p, char *out))

typedef struct {
#define X(name, args) int(*name) args;
  ZG_NVRTC_FUNCTIONS(X)
#undef X
  const char *(*nvrtcGetErrorString)(int);
} zg_nvrtc_api;
extern zg_nvrtc_api zg__nvrtc;

zg_status zg__nvrtc_load(void);
const char *zg__nvrtc_path(void);
zg_status zg__nvrtc_status(int result, const char *call);
#define ZG_NVRTC(name, ...) zg__nvrtc_status(zg__nvrtc.name(__VA_ARGS__), #name "(" #__VA_ARGS__ ")")
