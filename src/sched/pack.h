// Offline packing of intervals with sizes (dynamic storage allocation), the core of plan_memory.
#pragma once
#include "base/base.h"

typedef struct {
  uint64_t bytes;            // multiple of the alignment
  uint32_t first, last;      // alive in steps [first, last]
  uint64_t offset;           // result
} zg_pack_item;

// The largest sum of bytes alive at one step: no packing is lower.
uint64_t zg_pack_bound(const zg_pack_item *items, uint32_t n);
// Gives each item an offset such that no two that are alive together overlap. Returns the height. Deterministic (no clock, no
// address), so that all ranks find the same plan. Time O(n log n + n K), K = 2048.
uint64_t zg_pack(zg_pack_item *items, uint32_t n);
