// Collectives over an exchange between every two ranks (comm_mesh.c): what a transport has to give, and gets.
#pragma once
#include "exec/comm_procs.h"

// What is still to be sent to and received from a rank; nothing for this rank itself.
typedef struct { const uint8_t *out; uint8_t *in; uint64_t n_out, n_in; } zg__lane;
typedef struct zg__mesh zg__mesh;
struct zg__mesh {                                                        // first member of a transport's own struct
  zg__procs p;                                                           // p.watch may be NULL
  zg__lane *lanes;                                                       // per rank
  uint8_t *pieces;                                                       // scratch, per rank
  zg_status (*exchange)(zg__mesh *c, const zg_comm_group *g);            // runs the lanes of all members to their end
};
zg_status zg__mesh_init(zg__mesh *c, const zg__procs *p);
void zg__mesh_fini(zg__mesh *c);
zg_status zg__mesh_run(zg_comm *base, const zg_comm_op *op);             // for the vtable
