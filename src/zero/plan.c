// The partition map: which tensors there are, how each is cut, where a buffer lies in its whole tensor.
#include <stdlib.h>

#include "zero/zero_priv.h"

zg_zero_options zg_zero_defaults(void) {
  return (zg_zero_options){.stage = 2,
                           .world = 1,
                           .micro_steps = 1,
                           .persistence_threshold = 100000,
                           .prefetch_bucket = 50000000,
                           .max_live = 1000000000,
                           .reduce_bucket = 500000000,
                           .overlap = true,
                           .offload_ratio = 1};
}

static zg_zero_cost filled_cost(zg_zero_cost c) {
  if (!(c.flops_per_s > 0)) c.flops_per_s = 5e10;  // one core with wide vectors
  if (!(c.bytes_per_s > 0)) c.bytes_per_s = 1e10;
  if (!(c.comm_bytes_per_s > 0)) c.comm_bytes_per_s = 4e9;
  if (!(c.comm_latency_s > 0)) c.comm_latency_s = 20e-6;
  return c;
}

static zg_status check_groups(const zg_zero_options *o) {
  const struct { const char *what; uint32_t n; } groups[] = {{"mics_shard_size", o->shard_ranks}, {"zero_hpz_partition_size", o->second_ranks}};
  for (size_t i = 0; i < ZG_COUNT(groups); i++) {
    if (groups[i].n && o->stage != 3) return zg_error(ZG_INVALID, "%s: groups of ranks are for zero_stage 3, this is stage %u", groups[i].what, o->stage);
    if (groups[i].n && o->world % groups[i].n)
      return zg_error(ZG_INVALID, "%s: groups of %u do not divide %u ranks", groups[i].what, groups[i].n, o->world);
    if (groups[i].n > UINT16_MAX) return zg_error(ZG_INVALID, "%s: %u; a group has at most %d ranks", groups[i].what, groups[i].n, UINT16_MAX);
  }
  if (o->shard_ranks && o->second_ranks)
    return zg_error(ZG_INVALID, "mics_shard_size and zero_hpz_partition_size: shards that stay in groups need no second ones; give one of them");
  if (o->shard_ranks && o->world / o->shard_ranks > UINT16_MAX) return zg_error(ZG_INVALID, "mics_shard_size: at most %d groups", UINT16_MAX);
  return NULL;
}

zg_status zg_zero_new(const zg_zero_options *o, zg_zero **out) {
  *out = NULL;
  if (o->stage > 3) return zg_error(ZG_INVALID, "zero_stage: %u; there are stages 0, 1, 2 and 3", o->stage);
  if (o->world < 1 || o->world > ZG_ZERO_MAX_WORLD)
    return zg_error(ZG_INVALID, "%u ranks; want 1 to %d", o->world, ZG_ZERO_MAX_WORLD);
  if (o->rank >= o->world)
    return zg_error(ZG_INVALID, "rank %u of %u: ranks count from 0", o->rank, o->world);
  if (o->offload_optimizer != ZG_SPACE_DEVICE && o->stage < 1)
    return zg_error(ZG_INVALID,
                    "offload_optimizer: stage 0 keeps the optimizer's state whole; use zero_stage 1, 2 or 3");
  if (o->offload_param != ZG_SPACE_DEVICE && o->stage < 3)
    return zg_error(ZG_INVALID, "offload_param: parameters rest in shards in stage 3 only; use zero_stage 3");
  if ((o->offload_optimizer == ZG_SPACE_DISK || o->offload_param == ZG_SPACE_DISK) && !o->disk_path)
    return zg_error(ZG_INVALID, "offload to disk (device: nvme) wants a folder: set nvme_path");
  ZG_TRY(check_groups(o));
  if (o->reduce_type != ZG_F32 && o->reduce_type != ZG_BF16 && o->reduce_type != ZG_F16)
    return zg_error(ZG_INVALID, "gradients are reduced in f32, bf16 or f16, not in %s", zg_dtype_name(o->reduce_type));
  zg_zero *z = zg_alloc(sizeof *z);
  z->o = *o;
  z->o.disk_path = zg_arena_str(&z->mem, o->disk_path);
  z->o.micro_steps = ZG_MAX(1, o->micro_steps);
  if (z->o.shard_ranks == o->world) z->o.shard_ranks = 0;
  if (z->o.second_ranks <= 1 || z->o.second_ranks == o->world) z->o.second_ranks = 0;  // gathers from oneself, or what there is already
  z->o.cost = filled_cost(o->cost);
  *out = z;
  return NULL;
}

void zg_zero_free(zg_zero *z) {
  if (!z) return;
  zg_vec_fini(&z->parts);
  zg_map_fini(&z->by_name);
  zg_arena_fini(&z->mem);
  zg_free(z);
}

const zg_zero_options *zg_zero_options_of(const zg_zero *z) { return &z->o; }

zg_spread zg_zero_spread(zg_zero *z) {
  return (zg_spread){.self = z,
                     .ranks = z->o.world,
                     .two_micros = z->o.micro_steps > 1 && z->o.stage < 2,
                     .split = zg__zero_split,
                     .partition = zg__zero_partition,
                     .reduce = zg__zero_reduce,
                     .gather = zg__zero_gather,
                     .offload = zg__zero_offload,
                     .overlap = zg__zero_overlap};
}

const zg_zero_part *zg_zero_parts(const zg_zero *z, uint32_t *n) {
  *n = (uint32_t)z->parts.n;
  return z->parts.at;
}

const zg_zero_part *zg_zero_find(const zg_zero *z, const char *param) {
  uint64_t i;
  return param && zg_map_get(&z->by_name, param, &i) ? &z->parts.at[i] : NULL;
}

// ---- where buffers lie ----------------------------------------------------------------------------------------------------

static bool is_shard_state(const zg_zero *z) { return z && zg__updates_shard(z); }

// The tensor that state "PARAM.suffix" belongs to.
static const zg_zero_part *part_of_state(const zg_zero *z, const char *state) {
  char name[4096];
  const char *dot = strrchr(state, '.');
  if (!z || !dot || (size_t)(dot - state) >= sizeof name) return NULL;
  memcpy(name, state, (size_t)(dot - state));
  name[dot - state] = 0;
  return zg_zero_find(z, name);
}

bool zg_zero_range_of(const zg_zero *z, const zg_sched *s, uint32_t buf, zg_zero_range *out) {
  const zg_buf *b = &s->bufs.at[buf];
  const bool state = b->role == ZG_BUF_OPTIMIZER || b->role == ZG_BUF_MASTER;
  if (!b->persistent || b->name[0] == '@' || (!state && b->role != ZG_BUF_PARAM)) return false;
  const int64_t n = zg_elems(&b->type);
  *out = (zg_zero_range){.name = b->name, .type = b->type, .lo = 0, .hi = n, .have_lo = 0, .have_hi = n};
  if (!z) return true;
  const zg_zero_part *p = state ? part_of_state(z, b->name) : zg_zero_find(z, b->name);
  if (!p) {
    out->hi = z->o.rank == 0 ? n : 0;
    return true;
  }
  out->type = zg_type_make(b->type.dtype, p->type.rank, p->type.dim);
  const int64_t lo = ZG_MIN(zg__zero_lo(z, p), p->n), hi = ZG_MIN(lo + p->shard, p->n);
  const bool writes = z->o.rank < zg__cut(z);  // one copy of each shard is enough in a checkpoint
  out->lo = lo;
  out->hi = writes ? hi : lo;
  const bool cut = state ? is_shard_state(z) : p->sharded;
  out->have_lo = cut ? lo : 0;
  out->have_hi = cut ? hi : p->n;
  return true;
}

// ---- formulas -------------------------------------------------------------------------------------------------------------

static bool has_role(const zg_sched *s, const zg_zero_part *p, const char *suffix) {
  zg_str name = {0};
  zg_str_add(&name, "%s.%s", p->name, suffix);
  const bool there = zg_sched_find_buf(s, name.at) != 0;
  zg_str_fini(&name);
  return there;
}

zg_zero_formula zg_zero_formula_of(const zg_zero *z, const zg_sched *s) {
  zg_zero_formula f = {0};
  const uint64_t others = zg__cut(z) - 1, k = (uint64_t)z->o.micro_steps, copies = zg__copies(z);
  const uint64_t passes = z->o.second_ranks ? 1 : 2;  // that gather from all
  uint64_t reduced = 0, updated = 0, between = 0;  // bytes of shards: of gradients, of params gathered after the update
  for (size_t i = 0; i < z->parts.n; i++) {
    const zg_zero_part *p = &z->parts.at[i];
    if (!p->buf) continue;
    const uint64_t size = zg__elem_bytes(p), shard = (uint64_t)p->shard, padded = (uint64_t)zg__padded(z, p),
                   n = (uint64_t)p->n;
    const bool trained = p->role == ZG_ROLE_TRAINABLE;
    f.params += size * (p->sharded ? shard : trained && zg__updates_shard(z) ? padded : n);
    if (!trained) continue;
    const uint64_t state = 4 * (zg__updates_shard(z) ? shard : n);
    f.grads += 4 * (zg__shards_grads(z) ? shard : padded);
    if (has_role(s, p, "master")) f.master += state;
    if (has_role(s, p, "m")) f.optimizer += state;
    if (has_role(s, p, "v")) f.optimizer += state;
    reduced += zg_dtype_bytes(z->o.reduce_type) * shard;
    between += 2 * 4 * ((shard + copies - 1) / copies) * (copies - 1);
    if (zg__updates_shard(z) && !p->sharded) updated += size * shard;
  }
  switch (z->o.stage) {
    case 0: f.sent = others * 2 * reduced; break;
    case 1: f.sent = others * (reduced + updated); break;
    default:
      f.sent = others * (k * reduced + updated + k * (z->gathered[0] + passes * z->gathered[1])) + between;
      if (z->o.second_ranks) f.sent += k * (z->o.second_ranks - 1) * z->gathered[2];
      break;
  }
  return f;
}

void zg_zero_at_rest(const zg_sched *s, uint64_t by_role[ZG_N_BUF_ROLES]) {
  memset(by_role, 0, sizeof *by_role * ZG_N_BUF_ROLES);
  for (uint32_t b = 1; b < s->bufs.n; b++)
    if (s->bufs.at[b].persistent) by_role[s->bufs.at[b].role] += s->bufs.at[b].bytes;
}

// ---- traffic --------------------------------------------------------------------------------------------------------------

static uint64_t elem_bytes(const zg_sched *s, uint32_t buf) { return zg_dtype_bytes(s->bufs.at[buf].dtype); }

static void count_step(const zg_sched *s, const zg_step *p, uint64_t times, zg_zero_traffic *t) {
  const uint64_t members = zg__members(s, p), others = members - 1, size = elem_bytes(s, p->a) * times, n = (uint64_t)p->n * size;
  uint64_t sent = 0;
  switch (p->kind) {
    case ZG_STEP_GATHER: t->gather += sent = n * others; break;
    case ZG_STEP_REDUCE_SCATTER: t->reduce_scatter += sent = n * others; break;
    case ZG_STEP_ALL_REDUCE: t->all_reduce += sent = 2 * (((uint64_t)p->n + others) / members) * others * size; break;
    case ZG_STEP_BROADCAST: t->broadcast += sent = s->rank == p->peer ? n * others : 0; break;
    case ZG_STEP_KERNEL:
    case ZG_STEP_PARTITION:
    case ZG_STEP_COPY:
    case ZG_STEP_RELEASE:
    case ZG_STEP_RECORD:
    case ZG_STEP_WAIT:
    case ZG_N_STEP_KINDS: return;
  }
  t->n_collectives += times;
  if (s->bufs.at[p->a].name[0] == '@') t->scalars += sent;
}

zg_zero_traffic zg_zero_traffic_of(const zg_zero *z, const zg_sched *s) {
  zg_zero_traffic t = {0};
  const bool two = zg_sched_find_segment(s, "micro_last") != NULL;
  for (size_t g = 0; g < s->segments.n; g++) {
    const zg_segment *seg = &s->segments.at[g];
    uint64_t times = !strcmp(seg->name, "eval")    ? 0
                     : !strcmp(seg->name, "micro") ? (uint64_t)z->o.micro_steps - (two ? 1 : 0)
                                                   : 1;
    for (uint32_t i = seg->first; times && i < seg->first + seg->n; i++)
      count_step(s, &s->steps.at[i], times, &t);
  }
  return t;
}
