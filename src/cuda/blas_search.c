// Timing cuBLASLt's proposals for a product.
//   - operands are of the product's own sizes and strides, filled with small numbers; each proposal runs once to warm up, then in rounds
//     that alternate between proposals, long enough to be timed by the host's clock; the least time of a proposal counts
//   - the choice is a file of 80 bytes in the kernel cache, named by the hash of everything that it depends on; a damaged one is as good
//     as none. Within a process a choice never changes: the plan's workspace and the run's must be of one algorithm
#include "cuda/blas_search.h"

#include <stdio.h>
#include <stdlib.h>

#include "cuda/compile.h"

enum { MAGIC = 0x31475a67, ROUNDS = 3, MAX_REPEATS = 20 };
#define ENOUGH_S 1e-3     // time of a round
#define LITTLE_WORK 1e8   // multiply-adds count two: below, a launch takes longer than the product

typedef struct {
  uint32_t magic, crc;
  zg__choice choice;
} file;

// ---- remembering --------------------------------------------------------------------------------------------------

typedef struct {
  char text[24];
} key;

static key key_of(const zg__search *s, const zg_kernel *k, const zg__product *p) {
  zg_str text = {0};
  const char *tf32 = getenv("ZG_TF32");
  zg_str_add(&text, "%zu %s %s %d", zg__lt.cublasLtGetVersion(), s->device, tf32 ? tf32 : "", p->beta != 0);
  for (uint32_t a = 0; a < 3; a++) {
    const zg_view *v = &k->args[a];
    zg_str_add(&text, " %d+%lld", (int)v->dtype, (long long)(v->offset % ZG_BUF_ALIGN));
    for (uint32_t d = 0; d < v->rank; d++) zg_str_add(&text, ",%lld:%lld", (long long)v->dim[d], (long long)v->stride[d]);
  }
  key out;
  snprintf(out.text, sizeof out.text, "%016llx", (unsigned long long)zg_hash(text.at, text.n, MAGIC));
  zg_str_fini(&text);
  return out;
}

static bool path_of(const key *of, zg_str *out) {
  if (!zg__cache_folder(NULL, out)) return false;
  zg_str_add(out, "/gemm-%s", of->text);
  return true;
}

static bool read_choice(const key *of, zg__choice *out) {
  zg_str path = {0}, bytes = {0};
  file f;
  bool good = path_of(of, &path) && zg_file_exists(path.at);
  if (good) {
    zg_status s = zg_file_read(path.at, &bytes);
    good = !s && bytes.n == sizeof f;
    zg_status_free(s);
  }
  if (good) memcpy(&f, bytes.at, sizeof f);
  good = good && f.magic == MAGIC && f.crc == zg_crc32(&f.choice, sizeof f.choice, 0) && f.choice.workspace <= ZG__BLAS_WORKSPACE;
  if (good) *out = f.choice;
  zg_str_fini(&path);
  zg_str_fini(&bytes);
  return good;
}

static void write_choice(const key *of, const zg__choice *c) {
  zg_str path = {0};
  file f = {.magic = MAGIC, .choice = *c};
  f.crc = zg_crc32(&f.choice, sizeof f.choice, 0);
  if (path_of(of, &path)) {
    zg_status s = zg_file_write_atomic(path.at, &f, sizeof f);
    if (s) zg_warn("cuBLASLt's algorithms are not remembered: %s", zg_status_message(s));
    zg_status_free(s);
  }
  zg_str_fini(&path);
}

// ---- timing -------------------------------------------------------------------------------------------------------

typedef struct {
  zg_lt_handle lt;
  const zg_kernel *k;
  zg__product *p;
  zg_cu_handle stream;
  zg_cu_ptr memory;
  uint64_t arg[3], workspace;
} trial;

static uint64_t extent(const zg_view *v) {
  uint64_t last = 0;
  for (uint32_t d = 0; d < v->rank; d++) last += (uint64_t)(v->dim[d] - 1) * (uint64_t)v->stride[d];
  return zg_round_up((last + 1) * zg_dtype_bytes(v->dtype), 256);
}

static zg_status start(trial *t) {
  enum { SMALL = 0x3c };   // 0x3c3c is 0.011 as bf16, 1.06 as f16; 0x3c3c3c3c is 0.011 as f32
  uint64_t at[3], total = ZG__BLAS_WORKSPACE;
  for (int a = 0; a < 3; a++) at[a] = total, total += extent(&t->k->args[a]);
  ZG_TRY(ZG_CUDA(cuStreamCreate, &t->stream, ZG_CU_STREAM_NON_BLOCKING));
  ZG_TRY(ZG_CUDA(cuMemAlloc_v2, &t->memory, total));
  ZG_TRY(ZG_CUDA(cuMemsetD8Async, t->memory, SMALL, total, t->stream));
  for (int a = 0; a < 3; a++) t->arg[a] = t->memory + at[a];
  t->workspace = t->memory;
  return NULL;
}

static zg_status run(trial *t, int repeats, double *out_s) {
  const double t0 = zg_time_s();
  for (int i = 0; i < repeats; i++) ZG_TRY(zg__product_run(t->lt, t->p, t->k, t->arg, t->workspace, t->stream));
  ZG_TRY(ZG_CUDA(cuStreamSynchronize, t->stream));
  *out_s = (zg_time_s() - t0) / repeats;
  return NULL;
}

static void take(zg__product *p, const zg_lt_heuristic *h) { p->algo = h->algo, p->workspace = h->workspace; }

// A proposal that does not run is out; that all are is the status.
static zg_status race(trial *t, const zg_lt_heuristic *h, int n, int *out_best) {
  double least[ZG__SEARCH_MAX], once = 0;
  int repeats = 1;
  zg_status last = NULL;
  *out_best = -1;
  for (int i = 0; i < n; i++) {
    take(t->p, &h[i]);
    zg_status s = run(t, 1, &once);
    if (!s) s = run(t, 1, &once);
    least[i] = s ? -1 : once;
    if (s) zg_status_free(last), last = s;
    else repeats = ZG_MAX(repeats, (int)ZG_MIN((double)MAX_REPEATS, ENOUGH_S / ZG_MAX(once, 1e-7)));
  }
  for (int round = 0; round < ROUNDS; round++)
    for (int i = 0; i < n; i++) {
      if (least[i] < 0) continue;
      take(t->p, &h[i]);
      zg_status s = run(t, repeats, &once);
      if (s) zg_status_free(last), last = s, least[i] = -1;
      else least[i] = ZG_MIN(least[i], once);
    }
  for (int i = 0; i < n; i++)
    if (least[i] >= 0 && (*out_best < 0 || least[i] < least[*out_best])) *out_best = i;
  if (*out_best < 0) return last;
  zg_status_free(last);
  zg_log(2, "%s: the library's proposal %d of %d, %.1f us; the first takes %.1f us", t->k->label, *out_best + 1, n, least[*out_best] * 1e6,
         least[0] * 1e6);
  return NULL;
}

static zg_status time_proposals(zg_lt_handle lt, const zg_kernel *k, const zg_lt_heuristic *h, int n, zg__product *p) {
  trial t = {.lt = lt, .k = k, .p = p};
  int best = 0;
  zg_status status = start(&t);
  if (!status) {
    status = race(&t, h, n, &best);
  } else {
    zg_log(2, "%s: not timed, the library's first proposal is taken: %s", k->label, zg_status_message(status));
    zg_status_free(status);
    status = NULL;
  }
  if (!status) take(p, &h[best]);
  if (t.stream) zg__cuda.cuStreamDestroy_v2(t.stream);
  if (t.memory) zg__cuda.cuMemFree_v2(t.memory);
  return status;
}

// ---- choosing -----------------------------------------------------------------------------------------------------

static bool is_worth_it(const zg_kernel *k, int n) {
  const char *how = getenv("ZG_CUDA_SEARCH");
  if (n < 2 || (how && !strcmp(how, "0"))) return false;
  return (how && !strcmp(how, "all")) || k->flops >= LITTLE_WORK;
}

zg_status zg__product_search(zg__search *s, zg_lt_handle lt, const zg_kernel *k, const zg_lt_heuristic *h, int n, zg__product *p) {
  zg__choice c;
  uint64_t at;
  take(p, &h[0]);
  if (!is_worth_it(k, n)) return NULL;
  const key of = key_of(s, k, p);
  if (zg_map_get(&s->found, of.text, &at)) {
    p->algo = s->all.at[at].algo, p->workspace = s->all.at[at].workspace;
    return NULL;
  }
  if (read_choice(&of, &c)) {
    p->algo = c.algo, p->workspace = c.workspace;
    s->n_remembered++;
  } else {
    const double t0 = zg_time_s();
    ZG_TRY(time_proposals(lt, k, h, n, p));
    c = (zg__choice){p->algo, p->workspace};
    write_choice(&of, &c);
    s->n_timed++;
    s->seconds += zg_time_s() - t0;
  }
  zg_map_put(&s->found, of.text, s->all.n);
  zg_vec_push(&s->all, c);
  return NULL;
}

void zg__search_fini(zg__search *s) {
  zg_map_fini(&s->found);
  zg_vec_fini(&s->all);
}
