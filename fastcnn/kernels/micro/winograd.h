/* The transforms of Winograd's F(2x2, 3x3), a register of channels at a time. Part of tile.h: the same T, LANES, NAME.

   A 2x2 tile y of a 3x3 convolution reads the 4x4 tile d of its source, and

     y = A' [ (G w G') . (B' d B) ] A,    dw = G' [ (A dy A') . (B' d B) ] G,    . element by element,

          1  0 -1  0           1    0    0           1  0
     B' = 0  1  1  0       G = 1/2  1/2  1/2     A = 1  1
          0 -1  1  0           1/2 -1/2  1/2         1 -1
          0  1  0 -1           0    0    1           0 -1

   16 multiplications where the sum itself has 36. Each element of y is made of the nine elements under its window alone,
   so what is not finite elsewhere in the tile does not reach it.
   S. Winograd, "Arithmetic Complexity of Computations", SIAM, 1980; A. Lavin, S. Gray, "Fast Algorithms for
   Convolutional Neural Networks", CVPR 2016. */

INLINE void NAME(winograd_b)(const VEC *d, ptrdiff_t step, VEC *v) {
    v[0] = d[0] - d[2 * step];
    v[1] = d[step] + d[2 * step];
    v[2] = d[2 * step] - d[step];
    v[3] = d[step] - d[3 * step];
}

/* v = B' d B for a row of tiles. Reads whole registers: past the last channel, into what follows. */
static void NAME(winograd_source)(ptrdiff_t tiles, ptrdiff_t channels, const T *a, ptrdiff_t a_row, ptrdiff_t a_pixel,
                                  T *v, ptrdiff_t v_position, ptrdiff_t v_tile) {
    for (ptrdiff_t t = 0; t < tiles; t++, a += 2 * a_pixel, v += v_tile) {
        for (ptrdiff_t c = 0; c < channels; c += LANES) {
            VEC d[16], e[16];
            const T *const next = a + 4 * a_row + c; /* what the tile below reads first */
            __builtin_prefetch(next);
            __builtin_prefetch(next + a_pixel);
            __builtin_prefetch(next + a_row);
            __builtin_prefetch(next + a_row + a_pixel);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) { /* e[4*j + i]: column j of B' d */
                VEC column[4];
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) column[i] = *(const VEC *)(a + i * a_row + j * a_pixel + c);
                NAME(winograd_b)(column, 1, e + 4 * j);
            }
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                NAME(winograd_b)(e + i, 4, d);
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++) *(VEC *)(v + (4 * i + j) * v_position + c) = d[j];
            }
        }
    }
}

INLINE void NAME(winograd_a)(const VEC *d, ptrdiff_t step, VEC *v) {
    v[0] = d[0];
    v[1] = d[0] + d[step];
    v[2] = d[0] - d[step];
    v[3] = -d[step];
}

/* v = A dy A' for a row of tiles. */
static void NAME(winograd_grad)(ptrdiff_t tiles, ptrdiff_t channels, const T *a, ptrdiff_t a_row, ptrdiff_t a_pixel,
                                T *v, ptrdiff_t v_position, ptrdiff_t v_tile) {
    for (ptrdiff_t t = 0; t < tiles; t++, a += 2 * a_pixel, v += v_tile) {
        for (ptrdiff_t c = 0; c < channels; c += LANES) {
            const T *const p = a + c, *const next = p + 2 * a_row;
            __builtin_prefetch(next);
            __builtin_prefetch(next + a_pixel);
            __builtin_prefetch(next + a_row);
            __builtin_prefetch(next + a_row + a_pixel);
            VEC d[4], e[8];
#pragma GCC unroll 2
            for (int j = 0; j < 2; j++) { /* e[4*j + i]: column j of A dy */
                const VEC column[2] = {*(const VEC *)(p + j * a_pixel), *(const VEC *)(p + a_row + j * a_pixel)};
                NAME(winograd_a)(column, 1, e + 4 * j);
            }
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                NAME(winograd_a)(e + i, 4, d);
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++) *(VEC *)(v + (4 * i + j) * v_position + c) = d[j];
            }
        }
    }
}

INLINE void NAME(winograd_a_transposed)(const VEC *m, ptrdiff_t step, VEC *y) {
    y[0] = m[0] + (m[step] + m[2 * step]);
    y[1] = (m[step] - m[2 * step]) - m[3 * step];
}

/* y = A' m A + init for a row of tiles: `rows` (1 or 2) rows and `columns` pixels of n channels. Returns 0 where all that
   was stored is finite. */
static int NAME(winograd_dest)(ptrdiff_t tiles, ptrdiff_t n, const T *m, ptrdiff_t m_position, ptrdiff_t m_tile,
                               const T *init, T *y, ptrdiff_t y_row, ptrdiff_t y_pixel, ptrdiff_t rows,
                               ptrdiff_t columns) {
    VEC bad = {0};
    for (ptrdiff_t t = 0; t < tiles; t++, m += m_tile, y += 2 * y_pixel, columns -= 2) {
        for (ptrdiff_t c = 0; c < n; c += LANES) {
            const VEC start = *(const VEC *)(init + c);
            VEC e[8], top[2], low[2];
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) { /* e[2*j + i]: column j of A' m */
                VEC column[4];
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) column[i] = *(const VEC *)(m + (4 * i + j) * m_position + c);
                NAME(winograd_a_transposed)(column, 1, e + 2 * j);
            }
            NAME(winograd_a_transposed)(e, 2, top);
            NAME(winograd_a_transposed)(e + 1, 2, low);
            const VEC y00 = top[0] + start, y01 = top[1] + start, y10 = low[0] + start, y11 = low[1] + start;
            const VEC sum = (y00 + y01) + (y10 + y11);
            bad += sum - sum; /* 0, or NaN where one of the four, or their sum, is not finite */
            NAME(store)(y + c, y00, n - c);
            if (columns > 1) NAME(store)(y + y_pixel + c, y01, n - c);
            if (rows > 1) {
                NAME(store)(y + y_row + c, y10, n - c);
                if (columns > 1) NAME(store)(y + y_row + y_pixel + c, y11, n - c);
            }
        }
    }
    int found = 0;
    for (int i = 0; i < LANES; i++) found |= bad[i] != bad[i];
    return found;
}

INLINE void NAME(winograd_g)(VEC w0, VEC w1, VEC w2, VEC *u) {
    const VEC sum = (w0 + w2) * (T)0.5, half = w1 * (T)0.5;
    u[0] = w0;
    u[1] = sum + half;
    u[2] = sum - half;
    u[3] = w2;
}

/* u = G w G' for n outputs: tap k of them at w + k*w_tap, position k at u + k*u_position; whole registers. */
static void NAME(winograd_weight)(ptrdiff_t n, const T *w, ptrdiff_t w_tap, T *u, ptrdiff_t u_position) {
    for (ptrdiff_t c = 0; c < n; c += LANES) {
        VEC e[12], d[4];
#pragma GCC unroll 3
        for (int j = 0; j < 3; j++) { /* e[4*j + i]: column j of G w */
            const T *p = w + j * w_tap + c;
            NAME(winograd_g)(*(const VEC *)p, *(const VEC *)(p + 3 * w_tap), *(const VEC *)(p + 6 * w_tap), e + 4 * j);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            NAME(winograd_g)(e[i], e[4 + i], e[8 + i], d);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) *(VEC *)(u + (4 * i + j) * u_position + c) = d[j];
        }
    }
}

INLINE void NAME(winograd_g_transposed)(const VEC *u, ptrdiff_t step, VEC *w) {
    const VEC sum = (u[step] + u[2 * step]) * (T)0.5;
    w[0] = u[0] + sum;
    w[1] = (u[step] - u[2 * step]) * (T)0.5;
    w[2] = sum + u[3 * step];
}

/* w = G' u G for n outputs, u being the sum, in order, of parts that lie u_part apart. */
static void NAME(winograd_weight_grad)(ptrdiff_t n, ptrdiff_t parts, const T *u, ptrdiff_t u_part, ptrdiff_t u_position,
                                       T *w, ptrdiff_t w_tap) {
    for (ptrdiff_t c = 0; c < n; c += LANES) {
        VEC e[12];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) { /* e[3*j + i]: column j of G' u */
            VEC sum[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                const T *p = u + (4 * i + j) * u_position + c;
                sum[i] = *(const VEC *)p;
                for (ptrdiff_t part = 1; part < parts; part++) sum[i] += *(const VEC *)(p + part * u_part);
            }
            NAME(winograd_g_transposed)(sum, 1, e + 3 * j);
        }
#pragma GCC unroll 3
        for (int i = 0; i < 3; i++) {
            VEC d[3];
            NAME(winograd_g_transposed)(e + i, 3, d);
#pragma GCC unroll 3
            for (int j = 0; j < 3; j++) *(VEC *)(w + (3 * i + j) * w_tap + c) = d[j];
        }
    }
}
