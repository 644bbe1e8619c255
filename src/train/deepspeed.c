// DeepSpeed's JSON configuration: every key of it, and what becomes of each.
//
// "auto" keeps our own key's value (from another file, --set, or the default), as the Trainer's arguments do
// there; bucket sizes that are auto are filled from the model's width later (zg_config_fill_auto).
#include "train/config_priv.h"

static bool same_word(const char *a, const char *b) {  // case and '_' do not count: WarmupLR, warmup_lr
  for (;; a++, b++) {
    while (*a == '_') a++;
    while (*b == '_') b++;
    if (!*a || !*b || (*a | 32) != (*b | 32)) return *a == *b;
  }
}

static zg_status optimizer_type(zg_config *cfg, const zg_yaml *val, const char *origin) {
  static const char *const ours[] = {"sgd", "adam", "adamw", "lion", "adagrad", "lamb", "muon"};
  const char *near = zg_nearest(val->text, ours, ZG_COUNT(ours));
  for (size_t i = 0; i < ZG_COUNT(ours); i++) {
    if (!same_word(val->text, ours[i])) continue;
    // DeepSpeed's Adam is AdamW unless adam_w_mode is false.
    bool adam = !strcmp(ours[i], "adam") && !cfg->state->not_adamw;
    zg__config_set_text(cfg, "optimizer.type", adam ? "adamw" : ours[i], origin);
    if (adam) zg__config_note(cfg, "%s: Adam is AdamW in DeepSpeed (adam_w_mode is true by default)", origin);
    return NULL;
  }
  return zg_yaml_error(
      val, "optimizer %s is not supported%s%s%s; there are sgd, adam, adamw, lion, adagrad, lamb, muon",
      val->text, near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
}

// The JSON may name the type before or after adam_w_mode.
static zg_status adam_w_mode(zg_config *cfg, const zg_yaml *val, const char *origin) {
  if (val->kind != ZG_YAML_BOOL)
    return zg_yaml_error(val, "adam_w_mode is %s, want true or false", zg_yaml_kind_name(val->kind));
  cfg->state->not_adamw = !val->i;
  if (!val->i && zg_config_given(cfg, "optimizer.type") && cfg->optimizer.type == ZG_CFG_OPT_ADAMW)
    zg__config_set_text(cfg, "optimizer.type", "adam", origin);
  return NULL;
}

static zg_status scheduler_type(zg_config *cfg, const zg_yaml *val, const char *origin) {
  static const char *const theirs[] = {"WarmupLR", "WarmupDecayLR", "WarmupCosineLR"};
  static const char *const ours[] = {"warmup_lr", "warmup_decay_lr", "warmup_cosine_lr"};
  for (size_t i = 0; i < ZG_COUNT(ours); i++) {
    if (!same_word(val->text, theirs[i])) continue;
    zg__config_set_text(cfg, "lr_scheduler.type", ours[i], origin);
    cfg->state->scheduler_origin = origin;
    return NULL;
  }
  return zg_yaml_error(val,
                       "scheduler %s is not supported; there are WarmupLR, WarmupDecayLR and WarmupCosineLR, "
                       "or our own lr_scheduler section",
                       val->text);
}

static zg_status precision(zg_config *cfg, const zg_yaml *val, const char *origin,
                           zg_cfg_mixed_precision type) {
  if (val->kind != ZG_YAML_BOOL)
    return zg_yaml_error(val, "enabled is %s, want true, false or \"auto\"", zg_yaml_kind_name(val->kind));
  if (val->i && cfg->state->json_precision_origin && cfg->state->json_precision != type &&
      cfg->state->json_precision != ZG_CFG_MIXED_NO)
    return zg_yaml_error(val, "fp16 and bf16 are both enabled (%s); keep one",
                         cfg->state->json_precision_origin);
  if (!val->i && cfg->state->json_precision_origin) return NULL;
  cfg->state->json_precision = val->i ? type : ZG_CFG_MIXED_NO;
  cfg->state->json_precision_origin = val->i ? origin : NULL;
  return NULL;
}

static zg_status bf16(zg_config *cfg, const zg_yaml *val, const char *origin) {
  return precision(cfg, val, origin, ZG_CFG_MIXED_BF16);
}
static zg_status fp16(zg_config *cfg, const zg_yaml *val, const char *origin) {
  return precision(cfg, val, origin, ZG_CFG_MIXED_FP16);
}

static zg_status steps_per_print(zg_config *cfg, const zg_yaml *val, const char *origin) {
  if (val->kind == ZG_YAML_FLOAT && isinf(val->f)) return NULL;
  if (val->f >= 1 || val->kind == ZG_YAML_STR)
    return zg__key_set(&cfg->mem, &zg__config_table, zg__key_find(&zg__config_table, "training.log_every"),
                       cfg, val, origin);
  return NULL;
}

static zg_status old_offload(zg_config *cfg, const zg_yaml *val, const char *origin) {
  if (val->kind == ZG_YAML_BOOL && val->i)
    zg__config_set_text(cfg, "zero.offload_optimizer.device", "cpu", origin);
  return NULL;
}

static zg_status old_offload_params(zg_config *cfg, const zg_yaml *val, const char *origin) {
  if (val->kind == ZG_YAML_BOOL && val->i)
    zg__config_set_text(cfg, "zero.offload_param.device", "cpu", origin);
  return NULL;
}

static const char one_plan[] = "memory and order are planned before the run";
static const char by_plan[] = "what is recomputed follows from memory.budget";
static const char always[] = "metrics.jsonl and TensorBoard events are written always";
static const char torch[] = "it concerns PyTorch modules";
static const char dp_only[] = "only data parallelism (ZeRO) is supported";
static const char no_quant[] = "quantised collectives are not supported";
static const char fp32_master[] = "master weights and optimizer states are float32";
static const char exact[] = "gradients are averaged over ranks, in zero.communication_data_type";

#define ZO(key) "zero_optimization." key

// clang-format off
static const zg_foreign_key json_keys[] = {
  SAME("train_batch_size", "training.train_batch_size"),
  SAME("train_micro_batch_size_per_gpu", "data.train.batch_size"),
  SAME("gradient_accumulation_steps", "training.gradient_accumulation_steps"),
  NOTED("gradient_clipping", "training.gradient_clipping", "1.0 where it is auto or not given; 0 disables it"),
  REFUSED("managed_gradient_accumulation", "true", "micro-steps are planned; there is no caller of step()"),
  MAPPED("steps_per_print", "training.log_every", steps_per_print, "becomes training.log_every"),

  MAPPED("optimizer.type", "optimizer.type", optimizer_type, NULL),
  SAME("optimizer.params.lr", "optimizer.lr"), SAME("optimizer.params.betas", "optimizer.betas"),
  SAME("optimizer.params.eps", "optimizer.eps"), SAME("optimizer.params.weight_decay", "optimizer.weight_decay"),
  SAME("optimizer.params.momentum", "optimizer.momentum"), SAME("optimizer.params.nesterov", "optimizer.nesterov"),
  SAME("optimizer.params.dampening", "optimizer.dampening"),
  MAPPED("optimizer.params.adam_w_mode", "optimizer.type", adam_w_mode, "false makes Adam the Adam with coupled weight decay"),
  NOTHING("optimizer.params.torch_adam", "there is one implementation"), NOTHING("optimizer.params.fused", "updates are always fused"),
  REFUSED("optimizer.params.amsgrad", "false", "AMSGrad is not supported"),
  REFUSED("optimizer.params.bias_correction", "true", "bias correction is always on"),
  NOTHING("optimizer.legacy_fusion", "updates are always fused"),
  NOTHING("zero_allow_untested_optimizer", "every optimizer runs under every stage"),
  NOTHING("zero_force_ds_cpu_optimizer", "there is one implementation"),

  MAPPED("scheduler.type", "lr_scheduler.type", scheduler_type, NULL),
  SAME("scheduler.params.warmup_min_lr", "lr_scheduler.warmup_min_lr"), SAME("scheduler.params.warmup_max_lr", "lr_scheduler.warmup_max_lr"),
  SAME("scheduler.params.warmup_num_steps", "lr_scheduler.warmup_steps"), SAME("scheduler.params.warmup_type", "lr_scheduler.warmup_type"),
  SAME("scheduler.params.total_num_steps", "lr_scheduler.total_steps"),
  SAME("scheduler.params.warmup_min_ratio", "lr_scheduler.warmup_min_ratio"), SAME("scheduler.params.cos_min_ratio", "lr_scheduler.cos_min_ratio"),
  REFUSED("scheduler.params.last_batch_iteration", "-1", "a run resumes at its own step"),

  MAPPED("bf16.enabled", "mixed_precision", bf16, NULL), MAPPED("bfloat16.enabled", "mixed_precision", bf16, NULL),
  NOTHING("bf16.immediate_grad_update", one_plan), NOTHING("bf16.check_grad_overflow", "gradients are reduced and summed in float32"),
  REFUSED("bf16.bf16_master_weights_and_grads", "false", fp32_master), REFUSED("bf16.bf16_optimizer_states", "false", fp32_master),
  MAPPED("fp16.enabled", "mixed_precision", fp16, NULL),
  NOTHING("fp16.auto_cast", "inputs are cast as the graph needs"), SAME("fp16.loss_scale", "fp16.loss_scale"),
  SAME("fp16.initial_scale_power", "fp16.initial_scale_power"), SAME("fp16.loss_scale_window", "fp16.loss_scale_window"),
  SAME("fp16.hysteresis", "fp16.hysteresis"), SAME("fp16.consecutive_hysteresis", "fp16.consecutive_hysteresis"),
  SAME("fp16.min_loss_scale", "fp16.min_loss_scale"),
  REFUSED("fp16.fp16_master_weights_and_grads", "false", fp32_master), REFUSED("fp16.opt_level", "", "NVIDIA's amp is not used"),
  NOTED("data_types.grad_accum_dtype", "zero.grad_accum_dtype", "fp32 where it is not given (DeepSpeed: the model's type)"),
  REFUSED("data_types.param_dtype", "", "use mixed_precision"), REFUSED("data_types.buffer_dtype", "", "buffers keep the type of the graph"),
  NOTED("communication_data_type", "zero.communication_data_type", "fp32 where it is not given (DeepSpeed: the model's type)"),
  NOTHING("seq_parallel_communication_data_type", dp_only),
  REFUSED("torch_autocast.enabled", "false", "use bf16 or fp16"), NOTHING("torch_autocast.*", torch),
  REFUSED("amp.enabled", "false", "use bf16 or fp16"), NOTHING("amp.*", "NVIDIA's amp is not used"),
  REFUSED("gradient_allreduce_op", "mean", exact), REFUSED("prescale_gradients", "false", exact),
  REFUSED("gradient_predivide_factor", "1", exact), REFUSED("sparse_gradients", "false", "gradients are dense"),
  REFUSED("disable_allgather", "false", "ranks need the updated parameters"),

  SAME(ZO("stage"), "zero.stage"), SAME(ZO("reduce_bucket_size"), "zero.reduce_bucket_size"),
  SAME(ZO("allgather_bucket_size"), "zero.allgather_bucket_size"), SAME(ZO("overlap_comm"), "zero.overlap_comm"),
  NOTED(ZO("stage3_prefetch_bucket_size"), "zero.stage3_prefetch_bucket_size", "5e7 where it is not given"),
  SAME(ZO("stage3_param_persistence_threshold"), "zero.stage3_param_persistence_threshold"),
  SAME(ZO("stage3_model_persistence_threshold"), "zero.stage3_model_persistence_threshold"),
  SAME(ZO("stage3_max_live_parameters"), "zero.stage3_max_live_parameters"),
  NOTED(ZO("stage3_max_reuse_distance"), "zero.stage3_max_reuse_distance", "where it is not given the planner decides by memory.budget (DeepSpeed: 1e9)"),
  SAME(ZO("zero_hpz_partition_size"), "zero.zero_hpz_partition_size"), SAME(ZO("mics_shard_size"), "zero.mics_shard_size"),
  NOTHING(ZO("mics_hierarchical_params_gather"), one_plan),
  NOTHING(ZO("contiguous_gradients"), one_plan), NOTHING(ZO("reduce_scatter"), "stages 1 to 3 always use a true reduce-scatter"),
  NOTHING(ZO("use_multi_rank_bucket_allreduce"), "stages 1 to 3 always use a true reduce-scatter"),
  NOTHING(ZO("allgather_partitions"), "updated parameters are always gathered"), NOTHING(ZO("load_from_fp32_weights"), fp32_master),
  NOTHING(ZO("elastic_checkpoint"), "checkpoints are read at any rank count"), NOTHING(ZO("sub_group_size"), one_plan),
  NOTHING(ZO("round_robin_gradients"), one_plan), NOTHING(ZO("ignore_unused_parameters"), "the graph says which are used"),
  NOTHING(ZO("stage3_gather_16bit_weights_on_model_save"), "the exported model is always whole"),
  NOTHING(ZO("stage3_gather_fp16_weights_on_model_save"), "the exported model is always whole"),
  NOTHING(ZO("stage3_module_granularity_threshold"), torch), NOTHING(ZO("stage3_use_all_reduce_for_fetch_params"), one_plan),
  NOTHING(ZO("stage3_allgather_sequential"), one_plan), NOTHING(ZO("memory_efficient_linear"), torch),
  NOTHING(ZO("override_module_apply"), torch), NOTHING(ZO("pipeline_loading_checkpoint"), torch),
  NOTHING(ZO("log_trace_cache_warnings"), "there is no trace"), NOTHING(ZO("enable_sanity_checks"), "the schedule is always verified"),
  NOTHING(ZO("leaf_module.*"), torch), NOTHING(ZO("legacy_stage1"), one_plan), NOTHING(ZO("param_persistence_threshold"), one_plan),
  REFUSED(ZO("zero_quantized_weights"), "false", no_quant), REFUSED(ZO("zero_quantized_nontrainable_weights"), "false", no_quant),
  REFUSED(ZO("zero_quantized_gradients"), "false", no_quant), REFUSED(ZO("zeropp_loco_param.*"), "", no_quant),
  REFUSED(ZO("zenflow.*"), "", "asynchronous updates are not supported"), NOTHING(ZO("save_muon_momentum_buffer_in_memory"), one_plan),
  MAPPED(ZO("cpu_offload"), "zero.offload_optimizer.device", old_offload, "an old name of offload_optimizer.device: cpu"),
  MAPPED(ZO("cpu_offload_params"), "zero.offload_param.device", old_offload_params, "an old name of offload_param.device: cpu"),
  NOTHING(ZO("cpu_offload_use_pin_memory"), "an old name; see pin_memory"),
  SAME(ZO("offload_param.device"), "zero.offload_param.device"), SAME(ZO("offload_param.nvme_path"), "zero.offload_param.nvme_path"),
  SAME(ZO("offload_param.buffer_count"), "zero.offload_param.buffer_count"), SAME(ZO("offload_param.buffer_size"), "zero.offload_param.buffer_size"),
  SAME(ZO("offload_param.max_in_cpu"), "zero.offload_param.max_in_cpu"), SAME(ZO("offload_param.pin_memory"), "zero.offload_param.pin_memory"),
  SAME(ZO("offload_optimizer.device"), "zero.offload_optimizer.device"), SAME(ZO("offload_optimizer.nvme_path"), "zero.offload_optimizer.nvme_path"),
  SAME(ZO("offload_optimizer.buffer_count"), "zero.offload_optimizer.buffer_count"),
  SAME(ZO("offload_optimizer.pin_memory"), "zero.offload_optimizer.pin_memory"), SAME(ZO("offload_optimizer.ratio"), "zero.offload_optimizer.ratio"),
  NOTHING(ZO("offload_optimizer.pipeline_read"), one_plan), NOTHING(ZO("offload_optimizer.pipeline_write"), one_plan),
  NOTHING(ZO("offload_optimizer.pipeline"), one_plan), NOTHING(ZO("offload_optimizer.fast_init"), one_plan),
  NOTHING(ZO("offload_optimizer.cpuadam_cores_perc"), "threads follow from `threads`"),
  REFUSED(ZO("offload_optimizer.super_offload"), "false", "asynchronous updates are not supported"),

  NOTHING("aio.*", "files are read and written by the system's own means"), NOTHING("activation_checkpointing.*", by_plan),
  NOTHING("compile.*", "every run is compiled before its first step"),
  NOTHING("checkpoint.*", "checkpoints have one layout that any rank count reads"),
  NOTHING("load_universal_checkpoint", "checkpoints have one layout that any rank count reads"),
  NOTHING("wall_clock_breakdown", "use --trace"), NOTHING("memory_breakdown", "use zgraph plan"), NOTHING("dump_state", "use zgraph config"),
  NOTHING("comms_logger.*", "use zgraph plan and --trace"), NOTHING("flops_profiler.*", "use zgraph inspect"),
  NOTHING("tensorboard.*", always), NOTHING("wandb.*", always), NOTHING("csv_monitor.*", always), NOTHING("comet.*", always),
  NOTHING("monitor_config.*", always), NOTHING("dataloader_drop_last", "epochs follow one behind the other; nothing is dropped"),
  NOTHING("timers.*", "use --trace"), NOTHING("nebula.*", "checkpoints have one layout that any rank count reads"),
  NOTHING("use_node_local_rng", "random numbers depend on seed and step alone"),
  NOTHING("use_data_before_expert_parallelism", dp_only),
  REFUSED("tensor_parallel.autotp_size", "0|1", dp_only), NOTHING("tensor_parallel.*", dp_only),
  REFUSED("sequence_parallel_size", "1", dp_only), REFUSED("expert_parallel.*", "", dp_only), REFUSED("pipeline.*", "", dp_only),
  REFUSED("elasticity.enabled", "false", "a resumed run may change its rank count by itself"), NOTHING("elasticity.*", "it is not enabled"),
  REFUSED("hybrid_engine.enabled", "false", "there is no generation engine"), NOTHING("hybrid_engine.*", "it is not enabled"),
  REFUSED("data_efficiency.enabled", "false", "data are read in a fixed order"), NOTHING("data_efficiency.*", "it is not enabled"),
  REFUSED("curriculum_learning.enabled", "false", "data are read in a fixed order"), NOTHING("curriculum_learning.*", "it is not enabled"),
  REFUSED("progressive_layer_drop.enabled", "false", "the graph is trained as it is"), NOTHING("progressive_layer_drop.*", "it is not enabled"),
  REFUSED("eigenvalue.enabled", "false", "it is not supported"), NOTHING("eigenvalue.*", "it is not enabled"),
  REFUSED("autotuning.enabled", "false", "use zgraph plan"), NOTHING("autotuning.*", "it is not enabled"),
  REFUSED("quantize_training.*", "", "it is not supported"), REFUSED("compression_training.*", "", "it is not supported"),
  REFUSED("sparse_attention.*", "", "attention is as the graph says"),
};
// clang-format on
const zg_foreign_table zg__deepspeed_json = {"", "DeepSpeed's JSON", true, json_keys, ZG_COUNT(json_keys)};

// ---- a whole document ---------------------------------------------------------------------------------------------

bool zg__deepspeed_is_json(const zg_yaml *doc) {
  static const char *const marks[] = {"zero_optimization", "train_batch_size",
                                      "train_micro_batch_size_per_gpu"};
  if (doc->kind != ZG_YAML_MAP) return false;
  for (size_t i = 0; i < ZG_COUNT(marks); i++)
    if (zg_yaml_get(doc, marks[i])) return true;
  return false;
}

static bool is_auto(const zg_yaml *v) { return v && v->kind == ZG_YAML_STR && !strcmp(v->text, "auto"); }

zg_status zg__deepspeed_apply(zg_config *cfg, const zg_yaml *doc) {
  cfg->state->json_given = true;
  cfg->state->json_name = doc->src->name;
  const zg_yaml *params = zg_yaml_get(zg_yaml_get(doc, "scheduler"), "params");
  ZG_TRY(zg__foreign_apply(cfg, &zg__deepspeed_json, doc));
  cfg->state->warmup_steps_auto = is_auto(zg_yaml_get(params, "warmup_num_steps"));
  cfg->state->warmup_max_lr_auto = is_auto(zg_yaml_get(params, "warmup_max_lr"));
  return NULL;
}

void zg__deepspeed_end(zg_config *cfg) {
  const zg__config_state *s = cfg->state;
  if (!s->scheduler_origin || strcmp(s->scheduler_origin, zg_config_origin(cfg, "lr_scheduler.type"))) return;
  if (!s->warmup_steps_auto && !zg_config_given(cfg, "lr_scheduler.warmup_steps"))
    zg__config_set_text(cfg, "lr_scheduler.warmup_steps", "1000", "default of DeepSpeed (warmup_num_steps)");
  if (cfg->lr_scheduler.type == ZG_CFG_LR_WARMUP_DECAY && !s->warmup_max_lr_auto &&
      !zg_config_given(cfg, "lr_scheduler.warmup_max_lr"))
    zg__config_set_text(cfg, "lr_scheduler.warmup_max_lr", "0.001", "default of DeepSpeed (WarmupDecayLR)");
}
