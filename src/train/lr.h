// Learning-rate schedules. Pure: a rate is a function of the step, so a resumed run goes on exactly.
#pragma once
#include "train/config.h"

// Rate of update `step` (from 0); total_steps: of the whole run, for schedules whose configuration leaves it out.
//   constant, linear, cosine  during warm-up lr*t/warmup, then as PyTorch/Hugging Face; min_lr_ratio m: lr*(m + (1-m) f)
//   wsd                       warm-up, stable at lr, then linear to the minimum over decay_steps
//   warmup_lr, warmup_decay_lr, warmup_cosine_lr   DeepSpeed's (deepspeed/runtime/lr_schedules.py): log or linear warm-up
double zg_lr_at(const zg_config *cfg, uint64_t step, uint64_t total_steps);
