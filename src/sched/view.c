// Strided views: pure functions from views to views.
#include "sched/lower_priv.h"

zg_view zg_view_row_major(const zg_type *t, uint32_t buf) {
  zg_view v = {.buf = buf, .dtype = t->dtype, .rank = t->rank};
  memcpy(v.dim, t->dim, sizeof v.dim);
  zg_type_strides(t, v.stride);
  return v;
}

int64_t zg_view_elems(const zg_view *v) {
  int64_t n = 1;
  for (uint32_t d = 0; d < v->rank; d++) n *= v->dim[d];
  return n;
}

bool zg_view_contiguous(const zg_view *v) {
  int64_t want = 1;
  if (zg_view_elems(v) <= 1) return true;
  for (uint32_t d = v->rank; d-- > 0;) {
    if (v->dim[d] == 1) continue;
    if (v->stride[d] != want) return false;
    want *= v->dim[d];
  }
  return true;
}

zg_view zg_view_make_channels_last(const zg_type *t, uint32_t buf) {
  zg_view v = zg_view_row_major(t, buf);
  int64_t step = t->dim[1];
  for (uint32_t d = t->rank; d-- > 0;)
    if (d != 1) v.stride[d] = step, step *= t->dim[d];
  v.stride[1] = 1;
  return v;
}

bool zg_view_channels_last(const zg_view *v) {
  if (v->rank < 3 || v->rank > 5) return false;
  zg_view moved = *v;
  for (uint32_t d = 1; d + 1 < v->rank; d++) moved.dim[d] = v->dim[d + 1], moved.stride[d] = v->stride[d + 1];
  moved.dim[v->rank - 1] = v->dim[1], moved.stride[v->rank - 1] = v->stride[1];
  return zg_view_contiguous(&moved);
}

// Walks both shapes from the left, matching runs of old dims with runs of new dims of equal element count; a run of old dims
// can be regrouped when its strides nest (stride[i] == stride[i+1] * dim[i+1]). Dims of size 1 take no part.
bool zg_view_reshape(const zg_view *v, const zg_type *to, zg_view *out) {
  zg_view r = {.buf = v->buf, .dtype = v->dtype, .rank = to->rank, .offset = v->offset};
  memcpy(r.dim, to->dim, sizeof r.dim);
  if (zg_view_elems(v) == 0) {
    *out = r;
    return true;
  }
  int64_t od[ZG_MAX_RANK], os[ZG_MAX_RANK];
  uint32_t n_old = 0;
  for (uint32_t d = 0; d < v->rank; d++)
    if (v->dim[d] != 1) od[n_old] = v->dim[d], os[n_old++] = v->stride[d];
  uint32_t i = 0, j = 0;
  while (i < n_old || j < to->rank) {
    if (i == n_old) {   // only dims of size 1 are left
      r.stride[j++] = 0;
      continue;
    }
    uint32_t i1 = i + 1, j1 = j;
    int64_t a = od[i], b = 1;
    while (b < a || j1 == j) {
      if (j1 == to->rank) return false;
      b *= to->dim[j1++];
    }
    while (a != b) {
      if (a < b) {
        if (i1 == n_old) return false;
        if (os[i1 - 1] != os[i1] * od[i1]) return false;
        a *= od[i1++];
      } else {
        if (j1 == to->rank) return false;
        b *= to->dim[j1++];
      }
    }
    int64_t stride = os[i1 - 1];
    for (uint32_t k = j1; k-- > j;) {
      r.stride[k] = to->dim[k] == 1 ? 0 : stride;
      stride *= to->dim[k];
    }
    i = i1;
    j = j1;
  }
  *out = r;
  return true;
}

zg_view zg_view_transpose(const zg_view *v, const int64_t *perm) {
  zg_view r = *v;
  for (uint32_t d = 0; d < v->rank; d++) r.dim[d] = v->dim[perm[d]], r.stride[d] = v->stride[perm[d]];
  return r;
}

zg_view zg_view_expand(const zg_view *v, const zg_type *to) {
  zg_view r = *v;
  uint32_t lead = to->rank - v->rank;
  r.rank = to->rank;
  for (uint32_t d = 0; d < to->rank; d++) {
    r.dim[d] = to->dim[d];
    bool own = d >= lead && v->dim[d - lead] == to->dim[d] && to->dim[d] != 1;
    r.stride[d] = own ? v->stride[d - lead] : 0;
  }
  return r;
}

zg_view zg_view_slice(const zg_view *v, const int64_t *start, const int64_t *step, const int64_t *size) {
  zg_view r = *v;
  for (uint32_t d = 0; d < v->rank; d++) {
    if (size[d] > 0) r.offset += start[d] * v->stride[d];
    r.stride[d] = v->stride[d] * step[d];
    r.dim[d] = size[d];
  }
  return r;
}
