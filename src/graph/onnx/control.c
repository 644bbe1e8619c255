// If, Loop and Scan. A graph of zgraph has no control flow: the branch is chosen, the loop unrolled, while
// importing. That needs conditions and trip counts that are constants once dims are bound; what depends on
// data is refused by name.
#include "graph/onnx/onnx_priv.h"

enum { MAX_TRIPS = 100000 };

static zg_status const_int(zg__structural *x, uint32_t i, const char *what, int64_t *out) {
  zg_val v;
  zg_tensor t;
  ZG_TRY(zg__arg_value(x, i, &v));
  if (!zg_is(v)) return NULL;  // the builder has failed
  if (!zg_b_const(x->im->b, v, &t) || zg_elems(&t.type) < 1)
    return zg_onnx_error(x->view, ZG_UNSUPPORTED,
                         "its %s depends on the data, which zgraph does not support; export the model "
                         "with that decided (training needs a fixed graph)",
                         what);
  *out = zg_get_i64(t.type.dtype, t.data, 0);
  return NULL;
}

static zg_status body_of(zg__structural *x, const char *attr, const Onnx__GraphProto **out) {
  const Onnx__AttributeProto *a = zg__attr(x->node, x->scope->frame, attr);
  if (!a || !a->g) return zg_onnx_error(x->view, ZG_INVALID, "it has no subgraph \"%s\"", attr);
  *out = a->g;
  return NULL;
}

zg_status zg__run_if(zg__structural *x) {
  int64_t cond = 0;
  const Onnx__GraphProto *g = NULL;
  ZG_TRY(const_int(x, 0, "condition", &cond));
  ZG_TRY(body_of(x, cond ? "then_branch" : "else_branch", &g));
  if (g->n_output < x->n_out)
    return zg_onnx_error(x->view, ZG_INVALID, "it has %u outputs, its branch gives %zu", x->n_out,
                         g->n_output);
  zg__binding *out = ZG_NEW_N(&x->im->mem, zg__binding, g->n_output + 1);
  ZG_TRY(zg__run_graph(x->im, x->scope, x->scope->frame, g, NULL, 0, out));
  for (uint32_t i = 0; i < x->n_out; i++) x->out[i] = out[i];
  return NULL;
}

// ---- stacking of per-trip results
// ---------------------------------------------------------------------------------------
typedef ZG_VEC(zg_val) vals;
typedef struct {
  vals *at;
  uint32_t n;
  const char **poison;
} stacks;

static stacks stacks_new(zg__import *im, uint32_t n) {
  return (stacks){zg_alloc((n + 1) * sizeof(vals)), n, ZG_NEW_N(&im->mem, const char *, n + 1)};
}

static void stacks_fini(stacks *s) {
  for (uint32_t i = 0; i < s->n; i++) zg_vec_fini(&s->at[i]);
  zg_free(s->at);
}

static zg_status stack_push(zg__structural *x, stacks *s, uint32_t i, zg__binding v) {
  if (v.kind == ZG__POISON) s->poison[i] = v.why;
  if (v.kind == ZG__LIST) return zg_onnx_error(x->view, ZG_UNSUPPORTED, "a scan output that is a sequence");
  ZG_TRY(zg__as_value(x->im, &v));
  zg_vec_push(&s->at[i], v.val);
  return NULL;
}

static void stack_result(zg__structural *x, stacks *s, uint32_t i, int64_t axis, bool reverse,
                         zg__binding *out) {
  vals *v = &s->at[i];
  if (s->poison[i] || !v->n) {
    const char *why =
        s->poison[i]
            ? s->poison[i]
            : zg_arena_printf(&x->im->mem,
                              "node \"%s\" (%s): a loop of no trips leaves the shape of its output open",
                              x->view->name, x->view->op_type);
    *out = (zg__binding){.kind = ZG__POISON, .why = why};
    return;
  }
  zg_val *parts = ZG_NEW_N(&x->im->mem, zg_val, v->n);
  for (size_t k = 0; k < v->n; k++)
    parts[reverse ? v->n - 1 - k : k] = zg_b_unsqueeze(x->im->b, v->at[k], axis);
  *out = zg__of_val(zg_b_concat(x->im->b, parts, (uint32_t)v->n, axis));
}

// ---- Loop
// ---------------------------------------------------------------------------------------------------------------
// Reads a loop's condition value: constant, or poison/data-dependent, which is an error.
static zg_status read_cond(zg__structural *x, zg__binding *c, bool *out) {
  zg_tensor t;
  *out = true;
  if (c->kind == ZG__NOTHING) return NULL;
  ZG_TRY(zg__as_value(x->im, c));
  if (c->kind != ZG__VALUE || !zg_b_const(x->im->b, c->val, &t) || zg_elems(&t.type) != 1)
    return zg_onnx_error(x->view, ZG_UNSUPPORTED,
                         "when the loop ends depends on the data; export the model with a fixed number "
                         "of iterations");
  *out = zg_get_i64(t.type.dtype, t.data, 0) != 0;
  return NULL;
}

static zg_status loop_trips(zg__structural *x, const Onnx__GraphProto *g, int64_t max_trips,
                            zg__binding *state, uint32_t n_carried, stacks *s) {
  zg__import *im = x->im;
  uint32_t n_body = (uint32_t)g->n_output;
  zg__binding *body = ZG_NEW_N(&im->mem, zg__binding, n_body + 1);
  zg_type scalar = zg_type_scalar(ZG_I64);
  bool go = true;
  ZG_TRY(read_cond(x, &state[1], &go));
  for (int64_t trip = 0; go && trip < max_trips; trip++) {
    if (trip == MAX_TRIPS)
      return zg_onnx_error(x->view, ZG_UNSUPPORTED, "the loop runs more than %d times", MAX_TRIPS);
    state[0] = zg__of_val(zg_b_const_data(im->b, &scalar, &trip));
    if (state[1].kind == ZG__NOTHING) {
      zg_type flag = zg_type_scalar(ZG_BOOL);
      state[1] = zg__of_val(zg_b_const_data(im->b, &flag, &(uint8_t){1}));
    }
    ZG_TRY(zg__run_graph(im, x->scope, x->scope->frame, g, state, n_carried + 2, body));
    ZG_TRY(read_cond(x, &body[0], &go));
    for (uint32_t i = 0; i <= n_carried; i++) state[i + 1] = body[i];
    for (uint32_t i = 0; i < s->n; i++) ZG_TRY(stack_push(x, s, i, body[1 + n_carried + i]));
  }
  return NULL;
}

zg_status zg__run_loop(zg__structural *x) {
  zg_status status = NULL;
  const Onnx__GraphProto *g = NULL;
  int64_t max_trips = INT64_MAX;
  ZG_TRY(body_of(x, "body", &g));
  uint32_t n_carried = x->n_in > 2 ? x->n_in - 2 : 0;
  if (g->n_input != n_carried + 2 || g->n_output < n_carried + 1 || x->n_out > g->n_output - 1)
    return zg_onnx_error(x->view, ZG_INVALID,
                         "%u carried values, but the body has %zu inputs and %zu outputs", n_carried,
                         g->n_input, g->n_output);
  if (zg__arg_present(x, 0)) ZG_TRY(const_int(x, 0, "trip count", &max_trips));
  zg__binding *state = ZG_NEW_N(&x->im->mem, zg__binding, n_carried + 2);
  for (uint32_t i = 1; i < n_carried + 2 && i < x->n_in; i++) state[i] = x->in[i];
  stacks s = stacks_new(x->im, (uint32_t)g->n_output - 1 - n_carried);
  ZG_TRY_OUT(loop_trips(x, g, max_trips, state, n_carried, &s));
  for (uint32_t i = 0; i < x->n_out; i++) {
    if (i < n_carried) x->out[i] = state[i + 2];
    else stack_result(x, &s, i - n_carried, 0, false, &x->out[i]);
  }
out:
  stacks_fini(&s);
  return status;
}

// ---- Scan (opset 9 and newer)
// -------------------------------------------------------------------------------------------
static int64_t ints_at(zg_ints v, uint32_t i) { return i < v.n ? v.at[i] : 0; }

static zg_status scan_inputs(zg__structural *x, uint32_t n_state, uint32_t n_scan, zg_ints axes,
                             zg_val *scans, int64_t *axis, int64_t *trips) {
  for (uint32_t i = 0; i < n_scan; i++) {
    ZG_TRY(zg__arg_value(x, n_state + i, &scans[i]));
    const zg_type *t = zg_b_type(x->im->b, scans[i]);
    int64_t a = ints_at(axes, i);
    if (a < 0) a += t->rank;
    if (a < 0 || a >= t->rank)
      return zg_onnx_error(x->view, ZG_INVALID, "scan axis %lld of input %u, which is %s",
                           (long long)ints_at(axes, i), n_state + i, zg_type_text(t));
    if (i && t->dim[a] != *trips)
      return zg_onnx_error(x->view, ZG_INVALID, "scan inputs have %lld and %lld elements", (long long)*trips,
                           (long long)t->dim[a]);
    axis[i] = a;
    *trips = t->dim[a];
  }
  return NULL;
}

typedef struct {
  uint32_t n_state, n_scan;
  zg_val *scans;
  int64_t *axis, trips;
  zg_ints directions;
} scan;

static zg_status scan_trips(zg__structural *x, const Onnx__GraphProto *g, const scan *c, zg__binding *args,
                            stacks *s) {
  zg__import *im = x->im;
  zg__binding *body = ZG_NEW_N(&im->mem, zg__binding, g->n_output + 1);
  for (int64_t trip = 0; trip < c->trips; trip++) {
    for (uint32_t i = 0; i < c->n_scan; i++) {
      int64_t at = ints_at(c->directions, i) ? c->trips - 1 - trip : trip;
      zg_val slice = zg_b_slice1(im->b, c->scans[i], c->axis[i], at, 1);
      args[c->n_state + i] = zg__of_val(zg_b_squeeze(im->b, slice, c->axis[i]));
    }
    ZG_TRY(zg__run_graph(im, x->scope, x->scope->frame, g, args, c->n_state + c->n_scan, body));
    for (uint32_t i = 0; i < c->n_state; i++) args[i] = body[i];
    for (uint32_t i = 0; i < s->n; i++) ZG_TRY(stack_push(x, s, i, body[c->n_state + i]));
  }
  return NULL;
}

zg_status zg__run_scan(zg__structural *x) {
  zg_status status = NULL;
  const Onnx__GraphProto *g = NULL;
  zg_ints axes, out_axes, out_directions;
  scan c = {.n_scan = (uint32_t)ZG_MAX(zg_onnx_int(x->view, "num_scan_inputs", 0), 0)};
  if (x->view->opset < 9)
    return zg_onnx_error(x->view, ZG_UNSUPPORTED, "Scan before opset 9; convert the model to a newer opset");
  ZG_TRY(body_of(x, "body", &g));
  if (!c.n_scan || c.n_scan > x->n_in)
    return zg_onnx_error(x->view, ZG_INVALID, "num_scan_inputs is %u of %u inputs", c.n_scan, x->n_in);
  c.n_state = x->n_in - c.n_scan;
  if (g->n_input != x->n_in || g->n_output < c.n_state || x->n_out > g->n_output)
    return zg_onnx_error(x->view, ZG_INVALID, "its body has %zu inputs and %zu outputs", g->n_input,
                         g->n_output);
  zg_onnx_ints(x->view, "scan_input_axes", &axes);
  zg_onnx_ints(x->view, "scan_input_directions", &c.directions);
  zg_onnx_ints(x->view, "scan_output_axes", &out_axes);
  zg_onnx_ints(x->view, "scan_output_directions", &out_directions);
  c.scans = ZG_NEW_N(&x->im->mem, zg_val, c.n_scan);
  c.axis = ZG_NEW_N(&x->im->mem, int64_t, c.n_scan);
  ZG_TRY(scan_inputs(x, c.n_state, c.n_scan, axes, c.scans, c.axis, &c.trips));
  zg__binding *args = ZG_NEW_N(&x->im->mem, zg__binding, x->n_in + 1);
  for (uint32_t i = 0; i < c.n_state; i++) args[i] = x->in[i];
  stacks s = stacks_new(x->im, (uint32_t)g->n_output - c.n_state);
  ZG_TRY_OUT(scan_trips(x, g, &c, args, &s));
  for (uint32_t i = 0; i < x->n_out; i++) {
    uint32_t k = i - c.n_state;
    if (i < c.n_state) x->out[i] = args[i];
    else stack_result(x, &s, k, ints_at(out_axes, k), ints_at(out_directions, k) != 0, &x->out[i]);
  }
out:
  stacks_fini(&s);
  return status;
}
