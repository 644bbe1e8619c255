// Between the writer and the reader of checkpoints.
#pragma once
#include "train/checkpoint.h"

typedef struct { const char *path; uint64_t step, again; } zg__checkpoint_entry;
typedef ZG_VEC(zg__checkpoint_entry) zg__checkpoint_entries;

extern const char *const zg__checkpoint_files[ZG_CKPT_N_FILES];
// "step-00000500" or "step-00000500-2".
bool zg__checkpoint_parse_name(const char *name, uint64_t *step, uint64_t *again);
// All checkpoints under root, newest first; paths in `mem`. ZG_NOT_FOUND: no such folder.
zg_status zg__checkpoint_list(const char *root, zg_arena *mem, zg__checkpoint_entries *out);
// Size of a safetensors file, and the CRC-32 of its length and header.
zg_status zg__checkpoint_header_crc(const char *path, uint64_t *n_bytes, uint32_t *crc);
