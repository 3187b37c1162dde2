from cython cimport floating

cdef Py_ssize_t batch_norm_blocks(Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last) noexcept nogil
cdef void batch_statistics_ptr(const floating* input, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last,
                               floating* centre, double* partials, double* mean, double* var) noexcept nogil
cdef void normalize_ptr(const floating* input, const double* mean, const double* scale, const double* shift,
                        floating* output, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane,
                        bint channels_last) noexcept nogil
cdef void batch_norm_sums_ptr(const floating* grad_output, const floating* input, const floating* mean, Py_ssize_t n,
                              Py_ssize_t c, Py_ssize_t plane, bint channels_last, double* partials, double* grad_sum,
                              double* product_sum) noexcept nogil
cdef void normalize_backward_ptr(const floating* grad_output, const floating* input, const floating* mean,
                                 const double* grad_mean, const double* slope, const double* scale,
                                 floating* grad_input, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane,
                                 bint channels_last) noexcept nogil
