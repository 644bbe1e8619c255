// Modules, launches, copies, fills.
#include "driver.h"

#include <dlfcn.h>

typedef struct CUmod_st {
  void *so;
  char *dyn, *shared, *shared_end;
  struct CUfunc_st *functions;
} * CUmodule;
struct CUfunc_st {
  struct CUfunc_st *next;
  CUmodule module;
  char name[128];
  void (*run)(const void *, void *);
  const unsigned *layout;  // count, size, then offset and size of each parameter; NULL: packed buffers only
  int max_dynamic;
};
typedef function *CUfunction;
typedef stream *CUstream;
typedef uint64_t CUdeviceptr;

// ---- modules ------------------------------------------------------------------------------------------

ZG_EMU_API CUresult cuModuleLoadData(CUmodule *out, const void *image) {
  size_t n = strlen(ZG_EMU_IMAGE);
  if (strncmp(image, ZG_EMU_IMAGE, n)) {
    zg_emu_say("a module is not text from the emulator's NVRTC; a real CUBIN cannot run here");
    return CUDA_ERROR_INVALID_IMAGE;
  }
  ENTER();
  char *log = NULL, *path = zg_emu_translate((const char *)image + n, "module", "", &log);
  void *so = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
  if (!so) zg_emu_say("module: %s", path ? dlerror() : log ? log : "the C compiler failed");
  free(path), free(log);
  if (!so) LEAVE(CUDA_ERROR_INVALID_IMAGE);
  CUmodule m = calloc(1, sizeof *m);
  m->so = so;
  *(zg_emu_ctx **)dlsym(so, "zg_emu") = &zg_emu_context;
  m->dyn = dlsym(so, "zg_emu_dyn");
  char *(*shared)(int) = (char *(*)(int))dlsym(so, "zg_emu_shared");
  m->shared = shared(0), m->shared_end = shared(1);
  zg_emu_live.modules++;
  *out = m;
  LEAVE(CUDA_SUCCESS);
}
ZG_EMU_API CUresult cuModuleLoadDataEx(CUmodule *out, const void *image, unsigned n, int *options,
                                       void **values) {
  (void)n, (void)options, (void)values;
  return cuModuleLoadData(out, image);
}
ZG_EMU_API CUresult cuModuleUnload(CUmodule m) {
  if (!m) return CUDA_ERROR_INVALID_HANDLE;
  zg_emu_lock();
  if (zg_emu_device()) zg_emu_wait_all();
  for (CUfunction f = m->functions, next; f; f = next) next = f->next, free(f);
  dlclose(m->so);
  free(m);
  zg_emu_live.modules--;
  LEAVE(CUDA_SUCCESS);
}
ZG_EMU_API CUresult cuModuleGetFunction(CUfunction *out, CUmodule m, const char *name) {
  char symbol[160];
  ENTER();
  snprintf(symbol, sizeof symbol, "zg_emu_run_%s", name);
  void *run = dlsym(m->so, symbol);
  snprintf(symbol, sizeof symbol, "%s__thunk", name);
  if (!run) run = dlsym(m->so, symbol);
  if (!run) LEAVE(CUDA_ERROR_NOT_FOUND);
  CUfunction f = calloc(1, sizeof *f);
  snprintf(f->name, sizeof f->name, "%s", name);
  snprintf(symbol, sizeof symbol, "zg_emu_layout_%s", name);
  f->layout = dlsym(m->so, symbol);
  f->run = (void (*)(const void *, void *))run, f->module = m, f->max_dynamic = 49152;
  f->next = m->functions, m->functions = f;
  *out = f;
  LEAVE(CUDA_SUCCESS);
}
ZG_EMU_API CUresult cuModuleGetGlobal_v2(CUdeviceptr *p, size_t *n, CUmodule m, const char *name) {
  (void)p, (void)n, (void)m, (void)name;
  return CUDA_ERROR_NOT_FOUND;  // the dialect has no global variables
}
ZG_EMU_API CUresult cuFuncSetAttribute(CUfunction f, int attribute, int v) {
  if (attribute == 8 && (v < 0 || v > 232448)) return CUDA_ERROR_INVALID_VALUE;
  if (attribute == 8) f->max_dynamic = v;
  return CUDA_SUCCESS;
}
ZG_EMU_API CUresult cuFuncGetAttribute(int *v, int attribute, CUfunction f) {
  *v = attribute == 0   ? 1024
       : attribute == 1 ? (int)(f->module->shared_end - f->module->shared)
       : attribute == 4 ? 32
       : attribute == 8 ? f->max_dynamic
       : attribute == 6 ? 90
                        : 0;
  return CUDA_SUCCESS;
}
ZG_EMU_API CUresult cuFuncSetCacheConfig(CUfunction f, int config) {
  (void)f, (void)config;
  return CUDA_SUCCESS;
}
ZG_EMU_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, CUfunction f, int block,
                                                                size_t dynamic) {
  (void)f;
  int by_threads = 2048 / (block > 0 ? block : 1), by_memory = dynamic ? (int)(233472 / dynamic) : 32;
  *n = by_threads < by_memory ? by_threads : by_memory;
  return CUDA_SUCCESS;
}

// ---- launches -----------------------------------------------------------------------------------------

// The parameter buffer of a launch, copied; NULL with a message where sizes do not fit the kernel.
static void *parameters(CUfunction f, void **each, void **extra, size_t *n) {
  const void *packed = NULL;
  *n = f->layout ? f->layout[1] : 0;
  if (each && !f->layout && each[0])
    return zg_emu_say("%s takes its parameters as one buffer", f->name), NULL;
  if (!each && extra) {
    size_t given = 0;
    for (void **e = extra; *e != (void *)0; e += 2) {
      if (e[0] == (void *)1) packed = e[1];
      else if (e[0] == (void *)2) given = *(size_t *)e[1];
    }
    if (f->layout && (given > f->layout[1] || given + 8 <= f->layout[1]))
      return zg_emu_say("%s takes %u bytes of parameters, %zu were given", f->name, f->layout[1], given),
             NULL;
    *n = given;
  }
  char *p = calloc(1, *n + 64);
  if (packed) memcpy(p, packed, *n);
  for (unsigned i = 0; each && f->layout && i < f->layout[0]; i++)
    memcpy(p + f->layout[2 + 2 * i], each[i], f->layout[3 + 2 * i]);
  return p;
}

ZG_EMU_API CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                                   unsigned by, unsigned bz, unsigned dynamic, CUstream handle, void **each,
                                   void **extra) {
  if (!f) return CUDA_ERROR_INVALID_HANDLE;
  uint64_t threads = (uint64_t)bx * by * bz;
  if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || gx > 2147483647u || !threads || bz > 64)
    return CUDA_ERROR_INVALID_VALUE;
  if (threads > ZG_EMU_THREADS_MAX) return CUDA_ERROR_INVALID_VALUE;
  if (dynamic > (unsigned)f->max_dynamic) {
    zg_emu_say(
        "%s: %u bytes of dynamic shared memory, allowed are %d "
        "(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)",
        f->name, dynamic, f->max_dynamic);
    return CUDA_ERROR_INVALID_VALUE;
  }
  ENTER();
  stream *s = zg_emu_stream(handle);
  if (!s) LEAVE(CUDA_ERROR_INVALID_HANDLE);
  op o = {.kind = OP_KERNEL, .name = f->name};
  o.launch =
      (zg_emu_launch){f->name,      f->run,       f->module->dyn, f->module->shared, f->module->shared_end,
                      {gx, gy, gz}, {bx, by, bz}, dynamic};
  o.args = parameters(f, each, extra, &o.n_args);
  CUresult r = o.args ? zg_emu_submit(s, &o) : CUDA_ERROR_INVALID_VALUE;
  LEAVE(r);
}

typedef struct {
  void (*fn)(void *);
  void *user;
} host_call;
static zg_emu_result call_host(void *state) {
  host_call *c = state;
  c->fn(c->user);
  return ZG_EMU_DONE;
}
ZG_EMU_API CUresult cuLaunchHostFunc(CUstream s, void (*fn)(void *), void *user) {
  host_call c = {fn, user};
  return zg_emu_enqueue(s, "host function", call_host, &c, sizeof c);
}

// ---- copies -------------------------------------------------------------------------------------------

enum { HOST, DEVICE };
// Pageable memory: a source is taken at the call; a destination is filled before the call returns. Pinned
// memory and devices: when the stream comes to it. In a capture nothing is taken or waited for.
static CUresult copy_on(stream *s, void *dst, int to, size_t pitch_dst, const void *src, int from,
                        size_t pitch_src, size_t n, size_t rows, bool wait) {
  if (!s) return CUDA_ERROR_INVALID_HANDLE;
  size_t all_dst = rows ? pitch_dst * (rows - 1) + n : 0, all_src = rows ? pitch_src * (rows - 1) + n : 0;
  if (to == DEVICE && zg_emu_check_range(dst, all_dst, "destination of a copy"))
    return CUDA_ERROR_INVALID_VALUE;
  if (from == DEVICE && zg_emu_check_range(src, all_src, "source of a copy")) return CUDA_ERROR_INVALID_VALUE;
  if ((to == HOST && zg_emu_is_device(dst)) || (from == HOST && zg_emu_is_device(src))) {
    zg_emu_say("a copy takes device memory for host memory");
    return CUDA_ERROR_INVALID_VALUE;
  }
  op o = {OP_COPY,
          "copy",
          .dst = dst,
          .src = src,
          .dst_device = to,
          .src_device = from,
          .n = n,
          .pitch_dst = pitch_dst,
          .pitch_src = pitch_src,
          .rows = rows};
  if (from == HOST && !s->capture && all_src && !zg_emu_is_pinned(src, all_src))
    o.src = memcpy(malloc(all_src), src, all_src), o.own_src = true;
  wait = wait || (to == HOST && !s->capture && all_dst && !zg_emu_is_pinned(dst, all_dst));
  if (wait && s->capture)
    return s->capture->broken = true, zg_emu_op_fini(&o), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  CUresult r = zg_emu_submit(s, &o);
  return r || !wait ? r : zg_emu_wait(s, s->issued);
}
static CUresult copy_flat(CUstream handle, void *dst, int to, const void *src, int from, size_t n,
                          bool wait) {
  ENTER();
  CUresult r = copy_on(zg_emu_stream(handle), dst, to, n, src, from, n, n, 1, wait);
  LEAVE(r);
}
static void *at(CUdeviceptr p) { return (void *)(uintptr_t)p; }

ZG_EMU_API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr d, const void *h, size_t n, CUstream s) {
  return copy_flat(s, at(d), DEVICE, h, HOST, n, false);
}
ZG_EMU_API CUresult cuMemcpyDtoHAsync_v2(void *h, CUdeviceptr d, size_t n, CUstream s) {
  return copy_flat(s, h, HOST, at(d), DEVICE, n, false);
}
ZG_EMU_API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr d, CUdeviceptr f, size_t n, CUstream s) {
  return copy_flat(s, at(d), DEVICE, at(f), DEVICE, n, false);
}
ZG_EMU_API CUresult cuMemcpyHtoD_v2(CUdeviceptr d, const void *h, size_t n) {
  return copy_flat(NULL, at(d), DEVICE, h, HOST, n, true);
}
ZG_EMU_API CUresult cuMemcpyDtoH_v2(void *h, CUdeviceptr d, size_t n) {
  return copy_flat(NULL, h, HOST, at(d), DEVICE, n, true);
}
ZG_EMU_API CUresult cuMemcpyDtoD_v2(CUdeviceptr d, CUdeviceptr f, size_t n) {
  return copy_flat(NULL, at(d), DEVICE, at(f), DEVICE, n, false);
}
ZG_EMU_API CUresult cuMemcpyAsync(CUdeviceptr d, CUdeviceptr f, size_t n, CUstream s) {
  return copy_flat(s, at(d), zg_emu_is_device(at(d)), at(f), zg_emu_is_device(at(f)), n, false);
}
ZG_EMU_API CUresult cuMemcpyPeerAsync(CUdeviceptr d, void *dc, CUdeviceptr f, void *fc, size_t n,
                                      CUstream s) {
  (void)dc, (void)fc;
  return copy_flat(s, at(d), DEVICE, at(f), DEVICE, n, false);
}

// CUDA_MEMCPY2D_v2
typedef struct {
  size_t src_x, src_y;
  int src_type;
  const void *src_host;
  CUdeviceptr src_device;
  void *src_array;
  size_t src_pitch, dst_x, dst_y;
  int dst_type;
  void *dst_host;
  CUdeviceptr dst_device;
  void *dst_array;
  size_t dst_pitch, width, height;
} copy_2d;
ZG_EMU_API CUresult cuMemcpy2DAsync_v2(const copy_2d *c, CUstream handle) {
  ENTER();
  int to = c->dst_type == 2, from = c->src_type == 2;
  char *dst = (to ? (char *)at(c->dst_device) : c->dst_host),
       *src = from ? (char *)at(c->src_device) : (char *)c->src_host;
  dst += c->dst_y * c->dst_pitch + c->dst_x, src += c->src_y * c->src_pitch + c->src_x;
  CUresult r = copy_on(zg_emu_stream(handle), dst, to, c->dst_pitch, src, from, c->src_pitch, c->width,
                       c->height, false);
  LEAVE(r);
}

// ---- fills --------------------------------------------------------------------------------------------

static CUresult fill_on(CUdeviceptr d, uint32_t v, unsigned unit, size_t n, CUstream handle) {
  ENTER();
  stream *s = zg_emu_stream(handle);
  CUresult r = !s ? CUDA_ERROR_INVALID_HANDLE : zg_emu_check_range(at(d), n * unit, "a memset");
  if (!r && d % unit) r = CUDA_ERROR_INVALID_VALUE;
  op o = {OP_FILL, "memset", .dst = at(d), .n = n * unit, .fill = v, .fill_bytes = unit};
  if (!r) r = zg_emu_submit(s, &o);
  LEAVE(r);
}
ZG_EMU_API CUresult cuMemsetD8Async(CUdeviceptr d, unsigned char v, size_t n, CUstream s) {
  return fill_on(d, v, 1, n, s);
}
ZG_EMU_API CUresult cuMemsetD16Async(CUdeviceptr d, unsigned short v, size_t n, CUstream s) {
  return fill_on(d, v, 2, n, s);
}
ZG_EMU_API CUresult cuMemsetD32Async(CUdeviceptr d, unsigned v, size_t n, CUstream s) {
  return fill_on(d, v, 4, n, s);
}
ZG_EMU_API CUresult cuMemsetD8_v2(CUdeviceptr d, unsigned char v, size_t n) {
  return fill_on(d, v, 1, n, NULL);
}
ZG_EMU_API CUresult cuMemsetD16_v2(CUdeviceptr d, unsigned short v, size_t n) {
  return fill_on(d, v, 2, n, NULL);
}
ZG_EMU_API CUresult cuMemsetD32_v2(CUdeviceptr d, unsigned v, size_t n) { return fill_on(d, v, 4, n, NULL); }
