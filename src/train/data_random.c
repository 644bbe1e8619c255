// Endless random batches for benchmarks: element e of array a at stream position p is Philox's at (e, a, p) with the seed as
// key, so it depends on neither rank nor order.
#include "train/data_priv.h"
#include <math.h>

static zg_status open_random(zg_data *d) {
  if (!d->o.n_random) return zg_error(ZG_INVALID, "random data: no model input to make data for");
  int64_t *n_ints = d->impl = ZG_NEW_N(&d->mem, int64_t, d->o.n_random);
  for (size_t i = 0; i < d->o.n_random; i++) {
    const zg_data_random *r = &d->o.random[i];
    n_ints[i] = ZG_MAX(r->n_ints, 1);
    zg__data_add(d, r->name, r->type.dtype, r->type.rank, r->type.dim);
  }
  return NULL;
}

static zg_status read_random(zg_data *d, size_t array, uint64_t sample, zg_dtype to, void *dst) {
  const int64_t *n_ints = d->impl;
  const zg_type *t = &d->arrays.at[array].type;
  const uint32_t key[2] = { (uint32_t)d->o.seed, (uint32_t)(d->o.seed >> 32) ^ 0x52414e44u };
  int64_t n = zg_elems(t);
  for (int64_t i = 0; i < n; i += 2) {
    uint32_t r[4];
    zg_philox((uint32_t[4]){ (uint32_t)(i / 2), (uint32_t)sample, (uint32_t)(sample >> 32), (uint32_t)array }, key, r);
    for (int k = 0; k < 2 && i + k < n; k++) {
      if (zg_dtype_is_float(t->dtype)) {
        double size = sqrt(-2 * log((r[0] + 1.0) / 4294967296.0)), turn = 2 * M_PI * (r[1] / 4294967296.0);
        zg_set_f64(to, dst, i + k, size * (k ? sin(turn) : cos(turn)));
      } else if (t->dtype == ZG_BOOL) {
        zg_set_i64(to, dst, i + k, r[2 * k] & 1);
      } else {
        uint64_t v = r[2 * k] | (uint64_t)r[2 * k + 1] << 32;
        zg_set_i64(to, dst, i + k, (int64_t)(v % (uint64_t)n_ints[array]));
      }
    }
  }
  return NULL;
}

const zg__data_format zg__data_random = { "random", "endless random values for benchmarks", NULL, open_random, read_random, NULL };
