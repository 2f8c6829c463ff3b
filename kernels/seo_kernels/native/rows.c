/* Rows of tables: pooled reads, and updates of the rows of one batch, for a CPU.

   Letters: K lookups, B bags of each, V reads of all lookups one after the other, E floats of an
   output row, U rows that were read, each counted once.

   Results do not depend on the number of threads: every row is pooled and updated by one thread,
   which adds what was read in the order of lookups, bags and ids. */

#include <math.h>
#include <stdlib.h>

#include "halves.h"
#include "native.h"

enum { SGD, ADAGRAD, ROWWISE_ADAGRAD, LAZY_ADAM };
enum { L2_NONE, L2_READ, L2_FREQUENCY };
enum { AHEAD = 12, DIGIT = 11, BUCKETS = 1 << DIGIT, AT_ONCE = 256 };

/* To the key of a table: its means are rounded by other random numbers than its weights. */
static const uint64_t OF_MEAN = 0x9E3779B97F4A7C15u;

typedef struct {
    void *weight;     /* (rows, dim), of a type of halves.h */
    float *first;     /* adagrad (rows, dim), rowwise_adagrad (rows), lazy_adam (rows, dim) */
    float *second;    /* lazy_adam (rows, dim) */
    int32_t *updates; /* (rows) lazy_adam: updates of the row so far */
    int32_t *reads;   /* (rows) L2 by frequency: reads of the row so far */
    void *mean;       /* (rows, dim) running mean, of the type of the weight, or NULL */
    int32_t *mean_at; /* (rows) step up to which the mean is right; -1: it is the weight */
    int64_t rows, dim;
    int64_t type;
    uint64_t key;              /* of the random numbers of halves.h */
    int64_t first_row, first_column; /* where this part begins in the whole table */
} Table;

typedef struct {
    const Table *tables;
    int64_t num_tables;
    const int64_t *table_of; /* (K) */
    const int64_t *columns;  /* (K) first output column */
    const int64_t *rows;     /* (V) */
    const int64_t *offsets;  /* (K * B + 1), or NULL: every bag holds one id */
    const float *id_weights; /* (V) or NULL */
    int64_t num_lookups, num_bags, row_floats;
} Reads;

typedef struct {
    int64_t optimizer, l2_on;
    double lr, l2, eps, beta1, beta2;
    const float *corrections; /* (num_corrections, 2): 1 - beta1^n, 1 - beta2^n from n = 0 */
    int64_t num_corrections;
    double decay;             /* of the running mean */
    int64_t settled;          /* last step at which it is (1 + t) / (10 + t) */
    int64_t step;             /* number of this step, from 1 */
} Update;

/* Floats that are read again from here on, not kept in a register each beside their vector. */
#if defined(__GNUC__)
#define IN_MEMORY(floats) __asm__ volatile("" : : "r"(floats) : "memory")
#else
#define IN_MEMORY(floats) (void)(floats)
#endif

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* 0 if all reads and writes stay inside, -1 for bad offsets, k + 1 for a bad lookup k. Offsets that
   say that every bag holds one id become NULL. */
CLONES static int64_t check(Reads *p, int64_t num_reads) {
    const int64_t B = p->num_bags, K = p->num_lookups;
    if (p->offsets && num_reads == K * B) {
        int64_t odd = 0;
        for (int64_t b = 0; b <= K * B; b++) odd |= p->offsets[b] ^ b;
        if (!odd) p->offsets = 0;
    }
    if (p->offsets) {
        int64_t odd = p->offsets[0] != 0 || p->offsets[K * B] != num_reads;
        for (int64_t b = 0; b < K * B; b++) odd |= p->offsets[b + 1] < p->offsets[b];
        if (odd) return -1;
    } else if (num_reads != K * B) {
        return -1;
    }
    for (int64_t k = 0; k < K; k++) {
        const int64_t t = p->table_of[k];
        if (t < 0 || t >= p->num_tables) return k + 1;
        const int64_t begin = p->offsets ? p->offsets[k * B] : k * B;
        const int64_t end = p->offsets ? p->offsets[(k + 1) * B] : (k + 1) * B;
        const uint64_t rows = (uint64_t)p->tables[t].rows;
        int64_t odd = p->columns[k] < 0 || p->columns[k] + p->tables[t].dim > p->row_floats;
        for (int64_t v = begin; v < end; v++) odd |= (uint64_t)p->rows[v] >= rows;
        if (odd) return k + 1;
    }
    return 0;
}

int64_t seo_rows_check(Reads *p, int64_t num_reads) { return check(p, num_reads); }

/* ---- reads ------------------------------------------------------------------------------- */

/* to[i] += s * row[i], or = where `add` is 0, of a row of 16 bits. */
INLINE void take_halves(float *restrict to, const uint16_t *restrict row, float s, int add,
                        int type, int64_t width) {
    for (int64_t i = 0; i < width; i++) {
        const float x = s * widened(row[i], type);
        to[i] = add ? to[i] + x : x;
    }
}

INLINE void read_halves(const Reads *p, int64_t k, int64_t first_bag, int64_t end_bag,
                        float *restrict to, int type, int64_t dim) {
    const int64_t B = p->num_bags, E = p->row_floats;
    const uint16_t *weight = p->tables[p->table_of[k]].weight;
    const int64_t *bounds = p->offsets ? p->offsets + k * B : 0;
    const int64_t last = bounds ? bounds[end_bag] : k * B + end_bag;
    for (int64_t b = first_bag; b < end_bag; b++) {
        const int64_t begin = bounds ? bounds[b] : k * B + b, end = bounds ? bounds[b + 1] : begin + 1;
        float *sum = to + b * E;
        if (begin == end) memset(sum, 0, (size_t)dim * sizeof(float));
        for (int64_t v = begin; v < end; v++) {
            if (v + AHEAD < last) __builtin_prefetch(weight + p->rows[v + AHEAD] * dim);
            const float s = p->id_weights ? p->id_weights[v] : 1.0f;
            take_halves(sum, weight + p->rows[v] * dim, s, v > begin, type, dim);
        }
    }
}

CLONES static void read_tile(const Reads *p, int64_t first_bag, int64_t end_bag, float *out) {
    const int64_t B = p->num_bags, E = p->row_floats;
    for (int64_t k = 0; k < p->num_lookups; k++) {
        const Table *table = p->tables + p->table_of[k];
        const int64_t dim = table->dim;
        const float *weight = table->weight;
        float *to = out + p->columns[k];
        if (table->type == BFLOAT16) {
            BY_WIDTH_OF_HALVES(dim, read_halves(p, k, first_bag, end_bag, to, BFLOAT16, W))
            continue;
        }
        if (table->type == FLOAT16) {
            BY_WIDTH_OF_HALVES(dim, read_halves(p, k, first_bag, end_bag, to, FLOAT16, W))
            continue;
        }
        if (!p->offsets) {
            const int64_t *rows = p->rows + k * B;
            const float *w = p->id_weights ? p->id_weights + k * B : 0;
            BY_WIDTH(dim, for (int64_t b = first_bag; b < end_bag; b++) {
                if (b + AHEAD < B) __builtin_prefetch(weight + rows[b + AHEAD] * W);
                copy_scaled(to + b * E, weight + rows[b] * W, w ? w[b] : 1.0f, W);
            })
            continue;
        }
        const int64_t *bounds = p->offsets + k * B;
        const int64_t last = bounds[end_bag];
        BY_WIDTH(dim, for (int64_t b = first_bag; b < end_bag; b++) {
            float *sum = to + b * E;
            memset(sum, 0, (size_t)W * sizeof(float));
            for (int64_t v = bounds[b]; v < bounds[b + 1]; v++) {
                if (v + AHEAD < last) __builtin_prefetch(weight + p->rows[v + AHEAD] * W);
                add_scaled(sum, weight + p->rows[v] * W, p->id_weights ? p->id_weights[v] : 1.0f, W);
            }
        })
    }
}

/* out (B, E): of every lookup the weighted sum of the rows of each bag; no other column is set. */
void seo_rows_read(const Reads *p, float *out, int64_t tile, int64_t threads) {
    const int64_t tiles = (p->num_bags + tile - 1) / tile;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t t = 0; t < tiles; t++)
        read_tile(p, t * tile, smaller((t + 1) * tile, p->num_bags), out);
}

/* ---- which rows were read ---------------------------------------------------------------- */

INLINE int bits_of(uint64_t largest) {
    int bits = 0;
    while (largest >> bits) bits++;
    return bits;
}

/* Bits that number reads; a key is the row above them, and the number of the read in them. */
INLINE int read_bits(int64_t num_reads) { return bits_of((uint64_t)num_reads); }

static int64_t all_rows(const Reads *p) {
    int64_t rows = 0;
    for (int64_t t = 0; t < p->num_tables; t++) rows += p->tables[t].rows;
    return rows;
}

/* Sort the reads by row, those of one row in the order in which they were read.

   keys and other hold V numbers each; the sorted ones end up in keys. starts (V + 1): where each
   row's reads begin. Returns U, or -1 if rows and reads are too many to be told apart. */
int64_t seo_rows_group(const Reads *p, int64_t num_reads, uint64_t *keys, uint64_t *other,
                       int64_t *starts) {
    const int64_t B = p->num_bags;
    const int shift = read_bits(num_reads), rows_bits = bits_of((uint64_t)all_rows(p));
    if (shift + rows_bits > 63) return -1;
    int64_t *base = malloc((size_t)(p->num_tables + 1) * sizeof(int64_t));
    if (!base) return -1;
    base[0] = 0;
    for (int64_t t = 0; t < p->num_tables; t++) base[t + 1] = base[t] + p->tables[t].rows;
    for (int64_t k = 0; k < p->num_lookups; k++) {
        const int64_t begin = p->offsets ? p->offsets[k * B] : k * B;
        const int64_t end = p->offsets ? p->offsets[(k + 1) * B] : (k + 1) * B;
        const int64_t first = base[p->table_of[k]];
        for (int64_t v = begin; v < end; v++)
            keys[v] = (uint64_t)(first + p->rows[v]) << shift | (uint64_t)v;
    }
    free(base);
    uint64_t *from = keys, *to = other;
    for (int low = shift; low < shift + rows_bits; low += DIGIT) {
        int64_t count[BUCKETS] = {0};
        for (int64_t i = 0; i < num_reads; i++) count[from[i] >> low & (BUCKETS - 1)]++;
        if (num_reads && count[from[0] >> low & (BUCKETS - 1)] == num_reads) continue;
        int64_t sum = 0;
        for (int64_t d = 0; d < BUCKETS; d++) {
            const int64_t n = count[d];
            count[d] = sum;
            sum += n;
        }
        for (int64_t i = 0; i < num_reads; i++) to[count[from[i] >> low & (BUCKETS - 1)]++] = from[i];
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
    if (from != keys) memcpy(keys, from, (size_t)num_reads * sizeof(uint64_t));
    int64_t unique = 0;
    for (int64_t i = 0; i < num_reads; i++)
        if (!i || keys[i] >> shift != keys[i - 1] >> shift) starts[unique++] = i;
    starts[unique] = num_reads;
    return unique;
}

/* ---- updates ----------------------------------------------------------------------------- */

/* The share of a mean of step s that is left in the mean of step t >= s: the product of the
   decays min(decay, (1 + i) / (10 + i)) of the steps i between. */
INLINE double left_of_mean(const Update *u, int64_t s, int64_t t) {
    double left = 1.0;
    if (s < u->settled) {
        const int64_t end = smaller(t, u->settled);
        for (int64_t j = 2; j <= 10; j++) left *= (double)(s + j) / (double)(end + j);
        s = end;
    }
    return s < t ? left * exp((double)(t - s) * log(u->decay)) : left;
}

/* Bring m, the mean of a row whose weights are w, up to a step. */
INLINE void catch_up(const Update *u, const Table *table, const float *restrict w,
                     float *restrict m, int64_t row, int64_t step, int64_t dim) {
    const int64_t at = table->mean_at[row];
    if (at < 0) {
        memcpy(m, w, (size_t)dim * sizeof(float));
    } else if (at < step) {
        const float left = (float)left_of_mean(u, at, step);
        for (int64_t i = 0; i < dim; i++) m[i] = w[i] + left * (m[i] - w[i]);
    }
}

INLINE void move_mean(float *restrict m, const float *restrict w, float share, int64_t dim) {
    for (int64_t i = 0; i < dim; i++) m[i] += share * (w[i] - m[i]);
}

/* What a thread keeps of the row that it updates. */
typedef struct {
    float *g;         /* (dim) its gradient */
    float *w, *m;     /* (dim) its weights and its mean, if the table has 16 bits */
    uint16_t *random; /* (dim), and room up to blocks of eight columns */
} Row;

INLINE void update_row(const Update *u, const Table *table, int64_t row, Row its, int64_t num_reads,
                       int type, int64_t dim) {
    float *restrict g = its.g;
    uint16_t *stored = (uint16_t *)table->weight + row * dim;
    float *restrict w = type == FLOAT32 ? (float *)table->weight + row * dim : its.w;
    if (type != FLOAT32) widen(w, stored, type, dim);
    const float lr = (float)u->lr, eps = (float)u->eps;
    if (u->l2_on != L2_NONE) {
        float l2 = (float)u->l2;
        if (u->l2_on == L2_FREQUENCY) {
            const int64_t reads = table->reads[row] + num_reads;
            table->reads[row] = (int32_t)smaller(reads, INT32_MAX);
            l2 = (float)(u->l2 / (double)reads);
        }
        for (int64_t i = 0; i < dim; i++) g[i] += l2 * w[i];
    }
    if (table->mean && type == FLOAT32)
        catch_up(u, table, w, (float *)table->mean + row * dim, row, u->step - 1, dim);
    if (table->mean && type != FLOAT32) {
        widen(its.m, (uint16_t *)table->mean + row * dim, type, dim);
        catch_up(u, table, w, its.m, row, u->step - 1, dim);
    }
    switch (u->optimizer) {
        case SGD:
            for (int64_t i = 0; i < dim; i++) w[i] -= lr * g[i];
            break;
        case ADAGRAD: {
            float *restrict sum = table->first + row * dim;
            for (int64_t i = 0; i < dim; i++) {
                sum[i] += g[i] * g[i];
                w[i] -= lr * g[i] / (sqrtf(sum[i]) + eps);
            }
            break;
        }
        case ROWWISE_ADAGRAD: {
            float square = 0.0f;
            for (int64_t i = 0; i < dim; i++) square += g[i] * g[i];
            table->first[row] += square / (float)dim;
            const float rate = lr / (sqrtf(table->first[row]) + eps);
            for (int64_t i = 0; i < dim; i++) w[i] -= rate * g[i];
            break;
        }
        case LAZY_ADAM: {
            float *restrict m = table->first + row * dim, *restrict v = table->second + row * dim;
            const float b1 = (float)u->beta1, b2 = (float)u->beta2;
            const int64_t n = ++table->updates[row];
            const float *c = u->corrections + 2 * smaller(n, u->num_corrections - 1);
            const float rate = lr / c[0], root = 1.0f / sqrtf(c[1]);
            for (int64_t i = 0; i < dim; i++) {
                m[i] += (1.0f - b1) * (g[i] - m[i]);
                v[i] = b2 * v[i] + (1.0f - b2) * g[i] * g[i];
                w[i] -= rate * m[i] / (sqrtf(v[i]) * root + eps);
            }
            break;
        }
    }
    if (type != FLOAT32)
        round_row(stored, w, type, table->key, (uint64_t)u->step, table->first_row + row,
                  table->first_column, its.random, dim);
    if (table->mean) {
        const double t = (double)u->step, limit = (1.0 + t) / (10.0 + t);
        const float share = (float)(1.0 - (limit < u->decay ? limit : u->decay));
        if (type == FLOAT32) {
            move_mean((float *)table->mean + row * dim, w, share, dim);
        } else {
            move_mean(its.m, w, share, dim);
            round_row((uint16_t *)table->mean + row * dim, its.m, type, table->key ^ OF_MEAN,
                      (uint64_t)u->step, table->first_row + row, table->first_column, its.random,
                      dim);
        }
        table->mean_at[row] = (int32_t)u->step;
    }
}

INLINE void fetch_row(const Table *table, int64_t row) {
    const int64_t at = row * table->dim;
    const int64_t bytes = table->type == FLOAT32 ? sizeof(float) : sizeof(uint16_t);
    __builtin_prefetch((char *)table->weight + at * bytes, 1);
    if (table->first) __builtin_prefetch(table->first + (table->second ? at : row), 1);
    if (table->second) __builtin_prefetch(table->second + at, 1);
    if (table->mean) {
        __builtin_prefetch((char *)table->mean + at * bytes, 1);
        __builtin_prefetch(table->mean_at + row, 1);
    }
}

/* Where a walk over sorted rows stands: they rise, and so does the table. */
typedef struct {
    int64_t table, first, end;
} Place;

INLINE void move_to(Place *place, const Reads *p, int64_t row) {
    while (row >= place->end) {
        place->first = place->end;
        place->end += p->tables[++place->table].rows;
    }
}

/* The gradient of the vector that a read is part of. */
INLINE const float *gradient_of(const Reads *p, const float *grad, const int32_t *bags,
                                int64_t read) {
    const uint32_t bag = (uint32_t)(bags ? bags[read] : read), B = (uint32_t)p->num_bags;
    const int64_t k = bag / B, b = bag % B;
    return grad + b * p->row_floats + p->columns[k];
}

/* Update the row whose reads are keys[begin .. end - 1], of all the thread's reads up to last. */
INLINE void one_row(const Reads *p, const Update *u, const float *grad, const uint64_t *keys,
                    int64_t begin, int64_t end, int64_t last, int shift, const int32_t *bags,
                    const Table *table, int64_t row, Row its, int type, int64_t dim) {
    const uint64_t mask = ((uint64_t)1 << shift) - 1;
    float *restrict g = its.g;
    memset(g, 0, (size_t)dim * sizeof(float));
    for (int64_t i = begin; i < end; i++) {
        const int64_t read = (int64_t)(keys[i] & mask);
        if (i + AHEAD < last) {
            const int64_t later = (int64_t)(keys[i + AHEAD] & mask);
            __builtin_prefetch(gradient_of(p, grad, bags, later));
        }
        add_scaled(g, gradient_of(p, grad, bags, read), p->id_weights ? p->id_weights[read] : 1.0f,
                   dim);
    }
    IN_MEMORY(g);
    update_row(u, table, row, its, end - begin, type, dim);
}

CLONES static void update_range(const Reads *p, const Update *u, const float *grad,
                                const uint64_t *keys, const int64_t *starts, int64_t from,
                                int64_t to, int shift, const int32_t *bags, Row its) {
    Place place = {0, 0, p->tables[0].rows}, ahead = place;
    const int64_t last = from < to ? starts[to] : 0;
    for (int64_t n = from; n < to; n++) {
        if (n + AHEAD < to) {
            const int64_t next = (int64_t)(keys[starts[n + AHEAD]] >> shift);
            move_to(&ahead, p, next);
            fetch_row(p->tables + ahead.table, next - ahead.first);
        }
        const int64_t row = (int64_t)(keys[starts[n]] >> shift);
        move_to(&place, p, row);
        const Table *table = p->tables + place.table;
        const int64_t dim = table->dim, at = row - place.first, from_read = starts[n];
        const int64_t end_read = starts[n + 1];
        if (table->type == FLOAT32) {
            BY_WIDTH(dim, one_row(p, u, grad, keys, from_read, end_read, last, shift, bags, table,
                                  at, its, FLOAT32, W))
        } else if (table->type == BFLOAT16) {
            BY_WIDTH_OF_HALVES(dim, one_row(p, u, grad, keys, from_read, end_read, last, shift, bags,
                                            table, at, its, BFLOAT16, W))
        } else {
            BY_WIDTH_OF_HALVES(dim, one_row(p, u, grad, keys, from_read, end_read, last, shift, bags,
                                            table, at, its, FLOAT16, W))
        }
    }
}

/* Update every row that was read once, by the sum of its gradients.

   grad (B, E); keys, starts and num_rows as seo_rows_group gave them. Returns 0; -1 without
   memory for what the threads need. */
int64_t seo_rows_update(const Reads *p, const Update *u, const float *grad, const uint64_t *keys,
                        const int64_t *starts, int64_t num_rows, int64_t num_reads,
                        int64_t threads) {
    const int shift = read_bits(num_reads);
    const int64_t bags_in_all = p->num_lookups * p->num_bags;
    int64_t widest = 1, failed = 0;
    for (int64_t t = 0; t < p->num_tables; t++)
        if (p->tables[t].dim > widest) widest = p->tables[t].dim;
    int32_t *bags = 0;
    if (p->offsets && num_reads) {
        bags = malloc((size_t)num_reads * sizeof(int32_t));
        if (!bags) return -1;
        for (int64_t b = 0; b < bags_in_all; b++)
            for (int64_t v = p->offsets[b]; v < p->offsets[b + 1]; v++) bags[v] = (int32_t)b;
    }
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        const int64_t T = omp_get_num_threads(), me = omp_get_thread_num();
        /* rows are shared out by their reads: a few may have most of them */
        int64_t from = 0, to = num_rows;
        const int64_t low = num_reads / T * me, high = me == T - 1 ? num_reads : num_reads / T * (me + 1);
        for (int64_t step = num_rows; step > 0; step = step / 2)
            while (from + step <= num_rows && starts[from + step - 1] < low) from += step;
        to = from;
        for (int64_t step = num_rows; step > 0; step = step / 2)
            while (to + step <= num_rows && starts[to + step - 1] < high) to += step;
        const size_t room = (size_t)widest + 2 * IN_BLOCK;
        Row its = {malloc(room * (3 * sizeof(float) + sizeof(uint16_t))), 0, 0, 0};
        if (its.g) {
            its.w = its.g + room;
            its.m = its.w + room;
            its.random = (uint16_t *)(its.m + room);
            update_range(p, u, grad, keys, starts, from, to, shift, bags, its);
        } else {
            failed = 1;
        }
        free(its.g);
    }
    free(bags);
    return failed ? -1 : 0;
}

/* ---- whole gradients --------------------------------------------------------------------- */

INLINE void add_lookup(const Reads *p, const float *grad, int64_t k, uint64_t me, uint64_t threads,
                       int64_t dim) {
    const int64_t B = p->num_bags, E = p->row_floats;
    float *to = p->tables[p->table_of[k]].weight;
    const float *from = grad + p->columns[k];
    const int64_t last = p->offsets ? p->offsets[(k + 1) * B] : (k + 1) * B;
    for (int64_t b = 0; b < B; b++) {
        const int64_t begin = p->offsets ? p->offsets[k * B + b] : k * B + b;
        const int64_t end = p->offsets ? p->offsets[k * B + b + 1] : begin + 1;
        if (b + AHEAD < B) __builtin_prefetch(from + (b + AHEAD) * E);
        for (int64_t v = begin; v < end; v++) {
            if (v + AHEAD < last) __builtin_prefetch(to + p->rows[v + AHEAD] * dim, 1);
            if (threads > 1 && (uint64_t)p->rows[v] % threads != me) continue;
            add_scaled(to + p->rows[v] * dim, from + b * E, p->id_weights ? p->id_weights[v] : 1.0f,
                       dim);
        }
    }
}

CLONES static void add_rows(const Reads *p, const float *grad, uint64_t me, uint64_t threads) {
    for (int64_t k = 0; k < p->num_lookups; k++) {
        const int64_t dim = p->tables[p->table_of[k]].dim;
        BY_WIDTH(dim, add_lookup(p, grad, k, me, threads, W))
    }
}

/* Add the gradient (B, E) of every vector to the rows that it is the sum of; the tables are
   gradients of tables, of 32 bits. */
void seo_rows_add(const Reads *p, const float *grad, int64_t threads) {
#pragma omp parallel num_threads(threads)
    add_rows(p, grad, (uint64_t)omp_get_thread_num(), (uint64_t)omp_get_num_threads());
}

/* The rows from first to last whose gradient is not zero; returns how many. No branch depends on
   the numbers: rows that are read alternate at random with others. */
INLINE int64_t rows_to_step(const float *grad, int64_t first, int64_t last, int64_t *found,
                            int64_t dim) {
    int64_t n = 0;
    for (int64_t row = first; row < last; row++) {
        uint32_t set = 0;
        for (int64_t i = 0; i < dim; i++) {
            uint32_t bits;
            memcpy(&bits, grad + row * dim + i, sizeof bits);
            set |= bits;
        }
        found[n] = row;
        n += set != 0;
    }
    return n;
}

INLINE void step_range(const Update *u, const Table *table, const float *grad, int64_t first,
                       int64_t last, int64_t dim) {
    for (; first < last; first += AT_ONCE) {
        int64_t found[AT_ONCE];
        const int64_t n = rows_to_step(grad, first, smaller(first + AT_ONCE, last), found, dim);
        for (int64_t i = 0; i < n; i++) fetch_row(table, found[i]);
        for (int64_t i = 0; i < n; i++) {
            /* without L2 the gradient is not written */
            const Row its = {(float *)(grad + found[i] * dim), 0, 0, 0};
            update_row(u, table, found[i], its, 1, FLOAT32, dim);
        }
    }
}

CLONES static void step_piece(const Update *u, const Table *table, const float *grad, int64_t first,
                              int64_t last) {
    BY_WIDTH(table->dim, step_range(u, table, grad, first, last, W))
}

/* Update every row of 32 bits whose gradient is not zero; grads[t] is the gradient of table t, of
   its shape. The update has no L2, and one of a row whose gradient is zero would not move it. */
void seo_rows_step(const Table *tables, int64_t num_tables, const float *const *grads,
                   const Update *u, int64_t threads) {
#pragma omp parallel num_threads(threads)
    for (int64_t t = 0; t < num_tables; t++) {
        const int64_t T = omp_get_num_threads(), me = omp_get_thread_num(), rows = tables[t].rows;
        step_piece(u, tables + t, grads[t], rows * me / T, rows * (me + 1) / T);
    }
}

/* ---- the running mean -------------------------------------------------------------------- */

INLINE void exchange_floats(const Table *table, const Update *u, int64_t row, int64_t back) {
    const int64_t dim = table->dim;
    float *w = (float *)table->weight + row * dim, *m = (float *)table->mean + row * dim;
    if (!back) catch_up(u, table, w, m, row, u->step, dim);
    for (int64_t i = 0; i < dim; i++) {
        const float kept = w[i];
        w[i] = m[i];
        m[i] = kept;
    }
}

/* The same of a row of 16 bits, some columns at a time. */
INLINE void exchange_halves(const Table *table, const Update *u, int64_t row, int64_t back) {
    const int64_t dim = table->dim, behind = !back && table->mean_at[row] < u->step;
    for (int64_t first = 0; first < dim; first += AT_ONCE) {
        const int64_t width = smaller(AT_ONCE, dim - first);
        uint16_t *w = (uint16_t *)table->weight + row * dim + first;
        uint16_t *m = (uint16_t *)table->mean + row * dim + first;
        if (behind) {
            float weights[AT_ONCE], means[AT_ONCE];
            uint16_t random[AT_ONCE + 2 * IN_BLOCK];
            widen(weights, w, (int)table->type, width);
            widen(means, m, (int)table->type, width);
            catch_up(u, table, weights, means, row, u->step, width);
            round_row(m, means, (int)table->type, table->key ^ OF_MEAN, (uint64_t)u->step,
                      table->first_row + row, table->first_column + first, random, width);
        }
        for (int64_t i = 0; i < width; i++) {
            const uint16_t kept = w[i];
            w[i] = m[i];
            m[i] = kept;
        }
    }
}

/* Bring the means of all rows that were ever read up to the step of u and swap them with the
   weights; back != 0 swaps them back. Rows that were never read are their own mean. */
void seo_rows_swap_mean(const Table *table, const Update *u, int64_t back, int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < table->rows; row++) {
        if (table->mean_at[row] < 0) continue;
        if (table->type == FLOAT32)
            exchange_floats(table, u, row, back);
        else
            exchange_halves(table, u, row, back);
        if (!back) table->mean_at[row] = (int32_t)u->step;
    }
}
