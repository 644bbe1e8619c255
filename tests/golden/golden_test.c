// Golden files: `tests/golden/*.zg` hold a pass with its arguments, a graph, `----`, and the dump that the pass must give.
//
//   # pass: lower_autodiff params=1
//   graph { ... }
//   ----
//   graph grads { ... }
//
// ZG_GOLDEN_UPDATE=1 rewrites the second part; review the difference. Arguments are key=value; a pass that fails prints
// "error: MESSAGE". The dumps are compared without their comments' column, so as text.
#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "graph/core.h"
#include "graph/graph_priv.h"
#include "graph/pass.h"

enum { MAX_FILES = 512 };
static char *files[MAX_FILES];
static int n_files;

// ---- arguments ----------------------------------------------------------------------------------------------------------
typedef struct { const char *text; zg_arena *mem; } args;

static const char *arg(const args *a, const char *key, const char *def) {   // value of key=value, as old as the arena
  const size_t n = strlen(key);
  for (const char *p = a->text; (p = strstr(p, key)); p += n)
    if ((p == a->text || p[-1] == ' ') && p[n] == '=') return zg_arena_strn(a->mem, p + n + 1, strcspn(p + n + 1, " \n"));
  return def;
}
static double num(const args *a, const char *key, double def) {
  const char *v = arg(a, key, NULL);
  return v ? strtod(v, NULL) : def;
}
static int which(const char *name, const char *const *names, int n) {
  for (int i = 0; i < n; i++)
    if (strcmp(names[i], name) == 0) return i;
  ck_abort_msg("golden: no such kind \"%s\"", name);
}

// ---- passes -------------------------------------------------------------------------------------------------------------
static zg_status run_loss(const zg_graph *g, const args *a, zg_graph **out) {
  static const char *const kinds[] = {"cross_entropy", "mse", "l1", "huber", "bce_with_logits", "graph_output"};
  const zg_loss_spec s = {.kind = (zg_loss_kind)which(arg(a, "kind", "mse"), kinds, 6), .prediction = arg(a, "prediction", "logits"),
                          .labels = arg(a, "labels", "labels"), .weight = num(a, "weight", 1), .shift = num(a, "shift", 0),
                          .from_probs = num(a, "from_probs", 0), .ignore_index = (int64_t)num(a, "ignore_index", -100),
                          .class_axis = (int64_t)num(a, "class_axis", -1), .label_smoothing = num(a, "label_smoothing", 0),
                          .delta = num(a, "delta", 1)};
  return zg_pass_attach_loss(g, &s, 1, out);
}

static zg_status run_autodiff(const zg_graph *g, const args *a, zg_graph **out) {
  const char *wrt[] = {arg(a, "wrt", NULL)};
  const zg_autodiff_options o = {.seed = num(a, "seed", 1), .params = num(a, "params", 1), .scaled = num(a, "scaled", 0), .wrt = wrt, .n_wrt = wrt[0] != NULL};
  return zg_pass_lower_autodiff(g, &o, out);
}

static zg_status run_optimizer(const zg_graph *g, const args *a, zg_graph **out) {
  static const char *const kinds[] = {"sgd", "adam", "adamw", "lion", "adagrad", "lamb", "muon"};
  const char *match[] = {arg(a, "no_decay", "")};
  const zg_opt_group group = {.lr_scale = 1, .weight_decay = 0, .match = match, .n_match = 1};
  const zg_opt_spec o = {.kind = (zg_opt_kind)which(arg(a, "kind", "sgd"), kinds, 7), .beta1 = num(a, "beta1", 0.9),
                         .beta2 = num(a, "beta2", 0.999), .eps = num(a, "eps", 1e-8), .weight_decay = num(a, "weight_decay", 0),
                         .momentum = num(a, "momentum", 0), .nesterov = num(a, "nesterov", 0), .clip = num(a, "clip", 0),
                         .dampening = num(a, "dampening", 0), .groups = &group, .n_groups = match[0][0] != 0,
                         .scaled = num(a, "scaled", 0), .sums = arg(a, "sums", NULL), .ranks = (int64_t)num(a, "ranks", 1),
                         .shards = (int64_t)num(a, "shards", 1)};
  return zg_pass_attach_optimizer(g, &o, out);
}

static zg_status run_simplify(const zg_graph *g, const args *a, zg_graph **out) {
  (void)a;
  return zg_pass_opt_simplify(g, out);
}
static zg_status without_dead(zg_status (*pass)(const zg_graph *, zg_graph **), const zg_graph *g, zg_graph **out) {
  zg_graph *raw;
  ZG_TRY(pass(g, &raw));
  zg_status s = zg_pass_opt_simplify(raw, out);
  zg_graph_free(raw);
  return s;
}
static zg_status run_layer_norm(const zg_graph *g, const args *a, zg_graph **out) {
  (void)a;
  return without_dead(zg_pass_opt_layer_norm, g, out);
}
static zg_status run_rms_norm(const zg_graph *g, const args *a, zg_graph **out) {
  (void)a;
  return without_dead(zg_pass_opt_rms_norm, g, out);
}
static zg_status run_rotary(const zg_graph *g, const args *a, zg_graph **out) {
  (void)a;
  return without_dead(zg_pass_opt_rotary, g, out);
}
static zg_status run_attention(const zg_graph *g, const args *a, zg_graph **out) {
  (void)a;
  return without_dead(zg_pass_opt_attention, g, out);
}
static zg_status run_merge(const zg_graph *g, const args *a, zg_graph **out) {
  (void)a;
  return without_dead(zg_pass_opt_merge_products, g, out);
}
static zg_status run_loss_chunk(const zg_graph *g, const args *a, zg_graph **out) {
  return zg_pass_opt_loss_chunk(g, (int64_t)num(a, "rows", 4), num(a, "seed", 1), out);
}
static zg_status run_half(const zg_graph *g, const args *a, zg_graph **out) {
  return zg_pass_lower_half(g, strcmp(arg(a, "type", "bf16"), "f16") ? ZG_BF16 : ZG_F16, !strcmp(arg(a, "convs", "0"), "1"), out);
}
static zg_status run_core(const zg_graph *g, const args *a, zg_graph **out) {
  (void)a;
  return zg_pass_lower_to_core(g, out);
}

static zg_status run_accumulate(const zg_graph *g, const args *a, zg_graph **out) {
  zg_graph *micro, *update;
  ZG_TRY(zg_pass_split_accumulate(g, &micro, &update));
  const bool want_update = strcmp(arg(a, "part", "micro"), "update") == 0;
  *out = want_update ? update : micro;
  zg_graph_free(want_update ? micro : update);
  return NULL;
}

static zg_status run_cells(const zg_graph *g, const args *a, zg_graph **out) {
  (void)a;
  return zg_pass_lower_cells(g, out);
}

static zg_status run_channels_last(const zg_graph *g, const args *a, zg_graph **out) {
  (void)a;
  return zg_pass_opt_channels_last(g, out);
}

static zg_status run_none(const zg_graph *g, const args *a, zg_graph **out) {   // print -> parse -> print
  (void)a;
  zg_str text = {0};
  zg_graph_print(g, &text);
  zg_status s = zg_graph_parse(text.at, "printed", out);
  zg_str_fini(&text);
  return s;
}

static const struct { const char *name; zg_status (*run)(const zg_graph *, const args *, zg_graph **); } passes[] = {
    {"attach_loss", run_loss},         {"lower_autodiff", run_autodiff}, {"attach_optimizer", run_optimizer},
    {"opt_simplify", run_simplify},    {"lower_to_core", run_core},      {"split_accumulate", run_accumulate},
    {"opt_attention", run_attention},  {"lower_half", run_half},         {"lower_cells", run_cells},
    {"opt_layer_norm", run_layer_norm}, {"opt_rms_norm", run_rms_norm},  {"opt_rotary", run_rotary},
    {"opt_loss_chunk", run_loss_chunk}, {"opt_merge_products", run_merge}, {"opt_channels_last", run_channels_last},
    {"print", run_none},
};

// ---- files --------------------------------------------------------------------------------------------------------------
#if defined(__clang__)
// C leaves the order in which arguments are evaluated to the compiler, and with it the numbers of nodes that do not need one another.
// The files are gcc's; here both sides are compared with each node right behind what it reads.
static void place(zg_builder *b, const zg_graph *g, const zg_node *n, bool *placed, zg_val *map) {
  if (placed[n - g->nodes.at]) return;
  placed[n - g->nodes.at] = true;
  for (uint32_t i = 0; i < n->n_in; i++)
    if (zg_is(zg_in(g, n, i))) place(b, g, zg_node_of(g, zg_in(g, n, i)), placed, map);
  zg_emit_copy(b, g, n, map);
}

static void order(zg_str *text) {
  zg_graph *g = NULL, *sorted = NULL;
  zg_status s = zg_graph_parse(text->at, "dump", &g);
  if (s) {   // the text of an error
    zg_status_free(s);
    return;
  }
  zg_arena mem = {0};
  zg_builder *b = zg_builder_new();
  zg_val *map = ZG_NEW_N(&mem, zg_val, g->values.n);
  bool *placed = ZG_NEW_N(&mem, bool, g->nodes.n + 1);
  for (size_t i = 0; i < g->nodes.n; i++)
    if (zg__leaf_name(g->nodes.at[i].op, g->nodes.at[i].attr)) place(b, g, &g->nodes.at[i], placed, map);
  for (size_t i = 0; i < g->outputs.n; i++) place(b, g, zg_node_of(g, g->outputs.at[i].val), placed, map);
  for (size_t i = 0; i < g->nodes.n; i++) place(b, g, &g->nodes.at[i], placed, map);   // what nothing needs
  zg__copy_outputs(b, g, map, ~0u);
  zg_builder_props(b, g->props);
  ck_assert(!zg_builder_finish(b, &sorted));
  zg_str_fini(text);
  zg_graph_print(sorted, text);
  zg_graph_free(g);
  zg_graph_free(sorted);
  zg_arena_fini(&mem);
}
#else
static void order(zg_str *text) { (void)text; }
#endif

static void run_pass(const char *name, const args *a, const char *text, const char *file, zg_str *dump) {
  zg_graph *g = NULL, *out = NULL;
  zg_status s = zg_graph_parse(text, file, &g);
  bool found = false;
  for (size_t i = 0; !s && i < ZG_COUNT(passes); i++)
    if (strcmp(passes[i].name, name) == 0) found = true, s = passes[i].run(g, a, &out);
  if (!s && !found) s = zg_error(ZG_NOT_FOUND, "no pass \"%s\"", name);
  if (!s) s = zg_graph_verify(out);
  if (s) {
    zg_str_add(dump, "error: %s\n", zg_status_message(s));
    zg_status_free(s);
  } else {
    zg_graph_print(out, dump);
    zg_graph *again;
    zg_str twice = {0};
    s = zg_graph_parse(dump->at, "dump", &again);
    ck_assert_msg(!s, "%s: the dump does not parse: %s", file, s ? zg_status_message(s) : "");
    zg_graph_free(again);
    zg_str_fini(&twice);
  }
  zg_graph_free(g);
  zg_graph_free(out);
}

START_TEST(golden_file) {
  const char *path = files[_i];
  zg_str whole = {0}, dump = {0};
  zg_status s = zg_file_read(path, &whole);
  ck_assert_msg(!s, "%s", s ? zg_status_message(s) : "");
  char *split = strstr(whole.at, "----\n");
  ck_assert_msg(strncmp(whole.at, "# pass: ", 8) == 0 && split, "%s: want a line \"# pass: NAME\" and a line \"----\"", path);
  char name[64] = "", *line_end = strchr(whole.at, '\n');
  sscanf(whole.at + 8, "%63s", name);
  zg_arena mem = {0};
  const args a = {zg_arena_strn(&mem, whole.at + 8 + strlen(name), (size_t)(line_end - whole.at) - 8 - strlen(name)), &mem};
  const char *text = zg_arena_strn(&mem, line_end, (size_t)(split - line_end));
  run_pass(name, &a, text, strrchr(path, '/') + 1, &dump);
  if (getenv("ZG_GOLDEN_UPDATE")) {
    zg_str fresh = {0};
    zg_str_put(&fresh, whole.at, (size_t)(split - whole.at) + 5);
    zg_str_put(&fresh, dump.at, dump.n);
    s = zg_file_write_atomic(path, fresh.at, fresh.n);
    ck_assert_msg(!s, "%s", s ? zg_status_message(s) : "");
    zg_str_fini(&fresh);
  } else {
    zg_str want = {0};
    zg_str_put(&want, split + 5, strlen(split + 5));
    order(&want);
    order(&dump);
    ck_assert_msg(strcmp(want.at, dump.at) == 0, "%s: want\n%.1500s\ngot\n%.1500s", path, want.at, dump.at);
    zg_str_fini(&want);
  }
  zg_arena_fini(&mem);
  zg_str_fini(&whole);
  zg_str_fini(&dump);
}
END_TEST

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int main(void) {
  const char *folder = getenv("ZG_GOLDEN_DIR");
  DIR *d = opendir(folder ? folder : ZG_GOLDEN_DIR);
  if (!d) return 1;
  for (struct dirent *e; (e = readdir(d)) && n_files < MAX_FILES;) {
    const char *dot = strrchr(e->d_name, '.');
    if (!dot || strcmp(dot, ".zg") != 0) continue;
    if (asprintf(&files[n_files++], "%s/%s", folder ? folder : ZG_GOLDEN_DIR, e->d_name) < 0) return 1;
  }
  closedir(d);
  qsort(files, (size_t)n_files, sizeof *files, by_name);
  Suite *s = suite_create("golden");
  TCase *t = tcase_create("golden");
  tcase_add_loop_test(t, golden_file, 0, n_files);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  const int n = srunner_ntests_failed(r);
  srunner_free(r);
  for (int i = 0; i < n_files; i++) free(files[i]);
  return n != 0 || n_files == 0;
}
