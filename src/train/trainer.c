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
#include "train/safetensors.h"
#include "train/trainer_priv.h"

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

// ---- one update ---------------------------------------------------------------------------------------------------

static zg_rand_state random_state(const trainer *t, int64_t micro) {
  uint64_t seed = (uint64_t)t->cfg->training.seed;
  return (zg_rand_state){{(uint32_t)seed, (uint32_t)(seed >> 32)}, (uint32_t)(t->step * (uint64_t)t->micro_steps + (uint64_t)micro)};
}

static zg_status set_scalars(trainer *t, double lr) {
  const uint64_t made = t->step - t->scale.skipped;   // steps that overflowed in fp16 changed nothing
  const double n = (double)(made + 1);
  ZG_TRY(zg_session_set(t->s, "@lr", lr));
  ZG_TRY(zg_session_set(t->s, "@bias1", 1 - pow(t->cfg->optimizer.betas[0], n)));
  ZG_TRY(zg_session_set(t->s, "@bias2", 1 - pow(t->cfg->optimizer.betas[1], n)));
  ZG_TRY(zg_session_set(t->s, "@loss_scale", t->scale.scale));
  ZG_TRY(zg_session_set(t->s, "@inv_scale", 1 / t->scale.scale));
  return zg_session_set(t->s, "@first", made == 0);
}

// The segment of micro-step m.
static const char *segment_of(const trainer *t, int64_t m) {
  if (t->world == 1 && t->micro_steps == 1) return "step";
  return m == t->micro_steps - 1 && zg_sched_find_segment(zg_session_sched(t->s), "micro_last") ? "micro_last" : "micro";
}

// Several ranks: the update gives the mean loss of all of them, and whether one was asked to stop, so that all stop at one step.
static zg_status exchange(trainer *t) {
  ZG_TRY(zg_session_set(t->s, "@stop", stop_asked));
  ZG_TRY(zg_exec_run(t->s->program, "update", random_state(t, 0), &t->stats));
  ZG_TRY(zg_session_ask(t->s, "update", ZG_OUT_VALUE, "@loss", &t->pending.loss));
  return zg_session_ask(t->s, "update", ZG_OUT_VALUE, "@stopped", &t->pending.stopped);
}

static zg_status run_steps(trainer *t) {
  for (int64_t m = 0; m < t->micro_steps; m++) {
    zg_later loss;
    const char *segment = segment_of(t, m);
    ZG_TRY(zg_session_set(t->s, "@first_micro", m == 0));
    ZG_TRY(zg_session_feed(t->s, t->s->train, t->samples));
    ZG_TRY(zg_exec_run(t->s->program, segment, random_state(t, m), &t->stats));
    ZG_TRY(zg_session_ask(t->s, segment, ZG_OUT_LOSS, NULL, &loss));
    zg_vec_push(&t->pending.losses, loss);
    t->samples += zg_data_step_samples(t->s->train) * t->world;
  }
  if (t->world > 1) return exchange(t);
  return t->micro_steps > 1 ? zg_exec_run(t->s->program, "update", random_state(t, 0), &t->stats) : NULL;
}

static zg_status take_loss(trainer *t, pending_update *u) {
  double sum = 0, loss, stop;
  for (size_t m = 0; m < u->losses.n; m++) {
    ZG_TRY(zg_session_take(t->s, &u->losses.at[m], &loss));
    sum += loss;
  }
  t->loss = sum / (double)t->micro_steps;
  t->stop = stop_asked;
  if (t->world == 1) return NULL;
  ZG_TRY(zg_session_take(t->s, &u->loss, &t->loss));
  ZG_TRY(zg_session_take(t->s, &u->stopped, &stop));
  t->stop = stop > 0;
  return NULL;
}

static zg_status write_row(trainer *t, const pending_update *u, double took) {
  if (!t->metrics) return NULL;
  const uint64_t n = zg_data_n_samples(t->s->train);
  const zg_metrics_row row = {.step = u->step, .loss = t->loss, .lr = u->lr, .grad_norm = t->grad_norm, .loss_scale = u->loss_scale,
                              .epoch = n ? (double)u->samples / (double)n : NAN, .units = t->units_per_update, .seconds = took,
                              .samples = t->samples_per_update == t->units_per_update ? 0 : t->samples_per_update,
                              .memory_bytes = t->s->device->vt->allocated(t->s->program)};
  return zg_metrics_step(t->metrics, &row);
}

// What an update gave: taken, written down, checked.
static zg_status settle(trainer *t, pending_update *u) {
  if (!u->open) return NULL;
  u->open = false;
  ZG_TRY(take_loss(t, u));
  ZG_TRY(zg_session_take(t->s, &u->grad_norm, &t->grad_norm));
  u->losses.n = 0;
  const double now = zg_time_s(), took = now - t->settled_at;
  t->settled_at = now;
  t->seconds += took;
  if (u->step == t->first_step + 1) t->first_s = took;
  ZG_TRY(write_row(t, u, took));
  const bool scaled = zg_loss_scale_used(t->cfg), overflowed = !isfinite(t->grad_norm);
  ZG_TRY(zg_loss_scale_step(t->cfg, overflowed, &t->scale));
  if (isfinite(t->loss) || (scaled && overflowed)) return NULL;
  return zg_error(ZG_INVALID, "step %llu: the loss is %s; lower optimizer.lr, or set training.gradient_clipping",
                  (unsigned long long)u->step, isnan(t->loss) ? "not a number" : "infinite");
}

// One update. On a device that queues work the results of the update before are settled when this one has been given to it, so that it
// never waits for the host; `loop` settles the last one where the run pauses or ends.
static zg_status update(trainer *t) {
  pending_update before = t->pending;
  const double lr = zg_lr_at(t->cfg, t->step - t->scale.skipped, t->total);
  if (!before.open) t->settled_at = zg_time_s();
  t->pending = t->spare;
  const uint64_t sent = t->o->comm ? zg_comm_bytes_sent(t->o->comm) : 0;
  zg_status status = set_scalars(t, lr);
  if (!status) status = run_steps(t);
  t->sent = t->o->comm ? zg_comm_bytes_sent(t->o->comm) - sent : 0;
  if (!status) status = zg_session_ask(t->s, NULL, ZG_OUT_VALUE, "@grad_norm", &t->pending.grad_norm);
  t->step++;
  t->pending.step = t->step, t->pending.samples = t->samples, t->pending.lr = lr;
  t->pending.loss_scale = zg_loss_scale_used(t->cfg) ? t->scale.scale : NAN;
  t->pending.open = !status;
  if (!status) status = settle(t, &before);
  t->spare = before;
  if (status || (zg_session_queues(t->s) && !zg_loss_scale_used(t->cfg))) return status;   // the next scale depends on this norm
  return settle(t, &t->pending);
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
  if (!t->metrics) return NULL;
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
  t->units_per_update = (tokens ? tokens : rows) * (uint64_t)t->micro_steps * t->world;
  t->samples_per_update = rows * (uint64_t)t->micro_steps * t->world;
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
  if (t->cfg->untie == ZG_CFG_UNTIE_AUTO) zg_str_add(&text, ", \"untie\": true");
  for (size_t i = 0; i < t->cfg->ties.n; i++) {
    const zg_cfg_strs *names = &t->cfg->ties.at[i];
    zg_str_add(&text, i ? ", [" : ", \"ties\": [[");
    for (size_t k = 0; k < names->n; k++) {
      zg_str_add(&text, k ? ", " : "");
      zg__json_quote(&text, names->at[k]);
    }
    zg_str_add(&text, i + 1 == t->cfg->ties.n ? "]]" : "]");
  }
  zg_str_add(&text, "}\n");
  zg_str_add(&file, "%s/run.json", t->cfg->training.output_dir);
  zg_status s = zg_file_write_atomic(file.at, text.at, text.n);
  zg_str_fini(&text);
  zg_str_fini(&file);
  return s;
}

static zg_status loop(trainer *t) {
  int64_t save_every = t->cfg->training.save_every, eval_every = t->cfg->data.eval.every;
  while (t->step < t->total && !t->stop) {
    ZG_TRY(update(t));
    zg__profile_skip_first(t);
    const bool last = t->step == t->total;
    const bool eval_now = t->s->eval && eval_every > 0 && t->step % (uint64_t)eval_every == 0 && !last;
    const bool save_now = save_every > 0 && t->step % (uint64_t)save_every == 0 && !last;
    if (eval_now || save_now) ZG_TRY(settle(t, &t->pending));
    if (eval_now) ZG_TRY(evaluate(t));
    if (save_now) ZG_TRY(zg__trainer_save(t));
  }
  ZG_TRY(settle(t, &t->pending));
  if (t->step == t->total) ZG_TRY(evaluate(t));
  return zg__trainer_save(t);
}

static zg_status open_trainer(trainer *t) {
  zg_session_options so = {.model_path = t->o->model_path, .mode = ZG_RUN_TRAIN, .comm = t->o->comm};
  if (!t->cfg->data.train.path && t->cfg->data.train.format != ZG_CFG_DATA_RANDOM)
    return zg_error(ZG_INVALID, "no training data: set data.train.path (or data.train.format: random)");
  ZG_TRY(zg_dir_make(t->cfg->training.output_dir));
  ZG_TRY(zg_session_open(t->cfg, &so, &t->s));
  t->micro_steps = ZG_MAX(1, t->cfg->training.gradient_accumulation_steps);
  ZG_TRY(count_steps(t));
  t->scale = zg_loss_scale_start(t->cfg);
  if (t->o->resume) ZG_TRY(zg__trainer_resume(t));
  t->first_step = t->step;
  if (t->o->profile) zg__profile_begin(t);
  zg_metrics_options mo = {.dir = t->cfg->training.output_dir, .resume = t->step > 0, .resume_step = t->step, .total_steps = t->total,
                           .log_every = (uint64_t)ZG_MAX(0, t->cfg->training.log_every), .out = t->o->quiet ? NULL : stdout};
  count_units(t, &mo.unit);
  if (t->rank) return NULL;   // rank 0 speaks for all
  uint64_t aside = 0;
  if (t->step == 0) ZG_TRY(zg_checkpoint_set_aside(t->cfg->training.output_dir, &aside));
  ZG_TRY(write_run_file(t));
  ZG_TRY(zg_metrics_open(&mo, &t->metrics));
  if (aside) zg_metrics_note(t->metrics, "%s held %llu checkpoints of an earlier run: moved to its folder old-*", t->cfg->training.output_dir, (unsigned long long)aside);
  return NULL;
}

static zg_status finish(trainer *t, zg_train_result *out) {
  const zg_sched *d = zg_session_sched(t->s);
  uint64_t done = t->step - t->first_step;
  double timed = t->seconds - t->first_s;
  *out = (zg_train_result){.steps = t->step, .loss = t->loss, .eval_loss = t->eval_loss, .interrupted = t->stop && t->step < t->total};
  if (done > 1 && timed > 0) out->samples_per_s = (double)((done - 1) * t->samples_per_update) / timed;
  for (int i = 0; i < ZG_N_SPACES; i++) out->planned_bytes += d->arena_bytes[i];
  out->allocated_bytes = t->s->device->vt->allocated(t->s->program);
  out->peak_bytes = zg_proc_peak_bytes();
  if (t->o->comm) out->bytes_sent = zg_comm_bytes_sent(t->o->comm);
  if (t->rank) return NULL;
  zg_metric m[] = {{"memory/planned_bytes", (double)out->planned_bytes}, {"memory/allocated_bytes", (double)out->allocated_bytes},
                   {"memory/process_peak_bytes", (double)out->peak_bytes}, {"comm/sent_bytes", (double)t->sent}};
  ZG_TRY(zg_metrics_put(t->metrics, t->step, m, t->world > 1 ? ZG_COUNT(m) : ZG_COUNT(m) - 1));
  if (out->interrupted) return NULL;
  zg_str path = {0};
  zg_str_add(&path, "%s/model.onnx", t->cfg->training.output_dir);
  out->model_path = path.at;
  return t->world > 1 ? zg__trainer_export(t, path.at) : zg_session_export(t->s, path.at);
}

zg_status zg_train(const zg_config *cfg, const zg_train_options *o, zg_train_result *out) {
  trainer t = {.cfg = cfg, .o = o, .rank = o->comm ? o->comm->rank : 0, .world = o->comm ? o->comm->world : 1,
               .loss = NAN, .eval_loss = NAN, .eval_accuracy = NAN, .grad_norm = NAN};
  zg_status status = NULL;
  handlers old;
  *out = (zg_train_result){.loss = NAN, .eval_loss = NAN};
  install(&old);
  ZG_TRY_OUT(open_trainer(&t));
  ZG_TRY_OUT(loop(&t));
  ZG_TRY_OUT(finish(&t, out));
  if (o->profile && !t.rank) ZG_TRY_OUT(zg__profile_print(&t));
out:
  if (status && o->comm) zg_comm_abort(o->comm, zg_status_message(status));
  if (t.metrics) {
    zg_status closed = zg_metrics_close(t.metrics);
    if (status) zg_status_free(closed);
    else status = closed;
  }
  zg_session_close(t.s);
  zg_vec_fini(&t.pending.losses);
  zg_vec_fini(&t.spare.losses);
  zg_free(t.stats.each_s);
  zg_free(t.stats.each_n);
  zg_free(t.checkpoint);
  restore(&old);
  return status;
}
