// Op family: convolution.
#include "graph/core.h"

const zg_family zg_family_conv = {.name = "conv"};
