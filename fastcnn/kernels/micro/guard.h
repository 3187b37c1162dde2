/* Which tiles have so large a range that Winograd's algorithm would spoil some of their sums, and the table that each
   instruction set fills. One source, guard_lanes.h, is compiled by guard.c once for each instruction set. */
#ifndef FASTCNN_GUARD_H
#define FASTCNN_GUARD_H

#include <stddef.h>
#include <stdint.h>

/* The marks of a tile: its range is above 2**FASTCNN_RANGE; a window is all 0 beside others that are not. */
enum { FASTCNN_WIDE = 1, FASTCNN_EMPTY = 2 };
#define FASTCNN_RANGE 6

/* Magnitudes are bits of floats without sign: integers whose order is the floats', infinity and NaN above all numbers.

   peaks: out[before + x] = the largest magnitude of pixel x < count, of `channels` at a + x*a_pixel; the rest of the row
   is 0. pitch is at least before + count and a register.

   marks: of a row of tiles of rows x step output pixels, of which the first `high` rows and `wide` columns are real.
   peaks[y*pitch + x] is of the pixel (y, x) under them. marks[t] is FASTCNN_WIDE where the largest magnitude under tile t
   is more than 2**FASTCNN_RANGE times the smallest nonzero maximum of its windows of 3x3, or not finite; else
   FASTCNN_EMPTY where the maximum of a window is 0 and the largest is not. temp: 3*pitch elements. All marks together
   are returned.

   weight_marks: the same for the gradient of the weights, whose nine taps are sums over the same tiles. FASTCNN_WIDE
   where the largest magnitudes of x and dy in a tile have a product more than 2**FASTCNN_RANGE times that of the largest
   pair that meets in some tap (within 12 %: products are sums of bits, which are almost logarithms), or where one is not
   finite and x has a wide range itself. dy is the first of rows*step*tiles output pixels; x has the peaks under them.

   Rows of peaks, temp among them, have the pitch step*tiles, rounded up to registers, and two registers and `step` more,
   all of which may be read. */
#define FASTCNN_GUARD(T, suffix)                                                                                       \
    void (*peaks_##suffix)(ptrdiff_t before, ptrdiff_t count, ptrdiff_t channels, const T *a, ptrdiff_t a_pixel,      \
                           T *out, ptrdiff_t pitch);                                                                   \
    int (*marks_##suffix)(ptrdiff_t tiles, ptrdiff_t rows, ptrdiff_t step, ptrdiff_t high, ptrdiff_t wide,             \
                          const T *peaks, ptrdiff_t pitch, T *temp, uint8_t *marks);                                   \
    int (*weight_marks_##suffix)(ptrdiff_t tiles, ptrdiff_t rows, ptrdiff_t step, const T *x, ptrdiff_t pitch,         \
                                 const T *dy, ptrdiff_t dy_row, ptrdiff_t dy_pixel, ptrdiff_t outputs, T *temp,        \
                                 uint8_t *marks)

typedef struct {
    FASTCNN_GUARD(float, f32);
    FASTCNN_GUARD(double, f64);
} fastcnn_guard;

/* The table for the instruction set that isa.pyx calls `name`. */
const fastcnn_guard *fastcnn_guard_for(const char *name);

#endif
