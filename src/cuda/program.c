// CUDA programs: memory, kernels and events of a schedule on a device.
//   memory   device space: one allocation, beside it a few hundred bytes for the random state, the error record and the progress of the
//            collectives. Host space: one pinned allocation. Disk space: a file without a name, gone with the process
//   kernels  emitted and compiled here, launched with parameter buffers that are filled here
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cuda/device_priv.h"

// ---- kernels
// -------------------------------------------------------------------------------------------------------------------
// A matmul as the library does it; *blas false: it does not.
static zg_status try_product(zg__cuda_device *d, const zg_kernel *k, zg__product *p, bool *blas) {
  *blas = false;
  if (k->kind != ZG_K_MATMUL || !d->lt) return NULL;
  zg_status s = zg__product_init(d->lt, k, &d->search, p);
  *blas = !s;
  if (!s || zg_status_code(s) != ZG_UNSUPPORTED) return s;
  zg_log(2, "cuda: %s; an own kernel does it", zg_status_message(s));
  zg_status_free(s);
  return NULL;
}

zg_status zg__cuda_workspace(zg_device *dev, const zg_sched *s, const zg_kernel *k, uint64_t *out_bytes) {
  zg__cuda_device *d = (zg__cuda_device *)dev;
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

uint64_t zg__cuda_address(const zg__cuda_program *p, uint32_t buf) {
  const zg_buf *b = &p->base.sched->bufs.at[buf];
  return p->device + b->offset;
}

static uint64_t view_address(const zg__cuda_program *p, const zg_view *v) {
  return v->buf ? zg__cuda_address(p, v->buf) + (uint64_t)v->offset * zg_dtype_bytes(v->dtype) : 0;
}

static uint64_t param_value(const zg__cuda_program *p, uint32_t kernel, const zg__param *q) {
  const zg_kernel *k = &p->base.sched->kernels.at[kernel];
  switch ((zg__param_kind)q->kind) {
    case ZG__P_ARG: return view_address(p, &k->args[q->arg]) + q->at;
    case ZG__P_WORK: return (k->workspace ? zg__cuda_address(p, k->workspace) : 0) + q->at;
    case ZG__P_RAND: return p->state;
    case ZG__P_ERROR: return p->state + ZG__ERROR_AT;
    case ZG__P_NUMBER: return kernel;
  }
  return 0;
}

static zg_status fill_kernel(zg__cuda_program *p, uint32_t kernel, const zg__code *code,
                             const zg_map *functions) {
  const zg_kernel *k = &p->base.sched->kernels.at[kernel];
  zg__cuda_kernel *r = &p->kernels[kernel];
  const uint64_t have = k->workspace ? p->base.sched->bufs.at[k->workspace].bytes : 0,
                 want = r->blas ? r->product.workspace : code->workspace;
  if (want > have)
    return zg_error(ZG_INTERNAL, "%s: has a workspace of %llu bytes, wants %llu", k->label,
                    (unsigned long long)have, (unsigned long long)want);
  r->workspace = k->workspace ? zg__cuda_address(p, k->workspace) : 0;
  r->args = ZG_NEW_N(&p->mem, uint64_t, k->n_args);
  for (uint32_t a = 0; a < k->n_args; a++) r->args[a] = view_address(p, &k->args[a]);
  r->n = (uint32_t)code->launches.n;
  r->launches = ZG_NEW_N(&p->mem, zg__cuda_launch, r->n + 1);
  for (uint32_t i = 0; i < r->n; i++) {
    const zg__launch *from = &code->launches.at[i];
    zg__cuda_launch *to = &r->launches[i];
    uint64_t f = 0;
    if (!zg_map_get(functions, from->name, &f))
      return zg_error(ZG_INTERNAL, "%s: kernel %s was not compiled", k->label, from->name);
    *to = (zg__cuda_launch){.f = (zg_cu_handle)(uintptr_t)f,
                   .block = from->block,
                   .shared = from->shared,
                   .n_params = from->n_params * sizeof(uint64_t)};
    memcpy(to->grid, from->grid, sizeof to->grid);
    to->params = ZG_NEW_N(&p->mem, uint64_t, from->n_params + 1);
    for (uint32_t q = 0; q < from->n_params; q++) to->params[q] = param_value(p, kernel, &from->params[q]);
  }
  return NULL;
}

static zg_status load_modules(zg__cuda_program *p, const zg__binary *b, zg_map *functions) {
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

static zg_status build_kernels(zg__cuda_program *p) {
  const zg_sched *s = p->base.sched;
  zg__cuda_device *d = zg__cuda_device_of(p);
  zg__code *codes = zg_alloc(sizeof *codes * (s->kernels.n + 1));
  zg__binary binary = {0};
  zg_map functions = {0};
  zg_status status = NULL;
  p->kernels = ZG_NEW_N(&p->mem, zg__cuda_kernel, s->kernels.n + 1);
  for (size_t k = 0; k < s->kernels.n; k++) {
    ZG_TRY_OUT(try_product(d, &s->kernels.at[k], &p->kernels[k].product, &p->kernels[k].blas));
    if (!p->kernels[k].blas) ZG_TRY_OUT(zg__emit(&s->kernels.at[k], &d->target, &codes[k]));
  }
  if (d->search.n_timed + d->search.n_remembered)
    zg_log(1, "cuBLASLt: algorithms of %u products timed in %.2f s, of %u remembered", d->search.n_timed, d->search.seconds,
           d->search.n_remembered);
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

// ---- memory
// --------------------------------------------------------------------------------------------------------------------

// What the plan wants against what is free, before anything is taken: the message says what is missing. What the libraries take beside
// the plan (NCCL's buffers above all) comes out of what is left.
static zg_status check_room(const zg_sched *s) {
  enum { FOR_NCCL_MIB = 512 };
  size_t free_bytes = 0, total = 0;
  const uint64_t want = s->arena_bytes[ZG_SPACE_DEVICE];
  ZG_TRY(ZG_CUDA(cuMemGetInfo_v2, &free_bytes, &total));
  if (want > free_bytes)
    return zg_error(ZG_OUT_OF_MEMORY,
                    "the plan wants %.2f GiB of device memory, %.2f of %.2f GiB are free: a smaller batch, a "
                    "higher zero.stage or memory.budget will fit",
                    (double)want / 0x1p30, (double)free_bytes / 0x1p30, (double)total / 0x1p30);
  const double left = (double)(free_bytes - want) / 0x1p20;
  zg_log(1, "cuda: memory: %.1f MiB planned, %.1f of %.1f MiB free before, %.1f left for libraries and graphs",
         (double)want / 0x1p20, (double)free_bytes / 0x1p20, (double)total / 0x1p20, left);
  if (s->world > 1 && left < FOR_NCCL_MIB)
    zg_warn("%.0f MiB of device memory are left beside the plan: NCCL may want more; set memory.budget to %.1fGiB or less",
            left, ((double)free_bytes - FOR_NCCL_MIB * 0x1p20) / 0x1p30);
  return NULL;
}

static zg_status open_disk(zg__cuda_program *p) {
  const zg_sched *s = p->base.sched;
  ZG_TRY(zg_disk_open(s->disk_path, s->arena_bytes[ZG_SPACE_DISK], &p->disk));
  p->jobs = ZG_NEW_N(&p->mem, zg__disk_job *, s->steps.n + 1);
  for (int i = 0; i < ZG_N_STREAMS; i++)
    ZG_TRY(ZG_CUDA(cuMemHostAlloc, (void **)&p->bounce[i], ZG__STAGE_BYTES, 0));
  return NULL;
}

static zg_status allocate(zg__cuda_program *p) {
  const zg_sched *s = p->base.sched;
  const uint64_t *bytes = s->arena_bytes;
  ZG_TRY(check_room(s));
  if (bytes[ZG_SPACE_DEVICE]) {
    ZG_TRY(ZG_CUDA(cuMemAlloc_v2, &p->device, bytes[ZG_SPACE_DEVICE]));
    ZG_TRY(ZG_CUDA(cuMemsetD8Async, p->device, 0, bytes[ZG_SPACE_DEVICE], p->stream[0]));
  }
  if (bytes[ZG_SPACE_HOST]) {
    ZG_TRY(zg_status_prefix(ZG_CUDA(cuMemHostAlloc, (void **)&p->host, bytes[ZG_SPACE_HOST], 0),
                            "%.2f GiB of page-locked host memory for offloaded tensors: ",
                            (double)bytes[ZG_SPACE_HOST] / 0x1p30));
    memset(p->host, 0, bytes[ZG_SPACE_HOST]);
  }
  if (bytes[ZG_SPACE_DISK]) ZG_TRY(open_disk(p));
  for (int i = 0; i < ZG_N_SPACES; i++) p->allocated += bytes[i];
  ZG_TRY(ZG_CUDA(cuMemAlloc_v2, &p->state, ZG__STATE_BYTES));
  ZG_TRY(ZG_CUDA(cuMemsetD8Async, p->state, 0, ZG__STATE_BYTES, p->stream[0]));
  return zg__cuda_transfer_init(p);
}

static zg_status load_constants(zg__cuda_program *p) {
  const zg_sched *s = p->base.sched;
  for (uint32_t b = 1; b < s->bufs.n; b++)
    if (s->bufs.at[b].init) ZG_TRY(zg__cuda_write(&p->base, b, 0, s->bufs.at[b].init, s->bufs.at[b].bytes));
  return NULL;
}

// ---- streams
// -------------------------------------------------------------------------------------------------------------------

static zg_status new_event(zg_cu_handle *e) { return ZG_CUDA(cuEventCreate, e, ZG_CU_EVENT_NO_TIMING); }

static zg_status make_streams(zg__cuda_program *p) {
  ZG_TRY(ZG_CUDA(cuStreamCreate, &p->aside, ZG_CU_STREAM_NON_BLOCKING));
  ZG_TRY(new_event(&p->fork));
  for (int i = 0; i < ZG_N_STREAMS; i++) {
    ZG_TRY(ZG_CUDA(cuStreamCreate, &p->stream[i], ZG_CU_STREAM_NON_BLOCKING));
    ZG_TRY(new_event(&p->join[i]));
    ZG_TRY(new_event(&p->order[i]));
  }
  const zg_sched *s = p->base.sched;
  for (size_t i = 0; i < s->steps.n; i++) p->n_events = ZG_MAX(p->n_events, s->steps.at[i].event + 1);
  p->events = ZG_NEW_N(&p->mem, zg_cu_handle, p->n_events + 1);
  for (uint32_t i = 0; i < p->n_events; i++) ZG_TRY(new_event(&p->events[i]));
  return NULL;
}

static void look_at_segments(zg__cuda_program *p) {
  const zg_sched *s = p->base.sched;
  p->segments = ZG_NEW_N(&p->mem, zg__cuda_segment, s->segments.n + 1);
  for (size_t g = 0; g < s->segments.n; g++) {
    int collectives = -1;
    zg__cuda_segment *to = &p->segments[g];
    for (uint32_t i = s->segments.at[g].first; i < s->segments.at[g].first + s->segments.at[g].n; i++) {
      const zg_step *q = &s->steps.at[i];
      to->uses[q->stream] = true;
      if (!zg_step_is_collective(q)) continue;
      to->mixed = to->mixed || (collectives >= 0 && collectives != q->stream);
      collectives = q->stream;
    }
  }
  const char *on = getenv("ZG_CUDA_GRAPHS");
  p->graphs = !on || strcmp(on, "0") != 0;
}

static void free_events(zg__cuda_program *p) {
  for (uint32_t i = 0; p->events && i < p->n_events; i++)
    if (p->events[i]) zg__cuda.cuEventDestroy_v2(p->events[i]);
  if (p->fork) zg__cuda.cuEventDestroy_v2(p->fork);
  for (int i = 0; i < ZG_N_STREAMS; i++) {
    if (p->join[i]) zg__cuda.cuEventDestroy_v2(p->join[i]);
    if (p->order[i]) zg__cuda.cuEventDestroy_v2(p->order[i]);
    if (p->stream[i]) zg__cuda.cuStreamDestroy_v2(p->stream[i]);
  }
  if (p->aside) zg__cuda.cuStreamDestroy_v2(p->aside);
}

// Everything that `prepare` took, whether or not it came to its end. Failures here have no one to tell.
void zg__cuda_program_free(zg_program *base) {
  zg__cuda_program *p = zg__cuda_program_of(base);
  zg__cuda.cuCtxSetCurrent(zg__cuda_device_of(p)->ctx);
  for (int i = 0; i < ZG_N_STREAMS; i++)
    if (p->stream[i]) zg_status_free(zg__cuda_wait(p, NULL, p->stream[i]));
  for (size_t g = 0; p->segments && g < p->base.sched->segments.n; g++)
    if (p->segments[g].graph) zg__cuda.cuGraphExecDestroy(p->segments[g].graph);
  for (size_t k = 0; p->kernels && k < p->base.sched->kernels.n; k++)
    zg__product_fini(&p->kernels[k].product);
  zg__nccl_groups_fini(&p->groups);
  for (uint32_t i = 0; i < p->n_modules; i++) zg__cuda.cuModuleUnload(p->modules[i]);
  zg__cuda_transfer_fini(p);
  if (p->host) zg__cuda.cuMemFreeHost(p->host);
  for (int i = 0; i < ZG_N_STREAMS; i++)
    if (p->bounce[i]) zg__cuda.cuMemFreeHost(p->bounce[i]);
  if (p->disk >= 0) close(p->disk);
  if (p->device) zg__cuda.cuMemFree_v2(p->device);
  if (p->state) zg__cuda.cuMemFree_v2(p->state);
  free_events(p);
  pthread_mutex_destroy(&p->lock);
  zg_arena_fini(&p->mem);
  zg_free(p);
}

zg_status zg__cuda_prepare(zg_device *dev, const zg_sched *s, zg_program **out) {
  zg_status status = NULL;
  zg__cuda_program *p = zg_alloc(sizeof *p);
  p->base.device = dev;
  p->base.sched = s;
  p->disk = -1;
  pthread_mutex_init(&p->lock, NULL);
  ZG_TRY_OUT(ZG_CUDA(cuCtxSetCurrent, ((zg__cuda_device *)dev)->ctx));
  ZG_TRY_OUT(make_streams(p));
  look_at_segments(p);
  ZG_TRY_OUT(allocate(p));
  ZG_TRY_OUT(build_kernels(p));
  ZG_TRY_OUT(load_constants(p));
  ZG_TRY_OUT(ZG_CUDA(cuStreamSynchronize, p->stream[0]));
out:
  if (status) zg__cuda_program_free(&p->base);
  else *out = &p->base;
  return status;
}
