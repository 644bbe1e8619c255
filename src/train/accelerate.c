// Accelerate's files: the keys of its YAML that are not ours.
#include "train/config_priv.h"

const zg_foreign_table zg__accelerate_top = {"Accelerate", NULL, 0};

zg_status zg__accelerate_begin(zg_config *cfg, const zg_yaml *const *docs, size_t n) {
  (void)cfg, (void)docs, (void)n;
  return NULL;
}

zg_status zg__accelerate_entry(zg_config *cfg, const zg_yaml *key, const zg_yaml *val, bool *taken) {
  (void)cfg, (void)key, (void)val;
  *taken = false;
  return NULL;
}

zg_status zg__accelerate_end(zg_config *cfg) {
  (void)cfg;
  return NULL;
}
