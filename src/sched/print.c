// The schedule as text. One line a thing; strings in quotes with backslash escapes. The parser (parse.c) reads exactly this.
//   schedule "zero0" rank 0/1 {
//     arena device 1,024 bound 960
//     b1 param device f32[64,64] 16384 @0 keep "fc1.weight"
//     segment step
//     0 compute forward matmul b5 <- b3 b1 [m=8 n=64 k=64 ...] flops 65536 "MatMul_0"
//     1 compute forward release b3
//     end
//     output step loss "loss" f32[] b9
//   }
// A view is bN where it is the whole buffer, else bN{f32 +offset dims:strides}. Constants' bytes follow in hex.
#include <inttypes.h>

#include "sched/text.h"

const char *const zg__step_names[ZG_N_STEP_KINDS] = {"kernel", "partition", "gather", "reduce_scatter", "all_reduce",
                                                     "broadcast", "copy", "release", "record", "wait"};
const char *const zg__stream_names[ZG_N_STREAMS] = {"compute", "comm", "copy"};
const char *const zg__space_names[ZG_N_SPACES] = {"device", "host", "disk"};
const char *const zg__phase_names[5] = {"load", "forward", "backward", "update", "save"};
const char *const zg__out_names[4] = {"value", "loss", "grad", "update"};

static void quote(zg_str *out, const char *s) {
  zg_str_put(out, "\"", 1);
  for (; *s; s++) {
    if (*s == '"' || *s == '\\') zg_str_put(out, "\\", 1);
    if (*s == '\n') zg_str_put(out, "\\n", 2);
    else zg_str_put(out, s, 1);
  }
  zg_str_put(out, "\"", 1);
}

static void print_view(const zg_sched *s, const zg_view *v, zg_str *out) {
  const zg_type *t = &s->bufs.at[v->buf].type;
  int64_t stride[ZG_MAX_RANK];
  zg_type_strides(t, stride);
  bool whole = v->offset == 0 && v->dtype == t->dtype && v->rank == t->rank;
  for (uint32_t d = 0; d < v->rank && whole; d++) whole = v->dim[d] == t->dim[d] && v->stride[d] == stride[d];
  zg_str_add(out, "b%u", v->buf);
  if (whole || !v->buf) return;
  zg_str_add(out, "{%s +%" PRId64 " ", zg_dtype_name(v->dtype), v->offset);
  for (uint32_t d = 0; d < v->rank; d++) zg_str_add(out, "%s%" PRId64, d ? "," : "", v->dim[d]);
  zg_str_add(out, ":");
  for (uint32_t d = 0; d < v->rank; d++) zg_str_add(out, "%s%" PRId64, d ? "," : "", v->stride[d]);
  zg_str_add(out, "}");
}

static void print_buf(const zg_sched *s, uint32_t id, zg_str *out) {
  const zg_buf *b = &s->bufs.at[id];
  zg_str_add(out, "  b%u %s %s %s %" PRIu64 " @%" PRIu64 "%s ", id, zg_role_name((zg_buf_role)b->role), zg__space_names[b->space],
             zg_type_text(&b->type), b->bytes, b->offset, b->persistent ? " keep" : "");
  quote(out, b->name);
  if (b->init) {
    zg_str_add(out, " =");
    for (uint64_t i = 0; i < b->bytes; i++) zg_str_add(out, "%02x", ((const uint8_t *)b->init)[i]);
  }
  zg_str_add(out, "\n");
}

static void print_kernel(const zg_sched *s, const zg_kernel *k, zg_str *out) {
  zg_str_add(out, "%s", zg_kernel_info_of(k->kind)->name);
  for (uint32_t i = 0; i < k->n_args; i++) {
    zg_str_add(out, i == k->n_out ? " <- " : " ");
    print_view(s, &k->args[i], out);
  }
  if (k->n_out == k->n_args) zg_str_add(out, " <-");
  if (k->workspace) zg_str_add(out, " work b%u", k->workspace);
  zg_str_add(out, " [");
  zg_kernel_info_of(k->kind)->print(k->desc, out);
  zg_str_add(out, "] flops %.17g ", k->flops);
  quote(out, k->label ? k->label : "");
}

static void print_step(const zg_sched *s, uint32_t at, zg_str *out) {
  const zg_step *p = &s->steps.at[at];
  zg_str_add(out, "  %u %s %s ", at, zg__stream_names[p->stream], zg__phase_names[p->phase]);
  if (p->kind == ZG_STEP_KERNEL) {
    print_kernel(s, &s->kernels.at[p->kernel], out);
  } else {
    zg_str_add(out, "%s", zg__step_names[p->kind]);
    if (p->a) zg_str_add(out, " b%u", p->a);
    if (p->b) zg_str_add(out, " <- b%u", p->b);
    if (p->a_at || p->b_at || p->n) zg_str_add(out, " at %" PRId64 " %" PRId64 " n %" PRId64, p->a_at, p->b_at, p->n);
    if (p->event) zg_str_add(out, " event %u", p->event);
    if (p->peer) zg_str_add(out, " peer %u", p->peer);
    if (p->group) zg_str_add(out, " group %u", p->group);
  }
  zg_str_add(out, "\n");
}

void zg_sched_print(const zg_sched *s, zg_str *out) {
  zg_str_add(out, "schedule ");
  quote(out, s->title ? s->title : "");
  zg_str_add(out, " rank %u/%u {\n", s->rank, s->world);
  for (int space = 0; space < ZG_N_SPACES; space++)
    if (s->arena_bytes[space])
      zg_str_add(out, "  arena %s %" PRIu64 " bound %" PRIu64 "\n", zg__space_names[space], s->arena_bytes[space], s->lower_bound[space]);
  for (uint32_t b = 1; b < s->bufs.n; b++) print_buf(s, b, out);
  for (size_t g = 0; g < s->segments.n; g++) {
    zg_str_add(out, "  segment %s\n", s->segments.at[g].name);
    for (uint32_t i = 0; i < s->segments.at[g].n; i++) print_step(s, s->segments.at[g].first + i, out);
    zg_str_add(out, "  end\n");
  }
  for (size_t i = 0; i < s->outputs.n; i++) {
    const zg_sched_output *o = &s->outputs.at[i];
    zg_str_add(out, "  output %s %s ", o->segment, zg__out_names[o->kind]);
    quote(out, o->name);
    zg_str_add(out, " %s ", zg_type_text(&o->type));
    print_view(s, &o->view, out);
    zg_str_add(out, "\n");
  }
  zg_str_add(out, "}\n");
}
