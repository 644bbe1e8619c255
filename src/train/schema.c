// The configuration's schema: every key, its kind, default, range and meaning. Nothing else in the program lists keys.
#include "train/config_priv.h"

#define AT(field) .offset = offsetof(zg_config, field)
#define IN_LOSS(field) .offset = offsetof(zg_cfg_loss, field)
#define IN_GROUP(field) .offset = offsetof(zg_cfg_group, field)
#define CHOICES(...) .choices = (const char *const[]){__VA_ARGS__, NULL}
#define RANGE(lo, hi) .min = lo, .max = hi
#define BIT(e) (1u << (e))
#define MANY 9.2e18
#define MAX_STEPS 1e15

#define FORMATS CHOICES("auto", "text", "tokens", "npy", "npz", "batches", "idx", "csv", "random")
#define MOMENTUM (BIT(ZG_CFG_OPT_SGD) | BIT(ZG_CFG_OPT_MUON))
#define BETAS (BIT(ZG_CFG_OPT_ADAM) | BIT(ZG_CFG_OPT_ADAMW) | BIT(ZG_CFG_OPT_LION) | BIT(ZG_CFG_OPT_LAMB) | BIT(ZG_CFG_OPT_MUON))
#define EPS (BIT(ZG_CFG_OPT_ADAM) | BIT(ZG_CFG_OPT_ADAMW) | BIT(ZG_CFG_OPT_ADAGRAD) | BIT(ZG_CFG_OPT_LAMB) | BIT(ZG_CFG_OPT_MUON))
#define DS_WARMUP (BIT(ZG_CFG_LR_WARMUP) | BIT(ZG_CFG_LR_WARMUP_DECAY))
#define OURS (BIT(ZG_CFG_LR_LINEAR) | BIT(ZG_CFG_LR_COSINE) | BIT(ZG_CFG_LR_WSD))

// clang-format off
static const zg_key loss_keys[] = {
  {"kind", ZG_KEY_ENUM, IN_LOSS(kind), "cross_entropy", "what is minimised; graph_output: the model computes its loss",
   CHOICES("cross_entropy", "mse", "l1", "huber", "bce_with_logits", "graph_output")},
  {"logits", ZG_KEY_STR, IN_LOSS(logits), NULL, "graph output the loss reads; unset: the only one"},
  {"prediction", ZG_KEY_STR, IN_LOSS(prediction), NULL, "the same as logits, for regressions"},
  {"labels", ZG_KEY_STR, IN_LOSS(labels), "labels", "array of the data set (or graph input) with the targets"},
  {"shift", ZG_KEY_BOOL, IN_LOSS(shift), "false", "position t predicts label t + 1 (labels are the inputs)",
   .when = BIT(ZG_CFG_LOSS_CROSS_ENTROPY)},
  {"ignore_index", ZG_KEY_INT, IN_LOSS(ignore_index), "-100", "label that counts nothing", .when = BIT(ZG_CFG_LOSS_CROSS_ENTROPY)},
  {"label_smoothing", ZG_KEY_FLOAT, IN_LOSS(label_smoothing), "0.0", "mass spread over all classes",
   RANGE(0, 0.999999), .when = BIT(ZG_CFG_LOSS_CROSS_ENTROPY)},
  {"class_axis", ZG_KEY_INT, IN_LOSS(class_axis), "-1", "axis of the logits that counts classes (1 for [N,C,H,W])",
   RANGE(-8, 7), .when = BIT(ZG_CFG_LOSS_CROSS_ENTROPY)},
  {"from_probs", ZG_KEY_BOOL, IN_LOSS(from_probs), "false", "the graph ends in Softmax: the loss is -log p",
   .when = BIT(ZG_CFG_LOSS_CROSS_ENTROPY)},
  {"delta", ZG_KEY_FLOAT, IN_LOSS(delta), "1.0", "where huber turns from square to linear", RANGE(1e-30, 1e30),
   .when = BIT(ZG_CFG_LOSS_HUBER)},
  {"weight", ZG_KEY_FLOAT, IN_LOSS(weight), "1.0", "factor of this loss in the sum", RANGE(-1e30, 1e30)},
};
// clang-format on
const zg_key_table zg__loss_table = {loss_keys, ZG_COUNT(loss_keys), sizeof(zg_cfg_loss), "kind"};

// clang-format off
static const zg_key group_keys[] = {
  {"match", ZG_KEY_STRS, IN_GROUP(match), NULL, "globs over parameter names; the first group that matches wins"},
  {"lr", ZG_KEY_FLOAT, IN_GROUP(lr), NULL, "the group's own learning rate", RANGE(0, 1e30)},
  {"weight_decay", ZG_KEY_FLOAT, IN_GROUP(weight_decay), NULL, "the group's own weight decay", RANGE(0, 1e30)},
};
// clang-format on
const zg_key_table zg__group_table = {group_keys, ZG_COUNT(group_keys), sizeof(zg_cfg_group), NULL};

// clang-format off
#define DATA_SET(name, FIELD, default_shuffle)                                                                              \
  {"data." name ".path", ZG_KEY_STR, AT(data.FIELD.path), NULL, "file with the " name " data"},                             \
  {"data." name ".format", ZG_KEY_ENUM, AT(data.FIELD.format), "auto",                                                      \
   "auto: by name and header; batches: npz whose leading axis counts micro-steps", FORMATS},                                \
  {"data." name ".batch_size", ZG_KEY_INT, AT(data.FIELD.batch_size), NULL,                                                 \
   "samples per rank and micro-step; unset: as the model's shapes, dims or the training data say", RANGE(1, MAX_STEPS)},    \
  {"data." name ".seq_len", ZG_KEY_INT, AT(data.FIELD.seq_len), NULL, "tokens per sample of text and token files",         \
   RANGE(1, MAX_STEPS)},                                                                                                    \
  {"data." name ".shuffle", ZG_KEY_BOOL, AT(data.FIELD.shuffle), default_shuffle,                                           \
   "new order each epoch, fixed by seed and epoch"},                                                                        \
  {"data." name ".labels_path", ZG_KEY_STR, AT(data.FIELD.labels_path), NULL, "idx: file of the labels; unset: by its name"}, \
  {"data." name ".label_column", ZG_KEY_STR, AT(data.FIELD.label_column), NULL, "csv: column with the labels; unset: by name, or the last"}, \
  {"data." name ".token_bits", ZG_KEY_INT, AT(data.FIELD.token_bits), "0", "tokens without a header: 16 or 32; 0: by file name", RANGE(0, 32)}

#define OFFLOAD(name, FIELD)                                                                                                \
  {"zero." name ".device", ZG_KEY_ENUM, AT(zero.FIELD.device), "none", "where it rests between uses",                       \
   CHOICES("none", "cpu", "nvme")},                                                                                         \
  {"zero." name ".nvme_path", ZG_KEY_STR, AT(zero.FIELD.nvme_path), NULL, "directory for device nvme"},                     \
  {"zero." name ".pin_memory", ZG_KEY_BOOL, AT(zero.FIELD.pin_memory), "true", "page-locked host memory"}

static const zg_key keys[] = {
  {"model", ZG_KEY_STR, AT(model), NULL, "ONNX file; the positional argument overrides it"},
  {"dims", ZG_KEY_INT_MAP, AT(dims), NULL, "sizes of symbolic dimensions, by name", RANGE(1, MANY)},
  DATA_SET("train", train, "true"),
  DATA_SET("eval", eval, "false"),
  {"data.eval.every", ZG_KEY_INT, AT(data.eval.every), "0", "steps between evaluations; 0: only at the end", RANGE(0, MAX_STEPS)},
  {"data.eval.batches", ZG_KEY_INT, AT(data.eval.batches), "0", "batches of each evaluation; 0: all", RANGE(0, MAX_STEPS)},
  {"data.inputs", ZG_KEY_STR_MAP, AT(data.inputs), NULL, "model input: array of the data set, where names differ"},
  {"loss", ZG_KEY_LIST, AT(loss), NULL, "one loss, or a list of them that is summed", .sub = &zg__loss_table},
  {"trainable", ZG_KEY_STRS, AT(trainable), NULL, "globs of parameters to train; unset: all that the graph makes trainable"},
  {"frozen", ZG_KEY_STRS, AT(frozen), NULL, "globs of parameters to leave alone"},
  {"batch_norm", ZG_KEY_ENUM, AT(batch_norm), "train", "train: batch statistics, running ones updated; frozen: as exported",
   CHOICES("train", "frozen")},
  {"dropout", ZG_KEY_DROPOUT, AT(dropout), "graph", "graph: as exported; off; or one ratio for all"},
  {"untie", ZG_KEY_ENUM, AT(untie), "off", "auto: give norms and biases that the exporter merged their own tensors again",
   CHOICES("off", "auto")},
  {"ties", ZG_KEY_NAME_SETS, AT(ties), NULL, "lists of tensor names that are one parameter"},

  {"optimizer.type", ZG_KEY_ENUM, AT(optimizer.type), "adamw", "update rule (PyTorch's arithmetic)",
   CHOICES("sgd", "adam", "adamw", "lion", "adagrad", "lamb", "muon")},
  {"optimizer.lr", ZG_KEY_FLOAT, AT(optimizer.lr), "1.0e-3", "learning rate", RANGE(0, 1e30)},
  {"optimizer.betas", ZG_KEY_PAIR, AT(optimizer.betas), "[0.9, 0.999]", "decay of the two moments", RANGE(0, 0.9999999999),
   .when = BETAS},
  {"optimizer.eps", ZG_KEY_FLOAT, AT(optimizer.eps), "1.0e-8", "added to the denominator", RANGE(0, 1e30), .when = EPS},
  {"optimizer.weight_decay", ZG_KEY_FLOAT, AT(optimizer.weight_decay), "0.0",
   "decoupled in adamw, lion, lamb, muon; added to the gradient in the others", RANGE(0, 1e30)},
  {"optimizer.momentum", ZG_KEY_FLOAT, AT(optimizer.momentum), "0.0", "part of the last update that is kept",
   RANGE(0, 1), .when = MOMENTUM},
  {"optimizer.dampening", ZG_KEY_FLOAT, AT(optimizer.dampening), "0.0", "part of the gradient kept out of the momentum",
   RANGE(0, 1), .when = BIT(ZG_CFG_OPT_SGD)},
  {"optimizer.nesterov", ZG_KEY_BOOL, AT(optimizer.nesterov), "false", "look ahead; needs momentum and no dampening",
   .when = MOMENTUM},
  {"optimizer.groups", ZG_KEY_LIST, AT(optimizer.groups), NULL, "parameters with values of their own", .sub = &zg__group_table},

  {"lr_scheduler.type", ZG_KEY_ENUM, AT(lr_scheduler.type), "constant", "shape of the learning rate; warmup_*: DeepSpeed's",
   CHOICES("constant", "linear", "cosine", "wsd", "warmup_lr", "warmup_decay_lr", "warmup_cosine_lr")},
  {"lr_scheduler.warmup_steps", ZG_KEY_INT, AT(lr_scheduler.warmup_steps), "0", "steps from 0 up to the learning rate",
   RANGE(0, MAX_STEPS)},
  {"lr_scheduler.total_steps", ZG_KEY_INT, AT(lr_scheduler.total_steps), NULL, "end of the decay; unset: training.steps",
   RANGE(1, MAX_STEPS)},
  {"lr_scheduler.min_lr", ZG_KEY_FLOAT, AT(lr_scheduler.min_lr), NULL, "learning rate at the end of the decay", RANGE(0, 1e30),
   .when = OURS},
  {"lr_scheduler.min_lr_ratio", ZG_KEY_FLOAT, AT(lr_scheduler.min_lr_ratio), NULL, "the same as a part of the learning rate",
   RANGE(0, 1), .when = OURS},
  {"lr_scheduler.stable_steps", ZG_KEY_INT, AT(lr_scheduler.stable_steps), NULL,
   "steps at full rate; unset: what warm-up and decay leave", RANGE(0, MAX_STEPS), .when = BIT(ZG_CFG_LR_WSD)},
  {"lr_scheduler.decay_steps", ZG_KEY_INT, AT(lr_scheduler.decay_steps), NULL, "steps of the decay; unset: a tenth of all",
   RANGE(0, MAX_STEPS), .when = BIT(ZG_CFG_LR_WSD)},
  {"lr_scheduler.warmup_min_lr", ZG_KEY_FLOAT, AT(lr_scheduler.warmup_min_lr), "0.0", "where the warm-up starts",
   RANGE(0, 1e30), .when = DS_WARMUP},
  {"lr_scheduler.warmup_max_lr", ZG_KEY_FLOAT, AT(lr_scheduler.warmup_max_lr), NULL, "where it ends; unset: optimizer.lr",
   RANGE(0, 1e30), .when = DS_WARMUP},
  {"lr_scheduler.warmup_type", ZG_KEY_ENUM, AT(lr_scheduler.warmup_type), "log", "log: ln(t+1)/ln(W); linear: t/W",
   CHOICES("log", "linear"), .when = DS_WARMUP | BIT(ZG_CFG_LR_WARMUP_COSINE)},
  {"lr_scheduler.warmup_min_ratio", ZG_KEY_FLOAT, AT(lr_scheduler.warmup_min_ratio), "0.0", "where the warm-up starts, of the rate",
   RANGE(0, 1), .when = BIT(ZG_CFG_LR_WARMUP_COSINE)},
  {"lr_scheduler.cos_min_ratio", ZG_KEY_FLOAT, AT(lr_scheduler.cos_min_ratio), "1.0e-4", "where the cosine ends, of the rate",
   RANGE(0, 1), .when = BIT(ZG_CFG_LR_WARMUP_COSINE)},

  {"training.steps", ZG_KEY_INT, AT(training.steps), NULL, "updates to make", RANGE(0, MAX_STEPS)},
  {"training.epochs", ZG_KEY_INT, AT(training.epochs), NULL, "passes over the data, where steps is unset; 1 if both are",
   RANGE(0, MAX_STEPS)},
  {"training.seed", ZG_KEY_INT, AT(training.seed), "1", "of shuffling, dropout and other random numbers", RANGE(0, MANY)},
  {"training.gradient_accumulation_steps", ZG_KEY_INT, AT(training.gradient_accumulation_steps), "1", "micro-steps per update",
   RANGE(1, 1e9)},
  {"training.gradient_clipping", ZG_KEY_FLOAT, AT(training.gradient_clipping), "1.0",
   "bound of the global gradient norm; 0: none", RANGE(0, 1e30)},
  {"training.log_every", ZG_KEY_INT, AT(training.log_every), "10", "steps between progress lines", RANGE(1, MAX_STEPS)},
  {"training.save_every", ZG_KEY_INT, AT(training.save_every), "0", "steps between checkpoints; 0: only at the end",
   RANGE(0, MAX_STEPS)},
  {"training.keep", ZG_KEY_INT, AT(training.keep), "3", "newest checkpoints kept; 0: all", RANGE(0, 1e9)},
  {"training.output_dir", ZG_KEY_STR, AT(training.output_dir), "out", "where checkpoints, metrics and the model go"},
  {"training.train_batch_size", ZG_KEY_INT, AT(training.train_batch_size), NULL,
   "samples per update over all ranks: must be batch size x accumulation x ranks; gives the one of them that is missing",
   RANGE(1, MAX_STEPS)},
  {"memory.budget", ZG_KEY_BYTES, AT(memory.budget), NULL, "per rank, as 16GiB, 512MB or bytes; unset: what the device has",
   RANGE(1, MANY)},
  {"memory.recompute", ZG_KEY_ENUM, AT(memory.recompute), "auto", "auto: recompute in backward what the budget asks for; full: all that can be",
   CHOICES("none", "auto", "full")},
  {"memory.loss_chunk", ZG_KEY_COUNT, AT(memory.loss_chunk), "auto",
   "rows of logits held at a time by a cross entropy over a linear layer; auto: in chunks where that lowers the peak by 3 % or more",
   CHOICES("auto", "off"), RANGE(1, 1e9)},
  {"device", ZG_KEY_ENUM, AT(device), "auto", "auto: cuda where there is one", CHOICES("auto", "cpu", "cuda")},
  {"threads", ZG_KEY_INT, AT(threads), "0", "CPU threads per rank; 0: the cores divided by the ranks here", RANGE(0, 4096)},

  {"distributed_type", ZG_KEY_ENUM, AT(distributed_type), "auto",
   "Accelerate's: NO is one rank; MULTI_*: stage 0; DEEPSPEED and FSDP: their own sections; auto: zero.stage as given",
   CHOICES("auto", "NO", "MULTI_CPU", "MULTI_GPU", "DEEPSPEED", "FSDP")},
  {"mixed_precision", ZG_KEY_ENUM, AT(mixed_precision), "no", "type of activations and gathered weights (master weights: fp32)",
   CHOICES("no", "bf16", "fp16")},
  {"fp16.loss_scale", ZG_KEY_FLOAT, AT(fp16.loss_scale), "0", "0: dynamic", RANGE(0, 1e30)},
  {"fp16.initial_scale_power", ZG_KEY_INT, AT(fp16.initial_scale_power), "16", "first dynamic scale, as a power of two", RANGE(0, 60)},
  {"fp16.loss_scale_window", ZG_KEY_INT, AT(fp16.loss_scale_window), "1000", "good steps before the scale doubles", RANGE(1, MAX_STEPS)},
  {"fp16.hysteresis", ZG_KEY_INT, AT(fp16.hysteresis), "2", "overflows before the scale halves", RANGE(1, 1e9)},
  {"fp16.consecutive_hysteresis", ZG_KEY_BOOL, AT(fp16.consecutive_hysteresis), "false", "a good step restores the hysteresis"},
  {"fp16.min_loss_scale", ZG_KEY_FLOAT, AT(fp16.min_loss_scale), "1", "an overflow at this scale ends the run", RANGE(1e-30, 1e30)},
  {"num_processes", ZG_KEY_INT, AT(num_processes), "1", "ranks, of all machines together", RANGE(1, 1e6)},
  {"num_machines", ZG_KEY_INT, AT(num_machines), "1", "machines; num_processes is a multiple of it", RANGE(1, 1e6)},
  {"machine_rank", ZG_KEY_INT, AT(machine_rank), "0", "this machine, from 0: the one key that differs between them", RANGE(0, 1e6)},
  {"main_process_ip", ZG_KEY_STR, AT(main_process_ip), NULL, "address of machine 0"},
  {"main_process_port", ZG_KEY_INT, AT(main_process_port), "29500", "its port; 0: any free one (one machine only)", RANGE(0, 65535)},
  {"gpu_ids", ZG_KEY_STR, AT(gpu_ids), "all", "GPUs of this machine: all, or 0,1"},

  {"zero.stage", ZG_KEY_INT, AT(zero.stage), "0", "what is cut over the ranks: 1 optimizer, 2 gradients too, 3 parameters too", RANGE(0, 3)},
  {"zero.reduce_bucket_size", ZG_KEY_INT, AT(zero.reduce_bucket_size), "500000000", "elements reduced at once, at most", RANGE(1, MANY)},
  {"zero.allgather_bucket_size", ZG_KEY_INT, AT(zero.allgather_bucket_size), "500000000", "elements gathered at once, at most", RANGE(1, MANY)},
  {"zero.overlap_comm", ZG_KEY_BOOL, AT(zero.overlap_comm), "true", "communicate beside computation"},
  {"zero.stage3_prefetch_bucket_size", ZG_KEY_INT, AT(zero.stage3_prefetch_bucket_size), "50000000", "elements gathered ahead, at most", RANGE(0, MANY)},
  {"zero.stage3_param_persistence_threshold", ZG_KEY_INT, AT(zero.stage3_param_persistence_threshold), "100000",
   "parameters up to this many elements stay gathered", RANGE(0, MANY)},
  {"zero.stage3_model_persistence_threshold", ZG_KEY_INT, AT(zero.stage3_model_persistence_threshold), "9223372036854775807",
   "elements that stay gathered in all, at most"},
  {"zero.stage3_max_live_parameters", ZG_KEY_INT, AT(zero.stage3_max_live_parameters), "1000000000", "elements gathered at a time, at most", RANGE(0, MANY)},
  {"zero.stage3_max_reuse_distance", ZG_KEY_INT, AT(zero.stage3_max_reuse_distance), NULL,
   "stay gathered if used again within this many elements; unset: as memory.budget allows (DeepSpeed: 1e9, which never releases in small models)"},
  {"zero.zero_hpz_partition_size", ZG_KEY_INT, AT(zero.zero_hpz_partition_size), "1", "ranks of a second shard for backward's gathers; 1: none", RANGE(1, 1e6)},
  {"zero.mics_shard_size", ZG_KEY_INT, AT(zero.mics_shard_size), "-1", "ranks that share one set of shards; -1: all", RANGE(-1, 1e6)},
  {"zero.grad_accum_dtype", ZG_KEY_ENUM, AT(zero.grad_accum_dtype), "fp32", "gradients accumulate in", CHOICES("fp32", "bf16", "fp16")},
  {"zero.communication_data_type", ZG_KEY_ENUM, AT(zero.communication_data_type), "fp32", "gradients are reduced in", CHOICES("fp32", "bf16", "fp16")},
  OFFLOAD("offload_optimizer", offload_optimizer),
  {"zero.offload_optimizer.buffer_count", ZG_KEY_INT, AT(zero.offload_optimizer.buffer_count), "4", "buffers for nvme", RANGE(1, 1e6)},
  {"zero.offload_optimizer.ratio", ZG_KEY_FLOAT, AT(zero.offload_optimizer.ratio), "1.0", "part of the states that is offloaded", RANGE(0, 1)},
  OFFLOAD("offload_param", offload_param),
  {"zero.offload_param.buffer_count", ZG_KEY_INT, AT(zero.offload_param.buffer_count), "5", "buffers for nvme", RANGE(1, 1e6)},
  {"zero.offload_param.buffer_size", ZG_KEY_INT, AT(zero.offload_param.buffer_size), "100000000", "elements of one buffer", RANGE(1, MANY)},
  {"zero.offload_param.max_in_cpu", ZG_KEY_INT, AT(zero.offload_param.max_in_cpu), "1000000000", "elements kept in host memory with nvme", RANGE(0, MANY)},
};
// clang-format on
const zg_key_table zg__config_table = {keys, ZG_COUNT(keys), sizeof(zg_config), NULL};

// clang-format off
const zg_type_default zg__opt_defaults[] = {
  {ZG_CFG_OPT_ADAMW, "optimizer.weight_decay", "0.01"}, {ZG_CFG_OPT_LION, "optimizer.betas", "[0.9, 0.99]"},
  {ZG_CFG_OPT_LION, "optimizer.lr", "1.0e-4"},          {ZG_CFG_OPT_ADAGRAD, "optimizer.eps", "1.0e-10"},
  {ZG_CFG_OPT_ADAGRAD, "optimizer.lr", "1.0e-2"},       {ZG_CFG_OPT_LAMB, "optimizer.eps", "1.0e-6"},
  {ZG_CFG_OPT_MUON, "optimizer.momentum", "0.95"},      {ZG_CFG_OPT_MUON, "optimizer.nesterov", "true"},
  {ZG_CFG_OPT_MUON, "optimizer.weight_decay", "0.1"},
};
// clang-format on
const size_t zg__n_opt_defaults = ZG_COUNT(zg__opt_defaults);

int zg__key_find(const zg_key_table *t, const char *path) {
  for (size_t i = 0; i < t->n; i++)
    if (!strcmp(t->keys[i].path, path)) return (int)i;
  return -1;
}
