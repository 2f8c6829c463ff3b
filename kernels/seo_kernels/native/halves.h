/* Floats of 16 bits in rows of tables: their values, and rounding that is right on average.

   The definition is row_bag/rounding.py; this does the same to the bit. */

#ifndef SEO_HALVES_H
#define SEO_HALVES_H

#include "native.h"

enum { FLOAT32, FLOAT16, BFLOAT16 };
enum { IN_BLOCK = 8 }; /* numbers of 16 bits that one step of the counter gives */

/* The one common width of these rows as a constant; each one more costs seconds of compilation. */
#define BY_WIDTH_OF_HALVES(width, ...) \
    if (width == 16) { \
        enum { W = 16 }; \
        __VA_ARGS__; \
    } else { \
        const int64_t W = width; \
        __VA_ARGS__; \
    }

INLINE float as_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

INLINE uint32_t as_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* The float32 of 16 bits. A float16 below 2^-14 has no leading 1, which is put there and taken
   away again. */
INLINE float widened(uint16_t h, int type) {
    if (type == BFLOAT16) return as_float((uint32_t)h << 16);
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, size = (uint32_t)(h & 0x7FFF) << 13;
    const float small = as_float(size + (113u << 23)) - as_float(113u << 23);
    const uint32_t normal = size + (112u << 23), special = size | 0x7F800000;
    const uint32_t bits = size < (1u << 23) ? as_bits(small) : size < (31u << 23) ? normal : special;
    return as_float(sign | bits);
}

INLINE uint16_t rounded_bfloat16(float x, uint32_t random) {
    const uint32_t bits = as_bits(x), sign = bits >> 16 & 0x8000, size = bits & 0x7FFFFFFF;
    uint32_t half = (size + (size < 0x7F800000 ? random : 0)) >> 16;
    half = size > 0x7F800000 ? 0x7FC0 : half;
    return (uint16_t)(sign | half);
}

INLINE uint16_t rounded_float16(float x, uint32_t random) {
    const uint32_t bits = as_bits(x), sign = bits >> 16 & 0x8000, size = bits & 0x7FFFFFFF;
    const uint32_t exponent = size >> 23;
    const uint32_t normal = (size + (random >> 3) - 0x38000000) >> 13;
    const uint32_t shift = exponent > 126 ? 0 : exponent < 63 ? 63 : 126 - exponent;
    const uint64_t whole = (uint64_t)((size & 0x7FFFFF) | 0x800000) << 16;
    const uint32_t small = (uint32_t)(((whole >> shift) + random) >> 16);
    uint32_t half = size >= 0x38800000 ? normal : small;
    half = size >= 0x47800000 ? 0x7C00 : half;
    half = size > 0x7F800000 ? 0x7E00 : half;
    return (uint16_t)(sign | half);
}

/* Philox 4x32-10 of the counter (block, row, step): eight numbers of 16 bits. */
INLINE void random_block(uint64_t key, uint64_t step, uint32_t row, uint32_t block,
                         uint16_t random[IN_BLOCK]) {
    uint32_t x[4] = {block, row, (uint32_t)step, (uint32_t)(step >> 32)};
    uint32_t first_key = (uint32_t)key, second_key = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t first = (uint64_t)x[0] * 0xD2511F53u, second = (uint64_t)x[2] * 0xCD9E8D57u;
        x[0] = (uint32_t)(second >> 32) ^ x[1] ^ first_key;
        x[1] = (uint32_t)second;
        x[2] = (uint32_t)(first >> 32) ^ x[3] ^ second_key;
        x[3] = (uint32_t)first;
        first_key += 0x9E3779B9u;
        second_key += 0xBB67AE85u;
    }
    for (int i = 0; i < 4; i++) {
        random[2 * i] = (uint16_t)x[i];
        random[2 * i + 1] = (uint16_t)(x[i] >> 16);
    }
}

INLINE void widen(float *restrict to, const uint16_t *restrict from, int type, int64_t width) {
    for (int64_t i = 0; i < width; i++) to[i] = widened(from[i], type);
}

/* Round a row of `width` floats into `to`, and leave in w what `to` now holds. random has room for
   the blocks of the row, `first` is the column of the whole table where it begins. */
INLINE void round_row(uint16_t *restrict to, float *restrict w, int type, uint64_t key,
                      uint64_t step, int64_t row, int64_t first, uint16_t *restrict random,
                      int64_t width) {
    const int64_t begin = first / IN_BLOCK, end = (first + width + IN_BLOCK - 1) / IN_BLOCK;
    for (int64_t j = begin; j < end; j++)
        random_block(key, step, (uint32_t)row, (uint32_t)j, random + (j - begin) * IN_BLOCK);
    random += first - begin * IN_BLOCK;
    if (type == BFLOAT16)
        for (int64_t i = 0; i < width; i++) to[i] = rounded_bfloat16(w[i], random[i]);
    else
        for (int64_t i = 0; i < width; i++) to[i] = rounded_float16(w[i], random[i]);
    widen(w, to, type, width);
}

#endif
