#include "exec/wire.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static zg_status resolve(const char *addr, uint16_t port, struct addrinfo **out) {
  char text[16];
  const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
  snprintf(text, sizeof text, "%u", port);
  const int rc = getaddrinfo(addr, text, &hints, out);
  if (rc) return zg_error(ZG_INVALID, "address \"%s\": %s", addr, gai_strerror(rc));
  return NULL;
}

static uint16_t port_of(int fd) {
  struct sockaddr_storage a;
  socklen_t n = sizeof a;
  if (getsockname(fd, (struct sockaddr *)&a, &n)) return 0;
  return ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&a)->sin6_port : ((struct sockaddr_in *)&a)->sin_port);
}

zg_status zg__wire_listen(const char *addr, uint16_t port, int *out_fd, uint16_t *out_port) {
  struct addrinfo *list;
  int error = 0;
  ZG_TRY(resolve(addr, port, &list));
  *out_fd = -1;
  for (struct addrinfo *a = list; a && *out_fd < 0; a = a->ai_next) {
    const int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0) {
      error = errno;
      continue;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, a->ai_addr, a->ai_addrlen) || listen(fd, 1024)) {
      error = errno;
      close(fd);
    } else {
      *out_fd = fd;
    }
  }
  freeaddrinfo(list);
  if (*out_fd >= 0) {
    *out_port = port_of(*out_fd);
    return NULL;
  }
  if (error == EADDRINUSE)
    return zg_error(ZG_INVALID, "port %u at %s is in use: set main_process_port to a free one (0 finds one, on one machine)", port, addr);
  if (error == EADDRNOTAVAIL)
    return zg_error(ZG_INVALID, "%s is not an address of this machine: rank 0 must run on it; check machine_rank and main_process_ip", addr);
  return zg_error(ZG_IO, "cannot listen at %s:%u: %s", addr, port, strerror(error));
}

static bool ready(int fd, short events, double timeout_s) {
  struct pollfd p = {fd, events, 0};
  const double end = zg_time_s() + timeout_s;
  for (;;) {
    const double left = end - zg_time_s();
    const int rc = poll(&p, 1, left > 0 ? (int)(left * 1e3) + 1 : 0);
    if (rc > 0) return true;
    if (rc == 0 || errno != EINTR) return false;
  }
}

zg_status zg__wire_connect(const char *addr, uint16_t port, double timeout_s, int *out_fd) {
  struct addrinfo *list;
  int error = 0;
  ZG_TRY(resolve(addr, port, &list));
  *out_fd = -1;
  for (struct addrinfo *a = list; a && *out_fd < 0; a = a->ai_next) {
    const int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    socklen_t n = sizeof error;
    if (fd < 0) continue;
    error = connect(fd, a->ai_addr, a->ai_addrlen) ? errno : 0;
    if (error == EINPROGRESS) {
      if (!ready(fd, POLLOUT, timeout_s)) error = ETIMEDOUT;
      else getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n);
    }
    if (error) {
      close(fd);
      continue;
    }
    fcntl(fd, F_SETFL, 0);
    *out_fd = fd;
  }
  freeaddrinfo(list);
  if (*out_fd < 0) return zg_error(ZG_NOT_FOUND, "%s:%u: %s", addr, port, strerror(error));
  return NULL;
}

static zg_status transfer(int fd, uint8_t *at, size_t n, double timeout_s, bool out) {
  const double end = zg_time_s() + timeout_s;
  while (n) {
    const ssize_t k = out ? send(fd, at, n, MSG_NOSIGNAL | MSG_DONTWAIT) : recv(fd, at, n, MSG_DONTWAIT);
    if (k > 0) {
      at += k;
      n -= (size_t)k;
      continue;
    }
    if (k == 0 || (k < 0 && (errno == ECONNRESET || errno == EPIPE))) return zg_error(ZG_CANCELLED, "the other side has closed the connection");
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return zg_error(ZG_IO, "connection: %s", strerror(errno));
    if (!ready(fd, out ? POLLOUT : POLLIN, end - zg_time_s())) return zg_error(ZG_NOT_FOUND, "no answer for %.0f s", timeout_s);
  }
  return NULL;
}

zg_status zg__wire_send(int fd, const void *bytes, size_t n, double timeout_s) { return transfer(fd, (uint8_t *)bytes, n, timeout_s, true); }
zg_status zg__wire_recv(int fd, void *bytes, size_t n, double timeout_s) { return transfer(fd, bytes, n, timeout_s, false); }

zg_status zg__wire_accept(int fd, double timeout_s, int *out_fd) {
  if (!ready(fd, POLLIN, timeout_s)) return zg_error(ZG_NOT_FOUND, "nobody has connected for %.0f s", timeout_s);
  *out_fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
  if (*out_fd < 0) return zg_error(ZG_IO, "accepting a connection: %s", strerror(errno));
  return NULL;
}

void zg__wire_peer(int fd, char *out, size_t n) {
  struct sockaddr_storage a;
  socklen_t len = sizeof a;
  out[0] = 0;
  if (getpeername(fd, (struct sockaddr *)&a, &len) || getnameinfo((struct sockaddr *)&a, len, out, (socklen_t)n, NULL, 0, NI_NUMERICHOST)) out[0] = 0;
}

void zg__wire_fast(int fd) {
  const int one = 1, size = 1 << 22;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
}

void zg__wire_close(int fd) {
  if (fd >= 0) close(fd);
}
