// Op family: einsum, written out at import as transposes, reshapes, sums and matmuls.
//   - A term is a value with one label per dim. The ellipsis stands for labels too, aligned at the right.
//   - Repeated labels within a term: its diagonal (a slice of the two dims merged).
//   - Labels that nobody else needs are summed at once; dims of 1 against a longer one are dropped.
//   - Terms are contracted from left to right: [batch, M, K] x [batch, K, N], or an elementwise product.
#include "graph/op/op_priv.h"

enum { N_LETTERS = 52, MAX_LABELS = N_LETTERS + ZG_MAX_RANK };
typedef struct {
  zg_val v;
  int64_t n;
  int label[2 * ZG_MAX_RANK];
} term;
typedef struct {
  zg_onnx_node *n;
  zg_builder *b;
  int64_t size[MAX_LABELS];
  term out;
} problem;

static int position(const term *t, int label) {
  for (int i = 0; i < t->n; i++)
    if (t->label[i] == label) return i;
  return -1;
}

static int letter(char c) {
  return c >= 'a' && c <= 'z' ? c - 'a' + 26 : c >= 'A' && c <= 'Z' ? c - 'A' : -1;
}  // ASCII order

// Reads labels of one term up to ',' or the end. dots: labels that "..." stands for.
static zg_status read_labels(const problem *p, const char **at, int64_t dots, term *t) {
  t->n = 0;
  const char *c = *at;
  for (; *c && *c != ','; c++) {
    if (t->n + dots > ZG_MAX_RANK)
      return zg_onnx_error(p->n, ZG_UNSUPPORTED, "a term has more than %d labels", ZG_MAX_RANK);
    if (*c == ' ') continue;
    if (strncmp(c, "...", 3) == 0) {
      for (int64_t i = 0; i < dots; i++) t->label[t->n++] = (int)(MAX_LABELS - dots + i);
      c += 2;
    } else if (letter(*c) >= 0) {
      t->label[t->n++] = letter(*c);
    } else {
      return zg_onnx_error(p->n, ZG_INVALID, "equation has the unexpected character '%c'", *c);
    }
  }
  *at = *c == ',' ? c + 1 : c;
  return NULL;
}

static int64_t count_letters(const char *c, bool *dots) {
  int64_t n = 0;
  *dots = false;
  for (; *c && *c != ','; c++) n += letter(*c) >= 0, *dots |= *c == '.';
  return n;
}

// ---- steps on one term --------------------------------------------------------------------------
static void permute(problem *p, term *t, const int64_t *perm) {
  term old = *t;
  bool same = true;
  for (int64_t i = 0; i < t->n; i++) t->label[i] = old.label[perm[i]], same &= perm[i] == i;
  if (!same) t->v = zg_b_transpose(p->b, t->v, perm);
}

// Takes the diagonal of dims i < j: both to the end, merged, every (n + 1)-th element.
static void diagonal(problem *p, term *t, int i, int j) {
  int64_t perm[ZG_MAX_RANK], k = 0;
  for (int d = 0; d < t->n; d++)
    if (d != i && d != j) perm[k++] = d;
  perm[k] = i, perm[k + 1] = j;
  permute(p, t, perm);
  zg_type u = *zg_b_type(p->b, t->v);
  const int64_t n = u.dim[k];
  u.dim[k] = n * n;
  const zg_val flat = zg_b_reshape(p->b, t->v, u.dim, k + 1);
  int64_t start[ZG_MAX_RANK] = {0}, step[ZG_MAX_RANK], size[ZG_MAX_RANK];
  for (int64_t d = 0; d < k; d++) step[d] = 1, size[d] = u.dim[d];
  step[k] = n + 1, size[k] = n;
  t->v = zg_b_slice(p->b, flat, start, step, size);
  t->n--;
}

// Removes dim i of a term: summed, or squeezed where it is 1.
static void drop(problem *p, term *t, int i) {
  const int64_t axis = i;
  t->v = zg_b_type(p->b, t->v)->dim[i] == 1 ? zg_b_squeeze(p->b, t->v, i)
                                            : zg_b_reduce(p->b, ZG_RED_SUM, t->v, &axis, 1, false);
  for (int k = i; k + 1 < t->n; k++) t->label[k] = t->label[k + 1];
  t->n--;
}

static void tidy(problem *p, term *t, const term *others, int n_others) {
  for (int i = 0; i < t->n; i++)
    for (int j = i + 1; j < t->n; j++)
      if (t->label[i] == t->label[j]) {
        diagonal(p, t, i, j);
        i = -1;
        break;
      }
  for (int i = (int)t->n - 1; i >= 0; i--) {
    bool wanted = position(&p->out, t->label[i]) >= 0;
    for (int k = 0; k < n_others; k++) wanted |= position(&others[k], t->label[i]) >= 0;
    const bool stretched = zg_b_type(p->b, t->v)->dim[i] == 1 && p->size[t->label[i]] != 1;
    if (!wanted || stretched) drop(p, t, i);
  }
}

// ---- contracting two terms ----------------------------------------------------------------------
typedef struct {
  int label[ZG_MAX_RANK * 2];
  int64_t n, size;
} group;  // labels in order, product of their sizes

static void put(const problem *p, group *g, int label) {
  g->label[g->n++] = label, g->size *= p->size[label];
}

// The term's value with dims in the order of the groups, each group one dim.
static zg_val arranged(problem *p, const term *t, const group *a, const group *b, const group *c) {
  const group *gs[3] = {a, b, c};
  int64_t perm[ZG_MAX_RANK], k = 0, dim[3];
  for (int g = 0; g < 3; g++) {
    dim[g] = gs[g]->size;
    for (int64_t i = 0; i < gs[g]->n; i++) perm[k++] = position(t, gs[g]->label[i]);
  }
  term u = *t;
  permute(p, &u, perm);
  return zg_b_reshape(p->b, u.v, dim, 3);
}

static term contract(problem *p, const term *x, const term *y, const term *later, int n_later) {
  group batch = {.size = 1}, m = {.size = 1}, n = {.size = 1}, k = {.size = 1};
  for (int i = 0; i < x->n; i++) {
    const int l = x->label[i];
    bool wanted = position(&p->out, l) >= 0;
    for (int j = 0; j < n_later; j++) wanted |= position(&later[j], l) >= 0;
    put(p, position(y, l) < 0 ? &m : wanted ? &batch : &k, l);
  }
  for (int i = 0; i < y->n; i++)
    if (position(x, y->label[i]) < 0) put(p, &n, y->label[i]);
  zg_builder *b = p->b;
  zg_val z;
  if (k.n == 0) {
    z = zg_mul(b, arranged(p, x, &batch, &m, &k),
               arranged(p, y, &batch, &k, &n));  // [batch,M,1] * [batch,1,N]
  } else if (m.n == 0 && n.n == 0) {
    z = zg_mul(b, arranged(p, x, &batch, &m, &k), arranged(p, y, &batch, &n, &k));
    z = zg_b_reduce(b, ZG_RED_SUM, z, (int64_t[]){2}, 1, false);
  } else if (batch.n == 0) {
    const zg_val u = zg_b_squeeze(b, arranged(p, x, &batch, &m, &k), 0),
                 v = zg_b_squeeze(b, arranged(p, y, &batch, &k, &n), 0);
    z = zg_b_matmul(b, u, v, false, false);
  } else {
    z = zg_b_matmul(b, arranged(p, x, &batch, &m, &k), arranged(p, y, &batch, &k, &n), false, false);
  }
  term r = {0};
  int64_t dim[ZG_MAX_RANK * 2];
  const group *gs[3] = {&batch, &m, &n};
  for (int g = 0; g < 3; g++)
    for (int64_t i = 0; i < gs[g]->n; i++)
      r.label[r.n] = gs[g]->label[i], dim[r.n++] = p->size[gs[g]->label[i]];
  if (r.n > ZG_MAX_RANK) {
    zg_builder_fail(
        b, zg_onnx_error(p->n, ZG_UNSUPPORTED, "an intermediate result has rank %lld, above the limit of %d",
                         (long long)r.n, ZG_MAX_RANK));
    r.n = 0;
    return r;
  }
  r.v = zg_b_reshape(b, z, dim, r.n);
  return r;
}

// ---- equation -----------------------------------------------------------------------------------
// Without "->": the ellipsis, then the letters that occur once, in alphabetical order (capitals first).
static void implicit_output(problem *p, const term *t, int n, int64_t dots) {
  for (int64_t i = 0; i < dots; i++) p->out.label[p->out.n++] = (int)(MAX_LABELS - dots + i);
  for (int l = 0; l < N_LETTERS; l++) {
    int seen = 0;
    for (int i = 0; i < n; i++)
      for (int j = 0; j < t[i].n; j++) seen += t[i].label[j] == l;
    if (seen == 1 && p->out.n < ZG_MAX_RANK) p->out.label[p->out.n++] = l;
  }
}

static zg_status parse(problem *p, const char *equation, term *t, int n) {
  const char *arrow = strstr(equation, "->");
  const char *left =
      zg_arena_strn(zg_builder_arena(p->b), equation, arrow ? (size_t)(arrow - equation) : strlen(equation));
  int64_t dots = 0;
  const char *c = left;
  for (int i = 0; i < n; i++) {  // the longest ellipsis
    bool has;
    const int64_t letters = count_letters(c, &has), rank = zg_b_type(p->b, p->n->in[i])->rank;
    if (rank < letters || (rank > letters && !has))
      return zg_onnx_error(p->n, ZG_INVALID, "equation \"%s\" does not fit operand %d, %s", equation, i,
                           zg_type_text(zg_b_type(p->b, p->n->in[i])));
    dots = ZG_MAX(dots, rank - letters);
    const char *comma = strchr(c, ',');
    if (!comma != (i + 1 == n))
      return zg_onnx_error(p->n, ZG_INVALID, "equation \"%s\" does not have %d terms", equation, n);
    c = comma ? comma + 1 : c;
  }
  c = left;
  for (int i = 0; i < n; i++) {
    bool has;
    const zg_type u = *zg_b_type(p->b, p->n->in[i]);
    const int64_t letters = count_letters(c, &has);
    ZG_TRY(read_labels(p, &c, u.rank - letters, &t[i]));
    t[i].v = p->n->in[i];
    for (int j = 0; j < t[i].n; j++) {
      int64_t *s = &p->size[t[i].label[j]];
      if (*s < 0 || *s == 1) *s = u.dim[j];
      else if (u.dim[j] != *s && u.dim[j] != 1)
        return zg_onnx_error(p->n, ZG_INVALID, "equation \"%s\": one label stands for %lld and for %lld",
                             equation, (long long)*s, (long long)u.dim[j]);
    }
  }
  if (!arrow) {
    implicit_output(p, t, n, dots);
    return NULL;
  }
  c = arrow + 2;
  return read_labels(p, &c, dots, &p->out);
}

static zg_status import_einsum(zg_onnx_node *node) {
  ZG_TRY(zg__need(node, node->n_in ? node->n_in : 1));
  const char *equation = zg_onnx_str(node, "equation", NULL);
  if (!equation) return zg_onnx_error(node, ZG_INVALID, "attribute \"equation\" is missing");
  problem p = {.n = node, .b = node->b};
  for (int i = 0; i < MAX_LABELS; i++) p.size[i] = -1;
  const int n = (int)node->n_in;
  term *t = ZG_NEW_N(zg_builder_arena(p.b), term, n);
  ZG_TRY(parse(&p, equation, t, n));
  for (int i = 0; i < p.out.n; i++)
    if (p.size[p.out.label[i]] < 0)
      return zg_onnx_error(node, ZG_INVALID, "equation \"%s\": a label of the result is in no operand",
                           equation);
  tidy(&p, &t[0], t + 1, n - 1);
  term acc = t[0];
  for (int i = 1; i < n; i++) {
    term others = acc;  // what is needed beside the later terms
    term *rest = ZG_NEW_N(zg_builder_arena(p.b), term, n);
    int k = 0;
    rest[k++] = others;
    for (int j = i + 1; j < n; j++) rest[k++] = t[j];
    tidy(&p, &t[i], rest, k);
    tidy(&p, &acc, t + i, n - i);
    acc = contract(&p, &acc, &t[i], t + i + 1, n - i - 1);
    if (zg_builder_failed(p.b)) return NULL;
  }
  int64_t perm[ZG_MAX_RANK], dim[ZG_MAX_RANK], full[ZG_MAX_RANK];
  term have = {.v = acc.v};
  for (int i = 0; i < p.out.n;
       i++) {  // labels that every operand had as a dim of 1 were kept; others are all there
    const int at = position(&acc, p.out.label[i]);
    full[i] = p.size[p.out.label[i]];
    dim[i] = at < 0 ? 1 : full[i];
    if (at >= 0) perm[have.n++] = at;
  }
  for (int64_t i = 0; i < acc.n; i++) have.label[i] = acc.label[i];
  if (have.n != acc.n)
    return zg_onnx_error(node, ZG_INVALID, "equation \"%s\": the result names a label twice", equation);
  permute(&p, &have, perm);
  node->out[0] = zg_b_expand(p.b, zg_b_reshape(p.b, have.v, dim, p.out.n), full, p.out.n);
  return NULL;
}

static const zg_onnx_row rows[] = {{"Einsum", "", 12, 0, import_einsum, NULL, 3}};
const zg_family zg_family_einsum = {.name = "einsum", .onnx = rows, .n_onnx = ZG_COUNT(rows)};
