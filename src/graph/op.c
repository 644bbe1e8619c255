// Look-up of ops and of ONNX rows in hashes built once from the family tables, and the shared inference helpers.
#include <pthread.h>
#include <stdio.h>

#include "graph/graph_priv.h"

static zg_map op_index, onnx_index;   // written once under pthread_once, then read-only
static pthread_once_t index_once = PTHREAD_ONCE_INIT;

// Rows of one ONNX name form a chain: next[i] is the row after i.
typedef struct { const zg_onnx_row *row; uint32_t next; } row_link;
static ZG_VEC(row_link) row_links;

static void onnx_key(char *out, size_t n, const char *op_type, const char *domain) {
  const bool standard = !domain || !*domain || strcmp(domain, "ai.onnx") == 0;
  snprintf(out, n, "%s:%s", standard ? "" : domain, op_type);
}

static void index_row(const zg_onnx_row *row) {
  char key[256];
  onnx_key(key, sizeof key, row->op_type, row->domain);
  uint64_t first = 0;
  zg_map_get(&onnx_index, key, &first);
  const row_link link = {row, (uint32_t)first};
  zg_vec_push(&row_links, link);
  zg_map_put(&onnx_index, key, row_links.n);   // 1-based
}

static void build_index(void) {
  for (uint32_t i = 0; zg_families[i]; i++) {
    const zg_family *f = zg_families[i];
    for (uint32_t k = 0; k < f->n_ops; k++) {
      if (!f->ops[k]) continue;
      const bool is_new = zg_map_put(&op_index, f->ops[k]->name, (uint64_t)(uintptr_t)f->ops[k]);
      ZG_ASSERT(is_new && "two ops have one dump name");
    }
    for (uint32_t k = f->n_onnx; k-- > 0;) index_row(&f->onnx[k]);
  }
}

const zg_op *zg_op_find(const char *dump_name) {
  pthread_once(&index_once, build_index);
  uint64_t p;
  return zg_map_get(&op_index, dump_name, &p) ? (const zg_op *)(uintptr_t)p : NULL;
}

const zg_onnx_row *zg_onnx_find(const char *op_type, const char *domain, int64_t opset) {
  pthread_once(&index_once, build_index);
  char key[256];
  onnx_key(key, sizeof key, op_type, domain);
  uint64_t i;
  if (!zg_map_get(&onnx_index, key, &i)) return NULL;
  for (; i; i = row_links.at[i - 1].next) {
    const zg_onnx_row *r = row_links.at[i - 1].row;
    if (opset >= r->since && (r->until == 0 || opset <= r->until)) return r;
  }
  return NULL;
}

// ---- inference helpers ----------------------------------------------------------------------------------------------
zg_status zg_infer_arity(const zg_infer *x, uint32_t min, uint32_t max) {
  if (x->n_in < min || x->n_in > max) {
    if (min == max) return zg_error(ZG_INVALID, "has %u operands, takes %u", x->n_in, min);
    if (max == UINT32_MAX) return zg_error(ZG_INVALID, "has %u operands, takes at least %u", x->n_in, min);
    return zg_error(ZG_INVALID, "has %u operands, takes %u to %u", x->n_in, min, max);
  }
  for (uint32_t i = 0; i < min; i++)
    if (!x->in[i]) return zg_error(ZG_INVALID, "operand %u is omitted, but needed", i);
  return NULL;
}

zg_status zg_infer_same(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, UINT32_MAX));
  for (uint32_t i = 0; i < x->n_out; i++) x->out[i] = *x->in[0];
  return NULL;
}

zg_status zg_infer_broadcast(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, UINT32_MAX));
  zg_type t = *x->in[0];
  for (uint32_t i = 1; i < x->n_in; i++) {
    if (!x->in[i]) return zg_error(ZG_INVALID, "operand %u is omitted, but needed", i);
    ZG_TRY(zg_type_broadcast(&t, x->in[i], &t));
  }
  for (uint32_t i = 0; i < x->n_out; i++) x->out[i] = t;
  return NULL;
}

zg_status zg_infer_compare(zg_infer *x) {
  ZG_TRY(zg_infer_broadcast(x));
  for (uint32_t i = 0; i < x->n_out; i++) x->out[i].dtype = ZG_BOOL;
  return NULL;
}
