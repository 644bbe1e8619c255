// Shared by pipeline.c (the passes) and choose.c (which of several plans the passes shall make).
#pragma once
#include "sched/pipeline.h"

// Copies a graph; `results`: with the model's own outputs.
zg_status zg__copy_graph(const zg_graph *g, bool results, zg_graph **out);
// d loss of the backward pass: the mean over micro-steps and ranks.
double zg__loss_seed(const zg_pipeline *p);
// Plans on trial: runs on q what follows the pass `after` in p's pipeline, but for the choices themselves. Graphs that q lacks are
// copied from p. place: with offsets and arena_bytes; else lower_bound alone is set. zg_pipeline_fini(q) in either case.
zg_status zg__pipeline_try(const zg_pipeline *p, const char *after, zg_pipeline *q, bool place);

// Fill p->loss_chunk, p->recompute from the options and from plans on trial. ZG_OUT_OF_MEMORY: no choice fits the budget.
zg_status zg__choose_loss_chunk(zg_pipeline *p);
zg_status zg__choose_recompute(zg_pipeline *p);
