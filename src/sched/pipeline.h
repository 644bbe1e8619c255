// The pipeline: from an imported graph to a planned schedule. One table of passes (pipeline.c) is the program's table of
// contents; the runner checks each pass's contract, runs it, verifies, times and dumps.
#pragma once
#include "graph/pass.h"
#include "sched/device_model.h"
#include "sched/recompute.h"
#include "sched/sched.h"

typedef enum { ZG_RUN_FORWARD, ZG_RUN_GRAD, ZG_RUN_TRAIN } zg_run_mode;
enum { ZG_LOSS_CHUNK_AUTO = -1 };
typedef enum { ZG_RECOMPUTE_NONE, ZG_RECOMPUTE_AUTO, ZG_RECOMPUTE_FULL } zg_recompute_mode;   // AUTO: what the budget asks for

// Passes that spread a training step over ranks, given by a room that sched/ does not know (zero/zero.h). `split` replaces
// split_accumulate: it makes `main` the micro-step with ZG_OUT_GRAD outputs, `norm` and `update` what follows it, before the
// optimizer is attached. The others work on the lowered schedule, in this order.
struct zg_pipeline;
typedef struct {
  void *self;                                         // NULL: one rank
  int64_t ranks;
  bool two_micros;                                    // the last micro-step has a segment of its own
  zg_status (*split)(void *self, struct zg_pipeline *p);
  zg_status (*partition)(void *self, zg_sched *s);
  zg_status (*reduce)(void *self, zg_sched *s);
  zg_status (*gather)(void *self, zg_sched *s);
  zg_status (*offload)(void *self, zg_sched *s);
  zg_status (*overlap)(void *self, zg_sched *s);
} zg_spread;

typedef struct {
  zg_run_mode mode;
  const zg_loss_spec *losses; uint32_t n_losses;      // GRAD, TRAIN
  zg_opt_spec optimizer;                              // TRAIN
  bool channels_last;                                 // the device's convolutions like it (graph/pass/opt_channels_last.c)
  bool unroll_cells;                                  // the device has no kernel for recurrent layers (graph/pass/lower_cells.c)
  bool half_convs;                                    // mixed precision takes convolutions too
  bool bf16;                                          // products and attention in bf16 (graph/pass/lower_half.c)
  bool fp16;                                          // the same in f16; TRAIN: the loss is scaled (graph/pass.h, zg_opt_spec.scaled)
  int64_t micro_steps;                                // gradient accumulation, >= 1
  const zg_graph *eval;                               // TRAIN: the model imported for evaluation; adds segment "eval", whose inputs are
                                                      // called "eval:NAME"; may be NULL
  const char *stop_after;                             // pass name; the IR is then left as that pass made it
  // Bytes of scratch kernels want on the device that will run them; NULL: none.
  zg_status (*add_workspaces)(void *device, zg_sched *s);
  void *device;
  zg_spread spread;                                   // TRAIN
  zg_recompute_mode recompute;                        // GRAD, TRAIN
  int64_t loss_chunk;                                 // GRAD, TRAIN: rows of logits at a time (opt_loss_chunk); 0: all;
                                                      // ZG_LOSS_CHUNK_AUTO: what lowers the peak
  const zg_device_model *model;                       // predicts what choices cost; NULL: "cpu"
  uint64_t budget;                                    // most bytes of the device's arena; 0: no limit
} zg_pipeline_options;

// What recomputation was chosen, and what it costs and saves against none (device arena; flops and predicted seconds of all
// segments run once).
typedef struct {
  zg_recompute how;
  uint32_t n_blocks;                                  // that the forward was cut into
  uint64_t bytes_before, bytes;                       // 0: no other plan was made
  double flops_before, flops;
  double seconds_before, seconds;
} zg_recompute_choice;

// What was chosen for the loss.
typedef struct {
  zg_linear_loss layer;                               // the largest one that can be computed in chunks
  int64_t rows;                                       // at a time; 0: all of them
  uint64_t bytes_before, bytes;                       // bound of the device arena without and with chunks; 0: not compared
  double seconds_before, seconds;                     // predicted
} zg_loss_chunk_choice;

// State that the passes work on. Segments: FORWARD "forward"; GRAD "grad"; TRAIN "step", or with micro_steps > 1 "micro" (each
// micro-step; input "@first_micro" = 1 in the first) and "update"; with eval, "eval". Spread over ranks: "micro", "micro_last"
// if the last differs, "update".
typedef struct zg_pipeline {
  zg_pipeline_options o;
  zg_graph *main, *update, *eval;                     // owned; update: micro_steps > 1, or spread
  zg_graph *norm;                                     // owned; spread only: runs before update, in its segment
  zg_sched *sched;                                    // owned; NULL before lowering
  zg_recompute_choice recompute;
  zg_loss_chunk_choice loss_chunk;
  const char *stopped_at;                             // name of the last pass run
} zg_pipeline;

// Runs all passes on graph g (borrowed; it is not changed). On failure *out is empty. ZG_LOG=2 tells passes and times;
// ZG_DUMP=PASS or all prints the IR to stderr; ZG_SKIP=opt_x,opt_y leaves optional passes out.
zg_status zg_pipeline_run(const zg_graph *g, const zg_pipeline_options *o, zg_pipeline *out);
void zg_pipeline_fini(zg_pipeline *p);
// The IR as text, as the last pass left it.
void zg_pipeline_print(const zg_pipeline *p, zg_str *out);
// Names of all passes in order; NULL-terminated.
const char *const *zg_pipeline_pass_names(void);
