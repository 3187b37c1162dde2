from cython cimport floating

from .jobs cimport Job

# Another way to the gradient of a convolution's input, where that has few channels. The job is the forward pass's.
cdef bint spread_fits(const Job* job, Py_ssize_t itemsize) noexcept nogil
cdef Py_ssize_t spread_scratch(const Job* job, int threads, Py_ssize_t itemsize) noexcept nogil
cdef void spread_data(const Job* job, const floating* grad_output, const floating* weight, floating* grad_input,
                      char* scratch, int threads) noexcept nogil
