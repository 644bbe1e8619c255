// Training through the communicator's in-process ranks, one thread each: the whole trainer, checkpoints included.
#include <pthread.h>
#include <unistd.h>

#include "graph/onnx/onnx.h"
#include "sim.h"
#include "train/trainer.h"

typedef struct {
  const zg_config *cfg;
  zg_train_options o;
  zg_train_result r;
  zg_status status;
} job;

static void *run_rank(void *arg) {
  job *j = arg;
  j->status = zg_train(j->cfg, &j->o, &j->r);
  return NULL;
}

static char folder[64];
static void in_folder(zg_str *s, const char *name) {
  zg_str_add(s, "training.output_dir=%s/%s", folder, name);
}

// Trains `steps` updates on n ranks into folder/name. Returns the last loss; *sent, if given: the bytes rank 0 sent.
static double train(const char *model, uint32_t n, uint32_t stage, int64_t k, int64_t steps, const char *name,
                    const char *resume, uint64_t *sent) {
  zg_str dir = {0}, count = {0};
  in_folder(&dir, name);
  zg_str_add(&count, "training.steps=%lld", (long long)steps);
  const char *sets[] = {dir.at, count.at, "optimizer={type: adamw, lr: 1.0e-3}", "training.save_every=2",
                        "training.keep=0"};
  const sim_options o = {
      .model = model, .n = n, .stage = stage, .k = k, .sets = sets, .n_sets = ZG_COUNT(sets)};
  zg_config *cfg = sim_config(&o);
  zg_comm *comm[SIM_MAX] = {NULL};
  job jobs[SIM_MAX];
  pthread_t thread[SIM_MAX];
  if (n > 1) sim_must(zg_comm_local_new(n, comm), "communicator");
  for (uint32_t r = 0; r < n; r++) {
    jobs[r] = (job){.cfg = cfg, .o = {.quiet = true, .resume = resume, .comm = comm[r]}};
    pthread_create(&thread[r], NULL, run_rank, &jobs[r]);
  }
  for (uint32_t r = 0; r < n; r++) pthread_join(thread[r], NULL);
  for (uint32_t r = 0; r < n; r++) {
    sim_must(jobs[r].status, "training");
    ck_assert_msg(jobs[r].r.loss == jobs[0].r.loss || n == 1, "ranks disagree on the loss");
    zg_comm_free(comm[r]);
  }
  if (sent) *sent = jobs[0].r.bytes_sent;
  zg_free(jobs[0].r.model_path);
  zg_str_fini(&dir);
  zg_str_fini(&count);
  zg_config_free(cfg);
  return jobs[0].r.loss;
}

// The trained tensors of folder/name/model.onnx are those of folder/other/model.onnx: the largest difference.
static double difference(const char *name, const char *other) {
  zg_onnx_model *m[2];
  const char *names[] = {name, other};
  double worst = 0;
  for (int i = 0; i < 2; i++) {
    zg_str path = {0};
    zg_str_add(&path, "%s/%s/model.onnx", folder, names[i]);
    sim_must(zg_onnx_load(path.at, &m[i]), path.at);
    zg_str_fini(&path);
  }
  ck_assert_uint_eq(zg_onnx_n_tensors(m[0]), zg_onnx_n_tensors(m[1]));
  for (uint32_t t = 0; t < zg_onnx_n_tensors(m[0]); t++) {
    const zg_onnx_tensor_info *x = zg_onnx_tensor_at(m[0], t);
    const void *a, *b;
    if (x->type.dtype != ZG_F32) continue;
    sim_must(zg_onnx_tensor_bytes(m[0], t, &a), "tensor");
    sim_must(zg_onnx_tensor_bytes(m[1], t, &b), "tensor");
    for (int64_t i = 0; i < zg_elems(&x->type); i++) {  // where the file has them, perhaps unaligned
      float u, v;
      memcpy(&u, (const char *)a + i * 4, 4);
      memcpy(&v, (const char *)b + i * 4, 4);
      worst = fmax(worst, fabs((double)u - (double)v));
    }
  }
  for (int i = 0; i < 2; i++) zg_onnx_free(m[i]);
  return worst;
}

static const char *const models[] = {"torch_mlp_digits", "torch_resnet_small", "hf_gpt2_raw"};

START_TEST(stages_agree) {
  static const char *const names[] = {"s0", "s1", "s2", "s3"};
  double loss[4];
  for (uint32_t stage = 0; stage < 4; stage++)
    loss[stage] = train(models[_i], 3, stage, 1, 3, names[stage], NULL, NULL);
  for (int stage = 1; stage < 4; stage++) {
    ck_assert_msg(loss[stage] == loss[0], "stage %d: %.9g, stage 0: %.9g", stage, loss[stage], loss[0]);
    ck_assert_msg(difference(names[stage], "s0") == 0, "stage %d gives another model than stage 0", stage);
  }
}
END_TEST

// Bytes sent by a run are those of the plan, updates times.
START_TEST(sent_as_planned) {
  for (uint32_t stage = 0; stage < 4; stage++) {
    uint64_t four, six;
    const char *sets[] = {"optimizer={type: adamw, lr: 1.0e-3}"};
    const sim_options o = {.model = "hf_gpt2_raw", .n = 4, .stage = stage, .k = 2, .sets = sets, .n_sets = 1};
    zg_config *cfg = sim_config(&o);
    zg_session *s;
    const zg_session_options so = {.mode = ZG_RUN_TRAIN, .world = 4, .no_device = true};
    sim_must(zg_session_open(cfg, &so, &s), "plan");
    const zg_zero_traffic t = zg_zero_traffic_of(s->zero, zg_session_sched(s));
    train("hf_gpt2_raw", 4, stage, 2, 4, "sent", NULL, &four);
    train("hf_gpt2_raw", 4, stage, 2, 6, "sent", NULL, &six);
    ck_assert_uint_eq(six - four, 2 * (t.all_reduce + t.reduce_scatter + t.gather + t.broadcast));
    zg_session_close(s);
    zg_config_free(cfg);
  }
}
END_TEST

enum { N_WAYS = 6 };
// Saved on one count of ranks in one stage, resumed on another: as if the new ones had trained on from that state, which is what
// each of them gives. 1 <-> 2 <-> 3 <-> 4.
START_TEST(resumes_on_other_ranks) {
  static const struct {
    uint32_t from, from_stage, to, to_stage;
  } ways[N_WAYS] = {{1, 0, 2, 2}, {2, 3, 4, 1}, {4, 2, 3, 3}, {3, 1, 1, 0}, {2, 2, 2, 3}, {3, 3, 3, 1}};
  zg_str at = {0};
  char first[16];
  snprintf(first, sizeof first, "first%d", _i);
  zg_str_add(&at, "%s/%s/step-00000002", folder, first);
  train("hf_gpt2_raw", ways[_i].from, ways[_i].from_stage, 1, 4, first, NULL, NULL);
  const double a = train("hf_gpt2_raw", ways[_i].to, ways[_i].to_stage, 1, 4, "a", at.at, NULL);
  const double b = train("hf_gpt2_raw", ways[_i].to, 0, 1, 4, "b", at.at, NULL);
  ck_assert_msg(a == b && difference("a", "b") == 0, "resumed in stage %u: %.9g, in stage 0: %.9g",
                ways[_i].to_stage, a, b);
  if (ways[_i].from == ways[_i].to)
    ck_assert_msg(difference("a", first) == 0, "the resumed run differs from the one that was not stopped");
  zg_str_fini(&at);
}
END_TEST

int main(void) {
  snprintf(folder, sizeof folder, "/tmp/zg_zero_train_%d", (int)getpid());
  Suite *s = suite_create("zero_train");
  TCase *t = tcase_create("train");
  tcase_set_timeout(t, 180);
  tcase_add_loop_test(t, stages_agree, 0, ZG_COUNT(models));
  tcase_add_test(t, sent_as_planned);
  tcase_add_loop_test(t, resumes_on_other_ranks, 0, N_WAYS);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  const int failed = srunner_ntests_failed(r);
  srunner_free(r);
  zg_str rm = {0};
  zg_str_add(&rm, "rm -rf %s", folder);
  if (system(rm.at)) fprintf(stderr, "could not remove %s\n", folder);
  zg_str_fini(&rm);
  return failed ? 1 : 0;
}
