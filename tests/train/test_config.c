// Loading configuration: our own sections, merging, --set, origins, messages.
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "train/config_priv.h"

static char dir[] = "/tmp/zg_config_XXXXXX";

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

static zg_status load2(const char *a, const char *b, const char *set, zg_config **out) {
  const char *files[2] = {0};
  size_t n = 0;
  if (a) files[n++] = file("a.yaml", a);
  if (b) files[n++] = file("b.yaml", b);
  return zg_config_load(files, n, set ? &set : NULL, set != NULL, out);
}

static zg_config *good(const char *a, const char *b, const char *set) {
  zg_config *cfg = NULL;
  zg_status status = load2(a, b, set, &cfg);
  ck_assert_msg(!status, "%s", zg_status_message(status));
  return cfg;
}

static void bad(const char *a, const char *set, const char *part) {
  zg_config *cfg = NULL;
  zg_status status = load2(a, NULL, set, &cfg);
  ck_assert_msg(status != NULL, "no error for: %s %s", a ? a : "", set ? set : "");
  ck_assert_ptr_null(cfg);
  ck_assert_msg(strstr(zg_status_message(status), part), "\"%s\" is not in: %s", part,
                zg_status_message(status));
  zg_status_free(status);
}

START_TEST(defaults) {
  zg_config *c = good(NULL, NULL, NULL);
  ck_assert_ptr_null(c->model);
  ck_assert_int_eq(c->optimizer.type, ZG_CFG_OPT_ADAMW);
  ck_assert(c->optimizer.lr == 1e-3 && c->optimizer.betas[1] == 0.999 && c->optimizer.weight_decay == 0.01);
  ck_assert_str_eq(zg_config_origin(c, "optimizer.weight_decay"), "default of adamw");
  ck_assert(c->training.gradient_clipping == 1.0);
  ck_assert_int_eq(c->training.steps, ZG_UNSET);
  ck_assert_int_eq(c->training.epochs, 1);
  ck_assert_int_eq(c->memory.budget, ZG_UNSET);
  ck_assert_int_eq(c->dropout.mode, ZG_CFG_DROPOUT_GRAPH);
  ck_assert_int_eq(c->zero.stage, 0);
  ck_assert_int_eq(c->num_processes, 1);
  ck_assert(!zg_config_given(c, "data.train.path"));
  zg_status status = zg_config_require(c, "data.train.path");
  ck_assert(status && strstr(zg_status_message(status), "--set data.train.path="));
  zg_status_free(status);
  zg_config_free(c);
}
END_TEST

// The example of the manual, every section.
START_TEST(all_sections) {
  zg_config *c = NULL;
  const char *path = ZG_FIXTURES "run.yaml";
  zg_status status = zg_config_load(&path, 1, NULL, 0, &c);
  ck_assert_msg(!status, "%s", zg_status_message(status));
  ck_assert_str_eq(c->model, "gpt.onnx");
  ck_assert_uint_eq(c->dims.n, 2);
  ck_assert_str_eq(c->dims.at[1].key, "seq");
  ck_assert_int_eq(c->dims.at[1].value, 256);
  ck_assert_int_eq(c->data.train.batch_size, 8);
  ck_assert_int_eq(c->data.eval.batch_size, 8);
  ck_assert_int_eq(c->data.eval.seq_len, 256);
  ck_assert_int_eq(c->data.eval.every, 200);
  ck_assert_str_eq(c->data.inputs.at[0].value, "tokens");
  ck_assert_uint_eq(c->loss.n, 1);
  ck_assert(c->loss.at[0].shift && c->loss.at[0].ignore_index == -100 && c->loss.at[0].weight == 1.0);
  ck_assert_str_eq(c->trainable.at[0], "*");
  ck_assert_uint_eq(c->ties.n, 1);
  ck_assert_str_eq(c->ties.at[0].at[1], "val_152");
  ck_assert_int_eq(c->untie, ZG_CFG_UNTIE_AUTO);
  ck_assert(c->optimizer.lr == 3e-4 && c->optimizer.betas[1] == 0.95);
  ck_assert_uint_eq(c->optimizer.groups.n, 1);
  ck_assert(c->optimizer.groups.at[0].weight_decay == 0 && isnan(c->optimizer.groups.at[0].lr));
  ck_assert_uint_eq(c->optimizer.groups.at[0].match.n, 2);
  ck_assert_int_eq(c->lr_scheduler.type, ZG_CFG_LR_COSINE);
  ck_assert(c->lr_scheduler.min_lr_ratio == 0.1 && isnan(c->lr_scheduler.min_lr));
  ck_assert_int_eq(c->training.epochs, ZG_UNSET);
  ck_assert_int_eq(c->memory.budget, 16ll << 30);
  ck_assert_int_eq(c->device, ZG_CFG_DEVICE_AUTO);
  ck_assert(strstr(zg_config_origin(c, "optimizer.lr"), "run.yaml:17:30"));
  zg_config_free(c);
}
END_TEST

START_TEST(later_wins) {
  zg_config *c = good(
      "optimizer: {type: sgd, lr: 0.1, momentum: 0.9}\nloss: {kind: mse}\ndata: {inputs: {a: x, b: y}}\n",
      "optimizer: {lr: 0.2}\nloss: {prediction: out}\ndata: {inputs: {b: z}}\n", "optimizer.lr=3e-4");
  ck_assert(c->optimizer.lr == 3e-4 && c->optimizer.momentum == 0.9);
  ck_assert_str_eq(zg_config_origin(c, "optimizer.lr"), "--set");
  ck_assert(strstr(zg_config_origin(c, "optimizer.momentum"), "a.yaml:1:43"));
  ck_assert_int_eq(c->loss.at[0].kind, ZG_CFG_LOSS_MSE);
  ck_assert_str_eq(c->loss.at[0].logits, "out");
  ck_assert_uint_eq(c->data.inputs.n, 2);
  ck_assert_str_eq(c->data.inputs.at[1].value, "z");
  zg_config_free(c);
  c = good("training: {steps: 10, seed: 4}\n", NULL, "training.steps=");  // null gives the default back
  ck_assert_int_eq(c->training.steps, ZG_UNSET);
  zg_config_free(c);
  c = good("loss: [{kind: mse}, {kind: l1, weight: 2}]\n", "loss: [{kind: huber, delta: 2}]\n",
           "data.inputs.enc.in=x");
  ck_assert_uint_eq(c->loss.n, 1);
  ck_assert(c->loss.at[0].delta == 2);
  ck_assert_str_eq(c->data.inputs.at[0].key, "enc.in");
  zg_config_free(c);
}
END_TEST

START_TEST(numbers_with_names) {
  const struct {
    const char *text;
    int64_t want;
  } rows[] = {{"auto", ZG_CFG_LOSS_CHUNK_AUTO}, {"off", ZG_CFG_LOSS_CHUNK_OFF}, {"'off'", ZG_CFG_LOSS_CHUNK_OFF}, {"512", 512}};
  for (size_t i = 0; i < 4; i++) {
    char text[64];
    snprintf(text, sizeof text, "memory: {loss_chunk: %s, recompute: 'off'}\n", rows[i].text);
    zg_config *c = good(text, NULL, NULL);
    ck_assert_int_eq(c->memory.loss_chunk, rows[i].want);
    ck_assert_int_eq(c->memory.recompute, ZG_CFG_RECOMPUTE_NONE);
    zg_config_free(c);
  }
}
END_TEST

START_TEST(words_that_yaml_reads_as_booleans) {
  zg_config *c =
      good("dropout: off\nmixed_precision: no\nuntie: off\nmemory: {recompute: off}\ndistributed_type: NO\n",
           NULL, NULL);
  ck_assert_int_eq(c->dropout.mode, ZG_CFG_DROPOUT_OFF);
  ck_assert_int_eq(c->mixed_precision, ZG_CFG_MIXED_NO);
  ck_assert_int_eq(c->memory.recompute, ZG_CFG_RECOMPUTE_NONE);
  ck_assert_int_eq(c->distributed_type, ZG_CFG_DIST_NO);
  zg_config_free(c);
  c = good("dropout: 'off'\nmixed_precision: 'no'\ntrainable: [12, w]\ntraining: {steps: 1e3, seed: 5.0}\n",
           NULL, "dropout=0.25");
  ck_assert(c->dropout.mode == ZG_CFG_DROPOUT_RATIO && c->dropout.ratio == 0.25);
  ck_assert_str_eq(c->trainable.at[0], "12");
  ck_assert_int_eq(c->training.steps, 1000);
  ck_assert_int_eq(c->training.seed, 5);
  zg_config_free(c);
}
END_TEST

START_TEST(sizes) {
  static const struct {
    const char *text;
    int64_t bytes;
  } cases[] = {{"16GiB", 16ll << 30}, {"512 MiB", 512ll << 20}, {"1.5GiB", 3ll << 29},
               {"2GB", 2000000000},   {"4096", 4096},           {"100kb", 100000}};
  for (size_t i = 0; i < ZG_COUNT(cases); i++) {
    char set[64];
    snprintf(set, sizeof set, "memory.budget=%s", cases[i].text);
    zg_config *c = good(NULL, NULL, set);
    ck_assert_int_eq(c->memory.budget, cases[i].bytes);
    zg_config_free(c);
  }
}
END_TEST

START_TEST(batch_sizes_complete_each_other) {
  zg_config *c = good("num_processes: 4\ntraining: {train_batch_size: 64, gradient_accumulation_steps: 2}\n",
                      NULL, NULL);
  ck_assert_int_eq(c->data.train.batch_size, 8);
  zg_config_free(c);
  c = good("num_processes: 4\ntraining: {train_batch_size: 64}\ndata: {train: {batch_size: 4}}\n", NULL,
           NULL);
  ck_assert_int_eq(c->training.gradient_accumulation_steps, 4);
  zg_config_free(c);
  bad("training: {train_batch_size: 64, gradient_accumulation_steps: 3}\ndata: {train: {batch_size: 4}}\n",
      NULL, "= 12");
  bad("num_processes: 3\ntraining: {train_batch_size: 64}\n", NULL, "do not divide over");
}
END_TEST

START_TEST(errors_name_place_and_fix) {
  bad("optimizer:\n  learning_rate: 1\n  lrr: 2\n", NULL,
      "a.yaml:2:3: unknown key \"learning_rate\" in optimizer");
  bad("optimizer: {lrr: 2}\n", NULL, "did you mean \"lr\"?\n  optimizer: {lrr: 2}\n              ^");
  bad("optimzer: {lr: 2}\n", NULL, "did you mean \"optimizer\"?");
  bad("lr: 2\n", NULL, "did you mean \"optimizer.lr\"?");
  bad("optimizer.lr: 2\n", NULL, "unknown key \"optimizer.lr\"");
  bad("optimizer: 3\n", NULL, "want a mapping of its keys");
  bad("optimizer: {type: adm}\n", NULL, "did you mean adam");
  bad("optimizer: {type: [a]}\n", NULL, "want one of its names");
  bad("optimizer: {lr: fast}\n", NULL, "optimizer.lr is a string (fast), want a number");
  bad("optimizer: {lr: -1}\n", NULL, "want 0 or more");
  bad("optimizer: {lr: .nan}\n", NULL, "finite");
  bad("optimizer: {betas: [0.9]}\n", NULL, "has 1 entries, want two");
  bad("optimizer: {betas: [0.9, 1]}\n", NULL, "want 0 to 1");
  bad("optimizer: {groups: [{mach: x}]}\n", NULL, "did you mean \"match\"?");
  bad("optimizer: {groups: [{lr: 1}]}\n", NULL, "no `match: [globs]`");
  bad("optimizer: {type: sgd, nesterov: true}\n", NULL, "needs momentum");
  bad("training: {steps: 1.5}\n", NULL, "want an integer");
  bad("training: {steps: -1}\n", NULL, "want 0 or more");
  bad("training: {steps: yes}\n", NULL, "is a boolean (yes), want an integer");
  bad("training: {output_dir: no}\n", NULL, "put the text into quotes");
  bad("memory: {budget: 16GX}\n", NULL, "\"GX\" is no unit");
  bad("memory: {budget: 0}\n", NULL, "positive size");
  bad("dropout: 1.0\n", NULL, "want a ratio");
  bad("loss: {kind: mse, logits: a, prediction: b}\n", NULL, "keep one");
  bad("loss: 3\n", NULL, "want a mapping or a list of mappings");
  bad("loss: [{}, {}]\n", "loss.shift=true", "give a list to replace it");
  bad("ties: [a, b]\n", NULL, "two or more names");
  bad("lr_scheduler: {min_lr: 0, min_lr_ratio: 0.1}\n", NULL, "keep one of them");
  bad("lr_scheduler: {type: cosine, warmup_steps: 20, total_steps: 10}\n", NULL, "20 steps of warm-up in 10");
  bad("lr_scheduler: {type: wsd, decay_steps: 8, stable_steps: 8, total_steps: 10}\n", NULL,
      "take 16 steps of 10");
  bad("num_processes: 3\nnum_machines: 2\nmain_process_ip: h\n", NULL, "do not divide");
  bad("num_processes: 2\nnum_machines: 2\n", NULL, "main_process_ip");
  bad("machine_rank: 1\n", NULL, "the last of num_machines 1 is 0");
  bad("zero: {stage: 4}\n", NULL, "want 0 to 3");
  bad("zero: {stage: 2, offload_param: {device: cpu}}\n", NULL, "needs zero.stage 3");
  bad("zero: {stage: 3, offload_param: {device: nvme}}\n", NULL, "nvme_path");
  bad("zero: {stage: 3, mics_shard_size: 2}\nnum_processes: 3\n", NULL, "do not divide");
  bad("- a\n", NULL, "the file holds a list");
  bad("yes: 1\n", NULL, "this key is a boolean");
  bad(NULL, "optimizer.lrr=1",
      "--set:1:11: unknown key \"lrr\" in optimizer; did you mean \"lr\"?\n  optimizer.lrr=1\n            ^");
  bad(NULL, "optimizer.lr=x", "--set:1:14: optimizer.lr is a string (x)");
  bad(NULL, "optimizer", "want key.path=value");
  bad(NULL, "=1", "want key.path=value");
}
END_TEST

static zg_status load_name(const char *name) {
  zg_config *cfg = NULL;
  zg_status status = zg_config_load(&name, 1, NULL, 0, &cfg);
  zg_config_free(cfg);
  return status;
}

START_TEST(packaged_names) {
  setenv("ZG_CONFIG_DIR", dir, 1);
  file("special.yaml", "training: {seed: 7}\n");
  zg_status status = load_name("special");
  ck_assert_msg(!status, "%s", zg_status_message(status));
  char old[4096];
  ck_assert(getcwd(old, sizeof old) && !chdir(dir));
  ck_assert(!zg_dir_make("special"));                        // a folder of that name is not meant
  status = load_name("special");
  ck_assert_msg(!status, "%s", zg_status_message(status));
  ck_assert(!chdir(old));
  status = load_name("speciall");
  ck_assert(status && zg_status_code(status) == ZG_NOT_FOUND &&
            strstr(zg_status_message(status), "did you mean \"special\"?"));
  zg_status_free(status);
  status = load_name("no/such.yaml");
  ck_assert(status && zg_status_code(status) == ZG_NOT_FOUND);
  zg_status_free(status);
  unsetenv("ZG_CONFIG_DIR");
}
END_TEST

// Printing gives text that loads to the same values: `zgraph config > all.yaml` would be a configuration.
START_TEST(values_print_as_yaml) {
  zg_config *c = NULL;
  const char *path = ZG_FIXTURES "run.yaml";
  zg_status status = zg_config_load(&path, 1, NULL, 0, &c);
  ck_assert_msg(!status, "%s", zg_status_message(status));
  char *sets[256];
  size_t n = 0;
  for (size_t i = 0; i < zg__config_table.n; i++) {
    zg_str s = {0};
    zg_str_add(&s, "%s=", zg__config_table.keys[i].path);
    zg__key_text(&zg__config_table.keys[i], c, &s);
    sets[n++] = s.at;
  }
  zg_config *again = NULL;
  status = zg_config_load(NULL, 0, (const char *const *)sets, n, &again);
  ck_assert_msg(!status, "%s", zg_status_message(status));
  ck_assert_uint_eq(zg_config_hash(c), zg_config_hash(again));
  again->optimizer.lr *= 2;
  ck_assert_uint_ne(zg_config_hash(c), zg_config_hash(again));
  for (size_t i = 0; i < n; i++) zg_free(sets[i]);
  zg_config_free(c);
  zg_config_free(again);
}
END_TEST

START_TEST(useless_keys_are_noted) {
  zg_config *c = good("optimizer: {type: adamw, momentum: 0.9}\n", NULL, NULL);
  ck_assert_uint_eq(c->notes.n, 1);
  ck_assert(strstr(c->notes.at[0], "optimizer.momentum") &&
            strstr(c->notes.at[0], "has no meaning for adamw"));
  zg_config_free(c);
}
END_TEST

START_TEST(schema_is_well_formed) {
  const zg_key_table *tables[] = {&zg__config_table, &zg__loss_table, &zg__group_table};
  for (size_t t = 0; t < 3; t++)
    for (size_t i = 0; i < tables[t]->n; i++) {
      const zg_key *k = &tables[t]->keys[i];
      ck_assert_int_eq(zg__key_find(tables[t], k->path), (int)i);
      ck_assert_msg(k->doc && *k->doc, "%s has no doc", k->path);
      ck_assert((k->kind == ZG_KEY_ENUM || k->kind == ZG_KEY_COUNT) == (k->choices != NULL));
      ck_assert((k->kind == ZG_KEY_LIST) == (k->sub != NULL));
    }
}
END_TEST

int main(void) {
  if (!mkdtemp(dir)) return 1;
  Suite *s = suite_create("config");
  TCase *t = tcase_create("all");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, defaults);
  tcase_add_test(t, all_sections);
  tcase_add_test(t, later_wins);
  tcase_add_test(t, numbers_with_names);
  tcase_add_test(t, words_that_yaml_reads_as_booleans);
  tcase_add_test(t, sizes);
  tcase_add_test(t, batch_sizes_complete_each_other);
  tcase_add_test(t, errors_name_place_and_fix);
  tcase_add_test(t, packaged_names);
  tcase_add_test(t, values_print_as_yaml);
  tcase_add_test(t, useless_keys_are_noted);
  tcase_add_test(t, schema_is_well_formed);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  char command[300];
  snprintf(command, sizeof command, "rm -rf %s", dir);
  return system(command) != 0 || failed != 0;
}
