// Loop kernels on CUDA: the space made simple, and the choice of form. Private to emit_loop*.c.
#pragma once
#include "cuda/emit.h"

typedef enum { ZG__AT_OUTER, ZG__AT_MID, ZG__AT_INNER, ZG__N_GROUPS } zg__group;

// The space after dims of one element are dropped and dims that all views and indices step through as one are
// merged. flat: no reductions and no row-level stores; all dims are inner then, and every value is of level
// ELEM.
typedef struct {
  const zg_kernel *k;
  const zg_loop_desc *d;
  bool flat;
  uint32_t rank, first[ZG__N_GROUPS + 1];        // dims of group g: first[g] .. first[g + 1]
  int64_t dim[ZG_MAX_RANK], size[ZG__N_GROUPS];  // size: product of the group's dims
  int64_t (*stride)[ZG_MAX_RANK];                // of each argument
  int64_t (*coef)[ZG_MAX_RANK];                  // of each index row
  uint32_t *phase, n_phases;                     // of the instructions (loop.h)
  bool *used;                                    // instructions that some store needs
  bool wide;                                     // offsets want 64 bits
  uint32_t vec;                                  // elements a thread takes along the last dim
} zg__space;

void zg__space_init(zg__space *s, const zg_kernel *k);
void zg__space_fini(zg__space *s);
bool zg__space_elem(const zg__space *s, const zg_inst *in);       // is it computed once per element?
// Does argument `arg` step by one along the last dim, with addresses that vectors of `vec` elements suit?
bool zg__space_vector(const zg__space *s, uint32_t arg, uint32_t vec);
// Marks what phase p computes per element, for its reductions and stores; and counts reductions and element
// stores of it.
uint32_t zg__space_need(const zg__space *s, uint32_t p, bool *need);

// ---- text: emit_loop_body.c
// ----------------------------------------------------------------------------------------------- Fields p0,
// p1 ... of the arguments used, rs of the random state.
void zg__loop_params(const zg__space *s, zg__draft *d);
// Index variables i0 .. of a group, from the linear index `from` ("row").
void zg__loop_indices(const zg__space *s, zg_str *out, zg__group g, const char *from);
// Row-level instructions of phase p that `want` marks (NULL: all used); not stores, not reductions.
void zg__loop_row_code(const zg__space *s, zg_str *out, uint32_t p, const bool *want);
void zg__loop_row_stores(const zg__space *s, zg_str *out, uint32_t p);
// The element code that need marks, for `vec` elements from the index variables on; reductions go into a0 ..
void zg__loop_elements(const zg__space *s, zg_str *out, uint32_t p, const bool *need, uint32_t vec);
const char *zg__loop_red_name(const zg_inst *in);        // "sum", "max"
void zg__loop_identity(zg_str *out, const zg_inst *in);  // the reduction's neutral element
