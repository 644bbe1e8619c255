// Writer of safetensors. The header's length depends on names and types alone (checksums have a fixed width), so every
// process computes the same places without talking to the others.
#include "train/safetensors.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct {
  uint64_t begin, n_bytes;     // place in the file
  uint64_t digits;             // place of its checksum's digits in the header
  uint64_t seen;               // bytes written here in order from its start; UINT64_MAX: out of order
  uint32_t crc;                // of these
} place;

struct zg_safetensors_writer {
  zg_arena mem;
  char *path;
  int fd;
  zg_str head;                 // length and JSON
  place *places;               // by index of the declarations
  size_t n;
  uint64_t file_bytes;
};

enum { PIECE = 1 << 17 };

void zg__json_quote(zg_str *out, const char *s) {
  zg_str_put(out, "\"", 1);
  for (; *s; s++) {
    if (*s == '"' || *s == '\\') zg_str_add(out, "\\%c", *s);
    else if ((unsigned char)*s < 0x20) zg_str_add(out, "\\u%04x", (unsigned char)*s);
    else zg_str_put(out, s, 1);
  }
  zg_str_put(out, "\"", 1);
}

typedef struct { uint32_t bytes; size_t i; } rank_of;

static int widest_first(const void *a, const void *b) {
  const rank_of *x = a, *y = b;
  if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
  return x->i < y->i ? -1 : 1;
}

static void make_metadata(zg_safetensors_writer *w, const zg_safetensors_decl *decl, const zg_safetensors_meta *meta,
                          size_t n_meta) {
  zg_str *h = &w->head;
  bool first = true;
  zg_str_add(h, "{\"__metadata__\":{");
  for (size_t i = 0; i < n_meta; i++, first = false) {
    if (!first) zg_str_put(h, ",", 1);
    zg__json_quote(h, meta[i].key);
    zg_str_put(h, ":", 1);
    zg__json_quote(h, meta[i].value);
  }
  for (size_t i = 0; i < w->n; i++, first = false) {
    char *key = zg_arena_printf(&w->mem, "crc32:%s", decl[i].name);
    if (!first) zg_str_put(h, ",", 1);
    zg__json_quote(h, key);
    zg_str_add(h, ":\"");
    w->places[i].digits = h->n;
    zg_str_add(h, "00000000\"");
  }
  zg_str_put(h, "}", 1);
}

// Fills head, places and file_bytes.
static void lay_out(zg_safetensors_writer *w, const zg_safetensors_decl *decl, const zg_safetensors_meta *meta, size_t n_meta) {
  zg_str *h = &w->head;
  rank_of *order = ZG_NEW_N(&w->mem, rank_of, w->n + 1);
  for (size_t i = 0; i < w->n; i++) order[i] = (rank_of){ zg_dtype_bytes(decl[i].type.dtype), i };
  qsort(order, w->n, sizeof *order, widest_first);
  zg_str_put(h, "\0\0\0\0\0\0\0\0", 8);
  make_metadata(w, decl, meta, n_meta);
  uint64_t at = 0;
  for (size_t k = 0; k < w->n; k++) {
    const zg_safetensors_decl *d = &decl[order[k].i];
    place *p = &w->places[order[k].i];
    p->begin = at;
    p->n_bytes = zg_type_bytes(&d->type);
    at += p->n_bytes;
    zg_str_put(h, ",", 1);
    zg__json_quote(h, d->name);
    zg_str_add(h, ":{\"dtype\":\"%s\",\"shape\":[", zg__safetensors_dtype_name(d->type.dtype));
    for (uint32_t r = 0; r < d->type.rank; r++) zg_str_add(h, "%s%lld", r ? "," : "", (long long)d->type.dim[r]);
    zg_str_add(h, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)p->begin, (unsigned long long)at);
  }
  zg_str_put(h, "}", 1);
  while (h->n % 64) zg_str_put(h, " ", 1);
  for (int i = 0; i < 8; i++) h->at[i] = (char)((h->n - 8) >> 8 * i);
  for (size_t i = 0; i < w->n; i++) w->places[i].begin += h->n;
  w->file_bytes = h->n + at;
}

zg_status zg_safetensors_create(const char *path, const zg_safetensors_decl *decl, size_t n, const zg_safetensors_meta *meta,
                                size_t n_meta, zg_safetensors_writer **out) {
  zg_safetensors_writer *w = zg_alloc(sizeof *w);
  zg_map names = { 0 };
  zg_status status = NULL;
  *out = NULL;
  w->fd = -1;
  w->path = zg_arena_str(&w->mem, path);
  w->n = n;
  w->places = ZG_NEW_N(&w->mem, place, n + 1);
  for (size_t i = 0; i < n; i++)
    if (!strcmp(decl[i].name, "__metadata__") || !zg_map_put(&names, decl[i].name, 1))
      ZG_TRY_OUT(zg_error(ZG_INVALID, "%s: two tensors are named \"%s\"", path, decl[i].name));
  lay_out(w, decl, meta, n_meta);
  w->fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0666);
  if (w->fd < 0 || ftruncate(w->fd, (off_t)w->file_bytes))
    ZG_TRY_OUT(zg_error(ZG_IO, "%s: cannot create %llu bytes: %s", path, (unsigned long long)w->file_bytes, strerror(errno)));
  *out = w;
out:
  zg_map_fini(&names);
  if (status) zg_safetensors_abandon(w);
  return status;
}

uint64_t zg_safetensors_file_bytes(const zg_safetensors_writer *w) { return w->file_bytes; }

static zg_status write_at(const zg_safetensors_writer *w, uint64_t at, const void *bytes, uint64_t n) {
  const uint8_t *p = bytes;
  while (n) {
    ssize_t k = pwrite(w->fd, p, ZG_MIN(n, (uint64_t)1 << 30), (off_t)at);
    if (k < 0 && errno == EINTR) continue;
    if (k <= 0) return zg_error(ZG_IO, "%s: cannot write: %s", w->path, strerror(k < 0 ? errno : ENOSPC));
    p += k;
    at += (uint64_t)k;
    n -= (uint64_t)k;
  }
  return NULL;
}

zg_status zg_safetensors_write(zg_safetensors_writer *w, size_t i, uint64_t offset, const void *bytes, uint64_t n_bytes) {
  ZG_ASSERT(i < w->n);
  place *p = &w->places[i];
  if (offset > p->n_bytes || n_bytes > p->n_bytes - offset)
    return zg_error(ZG_INVALID, "%s: tensor %zu: bytes %llu + %llu of %llu", w->path, i, (unsigned long long)offset,
                    (unsigned long long)n_bytes, (unsigned long long)p->n_bytes);
  if (!n_bytes) return NULL;
  if (p->seen == offset) {
    p->crc = zg_crc32(bytes, n_bytes, p->crc);
    p->seen += n_bytes;
  } else {
    p->seen = UINT64_MAX;
  }
  return write_at(w, p->begin + offset, bytes, n_bytes);
}

// The checksum of a tensor whose bytes came out of order or from other processes.
static zg_status read_crc(const zg_safetensors_writer *w, const place *p, uint8_t *buf, uint32_t *out) {
  *out = 0;
  for (uint64_t at = 0; at < p->n_bytes;) {
    ssize_t k = pread(w->fd, buf, ZG_MIN(p->n_bytes - at, (uint64_t)PIECE), (off_t)(p->begin + at));
    if (k < 0 && errno == EINTR) continue;
    if (k <= 0) return zg_error(ZG_IO, "%s: cannot read back: %s", w->path, k ? strerror(errno) : "the file has shrunk");
    *out = zg_crc32(buf, (size_t)k, *out);
    at += (uint64_t)k;
  }
  return NULL;
}

static zg_status sync_file(const zg_safetensors_writer *w) {
  return fsync(w->fd) ? zg_error(ZG_IO, "%s: fsync: %s", w->path, strerror(errno)) : NULL;
}

zg_status zg_safetensors_finish(zg_safetensors_writer *w) {
  zg_status status = NULL;
  uint8_t *buf = NULL;
  for (size_t i = 0; i < w->n; i++) {
    const place *p = &w->places[i];
    uint32_t crc = p->crc;
    char digits[9];
    if (p->seen != p->n_bytes) {
      if (!buf) buf = zg_alloc(PIECE);
      ZG_TRY_OUT(read_crc(w, p, buf, &crc));
    }
    snprintf(digits, sizeof digits, "%08x", crc);
    memcpy(w->head.at + p->digits, digits, 8);
  }
  ZG_TRY_OUT(sync_file(w));                                    // the data before the header that vouches for them
  ZG_TRY_OUT(write_at(w, 0, w->head.at, w->head.n));
  ZG_TRY_OUT(sync_file(w));
out:
  zg_free(buf);
  zg_safetensors_abandon(w);
  return status;
}

zg_status zg_safetensors_leave(zg_safetensors_writer *w) {
  zg_status status = sync_file(w);
  zg_safetensors_abandon(w);
  return status;
}

void zg_safetensors_abandon(zg_safetensors_writer *w) {
  if (!w) return;
  if (w->fd >= 0) close(w->fd);
  zg_str_fini(&w->head);
  zg_arena_fini(&w->mem);
  zg_free(w);
}

zg_status zg_safetensors_write_all(const char *path, const zg_safetensors_decl *decl, size_t n, const zg_safetensors_meta *meta,
                                   size_t n_meta,
                                   zg_status (*fill)(void *arg, size_t i, uint64_t offset, uint64_t n_bytes, void *buf),
                                   void *arg) {
  zg_safetensors_writer *w;
  zg_status status = NULL;
  ZG_TRY(zg_safetensors_create(path, decl, n, meta, n_meta, &w));
  uint8_t *buf = zg_alloc(PIECE);
  for (size_t i = 0; i < n; i++)
    for (uint64_t at = 0, end = w->places[i].n_bytes; at < end;) {
      uint64_t k = ZG_MIN(end - at, (uint64_t)PIECE);
      ZG_TRY_OUT(fill(arg, i, at, k, buf));
      ZG_TRY_OUT(zg_safetensors_write(w, i, at, buf, k));
      at += k;
    }
out:
  zg_free(buf);
  if (!status) return zg_safetensors_finish(w);
  zg_safetensors_abandon(w);
  return status;
}
