// safetensors: named tensors in one file. Reading maps the file and checks every offset before anything is followed.
// Writing fixes names and types first; then any tensor's byte ranges come in any order, from any number of processes that
// opened the same path, and one of them finishes the file: until then its header is missing and no reader takes it.
//
//   [u64 header length][JSON header, padded so that the data start at a multiple of 64][tensors, no gaps]
// Widest element types come first, so every tensor is aligned for its type. The header's __metadata__ holds "crc32:NAME" for
// every tensor, 8 hex digits of the CRC-32 of its bytes. Source: github.com/huggingface/safetensors, "Format".
#pragma once
#include "graph/type.h"

typedef struct { const char *key, *value; } zg_safetensors_meta;

// ---- reading ------------------------------------------------------------------------------------------------------
typedef struct zg_safetensors zg_safetensors;

// ZG_NOT_FOUND, ZG_IO, ZG_CORRUPT (cut off, not finished, offsets that contradict the types or each other),
// ZG_UNSUPPORTED (an element type outside zgraph); the message names file and tensor.
zg_status zg_safetensors_open(const char *path, zg_safetensors **out);
void zg_safetensors_close(zg_safetensors *f);                          // NULL ok; ends all that was borrowed

size_t zg_safetensors_count(const zg_safetensors *f);
const char *zg_safetensors_name(const zg_safetensors *f, size_t i);    // in the order of the file; borrowed
const zg_type *zg_safetensors_type(const zg_safetensors *f, size_t i);
int64_t zg_safetensors_find(const zg_safetensors *f, const char *name);         // index, or -1
const char *zg_safetensors_metadata(const zg_safetensors *f, const char *key);  // NULL: not there
// The mapped bytes. Aligned for their type in files written here; elsewhere perhaps not: then use zg_safetensors_read.
zg_bytes zg_safetensors_bytes(const zg_safetensors *f, size_t i);
// Copies a range of bytes of tensor i; ZG_INVALID outside of it.
zg_status zg_safetensors_read(const zg_safetensors *f, size_t i, uint64_t offset, uint64_t n_bytes, void *dst);
// Reads everything and compares the checksums, where the file has them. ZG_CORRUPT names the first wrong tensor.
zg_status zg_safetensors_check(const zg_safetensors *f);

// ---- writing ------------------------------------------------------------------------------------------------------
typedef struct { const char *name; zg_type type; } zg_safetensors_decl;
typedef struct zg_safetensors_writer zg_safetensors_writer;

// Opens `path` for writing, creating it at its full size; every process that takes part calls this with the same
// declarations and metadata, in any order. Strings are copied. ZG_INVALID for two tensors of one name.
zg_status zg_safetensors_create(const char *path, const zg_safetensors_decl *decl, size_t n, const zg_safetensors_meta *meta,
                                size_t n_meta, zg_safetensors_writer **out);
uint64_t zg_safetensors_file_bytes(const zg_safetensors_writer *w);    // of the finished file
// Writes bytes [offset, offset + n_bytes) of tensor i (index of the declarations). Straight from the caller's memory.
zg_status zg_safetensors_write(zg_safetensors_writer *w, size_t i, uint64_t offset, const void *bytes, uint64_t n_bytes);
// Ends this process's part: fsync, close, free (also when it fails).
zg_status zg_safetensors_leave(zg_safetensors_writer *w);
// Ends the file, after all others have left: checksums (tensors that this process wrote whole and in order are not read
// again), header, fsync; frees (also when it fails).
zg_status zg_safetensors_finish(zg_safetensors_writer *w);
void zg_safetensors_abandon(zg_safetensors_writer *w);                 // closes and frees; the file stays unfinished; NULL ok

// The whole of it by one process: for each tensor `fill` is called with pieces of at most 4 MiB in order and puts the bytes
// into buf. For tensors that are not in host memory.
zg_status zg_safetensors_write_all(const char *path, const zg_safetensors_decl *decl, size_t n, const zg_safetensors_meta *meta,
                                   size_t n_meta,
                                   zg_status (*fill)(void *arg, size_t i, uint64_t offset, uint64_t n_bytes, void *buf),
                                   void *arg);

// ---- shared -------------------------------------------------------------------------------------------------------
const char *zg__safetensors_dtype_name(zg_dtype t);                    // "F32", "BF16", ...
void zg__json_quote(zg_str *out, const char *s);                       // with the quotes
