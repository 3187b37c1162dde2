/* What convolutions of few channels need besides the tiles: included by tile.h, for its T, LANES and VEC. */

/* The pixels of a row, each the sum of what the windows over it have for it. A pixel is stored with whole vectors,
   whose rest the next pixels write over; only the last ones have to keep to their own. */
static void NAME(gather)(ptrdiff_t columns, ptrdiff_t n, ptrdiff_t start, ptrdiff_t taps, ptrdiff_t stride,
                         ptrdiff_t windows, const T *a, ptrdiff_t pitch, T *out) {
    ptrdiff_t q = start / stride, r = start % stride;
    const ptrdiff_t step = stride * n - pitch;
    for (ptrdiff_t x = 0; x < columns; x++) {
        const ptrdiff_t none = q - windows + 1, first = none > 0 ? none : 0;
        const ptrdiff_t all = r < taps ? (stride == 1 ? taps - 1 : (taps - 1 - r) / stride) : -1;
        const ptrdiff_t last = all < q ? all : q;
        for (ptrdiff_t c = 0; c < n; c += LANES) {
            const T *p = a + q * pitch + r * n + c + first * step;
            VEC sum = {0};
            for (ptrdiff_t t = first; t <= last; t++, p += step) sum += *(const VEC *)p;
            NAME(store)(out + x * n + c, sum, (columns - x) * n - c);
        }
        if (++r == stride) r = 0, q++;
    }
}

/* All m outputs of a run of places, a register or more of them at a time. So that eight sums are on their way where m
   is small, several registers are. */
INLINE void NAME(planar_body)(const int m, const int registers, ptrdiff_t steps, const ptrdiff_t *offset, const T *b,
                              const T *w, int add, T *c, ptrdiff_t c_row) {
    VEC acc[8][8];
#pragma GCC unroll 8
    for (int o = 0; o < m; o++) {
#pragma GCC unroll 8
        for (int r = 0; r < registers; r++) acc[o][r] = (VEC){0};
    }
    for (ptrdiff_t s = 0; s < steps; s++, w += m) {
        const T *y = b + offset[s];
        VEC places[8];
#pragma GCC unroll 8
        for (int r = 0; r < registers; r++) places[r] = *(const VEC *)(y + r * LANES);
#pragma GCC unroll 8
        for (int o = 0; o < m; o++) {
#pragma GCC unroll 8
            for (int r = 0; r < registers; r++) acc[o][r] += w[o] * places[r];
        }
    }
#pragma GCC unroll 8
    for (int o = 0; o < m; o++) {
#pragma GCC unroll 8
        for (int r = 0; r < registers; r++) {
            VEC *const out = (VEC *)(c + o * c_row + r * LANES);
            if (add) acc[o][r] += *out;
            *out = acc[o][r];
        }
    }
}

#define PLANAR_CASE(m, registers)                                                                    \
    case m:                                                                                          \
        for (; x + (registers - 1) * LANES < n; x += registers * LANES)                              \
            NAME(planar_body)(m, registers, steps, offset, b + x, w, add, c + x, c_row);             \
        for (; x < n; x += LANES) NAME(planar_body)(m, 1, steps, offset, b + x, w, add, c + x, c_row); \
        break;

static void NAME(planar)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t steps, const ptrdiff_t *offset, const T *b, const T *w,
                         int add, T *c, ptrdiff_t c_row) {
    ptrdiff_t x = 0;
    switch (m) {
        PLANAR_CASE(1, 8) PLANAR_CASE(2, 4) PLANAR_CASE(3, 3) PLANAR_CASE(4, 2)
#if ROWS >= 6
        PLANAR_CASE(5, 2) PLANAR_CASE(6, 2)
#endif
#if ROWS >= 14
        PLANAR_CASE(7, 2) PLANAR_CASE(8, 2)
#endif
    }
}

/* m planes of places to places of m channels. Where a register can be permuted at run time, one of the result is merged
   from those of all planes: element i of result register k is place i / m (counted through k) of plane i % m. */
#ifdef PERMUTE_MERGE
INLINE void NAME(weave_body)(const int m, ptrdiff_t rows, ptrdiff_t n, const T *a, ptrdiff_t a_row, ptrdiff_t a_line,
                             const T *bias, T *out, ptrdiff_t out_line) {
    for (ptrdiff_t y = 0; y < rows; y++) {
        for (ptrdiff_t x = 0; x < n; x += LANES) {
            VEC plane[8];
#pragma GCC unroll 8
            for (int o = 0; o < m; o++)
                plane[o] = *(const VEC *)(a + y * a_line + o * a_row + x) + (bias ? bias[o] : 0);
#pragma GCC unroll 8
            for (int k = 0; k < m; k++) {
                const ptrdiff_t left = (n - x) * m - k * LANES;
                VEC woven = {0};
                if (left <= 0) break;
#pragma GCC unroll 8
                for (int o = 0; o < m; o++) woven = PERMUTE_MERGE(woven, m, k * LANES, o, plane[o]);
                NAME(store)(out + y * out_line + x * m + k * LANES, woven, left);
            }
        }
    }
}

#define WEAVE_CASE(m)                                                                                \
    case m: NAME(weave_body)(m, rows, n, a, a_row, a_line, bias, out, out_line); break;

static void NAME(weave)(ptrdiff_t m, ptrdiff_t rows, ptrdiff_t n, const T *a, ptrdiff_t a_row, ptrdiff_t a_line,
                        const T *bias, T *out, ptrdiff_t out_line) {
    switch (m) {
        WEAVE_CASE(1) WEAVE_CASE(2) WEAVE_CASE(3) WEAVE_CASE(4) WEAVE_CASE(5) WEAVE_CASE(6) WEAVE_CASE(7) WEAVE_CASE(8)
    }
}
#undef WEAVE_CASE
#else
static void NAME(weave)(ptrdiff_t m, ptrdiff_t rows, ptrdiff_t n, const T *a, ptrdiff_t a_row, ptrdiff_t a_line,
                        const T *bias, T *out, ptrdiff_t out_line) {
    for (ptrdiff_t y = 0; y < rows; y++) {
        for (ptrdiff_t o = 0; o < m; o++) {
            const T *plane = a + y * a_line + o * a_row, shift = bias ? bias[o] : 0;
            for (ptrdiff_t x = 0; x < n; x++) out[y * out_line + x * m + o] = plane[x] + shift;
        }
    }
}
#endif
#undef PLANAR_CASE
