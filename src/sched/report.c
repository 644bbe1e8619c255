// Reports on planned schedules. Linear in steps plus buffers alive at the peak.
#include "sched/report.h"

#include <stdlib.h>

static void count_work(const zg_sched *s, zg_report *r) {
  for (size_t i = 0; i < s->steps.n; i++) {
    if (s->steps.at[i].kind != ZG_STEP_KERNEL) continue;
    const zg_kernel *k = &s->kernels.at[s->steps.at[i].kernel];
    r->kernels[k->kind]++;
    r->flops += k->flops;
    for (uint32_t a = 0; a < k->n_args; a++) {
      double n = zg_dtype_bytes(k->args[a].dtype);
      for (uint32_t d = 0; d < k->args[a].rank; d++)
        if (k->args[a].stride[d]) n *= (double)k->args[a].dim[d];
      if (k->args[a].buf) r->bytes_moved += n;
    }
  }
}

// The step with the most bytes alive; a result in its operand's place counts from the step after.
static uint32_t find_peak(const zg_sched *s, const zg_live_range *l) {
  int64_t *delta = zg_alloc(sizeof *delta * (s->steps.n + 2));
  for (uint32_t b = 1; b < s->bufs.n; b++) {
    if (s->bufs.at[b].persistent || l[b].first == UINT32_MAX) continue;
    delta[l[b].first] += (int64_t)s->bufs.at[b].bytes;
    delta[l[b].last + 1] -= (int64_t)s->bufs.at[b].bytes;
  }
  int64_t live = 0, most = -1;
  uint32_t at = 0;
  for (uint32_t i = 0; i < s->steps.n; i++) {
    live += delta[i];
    if (live > most) most = live, at = i;
  }
  zg_free(delta);
  return at;
}

static int by_bytes(const void *a, const void *b) {
  const zg_report_buf *x = a, *y = b;
  return x->bytes != y->bytes ? (x->bytes < y->bytes ? 1 : -1) : (int)x->buf - (int)y->buf;
}

static int by_place(const void *a, const void *b, void *context) {
  const zg_sched *s = context;
  const zg_buf *x = &s->bufs.at[((const zg_report_buf *)a)->buf], *y = &s->bufs.at[((const zg_report_buf *)b)->buf];
  if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
  const uint32_t i = ((const zg_report_buf *)a)->made, j = ((const zg_report_buf *)b)->made;   // what was there first
  return i != j ? (i < j ? -1 : 1) : 0;
}

void zg_report_make(const zg_sched *s, zg_report *r) {
  zg_arena mem = {0};
  zg_live_range *l = zg_find_live_ranges(s, &mem);
  *r = (zg_report){.planned = s->arena_bytes[ZG_SPACE_DEVICE], .lower_bound = s->lower_bound[ZG_SPACE_DEVICE]};
  count_work(s, r);
  r->peak_step = find_peak(s, l);
  for (uint32_t b = 1; b < s->bufs.n; b++) {
    const zg_buf *x = &s->bufs.at[b];
    if (x->space != ZG_SPACE_DEVICE) continue;
    if (x->persistent) r->persistent += x->bytes;
    if (l[b].first <= r->peak_step && r->peak_step <= l[b].last) zg_vec_push(&r->alive, ((zg_report_buf){.buf = b, .bytes = x->bytes, .made = x->persistent ? 0 : l[b].first}));
  }
  qsort_r(r->alive.at, r->alive.n, sizeof *r->alive.at, by_place, (void *)s);
  for (size_t i = 0; i < r->alive.n; i++) {
    const zg_buf *x = &s->bufs.at[r->alive.at[i].buf];
    bool shared = i && s->bufs.at[r->alive.at[i - 1].buf].offset == x->offset && s->bufs.at[r->alive.at[i - 1].buf].bytes && x->bytes;
    r->alive.at[i].in_place = shared;
    if (!shared) r->by_role[x->role] += x->bytes;
  }
  if (r->alive.n) qsort(r->alive.at, r->alive.n, sizeof *r->alive.at, by_bytes);
  zg_arena_fini(&mem);
}

const char *zg_step_label(const zg_sched *s, uint32_t step) {
  if (step >= s->steps.n) return "";
  const zg_step *p = &s->steps.at[step];
  if (p->kind == ZG_STEP_KERNEL) return s->kernels.at[p->kernel].label;
  return p->kind == ZG_STEP_RECORD || p->kind == ZG_STEP_WAIT ? "" : s->bufs.at[p->a].name;
}

void zg_report_fini(zg_report *r) { zg_vec_fini(&r->alive); }
