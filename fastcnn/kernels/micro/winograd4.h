/* The transforms of Winograd's F(4x4, 3x3). Part of tile.h, as those of winograd.h, which tells the algorithm.

   A 4x4 tile reads a 6x6 tile, at 36 multiplications where the sum has 144. Its polynomials meet at 0, p, -p, q, -q and
   infinity: with p = 5/8, q = 3/2 the errors are half those of the usual 1 and 2, and all of A and B is exact.

          1   1   1   1   1   0          g = 1/((p-q)(p+q)), G rows:  (1, 0, 0)/pp/qq
     A' = 0   p  -p   q  -q   0                                       (1, p, pp) g/2pp,   the same with -p
          0  pp  pp  qq  qq   0                                       (1, q, qq) -g/2qq,  the same with -q
          0 ppp -ppp qqq -qqq 1                                       (0, 0, 1)

   B' row 0: x^4 - (pp+qq) x^2 + ppqq; rows of p, q: x (x+p) (x^2-qq), x (x+q) (x^2-pp); the last: x times row 0. All six
   elements of a line meet in most sums, so each result's error is relative to the largest of its tile. */

#define P ((T)0.625)
#define Q ((T)1.5)
#define PP (P * P)
#define QQ (Q * Q)
#define G0 ((T)(256.0 / 225))
#define GP ((T)(-2048.0 / 2975))
#define GQ ((T)(128.0 / 1071))
#define HUGE_SCALE ((T)(1 << 27)) /* takes what is beyond 1e30 out of range */

INLINE void NAME(winograd4_b)(const VEC *d, ptrdiff_t step, VEC *v) {
    const VEC d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step];
    const VEC even_p = d4 - d2 * QQ, odd_p = d3 - d1 * QQ, even_q = d4 - d2 * PP, odd_q = d3 - d1 * PP;
    v[0] = (d4 - d2 * (PP + QQ)) + d[0] * (PP * QQ);
    v[1] = even_p + odd_p * P;
    v[2] = even_p - odd_p * P;
    v[3] = even_q + odd_q * Q;
    v[4] = even_q - odd_q * Q;
    v[5] = (d[5 * step] - d3 * (PP + QQ)) + d1 * (PP * QQ);
}

INLINE void NAME(winograd4_source_tile)(const int whole, ptrdiff_t top, ptrdiff_t bottom, ptrdiff_t left,
                                        ptrdiff_t right, const T *a, ptrdiff_t a_row, ptrdiff_t a_pixel, T *v,
                                        ptrdiff_t v_position) {
    static const VEC zeros = {0};
    VEC e[36];
    const T *row[6];
    ptrdiff_t pixel[6];
#pragma GCC unroll 6
    for (int i = 0; i < 6; i++) {
        const int inside = whole || (i >= top && i < bottom);
        row[i] = inside ? a + i * a_row : (const T *)&zeros;
        pixel[i] = inside ? a_pixel : 0;
    }
    for (int j = 0; j < 6; j++) { /* e[6*j + i]: column j of B' d */
        VEC column[6];
        if (!whole && (j < left || j >= right)) {
#pragma GCC unroll 6
            for (int i = 0; i < 6; i++) e[6 * j + i] = zeros;
            continue;
        }
#pragma GCC unroll 6
        for (int i = 0; i < 6; i++) column[i] = *(const VEC *)(row[i] + j * pixel[i]);
        NAME(winograd4_b)(column, 1, e + 6 * j);
    }
    for (int i = 0; i < 6; i++) {
        VEC d[6];
        NAME(winograd4_b)(e + i, 6, d);
#pragma GCC unroll 6
        for (int j = 0; j < 6; j++) *(VEC *)(v + (6 * i + j) * v_position) = d[j];
    }
}

/* v = B' d B for a row of tiles. Only rows `top` to `bottom` and columns `left` to `right` of a are read: the others are
   0. Reads whole registers: past the last channel, into what follows. */
static void NAME(winograd4_source)(ptrdiff_t tiles, ptrdiff_t channels, const T *a, ptrdiff_t a_row, ptrdiff_t a_pixel,
                                   ptrdiff_t top, ptrdiff_t bottom, ptrdiff_t left, ptrdiff_t right, T *v,
                                   ptrdiff_t v_position, ptrdiff_t v_tile) {
    for (ptrdiff_t t = 0; t < tiles; t++, a += 4 * a_pixel, v += v_tile, left -= 4, right -= 4) {
        const int whole = top <= 0 && bottom >= 6 && left <= 0 && right >= 6;
        for (ptrdiff_t c = 0; c < channels; c += LANES) {
            const T *next = a + 6 * a_row + c; /* what the tile below reads first */
#pragma GCC unroll 16
            for (int k = 0; k < 16; k++) __builtin_prefetch(next + k / 4 * a_row + k % 4 * a_pixel);
            if (whole)
                NAME(winograd4_source_tile)(1, 0, 6, 0, 6, a + c, a_row, a_pixel, v + c, v_position);
            else
                NAME(winograd4_source_tile)(0, top, bottom, left, right, a + c, a_row, a_pixel, v + c, v_position);
        }
    }
}

INLINE void NAME(winograd4_a)(const VEC *d, ptrdiff_t step, VEC *v) {
    const VEC even_p = d[0] + d[2 * step] * PP, odd_p = d[step] + d[3 * step] * PP;
    const VEC even_q = d[0] + d[2 * step] * QQ, odd_q = d[step] + d[3 * step] * QQ;
    v[0] = d[0];
    v[1] = even_p + odd_p * P;
    v[2] = even_p - odd_p * P;
    v[3] = even_q + odd_q * Q;
    v[4] = even_q - odd_q * Q;
    v[5] = d[3 * step];
}

/* v = A dy A' for a row of tiles. */
static void NAME(winograd4_grad)(ptrdiff_t tiles, ptrdiff_t channels, const T *a, ptrdiff_t a_row, ptrdiff_t a_pixel,
                                 T *v, ptrdiff_t v_position, ptrdiff_t v_tile) {
    for (ptrdiff_t t = 0; t < tiles; t++, a += 4 * a_pixel, v += v_tile) {
        for (ptrdiff_t c = 0; c < channels; c += LANES) {
            VEC e[24];
            const T *next = a + 4 * a_row + c;
#pragma GCC unroll 16
            for (int k = 0; k < 16; k++) __builtin_prefetch(next + k / 4 * a_row + k % 4 * a_pixel);
            for (int j = 0; j < 4; j++) { /* e[6*j + i]: column j of A dy */
                VEC column[4];
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) column[i] = *(const VEC *)(a + i * a_row + j * a_pixel + c);
                NAME(winograd4_a)(column, 1, e + 6 * j);
            }
            for (int i = 0; i < 6; i++) {
                VEC d[6];
                NAME(winograd4_a)(e + i, 6, d);
#pragma GCC unroll 6
                for (int j = 0; j < 6; j++) *(VEC *)(v + (6 * i + j) * v_position + c) = d[j];
            }
        }
    }
}

INLINE void NAME(winograd4_a_transposed)(const VEC *m, ptrdiff_t step, VEC *y) {
    const VEC sum_p = m[step] + m[2 * step], minus_p = m[step] - m[2 * step];
    const VEC sum_q = m[3 * step] + m[4 * step], minus_q = m[3 * step] - m[4 * step];
    y[0] = m[0] + (sum_p + sum_q);
    y[1] = minus_p * P + minus_q * Q;
    y[2] = sum_p * PP + sum_q * QQ;
    y[3] = (minus_p * (P * PP) + minus_q * (Q * QQ)) + m[5 * step];
}

INLINE VEC NAME(winograd4_dest_tile)(const int whole, ptrdiff_t n, const T *m, ptrdiff_t m_position, VEC start, T *y,
                                     ptrdiff_t y_row, ptrdiff_t y_pixel, ptrdiff_t rows, ptrdiff_t columns) {
    VEC e[24], sum[4] = {{0}, {0}, {0}, {0}};
    for (int j = 0; j < 6; j++) { /* e[4*j + i]: column j of A' m */
        VEC column[6];
#pragma GCC unroll 6
        for (int i = 0; i < 6; i++) column[i] = *(const VEC *)(m + (6 * i + j) * m_position);
        NAME(winograd4_a_transposed)(column, 1, e + 4 * j);
    }
    for (int i = 0; i < 4; i++) {
        VEC d[4];
        NAME(winograd4_a_transposed)(e + i, 4, d);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            d[j] += start;
            sum[j] += d[j] * HUGE_SCALE;
            if (whole) *(VEC *)(y + i * y_row + j * y_pixel) = d[j];
            else if (i < rows && j < columns) NAME(store)(y + i * y_row + j * y_pixel, d[j], n);
        }
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* y = A' m A + init for a row of tiles: `rows` (1 to 4) rows and `columns` pixels of n channels. Returns 0 where all is
   finite and not huge: a huge number has swamped what shares its tile. */
static int NAME(winograd4_dest)(ptrdiff_t tiles, ptrdiff_t n, const T *m, ptrdiff_t m_position, ptrdiff_t m_tile,
                                const T *init, T *y, ptrdiff_t y_row, ptrdiff_t y_pixel, ptrdiff_t rows,
                                ptrdiff_t columns) {
    VEC bad = {0};
    for (ptrdiff_t t = 0; t < tiles; t++, m += m_tile, y += 4 * y_pixel, columns -= 4) {
        for (ptrdiff_t c = 0; c < n; c += LANES) {
            const VEC start = *(const VEC *)(init + c);
            VEC sum;
            if (rows >= 4 && columns >= 4 && n - c >= LANES)
                sum = NAME(winograd4_dest_tile)(1, LANES, m + c, m_position, start, y + c, y_row, y_pixel, 4, 4);
            else
                sum = NAME(winograd4_dest_tile)(0, n - c, m + c, m_position, start, y + c, y_row, y_pixel, rows,
                                                columns);
            bad += sum - sum; /* 0, or NaN where the sum is not finite */
        }
    }
    int found = 0;
    for (int i = 0; i < LANES; i++) found |= bad[i] != bad[i];
    return found;
}

INLINE void NAME(winograd4_g)(VEC w0, VEC w1, VEC w2, VEC *u) {
    const VEC even_p = (w0 + w2 * PP) * GP, odd_p = w1 * (P * GP), even_q = (w0 + w2 * QQ) * GQ, odd_q = w1 * (Q * GQ);
    u[0] = w0 * G0;
    u[1] = even_p + odd_p;
    u[2] = even_p - odd_p;
    u[3] = even_q + odd_q;
    u[4] = even_q - odd_q;
    u[5] = w2;
}

/* u = G w G' for n outputs: tap k of them at w + k*w_tap, position k at u + k*u_position; whole registers. */
static void NAME(winograd4_weight)(ptrdiff_t n, const T *w, ptrdiff_t w_tap, T *u, ptrdiff_t u_position) {
    for (ptrdiff_t c = 0; c < n; c += LANES) {
        VEC e[18], d[6];
#pragma GCC unroll 3
        for (int j = 0; j < 3; j++) { /* e[6*j + i]: column j of G w */
            const T *p = w + j * w_tap + c;
            NAME(winograd4_g)(*(const VEC *)p, *(const VEC *)(p + 3 * w_tap), *(const VEC *)(p + 6 * w_tap), e + 6 * j);
        }
#pragma GCC unroll 6
        for (int i = 0; i < 6; i++) {
            NAME(winograd4_g)(e[i], e[6 + i], e[12 + i], d);
#pragma GCC unroll 6
            for (int j = 0; j < 6; j++) *(VEC *)(u + (6 * i + j) * u_position + c) = d[j];
        }
    }
}

INLINE void NAME(winograd4_g_transposed)(const VEC *u, ptrdiff_t step, VEC *w) {
    const VEC sum_p = (u[step] + u[2 * step]) * GP, minus_p = (u[step] - u[2 * step]) * (P * GP);
    const VEC sum_q = (u[3 * step] + u[4 * step]) * GQ, minus_q = (u[3 * step] - u[4 * step]) * (Q * GQ);
    w[0] = u[0] * G0 + (sum_p + sum_q);
    w[1] = minus_p + minus_q;
    w[2] = (sum_p * PP + sum_q * QQ) + u[5 * step];
}

/* w = G' u G for n outputs, u being the sum, in order, of parts that lie u_part apart. */
static void NAME(winograd4_weight_grad)(ptrdiff_t n, ptrdiff_t parts, const T *u, ptrdiff_t u_part,
                                        ptrdiff_t u_position, T *w, ptrdiff_t w_tap) {
    for (ptrdiff_t c = 0; c < n; c += LANES) {
        VEC e[18];
        for (int j = 0; j < 6; j++) { /* e[3*j + i]: column j of G' u */
            VEC sum[6];
#pragma GCC unroll 6
            for (int i = 0; i < 6; i++) {
                const T *p = u + (6 * i + j) * u_position + c;
                sum[i] = *(const VEC *)p;
                for (ptrdiff_t part = 1; part < parts; part++) sum[i] += *(const VEC *)(p + part * u_part);
            }
            NAME(winograd4_g_transposed)(sum, 1, e + 3 * j);
        }
        for (int i = 0; i < 3; i++) {
            VEC d[3];
            NAME(winograd4_g_transposed)(e + i, 3, d);
#pragma GCC unroll 3
            for (int j = 0; j < 3; j++) *(VEC *)(w + (3 * i + j) * w_tap + c) = d[j];
        }
    }
}

#undef P
#undef Q
#undef PP
#undef QQ
#undef G0
#undef GP
#undef GQ
#undef HUGE_SCALE
