// Op cases (graph/op.h) as graphs with inputs, for tests that run them in some way and compare with
// zg_graph_eval: lowering with the reference kernels, and devices.
#pragma once
#include <check.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "graph/pass.h"
#include "sched/sched.h"

// Where a test is, and what it has found wrong.
typedef struct {
  const char *op, *name;
  zg_str *report;
  int failures;
  double least_tol;   // of floats of any type: what they are computed from is no better
} context;

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

static const char *leaf_name(const zg_node *n) {
  return n->op == &zg_op_input   ? ((const zg_input_attr *)n->attr)->name
         : n->op == &zg_op_param ? ((const zg_param_attr *)n->attr)->name
                                 : ((const zg_state_attr *)n->attr)->name;
}

// ---- inputs
// -------------------------------------------------------------------------------------------------------

typedef struct {
  const zg_graph *g;
  zg_tensor *at;
} leaves;  // by value id

static zg_tensor leaf(void *user, const zg_node *n) { return ((leaves *)user)->at[n->out]; }

static bool is_leaf(const zg_node *n) {
  return n->op == &zg_op_input || n->op == &zg_op_param || n->op == &zg_op_state;
}

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

// ---- results
// ------------------------------------------------------------------------------------------------------

// got: the bytes of the output's buffer.
static void compare(context *c, const zg_sched_output *o, const void *got, const zg_tensor *want) {
  double worst = 0, scale = 1e-300;
  for (int64_t i = 0; i < zg_elems(&o->type); i++) {
    double a = zg_get_f64(o->type.dtype, got, o->view.offset + i),
           b = zg_get_f64(want->type.dtype, want->data, i);
    if (isnan(a) && isnan(b)) continue;
    if (isinf(b) && a == b) continue;
    scale = fmax(scale, fabs(b));
    worst = isnan(a) || isnan(b) ? INFINITY : fmax(worst, fabs(a - b));
  }
  zg_dtype t = o->type.dtype;
  double tol = t == ZG_F64 ? 1e-10 : t == ZG_F32 ? 2e-5 : 2e-2;
  tol = zg_dtype_is_float(t) ? fmax(tol, c->least_tol) : 0;
  if (!(worst <= tol * fmax(1, scale)))
    report(c, "output \"%s\" differs by %.3g (largest value %.3g)", o->name, worst, scale);
}

// ---- gradients
// ----------------------------------------------------------------------------------------------------

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

// Loss: the sum of squares of all float outputs; gradients of all float inputs and parameters. *out NULL:
// there are none.
static zg_status gradient_graph(const zg_graph *g, zg_graph **out) {
  zg_graph *loss = NULL;
  zg_status status = NULL;
  const char *wrt[64];
  uint32_t n = 0;
  bool any = false;
  *out = NULL;
  ZG_TRY(add_loss(g, &any, &loss));
  for (size_t i = 0; i < loss->nodes.n && n < 64; i++)
    if (loss->nodes.at[i].op == &zg_op_input &&
        zg_dtype_is_float(zg_type_of(loss, zg_out(&loss->nodes.at[i], 0))->dtype))
      wrt[n++] = leaf_name(&loss->nodes.at[i]);
  zg_autodiff_options o = {.seed = 1, .wrt = wrt, .n_wrt = n, .params = true};
  if (any && n) status = zg_pass_lower_autodiff(loss, &o, out);
  zg_graph_free(loss);
  return status;
}
