// npz, npy: arrays whose leading dimension counts samples. batches: whose leading dimension counts ready batches. Stored
// arrays stay in the mapped file; a slice is copied (and converted) when it is wanted.
#include "train/data_priv.h"
#include "train/npz.h"

typedef struct { zg_npz *file; uint8_t *line; } npz_set;      // line: an aligned copy of one slice

static zg_status open_npz(zg_data *d) {
  npz_set *s = d->impl = ZG_NEW(&d->mem, npz_set);
  ZG_TRY(zg_npz_open(d->o.path, &s->file));
  uint64_t line = 0;
  for (size_t i = 0; i < zg_npz_count(s->file); i++) {
    const zg_type *t = zg_npz_type(s->file, i);
    const char *name = zg_npz_name(s->file, i);
    if (!t->rank)
      return zg_error(ZG_INVALID, "%s: array \"%s\" is a scalar; the leading dimension of every array counts the %s", d->o.path,
                      name, d->whole ? "batches" : "samples");
    if (i && t->dim[0] != (int64_t)d->n_samples)
      return zg_error(ZG_INVALID, "%s: arrays \"%s\" %s and \"%s\" %s differ in the leading dimension, which counts the %s",
                      d->o.path, d->arrays.at[0].name, zg_type_text(zg_npz_type(s->file, 0)), name, zg_type_text(t),
                      d->whole ? "batches" : "samples");
    d->n_samples = (uint64_t)t->dim[0];
    zg__data_add(d, name, t->dtype, t->rank - 1, t->dim + 1);
    line = ZG_MAX(line, zg_type_bytes(&d->arrays.at[i].type));
  }
  s->line = zg_arena_alloc(&d->mem, (size_t)ZG_MAX(d->n_samples ? line : 0, 1u));
  return NULL;
}

static zg_status read_slice(zg_data *d, size_t array, uint64_t sample, zg_dtype to, void *dst) {
  npz_set *s = d->impl;
  const zg_type *t = &d->arrays.at[array].type;
  uint64_t n_bytes = zg_type_bytes(t);
  zg_bytes b;
  ZG_TRY(zg_npz_bytes(s->file, array, &b));
  const uint8_t *src = b.at + sample * n_bytes;
  if (to == t->dtype) {
    memcpy(dst, src, n_bytes);
  } else {
    if ((uintptr_t)src % zg_dtype_bytes(t->dtype)) src = memcpy(s->line, src, n_bytes);
    zg_convert(to, dst, t->dtype, src, zg_elems(t));
  }
  zg__data_touched(d, zg_npz_map(s->file), n_bytes);
  return NULL;
}

static void close_npz(zg_data *d) {
  npz_set *s = d->impl;
  if (s) zg_npz_close(s->file);
}

static bool claims_npz(const char *path, zg_bytes head) {
  (void)path;
  return head.n >= 4 && !memcmp(head.at, "PK\3\4", 4);
}

static bool claims_npy(const char *path, zg_bytes head) {
  (void)path;
  return head.n >= 6 && !memcmp(head.at, "\x93NUMPY", 6);
}

const zg__data_format zg__data_npz = { "npz", "arrays by input name; the leading dimension counts samples", claims_npz, open_npz,
                                       read_slice, close_npz };
const zg__data_format zg__data_npy = { "npy", "one array, named like the file; the leading dimension counts samples", claims_npy,
                                       open_npz, read_slice, close_npz };
const zg__data_format zg__data_batches = { "batches", "an npz whose leading dimension counts ready batches", NULL, open_npz,
                                           read_slice, close_npz };
