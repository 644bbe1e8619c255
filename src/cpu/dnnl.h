// oneDNN for the CPU device: matmul, convolution and pooling kernels as prepared operations. The library
// (major version 2) is opened at run time; zgraph links none of it and runs without it.
//
// An operation is made once, at plan time, from a schedule's kernel, and then run with raw pointers any
// number of times. It may be a chain: inputs brought to the layout the library likes best, the primitive
// itself, the result brought back. What lies between is scratch; its size is fixed at plan time, so the
// memory plan owns it, and zgraph allocates nothing in a run.
//
//   kernel               dtypes                                     library
//   MATMUL               f32 x f32 -> f32, bf16 x bf16 -> f32/bf16  dnnl_matmul; any strides
//   CONV, its GRAD_X, _W f32 (bf16 where the machine has it)        dnnl_convolution_direct, R = 1..3;
//                                                                   dnnl_convolution_winograd where it is faster
//   POOL, POOL_GRAD      f32 (bf16 where the machine has it)        dnnl_pooling_v2, R = 1..3
//
// https://oneapi-src.github.io/oneDNN/v2.6/ ("Primitives")
#pragma once
#include "sched/sched.h"

// Opens libdnnl.so.2 once per process; later calls return the first one's result. Thread-safe. ZG_NOT_FOUND:
// no such library, or built without its headers; ZG_UNSUPPORTED: a version other than 2.x or one that lacks a
// function.
zg_status zg_dnnl_load(void);
// The threads that the library runs on, for pools of this process. False: it has none that others can use (not loaded,
// or not built on OpenMP).
bool zg_dnnl_team(zg_team *out);
// "oneDNN 2.6.0, OpenMP"; "" before a successful zg_dnnl_load. Static.
const char *zg_dnnl_text(void);

typedef struct zg_dnnl_op zg_dnnl_op;

// Prepares kernel `k` to run on `threads` threads (>= 1) of OpenMP, the calling one included. Nothing of k is
// kept. Loads the library if need be. ZG_UNSUPPORTED: the kind, a dtype or a shape is none of the library's;
// the caller uses another kernel. Thread-safe. Free with zg_dnnl_free.
zg_status zg_dnnl_prepare(const zg_kernel *k, int threads, zg_dnnl_op **out);
// Bytes of scratch that each run needs; may be 0. Depends on the machine and the number of threads. op NULL:
// 0.
uint64_t zg_dnnl_scratch_bytes(const zg_dnnl_op *op);
// Runs the operation to its end. args[i]: address of element 0 of the kernel's argument i (its view's offset
// added in), in the kernel's order (outputs first). scratch: zg_dnnl_scratch_bytes, 64-byte aligned, contents
// undefined before and after; not overlapping any argument. One run of an op at a time; different ops may run
// on different threads at once.
zg_status zg_dnnl_run(zg_dnnl_op *op, void *const *args, void *scratch);
void zg_dnnl_free(zg_dnnl_op *op);  // NULL ok
