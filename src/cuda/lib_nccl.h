// NCCL, the collectives library: own declarations of what is used.
#pragma once
#include "cuda/lib.h"

typedef void *zg_nccl_comm;
typedef struct {
  char bytes[128];
} zg_nccl_id;
enum {
  ZG_NCCL_IN_PROGRESS = 7,
  ZG_NCCL_SUM = 0,
  ZG_NCCL_PROD = 1,
  ZG_NCCL_MAX = 2,
  ZG_NCCL_MIN = 3,
  ZG_NCCL_I8 = 0,
  ZG_NCCL_U8 = 1,
  ZG_NCCL_I32 = 2,
  ZG_NCCL_U32 = 3,
  ZG_NCCL_I64 = 4,
  ZG_NCCL_U64 = 5,
  ZG_NCCL_F16 = 6,
  ZG_NCCL_F32 = 7,
  ZG_NCCL_F64 = 8,
  ZG_NCCL_BF16 = 9,
};

#define ZG_NCCL_FUNCTIONS(X)                                                                                 \
  X(ncclGetVersion, (int *out))                                                                              \
  X(ncclGetUniqueId, (zg_nccl_id * out))                                                                     \
  X(ncclCommInitRank, (zg_nccl_comm * out, int world, zg_nccl_id id, int rank))                              \
  X(ncclCommDestroy, (zg_nccl_comm c))                                                                       \
  X(ncclCommAbort, (zg_nccl_comm c))                                                                         \
  X(ncclCommGetAsyncError, (zg_nccl_comm c, int *out))                                                       \
  X(ncclAllReduce, (const void *from, void *to, size_t n, int type, int op, zg_nccl_comm c, void *stream))   \
  X(ncclReduceScatter,                                                                                       \
    (const void *from, void *to, size_t n, int type, int op, zg_nccl_comm c, void *stream))                  \
  X(ncclReduce,                                                                                              \
    (const void *from, void *to, size_t n, int type, int op, int root, zg_nccl_comm c, void *stream))        \
  X(ncclAllGather, (const void *from, void *to, size_t n, int type, zg_nccl_comm c, void *stream))           \
  X(ncclBroadcast, (const void *from, void *to, size_t n, int type, int root, zg_nccl_comm c, void *stream)) \
  X(ncclGroupStart, (void))                                                                                  \
  X(ncclGroupEnd, (void))

typedef struct {
#define X(name, args) int(*name) args;
  ZG_NCCL_FUNCTIONS(X)
#undef X
  const char *(*ncclGetErrorString)(int);
  const char *(*ncclGetLastError)(zg_nccl_comm);
} zg_nccl_api;
extern zg_nccl_api zg__nccl;

zg_status zg__nccl_load(void);
const char *zg__nccl_path(void);
zg_status zg__nccl_status(int result, const char *call);
#define ZG_NCCL(name, ...) zg__nccl_status(zg__nccl.name(__VA_ARGS__), #name "(" #__VA_ARGS__ ")")
// NCCL's number of an element type, or -1 where it has none.
int zg__nccl_dtype(int zg_dtype);
