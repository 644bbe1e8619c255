// Writing of checkpoints. Order of events at rank 0: data, fsync, header, fsync (both files); state.json, fsync; fsync of the
// folder; rename; fsync of the root. A reader sees the folder's final name only after all of it is on disk.
#include "train/checkpoint.h"
#include "train/checkpoint_priv.h"
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

const char *const zg__checkpoint_files[ZG_CKPT_N_FILES] = { "params.safetensors", "optimizer.safetensors" };

struct zg_checkpoint_writer {
  zg_arena mem;
  char *root, *tmp;
  uint64_t step;
  int rank;
  zg_safetensors_writer *file[ZG_CKPT_N_FILES];
};

// ---- folders ------------------------------------------------------------------------------------------------------

bool zg__checkpoint_parse_name(const char *name, uint64_t *step, uint64_t *again) {
  char *end;
  if (strncmp(name, "step-", 5) || name[5] < '0' || name[5] > '9') return false;
  *step = strtoull(name + 5, &end, 10);
  *again = *end == '-' ? strtoull(end + 1, &end, 10) : 1;
  return !*end;
}

static int newest_first(const void *a, const void *b) {
  const zg__checkpoint_entry *x = a, *y = b;
  if (x->step != y->step) return x->step > y->step ? -1 : 1;
  return x->again > y->again ? -1 : x->again < y->again;
}

zg_status zg__checkpoint_list(const char *root, zg_arena *mem, zg__checkpoint_entries *out) {
  DIR *d = opendir(root);
  if (!d) return zg_error(errno == ENOENT ? ZG_NOT_FOUND : ZG_IO, "%s: %s", root, strerror(errno));
  for (struct dirent *e; (e = readdir(d));) {
    zg__checkpoint_entry c;
    if (!zg__checkpoint_parse_name(e->d_name, &c.step, &c.again)) continue;
    c.path = zg_arena_printf(mem, "%s/%s", root, e->d_name);
    zg_vec_push(out, c);
  }
  closedir(d);
  if (out->n) qsort(out->at, out->n, sizeof *out->at, newest_first);
  return NULL;
}

// A checkpoint's folder holds files alone.
static void remove_folder(const char *path) {
  DIR *d = opendir(path);
  if (!d) return;
  for (struct dirent *e; (e = readdir(d));)
    if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) unlinkat(dirfd(d), e->d_name, 0);
  closedir(d);
  if (rmdir(path)) zg_warn("%s: cannot remove: %s", path, strerror(errno));
}

static void remove_stale(const char *root, zg_arena *mem) {
  DIR *d = opendir(root);
  if (!d) return;
  for (struct dirent *e; (e = readdir(d));)
    if (!strncmp(e->d_name, ".tmp-step-", 10)) remove_folder(zg_arena_printf(mem, "%s/%s", root, e->d_name));
  closedir(d);
}

// Out of sight by one rename first: a kill in the middle must not leave half a checkpoint under a good name.
static void prune(zg_checkpoint_writer *w, uint64_t keep, const char *written) {
  zg__checkpoint_entries all = { 0 };
  zg_status s = keep ? zg__checkpoint_list(w->root, &w->mem, &all) : NULL;
  for (size_t i = 0, kept = 1; !s && i < all.n; i++) {
    const char *path = all.at[i].path;
    if (!strcmp(path, written) || kept++ < keep) continue;
    char *aside = zg_arena_printf(&w->mem, "%s/.tmp-step-removed", w->root);
    if (rename(path, aside)) zg_warn("%s: cannot remove: %s", path, strerror(errno));
    else remove_folder(aside);
  }
  zg_vec_fini(&all);
  zg_status_free(s);
}

// ---- writer -------------------------------------------------------------------------------------------------------

zg_status zg_checkpoint_begin(const char *root, uint64_t step, int rank, const zg_checkpoint_decls decls[ZG_CKPT_N_FILES],
                              zg_checkpoint_writer **out) {
  zg_checkpoint_writer *w = zg_alloc(sizeof *w);
  zg_status status = NULL;
  static const zg_safetensors_meta meta = { "format", "zgraph" };
  *out = NULL;
  w->root = zg_arena_str(&w->mem, root);
  w->tmp = zg_arena_printf(&w->mem, "%s/.tmp-step-%08llu", root, (unsigned long long)step);
  w->step = step;
  w->rank = rank;
  if (!rank) {
    ZG_TRY_OUT(zg_dir_make(root));
    remove_stale(root, &w->mem);
    ZG_TRY_OUT(zg_dir_make(w->tmp));
  }
  for (int f = 0; f < ZG_CKPT_N_FILES; f++) {
    char *path = zg_arena_printf(&w->mem, "%s/%s", w->tmp, zg__checkpoint_files[f]);
    ZG_TRY_OUT(zg_safetensors_create(path, decls[f].decl, decls[f].n, &meta, 1, &w->file[f]));
  }
  *out = w;
  return NULL;
out:
  zg_checkpoint_abandon(w);
  return status;
}

zg_status zg_checkpoint_write(zg_checkpoint_writer *w, zg_checkpoint_file file, size_t i, uint64_t offset, const void *bytes,
                              uint64_t n_bytes) {
  return zg_safetensors_write(w->file[file], i, offset, bytes, n_bytes);
}

static void free_writer(zg_checkpoint_writer *w) {
  for (int f = 0; f < ZG_CKPT_N_FILES; f++) zg_safetensors_abandon(w->file[f]);
  zg_arena_fini(&w->mem);
  zg_free(w);
}

void zg_checkpoint_abandon(zg_checkpoint_writer *w) {
  if (!w) return;
  if (!w->rank) remove_folder(w->tmp);
  free_writer(w);
}

zg_status zg_checkpoint_leave(zg_checkpoint_writer *w) {
  zg_status status = NULL;
  for (int f = 0; f < ZG_CKPT_N_FILES; f++) {
    zg_safetensors_writer *file = w->file[f];
    w->file[f] = NULL;
    ZG_TRY_OUT(zg_safetensors_leave(file));
  }
out:
  free_writer(w);
  return status;
}

// ---- state.json ---------------------------------------------------------------------------------------------------

static void put_number(zg_str *s, const char *key, double v) {
  if (isfinite(v)) zg_str_add(s, "  \"%s\": %.17g,\n", key, v);
  else zg_str_add(s, "  \"%s\": null,\n", key);
}

zg_status zg__checkpoint_header_crc(const char *path, uint64_t *n_bytes, uint32_t *crc) {
  zg_file_map map;
  zg_status status = NULL;
  uint64_t n = 0;
  ZG_TRY(zg_file_map_open(path, &map));
  *n_bytes = map.bytes.n;
  for (int i = 7; i >= 0 && map.bytes.n >= 8; i--) n = n << 8 | map.bytes.at[i];
  if (map.bytes.n < 8 || n > map.bytes.n - 8) status = zg_error(ZG_CORRUPT, "%s: the file is cut off", path);
  else *crc = zg_crc32(map.bytes.at, 8 + n, 0);
  zg_file_map_close(&map);
  return status;
}

// The last member is the checksum of all text before it.
static zg_status write_state(zg_checkpoint_writer *w, const zg_checkpoint_state *st) {
  zg_str s = { 0 };
  zg_status status = NULL;
  const struct { const char *key; uint64_t value; } ints[] = {
    { "step", st->step }, { "samples", st->samples }, { "seed", st->seed }, { "config_hash", st->config_hash },
    { "world", st->world }, { "stage", st->stage }, { "loss_scale_good", st->loss_scale_good },
    { "loss_scale_hysteresis", st->loss_scale_hysteresis }, { "skipped", st->skipped },
  };
  zg_str_add(&s, "{\n  \"format\": 1,\n  \"zgraph\": \"" ZG_VERSION "\",\n");
  for (size_t i = 0; i < ZG_COUNT(ints); i++)
    zg_str_add(&s, "  \"%s\": %llu,\n", ints[i].key, (unsigned long long)ints[i].value);
  put_number(&s, "loss_scale", st->loss_scale);
  put_number(&s, "loss", st->loss);
  put_number(&s, "seconds", st->seconds);
  zg_str_add(&s, "  \"files\": {\n");
  for (int f = 0; f < ZG_CKPT_N_FILES; f++) {
    uint64_t n;
    uint32_t crc;
    char *path = zg_arena_printf(&w->mem, "%s/%s", w->tmp, zg__checkpoint_files[f]);
    ZG_TRY_OUT(zg__checkpoint_header_crc(path, &n, &crc));
    zg_str_add(&s, "    \"%s\": {\"bytes\": %llu, \"header_crc32\": \"%08x\"}%s\n", zg__checkpoint_files[f],
               (unsigned long long)n, crc, f + 1 < ZG_CKPT_N_FILES ? "," : "");
  }
  zg_str_add(&s, "  },\n  ");
  zg_str_add(&s, "\"crc32\": \"%08x\"\n}\n", zg_crc32(s.at, s.n, 0));
  ZG_TRY_OUT(zg_file_write_atomic(zg_arena_printf(&w->mem, "%s/state.json", w->tmp), s.at, s.n));
out:
  zg_str_fini(&s);
  return status;
}

// The first free name for this step.
static char *final_path(zg_checkpoint_writer *w) {
  char *path = zg_arena_printf(&w->mem, "%s/step-%08llu", w->root, (unsigned long long)w->step);
  for (int again = 2; zg_file_exists(path); again++)
    path = zg_arena_printf(&w->mem, "%s/step-%08llu-%d", w->root, (unsigned long long)w->step, again);
  return path;
}

zg_status zg_checkpoint_commit(zg_checkpoint_writer *w, const zg_checkpoint_state *state, uint64_t keep, char **out_path) {
  zg_status status = NULL;
  ZG_ASSERT(!w->rank);
  for (int f = 0; f < ZG_CKPT_N_FILES; f++) {
    zg_safetensors_writer *file = w->file[f];
    w->file[f] = NULL;
    ZG_TRY_OUT(zg_safetensors_finish(file));
  }
  ZG_TRY_OUT(write_state(w, state));
  ZG_TRY_OUT(zg_dir_sync(w->tmp));
  char *path = final_path(w);
  if (rename(w->tmp, path)) ZG_TRY_OUT(zg_error(ZG_IO, "%s: cannot rename to %s: %s", w->tmp, path, strerror(errno)));
  status = zg_dir_sync(w->root);
  prune(w, keep, path);
  if (out_path) *out_path = strcpy(zg_alloc(strlen(path) + 1), path);
  free_writer(w);
  return status;
out:
  zg_checkpoint_abandon(w);
  return status;
}

static zg_safetensors_decl *decls_of(zg_arena *mem, const zg_checkpoint_tensor *t, size_t n) {
  zg_safetensors_decl *d = ZG_NEW_N(mem, zg_safetensors_decl, n + 1);
  for (size_t i = 0; i < n; i++) d[i] = (zg_safetensors_decl){ t[i].name, t[i].type };
  return d;
}

zg_status zg_checkpoint_save(const char *root, const zg_checkpoint_state *state, const zg_checkpoint_tensor *params, size_t n_params,
                             const zg_checkpoint_tensor *optimizer, size_t n_optimizer, uint64_t keep, char **out_path) {
  zg_arena mem = { 0 };
  zg_checkpoint_writer *w = NULL;
  zg_status status = NULL;
  const zg_checkpoint_tensor *const tensors[] = { params, optimizer };
  const zg_checkpoint_decls decls[] = { { decls_of(&mem, params, n_params), n_params },
                                        { decls_of(&mem, optimizer, n_optimizer), n_optimizer } };
  ZG_TRY_OUT(zg_checkpoint_begin(root, state->step, 0, decls, &w));
  for (int f = 0; f < ZG_CKPT_N_FILES; f++)
    for (size_t i = 0; i < decls[f].n; i++)
      ZG_TRY_OUT(zg_checkpoint_write(w, (zg_checkpoint_file)f, i, 0, tensors[f][i].data, zg_type_bytes(&tensors[f][i].type)));
out:
  zg_arena_fini(&mem);
  if (!status) return zg_checkpoint_commit(w, state, keep, out_path);
  zg_checkpoint_abandon(w);
  return status;
}

zg_status zg_checkpoint_set_aside(const char *root, uint64_t *out_n) {
  zg_arena mem = {0};
  zg__checkpoint_entries found = {0};
  *out_n = 0;
  zg_status status = zg__checkpoint_list(root, &mem, &found);
  if (status && zg_status_code(status) == ZG_NOT_FOUND) {
    zg_status_free(status);
    status = NULL;
  }
  const char *old = NULL;
  for (int k = 1; !status && found.n && (!old || zg_file_exists(old)); k++) old = zg_arena_printf(&mem, "%s/old-%d", root, k);
  if (!status && old) status = zg_dir_make(old);
  for (size_t i = 0; !status && i < found.n; i++) {
    const char *to = zg_arena_printf(&mem, "%s/%s", old, strrchr(found.at[i].path, '/') + 1);
    if (rename(found.at[i].path, to)) status = zg_error(ZG_IO, "%s: %s", to, strerror(errno));
    else ++*out_n;
  }
  zg_vec_fini(&found);
  zg_arena_fini(&mem);
  return status;
}
