// metrics.jsonl, the progress line, and the calls that also feed TensorBoard (events.c).
#include "train/metrics.h"
#include "train/safetensors.h"
#include <errno.h>
#include <math.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

struct zg_metrics {
  zg_metrics_options o;
  zg_str path;                 // of metrics.jsonl
  FILE *f;
  zg_events *events;
  bool terminal, line_shown;
  double last_row, last_shown; // when
  double step_s, per_s;        // running means; 0: none yet
  uint64_t rows;
};

// ---- metrics.jsonl ------------------------------------------------------------------------------------------------

// Rows start with their step; a line cut off by a kill has no "}" at its end and goes too.
static zg_status keep_rows(const char *path, uint64_t last_step) {
  zg_str text = { 0 }, kept = { 0 };
  zg_status status = NULL;
  ZG_TRY_OUT(zg_file_read(path, &text));
  for (const char *p = text.at, *end = text.at ? text.at + text.n : NULL; p < end;) {
    const char *nl = memchr(p, '\n', (size_t)(end - p));
    unsigned long long step;
    if (!nl) break;
    if (nl > p && nl[-1] == '}' && sscanf(p, "{\"step\":%llu", &step) == 1 && step <= last_step)
      zg_str_put(&kept, p, (size_t)(nl + 1 - p));
    p = nl + 1;
  }
  if (kept.n != text.n) ZG_TRY_OUT(zg_file_write_atomic(path, kept.n ? kept.at : "", kept.n));
out:
  zg_str_fini(&text);
  zg_str_fini(&kept);
  return status;
}

static zg_status open_rows(zg_metrics *m) {
  zg_str old = { 0 };
  zg_status status = NULL;
  zg_str_add(&m->path, "%s/metrics.jsonl", m->o.dir);
  zg_str_add(&old, "%s.old", m->path.at);
  if (zg_file_exists(m->path.at)) {
    if (m->o.resume) ZG_TRY_OUT(keep_rows(m->path.at, m->o.resume_step));
    else if (rename(m->path.at, old.at))
      ZG_TRY_OUT(zg_error(ZG_IO, "%s: cannot rename: %s", m->path.at, strerror(errno)));
  }
  m->f = fopen(m->path.at, "ae");
  if (!m->f) status = zg_error(ZG_IO, "%s: cannot create: %s", m->path.at, strerror(errno));
out:
  zg_str_fini(&old);
  return status;
}

static zg_status write_row(zg_metrics *m, uint64_t step, const zg_metric *values, size_t n) {
  zg_str s = { 0 };
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  zg_str_add(&s, "{\"step\":%llu", (unsigned long long)step);
  for (size_t i = 0; i < n; i++) {
    zg_str_put(&s, ",", 1);
    zg__json_quote(&s, values[i].name);
    if (isfinite(values[i].value)) zg_str_add(&s, ":%.9g", values[i].value);
    else zg_str_add(&s, ":null");
  }
  zg_str_add(&s, ",\"time\":%lld.%03ld}\n", (long long)t.tv_sec, t.tv_nsec / 1000000);
  bool done = fwrite(s.at, 1, s.n, m->f) == s.n && !fflush(m->f);
  zg_str_fini(&s);
  return done ? NULL : zg_error(ZG_IO, "%s: cannot write: %s", m->path.at, strerror(errno));
}

// ---- lines for a person -------------------------------------------------------------------------------------------

static void put_count(zg_str *s, double v) {
  static const char *const units[] = { "", "k", "M", "G", "T" };
  size_t i = 0;
  for (; v >= 999.5 && i + 1 < ZG_COUNT(units); i++) v /= 1000;
  zg_str_add(s, v < 9.995 ? "%.2f%s" : v < 99.95 ? "%.1f%s" : "%.0f%s", v, units[i]);
}

static void put_bytes(zg_str *s, uint64_t n) {
  static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
  size_t i = 0;
  double v = (double)n;
  for (; v >= 1000 && i + 1 < ZG_COUNT(units); i++) v /= 1024;
  zg_str_add(s, "%.*f %s", i ? 1 : 0, v, units[i]);
}

void zg__metrics_line(zg_str *out, const zg_metrics_options *o, const zg_metrics_row *r, double per_s, double left_s) {
  zg_str_add(out, "step %llu", (unsigned long long)r->step);
  if (o->total_steps) zg_str_add(out, "/%llu", (unsigned long long)o->total_steps);
  zg_str_add(out, "  loss %.4f", r->loss);
  if (!isnan(r->lr)) zg_str_add(out, "  lr %.2e", r->lr);
  if (!isnan(r->grad_norm)) zg_str_add(out, "  grad %.3g", r->grad_norm);
  if (!isnan(r->loss_scale)) zg_str_add(out, "  scale %.0f", r->loss_scale);
  if (per_s > 0) {
    zg_str_add(out, "  ");
    put_count(out, per_s);
    zg_str_add(out, " %s/s", o->unit ? o->unit : "samples");
  }
  zg_str_add(out, "  ");
  put_bytes(out, r->memory_bytes);
  if (left_s < 0) return;
  unsigned long long s = (unsigned long long)(left_s + 0.5);
  if (s >= 86400) zg_str_add(out, "  %llud %02llu:%02llu:%02llu left", s / 86400, s / 3600 % 24, s / 60 % 60, s % 60);
  else zg_str_add(out, "  %llu:%02llu:%02llu left", s / 3600, s / 60 % 60, s % 60);
}

// A line longer than the terminal would wrap and could not be taken back.
static void show_on_terminal(zg_metrics *m, zg_str *line) {
  struct winsize w;
  if (!ioctl(fileno(m->o.out), TIOCGWINSZ, &w) && w.ws_col > 1 && line->n >= w.ws_col) line->n = w.ws_col - 1u;
  fprintf(m->o.out, "\r%.*s\x1b[K", (int)line->n, line->at);
  fflush(m->o.out);
  m->line_shown = true;
}

static void show(zg_metrics *m, const zg_metrics_row *r) {
  const zg_metrics_options *o = &m->o;
  bool edge = m->rows == 1 || r->step == o->total_steps;
  double now = zg_time_s();
  if (!o->out) return;
  if (m->terminal ? !edge && now - m->last_shown < 0.1 : !o->log_every || (!edge && r->step % o->log_every)) return;
  m->last_shown = now;
  zg_str line = { 0 };
  double left = o->total_steps && m->step_s > 0 ? m->step_s * (double)(o->total_steps - ZG_MIN(r->step, o->total_steps)) : -1;
  zg__metrics_line(&line, o, r, m->per_s, left);
  if (m->terminal) {
    show_on_terminal(m, &line);
  } else {
    fprintf(o->out, "%s\n", line.at);
    fflush(o->out);
  }
  zg_str_fini(&line);
}

void zg_metrics_note(zg_metrics *m, const char *fmt, ...) {
  if (!m->o.out) return;
  va_list ap;
  va_start(ap, fmt);
  if (m->line_shown) fputs("\r\x1b[K", m->o.out);
  vfprintf(m->o.out, fmt, ap);
  fputc('\n', m->o.out);
  fflush(m->o.out);
  m->line_shown = false;
  va_end(ap);
}

// ---- calls --------------------------------------------------------------------------------------------------------

zg_status zg_metrics_open(const zg_metrics_options *options, zg_metrics **out) {
  zg_metrics *m = zg_alloc(sizeof *m);
  zg_status status = NULL;
  *out = NULL;
  m->o = *options;
  m->terminal = m->o.out && isatty(fileno(m->o.out));
  if (m->o.dir) {
    ZG_TRY_OUT(zg_dir_make(m->o.dir));
    ZG_TRY_OUT(open_rows(m));
    ZG_TRY_OUT(zg_events_open(m->o.dir, m->o.resume ? m->o.resume_step + 1 : 0, &m->events));
  }
  m->o.dir = NULL;                                             // borrowed for this call alone
  m->last_row = zg_time_s();
  *out = m;
  return NULL;
out:
  zg_status_free(zg_metrics_close(m));
  return status;
}

zg_status zg_metrics_put(zg_metrics *m, uint64_t step, const zg_metric *values, size_t n) {
  if (!m->f) return NULL;
  ZG_TRY(write_row(m, step, values, n));
  return zg_events_put(m->events, step, values, n);
}

// The first row's time holds preparation (compiling, touching memory), so the running means start at the second.
static void measure(zg_metrics *m, zg_metrics_row *r) {
  double now = zg_time_s();
  if (r->seconds <= 0) r->seconds = now - m->last_row;
  m->last_row = now;
  double per_s = r->seconds > 0 ? (double)r->units / r->seconds : 0, keep = m->rows > 2 ? 0.9 : 0;
  m->step_s = keep * m->step_s + (1 - keep) * r->seconds;
  m->per_s = keep * m->per_s + (1 - keep) * per_s;
}

zg_status zg_metrics_step(zg_metrics *m, const zg_metrics_row *row) {
  zg_metrics_row r = *row;
  char rate[64];
  m->rows++;
  measure(m, &r);
  if (!r.memory_bytes) r.memory_bytes = zg_proc_resident_bytes();
  snprintf(rate, sizeof rate, "%s_per_s", m->o.unit ? m->o.unit : "samples");
  const zg_metric all[] = {
    { "loss", r.loss }, { "lr", r.lr }, { "grad_norm", r.grad_norm }, { "loss_scale", r.loss_scale }, { "epoch", r.epoch },
    { rate, r.seconds > 0 ? (double)r.units / r.seconds : (double)NAN }, { "seconds", r.seconds },
    { "memory_bytes", (double)r.memory_bytes },
    { "samples_per_s", r.seconds > 0 && r.samples ? (double)r.samples / r.seconds : (double)NAN },
  };
  const size_t n_all = ZG_COUNT(all) - !r.samples;
  show(m, &r);
  if (!m->f) return NULL;
  ZG_TRY(write_row(m, r.step, all, n_all));
  zg_metric there[ZG_COUNT(all)];
  char tags[ZG_COUNT(all)][80];
  size_t n = 0;
  for (size_t i = 0; i < n_all; i++) {
    if (isnan(all[i].value) && i) continue;                    // a NaN loss is news, other NaNs mean absent
    snprintf(tags[n], sizeof tags[n], "train/%s", all[i].name);
    there[n] = (zg_metric){ tags[n], all[i].value };
    n++;
  }
  return zg_events_put(m->events, r.step, there, n);
}

zg_status zg_metrics_close(zg_metrics *m) {
  zg_status status = NULL;
  if (!m) return NULL;
  if (m->line_shown) fputc('\n', m->o.out);
  status = zg_events_close(m->events);
  if (m->f && fclose(m->f) && !status) status = zg_error(ZG_IO, "%s: cannot write: %s", m->path.at, strerror(errno));
  zg_str_fini(&m->path);
  zg_free(m);
  return status;
}
