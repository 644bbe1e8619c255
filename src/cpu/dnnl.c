// Prepared operations on oneDNN: a chain of calls over slots (arguments and scratch), built once, run often.
//
//   scratch:  | tensor 0 | tensor 1 | ... | scratchpad, as large as the largest that a call wants |
#include "cpu/dnnl_priv.h"

// ---- descriptors ----------------------------------------------------------------------------------------

zg_status zg__dnnl_dtype(zg_dtype t, dnnl_data_type_t *out) {
  if (t == ZG_F32) *out = dnnl_f32;
  else if (t == ZG_BF16) *out = dnnl_bf16;
  else return zg_error(ZG_UNSUPPORTED, "oneDNN kernels take f32 and bf16, not %s", zg_dtype_name(t));
  return NULL;
}

zg_status zg__dnnl_plain_md(zg_dtype t, int rank, const int64_t *dim, dnnl_memory_desc_t *out) {
  dnnl_data_type_t dtype;
  ZG_TRY(zg__dnnl_dtype(t, &dtype));
  dnnl_dims_t stride = {0};
  int64_t n = 1;
  for (int i = rank; i-- > 0;) {
    stride[i] = n;
    n *= dim[i];
  }
  return ZG_DNNL(memory_desc_init_by_strides, out, rank, dim, dtype, stride);
}

zg_status zg__dnnl_last_md(zg_dtype t, int rank, const int64_t *dim, dnnl_memory_desc_t *out) {
  dnnl_data_type_t dtype;
  ZG_TRY(zg__dnnl_dtype(t, &dtype));
  dnnl_dims_t stride = {0};
  int64_t n = dim[1];
  stride[1] = 1;
  for (int i = rank; i-- > 0;) {
    if (i == 1) continue;
    stride[i] = n;
    n *= dim[i];
  }
  return ZG_DNNL(memory_desc_init_by_strides, out, rank, dim, dtype, stride);
}

zg_status zg__dnnl_any_md(zg_dtype t, int rank, const int64_t *dim, dnnl_memory_desc_t *out) {
  dnnl_data_type_t dtype;
  ZG_TRY(zg__dnnl_dtype(t, &dtype));
  return ZG_DNNL(memory_desc_init_by_tag, out, rank, dim, dtype, dnnl_format_tag_any);
}

zg_status zg__dnnl_attr(dnnl_primitive_attr_t *out) {
  ZG_TRY(ZG_DNNL(primitive_attr_create, out));
  zg_status status = ZG_DNNL(primitive_attr_set_scratchpad_mode, *out, dnnl_scratchpad_mode_user);
  if (status) {
    zg__dnnl.primitive_attr_destroy(*out);
    *out = NULL;
  }
  return status;
}

// ---- building -------------------------------------------------------------------------------------------

static void set_threads(int n) {
  if (zg__dnnl.omp_set_num_threads) zg__dnnl.omp_set_num_threads(n);
}

zg_status zg__dnnl_op_new(int threads, zg_dnnl_op **out) {
  zg_dnnl_op *op = *out = zg_alloc(sizeof *op);
  op->threads = ZG_MAX(threads, 1);
  set_threads(op->threads);  // a property of the calling thread; primitives are built for it and run with it
  zg_status status = ZG_DNNL(stream_create, &op->stream, zg__dnnl.engine, dnnl_stream_default_flags);
  if (status) {
    zg_dnnl_free(op);
    *out = NULL;
  }
  return status;
}

static zg_status add_slot(zg_dnnl_op *op, zg_dnnl_slot slot, const dnnl_memory_desc_t *md, int *out) {
  ZG_ASSERT(op->n_slots < ZG_DNNL_SLOTS);
  slot.md = *md;
  ZG_TRY(ZG_DNNL(memory_create, &slot.memory, md, zg__dnnl.engine, DNNL_MEMORY_NONE));
  *out = op->n_slots;
  op->slots[op->n_slots++] = slot;
  return NULL;
}

zg_status zg__dnnl_arg_slot(zg_dnnl_op *op, const dnnl_memory_desc_t *md, int arg, int *out) {
  return add_slot(op, (zg_dnnl_slot){.arg = arg}, md, out);
}

zg_status zg__dnnl_scratch_slot(zg_dnnl_op *op, const dnnl_memory_desc_t *md, int *out) {
  ZG_TRY(add_slot(op, (zg_dnnl_slot){.arg = -1, .at = op->tensor_bytes}, md, out));
  op->tensor_bytes += zg_round_up(zg__dnnl.memory_desc_get_size(md), 64);
  return NULL;
}

static zg_dnnl_call *add_call(zg_dnnl_op *op, zg_dnnl_call_kind kind) {
  ZG_ASSERT(op->n_calls < ZG_DNNL_CALLS);
  zg_dnnl_call *c = &op->calls[op->n_calls++];
  c->kind = kind;
  return c;
}

zg_status zg__dnnl_add(zg_dnnl_op *op, const_dnnl_primitive_desc_t pd, const zg_dnnl_arg *args, int n_args) {
  ZG_ASSERT(n_args < ZG_DNNL_ARGS);
  zg_dnnl_call *c = add_call(op, ZG_DNNL_PRIMITIVE);
  for (int i = 0; i < n_args; i++)
    c->args[c->n_args++] = (dnnl_exec_arg_t){args[i].dnnl_arg, op->slots[args[i].slot].memory};
  const dnnl_memory_desc_t *pad = zg__dnnl.primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
  uint64_t pad_bytes = pad ? zg__dnnl.memory_desc_get_size(pad) : 0;
  if (pad_bytes) {
    int slot;
    ZG_TRY(add_slot(op, (zg_dnnl_slot){.arg = -1, .is_pad = true}, pad, &slot));
    c->args[c->n_args++] = (dnnl_exec_arg_t){DNNL_ARG_SCRATCHPAD, op->slots[slot].memory};
    op->pad_bytes = ZG_MAX(op->pad_bytes, zg_round_up(pad_bytes, 64));
  }
  return ZG_DNNL(primitive_create, &c->primitive, pd);
}

zg_status zg__dnnl_add_reorder(zg_dnnl_op *op, int from, int to) {
  dnnl_primitive_attr_t attr;
  ZG_TRY(zg__dnnl_attr(&attr));
  dnnl_primitive_desc_t pd = NULL;
  zg_status status = ZG_DNNL(reorder_primitive_desc_create, &pd, &op->slots[from].md, zg__dnnl.engine,
                             &op->slots[to].md, zg__dnnl.engine, attr);
  if (!status) status = zg__dnnl_add(op, pd, (zg_dnnl_arg[]){{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}}, 2);
  if (pd) zg__dnnl.primitive_desc_destroy(pd);
  zg__dnnl.primitive_attr_destroy(attr);
  return status;
}

zg_status zg__dnnl_add_copy(zg_dnnl_op *op, const zg_dnnl_copy *copy, int arg, int slot) {
  zg_dnnl_call *c = add_call(op, ZG_DNNL_COPY);
  c->copy = *copy;
  c->copy_arg = arg;
  c->copy_slot = slot;
  return NULL;
}

void zg__dnnl_add_plain(zg_dnnl_op *op, void (*fn)(const void *, void *const *), const void *desc,
                        size_t n_bytes) {
  zg_dnnl_call *c = add_call(op, ZG_DNNL_PLAIN);
  c->plain = fn;
  c->desc = zg_arena_copy(&op->mem, desc, n_bytes);
}

zg_status zg__dnnl_output(zg_dnnl_op *op, int arg, const dnnl_memory_desc_t *have,
                          const dnnl_memory_desc_t *want, int *out) {
  if (zg__dnnl.memory_desc_equal(have, want)) return zg__dnnl_arg_slot(op, have, arg, out);
  return zg__dnnl_scratch_slot(op, want, out);
}

zg_status zg__dnnl_input(zg_dnnl_op *op, int arg, const dnnl_memory_desc_t *have,
                         const dnnl_memory_desc_t *want, int *out) {
  ZG_TRY(zg__dnnl_output(op, arg, have, want, out));
  if (op->slots[*out].arg >= 0) return NULL;
  int from;
  ZG_TRY(zg__dnnl_arg_slot(op, have, arg, &from));
  return zg__dnnl_add_reorder(op, from, *out);
}

zg_status zg__dnnl_finish(zg_dnnl_op *op, int arg, const dnnl_memory_desc_t *have, int slot) {
  if (op->slots[slot].arg >= 0) return NULL;
  int to;
  ZG_TRY(zg__dnnl_arg_slot(op, have, arg, &to));
  return zg__dnnl_add_reorder(op, slot, to);
}

zg_status zg_dnnl_prepare(const zg_kernel *k, int threads, zg_dnnl_op **out) {
  *out = NULL;
  ZG_TRY(zg_dnnl_load());
  if (k->kind == ZG_K_MATMUL) return zg__dnnl_matmul(k, threads, out);
  zg_dnnl_op *op;
  ZG_TRY(zg__dnnl_op_new(threads, &op));
  zg_status status = NULL;
  if (k->kind == ZG_K_CONV || k->kind == ZG_K_CONV_GRAD_X || k->kind == ZG_K_CONV_GRAD_W)
    status = zg__dnnl_conv(k, op);
  else if (k->kind == ZG_K_POOL || k->kind == ZG_K_POOL_GRAD) status = zg__dnnl_pool(k, op);
  else status = zg_error(ZG_UNSUPPORTED, "oneDNN has no kernel of kind %d", (int)k->kind);
  if (status) zg_dnnl_free(op);
  else *out = op;
  return status;
}

uint64_t zg_dnnl_scratch_bytes(const zg_dnnl_op *op) { return op ? op->tensor_bytes + op->pad_bytes : 0; }

void zg_dnnl_free(zg_dnnl_op *op) {
  if (!op) return;
  for (int i = 0; i < op->n_calls; i++)
    if (op->calls[i].primitive) zg__dnnl.primitive_destroy(op->calls[i].primitive);
  for (int i = 0; i < op->n_slots; i++) zg__dnnl.memory_destroy(op->slots[i].memory);
  if (op->stream) zg__dnnl.stream_destroy(op->stream);
  zg_arena_fini(&op->mem);
  zg_free(op);
}

// ---- running --------------------------------------------------------------------------------------------

static void *slot_address(const zg_dnnl_op *op, const zg_dnnl_slot *s, void *const *args, void *scratch) {
  if (s->arg >= 0) return args[s->arg];
  return (char *)scratch + (s->is_pad ? op->tensor_bytes : s->at);
}

// One row of a copy; elements of 2 or 4 bytes.
static void copy_row(const zg_dnnl_copy *c, char *to, const char *from) {
  int d = c->rank - 1;
  int64_t n = c->dim[d], to_step = c->to[d], from_step = c->from[d];
  if (c->divisor != 1)
    for (int64_t i = 0; i < n; i++)
      ((float *)to)[i * to_step] = (float)zg_get_f64(c->dtype, from, i * from_step) / c->divisor;
  else if (zg_dtype_bytes(c->dtype) == 4)
    for (int64_t i = 0; i < n; i++) ((uint32_t *)to)[i * to_step] = ((const uint32_t *)from)[i * from_step];
  else
    for (int64_t i = 0; i < n; i++) ((uint16_t *)to)[i * to_step] = ((const uint16_t *)from)[i * from_step];
}

static void copy_dims(const zg_dnnl_copy *c, int d, char *to, const char *from) {
  if (d == c->rank - 1) {
    copy_row(c, to, from);
    return;
  }
  int64_t n = zg_dtype_bytes(c->dtype);
  for (int64_t i = 0; i < c->dim[d]; i++)
    copy_dims(c, d + 1, to + i * c->to[d] * n, from + i * c->from[d] * n);
}

zg_status zg_dnnl_run(zg_dnnl_op *op, void *const *args, void *scratch) {
  set_threads(op->threads);
  for (int i = 0; i < op->n_slots; i++) {
    zg_dnnl_slot *s = &op->slots[i];
    void *p = slot_address(op, s, args, scratch);
    if (p == s->last) continue;
    ZG_TRY(ZG_DNNL(memory_set_data_handle, s->memory, p));
    s->last = p;
  }
  for (int i = 0; i < op->n_calls; i++) {
    const zg_dnnl_call *c = &op->calls[i];
    switch (c->kind) {
      case ZG_DNNL_PRIMITIVE:
        ZG_TRY(ZG_DNNL(primitive_execute, c->primitive, op->stream, c->n_args, c->args));
        break;
      case ZG_DNNL_COPY:
        copy_dims(&c->copy, 0, slot_address(op, &op->slots[c->copy_slot], args, scratch), args[c->copy_arg]);
        break;
      case ZG_DNNL_PLAIN: c->plain(c->desc, args); break;
    }
  }
  return ZG_DNNL(stream_wait, op->stream);
}
