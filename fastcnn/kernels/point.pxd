from cython cimport floating

from .jobs cimport Job

# Another way to the gradient of a convolution's weights, where every place reads its own pixel. The job is the forward
# pass's.
cdef bint point_fits(const Job* job, Py_ssize_t itemsize) noexcept nogil
cdef Py_ssize_t point_scratch(const Job* job, int threads, Py_ssize_t itemsize) noexcept nogil
cdef void point_weight_grad(const Job* job, const floating* grad_output, const floating* source, floating* grad_weight,
                            floating* grad_bias, char* scratch, int threads) noexcept nogil
