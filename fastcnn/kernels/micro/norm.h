/* The rows of batch norm: what a tile of norm.pyx computes, and the table that each instruction set fills.

   One source, norm_lanes.h, is compiled by norm.c once for each instruction set. */
#ifndef FASTCNN_NORM_H
#define FASTCNN_NORM_H

#include <stddef.h>

/* `rows` rows of `width` columns, `stride` elements apart. Column j has its own mean[j], scale[j], .. */
typedef struct {
    ptrdiff_t rows, stride, width;
} fastcnn_rows;

/* Where the ReLU behind batch norm was 0, and so the gradient is: nowhere (there is none), where `output` is, or where
   (x - mean) * scale + shift is not above 0. */
enum { FASTCNN_MASK_NONE, FASTCNN_MASK_OUTPUT, FASTCNN_MASK_AGAIN };

/* sums:      adds to first[j] the sum of x - mean, to second[j] that of its square.
   normalize: y = (x - mean) * scale + shift, then + residual (unless NULL), then the larger of that and 0 (if relu).
   grad_sums: g = dy, or 0 by the mask; stored in `masked` (unless NULL); adds to first[j] the sum of g, to second[j]
              that of g * (x - mean).
   grad:      dx = ((g - grad_mean) - (x - mean) * slope) * grad_scale; where slope is NULL, g * grad_scale.
   Sums are taken in the element type over the rows given, four at a time, then added in double: few rows a call.
   What is written may lie exactly on what is read. */
#define FASTCNN_NORM(T, suffix)                                                                                       \
    void (*sums_##suffix)(const fastcnn_rows *r, const T *x, const T *mean, double *first, double *second);           \
    void (*normalize_##suffix)(const fastcnn_rows *r, const T *x, const T *residual, const T *mean, const T *scale,   \
                               const T *shift, int relu, T *y);                                                       \
    void (*grad_sums_##suffix)(const fastcnn_rows *r, const T *dy, const T *x, int mask, const T *output,             \
                               const T *mean, const T *scale, const T *shift, T *masked, double *first,               \
                               double *second);                                                                       \
    void (*grad_##suffix)(const fastcnn_rows *r, const T *dy, const T *x, int mask, const T *output, const T *mean,   \
                          const T *scale, const T *shift, const T *grad_mean, const T *slope, const T *grad_scale,    \
                          T *dx)

typedef struct {
    FASTCNN_NORM(float, f32);
    FASTCNN_NORM(double, f64);
} fastcnn_norm;

/* The table for the instruction set that isa.pyx calls `name`. */
const fastcnn_norm *fastcnn_norm_for(const char *name);

#endif
