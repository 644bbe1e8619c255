// What would fit a budget that the step does not: a smaller micro-batch with more accumulation, optimizer states in host memory, a higher
// ZeRO stage, more ranks. Each is really planned, with all that can be recomputed; nothing is said of what was not tried. Plans take the
// CPU's kernels, as those of `zgraph plan`: on another device, whose kernels' scratch differs, they may be off by that.
#include <stdio.h>

#include "train/session_priv.h"

enum { MAX_RANKS = 1024 };

typedef struct {
  const zg_session *failed;
  zg_config cfg;             // of the alternative: the session's, changed
  uint32_t world;
  zg_str found, missed;
} advice;

static advice fresh(const advice *a) {
  return (advice){.failed = a->failed, .cfg = *a->failed->cfg, .world = ZG_MAX(1u, a->failed->o.world), .found = a->found, .missed = a->missed};
}

// Plans a->cfg over a->world ranks. 0: it does not fit, or there is no such plan.
static uint64_t plan(const advice *a) {
  zg_session_options o = a->failed->o;
  o.no_device = o.no_advice = true;
  o.comm = NULL;
  o.rank = 0;
  o.world = a->world;
  zg_config cfg = a->cfg;
  cfg.memory.recompute = ZG_CFG_RECOMPUTE_FULL;
  zg_session *s;
  const bool muted = zg_warn_mute(true);   // what there is to warn of has been said of the configuration itself
  zg_status status = zg_session_open(&cfg, &o, &s);
  zg_warn_mute(muted);
  if (status) {
    zg_status_free(status);
    return 0;
  }
  const uint64_t bytes = zg_session_sched(s)->arena_bytes[ZG_SPACE_DEVICE];
  zg_session_close(s);
  return bytes <= (uint64_t)cfg.memory.budget ? bytes : 0;
}

static void tell(advice *a, uint64_t bytes, const char *what, const char *unless) {
  if (bytes) zg_str_add(&a->found, "\n  %s: %.1f MiB", what, (double)bytes / 0x1p20);
  else if (unless) zg_str_add(&a->missed, "%s%s", a->missed.n ? ", " : "", unless);
}

// ---- smaller micro-batches ----------------------------------------------------------------------------------------

// Symbol of the batch dimension that the configuration binds, or NULL.
static const char *batch_symbol(const zg_session *s) {
  uint32_t n;
  const zg_signature *in = zg_onnx_inputs(s->model, &n);
  return n && in[0].known && in[0].rank ? in[0].dim[0].symbol : NULL;
}

static int64_t batch_of(const advice *a, const char *symbol) {
  const zg_config *c = a->failed->cfg;
  if (c->data.train.batch_size != ZG_UNSET) return c->data.train.batch_size;
  for (size_t i = 0; symbol && i < c->dims.n; i++)
    if (!strcmp(c->dims.at[i].key, symbol)) return c->dims.at[i].value;
  return 0;
}

static void set_batch(advice *a, const char *symbol, int64_t batch, zg_arena *mem) {
  zg_config *c = &a->cfg;
  if (c->data.train.batch_size != ZG_UNSET) c->data.train.batch_size = batch;
  if (c->data.eval.batch_size != ZG_UNSET) c->data.eval.batch_size = ZG_MIN(c->data.eval.batch_size, batch);
  if (!symbol || !c->dims.n) return;
  c->dims.at = zg_arena_copy(mem, c->dims.at, sizeof *c->dims.at * c->dims.n);
  for (size_t i = 0; i < c->dims.n; i++)
    if (!strcmp(c->dims.at[i].key, symbol)) c->dims.at[i].value = batch;
}

static void try_batches(advice *a) {
  const char *symbol = batch_symbol(a->failed);
  const int64_t whole = batch_of(a, symbol), k = a->failed->cfg->training.gradient_accumulation_steps;
  if (whole < 2) {
    tell(a, 0, NULL, "a smaller batch (the file or the data fix it)");
    return;
  }
  zg_arena mem = {0};
  for (int64_t parts = 2; parts <= whole; parts *= 2) {
    if (whole % parts) continue;
    advice b = fresh(a);
    set_batch(&b, symbol, whole / parts, &mem);
    b.cfg.training.gradient_accumulation_steps = k * parts;
    const uint64_t bytes = plan(&b);
    if (!bytes && parts * 2 <= whole) continue;
    const bool eval = a->failed->cfg->data.eval.path != NULL;
    tell(a, bytes, zg_arena_printf(&mem, "batch size %lld%s with training.gradient_accumulation_steps %lld", (long long)(whole / parts),
                                   eval ? " (of evaluation too)" : "", (long long)(k * parts)), "smaller batches");
    break;
  }
  zg_arena_fini(&mem);
}

// ---- stages, ranks, offload ---------------------------------------------------------------------------------------

static void try_stages(advice *a) {
  if (a->failed->o.world < 2) return;
  for (int64_t stage = a->failed->cfg->zero.stage + 1; stage <= 3; stage++) {
    advice b = fresh(a);
    b.cfg.zero.stage = stage;
    const uint64_t bytes = plan(&b);
    char text[64];
    snprintf(text, sizeof text, "zero.stage %lld over %u ranks", (long long)stage, b.world);
    if (bytes || stage == 3) tell(a, bytes, text, "higher stages");
    if (bytes) return;
  }
}

static void try_ranks(advice *a) {
  uint32_t world = ZG_MAX(1u, a->failed->o.world);
  while (world < MAX_RANKS) {
    world *= 4;
    advice b = fresh(a);
    b.world = world;
    if (a->failed->o.world < 2 || !b.cfg.zero.stage) b.cfg.zero.stage = 3;
    const uint64_t bytes = plan(&b);
    char text[64];
    snprintf(text, sizeof text, "%u ranks in zero.stage %lld", world, (long long)b.cfg.zero.stage);
    if (bytes || world >= MAX_RANKS) tell(a, bytes, text, "more ranks");
    if (bytes) return;
  }
}

static void try_offload(advice *a) {
  if (a->failed->o.world < 2 || a->failed->cfg->zero.offload_optimizer.device != ZG_CFG_OFFLOAD_NONE) return;
  advice b = fresh(a);
  if (!b.cfg.zero.stage) b.cfg.zero.stage = 1;
  b.cfg.zero.offload_optimizer.device = ZG_CFG_OFFLOAD_CPU;
  char text[80];
  snprintf(text, sizeof text, "zero.offload_optimizer.device cpu in zero.stage %lld", (long long)b.cfg.zero.stage);
  tell(a, plan(&b), text, "optimizer states in host memory");
}

zg_status zg__session_advise(const zg_session *failed, zg_status why) {
  advice a = {.failed = failed};
  try_batches(&a);
  try_offload(&a);
  try_stages(&a);
  try_ranks(&a);
  zg_status s = zg_error(zg_status_code(why), "%s%s%s%s%s", zg_status_message(why),
                         a.found.n ? "\nWithin the budget, planned with all recomputed, would be:" : "", a.found.n ? a.found.at : "",
                         a.missed.n ? "\nNot enough by themselves: " : "", a.missed.n ? a.missed.at : "");
  zg_str_fini(&a.found);
  zg_str_fini(&a.missed);
  zg_status_free(why);
  return s;
}
