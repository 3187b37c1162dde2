/* The transposition of a matrix, in blocks of four by four where elements are float. Nothing is written past the last
   column, as `transpose` of dots.h does, which fills whole registers. */
#ifndef FASTCNN_TRANSPOSE_H
#define FASTCNN_TRANSPOSE_H

#include <stddef.h>
#include <stdint.h>

typedef float fastcnn_four __attribute__((vector_size(16), aligned(4), may_alias));

#ifdef __clang__
#define FASTCNN_PAIR(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t fastcnn_four_places __attribute__((vector_size(16)));
#define FASTCNN_PAIR(a, b, ...) __builtin_shuffle(a, b, (fastcnn_four_places){__VA_ARGS__})
#endif

/* to[j*to_step + i] = from[i*from_step + j]. The last blocks are done again with some of those before. */
static inline void fastcnn_transpose_f32(const float *from, ptrdiff_t from_step, float *to, ptrdiff_t to_step,
                                         ptrdiff_t rows, ptrdiff_t columns) {
    if (rows < 4 || columns < 4) {
        for (ptrdiff_t i = 0; i < rows; i++)
            for (ptrdiff_t j = 0; j < columns; j++) to[j * to_step + i] = from[i * from_step + j];
        return;
    }
    for (ptrdiff_t row = 0; row < rows; row += 4) {
        const ptrdiff_t i = row < rows - 4 ? row : rows - 4;
        for (ptrdiff_t column = 0; column < columns; column += 4) {
            const ptrdiff_t j = column < columns - 4 ? column : columns - 4;
            const float *p = from + i * from_step + j;
            float *q = to + j * to_step + i;
            const fastcnn_four a = *(const fastcnn_four *)p, b = *(const fastcnn_four *)(p + from_step);
            const fastcnn_four c = *(const fastcnn_four *)(p + 2 * from_step);
            const fastcnn_four d = *(const fastcnn_four *)(p + 3 * from_step);
            const fastcnn_four ab = FASTCNN_PAIR(a, b, 0, 4, 1, 5), ab2 = FASTCNN_PAIR(a, b, 2, 6, 3, 7);
            const fastcnn_four cd = FASTCNN_PAIR(c, d, 0, 4, 1, 5), cd2 = FASTCNN_PAIR(c, d, 2, 6, 3, 7);
            *(fastcnn_four *)q = FASTCNN_PAIR(ab, cd, 0, 1, 4, 5);
            *(fastcnn_four *)(q + to_step) = FASTCNN_PAIR(ab, cd, 2, 3, 6, 7);
            *(fastcnn_four *)(q + 2 * to_step) = FASTCNN_PAIR(ab2, cd2, 0, 1, 4, 5);
            *(fastcnn_four *)(q + 3 * to_step) = FASTCNN_PAIR(ab2, cd2, 2, 3, 6, 7);
        }
    }
}

static inline void fastcnn_transpose_f64(const double *from, ptrdiff_t from_step, double *to, ptrdiff_t to_step,
                                         ptrdiff_t rows, ptrdiff_t columns) {
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < columns; j++) to[j * to_step + i] = from[i * from_step + j];
}

#endif
