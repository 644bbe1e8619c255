// What follows from all values together: defaults that depend on other keys, then every check across keys.
#include "train/config_priv.h"

void zg__config_set_text(zg_config *cfg, const char *key, const char *text, const char *origin) {
  int row = zg__key_find(&zg__config_table, key);
  const zg_yaml *v = NULL;
  zg_status status = zg_yaml_parse(&cfg->mem, "default", text, strlen(text), &v);
  if (!status)
    status = zg__key_set(&cfg->mem, &zg__config_table, row, cfg, v, zg_arena_str(&cfg->mem, origin));
  ZG_ASSERT(!status);  // the schema's own text
}

static void fill_optimizer(zg_config *cfg) {
  const zg_key *type = &zg__config_table.keys[zg__key_find(&zg__config_table, "optimizer.type")];
  for (size_t i = 0; i < zg__n_opt_defaults; i++) {
    const zg_type_default *d = &zg__opt_defaults[i];
    if (d->type != cfg->optimizer.type || zg_config_given(cfg, d->key)) continue;
    zg__config_set_text(cfg, d->key, d->def,
                        zg_arena_printf(&cfg->mem, "default of %s", type->choices[d->type]));
  }
}

static void inherit(zg_config *cfg, const char *key, int64_t *value, const char *from, int64_t from_value) {
  if (*value != ZG_UNSET || from_value == ZG_UNSET) return;
  *value = from_value;
  cfg->origin[zg__key_find(&zg__config_table, key)] = zg_arena_printf(&cfg->mem, "default: %s", from);
}

static void fill_lengths(zg_config *cfg) {
  if (cfg->training.steps == ZG_UNSET && cfg->training.epochs == ZG_UNSET) cfg->training.epochs = 1;
  inherit(cfg, "lr_scheduler.total_steps", &cfg->lr_scheduler.total_steps, "training.steps",
          cfg->training.steps > 0 ? cfg->training.steps : ZG_UNSET);
  inherit(cfg, "data.eval.seq_len", &cfg->data.eval.seq_len, "data.train.seq_len", cfg->data.train.seq_len);
}

// train_batch_size = batch_size x accumulation x ranks; the one that is missing follows.
static zg_status fill_batch(zg_config *cfg) {
  int64_t total = cfg->training.train_batch_size, *batch = &cfg->data.train.batch_size;
  int64_t *accum = &cfg->training.gradient_accumulation_steps, ranks = cfg->num_processes, micro = 0;
  bool accum_given = zg_config_given(cfg, "training.gradient_accumulation_steps");
  if (total == ZG_UNSET) return NULL;
  const char *key = "training.train_batch_size";
  if (*batch == ZG_UNSET) {
    if (!zg_mul_i64(*accum, ranks, &micro) || total % micro)
      return zg__config_error(cfg, key, "%lld samples do not divide over %lld micro-steps and %lld ranks",
                              (long long)total, (long long)*accum, (long long)ranks);
    inherit(cfg, "data.train.batch_size", batch, "from training.train_batch_size", total / micro);
    return NULL;
  }
  if (!zg_mul_i64(*batch, ranks, &micro))
    return zg__config_error(cfg, key, "batch size times ranks is too large");
  if (!accum_given && total % micro == 0) {
    *accum = total / micro;
    cfg->origin[zg__key_find(&zg__config_table, "training.gradient_accumulation_steps")] =
        "default: from training.train_batch_size";
    return NULL;
  }
  if (!zg_mul_i64(micro, *accum, &micro) || micro != total)
    return zg__config_error(
        cfg, key,
        "%lld is not batch_size %lld x gradient_accumulation_steps %lld x num_processes %lld = %lld",
        (long long)total, (long long)*batch, (long long)*accum, (long long)ranks, (long long)micro);
  return NULL;
}

// ---- checks -------------------------------------------------------------------------------------------------------

// A key that was given though the section's type has no use for it: said, not silently dropped.
static void warn_useless(zg_config *cfg, const zg_key_table *t, const void *base, const char *const *origin,
                         const char *section, const char *selector) {
  int sel = zg__key_find(t, selector);
  int type = *(const int *)zg__key_at(&t->keys[sel], base);
  for (size_t i = 0; i < t->n; i++) {
    const zg_key *k = &t->keys[i];
    if (!k->when || (k->when >> type & 1) || zg__key_is_default(origin[i]) ||
        strncmp(k->path, section, strlen(section)))
      continue;
    zg_warn("%s: %s%s has no meaning for %s", origin[i], t == &zg__loss_table ? "loss." : "", k->path,
            t->keys[sel].choices[type]);
    zg__config_note(cfg, "%s (%s) has no meaning for %s", k->path, origin[i], t->keys[sel].choices[type]);
  }
}

static zg_status check_data(zg_config *cfg, const char *key, int64_t bits) {
  if (bits == 0 || bits == 16 || bits == 32) return NULL;
  return zg__config_error(cfg, key, "%lld, want 16, 32, or 0 to go by the file name", (long long)bits);
}

static zg_status check_losses(zg_config *cfg) {
  int logits = zg__key_find(&zg__loss_table, "logits");
  for (size_t i = 0; i < cfg->loss.n; i++) {
    zg_cfg_loss *l = &cfg->loss.at[i];
    if (l->logits && l->prediction)
      return zg_error(ZG_INVALID, "%s: loss has both logits and prediction, two names of one key; keep one",
                      l->origin[logits]);
    if (l->prediction) l->logits = l->prediction;
    warn_useless(cfg, &zg__loss_table, l, l->origin, "", "kind");
  }
  return NULL;
}

static zg_status check_optimizer(zg_config *cfg) {
  warn_useless(cfg, &zg__config_table, cfg, cfg->origin, "optimizer.", "optimizer.type");
  if (cfg->optimizer.nesterov && cfg->optimizer.type == ZG_CFG_OPT_SGD &&
      (cfg->optimizer.momentum == 0 || cfg->optimizer.dampening != 0))
    return zg__config_error(cfg, "optimizer.nesterov", "needs momentum > 0 and dampening 0");
  for (size_t i = 0; i < cfg->optimizer.groups.n; i++)
    if (!cfg->optimizer.groups.at[i].match.n)
      return zg__config_error(cfg, "optimizer.groups", "group %zu has no `match: [globs]`", i + 1);
  return NULL;
}

static zg_status check_schedule(zg_config *cfg) {
  int64_t total = cfg->lr_scheduler.total_steps, warm = cfg->lr_scheduler.warmup_steps;
  int64_t decay = cfg->lr_scheduler.decay_steps, stable = cfg->lr_scheduler.stable_steps;
  warn_useless(cfg, &zg__config_table, cfg, cfg->origin, "lr_scheduler.", "lr_scheduler.type");
  if (!isnan(cfg->lr_scheduler.min_lr) && !isnan(cfg->lr_scheduler.min_lr_ratio))
    return zg__config_error(cfg, "lr_scheduler.min_lr", "min_lr_ratio is given too; keep one of them");
  bool decays = cfg->lr_scheduler.type != ZG_CFG_LR_CONSTANT && cfg->lr_scheduler.type != ZG_CFG_LR_WARMUP;
  if (decays && total != ZG_UNSET && warm > total)
    return zg__config_error(cfg, "lr_scheduler.warmup_steps",
                            "%lld steps of warm-up in %lld steps (lr_scheduler.total_steps)", (long long)warm,
                            (long long)total);
  if (cfg->lr_scheduler.type == ZG_CFG_LR_WSD && total != ZG_UNSET) {
    int64_t sum = warm + (stable == ZG_UNSET ? 0 : stable) + (decay == ZG_UNSET ? 0 : decay);
    if (sum > total)
      return zg__config_error(cfg, "lr_scheduler.type", "warm-up, stable and decay take %lld steps of %lld",
                              (long long)sum, (long long)total);
  }
  return NULL;
}

static zg_status check_ranks(zg_config *cfg) {
  if (cfg->num_processes % cfg->num_machines)
    return zg__config_error(cfg, "num_processes",
                            "%lld ranks (of all machines together) do not divide over num_machines %lld",
                            (long long)cfg->num_processes, (long long)cfg->num_machines);
  if (cfg->machine_rank >= cfg->num_machines)
    return zg__config_error(cfg, "machine_rank", "%lld, but the last of num_machines %lld is %lld",
                            (long long)cfg->machine_rank, (long long)cfg->num_machines,
                            (long long)cfg->num_machines - 1);
  if (cfg->num_machines > 1 && !cfg->main_process_ip)
    return zg__config_error(cfg, "num_machines",
                            "several machines need main_process_ip, the address of machine 0");
  if (cfg->num_machines > 1 && cfg->main_process_port == 0)
    return zg__config_error(cfg, "main_process_port",
                            "0 (any free port) works on one machine only; give a number");
  return NULL;
}

static zg_status check_offload(zg_config *cfg, const char *name, const zg_cfg_offload *o,
                               int64_t from_stage) {
  const char *key = zg_arena_printf(&cfg->mem, "zero.%s.device", name);
  if (o->device == ZG_CFG_OFFLOAD_NONE) return NULL;
  if (cfg->zero.stage < from_stage)
    return zg__config_error(cfg, key, "needs zero.stage %lld%s, not %lld", (long long)from_stage,
                            from_stage < 3 ? " or more" : "", (long long)cfg->zero.stage);
  if (o->device == ZG_CFG_OFFLOAD_NVME && cfg->zero.stage < 3)
    return zg__config_error(cfg, key, "nvme needs zero.stage 3");
  if (o->device == ZG_CFG_OFFLOAD_NVME && !o->nvme_path)
    return zg__config_error(cfg, key, "nvme needs zero.%s.nvme_path, a directory", name);
  return NULL;
}

static zg_status check_zero(zg_config *cfg) {
  ZG_TRY(check_offload(cfg, "offload_optimizer", &cfg->zero.offload_optimizer, 1));
  ZG_TRY(check_offload(cfg, "offload_param", &cfg->zero.offload_param, 3));
  if (cfg->zero.offload_optimizer.ratio < 1 && cfg->zero.stage < 3)
    return zg__config_error(cfg, "zero.offload_optimizer.ratio", "a part needs zero.stage 3");
  int64_t group[] = {cfg->zero.zero_hpz_partition_size, cfg->zero.mics_shard_size};
  const char *keys[] = {"zero.zero_hpz_partition_size", "zero.mics_shard_size"};
  for (int i = 0; i < 2; i++) {
    if (group[i] == 0) return zg__config_error(cfg, keys[i], "0 ranks are no group");
    if (group[i] > 1 && cfg->zero.stage != 3) return zg__config_error(cfg, keys[i], "needs zero.stage 3");
    if (group[i] > 0 && cfg->num_processes % group[i])
      return zg__config_error(cfg, keys[i], "groups of %lld do not divide num_processes %lld",
                              (long long)group[i], (long long)cfg->num_processes);
  }
  return NULL;
}

zg_status zg__config_finish(zg_config *cfg) {
  fill_optimizer(cfg);
  ZG_TRY(check_ranks(cfg));
  ZG_TRY(fill_batch(cfg));
  fill_lengths(cfg);
  inherit(cfg, "data.eval.batch_size", &cfg->data.eval.batch_size, "data.train.batch_size",
          cfg->data.train.batch_size);
  ZG_TRY(check_data(cfg, "data.train.token_bits", cfg->data.train.token_bits));
  ZG_TRY(check_data(cfg, "data.eval.token_bits", cfg->data.eval.token_bits));
  ZG_TRY(check_losses(cfg));
  ZG_TRY(check_optimizer(cfg));
  ZG_TRY(check_schedule(cfg));
  return check_zero(cfg);
}
