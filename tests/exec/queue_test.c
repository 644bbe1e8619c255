// The step loop on a device that queues work, with a device that only writes down what it is given: ( begin, ) end, [ ] group, g gather,
// c copy, r record, w wait.
#include <check.h>
#include "exec/exec.h"

typedef struct {
  zg_program base;
  zg_str log;
  int fails;      // the gather that fails, counted from 1; 0: none
  int agains;     // times that end asks for once more
  bool replays;
} fake;

static fake *log_of(zg_program *p, const char *what) {
  zg_str_add(&((fake *)p)->log, "%s", what);
  return (fake *)p;
}
static zg_status begin(zg_program *p, const zg_segment *seg, zg_comm *comm, zg_rand_state r, bool *replayed) {
  (void)seg, (void)comm, (void)r;
  *replayed = log_of(p, "(")->replays;
  return NULL;
}
static zg_status end(zg_program *p, zg_status so_far, bool *again) {
  *again = log_of(p, ")")->agains-- > 0;
  return so_far;
}
static zg_status group(zg_program *p, bool on) { return log_of(p, on ? "[" : "]"), NULL; }
static zg_status mark(zg_program *p, const zg_step *s) { return log_of(p, s->kind == ZG_STEP_RECORD ? "r" : "w"), NULL; }
static zg_status copy(zg_program *p, const zg_step *s, uint64_t to_at, uint64_t from_at, uint64_t n) {
  (void)s, (void)to_at, (void)from_at, (void)n;
  return log_of(p, "c"), NULL;
}
static zg_status collective(zg_program *p, const zg_step *s, zg_comm *comm, const zg_comm_op *op) {
  (void)s, (void)comm, (void)op;
  fake *f = log_of(p, "g");
  return f->fails && --f->fails == 0 ? zg_error(ZG_IO, "told to") : NULL;
}
static void *device_ptr(const zg_program *p, uint32_t buf) { return (void *)(uintptr_t)(p && buf ? 64 : 0); }

static const zg_device_vtable vt = {.name = "fake", .begin = begin, .end = end, .group = group, .mark = mark, .copy = copy,
                                    .collective = collective, .device_ptr = device_ptr};

static uint32_t add_buf(zg_sched *s, const char *name) {
  const int64_t n = 8;
  return zg_sched_add_buf(s, &(zg_buf){.name = name, .bytes = 32, .dtype = ZG_F32, .type = zg_type_make(ZG_F32, 1, &n), .persistent = true});
}
static void step(zg_sched *s, zg_step_kind kind, zg_stream stream, uint32_t group_id, uint32_t event) {
  zg_vec_push(&s->steps, (zg_step){.kind = kind, .stream = (uint8_t)stream, .a = 1, .b = 2, .event = event, .group = group_id});
}

// Two gathers with a record between them belong together. The others do not: behind a wait, of another group of ranks, on another
// stream, behind a copy.
static zg_sched *make(void) {
  zg_sched *s = zg_sched_new();
  add_buf(s, "full"), add_buf(s, "shard");
  s->world = 1;
  step(s, ZG_STEP_GATHER, ZG_STREAM_COMM, 0, 0);
  step(s, ZG_STEP_RECORD, ZG_STREAM_COMM, 0, 1);
  step(s, ZG_STEP_GATHER, ZG_STREAM_COMM, 0, 0);
  step(s, ZG_STEP_RECORD, ZG_STREAM_COMM, 0, 2);
  step(s, ZG_STEP_WAIT, ZG_STREAM_COMM, 0, 1);
  step(s, ZG_STEP_GATHER, ZG_STREAM_COMM, 0, 0);
  step(s, ZG_STEP_GATHER, ZG_STREAM_COMM, ZG_GROUP(1, 1), 0);
  step(s, ZG_STEP_GATHER, ZG_STREAM_COMPUTE, ZG_GROUP(1, 1), 0);
  step(s, ZG_STEP_COPY, ZG_STREAM_COMPUTE, 0, 0);
  step(s, ZG_STEP_GATHER, ZG_STREAM_COMPUTE, ZG_GROUP(1, 1), 0);
  zg_vec_push(&s->segments, (zg_segment){"step", 0, (uint32_t)s->steps.n});
  return s;
}
#define ALL "([gg]rrwgggcg)"

// Runs it, attached or not; *log is to be freed. Twice after a failure: the second status is `later`.
static zg_status run(fake f, bool attached, zg_str *log, uint64_t *steps, zg_status *later) {
  zg_sched *s = make();
  zg_device d = {&vt};
  zg_exec_stats stats = {0};
  f.base.device = &d, f.base.sched = s;
  if (attached) ck_assert_ptr_null(zg_exec_attach(&f.base, NULL));
  zg_status status = zg_exec_run(&f.base, "step", (zg_rand_state){0}, &stats);
  if (later) *later = zg_exec_run(&f.base, "step", (zg_rand_state){0}, NULL);
  zg_exec_detach(&f.base);
  zg_sched_free(s);
  *log = f.log;
  if (steps) *steps = stats.steps_run;
  return status;
}

START_TEST(in_order) {
  for (int attached = 0; attached < 2; attached++) {
    zg_str log = {0};
    uint64_t steps = 0;
    ck_assert_ptr_null(run((fake){0}, attached, &log, &steps, NULL));
    ck_assert_str_eq(log.at, ALL);
    ck_assert_uint_eq(steps, 10);
    zg_str_fini(&log);
  }
}
END_TEST

START_TEST(once_more) {
  zg_str log = {0};
  uint64_t steps = 0;
  ck_assert_ptr_null(run((fake){.agains = 1}, true, &log, &steps, NULL));
  ck_assert_str_eq(log.at, ALL ALL);
  ck_assert_uint_eq(steps, 10);   // what was not run is not counted
  zg_str_fini(&log);
}
END_TEST

START_TEST(replayed) {
  zg_str log = {0};
  uint64_t steps = 0;
  ck_assert_ptr_null(run((fake){.replays = true}, true, &log, &steps, NULL));
  ck_assert_str_eq(log.at, "(");
  ck_assert_uint_eq(steps, 10);
  zg_str_fini(&log);
}
END_TEST

// A group that is open is closed, the device hears of the end, and nothing runs afterwards.
START_TEST(a_failure_ends_it) {
  zg_str log = {0};
  zg_status later = NULL;
  zg_status status = run((fake){.fails = 1}, true, &log, NULL, &later);
  ck_assert(status && strstr(zg_status_message(status), "told to"));
  ck_assert(later && strstr(zg_status_message(later), "an earlier one failed"));
  ck_assert_str_eq(log.at, "([g])");
  zg_status_free(status);
  zg_status_free(later);
  zg_str_fini(&log);
}
END_TEST

int main(void) {
  Suite *s = suite_create("queue");
  TCase *t = tcase_create("queue");
  tcase_add_test(t, in_order);
  tcase_add_test(t, once_more);
  tcase_add_test(t, replayed);
  tcase_add_test(t, a_failure_ends_it);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  const int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
