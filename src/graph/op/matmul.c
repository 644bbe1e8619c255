// Op family: MatMul, Gemm and kin.
#include "graph/core.h"

const zg_family zg_family_matmul = {.name = "matmul"};
