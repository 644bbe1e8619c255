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
  uint32_t lacks;                                                    // bit k: no kernel of kind k, for which the passes have another form
                                                                     // (ZG_K_RECURRENT: graph/pass/lower_cells.c; no other kind may lack)
  bool (*channels_last)(const zg_device *d);                          // convolutions are fastest with channels last; NULL: no
  bool half_convs;   // mixed precision takes convolutions too (graph/pass/lower_half.c)
  zg_status (*open)(int threads, zg_device **out);                   // threads 0: all cores; ZG_NOT_FOUND where there is no device
  void (*close)(zg_device *d);
  void (*info)(const zg_device *d, zg_device_info *out);
  // Bytes of scratch a kernel wants on this device; asked before plan_memory, which gives it a workspace buffer.
  zg_status (*workspace)(zg_device *d, const zg_sched *s, const zg_kernel *k, uint64_t *out_bytes);
  // Bytes of the process's memory that `prepare` of s and running it will take beside the arenas: prepared kernels, the threads' scratch.
  // Measured by preparing one of each kind of kernel. NULL: not known.
  zg_status (*host_bytes)(zg_device *d, const zg_sched *s, uint64_t *out_bytes);
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
  // the work given before to the step's stream. comm brings the ranks together. Members NULL: the device runs on one rank only.
  void *(*device_ptr)(const zg_program *p, uint32_t buf);
  zg_status (*collective)(zg_program *p, const zg_step *s, zg_comm *comm, const zg_comm_op *op);
  // Devices that queue work and return at once; the members from here to `take` are there together or not at all. Without them a step is
  // done when its call returns, and the step loop gives each stream a thread.
  //   begin  before the steps of a segment. comm: NULL on one rank; borrowed until program_free, which waits for the device and may look
  //          after the other ranks. *replayed: the device has queued all steps itself, from a recording; none follow
  //   end    after them, or after the step that failed (`so_far`, taken over): the compute stream goes on when all streams have done the
  //          segment. *again: nothing has run yet, the device wants begin, all steps and end once more
  //   group  collectives up to `on` = false start together: they are neighbours on one stream and independent
  //   mark   RECORD and WAIT. A wait means the last record of its event
  //   copy   bytes a[to_at .. +n) <- b[from_at .. +n) of a COPY step, within both buffers
  //   fetch  asks for n <= 16 bytes of a result as it is when the work given so far is done; take waits for that alone. Tickets are taken
  //          once, in any order. What went wrong on the device meanwhile is take's (and read's) status.
  zg_status (*begin)(zg_program *p, const zg_segment *seg, zg_comm *comm, zg_rand_state r, bool *replayed);
  zg_status (*end)(zg_program *p, zg_status so_far, bool *again);
  zg_status (*group)(zg_program *p, bool on);
  zg_status (*mark)(zg_program *p, const zg_step *s);
  zg_status (*copy)(zg_program *p, const zg_step *s, uint64_t to_at, uint64_t from_at, uint64_t n);
  zg_status (*fetch)(zg_program *p, uint32_t buf, uint64_t at, uint64_t n, uint32_t *out_ticket);
  zg_status (*take)(zg_program *p, uint32_t ticket, void *dst);
  uint64_t (*allocated)(const zg_program *p);                        // bytes of all arenas really allocated
} zg_device_vtable;
extern const zg_device_vtable zg_device_cpu, zg_device_null;
struct zg_device { const zg_device_vtable *vt; };
typedef struct zg_streams zg_streams;                                // exec/exec.h: zg_exec_attach
typedef struct zg_poison zg_poison;                                  // exec/exec.h: zg_exec_poison
struct zg_program { zg_device *device; const zg_sched *sched; zg_streams *streams; zg_poison *poison; };

// For devices. ZG_INTERNAL where the schedule has no buffer `buf`, or bytes [at, at + n) are not within it.
zg_status zg_program_check_range(const zg_program *p, uint32_t buf, uint64_t at, uint64_t n);
// A file of `bytes` bytes for the disk space, without a name, gone with the process; *out_fd is yours. ZG_INVALID without a folder, ZG_IO
// where it cannot be made or the disk has no room.
zg_status zg_disk_open(const char *folder, uint64_t bytes, int *out_fd);
