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

INLINE void NAME(winograd_a)(VEC d0, VEC d1, VEC *v) {
    v[0] = d0;
    v[1] = d0 + d1;
    v[2] = d0 - d1;
    v[3] = -d1;
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
            VEC left[4], right[4];
            NAME(winograd_a)(*(const VEC *)p, *(const VEC *)(p + a_row), left);
            NAME(winograd_a)(*(const VEC *)(p + a_pixel), *(const VEC *)(p + a_row + a_pixel), right);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                VEC d[4];
                NAME(winograd_a)(left[i], right[i], d);
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++) *(VEC *)(v + (4 * i + j) * v_position + c) = d[j];
            }
        }
    }
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
            VEC top[4], low[4];
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                const T *p = m + j * m_position + c;
                const VEC m1 = *(const VEC *)(p + 4 * m_position), m2 = *(const VEC *)(p + 8 * m_position);
                top[j] = *(const VEC *)p + (m1 + m2);
                low[j] = (m1 - m2) - *(const VEC *)(p + 12 * m_position);
            }
            const VEC y00 = (top[0] + (top[1] + top[2])) + start, y01 = ((top[1] - top[2]) - top[3]) + start;
            const VEC y10 = (low[0] + (low[1] + low[2])) + start, y11 = ((low[1] - low[2]) - low[3]) + start;
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

/* u = G w G' for n outputs: tap k of them at w + k*w_tap, position k at u + k*u_position; whole registers. */
static void NAME(winograd_weight)(ptrdiff_t n, const T *w, ptrdiff_t w_tap, T *u, ptrdiff_t u_position) {
    for (ptrdiff_t c = 0; c < n; c += LANES) {
        VEC e[12];
#pragma GCC unroll 3
        for (int j = 0; j < 3; j++) { /* e[3*i + j] = G w */
            const VEC w0 = *(const VEC *)(w + j * w_tap + c), w1 = *(const VEC *)(w + (3 + j) * w_tap + c);
            const VEC w2 = *(const VEC *)(w + (6 + j) * w_tap + c), sum = (w0 + w2) * (T)0.5, half = w1 * (T)0.5;
            e[j] = w0;
            e[3 + j] = sum + half;
            e[6 + j] = sum - half;
            e[9 + j] = w2;
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const VEC sum = (e[3 * i] + e[3 * i + 2]) * (T)0.5, half = e[3 * i + 1] * (T)0.5;
            *(VEC *)(u + 4 * i * u_position + c) = e[3 * i];
            *(VEC *)(u + (4 * i + 1) * u_position + c) = sum + half;
            *(VEC *)(u + (4 * i + 2) * u_position + c) = sum - half;
            *(VEC *)(u + (4 * i + 3) * u_position + c) = e[3 * i + 2];
        }
    }
}

/* w = G' u G for n outputs, u being the sum, in order, of parts that lie u_part apart. */
static void NAME(winograd_weight_grad)(ptrdiff_t n, ptrdiff_t parts, const T *u, ptrdiff_t u_part, ptrdiff_t u_position,
                                       T *w, ptrdiff_t w_tap) {
    for (ptrdiff_t c = 0; c < n; c += LANES) {
        VEC e[12];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) { /* e[4*i + j] = G' u */
            VEC sum[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                const T *p = u + (4 * i + j) * u_position + c;
                sum[i] = *(const VEC *)p;
                for (ptrdiff_t part = 1; part < parts; part++) sum[i] += *(const VEC *)(p + part * u_part);
            }
            e[j] = sum[0] + (sum[1] + sum[2]) * (T)0.5;
            e[4 + j] = (sum[1] - sum[2]) * (T)0.5;
            e[8 + j] = (sum[1] + sum[2]) * (T)0.5 + sum[3];
        }
#pragma GCC unroll 3
        for (int i = 0; i < 3; i++) {
            const VEC sum = (e[4 * i + 1] + e[4 * i + 2]) * (T)0.5;
            *(VEC *)(w + 3 * i * w_tap + c) = e[4 * i] + sum;
            *(VEC *)(w + (3 * i + 1) * w_tap + c) = (e[4 * i + 1] - e[4 * i + 2]) * (T)0.5;
            *(VEC *)(w + (3 * i + 2) * w_tap + c) = sum + e[4 * i + 3];
        }
    }
}
