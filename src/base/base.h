// base: status, memory, containers, log. Knows no tensors; may be included from anywhere.
#pragma once
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define ZG_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define ZG_MUST_USE __attribute__((warn_unused_result))
#define ZG_NORETURN __attribute__((noreturn))
#define ZG_UNLIKELY(x) __builtin_expect(!!(x), 0)
#endif

#define ZG_COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define ZG_MIN(a, b) ((a) < (b) ? (a) : (b))
#define ZG_MAX(a, b) ((a) > (b) ? (a) : (b))

// ---- status -------------------------------------------------------------------------------------------------------
// A zg_status is a pointer to an error record; NULL is success. The holder owns it: pass it on (return it), or end it
// with zg_status_free. A static record serves out-of-memory, so making a status never fails.

typedef enum {
  ZG_INVALID,       // the user's input is wrong (model, configuration, data): exit status 2 from the command line
  ZG_UNSUPPORTED,   // well-formed, but outside what zgraph does
  ZG_NOT_FOUND,     // file, name or library absent
  ZG_IO,            // the operating system refused: disk full, permission, broken pipe
  ZG_OUT_OF_MEMORY, // host or device memory
  ZG_CORRUPT,       // a checkpoint, cache or model file that fails its checks
  ZG_CANCELLED,     // Ctrl-C, or another rank failed
  ZG_INTERNAL,      // a device or library call failed in a way that input does not explain
} zg_code;

typedef struct zg_status_rec *zg_status;

// Makes an error; the message names the thing and the fix, no trailing newline. Source place is recorded for ZG_LOG.
#define zg_error(code, ...) zg__status_make(code, __FILE__, __LINE__, __VA_ARGS__)
zg_status zg__status_make(zg_code code, const char *file, int line, const char *fmt, ...) ZG_PRINTF(4, 5) ZG_MUST_USE;
zg_status zg__status_vmake(zg_code code, const char *file, int line, const char *fmt, va_list ap) ZG_MUST_USE;
// Puts context in front of the message ("model.onnx: " ...) and returns the same status; NULL stays NULL.
zg_status zg_status_prefix(zg_status s, const char *fmt, ...) ZG_PRINTF(2, 3) ZG_MUST_USE;
zg_code zg_status_code(zg_status s);          // s must not be NULL
const char *zg_status_message(zg_status s);   // borrowed until s is freed; "" for NULL
const char *zg_status_place(zg_status s);     // "file.c:12", where it was made
void zg_status_free(zg_status s);             // NULL ok

// ZG_TRY returns a failure to the caller: use it while nothing is held. ZG_TRY_OUT stores it in the local `status` and
// jumps to the label `out`: the one exit that frees.
#define ZG_TRY(expr)                       \
  do {                                     \
    zg_status zg_try_ = (expr);            \
    if (ZG_UNLIKELY(zg_try_)) return zg_try_; \
  } while (0)
#define ZG_TRY_OUT(expr)                   \
  do {                                     \
    status = (expr);                       \
    if (ZG_UNLIKELY(status)) goto out;     \
  } while (0)

// A broken invariant of zgraph itself (never of its input): prints and aborts.
#define ZG_ASSERT(cond) ((cond) ? (void)0 : zg__assert_failed(#cond, __FILE__, __LINE__))
void zg__assert_failed(const char *cond, const char *file, int line) ZG_NORETURN;

// ---- memory -------------------------------------------------------------------------------------------------------
// Bookkeeping memory (IR, names, configuration) comes from arenas and from zg_alloc. When the system has none left these
// print "zgraph: out of memory" and end the process with status 1: a compiler cannot do anything sensible then. Memory
// whose size depends on the model's tensors is asked for with zg_alloc_big, which returns a status instead.

void *zg_alloc(size_t n_bytes);                        // zeroed; never NULL
void *zg_realloc(void *p, size_t n_bytes);             // never NULL; new bytes are not zeroed
void zg_free(void *p);                                 // NULL ok
zg_status zg_alloc_big(uint64_t n_bytes, void **out);  // 64-byte aligned, zeroed lazily by the system; free: zg_free_big
void zg_free_big(void *p, uint64_t n_bytes);

typedef struct zg_arena_block zg_arena_block;
typedef struct { zg_arena_block *head; size_t used, cap; } zg_arena;   // zero-initialised is valid and empty
void *zg_arena_alloc(zg_arena *a, size_t n_bytes);                     // zeroed, 16-byte aligned; lives until fini
void *zg_arena_copy(zg_arena *a, const void *src, size_t n_bytes);
char *zg_arena_str(zg_arena *a, const char *s);                        // copy of a string; NULL stays NULL
char *zg_arena_strn(zg_arena *a, const char *s, size_t n);
char *zg_arena_printf(zg_arena *a, const char *fmt, ...) ZG_PRINTF(2, 3);
void zg_arena_fini(zg_arena *a);                                       // frees all, leaves it empty
#define ZG_NEW(arena, T) ((T *)zg_arena_alloc(arena, sizeof(T)))
#define ZG_NEW_N(arena, T, n) ((T *)zg_arena_alloc(arena, sizeof(T) * (size_t)(n)))

// Growing array of T: `typedef ZG_VEC(int) ints; ints v = {0}; zg_vec_push(&v, 3); v.at[0]; v.n; zg_vec_fini(&v);`
// Pointers into it die at the next push.
#define ZG_VEC(T) struct { T *at; size_t n, cap; }
#define zg_vec_push(v, ...) (zg__vec_grow((void **)&(v)->at, &(v)->cap, (v)->n + 1, sizeof *(v)->at), \
                             (v)->at[(v)->n++] = (__VA_ARGS__))
#define zg_vec_resize(v, count) (zg__vec_grow((void **)&(v)->at, &(v)->cap, (count), sizeof *(v)->at), \
                                 zg__vec_zero((v)->at, (v)->n, (count), sizeof *(v)->at), (void)((v)->n = (count)))
#define zg_vec_fini(v) (zg_free((v)->at), (void)((v)->at = NULL, (v)->n = (v)->cap = 0))
void zg__vec_grow(void **at, size_t *cap, size_t need, size_t size);
void zg__vec_zero(void *at, size_t n, size_t count, size_t size);

// Sizes in bytes are multiplied through these: false on overflow.
static inline bool zg_mul_u64(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool zg_mul_i64(int64_t a, int64_t b, int64_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline uint64_t zg_round_up(uint64_t x, uint64_t to) { return (x + to - 1) / to * to; }

// Growing string.
typedef struct { char *at; size_t n, cap; } zg_str;                     // at is NUL-terminated once anything is added
void zg_str_add(zg_str *s, const char *fmt, ...) ZG_PRINTF(2, 3);
void zg_str_put(zg_str *s, const char *bytes, size_t n);
void zg_str_fini(zg_str *s);

// ---- hash, map ----------------------------------------------------------------------------------------------------
uint64_t zg_hash(const void *bytes, size_t n, uint64_t seed);           // FNV-1a with a final mix; stable across runs
uint32_t zg_crc32(const void *bytes, size_t n, uint32_t crc);           // zlib's polynomial; start with 0

// Map from strings (copied) to 64-bit values. Zero-initialised is valid and empty.
typedef struct zg_map_slot zg_map_slot;
typedef struct { zg_map_slot *slots; size_t n, cap; } zg_map;
bool zg_map_put(zg_map *m, const char *key, uint64_t value);            // true if the key was new; else value replaced
bool zg_map_get(const zg_map *m, const char *key, uint64_t *out);       // out may be NULL
void zg_map_fini(zg_map *m);

// Shell-style match of the whole of `text`: * ? [a-z], case-sensitive. * also matches '/' and '.'.
bool zg_glob(const char *pattern, const char *text);
// The candidate nearest to `word` by edit distance, or NULL if none is near enough to suggest. n strings.
const char *zg_nearest(const char *word, const char *const *candidates, size_t n);

// ---- log, debug flags ---------------------------------------------------------------------------------------------
// ZG_LOG=1..4 (phases, passes, steps, kernel source) goes to stderr. Warnings always do, each text once.
int zg_log_level(void);
#define zg_log(level, ...) ((level) <= zg_log_level() ? zg__log(__VA_ARGS__) : (void)0)
void zg__log(const char *fmt, ...) ZG_PRINTF(1, 2);
void zg_warn(const char *fmt, ...) ZG_PRINTF(1, 2);
// This thread's warnings go nowhere from now on (true) or to stderr again: for work done on trial. Returns how it was before.
bool zg_warn_mute(bool mute);

// ---- random -------------------------------------------------------------------------------------------------------
// Philox4x32-10 (Salmon et al., SC'11, section 3): 4 words from a 128-bit counter and a 64-bit key.
void zg_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

// ---- files --------------------------------------------------------------------------------------------------------
typedef struct { const uint8_t *at; uint64_t n; } zg_bytes;             // borrowed view of bytes

typedef struct { zg_bytes bytes; } zg_file_map;                         // read-only mapping of a whole file
zg_status zg_file_map_open(const char *path, zg_file_map *out);         // an empty file maps to n = 0
void zg_file_map_close(zg_file_map *m);
// The pages within `part` of a mapping need not stay in memory; whoever reads them again has them from the file.
void zg_file_map_forget(zg_bytes part);
zg_status zg_file_read(const char *path, zg_str *out);                  // whole file; out is appended to
// Writes beside `path`, fsyncs, renames: `path` holds the old or the new content, never a part.
zg_status zg_file_write_atomic(const char *path, const void *bytes, size_t n);
zg_status zg_dir_make(const char *path);                                // with parents; an existing one is fine
zg_status zg_dir_sync(const char *path);                                // fsync of the directory entry itself
bool zg_file_exists(const char *path);
uint64_t zg_proc_peak_bytes(void);                                      // VmHWM of this process; 0 where unknown
uint64_t zg_proc_resident_bytes(void);                                  // VmRSS, counted to the page where the system can
uint64_t zg_proc_heap_bytes(void);                                      // in use on the heap (malloc)
void zg_proc_trim(void);                                                // gives free heap pages back to the system

// ---- time, threads ------------------------------------------------------------------------------------------------
double zg_time_s(void);                                                 // monotonic seconds

// A fixed set of threads that run chunks of a job; the caller takes part. Workers spin briefly, then park.
typedef struct zg_pool zg_pool;
zg_pool *zg_pool_new(int n_threads);                                    // n_threads >= 1, counts the caller; 0: one per core
void zg_pool_free(zg_pool *p);
int zg_pool_threads(const zg_pool *p);
int zg_pool_cores(void);                                                // cores that this process may use
// Threads of a library that spin on the same cores: run calls fn(arg) on up to n of them, the caller among them, and returns when all
// have; number is the calling one's, in [0, n). (libgomp's GOMP_parallel, whose last argument is 0, and omp_get_thread_num.)
typedef struct { void (*run)(void (*fn)(void *arg), void *arg, unsigned n, unsigned flags); int (*number)(void); } zg_team;
// From now on jobs run on the team's threads, and the pool's own sleep; t NULL: on its own again. Not while a job runs. A team makes a
// job wait for all its threads, the pool's own only for those that are awake: where others use the cores, own threads lose less.
void zg_pool_use_team(zg_pool *p, const zg_team *t);
// Calls fn(arg, chunk, thread) once for each chunk in [0, n_chunks), chunks taken dynamically, and returns when all are
// done. thread is in [0, zg_pool_threads). Not reentrant. p may be NULL: runs on the caller alone.
void zg_pool_run(zg_pool *p, int64_t n_chunks, void (*fn)(void *arg, int64_t chunk, int thread), void *arg);
