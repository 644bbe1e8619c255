// Large matrix products of f32, or of bf16 with f32 sums, at the speed of the multiply-adds:
// C = epilogue(alpha A B + bias + beta C).
//
//   phase 1   B is packed into panels of 32 columns, once, by all threads
//   phase 2   job = a block of C, some rows by some panels: packs its rows of A into panels of 12, which stay in the second
//             cache, and multiplies panel by panel
//
//   workspace   | panel 0 of B: words x 32 | panel 1 | ...  |  A, where shared  |  sums, where shared and not direct |
//   scratch     | block of A | block of sums: 32 columns, or all of the job's | the same 32, transposed | one line |
//
// - "B" is the smaller operand; where that is the left one, the product is done transposed (C' = B' A').
// - Few rows and many words make too few jobs that would pack A by themselves: A is then packed in phase 1 too (`shared`).
// - K beyond MAX_WORDS is cut into parts; sums then continue in the block of C, or in C itself.
// - A result without epilogue that is row-major is written by the inner product itself, or tile by tile as bf16 (`direct`).
// - The order of summation depends on K alone: results are the same for any number of threads.
//
// The loops are those of BLIS (Van Zee and van de Geijn 2015, "BLIS: A Framework for Rapidly Instantiating BLAS
// Functionality") with the third and fifth made one.
#include "cpu/cpu.h"
#include "graph/scalar.h"

enum {
  MR = ZG_TILED_MR,
  NR = ZG_TILED_NR,
  MAX_WORDS = 2048,    // of K at a time
  A_WORDS = 100000,    // of a block of A: 400 KB of a second cache of 1 MB
  MAX_ROWS = 96,
  MIN_ROWS = 24,
  MAX_PANELS = 64,     // of a job
  MIN_PANELS = 4,
  JOBS = 16,           // per thread, at least, where the product is large enough
  SHARED_BELOW = 16,   // jobs of whole rows: A is shared
  CHUNK_WORDS = 256,   // of K, and lines of an operand, that a thread packs at a time
  CHUNK_LINES = 128,
  PACK_WORDS = 64      // of K at a time where lines are neighbours: a row of memory is read by neighbouring panels in turn
};
static const double MIN_FLOPS = 1 << 17;

// An operand as lines (rows of A, columns of B, rows of C) of elements.
typedef struct {
  uint32_t arg;
  int64_t offset, line, step;
} operand;
typedef struct {
  const cpu_call *c;
  const zg_matmul_desc *d;
  operand a, b, out;                    // of the product as it is done
  int64_t m, n, k, size, words, part;   // size: bytes of an element of A and B; part: words of K at a time
  int64_t panels, rows, job_panels, jobs_across;
  bool pairs, swapped, direct, shared, half;   // half: C is bf16
  int64_t w0, pack_words;               // of the part under work
  float *pa, *pb, *sums;                // in the workspace
  int threads;
} job;

// All but the last two dims of C and A fold into the rows; B must not depend on them.
static bool fold(const zg_kernel *k, int64_t *m) {
  const zg_view *C = &k->args[0], *A = &k->args[1], *B = &k->args[2];
  const uint32_t r = C->rank - 2;
  *m = C->dim[r];
  for (uint32_t i = r; i-- > 0;) {
    if (C->dim[i] == 1) continue;
    if ((B->dim[i] != 1 && B->stride[i]) || A->dim[i] == 1) return false;
    if (A->stride[i] != A->stride[r] * *m || C->stride[i] != C->stride[r] * *m) return false;
    *m *= C->dim[i];
  }
  return true;
}

static operand operand_of(const zg_kernel *k, uint32_t arg, bool columns) {
  const zg_view *v = &k->args[arg];
  const int64_t rs = v->stride[v->rank - 2], cs = v->stride[v->rank - 1];
  return columns ? (operand){arg, v->offset, cs, rs} : (operand){arg, v->offset, rs, cs};
}

// One of the two strides must be 1. Of a single line or element, either may be called so.
static bool straight(operand *o, int64_t lines, int64_t elems) {
  if (elems == 1) o->step = 1;
  else if (lines == 1) o->line = o->step == 1 ? elems : 1;
  return o->line >= 0 && o->step >= 0 && (o->line == 1 || o->step == 1);
}

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t jobs_down(const job *j) { return ceil_div(j->m, j->rows); }

static bool setup(const zg_kernel *k, job *j) {
  const zg_matmul_desc *d = k->desc;
  *j = (job){.d = d, .n = d->n, .k = d->k};
  if (!fold(k, &j->m)) return false;
  j->a = operand_of(k, 1, false), j->b = operand_of(k, 2, true), j->out = operand_of(k, 0, false);
  j->swapped = j->m < j->n;
  if (j->swapped) {
    const operand a = j->a;
    const int64_t m = j->m;
    j->a = j->b, j->b = a, j->m = j->n, j->n = m;
    j->out = operand_of(k, 0, true);
  }
  if (!straight(&j->a, j->m, j->k) || !straight(&j->b, j->n, j->k) || !straight(&j->out, j->m, j->n)) return false;
  j->size = (int64_t)zg_dtype_bytes(k->args[1].dtype);
  j->pairs = k->args[1].dtype == ZG_BF16, j->half = k->args[0].dtype == ZG_BF16;
  j->words = j->pairs ? ceil_div(j->k, 2) : j->k;
  j->part = j->words ? ceil_div(j->words, ceil_div(j->words, MAX_WORDS)) : 0;
  j->panels = ceil_div(j->n, NR);
  const bool parts = j->part < j->words;
  j->direct = j->out.step == 1 && d->epilogue == ZG_EPI_NONE && d->alpha == 1 && (d->beta == 0 || (d->beta == 1 && !j->half)) &&
              !(j->half && parts);
  j->rows = ZG_MAX(MIN_ROWS, ZG_MIN(MAX_ROWS, A_WORDS / ZG_MAX(j->part, 1) / MR * MR));
  j->shared = jobs_down(j) < SHARED_BELOW;
  return true;
}

// Blocks of C: enough for the threads to end together.
static void cut(job *j, int threads) {
  const int64_t across = ceil_div(j->panels, MAX_PANELS), want = threads > 1 ? JOBS * threads : 1;
  while (!j->shared && j->rows > MIN_ROWS && jobs_down(j) * across < want) j->rows -= MR;
  while (j->shared && j->rows > MAX_ROWS / 2 && jobs_down(j) * (j->panels / MIN_PANELS) < want) j->rows -= MR;
  j->jobs_across = ZG_MAX(across, ZG_MIN(j->panels / MIN_PANELS, ceil_div(want, jobs_down(j))));
  j->job_panels = ceil_div(j->panels, j->jobs_across);
  j->jobs_across = ceil_div(j->panels, j->job_panels);
}

// ---- packing --------------------------------------------------------------------------------------------
// Lines first .. first + n of an operand, words w0 .. w0 + words, into panels of `width`, `apart` floats from one to the next.
static void pack(const job *j, const operand *o, int64_t width, int64_t first, int64_t n, int64_t w0, int64_t words, float *dst,
                 int64_t apart) {
  const int64_t per = j->pairs ? 2 : 1, at_once = o->step == 1 ? words : PACK_WORDS;
  for (int64_t w = 0; w < words; w += at_once) {
    const int64_t k0 = (w0 + w) * per, kn = ZG_MIN(ZG_MIN(at_once, words - w) * per, j->k - k0);
    for (int64_t i = 0; i < n; i += width)
      j->c->vec->tiled_pack(width, ZG_MIN(width, n - i), kn, j->size,
                            cpu_at(j->c, o->arg, o->offset + (first + i) * o->line + k0 * o->step), o->line, o->step,
                            dst + i / width * apart + w * width);
  }
}

// A chunk of an operand's part under work.
static void pack_chunk(const job *j, const operand *o, int64_t width, int64_t lines, int64_t chunk, float *dst) {
  const int64_t at_once = CHUNK_LINES / width * width, across = ceil_div(lines, at_once);
  const int64_t first = chunk % across * at_once, w = chunk / across * CHUNK_WORDS;
  pack(j, o, width, first, ZG_MIN(at_once, lines - first), j->w0 + w, ZG_MIN(CHUNK_WORDS, j->pack_words - w),
       dst + first * j->pack_words + w * width, width * j->pack_words);
}
static int64_t chunks(const job *j, int64_t width, int64_t lines) {
  return ceil_div(lines, CHUNK_LINES / width * width) * ceil_div(j->pack_words, CHUNK_WORDS);
}
static void pack_some(void *arg, int64_t chunk, int thread) {
  (void)thread;
  const job *j = arg;
  const int64_t of_b = chunks(j, NR, j->n);
  if (chunk < of_b) pack_chunk(j, &j->b, NR, j->n, chunk, j->pb);
  else pack_chunk(j, &j->a, MR, j->m, chunk - of_b, j->pa);
}

// ---- results --------------------------------------------------------------------------------------------
static uint8_t *c_at(const job *j, int64_t row, int64_t col) {
  return cpu_at(j->c, 0, j->out.offset + row * j->out.line + col * j->out.step);
}

// A tile of sums into a C that takes them as they are; `add`: to what is there.
static void write_tile(const job *j, int64_t row, int64_t col, int64_t m, int64_t n, const float *tile, bool add) {
  if (j->half) {
    j->c->vec->tiled_half(m, n, tile, (uint16_t *)c_at(j, row, col), j->out.line);
    return;
  }
  for (int64_t i = 0; i < m; i++) {
    float *c = (float *)c_at(j, row + i, col);
    for (int64_t q = 0; q < n; q++) c[q] = add ? c[q] + tile[i * NR + q] : tile[i * NR + q];
  }
}

static zg_scalar activation(int64_t epilogue) {
  static const zg_scalar by[] = {ZG_S_NONE, ZG_S_NONE, ZG_S_GELU, ZG_S_GELU_TANH, ZG_S_RELU};
  return by[epilogue];
}

// A line of sums, w of them, becomes a line of C. The line is one of the result's columns as the schedule sees it, or
// (`along`) part of a row; `first`: its (first) column there.
static void finish_line(const job *j, uint8_t *c, float *sums, int64_t w, int64_t first, bool along, float *line) {
  const zg_kernel *k = j->c->k;
  const zg_vec *vec = j->c->vec;
  const zg_dtype t = k->args[0].dtype;
  const float alpha = (float)j->d->alpha, beta = (float)j->d->beta;
  if (alpha != 1) vec->map[ZG_CLS_F32][ZG_S_MUL][2](w, sums, sums, &alpha, NULL, ZG_S_MUL);
  if (beta != 0) {
    vec->load[t](w, line, c, 1);
    for (int64_t i = 0; i < w; i++) sums[i] += beta * line[i];
  }
  if (k->n_args > 3) {
    const zg_view *b = &k->args[3];
    const int64_t step = b->stride[b->rank - 1];
    vec->load[b->dtype](along ? w : 1, line, cpu_at(j->c, 3, b->offset + first * step), step);
    vec->map[ZG_CLS_F32][ZG_S_ADD][along ? 0 : 2](w, sums, sums, line, NULL, ZG_S_ADD);
  }
  const zg_scalar s = activation(j->d->epilogue);
  if (s != ZG_S_NONE) vec->map[ZG_CLS_F32][s][0](w, sums, sums, NULL, NULL, s);
  vec->store[t](w, c, sums, 1);
}

typedef struct {
  float *a, *sums, *turned, *line;
} place;

static int64_t block_floats(const job *j) { return (int64_t)zg_round_up((uint64_t)j->rows, 16) * NR; }
static bool keeps_sums(const job *j) { return !j->direct && j->part < j->words; }   // from one part of K to the next

static place scratch_of(const job *j, int thread) {
  place s = {.a = (float *)j->c->scratch[thread]};
  s.sums = s.a + (j->shared ? 0 : zg_round_up((uint64_t)(j->rows * j->part), 16));
  s.turned = s.sums + (keeps_sums(j) && !j->shared ? j->job_panels : 1) * block_floats(j);
  s.line = s.turned + block_floats(j);
  return s;
}

// A panel's rows x 32 sums into C.
static void finish_panel(const job *j, int64_t row, int64_t m, int64_t panel, float *sums, const place *s) {
  const int64_t col = panel * NR, n = ZG_MIN(NR, j->n - col), ld = (int64_t)zg_round_up((uint64_t)m, 16);
  if (j->out.step == 1) {
    for (int64_t i = 0; i < m; i++)
      finish_line(j, c_at(j, row + i, col), sums + i * NR, n, j->swapped ? row + i : col, !j->swapped, s->line);
    return;
  }
  j->c->vec->tile_transpose(ld, NR, sums, NR, s->turned, ld);
  for (int64_t i = 0; i < n; i++)
    finish_line(j, c_at(j, row, col + i), s->turned + i * ld, m, j->swapped ? row : col + i, j->swapped, s->line);
}

// ---- fetching ahead -------------------------------------------------------------------------------------
// While a job multiplies, the rows of A that a job to come will pack are brought near, `words` cache lines with each tile.
typedef struct {
  const char *at;        // NULL: nothing to fetch
  int64_t left, step;    // tiles that fetch; bytes from line to line
  int64_t next, other;   // bytes from a tile's lines to the next tile's, alternating
} fetch;
enum { LINE = 64 };

static fetch fetch_rows(const job *j, int64_t row) {
  const operand *o = &j->a;
  const int64_t words = j->words;
  if (row >= j->m || j->part < words) return (fetch){0};
  fetch f = {.at = (const char *)cpu_at(j->c, o->arg, o->offset + row * o->line), .left = (j->rows * 4 / LINE + 1) & ~(int64_t)1};
  if (o->step != 1) {   // columns of lines, each in two halves where a word is of two rows
    f.step = o->step * j->size;
    f.next = j->pairs ? words * f.step : LINE, f.other = j->pairs ? LINE - f.next : LINE;
  } else if (o->line == j->k) {
    f.step = LINE, f.next = f.other = words * LINE;
  } else {
    f.at = NULL;
  }
  return f;
}

// ---- products -------------------------------------------------------------------------------------------
// Rows of A (packed at `a`) by panel p of B, over the part under work, which has `words` from w on.
static void multiply(const job *j, const float *a, int64_t row, int64_t m, int64_t p, int64_t w, int64_t words, float *sums, fetch *f) {
  const float *b = j->pb + p * j->pack_words * NR + (w - j->w0) * NR;
  const int64_t col = p * NR, n = ZG_MIN(NR, j->n - col);
  const bool more = w > 0, add = more || j->d->beta != 0;
  _Alignas(64) float tile[MR * NR];
  for (int64_t i = 0; i < m; i += MR, a += MR * words) {
    const int64_t h = ZG_MIN(MR, m - i);
    const char *ahead = (const char *)b;
    int64_t step = 0;
    if (i < 2 * MR) {   // the next panel, half of it with each of the first two tiles
      ahead = (const char *)(b + j->pack_words * NR + (i ? words * NR / 2 : 0)), step = LINE;
    } else if (f->at && f->left > 0) {
      ahead = f->at, step = f->step;
      f->at += f->left-- & 1 ? f->other : f->next;
    }
    if (!j->direct) {
      j->c->vec->tiled[j->pairs](words, a, b, ahead, step, sums + i * NR, NR, more);
    } else if (h == MR && n == NR && !j->half) {
      j->c->vec->tiled[j->pairs](words, a, b, ahead, step, (float *)c_at(j, row + i, col), j->out.line, add);
    } else {
      j->c->vec->tiled[j->pairs](words, a, b, ahead, step, tile, NR, false);
      write_tile(j, row + i, col, h, n, tile, add);
    }
  }
}

static void block(void *arg, int64_t chunk, int thread) {
  const job *j = arg;
  const place s = scratch_of(j, thread);
  const int64_t down = chunk / j->jobs_across, row = down * j->rows, m = ZG_MIN(j->rows, j->m - row);
  const int64_t first = chunk % j->jobs_across * j->job_panels, end = ZG_MIN(first + j->job_panels, j->panels);
  for (int64_t w = j->w0; w < j->w0 + j->pack_words; w += j->part) {
    const int64_t words = ZG_MIN(j->part, j->words - w);
    const float *a = j->shared ? j->pa + row * words : s.a;
    if (!j->shared) pack(j, &j->a, MR, row, m, w, words, s.a, MR * words);
    const int64_t then = (chunk + j->threads) / j->jobs_across;
    fetch f = then == down || j->shared ? (fetch){0} : fetch_rows(j, then * j->rows);
    for (int64_t p = first; p < end; p++) {
      float *sums = s.sums;
      if (keeps_sums(j)) sums = j->shared ? j->sums + (down * j->panels + p) * block_floats(j) : s.sums + (p - first) * block_floats(j);
      multiply(j, a, row, m, p, w, words, sums, &f);
      if (!j->direct && w + words == j->words) finish_panel(j, row, m, p, sums, &s);
    }
  }
}

// ---- from outside ---------------------------------------------------------------------------------------
bool cpu_tiled_takes(const zg_vec *vec, const zg_kernel *k) {
  job j;
  const zg_dtype a = k->args[1].dtype, c = k->args[0].dtype;
  if (!vec->tiled_pack || k->flops < MIN_FLOPS || k->args[2].dtype != a || (c != ZG_F32 && c != ZG_BF16)) return false;
  if (!(a == ZG_F32 || (a == ZG_BF16 && zg_vec_has_pairs(vec))) || (c == ZG_BF16 && !zg_vec_has_pairs(vec))) return false;
  return setup(k, &j) && j.k > 0 && j.n >= NR / 2;
}

static int64_t lay_workspace(job *j, float *at) {
  j->pb = at;
  j->pa = at + j->panels * NR * (j->shared ? j->part : j->words);
  j->sums = j->pa + (j->shared ? (int64_t)zg_round_up((uint64_t)(ceil_div(j->m, MR) * MR * j->part), 16) : 0);
  const int64_t rows = (j->m + MAX_ROWS) * 4 / 3;   // blocks are padded to 16 rows
  return (j->sums - at) + (j->shared && keeps_sums(j) ? rows * j->panels * NR : 0);
}

uint64_t cpu_tiled_workspace(const zg_kernel *k) {
  job j;
  return setup(k, &j) ? sizeof(float) * (uint64_t)lay_workspace(&j, NULL) : 0;
}

uint64_t cpu_tiled_scratch(const zg_kernel *k) {
  job j;
  if (!setup(k, &j)) return 0;
  cut(&j, 1);   // more threads cut smaller
  const int64_t sums = ((keeps_sums(&j) && !j.shared ? j.job_panels : 1) + 1) * block_floats(&j);
  return sizeof(float) * (uint64_t)((j.shared ? 0 : j.rows * j.part + 16) + sums + MAX_ROWS) + 64;
}

void cpu_tiled_matmul(const cpu_call *c) {
  job j;
  if (!setup(c->k, &j)) return;
  j.c = c;
  j.threads = zg_pool_threads(c->pool);
  cut(&j, j.threads);
  lay_workspace(&j, (float *)c->workspace);
  for (j.w0 = 0; j.w0 < j.words; j.w0 += j.pack_words) {
    j.pack_words = j.shared ? ZG_MIN(j.part, j.words - j.w0) : j.words;
    zg_pool_run(c->pool, chunks(&j, NR, j.n) + (j.shared ? chunks(&j, MR, j.m) : 0), pack_some, &j);
    zg_pool_run(c->pool, jobs_down(&j) * j.jobs_across, block, &j);
  }
}
