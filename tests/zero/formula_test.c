// What a rank holds at rest and what it sends per update are what the table in zero/zero.h says, to the byte; the plan alone, for
// any number of ranks, without a device.
#include "sim.h"

typedef struct {
  uint64_t params, padded, frozen, frozen_shards, shards;
} sizes;  // elements

static sizes sizes_of(const zg_session *s, uint64_t n) {
  sizes z = {0};
  for (size_t i = 0; i < s->graph->nodes.n; i++) {
    const zg_node *x = &s->graph->nodes.at[i];
    if (x->op != &zg_op_param ||
        !zg_sched_find_buf(zg_session_sched(s), ((const zg_param_attr *)x->attr)->name))
      continue;
    const zg_param_attr *a = x->attr;
    const uint64_t elems = (uint64_t)zg_elems(&a->type), shard = (elems + n - 1) / n,
                   size = zg_dtype_bytes(a->type.dtype);
    if (a->role == ZG_ROLE_TRAINABLE) {
      z.params += elems;
      z.shards += shard;
    } else {
      z.frozen += elems * size;
      z.frozen_shards += (a->role == ZG_ROLE_FROZEN ? shard : elems) * size;
    }
  }
  z.padded = z.shards * n;
  return z;
}

static zg_session *plan(const sim_options *o, zg_config **cfg) {
  zg_session *s;
  *cfg = sim_config(o);
  const zg_session_options so = {.mode = ZG_RUN_TRAIN, .rank = o->n - 1, .world = o->n, .no_device = true};
  sim_must(zg_session_open(*cfg, &so, &s), o->model);
  sim_must(zg_sched_verify(zg_session_sched(s)), "verifier");
  return s;
}

static const uint32_t worlds[] = {2, 3, 4, 7, 8, 64, 1000};

// adamw: two states; f32 parameters: no master copy.
START_TEST(bytes_at_rest) {
  const uint64_t n = worlds[_i];
  for (uint32_t stage = 0; stage < 4; stage++) {
    const char *sets[] = {"optimizer.type=adamw"};
    sim_options o = {
        .model = "hf_gpt2_raw", .n = (uint32_t)n, .stage = stage, .k = 1, .sets = sets, .n_sets = 1};
    zg_config *cfg;
    zg_session *s = plan(&o, &cfg);
    const sizes z = sizes_of(s, n);
    const uint64_t params[] = {4 * z.params + z.frozen, 4 * z.padded + z.frozen, 4 * z.padded + z.frozen,
                               4 * z.shards + z.frozen_shards};
    const uint64_t grads[] = {4 * z.padded, 4 * z.padded, 4 * z.shards, 4 * z.shards};
    const uint64_t states[] = {8 * z.params, 8 * z.shards, 8 * z.shards, 8 * z.shards};
    const zg_zero_formula f = zg_zero_formula_of(s->zero, zg_session_sched(s));
    uint64_t have[ZG_N_BUF_ROLES];
    zg_zero_at_rest(zg_session_sched(s), have);
    ck_assert_uint_eq(have[ZG_BUF_PARAM], params[stage]);
    ck_assert_uint_eq(have[ZG_BUF_GRAD], grads[stage]);
    ck_assert_uint_eq(have[ZG_BUF_OPTIMIZER], states[stage]);
    ck_assert_uint_eq(have[ZG_BUF_MASTER], 0);
    ck_assert_uint_eq(f.params, params[stage]);
    ck_assert_uint_eq(f.grads, grads[stage]);
    ck_assert_uint_eq(f.optimizer, states[stage]);
    zg_session_close(s);
    zg_config_free(cfg);
  }
}
END_TEST

static void check_sent(const char *model, uint64_t n, int64_t k, const char *distance,
                       const char *persistence, bool exact3, uint64_t factor3) {
  for (uint32_t stage = 0; stage < 4; stage++) {
    const char *sets[] = {distance, persistence};
    sim_options o = {.model = model, .n = (uint32_t)n, .stage = stage, .k = k, .sets = sets, .n_sets = 2};
    zg_config *cfg;
    zg_session *s = plan(&o, &cfg);
    const sizes z = sizes_of(s, n);
    const zg_zero_traffic t = zg_zero_traffic_of(s->zero, zg_session_sched(s));
    const uint64_t p = 4 * z.padded / n * (n - 1), times[] = {2, 2, (uint64_t)k + 1, factor3};
    const uint64_t sent = t.all_reduce + t.reduce_scatter + t.gather - t.scalars;
    ck_assert_uint_eq(t.scalars, 12 * (n - 1));
    if (stage < 3 || exact3) ck_assert_uint_eq(sent, times[stage] * p);
    else ck_assert_uint_le(sent, times[stage] * p + 4 * z.frozen_shards * (n - 1) * 2 * (uint64_t)k);
    ck_assert_uint_eq(sent, zg_zero_formula_of(s->zero, zg_session_sched(s)).sent);
    ck_assert_uint_eq(t.reduce_scatter, stage == 0 ? 0 : stage == 1 ? p : (uint64_t)k * p);
    zg_session_close(s);
    zg_config_free(cfg);
  }
}

START_TEST(bytes_sent) {
  const uint64_t n = worlds[_i];
  // No tensor stays gathered from forward to backward: at most 3 k P, less what backward does not read (biases).
  check_sent("hf_gpt2_raw", n, 1, "zero.stage3_max_reuse_distance=0",
             "zero.stage3_param_persistence_threshold=0", false, 3);
  check_sent("hf_gpt2_raw", n, 3, "zero.stage3_max_reuse_distance=0",
             "zero.stage3_param_persistence_threshold=0", false, 9);
  // All stay gathered from forward to backward, in every micro-step: 2 k P.
  check_sent("torch_mlp_digits", n, 3, "zero.stage3_max_reuse_distance=1000000000",
             "zero.stage3_param_persistence_threshold=0", true, 6);
  // All stay gathered for good: (k + 1) P.
  check_sent("torch_mlp_digits", n, 3, "zero.stage3_max_reuse_distance=0",
             "zero.stage3_param_persistence_threshold=1000000000", true, 4);
}
END_TEST

// Sum over trained tensors of ceil(ceil(n / cut) / parts); only those that are gathered for the backward pass again, if asked for.
static uint64_t pieces(const zg_session *s, uint64_t cut, uint64_t parts, bool again) {
  uint32_t n;
  uint64_t sum = 0;
  const zg_zero_part *p = zg_zero_parts(s->zero, &n);
  for (uint32_t i = 0; i < n; i++) {
    char name[256];
    snprintf(name, sizeof name, "%s.backward", p[i].name);
    if (p[i].role != ZG_ROLE_TRAINABLE || (again && !zg_sched_find_buf(zg_session_sched(s), name))) continue;
    const uint64_t shard = ((uint64_t)p[i].n + cut - 1) / cut;
    sum += (shard + parts - 1) / parts;
  }
  return sum;
}

static uint64_t sent_in_groups(uint64_t n, int64_t k, const char *group, const char *distance, zg_session **s, zg_config **cfg) {
  const char *sets[] = {distance, group};
  sim_options o = {.model = "torch_mlp_digits", .n = (uint32_t)n, .stage = 3, .k = k, .sets = sets, .n_sets = 2};
  *s = plan(&o, cfg);
  const zg_zero_traffic t = zg_zero_traffic_of((*s)->zero, zg_session_sched(*s));
  const uint64_t sent = t.all_reduce + t.reduce_scatter + t.gather - t.scalars;
  ck_assert_uint_eq(sent, zg_zero_formula_of((*s)->zero, zg_session_sched(*s)).sent);
  return sent;
}

// Shards within groups of S: k reductions and k gathers in the group, one all-reduce of the shards between G groups.
START_TEST(sent_between_groups) {
  static const struct { uint64_t n, group; const char *set; } cases[] = {
      {4, 2, "zero.mics_shard_size=2"}, {8, 4, "zero.mics_shard_size=4"}, {64, 8, "zero.mics_shard_size=8"}, {6, 1, "zero.mics_shard_size=1"}};
  for (size_t i = 0; i < ZG_COUNT(cases); i++)
    for (int64_t k = 1; k < 4; k += 2) {
      zg_session *s;
      zg_config *cfg;
      const uint64_t n = cases[i].n, in = cases[i].group, groups = n / in;
      const uint64_t sent = sent_in_groups(n, k, cases[i].set, "zero.stage3_max_reuse_distance=1000000000", &s, &cfg);
      const uint64_t within = (uint64_t)k * 2 * 4 * (in - 1) * pieces(s, in, 1, false), between = 2 * 4 * (groups - 1) * pieces(s, in, groups, false);
      ck_assert_uint_eq(sent, within + between);
      uint64_t have[ZG_N_BUF_ROLES];
      zg_zero_at_rest(zg_session_sched(s), have);
      ck_assert_uint_eq(have[ZG_BUF_GRAD], 4 * pieces(s, in, 1, false));
      zg_session_close(s);
      zg_config_free(cfg);
    }
}
END_TEST

// Second shards in groups of H: what is gathered again for the backward pass comes from the group.
START_TEST(sent_for_second_shards) {
  static const struct { uint64_t n, group; const char *set; } cases[] = {
      {4, 2, "zero.zero_hpz_partition_size=2"}, {8, 4, "zero.zero_hpz_partition_size=4"}, {64, 8, "zero.zero_hpz_partition_size=8"}};
  for (size_t i = 0; i < ZG_COUNT(cases); i++)
    for (int64_t k = 1; k < 4; k += 2) {
      zg_session *s;
      zg_config *cfg;
      const uint64_t n = cases[i].n, in = cases[i].group;
      const uint64_t plain = sent_in_groups(n, k, "zero.zero_hpz_partition_size=1", "zero.stage3_max_reuse_distance=0", &s, &cfg);
      zg_session_close(s);
      zg_config_free(cfg);
      const uint64_t sent = sent_in_groups(n, k, cases[i].set, "zero.stage3_max_reuse_distance=0", &s, &cfg);
      const uint64_t again = pieces(s, n, 1, true), second = pieces(s, in, 1, true);
      ck_assert_uint_gt(again, 0);
      ck_assert_uint_eq(sent, plain - (uint64_t)k * 4 * (n - 1) * again + (uint64_t)k * 4 * (in - 1) * second);
      zg_session_close(s);
      zg_config_free(cfg);
    }
}
END_TEST

// communication_data_type: what gradients send is halved, nothing else changes.
START_TEST(sent_rounded) {
  for (uint32_t stage = 0; stage < 4; stage++) {
    zg_zero_traffic t[2];
    for (size_t i = 0; i < 2; i++) {
      const char *sets[] = {"zero.communication_data_type=bf16"};
      sim_options o = {.model = "hf_llama_tiny", .n = 3, .stage = stage, .k = 2, .sets = sets, .n_sets = i};
      zg_config *cfg;
      zg_session *s = plan(&o, &cfg);
      t[i] = zg_zero_traffic_of(s->zero, zg_session_sched(s));
      ck_assert_uint_eq(t[i].all_reduce + t[i].reduce_scatter + t[i].gather - t[i].scalars, zg_zero_formula_of(s->zero, zg_session_sched(s)).sent);
      zg_session_close(s);
      zg_config_free(cfg);
    }
    ck_assert_uint_gt(t[1].all_reduce + t[1].reduce_scatter, 0);
    ck_assert_uint_eq(t[0].all_reduce, 2 * t[1].all_reduce);
    ck_assert_uint_eq(t[0].reduce_scatter, 2 * t[1].reduce_scatter);
    ck_assert_uint_eq(t[0].gather, t[1].gather);
  }
}
END_TEST

// Ranks hash the same sequence of collectives; another stage has another one.
START_TEST(hashes) {
  uint64_t first = 0;
  for (uint32_t stage = 2; stage < 4; stage++)
    for (uint32_t r = 0; r < 3; r++) {
      sim_options o = {.model = "torch_mlp_digits", .n = 3, .stage = stage, .k = 1};
      zg_config *cfg = sim_config(&o);
      zg_session *s;
      const zg_session_options so = {.mode = ZG_RUN_TRAIN, .rank = r, .world = 3, .no_device = true};
      sim_must(zg_session_open(cfg, &so, &s), o.model);
      const uint64_t h = zg_comm_sequence_hash(zg_session_sched(s));
      if (stage == 2 && r == 0) first = h;
      ck_assert((h == first) == (stage == 2));
      zg_session_close(s);
      zg_config_free(cfg);
    }
}
END_TEST

static uint64_t planned(const char *budget, uint64_t *sent, zg_status *status) {
  const char *sets[] = {budget, "zero.stage3_param_persistence_threshold=0"};
  sim_options o = {.model = "hf_gpt2_raw", .n = 4, .stage = 3, .k = 1, .sets = sets, .n_sets = 2};
  zg_config *cfg = sim_config(&o);
  zg_session *s;
  uint64_t bytes = 0;
  const zg_session_options so = {.mode = ZG_RUN_TRAIN, .world = 4, .no_device = true};
  *status = zg_session_open(cfg, &so, &s);
  if (!*status) {
    bytes = zg_session_sched(s)->arena_bytes[ZG_SPACE_DEVICE];
    *sent = zg_zero_traffic_of(s->zero, zg_session_sched(s)).gather;
    zg_session_close(s);
  }
  zg_config_free(cfg);
  return bytes;
}

// A budget is kept; what it leaves is used to send less; one that nothing fits is refused.
START_TEST(budgets) {
  zg_status s;
  uint64_t least_sent, much_sent, some_sent;
  const uint64_t least = planned("memory.budget=null", &least_sent, &s);
  ck_assert(!s);
  const uint64_t much = planned("memory.budget=1GiB", &much_sent, &s);
  ck_assert(!s && much >= least && much_sent < least_sent);
  char text[64];
  snprintf(text, sizeof text, "memory.budget=%llu", (unsigned long long)(least + (much - least) / 2));
  ck_assert(planned(text, &some_sent, &s) <= least + (much - least) / 2 && !s);
  ck_assert(some_sent <= least_sent && some_sent >= much_sent);
  planned("memory.budget=1000", &some_sent, &s);
  ck_assert(s && strstr(zg_status_message(s), "memory.budget"));
  zg_status_free(s);
}
END_TEST

START_TEST(refusals) {
  zg_zero *z;
  zg_zero_options o = zg_zero_defaults();
  o.stage = 4;
  zg_status s = zg_zero_new(&o, &z);
  ck_assert(s && strstr(zg_status_message(s), "stage"));
  zg_status_free(s);
  o.stage = 2;
  o.rank = 1;
  s = zg_zero_new(&o, &z);
  ck_assert(s && strstr(zg_status_message(s), "rank 1 of 1"));
  zg_status_free(s);
  o.rank = 0;
  o.shard_ranks = 2;
  s = zg_zero_new(&o, &z);
  ck_assert(s && strstr(zg_status_message(s), "mics_shard_size: groups of ranks are for zero_stage 3"));
  zg_status_free(s);
  o.stage = 3, o.world = 5;
  s = zg_zero_new(&o, &z);
  ck_assert(s && strstr(zg_status_message(s), "groups of 2 do not divide 5 ranks"));
  zg_status_free(s);
  o.world = 4, o.second_ranks = 2;
  s = zg_zero_new(&o, &z);
  ck_assert(s && strstr(zg_status_message(s), "give one of them"));
  zg_status_free(s);
  o.stage = 2, o.world = 1, o.shard_ranks = o.second_ranks = 0;
  o.offload_param = ZG_SPACE_HOST;
  s = zg_zero_new(&o, &z);
  ck_assert(s && strstr(zg_status_message(s), "offload_param"));
  zg_status_free(s);
}
END_TEST

int main(void) {
  Suite *s = suite_create("zero_formula");
  TCase *t = tcase_create("formula");
  tcase_set_timeout(t, 120);
  tcase_add_loop_test(t, bytes_at_rest, 0, ZG_COUNT(worlds));
  tcase_add_loop_test(t, bytes_sent, 0, ZG_COUNT(worlds));
  tcase_add_test(t, sent_between_groups);
  tcase_add_test(t, sent_for_second_shards);
  tcase_add_test(t, sent_rounded);
  tcase_add_test(t, hashes);
  tcase_add_test(t, budgets);
  tcase_add_test(t, refusals);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  const int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? 1 : 0;
}
