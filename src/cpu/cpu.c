// The CPU device: one arena per space, kernels prepared once, each run to its end before the call returns.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include "cpu/cpu.h"
#include "cpu/dnnl.h"
#include "cpu/jit.h"
#include "exec/exec.h"
#include "sched/reference.h"

typedef struct {
  zg_device base;
  zg_pool *pool;
  const zg_vec *vec;
  bool dnnl;                     // oneDNN is there and not switched off by ZG_DNNL=off
} cpu_device;

enum { MAX_ARGS = 4 };           // of kernels that oneDNN takes
typedef struct {
  loop_prog *loop;               // ZG_K_LOOP
  zg_dnnl_op *dnnl;              // where oneDNN takes the kernel
  uint64_t workspace_bytes;
  void *args[MAX_ARGS];
} prepared;

typedef struct {
  zg_program base;
  void *arena[ZG_N_SPACES];
  uint64_t arena_bytes[ZG_N_SPACES];
  void **buf;                    // address of each buffer
  prepared *kernels;
  int threads;
  zg_team team;                  // threads to run on; run NULL: the pool's own
  uint64_t scratch_bytes;        // per thread
  void *scratch_all;
  uint8_t **scratch;             // per thread
  void ***slots;                 // per thread: pointers of loop values
  loop_prog **loops;             // per kernel, NULL for others
  zg_jit *jit;                   // NULL: interpreted for good
} cpu_program;

static cpu_device *device_of(zg_device *d) { return (cpu_device *)d; }

static zg_status cpu_open(int threads, zg_device **out) {
  cpu_device *d = zg_alloc(sizeof *d);
  d->base.vt = &zg_device_cpu;
  d->pool = zg_pool_new(threads);
  d->vec = zg_vec_select();
  const char *want = getenv("ZG_DNNL");
  if (!want || strcmp(want, "off") != 0) {
    zg_status s = zg_dnnl_load();
    d->dnnl = !s;
    if (s) zg_log(1, "cpu: %s: plain kernels for matmul, convolution and pooling", zg_status_message(s));
    zg_status_free(s);
  }
  *out = &d->base;
  return NULL;
}

static void cpu_close(zg_device *dev) {
  cpu_device *d = device_of(dev);
  zg_pool_free(d->pool);
  zg_free(d);
}

static uint64_t memory_bytes(void) {
  zg_str s = {0};
  zg_status status = zg_file_read("/proc/meminfo", &s);
  const char *at = status ? NULL : strstr(s.at, "MemTotal:");
  const uint64_t kib = at ? strtoull(at + 9, NULL, 10) : 0;
  zg_status_free(status);
  zg_str_fini(&s);
  return kib * 1024;
}

static bool cpu_channels_last(const zg_device *dev) { return ((const cpu_device *)dev)->dnnl; }

static void cpu_model(char out[80]) {
  zg_str s = {0};
  zg_status status = zg_file_read("/proc/cpuinfo", &s);
  const char *at = status ? NULL : strstr(s.at, "model name");
  if (at) at = strchr(at, ':');
  snprintf(out, 80, "%.*s", at ? (int)strcspn(at + 2, "\n") : 3, at ? at + 2 : "cpu");
  zg_status_free(status);
  zg_str_fini(&s);
}

static void cpu_info(const zg_device *dev, zg_device_info *out) {
  const cpu_device *d = (const cpu_device *)dev;
  char model[80];
  cpu_model(model);
  *out = (zg_device_info){.name = "cpu", .memory_bytes = memory_bytes(), .threads = zg_pool_threads(d->pool)};
  snprintf(out->text, sizeof out->text, "%s, %d threads, vectors %s%s%s", model, out->threads, d->vec->name,
           d->dnnl ? ", " : "", d->dnnl ? zg_dnnl_text() : "");
}

// ---- preparing ----------------------------------------------------------------------------------------------------
static bool dnnl_may(zg_kernel_kind k) {
  switch (k) {
    case ZG_K_MATMUL:
    case ZG_K_CONV:
    case ZG_K_CONV_GRAD_X:
    case ZG_K_CONV_GRAD_W:
    case ZG_K_POOL:
    case ZG_K_POOL_GRAD: return true;
    case ZG_K_LOOP:
    case ZG_K_GATHER:
    case ZG_K_SCATTER:
    case ZG_K_SCAN:
    case ZG_K_SORT:
    case ZG_K_ATTENTION:
    case ZG_K_ATTENTION_GRAD:
    case ZG_K_RECURRENT:
    case ZG_K_RECURRENT_GRAD:
    case ZG_N_KERNELS: break;
  }
  return false;
}

static uint64_t plain_scratch(const zg_kernel *k) {
  switch (k->kind) {
    case ZG_K_MATMUL: return cpu_matmul_scratch(k);
    case ZG_K_CONV:
    case ZG_K_CONV_GRAD_X:
    case ZG_K_CONV_GRAD_W: return cpu_conv_scratch(k);
    case ZG_K_POOL:
    case ZG_K_POOL_GRAD: return cpu_pool_scratch(k);
    case ZG_K_SORT: return cpu_sort_scratch(k);
    case ZG_K_ATTENTION:
    case ZG_K_ATTENTION_GRAD: return cpu_attention_scratch(k);
    case ZG_K_RECURRENT:
    case ZG_K_RECURRENT_GRAD: return cpu_recurrent_scratch(k);
    case ZG_K_LOOP:
    case ZG_K_GATHER:
    case ZG_K_SCATTER:
    case ZG_K_SCAN:
    case ZG_N_KERNELS: break;
  }
  return 0;
}

// Waking threads costs microseconds, and far more where others use the cores: work below that runs on the caller alone.
// (A digits CNN on a busy 2-core machine: 440 samples/s with all ops on 2 threads, 13,700 on 1.)
static int threads_for(const cpu_device *d, const zg_kernel *k) {
  enum { FLOPS_PER_THREAD = 4000000, ELEMS_PER_THREAD = 1 << 16 };
  const bool pool = k->kind == ZG_K_POOL || k->kind == ZG_K_POOL_GRAD;
  int64_t elems = 0;
  for (uint32_t i = 0; i < k->n_args; i++) elems += zg_view_elems(&k->args[i]);
  const double share = pool ? (double)elems / ELEMS_PER_THREAD : k->flops / FLOPS_PER_THREAD;
  const int all = zg_pool_threads(d->pool);
  return share >= all ? all : share < 2 ? 1 : (int)share;
}

static zg_status prepare_kernel(cpu_device *d, const zg_sched *s, const zg_kernel *k, prepared *out) {
  if (k->kind == ZG_K_LOOP) return zg_loop_prog_new(k, s, d->vec, &out->loop);
  if (k->kind == ZG_K_RECURRENT || k->kind == ZG_K_RECURRENT_GRAD) out->workspace_bytes = cpu_recurrent_workspace(k);
  if (!d->dnnl || !dnnl_may(k->kind)) return NULL;
  zg_status status = zg_dnnl_prepare(k, threads_for(d, k), &out->dnnl);
  if (!status || zg_status_code(status) != ZG_UNSUPPORTED) return status;
  zg_log(3, "cpu: %s: plain kernel: %s", k->label, zg_status_message(status));
  zg_status_free(status);
  return NULL;
}

static void free_kernel(prepared *p) {
  zg_loop_prog_free(p->loop);
  zg_dnnl_free(p->dnnl);
}

static uint64_t workspace_of(const prepared *p) {
  return p->loop ? p->loop->workspace_bytes : p->dnnl ? zg_dnnl_scratch_bytes(p->dnnl) : p->workspace_bytes;
}

static zg_status cpu_workspace(zg_device *dev, const zg_sched *s, const zg_kernel *k, uint64_t *out_bytes) {
  prepared p = {0};
  ZG_TRY(prepare_kernel(device_of(dev), s, k, &p));
  *out_bytes = workspace_of(&p);
  free_kernel(&p);
  return NULL;
}

// Scratch of one thread.
static uint64_t scratch_of(const zg_kernel *k, const prepared *p) {
  return zg_round_up(p->loop ? p->loop->scratch_bytes : p->dnnl ? 0 : plain_scratch(k), 4096);
}

// The library keeps what it generates for a kernel, and the plan has asked it for all of them already: each takes its own part of the heap.
static zg_status cpu_host_bytes(zg_device *dev, const zg_sched *s, uint64_t *out_bytes) {
  zg_map known = {0};
  zg_str key = {0};
  zg_status status = NULL;
  uint64_t scratch = 64, sum = (s->bufs.n + 1) * sizeof(void *) + (s->kernels.n + 1) * (sizeof(prepared) + sizeof(loop_prog *));
  for (size_t i = 0; i < s->kernels.n; i++) {
    uint64_t bytes = 0;
    zg_exec_kernel_key(&s->kernels.at[i], &key);
    if (!zg_map_get(&known, key.at, &bytes)) {
      prepared p = {0};
      const uint64_t before = zg_proc_heap_bytes();
      ZG_TRY_OUT(prepare_kernel(device_of(dev), s, &s->kernels.at[i], &p));
      const uint64_t now = zg_proc_heap_bytes();
      bytes = now > before ? now - before : 0;
      if (p.loop) bytes += p.loop->phases.n * sizeof(jit_phase);
      scratch = ZG_MAX(scratch, scratch_of(&s->kernels.at[i], &p));
      free_kernel(&p);
      zg_map_put(&known, key.at, bytes);
    }
    sum += bytes;
  }
  *out_bytes = sum + scratch * (uint64_t)zg_pool_threads(device_of(dev)->pool);
out:
  zg_map_fini(&known);
  zg_str_fini(&key);
  return status;
}

static void cpu_program_free(zg_program *prog) {
  cpu_program *p = (cpu_program *)prog;
  if (!p) return;
  zg_jit_free(p->jit);
  zg_free(p->loops);
  for (size_t i = 0; p->kernels && i < p->base.sched->kernels.n; i++) free_kernel(&p->kernels[i]);
  if (p->arena[ZG_SPACE_DISK]) munmap(p->arena[ZG_SPACE_DISK], p->arena_bytes[ZG_SPACE_DISK]);
  p->arena[ZG_SPACE_DISK] = NULL;
  for (int i = 0; i < ZG_N_SPACES; i++) zg_free_big(p->arena[i], p->arena_bytes[i]);
  zg_free_big(p->scratch_all, p->scratch_bytes * (uint64_t)p->threads);
  for (int i = 0; p->slots && i < p->threads; i++) zg_free(p->slots[i]);
  zg_free(p->slots);
  zg_free(p->scratch);
  zg_free(p->kernels);
  zg_free(p->buf);
  zg_free(p);
}

// The disk space: a file, mapped, so that its pages go to disk and come back as the system sees fit.
static zg_status map_disk(const char *folder, uint64_t bytes, void **out) {
  int fd = -1;
  ZG_TRY(zg_disk_open(folder, bytes, &fd));
  void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  const int why = errno;
  close(fd);
  if (at == MAP_FAILED)
    return zg_error(ZG_IO, "%s: cannot map %llu bytes of offloaded tensors: %s", folder, (unsigned long long)bytes, strerror(why));
  *out = at;
  return NULL;
}

static zg_status place_buffers(cpu_program *p) {
  const zg_sched *s = p->base.sched;
  for (int i = 0; i < ZG_N_SPACES; i++) {
    if (s->arena_bytes[i] == 0) continue;
    if (i == ZG_SPACE_DISK) ZG_TRY(map_disk(s->disk_path, s->arena_bytes[i], &p->arena[i]));
    else ZG_TRY(zg_alloc_big(s->arena_bytes[i], &p->arena[i]));
    p->arena_bytes[i] = s->arena_bytes[i];
  }
  for (size_t i = 1; i < s->bufs.n; i++) {
    const zg_buf *b = &s->bufs.at[i];
    if (b->offset > s->arena_bytes[b->space] || b->bytes > s->arena_bytes[b->space] - b->offset)
      return zg_error(ZG_INTERNAL, "buffer \"%s\" lies outside its arena: plan memory before preparing", b->name);
    p->buf[i] = (uint8_t *)p->arena[b->space] + b->offset;
    if (b->init && b->bytes) memcpy(p->buf[i], b->init, b->bytes);
  }
  return NULL;
}

// Kernels in oneDNN run on OpenMP's threads, which spin after each for the next one. If there are such kernels, those
// threads run everything else too. (lstm_lm: 57 ms a step with two sets, 43 with one.)
static void choose_threads(const cpu_device *d, cpu_program *p) {
  zg_team team;
  bool want = zg_pool_threads(d->pool) <= zg_pool_cores() && zg_dnnl_team(&team), found = false;
  for (size_t i = 0; want && !found && i < p->base.sched->kernels.n; i++)
    found = p->kernels[i].dnnl && threads_for(d, &p->base.sched->kernels.at[i]) > 1;
  if (found) p->team = team;
}

static zg_status prepare_kernels(cpu_device *d, cpu_program *p) {
  const zg_sched *s = p->base.sched;
  size_t n_slots = 1;
  p->scratch_bytes = 64;
  for (size_t i = 0; i < s->kernels.n; i++) {
    const zg_kernel *k = &s->kernels.at[i];
    prepared *q = &p->kernels[i];
    ZG_TRY(prepare_kernel(d, s, k, q));
    const uint64_t want = workspace_of(q), has = k->workspace ? s->bufs.at[k->workspace].bytes : 0;
    if (want > has)
      return zg_error(ZG_INTERNAL, "%s: the kernel wants %llu bytes of workspace, the schedule gives %llu", k->label,
                      (unsigned long long)want, (unsigned long long)has);
    if (q->loop) n_slots = ZG_MAX(n_slots, q->loop->slots.n);
    p->scratch_bytes = ZG_MAX(p->scratch_bytes, scratch_of(k, q));
    for (uint32_t a = 0; q->dnnl && a < k->n_args; a++)
      q->args[a] = (uint8_t *)p->buf[k->args[a].buf] + k->args[a].offset * (int64_t)zg_dtype_bytes(k->args[a].dtype);
  }
  ZG_TRY(zg_alloc_big(p->scratch_bytes * (uint64_t)p->threads, &p->scratch_all));
  for (int i = 0; i < p->threads; i++) {
    p->scratch[i] = (uint8_t *)p->scratch_all + p->scratch_bytes * (uint64_t)i;
    p->slots[i] = zg_alloc(sizeof(void *) * n_slots);
  }
  return NULL;
}

static zg_status cpu_prepare(zg_device *dev, const zg_sched *s, zg_program **out) {
  cpu_device *d = device_of(dev);
  cpu_program *p = zg_alloc(sizeof *p);
  zg_status status = NULL;
  p->base = (zg_program){.device = dev, .sched = s};
  p->buf = zg_alloc(sizeof *p->buf * (s->bufs.n + 1));
  p->kernels = zg_alloc(sizeof *p->kernels * (s->kernels.n + 1));
  p->threads = zg_pool_threads(d->pool);
  p->scratch = zg_alloc(sizeof *p->scratch * (size_t)p->threads);
  p->slots = zg_alloc(sizeof *p->slots * (size_t)p->threads);
  ZG_TRY_OUT(place_buffers(p));
  ZG_TRY_OUT(prepare_kernels(d, p));
  choose_threads(d, p);
  p->loops = zg_alloc(sizeof *p->loops * (s->kernels.n + 1));
  for (size_t i = 0; i < s->kernels.n; i++) p->loops[i] = p->kernels[i].loop;
  p->jit = zg_jit_new(p->loops, s->kernels.n, d->vec);
  *out = &p->base;
  return NULL;
out:
  cpu_program_free(&p->base);
  return status;
}

// ---- running ------------------------------------------------------------------------------------------------------
// The plain windows are written for that. Others come only where oneDNN was there and then declined one of them.
static bool row_major(const zg_kernel *k) {
  for (uint32_t i = 0; i < k->n_args; i++)
    if (!zg_view_contiguous(&k->args[i])) return false;
  return true;
}

static zg_status run_plain(const cpu_call *c) {
  switch (c->k->kind) {
    case ZG_K_MATMUL: cpu_matmul(c); break;
    case ZG_K_CONV:
    case ZG_K_CONV_GRAD_X:
    case ZG_K_CONV_GRAD_W: return row_major(c->k) ? cpu_conv(c), NULL : zg_kernel_reference(c->k, c->base, (zg_rand_state){{0}, 0});
    case ZG_K_POOL:
    case ZG_K_POOL_GRAD: return row_major(c->k) ? cpu_pool(c), NULL : zg_kernel_reference(c->k, c->base, (zg_rand_state){{0}, 0});
    case ZG_K_GATHER: return cpu_gather(c);
    case ZG_K_SCATTER: return cpu_scatter(c);
    case ZG_K_SCAN: cpu_scan(c); break;
    case ZG_K_SORT: cpu_sort(c); break;
    case ZG_K_ATTENTION:
    case ZG_K_ATTENTION_GRAD: return cpu_attention(c);
    case ZG_K_RECURRENT:
    case ZG_K_RECURRENT_GRAD: return cpu_recurrent(c);
    case ZG_K_LOOP:
    case ZG_N_KERNELS: break;
  }
  return NULL;
}

static zg_status cpu_run_kernel(zg_program *prog, uint32_t kernel, zg_rand_state r) {
  cpu_program *p = (cpu_program *)prog;
  cpu_device *d = device_of(prog->device);
  const zg_kernel *k = &prog->sched->kernels.at[kernel];
  const prepared *q = &p->kernels[kernel];
  uint8_t *workspace = p->buf[k->workspace];
  zg_pool_use_team(d->pool, p->team.run ? &p->team : NULL);   // several programs share the pool
  if (q->loop) {
    zg_jit_poll(p->jit);
    const loop_run run = {.base = p->buf, .scratch = p->scratch, .slots = p->slots, .workspace = workspace, .rand = r};
    zg_loop_prog_run(q->loop, d->vec, d->pool, &run);
    return NULL;
  }
  if (q->dnnl) return zg_status_prefix(zg_dnnl_run(q->dnnl, q->args, workspace), "%s: ", k->label);
  const cpu_call c = {.k = k, .base = p->buf, .pool = d->pool, .vec = d->vec, .scratch = p->scratch, .workspace = workspace};
  return run_plain(&c);
}

void zg_cpu_compiled(const zg_program *prog, uint32_t *out_compiled, uint32_t *out_loops) {
  const cpu_program *p = (const cpu_program *)prog;
  *out_compiled = *out_loops = 0;
  for (size_t i = 0; i < prog->sched->kernels.n; i++) {
    if (!p->loops[i]) continue;
    (*out_loops)++;
    *out_compiled += atomic_load_explicit(&p->loops[i]->compiled, memory_order_acquire);
  }
}

static zg_status cpu_write(zg_program *prog, uint32_t buf, uint64_t at, const void *src, uint64_t n) {
  ZG_TRY(zg_program_check_range(prog, buf, at, n));
  if (n) memcpy((uint8_t *)((cpu_program *)prog)->buf[buf] + at, src, n);
  return NULL;
}

static zg_status cpu_read(zg_program *prog, uint32_t buf, uint64_t at, void *dst, uint64_t n) {
  ZG_TRY(zg_program_check_range(prog, buf, at, n));
  if (n) memcpy(dst, (uint8_t *)((cpu_program *)prog)->buf[buf] + at, n);
  return NULL;
}

static void *cpu_host_ptr(const zg_program *prog, uint32_t buf) { return ((const cpu_program *)prog)->buf[buf]; }

static uint64_t cpu_allocated(const zg_program *prog) {
  const cpu_program *p = (const cpu_program *)prog;
  uint64_t sum = 0;
  for (int i = 0; i < ZG_N_SPACES; i++) sum += p->arena_bytes[i];
  return sum;
}

const zg_device_vtable zg_device_cpu = {
    .name = "cpu", .channels_last = cpu_channels_last, .open = cpu_open, .close = cpu_close, .info = cpu_info, .workspace = cpu_workspace, .host_bytes = cpu_host_bytes,
    .prepare = cpu_prepare, .program_free = cpu_program_free, .run_kernel = cpu_run_kernel, .write = cpu_write,
    .read = cpu_read, .host_ptr = cpu_host_ptr, .allocated = cpu_allocated,
};
