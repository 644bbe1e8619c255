// A session: one model made ready to run. Loads the ONNX file, binds its dimensions from the configuration and the data, runs
// the pipeline, opens the device, loads the weights. All verbs that touch a model start here.
#pragma once
#include "exec/exec.h"
#include "graph/onnx/onnx.h"
#include "sched/pipeline.h"
#include "train/config.h"
#include "train/data.h"
#include "train/npz.h"
#include "zero/zero.h"

typedef struct {
  const char *model_path;         // NULL: the configuration's `model`
  zg_run_mode mode;
  bool no_data;                   // dims come from the configuration alone; symbols left over take `default_dim`
  int64_t default_dim;            // 0: a symbol left over is an error
  const char *inputs_path;        // npz with one batch (run, grad); NULL: data sets of the configuration (train)
  const char *stop_after;         // pass name (dump); nothing is loaded on a device then
  const zg_device_model *model;   // what choices of the plan are judged by; NULL: "cpu"
  bool no_device;                 // plan only: nothing is allocated, weights are not read
  bool no_advice;                 // a budget that cannot be met is told without planning what would fit
  uint32_t rank, world;           // train: this rank of so many; world 0 or 1: alone. The configuration's zero.stage applies
  zg_comm *comm;                  // train: communicator to run with, borrowed until close; rank and world are its. NULL: none
} zg_session_options;

// One model input (or label array) and where its bytes come from.
typedef struct {
  const char *name;               // graph input
  zg_type type;
  uint32_t buf;                   // in the schedule
  int64_t array;                  // index in the data set it is fed from; -1: none
  void *host;                     // staging of one batch
} zg_feed;
typedef ZG_VEC(zg_feed) zg_feeds;

typedef struct zg_session {
  const zg_config *cfg;           // borrowed
  zg_session_options o;
  zg_arena mem;
  zg_onnx_model *model;
  zg_graph *graph, *eval_graph;   // imported; eval_graph: batch norm and dropout as in evaluation, NULL if there is no eval set
  zg_zero *zero;                  // partition over ranks; NULL with one rank
  zg_pipeline pipe;
  zg_device *device;
  zg_program *program;            // NULL with stop_after or no_device
  zg_data *train, *eval;          // NULL where not configured
  zg_npz *inputs;                 // inputs_path
  uint32_t known_inputs;          // run: which inputs the plan takes from the batch as constants. 0: none, 1: integers, 2: also
                                  // float vectors of up to 64 elements, 3: all
  zg_feeds feeds, eval_feeds;     // of the training step and of evaluation
  ZG_VEC(zg_loss_spec) losses;
} zg_session;

// cfg is borrowed until close. Messages name file, node or key.
zg_status zg_session_open(const zg_config *cfg, const zg_session_options *o, zg_session **out);
void zg_session_close(zg_session *s);                         // NULL ok

// What a training process on the CPU will take at its peak (VmHWM), from a session that was planned with no_device.
typedef struct {
  uint64_t before;                // resident now: code, libraries, generated kernels, the model's structure, schedule; measured
  uint64_t kernels, feeds;        // prepared kernels and threads' scratch; staging of a batch
  uint64_t running;               // code of the training loop: a constant
  uint64_t arenas, peak;          // device and host space; sum of all
} zg_process_memory;
// ZG_UNSUPPORTED on a device whose memory is not the process's.
zg_status zg_session_process(const zg_session *s, zg_process_memory *out);

static inline zg_sched *zg_session_sched(const zg_session *s) { return s->pipe.sched; }
// Array of the data that feeds a model input: as `data.inputs` says, or of the same name.
const char *zg_session_array(const zg_session *s, const char *input);
// Sets a run-time scalar input ("@lr") if the schedule has it.
zg_status zg_session_set(zg_session *s, const char *name, double value);
// Feeds the batch at a stream position (train or eval set), or the npz given.
zg_status zg_session_feed(zg_session *s, zg_data *set, uint64_t consumed);
// Reads a result of the segment just run into `data` (the output's type, contiguous).
zg_status zg_session_read(zg_session *s, const zg_sched_output *o, void *data);
// Reads a scalar result (loss, "@grad_norm"); NaN if the schedule has none of that name.
zg_status zg_session_scalar(zg_session *s, const char *segment, zg_out_kind kind, const char *name, double *out);
// A scalar result that is asked for now and taken later: on a device that queues work, asking does not wait for the work before it.
typedef struct { zg_dtype dtype; uint32_t ticket; bool queued; double value; } zg_later;
// Asks for a scalar result of the segment given last; NaN if the schedule has none of that name.
zg_status zg_session_ask(zg_session *s, const char *segment, zg_out_kind kind, const char *name, zg_later *out);
// Its value, once; waits for it where it must.
zg_status zg_session_take(zg_session *s, zg_later *l, double *out);
// Results come late: it pays to queue the next step before the last one's are taken.
static inline bool zg_session_queues(const zg_session *s) { return s->device->vt->fetch != NULL; }
// Writes the model with the weights that are in the program now. ZG_UNSUPPORTED where this rank has shards alone.
zg_status zg_session_export(zg_session *s, const char *path);
