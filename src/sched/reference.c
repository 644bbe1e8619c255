// Plain executors of all kernel kinds but loops (loop_reference.c). Each reads like its definition.
#include "sched/reference.h"
#include <math.h>
#include "graph/core.h"

typedef struct { const zg_kernel *k; void *const *base; } ref;

static double get(const ref *r, uint32_t arg, int64_t i) {
  const zg_view *v = &r->k->args[arg];
  return zg_get_f64(v->dtype, r->base[v->buf], v->offset + i);
}

static void set(const ref *r, uint32_t arg, int64_t i, double x) {
  const zg_view *v = &r->k->args[arg];
  zg_set_f64(v->dtype, r->base[v->buf], v->offset + i, x);
}

static int64_t get_int(const ref *r, uint32_t arg, int64_t i) {
  const zg_view *v = &r->k->args[arg];
  return zg_get_i64(v->dtype, r->base[v->buf], v->offset + i);
}

static bool is_float(const ref *r, uint32_t arg) { return zg_dtype_is_float(r->k->args[arg].dtype); }

// Copies one element without changing it, whatever its class.
static void move(const ref *r, uint32_t to, int64_t i, uint32_t from, int64_t j) {
  if (is_float(r, from)) set(r, to, i, get(r, from, j));
  else zg_set_i64(r->k->args[to].dtype, r->base[r->k->args[to].buf], r->k->args[to].offset + i, get_int(r, from, j));
}

static int64_t product(const int64_t *dim, uint32_t from, uint32_t to) {
  int64_t n = 1;
  for (uint32_t i = from; i < to; i++) n *= dim[i];
  return n;
}

// ---- matmul -------------------------------------------------------------------------------------------------------
static double epilogue(int64_t e, double x) {
  switch ((zg_epilogue)e) {
    case ZG_EPI_NONE:
    case ZG_EPI_BIAS: return x;
    case ZG_EPI_BIAS_GELU: return zg_scalar_f64(ZG_S_GELU, x, 0, 0);
    case ZG_EPI_BIAS_GELU_TANH: return zg_scalar_f64(ZG_S_GELU_TANH, x, 0, 0);
    case ZG_EPI_BIAS_RELU: return zg_scalar_f64(ZG_S_RELU, x, 0, 0);
  }
  return x;
}

// Element offset of batch b at (i, j) of a view, without the view's own offset.
static int64_t at_batch(const zg_view *v, const int64_t *dim, int64_t b, int64_t i, int64_t j) {
  const uint32_t rank = v->rank;
  int64_t at = i * v->stride[rank - 2] + j * v->stride[rank - 1];
  for (uint32_t k = rank - 2; k-- > 0;) at += b % dim[k] * v->stride[k], b /= dim[k];
  return at;
}

static void matmul(const ref *r) {
  const zg_matmul_desc *d = r->k->desc;
  const zg_view *c = &r->k->args[0], *a = &r->k->args[1], *b = &r->k->args[2];
  const int64_t batch = product(c->dim, 0, c->rank - 2);
  for (int64_t n = 0; n < batch; n++)
    for (int64_t i = 0; i < d->m; i++)
      for (int64_t j = 0; j < d->n; j++) {
        const int64_t at = at_batch(c, c->dim, n, i, j);
        if (!is_float(r, 0)) {
          uint64_t sum = 0;
          for (int64_t k = 0; k < d->k; k++)
            sum += (uint64_t)get_int(r, 1, at_batch(a, c->dim, n, i, k)) * (uint64_t)get_int(r, 2, at_batch(b, c->dim, n, k, j));
          zg_set_i64(c->dtype, r->base[c->buf], c->offset + at, (int64_t)sum);
          continue;
        }
        double sum = 0;
        for (int64_t k = 0; k < d->k; k++) sum += get(r, 1, at_batch(a, c->dim, n, i, k)) * get(r, 2, at_batch(b, c->dim, n, k, j));
        sum = d->alpha * sum + (d->beta != 0 ? d->beta * get(r, 0, at) : 0);
        if (r->k->n_args > 3) sum += get(r, 3, j * r->k->args[3].stride[r->k->args[3].rank - 1]);
        set(r, 0, at, epilogue(d->epilogue, sum));
      }
}

// ---- conv, pool: spatial dims padded with ones in front to three ----------------------------------------------------------
typedef struct { int64_t in[3], out[3], ker[3], stride[3], pad[3], pad_end[3], dil[3]; } spatial;

static spatial spatial_of(int64_t n, const int64_t *in, const int64_t *out, const int64_t *ker, const int64_t *stride,
                          const int64_t *pad, const int64_t *pad_end, const int64_t *dil) {
  spatial s;
  for (int64_t i = 0; i < 3; i++) {
    const int64_t j = i - (3 - n);
    s.in[i] = j < 0 ? 1 : in[j];
    s.out[i] = j < 0 ? 1 : out[j];
    s.ker[i] = j < 0 ? 1 : ker[j];
    s.stride[i] = j < 0 ? 1 : stride[j];
    s.pad[i] = j < 0 ? 0 : pad[j];
    s.pad_end[i] = j < 0 ? 0 : pad_end[j];
    s.dil[i] = j < 0 ? 1 : dil[j];
  }
  return s;
}

// Flat input place under output place o and kernel place k, or -1 in the padding. *inside_pad: within the declared padding.
static int64_t tap(const spatial *s, int64_t o, int64_t k, bool *inside_pad) {
  int64_t at = 0, ob = s->out[0] * s->out[1] * s->out[2], kb = s->ker[0] * s->ker[1] * s->ker[2];
  bool inside = true, padded = true;
  for (int i = 0; i < 3; i++) {
    ob /= s->out[i], kb /= s->ker[i];
    const int64_t x = o / ob % s->out[i] * s->stride[i] - s->pad[i] + k / kb % s->ker[i] * s->dil[i];
    inside &= x >= 0 && x < s->in[i];
    padded &= x >= -s->pad[i] && x < s->in[i] + s->pad_end[i];
    at = at * s->in[i] + x;
  }
  if (inside_pad) *inside_pad = padded;
  return inside ? at : -1;
}

static int64_t volume(const int64_t *d) { return d[0] * d[1] * d[2]; }

typedef enum { CONV, CONV_GRAD_X, CONV_GRAD_W } conv_way;

// One loop nest for the three: y[n,o,s] += x[n,c,t] * w[o,c',k] wherever kernel place k of output place s is input place t.
static void conv(const ref *r, conv_way way) {
  const zg_conv_desc *d = r->k->desc;
  const uint32_t iy = way == CONV ? 0 : way == CONV_GRAD_X ? 1 : 2, ix = way == CONV_GRAD_X ? 0 : 1, iw = way == CONV_GRAD_W ? 0 : 2;
  const zg_view *y = &r->k->args[iy], *x = &r->k->args[ix], *w = &r->k->args[iw];
  const spatial s = spatial_of(d->spatial, x->dim + 2, y->dim + 2, w->dim + 2, d->stride, d->pad_begin, d->pad_end, d->dilation);
  const int64_t N = x->dim[0], C = x->dim[1], O = w->dim[0], CG = w->dim[1], OG = O / ZG_MAX(d->group, 1);
  const int64_t vi = volume(s.in), vo = volume(s.out), vk = volume(s.ker);
  const int64_t n_res = zg_view_elems(&r->k->args[0]);
  double *acc = zg_alloc(sizeof(double) * (size_t)(n_res + 1));
  for (int64_t n = 0; n < N; n++)
    for (int64_t o = 0; o < O; o++)
      for (int64_t p = 0; p < vo; p++)
        for (int64_t c = 0; c < CG; c++)
          for (int64_t k = 0; k < vk; k++) {
            const int64_t t = tap(&s, p, k, NULL);
            if (t < 0) continue;
            const int64_t ay = (n * O + o) * vo + p, ax = (n * C + o / OG * CG + c) * vi + t, aw = (o * CG + c) * vk + k;
            if (way == CONV) acc[ay] += get(r, ix, ax) * get(r, iw, aw);
            else if (way == CONV_GRAD_X) acc[ax] += get(r, iy, ay) * get(r, iw, aw);
            else acc[aw] += get(r, ix, ax) * get(r, iy, ay);
          }
  for (int64_t i = 0; i < n_res; i++) set(r, 0, i, acc[i] + (way == CONV && r->k->n_args > 3 ? get(r, 3, i / vo % O) : 0));
  zg_free(acc);
}

// The first of the largest elements of a window (a NaN counts as largest), or -1.
static int64_t window_max(const ref *r, const spatial *s, uint32_t x, int64_t plane, int64_t o) {
  int64_t best = -1;
  for (int64_t k = 0; k < volume(s->ker); k++) {
    const int64_t t = tap(s, o, k, NULL);
    if (t < 0) continue;
    const double v = get(r, x, plane + t);
    if (best < 0) best = t;
    else if (!isnan(get(r, x, plane + best)) && (v > get(r, x, plane + best) || isnan(v))) best = t;
  }
  return best;
}

static int64_t window_count(const spatial *s, int64_t kind, int64_t o) {
  int64_t n = 0;
  for (int64_t k = 0; k < volume(s->ker); k++) {
    bool padded;
    const bool inside = tap(s, o, k, &padded) >= 0;
    n += kind == ZG_POOL_AVG_PAD ? padded : inside;
  }
  return ZG_MAX(n, 1);
}

static void pool(const ref *r) {
  const zg_pool_desc *d = r->k->desc;
  const zg_view *y = &r->k->args[0], *x = &r->k->args[1];
  const spatial s = spatial_of(d->spatial, x->dim + 2, y->dim + 2, d->kernel, d->stride, d->pad_begin, d->pad_end, d->dilation);
  const int64_t planes = x->dim[0] * x->dim[1], vi = volume(s.in), vo = volume(s.out);
  for (int64_t p = 0; p < planes; p++)
    for (int64_t o = 0; o < vo; o++) {
      if (d->kind == ZG_POOL_MAX) {
        const int64_t t = window_max(r, &s, 1, p * vi, o);
        set(r, 0, p * vo + o, t < 0 ? -INFINITY : get(r, 1, p * vi + t));
        continue;
      }
      double sum = 0;
      for (int64_t k = 0; k < volume(s.ker); k++) {
        const int64_t t = tap(&s, o, k, NULL);
        if (t >= 0) sum += get(r, 1, p * vi + t);
      }
      set(r, 0, p * vo + o, sum / (double)window_count(&s, d->kind, o));
    }
}

static void pool_grad(const ref *r) {
  const zg_pool_desc *d = r->k->desc;
  const zg_view *x = &r->k->args[1], *dy = &r->k->args[2];
  const spatial s = spatial_of(d->spatial, x->dim + 2, dy->dim + 2, d->kernel, d->stride, d->pad_begin, d->pad_end, d->dilation);
  const int64_t planes = x->dim[0] * x->dim[1], vi = volume(s.in), vo = volume(s.out);
  double *acc = zg_alloc(sizeof(double) * (size_t)(planes * vi + 1));
  for (int64_t p = 0; p < planes; p++)
    for (int64_t o = 0; o < vo; o++) {
      const double g = get(r, 2, p * vo + o);
      if (d->kind == ZG_POOL_MAX) {
        const int64_t t = window_max(r, &s, 1, p * vi, o);
        if (t >= 0) acc[p * vi + t] += g;
        continue;
      }
      for (int64_t k = 0; k < volume(s.ker); k++) {
        const int64_t t = tap(&s, o, k, NULL);
        if (t >= 0) acc[p * vi + t] += g / (double)window_count(&s, d->kind, o);
      }
    }
  for (int64_t i = 0; i < planes * vi; i++) set(r, 0, i, acc[i]);
  zg_free(acc);
}

// ---- gather, scatter --------------------------------------------------------------------------------------------------
zg_gather_plan zg_gather_make_plan(const zg_gather_desc *d, const zg_view *data, const zg_view *idx) {
  zg_gather_plan p = {0};
  if (d->mode == ZG_IDX_ND) {
    const uint32_t b = (uint32_t)d->batch, n = idx->rank ? (uint32_t)idx->dim[idx->rank - 1] : 1;
    p.batch = product(idx->dim, 0, b);
    p.n_idx = product(idx->dim, b, idx->rank - 1);
    p.n_coord = n;
    p.inner = product(data->dim, b + n, data->rank);
    p.span = product(data->dim, b, data->rank);
    for (uint32_t c = 0; c < n; c++) {
      p.limit[c] = data->dim[b + c];
      p.stride[c] = product(data->dim, b + c + 1, data->rank);
    }
    return p;
  }
  const uint32_t axis = (uint32_t)d->axis;
  p.batch = product(data->dim, 0, axis);
  p.n_idx = zg_view_elems(idx);
  p.inner = product(data->dim, axis + 1, data->rank);
  p.n_coord = 1;
  p.limit[0] = data->dim[axis];
  p.stride[0] = p.inner;
  p.span = data->dim[axis] * p.inner;
  return p;
}

int64_t zg_gather_elements_at(const zg_gather_desc *d, const zg_view *data, const zg_view *idx, int64_t p) {
  int64_t at = 0, stride = 1;
  for (uint32_t k = data->rank; k-- > 0;) {
    if ((int64_t)k != d->axis) at += p % idx->dim[k] * stride;
    p /= idx->dim[k];
    stride *= data->dim[k];
  }
  return at;
}

static zg_status bad_index(const zg_kernel *k, int64_t i, int64_t limit) {
  return zg_error(ZG_INVALID, "%s: index %lld is out of range for a dimension of %lld", k->label, (long long)i, (long long)limit);
}

static double combine(int64_t red, double a, double b) {
  switch ((zg_scatter_red)red) {
    case ZG_SCATTER_SET: return b;
    case ZG_SCATTER_ADD: return a + b;
    case ZG_SCATTER_MUL: return a * b;
    case ZG_SCATTER_MAX: return b > a || isnan(b) ? b : a;
    case ZG_SCATTER_MIN: return b < a || isnan(b) ? b : a;
  }
  return b;
}

static int64_t combine_int(int64_t red, int64_t a, int64_t b) {
  switch ((zg_scatter_red)red) {
    case ZG_SCATTER_SET: return b;
    case ZG_SCATTER_ADD: return (int64_t)((uint64_t)a + (uint64_t)b);
    case ZG_SCATTER_MUL: return (int64_t)((uint64_t)a * (uint64_t)b);
    case ZG_SCATTER_MAX: return ZG_MAX(a, b);
    case ZG_SCATTER_MIN: return ZG_MIN(a, b);
  }
  return b;
}

// Element `at` of the data against element `p` of the indexed side: out[p] = x[at], or out[at] = red(out[at], updates[p]).
static void touch(const ref *r, bool scatter, int64_t red, int64_t at, int64_t p) {
  if (!scatter) {
    move(r, 0, p, 1, at);
  } else if (is_float(r, 0)) {
    set(r, 0, at, combine(red, get(r, 0, at), get(r, 2, p)));
  } else {
    const zg_view *v = &r->k->args[0];
    zg_set_i64(v->dtype, r->base[v->buf], v->offset + at, combine_int(red, get_int(r, 0, at), get_int(r, 2, p)));
  }
}

static zg_status gather_elements(const ref *r, bool scatter, const zg_view *data, uint32_t idx_arg) {
  const zg_gather_desc *d = r->k->desc;
  const zg_view *idx = &r->k->args[idx_arg];
  const int64_t limit = data->dim[d->axis], stride = product(data->dim, (uint32_t)d->axis + 1, data->rank);
  for (int64_t p = 0; p < zg_view_elems(idx); p++) {
    const int64_t raw = get_int(r, idx_arg, p), i = raw < 0 ? raw + limit : raw;
    if (i < 0 || i >= limit) return bad_index(r->k, raw, limit);
    touch(r, scatter, d->red, zg_gather_elements_at(d, data, idx, p) + i * stride, p);
  }
  return NULL;
}

static zg_status gather(const ref *r, bool scatter) {
  const zg_gather_desc *d = r->k->desc;
  const zg_view *data = &r->k->args[scatter ? 0 : 1];
  const uint32_t idx_arg = scatter ? 1 : 2;
  if (d->mode == ZG_IDX_ELEMENTS) return gather_elements(r, scatter, data, idx_arg);
  const zg_gather_plan g = zg_gather_make_plan(d, data, &r->k->args[idx_arg]);
  for (int64_t b = 0; b < g.batch; b++)
    for (int64_t n = 0; n < g.n_idx; n++) {
      int64_t at = b * g.span;
      for (int64_t c = 0; c < g.n_coord; c++) {
        const int64_t raw = get_int(r, idx_arg, ((d->mode == ZG_IDX_ND ? b * g.n_idx : 0) + n) * g.n_coord + c);
        const int64_t i = raw < 0 ? raw + g.limit[c] : raw;
        if (i < 0 || i >= g.limit[c]) return bad_index(r->k, raw, g.limit[c]);
        at += i * g.stride[c];
      }
      for (int64_t e = 0; e < g.inner; e++) touch(r, scatter, d->red, at + e, (b * g.n_idx + n) * g.inner + e);
    }
  return NULL;
}

// ---- scan, sort -------------------------------------------------------------------------------------------------------
static void scan(const ref *r) {
  const zg_scan_desc *d = r->k->desc;
  const zg_view *x = &r->k->args[1];
  const int64_t len = x->dim[d->axis], inner = product(x->dim, (uint32_t)d->axis + 1, x->rank), outer = product(x->dim, 0, (uint32_t)d->axis);
  for (int64_t o = 0; o < outer; o++)
    for (int64_t i = 0; i < inner; i++) {
      double sum = 0;
      uint64_t isum = 0;
      for (int64_t j = 0; j < len; j++) {
        const int64_t at = (o * len + (d->reverse ? len - 1 - j : j)) * inner + i;
        const double f = get(r, 1, at);
        const int64_t n = get_int(r, 1, at);
        if (!d->exclusive) sum += f, isum += (uint64_t)n;
        if (is_float(r, 0)) set(r, 0, at, sum);
        else zg_set_i64(r->k->args[0].dtype, r->base[r->k->args[0].buf], r->k->args[0].offset + at, (int64_t)isum);
        if (d->exclusive) sum += f, isum += (uint64_t)n;
      }
    }
}

// Does the element at i go before the one at j? Ties by place: the lower first, unless `last`. NaNs go first.
static bool before(const ref *r, const zg_sort_desc *d, int64_t i, int64_t j, int64_t at, int64_t inner) {
  if (!is_float(r, 2)) {
    const int64_t x = get_int(r, 2, at + i * inner), y = get_int(r, 2, at + j * inner);
    if (x != y) return d->largest ? x > y : x < y;
  } else {
    const double x = get(r, 2, at + i * inner), y = get(r, 2, at + j * inner);
    if (isnan(x) != isnan(y)) return isnan(x);
    if (x != y && !isnan(x)) return d->largest ? x > y : x < y;
  }
  return d->last ? i > j : i < j;
}

static void sort(const ref *r) {
  const zg_sort_desc *d = r->k->desc;
  const zg_view *x = &r->k->args[2];
  const int64_t len = x->dim[d->axis], inner = product(x->dim, (uint32_t)d->axis + 1, x->rank), outer = product(x->dim, 0, (uint32_t)d->axis);
  const int64_t k = d->arg ? 1 : d->k;
  for (int64_t o = 0; o < outer; o++)
    for (int64_t i = 0; i < inner; i++)
      for (int64_t e = 0; e < len; e++) {
        const int64_t at = o * len * inner + i;
        int64_t rank = 0;
        for (int64_t f = 0; f < len; f++) rank += f != e && before(r, d, f, e, at, inner);
        if (rank >= k) continue;
        const int64_t to = (o * k + rank) * inner + i;
        if (r->k->args[0].buf) move(r, 0, to, 2, at + e * inner);
        if (r->k->args[1].buf) zg_set_i64(r->k->args[1].dtype, r->base[r->k->args[1].buf], r->k->args[1].offset + to, e);
      }
}

// ---- attention, recurrent layers: the op's own evaluation, on row-major copies in double ----------------------------------------------------
static int64_t strided(const zg_view *v, int64_t i) {
  int64_t at = 0;
  for (uint32_t d = v->rank; d-- > 0; i /= v->dim[d]) at += i % v->dim[d] * v->stride[d];
  return at;
}

static zg_tensor dense(const ref *r, uint32_t arg) {
  const zg_view *v = &r->k->args[arg];
  const zg_dtype t = v->dtype == ZG_BOOL ? ZG_BOOL : ZG_F64;
  zg_tensor x = {.type = zg_type_make(t, v->rank, v->dim)};
  const int64_t n = zg_elems(&x.type);
  x.data = zg_alloc((size_t)n * 8 + 8);
  for (int64_t i = 0; i < n; i++) {
    if (t == ZG_BOOL) zg_set_i64(t, x.data, i, get_int(r, arg, strided(v, i)));
    else zg_set_f64(t, x.data, i, get(r, arg, strided(v, i)));
  }
  return x;
}

static zg_status eval_op(const ref *r, const zg_op *op, const void *attr, const zg_type *out_types) {
  const zg_kernel *k = r->k;
  const uint32_t n_in = k->n_args - k->n_out;
  zg_tensor in[8] = {{{0}, NULL}}, out[3];
  for (uint32_t i = 0; i < n_in; i++) in[i] = dense(r, k->n_out + i);
  for (uint32_t i = 0; i < k->n_out; i++) {
    out[i].type = out_types[i];
    out[i].data = zg_alloc((size_t)zg_elems(&out[i].type) * 8 + 8);
  }
  zg_eval x = {.attr = attr, .in = in, .n_in = n_in, .n_out = k->n_out, .out = out};
  zg_status s = op->eval(&x);
  for (uint32_t i = 0; i < k->n_out; i++) {
    const zg_view *v = &k->args[i];
    for (int64_t e = 0; e < zg_elems(&out[i].type) && v->buf; e++) set(r, i, strided(v, e), zg_get_f64(ZG_F64, out[i].data, e));
    zg_free(out[i].data);
  }
  for (uint32_t i = 0; i < n_in; i++) zg_free(in[i].data);
  return s;
}

static zg_status recurrent(const ref *r) {
  const zg_kernel *k = r->k;
  const zg_recurrent_desc *d = k->desc;
  const zg_recurrent_attr attr = {d->cell, d->reverse};
  const bool grad = k->kind == ZG_K_RECURRENT_GRAD;
  const zg_view *states = grad ? &k->args[4] : &k->args[0];   // hs, which is always there
  const int64_t T = states->dim[0] - 1, B = states->dim[1], H = states->dim[2], C = d->cell == ZG_CELL_LSTM ? H : 0;
  const int64_t dim[2][3][3] = {{{T + 1, B, H}, {T, B, zg_cell_saved(d->cell) * H}, {T + 1, B, C}},
                                {{T, B, zg_cell_gates(d->cell) * H}, {B, H}, {B, C}}};
  zg_type out[3];
  for (uint32_t i = 0; i < 3; i++) out[i] = zg_type_make(ZG_F64, grad && i ? 2 : 3, dim[grad][i]);
  return eval_op(r, grad ? &zg_op_recurrent_grad : &zg_op_recurrent, &attr, out);
}

// Convolutions and poolings are written for row-major arguments; images with their channels last are copied first and after.
static bool all_contiguous(const zg_kernel *k) {
  for (uint32_t i = 0; i < k->n_args; i++)
    if (k->args[i].buf && !zg_view_contiguous(&k->args[i])) return false;
  return true;
}

static zg_status on_row_major(const ref *r, zg_rand_state rand) {
  zg_view args[4];
  void *base[5] = {NULL};
  zg_kernel k = *r->k;
  ZG_ASSERT(k.n_args <= 4);
  k.args = args;
  for (uint32_t i = 0; i < k.n_args; i++) {
    const zg_view *v = &r->k->args[i];
    const zg_type t = zg_type_make(v->dtype, v->rank, v->dim);
    args[i] = (zg_view){.buf = i + 1, .dtype = v->dtype, .rank = v->rank};
    memcpy(args[i].dim, t.dim, sizeof args[i].dim);
    zg_type_strides(&t, args[i].stride);
    base[i + 1] = zg_alloc(zg_type_bytes(&t) + 8);
    for (int64_t e = 0; e < zg_elems(&t) && i >= k.n_out; e++) zg_set_f64(t.dtype, base[i + 1], e, get(r, i, strided(v, e)));
  }
  zg_status s = zg_kernel_reference(&k, base, rand);
  for (uint32_t i = 0; i < k.n_args; i++) {
    for (int64_t e = 0; !s && e < zg_view_elems(&args[i]) && i < k.n_out; e++)
      set(r, i, strided(&r->k->args[i], e), zg_get_f64(args[i].dtype, base[i + 1], e));
    zg_free(base[i + 1]);
  }
  return s;
}

static bool is_window(const zg_kernel *k) {
  return k->kind == ZG_K_CONV || k->kind == ZG_K_CONV_GRAD_X || k->kind == ZG_K_CONV_GRAD_W || k->kind == ZG_K_POOL || k->kind == ZG_K_POOL_GRAD;
}

static zg_status attention(const ref *r, const zg_op *op) {
  const zg_kernel *k = r->k;
  const zg_attention_desc *d = k->desc;
  const zg_flash_attr attr = {d->causal, d->offset, d->scale};
  const bool grad = op == &zg_op_flash_attention_grad;
  const zg_view *q = &k->args[k->n_out], *v = q + 2;
  const int64_t y[4] = {q->dim[0], q->dim[1], q->dim[2], v->dim[3]};
  zg_type out[3];
  for (uint32_t i = 0; i < k->n_out; i++) out[i] = grad ? zg_type_make(ZG_F64, 4, q[i].dim) : zg_type_make(ZG_F64, i ? 3 : 4, y);
  return eval_op(r, op, &attr, out);
}

zg_status zg_kernel_reference(const zg_kernel *k, void *const *base, zg_rand_state rand) {
  const ref r = {k, base};
  if (is_window(k) && !all_contiguous(k)) return on_row_major(&r, rand);
  switch (k->kind) {
    case ZG_K_LOOP: zg_loop_reference(k, base, rand); break;
    case ZG_K_MATMUL: matmul(&r); break;
    case ZG_K_CONV: conv(&r, CONV); break;
    case ZG_K_CONV_GRAD_X: conv(&r, CONV_GRAD_X); break;
    case ZG_K_CONV_GRAD_W: conv(&r, CONV_GRAD_W); break;
    case ZG_K_POOL: pool(&r); break;
    case ZG_K_POOL_GRAD: pool_grad(&r); break;
    case ZG_K_GATHER: return gather(&r, false);
    case ZG_K_SCATTER: return gather(&r, true);
    case ZG_K_SCAN: scan(&r); break;
    case ZG_K_SORT: sort(&r); break;
    case ZG_K_ATTENTION: return attention(&r, &zg_op_flash_attention);
    case ZG_K_ATTENTION_GRAD: return attention(&r, &zg_op_flash_attention_grad);
    case ZG_K_RECURRENT:
    case ZG_K_RECURRENT_GRAD: return recurrent(&r);
    case ZG_N_KERNELS: break;
  }
  return NULL;
}
