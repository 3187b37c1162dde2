from cython cimport floating
from libc.stdint cimport uint8_t, uint64_t

cpdef enum Activation:
    RELU
    LEAKY_RELU
    SIGMOID
    TANH
    GELU
    GELU_TANH
    SILU

cdef void activation_ptr(Activation kind, const floating* input, floating* output, Py_ssize_t size,
                         floating slope) noexcept nogil
cdef void activation_backward_ptr(Activation kind, const floating* grad_output, const floating* saved,
                                  floating* grad_input, Py_ssize_t size, floating slope) noexcept nogil
cdef void add_ptr(const floating* input, const floating* other, floating* output, Py_ssize_t size) noexcept nogil
cdef void dropout_ptr(const floating* input, floating* output, uint8_t* mask, Py_ssize_t n, Py_ssize_t c,
                      Py_ssize_t plane, bint channels_last, uint64_t seed, uint64_t threshold,
                      floating scale) noexcept nogil
cdef void dropout_backward_ptr(const floating* grad_output, const uint8_t* mask, floating* grad_input, Py_ssize_t size,
                               floating scale) noexcept nogil
