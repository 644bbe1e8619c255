// Sockets of the ranks among themselves. Numbers travel in the machine's byte order: the first word of every greeting tells whether
// both sides have the same.
#pragma once
#include "base/base.h"

// Listens at addr:port (port 0: any). ZG_INVALID names the port that is taken, or the address that is not this machine's.
zg_status zg__wire_listen(const char *addr, uint16_t port, int *out_fd, uint16_t *out_port);
// One attempt. ZG_NOT_FOUND: nobody listens there (yet).
zg_status zg__wire_connect(const char *addr, uint16_t port, double timeout_s, int *out_fd);
// Whole messages, or a failure: ZG_IO, ZG_CANCELLED where the other side has closed, ZG_NOT_FOUND where time is up.
zg_status zg__wire_send(int fd, const void *bytes, size_t n, double timeout_s);
zg_status zg__wire_recv(int fd, void *bytes, size_t n, double timeout_s);
// Waits for a connection and takes it. ZG_NOT_FOUND where time is up.
zg_status zg__wire_accept(int fd, double timeout_s, int *out_fd);
void zg__wire_peer(int fd, char *out, size_t n);        // address of the other side, "10.0.0.2"
void zg__wire_fast(int fd);                              // no delay for small messages, large buffers
void zg__wire_close(int fd);                             // -1 ok
