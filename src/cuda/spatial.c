// Window geometry as text.
#include "cuda/spatial.h"

zg__image zg__image_of(const zg_view *v) {
  int64_t places = 1;
  for (uint32_t d = 2; d < v->rank; d++) places *= v->dim[d];
  if (zg_view_contiguous(v)) return (zg__image){v->dim[1] * places, places, 1};
  return (zg__image){v->dim[1] * places, 1, v->dim[1]};
}

// "p / 12ll % 4ll": coordinate d of flat place p.
static void put_coord(zg_str *out, const char *p, const int64_t dim[3], int d) {
  int64_t block = 1;
  for (int i = d + 1; i < 3; i++) block *= dim[i];
  zg_str_add(out, "%s", p);
  if (block > 1) zg_str_add(out, " / %lldll", (long long)block);
  if (d > 0) zg_str_add(out, " %% %lldll", (long long)dim[d]);
}

void zg__spatial_put_tap(const zg_spatial *s, zg_str *out, const char *p, const char *q) {
  for (int d = 0; d < 3; d++) {
    zg_str_add(out, "const zg_i64 x%d = ", d);
    put_coord(out, p, s->out, d);
    zg_str_add(out, " * %lldll - %lldll + ", (long long)s->stride[d], (long long)s->pad[d]);
    put_coord(out, q, s->ker, d);
    zg_str_add(out, " * %lldll;\n", (long long)s->dil[d]);
  }
  zg_str_add(
      out, "const int inside = x0 >= 0 && x0 < %lldll && x1 >= 0 && x1 < %lldll && x2 >= 0 && x2 < %lldll;\n",
      (long long)s->in[0], (long long)s->in[1], (long long)s->in[2]);
  zg_str_add(out, "const zg_i64 tap = (x0 * %lldll + x1) * %lldll + x2;\n", (long long)s->in[1],
             (long long)s->in[2]);
}

void zg__spatial_put_window(const zg_spatial *s, zg_str *out, const char *t, const char *q) {
  for (int d = 0; d < 3; d++) {
    zg_str_add(out, "const zg_i64 y%d = ", d);
    put_coord(out, t, s->in, d);
    zg_str_add(out, " + %lldll - ", (long long)s->pad[d]);
    put_coord(out, q, s->ker, d);
    zg_str_add(out, " * %lldll;\n", (long long)s->dil[d]);
  }
  zg_str_add(out, "const int inside = ");
  for (int d = 0; d < 3; d++)
    zg_str_add(out, "%sy%d >= 0 && y%d %% %lldll == 0 && y%d < %lldll", d ? " && " : "", d, d,
               (long long)s->stride[d], d, (long long)(s->out[d] * s->stride[d]));
  zg_str_add(out, ";\nconst zg_i64 win = (y0 / %lldll * %lldll + y1 / %lldll) * %lldll + y2 / %lldll;\n",
             (long long)s->stride[0], (long long)s->out[1], (long long)s->stride[1], (long long)s->out[2],
             (long long)s->stride[2]);
}

void zg__spatial_put_element(zg_str *out, const zg__image *i, int64_t channels, int64_t places) {
  const long long c = ZG_MAX(channels, 1), p = ZG_MAX(places, 1);
  zg_str_add(out, "const zg_i64 n = e / %lldll;\nconst int ", c * p);
  if (i->channel == 1) zg_str_add(out, "channel = (int)(e %% %lldll), place = (int)(e / %lldll %% %lldll);\n", c, c, p);
  else zg_str_add(out, "channel = (int)(e / %lldll %% %lldll), place = (int)(e %% %lldll);\n", p, c, p);
}
