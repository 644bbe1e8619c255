// Import: control flow, functions and sequences against onnxruntime's results; what becomes of each tensor;
// messages.
#include "onnx_test.h"

static void open_fixture(setup *s, const char *name) {
  *s = (setup){.prefix = "in/"};
  ok(zg_onnx_load(fixture(name, ".onnx"), &s->m));
  ok(zg_npz_open(fixture(name, ".npz"), &s->data));
}

static void import_fixture(setup *s, const char *name, zg_import_options o) {
  open_fixture(s, name);
  ok(import_with(s, o));
}

static const char *const models[] = {"functions", "if_folded",  "loop",       "scan",     "sequences",
                                     "typed",     "sparse",     "external",   "careless", "minus_dim",
                                     "half",      "parameters", "side_branch", "weights", "merged", "tables", "apart",
                                     "old_ir"};

START_TEST(values) {
  setup s;
  open_fixture(&s, models[_i]);
  ok(import_with(&s, (zg_import_options){0}));
  ok(zg_graph_verify(s.g));
  ck_assert_int_gt(compare_outputs(&s, s.data, !strcmp(models[_i], "half") ? 4e-3 : 2e-6), 0);
  done(&s);
}
END_TEST

// ---- parameters
// ---------------------------------------------------------------------------------------------------------
static const zg_param_attr *param(const zg_graph *g, const char *name) {
  zg_val v = zg_find_leaf(g, name);
  return zg_is_op(g, v, &zg_op_param) ? zg_node_of(g, v)->attr : NULL;
}

static void has_role(const zg_graph *g, const char *name, zg_param_role role, const char *reason) {
  const zg_param_attr *a = param(g, name);
  ck_assert_msg(a != NULL, "no param %s", name);
  ck_assert_msg(a->role == (int64_t)role, "%s has role %d (%s)", name, (int)a->role, a->reason);
  ck_assert_msg(strstr(a->reason, reason) != NULL, "%s: reason is \"%s\"", name, a->reason);
}

START_TEST(roles) {
  setup s;
  import_fixture(&s, "parameters", (zg_import_options){0});
  has_role(s.g, "train_wt", ZG_ROLE_TRAINABLE, "of Gemm \"c\", through Transpose");
  has_role(s.g, "train_bias1", ZG_ROLE_TRAINABLE, "2 of Gemm");
  has_role(s.g, "train_gain", ZG_ROLE_TRAINABLE, "BatchNormalization \"bn\"");
  has_role(s.g, "train_shift", ZG_ROLE_TRAINABLE, "BatchNormalization");
  has_role(s.g, "train_mm", ZG_ROLE_TRAINABLE, "1 of MatMul");
  has_role(s.g, "running_mean", ZG_ROLE_RUNNING, "running mean of BatchNormalization \"bn\"");
  has_role(s.g, "running_var", ZG_ROLE_RUNNING, "running variance");
  has_role(s.g, "train_const", ZG_ROLE_TRAINABLE, "of MatMul \"e\"; a Constant node in a weight slot");
  has_role(s.g, "frozen_const", ZG_ROLE_FROZEN, "Constant node in no weight slot");
  static const char *const consts[] = {"const_rank0", "const_one_arith", "const_small", "const_int"};
  for (size_t i = 0; i < ZG_COUNT(consts); i++)
    ck_assert_msg(!param(s.g, consts[i]), "%s is a param", consts[i]);
  done(&s);
}
END_TEST

START_TEST(globs) {
  setup s;
  static const char *const trainable[] = {"train_*", "frozen_const"}, *const frozen[] = {"*_mm"};
  import_fixture(&s, "parameters", (zg_import_options){.trainable = trainable, .n_trainable = 2, .frozen = frozen, .n_frozen = 1});
  has_role(s.g, "train_wt", ZG_ROLE_TRAINABLE, "train_*");
  has_role(s.g, "train_mm", ZG_ROLE_FROZEN, "*_mm");
  has_role(s.g, "frozen_const", ZG_ROLE_TRAINABLE, "named");
  has_role(s.g, "running_mean", ZG_ROLE_RUNNING, "running mean");
  done(&s);
  static const char *const only[] = {"*gain"};
  import_fixture(&s, "parameters", (zg_import_options){.trainable = only, .n_trainable = 1});
  has_role(s.g, "train_gain", ZG_ROLE_TRAINABLE, "*gain");
  has_role(s.g, "train_wt", ZG_ROLE_FROZEN, "no glob");
  done(&s);
}
END_TEST

START_TEST(half_weights_stay_half) {
  setup s;
  import_fixture(&s, "half", (zg_import_options){0});
  ck_assert_int_eq(param(s.g, "w")->type.dtype, ZG_F16);
  has_role(s.g, "w", ZG_ROLE_TRAINABLE, "MatMul");
  done(&s);
}
END_TEST

START_TEST(weights_wherever_they_are) {
  setup s;
  import_fixture(&s, "weights", (zg_import_options){0});
  has_role(s.g, "const_w", ZG_ROLE_TRAINABLE, "MatMul \"first\"; a Constant node");
  has_role(s.g, "gain", ZG_ROLE_TRAINABLE, "1 of LayerNormalization \"norm\"; made by ConstantOfShape");
  has_role(s.g, "bias", ZG_ROLE_TRAINABLE, "2 of LayerNormalization \"norm\"; made by ConstantOfShape");
  has_role(s.g, "branch_w", ZG_ROLE_TRAINABLE, "MatMul \"in_branch\"; in a branch");
  ck_assert_ptr_null(param(s.g, "step"));   // operand of Mul: a constant of the arithmetic
  done(&s);
  static const char *const trainable[] = {"step"};
  import_fixture(&s, "weights", (zg_import_options){.trainable = trainable, .n_trainable = 1});
  has_role(s.g, "step", ZG_ROLE_TRAINABLE, "named in trainable");
  has_role(s.g, "gain", ZG_ROLE_FROZEN, "no glob");
  ck_assert_int_gt(compare_outputs(&s, s.data, 2e-6), 0);
  done(&s);
}
END_TEST

START_TEST(tables_are_no_weights) {
  setup s;
  zg_onnx_decision d;
  import_fixture(&s, "tables", (zg_import_options){0});
  has_role(s.g, "inv_freq", ZG_ROLE_FROZEN, "frequencies");
  has_role(s.g, "cos_cache", ZG_ROLE_FROZEN, "cosines of rotary positions");
  has_role(s.g, "sin_cache", ZG_ROLE_FROZEN, "sines of rotary positions");
  has_role(s.g, "mask", ZG_ROLE_FROZEN, "for all heads alike");
  has_role(s.g, "learned_wpe", ZG_ROLE_TRAINABLE, "0 of Gather");
  has_role(s.g, "learned_bias", ZG_ROLE_TRAINABLE, "1 of Add");
  has_role(s.g, "shape_source", ZG_ROLE_FROZEN, "reaches no output");
  for (uint32_t i = 0; i < zg_onnx_n_tensors(s.m); i++) {
    ck_assert(zg_onnx_decided(s.m, i, &d));
    ck_assert_msg(*d.reason, "%s has no reason", zg_onnx_tensor_at(s.m, i)->name);
    if (!strcmp(zg_onnx_tensor_at(s.m, i)->name, "one")) ck_assert_int_eq(d.verdict, ZG_DECIDED_CONSTANT);
  }
  ck_assert(!zg_onnx_decided(s.m, zg_onnx_n_tensors(s.m), &d));
  done(&s);
  static const char *const named[] = {"inv_freq", "mask"};   // the configuration's word counts
  import_fixture(&s, "tables", (zg_import_options){.trainable = named, .n_trainable = 2});
  has_role(s.g, "inv_freq", ZG_ROLE_TRAINABLE, "trainable: \"inv_freq\"");
  has_role(s.g, "mask", ZG_ROLE_TRAINABLE, "trainable: \"mask\"");
  done(&s);
}
END_TEST

// ---- merged and split parameters
// -----------------------------------------------------------------------------------------------------------------
START_TEST(untied) {
  setup s;
  uint32_t n;
  open_fixture(&s, "merged");
  ok(zg_onnx_untie(s.m, &n));
  // ones: ln1, ln2, the shared ln3 and ln3b; zeros: those and the bias. One of each keeps the tensor of the file.
  ck_assert_uint_eq(n, 5);
  ok(zg_onnx_untie(s.m, &n));
  ck_assert_uint_eq(n, 0);
  ok(import_with(&s, (zg_import_options){0}));
  has_role(s.g, "ones", ZG_ROLE_TRAINABLE, "LayerNormalization \"ln1\"");
  has_role(s.g, "ln2.weight", ZG_ROLE_TRAINABLE, "LayerNormalization \"ln2\"; untied from \"ones\"");
  has_role(s.g, "ones@ln3", ZG_ROLE_TRAINABLE, "LayerNormalization \"ln3\"; untied from \"ones\"");
  has_role(s.g, "zeros@bias1", ZG_ROLE_TRAINABLE, "Add \"bias1\"; untied from \"zeros\"");
  has_role(s.g, "zeros@ln2", ZG_ROLE_TRAINABLE, "2 of LayerNormalization");
  has_role(s.g, "zeros@ln3", ZG_ROLE_TRAINABLE, "2 of LayerNormalization");
  ck_assert_ptr_null(param(s.g, "ones@ln3b"));   // ln3 and ln3b are one module: their matrix says so
  ck_assert_int_gt(compare_outputs(&s, s.data, 2e-6), 0);
  done(&s);
}
END_TEST

START_TEST(left_together) {
  setup s;
  uint32_t n;
  open_fixture(&s, "apart");
  ok(zg_onnx_untie(s.m, &n));
  ck_assert_uint_eq(n, 0);
  ok(import_with(&s, (zg_import_options){0}));
  has_role(s.g, "steps", ZG_ROLE_FROZEN, "Constant node in no weight slot");   // no rows: no table of embeddings
  done(&s);
}
END_TEST

START_TEST(tied) {
  setup s;
  static const char *const names[] = {"emb", "head"}, *const wrong[] = {"emb", "haed"}, *const apart[] = {"emb", "w1"};
  open_fixture(&s, "merged");
  ok(zg_onnx_tie(s.m, names, 2));
  ok(zg_onnx_tie(s.m, names, 2));
  ok(import_with(&s, (zg_import_options){0}));
  has_role(s.g, "emb", ZG_ROLE_TRAINABLE, "Gather");
  ck_assert_ptr_null(param(s.g, "head"));
  ck_assert_int_gt(compare_outputs(&s, s.data, 2e-6), 0);
  fails(zg_onnx_tie(s.m, wrong, 2), ZG_INVALID, "did you mean \"head\"?");
  fails(zg_onnx_tie(s.m, apart, 2), ZG_INVALID, "\"emb\" is f32[6,4], \"w1\" is f32[4,4]");
  fails(zg_onnx_tie(s.m, names, 1), ZG_INVALID, "at least two");
  static const char *const chain[] = {"layer_w", "w1"}, *const longer[] = {"layer_v", "layer_w"};
  ok(zg_onnx_tie(s.m, chain, 2));
  fails(zg_onnx_tie(s.m, longer, 2), ZG_INVALID, "\"layer_w\" is named twice");   // what follows w1 would follow layer_v
  fails(zg_onnx_tie(s.m, (const char *const[]){"w1", "layer_v"}, 2), ZG_INVALID, "is named twice");
  done(&s);
}
END_TEST

// ---- the export doctor
// -----------------------------------------------------------------------------------------------------------------
static const struct { const char *file, *kind, *what; } found[] = {
    {"merged", "merged parameters", "\"ones\" is read as gain or bias by 4 nodes, the first \"ln1\": 3 parameters"},
    {"merged", "merged parameters", "\"zeros\" is read as gain or bias by 5 nodes, the first \"ln1\": 4 parameters"},
    {"merged", "broken tie", "\"head\" is a transposed copy of \"emb\""},
    {"merged", "missing biases", "layers have no bias: \"e\""},
    {"damaged", "renamed parameters", "2 trained tensors with made-up names: \"val_7\", \"onnx::MatMul_9\""},
    {"damaged", "folded BatchNormalization", "\"conv\""},
    {"damaged", "idle Dropout", "\"drop\""},
    {"damaged", "half-precision weights", "\"half.weight\""},
    {"damaged", "quantised weights", "\"stored\""},
    {"damaged", "unread tensors", "\"left_over\""},
    {"damaged", "fixed batch size", "\"x\""},
    {"damaged", "probabilities", "output \"probs\" ends in Softmax \"soft\""},
    {"damaged", "decisions", "output \"choice\" is made by ArgMax \"pick\""},
    {"damaged", "wrong shapes", "1 declared types are wrong, the first that of \"r\""},
    {"parameters", "BatchNormalization", "1 node: \"bn\""},
    {"parameters", "weights in nodes", "\"train_const\""},
    {"tables", "tables of positions and masks", "\"cos_cache\", \"sin_cache\""},
    {"tables", "tables of positions and masks", "\"inv_freq\""},
    {"tables", "tables of positions and masks", "\"mask\""},
    {"tables", "no gradient", "\"shape_source\""},
    {"no_bias", "missing biases", "1 layer has no bias: \"dense1\""},
    {"no_bias", "no Dropout", "no Dropout"},
    {"rewritten", "folded BatchNormalization", "1 node holds a norm that followed it, and the file has no BatchNormalization: \"a\""},
    {"rewritten", "missing biases", "1 layer has no bias: \"fc\""},
};

START_TEST(findings) {
  zg_onnx_model *m;
  zg_graph *g;
  zg_arena mem = {0};
  zg_onnx_findings f = {0};
  bool seen = false;
  ok(zg_onnx_load(fixture(found[_i].file, ".onnx"), &m));
  ok(zg_onnx_import(m, &(zg_import_options){.default_dim = 2}, &g));
  zg_onnx_examine(m, &mem, &f);
  for (size_t i = 0; i < f.n; i++) {
    seen |= !strcmp(f.at[i].kind, found[_i].kind) && strstr(f.at[i].what, found[_i].what);
    ck_assert(*f.at[i].effect && *f.at[i].remedy);
  }
  ck_assert_msg(seen, "%s: no finding \"%s\" with %s", found[_i].file, found[_i].kind, found[_i].what);
  zg_vec_fini(&f);
  zg_arena_fini(&mem);
  zg_graph_free(g);
  zg_onnx_free(m);
}
END_TEST

// A file that was exported for training has nothing but notes.
static const char *const sound[] = {"hf_gpt2_raw", "flax_mlp", "nanogpt_tiny", "torch_resnet_small"};

START_TEST(sound_files_have_no_damage) {
  static const char *const damage[] = {"merged parameters", "broken tie", "folded BatchNormalization", "missing biases", "quantised weights"};
  setup s = {0};
  zg_arena mem = {0};
  zg_onnx_findings f = {0};
  ok(zg_onnx_load(zoo_file(sound[_i], "model.onnx"), &s.m));
  ok(zg_onnx_import(s.m, &(zg_import_options){.default_dim = 2}, &s.g));
  zg_onnx_examine(s.m, &mem, &f);
  for (size_t i = 0; i < f.n; i++)
    for (size_t k = 0; k < ZG_COUNT(damage); k++)
      ck_assert_msg(strcmp(f.at[i].kind, damage[k]), "%s: %s: %s", sound[_i], f.at[i].kind, f.at[i].what);
  zg_vec_fini(&f);
  zg_arena_fini(&mem);
  zg_graph_free(s.g);
  zg_onnx_free(s.m);
}
END_TEST

// ---- dims
// -----------------------------------------------------------------------------------------------------------------
static zg_status import_file(const char *path, const zg_import_options *o, zg_type *first_input) {
  zg_onnx_model *m;
  zg_graph *g = NULL;
  zg_status s = zg_onnx_load(path, &m);
  if (s) return s;
  s = zg_onnx_import(m, o, &g);
  for (size_t i = 0; g && first_input && i < g->nodes.n; i++)
    if (g->nodes.at[i].op == &zg_op_input) *first_input = ((const zg_input_attr *)g->nodes.at[i].attr)->type;
  zg_graph_free(g);
  zg_onnx_free(m);
  return s;
}

START_TEST(dims) {
  const char *path = zoo_file("torch_mlp_digits", "model.onnx");
  zg_type t = {0};
  fails(import_file(path, &(zg_import_options){0}, NULL), ZG_INVALID, "dims: {batch: N}");
  const zg_dim_binding five = {"batch", 5};
  ok(import_file(path, &(zg_import_options){.dims = &five, .n_dims = 1}, &t));
  ck_assert_int_eq(t.dim[0], 5);
  ok(import_file(path, &(zg_import_options){.default_dim = 3}, &t));
  ck_assert_int_eq(t.dim[0], 3);
  const char *name = "x";
  int64_t d[3] = {7, 64, 1};
  zg_type given = zg_type_make(ZG_F32, 2, d);
  ok(import_file(path, &(zg_import_options){.input_types = &given, .input_names = &name, .n_inputs = 1}, &t));
  ck_assert_int_eq(t.dim[0], 7);
  given.dim[1] = 63;
  fails(import_file(path, &(zg_import_options){.input_types = &given, .input_names = &name, .n_inputs = 1},
                    NULL),
        ZG_INVALID, "dim 1 is 64 in the model, the data give f32[7,63]");
  given = zg_type_make(ZG_F32, 3, d);
  fails(import_file(path, &(zg_import_options){.input_types = &given, .input_names = &name, .n_inputs = 1},
                    NULL),
        ZG_INVALID, "2 dims");
}
END_TEST

START_TEST(messages) {
  static const struct {
    const char *file;
    zg_code code;
    const char *part[2];
  } bad[] = {
      {"bad_op",
       ZG_UNSUPPORTED,
       {"node \"f0\" (Frobnicate, domain \"ai.onnx\", opset 20)", "cut this part off"}},
      {"bad_domain",
       ZG_UNSUPPORTED,
       {"node \"f1\" (FusedThing, domain \"com.acme\", opset 1)", "model-local function"}},
      {"bad_cycle", ZG_INVALID, {"cycle", "c"}},
      {"bad_name", ZG_INVALID, {"node \"a0\" (Add-20)", "\"nowhere\""}},
      {"bad_twice", ZG_INVALID, {"\"y\" is made by two nodes", "n0"}},
      {"bad_tensor", ZG_CORRUPT, {"tensor \"w\"", "holds 13 bytes"}},
      {"bad_if", ZG_UNSUPPORTED, {"node \"choose\" (If-20)", "depends on the data"}},
      {"bad_recursion", ZG_INVALID, {"without end", "Again"}},
      {"bad_shape", ZG_UNSUPPORTED, {"node \"nz\" (NonZero-20)", "depends on data"}},
      {"bad_tree", ZG_UNSUPPORTED, {"node \"forest\" (TreeEnsembleRegressor", "classical machine learning"}},
      {"bad_string", ZG_UNSUPPORTED, {"tensor \"s\"", "STRING"}},
  };
  for (size_t i = 0; i < ZG_COUNT(bad); i++) {
    for (int k = 0; k < 2; k++) {
      zg_status s = import_file(fixture(bad[i].file, ".onnx"), &(zg_import_options){.default_dim = 2}, NULL);
      if (s && !k)
        ck_assert_msg(strstr(zg_status_message(s), bad[i].file) != NULL, "file is not named: %s",
                      zg_status_message(s));
      if (!s && !strcmp(bad[i].file, "bad_tensor")) {  // a weight's bytes are read when they are asked for
        zg_onnx_model *m;
        const void *p;
        ok(zg_onnx_load(fixture(bad[i].file, ".onnx"), &m));
        s = zg_onnx_tensor_bytes(m, 0, &p);
        zg_onnx_free(m);
      }
      fails(s, bad[i].code, bad[i].part[k]);
    }
  }
}
END_TEST

int main(void) {
  Suite *s = suite_create("onnx import");
  TCase *t = tcase_create("import");
  suite_add_tcase(s, t);
  tcase_add_loop_test(t, values, 0, ZG_COUNT(models));
  tcase_add_test(t, roles);
  tcase_add_test(t, globs);
  tcase_add_test(t, weights_wherever_they_are);
  tcase_add_test(t, tables_are_no_weights);
  tcase_add_loop_test(t, findings, 0, ZG_COUNT(found));
  tcase_add_loop_test(t, sound_files_have_no_damage, 0, ZG_COUNT(sound));
  tcase_add_test(t, untied);
  tcase_add_test(t, left_together);
  tcase_add_test(t, tied);
  tcase_add_test(t, half_weights_stay_half);
  tcase_add_test(t, dims);
  tcase_add_test(t, messages);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int n = srunner_ntests_failed(r);
  srunner_free(r);
  return n != 0;
}
