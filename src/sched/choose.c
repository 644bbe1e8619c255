// Choices that only a plan can judge: is the loss computed in chunks, and what does the backward pass compute again? Each candidate
// is planned by the passes that follow. Candidates are compared by their lower bound, which needs no packing; one that shall fit a
// budget is packed too, for packing may end above the bound. Plans on trial make no choices of their own, so costs add up and do not
// multiply: two plans for the loss; for a budget two for each of six candidates, and two for each halving of the number of blocks.
#include "sched/pipeline_priv.h"

// ---- loss in chunks -----------------------------------------------------------------------------------------------

enum { MIN_ROWS = 256, MAX_ROWS = 1024, PARTS = 8, WORTH_PERCENT = 3 };

// Rows of a chunk. Each chunk reads and writes the weight's gradient once, 8 bytes for 2 * rows operations: from some hundred rows on
// that hides behind the arithmetic, the more rows the better.
static int64_t rows_of(const zg_linear_loss *l) {
  const int64_t rows = (l->rows / PARTS + 63) / 64 * 64;
  return ZG_MAX(MIN_ROWS, ZG_MIN(MAX_ROWS, rows));
}

// Without chunks the logits are there once (their gradient takes their place) while the activations are; with chunks the weight's
// gradient is, and one chunk.
static bool may_help(const zg_linear_loss *l, int64_t rows) { return l->rows > rows + l->width; }

static double seconds_of(const zg_pipeline *q) {
  zg_arena mem = {0};
  const zg_device_model *m = q->o.model ? q->o.model : zg_device_model_find("cpu");
  const double s = zg_predicted_length(q->sched, zg_predict_times(q->sched, m, &mem), NULL);
  zg_arena_fini(&mem);
  return s;
}

static zg_status bound_of(const zg_pipeline *p, int64_t rows, uint64_t *bytes, double *seconds) {
  zg_pipeline q = {0};
  zg_status status = NULL;
  if (rows) ZG_TRY_OUT(zg_pass_opt_loss_chunk(p->main, rows, zg__loss_seed(p), &q.main));
  if (rows && p->eval) ZG_TRY_OUT(zg_pass_opt_loss_chunk(p->eval, rows, 1, &q.eval));
  ZG_TRY_OUT(zg__pipeline_try(p, "opt_loss_chunk", &q, false));
  *bytes = q.sched->lower_bound[ZG_SPACE_DEVICE];
  *seconds = seconds_of(&q);
out:
  zg_pipeline_fini(&q);
  return status;
}

zg_status zg__choose_loss_chunk(zg_pipeline *p) {
  zg_loss_chunk_choice *c = &p->loss_chunk;
  if (p->o.optimizer.scaled) return NULL;   // its gradients are made before the loss scale is known, too small for f16
  if (!p->o.loss_chunk || !zg_find_linear_loss(p->main, &c->layer)) return NULL;
  if (p->o.loss_chunk > 0) {
    c->rows = p->o.loss_chunk;
    return NULL;
  }
  const int64_t rows = rows_of(&c->layer);
  if (!may_help(&c->layer, rows)) return NULL;
  ZG_TRY(bound_of(p, 0, &c->bytes_before, &c->seconds_before));
  ZG_TRY(bound_of(p, rows, &c->bytes, &c->seconds));
  const bool worth = c->bytes <= c->bytes_before / 100 * (100 - WORTH_PERCENT);
  const bool asked_for = p->o.budget && c->bytes_before > p->o.budget && c->bytes < c->bytes_before;
  if (worth || asked_for) c->rows = rows;
  zg_log(2, "loss in chunks of %lld of %lld rows: %.2f MiB in place of %.2f MiB%s", (long long)rows, (long long)c->layer.rows,
         (double)c->bytes / 0x1p20, (double)c->bytes_before / 0x1p20, c->rows ? "" : ", not taken");
  return NULL;
}

// ---- recomputation ------------------------------------------------------------------------------------------------

typedef struct { zg_pipeline *p; zg_recompute_choice best; uint64_t least; } fitting;

// What the passes that follow make of a choice. place: to the byte; else bytes is the bound.
static zg_status plan_choice(fitting *f, zg_recompute_choice *c, bool place) {
  zg_pipeline q = {0};
  zg_status status = NULL;
  if (c->how.cheap || c->how.blocks) ZG_TRY_OUT(zg_pass_opt_recompute(f->p->main, &c->how, &q.main));
  ZG_TRY_OUT(zg__pipeline_try(f->p, "opt_recompute", &q, place));
  c->bytes = place ? q.sched->arena_bytes[ZG_SPACE_DEVICE] : q.sched->lower_bound[ZG_SPACE_DEVICE];
  c->flops = 0;
  for (size_t i = 0; i < q.sched->kernels.n; i++) c->flops += q.sched->kernels.at[i].flops;
  c->seconds = seconds_of(&q);
  if (place) f->least = ZG_MIN(f->least, c->bytes);
  zg_log(2, "recompute: %s, %u of %u blocks: %s%.2f MiB", c->how.cheap ? "maps" : "nothing", c->how.blocks, c->n_blocks,
         place ? "" : "at least ", (double)c->bytes / 0x1p20);
out:
  zg_pipeline_fini(&q);
  return status;
}

static zg_status plan_if_bound_fits(fitting *f, zg_recompute_choice *c, bool *fits) {
  ZG_TRY(plan_choice(f, c, false));
  *fits = c->bytes <= f->p->o.budget;
  if (!*fits) return NULL;
  ZG_TRY(plan_choice(f, c, true));
  *fits = c->bytes <= f->p->o.budget;
  return NULL;
}

static zg_recompute_choice choice(const fitting *f, uint32_t grain, uint32_t blocks, uint32_t n_blocks) {
  return (zg_recompute_choice){.how = {true, grain, blocks}, .n_blocks = n_blocks, .bytes_before = f->best.bytes_before,
                               .flops_before = f->best.flops_before, .seconds_before = f->best.seconds_before};
}

// Fewest blocks of that grain that fit; the whole is known to fit.
static zg_status fewest_blocks(fitting *f, zg_recompute_choice whole) {
  uint32_t lo = 0, hi = whole.how.blocks;   // lo does not fit, hi does
  f->best = whole;
  while (hi - lo > 1) {
    zg_recompute_choice c = choice(f, whole.how.grain, lo + (hi - lo) / 2, whole.n_blocks);
    bool fits;
    ZG_TRY(plan_if_bound_fits(f, &c, &fits));
    if (fits) f->best = c, hi = c.how.blocks;
    else lo = c.how.blocks;
  }
  return NULL;
}

// Tries, from the cheapest to the dearest: nothing, maps, ever more blocks. FULL takes the whole grain of the lowest plan.
static zg_status choose(fitting *f) {
  static const uint32_t grains[] = {16, 32, 64, 8};
  const zg_pipeline_options *o = &f->p->o;
  bool full = o->recompute == ZG_RECOMPUTE_FULL, fits;
  zg_recompute_choice none = {0}, maps = {.how = {true, grains[0], 0}};
  ZG_TRY(plan_choice(f, &none, true));
  f->best = none;
  f->best.bytes_before = none.bytes, f->best.flops_before = none.flops, f->best.seconds_before = none.seconds;
  if (!full && none.bytes <= o->budget) return NULL;
  maps.bytes_before = none.bytes, maps.flops_before = none.flops, maps.seconds_before = none.seconds;
  if (!full) {
    ZG_TRY(plan_if_bound_fits(f, &maps, &fits));
    if (fits) {
      f->best = maps;
      return NULL;
    }
  }
  for (size_t i = 0; i < ZG_COUNT(grains); i++) {
    uint32_t n = zg_recompute_blocks(f->p->main, grains[i]);
    if (n < 2) continue;
    zg_recompute_choice whole = choice(f, grains[i], n, n);
    ZG_TRY(plan_choice(f, &whole, false));
    const bool first = full && !f->best.how.blocks;
    if (!first && whole.bytes >= (full ? f->best.bytes : f->least)) continue;   // its bound is above the lowest so far
    ZG_TRY(plan_choice(f, &whole, true));
    if (!full && whole.bytes <= o->budget) return fewest_blocks(f, whole);
    if (first || (full && whole.bytes < f->best.bytes)) f->best = whole;
  }
  if (full && (!o->budget || f->best.bytes <= o->budget)) return NULL;
  const uint64_t least = full ? f->best.bytes : f->least;
  return zg_error(ZG_OUT_OF_MEMORY, "memory.budget is %.1f MiB (%llu bytes); the step needs %.1f MiB, and with all that can be recomputed "
                  "%.1f MiB (%llu bytes): that is the smallest budget for this batch", (double)o->budget / 0x1p20,
                  (unsigned long long)o->budget, (double)none.bytes / 0x1p20, (double)least / 0x1p20, (unsigned long long)least);
}

zg_status zg__choose_recompute(zg_pipeline *p) {
  if (p->o.recompute == ZG_RECOMPUTE_NONE || (p->o.recompute == ZG_RECOMPUTE_AUTO && !p->o.budget)) return NULL;
  fitting f = {.p = p, .least = UINT64_MAX};
  ZG_TRY(choose(&f));
  p->recompute = f.best;
  return NULL;
}
