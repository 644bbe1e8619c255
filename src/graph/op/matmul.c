// Op family: MatMul, Gemm and kin.
// A product whose right side has no batch is one 2-D product over all rows of the left side, forward and
// backward: the weight gradient of a linear layer is then one large matmul and not a batch of small ones that
// are summed.
#include "graph/op/op_priv.h"

static zg_status product_infer(const zg_matmul_attr *a, const zg_type *p, const zg_type *q, zg_type *out) {
  if (p->rank < 2 || q->rank < 2 || p->dtype != q->dtype)
    return zg_error(ZG_INVALID, "wants two matrices of one element type, got %s and %s", zg_type_text(p),
                    zg_type_text(q));
  const int64_t m = p->dim[p->rank - (a->ta ? 1 : 2)], k = p->dim[p->rank - (a->ta ? 2 : 1)];
  const int64_t k2 = q->dim[q->rank - (a->tb ? 1 : 2)], n = q->dim[q->rank - (a->tb ? 2 : 1)];
  if (k != k2)
    return zg_error(ZG_INVALID, "inner dimensions differ: %s%s times %s%s", zg_type_text(p),
                    a->ta ? " transposed" : "", zg_type_text(q), a->tb ? " transposed" : "");
  zg_type bp = zg_type_make(p->dtype, p->rank - 2, p->dim), bq = zg_type_make(q->dtype, q->rank - 2, q->dim);
  ZG_TRY(zg_status_prefix(zg_type_broadcast(&bp, &bq, out), "batch dimensions: "));
  out->dim[out->rank++] = m;
  out->dim[out->rank++] = n;
  if (a->wide) out->dtype = zg__wide_dtype(p->dtype);
  return NULL;
}

static zg_status matmul_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 2, 2));
  return product_infer(x->attr, x->in[0], x->in[1], &x->out[0]);
}

static zg_status matmul_add_infer(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 3, 3));
  ZG_TRY(product_infer(x->attr, x->in[1], x->in[2], &x->out[0]));
  if (!zg_type_equal(x->in[0], &x->out[0]))
    return zg_error(ZG_INVALID, "the sum so far is %s and the product %s", zg_type_text(x->in[0]),
                    zg_type_text(&x->out[0]));
  return NULL;
}

// Offset of each operand's matrix for each batch of the result.
static void batch_strides(const zg_type *t, const zg_type *out, int64_t *stride) {
  int64_t s[ZG_MAX_RANK];
  zg_type_strides(t, s);
  for (uint32_t d = 0; d + 2 < out->rank; d++) {
    const int64_t from = (int64_t)d - ((int64_t)out->rank - t->rank);
    stride[d] = from < 0 || t->dim[from] == 1 ? 0 : s[from];
  }
}

static void product_f64(const double *p, const double *q, double *c, const int64_t mnk[3],
                        const zg_matmul_attr *a) {
  const int64_t m = mnk[0], n = mnk[1], k = mnk[2];
  for (int64_t i = 0; i < m; i++)
    for (int64_t l = 0; l < k; l++) {
      const double v = a->ta ? p[l * m + i] : p[i * k + l];
      for (int64_t j = 0; j < n; j++) c[i * n + j] += v * (a->tb ? q[j * k + l] : q[l * n + j]);
    }
}

static void product_i64(const int64_t *p, const int64_t *q, int64_t *c, const int64_t mnk[3],
                        const zg_matmul_attr *a) {
  const int64_t m = mnk[0], n = mnk[1], k = mnk[2];
  for (int64_t i = 0; i < m; i++)
    for (int64_t l = 0; l < k; l++) {
      const uint64_t v = (uint64_t)(a->ta ? p[l * m + i] : p[i * k + l]);
      for (int64_t j = 0; j < n; j++)
        c[i * n + j] =
            (int64_t)((uint64_t)c[i * n + j] + v * (uint64_t)(a->tb ? q[j * k + l] : q[l * n + j]));
    }
}

// base: what the product is added to, or NULL.
static zg_status product_eval(zg_eval *x, const zg_tensor *base, const zg_tensor *in) {
  const zg_matmul_attr *a = x->attr;
  const zg_type *p = &in[0].type, *q = &in[1].type, *o = &x->out[0].type;
  const int64_t mnk[3] = {o->dim[o->rank - 2], o->dim[o->rank - 1], p->dim[p->rank - (a->ta ? 2 : 1)]};
  const zg_dtype acc = zg_dtype_is_float(p->dtype) ? ZG_F64 : ZG_I64;
  const int64_t np = zg_elems(p), nq = zg_elems(q), no = zg_elems(o);
  void *mem;
  const uint64_t bytes = (uint64_t)(np + nq + no) * 8 + 8;
  ZG_TRY(zg_alloc_big(bytes, &mem));
  double *fp = mem, *fq = fp + np, *fo = fq + nq;  // or int64_t, which is as long
  zg_convert(acc, fp, p->dtype, in[0].data, np);
  zg_convert(acc, fq, q->dtype, in[1].data, nq);
  if (base) zg_convert(acc, fo, o->dtype, base->data, no);
  int64_t sp[ZG_MAX_RANK] = {0}, sq[ZG_MAX_RANK] = {0}, ip[ZG_MAX_RANK] = {0}, iq[ZG_MAX_RANK] = {0}, at = 0,
          bt = 0;
  batch_strides(p, o, sp);
  batch_strides(q, o, sq);
  const zg_type batch = zg_type_make(o->dtype, o->rank - 2, o->dim);
  for (int64_t i = 0; i < zg_elems(&batch); i++) {
    double *c = fo + i * mnk[0] * mnk[1];
    if (acc == ZG_F64) product_f64(fp + at, fq + bt, c, mnk, a);
    else product_i64((int64_t *)(fp + at), (int64_t *)(fq + bt), (int64_t *)c, mnk, a);
    zg__step(&batch, ip, sp, &at);
    zg__step(&batch, iq, sq, &bt);
  }
  zg_convert(o->dtype, x->out[0].data, acc, fo, no);
  zg_free_big(mem, bytes);
  return NULL;
}

static zg_status matmul_eval(zg_eval *x) { return product_eval(x, NULL, x->in); }
static zg_status matmul_add_eval(zg_eval *x) { return product_eval(x, &x->in[0], &x->in[1]); }

static bool has_batch(const zg_type *t) { return t->rank > 2 && zg__prod(t, 0, t->rank - 2) != 1; }

// All leading dims into the rows: [..., M, K] -> [rows, K].
static zg_val as_rows(zg_builder *b, zg_val x) {
  const zg_type t = *zg_b_type(b, x);
  const int64_t dim[2] = {zg__prod(&t, 0, (int64_t)t.rank - 1), t.rank ? t.dim[t.rank - 1] : 1};
  return t.rank == 2 ? x : zg_b_reshape(b, x, dim, 2);
}

static zg_status matmul_grad(zg_grad *g) {
  zg_builder *b = g->b;
  const zg_matmul_attr *a = g->attr;
  const zg_val x = g->in[0], y = g->in[1], dy = zg__cast_like(b, g->dout[0], x);
  if (!zg_is(dy)) return NULL;
  const zg_type tx = *zg_b_type(b, x), ty = *zg_b_type(b, y);
  const bool ta = a->ta, tb = a->tb;
  if (g->need[0]) {
    const zg_val dx = ta ? zg_b_matmul(b, y, dy, tb, true) : zg__matmul(b, dy, y, false, !tb);
    g->din[0] = zg_b_sum_to(b, dx, &tx);
  }
  if (g->need[1]) {
    zg_val u = x, v = dy;
    const bool merge = !ta && has_batch(&tx) && !has_batch(&ty);
    if (merge) u = as_rows(b, x), v = as_rows(b, dy);
    const zg_val d = tb ? zg_b_matmul(b, v, u, true, ta) : zg_b_matmul(b, u, v, !ta, false);
    g->din[1] = merge ? zg_b_reshape_like(b, d, &ty) : zg_b_sum_to(b, d, &ty);
  }
  return NULL;
}

static zg_status matmul_add_grad(zg_grad *g) {
  g->din[0] = g->dout[0];
  zg_grad product = *g;
  product.in++, product.need++, product.din++, product.n_in--;
  return matmul_grad(&product);
}

static const zg_attr_field matmul_fields[] = {ZG_FIELD(INT, zg_matmul_attr, ta, 0),
                                              ZG_FIELD(INT, zg_matmul_attr, tb, 0),
                                              ZG_FIELD(INT, zg_matmul_attr, wide, 0)};
#define XY(s, t) "%1 = input name=\"x\" type=f64" s "\n%2 = input name=\"y\" type=f64" t "\n"
#define OUT3 "\noutput value \"z\" %3"
static const zg_op_case matmul_cases[] = {
    {.name = "plain", .text = XY("[3,4]", "[4,5]") "%3 = matmul %1, %2" OUT3},
    {.name = "left transposed", .text = XY("[4,3]", "[4,5]") "%3 = matmul %1, %2 ta=1" OUT3},
    {.name = "right transposed", .text = XY("[3,4]", "[5,4]") "%3 = matmul %1, %2 tb=1" OUT3},
    {.name = "both transposed", .text = XY("[4,3]", "[5,4]") "%3 = matmul %1, %2 ta=1 tb=1" OUT3},
    {.name = "batched", .text = XY("[2,3,4]", "[2,4,2]") "%3 = matmul %1, %2" OUT3},
    {.name = "broadcast right", .text = XY("[2,3,4]", "[4,5]") "%3 = matmul %1, %2" OUT3},
    {.name = "broadcast right, transposed", .text = XY("[2,3,4]", "[5,4]") "%3 = matmul %1, %2 tb=1" OUT3},
    {.name = "broadcast right, left transposed",
     .text = XY("[2,4,3]", "[4,5]") "%3 = matmul %1, %2 ta=1" OUT3},
    {.name = "broadcast left", .text = XY("[3,4]", "[2,4,5]") "%3 = matmul %1, %2" OUT3},
    {.name = "broadcast both", .text = XY("[2,1,3,4]", "[3,4,2]") "%3 = matmul %1, %2 " OUT3},
    {.name = "broadcast both, transposed",
     .text = XY("[1,2,4,3]", "[3,1,2,4]") "%3 = matmul %1, %2 ta=1 tb=1" OUT3},
    {.name = "one row", .text = XY("[1,7]", "[7,1]") "%3 = matmul %1, %2" OUT3},
    {.name = "no rows", .text = XY("[0,4]", "[4,5]") "%3 = matmul %1, %2" OUT3},
    {.name = "no inner elements", .text = XY("[3,0]", "[0,5]") "%3 = matmul %1, %2" OUT3},
};
const zg_op zg_op_matmul = {.name = "matmul",
                            .traits = ZG_CORE,
                            ZG_ATTRS(zg_matmul_attr, matmul_fields),
                            .n_out = 1,
                            .infer = matmul_infer,
                            .eval = matmul_eval,
                            .grad = matmul_grad,
                            ZG_CASES(matmul_cases)};

#define CXY(r, s, t) "%1 = input name=\"c\" type=f64" r "\n%2 = input name=\"x\" type=f64" s "\n%3 = input name=\"y\" type=f64" t "\n"
#define OUT4 "\noutput value \"z\" %4"
static const zg_op_case matmul_add_cases[] = {
    {.name = "plain", .text = CXY("[3,5]", "[3,4]", "[4,5]") "%4 = matmul_add %1, %2, %3" OUT4},
    {.name = "left transposed", .text = CXY("[3,5]", "[4,3]", "[4,5]") "%4 = matmul_add %1, %2, %3 ta=1" OUT4},
    {.name = "right transposed", .text = CXY("[3,5]", "[3,4]", "[5,4]") "%4 = matmul_add %1, %2, %3 tb=1" OUT4},
    {.name = "batched", .text = CXY("[2,3,5]", "[2,3,4]", "[2,4,5]") "%4 = matmul_add %1, %2, %3" OUT4},
    {.name = "of three, in one place",
     .text = CXY("[3,5]", "[3,4]", "[4,5]") "%4 = mul %1, %1\n%5 = matmul_add %4, %2, %3\n%6 = matmul_add %5, %2, %3\n"
             "%7 = neg %2\n%8 = matmul_add %6, %7, %3\noutput value \"z\" %8"},
    {.name = "the sum so far is read elsewhere",
     .text = CXY("[3,5]", "[3,4]", "[4,5]") "%4 = mul %1, %1\n%5 = matmul_add %4, %2, %3\n%6 = mul %4, %5\noutput value \"z\" %6"},
    {.name = "a constant so far",
     .text = "%1 = fill type=f64[3,5] value=2\n%2 = input name=\"x\" type=f64[3,4]\n%3 = input name=\"y\" type=f64[4,5]\n"
             "%4 = matmul_add %1, %2, %3" OUT4},
    {.name = "no rows", .text = CXY("[0,5]", "[0,4]", "[4,5]") "%4 = matmul_add %1, %2, %3" OUT4},
    {.name = "no inner elements", .text = CXY("[3,5]", "[3,0]", "[0,5]") "%4 = matmul_add %1, %2, %3" OUT4},
};
const zg_op zg_op_matmul_add = {.name = "matmul_add",
                                .traits = ZG_CORE,
                                ZG_ATTRS(zg_matmul_attr, matmul_fields),
                                .n_out = 1,
                                .infer = matmul_add_infer,
                                .eval = matmul_add_eval,
                                .grad = matmul_add_grad,
                                ZG_CASES(matmul_add_cases)};

zg_val zg__matmul(zg_builder *b, zg_val x, zg_val y, bool ta, bool tb) {
  const zg_type tx = *zg_b_type(b, x), ty = *zg_b_type(b, y);
  if (ta || tx.rank <= 2 || ty.rank != 2) return zg_b_matmul(b, x, y, ta, tb);
  const zg_val z = zg_b_matmul(b, as_rows(b, x), y, false, tb);
  zg_type out = tx;
  out.dim[out.rank - 1] = ty.dim[tb ? 0 : 1];
  return zg_b_reshape(b, z, out.dim, out.rank);
}

// ---- ONNX ---------------------------------------------------------------------------------------
static zg_status import_matmul(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 2));
  zg_builder *b = n->b;
  const uint32_t rx = zg_b_type(b, n->in[0])->rank, ry = zg_b_type(b, n->in[1])->rank;
  if ((rx == 0 || ry == 0) && !zg_builder_failed(b))
    return zg_onnx_error(n, ZG_INVALID, "operands are %s and %s; a scalar has no matrix product",
                         zg_type_text(zg_b_type(b, n->in[0])), zg_type_text(zg_b_type(b, n->in[1])));
  const zg_val x = rx == 1 ? zg_b_unsqueeze(b, n->in[0], 0) : n->in[0];
  const zg_val y = ry == 1 ? zg_b_unsqueeze(b, n->in[1], 1) : n->in[1];
  zg_val z = zg__matmul(b, x, y, false, false);
  if (ry == 1) z = zg_b_squeeze(b, z, -1);
  if (rx == 1) z = zg_b_squeeze(b, z, ry == 1 ? -1 : -2);
  n->out[0] = z;
  return NULL;
}

// com.microsoft FusedMatMul: alpha * op(A) op(B), operands of rank >= 2.
static zg_status import_fused_matmul(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 2));
  if (zg_onnx_int(n, "transBatchA", 0) || zg_onnx_int(n, "transBatchB", 0))
    return zg_onnx_error(n, ZG_UNSUPPORTED,
                         "transBatchA and transBatchB are not supported: export without ORT's fusions");
  const double alpha = zg_onnx_float(n, "alpha", 1);
  const zg_val z =
      zg__matmul(n->b, n->in[0], n->in[1], zg_onnx_int(n, "transA", 0), zg_onnx_int(n, "transB", 0));
  n->out[0] = alpha == 1 ? z : zg_mul_k(n->b, z, alpha);
  return NULL;
}

static zg_status import_gemm(zg_onnx_node *n) {
  ZG_TRY(zg__need(n, 2));
  zg_builder *b = n->b;
  const double alpha = zg_onnx_float(n, "alpha", 1), beta = zg_onnx_float(n, "beta", 1);
  zg_val z = zg_b_matmul(b, n->in[0], n->in[1], zg_onnx_int(n, "transA", 0), zg_onnx_int(n, "transB", 0));
  if (alpha != 1) z = zg_mul_k(b, z, alpha);
  zg_val c = zg_onnx_in(n, 2);
  if (zg_is(c) && beta != 0) z = zg_add(b, z, beta == 1 ? c : zg_mul_k(b, c, beta));
  n->out[0] = z;
  return NULL;
}

static const zg_onnx_row rows[] = {
    {"MatMul", "", 1, 0, import_matmul, NULL, 3, .weight_operands = 3},
    {"Gemm", "", 1, 0, import_gemm, NULL, 7, .weight_operands = 7},
    {"FusedMatMul", "com.microsoft", 1, 0, import_fused_matmul, NULL, 3, .weight_operands = 3},
};
static const zg_op *const ops[] = {&zg_op_matmul, &zg_op_matmul_add};
const zg_family zg_family_matmul = {
    .name = "matmul", .ops = ops, .n_ops = ZG_COUNT(ops), .onnx = rows, .n_onnx = ZG_COUNT(rows)};
