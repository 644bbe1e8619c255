// Op family: what fits nowhere else.
#include "graph/core.h"

const zg_family zg_family_misc = {.name = "misc"};
