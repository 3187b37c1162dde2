/* The search for tiles of a large range for one element type T and one vector length. Included twice by each instruction
   set's part of guard.c, which defines

     T, I, LANES, SUFFIX    element type, signed integer of its size, elements of a register, name of both together
     LARGER                 (vector, vector) -> the larger integers, if there is an instruction for it */

#define INTS NAME(ints)
#define LANES_OF(f, h) GLUE(LANES_, LANES)(f, h)
#define LEAST ((I)((uint64_t)1 << (8 * sizeof(T) - 1)))
#define MAGNITUDE (~LEAST)
#define MANTISSA (sizeof(T) == 4 ? 23 : 52)
#define INFINITE ((MAGNITUDE >> MANTISSA) << MANTISSA)
#define ROW NAME(row)
#define ROW_LANES ((ptrdiff_t)(16 / sizeof(T)))
#define INTS_AT(p) (*(const INTS *)(p))

typedef I INTS __attribute__((vector_size(LANES * sizeof(T)), aligned(sizeof(T)), may_alias));
typedef I ROW __attribute__((vector_size(16), aligned(sizeof(T)), may_alias));

INLINE INTS NAME(larger)(INTS a, INTS b) {
#ifdef LARGER
    return (INTS)LARGER(a, b);
#else
    const INTS first = (INTS)(a > b);
    return (a & first) | (b & ~first);
#endif
}

/* Lane i of both: of b where i has the bit h, else of a; and its partner i ^ h. */
#define KEPT(i, h) (((i) & (h)) ? LANES + (i) : (i))
#define PARTNER(i, h) (((i) & (h)) ? LANES + (i) - (h) : (i) + (h))
#define HALVE(h)                                                                                                       \
    _Pragma("GCC unroll 4") for (int k = 0; k < (h); k++) {                                                            \
        const INTS a = r[k], b = r[k + (h)];                                                                           \
        r[k] = NAME(larger)(SHUFFLE(a, b, LANES_OF(KEPT, h)), SHUFFLE(a, b, LANES_OF(PARTNER, h)));                    \
    }

/* Lane k: the largest magnitude of the channels at pixel[k]. */
INLINE INTS NAME(peaks_of)(const T *const *pixel, ptrdiff_t channels) {
    INTS r[LANES];
#pragma GCC unroll 8
    for (int k = 0; k < LANES; k++) {
        if (channels >= LANES) {
            r[k] = INTS_AT(pixel[k]) & MAGNITUDE;
        } else {
            r[k] = (INTS){0};
            memcpy(&r[k], pixel[k], (size_t)channels * sizeof(T));
            r[k] &= MAGNITUDE;
        }
    }
    for (ptrdiff_t c = LANES; c < channels; c += LANES) {
        const ptrdiff_t at = c + LANES <= channels ? c : channels - LANES;
#pragma GCC unroll 8
        for (int k = 0; k < LANES; k++) r[k] = NAME(larger)(r[k], INTS_AT(pixel[k] + at) & MAGNITUDE);
    }
#if LANES >= 8
    HALVE(4)
#endif
#if LANES >= 4
    HALVE(2)
#endif
    HALVE(1)
    return r[0];
}

/* Of `count` pixels, LANES of them or (if not `whole`) fewer. */
INLINE INTS NAME(peaks_block)(const int whole, ptrdiff_t count, ptrdiff_t channels, const T *a, ptrdiff_t a_pixel) {
    const T *pixel[LANES];
#pragma GCC unroll 8
    for (int k = 0; k < LANES; k++) pixel[k] = a + (whole || k < count ? k : count - 1) * a_pixel;
    return NAME(peaks_of)(pixel, channels);
}

static void NAME(peaks)(ptrdiff_t before, ptrdiff_t count, ptrdiff_t channels, const T *a, ptrdiff_t a_pixel, T *out,
                        ptrdiff_t pitch) {
    const T *const end = out + pitch;
    for (ptrdiff_t x = 0; x < before; x++) *out++ = 0;
    for (; count >= LANES; count -= LANES, a += LANES * a_pixel, out += LANES)
        *(INTS *)out = NAME(peaks_block)(1, LANES, channels, a, a_pixel);
    if (count > 0) *(INTS *)out = NAME(peaks_block)(0, count, channels, a, a_pixel);
    if (count > 0) out += count;
    for (; end - out >= LANES; out += LANES) *(INTS *)out = (INTS){0};
    while (out < end) *out++ = 0;
}

INLINE int NAME(marks_body)(ptrdiff_t tiles, const ptrdiff_t rows, const ptrdiff_t step, ptrdiff_t high, ptrdiff_t wide,
                            const T *peaks, ptrdiff_t pitch, T *temp, uint8_t *marks) {
    const I range = (I)FASTCNN_RANGE << MANTISSA;
    const ptrdiff_t width = (step * tiles + LANES - 1) / LANES * LANES;
    /* Minima are maxima of negative numbers, where 0, if it is not to count, is the smallest integer. */
    I *const tall = (I *)temp, *const least = tall + pitch, *const empty = least + pitch;
    const INTS none = (INTS){0} + LEAST;
    for (ptrdiff_t x = 0; x < width + step; x += LANES) {
        INTS above = {0}, middle = {0}, all = {0}, smallest = none, zero = none;
        for (ptrdiff_t y = 0; y < rows + 2; y++) {
            const T *p = peaks + y * pitch + x;
            const INTS line = NAME(larger)(NAME(larger)(INTS_AT(p), INTS_AT(p + 1)), INTS_AT(p + 2));
            if (y >= 2 && y < high + 2) {
                const INTS window = NAME(larger)(above, line);
                smallest = NAME(larger)(smallest, ~((window - 1) & MAGNITUDE));
                zero = NAME(larger)(zero, -window);
            }
            above = NAME(larger)(middle, line);
            middle = line;
            all = NAME(larger)(all, line);
        }
        *(INTS *)(tall + x) = all;
        *(INTS *)(least + x) = smallest;
        *(INTS *)(empty + x) = zero;
    }
    for (ptrdiff_t x = wide; x < width + step; x++) least[x] = empty[x] = LEAST;
    INTS worst = none, most = {0}, lowest = none;
    for (ptrdiff_t x = 0; x < width; x += LANES) {
        const INTS peak = NAME(larger)(INTS_AT(tall + x), INTS_AT(tall + x + step - 1));
        INTS smallest = INTS_AT(least + x), zero = INTS_AT(empty + x);
        for (ptrdiff_t k = 1; k < step; k++) {
            smallest = NAME(larger)(smallest, INTS_AT(least + x + k));
            zero = NAME(larger)(zero, INTS_AT(empty + x + k));
        }
        worst = NAME(larger)(worst, peak + smallest);
        most = NAME(larger)(most, peak);
        lowest = NAME(larger)(lowest, zero);
        *(INTS *)(tall + x) = peak;
        *(INTS *)(least + x) = smallest;
        *(INTS *)(empty + x) = zero;
    }
    int found = 0;
    for (int k = 0; k < LANES; k++) found |= worst[k] > range || most[k] >= INFINITE || lowest[k] == 0;
    memset(marks, 0, (size_t)tiles);
    if (!found) return 0;
    found = 0;
    for (ptrdiff_t t = 0; t < tiles; t++) {
        const ptrdiff_t x = t * step;
        if (tall[x] >= INFINITE || tall[x] + least[x] > range) marks[t] = FASTCNN_WIDE;
        else if (empty[x] == 0 && tall[x] != 0) marks[t] = FASTCNN_EMPTY;
        found |= marks[t];
    }
    return found;
}

static int NAME(marks)(ptrdiff_t tiles, ptrdiff_t rows, ptrdiff_t step, ptrdiff_t high, ptrdiff_t wide, const T *peaks,
                       ptrdiff_t pitch, T *temp, uint8_t *marks) {
    if (rows == 4) return NAME(marks_body)(tiles, 4, 4, high, wide, peaks, pitch, temp, marks);
    if (step == 4) return NAME(marks_body)(tiles, 2, 4, high, wide, peaks, pitch, temp, marks);
    return NAME(marks_body)(tiles, 2, 2, high, wide, peaks, pitch, temp, marks);
}

/* Whether the largest pair of a tile is beyond the range of the largest that meets in one of the taps: of tap (i, j), x
   at y + i, k + j and dy at y, k. Half the bits of a float are, but for a constant and 6 %, half its logarithm. */
INLINE int NAME(is_wide)(const ptrdiff_t rows, const ptrdiff_t step, I peak, const T *x, ptrdiff_t pitch, const T *dy,
                         ptrdiff_t dy_row, ptrdiff_t dy_pixel, ptrdiff_t outputs) {
    const ptrdiff_t places = rows * step;
    I y[24] = {0}, most = 0;
    for (ptrdiff_t first = 0; first < places; first += LANES) {
        const T *pixel[LANES];
#pragma GCC unroll 8
        for (int k = 0; k < LANES; k++) {
            const ptrdiff_t q = first + k < places ? first + k : places - 1;
            pixel[k] = dy + q / step * dy_row + q % step * dy_pixel;
        }
        *(INTS *)(y + first) = NAME(peaks_of)(pixel, outputs);
    }
#pragma GCC unroll 16
    for (ptrdiff_t q = 0; q < places; q++) most = y[q] > most ? y[q] : most;
    if (peak >= INFINITE || most >= INFINITE) return 1;
    if (peak == 0 || most == 0) return 0;
    /* A row of places fits 16 bytes: x has to be above `low` in one of them, and is in none past the last place. */
    const I enough = (peak >> 1) + (most >> 1) - ((I)FASTCNN_RANGE << (MANTISSA - 1)) - 1;
    ROW low[4], half[6][3];
#pragma GCC unroll 4
    for (ptrdiff_t i = 0; i < rows; i++) {
        low[i] = enough - (*(const ROW *)(y + i * step) >> 1);
        for (ptrdiff_t k = step; k < ROW_LANES; k++) low[i][k] = MAGNITUDE;
    }
#pragma GCC unroll 6
    for (ptrdiff_t i = 0; i < rows + 2; i++) {
#pragma GCC unroll 3
        for (ptrdiff_t j = 0; j < 3; j++) half[i][j] = *(const ROW *)(x + i * pitch + j) >> 1;
    }
    int wide = 0;
#pragma GCC unroll 3
    for (ptrdiff_t i = 0; i < 3; i++) {
#pragma GCC unroll 3
        for (ptrdiff_t j = 0; j < 3; j++) {
            ROW met = {0};
            int64_t pair[2];
#pragma GCC unroll 4
            for (ptrdiff_t k = 0; k < rows; k++) met |= (ROW)(half[k + i][j] > low[k]);
            memcpy(pair, &met, sizeof(pair));
            wide |= (pair[0] | pair[1]) == 0;
        }
    }
    return wide;
}

INLINE int NAME(weight_marks_body)(ptrdiff_t tiles, const ptrdiff_t rows, const ptrdiff_t step, const T *x,
                                   ptrdiff_t pitch, const T *dy, ptrdiff_t dy_row, ptrdiff_t dy_pixel,
                                   ptrdiff_t outputs, T *temp, uint8_t *marks) {
    const I range = (I)FASTCNN_RANGE << MANTISSA;
    const ptrdiff_t width = (step * tiles + LANES - 1) / LANES * LANES;
    I *const tall = (I *)temp, *const least = tall + pitch;
    const INTS none = (INTS){0} + LEAST;
    for (ptrdiff_t p = 0; p < width + step; p += LANES) {
        INTS all = {0}, smallest = none;
        for (ptrdiff_t y = 0; y < rows + 2; y++) {
            all = NAME(larger)(all, INTS_AT(x + y * pitch + p));
            smallest = NAME(larger)(smallest, -INTS_AT(x + y * pitch + p));
        }
        *(INTS *)(tall + p) = all;
        *(INTS *)(least + p) = smallest;
    }
    int found = 0;
    for (ptrdiff_t t = 0; t < tiles; t++) {
        I peak = 0, low = LEAST;
#pragma GCC unroll 6
        for (ptrdiff_t k = 0; k < step + 2; k++) {
            const I a = tall[step * t + k], b = least[step * t + k];
            peak = a > peak ? a : peak;
            low = b > low ? b : low;
        }
        /* Each tap meets the largest dy with some pixel of x: where these are all alike, dy need not be looked at. */
        marks[t] = 0;
        if (peak >= INFINITE || peak + low > range) {
            marks[t] = NAME(is_wide)(rows, step, peak, x + step * t, pitch, dy + step * t * dy_pixel, dy_row, dy_pixel,
                                     outputs) ? FASTCNN_WIDE : 0;
            found |= marks[t];
        }
    }
    return found;
}

static int NAME(weight_marks)(ptrdiff_t tiles, ptrdiff_t rows, ptrdiff_t step, const T *x, ptrdiff_t pitch, const T *dy,
                              ptrdiff_t dy_row, ptrdiff_t dy_pixel, ptrdiff_t outputs, T *temp, uint8_t *marks) {
    if (rows == 4)
        return NAME(weight_marks_body)(tiles, 4, 4, x, pitch, dy, dy_row, dy_pixel, outputs, temp, marks);
    if (step == 4)
        return NAME(weight_marks_body)(tiles, 2, 4, x, pitch, dy, dy_row, dy_pixel, outputs, temp, marks);
    return NAME(weight_marks_body)(tiles, 2, 2, x, pitch, dy, dy_row, dy_pixel, outputs, temp, marks);
}

#undef T
#undef I
#undef LANES
#undef SUFFIX
#undef LARGER
#undef INTS
#undef LANES_OF
#undef LEAST
#undef MAGNITUDE
#undef MANTISSA
#undef INFINITE
#undef INTS_AT
#undef ROW
#undef ROW_LANES
#undef KEPT
#undef PARTNER
#undef HALVE
