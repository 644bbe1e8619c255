// Op: transpose.
#include "graph/op/op_priv.h"

static zg_status transpose_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 1, 1));
  const zg_ints *p = &((const zg_transpose_attr *)x->attr)->perm;
  ZG_TRY(zg__check_rank(x, "perm", p->n, x->in[0]->rank));
  x->out[0] = *x->in[0];
  uint32_t seen = 0;
  for (int64_t i = 0; i < p->n; i++) {
    if (p->at[i] < 0 || p->at[i] >= p->n || (seen >> p->at[i] & 1))
      return zg_error(ZG_INVALID, "perm is no permutation of the %lld dims of %s", (long long)p->n,
                      zg_type_text(x->in[0]));
    seen |= 1u << p->at[i];
    x->out[0].dim[i] = x->in[0]->dim[p->at[i]];
  }
  return NULL;
}

static zg_status transpose_eval(zg_eval *x) {
  const zg_ints *p = &((const zg_transpose_attr *)x->attr)->perm;
  int64_t s[ZG_MAX_RANK], stride[ZG_MAX_RANK];
  zg_type_strides(&x->in[0].type, s);
  for (int64_t i = 0; i < p->n; i++) stride[i] = s[p->at[i]];
  zg__strided_copy(&x->out[0].type, x->out[0].data, x->in[0].data, stride, 0, false);
  return NULL;
}

static zg_status transpose_grad(zg_grad *g) {
  const zg_ints *p = &((const zg_transpose_attr *)g->attr)->perm;
  int64_t inverse[ZG_MAX_RANK];
  for (int64_t i = 0; i < p->n; i++) inverse[p->at[i]] = i;
  if (zg_is(g->dout[0])) g->din[0] = zg_b_transpose(g->b, g->dout[0], inverse);
  return NULL;
}

static const zg_attr_field transpose_fields[] = {ZG_FIELD(INTS, zg_transpose_attr, perm, 0)};
static const zg_op_case transpose_cases[] = {
    {.name = "matrix", .text = IN("[2,5]") "%2 = transpose %1 perm=[1,0]" OUT2},
    {.name = "cycle", .text = IN("[2,3,4]") "%2 = transpose %1 perm=[2,0,1]" OUT2},
    {.name = "heads", .text = IN("[2,3,4,5]") "%2 = transpose %1 perm=[0,2,1,3]" OUT2},
    {.name = "scalar", .text = IN("[]") "%2 = transpose %1 perm=[]" OUT2},
    {.name = "empty", .text = IN("[0,3]") "%2 = transpose %1 perm=[1,0]" OUT2},
};
const zg_op zg_op_transpose = {.name = "transpose",
                               .traits = ZG_CORE | ZG_VIEW,
                               ZG_ATTRS(zg_transpose_attr, transpose_fields),
                               .n_out = 1,
                               .infer = transpose_infer,
                               .eval = transpose_eval,
                               .grad = transpose_grad,
                               ZG_CASES(transpose_cases)};

// ---- ONNX ----------------------------------------------------------------------------------------
static zg_status import_transpose(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 1));
  const int64_t rank = zg_b_type(n->b, n->in[0])->rank;
  int64_t perm[ZG_MAX_RANK];
  zg_ints p;
  const bool given = zg_onnx_ints(n, "perm", &p);
  if (given && p.n != rank)
    return zg_onnx_error(n, ZG_INVALID, "perm has %lld entries for rank %lld", (long long)p.n,
                         (long long)rank);
  for (int64_t i = 0; i < rank; i++) perm[i] = given ? p.at[i] : rank - 1 - i;
  n->out[0] = zg_b_transpose(n->b, n->in[0], perm);
  return NULL;
}

static const zg_onnx_row rows[] = {
    {"Transpose", "", 1, 0, import_transpose},
};
static const zg_op *const ops[] = {&zg_op_transpose};
const zg_family zg_family_transpose = {
    .name = "transpose", .ops = ops, .n_ops = ZG_COUNT(ops), .onnx = rows, .n_onnx = ZG_COUNT(rows)};
