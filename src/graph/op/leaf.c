// Op family: leaves (input, param, state, const) and generators (fill, iota, random): ops without operands.
#include <math.h>

#include "graph/core.h"

// ---- leaves -------------------------------------------------------------------------------------------------------------
static zg_status infer_input(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 0, 0));
  x->out[0] = ((const zg_input_attr *)x->attr)->type;
  return NULL;
}
static zg_status infer_param(zg_infer *x) {
  const zg_param_attr *a = x->attr;
  ZG_TRY(zg_infer_arity(x, 0, 0));
  if (a->role < ZG_ROLE_FROZEN || a->role > ZG_ROLE_RUNNING) return zg_error(ZG_INVALID, "role %lld is none", (long long)a->role);
  if (a->role == ZG_ROLE_TRAINABLE && !zg_dtype_is_float(a->type.dtype))
    return zg_error(ZG_INVALID, "\"%s\" is %s: only floats can be trained", a->name ? a->name : "", zg_type_text(&a->type));
  x->out[0] = a->type;
  return NULL;
}
static zg_status infer_state(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 0, 0));
  x->out[0] = ((const zg_state_attr *)x->attr)->type;
  return NULL;
}
static zg_status infer_const(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 0, 0));
  x->out[0] = ((const zg_const_attr *)x->attr)->type;
  return NULL;
}

static zg_status eval_const(zg_eval *x) {
  const zg_const_attr *a = x->attr;
  if (zg_type_bytes(&a->type)) memcpy(x->out[0].data, a->data, zg_type_bytes(&a->type));
  return NULL;
}

static const zg_attr_field input_fields[] = {
    ZG_FIELD(STR, zg_input_attr, name, 0),
    ZG_FIELD(TYPE, zg_input_attr, type, 0),
};
const zg_op zg_op_input = {.name = "input", .traits = ZG_CORE | ZG_LEAF, ZG_ATTRS(zg_input_attr, input_fields), .n_out = 1,
                           .infer = infer_input};

static const zg_attr_field param_fields[] = {
    ZG_FIELD(STR, zg_param_attr, name, 0),   ZG_FIELD(TYPE, zg_param_attr, type, 0),
    ZG_FIELD(INT, zg_param_attr, role, 0),   ZG_FIELD(STR, zg_param_attr, reason, 0),
    ZG_FIELD(INT, zg_param_attr, source, 0),
};
const zg_op zg_op_param = {.name = "param", .traits = ZG_CORE | ZG_LEAF, ZG_ATTRS(zg_param_attr, param_fields), .n_out = 1,
                           .infer = infer_param};

static const zg_attr_field state_fields[] = {
    ZG_FIELD(STR, zg_state_attr, name, 0),   ZG_FIELD(TYPE, zg_state_attr, type, 0),
    ZG_FIELD(INT, zg_state_attr, role, 0),   ZG_FIELD(FLOAT, zg_state_attr, init, 0),
    ZG_FIELD(STR, zg_state_attr, init_from, 0),
};
const zg_op zg_op_state = {.name = "state", .traits = ZG_CORE | ZG_LEAF, ZG_ATTRS(zg_state_attr, state_fields), .n_out = 1,
                           .infer = infer_state};

static const zg_attr_field const_fields[] = {
    ZG_FIELD(TYPE, zg_const_attr, type, 0),
    ZG_FIELD(DATA, zg_const_attr, data, 0),
};
const zg_op zg_op_const = {.name = "const", .traits = ZG_CORE | ZG_LEAF, ZG_ATTRS(zg_const_attr, const_fields), .n_out = 1,
                           .infer = infer_const, .eval = eval_const};

// ---- fill ---------------------------------------------------------------------------------------------------------------
static zg_status infer_fill(zg_infer *x) {
  ZG_TRY(zg_infer_arity(x, 0, 0));
  x->out[0] = ((const zg_fill_attr *)x->attr)->type;
  return NULL;
}

static zg_status eval_fill(zg_eval *x) {
  const zg_fill_attr *a = x->attr;
  for (int64_t i = 0; i < zg_elems(&a->type); i++) zg_set_f64(a->type.dtype, x->out[0].data, i, a->value);
  return NULL;
}

static const zg_attr_field fill_fields[] = {
    ZG_FIELD(TYPE, zg_fill_attr, type, 0),
    ZG_FIELD(FLOAT, zg_fill_attr, value, 0),
};
static const zg_op_case fill_cases[] = {
    {.name = "added", .text = "%1 = input name=\"x\" type=f64[2,3]\n%2 = fill type=f64[2,3] value=0.5\n"
                              "%3 = mul %1, %2\noutput value \"y\" %3"},
    {.name = "empty", .text = "%1 = input name=\"x\" type=f64[0,3]\n%2 = fill type=f64[0,3] value=0.5\n"
                              "%3 = mul %1, %2\noutput value \"y\" %3"},
};
const zg_op zg_op_fill = {.name = "fill", .traits = ZG_CORE, ZG_ATTRS(zg_fill_attr, fill_fields), .n_out = 1,
                          .infer = infer_fill, .eval = eval_fill, ZG_CASES(fill_cases)};

// ---- iota ---------------------------------------------------------------------------------------------------------------
static zg_status infer_iota(zg_infer *x) {
  const zg_iota_attr *a = x->attr;
  ZG_TRY(zg_infer_arity(x, 0, 0));
  if (a->axis < 0 || a->axis >= a->type.rank)
    return zg_error(ZG_INVALID, "axis %lld is out of range for %s", (long long)a->axis, zg_type_text(&a->type));
  x->out[0] = a->type;
  return NULL;
}

static zg_status eval_iota(zg_eval *x) {
  const zg_iota_attr *a = x->attr;
  int64_t stride[ZG_MAX_RANK];
  zg_type_strides(&a->type, stride);
  for (int64_t i = 0; i < zg_elems(&a->type); i++) {
    const int64_t k = i / stride[a->axis] % a->type.dim[a->axis];
    if (zg_dtype_is_float(a->type.dtype)) {
      zg_set_f64(a->type.dtype, x->out[0].data, i, a->start + (double)k * a->step);
    } else {
      zg_set_i64(a->type.dtype, x->out[0].data, i, (int64_t)a->start + k * (int64_t)a->step);
    }
  }
  return NULL;
}

static const zg_attr_field iota_fields[] = {
    ZG_FIELD(TYPE, zg_iota_attr, type, 0),
    ZG_FIELD(INT, zg_iota_attr, axis, 0),
    ZG_FIELD(FLOAT, zg_iota_attr, start, 0),
    ZG_FIELD(FLOAT, zg_iota_attr, step, 1),
};
static const zg_op_case iota_cases[] = {
    {.name = "along rows", .text = "%1 = input name=\"x\" type=f64[2,3]\n%2 = iota type=f64[2,3] axis=1 start=2 step=-0.5\n"
                                   "%3 = mul %1, %2\noutput value \"y\" %3"},
    {.name = "integer mask", .text = "%1 = input name=\"x\" type=f64[2,3]\n%2 = iota type=i64[2,1] axis=0\n"
                                     "%3 = iota type=i64[1,3] axis=1\n%4 = le %3, %2\n%5 = neg %1\n%6 = where %4, %1, %5\n"
                                     "output value \"y\" %6"},
};
const zg_op zg_op_iota = {.name = "iota", .traits = ZG_CORE, ZG_ATTRS(zg_iota_attr, iota_fields), .n_out = 1,
                          .infer = infer_iota, .eval = eval_iota, ZG_CASES(iota_cases)};

// ---- random -------------------------------------------------------------------------------------------------------------
static zg_status infer_random(zg_infer *x) {
  const zg_random_attr *a = x->attr;
  ZG_TRY(zg_infer_arity(x, 0, 0));
  if (a->kind != ZG_RAND_UNIFORM && a->kind != ZG_RAND_NORMAL)
    return zg_error(ZG_INVALID, "kind %lld is neither uniform (0) nor normal (1)", (long long)a->kind);
  if (!zg_dtype_is_float(a->type.dtype)) return zg_error(ZG_INVALID, "draws floats, not %s", zg_type_text(&a->type));
  x->out[0] = a->type;
  return NULL;
}

// The draw of the step's schedule (sched/loop.h, zg_loop_random) at step 0 with the same key.
static double draw(const zg_random_attr *a, const uint32_t key[2], uint64_t element) {
  const uint64_t n = a->kind == ZG_RAND_UNIFORM ? element / 4 : element;
  const uint32_t counter[4] = {(uint32_t)n, (uint32_t)(n >> 32), 0, (uint32_t)a->stream};
  uint32_t w[4];
  zg_philox(counter, key, w);
  if (a->kind == ZG_RAND_UNIFORM) return a->lo + (w[element % 4] >> 8) * 0x1p-24 * (a->hi - a->lo);
  const double u = ((w[0] >> 8) + 1) * 0x1p-24, v = (w[1] >> 8) * 0x1p-24;   // Box-Muller; u in (0, 1]
  return a->lo + a->hi * sqrt(-2 * log(u)) * cos(6.283185307179586477 * v);
}

static zg_status eval_random(zg_eval *x) {
  static const uint32_t no_seed[2] = {0, 0};
  const zg_random_attr *a = x->attr;
  const uint32_t *key = x->seed ? x->seed : no_seed;
  for (int64_t i = 0; i < zg_elems(&a->type); i++) zg_set_f64(a->type.dtype, x->out[0].data, i, draw(a, key, (uint64_t)i));
  return NULL;
}

static const zg_attr_field random_fields[] = {
    ZG_FIELD(TYPE, zg_random_attr, type, 0), ZG_FIELD(INT, zg_random_attr, kind, 0),
    ZG_FIELD(INT, zg_random_attr, stream, 0), ZG_FIELD(FLOAT, zg_random_attr, lo, 0),
    ZG_FIELD(FLOAT, zg_random_attr, hi, 1),
};
static const zg_op_case random_cases[] = {
    {.name = "uniform", .text = "%1 = input name=\"x\" type=f64[2,3]\n%2 = random type=f64[2,3] stream=4\n"
                                "%3 = mul %1, %2\noutput value \"y\" %3"},
    {.name = "normal", .text = "%1 = input name=\"x\" type=f64[7]\n%2 = random type=f64[7] kind=1 stream=5 lo=1 hi=2\n"
                               "%3 = mul %1, %2\noutput value \"y\" %3"},
};
const zg_op zg_op_random = {.name = "random", .traits = ZG_CORE | ZG_IMPURE | ZG_NO_GRAD, ZG_ATTRS(zg_random_attr, random_fields),
                            .n_out = 1, .infer = infer_random, .eval = eval_random, ZG_CASES(random_cases)};

static const zg_op *const leaf_ops[] = {&zg_op_input, &zg_op_param, &zg_op_state, &zg_op_const,
                                        &zg_op_fill,  &zg_op_iota,  &zg_op_random};
const zg_family zg_family_leaf = {.name = "leaf", .ops = leaf_ops, .n_ops = ZG_COUNT(leaf_ops)};
