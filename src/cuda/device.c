// The CUDA device: one GPU, one context, one stream on which everything runs in the order of the calls.
//   memory     one allocation per space of the schedule, from which every address derives; a few hundred
//   bytes beside it hold the random
//              state and the error record, two pinned pieces carry what is written and read
//   kernels    emitted and compiled at prepare, launched with parameter buffers that were filled then
//   errors     a kernel that finds a bad index fills the error record; the next read reports it, by the
//   kernel's name
// Calls may come from several threads (exec/streams.c): one lock orders them.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "cuda/blas.h"
#include "cuda/collective.h"
#include "cuda/compile.h"
#include "cuda/cuda.h"
#include "cuda/lib_cuda.h"
#include "cuda/lib_nccl.h"
#include "cuda/lib_nvrtc.h"

enum { STAGE_BYTES = 4 << 20, N_STAGES = 2, RAND_SLOTS = 64, STATE_BYTES = 256, ERROR_AT = 128 };

typedef struct {
  zg_device base;
  zg_cu_device gpu;
  zg_cu_handle ctx;
  int arch;
  zg__target target;
  zg_lt_handle lt;  // NULL: no cuBLASLt, own kernels do matmul
  char text[160];
  uint64_t memory;
} cuda_device;

typedef struct {
  zg_cu_handle f;
  uint32_t grid[3], block, shared;
  size_t n_params;
  uint64_t *params;
} launch;
typedef struct {
  launch *launches;
  uint32_t n;
  bool blas;
  zg__product product;
  uint64_t *args, workspace;
} prepared;

typedef struct {
  zg_program base;
  pthread_mutex_t lock;
  zg_cu_handle stream;
  zg_cu_ptr arena[ZG_N_SPACES], state;  // state: random state, error record
  uint64_t allocated;
  uint8_t *stage[N_STAGES];           // pinned
  zg_cu_handle stage_free[N_STAGES];  // event: the copy out of the piece is done
  uint32_t next_stage, next_rand;
  struct {
    uint32_t word[4];
  } * rand;  // pinned; RAND_SLOTS of them, used in turn
  zg_rand_state last_rand;
  bool has_rand;
  zg_arena mem;
  zg_cu_handle *modules;
  uint32_t n_modules;
  prepared *kernels;
  zg__nccl_groups groups;
} cuda_program;

static cuda_device *device_of(zg_device *d) { return (cuda_device *)d; }
static cuda_device *gpu_of(const cuda_program *p) { return (cuda_device *)p->base.device; }

// ---- opening
// --------------------------------------------------------------------------------------------------------------
// The GPU of this process: LOCAL_RANK's, in turn where there are more ranks than GPUs.
static zg_status choose_gpu(zg_cu_device *out) {
  int n = 0;
  ZG_TRY(ZG_CUDA(cuDeviceGetCount, &n));
  if (n == 0) return zg_error(ZG_NOT_FOUND, "CUDA: the driver sees no GPU (CUDA_VISIBLE_DEVICES?)");
  const char *rank = getenv("LOCAL_RANK");
  return ZG_CUDA(cuDeviceGet, out, rank ? abs(atoi(rank)) % n : 0);
}

static zg_status read_properties(cuda_device *d) {
  int major = 0, minor = 0, driver = 0;
  size_t total = 0;
  char name[96] = "";
  ZG_TRY(ZG_CUDA(cuDeviceGetName, name, (int)sizeof name, d->gpu));
  ZG_TRY(ZG_CUDA(cuDeviceGetAttribute, &major, ZG_CU_ATTR_MAJOR, d->gpu));
  ZG_TRY(ZG_CUDA(cuDeviceGetAttribute, &minor, ZG_CU_ATTR_MINOR, d->gpu));
  ZG_TRY(ZG_CUDA(cuDeviceGetAttribute, &d->target.sms, ZG_CU_ATTR_SMS, d->gpu));
  ZG_TRY(ZG_CUDA(cuDeviceTotalMem_v2, &total, d->gpu));
  ZG_TRY(ZG_CUDA(cuDriverGetVersion, &driver));
  d->arch = major * 10 + minor;
  d->memory = total;
  if (d->arch < 80)
    return zg_error(ZG_UNSUPPORTED, "CUDA: %s has compute capability %d.%d; zgraph needs 8.0", name, major,
                    minor);
  snprintf(d->text, sizeof d->text, "%s, sm_%d, %d multiprocessors, driver for CUDA %d.%d%s", name, d->arch,
           d->target.sms, driver / 1000, driver % 1000 / 10, d->lt ? ", cuBLASLt" : "");
  return NULL;
}

static void open_blas(cuda_device *d) {
  zg_status s = zg__lt_load();
  if (!s) s = ZG_LT(cublasLtCreate, &d->lt);
  if (s) zg_log(1, "cuda: %s; own kernels do matmul", zg_status_message(s));
  zg_status_free(s);
}

static void cuda_close(zg_device *dev) {
  cuda_device *d = device_of(dev);
  if (d->lt) zg__lt.cublasLtDestroy(d->lt);
  if (d->ctx) zg__cuda.cuDevicePrimaryCtxRelease_v2(d->gpu);
  zg_free(d);
}

static zg_status cuda_open(int threads, zg_device **out) {
  (void)threads;
  zg_status status = NULL;
  ZG_TRY(zg__cuda_load());
  ZG_TRY(zg__nvrtc_load());
  cuda_device *d = zg_alloc(sizeof *d);
  d->base.vt = &zg_device_cuda;
  ZG_TRY_OUT(choose_gpu(&d->gpu));
  ZG_TRY_OUT(ZG_CUDA(cuDevicePrimaryCtxRetain, &d->ctx, d->gpu));
  ZG_TRY_OUT(ZG_CUDA(cuCtxSetCurrent, d->ctx));
  open_blas(d);
  ZG_TRY_OUT(read_properties(d));
  zg_log(1, "cuda: %s", d->text);
out:
  if (status) cuda_close(&d->base);
  else *out = &d->base;
  return status;
}

static void cuda_info(const zg_device *dev, zg_device_info *out) {
  const cuda_device *d = (const cuda_device *)dev;
  *out = (zg_device_info){.name = "cuda", .memory_bytes = d->memory, .threads = d->target.sms};
  snprintf(out->text, sizeof out->text, "%s", d->text);
}

// ---- preparing
// ------------------------------------------------------------------------------------------------------------
// A matmul as the library does it; *blas false: it does not.
static zg_status try_product(cuda_device *d, const zg_kernel *k, zg__product *p, bool *blas) {
  *blas = false;
  if (k->kind != ZG_K_MATMUL || !d->lt) return NULL;
  zg_status s = zg__product_init(d->lt, k, p);
  *blas = !s;
  if (!s || zg_status_code(s) != ZG_UNSUPPORTED) return s;
  zg_log(2, "cuda: %s; an own kernel does it", zg_status_message(s));
  zg_status_free(s);
  return NULL;
}

static zg_status cuda_workspace(zg_device *dev, const zg_sched *s, const zg_kernel *k, uint64_t *out_bytes) {
  cuda_device *d = device_of(dev);
  zg__product product;
  zg__code code = {0};
  bool blas;
  (void)s;
  ZG_TRY(ZG_CUDA(cuCtxSetCurrent, d->ctx));
  ZG_TRY(try_product(d, k, &product, &blas));
  if (blas) {
    *out_bytes = product.workspace;
    zg__product_fini(&product);
    return NULL;
  }
  zg_status status = zg__emit(k, &d->target, &code);
  *out_bytes = code.workspace;
  zg__code_fini(&code);
  return status;
}

static uint64_t buffer_address(const cuda_program *p, uint32_t buf) {
  const zg_buf *b = &p->base.sched->bufs.at[buf];
  return p->arena[b->space] + b->offset;
}

static uint64_t view_address(const cuda_program *p, const zg_view *v) {
  return v->buf ? buffer_address(p, v->buf) + (uint64_t)v->offset * zg_dtype_bytes(v->dtype) : 0;
}

static uint64_t param_value(const cuda_program *p, uint32_t kernel, const zg__param *q) {
  const zg_kernel *k = &p->base.sched->kernels.at[kernel];
  switch ((zg__param_kind)q->kind) {
    case ZG__P_ARG: return view_address(p, &k->args[q->arg]) + q->at;
    case ZG__P_WORK: return (k->workspace ? buffer_address(p, k->workspace) : 0) + q->at;
    case ZG__P_RAND: return p->state;
    case ZG__P_ERROR: return p->state + ERROR_AT;
    case ZG__P_NUMBER: return kernel;
  }
  return 0;
}

static zg_status fill_kernel(cuda_program *p, uint32_t kernel, const zg__code *code,
                             const zg_map *functions) {
  const zg_kernel *k = &p->base.sched->kernels.at[kernel];
  prepared *r = &p->kernels[kernel];
  const uint64_t have = k->workspace ? p->base.sched->bufs.at[k->workspace].bytes : 0,
                 want = r->blas ? r->product.workspace : code->workspace;
  if (want > have)
    return zg_error(ZG_INTERNAL, "%s: has a workspace of %llu bytes, wants %llu", k->label,
                    (unsigned long long)have, (unsigned long long)want);
  r->workspace = k->workspace ? buffer_address(p, k->workspace) : 0;
  r->args = ZG_NEW_N(&p->mem, uint64_t, k->n_args);
  for (uint32_t a = 0; a < k->n_args; a++) r->args[a] = view_address(p, &k->args[a]);
  r->n = (uint32_t)code->launches.n;
  r->launches = ZG_NEW_N(&p->mem, launch, r->n + 1);
  for (uint32_t i = 0; i < r->n; i++) {
    const zg__launch *from = &code->launches.at[i];
    launch *to = &r->launches[i];
    uint64_t f = 0;
    if (!zg_map_get(functions, from->name, &f))
      return zg_error(ZG_INTERNAL, "%s: kernel %s was not compiled", k->label, from->name);
    *to = (launch){.f = (zg_cu_handle)(uintptr_t)f,
                   .block = from->block,
                   .shared = from->shared,
                   .n_params = from->n_params * sizeof(uint64_t)};
    memcpy(to->grid, from->grid, sizeof to->grid);
    to->params = ZG_NEW_N(&p->mem, uint64_t, from->n_params + 1);
    for (uint32_t q = 0; q < from->n_params; q++) to->params[q] = param_value(p, kernel, &from->params[q]);
  }
  return NULL;
}

static zg_status load_modules(cuda_program *p, const zg__binary *b, zg_map *functions) {
  p->modules = ZG_NEW_N(&p->mem, zg_cu_handle, b->n_programs + 1);
  for (uint32_t i = 0; i < b->n_programs; i++) {
    ZG_TRY(ZG_CUDA(cuModuleLoadData, &p->modules[i], b->programs[i].cubin));
    p->n_modules = i + 1;
    for (uint32_t k = 0; k < b->programs[i].n; k++) {
      const char *name = b->names[b->programs[i].first + k];
      zg_cu_handle f = NULL;
      ZG_TRY(ZG_CUDA(cuModuleGetFunction, &f, p->modules[i], name));
      zg_map_put(functions, name, (uint64_t)(uintptr_t)f);
    }
  }
  return NULL;
}

static zg_status build_kernels(cuda_program *p) {
  const zg_sched *s = p->base.sched;
  cuda_device *d = gpu_of(p);
  zg__code *codes = zg_alloc(sizeof *codes * (s->kernels.n + 1));
  zg__binary binary = {0};
  zg_map functions = {0};
  zg_status status = NULL;
  p->kernels = ZG_NEW_N(&p->mem, prepared, s->kernels.n + 1);
  for (size_t k = 0; k < s->kernels.n; k++) {
    ZG_TRY_OUT(try_product(d, &s->kernels.at[k], &p->kernels[k].product, &p->kernels[k].blas));
    if (!p->kernels[k].blas) ZG_TRY_OUT(zg__emit(&s->kernels.at[k], &d->target, &codes[k]));
  }
  ZG_TRY_OUT(zg__compile(codes, s->kernels.n, d->arch, NULL, &binary));
  ZG_TRY_OUT(load_modules(p, &binary, &functions));
  for (size_t k = 0; k < s->kernels.n; k++) ZG_TRY_OUT(fill_kernel(p, (uint32_t)k, &codes[k], &functions));
out:
  for (size_t k = 0; k < s->kernels.n; k++) zg__code_fini(&codes[k]);
  zg_free(codes);
  zg__binary_fini(&binary);
  zg_map_fini(&functions);
  return status;
}

// What the plan wants against what is free, before anything is taken: the message says what is missing.
static zg_status allocate(cuda_program *p) {
  static const char *const names[ZG_N_SPACES] = {"device", "host", "disk"};
  const zg_sched *s = p->base.sched;
  size_t free_bytes = 0, total = 0;
  const uint64_t want = s->arena_bytes[ZG_SPACE_DEVICE];
  ZG_TRY(ZG_CUDA(cuMemGetInfo_v2, &free_bytes, &total));
  if (want > free_bytes)
    return zg_error(ZG_OUT_OF_MEMORY,
                    "the plan wants %.2f GiB of device memory, %.2f of %.2f GiB are free: a smaller batch, a "
                    "higher zero.stage or "
                    "memory.budget will fit",
                    (double)want / 0x1p30, (double)free_bytes / 0x1p30, (double)total / 0x1p30);
  for (int i = 0; i < ZG_N_SPACES; i++) {
    if (!s->arena_bytes[i]) continue;
    if (i != ZG_SPACE_DEVICE)
      return zg_error(ZG_UNSUPPORTED,
                      "device cuda: buffers in %s memory are not supported; set offload to none", names[i]);
    ZG_TRY(ZG_CUDA(cuMemAlloc_v2, &p->arena[i], s->arena_bytes[i]));
    p->allocated += s->arena_bytes[i];
    ZG_TRY(ZG_CUDA(cuMemsetD8Async, p->arena[i], 0, s->arena_bytes[i], p->stream));
  }
  ZG_TRY(ZG_CUDA(cuMemAlloc_v2, &p->state, STATE_BYTES));
  ZG_TRY(ZG_CUDA(cuMemsetD8Async, p->state, 0, STATE_BYTES, p->stream));
  for (int i = 0; i < N_STAGES; i++) {
    ZG_TRY(ZG_CUDA(cuMemHostAlloc, (void **)&p->stage[i], STAGE_BYTES, 0));
    ZG_TRY(ZG_CUDA(cuEventCreate, &p->stage_free[i], ZG_CU_EVENT_NO_TIMING));
    ZG_TRY(ZG_CUDA(cuEventRecord, p->stage_free[i], p->stream));
  }
  return ZG_CUDA(cuMemHostAlloc, (void **)&p->rand, RAND_SLOTS * sizeof *p->rand, 0);
}

static zg_status write_locked(cuda_program *p, zg_cu_ptr to, const uint8_t *src, uint64_t n) {
  for (uint64_t done = 0; done < n;) {
    const uint64_t m = ZG_MIN(n - done, (uint64_t)STAGE_BYTES);
    const uint32_t i = p->next_stage++ % N_STAGES;
    ZG_TRY(ZG_CUDA(cuEventSynchronize, p->stage_free[i]));
    memcpy(p->stage[i], src + done, m);
    ZG_TRY(ZG_CUDA(cuMemcpyHtoDAsync_v2, to + done, p->stage[i], m, p->stream));
    ZG_TRY(ZG_CUDA(cuEventRecord, p->stage_free[i], p->stream));
    done += m;
  }
  return NULL;
}

static zg_status load_constants(cuda_program *p) {
  const zg_sched *s = p->base.sched;
  for (uint32_t b = 1; b < s->bufs.n; b++)
    if (s->bufs.at[b].init)
      ZG_TRY(write_locked(p, buffer_address(p, b), s->bufs.at[b].init, s->bufs.at[b].bytes));
  return NULL;
}

// Everything that `prepare` took, whether or not it came to its end. Failures here have no one to tell.
static void cuda_program_free(zg_program *base) {
  cuda_program *p = (cuda_program *)base;
  zg__cuda.cuCtxSetCurrent(gpu_of(p)->ctx);
  if (p->stream) zg__cuda.cuStreamSynchronize(p->stream);
  for (size_t k = 0; p->kernels && k < p->base.sched->kernels.n; k++)
    zg__product_fini(&p->kernels[k].product);
  zg__nccl_groups_fini(&p->groups);
  for (uint32_t i = 0; i < p->n_modules; i++) zg__cuda.cuModuleUnload(p->modules[i]);
  for (int i = 0; i < N_STAGES; i++) {
    if (p->stage[i]) zg__cuda.cuMemFreeHost(p->stage[i]);
    if (p->stage_free[i]) zg__cuda.cuEventDestroy_v2(p->stage_free[i]);
  }
  if (p->rand) zg__cuda.cuMemFreeHost(p->rand);
  for (int i = 0; i < ZG_N_SPACES; i++)
    if (p->arena[i]) zg__cuda.cuMemFree_v2(p->arena[i]);
  if (p->state) zg__cuda.cuMemFree_v2(p->state);
  if (p->stream) zg__cuda.cuStreamDestroy_v2(p->stream);
  pthread_mutex_destroy(&p->lock);
  zg_arena_fini(&p->mem);
  zg_free(p);
}

static zg_status cuda_prepare(zg_device *dev, const zg_sched *s, zg_program **out) {
  zg_status status = NULL;
  cuda_program *p = zg_alloc(sizeof *p);
  p->base.device = dev;
  p->base.sched = s;
  pthread_mutex_init(&p->lock, NULL);
  ZG_TRY_OUT(ZG_CUDA(cuCtxSetCurrent, device_of(dev)->ctx));
  ZG_TRY_OUT(ZG_CUDA(cuStreamCreate, &p->stream, ZG_CU_STREAM_NON_BLOCKING));
  ZG_TRY_OUT(allocate(p));
  ZG_TRY_OUT(build_kernels(p));
  ZG_TRY_OUT(load_constants(p));
  ZG_TRY_OUT(ZG_CUDA(cuStreamSynchronize, p->stream));
out:
  if (status) cuda_program_free(&p->base);
  else *out = &p->base;
  return status;
}

// ---- running
// --------------------------------------------------------------------------------------------------------------
// The random state changes once a step: kernels read it from device memory, where this puts it.
static zg_status set_rand(cuda_program *p, zg_rand_state r) {
  if (p->has_rand && memcmp(&r, &p->last_rand, sizeof r) == 0) return NULL;
  if (p->next_rand && p->next_rand % RAND_SLOTS == 0)
    ZG_TRY(ZG_CUDA(cuStreamSynchronize, p->stream));  // slots are used again
  uint32_t *word = p->rand[p->next_rand++ % RAND_SLOTS].word;
  word[0] = r.key[0], word[1] = r.key[1], word[2] = r.step, word[3] = 0;
  ZG_TRY(ZG_CUDA(cuMemcpyHtoDAsync_v2, p->state, word, sizeof p->rand->word, p->stream));
  p->last_rand = r;
  p->has_rand = true;
  return NULL;
}

static zg_status launch_all(cuda_program *p, const prepared *k) {
  for (uint32_t i = 0; i < k->n; i++) {
    const launch *l = &k->launches[i];
    size_t n = l->n_params;
    void *extra[] = {ZG_CU_PARAM_POINTER, l->params, ZG_CU_PARAM_SIZE, &n, ZG_CU_PARAM_END};
    ZG_TRY(ZG_CUDA(cuLaunchKernel, l->f, l->grid[0], l->grid[1], l->grid[2], l->block, 1, 1, l->shared,
                   p->stream, NULL, extra));
  }
  return NULL;
}

static zg_status run_locked(cuda_program *p, uint32_t kernel, zg_rand_state r) {
  const prepared *k = &p->kernels[kernel];
  ZG_TRY(ZG_CUDA(cuCtxSetCurrent, gpu_of(p)->ctx));
  ZG_TRY(set_rand(p, r));
  if (k->blas)
    return zg__product_run(gpu_of(p)->lt, &k->product, &p->base.sched->kernels.at[kernel], k->args,
                           k->workspace, p->stream);
  return launch_all(p, k);
}

static zg_status cuda_run_kernel(zg_program *base, uint32_t kernel, zg_rand_state r) {
  cuda_program *p = (cuda_program *)base;
  pthread_mutex_lock(&p->lock);
  zg_status status = run_locked(p, kernel, r);
  pthread_mutex_unlock(&p->lock);
  return zg_status_prefix(status, "%s: ", base->sched->kernels.at[kernel].label);
}

static zg_status check_range(const zg_program *p, uint32_t buf, uint64_t at, uint64_t n) {
  if (buf >= p->sched->bufs.n) return zg_error(ZG_INTERNAL, "no buffer %u in the schedule", buf);
  const zg_buf *b = &p->sched->bufs.at[buf];
  if (at > b->bytes || n > b->bytes - at)
    return zg_error(ZG_INTERNAL, "bytes %llu..%llu of buffer \"%s\", which has %llu", (unsigned long long)at,
                    (unsigned long long)(at + n), b->name, (unsigned long long)b->bytes);
  return NULL;
}

static zg_status cuda_write(zg_program *base, uint32_t buf, uint64_t at, const void *src, uint64_t n) {
  cuda_program *p = (cuda_program *)base;
  ZG_TRY(check_range(base, buf, at, n));
  pthread_mutex_lock(&p->lock);
  zg_status status = ZG_CUDA(cuCtxSetCurrent, gpu_of(p)->ctx);
  if (!status) status = write_locked(p, buffer_address(p, buf) + at, src, n);
  pthread_mutex_unlock(&p->lock);
  return status;
}

// The error record lies behind the last bytes read, in the same piece.
static zg_status check_record(cuda_program *p, const uint8_t *bytes) {
  int64_t record[4];
  memcpy(record, bytes, sizeof record);
  if (!(int32_t)record[0]) return NULL;
  ZG_TRY(ZG_CUDA(cuMemsetD8Async, p->state + ERROR_AT, 0, sizeof record, p->stream));
  const uint64_t k = (uint64_t)record[1];
  return zg_error(ZG_INVALID, "%s: index %lld is out of range for a dimension of %lld",
                  k < p->base.sched->kernels.n ? p->base.sched->kernels.at[k].label : "a kernel",
                  (long long)record[2], (long long)record[3]);
}

static zg_status read_locked(cuda_program *p, zg_cu_ptr from, uint8_t *dst, uint64_t n) {
  enum { ROOM = STAGE_BYTES - 64 };
  ZG_TRY(ZG_CUDA(cuCtxSetCurrent, gpu_of(p)->ctx));
  uint64_t done = 0;
  do {
    const uint64_t m = ZG_MIN(n - done, (uint64_t)ROOM);
    const uint32_t i = p->next_stage++ % N_STAGES;
    if (m) ZG_TRY(ZG_CUDA(cuMemcpyDtoHAsync_v2, p->stage[i], from + done, m, p->stream));
    ZG_TRY(ZG_CUDA(cuMemcpyDtoHAsync_v2, p->stage[i] + ROOM, p->state + ERROR_AT, 32, p->stream));
    ZG_TRY(ZG_CUDA(cuStreamSynchronize, p->stream));
    ZG_TRY(check_record(p, p->stage[i] + ROOM));
    if (m) memcpy(dst + done, p->stage[i], m);
    done += m;
  } while (done < n);
  return NULL;
}

static zg_status cuda_read(zg_program *base, uint32_t buf, uint64_t at, void *dst, uint64_t n) {
  cuda_program *p = (cuda_program *)base;
  ZG_TRY(check_range(base, buf, at, n));
  pthread_mutex_lock(&p->lock);
  zg_status status = read_locked(p, buffer_address(p, buf) + at, dst, n);
  pthread_mutex_unlock(&p->lock);
  return status;
}

static void *cuda_device_ptr(const zg_program *base, uint32_t buf) {
  return (void *)buffer_address((const cuda_program *)base, buf);
}

static zg_status cuda_collective(zg_program *base, zg_comm *comm, const zg_comm_op *op) {
  cuda_program *p = (cuda_program *)base;
  pthread_mutex_lock(&p->lock);
  zg_status status = ZG_CUDA(cuCtxSetCurrent, gpu_of(p)->ctx);
  if (!status) status = zg__collective_run(&p->groups, comm, op, p->stream);
  pthread_mutex_unlock(&p->lock);
  return status;
}

static uint64_t cuda_allocated(const zg_program *base) { return ((const cuda_program *)base)->allocated; }

const zg_device_vtable zg_device_cuda = {
    .name = "cuda",
    .open = cuda_open,
    .close = cuda_close,
    .info = cuda_info,
    .workspace = cuda_workspace,
    .prepare = cuda_prepare,
    .program_free = cuda_program_free,
    .run_kernel = cuda_run_kernel,
    .write = cuda_write,
    .read = cuda_read,
    .device_ptr = cuda_device_ptr,
    .collective = cuda_collective,
    .allocated = cuda_allocated,
};
