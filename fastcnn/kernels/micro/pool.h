/* The lanes of pooling: what a run of equal windows computes, and the table that each instruction set fills.

   One source, pool_lanes.h, is compiled by pool.c once for each instruction set. Everything above this folder is
   portable. */
#ifndef FASTCNN_POOL_H
#define FASTCNN_POOL_H

#include <stddef.h>
#include <stdint.h>

/* A run: `places` equal places of a row, at each of which `lanes` lanes do the same. Lane l of place x writes element
   x*place_out + l*lane_out and reads rows x columns elements, (i, j) of which is at
   first + x*place_in + l*lane_in + i*row_step + j*column_step and is numbered tag + i*row_tag + j*column_tag.
   Channels-last: the lanes are channels. NCHW: one place, and the lanes are columns. */
typedef struct {
    ptrdiff_t first, rows, columns, row_step, column_step;
    ptrdiff_t lanes, lane_in, lane_out;
    ptrdiff_t places, place_in, place_out;
    ptrdiff_t tag, row_tag, column_tag;
    ptrdiff_t lane_tag, place_tag; /* what a lane and a place add to the numbers that are stored */
} fastcnn_run;

/* Few channels, channels-last: windows that all lie inside, in `lines` rows of `places`. A row of windows is line
   elements from the next in the images, where place elements are between neighbours; their outputs have no gaps.
   The outputs of `group` neighbours fill a register or most of it. */
typedef struct {
    ptrdiff_t channels, group, lines, places, line, place;
    ptrdiff_t rows, columns, row_step, column_step; /* of a window, and the elements between them */
} fastcnn_few;

/* max:   output = the first of the largest elements, any NaN larger than every number; tags (of `tag_bytes` 1, 4 or 8,
          not read where 0) = its number. lane_out is 1. With relu, an output that is not above 0 is 0, and its tag (of
          1 or 4 bytes) FASTCNN_NO_TAP: no element's.
   route: output = the sum of those elements of grad whose element of taps is their own number. Takes at least
          FASTCNN_ROUTE_LANES lanes, with lane_in = lane_out = 1. For windows of more than route_taps taps it is faster
          to follow each tap to its pixel (measured); where route_taps is 0 there is no route.
   max_few, route_few: the same of few channels, with tags of a byte or NULL, and windows that lie side by side in
          `route`; it reads none of the elements behind `end` of grad, nor of their taps. A group g of the places has
          channels*g <= lanes, and the elements from its first to its last are at least `lanes`, but at most 2*lanes in
          what max reads and 4*lanes in what route writes. Where few_bytes, the bytes of a register, is 0, there are none.
   mean:  output = the sum of the elements / divisor, added to what output holds where `add` is not 0. */
#define FASTCNN_NO_TAP(tag_bytes) ((tag_bytes) == 1 ? 255 : -1)
#define FASTCNN_ROUTE_LANES 16 /* the longest register */
#define FASTCNN_POOL(T, suffix)                                                                                       \
    void (*max_##suffix)(const fastcnn_run *run, const T *source, T *output, void *tags, int tag_bytes, int relu);    \
    void (*route_##suffix)(const fastcnn_run *run, const T *grad, const uint8_t *taps, T *output);                    \
    void (*max_few_##suffix)(const fastcnn_few *few, const T *source, T *output, uint8_t *tags, int relu);            \
    void (*route_few_##suffix)(const fastcnn_few *few, const T *grad, const T *end, const uint8_t *taps, T *output);  \
    void (*mean_##suffix)(const fastcnn_run *run, const T *source, T *output, ptrdiff_t divisor, int add)

typedef struct {
    ptrdiff_t route_taps, few_bytes;
    /* Whether one of the bytes is not in [start, end), start < end, and not `none`. */
    int (*outside)(const uint8_t *taps, ptrdiff_t count, int start, int end, int none);
    FASTCNN_POOL(float, f32);
    FASTCNN_POOL(double, f64);
} fastcnn_pool;

/* The table for the instruction set that isa.pyx calls `name`. */
const fastcnn_pool *fastcnn_pool_for(const char *name);

#endif
