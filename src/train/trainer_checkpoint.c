// The trainer's checkpoints. Tensors are whole in the files; a rank writes the elements that it answers for (zero/zero.h) and
// reads the ones it holds, so any number of ranks in any stage reads what any other wrote.
#include <math.h>
#include <stdlib.h>

#include "train/checkpoint.h"
#include "train/trainer_priv.h"

typedef struct {
  ZG_VEC(zg_safetensors_decl) decl;
  ZG_VEC(uint32_t) buf;
  ZG_VEC(zg_zero_range) range;
} tensor_list;

// Buffers that make up the state: what an update changes.
static bool in_checkpoint(const trainer *t, uint32_t buf, zg_zero_range *range, zg_checkpoint_file *file) {
  const zg_buf *b = &zg_session_sched(t->s)->bufs.at[buf];
  if (!zg_zero_range_of(t->s->zero, zg_session_sched(t->s), buf, range)) return false;
  *file = ZG_CKPT_OPTIMIZER;
  if (b->role != ZG_BUF_PARAM) return true;
  *file = ZG_CKPT_PARAMS;
  zg_val leaf = zg_find_leaf(t->s->graph, b->name);
  return zg_is(leaf) && ((const zg_param_attr *)zg_node_of(t->s->graph, leaf)->attr)->role != ZG_ROLE_FROZEN;
}

static void list_state(const trainer *t, tensor_list lists[ZG_CKPT_N_FILES]) {
  const zg_sched *d = zg_session_sched(t->s);
  for (uint32_t b = 1; b < d->bufs.n; b++) {
    zg_checkpoint_file f;
    zg_zero_range r;
    if (!in_checkpoint(t, b, &r, &f)) continue;
    zg_vec_push(&lists[f].decl, (zg_safetensors_decl){r.name, r.type});
    zg_vec_push(&lists[f].buf, b);
    zg_vec_push(&lists[f].range, r);
  }
}

static void free_lists(tensor_list lists[ZG_CKPT_N_FILES]) {
  for (int f = 0; f < ZG_CKPT_N_FILES; f++) {
    zg_vec_fini(&lists[f].decl);
    zg_vec_fini(&lists[f].buf);
    zg_vec_fini(&lists[f].range);
  }
}

static zg_status meet(const trainer *t, const char *what) {
  return t->o->comm ? zg_comm_barrier(t->o->comm, what) : NULL;
}

// ---- writing --------------------------------------------------------------------------------------------------------------

enum { PIECE = 1 << 16 };   // small: it stands beside a fully used arena

static zg_status write_tensor(trainer *t, zg_checkpoint_writer *w, zg_checkpoint_file f, size_t i,
                              uint32_t buf, const zg_zero_range *r, void *piece) {
  const uint64_t size = zg_dtype_bytes(r->type.dtype), n = (uint64_t)(r->hi - r->lo) * size;
  const uint64_t here = (uint64_t)(r->lo - r->have_lo) * size, there = (uint64_t)r->lo * size;
  for (uint64_t at = 0; at < n; at += PIECE) {
    const uint64_t m = ZG_MIN((uint64_t)PIECE, n - at);
    ZG_TRY(t->s->device->vt->read(t->s->program, buf, here + at, piece, m));
    ZG_TRY(zg_checkpoint_write(w, f, i, there + at, piece, m));
  }
  return NULL;
}

static zg_status begin(trainer *t, const zg_checkpoint_decls *decls, zg_checkpoint_writer **out) {
  const char *root = t->cfg->training.output_dir;
  if (t->rank) ZG_TRY(meet(t, "start of a checkpoint"));
  ZG_TRY(zg_checkpoint_begin(root, t->step, (int)t->rank, decls, out));
  return t->rank ? NULL : meet(t, "start of a checkpoint");
}

static zg_status commit(trainer *t, zg_checkpoint_writer *w) {
  zg_status status = t->rank ? zg_checkpoint_leave(w) : NULL;
  if (!status) status = meet(t, "end of a checkpoint");
  if (t->rank) return status;
  if (status) {
    zg_checkpoint_abandon(w);
    return status;
  }
  const zg_checkpoint_state state = {.step = t->step,
                                     .samples = t->samples,
                                     .seed = (uint64_t)t->cfg->training.seed,
                                     .world = t->world,
                                     .stage = t->s->zero ? zg_zero_options_of(t->s->zero)->stage : 0,
                                     .loss_scale = t->scale.scale,
                                     .loss_scale_good = t->scale.good,
                                     .loss_scale_hysteresis = t->scale.hysteresis,
                                     .skipped = t->scale.skipped,
                                     .loss = t->loss,
                                     .seconds = t->seconds};
  zg_free(t->checkpoint);
  t->checkpoint = NULL;
  ZG_TRY(zg_checkpoint_commit(w, &state, (uint64_t)ZG_MAX(t->cfg->training.keep, 0), &t->checkpoint));
  zg_metrics_note(t->metrics, "saved %s", t->checkpoint);
  return NULL;
}

zg_status zg__trainer_save(trainer *t) {
  tensor_list lists[ZG_CKPT_N_FILES] = {0};
  zg_checkpoint_decls decls[ZG_CKPT_N_FILES];
  zg_checkpoint_writer *w = NULL;
  void *piece = zg_alloc(PIECE);
  zg_status status = NULL;
  list_state(t, lists);
  for (int f = 0; f < ZG_CKPT_N_FILES; f++)
    decls[f] = (zg_checkpoint_decls){lists[f].decl.at, lists[f].decl.n};
  ZG_TRY_OUT(begin(t, decls, &w));
  for (int f = 0; f < ZG_CKPT_N_FILES; f++)
    for (size_t i = 0; i < lists[f].buf.n; i++)
      ZG_TRY_OUT(
          write_tensor(t, w, (zg_checkpoint_file)f, i, lists[f].buf.at[i], &lists[f].range.at[i], piece));
  zg_checkpoint_writer *committing = w;
  w = NULL;
  status = commit(t, committing);
out:
  zg_checkpoint_abandon(w);
  zg_free(piece);
  free_lists(lists);
  return status;
}

// ---- reading --------------------------------------------------------------------------------------------------------------

static zg_status read_tensor(trainer *t, const zg_safetensors *f, const char *folder, uint32_t buf,
                             const zg_zero_range *r) {
  int64_t i = zg_safetensors_find(f, r->name);
  if (i < 0)
    return zg_error(ZG_INVALID, "%s: has no tensor \"%s\"; was it saved with another model or optimizer?",
                    folder, r->name);
  const zg_type *have = zg_safetensors_type(f, (size_t)i);
  if (!zg_type_equal(have, &r->type))
    return zg_error(ZG_INVALID, "%s: tensor \"%s\" is %s, the model has %s", folder, r->name,
                    zg_type_text(have), zg_type_text(&r->type));
  const uint64_t size = zg_dtype_bytes(r->type.dtype);
  const zg_bytes all = zg_safetensors_bytes(f, (size_t)i);
  zg_status status = t->s->device->vt->write(t->s->program, buf, 0, all.at + (uint64_t)r->have_lo * size,
                                             (uint64_t)(r->have_hi - r->have_lo) * size);
  zg_file_map_forget(all);
  return status;
}

// Which folder to read; NULL: none, start anew. zg_free it.
static zg_status find_checkpoint(const trainer *t, char **out) {
  *out = NULL;
  if (strcmp(t->o->resume, "auto")) {
    *out = strcpy(zg_alloc(strlen(t->o->resume) + 1), t->o->resume);
    return NULL;
  }
  zg_status s = zg_checkpoint_latest(t->cfg->training.output_dir, out);
  if (!s || zg_status_code(s) != ZG_NOT_FOUND) return s;
  zg_status_free(s);
  return NULL;
}

// Ranks that read different checkpoints would train on from different states.
static zg_status same_step(const trainer *t) {
  if (!t->o->comm) return NULL;
  int64_t mine = (int64_t)t->step, first = mine;
  ZG_TRY(zg_comm_broadcast(t->o->comm, 0, ZG_I64, &first, 1, 0, "step resumed from"));
  if (first == mine) return NULL;
  return zg_error(ZG_INVALID,
                  "rank %u found the checkpoint of step %lld, rank 0 that of step %lld: do all ranks see the "
                  "same folder %s?",
                  t->rank, (long long)mine, (long long)first, t->cfg->training.output_dir);
}

// A run that was made with another precision starts with the scale of its configuration.
static void take_scale(trainer *t, const zg_checkpoint_state *st) {
  t->scale.skipped = st->skipped;
  if (!zg_loss_scale_used(t->cfg) || st->loss_scale_hysteresis == 0) return;
  t->scale.good = st->loss_scale_good;
  t->scale.hysteresis = st->loss_scale_hysteresis;
  if (!(t->cfg->fp16.loss_scale > 0)) t->scale.scale = st->loss_scale;
}

zg_status zg__trainer_resume(trainer *t) {
  zg_checkpoint c = {0};
  tensor_list lists[ZG_CKPT_N_FILES] = {0};
  zg_status status = NULL;
  char *from = NULL;
  ZG_TRY_OUT(find_checkpoint(t, &from));
  if (from) {
    ZG_TRY_OUT(zg_checkpoint_open(from, &c));
    list_state(t, lists);
    for (int f = 0; f < ZG_CKPT_N_FILES; f++)
      for (size_t i = 0; i < lists[f].buf.n; i++)
        ZG_TRY_OUT(read_tensor(t, c.file[f], c.path, lists[f].buf.at[i], &lists[f].range.at[i]));
    if (c.state.seed != (uint64_t)t->cfg->training.seed && !t->rank)
      zg_warn("%s was made with training.seed %llu, this run has %lld: the data come in another order",
              c.path, (unsigned long long)c.state.seed, (long long)t->cfg->training.seed);
    t->step = c.state.step;
    t->samples = c.state.samples;
    t->seconds = c.state.seconds;
    take_scale(t, &c.state);
  }
  status = same_step(t);
out:
  free_lists(lists);
  zg_free(from);
  if (c.path) zg_checkpoint_close(&c);
  return status;
}

zg_status zg__trainer_export(trainer *t, const char *path) {
  zg_checkpoint c;
  ZG_ASSERT(t->checkpoint);
  ZG_TRY(zg_checkpoint_open(t->checkpoint, &c));
  const zg_safetensors *f = c.file[ZG_CKPT_PARAMS];
  const size_t n = zg_safetensors_count(f);
  zg_onnx_replacement *r = zg_alloc(sizeof *r * (n + 1));
  for (size_t i = 0; i < n; i++) {
    const zg_val leaf = zg_find_leaf(t->s->graph, zg_safetensors_name(f, i));
    ZG_ASSERT(zg_is(leaf));
    r[i] =
        (zg_onnx_replacement){(uint32_t)((const zg_param_attr *)zg_node_of(t->s->graph, leaf)->attr)->source,
                              zg_safetensors_bytes(f, i).at};
  }
  zg_status status = zg_onnx_export(t->s->model, r, (uint32_t)n, path);
  zg_free(r);
  zg_checkpoint_close(&c);
  return status;
}
