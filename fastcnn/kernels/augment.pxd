from cython cimport floating

ctypedef fused pixel:
    unsigned char
    float
    double

cdef struct Images:
    # Of one batch: n images of shape (c, h, w), and the source's distance in elements from one image, channel, row and
    # column to the next.
    Py_ssize_t n, c, h, w, image_step, channel_step, row_step, column_step

cdef void image_batch_ptr(const pixel* images, const Py_ssize_t* indices, const Py_ssize_t* shift,
                          const unsigned char* flip, const Py_ssize_t* cutout, const floating* gain,
                          const floating* offset, floating* output, const Images* g) noexcept nogil
