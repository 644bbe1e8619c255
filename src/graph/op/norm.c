// Op family: normalisations.
#include "graph/core.h"

const zg_family zg_family_norm = {.name = "norm"};
