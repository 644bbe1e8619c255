// Signatures, and the binding of their symbols to numbers.
//
// A dimension is a number or a symbol. Exporters are careless with names: a dimension may be called "", "-1"
// or "0", be 0 or -1, and one size often has several names. What the data give is therefore bound by
// position: a known input type fixes the dims of that input, and, where those are named, the symbols
// elsewhere too.
#include <errno.h>
#include <stdlib.h>

#include "graph/onnx/onnx_priv.h"

// A name that is a number: positive ones are the dim's value, others say nothing.
static bool numeric_name(const char *s, int64_t *out) {
  char *end;
  errno = 0;
  *out = strtoll(s, &end, 10);
  return *s && !*end && !errno;
}

static zg_sym_dim sym_dim(zg_onnx_model *m, const char *input, uint32_t i,
                          const Onnx__TensorShapeProto__Dimension *d) {
  int64_t v = 0;
  if (d->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE) {
    v = d->dim_value;
  } else if (d->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM) {
    const char *name = zg__str(d->dim_param);
    if (*name && strcmp(name, "?") && !numeric_name(name, &v))
      return (zg_sym_dim){-1, zg_arena_str(&m->mem, name)};
  }
  if (v > 0) return (zg_sym_dim){v, NULL};
  return (zg_sym_dim){-1, zg_arena_printf(&m->mem, "%s_dim%u", input, i)};
}

zg_status zg__signature(zg_onnx_model *m, const Onnx__ValueInfoProto *v, zg_signature *out) {
  *out = (zg_signature){.name = zg_arena_str(&m->mem, zg__str(v->name))};
  const Onnx__TypeProto *type = v->type;
  if (type && type->value_case == ONNX__TYPE_PROTO__VALUE_OPTIONAL_TYPE && type->optional_type) {
    out->optional = true;
    type = type->optional_type->elem_type;
  }
  if (type && type->value_case == ONNX__TYPE_PROTO__VALUE_SEQUENCE_TYPE && type->sequence_type) {
    out->sequence = true;
    type = type->sequence_type->elem_type;
  }
  if (!type || type->value_case != ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE || !type->tensor_type) {
    out->sequence = out->optional = false;
    return NULL;
  }
  const Onnx__TypeProto__Tensor *t = type->tensor_type;
  zg_status s = zg_onnx_dtype(t->elem_type, &out->dtype);
  if (s) {
    zg_status_free(s);
    out->sequence = out->optional = false;
    return NULL;
  }
  if (out->sequence || !t->shape || t->shape->n_dim > ZG_MAX_RANK) return NULL;
  out->known = true;
  out->rank = (uint32_t)t->shape->n_dim;
  for (uint32_t i = 0; i < out->rank; i++) out->dim[i] = sym_dim(m, out->name, i, t->shape->dim[i]);
  return NULL;
}

const char *zg__why_unknown(const Onnx__ValueInfoProto *v) {
  if (!v->type) return "has no type";
  switch (v->type->value_case) {
    case ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE: break;
    case ONNX__TYPE_PROTO__VALUE_SEQUENCE_TYPE: return "is a sequence, which cannot be fed";
    case ONNX__TYPE_PROTO__VALUE_MAP_TYPE: return "is a map, which cannot be fed";
    case ONNX__TYPE_PROTO__VALUE_OPTIONAL_TYPE: return "is an optional, which cannot be fed";
    default: return "is no dense tensor";
  }
  const Onnx__TypeProto__Tensor *t = v->type->tensor_type;
  zg_dtype d;
  zg_status s = zg_onnx_dtype(t ? t->elem_type : 0, &d);
  bool bad = s != NULL;
  zg_status_free(s);
  if (bad)
    return "has an element type that zgraph does not compute with (string, complex, sub-byte or 8-bit float)";
  if (t->shape && t->shape->n_dim > ZG_MAX_RANK) return "has more than 8 dims";
  return "has no shape";
}

static const zg_type *given_type(const zg_import_options *o, const char *input) {
  for (uint32_t i = 0; i < o->n_inputs; i++)
    if (!strcmp(o->input_names[i], input)) return &o->input_types[i];
  return NULL;
}

static zg_status bind_from_data(zg__import *im, const zg_signature *s, const zg_type *t) {
  if (!s->known) return NULL;
  if (s->rank != t->rank)
    return zg_error(ZG_INVALID, "input \"%s\" has %u dims in the model, the data give %s", s->name, s->rank,
                    zg_type_text(t));
  for (uint32_t i = 0; i < s->rank; i++) {
    if (s->dim[i].value >= 0 && s->dim[i].value != t->dim[i])
      return zg_error(ZG_INVALID,
                      "input \"%s\": dim %u is %lld in the model, the data give %s; feed that size or export "
                      "the model with a dynamic dim",
                      s->name, i, (long long)s->dim[i].value, zg_type_text(t));
    if (s->dim[i].value >= 0) continue;
    uint64_t old;
    if (zg_map_get(&im->symbols, s->dim[i].symbol, &old) && (int64_t)old != t->dim[i])
      zg_warn("%s: dim \"%s\" is %lld and %lld; each input keeps its own size", im->m->path, s->dim[i].symbol,
              (long long)old, (long long)t->dim[i]);
    else zg_map_put(&im->symbols, s->dim[i].symbol, (uint64_t)t->dim[i]);
  }
  return NULL;
}

static bool has_symbol(const zg_onnx_model *m, const char *symbol) {
  for (size_t i = 0; i < m->inputs.n; i++)
    for (uint32_t d = 0; d < m->inputs.at[i].rank; d++)
      if (m->inputs.at[i].dim[d].symbol && !strcmp(m->inputs.at[i].dim[d].symbol, symbol)) return true;
  return false;
}

zg_status zg__bind_dims(zg__import *im) {
  const zg_import_options *o = im->o;
  for (uint32_t i = 0; i < o->n_dims; i++) {
    if (o->dims[i].value < 0)
      return zg_error(ZG_INVALID, "dims: \"%s\" is %lld; a dim is 0 or more", o->dims[i].symbol,
                      (long long)o->dims[i].value);
    if (!has_symbol(im->m, o->dims[i].symbol))
      zg_warn("%s: dims: no input has a dim called \"%s\"", im->m->path, o->dims[i].symbol);
    zg_map_put(&im->symbols, o->dims[i].symbol, (uint64_t)o->dims[i].value);
  }
  for (size_t i = 0; i < im->m->inputs.n; i++) {
    const zg_type *t = given_type(o, im->m->inputs.at[i].name);
    if (t) ZG_TRY(bind_from_data(im, &im->m->inputs.at[i], t));
  }
  return NULL;
}

zg_status zg__unbound_dims(zg__import *im) {
  zg_str list = {0}, fix = {0};
  zg_map seen = {0};
  for (size_t i = 0; i < im->m->inputs.n; i++) {
    const zg_signature *s = &im->m->inputs.at[i];
    for (uint32_t d = 0; s->known && d < s->rank; d++) {
      uint64_t v;
      const char *symbol = s->dim[d].symbol;
      if (!symbol || !zg_map_get(&im->symbols, symbol, &v) || v != UINT64_MAX ||
          !zg_map_put(&seen, symbol, 0))
        continue;
      zg_str_add(&list, "%s\"%s\" (dim %u of input \"%s\")", list.n ? ", " : "", symbol, d, s->name);
      zg_str_add(&fix, "%s%s: N", fix.n ? ", " : "", symbol);
    }
  }
  zg_status status =
      !list.n ? NULL
              : zg_error(ZG_INVALID, "dims without a size: %s; give them one: dims: {%s}", list.at, fix.at);
  zg_str_fini(&list);
  zg_str_fini(&fix);
  zg_map_fini(&seen);
  return status;
}

// The element type is the model's: what feeds the input converts. `why` describes a signature that is not
// known.
zg_status zg__input_type(zg__import *im, const zg_signature *s, const char *why, zg_type *out) {
  const zg_type *given = given_type(im->o, s->name);
  if (!s->known && !given)
    return zg_error(ZG_UNSUPPORTED, "input \"%s\" %s; give it a tensor type and shape in the model", s->name,
                    why);
  if (given) {
    *out = *given;
    if (s->known) out->dtype = s->dtype;
    return NULL;
  }
  int64_t dim[ZG_MAX_RANK];
  for (uint32_t i = 0; i < s->rank; i++) {
    uint64_t v;
    dim[i] = s->dim[i].value;
    if (dim[i] >= 0) continue;
    if (zg_map_get(&im->symbols, s->dim[i].symbol, &v) && v != UINT64_MAX) {
      dim[i] = (int64_t)v;
    } else if (im->o->default_dim > 0) {
      dim[i] = im->o->default_dim;
    } else {
      dim[i] = 1;  // reported by the caller, who lists all unbound symbols
      zg_map_put(&im->symbols, s->dim[i].symbol, UINT64_MAX);
    }
  }
  *out = zg_type_make(s->dtype, s->rank, dim);
  return NULL;
}
