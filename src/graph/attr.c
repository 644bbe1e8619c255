// Attribute structs through their field tables: one row a field gives default, copy, hash, equality and print. Adding an
// attribute to an op therefore touches the op's table only.
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "graph/graph_priv.h"

static void *field_at(const zg_attr_field *f, void *attr) { return (char *)attr + f->offset; }
static const void *field_of(const zg_attr_field *f, const void *attr) { return (const char *)attr + f->offset; }

// DATA follows its TYPE field in the struct: the nearest one before it.
static const zg_type *data_type(const zg_op *op, const zg_attr_field *data, const void *attr) {
  const zg_type *t = NULL;
  for (uint32_t i = 0; i < op->n_fields && &op->fields[i] != data; i++)
    if (op->fields[i].kind == ZG_ATTR_TYPE) t = field_of(&op->fields[i], attr);
  ZG_ASSERT(t);
  return t;
}

void zg__attr_default(const zg_op *op, void *attr) {
  memset(attr, 0, op->attr_bytes);
  for (uint32_t i = 0; i < op->n_fields; i++) {
    const zg_attr_field *f = &op->fields[i];
    if (f->kind == ZG_ATTR_INT || f->kind == ZG_ATTR_DTYPE) *(int64_t *)field_at(f, attr) = (int64_t)f->def;
    if (f->kind == ZG_ATTR_FLOAT) *(double *)field_at(f, attr) = f->def;
    if (f->kind == ZG_ATTR_TYPE) *(zg_type *)field_at(f, attr) = zg_type_scalar(ZG_F32);
  }
}

void *zg__attr_copy(const zg_op *op, const void *attr, zg_arena *a) {
  if (!op->attr_bytes) return NULL;
  void *copy = zg_arena_alloc(a, op->attr_bytes);
  zg__attr_default(op, copy);
  if (!attr) return copy;
  for (uint32_t i = 0; i < op->n_fields; i++) {
    const zg_attr_field *f = &op->fields[i];
    const void *src = field_of(f, attr);
    void *dst = field_at(f, copy);
    switch (f->kind) {
      case ZG_ATTR_INT:
      case ZG_ATTR_DTYPE: *(int64_t *)dst = *(const int64_t *)src; break;
      case ZG_ATTR_FLOAT: *(double *)dst = *(const double *)src; break;
      case ZG_ATTR_INTS: {
        const zg_ints *v = src;
        *(zg_ints *)dst = (zg_ints){v->n, v->n ? zg_arena_copy(a, v->at, sizeof(int64_t) * (size_t)v->n) : NULL};
        break;
      }
      case ZG_ATTR_STR: *(const char **)dst = zg_arena_str(a, *(const char *const *)src); break;
      case ZG_ATTR_TYPE: {   // unused dims zeroed, so that types compare bytewise whatever the caller left there
        const zg_type *t = src;
        *(zg_type *)dst = t->rank <= ZG_MAX_RANK ? zg_type_make(t->dtype, t->rank, t->dim) : *t;
        break;
      }
      case ZG_ATTR_DATA:
        *(const void **)dst = zg_arena_copy(a, *(const void *const *)src, zg_type_bytes(data_type(op, f, attr)));
        break;
    }
  }
  return copy;
}

uint64_t zg__attr_hash(const zg_op *op, const void *attr, uint64_t h) {
  for (uint32_t i = 0; i < op->n_fields; i++) {
    const zg_attr_field *f = &op->fields[i];
    const void *p = field_of(f, attr);
    switch (f->kind) {
      case ZG_ATTR_INT:
      case ZG_ATTR_DTYPE:
      case ZG_ATTR_FLOAT: h = zg_hash(p, 8, h); break;
      case ZG_ATTR_INTS: {
        const zg_ints *v = p;
        h = zg_hash(&v->n, sizeof v->n, h);
        if (v->n) h = zg_hash(v->at, sizeof(int64_t) * (size_t)v->n, h);
        break;
      }
      case ZG_ATTR_STR: {
        const char *s = *(const char *const *)p;
        h = s ? zg_hash(s, strlen(s), h) : zg_hash("", 1, h);
        break;
      }
      case ZG_ATTR_TYPE: {
        const zg_type *t = p;
        h = zg_hash(&t->dtype, sizeof t->dtype, h);
        h = zg_hash(t->dim, sizeof(int64_t) * t->rank, h + t->rank);
        break;
      }
      case ZG_ATTR_DATA: h = zg_hash(*(const void *const *)p, zg_type_bytes(data_type(op, f, attr)), h); break;
    }
  }
  return h;
}

static bool same_str(const char *a, const char *b) { return a == b || (a && b && strcmp(a, b) == 0); }

bool zg__attr_equal(const zg_op *op, const void *a, const void *b) {
  for (uint32_t i = 0; i < op->n_fields; i++) {
    const zg_attr_field *f = &op->fields[i];
    const void *p = field_of(f, a), *q = field_of(f, b);
    bool same = true;
    switch (f->kind) {
      case ZG_ATTR_INT:
      case ZG_ATTR_DTYPE:
      case ZG_ATTR_FLOAT: same = memcmp(p, q, 8) == 0; break;   // bitwise: -0 and 0 differ, NaN equals itself
      case ZG_ATTR_INTS: {
        const zg_ints *v = p, *w = q;
        same = v->n == w->n && (v->n == 0 || memcmp(v->at, w->at, sizeof(int64_t) * (size_t)v->n) == 0);
        break;
      }
      case ZG_ATTR_STR: same = same_str(*(const char *const *)p, *(const char *const *)q); break;
      case ZG_ATTR_TYPE: same = zg_type_equal(p, q); break;
      case ZG_ATTR_DATA: {
        const uint64_t n = zg_type_bytes(data_type(op, f, a));
        same = n == 0 || memcmp(*(const void *const *)p, *(const void *const *)q, n) == 0;
        break;
      }
    }
    if (!same) return false;
  }
  return true;
}

void zg__print_elem(zg_dtype t, const void *data, int64_t i, zg_str *out) {
  if (zg_dtype_is_float(t)) {
    zg_str_add(out, t == ZG_F64 ? "%.17g" : "%.9g", zg_get_f64(t, data, i));
  } else if (t == ZG_U64) {
    zg_str_add(out, "%" PRIu64, (uint64_t)zg_get_i64(t, data, i));
  } else {
    zg_str_add(out, "%" PRId64, zg_get_i64(t, data, i));
  }
}

static void print_string(const char *s, zg_str *out) {
  zg_str_put(out, "\"", 1);
  for (; *s; s++) {
    if (*s == '"' || *s == '\\') {
      zg_str_add(out, "\\%c", *s);
    } else if ((unsigned char)*s < 32) {
      zg_str_add(out, "\\x%02x", (unsigned char)*s);
    } else {
      zg_str_put(out, s, 1);
    }
  }
  zg_str_put(out, "\"", 1);
}

static void print_ints(const zg_ints *v, zg_str *out) {
  for (int64_t k = 0; k < v->n; k++) zg_str_add(out, "%s%" PRId64, k ? "," : "[", v->at[k]);
  zg_str_add(out, "]");
}

static void print_data(const zg_type *t, const void *data, zg_str *out) {
  zg_str_add(out, "[");
  for (int64_t k = 0; k < zg_elems(t); k++) {
    if (k) zg_str_put(out, ",", 1);
    zg__print_elem(t->dtype, data, k, out);
  }
  zg_str_add(out, "]");
}

static bool is_default(const zg_attr_field *f, const void *p) {
  switch (f->kind) {
    case ZG_ATTR_INT:
    case ZG_ATTR_DTYPE: return *(const int64_t *)p == (int64_t)f->def;
    case ZG_ATTR_FLOAT: return memcmp(p, &f->def, 8) == 0;
    case ZG_ATTR_INTS: return ((const zg_ints *)p)->n == 0;
    case ZG_ATTR_STR: return *(const char *const *)p == NULL;
    case ZG_ATTR_TYPE:
    case ZG_ATTR_DATA: return false;
  }
  return false;
}

void zg__attr_print(const zg_op *op, const void *attr, zg_str *out) {
  for (uint32_t i = 0; i < op->n_fields; i++) {
    const zg_attr_field *f = &op->fields[i];
    const void *p = field_of(f, attr);
    if (is_default(f, p)) continue;
    zg_str_add(out, " %s=", f->name);
    switch (f->kind) {
      case ZG_ATTR_INT: zg_str_add(out, "%" PRId64, *(const int64_t *)p); break;
      case ZG_ATTR_DTYPE: zg_str_add(out, "%s", zg_dtype_name((zg_dtype) * (const int64_t *)p)); break;
      case ZG_ATTR_FLOAT: zg_str_add(out, "%.17g", *(const double *)p); break;
      case ZG_ATTR_INTS: print_ints(p, out); break;
      case ZG_ATTR_STR: print_string(*(const char *const *)p, out); break;
      case ZG_ATTR_TYPE: zg_str_add(out, "%s", zg_type_text(p)); break;
      case ZG_ATTR_DATA: print_data(data_type(op, f, attr), *(const void *const *)p, out); break;
    }
  }
}

const char *zg__leaf_name(const zg_op *op, const void *attr) {
  if (op == &zg_op_input) return ((const zg_input_attr *)attr)->name;
  if (op == &zg_op_param) return ((const zg_param_attr *)attr)->name;
  if (op == &zg_op_state) return ((const zg_state_attr *)attr)->name;
  return NULL;
}
