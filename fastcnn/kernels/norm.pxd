from cython cimport floating


cdef struct After:
    # What batch_norm_apply_ptr makes of a convolution's output, made in place of each part while that is in the cache;
    # or of its input, in a copy of each part, where residual and output are NULL.
    const void* mean            # NULL: nothing is
    const void* scale
    const void* shift
    const void* residual        # lies as the output does; NULL for none
    const void* output          # its start
    bint relu


cdef void after_places(const After* after, floating* places, Py_ssize_t channel, Py_ssize_t count, Py_ssize_t pixel,
                       Py_ssize_t channels) noexcept nogil
cdef Py_ssize_t batch_norm_blocks(Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last) noexcept nogil
cdef void batch_statistics_ptr(const floating* input, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last,
                               double* partials, double* mean, double* var) noexcept nogil
cdef void batch_norm_part_ptr(const floating* input, const floating* grad_output, int mask, const floating* output,
                              const floating* mean, const floating* scale, const floating* shift, Py_ssize_t image,
                              Py_ssize_t end, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last,
                              double* partials) noexcept nogil
cdef void batch_norm_seam_ptr(const floating* input, const floating* grad_output, int mask, const floating* output,
                              const floating* mean, const floating* scale, const floating* shift, Py_ssize_t image,
                              Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last,
                              double* partials) noexcept nogil
cdef void batch_norm_merge_ptr(const double* partials, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane,
                               bint channels_last, double* mean, double* var) noexcept nogil
cdef void batch_norm_total_ptr(const double* partials, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane,
                               bint channels_last, double* first, double* second) noexcept nogil
cdef void batch_norm_factors_ptr(const double* mean, const double* var, const floating* weight, const floating* bias,
                                 double eps, Py_ssize_t c, floating* factors) noexcept nogil
cdef Py_ssize_t batch_norm_overflow_ptr(const double* statistics, Py_ssize_t count, double momentum, Py_ssize_t c,
                                        const floating* running_var) noexcept nogil
cdef void move_running_ptr(const double* batch, double factor, double momentum, Py_ssize_t c,
                           floating* running) noexcept nogil
cdef void batch_norm_apply_ptr(const floating* input, const floating* residual, const floating* mean,
                               const floating* scale, const floating* shift, bint relu, floating* output, Py_ssize_t n,
                               Py_ssize_t c, Py_ssize_t plane, bint channels_last) noexcept nogil
cdef void batch_norm_sums_ptr(const floating* grad_output, const floating* input, int mask, const floating* output,
                              const floating* mean, const floating* scale, const floating* shift, floating* masked,
                              Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last, double* partials,
                              double* grad_sum, double* product_sum) noexcept nogil
cdef void batch_norm_slopes_ptr(const double* grad_sum, const double* product_sum, const floating* weight,
                                const floating* invstd, Py_ssize_t count, Py_ssize_t c, floating* grads,
                                floating* slopes) noexcept nogil
cdef void batch_norm_grad_ptr(const floating* grad_output, const floating* input, int mask, const floating* output,
                              const floating* mean, const floating* scale, const floating* shift,
                              const floating* grad_mean, const floating* slope, const floating* grad_scale,
                              floating* grad_input, bint together, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane,
                              bint channels_last) noexcept nogil
