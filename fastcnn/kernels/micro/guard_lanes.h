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
#define INTS_AT(p) (*(const INTS *)(p))

typedef I INTS __attribute__((vector_size(LANES * sizeof(T)), aligned(sizeof(T)), may_alias));

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
    _Pragma("GCC unroll 8") for (int k = 0; k < (h); k++) {                                                            \
        const INTS a = r[k], b = r[k + (h)];                                                                           \
        r[k] = NAME(larger)(SHUFFLE(a, b, LANES_OF(KEPT, h)), SHUFFLE(a, b, LANES_OF(PARTNER, h)));                    \
    }

/* The largest magnitude of each of `count` pixels, LANES of them or (if not `whole`) fewer. */
INLINE INTS NAME(peaks_block)(const int whole, ptrdiff_t count, ptrdiff_t channels, const T *a, ptrdiff_t a_pixel) {
    INTS r[LANES];
    const T *pixel[LANES];
#pragma GCC unroll 16
    for (int k = 0; k < LANES; k++) {
        pixel[k] = a + (whole || k < count ? k : count - 1) * a_pixel;
        r[k] = (INTS){0};
    }
    for (ptrdiff_t c = 0; channels >= LANES && c < channels; c += LANES) {
        const ptrdiff_t at = c + LANES <= channels ? c : channels - LANES;
#pragma GCC unroll 16
        for (int k = 0; k < LANES; k++) r[k] = NAME(larger)(r[k], INTS_AT(pixel[k] + at) & MAGNITUDE);
    }
    for (int k = 0; k < LANES && channels < LANES; k++) {
        memcpy(&r[k], pixel[k], (size_t)channels * sizeof(T));
        r[k] &= MAGNITUDE;
    }
#if LANES >= 16
    HALVE(8)
#endif
#if LANES >= 8
    HALVE(4)
#endif
#if LANES >= 4
    HALVE(2)
#endif
    HALVE(1)
    return r[0]; /* lane i is of pixel i */
}

static void NAME(peaks)(ptrdiff_t count, ptrdiff_t channels, const T *a, ptrdiff_t a_pixel, T *out) {
    for (; count >= LANES; count -= LANES, a += LANES * a_pixel, out += LANES)
        *(INTS *)out = NAME(peaks_block)(1, LANES, channels, a, a_pixel);
    if (count > 0) *(INTS *)out = NAME(peaks_block)(0, count, channels, a, a_pixel);
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

/* The largest product, as a sum of bits, of a pair that meets in tap (i, j): x at y + i, k + j and dy at y, k. */
INLINE I NAME(met)(const ptrdiff_t rows, const ptrdiff_t step, const T *x, const T *dy, ptrdiff_t pitch) {
    I most = 0;
    for (ptrdiff_t y = 0; y < rows; y++) {
#pragma GCC unroll 4
        for (ptrdiff_t k = 0; k < step; k++) {
            const I both = (((const I *)(x + y * pitch))[k] >> 1) + (((const I *)(dy + y * pitch))[k] >> 1);
            most = both > most ? both : most;
        }
    }
    return most;
}

INLINE int NAME(weight_marks_body)(ptrdiff_t tiles, const ptrdiff_t rows, const ptrdiff_t step, const T *x, const T *dy,
                                   ptrdiff_t pitch, T *temp, uint8_t *marks) {
    const I range = (I)FASTCNN_RANGE << (MANTISSA - 1);
    const ptrdiff_t width = (step * tiles + LANES - 1) / LANES * LANES;
    I *const tall = (I *)temp, *const least = tall + pitch, *const least_x = least + pitch;
    I *const peak_dy = least_x + pitch;
    const INTS none = (INTS){0} + LEAST;
    for (ptrdiff_t p = 0; p < width + step; p += LANES) {
        INTS line[6] = {{0}}, all = {0}, smallest = none, pixel = none;
        for (ptrdiff_t y = 0; y < rows + 2; y++) {
            const T *row = x + y * pitch + p;
            line[y] = NAME(larger)(INTS_AT(row), INTS_AT(row + 1));
            if (step == 4) line[y] = NAME(larger)(line[y], NAME(larger)(INTS_AT(row + 2), INTS_AT(row + 3)));
            all = NAME(larger)(all, line[y]);
            pixel = NAME(larger)(pixel, -INTS_AT(row));
        }
        for (ptrdiff_t y = 0; y < 3; y++) { /* what the taps of a row meet */
            INTS most = line[y];
            for (ptrdiff_t k = 1; k < rows; k++) most = NAME(larger)(most, line[y + k]);
            smallest = NAME(larger)(smallest, -most);
        }
        *(INTS *)(tall + p) = all;
        *(INTS *)(least + p) = smallest;
        *(INTS *)(least_x + p) = pixel;
    }
    /* The quotient has two bounds, of which the smaller decides for most tiles: the ranges of dy and of the maxima that
       taps meet, together; and the range of x alone, as each tap meets the largest of dy with some pixel. */
    INTS worst = none, most = {0};
    for (ptrdiff_t p = 0; p < width; p += LANES) {
        const INTS peak = NAME(larger)(INTS_AT(tall + p), INTS_AT(tall + p + 2));
        const INTS smallest = NAME(larger)(NAME(larger)(INTS_AT(least + p), INTS_AT(least + p + 1)),
                                           INTS_AT(least + p + 2));
        INTS all = {0}, small = none, pixel = none;
        for (ptrdiff_t k = 0; k < step + 2; k++) pixel = NAME(larger)(pixel, INTS_AT(least_x + p + k));
        for (ptrdiff_t y = 0; y < rows; y++) {
            for (ptrdiff_t k = 0; k < step; k++) {
                const INTS place = INTS_AT(dy + y * pitch + p + k);
                all = NAME(larger)(all, place);
                small = NAME(larger)(small, -place);
            }
        }
        const INTS both = ((peak >> 1) + (smallest >> 1)) + ((all >> 1) + (small >> 1)), alone = (peak + pixel) >> 1;
        const INTS bound = ~NAME(larger)(~both, ~alone);
        worst = NAME(larger)(worst, bound);
        most = NAME(larger)(most, NAME(larger)(peak, all));
        *(INTS *)(tall + p) = peak;
        *(INTS *)(least + p) = bound;
        *(INTS *)(peak_dy + p) = all;
    }
    int found = 0;
    for (int k = 0; k < LANES; k++) found |= worst[k] > range || most[k] >= INFINITE;
    memset(marks, 0, (size_t)tiles);
    if (!found) return 0;
    found = 0;
    for (ptrdiff_t t = 0; t < tiles; t++) {
        const ptrdiff_t p = t * step;
        int wide = tall[p] >= INFINITE || peak_dy[p] >= INFINITE;
        if (!wide && tall[p] && peak_dy[p] && least[p] > range) {
            const I enough = (tall[p] >> 1) + (peak_dy[p] >> 1) - range;
            for (ptrdiff_t tap = 0; tap < 9 && !wide; tap++) {
                const T *a = x + tap / 3 * pitch + p + tap % 3, *b = dy + p;
                wide = NAME(met)(rows, step, a, b, pitch) < enough;
            }
        }
        marks[t] = wide ? FASTCNN_WIDE : 0;
        found |= marks[t];
    }
    return found;
}

static int NAME(weight_marks)(ptrdiff_t tiles, ptrdiff_t rows, ptrdiff_t step, const T *x, const T *dy, ptrdiff_t pitch,
                              T *temp, uint8_t *marks) {
    if (rows == 4) return NAME(weight_marks_body)(tiles, 4, 4, x, dy, pitch, temp, marks);
    if (step == 4) return NAME(weight_marks_body)(tiles, 2, 4, x, dy, pitch, temp, marks);
    return NAME(weight_marks_body)(tiles, 2, 2, x, dy, pitch, temp, marks);
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
#undef KEPT
#undef PARTNER
#undef HALVE
