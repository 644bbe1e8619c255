// Hashes that are stable across runs and machines.
#include "base/base.h"
#include <limits.h>
#include <zlib.h>

uint64_t zg_hash(const void *bytes, size_t n, uint64_t seed) {
  const uint8_t *p = bytes;
  uint64_t h = 14695981039346656037u ^ seed;
  for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 1099511628211u;
  // FNV's low bits mix poorly and tables use them: finish with murmur3's 64-bit finaliser.
  h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdu;
  h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53u;
  return h ^ (h >> 33);
}

uint32_t zg_crc32(const void *bytes, size_t n, uint32_t crc) {
  return n ? (uint32_t)crc32_z(crc, bytes, n) : crc;
}
