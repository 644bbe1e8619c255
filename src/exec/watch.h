// The watch over the ranks: one thread per process that hears from the others and tells when one has failed, died, stopped or left.
// It lives on the connections of the rendezvous, a star around rank 0, which passes news on. A process that dies closes its
// connection at once; one that is stopped or cut off says nothing for SILENCE_S.
#pragma once
#include "exec/rendezvous.h"

typedef struct zg__watch zg__watch;
// Takes over the roster's sockets. exit_after_s > 0: ends the process with status 1 if it still runs that long after a failure.
zg_status zg__watch_new(zg__roster *r, double exit_after_s, zg__watch **out);
// Says goodbye (or passes on a failure), ends the thread. NULL ok.
void zg__watch_free(zg__watch *w);
// This rank fails; the others learn why. Thread-safe; only the first failure of the run counts.
void zg__watch_abort(zg__watch *w, const char *why);
// NULL while all is well; else a status that tells what has happened (ZG_CANCELLED). Cheap.
zg_status zg__watch_status(zg__watch *w);
bool zg__watch_left(const zg__watch *w, uint32_t rank);   // it has ended its run, without a failure
// What this rank is doing, told to the others with each sign of life.
void zg__watch_doing(zg__watch *w, uint32_t n_collectives, zg_comm_kind kind);
