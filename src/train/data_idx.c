// MNIST's idx: two zero bytes, type byte, rank byte, rank big-endian uint32 dims, elements big-endian. Files ending in gzip
// are told by content (1f 8b). Both files are read into memory whole: such sets are small.
// Source: yann.lecun.com/exdb/mnist, "the IDX file format".
#include "train/data_priv.h"
#include <stdio.h>
#include <sys/stat.h>
#include <zlib.h>

typedef struct { zg_type type; uint8_t *data; uint64_t n; } idx;
typedef struct { idx images, labels; } idx_set;

static const struct { uint8_t code; zg_dtype dtype; } codes[] = {
  { 0x08, ZG_U8 }, { 0x09, ZG_I8 }, { 0x0b, ZG_I16 }, { 0x0c, ZG_I32 }, { 0x0d, ZG_F32 }, { 0x0e, ZG_F64 },
};

static zg_status parse_head(const uint8_t *h, const char *path, zg_type *out) {
  *out = (zg_type){ 0 };
  size_t i = 0;
  while (i < ZG_COUNT(codes) && codes[i].code != h[2]) i++;
  if (h[0] || h[1] || i == ZG_COUNT(codes)) return zg_error(ZG_CORRUPT, "%s: not an idx file", path);
  if (h[3] < 1 || h[3] > 4) return zg_error(ZG_UNSUPPORTED, "%s: idx of rank %d; want labels (1) or images (3)", path, h[3]);
  out->dtype = codes[i].dtype;
  out->rank = h[3];
  return NULL;
}

static void swap_bytes(uint8_t *p, uint64_t n, uint32_t size) {
  for (uint64_t i = 0; size > 1 && i < n; i += size)
    for (uint32_t k = 0; k < size / 2; k++) {
      uint8_t t = p[i + k];
      p[i + k] = p[i + size - 1 - k];
      p[i + size - 1 - k] = t;
    }
}

static zg_status read_exact(gzFile f, const char *path, uint8_t *dst, uint64_t n) {
  while (n) {
    int got = gzread(f, dst, (unsigned)ZG_MIN(n, (uint64_t)1 << 28));
    if (got <= 0) return zg_error(ZG_CORRUPT, "%s: the file is cut off or damaged", path);
    dst += got;
    n -= (uint64_t)got;
  }
  return NULL;
}

// gzread passes plain files through.
static zg_status read_idx(const char *path, idx *out) {
  uint8_t head[20];
  uint64_t n;
  struct stat st;
  zg_status status = NULL;
  gzFile f = gzopen(path, "rb");
  if (!f || stat(path, &st)) {
    if (f) gzclose(f);
    return zg_error(ZG_NOT_FOUND, "%s: cannot open", path);
  }
  ZG_TRY_OUT(read_exact(f, path, head, 4));
  ZG_TRY_OUT(parse_head(head, path, &out->type));
  ZG_TRY_OUT(read_exact(f, path, head + 4, 4 * out->type.rank));
  n = zg_dtype_bytes(out->type.dtype);
  for (uint32_t d = 0; d < out->type.rank; d++) {
    const uint8_t *p = head + 4 + 4 * d;
    out->type.dim[d] = (int64_t)((uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]);
    if (!zg_mul_u64(n, (uint64_t)out->type.dim[d], &n)) n = UINT64_MAX;
  }
  // Deflate makes at most 1032 bytes of one: a larger claim is found before memory is asked for.
  if (n / 1032 > (uint64_t)st.st_size)
    ZG_TRY_OUT(zg_error(ZG_CORRUPT, "%s: the header promises more than the file can hold", path));
  ZG_TRY_OUT(zg_alloc_big(ZG_MAX(n, 1), (void **)&out->data));
  out->n = ZG_MAX(n, 1);
  ZG_TRY_OUT(read_exact(f, path, out->data, n));
  swap_bytes(out->data, n, zg_dtype_bytes(out->type.dtype));
out:
  gzclose(f);
  return status;
}

static const char *replaced(zg_data *d, const char *path, const char *from, const char *to) {
  const char *base = strrchr(path, '/'), *hit = NULL;
  for (const char *p = strstr(base ? base : path, from); p; p = strstr(p + 1, from)) hit = p;
  return hit ? zg_arena_printf(&d->mem, "%.*s%s%s", (int)(hit - path), path, to, hit + strlen(from)) : path;
}

// The labels beside the images: with or without .gz. NULL: none.
static const char *find_labels(zg_data *d, const char *images) {
  const char *p = replaced(d, replaced(d, images, "images", "labels"), "idx3", "idx1");
  if (!strcmp(p, images)) return NULL;
  if (zg_file_exists(p)) return p;
  p = zg__data_ends(p, ".gz") ? zg_arena_strn(&d->mem, p, strlen(p) - 3) : zg_arena_printf(&d->mem, "%s.gz", p);
  return zg_file_exists(p) ? p : NULL;
}

static const char *in_folder(zg_data *d, const char *path) {
  static const char *const names[] = { "train-images-idx3-ubyte", "train-images-idx3-ubyte.gz", "train-images.idx3-ubyte",
                                       "train-images.idx3-ubyte.gz" };
  struct stat st;
  if (stat(path, &st) || !S_ISDIR(st.st_mode)) return path;
  for (size_t i = 0; i < ZG_COUNT(names); i++) {
    const char *p = zg_arena_printf(&d->mem, "%s/%s", path, names[i]);
    if (zg_file_exists(p)) return p;
  }
  return NULL;
}

static zg_status open_idx(zg_data *d) {
  idx_set *s = d->impl = ZG_NEW(&d->mem, idx_set);
  const char *path = in_folder(d, d->o.path);
  if (!path) return zg_error(ZG_NOT_FOUND, "%s: no train-images-idx3-ubyte or .gz in this folder", d->o.path);
  ZG_TRY(read_idx(path, &s->images));
  const zg_type *t = &s->images.type;
  if (t->rank == 1) return zg_error(ZG_INVALID, "%s: these are labels; give the file of images as `path:`", path);
  int64_t dim[4] = { 1, t->dim[1], t->dim[2], t->dim[3] };
  if (t->rank == 4) zg__data_add(d, "images", ZG_F32, 3, t->dim + 1);
  else zg__data_add(d, "images", ZG_F32, t->rank, dim);
  d->n_samples = (uint64_t)t->dim[0];
  const char *labels = d->o.labels_path ? d->o.labels_path : find_labels(d, path);
  if (!labels) return NULL;
  ZG_TRY(read_idx(labels, &s->labels));
  if (s->labels.type.rank != 1 || s->labels.type.dim[0] != t->dim[0])
    return zg_error(ZG_INVALID, "%s: %s does not label the images of %s, which are %s", labels, zg_type_text(&s->labels.type),
                    path, zg_type_text(t));
  zg__data_add(d, "labels", zg_dtype_is_float(s->labels.type.dtype) ? ZG_F32 : ZG_I64, 0, NULL);
  return NULL;
}

static zg_status read_sample(zg_data *d, size_t array, uint64_t sample, zg_dtype to, void *dst) {
  const idx_set *s = d->impl;
  const idx *x = array ? &s->labels : &s->images;
  int64_t n = zg_elems(&d->arrays.at[array].type);
  const uint8_t *src = x->data + sample * (uint64_t)n * zg_dtype_bytes(x->type.dtype);
  if (array || x->type.dtype != ZG_U8 || !zg_dtype_is_float(to))
    zg_convert(to, dst, x->type.dtype, src, n);
  else if (to == ZG_F32)
    for (int64_t i = 0; i < n; i++) ((float *)dst)[i] = (float)src[i] / 255.0f;
  else
    for (int64_t i = 0; i < n; i++) zg_set_f64(to, dst, i, (float)src[i] / 255.0f);
  return NULL;
}

static void close_idx(zg_data *d) {
  idx_set *s = d->impl;
  if (!s) return;
  if (s->images.data) zg_free_big(s->images.data, s->images.n);
  if (s->labels.data) zg_free_big(s->labels.data, s->labels.n);
}

static bool claims_idx(const char *path, zg_bytes head) {
  bool gz = head.n > 2 && head.at[0] == 0x1f && head.at[1] == 0x8b;
  if (!head.n) return true;                                    // a folder
  if (gz) return strstr(path, "idx") != NULL;
  return head.n >= 8 && !head.at[0] && !head.at[1] && head.at[2] >= 0x08 && head.at[2] <= 0x0e && head.at[3] >= 1 &&
         head.at[3] <= 4 && (strstr(path, "idx") || strstr(path, "ubyte"));
}

const zg__data_format zg__data_idx = { "idx", "MNIST's files, also gzipped: images and labels", claims_idx, open_idx, read_sample,
                                       close_idx };
