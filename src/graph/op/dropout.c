// Op family: dropout and random tensors.
#include "graph/core.h"

const zg_family zg_family_dropout = {.name = "dropout"};
