from cython cimport floating

cdef Py_ssize_t linear_scratch(Py_ssize_t n, Py_ssize_t features, Py_ssize_t outputs, int threads,
                               Py_ssize_t itemsize) noexcept nogil
cdef void linear_forward_ptr(const floating* input, const floating* weight, const floating* bias, floating* output,
                             Py_ssize_t n, Py_ssize_t features, Py_ssize_t outputs, void* scratch,
                             int threads) noexcept nogil
cdef void linear_backward_data_ptr(const floating* grad_output, const floating* weight, floating* grad_input,
                                   Py_ssize_t n, Py_ssize_t features, Py_ssize_t outputs, void* scratch,
                                   int threads) noexcept nogil
cdef void linear_backward_weight_ptr(const floating* grad_output, const floating* input, floating* grad_weight,
                                     floating* grad_bias, Py_ssize_t n, Py_ssize_t features, Py_ssize_t outputs,
                                     void* scratch, int threads) noexcept nogil
