// Order, position and batches; the formats are in data_*.c.
#include "train/data.h"
#include "train/data_priv.h"
#include <ctype.h>
#include <stdio.h>
#include <strings.h>
#include <sys/stat.h>

// Asked in this order by auto: content first, then names, text last.
static const zg__data_format *const formats[] = {
  &zg__data_npz, &zg__data_npy, &zg__data_idx, &zg__data_tokens, &zg__data_csv, &zg__data_text,
  &zg__data_batches, &zg__data_random,
};

const char *zg_data_format_at(size_t i, const char **out_help) {
  if (i >= ZG_COUNT(formats)) return NULL;
  if (out_help) *out_help = formats[i]->help;
  return formats[i]->name;
}

// ---- order --------------------------------------------------------------------------------------------------------

uint64_t zg_data_permute(uint64_t n, uint64_t seed, uint64_t epoch, uint64_t i) {
  if (n < 2) return 0;
  int bits = 64 - __builtin_clzll(n - 1), half = (bits + 1) / 2;
  uint64_t mask = ((uint64_t)1 << half) - 1;
  const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
  do {
    uint64_t l = i >> half & mask, r = i & mask;
    for (uint32_t round = 0; round < 8; round++) {
      uint32_t out[4];
      zg_philox((uint32_t[4]){ (uint32_t)r, (uint32_t)epoch, (uint32_t)(epoch >> 32), 0x0da7a000u + round }, key, out);
      uint64_t t = l ^ (out[0] & mask);
      l = r;
      r = t;
    }
    i = l << half | r;
  } while (i >= n);
  return i;
}

uint64_t zg_data_epoch(const zg_data *d, uint64_t consumed) { return d->n_samples ? consumed / d->n_samples : 0; }

static uint64_t sample_at(const zg_data *d, uint64_t position) {
  if (!d->n_samples) return position;
  uint64_t i = position % d->n_samples;
  return d->o.shuffle ? zg_data_permute(d->n_samples, d->o.seed, position / d->n_samples, i) : i;
}

zg_status zg_data_batch(zg_data *d, uint64_t consumed, const zg_data_dst *dst, size_t n) {
  uint64_t step = zg_data_step_samples(d), first = consumed + step * (uint64_t)d->o.rank;
  for (uint64_t k = 0; k < step; k++) {
    uint64_t sample = sample_at(d, first + k);
    for (size_t i = 0; i < n; i++) {
      ZG_ASSERT(dst[i].array < d->arrays.n);
      uint64_t bytes = (uint64_t)zg_elems(&d->arrays.at[dst[i].array].type) * zg_dtype_bytes(dst[i].dtype);
      ZG_TRY(d->format->read(d, dst[i].array, sample, dst[i].dtype, (uint8_t *)dst[i].data + k * bytes));
    }
  }
  return NULL;
}

// ---- queries ------------------------------------------------------------------------------------------------------

const char *zg_data_format_name(const zg_data *d) { return d->format->name; }
size_t zg_data_n_arrays(const zg_data *d) { return d->arrays.n; }
const char *zg_data_name(const zg_data *d, size_t array) { return d->arrays.at[array].name; }
const zg_type *zg_data_type(const zg_data *d, size_t array) { return &d->arrays.at[array].batch; }
uint64_t zg_data_n_samples(const zg_data *d) { return d->n_samples; }
uint64_t zg_data_step_samples(const zg_data *d) { return d->whole ? 1 : (uint64_t)d->o.batch_size; }

uint64_t zg_data_steps_in(const zg_data *d, double epochs) {
  double per_step = (double)zg_data_step_samples(d) * (double)d->o.world;
  return (uint64_t)((double)d->n_samples * epochs / per_step + 1e-9);
}

int64_t zg_data_find(const zg_data *d, const char *name) {
  for (size_t i = 0; i < d->arrays.n; i++)
    if (!strcmp(d->arrays.at[i].name, name)) return (int64_t)i;
  return -1;
}

// ---- open ---------------------------------------------------------------------------------------------------------

void zg__data_touched(zg_data *d, zg_bytes map, uint64_t n) {
  enum { AROUND = 1 << 16, MOST = 1 << 18 };   // the system maps up to AROUND bytes at a touch
  d->touched += zg_round_up(n, AROUND);
  if (d->touched < MOST) return;
  zg_file_map_forget(map);
  d->touched = 0;
}

void zg__data_add(zg_data *d, const char *name, zg_dtype dtype, uint32_t rank, const int64_t *dim) {
  int64_t batch[ZG_MAX_RANK];
  zg__data_array a = { .name = zg_arena_str(&d->mem, name), .type = zg_type_make(dtype, rank, dim) };
  a.batch = a.type;
  if (!d->whole) {
    ZG_ASSERT(rank < ZG_MAX_RANK);
    batch[0] = d->o.batch_size;
    for (uint32_t i = 0; i < rank; i++) batch[i + 1] = dim[i];
    a.batch = zg_type_make(dtype, rank + 1, batch);
  }
  zg_vec_push(&d->arrays, a);
}

bool zg__data_ends(const char *path, const char *ending) {
  size_t n = strlen(path), k = strlen(ending);
  return n >= k && !strcasecmp(path + n - k, ending);
}

static void list_formats(zg_str *s) {
  for (size_t i = 0; i < ZG_COUNT(formats); i++) zg_str_add(s, "%s%s", i ? ", " : "", formats[i]->name);
}

static zg_status find_by_name(const char *name, const zg__data_format **out) {
  for (size_t i = 0; i < ZG_COUNT(formats); i++)
    if (!strcmp(formats[i]->name, name)) {
      *out = formats[i];
      return NULL;
    }
  zg_str s = { 0 };
  list_formats(&s);
  zg_status st = zg_error(ZG_INVALID, "data format \"%s\" is unknown; want auto, %s", name, s.at);
  zg_str_fini(&s);
  return st;
}

static zg_status find_by_content(const char *path, const zg__data_format **out) {
  uint8_t head[4096];
  struct stat st;
  zg_bytes b = { head, 0 };
  if (!stat(path, &st) && !S_ISDIR(st.st_mode)) {
    FILE *f = fopen(path, "rb");
    if (!f) return zg_error(ZG_IO, "%s: cannot open", path);
    b.n = fread(head, 1, sizeof head, f);
    fclose(f);
    if (!b.n) return zg_error(ZG_INVALID, "%s: the file is empty", path);
  }
  for (size_t i = 0; i < ZG_COUNT(formats); i++)
    if (formats[i]->claims && formats[i]->claims(path, b)) {
      *out = formats[i];
      return NULL;
    }
  zg_str s = { 0 };
  list_formats(&s);
  zg_status e = zg_error(ZG_INVALID, "%s: the data format is not clear from the file; set `format:` to one of %s", path, s.at);
  zg_str_fini(&s);
  return e;
}

zg_status zg_data_open(const zg_data_options *options, zg_data **out) {
  zg_data *d = zg_alloc(sizeof *d);
  zg_status status = NULL;
  zg_data_options *o = &d->o;
  *out = NULL;
  *o = *options;
  o->path = zg_arena_str(&d->mem, o->path);
  o->labels_path = zg_arena_str(&d->mem, o->labels_path);
  o->label_column = zg_arena_str(&d->mem, o->label_column);
  if (!o->world) o->world = 1;
  ZG_ASSERT(o->rank >= 0 && o->rank < o->world);
  const char *format = o->format && strcmp(o->format, "auto") ? o->format : NULL;
  if (format) ZG_TRY_OUT(find_by_name(format, &d->format));
  if (!o->path && d->format != &zg__data_random) {
    status = zg_error(ZG_INVALID, "a data set needs a `path:`");
    goto out;
  }
  if (o->path && !zg_file_exists(o->path)) ZG_TRY_OUT(zg_error(ZG_NOT_FOUND, "%s: no such data file", o->path));
  if (!format) ZG_TRY_OUT(find_by_content(o->path, &d->format));
  d->whole = d->format == &zg__data_batches || d->format == &zg__data_random;
  if (!d->whole && o->batch_size < 1)
    ZG_TRY_OUT(zg_error(ZG_INVALID, "%s: batch_size is %lld, want 1 or more", o->path, (long long)o->batch_size));
  o->format = d->format->name;
  ZG_TRY_OUT(d->format->open(d));
  if (!d->n_samples && d->format != &zg__data_random)
    ZG_TRY_OUT(zg_error(ZG_INVALID, "%s: no samples in it", o->path));
  uint64_t all_ranks = zg_data_step_samples(d) * (uint64_t)o->world;
  if (d->n_samples && d->n_samples < all_ranks)
    zg_warn("%s: %llu samples are fewer than the %llu of one batch of all ranks; some come twice in it", o->path,
            (unsigned long long)d->n_samples, (unsigned long long)all_ranks);
  *out = d;
  return NULL;
out:
  zg_data_close(d);
  return status;
}

void zg_data_close(zg_data *d) {
  if (!d) return;
  if (d->format && d->format->close) d->format->close(d);
  zg_vec_fini(&d->arrays);
  zg_arena_fini(&d->mem);
  zg_free(d);
}
