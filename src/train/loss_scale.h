// The scale of the loss in fp16 training (mixed_precision: fp16), as DeepSpeed's loss scalers keep it: a fixed one, or one that halves
// when gradients overflow and doubles after a while without (Micikevicius et al. 2018, "Mixed Precision Training", section 3.2).
#pragma once
#include "train/config.h"

typedef struct {
  double scale;          // the loss is multiplied by it in the backward pass; 1 where the run has no fp16
  uint64_t good;         // steps since the last overflow
  uint64_t hysteresis;   // overflows until the scale halves
  uint64_t skipped;      // steps that overflowed, and changed nothing, in all
} zg_loss_scale;

bool zg_loss_scale_used(const zg_config *cfg);
zg_loss_scale zg_loss_scale_start(const zg_config *cfg);
// After a step: overflowed, if the norm of its gradients is not finite. ZG_INVALID: the scale is at its minimum and overflows still.
zg_status zg_loss_scale_step(const zg_config *cfg, bool overflowed, zg_loss_scale *s);
