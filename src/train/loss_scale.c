// A step that overflows is skipped by the graph itself (zg_opt_spec.scaled); here is what becomes of the scale:
//   overflow   hysteresis > 1: it counts down; else the scale halves, down to min_loss_scale
//   good       after loss_scale_window good steps in a row the scale doubles, and the hysteresis is whole again
//              (with consecutive_hysteresis: after any good step)
// A fixed scale never changes; its overflows are skipped as well.
#include "train/loss_scale.h"
#include <math.h>

bool zg_loss_scale_used(const zg_config *cfg) { return cfg->mixed_precision == ZG_CFG_MIXED_FP16; }

static bool is_fixed(const zg_config *cfg) { return cfg->fp16.loss_scale > 0; }

zg_loss_scale zg_loss_scale_start(const zg_config *cfg) {
  if (!zg_loss_scale_used(cfg)) return (zg_loss_scale){.scale = 1};
  const double scale = is_fixed(cfg) ? cfg->fp16.loss_scale : ldexp(1, (int)cfg->fp16.initial_scale_power);
  return (zg_loss_scale){.scale = scale, .hysteresis = (uint64_t)cfg->fp16.hysteresis};
}

static zg_status overflow(const zg_config *cfg, zg_loss_scale *s) {
  s->good = 0;
  s->skipped++;
  if (is_fixed(cfg)) return NULL;
  if (s->hysteresis > 1) {
    s->hysteresis--;
    return NULL;
  }
  if (s->scale <= cfg->fp16.min_loss_scale)
    return zg_error(ZG_INVALID, "gradients overflow at the smallest loss scale, fp16.min_loss_scale %g: lower optimizer.lr, or use bf16",
                    cfg->fp16.min_loss_scale);
  s->scale = fmax(s->scale / 2, cfg->fp16.min_loss_scale);
  return NULL;
}

zg_status zg_loss_scale_step(const zg_config *cfg, bool overflowed, zg_loss_scale *s) {
  if (!zg_loss_scale_used(cfg)) return NULL;
  if (overflowed) return overflow(cfg, s);
  s->good++;
  if (is_fixed(cfg)) return NULL;
  const bool due = s->good % (uint64_t)cfg->fp16.loss_scale_window == 0;
  if (due || cfg->fp16.consecutive_hysteresis) s->hysteresis = (uint64_t)cfg->fp16.hysteresis;
  if (due) s->scale *= 2;
  return NULL;
}
