// Op family: einsum.
#include "graph/core.h"

const zg_family zg_family_einsum = {.name = "einsum"};
