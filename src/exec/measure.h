// What a device really reaches: its own kernels on sizes that show its limits.
#pragma once
#include "exec/device.h"
#include "sched/device_model.h"

// Measures flops_f32 and flops_16 (a matrix product of 1024 x 1024 x 1024 in f32 and in bf16), bytes_per_s (y = y + a x over tensors of
// 256 MiB, 64 where memory is scarce: a cache of 32 MiB still shows in 128; bytes read and written), launch_s (a loop kernel of one
// element) and memory; the other members are those of the known device "cpu". Best of several runs, about a second, and 512 MiB for its
// duration. ZG_UNSUPPORTED for devices that queue work.
zg_status zg_device_measure(zg_device *d, zg_device_model *out);
