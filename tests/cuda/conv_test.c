// Convolutions of ResNet-50's shapes (batch 32, 224 x 224) and of a depthwise one, forward and both gradients, in bf16, f16 and f32, images
// with their channels last and first, compile with the real NVRTC for each architecture without spilling a register.
// usage: conv_test; ZG_TEST_REPORT=1 prints a line a kernel; exit status 77: no NVRTC
#include <stdio.h>
#include <stdlib.h>

#include "cuda/compile.h"
#include "cuda/lib_nvrtc.h"

static const struct {
  int64_t channels, filters, kernel, stride, size, group;
} shapes[] = {
    {3, 64, 7, 2, 224, 1},   {64, 64, 1, 1, 56, 1},   {64, 64, 3, 1, 56, 1},    {64, 256, 1, 1, 56, 1},    {256, 128, 1, 1, 56, 1},
    {128, 128, 3, 2, 56, 1}, {256, 512, 1, 2, 56, 1}, {256, 256, 3, 1, 14, 1},  {1024, 512, 1, 1, 14, 1},  {512, 512, 3, 2, 14, 1},
    {512, 512, 3, 1, 7, 1},  {512, 2048, 1, 1, 7, 1}, {256, 256, 3, 1, 14, 32}, {96, 96, 3, 2, 28, 96},
};
static const zg_dtype types[] = {ZG_BF16, ZG_F16, ZG_F32};
static const int archs[] = {80, 90, 100, 120};
enum { N_SHAPES = ZG_COUNT(shapes), N_KINDS = 3, N_KERNELS = N_SHAPES * N_KINDS * 3 * 2 };

static zg_view view(uint32_t buf, zg_dtype t, const int64_t dim[4], bool last) {
  zg_view v = {.buf = buf, .dtype = t, .rank = 4};
  memcpy(v.dim, dim, 4 * sizeof *dim);
  const int64_t places = dim[2] * dim[3];
  v.stride[0] = dim[1] * places, v.stride[1] = last ? 1 : places, v.stride[2] = dim[3] * (last ? dim[1] : 1), v.stride[3] = last ? dim[1] : 1;
  return v;
}

typedef struct {
  zg_conv_desc desc;
  zg_view args[3];
  zg_kernel k;
  char label[96];
} conv;

static void fill(conv *c, size_t shape, int kind, zg_dtype t, bool last) {
  const int64_t n = 32, k = shapes[shape].kernel, out = (shapes[shape].size + k / 2 * 2 - k) / shapes[shape].stride + 1;
  const int64_t x[4] = {n, shapes[shape].channels, shapes[shape].size, shapes[shape].size}, y[4] = {n, shapes[shape].filters, out, out};
  const int64_t w[4] = {shapes[shape].filters, shapes[shape].channels / shapes[shape].group, k, k};
  const zg_view vx = view(1, t, x, last), vy = view(2, t, y, last), vw = view(3, t, w, false);
  const zg_view args[N_KINDS][3] = {{vy, vx, vw}, {vx, vy, vw}, {vw, vx, vy}};
  c->desc = (zg_conv_desc){.spatial = 2, .group = shapes[shape].group};
  for (int d = 0; d < 2; d++) {
    c->desc.stride[d] = shapes[shape].stride, c->desc.dilation[d] = 1;
    c->desc.pad_begin[d] = c->desc.pad_end[d] = k / 2;
  }
  memcpy(c->args, args[kind], sizeof c->args);
  snprintf(c->label, sizeof c->label, "%s %s%s %lld>%lld k%lld s%lld %lldx%lld g%lld", zg_kernel_info_of(ZG_K_CONV + (zg_kernel_kind)kind)->name,
           zg_dtype_name(t), last ? ", channels last," : "", (long long)x[1], (long long)y[1], (long long)k, (long long)shapes[shape].stride,
           (long long)x[2], (long long)x[2], (long long)shapes[shape].group);
  c->k = (zg_kernel){.kind = ZG_K_CONV + (zg_kernel_kind)kind, .desc = &c->desc, .args = c->args, .n_args = 3, .n_out = 1, .label = c->label};
}

static const char *label_of(const conv *convs, const zg__code *codes, const char *name) {
  for (size_t i = 0; i < N_KERNELS; i++)
    for (size_t l = 0; l < codes[i].launches.n; l++)
      if (!strcmp(codes[i].launches.at[l].name, name)) return convs[i].label;
  return "?";
}

static int compile_for(const conv *convs, const zg__code *codes, int arch) {
  zg__binary b;
  int spilling = 0, most = 0;
  zg_status s = zg__compile(codes, N_KERNELS, arch, "", &b);
  if (s) {
    const bool unknown = arch == 120 && zg_status_code(s) == ZG_UNSUPPORTED;
    printf("sm_%d: %s\n", arch, zg_status_message(s));
    zg_status_free(s);
    return !unknown;
  }
  for (size_t i = 0; i < b.usage.n; i++) {
    const zg__usage *u = &b.usage.at[i];
    most = ZG_MAX(most, u->registers);
    spilling += u->spill_stores || u->spill_loads;
    if (getenv("ZG_TEST_REPORT") || u->spill_stores || u->spill_loads)
      printf("sm_%d %3d registers %6d B shared %4d B spilled  %s\n", arch, u->registers, u->shared, u->spill_stores,
             label_of(convs, codes, u->name));
  }
  printf("sm_%d: %u kernels in %.2f s, at most %d registers, %d spill\n", arch, b.n_kernels, b.seconds, most, spilling);
  zg__binary_fini(&b);
  return spilling != 0;
}

int main(void) {
  static conv convs[N_KERNELS];
  static zg__code codes[N_KERNELS];
  const char *alone = getenv("ZG_TEST_ARCH");
  int bad = 0;
  size_t n = 0;
  zg_status s = zg__nvrtc_load();
  if (s) {
    fprintf(stderr, "skipped: %s\n", zg_status_message(s));
    zg_status_free(s);
    return 77;
  }
  for (size_t shape = 0; shape < N_SHAPES; shape++)
    for (int kind = 0; kind < N_KINDS; kind++)
      for (size_t t = 0; t < ZG_COUNT(types); t++)
        for (int last = 0; last < 2; last++, n++) {
          fill(&convs[n], shape, kind, types[t], last);
          s = zg__emit(&convs[n].k, &(zg__target){.sms = 132}, &codes[n]);
          if (s) return fprintf(stderr, "%s: %s\n", convs[n].label, zg_status_message(s)), zg_status_free(s), 1;
        }
  for (size_t a = 0; a < ZG_COUNT(archs); a++)
    if (!alone || atoi(alone) == archs[a]) bad |= compile_for(convs, codes, archs[a]);
  for (size_t i = 0; i < N_KERNELS; i++) zg__code_fini(&codes[i]);
  return bad;
}
