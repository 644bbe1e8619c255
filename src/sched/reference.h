// Plain executors of the kernel kinds, in double: the judge of every device. Slow on purpose.
#pragma once
#include "sched/loop.h"

// Runs k on base[buf], the first byte of each buffer. Fails (ZG_INVALID) naming kernel, index and limit where a gather or scatter
// index is out of range; what was written before stays. Integer tensors are computed in int64.
zg_status zg_kernel_reference(const zg_kernel *k, void *const *base, zg_rand_state r);

// Addressing shared by the executors of gather and scatter. For each position p of the indexed side (gather's out, scatter's
// updates) the data element is found at: outer(p) blocks, an index, inner(p).
typedef struct {
  int64_t batch;      // product of the leading dims that x and idx share (ND), or that precede the axis (TAKE, ELEMENTS)
  int64_t n_idx;      // index tuples per batch (TAKE: of the whole idx, repeated for every batch)
  int64_t inner;      // elements moved per index (ELEMENTS: 1)
  int64_t span;       // data elements per batch
  int64_t n_coord;    // coordinates of a tuple
  int64_t limit[ZG_MAX_RANK], stride[ZG_MAX_RANK];   // of each coordinate, in data elements
} zg_gather_plan;
// TAKE and ND. data: the gathered-from or scattered-into tensor. ELEMENTS uses zg_gather_elements_plan.
zg_gather_plan zg_gather_make_plan(const zg_gather_desc *d, const zg_view *data, const zg_view *idx);
// The place in data of flat position p of an ELEMENTS index tensor whose index along the axis is 0, and the axis' stride.
int64_t zg_gather_elements_at(const zg_gather_desc *d, const zg_view *data, const zg_view *idx, int64_t p);
