// Lowering: every case of every op, with its gradient where it has one, becomes a schedule that
//   - passes the verifier, and prints, parses and prints to the same text;
//   - run by the reference kernels on one arena, poisoned first, gives what evaluating the graph gives.
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "graph/pass.h"
#include "sched/lower.h"
#include "sched/reference.h"

typedef struct { const char *op, *name; zg_str *report; int failures; } context;

static void report(context *c, const char *fmt, ...) {
  char text[1024];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  zg_str_add(c->report, "  %s, case \"%s\": %s\n", c->op, c->name, text);
  c->failures++;
}

static bool bad(context *c, zg_status s, const char *doing) {
  if (!s) return false;
  report(c, "%s: %s", doing, zg_status_message(s));
  zg_status_free(s);
  return true;
}

// ---- inputs -------------------------------------------------------------------------------------------------------

typedef struct { const zg_graph *g; zg_tensor *at; } leaves;   // by value id

static zg_tensor leaf(void *user, const zg_node *n) { return ((leaves *)user)->at[n->out]; }

static bool is_leaf(const zg_node *n) { return n->op == &zg_op_input || n->op == &zg_op_param || n->op == &zg_op_state; }

static leaves make_leaves(const zg_graph *g, const zg_op_case *c, zg_arena *mem) {
  leaves l = {g, ZG_NEW_N(mem, zg_tensor, g->values.n)};
  double lo = c->lo == 0 && c->hi == 0 ? -1 : c->lo, hi = c->lo == 0 && c->hi == 0 ? 1 : c->hi;
  for (size_t i = 0; i < g->nodes.n; i++) {
    const zg_node *n = &g->nodes.at[i];
    if (!is_leaf(n)) continue;
    zg_tensor *t = &l.at[n->out];
    t->type = *zg_type_of(g, zg_out(n, 0));
    t->data = zg_arena_alloc(mem, zg_type_bytes(&t->type) + 8);
    for (int64_t k = 0; k < zg_elems(&t->type); k++) {
      uint32_t counter[4] = {(uint32_t)k, (uint32_t)i, 0, 0}, key[2] = {7, 9}, w[4];
      zg_philox(counter, key, w);
      double u = w[0] * 0x1p-32;
      if (zg_dtype_is_float(t->type.dtype)) zg_set_f64(t->type.dtype, t->data, k, lo + u * (hi - lo));
      else if (t->type.dtype == ZG_BOOL) zg_set_i64(ZG_BOOL, t->data, k, u < 0.5);
      else zg_set_i64(t->type.dtype, t->data, k, (int64_t)(u * (hi + 1)));
    }
  }
  return l;
}

// ---- running ------------------------------------------------------------------------------------------------------

static zg_status run_reference(const zg_sched *s, void *const *base) {
  for (size_t i = 0; i < s->steps.n; i++) {
    const zg_step *st = &s->steps.at[i];
    if (st->kind != ZG_STEP_KERNEL) continue;
    ZG_TRY(zg_kernel_reference(&s->kernels.at[st->kernel], base, (zg_rand_state){{0, 0}, 0}));
  }
  return NULL;
}

static const char *leaf_name(const zg_node *n) {
  return n->op == &zg_op_input   ? ((const zg_input_attr *)n->attr)->name
         : n->op == &zg_op_param ? ((const zg_param_attr *)n->attr)->name
                                 : ((const zg_state_attr *)n->attr)->name;
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

static void compare(context *c, const zg_sched_output *o, const void *got, const zg_tensor *want) {
  double worst = 0, scale = 1e-300;
  for (int64_t i = 0; i < zg_elems(&o->type); i++) {
    double a = zg_get_f64(o->type.dtype, got, o->view.offset + i), b = zg_get_f64(want->type.dtype, want->data, i);
    if (isnan(a) && isnan(b)) continue;
    if (isinf(b) && a == b) continue;
    scale = fmax(scale, fabs(b));
    worst = isnan(a) || isnan(b) ? INFINITY : fmax(worst, fabs(a - b));
  }
  double tol = o->type.dtype == ZG_F64 ? 1e-10 : o->type.dtype == ZG_F32 ? 2e-5 : 2e-2;
  if (!(worst <= tol * fmax(1, scale))) report(c, "output \"%s\" differs by %.3g (largest value %.3g)", o->name, worst, scale);
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

static zg_status add_loss(const zg_graph *g, bool *any, zg_graph **out) {
  zg_builder *b = zg_builder_new();
  zg_val *map = zg_alloc(sizeof *map * g->values.n), loss = {0};
  for (size_t i = 0; i < g->nodes.n; i++) zg_emit_copy(b, g, &g->nodes.at[i], map);
  for (size_t k = 0; k < g->outputs.n; k++) {
    zg_val y = map[g->outputs.at[k].val.id];
    zg_builder_output(b, ZG_OUT_VALUE, g->outputs.at[k].name, y, (zg_val){0});
    if (zg_builder_failed(b) || !zg_dtype_is_float(zg_b_type(b, y)->dtype)) continue;
    zg_val part = zg_b_reduce_all(b, ZG_RED_SUM, zg_mul(b, zg_b_cast(b, y, ZG_F64), zg_b_cast(b, y, ZG_F64)));
    loss = zg_is(loss) ? zg_add(b, loss, part) : part;
  }
  *any = zg_is(loss);
  if (*any) zg_builder_output(b, ZG_OUT_LOSS, "loss", loss, (zg_val){0});
  zg_free(map);
  return zg_builder_finish(b, out);
}

static zg_status gradient_graph(const zg_graph *g, zg_graph **out) {
  zg_graph *loss = NULL;
  zg_status status = NULL;
  const char *wrt[64];
  uint32_t n = 0;
  bool any = false;
  *out = NULL;
  ZG_TRY(add_loss(g, &any, &loss));
  for (size_t i = 0; i < loss->nodes.n && n < 64; i++)
    if (loss->nodes.at[i].op == &zg_op_input && zg_dtype_is_float(zg_type_of(loss, zg_out(&loss->nodes.at[i], 0))->dtype))
      wrt[n++] = leaf_name(&loss->nodes.at[i]);
  zg_autodiff_options o = {.seed = 1, .wrt = wrt, .n_wrt = n, .params = true};
  if (any && n) status = zg_pass_lower_autodiff(loss, &o, out);
  zg_graph_free(loss);
  return status;
}

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

int main(void) {
  Suite *s = suite_create("lower");
  TCase *t = tcase_create("cases");
  tcase_set_timeout(t, 120);
  tcase_add_test(t, every_case);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
