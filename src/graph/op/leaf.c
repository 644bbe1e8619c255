// Op family: leaves and generators.
#include "graph/core.h"

const zg_family zg_family_leaf = {.name = "leaf"};
