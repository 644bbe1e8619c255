// Descriptions of devices that need not be here: what a plan's time is predicted from. Times are estimates: the larger of
// arithmetic and memory traffic of each kernel, plus its launch.
#pragma once
#include "sched/sched.h"

typedef struct {
  const char *name;
  uint64_t memory;                 // bytes; 0: not told
  double flops_f32, flops_16;      // per second that large matmuls reach; f32: with the tensor cores where there are (TF32)
  double bytes_per_s;              // of the device's memory
  double comm_bytes_per_s, comm_latency_s;   // one direction, to the other ranks of the node
  double copy_bytes_per_s;         // to and from host memory
  double launch_s;                 // per kernel
  // Ranks of one node (neighbours), and what each of them sends to other nodes. node_ranks 0: one network for all.
  double node_ranks, net_bytes_per_s, net_latency_s;
} zg_device_model;
// "h100-80g", "cpu", ...; NULL: none of that name. Sources: the vendors' data sheets, at 60 % of the dense
// peak; between nodes one 400 Gbit/s adapter a GPU (A100: 200, cards without NVLink: 100), 8 GPUs a node.
const zg_device_model *zg_device_model_find(const char *name);
const zg_device_model *zg_device_models(uint32_t *n);

typedef struct { double start, length; } zg_step_time;       // seconds
// Times of all steps, segment after segment, streams side by side as their events allow. Array of steps.n in `a`.
zg_step_time *zg_predict_times(const zg_sched *s, const zg_device_model *d, zg_arena *a);
// End of the last step of `segment`, from its start; NULL: of all.
double zg_predicted_length(const zg_sched *s, const zg_step_time *t, const zg_segment *segment);
