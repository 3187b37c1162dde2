/* Products of a few rows, for one element type and vector length. Included by tile.h; micro.h tells what they compute.

   dots: both operands run along the sum, so an accumulator holds the partial sums of one element of the result, LANES
   of them; DOTS elements are under way at once, and at the end the lanes of LANES accumulators are added pair by pair
   until one register holds their totals. Nothing is transposed or packed.

   row: one row of a product whose right side is row-major: up to eight registers of columns at a time.

   transpose: LANES by LANES elements at a time; to take all even and all odd lanes of two registers beside each other,
   as often as halving makes 1 of LANES, swaps lanes and registers. */

#if LANES == 16
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#elif LANES == 8
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define ODD 1, 3, 5, 7, 9, 11, 13, 15
#elif LANES == 4
#define EVEN 0, 2, 4, 6
#define ODD 1, 3, 5, 7
#else
#define EVEN 0, 2
#define ODD 1, 3
#endif

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define INTEGERS NAME(integers)
typedef __typeof__(__builtin_choose_expr(sizeof(T) == 4, 0, 0LL)) NAME(integer);
typedef NAME(integer) INTEGERS __attribute__((vector_size(LANES * sizeof(T))));
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (INTEGERS){__VA_ARGS__})
#endif

#define DOTS (ROWS >= 14 ? 16 : 8) /* accumulators */
#define SUMS (DOTS > LANES ? DOTS : LANES)

/* One step: LANES elements of each row, or the last few. */
INLINE void NAME(dots_step)(const int m, const int per, const ptrdiff_t count, const T *a, const ptrdiff_t a_row,
                            const T *const *three, const ptrdiff_t b_row, VEC *acc) {
    VEC x[4];
#pragma GCC unroll 4
    for (int r = 0; r < m; r++) x[r] = NAME(load)(a + r * a_row, count);
#pragma GCC unroll 16
    for (int j = 0; j < per; j++) {
        const VEC y = NAME(load)(three[j / 3] + j % 3 * b_row, count);
#pragma GCC unroll 4
        for (int r = 0; r < m; r++) acc[r * per + j] += x[r] * y;
    }
}

/* m rows of a by `per` rows of b; of the result the first `skip` columns stay as they are. */
INLINE void NAME(dots_body)(const int m, const int per, const ptrdiff_t skip, const ptrdiff_t depth, const T *a,
                            const ptrdiff_t a_row, const T *b, const ptrdiff_t b_row, const T *init, T *c,
                            const ptrdiff_t c_row) {
    VEC acc[SUMS];
    T total[SUMS];
    const T *three[6]; /* see tile_body */
    ptrdiff_t k = 0;
#pragma GCC unroll 16
    for (int i = 0; i < SUMS; i++) acc[i] = (VEC){0};
#pragma GCC unroll 6
    for (int q = 0; 3 * q < per; q++) {
        three[q] = b + 3 * q * b_row;
        __asm__("" : "+r"(three[q]));
    }
    for (; k + LANES <= depth; k += LANES) {
        NAME(dots_step)(m, per, LANES, a + k, a_row, three, b_row, acc);
#pragma GCC unroll 6
        for (int q = 0; 3 * q < per; q++) three[q] += LANES;
    }
    if (k < depth) NAME(dots_step)(m, per, depth - k, a + k, a_row, three, b_row, acc);
#pragma GCC unroll 8
    for (int g = 0; g < SUMS; g += LANES) {
#pragma GCC unroll 4
        for (int left = LANES / 2; left > 0; left /= 2) {
#pragma GCC unroll 8
            for (int i = 0; i < left; i++) {
                const VEC u = acc[g + 2 * i], v = acc[g + 2 * i + 1];
                acc[g + i] = SHUFFLE(u, v, EVEN) + SHUFFLE(u, v, ODD);
            }
        }
        *(VEC *)(total + g) = acc[g];
    }
    for (int r = 0; r < m; r++, c += c_row) {
        for (ptrdiff_t j = skip; j < per; j++) c[j] = total[r * per + j] + (init ? init[j] : c[j]);
    }
}

/* m rows of a by n of b. The last `per` columns come again with some before them, where there are so many. */
INLINE void NAME(dots_rows)(const int m, ptrdiff_t n, ptrdiff_t depth, const T *a, ptrdiff_t a_row, const T *b,
                            ptrdiff_t b_row, const T *init, T *c, ptrdiff_t c_row) {
#define EACH_OF(per)                                                                                                  \
    for (ptrdiff_t j = 0; j < n; j += per) {                                                                          \
        const ptrdiff_t skip = j + per > n ? j + per - n : 0, from = j - skip;                                        \
        NAME(dots_body)(m, per, skip, depth, a, a_row, b + from * b_row, b_row, init ? init + from : init, c + from,  \
                        c_row);                                                                                       \
    }
    if (n >= DOTS / m) EACH_OF(DOTS / m)
    else if (m < 4 && n >= 4) EACH_OF(4)
    else EACH_OF(1)
#undef EACH_OF
}

static void NAME(dots)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t depth, const T *a, ptrdiff_t a_row, const T *b,
                       ptrdiff_t b_row, const T *init, T *c, ptrdiff_t c_row) {
    for (; m >= 4; m -= 4, a += 4 * a_row, c += 4 * c_row)
        NAME(dots_rows)(4, n, depth, a, a_row, b, b_row, init, c, c_row);
    if (m >= 2) {
        NAME(dots_rows)(2, n, depth, a, a_row, b, b_row, init, c, c_row);
        m -= 2, a += 2 * a_row, c += 2 * c_row;
    }
    if (m) NAME(dots_rows)(1, n, depth, a, a_row, b, b_row, init, c, c_row);
}

INLINE void NAME(row_body)(const int registers, const ptrdiff_t count, ptrdiff_t depth, const T *a, ptrdiff_t a_step,
                           const T *b, ptrdiff_t b_step, T *c, int add) {
    VEC acc[8];
#pragma GCC unroll 8
    for (int i = 0; i < registers; i++) acc[i] = add ? NAME(load)(c + i * LANES, count) : (VEC){0};
    for (ptrdiff_t k = 0; k < depth; k++, a += a_step, b += b_step) {
#pragma GCC unroll 8
        for (int i = 0; i < registers; i++) acc[i] += *a * NAME(load)(b + i * LANES, count);
    }
#pragma GCC unroll 8
    for (int i = 0; i < registers; i++) NAME(store)(c + i * LANES, acc[i], count);
}

static void NAME(row)(ptrdiff_t n, ptrdiff_t depth, const T *a, ptrdiff_t a_step, const T *b, ptrdiff_t b_step, T *c,
                      int add) {
#define REGISTERS_OF(count)                                                                                           \
    for (; n >= count * LANES; n -= count * LANES, b += count * LANES, c += count * LANES)                            \
        NAME(row_body)(count, LANES, depth, a, a_step, b, b_step, c, add);
    REGISTERS_OF(8)
    REGISTERS_OF(4)
    REGISTERS_OF(1)
#undef REGISTERS_OF
    if (n) NAME(row_body)(1, n, depth, a, a_step, b, b_step, c, add);
}

static void NAME(transpose)(ptrdiff_t rows, ptrdiff_t columns, const T *a, ptrdiff_t a_row, T *out,
                            ptrdiff_t out_row) {
    VEC from[LANES], to[LANES];
    for (ptrdiff_t r = 0; r < rows; r += LANES) {
        for (ptrdiff_t c = 0; c < columns; c += LANES) {
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++)
                from[i] = r + i < rows ? NAME(load)(a + (r + i) * a_row + c, columns - c) : (VEC){0};
#pragma GCC unroll 4
            for (int left = LANES; left > 1; left /= 2) {
#pragma GCC unroll 8
                for (int i = 0; i < LANES / 2; i++) {
                    to[i] = SHUFFLE(from[2 * i], from[2 * i + 1], EVEN);
                    to[i + LANES / 2] = SHUFFLE(from[2 * i], from[2 * i + 1], ODD);
                }
#pragma GCC unroll 16
                for (int i = 0; i < LANES; i++) from[i] = to[i];
            }
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++)
                if (c + i < columns) *(VEC *)(out + (c + i) * out_row + r) = from[i];
        }
    }
}

#undef EVEN
#undef ODD
#undef SHUFFLE
#undef INTEGERS
#undef DOTS
#undef SUMS
