// Learning-rate schedules.
#include "train/lr.h"

#include <math.h>

typedef struct { double lr, floor; double t, warmup, total; } at;

static double decayed(const at *a, double f) { return a->floor + (a->lr - a->floor) * f; }

static double progress(const at *a) {
  double span = a->total - a->warmup;
  double q = span > 0 ? (a->t - a->warmup) / span : 1;
  return q < 0 ? 0 : q > 1 ? 1 : q;
}

static double wsd(const zg_config *c, const at *a) {
  // A tenth of the run decays unless decay_steps says otherwise.
  double decay = c->lr_scheduler.decay_steps == ZG_UNSET ? a->total / 10 : (double)c->lr_scheduler.decay_steps;
  double begin = c->lr_scheduler.stable_steps != ZG_UNSET ? a->warmup + (double)c->lr_scheduler.stable_steps : a->total - decay;
  if (a->t < begin || decay <= 0) return a->lr;
  return decayed(a, fmax(0, 1 - (a->t - begin) / decay));
}

// DeepSpeed counts its scheduler's iterations from 0 at the first update; warm-up is at least 2 steps.
static double deepspeed_gamma(const zg_config *c, const at *a) {
  double w = fmax(2, a->warmup);
  if (a->t >= w) return 1;
  return c->lr_scheduler.warmup_type == ZG_CFG_WARMUP_LOG ? log(a->t + 1) / log(w) : a->t / w;
}

static double deepspeed_warmup(const zg_config *c, const at *a, double gamma) {
  double lo = c->lr_scheduler.warmup_min_lr, hi = isnan(c->lr_scheduler.warmup_max_lr) ? a->lr : c->lr_scheduler.warmup_max_lr;
  return lo + (hi - lo) * gamma;
}

static double deepspeed_cosine(const zg_config *c, const at *a) {
  double w = fmax(2, a->warmup), lo = c->lr_scheduler.warmup_min_ratio, end = c->lr_scheduler.cos_min_ratio;
  if (a->t < w) return a->lr * (lo + (1 - lo) * deepspeed_gamma(c, a));
  double q = fmin(1, (a->t - w + 1) / fmax(1, a->total - w));
  return a->lr * (end + (1 - end) * (1 + cos(M_PI * q)) / 2);
}

double zg_lr_at(const zg_config *c, uint64_t step, uint64_t total_steps) {
  at a = {.lr = c->optimizer.lr, .t = (double)step};
  a.warmup = c->lr_scheduler.warmup_steps == ZG_UNSET ? 0 : (double)c->lr_scheduler.warmup_steps;
  a.total = c->lr_scheduler.total_steps == ZG_UNSET ? (double)total_steps : (double)c->lr_scheduler.total_steps;
  if (!isnan(c->lr_scheduler.min_lr)) a.floor = c->lr_scheduler.min_lr;
  else if (!isnan(c->lr_scheduler.min_lr_ratio)) a.floor = a.lr * c->lr_scheduler.min_lr_ratio;
  zg_cfg_lr_type type = c->lr_scheduler.type;
  bool plain = type == ZG_CFG_LR_CONSTANT || type == ZG_CFG_LR_LINEAR || type == ZG_CFG_LR_COSINE || type == ZG_CFG_LR_WSD;
  if (plain && a.t < a.warmup) return a.lr * a.t / a.warmup;
  switch (type) {
    case ZG_CFG_LR_CONSTANT: return a.lr;
    case ZG_CFG_LR_LINEAR: return decayed(&a, 1 - progress(&a));
    case ZG_CFG_LR_COSINE: return decayed(&a, (1 + cos(M_PI * progress(&a))) / 2);
    case ZG_CFG_LR_WSD: return wsd(c, &a);
    case ZG_CFG_LR_WARMUP: return deepspeed_warmup(c, &a, deepspeed_gamma(c, &a));
    case ZG_CFG_LR_WARMUP_DECAY: {
      double w = fmax(2, a.warmup);
      double gamma = a.t < w ? deepspeed_gamma(c, &a) : fmax(0, (a.total - a.t) / fmax(1, a.total - w));
      return deepspeed_warmup(c, &a, gamma);
    }
    case ZG_CFG_LR_WARMUP_COSINE: return deepspeed_cosine(c, &a);
  }
  return a.lr;
}
