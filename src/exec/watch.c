#include "exec/watch.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include "exec/wire.h"

enum { BEAT_MS = 250 };
static const double LINGER_S = 8;
static const double SILENCE_S = 6;      // of a rank that is stopped, cut off, or gets no processor at all

typedef enum { BEAT, FAILED, LEFT } news_kind;
typedef struct { uint32_t kind, rank, n_collectives, doing; char text[496]; } news;

typedef struct {
  int fd;                               // -1: none (own rank, or it has left)
  uint32_t rank;                        // at the other end
  size_t got;                           // of `in`
  news in;
  double heard;                         // on the watch's own clock
  uint32_t n_collectives, doing;        // from its last sign of life
} line;

struct zg__watch {
  uint32_t rank, world, n_lines;
  line *lines;
  pthread_t thread;
  int wake;                             // eventfd
  double clock;                         // seconds this thread was awake: a machine that sleeps accuses nobody
  double exit_after_s, failed_at, stopped_at;
  _Atomic bool failed, stop;
  _Atomic uint32_t n_collectives, doing;
  _Atomic uint8_t *left;
  pthread_mutex_t lock;
  char why[496];                        // written once, under lock, before `failed`
  bool told, said_left;                 // the others know
};

static void set_failed(zg__watch *w, const char *text) {
  pthread_mutex_lock(&w->lock);
  if (!atomic_load(&w->failed)) {
    snprintf(w->why, sizeof w->why, "%s", text);
    atomic_store(&w->failed, true);
  }
  pthread_mutex_unlock(&w->lock);
}

static void say(line *l, const news *n) {
  // A line that does not take 512 bytes at once has been silent for minutes; it fails by silence.
  if (l->fd >= 0) (void)!send(l->fd, n, sizeof *n, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void say_all(zg__watch *w, news_kind kind, uint32_t about, const char *text) {
  news n = {.kind = kind, .rank = about, .n_collectives = atomic_load(&w->n_collectives), .doing = atomic_load(&w->doing)};
  if (text) snprintf(n.text, sizeof n.text, "%s", text);
  for (uint32_t i = 0; i < w->n_lines; i++) say(&w->lines[i], &n);
}

static void tell_failure(zg__watch *w) {
  if (w->told || !atomic_load(&w->failed)) return;
  w->told = true;
  w->failed_at = w->clock;
  say_all(w, FAILED, w->rank, w->why);
}

static void hang_up(zg__watch *w, line *l, const char *why) {
  if (l->fd < 0) return;
  close(l->fd);
  l->fd = -1;
  if (why && !atomic_load(&w->left[l->rank])) {
    char text[496];
    snprintf(text, sizeof text, "rank %u %s", l->rank, why);
    set_failed(w, text);
  }
}

static void take_news(zg__watch *w, line *l) {
  const news *n = &l->in;
  l->heard = w->clock;
  switch ((news_kind)n->kind) {
    case BEAT:
      l->n_collectives = n->n_collectives;
      l->doing = n->doing;
      break;
    case FAILED: set_failed(w, n->text); break;
    case LEFT:
      if (n->rank < w->world) atomic_store(&w->left[n->rank], 1);
      if (w->rank == 0) say_all(w, LEFT, n->rank, NULL);
      break;
  }
}

static void hear(zg__watch *w, line *l) {
  for (;;) {
    const ssize_t k = recv(l->fd, (uint8_t *)&l->in + l->got, sizeof l->in - l->got, MSG_DONTWAIT);
    if (k < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (k <= 0) {
      hang_up(w, l, "has ended without a word (killed, or out of memory?)");
      return;
    }
    l->got += (size_t)k;
    if (l->got < sizeof l->in) continue;
    l->got = 0;
    take_news(w, l);
  }
}

static void check_silence(zg__watch *w) {
  for (uint32_t i = 0; i < w->n_lines; i++) {
    line *l = &w->lines[i];
    if (l->fd < 0 || w->clock - l->heard < SILENCE_S || atomic_load(&w->failed)) continue;
    char text[160];
    const bool inside = l->doing < ZG_N_COMM_KINDS;
    snprintf(text, sizeof text, "does not answer for %.0f s (stopped, or cut off); it last was %s its collective %u%s%s", SILENCE_S,
             inside ? "in" : "behind", l->n_collectives, inside ? ", " : "", inside ? zg_comm_kind_name((zg_comm_kind)l->doing) : "");
    hang_up(w, l, text);
  }
}

// The last resort against a thread that does not notice: it computes, or sits in a system call.
static void check_exit(const zg__watch *w) {
  if (w->exit_after_s <= 0 || !w->told || w->clock - w->failed_at < w->exit_after_s) return;
  fprintf(stderr, "zgraph: rank %u ends: %s\n", w->rank, w->why);
  _exit(1);
}

// Rank 0 passes news on until the others have hung up as well, or LINGER_S are over.
static bool goes_on(zg__watch *w) {
  if (!atomic_load(&w->stop)) return true;
  if (w->stopped_at == 0) w->stopped_at = w->clock;
  bool open = false;
  for (uint32_t i = 0; i < w->n_lines; i++) open |= w->lines[i].fd >= 0;
  if (!w->said_left && !atomic_load(&w->failed)) say_all(w, LEFT, w->rank, NULL);
  w->said_left = true;
  return w->rank == 0 && open && !atomic_load(&w->failed) && w->clock - w->stopped_at < LINGER_S;
}

static void *watch_main(void *arg) {
  zg__watch *w = arg;
  struct pollfd *p = zg_alloc(sizeof *p * (w->n_lines + 1));
  double last = zg_time_s(), next_beat = 0;
  prctl(PR_SET_NAME, "zg-watch");
  while (goes_on(w)) {
    p[0] = (struct pollfd){w->wake, POLLIN, 0};
    for (uint32_t i = 0; i < w->n_lines; i++) p[i + 1] = (struct pollfd){w->lines[i].fd, POLLIN, 0};
    poll(p, w->n_lines + 1, BEAT_MS);
    const double now = zg_time_s();
    w->clock += ZG_MIN(now - last, 4e-3 * BEAT_MS);
    last = now;
    uint64_t drained;
    if (p[0].revents) (void)!read(w->wake, &drained, sizeof drained);
    for (uint32_t i = 0; i < w->n_lines; i++)
      if (w->lines[i].fd >= 0 && p[i + 1].revents) hear(w, &w->lines[i]);
    if (w->clock >= next_beat) {
      say_all(w, BEAT, w->rank, NULL);
      next_beat = w->clock + 1e-3 * BEAT_MS;
    }
    check_silence(w);
    tell_failure(w);
    check_exit(w);
  }
  zg_free(p);
  tell_failure(w);
  return NULL;
}

zg_status zg__watch_new(zg__roster *r, double exit_after_s, zg__watch **out) {
  zg__watch *w = zg_alloc(sizeof *w);
  *w = (zg__watch){.rank = r->rank, .world = r->world, .n_lines = r->rank == 0 ? r->world : 1, .exit_after_s = exit_after_s,
                   .doing = ZG_N_COMM_KINDS};
  w->lines = zg_alloc(sizeof *w->lines * w->n_lines);
  w->left = zg_alloc(sizeof *w->left * w->world);
  for (uint32_t i = 0; i < w->n_lines; i++) {
    w->lines[i] = (line){.fd = r->fds[i], .rank = i, .doing = ZG_N_COMM_KINDS};
    r->fds[i] = -1;
    if (w->lines[i].fd >= 0) zg__wire_fast(w->lines[i].fd);
  }
  pthread_mutex_init(&w->lock, NULL);
  w->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (w->wake < 0 || pthread_create(&w->thread, NULL, watch_main, w)) {
    const int error = errno;
    if (w->wake >= 0) close(w->wake);
    for (uint32_t i = 0; i < w->n_lines; i++) zg__wire_close(w->lines[i].fd);
    zg_free((void *)w->left);
    zg_free(w->lines);
    zg_free(w);
    return zg_error(ZG_IO, "the system gives no thread to watch the ranks: %s", strerror(error));
  }
  *out = w;
  return NULL;
}

static void wake(zg__watch *w) {
  const uint64_t one = 1;
  (void)!write(w->wake, &one, sizeof one);
}

void zg__watch_free(zg__watch *w) {
  if (!w) return;
  atomic_store(&w->stop, true);
  wake(w);
  pthread_join(w->thread, NULL);
  for (uint32_t i = 0; i < w->n_lines; i++) zg__wire_close(w->lines[i].fd);
  close(w->wake);
  pthread_mutex_destroy(&w->lock);
  zg_free((void *)w->left);
  zg_free(w->lines);
  zg_free(w);
}

void zg__watch_abort(zg__watch *w, const char *why) {
  char text[496];
  snprintf(text, sizeof text, "rank %u failed: %.440s", w->rank, why);
  set_failed(w, text);
  wake(w);
}

zg_status zg__watch_status(zg__watch *w) { return atomic_load(&w->failed) ? zg_error(ZG_CANCELLED, "%s", w->why) : NULL; }

bool zg__watch_left(const zg__watch *w, uint32_t rank) { return atomic_load(&w->left[rank]); }

void zg__watch_doing(zg__watch *w, uint32_t n_collectives, zg_comm_kind kind) {
  atomic_store_explicit(&w->n_collectives, n_collectives, memory_order_relaxed);
  atomic_store_explicit(&w->doing, (uint32_t)kind, memory_order_relaxed);
}
