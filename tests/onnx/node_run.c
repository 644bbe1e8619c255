// Runs models with stored inputs and outputs: node_run MODEL.onnx... ; beside each MODEL.onnx lies MODEL.npz
// with in/NAME and out/NAME. Prints one line a model: "MODEL PASS", or REFUSED, WRONG or CRASH with the
// reason. For node_test.py.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "graph/core.h"
#include "graph/onnx/onnx.h"
#include "train/npz.h"

typedef struct {
  zg_onnx_model *m;
  zg_npz *data;
} feed;

static void die(const char *what, const char *why) {
  printf("%s %s\n", what, why);
  fflush(stdout);
  _exit(0);
}

static void need(zg_status s, const char *what) {
  if (s) die(what, zg_status_message(s));
}

static zg_tensor leaf(void *user, const zg_node *n) {
  feed *f = user;
  char key[512];
  zg_tensor from;
  const zg_input_attr *in = n->attr;  // both attribute structs begin with name and type
  zg_tensor to = {.type = in->type};
  need(zg_alloc_big(zg_type_bytes(&to.type) + 1, &to.data), "WRONG");  // lives until the child process ends
  if (n->op == &zg_op_param) {
    const void *bytes;
    need(zg_onnx_tensor_bytes(f->m, (uint32_t)((const zg_param_attr *)n->attr)->source, &bytes), "WRONG");
    memcpy(to.data, bytes, zg_type_bytes(&to.type));
    return to;
  }
  snprintf(key, sizeof key, "in/%s", in->name);
  need(zg_npz_get(f->data, key, &from), "WRONG");
  zg_convert(to.type.dtype, to.data, from.type.dtype, from.data, zg_elems(&to.type));
  return to;
}

static zg_graph *import(feed *f) {
  static zg_type types[64];
  static const char *names[64];
  uint32_t n, k = 0;
  const zg_signature *in = zg_onnx_inputs(f->m, &n);
  for (uint32_t i = 0; i < n && k < 64; i++) {
    char key[512];
    snprintf(key, sizeof key, "in/%s", in[i].name);
    int64_t at = zg_npz_find(f->data, key);
    if (at < 0) continue;
    names[k] = in[i].name;
    types[k++] = *zg_npz_type(f->data, (size_t)at);
  }
  zg_graph *g;
  need(zg_onnx_import(f->m, &(zg_import_options){.input_types = types, .input_names = names, .n_inputs = k},
                      &g),
       "REFUSED");
  need(zg_graph_verify(g), "WRONG");
  return g;
}

static void compare(const char *name, const zg_tensor *have, const zg_tensor *want) {
  if (!zg_same_shape(&have->type, &want->type)) die("WRONG", "shape");
  zg_dtype t = have->type.dtype;
  double tolerance = t == ZG_BF16 ? 2e-2 : t == ZG_F16 ? 5e-3 : 1e-3;
  for (int64_t i = 0; i < zg_elems(&have->type); i++) {
    double a = zg_get_f64(want->type.dtype, want->data, i), b = zg_get_f64(t, have->data, i);
    if (a == b || (isnan(a) && isnan(b)) || fabs(a - b) <= tolerance * (1e-3 + fabs(a))) continue;
    printf("WRONG %s[%lld] is %g, want %g\n", name, (long long)i, b, a);
    fflush(stdout);
    _exit(0);
  }
}

static void run(const char *path) {
  feed f = {0};
  zg_tensor *out;
  char npz[1024];
  need(zg_onnx_load(path, &f.m), "REFUSED");
  snprintf(npz, sizeof npz, "%.*s.npz", (int)(strlen(path) - strlen(".onnx")), path);
  need(zg_npz_open(npz, &f.data), "WRONG");
  zg_graph *g = import(&f);
  need(zg_graph_eval(g, leaf, &f, &out), "WRONG");
  for (size_t i = 0; i < g->outputs.n; i++) {
    char key[512];
    zg_tensor want;
    snprintf(key, sizeof key, "out/%s", g->outputs.at[i].name);
    if (g->outputs.at[i].kind != ZG_OUT_VALUE || zg_npz_find(f.data, key) < 0) continue;
    need(zg_npz_get(f.data, key, &want), "WRONG");
    compare(key, &out[i], &want);
  }
  die("PASS", "");
}

int main(int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    const char *slash = strrchr(argv[i], '/');
    int st;
    printf("%s ", slash ? slash + 1 : argv[i]);
    fflush(stdout);
    pid_t p = fork();
    if (p == 0) {
      alarm(20);
      run(argv[i]);
    }
    if (p < 0 || waitpid(p, &st, 0) != p) return 1;
    if (WIFSIGNALED(st) || WEXITSTATUS(st)) printf("CRASH %d\n", st);
  }
  return 0;
}
