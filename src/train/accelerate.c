// Accelerate's configuration: ClusterConfig's top-level keys and its sections. Keys of the top level that
// mean the same here (num_processes, mixed_precision, ...) are rows of our own schema; this file holds the
// others.
//
// The stage follows from distributed_type, as in Accelerate: NO and MULTI_* are stage 0, DEEPSPEED takes
// zero_stage (2 where it is not given), FSDP its sharding strategy. A section of a type that is not chosen is
// not used, and a note says so.
#include "train/config_priv.h"

#include <ctype.h>

static const char tpu[] = "for TPUs";
static const char compiled[] = "every run is compiled before its first step";

// ---- top level ----------------------------------------------------------------------------------------------------

static zg_status use_cpu(zg_config *cfg, const zg_yaml *val, const char *origin) {
  if (val->kind != ZG_YAML_BOOL)
    return zg_yaml_error(val, "use_cpu is %s, want true or false", zg_yaml_kind_name(val->kind));
  if (val->i) zg__config_set_text(cfg, "device", "cpu", origin);
  return NULL;
}

static zg_status legacy_fp16(zg_config *cfg, const zg_yaml *val, const char *origin) {
  if (val->kind == ZG_YAML_BOOL && val->i) zg__config_set_text(cfg, "mixed_precision", "fp16", origin);
  return NULL;
}

// clang-format off
static const zg_foreign_key top_keys[] = {
  REFUSED("compute_environment", "LOCAL_MACHINE|0", "only LOCAL_MACHINE; SageMaker has its own launcher"),
  MAPPED("use_cpu", "device", use_cpu, "true becomes device: cpu"),
  MAPPED("fp16", "mixed_precision", legacy_fp16, "true becomes mixed_precision: fp16 (an old name)"),
  NOTHING("debug", "all ranks compare the whole order of their collectives before the first step, always"),
  NOTHING("enable_cpu_affinity", "the threads of a rank are left to the system"),
  NOTHING("same_network", "ranks meet at main_process_ip:main_process_port either way"),
  NOTHING("rdzv_backend", "ranks meet at main_process_ip:main_process_port"),
  NOTHING("main_training_function", "there is no training script"),
  NOTHING("downcast_bf16", tpu), NOTHING("tpu_name", tpu), NOTHING("tpu_zone", tpu), NOTHING("tpu_vm", tpu),
  NOTHING("tpu_env", tpu), NOTHING("tpu_use_cluster", tpu), NOTHING("tpu_use_sudo", tpu), NOTHING("command_file", tpu),
  NOTHING("commands", tpu),
  NOTHING("dynamo_backend", compiled), NOTHING("dynamo_config.*", compiled),
  NOTHING("ipex_config.*", "Intel's extension of PyTorch is not used"),
  REFUSED("use_xpu", "false", "Intel GPUs are not supported; remove it or set device"),
  NOTHING("mpirun_config.*", "start zgraph under mpirun yourself: it reads the rank MPI gives it"),
  REFUSED("fp8_config.*", "", "fp8 training is not supported; use mixed_precision: bf16"),
  REFUSED("megatron_lm_config.*", "", "tensor and pipeline parallelism are not supported; use DEEPSPEED with zero_stage 3"),
};
// clang-format on
const zg_foreign_table zg__accelerate_top = {"", "Accelerate: top level", false, top_keys,
                                             ZG_COUNT(top_keys)};

// ---- deepspeed_config ---------------------------------------------------------------------------------------------

static zg_status config_file(zg_config *cfg, const zg_yaml *val, const char *origin) {
  (void)origin;
  return zg__deepspeed_file(cfg, val);
}

// "none" is no path.
static zg_status nvme_path(zg_config *cfg, const char *to, const zg_yaml *val, const char *origin) {
  if (!strcmp(val->text, "none")) return NULL;
  return zg__key_set(&cfg->mem, &zg__config_table, zg__key_find(&zg__config_table, to), cfg, val, origin);
}

static zg_status nvme_optimizer(zg_config *cfg, const zg_yaml *val, const char *origin) {
  return nvme_path(cfg, "zero.offload_optimizer.nvme_path", val, origin);
}

static zg_status nvme_param(zg_config *cfg, const zg_yaml *val, const char *origin) {
  return nvme_path(cfg, "zero.offload_param.nvme_path", val, origin);
}

static const char start_yourself[] =
    "start the same command on each machine with its machine_rank, or start zgraph under srun or mpirun";

// clang-format off
static const zg_foreign_key deepspeed_keys[] = {
  MAPPED("deepspeed_config_file", NULL, config_file, NULL),
  NOTED("zero_stage", "zero.stage", "2 where it is not given"),
  SAME("gradient_accumulation_steps", "training.gradient_accumulation_steps"),
  NOTED("gradient_clipping", "training.gradient_clipping", "1.0 where it is auto or not given"),
  SAME("offload_optimizer_device", "zero.offload_optimizer.device"),
  SAME("offload_param_device", "zero.offload_param.device"),
  MAPPED("offload_optimizer_nvme_path", "zero.offload_optimizer.nvme_path", nvme_optimizer, "taken as it is (Accelerate's launcher loses it)"),
  MAPPED("offload_param_nvme_path", "zero.offload_param.nvme_path", nvme_param, "taken as it is (Accelerate's launcher loses it)"),
  NOTHING("zero3_init_flag", "weights are always read shard by shard"),
  NOTHING("zero3_save_16bit_model", "the exported model is always whole"),
  NOTHING("deepspeed_multinode_launcher", start_yourself),
  REFUSED("deepspeed_hostfile", "none", start_yourself),
  REFUSED("deepspeed_inclusion_filter", "none", start_yourself),
  REFUSED("deepspeed_exclusion_filter", "none", start_yourself),
  NOTHING("deepspeed_moe_layer_cls_names", "gathers follow the graph, not modules"),
  NOTHING("seq_parallel_communication_data_type", "DeepSpeed does not read it here either"),
};
// clang-format on
const zg_foreign_table zg__accelerate_deepspeed = {"deepspeed_config", "Accelerate: `deepspeed_config`", true,
                                                   deepspeed_keys, ZG_COUNT(deepspeed_keys)};

// ---- fsdp_config --------------------------------------------------------------------------------------------------

static zg_status reshard(zg_config *cfg, const zg_yaml *val, const char *origin) {
  static const char *const names[] = {"FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD",
                                      "HYBRID_SHARD_ZERO2"};
  if (val->kind == ZG_YAML_SEQ || val->kind == ZG_YAML_MAP)
    return zg_yaml_error(val, "want true, false or a sharding strategy");
  char *text = zg_arena_str(&cfg->mem, val->text);
  for (char *p = text; *p; p++) *p = (char)toupper((unsigned char)*p);
  if (val->kind == ZG_YAML_BOOL) text = zg_arena_str(&cfg->mem, val->i ? "FULL_SHARD" : "SHARD_GRAD_OP");
  if (val->kind == ZG_YAML_INT && val->i >= 1 && val->i <= 5)
    text = zg_arena_str(&cfg->mem, names[val->i - 1]);
  for (size_t i = 0; i < ZG_COUNT(names); i++)
    if (!strcmp(text, names[i])) return cfg->state->reshard = text, cfg->state->reshard_origin = origin, NULL;
  return zg_yaml_error(val,
                       "\"%s\" is no sharding strategy; want true, false, FULL_SHARD, SHARD_GRAD_OP, "
                       "NO_SHARD, HYBRID_SHARD or HYBRID_SHARD_ZERO2",
                       val->text);
}

static zg_status offload_params(zg_config *cfg, const zg_yaml *val, const char *origin) {
  if (val->kind != ZG_YAML_BOOL)
    return zg_yaml_error(val, "fsdp_offload_params is %s, want true or false", zg_yaml_kind_name(val->kind));
  if (!val->i) return NULL;
  zg__config_set_text(cfg, "zero.offload_param.device", "cpu", origin);
  zg__config_set_text(cfg, "zero.offload_optimizer.device", "cpu", origin);
  return NULL;
}

static zg_status activation_checkpointing(zg_config *cfg, const zg_yaml *val, const char *origin) {
  if (val->kind == ZG_YAML_BOOL && val->i) zg__config_set_text(cfg, "memory.recompute", "auto", origin);
  return NULL;
}

static const char by_graph[] = "buckets follow the order of use in the graph, not modules";
static const char planned[] = "prefetch is planned from the schedule";
static const char one_layout[] = "checkpoints hold whole tensors and are read at any rank count";

// clang-format off
static const zg_foreign_key fsdp_keys[] = {
  NOTHING("fsdp_version", "1 and 2 mean the same here"),
  MAPPED("fsdp_reshard_after_forward", "zero.stage", reshard, "true, FULL_SHARD: stage 3; false, SHARD_GRAD_OP: stage 2; NO_SHARD: stage 0; HYBRID_SHARD: stage 3 in groups of one machine; HYBRID_SHARD_ZERO2: stage 2"),
  MAPPED("fsdp_sharding_strategy", "zero.stage", reshard, "as fsdp_reshard_after_forward (also 1 to 5, in that order)"),
  MAPPED("fsdp_offload_params", "zero.offload_param.device", offload_params, "true offloads parameters and optimizer states to the host"),
  MAPPED("fsdp_activation_checkpointing", "memory.recompute", activation_checkpointing, "true becomes memory.recompute: auto; memory.budget decides what is recomputed"),
  NOTHING("fsdp_auto_wrap_policy", by_graph), NOTHING("fsdp_transformer_layer_cls_to_wrap", by_graph),
  NOTHING("fsdp_transformer_cls_names_to_wrap", by_graph), NOTHING("fsdp_min_num_params", by_graph),
  NOTHING("fsdp_backward_prefetch", planned), NOTHING("fsdp_backward_prefetch_policy", planned),
  NOTHING("fsdp_forward_prefetch", planned),
  NOTHING("fsdp_state_dict_type", one_layout),
  NOTHING("fsdp_use_orig_params", "parameters keep their names and shapes always"),
  NOTHING("fsdp_sync_module_states", "each rank reads its shards from the one model file"),
  NOTHING("fsdp_cpu_ram_efficient_loading", "each rank reads only its shards, always"),
  REFUSED("fsdp_ignored_modules", "", "there are no modules in a graph; name parameters under `frozen:` instead"),
};
// clang-format on
const zg_foreign_table zg__accelerate_fsdp = {"fsdp_config", "Accelerate: `fsdp_config`", true, fsdp_keys,
                                              ZG_COUNT(fsdp_keys)};

// ---- parallelism_config -------------------------------------------------------------------------------------------

static const char data_only[] = "only data parallelism (ZeRO) is supported; set it to 1";

static zg_status shard_group(zg_config *cfg, const zg_yaml *val, const char *origin) {
  if (val->kind == ZG_YAML_INT && val->i == 1) return NULL;
  return zg__key_set(&cfg->mem, &zg__config_table, zg__key_find(&zg__config_table, "zero.mics_shard_size"),
                     cfg, val, origin);
}

// clang-format off
static const zg_foreign_key parallel_keys[] = {
  NOTHING("parallelism_config_dp_replicate_size", "groups follow from parallelism_config_dp_shard_size and num_processes"),
  MAPPED("parallelism_config_dp_shard_size", "zero.mics_shard_size", shard_group, "above 1: ranks that share one set of shards"),
  REFUSED("parallelism_config_tp_size", "1", data_only), REFUSED("parallelism_config_cp_size", "1", data_only),
  REFUSED("parallelism_config_sp_size", "1", data_only),
  NOTHING("parallelism_config_cp_backend", data_only), NOTHING("parallelism_config_cp_comm_strategy", data_only),
  NOTHING("parallelism_config_sp_backend", data_only), NOTHING("parallelism_config_sp_seq_length", data_only),
  NOTHING("parallelism_config_sp_seq_length_is_variable", data_only), NOTHING("parallelism_config_sp_attn_implementation", data_only),
};
// clang-format on
const zg_foreign_table zg__accelerate_parallel = {"parallelism_config", "Accelerate: `parallelism_config`",
                                                  true, parallel_keys, ZG_COUNT(parallel_keys)};

// ---- from documents to the stage ----------------------------------------------------------------------------------

zg_status zg__accelerate_begin(zg_config *cfg, const zg_yaml *const *docs, size_t n) {
  cfg->state = ZG_NEW(&cfg->mem, zg__config_state);
  int row = zg__key_find(&zg__config_table, "distributed_type");
  bool deepspeed = false, fsdp = false;
  for (size_t i = 0; i < n; i++) {
    const zg_yaml *type = zg_yaml_get(docs[i], "distributed_type");
    if (type) ZG_TRY(zg__key_set(&cfg->mem, &zg__config_table, row, cfg, type, NULL));
    const zg_yaml *ds = zg_yaml_get(docs[i], "deepspeed_config"), *fs = zg_yaml_get(docs[i], "fsdp_config");
    deepspeed |= ds && ds->n;
    fsdp |= fs && fs->n;
  }
  cfg->state->type = cfg->distributed_type;
  if (cfg->distributed_type == ZG_CFG_DIST_AUTO && deepspeed) cfg->state->type = ZG_CFG_DIST_DEEPSPEED;
  if (cfg->distributed_type == ZG_CFG_DIST_AUTO && fsdp && !deepspeed) cfg->state->type = ZG_CFG_DIST_FSDP;
  return NULL;
}

// deepspeed_config_file goes first, wherever it stands: what the YAML says beside it is compared with it.
static zg_status deepspeed_section(zg_config *cfg, const zg_yaml *map) {
  const zg_yaml *file = zg_yaml_get(map, "deepspeed_config_file");
  if (!file || map->kind != ZG_YAML_MAP) return zg__foreign_apply(cfg, &zg__accelerate_deepspeed, map);
  zg_yaml sorted = *map;
  sorted.keys = zg_arena_copy(&cfg->mem, map->keys, map->n * sizeof *map->keys);
  sorted.vals = zg_arena_copy(&cfg->mem, map->vals, map->n * sizeof *map->vals);
  for (uint32_t i = 1; i < map->n; i++) {
    if (map->vals[i] != file || strcmp(map->keys[i]->text, "deepspeed_config_file")) continue;
    sorted.keys[0] = map->keys[i], sorted.keys[i] = map->keys[0];
    sorted.vals[0] = map->vals[i], sorted.vals[i] = map->vals[0];
  }
  return zg__foreign_apply(cfg, &zg__accelerate_deepspeed, &sorted);
}

static zg_status section(zg_config *cfg, const zg_foreign_table *t, const zg_yaml *key, const zg_yaml *val,
                         bool chosen) {
  if (chosen)
    return t == &zg__accelerate_deepspeed ? deepspeed_section(cfg, val) : zg__foreign_apply(cfg, t, val);
  if (val->n)
    zg__config_note(cfg, "%s (%s) is not used: distributed_type is %s", t->name,
                    zg__key_origin(&cfg->mem, key), zg_config_choice(cfg, "distributed_type"));
  return NULL;
}

static bool own_section(const char *name) {
  const size_t n = strlen(name);
  for (size_t i = 0; i < zg__config_table.n; i++)
    if (!strncmp(zg__config_table.keys[i].path, name, n) && zg__config_table.keys[i].path[n] == '.') return true;
  return false;
}

zg_status zg__accelerate_entry(zg_config *cfg, const zg_yaml *key, const zg_yaml *val, bool *taken) {
  zg_cfg_distributed_type type = cfg->state->type;
  bool sharded = type == ZG_CFG_DIST_FSDP || type == ZG_CFG_DIST_DEEPSPEED;
  *taken = true;
  if (!strcmp(key->text, "deepspeed_config"))
    return section(cfg, &zg__accelerate_deepspeed, key, val, type == ZG_CFG_DIST_DEEPSPEED);
  if (!strcmp(key->text, "fsdp_config"))
    return section(cfg, &zg__accelerate_fsdp, key, val, type == ZG_CFG_DIST_FSDP);
  if (!strcmp(key->text, "parallelism_config"))
    return section(cfg, &zg__accelerate_parallel, key, val, sharded);
  for (size_t i = 0; i < ZG_COUNT(top_keys); i++) {
    size_t n = strcspn(top_keys[i].path, ".");
    if (strncmp(top_keys[i].path, key->text, n) || key->text[n]) continue;
    if (!top_keys[i].path[n] && val->kind == ZG_YAML_MAP && own_section(key->text)) continue;  // `fp16: true` is theirs, `fp16: {..}` ours
    zg_yaml *k = (zg_yaml *)(uintptr_t)key, *v = (zg_yaml *)(uintptr_t)val;
    zg_yaml one = {.kind = ZG_YAML_MAP,
                   .src = key->src,
                   .line = key->line,
                   .col = key->col,
                   .text = "",
                   .n = 1,
                   .keys = &k,
                   .vals = &v};
    return zg__foreign_apply(cfg, &zg__accelerate_top, &one);
  }
  *taken = false;
  return NULL;
}

static void fsdp_stage(zg_config *cfg) {
  const char *how = cfg->state->reshard ? cfg->state->reshard : "FULL_SHARD";
  const char *origin =
      cfg->state->reshard_origin ? cfg->state->reshard_origin : "default of FSDP (FULL_SHARD)";
  bool hybrid = !strncmp(how, "HYBRID", 6);
  const char *stage = !strcmp(how, "NO_SHARD")                                     ? "0"
                      : !strcmp(how, "FULL_SHARD") || !strcmp(how, "HYBRID_SHARD") ? "3"
                                                                                   : "2";
  zg__config_set_text(cfg, "zero.stage", stage, origin);
  if (!strcmp(how, "FULL_SHARD") && cfg->state->reshard &&
      !zg_config_given(cfg, "zero.stage3_max_reuse_distance"))
    zg__config_set_text(cfg, "zero.stage3_max_reuse_distance", "0", origin);
  if (hybrid && *stage == '3' && cfg->num_machines > 1 && !zg_config_given(cfg, "zero.mics_shard_size"))
    zg__config_set_text(
        cfg, "zero.mics_shard_size",
        zg_arena_printf(&cfg->mem, "%lld", (long long)(cfg->num_processes / cfg->num_machines)), origin);
}

zg_status zg__accelerate_end(zg_config *cfg) {
  zg__config_state *s = cfg->state;
  bool given = zg_config_given(cfg, "zero.stage");
  if (s->type == ZG_CFG_DIST_NO && cfg->num_processes != 1) {
    zg__config_note(cfg, "num_processes %lld (%s) is 1: distributed_type is NO",
                    (long long)cfg->num_processes, zg_config_origin(cfg, "num_processes"));
    zg__config_set_text(cfg, "num_processes", "1", "distributed_type NO");
  }
  if (s->type == ZG_CFG_DIST_MULTI_CPU && cfg->device == ZG_CFG_DEVICE_AUTO)
    zg__config_set_text(cfg, "device", "cpu", "distributed_type MULTI_CPU");
  if (s->type == ZG_CFG_DIST_DEEPSPEED && !given && !s->json_given)
    zg__config_set_text(cfg, "zero.stage", "2", "default of DEEPSPEED");
  if (s->type == ZG_CFG_DIST_FSDP && !given) fsdp_stage(cfg);
  zg__deepspeed_end(cfg);
  if (!s->json_precision_origin) return NULL;
  if (!zg_config_given(cfg, "mixed_precision")) {
    static const char *const names[] = {"'no'", "bf16", "fp16"};
    zg__config_set_text(cfg, "mixed_precision", names[s->json_precision], s->json_precision_origin);
  } else if (cfg->mixed_precision != s->json_precision) {
    return zg__config_error(cfg, "mixed_precision", "%s, but %s asks for %s; remove one of them",
                            zg_config_choice(cfg, "mixed_precision"), s->json_precision_origin,
                            s->json_precision == ZG_CFG_MIXED_BF16   ? "bf16"
                            : s->json_precision == ZG_CFG_MIXED_FP16 ? "fp16"
                                                                     : "no");
  }
  return NULL;
}
