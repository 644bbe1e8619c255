// Op family: DepthToSpace, GridSample and kin.
#include "graph/core.h"

const zg_family zg_family_image = {.name = "image"};
