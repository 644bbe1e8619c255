// Op family: activations made of maps.
#include "graph/core.h"

const zg_family zg_family_activation = {.name = "activation"};
