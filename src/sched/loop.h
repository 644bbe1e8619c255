// Loop kernels: the fused kernel. A small straight-line program over an iteration space.
//
// Space: dims d_0 .. d_{rank-1}, in three groups: the first n_outer are kept, the next n_mid are reduced ("column form"), the
// rest are inner. Two forms:
//   row form    (n_mid = 0): reductions run over all inner dims; a value at level ROW has one element per outer index, a
//               value at level ELEM one per index. Code after a reduction may use its result at level ELEM again, and reduce
//               again: softmax, norms, cross-entropy. Each use of a reduction by ELEM code begins a new phase over the row.
//   column form (n_mid > 0): reductions run over the mid dims; level ROW means one element per (outer, inner) index; ELEM code
//               does not depend on reductions. ROW code after them may (scale, accumulate).
// Without reductions the form is row form with n_outer = rank's split chosen for locality (devices may re-split).
//
// Views of arguments have the space's rank; at level ROW the strides along reduced dims are 0. Arithmetic is done in the
// computing class of the instruction: f32 for f32/bf16/f16 tensors, f64, or 64-bit integers (ints and bool). Loads convert
// from the argument's dtype, stores convert to it (bf16/f16 round to nearest even; floats to ints truncate; to bool: != 0).
#pragma once
#include "graph/scalar.h"
#include "sched/sched.h"

typedef enum { ZG_CLS_F32, ZG_CLS_F64, ZG_CLS_INT } zg_cls;
static inline zg_cls zg_cls_of(zg_dtype t) { return t == ZG_F64 ? ZG_CLS_F64 : zg_dtype_is_float(t) ? ZG_CLS_F32 : ZG_CLS_INT; }
typedef enum { ZG_LEVEL_ROW, ZG_LEVEL_ELEM } zg_level;

typedef enum {
  ZG_I_LOAD,      // a = argument
  ZG_I_CONST,     // imm; level ROW
  ZG_I_INDEX,     // linear function of the indices: imm + sum coef_d * i_d, coef = desc->index[a]; class INT
  ZG_I_RANDOM,    // uniform [0,1) (scalar = 0) or standard normal (1) drawn for element number INDEX value a; stream in imm
  ZG_I_MAP,       // scalar(a, b, c), operands already of class `cls`; comparisons: operands of class `in_cls`, result INT;
                  // where: a of class INT
  ZG_I_CAST,      // a (class in_cls) to class cls; to = dtype whose rounding/wrapping it takes (bf16, i8, bool ...)
  ZG_I_REDUCE,    // red over a (ELEM) -> ROW; sums accumulate at least in f32 pairwise by tiles
  ZG_I_STORE,     // a = value, b = argument; `level` is the store's: a value of level ROW stored at ELEM is repeated. Stores
                  // come after every other instruction, and no instruction reads what a store of the kernel has written
} zg_inst_kind;

typedef struct {
  uint8_t kind, cls, in_cls, level;   // zg_inst_kind, zg_cls, zg_cls, zg_level
  uint8_t red;                        // zg_red of REDUCE
  uint8_t to;                         // zg_dtype of CAST
  uint16_t scalar;                    // zg_scalar of MAP
  uint32_t a, b, c;                   // instruction numbers (operands), or arguments
  double imm;                         // exact for |integers| < 2^53
} zg_inst;                            // instruction i defines value i; operands precede it

typedef struct {
  uint32_t rank, n_outer, n_mid;
  int64_t dim[ZG_MAX_RANK];
  uint32_t n_inst;
  const zg_inst *inst;
  uint32_t n_index;
  const int64_t (*index)[ZG_MAX_RANK];   // coefficient rows of INDEX instructions
} zg_loop_desc;

// The instructions whose values `in` reads: fills the first of ops, returns how many.
uint32_t zg_inst_operands(const zg_inst *in, uint32_t ops[3]);
// Structure shared by the executors: for each instruction the phase (number of reductions in sequence before it, row form).
// n phases = 1 + largest. `phase` has n_inst entries.
uint32_t zg_loop_phases(const zg_loop_desc *d, uint32_t *phase);
// Text used in dumps and parsed back: "space 32,768 outer 1 mid 0 { 0 = load 1; 1 = gelu 0; store 0 -> 0 }".
void zg_loop_print(const void *desc, zg_str *out);
zg_status zg_loop_parse(const char *text, zg_arena *a, void **desc);
zg_status zg_loop_verify(const zg_kernel *k);
// The plain executor, in double (integers in int64): reference for every device. base[buf] = pointer to each buffer's bytes;
// seed: 2 words of the step's Philox key and the step counter.
typedef struct { uint32_t key[2]; uint32_t step; } zg_rand_state;
void zg_loop_reference(const zg_kernel *k, void *const *base, zg_rand_state r);
// The number that a RANDOM instruction draws, by Philox4x32-10 of counter {n low, n high, step, stream} under the key.
// Uniform: n = element / 4; the top 24 bits of word element % 4, times 2^-24. Normal: n = element; Box-Muller of u = (top 24 bits of
// word 0 + 1) 2^-24 and v = those of word 1: sqrt(-2 log u) cos(2 pi v). Devices draw the same uniform bit for bit, the same normal to float accuracy.
double zg_loop_random(zg_rand_state r, uint32_t stream, uint64_t element, bool normal);
// May output `out` take the memory of input `in` (argument numbers) when that dies here? Both must be the same window, the
// store must come in the last phase that reads the input's elements, and no store may read the input directly.
bool zg_loop_may_alias(const zg_kernel *k, uint32_t out, uint32_t in);
