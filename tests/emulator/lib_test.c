// The stand-ins for cuBLASLt and NCCL.
#include "api.h"

#include <math.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "number.h"

int cublasLtCreate(void **);
int cublasLtDestroy(void *);
int cublasLtMatmulDescCreate(void **, int, int);
int cublasLtMatmulDescDestroy(void *);
int cublasLtMatmulDescSetAttribute(void *, int, const void *, size_t);
int cublasLtMatrixLayoutCreate(void **, int, uint64_t, uint64_t, int64_t);
int cublasLtMatrixLayoutDestroy(void *);
int cublasLtMatrixLayoutSetAttribute(void *, int, const void *, size_t);
int cublasLtMatmulPreferenceCreate(void **);
int cublasLtMatmulPreferenceDestroy(void *);
int cublasLtMatmulPreferenceSetAttribute(void *, int, const void *, size_t);
int cublasLtMatmulAlgoGetHeuristic(void *, void *, void *, void *, void *, void *, void *, int, void *,
                                   int *);
int cublasLtMatmul(void *, void *, const void *, const void *, void *, const void *, void *, const void *,
                   const void *, void *, void *, void *, const void *, void *, size_t, void *);
typedef struct {
  char algo[64];
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
} heuristic;
typedef struct {
  char bytes[128];
} nccl_id;
int ncclGetUniqueId(nccl_id *);
int ncclCommInitRank(void **, int, nccl_id, int);
int ncclCommDestroy(void *);
int ncclCommAbort(void *);
int ncclCommGetAsyncError(void *, int *);
int ncclAllReduce(const void *, void *, size_t, int, int, void *, void *);
int ncclReduceScatter(const void *, void *, size_t, int, int, void *, void *);
int ncclAllGather(const void *, void *, size_t, int, void *, void *);
int ncclBroadcast(const void *, void *, size_t, int, int, void *, void *);
int ncclGroupStart(void);
int ncclGroupEnd(void);

static void set_up(void) { use_device(0); }
static void tear_down(void) { OK(cuDevicePrimaryCtxRelease_v2(0)); }

// ---- matmul -------------------------------------------------------------------------------------------

enum { M = 12, N = 20, K = 33, BATCHES = 2 };
typedef struct {
  int type, trans_a, trans_b, order, epilogue, batches;
} gemm_case;
static const gemm_case gemm_cases[] = {
    {0, 0, 0, 0, 1, 1},  {0, 1, 0, 0, 1, 2},    {0, 0, 1, 1, 1, 2},   {0, 1, 1, 1, 1, 1},
    {1, 0, 0, 0, 1, 2},  {2, 0, 1, 0, 1, 1},    {14, 1, 0, 0, 1, 2},  {0, 0, 0, 0, 4, 1},
    {0, 0, 0, 0, 36, 1}, {14, 0, 0, 0, 164, 1}, {0, 0, 0, 0, 192, 1}, {0, 0, 0, 0, 208, 1},
    {0, 0, 0, 0, 6, 2},  {0, 1, 0, 0, 256, 1},  {0, 0, 1, 0, 512, 1},
};
static number number_of(int type) {
  return type == 0 ? NUM_F32 : type == 1 ? NUM_F64 : type == 2 ? NUM_F16 : NUM_BF16;
}

// A matrix of rows x cols per batch, host and device.
typedef struct {
  void *layout;
  ptr p;
  double *v;
  uint64_t rows, cols;
  int order, batches;
  number t;
} matrix;
static size_t place(const matrix *m, uint64_t r, uint64_t c, int b) {
  return (size_t)b * m->rows * m->cols + (m->order ? r * m->cols + c : c * m->rows + r);
}
static matrix make_matrix(const gemm_case *g, uint64_t rows, uint64_t cols, int seed) {
  matrix m = {.rows = rows, .cols = cols, .order = g->order, .batches = g->batches, .t = number_of(g->type)};
  size_t n = rows * cols * (size_t)g->batches, size = number_bytes(m.t);
  void *raw = malloc(n * size);
  m.v = malloc(n * sizeof *m.v);
  for (size_t i = 0; i < n; i++) {
    number_set(m.t, raw, i, (double)((i * 7 + (size_t)seed * 5) % 17) / 8 - 1);
    m.v[i] = number_get(m.t, raw, i);
  }
  OK(cuMemAlloc_v2(&m.p, n * size));
  OK(cuMemcpyHtoD_v2(m.p, raw, n * size));
  int64_t stride = (int64_t)(rows * cols);
  OK(cublasLtMatrixLayoutCreate(&m.layout, g->type, rows, cols, (int64_t)(g->order ? cols : rows)));
  OK(cublasLtMatrixLayoutSetAttribute(m.layout, 1, &g->order, sizeof(int)));
  OK(cublasLtMatrixLayoutSetAttribute(m.layout, 5, &g->batches, sizeof(int)));
  OK(cublasLtMatrixLayoutSetAttribute(m.layout, 6, &stride, sizeof stride));
  free(raw);
  return m;
}
static void read_back(matrix *m) {
  size_t n = m->rows * m->cols * (size_t)m->batches, size = number_bytes(m->t);
  void *raw = malloc(n * size);
  OK(cuMemcpyDtoH_v2(raw, m->p, n * size));
  for (size_t i = 0; i < n; i++) m->v[i] = number_get(m->t, raw, i);
  free(raw);
}
static void free_matrix(matrix *m) {
  OK(cublasLtMatrixLayoutDestroy(m->layout)), OK(cuMemFree_v2(m->p));
  free(m->v);
}

static double gelu(double x) { return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }
static double gelu_slope(double x) { return (gelu(x + 1e-5) - gelu(x - 1e-5)) / 2e-5; }

typedef struct {
  matrix a, b, c, out, bias, aux;
  double alpha, beta;
} gemm;

// What element (r, c) must be; `before`: the number before GELU.
static double want(const gemm_case *g, const gemm *x, uint64_t r, uint64_t c, int b, double *before) {
  double sum = 0;
  for (uint64_t k = 0; k < K; k++)
    sum += x->a.v[g->trans_a ? place(&x->a, k, r, b) : place(&x->a, r, k, b)] *
           x->b.v[g->trans_b ? place(&x->b, c, k, b) : place(&x->b, k, c, b)];
  double v = x->alpha * sum + x->beta * x->c.v[place(&x->c, r, c, b)];
  if (g->epilogue & 4) v += x->bias.v[r];
  *before = v;
  if ((g->epilogue & 64) == 64) return v * gelu_slope(x->aux.v[place(&x->aux, r, c, b)]);
  return g->epilogue & 32 ? gelu(v) : g->epilogue & 2 ? fmax(v, 0) : v;
}

static void run_gemm(const gemm_case *g, gemm *x, int which) {
  void *lt, *desc, *preference;
  heuristic found[4];
  int n_found, scale = g->type == 1;
  size_t workspace_bytes = 4 << 20;
  float alpha = (float)x->alpha, beta = (float)x->beta;
  ptr workspace;
  OK(cuMemAlloc_v2(&workspace, workspace_bytes));
  OK(cublasLtCreate(&lt));
  OK(cublasLtMatmulDescCreate(&desc, scale ? 70 : 68, scale));
  OK(cublasLtMatmulDescSetAttribute(desc, 3, &g->trans_a, 4)),
      OK(cublasLtMatmulDescSetAttribute(desc, 4, &g->trans_b, 4));
  OK(cublasLtMatmulDescSetAttribute(desc, 7, &g->epilogue, 4));
  OK(cublasLtMatmulDescSetAttribute(desc, 8, &x->bias.p, 8)),
      OK(cublasLtMatmulDescSetAttribute(desc, 11, &x->aux.p, 8));
  OK(cublasLtMatmulDescSetAttribute(desc, 12, &(int64_t){M}, 8));
  OK(cublasLtMatmulPreferenceCreate(&preference));
  OK(cublasLtMatmulPreferenceSetAttribute(preference, 1, &workspace_bytes, 8));
  OK(cublasLtMatmulAlgoGetHeuristic(lt, desc, x->a.layout, x->b.layout, x->c.layout, x->out.layout,
                                    preference, 4, found, &n_found));
  ck_assert_int_gt(n_found, which);
  OK(cublasLtMatmul(lt, desc, scale ? (void *)&x->alpha : &alpha, (void *)x->a.p, x->a.layout, (void *)x->b.p,
                    x->b.layout, scale ? (void *)&x->beta : &beta, (void *)x->c.p, x->c.layout,
                    (void *)x->out.p, x->out.layout, found[which].algo, (void *)workspace, workspace_bytes,
                    NULL));
  OK(cuCtxSynchronize());
  OK(cublasLtMatmulPreferenceDestroy(preference)), OK(cublasLtMatmulDescDestroy(desc)),
      OK(cublasLtDestroy(lt));
  OK(cuMemFree_v2(workspace));
}

START_TEST(matmul_is_matmul) {
  const gemm_case *g = &gemm_cases[_i / 2], vector = {.type = g->type, .batches = 1};
  gemm x = {.alpha = 0.5, .beta = g->epilogue == 1 ? 2 : 0};
  double tol = g->type == 14 ? 0.05 : g->type == 2 ? 0.01 : 1e-4;
  x.a = make_matrix(g, g->trans_a ? K : M, g->trans_a ? M : K, 1),
  x.b = make_matrix(g, g->trans_b ? N : K, g->trans_b ? K : N, 2);
  x.c = make_matrix(g, M, N, 3), x.out = make_matrix(g, M, N, 4), x.aux = make_matrix(g, M, N, 5);
  x.bias = make_matrix(&vector, N, 1, 6);
  run_gemm(g, &x, _i % 2);
  read_back(&x.out);
  matrix aux = x.aux, bias = x.bias;
  aux.v = malloc(sizeof(double) * M * N * BATCHES), bias.v = malloc(sizeof(double) * N);
  read_back(&aux), read_back(&bias);
  for (int b = 0; b < g->batches; b++)
    for (uint64_t r = 0; r < M; r++) {
      double row = 0, row_a = 0, before;
      for (uint64_t c = 0; c < N; c++) {
        double v = want(g, &x, r, c, b, &before);
        ck_assert_double_eq_tol(x.out.v[place(&x.out, r, c, b)], v, tol);
        if (g->epilogue == 164) ck_assert_double_eq_tol(aux.v[place(&aux, r, c, b)], before, tol);
        row += v;
      }
      for (uint64_t k = 0; k < K; k++)
        row_a += x.a.v[g->trans_a ? place(&x.a, k, r, b) : place(&x.a, r, k, b)];
      if (g->epilogue == 208) ck_assert_double_eq_tol(bias.v[r], row, 1e-3);
      if (g->epilogue == 256) ck_assert_double_eq_tol(bias.v[r], row_a, 1e-3);
    }
  free(aux.v), free(bias.v);
  free_matrix(&x.a), free_matrix(&x.b), free_matrix(&x.c), free_matrix(&x.out), free_matrix(&x.bias),
      free_matrix(&x.aux);
}
END_TEST

// ---- collectives --------------------------------------------------------------------------------------

enum { RANKS = 4, COUNT = 70001, BIG = RANKS * COUNT };
static nccl_id id;

typedef struct {
  int rank, problem;
  bool mismatch;
} member;

static float value(int rank, int i) { return (float)((i * 13 + rank * 7) % 101); }
static float sum_of(int i) { return value(0, i) + value(1, i) + value(2, i) + value(3, i); }

static int check_all(const float *reduced, const float *part, const float *gathered, const float *cast,
                     int rank) {
  for (int i = 0; i < BIG; i++)
    if (reduced[i] != sum_of(i)) return 1;
  for (int i = 0; i < COUNT; i++)
    if (part[i] != sum_of(rank * COUNT + i)) return 2;
  for (int i = 0; i < BIG; i++)
    if (gathered[i] != value(i / COUNT, i % COUNT)) return 3;
  for (int i = 0; i < COUNT; i++)
    if (cast[i] != value(2, i)) return 4;
  return 0;
}

// One rank: all collectives, in a group, on one stream; in place where that is allowed.
static int rank_work(int rank) {
  size_t big = BIG * sizeof(float), small = COUNT * sizeof(float);
  float *in = malloc(big), *out = malloc(3 * big + small);
  for (int i = 0; i < BIG; i++) in[i] = value(rank, i);
  ptr p[4];
  void *comm, *stream;
  use_device(0);
  for (int i = 0; i < 4; i++) OK(cuMemAlloc_v2(&p[i], big));
  for (int i = 0; i < 4; i++) OK(cuMemcpyHtoD_v2(p[i], in, big));
  OK(cuStreamCreate(&stream, 1));
  if (ncclCommInitRank(&comm, RANKS, id, rank)) return 10;
  OK(ncclGroupStart());
  OK(ncclAllReduce((void *)p[0], (void *)p[0], BIG, 7, 0, comm, stream));
  OK(ncclReduceScatter((void *)p[1], (void *)(p[1] + (ptr)rank * small), COUNT, 7, 0, comm, stream));
  OK(ncclGroupEnd());
  OK(cuMemcpyDtoDAsync_v2(p[2] + (ptr)rank * small, p[3], small, stream));
  OK(ncclAllGather((void *)(p[2] + (ptr)rank * small), (void *)p[2], COUNT, 7, comm, stream));
  OK(ncclBroadcast((void *)p[3], (void *)p[3], COUNT, 7, 2, comm, stream));
  if (cuStreamSynchronize(stream)) return 11;
  for (int i = 0; i < 3; i++) OK(cuMemcpyDtoH_v2(out + i * BIG, p[i], big));
  OK(cuMemcpyDtoH_v2(out + 3 * BIG, p[3], small));
  int r = check_all(out, out + BIG + rank * COUNT, out + 2 * BIG, out + 3 * BIG, rank);
  OK(ncclCommDestroy(comm));
  for (int i = 0; i < 4; i++) OK(cuMemFree_v2(p[i]));
  OK(cuStreamDestroy_v2(stream)), OK(cuDevicePrimaryCtxRelease_v2(0));
  free(in), free(out);
  return r;
}
static void *rank_thread(void *user) {
  member *m = user;
  m->problem = rank_work(m->rank);
  return NULL;
}
START_TEST(four_threads) {
  pthread_t threads[RANKS];
  member members[RANKS];
  OK(ncclGetUniqueId(&id));
  for (int i = 0; i < RANKS; i++)
    members[i] = (member){.rank = i}, pthread_create(&threads[i], NULL, rank_thread, &members[i]);
  for (int i = 0; i < RANKS; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < RANKS; i++) ck_assert_int_eq(members[i].problem, 0);
}
END_TEST

START_TEST(four_processes) {
  pid_t pids[RANKS];
  OK(ncclGetUniqueId(&id));
  fflush(NULL);
  for (int i = 0; i < RANKS; i++)
    if ((pids[i] = fork()) == 0) _exit(rank_work(i));
  for (int i = 0; i < RANKS; i++) {
    int status;
    waitpid(pids[i], &status, 0);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
  }
}
END_TEST

// Ranks that disagree: an error that names both, not a hang. Rank 1 aborts at the end.
static void *wrong_thread(void *user) {
  member *m = user;
  void *comm, *stream;
  ptr p;
  int error = 0;
  use_device(m->rank + 1);
  OK(cuMemAlloc_v2(&p, 4096));
  OK(cuStreamCreate(&stream, 1));
  OK(ncclCommInitRank(&comm, 2, id, m->rank));
  if (m->mismatch) OK(ncclAllReduce((void *)p, (void *)p, m->rank ? 100 : 200, 7, 0, comm, stream));
  else if (m->rank) OK(ncclCommAbort(comm));
  else OK(ncclAllReduce((void *)p, (void *)p, 100, 7, 0, comm, stream));
  int r = cuStreamSynchronize(stream);
  OK(ncclCommGetAsyncError(comm, &error));
  m->problem = m->mismatch ? r == 719 && error >= 5 : m->rank ? r == 0 : r == 719 && error == 6;
  OK(cuDevicePrimaryCtxRelease_v2(m->rank + 1));
  use_device(m->rank + 1);
  OK(ncclCommDestroy(comm)), OK(cuStreamDestroy_v2(stream)), OK(cuMemFree_v2(p));
  OK(cuDevicePrimaryCtxRelease_v2(m->rank + 1));
  return NULL;
}
START_TEST(disagreement_and_abort) {
  pthread_t threads[2];
  member members[2];
  OK(ncclGetUniqueId(&id));
  for (int i = 0; i < 2; i++)
    members[i] = (member){i, 0, _i == 0}, pthread_create(&threads[i], NULL, wrong_thread, &members[i]);
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  ck_assert_int_eq(members[0].problem, 1);
  ck_assert_int_eq(members[1].problem, 1);
  if (_i == 0)
    ck_assert(strstr(zg_emu_last_message(), "ranks differ") ||
              strstr(zg_emu_last_message(), "failed with error"));
}
END_TEST

int main(void) {
  setenv("ZG_EMU_DEVICES", "3", 1);
  Suite *s = suite_create("emulator libraries");
  TCase *t = tcase_create("all");
  tcase_add_checked_fixture(t, set_up, tear_down);
  tcase_set_timeout(t, 60);
  tcase_add_loop_test(t, matmul_is_matmul, 0, 2 * (int)(sizeof gemm_cases / sizeof *gemm_cases));
  tcase_add_test(t, four_threads);
  tcase_add_test(t, four_processes);
  tcase_add_loop_test(t, disagreement_and_abort, 0, 2);
  suite_add_tcase(s, t);
  return run_suite(s);
}
