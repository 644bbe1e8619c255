// Shared by order.c and order_memory.c.
#pragma once
#include "sched/lower_priv.h"

// Dependences between groups in compressed rows: next[next_start[q] .. next_start[q+1]) come after q, prev before it.
// A pair may stand there more than once.
typedef struct { uint32_t *next_start, *next, *prev_start, *prev; } zg_low_dag;

// Rewrites l->order, a topological order of the dag, into another with a lower peak of live bytes. Needs update_done.
void zg__low_order_memory(zg_low *l, const zg_low_dag *dag);
