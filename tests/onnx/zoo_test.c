// The zoo: each model imports, is trained where the reference trains, and computes what the reference
// computes.
#include "graph/pass.h"
#include "onnx_test.h"

// The globs of hf_llama_tiny's case.yaml; the other cases have none.
static const char *const llama_frozen[] = {"*inv_freq*", "unsqueeze_14", "unsqueeze_15"};

static zg_import_options options(const char *name) {
  bool llama = !strcmp(name, "hf_llama_tiny");
  bool train = !strcmp(name, "torch_cnn_digits") || !strcmp(name, "torch_cnn_digits_ts") ||
               !strcmp(name, "torch_resnet_small");
  return (zg_import_options){
      .batch_norm_train = train, .frozen = llama_frozen, .n_frozen = llama ? ZG_COUNT(llama_frozen) : 0};
}

static zg_npz *open_case(setup *s, const char *name) {
  zg_npz *reference;
  *s = (setup){.prefix = "", .batches = true};
  ok(zg_onnx_load(zoo_file(name, "model.onnx"), &s->m));
  ok(zg_npz_open(zoo_file(name, "data.npz"), &s->data));
  ok(zg_npz_open(zoo_file(name, "reference.npz"), &reference));
  ok(import_with(s, options(name)));
  return reference;
}

START_TEST(trainable) {
  setup s;
  zg_npz *ref = open_case(&s, zoo[_i]);
  size_t n_want = 0, n_have = 0;
  char key[256];
  for (size_t i = 0; i < zg_npz_count(ref); i++) n_want += !strncmp(zg_npz_name(ref, i), "grad/", 5);
  for (size_t i = 0; i < s.g->nodes.n; i++) {
    const zg_node *n = &s.g->nodes.at[i];
    const zg_param_attr *a = n->attr;
    if (n->op != &zg_op_param || a->role != ZG_ROLE_TRAINABLE) continue;
    snprintf(key, sizeof key, "grad/%s", a->name);
    ck_assert_msg(zg_npz_find(ref, key) >= 0, "%s: %s is trained (%s), not in the reference", zoo[_i],
                  a->name, a->reason);
    ck_assert_msg(a->reason && *a->reason, "%s has no reason", a->name);
    n_have++;
  }
  ck_assert_uint_eq(n_have, n_want);
  zg_npz_close(ref);
  done(&s);
}
END_TEST

START_TEST(outputs) {
  setup s;
  zg_npz *ref = open_case(&s, zoo[_i]);
  ok(zg_graph_verify(s.g));
  ck_assert_int_gt(compare_outputs(&s, ref, 2e-5), 0);
  zg_npz_close(ref);
  done(&s);
}
END_TEST

// Running statistics are updated exactly where BatchNormalization trains.
START_TEST(running_statistics) {
  setup s;
  zg_npz *ref = open_case(&s, "torch_cnn_digits");
  size_t n = 0;
  for (size_t i = 0; i < s.g->outputs.n; i++) {
    const zg_output *o = &s.g->outputs.at[i];
    if (o->kind != ZG_OUT_UPDATE) continue;
    ck_assert(zg_is_op(s.g, o->target, &zg_op_param));
    ck_assert_int_eq(((const zg_param_attr *)zg_node_of(s.g, o->target)->attr)->role, ZG_ROLE_RUNNING);
    n++;
  }
  ck_assert_uint_eq(n, 4);
  zg_npz_close(ref);
  done(&s);
}
END_TEST

// What exporters spell out is recognised: how many of each op the passes leave. Every norm and every attention of these models.
static const struct { const char *name; uint32_t rms_norm, layer_norm, rotary, attention; } counts[] = {
    {"hf_llama_tiny", 5, 0, 4, 2}, {"hf_gpt2_raw", 0, 5, 0, 2},  {"hf_gpt2_tiny", 0, 5, 0, 2}, {"jax_transformer", 2, 3, 0, 2},
    {"nanogpt_tiny", 0, 5, 0, 2},  {"hf_bert_tiny", 0, 5, 0, 2}, {"hf_vit_tiny", 0, 5, 0, 2},
};

START_TEST(recognised) {
  static zg_status (*const passes[])(const zg_graph *, zg_graph **) = {zg_pass_opt_simplify, zg_pass_opt_layer_norm,
                                                                       zg_pass_opt_rms_norm, zg_pass_opt_rotary, zg_pass_opt_attention};
  setup s;
  zg_npz *ref = open_case(&s, counts[_i].name);
  zg_graph *g = s.g, *next;
  uint32_t rms = 0, layer = 0, rotary = 0, attention = 0;
  for (size_t i = 0; i < ZG_COUNT(passes); i++) {
    ok(passes[i](g, &next));
    ok(zg_graph_verify(next));
    if (g != s.g) zg_graph_free(g);
    g = next;
  }
  for (size_t i = 0; i < g->nodes.n; i++) {
    const zg_op *op = g->nodes.at[i].op;
    rms += op == &zg_op_rms_norm, layer += op == &zg_op_layer_norm, rotary += op == &zg_op_rotary, attention += op == &zg_op_flash_attention;
  }
  zg_graph_free(g);
  ck_assert_uint_eq(rms, counts[_i].rms_norm);
  ck_assert_uint_eq(layer, counts[_i].layer_norm);
  ck_assert_uint_eq(rotary, counts[_i].rotary);
  ck_assert_uint_eq(attention, counts[_i].attention);
  zg_npz_close(ref);
  done(&s);
}
END_TEST

int main(void) {
  Suite *s = suite_create("onnx zoo");
  TCase *t = tcase_create("zoo");
  suite_add_tcase(s, t);
  tcase_set_timeout(t, 60);
  tcase_add_loop_test(t, trainable, 0, ZG_COUNT(zoo));
  tcase_add_loop_test(t, outputs, 0, ZG_COUNT(zoo));
  tcase_add_test(t, running_statistics);
  tcase_add_loop_test(t, recognised, 0, ZG_COUNT(counts));
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int n = srunner_ntests_failed(r);
  srunner_free(r);
  return n != 0;
}
