// Op family: reshape, transpose, expand, slice, unslice, concat and the ONNX ops made of them.
#include "graph/core.h"

const zg_family zg_family_view = {.name = "view"};
