// Geometry of convolution and pooling windows as text.
#pragma once
#include "cuda/emit.h"
#include "sched/spatial.h"

// Steps, in elements, from image to image, channel to channel, place to place (flat, row-major) of a view [N, C, d..] that is
// contiguous or has its channels last.
typedef struct { int64_t image, channel, place; } zg__image;
zg__image zg__image_of(const zg_view *v);

// Declares `tap`, the flat input place under output place p and kernel place q (names of variables), and
// `inside`: it is no padding.
void zg__spatial_put_tap(const zg_spatial *s, zg_str *out, const char *p, const char *q);
// Declares `win`, the flat output place whose kernel place q lies on input place t, and `inside`: there is
// one.
void zg__spatial_put_window(const zg_spatial *s, zg_str *out, const char *t, const char *q);
// Declares n, `channel` and `place` of element e, counted in the order of memory, of an image tensor.
void zg__spatial_put_element(zg_str *out, const zg__image *i, int64_t channels, int64_t places);
