from cython cimport floating

from .geometry cimport Window

# A convolution (g) and a max-pool (pool: windows of its output), whose taps have one byte or four.
cdef Py_ssize_t conv_pool_scratch(const Window* g, Py_ssize_t outputs, Py_ssize_t groups, int threads,
                                  Py_ssize_t itemsize) noexcept nogil
cdef void conv_pool_ptr(const floating* input, const floating* weight, const floating* bias, floating* output,
                        void* taps, Py_ssize_t tap_bytes, bint relu, const Window* g, const Window* pool,
                        Py_ssize_t groups, void* scratch, int threads) noexcept nogil
cdef Py_ssize_t conv_pool_backward_scratch(const Window* g, const Window* pool, Py_ssize_t groups,
                                           Py_ssize_t part_bytes, int threads, Py_ssize_t itemsize) noexcept nogil
cdef void conv_pool_backward_ptr(const floating* grad_output, const void* taps, Py_ssize_t tap_bytes,
                                 const floating* input, const floating* weight, floating* grad_input,
                                 floating* grad_weight, floating* grad_bias, const Window* g, const Window* pool,
                                 Py_ssize_t groups, Py_ssize_t part_bytes, void* scratch, int threads) noexcept nogil
