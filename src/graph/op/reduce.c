// Op family: reductions, cumsum, arg-reduce, top-k.
#include "graph/core.h"

const zg_family zg_family_reduce = {.name = "reduce"};
