// Meeting points: counters in shared memory that one side raises and the other waits for, spinning a little, then on a futex.
#include "exec/comm_priv.h"
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int zg__meet_spin(uint32_t local_world) {
  cpu_set_t set;
  const int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  return (int)local_world > cores ? 0 : 1000;
}

static inline void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

void zg__meet_arrive(zg__meet *me, bool shared) {
  atomic_fetch_add(&me->count, 1);
  if (atomic_load(&me->sleepers)) syscall(SYS_futex, &me->count, shared ? FUTEX_WAKE : FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0);
}

bool zg__meet_wait(zg__meet *peer, uint32_t count, int spin, bool shared, int wait_ms) {
  for (int i = 0; i < spin; i++) {
    if ((int32_t)(atomic_load_explicit(&peer->count, memory_order_acquire) - count) >= 0) return true;
    relax();
  }
  const struct timespec limit = {wait_ms / 1000, wait_ms % 1000 * 1000000L};
  bool there = false;
  atomic_fetch_add(&peer->sleepers, 1);
  const uint32_t now = atomic_load(&peer->count);
  there = (int32_t)(now - count) >= 0;
  if (!there) {
    syscall(SYS_futex, &peer->count, shared ? FUTEX_WAIT : FUTEX_WAIT_PRIVATE, now, &limit, NULL, 0);
    there = (int32_t)(atomic_load(&peer->count) - count) >= 0;
  }
  atomic_fetch_sub(&peer->sleepers, 1);
  return there;
}
