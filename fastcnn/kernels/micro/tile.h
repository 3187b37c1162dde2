/* The tiles for one element type T and one vector length. Included twice by each instruction set's file, which defines

     T, LANES, SUFFIX       element type, elements of a register, name of the type
     ROWS                   rows of a tile: ROWS x 2 accumulators, two registers of b and one of a must fit
     LOAD_PART, STORE_PART  (pointer, count) -> vector, (pointer, vector, count): count < LANES elements
     INEXACT                where the type has precisions to choose from: for winograd4.h

   The accumulators are locals of a function that is inlined with a constant number of rows and registers, so that they
   stay in registers for the whole sum; that is why each tile height has a case of its own. A broadcast element of a
   meets two registers of b: per step, m + 2 loads for 2*m multiply-adds. A sum starts from 0 and is added to init or c
   at the end: long sums come in parts, whose rounding errors stay small. */

#define VEC NAME(vec)

typedef T VEC __attribute__((vector_size(LANES * sizeof(T)), aligned(sizeof(T)), may_alias));

INLINE VEC NAME(load)(const T *p, ptrdiff_t count) {
    return count >= LANES ? *(const VEC *)p : LOAD_PART(p, count);
}

INLINE void NAME(store)(T *p, VEC value, ptrdiff_t count) {
    if (count >= LANES) *(VEC *)p = value;
    else STORE_PART(p, value, count);
}

INLINE void NAME(tile_body)(const int m, const int registers, ptrdiff_t n, const fastcnn_sum *sum, const T *a,
                            const T *b, const T *init, T *c, ptrdiff_t c_row) {
    VEC acc[ROWS][2];
    const ptrdiff_t a_row = sum->a_row, a_step = sum->a_step, b_step = sum->b_step;
    const ptrdiff_t last = n - (registers - 1) * LANES;
#pragma GCC unroll 16
    for (int r = 0; r < m; r++) {
        acc[r][0] = acc[r][1] = (VEC){0};
    }
    for (ptrdiff_t s = 0; s < sum->segments; s++) {
        const T *x = a + sum->a_offset[s];
        const T *y = b + (sum->b_offset ? sum->b_offset[s] : s * sum->b_segment);
        /* Three rows to a pointer, at 0, 1 and 2 strides: with an offset for each row, most would be on the stack. */
        const T *three[(ROWS + 2) / 3];
#pragma GCC unroll 16
        for (int q = 0; 3 * q < m; q++) {
            three[q] = x + 3 * q * a_row;
            __asm__("" : "+r"(three[q])); /* or the compiler makes offsets of them again */
        }
        for (ptrdiff_t k = 0; k < sum->depth; k++) {
            const VEC y0 = *(const VEC *)y;
            const VEC y1 = *(const VEC *)(y + (registers - 1) * LANES);
#pragma GCC unroll 16
            for (int r = 0; r < m; r++) {
                const T value = three[r / 3][r % 3 * a_row];
                acc[r][0] += value * y0;
                if (registers == 2) acc[r][1] += value * y1;
            }
#pragma GCC unroll 16
            for (int q = 0; 3 * q < m; q++) three[q] += a_step;
            y += b_step;
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < m; r++) {
        T *const first = c + r * c_row, *const second = first + (registers - 1) * LANES;
        if (registers == 2) *(VEC *)first = acc[r][0] + *(const VEC *)(init ? init : first);
        acc[r][registers - 1] += init ? *(const VEC *)(init + (registers - 1) * LANES) : NAME(load)(second, last);
        NAME(store)(second, acc[r][registers - 1], last);
    }
}

#define TILE_CASE(m)                                                                     \
    case m:                                                                              \
        if (n > LANES) NAME(tile_body)(m, 2, n, sum, a, b, init, c, c_row);              \
        else NAME(tile_body)(m, 1, n, sum, a, b, init, c, c_row);                        \
        break;

static void NAME(tile)(ptrdiff_t m, ptrdiff_t n, const fastcnn_sum *sum, const T *a, const T *b, const T *init, T *c,
                       ptrdiff_t c_row) {
    switch (m) {
        TILE_CASE(1) TILE_CASE(2) TILE_CASE(3) TILE_CASE(4)
#if ROWS >= 6
        TILE_CASE(5) TILE_CASE(6)
#endif
#if ROWS >= 14
        TILE_CASE(7) TILE_CASE(8) TILE_CASE(9) TILE_CASE(10) TILE_CASE(11) TILE_CASE(12) TILE_CASE(13) TILE_CASE(14)
#endif
    }
}

/* Depthwise: one register of channels, up to eight places at a time, so that a tap's weights are loaded once for all. */
INLINE void NAME(depthwise_body)(const int m, ptrdiff_t n, const fastcnn_sum *sum, const T *a, const T *b,
                                 const T *init, T *c, ptrdiff_t c_row) {
    VEC acc[8];
    for (int r = 0; r < m; r++) acc[r] = init ? *(const VEC *)init : NAME(load)(c + r * c_row, n);
    for (ptrdiff_t s = 0; s < sum->segments; s++) {
        const T *x = a + sum->a_offset[s];
        const VEC weight = *(const VEC *)(b + s * sum->b_segment);
        for (int r = 0; r < m; r++) acc[r] += NAME(load)(x + r * sum->a_row, n) * weight;
    }
    for (int r = 0; r < m; r++) NAME(store)(c + r * c_row, acc[r], n);
}

static void NAME(depthwise)(ptrdiff_t m, ptrdiff_t n, const fastcnn_sum *sum, const T *a, const T *b, const T *init,
                            T *c, ptrdiff_t c_row) {
    for (; m >= 8; m -= 8, a += 8 * sum->a_row, c += 8 * c_row) {
        if (n >= LANES) NAME(depthwise_body)(8, LANES, sum, a, b, init, c, c_row);
        else NAME(depthwise_body)(8, n, sum, a, b, init, c, c_row);
    }
    if (m >= 4 && n >= LANES) {
        NAME(depthwise_body)(4, LANES, sum, a, b, init, c, c_row);
        m -= 4, a += 4 * sum->a_row, c += 4 * c_row;
    }
    for (; m > 0; m--, a += sum->a_row, c += c_row) NAME(depthwise_body)(1, n, sum, a, b, init, c, c_row);
}

/* Gradient of depthwise weights: `taps` accumulators, one for each tap, over rows of places. */
INLINE void NAME(depthwise_weights_body)(const int taps, ptrdiff_t n, ptrdiff_t rows, const fastcnn_sum *sum,
                                         const ptrdiff_t *a_offset, const T *a, const T *b, T *c, ptrdiff_t c_row) {
    VEC acc[9];
#pragma GCC unroll 9
    for (int s = 0; s < taps; s++) acc[s] = NAME(load)(c + s * c_row, n);
    for (ptrdiff_t row = 0; row < rows; row++, a += sum->a_row, b += sum->b_segment) {
        const T *x = a, *y = b;
        for (ptrdiff_t k = 0; k < sum->depth; k++, x += sum->a_step, y += sum->b_step) {
            const VEC grad = NAME(load)(y, n);
#pragma GCC unroll 9
            for (int s = 0; s < taps; s++) acc[s] += NAME(load)(x + a_offset[s], n) * grad;
        }
    }
#pragma GCC unroll 9
    for (int s = 0; s < taps; s++) NAME(store)(c + s * c_row, acc[s], n);
}

static void NAME(depthwise_weights)(ptrdiff_t n, ptrdiff_t rows, const fastcnn_sum *sum, const T *a, const T *b, T *c,
                                    ptrdiff_t c_row) {
    ptrdiff_t s = 0;
#define TAPS_OF(count)                                                                                                 \
    for (; s + count <= sum->segments; s += count, c += count * c_row) {                                               \
        if (n >= LANES) NAME(depthwise_weights_body)(count, LANES, rows, sum, sum->a_offset + s, a, b, c, c_row);      \
        else NAME(depthwise_weights_body)(count, n, rows, sum, sum->a_offset + s, a, b, c, c_row);                     \
    }
    TAPS_OF(9)
    TAPS_OF(4)
    TAPS_OF(1)
#undef TAPS_OF
}

/* x - x is 0, or NaN where x is not finite: also in a sum of such differences. */
static int NAME(all_finite)(ptrdiff_t n, const T *a) {
    VEC sums[4] = {{0}, {0}, {0}, {0}};
    int finite = 1;
    for (; n >= 4 * LANES; n -= 4 * LANES, a += 4 * LANES) {
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++) {
            const VEC x = *(const VEC *)(a + r * LANES);
            sums[r] += x - x;
        }
    }
    for (; n > 0; n -= LANES, a += LANES) {
        const VEC x = NAME(load)(a, n);
        sums[0] += x - x;
    }
    sums[0] += sums[1] + sums[2] + sums[3];
    for (int i = 0; i < LANES; i++) finite &= sums[0][i] == 0;
    return finite;
}

#include "few.h"
#include "winners.h"
#include "winograd.h"
#include "dots.h"
#ifdef INEXACT
#include "winograd4.h"
#undef INEXACT
#endif

#undef T
#undef LANES
#undef SUFFIX
#undef LOAD_PART
#undef STORE_PART
#undef VEC
#undef TILE_CASE
