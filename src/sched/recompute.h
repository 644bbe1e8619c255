// opt_recompute: the backward pass computes some forward values again in place of keeping them.
#pragma once
#include "graph/graph.h"

// How much: `cheap` recomputes scalar maps alone; of the forward's blocks (cut where little crosses, each with at least
// 1/grain of what is kept), the first `blocks` are recomputed whole. The default {0} recomputes nothing.
typedef struct { bool cheap; uint32_t grain, blocks; } zg_recompute;
// g: core graph with loss and gradients. The results are those of g: each value is computed by the same ops from the same
// operands, and no sum over elements other than a matmul's is computed twice. Random numbers are drawn again equal: their
// counter is in the node.
zg_status zg_pass_opt_recompute(const zg_graph *g, const zg_recompute *how, zg_graph **out);
// Number of blocks that the grain gives.
uint32_t zg_recompute_blocks(const zg_graph *g, uint32_t grain);
