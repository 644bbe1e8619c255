// The step loop: runs segments of a prepared program, in the order of their steps, and nothing else.
#pragma once
#include "exec/device.h"

typedef struct {
  uint64_t steps_run;
  double kernel_s[ZG_N_KERNELS];         // filled only while profiling
  bool profile;
} zg_exec_stats;
zg_status zg_exec_run(zg_program *p, const char *segment, zg_rand_state r, zg_exec_stats *stats /* may be NULL */);
// Asks the device for workspaces, adds the buffers; call between lowering and plan_memory.
zg_status zg_exec_add_workspaces(zg_device *d, zg_sched *s);
