// The builder (interning, folding, errors), the parser against hostile text, the verifier, scalar arithmetic.
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "graph/core.h"
#include "graph/pass.h"

static void check_ok(zg_status s) { ck_assert_msg(!s, "%s", s ? zg_status_message(s) : ""); }
static zg_type f32(int64_t a, int64_t b) { return zg_type_make(ZG_F32, 2, (int64_t[]){a, b}); }

// ---- builder ------------------------------------------------------------------------------------------------------------
START_TEST(equal_nodes_are_one) {
  zg_builder *b = zg_builder_new();
  const zg_type t = f32(2, 3);
  const zg_val x = zg_b_input(b, "x", &t), y = zg_b_input(b, "y", &t);
  ck_assert(zg_same(zg_b_input(b, "x", &t), x));
  ck_assert(zg_same(zg_add(b, x, y), zg_add(b, x, y)));
  ck_assert(!zg_same(zg_add(b, x, y), zg_add(b, y, x)));
  ck_assert(zg_same(zg_b_scalar(b, ZG_F32, 2), zg_b_scalar(b, ZG_F32, 2)));
  ck_assert(!zg_same(zg_b_scalar(b, ZG_F32, 0.0), zg_b_scalar(b, ZG_F32, -0.0)));
  const zg_random_attr r = {.type = t, .hi = 1};
  ck_assert(!zg_same(zg_emit1(b, &zg_op_random, &r, NULL, 0), zg_emit1(b, &zg_op_random, &r, NULL, 0)));
  zg_builder_free(b);
}
END_TEST

START_TEST(many_nodes_stay_distinct) {   // the table grows several times
  zg_builder *b = zg_builder_new();
  const zg_type t = f32(2, 3);
  const zg_val x = zg_b_input(b, "x", &t);
  zg_val first[2000];
  for (int i = 0; i < 2000; i++) first[i] = zg_add_k(b, x, i + 1);
  for (int i = 0; i < 2000; i++) {
    ck_assert(zg_same(zg_add_k(b, x, i + 1), first[i]));
    ck_assert(i == 0 || !zg_same(first[i], first[i - 1]));
  }
  zg_builder_free(b);
}
END_TEST

START_TEST(identities) {
  zg_builder *b = zg_builder_new();
  const zg_type t = f32(2, 3);
  const zg_val x = zg_b_input(b, "x", &t);
  ck_assert(zg_same(zg_mul_k(b, x, 1), x));
  ck_assert(zg_same(zg_add_k(b, x, 0), x));
  ck_assert(zg_same(zg_neg(b, zg_neg(b, x)), x));
  ck_assert(zg_same(zg_b_cast(b, x, ZG_F32), x));
  ck_assert(zg_same(zg_b_cast(b, zg_b_cast(b, x, ZG_F64), ZG_F32), x));
  ck_assert(!zg_same(zg_b_cast(b, zg_b_cast(b, x, ZG_BF16), ZG_F32), x));   // rounds
  ck_assert(zg_same(zg_b_reshape(b, zg_b_reshape(b, x, (int64_t[]){6}, 1), (int64_t[]){2, -1}, 2), x));
  ck_assert(zg_same(zg_b_swap_last(b, zg_b_swap_last(b, x)), x));
  ck_assert(zg_same(zg_b_slice1(b, x, -1, 0, 3), x));
  ck_assert(zg_same(zg_b_sum_to(b, x, &t), x));
  ck_assert(zg_same(zg_b_expand(b, x, t.dim, 2), x));
  ck_assert(zg_same(zg_b_concat(b, &x, 1, 0), x));
  // x + 1[4,2,3] is bigger than x: not x * 1's identity.
  const zg_type big = zg_type_make(ZG_F32, 3, (int64_t[]){4, 2, 3});
  ck_assert_uint_eq(zg_b_type(b, zg_mul(b, x, zg_b_fill(b, &big, 1)))->rank, 3);
  zg_builder_free(b);
}
END_TEST

START_TEST(padded_blocks_join) {
  zg_builder *b = zg_builder_new();
  const zg_type t = f32(2, 3), u = f32(2, 2);
  const zg_val x = zg_b_input(b, "x", &t), y = zg_b_input(b, "y", &u), z = zg_b_input(b, "z", &t);
  const int64_t dim[2] = {2, 8}, step[2] = {1, 1};
  const zg_val px = zg_b_unslice(b, x, dim, (int64_t[]){0, 0}, step, 0), py = zg_b_unslice(b, y, dim, (int64_t[]){0, 3}, step, 0);
  const zg_val pz = zg_b_unslice(b, z, dim, (int64_t[]){0, 5}, step, 0);
  const zg_val all[3] = {x, y, z};
  ck_assert(zg_same(zg_add(b, zg_add(b, pz, py), px), zg_b_concat(b, all, 3, 1)));
  ck_assert(zg_is_op(zg_builder_graph(b), zg_add(b, px, pz), zg_map_op(ZG_S_ADD)));   // a gap between them
  ck_assert(zg_is_op(zg_builder_graph(b), zg_add(b, px, px), zg_map_op(ZG_S_ADD)));
  zg_builder_free(b);
}
END_TEST

START_TEST(constants_fold) {
  zg_builder *b = zg_builder_new();
  const zg_val v = zg_b_int_vec(b, (int64_t[]){1, 2, 3}, 3);
  zg_tensor t;
  ck_assert(zg_b_const(b, zg_mul(b, v, v), &t));
  ck_assert_int_eq(zg_get_i64(ZG_I64, t.data, 2), 9);
  const zg_type huge = f32(1 << 20, 1 << 20);
  const zg_val f = zg_b_fill(b, &huge, 3), g = zg_mul(b, f, f);
  double k;
  ck_assert(zg_b_const_scalar(b, g, &k) && k == 9);
  ck_assert(zg_is_op(zg_builder_graph(b), g, &zg_op_fill));
  // 64-bit integers stay exact, also where all elements are equal.
  const int64_t big[2] = {INT64_MAX, INT64_MAX};
  ck_assert(zg_b_const(b, zg_add(b, zg_b_int_vec(b, big, 2), zg_b_scalar(b, ZG_I64, -1)), &t));
  ck_assert_int_eq(zg_get_i64(ZG_I64, t.data, 1), INT64_MAX - 1);
  ck_assert(!zg_builder_failed(b));
  zg_builder_free(b);
}
END_TEST

START_TEST(the_first_error_stays) {
  zg_builder *b = zg_builder_new();
  const zg_type t = f32(2, 3), u = f32(5, 7);
  zg_builder_origin(b, (zg_origin){"Add_7", NULL});
  const zg_val bad = zg_add(b, zg_b_input(b, "x", &t), zg_b_input(b, "y", &u));
  ck_assert(!zg_is(bad));
  const zg_val after = zg_b_matmul(b, zg_mul_k(b, bad, 2), bad, false, false);
  ck_assert(!zg_is(after));
  zg_builder_output(b, ZG_OUT_VALUE, "o", after, (zg_val){0});
  zg_graph *g;
  zg_status s = zg_builder_finish(b, &g);
  ck_assert(s && !g);
  ck_assert_msg(strstr(zg_status_message(s), "Add_7") && strstr(zg_status_message(s), "f32[2,3]") && strstr(zg_status_message(s), "f32[5,7]"),
                "%s", zg_status_message(s));
  zg_status_free(s);
}
END_TEST

START_TEST(two_leaves_of_one_name) {
  zg_builder *b = zg_builder_new();
  const zg_type t = f32(2, 3), u = f32(3, 2);
  zg_b_input(b, "x", &t);
  zg_b_input(b, "x", &u);
  ck_assert(zg_builder_failed(b));
  zg_builder_free(b);
}
END_TEST

// ---- parser -------------------------------------------------------------------------------------------------------------
static const struct { const char *text, *message; } bad_texts[] = {
    {"%1 = input name=\"x\"\n", "t.zg:1:20: input needs the attribute \"type\""},
    {"graph {\n  %1 = frobnicate\n}", "t.zg:2:18: there is no op \"frobnicate\""},
    {"%1 = neg %2", "t.zg:1:12: %2 is used before it is defined"},
    {"%1 = input name=\"x\" type=f32[2]\n%1 = neg %1", "t.zg:2:12: %1 is defined twice"},
    {"%1 = input name=\"x type=f32[2]", "t.zg:1:31: the string does not end"},
    {"%1 = const type=f32[3] data=[1,2]", "has 3 elements"},
    {"%1 = const type=f32[4000000000,4000000000,4000000000] data=[1]", "too big"},
    {"%1 = const type=f32[1000000000] data=[1]", "elements, fewer follow"},
    {"%1 = input name=\"x\" type=f32[2]\n%2 = neg %1 speed=3", "neg has no attribute \"speed\""},
    {"%1 = input name=\"x\" type=f32[2]\n%2 = add %1", "t.zg:2:1: add: has 1 operands, takes 2"},
    {"%1 = input name=\"x\" type=q32[2]", "q32"},
    {"graph {\n", "t.zg:2:1: a node, an output or } is wanted"},
    {"graph { } x", "nothing may follow"},
    {"output value \"y\" %7", "%7 is used before"},
    {"output gold \"y\" %7", "not \"gold\""},
    {"%99999999999999999999 = neg %1", "t.zg:1:"},
    {"%1 = reshape _ dim=[1,", "an integer is wanted"},
};
START_TEST(bad_text_is_located) {
  zg_graph *g;
  zg_status s = zg_graph_parse(bad_texts[_i].text, "t.zg", &g);
  ck_assert_msg(s && !g, "accepted: %s", bad_texts[_i].text);
  ck_assert_msg(strstr(zg_status_message(s), bad_texts[_i].message), "%s: want \"%s\"", zg_status_message(s), bad_texts[_i].message);
  ck_assert_msg(strncmp(zg_status_message(s), "t.zg:", 5) == 0, "%s", zg_status_message(s));
  zg_status_free(s);
}
END_TEST

// Damaged texts: bytes changed, cut, doubled. Whatever comes, no crash, and what is accepted prints and parses again.
START_TEST(damaged_text) {
  static const char good[] =
      "graph loss {\n  %1 = input name=\"x\" type=f32[2,3]\n  %2 = param name=\"w\" type=f32[3,4] role=1 reason=\"r\" source=2\n"
      "  %3 = matmul %1, %2 ; f32[2,4]\n  %4 = const type=f32[4] data=[1,2,3,-4e1]\n  %5 = add %3, %4\n"
      "  %6 = reduce %5 kind=0 axes=[0,1]\n  %7, %8 = topk %5 axis=1 k=2\n  %9 = slice %5 start=[0,0] step=[1,2] size=[2,2]\n"
      "  %10 = iota type=i64[2,4] axis=1\n  %11 = gather %5, %10 mode=1 axis=1\n  output loss \"l\" %6\n  output value \"y\" %11\n}\n";
  uint32_t seed = 12345;
  int accepted = 0;
  for (int i = 0; i < 20000; i++) {
    char text[sizeof good + 8];
    memcpy(text, good, sizeof good);
    for (int k = 0; k < 1 + i % 3; k++) {
      seed = seed * 1664525 + 1013904223;
      const uint32_t at = (seed >> 8) % (sizeof good - 1);
      static const char alphabet[] = "0123456789-%_=[],\"; \nfb{}x";
      if (i % 7 == 0) {
        text[at] = 0;
      } else {
        text[at] = alphabet[(seed >> 3) % (sizeof alphabet - 1)];
      }
    }
    zg_graph *g, *h;
    zg_status s = zg_graph_parse(text, "t", &g);
    if (s) {
      zg_status_free(s);
      continue;
    }
    accepted++;
    zg_str p = {0}, q = {0};
    zg_graph_print(g, &p);
    check_ok(zg_graph_parse(p.at, "again", &h));
    zg_graph_print(h, &q);
    ck_assert_str_eq(p.at, q.at);
    zg_str_fini(&p);
    zg_str_fini(&q);
    zg_graph_free(g);
    zg_graph_free(h);
  }
  ck_assert_int_gt(accepted, 100);
}
END_TEST

// ---- verifier -----------------------------------------------------------------------------------------------------------
static zg_graph *small_graph(void) {
  zg_graph *g;
  check_ok(zg_graph_parse("%1 = input name=\"x\" type=f32[2]\n%2 = state name=\"s\" type=f32[2]\n%3 = softmax %1 axis=0\n"
                          "%4 = exp %3\noutput value \"y\" %4\noutput update \"s\" %4 -> %2", "t", &g));
  return g;
}
static void check_refused(zg_graph *g, const char *part) {
  zg_status s = zg_graph_verify(g);
  ck_assert_msg(s && strstr(zg_status_message(s), part), "%s: want \"%s\"", s ? zg_status_message(s) : "accepted", part);
  zg_status_free(s);
  zg_graph_free(g);
}

START_TEST(verifier_finds_faults) {
  zg_graph *g = small_graph();
  check_ok(zg_graph_verify(g));
  g->operands.at[g->nodes.at[2].in].id = 4;
  check_refused(g, "comes after the node");
  g = small_graph();
  g->values.at[4].type.dim[0] = 3;
  check_refused(g, "its operands give f32[2]");
  g = small_graph();
  g->props |= ZG_PROP_CORE;
  check_refused(g, "core ops only");
  g = small_graph();
  g->props |= ZG_PROP_LOSS;
  check_refused(g, "has none");
  g = small_graph();
  g->outputs.at[1].target.id = 4;
  check_refused(g, "neither param nor state");
  g = small_graph();
  g->outputs.at[0] = g->outputs.at[1];
  check_refused(g, "updated twice");
}
END_TEST

// ---- scalars ------------------------------------------------------------------------------------------------------------
START_TEST(integers_are_exact_and_total) {
  ck_assert_int_eq(zg_scalar_i64(ZG_S_DIV, 7, 0, 0), 0);
  ck_assert_int_eq(zg_scalar_i64(ZG_S_DIV, -7, 2, 0), -3);
  ck_assert_int_eq(zg_scalar_i64(ZG_S_DIV, INT64_MIN, -1, 0), INT64_MIN);
  ck_assert_int_eq(zg_scalar_i64(ZG_S_MOD, -7, 3, 0), 2);
  ck_assert_int_eq(zg_scalar_i64(ZG_S_MOD, 7, -3, 0), -2);
  ck_assert_int_eq(zg_scalar_i64(ZG_S_FMOD, -7, 3, 0), -1);
  ck_assert_int_eq(zg_scalar_i64(ZG_S_MOD, 7, 0, 0), 0);
  ck_assert_int_eq(zg_scalar_i64(ZG_S_POW, 3, 39, 0), 4052555153018976267);
  ck_assert_int_eq(zg_scalar_i64(ZG_S_POW, -1, -3, 0), -1);
  ck_assert_int_eq(zg_scalar_i64(ZG_S_SHL, 1, 64, 0), 0);
  ck_assert_int_eq(zg_scalar_i64(ZG_S_MUL, INT64_MAX, 2, 0), -2);
  ck_assert_double_eq(zg_scalar_f64(ZG_S_MOD, -7.5, 2, 0), 0.5);
  ck_assert_double_eq(zg_scalar_f64(ZG_S_FMOD, -7.5, 2, 0), -1.5);
  ck_assert(isnan(zg_scalar_f64(ZG_S_RELU, NAN, 0, 0)) && isnan(zg_scalar_f64(ZG_S_MAX, NAN, 1, 0)) && isnan(zg_scalar_f64(ZG_S_MAX, 1, NAN, 0)));
  ck_assert_double_eq(zg_scalar_f64(ZG_S_CLIP, 0, 2, 1), 1);   // crossed bounds: the upper wins
  ck_assert_double_eq(zg_scalar_f64(ZG_S_ROUND, 2.5, 0, 0), 2);
}
END_TEST

START_TEST(derivative_opcodes) {
  static const struct { zg_scalar f, d; } pairs[] = {
      {ZG_S_GELU, ZG_S_GELU_D}, {ZG_S_GELU_TANH, ZG_S_GELU_TANH_D}, {ZG_S_SILU, ZG_S_SILU_D}};
  for (size_t i = 0; i < ZG_COUNT(pairs); i++)
    for (double x = -4; x <= 4; x += 0.37) {
      const double h = 1e-5, fd = (zg_scalar_f64(pairs[i].f, x + h, 0, 0) - zg_scalar_f64(pairs[i].f, x - h, 0, 0)) / (2 * h);
      ck_assert_double_eq_tol(zg_scalar_f64(pairs[i].d, x, 0, 0), fd, 1e-8);
    }
}
END_TEST

// ---- autodiff -----------------------------------------------------------------------------------------------------------
START_TEST(autodiff_asks_for_a_loss_and_known_names) {
  zg_graph *g = small_graph(), *d;
  zg_status s = zg_pass_lower_autodiff(g, &(zg_autodiff_options){.seed = 1}, &d);
  ck_assert(s && strstr(zg_status_message(s), "no loss"));
  zg_status_free(s);
  zg_graph_free(g);
  check_ok(zg_graph_parse("%1 = input name=\"x\" type=f32[]\noutput loss \"l\" %1", "t", &g));
  const char *wrt[] = {"z"};
  s = zg_pass_lower_autodiff(g, &(zg_autodiff_options){.seed = 1, .wrt = wrt, .n_wrt = 1}, &d);
  ck_assert(s && strstr(zg_status_message(s), "\"z\""));
  zg_status_free(s);
  zg_graph_free(g);
}
END_TEST

int main(void) {
  Suite *s = suite_create("graph");
  TCase *t = tcase_create("graph");
  tcase_set_timeout(t, 120);
  tcase_add_test(t, equal_nodes_are_one);
  tcase_add_test(t, many_nodes_stay_distinct);
  tcase_add_test(t, identities);
  tcase_add_test(t, padded_blocks_join);
  tcase_add_test(t, constants_fold);
  tcase_add_test(t, the_first_error_stays);
  tcase_add_test(t, two_leaves_of_one_name);
  tcase_add_loop_test(t, bad_text_is_located, 0, (int)ZG_COUNT(bad_texts));
  tcase_add_test(t, damaged_text);
  tcase_add_test(t, verifier_finds_faults);
  tcase_add_test(t, integers_are_exact_and_total);
  tcase_add_test(t, derivative_opcodes);
  tcase_add_test(t, autodiff_asks_for_a_loss_and_known_names);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  const int n = srunner_ntests_failed(r);
  srunner_free(r);
  return n != 0;
}
