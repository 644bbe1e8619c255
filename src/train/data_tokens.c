// Token streams: text (each byte a token), raw uint16/uint32, llm.c's files. All are mapped; sample i is the window of
// seq_len + 1 tokens at i * seq_len.
//
// llm.c: 256 int32 in front: magic, version, number of tokens, then zeros. The magic tells the width.
#include "train/data_priv.h"

typedef struct {
  zg_file_map map;
  const uint8_t *at;          // first token
  zg_dtype dtype;             // u8, u16, u32
  int64_t *ramp;              // 0..L-1: position_ids
} stream;

enum { TOKENS, LABELS, MASK, POSITIONS, LLMC_HEADER = 1024, LLMC_U16 = 20240520, LLMC_U32 = 20240801 };

static uint32_t le32(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24; }

static bool has_llmc_header(zg_bytes b) {
  return b.n >= LLMC_HEADER && (le32(b.at) == LLMC_U16 || le32(b.at) == LLMC_U32);
}

static zg_status open_windows(zg_data *d, uint64_t n_tokens) {
  stream *s = d->impl;
  int64_t len = d->o.seq_len;
  if (len < 1) return zg_error(ZG_INVALID, "%s: token data need `seq_len:`, the tokens of a sample", d->o.path);
  d->n_samples = n_tokens ? (n_tokens - 1) / (uint64_t)len : 0;
  if (!d->n_samples)
    return zg_error(ZG_INVALID, "%s: %llu tokens are too few for one sample of seq_len %lld and the token after it", d->o.path,
                    (unsigned long long)n_tokens, (long long)len);
  s->ramp = ZG_NEW_N(&d->mem, int64_t, len);
  for (int64_t i = 0; i < len; i++) s->ramp[i] = i;
  static const char *const names[] = { "tokens", "labels", "attention_mask", "position_ids" };
  for (size_t i = 0; i < ZG_COUNT(names); i++) zg__data_add(d, names[i], ZG_I64, 1, &len);
  return NULL;
}

static zg_status open_text(zg_data *d) {
  stream *s = d->impl = ZG_NEW(&d->mem, stream);
  ZG_TRY(zg_file_map_open(d->o.path, &s->map));
  s->dtype = ZG_U8;
  s->at = s->map.bytes.at;
  return open_windows(d, s->map.bytes.n);
}

static zg_status open_tokens(zg_data *d) {
  stream *s = d->impl = ZG_NEW(&d->mem, stream);
  const char *path = d->o.path;
  ZG_TRY(zg_file_map_open(path, &s->map));
  zg_bytes b = s->map.bytes;
  bool wide = zg__data_ends(path, ".u32") || zg__data_ends(path, ".uint32");
  if (d->o.token_bits) {
    if (d->o.token_bits != 16 && d->o.token_bits != 32)
      return zg_error(ZG_INVALID, "%s: tokens of %d bits; want 16 or 32", path, d->o.token_bits);
    wide = d->o.token_bits == 32;
  }
  if (!has_llmc_header(b)) {
    s->dtype = wide ? ZG_U32 : ZG_U16;
    s->at = b.at;
    if (b.n % zg_dtype_bytes(s->dtype))
      return zg_error(ZG_CORRUPT, "%s: %llu bytes are no whole number of %s tokens", path, (unsigned long long)b.n,
                      zg_dtype_name(s->dtype));
    return open_windows(d, b.n / zg_dtype_bytes(s->dtype));
  }
  s->dtype = le32(b.at) == LLMC_U32 ? ZG_U32 : ZG_U16;
  s->at = b.at + LLMC_HEADER;
  uint64_t n = le32(b.at + 8);
  if (n > (b.n - LLMC_HEADER) / zg_dtype_bytes(s->dtype))
    return zg_error(ZG_CORRUPT, "%s: the header promises %llu tokens, the file holds %llu; it is cut off", path,
                    (unsigned long long)n, (unsigned long long)((b.n - LLMC_HEADER) / zg_dtype_bytes(s->dtype)));
  return open_windows(d, n);
}

static zg_status read_window(zg_data *d, size_t array, uint64_t sample, zg_dtype to, void *dst) {
  const stream *s = d->impl;
  int64_t len = d->o.seq_len;
  if (array == POSITIONS) {
    zg_convert(to, dst, ZG_I64, s->ramp, len);
  } else if (array == MASK) {
    for (int64_t i = 0; i < len; i++) zg_set_i64(to, dst, i, 1);
  } else {
    uint64_t from = sample * (uint64_t)len + (array == LABELS);
    zg_convert(to, dst, s->dtype, s->at + from * zg_dtype_bytes(s->dtype), len);
    zg__data_touched(d, s->map.bytes, (uint64_t)len * zg_dtype_bytes(s->dtype));
  }
  return NULL;
}

static void close_stream(zg_data *d) {
  stream *s = d->impl;
  if (s) zg_file_map_close(&s->map);
}

static bool claims_tokens(const char *path, zg_bytes head) {
  static const char *const endings[] = { ".bin", ".u16", ".uint16", ".u32", ".uint32", ".tokens" };
  if (has_llmc_header(head)) return true;
  for (size_t i = 0; i < ZG_COUNT(endings); i++)
    if (head.n && zg__data_ends(path, endings[i])) return true;
  return false;
}

static bool claims_text(const char *path, zg_bytes head) {
  (void)path;
  return head.n && !memchr(head.at, 0, head.n);
}

const zg__data_format zg__data_text = { "text", "any text; each byte is a token (needs seq_len)", claims_text, open_text,
                                        read_window, close_stream };
const zg__data_format zg__data_tokens = { "tokens", "uint16 or uint32 tokens, raw or with llm.c's header (needs seq_len)",
                                          claims_tokens, open_tokens, read_window, close_stream };
