// The training loop. Everything it does between two updates is in update(): feed, run, read; saving and evaluating happen
// only at the end of an update, so a checkpoint is always a whole state.
#include "train/trainer.h"

#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "train/checkpoint.h"
#include "train/lr.h"
#include "train/metrics.h"
#include "train/session.h"

typedef struct {
  const zg_config *cfg;
  const zg_train_options *o;
  zg_session *s;
  zg_metrics *metrics;
  zg_exec_stats stats;
  uint64_t step, total, samples;      // updates done, updates of the run, position in the data
  int64_t micro_steps;
  uint64_t units_per_update;          // tokens or samples
  uint64_t samples_per_update;        // rows of the batch, for the result
  double loss, eval_loss, eval_accuracy, grad_norm, seconds, first_s;
  uint64_t first_step;
} trainer;

// ---- signals ------------------------------------------------------------------------------------------------------
// The one flag that a handler may touch; the handlers of before come back when training ends.
static volatile sig_atomic_t stop_asked;
static void on_signal(int sig) {
  (void)sig;
  stop_asked = 1;
}

typedef struct { struct sigaction on_int, on_term; } handlers;
static void install(handlers *old) {
  struct sigaction a = {.sa_handler = on_signal};
  a.sa_flags = (int)SA_RESETHAND;     // a second Ctrl-C ends the process at once
  stop_asked = 0;
  sigaction(SIGINT, &a, &old->on_int);
  sigaction(SIGTERM, &a, &old->on_term);
}
static void restore(const handlers *old) {
  sigaction(SIGINT, &old->on_int, NULL);
  sigaction(SIGTERM, &old->on_term, NULL);
}

// ---- checkpoints --------------------------------------------------------------------------------------------------

// Buffers that make up the state: what an update changes.
static bool in_checkpoint(const trainer *t, const zg_buf *b, zg_checkpoint_file *file) {
  if (!b->persistent) return false;
  if (b->role == ZG_BUF_OPTIMIZER || b->role == ZG_BUF_MASTER) {
    *file = ZG_CKPT_OPTIMIZER;
    return true;
  }
  if (b->role != ZG_BUF_PARAM) return false;
  zg_val leaf = zg_find_leaf(t->s->graph, b->name);
  if (!zg_is(leaf) || ((const zg_param_attr *)zg_node_of(t->s->graph, leaf)->attr)->role == ZG_ROLE_FROZEN) return false;
  *file = ZG_CKPT_PARAMS;
  return true;
}

typedef struct { ZG_VEC(zg_safetensors_decl) decl; ZG_VEC(uint32_t) buf; } tensor_list;

static void list_state(const trainer *t, tensor_list lists[ZG_CKPT_N_FILES]) {
  const zg_sched *d = zg_session_sched(t->s);
  for (uint32_t b = 1; b < d->bufs.n; b++) {
    zg_checkpoint_file f;
    if (!in_checkpoint(t, &d->bufs.at[b], &f)) continue;
    zg_vec_push(&lists[f].decl, (zg_safetensors_decl){d->bufs.at[b].name, d->bufs.at[b].type});
    zg_vec_push(&lists[f].buf, b);
  }
}

static void free_lists(tensor_list lists[ZG_CKPT_N_FILES]) {
  for (int f = 0; f < ZG_CKPT_N_FILES; f++) {
    zg_vec_fini(&lists[f].decl);
    zg_vec_fini(&lists[f].buf);
  }
}

enum { PIECE = 1 << 20 };

static zg_status write_tensor(trainer *t, zg_checkpoint_writer *w, zg_checkpoint_file f, size_t i, uint32_t buf, void *piece) {
  uint64_t n = zg_session_sched(t->s)->bufs.at[buf].bytes;
  for (uint64_t at = 0; at < n; at += PIECE) {
    uint64_t m = ZG_MIN((uint64_t)PIECE, n - at);
    ZG_TRY(t->s->device->vt->read(t->s->program, buf, at, piece, m));
    ZG_TRY(zg_checkpoint_write(w, f, i, at, piece, m));
  }
  return NULL;
}

static zg_status save(trainer *t) {
  tensor_list lists[ZG_CKPT_N_FILES] = {0};
  zg_checkpoint_decls decls[ZG_CKPT_N_FILES];
  zg_checkpoint_writer *w = NULL;
  void *piece = zg_alloc(PIECE);
  char *path = NULL;
  zg_status status = NULL;
  list_state(t, lists);
  for (int f = 0; f < ZG_CKPT_N_FILES; f++) decls[f] = (zg_checkpoint_decls){lists[f].decl.at, lists[f].decl.n};
  ZG_TRY_OUT(zg_checkpoint_begin(t->cfg->training.output_dir, t->step, 0, decls, &w));
  for (int f = 0; f < ZG_CKPT_N_FILES; f++)
    for (size_t i = 0; i < lists[f].buf.n; i++) ZG_TRY_OUT(write_tensor(t, w, (zg_checkpoint_file)f, i, lists[f].buf.at[i], piece));
  zg_checkpoint_state state = {.step = t->step, .samples = t->samples, .seed = (uint64_t)t->cfg->training.seed, .world = 1,
                               .loss_scale = 1, .loss = t->loss, .seconds = t->seconds};
  zg_checkpoint_writer *committing = w;
  w = NULL;
  ZG_TRY_OUT(zg_checkpoint_commit(committing, &state, (uint64_t)ZG_MAX(t->cfg->training.keep, 0), &path));
  zg_metrics_note(t->metrics, "saved %s", path);
out:
  zg_checkpoint_abandon(w);
  zg_free(path);
  zg_free(piece);
  free_lists(lists);
  return status;
}

static zg_status read_tensor(trainer *t, const zg_safetensors *f, const char *folder, uint32_t buf) {
  const zg_buf *b = &zg_session_sched(t->s)->bufs.at[buf];
  int64_t i = zg_safetensors_find(f, b->name);
  if (i < 0) return zg_error(ZG_INVALID, "%s: has no tensor \"%s\"; was it saved with another model or optimizer?", folder, b->name);
  const zg_type *have = zg_safetensors_type(f, (size_t)i);
  if (!zg_type_equal(have, &b->type))
    return zg_error(ZG_INVALID, "%s: tensor \"%s\" is %s, the model has %s", folder, b->name, zg_type_text(have), zg_type_text(&b->type));
  return t->s->device->vt->write(t->s->program, buf, 0, zg_safetensors_bytes(f, (size_t)i).at, b->bytes);
}

static zg_status resume(trainer *t) {
  zg_checkpoint c;
  const char *from = t->o->resume;
  bool automatic = !strcmp(from, "auto");
  if (automatic) {
    char *latest = NULL;
    zg_status s = zg_checkpoint_latest(t->cfg->training.output_dir, &latest);
    if (s && zg_status_code(s) == ZG_NOT_FOUND) {
      zg_status_free(s);
      return NULL;
    }
    ZG_TRY(s);
    zg_free(latest);
    from = t->cfg->training.output_dir;
  }
  tensor_list lists[ZG_CKPT_N_FILES] = {0};
  zg_status status = NULL;
  ZG_TRY(zg_checkpoint_open(from, &c));
  list_state(t, lists);
  for (int f = 0; f < ZG_CKPT_N_FILES; f++)
    for (size_t i = 0; i < lists[f].buf.n; i++) ZG_TRY_OUT(read_tensor(t, c.file[f], c.path, lists[f].buf.at[i]));
  if (c.state.seed != (uint64_t)t->cfg->training.seed)
    zg_warn("%s was made with training.seed %llu, this run has %lld: the data come in another order", c.path,
            (unsigned long long)c.state.seed, (long long)t->cfg->training.seed);
  t->step = c.state.step;
  t->samples = c.state.samples;
  t->seconds = c.state.seconds;
out:
  free_lists(lists);
  zg_checkpoint_close(&c);
  return status;
}

// ---- one update ---------------------------------------------------------------------------------------------------

static zg_rand_state random_state(const trainer *t, int64_t micro) {
  uint64_t seed = (uint64_t)t->cfg->training.seed;
  return (zg_rand_state){{(uint32_t)seed, (uint32_t)(seed >> 32)}, (uint32_t)(t->step * (uint64_t)t->micro_steps + (uint64_t)micro)};
}

static zg_status set_scalars(trainer *t, double lr) {
  double n = (double)(t->step + 1);
  ZG_TRY(zg_session_set(t->s, "@lr", lr));
  ZG_TRY(zg_session_set(t->s, "@bias1", 1 - pow(t->cfg->optimizer.betas[0], n)));
  ZG_TRY(zg_session_set(t->s, "@bias2", 1 - pow(t->cfg->optimizer.betas[1], n)));
  return zg_session_set(t->s, "@first", t->step == 0);
}

static zg_status update(trainer *t) {
  double sum = 0, began = zg_time_s(), lr = zg_lr_at(t->cfg, t->step, t->total);
  const char *segment = t->micro_steps > 1 ? "micro" : "step";
  ZG_TRY(set_scalars(t, lr));
  for (int64_t m = 0; m < t->micro_steps; m++) {
    double loss;
    ZG_TRY(zg_session_set(t->s, "@first_micro", m == 0));
    ZG_TRY(zg_session_feed(t->s, t->s->train, t->samples));
    ZG_TRY(zg_exec_run(t->s->program, segment, random_state(t, m), &t->stats));
    ZG_TRY(zg_session_scalar(t->s, segment, ZG_OUT_LOSS, NULL, &loss));
    sum += loss;
    t->samples += zg_data_step_samples(t->s->train);
  }
  if (t->micro_steps > 1) ZG_TRY(zg_exec_run(t->s->program, "update", random_state(t, 0), &t->stats));
  ZG_TRY(zg_session_scalar(t->s, NULL, ZG_OUT_VALUE, "@grad_norm", &t->grad_norm));
  t->loss = sum / (double)t->micro_steps;
  t->step++;
  double took = zg_time_s() - began;
  t->seconds += took;
  if (t->step == t->first_step + 1) t->first_s = took;
  uint64_t n = zg_data_n_samples(t->s->train);
  zg_metrics_row row = {.step = t->step, .loss = t->loss, .lr = lr, .grad_norm = t->grad_norm, .loss_scale = NAN,
                        .epoch = n ? (double)t->samples / (double)n : NAN, .units = t->units_per_update, .seconds = took,
                        .memory_bytes = t->s->device->vt->allocated(t->s->program)};
  return zg_metrics_step(t->metrics, &row);
}

static zg_status evaluate(trainer *t) {
  zg_data *set = t->s->eval;
  if (!set) return NULL;
  uint64_t size = zg_data_step_samples(set), n = zg_data_n_samples(set) / size, want = (uint64_t)ZG_MAX(0, t->cfg->data.eval.batches);
  if (want && (want < n || n == 0)) n = want;
  double loss = 0, accuracy = 0;
  for (uint64_t i = 0; i < n; i++) {
    double l, a;
    ZG_TRY(zg_session_feed(t->s, set, i * size));
    ZG_TRY(zg_exec_run(t->s->program, "eval", random_state(t, 0), NULL));
    ZG_TRY(zg_session_scalar(t->s, "eval", ZG_OUT_LOSS, NULL, &l));
    ZG_TRY(zg_session_scalar(t->s, "eval", ZG_OUT_VALUE, "@accuracy", &a));
    loss += l / (double)n;
    accuracy += a / (double)n;
  }
  t->eval_loss = n ? loss : NAN;
  t->eval_accuracy = n ? accuracy : NAN;
  zg_metric m[] = {{"eval/loss", t->eval_loss}, {"eval/accuracy", t->eval_accuracy}};
  ZG_TRY(zg_metrics_put(t->metrics, t->step, m, isnan(t->eval_accuracy) ? 1 : 2));
  if (isnan(t->eval_accuracy)) zg_metrics_note(t->metrics, "step %llu: eval loss %.4f", (unsigned long long)t->step, t->eval_loss);
  else zg_metrics_note(t->metrics, "step %llu: eval loss %.4f, accuracy %.4f", (unsigned long long)t->step, t->eval_loss, t->eval_accuracy);
  return NULL;
}

// ---- the run ------------------------------------------------------------------------------------------------------

static void count_units(trainer *t, const char **unit) {
  const zg_session *s = t->s;
  uint64_t rows = 0, tokens = 0;
  for (size_t i = 0; i < s->feeds.n && !rows; i++) {
    const zg_type *x = &s->feeds.at[i].type;
    rows = x->rank ? (uint64_t)x->dim[0] : 1;
    if (x->rank == 2 && zg_dtype_is_int(x->dtype)) tokens = rows * (uint64_t)x->dim[1];
  }
  *unit = tokens ? "tokens" : "samples";
  t->units_per_update = (tokens ? tokens : rows) * (uint64_t)t->micro_steps;
  t->samples_per_update = rows * (uint64_t)t->micro_steps;
}

static zg_status count_steps(trainer *t) {
  if (t->cfg->training.steps != ZG_UNSET) {
    t->total = (uint64_t)t->cfg->training.steps;
    return NULL;
  }
  uint64_t micro = zg_data_steps_in(t->s->train, (double)t->cfg->training.epochs);
  if (!micro) return zg_error(ZG_INVALID, "training.epochs: the data set is endless or smaller than one batch; set training.steps");
  t->total = ZG_MAX(1, micro / (uint64_t)t->micro_steps);
  return NULL;
}

// What `zgraph export` needs to know of a run besides its checkpoints.
static zg_status write_run_file(const trainer *t) {
  char real[PATH_MAX];
  const char *path = t->o->model_path ? t->o->model_path : t->cfg->model;
  zg_str text = {0}, file = {0};
  zg_str_add(&text, "{\"model\": ");
  zg__json_quote(&text, realpath(path, real) ? real : path);
  zg_str_add(&text, "}\n");
  zg_str_add(&file, "%s/run.json", t->cfg->training.output_dir);
  zg_status s = zg_file_write_atomic(file.at, text.at, text.n);
  zg_str_fini(&text);
  zg_str_fini(&file);
  return s;
}

static zg_status loop(trainer *t) {
  int64_t save_every = t->cfg->training.save_every, eval_every = t->cfg->data.eval.every;
  while (t->step < t->total && !stop_asked) {
    ZG_TRY(update(t));
    if (!isfinite(t->loss))
      return zg_error(ZG_INVALID, "step %llu: the loss is %s; lower optimizer.lr, or set training.gradient_clipping",
                      (unsigned long long)t->step, isnan(t->loss) ? "not a number" : "infinite");
    bool last = t->step == t->total;
    if (eval_every > 0 && t->step % (uint64_t)eval_every == 0 && !last) ZG_TRY(evaluate(t));
    if (save_every > 0 && t->step % (uint64_t)save_every == 0 && !last) ZG_TRY(save(t));
  }
  if (t->step == t->total) ZG_TRY(evaluate(t));
  return save(t);
}

static zg_status open_trainer(trainer *t) {
  zg_session_options so = {.model_path = t->o->model_path, .mode = ZG_RUN_TRAIN};
  if (!t->cfg->data.train.path && t->cfg->data.train.format != ZG_CFG_DATA_RANDOM)
    return zg_error(ZG_INVALID, "no training data: set data.train.path (or data.train.format: random)");
  ZG_TRY(zg_dir_make(t->cfg->training.output_dir));
  ZG_TRY(zg_session_open(t->cfg, &so, &t->s));
  t->micro_steps = ZG_MAX(1, t->cfg->training.gradient_accumulation_steps);
  ZG_TRY(count_steps(t));
  if (t->o->resume) ZG_TRY(resume(t));
  t->first_step = t->step;
  t->stats.profile = t->o->profile;
  zg_metrics_options mo = {.dir = t->cfg->training.output_dir, .resume = t->step > 0, .resume_step = t->step, .total_steps = t->total,
                           .log_every = (uint64_t)ZG_MAX(0, t->cfg->training.log_every), .out = t->o->quiet ? NULL : stdout};
  count_units(t, &mo.unit);
  ZG_TRY(write_run_file(t));
  return zg_metrics_open(&mo, &t->metrics);
}

static zg_status finish(trainer *t, zg_train_result *out) {
  const zg_sched *d = zg_session_sched(t->s);
  uint64_t done = t->step - t->first_step;
  double timed = t->seconds - t->first_s;
  *out = (zg_train_result){.steps = t->step, .loss = t->loss, .eval_loss = t->eval_loss, .interrupted = stop_asked && t->step < t->total};
  if (done > 1 && timed > 0) out->samples_per_s = (double)((done - 1) * t->samples_per_update) / timed;
  for (int i = 0; i < ZG_N_SPACES; i++) out->planned_bytes += d->arena_bytes[i];
  out->allocated_bytes = t->s->device->vt->allocated(t->s->program);
  out->peak_bytes = zg_proc_peak_bytes();
  zg_metric m[] = {{"memory/planned_bytes", (double)out->planned_bytes}, {"memory/allocated_bytes", (double)out->allocated_bytes},
                   {"memory/process_peak_bytes", (double)out->peak_bytes}};
  ZG_TRY(zg_metrics_put(t->metrics, t->step, m, ZG_COUNT(m)));
  if (out->interrupted) return NULL;
  zg_str path = {0};
  zg_str_add(&path, "%s/model.onnx", t->cfg->training.output_dir);
  out->model_path = path.at;
  return zg_session_export(t->s, path.at);
}

static void print_profile(const trainer *t) {
  if (!t->o->profile) return;
  double all = 0;
  for (int k = 0; k < ZG_N_KERNELS; k++) all += t->stats.kernel_s[k];
  for (int k = 0; k < ZG_N_KERNELS; k++)
    if (t->stats.kernel_s[k] > 0)
      printf("%-12s %9.3f s  %5.1f %%\n", zg_kernel_info_of((zg_kernel_kind)k)->name, t->stats.kernel_s[k], 100 * t->stats.kernel_s[k] / all);
}

zg_status zg_train(const zg_config *cfg, const zg_train_options *o, zg_train_result *out) {
  trainer t = {.cfg = cfg, .o = o, .loss = NAN, .eval_loss = NAN, .eval_accuracy = NAN, .grad_norm = NAN};
  zg_status status = NULL;
  handlers old;
  *out = (zg_train_result){.loss = NAN, .eval_loss = NAN};
  install(&old);
  ZG_TRY_OUT(open_trainer(&t));
  ZG_TRY_OUT(loop(&t));
  ZG_TRY_OUT(finish(&t, out));
  print_profile(&t);
out:
  if (t.metrics) {
    zg_status closed = zg_metrics_close(t.metrics);
    if (status) zg_status_free(closed);
    else status = closed;
  }
  zg_session_close(t.s);
  restore(&old);
  return status;
}
