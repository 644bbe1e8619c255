// Every case of every op, and its gradient where it has one, on a device, compared with evaluating the graph.
// One schedule a family of ops, one segment a case, so that kernels are compiled many at once.
//
// usage: conform_test DEVICE [FAMILY...]; status 77: there is no such device. ZG_TEST_OP=name: that op alone.
#include "../sched/op_cases.h"

#include "exec/exec.h"
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

static void add_case(suite *u, const zg_op_case *oc) {
  zg_graph *g = NULL, *core = NULL, *grad = NULL, *grad_core = NULL;
  if (bad(&u->c, zg_graph_parse(oc->text, "case", &g), "parse")) return;
  if (!bad(&u->c, zg_pass_lower_to_core(g, &core), "lower_to_core")) add_piece(u, core, oc);
  if (!oc->no_grad && !bad(&u->c, gradient_graph(g, &grad), "autodiff") && grad &&
      !bad(&u->c, zg_pass_lower_to_core(grad, &grad_core), "lower_to_core"))
    add_piece(u, grad_core, oc);
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

static bool draws_normals(const zg_graph *g) {
  bool any = false;
  for (size_t i = 0; i < g->nodes.n; i++) any |= g->nodes.at[i].op == &zg_op_random;
  return any;
}

static void run_piece(suite *u, zg_program *p, piece *k) {
  zg_tensor *want = NULL;
  u->c.op = k->op, u->c.name = k->name, u->c.float_only = draws_normals(k->core);
  if (getenv("ZG_TEST_TRACE")) fprintf(stderr, "%s: %s (%s)\n", k->op, k->name, k->segment);
  if (bad(&u->c, zg_graph_eval(k->core, leaf, &k->in, &want), "eval")) return;
  if (!bad(&u->c, zg_exec_run(p, k->segment, (zg_rand_state){0}, NULL), "run"))
    compare_outputs(u, p, k, want);
  zg_eval_free(k->core, want);
}

static void run_all(suite *u) {
  zg_program *p = NULL;
  u->c.op = "all", u->c.name = "";
  if (bad(&u->c, zg_exec_add_workspaces(u->device, u->s), "workspaces") ||
      bad(&u->c, zg_pass_plan_memory(u->s), "plan_memory") || bad(&u->c, zg_sched_verify(u->s), "verify") ||
      bad(&u->c, u->vt->prepare(u->device, u->s, &p), "prepare"))
    return;
  if (!bad(&u->c, fill_buffers(u, p), "write"))
    for (size_t i = 0; i < u->pieces.n; i++) run_piece(u, p, &u->pieces.at[i]);
  u->vt->program_free(p);
}

static int run_family(const zg_device_vtable *vt, zg_device *d, const zg_family *f) {
  zg_str text = {0};
  suite u = {.vt = vt, .device = d, .s = zg_sched_new(), .c = {.report = &text}};
  const char *only = getenv("ZG_TEST_OP");
  for (uint32_t i = 0; i < f->n_ops; i++)
    for (uint32_t k = 0; k < f->ops[i]->n_cases && (!only || !strcmp(only, f->ops[i]->name)); k++) {
      u.c.op = f->ops[i]->name;
      u.c.name = f->ops[i]->cases[k].name ? f->ops[i]->cases[k].name : "";
      add_case(&u, &f->ops[i]->cases[k]);
    }
  if (u.pieces.n) run_all(&u);
  printf("%s: %s: %zu graphs, %zu kernels, %d failures\n", vt->name, f->name, u.pieces.n, u.s->kernels.n,
         u.c.failures);
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
  for (int i = 2; i < argc; i++)
    if (!strcmp(argv[i], name)) return true;
  return argc < 3;
}

int main(int argc, char **argv) {
  static const zg_device_vtable *const devices[] = {&zg_device_cpu};
  const zg_device_vtable *vt = NULL;
  zg_device *d = NULL;
  int failures = 0;
  for (size_t i = 0; i < ZG_COUNT(devices); i++)
    if (argc > 1 && !strcmp(argv[1], devices[i]->name)) vt = devices[i];
  if (!vt) return fprintf(stderr, "usage: conform_test DEVICE [FAMILY...]\n"), 2;
  zg_status s = vt->open(2, &d);
  if (s) {
    bool none = zg_status_code(s) == ZG_NOT_FOUND;
    fprintf(stderr, "%s: %s\n", none ? "skipped" : "failed", zg_status_message(s));
    zg_status_free(s);
    return none ? 77 : 1;
  }
  for (const zg_family *const *f = zg_families; *f; f++)
    if (wanted((*f)->name, argc, argv)) failures += run_family(vt, d, *f);
  vt->close(d);
  return failures != 0;
}
