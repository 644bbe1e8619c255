// The text form of a graph (graph.h shows it). Ids are written as they are; types and origins are comments.
#include "graph/graph_priv.h"

static const char *const out_kinds[] = {"value", "loss", "grad", "update"};
static const char *const prop_names[] = {"core", "loss", "grads", "step"};

static void print_quoted(const char *s, zg_str *out) {
  zg_str_put(out, "\"", 1);
  for (; s && *s; s++) {
    if (*s == '"' || *s == '\\') {
      zg_str_add(out, "\\%c", *s);
    } else if ((unsigned char)*s < 32) {
      zg_str_add(out, "\\x%02x", (unsigned char)*s);
    } else {
      zg_str_put(out, s, 1);
    }
  }
  zg_str_put(out, "\"", 1);
}

static void print_node(const zg_graph *g, const zg_node *n, zg_str *out) {
  const size_t start = out->n;
  zg_str_add(out, "  ");
  for (uint32_t k = 0; k < n->n_out; k++) zg_str_add(out, "%s%%%u", k ? ", " : "", n->out + k);
  zg_str_add(out, " = %s", n->op->name);
  for (uint32_t k = 0; k < n->n_in; k++) {
    const uint32_t id = g->operands.at[n->in + k].id;
    zg_str_add(out, k ? ", " : " ");
    if (id) {
      zg_str_add(out, "%%%u", id);
    } else {
      zg_str_add(out, "_");
    }
  }
  if (n->attr) zg__attr_print(n->op, n->attr, out);
  if (n->op->traits & ZG_LEAF) {   // leaves print their type already
    zg_str_add(out, "\n");
    return;
  }
  const size_t width = out->n - start;
  zg_str_add(out, "%*s ; ", width < 47 ? (int)(47 - width) : 0, "");
  for (uint32_t k = 0; k < n->n_out; k++)
    zg_str_add(out, "%s%s", k ? ", " : "", zg_type_text(&g->values.at[n->out + k].type));
  // A name may hold anything, a line break included; the comment must stay one line.
  for (int part = 0; part < 2; part++) {
    const char *s = part ? n->origin.pass : n->origin.node;
    if (!s || !*s) continue;
    zg_str_add(out, part ? " (" : "  ");
    for (; *s; s++) zg_str_put(out, (unsigned char)*s < 32 ? "?" : s, 1);
    if (part) zg_str_add(out, ")");
  }
  zg_str_add(out, "\n");
}

void zg_graph_print(const zg_graph *g, zg_str *out) {
  zg_str_add(out, "graph");
  for (uint32_t i = 0; i < ZG_COUNT(prop_names); i++)
    if (g->props & (1u << i)) zg_str_add(out, " %s", prop_names[i]);
  zg_str_add(out, " {\n");
  for (size_t i = 0; i < g->nodes.n; i++) print_node(g, &g->nodes.at[i], out);
  for (size_t i = 0; i < g->outputs.n; i++) {
    const zg_output *o = &g->outputs.at[i];
    zg_str_add(out, "  output %s ", out_kinds[o->kind]);
    print_quoted(o->name, out);
    zg_str_add(out, " %%%u", o->val.id);
    if (zg_is(o->target)) zg_str_add(out, " -> %%%u", o->target.id);
    zg_str_add(out, "\n");
  }
  zg_str_add(out, "}\n");
}
