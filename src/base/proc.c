// This process: clock and memory.
#include "base/base.h"
#include <malloc.h>
#include <stdio.h>
#include <time.h>

double zg_time_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// A "Vm...: n kB" line of a file of /proc, in bytes; 0 where there is no such file or line.
static uint64_t file_line(const char *path, const char *key) {
  FILE *f = fopen(path, "re");
  if (!f) return 0;
  char line[256];
  unsigned long long kb = 0;
  size_t n = strlen(key);
  while (fgets(line, sizeof line, f))
    if (!strncmp(line, key, n) && sscanf(line + n, " %llu", &kb) == 1) break;
  fclose(f);
  return (uint64_t)kb * 1024;
}

uint64_t zg_proc_peak_bytes(void) { return file_line("/proc/self/status", "VmHWM:"); }

// VmRSS is summed from counters that each thread settles now and then; smaps_rollup walks the pages.
uint64_t zg_proc_resident_bytes(void) {
  const uint64_t exact = file_line("/proc/self/smaps_rollup", "Rss:");
  return exact ? exact : file_line("/proc/self/status", "VmRSS:");
}

uint64_t zg_proc_heap_bytes(void) {
  const struct mallinfo2 m = mallinfo2();
  return m.uordblks + m.hblkhd;
}

void zg_proc_trim(void) { malloc_trim(0); }
