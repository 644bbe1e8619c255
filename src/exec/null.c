// The null device: executes nothing and allocates nothing. It lets schedules for machines that are not here be planned, and the
// step loop be timed and tested by itself. Reads give zeros.
#include "exec/device.h"
#include <stdio.h>

static zg_status null_open(int threads, zg_device **out) {
  (void)threads;
  zg_device *d = zg_alloc(sizeof *d);
  d->vt = &zg_device_null;
  *out = d;
  return NULL;
}

static void null_close(zg_device *d) { zg_free(d); }

static void null_info(const zg_device *d, zg_device_info *out) {
  (void)d;
  *out = (zg_device_info){.name = "null"};
  snprintf(out->text, sizeof out->text, "null device: plans, executes nothing");
}

static zg_status null_workspace(zg_device *d, const zg_sched *s, const zg_kernel *k, uint64_t *out_bytes) {
  (void)d, (void)s, (void)k;
  *out_bytes = 0;
  return NULL;
}

static zg_status null_prepare(zg_device *d, const zg_sched *s, zg_program **out) {
  zg_program *p = zg_alloc(sizeof *p);
  p->device = d;
  p->sched = s;
  *out = p;
  return NULL;
}

static void null_program_free(zg_program *p) { zg_free(p); }

static zg_status null_run_kernel(zg_program *p, uint32_t kernel, zg_rand_state r) {
  (void)p, (void)kernel, (void)r;
  return NULL;
}

static zg_status null_write(zg_program *p, uint32_t buf, uint64_t at, const void *src, uint64_t n) {
  (void)src;
  return zg_program_check_range(p, buf, at, n);
}

static zg_status null_read(zg_program *p, uint32_t buf, uint64_t at, void *dst, uint64_t n) {
  ZG_TRY(zg_program_check_range(p, buf, at, n));
  memset(dst, 0, n);
  return NULL;
}

static void *null_host_ptr(const zg_program *p, uint32_t buf) {
  (void)p, (void)buf;
  return NULL;
}

static uint64_t null_allocated(const zg_program *p) {
  (void)p;
  return 0;
}

const zg_device_vtable zg_device_null = {
    .name = "null", .open = null_open, .close = null_close, .info = null_info, .workspace = null_workspace,
    .prepare = null_prepare, .program_free = null_program_free, .run_kernel = null_run_kernel, .write = null_write,
    .read = null_read, .host_ptr = null_host_ptr, .allocated = null_allocated,
};
