// `zgraph train --profile`: where the time of a run went. Three tables: by kind of kernel, by ONNX node, and
// the bytes that kernels move. Rates stand beside the limits that this device reaches (exec/measure.h),
// measured when the run has ended, so that neither its memory nor its time counts the measurement.
#include <stdio.h>
#include <stdlib.h>

#include "exec/measure.h"
#include "train/trainer_priv.h"

enum { NODES_SHOWN = 20, LABEL = 48 };

typedef struct {
  double s, flops, bytes;
} sum;
typedef struct {
  const char *name;
  sum all;
  double phase[5];
} node;
typedef ZG_VEC(node) nodes;

// The first step is left out: it touches memory for the first time and is as slow as the system's pages.
void zg__profile_skip_first(trainer *t) {
  if (!t->stats.profile || t->step != t->first_step + 1 || t->total <= t->step) return;
  const size_t n = zg_session_sched(t->s)->kernels.n + 1;
  double *s = t->stats.each_s;
  uint32_t *runs = t->stats.each_n;
  memset(s, 0, sizeof *s * n);
  memset(runs, 0, sizeof *runs * n);
  t->stats = (zg_exec_stats){.profile = true, .each_s = s, .each_n = runs};
  t->profiled_from = t->step;
}

void zg__profile_begin(trainer *t) {
  const size_t n = zg_session_sched(t->s)->kernels.n + 1;
  t->profiled_from = t->first_step;
  t->stats.profile = true;
  t->stats.each_s = zg_alloc(sizeof *t->stats.each_s * n);
  t->stats.each_n = zg_alloc(sizeof *t->stats.each_n * n);
}

static double view_bytes(const zg_view *v) {
  double n = v->buf ? zg_dtype_bytes(v->dtype) : 0;
  for (uint32_t d = 0; d < v->rank; d++)
    if (v->stride[d]) n *= (double)v->dim[d];
  return n;
}

// Every argument read or written once; what repeats (stride 0) counts once. Of the table of a gather or
// scatter, what is taken or put.
static double kernel_bytes(const zg_kernel *k) {
  double all = 0;
  const bool indexed = k->kind == ZG_K_GATHER || k->kind == ZG_K_SCATTER;
  for (uint32_t i = 0; i < k->n_args; i++) {
    const double n = view_bytes(&k->args[i]);
    double most = n;
    for (uint32_t other = 0; indexed && other < k->n_args; other++)
      if (other != i && k->args[other].dtype == k->args[i].dtype)
        most = ZG_MIN(most, view_bytes(&k->args[other]));
    all += most;
  }
  return all;
}

static sum kernel_sum(const trainer *t, uint32_t i) {
  const zg_kernel *k = &zg_session_sched(t->s)->kernels.at[i];
  const double n = t->stats.each_n[i];
  return (sum){t->stats.each_s[i], n * k->flops, n * kernel_bytes(k)};
}

static void add(sum *to, sum x) { to->s += x.s, to->flops += x.flops, to->bytes += x.bytes; }

// ---- by kind ----------------------------------------------------------------------------------------------
static void print_row(const char *name, sum x, double steps, double whole, const zg_device_model *limit) {
  printf("%-15s %9.3f %6.1f %9.1f %5.0f %9.1f %5.0f\n", name, x.s / steps * 1e3, 100 * x.s / whole,
         x.flops / x.s * 1e-9, 100 * x.flops / x.s / limit->flops_f32, x.bytes / x.s * 1e-9,
         100 * x.bytes / x.s / limit->bytes_per_s);
}

static void print_kinds(const trainer *t, double steps, const zg_device_model *limit) {
  const zg_sched *s = zg_session_sched(t->s);
  sum kind[ZG_N_KERNELS] = {{0}}, all = {0};
  for (uint32_t i = 0; i < s->kernels.n; i++)
    add(&kind[s->kernels.at[i].kind], kernel_sum(t, i)), add(&all, kernel_sum(t, i));
  const double whole = t->stats.run_s;
  printf("\nsteps %llu to %llu\n", (unsigned long long)t->profiled_from + 1, (unsigned long long)t->step);
  printf("%-15s %9s %6s %9s %5s %9s %5s\n", "kind", "ms/step", "%", "GFLOP/s", "% of", "GB/s", "% of");
  for (int k = 0; k < ZG_N_KERNELS; k++)
    if (kind[k].s > 0) print_row(zg_kernel_info_of((zg_kernel_kind)k)->name, kind[k], steps, whole, limit);
  if (all.s > 0) print_row("all kernels", all, steps, whole, limit);
  // Collectives on a stream of their own take time beside the kernels; what adds up to the whole is the waiting for them.
  if (t->world > 1)
    printf("%-15s %9.3f %6.1f   for collectives and copies; collectives took %.3f ms\n", "waiting", t->stats.wait_s / steps * 1e3,
           100 * t->stats.wait_s / whole, t->stats.comm_s / steps * 1e3);
  const double rest = whole - all.s - t->stats.wait_s;
  printf("%-15s %9.3f %6.1f   %.1f us for %.0f schedule steps\n", "outside them", rest / steps * 1e3,
         100 * rest / whole, rest / steps * 1e6, (double)t->stats.steps_run / steps);
  printf(
      "limits of this device, as measured: f32 matmul %.1f GFLOP/s, bf16 matmul %.1f GFLOP/s, memory %.1f "
      "GB/s\n",
      limit->flops_f32 * 1e-9, limit->flops_16 * 1e-9, limit->bytes_per_s * 1e-9);
}

// ---- by node ----------------------------------------------------------------------------------------------
// "fc1 (grad)", "fc1.weight (update)" -> fc1, fc1.weight
static char *node_name(zg_arena *a, const char *label) {
  const char *end = strstr(label, " (grad)");
  if (!end) end = strstr(label, " (update)");
  return zg_arena_strn(a, label, end ? (size_t)(end - label) : strlen(label));
}

static void collect_nodes(const trainer *t, zg_arena *a, nodes *out) {
  const zg_sched *s = zg_session_sched(t->s);
  zg_map at = {0};
  uint8_t *phase = zg_arena_alloc(a, s->kernels.n + 1);
  for (size_t i = 0; i < s->steps.n; i++)
    if (s->steps.at[i].kind == ZG_STEP_KERNEL) phase[s->steps.at[i].kernel] = s->steps.at[i].phase;
  for (uint32_t i = 0; i < s->kernels.n; i++) {
    if (!t->stats.each_n[i]) continue;
    const char *name = node_name(a, s->kernels.at[i].label);
    uint64_t n = out->n;
    if (!zg_map_get(&at, name, &n)) {
      zg_map_put(&at, name, n);
      zg_vec_push(out, (node){.name = name});
    }
    add(&out->at[n].all, kernel_sum(t, i));
    out->at[n].phase[phase[i]] += t->stats.each_s[i];
  }
  zg_map_fini(&at);
}

static int slower(const void *x, const void *y) {
  const double a = ((const node *)x)->all.s, b = ((const node *)y)->all.s;
  return (a < b) - (a > b);
}

static void print_nodes(const trainer *t, double steps) {
  zg_arena a = {0};
  nodes all = {0};
  sum rest = {0};
  collect_nodes(t, &a, &all);
  if (all.n) qsort(all.at, all.n, sizeof *all.at, slower);
  printf("\n%-*s %9s %9s %9s %9s %9s %7s\n", LABEL, "node", "ms/step", "forward", "backward", "update",
         "GFLOP/s", "GB/s");
  for (size_t i = 0; i < all.n; i++) {
    const node *n = &all.at[i];
    const double ms = 1e3 / steps;
    if (i >= NODES_SHOWN) add(&rest, n->all);
    else
      printf("%-*.*s %9.3f %9.3f %9.3f %9.3f %9.1f %7.1f\n", LABEL, LABEL, n->name, n->all.s * ms,
             n->phase[ZG_PHASE_FORWARD] * ms, n->phase[ZG_PHASE_BACKWARD] * ms,
             n->phase[ZG_PHASE_UPDATE] * ms, n->all.flops / n->all.s * 1e-9, n->all.bytes / n->all.s * 1e-9);
  }
  if (all.n > NODES_SHOWN)
    printf("%zu more nodes %*s %9.3f\n", all.n - NODES_SHOWN, LABEL - 15, "", rest.s / steps * 1e3);
  zg_vec_fini(&all);
  zg_arena_fini(&a);
}

// ---- bytes ------------------------------------------------------------------------------------------------
// The least: what the step begins with or leaves behind, and what it must keep from one phase to a later one,
// each read once and written once where it is at all. Tensors that live within forward, backward or update
// could stay in caches if all were fused.
static double least_bytes(const trainer *t, double steps) {
  const zg_sched *s = zg_session_sched(t->s);
  uint8_t *reads = zg_alloc(s->bufs.n + 1), *writes = zg_alloc(s->bufs.n + 1),
          *phases = zg_alloc(s->bufs.n + 1);
  double *n = zg_alloc(sizeof *n * (s->bufs.n + 1)), all = 0;
  for (size_t i = 0; i < s->steps.n; i++) {
    const zg_step *p = &s->steps.at[i];
    if (p->kind != ZG_STEP_KERNEL || !t->stats.each_n[p->kernel]) continue;
    const zg_kernel *k = &s->kernels.at[p->kernel];
    for (uint32_t a = 0; a < k->n_args; a++) {
      const uint32_t b = k->args[a].buf;
      if (a < k->n_out) writes[b] = 1;
      else reads[b] = 1;
      phases[b] |= (uint8_t)(1u << p->phase);
      n[b] = ZG_MAX(n[b], t->stats.each_n[p->kernel]);
    }
  }
  for (uint32_t b = 1; b < s->bufs.n; b++)
    if (s->bufs.at[b].persistent || (phases[b] & (phases[b] - 1)))
      all += (double)s->bufs.at[b].bytes * (reads[b] + writes[b]) * n[b] / steps;
  zg_free(reads), zg_free(writes), zg_free(phases), zg_free(n);
  return all;
}

static void print_bytes(const trainer *t, double steps, const zg_device_model *limit) {
  double moved = 0;
  for (uint32_t i = 0; i < zg_session_sched(t->s)->kernels.n; i++) moved += kernel_sum(t, i).bytes / steps;
  const double least = least_bytes(t, steps);
  printf(
      "\nbytes of a step: kernels move %.1f MB (%.2f ms at the memory's limit), the least is %.1f MB; ratio "
      "%.2f\n",
      moved * 1e-6, moved / limit->bytes_per_s * 1e3, least * 1e-6, least > 0 ? moved / least : 0);
}

static void print_seconds(const trainer *t) {  // of devices that queue work
  double all = 0;
  for (int k = 0; k < ZG_N_KERNELS; k++) all += t->stats.kernel_s[k];
  for (int k = 0; k < ZG_N_KERNELS; k++)
    if (t->stats.kernel_s[k] > 0)
      printf("%-12s %9.3f s  %5.1f %%\n", zg_kernel_info_of((zg_kernel_kind)k)->name, t->stats.kernel_s[k],
             100 * t->stats.kernel_s[k] / all);
}

zg_status zg__profile_print(const trainer *t) {
  const double steps = (double)(t->step - t->profiled_from);
  zg_device_model limit;
  if (t->s->device->vt->begin) {
    print_seconds(t);
    return NULL;
  }
  if (steps == 0 || t->stats.run_s == 0) return NULL;
  ZG_TRY(zg_device_measure(t->s->device, &limit));
  print_kinds(t, steps, &limit);
  print_nodes(t, steps);
  print_bytes(t, steps, &limit);
  printf("\n");
  return NULL;
}
