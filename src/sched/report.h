// What a planned schedule needs, for `zgraph plan`: memory by role, the moment of the peak, the largest tensors, the work.
#pragma once
#include "sched/sched.h"

// made: the step that makes it (of tensors at rest: 0); in_place: at the peak it lies in the place of another one of the list
typedef struct { uint32_t buf; uint64_t bytes; uint32_t made; bool in_place; } zg_report_buf;
typedef struct {
  uint64_t planned, lower_bound;                       // device arena
  uint64_t by_role[ZG_N_BUF_ROLES];                    // alive at the peak; buffers that share a place count once
  uint64_t persistent;                                 // parameters, states, inputs, constants
  uint32_t peak_step;                                  // index into steps
  ZG_VEC(zg_report_buf) alive;                         // at the peak, largest first
  uint32_t kernels[ZG_N_KERNELS];
  double flops, bytes_moved;                           // of all segments run once; bytes: every argument read or written once
} zg_report;
// The schedule must be planned. Free with zg_report_fini.
void zg_report_make(const zg_sched *s, zg_report *out);
void zg_report_fini(zg_report *r);
// What a step is called: its kernel's label, else the buffer it is about; "" for a record or wait.
const char *zg_step_label(const zg_sched *s, uint32_t step);
