// The schema: one row per key. Private to src/train/config*.c, schema.c, accelerate.c, deepspeed.c and their tests.
#pragma once
#include <math.h>

#include "train/config.h"
#include "train/yaml.h"

typedef enum {
  ZG_KEY_BOOL,      // bool
  ZG_KEY_INT,       // int64_t; a float with an integral value is fine
  ZG_KEY_FLOAT,     // double
  ZG_KEY_STR,       // const char *
  ZG_KEY_ENUM,      // int (an enum); choices
  ZG_KEY_COUNT,     // int64_t; a number, or one of choices: -1 for the first, -2 for the second
  ZG_KEY_BYTES,     // int64_t; 16GiB, 512MB, 1.5GiB, plain bytes
  ZG_KEY_PAIR,      // double[2]
  ZG_KEY_STRS,      // zg_cfg_strs; one string is a list of one
  ZG_KEY_STR_MAP,   // zg_cfg_str_map
  ZG_KEY_INT_MAP,   // zg_cfg_int_map
  ZG_KEY_NAME_SETS, // zg_cfg_groups_of_names
  ZG_KEY_DROPOUT,   // {zg_cfg_dropout_mode, double}
  ZG_KEY_LIST,      // {void *at; size_t n} of structs described by `sub`; one mapping is a list of one
} zg_key_kind;

typedef struct zg_key_table zg_key_table;
typedef struct {
  const char *path;              // "optimizer.lr"
  zg_key_kind kind;
  uint32_t offset;               // in zg_config, or in the list's struct
  const char *def;               // default as YAML; NULL: unset
  const char *doc;               // one line
  const char *const *choices;    // ENUM: names in enum order; COUNT: other values; NULL-terminated
  double min, max;               // INT, COUNT, FLOAT, BYTES, PAIR; no bounds if both are 0
  uint32_t when;                 // bit mask over the section's `type` / `kind` for which the key has a meaning; 0: always
  const zg_key_table *sub;       // LIST
} zg_key;
struct zg_key_table { const zg_key *keys; size_t n, size; const char *selector; };   // selector: "kind" or "type" row of a list's struct

extern const zg_key_table zg__config_table, zg__loss_table, zg__group_table;

// Defaults that depend on optimizer.type; they stand before the row's own.
typedef struct { zg_cfg_opt_type type; const char *key, *def; } zg_type_default;
extern const zg_type_default zg__opt_defaults[];
extern const size_t zg__n_opt_defaults;

// Index of a row, or -1.
int zg__key_find(const zg_key_table *t, const char *path);
static inline void *zg__key_at(const zg_key *k, const void *base) { return (char *)base + k->offset; }

// Sets one row from a node and records its origin; null gives the default back. `base` is the row's struct.
zg_status zg__key_set(zg_arena *mem, const zg_key_table *t, int row, void *base, const zg_yaml *value, const char *origin);
// Fills a zeroed struct with the table's defaults.
void zg__key_defaults(zg_arena *mem, const zg_key_table *t, void *base);
// The value as YAML flow text ("null" where unset), appended.
void zg__key_text(const zg_key *k, const void *base, zg_str *out);
// file:line:col of a node.
const char *zg__key_origin(zg_arena *mem, const zg_yaml *at);
bool zg__key_is_default(const char *origin);

// Adds a sentence to cfg->notes, once.
void zg__config_note(zg_config *cfg, const char *fmt, ...) ZG_PRINTF(2, 3);
// Applies a document node at a dotted prefix ("" or "zero"): sections recurse, rows are set, other keys are errors.
zg_status zg__config_apply(zg_config *cfg, const char *prefix, const zg_yaml *map);
// What follows from the values together: defaults that depend on others, then all checks across keys.
zg_status zg__config_finish(zg_config *cfg);
// Status ZG_INVALID that starts with the key's origin.
zg_status zg__config_error(const zg_config *cfg, const char *key, const char *fmt, ...) ZG_PRINTF(3, 4) ZG_MUST_USE;

// ---- foreign keys: Accelerate's YAML, DeepSpeed's JSON ------------------------------------------------------------
typedef enum {
  ZG_FATE_HONOURED,    // means here what it means there: row `to` takes the value
  ZG_FATE_MAPPED,      // becomes something else here: `note` says what
  ZG_FATE_NO_MEANING,  // accepted; nothing here it could change
  ZG_FATE_REFUSED,     // an error unless its value is one of `harmless`
} zg_key_fate;

typedef struct {
  const char *path;              // below the section, dotted; a final ".*" covers the section itself and everything below
  zg_key_fate fate;
  const char *to;                // row of zg__config_table that takes the value, or NULL
  const char *note;              // for the manual and in messages; why, and what to do instead
  const char *harmless;          // REFUSED: values that ask for nothing, a '|' list of scalars (null always is)
  zg_status (*apply)(zg_config *cfg, const zg_yaml *val, const char *origin);   // MAPPED: instead of `to`
} zg_foreign_key;
// Rows of the tables.
#define NOTED(p, row, note) {p, ZG_FATE_HONOURED, row, note, NULL, NULL}
#define SAME(p, row) NOTED(p, row, NULL)
#define MAPPED(p, row, f, note) {p, ZG_FATE_MAPPED, row, note, NULL, f}
#define NOTHING(p, note) {p, ZG_FATE_NO_MEANING, NULL, note, NULL, NULL}
#define REFUSED(p, ok, note) {p, ZG_FATE_REFUSED, NULL, note, ok, NULL}
typedef struct {
  const char *name;              // for messages: "deepspeed_config"
  const char *title;             // for the manual
  bool lenient;                  // the owner ignores unknown keys: a warning here; else an error
  const zg_foreign_key *keys;
  size_t n;
} zg_foreign_table;

extern const zg_foreign_table zg__accelerate_top, zg__accelerate_deepspeed, zg__accelerate_fsdp, zg__accelerate_parallel;
extern const zg_foreign_table zg__deepspeed_json;

// What loading must remember until all documents are read.
typedef struct zg__config_state {
  zg_cfg_distributed_type type;            // resolved before any section is applied
  bool json_given;                         // a DeepSpeed JSON was read: its `stage` defaults to 0, not 2
  zg_cfg_mixed_precision json_precision;
  const char *json_precision_origin;       // NULL: the JSON says nothing of precision
  const char *json_name;                   // values from here may not be contradicted by the YAML beside it
  bool not_adamw;                          // DeepSpeed's Adam with adam_w_mode: false
  const char *scheduler_origin;            // a DeepSpeed scheduler was named here
  bool warmup_steps_auto, warmup_max_lr_auto;
  const char *reshard;                     // fsdp_reshard_after_forward or fsdp_sharding_strategy, upper case; NULL: default
  const char *reshard_origin;
} zg__config_state;

// Applies a foreign mapping by its table.
zg_status zg__foreign_apply(zg_config *cfg, const zg_foreign_table *t, const zg_yaml *map);
// Sets a row of ours from text, as if `origin` had said so.
void zg__config_set_text(zg_config *cfg, const char *key, const char *text, const char *origin);

// What `accelerate launch` has put into the environment, as a document; NULL: it has not. Comes before all files.
zg_status zg__accelerate_env(zg_config *cfg, const zg_yaml **out);
// Looks at all documents for what decides how sections are read (distributed_type), before any is applied.
zg_status zg__accelerate_begin(zg_config *cfg, const zg_yaml *const *docs, size_t n);
// Applies one top-level entry if it is Accelerate's own; *taken false: not theirs.
zg_status zg__accelerate_entry(zg_config *cfg, const zg_yaml *key, const zg_yaml *val, bool *taken);
zg_status zg__accelerate_end(zg_config *cfg);                 // after all documents: the stage that distributed_type means
// Whether a document is a DeepSpeed JSON file itself; reading one; `deepspeed_config_file:` (a path, JSON text, base64 of it).
bool zg__deepspeed_is_json(const zg_yaml *doc);
zg_status zg__deepspeed_apply(zg_config *cfg, const zg_yaml *doc);
void zg__deepspeed_end(zg_config *cfg);                       // defaults of DeepSpeed's scheduler, if it was not overridden
zg_status zg__deepspeed_file(zg_config *cfg, const zg_yaml *val);
