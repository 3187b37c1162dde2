/* The register tiles: what a micro-kernel computes, and the table that each instruction set fills.

   One source, tile.h, is compiled once for each instruction set (generic.c, avx2.c, avx512.c), each file naming its
   vector length and its partial loads. isa.pyx picks one table at import. Everything above this folder is portable. */
#ifndef FASTCNN_MICRO_H
#define FASTCNN_MICRO_H

#include "target.h"

#include <stddef.h>
#include <stdint.h>

/* How a tile's sum walks its operands: `segments` runs of `depth` steps each. In a convolution a segment is a stretch
   of a window that is contiguous in memory; in the gradient of the weights it is a row of pixels. */
typedef struct {
    ptrdiff_t segments, depth;
    const ptrdiff_t *a_offset;      /* segment -> offset of its first step from a */
    ptrdiff_t a_row, a_step;        /* in a: from one tile row to the next, from one step to the next */
    ptrdiff_t b_segment, b_step;    /* in b: from one segment to the next, from one step to the next */
    const ptrdiff_t *b_offset;      /* tile: segment -> offset of its first step from b; NULL for s*b_segment */
} fastcnn_sum;

/* tile: c[r*c_row + j] = init[j] + sum over s, k of a[a_offset[s] + k*a_step + r*a_row] * b[b_offset[s] + k*b_step + j]
   for r < m and j < n, where m <= rows and n <= 2*lanes; with init NULL the sum is added to c. b and init must be
   readable up to the next multiple of `lanes` after n.

   depthwise: the same with a vector where tile has a scalar of a, for each channel meets only itself:
   c[r*c_row + j] = init[j] + sum over s of a[a_offset[s] + r*a_row + j] * b[s*b_segment + j], n <= lanes, depth 1.

   depthwise_weights: c[s*c_row + j] += sum over r < rows and k < depth of
   a[a_offset[s] + r*a_row + k*a_step + j] * b[r*b_segment + k*b_step + j] for every segment s and j < n <= lanes.

   dots: c[r*c_row + j] = init[j] + sum over k < depth of a[r*a_row + k] * b[j*b_row + k] for r < m and j < n, whatever
   m and n; with init NULL the sum is added to c.

   row: c[j] = sum over k < depth of a[k*a_step] * b[k*b_step + j] for j < n, whatever n; added to c if `add`.

   transpose: out[c*out_row + r] = a[r*a_row + c] for r < rows and c < columns; the rows of out are written up to the
   next multiple of `lanes` after `rows`, zero past it.

   all_finite: whether none of n elements of a is infinite or NaN.

   gather: out[x*n + c] = sum over t of a[(q - t)*pitch + (r + t*stride)*n + c] for x < columns and c < n, where q and r
   are quotient and remainder of x + start by stride, 0 <= q - t < windows and r + t*stride < taps: window q - t is over
   the pixels from (q - t)*stride - start. a must be readable one vector past the last window.

   planar: c[o*c_row + x] = sum over s < steps of w[s*m + o] * b[offset[s] + x] for o < m and x < n, added to c where
   `add`; m <= rows and m <= 8. b must be readable, and c writable, up to the next multiple of `lanes` after n.

   weave: out[y*out_line + x*m + o] = a[o*a_row + y*a_line + x] + bias[o] for y < rows, x < n and o < m <= 8; bias may
   be NULL, a must be readable as b above.

   picked: c[i*c_row + j] += sum over k < count of g[k*step] * a[offset[k*step] + i*a_row + j] for i < rows and j < width;
   a must be readable, and c writable (with what is next in a), up to the next multiple of `lanes` after width.

   winners: what count outputs of a max-pool say of their windows, whose taps are 0 to several - 1: of output k,
   offset[k] = start + base[k] + tap_offset[taps[k]], g[k] = grad[k]; where taps[k] is no tap, g[k] is 0, and offset[k]
   that of some tap. g is added to sums. Whether an element of g is not finite. tap_offset has 256 elements.

   winograd_*, fastcnn_winograd4: the transforms of winograd.h and winograd4.h, which tell them. */
#define FASTCNN_KERNELS(T, suffix)                                                                                    \
    ptrdiff_t lanes_##suffix; /* elements of a vector register */                                                     \
    void (*tile_##suffix)(ptrdiff_t m, ptrdiff_t n, const fastcnn_sum *sum, const T *a, const T *b, const T *init,    \
                          T *c, ptrdiff_t c_row);                                                                     \
    void (*depthwise_##suffix)(ptrdiff_t m, ptrdiff_t n, const fastcnn_sum *sum, const T *a, const T *b,              \
                               const T *init, T *c, ptrdiff_t c_row);                                                 \
    void (*depthwise_weights_##suffix)(ptrdiff_t n, ptrdiff_t rows, const fastcnn_sum *sum, const T *a, const T *b,   \
                                       T *c, ptrdiff_t c_row);                                                        \
    void (*dots_##suffix)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t depth, const T *a, ptrdiff_t a_row, const T *b,         \
                          ptrdiff_t b_row, const T *init, T *c, ptrdiff_t c_row);                                     \
    void (*row_##suffix)(ptrdiff_t n, ptrdiff_t depth, const T *a, ptrdiff_t a_step, const T *b, ptrdiff_t b_step,    \
                         T *c, int add);                                                                              \
    void (*transpose_##suffix)(ptrdiff_t rows, ptrdiff_t columns, const T *a, ptrdiff_t a_row, T *out,                \
                               ptrdiff_t out_row);                                                                    \
    int (*all_finite_##suffix)(ptrdiff_t n, const T *a);                                                              \
    void (*gather_##suffix)(ptrdiff_t columns, ptrdiff_t n, ptrdiff_t start, ptrdiff_t taps, ptrdiff_t stride,        \
                            ptrdiff_t windows, const T *a, ptrdiff_t pitch, T *out);                                  \
    void (*planar_##suffix)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t steps, const ptrdiff_t *offset, const T *b,           \
                            const T *w, int add, T *c, ptrdiff_t c_row);                                              \
    void (*weave_##suffix)(ptrdiff_t m, ptrdiff_t rows, ptrdiff_t n, const T *a, ptrdiff_t a_row, ptrdiff_t a_line,   \
                           const T *bias, T *out, ptrdiff_t out_line);                                                \
    void (*picked_##suffix)(ptrdiff_t rows, ptrdiff_t width, ptrdiff_t count, const int32_t *offset, const T *g,      \
                            ptrdiff_t step, const T *a, ptrdiff_t a_row, T *c, ptrdiff_t c_row);                      \
    int (*winners_##suffix)(ptrdiff_t count, const uint8_t *taps, const T *grad, const int32_t *base,                 \
                            const int32_t *tap_offset, int several, int32_t start, int32_t *offset, T *g,             \
                            T *sums);                                                                                 \
    void (*winograd_source_##suffix)(ptrdiff_t tiles, ptrdiff_t channels, const T *a, ptrdiff_t a_row,                \
                                     ptrdiff_t a_pixel, T *v, ptrdiff_t v_position, ptrdiff_t v_tile);                \
    void (*winograd_grad_##suffix)(ptrdiff_t tiles, ptrdiff_t channels, const T *a, ptrdiff_t a_row,                  \
                                   ptrdiff_t a_pixel, T *v, ptrdiff_t v_position, ptrdiff_t v_tile);                  \
    int (*winograd_dest_##suffix)(ptrdiff_t tiles, ptrdiff_t n, const T *m, ptrdiff_t m_position, ptrdiff_t m_tile,   \
                                  const T *init, T *y, ptrdiff_t y_row, ptrdiff_t y_pixel, ptrdiff_t rows,            \
                                  ptrdiff_t columns);                                                                 \
    void (*winograd_weight_##suffix)(ptrdiff_t n, const T *w, ptrdiff_t w_tap, T *u, ptrdiff_t u_position);           \
    void (*winograd_weight_grad_##suffix)(ptrdiff_t n, ptrdiff_t parts, const T *u, ptrdiff_t u_part,                 \
                                          ptrdiff_t u_position, T *w, ptrdiff_t w_tap)

typedef struct {
    void (*source)(ptrdiff_t tiles, ptrdiff_t channels, const float *a, ptrdiff_t a_row, ptrdiff_t a_pixel,
                   ptrdiff_t top, ptrdiff_t bottom, ptrdiff_t left, ptrdiff_t right, float *v, ptrdiff_t v_position,
                   ptrdiff_t v_tile);
    void (*grad)(ptrdiff_t tiles, ptrdiff_t channels, const float *a, ptrdiff_t a_row, ptrdiff_t a_pixel, float *v,
                 ptrdiff_t v_position, ptrdiff_t v_tile);
    int (*dest)(ptrdiff_t tiles, ptrdiff_t n, const float *m, ptrdiff_t m_position, ptrdiff_t m_tile,
                const float *init, float *y, ptrdiff_t y_row, ptrdiff_t y_pixel, ptrdiff_t rows, ptrdiff_t columns);
    void (*weight)(ptrdiff_t n, const float *w, ptrdiff_t w_tap, float *u, ptrdiff_t u_position);
    void (*weight_grad)(ptrdiff_t n, ptrdiff_t parts, const float *u, ptrdiff_t u_part, ptrdiff_t u_position, float *w,
                        ptrdiff_t w_tap);
} fastcnn_winograd4;

typedef struct {
    const char *name;
    ptrdiff_t rows; /* most rows of a tile */
    FASTCNN_KERNELS(float, f32);
    FASTCNN_KERNELS(double, f64);
    fastcnn_winograd4 winograd4, winograd24; /* of float: tiles of 4x4, and of 2x4 */
    const struct fastcnn_matrix *matrix; /* of amx.h, where there is one */
} fastcnn_micro;

extern const fastcnn_micro fastcnn_micro_generic;
#ifdef FASTCNN_X86
extern const fastcnn_micro fastcnn_micro_avx2;
extern const fastcnn_micro fastcnn_micro_avx512;
#endif

#endif
