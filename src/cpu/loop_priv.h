// Prepared loop kernels. A loop program becomes a list of operations on tiles, run block by block:
//
//   row form     block = `block_rows` rows of `width` elements.  width > tile: one row, cut in tiles;
//                                                                else: several whole rows in one tile
//   column form  block = `block_rows` neighbouring columns of one outer index, all `mid` steps;  a tile holds one or more steps
//
// In each of them the elements of a tile are neighbours in the row-major order of the space, and the row-level values of a block
// are neighbours in the row-major order of the kept dims. So a view is walked by a start and a length in its own, collapsed, dims.
//
// Blocks are cut into `splits` ranges of tiles where there are few of them. With reductions a cut block runs phase by phase: the
// splits leave partial results in the workspace, which are combined in order. How the work is cut depends on shapes alone, so
// results do not depend on the number of threads.
#pragma once
#include <stdatomic.h>
#include "cpu/vec.h"

enum { LOOP_TILE_MAX = 1024, LOOP_TILE_MIN = 128, LOOP_ROWS_MAX = 256 };   // rows: of the row form

// A linear walk of a view (or of an index function) over a row-major space: the fewest dims that describe it.
typedef struct { uint32_t rank; int64_t offset, dim[ZG_MAX_RANK], stride[ZG_MAX_RANK]; } loop_walk;

typedef enum {
  OP_LOAD,      // dst <- argument; points into the tensor where dtype and layout allow
  OP_CONST,     // dst <- imm
  OP_INDEX,     // dst <- walk over indices
  OP_RANDOM,    // dst <- draw for element a
  OP_MAP,       // dst <- fn(a, b, c)
  OP_CAST,      // dst <- a, converted and rounded
  OP_EXPAND,    // dst <- row-level a, one per element
  OP_REDUCE,    // accumulator `acc` <- fold of a
  OP_STORE,     // argument <- a
} loop_op_kind;

typedef struct {
  uint8_t kind, cls, in_cls, to, red;
  bool normal, copy;        // RANDOM: distribution; LOAD: never point into the tensor
  int32_t direct;           // MAP: the STORE op whose place in the tensor dst may be, or -1
  uint32_t op;              // zg_scalar and operand mask, for zg_vec_fn
  uint32_t dst, a, b, c;    // slots
  uint32_t walk;            // LOAD, STORE, INDEX
  uint32_t arg;             // LOAD, STORE
  uint32_t acc;             // REDUCE
  double imm;
  zg_vec_fn fn;
} loop_op;

// Where a value lives: `home` is an offset in the thread's scratch. Kept slots hold a whole row.
typedef struct { uint8_t size; bool row, kept, uniform, has_home; uint64_t home; } loop_slot;
typedef struct { uint8_t cls, red; uint32_t slot; uint64_t total, part; } loop_acc;   // offsets in scratch
typedef struct { uint32_t row, n_row, elem, n_elem, acc, n_acc; } loop_phase;         // ranges of ops and accumulators

typedef struct jit_phase jit_phase;   // cpu/jit.h

typedef struct {
  const zg_kernel *k;
  jit_phase *jit;         // per phase, or NULL; to be used once `compiled` is set
  atomic_bool compiled;
  bool column, single;    // single: one tile a block, values stay in registers over phases
  int64_t rows, width;                // row form: rows x width. column: rows = outer * inner, width = mid
  int64_t inner;                      // column form
  int64_t block_rows, n_blocks, tile, tiles, splits;   // tile: elements (row form), mid steps (column form)
  ZG_VEC(loop_op) ops;
  ZG_VEC(loop_slot) slots;
  ZG_VEC(loop_walk) walks;
  ZG_VEC(loop_acc) accs;
  ZG_VEC(loop_phase) phases;
  ZG_VEC(uint32_t) kept;              // slots that hold a whole row
  uint32_t n_once;                    // the first ops: they give uniform values
  uint64_t row_area, row_bytes;       // part of scratch that holds all row-level values
  uint64_t acc_area, acc_bytes;       // ... the totals of all accumulators
  uint64_t scratch_bytes;
  uint64_t workspace_bytes;
} loop_prog;

// Prepares k for these bodies. `bufs` tells which arguments share memory (offsets and bytes; before plan_memory, offsets are not
// known and only equal buffers count; the cut and the workspace do not depend on it).
zg_status zg_loop_prog_new(const zg_kernel *k, const zg_sched *s, const zg_vec *vec, loop_prog **out);
void zg_loop_prog_free(loop_prog *p);
// Runs on base[buf] with `scratch[thread]` of at least scratch_bytes, 64-byte aligned; slots[thread]: pointers, one per slot.
typedef struct { void *const *base; uint8_t *const *scratch; void **const *slots; uint8_t *workspace; zg_rand_state rand; } loop_run;
void zg_loop_prog_run(const loop_prog *p, const zg_vec *vec, zg_pool *pool, const loop_run *r);
uint32_t zg__loop_op_reads(const loop_op *o, uint32_t at[3]);   // the slots that o reads; returns their number

// ---- for loop_run.c and jit_run.c -----------------------------------------------------------------------------------
// One thread in one block of a kernel.
typedef struct {
  const loop_prog *p;
  const zg_vec *vec;
  const loop_run *r;
  uint8_t *scratch;
  void **ptr;               // where each slot's value lies now
  int64_t row0, n_rows;     // the block's row-level values
  bool skip_row_stores, compiled;
} loop_frame;

static inline uint8_t *zg__loop_tensor(const loop_frame *f, const loop_op *o, int64_t at) {
  const zg_view *v = &f->p->k->args[o->arg];
  return (uint8_t *)f->r->base[v->buf] + at * zg_dtype_bytes(v->dtype);
}

// A place in a walk. at: element offset; left: elements to the end of the last dim's run.
typedef struct { const loop_walk *w; int64_t at, left, idx[ZG_MAX_RANK]; } loop_cursor;

static inline void zg__loop_seek(loop_cursor *c, const loop_walk *w, int64_t i) {
  const uint32_t last = w->rank - 1;
  c->w = w;
  c->at = w->offset;
  for (uint32_t k = last; k > 0; k--) {
    c->idx[k] = i % w->dim[k];
    i /= w->dim[k];
    c->at += c->idx[k] * w->stride[k];
  }
  c->idx[0] = i;
  c->at += i * w->stride[0];
  c->left = w->dim[last] - c->idx[last];
}

// Goes on to the next run along the last dim.
static inline void zg__loop_next_run(loop_cursor *c) {
  const loop_walk *w = c->w;
  uint32_t k = w->rank - 1;
  c->at -= c->idx[k] * w->stride[k];
  c->idx[k] = 0;
  while (k-- > 0) {
    c->at += w->stride[k];
    if (++c->idx[k] < w->dim[k]) break;
    c->at -= w->dim[k] * w->stride[k];
    c->idx[k] = 0;
  }
  c->left = w->dim[w->rank - 1];
}
