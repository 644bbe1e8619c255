// Device descriptions and predicted times.
#include "sched/device_model.h"

#define T 1e12
#define G 1e9
static const zg_device_model models[] = {
    // name       memory     f32         16 bit      memory     network           host       launch  node, between nodes
    {"b200-192g", 192000 * 1000ull * 1000, 0.6 * 1125 * T, 0.6 * 2250 * T, 7.2 * T, 800 * G, 6e-6, 55 * G, 3e-6, 8, 50 * G, 10e-6},
    {"h200-141g", 141000 * 1000ull * 1000, 0.6 * 494 * T, 0.6 * 989 * T, 4.3 * T, 400 * G, 6e-6, 50 * G, 3e-6, 8, 50 * G, 10e-6},
    {"h100-80g", 80ull << 30, 0.6 * 494 * T, 0.6 * 989 * T, 3.0 * T, 400 * G, 6e-6, 50 * G, 3e-6, 8, 50 * G, 10e-6},
    {"a100-80g", 80ull << 30, 0.6 * 156 * T, 0.6 * 312 * T, 1.8 * T, 260 * G, 8e-6, 24 * G, 4e-6, 8, 25 * G, 10e-6},
    {"a100-40g", 40ull << 30, 0.6 * 156 * T, 0.6 * 312 * T, 1.4 * T, 260 * G, 8e-6, 24 * G, 4e-6, 8, 25 * G, 10e-6},
    {"l40s-48g", 48ull << 30, 0.6 * 183 * T, 0.6 * 362 * T, 0.77 * T, 24 * G, 12e-6, 24 * G, 4e-6, 8, 12.5 * G, 10e-6},
    {"rtx4090-24g", 24ull << 30, 0.6 * 82 * T, 0.6 * 165 * T, 0.9 * T, 20 * G, 15e-6, 24 * G, 4e-6, 8, 12.5 * G, 10e-6},
    {"cpu", 0, 0.4 * T, 0.4 * T, 30 * G, 10 * G, 20e-6, 10 * G, 2e-6},
};

const zg_device_model *zg_device_models(uint32_t *n) {
  *n = ZG_COUNT(models);
  return models;
}

const zg_device_model *zg_device_model_find(const char *name) {
  for (size_t i = 0; i < ZG_COUNT(models); i++)
    if (!strcmp(models[i].name, name)) return &models[i];
  return NULL;
}

static double view_bytes(const zg_view *v) {
  double n = zg_dtype_bytes(v->dtype);
  for (uint32_t d = 0; d < v->rank; d++)
    if (v->stride[d]) n *= (double)v->dim[d];
  return v->buf ? n : 0;
}

static double kernel_time(const zg_kernel *k, const zg_device_model *d) {
  double bytes = 0;
  bool small = true;   // all floats of 16 bits: the matrix units run at that rate
  for (uint32_t i = 0; i < k->n_args; i++) {
    bytes += view_bytes(&k->args[i]);
    small = small && (i < k->n_out || zg_dtype_bytes(k->args[i].dtype) == 2);
  }
  // Loops run on the vector units; their arithmetic hides behind memory on every device listed.
  double work = k->kind == ZG_K_LOOP ? 0 : k->flops / (small ? d->flops_16 : d->flops_f32);
  return d->launch_s + ZG_MAX(work, bytes / d->bytes_per_s);
}

// What this rank sends: a ring moves (N - 1) / N of the whole tensor, an all-reduce does it twice.
static double collective_time(const zg_sched *s, const zg_step *p, const zg_device_model *d) {
  double world = p->group ? ZG_GROUP_SIZE(p->group) : s->world ? s->world : 1, share = (world - 1) / world, turns = 1;
  uint32_t whole = p->kind == ZG_STEP_REDUCE_SCATTER ? p->b : p->a;
  double bytes = p->n ? (double)p->n * zg_dtype_bytes(s->bufs.at[whole].dtype) : (double)s->bufs.at[whole].bytes;
  if (p->kind == ZG_STEP_ALL_REDUCE) turns = 2;
  const double reach = p->group ? (double)ZG_GROUP_SIZE(p->group) * ZG_GROUP_STRIDE(p->group) : world;
  const bool one_node = d->node_ranks == 0 || reach <= d->node_ranks;   // a ring is as fast as its slowest link
  const double rate = one_node ? d->comm_bytes_per_s : ZG_MIN(d->comm_bytes_per_s, d->net_bytes_per_s);
  return (one_node ? d->comm_latency_s : d->net_latency_s) + turns * share * bytes / rate;
}

static double step_time(const zg_sched *s, const zg_step *p, const zg_device_model *d) {
  switch (p->kind) {
    case ZG_STEP_KERNEL: return kernel_time(&s->kernels.at[p->kernel], d);
    case ZG_STEP_GATHER:
    case ZG_STEP_REDUCE_SCATTER:
    case ZG_STEP_ALL_REDUCE:
    case ZG_STEP_BROADCAST: return collective_time(s, p, d);
    case ZG_STEP_COPY: {
      bool inside = s->bufs.at[p->a].space == s->bufs.at[p->b].space;
      double bytes = p->n ? (double)p->n * zg_dtype_bytes(s->bufs.at[p->a].dtype) : (double)ZG_MIN(s->bufs.at[p->a].bytes, s->bufs.at[p->b].bytes);
      return d->launch_s + bytes / (inside ? d->bytes_per_s / 2 : d->copy_bytes_per_s);
    }
    case ZG_STEP_PARTITION:
    case ZG_STEP_RELEASE:
    case ZG_STEP_RECORD:
    case ZG_STEP_WAIT:
    case ZG_N_STEP_KINDS: break;
  }
  return 0;
}

zg_step_time *zg_predict_times(const zg_sched *s, const zg_device_model *d, zg_arena *a) {
  zg_step_time *t = ZG_NEW_N(a, zg_step_time, s->steps.n + 1);
  uint32_t n_events = 1;
  for (size_t i = 0; i < s->steps.n; i++) n_events = ZG_MAX(n_events, s->steps.at[i].event + 1);
  double *event = ZG_NEW_N(a, double, n_events), now[ZG_N_STREAMS] = {0};
  for (uint32_t g = 0; g < s->segments.n; g++) {
    const zg_segment *seg = &s->segments.at[g];
    double begin = 0;
    for (int k = 0; k < ZG_N_STREAMS; k++) begin = ZG_MAX(begin, now[k]);
    for (int k = 0; k < ZG_N_STREAMS; k++) now[k] = begin;
    for (uint32_t i = seg->first; i < seg->first + seg->n; i++) {
      const zg_step *p = &s->steps.at[i];
      if (p->kind == ZG_STEP_WAIT) now[p->stream] = ZG_MAX(now[p->stream], event[p->event]);
      t[i] = (zg_step_time){now[p->stream], step_time(s, p, d)};
      now[p->stream] += t[i].length;
      if (p->kind == ZG_STEP_RECORD) event[p->event] = now[p->stream];
    }
  }
  return t;
}

double zg_predicted_length(const zg_sched *s, const zg_step_time *t, const zg_segment *segment) {
  uint32_t first = segment ? segment->first : 0, n = segment ? segment->n : (uint32_t)s->steps.n;
  double start = n ? t[first].start : 0, end = start;
  for (uint32_t i = first; i < first + n; i++) end = ZG_MAX(end, t[i].start + t[i].length);
  return end - start;
}
