// Lowering: every case of every op, with its gradient where it has one, becomes a schedule that
//   - passes the verifier, and prints, parses and prints to the same text;
//   - run by the reference kernels on one arena, poisoned first, gives what evaluating the graph gives.
#include "op_cases.h"

#include "sched/lower.h"
#include "sched/reference.h"

// ---- running ------------------------------------------------------------------------------------------------------

static zg_status run_reference(const zg_sched *s, void *const *base) {
  for (size_t i = 0; i < s->steps.n; i++) {
    const zg_step *st = &s->steps.at[i];
    if (st->kind != ZG_STEP_KERNEL) continue;
    ZG_TRY(zg_kernel_reference(&s->kernels.at[st->kernel], base, (zg_rand_state){{0, 0}, 0}));
  }
  return NULL;
}

static void fill_persistent(const zg_sched *s, const zg_graph *g, const leaves *l, void *const *base) {
  for (size_t i = 0; i < g->nodes.n; i++) {
    const zg_node *n = &g->nodes.at[i];
    uint32_t buf = is_leaf(n) ? zg_sched_find_buf(s, leaf_name(n)) : 0;
    if (buf) memcpy(base[buf], l->at[n->out].data, s->bufs.at[buf].bytes);
  }
  for (size_t b = 1; b < s->bufs.n; b++)
    if (s->bufs.at[b].init) memcpy(base[b], s->bufs.at[b].init, s->bufs.at[b].bytes);
}

static void check_text(context *c, const zg_sched *s) {
  zg_str a = {0}, b = {0};
  zg_sched *again = NULL;
  zg_sched_print(s, &a);
  if (!bad(c, zg_sched_parse(a.at, "text", &again), "parse of the printed schedule")) {
    zg_sched_print(again, &b);
    if (strcmp(a.at, b.at)) report(c, "print, parse, print differ");
    bad(c, zg_sched_verify(again), "verify of the parsed schedule");
  }
  zg_sched_free(again);
  zg_str_fini(&a);
  zg_str_fini(&b);
}

static void check_schedule(context *c, const zg_graph *core, const zg_op_case *oc) {
  zg_arena mem = {0};
  zg_sched *s = zg_sched_new();
  zg_tensor *want = NULL;
  uint8_t *arena = NULL;
  leaves l = make_leaves(core, oc, &mem);
  if (bad(c, zg_lower_graph(s, core, "test"), "lower") || bad(c, zg_pass_plan_memory(s), "plan_memory")) goto out;
  if (bad(c, zg_sched_verify(s), "verify")) goto out;
  check_text(c, s);
  if (bad(c, zg_graph_eval(core, leaf, &l, &want), "eval")) goto out;
  arena = malloc(s->arena_bytes[ZG_SPACE_DEVICE] + 1);
  memset(arena, 0xff, s->arena_bytes[ZG_SPACE_DEVICE] + 1);
  void **base = zg_arena_alloc(&mem, sizeof *base * s->bufs.n);
  for (size_t b = 0; b < s->bufs.n; b++) base[b] = arena + s->bufs.at[b].offset;
  fill_persistent(s, core, &l, base);
  if (bad(c, run_reference(s, base), "run")) goto out;
  size_t k = 0;
  for (size_t i = 0; i < core->outputs.n; i++) {
    if (core->outputs.at[i].kind == ZG_OUT_UPDATE) continue;
    const zg_sched_output *o = &s->outputs.at[k++];
    compare(c, o, base[o->view.buf], &want[i]);
  }
out:
  zg_eval_free(core, want);
  free(arena);
  zg_sched_free(s);
  zg_arena_fini(&mem);
}

// ---- cases --------------------------------------------------------------------------------------------------------

static void check_case(context *c, const zg_op_case *oc) {
  zg_graph *g = NULL, *core = NULL, *grad = NULL, *grad_core = NULL;
  if (bad(c, zg_graph_parse(oc->text, "case", &g), "parse")) return;
  if (!bad(c, zg_pass_lower_to_core(g, &core), "lower_to_core")) check_schedule(c, core, oc);
  if (!oc->no_grad && !bad(c, gradient_graph(g, &grad), "autodiff") && grad && !bad(c, zg_pass_lower_to_core(grad, &grad_core), "lower_to_core"))
    check_schedule(c, grad_core, oc);
  zg_graph_free(g);
  zg_graph_free(core);
  zg_graph_free(grad);
  zg_graph_free(grad_core);
}

START_TEST(every_case) {
  zg_str text = {0};
  context c = {.report = &text};
  int n = 0;
  const char *only = getenv("ZG_TEST_OP");
  for (const zg_family *const *f = zg_families; *f; f++)
    for (uint32_t i = 0; i < (*f)->n_ops; i++) {
      const zg_op *op = (*f)->ops[i];
      if (only && strcmp(only, op->name)) continue;
      for (uint32_t k = 0; k < op->n_cases; k++, n++) {
        c.op = op->name;
        c.name = op->cases[k].name ? op->cases[k].name : "";
        if (getenv("ZG_TEST_TRACE")) fprintf(stderr, "%s: %s\n", c.op, c.name);
        check_case(&c, &op->cases[k]);
      }
    }
  if (c.failures) fprintf(stderr, "%s", text.at);
  ck_assert_msg(c.failures == 0, "%d failures in %d cases", c.failures, n);
  ck_assert_msg(only || n > 100, "only %d cases", n);
  zg_str_fini(&text);
}
END_TEST

// A fused projection: heads are cut out of it, attended to, put side by side again. Neither that nor the way back, where the
// gradients of queries, keys and values lie side by side, may copy them.
static const char heads[] =
    "graph {\n%1 = input name=\"qkv\" type=f32[2,5,24]\n"
    "%2 = slice %1 start=[0,0,0] step=[1,1,1] size=[2,5,8]\n%3 = slice %1 start=[0,0,8] step=[1,1,1] size=[2,5,8]\n"
    "%4 = slice %1 start=[0,0,16] step=[1,1,1] size=[2,5,8]\n"
    "%5 = reshape %2 dim=[2,5,2,4]\n%6 = reshape %3 dim=[2,5,2,4]\n%7 = reshape %4 dim=[2,5,2,4]\n"
    "%8 = transpose %5 perm=[0,2,1,3]\n%9 = transpose %6 perm=[0,2,1,3]\n%10 = transpose %7 perm=[0,2,1,3]\n"
    "%11, %12 = flash_attention %8, %9, %10 causal=1\n%13 = transpose %11 perm=[0,2,1,3]\n%14 = reshape %13 dim=[2,5,8]\n"
    "output value \"y\" %14\n}\n";

START_TEST(heads_in_place) {
  zg_str text = {0};
  context c = {.report = &text, .op = "flash_attention", .name = "heads in place"};
  const zg_op_case oc = {.text = heads};
  zg_graph *g = NULL, *grad = NULL, *core = NULL;
  check_case(&c, &oc);
  ck_assert_msg(c.failures == 0, "%s", text.at);
  ck_assert(!bad(&c, zg_graph_parse(heads, "heads", &g), "parse") && !bad(&c, gradient_graph(g, &grad), "autodiff") &&
            !bad(&c, zg_pass_lower_to_core(grad, &core), "lower_to_core"));
  zg_sched *s = zg_sched_new();
  ck_assert(!bad(&c, zg_lower_graph(s, core, "test"), "lower"));
  int n_grad = 0;
  for (size_t i = 0; i < s->kernels.n; i++) {
    const zg_loop_desc *d = s->kernels.at[i].desc;
    n_grad += s->kernels.at[i].kind == ZG_K_ATTENTION_GRAD;
    ck_assert_msg(s->kernels.at[i].kind != ZG_K_LOOP || d->n_inst > 2, "\"%s\" only copies", s->kernels.at[i].label);
  }
  ck_assert_int_eq(n_grad, 1);
  zg_sched_free(s);
  zg_graph_free(g), zg_graph_free(grad), zg_graph_free(core);
  zg_str_fini(&text);
}
END_TEST

int main(void) {
  Suite *s = suite_create("lower");
  TCase *t = tcase_create("cases");
  tcase_set_timeout(t, 120);
  tcase_add_test(t, every_case);
  tcase_add_test(t, heads_in_place);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
