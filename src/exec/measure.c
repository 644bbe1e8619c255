// Measures a device with schedules of one kernel.
#include "exec/measure.h"

#include "exec/exec.h"

enum { REPEATS = 8, SIDE = 1024, VECTOR = 1 << 24, LAUNCHES = 200 };

static void add_tensor(zg_sched *s, zg_dtype t, uint32_t rank, const int64_t *dim, zg_view *out) {
  const zg_type type = zg_type_make(t, rank, dim);
  const zg_buf b = {.name = "b", .bytes = zg_type_bytes(&type), .dtype = t, .type = type, .persistent = true};
  *out = (zg_view){.buf = zg_sched_add_buf(s, &b), .dtype = t, .rank = rank};
  int64_t stride = 1;
  for (uint32_t k = rank; k-- > 0; stride *= dim[k]) out->dim[k] = dim[k], out->stride[k] = stride;
}

static void place(zg_sched *s) {
  uint64_t at = 0;
  for (size_t i = 1; i < s->bufs.n; i++) {
    s->bufs.at[i].offset = at;
    at += zg_round_up(s->bufs.at[i].bytes, ZG_BUF_ALIGN);
  }
  s->arena_bytes[ZG_SPACE_DEVICE] = at;
}

// Small numbers that are not zero: no denormals, and every page is there.
static zg_status fill(zg_program *p) {
  static const float f[256] = {[0 ... 255] = 0.015625f};
  uint16_t h[256];
  for (int i = 0; i < 256; i++) h[i] = 0x3C80;
  for (uint32_t b = 1; b < p->sched->bufs.n; b++) {
    const zg_buf *buf = &p->sched->bufs.at[b];
    const void *from = buf->dtype == ZG_F32 ? (const void *)f : h;
    const uint64_t piece = buf->dtype == ZG_F32 ? sizeof f : sizeof h;
    for (uint64_t at = 0; at < buf->bytes; at += piece)
      ZG_TRY(p->device->vt->write(p, b, at, from, ZG_MIN(piece, buf->bytes - at)));
  }
  return NULL;
}

// The shortest time of `n` runs of kernel 0.
static zg_status best_time(zg_device *d, zg_sched *s, int repeats, int n, double *out) {
  zg_program *p = NULL;
  zg_status status = NULL;
  *out = 1e9;
  ZG_TRY_OUT(zg_exec_add_workspaces(d, s));
  place(s);
  ZG_TRY_OUT(d->vt->prepare(d, s, &p));
  ZG_TRY_OUT(fill(p));
  for (int i = 0; i < repeats; i++) {
    const double t0 = zg_time_s();
    for (int k = 0; k < n; k++) ZG_TRY_OUT(d->vt->run_kernel(p, 0, (zg_rand_state){0}));
    *out = ZG_MIN(*out, (zg_time_s() - t0) / n);
  }
out:
  if (p) d->vt->program_free(p);
  return status;
}

static zg_status matmul(zg_device *d, zg_dtype t, double *flops_per_s) {
  zg_sched *s = zg_sched_new();
  zg_view args[3];
  const int64_t dim[2] = {SIDE, SIDE};
  for (int i = 0; i < 3; i++) add_tensor(s, t, 2, dim, &args[i]);
  const zg_matmul_desc m = {.m = SIDE, .n = SIDE, .k = SIDE, .alpha = 1};
  const zg_kernel k = {.kind = ZG_K_MATMUL,
                       .desc = &m,
                       .args = args,
                       .n_args = 3,
                       .n_out = 1,
                       .label = "measure",
                       .flops = 2.0 * SIDE * SIDE * SIDE};
  zg_sched_add_kernel(s, &k, sizeof m);
  double time;
  zg_status status = best_time(d, s, REPEATS, 1, &time);
  *flops_per_s = k.flops / time;
  zg_sched_free(s);
  return status;
}

// x, y, z = x + a g, y + a g, z + a g over n elements, in place: 28 bytes each. The traffic of an optimizer; memory that reads and writes at
// once shows its best.
static zg_status update(zg_device *d, int64_t n, int repeats, int runs, double *time) {
  zg_sched *s = zg_sched_new();
  zg_arena a = {0};
  zg_view args[7];
  zg_str text = {0};
  void *desc = NULL;
  for (int i = 0; i < 4; i++) add_tensor(s, ZG_F32, 1, &n, &args[i < 3 ? i : 6]);
  for (int i = 0; i < 3; i++) args[3 + i] = args[i];
  zg_str_add(&text,
             "space %lld outer 0 mid 0 { 0 = load 3; 1 = load 4; 2 = load 5; 3 = load 6; 4.row = const 0.015625; 5 = fma 3 4 0; "
             "6 = fma 3 4 1; 7 = fma 3 4 2; store 5 -> 0; store 6 -> 1; store 7 -> 2 }",
             (long long)n);
  zg_status status = zg_loop_parse(text.at, &a, &desc);
  const zg_kernel k = {
      .kind = ZG_K_LOOP, .desc = desc, .args = args, .n_args = 7, .n_out = 3, .label = "measure"};
  if (!status) {
    zg_sched_add_kernel(s, &k, sizeof(zg_loop_desc));
    status = best_time(d, s, repeats, runs, time);
  }
  zg_str_fini(&text);
  zg_arena_fini(&a);
  zg_sched_free(s);
  return status;
}

zg_status zg_device_measure(zg_device *d, zg_device_model *out) {
  double time;
  zg_device_info info;
  if (d->vt->begin)
    return zg_error(ZG_UNSUPPORTED, "device %s queues its work: its kernels are not measured one by one",
                    d->vt->name);
  d->vt->info(d, &info);
  *out = *zg_device_model_find("cpu");
  out->name = d->vt->name;
  out->memory = info.memory_bytes;
  ZG_TRY(matmul(d, ZG_F32, &out->flops_f32));
  ZG_TRY(matmul(d, ZG_BF16, &out->flops_16));
  ZG_TRY(update(d, VECTOR, REPEATS, 1, &time));
  out->bytes_per_s = 28.0 * VECTOR / time;
  return update(d, 1, 5, LAUNCHES, &out->launch_s);
}
