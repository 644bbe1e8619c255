// Optimizers, clipping and accumulation in numbers: three steps on fixed gradients, through lower_autodiff (loss = sum w*g)
// and attach_optimizer, against values computed with torch.optim 2.x in f32 (lion, lamb: the papers' formulas in f32; muon:
// Newton-Schulz in f32, where torch rounds to bf16).
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "graph/core.h"
#include "graph/pass.h"

static const float start_w[6] = {0.5f, -1.0f, 2.0f, 0.25f, -0.75f, 1.5f};
static const float grads[3][6] = {{0.3f, -0.2f, 0.1f, 0.4f, -0.5f, 0.6f},
                                  {-0.1f, 0.7f, 0.2f, -0.3f, 0.8f, 0.05f},
                                  {0.9f, 0.1f, -0.6f, 0.2f, 0.15f, -0.4f}};
static const double norms[3] = {0.9539391994476318, 1.1280514001846313, 1.1842719316482544};

static void check_ok(zg_status s) { ck_assert_msg(!s, "%s", s ? zg_status_message(s) : ""); }

// ---- a run: leaves kept by name -----------------------------------------------------------------------------------------
typedef struct { char name[32]; zg_type type; char data[64]; } kept;
typedef struct { kept at[32]; int n; const float *g; double scalar_lr; int step; double b1, b2; bool first_micro; } run;

static kept *keep(run *r, const char *name, const zg_type *t) {
  for (int i = 0; i < r->n; i++)
    if (strcmp(r->at[i].name, name) == 0) return &r->at[i];
  ck_assert_int_lt(r->n, 32);
  kept *k = &r->at[r->n++];
  *k = (kept){.type = *t};
  ck_assert_int_lt(snprintf(k->name, sizeof k->name, "%s", name), (int)sizeof k->name);
  return k;
}

static zg_tensor leaf(void *user, const zg_node *n) {
  run *r = user;
  if (n->op == &zg_op_param) {
    const zg_param_attr *a = n->attr;
    const int before = r->n;
    kept *k = keep(r, a->name, &a->type);
    if (r->n != before) zg_convert(a->type.dtype, k->data, ZG_F32, start_w, 6);
    return (zg_tensor){k->type, k->data};
  }
  if (n->op == &zg_op_state) {
    const zg_state_attr *a = n->attr;
    const int before = r->n;
    kept *k = keep(r, a->name, &a->type);
    if (r->n != before && a->init_from) zg_convert(ZG_F32, k->data, ZG_F32, start_w, 6);
    if (r->n != before && a->role == ZG_STATE_GRAD) memset(k->data, 0xff, sizeof k->data);   // NaN: must not survive
    return (zg_tensor){k->type, k->data};
  }
  const zg_input_attr *a = n->attr;
  kept *k = keep(r, a->name, &a->type);
  if (strcmp(a->name, "g") == 0) {
    memcpy(k->data, r->g, sizeof grads[0]);
  } else {
    const double v = !strcmp(a->name, "@lr")      ? r->scalar_lr
                     : !strcmp(a->name, "@bias1") ? 1 - pow(r->b1, r->step + 1)
                     : !strcmp(a->name, "@bias2") ? 1 - pow(r->b2, r->step + 1)
                     : !strcmp(a->name, "@first") ? r->step == 0
                                                  : r->first_micro;
    zg_set_f64(ZG_F32, k->data, 0, v);
  }
  return (zg_tensor){k->type, k->data};
}

// Evaluates, then writes the updates to their leaves; gives "@grad_norm" if it is an output.
static double step(run *r, const zg_graph *g) {
  zg_tensor *v;
  double norm = -1;
  check_ok(zg_graph_eval(g, leaf, r, &v));
  for (size_t i = 0; i < g->outputs.n; i++) {
    const zg_output *o = &g->outputs.at[i];
    if (strcmp(o->name, "@grad_norm") == 0) norm = zg_get_f64(ZG_F32, v[i].data, 0);
    if (o->kind == ZG_OUT_UPDATE) memcpy(keep(r, o->name, &v[i].type)->data, v[i].data, zg_type_bytes(&v[i].type));
  }
  zg_eval_free(g, v);
  return norm;
}

static zg_graph *gradient_graph(const char *dtype, double seed) {
  char text[512];
  snprintf(text, sizeof text,
           "%%1 = param name=\"w\" type=%s[3,2] role=1\n%%2 = input name=\"g\" type=f32[3,2]\n%%3 = cast %%1 to=f32\n"
           "%%4 = mul %s, %%2\n%%5 = reduce %%4 axes=[0,1]\noutput loss \"loss\" %%5",
           dtype, strcmp(dtype, "f32") ? "%3" : "%1");
  if (strcmp(dtype, "f32") == 0) memmove(strstr(text, "%3 ="), strstr(text, "%4 ="), strlen(strstr(text, "%4 =")) + 1);
  zg_graph *g, *d;
  check_ok(zg_graph_parse(text, "test", &g));
  check_ok(zg_pass_lower_autodiff(g, &(zg_autodiff_options){.seed = seed, .params = true}, &d));
  zg_graph_free(g);
  return d;
}

static void check_run(const zg_opt_spec *o, const char *dtype, const double *want, double tol) {
  zg_graph *g = gradient_graph(dtype, 1), *s;
  check_ok(zg_pass_attach_optimizer(g, o, &s));
  check_ok(zg_graph_verify(s));
  run r = {.scalar_lr = 0.05, .b1 = o->beta1, .b2 = o->beta2};
  for (r.step = 0; r.step < 3; r.step++) {
    r.g = grads[r.step];
    const double norm = step(&r, s);
    ck_assert_msg(fabs(norm - norms[r.step]) < 1e-3 * (strcmp(dtype, "f32") ? 10 : 0.001), "norm %g, want %g", norm, norms[r.step]);
  }
  const zg_type none = {0};
  const kept *w = keep(&r, "w", &none);
  for (int i = 0; i < 6; i++) {
    const double got = zg_get_f64(w->type.dtype, w->data, i);
    ck_assert_msg(fabs(got - want[i]) <= tol, "w[%d] is %.9g, want %.9g", i, got, want[i]);
  }
  zg_graph_free(g);
  zg_graph_free(s);
}

#define WANT(...) (const double[6]){__VA_ARGS__}

START_TEST(sgd_momentum_clipped) {
  const zg_opt_spec o = {.kind = ZG_OPT_SGD, .momentum = 0.9, .dampening = 0.1, .weight_decay = 0.1, .clip = 0.8};
  check_run(&o, "f32", WANT(0.431568116, -0.996306241, 1.9418602, 0.210277185, -0.726623595, 1.40164268), 1e-6);
}
END_TEST
START_TEST(sgd_nesterov) {
  const zg_opt_spec o = {.kind = ZG_OPT_SGD, .momentum = 0.9, .nesterov = true, .weight_decay = 0.1};
  check_run(&o, "f32", WANT(0.357195437, -1.02994323, 1.93334591, 0.19365108, -0.757312417, 1.36979258), 1e-6);
}
END_TEST
START_TEST(sgd_plain) {
  check_run(&(zg_opt_spec){.kind = ZG_OPT_SGD}, "f32",
            WANT(0.444999993, -1.02999997, 2.0150001, 0.234999999, -0.772500038, 1.48749995), 1e-6);
}
END_TEST
START_TEST(adam) {
  const zg_opt_spec o = {.kind = ZG_OPT_ADAM, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
  check_run(&o, "f32", WANT(0.38571918, -0.982815981, 1.89095747, 0.174302384, -0.717841983, 1.38686192), 1e-6);
}
END_TEST
static const double adamw_want[6] = {0.385282159, -0.982693493, 1.88711405, 0.171781048, -0.711553693, 1.38221216};
static const zg_opt_spec adamw_spec = {.kind = ZG_OPT_ADAMW, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 0.8};
START_TEST(adamw) { check_run(&adamw_spec, "f32", adamw_want, 1e-6); }
END_TEST
// A bf16 parameter keeps an f32 master: it differs from the f32 run by its own rounding only (and that of its gradient).
START_TEST(adamw_with_master) { check_run(&adamw_spec, "bf16", adamw_want, 8e-3); }
END_TEST
START_TEST(adagrad) {
  const zg_opt_spec o = {.kind = ZG_OPT_ADAGRAD, .eps = 1e-8, .weight_decay = 0.1};
  check_run(&o, "f32", WANT(0.410939395, -0.994833708, 1.94199097, 0.207460344, -0.743358076, 1.45311642), 1e-6);
}
END_TEST
START_TEST(lion) {
  const zg_opt_spec o = {.kind = ZG_OPT_LION, .beta1 = 0.9, .beta2 = 0.95, .weight_decay = 0.1};
  check_run(&o, "f32", WANT(0.34328615665, -1.03532361984, 1.92089867592, 0.19651748240, -0.78905493021, 1.42836117744), 1e-6);
}
END_TEST
START_TEST(lamb) {
  const zg_opt_spec o = {.kind = ZG_OPT_LAMB, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
  check_run(&o, "f32", WANT(0.30718025565, -1.03247761726, 1.85823833942, 0.14278787374, -0.74350541830, 1.32962691784), 1e-5);
}
END_TEST
START_TEST(muon) {
  const zg_opt_spec o = {.kind = ZG_OPT_MUON, .momentum = 0.95, .nesterov = true, .weight_decay = 0.1};
  check_run(&o, "f32", WANT(0.42521658540, -1.07164168358, 1.93562150002, 0.15883599222, -0.77033680677, 1.45182561874), 1e-5);
}
END_TEST

START_TEST(groups_take_the_first_match) {
  const char *all[] = {"*"}, *w[] = {"w"};
  const zg_opt_group groups[] = {{.lr_scale = 0, .weight_decay = 0, .match = w, .n_match = 1},
                                 {.lr_scale = 1, .weight_decay = 1, .match = all, .n_match = 1}};
  const zg_opt_spec o = {.kind = ZG_OPT_SGD, .groups = groups, .n_groups = 2, .weight_decay = 1};
  check_run(&o, "f32", WANT(0.5, -1, 2, 0.25, -0.75, 1.5), 0);
}
END_TEST

// Two micro-steps with seed 1/2 and plain SGD move w by the mean gradient; the accumulator's old content is gone.
START_TEST(accumulation_is_the_mean) {
  zg_graph *g = gradient_graph("f32", 0.5), *micro, *update, *s;
  check_ok(zg_pass_split_accumulate(g, &micro, &update));
  check_ok(zg_pass_attach_optimizer(update, &(zg_opt_spec){.kind = ZG_OPT_SGD}, &s));
  run r = {.scalar_lr = 0.05, .g = grads[0], .first_micro = true};
  step(&r, micro);
  r.g = grads[1], r.first_micro = false;
  step(&r, micro);
  step(&r, s);
  const kept *w = keep(&r, "w", &(zg_type){0});
  for (int i = 0; i < 6; i++) {
    const double want = start_w[i] - 0.05 * (grads[0][i] + grads[1][i]) / 2;
    ck_assert_double_eq_tol(zg_get_f64(ZG_F32, w->data, i), want, 1e-6);
  }
  zg_graph_free(g);
  zg_graph_free(micro);
  zg_graph_free(update);
  zg_graph_free(s);
}
END_TEST

START_TEST(nothing_trainable_is_an_error) {
  zg_graph *g, *s;
  check_ok(zg_graph_parse("%1 = input name=\"x\" type=f32[]\noutput loss \"l\" %1", "t", &g));
  zg_status e = zg_pass_attach_optimizer(g, &(zg_opt_spec){.kind = ZG_OPT_SGD}, &s);
  ck_assert(e && strstr(zg_status_message(e), "no parameter is trainable"));
  zg_status_free(e);
  zg_graph_free(g);
}
END_TEST

int main(void) {
  Suite *s = suite_create("pass");
  TCase *t = tcase_create("pass");
  tcase_add_test(t, sgd_plain);
  tcase_add_test(t, sgd_momentum_clipped);
  tcase_add_test(t, sgd_nesterov);
  tcase_add_test(t, adam);
  tcase_add_test(t, adamw);
  tcase_add_test(t, adamw_with_master);
  tcase_add_test(t, adagrad);
  tcase_add_test(t, lion);
  tcase_add_test(t, lamb);
  tcase_add_test(t, muon);
  tcase_add_test(t, groups_take_the_first_match);
  tcase_add_test(t, accumulation_is_the_mean);
  tcase_add_test(t, nothing_trainable_is_an_error);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  const int n = srunner_ntests_failed(r);
  srunner_free(r);
  return n != 0;
}
