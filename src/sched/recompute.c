// opt_recompute: trades time for memory. Values that the forward pass makes and the backward pass reads are kept between the
// two; here some are computed again by the backward pass, just before it reads them.
//   - cheap: what to keep is a minimum cut between what must be kept or is there anyway (results of matmul, conv, reductions,
//     leaves) and what the backward pass reads. Capacities are bytes; only scalar maps and views may lie behind the cut. A value
//     that is joined again after further matmuls (the residual stream) is not cut through: recomputing it would chain
//     through all layers
//   - blocks: the forward pass is cut where few bytes cross. Of the first `blocks` blocks only crossing values are kept, and
//     results of reductions; the rest of a block is recomputed
//   - reductions are never recomputed: their results are small, and their last bits depend on how a device cuts the kernel that
//     they were fused into
//   - a recomputed node reads kept values through `barrier`, or the builder would find the first computation again
// Why the first blocks: all blocks weigh the same at the peak, where the forward ends, but a late block's values live so
// shortly that recomputing them frees nothing while the peak lasts.
// Sources: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", section 3 (blocks); Ford & Fulkerson's theorem
// with Dinic's algorithm (1970) for the cut.
// Cost: linear for blocks; the cut's graph is made of short chains between matmuls, on which Dinic is near-linear.
#include "sched/recompute.h"

#include <stdlib.h>

#include "sched/lower_priv.h"

typedef struct {
  const zg_graph *g;
  zg_arena mem;
  uint8_t *phase;            // per node
  bool *live;                // per value
  bool *for_result;          // per node: the loss or a result of the model needs it
  uint32_t *root;            // per value: what it is a view of
  uint32_t *last;            // per root: last forward node that reads it
  bool *needed;              // per value: the backward or update reads it
  bool *needed_root;
  uint32_t *block;           // per node
  uint32_t n_blocks;
  bool *kept;                // per value
} plan;

static const zg_node *node_at(const plan *p, size_t i) { return &p->g->nodes.at[i]; }

static bool is_view(const zg_node *n) { return (n->op->traits & ZG_VIEW) != 0; }

// Forward nodes that compute: neither leaves nor constants. The gradients of a loss in chunks, made in the forward pass, are none of
// them: they would be made of the logits once more.
static bool computes(const plan *p, const zg_node *n) {
  size_t i = (size_t)(n - p->g->nodes.at);
  return p->phase[i] == ZG_PHASE_FORWARD && p->for_result[i] && p->live[n->out] && !(n->op->traits & ZG_LEAF) && n->op != &zg_op_fill && n->op != &zg_op_const;
}

static bool of_forward(const plan *p, uint32_t v) { return v && computes(p, zg_node_of(p->g, (zg_val){v})); }

static uint64_t bytes_of(const plan *p, uint32_t v) { return zg_type_bytes(&p->g->values.at[v].type); }

static void find_uses_by_phase(plan *p) {
  const zg_graph *g = p->g;
  for (size_t i = 0; i < g->nodes.n; i++) {
    const zg_node *n = &g->nodes.at[i];
    for (uint32_t k = 0; k < n->n_out; k++) p->root[n->out + k] = n->out + k;
    if (is_view(n)) p->root[n->out] = p->root[zg_in(g, n, 0).id];
    if (!zg__node_is_live(n, p->live)) continue;
    for (uint32_t k = 0; k < n->n_in; k++) {
      uint32_t v = zg_in(g, n, k).id;
      if (p->phase[i] == ZG_PHASE_FORWARD) p->last[p->root[v]] = (uint32_t)i;
      else p->needed[v] = p->needed_root[p->root[v]] = true;
    }
  }
}

// ---- blocks -------------------------------------------------------------------------------------------------------

// crossing[i]: bytes of forward values made up to node i and read by forward nodes after it.
static int64_t *find_crossing(plan *p) {
  const zg_graph *g = p->g;
  int64_t *crossing = ZG_NEW_N(&p->mem, int64_t, g->nodes.n + 1);
  for (uint32_t v = 1; v < g->values.n; v++) {
    uint32_t at = g->values.at[v].node;
    if (p->root[v] != v || !of_forward(p, v) || p->last[v] <= at) continue;
    crossing[at] += (int64_t)bytes_of(p, v);
    crossing[p->last[v]] -= (int64_t)bytes_of(p, v);
  }
  for (size_t i = 1; i < g->nodes.n; i++) crossing[i] += crossing[i - 1];
  return crossing;
}

// A block ends at the narrowest point once it has its share of what would be kept, within the half share that follows.
static void find_blocks(plan *p, uint32_t grain) {
  const zg_graph *g = p->g;
  int64_t *crossing = find_crossing(p);
  double total = 0, sum = 0;
  double *weight = ZG_NEW_N(&p->mem, double, g->nodes.n + 1);
  for (uint32_t v = 1; v < g->values.n; v++)
    if (p->needed_root[v] && of_forward(p, v)) weight[g->values.at[v].node] += (double)bytes_of(p, v), total += (double)bytes_of(p, v);
  double share = total / ZG_MAX(grain, 1u);
  uint32_t block = 0, first = 0, best = UINT32_MAX;
  for (uint32_t i = 0; i < g->nodes.n; i++) {
    sum += weight[i];
    bool forward = p->phase[i] == ZG_PHASE_FORWARD && !(g->nodes.at[i].op->traits & ZG_LEAF);
    if (forward && sum >= share && (best == UINT32_MAX || crossing[i] < crossing[best])) best = i;
    if (best == UINT32_MAX || (sum < 1.5 * share && i + 1 < g->nodes.n)) continue;
    for (uint32_t k = first; k <= best; k++) p->block[k] = block;
    block++;
    first = i = best;
    first++;
    sum = 0;
    best = UINT32_MAX;
  }
  for (size_t k = first; k < g->nodes.n; k++) p->block[k] = block;
  p->n_blocks = block + 1;
}

static void keep_of_blocks(plan *p, uint32_t blocks) {
  const zg_graph *g = p->g;
  for (uint32_t v = 1; v < g->values.n; v++) {
    if (p->root[v] != v || !of_forward(p, v)) continue;
    uint32_t at = g->values.at[v].node;
    bool crosses = p->last[v] > at && p->block[p->last[v]] != p->block[at];
    p->kept[v] = p->block[at] >= blocks || crosses || node_at(p, at)->op == &zg_op_reduce;
  }
}

// ---- the cut ------------------------------------------------------------------------------------------------------

typedef struct { uint32_t to, next; double left; } arc;   // arcs come in pairs: i and i ^ 1
typedef struct { ZG_VEC(arc) arcs; uint32_t *head, *depth, *at, n; } network;

static void add_arc(network *w, uint32_t from, uint32_t to, double capacity) {
  zg_vec_push(&w->arcs, ((arc){to, w->head[from], capacity}));
  w->head[from] = (uint32_t)w->arcs.n;   // + 1, so that 0 ends the list
  zg_vec_push(&w->arcs, ((arc){from, w->head[to], 0}));
  w->head[to] = (uint32_t)w->arcs.n;
}

static bool find_depths(network *w, uint32_t from, uint32_t to, uint32_t *queue) {
  memset(w->depth, 0, sizeof *w->depth * w->n);
  uint32_t n = 0;
  w->depth[from] = 1;
  queue[n++] = from;
  for (uint32_t i = 0; i < n; i++)
    for (uint32_t a = w->head[queue[i]]; a; a = w->arcs.at[a - 1].next) {
      const arc *x = &w->arcs.at[a - 1];
      if (x->left <= 0 || w->depth[x->to]) continue;
      w->depth[x->to] = w->depth[queue[i]] + 1;
      queue[n++] = x->to;
    }
  return w->depth[to] != 0;
}

static double push_flow(network *w, uint32_t from, uint32_t to, double most) {
  if (from == to) return most;
  for (uint32_t *a = &w->at[from]; *a; *a = w->arcs.at[*a - 1].next) {
    uint32_t i = *a - 1;
    if (w->arcs.at[i].left <= 0 || w->depth[w->arcs.at[i].to] != w->depth[from] + 1) continue;
    double flow = push_flow(w, w->arcs.at[i].to, to, ZG_MIN(most, w->arcs.at[i].left));
    if (flow <= 0) continue;
    w->arcs.at[i].left -= flow;
    w->arcs.at[i ^ 1].left += flow;
    return flow;
  }
  return 0;
}

static const double NO_LIMIT = 1e30;

static void max_flow(network *w, uint32_t from, uint32_t to, uint32_t *queue) {
  while (find_depths(w, from, to, queue)) {
    memcpy(w->at, w->head, sizeof *w->at * w->n);
    while (push_flow(w, from, to, NO_LIMIT) > 0) {}
  }
}

static bool is_cheap(const zg_node *n) {
  return (n->op->traits & (ZG_ELEMENTWISE | ZG_VIEW)) || n->op == &zg_op_iota || n->op == &zg_op_random;
}

// Values that a map joins with something that came through more matmuls.
static bool *find_joined(plan *p) {
  const zg_graph *g = p->g;
  bool *joined = ZG_NEW_N(&p->mem, bool, g->values.n);
  uint32_t *level = ZG_NEW_N(&p->mem, uint32_t, g->values.n);
  for (size_t i = 0; i < g->nodes.n; i++) {
    const zg_node *n = &g->nodes.at[i];
    if (!computes(p, n)) continue;
    uint32_t most = 0;
    bool heavy = !is_cheap(n) && n->op != &zg_op_reduce;
    for (uint32_t k = 0; k < n->n_in; k++) most = ZG_MAX(most, level[zg_in(g, n, k).id]);
    for (uint32_t k = 0; k < n->n_in && !heavy; k++) {
      uint32_t v = zg_in(g, n, k).id;
      if (level[v] && level[v] < most) joined[p->root[v]] = true;
    }
    for (uint32_t k = 0; k < n->n_out; k++) level[n->out + k] = most + heavy;
  }
  return joined;
}

// What to keep of the blocks from `blocks` on, so that all they need can be recomputed by cheap nodes.
static void keep_by_cut(plan *p, uint32_t blocks) {
  const zg_graph *g = p->g;
  uint32_t n = (uint32_t)g->values.n, source = 2 * n, sink = 2 * n + 1;
  network w = {.n = 2 * n + 2, .head = ZG_NEW_N(&p->mem, uint32_t, 2 * n + 2), .depth = ZG_NEW_N(&p->mem, uint32_t, 2 * n + 2),
               .at = ZG_NEW_N(&p->mem, uint32_t, 2 * n + 2)};
  bool *joined = find_joined(p);
  for (size_t i = 0; i < g->nodes.n; i++) {
    const zg_node *x = &g->nodes.at[i];
    if (!computes(p, x) || p->block[i] < blocks) continue;
    for (uint32_t k = 0; k < x->n_out; k++) {
      uint32_t v = x->out + k;
      add_arc(&w, 2 * v, 2 * v + 1, is_view(x) ? NO_LIMIT : (double)bytes_of(p, v));
      if (!is_cheap(x) || joined[v]) add_arc(&w, source, 2 * v, NO_LIMIT);
      if (p->needed[v]) add_arc(&w, 2 * v + 1, sink, NO_LIMIT);
      for (uint32_t j = 0; is_cheap(x) && j < x->n_in; j++) {
        uint32_t u = zg_in(g, x, j).id;
        if (of_forward(p, u) && p->block[g->values.at[u].node] >= blocks) add_arc(&w, 2 * u + 1, 2 * v, NO_LIMIT);
      }
    }
  }
  max_flow(&w, source, sink, ZG_NEW_N(&p->mem, uint32_t, 2 * n + 2));
  for (uint32_t v = 1; v < n; v++) {
    if (!of_forward(p, v) || p->root[v] != v || p->block[g->values.at[v].node] < blocks) continue;
    bool before = w.depth[2 * v] != 0, behind = w.depth[2 * v + 1] == 0;
    p->kept[v] = before || !behind;   // on the source's side, or cut: kept if the backward asks for it
  }
  zg_vec_fini(&w.arcs);
}

// Results of one node are kept together.
static void keep_together(plan *p) {
  for (size_t i = 0; i < p->g->nodes.n; i++) {
    const zg_node *n = node_at(p, i);
    bool any = false;
    for (uint32_t k = 0; k < n->n_out; k++) any = any || p->kept[n->out + k];
    for (uint32_t k = 0; k < n->n_out; k++) p->kept[n->out + k] = any;
  }
}

// ---- the new graph ------------------------------------------------------------------------------------------------

typedef struct { plan *p; zg_builder *b; zg_val *map, *again; } rewriting;

static zg_val value_for_backward(rewriting *r, uint32_t v);

static bool keeps(const plan *p, uint32_t v) { return !of_forward(p, v) || (p->root[v] == v && p->kept[v]); }

static zg_val apart(rewriting *r, const zg_node *n, zg_val x) {
  const zg_barrier_attr group = {1};
  zg_builder_origin(r->b, (zg_origin){n->origin.node, "recompute"});
  return zg_emit1(r->b, &zg_op_barrier, &group, &x, 1);
}

static void compute_again(rewriting *r, const zg_node *n) {
  const zg_graph *g = r->p->g;
  zg_val *in = ZG_NEW_N(&r->p->mem, zg_val, n->n_in + 1), *out = ZG_NEW_N(&r->p->mem, zg_val, n->n_out);
  bool differs = (n->op->traits & ZG_IMPURE) != 0;
  for (uint32_t k = 0; k < n->n_in; k++) {
    zg_val v = zg_in(g, n, k);
    in[k] = value_for_backward(r, v.id);
    if (of_forward(r->p, v.id) && zg_same(in[k], r->map[v.id])) in[k] = apart(r, n, in[k]);
    differs = differs || (zg_is(v) && !zg_same(in[k], r->map[v.id]));
  }
  for (uint32_t k = 0; k < n->n_in && !differs; k++) {   // leaves alone: one of them goes through a barrier
    zg_val v = zg_in(g, n, k);
    if (!zg_is(v) || zg_is_op(g, v, &zg_op_const) || zg_is_op(g, v, &zg_op_fill)) continue;
    in[k] = apart(r, n, in[k]);
    differs = true;
  }
  zg_builder_origin(r->b, (zg_origin){n->origin.node, "recompute"});
  if (!zg_emit(r->b, n->op, n->attr, in, n->n_in, out, n->n_out)) return;
  for (uint32_t k = 0; k < n->n_out; k++) r->again[n->out + k] = out[k];
}

// v as the backward pass shall read it: kept, or computed again.
static zg_val value_for_backward(rewriting *r, uint32_t v) {
  if (!v || keeps(r->p, v)) return r->map[v];
  if (!zg_is(r->again[v])) compute_again(r, zg_node_of(r->p->g, (zg_val){v}));
  return r->again[v];
}

static void copy_backward(rewriting *r, const zg_node *n) {
  const zg_graph *g = r->p->g;
  zg_val *in = ZG_NEW_N(&r->p->mem, zg_val, n->n_in + 1), *out = ZG_NEW_N(&r->p->mem, zg_val, n->n_out);
  for (uint32_t k = 0; k < n->n_in; k++) in[k] = value_for_backward(r, zg_in(g, n, k).id);
  zg_builder_origin(r->b, n->origin);
  if (!zg_emit(r->b, n->op, n->attr, in, n->n_in, out, n->n_out)) return;
  for (uint32_t k = 0; k < n->n_out; k++) {
    r->map[n->out + k] = out[k];
    zg_builder_name(r->b, out[k], g->values.at[n->out + k].name);
  }
}

static zg_status rewrite_graph(plan *p, zg_graph **out) {
  const zg_graph *g = p->g;
  rewriting r = {p, zg_builder_new(), ZG_NEW_N(&p->mem, zg_val, g->values.n), ZG_NEW_N(&p->mem, zg_val, g->values.n)};
  for (size_t i = 0; i < g->nodes.n && !zg_builder_failed(r.b); i++) {
    const zg_node *n = &g->nodes.at[i];
    if (p->phase[i] == ZG_PHASE_FORWARD || n->n_in == 0) zg_emit_copy(r.b, g, n, r.map);
    else if (zg__node_is_live(n, p->live)) copy_backward(&r, n);
  }
  for (size_t i = 0; i < g->outputs.n; i++) {
    const zg_output *o = &g->outputs.at[i];
    zg_builder_output(r.b, o->kind, o->name, r.map[o->val.id], r.map[o->target.id]);
  }
  zg_builder_props(r.b, g->props);
  return zg_builder_finish(r.b, out);
}

static bool *find_for_result(const zg_graph *g, zg_arena *mem) {
  bool *needed = ZG_NEW_N(mem, bool, g->nodes.n + 1);
  for (size_t i = 0; i < g->outputs.n; i++) {
    const zg_output *o = &g->outputs.at[i];
    if (o->kind == ZG_OUT_LOSS || (o->kind == ZG_OUT_VALUE && o->name[0] != '@')) needed[g->values.at[o->val.id].node] = true;
  }
  for (size_t i = g->nodes.n; i-- > 0;)
    for (uint32_t k = 0; needed[i] && k < g->nodes.at[i].n_in; k++) {
      const zg_val v = zg_in(g, &g->nodes.at[i], k);
      if (zg_is(v)) needed[g->values.at[v.id].node] = true;
    }
  return needed;
}

static void analyse(plan *p, const zg_graph *g, uint32_t grain) {
  p->g = g;
  p->live = zg_find_live(g, &p->mem);
  p->phase = zg__find_phases(g, &p->mem);
  p->for_result = find_for_result(g, &p->mem);
  p->root = ZG_NEW_N(&p->mem, uint32_t, g->values.n);
  p->last = ZG_NEW_N(&p->mem, uint32_t, g->values.n);
  p->needed = ZG_NEW_N(&p->mem, bool, g->values.n);
  p->needed_root = ZG_NEW_N(&p->mem, bool, g->values.n);
  p->block = ZG_NEW_N(&p->mem, uint32_t, g->nodes.n + 1);
  p->kept = ZG_NEW_N(&p->mem, bool, g->values.n);
  find_uses_by_phase(p);
  find_blocks(p, grain);
}

uint32_t zg_recompute_blocks(const zg_graph *g, uint32_t grain) {
  plan p = {0};
  analyse(&p, g, grain);
  zg_arena_fini(&p.mem);
  return p.n_blocks;
}

zg_status zg_pass_opt_recompute(const zg_graph *g, const zg_recompute *how, zg_graph **out) {
  plan p = {0};
  analyse(&p, g, how->grain);
  keep_of_blocks(&p, how->blocks);
  if (how->cheap) keep_by_cut(&p, how->blocks);
  for (size_t i = 0; i < g->outputs.n; i++) p.kept[p.root[g->outputs.at[i].val.id]] = true;   // there to the end in any case
  keep_together(&p);
  zg_status s = rewrite_graph(&p, out);
  zg_arena_fini(&p.mem);
  return s;
}
