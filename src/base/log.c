// Log lines and warnings on stderr. Every line goes out in one write, so that lines of several ranks do not
// mix.
#include "base/base.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t warned_lock = PTHREAD_MUTEX_INITIALIZER;
static zg_map warned;  // texts already printed
static int level;
static double t_start;

static void read_level(void) {
  const char *text = getenv("ZG_LOG");
  level = text ? atoi(text) : 0;
  t_start = zg_time_s();
}

int zg_log_level(void) {
  pthread_once(&once, read_level);
  return level;
}

static void print_line(const char *head, const char *text) {
  zg_str line = {0};
  zg_str_add(&line, "%s%s\n", head, text);
  fflush(stdout);  // keeps both streams in order on a terminal
  fwrite(line.at, 1, line.n, stderr);
  fflush(stderr);
  zg_str_fini(&line);
}

static char *format(const char *fmt, va_list ap) {
  char *text = NULL;
  return vasprintf(&text, fmt, ap) < 0 ? NULL : text;
}

void zg__log(const char *fmt, ...) {
  pthread_once(&once, read_level);
  va_list ap;
  va_start(ap, fmt);
  char *text = format(fmt, ap);
  va_end(ap);
  char head[48];
  snprintf(head, sizeof head, "zgraph[%9.3f] ", zg_time_s() - t_start);
  if (text) print_line(head, text);
  free(text);
}

static _Thread_local bool muted;

bool zg_warn_mute(bool mute) {
  const bool before = muted;
  muted = mute;
  return before;
}

void zg_warn(const char *fmt, ...) {
  if (muted) return;
  va_list ap;
  va_start(ap, fmt);
  char *text = format(fmt, ap);
  va_end(ap);
  if (!text) return;
  pthread_mutex_lock(&warned_lock);
  bool is_new = zg_map_put(&warned, text, 1);
  pthread_mutex_unlock(&warned_lock);
  if (is_new) print_line("zgraph: warning: ", text);
  free(text);
}
