// zg_status: a heap record of code, place and message. Out-of-memory while making one falls back to a static
// record, so that reporting an error can never itself fail.
#include "base/base.h"
#include <stdio.h>
#include <stdlib.h>

struct zg_status_rec {
  zg_code code;
  char *message;  // heap; the static record's is a literal
  char place[64];
};

static struct zg_status_rec out_of_memory = {ZG_OUT_OF_MEMORY, (char *)"out of memory", "base/status.c"};

// Formats into fresh heap memory; NULL when there is none. Not zg_str: that one ends the process without
// memory.
static char *format_heap(const char *fmt, va_list ap) {
  char *text = NULL;
  return vasprintf(&text, fmt, ap) < 0 ? NULL : text;
}

zg_status zg__status_vmake(zg_code code, const char *file, int line, const char *fmt, va_list ap) {
  zg_status s = calloc(1, sizeof *s);
  if (!s) return &out_of_memory;
  s->code = code;
  s->message = format_heap(fmt, ap);
  if (!s->message) {
    free(s);
    return &out_of_memory;
  }
  const char *base = strrchr(file, '/');
  snprintf(s->place, sizeof s->place, "%s:%d", base ? base + 1 : file, line);
  return s;
}

zg_status zg__status_make(zg_code code, const char *file, int line, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  zg_status s = zg__status_vmake(code, file, line, fmt, ap);
  va_end(ap);
  return s;
}

zg_status zg_status_prefix(zg_status s, const char *fmt, ...) {
  if (!s || s == &out_of_memory) return s;
  va_list ap;
  va_start(ap, fmt);
  char *prefix = format_heap(fmt, ap);
  va_end(ap);
  char *joined = NULL;
  if (prefix && asprintf(&joined, "%s%s", prefix, s->message) >= 0) {
    free(s->message);
    s->message = joined;
  }  // else: the message without its context is still the truth
  free(prefix);
  return s;
}

zg_code zg_status_code(zg_status s) { return s->code; }
const char *zg_status_message(zg_status s) { return s ? s->message : ""; }
const char *zg_status_place(zg_status s) { return s ? s->place : ""; }

void zg_status_free(zg_status s) {
  if (!s || s == &out_of_memory) return;
  free(s->message);
  free(s);
}

void zg__assert_failed(const char *cond, const char *file, int line) {
  fflush(stdout);
  fprintf(stderr, "zgraph: internal error: %s:%d: not true: %s\n", file, line, cond);
  abort();
}
