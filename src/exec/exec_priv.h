// Between the step loop (exec.c) and the streams (streams.c).
#pragma once
#include "exec/exec.h"

// Does what one step says, on the calling thread. stats may be NULL.
zg_status zg__exec_step(zg_program *p, const zg_step *s, zg_comm *comm, zg_rand_state r, zg_exec_stats *stats);
// Queues a segment on a device that has `begin`. comm: NULL on one rank. stats may be NULL.
zg_status zg__exec_queue(zg_program *p, const zg_segment *seg, zg_comm *comm, zg_rand_state r, zg_exec_stats *stats);
// What a RELEASE step (index in the schedule) does under zg_exec_poison; and its end.
zg_status zg__poison_release(zg_program *p, uint32_t step);
void zg__poison_free(zg_program *p);
// Runs a segment of a program that has streams.
zg_status zg__streams_run(zg_streams *st, const zg_segment *seg, zg_rand_state r, zg_exec_stats *stats);
