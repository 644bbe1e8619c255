// Runs kernels: every thread of a block is a fiber; blocks run one after the other.
#pragma once
#include "emu.h"
#include "kernel_ctx.h"

typedef struct {
  const char *name;
  void (*run)(const void *args, void *ctx);  // of the compiled module: zg_emu_run_NAME or NAME__thunk
  char *dyn;                                 // its zg_emu_dyn; its static shared memory
  char *shared, *shared_end;
  zg_emu_dim grid, block;
  unsigned dyn_bytes;
} zg_emu_launch;

// The context that compiled modules read; one per process, since kernels run one at a time.
extern zg_emu_ctx zg_emu_context;

enum { ZG_EMU_THREADS_MAX = 1024 };
// 0, or the CUresult of what went wrong (700 illegal address, 719 launch failed), with a message printed.
// Order -1: ZG_EMU_ORDER's; 0 forward, 1 reversed, 2 random.
int zg_emu_run(const zg_emu_launch *l, const void *args, int order);
void zg_emu_reseed_threads(uint64_t seed);
