// widen: the same graph computed in double. Every float type in the attributes becomes f64, constants are converted, casts
// between float types vanish. For finite differences, where single precision leaves no digits.
//   - attributes are changed through the ops' field tables, so no op needs to know
// Cost: linear; constants take twice their bytes.
#include "graph/graph_priv.h"
#include "graph/pass.h"

static zg_dtype wide(zg_dtype t) { return zg_dtype_is_float(t) ? ZG_F64 : t; }

static const void *wide_attr(const zg_node *n, zg_arena *mem) {
  if (!n->attr) return NULL;
  char *attr = zg_arena_copy(mem, n->attr, n->op->attr_bytes);
  const zg_type *held = NULL;
  zg_type before = {0};
  for (uint32_t i = 0; i < n->op->n_fields; i++) {
    const zg_attr_field *f = &n->op->fields[i];
    void *at = attr + f->offset;
    if (f->kind == ZG_ATTR_DTYPE) *(int64_t *)at = wide((zg_dtype) * (int64_t *)at);
    if (f->kind == ZG_ATTR_TYPE) {
      before = *(zg_type *)at;
      ((zg_type *)at)->dtype = wide(before.dtype);
      held = at;
    }
    if (f->kind == ZG_ATTR_DATA && held && held->dtype != before.dtype) {
      void *data = zg_arena_alloc(mem, zg_type_bytes(held) + 1);
      zg_convert(held->dtype, data, before.dtype, *(const void **)at, zg_elems(held));
      *(const void **)at = data;
    }
  }
  return attr;
}

zg_status zg_pass_widen(const zg_graph *g, zg_graph **out) {
  zg_arena mem = {0};
  zg_builder *b = zg_builder_new();
  zg_val *map = ZG_NEW_N(&mem, zg_val, g->values.n);
  for (size_t i = 0; i < g->nodes.n; i++) {
    zg_node n = g->nodes.at[i];
    n.attr = wide_attr(&n, &mem);
    zg_emit_copy(b, g, &n, map);
  }
  zg__copy_outputs(b, g, map, ~0u);
  zg_builder_props(b, g->props);
  zg_arena_fini(&mem);
  return zg_builder_finish(b, out);
}
