// The walk over nodes: looks operands up, runs structural nodes (Constant, functions, If, Loop, sequences)
// itself and hands the rest to the op families' import rows.
//
// What zgraph cannot do does not end the import at once: its results are poisoned, and only a model output
// that depends on them brings the message up. A classifier with a string output beside its logits trains all
// the same.
#include "graph/onnx/onnx_priv.h"

// ---- scopes
// -----------------------------------------------------------------------------------------------------------
void zg__scope_init(zg__scope *s, zg__scope *outer, const zg__frame *frame) {
  *s = (zg__scope){.outer = outer, .frame = frame};
}

void zg__scope_fini(zg__scope *s) {
  zg_map_fini(&s->names);
  zg_vec_fini(&s->at);
}

void zg__bind(zg__scope *s, const char *name, zg__binding x) {
  if (!name || !*name) return;
  zg_map_put(&s->names, name, s->at.n);
  zg_vec_push(&s->at, x);
}

bool zg__lookup(const zg__scope *s, const char *name, zg__binding *out) {
  uint64_t i;
  for (; s; s = s->outer)
    if (zg_map_get(&s->names, name, &i)) {
      *out = s->at.at[i];
      return true;
    }
  return false;
}

static zg__binding poison(const char *why) { return (zg__binding){.kind = ZG__POISON, .why = why}; }

zg_status zg__builder_error(zg__import *im) {
  zg_graph *none = NULL;
  zg_status s = zg_builder_finish(im->b, &none);
  im->b = NULL;
  zg_graph_free(none);
  if (!s) return NULL;
  if (strstr(zg_status_message(s), "node \"")) return s;
  return zg_status_prefix(s, "node \"%s\" (%s): ", zg__str(im->node_name), zg__str(im->node_op));
}

// ---- tensors
// ----------------------------------------------------------------------------------------------------------
// A constant from bytes of the file, which lie at any address.
zg_val zg__const(zg_builder *b, const zg_type *t, const void *bytes) {
  if ((uintptr_t)bytes % zg_dtype_bytes(t->dtype) == 0) return zg_b_const_data(b, t, bytes);
  void *aligned = zg_alloc(zg_type_bytes(t) + 1);
  memcpy(aligned, bytes, zg_type_bytes(t));
  zg_val v = zg_b_const_data(b, t, aligned);
  zg_free(aligned);
  return v;
}

static zg_status read_tensor(zg__import *im, uint32_t i, zg_val *out) {
  zg__tensor *t = &im->m->tensors.at[i];
  const zg__decision *d = &im->decisions[i];
  if (t->tied_to) {
    zg__binding leader = {.kind = ZG__TENSOR, .tensor = t->tied_to - 1};
    ZG_TRY(zg__as_value(im, &leader));
    *out = t->tied_transposed ? zg_b_swap_last(im->b, leader.val) : leader.val;
    return NULL;
  }
  if (d->is_const) {
    const void *bytes;
    ZG_TRY(zg_onnx_tensor_bytes(im->m, i, &bytes));
    *out = zg__const(im->b, &t->info.type, bytes);
    return NULL;
  }
  *out = zg_b_param(
      im->b,
      &(zg_param_attr){
          .name = t->info.name, .type = t->info.type, .role = d->role, .reason = d->reason, .source = i});
  return NULL;
}

zg_status zg__as_value(zg__import *im, zg__binding *x) {
  if (x->kind != ZG__TENSOR) return NULL;
  zg_val *leaf = &im->leaves[x->tensor];
  if (!zg_is(*leaf)) ZG_TRY(read_tensor(im, x->tensor, leaf));
  *x = (zg__binding){.kind = ZG__VALUE, .val = *leaf};
  return NULL;
}

// A TensorProto as a binding: by its table entry, as a constant, or, where its type is beyond zgraph, as
// poison.
static zg_status bind_tensor(zg__import *im, const Onnx__TensorProto *t, const char *name, zg__binding *out) {
  const zg__ref *ref = zg__tensor_ref(t);
  if (ref && ref->index != UINT64_MAX) {
    *out = (zg__binding){.kind = ZG__TENSOR, .tensor = (uint32_t)ref->index};
    return NULL;
  }
  zg_type type;
  zg_status s = zg__tensor_type(t, &type);
  if (s) {
    *out = poison(zg_arena_printf(&im->mem, "tensor \"%s\": %s", name, zg_status_message(s)));
    zg_status_free(s);
    return NULL;
  }
  zg_tensor data;
  void *owned;
  uint64_t n_owned;
  ZG_TRY(zg__tensor_data(im->m, t, name, &data, &owned, &n_owned));
  *out = zg__of_val(zg__const(im->b, &data.type, data.data));
  if (owned) zg_free_big(owned, n_owned);
  return NULL;
}

zg_status zg__bind_initializers(zg__import *im, zg__scope *s, const Onnx__GraphProto *g) {
  zg__binding x;
  for (size_t i = 0; i < g->n_initializer; i++) {
    ZG_TRY(bind_tensor(im, g->initializer[i], zg__str(g->initializer[i]->name), &x));
    zg__bind(s, g->initializer[i]->name, x);
  }
  for (size_t i = 0; i < g->n_sparse_initializer; i++) {
    const Onnx__TensorProto *values = g->sparse_initializer[i]->values;
    if (!values) continue;
    const zg__ref *ref = zg__tensor_ref(values);
    bool known = ref && ref->index != UINT64_MAX;
    zg__bind(s, values->name,
             known ? (zg__binding){.kind = ZG__TENSOR, .tensor = (uint32_t)ref->index}
                   : poison(zg_arena_printf(&im->mem, "sparse tensor \"%s\" has an unsupported type",
                                            zg__str(values->name))));
  }
  return NULL;
}

static zg_status constant(zg__import *im, zg_onnx_node *v, const Onnx__NodeProto *n, const zg__frame *f,
                          zg__binding *out) {
  const Onnx__AttributeProto *a;
  zg_builder *b = im->b;
  if ((a = zg__attr(n, f, "value")) && a->t) return bind_tensor(im, a->t, v->name, out);
  if ((a = zg__attr(n, f, "sparse_value")) && a->sparse_tensor && a->sparse_tensor->values) {
    const zg__ref *ref = zg__tensor_ref(a->sparse_tensor->values);
    if (!ref || ref->index == UINT64_MAX)
      return zg_onnx_error(v, ZG_UNSUPPORTED, "a sparse constant must have a float type");
    *out = (zg__binding){.kind = ZG__TENSOR, .tensor = (uint32_t)ref->index};
    return NULL;
  }
  if ((a = zg__attr(n, f, "value_float"))) {
    *out = zg__of_val(zg_b_scalar(b, ZG_F32, zg_onnx_float(v, "value_float", 0)));
  } else if ((a = zg__attr(n, f, "value_int"))) {
    int64_t i = zg_onnx_int(v, "value_int", 0);
    zg_type t = zg_type_scalar(ZG_I64);
    *out = zg__of_val(zg_b_const_data(b, &t, &i));
  } else if ((a = zg__attr(n, f, "value_ints"))) {
    *out = zg__of_val(zg_b_int_vec(b, a->ints, (int64_t)a->n_ints));
  } else if ((a = zg__attr(n, f, "value_floats"))) {
    int64_t dim = (int64_t)a->n_floats;
    zg_type t = zg_type_make(ZG_F32, 1, &dim);
    *out = zg__of_val(zg_b_const_data(b, &t, a->floats));
  } else if (zg__attr(n, f, "value_string") || zg__attr(n, f, "value_strings")) {
    *out = poison(zg_arena_printf(&im->mem, "node \"%s\" (Constant): strings are not supported", v->name));
  } else {
    return zg_onnx_error(v, ZG_INVALID, "it has no value");
  }
  return NULL;
}

// ---- functions
// --------------------------------------------------------------------------------------------------------
int64_t zg__find_function(const zg__import *im, const Onnx__NodeProto *n) {
  if (!im->functions.n) return -1;
  zg_str key = {0};
  uint64_t i;
  zg_str_add(&key, "%s\n%s\n%s", zg__domain(n->domain), zg__str(n->op_type), zg__str(n->overload));
  bool found = zg_map_get(&im->functions, key.at, &i);
  zg_str_fini(&key);
  return found ? (int64_t)i : -1;
}

static zg_status call_function(zg__import *im, const zg_onnx_node *v, const zg__frame *caller,
                               const Onnx__NodeProto *call, const Onnx__FunctionProto *func,
                               const zg__binding *in, zg__binding *out) {
  zg_status status = NULL;
  uint32_t *order, n_order;
  zg__frame f = {.func = func,
                 .call = call,
                 .caller = caller,
                 .opsets = caller->opsets,
                 .depth = caller->depth + 1,
                 .prefix = zg_arena_printf(&im->mem, "%s%s/", caller->prefix, v->name)};
  if (f.depth > ZG__MAX_DEPTH) return zg_onnx_error(v, ZG_INVALID, "functions call each other without end");
  if (call->n_input > func->n_input)
    return zg_onnx_error(v, ZG_INVALID, "it has %zu inputs, the function takes %zu", call->n_input,
                         func->n_input);
  if (call->n_output > func->n_output)
    return zg_onnx_error(v, ZG_INVALID, "it has %zu outputs, the function gives %zu", call->n_output,
                         func->n_output);
  if (func->n_opset_import)
    ZG_TRY(zg__read_opsets(im->m, func->opset_import, func->n_opset_import, &f.opsets));
  const char **wanted = ZG_NEW_N(&im->mem, const char *, call->n_output + 1);
  for (size_t i = 0; i < call->n_output; i++) wanted[i] = *zg__str(call->output[i]) ? func->output[i] : "";
  zg__scope s;
  zg__scope_init(&s, NULL, &f);
  for (size_t i = 0; i < func->n_input; i++)
    zg__bind(&s, func->input[i], i < call->n_input ? in[i] : (zg__binding){.kind = ZG__NOTHING});
  ZG_TRY_OUT(zg__order(im, func->node, func->n_node, wanted, call->n_output, &order, &n_order));
  ZG_TRY_OUT(zg__run_nodes(im, &s, func->node, order, n_order));
  for (size_t i = 0; i < call->n_output; i++)
    if (*wanted[i] && !zg__lookup(&s, wanted[i], &out[i]))
      ZG_TRY_OUT(
          zg_onnx_error(v, ZG_INVALID, "the function's output \"%s\" is made by no node of it", wanted[i]));
out:
  zg__scope_fini(&s);
  return status;
}

zg_status zg__run_graph(zg__import *im, zg__scope *outer, const zg__frame *f, const Onnx__GraphProto *g,
                        const zg__binding *args, uint32_t n_args, zg__binding *out) {
  zg_status status = NULL;
  uint32_t *order, n_order;
  zg__frame inner = *f;
  inner.depth++;
  if (inner.depth > ZG__MAX_DEPTH) return zg_error(ZG_INVALID, "subgraphs are nested too deeply");
  if (g->n_input > n_args)
    return zg_error(ZG_INVALID, "subgraph \"%s\" wants %zu inputs, gets %u", zg__str(g->name), g->n_input,
                    n_args);
  const char **wanted = ZG_NEW_N(&im->mem, const char *, g->n_output + 1);
  for (size_t i = 0; i < g->n_output; i++) wanted[i] = zg__str(g->output[i]->name);
  zg__scope s;
  zg__scope_init(&s, outer, &inner);
  ZG_TRY_OUT(zg__bind_initializers(im, &s, g));
  for (size_t i = 0; i < g->n_input; i++) zg__bind(&s, g->input[i]->name, args[i]);
  ZG_TRY_OUT(zg__order(im, g->node, g->n_node, wanted, g->n_output, &order, &n_order));
  ZG_TRY_OUT(zg__run_nodes(im, &s, g->node, order, n_order));
  for (size_t i = 0; i < g->n_output; i++)
    if (!zg__lookup(&s, wanted[i], &out[i]))
      ZG_TRY_OUT(zg_error(ZG_INVALID, "output \"%s\" of subgraph \"%s\" is made by no node", wanted[i],
                          zg__str(g->name)));
out:
  zg__scope_fini(&s);
  return status;
}

// ---- ordinary nodes
// -----------------------------------------------------------------------------------------------------
// Imports by field names: operands as they are, each field of the op's attribute struct from the attribute of
// its name.
static zg_status import_plain(zg_onnx_node *v, const zg_op *op) {
  char *attr = op->attr_bytes ? zg_arena_alloc(zg_builder_arena(v->b), op->attr_bytes) : NULL;
  for (uint32_t i = 0; i < op->n_fields; i++) {
    const zg_attr_field *f = &op->fields[i];
    void *at = attr + f->offset;
    zg_dtype d;
    switch (f->kind) {
      case ZG_ATTR_INT: *(int64_t *)at = zg_onnx_int(v, f->name, (int64_t)f->def); break;
      case ZG_ATTR_FLOAT: *(double *)at = zg_onnx_float(v, f->name, f->def); break;
      case ZG_ATTR_INTS: zg_onnx_ints(v, f->name, at); break;
      case ZG_ATTR_STR: *(const char **)at = zg_onnx_str(v, f->name, NULL); break;
      case ZG_ATTR_DTYPE:
        *(int64_t *)at = (int64_t)f->def;
        if (!zg_onnx_has(v, f->name)) break;
        ZG_TRY(zg_onnx_dtype(zg_onnx_int(v, f->name, 0), &d));
        *(int64_t *)at = d;
        break;
      case ZG_ATTR_TYPE:
      case ZG_ATTR_DATA:
        ZG_ASSERT(!"an op whose attributes hold types or data needs an import function");
        break;
    }
  }
  uint32_t n_out = op->n_out ? op->n_out : v->n_out;
  zg_val *out = ZG_NEW_N(zg_builder_arena(v->b), zg_val, ZG_MAX(n_out, v->n_out) + 1);
  if (!zg_emit(v->b, op, attr, v->in, v->n_in, out, n_out)) return NULL;  // the builder keeps the error
  for (uint32_t i = 0; i < v->n_out && i < n_out; i++) v->out[i] = out[i];
  return NULL;
}

// Why there is no row: other opset, other domain, or unknown altogether.
static const char *why_no_row(zg__import *im, const zg_onnx_node *v, const zg__frame *f) {
  int64_t since = 0;
  for (const zg_family *const *fam = zg_families; *fam; fam++)
    for (uint32_t i = 0; i < (*fam)->n_onnx; i++) {
      const zg_onnx_row *r = &(*fam)->onnx[i];
      if (!strcmp(r->op_type, v->op_type) && !strcmp(zg__domain(r->domain), v->domain))
        since = ZG_MAX(since, r->since);
    }
  const char *hint =
      since && v->opset < since
          ? zg_arena_printf(
                &im->mem, "it is supported from opset %lld on: convert the model with onnx.version_converter",
                (long long)since)
      : !strcmp(v->domain, "ai.onnx.ml")
          ? "it belongs to classical machine learning (trees, kernels, text), which has no gradient: train a "
            "network, or cut this part off the graph"
      : *v->domain ? "it is no standard op: export the model without fusion or custom ops, or add a "
                     "model-local function for it"
                   : "export the model in float, without quantisation or ops whose result size depends on "
                     "the data, or "
                     "cut this part off the graph";
  return zg_arena_printf(
      &im->mem, "node \"%s%s\" (%s, domain \"%s\", opset %lld): this op is not supported; %s", f->prefix,
      v->name, v->op_type, *v->domain ? v->domain : "ai.onnx", (long long)v->opset, hint);
}

static void poison_outputs(zg__binding *out, uint32_t n, const char *why) {
  for (uint32_t i = 0; i < n; i++) out[i] = poison(why);
}

static zg_status run_ordinary(zg__import *im, zg_onnx_node *v, const zg__frame *f, zg__binding *in,
                              zg__binding *out) {
  const bool old = !*v->domain && v->opset < 7;
  const zg_onnx_row *row = zg_onnx_find(v->op_type, v->domain, old ? 7 : v->opset);
  if (!row) {
    poison_outputs(out, v->n_out, why_no_row(im, v, f));
    return NULL;
  }
  zg_val *vals = ZG_NEW_N(&im->mem, zg_val, v->n_in + 1);
  for (uint32_t i = 0; i < v->n_in; i++) {
    if (in[i].kind == ZG__LIST)
      return zg_onnx_error(v, ZG_UNSUPPORTED, "input %u is a sequence; this op wants a tensor", i);
    ZG_TRY(zg__as_value(im, &in[i]));
    vals[i] = in[i].val;
  }
  v->in = vals;
  v->out = ZG_NEW_N(&im->mem, zg_val, v->n_out + 1);
  zg_status s = zg__modernise(v);
  if (!s) s = row->import ? row->import(v) : import_plain(v, row->op);
  if (zg_builder_failed(im->b)) {
    zg_status_free(s);
    return zg__builder_error(im);
  }
  if (s && zg_status_code(s) == ZG_UNSUPPORTED) {  // matters only if an output depends on it
    poison_outputs(out, v->n_out, zg_arena_str(&im->mem, zg_status_message(s)));
    zg_status_free(s);
    return NULL;
  }
  if (s) return s;
  for (uint32_t i = 0; i < v->n_out; i++)
    out[i] = zg_is(v->out[i])
                 ? zg__of_val(v->out[i])
                 : poison(zg_arena_printf(&im->mem, "node \"%s%s\" (%s-%lld): its output %u is not supported",
                                          f->prefix, v->name, v->op_type, (long long)v->opset, i));
  return NULL;
}

static int64_t opset_of(const zg__frame *f, const char *domain) {
  for (uint32_t i = 0; i < f->opsets.n; i++)
    if (!strcmp(f->opsets.at[i].domain, domain)) return f->opsets.at[i].version;
  return 1;
}

static bool is_main(const zg__scope *s) { return !s->outer && !s->frame->func; }

// *why: set if an operand is poisoned.
static zg_status find_operands(zg__import *im, zg__scope *s, const zg_onnx_node *v, const Onnx__NodeProto *n, zg__binding *in,
                               const char **why) {
  for (uint32_t i = 0; i < v->n_in; i++) {
    in[i] = (zg__binding){.kind = ZG__NOTHING};
    uint32_t derived;
    if (!*zg__str(n->input[i])) continue;
    if (is_main(s) && zg__derived_operand(im->m, &im->mem, n, i, &derived)) {
      in[i] = (zg__binding){.kind = ZG__TENSOR, .tensor = derived};
      continue;
    }
    if (!zg__lookup(s, n->input[i], &in[i]))
      return zg_onnx_error(v, ZG_INVALID, "input %u, \"%s\", is made by no node, input or initializer", i,
                           n->input[i]);
    if (in[i].kind == ZG__POISON && !*why) *why = in[i].why;
  }
  return NULL;
}

static zg_status dispatch(zg__import *im, zg__scope *s, zg_onnx_node *v, const Onnx__NodeProto *n,
                          zg__binding *in, zg__binding *out) {
  bool standard = !*v->domain;
  int64_t func = zg__find_function(im, n);
  if (func >= 0) return call_function(im, v, s->frame, n, im->m->proto->functions[func], in, out);
  if (standard && !strcmp(v->op_type, "Constant"))
    return v->n_out ? constant(im, v, n, s->frame, &out[0]) : NULL;
  const zg__structural_row *row = zg__find_structural(v->op_type, v->domain);
  bool lists = false;
  for (uint32_t i = 0; i < v->n_in; i++) lists |= in[i].kind == ZG__LIST;
  if (!row || (row->lists_only && !lists)) return run_ordinary(im, v, s->frame, in, out);
  zg_status st = row->run(&(zg__structural){im, s, n, v, in, out, v->n_in, v->n_out});
  if (!im->b) return st;
  if (zg_builder_failed(im->b)) {
    zg_status_free(st);
    return zg__builder_error(im);
  }
  if (st && zg_status_code(st) == ZG_UNSUPPORTED) {
    poison_outputs(out, v->n_out, zg_arena_str(&im->mem, zg_status_message(st)));
    zg_status_free(st);
    return NULL;
  }
  return st;
}

static zg_status run_node(zg__import *im, zg__scope *s, const Onnx__NodeProto *n) {
  const char *label = zg__label(n);
  const zg__frame *f = s->frame;
  zg_onnx_attrs attrs = {n, f, im};
  uint32_t n_in = (uint32_t)n->n_input;
  while (n_in && !*zg__str(n->input[n_in - 1])) n_in--;
  zg_onnx_node v = {.b = im->b,
                    .op_type = zg__str(n->op_type),
                    .domain = zg__domain(n->domain),
                    .name = label,
                    .n_in = n_in,
                    .n_out = (uint32_t)n->n_output,
                    .attrs = &attrs,
                    .batch_norm_train = im->o->batch_norm_train,
                    .dropout_on = im->o->dropout_on,
                    .dropout_ratio = im->o->dropout_ratio};
  v.opset = opset_of(f, v.domain);
  bool *used = ZG_NEW_N(&im->mem, bool, v.n_out + 1);
  for (uint32_t i = 0; i < v.n_out; i++) used[i] = *zg__str(n->output[i]) != 0;
  v.out_used = used;
  zg__binding *in = ZG_NEW_N(&im->mem, zg__binding, v.n_in + 1),
              *out = ZG_NEW_N(&im->mem, zg__binding, v.n_out + 1);
  const char *why = NULL;
  uint32_t derived;
  if (++im->n_nodes > ZG__MAX_NODES)
    return zg_onnx_error(&v, ZG_UNSUPPORTED,
                         "the graph has more than %llu nodes once functions and loops are unrolled",
                         (unsigned long long)ZG__MAX_NODES);
  im->node_name = *f->prefix ? zg_arena_printf(&im->mem, "%s%s", f->prefix, label) : label;
  im->node_op = v.op_type;
  zg_builder_origin(im->b, (zg_origin){.node = im->node_name});
  if (is_main(s) && zg__derived_result(im->m, n, &derived) && !im->decisions[derived].is_const) {
    zg__bind(s, n->output[0], (zg__binding){.kind = ZG__TENSOR, .tensor = derived});
    return NULL;
  }
  ZG_TRY(find_operands(im, s, &v, n, in, &why));
  if (why) poison_outputs(out, v.n_out, why);
  else ZG_TRY(dispatch(im, s, &v, n, in, out));
  if (zg_builder_failed(im->b)) return zg__builder_error(im);
  for (uint32_t i = 0; i < v.n_out; i++) {
    if (!used[i]) continue;
    zg__bind(s, n->output[i], out[i]);
    if (out[i].kind == ZG__VALUE && is_main(s)) zg_builder_name(im->b, out[i].val, n->output[i]);
  }
  return NULL;
}

zg_status zg__run_nodes(zg__import *im, zg__scope *s, Onnx__NodeProto *const *nodes, const uint32_t *order,
                        uint32_t n) {
  for (uint32_t i = 0; i < n; i++) ZG_TRY(run_node(im, s, nodes[order[i]]));
  return NULL;
}

// ---- structural nodes
// ---------------------------------------------------------------------------------------------------
static const zg__structural_row control_rows[] = {
    {"If", zg__run_if}, {"Loop", zg__run_loop}, {"Scan", zg__run_scan}, {NULL, NULL}};

const zg__structural_row *zg__find_structural(const char *op_type, const char *domain) {
  const zg__structural_row *const tables[] = {control_rows, zg__sequence_rows, zg__preview_rows};
  for (size_t i = 0; i < ZG_COUNT(tables); i++)
    for (const zg__structural_row *r = tables[i]; r->op_type; r++)
      if (!strcmp(r->op_type, op_type) && !strcmp(r->domain ? r->domain : "", domain)) return r;
  return NULL;
}

const char *zg_onnx_structural_op(uint32_t i, const char **domain) {
  static const zg__structural_row constant_row[] = {{"Constant", NULL}, {NULL, NULL}};
  const zg__structural_row *const tables[] = {constant_row, control_rows, zg__sequence_rows, zg__preview_rows};
  for (size_t t = 0; t < ZG_COUNT(tables); t++)
    for (const zg__structural_row *r = tables[t]; r->op_type; r++) {
      if (r->lists_only || i--) continue;
      *domain = r->domain ? r->domain : "";
      return r->op_type;
    }
  return NULL;
}

bool zg__arg_present(const zg__structural *x, uint32_t i) {
  return i < x->n_in && x->in[i].kind != ZG__NOTHING;
}

zg_status zg__arg_value(zg__structural *x, uint32_t i, zg_val *out) {
  if (!zg__arg_present(x, i)) return zg_onnx_error(x->view, ZG_INVALID, "input %u is missing", i);
  if (x->in[i].kind == ZG__LIST)
    return zg_onnx_error(x->view, ZG_INVALID, "input %u is a sequence, want a tensor", i);
  ZG_TRY(zg__as_value(x->im, &x->in[i]));
  *out = x->in[i].val;
  return NULL;
}
