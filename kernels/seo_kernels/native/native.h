/* What the files of the CPU kernels have in common. */

#ifndef SEO_NATIVE_H
#define SEO_NATIVE_H

#include <stdint.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_thread_num() 0
#define omp_get_num_threads() 1
#endif

/* Hot loops are compiled for three generations of x86; the loader of the C library picks one. */
#if !defined(__x86_64__) || !defined(__GLIBC__) || !defined(__GNUC__) || defined(__clang__)
#define CLONES
#elif __GNUC__ >= 12
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES __attribute__((target_clones("avx2", "default")))
#endif
#define INLINE static inline __attribute__((always_inline))

/* Common widths as constants, so that a row is one or two vector registers. */
#define BY_WIDTH(width, ...) \
    switch (width) { \
        case 1: { enum { W = 1 }; __VA_ARGS__; break; } \
        case 2: { enum { W = 2 }; __VA_ARGS__; break; } \
        case 4: { enum { W = 4 }; __VA_ARGS__; break; } \
        case 8: { enum { W = 8 }; __VA_ARGS__; break; } \
        case 16: { enum { W = 16 }; __VA_ARGS__; break; } \
        case 32: { enum { W = 32 }; __VA_ARGS__; break; } \
        case 64: { enum { W = 64 }; __VA_ARGS__; break; } \
        default: { const int64_t W = width; __VA_ARGS__; } \
    }

INLINE void add_scaled(float *restrict to, const float *restrict from, float s, int64_t width) {
    for (int64_t i = 0; i < width; i++) to[i] += s * from[i];
}

INLINE void copy_scaled(float *restrict to, const float *restrict from, float s, int64_t width) {
    for (int64_t i = 0; i < width; i++) to[i] = s * from[i];
}

#endif
