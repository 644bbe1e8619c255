// Stages 0 to 3 give the same bits: losses and final parameters, for ranks that divide the tensors and ranks that do not.
#include "sim.h"

enum { STEPS = 3 };
typedef struct { double loss[STEPS], norm[STEPS]; float *params; int64_t n; } result;

static result train(const sim_options *o, bool poison, bool late) {
  result r = {0};
  sim s;
  sim_open(&s, o);
  s.poison = poison;
  s.late = late;
  for (int i = 0; i < STEPS; i++) r.loss[i] = sim_update(&s), r.norm[i] = s.grad_norm;
  r.params = sim_params(&s, &r.n);
  sim_close(&s);
  return r;
}

static void same_bits(const result *a, const result *b, const char *what) {
  for (int i = 0; i < STEPS; i++) {
    ck_assert_msg(a->loss[i] == b->loss[i], "%s: loss %d: %.9g and %.9g", what, i, a->loss[i], b->loss[i]);
    ck_assert_msg(a->norm[i] == b->norm[i], "%s: norm %d: %.9g and %.9g", what, i, a->norm[i], b->norm[i]);
  }
  ck_assert_int_eq(a->n, b->n);
  for (int64_t i = 0; i < a->n; i++)
    ck_assert_msg(!memcmp(&a->params[i], &b->params[i], 4), "%s: parameter element %lld: %.9g and %.9g", what, (long long)i, (double)a->params[i], (double)b->params[i]);
}

static void near(const result *a, const result *b, double tolerance, const char *what) {
  for (int i = 0; i < STEPS; i++)
    ck_assert_msg(fabs(a->loss[i] - b->loss[i]) <= tolerance * fabs(a->loss[i]), "%s: loss %d: %.9g and %.9g", what, i, a->loss[i], b->loss[i]);
}

static void stages_agree(const char *model, uint32_t n, int64_t k) {
  char what[128];
  sim_options o = {.model = model, .n = 1, .k = k * n};
  result alone = train(&o, false, false), at[4];
  o.n = n;
  o.k = k;
  for (uint32_t stage = 0; stage < 4; stage++) {
    o.stage = stage;
    at[stage] = train(&o, true, true);
    snprintf(what, sizeof what, "%s, %u ranks, k = %lld, stage %u", model, n, (long long)k, stage);
    // Batch statistics are each rank's own in any case, so nothing else differs from one rank than the order of sums.
    near(&alone, &at[stage], 1e-6, what);
    const uint32_t like = k == 1 ? 0 : stage < 2 ? 0 : 2;
    if (stage) same_bits(&at[like], &at[stage], what);
  }
  for (int i = 0; i < 4; i++) zg_free(at[i].params);
  zg_free(alone.params);
}

static const char *model;
static const uint32_t ranks[] = {2, 7, 3, 4, 8};

START_TEST(one_micro_step) { stages_agree(model, ranks[_i], 1); }
END_TEST

START_TEST(three_micro_steps) { stages_agree(model, ranks[_i], 3); }
END_TEST

int main(int argc, char **argv) {
  model = argc > 1 ? argv[1] : "torch_mlp_digits";
  Suite *s = suite_create("zero_stages");
  TCase *t = tcase_create(model);
  tcase_set_timeout(t, 120);
  const int n = argc > 2 ? atoi(argv[2]) : (int)ZG_COUNT(ranks);   // a slow model: the first few counts of ranks alone
  tcase_add_loop_test(t, one_micro_step, 0, n);
  tcase_add_loop_test(t, three_micro_steps, 0, n);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  const int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? 1 : 0;
}
