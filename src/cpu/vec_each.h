// Part of vec.c: what its loops tell the compiler.
#pragma once

// Iterations are independent, even where a destination is a source.
#if defined(__clang__)
#define NO_CARRIED_DEPENDENCE _Pragma("clang loop vectorize(assume_safety)")
#else
#define NO_CARRIED_DEPENDENCE _Pragma("GCC ivdep")
#endif
