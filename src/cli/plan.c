// zgraph plan
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/plan.h"
#include "sched/report.h"
#include "train/safetensors.h"
#include "train/session.h"

static const char *tensor_name(const zg_session *s, const zg_report_buf *b) { return zg_session_sched(s)->bufs.at[b->buf].name; }

static const char *step_name(const zg_sched *d, uint32_t step) {
  if (step >= d->steps.n || d->steps.at[step].kind != ZG_STEP_KERNEL) return "";
  return d->kernels.at[d->steps.at[step].kernel].label;
}

// Time of each segment, run once, as the device's description has it.
static void print_times(const zg_sched *d, const zg_device_model *device) {
  zg_arena mem = {0};
  zg_step_time *t = zg_predict_times(d, device, &mem);
  printf("predicted time     on %s:", device->name);
  for (size_t i = 0; i < d->segments.n; i++) {
    const zg_segment *seg = &d->segments.at[i];
    double compute = 0, all = zg_predicted_length(d, t, seg);
    for (uint32_t k = seg->first; k < seg->first + seg->n; k++)
      if (d->steps.at[k].stream == ZG_STREAM_COMPUTE) compute += t[k].length;
    printf("%s %s %.3g ms", i ? "," : "", seg->name, all * 1e3);
    if (all > compute * 1.0005) printf(" (%.3g ms waiting for the network and copies)", (all - compute) * 1e3);
  }
  printf("\n");
  zg_arena_fini(&mem);
}

static double more_time(double before, double now) { return before > 0 ? 100 * (now / before - 1) : 0; }

static void print_process(const zg_process_memory *m) {
  if (!m->peak) return;
  printf("outside the plan   %s: code, libraries, model structure and schedule %s,", zg_cli_bytes(m->peak - m->arenas), zg_cli_bytes(m->before + m->running));
  printf(" kernels %s, a batch's staging %s\n", zg_cli_bytes(m->kernels), zg_cli_bytes(m->feeds));
  printf("process peak       %s (%llu bytes), predicted\n", zg_cli_bytes(m->peak), (unsigned long long)m->peak);
}

static void print_table(const zg_session *s, const zg_report *r, const zg_device_model *device, const zg_process_memory *process, size_t n_tensors) {
  const zg_sched *d = zg_session_sched(s);
  printf("planned memory     %s (%llu bytes), lower bound %s (+%.2f %%)\n", zg_cli_bytes(r->planned), (unsigned long long)r->planned,
         zg_cli_bytes(r->lower_bound), r->lower_bound ? 100.0 * ((double)r->planned / (double)r->lower_bound - 1) : 0);
  printf("at rest            %s\n", zg_cli_bytes(r->persistent));
  print_process(process);
  printf("work of a step     %.3f GFLOP, %s moved\n", r->flops / 1e9, zg_cli_bytes((uint64_t)r->bytes_moved));
  print_times(d, device);
  if (device->memory && r->planned > device->memory)
    printf("does not fit       %s has %s\n", device->name, zg_cli_bytes(device->memory));
  const zg_recompute_choice *c = &s->pipe.recompute;
  if (c->how.cheap || c->how.blocks)
    printf("recomputed         maps and %u of %u blocks: %s in place of %s, %.1f %% more arithmetic, %+.1f %% time (predicted)\n", c->how.blocks,
           c->n_blocks, zg_cli_bytes(c->bytes), zg_cli_bytes(c->bytes_before), c->flops_before > 0 ? 100 * (c->flops / c->flops_before - 1) : 0,
           more_time(c->seconds_before, c->seconds));
  const zg_loss_chunk_choice *l = &s->pipe.loss_chunk;
  if (l->rows && l->bytes)
    printf("loss in chunks     %lld of %lld rows of logits at a time: %s in place of %s, %+.1f %% time (predicted)\n", (long long)l->rows,
           (long long)l->layer.rows, zg_cli_bytes(l->bytes), zg_cli_bytes(l->bytes_before), more_time(l->seconds_before, l->seconds));
  else if (l->rows)
    printf("loss in chunks     %lld of %lld rows of logits at a time\n", (long long)l->rows, (long long)l->layer.rows);
  printf("kernels           ");
  for (int k = 0; k < ZG_N_KERNELS; k++)
    if (r->kernels[k]) printf(" %u %s", r->kernels[k], zg_kernel_info_of((zg_kernel_kind)k)->name);
  printf("\n\nat the peak: step %u of %zu (%s)\n", r->peak_step, d->steps.n, step_name(d, r->peak_step));
  for (int i = 0; i < ZG_N_BUF_ROLES; i++)
    if (r->by_role[i]) printf("  %-12s %12s\n", zg_role_name((zg_buf_role)i), zg_cli_bytes(r->by_role[i]));
  printf("\nlargest tensors alive then\n");
  for (size_t i = 0, n = 0; i < r->alive.n && n < n_tensors; i++) {
    const zg_report_buf *a = &r->alive.at[i];
    if (a->in_place) continue;   // its bytes are those of another one here
    n++;
    const zg_buf *b = &d->bufs.at[a->buf];
    const bool computed = !b->persistent && d->steps.at[a->made].kind == ZG_STEP_KERNEL;
    const char *by = computed ? zg_step_label(d, a->made) : "";
    printf("  %12s  %-10s %s %s%s%s\n", zg_cli_bytes(a->bytes), zg_role_name((zg_buf_role)b->role), tensor_name(s, a), zg_type_text(&b->type),
           *by ? ", made by " : "", by);
  }
}

static void print_json(const zg_session *s, const zg_report *r, const zg_device_model *device, const zg_process_memory *process) {
  const zg_sched *d = zg_session_sched(s);
  zg_arena mem = {0};
  const double seconds = zg_predicted_length(d, zg_predict_times(d, device, &mem), NULL);
  zg_arena_fini(&mem);
  zg_str t = {0};
  zg_str_add(&t, "{\"planned_bytes\": %llu, \"lower_bound_bytes\": %llu, \"persistent_bytes\": %llu, \"flops\": %.17g, \"bytes_moved\": %.17g,\n \"peak\": {\"step\": %u, \"kernel\": ",
             (unsigned long long)r->planned, (unsigned long long)r->lower_bound, (unsigned long long)r->persistent, r->flops, r->bytes_moved, r->peak_step);
  zg__json_quote(&t, step_name(d, r->peak_step));
  zg_str_add(&t, ", \"by_role\": {");
  for (int i = 0, n = 0; i < ZG_N_BUF_ROLES; i++)
    if (r->by_role[i]) zg_str_add(&t, "%s\"%s\": %llu", n++ ? ", " : "", zg_role_name((zg_buf_role)i), (unsigned long long)r->by_role[i]);
  zg_str_add(&t, "}, \"alive\": [");
  for (size_t i = 0; i < r->alive.n; i++) {
    const zg_buf *b = &d->bufs.at[r->alive.at[i].buf];
    zg_str_add(&t, "%s\n  {\"name\": ", i ? "," : "");
    zg__json_quote(&t, b->name);
    zg_str_add(&t, ", \"role\": \"%s\", \"bytes\": %llu}", zg_role_name((zg_buf_role)b->role), (unsigned long long)b->bytes);
  }
  const zg_recompute_choice *c = &s->pipe.recompute;
  zg_str_add(&t, "]},\n \"device\": ");
  zg__json_quote(&t, device->name);
  zg_str_add(&t, ", \"predicted_seconds\": %.6g,\n \"recompute\": {\"maps\": %s, \"blocks\": %u, \"of_blocks\": %u, \"bytes_without\": %llu, \"flops_without\": %.17g, \"seconds_without\": %.6g},\n \"kernels\": {",
             seconds, c->how.cheap ? "true" : "false", c->how.blocks, c->n_blocks, (unsigned long long)c->bytes_before, c->flops_before, c->seconds_before);
  for (int k = 0, n = 0; k < ZG_N_KERNELS; k++)
    if (r->kernels[k]) zg_str_add(&t, "%s\"%s\": %u", n++ ? ", " : "", zg_kernel_info_of((zg_kernel_kind)k)->name, r->kernels[k]);
  zg_str_add(&t, "}");
  if (process->peak)
    zg_str_add(&t, ",\n \"process\": {\"before_bytes\": %llu, \"kernels_bytes\": %llu, \"feeds_bytes\": %llu, \"running_bytes\": %llu, \"peak_bytes\": %llu}",
               (unsigned long long)process->before, (unsigned long long)process->kernels, (unsigned long long)process->feeds,
               (unsigned long long)process->running, (unsigned long long)process->peak);
  zg_str_add(&t, "}\n");
  fputs(t.at, stdout);
  zg_str_fini(&t);
}

// "--ranks" or the configuration's num_processes.
static zg_status ranks_of(const zg_config *cfg, const char *text, uint32_t *out) {
  char *end = NULL;
  const long n = text ? strtol(text, &end, 10) : cfg->num_processes;
  if ((text && (!*text || *end)) || n < 1 || n > ZG_ZERO_MAX_WORLD)
    return zg_error(ZG_INVALID, "--ranks %s: want a number from 1 to %d", text ? text : "", ZG_ZERO_MAX_WORLD);
  *out = (uint32_t)n;
  return NULL;
}

static zg_status run(int argc, char **argv) {
  zg_cli_config files = {0};
  zg_cli_list rest = {0};
  zg_session_options o = {.no_device = true, .default_dim = 1};
  bool json = false, forward = false, compare = false;
  const char *ranks = NULL, *stage = NULL, *device_name = NULL, *symbolic = NULL;
  zg_cli_pictures pictures = {0};
  zg_device_model device;
  zg_arena mem = {0};
  zg_str set = {0};
  zg_config *cfg = NULL;
  zg_session *s = NULL;
  zg_report r = {0};
  zg_status status = NULL;
  const zg_cli_option options[] = {ZG_CLI_CONFIG(files), {"json", .flag = &json}, {"forward", .flag = &forward},
                                   {"ranks", .text = &ranks}, {"stage", .text = &stage}, {"compare", .flag = &compare},
                                   {"device", .text = &device_name}, {"symbolic", .text = &symbolic}, {"html", .text = &pictures.html}, {"svg", .text = &pictures.svg},
                                   {"trace", .text = &pictures.trace}, {"csv", .text = &pictures.csv}};
  ZG_TRY(zg_cli_parse(argc, argv, options, ZG_COUNT(options), &rest));
  if (rest.n) ZG_TRY(zg_cli_one(&rest, "model", &o.model_path));
  if (stage) {
    zg_str_add(&set, "zero.stage=%s", stage);
    ZG_TRY_OUT(zg_cli_set(&files, set.at));
  }
  ZG_TRY_OUT(zg_cli_load(&files, &cfg));
  ZG_TRY_OUT(zg_cli_device(device_name, &mem, &device));
  if (!zg_cli_is_rank_list(ranks)) ZG_TRY_OUT(ranks_of(cfg, ranks, &o.world));
  o.model = &device;
  o.mode = forward ? ZG_RUN_FORWARD : ZG_RUN_TRAIN;
  o.no_data = !cfg->data.train.path;
  if (zg_cli_is_rank_list(ranks)) {
    const bool more = compare || symbolic || forward || pictures.html || pictures.svg || pictures.trace || pictures.csv;
    status = more ? zg_error(ZG_INVALID, "--ranks %s: --compare, --symbolic, --forward and pictures want one number of ranks", ranks) : zg_cli_plan_counts(cfg, &o, &device, ranks, json);
    goto out;
  }
  if (symbolic) {
    status = zg_cli_plan_symbolic(symbolic, &files, &o);
    goto out;
  }
  if (compare) {
    status = o.world > 1 ? zg_cli_compare_stages(cfg, &o, json) : zg_error(ZG_INVALID, "--compare wants several ranks: add --ranks N");
    goto out;
  }
  ZG_TRY_OUT(zg_session_open(cfg, &o, &s));
  // What the process takes in all can be said of training on this machine's CPU by one rank.
  zg_process_memory process = {0};
  if (!forward && o.world == 1 && !device_name) ZG_TRY_OUT(zg_session_process(s, &process));
  zg_report_make(zg_session_sched(s), &r);
  if (json && s->zero) zg_cli_print_ranks_json(s, stdout);
  else if (json) print_json(s, &r, &device, &process);
  else print_table(s, &r, &device, &process, 12);
  if (!json && s->zero) zg_cli_print_ranks(s);
  const zg_sched *d = zg_session_sched(s);
  const zg_picture picture = {.title = zg_arena_printf(&mem, "Plan of %s", o.model_path ? o.model_path : cfg->model),
                              .subtitle = zg_arena_printf(&mem, "rank %u of %u, %zu steps, %s", d->rank, d->world, d->steps.n, forward ? "forward" : "training step"),
                              .device = &device, .budget = cfg->memory.budget == ZG_UNSET ? device.memory : (uint64_t)cfg->memory.budget};
  ZG_TRY_OUT(zg_cli_write_pictures(d, &picture, &pictures));
out:
  zg_report_fini(&r);
  zg_session_close(s);
  zg_config_free(cfg);
  zg_str_fini(&set);
  zg_arena_fini(&mem);
  return status;
}

const zg_verb zg_verb_plan = {
    "plan", "say what a run will need, before it runs",
    "usage: zgraph plan MODEL.onnx --config FILE [--set KEY=VALUE] [--json] [--forward]\n"
    "                   [--ranks N|LIST] [--stage 0..3] [--compare] [--device NAME|FILE.yaml]\n"
    "                   [--html FILE] [--svg FILE] [--trace FILE] [--csv FILE]\n"
    "                   [--symbolic KEY=N[,KEY=N]]\n\n"
    "Plans the training step (with --forward: the model alone) without reading weights and prints its memory to the byte: by\n"
    "role, at the peak, with the largest tensors alive then. Symbolic dimensions come from the data, or from --set dims.NAME=N.\n"
    "With --ranks N (default: num_processes) it plans one of N ranks under ZeRO stage S, no rank being started: what each\n"
    "holds at rest and in a step, and what it sends per update; --compare shows the stages beside each other. --ranks 1,8,64 or\n"
    "1..65536 (which doubles) gives a line for each number, with the predicted time of an update.\n\n"
    "--device predicts times for a device that need not be here (h100-80g, a100-80g, cpu, ...; an unknown name lists all; a YAML\n"
    "file gives name, memory, flops_f32, flops_16, bytes_per_s, comm_bytes_per_s, comm_latency_s, copy_bytes_per_s, launch_s,\n"
    "node_ranks, net_bytes_per_s, net_latency_s).\n"
    "--html writes one page with the memory over the step, the arena and the streams; --svg the first two for papers; --trace a\n"
    "file for chrome://tracing or Perfetto; --csv the buffers as MiniMalloc reads them.\n\n"
    "--symbolic dims.batch=2,dims.seq=64 gives the bytes of a step as a polynomial in those keys, fitted to plans at 1 to 3 times\n"
    "the values and checked at 4 times.\n\n"
    "example:\n"
    "  zgraph plan model.onnx --config run.yaml --html plan.html\n"
    "  zgraph plan model.onnx --config run.yaml --set data.train.batch_size=64\n",
    run};
