// Geometry of convolution and pooling windows as text.
#pragma once
#include "cuda/emit.h"
#include "sched/spatial.h"

// Declares `tap`, the flat input place under output place p and kernel place q (names of variables), and
// `inside`: it is no padding.
void zg__spatial_put_tap(const zg_spatial *s, zg_str *out, const char *p, const char *q);
// Declares `win`, the flat output place whose kernel place q lies on input place t, and `inside`: there is
// one.
void zg__spatial_put_window(const zg_spatial *s, zg_str *out, const char *t, const char *q);
