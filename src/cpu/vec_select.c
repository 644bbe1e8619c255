// Picks the table of vector bodies by what the processor can do.
#include <stdlib.h>
#include "cpu/vec.h"

extern const zg_vec zg_vec_generic;
#if defined(ZG_VEC_X86)
extern const zg_vec zg_vec_v2, zg_vec_v3, zg_vec_v4;

static bool runs_v2(void) { return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt"); }
static bool runs_v3(void) {
  return runs_v2() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}
static bool runs_v4(void) {
  return runs_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

static bool always(void) { return true; }

static const struct { const char *name; const zg_vec *table; bool (*runs)(void); } levels[] = {
#if defined(ZG_VEC_X86)
    {"v4", &zg_vec_v4, runs_v4},
    {"v3", &zg_vec_v3, runs_v3},
    {"v2", &zg_vec_v2, runs_v2},
#endif
    {"generic", &zg_vec_generic, always},
};

const zg_vec *zg_vec_named(const char *name) {
  for (size_t i = 0; i < ZG_COUNT(levels); i++)
    if (strcmp(levels[i].name, name) == 0 && levels[i].runs()) return levels[i].table;
  return NULL;
}

bool zg_vec_has_pairs(const zg_vec *v) {
#if defined(ZG_VEC_X86)
  return v->tile_gemm_pairs && __builtin_cpu_supports("avx512bf16");
#else
  return v->tile_gemm_pairs != NULL;
#endif
}

const zg_vec *zg_vec_select(void) {
  const char *want = getenv("ZG_ISA");
  const zg_vec *named = want && *want ? zg_vec_named(want) : NULL;
  if (named) return named;
  if (want && *want) zg_warn("ZG_ISA=%s: not an instruction-set level that this processor runs (generic, v2, v3, v4)", want);
  for (size_t i = 0; i < ZG_COUNT(levels); i++)
    if (levels[i].runs()) return levels[i].table;
  return &zg_vec_generic;
}
