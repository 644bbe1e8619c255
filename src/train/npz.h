// npz: numpy arrays in files. Reads .npy and .npz (zip archives, stored or deflated, zip64), told apart by content;
// writes .npz. Stored arrays are used where they lie in the mapped file; deflated, misaligned and Fortran-ordered ones
// are read into memory of their own when first asked for. Every offset and size of a file is checked before it is
// followed, so a damaged or hostile file gives a status and never a crash. One thread per open file at a time.
//
// Element types: f2 f4 f8, i1..i8, u1..u8, b1, and V2, which is how numpy writes ml_dtypes' bfloat16. Big-endian,
// complex, string, object and structured arrays are refused by name. Format: numpy.lib.format (versions 1, 2, 3) and
// PKWARE's APPNOTE.TXT.
#pragma once
#include "graph/type.h"

// ---- reading ------------------------------------------------------------------------------------------------------
typedef struct zg_npz zg_npz;

// Opens a file; the arrays' names and types are read, their elements are not. In an .npz an array's name is the member's
// without ".npy"; members that are no arrays are skipped with a warning. The one array of an .npy is named like the file
// without folder and extension. ZG_NOT_FOUND, ZG_CORRUPT, ZG_UNSUPPORTED, ZG_IO; the message names file and array.
zg_status zg_npz_open(const char *path, zg_npz **out);
void zg_npz_close(zg_npz *f);                                  // NULL ok; ends all that was borrowed from it

size_t zg_npz_count(const zg_npz *f);
const char *zg_npz_name(const zg_npz *f, size_t i);            // borrowed
const zg_type *zg_npz_type(const zg_npz *f, size_t i);         // borrowed; row-major shape as numpy shows it
int64_t zg_npz_find(const zg_npz *f, const char *name);        // index, or -1
const char *zg_npz_path(const zg_npz *f);

// The elements of array i in row-major order, aligned for their type; borrowed until close; read-only. The checksum the
// archive has for it is checked the first time (so the whole array is read once). ZG_CORRUPT, ZG_OUT_OF_MEMORY.
zg_status zg_npz_tensor(zg_npz *f, size_t i, zg_tensor *out);
// The same array by name; ZG_NOT_FOUND lists what the file has.
zg_status zg_npz_get(zg_npz *f, const char *name, zg_tensor *out);
// The same bytes without the check and perhaps misaligned: nothing of a stored array is read until it is touched. For
// data sets larger than memory.
zg_status zg_npz_bytes(zg_npz *f, size_t i, zg_bytes *out);
// The mapped file, whose pages may be forgotten (zg_file_map_forget) at any time.
zg_bytes zg_npz_map(const zg_npz *f);

// ---- writing ------------------------------------------------------------------------------------------------------
typedef struct zg_npz_writer zg_npz_writer;

// Starts an archive beside `path`; nothing is at `path` before zg_npz_finish. Members are stored, each array's elements
// at a multiple of 64 bytes, so that it can be mapped. bf16 is written as f32 (numpy has no bf16; no value changes).
zg_status zg_npz_create(const char *path, zg_npz_writer **out);
// Adds a whole array straight from its memory.
zg_status zg_npz_put(zg_npz_writer *w, const char *name, const zg_tensor *t);
// Or in pieces: begin, then write all of the array's elements in order in calls of any size, then the next begin or
// finish. `n_elems` counts elements of the type given to begin. ZG_INVALID for a name used before.
zg_status zg_npz_begin(zg_npz_writer *w, const char *name, const zg_type *type);
zg_status zg_npz_write(zg_npz_writer *w, const void *elems, uint64_t n_elems);
// Writes the directory, fsyncs, renames to the path, and frees the writer, also when it fails (then `path` is as before).
zg_status zg_npz_finish(zg_npz_writer *w);
void zg_npz_abandon(zg_npz_writer *w);                         // removes what was written; NULL ok

// ---- shared with the other readers of this room -------------------------------------------------------------------
// Parses an .npy header at the start of `b`: type, order, and how many bytes it takes. `name` is for messages.
zg_status zg__npy_header(zg_bytes b, const char *name, zg_type *out_type, bool *out_fortran, uint64_t *out_n_bytes);
// The header (a multiple of 64 bytes) for an array; bf16 becomes f32. Appends to `out`.
void zg__npy_header_make(const zg_type *t, zg_str *out);
