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

typedef struct {
  const zg_kernel *k;
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
