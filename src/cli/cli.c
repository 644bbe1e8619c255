// What the verbs share.
#include "cli/cli.h"

#include <stdio.h>

static const zg_cli_option *find(const zg_cli_option *o, size_t n, const char *name, size_t len) {
  for (size_t i = 0; i < n; i++)
    if (strlen(o[i].name) == len && !strncmp(o[i].name, name, len)) return &o[i];
  return NULL;
}

static zg_status unknown(const zg_cli_option *o, size_t n, const char *arg) {
  const char *names[64];
  for (size_t i = 0; i < n && i < ZG_COUNT(names); i++) names[i] = o[i].name;
  const char *near = zg_nearest(arg + 2, names, ZG_MIN(n, ZG_COUNT(names)));
  return near ? zg_error(ZG_INVALID, "unknown option %s; did you mean --%s?", arg, near) : zg_error(ZG_INVALID, "unknown option %s; see --help", arg);
}

static zg_status collect(zg_cli_list *l, const char *name, const char *value) {
  if (l->n == ZG_COUNT(l->at)) return zg_error(ZG_INVALID, "too many %s", name);
  l->at[l->n++] = value;
  return NULL;
}

zg_status zg_cli_parse(int argc, char **argv, const zg_cli_option *options, size_t n, zg_cli_list *rest) {
  bool ended = false;
  for (int i = 1; i < argc; i++) {
    const char *arg = argv[i];
    if (!ended && !strcmp(arg, "--")) {
      ended = true;
      continue;
    }
    if (ended || arg[0] != '-' || !arg[1]) {
      ZG_TRY(collect(rest, "arguments", arg));
      continue;
    }
    bool is_short = arg[1] != '-';   // "-o FILE" is short for "--out FILE"
    const char *name = is_short ? (strcmp(arg, "-o") ? arg + 1 : "out") : arg + 2;
    size_t len = strcspn(name, "=");
    const zg_cli_option *o = find(options, n, name, len);
    if (!o) return unknown(options, n, arg);
    if (o->flag) {
      if (name[len]) return zg_error(ZG_INVALID, "option --%s takes no value", o->name);
      *o->flag = true;
      continue;
    }
    const char *value = name[len] ? name + len + 1 : ++i < argc ? argv[i] : NULL;
    if (!value) return zg_error(ZG_INVALID, "option --%s needs a value", o->name);
    if (o->text) *o->text = value;
    else ZG_TRY(collect(o->list, o->name, value));
  }
  return NULL;
}

zg_status zg_cli_load(const zg_cli_config *c, zg_config **out) {
  return zg_config_load(c->files.at, c->files.n, c->sets.at, c->sets.n, out);
}

zg_status zg_cli_set(zg_cli_config *c, const char *key_value) { return collect(&c->sets, "--set", key_value); }

zg_status zg_cli_one(const zg_cli_list *rest, const char *what, const char **out) {
  if (rest->n > 1) return zg_error(ZG_INVALID, "one %s is enough: what is \"%s\"?", what, rest->at[1]);
  if (rest->n == 0) return zg_error(ZG_INVALID, "no %s given; see --help", what);
  *out = rest->at[0];
  return NULL;
}

const char *zg_cli_bytes(uint64_t n) {
  static _Thread_local char text[8][32];
  static _Thread_local unsigned turn;
  static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  char *out = text[turn++ % 8];
  double x = (double)n;
  int u = 0;
  while (x >= 1024 && u < 5) x /= 1024, u++;
  snprintf(out, sizeof text[0], u ? "%.1f %s" : "%.0f %s", x, units[u]);
  return out;
}
