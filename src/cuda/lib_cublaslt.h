// cuBLASLt, the matrix library: own declarations of what is used.
#pragma once
#include "cuda/lib.h"

typedef void *zg_lt_handle, *zg_lt_desc, *zg_lt_layout, *zg_lt_preference;
typedef struct {
  uint64_t data[8];
} zg_lt_algo;  // opaque
typedef struct {
  zg_lt_algo algo;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
} zg_lt_heuristic;
enum {
  ZG_LT_NOT_SUPPORTED = 15,
  ZG_LT_R_32F = 0,
  ZG_LT_R_64F = 1,
  ZG_LT_R_16F = 2,
  ZG_LT_R_16BF = 14,
  ZG_LT_COMPUTE_32F = 68,
  ZG_LT_COMPUTE_64F = 70,
  ZG_LT_COMPUTE_32F_TF32 = 77,
  ZG_LT_OP_N = 0,
  ZG_LT_OP_T = 1,
  ZG_LT_DESC_TRANSA = 3,
  ZG_LT_DESC_TRANSB = 4,
  ZG_LT_DESC_EPILOGUE = 7,
  ZG_LT_DESC_BIAS_POINTER = 8,
  ZG_LT_DESC_BIAS_TYPE = 26,
  ZG_LT_LAYOUT_ORDER = 1,
  ZG_LT_LAYOUT_BATCH_COUNT = 5,
  ZG_LT_LAYOUT_BATCH_OFFSET = 6,
  ZG_LT_PREF_WORKSPACE = 1,
  ZG_LT_PREF_ALIGN_A = 5,  // and B, C, D after it
  ZG_LT_EPILOGUE_DEFAULT = 1,
  ZG_LT_EPILOGUE_BIAS = 4,
  ZG_LT_EPILOGUE_RELU_BIAS = 6,
  ZG_LT_EPILOGUE_GELU_BIAS = 36,
};

#define ZG_LT_FUNCTIONS(X)                                                                                  \
  X(cublasLtCreate, (zg_lt_handle * out))                                                                   \
  X(cublasLtDestroy, (zg_lt_handle h))                                                                      \
  X(cublasLtMatmulDescCreate, (zg_lt_desc * out, int compute, int scale))                                   \
  X(cublasLtMatmulDescDestroy, (zg_lt_desc d))                                                              \
  X(cublasLtMatmulDescSetAttribute, (zg_lt_desc d, int attribute, const void *value, size_t n))             \
  X(cublasLtMatrixLayoutCreate, (zg_lt_layout * out, int type, uint64_t rows, uint64_t cols, int64_t ld))   \
  X(cublasLtMatrixLayoutDestroy, (zg_lt_layout l))                                                          \
  X(cublasLtMatrixLayoutSetAttribute, (zg_lt_layout l, int attribute, const void *value, size_t n))         \
  X(cublasLtMatmulPreferenceCreate, (zg_lt_preference * out))                                               \
  X(cublasLtMatmulPreferenceDestroy, (zg_lt_preference p))                                                  \
  X(cublasLtMatmulPreferenceSetAttribute, (zg_lt_preference p, int attribute, const void *value, size_t n)) \
  X(cublasLtMatmulAlgoGetHeuristic,                                                                         \
    (zg_lt_handle h, zg_lt_desc d, zg_lt_layout a, zg_lt_layout b, zg_lt_layout c, zg_lt_layout out,        \
     zg_lt_preference p, int want, zg_lt_heuristic *results, int *n))                                       \
  X(cublasLtMatmul,                                                                                         \
    (zg_lt_handle h, zg_lt_desc d, const void *alpha, const void *a, zg_lt_layout la, const void *b,        \
     zg_lt_layout lb, const void *beta, const void *c, zg_lt_layout lc, void *out, zg_lt_layout lout,       \
     const zg_lt_algo *algo, void *workspace, size_t n_workspace, void *stream))

typedef struct {
#define X(name, args) int(*name) args;
  ZG_LT_FUNCTIONS(X)
#undef X
  size_t (*cublasLtGetVersion)(void);
  const char *(*cublasLtGetStatusString)(int);
} zg_lt_api;
extern zg_lt_api zg__lt;

zg_status zg__lt_load(void);
const char *zg__lt_path(void);
zg_status zg__lt_status(int result, const char *call);
#define ZG_LT(name, ...) zg__lt_status(zg__lt.name(__VA_ARGS__), #name "(" #__VA_ARGS__ ")")
