/* The geometry of a sliding window: one struct for convolution and pooling, in every kernel. */
#ifndef FASTCNN_GEOMETRY_H
#define FASTCNN_GEOMETRY_H

#include <stddef.h>

/* A window of kh x kw taps that moves over images of shape (n, c, h, w) and stops at oh x ow places. Its tap (i, j) at
   place (y, x) reads row y*sh - ph + i*dh and column x*sw - pw + j*dw, or padding where that is outside the image.
   1-D data has h = kh = oh = 1. Input and output share one memory order: NCHW, or NHWC where channels_last is 1.

   The usual number of places is oh = (h + 2*ph - dh*(kh - 1) - 1) / sh + 1, and ow alike. Extents, stride and dilation
   are at least 1 and padding at least 0; in pooling every window must hold an element of the image. */
typedef struct {
    ptrdiff_t n, c, h, w;       /* images, channels, height, width of the input */
    ptrdiff_t oh, ow;           /* height and width of the output */
    ptrdiff_t kh, kw;           /* taps of the window */
    ptrdiff_t sh, sw;           /* stride */
    ptrdiff_t ph, pw;           /* padding above and to the left; what lies below and to the right follows from oh, ow */
    ptrdiff_t dh, dw;           /* dilation */
    int channels_last;
} fastcnn_window;

#endif
