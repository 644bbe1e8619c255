// A model of the zoo trains on two devices: three steps, the same last loss and the same model within
// rounding. usage: train_test cuda MODEL...; status 77: there is no such device
#include <unistd.h>

#include "../zero/sim.h"
#include "cuda/cuda.h"
#include "graph/onnx/onnx.h"
#include "train/trainer.h"

static char folder[64];

static void model_path(zg_str *s, const char *on) { zg_str_add(s, "%s/%s/model.onnx", folder, on); }

static double train(const char *model, const char *on) {
  zg_str dir = {0}, where = {0};
  zg_str_add(&dir, "training.output_dir=%s/%s", folder, on);
  zg_str_add(&where, "device=%s", on);
  const char *sets[] = {dir.at, where.at, "optimizer={type: adamw, lr: 1.0e-3}", "training.steps=3"};
  const sim_options o = {.model = model, .n = 1, .k = 1, .sets = sets, .n_sets = ZG_COUNT(sets)};
  zg_config *cfg = sim_config(&o);
  const zg_train_options options = {.quiet = true};
  zg_train_result r = {0};
  sim_must(zg_train(cfg, &options, &r), on);
  zg_free(r.model_path);
  zg_config_free(cfg);
  zg_str_fini(&dir);
  zg_str_fini(&where);
  return r.loss;
}

// |a - b| / |a| over all trained float tensors of the two models.
static double distance(const char *on) {
  const char *names[] = {"cpu", on};
  zg_onnx_model *m[2];
  double apart = 0, size = 0;
  for (int i = 0; i < 2; i++) {
    zg_str path = {0};
    model_path(&path, names[i]);
    sim_must(zg_onnx_load(path.at, &m[i]), path.at);
    zg_str_fini(&path);
  }
  for (uint32_t t = 0; t < zg_onnx_n_tensors(m[0]); t++) {
    const zg_onnx_tensor_info *x = zg_onnx_tensor_at(m[0], t);
    const void *a, *b;
    if (x->type.dtype != ZG_F32) continue;
    sim_must(zg_onnx_tensor_bytes(m[0], t, &a), "tensor");
    sim_must(zg_onnx_tensor_bytes(m[1], t, &b), "tensor");
    for (int64_t i = 0; i < zg_elems(&x->type); i++) {
      float u, v;  // in the file, perhaps unaligned
      memcpy(&u, (const char *)a + i * 4, 4);
      memcpy(&v, (const char *)b + i * 4, 4);
      if (fabsf(u) > 1e30f) continue;  // a mask's -inf
      apart += ((double)u - v) * ((double)u - v);
      size += (double)u * u;
    }
  }
  for (int i = 0; i < 2; i++) zg_onnx_free(m[i]);
  return sqrt(apart / fmax(size, 1e-300));
}

static const char *device, *const *models;

START_TEST(trains_alike) {
  const char *model = models[_i];
  double want = train(model, "cpu"), got = train(model, device), apart = distance(device);
  printf("%s: loss after 3 steps: cpu %.9g, %s %.9g; models differ by %.2g\n", model, want, device, got,
         apart);
  fflush(stdout);
  ck_assert_double_le(fabs(got - want), 1e-5 * fmax(1, fabs(want)));
  ck_assert_double_le(apart, 1e-4);
}
END_TEST

static bool has_device(void) {
  zg_device *d = NULL;
  zg_status none = zg_device_cuda.open(0, &d);
  if (!none) zg_device_cuda.close(d);
  else fprintf(stderr, "skipped: %s\n", zg_status_message(none));
  zg_status_free(none);
  return d != NULL;
}

int main(int argc, char **argv) {
  if (argc < 3 || strcmp(argv[1], "cuda")) return fprintf(stderr, "usage: train_test cuda MODEL...\n"), 2;
  if (!has_device()) return 77;
  device = argv[1], models = (const char *const *)argv + 2;
  snprintf(folder, sizeof folder, "/tmp/zgraph_conform_%d", (int)getpid());
  Suite *s = suite_create("conform_train");
  TCase *t = tcase_create("zoo");
  tcase_set_timeout(t, 240);
  tcase_add_loop_test(t, trains_alike, 0, argc - 2);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  zg_str command = {0};
  zg_str_add(&command, "rm -rf '%s'", folder);
  if (system(command.at)) failed++;
  zg_str_fini(&command);
  return failed != 0;
}
