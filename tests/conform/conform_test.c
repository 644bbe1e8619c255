// Every case of every op, and its gradient where it has one, on a device, compared with evaluating the graph.
// One schedule a family of ops, one segment a case, so that kernels are compiled many at once.
//
// usage: conform_test DEVICE DTYPE [FAMILY...]; status 77: there is no such device. Cases are written with
// f64, which DTYPE replaces: f64, f32, bf16, f16. ZG_TEST_OP=name: that op alone; of the
// larger cases those whose names hold it. ZG_TEST_BARRIERS=1, on the
// emulator (tests/emulator): then every barrier of every kernel is taken away in turn, and some case must
// fail in some order of threads.
#include "../sched/op_cases.h"

#include <sys/wait.h>
#include <unistd.h>

#include "cuda/cuda.h"
#include "exec/exec.h"
#include "larger_cases.h"
#include "sched/lower.h"

typedef struct {
  const char *op, *name;
  char segment[24];
  zg_graph *core;
  leaves in;
} piece;
typedef struct {
  const zg_device_vtable *vt;
  zg_device *device;
  const char *dtype;
  zg_sched *s;
  zg_arena mem;
  ZG_VEC(piece) pieces;
  context c;
} suite;

static void set_leaf_name(const zg_node *n, const char *name) {
  if (n->op == &zg_op_input) ((zg_input_attr *)n->attr)->name = name;
  else if (n->op == &zg_op_param) ((zg_param_attr *)n->attr)->name = name;
  else ((zg_state_attr *)n->attr)->name = name;
}

// Lowers a core graph as one more segment; its leaves get names of their own, since segments share leaves by
// name.
static void add_piece(suite *u, zg_graph *core, const zg_op_case *oc) {
  piece p = {.op = u->c.op, .name = u->c.name, .core = core};
  snprintf(p.segment, sizeof p.segment, "case%zu", u->pieces.n);
  for (size_t i = 0; i < core->nodes.n; i++) {
    const zg_node *n = &core->nodes.at[i];
    zg_str name = {0};
    if (!is_leaf(n)) continue;
    zg_str_add(&name, "%s.%s", p.segment, leaf_name(n));
    set_leaf_name(n, zg_arena_str(&u->mem, name.at));
    zg_str_fini(&name);
  }
  p.in = make_leaves(core, oc, &u->mem);
  if (bad(&u->c, zg_lower_graph(u->s, core, p.segment), "lower")) zg_graph_free(core);
  else zg_vec_push(&u->pieces, p);
}

static void put_text(const char *text, const char *dtype, zg_str *out) {
  for (const char *p; (p = strstr(text, "f64")); text = p + 3)
    zg_str_add(out, "%.*s%s", (int)(p - text), text, dtype);
  zg_str_add(out, "%s", text);
}

// A device without a kernel for recurrent layers gets them unrolled, before autodiff. False: what it is given cannot be.
static bool unroll_cells(suite *u, zg_graph **g) {
  zg_graph *r = NULL;
  if (!(u->vt->lacks & 1u << ZG_K_RECURRENT)) return true;
  if (bad(&u->c, zg_pass_lower_cells(*g, &r), "lower_cells")) return false;
  zg_graph_free(*g);
  *g = r;
  for (size_t i = 0; i < r->nodes.n; i++)
    if (r->nodes.at[i].op == &zg_op_recurrent_grad) return false;   // written out by the case
  return true;
}

// A device whose convolutions like images with their channels last gets each case so as well.
static void add_channels_last(suite *u, const zg_graph *core, const zg_op_case *oc) {
  zg_graph *last = NULL;
  if (!u->vt->channels_last || !u->vt->channels_last(u->device)) return;
  if (!bad(&u->c, zg_pass_opt_channels_last(core, &last), "opt_channels_last")) add_piece(u, last, oc);
}

static void add_case(suite *u, const zg_op_case *oc) {
  zg_graph *g = NULL, *core = NULL, *grad = NULL, *grad_core = NULL;
  zg_str text = {0};
  put_text(oc->text, u->dtype, &text);
  bool failed = bad(&u->c, zg_graph_parse(text.at, "case", &g), "parse");
  zg_str_fini(&text);
  if (failed) return;
  if (!unroll_cells(u, &g)) {
    zg_graph_free(g);
    return;
  }
  if (!bad(&u->c, zg_pass_lower_to_core(g, &core), "lower_to_core")) {
    add_channels_last(u, core, oc);
    add_piece(u, core, oc);
  }
  if (!oc->no_grad && !bad(&u->c, gradient_graph(g, &grad), "autodiff") && grad &&
      !bad(&u->c, zg_pass_lower_to_core(grad, &grad_core), "lower_to_core")) {
    add_channels_last(u, grad_core, oc);
    add_piece(u, grad_core, oc);
  }
  zg_graph_free(g);
  zg_graph_free(grad);
}

// ---- running
// ------------------------------------------------------------------------------------------------------

// What a kernel reads but nobody wrote must show: all buffers but constants begin as NaN.
static zg_status fill_buffers(suite *u, zg_program *p) {
  zg_status status = NULL;
  uint64_t largest = 0;
  for (size_t b = 1; b < u->s->bufs.n; b++) largest = ZG_MAX(largest, u->s->bufs.at[b].bytes);
  void *poison = memset(zg_alloc(largest + 1), 0xff, largest + 1);
  for (size_t b = 1; b < u->s->bufs.n; b++)
    if (!u->s->bufs.at[b].init && u->s->bufs.at[b].bytes)
      ZG_TRY_OUT(u->vt->write(p, (uint32_t)b, 0, poison, u->s->bufs.at[b].bytes));
  for (size_t i = 0; i < u->pieces.n; i++) {
    const piece *k = &u->pieces.at[i];
    for (size_t n = 0; n < k->core->nodes.n; n++) {
      const zg_node *node = &k->core->nodes.at[n];
      uint32_t b = is_leaf(node) ? zg_sched_find_buf(u->s, leaf_name(node)) : 0;
      if (b && u->s->bufs.at[b].bytes)
        ZG_TRY_OUT(u->vt->write(p, b, 0, k->in.at[node->out].data, u->s->bufs.at[b].bytes));
    }
  }
out:
  zg_free(poison);
  return status;
}

static void compare_outputs(suite *u, zg_program *p, const piece *k, const zg_tensor *want) {
  for (size_t i = 0, o = 0; i < u->s->outputs.n; i++) {
    const zg_sched_output *out = &u->s->outputs.at[i];
    if (strcmp(out->segment, k->segment)) continue;
    while (k->core->outputs.at[o].kind == ZG_OUT_UPDATE) o++;
    uint64_t bytes = u->s->bufs.at[out->view.buf].bytes;
    void *got = zg_alloc(bytes + 1);
    if (!bad(&u->c, bytes ? u->vt->read(p, out->view.buf, 0, got, bytes) : NULL, "read"))
      compare(&u->c, out, got, &want[o]);
    zg_free(got);
    o++;
  }
}

// Normals are drawn to the accuracy of floats (sched/loop.h). Halves: devices round less often than the
// graph, whose every node rounds.
static double tolerance(const suite *u, const zg_graph *g) {
  double tol = !strcmp(u->dtype, "f64")   ? 0
               : !strcmp(u->dtype, "f32") ? 2e-5
               : !strcmp(u->dtype, "f16") ? 1e-2
                                          : 5e-2;
  for (size_t i = 0; i < g->nodes.n; i++)
    if (g->nodes.at[i].op == &zg_op_random) tol = fmax(tol, 2e-5);
  return tol;
}

static void run_piece(suite *u, zg_program *p, piece *k) {
  zg_tensor *want = NULL;
  u->c.op = k->op, u->c.name = k->name, u->c.least_tol = tolerance(u, k->core);
  if (getenv("ZG_TEST_TRACE")) fprintf(stderr, "%s: %s (%s)\n", k->op, k->name, k->segment);
  if (bad(&u->c, zg_graph_eval(k->core, leaf, &k->in, &want), "eval")) return;
  if (!bad(&u->c, zg_exec_run(p, k->segment, (zg_rand_state){0}, NULL), "run"))
    compare_outputs(u, p, k, want);
  zg_eval_free(k->core, want);
}

// ---- barriers
// -------------------------------------------------------------------------------------------------------

// Does a case fail without the barrier `site`? In a process of its own: what is broken dies with it.
static bool is_noticed(suite *u, zg_program *p, const char *site) {
  static const char *const orders[] = {"reverse", "forward", "random"};
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    setenv("ZG_EMU_SKIP", site, 1);
    setenv("ZG_EMU_QUIET", "1", 1);
    u->c.failures = 0;
    for (size_t o = 0; o < ZG_COUNT(orders) && !u->c.failures; o++) {
      setenv("ZG_EMU_ORDER", orders[o], 1);
      if (bad(&u->c, fill_buffers(u, p), "write")) break;
      for (size_t i = 0; i < u->pieces.n && !u->c.failures; i++) run_piece(u, p, &u->pieces.at[i]);
    }
    _exit(u->c.failures ? 1 : 0);
  }
  int status = 0;
  return child > 0 && waitpid(child, &status, 0) == child && !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void take_barriers_away(suite *u, zg_program *p, const char *sites) {
  char site[200];
  int n = 0, noticed = 0;
  FILE *f = fopen(sites, "r");
  while (f && fgets(site, sizeof site, f)) {
    site[strcspn(site, "\n")] = 0;
    n++;
    if (is_noticed(u, p, site)) noticed++;
    else printf("  nothing fails without the barrier of \"%s\"\n", site);
  }
  if (f) fclose(f);
  printf("  %d of %d barriers are noticed when they miss\n", noticed, n);
  u->c.op = "all", u->c.name = "barriers";
  if (noticed < n) report(&u->c, "%d of %d barriers can be left out", n - noticed, n);
}

// ---- families
// ---------------------------------------------------------------------------------------------------------

static void run_all(suite *u) {
  zg_program *p = NULL;
  u->c.op = "all", u->c.name = "";
  if (bad(&u->c, zg_exec_add_workspaces(u->device, u->s), "workspaces") ||
      bad(&u->c, zg_pass_plan_memory(u->s), "plan_memory") || bad(&u->c, zg_sched_verify(u->s), "verify") ||
      bad(&u->c, u->vt->prepare(u->device, u->s, &p), "prepare"))
    return;
  char sites[] = "/tmp/zgraph-sites-XXXXXX";
  int fd = getenv("ZG_TEST_BARRIERS") ? mkstemp(sites) : -1;
  if (fd >= 0) setenv("ZG_EMU_SITES", sites, 1);
  if (!bad(&u->c, fill_buffers(u, p), "write"))
    for (size_t i = 0; i < u->pieces.n; i++) run_piece(u, p, &u->pieces.at[i]);
  unsetenv("ZG_EMU_SITES");
  if (fd >= 0) {
    take_barriers_away(u, p, sites);
    close(fd);
    unlink(sites);
  }
  u->vt->program_free(p);
}

static void add_cases(suite *u, const char *op, const zg_op_case *cases, uint32_t n) {
  u->c.op = op;
  for (uint32_t k = 0; k < n; k++) {
    u->c.name = cases[k].name ? cases[k].name : "";
    add_case(u, &cases[k]);
  }
}

// f NULL: the cases that are larger.
static int run_family(const zg_device_vtable *vt, zg_device *d, const char *dtype, const zg_family *f) {
  zg_str text = {0};
  suite u = {.vt = vt, .device = d, .dtype = dtype, .s = zg_sched_new(), .c = {.report = &text}};
  const char *only = getenv("ZG_TEST_OP");
  for (size_t k = 0; !f && k < ZG_COUNT(larger_cases); k++)
    if (!only || strstr(larger_cases[k].name, only)) add_cases(&u, "larger", &larger_cases[k], 1);
  for (uint32_t i = 0; f && i < f->n_ops; i++)
    if (!only || !strcmp(only, f->ops[i]->name))
      add_cases(&u, f->ops[i]->name, f->ops[i]->cases, f->ops[i]->n_cases);
  if (u.pieces.n) {
    run_all(&u);
    printf("%s: %s of %s: %zu graphs, %zu kernels, %d failures\n", vt->name, dtype, f ? f->name : "larger",
           u.pieces.n, u.s->kernels.n, u.c.failures);
  }
  if (u.c.failures) printf("%s", text.at);
  fflush(stdout);
  for (size_t i = 0; i < u.pieces.n; i++) zg_graph_free(u.pieces.at[i].core);
  zg_vec_fini(&u.pieces);
  zg_sched_free(u.s);
  zg_arena_fini(&u.mem);
  zg_str_fini(&text);
  return u.c.failures;
}

static bool wanted(const char *name, int argc, char **argv) {
  for (int i = 3; i < argc; i++)
    if (!strcmp(argv[i], name)) return true;
  return argc < 4;
}

int main(int argc, char **argv) {
  static const zg_device_vtable *const devices[] = {&zg_device_cpu, &zg_device_cuda};
  const zg_device_vtable *vt = NULL;
  zg_device *d = NULL;
  int failures = 0;
  for (size_t i = 0; i < ZG_COUNT(devices); i++)
    if (argc > 2 && !strcmp(argv[1], devices[i]->name)) vt = devices[i];
  if (!vt) return fprintf(stderr, "usage: conform_test DEVICE DTYPE [FAMILY...]\n"), 2;
  zg_status s = vt->open(2, &d);
  if (s) {
    bool none = zg_status_code(s) == ZG_NOT_FOUND;
    fprintf(stderr, "%s: %s\n", none ? "skipped" : "failed", zg_status_message(s));
    zg_status_free(s);
    return none ? 77 : 1;
  }
  for (const zg_family *const *f = zg_families; *f; f++)
    if (wanted((*f)->name, argc, argv)) failures += run_family(vt, d, argv[2], *f);
  if (wanted("larger", argc, argv)) failures += run_family(vt, d, argv[2], NULL);
  vt->close(d);
  return failures != 0;
}
