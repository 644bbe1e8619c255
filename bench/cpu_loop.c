// Bandwidth of the CPU device's loop kernels on 16 M f32 elements: bytes of arguments read and written, by the clock and (for busy
// machines) by processor time; best of several runs.
// usage: cpu_loop [threads]
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "exec/exec.h"

typedef struct { const char *name, *text; uint32_t n_args, n_out, vectors, scalars, in_place; int bytes; } row;
// vectors: arguments that have the last dim only; scalars: one element; in_place: outputs o that overwrite input n_out + o.
static const row rows[] = {
    {"add", "space 16777216 outer 0 mid 0 { 0 = load 1; 1 = load 2; 2 = add 0 1; store 2 -> 0 }", 3, 1, 0, 0, 0, 12},
    {"gelu(x*w+b)*m", "space 16384,1024 outer 1 mid 0 { 0 = load 1; 1 = load 2; 2 = load 3; 3 = load 4; 4 = mul 0 1; 5 = add 4 2; 6 = gelu 5; "
     "7 = mul 6 3; store 7 -> 0 }", 5, 1, 0xC, 0, 0, 12},
    {"softmax", "space 16384,1024 outer 1 mid 0 { 0 = load 1; 1.row = reduce max 0; 2 = sub 0 1; 3 = exp 2; 4.row = reduce sum 3; "
     "5.row = recip 4; 6 = mul 3 5; store 6 -> 0 }", 2, 1, 0, 0, 0, 8},
    {"softmax, 50257 wide", "space 320,50257 outer 1 mid 0 { 0 = load 1; 1.row = reduce max 0; 2 = sub 0 1; 3 = exp 2; 4.row = reduce sum 3; "
     "5.row = recip 4; 6 = mul 3 5; store 6 -> 0 }", 2, 1, 0, 0, 0, 8},
    {"layernorm", "space 21845,768 outer 1 mid 0 { 0 = load 1; 1.row = const 0.0013020833333333333; 2.row = reduce sum 0; 3.row = mul 2 1; "
     "4 = sub 0 3; 5 = mul 4 4; 6.row = reduce sum 5; 7.row = mul 6 1; 8.row = const 1e-05; 9.row = add 7 8; 10.row = rsqrt 9; "
     "11 = mul 4 10; 12 = load 2; 13 = mul 11 12; 14 = load 3; 15 = add 13 14; store 15 -> 0 }", 4, 1, 0xC, 0, 0, 8},
    {"layernorm backward", "space 16384,1024 outer 1 mid 0 { 0 = load 1; 1 = load 2; 2 = load 3; 3 = mul 0 2; 4 = mul 3 1; 5.row = reduce sum 3; "
     "6.row = reduce sum 4; 7.row = const 0.0009765625; 8.row = mul 5 7; 9.row = mul 6 7; 10 = mul 1 9; 11 = sub 3 8; 12 = sub 11 10; "
     "store 12 -> 0 }", 4, 1, 0x8, 0, 0, 12},
    {"adamw", "space 16777216 outer 0 mid 0 { 0 = load 3; 1 = load 4; 2 = load 5; 3 = load 6; 4 = load 7; 5 = load 8; 6 = load 9; "
     "7.row = const 0.90000000000000002; 8.row = const 0.10000000000000001; 9 = mul 1 7; 10 = fma 3 8 9; 11.row = const 0.94999999999999996; "
     "12.row = const 0.050000000000000003; 13 = mul 3 3; 14 = mul 13 12; 15 = fma 2 11 14; 16 = mul 10 5; 17 = mul 15 6; 18 = sqrt 17; "
     "19.row = const 1e-08; 20 = add 18 19; 21 = div 16 20; 22.row = const 0.10000000000000001; 23 = fma 0 22 21; 24 = mul 23 4; 25 = sub 0 24; "
     "store 25 -> 0; store 10 -> 1; store 15 -> 2 }", 10, 3, 0, 0x380, 7, 28},
    {"column sum", "space 16384,1024 outer 0 mid 1 { 0 = load 1; 1.row = reduce sum 0; store.row 1 -> 0 }", 2, 1, 1, 0, 0, 4},
    {"sum of squares", "space 16777216 outer 0 mid 0 { 0 = load 1; 1 = mul 0 0; 2.row = reduce sum 1; store.row 2 -> 0 }", 2, 1, 0, 1, 0, 4},
    {"dropout", "space 16777216 outer 0 mid 0 { 0 = load 1; 1.int = index 0 1; 2 = random 0 1 7; 3.row = const 0.10000000000000001; 4.int = le:f32 3 2; "
     "5.row = const 1.1111111; 6.row = const 0; 7 = where 4 5 6; 8 = mul 0 7; store 8 -> 0 }", 2, 1, 0, 0, 0, 8},
};

static void die(zg_status s) {
  if (!s) return;
  fprintf(stderr, "%s\n", zg_status_message(s));
  exit(1);
}

static uint32_t add_buf(zg_sched *s, int64_t n) {
  const zg_buf b = {.name = "b", .bytes = (uint64_t)n * 4, .dtype = ZG_F32, .type = zg_type_make(ZG_F32, 1, &n), .persistent = true};
  return zg_sched_add_buf(s, &b);
}

static void make_args(zg_sched *s, const row *r, const zg_loop_desc *d, zg_view *args) {
  for (uint32_t i = 0; i < r->n_args; i++) {
    zg_view v = {.dtype = ZG_F32, .rank = d->rank};
    int64_t st = 1;
    for (uint32_t k = d->rank; k-- > 0;) {
      v.dim[k] = d->dim[k];
      if (r->scalars >> i & 1 || (r->vectors >> i & 1 && k + 1 < d->rank)) continue;
      v.stride[k] = st;
      st *= d->dim[k];
    }
    v.buf = i >= r->n_out && r->in_place >> (i - r->n_out) & 1 ? args[i - r->n_out].buf : add_buf(s, st);
    args[i] = v;
  }
}

static double cpu_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void fill(zg_program *p) {
  static float piece[4096];
  uint32_t x = 1;
  for (uint32_t b = 1; b < p->sched->bufs.n; b++)
    for (uint64_t at = 0; at < p->sched->bufs.at[b].bytes; at += sizeof piece) {
      for (int i = 0; i < 4096; i++) piece[i] = (float)(x = x * 1664525 + 1013904223) * 0x1p-32f;
      die(p->device->vt->write(p, b, at, piece, ZG_MIN(sizeof piece, p->sched->bufs.at[b].bytes - at)));
    }
}

static void run(zg_device *dev, const row *r) {
  zg_arena a = {0};
  void *desc = NULL;
  zg_view args[16];
  zg_sched *s = zg_sched_new();
  zg_program *p = NULL;
  die(zg_loop_parse(r->text, &a, &desc));
  make_args(s, r, desc, args);
  const zg_kernel k = {.kind = ZG_K_LOOP, .desc = desc, .args = args, .n_args = r->n_args, .n_out = r->n_out, .label = r->name};
  zg_sched_add_kernel(s, &k, sizeof(zg_loop_desc));
  die(zg_exec_add_workspaces(dev, s));
  for (uint32_t i = 1; i < s->bufs.n; i++) {
    s->bufs.at[i].offset = s->arena_bytes[0];
    s->arena_bytes[0] += zg_round_up(s->bufs.at[i].bytes, ZG_BUF_ALIGN);
  }
  die(dev->vt->prepare(dev, s, &p));
  fill(p);
  double best = 1e9, best_cpu = 1e9;
  for (int i = 0; i < 30; i++) {
    const double t = zg_time_s(), c = cpu_s();
    die(dev->vt->run_kernel(p, 0, (zg_rand_state){{1, 2}, 3}));
    best = ZG_MIN(best, zg_time_s() - t);
    best_cpu = ZG_MIN(best_cpu, cpu_s() - c);
  }
  printf("%-22s %8.2f ms %6.1f GB/s   processor time %8.2f ms %6.1f GB/s\n", r->name, best * 1e3, 16777216.0 * r->bytes / best * 1e-9,
         best_cpu * 1e3, 16777216.0 * r->bytes / best_cpu * 1e-9);
  dev->vt->program_free(p);
  zg_sched_free(s);
  zg_arena_fini(&a);
}

int main(int argc, char **argv) {
  zg_device *dev = NULL;
  die(zg_device_cpu.open(argc > 1 ? atoi(argv[1]) : 1, &dev));
  zg_device_info info;
  dev->vt->info(dev, &info);
  printf("%s\n", info.text);
  for (size_t i = 0; i < ZG_COUNT(rows); i++) run(dev, &rows[i]);
  dev->vt->close(dev);
  return 0;
}
