// Collectives by NCCL. Every group of ranks has a communicator of its own; its unique id goes from the
// group's member 0 to the others by the host's communicator, which exists before. Whole parts use NCCL's
// all_gather and reduce_scatter; where the full buffer ends before members * n, as many broadcasts or
// reductions in one group of calls, since NCCL's own would run over the buffer's end.
#include "cuda/collective.h"

#include "cuda/lib_cuda.h"

static zg_status find_comm(zg__nccl_groups *all, zg_comm *comm, uint32_t group, const zg_comm_group *g,
                           zg_nccl_comm *out) {
  for (size_t i = 0; i < all->all.n; i++)
    if (all->all.at[i].group == group) {
      *out = all->all.at[i].comm;
      return NULL;
    }
  zg_nccl_id id = {{0}};
  ZG_TRY(zg__nccl_load());
  if (g->index == 0) ZG_TRY(ZG_NCCL(ncclGetUniqueId, &id));
  ZG_TRY(zg_comm_broadcast(comm, group, ZG_U8, &id, sizeof id, 0, "NCCL's id"));
  ZG_TRY(ZG_NCCL(ncclCommInitRank, out, (int)g->size, id, (int)g->index));
  zg_vec_push(&all->all, (zg__nccl_group){group, *out});
  zg_log(2, "NCCL: communicator of %u ranks, this one is %u", g->size, g->index);
  return NULL;
}

void zg__nccl_groups_fini(zg__nccl_groups *g) {
  for (size_t i = 0; i < g->all.n; i++)
    if (!g->aborted) zg__nccl.ncclCommDestroy(g->all.at[i].comm);
  zg_vec_fini(&g->all);
}

zg_status zg__collective_check(zg__nccl_groups *g) {
  for (size_t i = 0; i < g->all.n && !g->aborted; i++) {
    int async = 0;
    ZG_TRY(ZG_NCCL(ncclCommGetAsyncError, g->all.at[i].comm, &async));
    if (async != ZG_NCCL_IN_PROGRESS) ZG_TRY(zg__nccl_status(async, "a collective"));
  }
  return NULL;
}

void zg__collective_abort(zg__nccl_groups *g) {
  for (size_t i = 0; i < g->all.n && !g->aborted; i++) zg__nccl.ncclCommAbort(g->all.at[i].comm);
  g->aborted = true;
}

// One collective, resolved: sizes in bytes, addresses as numbers.
typedef struct {
  const zg_comm_op *op;
  const zg_comm_group *g;
  zg_nccl_comm comm;
  void *stream;
  uint64_t size;
  char *data, *shard;
} call;

static uint64_t part_elems(const call *c, uint32_t i) {
  const uint64_t before = ZG_MIN(c->op->n * i, c->op->n_full);
  return ZG_MIN(c->op->n, c->op->n_full - before);
}

static zg_status gather(const call *c) {
  const uint64_t part = c->op->n * c->size;
  if (c->op->n_full == c->op->n * c->g->size)
    return ZG_NCCL(ncclAllGather, c->shard, c->data, part, ZG_NCCL_U8, c->comm, c->stream);
  zg_status status = NULL;
  ZG_TRY(ZG_NCCL(ncclGroupStart));
  for (uint32_t i = 0; i < c->g->size && !status; i++) {
    const uint64_t n = part_elems(c, i) * c->size;
    char *to = c->data + i * part;
    if (n)
      status = ZG_NCCL(ncclBroadcast, i == c->g->index ? c->shard : to, to, n, ZG_NCCL_U8, (int)i, c->comm,
                       c->stream);
  }
  zg_status end = ZG_NCCL(ncclGroupEnd);
  if (!status) return end;
  zg_status_free(end);
  return status;
}

static zg_status reduce_parts(const call *c, int type) {
  zg_status status = NULL;
  ZG_TRY(ZG_NCCL(ncclGroupStart));
  for (uint32_t i = 0; i < c->g->size && !status; i++) {
    const uint64_t n = part_elems(c, i);
    char *from = c->data + i * c->op->n * c->size;
    if (n)
      status = ZG_NCCL(ncclReduce, from, i == c->g->index ? c->shard : from, n, type, ZG_NCCL_SUM, (int)i,
                       c->comm, c->stream);
  }
  zg_status end = ZG_NCCL(ncclGroupEnd);
  if (!status) return end;
  zg_status_free(end);
  return status;
}

static zg_status reduce_scatter(const call *c, int type) {
  const uint64_t have = part_elems(c, c->g->index);
  if (c->op->n_full == c->op->n * c->g->size)
    return ZG_NCCL(ncclReduceScatter, c->data, c->shard, c->op->n, type, ZG_NCCL_SUM, c->comm, c->stream);
  ZG_TRY(reduce_parts(c, type));
  if (have == c->op->n) return NULL;
  return ZG_CUDA(cuMemsetD8Async, (zg_cu_ptr)(uintptr_t)(c->shard + have * c->size), 0,
                 (c->op->n - have) * c->size, c->stream);
}

static zg_status run_group(const call *c) {
  const zg_comm_op *op = c->op;
  const int type = zg__nccl_dtype(op->dtype);
  if (type < 0 && (op->kind == ZG_COMM_ALL_REDUCE || op->kind == ZG_COMM_REDUCE_SCATTER))
    return zg_error(ZG_UNSUPPORTED, "NCCL does not sum %s", zg_dtype_name(op->dtype));
  switch (op->kind) {
    case ZG_COMM_ALL_REDUCE:
      return ZG_NCCL(ncclAllReduce, c->data, c->data, op->n, type, ZG_NCCL_SUM, c->comm, c->stream);
    case ZG_COMM_REDUCE_SCATTER: return reduce_scatter(c, type);
    case ZG_COMM_ALL_GATHER: return gather(c);
    case ZG_COMM_BROADCAST:
      return ZG_NCCL(ncclBroadcast, c->data, c->data, op->n * c->size, ZG_NCCL_U8, (int)op->root, c->comm,
                     c->stream);
    case ZG_COMM_BARRIER:
    case ZG_N_COMM_KINDS: break;
  }
  return NULL;
}

// A group of one: what is left are copies.
static zg_status run_alone(const call *c) {
  const uint64_t n = ZG_MIN(c->op->n, c->op->n_full) * c->size, pad = c->op->n * c->size - n;
  const bool scatter = c->op->kind == ZG_COMM_REDUCE_SCATTER;
  if (!scatter && c->op->kind != ZG_COMM_ALL_GATHER) return NULL;
  char *to = scatter ? c->shard : c->data, *from = scatter ? c->data : c->shard;
  if (to != from && n)
    ZG_TRY(ZG_CUDA(cuMemcpyDtoDAsync_v2, (zg_cu_ptr)(uintptr_t)to, (zg_cu_ptr)(uintptr_t)from, n, c->stream));
  return scatter && pad ? ZG_CUDA(cuMemsetD8Async, (zg_cu_ptr)(uintptr_t)(to + n), 0, pad, c->stream) : NULL;
}

zg_status zg__collective_run(zg__nccl_groups *all, zg_comm *comm, const zg_comm_op *op, void *stream) {
  zg_comm_group g;
  ZG_TRY(zg_comm_group_of(comm, op->group, &g));
  call c = {.op = op,
            .g = &g,
            .stream = stream,
            .size = zg_dtype_bytes(op->dtype),
            .data = op->data,
            .shard = op->shard};
  if (g.size == 1) return run_alone(&c);
  if (all->aborted) return zg_error(ZG_CANCELLED, "an earlier collective failed");
  ZG_TRY(find_comm(all, comm, op->group, &g, &c.comm));
  ZG_TRY(run_group(&c));
  comm->calls[op->kind]++;
  comm->bytes_sent[op->kind] += zg_comm_op_bytes(op->kind, op->dtype, op->n, g.size);
  return NULL;
}
