// Capture of streams into graphs, and their replay. A node follows the nodes of its stream's frontier; an
// event recorded in a captured stream carries a frontier to the streams that wait for it. Replay picks at
// random among the nodes whose predecessors are done; nodes that are busy (collectives) let others go on.
#include "driver.h"

typedef stream *CUstream;
typedef struct CUevent_st *CUevent;
typedef graph *CUgraph;
typedef graph *CUgraphExec;
int zg_emu_captures;
static stream **joined;  // streams in a capture, all graphs
static uint32_t n_joined;

static void set_frontier(uint32_t **f, uint32_t *n, const uint32_t *from, uint32_t n_from) {
  *f = realloc(*f, sizeof **f * (n_from + 1));
  if (n_from) memcpy(*f, from, sizeof **f * n_from);
  *n = n_from;
}
static void join(stream *s, graph *g, bool origin) {
  s->capture = g, s->origin = origin, s->n_frontier = 0;
  joined = realloc(joined, sizeof(stream *) * (n_joined + 1));
  joined[n_joined++] = s;
}

// ZG_EMU_CAPTURE=none: no capture begins; =plain: one that meets a collective is broken, as with a library that cannot be captured.
static bool captures(const char *what) {
  const char *v = getenv("ZG_EMU_CAPTURE");
  return !v || strcmp(v, what) != 0;
}

CUresult zg_emu_capture(stream *s, op *o) {
  graph *g = s->capture;
  if (o->kind == OP_WORK && !captures("plain")) g->broken = true;
  if (g->broken) return zg_emu_op_fini(o), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (g->n == g->room) g->nodes = realloc(g->nodes, sizeof(node) * (g->room = 2 * g->room + 16));
  node *n = &g->nodes[g->n];
  *n = (node){.o = *o};
  set_frontier(&n->before, &n->n_before, s->frontier, s->n_frontier);
  for (uint32_t i = 0; i < n->n_before; i++) g->nodes[n->before[i]].followed = true;
  set_frontier(&s->frontier, &s->n_frontier, &g->n, 1);
  g->n++;
  return CUDA_SUCCESS;
}

CUresult zg_emu_capture_record(stream *s, CUevent e) {
  e->capture = s->capture, e->recorded = false;
  set_frontier(&e->frontier, &e->n_frontier, s->frontier, s->n_frontier);
  return CUDA_SUCCESS;
}

CUresult zg_emu_capture_wait(stream *s, CUevent e) {
  if (!e->capture) {
    s->capture->broken = true;
    return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
  }
  if (s->capture && s->capture != e->capture) return CUDA_ERROR_STREAM_CAPTURE_MERGE;
  if (!s->capture) join(s, e->capture, false);
  for (uint32_t i = 0; i < e->n_frontier; i++) {
    bool there = false;
    for (uint32_t k = 0; k < s->n_frontier; k++) there |= s->frontier[k] == e->frontier[i];
    if (there) continue;
    s->frontier = realloc(s->frontier, sizeof *s->frontier * (s->n_frontier + 1));
    s->frontier[s->n_frontier++] = e->frontier[i];
  }
  return CUDA_SUCCESS;
}

static void free_graph(graph *g) {
  for (uint32_t i = 0; i < g->n; i++) {
    zg_emu_op_fini(&g->nodes[i].o);
    free(g->nodes[i].before);
  }
  free(g->nodes);
  free(g);
}

ZG_EMU_API CUresult cuStreamBeginCapture_v2(CUstream handle, int mode) {
  (void)mode;
  ENTER();
  stream *s = handle ? zg_emu_stream(handle) : NULL;  // the default stream cannot be captured
  if (!s || !captures("none")) LEAVE(handle && !s ? CUDA_ERROR_INVALID_HANDLE : CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  if (s->capture) LEAVE(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
  join(s, calloc(1, sizeof(graph)), true);
  zg_emu_captures++;
  LEAVE(CUDA_SUCCESS);
}

// Every node must be followed by another, or stand in the origin's frontier: otherwise a stream was not
// joined again.
static bool all_joined(const graph *g, const stream *s) {
  for (uint32_t i = 0; i < g->n; i++) {
    bool there = g->nodes[i].followed;
    for (uint32_t k = 0; k < s->n_frontier; k++) there |= s->frontier[k] == i;
    if (!there) {
      zg_emu_say("capture ends while \"%s\" is on a stream that has not been joined again",
                 g->nodes[i].o.name);
      return false;
    }
  }
  return true;
}

ZG_EMU_API CUresult cuStreamEndCapture(CUstream handle, CUgraph *out) {
  *out = NULL;
  ENTER();
  stream *s = zg_emu_stream(handle);
  if (!s) LEAVE(CUDA_ERROR_INVALID_HANDLE);
  graph *g = s->capture;
  if (!g || !s->origin) LEAVE(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
  CUresult r = g->broken          ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
               : all_joined(g, s) ? CUDA_SUCCESS
                                  : CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
  uint32_t kept = 0;
  for (uint32_t i = 0; i < n_joined; i++) {
    if (joined[i]->capture == g) joined[i]->capture = NULL;
    else joined[kept++] = joined[i];
  }
  n_joined = kept;
  zg_emu_captures--;
  if (r) free_graph(g);
  else *out = g, zg_emu_live.graphs++;
  LEAVE(r);
}
ZG_EMU_API CUresult cuStreamIsCapturing(CUstream handle, int *status) {
  ENTER();
  stream *s = handle ? zg_emu_stream(handle) : NULL;
  *status = !s || !s->capture ? 0 : s->capture->broken ? 2 : 1;
  LEAVE(handle && !s ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS);
}

// ---- graphs -------------------------------------------------------------------------------------------

static void *copy_bytes(const void *p, size_t n) { return p ? memcpy(malloc(n + 1), p, n) : NULL; }

ZG_EMU_API CUresult cuGraphInstantiateWithFlags(CUgraphExec *out, CUgraph g, unsigned long long flags) {
  (void)flags;
  ENTER();
  graph *e = calloc(1, sizeof *e);
  e->n = g->n, e->nodes = calloc(g->n + 1, sizeof(node));
  for (uint32_t i = 0; i < g->n; i++) {
    e->nodes[i] = g->nodes[i];
    op *o = &e->nodes[i].o;
    o->args = copy_bytes(o->args, o->n_args);
    if (o->own_src) o->src = copy_bytes(o->src, o->n * o->rows);
    e->nodes[i].before = copy_bytes(g->nodes[i].before, sizeof(uint32_t) * g->nodes[i].n_before);
  }
  *out = e;
  zg_emu_live.graphs++;
  LEAVE(CUDA_SUCCESS);
}
ZG_EMU_API CUresult cuGraphDestroy(CUgraph g) {
  if (!g) return CUDA_ERROR_INVALID_HANDLE;
  zg_emu_lock();
  free_graph(g);
  zg_emu_live.graphs--;
  LEAVE(CUDA_SUCCESS);
}
ZG_EMU_API CUresult cuGraphExecDestroy(CUgraphExec g) {
  if (!g) return CUDA_ERROR_INVALID_HANDLE;
  zg_emu_lock();
  if (zg_emu_device()) zg_emu_wait_all();  // launches may be queued
  free_graph(g);
  zg_emu_live.graphs--;
  LEAVE(CUDA_SUCCESS);
}
ZG_EMU_API CUresult cuGraphGetNodes(CUgraph g, void **nodes, size_t *n) {
  ENTER();
  if (nodes)
    for (size_t i = 0; i < *n && i < g->n; i++) nodes[i] = &g->nodes[i];
  *n = g->n;
  LEAVE(CUDA_SUCCESS);
}
ZG_EMU_API CUresult cuGraphLaunch(CUgraphExec g, CUstream handle) {
  if (!g) return CUDA_ERROR_INVALID_HANDLE;
  ENTER();
  stream *s = zg_emu_stream(handle);
  if (!s) LEAVE(CUDA_ERROR_INVALID_HANDLE);
  if (s->capture) LEAVE(CUDA_ERROR_NOT_SUPPORTED);  // graphs in graphs
  op o = {.kind = OP_GRAPH, .name = "graph", .graph = g};
  CUresult r = zg_emu_submit(s, &o);
  LEAVE(r);
}
ZG_EMU_API CUresult cuGraphUpload(CUgraphExec g, CUstream s) {
  (void)s;
  return g ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

// ---- replay -------------------------------------------------------------------------------------------

typedef struct {
  uint32_t left, last;
  bool done[];
} progress;
void zg_emu_end_graph(void *running) { free(running); }

static bool node_ready(const graph *g, const progress *p, uint32_t i) {
  if (p->done[i]) return false;
  for (uint32_t k = 0; k < g->nodes[i].n_before; k++)
    if (!p->done[g->nodes[i].before[k]]) return false;
  return true;
}

// One node. Half the time it goes on from the last one, so that one branch can run far ahead of another.
zg_emu_result zg_emu_run_graph(op *o, CUresult *error) {
  graph *g = o->graph;
  progress *p = o->running;
  if (!p) {
    p = o->running = calloc(1, sizeof *p + g->n + 1);
    p->left = g->n;
  }
  if (!p->left) {
    free(p), o->running = NULL;
    return ZG_EMU_DONE;
  }
  uint32_t start = zg_emu_random() & 1 ? p->last : (uint32_t)(zg_emu_random() % g->n);
  for (uint32_t k = 0; k < g->n; k++) {
    uint32_t i = (start + k) % g->n;
    if (!node_ready(g, p, i)) continue;
    zg_emu_result r = zg_emu_execute(&g->nodes[i].o, error);
    if (r == ZG_EMU_BUSY) continue;
    if (r == ZG_EMU_DONE) p->done[i] = true, p->left--, p->last = i;
    if (r == ZG_EMU_FAILED) return free(p), o->running = NULL, r;
    return ZG_EMU_MOVED;
  }
  return ZG_EMU_BUSY;
}
