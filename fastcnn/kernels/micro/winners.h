/* Sums over the places that won a max-pool: included by tile.h, for its T, LANES and VEC. micro.h tells what they
   compute. */

/* At least eight sums are under way: where a block has fewer, those of several items are, apart until the end. */
INLINE void NAME(picked_body)(const int rows, const int registers, ptrdiff_t count, const int32_t *offset, const T *g,
                              ptrdiff_t step, const T *a, ptrdiff_t a_row, T *c, ptrdiff_t c_row) {
    const int items = rows * registers > 4 ? 1 : rows * registers > 2 ? 2 : 4;
    VEC acc[4][6][2];
    ptrdiff_t k = 0;
#pragma GCC unroll 4
    for (int s = 0; s < items; s++) {
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) acc[s][i][0] = acc[s][i][1] = (VEC){0};
    }
    for (; k + items <= count; k += items) {
#pragma GCC unroll 4
        for (int s = 0; s < items; s++) {
            const T value = g[(k + s) * step], *const x = a + offset[(k + s) * step];
#pragma GCC unroll 6
            for (int i = 0; i < rows; i++) {
                acc[s][i][0] += value * *(const VEC *)(x + i * a_row);
                if (registers == 2) acc[s][i][1] += value * *(const VEC *)(x + i * a_row + LANES);
            }
        }
    }
    for (; k < count; k++) {
        const T value = g[k * step], *const x = a + offset[k * step];
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            acc[0][i][0] += value * *(const VEC *)(x + i * a_row);
            if (registers == 2) acc[0][i][1] += value * *(const VEC *)(x + i * a_row + LANES);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) {
#pragma GCC unroll 2
        for (int r = 0; r < registers; r++) {
            VEC *const out = (VEC *)(c + i * c_row + r * LANES);
#pragma GCC unroll 4
            for (int s = 1; s < items; s++) acc[0][i][r] += acc[s][i][r];
            *out += acc[0][i][r];
        }
    }
}

#define PICKED_CASE(rows)                                                                                     \
    case rows:                                                                                                \
        if (two) NAME(picked_body)(rows, 2, count, offset, g, step, a + j, a_row, c + j, c_row);              \
        else NAME(picked_body)(rows, 1, count, offset, g, step, a + j, a_row, c + j, c_row);                  \
        break;

static void NAME(picked)(ptrdiff_t rows, ptrdiff_t width, ptrdiff_t count, const int32_t *offset, const T *g,
                         ptrdiff_t step, const T *a, ptrdiff_t a_row, T *c, ptrdiff_t c_row) {
    for (; rows > 0; rows -= 6, a += 6 * a_row, c += 6 * c_row) {
        for (ptrdiff_t j = 0; j < width; j += 2 * LANES) {
            const int two = width - j > LANES;
            switch (rows) {
                PICKED_CASE(1) PICKED_CASE(2) PICKED_CASE(3) PICKED_CASE(4) PICKED_CASE(5)
                default: PICKED_CASE(6)
            }
        }
    }
}
#undef PICKED_CASE

/* The offset of a tap by comparisons, where there are few: whole registers of them. */
INLINE int NAME(winners_body)(const int few, ptrdiff_t count, const uint8_t *restrict taps, const T *restrict grad,
                              const int32_t *restrict base, const int32_t *restrict tap_offset, int several,
                              int32_t start, int32_t *restrict offset, T *restrict g, T *restrict sums) {
    const int32_t first = start + tap_offset[0], second = start + tap_offset[1], third = start + tap_offset[2];
    const int32_t fourth = start + tap_offset[3];
    int odd = 0;
    for (ptrdiff_t k = 0; k < count; k++) {
        const int tap = taps[k];
        const T value = tap < several ? grad[k] : 0;
        if (few) offset[k] = base[k] + (tap == 0 ? first : tap == 1 ? second : tap == 2 ? third : fourth);
        else offset[k] = base[k] + start + tap_offset[tap];
        g[k] = value;
        sums[k] += value;
        odd |= !(value * 0 == 0);
    }
    return odd;
}

static int NAME(winners)(ptrdiff_t count, const uint8_t *taps, const T *grad, const int32_t *base,
                         const int32_t *tap_offset, int several, int32_t start, int32_t *offset, T *g, T *sums) {
    if (several <= 4) return NAME(winners_body)(1, count, taps, grad, base, tap_offset, several, start, offset, g, sums);
    return NAME(winners_body)(0, count, taps, grad, base, tap_offset, several, start, offset, g, sums);
}
