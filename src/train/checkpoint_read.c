// Reading of checkpoints: every byte is checked before one of them is believed.
#include "train/checkpoint.h"
#include "train/checkpoint_priv.h"
#include <json-c/json.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static zg_status bad(const char *path, const char *what) { return zg_error(ZG_CORRUPT, "%s/state.json: %s", path, what); }

static bool get_u64(json_object *o, const char *key, uint64_t *out) {
  json_object *v;
  if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_int)) return false;
  *out = json_object_get_uint64(v);
  return true;
}

static bool get_number(json_object *o, const char *key, double *out) {
  json_object *v;
  if (!json_object_object_get_ex(o, key, &v)) return false;
  *out = v ? json_object_get_double(v) : (double)NAN;
  return !v || json_object_is_type(v, json_type_double) || json_object_is_type(v, json_type_int);
}

static const char *get_string(json_object *o, const char *key) {
  json_object *v;
  return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, json_type_string) ? json_object_get_string(v) : "";
}

// The text before the last member is what the checksum in it is of.
static zg_status check_text(const char *path, const zg_str *text) {
  const char *last = NULL;
  if (!text->n || strlen(text->at) != text->n) return bad(path, "the file is damaged");
  for (const char *p = strstr(text->at, "\"crc32\": \""); p; p = strstr(p + 1, "\"crc32\": \"")) last = p;
  if (!last) return bad(path, "the file is cut off");
  if (strtoul(last + 10, NULL, 16) != zg_crc32(text->at, (size_t)(last - text->at), 0))
    return bad(path, "the checksum is wrong; the file is damaged");
  return NULL;
}

static zg_status fill_state(const char *path, json_object *o, zg_checkpoint_state *st) {
  uint64_t format, world, stage;
  if (!get_u64(o, "format", &format)) return bad(path, "no \"format\"");
  if (format != 1)
    return zg_error(ZG_UNSUPPORTED, "%s: checkpoint format %llu; this zgraph reads format 1", path, (unsigned long long)format);
  const struct { const char *key; uint64_t *to; } ints[] = {
    { "step", &st->step }, { "samples", &st->samples }, { "seed", &st->seed }, { "config_hash", &st->config_hash },
    { "world", &world }, { "stage", &stage }, { "loss_scale_good", &st->loss_scale_good },
  };
  const struct { const char *key; double *to; } numbers[] = {
    { "loss_scale", &st->loss_scale }, { "loss", &st->loss }, { "seconds", &st->seconds },
  };
  for (size_t i = 0; i < ZG_COUNT(ints); i++)
    if (!get_u64(o, ints[i].key, ints[i].to)) return zg_error(ZG_CORRUPT, "%s/state.json: no \"%s\"", path, ints[i].key);
  for (size_t i = 0; i < ZG_COUNT(numbers); i++)
    if (!get_number(o, numbers[i].key, numbers[i].to))
      return zg_error(ZG_CORRUPT, "%s/state.json: no \"%s\"", path, numbers[i].key);
  if (!get_u64(o, "loss_scale_hysteresis", &st->loss_scale_hysteresis)) st->loss_scale_hysteresis = 0;   // not in older ones
  if (!get_u64(o, "skipped", &st->skipped)) st->skipped = 0;
  st->world = (uint32_t)world;
  st->stage = (uint32_t)stage;
  return NULL;
}

// Size and header as state.json has them, then every tensor.
static zg_status open_file(zg_checkpoint *c, json_object *files, int f) {
  json_object *o;
  zg_str path = { 0 };
  zg_status status = NULL;
  uint64_t want, n = 0;
  uint32_t crc = 0;
  const char *name = zg__checkpoint_files[f];
  if (!json_object_object_get_ex(files, name, &o) || !get_u64(o, "bytes", &want)) return bad(c->path, "a file is not in it");
  zg_str_add(&path, "%s/%s", c->path, name);
  ZG_TRY_OUT(zg__checkpoint_header_crc(path.at, &n, &crc));
  if (n != want)
    ZG_TRY_OUT(zg_error(ZG_CORRUPT, "%s: %llu bytes, want %llu; the file is cut off", path.at, (unsigned long long)n,
                        (unsigned long long)want));
  if (crc != strtoul(get_string(o, "header_crc32"), NULL, 16))
    ZG_TRY_OUT(zg_error(ZG_CORRUPT, "%s: the header's checksum is wrong; the file is damaged", path.at));
  ZG_TRY_OUT(zg_safetensors_open(path.at, &c->file[f]));
  ZG_TRY_OUT(zg_safetensors_check(c->file[f]));
out:
  zg_str_fini(&path);
  return status;
}

static zg_status open_one(const char *path, zg_checkpoint *c) {
  zg_str name = { 0 }, text = { 0 };
  json_object *root = NULL, *files;
  zg_status status = NULL;
  *c = (zg_checkpoint){ .path = strcpy(zg_alloc(strlen(path) + 1), path) };
  zg_str_add(&name, "%s/state.json", path);
  ZG_TRY_OUT(zg_file_read(name.at, &text));
  ZG_TRY_OUT(check_text(path, &text));
  root = json_tokener_parse(text.at);
  if (!root || !json_object_object_get_ex(root, "files", &files)) ZG_TRY_OUT(bad(path, "no JSON object with \"files\""));
  ZG_TRY_OUT(fill_state(path, root, &c->state));
  for (int f = 0; f < ZG_CKPT_N_FILES; f++) ZG_TRY_OUT(open_file(c, files, f));
out:
  json_object_put(root);
  zg_str_fini(&name);
  zg_str_fini(&text);
  if (status) zg_checkpoint_close(c);
  return status;
}

static bool is_checkpoint(const char *path) {
  zg_str s = { 0 };
  zg_str_add(&s, "%s/state.json", path);
  bool is = zg_file_exists(s.at);
  zg_str_fini(&s);
  return is;
}

zg_status zg_checkpoint_open(const char *path, zg_checkpoint *out) {
  zg__checkpoint_entries all = { 0 };
  zg_arena mem = { 0 };
  zg_status status = NULL, first = NULL;
  *out = (zg_checkpoint){ 0 };
  if (is_checkpoint(path)) return open_one(path, out);
  ZG_TRY_OUT(zg__checkpoint_list(path, &mem, &all));
  if (!all.n) ZG_TRY_OUT(zg_error(ZG_NOT_FOUND, "%s: no checkpoint in this folder", path));
  for (size_t i = 0; i < all.n; i++) {
    status = open_one(all.at[i].path, out);
    if (!status) break;
    if (i + 1 < all.n) zg_warn("%s; trying the checkpoint before it, %s", zg_status_message(status), all.at[i + 1].path);
    if (first) zg_status_free(status);
    else first = status;
    status = NULL;
    if (i + 1 == all.n) {
      status = first;
      first = NULL;
    }
  }
out:
  zg_status_free(first);
  zg_vec_fini(&all);
  zg_arena_fini(&mem);
  return status;
}

void zg_checkpoint_close(zg_checkpoint *c) {
  for (int f = 0; f < ZG_CKPT_N_FILES; f++) zg_safetensors_close(c->file[f]);
  zg_free(c->path);
  *c = (zg_checkpoint){ 0 };
}

zg_status zg_checkpoint_latest(const char *root, char **out_path) {
  zg_checkpoint c;
  *out_path = NULL;
  ZG_TRY(zg_checkpoint_open(root, &c));
  *out_path = c.path;
  c.path = NULL;
  zg_checkpoint_close(&c);
  return NULL;
}
