// Stages 0 to 3 give the same bits: losses and final parameters, for ranks that divide the tensors and ranks that do not.
#include "sim.h"

enum { STEPS = 3 };
typedef struct {
  double loss[STEPS], norm[STEPS];
  float *params;
  int64_t n;
} result;

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
    ck_assert_msg(!memcmp(&a->params[i], &b->params[i], 4), "%s: parameter element %lld: %.9g and %.9g", what,
                  (long long)i, (double)a->params[i], (double)b->params[i]);
}

static void near(const result *a, const result *b, double tolerance, const char *what) {
  for (int i = 0; i < STEPS; i++)
    ck_assert_msg(fabs(a->loss[i] - b->loss[i]) <= tolerance * fabs(a->loss[i]), "%s: loss %d: %.9g and %.9g",
                  what, i, a->loss[i], b->loss[i]);
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

// Ways to run a stage that may not change a bit: prefetch and overlap off, offload, tensors kept whole or gathered.
static const struct {
  uint32_t stage;
  const char *sets[3];
  size_t n;
} variants[] = {
    {3, {"zero.overlap_comm=false"}, 1},
    {3, {"zero.stage3_prefetch_bucket_size=0"}, 1},
    {3, {"zero.stage3_max_live_parameters=1"}, 1},
    {3, {"zero.stage3_max_reuse_distance=1000000000"}, 1},
    {3, {"zero.stage3_max_reuse_distance=20000", "zero.stage3_max_live_parameters=30000"}, 2},
    {3, {"zero.stage3_param_persistence_threshold=500"}, 1},
    {3, {"zero.reduce_bucket_size=1"}, 1},
    {3, {"zero.offload_optimizer.device=cpu", "zero.offload_param.device=cpu"}, 2},
    {3, {"zero.offload_optimizer.device=cpu", "zero.offload_param.device=cpu", "zero.overlap_comm=false"}, 3},
    {3, {"zero.offload_param.device=cpu", "zero.stage3_max_reuse_distance=1000000000"}, 2},
    {3, {"zero.offload_optimizer.device=cpu", "zero.offload_optimizer.ratio=0.4"}, 2},
    {3,
     {"zero.offload_optimizer={device: nvme, nvme_path: /tmp}",
      "zero.offload_param={device: nvme, nvme_path: /tmp}"},
     2},
    {2, {"mixed_precision=bf16"}, 1},
    {3, {"mixed_precision=bf16"}, 1},
    {3, {"mixed_precision=bf16", "zero.stage3_max_reuse_distance=20000"}, 2},
    {3, {"mixed_precision=bf16", "zero.offload_param.device=cpu", "zero.offload_optimizer.device=cpu"}, 3},
    {2, {"mixed_precision=fp16"}, 1},
    {3, {"mixed_precision=fp16"}, 1},
    {3, {"mixed_precision=fp16", "zero.offload_param.device=cpu", "zero.offload_optimizer.device=cpu"}, 3},
    {1, {"zero.communication_data_type=bf16"}, 1},
    {2, {"zero.communication_data_type=bf16"}, 1},
    {3, {"zero.communication_data_type=fp16", "zero.overlap_comm=false"}, 2},
    {2, {"zero.offload_optimizer.device=cpu"}, 1},
    {1, {"zero.offload_optimizer.device=cpu"}, 1},
    {1, {"zero.overlap_comm=false"}, 1},
    {0, {"zero.overlap_comm=false"}, 1},
};

static void variant_agrees(const char *of, int64_t k, size_t i) {
  char what[128];
  sim_options o = {.model = of, .n = 3, .k = k, .stage = variants[i].stage < 2 ? 0 : 2};
  const bool sent = !strncmp(variants[i].sets[0], "zero.communication_data_type=", 29);
  const bool half = !strncmp(variants[i].sets[0], "mixed_precision=", 16) || sent;
  if (half && sent && variants[i].stage == 1) o.sets = variants[i].sets, o.n_sets = 1, o.stage = 0;
  else if (half) o.sets = variants[i].sets, o.n_sets = 1, o.stage = k == 1 ? 0 : 2;
  result plain = train(&o, true, true);
  o.stage = variants[i].stage;
  o.sets = variants[i].sets;
  o.n_sets = variants[i].n;
  result r = train(&o, true, true);
  snprintf(what, sizeof what, "%s, k = %lld, variant %zu (%s)", of, (long long)k, i, variants[i].sets[0]);
  same_bits(&plain, &r, what);
  zg_free(plain.params);
  zg_free(r.params);
}

START_TEST(variants_agree) {
  variant_agrees(model, 1, (size_t)_i);
  variant_agrees(model, 2, (size_t)_i);
}
END_TEST

// Groups of ranks. Second shards (hpZ) change no bit of stage 3. Shards within groups (MiCS, HYBRID_SHARD) sum within groups first, and
// every group ends with the same parameters: what a rank outside of the first group holds is compared through its gathers.
static const struct {
  uint32_t ranks;
  const char *sets[3];
  size_t n;
} groups[] = {
    {4, {"zero.zero_hpz_partition_size=2"}, 1},
    {8, {"zero.zero_hpz_partition_size=2"}, 1},
    {8, {"zero.zero_hpz_partition_size=4", "mixed_precision=bf16"}, 2},
    {4, {"zero.zero_hpz_partition_size=2", "zero.offload_param.device=cpu", "zero.stage3_param_persistence_threshold=500"}, 3},
    {4, {"zero.mics_shard_size=2"}, 1},
    {8, {"zero.mics_shard_size=4"}, 1},
    {8, {"zero.mics_shard_size=2", "zero.stage3_param_persistence_threshold=500", "zero.overlap_comm=false"}, 3},
    {4, {"zero.mics_shard_size=1"}, 1},
    {6, {"zero.mics_shard_size=3", "zero.offload_param.device=cpu", "zero.offload_optimizer.device=cpu"}, 3},
};

START_TEST(groups_agree) {
  char what[128];
  const size_t i = (size_t)_i / 2;
  const bool second = strstr(groups[i].sets[0], "hpz") != NULL, half = second && groups[i].n == 2;
  sim_options o = {.model = model, .n = groups[i].ranks, .k = _i % 2 ? 3 : 1, .stage = 3};
  if (half) o.sets = groups[i].sets + 1, o.n_sets = 1;
  result plain = train(&o, true, true);
  o.sets = groups[i].sets;
  o.n_sets = groups[i].n;
  result r = train(&o, true, true);
  snprintf(what, sizeof what, "%s, %u ranks, k = %lld, %s", model, o.n, (long long)o.k, groups[i].sets[0]);
  if (second) same_bits(&plain, &r, what);
  else near(&plain, &r, 1e-6, what);
  zg_free(plain.params);
  zg_free(r.params);
}
END_TEST

// Offloaded state takes no device memory at rest.
START_TEST(offload_saves_memory) {
  const char *sets[] = {"zero.offload_optimizer.device=cpu", "zero.offload_param.device=cpu"};
  sim_options o = {.model = model, .n = 3, .k = 1, .stage = 3};
  uint64_t device[2];
  for (size_t i = 0; i < 2; i++) {
    sim s;
    o.sets = sets;
    o.n_sets = 2 * i;
    sim_open(&s, &o);
    const zg_sched *d = zg_session_sched(s.rank[0]);
    device[i] = 0;
    for (uint32_t b = 1; b < d->bufs.n; b++) {
      const zg_buf *x = &d->bufs.at[b];
      const bool state =
          x->persistent && x->name[0] != '@' && (x->role == ZG_BUF_OPTIMIZER || x->role == ZG_BUF_PARAM);
      if (state && x->space == ZG_SPACE_DEVICE) device[i] += x->bytes;
    }
    ck_assert((d->arena_bytes[ZG_SPACE_HOST] > 0) == (i == 1));
    sim_close(&s);
  }
  ck_assert_uint_gt(device[0], 0);
  ck_assert_uint_le(device[1], 4096);  // running statistics stay
}
END_TEST

// fp16 gradients that overflow, on one rank of several or on all: the step changes no bit anywhere, and the scale falls.
START_TEST(overflow_changes_nothing) {
  const char *sets[] = {"mixed_precision=fp16", "fp16.initial_scale_power=60", "fp16.hysteresis=2"};
  sim_options o = {.model = model, .n = 3, .k = _i / 4 + 1, .stage = (uint32_t)_i % 4, .sets = sets, .n_sets = 3};
  sim s;
  int64_t n;
  sim_open(&s, &o);
  float *before = sim_params(&s, &n);
  sim_update(&s);
  ck_assert(!isfinite(s.grad_norm) && s.scale.scale == 0x1p60 && s.scale.skipped == 1);
  sim_update(&s);
  ck_assert(!isfinite(s.grad_norm) && s.scale.scale == 0x1p59 && s.scale.skipped == 2);
  float *after = sim_params(&s, &n);
  ck_assert_mem_eq(before, after, (size_t)n * sizeof(float));
  for (int i = 0; i < 60 && s.scale.skipped == s.step; i++) sim_update(&s);
  ck_assert(isfinite(s.grad_norm) && s.grad_norm > 0);
  zg_free(after);
  after = sim_params(&s, &n);
  ck_assert(memcmp(before, after, (size_t)n * sizeof(float)) != 0);
  zg_free(before);
  zg_free(after);
  sim_close(&s);
}
END_TEST

int main(int argc, char **argv) {
  model = argc > 1 ? argv[1] : "torch_mlp_digits";
  Suite *s = suite_create("zero_stages");
  TCase *t = tcase_create(model);
  tcase_set_timeout(t, 120);
  const int n = argc > 2 ? atoi(argv[2])
                         : (int)ZG_COUNT(ranks);  // the first n counts of ranks; 0: the variants instead
  if (n > 0) tcase_add_loop_test(t, one_micro_step, 0, n);
  if (n > 0) tcase_add_loop_test(t, three_micro_steps, 0, n);
  if (n == 0) tcase_add_loop_test(t, variants_agree, 0, ZG_COUNT(variants));
  const bool small = !strcmp(model, "torch_mlp_digits");
  if (n == 0) tcase_add_loop_test(t, groups_agree, 0, small ? 2 * ZG_COUNT(groups) : 2);
  if (n == 0 && !small) tcase_add_loop_test(t, groups_agree, 8, 10);   // the first of each kind
  if (n == 0) tcase_add_test(t, offload_saves_memory);
  if (n == 0 && small) tcase_add_loop_test(t, overflow_changes_nothing, 0, 8);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  const int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? 1 : 0;
}
