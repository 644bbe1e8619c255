// Fibers, warps and blocks. A thread runs until it must wait for others: at a barrier of the block, or where
// lanes of a warp meet (shuffles, ballots, mma). Then the next thread that can go on runs, in the order of
// ZG_EMU_ORDER. Running each thread as far as it can is the least fair legal order: without a barrier that is
// needed, some thread reads what is not there yet, and shared memory is poisoned, so that it shows.
//
// Reported as errors: threads that leave while others wait for them; a barrier, or a meeting of lanes,
// reached at different places of the text by different threads; a launch that stops making progress; illegal
// addresses; writes behind the launch's dynamic shared memory.
#include "fiber.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>

enum { READY, AT_BARRIER, AT_MEETING, GONE };
enum { STACK_BYTES = 128 << 10, WARP = 32, POISON = 0xff, GUARD = 1024, GUARD_BYTE = 0xa5 };

typedef struct {
  void *sp;
  zg_emu_dim id;
  uint8_t state;
  unsigned mask;  // AT_MEETING: lanes to meet
  int site;
  unsigned n_bytes;
  zg_emu_swap *got;
  _Alignas(32) char give[64];
} thread;

static struct {
  thread *threads;
  char *stacks;
  zg_emu_swap (*exchanges)[WARP];             // of each warp
  unsigned order[ZG_EMU_THREADS_MAX / WARP];  // of warps
  unsigned n, current, waiting, gone;
  int barrier_site, vote_sum, vote_result;
  const zg_emu_launch *launch;
  const void *args;
  void *main_sp;
  sigjmp_buf escape;
  void *volatile fault_address;
  volatile int fault_signal;
  char problem[200];
  uint64_t random;
  bool notes_sites, may_skip;
} run;
zg_emu_ctx zg_emu_context;
static _Thread_local volatile sig_atomic_t armed;  // this thread runs a kernel

// ---- switching ----------------------------------------------------------------------------------------
#if defined(__x86_64__)
void zg_emu_switch(void **save, void *to);
__asm__(
    ".text\n.hidden zg_emu_switch\n.globl zg_emu_switch\n.type zg_emu_switch, @function\nzg_emu_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n  ret\n"
    ".size zg_emu_switch, . - zg_emu_switch\n");

static void *new_stack(char *base, void (*entry)(void)) {
  void **sp = (void **)(base + STACK_BYTES);
  *--sp = NULL;  // alignment; and what a return of entry would find
  *--sp = (void *)entry;
  for (int i = 0; i < 6; i++) *--sp = NULL;  // registers
  return sp;
}
#else
#include <ucontext.h>
// sp is a ucontext_t in the stack's own memory, or on the scheduler's frame.
static void zg_emu_switch(void **save, void *to) {
  ucontext_t here;
  *save = &here;
  swapcontext(&here, to);
}
static void *new_stack(char *base, void (*entry)(void)) {
  ucontext_t *u = (ucontext_t *)base;
  getcontext(u);
  u->uc_stack.ss_sp = base + sizeof *u, u->uc_stack.ss_size = STACK_BYTES - sizeof *u, u->uc_link = NULL;
  makecontext(u, entry, 0);
  return u;
}
#endif

static void leave(void) { zg_emu_switch(&run.threads[run.current].sp, run.main_sp); }

// A problem of the running kernel: noted once; the fiber never goes on.
static void problem(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void problem(const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  if (!run.problem[0]) vsnprintf(run.problem, sizeof run.problem, fmt, ap);
  va_end(ap);
}
static void stop(void) {
  for (;;) leave();
}

static void entry(void) {
  run.launch->run(run.args, &zg_emu_context);
  run.threads[run.current].state = GONE;
  run.gone++;
  stop();
}

static int line_of(int site) { return site / 16; }

// ---- barrier ------------------------------------------------------------------------------------------

// ZG_EMU_SITES=file: barriers met are appended to it, once each, as "kernel line". ZG_EMU_SKIP="kernel line":
// that barrier does nothing. A test can so remove every barrier in turn and see that something fails.
static bool skipped(int site) {
  const char *skip = getenv("ZG_EMU_SKIP"), *end = skip ? strchr(skip, ' ') : NULL;
  size_t n = end ? (size_t)(end - skip) : 0;
  return n && strlen(run.launch->name) == n && !memcmp(run.launch->name, skip, n) &&
         atoi(end + 1) == line_of(site);
}
static void note_site(int site) {
  static uint64_t seen[4096];  // open hash of (kernel, line)
  uint64_t h = (uint64_t)line_of(site);
  for (const char *c = run.launch->name; *c; c++) h = (h ^ (unsigned char)*c) * 0x100000001b3u;
  size_t at = (size_t)(h % 4096), tries = 0;
  while (seen[at] && seen[at] != h && ++tries < 4096) at = (at + 1) % 4096;
  FILE *f = seen[at] ? NULL : fopen(getenv("ZG_EMU_SITES"), "a");
  if (!f) return;
  seen[at] = h;
  fprintf(f, "%s %d\n", run.launch->name, line_of(site));
  fclose(f);
}

static int barrier(int site, int kind, int vote) {
  thread *t = &run.threads[run.current];
  if (run.notes_sites) note_site(site);
  if (run.may_skip && skipped(site)) return vote;
  if (run.waiting == 0) run.barrier_site = site, run.vote_sum = 0;
  if (site != run.barrier_site) {
    problem("thread %u waits at the barrier of line %d, others at that of line %d", run.current,
            line_of(site), line_of(run.barrier_site));
    stop();
  }
  run.vote_sum += vote;
  if (++run.waiting == run.n) {
    run.vote_result = kind == ZG_EMU_OR    ? run.vote_sum > 0
                      : kind == ZG_EMU_AND ? run.vote_sum == (int)run.n
                                           : run.vote_sum;
    run.waiting = 0;
    for (unsigned i = 0; i < run.n; i++)
      if (run.threads[i].state == AT_BARRIER) run.threads[i].state = READY;
    return run.vote_result;
  }
  t->state = AT_BARRIER, t->site = site;
  leave();
  return run.vote_result;
}

// ---- warps --------------------------------------------------------------------------------------------

// Lanes of the mask that exist in this block, and whether all of them have come to the same place.
static bool complete(unsigned first, const thread *me, unsigned *lanes) {
  *lanes = 0;
  for (unsigned l = 0; l < WARP && first + l < run.n; l++) {
    const thread *t = &run.threads[first + l];
    if (!(me->mask >> l & 1)) continue;
    if (t->state == GONE) {
      problem("lane %u has left the kernel; line %d wants to meet it (mask %08x)", l, line_of(me->site),
              me->mask);
      return false;
    }
    if (t->state != AT_MEETING) return false;
    if (t->mask != me->mask || t->site != me->site) {
      if (t->mask >> run.current % WARP & 1)  // each would wait for the other
        problem("lane %u is at line %d (mask %08x), others of its warp at line %d (mask %08x)", l,
                line_of(t->site), t->mask, line_of(me->site), me->mask);
      return false;
    }
    *lanes |= 1u << l;
  }
  return true;
}

static void hand_out(unsigned first, const thread *me, unsigned lanes) {
  zg_emu_swap *x = run.exchanges[first / WARP];
  while (x->readers) x++;  // there are as many as lanes, and each lane holds one at most
  x->mask = lanes, x->readers = 0;
  if (me->n_bytes) memset(x->lane, POISON, sizeof x->lane);
  for (unsigned l = 0; l < WARP; l++) {
    if (!(lanes >> l & 1)) continue;
    thread *t = &run.threads[first + l];
    memcpy(x->lane[l], t->give, me->n_bytes);
    t->got = x, t->state = READY, x->readers++;
  }
}

static const zg_emu_swap *meet(unsigned mask, const void *give, unsigned n_bytes, int site) {
  thread *t = &run.threads[run.current];
  unsigned lane = run.current % WARP, first = run.current - lane, lanes;
  if (t->got) t->got->readers--, t->got = NULL;  // what the last meeting gave is not used any more
  if (!(mask >> lane & 1)) {
    problem("lane %u is not in the mask %08x that it gives at line %d", lane, mask, line_of(site));
    stop();
  }
  if (n_bytes > sizeof t->give) n_bytes = 0, problem("line %d exchanges more than 64 bytes", line_of(site));
  t->mask = mask, t->site = site, t->n_bytes = n_bytes, t->state = AT_MEETING;
  if (n_bytes) memcpy(t->give, give, n_bytes);
  if (complete(first, t, &lanes)) hand_out(first, t, lanes);
  else leave();
  return t->got;
}

static void trap(const char *what) {
  problem("thread %u calls %s", run.current, what);
  stop();
}

// ---- blocks -------------------------------------------------------------------------------------------

void zg_emu_reseed_threads(uint64_t seed) { run.random = seed * 2 + 1; }
static uint64_t draw(void) { return zg_emu_mix(&run.random); }

static int order_mode(void) {
  const char *v = getenv("ZG_EMU_ORDER");
  return !v || !strcmp(v, "forward") ? 0 : !strcmp(v, "reverse") ? 1 : 2;
}

static void shuffle(unsigned *a, unsigned n) {
  for (unsigned i = n; i > 1; i--) {
    unsigned k = (unsigned)(draw() % i), v = a[i - 1];
    a[i - 1] = a[k], a[k] = v;
  }
}

static void begin_block(zg_emu_dim at, int mode) {
  const zg_emu_launch *l = run.launch;
  zg_emu_dim d = l->block;
  run.waiting = run.gone = 0;
  for (unsigned w = 0; w < (run.n + WARP - 1) / WARP; w++)
    for (unsigned k = 0; k < WARP; k++) run.exchanges[w][k].readers = 0;
  for (unsigned i = 0; i < run.n; i++) {
    thread *t = &run.threads[i];
    t->id = (zg_emu_dim){i % d.x, i / d.x % d.y, i / (d.x * d.y)};
    t->state = READY, t->got = NULL;
    t->sp = new_stack(run.stacks + (size_t)i * STACK_BYTES, entry);
  }
  for (unsigned w = 0, n = (run.n + WARP - 1) / WARP; w < n; w++) run.order[w] = mode == 1 ? n - 1 - w : w;
  zg_emu_context.block = at;
  if (l->shared) memset(l->shared, POISON, (size_t)(l->shared_end - l->shared));
  memset(l->dyn, POISON, l->dyn_bytes);
  memset(l->dyn + l->dyn_bytes, GUARD_BYTE, GUARD);
}

static void stuck(void) {
  unsigned barriers = 0, meetings = 0;
  int site = 0;
  for (unsigned i = 0; i < run.n; i++) {
    barriers += run.threads[i].state == AT_BARRIER;
    meetings += run.threads[i].state == AT_MEETING;
    if (run.threads[i].state == AT_MEETING || (!site && run.threads[i].state == AT_BARRIER))
      site = run.threads[i].site;
  }
  problem(
      "%u threads wait at a barrier and %u for lanes of their warp (line %d), while %u have left the kernel",
      barriers, meetings, line_of(site), run.gone);
}

static bool run_thread(unsigned i) {
  thread *t = &run.threads[i];
  if (i >= run.n || t->state != READY || run.problem[0]) return false;
  run.current = i;
  zg_emu_context.thread = t->id, zg_emu_context.lane = i % WARP;
  zg_emu_switch(&run.main_sp, t->sp);
  return true;
}

// A warp goes on until all its lanes wait for other warps, so that it runs as far ahead of them as it can; in
// random order it may stop before.
static bool run_warp(unsigned first, int mode) {
  bool moved = false;
  for (bool again = true; again && !(mode == 2 && draw() % 16 == 0);) {
    unsigned mask = mode == 0 ? 0 : mode == 1 ? WARP - 1 : (unsigned)(draw() % WARP);
    again = false;
    for (unsigned k = 0; k < WARP; k++) again |= run_thread(first + (k ^ mask));
    moved |= again;
  }
  return moved;
}

static bool any_ready(void) {
  for (unsigned i = 0; i < run.n; i++)
    if (run.threads[i].state == READY) return true;
  return false;
}

static void run_block(zg_emu_dim at, int mode) {
  unsigned n_warps = (run.n + WARP - 1) / WARP;
  begin_block(at, mode);
  while (run.gone < run.n && !run.problem[0]) {
    bool moved = false;
    if (mode == 2) shuffle(run.order, n_warps);
    for (unsigned k = 0; k < n_warps && !run.problem[0]; k++) moved |= run_warp(run.order[k] * WARP, mode);
    if (!moved && !run.problem[0] && !any_ready()) stuck();
  }
  for (unsigned i = 0; i < GUARD && !run.problem[0]; i++)
    if ((unsigned char)run.launch->dyn[run.launch->dyn_bytes + i] != GUARD_BYTE)
      problem("byte %u behind the launch's %u bytes of dynamic shared memory was written", i,
              run.launch->dyn_bytes);
}

static void run_grid(int mode) {
  zg_emu_dim g = run.launch->grid;
  uint64_t n = (uint64_t)g.x * g.y * g.z, step = 1, start = 0;
  if (mode == 2 && n > 1) {  // a random cycle through all blocks: a step without common factor
    start = draw() % n;
    for (uint64_t a, b, r;;) {
      step = draw() % n + 1;
      for (a = n, b = step; b; r = a % b, a = b, b = r) continue;
      if (a == 1) break;
    }
  }
  for (uint64_t i = 0; i < n && !run.problem[0]; i++) {
    uint64_t k = mode == 1 ? n - 1 - i : (start + i * step) % n;
    run_block((zg_emu_dim){(unsigned)(k % g.x), (unsigned)(k / g.x % g.y), (unsigned)(k / g.x / g.y)}, mode);
  }
}

// ---- faults -------------------------------------------------------------------------------------------

static struct sigaction old_action[3];
static const int fault_signals[3] = {SIGSEGV, SIGBUS, SIGFPE};

static void on_fault(int sig, siginfo_t *info, void *context) {
  if (armed) {
    armed = 0;
    run.fault_address = info->si_addr, run.fault_signal = sig;
    siglongjmp(run.escape, 1);
  }
  for (int i = 0; i < 3; i++) {  // not ours
    if (fault_signals[i] != sig) continue;
    if (old_action[i].sa_flags & SA_SIGINFO) old_action[i].sa_sigaction(sig, info, context);
    else signal(sig, SIG_DFL);
  }
}

static void arm(stack_t *old_stack) {
  static char *alternate;
  if (!alternate) alternate = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  stack_t s = {.ss_sp = alternate, .ss_size = 1 << 16};
  sigaltstack(&s, old_stack);
  struct sigaction a = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
  for (int i = 0; i < 3; i++) sigaction(fault_signals[i], &a, &old_action[i]);
  armed = 1;
}

static void disarm(const stack_t *old_stack) {
  armed = 0;
  for (int i = 0; i < 3; i++) sigaction(fault_signals[i], &old_action[i], NULL);
  sigaltstack(old_stack, NULL);
}

static void set_up(const zg_emu_launch *l, const void *args) {
  if (!run.threads) {
    run.threads = aligned_alloc(64, sizeof *run.threads * ZG_EMU_THREADS_MAX);
    run.exchanges = aligned_alloc(64, sizeof *run.exchanges * (ZG_EMU_THREADS_MAX / WARP));
    run.stacks = mmap(NULL, (size_t)STACK_BYTES * ZG_EMU_THREADS_MAX, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!run.random) run.random = (uint64_t)zg_emu_env("ZG_EMU_SEED", 1);
  }
  run.launch = l, run.args = args, run.problem[0] = 0;
  run.notes_sites = getenv("ZG_EMU_SITES") != NULL, run.may_skip = getenv("ZG_EMU_SKIP") != NULL;
  run.n = l->block.x * l->block.y * l->block.z;
  zg_emu_context.block_dim = l->block, zg_emu_context.grid_dim = l->grid;
  zg_emu_context.barrier = barrier, zg_emu_context.meet = meet, zg_emu_context.trap = trap;
}

int zg_emu_run(const zg_emu_launch *l, const void *args, int order) {
  stack_t old_stack;
  volatile int result = 0;
  set_up(l, args);
  arm(&old_stack);
  if (sigsetjmp(run.escape, 1) == 0) run_grid(order < 0 ? order_mode() : order);
  else {
    problem(run.fault_signal == SIGFPE ? "thread %u divides by zero"
                                       : "thread %u reads or writes illegal address %p",
            run.current, run.fault_address);
    result = run.fault_signal == SIGFPE ? 719 : 700;
  }
  disarm(&old_stack);
  if (!run.problem[0]) return 0;
  zg_emu_dim b = zg_emu_context.block;
  zg_emu_say("kernel %s, block (%u,%u,%u) of %u threads: %s", l->name, b.x, b.y, b.z, run.n, run.problem);
  return result ? result : 719;
}
