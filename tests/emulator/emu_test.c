// The emulator alone: kernels, streams, graphs, and that it notices what it is there to notice.
#include "api.h"

#include <math.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static const char kernels[] =
    "extern \"C\" __global__ void add(const float *__restrict__ a, const float *b, float *c, int n) {\n"
    "  int i = blockIdx.x * blockDim.x + threadIdx.x;\n"
    "  if (i < n) c[i] = a[i] + b[i];\n"
    "}\n"
    "static __device__ __forceinline__ float warp_sum(float v) {\n"
    "  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);\n"
    "  return v;\n"
    "}\n"
    "extern \"C\" __global__ void __launch_bounds__(256) row_sum(const float *x, float *y, int n) {\n"
    "  __shared__ float part[32];\n"
    "  float v = 0;\n"
    "  for (int i = threadIdx.x; i < n; i += blockDim.x) v += x[(size_t)blockIdx.x * n + i];\n"
    "  v = warp_sum(v);\n"
    "  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;\n"
    "  __syncthreads();\n"
    "  if (threadIdx.x < 32) {\n"
    "    v = warp_sum(threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0.0f);\n"
    "    if (threadIdx.x == 0) y[blockIdx.x] = v;\n"
    "  }\n"
    "}\n"
    "extern \"C\" __global__ void neighbour(const float *x, float *y, int sync) {\n"
    "  extern __shared__ __align__(16) float s[];\n"
    "  s[threadIdx.x] = x[threadIdx.x];\n"
    "  if (sync) __syncthreads();\n"
    "  y[threadIdx.x] = threadIdx.x ? s[threadIdx.x - 1] : 0.0f;\n"
    "}\n"
    "extern \"C\" __global__ void warp(unsigned *y) {\n"
    "  unsigned l = threadIdx.x;\n"
    "  y[l] = __ballot_sync(~0u, l % 3 == 0);\n"
    "  y[32 + l] = __reduce_max_sync(~0u, l ^ 5u);\n"
    "  if (l < 16) y[64 + l] = __shfl_sync(0xffffu, l * 10, 3);\n"
    "  else y[64 + l] = __shfl_down_sync(0xffff0000u, l * 10, 2);\n"
    "  y[96 + l] = (unsigned)__shfl_up_sync(~0u, (int)l, 1, 8);\n"
    "  y[128 + l] = (unsigned)__syncthreads_count(l < 7);\n"
    "  atomicAdd(&y[160], 2u);\n"
    "}\n"
    "extern \"C\" __global__ void leaves(float *y) {\n"
    "  if (threadIdx.x >= 40) return;\n"
    "  __syncthreads();\n"
    "  y[threadIdx.x] = 1;\n"
    "}\n"
    "extern \"C\" __global__ void two_barriers(float *y) {\n"
    "  if (threadIdx.x < 32) { __syncthreads(); }\n"
    "  else { __syncthreads(); }\n"
    "  y[threadIdx.x] = 1;\n"
    "}\n"
    "extern \"C\" __global__ void split_warp(int *y) {\n"
    "  int v = (int)threadIdx.x;\n"
    "  if (threadIdx.x < 16) v = __shfl_xor_sync(~0u, v, 1);\n"
    "  else v = __shfl_xor_sync(~0u, v, 2);\n"
    "  y[threadIdx.x] = v;\n"
    "}\n"
    "extern \"C\" __global__ void overflow(float *y, int n) {\n"
    "  extern __shared__ float s[];\n"
    "  s[n] = 1;\n"
    "  y[0] = s[0];\n"
    "}\n"
    "extern \"C\" __global__ void chain(float *y) {\n"
    "  if (threadIdx.x == 0) y[blockIdx.x] = blockIdx.x ? y[blockIdx.x - 1] + 1 : 1.0f;\n"
    "}\n"
    "extern \"C\" __global__ void scale(float *y, const float *x, float by) { y[threadIdx.x] = "
    "x[threadIdx.x] * by; }\n";

static void *module;

static void compile(const char *text, void **out) {
  void *program;
  size_t n;
  OK(nvrtcCreateProgram(&program, text, "test.cu", 0, NULL, NULL));
  const char *options[] = {"--gpu-architecture=sm_90"};
  int r = nvrtcCompileProgram(program, 1, options);
  OK(nvrtcGetProgramLogSize(program, &n));
  char *log = malloc(n);
  OK(nvrtcGetProgramLog(program, log));
  ck_assert_msg(r == 0, "%s", log);
  OK(nvrtcGetCUBINSize(program, &n));
  char *image = malloc(n);
  OK(nvrtcGetCUBIN(program, image));
  OK(cuModuleLoadData(out, image));
  OK(nvrtcDestroyProgram(&program));
  free(image), free(log);
}
static void set_up(void) {
  use_device(0);
  compile(kernels, &module);
}
static void tear_down(void) {
  zg_emu_alive alive;
  OK(cuModuleUnload(module));
  OK(cuDevicePrimaryCtxRelease_v2(0));
  zg_emu_count_alive(&alive);
  ck_assert_uint_eq(alive.device_bytes + alive.host_bytes, 0);
  ck_assert_int_eq(alive.streams + alive.events + alive.modules + alive.graphs, 0);
}

static int launch(const char *name, unsigned grid, unsigned block, unsigned shared, void *stream,
                  void **args) {
  void *f;
  OK(cuModuleGetFunction(&f, module, name));
  return cuLaunchKernel(f, grid, 1, 1, block, 1, 1, shared, stream, args, NULL);
}
#define ARGS(...) \
  (void *[]) { __VA_ARGS__ }

static void fill(float *x, size_t n) {
  for (size_t i = 0; i < n; i++) x[i] = (float)((i * 37 + 11) % 251) / 8 - 15;
}

// ---- kernels ------------------------------------------------------------------------------------------

START_TEST(vector_add) {
  enum { N = 1000 };
  float a[N], b[N], c[N];
  fill(a, N), fill(b, N);
  ptr pa = device_floats(a, N), pb = device_floats(b, N), pc = device_floats(NULL, N);
  int n = N;
  OK(launch("add", 4, 256, 0, NULL, ARGS(&pa, &pb, &pc, &n)));
  OK(cuMemcpyDtoH_v2(c, pc, sizeof c));
  for (int i = 0; i < N; i++) ck_assert_float_eq(c[i], a[i] + b[i]);
  // the same from a packed buffer; and a buffer of the wrong size is refused
  struct {
    ptr a, b, c;
    int n;
  } packed = {pc, pb, pa, N};
  size_t n_packed = sizeof packed, n_wrong = 8;
  void *f, *extra[] = {(void *)1, &packed, (void *)2, &n_packed, NULL},
           *wrong[] = {(void *)1, &packed, (void *)2, &n_wrong, NULL};
  OK(cuModuleGetFunction(&f, module, "add"));
  OK(cuLaunchKernel(f, 4, 1, 1, 256, 1, 1, 0, NULL, NULL, extra));
  ck_assert_int_eq(cuLaunchKernel(f, 4, 1, 1, 256, 1, 1, 0, NULL, NULL, wrong), 1);
  OK(cuMemcpyDtoH_v2(c, pa, sizeof c));
  for (int i = 0; i < N; i++) ck_assert_float_eq(c[i], a[i] + b[i] + b[i]);
  OK(cuMemFree_v2(pa)), OK(cuMemFree_v2(pb)), OK(cuMemFree_v2(pc));
}
END_TEST

static const char *const orders[] = {"forward", "reverse", "random"};

START_TEST(block_reduction) {
  enum { ROWS = 5, N = 700 };
  float x[ROWS * N], y[ROWS];
  fill(x, ROWS * N);
  ptr px = device_floats(x, ROWS * N), py = device_floats(NULL, ROWS);
  int n = N;
  setenv("ZG_EMU_ORDER", orders[_i], 1);
  OK(launch("row_sum", ROWS, 256, 0, NULL, ARGS(&px, &py, &n)));
  OK(cuMemcpyDtoH_v2(y, py, sizeof y));
  unsetenv("ZG_EMU_ORDER");
  for (int r = 0; r < ROWS; r++) {
    double want = 0;
    for (int i = 0; i < N; i++) want += x[r * N + i];
    ck_assert_float_eq_tol(y[r], want, 1e-2);
  }
  OK(cuMemFree_v2(px)), OK(cuMemFree_v2(py));
}
END_TEST

// Wrong results of `neighbour` in one order of threads.
static int neighbour_errors(const char *order, int sync) {
  enum { N = 128 };
  float x[N], y[N];
  int wrong = 0;
  fill(x, N);
  ptr px = device_floats(x, N), py = device_floats(NULL, N);
  setenv("ZG_EMU_ORDER", order, 1);
  OK(launch("neighbour", 1, N, N * sizeof(float), NULL, ARGS(&px, &py, &sync)));
  OK(cuMemcpyDtoH_v2(y, py, sizeof y));
  unsetenv("ZG_EMU_ORDER");
  for (int i = 1; i < N; i++) wrong += !(y[i] == x[i - 1]);
  OK(cuMemFree_v2(px)), OK(cuMemFree_v2(py));
  return wrong;
}
START_TEST(missing_barrier_shows) {
  for (int i = 0; i < 3; i++) ck_assert_int_eq(neighbour_errors(orders[i], 1), 0);
  ck_assert_int_eq(neighbour_errors("forward", 0), 0);  // lucky
  ck_assert_int_gt(neighbour_errors("reverse", 0), 100);
  ck_assert_int_gt(neighbour_errors("random", 0), 10);
}
END_TEST

// A block that reads what another writes: two orders of blocks do not agree. A barrier taken away by name is as one missing.
START_TEST(races_and_skips) {
  ptr py = device_floats(NULL, 8);
  setenv("ZG_EMU_RACES", "1", 1);
  OK(launch("chain", 8, 32, 0, NULL, ARGS(&py)));
  ck_assert_int_eq(cuCtxSynchronize(), 719);
  renew_device();
  ck_assert_int_eq(neighbour_errors("forward", 1), 0);
  unsetenv("ZG_EMU_RACES");
  OK(cuMemFree_v2(py));
  setenv("ZG_EMU_SKIP", "neighbour 24", 1);
  ck_assert_int_gt(neighbour_errors("reverse", 1), 100);
  unsetenv("ZG_EMU_SKIP");
}
END_TEST

START_TEST(warp_functions) {
  unsigned y[161];
  ptr py = device_floats(NULL, 161);
  setenv("ZG_EMU_ORDER", orders[_i], 1);
  OK(cuMemsetD32Async(py, 0, 161, NULL));
  OK(launch("warp", 1, 32, 0, NULL, ARGS(&py)));
  OK(cuMemcpyDtoH_v2(y, py, sizeof y));
  unsetenv("ZG_EMU_ORDER");
  for (unsigned l = 0; l < 32; l++) {
    ck_assert_uint_eq(y[l], 0x49249249u);
    ck_assert_uint_eq(y[32 + l], 31);
    ck_assert_uint_eq(y[64 + l], l < 16 ? 30 : l < 30 ? (l + 2) * 10 : l * 10);
    ck_assert_uint_eq(y[96 + l], l % 8 ? l - 1 : l);
    ck_assert_uint_eq(y[128 + l], 7);
  }
  ck_assert_uint_eq(y[160], 64);
  OK(cuMemFree_v2(py));
}
END_TEST

// ---- what is noticed ----------------------------------------------------------------------------------

static void expect(int code, const char *message) {
  ck_assert_int_eq(cuCtxSynchronize(), code);
  ck_assert_int_eq(cuCtxSynchronize(), code);  // it stays
  renew_device();
  ck_assert_msg(strstr(zg_emu_last_message(), message) || strstr(zg_emu_last_message(), "failed with error"),
                "%s", zg_emu_last_message());
}
START_TEST(kernel_errors) {
  ptr py = device_floats(NULL, 64), gone = device_floats(NULL, 64), bad = 64;
  int n = 10;
  float by = 2;
  OK(cuMemFree_v2(gone));
  OK(launch("leaves", 1, 64, 0, NULL, ARGS(&py))), expect(719, "left the kernel");
  OK(launch("two_barriers", 1, 64, 0, NULL, ARGS(&py))), expect(719, "barrier");
  OK(launch("split_warp", 1, 32, 0, NULL, ARGS(&py))), expect(719, "lane");
  OK(launch("overflow", 1, 1, 40, NULL, ARGS(&py, &n))), expect(719, "dynamic shared memory");
  OK(launch("scale", 1, 32, 0, NULL, ARGS(&py, &gone, &by))), expect(700, "illegal address");
  OK(launch("scale", 1, 32, 0, NULL, ARGS(&bad, &py, &by))), expect(700, "illegal address");
  OK(launch("scale", 1, 65, 0, NULL, ARGS(&py, &py, &by))), expect(700, "illegal address");
  OK(cuMemFree_v2(py));
}
END_TEST

START_TEST(write_behind_an_allocation) {
  ptr x = device_floats(NULL, 64), y = device_floats(NULL, 10);
  float by = 2;
  OK(launch("scale", 1, 11, 0, NULL, ARGS(&y, &x, &by)));
  ck_assert_int_eq(cuCtxSynchronize(), 700);
  renew_device();
  OK(cuMemFree_v2(x)), OK(cuMemFree_v2(y));
}
END_TEST

START_TEST(bad_calls) {
  ptr p = device_floats(NULL, 10);
  char host[64];
  ck_assert_int_eq(cuMemcpyDtoH_v2(host, p, 44), 1);
  ck_assert_int_eq(cuMemcpyHtoD_v2((ptr)(uintptr_t)host, host, 4), 1);
  ck_assert_int_eq(cuMemFree_v2(p + 4), 1);
  OK(cuMemFree_v2(p));
  ck_assert_int_eq(cuMemFree_v2(p), 1);
  ck_assert_int_eq(cuMemAlloc_v2(&p, (size_t)1 << 40), 2);
  ck_assert_int_eq(launch("scale", 1, 1025, 0, NULL, NULL), 1);
  ck_assert_int_eq(launch("neighbour", 1, 32, 100000, NULL, NULL), 1);
  void *f;
  ck_assert_int_eq(cuModuleGetFunction(&f, module, "nothing"), 500);
}
END_TEST

// How a child ends that does `what`.
static int child_status(int what) {
  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0) {
    ptr p;
    if (cuMemAlloc_v2(&p, 100)) _exit(1);
    if (what == 0) *(volatile float *)(uintptr_t)p = 1;  // the host touches device memory
    exit(0);                                             // and does not free it
  }
  int status;
  waitpid(pid, &status, 0);
  return status;
}
START_TEST(host_access_and_leaks) {
  ck_assert(WIFSIGNALED(child_status(0)));
  setenv("ZG_EMU_STRICT", "1", 1);
  int status = child_status(1);
  ck_assert(WIFEXITED(status));
  ck_assert_int_eq(WEXITSTATUS(status), 66);
}
END_TEST

START_TEST(compile_error) {
  void *program;
  size_t n;
  OK(nvrtcCreateProgram(
      &program, "extern \"C\" __global__ void f(float *y) {\n  int a = 1;\n  y[0] = nothing + a;\n}\n",
      "bad.cu", 0, NULL, NULL));
  ck_assert_int_eq(nvrtcCompileProgram(program, 0, NULL), 6);
  OK(nvrtcGetProgramLogSize(program, &n));
  char *log = malloc(n);
  OK(nvrtcGetProgramLog(program, log));
  ck_assert_msg(strstr(log, "bad.cu:3:") && strstr(log, "nothing"), "%s", log);
  const char *option = "--gpu-architecture=sm_12";
  ck_assert_int_eq(nvrtcCompileProgram(program, 1, &option), 5);
  OK(nvrtcDestroyProgram(&program));
  free(log);
}
END_TEST

// ---- streams ------------------------------------------------------------------------------------------

typedef struct {
  void *copy, *compute, *copied, *used;
  ptr x, y;
  float *pinned;
} lane;

static void make_lane(lane *l) {
  OK(cuStreamCreate(&l->copy, 1)), OK(cuStreamCreate(&l->compute, 1));
  OK(cuEventCreate(&l->copied, 2)), OK(cuEventCreate(&l->used, 2));
  l->x = device_floats(NULL, 64), l->y = device_floats(NULL, 64);
  OK(cuMemHostAlloc((void **)&l->pinned, 3 * 64 * sizeof(float), 0));
  fill(l->pinned, 3 * 64);
}
static void free_lane(lane *l) {
  OK(cuStreamDestroy_v2(l->copy)), OK(cuStreamDestroy_v2(l->compute));
  OK(cuEventDestroy_v2(l->copied)), OK(cuEventDestroy_v2(l->used));
  OK(cuMemFree_v2(l->x)), OK(cuMemFree_v2(l->y)), OK(cuMemFreeHost(l->pinned));
}
enum { NO_WAIT_FOR_COPY = 1, NO_WAIT_FOR_USE = 2 };

// Three inputs through one buffer: the copy stream fills it, the compute stream uses it, each waits for the
// other.
static void three_inputs(lane *l, int without, ptr out) {
  float by = 2;
  for (int i = 0; i < 3; i++) {
    ptr to = out + (ptr)i * 64 * sizeof(float);
    if (i && !(without & NO_WAIT_FOR_USE)) OK(cuStreamWaitEvent(l->copy, l->used, 0));
    OK(cuMemcpyHtoDAsync_v2(l->x, l->pinned + i * 64, 64 * sizeof(float), l->copy));
    OK(cuEventRecord(l->copied, l->copy));
    if (!(without & NO_WAIT_FOR_COPY)) OK(cuStreamWaitEvent(l->compute, l->copied, 0));
    OK(launch("scale", 1, 64, 0, l->compute, ARGS(&to, &l->x, &by)));
    OK(cuEventRecord(l->used, l->compute));
  }
}
static int wrong_inputs(lane *l, ptr out) {
  float got[3 * 64];
  int wrong = 0;
  OK(cuMemcpyDtoH_v2(got, out, sizeof got));
  for (int i = 0; i < 3 * 64; i++) wrong += !(got[i] == l->pinned[i] * 2);
  return wrong;
}
START_TEST(missing_wait_shows) {
  static const int without[] = {0, NO_WAIT_FOR_COPY, NO_WAIT_FOR_USE};
  lane l;
  make_lane(&l);
  ptr out = device_floats(NULL, 3 * 64);
  for (int k = 0; k < 3; k++) {
    int seeds_wrong = 0;
    for (unsigned seed = 1; seed <= 20; seed++) {
      zg_emu_reseed(seed);
      three_inputs(&l, without[k], out);
      OK(cuStreamSynchronize(l.compute));
      seeds_wrong += wrong_inputs(&l, out) > 0;
      OK(cuCtxSynchronize());
    }
    if (without[k]) ck_assert_int_gt(seeds_wrong, 2);
    else ck_assert_int_eq(seeds_wrong, 0);
  }
  OK(cuMemFree_v2(out));
  free_lane(&l);
}
END_TEST

START_TEST(host_must_wait) {
  lane l;
  make_lane(&l);
  OK(cuMemcpyHtoDAsync_v2(l.x, l.pinned, 256, l.copy));
  OK(cuMemcpyDtoHAsync_v2(l.pinned + 64, l.x, 256, l.copy));
  ck_assert(memcmp(l.pinned + 64, l.pinned, 256));  // nothing has happened yet
  OK(cuEventRecord(l.copied, l.copy));
  OK(cuEventSynchronize(l.copied));
  ck_assert(!memcmp(l.pinned + 64, l.pinned, 256));
  free_lane(&l);
}
END_TEST

START_TEST(graphs) {
  lane l;
  make_lane(&l);
  void *graph, *exec, *joined;
  OK(cuEventCreate(&joined, 2));
  ptr out = device_floats(NULL, 3 * 64);
  for (int without = 0; without < 2; without++) {
    OK(cuStreamBeginCapture_v2(l.compute, 1));
    OK(cuEventRecord(joined, l.compute));
    OK(cuStreamWaitEvent(l.copy, joined, 0));
    three_inputs(&l, without ? NO_WAIT_FOR_USE : 0, out);
    OK(cuEventRecord(joined, l.copy));
    OK(cuStreamWaitEvent(l.compute, joined, 0));
    ck_assert_int_eq(cuMemAlloc_v2(&(ptr){0}, 16), 1);  // not while capturing
    OK(cuStreamEndCapture(l.compute, &graph));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    OK(cuGraphDestroy(graph));
    int wrong = 0;
    for (unsigned seed = 1; seed <= 20; seed++) {
      zg_emu_reseed(seed);
      OK(cuGraphLaunch(exec, l.compute));
      OK(cuStreamSynchronize(l.compute));
      wrong += wrong_inputs(&l, out) > 0;
    }
    if (without) ck_assert_int_gt(wrong, 2);
    else ck_assert_int_eq(wrong, 0);
    OK(cuGraphExecDestroy(exec));
  }
  OK(cuMemFree_v2(out)), OK(cuEventDestroy_v2(joined));
  free_lane(&l);
}
END_TEST

START_TEST(bad_captures) {
  lane l;
  void *graph;
  make_lane(&l);
  OK(cuStreamBeginCapture_v2(l.compute, 1));  // a stream that is not joined again
  OK(cuEventRecord(l.used, l.compute));
  OK(cuStreamWaitEvent(l.copy, l.used, 0));
  OK(cuMemsetD32Async(l.x, 0, 64, l.copy));
  ck_assert_int_eq(cuStreamEndCapture(l.compute, &graph), 904);
  OK(cuStreamBeginCapture_v2(l.compute, 1));  // the host waits
  ck_assert_int_eq(cuStreamSynchronize(l.compute), 900);
  ck_assert_int_eq(cuStreamEndCapture(l.compute, &graph), 901);
  OK(cuEventRecord(l.copied, l.copy));
  OK(cuStreamBeginCapture_v2(l.compute, 1));  // an event from before
  ck_assert_int_eq(cuStreamWaitEvent(l.compute, l.copied, 0), 905);
  ck_assert_int_eq(cuStreamEndCapture(l.compute, &graph), 901);
  free_lane(&l);
}
END_TEST

int main(void) {
  Suite *s = suite_create("emulator");
  TCase *t = tcase_create("all");
  tcase_add_checked_fixture(t, set_up, tear_down);
  tcase_set_timeout(t, 60);
  tcase_add_test(t, vector_add);
  tcase_add_loop_test(t, block_reduction, 0, 3);
  tcase_add_test(t, missing_barrier_shows);
  tcase_add_test(t, races_and_skips);
  tcase_add_loop_test(t, warp_functions, 0, 3);
  tcase_add_test(t, kernel_errors);
  tcase_add_test(t, write_behind_an_allocation);
  tcase_add_test(t, bad_calls);
  tcase_add_test(t, host_access_and_leaks);
  tcase_add_test(t, compile_error);
  tcase_add_test(t, missing_wait_shows);
  tcase_add_test(t, host_must_wait);
  tcase_add_test(t, graphs);
  tcase_add_test(t, bad_captures);
  suite_add_tcase(s, t);
  return run_suite(s);
}
