// Op family: attention and rotary embedding.
#include "graph/core.h"

const zg_family zg_family_attention = {.name = "attention"};
