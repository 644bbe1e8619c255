// Communication between ranks: collectives over host memory. One zg_comm per rank; back ends are ranks as threads of this process
// (comm_local.c), processes of one machine (comm_shm.c), machines (comm_tcp.c) and MPI (comm_mpi.c). All of them give the same bits:
//   - sums run over the ranks of the group in the order 0, 1, .. n-1; bf16 and f16 add up in f32 and are rounded once, at the end
//   - every rank of the group gets the same bytes
// All ranks call the same collectives in the same order, one at a time: a zg_comm is used by one thread at a time, whichever.
// A rank that fails, dies or does not answer makes the collective of every other rank return ZG_CANCELLED (or the failure found)
// with a message that names the rank.
#pragma once
#include <stdatomic.h>
#include "sched/sched.h"

typedef struct zg_comm zg_comm;
typedef enum {
  ZG_COMM_ALL_REDUCE, ZG_COMM_REDUCE_SCATTER, ZG_COMM_ALL_GATHER, ZG_COMM_BROADCAST, ZG_COMM_BARRIER, ZG_N_COMM_KINDS
} zg_comm_kind;

// One collective. Sums: f32, f64, bf16, f16, i32, i64; moving bytes: any dtype. Groups: sched.h, ZG_GROUP.
//   all_reduce      data[n] in place
//   reduce_scatter  shard[n] <- my part of the sum of data[n_full]
//   all_gather      data[n_full] <- the shards [n] of all members, in order of rank
//   broadcast       data[n] in place, from member `root` of the group
// Part i of a group of g is data[i n .. (i+1) n), cut off at n_full: n_full <= g n, so the last parts may be short or empty (a
// tensor need not divide). What a reduce_scatter leaves of the shard behind a short part becomes 0; all_gather does not read it.
// shard may be the part of data it stands for (in place); otherwise the two do not overlap.
typedef struct {
  zg_comm_kind kind;
  zg_dtype dtype;
  uint32_t group;            // 0: all ranks
  uint32_t root;
  uint64_t n, n_full;
  void *data, *shard;
  const char *what;          // buffer's name, for messages
} zg_comm_op;

typedef struct {
  const char *name;                                            // "local", "shm", "tcp", "mpi"
  zg_status (*run)(zg_comm *c, const zg_comm_op *op);          // checked already; the group has more than one member
  void (*abort)(zg_comm *c, const char *why);                  // any thread, any time, any number of times
  zg_status (*check)(zg_comm *c);                              // what zg_comm_check says; NULL: nothing is known outside of collectives
  void (*free)(zg_comm *c);
} zg_comm_vtable;

struct zg_comm {
  const zg_comm_vtable *vt;
  uint32_t rank, world;
  uint32_t local_rank, local_world;                            // among the ranks of this machine
  uint64_t calls[ZG_N_COMM_KINDS], bytes_sent[ZG_N_COMM_KINDS];
};

// Members of a group as one rank sees it: base, base + stride, .. ; `index` is that rank's own place.
typedef struct { uint32_t size, stride, index, base; } zg_comm_group;
zg_status zg_comm_group_of(const zg_comm *c, uint32_t group, zg_comm_group *out);    // ZG_INVALID: does not divide the world

// n ranks of this process, for n threads. out: n entries; each is freed by zg_comm_free (in any order), all of them.
zg_status zg_comm_local_new(uint32_t n, zg_comm **out);

// Ranks in processes of their own. All of them call this; it returns when all have come. Ranks of one machine talk through shared
// memory, ranks of several through TCP. A rank that dies, or says nothing for 6 s, fails the collectives of all others.
typedef struct {
  uint32_t rank, world;
  const char *addr;              // where rank 0 is; an address of its machine
  uint16_t port;
  uint32_t n_ports;              // try port .. port + n_ports - 1 (rank 0 takes the first free one); 0: 1
  uint64_t cookie;               // same on all ranks of the job, tells jobs apart where ports are tried
  const char *machine;           // ranks with the same text are on one machine; NULL: the host's name
  int listen_fd;                 // rank 0: a socket that listens there already (taken over); -1: none
  double start_s, collective_s;  // patience until all have come, and until a rank comes to a collective; 0: 300 and 1800
  double exit_after_s;           // ends the process if it still runs so long after another rank has failed; 0: never
  bool no_shm;                   // TCP on one machine as well
} zg_comm_options;
// ZG_INVALID: ranks that do not fit together, a port in use, an address of another machine; ZG_NOT_FOUND: ranks that did not come,
// by number.
zg_status zg_comm_connect(const zg_comm_options *o, zg_comm **out);
// For a launcher that finds its rank o->rank running elsewhere (rank 0's address is not its own): tells rank 0 at o->addr, if one is
// there, so that all ranks end with a message instead of waiting. A few seconds at most; failures are of no interest.
void zg_comm_protest(const zg_comm_options *o);

// Ranks that an MPI's launcher has started, through that MPI. flavour: "mpich" or "openmpi". rank, world: what the launcher says.
// ZG_NOT_FOUND: no module for it in this build; ZG_INVALID: launcher and MPI disagree. A process can do this once.
zg_status zg_comm_mpi_connect(const char *flavour, uint32_t rank, uint32_t world, zg_comm **out);

// Runs a collective: checks it, counts it, names it in a failure ("all_reduce of \"g0\" on rank 1 of 4: ...").
zg_status zg_comm_run(zg_comm *c, const zg_comm_op *op);
zg_status zg_comm_all_reduce(zg_comm *c, uint32_t group, zg_dtype t, void *data, uint64_t n, const char *what);
zg_status zg_comm_reduce_scatter(zg_comm *c, uint32_t group, zg_dtype t, void *shard, const void *data, uint64_t n, uint64_t n_full, const char *what);
zg_status zg_comm_all_gather(zg_comm *c, uint32_t group, zg_dtype t, void *data, const void *shard, uint64_t n, uint64_t n_full, const char *what);
zg_status zg_comm_broadcast(zg_comm *c, uint32_t group, zg_dtype t, void *data, uint64_t n, uint32_t root, const char *what);
zg_status zg_comm_barrier(zg_comm *c, const char *what);
// Tells all ranks that this one ends: their collectives, running and to come, fail with `why`. Thread-safe, idempotent.
void zg_comm_abort(zg_comm *c, const char *why);
// What is known of the other ranks without a collective, for those whose collectives are done by others (NCCL): NULL while all seems well,
// ZG_CANCELLED with the rank that failed. Cheap, any thread.
zg_status zg_comm_check(zg_comm *c);
void zg_comm_free(zg_comm *c);                                 // NULL ok

// Bytes that one rank sends, as DESIGN section 6 counts: with g members and e = elements of the whole, rounded up to a multiple of g,
// reduce_scatter and all_gather e (g-1)/g, all_reduce twice that; broadcast n at the root, 0 elsewhere counted as the mean
// n (g-1)/g rounded down; barrier 0. e is g n for the first two: padding is sent.
uint64_t zg_comm_op_bytes(zg_comm_kind kind, zg_dtype t, uint64_t n, uint32_t group_size);
uint64_t zg_comm_bytes_sent(const zg_comm *c);                 // of all kinds so far
const char *zg_comm_kind_name(zg_comm_kind k);
zg_comm_kind zg_comm_kind_of(const zg_step *s);                // of a step that is a collective

// What must be the same on every rank before step 0. Compares over all ranks; ZG_INVALID names the first rank that differs from
// rank 0, and in what. Collective.
typedef struct { uint64_t model, config, collectives; } zg_comm_identity;
zg_status zg_comm_compare(zg_comm *c, const zg_comm_identity *mine);
// Hash of the order, kinds, sizes and groups of a schedule's collectives; the same on every rank of a sound plan.
uint64_t zg_comm_sequence_hash(const zg_sched *s);
