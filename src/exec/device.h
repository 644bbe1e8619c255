// What runs schedules. A device owns memory arenas and knows how to run each kernel kind; the step loop (exec.h) walks a
// segment and calls it.
#pragma once
#include "exec/comm.h"
#include "sched/loop.h"
#include "sched/sched.h"

typedef struct zg_device zg_device;
typedef struct { const char *name; uint64_t memory_bytes; int threads; char text[160]; } zg_device_info;

// A compiled schedule on a device: kernels prepared, arenas allocated, constants loaded.
typedef struct zg_program zg_program;

typedef struct {
  const char *name;                                                  // "cpu", "null", "cuda"
  zg_status (*open)(int threads, zg_device **out);                   // threads 0: all cores; ZG_NOT_FOUND where there is no device
  void (*close)(zg_device *d);
  void (*info)(const zg_device *d, zg_device_info *out);
  // Bytes of scratch a kernel wants on this device; asked before plan_memory, which gives it a workspace buffer.
  zg_status (*workspace)(zg_device *d, const zg_sched *s, const zg_kernel *k, uint64_t *out_bytes);
  // Allocates the arenas (exactly s->arena_bytes, zeroed) and prepares every kernel. s is borrowed until program_free.
  zg_status (*prepare)(zg_device *d, const zg_sched *s, zg_program **out);
  void (*program_free)(zg_program *p);
  zg_status (*run_kernel)(zg_program *p, uint32_t kernel, zg_rand_state r);
  zg_status (*write)(zg_program *p, uint32_t buf, uint64_t at, const void *src, uint64_t n_bytes);   // host -> buffer
  zg_status (*read)(zg_program *p, uint32_t buf, uint64_t at, void *dst, uint64_t n_bytes);          // buffer -> host
  // Where a buffer is, if the device computes in host memory; any thread may use it. NULL for no memory at all (null
  // device); the member is NULL for devices whose memory the host cannot address.
  void *(*host_ptr)(const zg_program *p, uint32_t buf);
  // For devices without host_ptr: where a buffer is for the device, and a collective over such addresses (op->data, op->shard), put behind
  // the work given before. comm brings the ranks together. Members NULL: the device runs on one rank only.
  void *(*device_ptr)(const zg_program *p, uint32_t buf);
  zg_status (*collective)(zg_program *p, zg_comm *comm, const zg_comm_op *op);
  uint64_t (*allocated)(const zg_program *p);                        // bytes of all arenas really allocated
} zg_device_vtable;
extern const zg_device_vtable zg_device_cpu, zg_device_null;
struct zg_device { const zg_device_vtable *vt; };
typedef struct zg_streams zg_streams;                                // exec/exec.h: zg_exec_attach
struct zg_program { zg_device *device; const zg_sched *sched; zg_streams *streams; };
