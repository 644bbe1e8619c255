// Devices, contexts, messages, and the lock. A context is its device: only primary contexts exist.
#include "driver.h"

#include <pthread.h>
#include <stdarg.h>
#include <unistd.h>

typedef device *CUcontext;
static device devices[DEVICES_MAX];
static int n_devices = -1;  // -1: cuInit was not called
static _Thread_local device *current;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char last_message[400];
zg_emu_alive zg_emu_live;

void zg_emu_lock(void) { pthread_mutex_lock(&lock); }
void zg_emu_unlock(void) { pthread_mutex_unlock(&lock); }
device *zg_emu_device(void) { return current; }
int zg_emu_current_device(void) { return current ? current->ordinal : -1; }
const char *zg_emu_last_message(void) { return last_message; }
void zg_emu_count_alive(zg_emu_alive *out) { *out = zg_emu_live; }

void zg_emu_say(const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(last_message, sizeof last_message, fmt, ap);
  va_end(ap);
  if (!getenv("ZG_EMU_QUIET")) fprintf(stderr, "emulator: %s\n", last_message);
}

CUresult zg_emu_enter_call(void) {
  if (n_devices < 0) return CUDA_ERROR_NOT_INITIALIZED;
  if (!current) return CUDA_ERROR_INVALID_CONTEXT;
  if (current->sticky) return current->sticky;
  zg_emu_lock();
  return CUDA_SUCCESS;
}
CUresult zg_emu_leave_call(CUresult r) {
  zg_emu_unlock();
  return r;
}

// ---- leaks --------------------------------------------------------------------------------------------

__attribute__((destructor)) static void report_leaks(void) {
  const zg_emu_alive *a = &zg_emu_live;
  if (!a->device_bytes && !a->host_bytes && !a->streams && !a->events && !a->modules && !a->graphs) return;
  zg_emu_say(
      "not given back at exit: %llu device bytes, %llu pinned bytes, %d streams, %d events, %d modules, %d "
      "graphs",
      (unsigned long long)a->device_bytes, (unsigned long long)a->host_bytes, a->streams, a->events,
      a->modules, a->graphs);
  fflush(NULL);
  if (zg_emu_env("ZG_EMU_STRICT", 0)) _exit(66);
}

// ---- devices ------------------------------------------------------------------------------------------

ZG_EMU_API CUresult cuInit(unsigned flags) {
  if (flags) return CUDA_ERROR_INVALID_VALUE;
  zg_emu_lock();
  if (n_devices < 0) {
    long n = zg_emu_env("ZG_EMU_DEVICES", 1);
    n_devices = n < 0 ? 0 : n > DEVICES_MAX ? DEVICES_MAX : (int)n;
    for (int i = 0; i < n_devices; i++) devices[i].ordinal = i;
  }
  zg_emu_unlock();
  return n_devices ? CUDA_SUCCESS : 100;
}
ZG_EMU_API CUresult cuDriverGetVersion(int *v) {
  *v = 13000;
  return CUDA_SUCCESS;
}
ZG_EMU_API CUresult cuDeviceGetCount(int *n) {
  if (n_devices < 0) return CUDA_ERROR_NOT_INITIALIZED;
  *n = n_devices;
  return CUDA_SUCCESS;
}
static bool is_device(int d) { return d >= 0 && d < n_devices; }
ZG_EMU_API CUresult cuDeviceGet(int *d, int ordinal) {
  if (n_devices < 0) return CUDA_ERROR_NOT_INITIALIZED;
  if (!is_device(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
  *d = ordinal;
  return CUDA_SUCCESS;
}
ZG_EMU_API CUresult cuDeviceGetName(char *name, int n, int d) {
  if (!is_device(d)) return CUDA_ERROR_INVALID_DEVICE;
  snprintf(name, (size_t)n, "zgraph emulator %d", d);
  return CUDA_SUCCESS;
}
static size_t total_bytes(void) { return (size_t)zg_emu_env("ZG_EMU_MEMORY", 4096) << 20; }
ZG_EMU_API CUresult cuDeviceTotalMem_v2(size_t *n, int d) {
  if (!is_device(d)) return CUDA_ERROR_INVALID_DEVICE;
  *n = total_bytes();
  return CUDA_SUCCESS;
}
ZG_EMU_API CUresult cuDeviceGetUuid_v2(unsigned char *uuid, int d) {
  if (!is_device(d)) return CUDA_ERROR_INVALID_DEVICE;
  memset(uuid, 0, 16), uuid[0] = 'z', uuid[15] = (unsigned char)d;
  return CUDA_SUCCESS;
}
ZG_EMU_API CUresult cuDeviceGetPCIBusId(char *id, int n, int d) {
  if (!is_device(d)) return CUDA_ERROR_INVALID_DEVICE;
  snprintf(id, (size_t)n, "0000:%02x:00.0", d + 1);
  return CUDA_SUCCESS;
}

// Attribute numbers of CUdevice_attribute, with the values of an sm_90 of few multiprocessors.
static const struct {
  int attribute, value;
} attributes[] =
    {
        {1, 1024},  {2, 1024},    {3, 1024},     {4, 64},     {5, 2147483647},
        {6, 65535}, {7, 65535},  // threads, grid
        {8, 49152}, {9, 65536},   {10, 32},      {12, 65536}, {13, 1000000},
        {16, 4},  // shared, constant, warp, registers, kHz, processors
        {33, 1},    {34, 0},      {36, 1000000}, {37, 512},   {38, 1 << 20},
        {39, 2048}, {40, 2},      {41, 1},       {50, 0},     {75, 9},
        {76, 0},    {81, 233472}, {82, 65536},   {95, 0},     {97, 232448},
        {102, 0},   {106, 32},    {115, 0},
};
ZG_EMU_API CUresult cuDeviceGetAttribute(int *v, int attribute, int d) {
  if (!is_device(d)) return CUDA_ERROR_INVALID_DEVICE;
  *v = 0;
  for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++)
    if (attributes[i].attribute == attribute) *v = attributes[i].value;
  return CUDA_SUCCESS;
}
ZG_EMU_API CUresult cuDeviceCanAccessPeer(int *can, int d, int peer) {
  if (!is_device(d) || !is_device(peer)) return CUDA_ERROR_INVALID_DEVICE;
  *can = d != peer;
  return CUDA_SUCCESS;
}

// ---- contexts -----------------------------------------------------------------------------------------

ZG_EMU_API CUresult cuDevicePrimaryCtxRetain(CUcontext *out, int d) {
  if (n_devices < 0) return CUDA_ERROR_NOT_INITIALIZED;
  if (!is_device(d)) return CUDA_ERROR_INVALID_DEVICE;
  zg_emu_lock();
  devices[d].retained++;
  *out = &devices[d];
  zg_emu_unlock();
  return CUDA_SUCCESS;
}
ZG_EMU_API CUresult cuDevicePrimaryCtxRelease_v2(int d) {
  if (!is_device(d)) return CUDA_ERROR_INVALID_DEVICE;
  zg_emu_lock();
  CUresult r = devices[d].retained > 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
  if (!r && --devices[d].retained == 0) devices[d].sticky = CUDA_SUCCESS;  // an error dies with its context
  zg_emu_unlock();
  return r;
}
ZG_EMU_API CUresult cuDevicePrimaryCtxReset_v2(int d) {
  if (!is_device(d)) return CUDA_ERROR_INVALID_DEVICE;
  devices[d].sticky = CUDA_SUCCESS;
  return CUDA_SUCCESS;
}
ZG_EMU_API CUresult cuDevicePrimaryCtxSetFlags_v2(int d, unsigned flags) {
  (void)flags;
  return is_device(d) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
ZG_EMU_API CUresult cuCtxSetCurrent(CUcontext c) {
  if (c && c->retained <= 0) return CUDA_ERROR_INVALID_CONTEXT;
  current = c;
  return CUDA_SUCCESS;
}
ZG_EMU_API CUresult cuCtxGetCurrent(CUcontext *c) {
  *c = current;
  return CUDA_SUCCESS;
}
static _Thread_local CUcontext pushed[16];
static _Thread_local int n_pushed;
ZG_EMU_API CUresult cuCtxPushCurrent_v2(CUcontext c) {
  if (n_pushed == 16 || !c) return CUDA_ERROR_INVALID_VALUE;
  pushed[n_pushed++] = current;
  current = c;
  return CUDA_SUCCESS;
}
ZG_EMU_API CUresult cuCtxPopCurrent_v2(CUcontext *c) {
  if (!n_pushed) return CUDA_ERROR_INVALID_CONTEXT;
  if (c) *c = current;
  current = pushed[--n_pushed];
  return CUDA_SUCCESS;
}
ZG_EMU_API CUresult cuCtxGetDevice(int *d) {
  if (!current) return CUDA_ERROR_INVALID_CONTEXT;
  *d = current->ordinal;
  return CUDA_SUCCESS;
}
ZG_EMU_API CUresult cuCtxSynchronize(void) {
  ENTER();
  CUresult r = zg_emu_wait_all();
  LEAVE(r);
}
ZG_EMU_API CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return CUDA_SUCCESS;
}
ZG_EMU_API CUresult cuCtxEnablePeerAccess(CUcontext c, unsigned flags) {
  (void)flags;
  return c ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}
ZG_EMU_API CUresult cuCtxSetLimit(int limit, size_t v) {
  (void)limit, (void)v;
  return CUDA_SUCCESS;
}

// ---- errors -------------------------------------------------------------------------------------------

static const struct {
  CUresult code;
  const char *name, *text;
} errors[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {702, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {902, "CUDA_ERROR_STREAM_CAPTURE_MERGE",
     "operation would result in a merge of separate capture sequences"},
    {903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not ended in the same stream as it began"},
    {904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"},
    {907, "CUDA_ERROR_CAPTURED_EVENT",
     "operation not permitted on an event last recorded in a capturing stream"},
};
ZG_EMU_API CUresult cuGetErrorString(CUresult code, const char **text) {
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
    if (errors[i].code == code) return *text = errors[i].text, CUDA_SUCCESS;
  *text = NULL;
  return CUDA_ERROR_INVALID_VALUE;
}
ZG_EMU_API CUresult cuGetErrorName(CUresult code, const char **name) {
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
    if (errors[i].code == code) return *name = errors[i].name, CUDA_SUCCESS;
  *name = NULL;
  return CUDA_ERROR_INVALID_VALUE;
}

// cuMemGetInfo needs what memory.c has given out of this device.
size_t zg_emu_used(int ordinal);
ZG_EMU_API CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
  ENTER();
  size_t used = zg_emu_used(current->ordinal) + ((size_t)64 << 20);  // a context takes some
  *total = total_bytes();
  *free_bytes = used < *total ? *total - used : 0;
  LEAVE(CUDA_SUCCESS);
}
