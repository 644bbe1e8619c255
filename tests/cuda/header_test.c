// Our own declarations of the CUDA libraries against the real headers, each where it is installed: values of constants, sizes of
// types, and that every function is declared by the very name that is looked up.
#include <check.h>
#include <stdlib.h>

#include "cuda/lib_cublaslt.h"
#include "cuda/lib_cuda.h"
#include "cuda/lib_nccl.h"
#include "cuda/lib_nvrtc.h"
#include "graph/type.h"

#if __has_include(<cuda.h>)
#include <cuda.h>
_Static_assert(sizeof(CUdeviceptr) == sizeof(zg_cu_ptr) && sizeof(CUdevice) == sizeof(zg_cu_device), "driver types");
_Static_assert(sizeof(CUstream) == sizeof(zg_cu_handle) && sizeof(CUresult) == sizeof(int), "driver types");
_Static_assert(CUDA_ERROR_OUT_OF_MEMORY == ZG_CU_OUT_OF_MEMORY && CUDA_ERROR_NO_DEVICE == ZG_CU_NO_DEVICE, "driver results");
_Static_assert(CUDA_ERROR_NOT_READY == ZG_CU_NOT_READY, "driver results");
_Static_assert(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK == ZG_CU_ATTR_MAX_SHARED, "shared memory");
_Static_assert(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT == ZG_CU_ATTR_SMS, "multiprocessors");
_Static_assert(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR == ZG_CU_ATTR_MAJOR, "capability");
_Static_assert(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR == ZG_CU_ATTR_MINOR, "capability");
_Static_assert(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN == ZG_CU_ATTR_SHARED_OPTIN, "shared memory");
_Static_assert(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES == ZG_CU_FUNC_DYNAMIC_SHARED, "function attributes");
_Static_assert(CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES == ZG_CU_FUNC_LOCAL_BYTES, "function attributes");
_Static_assert(CU_FUNC_ATTRIBUTE_NUM_REGS == ZG_CU_FUNC_REGISTERS, "function attributes");
_Static_assert(CU_STREAM_NON_BLOCKING == ZG_CU_STREAM_NON_BLOCKING && CU_EVENT_DISABLE_TIMING == ZG_CU_EVENT_NO_TIMING, "flags");
_Static_assert(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL == ZG_CU_CAPTURE_THREAD_LOCAL, "capture");
START_TEST(driver) {
  ck_assert_ptr_eq(ZG_CU_PARAM_END, CU_LAUNCH_PARAM_END);
  ck_assert_ptr_eq(ZG_CU_PARAM_POINTER, CU_LAUNCH_PARAM_BUFFER_POINTER);
  ck_assert_ptr_eq(ZG_CU_PARAM_SIZE, CU_LAUNCH_PARAM_BUFFER_SIZE);
#define X(name, args) ck_assert_uint_eq(sizeof(&name), sizeof(void *));   // declared by that very name
  ZG_CUDA_FUNCTIONS(X)
#undef X
}
END_TEST
#define HAVE_DRIVER 1
#endif

#if __has_include(<nvrtc.h>)
#include <nvrtc.h>
_Static_assert(sizeof(nvrtcProgram) == sizeof(zg_nvrtc_program) && NVRTC_ERROR_COMPILATION == ZG_NVRTC_COMPILATION, "NVRTC");
START_TEST(nvrtc) {
#define X(name, args) ck_assert_uint_eq(sizeof(&name), sizeof(void *));
  ZG_NVRTC_FUNCTIONS(X)
#undef X
}
END_TEST
#define HAVE_NVRTC 1
#endif

#if __has_include(<cublasLt.h>)
#include <cublasLt.h>
_Static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(zg_lt_algo), "algorithm");
_Static_assert(sizeof(cublasLtMatmulHeuristicResult_t) == sizeof(zg_lt_heuristic), "heuristic");
_Static_assert(offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize) == offsetof(zg_lt_heuristic, workspace), "heuristic");
_Static_assert(offsetof(cublasLtMatmulHeuristicResult_t, state) == offsetof(zg_lt_heuristic, state), "heuristic");
_Static_assert(CUBLAS_STATUS_NOT_SUPPORTED == ZG_LT_NOT_SUPPORTED, "status");
_Static_assert(CUDA_R_32F == ZG_LT_R_32F && CUDA_R_64F == ZG_LT_R_64F && CUDA_R_16F == ZG_LT_R_16F && CUDA_R_16BF == ZG_LT_R_16BF, "types");
_Static_assert(CUBLAS_COMPUTE_32F == ZG_LT_COMPUTE_32F && CUBLAS_COMPUTE_64F == ZG_LT_COMPUTE_64F, "compute types");
_Static_assert(CUBLAS_COMPUTE_32F_FAST_TF32 == ZG_LT_COMPUTE_32F_TF32, "compute types");
_Static_assert(CUBLAS_OP_N == ZG_LT_OP_N && CUBLAS_OP_T == ZG_LT_OP_T, "operations");
_Static_assert(CUBLASLT_MATMUL_DESC_TRANSA == ZG_LT_DESC_TRANSA && CUBLASLT_MATMUL_DESC_TRANSB == ZG_LT_DESC_TRANSB, "descriptor");
_Static_assert(CUBLASLT_MATMUL_DESC_EPILOGUE == ZG_LT_DESC_EPILOGUE && CUBLASLT_MATMUL_DESC_BIAS_POINTER == ZG_LT_DESC_BIAS_POINTER, "descriptor");
_Static_assert(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE == ZG_LT_DESC_BIAS_TYPE, "descriptor");
_Static_assert(CUBLASLT_MATRIX_LAYOUT_ORDER == ZG_LT_LAYOUT_ORDER && CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT == ZG_LT_LAYOUT_BATCH_COUNT, "layout");
_Static_assert(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET == ZG_LT_LAYOUT_BATCH_OFFSET, "layout");
_Static_assert(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES == ZG_LT_PREF_WORKSPACE, "preference");
_Static_assert(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES == ZG_LT_PREF_ALIGN_A, "preference");
_Static_assert(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES == ZG_LT_PREF_ALIGN_A + 3, "preference");
_Static_assert(CUBLASLT_EPILOGUE_BIAS == ZG_LT_EPILOGUE_BIAS && CUBLASLT_EPILOGUE_GELU_BIAS == ZG_LT_EPILOGUE_GELU_BIAS, "epilogues");
_Static_assert(CUBLASLT_EPILOGUE_RELU_BIAS == ZG_LT_EPILOGUE_RELU_BIAS && CUBLASLT_EPILOGUE_DEFAULT == ZG_LT_EPILOGUE_DEFAULT, "epilogues");
START_TEST(cublaslt) {
#define X(name, args) ck_assert_uint_eq(sizeof(&name), sizeof(void *));
  ZG_LT_FUNCTIONS(X)
#undef X
}
END_TEST
#define HAVE_CUBLASLT 1
#endif

#if __has_include(<nccl.h>) && __has_include(<cuda_runtime.h>)
#include <nccl.h>
_Static_assert(sizeof(ncclUniqueId) == sizeof(zg_nccl_id) && sizeof(ncclComm_t) == sizeof(zg_nccl_comm), "NCCL types");
_Static_assert(ncclSum == ZG_NCCL_SUM && ncclProd == ZG_NCCL_PROD && ncclMax == ZG_NCCL_MAX && ncclMin == ZG_NCCL_MIN, "NCCL sums");
_Static_assert(ncclInProgress == ZG_NCCL_IN_PROGRESS, "NCCL results");
START_TEST(nccl) {
  static const struct { zg_dtype t; int value; uint32_t bytes; } rows[] = {
      {ZG_F32, ncclFloat32, 4}, {ZG_F64, ncclFloat64, 8}, {ZG_F16, ncclFloat16, 2}, {ZG_BF16, ncclBfloat16, 2}, {ZG_I8, ncclInt8, 1},
      {ZG_I32, ncclInt32, 4},   {ZG_I64, ncclInt64, 8},   {ZG_U8, ncclUint8, 1},    {ZG_U32, ncclUint32, 4},    {ZG_U64, ncclUint64, 8},
      {ZG_BOOL, ncclUint8, 1},  {ZG_I16, -1, 2},          {ZG_U16, -1, 2}};
  ck_assert_uint_eq(ZG_COUNT(rows), ZG_N_DTYPES);
  for (size_t i = 0; i < ZG_COUNT(rows); i++) {
    ck_assert_int_eq(zg__nccl_dtype(rows[i].t), rows[i].value);
    ck_assert_uint_eq(zg_dtype_bytes(rows[i].t), rows[i].bytes);
  }
#define X(name, args) ck_assert_uint_eq(sizeof(&name), sizeof(void *));
  ZG_NCCL_FUNCTIONS(X)
#undef X
}
END_TEST
#define HAVE_NCCL 1
#endif

START_TEST(missing_library) {
  static const char *const files[] = {"libzgraph-absent.so.9", NULL};
  int table;
  zg__lib lib = {.title = "Nothing", .files = files, .fix = "install nothing", .table = &table};
  for (int i = 0; i < 2; i++) {   // the second answer is the first's
    zg_status s = zg__lib_load(&lib);
    ck_assert_ptr_nonnull(s);
    ck_assert_int_eq(zg_status_code(s), ZG_NOT_FOUND);
    ck_assert_ptr_nonnull(strstr(zg_status_message(s), "libzgraph-absent.so.9"));
    ck_assert_ptr_nonnull(strstr(zg_status_message(s), "ZG_CUDA_LIB_DIR"));
    zg_status_free(s);
  }
  zg_status_free(lib.failure);
}
END_TEST

START_TEST(missing_function) {
  static const char *const files[] = {"libz.so.1", NULL};
  static const zg__lib_symbol symbols[] = {{"zlibVersion", 0}, {"zgNoSuchFunction", sizeof(void *)}};
  void *table[2] = {0};
  zg__lib lib = {.title = "zlib", .files = files, .fix = "install another", .symbols = symbols, .n_symbols = 2, .table = table};
  zg_status s = zg__lib_load(&lib);
  ck_assert_ptr_nonnull(s);
  ck_assert_int_eq(zg_status_code(s), ZG_UNSUPPORTED);
  ck_assert_ptr_nonnull(strstr(zg_status_message(s), "zgNoSuchFunction"));
  zg_status_free(s);
  zg_status_free(lib.failure);
}
END_TEST

int main(void) {
  Suite *s = suite_create("cuda headers");
  TCase *t = tcase_create("declarations");
#ifdef HAVE_DRIVER
  tcase_add_test(t, driver);
#endif
#ifdef HAVE_NVRTC
  tcase_add_test(t, nvrtc);
#endif
#ifdef HAVE_CUBLASLT
  tcase_add_test(t, cublaslt);
#endif
#ifdef HAVE_NCCL
  tcase_add_test(t, nccl);
#endif
  tcase_add_test(t, missing_library);
  tcase_add_test(t, missing_function);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  const int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
