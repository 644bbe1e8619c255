#include "train/metrics.h"
#include "train_test.h"
#include <dirent.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <math.h>
#include <sys/ioctl.h>

static uint32_t slow_crc32c(const uint8_t *p, size_t n) {
  uint32_t c = ~0u;
  while (n--) {
    c ^= *p++;
    for (int k = 0; k < 8; k++) c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1;
  }
  return ~c;
}

static uint64_t le(const uint8_t *p, int n) {
  uint64_t v = 0;
  while (n--) v = v << 8 | p[n];
  return v;
}

// The next record's message; checks both checksums.
static bool next_record(zg_bytes *b, zg_bytes *message) {
  if (!b->n) return false;
  ck_assert_uint_ge(b->n, 16);
  uint64_t n = le(b->at, 8);
  ck_assert_uint_le(n, b->n - 16);
  const uint8_t *parts[] = { b->at, b->at + 12 };
  const size_t sizes[] = { 8, n };
  for (int i = 0; i < 2; i++) {
    uint32_t c = slow_crc32c(parts[i], sizes[i]);
    ck_assert_uint_eq((uint32_t)((c >> 15 | c << 17) + 0xa282ead8u), le(parts[i] + sizes[i], 4));
  }
  *message = (zg_bytes){ b->at + 12, n };
  b->at += n + 16;
  b->n -= n + 16;
  return true;
}

typedef struct { uint32_t field, wire; uint64_t value; zg_bytes bytes; } field;

static uint64_t varint(zg_bytes *b) {
  uint64_t v = 0;
  for (int shift = 0;; shift += 7) {
    ck_assert_uint_gt(b->n, 0);
    uint8_t x = *b->at++;
    b->n--;
    v |= (uint64_t)(x & 127) << shift;
    if (x < 128) return v;
  }
}

static bool next_field(zg_bytes *b, field *f) {
  if (!b->n) return false;
  uint64_t key = varint(b);
  *f = (field){ .field = (uint32_t)(key >> 3), .wire = key & 7 };
  uint64_t n = f->wire == 1 ? 8 : f->wire == 5 ? 4 : 0;
  if (f->wire == 0) f->value = varint(b);
  if (f->wire == 2) n = varint(b);
  ck_assert_uint_le(n, b->n);
  f->bytes = (zg_bytes){ b->at, n };
  if (n && f->wire != 2) f->value = le(b->at, (int)n);
  b->at += n;
  b->n -= n;
  return true;
}

static char *find_events(const char *dir, int skip) {
  static char path[600];
  DIR *d = opendir(dir);
  bool found = false;
  for (struct dirent *e; d && (e = readdir(d));)
    if (!strncmp(e->d_name, "events.out.tfevents.", 20) && !skip--) {
      snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
      found = true;
    }
  closedir(d);
  ck_assert(found);
  return path;
}

static zg_metrics_row row_of(uint64_t step) {
  return (zg_metrics_row){ .step = step, .loss = 4.0 / (double)step, .lr = 1e-3, .grad_norm = step == 2 ? INFINITY : 0.5,
                           .loss_scale = NAN, .epoch = 0.25, .units = 1000, .memory_bytes = 3 << 20, .seconds = 0.5 };
}

static void run(const char *dir, bool resume, uint64_t from, uint64_t to, FILE *out) {
  zg_metrics *m;
  ok(zg_metrics_open(&(zg_metrics_options){ .dir = dir, .resume = resume, .resume_step = from - 1, .total_steps = 20,
                                           .log_every = 5, .unit = "tokens", .out = out }, &m));
  for (uint64_t s = from; s <= to; s++) {
    zg_metrics_row r = row_of(s);
    ok(zg_metrics_step(m, &r));
  }
  ok(zg_metrics_put(m, to, &(zg_metric){ "eval/loss", 2.5 }, 1));
  zg_metrics_note(m, "saved %d", 7);
  ok(zg_metrics_close(m));
}

// The steps of the rows, each row being sound JSON; eval rows count 1000.
static size_t read_steps(const char *path, int *steps) {
  zg_str text = { 0 };
  size_t n = 0;
  ok(zg_file_read(path, &text));
  for (char *line = strtok(text.at, "\n"); line; line = strtok(NULL, "\n")) {
    json_object *o = json_tokener_parse(line), *v;
    ck_assert_msg(o && json_object_object_get_ex(o, "step", &v), "%s", line);
    steps[n] = json_object_get_int(v);
    if (json_object_object_get_ex(o, "eval/loss", &v)) {
      steps[n] += 1000;
    } else {
      ck_assert(json_object_object_get_ex(o, "loss", &v));
      ck_assert_double_eq_tol(json_object_get_double(v), 4.0 / steps[n], 1e-8);
      ck_assert(json_object_object_get_ex(o, "grad_norm", &v));
      ck_assert((v == NULL) == (steps[n] == 2));
      ck_assert(json_object_object_get_ex(o, "tokens_per_s", &v));
      ck_assert_double_eq_tol(json_object_get_double(v), 2000, 1e-6);
    }
    json_object_put(o);
    n++;
  }
  zg_str_fini(&text);
  return n;
}

START_TEST(rows_and_resume) {
  const char *dir = scratch("m");
  int steps[64];
  char path[300];
  snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
  run(dir, false, 1, 8, NULL);
  ck_assert_uint_eq(read_steps(path, steps), 9);
  FILE *f = fopen(path, "a");                                  // a line cut off by a kill
  fputs("{\"step\":5,\"lo", f);
  fclose(f);
  run(dir, true, 6, 10, NULL);
  ck_assert_uint_eq(read_steps(path, steps), 11);              // 1..5, 6..10, eval
  for (int i = 0; i < 10; i++) ck_assert_int_eq(steps[i], i + 1);
  ck_assert_int_eq(steps[10], 1010);
  run(dir, false, 1, 2, NULL);
  ck_assert_uint_eq(read_steps(path, steps), 3);
  snprintf(path, sizeof path, "%s/metrics.jsonl.old", dir);
  ck_assert_uint_eq(read_steps(path, steps), 11);
  zg_metrics *m;
  fails(zg_metrics_open(&(zg_metrics_options){ .dir = "/proc/nope" }, &m), ZG_NOT_FOUND, "/proc/nope");
}
END_TEST

START_TEST(event_file) {
  const char *dir = scratch("e");
  zg_events *e;
  ck_assert_uint_eq(zg__crc32c("123456789", 9), 0xe3069283u);
  ok(zg_dir_make(dir));
  ok(zg_events_open(dir, 301, &e));
  zg_metric v[] = { { "train/loss", 1.5 }, { "train/lr", -0.25 } };
  ok(zg_events_put(e, 300, v, 2));
  ok(zg_events_close(e));
  zg_file_map map;
  ok(zg_file_map_open(find_events(dir, 0), &map));
  zg_bytes b = map.bytes, m, s, x;
  field f, g, h;
  ck_assert(next_record(&b, &m));                              // file_version
  bool version = false;
  while (next_field(&m, &f)) version |= f.field == 3 && f.bytes.n == 13 && !memcmp(f.bytes.at, "brain.Event:2", 13);
  ck_assert(version);
  ck_assert(next_record(&b, &m));                              // session start: forget steps from 301 on
  while (next_field(&m, &f)) {
    if (f.field == 2) ck_assert_uint_eq(f.value, 301);
    if (f.field == 7) ck_assert(f.bytes.n == 2 && f.bytes.at[0] == 8 && f.bytes.at[1] == 1);
  }
  ck_assert(next_record(&b, &m));
  int n = 0;
  while (next_field(&m, &f)) {
    double when;
    if (f.field == 1) {
      memcpy(&when, &f.value, 8);
      ck_assert(when > 1.6e9 && when < 1e11);
    }
    if (f.field == 2) ck_assert_uint_eq(f.value, 300);
    if (f.field != 5) continue;
    for (s = f.bytes; next_field(&s, &g); n++)
      for (x = g.bytes; next_field(&x, &h);) {
        float value;
        uint32_t bits = (uint32_t)h.value;
        memcpy(&value, &bits, 4);
        if (h.field == 1) ck_assert(h.bytes.n == strlen(v[n].name) && !memcmp(h.bytes.at, v[n].name, h.bytes.n));
        if (h.field == 2) ck_assert_float_eq(value, (float)v[n].value);
      }
  }
  ck_assert_int_eq(n, 2);
  ck_assert(!next_record(&b, &m));
  zg_file_map_close(&map);
  for (int i = 0; i < 3; i++) {                                // several in one second do not meet
    ok(zg_events_open(dir, 0, &e));
    ok(zg_events_close(e));
  }
  find_events(dir, 3);
}
END_TEST

START_TEST(plain_lines) {
  char *text = NULL;
  size_t n = 0;
  FILE *out = tmpfile();
  run(NULL, false, 1, 20, out);
  rewind(out);
  int lines = 0;
  bool note = false;
  while (getline(&text, &n, out) > 0) {
    lines++;
    note |= !strcmp(text, "saved 7\n");
    ck_assert(!strchr(text, '\r') && !strchr(text, '\x1b'));
    if (lines == 2) ck_assert_str_eq(text, "step 5/20  loss 0.8000  lr 1.00e-03  grad 0.5  2.00k tokens/s  3.0 MiB  0:00:08 left\n");
  }
  ck_assert_int_eq(lines, 6);                                  // 1, 5, 10, 15, 20, note
  ck_assert(note);
  free(text);
  fclose(out);
}
END_TEST

// On a terminal 30 columns wide: one line over and over, cut to the width; a note takes its place and stays.
START_TEST(terminal_line) {
  int master = posix_openpt(O_RDWR | O_NOCTTY);
  if (master < 0 || grantpt(master) || unlockpt(master)) return;       // no terminals here
  FILE *out = fopen(ptsname(master), "w");
  if (!out) return;
  ck_assert_int_eq(ioctl(master, TIOCSWINSZ, &(struct winsize){ .ws_row = 24, .ws_col = 30 }), 0);
  run(NULL, false, 1, 20, out);
  char text[4096];
  size_t n = 0;
  fflush(out);
  do {   // a terminal hands over what it has, perhaps in parts
    const ssize_t got = read(master, text + n, sizeof text - 1 - n);
    ck_assert_int_gt(got, 0);
    text[n += (size_t)got] = 0;
  } while (!strstr(text, "saved 7\r\n"));
  ck_assert_int_eq(strncmp(text, "\rstep 1/20  loss 4.0000  lr 1.\x1b[K", 33), 0);
  ck_assert_ptr_nonnull(strstr(text, "\rstep 20/20  loss 0.2000  lr 1\x1b[K\r\x1b[Ksaved 7\r\n"));
  fclose(out);
  close(master);
}
END_TEST

START_TEST(line_text) {
  zg_metrics_options o = { .unit = "samples" };
  zg_metrics_row r = { .step = 3, .loss = NAN, .lr = NAN, .grad_norm = NAN, .loss_scale = 1024, .memory_bytes = 5000000000 };
  zg_str s = { 0 };
  zg__metrics_line(&s, &o, &r, 12.34, -1);
  ck_assert_str_eq(s.at, "step 3  loss nan  scale 1024  12.3 samples/s  4.7 GiB");
  s.n = 0;
  o.total_steps = 10;
  zg__metrics_line(&s, &o, &r, 1234567, 90061);
  ck_assert_str_eq(s.at, "step 3/10  loss nan  scale 1024  1.23M samples/s  4.7 GiB  1d 01:01:01 left");
  zg_str_fini(&s);
}
END_TEST

int main(void) {
  const TTest *tests[] = { rows_and_resume, event_file, plain_lines, terminal_line, line_text };
  return run_tests("metrics", tests, ZG_COUNT(tests));
}
