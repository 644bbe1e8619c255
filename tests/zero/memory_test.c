// Planned memory is allocated memory, on every model of the zoo, for every stage, 1 to 8 ranks, f32 and bf16; and a step takes no
// memory: the C library's allocator and mmap are watched here while one runs, for zgraph, oneDNN and OpenMP alike. oneDNN makes a few
// small objects for each call of its own and gives them back (one of its products packs into 72 KiB, hf_vit_tiny), and builds some of its
// code at the first call. So: zgraph itself takes nothing at all, no map ever, and from the second step on the libraries take nothing as
// large as LIBRARY and keep nothing.
#include <dirent.h>
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sim.h"
#include "train/yaml.h"

// ---- the allocator, counted -----------------------------------------------------------------------------------------------
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);
void *malloc(size_t n);
void *calloc(size_t n, size_t size);
void *realloc(void *p, size_t n);
int posix_memalign(void **out, size_t align, size_t n);
void *aligned_alloc(size_t align, size_t n);
enum { LIBRARY = 128 << 10 };
static atomic_bool armed;
static atomic_int n_allocations, n_maps, n_own;
static atomic_size_t largest;

// zgraph is linked into this executable; the libraries are not.
extern const char __executable_start, etext;
static bool ours(const void *caller) { return (const char *)caller >= &__executable_start && (const char *)caller < &etext; }

__attribute__((noinline)) static void count(size_t n, const void *caller) {
  if (!atomic_load(&armed)) return;
  atomic_fetch_add(&n_allocations, 1);
  if (ours(caller)) atomic_fetch_add(&n_own, 1);
  if (n > atomic_load(&largest)) atomic_store(&largest, n);
}
void *mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset) {
  if (atomic_load(&armed)) atomic_fetch_add(&n_maps, 1);
  return (void *)syscall(SYS_mmap, at, n, prot, flags, fd, offset);
}
void *malloc(size_t n) {
  count(n, __builtin_return_address(0));
  return __libc_malloc(n);
}
void *calloc(size_t n, size_t size) {
  count(n * size, __builtin_return_address(0));
  return __libc_calloc(n, size);
}
void *realloc(void *p, size_t n) {
  count(n, __builtin_return_address(0));
  return __libc_realloc(p, n);
}
void *aligned_alloc(size_t align, size_t n) {
  count(n, __builtin_return_address(0));
  return __libc_memalign(align, n);
}
int posix_memalign(void **out, size_t align, size_t n) {
  count(n, __builtin_return_address(0));
  *out = __libc_memalign(align, n);
  return *out ? 0 : ENOMEM;
}

// ---- the zoo --------------------------------------------------------------------------------------------------------------
static char *models[64];
static int n_models;

// The loss of a case.yaml as a setting.
static void add_loss(const char *model, zg_str *out) {
  zg_arena mem = {0};
  zg_str text = {0};
  const zg_yaml *doc;
  sim_must(zg_file_read(zg_arena_printf(&mem, "%s/%s/case.yaml", ZG_TEST_ZOO, model), &text), model);
  sim_must(zg_yaml_parse(&mem, model, text.at, text.n, &doc), model);
  const zg_yaml *loss = zg_yaml_get(doc, "loss");
  ck_assert_msg(loss && loss->kind == ZG_YAML_MAP, "%s: want one loss", model);
  zg_str_add(out, "loss={");
  for (uint32_t i = 0; i < loss->n; i++) {
    const char *quote = loss->vals[i]->kind == ZG_YAML_STR ? "\"" : "";
    zg_str_add(out, "%s%s: %s%s%s", i ? ", " : "", loss->keys[i]->text, quote, loss->vals[i]->text, quote);
  }
  zg_str_add(out, "}");
  zg_str_fini(&text);
  zg_arena_fini(&mem);
}

static zg_config *config_of(const char *model, uint32_t world, uint32_t stage, const char *precision) {
  zg_str text[7] = {0};
  const char *sets[7];
  zg_str_add(&text[0], "model=%s/%s/model.onnx", ZG_TEST_ZOO, model);
  zg_str_add(&text[1], "data.train={path: %s/%s/data.npz, format: batches, shuffle: false}", ZG_TEST_ZOO, model);
  add_loss(model, &text[2]);
  zg_str_add(&text[3], "zero.stage=%u", stage);
  zg_str_add(&text[4], "num_processes=%u", world);
  zg_str_add(&text[5], "mixed_precision=%s", precision);
  zg_str_add(&text[6], "threads=1");
  for (size_t i = 0; i < 7; i++) sets[i] = text[i].at;
  zg_config *cfg;
  sim_must(zg_config_load(NULL, 0, sets, 7, &cfg), model);
  for (size_t i = 0; i < 7; i++) zg_str_fini(&text[i]);
  return cfg;
}

static void check_allocated(const char *model, uint32_t world, uint32_t stage, const char *precision) {
  zg_config *cfg = config_of(model, world, stage, precision);
  const zg_session_options o = {.mode = ZG_RUN_TRAIN, .rank = world - 1, .world = world};
  zg_session *s;
  sim_must(zg_session_open(cfg, &o, &s), model);
  const zg_sched *d = zg_session_sched(s);
  uint64_t planned = 0;
  for (int k = 0; k < ZG_N_SPACES; k++) planned += d->arena_bytes[k];
  const uint64_t allocated = s->device->vt->allocated(s->program);
  ck_assert_msg(planned == allocated, "%s, stage %u, %u ranks, %s: planned %llu bytes, allocated %llu", model, stage, world, precision,
                (unsigned long long)planned, (unsigned long long)allocated);
  for (uint32_t b = 1; b < d->bufs.n; b++)
    ck_assert_msg(d->bufs.at[b].offset + d->bufs.at[b].bytes <= d->arena_bytes[d->bufs.at[b].space], "%s: \"%s\" ends behind the arena", model, d->bufs.at[b].name);
  zg_session_close(s);
  zg_config_free(cfg);
}

START_TEST(planned_is_allocated) {
  static const char *const precisions[] = {"no", "bf16"};
  for (int p = 0; p < 2; p++) {
    check_allocated(models[_i], 1, 0, precisions[p]);
    for (uint32_t stage = 0; stage < 4; stage++)
      for (uint32_t world = 2; world <= 8; world++) check_allocated(models[_i], world, stage, precisions[p]);
  }
}
END_TEST

START_TEST(a_step_allocates_nothing) {
  static const char *const precisions[] = {"no", "bf16"};
  for (int p = 0; p < 2; p++) {
    zg_config *cfg = config_of(models[_i], 1, 0, precisions[p]);
    const zg_session_options o = {.mode = ZG_RUN_TRAIN};
    zg_session *s;
    sim_must(zg_session_open(cfg, &o, &s), models[_i]);
    size_t least_kept = SIZE_MAX;   // of the later steps: other threads may be taking and giving back as this one counts
    for (int step = 0; step < 5; step++) {
      sim_must(zg_session_feed(s, s->train, 0), models[_i]);
      atomic_store(&n_allocations, 0), atomic_store(&n_maps, 0), atomic_store(&largest, 0), atomic_store(&n_own, 0);
      const size_t before = mallinfo2().uordblks;
      atomic_store(&armed, true);
      zg_status status = zg_exec_run(s->program, "step", (zg_rand_state){{1, 2}, (uint32_t)step}, NULL);
      atomic_store(&armed, false);
      sim_must(status, models[_i]);
      if (step) least_kept = ZG_MIN(least_kept, (size_t)(mallinfo2().uordblks - before));
      ck_assert_msg(atomic_load(&n_maps) == 0 && (step == 0 || atomic_load(&largest) < LIBRARY),
                    "%s, %s, step %d: %d allocations of up to %zu bytes, %d maps", models[_i], precisions[p], step,
                    atomic_load(&n_allocations), atomic_load(&largest), atomic_load(&n_maps));
      ck_assert_msg(atomic_load(&n_own) == 0, "%s, %s, step %d: %d allocations by zgraph itself", models[_i], precisions[p], step, atomic_load(&n_own));
    }
    ck_assert_msg(least_kept == 0, "%s, %s: every step keeps at least %zu bytes", models[_i], precisions[p], least_kept);
    zg_session_close(s);
    zg_config_free(cfg);
  }
}
END_TEST

// The counting is real: what is allocated between is seen.
START_TEST(allocations_are_seen) {
  atomic_store(&n_allocations, 0), atomic_store(&n_own, 0);
  atomic_store(&armed, true);
  void *p = zg_alloc(100);
  atomic_store(&armed, false);
  zg_free(p);
  ck_assert_int_eq(atomic_load(&n_allocations), 1);
  ck_assert_int_eq(atomic_load(&n_own), 1);
}
END_TEST

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int main(void) {
  DIR *dir = opendir(ZG_TEST_ZOO);
  for (struct dirent *e; dir && (e = readdir(dir)) && n_models < 64;) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s/case.yaml", ZG_TEST_ZOO, e->d_name);
    if (zg_file_exists(path)) models[n_models++] = strdup(e->d_name);
  }
  if (dir) closedir(dir);
  qsort(models, (size_t)n_models, sizeof *models, by_name);
  Suite *s = suite_create("memory");
  TCase *t = tcase_create("all");
  tcase_set_timeout(t, 120);
  tcase_add_test(t, allocations_are_seen);
  tcase_add_loop_test(t, planned_is_allocated, 0, n_models);
  tcase_add_loop_test(t, a_step_allocates_nothing, 0, n_models);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  const int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed || n_models < 17;
}
