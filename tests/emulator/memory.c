// Device and pinned memory.
//
//   | no access | poison 0xff ... what was asked for ... | fence bytes to 256 | no access |
//
// The end is aligned to the inaccessible page, so that an access behind it faults at once, or meets the fence
// bytes that are checked later. Freed memory stays mapped without access: late accesses fault. With
// ZG_EMU_FENCE=1 (the default) device memory is accessible only while the emulator works on it: a host access
// faults, as with a real device.
#include "driver.h"

#include <sys/mman.h>

enum { POISON = 0xff, FENCE = 0xa5, PAGE = 4096, ALIGN = 256 };
typedef struct {
  char *at, *map;
  size_t n, n_map;
  int ordinal;
  bool pinned, freed, registered;
} block;
static block *blocks;
static size_t n_blocks, room;
static int open_depth;

size_t zg_emu_used(int ordinal);
size_t zg_emu_used(int ordinal) {
  size_t used = 0;
  for (size_t i = 0; i < n_blocks; i++)
    if (!blocks[i].pinned && !blocks[i].freed && blocks[i].ordinal == ordinal) used += blocks[i].n;
  return used;
}

static size_t data_bytes(const block *b) { return (b->n + ALIGN - 1) / ALIGN * ALIGN; }
static bool fenced(void) { return zg_emu_env("ZG_EMU_FENCE", 1) != 0; }

static void protect(const block *b, int access) {
  if (!b->pinned && !b->freed) mprotect(b->map + PAGE, b->n_map - 2 * PAGE, access);
}
static void protect_all(int access) {
  for (size_t i = 0; fenced() && i < n_blocks; i++) protect(&blocks[i], access);
}
void zg_emu_open_memory(void) {
  if (open_depth++ == 0) protect_all(PROT_READ | PROT_WRITE);
}
void zg_emu_close_memory(void) {
  if (--open_depth == 0) protect_all(PROT_NONE);
}

static block *new_block(void) {
  if (n_blocks == room) blocks = realloc(blocks, sizeof *blocks * (room = 2 * room + 16));
  block *b = &blocks[n_blocks++];
  *b = (block){0};
  return b;
}

static void *allocate(size_t n, bool pinned) {
  size_t bytes = (n + ALIGN - 1) / ALIGN * ALIGN, pages = (bytes + PAGE - 1) / PAGE * PAGE,
         n_map = pages + 2 * PAGE;
  char *map = mmap(NULL, n_map, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return NULL;
  mprotect(map + PAGE, pages, PROT_READ | PROT_WRITE);
  block *b = new_block();
  *b = (block){map + PAGE + pages - bytes, map, n, n_map, zg_emu_current_device(), pinned, false, false};
  memset(b->at, POISON, n);
  memset(b->at + n, FENCE, bytes - n);
  if (!pinned && fenced() && open_depth == 0) protect(b, PROT_NONE);
  return b->at;
}

static block *find(const void *p) {  // the youngest block whose pages hold p
  for (size_t i = n_blocks; i-- > 0;)
    if ((const char *)p >= blocks[i].map && (const char *)p < blocks[i].map + blocks[i].n_map)
      return &blocks[i];
  return NULL;
}
static bool inside(const block *b, const void *p, size_t n) {
  size_t from = (size_t)((const char *)p - b->at);
  return !b->freed && (const char *)p >= b->at && from <= b->n && n <= b->n - from;
}
bool zg_emu_is_pinned(const void *p, size_t n) {
  const block *b = find(p);
  return b && b->pinned && inside(b, p, n);
}
bool zg_emu_is_device(const void *p) {
  const block *b = find(p);
  return b && !b->pinned;
}

const char *zg_emu_describe(const void *p, char *room_for, size_t n) {
  const block *b = find(p);
  if (!b) snprintf(room_for, n, "no allocation is there");
  else if (b->freed) snprintf(room_for, n, "it is in freed memory, %zu bytes", b->n);
  else snprintf(room_for, n, "it is at byte %td of an allocation of %zu", (const char *)p - b->at, b->n);
  return room_for;
}

int zg_emu_check_range(const void *p, size_t n, const char *what) {
  char text[120];
  const block *b = find(p);
  if (n == 0 || (b && !b->pinned && inside(b, p, n))) return CUDA_SUCCESS;
  zg_emu_say("%s: %zu bytes at %p: %s", what, n, p, zg_emu_describe(p, text, sizeof text));
  return CUDA_ERROR_INVALID_VALUE;
}

// The fence of one block: what is broken is told and mended.
static CUresult check_fence(const block *b) {
  size_t first = data_bytes(b), last = 0;
  for (size_t k = b->n; k < data_bytes(b); k++) {
    if ((unsigned char)b->at[k] == FENCE) continue;
    if (k < first) first = k;
    last = k;
    b->at[k] = (char)FENCE;
  }
  if (first == data_bytes(b)) return CUDA_SUCCESS;
  zg_emu_say("bytes %zu to %zu behind an allocation of %zu bytes were written", first - b->n, last - b->n,
             b->n);
  return CUDA_ERROR_ILLEGAL_ADDRESS;
}
CUresult zg_emu_check_fences(void) {
  CUresult r = CUDA_SUCCESS;
  zg_emu_open_memory();
  for (size_t i = 0; i < n_blocks; i++)
    if (!blocks[i].freed && !blocks[i].registered && check_fence(&blocks[i])) r = CUDA_ERROR_ILLEGAL_ADDRESS;
  zg_emu_close_memory();
  return r;
}

// ---- copies of all memory --------------------------------------------------------------------------------

static bool is_live_device(const block *b) { return !b->pinned && !b->freed; }
void *zg_emu_copy_memory(void) {
  size_t n = 0;
  for (size_t i = 0; i < n_blocks; i++) n += is_live_device(&blocks[i]) ? blocks[i].n : 0;
  char *copy = malloc(n + 1), *at = copy;
  for (size_t i = 0; i < n_blocks; i++)
    if (is_live_device(&blocks[i])) memcpy(at, blocks[i].at, blocks[i].n), at += blocks[i].n;
  return copy;
}
void zg_emu_restore_memory(const void *copy) {
  const char *at = copy;
  for (size_t i = 0; i < n_blocks; i++)
    if (is_live_device(&blocks[i])) memcpy(blocks[i].at, at, blocks[i].n), at += blocks[i].n;
}
const void *zg_emu_find_difference(const void *copy, size_t *n) {
  const char *at = copy, *first = NULL, *last = NULL;
  for (size_t i = 0; i < n_blocks; i++) {
    if (!is_live_device(&blocks[i])) continue;
    for (size_t k = 0; memcmp(at, blocks[i].at, blocks[i].n) && k < blocks[i].n; k++)
      if (at[k] != blocks[i].at[k]) first = first ? first : blocks[i].at + k, last = blocks[i].at + k;
    at += blocks[i].n;
    if (first) break;
  }
  *n = first ? (size_t)(last - first) + 1 : 0;
  return first;
}

// ---- calls --------------------------------------------------------------------------------------------

extern int zg_emu_captures;  // graph.c; cuMemAlloc is refused while a stream of this process captures
static bool capturing(void) { return zg_emu_captures > 0; }
ZG_EMU_API CUresult cuMemAlloc_v2(uint64_t *out, size_t n) {
  ENTER();
  size_t total = (size_t)zg_emu_env("ZG_EMU_MEMORY", 4096) << 20;
  CUresult r = n == 0 || capturing() ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
  if (!r && (n > total || zg_emu_used(zg_emu_current_device()) + n > total)) r = CUDA_ERROR_OUT_OF_MEMORY;
  void *p = r ? NULL : allocate(n, false);
  if (!r && !p) r = CUDA_ERROR_OUT_OF_MEMORY;
  if (!r) *out = (uint64_t)(uintptr_t)p, zg_emu_live.device_bytes += n;
  LEAVE(r);
}

static CUresult release(void *p, bool pinned) {
  block *b = find(p);
  char text[120];
  if (!b || b->at != p || b->freed || b->pinned != pinned || b->registered) {
    zg_emu_say("freeing %p: %s", p, zg_emu_describe(p, text, sizeof text));
    return CUDA_ERROR_INVALID_VALUE;
  }
  CUresult r = zg_emu_wait_all(), fences = zg_emu_check_fences();
  b = find(p);
  mprotect(b->map, b->n_map, PROT_NONE);
  madvise(b->map, b->n_map, MADV_DONTNEED);
  b->freed = true;
  if (pinned) zg_emu_live.host_bytes -= b->n;
  else zg_emu_live.device_bytes -= b->n;
  return r ? r : fences;
}
ZG_EMU_API CUresult cuMemFree_v2(uint64_t p) {
  if (!p) return CUDA_SUCCESS;
  ENTER();
  CUresult r = release((void *)(uintptr_t)p, false);
  LEAVE(r);
}
ZG_EMU_API CUresult cuMemHostAlloc(void **out, size_t n, unsigned flags) {
  (void)flags;
  ENTER();
  *out = n ? allocate(n, true) : NULL;
  if (*out) zg_emu_live.host_bytes += n;
  LEAVE(*out ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}
ZG_EMU_API CUresult cuMemAllocHost_v2(void **out, size_t n) { return cuMemHostAlloc(out, n, 0); }
ZG_EMU_API CUresult cuMemFreeHost(void *p) {
  if (!p) return CUDA_SUCCESS;
  ENTER();
  CUresult r = release(p, true);
  LEAVE(r);
}
ZG_EMU_API CUresult cuMemHostRegister_v2(void *p, size_t n, unsigned flags) {
  (void)flags;
  ENTER();
  if (p && n) *new_block() = (block){p, p, n, n, zg_emu_current_device(), true, false, true};
  LEAVE(p && n ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}
ZG_EMU_API CUresult cuMemHostUnregister(void *p) {
  ENTER();
  block *b = find(p);
  CUresult r = b && b->registered && b->at == p ? zg_emu_wait_all() : CUDA_ERROR_INVALID_VALUE;
  if (!r) *find(p) = blocks[--n_blocks];
  LEAVE(r);
}
ZG_EMU_API CUresult cuMemHostGetDevicePointer_v2(uint64_t *out, void *p, unsigned flags) {
  (void)flags;
  *out = (uint64_t)(uintptr_t)p;
  return CUDA_SUCCESS;
}
ZG_EMU_API CUresult cuMemGetAddressRange_v2(uint64_t *base, size_t *n, uint64_t p) {
  ENTER();
  const block *b = find((void *)(uintptr_t)p);
  if (b && base) *base = (uint64_t)(uintptr_t)b->at;
  if (b && n) *n = b->n;
  LEAVE(b ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND);
}
