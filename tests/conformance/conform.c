// ONNX's own backend tests: conform SUITE_FOLDER EXCLUDED_LIST [PATTERN]
//
// SUITE_FOLDER (node, simple, pytorch-operator or pytorch-converted of the onnx package) holds TEST/model.onnx and
// TEST/test_data_set_N/input_I.pb, output_I.pb; suite light holds NAME.onnx and NAME_output_0.pb, its input is a ramp, and each of
// its models takes a training step. Every model goes the way `zgraph run` goes: the inputs become an npz file, a session imports,
// lowers, plans and runs the model on the CPU device, and the results are compared. Each test has a process of its own, with a time
// limit, so that a crash is one failure. Every model passes or stands in the list with a reason; one that stands there and passes is
// a failure too, so that the list stays true. Exit status 77 (skipped) without the folder. PATTERN: names that contain it, printed
// one by one.
#include <dirent.h>
#include <fnmatch.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "conformance/tensors.h"
#include "graph/onnx/onnx.pb-c.h"
#include "train/session.h"

enum { TIME_LIMIT_S = 60, LIGHT_LIMIT_S = 240, N_HOW = 4 };   // light: nets of up to 144 M weights
typedef enum { PASS, WRONG, REFUSED, CRASH, TIMEOUT, N_WHAT } what;
static const char *const what_names[N_WHAT] = {"pass", "wrong", "refused", "crash", "time limit"};

// What a child tells its parent.
typedef struct {
  int what, how;     // how: zg_session.known_inputs
  char why[512];
} verdict;

static int verdict_pipe;

static ZG_PRINTF(3, 4) void say(what w, int how, const char *fmt, ...) {
  verdict v = {.what = (int)w, .how = how};
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(v.why, sizeof v.why, fmt, ap);
  va_end(ap);
  if (write(verdict_pipe, &v, sizeof v) != sizeof v) _exit(2);
  _exit(0);
}

static void need(zg_status s, what w) {
  if (s) say(w, 0, "%s", zg_status_message(s));
}

// ---- one test, in its child ---------------------------------------------------------------------------------------

static Onnx__ModelProto *read_model(const char *path) {
  zg_file_map f;
  need(zg_file_map_open(path, &f), WRONG);
  Onnx__ModelProto *m = onnx__model_proto__unpack(NULL, f.bytes.n, f.bytes.at);
  if (!m || !m->graph) say(WRONG, 0, "%s: no model", path);
  return m;
}

// The arrays of one .pb file under NAME, NAME[0], NAME[1], ... as the model's signature says.
static zg_list_of_tensors read_values(const char *folder, const char *kind, size_t i, const Onnx__ValueInfoProto *v) {
  char path[1200];
  zg_list_of_tensors out;
  snprintf(path, sizeof path, "%s/%s_%zu.pb", folder, kind, i);
  need(zg_read_test_value(path, v->type, &out), REFUSED);
  return out;
}

static void write_inputs(const char *folder, const Onnx__GraphProto *g, const char *npz) {
  zg_npz_writer *w;
  char path[1200], key[600];
  struct stat st;
  need(zg_npz_create(npz, &w), WRONG);
  for (size_t i = 0; i < g->n_input; i++) {
    snprintf(path, sizeof path, "%s/input_%zu.pb", folder, i);
    if (stat(path, &st)) break;
    zg_list_of_tensors x = read_values(folder, "input", i, g->input[i]);
    for (uint32_t k = 0; k < x.n; k++) {
      snprintf(key, sizeof key, x.is_sequence ? "%s[%u]" : "%s", g->input[i]->name, k);
      need(zg_npz_put(w, key, &x.at[k]), WRONG);
    }
  }
  need(zg_npz_finish(w), WRONG);
}

static void compare(const char *name, const zg_tensor *have, const zg_tensor *want, int how) {
  if (have->type.dtype != want->type.dtype || !zg_same_shape(&have->type, &want->type))
    say(WRONG, how, "%s is %s, want %s", name, zg_type_text(&have->type), zg_type_text(&want->type));
  const zg_dtype t = want->type.dtype;
  const double relative = t == ZG_BF16 ? 1.6e-2 : t == ZG_F16 ? 4e-3 : 1e-3, absolute = t == ZG_BF16 || t == ZG_F16 ? 1e-4 : 2e-6;
  for (int64_t i = 0; i < zg_elems(&want->type); i++) {
    const double a = zg_get_f64(t, want->data, i), b = zg_get_f64(t, have->data, i);
    if (a == b || (isnan(a) && isnan(b)) || fabs(a - b) <= absolute + relative * fabs(a)) continue;
    say(WRONG, how, "%s[%lld] is %.9g, want %.9g", name, (long long)i, b, a);
  }
}

static void check_output(zg_session *s, const char *name, const zg_tensor *want) {
  const zg_sched_output *o = zg_sched_find_output(zg_session_sched(s), "forward", ZG_OUT_VALUE, name);
  const int how = (int)s->known_inputs;
  if (!o) say(REFUSED, how, "output \"%s\" is not computed", name);
  zg_tensor have = {.type = o->type};
  need(zg_alloc_big(zg_type_bytes(&o->type) + 1, &have.data), WRONG);
  need(zg_session_read(s, o, have.data), WRONG);
  compare(name, &have, want, how);
}

static zg_session *run_batch(const char *model, const char *npz) {
  zg_config *cfg;
  zg_session *s;
  const char *const sets[] = {"threads=1"};
  need(zg_config_load(NULL, 0, sets, 1, &cfg), WRONG);
  need(zg_session_open(cfg, &(zg_session_options){.model_path = model, .mode = ZG_RUN_FORWARD, .inputs_path = npz}, &s), REFUSED);
  need(zg_session_feed(s, NULL, 0), WRONG);
  need(zg_exec_run(s->program, "forward", (zg_rand_state){{0}}, NULL), WRONG);
  return s;
}

static int run_set(const char *model, const char *folder, const Onnx__GraphProto *g, const char *npz) {
  char key[600];
  write_inputs(folder, g, npz);
  zg_session *s = run_batch(model, npz);
  for (size_t i = 0; i < g->n_output; i++) {
    zg_list_of_tensors want = read_values(folder, "output", i, g->output[i]);
    for (uint32_t k = 0; k < want.n; k++) {
      snprintf(key, sizeof key, want.is_sequence ? "%s[%u]" : "%s", g->output[i]->name, k);
      check_output(s, key, &want.at[k]);
    }
  }
  int how = (int)s->known_inputs;
  zg_session_close(s);
  return how;
}

// ---- suite light --------------------------------------------------------------------------------------------------

static bool ends_in_softmax(const char *model) {
  Onnx__ModelProto *m = read_model(model);
  const Onnx__GraphProto *g = m->graph;
  for (size_t i = 0; i < g->n_node; i++)
    if (!strcmp(g->node[i]->output[0], g->output[0]->name)) return !strcmp(g->node[i]->op_type, "Softmax");
  return false;
}

static double step_loss(zg_session *s, bool first) {
  double loss = NAN;
  need(zg_session_set(s, "@lr", 1e-6), WRONG);
  need(zg_session_set(s, "@first", first), WRONG);
  need(zg_session_set(s, "@first_micro", 1), WRONG);
  need(zg_session_feed(s, s->train, 0), WRONG);
  need(zg_exec_run(s->program, "step", (zg_rand_state){{0}}, NULL), WRONG);
  need(zg_session_scalar(s, "step", ZG_OUT_LOSS, NULL, &loss), WRONG);
  return loss;
}

// All the weights of these files are results of ConstantOfShape; they are trained all the same. Lion, because equal weights
// let activations and gradients grow beyond what f32 can square: its step has one size. It must lower the cross entropy.
static void train_light(const char *model, const char *npz, const zg_tensor *image, const zg_type *out) {
  zg_npz_writer *w;
  zg_config *cfg;
  zg_session *s;
  char path[100];
  int64_t label = 7;
  zg_tensor x = *image, y = {.type = zg_type_make(ZG_I64, out->rank, (int64_t[8]){1, 1, 1, 1}), .data = &label};
  memmove(x.type.dim + 1, x.type.dim, x.type.rank++ * sizeof x.type.dim[0]);
  x.type.dim[0] = 1;
  need(zg_npz_create(npz, &w), WRONG);
  need(zg_npz_put(w, "x", &x), WRONG);
  need(zg_npz_put(w, "labels", &y), WRONG);
  need(zg_npz_finish(w), WRONG);
  snprintf(path, sizeof path, "data.train.path=%s", npz);
  const char *const sets[] = {"threads=1", "device=cpu", "dropout=off", "data.train.format=batches", path, "training.steps=2",
                              "optimizer.type=lion", "training.gradient_clipping=0",
                              "batch_norm=frozen",
                              ends_in_softmax(model) ? "loss={kind: cross_entropy, labels: labels, class_axis: 1, from_probs: true}"
                                                     : "loss={kind: cross_entropy, labels: labels, class_axis: 1}"};
  need(zg_config_load(NULL, 0, sets, ZG_COUNT(sets), &cfg), WRONG);
  need(zg_session_open(cfg, &(zg_session_options){.model_path = model, .mode = ZG_RUN_TRAIN}, &s), REFUSED);
  const double before = step_loss(s, true), after = step_loss(s, false);
  if (!(after < before)) say(WRONG, 0, "a training step takes the loss from %.9g to %.9g", before, after);
  zg_session_close(s);
}

// Element i of the one input of n elements is i / n, as in onnx/backend/test/runner.
static void run_light(const char *model, const char *npz) {
  zg_onnx_model *m;
  zg_npz_writer *w;
  uint32_t n;
  char path[1100];
  zg_list_of_tensors want;
  need(zg_onnx_load(model, &m), REFUSED);
  const zg_signature *in = zg_onnx_inputs(m, &n);
  if (n != 1 || in->dtype != ZG_F32) say(REFUSED, 0, "%u inputs, want one of floats", n);
  zg_tensor x = {.type = {.dtype = ZG_F32, .rank = in->rank}};
  for (uint32_t d = 0; d < in->rank; d++) x.type.dim[d] = in->dim[d].symbol ? 1 : in->dim[d].value;
  need(zg_alloc_big(zg_type_bytes(&x.type), &x.data), WRONG);
  const int64_t count = zg_elems(&x.type);
  for (int64_t i = 0; i < count; i++) ((float *)x.data)[i] = (float)((double)i / (double)count);
  need(zg_npz_create(npz, &w), WRONG);
  need(zg_npz_put(w, in->name, &x), WRONG);
  need(zg_npz_finish(w), WRONG);
  zg_session *s = run_batch(model, npz);
  snprintf(path, sizeof path, "%.*s_output_0.pb", (int)(strlen(model) - strlen(".onnx")), model);
  need(zg_read_test_value(path, NULL, &want), WRONG);
  check_output(s, zg_onnx_outputs(m, &n)->name, &want.at[0]);
  zg_session_close(s);
  train_light(model, npz, &x, &want.at[0].type);
  say(PASS, 0, " ");
}

static bool ends_with(const char *text, const char *end) {
  const size_t n = strlen(text), k = strlen(end);
  return n >= k && !strcmp(text + n - k, end);
}

static void run_test(const char *folder, const char *npz) {
  char model[1100], set[1150];
  struct stat st;
  int how = 0, n = 0;
  if (ends_with(folder, ".onnx")) run_light(folder, npz);
  snprintf(model, sizeof model, "%s/model.onnx", folder);
  Onnx__ModelProto *m = read_model(model);
  for (;; n++) {
    snprintf(set, sizeof set, "%s/test_data_set_%d", folder, n);
    if (stat(set, &st)) break;
    how = ZG_MAX(how, run_set(model, set, m->graph, npz));
  }
  if (!n) say(WRONG, 0, "no test data");
  say(PASS, how, " ");
}

static verdict run_child(const char *folder, const char *npz) {
  verdict v = {.what = CRASH};
  int ends[2], st = 0;
  if (pipe(ends)) return v;
  fflush(stdout);
  const pid_t p = fork();
  if (p == 0) {
    close(ends[0]);
    verdict_pipe = ends[1];
    if (!getenv("ZG_LOG") && !freopen("/dev/null", "w", stderr)) _exit(2);
    alarm(ends_with(folder, ".onnx") ? LIGHT_LIMIT_S : TIME_LIMIT_S);
    run_test(folder, npz);
  }
  close(ends[1]);
  const bool told = p > 0 && read(ends[0], &v, sizeof v) == sizeof v;
  close(ends[0]);
  if (p > 0) waitpid(p, &st, 0);
  unlink(npz);
  if (told) return v;
  v = (verdict){.what = WIFSIGNALED(st) && WTERMSIG(st) == SIGALRM ? TIMEOUT : CRASH};
  snprintf(v.why, sizeof v.why, "status %d", st);
  return v;
}

// ---- the list of exclusions ---------------------------------------------------------------------------------------

typedef struct {
  const char *name, *reason;   // name: may hold wildcards
  uint32_t n_hits;
} exclusion;
typedef struct { zg_arena mem; ZG_VEC(exclusion) at; } exclusions;

// Lines "[reason]" open a class, other lines name a model; '#' starts a comment.
static bool read_exclusions(const char *path, exclusions *x) {
  FILE *f = fopen(path, "r");
  char line[512];
  const char *reason = "no reason";
  if (!f) return false;
  while (fgets(line, sizeof line, f)) {
    line[strcspn(line, "#\n")] = 0;
    size_t n = strlen(line);
    while (n && line[n - 1] == ' ') line[--n] = 0;
    if (!n) continue;
    if (line[0] == '[') reason = zg_arena_strn(&x->mem, line + 1, strcspn(line + 1, "]"));
    else zg_vec_push(&x->at, ((exclusion){zg_arena_str(&x->mem, line), reason, 0}));
  }
  fclose(f);
  return true;
}

static const char *reason_of(exclusions *x, const char *name) {
  for (size_t i = 0; i < x->at.n; i++)
    if (!fnmatch(x->at.at[i].name, name, 0)) {
      x->at.at[i].n_hits++;
      return x->at.at[i].reason;
    }
  return NULL;
}

// ---- the suite ----------------------------------------------------------------------------------------------------

typedef struct { const char *reason; uint32_t n; } tally;

typedef struct {
  exclusions list;
  uint32_t n, n_passed, n_failed, n_excluded, how[N_HOW];
  ZG_VEC(tally) by_reason;
} suite;

static void count_reason(suite *s, const char *reason) {
  for (size_t i = 0; i < s->by_reason.n; i++)
    if (!strcmp(s->by_reason.at[i].reason, reason)) {
      s->by_reason.at[i].n++;
      return;
    }
  zg_vec_push(&s->by_reason, ((tally){reason, 1}));
}

static void judge(suite *s, const char *name, const verdict *v, bool chatty) {
  const char *reason = reason_of(&s->list, name);
  s->n++;
  if (chatty) printf("%s: %s %s\n", name, what_names[v->what], v->why);
  if (reason && v->what != PASS) {
    s->n_excluded++;
    count_reason(s, reason);
  } else if (reason) {
    s->n_failed++;
    printf("FAILED %s: passes, but is excluded (%s): take it off the list\n", name, reason);
  } else if (v->what == PASS) {
    s->n_passed++;
    s->how[v->how]++;
  } else {
    s->n_failed++;
    printf("FAILED %s: %s: %s\n", name, what_names[v->what], v->why);
  }
}

static int is_test(const struct dirent *d) { return d->d_name[0] != '.' && !ends_with(d->d_name, ".pb"); }

static bool summary(suite *s, const char *folder, bool all) {
  const char *name = strrchr(folder, '/');
  printf("%s: %u models run, %u passed, %u failed, %u excluded\n", name ? name + 1 : folder, s->n, s->n_passed, s->n_failed,
         s->n_excluded);
  printf("  passed as they are: %u; with the batch's integers known to the plan: %u; small vectors too: %u; all inputs: %u\n",
         s->how[0], s->how[1], s->how[2], s->how[3]);
  for (size_t i = 0; i < s->by_reason.n; i++) printf("  excluded: %4u  %s\n", s->by_reason.at[i].n, s->by_reason.at[i].reason);
  printf("%d%%: Checks: %u, Failures: %u, Errors: 0\n", s->n ? (int)(100 * s->n_passed / s->n) : 0, s->n_passed + s->n_failed,
         s->n_failed);
  return all && s->n_failed == 0 && s->n > 0;
}

int main(int argc, char **argv) {
  struct dirent **names;
  suite s = {0};
  if (argc < 3) return 2;
  const int n = scandir(argv[1], &names, is_test, alphasort);
  if (n < 0) {
    printf("no %s: the onnx package's test data are not here (scripts/test.sh fetches them)\n", argv[1]);
    return 77;
  }
  if (!read_exclusions(argv[2], &s.list)) {
    printf("cannot read %s\n", argv[2]);
    return 2;
  }
  char npz[64], folder[1024];
  snprintf(npz, sizeof npz, "%s/zgraph_conform_%d.npz", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm", (int)getpid());
  for (int i = 0; i < n; i++) {
    if (argc > 3 && !strstr(names[i]->d_name, argv[3])) continue;
    snprintf(folder, sizeof folder, "%s/%s", argv[1], names[i]->d_name);
    const verdict v = run_child(folder, npz);
    judge(&s, names[i]->d_name, &v, argc > 3);
  }
  const bool ok = summary(&s, argv[1], true);
  for (int i = 0; i < n; i++) free(names[i]);
  free(names);
  zg_vec_fini(&s.by_reason);
  zg_vec_fini(&s.list.at);
  zg_arena_fini(&s.list.mem);
  return !ok;
}
