// Names shared by the schedule's printer and parser.
#pragma once
#include "sched/sched.h"

extern const char *const zg__step_names[ZG_N_STEP_KINDS];
extern const char *const zg__stream_names[ZG_N_STREAMS];
extern const char *const zg__space_names[ZG_N_SPACES];
extern const char *const zg__phase_names[5];
extern const char *const zg__out_names[4];
