// Graph passes. One per file under graph/pass/; each reads a graph and builds another. sched/pipeline.h holds the table that
// puts them in order. Ownership: the result is the caller's, the argument stays the caller's.
#pragma once
#include "graph/core.h"

// Replaces every op without ZG_CORE by its lowering, recursively; drops dead nodes. Provides ZG_PROP_CORE.
zg_status zg_pass_lower_to_core(const zg_graph *g, zg_graph **out);

// Drops dead nodes; folds constants; algebra that exporters leave behind (x*1, x+0, transpose of transpose, reshape of
// reshape, cast chains, mul by reciprocal constants, matmul with transposed operand -> ta/tb flags, expand feeding a map).
zg_status zg_pass_opt_simplify(const zg_graph *g, zg_graph **out);

// Spelled-out norms and rotary embeddings become the ops layer_norm, rms_norm and rotary.
zg_status zg_pass_opt_layer_norm(const zg_graph *g, zg_graph **out);
zg_status zg_pass_opt_rms_norm(const zg_graph *g, zg_graph **out);
zg_status zg_pass_opt_rotary(const zg_graph *g, zg_graph **out);

// Spelled-out attention, and the op `attention`, become the core op flash_attention; constant causal masks its attribute.
zg_status zg_pass_opt_attention(const zg_graph *g, zg_graph **out);

// Images between convolutions keep their channels last: [N, C, d..] becomes [N, d.., C], with transposes beside the windows that the
// lowering takes as strides. f32. Takes and gives core ops.
zg_status zg_pass_opt_channels_last(const zg_graph *g, zg_graph **out);

// Recurrent layers (the op `recurrent`) unrolled over their time steps; before autodiff.
zg_status zg_pass_lower_cells(const zg_graph *g, zg_graph **out);

// Matrix products and attention, with `convs` convolutions too, in `half` (bf16, f16) with f32 sums; parameters, states and all else stay f32. Takes and gives core
// ops.
zg_status zg_pass_lower_half(const zg_graph *g, zg_dtype half, bool convs, zg_graph **out);

// Sums of products over few elements each (an unrolled recurrence's weight gradients) become one product over all of them.
zg_status zg_pass_opt_merge_products(const zg_graph *g, zg_graph **out);

// Adds a ZG_OUT_LOSS output that is the weighted sum of the losses asked for. Requires the graph's outputs by name; label
// arrays become new inputs. Provides ZG_PROP_LOSS.
typedef enum { ZG_LOSS_CROSS_ENTROPY, ZG_LOSS_MSE, ZG_LOSS_L1, ZG_LOSS_HUBER, ZG_LOSS_BCE_LOGITS, ZG_LOSS_GRAPH_OUTPUT } zg_loss_kind;
typedef struct {
  zg_loss_kind kind;
  const char *prediction;        // output name (logits)
  const char *labels;            // input name to create (or use, if the graph has it); unused for GRAPH_OUTPUT
  zg_type labels_type;           // what the data give; rank 0 dtype f32 with `labels_known` false: derived from the prediction
  bool labels_known;
  double weight;                 // 1.0
  bool shift;                    // predictions [:, :-1] against labels [:, 1:]
  bool from_probs;
  int64_t ignore_index, class_axis;
  double label_smoothing, delta;
  bool accuracy;                 // cross-entropy: also give the VALUE output "@accuracy", the share of labels that are the top class
} zg_loss_spec;
zg_status zg_pass_attach_loss(const zg_graph *g, const zg_loss_spec *losses, uint32_t n, zg_graph **out);

// Cross entropy over a linear layer (matmul [+ bias], through views and casts of its result) that nobody else reads but the count
// of right answers becomes linear_cross_entropy: `rows` rows of logits at a time, with the gradients. `seed`: d loss, as autodiff
// will have it. Results equal those without up to the order in which the weight's gradient is summed.
zg_status zg_pass_opt_loss_chunk(const zg_graph *g, int64_t rows, double seed, zg_graph **out);
// The largest of these layers: rows x width times width x classes; false: there is none.
typedef struct { int64_t rows, width, classes; } zg_linear_loss;
bool zg_find_linear_loss(const zg_graph *g, zg_linear_loss *out);

// Reverse mode, source to source: adds a ZG_OUT_GRAD for each param with role ZG_ROLE_TRAINABLE (one that the loss does not
// reach gets a zero gradient and a warning). d loss = `seed` (1/k under accumulation). Nodes on a differentiable path with
// neither gradient rule nor lowering are an error that names them. Also takes extra differentiable leaves (`wrt`, inputs by
// name) for check-grad and tests. Provides ZG_PROP_GRADS.
// scaled: the seed is multiplied by the input "@loss_scale": f32[], and so is every gradient (fp16; see zg_opt_spec.scaled).
typedef struct { double seed; const char *const *wrt; uint32_t n_wrt; bool params, scaled; } zg_autodiff_options;
zg_status zg_pass_lower_autodiff(const zg_graph *g, const zg_autodiff_options *o, zg_graph **out);

// Optimizer. Replaces ZG_OUT_GRAD outputs by updates of params and of new states. Run-time scalars are inputs: "@lr" (base
// rate after the schedule), "@bias1", "@bias2" (1 - beta^t of Adam), "@first" (1 at step 0). Adds VALUE outputs "@grad_norm"
// (before clipping). Arithmetic is PyTorch's (docs/training.md). Provides ZG_PROP_STEP.
typedef enum { ZG_OPT_SGD, ZG_OPT_ADAM, ZG_OPT_ADAMW, ZG_OPT_LION, ZG_OPT_ADAGRAD, ZG_OPT_LAMB, ZG_OPT_MUON } zg_opt_kind;
typedef struct { double lr_scale, weight_decay; const char *const *match; uint32_t n_match; } zg_opt_group;  // first match wins
typedef struct {
  zg_opt_kind kind;
  double lr, beta1, beta2, eps, weight_decay, momentum, dampening;
  bool nesterov;
  const zg_opt_group *groups; uint32_t n_groups;
  double clip;                   // global L2 norm; 0: none
  // Gradients of a rank are shards of the whole ones: the squared norm is the sum of column 0 of the first `shards` rows of state
  // `sums`: f32[ranks,3] (the other ranks hold copies of those shards).
  const char *sums;              // NULL: the gradients are whole, their norm is computed here
  int64_t ranks, shards;
  // Loss scaling (Micikevicius et al. 2018): gradients come multiplied by a scale, and are multiplied by the input "@inv_scale" first
  // (with `sums`, those are of gradients without scale). Where their squared norm is not finite, every parameter and state keeps its
  // value: the step is skipped, on all ranks alike. Whoever runs it sees that from "@grad_norm", which is then not finite, and lowers
  // the scale.
  bool scaled;
} zg_opt_spec;
zg_status zg_pass_attach_optimizer(const zg_graph *g, const zg_opt_spec *o, zg_graph **out);

// Gradient accumulation: splits a graph with gradients in two. `micro`: loss and updates acc = (@first_micro ? 0 : acc) + g of
// f32 states "PARAM.grad"; `update`: leaves only, takes the accumulators as gradients (ZG_OUT_GRAD), for attach_optimizer.
zg_status zg_pass_split_accumulate(const zg_graph *g, zg_graph **micro, zg_graph **update);

// The same graph in double: every float type becomes f64, constants are converted. For finite differences.
zg_status zg_pass_widen(const zg_graph *g, zg_graph **out);
