// Writer of .npz: members stored one after the other into a temporary file, then the directory, fsync, rename. A
// member's size follows from its type; its checksum is known after its elements, and is then written back into its local
// header. Layout of one member, the elements at a multiple of 64 bytes of the file:
//   [local header 30][name][extra: zip64 sizes 20, padding][.npy header, a multiple of 64][elements]
#include "train/npz.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

typedef struct { char *name; uint64_t local, size; uint32_t crc; } member;

struct zg_npz_writer {
  zg_arena mem;
  char *path, *tmp;
  int fd;
  uint64_t at;                 // bytes written so far
  ZG_VEC(member) members;
  zg_map names;
  zg_type type;                // of the array being written
  uint64_t left;               // its elements still to come
  bool open;
};

enum { CHUNK = 16384, NO_32 = 0xffffffffu };

static zg_status write_all(zg_npz_writer *w, const void *bytes, uint64_t n) {
  const uint8_t *p = bytes;
  while (n) {
    ssize_t k = write(w->fd, p, ZG_MIN(n, (uint64_t)1 << 30));
    if (k < 0 && errno == EINTR) continue;
    if (k <= 0) return zg_error(ZG_IO, "%s: cannot write: %s", w->tmp, strerror(k < 0 ? errno : ENOSPC));
    p += k;
    n -= (uint64_t)k;
    w->at += (uint64_t)k;
  }
  return NULL;
}

static void put(zg_str *s, uint64_t v, int n_bytes) {
  char b[8];
  for (int i = 0; i < n_bytes; i++) b[i] = (char)(v >> 8 * i);
  zg_str_put(s, b, (size_t)n_bytes);
}

zg_status zg_npz_create(const char *path, zg_npz_writer **out) {
  zg_npz_writer *w = zg_alloc(sizeof *w);
  zg_status status = NULL;
  *out = NULL;
  w->path = zg_arena_str(&w->mem, path);
  w->tmp = zg_arena_printf(&w->mem, "%s.tmp.%ld", path, (long)getpid());
  w->fd = open(w->tmp, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0666);
  if (w->fd < 0) ZG_TRY_OUT(zg_error(ZG_IO, "%s: cannot create: %s", w->tmp, strerror(errno)));
  *out = w;
  return NULL;
out:
  zg_npz_abandon(w);
  return status;
}

// The common part of local header and directory entry, from "version needed" to the two sizes.
static void put_common(zg_str *s, const member *m, bool zip64) {
  put(s, zip64 ? 45 : 20, 2);
  put(s, 0x800, 2);                            // names are UTF-8
  put(s, 0, 2);                                // stored
  put(s, 0, 2);                                // time and date fixed: equal arrays make equal files
  put(s, 0x21, 2);
  put(s, m->crc, 4);
  put(s, zip64 ? NO_32 : m->size, 4);
  put(s, zip64 ? NO_32 : m->size, 4);
}

static zg_status end_member(zg_npz_writer *w) {
  if (!w->open) return NULL;
  member *m = &w->members.at[w->members.n - 1];
  if (w->left)
    return zg_error(ZG_INVALID, "%s: array \"%s\": %llu elements were not written", w->path, m->name,
                    (unsigned long long)w->left);
  uint8_t crc[4] = { (uint8_t)m->crc, (uint8_t)(m->crc >> 8), (uint8_t)(m->crc >> 16), (uint8_t)(m->crc >> 24) };
  if (pwrite(w->fd, crc, 4, (off_t)m->local + 14) != 4)
    return zg_error(ZG_IO, "%s: cannot write: %s", w->tmp, strerror(errno));
  w->open = false;
  return NULL;
}

static zg_status write_member(zg_npz_writer *w, const void *bytes, uint64_t n) {
  member *m = &w->members.at[w->members.n - 1];
  m->crc = zg_crc32(bytes, n, m->crc);
  return write_all(w, bytes, n);
}

zg_status zg_npz_begin(zg_npz_writer *w, const char *name, const zg_type *type) {
  ZG_TRY(end_member(w));
  size_t name_n = strlen(name) + 4;
  if (name_n > 60000) return zg_error(ZG_INVALID, "%s: an array's name of %zu bytes is too long", w->path, name_n);
  if (!zg_map_put(&w->names, name, 1)) return zg_error(ZG_INVALID, "%s: two arrays are named \"%s\"", w->path, name);
  zg_str head = { 0 }, h = { 0 };
  zg__npy_header_make(type, &head);
  zg_type stored = *type;
  if (stored.dtype == ZG_BF16) stored.dtype = ZG_F32;
  member m = { .name = zg_arena_str(&w->mem, name), .local = w->at, .size = head.n + zg_type_bytes(&stored) };
  bool zip64 = m.size >= NO_32;
  uint64_t fixed = w->at + 30 + name_n + (zip64 ? 20 : 0) + 4;
  uint64_t pad = zg_round_up(fixed, 64) - fixed;
  put(&h, 0x04034b50, 4);
  put_common(&h, &m, zip64);
  put(&h, name_n, 2);
  put(&h, (zip64 ? 20 : 0) + 4 + pad, 2);
  zg_str_add(&h, "%s.npy", name);
  if (zip64) {
    put(&h, 1, 2);
    put(&h, 16, 2);
    put(&h, m.size, 8);
    put(&h, m.size, 8);
  }
  put(&h, 0x5a47, 2);                          // padding under an id of our own
  put(&h, pad, 2);
  for (uint64_t i = 0; i < pad; i++) put(&h, 0, 1);
  zg_vec_push(&w->members, m);
  zg_status status = NULL;
  ZG_TRY_OUT(write_all(w, h.at, h.n));
  ZG_TRY_OUT(write_member(w, head.at, head.n));
  w->type = *type;
  w->left = (uint64_t)zg_elems(type);
  w->open = true;
out:
  zg_str_fini(&h);
  zg_str_fini(&head);
  return status;
}

zg_status zg_npz_write(zg_npz_writer *w, const void *elems, uint64_t n_elems) {
  if (!w->open || n_elems > w->left)
    return zg_error(ZG_INVALID, "%s: more elements than the array has", w->path);
  w->left -= n_elems;
  if (w->type.dtype != ZG_BF16) return write_member(w, elems, n_elems * zg_dtype_bytes(w->type.dtype));
  const uint16_t *src = elems;
  float buf[CHUNK];
  for (uint64_t done = 0; done < n_elems;) {
    uint64_t n = ZG_MIN(n_elems - done, (uint64_t)CHUNK);
    zg_convert(ZG_F32, buf, ZG_BF16, src + done, (int64_t)n);
    ZG_TRY(write_member(w, buf, n * sizeof(float)));
    done += n;
  }
  return NULL;
}

zg_status zg_npz_put(zg_npz_writer *w, const char *name, const zg_tensor *t) {
  ZG_TRY(zg_npz_begin(w, name, &t->type));
  return zg_npz_write(w, t->data, (uint64_t)zg_elems(&t->type));
}

static void put_entry(zg_str *s, const member *m) {
  bool big_size = m->size >= NO_32, big_at = m->local >= NO_32;
  put(s, 0x02014b50, 4);
  put(s, 45 | 3 << 8, 2);                      // made by: version 4.5, Unix
  put_common(s, m, big_size);
  put(s, strlen(m->name) + 4, 2);
  put(s, big_size || big_at ? 4u + (big_size ? 16 : 0) + (big_at ? 8 : 0) : 0, 2);
  put(s, 0, 2);                                // comment
  put(s, 0, 4);                                // disk, internal attributes
  put(s, (uint64_t)0100644 << 16, 4);
  put(s, big_at ? NO_32 : m->local, 4);
  zg_str_add(s, "%s.npy", m->name);
  if (!big_size && !big_at) return;
  put(s, 1, 2);
  put(s, (big_size ? 16 : 0) + (big_at ? 8 : 0), 2);
  if (big_size) {
    put(s, m->size, 8);
    put(s, m->size, 8);
  }
  if (big_at) put(s, m->local, 8);
}

static void put_directory(const zg_npz_writer *w, zg_str *s) {
  for (size_t i = 0; i < w->members.n; i++) put_entry(s, &w->members.at[i]);
  uint64_t n_bytes = s->n, n = w->members.n;
  if (n >= 0xffff || w->at >= NO_32 || n_bytes >= NO_32) {
    put(s, 0x06064b50, 4);
    put(s, 44, 8);
    put(s, 45 | 3 << 8, 2);
    put(s, 45, 2);
    put(s, 0, 8);
    put(s, n, 8);
    put(s, n, 8);
    put(s, n_bytes, 8);
    put(s, w->at, 8);
    put(s, 0x07064b50, 4);
    put(s, 0, 4);
    put(s, w->at + n_bytes, 8);
    put(s, 1, 4);
  }
  put(s, 0x06054b50, 4);
  put(s, 0, 4);
  put(s, ZG_MIN(n, 0xffffu), 2);
  put(s, ZG_MIN(n, 0xffffu), 2);
  put(s, ZG_MIN(n_bytes, (uint64_t)NO_32), 4);
  put(s, ZG_MIN(w->at, (uint64_t)NO_32), 4);
  put(s, 0, 2);
}

zg_status zg_npz_finish(zg_npz_writer *w) {
  zg_str dir = { 0 };
  zg_status status = NULL;
  ZG_TRY_OUT(end_member(w));
  put_directory(w, &dir);
  ZG_TRY_OUT(write_all(w, dir.at, dir.n));
  if (fsync(w->fd)) ZG_TRY_OUT(zg_error(ZG_IO, "%s: fsync: %s", w->tmp, strerror(errno)));
  if (rename(w->tmp, w->path)) ZG_TRY_OUT(zg_error(ZG_IO, "%s: cannot rename to %s: %s", w->tmp, w->path, strerror(errno)));
  w->tmp = NULL;
out:
  zg_str_fini(&dir);
  zg_npz_abandon(w);
  return status;
}

void zg_npz_abandon(zg_npz_writer *w) {
  if (!w) return;
  if (w->fd >= 0) {
    close(w->fd);
    if (w->tmp) unlink(w->tmp);
  }
  zg_vec_fini(&w->members);
  zg_map_fini(&w->names);
  zg_arena_fini(&w->mem);
  zg_free(w);
}
