// data: what a run learns from. A data set is a set of named arrays over samples; a batch is `batch_size` samples of each,
// written where the caller wants them and in the element type the caller wants.
//
// Order. The samples of epoch e are a permutation of all samples that depends on (seed, e) alone (or 0, 1, 2... without
// shuffle); the run sees epoch 0, 1, 2... one behind the other as one endless stream, no sample dropped between epochs.
// A position in the stream is one number: how many samples all ranks together have consumed. With `consumed` of them gone,
// rank r of n gets stream positions [consumed + r B, consumed + (r+1) B) and the next batch starts at consumed + n B. So a
// run resumes at a number, on any count of ranks, and the union of what the ranks see does not depend on their count.
//
// Formats (`format:`, and what `auto` goes by):
//   text     any file of bytes without zeros (.txt)     each byte is a token 0..255
//   tokens   llm.c's header (magic 20240520: uint16, 20240801: uint32), else .bin .u16 .uint16 (uint16), .u32 .uint32
//            Both give windows: sample i holds tokens[i L .. i L + L) as `tokens`: i64[L] and the ones after each,
//            [i L + 1 .. i L + L + 1), as `labels`: i64[L] (L = seq_len). Windows do not overlap; a rest shorter than
//            L + 1 at the end is not used. `labels` are shifted already: a loss with `shift: true` takes `tokens` as its
//            labels. There are also `attention_mask`: i64[L], all 1, and `position_ids`: i64[L], 0..L-1.
//   npz npy  by content; each array's leading dimension counts samples, the rest is a sample; arrays under their names
//   batches  never by auto: an .npz whose leading dimension counts batches, each slice being a ready batch of one rank's
//            micro-step; here a "sample" of the stream is one such slice, and batch_size is not used
//   idx      by content, also gzipped: MNIST's files. `images`: f32[1,H,W], value / 255 (an integer destination gets 0..255),
//            `labels`: i64[]. Labels come from `labels_path`, or the path with "images" as "labels" and "idx3" as "idx1";
//            a folder means its train-images-idx3-ubyte or .gz. Without labels there is `images` alone.
//   csv      .csv .tsv: numbers, ',' ';' or tab between, a header line if the first line holds a word. `features`: f32[C-1],
//            `labels`: i64[] when all are integers, else f32[]. The label column is `label_column`, or the one named label,
//            labels, target, class or y, or else the last.
//   random   never by auto: endless; standard normal floats, uniform integers, for benchmarks
#pragma once
#include "graph/type.h"

// One array of a `random` data set. type: of a whole batch, as the model input wants it; integers are uniform in [0, n_ints).
typedef struct { const char *name; zg_type type; int64_t n_ints; } zg_data_random;

typedef struct {
  const char *path;             // NULL for random
  const char *format;           // a name from above; NULL: auto
  int64_t batch_size;           // samples of a batch: per rank and micro-step
  int64_t seq_len;              // text, tokens
  bool shuffle;
  uint64_t seed;
  int rank, world;              // world 0 counts as 1
  const char *labels_path;      // idx; NULL: found as said above
  const char *label_column;     // csv; NULL: found as said above
  int token_bits;               // tokens without header: 16 or 32; 0: by extension
  const zg_data_random *random; // random; copied
  size_t n_random;
} zg_data_options;

typedef struct zg_data zg_data;

// Opens a data set (strings are copied). Large formats are mapped, not read: text, tokens, stored npz. ZG_INVALID,
// ZG_NOT_FOUND, ZG_CORRUPT, ZG_UNSUPPORTED; the message names file, array and line.
zg_status zg_data_open(const zg_data_options *options, zg_data **out);
void zg_data_close(zg_data *d);                              // NULL ok

const char *zg_data_format_name(const zg_data *d);           // what auto found
size_t zg_data_n_arrays(const zg_data *d);
const char *zg_data_name(const zg_data *d, size_t array);    // borrowed
int64_t zg_data_find(const zg_data *d, const char *name);    // index, or -1
// Type of the array in a batch: leading dimension batch_size (except batches and random: as they are), natural dtype.
const zg_type *zg_data_type(const zg_data *d, size_t array);

uint64_t zg_data_n_samples(const zg_data *d);                // of one epoch, all ranks together; 0: endless
// By how much one rank's batch advances the stream: batch_size; 1 for batches and random. `consumed` grows by this times
// the number of ranks per micro-step.
uint64_t zg_data_step_samples(const zg_data *d);
uint64_t zg_data_epoch(const zg_data *d, uint64_t consumed); // the epoch that position is in; 0 when endless
// Micro-steps of all ranks in `epochs` epochs, rounded down (0 when there are fewer samples than one batch of all ranks, which
// is warned of at open: the stream then wraps inside a batch); 0 when endless.
uint64_t zg_data_steps_in(const zg_data *d, double epochs);

// Where one array of a batch goes: `data` has room for zg_data_type's elements in `dtype`.
typedef struct { size_t array; zg_dtype dtype; void *data; } zg_data_dst;
// Writes this rank's batch at a stream position. Integers become floats and floats are cut to integers as zg_convert does.
// Not thread-safe per data set.
zg_status zg_data_batch(zg_data *d, uint64_t consumed, const zg_data_dst *dst, size_t n);

// Element i of the permutation of [0, n) that (seed, epoch) names; no memory. i < n. A Feistel network on the next power of
// four (8 rounds of Philox), walked until it lands inside (Black and Rogaway, CT-RSA 2002, section 3: cycle walking).
uint64_t zg_data_permute(uint64_t n, uint64_t seed, uint64_t epoch, uint64_t i);

// The names `format:` takes, with a line of help each; NULL at the end.
const char *zg_data_format_at(size_t i, const char **out_help);
