// What the communication back ends share: sums in rank order, parts of a range, and meeting points in memory that threads or
// processes share.
#pragma once
#include "exec/comm.h"

// dst[n] <- src[0][n] + src[1][n] + .. in this order (comm.h says how it rounds). dst may be any of the sources.
void zg__comm_sum(zg_dtype t, void *dst, const void *const *src, uint32_t n_src, uint64_t n);
bool zg__comm_can_sum(zg_dtype t);

// Elements of part i of a range of n_full cut in pieces of n (comm.h): they begin at i n.
static inline uint64_t zg__part(uint64_t n, uint64_t n_full, uint64_t i) { return i * n >= n_full ? 0 : ZG_MIN(n, n_full - i * n); }
// The same for an all_reduce: pieces are whole cache lines.
static inline uint64_t zg__slice(uint64_t n, uint32_t g) { return zg_round_up((n + g - 1) / g, 64); }

// ---- meeting points -----------------------------------------------------------------------------------------------
// Every rank counts how often it has arrived. Groups cut the world in equal parts and every rank runs the same collectives, so the
// counts of all ranks mean the same meeting whatever the group is, and one counter per rank serves all groups.
typedef struct {
  _Alignas(64) _Atomic uint32_t count;
  _Atomic uint32_t sleepers;
} zg__meet;

enum { ZG_MAX_WORLD = 1024 };
// Arrives at rank `me`'s next meeting.
void zg__meet_arrive(zg__meet *me, bool shared);
// Waits until `peer` has arrived `count` times. false after about wait_ms without it: look for failures and call again.
bool zg__meet_wait(zg__meet *peer, uint32_t count, int spin, bool shared, int wait_ms);
// Rounds to spin before sleeping: none where more ranks than cores share the machine.
int zg__meet_spin(uint32_t local_world);
