// The emulator: four shared objects that stand in for libcuda, libnvrtc, libcublasLt and libnccl, on the CPU,
// for tests. This header is what the stand-ins share with one another and with tests of the emulator.
//
// What is emulated, and how hard it tries to break the program under test:
//   kernels   CUDA text is translated to C and compiled (translate.c); each thread of a block is a fiber
//   (fiber.c). Threads,
//             warps and blocks run in an order that ZG_EMU_ORDER picks. Shared memory is poisoned before each
//             block.
//   streams   calls only queue work. It runs when the host waits for something, and then in any order that
//   stream order and
//             events allow (queue.c): a missing wait shows as a wrong result for some seed.
//   memory    poisoned when allocated, fenced by inaccessible pages, made inaccessible when freed,
//   inaccessible to the host
//             (ZG_EMU_FENCE=0: off). An illegal access is a sticky error of the device, with a message.
// Variables: ZG_EMU_ORDER=forward|reverse|random, ZG_EMU_RACES=1 (each kernel runs in two orders, which must
// agree), ZG_EMU_SITES, ZG_EMU_SKIP (fiber.c), ZG_EMU_STREAMS=random|eager, ZG_EMU_SEED=n (default 1),
// ZG_EMU_CAPTURE=none|plain (graph.c), ZG_EMU_DEVICES=n (1), ZG_EMU_MEMORY=MiB per device (4096), ZG_EMU_STRICT=1 (leaks at exit end the process
// with status 66), ZG_EMU_CACHE=directory of compiled kernels, ZG_EMU_CC, ZG_EMU_CFLAGS,
// ZG_EMU_TIMEOUT=seconds without progress (60), ZG_EMU_NVRTC=path of the real NVRTC that must accept the text
// too.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ZG_EMU_API __attribute__((visibility("default")))

// ---- work of the other libraries on a stream (libcuda) ------------------------------------------------
typedef enum {
  ZG_EMU_DONE,
  ZG_EMU_MOVED,
  ZG_EMU_BUSY,
  ZG_EMU_FAILED
} zg_emu_result;  // MOVED: not done, but got on
// Runs, or goes on with, a piece of work. `state` is a copy of what was queued, fresh at each execution. It
// must not block: BUSY says that it waits for something outside. Called with device memory accessible.
typedef zg_emu_result (*zg_emu_work)(void *state);
// Queues work on a stream (or in the graph it is capturing). `name` must stay valid. Returns a CUresult.
ZG_EMU_API int zg_emu_enqueue(void *stream, const char *name, zg_emu_work work, const void *state,
                              size_t n_bytes);
// 0 where [p, p + n) is inside live memory of a device; otherwise a message is printed and a CUresult
// returned.
ZG_EMU_API int zg_emu_check_range(const void *p, size_t n_bytes, const char *what);
ZG_EMU_API int zg_emu_current_device(void);
// The last message that the emulator printed; "" at first. For tests.
ZG_EMU_API const char *zg_emu_last_message(void);
ZG_EMU_API void zg_emu_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
// Starts the random orders of threads and streams anew. For tests that try many.
ZG_EMU_API void zg_emu_reseed(uint64_t seed);
// Bytes and objects alive: device and pinned bytes, streams, events, modules, graphs.
typedef struct {
  uint64_t device_bytes, host_bytes;
  int streams, events, modules, graphs;
} zg_emu_alive;
ZG_EMU_API void zg_emu_count_alive(zg_emu_alive *out);

// ---- kernel text (translate.c, in libcuda and libnvrtc)
// -------------------------------------------------------------- What the stand-in for NVRTC gives as CUBIN:
// this line, then the text.
#define ZG_EMU_IMAGE "zgraph emulator kernel text 1\n"
// Compiles kernel text to a shared object in the cache. Returns its path, or NULL with the compiler's
// messages in *log; both are the caller's to free. defines: "-DA=1 ..." or "".
char *zg_emu_translate(const char *text, const char *name, const char *defines, char **log);

static inline uint64_t zg_emu_mix(uint64_t *state) {  // splitmix64
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}
static inline long zg_emu_env(const char *name, long fallback) {
  const char *v = getenv(name);
  return v && *v ? strtol(v, NULL, 10) : fallback;
}
