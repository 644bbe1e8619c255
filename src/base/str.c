// Growing strings, glob patterns, spelling suggestions.
#include "base/base.h"
#include <ctype.h>
#include <stdio.h>

static void reserve(zg_str *s, size_t more) {
  size_t need;
  ZG_ASSERT(!__builtin_add_overflow(s->n, more + 1, &need));
  zg__vec_grow((void **)&s->at, &s->cap, need, 1);
}

void zg_str_put(zg_str *s, const char *bytes, size_t n) {
  reserve(s, n);
  if (n) memcpy(s->at + s->n, bytes, n);
  s->n += n;
  s->at[s->n] = 0;
}

void zg_str_add(zg_str *s, const char *fmt, ...) {
  va_list ap, again;
  va_start(ap, fmt);
  va_copy(again, ap);
  char *room = s->at ? s->at + s->n : NULL;
  int n = vsnprintf(room, s->at ? s->cap - s->n : 0, fmt, ap);
  ZG_ASSERT(n >= 0);
  if (!s->at || s->n + (size_t)n + 1 > s->cap) {
    reserve(s, (size_t)n);
    vsnprintf(s->at + s->n, (size_t)n + 1, fmt, again);
  }
  s->n += (size_t)n;
  va_end(again);
  va_end(ap);
}

void zg_str_fini(zg_str *s) {
  zg_free(s->at);
  *s = (zg_str){0};
}

// Matches one character against the class at p ("[a-z]", "[!0-9]"); *end gets the pattern behind it. A '['
// that is never closed stands for itself.
static bool match_class(const char *p, char c, const char **end) {
  const char *q = p + 1;
  bool negate = *q == '!' || *q == '^';
  if (negate) q++;
  bool hit = false;
  for (bool first = true; *q && (first || *q != ']'); first = false) {
    unsigned char lo = (unsigned char)*q, hi = lo;
    if (q[1] == '-' && q[2] && q[2] != ']') {
      hi = (unsigned char)q[2];
      q += 2;
    }
    hit |= lo <= (unsigned char)c && (unsigned char)c <= hi;
    q++;
  }
  if (*q != ']') {
    *end = p + 1;
    return c == '[';
  }
  *end = q + 1;
  return hit != negate;
}

// Linear scan that, on a mismatch, goes back to the last star and lets it eat one character more: one star is
// enough to remember, since a later star may always match what an earlier one would have had to.
bool zg_glob(const char *pattern, const char *text) {
  const char *p = pattern, *t = text, *star = NULL, *star_text = NULL;
  while (*t) {
    const char *next = p + 1;
    bool ok = false;
    if (*p == '*') {
      star = p++;
      star_text = t;
      continue;
    }
    if (*p == '?') ok = true;
    else if (*p == '[') ok = match_class(p, *t, &next);
    else ok = *p && *p == *t;
    if (ok) {
      p = next;
      t++;
    } else if (star) {
      p = star + 1;
      t = ++star_text;
    } else {
      return false;
    }
  }
  while (*p == '*') p++;
  return !*p;
}

enum { NEAREST_MAX = 128 };

// Levenshtein distance without regard to case; both at most NEAREST_MAX long.
static size_t distance(const char *a, size_t n, const char *b, size_t m) {
  size_t row[NEAREST_MAX + 1];
  for (size_t j = 0; j <= m; j++) row[j] = j;
  for (size_t i = 1; i <= n; i++) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= m; j++) {
      size_t keep = diagonal + (tolower((unsigned char)a[i - 1]) != tolower((unsigned char)b[j - 1]));
      diagonal = row[j];
      size_t edit = ZG_MIN(row[j], row[j - 1]) + 1;
      row[j] = ZG_MIN(keep, edit);
    }
  }
  return row[m];
}

const char *zg_nearest(const char *word, const char *const *candidates, size_t n) {
  size_t len = strlen(word);
  if (!len || len > NEAREST_MAX) return NULL;
  size_t best = len / 3 + 1;  // a third of the letters may be wrong: "adamW2" suggests, "zzz" does not
  if (best >= len) best = len - 1;
  const char *found = NULL;
  for (size_t i = 0; i < n; i++) {
    size_t m = candidates[i] ? strlen(candidates[i]) : 0;
    if (!m || m > NEAREST_MAX) continue;
    size_t d = distance(word, len, candidates[i], m);
    if (d < best || (d == best && !found)) {
      best = d;
      found = candidates[i];
    }
  }
  return found;
}
