// Op family: scalar maps.
#include "graph/core.h"

const zg_family zg_family_map = {.name = "map"};
