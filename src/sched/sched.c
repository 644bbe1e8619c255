// The schedule's containers.
#include "sched/sched.h"

zg_sched *zg_sched_new(void) {
  zg_sched *s = zg_alloc(sizeof *s);
  zg_vec_push(&s->bufs, (zg_buf){.name = ""});
  s->title = "schedule";
  s->world = 1;
  return s;
}

void zg_sched_free(zg_sched *s) {
  if (!s) return;
  zg_vec_fini(&s->bufs);
  zg_vec_fini(&s->kernels);
  zg_vec_fini(&s->steps);
  zg_vec_fini(&s->segments);
  zg_vec_fini(&s->outputs);
  zg_map_fini(&s->buf_by_name);
  zg_arena_fini(&s->mem);
  zg_free(s);
}

uint32_t zg_sched_add_buf(zg_sched *s, const zg_buf *b) {
  uint32_t id = (uint32_t)s->bufs.n;
  zg_buf copy = *b;
  const char *base = b->name && b->name[0] ? b->name : "t";
  copy.name = zg_arena_str(&s->mem, base);
  for (uint32_t i = 2; !b->name || zg_map_get(&s->buf_by_name, copy.name, NULL); i++) {
    copy.name = b->name ? zg_arena_printf(&s->mem, "%s~%u", base, i) : zg_arena_printf(&s->mem, "t%u", id);
    if (!b->name) break;
  }
  zg_map_put(&s->buf_by_name, copy.name, id);
  zg_vec_push(&s->bufs, copy);
  return id;
}

uint32_t zg_sched_add_kernel(zg_sched *s, const zg_kernel *k, size_t desc_bytes) {
  zg_kernel copy = *k;
  if (desc_bytes) copy.desc = zg_arena_copy(&s->mem, k->desc, desc_bytes);
  copy.args = zg_arena_copy(&s->mem, k->args, k->n_args * sizeof *k->args);
  copy.label = k->label ? zg_arena_str(&s->mem, k->label) : "";
  zg_vec_push(&s->kernels, copy);
  return (uint32_t)s->kernels.n - 1;
}

uint32_t zg_sched_find_buf(const zg_sched *s, const char *name) {
  uint64_t id = 0;
  return zg_map_get(&s->buf_by_name, name, &id) ? (uint32_t)id : 0;
}

const zg_segment *zg_sched_find_segment(const zg_sched *s, const char *name) {
  for (size_t i = 0; i < s->segments.n; i++)
    if (!strcmp(s->segments.at[i].name, name)) return &s->segments.at[i];
  return NULL;
}

const zg_sched_output *zg_sched_find_output(const zg_sched *s, const char *segment, zg_out_kind kind, const char *name) {
  for (size_t i = 0; i < s->outputs.n; i++) {
    const zg_sched_output *o = &s->outputs.at[i];
    if (o->kind == kind && (!segment || !strcmp(o->segment, segment)) && (!name || !strcmp(o->name, name))) return o;
  }
  return NULL;
}

const char *zg_role_name(zg_buf_role r) {
  static const char *const names[ZG_N_BUF_ROLES] = {"param",      "grad",      "optimizer", "master", "input", "const",
                                                    "activation", "temporary", "comm",      "workspace"};
  return r < ZG_N_BUF_ROLES ? names[r] : "?";
}
