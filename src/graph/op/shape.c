// Op family: shape arithmetic: ONNX ops whose results are constants once dims are bound.
#include "graph/core.h"

const zg_family zg_family_shape = {.name = "shape"};
