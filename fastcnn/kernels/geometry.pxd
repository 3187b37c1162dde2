cdef extern from "fastcnn/geometry.h" nogil:
    ctypedef struct Window "fastcnn_window":
        Py_ssize_t n, c, h, w
        Py_ssize_t oh, ow
        Py_ssize_t kh, kw
        Py_ssize_t sh, sw
        Py_ssize_t ph, pw
        Py_ssize_t dh, dw
        int channels_last
        int algorithm

    enum:
        FASTCNN_DEFAULT, FASTCNN_AUTO, FASTCNN_DIRECT

    double MOST_ELEMENTS "FASTCNN_MOST_ELEMENTS"

    # What is wrong with arguments of the kernels, or NULL: see the header.
    const char* check_conv "fastcnn_check_conv"(const Window* g, Py_ssize_t outputs, Py_ssize_t groups)
    const char* check_pool "fastcnn_check_pool"(const Window* g, int tag_bytes)
    const char* check_im2col "fastcnn_check_im2col"(const Window* g)
    const char* check_adaptive "fastcnn_check_adaptive"(const Window* g)


cdef inline Py_ssize_t first_inside(Py_ssize_t start, Py_ssize_t step) noexcept nogil:
    """Least k >= 0 with start + k*step >= 0."""
    return 0 if start >= 0 else (-start + step - 1) // step


cdef inline Py_ssize_t end_inside(Py_ssize_t start, Py_ssize_t step, Py_ssize_t count, Py_ssize_t size) noexcept nogil:
    """One past the last k < count with start + k*step < size, and at least 0."""
    cdef Py_ssize_t end = (size - start + step - 1) // step if size > start else 0
    return min(end, count)
