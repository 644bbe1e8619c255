// Map from strings to 64-bit values: open addressing, linear probing, at most 3/4 full. No removal, so no
// tombstones.
#include "base/base.h"

struct zg_map_slot {
  char *key;  // NULL: empty
  uint64_t hash, value;
};

// The slot that holds the key, or the empty one where it belongs. cap is a power of two and not full.
static zg_map_slot *find(zg_map_slot *slots, size_t cap, const char *key, uint64_t hash) {
  size_t i = hash & (cap - 1);
  while (slots[i].key && (slots[i].hash != hash || strcmp(slots[i].key, key))) i = (i + 1) & (cap - 1);
  return &slots[i];
}

static void grow(zg_map *m) {
  size_t cap = m->cap ? m->cap * 2 : 16;
  zg_map_slot *slots = zg_alloc(cap * sizeof *slots);
  for (size_t i = 0; i < m->cap; i++)
    if (m->slots[i].key) *find(slots, cap, m->slots[i].key, m->slots[i].hash) = m->slots[i];
  zg_free(m->slots);
  m->slots = slots;
  m->cap = cap;
}

bool zg_map_put(zg_map *m, const char *key, uint64_t value) {
  if ((m->n + 1) * 4 > m->cap * 3) grow(m);
  size_t len = strlen(key);
  uint64_t hash = zg_hash(key, len, 0);
  zg_map_slot *s = find(m->slots, m->cap, key, hash);
  bool is_new = !s->key;
  if (is_new) {
    s->key = zg_alloc(len + 1);
    memcpy(s->key, key, len);
    s->hash = hash;
    m->n++;
  }
  s->value = value;
  return is_new;
}

bool zg_map_get(const zg_map *m, const char *key, uint64_t *out) {
  if (!m->n) return false;
  const zg_map_slot *s = find(m->slots, m->cap, key, zg_hash(key, strlen(key), 0));
  if (!s->key) return false;
  if (out) *out = s->value;
  return true;
}

void zg_map_fini(zg_map *m) {
  for (size_t i = 0; i < m->cap; i++) zg_free(m->slots[i].key);
  zg_free(m->slots);
  *m = (zg_map){0};
}
