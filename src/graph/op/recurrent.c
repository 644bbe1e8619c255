// Op family: LSTM, GRU, RNN (ONNX opset 7 to 22). What depends on no state is taken out of the time loop: the
// input projection of all time steps is one matmul with the biases added,
//   XW[T, B, G*H] = X[T*B, I] W[G*H, I]^T + Wb + Rb
// The loop is the core op `recurrent` (cell.c) where that knows the cell: default activations (or Relu in an
// RNN), f32 or f64, a GRU with linear_before_reset; no clip, peepholes, input_forget or sequence_lens. Else it
// is unrolled over the sequence length, which is known once dimensions are bound: a step is one
// [B, H] x [H, G*H] matmul and maps over [B, H]. sequence_lens freezes a sequence's state at its end and
// writes zeros there. A state that starts at zero is not built: the first step leaves its terms out.
//
// Unrolling is also the lowering of the core op, for devices without a kernel for it.
#include <strings.h>

#include "graph/op/import_priv.h"

typedef struct {
  const char *name;
  double alpha, beta;
} activation;

typedef struct {  // one node, resolved
  zg_builder *b;
  const zg_onnx_node *n;
  int64_t T, B, I, H, D;  // steps, batch, input size, hidden size, directions
  int64_t gates;          // rows of W in units of H
  bool batch_first;
  double clip;        // of what enters an activation; 0: none
  activation act[6];  // 3 (or 2, 1) for each direction
  uint32_t n_act;     // for each direction
  zg_val x;           // [T, B, I]
  zg_val lens;        // i64[B, 1], or none: all sequences have T steps
  bool flag;          // GRU: linear_before_reset; LSTM: input_forget
} cell;

typedef struct {   // one direction's operands
  zg_val xw;       // [T, B, gates*H], biases in it
  zg_val r;        // [gates*H, H]
  zg_val rb;       // GRU with linear_before_reset: [H], the recurrent bias of the candidate; may be none
  zg_val peep[3];  // LSTM: [H] for i, o, f; may be none
  zg_val h0, c0;   // [B, H]; none: zero
  const activation *act;
} side;

// ---- attributes -------------------------------------------------------------------------------------------
static zg_status read_activations(cell *c, const char *const *defaults) {
  const zg_onnx_node *n = c->n;
  const double *alpha = NULL, *beta = NULL;
  int64_t n_alpha = 0, n_beta = 0, at_alpha = 0, at_beta = 0;
  zg_onnx_floats(n, "activation_alpha", &alpha, &n_alpha);
  zg_onnx_floats(n, "activation_beta", &beta, &n_beta);
  for (int64_t i = 0; i < c->D * (int64_t)c->n_act; i++) {
    activation *a = &c->act[i];
    a->name = zg_onnx_str_at(n, "activations", i);
    if (!a->name && i > 0 && zg_onnx_has(n, "activations"))
      return zg_onnx_error(n, ZG_INVALID, "attribute activations has %lld entries, want %lld", (long long)i,
                           (long long)(c->D * (int64_t)c->n_act));
    if (!a->name) a->name = defaults[i % c->n_act];
    bool has_alpha, has_beta;
    zg__activation_params(a->name, &has_alpha, &has_beta, &a->alpha, &a->beta);
    if (has_alpha && at_alpha < n_alpha) a->alpha = alpha[at_alpha++];
    if (has_beta && at_beta < n_beta) a->beta = beta[at_beta++];
  }
  return NULL;
}

static zg_status want_shape(const cell *c, uint32_t operand, const char *what, uint32_t rank,
                            const int64_t *dim) {
  const zg_val v = zg_onnx_in(c->n, operand);
  if (!zg_is(v)) return NULL;
  const zg_type *t = zg_b_type(c->b, v), want = zg_type_make(t->dtype, rank, dim);
  if (zg_type_equal(t, &want)) return NULL;
  return zg_onnx_error(c->n, ZG_INVALID, "input %u (%s) is %s, want %s", operand, what, zg_type_text(t),
                       zg_type_text(&want));
}

static zg_status check_shapes(const cell *c) {
  const int64_t G = c->gates * c->H, bias[] = {c->D, 2 * G}, w[] = {c->D, G, c->I}, r[] = {c->D, G, c->H},
                p[] = {c->D, 3 * c->H};
  const int64_t lens[] = {c->B}, h[] = {c->D, c->B, c->H}, hb[] = {c->B, c->D, c->H};
  ZG_TRY(want_shape(c, 1, "W", 3, w));
  ZG_TRY(want_shape(c, 2, "R", 3, r));
  ZG_TRY(want_shape(c, 3, "B", 2, bias));
  ZG_TRY(want_shape(c, 4, "sequence_lens", 1, lens));
  ZG_TRY(want_shape(c, 5, "initial_h", 3, c->batch_first ? hb : h));
  if (c->gates != 4) return NULL;
  ZG_TRY(want_shape(c, 6, "initial_c", 3, c->batch_first ? hb : h));
  return want_shape(c, 7, "P", 2, p);
}

// Lengths, unless they are known to be T for all.
static void read_lens(cell *c) {
  const zg_val v = zg_onnx_in(c->n, 4);
  double known;
  if (!zg_is(v) || (zg_b_const_scalar(c->b, v, &known) && known == (double)c->T)) return;
  c->lens = zg_b_unsqueeze(c->b, zg_b_cast(c->b, v, ZG_I64), 1);
}

static zg_status read_cell(zg_onnx_node *n, cell *c, int64_t gates, uint32_t n_act,
                           const char *const *defaults) {
  *c = (cell){.b = n->b, .n = n, .gates = gates, .n_act = n_act, .x = zg_onnx_in(n, 0)};
  for (uint32_t i = 0; i < 3; i++)
    if (!zg_is(zg_onnx_in(n, i)) || zg_b_type(n->b, n->in[i])->rank != 3)
      return zg_onnx_error(n, ZG_INVALID, "input %u (%s) must be there and have rank 3", i,
                           i == 0   ? "X"
                           : i == 1 ? "W"
                                    : "R");
  const char *direction = zg_onnx_str(n, "direction", "forward");
  if (strcmp(direction, "forward") && strcmp(direction, "reverse") && strcmp(direction, "bidirectional"))
    return zg_onnx_error(n, ZG_INVALID, "direction is \"%s\", want forward, reverse or bidirectional",
                         direction);
  c->D = strcmp(direction, "bidirectional") ? 1 : 2;
  c->batch_first = zg_onnx_int(n, "layout", 0);
  c->clip = zg_onnx_float(n, "clip", 0);
  c->flag = zg_onnx_int(n, gates == 3 ? "linear_before_reset" : "input_forget", 0);
  const int64_t swap[] = {1, 0, 2};
  if (c->batch_first) c->x = zg_b_transpose(n->b, c->x, swap);
  const zg_type x = *zg_b_type(n->b, c->x);
  c->T = x.dim[0], c->B = x.dim[1], c->I = x.dim[2], c->H = zg_b_type(n->b, n->in[2])->dim[2];
  if (zg_onnx_int(n, "hidden_size", c->H) != c->H)
    return zg_onnx_error(n, ZG_INVALID, "hidden_size is %lld, but input 2 (R) is %s",
                         (long long)zg_onnx_int(n, "hidden_size", 0),
                         zg_type_text(zg_b_type(n->b, n->in[2])));
  if (c->T < 1)
    return zg_onnx_error(n, ZG_INVALID, "input 0 is %s: a sequence of no steps", zg_type_text(&x));
  ZG_TRY(check_shapes(c));
  read_lens(c);
  return read_activations(c, defaults);
}

// ---- pieces of a step -------------------------------------------------------------------------------------
static zg_val add_opt(zg_builder *b, zg_val x, zg_val y) {
  return !zg_is(x) ? y : !zg_is(y) ? x : zg_add(b, x, y);
}
static zg_val mul_opt(zg_builder *b, zg_val x, zg_val y) {
  return zg_is(x) && zg_is(y) ? zg_mul(b, x, y) : (zg_val){0};
}

// Direction d of an operand whose first dim counts directions; none stays none.
static zg_val direction_of(const cell *c, uint32_t operand, int64_t d) {
  const zg_val v = zg_onnx_in(c->n, operand);
  if (!zg_is(v)) return v;
  return zg_b_squeeze(c->b, zg_b_slice1(c->b, v, 0, d, 1), 0);
}

// Exporters write the usual initial state as a constant, or as zeros expanded to the batch.
static bool is_zero(const zg_builder *b, zg_val v) {
  const zg_graph *g = zg_builder_graph(b);
  double known;
  if (zg_b_const_scalar(b, v, &known)) return known == 0;
  if (zg_is_op(g, v, &zg_op_fill)) return ((const zg_fill_attr *)zg_node_of(g, v)->attr)->value == 0;
  return zg_is_op(g, v, &zg_op_expand) && is_zero(b, zg_in(g, zg_node_of(g, v), 0));
}

static zg_val initial_state(const cell *c, uint32_t operand, int64_t d) {  // [B, H] or none
  const zg_val v = zg_onnx_in(c->n, operand);
  if (!zg_is(v) || is_zero(c->b, v)) return (zg_val){0};
  const int64_t axis = c->batch_first ? 1 : 0;
  return zg_b_squeeze(c->b, zg_b_slice1(c->b, v, axis, d, 1), axis);
}

// Gate k of n consecutive ones along the last axis.
static zg_val gate(const cell *c, zg_val v, int64_t k, int64_t n) {
  return zg_b_slice1(c->b, v, -1, k * c->H, n * c->H);
}

static zg_val unclipped(const cell *c, const activation *a, zg_val x) {
  zg_val y = {0};
  if (!zg__activation(c->b, a->name, a->alpha, a->beta, x, &y))
    zg_builder_fail(c->b, zg_onnx_error(c->n, ZG_UNSUPPORTED, "activation \"%s\" is not known", a->name));
  return y;
}

static zg_val act(const cell *c, const side *s, int k, zg_val x) {
  if (c->clip > 0) {
    const zg_val in[] = {x, zg_b_like(c->b, x, -c->clip), zg_b_like(c->b, x, c->clip)};
    x = zg_emit1(c->b, zg_map_op(ZG_S_CLIP), NULL, in, 3);
  }
  return unclipped(c, &s->act[k], x);
}

// Everything of direction d that is outside the loop.
static side open_side(const cell *c, int64_t d) {
  zg_builder *b = c->b;
  const int64_t G = c->gates * c->H, rows[] = {c->T * c->B, c->I}, steps[] = {c->T, c->B, G};
  side s = {.r = direction_of(c, 2, d), .act = c->act + d * c->n_act, .h0 = initial_state(c, 5, d)};
  if (c->gates == 4) s.c0 = initial_state(c, 6, d);
  zg_val bias = direction_of(c, 3, d);
  if (zg_is(bias)) {
    const zg_val wb = zg_b_slice1(b, bias, 0, 0, G), rb = zg_b_slice1(b, bias, 0, G, G);
    if (c->gates == 3 && c->flag) {
      s.rb = zg_b_slice1(b, rb, 0, 2 * c->H, c->H);
      const zg_val both[] = {
          zg_add(b, zg_b_slice1(b, wb, 0, 0, 2 * c->H), zg_b_slice1(b, rb, 0, 0, 2 * c->H)),
          zg_b_slice1(b, wb, 0, 2 * c->H, c->H)};
      bias = zg_b_concat(b, both, 2, 0);
    } else {
      bias = zg_add(b, wb, rb);
    }
  }
  const zg_val xw = zg_b_matmul(b, zg_b_reshape(b, c->x, rows, 2), direction_of(c, 1, d), false, true);
  s.xw = zg_b_reshape(b, add_opt(b, xw, bias), steps, 3);
  const zg_val p = c->gates == 4 ? direction_of(c, 7, d) : (zg_val){0};
  for (int i = 0; i < 3 && zg_is(p); i++) s.peep[i] = zg_b_slice1(b, p, 0, i * c->H, c->H);
  return s;
}

// h R^T for gates first .. first+n of R; none if h is zero.
static zg_val recur(const cell *c, const side *s, zg_val h, int64_t first, int64_t n) {
  if (!zg_is(h)) return h;
  const zg_val r = n == c->gates ? s->r : zg_b_slice1(c->b, s->r, 0, first * c->H, n * c->H);
  return zg_b_matmul(c->b, h, r, false, true);
}

typedef struct {
  zg_val h, c;
  zg_val saved[4];  // what the step's op saves (cell.c): the gates, a GRU's h Rn^T + bias
} state;

static state rnn_step(const cell *c, const side *s, zg_val x, state old) {
  return (state){.h = act(c, s, 0, add_opt(c->b, x, recur(c, s, old.h, 0, 1)))};
}

static state gru_step(const cell *c, const side *s, zg_val x, state old) {  // gates z, r, h
  zg_builder *b = c->b;
  zg_val candidate, z, r, q = {0};
  if (c->flag) {
    const zg_val hr = recur(c, s, old.h, 0, 3);
    const zg_val zr = add_opt(b, gate(c, x, 0, 2), zg_is(hr) ? gate(c, hr, 0, 2) : hr);
    z = act(c, s, 0, gate(c, zr, 0, 1)), r = act(c, s, 0, gate(c, zr, 1, 1));
    q = add_opt(b, zg_is(hr) ? gate(c, hr, 2, 1) : hr, s->rb);
    candidate = mul_opt(b, r, q);
  } else {
    const zg_val zr = add_opt(b, gate(c, x, 0, 2), recur(c, s, old.h, 0, 2));
    z = act(c, s, 0, gate(c, zr, 0, 1)), r = act(c, s, 0, gate(c, zr, 1, 1));
    candidate = recur(c, s, mul_opt(b, r, old.h), 2, 1);
  }
  candidate = act(c, s, 1, add_opt(b, gate(c, x, 2, 1), candidate));
  const zg_val keep = zg_add_k(b, zg_neg(b, z), 1);
  return (state){.h = add_opt(b, zg_mul(b, keep, candidate), mul_opt(b, z, old.h)), .saved = {z, r, candidate, q}};
}

static state lstm_step(const cell *c, const side *s, zg_val x, state old) {  // gates i, o, f, c
  zg_builder *b = c->b;
  const zg_val all = add_opt(b, x, recur(c, s, old.h, 0, 4));
  const zg_val i = act(c, s, 0, add_opt(b, gate(c, all, 0, 1), mul_opt(b, old.c, s->peep[0])));
  zg_val f;
  if (c->flag) f = zg_add_k(b, zg_neg(b, i), 1);
  else f = act(c, s, 0, add_opt(b, gate(c, all, 2, 1), mul_opt(b, old.c, s->peep[2])));
  const zg_val fresh = act(c, s, 1, gate(c, all, 3, 1));
  state now;
  now.c = add_opt(b, zg_mul(b, i, fresh), mul_opt(b, f, old.c));
  const zg_val o = act(c, s, 0, add_opt(b, gate(c, all, 1, 1), mul_opt(b, now.c, s->peep[1])));
  now.h = zg_mul(b, o, unclipped(c, &s->act[2], now.c));
  now.saved[0] = i, now.saved[1] = o, now.saved[2] = f, now.saved[3] = fresh;
  return now;
}

// ---- the loop ---------------------------------------------------------------------------------------------
typedef state (*step_fn)(const cell *c, const side *s, zg_val x, state old);

// `now` for sequences that have step t, else `old` (none: zero).
static zg_val while_running(const cell *c, zg_val running, zg_val now, zg_val old) {
  if (!zg_is(running) || !zg_is(now)) return now;
  return zg_b_where(c->b, running, now, zg_is(old) ? old : zg_b_like(c->b, now, 0));
}

// Runs a direction: walk[t] gets the state after time step t, its h zero for sequences that have ended. The last
// state is returned.
static state run_side(const cell *c, const side *s, bool reverse, step_fn step, state *walk) {
  zg_builder *b = c->b;
  const int64_t G = c->gates * c->H, flat[] = {c->B, G};
  state now = {.h = s->h0, .c = s->c0};
  for (int64_t i = 0; i < c->T; i++) {
    const int64_t t = reverse ? c->T - 1 - i : i;
    const zg_val x = zg_b_reshape(b, zg_b_slice1(b, s->xw, 0, t, 1), flat, 2);
    const state next = step(c, s, x, now);
    zg_val running = {0};
    if (zg_is(c->lens)) running = zg_b_map2(b, ZG_S_LT, zg_b_like(b, c->lens, (double)t), c->lens);
    walk[t] = next;
    walk[t].h = while_running(c, running, next.h, (zg_val){0});
    now.h = while_running(c, running, next.h, now.h);
    now.c = while_running(c, running, next.c, now.c);
  }
  return now;
}

// ---- the loop as one op -----------------------------------------------------------------------------------
static bool acts_are(const cell *c, const char *const *want) {
  for (int64_t i = 0; i < c->D * (int64_t)c->n_act; i++)
    if (strcasecmp(c->act[i].name, want[i % c->n_act])) return false;
  return true;
}

// Does the core op know this cell?
static bool as_op(const cell *c, zg_cell *out) {
  static const char *const tanh_[] = {"Tanh"}, *const relu[] = {"Relu"}, *const gru[] = {"Sigmoid", "Tanh"},
                    *const lstm[] = {"Sigmoid", "Tanh", "Tanh"};
  const zg_dtype t = zg_b_type(c->b, c->x)->dtype;
  if ((t != ZG_F32 && t != ZG_F64) || c->clip > 0 || zg_is(c->lens)) return false;
  if (c->gates == 1) {
    *out = acts_are(c, relu) ? ZG_CELL_RELU : ZG_CELL_TANH;
    return acts_are(c, relu) || acts_are(c, tanh_);
  }
  *out = c->gates == 4 ? ZG_CELL_LSTM : ZG_CELL_GRU;
  if (c->gates == 3) return c->flag && acts_are(c, gru);
  return !c->flag && !zg_is(zg_onnx_in(c->n, 7)) && acts_are(c, lstm);
}

static zg_val or_zeros(const cell *c, zg_val v, uint32_t rank) {
  const int64_t dim[] = {c->B, c->H};
  const zg_type t = zg_type_make(zg_b_type(c->b, c->x)->dtype, rank, dim + 2 - rank);
  return zg_is(v) ? v : zg_b_fill(c->b, &t, 0);
}

// A direction by the op: *y gets [T, 1, B, H]; the last state is returned.
static state op_side(const cell *c, const side *s, bool reverse, zg_cell kind, zg_val *y) {
  zg_builder *b = c->b;
  const zg_recurrent_attr a = {kind, reverse};
  const zg_val in[] = {s->xw, s->r, or_zeros(c, s->h0, 2), kind == ZG_CELL_GRU ? or_zeros(c, s->rb, 1) : or_zeros(c, s->c0, 2)};
  const int64_t all[] = {c->T, 1, c->B, c->H}, flat[] = {c->B, c->H}, end = reverse ? 0 : c->T;
  zg_val out[3];
  if (!zg_emit(b, &zg_op_recurrent, &a, in, kind == ZG_CELL_LSTM || kind == ZG_CELL_GRU ? 4 : 3, out, 3)) return (state){0};
  *y = zg_b_reshape(b, zg_b_slice1(b, out[0], 0, reverse ? 0 : 1, c->T), all, 4);
  state last = {.h = zg_b_reshape(b, zg_b_slice1(b, out[0], 0, end, 1), flat, 2)};
  if (kind == ZG_CELL_LSTM) last.c = zg_b_reshape(b, zg_b_slice1(b, out[2], 0, end, 1), flat, 2);
  return last;
}

// A direction unrolled: the same results.
static state unrolled_side(const cell *c, const side *s, bool reverse, step_fn step, zg_val *y) {
  const int64_t slot[] = {1, 1, c->B, c->H};
  state *walk = zg_alloc((size_t)c->T * sizeof *walk);
  zg_val *at = zg_alloc((size_t)c->T * sizeof *at);
  const state last = run_side(c, s, reverse, step, walk);
  for (int64_t t = 0; t < c->T; t++) at[t] = zg_b_reshape(c->b, walk[t].h, slot, 4);
  *y = zg_b_concat(c->b, at, (uint32_t)c->T, 0);
  zg_free(at);
  zg_free(walk);
  return last;
}

static void set_out(const cell *c, zg_onnx_node *n, uint32_t i, zg_val v, const int64_t *batch_first_perm) {
  if (i < n->n_out) n->out[i] = c->batch_first ? zg_b_transpose(c->b, v, batch_first_perm) : v;
}

static zg_status import_cell(zg_onnx_node *n, const cell *c, step_fn step) {
  zg_builder *b = c->b;
  zg_val y[2] = {{0}, {0}}, h[2], last[2];
  const int64_t one[] = {1, c->B, c->H}, perm_y[] = {2, 0, 1, 3}, perm_h[] = {1, 0, 2};
  zg_cell kind = ZG_CELL_TANH;
  const bool op = as_op(c, &kind);
  for (int64_t d = 0; d < c->D; d++) {
    const bool reverse = d == 1 || !strcmp(zg_onnx_str(n, "direction", "forward"), "reverse");
    const side s = open_side(c, d);
    const state end = op ? op_side(c, &s, reverse, kind, &y[d]) : unrolled_side(c, &s, reverse, step, &y[d]);
    h[d] = zg_b_reshape(b, end.h, one, 3);
    if (c->gates == 4) last[d] = zg_b_reshape(b, end.c, one, 3);
  }
  set_out(c, n, 0, c->D == 2 ? zg_b_concat(b, y, 2, 1) : y[0], perm_y);
  set_out(c, n, 1, c->D == 2 ? zg_b_concat(b, h, 2, 0) : h[0], perm_h);
  if (c->gates == 4) set_out(c, n, 2, c->D == 2 ? zg_b_concat(b, last, 2, 0) : last[0], perm_h);
  return NULL;
}

static zg_status import_rnn(zg_onnx_node *n) {
  static const char *const defaults[] = {"Tanh"};
  cell c;
  ZG_TRY(read_cell(n, &c, 1, 1, defaults));
  return import_cell(n, &c, rnn_step);
}
static zg_status import_gru(zg_onnx_node *n) {
  static const char *const defaults[] = {"Sigmoid", "Tanh"};
  cell c;
  ZG_TRY(read_cell(n, &c, 3, 2, defaults));
  return import_cell(n, &c, gru_step);
}
static zg_status import_lstm(zg_onnx_node *n) {
  static const char *const defaults[] = {"Sigmoid", "Tanh", "Tanh"};
  cell c;
  ZG_TRY(read_cell(n, &c, 4, 3, defaults));
  return import_cell(n, &c, lstm_step);
}

// ---- the op unrolled --------------------------------------------------------------------------------------
// The states of all slots: [T+1, B, H].
static zg_val slots(const cell *c, bool reverse, zg_val first, const state *walk, size_t member) {
  const int64_t one[] = {1, c->B, c->H};
  zg_val *at = zg_alloc(((size_t)c->T + 1) * sizeof *at);
  at[reverse ? c->T : 0] = zg_b_reshape(c->b, first, one, 3);
  for (int64_t t = 0; t < c->T; t++)
    at[reverse ? t : t + 1] = zg_b_reshape(c->b, *(const zg_val *)((const char *)&walk[t] + member), one, 3);
  const zg_val all = zg_b_concat(c->b, at, (uint32_t)c->T + 1, 0);
  zg_free(at);
  return all;
}

static zg_val saved_steps(const cell *c, const state *walk) {  // [T, B, S*H]
  const int64_t one[] = {1, c->B, 4 * c->H};
  zg_val *at = zg_alloc((size_t)c->T * sizeof *at + 1);
  for (int64_t t = 0; t < c->T; t++) at[t] = zg_b_reshape(c->b, zg_b_concat(c->b, walk[t].saved, 4, 1), one, 3);
  const zg_val all = zg_b_concat(c->b, at, (uint32_t)c->T, 0);
  zg_free(at);
  return all;
}

zg_status zg__recurrent_unroll(zg_lower *x) {
  static const struct { step_fn step; activation act[3]; } forms[] = {
      [ZG_CELL_TANH] = {rnn_step, {{"Tanh", 0, 0}}},
      [ZG_CELL_RELU] = {rnn_step, {{"Relu", 0, 0}}},
      [ZG_CELL_LSTM] = {lstm_step, {{"Sigmoid", 0, 0}, {"Tanh", 0, 0}, {"Tanh", 0, 0}}},
      [ZG_CELL_GRU] = {gru_step, {{"Sigmoid", 0, 0}, {"Tanh", 0, 0}}}};
  const zg_recurrent_attr *a = x->attr;
  const zg_type xw = *zg_b_type(x->b, x->in[0]), r = *zg_b_type(x->b, x->in[1]);
  const bool lstm = a->cell == ZG_CELL_LSTM, gru = a->cell == ZG_CELL_GRU;
  const cell c = {.b = x->b, .T = xw.dim[0], .B = xw.dim[1], .H = r.dim[1], .D = 1, .gates = zg_cell_gates(a->cell), .flag = gru};
  const side s = {.xw = x->in[0], .r = x->in[1], .h0 = x->in[2], .act = forms[a->cell].act,
                  .rb = gru ? x->in[3] : (zg_val){0}, .c0 = lstm ? x->in[3] : (zg_val){0}};
  const int64_t no_c[] = {c.T + 1, c.B, 0}, nothing[] = {c.T, c.B, zg_cell_saved(a->cell) * c.H};
  const zg_type c_type = zg_type_make(xw.dtype, 3, no_c), s_type = zg_type_make(xw.dtype, 3, nothing);
  state *walk = zg_alloc((size_t)c.T * sizeof *walk + 1);
  run_side(&c, &s, a->reverse, forms[a->cell].step, walk);
  x->out[0] = slots(&c, a->reverse, s.h0, walk, offsetof(state, h));
  x->out[1] = zg_elems(&s_type) ? saved_steps(&c, walk) : zg_b_fill(x->b, &s_type, 0);
  x->out[2] = lstm ? slots(&c, a->reverse, s.c0, walk, offsetof(state, c)) : zg_b_fill(x->b, &c_type, 0);
  zg_free(walk);
  return NULL;
}

static const zg_onnx_row rows[] = {
    // parameter positions: W, R, B, and P of the LSTM
    {"RNN", "", 7, 0, import_rnn, NULL, 0x0e, .weight_operands = 0x0e},
    {"GRU", "", 7, 0, import_gru, NULL, 0x0e, .weight_operands = 0x0e},
    {"LSTM", "", 7, 0, import_lstm, NULL, 0x8e, .weight_operands = 0x8e},
};
const zg_family zg_family_recurrent = {.name = "recurrent", .onnx = rows, .n_onnx = ZG_COUNT(rows)};
