// Thread pool. A job is open while its generation number is odd. Workers that are awake join an open job by
// counting themselves into `active` and looking at the generation again; the caller closes the job when no
// chunk is left and waits for `active` to reach 0. So a job never waits for a worker that is still asleep:
// with more threads than cores (several ranks on one machine) a small job costs the caller its own work and a
// futex wake, no more.
//
//   caller:  job = ...; next = 0; gen++ (odd) ; wake sleepers; take chunks; gen++ (even); wait active == 0
//   worker:  wait gen odd and new; active++; if gen is still that one, take chunks; active--
//
// A pool that has been lent a library's threads (zg_pool_use_team) gives them the same chunks, and its own sleep: two
// sets of threads that each spin for the next job take the cores from one another.
//
// The two counters are sequentially consistent: either the worker sees the job closed, or the caller sees it
// active.
#include "base/base.h"
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SPIN_ROUNDS = 2000, MAX_THREADS = 1024 };

struct zg_pool {
  void (*fn)(void *arg, int64_t chunk, int thread);
  void *arg;
  int64_t n_chunks;
  int n_threads, spin;
  zg_team team;        // run NULL: own threads
  pthread_t *workers;  // n_threads - 1
  _Alignas(64) atomic_uint gen;
  atomic_bool stop;
  atomic_uint sleepers;
  _Alignas(64) _Atomic int64_t next;
  _Alignas(64) atomic_uint active;
  atomic_bool caller_waits;
};

typedef struct {
  zg_pool *pool;
  int thread;
} start_arg;

static void futex_wait(atomic_uint *word, unsigned value) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}
static void futex_wake(atomic_uint *word, int n) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static inline void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static void take_chunks(zg_pool *p, int thread) {
  for (;;) {
    int64_t chunk = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
    if (chunk >= p->n_chunks) return;
    p->fn(p->arg, chunk, thread);
  }
}

// Returns the generation of an open job other than `last`; 0 when the pool ends.
static unsigned wait_for_job(zg_pool *p, unsigned last) {
  for (int spins = 0;; spins++) {
    unsigned gen = atomic_load(&p->gen);
    if (atomic_load(&p->stop)) return 0;
    if ((gen & 1) && gen != last) return gen;
    if (spins < p->spin) {
      relax();
      continue;
    }
    atomic_fetch_add(&p->sleepers, 1);
    futex_wait(&p->gen, gen);
    atomic_fetch_sub(&p->sleepers, 1);
    spins = 0;
  }
}

static void *worker(void *start) {
  start_arg a = *(start_arg *)start;
  zg_free(start);
  for (unsigned gen = 0; (gen = wait_for_job(a.pool, gen));) {
    atomic_fetch_add(&a.pool->active, 1);
    if (atomic_load(&a.pool->gen) == gen) take_chunks(a.pool, a.thread);
    if (atomic_fetch_sub(&a.pool->active, 1) == 1 && atomic_load(&a.pool->caller_waits))
      futex_wake(&a.pool->active, 1);
  }
  return NULL;
}

int zg_pool_cores(void) {
  cpu_set_t set;
  if (!sched_getaffinity(0, sizeof set, &set)) return CPU_COUNT(&set);
  long n = sysconf(_SC_NPROCESSORS_ONLN);
  return n > 0 ? (int)n : 1;
}

zg_pool *zg_pool_new(int n_threads) {
  const int n_cores = zg_pool_cores();
  if (n_threads <= 0) n_threads = n_cores;
  n_threads = ZG_MIN(n_threads, (int)MAX_THREADS);
  zg_pool *p = NULL;
  size_t n_bytes = zg_round_up(sizeof *p, 64);
  p = aligned_alloc(64, n_bytes);
  ZG_ASSERT(p);
  memset((void *)p, 0, n_bytes);
  p->spin = n_threads > n_cores ? 0 : SPIN_ROUNDS;  // spinning only takes time from whoever should be running
  p->n_threads = 1;
  p->workers = zg_alloc(sizeof *p->workers * (size_t)n_threads);
  for (int i = 1; i < n_threads; i++) {
    start_arg *a = zg_alloc(sizeof *a);
    *a = (start_arg){p, i};
    if (pthread_create(&p->workers[i - 1], NULL, worker, a)) {
      zg_free(a);
      zg_warn("the system gave %d of %d threads; going on with those", i, n_threads);
      break;
    }
    p->n_threads = i + 1;
  }
  return p;
}

void zg_pool_free(zg_pool *p) {
  if (!p) return;
  atomic_store(&p->stop, true);
  atomic_fetch_add(&p->gen, 2);  // still even, but changed: nobody falls asleep on the old value
  futex_wake(&p->gen, MAX_THREADS);
  for (int i = 1; i < p->n_threads; i++) pthread_join(p->workers[i - 1], NULL);
  zg_free(p->workers);
  free(p);
}

void zg_pool_use_team(zg_pool *p, const zg_team *t) { p->team = t ? *t : (zg_team){0}; }

int zg_pool_threads(const zg_pool *p) { return p ? p->n_threads : 1; }

static void wait_for_workers(zg_pool *p) {
  for (int spins = 0; spins < p->spin; spins++) {
    if (!atomic_load(&p->active)) return;
    relax();
  }
  atomic_store(&p->caller_waits, true);
  for (unsigned n; (n = atomic_load(&p->active));) futex_wait(&p->active, n);
  atomic_store(&p->caller_waits, false);
}

static void team_member(void *pool) {
  zg_pool *p = pool;
  take_chunks(p, p->team.number());
}

void zg_pool_run(zg_pool *p, int64_t n_chunks, void (*fn)(void *arg, int64_t chunk, int thread), void *arg) {
  if (!p || p->n_threads == 1 || n_chunks <= 1) {
    for (int64_t i = 0; i < n_chunks; i++) fn(arg, i, 0);
    return;
  }
  p->fn = fn;
  p->arg = arg;
  p->n_chunks = n_chunks;
  atomic_store(&p->next, 0);
  if (p->team.run) {
    p->team.run(team_member, p, (unsigned)p->n_threads, 0);
    return;
  }
  atomic_fetch_add(&p->gen, 1);
  if (atomic_load(&p->sleepers)) futex_wake(&p->gen, (int)ZG_MIN(n_chunks - 1, (int64_t)MAX_THREADS));
  take_chunks(p, 0);
  atomic_fetch_add(&p->gen, 1);
  wait_for_workers(p);
}
