// Reader of .npy and .npz. A zip archive is read from its end:
//   [local header, name, extra, data]... [central directory] [zip64 end] [zip64 locator] [end record, comment]
// The central directory is the truth about sizes; a local header is read for the length of its variable part only.
#include "train/npz.h"
#include <stdio.h>
#include <zlib.h>

typedef struct {
  char *name;
  zg_type type;
  bool fortran, deflated, in_zip, checked;
  uint32_t crc;               // of the member: header and elements
  zg_bytes member;            // as it lies in the file, perhaps deflated
  uint64_t member_n;          // its size when inflated
  uint64_t head_n;            // bytes of the .npy header
  uint64_t data_n;            // bytes of the elements
  void *own;                  // row-major elements in memory of our own, once needed
} array;

struct zg_npz {
  char *path;
  zg_file_map map;
  zg_arena mem;
  ZG_VEC(array) arrays;
  zg_map by_name;
};

enum { MAX_NPY_HEADER = 65536 + 12 };

static uint16_t le16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static uint32_t le32(const uint8_t *p) { return le16(p) | (uint32_t)le16(p + 2) << 16; }
static uint64_t le64(const uint8_t *p) { return le32(p) | (uint64_t)le32(p + 4) << 32; }

// ---- inflate ------------------------------------------------------------------------------------------------------

// Inflates up to `n` bytes after skipping `skip`; *out_n is how many came (fewer only at the end of the stream).
static zg_status inflate_part(const array *a, uint64_t skip, uint8_t *dst, uint64_t n, uint64_t *out_n, uint32_t *crc) {
  z_stream z = { 0 };
  if (inflateInit2(&z, -15) != Z_OK) return zg_error(ZG_OUT_OF_MEMORY, "%s: zlib has no memory", a->name);
  zg_bytes in = a->member;
  uint8_t dump[4096];
  uint64_t got = 0;
  int rc = Z_OK;
  *out_n = 0;
  while (rc == Z_OK && *out_n < n) {
    if (!z.avail_in && in.n) {
      uInt take = (uInt)ZG_MIN(in.n, (uint64_t)1 << 30);
      z.next_in = (Bytef *)(uintptr_t)in.at;
      z.avail_in = take;
      in.at += take;
      in.n -= take;
    }
    bool skipping = got < skip;
    uint8_t *to = skipping ? dump : dst + *out_n;
    uInt room = (uInt)(skipping ? ZG_MIN(skip - got, sizeof dump) : ZG_MIN(n - *out_n, (uint64_t)1 << 30));
    z.next_out = to;
    z.avail_out = room;
    rc = inflate(&z, Z_NO_FLUSH);
    uint64_t made = room - z.avail_out;
    if (crc) *crc = zg_crc32(to, made, *crc);
    got += made;
    if (!skipping) *out_n += made;
    if (!made && rc == Z_OK && !z.avail_in && !in.n) rc = Z_BUF_ERROR;
  }
  inflateEnd(&z);
  if (rc != Z_OK && rc != Z_STREAM_END && !(rc == Z_BUF_ERROR && *out_n == n))
    return zg_error(ZG_CORRUPT, "%s: the deflated data are damaged", a->name);
  return NULL;
}

// ---- one array ----------------------------------------------------------------------------------------------------

// Reads the .npy header of a member and checks that the member is as long as the header says.
static zg_status read_header(array *a) {
  zg_bytes head = a->member;
  uint8_t *buf = NULL;
  zg_status status = NULL;
  if (a->deflated) {
    head.n = ZG_MIN(a->member_n, (uint64_t)MAX_NPY_HEADER);
    head.at = buf = zg_alloc((size_t)head.n + 1);
    ZG_TRY_OUT(inflate_part(a, 0, buf, head.n, &head.n, NULL));
  }
  ZG_TRY_OUT(zg__npy_header(head, a->name, &a->type, &a->fortran, &a->head_n));
  if (a->type.rank < 2) a->fortran = false;
  a->data_n = zg_type_bytes(&a->type);
  if (a->member_n - a->head_n < a->data_n)
    status = zg_error(ZG_CORRUPT, "%s: %s needs %llu bytes, %llu are there; the file is cut off", a->name,
                      zg_type_text(&a->type), (unsigned long long)a->data_n, (unsigned long long)(a->member_n - a->head_n));
out:
  zg_free(buf);
  return status;
}

// Fortran order: the first index varies fastest. Walks the row-major destination.
static void transpose_copy(const zg_type *t, void *dst, const uint8_t *src) {
  uint32_t size = zg_dtype_bytes(t->dtype), rank = t->rank;
  int64_t n = zg_elems(t), at[ZG_MAX_RANK] = { 0 }, stride[ZG_MAX_RANK];
  for (uint32_t d = 0; d < rank; d++) stride[d] = d ? stride[d - 1] * t->dim[d - 1] : 1;
  int64_t from = 0;
  for (int64_t i = 0; i < n; i++) {
    memcpy((uint8_t *)dst + i * size, src + from * size, size);
    for (uint32_t d = rank; d-- > 0;) {
      from += stride[d];
      if (++at[d] < t->dim[d]) break;
      from -= at[d] * stride[d];
      at[d] = 0;
    }
  }
}

static zg_status check_crc(array *a) {
  if (a->checked || !a->in_zip || a->deflated) return NULL;
  if (zg_crc32(a->member.at, a->member.n, 0) != a->crc)
    return zg_error(ZG_CORRUPT, "%s: the checksum is wrong; the file is damaged", a->name);
  a->checked = true;
  return NULL;
}

// Brings the elements into memory of our own, in row-major order.
static zg_status own_copy(array *a) {
  void *buf = NULL, *turned = NULL;
  zg_status status = NULL;
  ZG_TRY_OUT(zg_alloc_big(ZG_MAX(a->data_n, 1), &buf));
  if (a->deflated) {
    uint64_t got = 0;
    uint32_t crc = 0;
    ZG_TRY_OUT(inflate_part(a, a->head_n, buf, a->data_n, &got, &crc));
    if (got != a->data_n || (a->head_n + a->data_n == a->member_n && crc != a->crc && a->data_n)) {
      status = zg_error(ZG_CORRUPT, "%s: the deflated data are damaged", a->name);
      goto out;
    }
  } else if (!a->fortran) {
    memcpy(buf, a->member.at + a->head_n, a->data_n);
  }
  if (a->fortran) {
    ZG_TRY_OUT(zg_alloc_big(ZG_MAX(a->data_n, 1), &turned));
    transpose_copy(&a->type, turned, a->deflated ? buf : a->member.at + a->head_n);
    zg_free_big(buf, ZG_MAX(a->data_n, 1));
    buf = turned;
  }
  a->own = buf;
  return NULL;
out:
  if (buf) zg_free_big(buf, ZG_MAX(a->data_n, 1));
  return status;
}

zg_status zg_npz_bytes(zg_npz *f, size_t i, zg_bytes *out) {
  array *a = &f->arrays.at[i];
  if (!a->own && (a->deflated || a->fortran)) ZG_TRY(zg_status_prefix(own_copy(a), "%s: ", f->path));
  *out = (zg_bytes){ a->own ? a->own : a->member.at + a->head_n, a->data_n };
  return NULL;
}

zg_status zg_npz_tensor(zg_npz *f, size_t i, zg_tensor *out) {
  array *a = &f->arrays.at[i];
  zg_bytes b;
  ZG_TRY(zg_status_prefix(check_crc(a), "%s: ", f->path));
  ZG_TRY(zg_npz_bytes(f, i, &b));
  if ((uintptr_t)b.at % zg_dtype_bytes(a->type.dtype)) {
    ZG_TRY(zg_status_prefix(own_copy(a), "%s: ", f->path));
    b.at = a->own;
  }
  *out = (zg_tensor){ a->type, (void *)(uintptr_t)b.at };
  return NULL;
}

zg_status zg_npz_get(zg_npz *f, const char *name, zg_tensor *out) {
  int64_t i = zg_npz_find(f, name);
  if (i >= 0) return zg_npz_tensor(f, (size_t)i, out);
  zg_str have = { 0 };
  for (size_t k = 0; k < f->arrays.n && k < 20; k++) zg_str_add(&have, "%s%s", k ? ", " : "", f->arrays.at[k].name);
  zg_status s = zg_error(ZG_NOT_FOUND, "%s: no array \"%s\"; it has: %s%s", f->path, name, have.n ? have.at : "none",
                         f->arrays.n > 20 ? ", ..." : "");
  zg_str_fini(&have);
  return s;
}

size_t zg_npz_count(const zg_npz *f) { return f->arrays.n; }
const char *zg_npz_name(const zg_npz *f, size_t i) { return f->arrays.at[i].name; }
const zg_type *zg_npz_type(const zg_npz *f, size_t i) { return &f->arrays.at[i].type; }
const char *zg_npz_path(const zg_npz *f) { return f->path; }
zg_bytes zg_npz_map(const zg_npz *f) { return f->map.bytes; }

int64_t zg_npz_find(const zg_npz *f, const char *name) {
  uint64_t i;
  return zg_map_get(&f->by_name, name, &i) ? (int64_t)i : -1;
}

// ---- the archive --------------------------------------------------------------------------------------------------

static zg_status corrupt(const char *what) { return zg_error(ZG_CORRUPT, "not a whole zip archive: %s", what); }

// Finds the central directory: offset, size, number of entries.
static zg_status find_directory(zg_bytes b, uint64_t *at, uint64_t *n_bytes, uint64_t *n_entries) {
  uint64_t least = b.n > 65557 ? b.n - 65557 : 0, end = b.n;
  if (b.n < 22) return corrupt("it is too short");
  for (uint64_t p = b.n - 22;; p--) {
    if (le32(b.at + p) == 0x06054b50 && p + 22 + le16(b.at + p + 20) == b.n) {
      end = p;
      break;
    }
    if (p == least) return corrupt("its end is missing");
  }
  *n_entries = le16(b.at + end + 10);
  *n_bytes = le32(b.at + end + 12);
  *at = le32(b.at + end + 16);
  if (end >= 20 && le32(b.at + end - 20) == 0x07064b50) {
    uint64_t p = le64(b.at + end - 20 + 8);
    if (p > b.n || b.n - p < 56 || le32(b.at + p) != 0x06064b50) return corrupt("the zip64 end record is missing");
    *n_entries = le64(b.at + p + 32);
    *n_bytes = le64(b.at + p + 40);
    *at = le64(b.at + p + 48);
  }
  if (*at > end || *n_bytes > end - *at) return corrupt("the directory lies outside the file");
  return NULL;
}

typedef struct { uint64_t packed, size, local; } zip_sizes;

// Values that do not fit 32 bits stand in the zip64 extra field, in this order, only those that are needed.
static zg_status zip64_extra(zg_bytes extra, zip_sizes *z) {
  while (extra.n >= 4) {
    uint16_t id = le16(extra.at), n = le16(extra.at + 2);
    if (n > extra.n - 4) return corrupt("an extra field is cut off");
    const uint8_t *p = extra.at + 4;
    if (id == 1) {
      uint64_t *field[3] = { &z->size, &z->packed, &z->local };
      for (int k = 0; k < 3; k++)
        if (*field[k] == 0xffffffffu) {
          if (n < 8) return corrupt("the zip64 sizes are cut off");
          *field[k] = le64(p);
          p += 8;
          n -= 8;
        }
      return NULL;
    }
    extra.at += 4 + n;
    extra.n -= 4u + n;
  }
  return NULL;
}

static zg_status find_member(zg_bytes b, const zip_sizes *z, zg_bytes *out) {
  if (z->local > b.n || b.n - z->local < 30 || le32(b.at + z->local) != 0x04034b50)
    return corrupt("a member's header is missing");
  uint64_t start = z->local + 30 + le16(b.at + z->local + 26) + le16(b.at + z->local + 28);
  if (start > b.n || z->packed > b.n - start) return corrupt("a member lies outside the file");
  *out = (zg_bytes){ b.at + start, z->packed };
  return NULL;
}

static zg_status add_array(zg_npz *f, array a) {
  ZG_TRY(read_header(&a));
  if (!zg_map_put(&f->by_name, a.name, f->arrays.n)) return zg_error(ZG_CORRUPT, "two arrays are named %s", a.name);
  zg_vec_push(&f->arrays, a);
  return NULL;
}

// One entry of the directory, whose fixed part (46 bytes) and variable part are known to be inside.
static zg_status read_entry(zg_npz *f, const uint8_t *e) {
  uint16_t flags = le16(e + 8), method = le16(e + 10), name_n = le16(e + 28);
  const char *name = (const char *)e + 46;
  zip_sizes z = { le32(e + 20), le32(e + 24), le32(e + 42) };
  ZG_TRY(zip64_extra((zg_bytes){ e + 46 + name_n, le16(e + 30) }, &z));
  if (memchr(name, 0, name_n)) return corrupt("a member's name holds a zero byte");
  if (name_n && name[name_n - 1] == '/') return NULL;
  if (name_n < 4 || memcmp(name + name_n - 4, ".npy", 4)) {
    zg_warn("%s: member \"%.*s\" is no .npy array and is skipped", f->path, (int)name_n, name);
    return NULL;
  }
  array a = { .name = zg_arena_strn(&f->mem, name, name_n - 4u), .crc = le32(e + 16), .in_zip = true,
              .deflated = method == 8, .member_n = z.size };
  if (flags & 1) return zg_error(ZG_UNSUPPORTED, "%s: encrypted", a.name);
  if (method != 0 && method != 8)
    return zg_error(ZG_UNSUPPORTED, "%s: compression method %d; use numpy.savez or savez_compressed", a.name, method);
  ZG_TRY(zg_status_prefix(find_member(f->map.bytes, &z, &a.member), "%s: ", a.name));
  if (method == 0 && z.packed != z.size) return zg_error(ZG_CORRUPT, "%s: stored with two sizes", a.name);
  // Deflate makes at most 1032 bytes of one: a larger claim is a lie, found before memory is asked for.
  if (method == 8 && z.size / 1032 > z.packed + 16) return zg_error(ZG_CORRUPT, "%s: an impossible size", a.name);
  return add_array(f, a);
}

static zg_status read_archive(zg_npz *f) {
  zg_bytes b = f->map.bytes;
  uint64_t at = 0, n_bytes = 0, n_entries = 0;
  ZG_TRY(find_directory(b, &at, &n_bytes, &n_entries));
  uint64_t end = at + n_bytes;
  for (uint64_t i = 0; i < n_entries; i++) {
    if (end - at < 46 || le32(b.at + at) != 0x02014b50) return corrupt("the directory is cut off");
    uint64_t n = 46u + le16(b.at + at + 28) + le16(b.at + at + 30) + le16(b.at + at + 32);
    if (end - at < n) return corrupt("the directory is cut off");
    ZG_TRY(read_entry(f, b.at + at));
    at += n;
  }
  return NULL;
}

static zg_status read_npy(zg_npz *f) {
  const char *base = strrchr(f->path, '/');
  base = base ? base + 1 : f->path;
  const char *dot = strrchr(base, '.');
  array a = { .name = zg_arena_strn(&f->mem, base, dot && dot > base ? (size_t)(dot - base) : strlen(base)),
              .member = f->map.bytes, .member_n = f->map.bytes.n };
  return add_array(f, a);
}

zg_status zg_npz_open(const char *path, zg_npz **out) {
  zg_npz *f = zg_alloc(sizeof *f);
  zg_status status = NULL;
  *out = NULL;
  f->path = zg_arena_str(&f->mem, path);
  ZG_TRY_OUT(zg_file_map_open(path, &f->map));
  zg_bytes b = f->map.bytes;
  if (b.n >= 6 && !memcmp(b.at, "\x93NUMPY", 6))
    ZG_TRY_OUT(zg_status_prefix(read_npy(f), "%s: ", path));
  else if (b.n >= 4 && (!memcmp(b.at, "PK\3\4", 4) || !memcmp(b.at, "PK\5\6", 4)))
    ZG_TRY_OUT(zg_status_prefix(read_archive(f), "%s: ", path));
  else
    ZG_TRY_OUT(zg_error(ZG_CORRUPT, "%s: neither .npy nor .npz", path));
  *out = f;
  return NULL;
out:
  zg_npz_close(f);
  return status;
}

void zg_npz_close(zg_npz *f) {
  if (!f) return;
  for (size_t i = 0; i < f->arrays.n; i++)
    if (f->arrays.at[i].own) zg_free_big(f->arrays.at[i].own, ZG_MAX(f->arrays.at[i].data_n, 1));
  zg_vec_fini(&f->arrays);
  zg_map_fini(&f->by_name);
  zg_file_map_close(&f->map);
  zg_arena_fini(&f->mem);
  zg_free(f);
}
