// Pictures and exports of planned schedules. The page's text is report_page.html; its data go in as one JSON value.
#include "sched/report_html.h"

#include <inttypes.h>
#include <stdlib.h>

#include "sched/report.h"

extern const char zg__report_page[];   // report_page.html
static const char *const phases[] = {"load", "forward", "backward", "update", "save"};
static const char *const streams[] = {"compute", "network", "copy"};
static const char *const kinds[] = {"kernel", "partition", "gather", "reduce_scatter", "all_reduce", "broadcast", "copy", "release", "record", "wait"};

// ---- what all of them read ----------------------------------------------------------------------------------------

typedef struct { uint32_t buf, first, last, counts; } life;   // counts: first step that it counts from; a result in its operand's place later
typedef struct {
  const zg_sched *s;
  const zg_picture *p;
  zg_arena mem;
  zg_report report;
  zg_step_time *time;
  life *lives;
  uint32_t n;
} picture;

static int by_place(const void *a, const void *b, void *context) {
  const zg_sched *s = context;
  const life *x = a, *y = b;
  uint64_t p = s->bufs.at[x->buf].offset, q = s->bufs.at[y->buf].offset;
  if (p != q) return p < q ? -1 : 1;
  return x->first != y->first ? (x->first < y->first ? -1 : 1) : (x->buf > y->buf) - (x->buf < y->buf);
}

static void open_picture(picture *x, const zg_sched *s, const zg_picture *p) {
  static const zg_device_model *cpu;
  if (!cpu) cpu = zg_device_model_find("cpu");
  *x = (picture){.s = s, .p = p};
  zg_report_make(s, &x->report);
  x->time = zg_predict_times(s, p && p->device ? p->device : cpu, &x->mem);
  x->lives = ZG_NEW_N(&x->mem, life, s->bufs.n);
  zg_live_range *r = zg_find_live_ranges(s, &x->mem);
  for (uint32_t b = 1; b < s->bufs.n; b++)
    if (s->bufs.at[b].space == ZG_SPACE_DEVICE && s->bufs.at[b].bytes && r[b].first != UINT32_MAX)
      x->lives[x->n++] = (life){b, r[b].first, r[b].last, r[b].first};
  qsort_r(x->lives, x->n, sizeof *x->lives, by_place, (void *)s);
  for (uint32_t i = 1; i < x->n; i++) {
    const life *before = &x->lives[i - 1];
    bool shared = before->last == x->lives[i].first && s->bufs.at[before->buf].offset == s->bufs.at[x->lives[i].buf].offset;
    if (shared) x->lives[i].counts++;
  }
}

static void close_picture(picture *x) {
  zg_report_fini(&x->report);
  zg_arena_fini(&x->mem);
}

// A JSON string; '<' is escaped too, so that no name ends the script that it stands in.
static void quote(zg_str *out, const char *text) {
  zg_str_add(out, "\"");
  for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
    if (*c == '"' || *c == '\\') zg_str_add(out, "\\%c", *c);
    else if (*c < 32 || *c == '<') zg_str_add(out, "\\u%04x", *c);
    else zg_str_add(out, "%c", *c);
  }
  zg_str_add(out, "\"");
}

static void list(zg_str *out, const char *name, const char *const *at, size_t n) {
  zg_str_add(out, ",\n\"%s\":[", name);
  for (size_t i = 0; i < n; i++) {
    if (i) zg_str_add(out, ",");
    quote(out, at[i]);
  }
  zg_str_add(out, "]");
}

// ---- page ---------------------------------------------------------------------------------------------------------

static void add_figure(zg_str *out, const char *name, const char *text, uint64_t bytes) {
  zg_str_add(out, "[");
  quote(out, name);
  if (text) {
    zg_str_add(out, ",");
    quote(out, text);
    zg_str_add(out, "],");
  } else {
    zg_str_add(out, ",%" PRIu64 "],", bytes);
  }
}

static void add_figures(picture *x, zg_str *out) {
  const zg_report *r = &x->report;
  const zg_sched *s = x->s;
  zg_str_add(out, ",\n\"figures\":[");
  add_figure(out, "planned", NULL, r->planned);
  add_figure(out, "lower bound", NULL, r->lower_bound);
  if (x->p->budget) add_figure(out, "budget", NULL, x->p->budget);
  add_figure(out, "at rest", NULL, r->persistent);
  if (r->alive.n) {
    const zg_buf *largest = &s->bufs.at[r->alive.at[0].buf];
    const zg_step *by = &s->steps.at[r->alive.at[0].made];
    const char *made = largest->persistent           ? "at rest"
                       : by->kind == ZG_STEP_KERNEL ? zg_arena_printf(&x->mem, "made by %s", zg_step_label(s, r->alive.at[0].made))
                                                    : kinds[by->kind];
    add_figure(out, "largest tensor at the peak", zg_arena_printf(&x->mem, "%.1f MiB: %s, %s", (double)largest->bytes / 0x1p20, largest->name, made), 0);
  }
  const bool tera = r->flops >= 1e12;
  add_figure(out, "arithmetic", zg_arena_printf(&x->mem, "%.4g %s", r->flops / (tera ? 1e12 : 1e9), tera ? "TFLOP" : "GFLOP"), 0);
  add_figure(out, "steps", zg_arena_printf(&x->mem, "%zu", s->steps.n), 0);
  zg_str_add(out, "]");
}

static void add_steps(picture *x, zg_str *out) {
  const zg_sched *s = x->s;
  zg_map seen = {0};
  ZG_VEC(const char *) labels = {0};
  zg_str_add(out, ",\n\"steps\":[");
  for (size_t i = 0; i < s->steps.n; i++) {
    const zg_step *p = &s->steps.at[i];
    const char *text = zg_step_label(s, (uint32_t)i);
    uint64_t id = 0;
    if (!zg_map_get(&seen, text, &id)) {
      id = labels.n;
      zg_map_put(&seen, text, id);
      zg_vec_push(&labels, text);
    }
    zg_str_add(out, "%s[%" PRIu64 ",%u,%u,%u,%.2f,%.2f]", i ? "," : "", id, p->stream, p->phase, (unsigned)p->kind, x->time[i].start * 1e6,
               x->time[i].length * 1e6);
  }
  zg_str_add(out, "]");
  list(out, "labels", labels.at, labels.n);
  zg_vec_fini(&labels);
  zg_map_fini(&seen);
}

static void add_bufs(picture *x, zg_str *out) {
  zg_str_add(out, ",\n\"bufs\":[");
  for (uint32_t i = 0; i < x->n; i++) {
    const life *l = &x->lives[i];
    const zg_buf *b = &x->s->bufs.at[l->buf];
    zg_str_add(out, i ? ",\n[" : "\n[");
    quote(out, b->name);
    zg_str_add(out, ",%u,%" PRIu64 ",%" PRIu64 ",%u,%u,", b->role, b->bytes, b->offset, l->first, l->last);
    quote(out, zg_type_text(&b->type));
    zg_str_add(out, ",%u,%d]", l->counts, b->persistent);
  }
  zg_str_add(out, "]");
}

void zg_report_html(const zg_sched *s, const zg_picture *p, zg_str *out) {
  static const char slot[] = "/*DATA*/null";
  const char *at = strstr(zg__report_page, slot), *roles[ZG_N_BUF_ROLES];
  picture x;
  open_picture(&x, s, p);
  for (int i = 0; i < ZG_N_BUF_ROLES; i++) roles[i] = zg_role_name((zg_buf_role)i);
  zg_str_add(out, "%.*s{\"title\":", (int)(at - zg__report_page), zg__report_page);
  quote(out, p->title ? p->title : "plan");
  zg_str_add(out, ",\"subtitle\":");
  quote(out, p->subtitle ? p->subtitle : "");
  zg_str_add(out, ",\"device\":");
  quote(out, p->device ? p->device->name : "cpu");
  zg_str_add(out, ",\"planned\":%" PRIu64 ",\"budget\":%" PRIu64 ",\"peak\":%u", x.report.planned, p->budget, x.report.peak_step);
  list(out, "roles", roles, ZG_N_BUF_ROLES);
  list(out, "phases", phases, ZG_COUNT(phases));
  list(out, "streams", streams, ZG_COUNT(streams));
  list(out, "kinds", kinds, ZG_COUNT(kinds));
  add_figures(&x, out);
  add_steps(&x, out);
  add_bufs(&x, out);
  zg_str_add(out, "}%s", at + sizeof slot - 1);
  close_picture(&x);
}

// ---- SVG ----------------------------------------------------------------------------------------------------------

enum { SVG_WIDTH = 960, SVG_LEFT = 70, CURVE = 200, ARENA = 260, GAP = 40 };

static const char *role_color(uint8_t role) {
  static const char *const colors[ZG_N_BUF_ROLES] = {"#3b6fb6", "#d9534f", "#2f8f5b", "#7cb894", "#8a8f94", "#b4b8bb", "#d9a520", "#4fb3d9", "#9b59b6", "#a3a847"};
  return colors[role];
}

static void svg_text(zg_str *out, double x, double y, const char *anchor, const char *text) {
  zg_str_add(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", x, y, anchor);
  for (const char *c = text; *c; c++) {
    if (*c == '<') zg_str_add(out, "&lt;");
    else if (*c == '&') zg_str_add(out, "&amp;");
    else zg_str_add(out, "%c", *c);
  }
  zg_str_add(out, "</text>\n");
}

// Bytes alive per role, as polygons stacked on each other.
static void svg_curve(picture *x, zg_str *out) {
  size_t n = x->s->steps.n + 2;
  double *base = ZG_NEW_N(&x->mem, double, n), *sum = ZG_NEW_N(&x->mem, double, n), high = ZG_MAX((double)x->report.planned, 1.0);
  double step = (double)(SVG_WIDTH - SVG_LEFT) / (double)ZG_MAX(x->s->steps.n, (size_t)1);
  for (uint8_t role = 0; role < ZG_N_BUF_ROLES; role++) {
    memset(sum, 0, n * sizeof *sum);
    bool any = false;
    for (uint32_t i = 0; i < x->n; i++) {
      const zg_buf *b = &x->s->bufs.at[x->lives[i].buf];
      if (b->role != role) continue;
      any = true;
      sum[ZG_MIN((size_t)x->lives[i].counts, n - 1)] += (double)b->bytes;
      sum[ZG_MIN((size_t)x->lives[i].last + 1, n - 1)] -= (double)b->bytes;
    }
    if (!any) continue;
    zg_str_add(out, "<path fill=\"%s\" d=\"M", role_color(role));
    double live = 0;
    for (size_t i = 0; i < x->s->steps.n; i++) {
      sum[i] = live += sum[i];
      double y = CURVE * (1 - (base[i] + sum[i]) / high);
      zg_str_add(out, "%s%.2f %.2fH%.2f", i ? "V" : "", i ? y : SVG_LEFT + (double)i * step, i ? SVG_LEFT + (double)(i + 1) * step : y, SVG_LEFT + (double)(i + 1) * step);
    }
    for (size_t i = x->s->steps.n; i-- > 0;) {
      zg_str_add(out, "V%.2fH%.2f", CURVE * (1 - base[i] / high), SVG_LEFT + (double)i * step);
      base[i] += sum[i];
    }
    zg_str_add(out, "Z\"><title>%s</title></path>\n", zg_role_name((zg_buf_role)role));
  }
}

static void svg_arena(picture *x, zg_str *out) {
  double high = ZG_MAX((double)x->report.planned, 1.0), step = (double)(SVG_WIDTH - SVG_LEFT) / (double)ZG_MAX(x->s->steps.n, (size_t)1), top = CURVE + GAP;
  for (uint32_t i = 0; i < x->n; i++) {
    const life *l = &x->lives[i];
    const zg_buf *b = &x->s->bufs.at[l->buf];
    double h = ARENA * (double)b->bytes / high, y = top + ARENA * (1 - (double)b->offset / high) - h;
    uint32_t last = ZG_MIN(l->last + 1, (uint32_t)x->s->steps.n);
    zg_str_add(out, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"%s\" stroke=\"#fff\" stroke-width=\"0.2\"/>\n",
               SVG_LEFT + l->first * step, y, (last - l->first) * step, h, role_color(b->role));
  }
}

void zg_report_svg(const zg_sched *s, const zg_picture *p, zg_str *out) {
  picture x;
  open_picture(&x, s, p);
  int height = CURVE + GAP + ARENA + GAP;
  zg_str_add(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 -10 %d %d\" font-family=\"sans-serif\" font-size=\"11\">\n", SVG_WIDTH, height + 10);
  svg_curve(&x, out);
  svg_arena(&x, out);
  const char *most = zg_arena_printf(&x.mem, "%.1f MiB", (double)x.report.planned / 0x1p20);
  svg_text(out, SVG_LEFT - 4, 8, "end", most);
  svg_text(out, SVG_LEFT - 4, CURVE + GAP + 8, "end", most);
  svg_text(out, SVG_LEFT - 4, CURVE, "end", "alive");
  svg_text(out, SVG_LEFT - 4, CURVE + GAP + ARENA, "end", "address");
  double at = SVG_LEFT;
  for (int i = 0; i < ZG_N_BUF_ROLES; i++) {
    if (!x.report.by_role[i]) continue;
    zg_str_add(out, "<rect x=\"%.0f\" y=\"%d\" width=\"9\" height=\"9\" fill=\"%s\"/>", at, height - 22, role_color((uint8_t)i));
    svg_text(out, at + 12, height - 14, "start", zg_role_name((zg_buf_role)i));
    at += 85;
  }
  zg_str_add(out, "</svg>\n");
  close_picture(&x);
}

// ---- trace, CSV ---------------------------------------------------------------------------------------------------

void zg_report_trace(const zg_sched *s, const zg_picture *p, zg_str *out) {
  picture x;
  open_picture(&x, s, p);
  int64_t *delta = ZG_NEW_N(&x.mem, int64_t, s->steps.n + 3), live = 0;
  for (uint32_t i = 0; i < x.n; i++) {
    delta[x.lives[i].counts] += (int64_t)s->bufs.at[x.lives[i].buf].bytes;
    delta[x.lives[i].last + 1] -= (int64_t)s->bufs.at[x.lives[i].buf].bytes;
  }
  zg_str_add(out, "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[");
  for (int k = 0; k < ZG_N_STREAMS; k++)
    zg_str_add(out, "%s{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":%u,\"tid\":%d,\"args\":{\"name\":\"%s\"}}", k ? ",\n" : "", s->rank, k, streams[k]);
  for (size_t i = 0; i < s->steps.n; i++) {
    const zg_step *t = &s->steps.at[i];
    live += delta[i];
    if (x.time[i].length > 0) {
      zg_str_add(out, ",\n{\"ph\":\"X\",\"pid\":%u,\"tid\":%u,\"ts\":%.3f,\"dur\":%.3f,\"cat\":\"%s\",\"name\":", s->rank, t->stream, x.time[i].start * 1e6,
                 x.time[i].length * 1e6, phases[t->phase]);
      quote(out, zg_step_label(s, (uint32_t)i));
      zg_str_add(out, ",\"args\":{\"step\":%zu,\"kind\":\"%s\"}}", i, kinds[t->kind]);
      zg_str_add(out, ",\n{\"ph\":\"C\",\"pid\":%u,\"ts\":%.3f,\"name\":\"bytes alive\",\"args\":{\"device\":%" PRId64 "}}", s->rank, x.time[i].start * 1e6, live);
    }
  }
  zg_str_add(out, "]}\n");
  close_picture(&x);
}

static const char *csv_name(zg_arena *mem, const char *name) {
  char *c = zg_arena_str(mem, name);
  for (char *at = c; *at; at++)
    if (*at == ',' || *at == '"' || *at == '\n') *at = '_';
  return c;
}

void zg_report_csv(const zg_sched *s, zg_str *out) {
  picture x;
  open_picture(&x, s, NULL);
  zg_str_add(out, "id,lower,upper,size,offset\n");
  for (uint32_t i = 0; i < x.n; i++) {
    const zg_buf *b = &s->bufs.at[x.lives[i].buf];
    if (b->persistent || x.lives[i].counts > x.lives[i].last) continue;
    zg_str_add(out, "%s,%u,%u,%" PRIu64 ",%" PRIu64 "\n", csv_name(&x.mem, b->name), x.lives[i].counts, x.lives[i].last + 1, b->bytes, b->offset);
  }
  close_picture(&x);
}
