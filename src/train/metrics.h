// metrics: what a run says while it trains. Three places get the same numbers: OUTPUT/metrics.jsonl (one JSON object a line),
// OUTPUT/events.out.tfevents.* (TensorBoard), and lines for a person: one progress line kept up to date on a terminal, plain
// lines elsewhere. Rank 0 alone makes one. Not thread-safe.
#pragma once
#include "base/base.h"
#include <stdio.h>

typedef struct zg_metrics zg_metrics;

typedef struct {
  const char *dir;             // made if needed; NULL: no files
  bool resume;                 // go on behind resume_step: rows of later steps are removed; else an earlier metrics.jsonl is
  uint64_t resume_step;        //   kept as metrics.jsonl.old
  uint64_t total_steps;        // 0: unknown, then no time left is shown
  uint64_t log_every;          // steps between plain lines; the first and the last step always get one; 0: none
  const char *unit;            // of zg_metrics_row.units: "tokens", "samples"; must outlive the metrics
  FILE *out;                   // for the lines; NULL: none
} zg_metrics_options;

// One update. NaN: no such number.
typedef struct {
  uint64_t step;               // 1 for the first update
  double loss, lr, grad_norm;
  double loss_scale;           // fp16; NaN otherwise
  double epoch;                // as a fraction
  uint64_t units;              // tokens or samples of this update, all ranks
  uint64_t samples;            // samples of this update where the unit is another; 0: none to tell
  uint64_t memory_bytes;       // in use on the device of this rank; 0: the process's resident bytes
  double seconds;              // this update took; 0: since the row before (or since open)
} zg_metrics_row;

// ZG_IO with the file's name.
zg_status zg_metrics_open(const zg_metrics_options *options, zg_metrics **out);
// Rows {"step":, "loss":, "lr":, "grad_norm":, "loss_scale":, "epoch":, "UNIT_per_s":, "seconds":, "memory_bytes":,
// "samples_per_s": (where UNIT is another), "time":},
// a number that is not there or not finite as null; TensorBoard tags train/loss, train/lr, ... Flushed to the system at once.
zg_status zg_metrics_step(zg_metrics *m, const zg_metrics_row *row);
// Any other numbers of a step, e.g. "eval/loss"; the names are keys and tags as they are.
typedef struct { const char *name; double value; } zg_metric;
zg_status zg_metrics_put(zg_metrics *m, uint64_t step, const zg_metric *values, size_t n);
// A line of text above the progress line ("saved out/step-00000500").
void zg_metrics_note(zg_metrics *m, const char *fmt, ...) ZG_PRINTF(2, 3);
zg_status zg_metrics_close(zg_metrics *m);                    // NULL ok; ends the progress line, frees (also when it fails)

// The text of the progress line, without colours: "step 20/100  loss 3.2145  lr 3.00e-04  ...". per_s: units a second;
// left_s: seconds to the end, negative: unknown.
void zg__metrics_line(zg_str *out, const zg_metrics_options *o, const zg_metrics_row *row, double per_s, double left_s);
uint32_t zg__crc32c(const void *bytes, size_t n);             // Castagnoli; of "123456789": e3069283

// ---- TensorBoard event files --------------------------------------------------------------------------------------
typedef struct zg_events zg_events;
// Makes a new file in dir. first_step > 0: readers forget what older files of the folder have from that step on.
zg_status zg_events_open(const char *dir, uint64_t first_step, zg_events **out);
zg_status zg_events_put(zg_events *e, uint64_t step, const zg_metric *values, size_t n);
const char *zg_events_path(const zg_events *e);
zg_status zg_events_close(zg_events *e);                      // NULL ok
