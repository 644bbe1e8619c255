#include "train/npz.h"
#include "train_test.h"

static const struct { const char *name; zg_dtype dtype; } kinds[] = {
  { "f2", ZG_F16 }, { "f4", ZG_F32 }, { "f8", ZG_F64 }, { "i1", ZG_I8 },  { "i2", ZG_I16 }, { "i4", ZG_I32 },
  { "i8", ZG_I64 }, { "u1", ZG_U8 },  { "u2", ZG_U16 }, { "u4", ZG_U32 }, { "u8", ZG_U64 },
};

static void check_fixture(const char *path) {
  zg_npz *f;
  zg_tensor t;
  ok(zg_npz_open(path, &f));
  for (size_t k = 0; k < ZG_COUNT(kinds); k++) {
    ok(zg_npz_get(f, kinds[k].name, &t));
    ck_assert_int_eq(t.type.dtype, kinds[k].dtype);
    ck_assert_int_eq(t.type.rank, 2);
    ck_assert_int_eq(t.type.dim[0], 3);
    ck_assert_int_eq(t.type.dim[1], 4);
    ck_assert_uint_eq((uintptr_t)t.data % zg_dtype_bytes(t.type.dtype), 0);
    for (int i = 0; i < 12; i++)
      ck_assert_double_eq(zg_get_f64(t.type.dtype, t.data, i), kinds[k].name[0] == 'u' ? i : i - 5);
  }
  ok(zg_npz_get(f, "b1", &t));
  ck_assert_int_eq(t.type.dtype, ZG_BOOL);
  for (int i = 0; i < 12; i++) ck_assert_int_eq(((uint8_t *)t.data)[i], i % 3 == 0);
  ok(zg_npz_get(f, "scalar", &t));
  ck_assert_int_eq(t.type.rank, 0);
  ck_assert_float_eq(*(float *)t.data, 2.5f);
  ok(zg_npz_get(f, "empty", &t));
  ck_assert_int_eq(t.type.rank, 2);
  ck_assert_int_eq(zg_elems(&t.type), 0);
  ok(zg_npz_get(f, "fortran", &t));
  ck_assert_int_eq(t.type.rank, 3);
  for (int i = 0; i < 24; i++) ck_assert_float_eq(((float *)t.data)[i], (float)i);
  ok(zg_npz_get(f, "one", &t));
  for (int i = 0; i < 5; i++) ck_assert_int_eq(((int32_t *)t.data)[i], i);
  if (zg_npz_find(f, "long") >= 0) {
    ok(zg_npz_get(f, "long", &t));
    for (int i = 0; i < 5000; i++) ck_assert_int_eq(((int64_t *)t.data)[i], i * 7);
  }
  fails(zg_npz_get(f, "absent", &t), ZG_NOT_FOUND, "it has: f2, f4");
  zg_npz_close(f);
}

START_TEST(reads_what_numpy_writes) {
  check_fixture(ZG_FIXTURES "stored.npz");
  check_fixture(ZG_FIXTURES "deflated.npz");
  static const char *const one[][2] = { { "plain.npy", "plain" }, { "v2.npy", "v2" }, { "zip64.npz", "f4" } };
  for (size_t i = 0; i < ZG_COUNT(one); i++) {
    char path[512];
    zg_npz *f;
    zg_tensor t;
    snprintf(path, sizeof path, ZG_FIXTURES "%s", one[i][0]);
    ok(zg_npz_open(path, &f));
    ck_assert_uint_eq(zg_npz_count(f), 1);
    ok(zg_npz_get(f, one[i][1], &t));
    for (int k = 0; k < 12; k++) ck_assert_float_eq(((float *)t.data)[k], (float)(k - 5));
    zg_npz_close(f);
  }
}
END_TEST

START_TEST(refuses_by_name) {
  zg_npz *f;
  fails(zg_npz_open(ZG_FIXTURES "big_endian.npy", &f), ZG_UNSUPPORTED, "big_endian: big-endian elements (>f4)");
  ck_assert_ptr_null(f);
  fails(zg_npz_open(ZG_FIXTURES "complex.npy", &f), ZG_UNSUPPORTED, "'<c8'");
  fails(zg_npz_open(ZG_FIXTURES "struct.npy", &f), ZG_UNSUPPORTED, "structured");
  fails(zg_npz_open(ZG_FIXTURES "strings.npy", &f), ZG_UNSUPPORTED, "'<U2'");
  fails(zg_npz_open(ZG_FIXTURES "make.py", &f), ZG_CORRUPT, "neither .npy nor .npz");
  fails(zg_npz_open(ZG_FIXTURES "absent.npz", &f), ZG_NOT_FOUND, "absent.npz");
}
END_TEST

START_TEST(round_trip) {
  const char *path = scratch("a.npz");
  zg_npz_writer *w;
  ok(zg_npz_create(path, &w));
  double values[24];
  for (int i = 0; i < 24; i++) values[i] = i % 5;
  for (int t = 0; t < ZG_N_DTYPES; t++) {
    int64_t dims[3] = { 2, 3, 4 };
    uint64_t data[24];
    zg_tensor x = { zg_type_make((zg_dtype)t, 3, dims), data };
    zg_convert((zg_dtype)t, data, ZG_F64, values, 24);
    if (t % 2) {
      ok(zg_npz_put(w, zg_dtype_name((zg_dtype)t), &x));
    } else {
      ok(zg_npz_begin(w, zg_dtype_name((zg_dtype)t), &x.type));
      for (int i = 0; i < 24; i += 8) ok(zg_npz_write(w, (char *)data + i * (int)zg_dtype_bytes((zg_dtype)t), 8));
    }
  }
  ck_assert(!zg_file_exists(path));
  ok(zg_npz_finish(w));
  zg_npz *f;
  ok(zg_npz_open(path, &f));
  ck_assert_uint_eq(zg_npz_count(f), ZG_N_DTYPES);
  for (int t = 0; t < ZG_N_DTYPES; t++) {
    zg_tensor x;
    zg_bytes b;
    ok(zg_npz_get(f, zg_dtype_name((zg_dtype)t), &x));
    ck_assert_int_eq(x.type.dtype, t == ZG_BF16 ? ZG_F32 : t);
    ck_assert_int_eq(x.type.rank, 3);
    for (int i = 0; i < 24; i++)
      ck_assert_double_eq(zg_get_f64(x.type.dtype, x.data, i), t == ZG_BOOL ? values[i] != 0 : values[i]);
    ok(zg_npz_bytes(f, (size_t)t, &b));
    ck_assert_ptr_eq(b.at, x.data);                            // mapped: aligned where it lies
    ck_assert_uint_eq((uintptr_t)b.at % 64, 0);
  }
  zg_npz_close(f);
}
END_TEST

START_TEST(writer_refuses) {
  zg_npz_writer *w;
  zg_type t = zg_type_make(ZG_F32, 1, (int64_t[]){ 4 });
  float x[4] = { 0 };
  fails(zg_npz_create("/nonexistent/x.npz", &w), ZG_IO, "/nonexistent/x.npz");
  ok(zg_npz_create(scratch("b.npz"), &w));
  ok(zg_npz_begin(w, "a", &t));
  fails(zg_npz_write(w, x, 5), ZG_INVALID, "more elements");
  ok(zg_npz_write(w, x, 3));
  fails(zg_npz_begin(w, "b", &t), ZG_INVALID, "\"a\": 1 elements were not written");
  fails(zg_npz_finish(w), ZG_INVALID, "were not written");
  ck_assert(!zg_file_exists(scratch("b.npz")));
  ok(zg_npz_create(scratch("b.npz"), &w));
  ok(zg_npz_put(w, "a", &(zg_tensor){ t, x }));
  fails(zg_npz_put(w, "a", &(zg_tensor){ t, x }), ZG_INVALID, "two arrays");
  zg_npz_abandon(w);
}
END_TEST

START_TEST(numpy_reads_what_we_write) {
  if (system("python3 -c 'import numpy' >/dev/null 2>&1")) return;     // the fixtures test the other direction anyway
  zg_npz_writer *w;
  float x[6] = { 0, 1, 2, 3, 4, 5 };
  int64_t n = 7;
  ok(zg_npz_create(scratch("c.npz"), &w));
  ok(zg_npz_put(w, "x", &(zg_tensor){ zg_type_make(ZG_F32, 2, (int64_t[]){ 2, 3 }), x }));
  ok(zg_npz_put(w, "n", &(zg_tensor){ zg_type_scalar(ZG_I64), &n }));
  ok(zg_npz_finish(w));
  char cmd[512];
  snprintf(cmd, sizeof cmd, "python3 -c \"import numpy as np; f=np.load('%s'); assert (f['x']==np.arange(6,"
           "dtype='f4').reshape(2,3)).all() and f['n']==7 and f['n'].shape==()\"", scratch("c.npz"));
  ck_assert_int_eq(system(cmd), 0);
}
END_TEST

// Every cut and thousands of flipped bytes of each fixture: an answer or a status, never a crash (ASan sees overruns).
START_TEST(hostile_files) {
  static const char *const files[] = { "stored.npz", "deflated.npz", "zip64.npz", "fortran.npy", "v2.npy" };
  uint32_t key[2] = { 7, 7 }, r[4];
  quiet(true);
  for (size_t k = 0; k < ZG_COUNT(files); k++) {
    char path[512];
    zg_str s = { 0 };
    snprintf(path, sizeof path, ZG_FIXTURES "%s", files[k]);
    ok(zg_file_read(path, &s));
    const char *bad = scratch("bad.npz");
    for (uint32_t i = 0; i < 1500; i++) {
      zg_philox((uint32_t[4]){ i, (uint32_t)k }, key, r);
      size_t n = i < 300 ? r[0] % s.n : s.n, at = r[1] % s.n;
      char old = s.at[at];
      if (i >= 300) s.at[at] = (char)r[2];
      if (i >= 900) s.at[s.n - 1 - r[1] % ZG_MIN(s.n, (size_t)400)] ^= (char)(r[3] & 0xff);
      write_file(bad, s.at, n);
      if (i >= 900) s.at[s.n - 1 - r[1] % ZG_MIN(s.n, (size_t)400)] ^= (char)(r[3] & 0xff);
      s.at[at] = old;
      zg_npz *f;
      zg_status st = zg_npz_open(bad, &f);
      for (size_t a = 0; !st && a < zg_npz_count(f); a++) {
        zg_tensor t;
        zg_status one = zg_npz_tensor(f, a, &t);
        double sum = 0;
        for (int64_t e = 0; !one && e < zg_elems(&t.type); e++) sum += zg_get_f64(t.type.dtype, t.data, e);
        ck_assert(sum == sum || sum != sum);
        zg_status_free(one);
      }
      if (!st) zg_npz_close(f);
      zg_status_free(st);
    }
    zg_str_fini(&s);
  }
  quiet(false);
}
END_TEST

int main(void) {
  const TTest *tests[] = { reads_what_numpy_writes, refuses_by_name, round_trip, writer_refuses, numpy_reads_what_we_write,
                           hostile_files };
  return run_tests("npz", tests, ZG_COUNT(tests));
}
