// What a compiled kernel and the emulator that runs it share. Included by both; it must stay free of system
// headers, because kernel text is compiled after it and may define names of its own.
#pragma once

typedef struct {
  unsigned x, y, z;
} zg_emu_dim;

// One exchange among the lanes of a warp: what each lane gave.
typedef struct {
  int readers;                     // lanes that have not picked it up yet
  unsigned mask;                   // lanes that took part
  _Alignas(32) char lane[32][64];  // others' records are filled with 0xff: a NaN, or -1
} zg_emu_swap;

enum { ZG_EMU_SYNC, ZG_EMU_OR, ZG_EMU_AND, ZG_EMU_COUNT };

// The running thread and what it may ask for. `site` tells calls in the text apart, so that lanes that meet
// at different calls are seen.
typedef struct {
  zg_emu_dim thread, block, block_dim, grid_dim;
  unsigned lane;
  int (*barrier)(int site, int vote_kind, int vote);
  const zg_emu_swap *(*meet)(unsigned mask, const void *give, unsigned n_bytes, int site);
  void (*trap)(const char *what);
} zg_emu_ctx;
