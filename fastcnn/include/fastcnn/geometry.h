/* The geometry of a sliding window: one struct for convolution and pooling, in every kernel; and checks of one. */
#ifndef FASTCNN_GEOMETRY_H
#define FASTCNN_GEOMETRY_H

#include <stddef.h>

/* How a convolution is computed: AUTO by any algorithm, DIRECT by the sum of the products of each output alone, DEFAULT
   as the process has it. fastcnn.set_conv_algorithm states the bounds of their errors. */
typedef enum { FASTCNN_DEFAULT, FASTCNN_AUTO, FASTCNN_DIRECT } fastcnn_algorithm;

/* A window of kh x kw taps that moves over images of shape (n, c, h, w) and stops at oh x ow outputs. Its tap (i, j) at
   output (y, x) reads row y*sh - ph + i*dh and column x*sw - pw + j*dw, or padding where that is outside the image.
   1-D data has h = kh = oh = 1. Input and output share one memory order: NCHW, or NHWC where channels_last is 1.

   The usual number of outputs is oh = (h + 2*ph - dh*(kh - 1) - 1) / sh + 1, and ow alike. Extents, stride and dilation
   are at least 1 and padding at least 0; in pooling every window must hold an element of the image. */
typedef struct {
    ptrdiff_t n, c, h, w;       /* images, channels, height, width of the input */
    ptrdiff_t oh, ow;           /* height and width of the output */
    ptrdiff_t kh, kw;           /* taps of the window */
    ptrdiff_t sh, sw;           /* stride */
    ptrdiff_t ph, pw;           /* padding above and to the left; what lies below and to the right follows from oh, ow */
    ptrdiff_t dh, dw;           /* dilation */
    int channels_last;
    int algorithm;              /* of a convolution: a fastcnn_algorithm; pooling does not read it */
} fastcnn_window;

/* --- checks ---------------------------------------------------------------------------------------------------------

   Kernels trust their arguments: a stride or a number of groups of 0 is a division by zero, and sizes whose products
   overflow lead them out of their memory. These functions say whether a kernel may be called: they return NULL, or what
   is wrong as a string that is never freed. They know sizes only; the arrays must have them.

   Limits: 2^44 elements of an array, and of an image's channels under all windows at once, padding included; 2^62
   multiply-adds of a convolution. What the kernels compute of numbers below these fits in 64 bits. */
#define FASTCNN_MOST_ELEMENTS 17592186044416.0
#define FASTCNN_MOST_WORK 4611686018427387904.0

/* Products are of doubles, which do not overflow: they need not be exact at the limits. */
static inline int fastcnn_check_product(double a, double b, double c, double d) {
    return a * b * c * d <= FASTCNN_MOST_ELEMENTS;
}

static inline const char *fastcnn_check_extents(const fastcnn_window *g) {
    if (g->n < 1 || g->c < 1 || g->h < 1 || g->w < 1) return "n, c, h, w: expected at least 1 of each";
    if (g->oh < 1 || g->ow < 1) return "oh, ow: expected at least 1 of each";
    if (!fastcnn_check_product((double)g->n, (double)g->c, (double)g->h, (double)g->w))
        return "n, c, h, w: expected at most 2^44 elements";
    if (!fastcnn_check_product((double)g->n, (double)g->c, (double)g->oh, (double)g->ow))
        return "n, c, oh, ow: expected at most 2^44 elements";
    return NULL;
}

static inline const char *fastcnn_check_steps(const fastcnn_window *g) {
    double rows, columns;
    if (g->kh < 1 || g->kw < 1) return "kh, kw: expected at least 1 of each";
    if (g->sh < 1 || g->sw < 1) return "sh, sw: expected at least 1 of each";
    if (g->dh < 1 || g->dw < 1) return "dh, dw: expected at least 1 of each";
    if (g->ph < 0 || g->pw < 0) return "ph, pw: expected at least 0 of each";
    rows = (double)(g->oh - 1) * (double)g->sh + (double)(g->kh - 1) * (double)g->dh + 1;
    columns = (double)(g->ow - 1) * (double)g->sw + (double)(g->kw - 1) * (double)g->dw + 1;
    if (rows < (double)g->ph) rows = (double)g->ph;
    if (columns < (double)g->pw) columns = (double)g->pw;
    if (!fastcnn_check_product((double)g->c, rows, columns, 1))
        return "sh, sw, ph, pw, dh, dw: expected windows over at most 2^44 elements of an image, padding included";
    return NULL;
}

/* For the adaptive pools, which read sizes and order only. */
static inline const char *fastcnn_check_adaptive(const fastcnn_window *g) { return fastcnn_check_extents(g); }

/* For im2col and col2im. */
static inline const char *fastcnn_check_im2col(const fastcnn_window *g) {
    const char *wrong = fastcnn_check_extents(g);
    const double rows = (double)g->c * (double)g->kh * (double)g->kw;
    if (!wrong) wrong = fastcnn_check_steps(g);
    if (!wrong && !fastcnn_check_product((double)g->n, rows, (double)g->oh, (double)g->ow))
        wrong = "kh, kw: expected columns of at most 2^44 elements";
    return wrong;
}

/* For convolutions in all passes. */
static inline const char *fastcnn_check_conv(const fastcnn_window *g, ptrdiff_t outputs, ptrdiff_t groups) {
    const char *wrong = fastcnn_check_extents(g);
    double taps;
    if (!wrong) wrong = fastcnn_check_steps(g);
    if (wrong) return wrong;
    if (g->algorithm < FASTCNN_DEFAULT || g->algorithm > FASTCNN_DIRECT)
        return "algorithm: expected FASTCNN_DEFAULT, FASTCNN_AUTO or FASTCNN_DIRECT";
    if (groups < 1) return "groups: expected at least 1";
    if (outputs < 1) return "outputs: expected at least 1";
    if (g->c % groups || outputs % groups) return "groups: expected a divisor of c and of outputs";
    taps = (double)g->kh * (double)g->kw * (double)(g->c / groups);
    if (!fastcnn_check_product((double)outputs, taps, 1, 1))
        return "outputs, c, kh, kw: expected weights of at most 2^44 elements";
    if (!fastcnn_check_product((double)g->n, (double)outputs, (double)g->oh, (double)g->ow))
        return "n, outputs, oh, ow: expected at most 2^44 elements";
    if ((double)g->n * (double)outputs * (double)g->oh * (double)g->ow * (1 + taps) > FASTCNN_MOST_WORK)
        return "n, outputs, oh, ow, c, kh, kw: expected at most 2^62 multiply-adds";
    return NULL;
}

/* Whether each of `places` windows along an axis of `size` holds an element of it. */
static inline int fastcnn_check_each_meets(ptrdiff_t size, ptrdiff_t places, ptrdiff_t taps, ptrdiff_t stride,
                                     ptrdiff_t padding, ptrdiff_t dilation) {
    ptrdiff_t place, start;
    if ((places - 1) * stride - padding >= size) return 0;
    if (padding > (taps - 1) * dilation) return 0;
    if (dilation <= size) return 1; /* too near to step over the image */
    for (place = 0; place < places && place * stride < padding; place++) {
        if (place == 65536) return 0; /* there may be such windows, but none that a network has */
        start = place * stride - padding;
        if (start + (dilation - 1 - start) / dilation * dilation >= size) return 0;
    }
    return 1;
}

/* For max-pools with tags of `tag_bytes` (0, 1, 4 or 8), forward and backward, and for average pools, with 0. */
static inline const char *fastcnn_check_pool(const fastcnn_window *g, int tag_bytes) {
    const char *wrong = fastcnn_check_extents(g);
    if (!wrong) wrong = fastcnn_check_steps(g);
    if (wrong) return wrong;
    if (!fastcnn_check_product((double)g->kh, (double)g->kw, 8192, 1)) return "kh, kw: expected at most 2^31 taps";
    if (tag_bytes != 0 && tag_bytes != 1 && tag_bytes != 4 && tag_bytes != 8)
        return "tag_bytes: expected 0, 1, 4 or 8";
    if (tag_bytes == 1 && g->kh * g->kw > 256) return "tag_bytes: expected 4 or 8 for windows of more than 256 taps";
    if (tag_bytes == 8 && g->h * g->w > 2147483647) return "h, w: expected planes below 2^31 elements, for indices";
    if (!fastcnn_check_each_meets(g->h, g->oh, g->kh, g->sh, g->ph, g->dh) ||
        !fastcnn_check_each_meets(g->w, g->ow, g->kw, g->sw, g->pw, g->dw))
        return "oh, ow, ph, pw: expected every window to hold an element of the image";
    return NULL;
}

#endif
