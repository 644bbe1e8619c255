// Op family: Resize and Upsample.
#include "graph/core.h"

const zg_family zg_family_resize = {.name = "resize"};
