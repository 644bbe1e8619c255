#include "train/safetensors.h"
#include "train_test.h"

static zg_safetensors_decl decls[] = {
  { "flags", { ZG_BOOL, 1, { 3 } } },
  { "w \"quoted\"\n", { ZG_F32, 2, { 3, 5 } } },
  { "scale", { ZG_F64, 0, { 0 } } },
  { "half", { ZG_BF16, 1, { 7 } } },
  { "none", { ZG_I64, 2, { 0, 4 } } },
};
enum { N = ZG_COUNT(decls) };

static uint8_t byte_of(size_t i, uint64_t at) { return (uint8_t)(17 * i + 31 * at + at / 200); }

static zg_status fill(void *arg, size_t i, uint64_t offset, uint64_t n, void *buf) {
  (void)arg;
  for (uint64_t k = 0; k < n; k++) ((uint8_t *)buf)[k] = byte_of(i, offset + k);
  return NULL;
}

static void check_file(const char *path) {
  zg_safetensors *f;
  ok(zg_safetensors_open(path, &f));
  ok(zg_safetensors_check(f));
  ck_assert_uint_eq(zg_safetensors_count(f), N);
  ck_assert_str_eq(zg_safetensors_metadata(f, "format"), "zgraph");
  ck_assert_ptr_null(zg_safetensors_metadata(f, "absent"));
  ck_assert_int_eq(zg_safetensors_find(f, "absent"), -1);
  for (size_t i = 0; i < N; i++) {
    int64_t k = zg_safetensors_find(f, decls[i].name);
    ck_assert_int_ge(k, 0);
    ck_assert(zg_type_equal(zg_safetensors_type(f, (size_t)k), &decls[i].type));
    zg_bytes b = zg_safetensors_bytes(f, (size_t)k);
    ck_assert_uint_eq((uintptr_t)b.at % zg_dtype_bytes(decls[i].type.dtype), 0);
    for (uint64_t at = 0; at < b.n; at++) ck_assert_uint_eq(b.at[at], byte_of(i, at));
    uint8_t two[2];
    if (b.n) {
      ok(zg_safetensors_read(f, (size_t)k, b.n - 2, 2, two));
      ck_assert_uint_eq(two[1], byte_of(i, b.n - 1));
    }
    fails(zg_safetensors_read(f, (size_t)k, b.n, 1, two), ZG_INVALID, decls[i].name);
  }
  zg_safetensors_close(f);
}

static const zg_safetensors_meta meta = { "format", "zgraph" };

START_TEST(written_by_callback) {
  ok(zg_safetensors_write_all(scratch("a.safetensors"), decls, N, &meta, 1, fill, NULL));
  check_file(scratch("a.safetensors"));
}
END_TEST

// Three writers of one file, each a third of every tensor's bytes, the middle one first.
START_TEST(written_by_ranks) {
  const char *path = scratch("r.safetensors");
  zg_safetensors_writer *w[3];
  zg_safetensors *f;
  uint8_t buf[64];
  for (int r = 0; r < 3; r++) ok(zg_safetensors_create(path, decls, N, &meta, 1, &w[r]));
  static const int order[3] = { 1, 0, 2 };
  for (int k = 0; k < 3; k++)
    for (size_t i = 0; i < N; i++) {
      uint64_t n = zg_type_bytes(&decls[i].type), r = (uint64_t)order[k], from = n * r / 3, to = n * (r + 1) / 3;
      ok(fill(NULL, i, from, to - from, buf));
      ok(zg_safetensors_write(w[order[k]], i, from, buf, to - from));
    }
  fails(zg_safetensors_open(path, &f), ZG_CORRUPT, "not finished");
  ok(zg_safetensors_leave(w[1]));
  ok(zg_safetensors_leave(w[2]));
  fails(zg_safetensors_write(w[0], 1, 56, buf, 5), ZG_INVALID, "tensor 1");
  ok(zg_safetensors_finish(w[0]));
  check_file(path);
  // The same file as one process writes.
  zg_str a = { 0 }, b = { 0 };
  ok(zg_safetensors_write_all(scratch("a.safetensors"), decls, N, &meta, 1, fill, NULL));
  ok(zg_file_read(path, &a));
  ok(zg_file_read(scratch("a.safetensors"), &b));
  ck_assert_uint_eq(a.n, b.n);
  ck_assert_mem_eq(a.at, b.at, a.n);
  zg_str_fini(&a);
  zg_str_fini(&b);
}
END_TEST

START_TEST(a_flipped_bit_is_named) {
  zg_str s = { 0 };
  zg_safetensors *f;
  ok(zg_safetensors_write_all(scratch("a.safetensors"), decls, N, &meta, 1, fill, NULL));
  ok(zg_file_read(scratch("a.safetensors"), &s));
  s.at[s.n - 1] ^= 1;                                          // narrowest type: last
  write_file(scratch("b.safetensors"), s.at, s.n);
  ok(zg_safetensors_open(scratch("b.safetensors"), &f));
  fails(zg_safetensors_check(f), ZG_CORRUPT, "\"flags\": the checksum is wrong");
  zg_safetensors_close(f);
  write_file(scratch("b.safetensors"), s.at, s.n - 1);
  fails(zg_safetensors_open(scratch("b.safetensors"), &f), ZG_CORRUPT, "\"flags\"");
  zg_str_fini(&s);
}
END_TEST

static void write_header(const char *path, const char *json, size_t n_data) {
  char file[1024] = { 0 };
  size_t n = strlen(json);
  file[0] = (char)n;
  file[1] = (char)(n >> 8);
  memcpy(file + 8, json, n);
  write_file(path, file, 8 + n + n_data);
}

START_TEST(refuses) {
#define T(dtype, shape, from, to) "{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" from "," to "]}"
  static const struct { const char *json; size_t n; zg_code code; const char *message; } cases[] = {
    { "[]", 0, ZG_CORRUPT, "no JSON object" },
    { "{\"a\":1}", 0, ZG_CORRUPT, "\"a\": no object" },
    { "{\"a\":{\"shape\":[1]}}", 0, ZG_CORRUPT, "\"a\": no \"dtype\"" },
    { "{\"a\":" T("F8_E4M3", "1", "0", "1") "}", 1, ZG_UNSUPPORTED, "\"a\": element type F8_E4M3" },
    { "{\"a\":" T("F32", "1", "0", "8") "}", 8, ZG_CORRUPT, "f32[1] needs 4 bytes, the offsets give 8" },
    { "{\"a\":" T("F32", "2", "0", "8") "}", 4, ZG_CORRUPT, "outside the file" },
    { "{\"a\":" T("F32", "-1", "0", "8") "}", 8, ZG_CORRUPT, "no number" },
    { "{\"a\":" T("F32", "4611686018427387904,4", "0", "8") "}", 8, ZG_CORRUPT, "too large" },
    { "{\"a\":" T("F32", "1", "0", "4") ",\"b\":" T("F32", "1", "2", "6") "}", 6, ZG_CORRUPT, "\"b\": overlaps" },
    { "{\"a\":" T("F32", "1", "0", "4") ",\"b\":" T("F32", "1", "5", "9") "}", 9, ZG_CORRUPT, "\"b\": a gap" },
    { "{\"a\":" T("F32", "1", "0", "4") "}", 5, ZG_CORRUPT, "behind the last" },
    { "{\"a\":" T("F32", "1,1,1,1,1,1,1,1,1", "0", "4") "}", 4, ZG_UNSUPPORTED, "more than 8 dimensions" },
    { "{\"__metadata__\":{\"a\":1}}", 0, ZG_CORRUPT, "\"a\" is no string" },
    { "{\"a\":", 0, ZG_CORRUPT, "no JSON object" },
  };
  zg_safetensors *f;
  for (size_t i = 0; i < ZG_COUNT(cases); i++) {
    write_header(scratch("bad"), cases[i].json, cases[i].n);
    fails(zg_safetensors_open(scratch("bad"), &f), cases[i].code, cases[i].message);
    ck_assert_ptr_null(f);
  }
  zg_safetensors_decl two[] = { { "a", { ZG_F32, 0, { 0 } } }, { "a", { ZG_F32, 0, { 0 } } } };
  zg_safetensors_writer *w;
  fails(zg_safetensors_create(scratch("two"), two, 2, NULL, 0, &w), ZG_INVALID, "two tensors are named \"a\"");
  fails(zg_safetensors_create("/nonexistent/x", two, 1, NULL, 0, &w), ZG_IO, "/nonexistent/x");
  fails(zg_safetensors_open("/nonexistent/x", &f), ZG_NOT_FOUND, "/nonexistent/x");
}
END_TEST

START_TEST(hostile_files) {
  zg_str s = { 0 };
  uint32_t key[2] = { 1, 2 }, r[4];
  ok(zg_safetensors_write_all(scratch("a.safetensors"), decls, N, &meta, 1, fill, NULL));
  ok(zg_file_read(scratch("a.safetensors"), &s));
  for (uint32_t i = 0; i < 3000; i++) {
    zg_safetensors *f;
    zg_philox((uint32_t[4]){ i }, key, r);
    size_t at = r[1] % s.n;
    char old = s.at[at];
    if (i >= 500) s.at[at] = r[3] % 3 ? (char)('0' + r[2] % 10) : (char)r[2];
    write_file(scratch("bad"), s.at, i < 500 ? r[0] % s.n : s.n);
    s.at[at] = old;
    zg_status st = zg_safetensors_open(scratch("bad"), &f);
    if (!st) {
      st = zg_safetensors_check(f);
      zg_safetensors_close(f);
    }
    zg_status_free(st);
  }
  zg_str_fini(&s);
}
END_TEST

int main(void) {
  const TTest *tests[] = { written_by_callback, written_by_ranks, a_flipped_bit_is_named, refuses, hostile_files };
  return run_tests("safetensors", tests, ZG_COUNT(tests));
}
