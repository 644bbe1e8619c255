// Collectives of a program in device memory, by NCCL.
#pragma once
#include "cuda/lib_nccl.h"
#include "exec/comm.h"

// NCCL's communicators of one rank, made at the first collective of each group. Zero-initialised is valid and
// empty.
typedef struct {
  uint32_t group;
  zg_nccl_comm comm;
} zg__nccl_group;
typedef struct {
  ZG_VEC(zg__nccl_group) all;
  bool aborted;
} zg__nccl_groups;

// Puts op on the stream; op->data and op->shard are device addresses. comm carries NCCL's ids between ranks,
// counts calls and bytes. Sums of bf16 and f16 are NCCL's own. The driver's context is current.
zg_status zg__collective_run(zg__nccl_groups *g, zg_comm *comm, const zg_comm_op *op, void *stream);
// What NCCL has found since: an asynchronous failure of a collective, or NULL. Does not wait.
zg_status zg__collective_check(zg__nccl_groups *g);
// Ends all collectives that are under way, on this rank; none can follow.
void zg__collective_abort(zg__nccl_groups *g);
void zg__nccl_groups_fini(zg__nccl_groups *g);
