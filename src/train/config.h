// config: what a run is told to do. Files (ours, Accelerate's, DeepSpeed's), then --set, then flags become one struct of plain
// typed fields; every field is a row of one schema table (schema.c), from which parsing, defaults, `zgraph config` and the
// manual's key list come. Knows no graph and no device.
#pragma once
#include <stdio.h>

#include "base/base.h"

#define ZG_UNSET INT64_MIN            // an integer key that was not given; numbers use NaN, strings NULL

typedef struct { const char **at; size_t n; } zg_cfg_strs;
typedef struct { zg_cfg_strs *at; size_t n; } zg_cfg_groups_of_names;
typedef struct { const char *key, *value; } zg_cfg_str_pair;
typedef struct { zg_cfg_str_pair *at; size_t n; } zg_cfg_str_map;
typedef struct { const char *key; int64_t value; } zg_cfg_int_pair;
typedef struct { zg_cfg_int_pair *at; size_t n; } zg_cfg_int_map;

// Enumerations: the order is that of the choices in schema.c.
typedef enum { ZG_CFG_DATA_AUTO, ZG_CFG_DATA_TEXT, ZG_CFG_DATA_TOKENS, ZG_CFG_DATA_NPY, ZG_CFG_DATA_NPZ, ZG_CFG_DATA_BATCHES, ZG_CFG_DATA_IDX, ZG_CFG_DATA_CSV,
               ZG_CFG_DATA_RANDOM } zg_cfg_data_format;
typedef enum { ZG_CFG_LOSS_CROSS_ENTROPY, ZG_CFG_LOSS_MSE, ZG_CFG_LOSS_L1, ZG_CFG_LOSS_HUBER, ZG_CFG_LOSS_BCE_WITH_LOGITS, ZG_CFG_LOSS_GRAPH_OUTPUT
} zg_cfg_loss_kind;
typedef enum { ZG_CFG_BN_TRAIN, ZG_CFG_BN_FROZEN } zg_cfg_bn_mode;
typedef enum { ZG_CFG_DROPOUT_GRAPH, ZG_CFG_DROPOUT_OFF, ZG_CFG_DROPOUT_RATIO } zg_cfg_dropout_mode;
typedef enum { ZG_CFG_UNTIE_OFF, ZG_CFG_UNTIE_AUTO } zg_cfg_untie_mode;
typedef enum { ZG_CFG_OPT_SGD, ZG_CFG_OPT_ADAM, ZG_CFG_OPT_ADAMW, ZG_CFG_OPT_LION, ZG_CFG_OPT_ADAGRAD, ZG_CFG_OPT_LAMB, ZG_CFG_OPT_MUON } zg_cfg_opt_type;
typedef enum { ZG_CFG_LR_CONSTANT, ZG_CFG_LR_LINEAR, ZG_CFG_LR_COSINE, ZG_CFG_LR_WSD, ZG_CFG_LR_WARMUP, ZG_CFG_LR_WARMUP_DECAY, ZG_CFG_LR_WARMUP_COSINE
} zg_cfg_lr_type;
typedef enum { ZG_CFG_WARMUP_LOG, ZG_CFG_WARMUP_LINEAR } zg_cfg_warmup_type;
enum { ZG_CFG_LOSS_CHUNK_AUTO = -1, ZG_CFG_LOSS_CHUNK_OFF = -2 };
typedef enum { ZG_CFG_RECOMPUTE_NONE, ZG_CFG_RECOMPUTE_AUTO, ZG_CFG_RECOMPUTE_FULL } zg_cfg_recompute_mode;
typedef enum { ZG_CFG_DEVICE_AUTO, ZG_CFG_DEVICE_CPU, ZG_CFG_DEVICE_CUDA } zg_cfg_device_choice;
typedef enum { ZG_CFG_MIXED_NO, ZG_CFG_MIXED_BF16, ZG_CFG_MIXED_FP16 } zg_cfg_mixed_precision;
typedef enum { ZG_CFG_OFFLOAD_NONE, ZG_CFG_OFFLOAD_CPU, ZG_CFG_OFFLOAD_NVME } zg_cfg_offload_device;
typedef enum { ZG_CFG_DIST_AUTO, ZG_CFG_DIST_NO, ZG_CFG_DIST_MULTI_CPU, ZG_CFG_DIST_MULTI_GPU, ZG_CFG_DIST_DEEPSPEED, ZG_CFG_DIST_FSDP } zg_cfg_distributed_type;
typedef enum { ZG_CFG_ACCUM_FP32, ZG_CFG_ACCUM_BF16, ZG_CFG_ACCUM_FP16 } zg_cfg_comm_dtype;

typedef struct {
  const char *path;                   // NULL: no such data set
  zg_cfg_data_format format;
  int64_t batch_size, seq_len;        // per rank and micro-step; ZG_UNSET: from dims or the model's own shape
  bool shuffle;
  const char *labels_path, *label_column;          // idx, csv: NULL where found by name
  int64_t token_bits;                 // tokens without a header: 16, 32, or 0 for the file name's
  int64_t every, batches;             // eval only: steps between evaluations (0: at the end), batches of each (0: all)
} zg_cfg_data;

// One loss; several are summed with their weights.
typedef struct {
  const char **origin;                // per key of the loss table, as in zg_config
  zg_cfg_loss_kind kind;
  const char *logits;                 // graph output the loss reads (`prediction` is the same key); NULL: the only one
  const char *prediction;             // as written; zg_config_load moves it into `logits`
  const char *labels;                 // array of the data set, or a graph input
  bool shift;                         // position t predicts label t + 1
  int64_t ignore_index;
  double label_smoothing;             // in [0, 1)
  int64_t class_axis;
  bool from_probs;                    // the graph ends in Softmax: -log p
  double delta;                       // huber
  double weight;
} zg_cfg_loss;

// Parameters whose names match a glob get their own values; NaN: the optimizer's. The first matching group wins.
typedef struct {
  const char **origin;
  zg_cfg_strs match;
  double lr, weight_decay;
} zg_cfg_group;

typedef struct {
  zg_cfg_offload_device device;
  const char *nvme_path;
  int64_t buffer_count, buffer_size, max_in_cpu;   // elements; param only: size and max_in_cpu
  bool pin_memory;
  double ratio;                       // optimizer only: part that is offloaded
} zg_cfg_offload;

typedef struct zg_config {
  const char **origin;                // per row of the schema: "run.yaml:3:5", "--set", "default", ...; see zg_config_origin
  zg_arena mem;                       // owns everything this struct points at
  struct zg__config_state *state;     // while loading
  zg_cfg_strs notes;                  // keys that were mapped or have no meaning here, one sentence each

  const char *model;                  // path; NULL where the command line names it
  zg_cfg_int_map dims;                // symbolic dimensions
  struct { zg_cfg_data train, eval; zg_cfg_str_map inputs; } data;   // inputs: model input <- array of the data set
  struct { zg_cfg_loss *at; size_t n; } loss;                        // n = 0: not configured
  zg_cfg_strs trainable, frozen;      // globs; trainable n = 0: decided by the graph
  zg_cfg_bn_mode batch_norm;
  struct { zg_cfg_dropout_mode mode; double ratio; } dropout;
  zg_cfg_untie_mode untie;
  zg_cfg_groups_of_names ties;        // each a list of tensor names that are one parameter

  struct {
    zg_cfg_opt_type type;
    double lr, betas[2], eps, weight_decay, momentum, dampening;
    bool nesterov;
    struct { zg_cfg_group *at; size_t n; } groups;
  } optimizer;
  struct {
    zg_cfg_lr_type type;
    int64_t warmup_steps, total_steps;               // total ZG_UNSET: training.steps (or epochs, counted by the trainer)
    double min_lr, min_lr_ratio;                     // NaN where not given; at most one is
    int64_t stable_steps, decay_steps;               // wsd: stable ZG_UNSET = what warmup and decay leave
    double warmup_min_lr, warmup_max_lr;             // DeepSpeed's; max NaN: optimizer.lr
    double warmup_min_ratio, cos_min_ratio;          // warmup_cosine_lr
    zg_cfg_warmup_type warmup_type;
  } lr_scheduler;
  struct {
    int64_t steps, epochs;            // ZG_UNSET where not given; both unset became epochs = 1; steps wins
    int64_t seed, gradient_accumulation_steps;
    double gradient_clipping;         // 0: none
    int64_t log_every, save_every, keep;             // save_every 0: only at the end; keep 0: all
    const char *output_dir;
    int64_t train_batch_size;         // samples per update over all ranks; ZG_UNSET: follows from the others
  } training;
  struct {
    int64_t budget;                   // bytes; ZG_UNSET: what the device has
    zg_cfg_recompute_mode recompute;
    int64_t loss_chunk;               // rows of logits at a time, or ZG_CFG_LOSS_CHUNK_*
  } memory;
  zg_cfg_device_choice device;
  int64_t threads;                    // per rank; 0: cores / local ranks

  zg_cfg_distributed_type distributed_type;
  zg_cfg_mixed_precision mixed_precision;
  struct { double loss_scale; int64_t initial_scale_power, loss_scale_window, hysteresis; bool consecutive_hysteresis;
           double min_loss_scale; } fp16;            // loss_scale 0: dynamic
  int64_t num_processes, num_machines, machine_rank; // num_processes: ranks of all machines together
  const char *main_process_ip;
  int64_t main_process_port;          // 0: any free one (one machine only)
  const char *gpu_ids;                // "all" or "0,1"
  struct {
    int64_t stage;                    // 0..3
    int64_t reduce_bucket_size, allgather_bucket_size;              // elements: upper bounds for the planner
    int64_t stage3_prefetch_bucket_size, stage3_param_persistence_threshold, stage3_model_persistence_threshold;
    int64_t stage3_max_live_parameters;
    int64_t stage3_max_reuse_distance;               // ZG_UNSET: the planner decides by memory.budget
    bool overlap_comm;
    int64_t zero_hpz_partition_size, mics_shard_size;               // 1 / -1: none
    bool auto_reduce_bucket_size, auto_prefetch_bucket_size, auto_persistence_threshold;   // "auto": see zg_config_fill_auto
    zg_cfg_comm_dtype grad_accum_dtype, communication_data_type;
    zg_cfg_offload offload_optimizer, offload_param;
  } zero;
} zg_config;

// Reads `files` in order (each a path, or the name of a packaged one), then `sets` ("key.path=value", the value as YAML); the
// later wins. *out is NULL on failure. ZG_INVALID for anything in the files, ZG_NOT_FOUND / ZG_IO for the files themselves.
zg_status zg_config_load(const char *const *files, size_t n, const char *const *sets, size_t n_sets, zg_config **out);
void zg_config_free(zg_config *cfg);                         // NULL ok

// Every resolved value and where it came from, one a line; then notes on keys that were mapped or have no meaning here.
void zg_config_print(const zg_config *cfg, FILE *to);
// The manual's key list (Markdown), from the same tables.
void zg_config_print_reference(FILE *to);

// Where the value of a schema row ("optimizer.lr") came from; NULL for an unknown key. `given`: not a default.
const char *zg_config_origin(const zg_config *cfg, const char *key);
bool zg_config_given(const zg_config *cfg, const char *key);
// NULL if `key` was given; else ZG_INVALID that names the key, its meaning and how to give it.
zg_status zg_config_require(const zg_config *cfg, const char *key);
// The name of an ENUM row's value ("data.train.format" -> "npz"); aborts for other rows.
const char *zg_config_choice(const zg_config *cfg, const char *key);
// Fills bucket sizes that DeepSpeed's files give as "auto", the way Accelerate does, from the model's width h (h * h elements
// reduced at once, 0.9 h * h ahead, 10 h persistent). Call it once the graph is known; before, they hold DeepSpeed's defaults.
void zg_config_fill_auto(zg_config *cfg, int64_t hidden_size);
// Hash of all values that must agree between ranks (all but machine_rank): compared before step 0.
uint64_t zg_config_hash(const zg_config *cfg);
