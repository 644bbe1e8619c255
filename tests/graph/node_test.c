// ONNX nodes, one a model: import, evaluation against stored expectations, and gradients against central differences.
// fixtures/nodes.bin holds the cases; fixtures/make_nodes.py writes it and says where the expectations come from.
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "graph/onnx/onnx.h"
#include "graph/core.h"
#include "graph/pass.h"

typedef struct { const uint8_t *at, *end; } reader;
typedef struct { char *name; zg_tensor t; } array;
enum { MAX_ARRAYS = 16 };
typedef struct {
  char *name;
  uint32_t kind;   // 0: results, 1: and gradients, 2: must be refused; name is "NAME|words of the message"
  double tol;
  zg_bytes model;
  array in[MAX_ARRAYS], want[MAX_ARRAYS];
  uint32_t n_in, n_want;
} node_case;

// ---- reading the fixture --------------------------------------------------------------------------------------------
static const uint8_t *take(reader *r, size_t n) {
  ck_assert_msg((size_t)(r->end - r->at) >= n, "nodes.bin ends early");
  const uint8_t *p = r->at;
  r->at += n;
  return p;
}
static uint32_t take_u32(reader *r) {
  uint32_t v;
  memcpy(&v, take(r, sizeof v), sizeof v);
  return v;
}
static zg_bytes take_bytes(reader *r) {
  const uint32_t n = take_u32(r);
  return (zg_bytes){take(r, n), n};
}
static char *take_name(zg_arena *mem, reader *r) {
  const zg_bytes b = take_bytes(r);
  return zg_arena_strn(mem, (const char *)b.at, b.n);
}

static uint32_t take_arrays(zg_arena *mem, reader *r, array *out) {
  const uint32_t n = take_u32(r);
  ck_assert_uint_le(n, MAX_ARRAYS);
  for (uint32_t i = 0; i < n; i++) {
    out[i].name = take_name(mem, r);
    const uint32_t dtype = take_u32(r), rank = take_u32(r);
    int64_t dim[ZG_MAX_RANK] = {0};
    ck_assert_uint_le(rank, ZG_MAX_RANK);
    memcpy(dim, take(r, rank * sizeof *dim), rank * sizeof *dim);
    out[i].t.type = zg_type_make((zg_dtype)dtype, rank, dim);
    const zg_bytes b = take_bytes(r);
    ck_assert_uint_eq(b.n, zg_type_bytes(&out[i].t.type));
    out[i].t.data = zg_arena_copy(mem, b.at, b.n);
  }
  return n;
}

static node_case take_case(zg_arena *mem, reader *r) {
  node_case c = {.name = take_name(mem, r)};
  c.kind = take_u32(r);
  memcpy(&c.tol, take(r, sizeof c.tol), sizeof c.tol);
  c.model = take_bytes(r);
  c.n_in = take_arrays(mem, r, c.in);
  c.n_want = take_arrays(mem, r, c.want);
  return c;
}

// ---- running a graph ------------------------------------------------------------------------------------------------
typedef struct { const node_case *c; zg_onnx_model *m; } feed;

static zg_tensor leaf(void *user, const zg_node *n) {
  const feed *f = user;
  if (n->op == &zg_op_param) {
    const zg_param_attr *a = n->attr;
    const void *bytes = NULL;
    zg_status s = zg_onnx_tensor_bytes(f->m, (uint32_t)a->source, &bytes);
    ck_assert_msg(!s, "%s", zg_status_message(s));
    return (zg_tensor){a->type, (void *)(uintptr_t)bytes};
  }
  const zg_input_attr *a = n->attr;
  for (uint32_t i = 0; i < f->c->n_in; i++)
    if (!strcmp(f->c->in[i].name, a->name)) return f->c->in[i].t;
  ck_abort_msg("no input \"%s\"", a->name);
}

// options NULL: as the file says.
static zg_status import_case(const node_case *c, const zg_import_options *options, zg_onnx_model **m, zg_graph **g) {
  char path[] = "/tmp/zg_node_XXXXXX";
  const int fd = mkstemp(path);
  ck_assert_int_ge(fd, 0);
  ck_assert_int_eq(write(fd, c->model.at, c->model.n), (ssize_t)c->model.n);
  close(fd);
  zg_status s = zg_onnx_load(path, m);
  unlink(path);
  if (s) return s;
  const zg_import_options plain = {.dropout_ratio = -1};
  return zg_onnx_import(*m, options ? options : &plain, g);
}

// Why the result is not what is wanted; "" if it is.
static const char *compare(const zg_tensor *got, const zg_tensor *want, double tol) {
  static char why[256];
  if (!zg_same_shape(&got->type, &want->type)) {
    snprintf(why, sizeof why, "shape %s, want %s", zg_type_text(&got->type), zg_type_text(&want->type));
    return why;
  }
  for (int64_t i = 0; i < zg_elems(&want->type); i++) {
    const double g = zg_get_f64(got->type.dtype, got->data, i), w = zg_get_f64(want->type.dtype, want->data, i);
    if (g == w || (isnan(g) && isnan(w)) || fabs(g - w) <= tol * (fabs(w) + 0.1)) continue;
    snprintf(why, sizeof why, "element %lld is %.9g, want %.9g", (long long)i, g, w);
    return why;
  }
  return "";
}

static const char *check_forward(const node_case *c, zg_onnx_model *m, const zg_graph *g) {
  static char why[512];
  zg_tensor *out = NULL;
  feed f = {c, m};
  zg_status s = zg_graph_eval(g, leaf, &f, &out);
  if (s) {
    snprintf(why, sizeof why, "eval: %s", zg_status_message(s));
    zg_status_free(s);
    return why;
  }
  why[0] = 0;
  for (uint32_t i = 0; i < c->n_want && !why[0]; i++) {
    const zg_output *o = zg_find_output(g, ZG_OUT_VALUE, c->want[i].name);
    if (!o) snprintf(why, sizeof why, "no output %s", c->want[i].name);
    else {
      const char *e = compare(&out[o - g->outputs.at], &c->want[i].t, c->tol);
      if (*e) snprintf(why, sizeof why, "%s: %s", c->want[i].name, e);
    }
  }
  zg_eval_free(g, out);
  return why;
}

// ---- gradients ------------------------------------------------------------------------------------------------------
// The graph with its output "zg_loss" as the loss.
static zg_status add_loss(const zg_graph *g, zg_graph **out) {
  zg_builder *b = zg_builder_new();
  zg_val *map = zg_alloc(g->values.n * sizeof *map);
  for (size_t i = 0; i < g->nodes.n; i++) zg_emit_copy(b, g, &g->nodes.at[i], map);
  for (size_t i = 0; i < g->outputs.n; i++)
    zg_builder_output(b, ZG_OUT_VALUE, g->outputs.at[i].name, map[g->outputs.at[i].val.id], (zg_val){0});
  const zg_val loss = map[zg_find_output(g, ZG_OUT_VALUE, "zg_loss")->val.id];
  zg_builder_output(b, ZG_OUT_LOSS, "@loss", zg_b_cast(b, loss, ZG_F32), (zg_val){0});
  zg_builder_props(b, ZG_PROP_LOSS);
  zg_free(map);
  return zg_builder_finish(b, out);
}

static zg_status with_gradients(const node_case *c, const zg_graph *g, zg_graph **out) {
  const char *wrt[MAX_ARRAYS];
  uint32_t n = 0;
  for (uint32_t i = 0; i < c->n_in; i++)
    if (zg_dtype_is_float(c->in[i].t.type.dtype) && zg_is(zg_find_leaf(g, c->in[i].name))) wrt[n++] = c->in[i].name;
  zg_graph *with_loss = NULL;
  ZG_TRY(add_loss(g, &with_loss));
  const zg_autodiff_options o = {.seed = 1, .wrt = wrt, .n_wrt = n};
  zg_status s = zg_pass_lower_autodiff(with_loss, &o, out);
  zg_graph_free(with_loss);
  return s;
}

static double loss_of(const zg_graph *g, feed *f) {
  zg_tensor *out = NULL;
  zg_status s = zg_graph_eval(g, leaf, f, &out);
  ck_assert_msg(!s, "%s", zg_status_message(s));
  const zg_output *o = zg_find_output(g, ZG_OUT_VALUE, "zg_loss");
  const double v = zg_get_f64(out[o - g->outputs.at].type.dtype, out[o - g->outputs.at].data, 0);
  zg_eval_free(g, out);
  return v;
}

// Moves the float inputs a little: stored data like to sit on kinks.
static void jitter(node_case *c) {
  uint32_t counter[4] = {0, 0, 0, 7}, key[2] = {3, 5}, bits[4];
  for (uint32_t i = 0; i < c->n_in; i++)
    for (int64_t e = 0; e < zg_elems(&c->in[i].t.type) && c->in[i].t.type.dtype == ZG_F64; e++) {
      counter[0]++;
      zg_philox(counter, key, bits);
      ((double *)c->in[i].t.data)[e] += 0.02 * ((double)bits[0] / 4294967296.0 - 0.5);
    }
}

// Differences of a few elements of each input against the gradient graph.
static const char *check_grad(node_case *c, zg_onnx_model *m, const zg_graph *g) {
  static char why[512];
  zg_graph *d = NULL;
  zg_status s = with_gradients(c, g, &d);
  if (s) {
    snprintf(why, sizeof why, "autodiff: %s", zg_status_message(s));
    zg_status_free(s);
    return why;
  }
  jitter(c);
  feed f = {c, m};
  zg_tensor *out = NULL;
  s = zg_graph_eval(d, leaf, &f, &out);
  snprintf(why, sizeof why, "%s", s ? zg_status_message(s) : "");
  zg_status_free(s);
  for (uint32_t i = 0; i < c->n_in && !why[0]; i++) {
    const zg_output *o = zg_find_output(d, ZG_OUT_GRAD, c->in[i].name);
    if (c->in[i].t.type.dtype != ZG_F64 || !zg_is(zg_find_leaf(g, c->in[i].name))) continue;
    if (!o) {
      snprintf(why, sizeof why, "no gradient of %s", c->in[i].name);
      break;
    }
    double *x = c->in[i].t.data;
    const int64_t n = zg_elems(&c->in[i].t.type), stride = ZG_MAX(n / 3, 1);
    for (int64_t e = 0; e < n && !why[0]; e += stride) {
      const double keep = x[e], step = 1e-5;
      x[e] = keep + step;
      const double up = loss_of(g, &f);
      x[e] = keep - step;
      const double want = (up - loss_of(g, &f)) / (2 * step);
      x[e] = keep;
      const double got = zg_get_f64(ZG_F64, out[o - d->outputs.at].data, e);
      if (!(fabs(got - want) <= 1e-5 * (1 + fabs(want))))
        snprintf(why, sizeof why, "d loss / d %s[%lld] is %.9g, differences give %.9g", c->in[i].name, (long long)e, got, want);
    }
  }
  if (out) zg_eval_free(d, out);
  zg_graph_free(d);
  return why;
}

// ---- the test -------------------------------------------------------------------------------------------------------
// The message names the node and holds the words.
static bool refused(const node_case *c) {
  zg_onnx_model *m = NULL;
  zg_graph *g = NULL;
  zg_status s = import_case(c, NULL, &m, &g);
  const char *words = strchr(c->name, '|') + 1, *message = zg_status_message(s);
  const bool ok = s && strstr(message, words) && strstr(message, "the_node");
  if (!ok) fprintf(stderr, "%s: %s\n", c->name, s ? message : "not refused");
  zg_status_free(s);
  zg_graph_free(g);
  zg_onnx_free(m);
  return ok;
}

static bool run_case(node_case *c) {
  zg_onnx_model *m = NULL;
  zg_graph *g = NULL;
  const char *why = "";
  if (c->kind == 2) return refused(c);
  zg_status s = import_case(c, NULL, &m, &g);
  if (!s) s = zg_graph_verify(g);
  if (s) fprintf(stderr, "%s: %s\n", c->name, zg_status_message(s));
  else {
    why = check_forward(c, m, g);
    if (!*why && c->kind == 1) why = check_grad(c, m, g);
    if (*why) fprintf(stderr, "%s: %s\n", c->name, why);
  }
  const bool ok = !s && !*why;
  zg_status_free(s);
  zg_graph_free(g);
  zg_onnx_free(m);
  return ok;
}

// Calls fn for the cases whose name matches.
static uint32_t each_case(const char *pattern, void (*fn)(node_case *c, void *user), void *user) {
  const char *path = getenv("ZG_NODES_BIN") ? getenv("ZG_NODES_BIN") : ZG_NODES_BIN;
  zg_file_map file;
  zg_status s = zg_file_map_open(path, &file);
  ck_assert_msg(!s, "%s", zg_status_message(s));
  reader r = {file.bytes.at, file.bytes.at + file.bytes.n};
  ck_assert_mem_eq(take(&r, 8), "ZGNODES1", 8);
  uint32_t n = 0;
  while (r.at < r.end) {
    zg_arena mem = {0};
    node_case c = take_case(&mem, &r);
    if (zg_glob(pattern, c.name)) n++, fn(&c, user);
    zg_arena_fini(&mem);
  }
  zg_file_map_close(&file);
  ck_assert_uint_gt(n, 0);
  return n;
}

static void count_bad(node_case *c, void *user) { *(uint32_t *)user += !run_case(c); }

START_TEST(nodes) {
  const char *only = getenv("ZG_NODES_ONLY");
  uint32_t bad = 0;
  const uint32_t n = each_case(only ? only : "*", count_bad, &bad);
  ck_assert_msg(!bad, "%u of %u cases failed", bad, n);
}
END_TEST

// Dropout switched on: each element is dropped or scaled, and about `ratio` of them are dropped.
typedef struct { zg_import_options options; double ratio; } dropout_want;

static void check_dropout(node_case *c, void *user) {
  const dropout_want *want = user;
  zg_onnx_model *m = NULL;
  zg_graph *g = NULL;
  zg_tensor *out = NULL;
  feed f = {c, NULL};
  zg_status s = import_case(c, &want->options, &m, &g);
  f.m = m;
  if (!s) s = zg_graph_eval(g, leaf, &f, &out);
  ck_assert_msg(!s, "%s", zg_status_message(s));
  const zg_tensor *x = &c->in[0].t, *y = &out[zg_find_output(g, ZG_OUT_VALUE, c->want[0].name) - g->outputs.at];
  const int64_t n = zg_elems(&x->type);
  int64_t dropped = 0;
  for (int64_t i = 0; i < n; i++) {
    const double xi = zg_get_f64(x->type.dtype, x->data, i), yi = zg_get_f64(y->type.dtype, y->data, i);
    dropped += yi == 0;
    ck_assert_msg(yi == 0 || fabs(yi - xi / (1 - want->ratio)) < 1e-6, "%s: %g became %g", c->name, xi, yi);
  }
  const double expected = want->ratio * (double)n, spread = 4 * sqrt(expected * (1 - want->ratio));
  ck_assert_msg(fabs((double)dropped - expected) <= spread, "%s: %lld of %lld dropped", c->name, (long long)dropped, (long long)n);
  zg_eval_free(g, out);
  zg_graph_free(g);
  zg_onnx_free(m);
}

START_TEST(dropout) {
  dropout_want w = {.options = {.dropout_on = true, .dropout_ratio = -1}, .ratio = 0.3};
  each_case("dropout 7", check_dropout, &w);           // before opset 12 every Dropout is active, with the file's ratio
  each_case("dropout 10", check_dropout, &w);
  w.ratio = 0;
  each_case("test_dropout_default", check_dropout, &w);   // training_mode is absent: off, as exported
  w.options.dropout_ratio = w.ratio = 0.8;
  each_case("test_dropout_default", check_dropout, &w);   // unless the configuration has a ratio
  each_case("dropout 7", check_dropout, &w);
  w.options.dropout_on = false, w.ratio = 0;
  each_case("dropout 7", check_dropout, &w);
}
END_TEST

int main(void) {
  Suite *s = suite_create("nodes");
  TCase *t = tcase_create("nodes");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, nodes);
  tcase_add_test(t, dropout);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  const int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
