// The generic op tests: every case of every op of every family is parsed, evaluated in double, and differentiated.
//
// For a case with outputs y_i, L = sum_i sum(y_i * w_i) with fixed noise w:
//   - lowering: the graph lowered to core ops gives the same outputs as evaluation;
//   - text: print, parse, print are equal;
//   - gradient: d L / d x of every float input, from lower_autodiff, against central differences in double;
//   - VJP linearity: the gradient for 2 w - v equals 2 grad(w) - grad(v).
// A case with `no_grad` skips the last two; with `expect` the gradient of sum(y) is compared with the numbers given.
// CK_FORK=no: all ops run in one process; the failing op and case are named.
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "graph/core.h"
#include "graph/pass.h"

enum { MAX_IN = 32, MAX_FD = 24 };

typedef struct { const char *name; zg_tensor t; } case_input;
typedef struct {
  const zg_op *op;
  const zg_op_case *c;
  zg_graph *g;
  case_input in[MAX_IN];
  uint32_t n_in;
  zg_arena mem;
} running;

static zg_str failures;
static int n_failures;

static void report(const running *r, const char *fmt, ...) {
  char text[2048];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  n_failures++;
  zg_str_add(&failures, "  %s, case \"%s\": %s\n", r->op->name, r->c && r->c->name ? r->c->name : "", text);
}

static bool failed(const running *r, zg_status s, const char *doing) {
  if (!s) return false;
  report(r, "%s: %s", doing, zg_status_message(s));
  zg_status_free(s);
  return true;
}

// ---- data ---------------------------------------------------------------------------------------------------------------
static double noise(uint32_t stream, uint32_t i) {   // in [0, 1)
  const uint32_t counter[4] = {i, 0, 0, stream}, key[2] = {0x5eed, 1};
  uint32_t w[4];
  zg_philox(counter, key, w);
  return w[0] * 0x1p-32;
}

// The line "NAME: numbers" of a case's data or expected gradient.
static const char *line_of(const char *text, const char *name) {
  const size_t n = strlen(name);
  for (const char *p = text; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL) {
    while (*p == ' ' || *p == '\n') p++;
    if (strncmp(p, name, n) == 0 && p[n] == ':') return p + n + 1;
  }
  return NULL;
}

static void fill_input(const running *r, zg_tensor *t, const char *name, uint32_t stream) {
  const double lo = r->c->lo == 0 && r->c->hi == 0 ? -1 : r->c->lo, hi = r->c->lo == 0 && r->c->hi == 0 ? 1 : r->c->hi;
  const char *given = line_of(r->c->data, name);
  for (int64_t i = 0; i < zg_elems(&t->type); i++) {
    const double u = noise(stream, (uint32_t)i);
    char *end = NULL;
    if (given) {
      zg_set_f64(t->type.dtype, t->data, i, strtod(given, &end));
      given = end;
    } else if (zg_dtype_is_float(t->type.dtype)) {
      zg_set_f64(t->type.dtype, t->data, i, lo + u * (hi - lo));
    } else if (t->type.dtype == ZG_BOOL) {
      zg_set_i64(ZG_BOOL, t->data, i, u < 0.5);
    } else {
      zg_set_i64(t->type.dtype, t->data, i, (int64_t)(u * (hi + 1)));   // 0 .. hi
    }
  }
}

static void make_inputs(running *r) {
  for (size_t i = 0; i < r->g->nodes.n && r->n_in < MAX_IN; i++) {
    const zg_node *n = &r->g->nodes.at[i];
    if (n->op != &zg_op_input && n->op != &zg_op_param && n->op != &zg_op_state) continue;
    case_input *in = &r->in[r->n_in];
    in->name = n->op == &zg_op_input ? ((const zg_input_attr *)n->attr)->name
               : n->op == &zg_op_param ? ((const zg_param_attr *)n->attr)->name
                                       : ((const zg_state_attr *)n->attr)->name;
    in->t.type = *zg_type_of(r->g, zg_out(n, 0));
    in->t.data = zg_arena_alloc(&r->mem, zg_type_bytes(&in->t.type) + 8);
    fill_input(r, &in->t, in->name, 100 + r->n_in++);
  }
}

static zg_tensor leaf(void *user, const zg_node *n) {
  const running *r = user;
  const char *name = n->op == &zg_op_input   ? ((const zg_input_attr *)n->attr)->name
                     : n->op == &zg_op_param ? ((const zg_param_attr *)n->attr)->name
                                             : ((const zg_state_attr *)n->attr)->name;
  for (uint32_t i = 0; i < r->n_in; i++)
    if (strcmp(r->in[i].name, name) == 0) return r->in[i].t;
  return (zg_tensor){0};
}

// ---- the loss -----------------------------------------------------------------------------------------------------------
// g with a loss output: sum over float outputs of sum(y * w), w from noise stream `stream`; 0: w = 1; scale[2] mixes two.
static double weight_at(uint32_t stream, uint32_t out, int64_t i) {
  if (stream == 0) return 1;
  if (stream == 3) return 2 * weight_at(1, out, i) - weight_at(2, out, i);
  return 0.25 + noise(stream * 1000 + out, (uint32_t)i);
}

static zg_status with_loss(const zg_graph *g, uint32_t stream, zg_graph **out) {
  zg_arena scratch = {0};
  zg_builder *b = zg_builder_new();
  zg_val *map = ZG_NEW_N(&scratch, zg_val, g->values.n), loss = {0};
  for (size_t i = 0; i < g->nodes.n; i++) zg_emit_copy(b, g, &g->nodes.at[i], map);
  for (size_t k = 0; k < g->outputs.n && !zg_builder_failed(b); k++) {
    const zg_val y = map[g->outputs.at[k].val.id];
    zg_type t = *zg_b_type(b, y);
    if (!zg_dtype_is_float(t.dtype)) continue;
    t.dtype = ZG_F64;
    double *w = zg_arena_alloc(&scratch, zg_type_bytes(&t) + 8);
    for (int64_t i = 0; i < zg_elems(&t); i++) w[i] = weight_at(stream, (uint32_t)k, i);
    const zg_val part = zg_b_reduce_all(b, ZG_RED_SUM, zg_mul(b, zg_b_cast(b, y, ZG_F64), zg_b_const_data(b, &t, w)));
    loss = zg_is(loss) ? zg_add(b, loss, part) : part;
  }
  if (!zg_is(loss)) loss = zg_b_scalar(b, ZG_F64, 0);
  zg_builder_output(b, ZG_OUT_LOSS, "loss", loss, (zg_val){0});
  zg_arena_fini(&scratch);
  return zg_builder_finish(b, out);
}

static zg_status eval_loss(running *r, const zg_graph *g, double *out) {
  zg_tensor *v;
  ZG_TRY(zg_graph_eval(g, leaf, r, &v));
  *out = zg_get_f64(v[0].type.dtype, v[0].data, 0);
  zg_eval_free(g, v);
  return NULL;
}

// Gradients of the loss with respect to every float input, as doubles, in input order.
static zg_status gradients(running *r, uint32_t stream, double **out) {
  const char *wrt[MAX_IN];
  uint32_t n = 0;
  for (uint32_t i = 0; i < r->n_in; i++)
    if (zg_dtype_is_float(r->in[i].t.type.dtype)) wrt[n++] = r->in[i].name;
  zg_graph *with = NULL, *grads = NULL;
  zg_tensor *v = NULL;
  zg_status status = NULL;
  ZG_TRY_OUT(with_loss(r->g, stream, &with));
  const zg_autodiff_options o = {.seed = 1, .wrt = wrt, .n_wrt = n};
  ZG_TRY_OUT(zg_pass_lower_autodiff(with, &o, &grads));
  ZG_TRY_OUT(zg_graph_verify(grads));
  ZG_TRY_OUT(zg_graph_eval(grads, leaf, r, &v));
  for (uint32_t i = 0; i < r->n_in; i++) {
    out[i] = NULL;
    for (size_t k = 0; k < grads->outputs.n; k++) {
      if (grads->outputs.at[k].kind != ZG_OUT_GRAD || strcmp(grads->outputs.at[k].name, r->in[i].name) != 0) continue;
      const int64_t size = zg_elems(&v[k].type);
      out[i] = ZG_NEW_N(&r->mem, double, size + 1);
      for (int64_t j = 0; j < size; j++) out[i][j] = zg_get_f64(v[k].type.dtype, v[k].data, j);
    }
  }
out:
  if (grads) zg_eval_free(grads, v);
  zg_graph_free(grads);
  zg_graph_free(with);
  return status;
}

static bool close_to(double a, double b, double tol) { return fabs(a - b) <= tol * (1 + fabs(a) + fabs(b)); }

// ---- checks -------------------------------------------------------------------------------------------------------------
static void check_text(running *r) {
  zg_str first = {0}, second = {0};
  zg_graph *again = NULL;
  zg_graph_print(r->g, &first);
  if (!failed(r, zg_graph_parse(first.at, "printed", &again), "parsing what was printed")) {
    zg_graph_print(again, &second);
    // A parsed graph has no origins, so both texts hold the same comments.
    if (strcmp(first.at, second.at) != 0) report(r, "print -> parse -> print differs:\n%s\n%s", first.at, second.at);
  }
  zg_graph_free(again);
  zg_str_fini(&first);
  zg_str_fini(&second);
}

// Lowering to core ops, then of the core ops that have a lowering for devices without a kernel.
static zg_status lower_all(const zg_graph *g, zg_graph **out) {
  zg_graph *core;
  ZG_TRY(zg_pass_lower_to_core(g, &core));
  zg_status s = zg_pass_lower_cells(core, out);
  zg_graph_free(core);
  return s;
}

static void check_lowering(running *r) {
  zg_graph *core = NULL;
  zg_tensor *direct = NULL, *lowered = NULL;
  if (failed(r, zg_graph_eval(r->g, leaf, r, &direct), "evaluation")) return;
  if (failed(r, lower_all(r->g, &core), "lowering") || failed(r, zg_graph_verify(core), "verifying the lowering") ||
      failed(r, zg_graph_eval(core, leaf, r, &lowered), "evaluation of the lowering"))
    goto out;
  for (size_t k = 0; k < r->g->outputs.n; k++) {
    const zg_tensor *a = &direct[k], *b = &lowered[k];
    for (int64_t i = 0; i < zg_elems(&a->type); i++) {
      const double x = zg_get_f64(a->type.dtype, a->data, i), y = zg_get_f64(b->type.dtype, b->data, i);
      if (x != y && !(isnan(x) && isnan(y)) && !close_to(x, y, 1e-12)) {
        report(r, "output %zu, element %d: %g evaluated, %g lowered", k, (int)i, x, y);
        goto out;
      }
    }
  }
out:
  zg_eval_free(r->g, direct);
  if (core) zg_eval_free(core, lowered);
  zg_graph_free(core);
}

static void check_input_gradient(running *r, const zg_graph *loss, case_input *in, const double *grad) {
  const int64_t n = zg_elems(&in->t.type), stride = n > MAX_FD ? n / MAX_FD : 1;
  if (in->t.type.dtype != ZG_F64) return;   // no differences in less than double
  for (int64_t i = 0; i < n; i += stride) {
    double *x = (double *)in->t.data + i, up = 0, down = 0;
    const double keep = *x, h = 1e-5 * fmax(1, fabs(keep) / 100);
    *x = keep + h;
    const bool bad_up = failed(r, eval_loss(r, loss, &up), "evaluation");
    *x = keep - h;
    const bool bad_down = failed(r, eval_loss(r, loss, &down), "evaluation");
    *x = keep;
    if (bad_up || bad_down) return;
    const double fd = (up - down) / (2 * h);
    if (!close_to(grad[i], fd, 2e-6)) {
      report(r, "d/d %s[%d]: %.9g by the rule, %.9g by central differences", in->name, (int)i, grad[i], fd);
      return;
    }
  }
}

static void check_gradient(running *r) {
  double *one[MAX_IN], *two[MAX_IN], *mix[MAX_IN];
  zg_graph *loss = NULL;
  if (failed(r, gradients(r, 1, one), "differentiation") || failed(r, gradients(r, 2, two), "differentiation") ||
      failed(r, gradients(r, 3, mix), "differentiation") || failed(r, with_loss(r->g, 1, &loss), "making the loss"))
    return;
  for (uint32_t k = 0; k < r->n_in; k++) {
    if (!one[k]) continue;
    check_input_gradient(r, loss, &r->in[k], one[k]);
    for (int64_t i = 0; i < zg_elems(&r->in[k].t.type); i++)
      if (!close_to(mix[k][i], 2 * one[k][i] - two[k][i], 1e-9)) {
        report(r, "d/d %s[%d] is not linear in the result's gradient", r->in[k].name, (int)i);
        break;
      }
  }
  zg_graph_free(loss);
}

static void check_expected(running *r) {
  double *grad[MAX_IN];
  if (failed(r, gradients(r, 0, grad), "differentiation")) return;
  for (uint32_t k = 0; k < r->n_in; k++) {
    const char *want = line_of(r->c->expect, r->in[k].name);
    for (int64_t i = 0; want && i < zg_elems(&r->in[k].t.type); i++) {
      char *end;
      const double v = strtod(want, &end);
      want = end;
      if (!grad[k] || !close_to(grad[k][i], v, 1e-9)) {
        report(r, "d sum(y) / d %s[%d] is %.9g, want %.9g", r->in[k].name, (int)i, grad[k] ? grad[k][i] : 0, v);
        break;
      }
    }
  }
}

static void run_case(const zg_op *op, const zg_op_case *c) {
  running r = {.op = op, .c = c};
  if (failed(&r, zg_graph_parse(c->text, "case", &r.g), "parsing")) return;
  make_inputs(&r);
  bool uses = false;
  for (size_t i = 0; i < r.g->nodes.n; i++) uses |= r.g->nodes.at[i].op == op;
  if (!uses) report(&r, "the case's graph does not hold the op");
  check_text(&r);
  check_lowering(&r);
  if (c->expect) check_expected(&r);
  if (!c->no_grad) check_gradient(&r);
  zg_graph_free(r.g);
  zg_arena_fini(&r.mem);
}

static void run_family(const zg_family *f) {
  n_failures = 0;
  const char *only = getenv("ZG_TEST_OP");
  for (uint32_t i = 0; i < f->n_ops; i++) {
    const zg_op *op = f->ops[i];
    if (only && strcmp(only, op->name) != 0) continue;
    if (op->n_cases == 0 && !(op->traits & ZG_LEAF)) {
      const running r = {.op = op};
      report(&r, "the op has no cases");
    }
    for (uint32_t k = 0; k < op->n_cases; k++) run_case(op, &op->cases[k]);
  }
  if (n_failures) fprintf(stderr, "family %s, %d failures:\n%s", f->name, n_failures, failures.at);
  zg_str_fini(&failures);
  failures = (zg_str){0};
  ck_assert_msg(n_failures == 0, "family %s: %d failures, listed above", f->name, n_failures);
}

static int n_families;
START_TEST(family_cases) { run_family(zg_families[_i]); }
END_TEST

START_TEST(every_opcode_has_its_op) {
  for (int s = ZG_S_NONE + 1; s < ZG_N_SCALARS; s++) {
    const zg_op *op = zg_map_op((zg_scalar)s);
    ck_assert_str_eq(op->name, zg_scalar_name((zg_scalar)s));
    ck_assert_ptr_eq(zg_op_find(op->name), op);
  }
}
END_TEST

START_TEST(every_op_is_complete) {
  for (int f = 0; f < n_families; f++)
    for (uint32_t i = 0; i < zg_families[f]->n_ops; i++) {
      const zg_op *op = zg_families[f]->ops[i];
      ck_assert_ptr_eq(zg_op_find(op->name), op);
      ck_assert_msg(op->infer != NULL, "%s has no inference", op->name);
      const bool data = op == &zg_op_input || op == &zg_op_param || op == &zg_op_state;
      if (op->traits & ZG_CORE) {
        ck_assert_msg(data || op->eval, "core op %s has no evaluation", op->name);
      } else {
        ck_assert_msg(op->lower != NULL, "%s is neither core nor has it a lowering", op->name);
      }
    }
}
END_TEST

int main(void) {
  while (zg_families[n_families]) n_families++;
  Suite *s = suite_create("op");
  TCase *t = tcase_create("op");
  tcase_set_timeout(t, 300);
  tcase_add_test(t, every_opcode_has_its_op);
  tcase_add_test(t, every_op_is_complete);
  tcase_add_loop_test(t, family_cases, 0, n_families);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  const int n = srunner_ntests_failed(r);
  srunner_free(r);
  return n != 0;
}
