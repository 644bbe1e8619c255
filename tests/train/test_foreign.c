// Accelerate's, TRL's and DeepSpeed's files: what each key becomes here.
#include <check.h>
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "train/config_priv.h"

static char dir[] = "/tmp/zg_foreign_XXXXXX";

static const char *file(const char *name, const char *text) {
  static char paths[8][256];
  static int next;
  char *path = paths[next++ % 8];
  snprintf(path, 256, "%s/%s", dir, name);
  FILE *f = fopen(path, "w");
  ck_assert_ptr_nonnull(f);
  fputs(text, f);
  fclose(f);
  return path;
}

static zg_config *good_files(const char *a, const char *b, const char *set) {
  const char *files[] = {a, b};
  zg_config *c = NULL;
  zg_status status = zg_config_load(files, b ? 2 : 1, &set, set != NULL, &c);
  ck_assert_msg(!status, "%s", zg_status_message(status));
  return c;
}

static zg_config *good(const char *text, const char *set) {
  return good_files(file("a.yaml", text), NULL, set);
}

static void bad_file(const char *path, const char *part) {
  zg_config *c = NULL;
  zg_status status = zg_config_load(&path, 1, NULL, 0, &c);
  ck_assert_msg(status != NULL, "no error, want \"%s\"", part);
  ck_assert_msg(strstr(zg_status_message(status), part), "\"%s\" is not in: %s", part,
                zg_status_message(status));
  zg_status_free(status);
}

static void bad(const char *text, const char *part) { bad_file(file("a.yaml", text), part); }
static void bad_json(const char *text, const char *part) { bad_file(file("ds.json", text), part); }

static bool has_note(const zg_config *c, const char *part) {
  for (size_t i = 0; i < c->notes.n; i++)
    if (strstr(c->notes.at[i], part)) return true;
  return false;
}

// The packaged files have the shape of TRL's seven, and one with offload.
START_TEST(packaged_files) {
  static const struct {
    const char *name;
    int64_t stage, ranks;
    zg_cfg_distributed_type type;
  } cases[] = {{"single", 0, 1, ZG_CFG_DIST_NO},       {"multi", 0, 8, ZG_CFG_DIST_MULTI_GPU},
               {"zero1", 1, 8, ZG_CFG_DIST_DEEPSPEED}, {"zero2", 2, 8, ZG_CFG_DIST_DEEPSPEED},
               {"zero3", 3, 8, ZG_CFG_DIST_DEEPSPEED}, {"zero3_offload", 3, 8, ZG_CFG_DIST_DEEPSPEED},
               {"fsdp1", 3, 8, ZG_CFG_DIST_FSDP},      {"fsdp2", 3, 8, ZG_CFG_DIST_FSDP}};
  for (size_t i = 0; i < ZG_COUNT(cases); i++) {
    zg_config *c = good_files(cases[i].name, ZG_FIXTURES "run.yaml", NULL);
    ck_assert_int_eq(c->zero.stage, cases[i].stage);
    ck_assert_int_eq(c->num_processes, cases[i].ranks);
    ck_assert_int_eq(c->distributed_type, cases[i].type);
    ck_assert_int_eq(c->mixed_precision, ZG_CFG_MIXED_BF16);
    ck_assert(c->training.gradient_clipping == 1.0);
    ck_assert_str_eq(c->model, "gpt.onnx");
    bool offload = !strcmp(cases[i].name, "zero3_offload");
    ck_assert_int_eq(c->zero.offload_param.device, offload ? ZG_CFG_OFFLOAD_CPU : ZG_CFG_OFFLOAD_NONE);
    ck_assert_int_eq(c->zero.offload_optimizer.device, offload ? ZG_CFG_OFFLOAD_CPU : ZG_CFG_OFFLOAD_NONE);
    zg_config_free(c);
  }
}
END_TEST

// TRL's own single_gpu.yaml as packaged says 8 processes with type NO.
START_TEST(type_no_is_one_rank) {
  zg_config *c = good("distributed_type: \"NO\"\nnum_processes: 8\n", NULL);
  ck_assert_int_eq(c->num_processes, 1);
  ck_assert(has_note(c, "num_processes 8"));
  zg_config_free(c);
}
END_TEST

START_TEST(short_files_take_defaults) {
  zg_config *c = good("distributed_type: DEEPSPEED\nnum_processes: 2\ndeepspeed_config:\n", NULL);
  ck_assert_int_eq(c->zero.stage, 2);
  ck_assert_str_eq(zg_config_origin(c, "zero.stage"), "default of DEEPSPEED");
  zg_config_free(c);
  c = good("distributed_type: DEEPSPEED\nnum_processes: 2\ndeepspeed_config: {zero_stage: 3}\n",
           "zero.stage=1");
  ck_assert_int_eq(c->zero.stage, 1);
  zg_config_free(c);
  c = good("distributed_type: FSDP\nnum_processes: 2\n", NULL);
  ck_assert_int_eq(c->zero.stage, 3);
  zg_config_free(c);
  c = good("distributed_type: MULTI_CPU\nnum_processes: 2\nuse_cpu: yes\nmain_process_port: null\n", NULL);
  ck_assert_int_eq(c->zero.stage, 0);
  ck_assert_int_eq(c->device, ZG_CFG_DEVICE_CPU);
  ck_assert_int_eq(c->main_process_port, 29500);
  zg_config_free(c);
  c = good(
      "distributed_type: MULTI_GPU\ndeepspeed_config: {zero_stage: 3}\nfsdp_config: {}\ndynamo_config: "
      "{dynamo_backend: INDUCTOR}\n",
      NULL);
  ck_assert_int_eq(c->zero.stage, 0);
  ck_assert(has_note(c, "deepspeed_config") && has_note(c, "is not used: distributed_type is MULTI_GPU"));
  ck_assert(has_note(c, "dynamo_config"));
  zg_config_free(c);
}
END_TEST

START_TEST(deepspeed_section) {
  zg_config *c = good(
      "distributed_type: DEEPSPEED\nnum_processes: 4\ndeepspeed_config:\n  zero_stage: 3\n  "
      "gradient_accumulation_steps: auto\n"
      "  gradient_clipping: auto\n  offload_optimizer_device: nvme\n  offload_optimizer_nvme_path: /nvme\n"
      "  offload_param_nvme_path: none\n  deepspeed_multinode_launcher: pdsh\n  "
      "seq_parallel_communication_data_type: bf16\n",
      "training.gradient_accumulation_steps=3");
  ck_assert_int_eq(c->zero.offload_optimizer.device, ZG_CFG_OFFLOAD_NVME);
  ck_assert_str_eq(c->zero.offload_optimizer.nvme_path, "/nvme");
  ck_assert_ptr_null(c->zero.offload_param.nvme_path);
  ck_assert_int_eq(c->training.gradient_accumulation_steps, 3);
  ck_assert(c->training.gradient_clipping == 1.0);
  ck_assert(has_note(c, "gradient_clipping is auto"));
  ck_assert(has_note(c, "deepspeed_multinode_launcher"));
  zg_config_free(c);
  c = good("distributed_type: DEEPSPEED\ndeepspeed_config: {zero_stage: 1, some_new_switch_of_theirs: 1}\n",
           NULL);
  ck_assert(has_note(c, "some_new_switch_of_theirs"));
  zg_config_free(c);
}
END_TEST

START_TEST(fsdp_sharding) {
  static const struct {
    const char *how;
    int64_t stage;
  } cases[] = {{"fsdp_reshard_after_forward: true", 3},
               {"fsdp_reshard_after_forward: false", 2},
               {"fsdp_reshard_after_forward: SHARD_GRAD_OP", 2},
               {"fsdp_sharding_strategy: NO_SHARD", 0},
               {"fsdp_sharding_strategy: 1", 3},
               {"fsdp_sharding_strategy: 2", 2},
               {"fsdp_reshard_after_forward: HYBRID_SHARD", 3},
               {"fsdp_reshard_after_forward: full_shard", 3}};
  for (size_t i = 0; i < ZG_COUNT(cases); i++) {
    char text[300];
    snprintf(
        text, sizeof text,
        "distributed_type: FSDP\nnum_processes: 8\nnum_machines: 2\nmain_process_ip: h\nfsdp_config:\n  %s\n",
        cases[i].how);
    zg_config *c = good(text, NULL);
    ck_assert_msg(c->zero.stage == cases[i].stage, "%s: stage %lld", cases[i].how, (long long)c->zero.stage);
    ck_assert_int_eq(c->zero.mics_shard_size, strstr(cases[i].how, "HYBRID") ? 4 : -1);
    zg_config_free(c);
  }
  zg_config *c = good(
      "distributed_type: FSDP\nfsdp_config: {fsdp_offload_params: true, fsdp_activation_checkpointing: "
      "true}\n",
      NULL);
  ck_assert_int_eq(c->zero.offload_param.device, ZG_CFG_OFFLOAD_CPU);
  ck_assert_int_eq(c->memory.recompute, ZG_CFG_RECOMPUTE_AUTO);
  zg_config_free(c);
}
END_TEST

START_TEST(refusals_name_the_key) {
  bad("compute_environment: AMAZON_SAGEMAKER\n", "compute_environment is not supported: only LOCAL_MACHINE");
  bad("mixed_precision: fp8\n", "It takes: no, bf16, fp16");
  bad("distributed_type: MEGATRON_LM\n", "want one of");
  bad("fp8_config: {backend: TE}\n", "fp8 training is not supported");
  bad("num_proceses: 3\n", "did you mean \"num_processes\"?");
  bad("distributed_type: DEEPSPEED\ndeepspeed_config: {zero_stge: 3}\n",
      "a.yaml:2:20: unknown key \"zero_stge\" in deepspeed_config; did you mean \"zero_stage\"?");
  bad("distributed_type: DEEPSPEED\ndeepspeed_config: {zero_stage: 4}\n", "want 0 to 3");
  bad("distributed_type: DEEPSPEED\ndeepspeed_config: {deepspeed_hostfile: /job/hostfile}\n",
      "start the same command on each machine");
  bad("distributed_type: DEEPSPEED\nparallelism_config: {parallelism_config_cp_size: 2}\n",
      "only data parallelism");
  bad("distributed_type: FSDP\nfsdp_config: {fsdp_reshard_after_forward: MAYBE}\n", "no sharding strategy");
  bad("distributed_type: DEEPSPEED\ndeepspeed_config: 3\n", "want a mapping of its keys");
  bad("distributed_type: DEEPSPEED\ndeepspeed_config: {offload_param_device: cpu}\n", "needs zero.stage 3");
}
END_TEST

static const char *json_of(const char *name) {
  static char path[300];
  snprintf(path, sizeof path, ZG_FILES "deepspeed/%s", name);
  return path;
}

// Every file of files/deepspeed loads, directly and through deepspeed_config_file, to the same values.
START_TEST(deepspeed_files_load) {
  DIR *d = opendir(ZG_FILES "deepspeed");
  ck_assert_ptr_nonnull(d);
  int n = 0;
  for (struct dirent *e; (e = readdir(d));) {
    if (!strstr(e->d_name, ".json")) continue;
    char yaml[600];
    snprintf(
        yaml, sizeof yaml,
        "distributed_type: DEEPSPEED\nnum_processes: 8\ndeepspeed_config: {deepspeed_config_file: '%s'}\n",
        json_of(e->d_name));
    zg_config *through = good(yaml, NULL),
              *direct = good_files(json_of(e->d_name),
                                   file("b.yaml", "distributed_type: DEEPSPEED\nnum_processes: 8\n"), NULL);
    ck_assert_uint_eq(zg_config_hash(through), zg_config_hash(direct));
    zg_config_free(through);
    zg_config_free(direct);
    n++;
  }
  closedir(d);
  ck_assert_int_ge(n, 10);
}
END_TEST

static zg_config *ds(const char *name) {
  return good_files(json_of(name), file("b.yaml", "num_processes: 8\n"), NULL);
}

START_TEST(deepspeed_values) {
  zg_config *c = ds("01_zero1.json");
  ck_assert_int_eq(c->optimizer.type, ZG_CFG_OPT_ADAMW);
  ck_assert(c->optimizer.lr == 0.00015);
  ck_assert_int_eq(c->data.train.batch_size, 2);
  ck_assert_int_eq(c->mixed_precision, ZG_CFG_MIXED_FP16);
  ck_assert_int_eq(c->zero.reduce_bucket_size, 500000000);
  zg_config_free(c);
  c = ds("02_zero2.json");
  ck_assert(c->training.gradient_clipping == 0.5);
  ck_assert_int_eq(c->data.train.batch_size, 4);
  ck_assert(has_note(c, "zero_optimization.reduce_scatter"));
  zg_config_free(c);
  c = ds("05_infinity.json");
  ck_assert_str_eq(c->zero.offload_param.nvme_path, "/tmp");
  ck_assert_int_eq(c->zero.offload_param.buffer_size, 100000000);
  zg_config_free(c);
  c = ds("06_auto_zero2.json");
  ck_assert_int_eq(c->mixed_precision, ZG_CFG_MIXED_NO);
  ck_assert_int_eq(c->lr_scheduler.type, ZG_CFG_LR_WARMUP);
  ck_assert_int_eq(c->lr_scheduler.warmup_steps, 0);
  ck_assert(isnan(c->lr_scheduler.warmup_max_lr));
  ck_assert_int_eq(c->training.log_every, 2000);
  zg_config_free(c);
  c = ds("07_auto_zero3.json");
  ck_assert_int_eq(c->zero.reduce_bucket_size, 500000000);
  zg_config_fill_auto(c, 64);
  ck_assert_int_eq(c->zero.reduce_bucket_size, 4096);
  ck_assert_int_eq(c->zero.stage3_prefetch_bucket_size, 3686);
  ck_assert_int_eq(c->zero.stage3_param_persistence_threshold, 640);
  ck_assert(has_note(c, "zero.reduce_bucket_size was auto: 4096"));
  ck_assert_int_eq(c->mixed_precision, ZG_CFG_MIXED_BF16);
  zg_config_free(c);
  c = ds("08_full.json");
  ck_assert_int_eq(c->optimizer.type, ZG_CFG_OPT_ADAM);
  ck_assert(c->optimizer.betas[0] == 0.8 && c->optimizer.weight_decay == 3e-7);
  ck_assert_int_eq(c->training.gradient_accumulation_steps, 1);
  ck_assert_int_eq(c->lr_scheduler.warmup_type, ZG_CFG_WARMUP_LINEAR);
  zg_config_free(c);
  c = ds("10_cosine.json");
  ck_assert_int_eq(c->optimizer.type, ZG_CFG_OPT_LION);
  ck_assert(c->lr_scheduler.cos_min_ratio == 0.01);
  ck_assert_int_eq(c->lr_scheduler.total_steps, 5000);
  zg_config_free(c);
  c = ds("11_fp16.json");
  ck_assert(c->fp16.loss_scale == 128 && c->fp16.consecutive_hysteresis);
  ck_assert(c->training.gradient_clipping == 0 && c->optimizer.nesterov);
  ck_assert_int_eq(c->zero.stage, 0);
  zg_config_free(c);
  c = ds("12_mics.json");
  ck_assert_int_eq(c->zero.mics_shard_size, 2);
  ck_assert(has_note(c, "seed_of_mine"));
  zg_config_free(c);
}
END_TEST

START_TEST(warmup_defaults_are_deepspeeds) {
  const char *text =
      "{\"zero_optimization\": {\"stage\": 1}, \"scheduler\": {\"type\": \"WarmupDecayLR\", \"params\": "
      "{\"total_num_steps\": 5000}}}";
  zg_config *c = good_files(file("ds.json", text), NULL, NULL);
  ck_assert_int_eq(c->lr_scheduler.warmup_steps, 1000);
  ck_assert(c->lr_scheduler.warmup_max_lr == 0.001);
  zg_config_free(c);
  c = good_files(file("ds.json", text), file("b.yaml", "lr_scheduler: {type: cosine}\n"), NULL);
  ck_assert_int_eq(c->lr_scheduler.warmup_steps, 0);
  zg_config_free(c);
}
END_TEST

START_TEST(deepspeed_config_file_forms) {
  file("beside.json", "{\"zero_optimization\": {\"stage\": 3}}");
  zg_config *c = good(
      "distributed_type: DEEPSPEED\ndeepspeed_config:\n  zero3_init_flag: true\n  deepspeed_config_file: "
      "beside.json\n",
      NULL);
  ck_assert_int_eq(c->zero.stage, 3);
  zg_config_free(c);
  c = good(
      "distributed_type: DEEPSPEED\ndeepspeed_config:\n  deepspeed_config_file: '{\"zero_optimization\": "
      "{\"stage\": 1}}'\n",
      NULL);
  ck_assert_int_eq(c->zero.stage, 1);
  zg_config_free(c);
  c = good(
      "distributed_type: DEEPSPEED\ndeepspeed_config:\n  deepspeed_config_file: "
      "eyJ6ZXJvX29wdGltaXphdGlvbiI6IHsic3RhZ2UiOiAzfX0=\n",
      NULL);
  ck_assert_int_eq(c->zero.stage, 3);
  zg_config_free(c);
  c = good(
      "distributed_type: DEEPSPEED\ndeepspeed_config:\n  deepspeed_config_file: '{\"zero_optimization\": "
      "{}}'\n",
      NULL);
  ck_assert_int_eq(c->zero.stage, 0);
  zg_config_free(c);
  bad("distributed_type: DEEPSPEED\ndeepspeed_config: {zero_stage: 2, deepspeed_config_file: beside.json}\n",
      "zero.stage is 2 here, but 3 at");
  bad("distributed_type: DEEPSPEED\ndeepspeed_config: {deepspeed_config_file: none_such.json}\n",
      "there is no file none_such.json");
  bad("distributed_type: DEEPSPEED\ndeepspeed_config: {deepspeed_config_file: '{}'}\n",
      "has no \"zero_optimization\"");
  file("bf.json", "{\"zero_optimization\": {\"stage\": 3}, \"bf16\": {\"enabled\": true}}");
  bad("distributed_type: DEEPSPEED\nmixed_precision: fp16\ndeepspeed_config: {deepspeed_config_file: "
      "bf.json}\n",
      "asks for bf16");
}
END_TEST

START_TEST(json_refusals) {
  bad_json("{\"zero_optimization\": {\"stagee\": 3}}",
           "ds.json:1:24: unknown key \"stagee\" in zero_optimization; did you mean \"stage\"?");
  bad_json("{\"zero_optimization\": {\"stage\": 3, \"zero_quantized_weights\": true}}",
           "quantised collectives");
  bad_json("{\"zero_optimization\": {}, \"optimizer\": {\"type\": \"OneBitAdam\"}}",
           "optimizer OneBitAdam is not supported");
  bad_json("{\"zero_optimization\": {}, \"scheduler\": {\"type\": \"OneCycle\"}}",
           "scheduler OneCycle is not supported");
  bad_json("{\"zero_optimization\": {}, \"fp16\": {\"enabled\": true}, \"bf16\": {\"enabled\": true}}",
           "both enabled");
  bad_json("{\"zero_optimization\": {}, \"pipeline\": {\"stages\": 2}}", "only data parallelism");
  bad_json("{\"zero_optimization\": {}, \"gradient_cliping\": 1}", "did you mean \"gradient_clipping\"?");
  bad_json("{\"zero_optimization\": {}, \"train_batch_size\": 9, \"train_micro_batch_size_per_gpu\": 2}",
           "is not batch_size 2");
  bad_json("{\"zero_optimization\": 3}", "want a mapping of its keys");
}
END_TEST

// docs/configuration.md ends in the key lists that the tables print.
START_TEST(manual_lists_the_tables) {
  zg_str page = {0};
  zg_status status = zg_file_read(ZG_DOCS "configuration.md", &page);
  ck_assert_msg(!status, "%s", zg_status_message(status));
  char *text = NULL;
  size_t n = 0;
  FILE *f = open_memstream(&text, &n);
  zg_config_print_reference(f);
  fclose(f);
  ck_assert_uint_gt(n, 1000);
  ck_assert_msg(
      strstr(page.at, text),
      "docs/configuration.md differs from `zgraph config --keys`: replace its part below \"## All keys\"");
  free(text);
  zg_str_fini(&page);
}
END_TEST

START_TEST(tables_point_at_rows) {
  const zg_foreign_table *tables[] = {&zg__accelerate_top, &zg__accelerate_deepspeed, &zg__accelerate_fsdp,
                                      &zg__accelerate_parallel, &zg__deepspeed_json};
  for (size_t t = 0; t < ZG_COUNT(tables); t++)
    for (size_t i = 0; i < tables[t]->n; i++) {
      const zg_foreign_key *k = &tables[t]->keys[i];
      if (k->to) ck_assert_msg(zg__key_find(&zg__config_table, k->to) >= 0, "%s -> %s", k->path, k->to);
      ck_assert_msg((k->fate == ZG_FATE_HONOURED) <= (k->to != NULL), "%s", k->path);
      ck_assert_msg((k->fate == ZG_FATE_MAPPED) == (k->apply != NULL), "%s", k->path);
      ck_assert_msg((k->fate == ZG_FATE_REFUSED) == (k->harmless != NULL), "%s", k->path);
      if (k->fate == ZG_FATE_NO_MEANING || k->fate == ZG_FATE_REFUSED)
        ck_assert_msg(k->note != NULL, "%s", k->path);
      for (size_t j = 0; j < i; j++)
        ck_assert_msg(strcmp(k->path, tables[t]->keys[j].path), "%s twice", k->path);
    }
}
END_TEST

int main(void) {
  if (!mkdtemp(dir)) return 1;
  Suite *s = suite_create("foreign");
  TCase *t = tcase_create("all");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, packaged_files);
  tcase_add_test(t, type_no_is_one_rank);
  tcase_add_test(t, short_files_take_defaults);
  tcase_add_test(t, deepspeed_section);
  tcase_add_test(t, fsdp_sharding);
  tcase_add_test(t, refusals_name_the_key);
  tcase_add_test(t, deepspeed_files_load);
  tcase_add_test(t, deepspeed_values);
  tcase_add_test(t, warmup_defaults_are_deepspeeds);
  tcase_add_test(t, deepspeed_config_file_forms);
  tcase_add_test(t, json_refusals);
  tcase_add_test(t, manual_lists_the_tables);
  tcase_add_test(t, tables_point_at_rows);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  char command[300];
  snprintf(command, sizeof command, "rm -rf %s", dir);
  return system(command) != 0 || failed != 0;
}
