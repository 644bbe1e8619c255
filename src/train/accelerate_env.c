// What `accelerate launch` tells its program in the environment, as the file it was told by: a document of Accelerate's keys, read
// before all files of the command line, which override it. So `accelerate launch --config_file zero3.yaml --no_python zgraph train ..`
// trains as `zgraph train --config zero3.yaml ..` does.
//   ACCELERATE_USE_DEEPSPEED, ACCELERATE_DEEPSPEED_*, ACCELERATE_GRADIENT_*    deepspeed_config
//   ACCELERATE_USE_FSDP, FSDP_*                                                fsdp_config
//   ACCELERATE_MIXED_PRECISION, ACCELERATE_USE_CPU, WORLD_SIZE                 top level
// Source: accelerate/utils/launch.py (prepare_multi_gpu_env, prepare_deepspeed_cmd_env), version 1.15.
#include <ctype.h>
#include <stdlib.h>

#include "train/config_priv.h"

typedef struct { const char *env, *key; } row;

static const row deepspeed_rows[] = {
    {"ACCELERATE_DEEPSPEED_ZERO_STAGE", "zero_stage"},
    {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "gradient_accumulation_steps"},
    {"ACCELERATE_GRADIENT_CLIPPING", "gradient_clipping"},
    {"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "offload_optimizer_device"},
    {"ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "offload_param_device"},
    {"ACCELERATE_DEEPSPEED_ZERO3_INIT", "zero3_init_flag"},
    {"ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL", "zero3_save_16bit_model"},
    {"ACCELERATE_DEEPSPEED_MOE_LAYER_CLS_NAMES", "deepspeed_moe_layer_cls_names"},
};
static const row fsdp_rows[] = {
    {"FSDP_VERSION", "fsdp_version"},
    {"FSDP_OFFLOAD_PARAMS", "fsdp_offload_params"},
    {"FSDP_AUTO_WRAP_POLICY", "fsdp_auto_wrap_policy"},
    {"FSDP_TRANSFORMER_CLS_TO_WRAP", "fsdp_transformer_layer_cls_to_wrap"},
    {"FSDP_MIN_NUM_PARAMS", "fsdp_min_num_params"},
    {"FSDP_BACKWARD_PREFETCH", "fsdp_backward_prefetch"},
    {"FSDP_FORWARD_PREFETCH", "fsdp_forward_prefetch"},
    {"FSDP_STATE_DICT_TYPE", "fsdp_state_dict_type"},
    {"FSDP_USE_ORIG_PARAMS", "fsdp_use_orig_params"},
    {"FSDP_SYNC_MODULE_STATES", "fsdp_sync_module_states"},
    {"FSDP_CPU_RAM_EFFICIENT_LOADING", "fsdp_cpu_ram_efficient_loading"},
    {"FSDP_ACTIVATION_CHECKPOINTING", "fsdp_activation_checkpointing"},
    {"FSDP_IGNORED_MODULES", "fsdp_ignored_modules"},
};

// The value of a variable; NULL where it is unset or says nothing.
static const char *said(const char *name) {
  const char *v = getenv(name);
  return v && *v && strcmp(v, "None") && strcmp(v, "none") ? v : NULL;
}

static bool is_true(const char *name) {
  const char *v = said(name);
  return v && (!strcmp(v, "true") || !strcmp(v, "True") || !strcmp(v, "1"));
}

// Python's str(): numbers and booleans are YAML as they are; everything else is quoted.
static void put(zg_str *s, const char *indent, const char *key, const char *v) {
  char *end;
  strtod(v, &end);
  const bool plain = !*end || !strcmp(v, "true") || !strcmp(v, "false") || !strcmp(v, "True") || !strcmp(v, "False");
  zg_str_add(s, plain ? "%s%s: " : "%s%s: '", indent, key);
  for (const char *p = v; *p; p++) zg_str_add(s, *p == '\'' ? "''" : "%c", *p);
  zg_str_add(s, plain ? "\n" : "'\n");
}

static void put_rows(zg_str *s, const row *rows, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (said(rows[i].env)) put(s, "  ", rows[i].key, said(rows[i].env));
}

// FSDP 1 names a strategy, lower case in one variable and as a number in another; FSDP 2 says true or false.
static void put_reshard(zg_str *s) {
  const char *after = said("FSDP_RESHARD_AFTER_FORWARD"), *strategy = said("FSDP_SHARDING_STRATEGY"), *version = said("FSDP_VERSION");
  char upper[64] = "";
  const bool named = after && strcmp(after, "true") && strcmp(after, "false");
  for (size_t i = 0; named && after[i] && i < sizeof upper - 1; i++) upper[i] = (char)toupper((unsigned char)after[i]);
  if (named) put(s, "  ", "fsdp_reshard_after_forward", upper);
  else if (after && version && !strcmp(version, "2")) put(s, "  ", "fsdp_reshard_after_forward", after);
  else if (strategy) put(s, "  ", "fsdp_sharding_strategy", strategy);
}

static void write_document(zg_str *s) {
  const char *file = said("ACCELERATE_DEEPSPEED_CONFIG_FILE"), *precision = said("ACCELERATE_MIXED_PRECISION"), *world = said("WORLD_SIZE");
  const bool deepspeed = is_true("ACCELERATE_USE_DEEPSPEED"), fsdp = is_true("ACCELERATE_USE_FSDP"), cpu = is_true("ACCELERATE_USE_CPU");
  const bool several = world && strcmp(world, "1");
  zg_str_add(s, "distributed_type: %s\n", deepspeed ? "DEEPSPEED" : fsdp ? "FSDP" : !several ? "'NO'" : cpu ? "MULTI_CPU" : "MULTI_GPU");
  if (world) put(s, "", "num_processes", world);
  if (precision && !(deepspeed && file)) put(s, "", "mixed_precision", precision);   // beside a JSON file it is Accelerate's default
  if (cpu) put(s, "", "use_cpu", "true");
  if (deepspeed) {
    zg_str_add(s, "deepspeed_config:\n");
    if (file) put(s, "  ", "deepspeed_config_file", file);
    else put_rows(s, deepspeed_rows, ZG_COUNT(deepspeed_rows));
  } else if (fsdp) {
    zg_str_add(s, "fsdp_config:\n");
    put_reshard(s);
    put_rows(s, fsdp_rows, ZG_COUNT(fsdp_rows));
  }
}

zg_status zg__accelerate_env(zg_config *cfg, const zg_yaml **out) {
  *out = NULL;
  if (!getenv("ACCELERATE_MIXED_PRECISION") && !getenv("ACCELERATE_USE_DEEPSPEED") && !getenv("ACCELERATE_USE_FSDP")) return NULL;
  zg_str s = {0};
  write_document(&s);
  zg_status status = zg_yaml_parse(&cfg->mem, "environment of accelerate launch", s.at, s.n, out);
  zg_str_fini(&s);
  return status;
}
