from cython cimport floating

cdef void sgd_update_ptr(floating* param, const floating* grad, floating* buffer, Py_ssize_t size, double lr,
                         double momentum, double dampening, double weight_decay, bint nesterov,
                         bint first_step) noexcept nogil
cdef void adam_update_ptr(floating* param, const floating* grad, floating* exp_avg, floating* exp_avg_sq,
                          Py_ssize_t size, double step_size, double correction, double beta1, double beta2, double eps,
                          double weight_decay, double shrink) noexcept nogil
cdef Py_ssize_t norm_blocks(Py_ssize_t size) noexcept nogil
cdef void sums_of_squares_ptr(const floating* values, double* partials, Py_ssize_t size) noexcept nogil
cdef void scale_ptr(floating* values, double factor, Py_ssize_t size) noexcept nogil
