// Compiled loop kernels (ZG_JIT). Each phase of a prepared loop kernel becomes a C function over a run of
// elements; one call of the system's C compiler makes a shared object of all of a program's functions, in the
// background, while the interpreter runs.
//
// The functions do what loop_run.c does with tiles, to the last bit: the same scalar functions (vec_maps.def,
// vec_math.h), never contracted by the compiler, and sums in the same order over the same tiles. So it does
// not matter at which step they take over. Whatever fails (no compiler, no headers, a full disk, a compiler
// that hangs) is said at ZG_LOG=1 and changes nothing else.
#pragma once
#include "cpu/loop_priv.h"
#include "exec/device.h"

// n elements. p: what `binds` lists. x: where each INDEX walk begins. rand: key (2 words), step.
typedef void (*jit_fn)(int64_t n, void *const *p, const int64_t *x, const uint32_t *rand);

typedef enum {
  BIND_ARG,   // at = op (LOAD or STORE): the tensor's element where the run begins
  BIND_ROW,   // at = slot: the row's value (the run's first column's in the column form)
  BIND_TILE,  // at = slot: the value's home, for the run's first element
  BIND_ACC,   // at = accumulator: the row's total (the first column's total or part)
} jit_bind_kind;
typedef struct {
  uint8_t kind;
  uint32_t at;
} jit_bind;

enum { JIT_BINDS = 64, JIT_INDICES = 8 };
struct jit_phase {
  jit_fn fn;  // NULL: the phase has no element code
  char name[24];
  uint32_t n_bind, n_index;
  jit_bind bind[JIT_BINDS];
  uint32_t index[JIT_INDICES];  // ops
  bool by_row;                  // a run must not cross rows: reductions, or values that differ between rows
};

// Text of p's phases, as `void NAME(...) {...}` each, into `text` unless `seen` has the name already; p->jit
// is set. Returns false if p is left to the interpreter for good: it has functions that are not compiled, or
// views in pieces too short to pay.
bool zg__jit_emit(loop_prog *p, zg_str *text, zg_map *seen);
void zg__jit_prelude(zg_str *out);

typedef struct zg_jit zg_jit;
// Emits progs (borrowed until zg_jit_free; entries may be NULL) for the level of `vec`. If the cache has
// them, they are ready at once; else zg_jit_poll starts the compiler after a second of work. NULL if nothing
// is to be compiled or ZG_JIT is off. ZG_JIT=wait compiles here, for measurements.
zg_jit *zg_jit_new(loop_prog **progs, size_t n, const zg_vec *vec);
void zg_jit_poll(zg_jit *j);  // called at each kernel; cheap
void zg_jit_free(zg_jit *j);  // ends a compiler that still runs; NULL ok

// Runs phase `ph` over tiles t0 .. t1 of the block the frame stands in (loop_run.c).
void zg__jit_run_tiles(const loop_frame *f, const loop_phase *ph, int64_t t0, int64_t t1);

// How many of a cpu program's loop kernels run compiled by now, of how many.
void zg_cpu_compiled(const zg_program *p, uint32_t *out_compiled, uint32_t *out_loops);
