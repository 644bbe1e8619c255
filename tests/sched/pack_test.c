// Packing: never an overlap, near the bound, in near-linear time.
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "sched/pack.h"

static uint64_t state = 1;
static uint32_t draw(uint32_t n) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(state >> 33) % n;
}

static int by_first(const void *a, const void *b) {
  const zg_pack_item *x = a, *y = b;
  return (x->first > y->first) - (x->first < y->first);
}

// Sweeps over time with the items alive; fails on the first two that overlap.
static void check_disjoint(zg_pack_item *x, uint32_t n, uint64_t height) {
  qsort(x, n, sizeof *x, by_first);
  uint32_t *alive = malloc(sizeof *alive * (n + 1)), n_alive = 0;
  for (uint32_t i = 0; i < n; i++) {
    ck_assert_uint_le(x[i].offset + x[i].bytes, height);
    uint32_t kept = 0;
    for (uint32_t k = 0; k < n_alive; k++) {
      const zg_pack_item *y = &x[alive[k]];
      if (y->last < x[i].first) continue;
      alive[kept++] = alive[k];
      bool apart = y->offset + y->bytes <= x[i].offset || x[i].offset + x[i].bytes <= y->offset;
      if (!apart) ck_abort_msg("items overlap");   // not ck_assert: it writes to a pipe each time
    }
    n_alive = kept;
    alive[n_alive++] = i;
  }
  free(alive);
}

static double excess(zg_pack_item *x, uint32_t n) {
  uint64_t bound = zg_pack_bound(x, n), height = zg_pack(x, n);
  ck_assert_uint_ge(height, bound);
  check_disjoint(x, n, height);
  return (double)height / (double)bound - 1;
}

START_TEST(few) {
  ck_assert_uint_eq(zg_pack(NULL, 0), 0);
  zg_pack_item one = {.bytes = 64, .first = 3, .last = 3};
  ck_assert_uint_eq(zg_pack(&one, 1), 64);
  // By bytes alone the third would sit on the second: the order has to be found.
  zg_pack_item three[] = {{.bytes = 64, .first = 0, .last = 5}, {.bytes = 128, .first = 4, .last = 9}, {.bytes = 64, .first = 0, .last = 3}};
  ck_assert_uint_eq(zg_pack(three, 3), 192);
}
END_TEST

START_TEST(random_lives) {
  zg_pack_item x[300];
  for (int round = 0; round < 20; round++) {
    uint32_t n = 2 + draw(298);
    for (uint32_t i = 0; i < n; i++) {
      uint32_t first = draw(200);
      x[i] = (zg_pack_item){.bytes = 64 * (1 + draw(100)), .first = first, .last = first + draw(1 + draw(100))};
    }
    double e = excess(x, n);
    ck_assert_msg(e <= 0.08, "round %d: %.1f %% above the bound", round, 100 * e);
  }
}
END_TEST

// A training step of many layers: activations that the backward reads in reverse, and short-lived temporaries.
static uint32_t layers(zg_pack_item *x, uint32_t n_layers) {
  uint32_t n = 0, end = n_layers * 80;
  for (uint32_t l = 0; l < n_layers; l++) {
    uint32_t f = l * 30, b = end - l * 50;
    for (uint32_t k = 0; k < 18; k++) x[n++] = (zg_pack_item){.bytes = 64 * (1u << draw(12)), .first = f + k, .last = b - 2 * k};
    for (uint32_t k = 0; k < 22; k++) x[n++] = (zg_pack_item){.bytes = 64 * (1u << draw(12)), .first = f + k, .last = f + k + 1 + draw(3)};
    for (uint32_t k = 0; k < 40; k++) x[n++] = (zg_pack_item){.bytes = 64 * (1u << draw(13)), .first = b - 40 + k, .last = b - 40 + k + draw(4)};
  }
  return n;
}

// Gathered vocabulary, its rounded copy, logits, gradient: four large ones in turn among many small long-lived ones (GPT-2 in stage 3).
// By size the gradient takes the lowest place and the logits' gradient has to lie above all; their order has to be found.
START_TEST(large_in_turn) {
  enum { SMALL = 400 };
  zg_pack_item x[SMALL + 5] = {{.bytes = 147 << 20, .first = 2, .last = 566},  {.bytes = 147 << 20, .first = 584, .last = 1100},
                               {.bytes = 73 << 20, .first = 565, .last = 582}, {.bytes = 24 << 20, .first = 577, .last = 584},
                               {.bytes = 24 << 20, .first = 567, .last = 576}};
  for (uint32_t i = 0; i < SMALL; i++) x[5 + i] = (zg_pack_item){.bytes = (5 + i % 3) << 16, .first = i, .last = 1100 - i};
  ck_assert_double_le(excess(x, SMALL + 5), 0.01);
}
END_TEST

START_TEST(many) {
  const uint32_t sizes[] = {12, 48, 126, 500};
  zg_pack_item *x = malloc(sizeof *x * 500 * 80);
  double per_item[4];
  for (int i = 0; i < 4; i++) {
    uint32_t n = layers(x, sizes[i]);
    double t = zg_time_s();
    uint64_t bound = zg_pack_bound(x, n), height = zg_pack(x, n);
    t = zg_time_s() - t;
    per_item[i] = t / n;
    double e = (double)height / (double)bound - 1;
    printf("%4u layers, %5u buffers: %.2f %% above the bound, %.1f ms\n", sizes[i], n, 100 * e, t * 1e3);
    ck_assert_msg(e <= 0.01, "%u layers: %.2f %% above the bound", sizes[i], 100 * e);
    check_disjoint(x, n, height);
  }
  ck_assert_double_lt(per_item[3], 10 * per_item[2]);
  free(x);
}
END_TEST

int main(void) {
  Suite *s = suite_create("pack");
  TCase *t = tcase_create("pack");
  suite_add_tcase(s, t);
  tcase_set_timeout(t, 60);
  tcase_add_test(t, few);
  tcase_add_test(t, random_lives);
  tcase_add_test(t, large_in_turn);
  tcase_add_test(t, many);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int n = srunner_ntests_failed(r);
  srunner_free(r);
  return n != 0;
}
