// Sessions: from file and configuration to a program that runs.
#include "train/session.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "cuda/cuda.h"
#include "train/session_priv.h"

// ---- run-time access ----------------------------------------------------------------------------------------------

zg_status zg_session_set(zg_session *s, const char *name, double value) {
  zg_sched *d = zg_session_sched(s);
  uint32_t buf = zg_sched_find_buf(d, name);
  if (!buf) return NULL;
  uint8_t bytes[8];
  zg_set_f64(d->bufs.at[buf].dtype, bytes, 0, value);
  return s->device->vt->write(s->program, buf, 0, bytes, zg_dtype_bytes(d->bufs.at[buf].dtype));
}

static zg_status upload(zg_session *s, const zg_feed *f) {
  return s->device->vt->write(s->program, f->buf, 0, f->host, zg_type_bytes(&f->type));
}

static zg_status feed_npz(zg_session *s) {
  for (size_t i = 0; i < s->feeds.n; i++) {
    zg_feed *f = &s->feeds.at[i];
    if (!f->buf) continue;
    zg_tensor t;
    ZG_TRY(zg_npz_get(s->inputs, zg_session_array(s, f->name), &t));
    zg_convert(f->type.dtype, f->host, t.type.dtype, t.data, zg_elems(&f->type));
    ZG_TRY(upload(s, f));
  }
  return NULL;
}

zg_status zg_session_feed(zg_session *s, zg_data *set, uint64_t consumed) {
  if (s->inputs) return feed_npz(s);
  const zg_feeds *feeds = set == s->eval && s->eval ? &s->eval_feeds : &s->feeds;
  zg_data_dst dst[64];
  size_t n = 0;
  for (size_t i = 0; i < feeds->n; i++) {
    const zg_feed *f = &feeds->at[i];
    if (f->buf && f->array >= 0 && n < ZG_COUNT(dst)) dst[n++] = (zg_data_dst){(size_t)f->array, f->type.dtype, f->host};
  }
  ZG_TRY(zg_data_batch(set, consumed, dst, n));
  for (size_t i = 0; i < feeds->n; i++)
    if (feeds->at[i].buf) ZG_TRY(upload(s, &feeds->at[i]));
  return NULL;
}

zg_status zg_session_read(zg_session *s, const zg_sched_output *o, void *data) {
  uint64_t size = zg_dtype_bytes(o->type.dtype);
  return s->device->vt->read(s->program, o->view.buf, (uint64_t)o->view.offset * size, data, zg_type_bytes(&o->type));
}

zg_status zg_session_scalar(zg_session *s, const char *segment, zg_out_kind kind, const char *name, double *out) {
  const zg_sched_output *o = zg_sched_find_output(zg_session_sched(s), segment, kind, name);
  *out = NAN;
  if (!o || zg_elems(&o->type) != 1) return NULL;
  uint8_t bytes[8];
  ZG_TRY(zg_session_read(s, o, bytes));
  *out = zg_get_f64(o->type.dtype, bytes, 0);
  return NULL;
}

zg_status zg_session_ask(zg_session *s, const char *segment, zg_out_kind kind, const char *name, zg_later *out) {
  const zg_sched_output *o = zg_sched_find_output(zg_session_sched(s), segment, kind, name);
  *out = (zg_later){.value = NAN};
  if (!o || zg_elems(&o->type) != 1) return NULL;
  if (!zg_session_queues(s)) return zg_session_scalar(s, segment, kind, name, &out->value);
  const uint64_t size = zg_dtype_bytes(o->type.dtype);
  out->dtype = o->type.dtype;
  ZG_TRY(s->device->vt->fetch(s->program, o->view.buf, (uint64_t)o->view.offset * size, size, &out->ticket));
  out->queued = true;
  return NULL;
}

zg_status zg_session_take(zg_session *s, zg_later *l, double *out) {
  uint8_t bytes[16];
  if (l->queued) {
    l->queued = false;
    ZG_TRY(s->device->vt->take(s->program, l->ticket, bytes));
    l->value = zg_get_f64(l->dtype, bytes, 0);
  }
  *out = l->value;
  return NULL;
}

// A buffer's bytes on the host: where they are, or a copy that *owned holds.
static zg_status host_bytes(zg_session *s, uint32_t buf, const void **out, void **owned) {
  const zg_device_vtable *vt = s->device->vt;
  uint64_t n = zg_session_sched(s)->bufs.at[buf].bytes;
  if (vt->host_ptr) {
    *out = vt->host_ptr(s->program, buf);
    return NULL;
  }
  ZG_TRY(zg_alloc_big(n + 1, owned));
  *out = *owned;
  return vt->read(s->program, buf, 0, *owned, n);
}

zg_status zg_session_export(zg_session *s, const char *path) {
  zg_sched *d = zg_session_sched(s);
  zg_status status = NULL;
  uint32_t n = 0;
  zg_onnx_replacement *r = zg_alloc(sizeof *r * (s->graph->nodes.n + 1));
  void **owned = zg_alloc(sizeof *owned * (s->graph->nodes.n + 1));
  uint64_t *bytes = zg_alloc(sizeof *bytes * (s->graph->nodes.n + 1));
  for (size_t i = 0; i < s->graph->nodes.n; i++) {
    const zg_node *x = &s->graph->nodes.at[i];
    if (x->op != &zg_op_param) continue;
    const zg_param_attr *a = x->attr;
    uint32_t buf = zg_sched_find_buf(d, a->name);
    if (a->role == ZG_ROLE_FROZEN || !buf) continue;
    const zg_zero_part *part = s->zero ? zg_zero_find(s->zero, a->name) : NULL;
    if (part && part->sharded)
      ZG_TRY_OUT(zg_error(ZG_UNSUPPORTED, "tensor \"%s\" is spread over %u ranks: export a checkpoint instead", a->name, s->o.world));
    bytes[n] = zg_type_bytes(&a->type);
    r[n].source = (uint32_t)a->source;
    n++;
    ZG_TRY_OUT(host_bytes(s, buf, &r[n - 1].data, &owned[n - 1]));
  }
  status = zg_onnx_export(s->model, r, n, path);
out:
  for (uint32_t i = 0; i < n; i++)
    if (owned[i]) zg_free_big(owned[i], bytes[i] + 1);
  zg_free(owned);
  zg_free(bytes);
  zg_free(r);
  return status;
}

// ---- weights ------------------------------------------------------------------------------------------------------

enum { PIECE = 1 << 16 };   // elements converted or filled at a time

// Elements behind those a buffer has (padding of shards) stay zero, as arenas start.
static zg_status load_param(zg_session *s, const zg_node *x) {
  const zg_param_attr *a = x->attr;
  uint32_t buf = zg_sched_find_buf(zg_session_sched(s), a->name);
  const void *bytes;
  zg_zero_range r;
  if (!buf) return NULL;   // nothing reads it
  ZG_ASSERT(zg_zero_range_of(s->zero, zg_session_sched(s), buf, &r));
  ZG_TRY(zg_onnx_tensor_bytes(s->model, (uint32_t)a->source, &bytes));
  const uint64_t size = zg_dtype_bytes(a->type.dtype), n = (uint64_t)(r.have_hi - r.have_lo) * size;
  ZG_TRY(s->device->vt->write(s->program, buf, 0, (const uint8_t *)bytes + (uint64_t)r.have_lo * size, n));
  zg_onnx_tensor_drop(s->model, (uint32_t)a->source);
  return NULL;
}

// Gradient accumulators and scalars start as the arena does: zero.
static zg_status fill_state(zg_session *s, const zg_state_attr *a, uint32_t buf) {
  zg_zero_range r;
  if (!zg_zero_range_of(s->zero, zg_session_sched(s), buf, &r)) return NULL;
  const int64_t elems = r.have_hi - r.have_lo, chunk = ZG_MIN(elems, PIECE);
  const uint32_t size = zg_dtype_bytes(a->type.dtype);
  uint8_t *piece = zg_alloc((size_t)chunk * size + 1);
  zg_status status = NULL;
  const void *from = NULL;
  zg_dtype from_dtype = a->type.dtype;
  uint32_t source = UINT32_MAX;
  if (a->init_from) {
    zg_val leaf = zg_find_leaf(s->graph, a->init_from);
    ZG_ASSERT(zg_is(leaf));
    const zg_param_attr *p = zg_node_of(s->graph, leaf)->attr;
    from_dtype = p->type.dtype;
    source = (uint32_t)p->source;
    ZG_TRY_OUT(zg_onnx_tensor_bytes(s->model, source, &from));
    from = (const uint8_t *)from + r.have_lo * zg_dtype_bytes(from_dtype);
  } else if (a->init == 0) {
    goto out;   // arenas start zeroed
  } else {
    for (int64_t i = 0; i < chunk; i++) zg_set_f64(a->type.dtype, piece, i, a->init);
  }
  for (int64_t at = 0; at < elems; at += chunk) {
    int64_t n = ZG_MIN(chunk, elems - at);
    if (from) zg_convert(a->type.dtype, piece, from_dtype, (const uint8_t *)from + at * zg_dtype_bytes(from_dtype), n);
    ZG_TRY_OUT(s->device->vt->write(s->program, buf, (uint64_t)at * size, piece, (uint64_t)n * size));
  }
out:
  if (source != UINT32_MAX) zg_onnx_tensor_drop(s->model, source);
  zg_free(piece);
  return status;
}

static zg_status load_states(zg_session *s, const zg_graph *g) {
  for (size_t i = 0; g && i < g->nodes.n; i++) {
    const zg_node *x = &g->nodes.at[i];
    if (x->op != &zg_op_state) continue;
    const zg_state_attr *a = x->attr;
    uint32_t buf = zg_sched_find_buf(zg_session_sched(s), a->name);
    if (buf) ZG_TRY(fill_state(s, a, buf));
  }
  return NULL;
}

static zg_status load_weights(zg_session *s) {
  for (size_t i = 0; i < s->graph->nodes.n; i++)
    if (s->graph->nodes.at[i].op == &zg_op_param) ZG_TRY(load_param(s, &s->graph->nodes.at[i]));
  ZG_TRY(load_states(s, s->pipe.main));
  ZG_TRY(load_states(s, s->pipe.norm));
  return load_states(s, s->pipe.update);
}

// ---- opening ------------------------------------------------------------------------------------------------------

static zg_opt_spec optimizer_spec(zg_session *s) {
  static const zg_opt_kind kinds[] = {ZG_OPT_SGD, ZG_OPT_ADAM, ZG_OPT_ADAMW, ZG_OPT_LION, ZG_OPT_ADAGRAD, ZG_OPT_LAMB, ZG_OPT_MUON};
  const zg_config *c = s->cfg;
  zg_opt_spec o = {.kind = kinds[c->optimizer.type], .lr = c->optimizer.lr, .beta1 = c->optimizer.betas[0],
                   .beta2 = c->optimizer.betas[1], .eps = c->optimizer.eps, .weight_decay = c->optimizer.weight_decay,
                   .momentum = c->optimizer.momentum, .dampening = c->optimizer.dampening, .nesterov = c->optimizer.nesterov,
                   .clip = c->training.gradient_clipping, .scaled = c->mixed_precision == ZG_CFG_MIXED_FP16,
                   .n_groups = (uint32_t)c->optimizer.groups.n};
  zg_opt_group *g = ZG_NEW_N(&s->mem, zg_opt_group, o.n_groups + 1);
  for (uint32_t i = 0; i < o.n_groups; i++) {
    const zg_cfg_group *from = &c->optimizer.groups.at[i];
    g[i] = (zg_opt_group){.lr_scale = isnan(from->lr) || o.lr == 0 ? 1 : from->lr / o.lr,
                          .weight_decay = isnan(from->weight_decay) ? o.weight_decay : from->weight_decay,
                          .match = from->match.at, .n_match = (uint32_t)from->match.n};
  }
  o.groups = g;
  return o;
}

static zg_status add_workspaces(void *device, zg_sched *s) { return zg_exec_add_workspaces(device, s); }

static zg_status offload_of(const zg_config *c, zg_zero_options *o) {
  static const zg_space spaces[] = {ZG_SPACE_DEVICE, ZG_SPACE_HOST, ZG_SPACE_DISK};
  const zg_cfg_offload *x = &c->zero.offload_optimizer, *p = &c->zero.offload_param;
  o->offload_optimizer = spaces[x->device];
  o->offload_ratio = x->ratio;
  o->offload_param = spaces[p->device];
  if (x->device == ZG_CFG_OFFLOAD_NVME) o->disk_path = x->nvme_path;
  if (p->device != ZG_CFG_OFFLOAD_NVME) return NULL;
  if (o->disk_path && p->nvme_path && strcmp(o->disk_path, p->nvme_path))
    return zg_error(ZG_UNSUPPORTED, "zero.offload_param.nvme_path %s and zero.offload_optimizer.nvme_path %s: one folder serves both; give the same", p->nvme_path, o->disk_path);
  o->disk_path = p->nvme_path;
  return NULL;
}

// Keys of ZeRO that were given and change nothing here: said once, by rank 0.
static void tell_unused(const zg_session *s) {
  static const struct { const char *key, *why; } none[] = {
      {"zero.allgather_bucket_size", "each tensor is gathered by itself"},
      {"zero.offload_optimizer.pin_memory", "the CPU has no page-locked memory to copy from"},
      {"zero.offload_param.pin_memory", "the CPU has no page-locked memory to copy from"},
      {"zero.offload_optimizer.buffer_count", "copies are planned one by one"},
      {"zero.offload_param.buffer_count", "copies are planned one by one"},
      {"zero.offload_param.buffer_size", "copies are planned one by one"},
      {"zero.offload_param.max_in_cpu", "the system keeps of the file in memory what it can"},
  };
  const zg_config *c = s->cfg;
  if (s->o.rank) return;
  if (c->zero.grad_accum_dtype != ZG_CFG_ACCUM_FP32) zg_warn("zero.grad_accum_dtype: gradients accumulate in f32 all the same");
  for (size_t i = 0; i < ZG_COUNT(none); i++)
    if (zg_config_given(c, none[i].key)) zg_log(1, "%s has no effect: %s", none[i].key, none[i].why);
}

// What the configuration says of ZeRO. `distance` stands for stage3_max_reuse_distance where that is not given.
static zg_status spread(zg_session *s, int64_t distance) {
  const zg_config *c = s->cfg;
  static const zg_dtype reduce_types[] = {[ZG_CFG_ACCUM_FP32] = ZG_F32, [ZG_CFG_ACCUM_BF16] = ZG_BF16, [ZG_CFG_ACCUM_FP16] = ZG_F16};
  tell_unused(s);
  zg_zero_options o = zg_zero_defaults();
  o.stage = (uint32_t)c->zero.stage;
  o.rank = s->o.rank;
  o.world = s->o.world;
  o.micro_steps = c->training.gradient_accumulation_steps;
  o.persistence_threshold = c->zero.stage3_param_persistence_threshold;
  o.model_persistence_threshold = c->zero.stage3_model_persistence_threshold;
  o.prefetch_bucket = c->zero.stage3_prefetch_bucket_size;
  o.max_live = c->zero.stage3_max_live_parameters;
  o.max_reuse_distance = c->zero.stage3_max_reuse_distance == ZG_UNSET ? distance : c->zero.stage3_max_reuse_distance;
  o.reduce_bucket = c->zero.reduce_bucket_size;
  o.overlap = c->zero.overlap_comm;
  o.reduce_type = reduce_types[c->zero.communication_data_type];
  o.second_ranks = (uint32_t)(c->zero.zero_hpz_partition_size > 1 ? c->zero.zero_hpz_partition_size : 0);
  o.shard_ranks = (uint32_t)(c->zero.mics_shard_size > 0 ? c->zero.mics_shard_size : 0);
  ZG_TRY(offload_of(c, &o));
  zg_zero_free(s->zero);
  s->zero = NULL;
  return zg_zero_new(&o, &s->zero);
}

// distance: how far parameters of stage 3 stay gathered, where the configuration leaves it open. no_limit: whatever the budget says.
static zg_status run_once(zg_session *s, int64_t distance, bool no_limit) {
  zg_pipeline_options o = {.mode = s->o.mode, .losses = s->losses.at, .n_losses = (uint32_t)s->losses.n,
                           .micro_steps = s->o.mode == ZG_RUN_TRAIN ? s->cfg->training.gradient_accumulation_steps : 1,
                           .bf16 = s->cfg->mixed_precision == ZG_CFG_MIXED_BF16, .fp16 = s->cfg->mixed_precision == ZG_CFG_MIXED_FP16, .eval = s->eval_graph,
                           .channels_last = s->device && s->device->vt->channels_last && s->device->vt->channels_last(s->device),
                           .half_convs = s->device && s->device->vt->half_convs,
                           .unroll_cells = s->device && s->device->vt->lacks & 1u << ZG_K_RECURRENT, .stop_after = s->o.stop_after,
                           .add_workspaces = add_workspaces, .device = s->device,
                           .model = s->o.model};
  const int64_t rows = s->cfg->memory.loss_chunk;
  o.loss_chunk = rows == ZG_CFG_LOSS_CHUNK_OFF ? 0 : rows == ZG_CFG_LOSS_CHUNK_AUTO ? ZG_LOSS_CHUNK_AUTO : rows;
  if (o.mode == ZG_RUN_TRAIN) o.optimizer = optimizer_spec(s);
  if (s->o.mode == ZG_RUN_TRAIN && s->o.world > 1) ZG_TRY(spread(s, distance));
  if (s->zero) o.spread = zg_zero_spread(s->zero);
  if (o.mode != ZG_RUN_FORWARD && !no_limit) {
    static const zg_recompute_mode modes[] = {ZG_RECOMPUTE_NONE, ZG_RECOMPUTE_AUTO, ZG_RECOMPUTE_FULL};
    o.recompute = modes[s->cfg->memory.recompute];
    o.budget = s->cfg->memory.budget == ZG_UNSET ? 0 : (uint64_t)s->cfg->memory.budget;
  }
  zg_pipeline_fini(&s->pipe);
  return zg_pipeline_run(s->graph, &o, &s->pipe);
}

static bool fits(const zg_session *s) {
  return s->cfg->memory.budget == ZG_UNSET || zg_session_sched(s)->arena_bytes[ZG_SPACE_DEVICE] <= (uint64_t)s->cfg->memory.budget;
}

// With a budget, parameters of stage 3 stay gathered from forward to backward as far as it allows: fewer bytes sent. The distance is
// found by bisection: the plan's memory grows with it.
static zg_status keep_gathered(zg_session *s) {
  int64_t all = 0, low = 0, high;
  uint32_t n;
  const zg_zero_part *p = zg_zero_parts(s->zero, &n);
  for (uint32_t i = 0; i < n; i++) all += 2 * p[i].n;
  high = all;
  ZG_TRY(run_once(s, all, true));
  if (fits(s)) return NULL;
  while (high - low > all / 64 + 1) {
    const int64_t middle = low + (high - low) / 2;
    ZG_TRY(run_once(s, middle, true));
    *(fits(s) ? &low : &high) = middle;
  }
  return run_once(s, low, false);
}

static zg_status run_pipeline(zg_session *s) {
  const zg_config *c = s->cfg;
  ZG_TRY(run_once(s, 0, false));
  const zg_recompute *how = &s->pipe.recompute.how;
  const bool open = s->zero && c->zero.stage == 3 && c->zero.stage3_max_reuse_distance == ZG_UNSET && c->memory.budget != ZG_UNSET;
  return open && !s->o.stop_after && !how->cheap && !how->blocks ? keep_gathered(s) : NULL;
}

static zg_status open_device(zg_session *s) {
  const zg_device_vtable *vt = &zg_device_cpu;   // also for plans: its kernels' scratch is part of them
  const bool want_cuda = s->cfg->device == ZG_CFG_DEVICE_CUDA, may_cuda = s->cfg->device == ZG_CFG_DEVICE_AUTO && !s->o.comm;
  if (!s->o.no_device && (want_cuda || may_cuda)) {
    zg_status found = zg_device_cuda.open(0, &s->device);
    if (!found || want_cuda) return found;
    zg_log(1, "device: cpu, because: %s", zg_status_message(found));
    zg_status_free(found);
  }
  int threads = s->cfg->threads == ZG_UNSET ? 0 : (int)s->cfg->threads;
  if (!threads && s->o.comm && s->o.comm->local_world > 1) {
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    threads = (int)ZG_MAX(1, cores / (long)s->o.comm->local_world);
  }
  return vt->open(threads, &s->device);
}

// Hash of what the ranks must agree on about the model: its tensors' names, types and places.
static uint64_t model_hash(const zg_session *s) {
  uint64_t h = 0;
  for (uint32_t i = 0; i < zg_onnx_n_tensors(s->model); i++) {
    const zg_onnx_tensor_info *t = zg_onnx_tensor_at(s->model, i);
    h = zg_hash(t->name, strlen(t->name), h);
    h = zg_hash(&t->type, sizeof t->type, h);
  }
  return h;
}

static zg_status meet_ranks(zg_session *s) {
  const zg_comm_identity mine = {.model = model_hash(s), .config = zg_config_hash(s->cfg), .collectives = zg_comm_sequence_hash(zg_session_sched(s))};
  ZG_TRY(zg_comm_compare(s->o.comm, &mine));
  return zg_exec_attach(s->program, s->o.comm);
}

static zg_status find_feed(zg_session *s, zg_feed *f, const char *name) {
  f->buf = zg_sched_find_buf(zg_session_sched(s), name);
  return f->buf && !s->o.no_device ? zg_alloc_big(zg_type_bytes(&f->type) + 1, &f->host) : NULL;
}

// Evaluation reads the same arrays, in batches of its own size, into inputs of its own.
static zg_status find_eval_feed(zg_session *s, const zg_feed *train) {
  const zg_sched *d = zg_session_sched(s);
  const char *name = zg_arena_printf(&s->mem, "eval:%s", train->name);
  uint32_t buf = zg_sched_find_buf(d, name);
  if (!buf || train->array < 0) return NULL;
  const char *array = zg_data_name(s->train, (size_t)train->array);
  zg_feed f = {.name = name, .type = d->bufs.at[buf].type, .array = zg_data_find(s->eval, array)};
  if (f.array < 0) return zg_error(ZG_INVALID, "data.eval has no array \"%s\", which the training data have", array);
  const zg_type *have = zg_data_type(s->eval, (size_t)f.array);
  if (zg_elems(have) != zg_elems(&f.type))
    return zg_error(ZG_INVALID, "data.eval: array \"%s\" is %s a batch, the model takes %s", array, zg_type_text(have), zg_type_text(&f.type));
  ZG_TRY(find_feed(s, &f, name));
  zg_vec_push(&s->eval_feeds, f);
  return NULL;
}

static zg_status prepare(zg_session *s) {
  for (size_t i = 0; i < s->feeds.n; i++) ZG_TRY(find_feed(s, &s->feeds.at[i], s->feeds.at[i].name));
  for (size_t i = 0; i < s->feeds.n && s->eval; i++) ZG_TRY(find_eval_feed(s, &s->feeds.at[i]));
  if (s->o.no_device) return NULL;
  ZG_TRY(s->device->vt->prepare(s->device, zg_session_sched(s), &s->program));
  ZG_TRY(load_weights(s));
  return s->o.comm ? meet_ranks(s) : NULL;
}

// What training no longer needs goes before the first step touches the arena: graphs that were lowered, pages of the model file, free
// pages of the heap.
static void slim(zg_session *s) {
  if (s->o.mode != ZG_RUN_TRAIN) return;
  zg_graph **graphs[] = {&s->pipe.main, &s->pipe.norm, &s->pipe.update, &s->pipe.eval};
  for (size_t i = 0; i < ZG_COUNT(graphs); i++) {
    zg_graph_free(*graphs[i]);
    *graphs[i] = NULL;
  }
  zg_onnx_forget_pages(s->model);
  zg_proc_trim();
}

static zg_status open_parts(zg_session *s) {
  const char *path = s->o.model_path ? s->o.model_path : s->cfg->model;
  if (!path) return zg_error(ZG_INVALID, "no model: name it on the command line, or with `model:` in the configuration");
  double t0 = zg_time_s();
  ZG_TRY(zg_onnx_load(path, &s->model));
  double t1 = zg_time_s();
  ZG_TRY(zg__session_open_data(s));
  ZG_TRY(zg__session_import(s));
  double t2 = zg_time_s();
  ZG_TRY(open_device(s));
  ZG_TRY(run_pipeline(s));
  double t3 = zg_time_s();
  if (s->pipe.sched && !s->o.stop_after) {
    ZG_TRY(prepare(s));
    slim(s);
  }
  zg_log(1, "load %.0f ms, import %.0f ms, plan %.0f ms, prepare %.0f ms", (t1 - t0) * 1e3, (t2 - t1) * 1e3, (t3 - t2) * 1e3,
         (zg_time_s() - t3) * 1e3);
  return NULL;
}

zg_status zg_session_open(const zg_config *cfg, const zg_session_options *o, zg_session **out) {
  zg_session *s = zg_alloc(sizeof *s);
  s->cfg = cfg;
  s->o = *o;
  if (o->comm) s->o.rank = o->comm->rank, s->o.world = o->comm->world;
  zg_status status = open_parts(s);
  if (status) {
    const bool budget = zg_status_code(status) == ZG_OUT_OF_MEMORY && cfg->memory.budget != ZG_UNSET && s->model;
    const bool once = !s->o.comm || s->o.rank == 0;   // ranks of a run fail alike: one looks for what would fit
    if (budget && once && o->mode == ZG_RUN_TRAIN && !o->no_advice && !s->program) status = zg__session_advise(s, status);
    zg_session_close(s);
    return status;
  }
  *out = s;
  return NULL;
}

// Code and data that the first step, metrics, checkpoints and the export bring into memory, the same for every model: measured, over
// the zoo (tests/zoo/process_memory).
enum { RUNNING = 7 << 17 };

static void free_feeds(zg_feeds *f) {
  for (size_t i = 0; i < f->n; i++)
    if (f->at[i].host) zg_free_big(f->at[i].host, zg_type_bytes(&f->at[i].type) + 1);
  zg_vec_fini(f);
}

zg_status zg_session_process(const zg_session *s, zg_process_memory *out) {
  const zg_device_vtable *vt = s->device->vt;
  const zg_sched *d = zg_session_sched(s);
  *out = (zg_process_memory){.before = zg_proc_resident_bytes(), .arenas = d->arena_bytes[ZG_SPACE_DEVICE] + d->arena_bytes[ZG_SPACE_HOST]};
  if (!vt->host_bytes) return zg_error(ZG_UNSUPPORTED, "device %s does not tell what its programs take beside the plan", vt->name);
  ZG_TRY(vt->host_bytes(s->device, d, &out->kernels));
  for (size_t i = 0; i < s->feeds.n; i++) out->feeds += s->feeds.at[i].buf ? zg_round_up(zg_type_bytes(&s->feeds.at[i].type) + 1, 4096) : 0;
  out->running = RUNNING;
  out->peak = out->before + out->kernels + out->feeds + out->running + out->arenas;
  return NULL;
}

void zg_session_close(zg_session *s) {
  if (!s) return;
  free_feeds(&s->feeds);
  free_feeds(&s->eval_feeds);
  zg_exec_detach(s->program);
  if (s->program) s->device->vt->program_free(s->program);
  if (s->device) s->device->vt->close(s->device);
  zg_pipeline_fini(&s->pipe);
  zg_zero_free(s->zero);
  zg_graph_free(s->graph);
  zg_graph_free(s->eval_graph);
  zg_data_close(s->train);
  zg_data_close(s->eval);
  zg_npz_close(s->inputs);
  zg_onnx_free(s->model);
  zg_vec_fini(&s->losses);
  zg_arena_fini(&s->mem);
  zg_free(s);
}
