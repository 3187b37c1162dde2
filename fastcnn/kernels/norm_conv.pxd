from cython cimport floating

from .geometry cimport Window

# A convolution (g) of what batch norm of known factors, and perhaps ReLU, makes of its input, with the statistics of
# its output; and its gradients, with the sums for batch norm's. A part has about part_bytes of what is between.
cdef Py_ssize_t norm_conv_scratch(const Window* g, Py_ssize_t outputs, Py_ssize_t groups, Py_ssize_t part_bytes,
                                  bint statistics, int threads, Py_ssize_t itemsize) noexcept nogil
cdef Py_ssize_t norm_conv_backward_scratch(const Window* g, Py_ssize_t outputs, Py_ssize_t groups,
                                           Py_ssize_t part_bytes, bint sums, int threads,
                                           Py_ssize_t itemsize) noexcept nogil
cdef void norm_conv_ptr(const floating* input, const floating* mean, const floating* scale, const floating* shift,
                        bint relu, const floating* weight, const floating* bias, floating* output, double* statistics,
                        const Window* g, Py_ssize_t outputs, Py_ssize_t groups, Py_ssize_t part_bytes, void* scratch,
                        int threads) noexcept nogil
cdef void norm_conv_backward_ptr(const floating* grad_output, const floating* input, const floating* mean,
                                 const floating* scale, const floating* shift, bint relu, const floating* weight,
                                 floating* grad_input, floating* grad_weight, floating* grad_bias, double* sums,
                                 const Window* g, Py_ssize_t outputs, Py_ssize_t groups, Py_ssize_t part_bytes,
                                 void* scratch, int threads) noexcept nogil
