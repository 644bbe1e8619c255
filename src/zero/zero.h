// ZeRO: spreads parameters, gradients and optimizer state over ranks (Rajbhandari et al. 2020, "ZeRO: Memory Optimizations
// Toward Training Trillion Parameter Models"). Only plans: it changes graphs and schedules, and knows neither devices nor
// communication.
//
// Partition. A tensor of n elements is cut into N = world shards of ceil(n / N) elements, the last ones padded with zeros;
// rank r holds elements [r * shard, (r + 1) * shard). N need divide nothing, n may be smaller than N.
//
//   stage  at rest per rank                              inserted steps                                    elements sent
//   0      everything whole                              all_reduce of gradients, last micro-step          2 P
//   1      params, grads whole; optimizer shard          reduce_scatter, last micro-step; gather of params 2 P
//   2      params whole; grad and optimizer shards       reduce_scatter, every micro-step; gather          (k + 1) P
//   3      shards; a param kept whole counts as stage 2  gather before use, release after, reduce_scatter  <= 3 k P
//
// Groups of neighbouring ranks (one machine, as a rule), stage 3:
//   shard_ranks S   a tensor is cut over S ranks, and each of the N / S groups holds it all (MiCS, Zhang et al. 2022; FSDP's
//                   HYBRID_SHARD): gathers and reduce_scatters stay within a group, and ranks of one place in their groups all_reduce
//                   their gradient shards, once per update: 2 (G - 1) / G of the shard, G = N / S. Sums run within groups first.
//   second_ranks H  after its forward use a rank keeps the part of a tensor that it has to give within its group of H, and the
//                   backward pass gathers within the group (hpZ of ZeRO++, Wang et al. 2023): same bits, (N - 1) / N P per micro-step
//                   between all and (H - 1) / H P within groups, for P / H more memory between the two passes.
//
// (P: padded elements; a rank sends (N - 1) / N of the last column; k: micro-steps.) Gradients are accumulated in f32, and
// reduced in reduce_type (f32; bf16 and f16 halve the bytes: each rank's gradient is rounded, the sum, made in f32, once more). The
// mean over ranks comes from the seed of the backward pass, 1 / (k N). Squared norms are summed shard by shard in every stage, so that
// all stages clip by the same bits.
//
// Segments: "micro" (each micro-step), "micro_last" (the last one, where it differs), "update", and "eval".
#pragma once
#include "sched/pipeline.h"

enum { ZG_ZERO_MAX_WORLD = 1 << 20 };

// What collectives and kernels cost, for deciding how early to start a gather.
typedef struct {
  double flops_per_s, bytes_per_s, comm_bytes_per_s, comm_latency_s;
} zg_zero_cost;

typedef struct {
  uint32_t stage, rank, world;  // world 1 is legal: the same schedule, collectives move nothing
  uint32_t shard_ranks, second_ranks;  // stage 3: ranks of a group, as above; 0: all ranks, none
  int64_t micro_steps;          // k
  int64_t
      persistence_threshold;  // stage 3: tensors of at most so many elements stay whole (negative: none) ...
  int64_t model_persistence_threshold;  // ... while their sum is at most this; 0: no limit
  int64_t prefetch_bucket;  // stage 3: elements whose gathers may run ahead of their use; 0: no prefetch
  int64_t max_live;         // stage 3: most elements gathered at once by prefetching and keeping; 0: no limit
  int64_t
      max_reuse_distance;  // stage 3: a tensor used again after at most so many elements of others stays gathered
  int64_t reduce_bucket;  // elements whose reductions may be under way while the backward pass goes on
  zg_dtype reduce_type;   // f32, bf16, f16
  bool overlap;           // communication on a stream of its own
  zg_space
      offload_optimizer;  // where optimizer states and master copies rest (stages 1-3); ZG_SPACE_DEVICE: not offloaded
  double offload_ratio;    // part of their bytes that does
  zg_space offload_param;  // where shards of parameters rest (stage 3)
  const char *disk_path;   // folder for what rests on disk
  zg_zero_cost cost;       // zeros: defaults for a CPU
} zg_zero_options;
zg_zero_options zg_zero_defaults(void);  // DeepSpeed's defaults; stage 2, one rank

// One tensor of the model in the partition map.
typedef struct {
  const char *name;
  zg_type type;      // whole
  int64_t n, shard;  // elements; elements of a shard, ceil(n / ranks that it is cut over)
  zg_param_role role;
  bool sharded;        // at rest this rank has its shard alone
  uint32_t buf, grad;  // buffers at rest; 0: none
} zg_zero_part;

typedef struct zg_zero zg_zero;
// ZG_INVALID for a stage above 3, a rank outside of the world, offload that the stage does not have, groups that do not divide the
// ranks, or below stage 3.
zg_status zg_zero_new(const zg_zero_options *o, zg_zero **out);
void zg_zero_free(zg_zero *z);  // NULL ok
const zg_zero_options *zg_zero_options_of(const zg_zero *z);
// The passes, for zg_pipeline_options.spread; z must outlive the pipeline's run.
zg_spread zg_zero_spread(zg_zero *z);

// The partition map, filled by the passes. Borrowed.
const zg_zero_part *zg_zero_parts(const zg_zero *z, uint32_t *n);
const zg_zero_part *zg_zero_find(const zg_zero *z, const char *param);  // NULL: no such tensor
// Where a persistent buffer of the schedule (a tensor of the model, "PARAM.m" and other states) lies in its whole tensor.
typedef struct {
  const char *name;          // of the whole tensor, as a checkpoint names it
  zg_type type;              // of the whole tensor
  int64_t lo, hi;            // elements that this rank answers for (writes to checkpoints)
  int64_t have_lo, have_hi;  // elements that the buffer holds; element have_lo is its first
} zg_zero_range;
// false: the buffer is no part of the model's state (inputs, gradients, "@..." scalars). z NULL: one rank, all whole.
bool zg_zero_range_of(const zg_zero *z, const zg_sched *s, uint32_t buf, zg_zero_range *out);

// ---- what a schedule sends ----------------------------------------------------------------------------------------------
typedef struct {
  uint64_t all_reduce, reduce_scatter, gather, broadcast;  // bytes that this rank sends
  uint64_t scalars;  // of these: norm, loss and stop, not part of the table's formula
  uint64_t n_collectives;
} zg_zero_traffic;
// Of one update: k micro-steps and the update. All-reduce of n elements: 2 (N - 1) / N n; the others (N - 1) / N of the whole.
zg_zero_traffic zg_zero_traffic_of(const zg_zero *z, const zg_sched *s);

// The table's formulas, from the partition map alone (tests compare them with what the schedule has).
typedef struct {
  uint64_t params, grads, master, optimizer;  // bytes at rest on every rank
  uint64_t sent;                              // bytes per update, without scalars and broadcasts
} zg_zero_formula;
zg_zero_formula zg_zero_formula_of(const zg_zero *z, const zg_sched *s);
// Bytes of the persistent buffers by role, all spaces.
void zg_zero_at_rest(const zg_sched *s, uint64_t by_role[ZG_N_BUF_ROLES]);
