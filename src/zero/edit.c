// Editing of schedules: steps inserted at places, and the few kernels that the passes make themselves.
#include <stdlib.h>

#include "sched/loop.h"
#include "zero/zero_priv.h"

void zg__edit_before(zg__edit *e, uint32_t at, zg_step step) {
  zg_vec_push(&e->list, (zg__insertion){2 * at, (uint32_t)e->list.n, step});
}

void zg__edit_after(zg__edit *e, uint32_t at, zg_step step) {
  zg_vec_push(&e->list, (zg__insertion){2 * at + 1, (uint32_t)e->list.n, step});
}

void zg__edit_drop(zg__edit *e, uint32_t at) { zg__edit_before(e, at, (zg_step){.kind = ZG_N_STEP_KINDS}); }

static int by_place(const void *a, const void *b) {
  const zg__insertion *x = a, *y = b;
  if (x->at != y->at) return x->at < y->at ? -1 : 1;
  return x->seq < y->seq ? -1 : x->seq > y->seq;
}

void zg__edit_apply(zg__edit *e) {
  zg_sched *s = e->s;
  if (e->list.n) qsort(e->list.at, e->list.n, sizeof *e->list.at, by_place);
  zg_arena mem = {0};
  const zg_step *old = zg_arena_copy(&mem, s->steps.at, sizeof *old * s->steps.n);
  s->steps.n = 0;
  size_t k = 0;
  for (size_t g = 0; g < s->segments.n; g++) {
    zg_segment *seg = &s->segments.at[g];
    const uint32_t first = (uint32_t)s->steps.n;
    for (uint32_t i = seg->first; i < seg->first + seg->n; i++) {
      bool dropped = false;
      for (; k < e->list.n && e->list.at[k].at == 2 * i; k++) {
        if (e->list.at[k].step.kind == ZG_N_STEP_KINDS) dropped = true;
        else zg_vec_push(&s->steps, e->list.at[k].step);
      }
      if (!dropped) zg_vec_push(&s->steps, old[i]);
      while (k < e->list.n && e->list.at[k].at == 2 * i + 1) zg_vec_push(&s->steps, e->list.at[k++].step);
    }
    *seg = (zg_segment){seg->name, first, (uint32_t)s->steps.n - first};
  }
  ZG_ASSERT(k == e->list.n);
  zg_vec_fini(&e->list);
  zg_arena_fini(&mem);
}

bool zg__is_micro(const zg_segment *g) { return !strcmp(g->name, "micro") || !strcmp(g->name, "micro_last"); }

// ---- kernels --------------------------------------------------------------------------------------------------------------

zg_view zg__flat(uint32_t buf, zg_dtype t, int64_t offset, int64_t n) {
  return (zg_view){.buf = buf, .dtype = t, .rank = 1, .offset = offset, .dim = {n}, .stride = {1}};
}

// A loop over the elements of args[0], all of one class; args beyond the first `n_flat` are scalars.
static zg_step loop_step(zg_sched *s, const zg_inst *inst, uint32_t n_inst, zg_view *args, uint32_t n_args,
                         uint8_t phase, const char *label) {
  zg_loop_desc d = {.rank = 1, .dim = {args[0].dim[0]}, .n_inst = n_inst};
  d.inst = zg_arena_copy(&s->mem, inst, sizeof *inst * n_inst);
  const zg_kernel k = {.kind = ZG_K_LOOP,
                       .desc = &d,
                       .args = args,
                       .n_args = n_args,
                       .n_out = 1,
                       .flops = (double)args[0].dim[0],
                       .label = label};
  return (zg_step){.kind = ZG_STEP_KERNEL,
                   .stream = ZG_STREAM_COMPUTE,
                   .phase = phase,
                   .kernel = zg_sched_add_kernel(s, &k, sizeof d)};
}

zg_step zg__fill_step(zg_sched *s, zg_view to, uint8_t phase, const char *label) {
  const uint8_t cls = (uint8_t)zg_cls_of(to.dtype);
  const zg_inst inst[] = {{.kind = ZG_I_CONST, .cls = cls, .level = ZG_LEVEL_ROW, .imm = 0},
                          {.kind = ZG_I_STORE, .cls = cls, .level = ZG_LEVEL_ELEM, .a = 0, .b = 0}};
  return loop_step(s, inst, ZG_COUNT(inst), &to, 1, phase, label);
}

zg_step zg__copy_step(zg_sched *s, zg_view to, zg_view from, uint8_t phase, const char *label) {
  const uint8_t cls = (uint8_t)zg_cls_of(to.dtype);
  const zg_inst inst[] = {{.kind = ZG_I_LOAD, .cls = cls, .level = ZG_LEVEL_ELEM, .a = 1},
                          {.kind = ZG_I_STORE, .cls = cls, .level = ZG_LEVEL_ELEM, .a = 0, .b = 0}};
  zg_view args[] = {to, from};
  return loop_step(s, inst, ZG_COUNT(inst), args, 2, phase, label);
}

zg_step zg__accumulate_step(zg_sched *s, zg_view acc, zg_view x, uint32_t first_micro, uint8_t phase,
                            const char *label) {
  const uint8_t f = ZG_CLS_F32, e = ZG_LEVEL_ELEM;
  const zg_inst inst[] = {
      {.kind = ZG_I_CONST, .cls = f, .level = ZG_LEVEL_ROW, .imm = 0},
      {.kind = ZG_I_LOAD, .cls = f, .level = e, .a = 3},
      {.kind = ZG_I_MAP, .cls = ZG_CLS_INT, .in_cls = f, .level = e, .scalar = ZG_S_LT, .a = 0, .b = 1},
      {.kind = ZG_I_LOAD, .cls = f, .level = e, .a = 1},
      {.kind = ZG_I_MAP, .cls = f, .in_cls = f, .level = e, .scalar = ZG_S_WHERE, .a = 2, .b = 0, .c = 3},
      {.kind = ZG_I_LOAD, .cls = f, .level = e, .a = 2},
      {.kind = ZG_I_MAP, .cls = f, .in_cls = f, .level = e, .scalar = ZG_S_ADD, .a = 4, .b = 5},
      {.kind = ZG_I_STORE, .cls = f, .level = e, .a = 6, .b = 0},
  };
  zg_view first = zg__flat(first_micro, ZG_F32, 0, acc.dim[0]);
  first.stride[0] = 0;
  zg_view args[] = {acc, acc, x, first};
  return loop_step(s, inst, ZG_COUNT(inst), args, 4, phase, label);
}
