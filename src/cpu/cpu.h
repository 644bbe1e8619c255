// The rooms of the CPU device among themselves: what runs one kernel that is not a loop. Plain C over the pool; used where oneDNN
// is absent or does not take the dtypes, and always for the index kernels.
#pragma once
#include "cpu/vec.h"

typedef struct {
  const zg_kernel *k;
  void *const *base;             // address of each buffer
  zg_pool *pool;
  const zg_vec *vec;
  uint8_t *const *scratch;       // per thread, as asked for by cpu_scratch_bytes; 64-byte aligned
  uint8_t *workspace;            // as asked for by cpu_workspace_bytes
} cpu_call;

// Address of element `at` of argument a, its view's offset not added.
static inline uint8_t *cpu_at(const cpu_call *c, uint32_t a, int64_t at) {
  const zg_view *v = &c->k->args[a];
  return (uint8_t *)c->base[v->buf] + at * (int64_t)zg_dtype_bytes(v->dtype);
}
static inline int64_t cpu_product(const int64_t *dim, uint32_t from, uint32_t to) {
  int64_t n = 1;
  for (uint32_t i = from; i < to; i++) n *= dim[i];
  return n;
}

uint64_t cpu_matmul_scratch(const zg_kernel *k);
void cpu_matmul(const cpu_call *c);
// The three convolutions (c->k->kind tells), then the two poolings.
uint64_t cpu_conv_scratch(const zg_kernel *k);
void cpu_conv(const cpu_call *c);
uint64_t cpu_pool_scratch(const zg_kernel *k);
void cpu_pool(const cpu_call *c);
// Gather and scatter: ZG_INVALID naming kernel, index and limit where an index is out of range; nothing is read or written there.
zg_status cpu_gather(const cpu_call *c);
zg_status cpu_scatter(const cpu_call *c);
// Attention and its gradient (c->k->kind tells); fails only with out-of-memory.
uint64_t cpu_attention_scratch(const zg_kernel *k);
zg_status cpu_attention(const cpu_call *c);
// Recurrent layers and their gradient; the same.
uint64_t cpu_recurrent_scratch(const zg_kernel *k);
uint64_t cpu_recurrent_workspace(const zg_kernel *k);
zg_status cpu_recurrent(const cpu_call *c);
uint64_t cpu_sort_scratch(const zg_kernel *k);
void cpu_sort(const cpu_call *c);
void cpu_scan(const cpu_call *c);
