from cython cimport floating
from libc.stdint cimport int64_t

cdef void softmax_ptr(const floating* input, floating* output, Py_ssize_t rows, Py_ssize_t columns,
                      bint logarithm) noexcept nogil
cdef void softmax_backward_ptr(const floating* grad_output, const floating* output, floating* grad_input,
                               Py_ssize_t rows, Py_ssize_t columns, bint logarithm) noexcept nogil
cdef void cross_entropy_ptr(const floating* input, const int64_t* target, const floating* weight, int64_t ignore_index,
                            double smoothing, double factor, double* losses, floating* grad_input, Py_ssize_t rows,
                            Py_ssize_t columns) noexcept nogil
cdef Py_ssize_t mse_blocks(Py_ssize_t size) noexcept nogil
cdef void mse_loss_ptr(const floating* input, const floating* target, double factor, double* partials,
                       floating* losses, floating* grad_input, Py_ssize_t size) noexcept nogil
