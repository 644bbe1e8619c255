// checkpoint: the whole state of a run in a folder, from which it goes on bit-exactly, on any number of ranks.
//
//   ROOT/step-00000500/           written as ROOT/.tmp-step-00000500, fsynced, renamed: it is there whole or not at all
//     state.json                  step, position, seed, ...; sizes and header checksums of the two files; its own checksum
//     params.safetensors          whole tensors by ONNX name, a checksum each
//     optimizer.safetensors       whole tensors by names of the optimizer's choice
// A step saved again (a run that resumed before it) becomes step-00000500-2, which counts as newer. A process killed at any
// moment leaves at most a .tmp- folder, which the next save removes.
#pragma once
#include "train/safetensors.h"

typedef struct {
  uint64_t step;               // updates done
  uint64_t samples;            // consumed by all ranks: the position in the data (train/data.h)
  uint64_t seed;
  uint64_t config_hash;        // of what must not change between save and resume
  uint32_t world, stage;       // of the run that saved; nothing in the files depends on them
  double loss_scale;           // fp16; 1 otherwise
  uint64_t loss_scale_good;    // steps without overflow since the last one
  uint64_t loss_scale_hysteresis;   // overflows until the scale halves; 0: the run had no scale
  uint64_t skipped;            // steps that overflowed and changed nothing, of `step`
  double loss;                 // the last one; NaN: none
  double seconds;              // trained so far
} zg_checkpoint_state;

// ---- writing ------------------------------------------------------------------------------------------------------
typedef struct zg_checkpoint_writer zg_checkpoint_writer;
typedef enum { ZG_CKPT_PARAMS, ZG_CKPT_OPTIMIZER, ZG_CKPT_N_FILES } zg_checkpoint_file;
typedef struct { const zg_safetensors_decl *decl; size_t n; } zg_checkpoint_decls;

// Starts a checkpoint of `step` under `root` (made if needed). Every rank calls it with the same declarations, one list per
// file, rank 0 first: the others after it has returned (a barrier is the caller's). A folder on a file system that all see.
zg_status zg_checkpoint_begin(const char *root, uint64_t step, int rank, const zg_checkpoint_decls decls[ZG_CKPT_N_FILES],
                              zg_checkpoint_writer **out);
// Writes bytes [offset, offset + n_bytes) of tensor i of a file, straight from the caller's memory, in any order.
zg_status zg_checkpoint_write(zg_checkpoint_writer *w, zg_checkpoint_file file, size_t i, uint64_t offset, const void *bytes,
                              uint64_t n_bytes);
// Ranks other than 0: ends this rank's part, frees (also when it fails).
zg_status zg_checkpoint_leave(zg_checkpoint_writer *w);
// Rank 0, after all others have left: checksums, state, fsync, rename, then removes older checkpoints until `keep` are left
// (0: all stay). Frees (also when it fails). out_path: the folder, zg_free it; may be NULL.
zg_status zg_checkpoint_commit(zg_checkpoint_writer *w, const zg_checkpoint_state *state, uint64_t keep, char **out_path);
void zg_checkpoint_abandon(zg_checkpoint_writer *w);                   // frees; rank 0 removes what was written; NULL ok

// All of it by one process whose tensors are in host memory.
typedef struct { const char *name; zg_type type; const void *data; } zg_checkpoint_tensor;
zg_status zg_checkpoint_save(const char *root, const zg_checkpoint_state *state, const zg_checkpoint_tensor *params, size_t n_params,
                             const zg_checkpoint_tensor *optimizer, size_t n_optimizer, uint64_t keep, char **out_path);

// A run that starts anew in a folder with an earlier run's checkpoints must not be mistaken for it: moves every ROOT/step-* into
// ROOT/old-K/ with the first K that is free. *out_n: how many; 0: none were there, or no such folder.
zg_status zg_checkpoint_set_aside(const char *root, uint64_t *out_n);

// ---- reading ------------------------------------------------------------------------------------------------------
typedef struct {
  char *path;                                                          // the checkpoint's own folder
  zg_checkpoint_state state;
  zg_safetensors *file[ZG_CKPT_N_FILES];                               // borrowed until close
} zg_checkpoint;

// Opens a checkpoint and checks every byte of it. `path`: its folder, or a folder of checkpoints; then the newest sound one
// is taken and each newer one that is torn or corrupt is named in a warning. ZG_NOT_FOUND: none at all. ZG_CORRUPT: none
// sound; the message is the newest one's.
zg_status zg_checkpoint_open(const char *path, zg_checkpoint *out);
void zg_checkpoint_close(zg_checkpoint *c);
// The folder zg_checkpoint_open would open; zg_free it.
zg_status zg_checkpoint_latest(const char *root, char **out_path);
