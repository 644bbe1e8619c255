#include "comm_cases.h"
#include <stdio.h>
#include <stdlib.h>

// What rank r contributes at element i of case k: mixed magnitudes, so that the order of a sum shows in its bits.
static double value(uint32_t k, uint32_t r, uint64_t i, bool integer) {
  const uint32_t counter[4] = {(uint32_t)i, r, k, 0}, key[2] = {11, 5};
  uint32_t w[4];
  zg_philox(counter, key, w);
  if (integer) return (double)(int32_t)w[0];
  return ((double)w[0] * 0x1p-31 - 1) * (w[1] & 3 ? 1 : 1000);
}

static bool integer(zg_dtype t) { return t == ZG_I32 || t == ZG_I64; }

static void fill(zg_dtype t, void *data, uint32_t k, uint32_t r, uint64_t n) {
  for (uint64_t i = 0; i < n; i++) {
    if (integer(t)) zg_set_i64(t, data, (int64_t)i, (int64_t)value(k, r, i, true) % 100000);
    else zg_set_f64(t, data, (int64_t)i, value(k, r, i, false));
  }
}

// The plain loop: sums over the members in order; half types in f32.
static void plain_sum(zg_dtype t, void *dst, uint32_t k, const zg_comm_group *g, uint64_t n) {
  const uint64_t size = zg_dtype_bytes(t);
  uint8_t *x = zg_alloc(n * size + 1);
  double *acc = zg_alloc((n + 1) * sizeof *acc);
  for (uint32_t m = 0; m < g->size; m++) {
    fill(t, x, k, g->base + m * g->stride, n);
    for (uint64_t i = 0; i < n; i++) {
      const double v = integer(t) ? (double)zg_get_i64(t, x, (int64_t)i) : zg_get_f64(t, x, (int64_t)i);
      acc[i] = m == 0 ? v : t == ZG_F64 || integer(t) ? acc[i] + v : (double)((float)acc[i] + (float)v);
    }
  }
  for (uint64_t i = 0; i < n; i++) {
    if (integer(t)) zg_set_i64(t, dst, (int64_t)i, (int64_t)acc[i]);
    else zg_set_f64(t, dst, (int64_t)i, acc[i]);
  }
  zg_free(acc);
  zg_free(x);
}

typedef struct { zg_comm *c; uint32_t k, group; zg_dtype t; uint64_t n; uint64_t digest; } context;

static zg_status same(const context *x, const char *what, const void *got, const void *want, uint64_t n) {
  const uint64_t size = zg_dtype_bytes(x->t);
  for (uint64_t i = 0; i < n * size; i++)
    if (((const uint8_t *)got)[i] != ((const uint8_t *)want)[i])
      return zg_error(ZG_INTERNAL, "%s of %llu %s, group %x, rank %u of %u: element %llu is %.9g, want %.9g", what, (unsigned long long)x->n,
                      zg_dtype_name(x->t), x->group, x->c->rank, x->c->world, (unsigned long long)(i / size),
                      zg_get_f64(x->t, got, (int64_t)(i / size)), zg_get_f64(x->t, want, (int64_t)(i / size)));
  return NULL;
}

static zg_status case_all_reduce(context *x) {
  zg_comm_group g;
  zg_status status = NULL;
  const uint64_t bytes = x->n * zg_dtype_bytes(x->t);
  uint8_t *data = zg_alloc(bytes + 1), *want = zg_alloc(bytes + 1);
  ZG_TRY_OUT(zg_comm_group_of(x->c, x->group, &g));
  fill(x->t, data, x->k, x->c->rank, x->n);
  plain_sum(x->t, want, x->k, &g, x->n);
  ZG_TRY_OUT(zg_comm_all_reduce(x->c, x->group, x->t, data, x->n, "all_reduce case"));
  status = same(x, "all_reduce", data, want, x->n);
  if (!x->group) x->digest = zg_hash(data, bytes, x->digest);
out:
  zg_free(data);
  zg_free(want);
  return status;
}

// n elements cut in parts that need not divide them; in_place: the shard is the part itself.
static zg_status case_parts(context *x, bool in_place) {
  zg_comm_group g;
  zg_status status = NULL;
  ZG_TRY(zg_comm_group_of(x->c, x->group, &g));
  const uint64_t size = zg_dtype_bytes(x->t), n = (x->n + g.size - 1) / g.size, bytes = n * g.size * size;
  const uint64_t mine = g.index * n >= x->n ? 0 : ZG_MIN(n, x->n - g.index * n);
  uint8_t *data = zg_alloc(bytes + 1), *want = zg_alloc(bytes + 1), *own = zg_alloc(n * size + 1);
  uint8_t *shard = in_place ? data + g.index * n * size : own;
  fill(x->t, data, x->k, x->c->rank, x->n);
  memset(own, 0xff, n * size);
  plain_sum(x->t, want, x->k, &g, x->n);
  ZG_TRY_OUT(zg_comm_reduce_scatter(x->c, x->group, x->t, shard, data, n, x->n, "reduce_scatter case"));
  ZG_TRY_OUT(same(x, "reduce_scatter", shard, want + g.index * n * size, n));   // behind the part `want` is 0 as well
  if (!in_place) memset(data, 0xee, bytes);
  ZG_TRY_OUT(zg_comm_all_gather(x->c, x->group, x->t, data, shard, n, x->n, "all_gather case"));
  ZG_TRY_OUT(same(x, "all_gather", data, want, x->n));
  if (!in_place && x->n < n * g.size && mine < n && data[x->n * size] != 0xee)
    status = zg_error(ZG_INTERNAL, "all_gather of %llu wrote behind its end", (unsigned long long)x->n);
  if (!x->group) x->digest = zg_hash(data, x->n * size, x->digest);
out:
  zg_free(data);
  zg_free(want);
  zg_free(own);
  return status;
}

static zg_status case_broadcast(context *x) {
  zg_comm_group g;
  zg_status status = NULL;
  const uint64_t bytes = x->n * zg_dtype_bytes(x->t);
  uint8_t *data = zg_alloc(bytes + 1), *want = zg_alloc(bytes + 1);
  ZG_TRY_OUT(zg_comm_group_of(x->c, x->group, &g));
  const uint32_t root = x->k % g.size;
  fill(x->t, data, x->k, x->c->rank, x->n);
  fill(x->t, want, x->k, g.base + root * g.stride, x->n);
  ZG_TRY_OUT(zg_comm_broadcast(x->c, x->group, x->t, data, x->n, root, "broadcast case"));
  status = same(x, "broadcast", data, want, x->n);
  if (!x->group) x->digest = zg_hash(data, bytes, x->digest);
out:
  zg_free(data);
  zg_free(want);
  return status;
}

static zg_status size_cases(context *x) {
  static const uint64_t sizes[] = {0, 1, 2, 3, 7, 64, 1000, 4097, 50001};
  for (size_t i = 0; i < ZG_COUNT(sizes); i++) {
    if (sizes[i] > 5000 && (x->t != ZG_F32 || x->group)) continue;
    x->n = sizes[i];
    x->k++;
    ZG_TRY(case_all_reduce(x));
    ZG_TRY(case_parts(x, false));
    ZG_TRY(case_parts(x, true));
    ZG_TRY(case_broadcast(x));
  }
  return zg_comm_barrier(x->c, "barrier case");
}

zg_status comm_cases(zg_comm *c, uint64_t *out_digest) {
  static const zg_dtype types[] = {ZG_F32, ZG_BF16, ZG_F16, ZG_F64, ZG_I32, ZG_I64};
  context x = {.c = c, .digest = 1};
  for (size_t t = 0; t < ZG_COUNT(types); t++) {
    x.t = types[t];
    x.group = 0;
    ZG_TRY(size_cases(&x));
  }
  x.t = ZG_F32;
  for (uint32_t g = 1; g <= c->world; g++) {
    if (c->world % g) continue;
    x.group = ZG_GROUP(g, 1);
    ZG_TRY(size_cases(&x));
    x.group = ZG_GROUP(c->world / g, g);
    ZG_TRY(size_cases(&x));
  }
  *out_digest = x.digest;
  return NULL;
}
