// The step loop: runs segments of a prepared program, in the order of their steps, and nothing else.
#pragma once
#include "exec/comm.h"
#include "exec/device.h"

typedef struct {
  uint64_t steps_run;
  double kernel_s[ZG_N_KERNELS];         // filled only while profiling
  double comm_s;                         // in collectives, on whichever thread (profiling)
  double wait_s;                         // compute steps held up by other streams and by collectives of their own (profiling)
  double run_s;                          // in zg_exec_run (profiling)
  // While profiling, of each kernel of the schedule: seconds and times run. The caller's arrays; NULL: not wanted.
  double *each_s;
  uint32_t *each_n;
  bool profile;
} zg_exec_stats;

// Gives a program its communicator (borrowed; NULL: none) and its streams: from now on steps of ZG_STREAM_COMM and ZG_STREAM_COPY
// run on threads of their own beside the compute steps, ordered by RECORD and WAIT; a segment ends when all its streams have.
// Collectives run one at a time in the order of the steps, whatever their stream, so every rank runs them in the same order.
// Without this call all steps run in order on the caller's thread, which is right for one rank. Devices that queue work (device.h: begin)
// need no threads: the caller queues all steps, in their order, each on its stream.
// ZG_INVALID: the schedule cannot run so (a wait without record, a kernel off the compute stream, the wrong number of ranks).
zg_status zg_exec_attach(zg_program *p, zg_comm *comm);
void zg_exec_detach(zg_program *p);      // before program_free; a program without streams is fine

// For tests: from now on RELEASE steps fill their buffer with bytes 0xff (NaN), as far as nothing alive has taken its place already; what
// reads it too late shows. Ended by zg_exec_detach.
void zg_exec_poison(zg_program *p);

// A step that fails stops all streams of this rank, and its communicator is aborted, so that the other ranks stop as well.
zg_status zg_exec_run(zg_program *p, const char *segment, zg_rand_state r, zg_exec_stats *stats /* may be NULL */);
// What a prepared kernel depends on: kind, attributes, the arguments' types and strides; not which buffers they are. Replaces `out`.
void zg_exec_kernel_key(const zg_kernel *k, zg_str *out);
// Asks the device for workspaces, adds the buffers; call between lowering and plan_memory.
zg_status zg_exec_add_workspaces(zg_device *d, zg_sched *s);
