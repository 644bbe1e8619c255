// Gradients of ONNX's node tests against central differences: gradients NODE_FOLDER OWN_FOLDER DIFFERENTIABLE_LIST [PATTERN]
//
// Every model of one node is imported, computed in double, its float results summed with fixed weights, and the derivative of that
// sum for every float input compared with differences at a few elements. Where the one-sided differences disagree there is a kink, and
// the element says nothing. The list names the ops that ONNX marks differentiable: each must have been checked at least once, or say
// why it is not ("Op: reason"). OWN_FOLDER: tests of the same layout for ops that ONNX's leave out. Exit status 77 (skipped) without
// NODE_FOLDER.
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "conformance/tensors.h"
#include "graph/onnx/onnx.h"
#include "graph/pass.h"

enum { TIME_LIMIT_S = 20, MAX_INPUTS = 32, SAMPLES = 3 };
typedef enum { CHECKED, NOTHING, REFUSED, WRONG, CRASH } what;
typedef struct { int what, n; char op[64], why[400]; } verdict;

static verdict result;      // of the child
static int verdict_pipe;

static void finish(what w) {
  result.what = (int)w;
  if (write(verdict_pipe, &result, sizeof result) != sizeof result) _exit(2);
  _exit(0);
}

static void need(zg_status s, what w) {
  if (!s) return;
  snprintf(result.why, sizeof result.why, "%s", zg_status_message(s));
  finish(w);
}

// ---- one model, in its child ----------------------------------------------------------------------------------------

typedef struct {
  zg_onnx_model *m;
  const char *name[MAX_INPUTS];
  zg_type type[MAX_INPUTS];
  zg_tensor value[MAX_INPUTS];   // floats in double, a little off the test's values
  uint32_t n;
} inputs;

static double noise(uint32_t i, uint32_t stream) {   // [-1, 1)
  uint32_t counter[4] = {i, stream, 0, 0}, key[2] = {0x6ad, 0}, w[4];
  zg_philox(counter, key, w);
  return w[0] / 2147483648.0 - 1;
}

// Test values like 0 and 1 are where kinks are.
static zg_tensor moved(const zg_tensor *t, uint32_t stream) {
  zg_tensor x = *t;
  if (!zg_dtype_is_float(t->type.dtype)) return x;
  x.type.dtype = ZG_F64;
  x.data = zg_alloc(zg_type_bytes(&x.type) + 8);
  zg_convert(ZG_F64, x.data, t->type.dtype, t->data, zg_elems(&t->type));
  double *at = x.data;
  for (int64_t i = 0; i < zg_elems(&t->type); i++) at[i] = at[i] * (1 - 0.01 * fabs(noise((uint32_t)i, stream))) + 1e-3 * noise((uint32_t)i, stream + 100);
  return x;
}

static void read_inputs(inputs *in, const Onnx__GraphProto *g, const char *folder) {
  char path[1200];
  struct stat st;
  zg_list_of_tensors v;
  for (size_t i = 0; i < g->n_input && in->n < MAX_INPUTS; i++) {
    snprintf(path, sizeof path, "%s/test_data_set_0/input_%zu.pb", folder, i);
    if (stat(path, &st)) break;
    need(zg_read_test_value(path, g->input[i]->type, &v), REFUSED);
    if (v.is_sequence || v.n != 1) finish(NOTHING);
    in->name[in->n] = g->input[i]->name;
    in->type[in->n] = v.at->type;
    in->value[in->n] = *v.at;
    in->n++;
  }
}

// As `zgraph run` does (train/session_import.c): what the plan must know becomes constant, as little as possible.
static zg_graph *import(inputs *in) {
  zg_graph *g;
  zg_status first = NULL;
  for (int level = 0; level < 3; level++) {
    zg_tensor known[MAX_INPUTS];
    for (uint32_t i = 0; i < in->n; i++) {
      const zg_type *t = &in->type[i];
      const bool fixed = level > 0 && (!zg_dtype_is_float(t->dtype) || (level > 1 && t->rank <= 1 && zg_elems(t) <= 64));
      known[i] = (zg_tensor){*t, fixed ? in->value[i].data : NULL};
    }
    zg_status s = zg_onnx_import(in->m, &(zg_import_options){.input_types = in->type, .input_names = in->name, .n_inputs = in->n,
                                                            .input_values = known}, &g);
    if (!s) return g;
    if (!first) first = s;
  }
  need(first, REFUSED);
  return NULL;
}

// Copies g with one output more: the weighted sum of its float results. NULL: it has none.
static zg_graph *with_loss(const zg_graph *g) {
  zg_builder *b = zg_builder_new();
  zg_val *map = zg_alloc(sizeof *map * g->values.n), loss = {0};
  zg_graph *out;
  for (size_t i = 0; i < g->nodes.n; i++) zg_emit_copy(b, g, &g->nodes.at[i], map);
  for (size_t o = 0; o < g->outputs.n; o++) {
    const zg_output *x = &g->outputs.at[o];
    const zg_type t = *zg_type_of(g, x->val);
    if (x->kind != ZG_OUT_VALUE || t.dtype != ZG_F64) continue;
    double *w = zg_alloc(zg_type_bytes(&t) + 8);
    for (int64_t i = 0; i < zg_elems(&t); i++) w[i] = 0.5 + 0.5 * noise((uint32_t)i, (uint32_t)o + 50);
    const zg_val sum = zg_b_reduce_all(b, ZG_RED_SUM, zg_mul(b, map[x->val.id], zg_b_const_data(b, &t, w)));
    loss = zg_is(loss) ? zg_add(b, loss, sum) : sum;
  }
  if (!zg_is(loss)) finish(NOTHING);
  zg_builder_output(b, ZG_OUT_LOSS, "loss", loss, (zg_val){0});
  zg_builder_props(b, ZG_PROP_LOSS);
  need(zg_builder_finish(b, &out), WRONG);
  return out;
}

static zg_tensor leaf(void *user, const zg_node *n) {
  const inputs *in = user;
  const char *name = ((const zg_input_attr *)n->attr)->name;   // input and param: name and type come first
  for (uint32_t i = 0; i < in->n; i++)
    if (n->op == &zg_op_input && !strcmp(in->name[i], name)) return in->value[i];
  if (n->op != &zg_op_param) return (zg_tensor){0};
  const zg_param_attr *a = n->attr;
  const void *bytes;
  need(zg_onnx_tensor_bytes(in->m, (uint32_t)a->source, &bytes), WRONG);
  const zg_type *from = &zg_onnx_tensor_at(in->m, (uint32_t)a->source)->type;
  zg_tensor t = {.type = a->type, .data = zg_alloc(zg_type_bytes(&a->type) + 8)};
  void *aligned = zg_alloc(zg_type_bytes(from) + 8);
  memcpy(aligned, bytes, zg_type_bytes(from));
  zg_convert(t.type.dtype, t.data, from->dtype, aligned, zg_elems(from));
  return t;
}

static double loss_at(const zg_graph *g, inputs *in, double *x, double to) {
  zg_tensor *v;
  const double was = *x;
  *x = to;
  need(zg_graph_eval(g, leaf, in, &v), WRONG);
  *x = was;
  const double loss = zg_get_f64(v[0].type.dtype, v[0].data, 0);
  zg_eval_free(g, v);
  return loss;
}

// One element of one input: true unless it lies at a kink.
static bool check(const zg_graph *g, inputs *in, uint32_t i, int64_t e, double gradient, double middle, double scale) {
  double *x = (double *)in->value[i].data + e;
  const double h = 1e-5 * fmax(1, fabs(*x)), up = loss_at(g, in, x, *x + h), down = loss_at(g, in, x, *x - h);
  const double right = (up - middle) / h, left = (middle - down) / h, slope = (up - down) / (2 * h);
  if (!isfinite(slope) || fabs(right - left) > 1e-2 * fmax(fabs(slope), 1e-2 * scale) + 1e-6 * fabs(middle)) return false;
  if (fabs(slope - gradient) <= 1e-5 * fmax(scale, fmax(fabs(middle) * 1e-3, 1e-3)) + 1e-4 * fabs(slope)) return true;
  snprintf(result.why, sizeof result.why, "d/d %s[%lld] is %.9g, differences say %.9g", in->name[i], (long long)e, gradient, slope);
  finish(WRONG);
  return false;
}

static zg_graph *core_of(const zg_graph *g) {
  zg_graph *out;
  need(zg_pass_lower_to_core(g, &out), WRONG);
  return out;
}

static void compare(const zg_graph *g, inputs *in, const zg_graph *loss, const char *const *wrt, uint32_t n_wrt) {
  zg_graph *with;
  zg_tensor *v;
  need(zg_pass_lower_autodiff(g, &(zg_autodiff_options){.seed = 1, .wrt = wrt, .n_wrt = n_wrt}, &with), WRONG);
  need(zg_graph_eval(with, leaf, in, &v), WRONG);
  double unused = 0, middle = loss_at(loss, in, &unused, 0);
  for (size_t o = 0; o < with->outputs.n; o++) {
    if (with->outputs.at[o].kind != ZG_OUT_GRAD) continue;
    const double *d = v[o].data;
    const int64_t n = zg_elems(&v[o].type);
    uint32_t i = 0;
    double scale = 0;
    int64_t best = 0;
    while (strcmp(in->name[i], with->outputs.at[o].name)) i++;
    for (int64_t k = 0; k < n; k++)
      if (fabs(d[k]) > scale) scale = fabs(d[best = k]);
    for (uint32_t k = 0; n && k < SAMPLES; k++) {
      const int64_t e = k ? (int64_t)((noise(k, i + 7) + 1) / 2 * (double)n) : best;
      result.n += check(loss, in, i, e, d[e], middle, scale);
    }
  }
}

static void run_test(const char *folder) {
  char path[1100];
  zg_file_map f;
  inputs in = {0};
  zg_graph *wide;
  const char *wrt[MAX_INPUTS];
  uint32_t n_wrt = 0;
  snprintf(path, sizeof path, "%s/model.onnx", folder);
  need(zg_file_map_open(path, &f), WRONG);
  const Onnx__ModelProto *m = onnx__model_proto__unpack(NULL, f.bytes.n, f.bytes.at);
  if (!m || !m->graph || m->graph->n_node != 1) finish(NOTHING);
  snprintf(result.op, sizeof result.op, "%.60s", m->graph->node[0]->op_type);
  read_inputs(&in, m->graph, folder);
  need(zg_onnx_load(path, &in.m), REFUSED);
  const zg_graph *g = import(&in);
  for (uint32_t i = 0; i < in.n; i++) in.value[i] = moved(&in.value[i], i);
  need(zg_pass_widen(g, &wide), WRONG);
  for (uint32_t i = 0; i < in.n; i++)
    if (zg_dtype_is_float(in.type[i].dtype) && zg_is(zg_find_leaf(wide, in.name[i]))) wrt[n_wrt++] = in.name[i];
  if (!n_wrt) finish(NOTHING);
  const zg_graph *loss = with_loss(wide);
  zg_builder *b = zg_builder_new();   // the loss alone, for differences
  zg_val *map = zg_alloc(sizeof *map * loss->values.n);
  zg_graph *alone;
  for (size_t i = 0; i < loss->nodes.n; i++) zg_emit_copy(b, loss, &loss->nodes.at[i], map);
  zg_builder_output(b, ZG_OUT_LOSS, "loss", map[loss->outputs.at[0].val.id], (zg_val){0});
  need(zg_builder_finish(b, &alone), WRONG);
  compare(loss, &in, core_of(alone), wrt, n_wrt);
  finish(result.n ? CHECKED : NOTHING);
}

static verdict run_child(const char *folder) {
  verdict v = {.what = CRASH};
  int ends[2], st = 0;
  if (pipe(ends)) return v;
  fflush(stdout);
  const pid_t p = fork();
  if (p == 0) {
    close(ends[0]);
    verdict_pipe = ends[1];
    if (!getenv("ZG_LOG") && !freopen("/dev/null", "w", stderr)) _exit(2);
    alarm(TIME_LIMIT_S);
    run_test(folder);
  }
  close(ends[1]);
  const bool told = p > 0 && read(ends[0], &v, sizeof v) == sizeof v;
  close(ends[0]);
  if (p > 0) waitpid(p, &st, 0);
  if (!told) {
    v = (verdict){.what = CRASH};
    snprintf(v.why, sizeof v.why, "status %d", st);
  }
  return v;
}

// ---- the suite ------------------------------------------------------------------------------------------------------

typedef struct { char op[64]; const char *reason; uint32_t n_models, n_points; bool listed; } op_row;
typedef struct { zg_arena mem; ZG_VEC(op_row) ops; uint32_t n_checked, n_wrong; } suite;

static op_row *row_of(suite *s, const char *op) {
  for (size_t i = 0; i < s->ops.n; i++)
    if (!strcmp(s->ops.at[i].op, op)) return &s->ops.at[i];
  op_row r = {.op = ""};
  snprintf(r.op, sizeof r.op, "%.60s", op);
  zg_vec_push(&s->ops, r);
  return &s->ops.at[s->ops.n - 1];
}

static bool read_list(suite *s, const char *path) {
  FILE *f = fopen(path, "r");
  char line[256];
  if (!f) return false;
  while (fgets(line, sizeof line, f)) {
    line[strcspn(line, "#\n")] = 0;
    if (!*line) continue;
    char *colon = strchr(line, ':');
    if (colon) *colon = 0;
    op_row *r = row_of(s, line);
    r->listed = true;
    r->reason = colon ? zg_arena_str(&s->mem, colon + 1 + (colon[1] == ' ')) : NULL;
  }
  fclose(f);
  return true;
}

static void judge(suite *s, const char *name, const verdict *v, bool chatty) {
  static const char *const names[] = {"checked", "nothing to check", "refused", "WRONG", "CRASH"};
  if (chatty) printf("%s: %s %d %s\n", name, names[v->what], v->n, v->why);
  if (v->what == WRONG || v->what == CRASH) {
    s->n_wrong++;
    printf("FAILED %s (%s): %s\n", name, v->op, v->why);
  }
  if (v->what != CHECKED) return;
  op_row *r = row_of(s, v->op);
  s->n_checked++;
  r->n_models++;
  r->n_points += (uint32_t)v->n;
}

static bool summary(suite *s) {
  uint32_t listed = 0, done = 0, excused = 0, bad = 0;
  for (size_t i = 0; i < s->ops.n; i++) {
    const op_row *r = &s->ops.at[i];
    if (r->n_models) printf("  %-28s %4u models %5u points%s\n", r->op, r->n_models, r->n_points, r->listed ? "" : "   (not marked by ONNX)");
    listed += r->listed;
    done += r->listed && r->n_models;
    excused += r->listed && !r->n_models && r->reason;
    if (r->listed && !r->n_models && !r->reason) printf("FAILED %s: differentiable, but no gradient of it was checked\n", r->op), bad++;
    if (r->listed && r->n_models && r->reason) printf("FAILED %s: checked, but listed as \"%s\"\n", r->op, r->reason), bad++;
    if (r->listed && !r->n_models && r->reason) printf("  %-28s not checked: %s\n", r->op, r->reason);
  }
  printf("gradients: %u models checked, %u wrong; of %u differentiable ops %u checked, %u with a reason\n", s->n_checked, s->n_wrong, listed,
         done, excused);
  printf("%d%%: Checks: %u, Failures: %u, Errors: 0\n", s->n_wrong + bad ? 0 : 100, s->n_checked + s->n_wrong + bad, s->n_wrong + bad);
  return !s->n_wrong && !bad;
}

static int is_test(const struct dirent *d) { return d->d_name[0] != '.' && !strstr(d->d_name, "_expanded"); }

static bool run_folder(suite *s, const char *path, const char *pattern) {
  struct dirent **names;
  char folder[1024];
  const int n = scandir(path, &names, is_test, alphasort);
  for (int i = 0; i < n; i++) {
    if (pattern && !strstr(names[i]->d_name, pattern)) continue;
    snprintf(folder, sizeof folder, "%s/%s", path, names[i]->d_name);
    const verdict v = run_child(folder);
    judge(s, names[i]->d_name, &v, pattern != NULL);
  }
  for (int i = 0; i < n; i++) free(names[i]);
  if (n >= 0) free(names);
  return n >= 0;
}

int main(int argc, char **argv) {
  suite s = {0};
  if (argc < 4) return 2;
  if (!read_list(&s, argv[3])) return 2;
  if (!run_folder(&s, argv[1], argc > 4 ? argv[4] : NULL)) {
    printf("no %s: the onnx package's test data are not here (scripts/test.sh fetches them)\n", argv[1]);
    return 77;
  }
  if (!run_folder(&s, argv[2], argc > 4 ? argv[4] : NULL)) return 2;
  const bool ok = summary(&s);
  zg_vec_fini(&s.ops);
  zg_arena_fini(&s.mem);
  return !ok;
}
