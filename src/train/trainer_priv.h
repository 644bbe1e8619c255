// Shared by trainer.c, trainer_checkpoint.c and profile.c.
#pragma once
#include "train/loss_scale.h"
#include "train/metrics.h"
#include "train/session.h"
#include "train/trainer.h"

// Results of an update that has been given to the device and not yet been settled.
typedef struct {
  bool open;
  ZG_VEC(zg_later) losses;              // of the micro-steps
  zg_later loss, stopped, grad_norm;    // loss, stopped: of several ranks
  uint64_t step, samples;               // updates done with it, position in the data behind it
  double lr, loss_scale;
} pending_update;

typedef struct {
  const zg_config *cfg;
  const zg_train_options *o;
  zg_session *s;
  zg_metrics *metrics;  // rank 0 alone
  zg_exec_stats stats;
  uint32_t rank, world;
  uint64_t step, total, samples;  // updates done, updates of the run, position in the data
  int64_t micro_steps;
  uint64_t units_per_update;    // tokens or samples, all ranks
  uint64_t samples_per_update;  // rows of the batches, for the result
  double loss, eval_loss, eval_accuracy, grad_norm, seconds, first_s;
  uint64_t first_step, profiled_from;
  uint64_t sent;    // bytes by this rank in the last update
  pending_update pending, spare;  // spare: memory of the one before
  double settled_at;  // when the last update's results were there (zg_time_s)
  zg_loss_scale scale;
  bool stop;         // asked to end early; the same on all ranks
  char *checkpoint;  // the last one written (rank 0)
} trainer;

// --profile: collects times from now on; prints them when the run has ended.
void zg__profile_begin(trainer *t);
void zg__profile_skip_first(trainer *t);   // to be called after each update
zg_status zg__profile_print(const trainer *t);
// Writes the state: every rank its own byte ranges. Returns when it is committed (rank 0) or left (others).
zg_status zg__trainer_save(trainer *t);
// Sets step, position and buffers from the checkpoint that the options ask for; nothing if "auto" finds none.
zg_status zg__trainer_resume(trainer *t);
// Rank 0: the model with the weights of the checkpoint written last, for ranks that have shards alone.
zg_status zg__trainer_export(trainer *t, const char *path);
