// What a device really reaches: its own kernels on sizes that show its limits.
#pragma once
#include "exec/device.h"
#include "sched/device_model.h"

// Measures flops_f32 and flops_16 (a matrix product of 1024 x 1024 x 1024 in f32 and in bf16), bytes_per_s (three tensors of 64 MiB updated
// in place by a fourth; bytes read and written), launch_s (a loop kernel of one element) and memory; the other members are those of the
// known device "cpu". Best of several runs, about a second, and 256 MiB for its duration. ZG_UNSUPPORTED for devices that queue work.
zg_status zg_device_measure(zg_device *d, zg_device_model *out);
