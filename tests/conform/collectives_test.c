// Two ranks on threads, the CUDA device in the emulator: two gathers that start as a group on the communication stream, and a sum on the
// compute stream that no event orders, and one more gather. NCCL wants the same order on all ranks; the device must keep the schedule's.
// What is written before a segment and read behind it is on the compute stream: the others join it at both ends.
#include <check.h>
#include <pthread.h>

#include "cuda/cuda.h"
#include "exec/exec.h"

enum { RANKS = 2, N = 64, ROUNDS = 40 };

static uint32_t add_buf(zg_sched *s, const char *name, int64_t n) {
  const zg_buf b = {.name = name, .bytes = (uint64_t)n * 4, .dtype = ZG_F32, .type = zg_type_make(ZG_F32, 1, &n), .role = ZG_BUF_COMM,
                    .persistent = true, .offset = s->arena_bytes[ZG_SPACE_DEVICE]};
  s->arena_bytes[ZG_SPACE_DEVICE] += zg_round_up(b.bytes, ZG_BUF_ALIGN);
  return zg_sched_add_buf(s, &b);
}

static void add_step(zg_sched *s, zg_step_kind kind, zg_stream stream, uint32_t a, uint32_t b) {
  zg_vec_push(&s->steps, (zg_step){.kind = kind, .stream = (uint8_t)stream, .a = a, .b = b});
}

typedef struct { zg_comm *comm; zg_status status; } rank_run;
enum { FULL1 = 1, SHARD1, FULL2, SHARD2, SUM, FULL3 };

static zg_sched *make(uint32_t rank) {
  zg_sched *s = zg_sched_new();
  s->rank = rank, s->world = RANKS;
  add_buf(s, "full1", N), add_buf(s, "shard1", N / RANKS), add_buf(s, "full2", N), add_buf(s, "shard2", N / RANKS), add_buf(s, "sum", N);
  add_buf(s, "full3", N);
  add_step(s, ZG_STEP_GATHER, ZG_STREAM_COMM, FULL1, SHARD1);
  add_step(s, ZG_STEP_GATHER, ZG_STREAM_COMM, FULL2, SHARD2);
  add_step(s, ZG_STEP_ALL_REDUCE, ZG_STREAM_COMPUTE, SUM, 0);
  add_step(s, ZG_STEP_GATHER, ZG_STREAM_COMM, FULL3, SHARD1);
  zg_vec_push(&s->segments, (zg_segment){"step", 0, (uint32_t)s->steps.n});
  return s;
}

static zg_status round_of(zg_program *p, uint32_t rank, int round) {
  const zg_device_vtable *vt = p->device->vt;
  float x[N], want;
  for (int i = 0; i < N; i++) x[i] = (float)(round + (int)rank);
  ZG_TRY(vt->write(p, SHARD1, 0, x, sizeof x / RANKS));
  ZG_TRY(vt->write(p, SHARD2, 0, x, sizeof x / RANKS));
  ZG_TRY(vt->write(p, SUM, 0, x, sizeof x));
  ZG_TRY(zg_exec_run(p, "step", (zg_rand_state){0}, NULL));
  for (uint32_t b = FULL1; b <= FULL3; b++) {
    if (b == SHARD1 || b == SHARD2) continue;
    ZG_TRY(vt->read(p, b, 0, x, sizeof x));
    for (int i = 0; i < N; i++) {
      want = b == SUM ? (float)(2 * round + 1) : (float)(round + i / (N / RANKS));
      if (x[i] != want) return zg_error(ZG_INTERNAL, "round %d: buffer %u[%d] is %g, want %g", round, b, i, (double)x[i], (double)want);
    }
  }
  return NULL;
}

static void *rank_main(void *arg) {
  rank_run *r = arg;
  zg_sched *s = make(r->comm->rank);
  zg_device *d = NULL;
  zg_program *p = NULL;
  zg_status status = NULL;
  ZG_TRY_OUT(zg_device_cuda.open(1, &d));
  ZG_TRY_OUT(d->vt->prepare(d, s, &p));
  ZG_TRY_OUT(zg_exec_attach(p, r->comm));
  for (int round = 0; round < ROUNDS; round++) ZG_TRY_OUT(round_of(p, r->comm->rank, round));
out:
  if (status) zg_comm_abort(r->comm, zg_status_message(status));
  zg_exec_detach(p);
  if (p) d->vt->program_free(p);
  if (d) d->vt->close(d);
  zg_sched_free(s);
  r->status = status;
  return NULL;
}

START_TEST(groups_keep_their_place) {
  zg_comm *comm[RANKS];
  rank_run run[RANKS];
  pthread_t thread[RANKS];
  ck_assert_ptr_null(zg_comm_local_new(RANKS, comm));
  for (int r = 0; r < RANKS; r++) {
    run[r] = (rank_run){.comm = comm[r]};
    ck_assert_int_eq(pthread_create(&thread[r], NULL, rank_main, &run[r]), 0);
  }
  for (int r = 0; r < RANKS; r++) pthread_join(thread[r], NULL);
  for (int r = 0; r < RANKS; r++) {
    ck_assert_msg(!run[r].status, "rank %d: %s", r, zg_status_message(run[r].status));
    zg_comm_free(comm[r]);
  }
}
END_TEST

int main(void) {
  Suite *s = suite_create("collectives");
  TCase *t = tcase_create("order");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, groups_keep_their_place);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_set_fork_status(r, CK_NOFORK);
  srunner_run_all(r, CK_NORMAL);
  const int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
