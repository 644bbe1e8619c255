// Mutation test of the streams: every RECORD and WAIT of a schedule is taken out, one at a time, and two ranks run an update on the CUDA
// device in the emulator, which runs queued work in any order that the events allow, by seed. Some seed must give other bits than the
// whole schedule: parameters, optimizer states, loss and norm are compared.
//
// A step that is taken out without any two conflicting accesses (overlapping bytes, at least one write, on different streams) losing
// their order is equivalent: other events order them still. Reachability over stream order and record -> wait decides that, here, by
// itself; it does not ask the schedule's verifier. Released buffers are filled with NaN (zg_exec_poison), which counts as a write.
//
// usage: mutation_test MODEL STAGE EVERY [KEY=VALUE...]; EVERY: take each EVERY-th step (1: all). Status 77: no emulator.
#include <dlfcn.h>
#include <pthread.h>

#include "../zero/sim.h"
#include "cuda/cuda.h"

enum { RANKS = 2, SEEDS = 400 };

// ---- two ranks on threads -------------------------------------------------------------------------------------------

typedef struct {
  ZG_VEC(uint8_t) bytes;
  double loss, norm;
} state;

typedef enum { OPEN, UPDATE, CLOSE } command;
typedef struct {
  zg_comm *comm;
  zg_config *cfg;
  zg_session *s;
  state start, end;
  zg_status status;
  pthread_t thread;
} rank_t;

static rank_t ranks[RANKS];
static pthread_barrier_t go, done;
static command what;

static bool is_kept(const zg_buf *b) { return b->persistent && b->bytes && b->role != ZG_BUF_CONST && b->role != ZG_BUF_INPUT; }

static zg_status read_state(rank_t *r, state *to) {
  const zg_sched *d = zg_session_sched(r->s);
  to->bytes.n = 0;
  for (uint32_t b = 1; b < d->bufs.n; b++) {
    if (!is_kept(&d->bufs.at[b])) continue;
    const size_t at = to->bytes.n;
    zg_vec_resize(&to->bytes, at + d->bufs.at[b].bytes);
    ZG_TRY(r->s->device->vt->read(r->s->program, b, 0, to->bytes.at + at, d->bufs.at[b].bytes));
  }
  return NULL;
}

static zg_status restore(rank_t *r) {
  const zg_sched *d = zg_session_sched(r->s);
  size_t at = 0;
  for (uint32_t b = 1; b < d->bufs.n; b++) {
    if (!is_kept(&d->bufs.at[b])) continue;
    ZG_TRY(r->s->device->vt->write(r->s->program, b, 0, r->start.bytes.at + at, d->bufs.at[b].bytes));
    at += d->bufs.at[b].bytes;
  }
  return NULL;
}

static zg_status open_rank(rank_t *r) {
  const zg_session_options so = {.mode = ZG_RUN_TRAIN, .comm = r->comm};
  ZG_TRY(zg_session_open(r->cfg, &so, &r->s));
  zg_exec_poison(r->s->program);
  return read_state(r, &r->start);
}

static zg_status update_rank(rank_t *r) {
  static const struct { const char *name; double value; } scalars[] = {
      {"@lr", 1e-3}, {"@bias1", 0.1}, {"@bias2", 0.001}, {"@first", 1}, {"@first_micro", 1}, {"@stop", 0}};
  const zg_rand_state rand = {{1, 0}, 0};
  ZG_TRY(restore(r));
  for (size_t i = 0; i < ZG_COUNT(scalars); i++) ZG_TRY(zg_session_set(r->s, scalars[i].name, scalars[i].value));
  ZG_TRY(zg_session_feed(r->s, r->s->train, 0));
  const char *micro = zg_sched_find_segment(zg_session_sched(r->s), "micro_last") ? "micro_last" : "micro";
  ZG_TRY(zg_exec_run(r->s->program, micro, rand, NULL));
  ZG_TRY(zg_exec_run(r->s->program, "update", rand, NULL));
  ZG_TRY(zg_session_scalar(r->s, "update", ZG_OUT_VALUE, "@loss", &r->end.loss));
  ZG_TRY(zg_session_scalar(r->s, NULL, ZG_OUT_VALUE, "@grad_norm", &r->end.norm));
  return read_state(r, &r->end);
}

static void *rank_main(void *arg) {
  rank_t *r = arg;
  for (;;) {
    pthread_barrier_wait(&go);
    const command c = what;   // the next one may stand there as soon as the barrier below opens
    if (c == OPEN) r->status = open_rank(r);
    if (c == UPDATE) r->status = update_rank(r);
    if (c == CLOSE) zg_session_close(r->s);
    pthread_barrier_wait(&done);
    if (c == CLOSE) return NULL;
  }
}

static void command_all(command c) {
  what = c;
  pthread_barrier_wait(&go);
  pthread_barrier_wait(&done);
}

static void (*reseed)(uint64_t);

// ---- who is ordered before whom -----------------------------------------------------------------------------------

typedef struct { uint32_t step; uint8_t space; bool write; uint64_t lo, hi; } access;
typedef ZG_VEC(access) accesses;
typedef struct { uint32_t a, b; } pair;   // steps; a stands before b
typedef struct {
  const zg_sched *s;
  const zg_segment *seg;
  ZG_VEC(pair) conflicts;
  uint64_t *before;   // bit i of row j: step i is done when j begins
  uint32_t words;
} order;

static void add_access(accesses *to, const zg_sched *s, uint32_t step, uint32_t buf, uint64_t lo, uint64_t hi, bool write) {
  const zg_buf *b = &s->bufs.at[buf];
  if (buf && hi > lo) zg_vec_push(to, (access){step, b->space, write, b->offset + lo, b->offset + ZG_MIN(hi, b->bytes)});
}

static void add_view(accesses *to, const zg_sched *s, uint32_t step, const zg_view *v, bool write) {
  int64_t lo = v->offset, hi = v->offset;
  for (uint32_t d = 0; d < v->rank; d++) {
    if (v->dim[d] == 0) return;
    const int64_t span = (v->dim[d] - 1) * v->stride[d];
    *(span < 0 ? &lo : &hi) += span;
  }
  const uint64_t size = zg_dtype_bytes(v->dtype);
  add_access(to, s, step, v->buf, (uint64_t)lo * size, (uint64_t)(hi + 1) * size, write);
}

static bool poisons(const zg_sched *s, uint32_t step, const zg_live_range *live) {   // as exec/poison.c does
  const zg_buf *b = &s->bufs.at[s->steps.at[step].a];
  for (uint32_t o = 1; o < s->bufs.n; o++) {
    const zg_buf *x = &s->bufs.at[o];
    if (x != b && x->space == b->space && live[o].first != UINT32_MAX && live[o].first <= step && live[o].last >= step &&
        x->offset < b->offset + b->bytes && b->offset < x->offset + x->bytes)
      return false;
  }
  return true;
}

static void add_step(accesses *to, const zg_sched *s, uint32_t i, const zg_live_range *live) {
  const zg_step *p = &s->steps.at[i];
  const zg_buf *a = &s->bufs.at[p->a], *b = &s->bufs.at[p->b];
  const uint64_t size = zg_dtype_bytes(a->dtype), n = (uint64_t)p->n * size, at = (uint64_t)p->a_at * size, bt = (uint64_t)p->b_at * size;
  if (p->kind == ZG_STEP_KERNEL) {
    const zg_kernel *k = &s->kernels.at[p->kernel];
    for (uint32_t v = 0; v < k->n_args; v++) add_view(to, s, i, &k->args[v], v < k->n_out);
    add_access(to, s, i, k->workspace, 0, s->bufs.at[k->workspace].bytes, true);
  } else if (p->kind == ZG_STEP_RELEASE) {
    if (poisons(s, i, live)) add_access(to, s, i, p->a, 0, a->bytes, true);
  } else if (p->kind == ZG_STEP_GATHER) {
    add_access(to, s, i, p->a, at, n ? at + n * s->world : a->bytes, true);
    add_access(to, s, i, p->b, bt, n ? bt + n : b->bytes, false);
  } else if (p->kind == ZG_STEP_REDUCE_SCATTER) {
    add_access(to, s, i, p->a, at, n ? at + n : a->bytes, true);
    add_access(to, s, i, p->b, bt, n ? bt + n * s->world : b->bytes, false);
  } else if (p->kind == ZG_STEP_ALL_REDUCE || p->kind == ZG_STEP_BROADCAST) {
    add_access(to, s, i, p->a, at, n ? at + n : a->bytes, true);
  } else if (p->kind == ZG_STEP_COPY) {
    const uint64_t m = n ? n : ZG_MIN(a->bytes - at, b->bytes - bt);
    add_access(to, s, i, p->a, at, at + m, true);
    add_access(to, s, i, p->b, bt, bt + m, false);
  }
}

static void find_conflicts(order *o) {
  zg_arena mem = {0};
  accesses all = {0};
  const zg_step *steps = o->s->steps.at;
  const zg_live_range *live = zg_find_live_ranges(o->s, &mem);
  for (uint32_t i = o->seg->first; i < o->seg->first + o->seg->n; i++) add_step(&all, o->s, i, live);
  for (size_t x = 0; x < all.n; x++)
    for (size_t y = x + 1; y < all.n; y++) {
      const access *a = &all.at[x], *b = &all.at[y];
      if (steps[a->step].stream != steps[b->step].stream && a->space == b->space && (a->write || b->write) && a->lo < b->hi && b->lo < a->hi)
        zg_vec_push(&o->conflicts, (pair){a->step, b->step});
    }
  zg_vec_fini(&all);
  zg_arena_fini(&mem);
}

// Fills `before` for the segment without step `out`.
static void find_order(order *o, uint32_t out) {
  const zg_step *steps = o->s->steps.at;
  const uint32_t first = o->seg->first, n = o->seg->n;
  uint32_t last[ZG_N_STREAMS] = {0};   // plus one
  memset(o->before, 0, sizeof(uint64_t) * o->words * n);
  for (uint32_t i = 0; i < n; i++) {
    const zg_step *p = &steps[first + i];
    uint64_t *row = o->before + (size_t)i * o->words;
    uint32_t from[2], n_from = 0;
    if (last[p->stream]) from[n_from++] = last[p->stream] - 1;
    for (uint32_t j = i; p->kind == ZG_STEP_WAIT && first + i != out && j-- > 0;)
      if (steps[first + j].kind == ZG_STEP_RECORD && steps[first + j].event == p->event && first + j != out) {
        from[n_from++] = j;
        break;
      }
    for (uint32_t f = 0; f < n_from; f++) {
      const uint64_t *other = o->before + (size_t)from[f] * o->words;
      for (uint32_t w = 0; w < o->words; w++) row[w] |= other[w];
      row[from[f] / 64] |= UINT64_C(1) << from[f] % 64;
    }
    last[p->stream] = i + 1;
  }
}

static uint32_t n_unordered(const order *o) {
  uint32_t n = 0;
  for (size_t c = 0; c < o->conflicts.n; c++) {
    const uint32_t a = o->conflicts.at[c].a - o->seg->first, b = o->conflicts.at[c].b - o->seg->first;
    n += !(o->before[(size_t)b * o->words + a / 64] >> a % 64 & 1);
  }
  return n;
}

// ---- mutants ------------------------------------------------------------------------------------------------------

static bool same(const state *a, const state *b) {
  return memcmp(&a->loss, &b->loss, sizeof a->loss) == 0 && memcmp(&a->norm, &b->norm, sizeof a->norm) == 0 && a->bytes.n == b->bytes.n &&
         memcmp(a->bytes.at, b->bytes.at, a->bytes.n) == 0;
}

// One update with a seed: NULL where it gives what `want` says.
static const char *difference(const state *want, uint64_t seed) {
  static char text[160];
  const char *found = NULL;
  reseed(seed);
  command_all(UPDATE);
  for (int r = 0; r < RANKS; r++) {
    if (ranks[r].status) snprintf(text, sizeof text, "%s", zg_status_message(ranks[r].status)), found = text;
    else if (!same(&ranks[r].end, &want[r])) found = "other results";
    zg_status_free(ranks[r].status);
    ranks[r].status = NULL;
  }
  return found;
}

static bool is_killed(const state *want, uint32_t step, uint64_t *seed) {
  zg_step kept[RANKS];
  bool killed = false;
  for (int r = 0; r < RANKS; r++) {
    zg_step *p = &zg_session_sched(ranks[r].s)->steps.at[step];
    kept[r] = *p;
    *p = (zg_step){.kind = ZG_N_STEP_KINDS, .stream = p->stream};   // does nothing
  }
  for (*seed = 1; *seed <= SEEDS && !killed; ++*seed) killed = difference(want, *seed * 7919 + step) != NULL;
  for (int r = 0; r < RANKS; r++) zg_session_sched(ranks[r].s)->steps.at[step] = kept[r];
  return killed;
}

typedef struct { uint32_t n, equivalent, killed, alive; uint64_t runs; } tally;

static void mutate_segment(const zg_segment *seg, const state *want, uint32_t every, tally *t) {
  order o = {.s = zg_session_sched(ranks[0].s), .seg = seg, .words = (seg->n + 63) / 64};
  static uint32_t turn;
  o.before = zg_alloc(sizeof(uint64_t) * o.words * (seg->n + 1));
  find_conflicts(&o);
  find_order(&o, UINT32_MAX);
  ck_assert_msg(n_unordered(&o) == 0, "segment %s: %u conflicting accesses without an order", seg->name, n_unordered(&o));
  for (uint32_t i = seg->first; i < seg->first + seg->n; i++) {
    const zg_step *p = &o.s->steps.at[i];
    uint64_t seed = 0;
    if ((p->kind != ZG_STEP_RECORD && p->kind != ZG_STEP_WAIT) || turn++ % every) continue;
    t->n++;
    find_order(&o, i);
    const uint32_t lost = n_unordered(&o);
    if (!lost) t->equivalent++;
    else if (is_killed(want, i, &seed)) t->killed++, t->runs += seed - 1;
    else t->alive++, printf("segment %s: step %u (%s %u on stream %u) can go: %u conflicts lose their order, no seed of %d shows it\n", seg->name, i,
                            p->kind == ZG_STEP_RECORD ? "record" : "wait", p->event, p->stream, lost, SEEDS);
  }
  zg_free(o.before);
  zg_vec_fini(&o.conflicts);
}

static const char *const *arguments;
static int n_arguments;

static void open_all(void) {
  zg_comm *comm[RANKS];
  sim_must(zg_comm_local_new(RANKS, comm), "communicator");
  const char *sets[16] = {"device=cuda", "optimizer={type: adamw, lr: 1.0e-3}"};
  for (int i = 4; i < n_arguments; i++) sets[i - 2] = arguments[i];
  const sim_options o = {.model = arguments[1], .n = RANKS, .stage = (uint32_t)atoi(arguments[2]), .k = 1, .sets = sets,
                         .n_sets = (size_t)n_arguments - 2};
  pthread_barrier_init(&go, NULL, RANKS + 1);
  pthread_barrier_init(&done, NULL, RANKS + 1);
  for (int r = 0; r < RANKS; r++) {
    ranks[r] = (rank_t){.comm = comm[r], .cfg = sim_config(&o)};
    ck_assert_int_eq(pthread_create(&ranks[r].thread, NULL, rank_main, &ranks[r]), 0);
  }
  command_all(OPEN);
  for (int r = 0; r < RANKS; r++) sim_must(ranks[r].status, "open");
}

static void close_all(void) {
  command_all(CLOSE);
  for (int r = 0; r < RANKS; r++) {
    pthread_join(ranks[r].thread, NULL);
    zg_comm_free(ranks[r].comm);
    zg_config_free(ranks[r].cfg);
    zg_vec_fini(&ranks[r].start.bytes);
    zg_vec_fini(&ranks[r].end.bytes);
  }
}

START_TEST(every_mark_counts) {
  state want[RANKS] = {{{0}}};
  tally t = {0};
  const double t0 = zg_time_s();
  open_all();
  reseed(1);
  command_all(UPDATE);
  for (int r = 0; r < RANKS; r++) {
    sim_must(ranks[r].status, "update");
    want[r] = ranks[r].end;
    ranks[r].end = (state){{0}};
  }
  ck_assert(isfinite(want[0].loss) && isfinite(want[0].norm));
  for (uint64_t seed = 2; seed < 6; seed++) {
    const char *bad = difference(want, seed);
    ck_assert_msg(!bad, "the whole schedule, seed %d: %s", (int)seed, bad);
  }
  const zg_sched *s = zg_session_sched(ranks[0].s);
  for (size_t g = 0; g < s->segments.n; g++) {
    const char *name = s->segments.at[g].name;
    if (!strncmp(name, "micro", 5) || !strcmp(name, "update")) mutate_segment(&s->segments.at[g], want, (uint32_t)atoi(arguments[3]), &t);
  }
  printf("%s, stage %s: %u records and waits taken out: %u equivalent, %u of %u others killed (%.0f %%), %.1f seeds each, %.1f s\n", arguments[1],
         arguments[2], t.n, t.equivalent, t.killed, t.killed + t.alive, t.killed ? 100.0 * t.killed / (t.killed + t.alive) : 0,
         t.killed ? (double)t.runs / t.killed : 0, zg_time_s() - t0);
  fflush(stdout);
  ck_assert_uint_gt(t.n, 0);
  ck_assert_uint_eq(t.alive, 0);
  for (int r = 0; r < RANKS; r++) zg_vec_fini(&want[r].bytes);
  close_all();
}
END_TEST

static bool find_emulator(void) {
  char path[512];
  const char *dir = getenv("ZG_CUDA_LIB_DIR");
  snprintf(path, sizeof path, "%s/libcuda.so.1", dir ? dir : "");
  void *lib = dir ? dlopen(path, RTLD_NOW) : NULL;
  void *f = lib ? dlsym(lib, "zg_emu_reseed") : NULL;
  memcpy(&reseed, &f, sizeof f);
  return f != NULL;
}

int main(int argc, char **argv) {
  if (argc < 4 || argc > 16 || atoi(argv[3]) < 1) return fprintf(stderr, "usage: mutation_test MODEL STAGE EVERY [KEY=VALUE...]\n"), 2;
  if (!find_emulator()) return fprintf(stderr, "skipped: the order of streams can be chosen in the emulator alone (ZG_CUDA_LIB_DIR)\n"), 77;
  arguments = (const char *const *)argv, n_arguments = argc;
  Suite *s = suite_create("mutation");
  TCase *t = tcase_create("streams");
  tcase_set_timeout(t, 600);
  tcase_add_test(t, every_mark_counts);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_set_fork_status(r, CK_NOFORK);
  srunner_run_all(r, CK_NORMAL);
  const int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
