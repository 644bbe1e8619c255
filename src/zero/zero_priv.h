// Shared by the files of zero/.
#pragma once
#include "zero/zero.h"

struct zg_zero {
  zg_zero_options o;
  zg_arena mem;
  ZG_VEC(zg_zero_part) parts;
  zg_map by_name;
  // Bytes of shards gathered per micro-step: [0] for one pass, [1] for both, [2] second shards (formula of stage 3).
  uint64_t gathered[3];
};

// Names of the buffers that are not the model's.
#define ZG_ZERO_MINE "@sums"     // f32[3]: this rank's squared gradient norm (its shards), mean loss, "@stop"
#define ZG_ZERO_ALL "@sums.all"  // f32[N,3]: those of all ranks
enum { ZG_ZERO_COLUMNS = 3 };
#define ZG_ZERO_LOSS "@loss.sum"  // f32[]: losses of the micro-steps so far

// Ranks that a tensor is cut over, this rank's place among them, their group (sched.h), and how many such groups there are.
static inline uint32_t zg__cut(const zg_zero *z) { return z->o.shard_ranks ? z->o.shard_ranks : z->o.world; }
static inline uint32_t zg__place(const zg_zero *z) { return z->o.rank % zg__cut(z); }
static inline uint32_t zg__group(const zg_zero *z) { return zg__cut(z) == z->o.world ? 0 : ZG_GROUP(zg__cut(z), 1); }
static inline uint32_t zg__copies(const zg_zero *z) { return z->o.world / zg__cut(z); }
// Members of a collective.
static inline uint32_t zg__members(const zg_sched *s, const zg_step *p) { return p->group ? ZG_GROUP_SIZE(p->group) : s->world; }
static inline int64_t zg__zero_lo(const zg_zero *z, const zg_zero_part *p) { return p->shard * zg__place(z); }
static inline uint32_t zg__elem_bytes(const zg_zero_part *p) { return zg_dtype_bytes(p->type.dtype); }
static inline int64_t zg__padded(const zg_zero *z, const zg_zero_part *p) { return p->shard * zg__cut(z); }
// The optimizer works on this rank's shard of the tensor.
static inline bool zg__updates_shard(const zg_zero *z) { return z->o.stage >= 1; }
static inline bool zg__shards_grads(const zg_zero *z) { return z->o.stage >= 2; }

// Passes (pass names: zero_split, zero_partition, zero_reduce, zero_gather, zero_offload, zero_overlap).
zg_status zg__zero_split(void *self, zg_pipeline *p);
zg_status zg__zero_partition(void *self, zg_sched *s);
zg_status zg__zero_reduce(void *self, zg_sched *s);
zg_status zg__zero_gather(void *self, zg_sched *s);
zg_status zg__zero_offload(void *self, zg_sched *s);
zg_status zg__zero_overlap(void *self, zg_sched *s);

// ---- editing of schedules (edit.c) ----------------------------------------------------------------------------------------
// Collects steps to insert before or after steps of the schedule, then rebuilds it. Steps inserted at one place stay in the
// order in which they were asked for.
typedef struct {
  uint32_t at, seq;
  zg_step step;
} zg__insertion;
typedef struct {
  zg_sched *s;
  ZG_VEC(zg__insertion) list;
} zg__edit;
void zg__edit_before(zg__edit *e, uint32_t at, zg_step step);
void zg__edit_after(zg__edit *e, uint32_t at, zg_step step);
void zg__edit_drop(zg__edit *e, uint32_t at);  // the step itself goes
void zg__edit_apply(zg__edit *e);              // frees the list
bool zg__is_micro(const zg_segment *g);

// Kernels made here; each returns a step that runs it.
zg_view zg__flat(uint32_t buf, zg_dtype t, int64_t offset, int64_t n);
zg_step zg__fill_step(zg_sched *s, zg_view to, uint8_t phase, const char *label);  // zeros
zg_step zg__copy_step(zg_sched *s, zg_view to, zg_view from, uint8_t phase, const char *label);
// acc = (first_micro > 0 ? 0 : acc) + x
zg_step zg__accumulate_step(zg_sched *s, zg_view acc, zg_view x, uint32_t first_micro, uint8_t phase,
                            const char *label);

// cast.c: the steps of a segment that touch each buffer (kernels by their arguments, releases), in rows by buffer.
typedef struct {
  uint32_t *start, *step;
} zg__touches;
zg__touches zg__find_touches(const zg_sched *s, const zg_segment *g, zg_arena *mem);
// cast.c: the buffer that holds the tensor's shard as kernels of the segment read it, if they all round it first: their casts are
// dropped (marked in `dropped`, one a step of the schedule) and they address that buffer; else 0.
uint32_t zg__zero_cast_shard(zg__edit *e, const zg_segment *g, const zg__touches *touches, const zg_zero_part *p,
                             bool *dropped);
