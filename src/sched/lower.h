// Lowering: a core graph becomes one segment of a schedule.
#pragma once
#include "graph/graph.h"
#include "sched/sched.h"

// Appends a segment that runs graph g (ZG_PROP_CORE). Leaves become persistent buffers, shared by name with segments lowered
// before; scalar maps and reductions are fused into loop kernels; views cost nothing where strides can express them. Values
// that two segments share must be leaves. Results of g are added to s->outputs. g is not needed afterwards.
zg_status zg_lower_graph(zg_sched *s, const zg_graph *g, const char *segment);
