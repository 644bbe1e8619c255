// Between data.c and the formats. A format is one file and one const struct; adding one adds a line to data.c's table.
#pragma once
#include "train/data.h"

// type: of one sample, or of the whole batch in a data set with `whole`; dtype is the natural one.
typedef struct { const char *name; zg_type type, batch; } zg__data_array;

typedef struct zg__data_format {
  const char *name, *help;
  // Whether this is the format of a file that begins with `head` (up to 4096 bytes; n = 0: a folder); NULL: never by auto.
  bool (*claims)(const char *path, zg_bytes head);
  // Fills arrays (zg__data_add), n_samples, impl. On failure close is called, with what impl is by then.
  zg_status (*open)(zg_data *d);
  // Writes one sample of one array as `to`; dst need not be aligned beyond `to`.
  zg_status (*read)(zg_data *d, size_t array, uint64_t sample, zg_dtype to, void *dst);
  void (*close)(zg_data *d);
} zg__data_format;

struct zg_data {
  zg_arena mem;
  zg_data_options o;
  const zg__data_format *format;
  ZG_VEC(zg__data_array) arrays;
  uint64_t n_samples;          // 0: endless
  bool whole;                  // a sample is a whole batch
  void *impl;                  // of the format; from the arena or its own
  uint64_t touched;            // bytes of a mapped file's pages since they were given back last
};

// n bytes of a mapped file were read just now. Its pages count as this process's memory: they are given back every now and then, so that
// a data set takes little however long the run; the system's cache still has them.
void zg__data_touched(zg_data *d, zg_bytes map, uint64_t n);

void zg__data_add(zg_data *d, const char *name, zg_dtype dtype, uint32_t rank, const int64_t *dim);
bool zg__data_ends(const char *path, const char *ending);                // case-insensitive

extern const zg__data_format zg__data_text, zg__data_tokens, zg__data_npz, zg__data_npy, zg__data_batches, zg__data_idx,
    zg__data_csv, zg__data_random;
