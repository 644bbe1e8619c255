// Time of collectives between processes of one machine: comm_bench [RANKS [MEGABYTES [tcp]]]. Rank 0 prints the best of 15 rounds and
// the median; GB/s are bytes of the buffer per second.
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include "exec/comm.h"
#include "exec/wire.h"

enum { ROUNDS = 15 };
static int by_value(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : 1; }

static zg_status measure(zg_comm *c, zg_comm_kind kind, zg_dtype t, uint64_t bytes) {
  const uint64_t size = zg_dtype_bytes(t), n = bytes / size, part = (n + c->world - 1) / c->world;
  uint8_t *data = zg_alloc(part * c->world * size), *shard = zg_alloc(part * size);
  double took[ROUNDS];
  memset(data, 0, part * c->world * size);
  memset(shard, 0, part * size);
  for (int i = -2; i < ROUNDS; i++) {
    ZG_TRY(zg_comm_barrier(c, "bench"));
    const double t0 = zg_time_s();
    if (kind == ZG_COMM_ALL_REDUCE) ZG_TRY(zg_comm_all_reduce(c, 0, t, data, n, "bench"));
    if (kind == ZG_COMM_REDUCE_SCATTER) ZG_TRY(zg_comm_reduce_scatter(c, 0, t, shard, data, part, n, "bench"));
    if (kind == ZG_COMM_ALL_GATHER) ZG_TRY(zg_comm_all_gather(c, 0, t, data, shard, part, n, "bench"));
    if (i >= 0) took[i] = zg_time_s() - t0;
  }
  qsort(took, ROUNDS, sizeof *took, by_value);
  if (c->rank == 0)
    printf("%-15s %-5s %9llu B  best %9.3f ms  median %9.3f ms  %6.2f GB/s\n", zg_comm_kind_name(kind), zg_dtype_name(t), (unsigned long long)bytes,
           took[0] * 1e3, took[ROUNDS / 2] * 1e3, (double)bytes / took[0] / 1e9);
  zg_free(data);
  zg_free(shard);
  return NULL;
}

static zg_status all(zg_comm *c, uint64_t bytes) {
  ZG_TRY(measure(c, ZG_COMM_ALL_REDUCE, ZG_F32, bytes));
  ZG_TRY(measure(c, ZG_COMM_REDUCE_SCATTER, ZG_F32, bytes));
  ZG_TRY(measure(c, ZG_COMM_ALL_GATHER, ZG_F32, bytes));
  ZG_TRY(measure(c, ZG_COMM_ALL_REDUCE, ZG_BF16, bytes / 2));
  ZG_TRY(measure(c, ZG_COMM_ALL_REDUCE, ZG_F16, bytes / 2));
  return measure(c, ZG_COMM_ALL_REDUCE, ZG_F32, 4);
}

int main(int argc, char **argv) {
  const uint32_t world = argc > 1 ? (uint32_t)atoi(argv[1]) : 2;
  const uint64_t bytes = (argc > 2 ? strtoull(argv[2], NULL, 10) : 64) * 1000000;
  zg_comm_options o = {.world = world, .addr = "127.0.0.1", .no_shm = argc > 3, .start_s = 20};
  zg_status s = zg__wire_listen(o.addr, 0, &o.listen_fd, &o.port);
  for (uint32_t r = 1; r < world && !s; r++)
    if (fork() == 0) {
      o.rank = r;
      close(o.listen_fd);
      break;
    }
  zg_comm *c = NULL;
  if (!s) s = zg_comm_connect(&o, &c);
  if (!s) s = all(c, bytes);
  if (s) fprintf(stderr, "%s\n", zg_status_message(s));
  zg_comm_free(c);
  while (o.rank == 0 && wait(NULL) > 0) {}
  return s != NULL;
}
