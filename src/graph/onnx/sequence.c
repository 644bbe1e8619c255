// Sequences and optionals. They exist while importing only: a sequence is a list of values whose length is
// known, so SplitToSequence + SequenceAt becomes plain slices.
#include "graph/onnx/onnx_priv.h"

static zg_status arg_list(zg__structural *x, uint32_t i, zg__list *out) {
  if (!zg__arg_present(x, i) || x->in[i].kind != ZG__LIST)
    return zg_onnx_error(x->view, ZG_UNSUPPORTED,
                         "input %u is no sequence that is known while the model is read", i);
  *out = x->in[i].list;
  return NULL;
}

static zg_status arg_ints(zg__structural *x, uint32_t i, zg_ints *out) {
  zg_val v;
  zg_val *in = ZG_NEW_N(&x->im->mem, zg_val, i + 1);
  ZG_TRY(zg__arg_value(x, i, &v));
  in[i] = v;
  zg_onnx_node view = *x->view;
  view.in = in;
  view.n_in = i + 1;
  return zg_onnx_const_ints(&view, i, out);
}

static zg__binding of_list(uint32_t n, const zg_val *at) {
  return (zg__binding){.kind = ZG__LIST, .list = {n, at}};
}

// Position in a list of n, negative ones from the end.
static zg_status position(zg__structural *x, uint32_t operand, uint32_t n, uint32_t limit, uint32_t *out) {
  zg_ints at;
  ZG_TRY(arg_ints(x, operand, &at));
  int64_t p = at.n == 1 ? at.at[0] : INT64_MAX;
  if (p < 0) p += n;
  if (p < 0 || p >= limit)
    return zg_onnx_error(x->view, ZG_INVALID, "position %lld in a sequence of %u", (long long)p, n);
  *out = (uint32_t)p;
  return NULL;
}

static zg_status construct(zg__structural *x) {
  zg_val *at = ZG_NEW_N(&x->im->mem, zg_val, x->n_in + 1);
  for (uint32_t i = 0; i < x->n_in; i++) ZG_TRY(zg__arg_value(x, i, &at[i]));
  x->out[0] = of_list(x->n_in, at);
  return NULL;
}

static zg_status empty(zg__structural *x) {
  x->out[0] = of_list(0, NULL);
  return NULL;
}

static zg_status at(zg__structural *x) {
  zg__list l = {0};
  uint32_t p = 0;
  ZG_TRY(arg_list(x, 0, &l));
  ZG_TRY(position(x, 1, l.n, l.n, &p));
  x->out[0] = zg__of_val(l.at[p]);
  return NULL;
}

static zg_status length(zg__structural *x) {
  zg__list l = {0};
  ZG_TRY(arg_list(x, 0, &l));
  zg_type t = zg_type_scalar(ZG_I64);
  x->out[0] = zg__of_val(zg_b_const_data(x->im->b, &t, &(int64_t){l.n}));
  return NULL;
}

static zg_status insert(zg__structural *x) {
  zg__list l = {0};
  zg_val v;
  ZG_TRY(arg_list(x, 0, &l));
  ZG_TRY(zg__arg_value(x, 1, &v));
  uint32_t p = l.n;
  if (zg__arg_present(x, 2)) ZG_TRY(position(x, 2, l.n, l.n + 1, &p));
  zg_val *to = ZG_NEW_N(&x->im->mem, zg_val, l.n + 1);
  for (uint32_t i = 0; i <= l.n; i++) to[i] = i < p ? l.at[i] : i == p ? v : l.at[i - 1];
  x->out[0] = of_list(l.n + 1, to);
  return NULL;
}

static zg_status erase(zg__structural *x) {
  zg__list l = {0};
  ZG_TRY(arg_list(x, 0, &l));
  if (!l.n) return zg_onnx_error(x->view, ZG_INVALID, "the sequence is empty");
  uint32_t p = l.n - 1;
  if (zg__arg_present(x, 1)) ZG_TRY(position(x, 1, l.n, l.n, &p));
  zg_val *to = ZG_NEW_N(&x->im->mem, zg_val, l.n);
  for (uint32_t i = 0; i + 1 < l.n; i++) to[i] = l.at[i < p ? i : i + 1];
  x->out[0] = of_list(l.n - 1, to);
  return NULL;
}

static zg_status split_axis(zg__structural *x, zg_val v, int64_t *axis, int64_t *size) {
  const zg_type *t = zg_b_type(x->im->b, v);
  *axis = zg_onnx_int(x->view, "axis", 0);
  if (*axis < 0) *axis += t->rank;
  if (*axis < 0 || *axis >= t->rank)
    return zg_onnx_error(x->view, ZG_INVALID, "axis %lld of %s", (long long)*axis, zg_type_text(t));
  *size = t->dim[*axis];
  return NULL;
}

// Sizes of the parts: ones without `split`; equal ones (the last may be smaller) for a scalar; as listed for
// a vector.
static zg_status split_sizes(zg__structural *x, int64_t size, zg_ints *out) {
  zg_ints s = {1, (const int64_t[]){1}};
  zg_val v = {0};
  bool given = zg__arg_present(x, 1);
  if (given) {
    ZG_TRY(zg__arg_value(x, 1, &v));
    ZG_TRY(arg_ints(x, 1, &s));
  }
  if (given && zg_is(v) && zg_b_type(x->im->b, v)->rank == 1) {
    int64_t sum = 0;
    for (int64_t i = 0; i < s.n; i++) {
      if (s.at[i] < 0 || s.at[i] > size - sum)
        return zg_onnx_error(x->view, ZG_INVALID, "parts do not fit dim %lld", (long long)size);
      sum += s.at[i];
    }
    if (sum != size)
      return zg_onnx_error(x->view, ZG_INVALID, "parts sum to %lld, the dim is %lld", (long long)sum,
                           (long long)size);
    *out = s;
    return NULL;
  }
  int64_t part = s.n == 1 ? s.at[0] : 0;
  if (part < 1) return zg_onnx_error(x->view, ZG_INVALID, "parts of %lld elements", (long long)part);
  int64_t n = (size + part - 1) / part, *to = ZG_NEW_N(&x->im->mem, int64_t, n + 1);
  for (int64_t i = 0; i < n; i++) to[i] = ZG_MIN(part, size - i * part);
  *out = (zg_ints){n, to};
  return NULL;
}

static zg_status split(zg__structural *x) {
  zg_val v;
  int64_t axis = 0, size = 0, start = 0;
  zg_ints sizes = {0};
  ZG_TRY(zg__arg_value(x, 0, &v));
  if (!zg_is(v)) return NULL;
  ZG_TRY(split_axis(x, v, &axis, &size));
  ZG_TRY(split_sizes(x, size, &sizes));
  bool squeeze = !zg__arg_present(x, 1) && !zg_onnx_int(x->view, "keepdims", 1);
  zg_val *to = ZG_NEW_N(&x->im->mem, zg_val, sizes.n + 1);
  for (int64_t i = 0; i < sizes.n; i++) {
    to[i] = zg_b_slice1(x->im->b, v, axis, start, sizes.at[i]);
    if (squeeze) to[i] = zg_b_squeeze(x->im->b, to[i], axis);
    start += sizes.at[i];
  }
  x->out[0] = of_list((uint32_t)sizes.n, to);
  return NULL;
}

static zg_status concat(zg__structural *x) {
  zg__list l = {0};
  ZG_TRY(arg_list(x, 0, &l));
  if (!l.n) return zg_onnx_error(x->view, ZG_INVALID, "the sequence is empty");
  int64_t axis = zg_onnx_int(x->view, "axis", 0);
  bool fresh = zg_onnx_int(x->view, "new_axis", 0) != 0;
  const zg_type *t = zg_b_type(x->im->b, l.at[0]);
  if (axis < 0) axis += t->rank + fresh;
  if (axis < 0 || axis >= (int64_t)t->rank + fresh)
    return zg_onnx_error(x->view, ZG_INVALID, "axis %lld of %s", (long long)axis, zg_type_text(t));
  zg_val *parts = ZG_NEW_N(&x->im->mem, zg_val, l.n);
  for (uint32_t i = 0; i < l.n; i++) parts[i] = fresh ? zg_b_unsqueeze(x->im->b, l.at[i], axis) : l.at[i];
  x->out[0] = zg__of_val(zg_b_concat(x->im->b, parts, l.n, axis));
  return NULL;
}

static zg_status pass(zg__structural *x) {
  x->out[0] = x->n_in ? x->in[0] : (zg__binding){.kind = ZG__NOTHING};   // an empty optional
  return NULL;
}

static zg_status has_element(zg__structural *x) {
  zg_type t = zg_type_scalar(ZG_BOOL);
  x->out[0] = zg__of_val(zg_b_const_data(x->im->b, &t, &(uint8_t){zg__arg_present(x, 0)}));
  return NULL;
}

// Runs the body once an element; operands that are lists advance, tensors stay.
static zg_status map(zg__structural *x) {
  zg__list first = {0};
  const Onnx__AttributeProto *a = zg__attr(x->node, x->scope->frame, "body");
  ZG_TRY(arg_list(x, 0, &first));
  if (!a || !a->g || a->g->n_output < x->n_out)
    return zg_onnx_error(x->view, ZG_INVALID, "it has no fitting subgraph \"body\"");
  zg__binding *args = ZG_NEW_N(&x->im->mem, zg__binding, x->n_in + 1);
  zg__binding *out = ZG_NEW_N(&x->im->mem, zg__binding, a->g->n_output + 1);
  zg_val **lists = ZG_NEW_N(&x->im->mem, zg_val *, x->n_out + 1);
  for (uint32_t k = 0; k < x->n_out; k++) lists[k] = ZG_NEW_N(&x->im->mem, zg_val, first.n + 1);
  for (uint32_t e = 0; e < first.n; e++) {
    for (uint32_t i = 0; i < x->n_in; i++) {
      args[i] = x->in[i];
      if (x->in[i].kind != ZG__LIST) continue;
      if (x->in[i].list.n != first.n)
        return zg_onnx_error(x->view, ZG_INVALID, "its sequences differ in length");
      args[i] = zg__of_val(x->in[i].list.at[e]);
    }
    ZG_TRY(zg__run_graph(x->im, x->scope, x->scope->frame, a->g, args, x->n_in, out));
    for (uint32_t k = 0; k < x->n_out; k++) {
      ZG_TRY(zg__as_value(x->im, &out[k]));
      if (out[k].kind != ZG__VALUE)
        return zg_onnx_error(x->view, ZG_UNSUPPORTED, "its body gives something that is no tensor");
      lists[k][e] = out[k].val;
    }
  }
  for (uint32_t k = 0; k < x->n_out; k++) x->out[k] = of_list(first.n, lists[k]);
  return NULL;
}

const zg__structural_row zg__sequence_rows[] = {
    {"SequenceConstruct", construct, false, NULL},
    {"SequenceEmpty", empty, false, NULL},
    {"SequenceAt", at, false, NULL},
    {"SequenceLength", length, false, NULL},
    {"SequenceInsert", insert, false, NULL},
    {"SequenceErase", erase, false, NULL},
    {"SplitToSequence", split, false, NULL},
    {"ConcatFromSequence", concat, false, NULL},
    {"SequenceMap", map, false, NULL},
    {"Identity", pass, true, NULL},
    {"Optional", pass, false, NULL},
    {"OptionalGetElement", pass, false, NULL},
    {"OptionalHasElement", has_element, false, NULL},
    {NULL, NULL, false, NULL},
};
