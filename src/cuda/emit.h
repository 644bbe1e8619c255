// From schedule kernels to text: what to compile, how to launch it. Needs no device and no CUDA library.
//
// Shapes and strides stand in the text as constants; addresses come as launch parameters. Equal work
// therefore gives equal text, and the text's hash is the function's name, so that all layers of a model share
// one compiled kernel.
#pragma once
#include "sched/loop.h"
#include "sched/sched.h"

typedef enum {
  ZG__P_ARG,     // address of argument `arg`'s view
  ZG__P_WORK,    // address of the kernel's workspace, plus `at` bytes
  ZG__P_RAND,    // address of the random state: key low, key high, step (u32)
  ZG__P_ERROR,   // address of the error record (dialect.cuh, zg_fail)
  ZG__P_NUMBER,  // number of the kernel in its schedule
} zg__param_kind;
typedef struct {
  uint8_t kind;
  uint32_t arg;
  uint64_t at;
} zg__param;                    // each 8 bytes in the parameter buffer
enum { ZG__MAX_PARAMS = 256 };  // CUDA takes 4 KiB

typedef struct {
  char name[24];     // "zg_" and the hash of the text
  const char *text;  // definition of the kernel, without the prologue; lives in the code's arena
  uint32_t grid[3], block, shared;
  uint32_t n_params;
  const zg__param *params;
} zg__launch;

// The launches that do one kernel, in order. Empty where there is nothing to do (no elements).
typedef struct {
  zg_arena mem;
  ZG_VEC(zg__launch) launches;
  uint64_t workspace;  // bytes of scratch that they share
} zg__code;
typedef struct {
  int sms;
} zg__target;  // multiprocessors: how far reductions are split

zg_status zg__emit(const zg_kernel *k, const zg__target *t, zg__code *out);
void zg__code_fini(zg__code *c);
// What stands in front of the kernels of a program: dialect and scalar functions. Static.
const char *zg__emit_prologue(void);

// ---- for the emitters
// --------------------------------------------------------------------------------------------------- A
// kernel being written: fields of its argument struct, the parameters that fill them, the body "{ ... }".
typedef struct {
  zg_str fields, body;
  ZG_VEC(zg__param) params;
} zg__draft;
void zg__draft_param(zg__draft *d, const char *type, const char *name,
                     zg__param p);  // field `type *name` (or `type name`: NUMBER)
void zg__draft_arg(zg__draft *d, const zg_kernel *k, uint32_t arg, bool is_const, const char *name);
// Ends the draft: names it, adds the launch, frees the draft's strings. A grid with a zero adds nothing.
zg_status zg__draft_launch(zg__draft *d, zg__code *out, uint64_t gx, uint64_t gy, uint32_t block,
                           uint32_t shared);

const char *zg__ctype(zg_dtype t);   // how the dialect stores it: "float", "zg_bf16", "unsigned char"
const char *zg__cls_type(zg_cls c);  // how it computes: "float", "double", "zg_i64"
char zg__cls_letter(zg_cls c);       // suffix of the dialect's helpers: f, d, i
void zg__put_load(zg_str *s, zg_dtype t, const char *fmt, ...)
    ZG_PRINTF(3, 4);  // stored element -> computing class
void zg__put_store(zg_str *s, zg_dtype t, const char *fmt, ...) ZG_PRINTF(3, 4);  // and back
void zg__put_const(zg_str *s, zg_cls c, double imm);
// "cast" of loop.h: a value of class `from`, given as text, rounded or wrapped through `to`, in `to`'s class.
void zg__put_cast(zg_str *s, zg_cls from, zg_dtype to, const char *value);
// A map of scalar.def on operands of class `in`.
void zg__put_map(zg_str *s, zg_scalar op, zg_cls in, zg_cls result, const char *const operands[3]);

zg_status zg__emit_loop(const zg_kernel *k, const zg__target *t, zg__code *out);
zg_status zg__emit_matmul(const zg_kernel *k, const zg__target *t, zg__code *out);
zg_status zg__emit_conv(const zg_kernel *k, const zg__target *t, zg__code *out);
bool zg__flash_takes(const zg_kernel *k);  // tensor cores can do this attention
zg_status zg__emit_flash(const zg_kernel *k, zg__code *out);
zg_status zg__emit_attention(const zg_kernel *k, zg__code *out);
zg_status zg__emit_pool(const zg_kernel *k, zg__code *out);
zg_status zg__emit_gather(const zg_kernel *k, zg__code *out);
zg_status zg__emit_scatter(const zg_kernel *k, zg__code *out);
zg_status zg__emit_scan(const zg_kernel *k, zg__code *out);
zg_status zg__emit_sort(const zg_kernel *k, zg__code *out);
