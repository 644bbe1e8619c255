// The training loop: micro-steps, updates, evaluation, metrics, checkpoints, resume, Ctrl-C.
#pragma once
#include "exec/comm.h"
#include "train/config.h"

typedef struct {
  const char *model_path;      // NULL: the configuration's
  const char *resume;          // NULL: from the start; "auto": the newest checkpoint of output_dir if there is one; or a folder
  bool quiet;                  // no lines on stdout
  bool profile;                // time by kernel kind at the end
  zg_comm *comm;               // this rank's; borrowed. NULL: one rank. Rank 0 prints, writes metrics and the model
} zg_train_options;

typedef struct {
  uint64_t steps;              // updates done in all
  double loss, eval_loss;      // last ones; NaN: none
  double samples_per_s;        // over the steps of this process, the first left out
  uint64_t planned_bytes, allocated_bytes, peak_bytes;   // of the plan's arenas, really allocated, the process (VmHWM)
  uint64_t bytes_sent;         // by this rank, all collectives
  char *model_path;            // the trained model; zg_free it. NULL if interrupted, and on ranks other than 0
  bool interrupted;            // by SIGINT or SIGTERM: a checkpoint was written
} zg_train_result;

// Trains as the configuration says and writes model.onnx into training.output_dir. ZG_CANCELLED is not an error here: see
// `interrupted`. With a communicator all ranks call it with equal configurations (compared at start); one that fails makes the
// others fail with a message that names it. Installs handlers for SIGINT and SIGTERM while it runs.
zg_status zg_train(const zg_config *cfg, const zg_train_options *o, zg_train_result *out);
