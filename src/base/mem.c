// Memory: the heap for bookkeeping (ends the process when there is none), mapped pages for tensors (a
// status), arenas.
#include "base/base.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static ZG_NORETURN void die(void) {
  static const char text[] = "zgraph: out of memory\n";
  ssize_t ignored = write(STDERR_FILENO, text, sizeof text - 1);
  (void)ignored;
  exit(1);
}

void *zg_alloc(size_t n_bytes) {
  void *p = calloc(1, n_bytes ? n_bytes : 1);
  if (!p) die();
  return p;
}

void *zg_realloc(void *p, size_t n_bytes) {
  void *q = realloc(p, n_bytes ? n_bytes : 1);
  if (!q) die();
  return q;
}

void zg_free(void *p) { free(p); }

// ---- tensor memory --------------------------------------------------------------------------------------

enum { HUGE_PAGE = 2 << 20 };

// What mmap is asked for: whole pages, at least one.
static bool mapped_bytes(uint64_t n_bytes, uint64_t *out) {
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  if (n_bytes > (uint64_t)PTRDIFF_MAX - page) return false;
  *out = zg_round_up(n_bytes ? n_bytes : 1, page);
  return true;
}

zg_status zg_alloc_big(uint64_t n_bytes, void **out) {
  *out = NULL;
  uint64_t n;
  void *p = MAP_FAILED;
  if (mapped_bytes(n_bytes, &n))
    p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED)
    return zg_error(ZG_OUT_OF_MEMORY, "the system has no %llu bytes (%.2f GiB) of host memory left",
                    (unsigned long long)n_bytes, (double)n_bytes / (1 << 30));
  if (n >= 8 * (uint64_t)HUGE_PAGE)
    madvise(p, n, MADV_HUGEPAGE);  // fewer TLB misses; a refusal costs nothing
  *out = p;
  return NULL;
}

void zg_free_big(void *p, uint64_t n_bytes) {
  uint64_t n;
  if (p && mapped_bytes(n_bytes, &n)) munmap(p, n);
}

// ---- arena ----------------------------------------------------------------------------------------------
// Blocks of doubling size in a list; only the head has room. A request larger than a block gets its own.

enum { ARENA_FIRST = 4096, ARENA_LARGEST = 1 << 20 };

struct zg_arena_block {
  zg_arena_block *next;
  size_t pad;  // keeps the payload 16-byte aligned
};

void *zg_arena_alloc(zg_arena *a, size_t n_bytes) {
  if (n_bytes > (size_t)PTRDIFF_MAX - ARENA_LARGEST) die();
  size_t n = zg_round_up(n_bytes ? n_bytes : 1, 16);
  if (!a->head || a->cap - a->used < n) {
    size_t cap = a->head ? ZG_MIN(a->cap * 2, (size_t)ARENA_LARGEST) : ARENA_FIRST;
    cap = zg_round_up(ZG_MAX(cap, n), 16);
    zg_arena_block *b = zg_alloc(sizeof *b + cap);
    b->next = a->head;
    a->head = b;
    a->used = 0;
    a->cap = cap;
  }
  void *p = (char *)(a->head + 1) + a->used;
  a->used += n;
  return p;
}

void *zg_arena_copy(zg_arena *a, const void *src, size_t n_bytes) {
  void *p = zg_arena_alloc(a, n_bytes);
  if (n_bytes) memcpy(p, src, n_bytes);
  return p;
}

char *zg_arena_strn(zg_arena *a, const char *s, size_t n) {
  char *p = zg_arena_alloc(a, n + 1);
  if (n) memcpy(p, s, n);
  return p;
}

char *zg_arena_str(zg_arena *a, const char *s) { return s ? zg_arena_strn(a, s, strlen(s)) : NULL; }

char *zg_arena_printf(zg_arena *a, const char *fmt, ...) {
  va_list ap, again;
  va_start(ap, fmt);
  va_copy(again, ap);
  int n = vsnprintf(NULL, 0, fmt, ap);
  ZG_ASSERT(n >= 0);
  char *p = zg_arena_alloc(a, (size_t)n + 1);
  vsnprintf(p, (size_t)n + 1, fmt, again);
  va_end(again);
  va_end(ap);
  return p;
}

void zg_arena_fini(zg_arena *a) {
  for (zg_arena_block *b = a->head; b;) {
    zg_arena_block *next = b->next;
    free(b);
    b = next;
  }
  *a = (zg_arena){0};
}

// ---- growing arrays -------------------------------------------------------------------------------------

void zg__vec_grow(void **at, size_t *cap, size_t need, size_t size) {
  if (need <= *cap) return;
  size_t n = ZG_MAX(need, *cap + *cap / 2);
  n = ZG_MAX(n, (size_t)8);
  size_t n_bytes;
  if (__builtin_mul_overflow(n, size, &n_bytes)) die();
  *at = zg_realloc(*at, n_bytes);
  *cap = n;
}

void zg__vec_zero(void *at, size_t n, size_t count, size_t size) {
  if (count > n) memset((char *)at + n * size, 0, (count - n) * size);
}
