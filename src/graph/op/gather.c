// Op family: gather and scatter.
#include "graph/core.h"

const zg_family zg_family_gather = {.name = "gather"};
