/* The transforms of tiles of STEP rows of 4 places: down a column by DOWN's, across a row by those of winograd4.h, which
   includes this for each STEP. TILES names what is defined. */

#define SIDE (STEP + 2) /* rows that a tile reads */

/* Transforms go by pairs of rows, which have most of their arithmetic in common and fit the registers: what another
   pair needs of the tile is read again. The compiler is kept from giving each address a register of its own. */
#define LOW(pair) ((pair) ? 2 * (pair) - 1 : 0)
#define HIGH(pair) ((pair) ? 2 * (pair) : SIDE - 1)
#define OPAQUE(pointer) __asm__("" : "+r"(pointer))

INLINE void TILES(put_row)(const VEC *row, T *v, ptrdiff_t v_position) {
    OPAQUE(v);
#pragma GCC unroll 6
    for (int j = 0; j < 6; j++) *(VEC *)(v + j * v_position) = row[j];
}

INLINE void TILES(source_tile)(const T *a, ptrdiff_t a_row, ptrdiff_t a_pixel, T *v, ptrdiff_t v_position) {
#pragma GCC unroll 3
    for (int pair = 0; pair < SIDE / 2; pair++) {
        VEC low[6], high[6], d[6];
        const T *row[SIDE];
#pragma GCC unroll 6
        for (int i = 0; i < SIDE; i++) {
            row[i] = a + i * a_row;
            OPAQUE(row[i]);
        }
#pragma GCC unroll 6
        for (int j = 0; j < 6; j++) {
            VEC column[SIDE], e[SIDE];
#pragma GCC unroll 6
            for (int i = 0; i < SIDE; i++) column[i] = *(const VEC *)(row[i] + j * a_pixel);
            DOWN(b)(column, 1, e);
            low[j] = e[LOW(pair)];
            high[j] = e[HIGH(pair)];
        }
        NAME(winograd4_b)(low, 1, d);
        TILES(put_row)(d, v + 6 * LOW(pair) * v_position, v_position);
        NAME(winograd4_b)(high, 1, d);
        TILES(put_row)(d, v + 6 * HIGH(pair) * v_position, v_position);
    }
}

/* A tile of which only rows `top` to `bottom` and columns `left` to `right` are there: the others are 0. */
INLINE void TILES(edge_tile)(ptrdiff_t top, ptrdiff_t bottom, ptrdiff_t left, ptrdiff_t right, const T *a,
                             ptrdiff_t a_row, ptrdiff_t a_pixel, T *v, ptrdiff_t v_position) {
    VEC d[SIDE * 6];
    for (int i = 0; i < SIDE; i++) {
#pragma GCC unroll 6
        for (int j = 0; j < 6; j++) {
            if (i >= top && i < bottom && j >= left && j < right)
                d[6 * i + j] = *(const VEC *)(a + i * a_row + j * a_pixel);
            else
                d[6 * i + j] = (VEC){0};
        }
    }
    TILES(source_tile)((const T *)d, 6 * LANES, LANES, v, v_position);
}

/* v = B' d B for a row of tiles. Only rows `top` to `bottom` and columns `left` to `right` of a are read: the others are
   0. Reads whole registers: past the last channel, into what follows. */
static void TILES(source)(ptrdiff_t tiles, ptrdiff_t channels, const T *a, ptrdiff_t a_row, ptrdiff_t a_pixel,
                          ptrdiff_t top, ptrdiff_t bottom, ptrdiff_t left, ptrdiff_t right, T *v,
                          ptrdiff_t v_position, ptrdiff_t v_tile) {
    for (ptrdiff_t t = 0; t < tiles; t++, a += 4 * a_pixel, v += v_tile, left -= 4, right -= 4) {
        const int whole = top <= 0 && bottom >= SIDE && left <= 0 && right >= 6;
        for (ptrdiff_t c = 0; c < channels; c += LANES) {
            const T *next = a + SIDE * a_row + c; /* what the tile below reads first */
#pragma GCC unroll 16
            for (int k = 0; k < 4 * STEP; k++) __builtin_prefetch(next + k / 4 * a_row + k % 4 * a_pixel);
            if (whole) TILES(source_tile)(a + c, a_row, a_pixel, v + c, v_position);
            else TILES(edge_tile)(top, bottom, left, right, a + c, a_row, a_pixel, v + c, v_position);
        }
    }
}

INLINE void TILES(grad_tile)(const T *a, ptrdiff_t a_row, ptrdiff_t a_pixel, T *v, ptrdiff_t v_position) {
    VEC column[4][STEP];
#pragma GCC unroll 4
    for (int i = 0; i < STEP; i++, a += a_row) {
        OPAQUE(a);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) column[j][i] = *(const VEC *)(a + j * a_pixel);
    }
#pragma GCC unroll 3
    for (int pair = 0; pair < SIDE / 2; pair++) {
        VEC low[4], high[4], d[6];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            VEC e[SIDE];
            DOWN(a)(column[j], 1, e);
            low[j] = e[LOW(pair)];
            high[j] = e[HIGH(pair)];
        }
        NAME(winograd4_a)(low, 1, d);
        TILES(put_row)(d, v + 6 * LOW(pair) * v_position, v_position);
        NAME(winograd4_a)(high, 1, d);
        TILES(put_row)(d, v + 6 * HIGH(pair) * v_position, v_position);
    }
}

/* v = A dy A' for a row of tiles. */
static void TILES(grad)(ptrdiff_t tiles, ptrdiff_t channels, const T *a, ptrdiff_t a_row, ptrdiff_t a_pixel, T *v,
                        ptrdiff_t v_position, ptrdiff_t v_tile) {
    for (ptrdiff_t t = 0; t < tiles; t++, a += 4 * a_pixel, v += v_tile) {
        for (ptrdiff_t c = 0; c < channels; c += LANES) {
            const T *next = a + STEP * a_row + c;
#pragma GCC unroll 16
            for (int k = 0; k < 4 * STEP; k++) __builtin_prefetch(next + k / 4 * a_row + k % 4 * a_pixel);
            TILES(grad_tile)(a + c, a_row, a_pixel, v + c, v_position);
        }
    }
}

INLINE VEC TILES(dest_tile)(const int whole, ptrdiff_t n, const T *m, ptrdiff_t m_position, VEC start, T *y,
                            ptrdiff_t y_row, ptrdiff_t y_pixel, ptrdiff_t rows, ptrdiff_t columns) {
    VEC bad = {0};
#pragma GCC unroll 2
    for (int pair = 0; pair < STEP / 2; pair++) { /* rows 0 and 2, 1 and 3; or 0 and 1 */
        const int second = pair + STEP / 2;
        VEC low[6], high[6], d[8], sum[4];
        const T *row[SIDE];
#pragma GCC unroll 6
        for (int i = 0; i < SIDE; i++) {
            row[i] = m + 6 * i * m_position;
            OPAQUE(row[i]);
        }
#pragma GCC unroll 6
        for (int j = 0; j < 6; j++) {
            VEC column[SIDE], e[STEP];
#pragma GCC unroll 6
            for (int i = 0; i < SIDE; i++) column[i] = *(const VEC *)(row[i] + j * m_position);
            DOWN(a_transposed)(column, 1, e);
            low[j] = e[pair];
            high[j] = e[second];
        }
        NAME(winograd4_a_transposed)(low, 1, d);
        NAME(winograd4_a_transposed)(high, 1, d + 4);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            d[j] += start;
            d[j + 4] += start;
            sum[j] = d[j] * HUGE_SCALE + d[j + 4] * HUGE_SCALE;
            if (whole || (pair < rows && j < columns)) NAME(store)(y + pair * y_row + j * y_pixel, d[j], n);
            if (whole || (second < rows && j < columns)) NAME(store)(y + second * y_row + j * y_pixel, d[j + 4], n);
        }
        bad += (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
    return bad;
}

/* y = A' m A + init for a row of tiles: `rows` (1 to STEP) rows and `columns` pixels of n channels. Returns 0 where all
   is finite and not huge: a huge number has swamped what shares its tile. */
static int TILES(dest)(ptrdiff_t tiles, ptrdiff_t n, const T *m, ptrdiff_t m_position, ptrdiff_t m_tile,
                       const T *init, T *y, ptrdiff_t y_row, ptrdiff_t y_pixel, ptrdiff_t rows, ptrdiff_t columns) {
    VEC bad = {0};
    for (ptrdiff_t t = 0; t < tiles; t++, m += m_tile, y += 4 * y_pixel, columns -= 4) {
        for (ptrdiff_t c = 0; c < n; c += LANES) {
            const VEC start = *(const VEC *)(init + c);
            VEC sum;
            if (rows >= STEP && columns >= 4 && n - c >= LANES)
                sum = TILES(dest_tile)(1, LANES, m + c, m_position, start, y + c, y_row, y_pixel, STEP, 4);
            else
                sum = TILES(dest_tile)(0, n - c, m + c, m_position, start, y + c, y_row, y_pixel, rows, columns);
            bad += sum - sum; /* 0, or NaN where the sum is not finite */
        }
    }
    int found = 0;
    for (int i = 0; i < LANES; i++) found |= bad[i] != bad[i];
    return found;
}

/* u = G w G' for n outputs: tap k of them at w + k*w_tap, position k at u + k*u_position; whole registers. */
static void TILES(weight)(ptrdiff_t n, const T *w, ptrdiff_t w_tap, T *u, ptrdiff_t u_position) {
    for (ptrdiff_t c = 0; c < n; c += LANES) {
        VEC e[3 * SIDE], d[6];
#pragma GCC unroll 3
        for (int j = 0; j < 3; j++) { /* e[SIDE*j + i]: column j of G w */
            const T *p = w + j * w_tap + c;
            DOWN(g)(*(const VEC *)p, *(const VEC *)(p + 3 * w_tap), *(const VEC *)(p + 6 * w_tap), e + SIDE * j);
        }
#pragma GCC unroll 6
        for (int i = 0; i < SIDE; i++) {
            NAME(winograd4_g)(e[i], e[SIDE + i], e[2 * SIDE + i], d);
#pragma GCC unroll 6
            for (int j = 0; j < 6; j++) *(VEC *)(u + (6 * i + j) * u_position + c) = d[j];
        }
    }
}

/* w = G' u G for n outputs, u being the sum, in order, of parts that lie u_part apart. */
static void TILES(weight_grad)(ptrdiff_t n, ptrdiff_t parts, const T *u, ptrdiff_t u_part, ptrdiff_t u_position, T *w,
                               ptrdiff_t w_tap) {
    for (ptrdiff_t c = 0; c < n; c += LANES) {
        VEC e[18];
        for (int j = 0; j < 6; j++) { /* e[3*j + i]: column j of G' u */
            VEC sum[SIDE];
#pragma GCC unroll 6
            for (int i = 0; i < SIDE; i++) {
                const T *p = u + (6 * i + j) * u_position + c;
                sum[i] = *(const VEC *)p;
                for (ptrdiff_t part = 1; part < parts; part++) sum[i] += *(const VEC *)(p + part * u_part);
            }
            DOWN(g_transposed)(sum, 1, e + 3 * j);
        }
        for (int i = 0; i < 3; i++) {
            VEC d[3];
            NAME(winograd4_g_transposed)(e + i, 3, d);
#pragma GCC unroll 3
            for (int j = 0; j < 3; j++) *(VEC *)(w + (3 * i + j) * w_tap + c) = d[j];
        }
    }
}

#undef STEP
#undef SIDE
#undef TILES
#undef DOWN
#undef LOW
#undef HIGH
#undef OPAQUE
