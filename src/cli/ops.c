// zgraph ops: every ONNX op that can be imported.
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "graph/onnx/onnx.h"
#include "graph/op.h"

typedef struct {
  const char *name, *domain, *gradient;
  char opsets[24], how[80];
  int64_t since;
} entry;
typedef ZG_VEC(entry) entries;

static int by_name(const void *p, const void *q) {
  const entry *a = p, *b = q;
  int order = strcmp(a->domain, b->domain);
  if (!order) order = strcmp(a->name, b->name);
  return order ? order : (a->since > b->since) - (a->since < b->since);
}

// How the derivative comes about. An op that is composed has the derivative of its parts.
static const char *gradient_of(const zg_onnx_row *r) {
  if (r->no_gradient || (r->op && (r->op->traits & ZG_NO_GRAD))) return "none";
  if (!r->op) return "of its parts";
  return r->op->grad ? "rule" : r->op->lower ? "by lowering" : "missing";
}

static void add_families(entries *out) {
  for (const zg_family *const *f = zg_families; *f; f++)
    for (uint32_t i = 0; i < (*f)->n_onnx; i++) {
      const zg_onnx_row *r = &(*f)->onnx[i];
      entry e = {.name = r->op_type, .domain = r->domain ? r->domain : "", .since = r->since, .gradient = gradient_of(r)};
      if (r->until) snprintf(e.opsets, sizeof e.opsets, "%lld-%lld", (long long)r->since, (long long)r->until);
      else snprintf(e.opsets, sizeof e.opsets, "%lld+", (long long)r->since);
      if (r->op) snprintf(e.how, sizeof e.how, "op %s", r->op->name);
      else snprintf(e.how, sizeof e.how, "composed (%s.c)", (*f)->name);
      zg_vec_push(out, e);
    }
}

static void add_structural(entries *out) {
  entry e = {.gradient = "of its parts", .since = 1, .opsets = "1+", .how = "executed while importing"};
  for (uint32_t i = 0; (e.name = zg_onnx_structural_op(i, &e.domain)); i++) zg_vec_push(out, e);
}

static zg_status run(int argc, char **argv) {
  zg_cli_list rest = {0};
  entries all = {0};
  ZG_TRY(zg_cli_parse(argc, argv, NULL, 0, &rest));
  if (rest.n) return zg_error(ZG_INVALID, "takes no arguments, what is \"%s\"?", rest.at[0]);
  add_families(&all);
  add_structural(&all);
  qsort(all.at, all.n, sizeof *all.at, by_name);
  printf("%-28s %-24s %-8s %-8s %-13s %s\n", "op", "domain", "opsets", "forward", "gradient", "how");
  for (size_t i = 0; i < all.n; i++) {
    const entry *e = &all.at[i];
    printf("%-28s %-24s %-8s %-8s %-13s %s\n", e->name, *e->domain ? e->domain : "ai.onnx", e->opsets, "yes", e->gradient, e->how);
  }
  zg_vec_fini(&all);
  return NULL;
}

const zg_verb zg_verb_ops = {
    "ops", "list the ONNX ops that can be imported",
    "usage: zgraph ops\n\nLists every ONNX op: the opsets taken, where its gradient comes from (a rule, its lowering, the ops that it is\n"
    "composed of, or none because its result is an integer or a step), and what it becomes. An op that is not listed is\n"
    "refused with its node's name when a model is imported.\n\nexample:\n  zgraph ops\n",
    run};
