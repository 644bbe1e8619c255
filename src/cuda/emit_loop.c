// Loop kernels on CUDA. Forms:
//   flat     no reductions: a thread per `vec` elements, 16-byte accesses where layouts allow
//   group    short rows: a power of two of lanes, up to a warp, per row; reductions by shuffles
//   block    long rows: a block per row; reductions by shuffles, then over the warps' results in shared
//   memory split    few very long rows: several blocks per row and a launch per phase. Every block reduces a
//   chunk and writes a partial
//            result; the blocks of the next launch each combine all partials of their row, in the same order,
//            so they agree
//   column   a block takes neighbouring columns and a chunk of the reduced dims; where there are several
//   chunks, a second
//            launch combines their partials in order
// No atomics: results depend neither on the order of blocks nor on the machine's load.
// Phases: element code up to a phase's reductions is computed again in each phase that needs it, from loads
// that hit the cache.
#include "cuda/loop.h"
#include <stdio.h>

enum { FLAT_THREADS = 256, GROUP_THREADS = 256, SPLIT_THREADS = 256, COLUMN_THREADS = 256, MAX_CHUNKS = 256 };

static uint32_t pow2_at_least(uint64_t n, uint32_t most) {
  uint32_t p = 1;
  while (p < n && p < most) p *= 2;
  return p;
}

static bool is_reduction(const zg__space *s, uint32_t i, uint32_t p) {
  return s->used[i] && s->d->inst[i].kind == ZG_I_REDUCE && s->phase[i] == p;
}

static const char *linear_type(const zg__space *s) { return s->wide ? "zg_i64" : "unsigned"; }

// ---- flat
// -----------------------------------------------------------------------------------------------------------------
static zg_status emit_flat(const zg__space *s, zg__code *out) {
  const uint64_t n = (uint64_t)s->size[ZG__AT_INNER], threads = (n + s->vec - 1) / s->vec;
  zg__draft d = {0};
  bool *need = zg_alloc(s->d->n_inst + 1);
  zg__space_need(s, 0, need);
  zg__loop_params(s, &d);
  zg_str_add(&d.body,
             "{\nconst %s e = ((%s)blockIdx.x * %uu + threadIdx.x) * %uu;\nif (e >= %lluu) return;\n",
             linear_type(s), linear_type(s), (unsigned)FLAT_THREADS, s->vec, (unsigned long long)n);
  zg__loop_indices(s, &d.body, ZG__AT_INNER, "e");
  zg__loop_elements(s, &d.body, 0, need, s->vec);
  zg_str_add(&d.body, "}");
  zg_free(need);
  return zg__draft_launch(&d, out, (threads + FLAT_THREADS - 1) / FLAT_THREADS, 1, FLAT_THREADS, 0);
}

// ---- rows
// -----------------------------------------------------------------------------------------------------------------
// One phase over the elements [begin, end) of a row, `lane` of `lanes`: accumulators, the loop.
static bool put_phase(const zg__space *s, zg_str *out, uint32_t p, const char *begin, const char *end,
                      const char *lane, uint32_t lanes) {
  bool *need = zg_alloc(s->d->n_inst + 1);
  const uint32_t roots = zg__space_need(s, p, need);
  for (uint32_t i = 0; i < s->d->n_inst; i++)
    if (is_reduction(s, i, p)) {
      zg_str_add(out, "%s a%u = ", zg__cls_type((zg_cls)s->d->inst[i].cls), i);
      zg__loop_identity(out, &s->d->inst[i]);
      zg_str_add(out, ";\n");
    }
  if (roots) {
    zg_str_add(out, "for (%s e = %s + %s * %uu; e < %s; e += %uu) {\n", linear_type(s), begin, lane, s->vec,
               end, lanes * s->vec);
    zg__loop_indices(s, out, ZG__AT_INNER, "e");
    zg__loop_elements(s, out, p, need, s->vec);
    zg_str_add(out, "}\n");
  }
  zg_free(need);
  return roots > 0;
}

static void put_warp_reduce(const zg__space *s, zg_str *out, uint32_t i, uint32_t lanes) {
  const zg_inst *in = &s->d->inst[i];
  zg_str_add(out, "a%u = zg_w%s_%c(a%u, %u);\n", i, zg__loop_red_name(in), zg__cls_letter((zg_cls)in->cls), i,
             lanes);
}

// All reductions of phase p over the block: warps, then the warps' results. Every thread gets rN.
static void put_block_reduce(const zg__space *s, zg_str *out, uint32_t p, uint32_t threads) {
  bool any = false;
  for (uint32_t i = 0; i < s->d->n_inst; i++) {
    if (!is_reduction(s, i, p)) continue;
    put_warp_reduce(s, out, i, ZG_MIN(threads, 32u));
    zg_str_add(out, "ZG_SHARED %s s%u[32];\nif (threadIdx.x %% 32 == 0) s%u[threadIdx.x / 32] = a%u;\n",
               zg__cls_type((zg_cls)s->d->inst[i].cls), i, i, i);
    any = true;
  }
  if (any) zg_str_add(out, "zg_sync();\n");
  for (uint32_t i = 0; i < s->d->n_inst; i++) {
    if (!is_reduction(s, i, p)) continue;
    zg_str_add(out, "a%u = threadIdx.x %% 32 < %uu ? s%u[threadIdx.x %% 32] : ", i, threads / 32, i);
    zg__loop_identity(out, &s->d->inst[i]);
    zg_str_add(out, ";\n");
    put_warp_reduce(s, out, i, 32);
    zg_str_add(out, "const %s r%u = a%u;\n", zg__cls_type((zg_cls)s->d->inst[i].cls), i, i);
  }
}

static void put_group_reduce(const zg__space *s, zg_str *out, uint32_t p, uint32_t lanes) {
  for (uint32_t i = 0; i < s->d->n_inst; i++) {
    if (!is_reduction(s, i, p)) continue;
    put_warp_reduce(s, out, i, lanes);
    zg_str_add(out, "const %s r%u = a%u;\n", zg__cls_type((zg_cls)s->d->inst[i].cls), i, i);
  }
}

static bool has_row_store(const zg__space *s, uint32_t p) {
  for (uint32_t i = 0; i < s->d->n_inst; i++)
    if (s->d->inst[i].kind == ZG_I_STORE && s->phase[i] == p && !zg__space_elem(s, &s->d->inst[i]))
      return true;
  return false;
}

// Row-level stores of phase p by one thread, after all have read what they may overwrite.
static void put_row_stores(const zg__space *s, zg_str *out, uint32_t p, const char *who,
                           const char *barrier) {
  if (!has_row_store(s, p)) return;
  zg_str_add(out, "%sif (%s) {\n", barrier, who);
  zg__loop_row_stores(s, out, p);
  zg_str_add(out, "}\n");
}

static zg_status emit_group(const zg__space *s, uint32_t lanes, zg__code *out) {
  const uint64_t rows = (uint64_t)s->size[ZG__AT_OUTER];
  const uint32_t per_block = GROUP_THREADS / lanes;
  const char *t = linear_type(s);
  zg__draft d = {0};
  char end[48];
  zg__loop_params(s, &d);
  zg_str_add(
      &d.body,
      "{\nconst unsigned lane = threadIdx.x %% %uu;\n%s row = (%s)blockIdx.x * %uu + threadIdx.x / %uu;\n",
      lanes, t, t, per_block, lanes);
  zg_str_add(&d.body, "const int live = row < %lluu;\nif (!live) row = %lluu;\n", (unsigned long long)rows,
             (unsigned long long)rows - 1);
  zg_str_add(&d.body, "const %s end = live ? %lldu : 0u;\n", t, (long long)s->size[ZG__AT_INNER]);
  snprintf(end, sizeof end, "end");
  zg__loop_indices(s, &d.body, ZG__AT_OUTER, "row");
  for (uint32_t p = 0; p < s->n_phases; p++) {
    zg__loop_row_code(s, &d.body, p, NULL);
    put_phase(s, &d.body, p, "0u", end, "lane", lanes);
    put_group_reduce(s, &d.body, p, lanes);
    put_row_stores(s, &d.body, p, "live && lane == 0", "zg_syncwarp();\n");
  }
  zg_str_add(&d.body, "}");
  return zg__draft_launch(&d, out, (rows + per_block - 1) / per_block, 1, GROUP_THREADS, 0);
}

static zg_status emit_block(const zg__space *s, uint32_t threads, zg__code *out) {
  zg__draft d = {0};
  char end[48];
  zg__loop_params(s, &d);
  zg_str_add(&d.body, "{\nconst unsigned row = blockIdx.x;\n");
  snprintf(end, sizeof end, "%lldu", (long long)s->size[ZG__AT_INNER]);
  zg__loop_indices(s, &d.body, ZG__AT_OUTER, "row");
  for (uint32_t p = 0; p < s->n_phases; p++) {
    zg__loop_row_code(s, &d.body, p, NULL);
    put_phase(s, &d.body, p, "0u", end, "threadIdx.x", threads);
    put_block_reduce(s, &d.body, p, threads);
    put_row_stores(s, &d.body, p, "threadIdx.x == 0", "zg_sync();\n");
  }
  zg_str_add(&d.body, "}");
  return zg__draft_launch(&d, out, (uint64_t)s->size[ZG__AT_OUTER], 1, threads, 0);
}

// ---- split rows
// -----------------------------------------------------------------------------------------------------------
// Partials in the workspace: of each reduction, [row][chunk].
static uint64_t partial_bytes(const zg__space *s, uint32_t i, uint64_t n) {
  return zg_round_up(n * (s->d->inst[i].cls == ZG_CLS_F32 ? 4 : 8), 64);
}

static void add_partials(const zg__space *s, zg__draft *d, uint32_t from_phase, uint32_t to_phase,
                         uint64_t n) {
  uint64_t at = 0;
  for (uint32_t i = 0; i < s->d->n_inst; i++) {
    if (!s->used[i] || s->d->inst[i].kind != ZG_I_REDUCE) continue;
    char name[16];
    snprintf(name, sizeof name, "w%u", i);
    if (s->phase[i] >= from_phase && s->phase[i] < to_phase)
      zg__draft_param(d, zg__cls_type((zg_cls)s->d->inst[i].cls), name,
                      (zg__param){.kind = ZG__P_WORK, .at = at});
    at += partial_bytes(s, i, n);
  }
}

static uint64_t all_partials(const zg__space *s, uint64_t n) {
  uint64_t at = 0;
  for (uint32_t i = 0; i < s->d->n_inst; i++)
    if (s->used[i] && s->d->inst[i].kind == ZG_I_REDUCE) at += partial_bytes(s, i, n);
  return at;
}

// May a row-level result take a row-level operand's memory? It would change it under the other blocks of the
// row. Which buffers share memory is planned later, so whatever may is taken to.
static bool row_alias(const zg__space *s) {
  for (uint32_t o = 0; o < s->d->n_inst; o++) {
    const zg_inst *st = &s->d->inst[o];
    if (st->kind != ZG_I_STORE || zg__space_elem(s, st)) continue;
    for (uint32_t a = s->k->n_out; a < s->k->n_args; a++)
      if (s->k->args[a].buf == s->k->args[st->b].buf || zg_loop_may_alias(s->k, st->b, a)) return true;
  }
  return false;
}

// Reductions of phase q again, from the partials.
static void put_split_reduce(const zg__space *s, zg_str *out, uint32_t q, uint32_t chunks) {
  for (uint32_t i = 0; i < s->d->n_inst; i++) {
    if (!is_reduction(s, i, q)) continue;
    zg_str_add(out, "%s a%u = threadIdx.x < %uu ? a.w%u[row * %uu + threadIdx.x] : ",
               zg__cls_type((zg_cls)s->d->inst[i].cls), i, chunks, i, chunks);
    zg__loop_identity(out, &s->d->inst[i]);
    zg_str_add(out, ";\n");
  }
  put_block_reduce(s, out, q, SPLIT_THREADS);
}

static zg_status emit_split_phase(const zg__space *s, uint32_t p, uint32_t chunks, zg__code *out) {
  const uint64_t rows = (uint64_t)s->size[ZG__AT_OUTER], cols = (uint64_t)s->size[ZG__AT_INNER];
  const uint64_t chunk = zg_round_up((cols + chunks - 1) / chunks, s->vec);
  bool *need = zg_alloc(s->d->n_inst + 1);
  const bool loops = zg__space_need(s, p, need) > 0;
  zg_free(need);
  zg__draft d = {0};
  zg__loop_params(s, &d);
  add_partials(s, &d, 0, p + 1, rows * chunks);
  zg_str_add(&d.body, "{\nconst unsigned row = blockIdx.x, chunk = blockIdx.y;\n");
  zg__loop_indices(s, &d.body, ZG__AT_OUTER, "row");
  for (uint32_t q = 0; q < p; q++) {
    zg__loop_row_code(s, &d.body, q, NULL);
    put_split_reduce(s, &d.body, q, chunks);
  }
  zg__loop_row_code(s, &d.body, p, NULL);
  zg_str_add(&d.body,
             "const %s begin = (%s)chunk * %lluu;\n%s end = begin + %lluu;\nif (end > %lluu) end = %lluu;\n",
             linear_type(s), linear_type(s), (unsigned long long)chunk, linear_type(s),
             (unsigned long long)chunk, (unsigned long long)cols, (unsigned long long)cols);
  put_phase(s, &d.body, p, "begin", "end", "threadIdx.x", SPLIT_THREADS);
  put_block_reduce(s, &d.body, p, SPLIT_THREADS);
  for (uint32_t i = 0; i < s->d->n_inst; i++)
    if (is_reduction(s, i, p))
      zg_str_add(&d.body, "if (threadIdx.x == 0) a.w%u[row * %uu + chunk] = r%u;\n", i, chunks, i);
  if (!row_alias(s)) put_row_stores(s, &d.body, p, "threadIdx.x == 0 && chunk == 0", "zg_sync();\n");
  zg_str_add(&d.body, "(void)begin; (void)end;\n}");
  return zg__draft_launch(&d, out, rows, loops ? chunks : 1, SPLIT_THREADS, 0);
}

// Row-level results, in a launch of their own after all blocks have read what they may overwrite.
static zg_status emit_split_stores(const zg__space *s, uint32_t chunks, zg__code *out) {
  const uint64_t rows = (uint64_t)s->size[ZG__AT_OUTER];
  zg__draft d = {0};
  zg__loop_params(s, &d);
  add_partials(s, &d, 0, s->n_phases, rows * chunks);
  zg_str_add(&d.body, "{\nconst unsigned row = blockIdx.x;\n");
  zg__loop_indices(s, &d.body, ZG__AT_OUTER, "row");
  for (uint32_t p = 0; p < s->n_phases; p++) {
    zg__loop_row_code(s, &d.body, p, NULL);
    put_split_reduce(s, &d.body, p, chunks);
    put_row_stores(s, &d.body, p, "threadIdx.x == 0", "zg_sync();\n");
  }
  zg_str_add(&d.body, "}");
  return zg__draft_launch(&d, out, rows, 1, SPLIT_THREADS, 0);
}

static zg_status emit_split(const zg__space *s, uint32_t chunks, zg__code *out) {
  out->workspace = all_partials(s, (uint64_t)s->size[ZG__AT_OUTER] * chunks);
  for (uint32_t p = 0; p < s->n_phases; p++) ZG_TRY(emit_split_phase(s, p, chunks, out));
  return row_alias(s) ? emit_split_stores(s, chunks, out) : NULL;
}

static zg_status emit_rows(const zg__space *s, const zg__target *t, zg__code *out) {
  const uint64_t rows = (uint64_t)s->size[ZG__AT_OUTER], cols = (uint64_t)s->size[ZG__AT_INNER];
  const uint64_t vectors = (cols + s->vec - 1) / s->vec;
  const uint64_t enough = 2 * (uint64_t)ZG_MAX(t->sms, 1);  // blocks that fill the device
  if (vectors <= 128 || (rows >= 16 * enough && vectors <= 256))
    return emit_group(s, pow2_at_least(vectors, 32), out);
  if (rows < enough && vectors >= 8 * SPLIT_THREADS) {
    const uint64_t want = ZG_MIN((enough + rows - 1) / rows, vectors / (4 * SPLIT_THREADS));
    if (want > 1) return emit_split(s, (uint32_t)ZG_MIN(want, (uint64_t)MAX_CHUNKS), out);
  }
  return emit_block(s, ZG_MAX(pow2_at_least(vectors / 4, 1024), 128u), out);
}

// ---- columns
// --------------------------------------------------------------------------------------------------------------
// Columns are the (outer, inner) places. Partials: of each reduction, [chunk][column].
typedef struct {
  uint32_t width, height, chunks;
  uint64_t blocks, columns, chunk;
} column_plan;

static column_plan plan_columns(const zg__space *s, const zg__target *t) {
  column_plan c = {.width = pow2_at_least((uint64_t)s->size[ZG__AT_INNER], 32)};
  const uint64_t mid = (uint64_t)s->size[ZG__AT_MID], enough = 2 * (uint64_t)ZG_MAX(t->sms, 1);
  c.height = COLUMN_THREADS / c.width;
  c.columns = (uint64_t)(s->size[ZG__AT_OUTER] * s->size[ZG__AT_INNER]);
  c.blocks = (uint64_t)s->size[ZG__AT_OUTER] * (((uint64_t)s->size[ZG__AT_INNER] + c.width - 1) / c.width);
  const uint64_t useful = ZG_MAX(mid / (8 * c.height), 1u),
                 want = c.blocks ? (enough + c.blocks - 1) / c.blocks : 1;
  c.chunks = (uint32_t)ZG_MIN(ZG_MIN(want, useful), (uint64_t)MAX_CHUNKS);
  c.chunk = (mid + c.chunks - 1) / c.chunks;
  return c;
}

// Row code of phase 0 that element code reads.
static void elem_row_needs(const zg__space *s, const bool *need, bool *want) {
  memset(want, 0, s->d->n_inst);
  for (uint32_t i = s->d->n_inst; i-- > 0;) {
    uint32_t ops[3];
    const uint32_t n = zg_inst_operands(&s->d->inst[i], ops);
    if (!need[i] && !want[i]) continue;
    for (uint32_t o = 0; o < n; o++)
      if (!zg__space_elem(s, &s->d->inst[ops[o]])) want[ops[o]] = true;
  }
}

static void put_column_reduce(const zg__space *s, zg_str *out, const column_plan *c) {
  for (uint32_t i = 0; i < s->d->n_inst; i++) {
    const zg_inst *in = &s->d->inst[i];
    if (!is_reduction(s, i, 0)) continue;
    zg_str_add(out, "ZG_SHARED %s s%u[%u];\ns%u[threadIdx.x] = a%u;\n", zg__cls_type((zg_cls)in->cls), i,
               (unsigned)COLUMN_THREADS, i, i);
  }
  zg_str_add(out, "for (unsigned h = %uu; h > 0; h /= 2) {\nzg_sync();\nif (ty < h) {\n", c->height / 2);
  for (uint32_t i = 0; i < s->d->n_inst; i++) {
    const zg_inst *in = &s->d->inst[i];
    if (is_reduction(s, i, 0))
      zg_str_add(out, "s%u[threadIdx.x] = zg_r%s_%c(s%u[threadIdx.x], s%u[threadIdx.x + h * %uu]);\n", i,
                 zg__loop_red_name(in), zg__cls_letter((zg_cls)in->cls), i, i, c->width);
  }
  zg_str_add(out, "}\n}\n");
}

static void put_column_tail(const zg__space *s, zg_str *out, bool after_elements, const bool *done) {
  for (uint32_t p = 0; p < s->n_phases; p++) {
    bool *want = zg_alloc(s->d->n_inst + 1);
    for (uint32_t i = 0; i < s->d->n_inst; i++) want[i] = !(after_elements && p == 0 && done[i]);
    zg__loop_row_code(s, out, p, want);
    zg__loop_row_stores(s, out, p);
    zg_free(want);
  }
}

static zg_status emit_column_first(const zg__space *s, const column_plan *c, zg__code *out) {
  const char *t = linear_type(s);
  const uint64_t inner = (uint64_t)s->size[ZG__AT_INNER], tiles = (inner + c->width - 1) / c->width;
  bool *need = zg_alloc(s->d->n_inst + 1), *want = zg_alloc(s->d->n_inst + 1);
  zg__draft d = {0};
  zg__loop_params(s, &d);
  if (c->chunks > 1) add_partials(s, &d, 0, 1, c->columns * c->chunks);
  zg__space_need(s, 0, need);
  elem_row_needs(s, need, want);
  zg_str_add(&d.body,
             "{\nconst unsigned tx = threadIdx.x %% %uu, ty = threadIdx.x / %uu, chunk = blockIdx.y;\n",
             c->width, c->width);
  zg_str_add(&d.body,
             "const %s outer = (%s)blockIdx.x / %lluu;\n%s inner = (%s)blockIdx.x %% %lluu * %uu + tx;\n", t,
             t, (unsigned long long)tiles, t, t, (unsigned long long)tiles, c->width);
  zg_str_add(&d.body, "const int live = inner < %lluu;\nif (!live) inner = %lluu;\n",
             (unsigned long long)inner, (unsigned long long)inner - 1);
  zg__loop_indices(s, &d.body, ZG__AT_OUTER, "outer");
  zg__loop_indices(s, &d.body, ZG__AT_INNER, "inner");
  zg__loop_row_code(s, &d.body, 0, want);
  for (uint32_t i = 0; i < s->d->n_inst; i++)
    if (is_reduction(s, i, 0)) {
      zg_str_add(&d.body, "%s a%u = ", zg__cls_type((zg_cls)s->d->inst[i].cls), i);
      zg__loop_identity(&d.body, &s->d->inst[i]);
      zg_str_add(&d.body, ";\n");
    }
  zg_str_add(&d.body,
             "%s end = ((%s)chunk + 1) * %lluu;\nif (end > %lldu) end = %lldu;\nif (!live) end = 0;\n", t, t,
             (unsigned long long)c->chunk, (long long)s->size[ZG__AT_MID], (long long)s->size[ZG__AT_MID]);
  zg_str_add(&d.body, "for (%s m = (%s)chunk * %lluu + ty; m < end; m += %uu) {\n", t, t,
             (unsigned long long)c->chunk, c->height);
  zg__loop_indices(s, &d.body, ZG__AT_MID, "m");
  zg__loop_elements(s, &d.body, 0, need, 1);
  zg_str_add(&d.body, "}\n");
  put_column_reduce(s, &d.body, c);
  zg_str_add(&d.body, "if (live && ty == 0) {\n");
  for (uint32_t i = 0; i < s->d->n_inst; i++) {
    if (!is_reduction(s, i, 0)) continue;
    if (c->chunks > 1)
      zg_str_add(&d.body,
                 "a.w%u[(zg_i64)chunk * %lluu + (zg_i64)outer * %lluu + inner] = s%u[threadIdx.x];\n", i,
                 (unsigned long long)c->columns, (unsigned long long)inner, i);
    else
      zg_str_add(&d.body, "const %s r%u = s%u[threadIdx.x];\n", zg__cls_type((zg_cls)s->d->inst[i].cls), i,
                 i);
  }
  if (c->chunks == 1) put_column_tail(s, &d.body, true, want);
  zg_str_add(&d.body, "}\n}");
  zg_free(need);
  zg_free(want);
  return zg__draft_launch(&d, out, c->blocks, c->chunks, COLUMN_THREADS, 0);
}

static zg_status emit_column_second(const zg__space *s, const column_plan *c, zg__code *out) {
  const char *t = linear_type(s);
  zg__draft d = {0};
  zg__loop_params(s, &d);
  add_partials(s, &d, 0, 1, c->columns * c->chunks);
  zg_str_add(&d.body,
             "{\nconst %s column = (%s)blockIdx.x * %uu + threadIdx.x;\nif (column >= %lluu) return;\n", t, t,
             (unsigned)COLUMN_THREADS, (unsigned long long)c->columns);
  zg_str_add(&d.body,
             "const %s outer = column / %lldu, inner = column %% %lldu;\n(void)outer; (void)inner;\n", t,
             (long long)s->size[ZG__AT_INNER], (long long)s->size[ZG__AT_INNER]);
  zg__loop_indices(s, &d.body, ZG__AT_OUTER, "outer");
  zg__loop_indices(s, &d.body, ZG__AT_INNER, "inner");
  for (uint32_t i = 0; i < s->d->n_inst; i++) {
    const zg_inst *in = &s->d->inst[i];
    if (!is_reduction(s, i, 0)) continue;
    zg_str_add(&d.body, "%s r%u = a.w%u[column];\n", zg__cls_type((zg_cls)in->cls), i, i);
    zg_str_add(&d.body,
               "for (int c = 1; c < %u; c++) r%u = zg_r%s_%c(r%u, a.w%u[(zg_i64)c * %lluu + column]);\n",
               c->chunks, i, zg__loop_red_name(in), zg__cls_letter((zg_cls)in->cls), i, i,
               (unsigned long long)c->columns);
  }
  put_column_tail(s, &d.body, false, NULL);
  zg_str_add(&d.body, "}");
  return zg__draft_launch(&d, out, (c->columns + COLUMN_THREADS - 1) / COLUMN_THREADS, 1, COLUMN_THREADS, 0);
}

static zg_status emit_columns(const zg__space *s, const zg__target *t, zg__code *out) {
  const column_plan c = plan_columns(s, t);
  if (c.columns == 0) return NULL;
  if (c.chunks > 1) out->workspace = all_partials(s, c.columns * c.chunks);
  ZG_TRY(emit_column_first(s, &c, out));
  return c.chunks > 1 ? emit_column_second(s, &c, out) : NULL;
}

zg_status zg__emit_loop(const zg_kernel *k, const zg__target *t, zg__code *out) {
  zg__space s;
  zg_status status = NULL;
  zg__space_init(&s, k);
  if (s.d->n_mid) status = emit_columns(&s, t, out);
  else if (s.flat) status = s.size[ZG__AT_INNER] ? emit_flat(&s, out) : NULL;
  else if (s.size[ZG__AT_OUTER]) status = emit_rows(&s, t, out);
  zg__space_fini(&s);
  return zg_status_prefix(status, "%s: ", k->label);
}
