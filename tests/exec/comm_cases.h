// Cases that every communication back end passes: the same collectives as a plain loop over the ranks, bit for bit.
#pragma once
#include "exec/comm.h"

// Runs all cases on this rank. *out_digest: hash of all results that every rank has alike (all_reduce, all_gather, broadcast).
// ZG_INTERNAL tells the first case that differs from the plain loop.
zg_status comm_cases(zg_comm *c, uint64_t *out_digest);
