// The loss scale of fp16, against the sequence that DeepSpeed's DynamicLossScaler gives (deepspeed/runtime/fp16/loss_scaler.py,
// update_scale), worked out by hand.
#include <check.h>
#include <stdlib.h>

#include "train/loss_scale.h"

static zg_config *config(const char *fp16) {
  const char *sets[] = {"mixed_precision=fp16", fp16};
  zg_config *c = NULL;
  zg_status status = zg_config_load(NULL, 0, sets, 2, &c);
  ck_assert_msg(!status, "%s", zg_status_message(status));
  return c;
}

// steps: '+' a good one, '!' an overflow; the scales after each.
static void follow(const zg_config *c, const char *steps, const double *scales) {
  zg_loss_scale s = zg_loss_scale_start(c);
  uint64_t skipped = 0;
  for (int i = 0; steps[i]; i++) {
    zg_status status = zg_loss_scale_step(c, steps[i] == '!', &s);
    ck_assert_msg(!status, "%s", zg_status_message(status));
    skipped += steps[i] == '!';
    ck_assert_msg(s.scale == scales[i], "step %d of %s: %g, want %g", i, steps, s.scale, scales[i]);
    ck_assert_uint_eq(s.skipped, skipped);
  }
}

START_TEST(defaults) {
  zg_config *c = config("fp16={}");
  zg_loss_scale s = zg_loss_scale_start(c);
  ck_assert(s.scale == 65536 && s.hysteresis == 2);
  for (int i = 1; i <= 2000; i++) {
    ck_assert_ptr_null(zg_loss_scale_step(c, false, &s));
    ck_assert(s.scale == (i < 1000 ? 65536 : i < 2000 ? 131072 : 262144));
  }
  zg_config_free(c);
}
END_TEST

START_TEST(grows_and_falls) {
  zg_config *c = config("fp16={initial_scale_power: 4, loss_scale_window: 2, hysteresis: 2}");
  //                       the first overflow is forgiven, the second not; the window counts from the last overflow
  follow(c, "++!+!+++!!", (double[]){16, 32, 32, 32, 16, 16, 32, 32, 32, 16});
  zg_config_free(c);
}
END_TEST

START_TEST(consecutive) {
  zg_config *c = config("fp16={initial_scale_power: 4, loss_scale_window: 100, hysteresis: 2, consecutive_hysteresis: true}");
  follow(c, "!+!+!!", (double[]){16, 16, 16, 16, 16, 8});
  zg_config_free(c);
}
END_TEST

START_TEST(ends_at_the_minimum) {
  zg_config *c = config("fp16={initial_scale_power: 3, hysteresis: 1, min_loss_scale: 3}");
  zg_loss_scale s = zg_loss_scale_start(c);
  ck_assert_ptr_null(zg_loss_scale_step(c, true, &s));
  ck_assert(s.scale == 4);
  ck_assert_ptr_null(zg_loss_scale_step(c, true, &s));
  ck_assert(s.scale == 3);
  zg_status status = zg_loss_scale_step(c, true, &s);
  ck_assert_ptr_nonnull(status);
  ck_assert_ptr_nonnull(strstr(zg_status_message(status), "min_loss_scale 3"));
  zg_status_free(status);
  zg_config_free(c);
}
END_TEST

START_TEST(fixed) {
  zg_config *c = config("fp16={loss_scale: 128}");
  follow(c, "+!!!+", (double[]){128, 128, 128, 128, 128});
  zg_config_free(c);
}
END_TEST

START_TEST(other_precisions_have_none) {
  zg_config *c = NULL;
  const char *set = "mixed_precision=bf16";
  ck_assert_ptr_null(zg_config_load(NULL, 0, &set, 1, &c));
  zg_loss_scale s = zg_loss_scale_start(c);
  ck_assert_ptr_null(zg_loss_scale_step(c, true, &s));
  ck_assert(s.scale == 1 && s.skipped == 0);
  zg_config_free(c);
}
END_TEST

int main(void) {
  Suite *s = suite_create("loss_scale");
  TCase *t = tcase_create("loss_scale");
  tcase_add_test(t, defaults);
  tcase_add_test(t, grows_and_falls);
  tcase_add_test(t, consecutive);
  tcase_add_test(t, ends_at_the_minimum);
  tcase_add_test(t, fixed);
  tcase_add_test(t, other_precisions_have_none);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  const int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? 1 : 0;
}
