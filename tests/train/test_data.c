#include "train/data.h"
#include "train/npz.h"
#include "train_test.h"
#include <zlib.h>

static zg_data *opened(zg_data_options o) {
  zg_data *d;
  ok(zg_data_open(&o, &d));
  return d;
}

static void read_i64(zg_data *d, uint64_t consumed, const char *name, int64_t *out) {
  int64_t a = zg_data_find(d, name);
  ck_assert_int_ge(a, 0);
  ok(zg_data_batch(d, consumed, &(zg_data_dst){ (size_t)a, ZG_I64, out }, 1));
}

START_TEST(permutation) {
  static const uint64_t sizes[] = { 1, 2, 3, 4, 5, 16, 17, 1000, 4097 };
  for (size_t k = 0; k < ZG_COUNT(sizes); k++) {
    uint64_t n = sizes[k], moved = 0, differs = 0;
    uint8_t *seen = calloc(n, 1);
    for (uint64_t i = 0; i < n; i++) {
      uint64_t p = zg_data_permute(n, 42, 0, i);
      ck_assert_uint_lt(p, n);
      ck_assert(!seen[p]++);
      moved += p != i;
      differs += p != zg_data_permute(n, 42, 1, i);
    }
    free(seen);
    if (n >= 1000) {
      ck_assert_uint_gt(moved, n * 9 / 10);
      ck_assert_uint_gt(differs, n * 9 / 10);
    }
  }
  // No place prefers a value: the mean of the element at 0 over many epochs is the middle.
  double sum = 0;
  for (uint64_t e = 0; e < 4000; e++) sum += (double)zg_data_permute(1000, 7, e, 0);
  ck_assert_double_eq_tol(sum / 4000, 499.5, 25);
}
END_TEST

// 103 samples: every epoch has each once, on any number of ranks, and the stream does not depend on it.
START_TEST(stream_and_ranks) {
  zg_npz_writer *w;
  int64_t x[103];
  for (int i = 0; i < 103; i++) x[i] = i;
  ok(zg_npz_create(scratch("s.npz"), &w));
  ok(zg_npz_put(w, "x", &(zg_tensor){ zg_type_make(ZG_I64, 1, (int64_t[]){ 103 }), x }));
  ok(zg_npz_finish(w));
  int64_t one[480], two[480];
  zg_data_options o = { .path = scratch("s.npz"), .batch_size = 6, .shuffle = true, .seed = 5 };
  zg_data *d = opened(o);
  ck_assert_uint_eq(zg_data_n_samples(d), 103);
  ck_assert_str_eq(zg_data_format_name(d), "npz");
  for (uint64_t i = 0; i < 480; i += 6) read_i64(d, i, "x", one + i);
  ck_assert_uint_eq(zg_data_epoch(d, 102), 0);
  ck_assert_uint_eq(zg_data_epoch(d, 103), 1);
  ck_assert_uint_eq(zg_data_steps_in(d, 3), 309 / 6);
  zg_data_close(d);
  for (int rank = 0; rank < 4; rank++) {
    o.rank = rank;
    o.world = 4;
    d = opened(o);
    for (uint64_t i = 0; i < 480; i += 24) read_i64(d, i, "x", two + i + 6 * (uint64_t)rank);
    zg_data_close(d);
  }
  ck_assert_mem_eq(one, two, sizeof one);
  for (int e = 0; e < 4; e++) {
    int seen[103] = { 0 };
    for (int i = 0; i < 103; i++) seen[one[e * 103 + i]]++;
    for (int i = 0; i < 103; i++) ck_assert_int_eq(seen[i], 1);
  }
  ck_assert_mem_ne(one, one + 103, 103 * 8);
  o = (zg_data_options){ .path = scratch("s.npz"), .batch_size = 6 };
  d = opened(o);
  read_i64(d, 100, "x", two);
  for (int i = 0; i < 6; i++) ck_assert_int_eq(two[i], (100 + i) % 103);
  zg_data_close(d);
}
END_TEST

START_TEST(text_windows) {
  const char *text = "abcdefghijklm";                           // 13: three windows of 4
  write_file(scratch("t.txt"), text, 13);
  zg_data *d = opened((zg_data_options){ .path = scratch("t.txt"), .batch_size = 3, .seq_len = 4 });
  ck_assert_str_eq(zg_data_format_name(d), "text");
  ck_assert_uint_eq(zg_data_n_samples(d), 3);
  ck_assert_str_eq(zg_type_text(zg_data_type(d, 0)), "i64[3,4]");
  int64_t x[12], y[12], m[12], p[12];
  read_i64(d, 0, "tokens", x);
  read_i64(d, 0, "labels", y);
  read_i64(d, 0, "attention_mask", m);
  read_i64(d, 0, "position_ids", p);
  for (int i = 0; i < 12; i++) {
    ck_assert_int_eq(x[i], 'a' + i);
    ck_assert_int_eq(y[i], 'a' + i + 1);
    ck_assert_int_eq(m[i], 1);
    ck_assert_int_eq(p[i], i % 4);
  }
  float f[12];
  ok(zg_data_batch(d, 0, &(zg_data_dst){ 0, ZG_F32, f }, 1));
  ck_assert_float_eq(f[11], (float)'l');
  zg_data_close(d);
  zg_data_options o = { .path = scratch("t.txt"), .batch_size = 1, .seq_len = 13 };
  fails(zg_data_open(&o, &d), ZG_INVALID, "13 tokens are too few");
  o.seq_len = 0;
  fails(zg_data_open(&o, &d), ZG_INVALID, "seq_len");
  o.format = "tex";
  fails(zg_data_open(&o, &d), ZG_INVALID, "\"tex\" is unknown; want auto, npz");
  o.path = "/nonexistent";
  o.format = NULL;
  fails(zg_data_open(&o, &d), ZG_NOT_FOUND, "/nonexistent");
}
END_TEST

START_TEST(token_files) {
  uint32_t file[256 + 20] = { 20240801, 7, 20 };
  for (uint32_t i = 0; i < 20; i++) file[256 + i] = 100000 + i;
  int64_t x[6];
  zg_data *d;
  write_file(scratch("l3"), file, sizeof file);                 // found by its header, no extension
  d = opened((zg_data_options){ .path = scratch("l3"), .batch_size = 2, .seq_len = 3 });
  ck_assert_str_eq(zg_data_format_name(d), "tokens");
  ck_assert_uint_eq(zg_data_n_samples(d), 6);
  read_i64(d, 2, "labels", x);
  for (int i = 0; i < 6; i++) ck_assert_int_eq(x[i], 100007 + i);
  zg_data_close(d);
  file[2] = 21;
  write_file(scratch("l3"), file, sizeof file);
  zg_data_options o = { .path = scratch("l3"), .batch_size = 2, .seq_len = 3 };
  fails(zg_data_open(&o, &d), ZG_CORRUPT, "promises 21 tokens, the file holds 20");
  uint16_t raw[13];
  for (int i = 0; i < 13; i++) raw[i] = (uint16_t)(50000 + i);
  write_file(scratch("r.bin"), raw, sizeof raw);
  d = opened((zg_data_options){ .path = scratch("r.bin"), .batch_size = 2, .seq_len = 3 });
  read_i64(d, 2, "tokens", x);
  for (int i = 0; i < 6; i++) ck_assert_int_eq(x[i], 50006 + i);
  zg_data_close(d);
  o = (zg_data_options){ .path = scratch("r.bin"), .batch_size = 2, .seq_len = 3, .token_bits = 32 };
  fails(zg_data_open(&o, &d), ZG_CORRUPT, "no whole number of u32");
}
END_TEST

START_TEST(batches_of_an_npz) {
  zg_npz_writer *w;
  float x[4 * 2 * 3];
  int64_t y[4 * 2];
  for (int i = 0; i < 24; i++) x[i] = (float)i;
  for (int i = 0; i < 8; i++) y[i] = i;
  ok(zg_npz_create(scratch("b.npz"), &w));
  ok(zg_npz_put(w, "x", &(zg_tensor){ zg_type_make(ZG_F32, 3, (int64_t[]){ 4, 2, 3 }), x }));
  ok(zg_npz_put(w, "y", &(zg_tensor){ zg_type_make(ZG_I64, 2, (int64_t[]){ 4, 2 }), y }));
  ok(zg_npz_finish(w));
  zg_data *d = opened((zg_data_options){ .path = scratch("b.npz"), .format = "batches", .rank = 1, .world = 2 });
  ck_assert_uint_eq(zg_data_step_samples(d), 1);
  ck_assert_str_eq(zg_type_text(zg_data_type(d, 0)), "f32[2,3]");
  float a[6];
  int32_t b[2];
  ok(zg_data_batch(d, 2, (zg_data_dst[]){ { 0, ZG_F32, a }, { 1, ZG_I32, b } }, 2));
  for (int i = 0; i < 6; i++) ck_assert_float_eq(a[i], (float)(18 + i));
  ck_assert_int_eq(b[1], 7);
  zg_data_close(d);
  zg_data_options o = { .path = scratch("b2.npz"), .batch_size = 1 };
  ok(zg_npz_create(scratch("b2.npz"), &w));
  ok(zg_npz_put(w, "x", &(zg_tensor){ zg_type_make(ZG_F32, 3, (int64_t[]){ 4, 2, 3 }), x }));
  ok(zg_npz_put(w, "y", &(zg_tensor){ zg_type_make(ZG_I64, 1, (int64_t[]){ 8 }), y }));
  ok(zg_npz_finish(w));
  fails(zg_data_open(&o, &d), ZG_INVALID, "arrays \"x\" f32[4,2,3] and \"y\" i64[8] differ");
}
END_TEST

// Members that numpy wrote: misaligned in the file, deflated.
START_TEST(numpy_samples) {
  static const char *const files[] = { ZG_FIXTURES "samples.npz", ZG_FIXTURES "samples_deflated.npz" };
  for (size_t k = 0; k < 2; k++) {
    zg_data *d = opened((zg_data_options){ .path = files[k], .batch_size = 2 });
    ck_assert_uint_eq(zg_data_n_samples(d), 5);
    double x[6];
    int32_t y[2];
    ok(zg_data_batch(d, 3, (zg_data_dst[]){ { (size_t)zg_data_find(d, "x"), ZG_F64, x }, { (size_t)zg_data_find(d, "y"), ZG_I32,
                                            y } }, 2));
    for (int i = 0; i < 6; i++) ck_assert_double_eq(x[i], 9 + i);
    ck_assert_int_eq(y[0], 3);
    ck_assert_int_eq(y[1], 4);
    zg_data_close(d);
  }
}
END_TEST

static void write_mnist(const char *images, const char *labels, bool gz) {
  uint8_t x[16 + 3 * 4] = { 0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 2 }, y[8 + 3] = { 0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9 };
  for (int i = 0; i < 12; i++) x[16 + i] = (uint8_t)(i * 20);
  if (!gz) {
    write_file(images, x, sizeof x);
    write_file(labels, y, sizeof y);
    return;
  }
  gzFile f = gzopen(images, "wb");
  gzwrite(f, x, sizeof x);
  gzclose(f);
  f = gzopen(labels, "wb");
  gzwrite(f, y, sizeof y);
  gzclose(f);
}

static void check_mnist(const char *path) {
  zg_data *d = opened((zg_data_options){ .path = path, .batch_size = 2 });
  ck_assert_str_eq(zg_data_format_name(d), "idx");
  ck_assert_uint_eq(zg_data_n_samples(d), 3);
  ck_assert_str_eq(zg_type_text(zg_data_type(d, 0)), "f32[2,1,2,2]");
  ck_assert_str_eq(zg_type_text(zg_data_type(d, 1)), "i64[2]");
  float x[8];
  uint8_t u[8];
  int64_t y[2];
  ok(zg_data_batch(d, 1, (zg_data_dst[]){ { 0, ZG_F32, x }, { 1, ZG_I64, y }, { 0, ZG_U8, u } }, 3));
  for (int i = 0; i < 8; i++) {
    ck_assert_float_eq(x[i], (float)(80 + 20 * i) / 255.0f);
    ck_assert_int_eq(u[i], 80 + 20 * i);
  }
  ck_assert_int_eq(y[0], 8);
  ck_assert_int_eq(y[1], 9);
  zg_data_close(d);
}

START_TEST(mnist) {
  write_mnist(scratch("train-images-idx3-ubyte"), scratch("train-labels-idx1-ubyte"), false);
  check_mnist(scratch("train-images-idx3-ubyte"));
  check_mnist(scratch(""));
  unlink(scratch("train-images-idx3-ubyte"));
  write_mnist(scratch("train-images-idx3-ubyte.gz"), scratch("train-labels-idx1-ubyte.gz"), true);
  check_mnist(scratch("train-images-idx3-ubyte.gz"));
  zg_data *d;
  zg_data_options o = { .path = scratch("cut-images-idx3-ubyte"), .batch_size = 1 };
  write_file(o.path, "\0\0\x08\x03\0\0\0\x03\0\0\0\x02\0\0\0\x02xx", 18);
  fails(zg_data_open(&o, &d), ZG_CORRUPT, "cut off");
  write_file(o.path, "\0\0\x08\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xffxx", 18);
  fails(zg_data_open(&o, &d), ZG_CORRUPT, "more than the file can hold");
}
END_TEST

START_TEST(csv) {
  const char *text = "a,\"b, c\",y,d\n1,2,0,3\r\n4,5.5,1,\"6\"\n\n7, 8e1 ,2,-9";
  write_file(scratch("t.csv"), text, strlen(text));
  zg_data *d = opened((zg_data_options){ .path = scratch("t.csv"), .batch_size = 3 });
  ck_assert_str_eq(zg_type_text(zg_data_type(d, 0)), "f32[3,3]");
  ck_assert_str_eq(zg_type_text(zg_data_type(d, 1)), "i64[3]");
  float x[9];
  static const float want[9] = { 1, 2, 3, 4, 5.5f, 6, 7, 80, -9 };
  int64_t y[3];
  ok(zg_data_batch(d, 0, (zg_data_dst[]){ { 0, ZG_F32, x }, { 1, ZG_I64, y } }, 2));
  ck_assert_mem_eq(x, want, sizeof x);
  for (int i = 0; i < 3; i++) ck_assert_int_eq(y[i], i);
  zg_data_close(d);
  d = opened((zg_data_options){ .path = scratch("t.csv"), .batch_size = 3, .label_column = "b, c" });
  ck_assert_str_eq(zg_type_text(zg_data_type(d, 1)), "f32[3]");
  zg_data_close(d);
  zg_data_options o = { .path = scratch("t.csv"), .batch_size = 1, .label_column = "z" };
  fails(zg_data_open(&o, &d), ZG_INVALID, "no column \"z\"");
  static const char *const bad[][2] = { { "1,2\n3\n", ":2: 1 columns, the first line has 2" },
                                        { "1,2\n3,4,5\n", ":2: 3 columns" },
                                        { "a,b\n1,2\n\n3,x\n", ":4: column 2 (b) is \"x\"" },
                                        { "1,2\n,4\n", ":2: column 1" },
                                        { "1\n2\n", "one column" } };
  o.label_column = NULL;
  for (size_t i = 0; i < ZG_COUNT(bad); i++) {
    write_file(scratch("t.csv"), bad[i][0], strlen(bad[i][0]));
    fails(zg_data_open(&o, &d), ZG_INVALID, bad[i][1]);
  }
}
END_TEST

START_TEST(random_batches) {
  zg_data_random in[] = { { "x", zg_type_make(ZG_F32, 2, (int64_t[]){ 50, 41 }), 0 },
                          { "ids", zg_type_make(ZG_I64, 2, (int64_t[]){ 50, 41 }), 10 } };
  zg_data *d = opened((zg_data_options){ .format = "random", .seed = 3, .random = in, .n_random = 2 });
  static float a[2050], b[2050];
  int64_t ids[2050], count[10] = { 0 };
  ok(zg_data_batch(d, 4, (zg_data_dst[]){ { 0, ZG_F32, a }, { 1, ZG_I64, ids } }, 2));
  ok(zg_data_batch(d, 5, &(zg_data_dst){ 0, ZG_F32, b }, 1));
  ck_assert_mem_ne(a, b, sizeof a);
  double sum = 0, squares = 0;
  for (int i = 0; i < 2050; i++) {
    sum += a[i];
    squares += (double)a[i] * a[i];
    ck_assert(ids[i] >= 0 && ids[i] < 10);
    count[ids[i]]++;
  }
  ck_assert_double_eq_tol(sum / 2050, 0, 0.1);
  ck_assert_double_eq_tol(squares / 2050, 1, 0.15);
  for (int i = 0; i < 10; i++) ck_assert(count[i] > 130 && count[i] < 280);
  ok(zg_data_batch(d, 4, &(zg_data_dst){ 0, ZG_F32, b }, 1));
  ck_assert_mem_eq(a, b, sizeof a);
  ck_assert_uint_eq(zg_data_n_samples(d), 0);
  zg_data_close(d);
}
END_TEST

static void fuzz_one(const char *path, zg_data_options o) {
  zg_data *d;
  uint32_t out[4096];
  o.path = path;
  o.batch_size = 2;
  o.seq_len = 3;
  zg_status st = zg_data_open(&o, &d);
  for (size_t a = 0; !st && a < zg_data_n_arrays(d); a++)
    for (uint64_t i = 0; i < 20 && zg_elems(zg_data_type(d, a)) <= 4096; i++)
      zg_status_free(zg_data_batch(d, i * 7, &(zg_data_dst){ a, ZG_F32, out }, 1));
  if (!st) zg_data_close(d);
  zg_status_free(st);
}

// Cut and changed files of every format: a batch or a status, never a crash.
START_TEST(hostile_files) {
  static const struct { const char *name, *format, *bytes; size_t given, n; } files[] = {
    { "f-images-idx3-ubyte", "idx", "\0\0\x08\x03\0\0\0\x02\0\0\0\x02\0\0\0\x02" "abcdefgh", 24, 24 },
    { "f.csv", "csv", "a,\"b\",y\n1,2,3\n4,\"5\",6\n-1e3,2,0\n", 31, 31 },
    { "f.bin", "tokens", "\x88\xd8\x34\x01" "\1\0\0\0\4\0\0\0", 12, 1032 },
    { "f.txt", "text", "some words to read", 18, 18 },
  };
  uint32_t key[2] = { 9, 9 }, r[4];
  quiet(true);
  for (size_t k = 0; k < ZG_COUNT(files); k++) {
    uint8_t bytes[1100] = { 0 };
    const char *path = scratch(files[k].name);
    memcpy(bytes, files[k].bytes, files[k].given);
    for (uint32_t i = 0; i < 600; i++) {
      zg_philox((uint32_t[4]){ i, (uint32_t)k }, key, r);
      size_t at = r[1] % files[k].given;
      uint8_t old = bytes[at];
      if (i % 2) bytes[at] = (uint8_t)r[2];
      write_file(path, bytes, i % 3 ? files[k].n : r[0] % (files[k].n + 1));
      fuzz_one(path, (zg_data_options){ .format = i % 5 ? files[k].format : NULL, .shuffle = i % 4 == 1 });
      bytes[at] = old;
    }
  }
  quiet(false);
}
END_TEST

int main(void) {
  const TTest *tests[] = { hostile_files, permutation, stream_and_ranks, text_windows, token_files, batches_of_an_npz, numpy_samples, mnist,
                           csv, random_batches };
  return run_tests("data", tests, ZG_COUNT(tests));
}
