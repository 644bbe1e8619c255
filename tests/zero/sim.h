// N ranks in one thread: their schedules are walked step by step together, collectives done by plain copies and sums in rank
// order. What it can do that real ranks cannot: fill released buffers with NaN, and put off every step of the communication
// stream until something waits for it.
#pragma once
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "train/loss_scale.h"
#include "train/session.h"

enum { SIM_MAX = 8 };
typedef struct {
  uint32_t n;
  zg_config *cfg;
  zg_session *rank[SIM_MAX];
  uint64_t samples, step;
  int64_t k;
  bool poison, late;
  uint64_t sent;  // bytes sent by rank 0, without "@..." buffers and broadcasts
  double grad_norm;
  zg_loss_scale scale;
  int order;
  uint64_t (*reordered)(int order, uint64_t micro);  // one rank: which sample of the update a micro-step takes; NULL: in turn
} sim;

typedef struct {
  const char *model;
  uint32_t n, stage;
  int64_t k;
  const char *const *sets;
  size_t n_sets;
} sim_options;

static inline void sim_must(zg_status s, const char *what) {
  if (!s) return;
  ck_abort_msg("%s: %s (%s)", what, zg_status_message(s), zg_status_place(s));
}

static const struct {
  const char *name, *loss, *optimizer;
} sim_models[] = {
    {"hf_gpt2_raw", "{kind: cross_entropy, logits: logits, labels: labels, shift: true}",
     "{type: adamw, lr: 1.0e-3, weight_decay: 0.01}"},
    {"hf_llama_tiny", "{kind: cross_entropy, logits: logits, labels: labels}",
     "{type: adamw, lr: 1.0e-3, weight_decay: 0.01}"},
    {"torch_resnet_small", "{kind: cross_entropy, logits: logits, labels: labels}",
     "{type: sgd, lr: 0.01, momentum: 0.9}"},
    {"torch_mlp_digits", "{kind: cross_entropy, logits: logits, labels: labels}", "{type: lion, lr: 1.0e-3}"},
    {"torch_lstm_lm", "{kind: cross_entropy, logits: logits, labels: labels}", "{type: adagrad, lr: 0.01}"},
};

static inline zg_config *sim_config(const sim_options *o) {
  static const char zoo[] = ZG_TEST_ZOO;
  const char *sets[64];
  zg_str text[16] = {0};
  size_t n = 0, m = 0;
  while (m < ZG_COUNT(sim_models) && strcmp(sim_models[m].name, o->model)) m++;
  ck_assert_msg(m < ZG_COUNT(sim_models), "no model %s", o->model);
  zg_str_add(&text[0], "model=%s/%s/model.onnx", zoo, o->model);
  zg_str_add(&text[1], "data.train={path: %s/%s/data.npz, format: batches, shuffle: false}", zoo, o->model);
  zg_str_add(&text[2], "loss=%s", sim_models[m].loss);
  zg_str_add(&text[3], "optimizer=%s", sim_models[m].optimizer);
  zg_str_add(&text[4],
             "training={steps: 8, seed: 1, gradient_clipping: 0.5, gradient_accumulation_steps: %lld}",
             (long long)o->k);
  zg_str_add(&text[5], "zero.stage=%u", o->stage);
  zg_str_add(&text[6], "threads=1");
  zg_str_add(&text[7], "zero.stage3_param_persistence_threshold=0");
  zg_str_add(&text[8], "num_processes=%u", o->n ? o->n : 1);
  while (text[n].at) sets[n] = text[n].at, n++;
  for (size_t i = 0; i < o->n_sets; i++) sets[n + i] = o->sets[i];
  zg_config *cfg;
  sim_must(zg_config_load(NULL, 0, sets, n + o->n_sets, &cfg), "configuration");
  for (size_t i = 0; i < n; i++) zg_str_fini(&text[i]);
  return cfg;
}

static inline void sim_open(sim *s, const sim_options *o) {
  *s = (sim){.n = o->n, .k = o->k, .cfg = sim_config(o)};
  for (uint32_t r = 0; r < o->n; r++) {
    const zg_session_options so = {.mode = ZG_RUN_TRAIN, .rank = r, .world = o->n};
    sim_must(zg_session_open(s->cfg, &so, &s->rank[r]), o->model);
    sim_must(zg_sched_verify(zg_session_sched(s->rank[r])), "verifier");
  }
  s->scale = zg_loss_scale_start(s->cfg);
}

static inline void sim_close(sim *s) {
  for (uint32_t r = 0; r < s->n; r++) zg_session_close(s->rank[r]);
  zg_config_free(s->cfg);
}

// ---- collectives --------------------------------------------------------------------------------------------------

static inline void *sim_read(sim *s, uint32_t r, uint32_t buf, int64_t at, int64_t n) {
  const uint32_t size = zg_dtype_bytes(zg_session_sched(s->rank[r])->bufs.at[buf].dtype);
  void *p = zg_alloc((size_t)n * size + 1);
  sim_must(s->rank[r]->device->vt->read(s->rank[r]->program, buf, (uint64_t)at * size, p, (uint64_t)n * size),
           "read");
  return p;
}

static inline void sim_write(sim *s, uint32_t r, uint32_t buf, int64_t at, const void *p, int64_t n) {
  const uint32_t size = zg_dtype_bytes(zg_session_sched(s->rank[r])->bufs.at[buf].dtype);
  sim_must(
      s->rank[r]->device->vt->write(s->rank[r]->program, buf, (uint64_t)at * size, p, (uint64_t)n * size),
      "write");
}

// Sum over n ranks, in f32, rounded once; p and ranks: of each of them, its step and its number.
static inline void *sim_sum(sim *s, const zg_step *const *p, const uint32_t *ranks, uint32_t n_ranks, uint32_t which, int64_t at,
                             int64_t n) {
  float *sum = zg_alloc(sizeof *sum * (size_t)(n + 1)), *add = zg_alloc(sizeof *add * (size_t)(n + 1));
  zg_dtype t = ZG_F32;
  for (uint32_t q = 0; q < n_ranks; q++) {
    const uint32_t buf = which ? p[q]->b : p[q]->a;
    t = zg_session_sched(s->rank[ranks[q]])->bufs.at[buf].dtype;
    void *x = sim_read(s, ranks[q], buf, at, n);
    zg_convert(ZG_F32, q ? add : sum, t, x, n);
    for (int64_t i = 0; q && i < n; i++) sum[i] += add[i];
    zg_free(x);
  }
  zg_convert(t, add, ZG_F32, sum, n);
  zg_free(sum);
  return add;
}

static inline uint64_t sim_in_group(sim *s, const zg_step *const *p, const uint32_t *ranks, uint32_t n_ranks) {
  const int64_t n = p[0]->n;
  void *piece[SIM_MAX];
  const zg_sched *d = zg_session_sched(s->rank[ranks[0]]);
  const uint64_t size = zg_dtype_bytes(d->bufs.at[p[0]->a].dtype), bytes = (uint64_t)n * size;
  if (p[0]->kind == ZG_STEP_GATHER) {
    for (uint32_t q = 0; q < n_ranks; q++) piece[q] = sim_read(s, ranks[q], p[q]->b, p[q]->b_at, n);
    for (uint32_t r = 0; r < n_ranks; r++)
      for (uint32_t q = 0; q < n_ranks; q++) sim_write(s, ranks[r], p[r]->a, p[r]->a_at + q * n, piece[q], n);
    for (uint32_t q = 0; q < n_ranks; q++) zg_free(piece[q]);
    return bytes * (n_ranks - 1);
  }
  if (p[0]->kind == ZG_STEP_REDUCE_SCATTER) {
    for (uint32_t r = 0; r < n_ranks; r++) piece[r] = sim_sum(s, p, ranks, n_ranks, 1, p[r]->b_at + r * n, n);
    for (uint32_t r = 0; r < n_ranks; r++) sim_write(s, ranks[r], p[r]->a, p[r]->a_at, piece[r], n), zg_free(piece[r]);
    return bytes * (n_ranks - 1);
  }
  const bool sums = p[0]->kind == ZG_STEP_ALL_REDUCE;
  void *x = sums ? sim_sum(s, p, ranks, n_ranks, 0, p[0]->a_at, n) : sim_read(s, ranks[p[0]->peer], p[0]->a, p[0]->a_at, n);
  for (uint32_t r = 0; r < n_ranks; r++) sim_write(s, ranks[r], p[r]->a, p[r]->a_at, x, n);
  zg_free(x);
  return sums ? 2 * (((uint64_t)n + n_ranks - 1) / n_ranks) * (n_ranks - 1) * size : 0;
}

static inline void sim_collective(sim *s, const zg_step *const *p) {
  const uint32_t group = p[0]->group, size = group ? ZG_GROUP_SIZE(group) : s->n, stride = group ? ZG_GROUP_STRIDE(group) : 1;
  ck_assert_uint_eq(s->n % (size * stride), 0);
  for (uint32_t base = 0; base < s->n; base++) {
    uint32_t ranks[SIM_MAX];
    const zg_step *steps[SIM_MAX];
    if (base / stride % size) continue;   // not the first of its group
    for (uint32_t i = 0; i < size; i++) ranks[i] = base + i * stride, steps[i] = p[ranks[i]];
    const uint64_t sent = sim_in_group(s, steps, ranks, size);
    if (base == 0 && zg_session_sched(s->rank[0])->bufs.at[p[0]->a].name[0] != '@') s->sent += sent;
  }
}

// ---- steps --------------------------------------------------------------------------------------------------------

// NaN into a released buffer, where no buffer that is still alive has taken its place.
static inline void sim_poison(sim *s, uint32_t r, uint32_t buf, uint32_t at, const zg_live_range *live) {
  const zg_sched *d = zg_session_sched(s->rank[r]);
  const zg_buf *b = &d->bufs.at[buf];
  for (uint32_t o = 1; o < d->bufs.n; o++) {
    const zg_buf *x = &d->bufs.at[o];
    if (o == buf || x->space != b->space || live[o].first == UINT32_MAX || live[o].first > at ||
        live[o].last < at)
      continue;
    if (x->offset < b->offset + b->bytes && b->offset < x->offset + x->bytes) return;
  }
  void *bad = zg_alloc(b->bytes + 1);
  memset(bad, 0xff, b->bytes);
  sim_must(s->rank[r]->device->vt->write(s->rank[r]->program, buf, 0, bad, b->bytes), "poison");
  zg_free(bad);
}

static inline zg_rand_state sim_random(const sim *s, int64_t micro) {
  return (zg_rand_state){{(uint32_t)s->cfg->training.seed, 0},
                         (uint32_t)(s->step * (uint64_t)s->k + (uint64_t)micro)};
}

static inline void sim_one(sim *s, uint32_t i, zg_rand_state rand, zg_live_range *const *live) {
  const zg_step *p[SIM_MAX] = {NULL};
  for (uint32_t r = 0; r < s->n; r++) p[r] = &zg_session_sched(s->rank[r])->steps.at[i];
  for (uint32_t r = 1; r < s->n; r++) ck_assert_int_eq(p[r]->kind, p[0]->kind);
  switch (p[0]->kind) {
    case ZG_STEP_KERNEL:
      for (uint32_t r = 0; r < s->n; r++)
        sim_must(s->rank[r]->device->vt->run_kernel(s->rank[r]->program, p[r]->kernel, rand), "kernel");
      break;
    case ZG_STEP_GATHER:
    case ZG_STEP_REDUCE_SCATTER:
    case ZG_STEP_ALL_REDUCE:
    case ZG_STEP_BROADCAST: sim_collective(s, p); break;
    case ZG_STEP_RELEASE:
      for (uint32_t r = 0; r < s->n && s->poison; r++) sim_poison(s, r, p[r]->a, i, live[r]);
      break;
    case ZG_STEP_COPY:
      for (uint32_t r = 0; r < s->n; r++) {
        void *x = sim_read(s, r, p[r]->b, p[r]->b_at, p[r]->n);
        sim_write(s, r, p[r]->a, p[r]->a_at, x, p[r]->n);
        zg_free(x);
      }
      break;
    case ZG_STEP_PARTITION:
    case ZG_STEP_RECORD:
    case ZG_STEP_WAIT:
    case ZG_N_STEP_KINDS: break;
  }
}

static inline void sim_segment(sim *s, const char *name, int64_t micro) {
  zg_arena mem = {0};
  zg_live_range *live[SIM_MAX];
  const zg_sched *d = zg_session_sched(s->rank[0]);
  const zg_segment *g = zg_sched_find_segment(d, name);
  ck_assert_msg(g != NULL, "no segment %s", name);
  for (uint32_t r = 0; r < s->n; r++) live[r] = zg_find_live_ranges(zg_session_sched(s->rank[r]), &mem);
  uint32_t *queue = ZG_NEW_N(&mem, uint32_t, g->n + 1), head = 0, tail = 0;
  for (uint32_t i = g->first; i < g->first + g->n; i++) {
    const zg_step *p = &d->steps.at[i];
    if (s->late && p->stream != ZG_STREAM_COMPUTE) {
      queue[tail++] = i;
      continue;
    }
    if (s->late && p->kind == ZG_STEP_WAIT)
      for (uint32_t done = head; done < tail; done++)
        if (d->steps.at[queue[done]].kind == ZG_STEP_RECORD && d->steps.at[queue[done]].event == p->event)
          for (; head <= done; head++) sim_one(s, queue[head], sim_random(s, micro), live);
    sim_one(s, i, sim_random(s, micro), live);
  }
  for (; head < tail; head++) sim_one(s, queue[head], sim_random(s, micro), live);
  zg_arena_fini(&mem);
}

// One update; returns the mean loss of all ranks.
static inline double sim_update(sim *s) {
  const bool alone = s->n == 1;
  const zg_sched *d = zg_session_sched(s->rank[0]);
  const uint64_t made = s->step - s->scale.skipped;
  double sum = 0, n = (double)(made + 1), loss;
  for (uint32_t r = 0; r < s->n; r++) {
    zg_session *x = s->rank[r];
    sim_must(zg_session_set(x, "@lr", s->cfg->optimizer.lr), "lr");
    sim_must(zg_session_set(x, "@bias1", 1 - pow(s->cfg->optimizer.betas[0], n)), "bias1");
    sim_must(zg_session_set(x, "@bias2", 1 - pow(s->cfg->optimizer.betas[1], n)), "bias2");
    sim_must(zg_session_set(x, "@first", made == 0), "first");
    sim_must(zg_session_set(x, "@loss_scale", s->scale.scale), "scale");
    sim_must(zg_session_set(x, "@inv_scale", 1 / s->scale.scale), "scale");
  }
  const uint64_t begin = s->samples;
  for (int64_t m = 0; m < s->k; m++) {
    const uint64_t at = s->reordered ? begin + s->reordered(s->order, (uint64_t)m) : s->samples;
    for (uint32_t r = 0; r < s->n; r++) {
      sim_must(zg_session_set(s->rank[r], "@first_micro", m == 0), "first");
      sim_must(zg_session_feed(s->rank[r], s->rank[r]->train, at), "feed");
    }
    const char *segment = alone && s->k == 1                                        ? "step"
                          : m == s->k - 1 && zg_sched_find_segment(d, "micro_last") ? "micro_last"
                                                                                    : "micro";
    sim_segment(s, segment, m);
    if (alone)
      sim_must(zg_session_scalar(s->rank[0], segment, ZG_OUT_LOSS, NULL, &loss), "loss"), sum += loss;
    s->samples += s->n;
  }
  if (!alone || s->k > 1) sim_segment(s, "update", 0);
  s->step++;
  sim_must(zg_session_scalar(s->rank[0], NULL, ZG_OUT_VALUE, "@grad_norm", &s->grad_norm), "norm");
  sim_must(zg_loss_scale_step(s->cfg, !isfinite(s->grad_norm), &s->scale), "loss scale");
  if (alone) return sum / (double)s->k;
  sim_must(zg_session_scalar(s->rank[0], "update", ZG_OUT_VALUE, "@loss", &loss), "loss");
  return loss;
}

// All trained tensors, one behind the other, put together from what the ranks answer for; *out_n elements. zg_free it.
static inline float *sim_params(sim *s, int64_t *out_n) {
  float *all = NULL;
  int64_t n = 0;
  for (size_t i = 0; i < s->rank[0]->graph->nodes.n; i++) {
    const zg_node *x = &s->rank[0]->graph->nodes.at[i];
    if (x->op != &zg_op_param || ((const zg_param_attr *)x->attr)->type.dtype != ZG_F32) continue;
    const zg_param_attr *a = x->attr;
    const int64_t m = zg_elems(&a->type);
    all = zg_realloc(all, sizeof(float) * (size_t)(n + m + 1));
    for (uint32_t r = 0; r < s->n; r++) {
      const uint32_t buf = zg_sched_find_buf(zg_session_sched(s->rank[r]), a->name);
      zg_zero_range q;
      if (!buf) continue;
      ck_assert(zg_zero_range_of(s->rank[r]->zero, zg_session_sched(s->rank[r]), buf, &q));
      if (q.hi <= q.lo) continue;
      float *part = sim_read(s, r, buf, q.lo - q.have_lo, q.hi - q.lo);
      memcpy(all + n + q.lo, part, sizeof(float) * (size_t)(q.hi - q.lo));
      zg_free(part);
    }
    n += m;
  }
  *out_n = n;
  return all;
}
