// This process: clock and memory.
#include "base/base.h"
#include <stdio.h>
#include <time.h>

double zg_time_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// A "Vm...: n kB" line of /proc/self/status, in bytes; 0 where there is no such file or line.
static uint64_t status_line(const char *key) {
  FILE *f = fopen("/proc/self/status", "re");
  if (!f) return 0;
  char line[256];
  unsigned long long kb = 0;
  size_t n = strlen(key);
  while (fgets(line, sizeof line, f))
    if (!strncmp(line, key, n) && sscanf(line + n, " %llu", &kb) == 1) break;
  fclose(f);
  return (uint64_t)kb * 1024;
}

uint64_t zg_proc_peak_bytes(void) { return status_line("VmHWM:"); }
uint64_t zg_proc_resident_bytes(void) { return status_line("VmRSS:"); }
