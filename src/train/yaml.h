// yaml: a document tree for configuration files, read from YAML (libyaml's events) or from JSON with comments. Every node
// knows its place (file, line, column), so that any later message can show the line and a caret. Scalars are resolved
// exactly as PyYAML's safe_load does (YAML 1.1): `no` and `off` are booleans, `'no'` and `1e9` are strings, `010` is 8,
// `1:30` is 90. Duplicate keys are errors; `<<` merges; aliases share nodes, and a document whose aliases would expand to
// more than 100 000 nodes, nest deeper than 64 or contain themselves is refused.
#pragma once
#include "base/base.h"

typedef enum { ZG_YAML_NULL, ZG_YAML_BOOL, ZG_YAML_INT, ZG_YAML_FLOAT, ZG_YAML_STR, ZG_YAML_SEQ, ZG_YAML_MAP } zg_yaml_kind;

// Where text came from: a file, or a --set argument. `text` is n bytes and need not end in NUL.
typedef struct { const char *name, *text; size_t n; } zg_yaml_source;

typedef struct zg_yaml zg_yaml;
struct zg_yaml {
  zg_yaml_kind kind;
  bool quoted;                // a quoted or block scalar, or any JSON string
  uint32_t line, col;         // 1-based; col counts characters
  const zg_yaml_source *src;
  const char *text;           // scalars: the text as written, quotes and escapes undone
  int64_t i;                  // BOOL (0 or 1) and INT
  double f;                   // INT and FLOAT
  uint32_t n;                 // entries of SEQ and MAP
  zg_yaml **keys, **vals;     // MAP: both; SEQ: vals only
  uint64_t weight;            // nodes below and including this one, aliases expanded
};

// Parse one document; an empty one is a NULL node. `name` and `text` are copied into `mem`, where the tree lives too.
// ZG_INVALID with "name:line:col: ..." and a caret line for every error of syntax, tag, alias or duplicate key.
zg_status zg_yaml_parse(zg_arena *mem, const char *name, const char *text, size_t n, const zg_yaml **out);
// The same for JSON; `//`, `#` and `/* */` comments and commas before a closing bracket are allowed (DeepSpeed reads its
// files with hjson). Numbers follow JSON: 1e9 is a float here.
zg_status zg_json_parse(zg_arena *mem, const char *name, const char *text, size_t n, const zg_yaml **out);

// The value of a string key of a MAP, or NULL.
const zg_yaml *zg_yaml_get(const zg_yaml *map, const char *key);
const char *zg_yaml_kind_name(zg_yaml_kind k);               // "a boolean", "an integer", ... for messages

// ZG_INVALID: "file:line:col: message", the source line and a caret below the node.
#define zg_yaml_error(at, ...) zg__yaml_error((at)->src, (at)->line, (at)->col, __VA_ARGS__)
zg_status zg__yaml_error(const zg_yaml_source *src, uint32_t line, uint32_t col, const char *fmt, ...)
    ZG_PRINTF(4, 5) ZG_MUST_USE;

// Shared by the two readers: source and nodes in the arena, and the check for a key that is already there.
zg_yaml_source *zg__yaml_source(zg_arena *mem, const char *name, const char *text, size_t n);
zg_yaml *zg__yaml_node(zg_arena *mem, const zg_yaml_source *src, zg_yaml_kind kind, uint32_t line, uint32_t col);
zg_status zg__yaml_check_duplicates(const zg_yaml *map);
