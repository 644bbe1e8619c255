// The manual's key list, written from the tables: docs/configuration.md holds this text, and a test compares
// them.
#include "train/config_priv.h"

static void kind_text(const zg_key *k, zg_str *s) {
  static const char *const names[] = {[ZG_KEY_BOOL] = "true or false",
                                      [ZG_KEY_INT] = "integer",
                                      [ZG_KEY_FLOAT] = "number",
                                      [ZG_KEY_STR] = "text",
                                      [ZG_KEY_ENUM] = "",
                                      [ZG_KEY_COUNT] = "integer, ",
                                      [ZG_KEY_BYTES] = "size",
                                      [ZG_KEY_PAIR] = "two numbers",
                                      [ZG_KEY_STRS] = "list of texts",
                                      [ZG_KEY_STR_MAP] = "mapping to texts",
                                      [ZG_KEY_INT_MAP] = "mapping to integers",
                                      [ZG_KEY_NAME_SETS] = "list of lists of texts",
                                      [ZG_KEY_DROPOUT] = "graph, off, ratio",
                                      [ZG_KEY_LIST] = "mapping, or list of them"};
  zg_str_add(s, "%s", names[k->kind]);
  for (size_t i = 0; k->choices && k->choices[i]; i++) zg_str_add(s, "%s%s", i ? ", " : "", k->choices[i]);
}

// Which values of the section's selector the key is for.
static void when_text(const zg_key_table *t, const zg_key *k, zg_str *s) {
  const char *dot = strchr(k->path, '.');
  char selector[64];
  snprintf(selector, sizeof selector, "%.*s%s", dot ? (int)(dot - k->path + 1) : 0, k->path,
           t->selector ? t->selector : "type");
  int row = k->when ? zg__key_find(t, selector) : -1;
  const char *separator = " (";
  for (int i = 0; row >= 0 && t->keys[row].choices[i]; i++) {
    if (!(k->when >> i & 1)) continue;
    zg_str_add(s, "%s%s", separator, t->keys[row].choices[i]);
    separator = ", ";
  }
  if (*separator == ',') zg_str_add(s, ")");
}

static void print_table(FILE *to, const zg_key_table *t) {
  zg_str s = {0};
  fprintf(to, "| key | value | default | meaning |\n| --- | --- | --- | --- |\n");
  for (size_t i = 0; i < t->n; i++) {
    const zg_key *k = &t->keys[i];
    s.n = 0;
    zg_str_add(&s, "| `%s` | ", k->path);
    kind_text(k, &s);
    zg_str_add(&s, " | %s%s%s | %s", k->def ? "`" : "", k->def ? k->def : "", k->def ? "`" : "", k->doc);
    when_text(t, k, &s);
    fprintf(to, "%s |\n", s.at);
  }
  zg_str_fini(&s);
}

static void print_foreign(FILE *to, const zg_foreign_table *t) {
  static const char *const fates[] = {[ZG_FATE_HONOURED] = "honoured",
                                      [ZG_FATE_MAPPED] = "mapped",
                                      [ZG_FATE_NO_MEANING] = "accepted, has no meaning here",
                                      [ZG_FATE_REFUSED] = "refused"};
  fprintf(to, "\n### %s\n\n| key | here | as | note |\n| --- | --- | --- | --- |\n", t->title);
  for (size_t i = 0; i < t->n; i++) {
    const zg_foreign_key *k = &t->keys[i];
    fprintf(to, "| `%s` | %s", k->path, fates[k->fate]);
    for (const char *p = k->fate == ZG_FATE_REFUSED && *k->harmless ? k->harmless : ""; *p;
         p += strcspn(p, "|"), p += *p == '|')
      fprintf(to, "%s`%.*s`", p == k->harmless ? " unless " : " or ", (int)strcspn(p, "|"), p);
    fprintf(to, " | %s%s%s | %s |\n", k->to ? "`" : "", k->to ? k->to : "", k->to ? "`" : "",
            k->note ? k->note : "");
  }
}

void zg_config_print_reference(FILE *to) {
  fprintf(to, "### Own keys\n\n");
  print_table(to, &zg__config_table);
  fprintf(to, "\nDefaults that depend on `optimizer.type`:\n\n");
  const zg_key *type = &zg__config_table.keys[zg__key_find(&zg__config_table, "optimizer.type")];
  for (size_t i = 0; i < zg__n_opt_defaults; i++)
    fprintf(to, "- %s: `%s: %s`\n", type->choices[zg__opt_defaults[i].type], zg__opt_defaults[i].key,
            zg__opt_defaults[i].def);
  fprintf(to, "\n### Keys of each `loss`\n\n");
  print_table(to, &zg__loss_table);
  fprintf(to, "\n### Keys of each of `optimizer.groups`\n\n");
  print_table(to, &zg__group_table);
  const zg_foreign_table *foreign[] = {&zg__accelerate_top, &zg__accelerate_deepspeed, &zg__accelerate_fsdp,
                                       &zg__accelerate_parallel, &zg__deepspeed_json};
  for (size_t i = 0; i < ZG_COUNT(foreign); i++) print_foreign(to, foreign[i]);
}
