// Op family: LSTM, GRU, RNN.
#include "graph/core.h"

const zg_family zg_family_recurrent = {.name = "recurrent"};
