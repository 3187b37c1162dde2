/* The matrix unit: what fastcnn/kernels/matrix.pyx asks of it. amx.c tells how it is done. */
#ifndef FASTCNN_AMX_H
#define FASTCNN_AMX_H

#include <stddef.h>
#include <stdint.h>

/* How a product walks its operands, in bytes: `outer` times `inner` steps, each of 32 terms of the sum. An operand's
   tile is 1 KB: 16 rows of 64 bytes, one after the other, aligned to 64. */
typedef struct {
    ptrdiff_t outer, inner;
    const ptrdiff_t *a_offset;                     /* inner step -> offset in a; NULL for step * a_inner */
    ptrdiff_t a_inner, a_outer, a_tile, a_plane;   /* from one step, tile of rows, plane to the next */
    ptrdiff_t b_inner, b_outer, b_tile, b_plane;   /* the same of b, whose tiles are columns of the result */
} fastcnn_steps;

typedef struct fastcnn_matrix {
    ptrdiff_t least; /* channels and outputs from which on it is faster than the FMA tiles */

    /* Around the products of one thread: tiles configured, and then as the thread had them, `kept` holding 64 bytes. */
    void (*begin)(void *kept);
    void (*end)(const void *kept);

    /* c[32][32] = (or, with `add`, +=) sum over the steps of a' b, for m and n <= 2 tiles of 16 rows and columns, with
       the 1, 3 or 6 products that `planes` 1, 2, 3 stand for. c is aligned to 64 bytes. */
    void (*product)(int planes, int m, int n, const fastcnn_steps *steps, const char *a, const char *b, float *c, int add);

    /* Splits `rows` pairs of rows of 16 floats into bf16 planes: pair i is x + i*pitch and the same `apart` floats
       further. A plane's row i is 64 bytes: 16 pairs of (first, second). Returns the largest |x| as bits. */
    uint32_t (*split)(int planes, ptrdiff_t rows, const float *x, ptrdiff_t pitch, ptrdiff_t apart, char *out,
                      ptrdiff_t plane);
    /* The same, with each 16 rows of a plane transposed: `rows` is a multiple of 16. */
    uint32_t (*split_transposed)(int planes, ptrdiff_t rows, const float *x, ptrdiff_t pitch, ptrdiff_t apart, char *out,
                                 ptrdiff_t plane);

    /* out[k][16] = x[r*pitch + k] for r < rows <= 16 and k < n, zero for other r. */
    void (*transpose)(ptrdiff_t rows, ptrdiff_t n, const float *x, ptrdiff_t pitch, float *out);
    /* out[r*pitch + o] = tile[r*32 + o] + init[o] for r < m, o < n <= 32. */
    void (*store)(ptrdiff_t m, ptrdiff_t n, const float *tile, const float *init, float *out, ptrdiff_t pitch);
} fastcnn_matrix;

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && (defined(__clang__) || __GNUC__ >= 12)
#define FASTCNN_AMX 1
extern const fastcnn_matrix fastcnn_matrix_amx;
/* Whether the CPU has the bf16 matrix unit, and the operating system its state; ask for the permission to use it. */
int fastcnn_has_amx(void);
int fastcnn_allow_amx(void);
#ifdef FASTCNN_AMX_MODEL
extern const fastcnn_matrix fastcnn_matrix_model;
#endif
#endif

#endif
