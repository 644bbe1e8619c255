// Op family: pooling.
#include "graph/core.h"

const zg_family zg_family_pool = {.name = "pool"};
