// zgraph plan, several ranks: what each holds and sends.
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/plan.h"
#include "sched/report.h"

typedef struct {
  uint64_t at_rest[ZG_N_BUF_ROLES], transient, planned, host;
  zg_zero_traffic sent;
} rank_plan;

static rank_plan plan_of(const zg_session *s) {
  rank_plan p = {0};
  const zg_sched *d = zg_session_sched(s);
  uint64_t sum = 0;
  zg_zero_at_rest(d, p.at_rest);
  for (uint32_t b = 1; b < d->bufs.n; b++)
    if (d->bufs.at[b].persistent && d->bufs.at[b].space == ZG_SPACE_DEVICE)
      sum += zg_round_up(d->bufs.at[b].bytes, ZG_BUF_ALIGN);
  p.planned = d->arena_bytes[ZG_SPACE_DEVICE];
  p.host = d->arena_bytes[ZG_SPACE_HOST];
  p.transient = p.planned - sum;
  if (s->zero) p.sent = zg_zero_traffic_of(s->zero, d);
  return p;
}

static uint64_t sent(const zg_zero_traffic *t) {
  return t->all_reduce + t->reduce_scatter + t->gather + t->broadcast;
}

void zg_cli_print_ranks(const zg_session *s) {
  static const zg_buf_role roles[] = {ZG_BUF_PARAM,     ZG_BUF_GRAD,  ZG_BUF_MASTER,
                                      ZG_BUF_OPTIMIZER, ZG_BUF_INPUT, ZG_BUF_CONST};
  const rank_plan p = plan_of(s);
  const zg_zero_options *o = zg_zero_options_of(s->zero);
  printf("\nZeRO stage %u, %u ranks: each rank\n", o->stage, o->world);
  for (size_t i = 0; i < ZG_COUNT(roles); i++)
    if (p.at_rest[roles[i]])
      printf("  %-22s %12s  (%llu bytes)\n", zg_role_name(roles[i]), zg_cli_bytes(p.at_rest[roles[i]]),
             (unsigned long long)p.at_rest[roles[i]]);
  printf("  %-22s %12s  (%llu bytes)\n", "within a step", zg_cli_bytes(p.transient),
         (unsigned long long)p.transient);
  printf("  %-22s %12s  (%llu bytes)\n", "all", zg_cli_bytes(p.planned), (unsigned long long)p.planned);
  if (p.host)
    printf("  %-22s %12s  (%llu bytes)\n", "host memory", zg_cli_bytes(p.host), (unsigned long long)p.host);
  printf("sent by each rank, per update of %lld micro-step%s\n", (long long)o->micro_steps,
         o->micro_steps == 1 ? "" : "s");
  const struct {
    const char *name;
    uint64_t n;
  } kinds[] = {{"all_reduce", p.sent.all_reduce},
               {"reduce_scatter", p.sent.reduce_scatter},
               {"gather", p.sent.gather},
               {"broadcast", p.sent.broadcast}};
  for (size_t i = 0; i < ZG_COUNT(kinds); i++)
    if (kinds[i].n)
      printf("  %-22s %12s  (%llu bytes)\n", kinds[i].name, zg_cli_bytes(kinds[i].n),
             (unsigned long long)kinds[i].n);
  printf("  %-22s %12s  (%llu bytes in %llu collectives, %llu of them for norm and loss)\n", "all",
         zg_cli_bytes(sent(&p.sent)), (unsigned long long)sent(&p.sent),
         (unsigned long long)p.sent.n_collectives, (unsigned long long)p.sent.scalars);
  const zg_zero_formula f = zg_zero_formula_of(s->zero, zg_session_sched(s));
  printf("the stage's formula: params %llu, grads %llu, master %llu, optimizer %llu, sent %llu bytes\n",
         (unsigned long long)f.params, (unsigned long long)f.grads, (unsigned long long)f.master,
         (unsigned long long)f.optimizer, (unsigned long long)f.sent);
}

void zg_cli_print_ranks_json(const zg_session *s, FILE *to) {
  const rank_plan p = plan_of(s);
  const zg_zero_options *o = zg_zero_options_of(s->zero);
  fprintf(to, "{\"stage\": %u, \"ranks\": %u, \"at_rest\": {", o->stage, o->world);
  for (int i = 0, n = 0; i < ZG_N_BUF_ROLES; i++)
    if (p.at_rest[i])
      fprintf(to, "%s\"%s\": %llu", n++ ? ", " : "", zg_role_name((zg_buf_role)i),
              (unsigned long long)p.at_rest[i]);
  fprintf(to,
          "}, \"transient_bytes\": %llu, \"planned_bytes\": %llu, \"host_bytes\": %llu,\n "
          "\"sent_per_update\": {\"all_reduce\": %llu, \"reduce_scatter\": %llu, \"gather\": %llu, "
          "\"broadcast\": %llu, \"scalars\": %llu, \"collectives\": %llu}}\n",
          (unsigned long long)p.transient, (unsigned long long)p.planned, (unsigned long long)p.host,
          (unsigned long long)p.sent.all_reduce, (unsigned long long)p.sent.reduce_scatter,
          (unsigned long long)p.sent.gather, (unsigned long long)p.sent.broadcast,
          (unsigned long long)p.sent.scalars, (unsigned long long)p.sent.n_collectives);
}

zg_status zg_cli_compare_stages(zg_config *cfg, const zg_session_options *o, bool json) {
  if (!json) {
    printf("%u ranks, each\n", o->world);
    printf("stage %12s %12s %12s %12s %12s %12s %14s\n", "params", "grads", "master", "optimizer",
           "in a step", "all", "sent/update");
  }
  for (int64_t stage = 0; stage < 4; stage++) {
    zg_session *s;
    cfg->zero.stage = stage;
    if (stage < 1) cfg->zero.offload_optimizer.device = ZG_CFG_OFFLOAD_NONE;
    if (stage < 3) cfg->zero.offload_param.device = ZG_CFG_OFFLOAD_NONE;
    zg_status status = zg_session_open(cfg, o, &s);
    if (status) return zg_status_prefix(status, "stage %lld: ", (long long)stage);
    const rank_plan p = plan_of(s);
    if (json) zg_cli_print_ranks_json(s, stdout);
    else
      printf("%5lld %12s %12s %12s %12s %12s %12s %14s\n", (long long)stage,
             zg_cli_bytes(p.at_rest[ZG_BUF_PARAM]), zg_cli_bytes(p.at_rest[ZG_BUF_GRAD]),
             zg_cli_bytes(p.at_rest[ZG_BUF_MASTER]), zg_cli_bytes(p.at_rest[ZG_BUF_OPTIMIZER]),
             zg_cli_bytes(p.transient), zg_cli_bytes(p.planned), zg_cli_bytes(sent(&p.sent)));
    zg_session_close(s);
  }
  return NULL;
}

// ---- several numbers of ranks -------------------------------------------------------------------------------------

enum { MAX_COUNTS = 64 };

static bool number(const char **at, uint32_t *out) {
  char *end;
  if (**at < '0' || **at > '9') return false;
  const unsigned long n = strtoul(*at, &end, 10);
  *at = end;
  *out = (uint32_t)n;
  return n >= 1 && n <= ZG_ZERO_MAX_WORLD;
}

// "1,8,64" or "1..65536", which doubles; both may be mixed.
static zg_status parse_counts(const char *text, uint32_t *counts, uint32_t *n) {
  const char *at = text;
  *n = 0;
  for (bool more = true; more;) {
    uint32_t from, to;
    bool good = number(&at, &from);
    to = from;
    if (good && !strncmp(at, "..", 2)) {
      at += 2;
      good = number(&at, &to) && to >= from;
    }
    if (!good) break;
    for (uint64_t r = from; r < 2 * (uint64_t)to && *n < MAX_COUNTS; r *= 2) counts[(*n)++] = (uint32_t)ZG_MIN(r, (uint64_t)to);
    more = *at == ',';
    at += more;
    if (!more && !*at) return *n < MAX_COUNTS ? NULL : zg_error(ZG_INVALID, "--ranks %s: at most %d numbers", text, MAX_COUNTS - 1);
  }
  return zg_error(ZG_INVALID, "--ranks %s: want numbers from 1 to %d, as 8 or 1,8,64 or 1..65536 (which doubles)", text, ZG_ZERO_MAX_WORLD);
}

// Predicted seconds of one update: all micro-steps, then the update. *exposed: what of it no kernel runs in.
static double update_seconds(const zg_session *s, const zg_device_model *device, double *exposed) {
  const zg_sched *d = zg_session_sched(s);
  zg_arena mem = {0};
  const zg_step_time *t = zg_predict_times(d, device, &mem);
  const int64_t k = ZG_MAX(1, s->cfg->training.gradient_accumulation_steps);
  const bool has_last = zg_sched_find_segment(d, "micro_last") != NULL;
  double sum = 0;
  *exposed = 0;
  for (size_t i = 0; i < d->segments.n; i++) {
    const zg_segment *g = &d->segments.at[i];
    if (!strcmp(g->name, "eval")) continue;
    const double times = strcmp(g->name, "micro") ? 1 : (double)(k - has_last), all = zg_predicted_length(d, t, g);
    double compute = 0;
    for (uint32_t n = g->first; n < g->first + g->n; n++)
      if (d->steps.at[n].kind == ZG_STEP_KERNEL) compute += t[n].length;
    sum += times * all;
    if (all > compute * (1 + 1e-9)) *exposed += times * (all - compute);
  }
  zg_arena_fini(&mem);
  return sum;
}

static void print_count(const zg_session *s, const zg_device_model *device, uint32_t ranks, bool json) {
  const rank_plan p = plan_of(s);
  double exposed;
  const double seconds = update_seconds(s, device, &exposed);
  const uint64_t memory = device->memory;
  if (json) {
    printf("{\"ranks\": %u, \"stage\": %u, \"params\": %llu, \"grads\": %llu, \"master\": %llu, \"optimizer\": %llu, \"transient_bytes\": %llu, "
           "\"planned_bytes\": %llu, \"host_bytes\": %llu, \"sent_per_update\": %llu, \"predicted_seconds\": %.6g, \"exposed_seconds\": %.6g}\n",
           ranks, s->zero ? zg_zero_options_of(s->zero)->stage : 0, (unsigned long long)p.at_rest[ZG_BUF_PARAM], (unsigned long long)p.at_rest[ZG_BUF_GRAD],
           (unsigned long long)p.at_rest[ZG_BUF_MASTER], (unsigned long long)p.at_rest[ZG_BUF_OPTIMIZER], (unsigned long long)p.transient,
           (unsigned long long)p.planned, (unsigned long long)p.host, (unsigned long long)sent(&p.sent), seconds, exposed);
    return;
  }
  printf("%7u %12s %12s %12s %12s %12s %12s %14s %11.4g %11.4g%s\n", ranks, zg_cli_bytes(p.at_rest[ZG_BUF_PARAM]), zg_cli_bytes(p.at_rest[ZG_BUF_GRAD]),
         zg_cli_bytes(p.at_rest[ZG_BUF_MASTER]), zg_cli_bytes(p.at_rest[ZG_BUF_OPTIMIZER]), zg_cli_bytes(p.transient), zg_cli_bytes(p.planned),
         zg_cli_bytes(sent(&p.sent)), seconds * 1e3, exposed * 1e3, memory && p.planned > memory ? "  does not fit" : "");
}

bool zg_cli_is_rank_list(const char *text) { return text && (strchr(text, ',') || strstr(text, "..")); }

zg_status zg_cli_plan_counts(const zg_config *cfg, const zg_session_options *o, const zg_device_model *device, const char *text, bool json) {
  uint32_t counts[MAX_COUNTS], n;
  ZG_TRY(parse_counts(text, counts, &n));
  if (!json) {
    printf("each rank, on %s", device->name);
    if (device->node_ranks > 0) printf(", %g ranks a node", device->node_ranks);
    printf("\n%7s %12s %12s %12s %12s %12s %12s %14s %11s %11s\n", "ranks", "params", "grads", "master", "optimizer", "in a step", "all", "sent/update",
           "ms/update", "ms exposed");
  }
  for (uint32_t i = 0; i < n; i++) {
    zg_session_options one = *o;
    zg_session *s;
    one.world = counts[i];
    ZG_TRY(zg_status_prefix(zg_session_open(cfg, &one, &s), "%u ranks: ", counts[i]));
    print_count(s, device, counts[i], json);
    zg_session_close(s);
  }
  return NULL;
}
