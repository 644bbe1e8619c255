// What every communication back end has in common: checks, counting, names in messages, comparing identities.
#include "exec/comm.h"
#include <inttypes.h>
#include "exec/comm_priv.h"

const char *zg_comm_kind_name(zg_comm_kind k) {
  static const char *const names[ZG_N_COMM_KINDS] = {"all_reduce", "reduce_scatter", "all_gather", "broadcast", "barrier"};
  return k < ZG_N_COMM_KINDS ? names[k] : "?";
}

zg_comm_kind zg_comm_kind_of(const zg_step *s) {
  return s->kind == ZG_STEP_GATHER           ? ZG_COMM_ALL_GATHER
         : s->kind == ZG_STEP_REDUCE_SCATTER ? ZG_COMM_REDUCE_SCATTER
         : s->kind == ZG_STEP_ALL_REDUCE     ? ZG_COMM_ALL_REDUCE : ZG_COMM_BROADCAST;
}

zg_status zg_comm_group_of(const zg_comm *c, uint32_t group, zg_comm_group *out) {
  const uint32_t size = group ? ZG_GROUP_SIZE(group) : c->world, stride = group ? ZG_GROUP_STRIDE(group) : 1;
  if (size == 0 || stride == 0 || c->world % ((uint64_t)size * stride) != 0)
    return zg_error(ZG_INVALID, "groups of %u ranks with stride %u do not divide %u ranks", size, stride, c->world);
  const uint32_t index = c->rank / stride % size;
  *out = (zg_comm_group){size, stride, index, c->rank - index * stride};
  return NULL;
}

uint64_t zg_comm_op_bytes(zg_comm_kind kind, zg_dtype t, uint64_t n, uint32_t g) {
  const uint64_t size = zg_dtype_bytes(t);
  switch (kind) {
    case ZG_COMM_ALL_REDUCE: return 2 * ((n + g - 1) / g) * (g - 1) * size;
    case ZG_COMM_REDUCE_SCATTER:
    case ZG_COMM_ALL_GATHER: return n * (g - 1) * size;
    case ZG_COMM_BROADCAST: return n * (g - 1) / g * size;
    case ZG_COMM_BARRIER:
    case ZG_N_COMM_KINDS: break;
  }
  return 0;
}

uint64_t zg_comm_bytes_sent(const zg_comm *c) {
  uint64_t sum = 0;
  for (int i = 0; i < ZG_N_COMM_KINDS; i++) sum += c->bytes_sent[i];
  return sum;
}

// A group of one: what is left are copies.
static void run_alone(const zg_comm_op *op) {
  const uint64_t size = zg_dtype_bytes(op->dtype), n = ZG_MIN(op->n, op->n_full);
  switch (op->kind) {
    case ZG_COMM_REDUCE_SCATTER:
      if (op->shard != op->data) memcpy(op->shard, op->data, n * size);
      memset((uint8_t *)op->shard + n * size, 0, (op->n - n) * size);
      break;
    case ZG_COMM_ALL_GATHER:
      if (op->shard != op->data) memcpy(op->data, op->shard, n * size);
      break;
    case ZG_COMM_ALL_REDUCE:
    case ZG_COMM_BROADCAST:
    case ZG_COMM_BARRIER:
    case ZG_N_COMM_KINDS: break;
  }
}

static zg_status check(const zg_comm_op *op, const zg_comm_group *g) {
  const bool sums = op->kind == ZG_COMM_ALL_REDUCE || op->kind == ZG_COMM_REDUCE_SCATTER;
  const bool parts = op->kind == ZG_COMM_ALL_GATHER || op->kind == ZG_COMM_REDUCE_SCATTER;
  if (sums && !zg__comm_can_sum(op->dtype)) return zg_error(ZG_UNSUPPORTED, "sums of %s are not supported", zg_dtype_name(op->dtype));
  if (parts && op->n_full > op->n * g->size)
    return zg_error(ZG_INVALID, "%" PRIu64 " elements do not fit in %u parts of %" PRIu64, op->n_full, g->size, op->n);
  if (op->kind == ZG_COMM_BROADCAST && op->root >= g->size)
    return zg_error(ZG_INVALID, "root %u is not one of the %u members", op->root, g->size);
  return NULL;
}

static zg_status run(zg_comm *c, const zg_comm_op *op) {
  zg_comm_group g;
  ZG_TRY(zg_comm_group_of(c, op->group, &g));
  ZG_TRY(check(op, &g));
  if (g.size == 1) run_alone(op);
  else ZG_TRY(c->vt->run(c, op));
  c->calls[op->kind]++;
  c->bytes_sent[op->kind] += zg_comm_op_bytes(op->kind, op->dtype, op->n, g.size);
  return NULL;
}

zg_status zg_comm_run(zg_comm *c, const zg_comm_op *op) {
  zg_status s = run(c, op);
  if (!s) return NULL;
  return zg_status_prefix(s, "%s of \"%s\" on rank %u of %u: ", zg_comm_kind_name(op->kind), op->what ? op->what : "?", c->rank, c->world);
}

zg_status zg_comm_all_reduce(zg_comm *c, uint32_t group, zg_dtype t, void *data, uint64_t n, const char *what) {
  return zg_comm_run(c, &(zg_comm_op){.kind = ZG_COMM_ALL_REDUCE, .dtype = t, .group = group, .n = n, .data = data, .what = what});
}

zg_status zg_comm_reduce_scatter(zg_comm *c, uint32_t group, zg_dtype t, void *shard, const void *data, uint64_t n, uint64_t n_full,
                                 const char *what) {
  return zg_comm_run(c, &(zg_comm_op){.kind = ZG_COMM_REDUCE_SCATTER, .dtype = t, .group = group, .n = n, .n_full = n_full,
                                      .data = (void *)data, .shard = shard, .what = what});
}

zg_status zg_comm_all_gather(zg_comm *c, uint32_t group, zg_dtype t, void *data, const void *shard, uint64_t n, uint64_t n_full,
                             const char *what) {
  return zg_comm_run(c, &(zg_comm_op){.kind = ZG_COMM_ALL_GATHER, .dtype = t, .group = group, .n = n, .n_full = n_full,
                                      .data = data, .shard = (void *)shard, .what = what});
}

zg_status zg_comm_broadcast(zg_comm *c, uint32_t group, zg_dtype t, void *data, uint64_t n, uint32_t root, const char *what) {
  return zg_comm_run(c, &(zg_comm_op){.kind = ZG_COMM_BROADCAST, .dtype = t, .group = group, .root = root, .n = n, .data = data, .what = what});
}

zg_status zg_comm_barrier(zg_comm *c, const char *what) {
  return zg_comm_run(c, &(zg_comm_op){.kind = ZG_COMM_BARRIER, .dtype = ZG_U8, .what = what});
}

zg_status zg_comm_check(zg_comm *c) { return c->vt->check ? c->vt->check(c) : NULL; }

void zg_comm_abort(zg_comm *c, const char *why) { c->vt->abort(c, why); }

void zg_comm_free(zg_comm *c) {
  if (c) c->vt->free(c);
}

// ---- identity -----------------------------------------------------------------------------------------------------

zg_status zg_comm_compare(zg_comm *c, const zg_comm_identity *mine) {
  enum { N = sizeof *mine / sizeof(uint64_t) };
  zg_comm_identity *all = zg_alloc(sizeof *all * c->world);
  zg_status s = zg_comm_all_gather(c, 0, ZG_U64, all, mine, N, (uint64_t)N * c->world, "identities");
  for (uint32_t r = 1; r < c->world && !s; r++) {
    const char *what = all[r].model != all[0].model     ? "another model file"
                       : all[r].config != all[0].config ? "another configuration"
                       : all[r].collectives != all[0].collectives ? "a plan with other collectives" : NULL;
    if (what)
      s = zg_error(ZG_INVALID, "rank %u of %u was started with %s than rank 0: give every rank the same program, model and configuration "
                   "(only machine_rank may differ)", r, c->world, what);
  }
  zg_free(all);
  return s;
}

uint64_t zg_comm_sequence_hash(const zg_sched *s) {
  uint64_t h = s->world;
  for (size_t g = 0; g < s->segments.n; g++) {
    const zg_segment *seg = &s->segments.at[g];
    h = zg_hash(seg->name, strlen(seg->name), h);
    for (uint32_t i = seg->first; i < seg->first + seg->n; i++) {
      const zg_step *p = &s->steps.at[i];
      if (!zg_step_is_collective(p)) continue;
      const zg_buf *a = &s->bufs.at[p->a], *b = &s->bufs.at[p->b];
      const uint64_t words[] = {(uint64_t)p->kind, p->group, p->peer, (uint64_t)p->n, a->dtype, a->bytes, p->b ? b->bytes : 0};
      h = zg_hash(words, sizeof words, h);
    }
  }
  return h;
}
