// The space of a loop kernel, simplified: fewer dims mean fewer divisions per element and longer runs for
// 16-byte accesses.
#include "cuda/loop.h"

bool zg__space_elem(const zg__space *s, const zg_inst *in) {
  return in->kind != ZG_I_REDUCE && (s->flat || in->level == ZG_LEVEL_ELEM);
}

static void mark_used(zg__space *s) {
  for (uint32_t i = s->d->n_inst; i-- > 0;) {
    const zg_inst *in = &s->d->inst[i];
    if (in->kind == ZG_I_STORE) s->used[i] = true;
    uint32_t ops[3];
    const uint32_t n = zg_inst_operands(in, ops);
    for (uint32_t o = 0; o < n && s->used[i]; o++) s->used[ops[o]] = true;
  }
}

uint32_t zg__space_need(const zg__space *s, uint32_t p, bool *need) {
  uint32_t roots = 0;
  memset(need, 0, s->d->n_inst);
  for (uint32_t i = s->d->n_inst; i-- > 0;) {
    const zg_inst *in = &s->d->inst[i];
    const bool root = s->used[i] && s->phase[i] == p &&
                      (in->kind == ZG_I_REDUCE || (in->kind == ZG_I_STORE && zg__space_elem(s, in)));
    roots += root;
    need[i] |= root;
    if (!need[i]) continue;
    uint32_t ops[3];
    const uint32_t n = zg_inst_operands(in, ops);
    for (uint32_t o = 0; o < n; o++)
      if (zg__space_elem(s, &s->d->inst[ops[o]])) need[ops[o]] = true;
  }
  return roots;
}

// ---- merging
// --------------------------------------------------------------------------------------------------------------
static bool is_flat(const zg_loop_desc *d) {
  int64_t inner = 1;
  for (uint32_t r = d->n_outer; r < d->rank; r++) inner *= d->dim[r];
  if (d->n_mid) return false;
  for (uint32_t i = 0; i < d->n_inst; i++)
    if (d->inst[i].kind == ZG_I_REDUCE ||
        (d->inst[i].kind == ZG_I_STORE && d->inst[i].level == ZG_LEVEL_ROW && inner != 1))
      return false;
  return true;
}

static zg__group group_of(const zg__space *s, uint32_t dim) {
  if (s->flat) return ZG__AT_INNER;
  return dim < s->d->n_outer ? ZG__AT_OUTER : dim < s->d->n_outer + s->d->n_mid ? ZG__AT_MID : ZG__AT_INNER;
}

// Can new dim `to` and the dim `from` after it be stepped through as one?
static bool mergeable(const zg__space *s, uint32_t to, uint32_t from) {
  const int64_t n = s->d->dim[from];
  for (uint32_t a = 0; a < s->k->n_args; a++)
    if (s->stride[a][to] != s->k->args[a].stride[from] * n) return false;
  for (uint32_t x = 0; x < s->d->n_index; x++)
    if (s->coef[x][to] != s->d->index[x][from] * n) return false;
  return true;
}

static void add_dim(zg__space *s, uint32_t from, bool merge) {
  const uint32_t to = merge ? s->rank - 1 : s->rank++;
  s->dim[to] = (merge ? s->dim[to] : 1) * s->d->dim[from];
  for (uint32_t a = 0; a < s->k->n_args; a++) s->stride[a][to] = s->k->args[a].stride[from];
  for (uint32_t x = 0; x < s->d->n_index; x++) s->coef[x][to] = s->d->index[x][from];
}

static void merge_dims(zg__space *s) {
  uint32_t from = 0;
  for (uint32_t g = 0; g < ZG__N_GROUPS; g++) {
    s->first[g] = s->rank;
    s->size[g] = 1;
    for (; from < s->d->rank && group_of(s, from) == (zg__group)g; from++) {
      s->size[g] *= s->d->dim[from];
      if (s->d->dim[from] == 1) continue;
      add_dim(s, from, s->rank > s->first[g] && mergeable(s, s->rank - 1, from));
    }
  }
  s->first[ZG__N_GROUPS] = s->rank;
}

// ---- vectors
// --------------------------------------------------------------------------------------------------------------
bool zg__space_vector(const zg__space *s, uint32_t arg, uint32_t vec) {
  const zg_view *v = &s->k->args[arg];
  if (s->rank == 0 || s->stride[arg][s->rank - 1] != 1) return false;
  for (uint32_t r = 0; r + 1 < s->rank; r++)
    if (s->stride[arg][r] % vec) return false;
  const int64_t bytes = (int64_t)vec * zg_dtype_bytes(v->dtype);
  return v->offset * (int64_t)zg_dtype_bytes(v->dtype) % ZG_MIN(bytes, 16) == 0;
}

// The smallest element among arguments that are stepped through one by one, or 0.
static uint32_t smallest_streamed(const zg__space *s) {
  uint32_t least = 0;
  for (uint32_t i = 0; i < s->d->n_inst; i++) {
    const zg_inst *in = &s->d->inst[i];
    if (!s->used[i] || !zg__space_elem(s, in) || (in->kind != ZG_I_LOAD && in->kind != ZG_I_STORE)) continue;
    const uint32_t arg = in->kind == ZG_I_LOAD ? in->a : in->b, bytes = zg_dtype_bytes(s->k->args[arg].dtype);
    if (zg__space_vector(s, arg, 1) && (!least || bytes < least)) least = bytes;
  }
  return least;
}

static uint32_t choose_vec(const zg__space *s) {
  const uint32_t least = smallest_streamed(s);
  if (!least || s->first[ZG__AT_INNER] == s->rank) return 1;
  uint32_t vec = ZG_MIN(16 / least, s->d->n_inst > 64 ? 4u : 8u);
  while (vec > 1 && s->dim[s->rank - 1] % vec) vec /= 2;
  return vec;
}

static bool wide_offsets(const zg__space *s) {
  for (uint32_t a = 0; a < s->k->n_args; a++) {
    int64_t reach = 0;
    for (uint32_t r = 0; r < s->rank; r++)
      reach += (s->stride[a][r] < 0 ? -s->stride[a][r] : s->stride[a][r]) * s->dim[r];
    if (reach > INT32_MAX) return true;
  }
  return s->size[ZG__AT_OUTER] > INT32_MAX || s->size[ZG__AT_MID] > INT32_MAX ||
         s->size[ZG__AT_INNER] > INT32_MAX;
}

void zg__space_init(zg__space *s, const zg_kernel *k) {
  *s = (zg__space){.k = k, .d = k->desc, .vec = 1};
  s->flat = is_flat(s->d);
  s->stride = zg_alloc(sizeof *s->stride * (k->n_args + 1));
  s->coef = zg_alloc(sizeof *s->coef * (s->d->n_index + 1));
  s->phase = zg_alloc(sizeof *s->phase * (s->d->n_inst + 1));
  s->used = zg_alloc(s->d->n_inst + 1);
  s->n_phases = zg_loop_phases(s->d, s->phase);
  mark_used(s);
  merge_dims(s);
  if (!s->d->n_mid) s->vec = choose_vec(s);
  s->wide = wide_offsets(s);
}

void zg__space_fini(zg__space *s) {
  zg_free(s->stride);
  zg_free(s->coef);
  zg_free(s->phase);
  zg_free(s->used);
}
