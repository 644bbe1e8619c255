// oneDNN: convolution, its gradients and pooling against plain loops.
#include "dnnl_util.h"
#include "graph/core.h"
#include "sched/reference.h"

enum { MAX_R = 3 };
typedef struct {
  int64_t r, x[MAX_R], y[MAX_R], kernel[MAX_R], stride[MAX_R], dilation[MAX_R], begin[MAX_R];
} window;

// Input position of tap `tap` of output `out`, both flat row-major; -1 in the padding.
static int64_t tap_at(const window *w, int64_t out, int64_t tap) {
  int64_t e = 0, scale = 1;
  for (int64_t i = w->r; i-- > 0;) {
    int64_t at = out % w->y[i] * w->stride[i] - w->begin[i] + tap % w->kernel[i] * w->dilation[i];
    out /= w->y[i], tap /= w->kernel[i];
    if (at < 0 || at >= w->x[i]) return -1;
    e += at * scale;
    scale *= w->x[i];
  }
  return e;
}

static int64_t volume(const int64_t *dim, int64_t r) {
  int64_t n = 1;
  for (int64_t i = 0; i < r; i++) n *= dim[i];
  return n;
}

// Random geometry whose windows have at least one real element and, for pooling, padding smaller than the
// kernel.
static window random_window(int64_t r, int64_t end[MAX_R], bool dilate) {
  window w = {.r = r};
  for (int64_t i = 0; i < r; i++) {
    w.kernel[i] = 1 + rnd(4);
    w.stride[i] = 1 + rnd(3);
    w.dilation[i] = dilate ? 1 + rnd(2) : 1;
    w.begin[i] = rnd(w.kernel[i]);
    end[i] = rnd(w.kernel[i]);
    int64_t range = (w.kernel[i] - 1) * w.dilation[i] + 1;
    w.x[i] = range + rnd(7);  // the last elements may be skipped by the stride
    w.y[i] = (w.x[i] + w.begin[i] + end[i] - range) / w.stride[i] + 1;
  }
  return w;
}

static float *random_floats(int64_t n) {
  float *p = zg_alloc((size_t)n * sizeof *p);
  fill(ZG_F32, p, n);
  return p;
}

static zg_view view_of(int64_t a, int64_t b, const int64_t *spatial, int64_t r) {
  int64_t dim[ZG_MAX_RANK] = {a, b};
  memcpy(dim + 2, spatial, (size_t)r * sizeof *dim);
  return dense(ZG_F32, (uint32_t)r + 2, dim);
}

static void compare(const char *what, const float *got, const double *want, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    ck_assert_msg(close_to((double)got[i], want[i], 3e-5), "%s: element %ld is %g, want %g", what, (long)i,
                  (double)got[i], want[i]);
}

static void run_f32(const char *what, const zg_kernel *k, float *const *args, const double *want, int64_t n,
                    int threads) {
  float *reset = zg_alloc((size_t)n * sizeof *reset);
  memcpy(reset, args[0], (size_t)n * sizeof *reset);
  ck_assert_msg(run_kernel(k, threads, (void *const *)args, reset, (size_t)n * sizeof *reset),
                "%s: not taken", what);
  compare(what, args[0], want, n);
  zg_free(reset);
}

// The same memory with its channels last, and the view that says so.
static float *channels_last(const float *from, zg_view *v) {
  const int64_t N = v->dim[0], C = v->dim[1], S = volume(v->dim + 2, (int64_t)v->rank - 2);
  float *to = zg_alloc((size_t)(N * C * S) * sizeof *to + 4);
  for (int64_t n = 0; n < N; n++)
    for (int64_t c = 0; c < C; c++)
      for (int64_t s = 0; s < S; s++) to[(n * S + s) * C + c] = from[(n * C + c) * S + s];
  int64_t step = C;
  v->stride[1] = 1;
  for (uint32_t d = v->rank; d-- > 0;) {
    if (d == 1) continue;
    v->stride[d] = step;
    step *= v->dim[d];
  }
  ck_assert(zg_view_channels_last(v));
  return to;
}

static void first_again(const float *from, const zg_view *v, float *to) {
  const int64_t N = v->dim[0], C = v->dim[1], S = volume(v->dim + 2, (int64_t)v->rank - 2);
  for (int64_t n = 0; n < N; n++)
    for (int64_t c = 0; c < C; c++)
      for (int64_t s = 0; s < S; s++) to[(n * C + c) * S + s] = from[(n * S + s) * C + c];
}

// The same kernel with the arguments of `images` in that layout: by the library, if it takes it, and by the plain executor.
static void run_last(const char *what, const zg_kernel *k, uint32_t images, float *const *args, const double *want, int64_t n, int threads) {
  zg_view views[4];
  float *at[4], *row = zg_alloc((size_t)n * sizeof *row + 4);
  void *base[5] = {NULL};
  zg_kernel m = *k;
  m.args = views, m.label = what;
  for (uint32_t i = 0; i < k->n_args; i++) {
    views[i] = k->args[i];
    views[i].buf = i + 1;
    at[i] = images >> i & 1 ? channels_last(args[i], &views[i]) : args[i];
    base[i + 1] = at[i];
  }
  must(zg_kernel_info_of(m.kind)->verify(&m));
  for (int reference = 0; reference < (threads == 1 ? 2 : 1); reference++) {
    for (int64_t i = 0; i < n; i++) at[0][i] = NAN;
    if (reference) must(zg_kernel_reference(&m, base, (zg_rand_state){{0}, 0}));
    else if (!run_kernel(&m, threads, (void *const *)at, at[0], 0)) continue;
    if (images & 1) first_again(at[0], &views[0], row);
    else memcpy(row, at[0], (size_t)n * sizeof *row);
    compare(what, row, want, n);
  }
  for (uint32_t i = 0; i < k->n_args; i++)
    if (images >> i & 1) zg_free(at[i]);
  zg_free(row);
}

// ---- convolution ----------------------------------------------------------------------------------------

typedef struct {
  window w;
  int64_t n, c, o, g, xs, ys, ks;
} shape;

// Calls y += x * w for all taps: one loop nest for the three kernels; `which` picks what is summed into
// `out`.
static void conv_loops(const shape *s, int which, const float *x, const float *w, const float *y,
                       double *out) {
  int64_t cg = s->c / s->g, og = s->o / s->g;
  for (int64_t n = 0; n < s->n; n++)
    for (int64_t o = 0; o < s->o; o++)
      for (int64_t c = 0; c < cg; c++)
        for (int64_t p = 0; p < s->ys; p++)
          for (int64_t t = 0; t < s->ks; t++) {
            int64_t in = tap_at(&s->w, p, t);
            if (in < 0) continue;
            int64_t xi = (n * s->c + o / og * cg + c) * s->xs + in, wi = (o * cg + c) * s->ks + t,
                    yi = (n * s->o + o) * s->ys + p;
            if (which == 0) out[yi] += (double)x[xi] * (double)w[wi];
            else if (which == 1) out[xi] += (double)y[yi] * (double)w[wi];
            else out[wi] += (double)x[xi] * (double)y[yi];
          }
}

static void check_conv(const shape *s, const int64_t *end, int threads) {
  const window *w = &s->w;
  zg_conv_desc d = {.spatial = w->r, .group = s->g};
  memcpy(d.stride, w->stride, sizeof d.stride), memcpy(d.dilation, w->dilation, sizeof d.dilation);
  memcpy(d.pad_begin, w->begin, sizeof d.pad_begin), memcpy(d.pad_end, end, sizeof d.pad_end);
  int64_t nx = s->n * s->c * s->xs, nw = s->o * (s->c / s->g) * s->ks, ny = s->n * s->o * s->ys;
  zg_view vx = view_of(s->n, s->c, w->x, w->r), vw = view_of(s->o, s->c / s->g, w->kernel, w->r),
          vy = view_of(s->n, s->o, w->y, w->r);
  zg_view vb = dense(ZG_F32, 1, &s->o);
  float *x = random_floats(nx), *f = random_floats(nw), *y = random_floats(ny), *b = random_floats(s->o);
  float *rx = random_floats(nx), *rw = random_floats(nw), *ry = random_floats(ny);
  double *wx = zg_alloc((size_t)nx * 8), *ww = zg_alloc((size_t)nw * 8), *wy = zg_alloc((size_t)ny * 8);
  conv_loops(s, 0, x, f, y, wy), conv_loops(s, 1, x, f, y, wx), conv_loops(s, 2, x, f, y, ww);
  zg_kernel k = {.kind = ZG_K_CONV, .desc = &d, .args = (zg_view[]){vy, vx, vw, vb}, .n_args = 3, .n_out = 1};
  run_f32("conv", &k, (float *[]){ry, x, f, b}, wy, ny, threads);
  for (int64_t i = 0; i < ny; i++) wy[i] += (double)b[i / s->ys % s->o];
  k.n_args = 4;
  run_f32("conv with bias", &k, (float *[]){ry, x, f, b}, wy, ny, threads);
  run_last("conv, channels last", &k, 3, (float *[]){ry, x, f, b}, wy, ny, threads);
  run_last("conv, result's channels last", &k, 1, (float *[]){ry, x, f, b}, wy, ny, threads);
  k = (zg_kernel){
      .kind = ZG_K_CONV_GRAD_X, .desc = &d, .args = (zg_view[]){vx, vy, vw}, .n_args = 3, .n_out = 1};
  run_f32("conv grad x", &k, (float *[]){rx, y, f}, wx, nx, threads);
  run_last("conv grad x, channels last", &k, 3, (float *[]){rx, y, f}, wx, nx, threads);
  k = (zg_kernel){
      .kind = ZG_K_CONV_GRAD_W, .desc = &d, .args = (zg_view[]){vw, vx, vy}, .n_args = 3, .n_out = 1};
  run_f32("conv grad w", &k, (float *[]){rw, x, y}, ww, nw, threads);
  run_last("conv grad w, channels last", &k, 6, (float *[]){rw, x, y}, ww, nw, threads);
  run_last("conv grad w, data's channels last", &k, 2, (float *[]){rw, x, y}, ww, nw, threads);
  void *all[] = {x, f, y, b, rx, rw, ry, wx, ww, wy};
  for (size_t i = 0; i < ZG_COUNT(all); i++) zg_free(all[i]);
}

static void random_conv(int64_t r, int i) {
  static const int64_t channels[][3] = {
      // c, o, g; 16 and 32: the library's blocked layouts; 3 in: its first-layer one
      {1, 1, 1}, {3, 5, 1},  {4, 6, 2},   {16, 32, 1}, {3, 16, 1},
      {8, 8, 8}, {6, 12, 6}, {17, 15, 1}, {32, 32, 2}};
  const int64_t *c = channels[rnd((int64_t)ZG_COUNT(channels))];
  int64_t end[MAX_R] = {0};
  shape s = {.w = random_window(r, end, true), .n = 1 + rnd(3), .c = c[0], .o = c[1], .g = c[2]};
  s.xs = volume(s.w.x, r), s.ys = volume(s.w.y, r), s.ks = volume(s.w.kernel, r);
  check_conv(&s, end, 1 + i % 2);
}

START_TEST(conv_1d) {
  for (int i = 0; i < 30; i++) random_conv(1, i);
}
END_TEST
START_TEST(conv_2d) {
  for (int i = 0; i < 40; i++) random_conv(2, i);
}
END_TEST
START_TEST(conv_3d) {
  for (int i = 0; i < 12; i++) random_conv(3, i);
}
END_TEST

// ---- Winograd's algorithm: windows of 3x3 with enough work -----------------------------------------------

static float *ordinary_floats(int64_t n) {
  float *p = zg_alloc((size_t)n * sizeof *p);
  for (int64_t i = 0; i < n; i++) p[i] = (float)rnd(1000001) / 1e6f - 0.5f;
  return p;
}

// Result of one kernel, and the scratch that it took.
static uint64_t run_once(const zg_kernel *k, int threads, float *const *args) {
  zg_dnnl_op *op;
  must(zg_dnnl_prepare(k, threads, &op));
  const uint64_t n = zg_dnnl_scratch_bytes(op);
  char *scratch = aligned_alloc(64, zg_round_up(n + 1, 64));
  memset(scratch, 0xff, n);
  must(zg_dnnl_run(op, (void *const *)args, scratch));
  free(scratch);
  zg_dnnl_free(op);
  return n;
}

// Root mean square error, relative to the result's.
static double error_of(const float *got, const double *want, int64_t n) {
  double e = 0, all = 0;
  for (int64_t i = 0; i < n; i++) e += ((double)got[i] - want[i]) * ((double)got[i] - want[i]), all += want[i] * want[i];
  return sqrt(e / all);
}

// As good as the direct sums, the same bits on any number of threads, and taken where the machine has it.
static void check_winograd(const zg_kernel *k, float *const *args, const double *want, int64_t n) {
  float *out = zg_alloc((size_t)n * sizeof *out);
  setenv("ZG_WINOGRAD", "off", 1);
  const uint64_t direct_bytes = run_once(k, 2, args);
  const double direct = error_of(args[0], want, n);
  unsetenv("ZG_WINOGRAD");
  const uint64_t bytes = run_once(k, 1, args);
  ck_assert_msg(bytes != direct_bytes, "kind %d: not by Winograd's algorithm", (int)k->kind);
  const double winograd = error_of(args[0], want, n);
  ck_assert_msg(direct < 5e-7 && winograd < 1e-6, "kind %d: errors %g direct, %g", (int)k->kind, direct, winograd);
  memcpy(out, args[0], (size_t)n * sizeof *out);
  for (int threads = 2; threads <= 4; threads++) {
    run_once(k, threads, args);
    ck_assert_msg(!memcmp(out, args[0], (size_t)n * sizeof *out), "kind %d: %d threads give other bits", (int)k->kind, threads);
  }
  zg_free(out);
}

START_TEST(conv_by_winograd) {
  if (!__builtin_cpu_supports("avx512bw")) return;  // the library has it for that alone
  const shape s = {.w = {.r = 2, .x = {15, 14}, .y = {15, 14}, .kernel = {3, 3}, .stride = {1, 1}, .dilation = {1, 1}, .begin = {1, 1}},
                   .n = 2, .c = 64, .o = 64, .g = 1, .xs = 210, .ys = 210, .ks = 9};
  const int64_t nx = s.n * s.c * s.xs, nw = s.o * s.c * s.ks, ny = s.n * s.o * s.ys;
  zg_view vx = view_of(s.n, s.c, s.w.x, 2), vw = view_of(s.o, s.c, s.w.kernel, 2), vy = view_of(s.n, s.o, s.w.y, 2);
  zg_conv_desc d = {.spatial = 2, .group = 1, .stride = {1, 1}, .dilation = {1, 1}, .pad_begin = {1, 1}, .pad_end = {1, 1}};
  float *x = ordinary_floats(nx), *f = ordinary_floats(nw), *y = ordinary_floats(ny), *out = zg_alloc((size_t)(nx + nw + ny) * 4);
  double *wx = zg_alloc((size_t)nx * 8), *ww = zg_alloc((size_t)nw * 8), *wy = zg_alloc((size_t)ny * 8);
  conv_loops(&s, 0, x, f, y, wy), conv_loops(&s, 1, x, f, y, wx), conv_loops(&s, 2, x, f, y, ww);
  zg_kernel k = {.kind = ZG_K_CONV, .desc = &d, .args = (zg_view[]){vy, vx, vw}, .n_args = 3, .n_out = 1};
  check_winograd(&k, (float *[]){out, x, f}, wy, ny);
  run_last("conv by Winograd, channels last", &k, 3, (float *[]){out, x, f}, wy, ny, 2);
  k.kind = ZG_K_CONV_GRAD_X, k.args = (zg_view[]){vx, vy, vw};
  check_winograd(&k, (float *[]){out, y, f}, wx, nx);
  run_last("conv grad x by Winograd, channels last", &k, 3, (float *[]){out, y, f}, wx, nx, 2);
  k.kind = ZG_K_CONV_GRAD_W, k.args = (zg_view[]){vw, vx, vy};
  check_winograd(&k, (float *[]){out, x, y}, ww, nw);
  run_last("conv grad w by Winograd, channels last", &k, 6, (float *[]){out, x, y}, ww, nw, 2);
  void *all[] = {x, f, y, out, wx, ww, wy};
  for (size_t i = 0; i < ZG_COUNT(all); i++) zg_free(all[i]);
}
END_TEST

START_TEST(conv_of_an_empty_batch) {
  int64_t x[] = {5}, w[] = {3}, y[] = {3};
  zg_conv_desc d = {.spatial = 1, .group = 1, .stride = {1}, .dilation = {1}};
  zg_view vx = view_of(0, 2, x, 1), vw = view_of(4, 2, w, 1), vy = view_of(0, 4, y, 1);
  float nothing[1] = {7}, dw[24];
  double zero[24] = {0};
  for (int i = 0; i < 24; i++) dw[i] = 5;
  zg_kernel k = {.kind = ZG_K_CONV, .desc = &d, .args = (zg_view[]){vy, vx, vw}, .n_args = 3, .n_out = 1};
  run_f32("conv", &k, (float *[]){nothing, nothing, dw}, zero, 0, 1);
  ck_assert_float_eq(nothing[0], 7);
  k = (zg_kernel){
      .kind = ZG_K_CONV_GRAD_W, .desc = &d, .args = (zg_view[]){vw, vx, vy}, .n_args = 3, .n_out = 1};
  run_f32("conv grad w", &k, (float *[]){dw, nothing, nothing}, zero, 24, 1);
}
END_TEST

// ---- pooling --------------------------------------------------------------------------------------------

// y and dx of one channel; the maximum's gradient goes to the first of equals.
static void pool_loops(const window *w, int64_t kind, const float *x, const float *dy, double *y,
                       double *dx) {
  int64_t ys = volume(w->y, w->r), ks = volume(w->kernel, w->r);
  for (int64_t p = 0; p < ys; p++) {
    int64_t n = 0, best = -1;
    double sum = 0;
    for (int64_t t = 0; t < ks; t++) {
      int64_t at = tap_at(w, p, t);
      if (at < 0) continue;
      n++;
      sum += (double)x[at];
      if (best < 0 || x[at] > x[best]) best = at;
    }
    if (kind == ZG_POOL_MAX) {
      y[p] = (double)x[best];
      dx[best] += (double)dy[p];
      continue;
    }
    double share = 1.0 / (double)(kind == ZG_POOL_AVG ? n : ks);
    y[p] = sum * share;
    for (int64_t t = 0; t < ks; t++) {
      int64_t at = tap_at(w, p, t);
      if (at >= 0) dx[at] += (double)dy[p] * share;
    }
  }
}

static void check_pool(const window *w, const int64_t *end, int64_t kind, int64_t n, int64_t c, int threads) {
  zg_pool_desc d = {.spatial = w->r, .kind = kind};
  memcpy(d.kernel, w->kernel, sizeof d.kernel), memcpy(d.stride, w->stride, sizeof d.stride);
  memcpy(d.dilation, w->dilation, sizeof d.dilation), memcpy(d.pad_begin, w->begin, sizeof d.pad_begin);
  memcpy(d.pad_end, end, sizeof d.pad_end);
  int64_t xs = volume(w->x, w->r), ys = volume(w->y, w->r), nx = n * c * xs, ny = n * c * ys;
  zg_view vx = view_of(n, c, w->x, w->r), vy = view_of(n, c, w->y, w->r);
  float *x = random_floats(nx), *dy = random_floats(ny), *y = random_floats(ny), *dx = random_floats(nx);
  double *wy = zg_alloc((size_t)ny * 8), *wx = zg_alloc((size_t)nx * 8);
  for (int64_t i = 0; i < n * c; i++) pool_loops(w, kind, x + i * xs, dy + i * ys, wy + i * ys, wx + i * xs);
  char what[64];
  snprintf(what, sizeof what, "pool kind %d rank %d dilation %d", (int)kind, (int)w->r, (int)w->dilation[0]);
  zg_kernel k = {.kind = ZG_K_POOL, .desc = &d, .args = (zg_view[]){vy, vx}, .n_args = 2, .n_out = 1};
  run_f32(what, &k, (float *[]){y, x}, wy, ny, threads);
  run_last(what, &k, 3, (float *[]){y, x}, wy, ny, threads);
  k = (zg_kernel){
      .kind = ZG_K_POOL_GRAD, .desc = &d, .args = (zg_view[]){vx, vx, vy}, .n_args = 3, .n_out = 1};
  strcat(what, " grad");
  run_f32(what, &k, (float *[]){dx, x, dy}, wx, nx, threads);
  run_last(what, &k, 7, (float *[]){dx, x, dy}, wx, nx, threads);
  zg_free(x), zg_free(dy), zg_free(y), zg_free(dx), zg_free(wy), zg_free(wx);
}

static void many_pools(int64_t kind, bool dilate) {
  static const int64_t channels[] = {1, 3, 16, 19};
  for (int64_t r = 1; r <= 3; r++)
    for (int i = 0; i < 16; i++) {
      int64_t end[MAX_R] = {0};
      window w = random_window(r, end, dilate);
      check_pool(&w, end, kind, 1 + rnd(3), channels[rnd(4)], 1 + i % 2);
    }
}

START_TEST(pool_max) { many_pools(ZG_POOL_MAX, false), many_pools(ZG_POOL_MAX, true); }
END_TEST
START_TEST(pool_average) { many_pools(ZG_POOL_AVG, false), many_pools(ZG_POOL_AVG, true); }
END_TEST
START_TEST(pool_average_with_padding) {
  many_pools(ZG_POOL_AVG_PAD, false), many_pools(ZG_POOL_AVG_PAD, true);
}
END_TEST

int main(void) {
  Suite *s = suite_create("dnnl_conv");
  TCase *t = tcase_create("dnnl_conv");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, conv_1d);
  tcase_add_test(t, conv_2d);
  tcase_add_test(t, conv_3d);
  tcase_add_test(t, conv_by_winograd);
  tcase_add_test(t, conv_of_an_empty_batch);
  tcase_add_test(t, pool_max);
  tcase_add_test(t, pool_average);
  tcase_add_test(t, pool_average_with_padding);
  suite_add_tcase(s, t);
  return run_suite(s);
}
