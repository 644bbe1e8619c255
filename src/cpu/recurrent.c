// Recurrent layers forward and backward: the time loop of an LSTM, GRU or RNN inside one kernel.
//
//   forward    step: gates = h R^T for a panel of units, then the cell's arithmetic on them while they are hot
//   backward   step: dh = dgates R for a panel of units, then the gates' gradient of the time step before
//
// A job is one panel of units for some rows of the batch; a time step is a run of the pool, for its end is the
// barrier that the next step needs. R is packed once a call, as panels that products read in order: 4 MB for 512
// units, so the second caches hold each thread's panels from step to step. Sums run over the state in an order given
// by shapes alone: results do not depend on threads. Operands are f32; other types go to the reference.
//
// oneDNN's vanilla_lstm (2.6, forward_training and backward) was measured beside it on 2 cores of Zen 4: a layer of 256
// units, 64 steps, batch 16 takes 5.4 + 10.7 ms with its products for the weights' gradients, its own weight layouts
// and a workspace of 20 MB. Here the loops take 2.8 + 2.9 ms, which leaves 10.4 ms for the four products over all steps,
// and the states that the next layer reads are tensors of the schedule.
#include "cpu/cpu.h"
#include "graph/core.h"
#include "sched/reference.h"

enum { ROWS = 64 };             // of the batch in one job
enum { SMALL_STEP = 250000 };   // flops below which a step is not worth waking threads: about 2 us

typedef struct {
  const cpu_call *c;
  int64_t cell, T, B, H, G, S;
  bool grad, reverse;
  int64_t width, panels, blocks;  // units of a panel (the last one's are padded), panels, groups of rows
  int64_t inner;                  // elements that a product sums over
  float *packed, *carry, *dpre;   // workspace; dpre: GRU, two steps' worth
  int64_t i;                      // step of the walk
} job;

// Panels of 32 units keep the products' registers full; of 16, where there are few units, so that threads find work.
static int64_t width_of(int64_t H) { return H >= 128 ? 32 : 16; }

static job job_of(const zg_kernel *k, const cpu_call *c) {
  const zg_recurrent_desc *d = k->desc;
  const bool grad = k->kind == ZG_K_RECURRENT_GRAD;
  const zg_view *hs = &k->args[grad ? 4 : 0];
  job j = {.c = c, .cell = d->cell, .T = hs->dim[0] - 1, .B = hs->dim[1], .H = hs->dim[2], .G = zg_cell_gates(d->cell),
           .S = zg_cell_saved(d->cell), .grad = grad, .reverse = d->reverse};
  j.width = width_of(j.H);
  j.panels = (j.H + j.width - 1) / j.width;
  j.blocks = (j.B + ROWS - 1) / ROWS;
  j.inner = grad ? j.G * j.H : j.H;
  if (!c) return j;
  j.packed = (float *)c->workspace;
  j.carry = j.packed + j.panels * j.width * j.G * j.H;
  j.dpre = j.carry + j.B * j.H;
  return j;
}

static bool narrow(const zg_kernel *k) {
  for (uint32_t a = 0; a < k->n_args; a++)
    if (k->args[a].buf && k->args[a].dtype != ZG_F32) return false;
  return true;
}

uint64_t cpu_recurrent_scratch(const zg_kernel *k) {
  if (!narrow(k)) return 0;
  const job j = job_of(k, NULL);
  return sizeof(float) * (uint64_t)(ROWS * j.width * (j.grad ? 1 : j.G));
}
uint64_t cpu_recurrent_workspace(const zg_kernel *k) {
  if (!narrow(k)) return 0;
  const job j = job_of(k, NULL);
  const int64_t state = j.B * j.H;
  return sizeof(float) * (uint64_t)(j.panels * j.width * j.G * j.H + (j.grad ? state + 2 * j.G * state : 0));
}

static float *arg(const job *j, uint32_t a, int64_t at) {   // element `at`; NULL for an argument that is not there
  const zg_view *v = a < j->c->k->n_args ? &j->c->k->args[a] : NULL;
  return v && v->buf ? (float *)cpu_at(j->c, a, v->offset + at) : NULL;
}

// ---- packing
// Forward: [panel][gate][H][width] of R's transpose; backward: [panel][G*H][width] of R. Products over the padding are not
// read; it is zero because arithmetic on whatever lies there, denormals, may be slow.
static void pack_forward(const job *j, int64_t panel) {
  const int64_t H = j->H, w = j->width, n = ZG_MIN(w, H - panel * w);
  for (int64_t g = 0; g < j->G; g++) {
    const float *from = arg(j, 4, (g * H + panel * w) * H);
    float *to = j->packed + (panel * j->G + g) * H * w;
    if (n == w && H % 16 == 0) {
      j->c->vec->tile_transpose(w, H, from, H, to, w);
      continue;
    }
    if (n < w) memset(to, 0, sizeof *to * (size_t)(H * w));
    for (int64_t u = 0; u < n; u++)
      for (int64_t k = 0; k < H; k++) to[k * w + u] = from[u * H + k];
  }
}
static void pack_backward(const job *j, int64_t panel) {
  const int64_t H = j->H, w = j->width, n = ZG_MIN(w, H - panel * w);
  const float *from = arg(j, 6, panel * w);
  float *to = j->packed + panel * j->G * H * w;
  if (n < w) memset(to, 0, sizeof *to * (size_t)(j->G * H * w));
  for (int64_t k = 0; k < j->G * H; k++) memcpy(to + k * w, from + k * H, sizeof *to * (size_t)n);
}
static void pack(void *arg, int64_t panel, int thread) {
  (void)thread;
  const job *j = arg;
  if (j->grad) pack_backward(j, panel);
  else pack_forward(j, panel);
}

// ---- steps
// A job's place: rows b .. b+m, units u .. u+n, and the time step with its slots of states before and after.
typedef struct { int64_t b, m, u, n, panel, t, from, to; } place;

static place place_of(const job *j, int64_t chunk) {
  const int64_t t = j->reverse ? j->T - 1 - j->i : j->i;
  place p = {.b = chunk % j->blocks * ROWS, .panel = chunk / j->blocks, .t = t, .from = j->reverse ? t + 1 : t, .to = j->reverse ? t : t + 1};
  p.m = ZG_MIN(ROWS, j->B - p.b);
  p.u = p.panel * j->width;
  p.n = ZG_MIN(j->width, j->H - p.u);
  return p;
}
static int64_t state_at(const job *j, const place *p, int64_t slot) { return (slot * j->B + p->b) * j->H + p->u; }
static int64_t gates_at(const job *j, const place *p, int64_t gates) { return (p->t * j->B + p->b) * gates * j->H + p->u; }

// Rows that the cell will read or write, gates H apart, while a product runs: their short pieces are too far apart for the
// processor to foresee. (Five per cent of the forward, where the machine is busy.)
static void fetch(const job *j, const place *p, const float *at, int64_t gates) {
  const int64_t row = gates * j->H;
  for (int64_t i = 0; at && i < p->m; i++)
    for (int64_t g = 0; g < gates; g++)
      for (int64_t u = 0; u < p->n; u += 16) __builtin_prefetch(at + i * row + g * j->H + u, 0, 2);
}

static void forward(void *a, int64_t chunk, int thread) {
  const job *j = a;
  const place p = place_of(j, chunk);
  float *pre = (float *)j->c->scratch[thread];
  fetch(j, &p, arg(j, 3, gates_at(j, &p, j->G)), j->G);
  fetch(j, &p, arg(j, 1, gates_at(j, &p, j->S)), j->S);
  for (int64_t g = 0; g < j->G; g++)
    j->c->vec->cell_gemm(p.m, j->width, j->H, arg(j, 0, (p.from * j->B + p.b) * j->H), j->H,
                         j->packed + (p.panel * j->G + g) * j->H * j->width, pre + g * p.m * j->width);
  const zg_cell_forward r = {.m = p.m, .n = p.n, .H = j->H, .pre = pre, .width = j->width, .x = arg(j, 3, gates_at(j, &p, j->G)),
                             .h = arg(j, 0, state_at(j, &p, p.from)), .h_new = arg(j, 0, state_at(j, &p, p.to)),
                             .c = arg(j, 2, state_at(j, &p, p.from)), .c_new = arg(j, 2, state_at(j, &p, p.to)),
                             .extra = arg(j, 6, p.u), .saved = arg(j, 1, gates_at(j, &p, j->S))};
  j->c->vec->cell_forward[j->cell](&r);
}

// What the products of the step walked before read: the gradient of its gates, [B, G*H].
static float *gates_grad(const job *j, int64_t i) {
  if (j->cell == ZG_CELL_GRU) return j->dpre + i % 2 * j->B * j->G * j->H;
  return arg(j, 0, (j->reverse ? j->T - 1 - i : i) * j->B * j->G * j->H);
}

static const float *through_weight(const job *j, const place *p, int64_t i, int thread) {
  if (i >= j->T) return NULL;   // nothing comes from behind the last step
  float *rec = (float *)j->c->scratch[thread];
  j->c->vec->cell_gemm(p->m, j->width, j->inner, gates_grad(j, i) + p->b * j->G * j->H, j->G * j->H,
                       j->packed + p->panel * j->inner * j->width, rec);
  return rec;
}

static void backward(void *a, int64_t chunk, int thread) {
  const job *j = a;
  const place p = place_of(j, chunk);
  fetch(j, &p, arg(j, 3, gates_at(j, &p, j->S)), j->S);
  fetch(j, &p, arg(j, 0, gates_at(j, &p, j->G)), j->G);
  fetch(j, &p, arg(j, 7, state_at(j, &p, p.to)), 1);
  const zg_cell_backward r = {.m = p.m, .n = p.n, .H = j->H, .rec = through_weight(j, &p, j->i + 1, thread), .width = j->width,
                              .saved = arg(j, 3, gates_at(j, &p, j->S)), .h = arg(j, 4, state_at(j, &p, p.from)),
                              .h_new = arg(j, 4, state_at(j, &p, p.to)), .c = arg(j, 5, state_at(j, &p, p.from)),
                              .c_new = arg(j, 5, state_at(j, &p, p.to)), .dhs = arg(j, 7, state_at(j, &p, p.to)),
                              .dcs = arg(j, 8, state_at(j, &p, p.to)), .carry = j->carry + p.b * j->H + p.u,
                              .dx = arg(j, 0, gates_at(j, &p, j->G)), .dpre = gates_grad(j, j->i) + p.b * j->G * j->H + p.u};
  j->c->vec->cell_backward[j->cell](&r);
}

// What has reached the first states.
static void backward_end(void *a, int64_t chunk, int thread) {
  const job *j = a;
  place p = place_of(j, chunk);
  const int64_t first = j->reverse ? j->T : 0;
  const float *rec = arg(j, 1, 0) ? through_weight(j, &p, 0, thread) : NULL;
  for (int64_t i = 0; i < p.m; i++) {
    const int64_t at = (p.b + i) * j->H + p.u, slot = first * j->B * j->H + at;
    const float *dhs = arg(j, 7, slot), *dcs = arg(j, 8, slot), *carry = j->carry + at;
    float *dh0 = arg(j, 1, at), *dc0 = arg(j, 2, at);
    for (int64_t u = 0; dh0 && u < p.n; u++)
      dh0[u] = dhs[u] + (rec ? rec[i * j->width + u] : 0) + (j->cell == ZG_CELL_GRU ? carry[u] : 0);
    for (int64_t u = 0; dc0 && j->cell == ZG_CELL_LSTM && u < p.n; u++) dc0[u] = (dcs ? dcs[u] : 0) + carry[u];
  }
}

// ---- walking
static void walk_forward(job *j, zg_pool *pool) {
  const int64_t state = j->B * j->H, first = (j->reverse ? j->T : 0) * state;
  memcpy(arg(j, 0, first), arg(j, 5, 0), sizeof(float) * (size_t)state);
  if (j->cell == ZG_CELL_LSTM) memcpy(arg(j, 2, first), arg(j, 6, 0), sizeof(float) * (size_t)state);
  for (j->i = 0; j->i < j->T; j->i++) zg_pool_run(pool, j->panels * j->blocks, forward, j);
}

static void walk_backward(job *j, zg_pool *pool) {
  memset(j->carry, 0, sizeof(float) * (size_t)(j->B * j->H));
  for (j->i = j->T - 1; j->i >= 0; j->i--) zg_pool_run(pool, j->panels * j->blocks, backward, j);
  j->i = 0;
  zg_pool_run(pool, j->panels * j->blocks, backward_end, j);
}

zg_status cpu_recurrent(const cpu_call *c) {
  if (!narrow(c->k)) return zg_kernel_reference(c->k, c->base, (zg_rand_state){{0}, 0});
  job j = job_of(c->k, c);
  if (j.B * j.H == 0) return NULL;   // every result is empty
  zg_pool *pool = 2 * j.B * j.G * j.H * j.H < SMALL_STEP ? NULL : c->pool;
  zg_pool_run(pool, j.panels, pack, &j);
  if (j.grad) walk_backward(&j, pool);
  else walk_forward(&j, pool);
  return NULL;
}
