/* The CPU kernels of seo_kernels: plain C with OpenMP, loaded by __init__.py through ctypes.

   Letters: B bags of one feature, F features, V ids, K blocks, E floats in an output row.

   Every op here walks blocks: block k reads, for each id of feature blocks[FEATURE][k],
   `width` consecutive floats from start + row * stride, where row is the hash of the id in
   [0, count). A chunk of a table has stride = width; a block of a ROBE array has stride 1. Floats
   are numbered through the parts, which lie anywhere; a block reads from one of them.

   Results do not depend on the number of threads: every float is summed by one thread, in the
   order of tiles of bags, then blocks, then ids. */

#include "native.h"

#define ABI 6

enum { FEATURE, SEED, COUNT, START, STRIDE, WIDTH, COLUMN };
enum { PIECE = 256, PAIRS = 4096 };

typedef struct {
    const float *const *parts;
    const int64_t *ends;      /* of each part, in floats of all parts; the last is their number */
    int64_t num_parts;
    const int64_t *ids;
    const int64_t *offsets;   /* (F * B + 1): bag (f, b) is ids[offsets[f B + b] : ... + 1] */
    const float *id_weights;  /* (V) or NULL */
    int64_t num_bags;         /* B */
    int64_t num_blocks;       /* K */
    const int64_t *blocks;    /* (7, K) */
    const float *scales;      /* (K) or NULL */
    int64_t row_floats;       /* E */
    int64_t tile;             /* bags in a tile */
} Lookup;

typedef struct {
    int64_t feature, seed, count, start, stride, width, column;
    float scale;
} Block;

/* Where the floats of one part are: number i lies at floats[i - first], for i below end. */
typedef struct {
    const float *floats;
    int64_t first, end;
} Part;

int64_t seo_kernels_abi(void) { return ABI; }

/* The hash of seo_kernels.remap, bit for bit; >> on int64_t repeats the sign bit. */
INLINE int64_t hash_row(int64_t id, int64_t seed, int64_t count) {
    int64_t x = id ^ seed;
    x ^= x >> 33;
    x = (int64_t)((uint64_t)x * (uint64_t)-0x00AE502812AA7333LL);
    x ^= x >> 29;
    x = (int64_t)((uint64_t)x * (uint64_t)-0x3B314601E57A13ADLL);
    x ^= x >> 32;
    return (int64_t)(((uint64_t)x & 0xFFFFFFFFu) * (uint64_t)count) >> 32;
}

/* ---- remap ------------------------------------------------------------------------------- */

CLONES static void remap_piece(const int64_t *restrict ids, int64_t n, int64_t seed,
                               int64_t count, int64_t shift, int64_t *restrict out) {
    for (int64_t i = 0; i < n; i++) out[i] = hash_row(ids[i], seed, count) + shift;
}

/* Row numbers of lookup k for ids[first[k] : first[k] + num[k]], written from out[to[k]]. */
void seo_remap(const int64_t *ids, int64_t num_lookups, const int64_t *first, const int64_t *num,
               const int64_t *to, const int64_t *seeds, const int64_t *counts,
               const int64_t *shifts, int64_t *out, int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t k = 0; k < num_lookups; k++)
        remap_piece(ids + first[k], num[k], seeds[k], counts[k], shifts ? shifts[k] : 0,
                    out + to[k]);
}

/* ---- blocks ------------------------------------------------------------------------------ */

INLINE Block block_at(const Lookup *p, int64_t k) {
    const int64_t *t = p->blocks, K = p->num_blocks;
    Block b = {t[FEATURE * K + k], t[SEED * K + k],  t[COUNT * K + k],  t[START * K + k],
               t[STRIDE * K + k],  t[WIDTH * K + k], t[COLUMN * K + k], 1.0f};
    if (p->scales) b.scale = p->scales[k];
    return b;
}

INLINE void addresses(const int64_t *restrict ids, int64_t n, const Block *b,
                      int64_t *restrict out) {
    const int64_t seed = b->seed, count = b->count, stride = b->stride, start = b->start;
    if (stride == 1)
        for (int64_t i = 0; i < n; i++) out[i] = start + hash_row(ids[i], seed, count);
    else
        for (int64_t i = 0; i < n; i++) out[i] = start + hash_row(ids[i], seed, count) * stride;
}

INLINE int one_id_each(const int64_t *bounds, int64_t n) {
    int64_t odd = 0;
    for (int64_t b = 0; b < n; b++) odd |= (bounds[b + 1] - bounds[b]) ^ 1;
    return odd == 0;
}

INLINE float dot(const float *restrict x, const float *restrict y, int64_t width) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; i++) sum += x[i] * y[i];
    return sum;
}

INLINE Part part_of(const Lookup *p, int64_t start) {
    int64_t j = 0;
    while (j < p->num_parts - 1 && start >= p->ends[j]) j++;
    return (Part){p->parts[j], j ? p->ends[j - 1] : 0, p->ends[j]};
}

/* The block with its floats numbered from the first of their part. */
INLINE Block within(Block block, Part part) {
    block.start -= part.first;
    return block;
}

/* 0 if every read and write stays inside, -1 for bad offsets, k + 1 for a bad block k. */
int64_t seo_blocks_check(const Lookup *p, int64_t num_features, int64_t num_ids) {
    const int64_t bags = num_features * p->num_bags;
    int64_t odd = p->offsets[0] != 0 || p->offsets[bags] > num_ids, column = 0;
    for (int64_t b = 0; b < bags; b++) odd |= p->offsets[b + 1] < p->offsets[b];
    if (odd) return -1;
    for (int64_t k = 0; k < p->num_blocks; k++) {
        const Block b = block_at(p, k);
        const int64_t end = part_of(p, b.start).end;
        if (b.feature < 0 || b.feature >= num_features || b.count < 1 || b.start < 0 ||
            b.stride < 1 || b.width < 1 || b.column != column || b.width > p->row_floats - column ||
            b.width > end || b.start > end - b.width || b.count > (int64_t)1 << 31 ||
            (b.count - 1) > (end - b.width - b.start) / b.stride)
            return k + 1;
        column += b.width;
    }
    return column == p->row_floats ? 0 : p->num_blocks;
}

CLONES static void forward_tile(const Lookup *p, int64_t first_bag, int64_t end_bag,
                                float *out) {
    int64_t at[PIECE];
    const int64_t E = p->row_floats;
    int64_t feature = -1;
    const int64_t *bounds = 0;
    int single = 0, zeroed = 0;
    for (int64_t k = 0; k < p->num_blocks; k++) {
        const Block block = block_at(p, k);
        if (block.feature != feature) {
            feature = block.feature;
            bounds = p->offsets + feature * p->num_bags;
            single = one_id_each(bounds + first_bag, end_bag - first_bag);
        }
        if (!single && !zeroed) {
            /* Pooling adds. Columns written before this are single and stay as they are. */
            for (int64_t b = first_bag; b < end_bag; b++)
                memset(out + b * E + block.column, 0, (size_t)(E - block.column) * sizeof(float));
            zeroed = 1;
        }
        const int64_t begin = bounds[first_bag], end = bounds[end_bag];
        const Part part = part_of(p, block.start);
        const Block inside = within(block, part);
        int64_t b = first_bag;
        for (int64_t v = begin; v < end; v += PIECE) {
            const int64_t n = end - v < PIECE ? end - v : PIECE;
            addresses(p->ids + v, n, &inside, at);
            for (int64_t i = 0; i < n; i++) __builtin_prefetch(part.floats + at[i]);
            const float *w = p->id_weights ? p->id_weights + v : 0;
            float *to = out + block.column;
            if (single) {
                BY_WIDTH(block.width, for (int64_t i = 0; i < n; i++) copy_scaled(
                             to + (b + i) * E, part.floats + at[i],
                             w ? block.scale * w[i] : block.scale, W))
                b += n;
            } else {
                BY_WIDTH(block.width, for (int64_t i = 0; i < n; i++) {
                    while (v + i >= bounds[b + 1]) b++;
                    add_scaled(to + b * E, part.floats + at[i], w ? block.scale * w[i] : block.scale,
                               W);
                })
            }
        }
    }
}

/* out (B, E): blocks side by side, pooled over the ids of each bag and scaled. */
void seo_blocks_forward(const Lookup *p, float *out, int64_t threads) {
    const int64_t tiles = (p->num_bags + p->tile - 1) / p->tile;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t t = 0; t < tiles; t++) {
        const int64_t first = t * p->tile, end = first + p->tile;
        forward_tile(p, first, end < p->num_bags ? end : p->num_bags, out);
    }
}

CLONES static void scatter_tile(const Lookup *p, int64_t first_bag, int64_t end_bag,
                                const float *grad_out, int64_t low, int64_t high, float *grad) {
    int64_t at[PIECE];
    const int64_t E = p->row_floats;
    for (int64_t k = 0; k < p->num_blocks; k++) {
        const Block block = block_at(p, k);
        const int64_t past = block.start + (block.count - 1) * block.stride + block.width;
        if (block.start >= high || past <= low) continue;
        const int inside = block.start >= low && past <= high;
        const int64_t *bounds = p->offsets + block.feature * p->num_bags;
        const int64_t begin = bounds[first_bag], end = bounds[end_bag];
        int64_t b = first_bag;
        for (int64_t v = begin; v < end; v += PIECE) {
            const int64_t n = end - v < PIECE ? end - v : PIECE;
            addresses(p->ids + v, n, &block, at);
            const float *w = p->id_weights ? p->id_weights + v : 0;
            const float *from = grad_out + block.column;
            if (inside) {
                for (int64_t i = 0; i < n; i++) __builtin_prefetch(grad + at[i], 1);
                BY_WIDTH(block.width, for (int64_t i = 0; i < n; i++) {
                    while (v + i >= bounds[b + 1]) b++;
                    add_scaled(grad + at[i], from + b * E, w ? block.scale * w[i] : block.scale,
                               W);
                })
            } else {
                BY_WIDTH(block.width, for (int64_t i = 0; i < n; i++) {
                    while (v + i >= bounds[b + 1]) b++;
                    const float s = w ? block.scale * w[i] : block.scale;
                    if (at[i] >= low && at[i] + W <= high) {
                        add_scaled(grad + at[i], from + b * E, s, W);
                    } else if (at[i] < high && at[i] + W > low) { /* across the border */
                        const int64_t skip = low > at[i] ? low - at[i] : 0;
                        const int64_t stop = high - at[i] < W ? high - at[i] : W;
                        add_scaled(grad + at[i] + skip, from + b * E + skip, s, stop - skip);
                    }
                })
            }
        }
    }
}

/* grad (one float for every float of the parts), zeroed by the caller: each thread owns a range of it and skips other addresses. */
void seo_blocks_backward(const Lookup *p, const float *grad_out, float *grad, int64_t threads) {
    const int64_t tiles = (p->num_bags + p->tile - 1) / p->tile;
#pragma omp parallel num_threads(threads)
    {
        const int64_t T = omp_get_num_threads(), me = omp_get_thread_num();
        const int64_t size = p->ends[p->num_parts - 1];
        const int64_t low = size / T * me, high = me == T - 1 ? size : size / T * (me + 1);
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t first = t * p->tile, end = first + p->tile;
            scatter_tile(p, first, end < p->num_bags ? end : p->num_bags, grad_out, low, high,
                         grad);
        }
    }
}

/* Such a scale may have rounded its block's output to nothing. */
INLINE int tiny(float scale) { return scale < 1e-30f && scale > -1e-30f; }

/* <output, gradient> of every block: the output is scale * pool, so the pools that the gradient of
   the scales needs have not to be looked up again. Row by row, since rows are consecutive. */
CLONES static void output_tile(const Lookup *p, int64_t first_bag, int64_t end_bag,
                               const float *grad_out, const float *out, double *sums) {
    const int64_t E = p->row_floats, K = p->num_blocks;
    if (K == 0) return;
    const int64_t *width = p->blocks + WIDTH * K, *column = p->blocks + COLUMN * K;
    Block block = block_at(p, 0);
    for (int64_t k = 1; k < K; k++)
        if (width[k] != block.width) block.width = 0; /* mixed */
    memset(sums, 0, (size_t)K * sizeof(double));
    for (int64_t b = first_bag; b < end_bag; b++) {
        const float *x = out + b * E, *g = grad_out + b * E;
        if (block.width)
            BY_WIDTH(block.width, for (int64_t k = 0; k < K; k++) sums[k] += dot(x + k * W, g + k * W, W))
        else
            for (int64_t k = 0; k < K; k++)
                sums[k] += dot(x + column[k], g + column[k], width[k]);
    }
}

CLONES static void scales_tile(const Lookup *p, int64_t first_bag, int64_t end_bag,
                               const float *grad_out, const float *out, double *grad_scales,
                               float *grad_id_weights) {
    int64_t at[PIECE];
    const int64_t E = p->row_floats;
    if (out && !grad_id_weights) output_tile(p, first_bag, end_bag, grad_out, out, grad_scales);
    for (int64_t k = 0; k < p->num_blocks; k++) {
        const Block block = block_at(p, k);
        const int64_t *bounds = p->offsets + block.feature * p->num_bags;
        const int64_t begin = bounds[first_bag], end = bounds[end_bag];
        int64_t b = first_bag;
        double sum = 0.0;
        if (out && !grad_id_weights && !tiny(block.scale)) {
            grad_scales[k] /= block.scale; /* of output_tile's sum */
            continue;
        }
        const Part part = part_of(p, block.start);
        const Block inside = within(block, part);
        for (int64_t v = begin; v < end; v += PIECE) {
            const int64_t n = end - v < PIECE ? end - v : PIECE;
            addresses(p->ids + v, n, &inside, at);
            for (int64_t i = 0; i < n; i++) __builtin_prefetch(part.floats + at[i]);
            const float *w = p->id_weights ? p->id_weights + v : 0;
            const float *from = grad_out + block.column;
            BY_WIDTH(block.width, for (int64_t i = 0; i < n; i++) {
                while (v + i >= bounds[b + 1]) b++;
                const float product = dot(from + b * E, part.floats + at[i], W);
                if (grad_id_weights) grad_id_weights[v + i] += block.scale * product;
                sum += w ? w[i] * product : product;
            })
        }
        grad_scales[k] = sum;
    }
}

/* grad_scales (tiles, K), to be summed over tiles; grad_id_weights (V), zeroed, or NULL.
   out is what the forward gave, or NULL. */
void seo_blocks_scales(const Lookup *p, const float *grad_out, const float *out,
                       double *grad_scales, float *grad_id_weights, int64_t threads) {
    const int64_t tiles = (p->num_bags + p->tile - 1) / p->tile;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t t = 0; t < tiles; t++) {
        const int64_t first = t * p->tile, end = first + p->tile;
        scales_tile(p, first, end < p->num_bags ? end : p->num_bags, grad_out, out,
                    grad_scales + t * p->num_blocks, grad_id_weights);
    }
}
