// How far may several ranks be from one? Both sum the same gradients, in another order, and what a model makes of the last bits of a sum
// is its own affair. torch_resnet_small at lr 0.05, 8 ranks, k = 3, was once 4.2e-6 off one rank with k = 24 in the third loss, more than
// stages_test's 1e-6. What was found: at that state of the code one rank alone, taking the 24 micro-steps of an update in other orders
// (the same sum on paper), was 4.2e-6 off itself in the same step, 5e-8 in the step before: an element next to a kink (ReLU, max pool)
// falls on one side or the other. The distance went away with a change of the last bits of exp and its like on the CPU, and nothing
// else. So it was rounding. stages_test takes lr 0.01, further from such an edge; here the ranks are held against the orders.
#include "sim.h"

enum { STEPS = 3, RANKS = 8, K = 3, ORDERS = 4 };

// Micro-step m of an update in one of several orders.
static uint64_t reordered(int order, uint64_t m) {
  const uint64_t n = RANKS * K;
  switch (order) {
    case 0: return m;
    case 1: return n - 1 - m;
    case 2: return m % 2 ? m / 2 : n / 2 + m / 2;
    default: return m * 7 % n;   // 7 and 24 have no common factor
  }
}

static void losses(uint32_t ranks, int order, const char *lr, double *loss, double *norm) {
  const char *sets[] = {lr};
  const sim_options o = {.model = "torch_resnet_small", .n = ranks, .k = RANKS * K / ranks, .stage = 3, .sets = sets, .n_sets = 1};
  sim s;
  sim_open(&s, &o);
  if (ranks == 1) s.order = order, s.reordered = reordered;
  for (int i = 0; i < STEPS; i++) loss[i] = sim_update(&s), norm[i] = s.grad_norm;
  sim_close(&s);
}

static double off(const double *a, const double *b, int i) { return fabs(a[i] - b[i]) / fabs(a[i]); }

START_TEST(ranks_are_as_far_as_orders) {
  double one[ORDERS][STEPS], norm[ORDERS][STEPS], many[STEPS], many_norm[STEPS];
  for (int k = 0; k < ORDERS; k++) losses(1, k, "optimizer.lr=0.05", one[k], norm[k]);
  losses(RANKS, 0, "optimizer.lr=0.05", many, many_norm);
  for (int i = 0; i < STEPS; i++) {
    double orders = 0, ranks = 0;
    for (int a = 0; a < ORDERS; a++) {
      ranks = fmax(ranks, off(one[a], many, i));
      for (int b = 0; b < a; b++) orders = fmax(orders, off(one[a], one[b], i));
    }
    printf("step %d: loss %.6f, orders differ by %.1e, ranks by %.1e\n", i, one[0][i], orders, ranks);
    ck_assert_msg(ranks <= 5 * fmax(orders, 1e-6), "step %d: ranks are %.2e off, orders of one rank only %.2e", i, ranks, orders);
  }
  // Before any update there is nothing to amplify.
  ck_assert(off(one[0], many, 0) < 2e-7 && off(norm[0], many_norm, 0) < 1e-6);
}
END_TEST

int main(void) {
  Suite *s = suite_create("zero_order");
  TCase *t = tcase_create("order");
  tcase_set_timeout(t, 120);
  tcase_add_test(t, ranks_are_as_far_as_orders);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  const int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? 1 : 0;
}
