// Reads the text that print.c writes. Hostile text gives an error with file and line, never more.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "sched/text.h"

typedef struct { const char *at, *file; uint32_t line; zg_sched *s; zg_arena mem; } parser;

static zg_status fail(const parser *p, const char *want) {
  return zg_error(ZG_INVALID, "%s:%u: expected %s, found \"%.24s\"", p->file, p->line, want, p->at);
}

static void blank(parser *p) {
  while (*p->at == ' ' || *p->at == '\n') p->line += *p->at++ == '\n';
}

static bool accept(parser *p, const char *word) {
  blank(p);
  size_t n = strlen(word);
  if (strncmp(p->at, word, n)) return false;
  char after = p->at[n];
  bool letters = word[n - 1] >= 'a' && word[n - 1] <= 'z';
  if (letters && ((after >= 'a' && after <= 'z') || after == '_')) return false;
  p->at += n;
  return true;
}

static zg_status want(parser *p, const char *word) { return accept(p, word) ? NULL : fail(p, word); }

static zg_status number(parser *p, int64_t lo, int64_t hi, int64_t *out) {
  blank(p);
  char *end;
  *out = strtoll(p->at, &end, 10);
  if (end == p->at || *out < lo || *out > hi) return fail(p, "a number in range");
  p->at = end;
  return NULL;
}

static zg_status real(parser *p, double *out) {
  blank(p);
  char *end;
  *out = strtod(p->at, &end);
  if (end == p->at) return fail(p, "a number");
  p->at = end;
  return NULL;
}

static zg_status string(parser *p, const char **out) {
  zg_str s = {0};
  ZG_TRY(want(p, "\""));
  for (; *p->at && *p->at != '"' && *p->at != '\n'; p->at++) {
    char c = *p->at;
    if (c == '\\' && p->at[1]) c = *++p->at == 'n' ? '\n' : *p->at;
    zg_str_put(&s, &c, 1);
  }
  *out = zg_arena_strn(&p->s->mem, s.at ? s.at : "", s.n);
  zg_str_fini(&s);
  return want(p, "\"");
}

static zg_status one_of(parser *p, const char *const *names, size_t n, const char *what, size_t *out) {
  *out = 0;
  for (size_t i = 0; i < n; i++)
    if (accept(p, names[i])) {
      *out = i;
      return NULL;
    }
  return fail(p, what);
}

static zg_status type(parser *p, zg_type *out) {
  blank(p);
  const char *end;
  zg_status s = zg_type_parse(p->at, out, &end);
  if (s) return zg_status_prefix(s, "%s:%u: ", p->file, p->line);
  p->at = end;
  return NULL;
}

static zg_status buf_id(parser *p, uint32_t *out) {
  int64_t id;
  ZG_TRY(want(p, "b"));
  ZG_TRY(number(p, 0, (int64_t)p->s->bufs.n - 1, &id));
  *out = (uint32_t)id;
  return NULL;
}

static zg_status list(parser *p, int64_t *at, uint32_t *n) {
  *n = 0;
  while (*p->at != ':' && *p->at != '}') {
    if (*n == ZG_MAX_RANK) return fail(p, "at most 8 dims");
    ZG_TRY(number(p, INT64_MIN, INT64_MAX, &at[(*n)++]));
    if (*p->at == ',') p->at++;
  }
  return NULL;
}

static zg_status view(parser *p, zg_view *v) {
  memset(v, 0, sizeof *v);
  ZG_TRY(buf_id(p, &v->buf));
  const zg_type *t = &p->s->bufs.at[v->buf].type;
  if (*p->at != '{') {
    v->dtype = t->dtype;
    v->rank = t->rank;
    memcpy(v->dim, t->dim, sizeof v->dim);
    zg_type_strides(t, v->stride);
    return NULL;
  }
  p->at++;
  char name[8] = "";
  size_t n = strcspn(p->at, " }\n");
  if (n >= sizeof name) return fail(p, "an element type");
  memcpy(name, p->at, n);
  if (!zg_dtype_parse(name, &v->dtype)) return fail(p, "an element type");
  p->at += n;
  uint32_t n_strides;
  ZG_TRY(number(p, INT64_MIN, INT64_MAX, &v->offset));
  blank(p);
  ZG_TRY(list(p, v->dim, &v->rank));
  ZG_TRY(want(p, ":"));
  ZG_TRY(list(p, v->stride, &n_strides));
  if (n_strides != v->rank) return fail(p, "as many strides as dims");
  return want(p, "}");
}

static int hex(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

static zg_status init_bytes(parser *p, zg_buf *b) {
  if (strnlen(p->at, b->bytes * 2) < b->bytes * 2) return fail(p, "the constant's bytes in hex");
  uint8_t *out = zg_arena_alloc(&p->s->mem, b->bytes + 1);
  for (uint64_t i = 0; i < b->bytes; i++) {
    int hi = hex(p->at[0]), lo = hex(p->at[1]);
    if (hi < 0 || lo < 0) return fail(p, "hex digits");
    out[i] = (uint8_t)(hi * 16 + lo);
    p->at += 2;
  }
  b->init = out;
  return NULL;
}

static zg_status buf(parser *p) {
  zg_buf b = {0};
  int64_t id, bytes, offset;
  size_t role, space;
  const char *roles[ZG_N_BUF_ROLES];
  for (int r = 0; r < ZG_N_BUF_ROLES; r++) roles[r] = zg_role_name((zg_buf_role)r);
  ZG_TRY(number(p, (int64_t)p->s->bufs.n, (int64_t)p->s->bufs.n, &id));
  ZG_TRY(one_of(p, roles, ZG_N_BUF_ROLES, "a role", &role));
  ZG_TRY(one_of(p, zg__space_names, ZG_N_SPACES, "a space", &space));
  ZG_TRY(type(p, &b.type));
  ZG_TRY(number(p, 0, INT64_MAX, &bytes));
  ZG_TRY(want(p, "@"));
  ZG_TRY(number(p, 0, INT64_MAX, &offset));
  b.persistent = accept(p, "keep");
  ZG_TRY(string(p, &b.name));
  b.bytes = (uint64_t)bytes;
  b.offset = (uint64_t)offset;
  b.dtype = b.type.dtype;
  b.role = (uint8_t)role;
  b.space = (uint8_t)space;
  if (accept(p, "=")) ZG_TRY(init_bytes(p, &b));
  zg_sched_add_buf(p->s, &b);
  return NULL;
}

static zg_status kernel(parser *p, zg_kernel_kind kind, zg_step *st) {
  zg_kernel k = {.kind = kind};
  zg_view args[256];
  bool arrow = false;
  while (true) {
    blank(p);
    if (accept(p, "<-")) {
      if (arrow) return fail(p, "one \"<-\"");
      arrow = true;
      k.n_out = k.n_args;
    }
    blank(p);
    if (*p->at != 'b') break;
    if (k.n_args == ZG_COUNT(args)) return fail(p, "at most 256 arguments");
    ZG_TRY(view(p, &args[k.n_args++]));
  }
  if (!arrow) return fail(p, "\"<-\"");
  if (accept(p, "work")) ZG_TRY(buf_id(p, &k.workspace));
  ZG_TRY(want(p, "["));
  size_t n = strcspn(p->at, "]\n");
  if (p->at[n] != ']') return fail(p, "\"]\"");
  char *text = zg_arena_strn(&p->mem, p->at, n);
  void *desc;
  zg_status s = zg_kernel_info_of(kind)->parse(text, &p->s->mem, &desc);
  if (s) return zg_status_prefix(s, "%s:%u: ", p->file, p->line);
  k.desc = desc;
  p->at += n + 1;
  ZG_TRY(want(p, "flops"));
  ZG_TRY(real(p, &k.flops));
  ZG_TRY(string(p, &k.label));
  k.args = args;
  st->kind = ZG_STEP_KERNEL;
  st->kernel = zg_sched_add_kernel(p->s, &k, 0);
  return NULL;
}

static zg_status step(parser *p) {
  zg_step st = {0};
  int64_t x;
  size_t stream, phase, kind;
  ZG_TRY(number(p, (int64_t)p->s->steps.n, (int64_t)p->s->steps.n, &x));
  ZG_TRY(one_of(p, zg__stream_names, ZG_N_STREAMS, "a stream", &stream));
  ZG_TRY(one_of(p, zg__phase_names, 5, "a phase", &phase));
  st.stream = (uint8_t)stream;
  st.phase = (uint8_t)phase;
  const char *line = p->at;
  for (int k = 0; k < ZG_N_KERNELS; k++) {   // "gather" names a kernel and a collective: the kernel has "["
    if (!accept(p, zg_kernel_info_of((zg_kernel_kind)k)->name)) continue;
    size_t eol = strcspn(p->at, "\n");
    if (memchr(p->at, '[', eol)) {
      ZG_TRY(kernel(p, (zg_kernel_kind)k, &st));
      zg_vec_push(&p->s->steps, st);
      return NULL;
    }
    p->at = line;
  }
  ZG_TRY(one_of(p, zg__step_names, ZG_N_STEP_KINDS, "a kind of step or kernel", &kind));
  st.kind = (zg_step_kind)kind;
  blank(p);
  if (*p->at == 'b') ZG_TRY(buf_id(p, &st.a));
  if (accept(p, "<-")) ZG_TRY(buf_id(p, &st.b));
  if (accept(p, "at")) {
    ZG_TRY(number(p, 0, INT64_MAX, &st.a_at));
    ZG_TRY(number(p, 0, INT64_MAX, &st.b_at));
    ZG_TRY(want(p, "n"));
    ZG_TRY(number(p, 0, INT64_MAX, &st.n));
  }
  static const char *const extra[] = {"event", "peer", "group"};
  uint32_t *const to[] = {&st.event, &st.peer, &st.group};
  for (int i = 0; i < 3; i++)
    if (accept(p, extra[i])) {
      ZG_TRY(number(p, 0, UINT16_MAX, &x));
      *to[i] = (uint32_t)x;
    }
  zg_vec_push(&p->s->steps, st);
  return NULL;
}

static zg_status word(parser *p, const char **out) {
  blank(p);
  size_t n = strcspn(p->at, " \n");
  *out = zg_arena_strn(&p->s->mem, p->at, n);
  p->at += n;
  return n ? NULL : fail(p, "a name");
}

static zg_status segment(parser *p) {
  zg_segment g = {.first = (uint32_t)p->s->steps.n};
  ZG_TRY(word(p, &g.name));
  while (!accept(p, "end")) ZG_TRY(step(p));
  g.n = (uint32_t)p->s->steps.n - g.first;
  zg_vec_push(&p->s->segments, g);
  return NULL;
}

static zg_status output(parser *p) {
  zg_sched_output o = {0};
  size_t kind;
  ZG_TRY(word(p, &o.segment));
  ZG_TRY(one_of(p, zg__out_names, 4, "a kind of output", &kind));
  o.kind = (uint8_t)kind;
  ZG_TRY(string(p, &o.name));
  ZG_TRY(type(p, &o.type));
  ZG_TRY(view(p, &o.view));
  zg_vec_push(&p->s->outputs, o);
  return NULL;
}

static zg_status arena(parser *p) {
  size_t space;
  int64_t bytes, bound;
  ZG_TRY(one_of(p, zg__space_names, ZG_N_SPACES, "a space", &space));
  ZG_TRY(number(p, 0, INT64_MAX, &bytes));
  ZG_TRY(want(p, "bound"));
  ZG_TRY(number(p, 0, INT64_MAX, &bound));
  p->s->arena_bytes[space] = (uint64_t)bytes;
  p->s->lower_bound[space] = (uint64_t)bound;
  return NULL;
}

static zg_status schedule(parser *p) {
  int64_t rank, world;
  ZG_TRY(want(p, "schedule"));
  ZG_TRY(string(p, &p->s->title));
  ZG_TRY(want(p, "rank"));
  ZG_TRY(number(p, 0, UINT16_MAX, &rank));
  ZG_TRY(want(p, "/"));
  ZG_TRY(number(p, 1, 1 << 20, &world));
  p->s->rank = (uint32_t)rank;
  p->s->world = (uint32_t)world;
  ZG_TRY(want(p, "{"));
  while (!accept(p, "}")) {
    if (accept(p, "arena")) ZG_TRY(arena(p));
    else if (accept(p, "segment")) ZG_TRY(segment(p));
    else if (accept(p, "output")) ZG_TRY(output(p));
    else if (accept(p, "b")) ZG_TRY(buf(p));
    else return fail(p, "arena, buffer, segment, output or \"}\"");
  }
  return NULL;
}

zg_status zg_sched_parse(const char *text, const char *file, zg_sched **out) {
  parser p = {.at = text, .file = file, .line = 1, .s = zg_sched_new()};
  zg_status s = schedule(&p);
  zg_arena_fini(&p.mem);
  if (s) {
    zg_sched_free(p.s);
    return s;
  }
  *out = p.s;
  return NULL;
}
