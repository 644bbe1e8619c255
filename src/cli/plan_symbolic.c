// zgraph plan --symbolic KEY=N[,KEY=N]: what a step needs above what is at rest, as a polynomial in one or two configuration
// keys (batch and sequence length). Kernels' scratch grows in jumps, by layouts and tiles that a library chooses: it is left out of the
// formula and told beside it. Plans at multiples of the values given, fits by least squares, and checks the formula at a
// size that took no part in the fit.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/plan.h"

enum { MAX_TERMS = 5, CHECK_AT = 4 };

typedef struct {
  const zg_cli_config *files;
  const zg_session_options *o;
  char *key[2];
  double base[2];
  int n;                     // keys
} symbolic;

static zg_status parse(const char *text, symbolic *x, zg_arena *mem) {
  char *at = zg_arena_str(mem, text);
  for (char *next = at; next && x->n < 2; at = next) {
    if ((next = strchr(at, ','))) *next++ = 0;
    char *eq = strchr(at, '='), *end = NULL;
    double v = eq ? strtod(eq + 1, &end) : 0;
    if (!eq || eq == at || *end || v < 1 || v != floor(v)) break;
    *eq = 0;
    x->key[x->n] = at;
    x->base[x->n++] = v;
    if (!next) return NULL;
  }
  return zg_error(ZG_INVALID, "--symbolic %s: want one or two KEY=N, as dims.batch=2,dims.seq=64", text);
}

// Bytes above what is at rest, at m[i] times the base values: as planned, and what live buffers sum to at most without kernels' scratch.
typedef struct { double planned, live; } above_rest;

static above_rest above_rest_of(zg_sched *d) {
  zg_report r = {0};
  zg_report_make(d, &r);
  above_rest a = {.planned = (double)(r.planned - r.persistent)};
  for (size_t i = 1; i < d->bufs.n; i++)
    if (d->bufs.at[i].role == ZG_BUF_WORKSPACE) d->bufs.at[i].bytes = 0;
  zg_sched_bound_memory(d);
  a.live = (double)(d->lower_bound[ZG_SPACE_DEVICE] - r.persistent);
  zg_report_fini(&r);
  return a;
}

static zg_status plan_at(const symbolic *x, const int *m, above_rest *out) {
  zg_cli_config files = *x->files;
  zg_config *cfg = NULL;
  zg_session *s = NULL;
  zg_str set[2] = {{0}, {0}};
  zg_status status = NULL;
  for (int i = 0; i < x->n; i++) {
    zg_str_add(&set[i], "%s=%.0f", x->key[i], x->base[i] * m[i]);
    ZG_TRY_OUT(zg_cli_set(&files, set[i].at));
  }
  ZG_TRY_OUT(zg_cli_load(&files, &cfg));
  ZG_TRY_OUT(zg_session_open(cfg, x->o, &s));
  *out = above_rest_of(zg_session_sched(s));
out:
  zg_session_close(s);
  zg_config_free(cfg);
  for (int i = 0; i < 2; i++) zg_str_fini(&set[i]);
  return status;
}

// Two keys: 1, a, b, ab, ab^2. One: 1, a, a^2. In multiples of the base values.
static int terms(const symbolic *x, double a, double b, double *t) {
  t[0] = 1, t[1] = a;
  if (x->n == 1) {
    t[2] = a * a;
    return 3;
  }
  t[2] = b, t[3] = a * b, t[4] = a * b * b;
  return 5;
}

// Gaussian elimination with pivots; the points' grid makes the matrix regular.
static void solve(double (*m)[MAX_TERMS + 1], int n) {
  for (int c = 0; c < n; c++) {
    int best = c;
    for (int r = c + 1; r < n; r++)
      if (fabs(m[r][c]) > fabs(m[best][c])) best = r;
    for (int k = 0; k <= n; k++) {
      double t = m[c][k];
      m[c][k] = m[best][k], m[best][k] = t;
    }
    for (int r = 0; r < n; r++) {
      if (r == c) continue;
      double f = m[r][c] / m[c][c];
      for (int k = c; k <= n; k++) m[r][k] -= f * m[c][k];
    }
  }
}

static void print_formula(const symbolic *x, const double *coef) {
  const char *a = x->key[0], *b = x->n == 2 ? x->key[1] : "";
  double p = x->base[0], q = x->n == 2 ? x->base[1] : 1;
  printf("bytes alive above what is at rest, but for kernels' scratch\n  = %.0f\n  + %.1f %s\n", coef[0], coef[1] / p, a);
  if (x->n == 1) printf("  + %.4f %s^2\n", coef[2] / (p * p), a);
  else printf("  + %.1f %s\n  + %.2f %s %s\n  + %.5f %s %s^2\n", coef[2] / q, b, coef[3] / (p * q), a, b, coef[4] / (p * q * q), a, b);
}

zg_status zg_cli_plan_symbolic(const char *text, const zg_cli_config *files, const zg_session_options *o) {
  zg_arena mem = {0};
  symbolic x = {.files = files, .o = o};
  zg_status status = NULL;
  double m[MAX_TERMS][MAX_TERMS + 1] = {{0}}, t[MAX_TERMS], coef[MAX_TERMS];
  above_rest bytes, base = {0};
  int n = 0;
  ZG_TRY_OUT(parse(text, &x, &mem));
  for (int a = 1; a <= 3; a++)
    for (int b = 1; b <= (x.n == 2 ? 3 : 1); b++) {
      ZG_TRY_OUT(plan_at(&x, (int[]){a, b}, &bytes));
      if (a == 1 && b == 1) base = bytes;
      n = terms(&x, a, b, t);
      for (int i = 0; i < n; i++) {
        for (int k = 0; k < n; k++) m[i][k] += t[i] * t[k];
        m[i][n] += t[i] * bytes.live;
      }
    }
  solve(m, n);
  for (int i = 0; i < n; i++) coef[i] = fabs(m[i][n] / m[i][i]) < 1e-6 ? 0 : m[i][n] / m[i][i];   // no "-0"
  print_formula(&x, coef);
  ZG_TRY_OUT(plan_at(&x, (int[]){CHECK_AT, CHECK_AT}, &bytes));
  terms(&x, CHECK_AT, CHECK_AT, t);
  double told = 0;
  for (int i = 0; i < n; i++) told += coef[i] * t[i];
  printf("checked at %d times these sizes: formula %s, live %s (%+.2f %%)\n", CHECK_AT, zg_cli_bytes((uint64_t)fmax(told, 0)),
         zg_cli_bytes((uint64_t)bytes.live), bytes.live > 0 ? 100 * (told / bytes.live - 1) : 0);
  printf("kernels' scratch and gaps add %s at these sizes, %s at %d times (%s planned)\n", zg_cli_bytes((uint64_t)fmax(base.planned - base.live, 0)),
         zg_cli_bytes((uint64_t)fmax(bytes.planned - bytes.live, 0)), CHECK_AT, zg_cli_bytes((uint64_t)bytes.planned));
out:
  zg_arena_fini(&mem);
  return status;
}
