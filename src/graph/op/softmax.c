// Op family: softmax and log-softmax.
#include "graph/core.h"

const zg_family zg_family_softmax = {.name = "softmax"};
