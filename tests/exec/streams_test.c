// The step loop with streams: collectives beside copies, ordered by record and wait, on ranks as threads; and its refusals.
#include <check.h>
#include <pthread.h>
#include <stdlib.h>
#include "exec/exec.h"

enum { N = 1 << 16, MAX_RANKS = 8 };   // elements of the full buffers

typedef struct { zg_sched *s; uint32_t full, shard, sum, copy; } plan;

static uint32_t add_buf(zg_sched *s, const char *name, int64_t n) {
  const uint64_t bytes = (uint64_t)n * 4;
  const zg_buf b = {.name = name, .bytes = bytes, .dtype = ZG_F32, .type = zg_type_make(ZG_F32, 1, &n), .role = ZG_BUF_COMM,
                    .persistent = true, .offset = s->arena_bytes[ZG_SPACE_DEVICE]};
  s->arena_bytes[ZG_SPACE_DEVICE] += zg_round_up(bytes, ZG_BUF_ALIGN);
  return zg_sched_add_buf(s, &b);
}

static void step(zg_sched *s, zg_step_kind kind, zg_stream stream, uint32_t a, uint32_t b, uint32_t event) {
  zg_vec_push(&s->steps, (zg_step){.kind = kind, .stream = (uint8_t)stream, .a = a, .b = b, .event = event});
}

// full -> shard (sum of all ranks) -> full again -> copy; sum all-reduced on the compute stream beside it.
static plan make_plan(uint32_t rank, uint32_t world) {
  zg_sched *s = zg_sched_new();
  plan p = {.s = s};
  s->rank = rank;
  s->world = world;
  p.full = add_buf(s, "full", N);
  p.shard = add_buf(s, "shard", (N + world - 1) / world);
  p.sum = add_buf(s, "sum", 5);
  p.copy = add_buf(s, "copy", N);
  step(s, ZG_STEP_RECORD, ZG_STREAM_COMPUTE, 0, 0, 1);
  step(s, ZG_STEP_WAIT, ZG_STREAM_COMM, 0, 0, 1);
  step(s, ZG_STEP_REDUCE_SCATTER, ZG_STREAM_COMM, p.shard, p.full, 0);
  step(s, ZG_STEP_ALL_REDUCE, ZG_STREAM_COMPUTE, p.sum, 0, 0);
  step(s, ZG_STEP_GATHER, ZG_STREAM_COMM, p.full, p.shard, 0);
  step(s, ZG_STEP_RECORD, ZG_STREAM_COMM, 0, 0, 2);
  step(s, ZG_STEP_WAIT, ZG_STREAM_COPY, 0, 0, 2);
  step(s, ZG_STEP_COPY, ZG_STREAM_COPY, p.copy, p.full, 0);
  step(s, ZG_STEP_RECORD, ZG_STREAM_COPY, 0, 0, 2);                     // an event is used again
  step(s, ZG_STEP_WAIT, ZG_STREAM_COMPUTE, 0, 0, 2);
  step(s, ZG_STEP_COPY, ZG_STREAM_COMPUTE, p.full, p.copy, 0);
  zg_vec_push(&s->segments, (zg_segment){"step", 0, (uint32_t)s->steps.n});
  return p;
}

typedef struct { zg_comm *c; zg_status status; int failing_rank; uint64_t bytes; } rank_run;

static zg_status one_rank(rank_run *r) {
  const uint32_t world = r->c ? r->c->world : 1, rank = r->c ? r->c->rank : 0;
  plan p = make_plan(rank, world);
  zg_device *d = NULL;
  zg_program *prog = NULL;
  zg_status status = NULL;
  float *x = zg_alloc(N * sizeof *x);
  ZG_TRY_OUT(zg_sched_verify(p.s));
  ZG_TRY_OUT(zg_device_cpu.open(1, &d));
  ZG_TRY_OUT(d->vt->prepare(d, p.s, &prog));
  ZG_TRY_OUT(zg_exec_attach(prog, r->c));
  for (int round = 0; round < 20; round++) {
    for (int i = 0; i < N; i++) x[i] = (float)(i % 100 + (int)rank + round);
    ZG_TRY_OUT(d->vt->write(prog, p.full, 0, x, N * sizeof *x));
    ZG_TRY_OUT(d->vt->write(prog, p.sum, 0, x, 5 * sizeof *x));
    if (round == 10 && (int)rank == r->failing_rank) {
      zg_comm_abort(r->c, "told to");
      goto out;
    }
    zg_exec_stats stats = {.profile = true};
    ZG_TRY_OUT(zg_exec_run(prog, "step", (zg_rand_state){{0, 0}, 0}, &stats));
    if (stats.steps_run != p.s->steps.n) status = zg_error(ZG_INTERNAL, "%d steps ran", (int)stats.steps_run);
    ZG_TRY_OUT(d->vt->read(prog, p.full, 0, x, N * sizeof *x));
    for (int i = 0; i < N && !status; i++) {
      const int want = (int)world * (i % 100 + round) + (int)(world * (world - 1) / 2);
      if (x[i] != (float)want) status = zg_error(ZG_INTERNAL, "round %d: full[%d] is %g, want %d", round, i, (double)x[i], want);
    }
    ZG_TRY_OUT(status);
    ZG_TRY_OUT(d->vt->read(prog, p.sum, 0, x, 5 * sizeof *x));
    if (x[4] != (float)((int)world * (4 + round) + (int)(world * (world - 1) / 2))) status = zg_error(ZG_INTERNAL, "sum[4] is %g", (double)x[4]);
  }
  if (r->c) r->bytes = zg_comm_bytes_sent(r->c);
out:
  zg_exec_detach(prog);
  if (prog) d->vt->program_free(prog);
  if (d) d->vt->close(d);
  zg_sched_free(p.s);
  zg_free(x);
  return status;
}

static void *rank_main(void *arg) {
  rank_run *r = arg;
  r->status = one_rank(r);
  return NULL;
}

static void on_ranks(uint32_t n, int failing_rank, rank_run *run) {
  zg_comm *c[MAX_RANKS];
  pthread_t thread[MAX_RANKS];
  ck_assert_ptr_null(zg_comm_local_new(n, c));
  for (uint32_t r = 0; r < n; r++) {
    run[r] = (rank_run){.c = c[r], .failing_rank = failing_rank};
    ck_assert_int_eq(pthread_create(&thread[r], NULL, rank_main, &run[r]), 0);
  }
  for (uint32_t r = 0; r < n; r++) pthread_join(thread[r], NULL);
  for (uint32_t r = 0; r < n; r++) zg_comm_free(c[r]);
}

START_TEST(collectives_run_beside) {
  static const uint32_t counts[] = {1, 2, 3, 8};
  for (size_t k = 0; k < ZG_COUNT(counts); k++) {
    const uint32_t n = counts[k];
    rank_run run[MAX_RANKS];
    on_ranks(n, -1, run);
    const uint64_t shard = (N + n - 1) / n;
    for (uint32_t r = 0; r < n; r++) {
      ck_assert_msg(!run[r].status, "rank %u of %u: %s", r, n, zg_status_message(run[r].status));
      ck_assert_uint_eq(run[r].bytes, 20 * 4 * (uint64_t)(n - 1) * (2 * shard + 2 * ((5 + n - 1) / n)));
    }
  }
}
END_TEST

START_TEST(alone_without_communicator) {
  rank_run r = {.failing_rank = -1};
  rank_main(&r);
  ck_assert_msg(!r.status, "%s", zg_status_message(r.status));
}
END_TEST

START_TEST(a_failing_rank_stops_all) {
  rank_run run[3];
  on_ranks(3, 1, run);
  for (int r = 0; r < 3; r += 2) {
    ck_assert_ptr_nonnull(run[r].status);
    ck_assert_ptr_nonnull(strstr(zg_status_message(run[r].status), "rank 1 failed: told to"));
    ck_assert_ptr_nonnull(strstr(zg_status_message(run[r].status), " of \""));
    zg_status_free(run[r].status);
  }
}
END_TEST

static char *attach_fails(void (*spoil)(plan *p)) {
  plan p = make_plan(0, 1);
  zg_device *d;
  zg_program *prog;
  spoil(&p);
  ck_assert_ptr_null(zg_device_cpu.open(1, &d));
  ck_assert_ptr_null(d->vt->prepare(d, p.s, &prog));
  zg_status s = zg_exec_attach(prog, NULL);
  ck_assert_ptr_nonnull(s);
  ck_assert_ptr_null(prog->streams);
  char *text = strdup(zg_status_message(s));
  zg_status_free(s);
  d->vt->program_free(prog);
  d->vt->close(d);
  zg_sched_free(p.s);
  return text;
}

static void no_record(plan *p) { p->s->steps.at[0].event = 7; }
static void wrong_stream(plan *p) { p->s->steps.at[2].stream = ZG_STREAM_COPY; }
static void wrong_world(plan *p) { p->s->world = 2; }

START_TEST(refusals) {
  static const struct { void (*spoil)(plan *); const char *want; } cases[] = {
      {no_record, "waits for event 1"}, {wrong_stream, "collective on the copy stream"}, {wrong_world, "rank 0 of 2"}};
  for (size_t i = 0; i < ZG_COUNT(cases); i++) {
    char *text = attach_fails(cases[i].spoil);
    ck_assert_msg(strstr(text, cases[i].want) != NULL, "\"%s\" lacks \"%s\"", text, cases[i].want);
    free(text);
  }
}
END_TEST

START_TEST(sequence_hash) {
  plan a = make_plan(0, 4), b = make_plan(3, 4);
  ck_assert_uint_eq(zg_comm_sequence_hash(a.s), zg_comm_sequence_hash(b.s));
  b.s->steps.at[2].group = ZG_GROUP(2, 1);
  ck_assert_uint_ne(zg_comm_sequence_hash(a.s), zg_comm_sequence_hash(b.s));
  zg_sched_free(a.s);
  zg_sched_free(b.s);
}
END_TEST

int main(void) {
  Suite *s = suite_create("streams");
  TCase *t = tcase_create("streams");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, collectives_run_beside);
  tcase_add_test(t, alone_without_communicator);
  tcase_add_test(t, a_failing_rank_stops_all);
  tcase_add_test(t, refusals);
  tcase_add_test(t, sequence_hash);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
