/* The rows of batch norm for one element type T, for the instruction set that the compiler is set to. Included by
   norm.c, which defines

     T, SUFFIX    element type, and the end of the functions' names
     BITS, LANES  integer type of its size, and how many are one to four registers
     EACH         before a loop whose elements do not depend on each other, though arrays may be the same one

   The loops are plain: columns are independent, so the compiler makes vectors of them. No multiplication is contracted
   with an addition (norm.c sees to it), so the mask that is computed again is that of the forward pass, to the bit. */

INLINE T NAME(gate)(const T dy, const T x, const int mask, const T output, const T mean, const T scale,
                    const T shift) {
    if (mask == FASTCNN_MASK_OUTPUT) return output <= 0 ? 0 : dy;
    if (mask == FASTCNN_MASK_AGAIN) return (x - mean) * scale + shift <= 0 ? 0 : dy;
    return dy;
}

/* --- sums --------------------------------------------------------------------------------------------------------- */

static void NAME(sums)(const fastcnn_rows *r, const T *x, const T *mean, double *first, double *second) {
    T a[PANEL], b[PANEL];
    const ptrdiff_t step = r->stride, width = r->width;
    ptrdiff_t i = 0;
    for (ptrdiff_t j = 0; j < width; j++) a[j] = b[j] = 0;
    for (; i + 4 <= r->rows; i += 4, x += 4 * step) {
        EACH for (ptrdiff_t j = 0; j < width; j++) {
            const T d0 = x[j] - mean[j], d1 = x[j + step] - mean[j];
            const T d2 = x[j + 2 * step] - mean[j], d3 = x[j + 3 * step] - mean[j];
            a[j] += (d0 + d1) + (d2 + d3);
            b[j] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3);
        }
    }
    for (; i < r->rows; i++, x += step) {
        EACH for (ptrdiff_t j = 0; j < width; j++) {
            const T d = x[j] - mean[j];
            a[j] += d;
            b[j] += d * d;
        }
    }
    for (ptrdiff_t j = 0; j < width; j++) {
        first[j] += a[j];
        second[j] += b[j];
    }
}

INLINE void NAME(grad_sums_of)(const fastcnn_rows *r, const T *dy, const T *x, const int mask, const T *y,
                               const T *mean, const T *scale, const T *shift, T *masked, const int store,
                               double *first, double *second) {
    T a[PANEL], b[PANEL];
    const ptrdiff_t step = r->stride, width = r->width;
    ptrdiff_t i = 0;
    if (mask != FASTCNN_MASK_OUTPUT) y = x; /* not used; so that the reads below are of what exists */
    if (mask != FASTCNN_MASK_AGAIN) scale = shift = mean;
    for (ptrdiff_t j = 0; j < width; j++) a[j] = b[j] = 0;
    for (; i + 4 <= r->rows; i += 4, dy += 4 * step, x += 4 * step, y += 4 * step) {
        EACH for (ptrdiff_t j = 0; j < width; j++) {
            const ptrdiff_t j1 = j + step, j2 = j + 2 * step, j3 = j + 3 * step;
            const T g0 = NAME(gate)(dy[j], x[j], mask, y[j], mean[j], scale[j], shift[j]);
            const T g1 = NAME(gate)(dy[j1], x[j1], mask, y[j1], mean[j], scale[j], shift[j]);
            const T g2 = NAME(gate)(dy[j2], x[j2], mask, y[j2], mean[j], scale[j], shift[j]);
            const T g3 = NAME(gate)(dy[j3], x[j3], mask, y[j3], mean[j], scale[j], shift[j]);
            a[j] += (g0 + g1) + (g2 + g3);
            b[j] += (g0 * (x[j] - mean[j]) + g1 * (x[j1] - mean[j])) +
                    (g2 * (x[j2] - mean[j]) + g3 * (x[j3] - mean[j]));
            if (store) masked[j] = g0, masked[j1] = g1, masked[j2] = g2, masked[j3] = g3;
        }
        if (store) masked += 4 * step;
    }
    for (; i < r->rows; i++, dy += step, x += step, y += step) {
        EACH for (ptrdiff_t j = 0; j < width; j++) {
            const T g = NAME(gate)(dy[j], x[j], mask, y[j], mean[j], scale[j], shift[j]);
            a[j] += g;
            b[j] += g * (x[j] - mean[j]);
            if (store) masked[j] = g;
        }
        if (store) masked += step;
    }
    for (ptrdiff_t j = 0; j < width; j++) {
        first[j] += a[j];
        second[j] += b[j];
    }
}

static void NAME(grad_sums)(const fastcnn_rows *r, const T *dy, const T *x, int mask, const T *output, const T *mean,
                            const T *scale, const T *shift, T *masked, double *first, double *second) {
#define CASE(kind)                                                                                                    \
    if (mask == kind && masked)                                                                                       \
        NAME(grad_sums_of)(r, dy, x, kind, output, mean, scale, shift, masked, 1, first, second);                     \
    else if (mask == kind) NAME(grad_sums_of)(r, dy, x, kind, output, mean, scale, shift, NULL, 0, first, second)
    CASE(FASTCNN_MASK_NONE);
    else CASE(FASTCNN_MASK_OUTPUT);
    else CASE(FASTCNN_MASK_AGAIN);
#undef CASE
}

/* --- what is written ---------------------------------------------------------------------------------------------- */

/* LANES columns of all rows; their mean, scale and shift stay in registers. */
INLINE void NAME(normalize_lanes)(const fastcnn_rows *r, const T *x, const T *residual, const int add, const T *mean,
                                  const T *scale, const T *shift, const int relu, T *y) {
    typedef T vec __attribute__((vector_size(LANES * sizeof(T)), aligned(sizeof(T)), may_alias));
    typedef BITS bits __attribute__((vector_size(LANES * sizeof(T))));
    const vec m = *(const vec *)mean, s = *(const vec *)scale, b = *(const vec *)shift;
    for (ptrdiff_t i = 0; i < r->rows; i++) {
        vec value = (*(const vec *)(x + i * r->stride) - m) * s + b;
        if (add) value = value + *(const vec *)(residual + i * r->stride);
        if (relu) value = (vec)((bits)value & ~(bits)(value <= 0));
        *(vec *)(y + i * r->stride) = value;
    }
}

INLINE void NAME(normalize_of)(const fastcnn_rows *r, const T *x, const T *residual, const int add, const T *mean,
                               const T *scale, const T *shift, const int relu, T *y) {
    if (r->width <= 4 * LANES && r->width % LANES == 0) { /* rows so short that each is mostly the set-up of its loop */
        for (ptrdiff_t j = 0; j < r->width; j += LANES)
            NAME(normalize_lanes)(r, x + j, add ? residual + j : residual, add, mean + j, scale + j, shift + j, relu,
                                  y + j);
        return;
    }
    for (ptrdiff_t i = 0; i < r->rows; i++, x += r->stride, y += r->stride) {
        EACH for (ptrdiff_t j = 0; j < r->width; j++) {
            T value = (x[j] - mean[j]) * scale[j] + shift[j];
            if (add) value = value + residual[j];
            y[j] = relu && value <= 0 ? 0 : value;
        }
        if (add) residual += r->stride;
    }
}

static void NAME(normalize)(const fastcnn_rows *r, const T *x, const T *residual, const T *mean, const T *scale,
                            const T *shift, int relu, T *y) {
    if (residual && relu) NAME(normalize_of)(r, x, residual, 1, mean, scale, shift, 1, y);
    else if (residual) NAME(normalize_of)(r, x, residual, 1, mean, scale, shift, 0, y);
    else if (relu) NAME(normalize_of)(r, x, NULL, 0, mean, scale, shift, 1, y);
    else NAME(normalize_of)(r, x, NULL, 0, mean, scale, shift, 0, y);
}

INLINE void NAME(grad_of)(const fastcnn_rows *r, const T *dy, const T *x, const int mask, const T *y, const T *mean,
                          const T *scale, const T *shift, const T *grad_mean, const T *slope, const int batch,
                          const T *grad_scale, T *dx) {
    if (mask != FASTCNN_MASK_OUTPUT) y = x;
    if (mask != FASTCNN_MASK_AGAIN) scale = shift = mean;
    for (ptrdiff_t i = 0; i < r->rows; i++) {
        EACH for (ptrdiff_t j = 0; j < r->width; j++) {
            T g = NAME(gate)(dy[j], x[j], mask, y[j], mean[j], scale[j], shift[j]);
            if (batch) g = (g - grad_mean[j]) - (x[j] - mean[j]) * slope[j];
            dx[j] = g * grad_scale[j];
        }
        dy += r->stride;
        x += r->stride;
        y += r->stride;
        dx += r->stride;
    }
}

static void NAME(grad)(const fastcnn_rows *r, const T *dy, const T *x, int mask, const T *output, const T *mean,
                       const T *scale, const T *shift, const T *grad_mean, const T *slope, const T *grad_scale, T *dx) {
#define CASE(kind)                                                                                                    \
    if (mask == kind && slope)                                                                                        \
        NAME(grad_of)(r, dy, x, kind, output, mean, scale, shift, grad_mean, slope, 1, grad_scale, dx);               \
    else if (mask == kind)                                                                                            \
        NAME(grad_of)(r, dy, x, kind, output, mean, scale, shift, grad_mean, mean, 0, grad_scale, dx)
    CASE(FASTCNN_MASK_NONE);
    else CASE(FASTCNN_MASK_OUTPUT);
    else CASE(FASTCNN_MASK_AGAIN);
#undef CASE
}

#undef T
#undef BITS
#undef LANES
#undef SUFFIX
