/* fastcnn's kernels for C and C++: one table of functions, which any extension module can import.

       #include <Python.h>
       #include <fastcnn/kernels.h>

       const fastcnn_kernels *kernels = fastcnn_import();     // with the GIL, once; NULL with ImportError set

   The functions need neither the GIL nor Python, may be called from many threads at once, trust their arguments and
   allocate nothing: call the check_* function first where sizes come from elsewhere (a stride of 0 divides by zero).
   `threads` is the most threads that a call may use: give 1 inside a parallel region of your own, else max_threads().
   Below 1 it counts as 1, above 4096 as 4096.

   Compile with -I$(python -c "import fastcnn; print(fastcnn.get_include())"); nothing is linked. */
#ifndef FASTCNN_KERNELS_H
#define FASTCNN_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "geometry.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Changes when a function of the table, or a struct that it takes, changes. New ones are added at the end, and then only `size` grows. */
#define FASTCNN_ABI 2

/* The three products of a convolution. */
typedef enum { FASTCNN_FORWARD, FASTCNN_BACKWARD_DATA, FASTCNN_BACKWARD_WEIGHT } fastcnn_pass;

/* The functions of one float type. Arrays of the input's size are (n, c, h, w), of the output's (n, c, oh, ow), after a
   convolution (n, outputs, oh, ow), in the order that g->channels_last names. Results are overwritten.

   conv_*: weight and grad_weight are (outputs, c/groups, kh, kw), C-contiguous; bias and grad_bias (outputs) or NULL;
       scratch has the bytes that conv_scratch returns for the pass and `threads`, at any alignment.
   im2col, col2im: columns is (n, c*kh*kw, oh*ow), C-contiguous.
   max_pool: tags, of the output's shape, is what its backward pass needs, by tag_bytes: 1 (uint8) or 4 (int32) for the
       winner's tap i*kw + j in its window, 8 (int64) for its index row*w + column in the plane, 0 for none (tags is then
       not read). A byte holds the taps of windows up to 256. The first of equal elements wins, and NaN is the largest.
   max_pool_taps_backward: for tags of 1 or 4 bytes. max_pool_backward: for indices; how many of them lie outside the
       plane is returned, and those are passed over.
   avg_pool: divisor_override 0 for none; dilation is not read. adaptive_avg_pool: only sizes and order are read of g. */
#define FASTCNN_KERNELS_OF(T, type)                                                                                    \
    void (*conv_forward_##type)(const T *input, const T *weight, const T *bias, T *output, const fastcnn_window *g,    \
                                ptrdiff_t outputs, ptrdiff_t groups, void *scratch, int threads);                      \
    void (*conv_backward_data_##type)(const T *grad_output, const T *weight, T *grad_input, const fastcnn_window *g,   \
                                      ptrdiff_t outputs, ptrdiff_t groups, void *scratch, int threads);                \
    void (*conv_backward_weight_##type)(const T *grad_output, const T *input, T *grad_weight, T *grad_bias,            \
                                        const fastcnn_window *g, ptrdiff_t outputs, ptrdiff_t groups, void *scratch,   \
                                        int threads);                                                                  \
    void (*im2col_##type)(const T *input, T *columns, const fastcnn_window *g, int threads);                           \
    void (*col2im_##type)(const T *columns, T *output, const fastcnn_window *g, int threads);                          \
    void (*max_pool_##type)(const T *input, T *output, void *tags, int tag_bytes, const fastcnn_window *g,             \
                            int threads);                                                                              \
    void (*max_pool_taps_backward_##type)(const T *grad_output, const void *taps, int tag_bytes, T *grad_input,        \
                                          const fastcnn_window *g, int threads);                                       \
    ptrdiff_t (*max_pool_backward_##type)(const T *grad_output, const int64_t *indices, T *grad_input,                 \
                                          const fastcnn_window *g, int threads);                                       \
    void (*avg_pool_##type)(const T *input, T *output, const fastcnn_window *g, int count_include_pad,                 \
                            ptrdiff_t divisor_override, int threads);                                                  \
    void (*avg_pool_backward_##type)(const T *grad_output, T *grad_input, const fastcnn_window *g,                     \
                                     int count_include_pad, ptrdiff_t divisor_override, int threads);                  \
    void (*adaptive_avg_pool_##type)(const T *input, T *output, const fastcnn_window *g, int threads);                 \
    void (*adaptive_avg_pool_backward_##type)(const T *grad_output, T *grad_input, const fastcnn_window *g,            \
                                              int threads)

typedef struct {
    int abi;     /* FASTCNN_ABI of the library */
    size_t size; /* bytes of its table */
    int (*max_threads)(void);
    /* Bytes of scratch that a convolution's pass needs with `threads` threads, for elements of `itemsize` bytes (4 or
       8); -1 where check_conv objects. */
    ptrdiff_t (*conv_scratch)(fastcnn_pass pass, const fastcnn_window *g, ptrdiff_t outputs, ptrdiff_t groups,
                              int threads, ptrdiff_t itemsize);
    FASTCNN_KERNELS_OF(float, f32);
    FASTCNN_KERNELS_OF(double, f64);
    /* What is wrong with the arguments of conv_*, max_pool_* and avg_pool_*, im2col_* and col2im_*, adaptive_*: NULL for
       nothing, else a string that is never freed (geometry.h). tag_bytes is that of a max-pool, 0 for an average. */
    const char *(*check_conv)(const fastcnn_window *g, ptrdiff_t outputs, ptrdiff_t groups);
    const char *(*check_pool)(const fastcnn_window *g, int tag_bytes);
    const char *(*check_im2col)(const fastcnn_window *g);
    const char *(*check_adaptive)(const fastcnn_window *g);
} fastcnn_kernels;

#define FASTCNN_CAPSULE "fastcnn.kernels.table.capsule"

#ifdef Py_PYTHON_H
static inline const fastcnn_kernels *fastcnn_import(void) {
    const fastcnn_kernels *table = NULL;
    PyObject *module = PyImport_ImportModule("fastcnn.kernels.table");
    PyObject *capsule = module ? PyObject_GetAttrString(module, "capsule") : NULL;
    if (capsule) table = (const fastcnn_kernels *)PyCapsule_GetPointer(capsule, FASTCNN_CAPSULE);
    if (table && (table->abi != FASTCNN_ABI || table->size < sizeof(fastcnn_kernels))) {
        PyErr_SetString(PyExc_ImportError, "fastcnn: another version is installed than the one compiled against");
        table = NULL;
    }
    Py_XDECREF(capsule); /* the module keeps it, and the table is never freed */
    Py_XDECREF(module);
    return table;
}
#endif

#ifdef __cplusplus
}
#endif

#endif
