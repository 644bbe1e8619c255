// Op family: losses.
#include "graph/core.h"

const zg_family zg_family_loss = {.name = "loss"};
