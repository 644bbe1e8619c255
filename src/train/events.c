// TensorBoard's event file. A file is records (TFRecord):
//   [u64 length][u32 masked crc32c of the length][bytes][u32 masked crc32c of the bytes]
// each the protobuf message Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5;
// SessionLog session_log = 7; }, Summary { repeated Value value = 1; }, Value { string tag = 1; float simple_value = 2; },
// SessionLog { SessionStatus status = 1; } with START = 1. Sources: tensorflow/core/lib/io/record_writer.h,
// tensorflow/core/util/event.proto, framework/summary.proto.
#include "train/metrics.h"
#include <errno.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

struct zg_events { FILE *f; zg_str path; };

static uint32_t table[256];

static void make_table(void) {
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t c = i;
    for (int k = 0; k < 8; k++) c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1;
    table[i] = c;
  }
}

uint32_t zg__crc32c(const void *bytes, size_t n) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, make_table);
  uint32_t c = 0xffffffffu;
  for (const uint8_t *p = bytes; n--; p++) c = table[(c ^ *p) & 255] ^ c >> 8;
  return ~c;
}

static uint32_t masked(const void *bytes, size_t n) {
  uint32_t c = zg__crc32c(bytes, n);
  return (c >> 15 | c << 17) + 0xa282ead8u;
}

// ---- protobuf by hand ---------------------------------------------------------------------------------------------
enum { VARINT, FIXED64, BYTES, FIXED32 = 5 };

static void put_fixed(zg_str *s, uint64_t v, int n_bytes) {
  char b[8];
  for (int i = 0; i < n_bytes; i++) b[i] = (char)(v >> 8 * i);
  zg_str_put(s, b, (size_t)n_bytes);
}

static void put_varint(zg_str *s, uint64_t v) {
  for (; v >= 128; v >>= 7) put_fixed(s, (v & 127) | 128, 1);
  put_fixed(s, v, 1);
}

static void put_key(zg_str *s, uint32_t field, uint32_t wire) { put_varint(s, field << 3 | wire); }

static void put_bytes(zg_str *s, uint32_t field, const char *bytes, size_t n) {
  put_key(s, field, BYTES);
  put_varint(s, n);
  zg_str_put(s, bytes, n);
}

static void start_event(zg_str *s, uint64_t step) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  double now = (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
  uint64_t bits;
  memcpy(&bits, &now, 8);
  put_key(s, 1, FIXED64);
  put_fixed(s, bits, 8);
  put_key(s, 2, VARINT);
  put_varint(s, step);
}

static void put_value(zg_str *summary, const zg_metric *m) {
  zg_str v = { 0 };
  float x = (float)m->value;
  uint32_t bits;
  memcpy(&bits, &x, 4);
  put_bytes(&v, 1, m->name, strlen(m->name));
  put_key(&v, 2, FIXED32);
  put_fixed(&v, bits, 4);
  put_bytes(summary, 1, v.at, v.n);
  zg_str_fini(&v);
}

static zg_status write_record(zg_events *e, const zg_str *message) {
  zg_str r = { 0 };
  put_fixed(&r, message->n, 8);
  put_fixed(&r, masked(r.at, 8), 4);
  zg_str_put(&r, message->at, message->n);
  put_fixed(&r, masked(message->at, message->n), 4);
  bool done = fwrite(r.at, 1, r.n, e->f) == r.n && !fflush(e->f);
  zg_str_fini(&r);
  return done ? NULL : zg_error(ZG_IO, "%s: cannot write: %s", e->path.at, strerror(errno));
}

// ---- the file -----------------------------------------------------------------------------------------------------

static zg_status write_start(zg_events *e, uint64_t first_step) {
  zg_str m = { 0 };
  zg_status status = NULL;
  start_event(&m, 0);
  put_bytes(&m, 3, "brain.Event:2", 13);
  ZG_TRY_OUT(write_record(e, &m));
  if (!first_step) goto out;
  m.n = 0;
  start_event(&m, first_step);
  put_bytes(&m, 7, "\x08\x01", 2);                             // SessionLog { status: START }
  ZG_TRY_OUT(write_record(e, &m));
out:
  zg_str_fini(&m);
  return status;
}

zg_status zg_events_open(const char *dir, uint64_t first_step, zg_events **out) {
  char host[65] = "localhost";
  zg_events *e = zg_alloc(sizeof *e);
  zg_status status = NULL;
  *out = NULL;
  gethostname(host, sizeof host - 1);
  zg_str_add(&e->path, "%s/events.out.tfevents.%010lld.%s.%ld", dir, (long long)time(NULL), host, (long)getpid());
  for (int again = 1; zg_file_exists(e->path.at); again++) zg_str_add(&e->path, ".%d", again);
  e->f = fopen(e->path.at, "wbe");
  if (!e->f) ZG_TRY_OUT(zg_error(ZG_IO, "%s: cannot create: %s", e->path.at, strerror(errno)));
  ZG_TRY_OUT(write_start(e, first_step));
  *out = e;
  return NULL;
out:
  zg_status_free(zg_events_close(e));
  return status;
}

zg_status zg_events_put(zg_events *e, uint64_t step, const zg_metric *values, size_t n) {
  zg_str m = { 0 }, summary = { 0 };
  start_event(&m, step);
  for (size_t i = 0; i < n; i++) put_value(&summary, &values[i]);
  put_bytes(&m, 5, summary.at, summary.n);
  zg_status status = write_record(e, &m);
  zg_str_fini(&m);
  zg_str_fini(&summary);
  return status;
}

const char *zg_events_path(const zg_events *e) { return e->path.at; }

zg_status zg_events_close(zg_events *e) {
  zg_status status = NULL;
  if (!e) return NULL;
  if (e->f && fclose(e->f)) status = zg_error(ZG_IO, "%s: cannot write: %s", e->path.at, strerror(errno));
  zg_str_fini(&e->path);
  zg_free(e);
  return status;
}
