// Shared by the files of the lowering (analyse.c, fuse.c, order.c, emit.c, emit_loop.c). One zg_low per segment.
#pragma once
#include "graph/core.h"
#include "sched/loop.h"
#include "sched/lower.h"

// Where a value's elements are.
typedef enum {
  ZG_AT_NONE,       // dead
  ZG_AT_INLINE,     // constant, splat or index ramp: loops compute it; other kernels get it materialised
  ZG_AT_STORED,     // `view` on a buffer; for values of loop groups the buffer is made only if something outside reads it
} zg_low_at;

// What makes a value.
typedef enum { ZG_LOW_LEAF, ZG_LOW_VIEW, ZG_LOW_LOOP, ZG_LOW_KERNEL, ZG_LOW_PLACE } zg_low_class;   // PLACE: concat, unslice

typedef struct {
  zg_low_at at;
  zg_low_class cls;
  zg_view view;              // buf indexes zg_low.stores
  uint32_t root;             // value whose kernel writes the elements: itself, or what a view looks at
  bool direct;               // view that only adds or drops dims of size 1: dmap says which root dim each dim is
  int8_t dmap[ZG_MAX_RANK];  // -1: an added 1
  uint32_t group;            // group that makes it (root values of cls LOOP, KERNEL, PLACE)
  bool kept;                 // loop value that must be written to memory
} zg_low_val;

// A buffer to be; becomes a zg_buf when first used.
typedef struct { zg_type type; uint32_t buf, value; bool leaf; } zg_store;

// A unit of execution: a loop kernel made of several nodes, or one other node.
typedef struct {
  bool loop, dead;
  uint8_t phase;             // zg_phase
  uint32_t rank;             // loop: space and reduced axes (bit mask over dims); has_red: some member reduces
  int64_t dim[ZG_MAX_RANK];
  uint32_t red_mask;
  bool has_red, column;
  ZG_VEC(uint32_t) nodes;    // member nodes (indices into the graph), in topological order after fusion
  ZG_VEC(uint32_t) clones;   // nodes of other groups computed again here
  uint64_t *deps;            // bit set over groups: needs them done before (transitive)
  uint32_t order;            // sort key
} zg_group;

typedef struct {
  zg_sched *s;
  const zg_graph *g;
  const char *segment;
  zg_arena mem;              // scratch of this lowering
  bool *live;                // per value
  bool *node_live;           // per node
  uint32_t *uses;
  uint8_t *phase;            // per node
  zg_low_val *val;           // per value
  int8_t (*mmap)[ZG_MAX_RANK];   // per node of a loop group: own result dim -> dim of the group's space
  bool *after_red;           // per node: depends on a reduction of its own group
  bool *elem;                // per node: has level ELEM in its group
  ZG_VEC(zg_store) stores;   // stores.at[0] reserved
  ZG_VEC(zg_group) groups;   // groups.at[0] reserved
  uint32_t dep_words;
  ZG_VEC(uint32_t) order;    // groups in order of execution
  bool *update_done;         // per graph output: the update writes its leaf directly
} zg_low;

// lower.c
uint8_t *zg__find_phases(const zg_graph *g, zg_arena *mem);   // zg_phase per node
static inline bool zg__node_is_live(const zg_node *n, const bool *live) {
  bool any = false;
  for (uint32_t k = 0; k < n->n_out; k++) any = any || live[n->out + k];
  return any;
}
// analyse.c
zg_status zg__low_analyse(zg_low *l);                       // classes, views, stores
bool zg__low_inline_scalar(const zg_low *l, zg_val v, double *out);
uint32_t zg__low_store(zg_low *l, const zg_type *t, uint32_t value);
static inline zg_low_val *zg__low_root(const zg_low *l, zg_val v) { return &l->val[l->val[v.id].root]; }
// fuse.c
void zg__low_fuse(zg_low *l);                               // groups, clones, `kept`
bool zg__low_in_register(const zg_low *l, uint32_t group, zg_val v);   // the group computes (or clones) v's root itself
// order.c
zg_status zg__low_order(zg_low *l);                         // groups in order of execution; updates in place where safe
// emit.c, emit_loop.c
zg_status zg__low_emit(zg_low *l);
void zg__low_emit_loop(zg_low *l, uint32_t group);
uint32_t zg__low_buf(zg_low *l, uint32_t store);            // the schedule's buffer of a store, made on first use
zg_view zg__low_view(zg_low *l, zg_val v);                  // where v is, on the schedule's buffer
void zg__low_copy(zg_low *l, const zg_view *to, const zg_view *from, const char *label, uint8_t phase);
void zg__low_step(zg_low *l, const zg_kernel *k, size_t desc_bytes, uint8_t phase);
const char *zg__low_label(const zg_low *l, uint32_t node);
void zg__low_fill(zg_low *l, const zg_view *to, double value, const char *label, uint8_t phase);

// view.c: strided views (pure)
zg_view zg_view_row_major(const zg_type *t, uint32_t buf);
zg_view zg_view_make_channels_last(const zg_type *t, uint32_t buf);   // of rank 3 to 5, see zg_view_channels_last
bool zg_view_reshape(const zg_view *v, const zg_type *to, zg_view *out);   // false: strides cannot express it
zg_view zg_view_transpose(const zg_view *v, const int64_t *perm);
zg_view zg_view_expand(const zg_view *v, const zg_type *to);
zg_view zg_view_slice(const zg_view *v, const int64_t *start, const int64_t *step, const int64_t *size);
